"""Read and write run folders, which hold the truth about every run.

Knows no process, no model and no page. Files are replaced as a whole or grow by whole lines, so that a reader never
sees half of one. Links inside runs/ are not followed, except those that ``enlist`` makes.
"""

import errno
import json
import math
import numbers
import os
import re
import secrets
import shutil
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from kvlab import PROJECT
from kvlab.errors import RunError, system_reason
from kvlab.host import privacy
from kvlab.language import Message, phrase
from kvlab.runs.lenient import read_json

COMPUTED = ("analysis", "injection", "certificate")  # the kinds that the web app's warm worker computes
KINDS = {
    "analysis": phrase("analysis"),
    "injection": phrase("functional test"),
    "certificate": phrase("certificate"),
    "training": phrase("training"),
}
ACTIVE = ("queued", "running")
FINAL = ("done", "failed", "cancelled")
# The words for each state. "lost" is a judgement (monitor.judge), never written to disk.
STATES = {
    "queued": phrase("waiting"),
    "running": phrase("running"),
    "done": phrase("finished"),
    "failed": phrase("failed"),
    "cancelled": phrase("stopped"),
    "lost": phrase("lost"),
}

CONFIG, STATUS, METRICS = "config.yaml", "status.json", "metrics.jsonl"
LISTED = "listed_as"  # in the status of a run that lies elsewhere: the name of the link to it in runs/

# The settings that name a run, also in its status: reading YAML for every run of a list would be slow.
ABOUT = "about"
NAMING = ("teacher", "more_teachers", "teachers", "student", "prompts", "data", "control", "max_steps", "map", "fusion")
NAMING += ("trainable", "kv_loss", "time", "layers", "row_weights", "lr", "batch_size", "seed", "settings")

# A worker's run that nobody has taken this long after its creation belongs to a server that has ended.
UNCLAIMED = timedelta(seconds=60)

_ID = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{3}Z-[a-z0-9]+(?:-[a-z0-9]+)*-[0-9a-f]{4}", re.ASCII)
_SLUG_LENGTH = 40
_ID_LENGTH = len("20260131T120000.000Z") + 1 + _SLUG_LENGTH + 5

_writing = threading.Lock()  # one read-change-replace of a status at a time in this process
_drafting = threading.Lock()  # the threads of a process share the name of a draft


class Lines(NamedTuple):
    """The result of read_lines. The next call continues at ``offset``; ``garbage`` counts skipped lines."""

    records: list[dict[str, Any]]
    offset: int  # bytes
    garbage: int


def runs_root() -> Path:
    """Return the folder of all runs: KVLAB_RUNS if set, else runs/ of the project. Does not create it."""
    setting = os.environ.get("KVLAB_RUNS")
    return Path(setting).expanduser().absolute() if setting else PROJECT / "runs"


def make_root(root: Path) -> None:
    """Create the folder of all runs. The access of an existing folder that KVLAB_RUNS names is its owner's matter."""
    if root == PROJECT / "runs" or not root.exists():
        privacy.make(root)


