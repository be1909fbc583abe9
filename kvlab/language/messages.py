"""Messages that were put together in English, recognised by their templates and said in Chinese.

An error comes from another process or from a run folder that an older version wrote, as a finished English sentence.
A template is that sentence with ``{names}`` where its values stood; the values stay as they are, unless they are
themselves messages. A message of several sentences that none of the templates is, is looked at sentence by sentence.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

from kvlab.language.chinese import MESSAGES

_HOLE = re.compile(r"\{(\w+)\}")


@lru_cache(maxsize=2000)
def in_chinese(message: str) -> str:
    """``message`` in Chinese; what no template knows stays as it is."""
    return _known(message) or _by_sentences(message)


def _known(message: str) -> str | None:
    if message in MESSAGES:
        return MESSAGES[message]
    for pattern, chinese in _patterns():
        if found := pattern.fullmatch(message):
            values = {name: _known(value) or value for name, value in found.groupdict().items()}
            return chinese.format(**values)
    return None


def _by_sentences(message: str) -> str:
    parts = re.split(r"(?<=[.!?;])\s+", message)
    if len(parts) == 1:
        return message
    return "".join(_known(part) or f"{part} " for part in parts).strip()


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """Of the templates with holes; those with most fixed text first, so that the most exact one wins."""
    holed = [(english, chinese) for english, chinese in MESSAGES.items() if _HOLE.search(english)]
    holed.sort(key=lambda pair: -len(_HOLE.sub("", pair[0])))
    return [(_pattern(english), chinese) for english, chinese in holed]


def _pattern(template: str) -> re.Pattern[str]:
    pieces = _HOLE.split(template)  # text, name, text, name, ..., text
    seen: set[str] = set()
    for at in range(1, len(pieces), 2):
        name = pieces[at]
        pieces[at] = f"(?P={name})" if name in seen else f"(?P<{name}>.+?)"
        seen.add(name)
    for at in range(0, len(pieces), 2):
        pieces[at] = re.escape(pieces[at])
    return re.compile("".join(pieces), re.DOTALL)
