"""Tokenize a text into ids with the UTF-8 byte span that each token stands for.

Knows nothing of models. Spans come from the bytes in the vocabulary (exact, used whenever their concatenation is the
text, or what the normaliser makes of it) or else from the tokenizer's character offsets (unknown decoders).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import compress, pairwise

import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode

from kvlab.models.normalised import normalised
from kvlab.shapes import Tokens

BYTE_TOKEN = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


def tokenize(tokenizer, text: str) -> Tokens:
    """Tokenize the whole text with the special tokens that the tokenizer adds, without a chat template."""
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:  # a setting of the file, not of the caller
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    (encoded,) = backend.encode_batch_fast([text])  # without character offsets, which few texts need
    ids = encoded.ids  # each access makes a new list
    special = np.zeros(len(ids), dtype=bool)
    if backend.num_special_tokens_to_add(False):
        special[:] = np.frombuffer(bytes(encoded.special_tokens_mask), dtype=bool)
    pieces = pieces_of(tokenizer, ids)
    spans = spans_from_pieces(text, pieces, special)
    lossless = spans is not None
    if spans is None:
        content = np.flatnonzero(~special)
        offsets = backend.encode(text).offsets
        of_content = np.asarray(ids, dtype=np.int64)[content]
        inner, lossless = spans_by_section(text, tokenizer, of_content, [offsets[i] for i in content])
        ends = np.zeros(len(ids), dtype=np.int64)
        ends[content] = inner[:, 1]
        spans = tiled(ends)
    return Tokens(ids=np.fromiter(ids, np.int64, len(ids)), spans=spans, special=special, lossless=lossless)


def spans_from_pieces(text: str, pieces: list[bytes | None], special: np.ndarray) -> np.ndarray | None:
    """Return byte spans [T, 2] from the vocabulary's own bytes; None when these are not the text.

    A leading space that the text does not have is SentencePiece's dummy prefix and has no bytes.
    """
    content = list(compress(pieces, (~special).tolist())) if special.any() else pieces
    try:
        joined, written = b"".join(content), text.encode()
    except TypeError:  # a piece is None
        return None
    dummy_prefix = joined != written and joined == b" " + written
    if joined != written and not dummy_prefix:
        return None
    lengths = np.zeros(len(pieces), dtype=np.int64)
    lengths[~special] = np.fromiter(map(len, content), np.int64, len(content))
    ends = np.cumsum(lengths)
    if dummy_prefix:
        ends = np.maximum(ends - 1, 0)
    return tiled(ends)


def spans_by_section(text: str, tokenizer, ids: np.ndarray, offsets: list[tuple[int, int]]) -> tuple[np.ndarray, bool]:
    """Return byte spans [T, 2] of a text, and whether all came from the vocabulary's own bytes.

    Like the tokenizer, treat the text between two added tokens separately, dummy prefix and normaliser included.
    """
    at_byte = np.concatenate([[0], np.cumsum([len(c.encode()) for c in text])]).astype(np.int64)
    known = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    known = {i: content for i, content in known.items() if not BYTE_TOKEN.match(content)}
    # The token for unknown text is an added one, too, and stands nowhere in the text.
    written = [
        token_id in known and known[token_id].casefold() in text[start:end].casefold()
        for token_id, (start, end) in zip(ids.tolist(), offsets)
    ]
    added = np.flatnonzero(written).tolist()
    spans = at_byte[np.asarray(offsets, dtype=np.int64).reshape(-1, 2)]
    lossless = True
    for before, after in zip([-1, *added], [*added, len(ids)]):
        inner = slice(before + 1, after)
        if inner.start == inner.stop:
            continue
        start = offsets[before][1] if before >= 0 else 0
        section = text[start : offsets[after][0] if after < len(ids) else len(text)]
        pieces = [
            None if i in known else piece
            for i, piece in zip(ids[inner].tolist(), pieces_of(tokenizer, ids[inner].tolist()))
        ]
        none_special = np.zeros(len(pieces), dtype=bool)
        inner_spans = spans_from_pieces(section, pieces, none_special)
        if inner_spans is None:
            lossless = False
            inner_spans = _spans_from_normalised(section, pieces, tokenizer.backend_tokenizer.normalizer)
        if inner_spans is None:
            inner_offsets = [(a - start, b - start) for a, b in offsets[inner]]
            inner_spans = spans_from_offsets(section, inner_offsets, pieces, none_special)
        inner_spans[-1, 1] = len(section.encode())  # with what a normaliser takes away at the end
        spans[inner] = at_byte[start] + inner_spans
    return spans, lossless


def _spans_from_normalised(text: str, pieces: list[bytes | None], normalizer) -> np.ndarray | None:
    """Return byte spans [T, 2] of the text where the vocabulary's bytes are those of its normalised form."""
    if normalizer is None:
        return None
    made = normalised(text, normalizer.normalize_str)
    if made is None:
        return None
    written, at_byte = made
    spans = spans_from_pieces(written, pieces, np.zeros(len(pieces), dtype=bool))
    return None if spans is None else tiled(at_byte[spans[:, 1]])


def tiled(ends: np.ndarray) -> np.ndarray:
    """Return spans [T, 2] that follow one another, of ends [T]; a token that ends before another has no bytes."""
    ends = np.maximum.accumulate(ends)
    return np.stack([np.concatenate([[0], ends[:-1]]) if len(ends) else ends, ends], axis=1)


