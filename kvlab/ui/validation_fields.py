"""Single fields of the Validation form, described by the settings themselves."""

from __future__ import annotations

from typing import Any

import streamlit as st
from pydantic import BaseModel

from kvlab.language import say
from kvlab.train.config import TrainConfig


def key(name: str) -> str:
    """The widget of a setting."""
    return f"train-{name}"


def choice(name: str, label: str, words: dict[str, str], disabled: bool = False) -> str:
    return st.selectbox(
        label,
        list(words),
        format_func=lambda option: say(words[option]),
        key=key(name),
        help=described(TrainConfig, name),
        disabled=disabled,
    )


def whole(name: str, label: str, disabled: bool = False) -> int:
    """A number of things."""
    least, most = _bounds(TrainConfig, name)
    about = described(TrainConfig, name)
    return int(
        st.number_input(label, least, most, step=1, key=key(name), help=about, disabled=disabled)  # type: ignore[arg-type]
    )


def real(name: str, label: str, model: type[BaseModel] = TrainConfig, widget: str | None = None) -> float | None:
    """A number with a fraction; None where the setting may be left out. What it must not be, the settings say."""
    default = model.model_fields[name].default
    optional = default is None
    placeholder = say("by the student’s size") if optional else None
    return st.number_input(
        label,
        0.0,
        value=None if optional else "min",
        step=1e-4 if optional else default / 10 or 0.1,
        format="%g",
        key=key(widget or name),
        help=described(model, name),
        placeholder=placeholder,
    )


def described(model: type[BaseModel], name: str) -> str:
    """The setting's own description, with the name that it has in files and on the command line."""
    return say("{name}: {description}.", name=name, description=say(model.model_fields[name].description or ""))


def _bounds(model: type[BaseModel], name: str) -> tuple[int, int | None]:
    limits: dict[str, Any] = {}
    for rule in model.model_fields[name].metadata:
        limits |= {side: getattr(rule, side) for side in ("ge", "le") if getattr(rule, side, None) is not None}
    return limits.get("ge", 0), limits.get("le")
