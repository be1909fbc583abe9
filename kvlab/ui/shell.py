"""What every page shares: the navigation, the warm worker, and word of an analysis that is going on."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from kvlab.ui import backend, progress


def run() -> None:
    """Called on every rerun by app.py."""
    st.set_page_config(page_title="kvlab", page_icon=ICON, layout="wide")
    st.html(STYLE)
    backend.worker()
    page = st.navigation(pages(), position="top")
    progress.banner(on_alignment_page=page.url_path == "alignment")
    page.run()
    st.caption(
        "kvlab runs on this machine and sends nothing anywhere. There is no access token: every account on this "
        "machine can open this address."
    )


def pages() -> list:
    return [overview_page(), alignment_page(), checks_page()]


def overview_page():
    return st.Page("pages/overview.py", title="Overview", icon=":material/home:", default=True)


def alignment_page():
    return st.Page("pages/alignment.py", title="Alignment", icon=":material/grid_on:", url_path="alignment")


def checks_page():
    return st.Page("pages/checks.py", title="Checks", icon=":material/checklist:", url_path="checks")


# An emoji or a Material icon here would be fetched from the internet.
ICON = str(Path(__file__).parent / "icon.png")

STYLE = """<style>
.block-container { padding-top: 3.6rem; padding-bottom: 1.5rem; max-width: 1240px; }
h1 { font-size: 1.7rem !important; padding: 0 0 .3rem 0 !important; }
h3 { font-size: 1.15rem !important; padding-bottom: .2rem !important; }
</style>"""
