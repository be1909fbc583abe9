"""Forecast the memory of a training run or a refinement, in parts, from the models' configurations. No torch here.

Sizes follow from what stays in memory and for how long; docs/training.md compares them with measurements.
T is the tokens of a padded micro-batch (documents x longest timeline), and per layer of the student

    kept for the backward pass [numbers per token]: 6 hidden (two norms: input, normed, scaled), 4 attention
    (rotated queries, keys and values repeated to the query heads, output), 4 feed-forward (gate, its SiLU, up, product)

for the Llama-like block of transformers with scaled-dot-product attention, which never keeps T x T scores.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kvlab.host.memory import DTYPE_ALIASES, LIMIT, DeviceMemory, model_memory, readable
from kvlab.host.weights import loaded_in, weight_bytes
from kvlab.language import Message, say
from kvlab.request.align import MOST_FEATURES, AlignSettings
from kvlab.request.inject import COMPONENTS, REFINED_DOCUMENTS
from kvlab.request.sums_size import blocks, layer_widths, unions_of
from kvlab.request.train import TrainConfig
from kvlab.shapes import KINDS, Geometry

SINGLE, DOUBLE = 4, 8  # bytes of a number in float32 and float64
CLASSES = 2  # of rows, each with its own sums and its own correction: exact ones, and those inside a teacher token
SCORES = 3  # copies of a layer's attention scores: before and after the softmax, and what is summed of them
LOGITS = 3  # copies at the peak: logits, those of the predicted tokens, their log-softmax
SOLVED = 16  # square matrices of the features at the peak: sums of some pairs of folds about their means, factors
LIBRARIES = {"cpu": 64 * 2**20, "cuda": 600 * 2**20}  # allowance: code paged in, thread pools; the CUDA context
ALLOCATOR = 1.15  # allowance, upper bound: free blocks that the allocator holds


@dataclass(frozen=True)
class Part:
    """One part of the forecast. ``name`` is a key of the translation; ``model`` names a teacher's own part."""

    name: str
    bytes: int
    model: str | None = None


