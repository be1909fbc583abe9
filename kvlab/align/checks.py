"""Run the seven KV checks, which must hold before any number about a pair is believed.

Each check is a function that raises AssertionError with the values it saw. Titles and the printed block follow
the founding checklist word for word.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kvlab.align.projectors import KVProjector
from kvlab.align.resampling import linear_indices, resample_kv_with_interpolation, safe_time_resample
from kvlab.language import phrase, say

RULE = "=" * 80


def head_projection() -> None:
    keys, values = torch.randn(2, 12, 9, 16), torch.randn(2, 12, 9, 16)
    k, v = KVProjector(12, 2, 16, 16)(keys, values)
    _same_shape(k, (2, 2, 9, 16))
    _close(k, keys.reshape(2, 2, 6, 9, 16).mean(2), "projected keys against the mean of each group of six heads")
    _close(v, values.reshape(2, 2, 6, 9, 16).mean(2), "projected values against the mean of each group")


def head_and_width_projection() -> None:
    projector = KVProjector(28, 2, 128, 64)
    keys, values = torch.randn(2, 28, 5, 128), torch.randn(2, 28, 5, 128)
    k, v = projector(keys, values)
    _same_shape(k, (2, 2, 5, 64))
    _same_shape(v, (2, 2, 5, 64))
    rows = keys.transpose(1, 2).reshape(2, 5, 28 * 128)
    by_matrix = (rows @ projector.key.matrix()).reshape(2, 5, 2, 64).transpose(1, 2)
    _close(k, by_matrix.detach(), "head mixing and width against their Kronecker product")
    pairs = keys.reshape(2, 2, 14, 5, 64, 2).mean((2, 5))
    _close(k, pairs, "the start against the mean over 14 heads and channel pairs")
    shared = {id(p) for p in projector.key.parameters()} & {id(p) for p in projector.value.parameters()}
    assert not shared, "keys and values share a weight"


def time_resampling() -> None:
    indices = linear_indices(80, 50)
    assert indices.dtype == torch.int64, f"indices are {indices.dtype}, not int64"
    assert indices.min() >= 0 and indices.max() < 80, f"indices span {indices.min()}..{indices.max()}, not 0..79"
    assert (indices.diff() >= 0).all(), f"indices go back: {indices.tolist()}"
    assert (int(indices[0]), int(indices[-1])) == (0, 79), f"ends are {indices[0]} and {indices[-1]}, not 0 and 79"
    expected = np.floor(np.arange(50) * 79 / 49 + 0.5).astype(int)
    assert indices.tolist() == expected.tolist(), f"indices {indices.tolist()} are not round(i * 79 / 49)"
    x = torch.randn(2, 4, 80, 8)
    resampled, signal = safe_time_resample(x, 50)
    _close(resampled, x[:, :, expected], "resampled steps against the indexed ones")
    assert signal.all(), "a step of a full timeline is marked as without signal"


def one_step() -> None:
    x = torch.randn(2, 4, 1, 8)
    resampled, signal = safe_time_resample(x, 1)
    _close(resampled, x, "one step resampled to one step", tolerance=0)
    k, v, _ = resample_kv_with_interpolation(x, 2 * x, 1)
    _close(k, x, "one interpolated key step", tolerance=0)
    _close(v, 2 * x, "one interpolated value step", tolerance=0)
    assert signal.tolist() == [True], f"signal is {signal.tolist()}, not [True]"


def empty_timeline() -> None:
    empty = torch.randn(2, 4, 0, 8)
    resampled, signal = safe_time_resample(empty, 5)
    _same_shape(resampled, (2, 4, 5, 8))
    assert not resampled.any(), "an empty timeline gave values other than zero"
    assert not signal.any(), "an empty timeline is marked as carrying teacher signal"
    k, v, signal = resample_kv_with_interpolation(empty, empty, 5)
    _same_shape(k, (2, 4, 5, 8))
    assert not k.any() and not v.any() and not signal.any(), "interpolation of an empty timeline carries signal"
    nothing, signal = safe_time_resample(torch.randn(2, 4, 3, 8), 0)
    _same_shape(nothing, (2, 4, 0, 8))
    assert signal.shape == (0,), f"signal of no steps has shape {tuple(signal.shape)}"


def interpolation() -> None:
    keys, values = torch.randn(1, 2, 7, 3), torch.randn(1, 2, 7, 3)
    k, v, signal = resample_kv_with_interpolation(keys, values, 12)
    at = np.arange(12) * 6 / 11
    for name, result, source in (("keys", k, keys), ("values", v, values)):
        for head in range(2):
            for channel in range(3):
                line = np.interp(at, np.arange(7), source[0, head, :, channel].numpy())
                _close(result[0, head, :, channel], torch.from_numpy(line).float(), f"{name} against numpy.interp")
    assert signal.all(), "a step of a full timeline is marked as without signal"


def heads_then_time() -> None:
    projector = KVProjector(12, 2, 128, 64)
    keys, values = torch.randn(2, 12, 80, 128), torch.randn(2, 12, 80, 128)
    student_k, student_v = torch.randn(2, 2, 50, 64), torch.randn(2, 2, 50, 64)
    k, v, signal = resample_kv_with_interpolation(*projector(keys, values), 50)
    _same_shape(k, tuple(student_k.shape))
    _same_shape(v, tuple(student_v.shape))
    k_first, _, _ = resample_kv_with_interpolation(keys, values, 50)
    _close(
        projector.key(k_first), k.detach(), "heads then time against time then heads (both are linear)", tolerance=1e-4
    )
    loss = ((k - student_k) ** 2)[:, :, signal].mean() + ((v - student_v) ** 2)[:, :, signal].mean()
    assert torch.isfinite(loss), f"the loss is {loss.item()}"
    loss.backward()
    for name, weight in projector.named_parameters():
        assert weight.grad is not None, f"no gradient reached {name}"
        assert torch.isfinite(weight.grad).all(), f"the gradient of {name} is not finite"
        assert weight.grad.abs().sum() > 0, f"the gradient of {name} is zero"


def _close(actual: torch.Tensor, expected: torch.Tensor, what: str, tolerance: float = 1e-5) -> None:
    _same_shape(actual, tuple(expected.shape))
    off = float((actual.detach() - expected).abs().max()) if actual.numel() else 0.0
    assert off <= tolerance, f"{what}: off by {off:.3g} (allowed {tolerance:g})"


def _same_shape(actual: torch.Tensor, expected: tuple[int, ...]) -> None:
    assert tuple(actual.shape) == expected, f"shape {tuple(actual.shape)} instead of {expected}"


@dataclass(frozen=True)
class Check:
    title: str
    run: Callable[[], None]
    explanation: str
    passed: str = phrase("✓ test passed")


CHECKS = (
    Check(
        phrase("Projection of heads (GQA: Ht=12 -> Hs=2)"),
        head_projection,
        phrase("12 KV heads -> 2: at the start each student head is the mean of its six teacher heads."),
        phrase("✓ Projection of heads: passed"),
    ),
    Check(
        phrase("Other heads and another head_dim (Ht=28 -> Hs=2, Dt=128 -> Ds=64)"),
        head_and_width_projection,
        phrase("28 -> 2 heads and 128 -> 64 channels: equal to the one matrix it stands for; K and V share no weight."),
    ),
    Check(
        phrase("Safe resampling of time (T_in=80 -> T_out=50)"),
        time_resampling,
        phrase("80 -> 50 steps: integer indices, in range, monotone, both ends reached; the values are those steps."),
    ),
    Check(phrase("Boundary case (T_in=1, T_out=1)"), one_step, phrase("One step to one step is the identity.")),
    Check(
        phrase("Boundary case (T_in=0, an empty sequence)"),
        empty_timeline,
        phrase("No teacher step: zeros of the right shape, marked as carrying no teacher signal, no index error."),
    ),
    Check(
        phrase("Together: resample_kv_with_interpolation"),
        interpolation,
        phrase("resample_kv_with_interpolation is linear interpolation: equal to numpy.interp, channel by channel."),
    ),
    Check(
        phrase("All of it: projection of heads, then resampling of time"),
        heads_then_time,
        phrase(
            "Heads, then time: shapes match the student's, the loss is finite, every projector weight has a gradient."
        ),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """One check's result; ``error`` is None when it passed."""

    number: int
    title: str
    explanation: str
    error: str | None
    seconds: float