def create(root: Path, kind: str, name: str, config: dict[str, Any]) -> Path:
    """Create the folder of a new run with its config and the status "queued"; it appears complete or not at all.

    ``kind``: one of KINDS. Raises RunError ``runs-unwritable`` or ``disk-full``.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {tuple(KINDS)}, got {kind!r}")
    now = datetime.now(UTC)
    status = {"kind": kind, "name": name, "state": "queued", "phase": "waiting", "done": 0, "total": 0}
    status[ABOUT] = {setting: config[setting] for setting in NAMING if setting in config}
    if kind in COMPUTED:
        status["next_heartbeat_due"] = timestamp(now + UNCLAIMED)
    with disk_errors(root):
        make_root(root)
        run_id = new_id(name, kind, now)
        draft = root / f".{run_id}.draft"
        privacy.make(draft)
        try:
            replace(draft / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
            write_status(draft, **status)
            draft.rename(root / run_id)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    return root / run_id


def write_status(folder: Path, **fields: Any) -> None:
    """Change ``fields`` of the run's status and ``updated``, and keep all others; readers see the old or the new one.

    Raises RunError ``runs-unwritable`` or ``disk-full``.
    """
    if "state" in fields and fields["state"] not in ACTIVE + FINAL:
        raise ValueError(f"state must be one of {ACTIVE + FINAL}, got {fields['state']!r}")
    with _writing, disk_errors(folder):
        status = {**read_status(folder), **fields, "updated": timestamp()}
        replace(folder / STATUS, _json(_finite(status, [])) + b"\n")


def read_status(folder: Path) -> dict[str, Any]:
    """Read the run's status; empty if it is missing or not a JSON object."""
    return read_json(folder / STATUS)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the run's settings; empty if they are missing or not a table in YAML."""
    try:
        with open(folder / CONFIG, "rb", opener=private) as file:
            config = yaml.safe_load(file)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def append_metrics(folder: Path, record: dict[str, Any]) -> None:
    """Add one line to the run's metrics.

    Numbers that JSON cannot hold (NaN, infinities) become null; the line's ``nonfinite`` names their fields.
    Raises RunError ``runs-unwritable`` or ``disk-full``.
    """
    nonfinite: list[str] = []
    line = _finite(record, nonfinite)
    if nonfinite:
        line["nonfinite"] = nonfinite
    append(folder / METRICS, _json(line) + b"\n")


def append(path: Path, data: bytes) -> None:
    """Add whole lines to a growing file of a run. Raises RunError ``runs-unwritable`` or ``disk-full``."""
    with disk_errors(path.parent), open(path, "ab", opener=private) as file:
        if _torn(path):  # a writer was killed in the middle of a line: start a new one
            data = b"\n" + data
        file.write(data)


def read_lines(path: Path, offset: int = 0) -> Lines:
    """Read the records after byte ``offset`` of a file that may be growing.

    Reads only lines that end in a newline and leaves a torn tail for the next call. Skips and counts lines that are
    not JSON objects. A file shorter than ``offset`` has been replaced: reads it from its start.
    """
    try:
        with open(path, "rb", opener=private) as file:
            size = os.fstat(file.fileno()).st_size
            start = offset if 0 <= offset <= size else 0
            file.seek(start)
            data = file.read()
    except OSError:
        return Lines([], offset, 0)
    data = data[: data.rfind(b"\n") + 1]
    parsed = [_record(line) for line in data.split(b"\n") if line.strip()]
    records = [record for record in parsed if record is not None]
    return Lines(records, start + len(data), len(parsed) - len(records))


def valid_id(run_id: object) -> bool:
    """Return whether ``run_id`` has the form that create gives; such a name cannot lead out of runs/."""
    return isinstance(run_id, str) and len(run_id) <= _ID_LENGTH and _ID.fullmatch(run_id) is not None


