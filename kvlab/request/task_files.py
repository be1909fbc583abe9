"""Read tasks given as files: multiple choice (HellaSwag, ARC) and problems with an answer (GSM8K), by their fields.

A record that cannot be read is a problem of the reading and costs no other.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvlab.errors import PromptError, system_reason
from kvlab.language import Message
from kvlab.request import uploads
from kvlab.request.prompts import LIMITS, Problem
from kvlab.request.uploads import Record, shown

ENDINGS = {".jsonl": uploads.json_lines, ".json": uploads.json_file}
FIELDS = Message(
    "HellaSwag (ctx or ctx_a and ctx_b, endings, label), ARC (question, choices, answerKey) or GSM8K (question, answer "
    "with ####)"
)
GOLD = "####"


@dataclass(frozen=True)
class Choice:
    """One item of multiple choice. ``options`` go on from ``context`` as they stand, blanks included."""

    task: str
    id: str
    context: str
    options: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class Question:
    """One problem, to be answered in words."""

    task: str
    id: str
    context: str
    answer: str


Task = Choice | Question


@dataclass(frozen=True)
class Tasks:
    items: list[Task]
    problems: list[Problem] = field(default_factory=list)


def read_tasks(path: Path | str) -> Tasks:
    """Read a .jsonl or .json file, also .gz. Raises PromptError where nothing good is in it."""
    path = Path(os.path.expanduser(path))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PromptError(
            "prompts-not-found",
            expected=Message("a file of tasks at {path}", path=shown(str(path))),
            found=system_reason(error),
            remedy=Message("check the path and the permissions"),
        ) from None
    read = ENDINGS.get(uploads.extension(path.name))
    if read is None:
        raise PromptError(
            "prompts-unknown-format",
            expected=Message("a file of tasks: .jsonl or .json"),
            found=shown(path.name),
            remedy=Message("save the set as one of these"),
        )
    data = uploads.unpacked(path.name, data, LIMITS.bytes)
    uploads.check_text(data)
    return _collected(read(data))


def _collected(records: Iterable[Record]) -> Tasks:
    items: list[Task] = []
    refused: list[tuple[Message, PromptError]] = []
    for record in records:
        try:
            if isinstance(record.content, PromptError):
                raise record.content
            items.append(task_of(record.content, record.number))
        except PromptError as error:
            refused.append((record.where, error))
    if not items:
        if refused:
            raise refused[0][1]
        raise uploads.empty(Message("only blank lines or a header"))
    listed = refused[: LIMITS.problems]
    return Tasks(items, [Problem(w, error.kind.removeprefix("prompts-"), error.message) for w, error in listed])


def task_of(fields: dict[str, Any], number: int) -> Task:
    """Return the task of one record. Raises PromptError ``prompts-no-field`` and ``prompts-not-text``."""
    name = str(fields.get("id") or fields.get("ind") or number)
    if "endings" in fields:
        return Choice("hellaswag", name, _hellaswag(fields), *_options(fields["endings"], fields.get("label")))
    if "choices" in fields:
        listed = fields["choices"]
        listed = listed if isinstance(listed, dict) else {}
        labels = [str(label) for label in listed.get("label") or ()]
        key = str(fields.get("answerKey"))
        place = labels.index(key) if key in labels else None
        return Choice("arc", name, _asked(fields), *_options(listed.get("text"), place))
    if "question" in fields and "answer" in fields:
        answer = _text(fields, "answer")
        return Question("gsm8k", name, _asked(fields), answer.rpartition(GOLD)[2].strip())
    raise _no_field(fields)


def _hellaswag(fields: dict[str, Any]) -> str:
    """Return the context, as the set is usually scored: the activity, and the second part as a sentence begun."""
    if "ctx_a" in fields and "ctx_b" in fields:
        context = f"{_text(fields, 'ctx_a')} {_text(fields, 'ctx_b').capitalize()}".strip()
    else:
        context = _text(fields, "ctx")
    activity = fields.get("activity_label")
    return f"{activity}: {context}" if isinstance(activity, str) and activity else context


def _asked(fields: dict[str, Any]) -> str:
    return f"Question: {_text(fields, 'question')}\nAnswer:"


def _text(fields: dict[str, Any], name: str) -> str:
    if isinstance(fields.get(name), str):
        return fields[name].strip()
    if name not in fields:
        raise _no_field(fields)
    raise PromptError(
        "prompts-not-text",
        expected=Message('text in "{name}"', name=name),
        found=uploads.kind_of(fields[name]),
        remedy=Message("correct this record, or remove it"),
    )


def _options(options: Any, right: Any) -> tuple[tuple[str, ...], int]:
    """Return the options, each behind a blank, and the place of the right one."""
    good = isinstance(options, list) and len(options) > 1 and all(isinstance(o, str) and o.strip() for o in options)
    place = int(right) if isinstance(right, int | str) and str(right).strip().isdigit() else -1
    if not good or not 0 <= place < len(options):
        raise PromptError(
            "prompts-no-field",
            expected=Message("two or more options as text, and which of them is right"),
            found=Message("{options}, right: {right}", options=shown(options), right=shown(right)),
            remedy=Message("correct this record, or remove it; sets without labels cannot be scored"),
        )
    return tuple(f" {option.strip()}" for option in options), place


def _no_field(fields: dict[str, Any]) -> PromptError:
    return PromptError(
        "prompts-no-field",
        expected=FIELDS,
        found=Message("the fields {names}", names=[shown(name) for name in list(fields)[:10]]),
        remedy=Message("rename the fields to those of one of these sets"),
    )


def by_task(items: Sequence[Task]) -> Iterator[tuple[str, list[Task]]]:
    """Yield the items of every task that there is, in the order of their first ones."""
    for name in dict.fromkeys(item.task for item in items):
        yield name, [item for item in items if item.task == name]
