"""Simplified Chinese: WORDS, what ``say`` speaks, and MESSAGES, what ``translated`` recognises. One file per part.

A new part is a new file here with either or both of them.
"""

from __future__ import annotations

from kvlab.language.chinese import (
    analysis,
    common,
    drill,
    figures,
    injection,
    limits,
    live,
    report,
    runs,
    validation,
    walk,
)

PARTS = (
    common,
    walk,
    analysis,
    figures,
    report,
    live,
    runs,
    validation,
    drill,
    injection,
    limits,
)
MESSAGE_PARTS = (
    analysis,
    report,
    injection,
)

WORDS: dict[str, str] = {key: words for part in PARTS for key, words in part.WORDS.items()}
MESSAGES: dict[str, str] = {key: words for part in MESSAGE_PARTS for key, words in part.MESSAGES.items()}
