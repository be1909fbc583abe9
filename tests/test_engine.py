"""What an analysis does beyond one pair and one rule: several teachers, controls, rows apart, windows, bad input."""

import copy
import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from kvlab.align import batches, controls, pipeline, rkv, scoring
from kvlab.align import items as reading
from kvlab.align.crossfit import ByClass, crossfit_ridge, scored_apart
from kvlab.align.fold_sums import FIT_AND_SCORE, Pairing
from kvlab.align.pipeline import align, align_several
from kvlab.align.unfinished import Unfinished
from kvlab.errors import AlignError, ModelError
from kvlab.models.attention import observed_attention, observers
from kvlab.models.capture import capture
from kvlab.models.loading import load, random_like
from kvlab.request.align import AlignSettings
from kvlab.shapes import Document, Segment
from tests.tiny import TEXT, tiny_model

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("engine")]
PLAIN = AlignSettings(inspect=0, layers="depth", random_teacher=False, folds=3)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}
    for seed, (name, architecture, style) in enumerate(
        (("teacher", "qwen2", "sentencepiece"), ("second", "qwen3", "byte"), ("student", "llama", "sentencepiece"))
    ):
        folder = tmp_path_factory.mktemp(name)
        vocab = 340 if name == "student" else 400
        tiny_model(architecture, folder, seed=seed, tokenizer_style=style, num_hidden_layers=2, vocab=vocab)
        made[name] = load(str(folder), "cpu", "float32")
    return made


@pytest.fixture(scope="module")
def sixty():
    words, rng = TEXT.split(), np.random.default_rng(0)
    return [Document(f"d{i}", " ".join(rng.choice(words, 30))) for i in range(60)]


@pytest.fixture(scope="module")
def documents(sixty):
    return sixty[:30]


# --- several teachers ------------------------------------------------------------------------------------------


def test_each_of_several_teachers_is_scored_as_it_is_alone(models, documents):
    teachers = [models["teacher"], models["second"]]
    together = align_several(teachers, models["student"], documents, PLAIN)
    for teacher, (result, _) in zip(teachers, together):
        alone, _ = align(teacher, models["student"], documents, PLAIN)
        np.testing.assert_allclose(result.table()["r2"], alone.table()["r2"], atol=1e-6)
        assert result.data == alone.data and result.timeline == alone.timeline
        assert result.teachers == [t.name for t in teachers] and alone.teachers == [teacher.name]
        assert result.fusion and not alone.fusion


def test_the_same_teacher_twice_brings_nothing(models, documents):
    (result, _), (again, _) = align_several([models["teacher"]] * 2, models["student"], documents, PLAIN)
    np.testing.assert_array_equal(result.table()["r2"], again.table()["r2"])
    assert max(abs(score.gain) for score in result.fusion) < 1e-5
    assert {score.n for score in result.fusion} == {result.data["rows_scored"]}


def test_a_model_among_the_teachers_explains_itself_in_the_fusion(models, documents):
    (_, _), (own, _) = align_several([models["teacher"], models["student"]], models["student"], documents, PLAIN)
    assert own.table()["error"].max() < 1e-6
    for score in own.fusion:
        assert score.r2 > 0.999 and score.weights[1] > 0.99


# --- controls --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", ["pre-rope", "post-rope"])
def test_random_weights_are_a_teacher_like_any_other(models, documents, keys):
    plain = PLAIN.model_copy(update={"keys": keys, "seed": 3})
    settings = plain.model_copy(update={"random_teacher": True})
    result, _ = align(models["teacher"], models["student"], documents, settings)
    stand_in = random_like(models["teacher"], 3)
    expected, _ = align(stand_in, models["student"], documents, plain)
    np.testing.assert_allclose(result.table()["r2_random"], expected.table()["r2"], atol=1e-5)
    np.testing.assert_allclose(result.table()["random_se"], expected.table()["se"], atol=1e-5)
    table = result.table()
    np.testing.assert_allclose(table["gain_random"], table["r2"] - table["r2_random"], atol=1e-9)
    assert str(result.controls["random_teacher"]) == "seed 3"


