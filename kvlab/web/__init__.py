"""The only package besides pages/ and app.py that imports Streamlit."""
