"""The words of the interface, its figures and reports, in English and Chinese.

English stands in the code and is the key; its Chinese stands in ``kvlab.language.chinese``. ``say`` and ``plural``
speak at once, ``mark`` names words that are spoken later (``say(MARKED[name])``), and ``translated`` is for messages
that were written in English elsewhere, also on disk: an error, a note, a log (``kvlab.language.messages``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from kvlab.language.chinese import WORDS
from kvlab.language.messages import in_chinese

LANGUAGES = {"en": "English", "zh": "中文"}
DEFAULT = "en"


class _Unknown:
    def __format__(self, form: str) -> str:
        return "–"


_UNKNOWN = _Unknown()
_spoken: ContextVar[str | None] = ContextVar("spoken", default=None)
_asked: Callable[[], str | None] | None = None


def say(text: str, **fields: Any) -> str:
    """``text``, a format string of ``fields``, in the current language; a dash for what is not a number."""
    words = WORDS.get(text, text) if current() == "zh" else text
    if not fields:
        return words
    return words.format(**{k: _UNKNOWN if isinstance(v, float) and v != v else v for k, v in fields.items()})


def plural(count: int, one: str, many: str, **fields: Any) -> str:
    """``one`` or ``many`` by ``count``, which is the field ``n``; Chinese is the translation of ``many``."""
    return say(one if count == 1 and current() == "en" else many, n=count, **fields)


def mark(text: str) -> str:
    """``text`` itself: a key for ``say``, in a table that is made before the language is known."""
    return text


def translated(message: str) -> str:
    """A message that was put together in English, in the current language; as it is where it is not known."""
    return in_chinese(message) if current() == "zh" else message


def current() -> str:
    """The language of ``speaking``, else of whoever asks (``ask``), else English."""
    spoken = _spoken.get()
    if spoken is None and _asked is not None:
        spoken = _asked()
    return spoken if spoken in LANGUAGES else DEFAULT


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Everything inside is in ``language``, one of LANGUAGES."""
    before = _spoken.set(language)
    try:
        yield
    finally:
        _spoken.reset(before)


def ask(who: Callable[[], str | None]) -> None:
    """From now on ``who`` tells the language wherever ``speaking`` does not: the web app asks the session."""
    global _asked
    _asked = who
