"""The loop on tiny models: gradients, accumulation, checkpointing, maps, fusion, controls."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from transformers import AutoModelForCausalLM

from kvlab.errors import AlignError, TrainError
from kvlab.models.capture import capture
from kvlab.models.forward import padded
from kvlab.request.time_rules import RULES
from kvlab.shapes import KINDS
from kvlab.train.record_words import step_words
from kvlab.train.student import read_student, recompute_activations
from tests.test_time import brute_force
from tests.tiny import tiny_loaded, tiny_model, tiny_tokens
from tests.training import prepared, steps, weights

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("train-loop")]
CPU = torch.device("cpu")


def with_two(pair):
    teacher = pair["teachers"][0]
    return pair | {"teachers": [teacher, teacher.replace("teacher", "other")]}


def evaluated(run):
    run._evaluate("before")
    return run.report["before"]


def losses(found):
    return [line["loss"] for line in found]


# --- the student's K and V ------------------------------------------------------------------------------------


def test_keys_and_values_are_those_of_the_projections_with_their_gradient(pair, tmp_path):
    run = prepared(tmp_path / "run", pair)
    run.student.model.eval()
    layer = run.student.model.model.layers[1].self_attn
    seen = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
        for name, module in (("key", layer.k_proj), ("value", layer.v_proj))
    ]
    ids, mask = padded([item.student for item in run.data.train[:2]], CPU)
    read = read_student(run.student, ids, mask)
    for hook in hooks:
        hook.remove()
    for kind, parameter in (("key", layer.k_proj.weight), ("value", layer.v_proj.weight)):
        direct = seen[kind].unflatten(-1, (2, 16)).transpose(1, 2)  # before RoPE
        torch.testing.assert_close(read.of(kind)[1], direct, atol=1e-5, rtol=1e-4)
        ours, theirs = (
            torch.autograd.grad(x.square().sum(), parameter, retain_graph=True)[0] for x in (read.of(kind)[1], direct)
        )
        assert ours.abs().max() > 0
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("weights_of", "reached"),
    [((1, 1), {"k_proj", "v_proj"}), ((1, 0), {"k_proj"}), ((0, 1), {"v_proj"}), ((0, 0), set())],
)
def test_each_kv_term_reaches_its_own_projection_of_the_last_layer(pair, tmp_path, weights_of, reached):
    run = prepared(tmp_path / "run", pair)
    found = run.learner(run.teachers.batch(run.data.train[:2], torch.device("cpu")))
    loss = weights_of[0] * found["kv_key"] + weights_of[1] * found["kv_value"]
    loss.backward()
    last = run.student.model.model.layers[-1].self_attn
    grown = {name for name in ("k_proj", "v_proj") if (g := getattr(last, name).weight.grad) is not None and g.any()}
    assert grown == reached


@pytest.mark.parametrize("twice", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize(
    "architecture", ["gpt2", "gpt_neox", "cohere2", "gemma3_text", "qwen3", "phi3", "glm", "llama4_text", "deepseek_v3"]
)
def test_any_students_keys_and_values_carry_their_gradient(architecture, twice):
    loaded, tokens = tiny_loaded(architecture), [tiny_tokens(9), tiny_tokens(6, seed=1)]
    reference = capture(loaded, tokens)
    loaded.model.requires_grad_(True).train()
    if twice:
        recompute_activations(loaded)
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    read = read_student(loaded, *padded(tokens, CPU))
    for kind in KINDS:
        for ours, theirs in zip(read.of(kind), reference.of(kind), strict=True):
            for b, document in enumerate(tokens):
                torch.testing.assert_close(
                    ours[b, :, : len(document)], theirs[b, :, : len(document)], atol=1e-4, rtol=1e-3
                )
    sum(x.square().mean() for kind in KINDS for x in read.of(kind)).backward()
    embedding = loaded.model.get_input_embeddings().weight.grad
    assert embedding.isfinite().all() and embedding.any()


@pytest.mark.parametrize("architecture", ["jamba", "lfm2", "falcon_h1"])
def test_a_recurrent_student_trains_but_is_not_computed_twice(architecture):
    loaded, tokens = tiny_loaded(architecture), [tiny_tokens(9)]
    reference = capture(loaded, tokens)
    loaded.model.requires_grad_(True)
    read = read_student(loaded, *padded(tokens, CPU))
    torch.testing.assert_close(read.keys[0], reference.keys[0], atol=1e-4, rtol=1e-3)
    assert read.keys[0].requires_grad
    with pytest.raises(TrainError, match="recurrent"):
        recompute_activations(loaded)


# --- the losses of a step, computed by hand -------------------------------------------------------------------


def of_projection(loaded, kind, layer, tokens):
    """Return what a layer's own projection gives for one document, before RoPE: [T, H * D]."""
    attention = loaded.model.model.layers[layer].self_attn
    module = attention.v_proj if kind == "value" else getattr(attention, "k_norm", attention.k_proj)
    seen = []
    hook = module.register_forward_hook(lambda _, __, out: seen.append(out))
    loaded.model(torch.from_numpy(tokens.ids)[None])
    hook.remove()
    return seen[0][0].flatten(1)


