"""The Function page: choose or launch a functional test, watch it, read it."""

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.results.function import data as results
from kvlab.web import backend, files, picker
from kvlab.web.function import form, heads, source, texts, verdict
from kvlab.web.widgets import plain, show_error

KEYS = picker.Keys("function-run", "function-picker", "function-form-open", "function-form-toggle")
VIEWS = {
    "verdict": (phrase("Against its controls"), verdict.panel),
    "heads": (phrase("Heads and layers"), heads.panel),
    "texts": (phrase("Texts"), texts.panel),
    "numbers": (phrase("Numbers and settings"), verdict.numbers),
}


def page() -> None:
    st.title(say("Can the student use the teacher’s cache?"))
    views = source.tests()
    names, new = backend.labels(views), say("New test")
    run_id = picker.finished(KEYS, views, names, say("Functional test"), new, form.new_test)
    if run_id is None:
        return
    try:
        injection = source.injection_of(run_id)
    except KvlabError as error:
        show_error(error)
        return
    finding, buttons = st.columns([4, 1], vertical_alignment="top")
    finding.markdown(plain(results.sentence(injection)))
    with buttons:
        files.reports(injection, run_id, verdict.FILES, "files")
    if not injection.reproduces:
        return
    for note in injection.notes:
        st.caption(plain(note))
    VIEWS[picker.view(say("View"), VIEWS, "function-view", "view")][1](injection, run_id)
