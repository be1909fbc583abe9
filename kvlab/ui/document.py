"""Which document is looked at, and which stretch of a long one."""

from __future__ import annotations

import streamlit as st

from kvlab.language import say
from kvlab.results import Alignment

TOKENS_SHOWN = 600  # bars that can be told apart


def document_picker(alignment: Alignment, shown: str, where: str) -> int:
    """Which of the documents kept token by token is shown."""
    labels = [f"{d.id}: {' '.join(d.text.split())[:70]}" for d in alignment.inspected]
    return st.selectbox(
        say("Document"),
        range(len(labels)),
        format_func=labels.__getitem__,
        key=f"document-{where}-{shown}",
        help=say("The first documents of the analysis are kept token by token."),
    )


def token_window(alignment: Alignment, shown: str, number: int) -> tuple[int, int]:
    """First and last student token drawn; of a short document all, of a long one where the slider stands."""
    first, last, of = _stretch(
        say("First token shown"), len(alignment.inspected[number].student_tokens), f"tokens-from-{shown}-{number}"
    )
    if of:
        st.caption(say("Drawn: tokens {first}–{last} of {all}. The table below is of the whole document.", **of))
    return first, last


def step_window(alignment: Alignment, shown: str, number: int) -> tuple[int, int]:
    """As ``token_window``, of the teacher's steps."""
    first, last, of = _stretch(
        say("First step shown"), len(alignment.inspected[number].teacher_tokens), f"steps-from-{shown}-{number}"
    )
    if of:
        st.caption(say("Drawn: steps {first}–{last} of {all}. The sentence above is of the whole document.", **of))
    return first, last


def _stretch(label: str, length: int, key: str) -> tuple[int, int, dict[str, str]]:
    """First and last, and the same as fields of a note; no fields where all is drawn."""
    if length <= TOKENS_SHOWN:
        return 0, length - 1, {}
    first = st.slider(label, 0, length - TOKENS_SHOWN, step=TOKENS_SHOWN // 10, key=key)
    last = first + TOKENS_SHOWN - 1
    return first, last, {"first": f"{first:,}", "last": f"{last:,}", "all": f"{length:,}"}
