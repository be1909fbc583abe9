"""Who may use the web app: a token for HTTP and WebSocket alike, and checks of host and origin. No Streamlit here."""
