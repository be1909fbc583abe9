"""The steps of the walk-through: what to look at, where, and why. Two minutes altogether."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from streamlit.navigation.page import StreamlitPage

from kvlab.language import mark
from kvlab.ui import backend, places


@dataclass(frozen=True)
class Step:
    title: str
    words: str
    place: Callable[[], StreamlitPage]
    state: dict[str, object] = field(default_factory=dict)  # of the session, so that the page shows it


def _sample(view: str) -> dict[str, object]:
    return {"run": backend.SAMPLE, "view": view, "form-open": False}


STEPS = (
    Step(
        mark("The finding"),
        mark(
            "A finished sample: two small models that were really trained. Each cell is one student head; dark is an "
            "error near 0, “=” marks a head for which the teacher says no more than its controls do."
        ),
        places.overview,
    ),
    Step(
        mark("One head beside its controls"),
        mark(
            "Click a cell, or pick a row of the table. A score means something only beside its controls: what the "
            "token alone says, what a teacher of random weights says, what shuffled rows say."
        ),
        places.alignment,
        _sample("heads"),
    ),
    Step(
        mark("Two tokenizers on one text"),
        mark(
            "Which teacher step stands for a student step is decided on bytes. The rule chosen here is worth more than "
            "the projector: see where the borders of the tokens meet and where they drift."
        ),
        places.alignment,
        _sample("timeline"),
    ),
    Step(
        mark("Which layers explain which"),
        mark(
            "How alike every teacher layer is to every student layer, beside what shuffled rows would show, and the "
            "layers that were chosen on held-out text."
        ),
        places.alignment,
        _sample("layers"),
    ),
    Step(
        mark("Whether the student can use it"),
        mark(
            "How near the projection comes does not say whether the student can go on from it. Here it does, beside "
            "its own cache and four controls; and head by head, which error costs anything."
        ),
        places.function,
        {"function-run": backend.SAMPLE, "function-view": "verdict", "function-form-open": False},
    ),
    Step(
        mark("Your own prompts"),
        mark(
            "Paste or upload them, choose two models by name or folder: whether they fit in memory is said before a "
            "weight is loaded. The analysis goes on when you close this page."
        ),
        places.alignment,
        _sample("heads") | {"form-open": True},
    ),
    Step(
        mark("Does a 100-step run work?"),
        mark(
            "One click launches a short distillation run in a process of its own. Close the laptop, come back, read "
            "the verdict; launch its controls as well, because a falling KV loss alone proves nothing."
        ),
        places.validation,
    ),
    Step(
        mark("Everything stays on disk"),
        mark(
            "All runs are here after a restart of the server: lay them over each other, see which settings differ, "
            "take the report with you."
        ),
        places.runs,
    ),
)
