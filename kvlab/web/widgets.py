"""Texts and widgets that several panels share."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, plural, say
from kvlab.request import declared
from kvlab.request.time_rules import RULES
from kvlab.results.alignment.data import Alignment, HeadScore
from kvlab.results.alignment.tables import split_words
from kvlab.results.answer import CANNOT_TELL, NO, PART, YES, Answer
from kvlab.results.style import KIND_NAME, plus_minus, written
from kvlab.results.words import listed

ROW_PIXELS = 35
GIB = 2**30
UNKNOWN = "–"
ANSWER_COLOURS = {YES: "green", PART: "orange", NO: "red", CANNOT_TELL: "gray"}

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


def distinct(labels: Mapping[Any, str], told: Callable[[Any], str]) -> dict[Any, str]:
    """Add ``told`` of its key to every label that another key has too: a picker knows its options by their words."""
    times = Counter(labels.values())
    return {key: f"{label} · {told(key)}" if times[label] > 1 else label for key, label in labels.items()}


def choice(label: str, words: dict[str, str], key: str, **look: Any) -> str:
    """Draw a picker of the names of ``words``, shown in the page's language; return the name picked."""
    return st.selectbox(label, list(words), format_func=lambda name: say(words[name]), key=key, **look)


def segments(label: str, words: dict[str, str], key: str, **look: Any) -> str:
    """Draw the same picker as a row of buttons, one always pressed."""
    return st.segmented_control(
        label, list(words), format_func=lambda name: say(words[name]), key=key, required=True, **look
    )


def answer_line(answer: Answer) -> None:
    """Draw an answer: the verdict, large and in its colour, and why."""
    with st.container(key="answer"):
        verdict = say("{verdict}.", verdict=answer.words)
        verdict = f":{ANSWER_COLOURS[answer.verdict]}[**{verdict}**]"
        st.markdown(say("{first} {second}", first=verdict, second=plain(answer.why)))


def cautions(notes: Sequence[object]) -> None:
    """Draw one line that opens: what to beware of in a result."""
    if notes:
        label = plural(len(notes), "{n} caution", "{n} cautions")
        with st.popover(label, icon=":material/warning:", type="tertiary"):
            for note in notes:
                st.warning(plain(note), icon=":material/info:")


def method(*parts: str) -> None:
    """Draw the mark behind which the numbers and their method stand."""
    with st.popover(say("Method"), icon=":material/info:", type="tertiary"):
        for part in filter(None, parts):
            st.markdown(plain(part))


def head_sentence(alignment: Alignment, score: HeadScore) -> str:
    """Describe one head: R², its gain over the strongest control, n, split, and the controls it does not beat."""
    name = KIND_NAME[score.kind]
    gain = score.strongest
    if gain is None:
        return say("Its {name} does not vary on these prompts, so nothing is scored.", name=name)
    words = say(
        "The teacher explains R² **{r2}** of {name}; beyond its strongest control, {control}: **{gain}** (n = {n:,} "
        "tokens, {folds} folds {split}).",
        r2=written(score.r2) + plus_minus(score.se),
        name=name,
        control=say(gain.control),
        gain=written(gain.r2, sign="+") + plus_minus(gain.se),
        n=score.n,
        folds=alignment.data["folds"],
        split=plain(split_words(alignment.data["split"])),
    )
    return words + _verdict(score)


def _verdict(score: HeadScore) -> str:
    if score.unbeaten is None:
        return say(
            " Fewer than three folds are scored, so there is no standard error: whether it beats its controls is not "
            "known."
        )
    below = [say(gain.control) for gain in score.gains if gain.control in score.unbeaten and gain.r2 <= 0]
    within = [say(gain.control) for gain in score.gains if gain.control in score.unbeaten and gain.r2 > 0]
    parts = []
    if below:
        parts.append(say(" **It is no better than {controls}.**", controls=listed(below)))
    if within:
        parts.append(say(" **It cannot be told from {controls}.**", controls=listed(within)))
    return "".join(parts)


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
