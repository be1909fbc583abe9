"""The whole path on tiny random models: identity, null, and what is refused."""

import dataclasses
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from kvlab.align import inspection
from kvlab.align.align_sums import OWN_TOKENS, TEACHER_TOKEN
from kvlab.align.items import Reader
from kvlab.align.pipeline import _Work, align
from kvlab.align.scoring import score, teacher_fits, token_fits
from kvlab.errors import AlignError, Cancelled
from kvlab.models.capture import capture
from kvlab.models.loading import load
from kvlab.models.tokens import tokenize
from kvlab.request.align import AlignSettings
from kvlab.results.alignment import data
from kvlab.results.alignment.page import html
from kvlab.shapes import KINDS, Document, no_progress
from tests.tiny import TEXT, tiny_model

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("pipeline")]
QUICK = AlignSettings(inspect=0, layers="depth", random_teacher=False, folds=3)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    tiny_model("qwen2", folder, seed=1)
    return load(str(folder), "cpu", "float32")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    tiny_model("llama", folder, seed=2, tokenizer_style="sentencepiece", num_hidden_layers=2)
    return load(str(folder), "cpu", "float32")


@pytest.fixture(scope="module")
def documents():
    """Sixty documents of words in random order: enough rows for 32 features."""
    words, rng = TEXT.split(), np.random.default_rng(0)
    return [Document(f"d{i}", " ".join(rng.choice(words, 30))) for i in range(60)]


@pytest.fixture(scope="module")
def aligned(teacher, student, documents):
    return align(teacher, student, documents, AlignSettings(inspect=3))[0]


@pytest.mark.parametrize("keys", ["pre-rope", "post-rope"])
def test_a_model_explains_itself(student, documents, keys):
    settings = AlignSettings(keys=keys, inspect=0, random_teacher=False, folds=3)
    own, _ = align(student, student, documents[:30], settings)
    assert own.table()["error"].max() < 1e-6
    assert own.timeline["rules"]["floor"]["exact_rate"] == 1
    assert own.layer_map["teacher_layers"] == {"key": [[0], [1]], "value": [[0], [1]]}


def test_a_pair_with_one_tokenizer_has_one_class_and_the_numbers_of_one_map(teacher, documents, tmp_path):
    tiny_model("qwen2", tmp_path, seed=5)
    other = load(str(tmp_path), "cpu", "float32")
    by_class, exact = (
        align(teacher, other, documents[:20], AlignSettings(inspect=1, random_teacher=False, rows=rows))[0]
        for rows in ("by-class", "exact")
    )
    assert by_class.layer_map == exact.layer_map
    names = ("r2", "se", "gain", "gain_se", "r2_shuffled", "error_sink", "r2_own", "r2_with_own", "added")
    for one, same in zip(by_class.heads, exact.heads, strict=True):
        assert [getattr(one, name) for name in names] == [getattr(same, name) for name in names]
        assert (one.r2_exact, one.n_inside) == (one.r2, 0) and np.isnan(one.r2_inside)
    assert not by_class.arrays["document.0.row_class"].any()


def test_shuffled_rows_explain_nothing(aligned):
    assert aligned.data["rows_per_feature"] > 20
    assert aligned.table()["r2_shuffled"].abs().max() < 0.05


def test_every_head_is_scored_on_the_same_tokens_and_controls_hold(aligned, student):
    table = aligned.table()
    assert len(table) == 2 * 2 * student.geometry.kv_heads
    assert set(table["n"]) == {aligned.data["rows_scored"]}
    np.testing.assert_allclose(table["error"], 1 - table["r2"])
    np.testing.assert_allclose(table["gain"], table["r2"] - table["r2_identity"])


def test_token_errors_of_all_inspected_tokens_average_to_the_head_error(teacher, student, documents):
    everything, _ = align(teacher, student, documents, QUICK.model_copy(update={"inspect": len(documents)}))
    for kind in ("key", "value"):
        for layer in (0, 1):
            for head in range(student.geometry.kv_heads):
                of_tokens = np.concatenate(
                    [
                        everything.arrays[f"document.{i}.error.{kind}"][layer, head][np.array(d.scored)]
                        for i, d in enumerate(everything.inspected)
                    ]
                )
                score = everything.score(kind, layer, head)
                assert len(of_tokens) == score.n
                assert of_tokens.mean() == pytest.approx(score.error, rel=1e-4)


