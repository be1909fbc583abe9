"""The script that Streamlit runs on every rerun: the shell that all pages share."""

import streamlit as st

from kvlab import PACKAGE
from kvlab.web import language, places, progress, server, walk
from kvlab.web.alignment import form
from kvlab.web.certificate import form as certificate_form
from kvlab.web.function import form as function_form
from kvlab.web.training import form as validation_form


def run() -> None:
    st.set_page_config(page_title="kvlab", page_icon=ICON, layout="wide")
    st.html(STYLE)
    language.begin()
    # Streamlit forgets the value of a widget that a rerun does not draw.
    for key, value in _fields().items():
        language.keep_choice(key, value)
    page = st.navigation(places.all_pages(), position="top")
    walk.lead()
    language.switch()
    progress.allocation()
    progress.banner(page.url_path)
    page.run()
    left, right = st.columns([6, 1], vertical_alignment="center")
    left.caption(server.note())
    with right:
        walk.again()
    walk.card()
    language.keep_in_address()


def _fields() -> dict[str, object]:
    return {**form.FIELDS, **function_form.FIELDS, **certificate_form.FIELDS, **validation_form.start()}


# A browser would fetch an emoji or a Material icon from the internet.
ICON = str(PACKAGE / "web" / "icon.png")

STYLE = """<style>
.block-container { padding-top: 3.9rem; padding-bottom: 1.5rem; max-width: 1240px; }
h1 { font-size: 1.7rem !important; padding: 0 0 .3rem 0 !important; }
h3 { font-size: 1.15rem !important; padding-bottom: .2rem !important; }
/* On the bright blue of the dark theme, white would be hard to read. */
button[kind^="primary"], [data-testid="stMultiSelect"] span[title] { color: light-dark(#fff, #06222f); }
/* Along the lower edge, under what it tells of; the page ends above it. */
.st-key-walk { position: fixed; inset: auto 0 0 0; width: auto; padding: .5rem max(1rem, calc(50vw - 575px));
  z-index: 999980; background: light-dark(#fff, #1a1c24); box-shadow: 0 -2px 12px rgb(0 0 0 / 20%); }
.st-key-walk > [data-testid="stElementContainer"] { flex: 1 1 18rem; width: auto !important; }
[data-testid="stApp"]:has(.st-key-walk) .block-container { padding-bottom: 7rem; }
/* In the header, beside the navigation. */
.st-key-language-switch { position: fixed; top: .65rem; right: 4.2rem; width: auto; z-index: 999991; }
/* Beside its paler text the green of code would be hard to read. */
[data-testid="stCaptionContainer"] code { color: inherit; }
/* What ends or deletes something is not blue like what launches. */
[class*="-question"] button[kind="primary"] { background: #b3261e; border-color: #b3261e; color: #fff; }
/* Words of a figure: Streamlit's grey has a contrast of 3.7 on white. Those in cells and bars keep their own. */
.js-plotly-plot .infolayer text, .js-plotly-plot [class*="axislayer"] text {
  fill: light-dark(#4a4c57, #c4c6cf) !important; }
/* On a phone tokens would lie over each other, and a remark have one word a line: scroll sideways instead. */
@media (max-width: 640px) {
  [class*="st-key-wide-"] { overflow-x: auto; }
  [class*="st-key-wide-"] > div { min-width: 46rem; }
}
/* The verdict of an answer, before its reason. */
.st-key-answer strong { font-size: 1.5rem; line-height: 1.2; padding-right: .3rem; }
.st-key-live-numbers [data-testid="stMetricValue"] { font-size: 1.3rem; padding: 0; }
</style>"""

run()
