"""The few numbers that tell finished analyses and functional tests apart in a list, read without their arrays."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from kvlab.results.alignment.data import JSON_NAME, HeadScore, numbers
from kvlab.results.function import data as function
from kvlab.runs.lenient import read_json

MOST = 64 << 20  # bytes of a result to read for one row
SOURCES = ("projected", "with-own-token", "projected-refined", "with-own-token-refined")


@dataclass(frozen=True)
class Summary:
    """None where it was not measured. Gains are means over heads of R² beyond the strongest control."""

    tokens: int | None = None  # scored, or continued
    documents: int | None = None
    gain_key: float | None = None
    gain_value: float | None = None
    kl: float | None = None  # of the best source with a teacher, at the main prefix; nats per token
    kl_control: float | None = None  # of the student's own tokens, without a teacher


NOTHING = Summary()


def of_run(folder: Path, kind: str) -> Summary:
    """Return the numbers of a finished analysis or functional test; all None for anything else."""
    tested = (function.JSON_NAME, _test)  # a certificate stands on a functional test in its folder
    of_kind = {"analysis": (JSON_NAME, _analysis), "injection": tested, "certificate": tested}
    name, read = of_kind.get(kind, ("", None))
    if read is None:
        return NOTHING
    try:
        file = (folder / name).lstat()
    except OSError:
        return NOTHING
    return _read(read, folder / name, file.st_mtime_ns) if file.st_size <= MOST else NOTHING


@lru_cache(maxsize=1000)
def _read(read, path: Path, written: int) -> Summary:
    try:
        return read(read_json(path))
    except (KeyError, TypeError, AttributeError, ValueError):  # a damaged result
        return NOTHING


def _analysis(result: dict[str, Any]) -> Summary:
    gains = {kind: _mean(map(gain, (s for s in result["heads"] if s["kind"] == kind))) for kind in ("key", "value")}
    facts = result["data"]
    return Summary(facts.get("rows_scored"), facts.get("documents"), gains["key"], gains["value"])


def gain(score: dict[str, Any]) -> float | None:
    """Return a head's R² beyond its strongest control; None for a head that does not vary."""
    found = HeadScore(**numbers(score)).strongest
    return None if found is None else found.r2


def _test(result: dict[str, Any]) -> Summary:
    at = {row["variant"]: row for row in result["injected"] if row["prefix"] == result["injection"]["prefix"]}
    sources = [row["kl"] for name, row in at.items() if name in SOURCES]
    controls = [row["kl"] for name, row in at.items() if name.startswith("own-tokens")]
    any_row = at["own"]
    return Summary(
        any_row["n"],
        any_row["documents"],
        kl=min(sources) if sources else None,
        kl_control=min(controls) if controls else None,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