def part_of(tokens, segments):
    """Return the segment that holds each token's last byte, -1 for special tokens: [T]."""
    parts = []
    for (_, end), special in zip(tokens.spans, tokens.special):
        last = max(end - 1, 0)  # a dummy prefix has no byte; it belongs to the first segment
        parts.append(-1 if special else next(n for n, s in enumerate(segments) if s.start <= last < s.end))
    return np.array(parts)


def interpolated(count_t, count_s):
    """Return linear weights [count_s, count_t] of the teacher steps around i (count_t - 1) / (count_s - 1)."""
    at = np.arange(count_s) * (count_t - 1) / max(count_s - 1, 1)
    return (1 - np.abs(at[:, None] - np.arange(count_t))).clip(min=0)


def time_map(rule, teacher, student, segments):
    """Return the weights [Ts, Tt] of a time rule; the rows that the KV loss leaves out are zero."""
    weights = np.zeros((len(student), len(teacher)))
    if rule in ("exact", "floor", "ceil"):
        for i in range(len(student)):
            if (j := brute_force(rule, teacher, student, i)) is not None:
                weights[i, j] = 1
    elif rule == "overlap":
        (start_s, end_s), (start_t, end_t) = student.spans.T[:, :, None], teacher.spans.T[:, None]
        shared = (np.minimum(end_s, end_t) - np.maximum(start_s, start_t)).clip(min=0)
        weights = shared / np.maximum(shared.sum(1, keepdims=True), 1)
    elif rule == "segment":
        of_t, of_s = part_of(teacher, segments), part_of(student, segments)
        for part in range(len(segments)):
            rows, columns = np.flatnonzero(of_s == part), np.flatnonzero(of_t == part)
            weights[np.ix_(rows, columns)] = interpolated(len(columns), len(rows))
    else:
        weights = interpolated(len(teacher), len(student))
        if rule == "nearest":
            weights = (weights >= 0.5).astype(float)
            weights[:, :-1] *= 1 - weights[:, 1:]  # halves are rounded up
    sinks_s, sinks_t = (np.flatnonzero(~tokens.special)[:4] for tokens in (student, teacher))
    left_out = student.special | weights[:, teacher.special].any(1) | weights[:, sinks_t].any(1)
    left_out[sinks_s] = True
    weights[left_out] = 0
    return torch.tensor(weights, dtype=torch.float32)


@torch.no_grad()
def by_hand(run, items, kind, layer):
    """Return the student's rows [N, Q], each teacher's targets [A, N, Q], and which rows it covers [A, N]."""
    rows, targets, covered = [], [], []
    for item in items:
        maps = [time_map(run.config.time, tokens, item.student, item.document.segments) for tokens in item.teachers]
        covers = torch.stack([of_teacher.sum(1) > 0.5 for of_teacher in maps])
        counted, mapped = covers.any(0), []
        for n, fitted in enumerate(run.fitted):
            teacher, tokens = run.teachers.models[n], item.teachers[n]
            layers = [of_projection(teacher, kind, at, tokens) for at in fitted.layers[kind, layer]]
            resampled, affine = maps[n] @ torch.cat(layers, dim=1), fitted.maps[kind, layer]
            ends = set(tokens.spans[~tokens.special, 1])
            inside = torch.tensor([end not in ends for end in item.student.spans[:, 1]])
            inside |= maps[n].max(1).values < 1  # a mean of several steps has not read the same bytes
            place = affine.places[(inside & RULES[run.config.time].reads_bytes).long()]
            mapped.append(torch.einsum("np,npq->nq", resampled, affine.weight[place]) + affine.bias[place])
        rows.append(of_projection(run.student, kind, layer, item.student)[counted])
        targets.append(torch.stack(mapped)[:, counted])
        covered.append(covers[:, counted])
    return torch.cat(rows), torch.cat(targets, 1), torch.cat(covered, 1)


