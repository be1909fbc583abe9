"""Send a million synthetic tokens through the statistics of ``align``; their memory must not grow with the tokens.

Rows have the widths of Qwen2-7B (4 KV heads of 128) and TinyLlama (4 of 64), drawn before the clock starts. A GPU
takes all layers of TinyLlama and both token controls (512 and 1,536 features), a processor two layers and none.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import torch

from kvlab.align.align_sums import AlignSums
from kvlab.align.fold_sums import FIT_AND_SCORE
from kvlab.align.layers import Choice
from kvlab.bench.memory import used
from kvlab.bench.row import MEMORY, Row, judged, wait
from kvlab.request.sums_size import MOST_OF_A_TOKEN, TOKENS_BEFORE
from kvlab.shapes import KINDS

WIDTH_T, WIDTH_S, HEAD, EMBEDDING, OWN = 512, 256, 64, MOST_OF_A_TOKEN, (1 + TOKENS_BEFORE) * MOST_OF_A_TOKEN
WIDTHS = (WIDTH_T, WIDTH_S, EMBEDDING, OWN)
FOLDS, BATCH, POOL = 5, 2000, 8
BAR = 1.05  # of memory after a tenth of the tokens: leaves room for other work of the process


def a_million_tokens(device: torch.device, quick: bool) -> Row:
    tokens = 20_000 if quick else 1_000_000
    layers = 22 if device.type == "cuda" and not quick else 2
    identity = device.type == "cuda" and not quick
    choices = [Choice((at,), (WIDTH_T,), (at,), ((at,),) * FOLDS) for at in range(layers)]
    identity_layers = {(HEAD, None): [(kind, layer) for kind in KINDS for layer in range(layers)]} if identity else {}
    sums = AlignSums(dict.fromkeys(KINDS, choices), FOLDS, identity_layers)
    generator = torch.Generator(device).manual_seed(0)
    widths = WIDTHS if identity else WIDTHS[:2]
    rows = Drawn([{w: torch.randn(BATCH, w, generator=generator, device=device) for w in widths} for _ in range(POOL)])

    held, started = {0: used(device)}, perf_counter()
    for number in range(tokens // BATCH):
        sums.add(number % FOLDS, FIT_AND_SCORE, rows, number)
        done = (number + 1) * BATCH
        if done in (tokens // 10, tokens):
            held[done] = used(device)
    wait(device)
    elapsed = perf_counter() - started
    return judged(
        f"memory, {tokens:,} tokens through the statistics",
        f"{tokens // 10:,} tokens",
        [held[tokens] / held[tokens // 10]],
        MEMORY,
        BAR,
        bytes_held={f"after {count:,}": size for count, size in held.items()},
        tokens_per_second=tokens / elapsed,
        student_layers=layers,
        token_identity=identity,
    )


class Drawn:
    """Batches of rows by number, which repeat."""

    def __init__(self, pool: list[dict[int, torch.Tensor]]):
        self._pool = pool

    @classmethod
    def empty(cls, device: torch.device) -> Drawn:
        """One batch of shapes, on the meta device without numbers."""
        return cls([{width: torch.empty(BATCH, width, device=device) for width in WIDTHS}])

    def _rows(self, number: int, width: int) -> torch.Tensor:
        return self._pool[number % len(self._pool)][width]

    def side_by_side(self, kind: str, layers: Sequence[int], number: int) -> torch.Tensor:
        return torch.cat([self._rows(number + layer, WIDTH_T) for layer in layers], dim=1)

    def y(self, kind: str, layer: int, number: int) -> torch.Tensor:
        return self._rows(number + layer + 1, WIDTH_S)

    def e(self, number: int) -> torch.Tensor:
        return self._rows(number, EMBEDDING)

    def own(self, number: int) -> torch.Tensor:
        return self._rows(number, OWN)

    def weights(self, layer: int, number: int) -> None:
        return None
