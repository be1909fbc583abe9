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
    length = len(alignment.inspected[number].student_tokens)
    if length <= TOKENS_SHOWN:
        return 0, length - 1
    start = st.slider(
        say("First token shown"), 0, length - TOKENS_SHOWN, step=TOKENS_SHOWN // 10, key=f"tokens-from-{shown}-{number}"
    )
    st.caption(
        say(
            "Drawn: tokens {first}–{last} of {all}. The table below is of the whole document.",
            first=f"{start:,}",
            last=f"{start + TOKENS_SHOWN - 1:,}",
            all=f"{length:,}",
        )
    )
    return start, start + TOKENS_SHOWN - 1