def shares_by_hand(fusion, rows, targets, covered):
    """Return the teachers' weights [A, N]: fixed 3 : 1, by similarity at temperature 0.1, or of an untrained router."""
    cosines = (rows * targets).sum(-1) / rows.norm(dim=-1) / targets.norm(dim=-1)
    given = {"fixed": torch.tensor([[3.0], [1.0]]), "similarity": (cosines / 0.1).exp(), "learned": torch.ones(2, 1)}
    shares = given[fusion] * covered
    return shares / shares.sum(0)


def kv_by_hand(run, rows, target, kind, layer):
    scale = sum(fitted.scale[kind, layer] for fitted in run.fitted) / len(run.fitted)
    return (((rows - target) / scale) ** 2).mean()


@pytest.mark.parametrize("rule", ["exact", "floor", "ceil", "overlap", "linear", "nearest", "segment"])
def test_the_kv_loss_is_the_mean_over_rows_and_layers_under_every_time_rule(pair, tmp_path, rule):
    run = prepared(tmp_path / "run", pair | {"time": rule, "max_steps": 1})
    (items,) = run.data.step(0)
    expected = {}
    for kind in KINDS:
        layers = []
        for layer in range(2):
            rows, (target,), _ = by_hand(run, items, kind, layer)
            layers.append(kv_by_hand(run, rows, target, kind, layer))
        expected[kind] = float(torch.stack(layers).mean())
        scale = run.fitted[0].scale
        assert scale[kind, 0] != pytest.approx(scale[kind, 1], rel=0.01)  # or one unit would do for both
    (line,) = steps(run)
    assert sum(map(run.teachers.rows, items)) == len(rows) > 20
    for kind in KINDS:
        assert line[f"kv_{kind}"] == pytest.approx(expected[kind], rel=1e-4)


def test_the_cross_entropy_is_the_mean_over_predicted_tokens(pair, tmp_path):
    run = prepared(tmp_path / "run", pair | {"max_steps": 1})
    (items,) = run.data.step(0)
    ce, lengths = 0.0, [len(item.student) for item in items]
    for item in items:
        ids = torch.from_numpy(item.student.ids)
        with torch.no_grad():
            log_p = run.student.model(ids[None]).logits[0, :-1].double().log_softmax(-1)
        ce -= float(log_p.gather(1, ids[1:, None]).sum())
    (line,) = steps(run)
    assert line["ce"] == pytest.approx(ce / (sum(lengths) - 2), rel=1e-4)
    assert line["tokens"] == sum(lengths)


def test_held_out_cross_entropy_is_kept_by_document(pair, tmp_path):
    found = evaluated(prepared(tmp_path / "run", pair))
    rows = found["ce_by_document"]
    assert [len(rows), sum(n for _, n in rows)] == [found["documents"], found["tokens"]]
    assert sum(nats for nats, _ in rows) / found["tokens"] == pytest.approx(found["ce"], rel=1e-5)
    run = prepared(tmp_path / "again", pair)
    ids = torch.from_numpy(run.data.heldout[0].student.ids)
    run.student.model.eval()
    with torch.no_grad():
        log_p = run.student.model(ids[None]).logits[0, :-1].double().log_softmax(-1)
    assert rows[0][0] == pytest.approx(-float(log_p.gather(1, ids[1:, None]).sum()), rel=1e-4)


# --- the optimiser --------------------------------------------------------------------------------------------


def test_the_rate_of_every_step_is_the_schedules(pair, tmp_path):
    run = prepared(tmp_path / "run", pair | {"map": "structured"})
    found = steps(run)
    # Up in one step, then a cosine down to a tenth: cos 60° = 1/2, cos 120° = -1/2.
    assert [line["lr"] for line in found] == pytest.approx([1e-3, 1e-3 * 0.775, 1e-3 * 0.325, 1e-4])
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([1e-4, 3e-4])


