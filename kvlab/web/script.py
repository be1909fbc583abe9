"""The script that Streamlit runs for every session and rerun."""

from kvlab.web import shell

shell.run()
