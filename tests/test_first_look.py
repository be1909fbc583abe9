"""The first scores of a running analysis: what they are, and when they come and go."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from kvlab.align.pipeline import align_several
from kvlab.align.run import compute, write
from kvlab.models.loading import ModelCache, load
from kvlab.request import prompts
from kvlab.request.align import AlignSettings, AnalysisRequest
from kvlab.results.alignment import so_far
from kvlab.results.alignment.heads import map_so_far
from kvlab.results.alignment.so_far import SoFar
from kvlab.shapes import KINDS

QUICK = {"random_teacher": False, "layers": "depth", "inspect": 0}


@pytest.fixture(scope="module")
def looked():
    """Scores on a whole analysis that fits into the batches of its first look, and its result."""
    settings, seen = AlignSettings(**QUICK, compare_rules=False), []
    documents, models = prompts.samples()[:15], (load("demo/teacher"), load("demo/student"))
    aligned = align_several([models[0]], models[1], documents, settings, so_far=seen.append)
    return seen, aligned[0][0]


@pytest.mark.model
def test_the_first_look_is_the_analysis_itself_where_it_has_read_everything(looked):
    seen, alignment = looked
    (scores,) = seen  # once
    assert (scores.documents, scores.of, scores.n) == (15, 15, alignment.heads[0].n)
    assert scores.teacher == "demo/teacher"
    for kind in KINDS:
        expected = [score.r2 for score in alignment.heads if score.kind == kind]
        assert np.allclose(np.ravel(scores.r2[kind]), expected, atol=1e-9)


@pytest.mark.model
def test_the_file_is_there_while_the_analysis_runs_and_gone_with_its_result(tmp_path):
    present = []

    def progress(stage: str, done: int, total: int) -> None:
        present.append((stage, (tmp_path / so_far.NAME).exists()))

    request = AnalysisRequest(
        teacher="demo/teacher", student="demo/student", calibration="none", settings=AlignSettings(**QUICK)
    )
    aligned = compute(request, prompts.samples()[:15], ModelCache(), progress, tmp_path)
    assert not present[0][1] and ("fitting and scoring heads", True) in present
    assert so_far.read(tmp_path).of == 15
    write(aligned, tmp_path)
    assert so_far.read(tmp_path) is None and not list(tmp_path.glob("so_far*"))


SCORES = SoFar("t", {"kv_layers": [3, 7]}, 5, 160, 900, {k: [[0.5, float("nan")], [-2.0, 0.25]] for k in KINDS})


def test_it_reads_back_and_a_damaged_file_is_none(tmp_path):
    so_far.write(SCORES, tmp_path)
    assert str(asdict(so_far.read(tmp_path))) == str(asdict(SCORES))
    for damaged in ("[" * 100_000, "null", "{}", json.dumps({"r2": 3}), json.dumps({"r2": {"key": [["x"]]}})):
        (tmp_path / so_far.NAME).write_text(damaged)
        assert so_far.read(tmp_path) is None


def test_the_map_shows_r2_of_each_head_and_none_where_nothing_was_measured():
    cells = map_so_far(SCORES, "value").data[0]
    assert cells.z.tolist() == [[0.5, None], [-2.0, 0.25]] and list(cells.y) == ["3", "7"]
    assert "900" in so_far.caption(SCORES) and "5 of 160" in so_far.caption(SCORES)
