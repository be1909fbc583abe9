"""The walk-through: its steps, and the step that a visitor has reached."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.runs import store
from kvlab.web import backend, places

AT = "walk-step"  # in the session: the number of the step shown, None before the first
LEADING = "walk-leading"
CLOSED = "walk-closed"
DISMISSED = "walk-through-dismissed"  # a file in runs/: nobody on this server sees the walk-through unasked


def card() -> None:
    """Draw the card over the page. Call it last."""
    if st.session_state.get(CLOSED) or (AT not in st.session_state and (store.runs_root() / DISMISSED).exists()):
        return
    with st.container(key="walk", horizontal=True, vertical_alignment="center"):
        at = st.session_state.get(AT)
        if at is None:
            _invitation()
        else:
            _step(at)


def lead() -> None:
    """Switch to the page of the requested step. Call it after st.navigation and before drawing a page."""
    if st.session_state.pop(LEADING, False):
        st.switch_page(STEPS[st.session_state[AT]].place())


def again() -> None:
    """Draw the button that starts the walk-through again, at the end of every page."""
    st.button(say("Walk-through"), icon=":material/tour:", type="tertiary", key="walk-again", on_click=_start)


def _invitation() -> None:
    st.markdown(say("**New here?** Two minutes through kvlab, on the bundled sample."))
    with st.container(horizontal=True, width="content"):
        st.button(say("Start"), type="primary", key="walk-start", on_click=_go, args=(0,))
        st.button(say("Never show again"), key="walk-never", on_click=_dismiss)


def _step(at: int) -> None:
    step = STEPS[at]
    st.markdown(f"**{at + 1}/{len(STEPS)} · {say(step.title)}**  \n{say(step.words)}")
    with st.container(horizontal=True, width="content"):
        if at:
            st.button(say("Back"), key="walk-back", on_click=_go, args=(at - 1,))
        if at + 1 < len(STEPS):
            st.button(say("Next"), type="primary", key="walk-next", on_click=_go, args=(at + 1,))
            st.button(say("Close"), key="walk-close", on_click=_close)
        else:
            st.button(say("Done"), type="primary", key="walk-done", on_click=_dismiss)


def _start() -> None:
    st.session_state[CLOSED] = False
    st.session_state[AT] = None


def _go(at: int) -> None:
    """Go to a step. A callback, because session values of widgets can only be set before drawing them."""
    st.session_state[AT] = at
    st.session_state[LEADING] = True
    for name, value in STEPS[at].state.items():
        st.session_state[name] = value


def _close() -> None:
    st.session_state[CLOSED] = True


def _dismiss() -> None:
    _close()
    with suppress(KvlabError):  # on a full disk, dismiss it for this session only
        root = store.runs_root()
        with store.disk_errors(root):
            store.make_root(root)
            store.replace(root / DISMISSED, json.dumps({"at": store.timestamp()}).encode() + b"\n")


@dataclass(frozen=True)
class Step:
    title: str
    words: str
    place: Callable[[], StreamlitPage]
    state: dict[str, object] = field(default_factory=dict)  # values of the session that make the page show it


def _sample(view: str) -> dict[str, object]:
    return {"run": backend.SAMPLE, "view": view, "form-open": False}


STEPS = (
    Step(
        phrase("The finding"),
        phrase(
            "A finished sample: two small models that were really trained. Each cell is one student head: green where "
            "the teacher explains more than every control, grey “=” where it does not."
        ),
        places.overview,
    ),
    Step(
        phrase("One head beside its controls"),
        phrase(
            "Click a cell, or pick a row of the table. A score means something only beside its controls: what the "
            "student’s own tokens say without any teacher, what the teacher’s token says, what a teacher of random "
            "weights says, what shuffled rows say."
        ),
        places.alignment,
        _sample("heads"),
    ),
    Step(
        phrase("Two tokenizers on one text"),
        phrase(
            "Which teacher step stands for a student step is decided on bytes. The rule chosen here is worth more than "
            "the projector: see where the borders of the tokens meet and where they drift."
        ),
        places.alignment,
        _sample("timeline"),
    ),
    Step(
        phrase("Which layers explain which"),
        phrase(
            "How alike every teacher layer is to every student layer, beside what shuffled rows would show, and the "
            "layers that were chosen on held-out text."
        ),
        places.alignment,
        _sample("layers"),
    ),
    Step(
        phrase("Whether the student can use it"),
        phrase(
            "How near the projection comes does not say whether the student can go on from it. Here it does, beside "
            "its own cache and four controls; and head by head, which error costs anything."
        ),
        places.function,
        {"function-run": backend.SAMPLE, "function-view": "verdict", "function-form-open": False},
    ),
    Step(
        phrase("Your own prompts"),
        phrase(
            "Paste or upload them, choose two models by name or folder: whether they fit in memory is said before a "
            "weight is loaded. The analysis goes on when you close this page."
        ),
        places.alignment,
        _sample("heads") | {"form-open": True},
    ),
    Step(
        phrase("Does a 100-step run work?"),
        phrase(
            "One click launches a short distillation run in a process of its own. Close the laptop, come back, read "
            "the verdict; launch its controls as well, because a falling KV loss alone proves nothing."
        ),
        places.validation,
    ),
    Step(
        phrase("Everything stays on disk"),
        phrase(
            "All runs are here after a restart of the server: lay them over each other, see which settings differ, "
            "take the report with you."
        ),
        places.runs,
    ),
)
