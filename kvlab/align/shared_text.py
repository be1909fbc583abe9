"""Find text that documents share: repeated beginnings, and the share of held-out text that fitted documents hold.

Where documents begin alike, a causal model caches the same keys and values, whatever follows. A system prompt or a
template stands in every document of a set: with a split by document, one fold would fit on its rows and another would
score them.

Folds keep equal texts together, but not texts that only begin otherwise, or say the same sentences in another order.
``shared_shares`` measures how much of a held-out text was fitted on. Every run of ``RUN`` bytes has a rolling hash
(Karp and Rabin 1987, modulo 2^64). Only hashes of some values stay, the same values in every text (Manber 1994).
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import numpy as np

from kvlab.shapes import Tokens


def repeated_beginnings(texts: Iterable[str], known: Iterable[str] = ()) -> dict[str, int]:
    """Return for each distinct text how many UTF-8 bytes of its beginning an earlier or a ``known`` text begins with.

    O(n log n) comparisons: the longest common beginning is with a neighbour in alphabetical order.
    """
    ordered = sorted({text.encode() for text in known})
    repeated: dict[str, int] = {}
    for text in texts:
        if text in repeated:
            continue
        written = text.encode()
        place = bisect_left(ordered, written)
        repeated[text] = max((_common(written, other) for other in ordered[max(place - 1, 0) : place + 1]), default=0)
        ordered.insert(place, written)
    return repeated


def repeated_steps(tokens: Tokens, repeated: int) -> np.ndarray:
    """Return [T] bool: the tokens within the first ``repeated`` bytes of their text."""
    return tokens.spans[:, 1] <= repeated if repeated else np.zeros(len(tokens), dtype=bool)


def _common(a: bytes, b: bytes) -> int:
    """Return the length of the longest common beginning, by bisection: comparing slices is fast."""
    least, most = 0, min(len(a), len(b))
    while least < most:
        middle = (least + most + 1) // 2
        if a[:middle] == b[:middle]:
            least = middle
        else:
            most = middle - 1
    return least


RUN = 64  # bytes
ONE_IN = 8  # runs kept
MOST_KEPT = 2_000_000  # runs of all texts together, about; of more text, fewer are kept

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 2**64)
_MIX = 0xD6E8FEB86659FD93


def shared_shares(texts: Sequence[bytes], folds: Sequence[int]) -> np.ndarray:
    """Return [N] the share of each text's runs that another fold also has; 0 for a text shorter than a run."""
    one_in = max(ONE_IN, sum(map(len, texts)) // MOST_KEPT)
    longest = max(map(len, texts), default=0)
    powers, inverses = _powers(_BASE, longest), _powers(_INVERSE, longest)
    hashes = [_run_hashes(text, powers, inverses, one_in) for text in texts]
    fold_of = np.asarray(folds)
    by_fold = [np.unique(np.concatenate([hashes[i] for i in np.flatnonzero(fold_of == f)])) for f in np.unique(fold_of)]
    values, count = np.unique(np.concatenate(by_fold), return_counts=True)
    in_several = values[count > 1]
    # One call for all texts, because each call sorts ``in_several``.
    everywhere = np.isin(np.concatenate(hashes), in_several)
    ends = np.cumsum([len(runs) for runs in hashes])
    return np.array([part.mean() if len(part) else 0.0 for part in np.split(everywhere, ends[:-1])])


def _run_hashes(text: bytes, powers: np.ndarray, inverses: np.ndarray, one_in: int) -> np.ndarray:
    """Hash the runs and keep one in ``one_in``, chosen by the hash; powers of the base for the longest of all texts."""
    if len(text) < RUN:
        return np.zeros(0, dtype=np.uint64)
    written = np.frombuffer(text, np.uint8) * powers[: len(text)]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(written, dtype=np.uint64)])
    hashes = (sums[RUN:] - sums[:-RUN]) * inverses[: len(text) - RUN + 1]
    # The low bits of such a sum are poor: mix them before choosing by them.
    hashes = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(_MIX)
    hashes ^= hashes >> np.uint64(32)
    return hashes[hashes % np.uint64(one_in) == 0]


def _powers(base: int, count: int) -> np.ndarray:
    """Return base^0, base^1, ... modulo 2^64."""
    powers = np.full(count, base, dtype=np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)
