"""The words of the Validation form: its choices and the names of its settings."""

from kvlab.language import phrase
from kvlab.request.time_rules import RULES

MAPS = {"ridge": phrase("ridge — closed form, frozen"), "structured": phrase("KVProjector — trained along")}
FUSIONS = {
    "fixed": phrase("fixed — the same everywhere"),
    "similarity": phrase("similarity — by likeness"),
    "learned": phrase("learned — a router"),
}
ENTROPIES = {
    "diverse": phrase("diverse — spread over the teachers"),
    "specialised": phrase("specialised — choose among them"),
}
TRAINABLE = {
    "full": phrase("the whole student"),
    "lora": phrase("LoRA adapters in the student"),
    "projector": phrase("the projector only"),
}
CONTROLS = {
    "none": phrase("none — the real run"),
    "ce-only": phrase("CE only — no teacher"),
    "shuffled-teacher": phrase("shuffled teacher"),
    "random-teacher": phrase("random teacher"),
}
KV_LOSSES = {
    "rows": phrase("rows — keys and values themselves"),
    "head-outputs": phrase("head outputs — what queries read"),
}
PRECISIONS = {
    "fp32": phrase("fp32 — full precision"),
    "bf16": phrase("bf16 — mixed precision"),
    "fp16": phrase("fp16 — mixed precision, GPU only"),
}
LOGS = {
    "none": phrase("none — on these pages only"),
    "tensorboard": phrase("TensorBoard — event files in the run’s folder"),
    "trackio": phrase("trackio — its project “kvlab”"),
}
LAYERS = {
    "depth": phrase("depth — proportional"),
    "cka": phrase("CKA — the most similar layer"),
    "heldout": phrase("held-out — the layers that explain best"),
}
TIMES = {name: rule.short or rule.words for name, rule in RULES.items() if not rule.per_head}
# Numbers under "Advanced", by topic: setting -> its name in the form.
STEPS = {
    "gradient_accumulation_steps": phrase("Gradient accumulation, forwards per step"),
    "lr": phrase("Learning rate of the student"),
    "map_lr": phrase("Learning rate of projector and router"),
    "warmup": phrase("Warm-up, share of the steps"),
    "max_grad_norm": phrase("Gradients clipped to norm"),
    "checkpoint_every": phrase("Steps between checkpoints"),
    "checkpoint_minutes": phrase("Minutes between checkpoints, at most"),
    "seed": phrase("Seed"),
}
LOSS = {
    "lambda_key": phrase("Weight of the K loss"),
    "lambda_value": phrase("Weight of the V loss"),
    "lambda_output": phrase("Weight of the loss on head outputs"),
    "entropy_weight": phrase("Weight of the entropy term"),
    "fusion_temperature": phrase("Temperature of similarity fusion"),
    "lora_rank": phrase("LoRA rank"),
}
DATA = {
    "fit_documents": phrase("Documents the map is fitted on"),
    "eval_documents": phrase("Held-out documents"),
    "max_tokens": phrase("Longest document, tokens"),
    "sinks": phrase("First tokens left out (sinks)"),
}
THRESHOLDS = {
    "converged": phrase("Half time: last 5 losses over the first, below"),
    "stable": phrase("End: loss over that at half time, up to"),
    "spike": phrase("A spike: times the median before it"),
    "spikes": phrase("Share of steps that may be spikes"),
    "memory": phrase("Peak memory, share of the device, below"),
    "variance": phrase("Variance of student K and V, at least"),
    "rank": phrase("Effective rank of student K and V, at least"),
}
