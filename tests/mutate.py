"""Run the mutation list: break one line of kvlab at a time and see that a named test fails.

    python -m tests.mutate [ID ...] [--area align] [--jobs 2]

``tests/mutations/AREA.toml`` holds the mutations as data. Each runs in a copy of the project's tracked files, so the
working tree stays as it is. tests/test_mutations.py checks the list itself without running it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

PROJECT = Path(__file__).parents[1]
LISTS = Path(__file__).with_name("mutations")
LEAST_RATE = 0.98  # of the mutations that can be killed
SECONDS = 600  # for the tests of one mutation
QUIET = ("-q", "-x", "--no-header", "--tb=line", "-rfE", "-p", "xdist", "-p", "no:cacheprovider")

KILLED, SURVIVED, STALE, BROKEN, EQUIVALENT = "killed", "SURVIVED", "stale", "broken", "equivalent"
# A name that the mutation left undefined fails every test: no test noticed the wrong value.
NO_FAILURE = re.compile(r"^(FAILED|ERROR) .*(ImportError|ModuleNotFoundError|NameError|SyntaxError)\b", re.MULTILINE)


@dataclass(frozen=True)
class Mutation:
    """``before`` occurs once in ``file``. Either ``tests`` fail with ``after``, or ``equivalent`` says why none can."""

    id: str
    file: str
    change: str
    before: str
    after: str
    area: str
    tests: tuple[str, ...] = ()
    equivalent: str = ""


@dataclass(frozen=True)
class Outcome:
    """``seconds`` of the tests; ``output`` of pytest, for what is not as it should be."""

    mutation: Mutation
    result: str
    seconds: float = 0.0
    output: str = ""


def mutations(folder: Path = LISTS) -> list[Mutation]:
    """Read the lists of all areas."""
    found = []
    for path in sorted(folder.glob("*.toml")):
        for fields in tomllib.loads(path.read_text(encoding="utf-8")).get("mutation", []):
            tests = tuple(fields.pop("tests", ()))
            found.append(Mutation(**fields, area=path.stem, tests=tests))
    return found


def mutated(mutation: Mutation, project: Path) -> str | None:
    """Return the file's text with the mutation; None when ``before`` does not occur exactly once."""
    path = project / mutation.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text.replace(mutation.before, mutation.after) if text.count(mutation.before) == 1 else None


def run(mutation: Mutation, project: Path) -> Outcome:
    """Apply one mutation to the copy ``project``, run its tests, and restore the file."""
    text = mutated(mutation, project)
    if text is None:
        return Outcome(mutation, STALE)
    if mutation.equivalent:
        return Outcome(mutation, EQUIVALENT)
    path = project / mutation.file
    original = path.read_bytes()
    begin = time.monotonic()
    try:
        path.write_text(text, encoding="utf-8")
        code, output = pytest(project, [*QUIET, "-n", "0", *mutation.tests])
    finally:
        path.write_bytes(original)
    return Outcome(mutation, judged(code, output), time.monotonic() - begin, output)


def judged(code: int | None, output: str) -> str:
    """Name the result of a pytest run: it killed the mutation only when a test itself failed."""
    if code == 0:
        return SURVIVED
    return KILLED if code == 1 and not NO_FAILURE.search(output) else BROKEN


def pytest(project: Path, arguments: Sequence[str]) -> tuple[int | None, str]:
    """Run pytest in ``project``; the exit code is None when it took too long."""
    # Without the plugins that the tests do not need, a short test ends in half the time.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTHONPATH", None)  # it may lead to the project that was copied
    command = [sys.executable, "-m", "pytest", *arguments]
    process = subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        return None, f"{output}\nno end within {SECONDS} s"
    return process.returncode, output


def copy(project: Path, to: Path) -> Path:
    """Copy the tracked files, as they stand in the working tree."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=project, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (project / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project / name, to / name)
    return to


def unmutated(project: Path, chosen: Sequence[Mutation], jobs: int) -> str:
    """Run every named test once on the unchanged copy; return pytest's output if any fails, else ""."""
    tests = sorted({test for mutation in chosen for test in mutation.tests})
    if not tests:
        return ""
    spread = ("-n", str(jobs), "--dist", "loadfile") if jobs > 1 else ("-n", "0")
    code, output = pytest(project, [*QUIET, *spread, *tests])
    return output if code else ""


def run_all(chosen: Sequence[Mutation], jobs: int) -> list[Outcome]:
    """Print and return the outcome of each mutation; empty when a test fails without any."""
    with tempfile.TemporaryDirectory(prefix="kvlab-mutate-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copies.put(copy(PROJECT, Path(folder) / str(number)))
        if failed := unmutated(Path(folder) / "0", chosen, jobs):
            print(failed, "The tests fail without a mutation.", sep="\n")
            return []

        def one(mutation: Mutation) -> Outcome:
            project = copies.get()
            try:
                found = run(mutation, project)
            finally:
                copies.put(project)
            print(line(found), flush=True)
            return found

        with ThreadPoolExecutor(jobs) as threads:
            return list(threads.map(one, chosen))


def line(found: Outcome) -> str:
    mutation = found.mutation
    told = f"{found.result:10} {mutation.id:5} {found.seconds:5.1f} s  {mutation.file}: {mutation.change}"
    if found.result == BROKEN:
        told += "\n" + "\n".join(f"    {row}" for row in found.output.splitlines()[-15:])
    return told


def rate(outcomes: Sequence[Outcome]) -> float:
    """Return the killed share of the mutations that are not equivalent."""
    possible = [found for found in outcomes if found.result != EQUIVALENT]
    return sum(found.result == KILLED for found in possible) / len(possible) if possible else 1.0


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line per area and one for all, then everything that was not killed."""
    areas = sorted({found.mutation.area for found in outcomes})
    groups = {area: [found for found in outcomes if found.mutation.area == area] for area in areas}
    lines = []
    for name, group in {**groups, "all": outcomes}.items():
        counted = Counter(found.result for found in group)
        possible = len(group) - counted[EQUIVALENT]
        lines.append(f"{name}: {counted[KILLED]} of {possible} killed, {rate(group):.1%}")
    for result in (EQUIVALENT, SURVIVED, BROKEN, STALE):
        if named := [found.mutation.id for found in outcomes if found.result == result]:
            lines.append(f"{result}: {' '.join(named)}")
    return "\n".join(lines)


def select(every: Sequence[Mutation], ids: Sequence[str], area: str | None) -> list[Mutation]:
    """Raises SystemExit for an id or an area that is not in the lists, and for an empty choice."""
    unknown = {*ids} - {mutation.id for mutation in every}
    if unknown or (area and area not in {mutation.area for mutation in every}):
        raise SystemExit(f"not in {LISTS}: {' '.join(sorted(unknown)) or area}")
    chosen = [m for m in every if (not ids or m.id in ids) and (not area or m.area == area)]
    if not chosen:
        raise SystemExit("no mutation chosen")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("ids", nargs="*", metavar="ID", help="only these mutations")
    parser.add_argument("--area", help="only those of tests/mutations/AREA.toml")
    parser.add_argument("--jobs", type=int, default=1, help="mutations at once, each in its own copy")
    options = parser.parse_args(arguments)
    chosen = select(mutations(), options.ids, options.area)
    outcomes = run_all(chosen, max(options.jobs, 1))
    if not outcomes:
        return 1
    print(summary(outcomes))
    stale = any(found.result == STALE for found in outcomes)
    return int(stale or rate(outcomes) < LEAST_RATE)


if __name__ == "__main__":
    sys.exit(main())
