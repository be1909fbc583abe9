"""Compare the peak memory of ``align`` on many prompts with that on few, each in its own process.

    python -m kvlab.bench.memory DOCUMENTS DEVICE      # prints bytes: before align, at the peak

The few prompts must fill the sample, and give enough rows per feature for four teacher layers side by side, as the
many do. Otherwise memory grows with the choices of the layer search, and the ratio does not measure the number of
prompts. So the models have few features: 64 per teacher layer.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers.utils import logging as transformers_logging

from kvlab import PROJECT
from kvlab.align.pipeline import align
from kvlab.bench.pair import SMALL, documents, random_pair
from kvlab.bench.row import MEMORY, Row, judged
from kvlab.request.align import AlignSettings
from kvlab.request.analysis_memory import analysis_memory

SETTINGS = AlignSettings(batch_tokens=1024, sample_tokens=4_000)  # a batch of each of five folds fills the sample
CHARACTERS = 60
FEW, MANY = 100, 10_000
STATUS = Path("/proc/self/status")


def many_prompts(device: torch.device, quick: bool) -> Row:
    few, many, rounds = (10, 20, 1) if quick else (FEW, MANY, 3)
    measured = [(in_own_process(few, device), in_own_process(many, device)) for _ in range(rounds)]
    return judged(
        f"peak memory, {many:,} prompts",
        f"{few:,} prompts",
        [many_bytes["peak"] / few_bytes["peak"] for few_bytes, many_bytes in measured],
        MEMORY,
        1.10,
        few_bytes=[few_bytes for few_bytes, _ in measured],
        many_bytes=[many_bytes for _, many_bytes in measured],
        batch_tokens=SETTINGS.batch_tokens,
        sample_tokens=SETTINGS.sample_tokens,
    )


def in_own_process(count: int, device: torch.device) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, str(count), str(device)]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(count: int, device: torch.device) -> dict[str, Any]:
    teacher, student = random_pair(device, SMALL)
    texts = documents(count, CHARACTERS)
    longest = max(len(m.tokenizer(text.text)["input_ids"]) for m in (teacher, student) for text in texts)
    dtype = str(teacher.dtype).removeprefix("torch.")
    asked = [teacher.geometry], student.geometry, SETTINGS, count, longest, str(device), dtype
    forecast = analysis_memory(*asked)
    before = used(device)  # with the weights
    alignment, _ = align(teacher, student, texts, SETTINGS)
    return {
        "before": before,
        "forecast": sum(part.bytes for part in forecast.device or forecast.host if part.name != "weights"),
        "peak": peak(device),
        "student_tokens": alignment.data["student_tokens"],
        "sample_rows": alignment.layer_map["rows"],
        "features": alignment.data["features"],
    }


def used(device: torch.device) -> int:
    """Return the bytes in use now: of this process, or allocated by torch on a GPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def peak(device: torch.device) -> int:
    """Return the most bytes in use so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():  # getrusage would include the parent's memory at the start of this process
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    transformers_logging.disable_progress_bar()
    print(json.dumps(measure(int(sys.argv[1]), torch.device(sys.argv[2]))))
