"""What a scenario of a word problem is made of; the sentences are in `english` and `chinese`.

Fields of a sentence: {N} name, {S} pronoun, {f} a friend, {p} place, {o} object, {m} measure word,
{v} the value at the start, {k} the number of an event.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Event(NamedTuple):
    op: str  # one of + - × ÷
    sentence: str
    gloss: str  # how the reasoning names the event


@dataclass(frozen=True)
class Scenario:
    name: str
    kind: str  # how numbers look: count, tenths, money or clock
    start: str
    unit: str
    questions: tuple[str, ...]
    events: tuple[Event, ...]
    objects: tuple[str, ...] = ("",)  # in Chinese "measure word + object", parted by a space
    places: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Language:
    code: str
    people: tuple[tuple[str, str], ...]  # name, pronoun
    context: dict[str, tuple[str, ...]]  # further fields that openings may use
    openings: tuple[str, ...]
    links: tuple[str, ...]  # put before an event sentence
    styles: dict[str, dict[str, str | tuple[str, ...]]]  # lead, steps (with {eq}, {gloss}, {k}), close
    scenarios: tuple[Scenario, ...]
    marker: str  # before the answer
    gap: str  # between sentences
    op_words: dict[str, str]