def test_gradients_are_clipped_and_their_norm_before_that_is_told(pair, tmp_path):
    def gradient(name, most):
        run = prepared(tmp_path / name, pair | {"max_grad_norm": most, "max_steps": 1})
        seen = []
        of_all = run.accelerator.unwrap_model(run.learner).parameters
        run.optimizer.optimizer.register_step_pre_hook(
            lambda *_: seen.append(torch.cat([p.grad.flatten() for p in of_all() if p.grad is not None]))
        )
        (line,) = steps(run)
        return seen[0], line["grad_norm"]

    (whole, norm), (clipped, told) = gradient("whole", 1e6), gradient("clipped", 0.1)
    assert norm > 0.2
    assert [whole.norm().item(), told] == pytest.approx([norm, norm], rel=1e-4)
    torch.testing.assert_close(clipped, whole * 0.1 / norm, rtol=1e-3, atol=1e-7)


# --- accumulation, checkpointing, precision -------------------------------------------------------------------


def test_accumulation_equals_the_larger_batch(pair, tmp_path):
    large = prepared(tmp_path / "large", pair | {"batch_size": 4})
    found = steps(large)
    small = prepared(tmp_path / "small", pair | {"batch_size": 1, "gradient_accumulation_steps": 4})
    again = steps(small)
    assert len({len(item.student) for item in large.data.train}) > 5  # of different lengths, so means would differ
    assert losses(again) == pytest.approx(losses(found), rel=1e-4)
    for name in ("ce", "kv_key", "kv_value", "grad_norm", "variance_ratio_key", "effective_rank_value"):
        assert [line[name] for line in again] == pytest.approx([line[name] for line in found], rel=2e-3)


@pytest.mark.parametrize("two", [False, True])
def test_checkpointing_gives_the_same_losses_and_gradients(pair, tmp_path, two):
    settings = (with_two(pair) | {"fusion": "learned"}) if two else pair
    found = steps(prepared(tmp_path / "plain", settings))
    run = prepared(tmp_path / "twice", settings | {"gradient_checkpointing": True})
    again = steps(run)
    assert losses(again) == pytest.approx(losses(found), rel=1e-5)
    assert [line["grad_norm"] for line in again] == pytest.approx([line["grad_norm"] for line in found], rel=1e-4)


def test_checkpointing_keeps_fewer_activations(pair, tmp_path):
    def kept(run):
        sizes = {}
        batch = run.teachers.batch(run.data.train[:2], torch.device("cpu"))

        def pack(x):
            if not isinstance(x, torch.nn.Parameter):
                sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            found = run.learner(batch)
        return sum(sizes.values()), found

    plain, _ = kept(prepared(tmp_path / "plain", pair))
    less, _ = kept(prepared(tmp_path / "twice", pair | {"gradient_checkpointing": True}))
    assert less < 0.8 * plain


def test_bfloat16_trains_and_is_near(pair, tmp_path):
    found = steps(prepared(tmp_path / "full", pair))
    half = steps(prepared(tmp_path / "half", pair | {"precision": "bf16"}))
    assert losses(half) == pytest.approx(losses(found), rel=0.05)
    for name in ("variance_ratio_key", "effective_rank_value"):  # from float32 moments of the rounded keys and values
        assert [line[name] for line in half] == pytest.approx([line[name] for line in found], rel=0.02)


def test_a_step_that_the_scaler_skips_is_no_nan_of_the_run(pair, tmp_path):
    run = prepared(tmp_path / "run", pair | {"max_steps": 2})
    # Accelerate gives a processor no scaler; torch's own works there. Its first scale is too large, its second is not.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=1e-30)
    run.accelerator.scaler, run.optimizer = scaler, AcceleratedOptimizer(run.optimizer.optimizer, scaler=scaler)
    before = weights(run)
    loop = run.loop()
    line = loop.step(1)
    assert line["skipped"] and line["grad_norm"] is None and "skipped" in step_words(line, 1, 0.0)
    assert torch.equal(weights(run), before)
    line = loop.step(2)
    assert "skipped" not in line and line["grad_norm"] > 0 and not torch.equal(weights(run), before)


# --- maps and what is trained ---------------------------------------------------------------------------------


def test_a_student_as_its_own_teacher_has_no_kv_error(pair, tmp_path):
    for name, switches in (("ridge", {}), ("index", {"use_kv_projector": False, "use_safe_resample": False})):
        run = prepared(tmp_path / name, pair | {"teachers": [pair["student"]], **switches})
        before = evaluated(run)
        assert max(before["kv_key"], before["kv_value"]) < 1e-4, (name, before)
    assert evaluated(prepared(tmp_path / "other", pair))["kv_key"] > 0.1


def test_a_frozen_map_stays_and_the_student_moves(pair, tmp_path):
    run = prepared(tmp_path / "run", pair)
    module = run.fitted[0].maps["key", 0]
    before, student = module.weight.clone(), weights(run)
    steps(run)
    assert torch.equal(module.weight, before) and not torch.equal(weights(run), student)


