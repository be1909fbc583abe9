"""Compare the reading of many documents by two processes with that by one, each process with one thread.

Both are the command as a user types it, on the demo pair; what is compared is the time of the documents behind the
sample, whose sums are added up at the end.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from kvlab import PROJECT
from kvlab.bench.pair import documents
from kvlab.bench.row import FASTER, Row, judged, not_measured

NAME, AGAINST, BAR = "align on two processes, documents behind the sample", "one process, a thread each", 1.7
DOCUMENTS, FEW, CHARACTERS, ROUNDS = 3_000, 40, 200, 3
SETTINGS = ("--sample-tokens", "1000", "--calibration", "none", "--no-random-teacher")
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
EQUAL = 1e-9


def two(device: torch.device, quick: bool) -> Row:
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        return not_measured(NAME, AGAINST, FASTER, BAR, "it needs two GPUs")
    count, rounds = (FEW, 1) if quick else (DOCUMENTS, ROUNDS)
    with TemporaryDirectory() as place:
        prompts = Path(place) / "prompts.jsonl"
        lines = (json.dumps({"prompt": document.text}) for document in documents(count, CHARACTERS))
        prompts.write_text("\n".join(lines), encoding="utf-8")
        measured = [[_align(prompts, device, launcher) for launcher in ((), LAUNCHER)] for _ in range(rounds)]
    seconds = [[result["timings"]["read_rest_s"] for result in of_round] for of_round in measured]
    one, both = (_scores(result) for result in measured[0])
    return judged(
        NAME,
        AGAINST,
        [alone / together for alone, together in seconds],
        FASTER,
        BAR,
        equal=len(one) == len(both) and all(abs(a - b) <= EQUAL for a, b in zip(one, both)),
        one_s=[alone for alone, _ in seconds],
        two_s=[together for _, together in seconds],
        documents=count,
        cores=os.cpu_count(),
    )


def _align(prompts: Path, device: torch.device, launcher: tuple[str, ...]) -> dict[str, Any]:
    with TemporaryDirectory() as out:
        command = [sys.executable, *launcher, "-m", "kvlab", "align", "--teacher", "demo/teacher"]
        command += ["--student", "demo/student", "--prompts", str(prompts), "--device", device.type, "--out", out]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
        options = {"cwd": PROJECT, "env": environment, "capture_output": True, "text": True}
        done = subprocess.run([*command, *SETTINGS], check=False, **options)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads((Path(out) / "alignment.json").read_text(encoding="utf-8"))


def _scores(result: dict[str, Any]) -> list[float]:
    return [head[name] for head in result["heads"] for name in ("r2", "gain", "cosine")]
