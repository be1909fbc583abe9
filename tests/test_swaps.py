"""Swaps of single parts of the prefix: each against the same part replaced by hand, and what is told of them."""

import math
from types import SimpleNamespace

import pytest
import torch

from kvlab.inject.continuation import Variant, continued
from kvlab.inject.own import read_own
from kvlab.inject.prefix import Prefix
from kvlab.inject.scores import Damaged, PerDocument, correlations, damage, spearman
from kvlab.inject.swaps import SOURCES, Budget, Swaps, head_places, layer_places, worst_layers
from kvlab.request.align import AlignSettings
from kvlab.results.function.data import AttentionError, Projected, Swap
from kvlab.shapes import KINDS
from tests.tiny import tiny_loaded, tiny_tokens

pytestmark = pytest.mark.model

TOKENS, CUT = tiny_tokens(23, 1), 10


def noise(own, rows, scale):
    generator = torch.Generator().manual_seed(0)
    return {problem: scale * torch.randn(x[:, rows].shape, generator=generator) for problem, x in own.stored.items()}


def test_a_swap_is_one_part_replaced_by_hand():
    student = tiny_loaded("llama")
    own, rows = read_own(student, TOKENS, pre_rope=True), torch.arange(2, CUT)
    cached = {"projected": noise(own, rows, scale=1), "mean": noise(own, rows, scale=3)}
    swaps = Swaps(SimpleNamespace(student=student, settings=AlignSettings()), Budget(None, None))
    places = [("key", 1, None), ("value", 1, None), ("both", 1, None), ("key", 1, 0), ("value", 2, 1), ("both", 0, 1)]
    swaps.add(SimpleNamespace(own=own), Prefix(CUT, rows, {}, {}, cached), places)

    def by_hand(source, kind, layer, head):
        """The whole part, of which all but the swapped head is the own one."""
        given = {}
        for k in KINDS if kind == "both" else (kind,):
            given[k, layer] = own.stored[k, layer][:, rows].clone()
            heads = slice(None) if head is None else [head]
            given[k, layer][heads] = cached[source][k, layer][heads]
        plain, of = continued(student, own, CUT, rows, [Variant("own"), Variant("by hand", given)])
        return damage(plain, of, TOKENS, CUT)

    found = swaps.results()
    assert [(s.kind, s.layer, s.head) for s in found] == places
    for swap in found:
        assert (swap.n, swap.documents) == (12, 1)
        projected, mean = (by_hand(source, swap.kind, swap.layer, swap.head) for source in SOURCES)
        numbers = (projected.kl, projected.delta_ce, mean.kl, mean.delta_ce)
        assert projected.kl < 0.8 * mean.kl
        told = (swap.kl, swap.delta_ce, swap.kl_mean, swap.delta_ce_mean)
        assert told == pytest.approx([x / 12 for x in numbers], rel=1e-3, abs=1e-5)


def test_every_layer_and_head_is_swapped_in_three_ways():
    student = SimpleNamespace(kv_layers=(3, 7), layer_shapes=((2, 8, 8), (1, 8, 8)))
    three = ("key", "value", "both")
    assert layer_places(student) == [(kind, layer, None) for layer in (0, 1) for kind in three]
    assert head_places(student, [0]) == [(kind, 0, head) for head in (0, 1) for kind in three]
    assert head_places(student, [1]) == [(kind, 1, 0) for kind in three]


def test_the_worst_layers_cost_most():
    cost = {0: 1.0, 1: 3.0, 2: 2.0}
    found = {("projected", ("both", n, None)): PerDocument([Damaged(c, 0.0, 0, 1)]) for n, c in cost.items()}
    student = SimpleNamespace(kv_layers=(0, 1, 2))
    assert worst_layers(found, student, 2) == [1, 2]
    assert worst_layers(found, student, 1) == [1]


def test_whole_layers_get_a_half_of_the_budget():
    assert not Budget(10.0, 8, spent=4.9, used=3).over(0.5)
    assert Budget(10.0, 8, spent=5.0, used=0).over(0.5) and Budget(10.0, 8, spent=0.0, used=4).over(0.5)
    assert not Budget(10.0, 8, spent=9.9, used=7).over()
    assert Budget(10.0, 8, spent=10.0, used=0).over() and Budget(10.0, 8, spent=0.0, used=8).over()
    assert not Budget(None, None, spent=1e9, used=10**9).over()


def swap_of(kind, head, kl, delta_ce):
    return Swap(kind, 0, head, kl, 0, delta_ce, 0, kl, 0, delta_ce, 0, n=9, documents=3)


def test_each_error_of_a_kind_is_correlated_with_each_damage_of_that_kind():
    order = {"key": [3, 1, 4, 2], "value": [2, 4, 3, 1]}  # of the damages, by head
    swaps = [swap_of(kind, h, kl, -kl) for kind in KINDS for h, kl in enumerate(order[kind])]
    swaps.append(swap_of("both", 0, 99, 99))  # neither K's nor V's
    swaps.append(swap_of("key", None, 99, 99))  # a whole layer is no head
    errors = {"key": [4, 1, 3, 2], "value": [1, 4, 2, 3]}
    cells = [Projected(k, 0, h, float(errors[k][h]), 0, {}, 9) for k in KINDS for h in range(4)]
    heard = [AttentionError(k, 0, h, float(order[k][h]), 0, 0, 0, {}, {}, [], 9) for k in KINDS for h in range(4)]
    found = {(c.error, c.kind, c.damage): (c.rho, c.heads) for c in correlations(swaps, cells, heard)}
    for kind in KINDS:
        rho = 1 - 6 * sum((a - b) ** 2 for a, b in zip(errors[kind], order[kind])) / (4 * 15)  # Spearman, without ties
        assert found["projection", kind, "kl"] == (pytest.approx(rho), 4) and 0 < rho < 1
        assert found["projection", kind, "delta_ce"] == (pytest.approx(-rho), 4)
        assert found["attention", kind, "kl"] == (pytest.approx(1), 4)
        assert found["attention", kind, "delta_ce"] == (pytest.approx(-1), 4)
    assert found["attention", "both kinds", "kl"] == (pytest.approx(1), 8)
    assert found["projection", "key", "kl"] != found["projection", "value", "kl"]


def test_a_head_without_an_error_has_no_rank():
    def cell(head, error):
        return Projected("key", 0, head, error, 0, {}, 9)

    heads = [(0, 0.1, 1.0), (1, 0.2, 2.0), (2, 0.3, 3.0), (3, math.nan, 0.5), (4, math.inf, 0.1)]
    swaps, cells = [swap_of("key", h, d, d) for h, _, d in heads], [cell(h, e) for h, e, _ in heads]
    assert {(c.rho, c.heads) for c in correlations(swaps, cells, [])} == {(1.0, 3)}
    assert math.isnan(spearman([1, 2, 3, math.nan], [1, 2, 3, 0]))