def created(run_id: str) -> datetime | None:
    """Return when a run was created: 20261123T232738.489Z-name-9e1b; None for another name."""
    if not valid_id(run_id):
        return None
    with suppress(ValueError):
        return datetime.strptime(run_id[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return None


def find(root: Path, run_id: str) -> Path:
    """Return the folder of a run. Raises RunError ``run-id-invalid`` or ``run-not-found``."""
    if not valid_id(run_id):
        raise RunError(
            "run-id-invalid",
            expected=Message("a run id like 20260131T120000.000Z-my-run-1a2b"),
            found=repr(run_id)[:100],
            remedy=Message("take the id from the list of runs: python -m kvlab runs list"),
        )
    folder = root / run_id
    if not is_run(folder):
        raise RunError(
            "run-not-found",
            expected=Message("the folder of run {id} in {folder}", id=run_id, folder=root),
            found=Message("a link, which is not followed") if folder.is_symlink() else Message("no such folder"),
            remedy=Message(
                "take the id from the list of runs: python -m kvlab runs list; runs kept elsewhere are found with "
                "KVLAB_RUNS=FOLDER"
            ),
        )
    return folder


def listing(root: Path) -> list[Path]:
    """Return the folders of all runs, newest first. Skips links and everything that is not a run folder."""
    try:
        with os.scandir(root) as entries:
            found = [entry for entry in entries if valid_id(entry.name)]
            names = [e.name for e in found if (is_run(root / e.name) if e.is_symlink() else e.is_dir())]
    except OSError:
        return []
    return [root / name for name in sorted(names, reverse=True)]


def is_run(folder: Path) -> bool:
    """Return whether this is a folder, or a link to the folder of a run that names the link in turn."""
    if folder.is_symlink():
        return read_status(folder).get(LISTED) == folder.name
    return folder.is_dir()


def enlist(root: Path, folder: Path) -> Path:
    """List a run that lies outside ``root`` among its runs, by a link there. Return the run's path in ``root``.

    Nobody else may write the run's status meanwhile. Raises RunError ``runs-unwritable`` or ``disk-full``.
    """
    place = in_list(root, folder)
    if place.parent == root:
        return place
    status = read_status(place)
    run_id = status.get(LISTED)
    if not valid_id(run_id) or os.path.lexists(root / run_id):  # of another run, as in a copied folder
        run_id = new_id(place.name, "training")
        write_status(place, **{LISTED: run_id})
    with disk_errors(root):
        make_root(root)
        (root / run_id).symlink_to(place)
    return root / run_id


def in_list(root: Path, folder: Path) -> Path:
    """Return the path in ``root`` of a run's folder; its own absolute path if it is not listed there."""
    folder = folder.resolve()
    for name in (folder.name, read_status(folder).get(LISTED)):
        if valid_id(name) and is_run(root / name) and (root / name).resolve() == folder:
            return root / name
    return folder


def timestamp(moment: datetime | None = None) -> str:
    """Return a moment (default: now) as UTC ISO text, to the millisecond."""
    return (moment or datetime.now(UTC)).isoformat(timespec="milliseconds")


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn the system's refusals to write at ``place`` into RunError ``disk-full`` or ``runs-unwritable``."""
    try:
        yield
    except OSError as error:
        reason = system_reason(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            room = Message("room to write in {folder}", folder=place)
            raise RunError("disk-full", expected=room, found=reason, remedy=free_space()) from error
        raise RunError(
            "runs-unwritable",
            expected=Message("a folder that can be written to: {folder}", folder=place),
            found=reason,
            remedy=Message("check that it exists and belongs to you, or keep runs elsewhere: KVLAB_RUNS=FOLDER"),
        ) from error


def free_space() -> Message:
    """Return the remedy for a full disk."""
    return Message("delete runs that are no longer needed, or keep runs on another disk: KVLAB_RUNS=FOLDER")


def new_id(name: str, kind: str, now: datetime | None = None) -> str:
    """Return a new id that begins with the moment and holds the name, or the kind for a nameless one."""
    now = now or datetime.now(UTC)
    moment = f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z"
    return f"{moment}-{_slug(name) or kind}-{secrets.token_hex(2)}"


def _slug(name: str) -> str:
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")[:_SLUG_LENGTH].strip("-")


def private(path: str, flags: int) -> int:
    """Open a file of a run, which is no link; the opener of ``open``."""
    return os.open(path, flags | os.O_NOFOLLOW, privacy.file_mode())


def replace(path: Path, data: bytes) -> None:
    """Replace a file by ``data``, completely or not at all, even if others write it too. Raises OSError."""
    # Named by the process, not at random: a process that is killed here leaves at most one stray file.
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _drafting:
        try:
            with open(draft, "wb", opener=private) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise


def _torn(path: Path) -> bool:
    with open(path, "rb", opener=private) as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _json(value: Any) -> bytes:
    # A lone surrogate (from an undecodable file name) becomes its valid JSON escape.
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def _finite(value: Any, nonfinite: list[str], name: str = "") -> Any:
    """Return ``value`` in JSON's types, null for non-finite numbers; append their dotted names to ``nonfinite``."""
    if isinstance(value, dict):
        return {str(key): _finite(item, nonfinite, f"{name}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, nonfinite, f"{name}.{index}".lstrip(".")) for index, item in enumerate(value)]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        if math.isfinite(value):
            return float(value)
        nonfinite.append(name)
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value
