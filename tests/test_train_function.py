"""The functional test of a training run: its numbers against a cache replaced by hand, its refusals, its record."""

import json

import pytest
import torch
from transformers import DynamicCache

from kvlab.cli import main
from kvlab.errors import TrainError
from kvlab.inject import trial
from kvlab.models.cache_names import passing
from kvlab.request import refusals
from kvlab.request.settings import checked
from kvlab.request.train import TrainConfig
from kvlab.results.training.facts import gather
from kvlab.results.training.report import markdown
from kvlab.runs import store
from kvlab.train import checkpoint, functional
from kvlab.train.process import perform
from kvlab.train.record_words import function_words
from kvlab.web.training import words
from tests.spoken import spoken
from tests.training import ended_behind, prepared, steps, written

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("train-run"), pytest.mark.usefixtures("fresh_accelerate")]


def told(folder):
    return json.loads((folder / "report.json").read_text())["functional"]


def measured(run):
    learner = run.accelerator.unwrap_model(run.learner)
    return functional.measure(learner, run.teachers, run.data, run.config.batch_size, "evaluating", lambda *_: None)


def with_two(pair):
    teacher = pair["teachers"][0]
    return pair | {"teachers": [teacher, teacher.replace("teacher", "other")]}


# --- the numbers ----------------------------------------------------------------------------------------------


