"""Read a path of this machine: a file, or a folder of files, of LLaMA-Factory or of a Hugging Face data set.

Knows where each keeps its files and which split is for training; ``prompts.py`` reads the files.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from kvlab.errors import PromptError, system_reason
from kvlab.language import Message
from kvlab.request import prompts, tables, uploads
from kvlab.request.formats import AUTO, Form
from kvlab.request.prompts import LIMITS, Cut, Limits, Problem, Reading
from kvlab.request.uploads import Record, printable, shown
from kvlab.shapes import Document

INFO = "dataset_info.json"  # of LLaMA-Factory; Hugging Face's of the same name describes a saved data set
SAVED, SPLITS = "state.json", "dataset_dict.json"  # of ``save_to_disk``
_NO_DATA = re.compile(r"^(readme|license|dataset_infos?)\b|^\.", re.IGNORECASE)
_SPLIT = re.compile(r"(?:^|[-_.])(train|test|validation|valid|val|dev|eval)(?=[-_.]|$)", re.IGNORECASE)
# LLaMA-Factory's names of columns and tags -> ours.
_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "messages": "conversations",
    "system": "system",
    "tools": "tools",
    "chosen": "chosen",
    "rejected": "rejected",
}
_TAGS = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "assistant",
    "system_tag": "system",
}


def read_path(path: str | Path, form: Form = AUTO, limits: Limits = LIMITS) -> Reading:
    """Read a file as ``prompts.read_file`` does, or all files of a folder; of several splits only the training one.

    ``FOLDER/NAME`` is also the data set NAME of a LLaMA-Factory folder.
    Raises PromptError ``prompts-not-found`` and ``prompts-ambiguous``, and as ``prompts.read_upload``.
    """
    place = Path(os.path.expanduser(path))
    try:
        if not place.exists() and place.name in (listed := _listed(place.parent)):
            return _of_llama_factory(place.parent, listed[place.name], form, limits)
        if not place.is_dir():
            return prompts.read_file(place, form=form, limits=limits)
        return _read_folder(place, form, limits)
    except OSError as error:
        raise _not_found(place, system_reason(error)) from None


def _read_folder(folder: Path, form: Form, limits: Limits) -> Reading:
    if (folder / SAVED).is_file():
        return _read_saved(folder, form, limits)
    if (folder / SPLITS).is_file():
        return _read_splits(folder, form, limits)
    if listed := _listed(folder):
        if len(listed) > 1:
            raise PromptError(
                "prompts-ambiguous",
                expected=Message("one data set"),
                found=Message(
                    "{n} in {file}: {names}", n=len(listed), file=INFO, names=[shown(name) for name in listed][:20]
                ),
                remedy=Message("name one of them: {folder}/NAME", folder=printable(str(folder))),
            )
        return _of_llama_factory(folder, next(iter(listed.values())), form, limits)
    files = _files(folder)
    taken, others = _training(files)
    return _read_files(taken, form, limits, [file.name for file in others])


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder that can be read, else those of its folder ``data`` or of its only folder."""
    inside = sorted(folder.iterdir())
    files = [file for file in inside if file.is_file() and not _NO_DATA.match(file.name) and _readable(file.name)]
    if files:
        return files
    folders = [inner for inner in inside if inner.is_dir() and not _NO_DATA.match(inner.name)]
    filled = [inner for inner in folders if any(_readable(file.name) for file in inner.iterdir())]
    chosen = [inner for inner in filled if inner.name == "data"] or _training(filled)[0]
    if len(chosen) > 1:
        raise PromptError(
            "prompts-ambiguous",
            expected=Message("one folder with documents in {folder}", folder=shown(str(folder))),
            found=Message("{n}: {names}", n=len(chosen), names=[shown(inner.name) for inner in chosen[:20]]),
            remedy=Message("give one of them"),
        )
    if not chosen:
        raise _not_found(folder, Message("no file ending in {extensions}", extensions=list(uploads.EXTENSIONS)))
    return _files(chosen[0])


def _readable(name: str) -> bool:
    try:
        return bool(uploads.extension(name))
    except PromptError:
        return False


