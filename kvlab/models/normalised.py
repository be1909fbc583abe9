"""Follow a tokenizer's normaliser: which bytes of a text have been read with a prefix of its normalised form.

A composing normaliser (NFC, NFKC) makes one character of a letter and its marks, and the tokenizer's own offsets then
name the letter alone. A token that ends behind the composed character has read the marks too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

import numpy as np

GUARD = "0"  # on both sides of a cluster, so that it is in the middle of a text; no mark joins a digit
LONGEST = 500  # characters of a piece, each prefix of which is normalised
JAMO = range(0x1160, 0x1200)  # vowels and final consonants, which join the syllable before them


def normalised(text: str, normalise: Callable[[str], str]) -> tuple[str, np.ndarray] | None:
    """Return the normalised text (N bytes) and, for each number of its bytes [N + 1], how many of the text they are.

    A letter with its marks is normalised on its own. Where these put together are not what the normaliser makes of the
    whole, as it replaces several characters at once, each word is, or else a short text as a whole; None where no such
    piece can be told. Behind the k-th character of a normalised piece, the
    fewest characters of the piece have been read of which every longer part has the same first k. What this does not
    tell apart (one character that becomes several, parts of a character) has shares of the bytes.
    """
    before = normalise(GUARD).removesuffix(GUARD)  # a dummy prefix

    def inner(some: str) -> str:
        return normalise(GUARD + some + GUARD)[len(before) + len(GUARD) : -len(GUARD)]

    made = normalise(text)
    for cut in (clusters, words, all_of):
        whole, at_byte = _put_together(cut(text), inner)
        ends = _ends_trimmed(whole, made.removeprefix(before)) or _ends_trimmed(whole, made)
        if ends is not None:
            break
    else:
        return None
    first, last = (len(whole[:place].encode()) for place in ends)
    whole, at_byte = whole[slice(*ends)], at_byte[first : last + 1].copy()
    at_byte[0] = 0  # what is trimmed belongs to the token behind it
    mark = inner(" ")
    if mark != " " and len(mark) == 1:
        # Pieces of the vocabulary have a space for each of these, of one byte instead of three.
        at_byte = at_byte[[True, *(not within for c in whole for within in _middle(c, mark))]]
        whole = whole.replace(mark, " ")
    at_byte[-1] = len(text.encode())  # what the normaliser takes away at the end belongs to the last token
    return whole, at_byte


def _put_together(pieces: Iterable[str], normalise: Callable[[str], str]) -> tuple[str, np.ndarray]:
    """Normalise each piece on its own; return these together, and the bytes read behind each of theirs [N + 1]."""
    parts, borders, at = [], [np.zeros(1, dtype=np.int64)], 0
    for piece in pieces:
        here = normalise(piece)
        parts.append(here)
        borders.append(at + _borders(piece, here, normalise))
        at += len(piece.encode())
    return "".join(parts), np.concatenate(borders)


def _ends_trimmed(whole: str, made: str) -> tuple[int, int] | None:
    """Return where ``made`` begins and ends in ``whole``, which has blanks more at its ends; None if it is not so."""
    for left in {whole, whole.lstrip()}:
        for some in {left, left.rstrip()}:
            if some == made:
                first = len(whole) - len(left)
                return first, first + len(some)
    return None


def clusters(text: str) -> Iterator[str]:
    """Yield each character with the marks and vowels behind it that a normaliser may join to it."""
    start = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or not _joins(text[place]):
            yield text[start:place]
            start = place


def words(text: str) -> Iterator[str]:
    """Yield each word with the blanks behind it, for normalisers that replace several characters at once."""
    if all(len(word) <= LONGEST for word in text.split()):
        yield from re.findall(r"\S+\s*|\s+", text)


def all_of(text: str) -> Iterator[str]:
    """Yield a short text as it is; nothing for a longer one, which would take too long."""
    if len(text) <= LONGEST:
        yield text


def _joins(character: str) -> bool:
    return not character.isascii() and (unicodedata.category(character)[0] == "M" or ord(character) in JAMO)


def _middle(character: str, mark: str) -> list[bool]:
    """Of each byte of a character, whether it is not the last one of the ``mark`` that stands for a space."""
    width = len(character.encode())
    return [character == mark and byte < width - 1 for byte in range(width)]


def _borders(cluster: str, here: str, normalise: Callable[[str], str]) -> np.ndarray:
    """Bytes of the piece of text that have been read behind each byte of its normalised form."""
    size, written = len(cluster.encode()), len(here.encode())
    if here == cluster:
        return np.arange(1, size + 1)
    shares = np.arange(1, written + 1) * size // max(written, 1)
    if len(cluster) == 1 or not here:
        return shares
    made = [normalise(cluster[:count]) for count in range(1, len(cluster) + 1)]
    ends, byte, read = shares.copy(), 0, 0
    for count, character in enumerate(here, 1):
        enough = len(made)
        while enough > 1 and made[enough - 2][:count] == here[:count]:
            enough -= 1
        width = len(character.encode())
        unresolved = enough == len(made) and count < len(here)
        end = int(shares[byte + width - 1]) if unresolved else len(cluster[:enough].encode())
        end = max(read, end)
        ends[byte : byte + width] = read + np.arange(1, width + 1) * (end - read) // width
        byte, read = byte + width, end
    return ends
