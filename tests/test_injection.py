"""The student on a replaced cache: its own reproduces its logits, and the heads' outputs are what they are."""

import math
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from kvlab.errors import AlignError
from kvlab.inject import attention, heads, trial
from kvlab.inject.attention import Heard, Outputs, heard
from kvlab.inject.continuation import Variant, continued
from kvlab.inject.own import read_own
from kvlab.inject.prefix import Prefix
from kvlab.inject.scores import Damaged, PerDocument, damage, mean_of, of_document, per_token, spearman
from kvlab.inject.texts import differing
from kvlab.request.segments import Markers, final_answer
from kvlab.results.function.data import Injection, read, sentence, write
from kvlab.shapes import Document
from tests.tiny import tiny_loaded, tiny_tokens

pytestmark = pytest.mark.model

TOKENS, CUT = tiny_tokens(23, 1), 10
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 4.0, "original_max_position_embeddings": 16}
ARCHITECTURES = {
    "half": ("llama", {}),
    "interleaved": ("cohere", {}),
    "partial": ("stablelm", {}),
    "scaled": ("llama", {"max_position_embeddings": 64, "rope_parameters": YARN}),
    "long": (
        "llama",
        {"max_position_embeddings": 64, "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, **LONG}},
    ),
    "learned": ("gpt2", {}),
    "alibi": ("bloom", {}),
    "window": ("mistral", {"sliding_window": 6}),
    "two windows": ("gemma3_text", {"sliding_window": 6}),
    "widths": ("mimo_v2_flash", {"v_head_dim": 8}),
    "qk-norm": ("qwen3", {}),
    "norm behind": ("hunyuan_v1_dense", {}),
    "experts": ("mixtral", {}),
    "latent": ("deepseek_v3", {}),
    "layers of other widths": ("gemma4_text", {}),
}


@pytest.mark.parametrize("which", ARCHITECTURES)
def test_the_own_cache_reproduces_the_logits_and_another_does_not(which):
    architecture, overrides = ARCHITECTURES[which]
    student = tiny_loaded(architecture, **overrides)
    plain = student.model(torch.from_numpy(TOKENS.ids)[None]).logits[0]
    for pre_rope in (True, False):
        own = read_own(student, TOKENS, pre_rope)
        rows = torch.arange(2, CUT)
        again = {problem: own.as_cached(problem, x[:, rows], rows) for problem, x in own.compared.items()}
        nothing = {problem: torch.zeros_like(x) for problem, x in again.items()}
        variants = [Variant("own"), Variant("undone and done", again), Variant("zero", nothing)]
        found = continued(student, own, CUT, rows, variants)
        scale = plain[CUT:].abs().max()
        differences = [float((logits - plain[CUT:]).abs().max() / scale) for logits in found]
        assert max(differences[:2]) < 1e-4
        assert differences[2] > 0.1


@pytest.mark.parametrize("architecture", ["jamba", "qwen3_next", "minimax"])
def test_a_state_that_holds_the_prefix_is_refused(architecture):
    with pytest.raises(AlignError) as caught:
        read_own(tiny_loaded(architecture), TOKENS, pre_rope=False)
    assert caught.value.kind == "injection-state" and "holds" not in caught.value.remedy


# --- heads' outputs, against what enters the output projection ------------------------------------------------------


def entering_output(student, layer, run):
    """What enters a layer's output projection while ``run`` runs: [B, T, Hq * D]."""
    seen = []
    handle = student.model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(
        lambda m, a: seen.append(a[0])
    )
    run()
    handle.remove()
    return seen[-1].float()


def test_parts_of_a_configuration_without_attention_are_left_alone():
    student = tiny_loaded("dbrx")
    own = read_own(student, TOKENS, pre_rope=True)
    rows = torch.arange(2, CUT)
    again = Variant("same", {p: x[:, rows] for p, x in own.stored.items()})
    before = student.model.config._attn_implementation
    assert heard(student, own, CUT, rows, [again], 4096).n == len(TOKENS) - CUT
    assert student.model.config._attn_implementation == before


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral"])
def test_the_heads_outputs_are_what_enters_the_output_projection(architecture):
    overrides = {"sliding_window": 6} if architecture == "mistral" else {}
    student = tiny_loaded(architecture, **overrides)
    own = read_own(student, TOKENS, pre_rope=True)
    rows = torch.arange(2, CUT)
    generator = torch.Generator().manual_seed(0)
    other = {p: torch.randn(x[:, rows].shape, generator=generator) for p, x in own.stored.items()}
    found = heard(student, own, CUT, rows, [Variant("other", other)], 4096)
    plain = entering_output(student, 0, lambda: student.model(own.ids))[0, CUT:].unflatten(1, (4, -1))
    torch.testing.assert_close(found.total[0], plain.sum(0).double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.squares[0], plain.double().square().sum((0, 2)), rtol=1e-4, atol=1e-4)
    for kind, kinds in (("key", ("key",)), ("value", ("value",)), ("both", ("key", "value"))):
        # The continuation reads layer 0 with the own hidden states, so there it is an independent way.
        variant = Variant(kind, {(k, 0): other[k, 0] for k in kinds})
        run = entering_output(student, 0, lambda v=variant: continued(student, own, CUT, rows, [v]))[0]
        expected = (run.unflatten(1, (4, -1)) - plain).square().sum((0, 2)).double()
        torch.testing.assert_close(found.variants["other"].rss[kind, 0], expected, rtol=1e-4, atol=1e-4)
        assert expected.min() > 0.1
        mine, theirs = run.unflatten(1, (4, -1)), plain  # [Q, Hq, D]
        cosine = (mine * theirs).sum(2) / (mine.norm(dim=2) * theirs.norm(dim=2))
        torch.testing.assert_close(
            found.variants["other"].cosine[kind, 0], cosine.sum(0).double(), rtol=1e-4, atol=1e-4
        )
    again = {p: x[:, rows] for p, x in own.stored.items()}
    same = heard(student, own, CUT, rows, [Variant("same", again)], 4096).variants["same"]
    assert max(float(x.max()) for x in (*same.rss.values(), *same.kl.values())) < 1e-6
    # What a replaced layer hands on does not reach the layers below it: they are given the own hidden states.
    first = {p: other[p] if p == ("key", 0) else x for p, x in again.items()}
    of_first = heard(student, own, CUT, rows, [Variant("first", first)], 4096).variants["first"]
    assert of_first.rss["key", 0].min() > 0.1
    assert max(float(of_first.rss["key", layer].max()) for layer in (1, 2)) < 1e-6


def test_the_divergence_of_layer_0_is_that_of_the_softmax_by_hand():
    """Queries of the layer's own projection, rotated by transformers; of several variants, each its own."""
    student = tiny_loaded("llama")
    own, rows = read_own(student, TOKENS, pre_rope=True), torch.arange(2, CUT)
    generator = torch.Generator().manual_seed(0)
    other = {p: torch.randn(x[:, rows].shape, generator=generator) for p, x in own.stored.items()}
    again = {p: x[:, rows] for p, x in own.stored.items()}
    found = heard(student, own, CUT, rows, [Variant("other", other), Variant("same", again)], 4096).variants
    layer, seen = student.model.model.layers[0].self_attn, []
    handle = layer.q_proj.register_forward_hook(lambda m, a, out: seen.append(out))
    student.model(own.ids)
    handle.remove()
    queries = seen[0].unflatten(-1, (4, 16)).transpose(1, 2)
    turn = student.model.model.rotary_emb(queries, torch.arange(len(TOKENS))[None])
    queries = apply_rotary_pos_emb(queries, queries, *turn)[0][0]
    mask = torch.full((len(TOKENS), len(TOKENS)), -torch.inf).triu(1)

    def probabilities(keys):
        scores = queries @ keys.repeat_interleave(2, dim=0).mT * 16**-0.5
        return (scores + mask).softmax(-1)[:, CUT:].double()

    keys = own.stored["key", 0].clone()
    p = probabilities(keys)
    keys[:, rows] = other["key", 0]
    q = probabilities(keys)
    expected = torch.where(p > 0, p * (p / q).log(), 0).sum((1, 2))
    torch.testing.assert_close(found["other"].kl["key", 0], expected, rtol=1e-3, atol=1e-5)
    reverse = torch.where(q > 0, q * (q / p).log(), 0).sum((1, 2))
    assert ((expected - reverse).abs() > 0.03 * expected).all()
    assert found["same"].kl["key", 0].max() < 1e-6


def test_the_probabilities_of_one_layer_are_held_at_a_time():
    """Those of all layers are gigabytes for a student of a real size."""
    student = tiny_loaded("llama")
    own = read_own(student, TOKENS, pre_rope=True)
    heard_of = []

    def hear(layer, p):
        assert layer == len(heard_of) and tuple(p.shape) == (1, 4, len(TOKENS) - CUT, len(TOKENS))
        assert all(before() is None for before in heard_of)
        heard_of.append(weakref.ref(p))

    attention._attend(student, own, torch.arange(2, CUT), [Variant("own")], CUT, hear)
    assert len(heard_of) == 3


def test_what_half_precision_rounds_to_nothing_is_bounded_by_the_least_it_holds():
    p, q = torch.tensor([[0.0, -2.0], [0.0, -30.0]]).softmax(-1)
    exact = float((p * (p / q).log()).sum())
    bound = float((p * (p / q.clamp(min=2.0**-24)).log()).sum())
    found = attention._divergence(p.half()[None, None], q.half()[None, None])
    assert float(found) == pytest.approx(bound, rel=1e-2) and bound < exact
    assert float(attention._divergence(p[None, None], q[None, None])) == pytest.approx(exact, rel=1e-5)


def test_a_latent_has_no_outputs_of_heads():
    student = tiny_loaded("deepseek_v3")
    own = read_own(student, TOKENS, pre_rope=True)
    with pytest.raises(AlignError) as caught:
        heard(student, own, CUT, torch.arange(2, CUT), [Variant("own")], 4096)
    assert caught.value.kind == "attention-unavailable"


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_damage_is_kl_and_difference_of_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    own, other = torch.randn(2, 13, 400, generator=generator).double()
    found = damage(own, other, TOKENS, CUT)
    p, q = own[:-1].log_softmax(-1), other[:-1].log_softmax(-1)
    following = torch.from_numpy(TOKENS.ids[CUT + 1 :])
    cross_entropy = torch.nn.functional.cross_entropy
    assert found.n == 12
    assert found.kl == pytest.approx(
        float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum")), rel=1e-5
    )
    difference = cross_entropy(other[:-1], following, reduction="sum") - cross_entropy(
        own[:-1], following, reduction="sum"
    )
    assert found.delta_ce == pytest.approx(float(difference), rel=1e-5)
    assert found.same_choice == int((own[:-1].argmax(-1) == other[:-1].argmax(-1)).sum())


def test_special_tokens_are_not_predicted():
    special = TOKENS.special.copy()
    special[[CUT + 3, len(TOKENS) - 1]] = True
    own, other = torch.randn(2, 13, 400, generator=torch.Generator().manual_seed(0)).double()
    found = damage(own, other, replace(TOKENS, special=special), CUT)
    kept = [n for n in range(12) if not special[CUT + 1 + n]]
    p, q = (x[kept].log_softmax(-1) for x in (own, other))
    assert found.n == len(kept) == 10
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-5)
    following = TOKENS.ids[CUT + 1 :][kept]
    assert found.delta_ce == pytest.approx(float((p - q)[range(10), following].sum()), rel=1e-5)


