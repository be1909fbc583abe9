"""Save what an interrupted analysis or functional test has done, so that it can resume."""

import hashlib
import json
import logging
import time as clock
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kvlab import PACKAGE
from kvlab.align.fold_sums import HOST, FoldSums, Part
from kvlab.align.items import Item

log = logging.getLogger(__name__)

NAME = "unfinished.safetensors"
REFINEMENT = "unfinished-refinement.safetensors"  # of a functional test (kvlab.inject.refine)
EVERY = 30.0  # seconds between saves, at least
SHARE = 0.05  # of the time, at most, spent on saving


def name_of(process: int) -> str:
    """Return the name of the file of one of several processes; each keeps what it has read."""
    return NAME if process == 0 else f"unfinished.{process}.safetensors"


def hash_of_code(package: Path) -> str:
    """Hash the source of all rooms that take part in the work; texts and pages are in other rooms."""
    files = [package / "shapes.py"]
    for room in ("host", "request", "models", "align", "inject"):
        files += sorted((package / room).rglob("[!.]*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def hash_of_file(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


CODE = hash_of_code(PACKAGE)  # do not resume from what another version wrote


@dataclass
class Unfinished:
    """A file in the run's folder. ``asked_for``: all that its tensors depend on (models, settings, texts)."""

    folder: Path
    asked_for: Any
    name: str = NAME

    @property
    def path(self) -> Path:
        return self.folder / self.name

    def fingerprint(self, *of_work: Any) -> str:
        """Hash what was asked for, the code, and ``of_work``."""
        work = json.dumps([self.asked_for, CODE, *of_work], sort_keys=True, default=str)
        return hashlib.sha256(work.encode()).hexdigest()

    def write(self, tensors: Mapping[str, torch.Tensor], fingerprint: str, **metadata: str) -> None:
        """Replace the file as a whole. The work itself does not need it: a full disk is only logged."""
        partial = self.path.with_suffix(".partial")
        try:
            on_host = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
            save_file(on_host, partial, {"fingerprint": fingerprint, **metadata})
            partial.replace(self.path)
        except (OSError, SafetensorError) as error:
            log.warning("the work so far could not be kept in %s: %s", self.path, error)

    def read(self, fingerprint: str) -> tuple[dict[str, torch.Tensor], dict[str, str]] | None:
        """Read tensors and metadata; None when there is no whole file of this work."""
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("fingerprint") != fingerprint:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
        except (OSError, SafetensorError):
            return None

    def go_through(
        self,
        batches: Iterator[list[Item]],
        sums: Mapping[str, FoldSums],
        read_batch: Callable[[list[Item]], Any],
        add: Callable[[Any], None],
        count: Callable[[list[Item]], None],
    ) -> int:
        """Read every batch that the file lacks and add it to the sums; return how many batches the file held.

        Any interruption, including a request to stop from ``read_batch`` or ``count``, saves the sums. It does not
        save them when a batch is only half added.
        """
        # The names of the sums include the chosen layers.
        print_of_work = self.fingerprint(sorted(sums))
        done = continued = self._load(sums, print_of_work)
        saved, cost, whole = clock.monotonic(), 0.0, True
        try:
            for number, batch in enumerate(batches, 1):
                if number > continued:
                    batch_read = read_batch(batch)
                    whole = False
                    add(batch_read)
                    done, whole = number, True
                count(batch)
                now = clock.monotonic()
                if now - saved > max(EVERY, cost / SHARE):
                    self._save(sums, done, print_of_work)
                    saved = clock.monotonic()
                    cost = saved - now
        except BaseException:
            if whole and done > continued:
                self._save(sums, done, print_of_work)
            raise
        return continued

    def remove(self) -> None:
        """Delete the file, and those of other processes, when the work is done or given up."""
        of_others = self.folder.glob(f"{self.path.stem}.*[0-9].*")
        for path in (self.path, self.path.with_suffix(".partial"), *of_others):
            path.unlink(missing_ok=True)

    def _save(self, sums: Mapping[str, FoldSums], done: int, fingerprint: str) -> None:
        tensors = {}
        for name, fold_sums in sums.items():
            for number, pilot in enumerate(fold_sums.pilots):
                tensors[f"{name}|pilot|{number}"] = pilot.clone()  # sums share pilots, files do not share tensors
            for (part, fold), sums_of in fold_sums.parts.items():
                for field in sums_of.names():
                    tensors[f"{name}|{json.dumps(part)}|{fold}|{field}"] = torch.as_tensor(getattr(sums_of, field))
        self.write(tensors, fingerprint, batches=str(done))

    def _load(self, sums: Mapping[str, FoldSums], fingerprint: str) -> int:
        """Load the file's sums; return the number of their batches, 0 when there is no file of this work."""
        saved = self.read(fingerprint)
        if saved is None:
            return 0
        tensors, metadata = saved
        for name, fold_sums in sums.items():
            device = fold_sums.pilots[0].device
            named = {key: value for key, value in tensors.items() if key.startswith(f"{name}|")}
            fold_sums.pilots = tuple(named.pop(f"{name}|pilot|{n}").to(device) for n in range(len(fold_sums.pilots)))
            fold_sums.parts = {}
            for key, value in named.items():
                _, part, fold, field = key.split("|")
                use, row_class = json.loads(part)
                at = Part(use, tuple(row_class) if isinstance(row_class, list) else row_class), int(fold)
                sums_of = fold_sums.parts.setdefault(at, fold_sums.empty())
                setattr(sums_of, field, int(value) if field == "n" else value)
            fold_sums.away = device != HOST  # they come to the device when they are added to, or solved
        return int(metadata["batches"])
