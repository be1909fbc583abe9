"""The KV loss on head outputs: against loops over tokens, the model itself, finite differences, and in whole runs."""

import json
import math
from dataclasses import replace

import pytest
import torch

from kvlab.align.rows import EXACT
from kvlab.errors import TrainError
from kvlab.models.forward import padded
from kvlab.request.refusals import check_heads
from kvlab.request.train import TrainConfig
from kvlab.shapes import KINDS
from kvlab.train.head_outputs import outputs, replaced
from kvlab.train.learner import kv_error
from kvlab.train.process import perform
from kvlab.train.student import check_attention, read_student, recompute_activations
from tests.test_train_loop import by_hand, evaluated, losses, with_two
from tests.tiny import tiny_loaded, tiny_tokens
from tests.training import metrics, prepared, steps, written

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("train-loop"), pytest.mark.usefixtures("fresh_accelerate")]
CPU = torch.device("cpu")
ON = {"kv_loss": "head-outputs"}


# --- by loops over tokens -------------------------------------------------------------------------------------


def projections(loaded, layer, tokens):
    """Return queries, keys and values [T, heads, width] of one document, before RoPE, by the layer's own weights."""
    attention = getattr(loaded.model.base_model, "layers", None) or loaded.model.base_model.h
    attention = attention[layer].self_attn if hasattr(attention[layer], "self_attn") else attention[layer].attn
    modules = [attention.c_attn] if hasattr(attention, "c_attn") else [getattr(attention, f"{n}_proj") for n in "qkv"]
    seen = []
    hooks = [module.register_forward_hook(lambda _, __, out: seen.append(out[0])) for module in modules]
    with torch.no_grad():
        loaded.model(torch.from_numpy(tokens.ids)[None])
    for hook in hooks:
        hook.remove()
    return [x.unflatten(-1, (-1, 16)) for x in (seen if len(seen) == 3 else seen[0].chunk(3, dim=-1))]