def test_controls_of_a_bounded_sample_say_their_rows(models, documents):
    settings = PLAIN.model_copy(update={"random_teacher": True, "sample_tokens": 300, "batch_tokens": 300})
    bounded, _ = align(models["teacher"], models["student"], documents, settings)
    whole, _ = align(models["teacher"], models["student"], documents, PLAIN)
    np.testing.assert_allclose(bounded.table()["r2"], whole.table()["r2"], atol=1e-6)
    table = bounded.table()
    assert (table["n_control"] < table["n"] / 2).all() and bounded.controls["rows"] == table["n_control"][0]
    assert not bounded.controls["whole_sample"] and whole.controls["whole_sample"]
    # Fewer rows: the teacher is compared with random weights on the same few.
    assert not np.allclose(table["gain_random"], table["r2"] - table["r2_random"], atol=1e-3)


def test_a_teacher_of_random_weights_does_not_beat_random_weights(models, documents):
    """The null of that control: another draw of the same distribution."""
    first = random_like(models["teacher"], 11)
    settings = PLAIN.model_copy(update={"random_teacher": True, "seed": 12})
    result, _ = align(first, models["student"], documents, settings)
    assert result.table()["gain_random"].abs().mean() < 0.05


def test_without_room_for_random_weights_the_rest_is_measured(models, documents, monkeypatch):
    def no_room(loaded, seed):
        raise ModelError("model-memory", expected="30 GiB", found="2 GiB free", remedy="use another device")

    monkeypatch.setattr(pipeline, "random_like", no_room)
    result, _ = align(models["teacher"], models["student"], documents[:10], AlignSettings(inspect=0))
    assert str(result.controls["random_teacher"]) == "not measured: 2 GiB free"
    assert any("No control by random weights" in note for note in result.notes)
    assert result.table()["r2_random"].isna().all() and result.table()["r2"].notna().all()


# --- random weights in the place of other teachers ----------------------------------------------------------------


@pytest.mark.parametrize("rows", ["by-class", "exact"])
def test_the_control_of_a_fusion_is_that_fusion_with_random_weights_for_the_others(models, sixty, rows):
    settings = PLAIN.model_copy(update={"seed": 3, "rows": rows})
    pair, student = [models["teacher"], models["second"]], models["student"]
    measured = settings.model_copy(update={"random_teacher": True})
    found, other = (result.fusion for result, _ in align_several(pair, student, sixty, measured))
    assert found == other
    controls = []  # by which teacher stays
    for stays in (0, 1):
        instead = [teacher if t == stays else random_like(teacher, 3) for t, teacher in enumerate(pair)]
        controls.append(align_several(instead, student, sixty, settings)[0][0].fusion)
    best = [int(np.argmax(score.r2_alone)) for score in found]
    assert set(best) == ({0, 1} if rows == "exact" else {1})
    for number, score in enumerate(found):
        assert score.gain_random == pytest.approx(score.r2 - controls[best[number]][number].r2, abs=1e-4)
        assert score.gain_random_se > 0 and score.n_control == score.n
    # These teachers have learned nothing either.
    assert sum(score.gain > 2 * score.gain_se for score in found) > len(found) / 2
    assert sum(score.beats_best for score in found) <= len(found) / 4


def test_the_control_of_a_fusion_reads_each_random_teacher_once(models, documents, monkeypatch):
    made, read = [], []
    monkeypatch.setattr(pipeline, "random_like", lambda loaded, seed: made.append(seed) or random_like(loaded, seed))
    monkeypatch.setattr(controls, "capture", lambda loaded, *rest: read.append(loaded.name) or capture(loaded, *rest))
    settings = PLAIN.model_copy(update={"random_teacher": True, "sample_tokens": 300, "batch_tokens": 300})
    alone, _ = align(models["teacher"], models["student"], documents[:20], settings)
    batches_read = len(read)
    assert len(made) == 1 and not alone.fusion
    pair = [models["teacher"], models["second"]]
    (together, _), _ = align_several(pair, models["student"], documents[:20], settings)
    assert len(made) == 3 and len(read) == 3 * batches_read
    for score in together.fusion:
        assert 0 < score.n_control < score.n / 2 and np.isfinite(score.gain_random)


def test_without_random_weights_a_gain_is_that_over_the_best_teacher(models, documents, monkeypatch):
    def no_room(loaded, seed):
        if loaded is models["second"]:
            raise ModelError("model-memory", expected="30 GiB", found="2 GiB free", remedy="use another device")
        return random_like(loaded, seed)

    monkeypatch.setattr(pipeline, "random_like", no_room)
    pair = [models["teacher"], models["second"]]
    for asked in (False, True):
        settings = PLAIN.model_copy(update={"random_teacher": asked})
        (result, _), _ = align_several(pair, models["student"], documents[:20], settings)
        for score in result.fusion:
            assert np.isnan(score.gain_random) and np.isnan(score.gain_random_se) and score.n_control == 0
            assert score.beats_best is (score.gain > max(2 * score.gain_se, 0.0005))


