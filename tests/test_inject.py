"""The whole functional test, on the bundled pair and on models whose answer is known."""

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from kvlab.align.batches import batches, read
from kvlab.align.crossfit import FALLBACK_PENALTY
from kvlab.align.fold_sums import FITTED
from kvlab.cli import main
from kvlab.errors import AlignError, Cancelled
from kvlab.inject import pipeline as judging
from kvlab.inject import trial as trials
from kvlab.inject.continuation import Variant, continued
from kvlab.inject.fit import fit
from kvlab.inject.pipeline import judge
from kvlab.inject.prefix import Models, cut_at, first_tokens, prefix_of, read_document
from kvlab.inject.split import split
from kvlab.language import speaking
from kvlab.models.loading import load
from kvlab.request import prompts
from kvlab.request.align import AlignSettings
from kvlab.request.inject import InjectSettings
from kvlab.results.alignment.data import plain
from kvlab.results.function import data as results
from kvlab.shapes import KINDS
from tests.test_injection import entering_output
from tests.tiny import tiny_model

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("inject")]

QUICK = AlignSettings(layers="depth", folds=3)
FIVE_FOLDS = AlignSettings(layers="depth")
SMALL = InjectSettings(curve=(0.25,), documents=8, texts=2, new_tokens=12)
NOT_REFINED = [name for name in results.VARIANTS if "refined" not in name]
ONLY = InjectSettings(curve=(), documents=6, swap_layers=0, texts=0)


@pytest.fixture(scope="module")
def models():
    return {name: load(f"demo/{name}", "cpu", "float32") for name in ("teacher", "teacher-b", "student")}


@pytest.fixture(scope="module")
def documents():
    return prompts.samples()[:100]


@pytest.fixture(scope="module")
def work(models, documents):
    """A functional test, and the documents and maps that it was made with."""
    made = {}

    def kept(name, real):
        def keep(*args):
            made[name] = real(*args)
            return made[name]

        return keep

    with pytest.MonkeyPatch.context() as patch:
        for name in ("split", "fit"):
            patch.setattr(judging, name, kept(name, getattr(judging, name)))
        found = judge([models["teacher"]], models["student"], documents, FIVE_FOLDS, SMALL)
    return found, made["split"], made["fit"]


@pytest.fixture(scope="module")
def found(work):
    return work[0]


@pytest.fixture(scope="module")
def halves(work, models):
    """Of every judged document the student's reading and the replaced prefix."""
    _, parts, fitted = work
    all_models = Models([models["teacher"]], [], models["student"], FIVE_FOLDS)
    readings = [read_document(all_models, item) for item in parts.judged]
    return [(r.own, prefix_of(all_models, fitted, r, cut_at(SMALL.prefix, r.item))) for r in readings]


def test_the_own_cache_changes_nothing(found):
    assert found.reproduces and found.own["largest_difference"] < 1e-4
    for share in (0.25, 0.5):
        own = found.score("own", share)
        assert own.kl < 1e-6 and abs(own.delta_ce) < 1e-5 and own.same_choice == 1


def test_the_projected_cache_is_better_than_its_controls(found):
    assert found.score("projected").kl > 0.01
    for name in ("mean", "shuffled", "random"):
        control = found.score(name)
        assert control.kl_over_projected > 2 * control.kl_over_projected_se > 0
        assert control.kl == pytest.approx(found.score("projected").kl + control.kl_over_projected)
        assert control.n == found.score("projected").n and control.documents == 8


def test_more_of_the_cache_replaced_costs_more_than_a_part(found):
    whole = found.score("projected").kl
    for swap in found.swaps:
        assert 0 <= swap.kl < whole
    places = {(s.kind, s.layer, s.head) for s in found.swaps}
    assert places == {(k, n, h) for k in ("key", "value", "both") for n in range(4) for h in (None, 0, 1)}
    assert np.isfinite(found.grid("swaps", "key", "kl")).all() and found.grid("attention", "both", "error").shape == (
        4,
        2,
    )
    assert {c.heads for c in found.correlations} == {8, 16} and all(-1 <= c.rho <= 1 for c in found.correlations)