def _training(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return the paths of the split for training, and the others; without splits all paths."""
    split = {path: found[1].lower() for path in paths if (found := _SPLIT.search(path.name))}
    train = [path for path in paths if split.get(path) == "train"]
    return (train, [path for path in paths if path not in train]) if train else (paths, [])


def _read_files(files: list[Path], form: Form, limits: Limits, others: Iterable[str] = ()) -> Reading:
    """Read files as one reading; those beyond the limits of one file are left out, which is said."""
    readings: list[tuple[str, Reading]] = []
    sizes = [0, 0, 0]
    for number, file in enumerate(files):
        reading = prompts.read_file(file, form=form, limits=limits)
        found = reading.documents
        counts = len(found), sum(len(d.text.encode()) for d in found), sum(len(d.segments) for d in found)
        sizes = [size + count for size, count in zip(sizes, counts)]
        if readings and any(size > most for size, most in zip(sizes, (limits.documents, limits.text, limits.segments))):
            together = _together(readings, others)
            return replace(together, problems=[*together.problems, _too_much(files[number:], number, limits)])
        readings.append((file.name, reading))
    return _together(readings, others)


def _too_much(left: list[Path], read: int, limits: Limits) -> Problem:
    most = {"n": limits.documents, "size": limits.text / 2**20, "parts": limits.segments}
    error = PromptError(
        "prompts-too-many-files",
        expected=Message(
            "at most {n:,} documents, {size:g} MiB of text and {parts:,} turns or parts in all files together", **most
        ),
        found=Message(
            "more: files read {n:,}, not read {names}", n=read, names=[shown(file.name) for file in left[:20]]
        ),
        remedy=Message("give the other files by themselves"),
    )
    return Problem(Message("folder"), "too-many-files", error.message)


def _together(readings: list[tuple[str, Reading]], others: Iterable[str] = ()) -> Reading:
    """Return the readings of several files as one, which says the files; a text of two files is one document."""
    places = [Message("files: {names}", names=[shown(name) for name, _ in readings][:20])]
    if names := [shown(name) for name in others]:
        places.append(Message("files of other splits, not read: {names}", names=names[:20]))
    if len(readings) == 1:
        return replace(readings[0][1], places=places)
    documents: dict[str, Document] = {}
    taken: set[str] = set()
    problems: list[Problem] = []
    cut: list[Cut] = []
    counted: Counter[str] = Counter()
    duplicates = 0
    for name, reading in readings:
        ids = {document.id: _free(document.id, name, taken) for document in reading.documents}
        new = {
            d.text: replace(d, id=ids[d.id], domain=d.domain or printable(Path(name).stem))
            for d in reading.documents
            if d.text not in documents
        }
        documents |= new
        taken |= {document.id for document in new.values()}
        repeated = len(reading.documents) - len(new)
        duplicates += reading.duplicates + repeated
        counted += Counter(reading.formats)
        counted[next(iter(reading.formats))] -= repeated  # the records of a file are of one format
        kept = {document.id for document in new.values()}
        cut += [replace(long, id=ids[long.id]) for long in reading.cut if ids[long.id] in kept]
        problems += [
            replace(problem, where=Message("{file}, {where}", file=printable(name), where=problem.where))
            for problem in reading.problems
        ]
    read = [reading for _, reading in readings]
    return Reading(
        list(documents.values()),
        problems,
        duplicates,
        cut,
        formats=dict(+counted),
        parts=list(dict.fromkeys(part for reading in read for part in reading.parts)),
        left_out=list(dict.fromkeys(name for reading in read for name in reading.left_out)),
        places=places,
    )


def _free(given: str, file: str, taken: set[str]) -> str:
    """Return an id that no document of another file has."""
    if given not in taken:
        return given
    named = f"{printable(file)}/{given}"
    return next(name for name in chain([named], (f"{named}-{n}" for n in count(2))) if name not in taken)


# ---- LLaMA-Factory


def _listed(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the data sets with files of this machine that a LLaMA-Factory folder lists; {} for other folders."""
    try:
        listed = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = listed.items() if isinstance(listed, dict) else ()
    return {
        name: entry for name, entry in entries if isinstance(entry, dict) and isinstance(entry.get("file_name"), str)
    }


def _of_llama_factory(folder: Path, entry: dict[str, Any], form: Form, limits: Limits) -> Reading:
    """Read the files of a data set with the columns, roles and format that its entry gives, unless ``form`` does."""
    file = (folder / entry["file_name"]).resolve()
    if folder.resolve() not in file.parents:
        raise _not_found(folder, Message("{name}, which lies outside of it", name=shown(entry["file_name"])))
    asked = _form_of(entry) if form == AUTO else form
    return _read_files(_files(file) if file.is_dir() else [file], asked, limits)


def _form_of(entry: dict[str, Any]) -> Form:
    columns, tags = (entry[key] if isinstance(entry.get(key), dict) else {} for key in ("columns", "tags"))
    chat = entry.get("formatting", "alpaca") != "alpaca"
    names = [(theirs, _COLUMNS[ours]) for ours, theirs in columns.items() if ours in _COLUMNS]
    roles = [(theirs, _TAGS[ours]) for ours, theirs in tags.items() if ours in _TAGS]
    turn = (str(tags.get("role_tag", "from")), str(tags.get("content_tag", "value")))
    return Form(
        "preference" if entry.get("ranking") is True else "sharegpt" if chat else "alpaca",
        names=tuple((theirs, ours) for theirs, ours in names if isinstance(theirs, str)),
        roles=tuple((theirs, ours) for theirs, ours in roles if isinstance(theirs, str)),
        turn=turn if "role_tag" in tags or "content_tag" in tags else None,
    )


# ---- Hugging Face data sets saved to disk


def _read_splits(folder: Path, form: Form, limits: Limits) -> Reading:
    names = _stored(folder / SPLITS).get("splits") or []
    taken, others = _training([folder / name for name in names if isinstance(name, str) and Path(name).name == name])
    if len(taken) != 1:
        raise PromptError(
            "prompts-ambiguous",
            expected=Message("one split"),
            found=Message("{n}: {names}", n=len(taken), names=[shown(inner.name) for inner in taken[:20]]),
            remedy=Message("give the folder of one of them"),
        )
    reading = _read_saved(taken[0], form, limits)
    return _together([(taken[0].name, reading)], [inner.name for inner in others])


def _read_saved(folder: Path, form: Form, limits: Limits) -> Reading:
    """Read what ``save_to_disk`` wrote, by the library that wrote it where it is installed, else by pyarrow."""
    try:
        from datasets import load_from_disk
    except ImportError:
        table = _arrow(folder)
    else:
        table = _of_library(load_from_disk(str(folder)))
    return prompts.read_table(table, form, limits)


def _arrow(folder: Path) -> tables.Table:
    import pyarrow as pa

    listed = _stored(folder / SAVED).get("_data_files") or []
    files = [folder / Path(str(file.get("filename"))).name for file in listed if isinstance(file, dict)]
    if not files:
        raise _not_found(folder, Message("no data files listed in {file}", file=SAVED))

    def batches(wanted: list[str]) -> Iterator[Any]:
        for file in files:
            with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
                for batch in stream:
                    yield from (batch.slice(start, 64).select(wanted) for start in range(0, len(batch), 64))

    try:
        with pa.memory_map(str(files[0])) as source, pa.ipc.open_stream(source) as stream:
            schema = stream.schema
    except (pa.ArrowException, OSError) as error:
        raise _not_found(folder, str(error).splitlines()[0][:120]) from None
    return tables.arrow_table(schema, batches)


def _of_library(dataset: Any) -> tables.Table:
    def rows(wanted: list[str]) -> Iterator[Record]:
        for number, fields in enumerate(dataset.select_columns(wanted).with_format(None), 1):
            yield Record("row", number, {name: tables.as_number(value) for name, value in fields.items()})

    def text_columns() -> list[str]:
        return [
            name for name, kind in dataset.features.items() if getattr(kind, "dtype", "") in ("string", "large_string")
        ]

    return tables.Table(list(dataset.column_names), text_columns, rows)


def _stored(file: Path) -> dict[str, Any]:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict):
        raise _not_found(file.parent, Message("a {file} that is no JSON object", file=file.name))
    return stored


def _not_found(place: Path, found: Message | str) -> PromptError:
    return PromptError(
        "prompts-not-found",
        expected=Message("a file or a folder with documents at {path}", path=shown(str(place))),
        found=found,
        remedy=Message("check the path and the permissions, or give one file"),
    )
