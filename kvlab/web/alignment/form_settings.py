"""The settings under Advanced of the form, by topic."""

import streamlit as st
from pydantic import BaseModel

from kvlab.language import say
from kvlab.request.align import AlignSettings, AnalysisRequest
from kvlab.web.widgets import (
    CALIBRATION,
    KEYS,
    LAYER_RULES,
    LOAD_IN,
    PROJECTORS,
    ROW_WEIGHTS,
    ROWS,
    SEARCHES,
    TIME_RULES,
    choice,
)


def settings(with_time: bool = True) -> tuple[dict, dict]:
    """Draw the settings by topic, ``with_time`` time rules too. Return fields of AlignSettings, and of the request."""
    st.markdown(say("**Maps**"))
    chosen = {"time": _choice(say("Time rule"), "time", TIME_RULES)} if with_time else {}
    chosen["rows"] = _choice(say("Maps"), "rows", ROWS)
    chosen["layers"] = _choice(say("Layer rule"), "layers", LAYER_RULES)
    chosen["projector"] = _choice(say("Projector"), "projector", PROJECTORS)
    keys, search = st.columns(2)
    with keys:
        chosen["keys"] = _choice(say("Keys"), "keys", KEYS)
    with search:
        chosen["search"] = _choice(say("Layers searched"), "search", SEARCHES)
    about = say("Takes a second reading of the student and more memory; scores count every token alike.")
    chosen["row_weights"] = _choice(say("Weights of fitted tokens"), "row-weights", ROW_WEIGHTS, about)
    about = say("Scores are always of your prompts, each under a map that has not seen it.")
    calibration = _choice(say("Fit on"), "calibration", CALIBRATION, about)
    st.markdown(say("**Controls**"))
    if with_time:
        chosen["compare_rules"] = st.toggle(
            say("Compare time rules"),
            key="form-compare-rules",
            help=say(
                "Also fits the other time rules, on the sample, so that each head can be compared under all of "
                "them. With few prompts this takes about half as long again; the caches of the sample are held "
                "meanwhile."
            ),
        )
    chosen["random_teacher"] = st.toggle(
        say("Compare with a teacher of random weights"),
        key="form-random-teacher",
        help=say(
            "A control: what the architecture alone explains. Reads the sample once more, and needs memory for a "
            "second teacher meanwhile."
        ),
    )
    st.markdown(say("**Size and device**"))
    folds, sample, batch, longest = st.columns(4)
    chosen["folds"] = folds.number_input(say("Folds"), 2, 20, key="form-folds")
    label, about = say("Sample, student tokens"), _described("sample_tokens")
    chosen["sample_tokens"] = sample.number_input(label, 100, step=1000, key="form-sample-tokens", help=about)
    label, about = say("Batch, tokens"), _described("batch_tokens")
    chosen["batch_tokens"] = batch.number_input(label, 1, step=1024, key="form-batch-tokens", help=about)
    label, about = say("Longest document, tokens"), _described("max_tokens")
    chosen["max_tokens"] = longest.number_input(label, 2, step=1024, key="form-max-tokens", help=about)
    device, dtype = st.columns(2)
    fields = {"calibration": calibration}
    fields["device"] = device.selectbox(say("Device"), ["auto", "cpu", "cuda"], key="form-device")
    precisions = ["auto", "float32", "bfloat16", "float16"]
    fields["dtype"] = dtype.selectbox(say("Precision"), precisions, key="form-dtype")
    about = _sentence(AnalysisRequest, "load_in")
    fields["load_in"] = _choice(say("Teachers’ weights"), "load-in", LOAD_IN, about)
    label, about = say("Spread teachers over all GPUs"), _sentence(AnalysisRequest, "split_teacher")
    fields["split_teacher"] = st.toggle(label, key="form-split-teacher", help=about)
    return chosen, fields


def _described(name: str) -> str:
    return _sentence(AlignSettings, name)


def _sentence(model: type[BaseModel], name: str) -> str:
    text = say(model.model_fields[name].description)
    return say("{sentence}.", sentence=text[0].upper() + text[1:])


def _choice(label: str, name: str, words: dict[str, str], help_text: str | None = None) -> str:
    return choice(label, words, f"form-{name}", help=help_text)
