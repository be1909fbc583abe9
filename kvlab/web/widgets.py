"""Texts and widgets that several panels share."""

import re
from math import isfinite, isnan
from typing import Any

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, plural, say
from kvlab.request import declared
from kvlab.request.time_rules import RULES
from kvlab.results.alignment.data import Alignment, HeadScore
from kvlab.results.alignment.tables import split_words
from kvlab.results.style import KIND_NAME
from kvlab.results.words import clauses, exact_points, whole

ROW_PIXELS = 35
GIB = 2**30
UNKNOWN = "–"

# For ``plain``. A backslash makes a sign of Markdown text. Streamlit looks for icons, emoji, addresses and arrows
# afterwards, in each text between two elements, where no backslash is left: an empty element parts what it looks for.
_SIGNS = re.compile(r"[\\`*_{}\[\]<>$#~|:&@]")
_STARTS = re.compile(r"^( ?[0-9]*)([-+=.)])(?=[\s=-]|$)")  # a list, a rule
_ENDS = re.compile(r"[:@]|www(?=\.)|(?:<|-|>|~)(?=(?:\\?[->=])+(?:\s|$))", re.IGNORECASE)
_NOTHING = ":small[]"

TIME_RULES = {name: rule.words for name, rule in RULES.items()}
LAYER_RULES = {
    "heldout": phrase("held-out — as many layers as explain held-out text best, up to all"),
    "cka": phrase("CKA — the most similar layer"),
    "depth": phrase("depth — proportional, first to first and last to last"),
}
ROWS = {
    "by-class": phrase("by class — tokens that end inside a teacher token have a map of their own"),
    "exact": phrase("one map — fitted where both models have read the same bytes"),
}
ROW_WEIGHTS = {
    "equal": phrase("all alike"),
    "attention": phrase("by the attention that they receive from later tokens of the student"),
}
LOAD_IN = {
    "none": phrase("as they are"),
    "8bit": phrase("8 bits — rounded as they are read"),
    "4bit": phrase("4 bits — rounded as they are read"),
}
SEARCHES = {"banded": phrase("near the proportional depth"), "full": phrase("all teacher layers (slower)")}
PROJECTORS = {name: module.get("WORDS", name) for name, module in declared.PROJECTORS.items()}
KEYS = {"pre-rope": phrase("before RoPE (rotation undone)"), "post-rope": phrase("after RoPE (as cached)")}
CALIBRATION = {
    "auto": phrase("auto — also on the bundled samples when there are fewer than 20 prompts"),
    "samples": phrase("my prompts and the bundled samples"),
    "none": phrase("my prompts only"),
}
SEGMENTS = {
    "auto": phrase("from the fields of the file, else from markers in the text"),
    "fields": phrase("from the fields of the file only"),
    "none": phrase("none — every prompt is one"),
}


def show_error(error: KvlabError) -> None:
    """Show what the program expected, what it found, and what to do."""
    expected, found, remedy = (plain(part) for part in (error.expected, error.found, error.remedy))
    st.error(say("**Expected** {expected}", expected=expected), icon=":material/error:")
    st.markdown(say("**Found:** {found}\n\n**What to do:** {remedy}", found=found, remedy=remedy))


def plain(text: object) -> str:
    """Escape text of files, users or libraries: a page shows it to the letter, on one line, and never as Markdown.

    Halves of characters become "?".
    """
    line = re.sub(r"[\t-\r ]+", " ", str(text).encode("utf-8", "replace").decode())
    line = _STARTS.sub(r"\1\\\2", _SIGNS.sub(r"\\\g<0>", line))
    return _ENDS.sub(rf"\g<0>{_NOTHING}", line)


def duration(seconds: float | None) -> str:
    """Write a duration: 3725 -> 1 h 02 min, None -> a dash."""
    if seconds is None:
        return UNKNOWN
    seconds = round(seconds)
    hours, minutes, rest = seconds // 3600, seconds % 3600 // 60, seconds % 60
    if hours:
        return say("{hours} h {minutes:02} min", hours=hours, minutes=minutes)
    if minutes:
        return say("{minutes} min {seconds:02} s", minutes=minutes, seconds=rest)
    return say("{seconds} s", seconds=rest)