# --- rows apart, and other errors ------------------------------------------------------------------------------


def test_sinks_and_the_first_special_token_are_scored_apart(models, documents, monkeypatch):
    """Against predictions of the inspected documents, token by token."""
    settings, scored = PLAIN.model_copy(update={"inspect": len(documents)}), []
    monkeypatch.setattr(pipeline, "score", lambda *given: scored.append(scoring.score(*given)) or scored[0])
    result, _ = align(models["teacher"], models["student"], documents, settings)
    items = next(reading.Reader([models["teacher"]], models["student"], documents, (), settings).windows())
    caches = [(capture(models["teacher"], i.teachers), capture(models["student"], [i.student])) for i in items]
    for kind in ("key", "value"):
        for layer, head in ((0, 1), (1, 0)):
            score, fit = result.score(kind, layer, head), scored[0].fits[kind, layer]
            sinks, special = [], []
            apart = {"sink": np.zeros(2), "special": np.zeros(2)}  # sums of squares: of residuals, about the mean
            for i, document in enumerate(result.inspected):
                error = result.arrays[f"document.{i}.error.{kind}"][layer, head]
                is_special = np.array([t.special for t in document.student_tokens])
                ends = np.array([t.end for t in document.student_tokens])
                teacher_ends = [t.end for t in document.teacher_tokens if not t.special]
                # The student's first four, and what the teacher's first four stand for.
                first = (np.cumsum(~is_special) <= 4) | (ends < teacher_ends[4])
                is_sink = first & ~is_special & (ends >= teacher_ends[0])
                assert not (is_sink & np.array(document.scored)).any()
                sinks += error[is_sink].tolist()
                special.append(is_special[0])
                x, y = (cache.of(kind)[layer][0].transpose(0, 1).flatten(1) for cache in caches[i])
                steps = np.flatnonzero(is_sink)
                before = [max(j for j, t in enumerate(document.teacher_tokens) if t.end <= ends[s]) for s in steps]
                for name, of_student, of_teacher in (("sink", steps, before), ("special", [0], [0])):
                    classes = torch.from_numpy(~np.isin(ends[of_student], teacher_ends) & ~is_special[of_student])
                    # Behind the teacher's features is the student's own token, of which its map makes nothing.
                    own = torch.full((len(classes), fit.fits[0].weights[0].shape[0] - x.shape[1]), 9.0)
                    features = torch.cat([x[of_teacher], own], dim=1)
                    residual = y[of_student] - fit.predict(document.fold, features, classes.long())
                    about_mean = y[of_student] - fit.mean_y(document.fold, classes.long())
                    squares = [e.unflatten(1, (2, -1))[:, head].square().sum().item() for e in (residual, about_mean)]
                    apart[name] += squares
            for name, (rss, tss) in apart.items():
                assert getattr(score, f"error_{name}") == pytest.approx(rss / tss, rel=1e-4)
            assert score.n_sink == len(sinks) > 4 * 20
            # The views divide by the mean variance of scored tokens; the score by that of the sinks themselves.
            assert score.error_sink > 0 and all(special) and score.n_special == len(documents)
            assert np.isfinite(score.error_special)
    assert result.score("key", 0, 0).n + result.score("key", 0, 0).n_sink <= result.data["student_tokens"]