def run_checks() -> Iterator[Outcome]:
    """Run all seven in order; each gets the same random numbers every time."""
    for number, check in enumerate(CHECKS, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            started = time.perf_counter()
            error = None
            try:
                check.run()
            except Exception as problem:  # a check that crashes has failed; the others still run
                error = f"{type(problem).__name__}: {problem}"
        yield Outcome(number, check.title, check.explanation, error, time.perf_counter() - started)


def print_checks() -> bool:
    """Print the checks and return whether all passed; in Chinese it is the founding checklist's block."""
    heading = say("Verification of the KV alignment")
    print(f"{RULE}\n {heading}\n{RULE}\n")
    failed: list[Outcome] = []
    for outcome in run_checks():
        print(say("Check {number}: {title}", number=outcome.number, title=say(outcome.title)))
        if outcome.error is None:
            print(f"{say(CHECKS[outcome.number - 1].passed)}\n")
        else:
            failed.append(outcome)
            print(say("✗ failed: {error}", error=outcome.error) + "\n")
    print(RULE)
    if failed:
        print(say("❌ Checks that failed: {numbers}", numbers=", ".join(str(outcome.number) for outcome in failed)))
        keep = "python tests/test_kv_fixes.py 2>&1 | tee checks.log"
        print(say("PyTorch {version}; keep the whole output: {command}", version=torch.__version__, command=keep))
        print(say("Look at the environment: {command}; common problems: README.md", command="python -m kvlab doctor"))
    else:
        print(say("🎉 All checks passed!"))
    print(RULE)
    return not failed
