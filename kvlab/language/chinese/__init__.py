"""Simplified Chinese: WORDS, what ``say`` speaks, and MESSAGES, what ``translated`` recognises. One file per part.

A new part is a new file here with either or both of them.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

_FILES = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
PARTS = [part for part in _FILES if hasattr(part, "WORDS")]
MESSAGE_PARTS = [part for part in _FILES if hasattr(part, "MESSAGES")]

WORDS: dict[str, str] = {key: words for part in PARTS for key, words in part.WORDS.items()}
MESSAGES: dict[str, str] = {key: words for part in MESSAGE_PARTS for key, words in part.MESSAGES.items()}
