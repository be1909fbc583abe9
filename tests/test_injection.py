"""The student on a replaced cache: its own reproduces its logits, and the heads' outputs are what they are."""

import math
import weakref

import numpy as np
import pandas as pd
import pytest
import torch

from kvlab.errors import AlignError
from kvlab.inject import attention, heads
from kvlab.inject.attention import heard
from kvlab.inject.continuation import Variant, continued
from kvlab.inject.own import read_own
from kvlab.inject.ranks import correlations, spearman
from kvlab.inject.scores import damage, per_token
from kvlab.inject.texts import differing
from kvlab.injection import Injection, Projected, Swap, read, sentence, write
from kvlab.segments import Markers, final_answer
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
    for kind, kinds in (("key", ("key",)), ("value", ("value",)), ("both", ("key", "value"))):
        # The continuation reads layer 0 with the own hidden states, so there it is an independent way.
        variant = Variant(kind, {(k, 0): other[k, 0] for k in kinds})
        run = entering_output(student, 0, lambda v=variant: continued(student, own, CUT, rows, [v]))[0]
        expected = (run.unflatten(1, (4, -1)) - plain).square().sum((0, 2)).double()
        torch.testing.assert_close(found.variants["other"].rss[kind, 0], expected, rtol=1e-4, atol=1e-4)
        assert expected.min() > 0.1
    again = {p: x[:, rows] for p, x in own.stored.items()}
    same = heard(student, own, CUT, rows, [Variant("same", again)], 4096).variants["same"]
    assert max(float(x.max()) for x in (*same.rss.values(), *same.kl.values())) < 1e-6
    # What a replaced layer hands on does not reach the layers below it: they are given the own hidden states.
    first = {p: other[p] if p == ("key", 0) else x for p, x in again.items()}
    of_first = heard(student, own, CUT, rows, [Variant("first", first)], 4096).variants["first"]
    assert of_first.rss["key", 0].min() > 0.1
    assert max(float(of_first.rss["key", layer].max()) for layer in (1, 2)) < 1e-6


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


def test_a_head_without_an_error_has_no_rank():
    def swap(head, kl):
        return Swap("key", 0, head, kl, 0, kl, 0, kl, 0, kl, 0, n=9, documents=3)

    def cell(head, error):
        return Projected("key", 0, head, error, 0, {}, 9)

    heads = [(0, 0.1, 1.0), (1, 0.2, 2.0), (2, 0.3, 3.0), (3, math.nan, 0.5), (4, math.inf, 0.1)]
    swaps, cells = [swap(h, d) for h, _, d in heads], [cell(h, e) for h, e, _ in heads]
    assert {(c.rho, c.heads) for c in correlations(swaps, cells, [])} == {(1.0, 3)}
    assert math.isnan(spearman([1, 2, 3, math.nan], [1, 2, 3, 0]))


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
