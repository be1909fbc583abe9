"""What the student must still read: hybrids of its own and of a replaced cache, against caches built by hand."""

import json

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from kvlab.inject.hybrid import SOURCES, Hybrids, ladder
from kvlab.inject.own import read_own
from kvlab.inject.pipeline import judge
from kvlab.inject.prefix import Prefix
from kvlab.inject.trial import tried
from kvlab.models import cache_names
from kvlab.models.loading import load
from kvlab.request import prompts
from kvlab.request.align import AlignSettings
from kvlab.request.inject import InjectSettings
from kvlab.results.function.data import read, write
from kvlab.shapes import KINDS, Document
from tests.tiny import tiny_loaded, tiny_tokens

pytestmark = pytest.mark.model

CUTS = (10, 13)
TOKENS = {cut: tiny_tokens(2 * cut + 3, seed=cut) for cut in CUTS}


def replaced(own, rows, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    return {p: scale * torch.randn(x[:, rows].shape, generator=generator) for p, x in own.stored.items()}


@pytest.fixture(scope="module")
def student():
    return tiny_loaded("llama")


@pytest.fixture(scope="module")
def documents(student):
    """[(own, prefix)]: two documents, whose first two tokens keep the own cache."""
    made = []
    for cut, tokens in TOKENS.items():
        own, rows = read_own(student, tokens, pre_rope=True), torch.arange(2, cut)
        cached = {name: replaced(own, rows, scale, cut) for name, scale in zip(SOURCES, (1.0, 0.3, 0.5))}
        made.append((own, Prefix(cut, rows, {}, {}, cached)))
    return made


LABELLED = Document("a", "", language="en", domain="short"), Document("b", "", language="en", domain="law")


def hybrids_of(student, documents, batch_tokens=4096):
    """The result of all documents, and the damage of the wholly replaced prefix."""
    hybrids, whole = Hybrids(student, batch_tokens), []
    for document, (own, prefix) in zip(LABELLED, documents, strict=True):
        whole.append(tried(student, own, prefix, ("own", *SOURCES), batch_tokens).damaged)
        hybrids.add(document, own, prefix, whole[-1])
    return {(h.variant, h.part, h.kept): h for h in hybrids.results()}, whole


@pytest.fixture(scope="module")
def found(student, documents):
    return hybrids_of(student, documents)


@torch.inference_mode()
def kl_by_hand(student, own, prefix, source, part, kept):
    """Sum of KL(own || hybrid) over the predicted tokens, from a cache written step by step."""
    cut, cache = prefix.cut, DynamicCache()
    start = cut - kept if part == "read" else cut
    for layer in range(len(student.geometry.kv_layers)):
        states = []
        for kind in KINDS:
            x = own.stored[kind, layer][:, :start].clone()
            for place, step in enumerate(prefix.rows.tolist()):
                theirs = {"layers": layer >= kept, "tokens": step < cut - kept, "read": step < start}[part]
                if theirs:
                    x[:, step] = prefix.cached[source][kind, layer][:, place]
            states.append(x[None])
        cache.update(*states, layer)
    if start < cut:
        student.model(input_ids=own.ids[:, start:cut], **cache_names.passing(student.model, cache))
    hybrid = student.model(input_ids=own.ids[:, cut:], **cache_names.passing(student.model, cache)).logits[0, :-1]
    plain = student.model(input_ids=own.ids).logits[0, cut:-1]
    divergence = torch.nn.functional.kl_div(
        hybrid.log_softmax(-1), plain.log_softmax(-1), log_target=True, reduction="none"
    )
    return float(divergence.sum(-1)[~torch.from_numpy(own.tokens.special[cut + 1 :])].sum())


def test_layers_and_tokens_are_counted_up_to_all_of_them(found):
    assert ladder(1) == [0, 1] and ladder(8) == [0, 1, 2, 4, 8] and ladder(13) == [0, 1, 2, 4, 8, 13]
    measured, _ = found
    for source in SOURCES:
        assert [kept for name, part, kept in measured if (name, part) == (source, "layers")] == [0, 1, 2, 3]
        for part in ("tokens", "read"):
            assert [kept for name, p, kept in measured if (name, p) == (source, part)] == [0, 1, 2, 4, 8, 13]
    assert [measured["projected", "layers", k].share for k in range(4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    # Of the prefix of 10 tokens no more than these are read.
    shares = [measured["projected", "read", m].share for m in (0, 1, 2, 4, 8, 13)]
    assert shares == pytest.approx([m / 23 for m in (0, 2, 4, 8, 16, 23)])


def test_nothing_own_is_the_replaced_cache_and_everything_own_is_the_own_cache(found):
    measured, whole = found
    for source in SOURCES:
        n = sum(of[source].n for of in whole)
        for part, all_own in (("layers", 3), ("tokens", 13), ("read", 13)):
            nothing, everything = measured[source, part, 0], measured[source, part, all_own]
            assert nothing.kl == sum(of[source].kl for of in whole) / n
            assert nothing.delta_ce == sum(of[source].delta_ce for of in whole) / n
            assert everything.kl == pytest.approx(0, abs=1e-6) and nothing.kl > 0.1
            assert everything.delta_ce == pytest.approx(0, abs=1e-5)
            assert (nothing.n, nothing.documents) == (everything.n, everything.documents) == (n, 2)


def test_a_hybrid_has_the_quantile_of_its_tokens_and_its_gain_over_the_control(student, documents, found, monkeypatch):
    monkeypatch.setattr("kvlab.inject.hybrid.LEAST_OF_GROUP", 13)
    measured, whole = hybrids_of(student, documents)
    for source in SOURCES:
        row, tokens = measured[source, "layers", 0], [of[source].kl_of_tokens for of in whole]
        assert row.kl_p95 == np.quantile(np.concatenate(tokens), 0.95) > row.kl
        gain = sum(of["own-tokens"].kl - of[source].kl for of in whole) / row.n
        assert row.below_own_tokens == pytest.approx(gain, abs=1e-12)
        alone = float(np.quantile(tokens[1], 0.95))
        assert row.groups_p95 == {"language: en": row.kl_p95, "domain: law": pytest.approx(alone)}
        assert len(tokens[0]) < 13 <= len(tokens[1])  # of the first alone there would be too few
    assert found[0]["projected", "layers", 0].groups_p95 == {}


def test_every_hybrid_is_the_cache_that_is_built_by_hand(student, documents, found):
    for (source, part, kept), hybrid in found[0].items():
        own_part = [kept if part == "layers" else min(kept, prefix.cut) for _, prefix in documents]
        sums = [kl_by_hand(student, *of, source, part, k) for of, k in zip(documents, own_part)]
        assert hybrid.kl == pytest.approx(sum(sums) / hybrid.n, rel=1e-3, abs=1e-5), (source, part, kept)
    own_rows, read = (found[0]["projected", part, 4].kl for part in ("tokens", "read"))
    assert abs(own_rows - read) > 0.01  # a student that reads four tokens has not got the own cache of these


ALIGN = AlignSettings(layers="depth", random_teacher=False, folds=2)
FEW = InjectSettings(documents=3, swap_layers=0, texts=0, curve=())


def test_a_functional_test_has_hybrids_of_its_main_prefix_unless_they_are_not_asked_for(tmp_path):
    """Of the bundled pair, read back from disk; an older result has none."""
    teacher, student = (load(f"demo/{name}", "cpu", "float32") for name in ("teacher", "student"))
    judged = [
        judge([teacher], student, prompts.samples()[:10], ALIGN, FEW.model_copy(update={"hybrid": asked}))
        for asked in (True, False)
    ]
    assert judged[1].hybrid == []
    write(judged[0], tmp_path)
    again = read(tmp_path)
    assert again.hybrid == judged[0].hybrid and again.injected == judged[0].injected
    for source in SOURCES:
        rows = {(h.part, h.kept): h for h in again.hybrid if h.variant == source}
        for part in ("layers", "tokens", "read"):
            of_source = again.score(source)
            nothing = rows[part, 0]
            assert (nothing.kl, nothing.kl_se, nothing.n) == (of_source.kl, of_source.kl_se, of_source.n)
            everything = max((h for (p, _), h in rows.items() if p == part), key=lambda h: h.kept)
            assert everything.share == 1 and everything.kl == pytest.approx(0, abs=1e-5)
    for name in ("projected", "with-own-token", "mean"):
        gain = again.score("own-tokens").kl - again.score(name).kl
        assert again.score(name).below_own_tokens == pytest.approx(gain)
    older = json.loads((tmp_path / "injection.json").read_text())
    del older["hybrid"]
    (tmp_path / "injection.json").write_text(json.dumps(older))
    assert read(tmp_path).hybrid == []


def test_several_judged_folds_are_one_curve():
    teacher, student = (load(f"demo/{name}", "cpu", "float32") for name in ("teacher", "student"))
    found = judge([teacher], student, prompts.samples()[:10], ALIGN, FEW, folds=(0, 1))
    projected = {(h.part, h.kept): h for h in found.hybrid if h.variant == "projected"}
    of_all = found.score("projected")
    assert {(h.n, h.documents) for h in projected.values()} == {(of_all.n, of_all.documents)}
    assert projected["layers", 0].kl == projected["read", 0].kl == of_all.kl


def test_small_batches_give_the_same_hybrids(student, documents, found):
    small, _ = hybrids_of(student, documents, batch_tokens=60)
    assert {at: h.kl for at, h in small.items()} == pytest.approx({at: h.kl for at, h in found[0].items()}, abs=1e-5)
