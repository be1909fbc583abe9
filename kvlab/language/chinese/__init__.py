"""Simplified Chinese: WORDS, what ``say`` speaks, and MESSAGES, what ``translated`` recognises. One file per part."""

from __future__ import annotations

from kvlab.language.chinese import analysis, common, walk

PARTS = (common, walk, analysis)
MESSAGE_PARTS = (analysis,)

WORDS: dict[str, str] = {}
for _part in PARTS:
    WORDS |= _part.WORDS
MESSAGES: dict[str, str] = {}
for _part in MESSAGE_PARTS:
    MESSAGES |= _part.MESSAGES
