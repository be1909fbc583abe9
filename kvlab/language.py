"""Translate the words that people read: English and Chinese.

The code holds the English, which is the key; ``locale/zh/LC_MESSAGES/kvlab.po`` (gettext) holds the Chinese. ``say``
and ``plural`` translate at once. A ``Message`` carries its template and its values, so that an error, a note or a log
line can be translated later, also after a stay on disk. ``phrase`` marks words of a table that ``say`` translates
later. Only templates are translated, never values: a document called "done" keeps its name.
"""

from __future__ import annotations

import gettext
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from kvlab import PACKAGE

LANGUAGES = {"en": "English", "zh": "中文"}
DEFAULT = "en"
DOMAIN, FOLDER = "kvlab", PACKAGE / "locale"

_spoken: ContextVar[str | None] = ContextVar("spoken", default=None)
_choose: Callable[[], str | None] | None = None


class Message:
    """Words for people: a format string in English and its values. ``str`` translates it to the current language.

    A value may be a Message, or a list of values. ``many``, if any, is the template for every ``n`` but one.
    """

    __slots__ = ("many", "template", "values")

    def __init__(self, template: str, /, **values: Any):
        self.template, self.values, self.many = template, values, ""

    @classmethod
    def plural(cls, n: int, one: str, many: str, /, **values: Any) -> Message:
        message = cls(one, n=n, **values)
        message.many = many
        return message

    def __str__(self) -> str:
        catalogue = _catalogue(current())
        if self.many:
            words = catalogue.ngettext(self.template, self.many, self.values["n"])
        else:
            words = catalogue.gettext(self.template) if self.template else ""
        if not self.values:
            return words
        return words.format(**{name: _spelled(value) for name, value in self.values.items()})

    def __repr__(self) -> str:
        return f"Message({self.template!r}, {self.values!r})"

    def __format__(self, form: str) -> str:
        return format(str(self), form)

    def __contains__(self, words: str) -> bool:
        """Return whether the message contains ``words`` in the current language."""
        return words in str(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.template, self.many))

    def __reduce__(self):
        return Message.read, (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; ``Message.read`` reads them back. Objects of other types become their text."""
        values = {name: _stored(value) for name, value in self.values.items()}
        fields = {"text": self.template, "many": self.many, "values": values}
        return {name: field for name, field in fields.items() if field or name == "text"}

    @classmethod
    def read(cls, fields: object) -> Message:
        """Read a Message from JSON. Older versions wrote finished words; they become a value and stay untranslated."""
        if isinstance(fields, Message):
            return fields
        if isinstance(fields, Mapping) and isinstance(fields.get("text"), str):
            message = cls(fields["text"])
            values = fields.get("values")
            if isinstance(values, Mapping):
                message.values = {str(name): _restored(value) for name, value in values.items()}
            message.many = str(fields.get("many") or "")
            try:
                str(message)
            except (AttributeError, LookupError, TypeError, ValueError):  # a damaged file: show the template as it is
                return cls("{words}", words=fields["text"])
            return message
        return cls("{words}", words="" if fields is None else str(fields))


def say(text: str, **fields: Any) -> str:
    """Translate ``text``, a format string of ``fields``. A value that is None or NaN becomes a dash."""
    return str(Message(text, **fields))


def plural(count: int, one: str, many: str, **fields: Any) -> str:
    """Translate ``one`` or ``many``, depending on ``count``, which is the field ``n``."""
    return str(Message.plural(count, one, many, **fields))


def phrase(text: str) -> str:
    """Mark words of a table that exists before the language is known. ``say(TABLE[name])`` translates them."""
    return text


def current() -> str:
    """Return the language that ``speaking`` set, else the one that ``ask`` asks for, else English."""
    language = _spoken.get()
    if language is None and _choose is not None:
        language = _choose()
    return language if language in LANGUAGES else DEFAULT


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Speak ``language``, one of LANGUAGES, inside the block."""
    before = _spoken.set(language)
    try:
        yield
    finally:
        _spoken.reset(before)


def ask(choose: Callable[[], str | None]) -> None:
    """Let ``choose`` decide the language outside ``speaking``; the web app reads it from the session."""
    global _choose
    _choose = choose


@cache
def _catalogue(language: str) -> gettext.NullTranslations:
    if language == DEFAULT:
        return gettext.NullTranslations()
    return gettext.translation(DOMAIN, FOLDER, languages=[language])


class _Unknown:
    def __format__(self, form: str) -> str:
        return "–"


def _spelled(value: Any) -> Any:
    if value is None or (isinstance(value, float) and value != value):
        return _Unknown()
    if isinstance(value, list | tuple):
        return say(", ").join(str(part) for part in value)
    return value


def _stored(value: Any) -> Any:
    if isinstance(value, Message):
        return value.to_dict()
    if isinstance(value, list | tuple):
        return [_stored(part) for part in value]
    if isinstance(value, float) and value - value != 0:  # NaN and infinity are no JSON
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _restored(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Message.read(value)
    return [_restored(part) for part in value] if isinstance(value, list) else value