def turned(x, theta):
    """Llama's RoPE by its formula: the two halves of a head turn together."""
    angles = torch.arange(len(x))[:, None] * theta ** (-torch.arange(8) / 8)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x[..., :8], x[..., 8:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def attended(queries, keys, values, window):
    """Return the outputs [T, Hq * D] of causal attention, one query of one head at a time."""
    shared = queries.shape[1] // keys.shape[1]
    rows = []
    for t in range(len(queries)):
        first = max(0, t + 1 - window)
        heads = []
        for head in range(queries.shape[1]):
            k, v = keys[first : t + 1, head // shared], values[first : t + 1, head // shared]
            heads.append(torch.softmax(k @ queries[t, head] / math.sqrt(16), 0) @ v)
        rows.append(torch.cat(heads))
    return torch.stack(rows)


def targeted(x, steps, target):
    """Return keys or values [T, H, D] with those of ``steps`` replaced by the rows of ``target`` [N, H * D]."""
    x = x.clone()
    for step, row in zip(steps, target, strict=True):
        x[step] = row.view(x.shape[1:])
    return x


@pytest.mark.parametrize(
    ("architecture", "settings", "theta", "window"),
    [
        ("llama", {}, 10000.0, 1000),  # 4 query heads share 2 KV heads
        ("gpt2", {"n_embd": 64, "n_head": 4, "n_layer": 3}, None, 1000),  # no RoPE
        ("mistral", {"sliding_window": 3}, 10000.0, 3),
    ],
)
def test_the_outputs_are_those_of_a_loop_over_tokens(architecture, settings, theta, window):
    loaded = tiny_loaded(architecture, **settings)
    documents, chosen = [tiny_tokens(9), tiny_tokens(6, seed=1)], [[2, 3, 7], [1, 5]]
    ids, mask = padded(documents, CPU)
    with torch.no_grad():
        read = read_student(loaded, ids, mask, attending=True)
    place = torch.tensor([b * ids.shape[1] + step for b, steps in enumerate(chosen) for step in steps])
    generator = torch.Generator().manual_seed(0)
    for layer in range(3):
        own = read.keys[layer], read.values[layer]
        target = [torch.randn(len(place), x.shape[1] * 16, generator=generator) for x in own]
        cache = [replaced(x, y, place) for x, y in zip(own, target, strict=True)]
        found = [outputs(read, layer, *both, place) for both in (own, cache)]
        of_own, of_projected = [], []
        for tokens, rows, first in zip(documents, chosen, (0, 3), strict=True):
            queries, keys, values = projections(loaded, layer, tokens)
            k, v = (
                targeted(x, rows, y[first : first + len(rows)]) for x, y in zip((keys, values), target, strict=True)
            )
            if theta:
                queries, keys, k = (turned(x, theta) for x in (queries, keys, k))
            of_own.append(attended(queries, keys, values, window)[rows])
            of_projected.append(attended(queries, k, v, window)[rows])
        torch.testing.assert_close(found[0], torch.cat(of_own), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found[1], torch.cat(of_projected), atol=1e-4, rtol=1e-3)
        assert (found[1] - found[0]).abs().max() > 0.1


def test_the_loss_of_a_step_by_hand(pair, tmp_path):
    run = prepared(tmp_path / "run", pair | ON | {"max_steps": 1})
    (items,) = run.data.step(0)
    theta = 10000.0
    errors, units = [], []
    for layer in range(2):
        targets = {kind: by_hand(run, items, kind, layer)[1][0] for kind in KINDS}
        first = 0
        for item in items:
            batch = run.teachers.batch([item], CPU, with_features=False)
            rows = batch.rows[1].tolist()
            queries, keys, values = projections(run.student, layer, item.student)
            k, v = (
                targeted(x, rows, targets[kind][first : first + len(rows)])
                for x, kind in zip((keys, values), KINDS, strict=True)
            )
            queries, keys, k = (turned(x, theta) for x in (queries, keys, k))
            apart = attended(queries, keys, values, 10**6)[rows] - attended(queries, k, v, 10**6)[rows]
            errors.append((apart / run.output_scale[layer]).square().mean(1))
            first += len(rows)
        own = []
        for item in run.data.train[: run.config.fit_documents]:
            rows = run.teachers.batch([item], CPU, with_features=False).rows[1]
            queries, keys, values = projections(run.student, layer, item.student)
            own.append(attended(turned(queries, theta), turned(keys, theta), values, 10**6)[rows])
        units.append(float(torch.cat(own).var(0, unbiased=False).mean().sqrt()))
    assert run.output_scale == pytest.approx(units, rel=1e-3)
    (line,) = steps(run)
    assert line["kv_output"] == pytest.approx(float(torch.cat(errors).mean()), rel=1e-3)
    assert line["loss"] == pytest.approx(line["ce"] + line["kv_output"])
    plain = prepared(tmp_path / "plain", pair | {"max_steps": 1})
    (other,) = steps(plain)
    assert [line[f"kv_{kind}"] for kind in KINDS] == pytest.approx([other[f"kv_{kind}"] for kind in KINDS])
    assert "kv_output" not in other


# --- the model's own attention --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture",
    ["gpt2", "gpt_neox", "cohere2", "gemma2", "gemma3_text", "qwen3", "phi3", "glm", "gpt_oss", "llama4_text"],
)
def test_over_its_own_cache_any_student_has_the_outputs_of_its_forward(architecture):
    """Soft caps (Gemma 2), sinks (gpt-oss), windows, norms of queries, layers without RoPE."""
    loaded, documents = tiny_loaded(architecture), [tiny_tokens(12), tiny_tokens(7, seed=1)]
    check_attention(loaded)  # and the self-test, whose forwards are not meant here
    names = ("o_proj", "c_proj", "dense")  # what the heads' outputs enter
    owners = [m for m in loaded.model.modules() if isinstance(getattr(m, "layer_idx", None), int)]
    leaving = [getattr(owner, name) for owner in owners for name in names if hasattr(owner, name)]
    seen = []
    hooks = [module.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for module in leaving]
    ids, mask = padded(documents, CPU)
    with torch.no_grad():
        read = read_student(loaded, ids, mask, attending=True)
    for hook in hooks:
        hook.remove()
    place = mask.flatten().nonzero().flatten()
    assert len(seen) == len(read.keys) == 3
    for layer, expected in enumerate(seen):
        found = outputs(read, layer, read.keys[layer], read.values[layer], place)
        torch.testing.assert_close(found, expected.flatten(0, 1)[place], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("architecture", ["bloom", "falcon", "deepseek_v3"])
def test_a_student_whose_queries_cannot_be_had_is_refused(architecture):
    with pytest.raises(TrainError, match="queries of layer 0") as refused:
        check_attention(tiny_loaded(architecture))
    assert refused.value.kind == "queries-unavailable"


def test_a_latent_cache_is_refused_before_weights():
    latent = tiny_loaded("deepseek_v3").geometry
    with pytest.raises(TrainError, match="latent"):
        check_heads(TrainConfig(**ON), latent)
    check_heads(TrainConfig(), latent)


# --- gradients ------------------------------------------------------------------------------------------------


def test_gradients_of_keys_and_values_are_those_of_finite_differences():
    loaded = tiny_loaded("llama")
    ids, mask = padded([tiny_tokens(9), tiny_tokens(6, seed=1)], CPU)
    with torch.no_grad():
        read = read_student(loaded, ids, mask, attending=True)
    place = torch.tensor([2, 3, 7, 10, 14])
    own = [x.double().requires_grad_() for x in (read.keys[1], read.values[1])]
    fixed = [replaced(x, torch.randn(5, 32, generator=torch.Generator().manual_seed(0)).double(), place) for x in own]
    target = outputs(read, 1, *fixed, place)
    assert not target.requires_grad  # the own rows beside the targets are constants

    def error():
        return kv_error(outputs(read, 1, *own, place), target, 0.5)

    error().backward()
    for x in own:
        for entry in ((0, 0, 2, 3), (0, 1, 7, 12), (1, 1, 1, 0)):
            moved = []
            for by in (1e-4, -1e-4):
                with torch.no_grad():
                    x[entry] += by
                    moved.append(float(error()))
                    x[entry] -= by
            assert float(x.grad[entry]) == pytest.approx((moved[0] - moved[1]) / 2e-4, rel=1e-3, abs=1e-6)
        assert x.grad[0, :, 8].abs().max() == 0  # a later token than any row
        assert x.grad[0, :, 2].abs().max() > 1e-3


def test_the_loss_trains_keys_and_values_of_the_last_layer_and_no_queries(pair, tmp_path):
    run = prepared(tmp_path / "run", pair | ON)
    run.learner(run.teachers.batch(run.data.train[:2], CPU))["kv_output"].backward()
    last = run.student.model.model.layers[-1].self_attn
    gradients = {name: getattr(last, f"{name}_proj").weight.grad for name in "qkvo"}
    assert {name for name, gradient in gradients.items() if gradient is not None and gradient.any()} == {"k", "v"}
    assert run.student.model.model.layers[0].self_attn.q_proj.weight.grad.any()  # through the hidden states


# --- in whole steps -------------------------------------------------------------------------------------------


def test_padding_changes_nothing(pair, tmp_path):
    run = prepared(tmp_path / "run", pair | ON)
    items = sorted(run.data.train[:6], key=lambda item: len(item.student))
    items = [items[0], items[-1]]
    assert len(items[0].student) < len(items[1].student)

    def total(some):
        with torch.no_grad():
            return float(run.learner(run.teachers.batch(some, CPU))["kv_output"])

    assert total(items) == pytest.approx(total(items[:1]) + total(items[1:]), rel=1e-4)


def test_a_projected_cache_that_equals_the_own_one_costs_nothing(pair, tmp_path):
    switches = {"use_kv_projector": False, "use_safe_resample": False, "teachers": [pair["student"]]}
    assert evaluated(prepared(tmp_path / "own", pair | ON | switches))["kv_output"] < 1e-9
    assert evaluated(prepared(tmp_path / "other", pair | ON))["kv_output"] > 0.1


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 1, "gradient_accumulation_steps": 4}, {"gradient_checkpointing": True}],
    ids=["accumulated", "checkpointed"],
)
def test_accumulation_and_checkpointing_change_nothing(pair, tmp_path, change):
    settings = with_two(pair) | ON | {"fusion": "learned", "batch_size": 4, "max_steps": 3}
    found, again = (steps(prepared(tmp_path / name, settings | more)) for name, more in (("a", {}), ("b", change)))
    for name in ("loss", "kv_output", "entropy"):
        assert [line[name] for line in again] == pytest.approx([line[name] for line in found], rel=1e-4)
    assert [line["grad_norm"] for line in again] == pytest.approx([line["grad_norm"] for line in found], rel=2e-3)