def test_documents_are_kept_token_by_token_as_far_as_their_arrays_fit(teacher, student, documents, monkeypatch):
    long = Document("long", " ".join(d.text for d in documents[:9]))
    given = [documents[0], long, *documents[1:12]]

    def sizes(result):
        found = Counter()
        for name, values in result.arrays.items():
            if name.startswith("document.") and (".error." in name or ".signal." in name or ".rkv." in name):
                found[name.split(".")[1]] += values.nbytes
        return found

    settings = QUICK.model_copy(update={"inspect": 4, "time": "rkv"})
    everything, _ = align(teacher, student, given, settings)
    of_all = sizes(everything)
    assert [d.id for d in everything.inspected] == ["d0", "long", "d1", "d2"] and not any(
        "not kept" in note for note in everything.notes
    )
    monkeypatch.setattr(inspection, "MOST_BYTES", of_all["1"] - 1)
    result, _ = align(teacher, student, given, settings)
    assert [d.id for d in result.inspected] == ["d0", "d1", "d2"]
    assert sizes(result).total() < of_all["1"]
    assert any(str(note).startswith("1 of 4 documents are not kept token by token") for note in result.notes)


def test_result_survives_the_disk(aligned, tmp_path):
    data.write(aligned, tmp_path)
    read = data.read(tmp_path)
    assert data.plain(read.to_dict()) == data.plain(aligned.to_dict())
    assert all(np.array_equal(read.arrays[k], v, equal_nan=True) for k, v in aligned.arrays.items())
    header = (tmp_path / "heads.csv").read_text().splitlines()[0]
    assert header == (
        "kind,layer,head,r2,error,cosine,r2_shuffled,r2_identity,n,r2_exact,exact_se,r2_inside,inside_se,n_inside,"
        "r2_own,own_se,r2_with_own,with_own_se,added,added_se,se,r2_random,random_se,beats_controls"
    )


def test_a_broken_result_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "alignment.json").write_text("{")
    with pytest.raises(AlignError, match="run the analysis again"):
        data.read(tmp_path)


def test_the_saved_map_reproduces_a_linear_student(teacher, documents):
    own, maps = align(teacher, teacher, documents, QUICK)
    captured = capture(teacher, [tokenize(teacher.tokenizer, documents[0].text)])
    for kind in KINDS:
        for cache, of_classes in zip(captured.of(kind), maps[kind].layers, strict=True):
            # Only directions that the cache really uses are determined; the identity is one such map.
            (weight,), (bias,) = of_classes.weights, of_classes.biases
            assert weight.shape == (32, 32) and bias.shape == (32,)
            rows = cache[0, :, 4:].transpose(0, 1).flatten(1)
            torch.testing.assert_close(rows @ weight + bias, rows, rtol=0, atol=1e-3 * float(rows.std()))
    assert own.mean("key", "r2") > 1 - 1e-6


@pytest.mark.parametrize("projector", ["structured", "group-mean"])
def test_weaker_projectors_score_lower_and_share_the_controls(teacher, student, documents, aligned, projector):
    other, _ = align(teacher, student, documents, AlignSettings(projector=projector, inspect=0))
    assert other.mean("value", "r2") < aligned.mean("value", "r2")
    if projector == "group-mean":
        np.testing.assert_allclose(other.table()["r2"], other.table()["r2_group_mean"])
    np.testing.assert_allclose(other.table()["r2_shuffled"], aligned.table()["r2_shuffled"], atol=1e-9)
    np.testing.assert_allclose(other.table()["r2_identity"], aligned.table()["r2_identity"], atol=1e-9)
    # What is more than a teacher of random weights is the score that is shown, not that of a ridge.
    np.testing.assert_allclose(other.table()["gain_random"], other.table()["r2"] - other.table()["r2_random"])
    part, _ = align(teacher, student, documents, AlignSettings(projector=projector, inspect=0, sample_tokens=1500))
    table = part.table()
    assert not part.controls["whole_sample"]
    on_sample = table["r2_random"] + table["gain_random"]
    assert (on_sample - table["r2"]).abs().max() < 0.5 * (aligned.table()["r2"] - table["r2"]).abs().mean()