def rotate_half(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


@torch.no_grad()
def by_hand(run, item):
    """KL and ΔCE, summed over the second half of a document's own tokens, the cache of all before it projected."""
    model, teacher = run.student.model, run.teachers.models[0].model
    ids = torch.from_numpy(item.student.ids)[None]
    known = int((item.student.spans[:, 1] <= item.repeated).sum()) if item.repeated else 0
    cut = known + round((len(item.student) - known) / 2)
    whole, cache = DynamicCache(config=model.config), DynamicCache(config=model.config)
    plain, read = model(ids, **passing(model, whole)), DynamicCache(config=teacher.config)
    teacher(torch.from_numpy(item.teachers[0].ids)[None], **passing(teacher, read))
    turn_t = teacher.model.rotary_emb(read.layers[0].keys, torch.arange(len(item.teachers[0]))[None])
    turn_s = model.model.rotary_emb(whole.layers[0].keys, torch.arange(len(item.student))[None])
    ends_t, ends_s = item.teachers[0].spans[:, 1], item.student.spans[:, 1]
    fitted = run.fitted[0]
    for layer, of in enumerate(whole.layers):
        replaced = {"key": of.keys[:, :, :cut].clone(), "value": of.values[:, :, :cut].clone()}
        content_s = [i for i in range(len(item.student)) if not item.student.special[i]]
        content_t = [j for j in range(len(item.teachers[0])) if not item.teachers[0].special[j]]
        for i in range(cut):
            steps_t = [j for j in content_t if ends_t[j] <= ends_s[i]]  # floor
            if i not in content_s[4:] or not steps_t or steps_t[-1] in content_t[:4]:
                continue
            for kind, x in replaced.items():
                features = []
                for at in fitted.layers[kind, layer]:
                    source = read.layers[at]
                    row = (source.keys if kind == "key" else source.values)[0, :, steps_t[-1]]
                    if kind == "key":
                        cos, sin = (part[0, steps_t[-1]] for part in turn_t)
                        row = row * cos - rotate_half(row) * sin
                    features.append(row.flatten())
                affine = fitted.maps[kind, layer]
                number = 0 if ends_s[i] in ends_t[content_t] else 1  # of a token inside one of the teacher's
                number = int(affine.places[number])
                made = torch.cat(features) @ affine.weight[number] + affine.bias[number]
                made = made.unflatten(0, (x.shape[1], -1))
                if kind == "key":
                    cos, sin = (part[0, i] for part in turn_s)
                    made = made * cos + rotate_half(made) * sin
                x[0, :, i] = made
        cache.update(replaced["key"], replaced["value"], layer)
    logits = model(ids[:, cut:], **passing(model, cache)).logits[0]
    p, q = (x[:-1].double().log_softmax(-1) for x in (plain.logits[0, cut:], logits))
    following = ids[0, cut + 1 :]
    keep = torch.from_numpy(~item.student.special[cut + 1 :])
    kl = (p.exp() * (p - q)).sum(-1)[keep].sum()
    ce = (p - q).gather(1, following[:, None])[keep].sum()
    return float(kl), float(ce), int(keep.sum())


def test_the_numbers_are_those_of_a_cache_replaced_by_hand_before_and_after(pair, tmp_path):
    run = prepared(tmp_path / "run", pair | {"functional": True, "lr": 0.02})
    both = []
    for train in (False, True):
        if train:
            steps(run)
        found = measured(run)
        run.student.model.eval()
        hand = [by_hand(run, item) for item in run.data.heldout]
        for (kl, ce, _, n), of in zip(found["by_document"]["projected"], hand, strict=True):
            assert (kl, ce) == (pytest.approx(of[0], rel=1e-3, abs=1e-4), pytest.approx(of[1], rel=1e-3, abs=1e-3))
            assert n == of[2]
        tokens = sum(of[2] for of in hand)
        assert (found["n"], found["documents"]) == (tokens, 3)
        assert found["variants"]["projected"]["kl"] == pytest.approx(sum(of[0] for of in hand) / tokens, rel=1e-3)
        assert found["own"]["reproduces"] and found["own"]["largest_difference"] < 1e-4
        both.append((found, hand))
    (start, hand_start), (end, hand_end) = both
    assert start["variants"]["projected"]["kl"] != pytest.approx(end["variants"]["projected"]["kl"], rel=1e-2)
    found = functional.change(start, end)["projected"]
    tokens = [of[2] for of in hand_end]
    differences = [b[0] - a[0] for a, b in zip(hand_start, hand_end)]
    assert found["kl"] == pytest.approx(sum(differences) / sum(tokens), rel=1e-3, abs=1e-6)
    left_out = [
        (sum(differences) - differences[i]) / (sum(tokens) - tokens[i]) for i in range(3)
    ]  # the jackknife over documents
    mean = sum(left_out) / 3
    assert found["kl_se"] == pytest.approx((2 / 3 * sum((x - mean) ** 2 for x in left_out)) ** 0.5, rel=1e-2)


def test_the_student_as_its_own_teacher_costs_nothing(pair, tmp_path):
    itself = {"teachers": [pair["student"]], "use_kv_projector": False, "functional": True}
    found = measured(prepared(tmp_path / "run", pair | itself))
    assert abs(found["variants"]["projected"]["kl"]) < 1e-6 and abs(found["variants"]["projected"]["delta_ce"]) < 1e-4
    assert found["variants"]["projected"]["same_choice"] == 1
    assert min(found["variants"][name]["kl"] for name in ("mean", "shuffled")) > 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"fusion": "fixed", "fusion_weights": [3, 1], "precision": "bf16"},
        {"fusion": "similarity", "trainable": "lora", "gradient_checkpointing": True},
        {"fusion": "learned", "map": "structured", "trainable": "projector"},
        {"control": "ce-only"},
        {"control": "shuffled-teacher", "map": "structured"},
        {"control": "random-teacher"},
    ],
)
def test_every_kind_of_run_can_be_asked(pair, tmp_path, settings):
    run = prepared(
        tmp_path / "run", (with_two(pair) if "fusion" in settings else pair) | settings | {"functional": True}
    )
    before, loss = measured(run), steps(run)[-1]["loss"]
    after = measured(run)
    assert loss == loss and before["own"]["reproduces"] and after["own"]["reproduces"]
    change = functional.change(before, after)
    assert change["projected"]["kl"] != 0 and change["projected"]["kl_se"] > 0


def test_fusion_is_the_runs_own(pair, tmp_path):
    """With all weight on one teacher, the numbers are those of that teacher alone."""
    two = with_two(pair) | {"fusion_weights": [0, 1], "functional": True}
    fused = measured(prepared(tmp_path / "two", two))
    alone = measured(prepared(tmp_path / "one", two | {"teachers": two["teachers"][1:], "fusion_weights": []}))
    first = measured(prepared(tmp_path / "first", two | {"teachers": two["teachers"][:1], "fusion_weights": []}))
    mine, of_alone, of_first = ([kl for kl, *_ in f["by_document"]["projected"]] for f in (fused, alone, first))
    assert mine == pytest.approx(of_alone, rel=1e-5)
    assert all(kl != pytest.approx(other, rel=3e-3) for kl, other in zip(mine, of_first, strict=True))


