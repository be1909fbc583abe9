"""The fields of the training form."""

from __future__ import annotations

from typing import Any

import streamlit as st
from pydantic import BaseModel

from kvlab.host import memory
from kvlab.language import say
from kvlab.request.train import Thresholds, TrainConfig
from kvlab.web.training import options as words


def settings(teachers: int) -> dict[str, Any]:
    """Fields of TrainConfig that the main part of the form does not ask for."""
    computing, loss, data = st.columns(3, gap="medium")
    with computing:
        chosen = _computing()
    with loss:
        chosen |= _loss(teachers)
    with data:
        chosen["time"] = choice("time", say("Time rule"), words.TIMES)
        chosen["layers"] = choice("layers", say("Layers"), words.LAYERS)
        chosen |= _numbers(words.DATA)
    st.markdown(say("**Thresholds of the verdict**"))
    thresholds, columns = {}, st.columns(4)
    for number, (name, label) in enumerate(words.THRESHOLDS.items()):
        with columns[number % len(columns)]:
            thresholds[name] = real(name, say(label), Thresholds, f"threshold-{name}")
    return chosen | {"thresholds": thresholds}


def _computing() -> dict[str, Any]:
    devices = ["auto", "cpu", *(f"cuda:{number}" for number in range(len(memory.visible_gpus())))]
    about = say("auto: a GPU where there is one. Runs on one device go one after the other.")
    chosen: dict[str, Any] = {
        "device": st.selectbox(say("Device"), devices, key=key("device"), help=about),
        "precision": choice("precision", say("Precision"), words.PRECISIONS),
    }
    chosen |= _numbers(words.STEPS)
    chosen["gradient_checkpointing"] = st.toggle(
        say("Gradient checkpointing"),
        key=key("gradient_checkpointing"),
        help=described(TrainConfig, "gradient_checkpointing"),
    )
    return chosen


def _loss(teachers: int) -> dict[str, Any]:
    label = say("Entropy of a learned router")
    chosen: dict[str, Any] = {"entropy": choice("entropy", label, words.ENTROPIES, disabled=teachers < 2)}
    text = st.text_input(
        say("Weights of fixed fusion, one per teacher"),
        key=key("fusion_weights"),
        placeholder=say("all alike"),
        disabled=teachers < 2,
        help=described(TrainConfig, "fusion_weights"),
    )
    chosen["fusion_weights"] = _weights(text) if teachers > 1 else ()
    return chosen | _numbers(words.LOSS)


def _numbers(labels: dict[str, str]) -> dict[str, Any]:
    return {
        name: (whole if TrainConfig.model_fields[name].annotation is int else real)(name, say(label))
        for name, label in labels.items()
    }


def _weights(text: str) -> tuple[Any, ...]:
    """ "0.7, 0.3" as numbers; what is none is left as it is, for the settings to refuse by name."""
    return tuple(_number(part) for part in text.replace(",", " ").split())


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


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
