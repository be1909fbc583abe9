"""The form's settings; what is seldom changed is folded away."""

from __future__ import annotations

import streamlit as st

from kvlab.request import AlignSettings
from kvlab.ui.text import CALIBRATION, KEYS, LAYER_RULES, PROJECTORS, SEARCHES, TIME_RULES


def settings() -> tuple[dict, dict]:
    """Fields of AlignSettings, and those of the request beside them."""
    chosen = {
        "time": _choice("Time rule", "time", TIME_RULES),
        "layers": _choice("Layer rule", "layers", LAYER_RULES),
        "projector": _choice("Projector", "projector", PROJECTORS),
    }
    calibration = _choice(
        "Fit on",
        "calibration",
        CALIBRATION,
        "Scores are always of your prompts, each under a map that has not seen it.",
    )
    with st.expander("Advanced"):
        chosen |= _advanced()
        device, dtype = st.columns(2)
        on = device.selectbox("Device", ["auto", "cpu", "cuda"], key="form-device")
        precision = dtype.selectbox("Precision", ["auto", "float32", "bfloat16", "float16"], key="form-dtype")
    return chosen, {"calibration": calibration, "device": on, "dtype": precision}


def _advanced() -> dict:
    random_teacher = st.toggle(
        "Compare with a teacher of random weights",
        key="form-random-teacher",
        help="A control: what the architecture alone explains. Reads the sample once more, and needs memory "
        "for a second teacher meanwhile.",
    )
    keys, search = st.columns(2)
    with keys:
        key_space = _choice("Keys", "keys", KEYS)
    with search:
        extent = _choice("Layers searched", "search", SEARCHES)
    folds, sample = st.columns(2)
    fold_count = folds.number_input("Folds", 2, 20, key="form-folds")
    tokens = sample.number_input(
        "Sample, student tokens", 100, step=1000, key="form-sample-tokens", help=_described("sample_tokens")
    )
    return {
        "random_teacher": random_teacher,
        "keys": key_space,
        "search": extent,
        "folds": int(fold_count),
        "sample_tokens": int(tokens),
    }


def _described(name: str) -> str:
    text = AlignSettings.model_fields[name].description
    return f"{text[0].upper()}{text[1:]}."


def _choice(label: str, name: str, words: dict[str, str], help_text: str | None = None) -> str:
    return st.selectbox(label, list(words), format_func=words.get, key=f"form-{name}", help=help_text)
