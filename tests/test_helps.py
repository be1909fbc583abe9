"""Whether a run helps, by its stated rules, on made-up held-out sums."""

import json
import math
from pathlib import Path

import pytest

from kvlab.results.training import helps
from kvlab.results.training.records import CONTROLS, Kin
from kvlab.runs import store
from kvlab.runs.records import Report

TOKENS = [100, 50, 80, 120, 90]
SPREAD = [0.01, -0.01, 0.0, 0.02, -0.02]  # of a document about its run's mean


def nats(mean: float, spread: float = 1.0) -> list[list[float]]:
    return [[(mean + spread * off) * n, n] for off, n in zip(SPREAD, TOKENS)]


def run(control: str, before: float, after: float, kl: tuple[float, float] | None = None, **more) -> Kin:
    def at(mean: float, spread: float) -> dict:
        return {"ce": mean, "ce_by_document": nats(mean, spread)}

    fields: dict = {"before": at(before, 0.5), "after": at(after, 1.0)}
    if kl:
        own = {"reproduces": True}
        fields["functional"] = {
            when: {"own": own, "by_document": {"projected": [[*row[:1], 0, 0, row[1]] for row in nats(mean)]}}
            for when, mean in zip(("before", "after"), kl)
        }
    return Kin(f"run-{control}", control, "same", CONTROLS, Report.of(fields | more))


@pytest.mark.parametrize(
    ("mine", "controls", "state"),
    [
        (run("none", 0.34, 0.38), [], helps.WORSE),  # the student got worse: no control is needed to say so
        (run("none", 0.34, 0.30), [], helps.OPEN),
        (run("none", 0.34, 0.30), [run("shuffled-teacher", 0.34, 0.34)], helps.OPEN),  # the first control is missing
        (run("none", 0.34, 0.30), [run("ce-only", 0.34, 0.33)], helps.BETTER),
        (run("none", 0.34, 0.30), [run("ce-only", 0.34, 0.30)], helps.ALIKE),
        (run("none", 0.34, 0.30), [run("ce-only", 0.34, 0.28)], helps.WORSE),
        (run("none", 0.34, 0.341), [run("ce-only", 0.34, 0.36)], helps.ALIKE),  # better than the control alone
        (run("none", 0.34, 0.30), [run("ce-only", 0.34, 0.33), run("random-teacher", 0.34, 0.30)], helps.ALIKE),
        # KL decides where cross-entropy is the same
        (run("none", 0.34, 0.34, (0.8, 0.5)), [run("ce-only", 0.34, 0.34, (0.8, 0.8))], helps.BETTER),
        (run("none", 0.34, 0.34, (0.8, 0.5)), [run("ce-only", 0.34, 0.34, (0.8, 0.4))], helps.WORSE),
        # a control without the functional test says nothing about KL
        (run("none", 0.34, 0.34, (0.8, 0.5)), [run("ce-only", 0.34, 0.34)], helps.ALIKE),
        (run("ce-only", 0.34, 0.38), [run("none", 0.34, 0.36)], helps.CONTROL),
    ],
)
def test_the_rules(mine, controls, state):
    assert helps.judge(mine, controls).state == state


def test_a_difference_and_its_error_are_those_of_paired_documents_left_out_one_by_one():
    (found,) = helps.judge(run("none", 0.34, 0.36), []).comparisons
    pairs = [(after - before, n) for (after, n), (before, _) in zip(nats(0.36), nats(0.34, 0.5))]
    without = [
        sum(d for at, (d, _) in enumerate(pairs) if at != out) / sum(n for at, (_, n) in enumerate(pairs) if at != out)
        for out in range(len(pairs))
    ]
    mean = sum(without) / len(without)
    se = math.sqrt(len(pairs) - 1) * math.sqrt(sum((value - mean) ** 2 for value in without) / len(pairs))
    assert found.difference == pytest.approx(sum(d for d, _ in pairs) / sum(TOKENS))
    assert found.se == pytest.approx(se) and (found.documents, found.tokens) == (5, 440)


def test_without_documents_or_of_other_documents_nothing_is_clear():
    old = Kin("old", "none", "same", CONTROLS, Report.of({"before": {"ce": 0.3}, "after": {"ce": 0.9}}))
    assert helps.judge(old, []).state == helps.OPEN
    other = run("ce-only", 0.34, 0.28)
    rows = other.report.after.model_dump()["ce_by_document"]
    shorter = Report.of({"before": {"ce": 0.34}, "after": {"ce": 0.28, "ce_by_document": rows[:-1]}})
    assert helps.judge(run("none", 0.34, 0.3), [Kin("x", "ce-only", "same", CONTROLS, shorter)]).state == helps.OPEN


def test_a_control_is_told_what_it_is_for_and_never_to_compare_itself():
    words = helps.lead(helps.judge(run("ce-only", 0.34, 0.38), [run("none", 0.34, 0.36)]))
    assert "what the training text alone does" in words and "+0.0" in words
    assert "not compared" not in words and "worse" not in words


def test_the_sentence_names_the_start_and_the_strongest_control():
    controls = [run("ce-only", 0.34, 0.32), run("shuffled-teacher", 0.34, 0.33)]
    words = helps.lead(helps.judge(run("none", 0.34, 0.30), controls))
    assert words.startswith("**It helps: better.** Held-out cross-entropy −0.0")
    assert "against before" in words and "against CE only." in words and "shuffled" not in words


def test_a_folder_is_judged_beside_the_runs_of_the_same_settings(tmp_path: Path):
    def folder(control: str, after: float, **settings) -> Path:
        config = {"teachers": ["demo/teacher"], "student": "demo/student", "control": control, **settings}
        made = store.create(tmp_path, "training", control, config)
        fields = run(control, 0.34, after).report.model_dump(mode="json") | {"config": config}
        (made / "report.json").write_text(json.dumps(fields))
        return made

    mine = folder("none", 0.30)
    folder("ce-only", 0.40, lr=0.5)  # other settings
    assert helps.of_run(mine).missing == CONTROLS
    folder("ce-only", 0.33)
    judged = helps.of_run(mine)
    assert (judged.state, judged.missing) == (helps.BETTER, CONTROLS[1:])
    assert helps.read(json.loads(json.dumps(judged.to_dict()))) == judged
    assert helps.of_run(store.create(tmp_path, "training", "new", {})) is None
