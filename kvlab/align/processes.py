"""Several processes of one analysis: each reads a share of the documents, the first one adds the sums and writes.

Every process tokenises all documents and reads the sample, so that all choose the same layers, subtract the same pilots
and count alike. Of the batches behind the sample each reads its share. Sums are additive, so those of all processes
are those of one that read everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from kvlab.align.fold_sums import FoldSums
from kvlab.errors import AlignError
from kvlab.host import launched
from kvlab.language import Message

SLOWEST = timedelta(hours=4)  # that processes wait for each other, at most: the first also measures the controls


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Connect the processes of a launcher. Raises as ``launched.check``."""
    launched.check(device)
    if launched.count() == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(launched.local_rank())
    distributed.init_process_group(timeout=SLOWEST)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@torch.inference_mode()
def begin(sums: Mapping[str, FoldSums]) -> None:
    """Give all processes the pilots of the first, which alone keeps what the sample has added."""
    if launched.count() == 1:
        return
    _of_all(sorted(sums))
    for name in sorted(sums):
        for pilot in sums[name].pilots:
            distributed.broadcast(pilot, src=0)
        if not launched.first():
            sums[name].parts = {}


@torch.inference_mode()
def add_up(sums: Mapping[str, FoldSums]) -> None:
    """Add the sums of all processes in those of the first."""
    if launched.count() == 1:
        return
    _of_all(sorted(sums))
    parts = _gathered({name: list(of_folds.parts) for name, of_folds in sums.items()})
    for name in sorted(sums):
        sums[name].reduce(sorted({part for of_process in parts for part in of_process[name]}, key=repr))


def _of_all(names: list[str]) -> None:
    """Raise AlignError ``processes-differ`` unless all processes have sums of these names."""
    if any(others != names for others in _gathered(names)):
        raise AlignError(
            "processes-differ",
            expected=Message("the same teacher layers in all processes, chosen on the same sample"),
            found=Message("other layers in another process: its numbers differ by rounding"),
            remedy=Message("use devices of one kind, or choose layers without measuring: --layers depth"),
        )


def _gathered(value: Any) -> list[Any]:
    values: list[Any] = [None] * launched.count()
    distributed.all_gather_object(values, value)
    return values
