"""Messages that were put together in English, recognised by their templates and said in Chinese.

An error comes from another process or from a run folder that an older version wrote, as a finished English sentence.
A template is that sentence with ``{names}`` where its values stood (``{n}`` and ``{m}`` are numbers); the values stay
as they are, unless they are themselves messages. A message that no template is, is looked at piece by piece: its
sentences, and what stands before a colon or between commas.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

from kvlab.language.chinese import MESSAGES

MOST_PIECES = 24  # of a message; one of more is a list of values
FIRM = 8  # characters of a template before its first hole that tell it from others

_HOLE = re.compile(r"\{(\w+)\}")
_BETWEEN = re.compile(r"([.!?;,:]\s+)")
_MARKS = dict(zip(".!?;,:", "。！？；，："))
_STOPS = tuple(".!?")
_NUMBERS = ("n", "m")  # holes for nothing else
_LEFT = ("log", "path", "file", "folder")  # holes whose values are never messages
_QUOTED = {"'": "'", '"': '"', "[": "]", "{": "}", "/": "\n", "~": "\n"}  # how values begin and end


@lru_cache(maxsize=2000)
def in_chinese(message: str) -> str:
    """``message`` in Chinese; what no template knows stays as it is."""
    return _all_known(message) or _known(message) or _by_pieces(message)


def match(message: str) -> tuple[str, dict[str, str]] | None:
    """The template of a whole message, and its values."""
    if message in MESSAGES:
        return message, {}
    for template, pieces in _templates():
        if _may_be(message, pieces) and (found := _pattern(template).fullmatch(message)):
            return template, found.groupdict()
    return None


def _all_known(message: str) -> str | None:
    """Of several messages in a row, none of which may be taken for a value of another."""
    parts = message.split("; ")
    if message in MESSAGES or not 1 < len(parts) <= MOST_PIECES:
        return None
    said = [known for part in parts if (known := _known(part))]
    return "；".join(said) if len(said) == len(parts) else None


def _known(message: str) -> str | None:
    found = match(message)
    if found is None:
        return None
    template, values = found
    chinese = MESSAGES[template]
    said = {name: value if name in _LEFT else _value(value) for name, value in values.items()}
    return chinese.format(**said) if said else chinese


def _value(value: str) -> str:
    if "\n" in value or value.startswith("/") or value.endswith(_QUOTED.get(value[:1], "\n")):
        return _known(value) or value
    return in_chinese(value)


def _by_pieces(message: str) -> str:
    parts = _BETWEEN.split(message)  # piece, mark, piece, mark, ..., piece
    if len(parts) > 2 * MOST_PIECES:
        return message
    said, at = "", 0
    while at < len(parts):
        for end in range(at, len(parts), 2):
            piece, mark = "".join(parts[at : end + 1]), "".join(parts[end + 1 : end + 2])
            if piece != message and (bare := _known(piece)):
                said += bare + _MARKS.get(mark[:1], "")
                break
            if mark[:1] in _STOPS and (whole := _known(piece + mark[0])):  # a sentence with its full stop
                said += whole
                break
        else:
            end = at
            if closing := _QUOTED.get(parts[at][:1]):  # a value, whatever marks are in it
                places = range(at, len(parts) - 1, 2)
                end = next((n for n in places if parts[n].endswith(closing) or parts[n + 1][0] == ";"), len(parts) - 1)
            said += "".join(parts[at : end + 2])
        at = end + 2
    return said


@cache
def _templates() -> list[tuple[str, list[str]]]:
    """Those with holes, and their text between the holes; the most exact first.

    A hole near the start would take in the beginning of a message that has another in itself.
    """
    holed = [(english, _HOLE.split(english)[::2]) for english in MESSAGES if _HOLE.search(english)]
    return sorted(holed, key=lambda pair: (len(pair[1][0]) < FIRM, -sum(map(len, pair[1]))))


def _may_be(message: str, pieces: list[str]) -> bool:
    """Cheap, so that a pattern is compiled for a message that it is likely to fit, not for every template."""
    ends = message.startswith(pieces[0]) and message.endswith(pieces[-1])
    return ends and all(piece in message for piece in pieces)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = _HOLE.split(template)  # text, name, text, name, ..., text
    seen: set[str] = set()
    for at in range(1, len(pieces), 2):
        name = pieces[at]
        value = r"[-+\d.,%e]+" if name in _NUMBERS else ".+?"
        pieces[at] = f"(?P={name})" if name in seen else f"(?P<{name}>{value})"
        seen.add(name)
    for at in range(0, len(pieces), 2):
        pieces[at] = re.escape(pieces[at])
    return re.compile("".join(pieces), re.DOTALL)
