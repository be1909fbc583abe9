"""The fields of the training form: a widget for each kind of setting, and the advanced settings."""

from contextlib import suppress
from typing import Any

import streamlit as st
from pydantic import BaseModel

from kvlab.host import memory
from kvlab.language import say
from kvlab.request.train import Thresholds, TrainConfig
from kvlab.web import widgets
from kvlab.web.training import options


def advanced(teachers: int) -> dict[str, Any]:
    """Draw the fields of TrainConfig that the main part of the form leaves out; return their values."""
    computing, loss, data = st.columns(3, gap="medium")
    chosen: dict[str, Any] = {}
    with computing:
        devices = ["auto", "cpu", *(f"cuda:{number}" for number in range(len(memory.visible_gpus())))]
        about = say("auto: a GPU where there is one. Runs on one device go one after the other.")
        chosen["device"] = st.selectbox(say("Device"), devices, key=key("device"), help=about)
        chosen["precision"] = choice("precision", say("Precision"), options.PRECISIONS)
        chosen["load_in"] = choice("load_in", say("Teachers’ weights"), widgets.LOAD_IN)
        chosen["split_teacher"] = switch("split_teacher", say("Spread teachers over all GPUs"))
        chosen |= _numbers(options.STEPS)
        chosen["log"] = choice("log", say("Board"), options.LOGS)
        chosen["gradient_checkpointing"] = switch("gradient_checkpointing", say("Gradient checkpointing"))
    with loss:
        chosen["kv_loss"] = choice("kv_loss", say("KV loss"), options.KV_LOSSES)
        single = teachers < 2
        chosen["entropy"] = choice("entropy", say("Entropy of a learned router"), options.ENTROPIES, disabled=single)
        weights = st.text_input(
            say("Weights of fixed fusion, one per teacher"),
            key=key("fusion_weights"),
            placeholder=say("all alike"),
            disabled=single,
            help=described(TrainConfig, "fusion_weights"),
        )
        chosen["fusion_weights"] = () if single else _parsed(weights)
        chosen |= _numbers(options.LOSS)
    with data:
        chosen["time"] = choice("time", say("Time rule"), options.TIMES)
        chosen["layers"] = choice("layers", say("Layers"), options.LAYERS)
        chosen["row_weights"] = choice("row_weights", say("Weights of fitted tokens"), widgets.ROW_WEIGHTS)
        chosen |= _numbers(options.DATA)
    st.markdown(say("**Thresholds of the verdict**"))
    thresholds, columns = {}, st.columns(4)
    for number, (name, label) in enumerate(options.THRESHOLDS.items()):
        with columns[number % len(columns)]:
            thresholds[name] = real(name, say(label), Thresholds, f"threshold-{name}")
    return chosen | {"thresholds": thresholds}


def _numbers(labels: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, label in labels.items():
        draw = whole if TrainConfig.model_fields[name].annotation is int else real
        values[name] = draw(name, say(label))
    return values


def _parsed(text: str) -> tuple[float | str, ...]:
    """Parse "0.7, 0.3". Pass anything else on, so that TrainConfig rejects it by name."""
    values: list[float | str] = list(text.replace(",", " ").split())
    for place, value in enumerate(values):
        with suppress(ValueError):
            values[place] = float(value)
    return tuple(values)


def key(name: str) -> str:
    """Return the key of a setting's widget."""
    return f"train-{name}"


def choice(name: str, label: str, words: dict[str, str], disabled: bool = False) -> str:
    return widgets.choice(label, words, key(name), help=described(TrainConfig, name), disabled=disabled)


def switch(name: str, label: str) -> bool:
    return st.toggle(label, key=key(name), help=described(TrainConfig, name))


def whole(name: str, label: str) -> int:
    """Draw a whole number."""
    least, most = _bounds(TrainConfig, name)
    return int(st.number_input(label, least, most, step=1, key=key(name), help=described(TrainConfig, name)))


def real(name: str, label: str, model: type[BaseModel] = TrainConfig, widget: str | None = None) -> float | None:
    """Draw a number with a fraction; return None for an optional setting left empty. The settings check the value."""
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
    """Return a setting's description with its name in files and on the command line."""
    return say("{name}: {description}.", name=name, description=say(model.model_fields[name].description or ""))


def _bounds(model: type[BaseModel], name: str) -> tuple[int, int | None]:
    limits: dict[str, Any] = {}
    for rule in model.model_fields[name].metadata:
        limits |= {side: getattr(rule, side) for side in ("ge", "le") if getattr(rule, side, None) is not None}
    return limits.get("ge", 0), limits.get("le")
