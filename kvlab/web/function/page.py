"""The Function page: choose or launch a functional test, watch it, read it."""

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.results import answer
from kvlab.results.function import data as results
from kvlab.results.function.sentences import MEANING
from kvlab.web import backend, files, picker
from kvlab.web.function import form, heads, source, texts, verdict
from kvlab.web.widgets import answer_line, cautions, method, plain, show_error

KEYS = picker.Keys("function-run", "function-picker", "function-form-open", "function-form-toggle")
VIEWS = {
    "verdict": (phrase("Against its controls"), verdict.panel),
    "heads": (phrase("Heads and layers"), heads.panel),
    "texts": (phrase("Texts"), texts.panel),
    "numbers": (phrase("Numbers and settings"), verdict.numbers),
}


def page() -> None:
    views = source.tests()
    names, new = backend.labels(views), say("New test")
    run_id = picker.finished(say("Function"), KEYS, views, names, say("Functional test"), new, form.new_test)
    if run_id is None:
        return
    try:
        injection = source.injection_of(run_id)
    except KvlabError as error:
        show_error(error)
        return
    said, buttons = st.columns([4, 1], vertical_alignment="center")
    with said:
        answer_line(answer.of_test(injection))
    with buttons:
        files.reports(injection, run_id, verdict.FILES, "files")
    if not injection.reproduces:
        st.markdown(plain(results.sentence(injection)))
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        view = picker.view(say("View"), VIEWS, "function-view", "view")
        method(results.sentence(injection), say(MEANING))
        cautions(injection.notes)
    VIEWS[view][1](injection, run_id)