@dataclass(frozen=True)
class TrainingForecast:
    """Bytes above the memory in use before the models are loaded.

    ``total`` is the size of the largest phase (``phase``), not the sum of all parts. ``lower`` counts weights and
    optimiser alone; ``upper`` counts everything of a phase at once and the allocator's free blocks.
    """

    parts: tuple[Part, ...]
    phase: str  # "fitting the map" | "training"
    total: int
    lower: int
    upper: int
    documents: int  # of a forward
    tokens: int  # longest timeline of a document

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def training_memory(
    teachers: Sequence[Geometry],
    student: Geometry,
    config: TrainConfig,
    tokens: int | None = None,
    device: str = "cpu",
    processes: int = 1,
) -> TrainingForecast:
    """Forecast a run's peak on one device, for timelines of up to ``tokens`` (default: the longest allowed)."""
    tokens = min(tokens or config.max_tokens, config.max_tokens)
    documents = -(-config.batch_size // processes)
    standing, passing, late = _training(teachers, student, config, documents * tokens)
    fitting = _fitting(teachers, student, config, tokens)
    libraries = Part("libraries", LIBRARIES["cuda" if device.startswith("cuda") else "cpu"])
    precision = DTYPE_ALIASES[config.precision]
    kept = [replace(teacher, quantised=loaded_in(teacher, config.load_in)) for teacher in teachers]
    weights = [Part("teacher weights", weight_bytes(t, precision, device), t.name) for t in kept]
    weights.append(Part("student weights", SINGLE * student.parameters))
    fixed = _sum(weights) + libraries.bytes
    # Gradients appear while the activations disappear, so the peak holds one or the other. With accumulation the
    # gradients stay through the next forward, so it holds both.
    gradients = _sum(late)
    accumulates = config.gradient_accumulation_steps > 1
    in_step = _sum(passing) + gradients if accumulates else max(_sum(passing), gradients)
    train = fixed + _sum(standing) + in_step
    fit = fixed + _sum(fitting)
    phase = "training" if train >= fit else "fitting the map"
    upper = max(fixed + _sum(standing) + _sum(passing) + gradients, fit) * ALLOCATOR
    lower = _sum(weights) + _sum(standing)
    return TrainingForecast(
        parts=tuple(part for part in (*weights, *standing, *late, *passing, *fitting, libraries) if part.bytes),
        phase=phase,
        total=max(train, fit),
        lower=lower,
        upper=int(upper),
        documents=documents,
        tokens=tokens,
    )


def room_of_training(
    teachers: Sequence[Geometry], student: Geometry, config: TrainConfig, tokens: int, device: str, processes: int = 1
) -> int:
    """Return what a run takes on its device besides the weights of teachers that are spread over several."""
    forecast = training_memory(teachers, student, config, tokens, device, processes)
    return forecast.upper - sum(part.bytes for part in forecast.parts if part.name == "teacher weights")


def refined_documents(documents: int, folds: int) -> int:
    """Count the documents that maps are refined on, at most: those of all folds but the judged one."""
    return min(REFINED_DOCUMENTS, documents - -(-documents // min(folds, max(documents, 1))))


def refining_memory(
    student: Geometry, sources: int, tokens: int, dtype: str = "float32", held: int = 0
) -> tuple[Part, ...]:
    """Forecast what refining takes besides models and maps, at most, all at once.

    ``held``: bytes of the fitted documents as read, of their rows and of the whitening. ``tokens``: of the longest
    document; one is in a pass.
    """
    numbers = CLASSES * COMPONENTS * student.kv_values_per_token  # of a source's correction, the largest possible
    width = SINGLE if dtype == "float32" else 3
    return (
        Part("trained weights", SINGLE * numbers * (sources + 1)),  # of all, and the best so far of the one in training
        Part("optimizer", 2 * SINGLE * numbers),
        Part("gradients", SINGLE * numbers),
        Part("activations", int(width * tokens * _kept_by_a_layer(student) * student.layers)),
        Part("logits", 2 * LOGITS * SINGLE * student.vocabulary * tokens),  # of the own cache and of the replaced one
        Part("kv", held),
    )


def sentence(forecast: TrainingForecast, memory: DeviceMemory, config: TrainConfig) -> str:
    """Say the forecast in one line for the log. Above LIMIT of the device, also say what to change."""
    used = memory.total - memory.free
    share = (used + forecast.total) / memory.total
    sizes = {"forecast": forecast.total, "lower": forecast.lower, "upper": forecast.upper}
    sizes |= {"used": used, "total": memory.total}
    words = Message(
        "memory forecast: {forecast} ({lower} to {upper}) while fitting the map, for timelines of up to {tokens} "
        "tokens; with {used} in use now, {share:.0%} of {total} on {device}"
        if forecast.phase == "fitting the map"
        else "memory forecast: {forecast} ({lower} to {upper}) while training, for timelines of up to {tokens} tokens; "
        "with {used} in use now, {share:.0%} of {total} on {device}",
        tokens=forecast.tokens,
        share=share,
        device=memory.device,
        **{name: readable(size) for name, size in sizes.items()},
    )
    if share < LIMIT:
        return str(words)
    warning = {"forecast": words, "limit": LIMIT, "changes": smaller(config)}
    return say("{forecast}. WARNING: above {limit:.0%}; to take less: {changes}", **warning)


def smaller(config: TrainConfig) -> list[Message | str]:
    """List the changes that save memory and that ``config`` does not have yet."""
    changes: list[Message | str] = []
    if config.batch_size > 1:
        flags = "--batch_size 1 --gradient_accumulation_steps 4"
        changes.append(Message("batch size 1 with 4 accumulation steps ({flags})", flags=flags))
    if not config.gradient_checkpointing:
        changes.append("--gradient_checkpointing")
    if config.trainable == "full":
        changes.append("--trainable lora")
    return [*changes, f"--max_tokens {max(2, config.max_tokens // 2)}"]


def _trained(teachers: Sequence[Geometry], student: Geometry, config: TrainConfig) -> tuple[int, int]:
    """Count the trained numbers: in the student itself, and beside it (adapters, trainable maps, router)."""
    inside = student.parameters if config.trainable == "full" else 0
    beside = 0
    if config.trainable == "lora":
        q, k, v, o, up = _widths(student)
        h = student.hidden
        linear = [(h, q), (h, k), (h, v), (o, h), (h, up), (h, up), (up, h)]
        beside += int(config.lora_rank * student.layers * sum(a + b for a, b in linear))
    if config.map == "structured" and config.use_kv_projector and config.learns_kv:
        # A head-mixing matrix and a width projection for keys and for values of every student layer.
        beside += sum(
            heads * 2 * teacher.kv_heads + teacher.key_width * key + teacher.value_width * value
            for teacher in teachers
            for heads, key, value in student.layer_shapes
        )
    if config.fusion == "learned" and len(teachers) > 1 and config.learns_kv:
        beside += sum(heads * (k + v) * len(teachers) for heads, k, v in student.layer_shapes)
    return inside, beside


def _widths(geometry: Geometry) -> tuple[int, int, int, int, float]:
    """Return the widths of queries, keys, values, attention output and feed-forward.

    The feed-forward's width is an estimate from the parameters that remain without attention and embeddings. It
    assumes a gated feed-forward of three matrices, and the mean of tied and untied embeddings.
    """
    queries, output = geometry.query_heads * geometry.key_width, geometry.query_heads * geometry.value_width
    keys, values = geometry.kv_heads * geometry.key_width, geometry.kv_heads * geometry.value_width
    attention = geometry.hidden * (queries + keys + values + output)
    embeddings = 1.5 * geometry.vocabulary * geometry.hidden
    left = (geometry.parameters - embeddings) / geometry.layers - attention
    return queries, keys, values, output, max(left / (3 * geometry.hidden), geometry.hidden)


def _training(
    teachers: Sequence[Geometry], student: Geometry, config: TrainConfig, tokens: int
) -> tuple[list[Part], list[Part], list[Part]]:
    """Return the parts of one batch: those of the whole step, those from the forward on, and the gradients."""
    inside, beside = _trained(teachers, student, config)
    standing = [
        Part("trained weights", SINGLE * beside),
        Part("optimizer", 2 * SINGLE * (inside + beside)),
        Part("maps", SINGLE * _maps(teachers, student, config)),
    ]
    logit_bytes = LOGITS * SINGLE if config.precision == "fp32" else 2 + 2 * SINGLE
    passing = [_activations(student, config, tokens), Part("logits", logit_bytes * student.vocabulary * tokens)]
    if config.learns_kv:
        passing += _kv(teachers, student, config, tokens)
    squares = sum((heads * key) ** 2 + (heads * value) ** 2 for heads, key, value in student.layer_shapes)
    passing.append(Part("moments", SINGLE * squares))
    return standing, passing, [Part("gradients", SINGLE * (inside + beside))]


def _kept_by_a_layer(student: Geometry) -> float:
    """Count the numbers per token that a layer keeps for the backward pass."""
    q, k, v, o, up = _widths(student)
    return 6 * student.hidden + 3 * q + o + k + v + 4 * up


def _activations(student: Geometry, config: TrainConfig, tokens: int) -> Part:
    # Autocast halves only the inputs of matrix products; norms and activation functions stay in float32.
    width = SINGLE if config.precision == "fp32" else 3
    layer = _kept_by_a_layer(student)
    if config.trainable == "projector":  # no backward through the student: one layer at a time
        return Part("activations recomputed", int(width * tokens * layer))
    if config.trainable == "lora":  # frozen norms need no inputs for their own weights
        layer += 7 * config.lora_rank - 2 * student.hidden
    if config.gradient_checkpointing:
        inputs = student.layers * student.hidden * SINGLE
        return Part("activations recomputed", int(tokens * (inputs + width * layer)))
    return Part("activations", int(width * tokens * layer * student.layers))


def _kv(teachers: Sequence[Geometry], student: Geometry, config: TrainConfig, tokens: int) -> list[Part]:
    """Return the student's rows and differences, and the teachers' features and targets."""
    values = student.kv_values_per_token
    # Of the student: keys and values before RoPE, the rows, and the scaled difference.
    rows = SINGLE * tokens * 3 * values
    features = sum(_features(teacher, student, config) for teacher in teachers)
    targets = len(teachers) + (1 if len(teachers) > 1 else 0)  # one per teacher, and their fusion
    parts = [Part("kv", rows), Part("targets", SINGLE * tokens * (features + targets * values))]
    return [*parts, _outputs(student, tokens)] if config.on_outputs else parts


def _outputs(student: Geometry, tokens: int) -> Part:
    """Return what attending to the own and the projected cache keeps; scaled-dot-product attention keeps no scores.

    Per layer the queries and, for the backward pass, keys turned again, keys and values repeated to the query heads,
    outputs, and outputs of the rows and their difference to the target.
    """
    q, k, _, o, _ = _widths(student)
    return Part("outputs", SINGLE * tokens * len(student.kv_layers) * (2 * q + k + 4 * o))


def _layers_beside(teacher: Geometry, config: TrainConfig, width: int) -> int:
    """Count the teacher layers, of this many features each, that may stand side by side for one student layer."""
    if config.layers != "heldout":
        return 1
    return max(1, min(len(teacher.kv_layers), MOST_FEATURES // width))


def _sets(teacher: Geometry, student: Geometry, config: TrainConfig) -> list[tuple[int, int]]:
    """List, for keys and for values, the features of one student layer and how many sets of them differ."""
    sets = []
    for width in (teacher.kv_heads * teacher.key_width, teacher.kv_heads * teacher.value_width):
        beside = _layers_beside(teacher, config, width)
        # All layers are one set, which every student layer shares.
        count = 1 if beside == len(teacher.kv_layers) else min(len(student.kv_layers), len(teacher.kv_layers))
        sets.append((beside * width, count))
    return sets


def _features(teacher: Geometry, student: Geometry, config: TrainConfig) -> int:
    """Count the numbers per row of the teacher layers that student layers learn from."""
    return sum(features * count for features, count in _sets(teacher, student, config))


def _maps(teachers: Sequence[Geometry], student: Geometry, config: TrainConfig) -> int:
    if config.map != "ridge" or not config.use_kv_projector:
        return 0
    return CLASSES * sum(_cross(teacher, student, config) for teacher in teachers)


def _cross(teacher: Geometry, student: Geometry, config: TrainConfig) -> int:
    """Count the numbers of X'Y of every student layer."""
    (keys, _), (values, _) = _sets(teacher, student, config)
    return sum(heads * (keys * key + values * value) for heads, key, value in student.layer_shapes)


def _fitting(teachers: Sequence[Geometry], student: Geometry, config: TrainConfig, tokens: int) -> list[Part]:
    """Return the float64 sums of every fold and part, and one batch as all models read it."""
    settings = AlignSettings()
    fold_tokens = -(-config.fit_documents // settings.folds) * tokens  # a batch belongs to one fold
    batch = max(tokens, min(settings.batch_tokens, fold_tokens))
    width = DTYPE_ALIASES[config.precision]
    passes = [model_memory(t, width, 1, batch).activation_bytes for t in teachers]
    reading = model_memory(student, "float32", 1, batch).activation_bytes
    if config.row_weights == "attention":  # of the student's queries over its keys, one layer at a time
        reading += SINGLE * SCORES * student.query_heads * batch * tokens
    passes.append(reading)
    values = sum(g.kv_values_per_token for g in (*teachers, student))
    caches = SINGLE * batch * values
    if config.layers != "depth":  # the rows on which layers are chosen
        caches += SINGLE * min(settings.sample_tokens + batch, config.fit_documents * tokens) * values
    widest = max((features for teacher in teachers for features, _ in _sets(teacher, student, config)), default=0)
    solving = DOUBLE * SOLVED * widest**2
    return [
        Part("statistics", DOUBLE * sum(_sums(t, student, config) for t in teachers) * settings.folds * CLASSES),
        Part("fit", caches + max(passes) + solving),
    ]


def _sums(teacher: Geometry, student: Geometry, config: TrainConfig) -> int:
    """Count the numbers per fold and class: X'X of the teacher layers, X'Y of each student layer.

    Weights differ by student layer: beside the sums of the scored rows each layer has its own of the fitted ones.
    """
    grams = sum(blocks(layer_widths(teacher, kind), unions_of(teacher, student, kind, config.layers)) for kind in KINDS)
    cross = _cross(teacher, student, config)
    if config.row_weights == "attention":
        grams += sum(len(student.kv_layers) * features**2 for features, _ in _sets(teacher, student, config))
        cross *= 2
    return grams + cross


def _sum(parts: Sequence[Part]) -> int:
    return sum(part.bytes for part in parts)