def test_bfloat16_is_near(pair, tmp_path):
    found, again = (
        steps(prepared(tmp_path / name, pair | ON | {"precision": name, "max_steps": 2})) for name in ("fp32", "bf16")
    )
    assert [line["kv_output"] for line in again] == pytest.approx([line["kv_output"] for line in found], rel=0.02)
    assert losses(again) != losses(found)


def test_the_projector_alone_learns_from_the_outputs(pair, tmp_path):
    only = ON | {"map": "structured", "trainable": "projector", "max_steps": 20}
    run = prepared(tmp_path / "run", pair | only)
    before = evaluated(run)
    found = steps(run)
    assert found[0]["loss"] == pytest.approx(found[0]["kv_output"])
    run._evaluate("after")
    assert run.report["after"]["kv_output"] < before["kv_output"]


def test_lora_and_controls_are_measured_alike(pair, tmp_path):
    lora = steps(prepared(tmp_path / "lora", pair | ON | {"trainable": "lora", "max_steps": 1}))
    whole = steps(prepared(tmp_path / "whole", pair | ON | {"max_steps": 1}))
    assert lora[0]["kv_output"] == pytest.approx(whole[0]["kv_output"], rel=1e-5)
    control = prepared(tmp_path / "control", pair | ON | {"control": "ce-only", "max_steps": 1})
    before = evaluated(control)  # what the teacher's runs are compared with
    assert before["kv_output"] == pytest.approx(evaluated(prepared(tmp_path / "kv", pair | ON))["kv_output"])
    (line,) = steps(control)
    assert line["loss"] == line["ce"] and "kv_output" not in line