def test_projector_only_leaves_the_student_and_learns(pair, tmp_path):
    run = prepared(tmp_path / "run", pair | {"map": "structured", "trainable": "projector", "max_steps": 20})
    student = torch.cat([p.detach().flatten() for p in run.student.model.parameters()])
    found = steps(run)
    assert torch.equal(torch.cat([p.flatten() for p in run.student.model.parameters()]), student)
    assert found[-1]["kv_key"] < found[0]["kv_key"] and found[-1]["kv_value"] < found[0]["kv_value"]
    assert found[0]["loss"] == pytest.approx(found[0]["kv_key"] + found[0]["kv_value"])  # a frozen ce is not in it


def test_a_structured_map_and_the_student_learn_together(pair, tmp_path):
    run = prepared(tmp_path / "run", pair | {"map": "structured", "max_steps": 10})
    found = steps(run)
    assert found[-1]["loss"] < found[0]["loss"]
    maps = run.accelerator.unwrap_model(run.learner).maps
    assert all(p.grad is None or p.requires_grad for p in maps.parameters()) and len(list(maps.parameters())) == 12


def test_lora_trains_its_adapters_alone(pair, tmp_path):
    run = prepared(tmp_path / "run", pair | {"trainable": "lora"})
    base = {n: p.detach().clone() for n, p in run.student.model.named_parameters() if "lora_" not in n}
    found = steps(run)
    after = dict(run.student.model.named_parameters())
    assert base and all(torch.equal(after[name], value) for name, value in base.items())
    assert any(p.any() for n, p in after.items() if "lora_B" in n) and found[-1]["kv_key"] is not None


@pytest.mark.parametrize("layers", ["cka", "heldout"])
def test_layers_chosen_by_the_data_are_those_that_the_student_was_cut_from(pair, tmp_path, layers):
    teacher = tiny_model("qwen2", tmp_path / "teacher", seed=1, num_hidden_layers=3)
    student = tiny_model("qwen2", tmp_path / "student", seed=2, num_hidden_layers=2)
    whole, first_two = (AutoModelForCausalLM.from_pretrained(name) for name in (teacher, student))
    first_two.load_state_dict(whole.state_dict(), strict=False)
    first_two.save_pretrained(student)
    settings = {"teachers": [teacher], "student": student, "layers": layers, "max_steps": 1}
    run = prepared(tmp_path / "run", pair | settings)
    # By depth, the second of two layers would learn from the third of three.
    if layers == "cka":
        assert run.fitted[0].layers == {(kind, layer): (layer,) for kind in KINDS for layer in range(2)}
    assert all(layer in chosen for (_, layer), chosen in run.fitted[0].layers.items())
    (line,) = steps(run)
    assert max(line["kv_key"], line["kv_value"]) < 1e-4


# --- several teachers, controls -------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["fixed", "similarity", "learned"])
def test_teachers_are_fused_over_the_rows_that_each_covers(pair, tmp_path, fusion):
    settings = {"fusion": fusion, "time": "exact"} | ({"fusion_weights": (3.0, 1.0)} if fusion == "fixed" else {})
    other = tiny_model("qwen3", tmp_path / "other", seed=2, num_hidden_layers=2, head_dim=24)  # and another vocabulary
    run = prepared(tmp_path / "run", pair | settings | {"teachers": [*pair["teachers"], other]})
    (items,) = run.data.step(0)
    kv, router, entropy = {kind: [] for kind in KINDS}, [], []
    for kind in KINDS:
        for layer in range(2):
            rows, targets, covered = by_hand(run, items, kind, layer)
            shares = shares_by_hand(fusion, rows, targets, covered)
            kv[kind].append(kv_by_hand(run, rows, (shares[..., None] * targets).sum(0), kind, layer))
            router.append(shares.mean(1))
            entropy.append(-torch.xlogy(shares, shares).sum(0).mean() / math.log(2))
    alone = (~covered).sum(1)
    assert alone.min() > 1 and alone[0] != alone[1]  # rows that one covers alone go to it
    found = steps(run)
    for kind in KINDS:
        assert found[0][f"kv_{kind}"] == pytest.approx(float(torch.stack(kv[kind]).mean()), rel=1e-4)
    assert found[0]["router"] == pytest.approx(torch.stack(router).mean(0).tolist(), rel=1e-3)
    assert found[0]["entropy"] == pytest.approx(float(torch.stack(entropy).mean()), rel=1e-3)
    assert all(sum(line["router"]) == pytest.approx(1, abs=1e-4) for line in found)
    assert fusion == "fixed" or found[0]["router"] != found[-1]["router"]