def left_out_error(sums, counts):
    """The jackknife of a ratio of sums, one document left out at a time."""
    n = len(sums)
    ratios = [(sum(sums) - a) / (sum(counts) - b) for a, b in zip(sums, counts)]
    return math.sqrt((n - 1) / n * sum((r - sum(ratios) / n) ** 2 for r in ratios))


def test_the_difference_of_two_variants_is_the_others_taken_from_this():
    kl, of_other, counts = [2.0, 5.0, 11.0], [1.0, 1.5, 4.0], [2, 4, 5]
    this, other = (PerDocument([Damaged(x, -x, 0, n) for x, n in zip(values, counts)]) for values in (kl, of_other))
    differences = [a - b for a, b in zip(kl, of_other)]
    expected = (pytest.approx(11.5 / 11), pytest.approx(left_out_error(differences, counts)))
    assert this.less(other, "kl") == expected
    assert this.less(other, "delta_ce")[0] == pytest.approx(-11.5 / 11)


def test_quantiles_of_kl_are_those_of_all_tokens_together():
    tokens = np.array([0.0, 0.1, 4.0], np.float32), np.array([0.2, 0.3], np.float32)
    found = PerDocument([Damaged(x.sum(), 0.0, 0, len(x), x) for x in tokens])
    assert found.kl_quantile(0.5) == pytest.approx(0.2) and found.kl_quantile(1.0) == pytest.approx(4.0)
    assert found.kl_quantile(0.95) == pytest.approx(0.3 + 0.8 * 3.7)  # linear, at place 3.8 of 0 to 4
    assert math.isnan(PerDocument([]).kl_quantile(0.95))
    one = of_document("projected", Document("d", "text", language="zh", domain="law"), found.documents[0])
    assert (one.kl, one.n, one.language, one.domain) == (pytest.approx(4.1 / 3), 3, "zh", "law")
    assert one.kl_p95 == pytest.approx(0.1 + 0.9 * 3.9)


