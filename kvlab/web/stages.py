"""Draw the stages of a run that works: what is done, the one in hand, and what is still to come."""

import streamlit as st

from kvlab.language import say
from kvlab.runs.stages import STAGES, place


def line(kind: str, phase: str, done: int, total: int) -> None:
    """Draw the stages of a run in one line; nothing for an unknown phase."""
    now = place(kind, phase, done, total)
    if now is None:
        return
    words = []
    for number, (name, _) in enumerate(STAGES[kind]):
        sign, look = ("✓", ":green[{}]") if number < now else ("▶", "**{}**") if number == now else ("○", ":gray[{}]")
        words.append(look.format(f"{sign} {say(name)}"))
    st.markdown(" → ".join(words))
