"""Batches of rounded width: few shapes, and the same keys, values and losses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvlab.align.pipeline import align
from kvlab.models import forward
from kvlab.models.capture import capture
from kvlab.models.loading import load
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Document
from tests.tiny import TEXT, tiny_loaded, tiny_tokens
from tests.training import prepared, steps

CPU = torch.device("cpu")


@given(st.integers(1, 100_000), st.one_of(st.none(), st.integers(1, 100_000)))
def test_a_width_holds_the_text_within_the_models_positions(longest, most):
    width = forward.width(longest, most)
    assert width >= longest
    assert width <= max(longest + 7, longest * (1 + 1 / forward.SHARE))
    if most and longest <= most:
        assert width <= most


def test_few_widths_between_a_power_of_two_and_the_next():
    for power in range(7, 15):
        assert len({forward.width(n) for n in range(2**power + 1, 2 ** (power + 1) + 1)}) == 16
    assert forward.width(2048) == 2048


def test_only_a_gpu_gets_them_and_the_rest_is_masked(monkeypatch):
    batch = [tiny_tokens(9, 1), tiny_tokens(21, 2)]
    assert forward.padded(batch, CPU)[0].shape == (2, 21)
    monkeypatch.setattr(forward, "ROUNDED_ON", ("cpu",))
    ids, mask = forward.padded(batch, CPU)
    assert ids.shape == mask.shape == (2, 24)
    for b, tokens in enumerate(batch):
        assert ids[b, : len(tokens)].tolist() == tokens.ids.tolist() and not ids[b, len(tokens) :].any()
        assert mask[b].tolist() == [1] * len(tokens) + [0] * (24 - len(tokens))


@pytest.mark.model
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "deepseek_v3", "gemma3_text"])
def test_the_cache_is_the_same(architecture, monkeypatch):
    loaded = tiny_loaded(architecture)
    batch = [tiny_tokens(9, 1), tiny_tokens(21, 2)]
    plain = capture(loaded, batch)
    monkeypatch.setattr(forward, "ROUNDED_ON", ("cpu",))
    rounded = capture(loaded, batch)
    for kind in KINDS:
        for a, b in zip(plain.of(kind), rounded.of(kind), strict=True):
            assert b.shape[2] == 24
            for n, tokens in enumerate(batch):
                torch.testing.assert_close(b[n, :, : len(tokens)], a[n, :, : len(tokens)], atol=1e-5, rtol=1e-4)


@pytest.mark.model
def test_an_analysis_and_a_run_give_the_same_numbers(pair, tmp_path, monkeypatch, fresh_accelerate):
    teacher, student = (load(name, "cpu", "float32") for name in (pair["teachers"][0], pair["student"]))
    documents = [Document(str(n), line) for n, line in enumerate(TEXT.splitlines())]
    settings = AlignSettings(folds=3, sinks=1, inspect=2, random_teacher=False)

    def found(folder):
        told = align(teacher, student, documents, settings)[0]
        return told.table()["r2"].to_numpy(), [line["loss"] for line in steps(prepared(tmp_path / folder, pair))]

    scores, losses = found("plain")
    monkeypatch.setattr(forward, "ROUNDED_ON", ("cpu",))
    again, other = found("rounded")
    assert again == pytest.approx(scores, abs=1e-4) and other == pytest.approx(losses, rel=1e-5)
