"""The words of the Validation form: what each choice means, and what each setting is called."""

from __future__ import annotations

MAPS = {
    "ridge": "ridge — closed form, frozen",
    "structured": "KVProjector — trained along",
}
FUSIONS = {
    "fixed": "fixed — the same everywhere",
    "similarity": "similarity — by likeness",
    "learned": "learned — a router",
}
ENTROPIES = {"diverse": "diverse — spread over the teachers", "specialised": "specialised — choose among them"}
TRAINABLE = {
    "full": "the whole student",
    "lora": "LoRA adapters in the student",
    "projector": "the projector only",
}
CONTROLS = {
    "none": "none — the real run",
    "ce-only": "CE only — no teacher",
    "shuffled-teacher": "shuffled teacher",
    "random-teacher": "random teacher",
}
PRECISIONS = {
    "fp32": "fp32 — full precision",
    "bf16": "bf16 — mixed precision",
    "fp16": "fp16 — mixed precision, GPU only",
}
LAYERS = {
    "depth": "depth — proportional",
    "cka": "CKA — the most similar layer",
    "heldout": "held-out — the layers that explain best",
}
TIMES = {
    "floor": "floor — causal",
    "exact": "exact — same last byte only",
    "ceil": "ceil — looks ahead",
    "overlap": "overlap — mean by shared bytes",
    "linear": "linear — by position",
    "nearest": "nearest — by position",
    "segment": "segment — linear inside each part",
}
# Numbers under "Advanced", by what they are about: setting -> its name in the form.
STEPS = {
    "gradient_accumulation_steps": "Gradient accumulation, forwards per step",
    "lr": "Learning rate of the student",
    "map_lr": "Learning rate of projector and router",
    "warmup": "Warm-up, share of the steps",
    "max_grad_norm": "Gradients clipped to norm",
    "checkpoint_every": "Steps between checkpoints",
    "seed": "Seed",
}
LOSS = {
    "lambda_key": "Weight of the K loss",
    "lambda_value": "Weight of the V loss",
    "entropy_weight": "Weight of the entropy term",
    "fusion_temperature": "Temperature of similarity fusion",
    "lora_rank": "LoRA rank",
}
DATA = {
    "fit_documents": "Documents the map is fitted on",
    "eval_documents": "Held-out documents",
    "max_tokens": "Longest document, tokens",
    "sinks": "First tokens left out (sinks)",
}
THRESHOLDS = {
    "converged": "Half time: last 5 losses over the first, below",
    "stable": "End: loss over that at half time, up to",
    "spike": "A spike: times the median before it",
    "spikes": "Share of steps that may be spikes",
    "memory": "Peak memory, share of the device, below",
    "variance": "Variance of student K and V, at least",
    "rank": "Effective rank of student K and V, at least",
}
