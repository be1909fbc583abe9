"""Define the three demo models, and train one from scratch on fresh word problems."""

import random
import time
from collections.abc import Callable, Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from kvlab.demo.corpus import endless, text_of

MAX_POSITIONS = 2048
FIELDS = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SHAPES = {
    "teacher": dict(zip(FIELDS, ("qwen2", 192, 512, 6, 12)), num_key_value_heads=12),
    "teacher-b": dict(zip(FIELDS, ("qwen3", 160, 448, 5, 8)), num_key_value_heads=4, head_dim=24),
    "student": dict(zip(FIELDS, ("llama", 128, 320, 4, 4)), num_key_value_heads=2),
}
ROPE_BASE = {"teacher": 1e6, "teacher-b": 1e5, "student": 1e4}
STEPS = {"teacher": 4000, "teacher-b": 4000, "student": 3200}  # about an hour on one free core
LEARNING_RATE = {"teacher": 2e-3, "teacher-b": 2.5e-3, "student": 3e-3}
DATA_SEED = {"teacher": 1, "teacher-b": 2, "student": 3}
SEQUENCES_PER_STEP = {"teacher": 12, "teacher-b": 12, "student": 6}
CHUNK = 100  # steps whose sequences are bucketed by length together
JOINED_SHARE = 0.25
WARMUP = 0.03
COOLDOWN = 0.4


def new_model(name: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return the untrained model of that name, with the same initial weights each time."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        **SHAPES[name],
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE[name]},
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    return AutoModelForCausalLM.from_config(config)


def train(
    name: str,
    tokenizer: PreTrainedTokenizerFast,
    steps: int,
    minutes: float | None = None,
    watch: Callable[[PreTrainedModel], float] | None = None,
    model: PreTrainedModel | None = None,
    stage: int = 0,
) -> tuple[PreTrainedModel, dict]:
    """Train a model and return it with its history; `minutes` shortens the schedule to end in time.

    Continue training a given `model`; each `stage` has its own problems.
    """
    model = model or new_model(name, tokenizer)
    optimizer = _optimizer(model, LEARNING_RATE[name])
    batches = _batches(tokenizer, DATA_SEED[name] + 10 * stage, SEQUENCES_PER_STEP[name])
    history = {"steps": 0, "sequences_per_step": SEQUENCES_PER_STEP[name], "schedule": "plateau", "tokens": 0}
    history |= {"loss": [], "accuracy": []}
    recent: list[float] = []
    started, progress = time.monotonic(), 0.0
    while progress < 1:
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE[name] * _schedule(progress)
        loss, count = _step(model, next(batches), optimizer)
        recent.append(loss)
        history["steps"] += 1
        history["tokens"] += count
        progress_before = progress
        progress = history["steps"] / steps
        if minutes is not None:
            progress = max(progress, (time.monotonic() - started) / 60 / minutes)
        if history["steps"] % 50 == 0 or progress >= 1:
            history["loss"].append([history["steps"], round(sum(recent) / len(recent), 4)])
            speed = history["tokens"] / (time.monotonic() - started)
            print(f"{name} {progress:.3f} loss {history['loss'][-1]} {speed:.0f} tokens/s", flush=True)
            recent.clear()
        if watch and int(progress * 6) > int(progress_before * 6):
            history["accuracy"].append([history["steps"], round(watch(model), 4)])
            print(f"{name} answers right {history['accuracy'][-1]}", flush=True)
    history["seconds"] = round(time.monotonic() - started)
    return model, history


def _optimizer(model: PreTrainedModel, learning_rate: float) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)


def _schedule(progress: float) -> float:
    """Return the factor of the rate: linear warm-up, a long plateau, then a linear fall to nearly zero."""
    return min(progress / WARMUP + 0.02, 1.0, (1 - progress) / COOLDOWN + 0.01)


def _step(model: PreTrainedModel, batch: list[list[int]], optimizer: torch.optim.Optimizer) -> tuple[float, int]:
    longest = max(map(len, batch))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
    lengths = torch.tensor([len(row) for row in batch])
    # Padding on the right of a causal model needs no mask, only no loss.
    counted = torch.arange(1, longest) < lengths[:, None]
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][counted]
    loss = F.cross_entropy(model.lm_head(hidden), ids[:, 1:][counted])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item(), int(lengths.sum())


def _batches(tokenizer: PreTrainedTokenizerFast, seed: int, size: int) -> Iterator[list[list[int]]]:
    """Yield batches of sequences of similar length; a quarter of them are two documents joined by a blank line."""
    rng = random.Random(seed)
    texts = (text_of(problem) for problem in endless("train", seed))
    while True:
        chunk = ["\n\n".join(islice(texts, 1 + (rng.random() < JOINED_SHARE))) for _ in range(CHUNK * size)]
        rows = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(chunk)["input_ids"]]
        rows.sort(key=len)
        groups = [rows[at : at + size] for at in range(0, len(rows), size)]
        rng.shuffle(groups)
        yield from groups
