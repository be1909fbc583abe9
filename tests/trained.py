"""Training runs for tests of the pages: really trained ones, and ones that fail, hang or are made by hand."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from kvlab.runs import store
from kvlab.train.process import perform
from tests.training import forget_accelerate

SHORT = {"max_steps": 6, "checkpoint_every": 3, "seed": 3}


def really(root: Path, name: str, pair: dict) -> Path:
    """A short run of these models, trained in this process, which has torch at hand."""
    folder = store.create(root, "training", name, pair | SHORT)
    forget_accelerate()
    assert perform(folder) in (0, 1), (folder / "training.log").read_text()
    assert store.read_status(folder)["state"] == "done"
    return folder


def by_hand(root: Path, name: str = "kv", steps: int = 4, state: str = "done", **settings) -> Path:
    """The folder of a run of ``steps`` of 100 steps whose loss at step n is 10 / n."""
    folder = store.create(root, "training", name, {"max_steps": 100, "seed": 7, **settings})
    for step in range(1, steps + 1):
        store.append_metrics(folder, {"step": step, "loss": 10 / step, "ce": 1 / step, "seconds": 0.5})
    for t, used in enumerate((3, 9, 5)):
        sample = {"t": t, "process_rss": used, "device_total": 90}
        store.append(folder / "memory.jsonl", json.dumps(sample).encode() + b"\n")
    write(
        folder, "verdict.json", {"state": "pass", "checkpoints": [{"step": 0, "name": "models loaded"}, {"step": 80}]}
    )
    write(folder, "report.json", {"before": {"ce": 3.5}, "after": {"ce": 3.25}, "device": {"device": "cpu"}})
    store.write_status(folder, state=state, started="2026-01-31T12:00:00+00:00", elapsed_s=70)
    return folder


def functional(kl: tuple[float, float] = (0.25, 0.125)) -> dict:
    """The functional test of a run as its report holds it, with ``kl`` on the projected cache at start and end."""

    def told(projected: float) -> dict:
        numbers = {"kl_se": 0.01, "delta_ce": projected / 2, "delta_ce_se": 0.02}
        variants = {"projected": projected, "mean": 0.75, "shuffled": 0.5}
        own = {"largest_difference": 1e-7, "tolerance": 1e-4, "reproduces": True}
        of = {name: {"kl": value, **numbers} for name, value in variants.items()}
        return {"prefix": 0.5, "documents": 32, "n": 1834, "own": own, "share_replaced": 0.875, "variants": of}

    changed = {"kl": kl[1] - kl[0], "kl_se": 0.03, "delta_ce": (kl[1] - kl[0]) / 2, "delta_ce_se": 0.04}
    change = dict.fromkeys(("projected", "mean", "shuffled"), changed)
    return {"before": told(kl[0]), "after": told(kl[1]), "change": change}


def lost(root: Path, name: str = "gone") -> Path:
    """A run whose process is no more."""
    folder = by_hand(root, name)
    store.write_status(folder, state="running", host=socket.gethostname(), pid=2**22 - 1, process_started=1.0)
    return folder


def garbage(root: Path) -> Path:
    """A run whose every file is damaged, after four steps that were logged whole."""
    folder = by_hand(root, "damaged")
    for name, data in {
        "status.json": b"\xff\xfe{",
        "config.yaml": b":\n\t- [\xff",
        "verdict.json": b"[]",
        "report.json": b'{"before": [1], "after": "x"}',
        "memory.jsonl": b"\x00\n",
        "notes.md": b"caf\xe9 <img src=x onerror=alert(1)> ![x](http://example.org/x.png)",
    }.items():
        (folder / name).write_bytes(data)
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'\xff no json\n{"step": 5, "lo')
    return folder


def link_out(root: Path, outside: Path) -> Path:
    """A link in runs/ with a run's name, to a folder elsewhere that looks like a run."""
    by_hand(root, "linked").rename(outside)
    link = root / "20260131T120000.000Z-linked-abcd"
    os.symlink(outside, link)
    return link


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value))