@pytest.mark.parametrize(("kind", "layer", "head"), [("key", 2, 1), ("value", 1, 0), ("both", 3, None)])
def test_a_swap_by_hand(found, halves, models, kind, layer, head):
    damages = {"projected": 0.0, "mean": 0.0}
    for own, prefix in halves:
        predicted = torch.from_numpy(~own.tokens.special[prefix.cut + 1 :])
        for source in damages:
            given = {}
            for problem in [(k, layer) for k in KINDS if kind in (k, "both")]:
                given[problem] = own.stored[problem][:, prefix.rows].clone()
                heads = [0, 1] if head is None else [head]
                given[problem][heads] = prefix.cached[source][problem][heads]
            both = continued(models["student"], own, prefix.cut, prefix.rows, [Variant("own"), Variant("swap", given)])
            p, q = both[:, :-1][:, predicted].double().log_softmax(-1)
            damages[source] += float((p.exp() * (p - q)).sum())
    (swap,) = [s for s in found.swaps if (s.kind, s.layer, s.head) == (kind, layer, head)]
    assert swap.documents == len(halves) == 8
    assert (swap.kl * swap.n, swap.kl_mean * swap.n) == pytest.approx(tuple(damages.values()), rel=1e-3, abs=1e-4)


def test_errors_of_the_heads_outputs_by_hand(found, halves, models):
    """Of layer 0, where a continuation from the replaced cache reads the own hidden states."""
    student, own_outputs = models["student"], []
    rss = {(kind, source): torch.zeros(4) for kind in ("key", "value", "both") for source in ("projected", "mean")}
    for own, prefix in halves:

        def outputs(given, own=own, prefix=prefix):
            variant = [Variant("some", given)]
            run = entering_output(student, 0, lambda: continued(student, own, prefix.cut, prefix.rows, variant))
            return run[0].unflatten(-1, (4, -1))  # [Q, Hq, D]

        own_outputs.append(outputs({}))
        for kind, source in rss:
            given = {(k, 0): prefix.cached[source][k, 0] for k in KINDS if kind in (k, "both")}
            rss[kind, source] += (outputs(given) - own_outputs[-1]).square().sum((0, 2))
    every = torch.cat(own_outputs)
    tss = (every - every.mean(0)).square().sum((0, 2))
    cells = [cell for cell in found.attention if cell.layer == 0]
    assert len(cells) == 6
    for cell in cells:
        group = slice(2 * cell.head, 2 * cell.head + 2)
        projected, mean = (rss[cell.kind, source] for source in ("projected", "mean"))
        assert cell.n == len(every) and cell.error == pytest.approx(
            float(projected[group].sum() / tss[group].sum()), 1e-3
        )
        assert cell.controls["mean"] == pytest.approx(float(mean[group].sum() / tss[group].sum()), 1e-3)
        assert cell.query_heads == pytest.approx((projected / tss)[group].tolist(), 1e-3)


def test_errors_have_their_reference(found):
    for cell in found.projection:
        assert cell.controls["mean"] == pytest.approx(1, abs=1e-6) and cell.error < 1 < cell.controls["shuffled"]
    assert all(np.isnan(cell.kl) == (cell.kind == "value") for cell in found.attention)
    assert all(0 < cell.error < 1 and len(cell.query_heads) == 2 for cell in found.attention)


def test_texts_stand_side_by_side(found):
    assert [c.variant for c in found.texts[0].continuations] == NOT_REFINED
    # Tokens of an English text are whole characters.
    own = next(text.continuations[0] for text in found.texts if text.continuations[0].text.isascii())
    assert not any(own.differs) and len(own.tokens) <= 12 and "".join(own.tokens).strip() == own.text.strip()
    assert all(str(text.expected).replace(":", "").isdigit() for text in found.texts)  # 18:25 is a time of day
    assert {a.variant for a in found.accuracy} == set(NOT_REFINED)


def test_it_reads_back_and_says_itself_in_a_sentence(found, tmp_path):
    results.write(found, tmp_path)
    again = results.read(tmp_path)
    assert plain(again.to_dict()) == plain(found.to_dict())
    said = results.sentence(again)
    assert "8 documents" in said and f"n = {found.score('projected').n:,}" in said and "80 others" in said
    with speaking("zh"):
        assert "8 篇留出文档" in results.sentence(again)