def test_rules_are_noted_when_blind_or_looking_ahead(teacher, student, documents):
    short = [Document(d.id, " ".join(d.text.split()[:12])) for d in documents[:2]]
    for rule, word in (("nearest", "does not look at the text"), ("ceil", "looks ahead")):
        other, _ = align(teacher, student, short, QUICK.model_copy(update={"time": rule}))
        assert any(word in note for note in other.notes)
        assert other.data["rows_per_feature"] < 2 and any("rows per feature" in note for note in other.notes)
    enough, _ = align(teacher, student, documents[:5], QUICK)
    assert enough.data["rows_per_feature"] > 2 and not any("rows per feature" in note for note in enough.notes)


def test_prompts_are_scored_and_calibration_is_only_fitted_on(teacher, student, documents):
    mine, others = documents[:1], documents[1:]
    result, _ = align(teacher, student, mine, calibration=others)
    assert (result.data["documents"], result.data["calibration_documents"]) == (1, 59)
    assert result.data["rows_scored"] < 200 < result.data["rows_fit"]
    assert [d.id for d in result.inspected] == ["d0"]
    assert result.table()["se"].isna().all()  # one fold is scored: no standard error


def test_one_document_cannot_be_held_out(teacher, student, documents):
    with pytest.raises(AlignError, match=r"at least two documents.*calibration samples"):
        align(teacher, student, documents[:1])
    with pytest.raises(AlignError, match="at least one prompt"):
        align(teacher, student, [])


def test_prompts_too_short_to_score_are_refused(teacher, student):
    with pytest.raises(AlignError, match="tokens after the first 4"):
        align(teacher, student, [Document(str(i), f"boat{i}") for i in range(3)])


def test_not_a_number_in_a_cache_names_layer_and_head(student, documents):
    broken = load(student.name, "cpu", "float32")
    with torch.no_grad():
        broken.model.model.layers[1].self_attn.v_proj.weight[20] = float("nan")
    with pytest.raises(AlignError, match="values of layer 1, KV head 1"):
        align(student, broken, documents[:4])


def test_long_documents_are_cut_and_it_is_said(teacher, student, documents):
    result, _ = align(teacher, student, documents[:6], QUICK.model_copy(update={"max_tokens": 20, "inspect": 6}))
    assert any("6 of 6 documents were longer" in note for note in result.notes)
    for document in result.inspected:
        assert len(document.student_tokens) <= 20 and len(document.teacher_tokens) <= 20
        assert document.teacher_tokens[-1].end <= document.student_tokens[-1].end + 20


def test_progress_can_cancel(teacher, student, documents):
    def cancel(stage, done, total):
        if stage == "reading caches" and done:
            raise Cancelled

    with pytest.raises(Cancelled):
        align(teacher, student, documents, progress=cancel)


def test_batching_does_not_change_the_result(teacher, student, documents, aligned):
    small, _ = align(teacher, student, documents, AlignSettings(batch_tokens=1, inspect=0))
    np.testing.assert_allclose(small.table()["r2"], aligned.table()["r2"], atol=1e-5)


def test_settings_are_stored_as_given(aligned):
    assert aligned.settings == AlignSettings(inspect=3).model_dump()
    assert dataclasses.asdict(aligned.heads[0])["kind"] == "key"


def test_documents_without_tokens_are_left_out_and_ids_need_not_differ(teacher, student, documents):
    same_id = [Document("d", document.text) for document in documents[:6]] + [Document("empty", "")]
    result, _ = align(teacher, student, same_id, QUICK.model_copy(update={"inspect": 6}))
    assert [d.id for d in result.inspected] == ["d", *(f"d ({n})" for n in range(2, 7))]
    assert any("1 of 7 documents have no tokens" in note for note in result.notes)
    with pytest.raises(AlignError, match="2 documents of the same text"):
        align(teacher, student, [Document("a", ""), Document("b", "")])


def test_a_fold_whose_others_have_no_rows_is_refused(teacher, student, documents):
    with pytest.raises(AlignError, match="in at least two documents"):
        align(teacher, student, [documents[0], Document("short", "boat")])


def test_a_document_that_others_repeat_behind_another_word_is_said(teacher, student, documents):
    body = documents[0].text * 2
    alike = [Document(word, f"{word} {body}") for word in ("one", "two", "six", "ten")]
    result, _ = align(teacher, student, [*alike, *documents[1:9]], QUICK)
    (note,) = [note for note in result.notes if "documents are mostly text that documents of other folds" in note]
    assert note.values == {"n": 4, "total": 12, "names": ["one", "two", "six", "ten"]}
    result, _ = align(teacher, student, documents[:9], QUICK)
    assert not any("mostly text" in note for note in result.notes)