def test_sink_errors_are_those_of_the_maps_that_have_not_seen_them(models, documents):
    """One fold by hand: its sinks predicted by the ridge of the other folds."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 6, generator=generator).double(), torch.randn(90, 4, generator=generator).double()
    y[:, :2] += x[:, :2]
    pairing = Pairing.begin(x[0], y[0], 3)
    for f in range(3):
        pairing.add(f, FIT_AND_SCORE, x[f::3][10:], y[f::3][10:])
    fit = ByClass.of([crossfit_ridge(pairing, 2)])
    error, n = scored_apart(fit, [(f, 0, x[f::3][:10], y[f::3][:10]) for f in range(3)])
    rss, tss = torch.zeros(4).double(), torch.zeros(4).double()
    for f in range(3):
        sinks_x, sinks_y = x[f::3][:10], y[f::3][:10]
        train_mean = torch.cat([y[g::3][10:] for g in range(3) if g != f]).mean(0)
        rss += ((sinks_y - fit.of_class(0).predict(f, sinks_x)) ** 2).sum(0)
        tss += ((sinks_y - train_mean) ** 2).sum(0)
    assert n == 30
    torch.testing.assert_close(error, rss.reshape(2, 2).sum(1) / tss.reshape(2, 2).sum(1))


# --- windows, segments, chat, rkv ------------------------------------------------------------------------------


def test_documents_read_in_windows_are_the_same_documents(models, documents, monkeypatch):
    whole, _ = align(models["teacher"], models["student"], documents, PLAIN)
    monkeypatch.setattr(reading, "WINDOW", 7)
    settings = PLAIN.model_copy(update={"sample_tokens": 500, "inspect": 9})
    windowed, _ = align(models["teacher"], models["student"], documents, settings)
    np.testing.assert_allclose(windowed.table()["r2"], whole.table()["r2"], atol=1e-6)
    assert windowed.data == whole.data and windowed.timeline == whole.timeline
    assert [d.id for d in windowed.inspected] == [d.id for d in documents[:9]]


def test_rkv_sets_each_heads_kept_steps_beside_the_students(models, documents):
    """The features of one document against selection and indexing written out."""
    teacher, student = models["teacher"], models["student"]
    settings = PLAIN.model_copy(update={"time": "rkv", "inspect": 1})
    given = [dataclasses.replace(d, segments=(Segment("prompt", 0, 40), Segment("answer", 40, 60))) for d in documents]
    result, _ = align(teacher, student, given, settings)
    assert any("keeps other teacher steps for each head" in note for note in result.notes)
    steps = result.arrays["document.0.rkv.steps"]
    view = result.inspected[0]
    content_t = [i for i, t in enumerate(view.teacher_tokens) if not t.special][settings.sinks :]
    count = min(len(content_t), len([t for t in view.student_tokens if not t.special]) - settings.sinks)
    assert steps.shape == (2, 2, count)
    read = reading.Reader([teacher], student, given, (), settings)
    item = next(read.windows())[0]
    tokens = item.teachers[0]
    looking = observers(tokens, given[0].segments)
    assert tokens.spans[looking, 1].min() > 40
    attention = observed_attention(teacher, [tokens], [looking])
    captured = capture(teacher, [tokens])
    left_out = np.ones(len(tokens), dtype=bool)
    left_out[content_t] = False
    kept = rkv.keep_steps(
        [k[0] for k in captured.keys],
        [a[0] for a in attention],
        dataclasses.replace(tokens, special=left_out),
        count,
    )
    for layer in range(2):
        np.testing.assert_array_equal(steps[layer], kept.steps[layer].numpy())
        assert set(steps[layer].flatten().astype(int)) <= set(content_t)
    scored = np.flatnonzero(view.scored)
    assert len(scored) == count and (np.diff(steps, axis=-1) > 0).all()
    rows = batches.read([teacher], student, [item], settings).teachers[0]
    for kind in ("key", "value"):
        found = rows.x(kind, 1, FIT_AND_SCORE)
        for row in range(count):
            of_heads = [captured.of(kind)[1][0, head, kept.steps[1][head, row]] for head in range(2)]
            torch.testing.assert_close(found[row], torch.cat(of_heads))


CHAT = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}\n{% endfor %}"


def test_a_chat_aligns_the_contents_alone(models, documents):
    teacher, student = (load(models[name].name, "cpu", "float32") for name in ("teacher", "student"))
    for loaded, template in ((teacher, "You are kind.\n" + CHAT), (student, CHAT)):
        loaded.tokenizer.chat_template = template
    settings = PLAIN.model_copy(update={"chat": True, "inspect": 2})
    result, _ = align(teacher, student, documents, settings)
    text = result.inspected[0].text
    for tokens in (result.inspected[0].teacher_tokens, result.inspected[0].student_tokens):
        assert "".join(t.text for t in tokens if not t.special) == text
        assert sum(t.special for t in tokens) > 3
    plain, _ = align(teacher, student, documents, PLAIN)
    assert result.data["student_tokens"] > plain.data["student_tokens"]
    assert result.data["rows_scored"] == pytest.approx(plain.data["rows_scored"], rel=0.2)


# --- bad input -------------------------------------------------------------------------------------------------


def test_prompts_of_one_token_or_none_neither_help_nor_harm(models, documents):
    given = [*documents[:20], Document("one", "a"), Document("blank", " "), Document("mark", "<s></s>")]
    result, _ = align(models["teacher"], models["student"], given, PLAIN)
    expected, _ = align(models["teacher"], models["student"], documents[:20], PLAIN)
    assert result.data["rows_scored"] == expected.data["rows_scored"]
    with pytest.raises(AlignError, match="What to do: use more or longer prompts"):
        align(models["teacher"], models["student"], given[20:], PLAIN)


def test_prompts_longer_than_a_models_positions_are_cut_and_it_is_said(models, tmp_path, documents):
    tiny_model("gpt2", tmp_path, max_position_embeddings=32, n_positions=32, num_hidden_layers=2)
    short = load(str(tmp_path), "cpu", "float32")
    assert short.geometry.max_positions == 32
    result, _ = align(models["teacher"], short, documents[:8], AlignSettings(inspect=8, layers="depth"))
    assert any(
        "8 of 8 documents were longer than 1024 teacher or 32 student tokens and were cut" in n for n in result.notes
    )
    assert max(len(d.student_tokens) for d in result.inspected) <= 32


def test_identical_prompts_are_one_document(models, documents):
    same = [Document(str(i), documents[0].text) for i in range(12)]
    with pytest.raises(AlignError, match="Found 12 documents of the same text"):
        align(models["teacher"], models["student"], same, PLAIN)
    result, _ = align(models["teacher"], models["student"], [*same, *documents[1:]], PLAIN)
    assert any("11 of 41 documents repeat the text of another" in note for note in result.notes)
    items = next(reading.Reader([models["teacher"]], models["student"], same + documents[1:], (), PLAIN).windows())
    assert len({item.fold for item in items[:12]}) == 1


def test_a_pair_without_a_common_border_is_told_what_to_do(models, documents, monkeypatch):
    """Timelines whose tokens never end at the same byte, as of a text cut in pairs of bytes, once shifted."""
    read = reading.chat.read

    def shifted(tokenizer, document, chat):
        tokens = read(tokenizer, document, chat)
        ends = np.where(tokens.special, 0, 2 * np.arange(len(tokens)) + (tokenizer is models["teacher"].tokenizer))
        spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
        return dataclasses.replace(tokens, spans=spans)

    monkeypatch.setattr(reading.chat, "read", shifted)
    with pytest.raises(AlignError, match=r"end at the same byte.*--time linear") as raised:
        align(models["teacher"], models["student"], documents[:6], PLAIN.model_copy(update={"rows": "exact"}))
    assert raised.value.kind == "no-exact-rows"
    inside, _ = align(models["teacher"], models["student"], documents[:6], PLAIN)
    (scored,) = {score.n for score in inside.heads}
    assert {score.n_inside for score in inside.heads} == {scored} and scored > 0
    assert all(np.isnan(score.r2_exact) and score.r2_inside == score.r2 for score in inside.heads)
    linear, _ = align(models["teacher"], models["student"], documents[:6], PLAIN.model_copy(update={"time": "linear"}))
    assert linear.data["rows_scored"] > 0


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_not_a_number_names_model_layer_and_head(models, documents, role):
    broken = load(models[role].name, "cpu", "float32")
    with torch.no_grad():
        broken.model.model.layers[1].self_attn.v_proj.weight[20] = float("inf")
    pair = {**models, role: broken}
    with pytest.raises(AlignError, match=f"values of layer 1, KV head 1 of {broken.name}"):
        align(pair["teacher"], pair["student"], documents[:4], PLAIN)


# --- caches that are not finite --------------------------------------------------------------------------------


@pytest.mark.parametrize("in_sample", [True, False])
def test_a_cache_that_is_not_finite_is_refused_and_kept_in_no_sum(models, documents, tmp_path, in_sample):
    settings = PLAIN.model_copy(update={"batch_tokens": 200, "sample_tokens": 100_000 if in_sample else 100})
    spoiled = dataclasses.replace(models["teacher"], model=copy.deepcopy(models["teacher"].model))
    found = Counter(i for d in documents for i in set(spoiled.tokenizer(d.text)["input_ids"]))
    with torch.no_grad():
        spoiled.model.get_input_embeddings().weight[min(found, key=found.get)] = torch.nan  # in one document or two
    stages, unfinished = set(), Unfinished(tmp_path, "this work")
    with pytest.raises(AlignError) as refused:
        align_several([spoiled], models["student"], documents, settings, (), lambda s, *_: stages.add(s), unfinished)
    assert refused.value.kind == "cache-not-finite" and "layer 0, KV head 0" in refused.value.found
    assert ("measuring controls" in stages) is not in_sample  # controls are measured behind the sample
    assert not unfinished.path.exists()
