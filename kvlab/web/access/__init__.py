"""Access to the web app: a token for HTTP and WebSocket, and checks of host and origin. No Streamlit here."""
