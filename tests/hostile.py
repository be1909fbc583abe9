"""Runs whose every name is what Markdown would call out with, and a look for Markdown among what a page sends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf.message import Message as Sent

from kvlab.host import bundled
from kvlab.language import Message
from kvlab.results.alignment import data as analysis
from kvlab.results.certificate import data as certificate
from kvlab.results.function import data as function
from kvlab.runs import store
from tests import finished, trained

# Each part names itself "evil", so that what a page says of its own is told apart. Pages cut names after 40 characters.
IMAGE, LINK, ICON = "![evil](http://evil.example/i.png)", "[evil](http://evil.example)", ":material/bug_report:"
BLEAK = "<b>evil</b> *evil* `evil` ~~evil~~ $evil^2$ :red[evil] :streamlit: :imp: a -> b --"
ADDRESSES = "http://evil.example www.evil.example a@evil.example &lt;"
NAME = f"{IMAGE} {LINK} {ICON} {BLEAK} {ADDRESSES}"
# Once every sign behind a backslash is gone, these are left of a name that was not escaped.
MARKUP = re.compile(
    r"!\[evil|\]\(http|:material/bug|<b>evil|[*`]evil|~evil|\$evil|:red\[evil|:streamlit:|:imp:|a -> b|--(?:\s|$)"
    r"|http://evil|www\.evil|[a-z]@evil|&lt;"
)
# What Streamlit's browser side draws as it is: fields of its messages, by message and field.
PLAIN = {
    "Dataframe.column_order",
    "Code.code_text",
    "Html.body",  # escaped as HTML: test_boxes.py
    "Selectbox.options",
    "Selectbox.raw_value",
    "MultiSelect.options",
    "TextArea.default",
    "TextArea.value",
    "TextInput.default",
    "TextInput.placeholder",
    "TextInput.value",
    "PlotlyChart.spec",
    "PlotlyChart.figure",
    "VegaLiteChart.spec",
}


def written(sent: Sent) -> Iterator[tuple[str, str]]:
    """Every text in a message of Streamlit, by message and field."""
    for field, value in sent.ListFields():
        repeated = field.is_repeated
        values = list(value.values() if hasattr(value, "values") else value) if repeated else [value]
        for each in values:
            name = f"{sent.DESCRIPTOR.name}.{field.name}"
            if name == "Dataframe.columns":  # only the help of a heading is Markdown
                yield from ((f"{name}.help", column.get("help") or "") for column in json.loads(each).values())
            elif isinstance(each, str):
                yield name, each
            elif isinstance(each, Sent):
                yield from written(each)


def markup(text: str) -> list[str]:
    """The parts of hostile names that this text would draw as Markdown."""
    return MARKUP.findall(re.sub(r"\\[!-/:-@\[-`{-~]", "", text))


def called(value: Any, name: str = NAME) -> Any:
    """The same value with ``name`` for every text in it, also within lists, tables and dataclasses."""
    if isinstance(value, str):
        return name
    if isinstance(value, Message):
        return Message("{words}", words=name)
    if isinstance(value, dict):
        return {key: called(each, name) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(called(each, name) for each in value)
    if is_dataclass(value):
        return replace(value, **{field.name: called(getattr(value, field.name), name) for field in fields(value)})
    return value


def analysis_run() -> Path:
    """A finished analysis of two teachers: models, prompts, split, documents, tokens, notes and versions."""
    sample = finished.fused(analysis.read(bundled.ANALYSIS))
    first, *rest = sample.inspected
    changed = replace(
        sample,
        teacher=sample.teacher | {"name": NAME},
        student=sample.student | {"name": NAME},
        teachers=[NAME, NAME],
        data=sample.data | {"split": NAME},
        controls=sample.controls | {"random_teacher": NAME},
        versions=called(sample.versions),
        inspected=[replace(called(first), segments=first.segments), *rest],
        notes=[Message("{words}", words=NAME)],
        prompts=NAME,
    )
    folder = finished.run_of(changed, changed)
    store.write_status(folder, name=NAME)
    return folder


def function_run() -> Path:
    """A finished functional test: models, prompts, texts, answers and notes."""
    sample = function.read(bundled.FUNCTION)

    def continued(one: function.Continued) -> function.Continued:
        return replace(one, text=NAME, tokens=[NAME], differs=[True], answer=NAME)

    texts = [
        replace(called(text), continuations=[continued(one) for one in text.continuations]) for text in sample.texts
    ]
    changed = replace(
        sample,
        teachers=[teacher | {"name": NAME} for teacher in sample.teachers],
        student=sample.student | {"name": NAME},
        data=sample.data | {"split": NAME},
        versions=called(sample.versions),
        notes=[Message("{words}", words=NAME)],
        texts=texts,
        prompts=NAME,
    )
    folder = store.create(store.runs_root(), "injection", NAME, {"teacher": NAME, "student": NAME})
    function.write(changed, folder)
    store.write_status(folder, state="done")
    return folder


def certificate_run() -> Path:
    """A finished certificate: models, prompts, documents, languages and domains, notes, versions."""
    sample = certificate.read(bundled.CERTIFICATE)
    labels = {"language": NAME, "domain": NAME}
    named = {"name": NAME, "architecture": NAME}
    changed = sample.model_copy(
        update={
            "teachers": tuple(teacher.model_copy(update=named) for teacher in sample.teachers),
            "student": sample.student.model_copy(update=named),
            "prompts": NAME,
            "groups": tuple(group.model_copy(update={"name": NAME}) for group in sample.groups),
            "documents": tuple(d.model_copy(update={"document": NAME, **labels}) for d in sample.documents),
            "notes": (Message("{words}", words=NAME).to_dict(),),
            "surroundings": dict.fromkeys(sample.surroundings, NAME),
        }
    )
    folder = store.create(store.runs_root(), "certificate", NAME, {"teacher": NAME, "student": NAME})
    certificate.write(changed.signed(), folder)
    store.write_status(folder, state="done")
    return folder


def broken(kind: str, state: str = "failed") -> Path:
    """A run that failed, whose error quotes a name."""
    error = {"kind": "model-broken", **dict.fromkeys(("expected", "found", "remedy"), NAME)}
    folder = store.create(store.runs_root(), kind, NAME, {"teacher": NAME, "student": NAME, "teachers": [NAME, NAME]})
    store.write_status(folder, state=state, error=error | {"changes": {NAME: NAME}})
    return folder


def training_run(name: str = NAME) -> Path:
    """A finished training run: models, device, checkpoints and their remarks, note, log and files."""
    settings = {"teachers": [NAME, NAME], "student": NAME, "fusion": NAME, "data": NAME}
    folder = trained.by_hand(store.runs_root(), name, **settings)
    row = {"step": 80, "name": NAME, "state": "fail", "words": NAME}
    trained.write(folder, "verdict.json", {"state": "fail", "checkpoints": [row]})
    measured = {"ce": 3.5, "documents": 3, "tokens": 70}
    device = {"device": NAME, "words": NAME}
    trained.write(folder, "report.json", {"before": measured, "after": measured, "device": device})
    store.append_metrics(folder, {"step": 5, "loss": 2.0, "router.0": 0.5, "router.1": 0.5, NAME: 1.0})
    (folder / "training.log").write_text(NAME)
    (folder / "notes.md").write_text(NAME)
    (folder / "[evil](evil)").touch()
    return folder
