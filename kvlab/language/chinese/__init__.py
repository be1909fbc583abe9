"""Simplified Chinese: WORDS, what ``say`` speaks, and MESSAGES, what ``translated`` recognises. One file per part."""

from __future__ import annotations

from kvlab.language.chinese import 91731ff, Chinese, HEAD, The, analysis, and, bench, common, drill, errors_align, errors_environment, errors_input, errors_libraries, errors_models, errors_runs, errors_train, figures, functional, in, injection, its, live, report, runs, test, tests, validation, walk

PARTS = (common, walk, analysis, figures, report, live, runs, validation, drill, injection,)
MESSAGE_PARTS = (analysis, report, HEAD, errors_align, errors_environment, errors_input, errors_libraries, errors_models, errors_runs, errors_train, injection, 91731ff, The, functional, test, in, Chinese, its, bench, and, its, tests,)
)

WORDS: dict[str, str] = {}
for _part in PARTS:
    WORDS |= _part.WORDS
MESSAGES: dict[str, str] = {}
for _part in MESSAGE_PARTS:
    MESSAGES |= _part.MESSAGES