def test_a_student_that_is_its_own_teacher(models, documents):
    """With the identity as the map nothing changes; a ridge comes near it, and the shuffled rows do not."""
    same = judge([models["student"]], models["student"], documents[:30], QUICK, ONLY)
    assert same.score("projected").kl < 1e-4 < 0.05 < same.score("shuffled").kl
    assert max(cell.error for cell in same.projection) < 1e-3
    assert max(cell.error for cell in same.attention) < 1e-3


def test_two_teachers_are_fused(models, documents):
    teachers = [models["teacher"], models["teacher-b"]]
    settings = QUICK.model_copy(update={"random_teacher": False})
    both = judge(teachers, models["student"], documents[:30], settings, ONLY)
    assert len(both.teachers) == 2 and both.score("projected").kl < both.score("mean").kl
    with pytest.raises(KeyError):
        both.score("random")


def test_a_student_among_its_teachers_is_the_one_that_is_believed(models, documents):
    teachers, student = [models["teacher"], models["student"]], models["student"]
    settings = QUICK.model_copy(update={"folds": 3})
    parts = split(teachers, student, documents[:12], (), settings, 8)
    fitted = fit(teachers, [], student, parts, settings, lambda *_: None)
    all_models = Models(teachers, [], student, settings)
    for weights in fitted.sources["projected"].weights.values():
        assert weights[1].min() > 0.99 and weights[0].max() < 0.01
    reading = read_document(all_models, parts.judged[0])
    prefix = prefix_of(all_models, fitted, reading, cut_at(0.5, parts.judged[0]))
    for problem, x in prefix.compared["projected"].items():
        target = reading.own.compared[problem][:, prefix.rows]
        assert (x - target).square().sum() < 1e-3 * (target - target.mean(1, keepdim=True)).square().sum()


