"""The pages, for the navigation and for links between them."""

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from kvlab import PROJECT
from kvlab.language import say

PAGES = PROJECT / "pages"


def overview() -> StreamlitPage:
    return st.Page(PAGES / "overview.py", title=say("Overview"), icon=":material/home:", default=True)


def alignment() -> StreamlitPage:
    return st.Page(PAGES / "alignment.py", title=say("Alignment"), icon=":material/grid_on:", url_path="alignment")


def function() -> StreamlitPage:
    return st.Page(PAGES / "function.py", title=say("Function"), icon=":material/science:", url_path="function")


def certificate() -> StreamlitPage:
    return st.Page(
        PAGES / "certificate.py", title=say("Certificate"), icon=":material/verified:", url_path="certificate"
    )


def validation() -> StreamlitPage:
    return st.Page(
        PAGES / "validation.py", title=say("Validation"), icon=":material/model_training:", url_path="validation"
    )


def experiments() -> StreamlitPage:
    return st.Page(
        PAGES / "experiments.py", title=say("Experiments"), icon=":material/compare:", url_path="experiments"
    )


def runs() -> StreamlitPage:
    return st.Page(PAGES / "runs.py", title=say("Runs"), icon=":material/history:", url_path="runs")


def checks() -> StreamlitPage:
    return st.Page(PAGES / "checks.py", title=say("Checks"), icon=":material/checklist:", url_path="checks")


def all_pages() -> list[StreamlitPage]:
    return [overview(), alignment(), function(), certificate(), validation(), experiments(), runs(), checks()]
