"""The bundled pair: the shipped sample analysis is what `align` computes, and it shows what the README says."""

import dataclasses

import numpy as np
import pytest

from kvlab.align.outcome import ROWS_PER_FEATURE
from kvlab.align.run import compute
from kvlab.host.bundled import ANALYSIS, FUNCTION
from kvlab.inject import run
from kvlab.models.loading import ModelCache
from kvlab.request import prompts
from kvlab.request.align import AlignSettings, AnalysisRequest
from kvlab.request.inject import InjectionRequest, InjectSettings
from kvlab.results.alignment.data import read
from kvlab.results.alignment.sentences import sentence
from kvlab.results.function import data

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("sample")]
REQUEST = AnalysisRequest(teacher="demo/teacher", student="demo/student")


@pytest.fixture(scope="module")
def cache():
    return ModelCache()


@pytest.fixture(scope="module")
def floor(cache):
    """Without the other time rules, which take as long again; tests/test_rules.py computes their scores by hand."""
    return compute(REQUEST, prompts.samples(), cache)[0][0]


def test_the_shipped_sample_is_what_align_computes(floor):
    shipped = read(ANALYSIS)
    for mine, theirs in zip(floor.heads, shipped.heads, strict=True):
        for field, value in dataclasses.asdict(mine).items():
            expected = getattr(theirs, field)
            assert value == (
                pytest.approx(expected, abs=2e-3, nan_ok=True) if isinstance(value, float) else expected
            ), field
    assert floor.timeline["rules"].keys() == shipped.timeline["rules"].keys()
    for rule, rates in shipped.timeline["rules"].items():
        assert floor.timeline["rules"][rule] == pytest.approx(rates)
    assert floor.settings | {"compare_rules": True} == shipped.settings
    assert floor.data["rows_scored"] == shipped.data["rows_scored"]
    assert [d.id for d in floor.inspected] == [d.id for d in shipped.inspected]
    for name, array in shipped.arrays.items():
        if name.startswith("rules."):
            continue
        np.testing.assert_allclose(floor.arrays[name], array, rtol=2e-3, atol=5e-3, equal_nan=True, err_msg=name)


def test_there_are_enough_rows_and_borders_differ(floor):
    assert floor.data["rows_per_feature"] >= 5 * ROWS_PER_FEATURE
    assert 0.6 <= floor.timeline["rules"]["floor"]["exact_rate"] <= 0.95
    assert floor.timeline["student_tokens"] >= 1.15 * floor.timeline["teacher_tokens"]


def test_floor_beats_nearest_by_fifteen_points_of_k():
    r2 = {rule: np.nanmean(read(ANALYSIS).arrays[f"rules.key.{rule}.r2"]) for rule in ("floor", "nearest")}
    assert r2["floor"] - r2["nearest"] >= 0.15


def test_shuffled_rows_explain_nothing(floor):
    assert floor.table()["r2_shuffled"].abs().max() <= 0.05


@pytest.mark.parametrize("kind", ["key", "value"])
def test_the_last_layer_gains_over_token_identity(floor, kind):
    assert floor.grid(kind, "gain")[-1].mean() >= 0.05


def test_a_demo_model_explains_itself(cache):
    request = REQUEST.model_copy(
        update={"teacher": "demo/student", "settings": AlignSettings(inspect=0, random_teacher=False)}
    )
    ((own, _),) = compute(request, prompts.samples(40), cache)
    assert own.table()["error"].max() < 1e-6


def test_two_prompts_are_calibrated_on_the_samples(cache):
    mine = prompts.read_upload("a.txt", "Tom has 3 apples.\n\n小明有5个苹果，又买了7个。".encode()).documents
    quick = REQUEST.model_copy(update={"settings": AlignSettings(layers="depth", random_teacher=False)})
    ((result, _),) = compute(quick, mine, cache)
    assert (result.data["documents"], result.data["calibration_documents"]) == (2, len(prompts.samples()))
    assert result.data["rows_per_feature"] >= 20
    assert "On 2 documents held out" in sentence(result) and "fitted also on 160 bundled samples" in sentence(result)
    assert any("tokens are scored: differences of some points may be chance" in note for note in result.notes)


def test_the_shipped_functional_test_is_what_inject_computes(cache):
    shipped = data.read(FUNCTION)
    only = InjectSettings(curve=(), swap_layers=0, texts=0)
    mine = run.compute(InjectionRequest(**REQUEST.model_dump(), injection=only), prompts.samples(), cache)
    assert mine.data["documents_fitted"] == shipped.data["documents_fitted"]
    for found in mine.injected:
        expected = shipped.score(found.variant, found.prefix)
        assert dataclasses.asdict(found) == pytest.approx(dataclasses.asdict(expected), rel=1e-3, abs=1e-5)
    for found, expected in zip(mine.projection, shipped.projection, strict=True):
        assert found.error == pytest.approx(expected.error, rel=1e-3)
    for found, expected in zip(mine.attention, shipped.attention, strict=True):
        assert (found.kind, found.layer, found.head) == (expected.kind, expected.layer, expected.head)
        assert (found.error, found.controls) == (
            pytest.approx(expected.error, rel=1e-3),
            pytest.approx(expected.controls, rel=1e-3),
        )
