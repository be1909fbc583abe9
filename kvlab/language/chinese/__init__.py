"""Simplified Chinese: WORDS, what ``say`` speaks, and MESSAGES, what ``translated`` recognises. One file per part."""

from __future__ import annotations

from kvlab.language.chinese import (
    analysis,
    common,
    drill,
    errors_align,
    errors_environment,
    errors_input,
    errors_libraries,
    errors_models,
    errors_runs,
    errors_train,
    figures,
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
)
MESSAGE_PARTS = (
    analysis,
    report,
    errors_align,
    errors_environment,
    errors_input,
    errors_libraries,
    errors_models,
    errors_runs,
    errors_train,
)

WORDS: dict[str, str] = {}
for _part in PARTS:
    WORDS |= _part.WORDS
MESSAGES: dict[str, str] = {}
for _part in MESSAGE_PARTS:
    MESSAGES |= _part.MESSAGES