def choice(label: str, words: dict[str, str], key: str, **look: Any) -> str:
    """Draw a picker of the names of ``words``, shown in the page's language; return the name picked."""
    return st.selectbox(label, list(words), format_func=lambda name: say(words[name]), key=key, **look)


def segments(label: str, words: dict[str, str], key: str, **look: Any) -> str:
    """Draw the same picker as a row of buttons, one always pressed."""
    return st.segmented_control(
        label, list(words), format_func=lambda name: say(words[name]), key=key, required=True, **look
    )


def head_sentence(alignment: Alignment, score: HeadScore) -> str:
    """Describe one head, with n, split and controls."""
    name, where = KIND_NAME[score.kind], {"layer": score.layer, "head": score.head}
    if isnan(score.r2):
        return say(
            "Layer {layer}, head {head}: its {name} does not vary on these prompts, so nothing is scored.",
            name=name,
            **where,
        )
    if score.r2 > 0:
        explains = say("the teacher explains **{r2:.0%}** of {name} on held-out text", r2=score.r2, name=name)
    else:
        explains = say("the teacher explains nothing of {name} on held-out text (R² {r2:.2f})", r2=score.r2, name=name)
    if isfinite(score.added):
        explains = clauses([_adds(score, name), explains])
    sentence = say(
        "Layer {layer}, head {head}: {explains}, {gains} (shuffled rows: {shuffled}; n = {n:,} tokens, {folds} folds "
        "{split}).",
        explains=explains,
        gains=_gains(score),
        shuffled=whole(score.r2_shuffled),
        n=score.n,
        folds=alignment.data["folds"],
        split=plain(split_words(alignment.data["split"])),
        **where,
    )
    return sentence + _verdict(score)


def _adds(score: HeadScore, name: str) -> str:
    """Say what the teacher adds to the student's own tokens."""
    return say(
        "the teacher adds **{added}** of {name} to the student’s own tokens ({own} without any teacher, {both} "
        "together)",
        added=exact_points(score.added, score.added_se),
        name=name,
        own=whole(score.r2_own),
        both=whole(score.r2_with_own),
    )


def _gains(score: HeadScore) -> str:
    """Write the gains over both controls. A control worse than the training mean counts as the mean."""
    token = _over_token(min(score.gain, score.r2))
    if not isfinite(score.gain_random):
        return token
    random = _over_random(min(score.gain_random, score.r2_random + score.gain_random))
    return say("{one} and {other}", one=token, other=random)


def _over_token(gain: float) -> str:
    points = round(abs(gain) * 100)
    if gain >= 0:
        return plural(points, "{n} point more than its token alone does", "{n} points more than its token alone does")
    return plural(points, "{n} point less than its token alone does", "{n} points less than its token alone does")


def _over_random(gain: float) -> str:
    points = round(abs(gain) * 100)
    if gain >= 0:
        return plural(
            points,
            "{n} point more than a teacher of random weights",
            "{n} points more than a teacher of random weights",
        )
    return plural(
        points, "{n} point less than a teacher of random weights", "{n} points less than a teacher of random weights"
    )


def _verdict(score: HeadScore) -> str:
    if score.unbeaten is None:
        return say(
            " Fewer than three folds are scored, so there is no standard error: whether it beats its controls is not "
            "known."
        )
    if not score.unbeaten:
        return ""
    return say(" **It is no better than {controls}.**", controls=say(" and ").join(map(say, score.unbeaten)))


def grid(frame: Any, columns: dict, alt: str, height: int | str = "auto", **look: Any) -> Any:
    """Draw a table without row numbers. ``columns``: name -> heading or column_config, as for st.dataframe."""
    shown = {"hide_index": True, "placeholder": UNKNOWN, "column_config": columns, "height": height, "alt": alt}
    return st.dataframe(frame, **shown, **look)


def table_height(rows: int, most: int) -> int:
    """Return the height of a table without empty rows, at most ``most`` pixels."""
    return min(most, 38 + ROW_PIXELS * rows)


def number(label: str, help_text: str | None = None):
    """Configure a column of scores."""
    return st.column_config.NumberColumn(label, format="%.3f", help=help_text)


def count(label: str, help_text: str | None = None):
    """Configure a column of counts."""
    return st.column_config.NumberColumn(label, format="localized", help=help_text)