def test_maps_of_two_teachers_and_of_their_embeddings_are_ridges_of_scikit_learn(models, documents):
    """Of two folds none is left to choose a penalty or weights on: cautious ridges, of equal weights."""
    teachers, student = [models["teacher"], models["teacher-b"]], models["student"]
    settings = QUICK.model_copy(update={"folds": 2})
    parts = split(teachers, student, documents[:20], (), settings, 8)
    fitted = fit(teachers, [], student, parts, settings, lambda *_: None)
    reads = [read(teachers, student, batch, settings) for batch in batches(parts.fitted, settings.batch_tokens)]
    of_teacher = [[found.teachers[number] for found in reads] for number in (0, 1)]
    generator = torch.Generator().manual_seed(0)

    def ridge(x, y):
        """Fitted, and its predictions of five rows far from those it was fitted on, which are returned first."""
        penalty = FALLBACK_PENALTY * float((x - x.mean(0)).square().sum()) / x.shape[1]
        rows = torch.randn(5, x.shape[1], generator=generator)
        model = Ridge(alpha=penalty, solver="cholesky").fit(x.double().numpy(), y.double().numpy())
        return rows, torch.from_numpy(model.predict(rows.double().numpy())).float()

    def of_class(rows, row_class):
        return [(r, part) for r in rows for part in r.parts if part.use in FITTED and part.row_class == row_class]

    for kind, layer in [(kind, layer) for kind in KINDS for layer in range(4)]:
        made = {}
        of_classes = [torch.zeros(5, dtype=torch.int64) + row_class for row_class in (0, 1)]
        for number, row_class in product((0, 1), (0, 1)):
            rows = of_class(of_teacher[number], row_class)
            chosen = fitted.layers[number][kind, layer]
            y = torch.cat([r.y(kind, layer, part) for r, part in rows])
            teacher = torch.cat([r.side_by_side(kind, chosen, part) for r, part in rows])
            own = torch.cat([r.own(part) for r, part in rows])
            by_source = {
                "identity": torch.cat([r.e(part) for r, part in rows]),
                "own-tokens": own,
                "projected": teacher,
                "with-own-token": torch.cat([teacher, own[:, : own.shape[1] // 3]], dim=1),
            }
            for name, features in by_source.items():
                x, expected = ridge(features, y)
                maps = fitted.sources[name].maps[kind, layer][number]
                torch.testing.assert_close(maps.predict(x, of_classes[row_class]), expected, rtol=1e-3, atol=1e-3)
                torch.testing.assert_close(maps.mean(of_classes[row_class])[0], y.mean(0), rtol=1e-4, atol=1e-4)
                made[name, number, row_class] = x, expected
        # Fused about the mean of the rows that both teachers have.
        every = [(found.common[0], part) for found in reads for part in found.common[0].parts if part.use in FITTED]
        common = torch.cat([r.y(kind, layer, part) for r, part in every]).mean(0)
        for name, joint in product(("projected", "with-own-token", "identity", "own-tokens"), product((0, 1), (0, 1))):
            (x, of_first), (x_second, of_second) = (made[name, number, c] for number, c in enumerate(joint))
            source = fitted.sources[name]
            found = source.predict((kind, layer), [x, x_second], [of_classes[c] for c in joint])
            torch.testing.assert_close(found, (of_first + of_second) / 2, rtol=1e-3, atol=1e-3)
            if "identity" not in name and "tokens" not in name:
                torch.testing.assert_close(source.mean[kind, layer], common)


def test_teachers_that_never_read_alike_are_refused(models, documents):
    """Each meets the student, on other tokens: nothing to fuse them on with one map of exact tokens."""
    teachers, student = [models["teacher"], models["teacher-b"]], models["student"]
    parts = split(teachers, student, documents[:12], (), QUICK, 2)
    for item in parts.fitted:
        for at, time_map in enumerate(item.maps):
            time_map.exact[at::2] = False
    with pytest.raises(AlignError) as caught:
        fit(teachers, [], student, parts, QUICK.model_copy(update={"rows": "exact"}), lambda *_: None)
    assert caught.value.kind == "no-rows" and "all teachers" in caught.value.expected


# --- what must not be known -----------------------------------------------------------------------------------


def test_judged_documents_are_any_of_their_fold_not_its_first(models, documents):
    def judged(most, seed=0):
        settings = QUICK.model_copy(update={"folds": 3, "seed": seed})
        parts = split([models["teacher"]], models["student"], documents[:60], (), settings, most)
        return [item.document.id for item in parts.judged]

    whole, place = judged(60), {document.id: n for n, document in enumerate(documents)}
    assert len(whole) == 20 and judged(8) == whole[:8] and judged(8, seed=1) != whole[:8]
    assert max(place[name] for name in whole[:8]) > 40 and whole != sorted(whole, key=place.get)


@pytest.mark.parametrize("rule", ["floor", "linear"])
def test_nothing_of_the_continuation_is_known(models, documents, rule):
    settings = QUICK.model_copy(update={"time": rule})
    teacher, student = models["teacher"], models["student"]
    parts = split([teacher], student, documents[:20], (), settings, 8)
    assert not {i.document.text for i in parts.judged} & {i.document.text for i in parts.fitted}
    fitted = fit([teacher], [], student, parts, settings, lambda *_: None)
    item, cut = parts.judged[0], 20
    all_models = Models([teacher], [], student, settings)
    whole = prefix_of(all_models, fitted, read_document(all_models, item), cut)
    end = item.student.spans[cut - 1, 1]
    known = int(np.searchsorted(item.teachers[0].spans[:, 1], end, side="right"))
    short = dataclasses.replace(item, student=item.student.first(cut), teachers=(item.teachers[0].first(known),))
    alone = prefix_of(all_models, fitted, read_document(all_models, short), cut)
    assert whole.rows.tolist() == alone.rows.tolist() and len(whole.rows) > 5
    for problem, x in whole.cached["projected"].items():
        torch.testing.assert_close(x, alone.cached["projected"][problem], rtol=1e-4, atol=1e-4)
    # The beginning keeps the own cache: BOS and the first content tokens.
    assert int(whole.rows.min()) >= 1 + settings.sinks


def test_a_teacher_whose_rotation_depends_on_the_length_reads_the_prefix_alone(models, documents, tmp_path):
    """Of more than 16 tokens it rotates otherwise, and so has another cache of the first 16."""
    scaled = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
    scaled |= {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    teacher, student = load(tiny_model("llama", tmp_path, rope_parameters=scaled), "cpu", "float32"), models["student"]
    parts = split([teacher], student, documents[:12], (), QUICK, 8)
    fitted = fit([teacher], [], student, parts, QUICK, lambda *_: None)
    all_models = Models([teacher], [], student, QUICK)
    item = next(item for item in parts.judged if item.document.text.isascii())  # 16 of its tokens stand for words
    cut = next(n for n in range(2, len(item.student)) if len(first_tokens(item, n + 1, "floor").teachers[0]) > 16)
    first = first_tokens(item, cut, "floor")
    assert 8 < len(first.teachers[0]) <= 16 < len(item.teachers[0])
    whole, alone = (prefix_of(all_models, fitted, read_document(all_models, of), cut) for of in (item, first))
    assert len(whole.rows)
    for problem, x in whole.compared["projected"].items():
        torch.testing.assert_close(x, alone.compared["projected"][problem], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["linear", "nearest", "ceil", "overlap", "segment", "rkv"])
def test_rules_that_look_ahead_are_refused(models, documents, rule):
    with pytest.raises(AlignError) as caught:
        judge([models["teacher"]], models["student"], documents, AlignSettings(time=rule), ONLY)
    assert caught.value.kind == "rule-looks-ahead"


# --- when it must stop ----------------------------------------------------------------------------------------


def test_where_the_own_cache_does_not_reproduce_nothing_else_is_reported(models, documents, monkeypatch):
    real = trials.continued
    monkeypatch.setattr(trials, "continued", lambda *args: real(*args) + 0.01)
    settings = QUICK.model_copy(update={"random_teacher": False})
    found = judge([models["teacher"]], models["student"], documents[:20], settings, ONLY)
    assert not found.reproduces
    assert not (found.injected or found.swaps or found.attention or found.projection or found.texts)
    assert results.sentence(found).startswith("Nothing is reported")


def test_a_budget_ends_the_swaps_and_a_request_ends_everything(models, documents):
    settings = QUICK.model_copy(update={"random_teacher": False})
    wanted = ONLY.model_copy(update={"swap_layers": 1, "forwards": 5})
    found = judge([models["teacher"]], models["student"], documents[:40], settings, wanted)
    heads = [s for s in found.swaps if s.head is not None]
    assert len({s.layer for s in heads}) == 1
    (judged,) = {s.documents for s in heads}
    assert 1 <= judged < next(one.documents for one in found.injected)
    assert sum("The budget for swaps was used up" in note for note in found.notes) == 2  # for layers and for heads
    per_feature = found.data["rows_fitted"] / (12 * 16)  # of 12 teacher heads
    assert sum(f"Only {per_feature:.1f} fitted rows per feature" in note for note in found.notes) == (per_feature < 2)
    assert any("budget" in note for note in found.notes) and "head_swaps_forecast_s" in found.timings

    def cancel(stage, done, total):
        if stage == judging.INJECTING and done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        judge([models["teacher"]], models["student"], documents[:20], settings, ONLY, progress=cancel)


def test_the_command(documents, tmp_path, capsys, monkeypatch):
    prompts.write_prompts(documents[:12], tmp_path / "prompts.jsonl")
    models = ["--teacher", "demo/teacher", "--student", "demo/student", "--prompts", str(tmp_path / "prompts.jsonl")]
    small = ["--calibration", "none", "--layers", "depth", "--no-random-teacher", "--swap-layers", "0", "--texts", "0"]
    command = ["inject", *models, *small, "--device", "cpu", "--curve", "--out", str(tmp_path / "out")]
    assert main.main([*command, "--time", "linear"]) == 2
    assert "looks ahead" in capsys.readouterr().err
    assert main.main([*command, "--prefix", "1.5"]) == 2
    assert main.main([*command, "--language", "zh"]) == 0
    said = capsys.readouterr().out
    assert "投影缓存" in said and "词元被替换" in said
    found = results.read(tmp_path / "out")
    assert found.prompts == "prompts.jsonl" and {i.prefix for i in found.injected} == {0.5}
    real = trials.continued
    monkeypatch.setattr(trials, "continued", lambda *args: real(*args) + 0.01)
    assert main.main(command) == 1
    assert not results.read(tmp_path / "out").injected
