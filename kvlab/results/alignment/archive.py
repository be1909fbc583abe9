"""Write a finished alignment as a ZIP of CSV and JSON: every number, with its settings and versions."""

import io
import json
import zipfile

import pandas as pd

from kvlab.language import current, phrase, say, speaking
from kvlab.results.alignment import data, sentences
from kvlab.results.alignment.data import Alignment, HeadScore, Inspected
from kvlab.results.alignment.layers import layer_pairs
from kvlab.results.alignment.rules import rules_table
from kvlab.results.alignment.spectrum import spectrum_table
from kvlab.results.alignment.strip import token_error
from kvlab.results.safe_csv import safe_csv

NAME = "export.zip"
SETTINGS = "settings.json"
LISTS = ("heads", "inspected", "fusion", "format")  # of alignment.json, not in settings.json
EPOCH = (1980, 1, 1, 0, 0, 0)  # date of every entry, so that the same result gives the same bytes

CLASS_NAME = {data.EXACT: "exact", data.INSIDE: "inside"}

ABOUT = {
    data.CSV_NAME: phrase("held-out scores per student head, as `align` writes them"),
    "scores.csv": phrase("every score of every student head with its controls, standard errors and numbers of tokens"),
    "layers.csv": phrase(
        "every pair of student and teacher layer: CKA, its null, held-out R² alone, and whether chosen"
    ),
    data.FUSION_NAME: phrase("scores of all teachers fused, beside each alone"),
    "timeline.csv": phrase(
        "the documents kept token by token: bytes, mean error of heads, per time rule the teacher step and its lag in "
        "bytes, and whether the token ends where a teacher token ends (exact) or inside one"
    ),
    "spectrum.csv": phrase(
        "held-out error of every student head along each of its principal directions, and its share"
    ),
    "time-rules.csv": phrase("held-out R² of every student head under every time rule, on the sample"),
    SETTINGS: phrase("settings, versions, models, data, controls, self-tests, timings and means"),
}


def archive(alignment: Alignment, language: str | None = None) -> bytes:
    """Return the ZIP. A value that was not measured is an empty cell. ``language``: of its sentences, not its names."""
    texts = {data.CSV_NAME: data.heads_csv(alignment)}
    texts |= {name: safe_csv(frame) for name, frame in tables(alignment).items()}
    with speaking(language or current()):
        texts[SETTINGS] = settings(alignment, [*texts, SETTINGS])
    return zipped(texts)


def zipped(texts: dict[str, str]) -> bytes:
    """Return a ZIP of file name -> text; the same texts give the same bytes."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in texts.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, text.encode("utf-8", "backslashreplace"))
    return memory.getvalue()


def tables(alignment: Alignment) -> dict[str, pd.DataFrame]:
    """Return file name -> table of all tables that this analysis has, without heads.csv."""
    frames = {"scores.csv": alignment.table(), "layers.csv": layer_pairs(alignment)}
    if alignment.fusion:
        frames[data.FUSION_NAME] = alignment.fusion_table()
    if alignment.inspected:
        frames["timeline.csv"] = timeline_table(alignment)
    for name, table in (("spectrum.csv", spectrum_table), ("time-rules.csv", rules_table)):
        parts = [_with_head(score, table(alignment, score.kind, score.layer, score.head)) for score in alignment.heads]
        if any(part is not None for part in parts):
            frames[name] = pd.concat(parts, ignore_index=True)
    return frames


def _with_head(score: HeadScore, table: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return a head's table with the columns kind, layer and head in front."""
    if table is None:
        return None
    head = pd.DataFrame({"kind": score.kind, "layer": score.layer, "head": score.head}, index=table.index)
    return pd.concat([head, table], axis=1)


def timeline_table(alignment: Alignment) -> pd.DataFrame:
    """Return one row per student token of every inspected document."""
    frames = [_document(alignment, number, document) for number, document in enumerate(alignment.inspected)]
    return pd.concat(frames, ignore_index=True)


def _document(alignment: Alignment, number: int, document: Inspected) -> pd.DataFrame:
    tokens = document.student_tokens
    columns = {
        "document": [document.id] * len(tokens),
        "student_token": range(len(tokens)),
        "text": [token.text for token in tokens],
        "start_byte": [token.start for token in tokens],
        "end_byte": [token.end for token in tokens],
        "special": [token.special for token in tokens],
        "scored": document.scored,
    }
    for kind in ("key", "value"):
        columns[f"error_{kind}"] = token_error(alignment, number, kind)
    for rule in alignment.timeline["rules"]:
        for part, name in (("index", "teacher_step"), ("lag", "lag_bytes")):
            columns[f"{name}_{rule}"] = alignment.arrays[f"document.{number}.{part}.{rule}"]
    classes = alignment.row_class(number)
    columns["row_class"] = [None] * len(tokens) if classes is None else [CLASS_NAME[int(of)] for of in classes]
    return pd.DataFrame(columns)


def settings(alignment: Alignment, files: list[str]) -> str:
    """Return settings.json: the finding in words, a description of each file, and alignment.json without its tables."""
    fields = {name: value for name, value in alignment.to_dict().items() if name not in LISTS}
    words = {"finding": sentences.sentence(alignment), "files": {name: say(ABOUT[name]) for name in files}}
    return json.dumps(data.plain(words | fields), ensure_ascii=False, indent=1, allow_nan=False)