def test_a_layer_is_computed_again_without_its_note_being_taken_twice():
    loaded, tokens = tiny_loaded("llama"), [tiny_tokens(9), tiny_tokens(6, seed=1)]
    found = {}
    for twice in (False, True):
        loaded.model.requires_grad_(True).train().zero_grad()
        if twice:
            recompute_activations(loaded)
        read = read_student(loaded, *padded(tokens, CPU), attending=True)
        place = torch.tensor([2, 3, 7, 10, 14])
        sum(outputs(read, at, read.keys[at], read.values[at], place).square().sum() for at in range(3)).backward()
        found[twice] = loaded.model.get_input_embeddings().weight.grad.clone()
    torch.testing.assert_close(found[False], found[True])


def test_the_rule_exact_trains_on_exact_rows_only_with_the_same_maps(pair, tmp_path):
    """So the KV loss on exact rows alone needs no setting of its own: --time exact."""
    floor, exact = (prepared(tmp_path / time, pair | {"time": time, "layers": "depth"}) for time in ("floor", "exact"))
    items = floor.data.train[:3]
    batch = floor.teachers.batch(items, CPU)
    fewer = exact.teachers.batch([replace(item, maps=e.maps) for item, e in zip(items, exact.data.train)], CPU)
    kept = batch.row_classes[0] == EXACT
    assert 0 < kept.sum() < len(kept)
    for all_rows, rows in zip(batch.rows, fewer.rows, strict=True):
        assert torch.equal(all_rows[kept], rows)
    for problem, module in exact.fitted[0].maps.items():
        of_floor = floor.fitted[0].maps[problem]
        torch.testing.assert_close(module.weight[module.places[EXACT]], of_floor.weight[of_floor.places[EXACT]])


def test_a_runs_log_and_report_have_the_error_of_head_outputs(pair, tmp_path):
    for name, settings in (("on", ON), ("off", {})):
        folder = written(tmp_path / name, pair | settings | {"max_steps": 2})
        perform(folder)
        told = json.loads((folder / "report.json").read_text())
        known = [*metrics(folder), told["before"], told["after"]]
        assert len(known) == 4 and all(("kv_output" in numbers) == bool(settings) for numbers in known)
        pages = [(folder / file).read_text() for file in ("training.log", "report.md", "report.html")]
        assert all(("head outputs" in page) == bool(settings) for page in pages)
        if settings:
            change = f"{told['before']['kv_output']:.4f} → {told['after']['kv_output']:.4f}"
            assert change in pages[1] and change in pages[2]
