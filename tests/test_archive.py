"""The ZIP of an analysis: every number, what made it, and no cell that a spreadsheet would run."""

import csv
import io
import json
import math
import zipfile
from dataclasses import replace

import pandas as pd
import pytest

from kvlab.host.bundled import ANALYSIS
from kvlab.results.alignment import data
from kvlab.results.alignment.archive import archive
from kvlab.results.safe_csv import neutral, safe_csv
from tests.finished import by_class, fused, of_one_map, of_rkv, with_gaps


@pytest.fixture(scope="module")
def sample():
    return data.read(ANALYSIS)


def opened(alignment):
    with zipfile.ZipFile(io.BytesIO(archive(alignment))) as file:
        assert file.testzip() is None
        return {name: file.read(name).decode("utf-8") for name in file.namelist()}


def rows(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1"])
def test_a_text_that_begins_like_a_formula_is_kept_as_text(text):
    assert neutral(text) == "'" + text
    header, row = csv.reader(io.StringIO(safe_csv(pd.DataFrame({text: [text], "b": ["a=1"]})), newline=""))
    assert header == ["'" + text, "b"] and row == ["'" + text, "a=1"]


def test_numbers_stay_numbers_and_other_text_stays_as_it_is():
    frame = pd.DataFrame(
        {"a": [-1.5, float("nan")], "b": [-3, 4], "c": ["-1e3", ""], "d": [-0.25, "=A1"], "e": [None, True]}
    )
    assert rows(safe_csv(frame)) == [
        {"a": "-1.5", "b": "-3", "c": "-1e3", "d": "-0.25", "e": ""},
        {"a": "", "b": "4", "c": "", "d": "'=A1", "e": "True"},
    ]
    assert frame.loc[1, "d"] == "=A1"


def test_every_score_and_its_standard_error_comes_back(sample):
    files = opened(sample)
    assert files["heads.csv"] == data.heads_csv(sample)
    found = rows(files["scores.csv"])
    assert len(found) == len(sample.heads) == 16
    for row, score in zip(found, sample.heads):
        assert (row["kind"], int(row["layer"]), int(row["head"])) == (score.kind, score.layer, score.head)
        for name in ("r2", "se", "gain", "gain_se", "r2_shuffled", "r2_random"):
            assert float(row[name]) == getattr(score, name)


def test_both_classes_and_every_source_come_back(sample):
    result = by_class(sample)
    files = opened(result)
    for row, score in zip(rows(files["heads.csv"]), result.heads, strict=True):
        for name in ("r2_exact", "exact_se", "r2_inside", "inside_se", "r2_own", "r2_with_own", "added", "added_se"):
            assert float(row[name]) == getattr(score, name), name
        assert int(row["n_inside"]) == 5000
    classes = [row["row_class"] for row in rows(files["timeline.csv"])]
    expected = [("exact", "inside")[int(of)] for n in range(len(result.inspected)) for of in result.row_class(n)]
    assert classes == expected and set(classes) == {"exact", "inside"}
    found = json.loads(files["settings.json"])
    assert found["finding"].startswith("On 160 documents") and found["summary"]["key"]["added"] == pytest.approx(0.115)
    old = opened(of_one_map(sample))
    assert {row["row_class"] for row in rows(old["timeline.csv"])} == {""}
    assert {row["added"] for row in rows(old["heads.csv"])} == {""}


def test_layers_and_timeline_hold_what_the_arrays_hold(sample):
    files = opened(sample)
    layers = rows(files["layers.csv"])
    assert len(layers) == 2 * 4 * 6
    of_value = next(r for r in layers if (r["kind"], r["student layer"], r["teacher layer"]) == ("V", "3", "5"))
    assert float(of_value["CKA"]) == pytest.approx(sample.arrays["similarity.value.cka"][3, 5], rel=1e-6)

    timeline = rows(files["timeline.csv"])
    assert len(timeline) == sum(len(document.student_tokens) for document in sample.inspected)
    second = [row for row in timeline if row["document"] == sample.inspected[1].id]
    errors = sample.arrays["document.1.error.key"]
    scored = [i for i, row in enumerate(second) if row["scored"] == "True"]
    assert scored and all(
        float(second[i]["error_key"]) == pytest.approx(errors[:, :, i].mean(), rel=1e-4) for i in scored
    )
    steps = [float(row["teacher_step_floor"]) if row["teacher_step_floor"] else math.nan for row in second]
    assert steps == pytest.approx(sample.arrays["document.1.index.floor"].tolist(), nan_ok=True)
    texts = [token.text for document in sample.inspected for token in document.student_tokens]
    assert [row["text"] for row in timeline] == [neutral(text) for text in texts]
    assert any(text.startswith(("=", "+", "-")) for text in texts), "the sample has tokens that a spreadsheet would run"


def test_settings_versions_data_and_controls_are_in_the_json(sample):
    files = opened(sample)
    found = json.loads(files["settings.json"])
    for name in ("settings", "versions", "data", "controls", "teacher", "student", "capture", "timings"):
        assert found[name] == data.plain(getattr(sample, name)), name
    assert found["summary"]["key"]["r2"] == pytest.approx(sample.mean("key", "r2"))
    assert set(found["files"]) == set(files) and "heads" not in found


def test_a_table_that_the_analysis_does_not_have_is_left_out(sample):
    assert "fusion.csv" not in opened(sample)
    assert len(rows(opened(fused(sample))["fusion.csv"])) == 16
    assert "timeline.csv" not in opened(replace(sample, inspected=[]))
    for other in (of_rkv(sample), with_gaps(sample)):
        assert len(rows(opened(other)["scores.csv"])) == 16


def test_the_same_result_gives_the_same_bytes(sample):
    assert archive(sample) == archive(sample)
