"""The Certificate page: choose or make a certificate, watch it, read it, take it along."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.results.certificate import data, figures, words
from kvlab.results.certificate.data import Certificate
from kvlab.results.certificate.page import certificate_html
from kvlab.results.style import KIND_NAME
from kvlab.web import backend, files, picker
from kvlab.web.certificate import form, source
from kvlab.web.widgets import answer_line, cautions, grid, method, plain, show_error, table_height

KEYS = picker.Keys("certificate-run", "certificate-picker", "certificate-form-open", "certificate-form-toggle")
FILES = {  # file name ending -> label, MIME type, function of the result
    data.REPORT: (phrase("HTML, one file with figures"), "text/html", certificate_html),
    data.NAME: (data.NAME, "application/json", data.as_json),
}


def page() -> None:
    views = source.certificates()
    names, new = backend.labels(views), say("New certificate")
    label = say("Certificate")
    run_id = picker.finished(label, KEYS, views, names, label, new, form.new_certificate)
    if run_id is None:
        return
    try:
        certificate = source.certificate_of(run_id)
    except KvlabError as error:
        show_error(error)
        return
    said, buttons = st.columns([4, 1], vertical_alignment="center")
    with said:
        answer_line(words.answered(certificate))
    with buttons:
        files.reports(certificate, run_id, FILES, "certificate-files")
    with st.container(horizontal=True, vertical_alignment="center"):
        view = picker.view(say("View"), VIEWS, "certificate-view", "view")
        method(words.scope(certificate), words.gates_line(certificate))
        cautions([words.spoken_note(note) for note in certificate.notes])
    VIEWS[view][1](certificate, run_id)


def _gates(certificate: Certificate, shown: str) -> None:
    if not certificate.rungs:
        st.markdown(plain(words.gates_line(certificate)))
        return
    alt = say("KL of 95 % of the tokens and cosine of the heads’ outputs, over the number of own layers")
    files.chart(figures.ladder(certificate), f"ladder-{shown}", alt, "certificate-ladder")
    st.markdown(plain(words.gates_line(certificate)))
    _table(words.ladder_table(certificate), say("Gates over the number of own layers"))
    st.markdown(say("**Against its controls**"))
    _table(words.variants_table(certificate), say("The continuation after every variant of the cache"))


def _prompts(certificate: Certificate, shown: str) -> None:
    _part(say("**By language and domain**"), words.groups_table, certificate)
    if certificate.lengths:
        st.markdown(say("**Longer than the calibrated texts**"))
        alt = say("KL of 95 % of the tokens over the length of the prefix")
        files.chart(figures.lengths(certificate), f"lengths-{shown}", alt, "certificate-lengths")
        _table(words.lengths_table(certificate), alt)
    _part(say("**Answers**"), words.answers_table, certificate)
    _part(say("**Tasks**"), words.tasks_table, certificate)
    _part(say("**Documents**"), words.documents_table, certificate)


def _latency(certificate: Certificate, shown: str) -> None:
    if not certificate.latency:
        st.caption(say("Nothing was timed."))
        return
    alt = say("Time to the first token over the length of the text")
    files.chart(figures.latency(certificate), f"latency-{shown}", alt, "certificate-latency")
    _table(words.latency_table(certificate), alt)
    st.caption(say("Measured where the certificate was made; bytes in the number type of its models."))


def _heads(certificate: Certificate, shown: str) -> None:
    for column, (kind, name) in zip(st.columns(2), KIND_NAME.items() if certificate.heads else ()):
        with column:
            alt = say("{kind}: R² beyond the strongest control, per student layer and KV head", kind=name)
            files.chart(figures.heads(certificate, kind), f"{kind}-{shown}", alt, f"certificate-{name}")
    _part(say("**Models and versions**"), words.manifest_table, certificate)


VIEWS = {
    "gates": (phrase("Gates"), _gates),
    "prompts": (phrase("Prompts and lengths"), _prompts),
    "latency": (phrase("Time and bytes"), _latency),
    "heads": (phrase("Heads and models"), _heads),
}


def _part(title: str, table: Callable[[Certificate], pd.DataFrame], certificate: Certificate) -> None:
    frame = table(certificate)
    if len(frame):
        st.markdown(title)
        _table(frame, title.strip("*"))


def _table(frame: pd.DataFrame, alt: str) -> None:
    grid(frame, {name: name for name in frame.columns}, alt, table_height(len(frame), 300))
