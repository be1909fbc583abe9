"""The Overview page: the finding, the two models side by side, and whether they fit."""

from __future__ import annotations

import streamlit as st

from kvlab import plots, report
from kvlab.errors import KvlabError
from kvlab.memory import readable
from kvlab.types import Geometry
from kvlab.ui import backend, form, places
from kvlab.ui.text import show_error


def page() -> None:
    st.title("Can this teacher’s KV cache be aligned with this student’s?")
    _finding()
    st.subheader("A pair, before any weight is loaded")
    _pair()


def _finding() -> None:
    try:
        sample = backend.alignment_of(backend.SAMPLE)
    except KvlabError as error:
        show_error(error)
        return
    st.markdown(f":blue-badge[Sample analysis] {report.sentence(sample)}")
    for column, kind in zip(st.columns(2), ("key", "value"), strict=True):
        column.plotly_chart(
            plots.error_heatmap(sample, kind),
            key=f"overview-{kind}",
            config={"displayModeBar": False},
            alt=f"{plots.KIND_NAME[kind]} projection error of the sample, per student layer and KV head",
        )
    st.caption(report.ERROR_MEANING)
    left, right, _ = st.columns([2, 2, 3])
    left.page_link(places.alignment(), label="Look into the sample", icon=":material/grid_on:")
    if right.button("Align my own prompts", type="primary", icon=":material/upload_file:"):
        st.session_state["form-open"] = True
        st.switch_page(places.alignment())


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
        st.dataframe(
            comparison(*geometries),
            hide_index=True,
            height=38 + 35 * 10,
            alt="Geometry of teacher and student side by side",
        )
    with left:
        _memory(teacher, student)


def comparison(teacher: Geometry, student: Geometry) -> list[dict[str, str]]:
    """Rows of both models; what differs says what bridges it."""

    def row(name: str, of_teacher: str, of_student: str, bridge: str) -> dict[str, str]:
        same = of_teacher == of_student
        return {
            "": name,
            f"teacher: {teacher.name}": of_teacher,
            f"student: {student.name}": of_student,
            "match": "✓ same" if same else f"≠ {bridge}",
        }

    def both(name: str, value, bridge: str) -> dict[str, str]:
        return row(name, value(teacher), value(student), bridge)

    return [
        both("architecture", lambda g: g.architecture, "caches are compared, not weights"),
        both("layers with a cache", lambda g: f"{len(g.kv_layers)} of {g.layers}", "layer rule"),
        both("KV heads (query heads)", lambda g: f"{g.kv_heads} ({g.query_heads})", "projector"),
        both("key width", lambda g: str(g.key_width), "projector"),
        both("value width", lambda g: str(g.value_width), "projector"),
        both("vocabulary", lambda g: f"{g.vocabulary:,}", "time rule on byte spans"),
        both("positions", _positions, "keys are compared before RoPE"),
        both(
            "longest context", lambda g: f"{g.max_positions:,}" if g.max_positions else "unbounded", "documents are cut"
        ),
        both("parameters", lambda g: _count(g.parameters), "memory, see the forecast"),
        both("cached numbers per token", lambda g: f"{g.kv_values_per_token:,}", "projector"),
    ]


def _positions(geometry: Geometry) -> str:
    positions = geometry.positions
    if positions.kind != "rope":
        return positions.kind
    parts = [f"θ = {positions.theta:,.0f}" if positions.theta else "", positions.scaling or ""]
    return "RoPE " + ", ".join(part for part in parts if part)


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def _memory(teacher: str, student: str) -> None:
    """The forecast; waits for the worker without holding the page."""
    if backend.ready():
        _forecast(teacher, student)
    else:
        _wait_for_worker()


@st.fragment(run_every=1.0)
def _wait_for_worker() -> None:
    if backend.ready():
        st.rerun()
    st.caption(":material/hourglass_top: The memory forecast comes as soon as the worker has started (about 10 s).")


def _forecast(teacher: str, student: str) -> None:
    try:
        forecast = backend.ask("forecast", teachers=[teacher], student=student, dtype="auto", batch=8, tokens=512)
        loaded = backend.ask("loaded")
    except KvlabError as error:
        show_error(error)
        return
    verdict = "fits" if forecast["fits"] else "does not fit"
    st.metric(
        f"Memory forecast on {forecast['device']} ({forecast['dtype']})",
        f"{readable(forecast['total_bytes'])} — {verdict}",
        help="Weights, caches of 8 × 512 tokens and an allowance for activations; it fits below 80% of the device.",
    )
    for model in forecast["models"]:
        st.caption(
            f"{model['name']}: weights {readable(model['parameter_bytes'])}, cache "
            f"{readable(model['kv_bytes_per_token'])} per token"
        )
    st.caption(f"Device: {readable(forecast['device_free'])} free of {readable(forecast['device_total'])}.")
    for name in dict.fromkeys((teacher, student)):
        state = "loaded" if name in loaded else "not loaded"
        st.caption(f":material/{'check_circle' if name in loaded else 'circle'}: {name} is {state}.")