def test_few_documents_and_one_that_is_most_of_them_are_said(teacher, student, documents):
    few = "Documents that are scored: {}. With fewer than 10 standard errors are rough, and with fewer than 3"
    for used, rest, known in ((documents[:2], documents[2:8], False), (documents[:3], documents[3:8], True)):
        result, _ = align(teacher, student, used, QUICK, calibration=rest)
        assert sum(few.format(len(used)) in note for note in result.notes) == 1
        assert not any("One document holds" in note for note in result.notes)
        assert result.table()["se"].notna().all() == known and (result.heads[0].beats_controls is not None) == known
    huge = Document("huge", "\n".join(document.text for document in documents[:6]))
    short = [Document(d.id, d.text[:80]) for d in documents[6:18]]
    result, _ = align(teacher, student, [huge, *short], QUICK)
    assert not any("Documents that are scored" in note for note in result.notes)
    (note,) = [note for note in result.notes if "One document holds" in note]
    share = float(note.values["share"].rstrip("%")) / 100
    spans = [tokenize(student.tokenizer, d.text) for d in (huge, *short)]
    assert share == pytest.approx(len(spans[0]) / sum(map(len, spans)), abs=0.01)


@pytest.mark.parametrize(("constant", "rounding"), [(0.0, 0.0), (3.0, 1e-7)])
def test_a_head_that_does_not_vary_has_no_score_and_is_said(teacher, student, documents, constant, rounding, tmp_path):
    """The first head is constant to the last bit, the second but for ``rounding``."""
    tiny_model("qwen2", tmp_path, seed=5)
    still = load(str(tmp_path), "cpu", "float32")
    with torch.no_grad():
        still.model.model.layers[1].self_attn.v_proj.weight[:16] = 0
        still.model.model.layers[1].self_attn.v_proj.weight[16:] *= rounding
        still.model.model.layers[1].self_attn.v_proj.bias[:] = constant
    for pair in ((teacher, still), (still, student)):
        result, _ = align(*pair, documents[:8], AlignSettings(folds=3))
        table = result.table()
        assert np.isfinite(table["r2"].dropna()).all()
        flat = table[table["r2"].isna()]
        if pair[1] is still:
            assert [(r.kind, r.layer, r.head) for r in flat.itertuples()] == [("value", 1, 0), ("value", 1, 1)]
            assert any("2 of 12 heads do not vary" in note for note in result.notes)
        else:
            assert flat.empty
        data.write(result, tmp_path / "out")
        assert "means over heads" in html(data.read(tmp_path / "out"))


