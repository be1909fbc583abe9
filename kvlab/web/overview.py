"""The Overview page: the answer and one figure, the two models side by side, and whether they fit."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import NamedTuple

import plotly.graph_objects as go
import streamlit as st

from kvlab.errors import KvlabError
from kvlab.host.memory import readable
from kvlab.language import Message, phrase, say
from kvlab.results import answer
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.heads import gain_map, mean_sources
from kvlab.results.architecture import architectures
from kvlab.results.function.data import Injection
from kvlab.results.function.figures import variants
from kvlab.results.style import KIND_NAME
from kvlab.results.words import clauses
from kvlab.runs.monitor import View
from kvlab.shapes import Geometry
from kvlab.web import backend, files, places
from kvlab.web.alignment import form
from kvlab.web.function import source
from kvlab.web.server import worker
from kvlab.web.widgets import answer_line, cautions, grid, plain, show_error, table_height

QUESTION = phrase("Can this teacher’s KV cache be aligned with this student’s?")
SHOWN = "overview-run"  # in the session: the analysis shown, once another than the latest is chosen
PIXELS, WIDTHS = 400, (405, 322, 322)  # height of the figures, and widths where the page is 1280 wide
CAME = "forecast-came"  # in the session: the forecast that the page was rerun for
PATIENCE = 0.5  # seconds to wait for the forecast before drawing the page without it

# Kinds of positions other than RoPE.
POSITIONS = {"none": phrase("none"), "learned": phrase("learned"), "sinusoidal": phrase("sinusoidal")}


def page() -> None:
    _finding()
    st.subheader(say("Before any weight is loaded"))
    _pair()


def _finding() -> None:
    """Draw the answer and the figure that shows it: of the latest analysis, else of the sample."""
    st.title(say(QUESTION))
    views = backend.listed("analysis")
    shown = st.session_state.get(SHOWN) or _latest(views)
    try:
        found, test = backend.alignment_of(shown), source.of_analysis(shown)
    except KvlabError as error:
        show_error(error)
        return
    answer_line(answer.of_analysis(found, test))
    figures = _figures(found, test)
    for column, drawn, width in zip(st.columns([5, 4, 4], gap="small"), figures, WIDTHS, strict=True):
        with column:
            files.drawing(drawn.figure, drawn.about, width)
    # The gains stand in the answer.
    name = next((backend.label(view, results=False) for view in views if view.id == shown), "")
    _links(found, shown, name, figures)


def _latest(views: Sequence[View]) -> str:
    """Return the id of the latest analysis with a readable result, else the sample."""
    for view in views:
        with suppress(KvlabError):
            if view.state == "done" and backend.alignment_of(view.id):
                return view.id
    return backend.SAMPLE


class Drawn(NamedTuple):
    figure: go.Figure
    key: str
    about: str  # what the figure shows, in words
    file: str


def _figures(found: Alignment, test: Injection | None) -> list[Drawn]:
    """The bars of own cache, projected and controls, and the maps of the gain."""
    if test is not None and test.reproduces:
        words = say("KL of the own cache, the projected cache and the controls")
        bars = variants(test.at(test.injection["prefix"]), "kl", PIXELS)
        drawn = [Drawn(bars, "overview-function", words, "function-kl")]
    else:
        words = say("R² of K and V by source, means over heads")
        drawn = [Drawn(mean_sources(found, PIXELS), "overview-sources", words, "sources")]
    for kind, name in KIND_NAME.items():
        words = say("{kind}: R² beyond the strongest control, per student layer and KV head", kind=name)
        gains = gain_map(found, kind).update_layout(height=PIXELS)
        drawn.append(Drawn(gains, f"overview-{kind}", words, f"{name}-gain"))
    return drawn


def _links(found: Alignment, shown: str, name: str, figures: Sequence[Drawn]) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(say("Align my own prompts"), type="primary", icon=":material/upload_file:"):
            st.session_state["form-open"] = True
            st.switch_page(places.alignment())
        look = {"icon": ":material/grid_on:", "query_params": {"run": shown}}
        st.page_link(places.alignment(), label=say("Look into it"), **look)
        with st.popover(say("Figures"), icon=":material/download:", type="tertiary"):
            for drawn in figures:  # a button under each would be words on the first screen
                files.figure_button(drawn.figure, drawn.file, drawn.key, drawn.about)
        if shown == backend.SAMPLE:
            names = {"teacher": plain(found.teacher["name"]), "student": plain(found.student["name"])}
            st.markdown(say(":blue-badge[Sample analysis] {teacher} → {student}", **names))
        else:
            st.caption(plain(name))
            st.button(
                say("Show the sample"), key="show-sample", type="tertiary", on_click=_show, args=(backend.SAMPLE,)
            )
        if found.notes:
            cautions(found.notes)


def _show(run_id: str) -> None:
    st.session_state[SHOWN] = run_id


def _pair() -> None:
    left, right = st.columns([2, 5], gap="medium")
    with left:
        teacher, student = form.models()
    try:
        geometries = [backend.geometry(name) for name in (teacher, student)]
    except KvlabError as error:
        with right:
            show_error(error)
        return
    with right:
        alt = say("The caches of both models: a row per layer, a block per KV head, as wide as its channels")
        drawn = architectures(geometries)
        with st.container(key="wide-architectures"):
            files.drawing(drawn, alt, 755)
            files.figure_button(drawn, "architectures", "architectures")
        rows = comparison(*geometries)
        columns = {
            "teacher": say("teacher: {name}", name=geometries[0].name),
            "student": say("student: {name}", name=geometries[1].name),
            "match": say("match"),
        }
        alt = say("Geometry of teacher and student side by side")
        with st.expander(say("The same as a table"), icon=":material/table:"):
            grid(rows, columns, alt, table_height(len(rows), 400))
    with left:
        _memory(teacher, student)


def comparison(teacher: Geometry, student: Geometry) -> list[dict[str, str]]:
    """Return a row per property of the two models. A row whose values differ names what bridges them."""

    def row(name: str, value: Callable[[Geometry], str], bridge: str) -> dict[str, str]:
        left, right = value(teacher), value(student)
        match = say("✓ same") if left == right else say("≠ {bridge}", bridge=bridge)
        return {"": name, "teacher": left, "student": right, "match": match}

    return [
        row(say("architecture"), lambda g: g.architecture, say("caches are compared, not weights")),
        row(say("layers with a cache"), _layers, say("layer rule")),
        row(say("KV heads (query heads)"), lambda g: f"{g.kv_heads} ({g.query_heads})", say("projector")),
        row(say("key width"), lambda g: str(g.key_width), say("projector")),
        row(say("value width"), lambda g: str(g.value_width), say("projector")),
        row(say("vocabulary"), lambda g: f"{g.vocabulary:,}", say("time rule on byte spans")),
        row(say("positions"), _positions, say("keys are compared before RoPE")),
        row(say("longest context"), _longest, say("documents are cut")),
        row(say("parameters"), lambda g: _count(g.parameters), say("memory, see the forecast")),
        row(say("cached numbers per token"), lambda g: f"{g.kv_values_per_token:,}", say("projector")),
    ]


def _layers(geometry: Geometry) -> str:
    return say("{n} of {total}", n=len(geometry.kv_layers), total=geometry.layers)


def _longest(geometry: Geometry) -> str:
    return f"{geometry.max_positions:,}" if geometry.max_positions else say("unbounded")


def _positions(geometry: Geometry) -> str:
    positions = geometry.positions
    if positions.kind != "rope":
        return say(POSITIONS[positions.kind]) if positions.kind in POSITIONS else positions.kind
    parts = [f"θ = {positions.theta:,.0f}" if positions.theta else "", positions.scaling or ""]
    return "RoPE " + ", ".join(part for part in parts if part)


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def _memory(teacher: str, student: str) -> None:
    """Draw the memory forecast, or a note that it is coming. Do not wait for the worker."""
    key = f"forecast-{teacher}-{student}"
    answers = st.session_state.get(key)
    just_came = st.session_state.pop(CAME, None) == key
    try:
        if answers is None or (_came(answers) and not just_came):  # answers that another page waited for are outdated
            question = worker().question
            forecast = question("forecast", teacher=teacher, student=student)
            answers = st.session_state[key] = forecast, question("loaded")
        if wait(answers, PATIENCE).not_done:
            _await(key)
        else:
            del st.session_state[key]
            _forecast(teacher, student, *(answer.result() for answer in answers))
    except KvlabError as error:
        show_error(error)


@st.fragment(run_every=1.0)
def _await(key: str) -> None:
    if _came(st.session_state.get(key, ())):
        st.session_state[CAME] = key
        st.rerun()
    st.caption(
        say(":material/hourglass_top: The memory forecast comes when the worker answers (it starts in about 10 s).")
    )


def _came(answers: Iterable[Future]) -> bool:
    return all(answer.done() for answer in answers)


def _forecast(teacher: str, student: str, forecast: dict, loaded: list[str]) -> None:
    needed = sum(part["bytes"] for part in forecast["parts"])
    size = readable(needed)
    st.metric(
        say("Memory forecast on {device} ({dtype})", device=plain(forecast["device"]), dtype=plain(forecast["dtype"])),
        say("{size} — fits", size=size) if needed < forecast["free"] else say("{size} — does not fit", size=size),
        help=say("The peak of an analysis of the samples; the form forecasts that of your own prompts."),
    )
    parts = sorted(forecast["parts"], key=lambda part: -part["bytes"])
    sizes = [(readable(part["bytes"]), plain(Message.read(part["name"]))) for part in parts]
    st.caption(clauses([say("{size} {name}", size=size, name=name) for size, name in sizes]))
    free, total = readable(forecast["free"]), readable(forecast["total"])
    st.caption(say("Device: {free} free of {total}.", free=free, total=total))
    for name in dict.fromkeys((teacher, student)):
        if name in loaded:
            st.caption(say(":material/check_circle: {name} is loaded.", name=plain(name)))
        else:
            st.caption(say(":material/circle: {name} is not loaded.", name=plain(name)))