def test_the_same_teacher_twice_is_the_teacher_once(pair, tmp_path):
    once = steps(prepared(tmp_path / "once", pair))
    twice = steps(prepared(tmp_path / "twice", pair | {"teachers": pair["teachers"] * 2}))
    assert losses(twice) == pytest.approx(losses(once), rel=1e-4)


def test_the_entropy_term_pulls_both_ways(pair, tmp_path):
    def spread(entropy):
        settings = {"fusion": "learned", "entropy": entropy, "entropy_weight": 1.0, "map_lr": 0.05, "max_steps": 12}
        return steps(prepared(tmp_path / entropy, with_two(pair) | settings))[-1]["entropy"]

    assert spread("diverse") > spread("specialised") + 0.1


def test_a_run_without_teacher_has_ce_alone(pair, tmp_path, monkeypatch):
    run = prepared(tmp_path / "run", pair | {"control": "ce-only"})
    monkeypatch.setattr("kvlab.train.targets.capture", lambda *_: pytest.fail("a teacher was run"))
    found = steps(run)
    assert all(line["loss"] == line["ce"] and line["kv_key"] is None for line in found)
    assert found[0]["variance_ratio_key"] > 0


def test_a_shuffled_teacher_is_shuffled_in_training_only(pair, tmp_path):
    plain, shuffled = (prepared(tmp_path / c, pair | {"control": c}) for c in ("none", "shuffled-teacher"))
    assert evaluated(shuffled) == evaluated(plain)

    def rows(teachers, step):
        return teachers.batch(plain.data.train[:2], CPU, step=step).features[0]["key", 0]

    in_order = rows(plain.teachers, 1)
    other_seed = replace(shuffled.teachers, seed=1)
    mixed = [rows(shuffled.teachers, 1), rows(shuffled.teachers, 2), rows(other_seed, 1)]
    for n, one in enumerate(mixed):
        assert not any(torch.equal(one, other) for other in (in_order, *mixed[:n]))  # each step and seed has its own
        assert sorted(one.tolist()) == sorted(in_order.tolist())
    assert torch.equal(rows(shuffled.teachers, 1), mixed[0])


def test_a_random_teacher_has_other_weights(pair, tmp_path):
    plain, random = (prepared(tmp_path / c, pair | {"control": c}) for c in ("none", "random-teacher"))
    first, second = (next(r.teachers.models[0].model.parameters()) for r in (plain, random))
    assert first.shape == second.shape and not torch.equal(first, second)


# --- refused before any weight --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_kv_projector": False, "teachers": 1}, ["--use_kv_projector", "2 x 16 / 16", "2 x 24 / 24"]),
        ({"use_safe_resample": False}, ["--use_safe_resample", "out of bounds"]),
        ({"precision": "fp16", "device": "cpu"}, ["--bf16"]),
    ],
)
def test_impossible_runs_are_refused_before_weights_are_loaded(pair, tmp_path, monkeypatch, change, words):
    monkeypatch.setattr("kvlab.train.run.load", lambda *_: pytest.fail("weights were loaded"))
    if change.get("teachers"):
        change = change | {"teachers": with_two(pair)["teachers"][1:]}
    with pytest.raises(TrainError) as refused:
        prepared(tmp_path / "run", pair | change)
    assert all(word in str(refused.value) for word in words), refused.value


def test_too_little_data_is_refused(pair, tmp_path):
    (tmp_path / "two.jsonl").write_text('{"text": "one boat"}\n{"text": "two boats"}\n')
    with pytest.raises((TrainError, AlignError), match="three documents"):
        prepared(tmp_path / "run", pair | {"data": str(tmp_path / "two.jsonl")})


def test_documents_are_held_out_and_the_order_follows_the_seed(pair, tmp_path):
    first, again, other = (prepared(tmp_path / str(n), pair | {"seed": s}) for n, s in enumerate((0, 0, 1)))
    for run in (first, other):
        train, held = ({item.document.text for item in items} for items in (run.data.train, run.data.heldout))
        assert not train & held and len(train) + len(held) == 30
    assert (first.data.order == again.data.order).all() and not (first.data.order == other.data.order).all()