@pytest.mark.parametrize("keys", ["pre-rope", "post-rope"])
def test_scores_equal_an_independent_computation_document_by_document(teacher, student, documents, keys):
    """Caches read one document at a time, through hooks before RoPE; byte ends by brute force; scikit-learn's ridge."""
    settings = AlignSettings(inspect=0, folds=4, layers="depth", keys=keys, random_teacher=False)
    used = documents[:20]
    (items,) = Reader([teacher], student, used, (), settings).windows()
    work = _Work([teacher], student, settings, Reader([teacher], student, used, (), settings), no_progress)
    work.read_sample()
    work.measure_controls()
    work.read_rest(None)
    sums = work.sums[0]
    scored = score(sums, work.controls[0], True, teacher.geometry, student.geometry, "ridge", no_progress)

    tokens = {TEACHER_TOKEN: token_fits(sums, TEACHER_TOKEN, work.controls[0].unseen)}
    tokens[OWN_TOKENS] = token_fits(sums, OWN_TOKENS)
    with_own = teacher_fits(sums, dict.fromkeys(scored.fits, student.geometry.kv_heads), with_own_token=True)
    by_hand = [rows_by_hand(teacher, student, item, settings) for item in items]
    folds = [item.fold for item in items]
    width = student.geometry.key_width

    def rows(name, mask, keep):
        """[N, ...] of the documents whose fold is kept."""
        return np.concatenate([r[name][r[mask]] for r, fold in zip(by_hand, folds) if keep(fold)])

    for kind, (layer, teacher_layer) in product(KINDS, enumerate((0, 2))):
        features, y_name = (kind, "t", teacher_layer), (kind, "s", layer)
        for head in range(student.geometry.kv_heads):
            columns = slice(head * width, (head + 1) * width)
            sources = {
                "r2": ([features], scored.fits[kind, layer]),
                "r2_identity": (["embedding"], tokens[TEACHER_TOKEN][kind, layer]),
                "r2_own": (["own", "before", "before that"], tokens[OWN_TOKENS][kind, layer]),
                "r2_with_own": ([features, "own"], with_own[kind, layer]),
            }
            rss = {name: np.zeros((4, 2, width)) for name in sources}  # by fold, class and channel
            tss, rss_group_mean, sink = np.zeros((4, 2, width)), 0.0, np.zeros(2)
            for fold, (number, of_class) in product(range(4), enumerate(("exact", "inside"))):
                y = rows(y_name, of_class, lambda f, fold=fold: f != fold)[:, columns]
                yt = rows(y_name, of_class, lambda f, fold=fold: f == fold)[:, columns]
                tss[fold, number] = ((yt - y.mean(0)) ** 2).sum(0)
                for name, (read, fit) in sources.items():
                    x, xt = (
                        np.hstack([rows(part, of_class, keep) for part in read])
                        for keep in (lambda f, fold=fold: f != fold, lambda f, fold=fold: f == fold)
                    )
                    penalty = float(fit.fits[number].penalties[fold, head])
                    model = ridge_by_hand(x, y, penalty)
                    predicted = model.predict(xt)
                    if name == "r2_identity":  # the mean for tokens that were not fitted, unless a map told such
                        partner = fold ^ 1  # of four folds 0 is tested on 1, 2 on 3, and the other way round
                        (xi, yi), (xn, yn) = (
                            (rows("embedding", of_class, keep), rows(y_name, of_class, keep)[:, columns])
                            for keep in (lambda f, f1=fold: f // 2 != f1 // 2, lambda f, f1=partner: f == f1)
                        )
                        new = unseen(xn, xi)
                        errors = yn[new] - ridge_by_hand(xi, yi, penalty).predict(xn)[new]
                        if (errors**2).sum() >= ((yn[new] - yi.mean(0)) ** 2).sum():
                            predicted[unseen(xt, x)] = y.mean(0)
                    rss[name][fold, number] = ((yt - predicted) ** 2).sum(0)
                    if name == "r2":
                        same_head = (xt - x.mean(0))[:, columns]  # as many heads of one width: their mean is that head
                        rss_group_mean += ((yt - y.mean(0) - same_head) ** 2).sum()
                        xs, ys = (
                            rows(part, f"sink {of_class}", lambda f, fold=fold: f == fold)
                            for part in (features, y_name)
                        )
                        sink += [
                            ((ys[:, columns] - model.predict(xs)) ** 2).sum() if len(xs) else 0,
                            ((ys[:, columns] - y.mean(0)) ** 2).sum(),
                        ]
            found = next(s for s in scored.heads if (s.kind, s.layer, s.head) == (kind, layer, head))
            of_folds = {name: of_source.sum((1, 2)) for name, of_source in rss.items()}
            for name, of_source in of_folds.items():
                assert getattr(found, name) == pytest.approx(1 - of_source.sum() / tss.sum(), abs=1e-4)
            for number, name in enumerate(("r2_exact", "r2_inside")):
                of_class = rss["r2"][:, number], tss[:, number]
                assert getattr(found, name) == pytest.approx(1 - of_class[0].sum() / of_class[1].sum(), abs=1e-4)
            added = (of_folds["r2_own"] - of_folds["r2_with_own"]).sum() / tss.sum()
            assert found.added == pytest.approx(added, abs=1e-4)
            assert found.r2_group_mean == pytest.approx(1 - rss_group_mean / tss.sum(), abs=1e-4)
            assert found.error_sink == pytest.approx(sink[0] / sink[1], rel=1e-4)
            of_channels = rss["r2"].sum((0, 1)) / tss.sum((0, 1))
            assert found.error_standardised == pytest.approx(of_channels.mean(), abs=1e-4)
            fit, identity = sources["r2"][1], sources["r2_identity"][1]
            assert found.se == pytest.approx(jackknife_by_hand(fit.rss[:, head], fit.tss[:, head]))
            more = fit.rss[:, head] - identity.rss[:, head]
            assert found.gain_se == pytest.approx(jackknife_by_hand(more, fit.tss[:, head]))
            assert found.n_inside == sum(r["inside"].sum() for r in by_hand) > 100
        maps = scored.maps[kind].layers[layer]
        for number, of_class in enumerate(("exact", "inside")):
            whole_x, whole_y = (rows(name, of_class, lambda _: True) for name in (features, y_name))
            predicted = whole_x @ maps.weights[number].numpy() + maps.biases[number].numpy()
            for head, penalty in enumerate(scored.fits[kind, layer].fits[number].whole_penalties.tolist()):
                columns = slice(head * width, (head + 1) * width)
                expected = ridge_by_hand(whole_x, whole_y[:, columns], penalty).predict(whole_x)
                np.testing.assert_allclose(predicted[:, columns], expected, rtol=0, atol=1e-3 * whole_y.std())
            residual = whole_y - predicted
            np.testing.assert_allclose(residual.mean(0), 0, atol=1e-4)  # an intercept leaves no mean residual
            assert (residual**2).sum() < ((whole_y - whole_y.mean(0)) ** 2).sum()


def unseen(rows, fitted):
    """[N] bool: rows that are none of those fitted."""
    known = {row.tobytes() for row in fitted}
    return np.array([row.tobytes() not in known for row in rows])


def ridge_by_hand(x, y, relative_penalty):
    return Ridge(alpha=relative_penalty * ((x - x.mean(0)) ** 2).sum() / x.shape[1], solver="svd").fit(x, y)


def jackknife_by_hand(rss, tss):
    rss, tss = rss.numpy(), tss.numpy()
    left_out = [1 - (rss.sum() - r) / (tss.sum() - t) for r, t in zip(rss, tss)]
    n = len(left_out)
    return float(np.sqrt((n - 1) / n * sum((value - np.mean(left_out)) ** 2 for value in left_out)))


def rows_by_hand(teacher, student, item, settings):
    """Every student token's features and targets, and which tokens are exact, inside a teacher token, and sinks."""
    rows = {}
    ends_t = item.teachers[0].spans[:, 1].tolist()
    chosen, exact = [], []
    for end, special in zip(item.student.spans[:, 1], item.student.special):
        before = [j for j, e in enumerate(ends_t) if e <= end]
        chosen.append(before[-1] if before and not special else -1)
        exact.append(not special and int(end) in ends_t)
    content = [i for i, special in enumerate(item.student.special) if not special]
    steps = np.arange(len(chosen))
    # The teacher has no BOS.
    usable = np.isin(steps, content[settings.sinks :]) & (np.array(chosen) >= settings.sinks)
    rows["exact"], rows["inside"] = usable & np.array(exact), usable & ~np.array(exact)
    sink = np.isin(steps, content) & (np.array(chosen) >= 0) & ~usable
    rows["sink exact"], rows["sink inside"] = sink & np.array(exact), sink & ~np.array(exact)
    table = teacher.model.get_input_embeddings().weight.detach().numpy()
    rows["embedding"] = table[item.teachers[0].ids[chosen]]
    table = student.model.get_input_embeddings().weight.detach().numpy()
    own = table[item.student.ids]
    rows["own"] = own / np.sqrt((own**2).mean(1, keepdims=True) + 1e-6)  # unit mean square
    rows["before"], rows["before that"] = (np.vstack([0 * own[:n], rows["own"][:-n]]) for n in (1, 2))
    for side, loaded, ids in (("t", teacher, item.teachers[0].ids), ("s", student, item.student.ids)):
        for kind, name in (("key", "k_proj"), ("value", "v_proj")):
            seen, hooks = [], []
            for layer in loaded.model.model.layers:
                module = getattr(layer.self_attn, name)
                hooks.append(module.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out[0].numpy())))
            with torch.inference_mode():
                cache = loaded.model(torch.from_numpy(ids)[None], use_cache=True).past_key_values
            for hook in hooks:
                hook.remove()
            if kind == "key" and settings.keys == "post-rope":
                seen = [layer.keys[0].transpose(0, 1).flatten(1).numpy() for layer in cache.layers]
            for number, out in enumerate(seen):
                rows[kind, side, number] = out[chosen] if side == "t" else out
    return rows
