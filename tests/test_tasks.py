"""Answers compared as people read them, tasks read from files, and scores against plain forwards."""

import json
from decimal import Decimal
from math import sqrt

import numpy as np
import pytest
import torch

from kvlab.errors import PromptError
from kvlab.inject import tasks
from kvlab.inject.handoff import Handover
from kvlab.inject.tasks import evaluate, log_likelihoods, options_of, scored
from kvlab.models.tokens import tokenize
from kvlab.request.answers import last_number, normalised, same_answer
from kvlab.request.task_files import Choice, Question, read_tasks
from tests import handed
from tests.spoken import spoken

HELLASWAG = {
    "ind": 7,
    "activity_label": "Buying fruit",
    "ctx_a": "A woman stands at a stall.",
    "ctx_b": "she",
    "endings": ["weighs four apples.", "flies away."],
    "label": "0",
}
ARC = {
    "id": "a1",
    "question": "Which of these is a fruit?",
    "choices": {"text": ["a stone", "an apple", "a chair"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
GSM = {"question": "Tom has 3 apples and buys 4. How many?", "answer": "3 + 4 = 7\n#### 7"}


def test_numbers_are_the_same_however_they_are_written():
    for a, b in (
        ("1,234.0", "1234"),
        ("$18", "18."),
        ("１８", "18"),
        ("-5", "−5"),
        ("7。", " 7 "),
        ("Paris", "paris."),
    ):
        assert same_answer(a, b), (a, b)
    for a, b in (("50%", "50"), ("3/4", "0.75"), ("12", "1.2"), ("18 apples", "18"), ("nan", "NaN,"), ("1 2", "13")):
        assert same_answer(a, b) == (a == "nan"), (a, b)
    assert normalised("1,234.50") == Decimal("1234.5") and normalised("infinity") == "infinity"
    assert last_number("so 3 + 4 = 7, hence 1,007.") == "1,007" and last_number("none") is None


def test_public_sets_are_read_by_their_fields(tmp_path):
    file = tmp_path / "set.jsonl"
    bad = [{"question": "no answer"}, {"ctx": "x", "endings": ["a", "b"], "label": ""}, {**ARC, "answerKey": "Z"}]
    lines = [json.dumps(record) for record in (HELLASWAG, ARC, *bad, GSM)]
    file.write_text("\n".join([*lines, "{broken"]), encoding="utf-8")
    read = read_tasks(file)
    assert read.items == [
        Choice(
            "hellaswag",
            "7",
            "Buying fruit: A woman stands at a stall. She",
            (" weighs four apples.", " flies away."),
            0,
        ),
        Choice("arc", "a1", "Question: Which of these is a fruit?\nAnswer:", (" a stone", " an apple", " a chair"), 1),
        Question("gsm8k", "6", "Question: Tom has 3 apples and buys 4. How many?\nAnswer:", "7"),
    ]
    assert [str(problem.where) for problem in read.problems] == ["line 3", "line 4", "line 5", "line 7"]
    (tmp_path / "list.json").write_text(json.dumps([GSM]), encoding="utf-8")
    assert [item.answer for item in read_tasks(tmp_path / "list.json").items] == ["7"]
    (tmp_path / "none.jsonl").write_text(json.dumps({"a": 1}), encoding="utf-8")
    for name, words in (("none.jsonl", "HellaSwag"), ("missing.jsonl", "at "), ("set.txt", "jsonl")):
        (tmp_path / "set.txt").write_text("x", encoding="utf-8")
        with pytest.raises(PromptError) as refused:
            read_tasks(tmp_path / name)
        assert words in spoken(refused.value)["expected"]


@pytest.fixture(scope="module")
def hand():
    models, _, _, written = handed.demo()
    return Handover(written, models.teachers, models.student)


@pytest.mark.model
def test_log_likelihoods_are_those_of_a_plain_forward(hand):
    student = hand.student
    item = Choice("t", "1", "Tom has 3 apples and buys 4 more", (" in the market.", "s, 小明 too", " today"), 0)
    ids, start = options_of(student, item)
    context = tokenize(student.tokenizer, item.context).ids.tolist()
    assert all(of[:start] == context[:start] for of in ids) and start >= len(context) - 2
    expected = []
    for of in ids:
        with torch.inference_mode():
            log_p = student.model(input_ids=torch.tensor([of])).logits[0].log_softmax(-1)
        expected.append(sum(float(log_p[place - 1, of[place]]) for place in range(start, len(of))))
    assert np.abs(log_likelihoods(student, ids, start) - expected).max() < 1e-4
    # Behind a cache of the context, whole and shortened by the tokens that differ.
    own = hand.over(item.context)
    alone = Handover(handed.demo()[3], hand.teachers, student, read_last=10_000).over(item.context)
    assert np.abs(log_likelihoods(student, ids, start, alone) - expected).max() < 1e-3
    by_variant = scored(hand, item)
    assert np.array_equal(by_variant["handed"], log_likelihoods(student, ids, start, own))
    assert by_variant.keys() == set(tasks.VARIANTS) and len({tuple(sums) for sums in by_variant.values()}) == 4


@pytest.mark.model
def test_scores_are_shares_with_paired_intervals(hand, monkeypatch):
    sums = {
        "a": {"own": [-1, -2], "handed": [-3, -2], "none": [-1, -2], "teacher": [-4, -2]},
        "b": {"own": [-4, -3], "handed": [-9, -5], "none": [-9, -1], "teacher": [-4, -3]},
        "c": {"own": [-4, -3], "handed": [-9, -5], "none": [-1, -9], "teacher": [-4, -3]},
    }
    monkeypatch.setattr(tasks, "scored", lambda _, item: {k: np.array(v, float) for k, v in sums[item.id].items()})
    items = [
        Choice("t", name, "one two three", (" x" * 9, " y"), place) for name, place in (("a", 0), ("b", 1), ("c", 1))
    ]
    scores, notes = evaluate(hand, [*items, Choice("t", "d", "", (" x", " y"), 0)])
    found = {(row.metric, row.variant): row for row in scores}
    assert [found["accuracy", v].right for v in tasks.VARIANTS] == [
        1.0,
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
        1 / 1.5,
    ]
    # -1 / 18 bytes is more than -2 / 2 bytes: the long option wins everywhere
    assert [found["accuracy per byte", v].right for v in tasks.VARIANTS] == [pytest.approx(1 / 3)] * 4
    handed_over = found["accuracy", "handed"]
    differences = [-1.0, 0.0, 0.0]
    half = 4.302653 * np.std(differences, ddof=1) / sqrt(3)  # t quantile of two degrees of freedom
    assert handed_over.less_own == pytest.approx(-1 / 3) and handed_over.n == 3
    assert (handed_over.less_own_low, handed_over.less_own_high) == (
        pytest.approx(-1 / 3 - half, abs=1e-5),
        pytest.approx(-1 / 3 + half, abs=1e-5),
    )
    assert found["accuracy", "own"].less_own_low is None and str(notes[0]).startswith("1 items")


@pytest.mark.model
def test_problems_are_judged_by_the_answer_that_is_written(hand, monkeypatch):
    said = {"own": "3 + 4 = 7\nAnswer: 7 ", "handed": "it is 8, so 7.0", "none": "no idea", "teacher": "Answer: 9"}
    monkeypatch.setattr(tasks, "written", lambda *_: said)
    scores, _ = evaluate(hand, [Question("gsm8k", "1", "Question: 3 + 4?\nAnswer:", "7")])
    assert {row.variant: row.right for row in scores} == {"own": 1.0, "handed": 1.0, "none": 0.0, "teacher": 0.0}


@pytest.mark.model
def test_the_student_alone_writes_what_it_generates(hand):
    item = Question("gsm8k", "1", "Tom has 3 apples and buys 4 more. What is the final number of apples?\n", "7")
    written = tasks.written(hand, item, 12)
    ids = torch.from_numpy(tokenize(hand.student.tokenizer, item.context).ids)[None]
    alone = hand.student.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert written["own"] == hand.student.tokenizer.decode(alone, skip_special_tokens=True)
    assert len(set(written.values())) > 1