def spans_from_offsets(
    text: str, offsets: list[tuple[int, int]], pieces: list[bytes | None], special: np.ndarray
) -> np.ndarray:
    """Return byte spans [T, 2] from character offsets, made to tile the text.

    Tokens that share a character (pieces of one multi-byte character) get sub-spans of its bytes, by the
    length of their own bytes where known, evenly otherwise. Whitespace that a tokenizer trims away belongs
    to the token after it.
    """
    at_byte = np.concatenate([[0], np.cumsum([len(c.encode()) for c in text])]).astype(np.int64)
    ends = np.zeros(len(offsets), dtype=np.int64)
    content = [i for i in range(len(offsets)) if not special[i]]
    for group in sharing_characters(content, offsets):
        start, end = at_byte[offsets[group[0]][0]], at_byte[max(offsets[i][1] for i in group)]
        if group[0] == content[0] and pieces[group[0]] == b" " and text[offsets[group[0]][0]] != " ":
            group = group[1:]  # without a dummy prefix on its own, which has no bytes
            if not group:
                continue
        lengths = [len(pieces[i]) if pieces[i] is not None else -1 for i in group]
        if group[0] == content[0] and (pieces[group[0]] or b"")[:1] == b" " and sum(lengths) == end - start + 1:
            lengths[0] -= 1  # SentencePiece's dummy prefix
        if min(lengths) >= 0 and sum(lengths) == end - start:
            ends[group] = start + np.cumsum(lengths)
        else:
            share = np.arange(1, len(group) + 1) / len(group)
            ends[group] = start + np.round(share * (end - start)).astype(np.int64)
    previous = 0
    for i in range(len(ends)):
        ends[i] = previous = previous if special[i] else max(previous, int(ends[i]))
    return tiled(ends)


def sharing_characters(content: list[int], offsets: list[tuple[int, int]]) -> list[list[int]]:
    """Group token positions into runs whose character ranges overlap."""
    groups: list[list[int]] = [content[:1]] if content else []
    for before, here in pairwise(content):
        if offsets[here][0] < offsets[before][1]:
            groups[-1].append(here)
        else:
            groups.append([here])
    return groups


def written_special(tokenizer, tokens: Tokens) -> list[str]:
    """List special tokens that stand in the text itself, such as a written ``<|endoftext|>``, each once.

    The tokenizer's token for unknown text is one of them.
    """
    special = _special_ids(tokenizer)
    content_ids = np.unique(tokens.ids[~tokens.special]).tolist() if special else []
    return [special[token_id] for token_id in content_ids if token_id in special]


@lru_cache(maxsize=8)
def _special_ids(tokenizer) -> dict[int, str]:
    added = tokenizer.added_tokens_decoder.items()
    return {i: token.content for i, token in added if token.special and not BYTE_TOKEN.match(token.content)}


def pieces_of(tokenizer, ids: Iterable[int]) -> list[bytes | None]:
    """Return the bytes that each token stands for; None where the vocabulary does not define them."""
    return list(map(_table(tokenizer).__getitem__, ids))


@lru_cache(maxsize=8)
def _table(tokenizer) -> _Pieces:
    return _Pieces(tokenizer)


class _Pieces(dict):
    """Token id -> its bytes, read from the vocabulary at the first access."""

    def __init__(self, tokenizer):
        self._backend = tokenizer.backend_tokenizer
        parts = list(_parts_of(json.loads(self._backend.to_str())["decoder"]))
        self._decoders = {part["type"] for part in parts}
        self._replaced = [pair for part in parts for pair in _replaced_by(part)]
        self._added = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}

    def __missing__(self, token_id: int) -> bytes | None:
        self[token_id] = self._read(token_id)
        return self[token_id]

    def _read(self, token_id: int) -> bytes | None:
        piece = self._backend.id_to_token(token_id)
        if piece is None:
            return None
        byte = BYTE_TOKEN.match(piece)
        if token_id in self._added and not byte:
            return self._added[token_id].encode()
        if "ByteLevel" in self._decoders:
            table = _byte_of_character()
            return bytes(table[c] for c in piece) if all(c in table for c in piece) else None
        if "ByteFallback" in self._decoders and byte:
            return bytes([int(byte.group(1), 16)])
        if self._replaced:
            for sign, text in self._replaced:
                piece = piece.replace(sign, text)
            return piece.encode()
        return None


def _parts_of(decoder: dict | None) -> Iterator[dict]:
    if decoder is not None:
        yield decoder
        for inner in decoder.get("decoders", []):
            yield from _parts_of(inner)


def _replaced_by(decoder: dict) -> list[tuple[str, str]]:
    """Return what a decoder writes for signs of the vocabulary: a space for ``▁``, or for another sign."""
    if decoder["type"] == "Metaspace":
        return [(decoder["replacement"], " ")]
    if decoder["type"] == "Replace" and "String" in decoder["pattern"]:
        return [(decoder["pattern"]["String"], decoder["content"])]
    return []


@cache
def _byte_of_character() -> dict[str, int]:
    """Return the byte of each printable character with which byte-level BPE writes bytes (GPT-2's table)."""
    return {character: byte for byte, character in bytes_to_unicode().items()}
