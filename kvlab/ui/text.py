"""Words that several panels share."""

from __future__ import annotations

from math import isfinite, isnan

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.plots import KIND_NAME
from kvlab.report import whole
from kvlab.results import Alignment, HeadScore

ROW_PIXELS = 35
GIB = 2**30
UNKNOWN = "–"

TIME_RULES = {
    "floor": "floor — last teacher token that ends at or before the student token (causal)",
    "exact": "exact — only where both end at the same byte",
    "ceil": "ceil — first teacher token that ends at or after (looks ahead)",
    "overlap": "overlap — mean of the teacher tokens that share its bytes (not causal)",
    "linear": "linear — interpolation by position, blind to the text",
    "nearest": "nearest — rounded position, blind to the text",
    "segment": "segment — linear inside prompt, reasoning and answer",
    "rkv": "R-KV — per head, the teacher steps that matter most and repeat least",
}
LAYER_RULES = {
    "heldout": "held-out — the layers, up to 4, that explain held-out text best",
    "cka": "CKA — the most similar layer",
    "depth": "depth — proportional, first to first and last to last",
}
SEARCHES = {"banded": "near the proportional depth", "full": "all teacher layers (slower)"}
PROJECTORS = {
    "ridge": "ridge — closed form, from all teacher heads",
    "structured": "structured — head mixing × width projection (KVProjector)",
    "group-mean": "group mean — nothing is fitted",
}
KEYS = {"pre-rope": "before RoPE (rotation undone)", "post-rope": "after RoPE (as cached)"}
CALIBRATION = {
    "auto": "auto — also on the bundled samples when there are fewer than 20 prompts",
    "samples": "my prompts and the bundled samples",
    "none": "my prompts only",
}
SEGMENTS = {
    "auto": "from the fields of the file, else from markers in the text",
    "fields": "from the fields of the file only",
    "none": "none — every prompt is one",
}


def show_error(error: KvlabError) -> None:
    """What was expected, what was found, what to do."""
    st.error(f"**Expected** {plain(error.expected)}", icon=":material/error:")
    st.markdown(f"**Found:** {plain(error.found)}\n\n**What to do:** {plain(error.remedy)}")


def plain(text: str) -> str:
    """Text that came from files or users, kept from being read as Markdown or HTML."""
    for character in "\\`*_{}[]<>$#~|:":
        text = text.replace(character, "\\" + character)
    return text


def duration(seconds: float | None) -> str:
    """3725 -> 1 h 02 min; None is unknown."""
    if seconds is None:
        return UNKNOWN
    seconds = round(seconds)
    hours, minutes, rest = seconds // 3600, seconds % 3600 // 60, seconds % 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def head_sentence(alignment: Alignment, score: HeadScore) -> str:
    """One head in words, with n, split and controls."""
    name = KIND_NAME[score.kind]
    if isnan(score.r2):
        return (
            f"Layer {score.layer}, head {score.head}: its {name} does not vary on these prompts, so nothing is scored."
        )
    explains = (
        f"the teacher explains **{score.r2:.0%}** of {name} on held-out text"
        if score.r2 > 0
        else f"the teacher explains nothing of {name} on held-out text (R² {score.r2:.2f})"
    )
    gains = [f"{_more(score.gain)} than the token alone does"]
    if isfinite(score.gain_random):
        gains.append(f"{_more(score.gain_random)} than a teacher of random weights")
    if score.unbeaten is None:
        verdict = " One fold only is scored, so there is no standard error: whether it beats its controls is not known."
    else:
        verdict = f" **It is no better than {' and '.join(score.unbeaten)}.**" if score.unbeaten else ""
    return (
        f"Layer {score.layer}, head {score.head}: {explains}, {' and '.join(gains)} "
        f"(shuffled rows: {whole(score.r2_shuffled)}; n = {score.n:,} tokens, {alignment.data['folds']} folds "
        f"{alignment.data['split']}).{verdict}"
    )


def _more(gain: float) -> str:
    points = round(abs(gain) * 100)
    return f"{points} point{'s' * (points != 1)} {'more' if gain >= 0 else 'less'}"


def table_height(rows: int, most: int) -> int:
    """Of a table without empty rows."""
    return min(most, 38 + ROW_PIXELS * rows)


def number(label: str, help_text: str | None = None):
    """A column of scores."""
    return st.column_config.NumberColumn(label, format="%.3f", help=help_text)


def count(label: str, help_text: str | None = None):
    """A column of how many."""
    return st.column_config.NumberColumn(label, format="localized", help=help_text)
