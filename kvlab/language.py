"""What people read, in English and Chinese.

English stands in the code and is the key; its Chinese stands in ``locale/zh/LC_MESSAGES/kvlab.po`` (gettext). ``say``
and ``plural`` speak at once; a ``Message`` carries its template and its values, to be spoken later and elsewhere: an
error, a note, a log line, also on disk; ``phrase`` names words of a table that ``say`` speaks later. Only templates are
translated, never values: a document called "done" keeps its name.
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
_asked: Callable[[], str | None] | None = None


class Message:
    """Words for people: a format string in English and its values, spoken by ``str`` in the current language.

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
        return words.format(**{name: _spelled(value) for name, value in self.values.items()}) if self.values else words

    def __repr__(self) -> str:
        return f"Message({self.template!r}, {self.values!r})"

    def __format__(self, form: str) -> str:
        return format(str(self), form)

    def __contains__(self, words: str) -> bool:
        """Whether it says ``words`` in the current language."""
        return words in str(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.template, self.many))

    def __reduce__(self):
        return Message.read, (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; ``Message.read`` is the way back. A value that is no number is kept as its words."""
        values = {name: _stored(value) for name, value in self.values.items()}
        fields = {"text": self.template, "many": self.many, "values": values}
        return {name: field for name, field in fields.items() if field or name == "text"}

    @classmethod
    def read(cls, fields: object) -> Message:
        """A Message from JSON. Finished words, as older versions wrote them, are values: they are not translated."""
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
            except (AttributeError, LookupError, TypeError, ValueError):  # a damaged file: its template, unspoken
                return cls("{words}", words=fields["text"])
            return message
        return cls("{words}", words="" if fields is None else str(fields))


def say(text: str, **fields: Any) -> str:
    """``text``, a format string of ``fields``, in the current language; a dash for what is not a number."""
    return str(Message(text, **fields))


def plural(count: int, one: str, many: str, **fields: Any) -> str:
    """``one`` or ``many`` by ``count``, which is the field ``n``, in the current language."""
    return str(Message.plural(count, one, many, **fields))


def phrase(text: str) -> str:
    """Name words of a table, which is made before the language is known: ``say(TABLE[name])`` speaks them."""
    return text


def current() -> str:
    """The language of ``speaking``, else of whoever asks (``ask``), else English."""
    spoken = _spoken.get()
    if spoken is None and _asked is not None:
        spoken = _asked()
    return spoken if spoken in LANGUAGES else DEFAULT


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Speak ``language``, one of LANGUAGES, inside the block."""
    before = _spoken.set(language)
    try:
        yield
    finally:
        _spoken.reset(before)


def ask(who: Callable[[], str | None]) -> None:
    """Let ``who`` tell the language wherever ``speaking`` does not: the web app asks the session."""
    global _asked
    _asked = who


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
