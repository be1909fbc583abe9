"""Signals along a document and the comparison of time rules, on a tiny pair: against rows put together by hand."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from kvlab.align import compare_rules
from kvlab.align.batches import InOrder, read
from kvlab.align.crossfit import RELATIVE_PENALTIES
from kvlab.align.items import Reader
from kvlab.align.layers import Choice
from kvlab.align.pipeline import align
from kvlab.errors import Cancelled
from kvlab.models.capture import capture
from kvlab.models.loading import load
from kvlab.request.align import AlignSettings
from kvlab.request.time_rules import MAPS
from kvlab.shapes import KINDS, Document, no_progress
from tests.tiny import TEXT, tiny_model

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("rules")]
SETTINGS = AlignSettings(folds=3, sinks=2, inspect=2, layers="depth", random_teacher=False, compare_rules=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(role) for role in ("teacher", "student")]
    tiny_model("qwen2", folders[0], seed=1)
    tiny_model("llama", folders[1], seed=2, tokenizer_style="sentencepiece", num_hidden_layers=2)
    return [load(str(folder), "cpu", "float32") for folder in folders]


@pytest.fixture(scope="module")
def documents():
    words, rng = TEXT.split(), np.random.default_rng(0)
    return [Document(f"d{i}", " ".join(rng.choice(words, 30))) for i in range(24)]


@pytest.fixture(scope="module")
def aligned(pair, documents):
    return align(*pair, documents, SETTINGS)[0]


@pytest.fixture(scope="module")
def aligned_by_one_map(pair, documents):
    return align(*pair, documents, SETTINGS.model_copy(update={"rows": "exact"}))[0]


def by_hand(pair, documents, rule, layer, by):
    """R² of the keys of a student layer under ``rule``: every row listed, scikit-learn's ridge, all penalties tried.

    Returns the least and the most that one penalty for each class gives [H], and the numbers of rows.
    """
    teacher, student = pair
    items = [i for window in Reader([teacher], student, documents, [], SETTINGS).windows() for i in window]
    rows = []
    for item in items:
        x = capture(teacher, [item.teachers[0]]).keys[(0, 2)[layer]][0].transpose(0, 1).flatten(1).numpy()
        y = capture(student, [item.student]).keys[layer][0].transpose(0, 1).flatten(1).numpy()
        first_t, first_s = (np.flatnonzero(~tokens.special)[:2] for tokens in (item.teachers[0], item.student))
        maps = {name: MAPS[name](item.teachers[0], item.student) for name in MAPS}

        def usable(time_map, item=item, first_t=first_t, first_s=first_s):
            dense = np.zeros((len(item.student), len(item.teachers[0])))
            np.add.at(dense, (time_map.rows, time_map.columns), time_map.weights)
            bad = dense[:, first_t].any(1) | dense[:, item.teachers[0].special].any(1) | item.student.special
            bad[first_s] = True
            bad[(item.student.spans[:, 1] <= item.repeated) & (item.repeated > 0)] = True
            return dense, dense.any(1) & ~bad

        common = np.all([usable(maps[name])[1] for name in MAPS if name != "exact"], axis=0)
        dense, mine = usable(maps[rule])
        inside = ~maps[rule].exact & (rule in ("floor", "ceil", "overlap"))
        fitted = mine if by == "by-class" else mine & ~inside
        inside = inside & (by == "by-class")
        rows += [(item.fold, c, f, s, a, b) for c, f, s, a, b in zip(inside, fitted, common & mine, dense @ x, y)]
    fold, row_class, fitted, scored = (np.array([row[k] for row in rows]) for k in range(4))
    x, y = (np.array([row[k] for row in rows]) for k in (4, 5))
    least, most, of_mean = np.zeros(2), np.zeros(2), np.zeros(2)
    for of_class in np.unique(row_class):
        found = []
        for penalty in RELATIVE_PENALTIES:
            rss, tss = np.zeros(y.shape[1]), np.zeros(y.shape[1])
            for f in range(3):
                train, test = (
                    of_rows & (row_class == of_class) for of_rows in (fitted & (fold != f), scored & (fold == f))
                )
                spread = ((x[train] - x[train].mean(0)) ** 2).sum(0).mean()
                fit = Ridge(alpha=penalty * spread, solver="cholesky").fit(x[train], y[train])
                rss += ((y[test] - fit.predict(x[test])) ** 2).sum(0)
                tss += ((y[test] - y[train].mean(0)) ** 2).sum(0)
            found.append(rss.reshape(2, -1).sum(1))
        least, most, of_mean = least + np.max(found, 0), most + np.min(found, 0), of_mean + tss.reshape(2, -1).sum(1)
    return 1 - least / of_mean, 1 - most / of_mean, int(scored.sum()), int(fitted.sum())


@pytest.mark.parametrize("rule", ["floor", "overlap", "nearest"])
@pytest.mark.parametrize("by", ["by-class", "exact"])
def test_a_rule_scores_what_rows_put_together_by_hand_give(request, pair, documents, rule, by):
    aligned = request.getfixturevalue("aligned" if by == "by-class" else "aligned_by_one_map")
    assert aligned.layer_map["teacher_layers"]["key"] == [[0], [2]]
    least, most, scored, fitted = by_hand(pair, documents, rule, 1, by)
    assert aligned.controls["rules"][rule] == {"rows_fit": fitted, "rows_scored": scored, "common": True}
    for head, r2 in enumerate(aligned.arrays[f"rules.key.{rule}.r2"][1]):
        # Each fold has its own penalty; the score lies among those of single penalties, near the best.
        assert least[head] - 1e-4 <= r2 <= most[head] + 0.01
        assert r2 == pytest.approx(most[head], abs=0.03)


def test_all_rules_but_exact_are_scored_on_the_same_tokens(aligned):
    rows = aligned.controls["rules"]
    assert set(rows) == set(MAPS)
    assert len({of["rows_scored"] for of in rows.values() if of["common"]}) == 1
    assert [rule for rule, of in rows.items() if not of["common"]] == ["exact"]
    np.testing.assert_array_equal(aligned.arrays["rules.key.exact.r2"].shape, (2, 2))


def test_the_comparison_is_left_out_unless_asked_for_and_can_be_cancelled(pair, documents):
    plain, _ = align(*pair, documents[:6], SETTINGS.model_copy(update={"compare_rules": False}))
    assert plain.controls["rules"] == {} and not [name for name in plain.arrays if name.startswith("rules.")]

    def cancel(stage, done, total):
        if stage == compare_rules.STAGE and done:
            raise Cancelled

    with pytest.raises(Cancelled):
        align(*pair, documents[:6], SETTINGS, progress=cancel)


def test_a_rule_without_rows_to_fit_is_left_out(pair, documents):
    teacher, student = pair
    items = [i for w in Reader([teacher], student, documents[:3], [], SETTINGS).windows() for i in w]
    choices = {kind: [Choice.of((0,), [(0,)] * 3, lambda layer: 32)] * 2 for kind in KINDS}
    cached = []
    for batch in InOrder(iter([items]), 4096):
        (rows,) = read([teacher], student, batch, SETTINGS).teachers
        for item in batch:
            ends = item.teachers[0].spans
            ends[:] += 1000 * ~item.teachers[0].special[:, None]  # no border meets, and none ends before the student's
        cached.append(compare_rules.Cached(batch, rows.teacher, rows.student))
    found = compare_rules.compare(cached, 0, choices, [2, 2], 3, SETTINGS, no_progress)
    assert "floor" not in found.rows and "exact" not in found.rows


def test_the_signal_is_the_projection_on_the_first_direction(pair, aligned):
    """Of the student: its own keys on their first principal direction, up to the scale and offset of all documents."""
    student = pair[1]
    for number, document in enumerate(aligned.inspected):
        tokens = student.tokenizer(document.text, return_tensors="pt")
        with torch.inference_mode():
            assert tokens["input_ids"].shape[1] == len(document.student_tokens)
        signal = {n: aligned.arrays[f"document.{number}.signal.value.{n}"] for n in ("student", "resampled", "teacher")}
        assert signal["student"].shape == (2, 2, len(document.student_tokens))
        assert signal["teacher"].shape == (2, 2, len(document.teacher_tokens))
        index = aligned.arrays[f"document.{number}.index.floor"]
        covered = ~np.isnan(index)
        row_class = aligned.arrays[f"document.{number}.row_class"]
        np.testing.assert_array_equal(
            row_class[covered] == 0, aligned.arrays[f"document.{number}.lag.floor"][covered] == 0
        )
        # Under floor each resampled step is one step of the teacher, and the map of exact rows acts on steps alone.
        for of_class, same in ((0, True), (1, False)):
            steps = np.flatnonzero(covered & (row_class == of_class))
            on_own_steps = signal["teacher"][:, :, index[steps].astype(int)]
            assert len(steps) > 9 and (signal["resampled"][:, :, steps] == on_own_steps).all() == same
        assert np.isnan(signal["resampled"][:, :, ~covered]).all()
        values = student.model(**tokens, use_cache=True).past_key_values.layers[1].values[0].detach().numpy()
        for head in range(2):
            own = signal["student"][1, head].astype(float)
            design = np.column_stack([values[head], np.ones(len(own))])
            fitted, *_ = np.linalg.lstsq(design, own, rcond=None)
            np.testing.assert_allclose(design @ fitted, own, atol=0.01)  # a linear reading of this head alone
    assert np.nanstd(
        np.concatenate([aligned.arrays[f"document.{n}.signal.value.student"][1, 0] for n in range(2)])
    ) == (pytest.approx(1, abs=0.5))


def test_every_head_has_its_own_spectrum(aligned):
    for score in aligned.heads:
        share, error, identity = (
            aligned.arrays[f"spectrum.{score.kind}.{name}"][score.layer, score.head]
            for name in ("share", "error", "error_identity")
        )
        assert (share * error).sum() == pytest.approx(score.error, abs=1e-4)
        assert (share * identity).sum() == pytest.approx(1 - score.r2_identity, abs=1e-4)
