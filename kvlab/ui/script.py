"""The script that Streamlit runs for every session and rerun."""

from kvlab.ui import shell

shell.run()
