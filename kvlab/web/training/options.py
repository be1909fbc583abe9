"""The words of the Validation form: what each choice means, and what each setting is called."""

from __future__ import annotations

from kvlab.language import mark

MAPS = {
    "ridge": mark("ridge — closed form, frozen"),
    "structured": mark("KVProjector — trained along"),
}
FUSIONS = {
    "fixed": mark("fixed — the same everywhere"),
    "similarity": mark("similarity — by likeness"),
    "learned": mark("learned — a router"),
}
ENTROPIES = {
    "diverse": mark("diverse — spread over the teachers"),
    "specialised": mark("specialised — choose among them"),
}
TRAINABLE = {
    "full": mark("the whole student"),
    "lora": mark("LoRA adapters in the student"),
    "projector": mark("the projector only"),
}
CONTROLS = {
    "none": mark("none — the real run"),
    "ce-only": mark("CE only — no teacher"),
    "shuffled-teacher": mark("shuffled teacher"),
    "random-teacher": mark("random teacher"),
}
PRECISIONS = {
    "fp32": mark("fp32 — full precision"),
    "bf16": mark("bf16 — mixed precision"),
    "fp16": mark("fp16 — mixed precision, GPU only"),
}
LAYERS = {
    "depth": mark("depth — proportional"),
    "cka": mark("CKA — the most similar layer"),
    "heldout": mark("held-out — the layers that explain best"),
}
TIMES = {
    "floor": mark("floor — causal"),
    "exact": mark("exact — same last byte only"),
    "ceil": mark("ceil — looks ahead"),
    "overlap": mark("overlap — mean by shared bytes"),
    "linear": mark("linear — by position"),
    "nearest": mark("nearest — by position"),
    "segment": mark("segment — linear inside each part"),
}
# Numbers under "Advanced", by what they are about: setting -> its name in the form.
STEPS = {
    "gradient_accumulation_steps": mark("Gradient accumulation, forwards per step"),
    "lr": mark("Learning rate of the student"),
    "map_lr": mark("Learning rate of projector and router"),
    "warmup": mark("Warm-up, share of the steps"),
    "max_grad_norm": mark("Gradients clipped to norm"),
    "checkpoint_every": mark("Steps between checkpoints"),
    "seed": mark("Seed"),
}
LOSS = {
    "lambda_key": mark("Weight of the K loss"),
    "lambda_value": mark("Weight of the V loss"),
    "entropy_weight": mark("Weight of the entropy term"),
    "fusion_temperature": mark("Temperature of similarity fusion"),
    "lora_rank": mark("LoRA rank"),
}
DATA = {
    "fit_documents": mark("Documents the map is fitted on"),
    "eval_documents": mark("Held-out documents"),
    "max_tokens": mark("Longest document, tokens"),
    "sinks": mark("First tokens left out (sinks)"),
}
THRESHOLDS = {
    "converged": mark("Half time: last 5 losses over the first, below"),
    "stable": mark("End: loss over that at half time, up to"),
    "spike": mark("A spike: times the median before it"),
    "spikes": mark("Share of steps that may be spikes"),
    "memory": mark("Peak memory, share of the device, below"),
    "variance": mark("Variance of student K and V, at least"),
    "rank": mark("Effective rank of student K and V, at least"),
}