def test_a_mean_over_documents_has_the_standard_error_of_a_sample():
    values = [1.0, 4.0, 2.0, 9.0]
    assert mean_of(values) == pytest.approx((4.0, np.std(values, ddof=1) / math.sqrt(4)))
    assert mean_of([1.0, 4.0])[0] == 2.5 and math.isnan(mean_of([1.0, 4.0])[1])
    assert all(math.isnan(x) for x in mean_of([]))


def test_the_standard_error_is_that_of_a_mean_where_documents_are_alike_long():
    sums = [2.0, 5.0, 11.0, 6.0]
    mean, se = per_token(sums, [2] * 4)
    assert mean == pytest.approx(3.0)
    assert se == pytest.approx(np.std(np.array(sums) / 2, ddof=1) / math.sqrt(4))


def test_rank_correlation():
    a, b = np.random.default_rng(0).integers(0, 6, (2, 30)).astype(float)
    assert spearman(a, b) == pytest.approx(pd.Series(a).rank().corr(pd.Series(b).rank()))
    assert spearman([1, 2, 3], [10, 20, 1e9]) == pytest.approx(1)
    assert math.isnan(spearman([1, 2], [1, 2])) and math.isnan(spearman([1, 2, 3], [4, 4, 4]))


def test_logits_that_are_not_finite_are_told_from_disk(tmp_path):
    own = {"largest_difference": math.inf, "tolerance": 1e-4, "reproduces": False}
    write(Injection({}, {"prefix": 0.5}, [], {"name": "s", "kv_layers": [0]}, {}, own), tmp_path)
    assert sentence(read(tmp_path)).startswith("Nothing is reported")


