"""Words that several panels share."""

from __future__ import annotations

from math import isnan

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.plots import KIND_NAME
from kvlab.report import whole
from kvlab.results import Alignment, HeadScore

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
ERROR_MEANING = (
    "Error = RSS / TSS = 1 − R² on documents that the map was not fitted on: 0 is perfect, 1 is no better than the "
    "training mean. “=” marks a head no better than its controls."
)


def show_error(error: KvlabError) -> None:
    """What was expected, what was found, what to do."""
    st.error(f"**Expected** {_plain(error.expected)}", icon=":material/error:")
    st.markdown(f"**Found:** {_plain(error.found)}\n\n**What to do:** {_plain(error.remedy)}")


def _plain(text: str) -> str:
    """Text that came from files or users, kept from being read as Markdown or HTML."""
    for character in "\\`*_{}[]<>$#~|:":
        text = text.replace(character, "\\" + character)
    return text


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
    gain = f"{abs(score.gain) * 100:.0f} points {'more' if score.gain >= 0 else 'less'} than the token alone does"
    verdict = {
        True: "",
        False: " **It is no better than its controls.**",
        None: " One fold only is scored, so there is no standard error: whether it beats its controls is not known.",
    }[score.beats_controls]
    return (
        f"Layer {score.layer}, head {score.head}: {explains}, {gain} "
        f"(shuffled rows: {whole(score.r2_shuffled)}; n = {score.n:,} tokens, {alignment.data['folds']} folds "
        f"{alignment.data['split']}).{verdict}"
    )