def test_an_own_cache_that_does_not_reproduce_reports_nothing(pair, tmp_path, monkeypatch):
    run, real = prepared(tmp_path / "run", pair | {"functional": True}), trial.continued
    monkeypatch.setattr(trial, "continued", lambda *args: real(*args) + 0.05)
    found = measured(run)
    assert "variants" not in found and not found["own"]["reproduces"]
    assert "does not reproduce" in function_words(found) and functional.change(found, found) == {}


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"time": "overlap"}, {"time": "nearest"}, {"use_safe_resample": False}])
def test_a_rule_that_looks_ahead_is_refused_before_anything_is_loaded(pair, tmp_path, monkeypatch, settings):
    monkeypatch.setattr("kvlab.train.run.reader", None)  # not even a tokenizer
    folder = written(tmp_path / "run", pair | settings | {"functional": True})
    assert perform(folder) == 2
    error = spoken(store.read_status(folder)["error"])
    assert error["kind"] == "functional-looks-ahead" and error["changes"] == {"functional": False}
    assert "functional: false" in error["remedy"]
    refusals.check_functional(checked(TrainConfig, settings))  # without the test it may run
    with pytest.raises(TrainError, match="look ahead"):
        refusals.check_functional(checked(TrainConfig, settings | {"functional": True}))


# --- the record -----------------------------------------------------------------------------------------------


def test_a_resumed_run_keeps_its_start_and_every_report_shows_it(pair, tmp_path):
    settings = pair | {"functional": True, "thresholds": {"converged": 0.999, "stable": 9}}
    whole, broken = (written(tmp_path / name, settings) for name in ("whole", "broken"))
    perform(whole)
    with ended_behind(3):  # which is behind a checkpoint
        perform(broken)
    assert checkpoint.saved_step(broken) == 2
    start = told(broken)
    assert start["before"]["variants"] and not start["change"] and "after" not in start
    assert words.function(start) == "The functional test was not measured at both start and end."
    perform(broken)
    assert told(broken) == told(whole) and told(broken)["before"] == start["before"]
    log = (whole / "training.log").read_text()
    assert log.count("on the projected cache KL") == 2

    report = gather(whole)
    found = told(whole)
    kl = [found[when]["variants"]["projected"]["kl"] for when in ("before", "after")]
    change = found["change"]["projected"]
    assert change["kl"] == pytest.approx(kl[1] - kl[0], abs=1e-9) and change["kl_se"] > 0
    assert report["functional"]["variants"]["projected"]["change"]["kl"] == change["kl"]
    for language, row in (("en", "| projected | "), ("zh", "| 投影缓存 | ")):
        text = markdown(report, language)
        line = next(line for line in text.splitlines() if line.startswith(row))
        assert f"{kl[0]:.4f} ± " in line and f"{kl[1]:.4f} ± " in line and f"{change['kl']:+.4f} ± " in line
        assert f" {found['after']['n']} " in text
    assert f"{kl[1]:.4f}" in (whole / "report.html").read_text()
    said = words.function(found)
    assert f"{kl[0]:.3f}" in said and f"{kl[1]:.3f}" in said
    assert all(c["name"] != "functional" for c in json.loads((whole / "verdict.json").read_text())["checkpoints"])


def test_a_run_without_the_test_says_nothing_of_it(finished_run):
    assert "functional" not in json.loads((finished_run / "report.json").read_text())
    report = gather(finished_run)
    assert report["functional"] is None and "Functional test" not in markdown(report)
    assert words.function({}) == "" == words.function([1])


def test_the_flag(tmp_path, capsys, pair):
    flags = ["--teacher", pair["teachers"][0], "--student", pair["student"], "--use_kv_projector", "--functional"]
    assert main.main(["train", *flags, "--device", "cpu", "--output_dir", str(tmp_path / "out")]) == 2
    assert "look ahead" in capsys.readouterr().err