def test_tokens_that_differ():
    assert differing([1, 2, 3, 4], [1, 9, 3, 4]) == [False, True, False, False]
    assert differing([1, 2], [1, 2]) == [False, False]
    assert differing([], [5]) == [True]


def test_the_final_answer_stands_behind_the_last_marker():
    assert final_answer("1 + 1 = 2.\nAnswer: 3\nno.\nAnswer: 2\nmore", Markers()) == "2"
    assert final_answer("\n答案：17", Markers()) == "17"
    assert final_answer("nothing here", Markers()) is None


def test_a_head_that_does_not_vary_has_no_error():
    tss = torch.tensor([[1.0, 3e-14, 0.0], [2.0, 2e-14, 0.0]])
    found = heads._varying(tss, torch.tensor([4.0, 5.0, 0.0]))
    assert found[:, 0].tolist() == [1.0, 2.0]
    assert found[:, 1:].isnan().all()


def test_errors_of_heads_by_hand():
    """Four documents of 2 KV heads, of 2 query heads each, whose outputs are far from zero and differ in variance."""
    generator = torch.Generator().manual_seed(0)
    student, names = SimpleNamespace(kv_layers=(3,), layer_shapes=((2, 8, 8),)), ("projected", "mean", "shuffled")
    counts, outputs, documents = (5, 7, 6, 9), [], []

    def sums(kinds, n):
        return {(kind, 0): torch.rand(4, generator=generator, dtype=torch.float64) * n for kind in kinds}

    for n in counts:
        spread = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)[:, None, None]
        output = torch.randn(4, n, 3, generator=generator, dtype=torch.float64) * spread + 5
        variants = {
            name: Outputs(sums(heads.PARTS, n), sums(("key", "both"), n), sums(heads.PARTS, n)) for name in names
        }
        documents.append(Heard(variants, {0: output.sum(1)}, {0: output.square().sum((1, 2))}, n))
        outputs.append(output)
    mean = torch.cat(outputs, dim=1).mean(1, keepdim=True)
    tss = torch.stack([(output - mean).square().sum((1, 2)) for output in outputs])  # [documents, Hq]

    def of_group(name, kind, group, part="rss"):
        return [float(getattr(d.variants[name], part)[kind, 0][group].sum()) for d in documents]

    found = heads.attention_errors(documents, student)
    assert [(e.kind, e.layer, e.head) for e in found] == [(k, 3, h) for k in heads.PARTS for h in (0, 1)]
    for e in found:
        group = slice(2 * e.head, 2 * e.head + 2)
        variance, queries = tss[:, group].sum(1).tolist(), [2 * n for n in counts]
        rss = of_group("projected", e.kind, group)
        assert e.error == pytest.approx(sum(rss) / sum(variance)) and e.n == 27
        assert e.se == pytest.approx(left_out_error(rss, variance))
        expected = {name: sum(of_group(name, e.kind, group)) / sum(variance) for name in names[1:]}
        assert e.controls == pytest.approx(expected)
        each = sum(d.variants["projected"].rss[e.kind, 0] for d in documents) / tss.sum(0)
        assert e.query_heads == pytest.approx(each[group].tolist())
        expected = {name: sum(of_group(name, e.kind, group, "cosine")) / sum(queries) for name in names}
        assert e.cosines == pytest.approx(expected)
        if e.kind == "value":
            assert math.isnan(e.kl) and math.isnan(e.kl_se) and not e.controls_kl
            continue
        kl = of_group("projected", e.kind, group, "kl")
        assert (e.kl, e.kl_se) == pytest.approx((sum(kl) / sum(queries), left_out_error(kl, queries)))
        expected = {name: sum(of_group(name, e.kind, group, "kl")) / sum(queries) for name in names[1:]}
        assert e.controls_kl == pytest.approx(expected)


