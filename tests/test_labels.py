"""What runs are called: by what they are, unless somebody named them; with the numbers that tell them apart."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from kvlab.host import bundled
from kvlab.results import run_name, summary
from kvlab.results.alignment import data
from kvlab.runs import labels, store
from kvlab.runs.labels import Labels

PAIR = {"teachers": ["org/big", "demo/teacher-b"], "student": "/models/small/"}


@pytest.mark.parametrize(
    ("kind", "config", "name"),
    [
        ("training", PAIR, "big + teacher-b → small · bundled text"),
        (
            "training",
            PAIR | {"control": "ce-only", "data": "/d/math.jsonl", "max_steps": 1000, "lr": 0.1},
            "big + teacher-b → small · math.jsonl · CE only · lr 0.1 · 1,000 steps",
        ),
        (
            "analysis",
            {"teacher": "a/b", "student": "c", "prompts": "math.jsonl", "settings": {"time": "exact", "folds": 9}},
            "b → c · math.jsonl · exact",
        ),
        ("training", {"max_steps": 7}, "given"),
    ],
)
def test_a_run_is_called_by_what_it_is(tmp_path: Path, kind, config, name):
    folder = store.create(tmp_path, kind, "given", config)
    models = run_name.models_of(config)
    assert run_name.of_run(folder, kind, run_name.automatic(models) or "given") == name
    if models:
        assert run_name.of_run(folder, kind, "lr too high") == f"lr too high · {name}"


def test_a_name_and_tags_are_kept_and_cleared(tmp_path: Path):
    folder = store.create(tmp_path, "training", "x", PAIR)
    labels.write(folder, name="  first\n try ", tags=["lr", " sweep", "lr", ""])
    assert labels.read(folder) == Labels(name="first try", tags=("lr", "sweep"))
    assert run_name.of_run(folder, "training", "x") == "first try"
    labels.write(folder, baseline=True)
    assert labels.read(folder) == Labels(name="first try", tags=("lr", "sweep"), baseline=True)
    labels.write(folder, name="", tags=[], baseline=False)
    assert not (folder / labels.LABELS).exists()
    (folder / labels.LABELS).write_text('{"name": 7, "tags": "x", "baseline": "yes"}')
    assert labels.read(folder) == Labels()


def test_the_gain_of_an_analysis_is_over_the_strongest_control_of_each_head():
    found = summary.of_run(bundled.ANALYSIS, "analysis")
    sample = data.read(bundled.ANALYSIS)
    assert (found.documents, found.tokens) == (160, 17007)
    for kind, mean in (("key", found.gain_key), ("value", found.gain_value)):
        gains = []
        for s in (s for s in sample.heads if s.kind == kind):
            errors = {s.r2: 0, s.r2 - s.r2_shuffled: 0, s.r2 - s.r2_identity: s.gain_se, s.added: s.added_se}
            errors[s.gain_random] = s.gain_random_se
            unbeaten = [gain for gain, error in errors.items() if gain <= 2 * error]
            gains.append(min(unbeaten or errors))
        assert mean == pytest.approx(sum(gains) / len(gains), abs=1e-9)
    worse = asdict(sample.heads[0]) | {"added": None, "r2_own": 0.9, "r2": 0.5}
    assert summary.gain(worse) == pytest.approx(-0.4)


def test_the_kl_of_a_functional_test_stands_beside_the_one_without_a_teacher(tmp_path: Path):
    found = summary.of_run(bundled.FUNCTION, "injection")
    result = json.loads((bundled.FUNCTION / "injection.json").read_text())
    at = {row["variant"]: row["kl"] for row in result["injected"] if row["prefix"] == 0.5}
    assert found.kl == min(at["projected"], at["with-own-token"]) and found.kl_control == at["own-tokens"]
    assert summary.of_run(tmp_path, "injection") == summary.NOTHING
    (tmp_path / "injection.json").write_text('{"injected": []}')
    assert summary.of_run(tmp_path, "injection") == summary.NOTHING
