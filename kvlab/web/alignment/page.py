"""The Alignment page: choose or launch an analysis, watch it, read it."""

from functools import partial

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, plural, say
from kvlab.results import answer
from kvlab.results.alignment import data
from kvlab.results.alignment.archive import archive
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.sentences import GAIN_MEANING, sentence
from kvlab.results.function.page import html_with_function
from kvlab.results.function.sentences import lead_sentence
from kvlab.web import backend, files, picker, places
from kvlab.web.alignment import compare, form, fusion, heads, layers, tables, timeline
from kvlab.web.function import source
from kvlab.web.widgets import answer_line, cautions, method, show_error

KEYS = picker.Keys("run", "run-picker", "form-open", "form-toggle")
VIEWS = {
    "heads": (phrase("Heads"), heads.panel),
    "layers": (phrase("Layers"), layers.panel),
    "timeline": (phrase("Timeline"), timeline.panel),
    "fusion": (phrase("Fusion"), fusion.panel),
    "compare": (phrase("Compare"), compare.panel),
    "numbers": (phrase("Numbers and settings"), tables.panel),
}


def page() -> None:
    views, older = backend.listed("analysis"), backend.not_listed()
    left_out = plural(
        older,
        "{n} older analysis is not listed here: open it from Runs.",
        "{n:,} older analyses are not listed here: open them from Runs.",
    )
    names, new, about = backend.labels(views), say("New analysis"), left_out if older else None
    run_id = picker.finished(say("Alignment"), KEYS, views, names, say("Analysis"), new, form.new_analysis, about)
    if run_id is None:
        return
    try:
        alignment, shown = picker.of_teacher(run_id, say("Teacher"), "teacher")
    except KvlabError as error:
        show_error(error)
        return
    _show(alignment, shown)


def _try_it(run_id: str) -> None:
    """Draw the link from an alignment to its functional test, or the button that launches one."""
    if run_id == backend.SAMPLE:
        place, words = places.function(), say("Its functional test")
        st.page_link(place, label=words, icon=":material/science:", query_params={"run": run_id}, width="stretch")
        return
    if st.button(
        say("Test in function"),
        key=f"try-{run_id}",
        icon=":material/science:",
        width="stretch",
        help=say("Whether the student can use this projected cache: with the same models, prompts and settings."),
    ):
        try:
            launched = source.launch_like(run_id)
        except KvlabError as error:
            show_error(error)
            return
        st.session_state["function-run"] = launched
        st.switch_page(places.function(), query_params={"run": launched})


def _show(alignment: Alignment, shown: str) -> None:
    test = source.of_analysis(shown)
    said, report, function = st.columns([7, 2, 2], vertical_alignment="center")
    with said:
        answer_line(answer.of_analysis(alignment, test))
    with report:
        kinds = {
            "report.html": (phrase("HTML, one file with figures"), "text/html", partial(_report, shown=shown)),
            "export.zip": (phrase("ZIP of CSV and JSON"), "application/zip", archive),
            data.CSV_NAME: (data.CSV_NAME, "text/csv", data.heads_csv),
            data.JSON_NAME: (data.JSON_NAME, "application/json", data.as_json),
        }
        files.reports(alignment, shown, kinds, "share")
    with function:
        _try_it(shown)
    views = {name: view for name, view in VIEWS.items() if name != "fusion" or alignment.fusion}
    with st.container(horizontal=True, vertical_alignment="center"):
        view = picker.view(say("View"), views, "view", "view", "compare" if compare.WITH in st.query_params else None)
        in_function = "" if test is None else lead_sentence(test)
        method(say(answer.RULES), in_function, sentence(alignment), say(GAIN_MEANING))
        cautions(alignment.notes)
    if view != "compare":
        compare.forget()
    VIEWS[view][1](alignment, shown)


def _report(alignment: Alignment, shown: str) -> str:
    """Write the report, with a section on the functional test of this analysis if there is one."""
    return html_with_function(alignment, None, source.of_analysis(shown))