def test_errors_of_the_projection_by_hand():
    """RSS / TSS of the replaced rows, TSS about the mean of the fitted rows of each row's class."""
    generator = torch.Generator().manual_seed(0)
    geometry = tiny_loaded("llama").geometry  # 2 KV heads of 16
    problems = [(kind, layer) for kind in ("key", "value") for layer in (0, 2)]
    of_classes = {p: torch.randn(2, 32, generator=generator) for p in problems}
    sums = heads.ProjectionSums(geometry)
    given = []
    for n in (4, 6, 5):
        rows = torch.arange(2, 2 + n)
        own = {p: torch.randn(2, 9, 16, generator=generator) + 1 for p in problems}
        compared = {
            name: {p: torch.randn(2, n, 16, generator=generator) for p in problems} for name in ("projected", "mean")
        }
        mean = {p: of_classes[p][rows % 2] for p in problems}
        sums.add(SimpleNamespace(own=SimpleNamespace(compared=own)), Prefix(12, rows, mean, compared, {}))
        given.append((own, rows, mean, compared))
    found = sums.errors()
    assert [(cell.kind, cell.layer, cell.head) for cell in found] == [(*p, head) for p in problems for head in (0, 1)]
    for cell in found:
        problem, channels = (cell.kind, cell.layer), slice(16 * cell.head, 16 * cell.head + 16)
        rss, tss = {"projected": [], "mean": []}, []
        for own, rows, mean, compared in given:
            target = own[problem][cell.head, rows]
            tss.append(float((target - mean[problem][:, channels]).square().sum()))
            for name, of in rss.items():
                of.append(float((target - compared[name][problem][cell.head]).square().sum()))
        assert cell.error == pytest.approx(sum(rss["projected"]) / sum(tss), rel=1e-5) and cell.n == 15
        assert cell.se == pytest.approx(left_out_error(rss["projected"], tss), rel=1e-4)
        assert cell.controls == pytest.approx({"mean": sum(rss["mean"]) / sum(tss)}, rel=1e-5)


def test_an_own_cache_that_is_off_by_more_than_rounding_ends_the_trial(monkeypatch):
    student = tiny_loaded("llama")
    own, rows = read_own(student, TOKENS, pre_rope=True), torch.arange(2, CUT)
    nothing = {problem: torch.zeros_like(x[:, rows]) for problem, x in own.stored.items()}
    prefix = Prefix(CUT, rows, {}, {}, {"zero": nothing})
    found = trial.tried(student, own, prefix, ["own", "zero"], 4096)
    assert found.difference < 1e-5 and found.damaged["own"].kl < 1e-5 < 0.1 < found.damaged["zero"].kl
    largest, real = own.logits[CUT:].abs().max(), trial.continued
    monkeypatch.setattr(trial, "continued", lambda *args: real(*args) + 3e-4 * largest)
    found = trial.tried(student, own, prefix, ["own", "zero"], 4096)
    assert found.difference == pytest.approx(3e-4, rel=0.05) and found.damaged == {}
