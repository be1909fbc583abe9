"""Forecast the memory of an analysis, on the device and on the host, from the models' configurations. No torch here.

On a GPU only one fold's sums lie on the device, and the sample's rows lie on the host; on a processor both are one.
docs/benchmarks.md compares the forecast with measured peaks.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kvlab.errors import AlignError
from kvlab.host.memory import DeviceMemory, dtype_name, model_memory, readable
from kvlab.host.weights import loaded_in
from kvlab.language import Message, phrase
from kvlab.request.align import AlignSettings, AnalysisRequest
from kvlab.request.forecast import CLASSES, DOUBLE, LIBRARIES, SINGLE, Part
from kvlab.request.sums_size import (
    GATHERED_BYTES,
    LARGE_BYTES,
    MOST_OF_A_TOKEN,
    ROWS_IN_DOUBLE,
    TOKENS_BEFORE,
    blocks,
    layer_widths,
    target_widths,
    unions_of,
)
from kvlab.shapes import KINDS, Document, Geometry

MATRICES, OF_LARGE = 20, 11  # of the features, beside those of the folds: sums without every pair of folds, factors
FREE = 0.3  # allowance: free blocks that the allocator holds, for what passes
SOLUTIONS = 8  # matrices of features and targets
NAMES = {
    "weights": phrase("weights of {name}"),
    "random": phrase("weights and rows of the random-weights control"),
    "sums": phrase("sums of all folds"),
    "fold": phrase("sums of the fold in hand"),
    "sample": phrase("rows of the sample"),
    "batch": phrase("one batch"),
    "solving": phrase("one problem as it is solved"),
    "maps": phrase("maps of every fold"),
    "libraries": phrase("libraries"),
    "allocator": phrase("blocks that the allocator holds free"),
}


# Flags that take less memory, the one that costs least in accuracy first.
SMALLER: dict[str, dict[str, Any]] = {
    "--folds 3": {"folds": 3},
    "--batch-tokens 1024 --sample-tokens 5000": {"batch_tokens": 1024, "sample_tokens": 5000},
    "--layers depth": {"layers": "depth"},
    "--layers depth --folds 3 --batch-tokens 1024 --sample-tokens 5000": {
        "layers": "depth",
        "folds": 3,
        "batch_tokens": 1024,
        "sample_tokens": 5000,
    },
}


@dataclass(frozen=True)
class AnalysisForecast:
    """Bytes at the peak, above the memory in use before the models are loaded.

    On a processor everything is on the host and ``device`` is empty.
    """

    name: str  # of the device
    device: tuple[Part, ...]
    host: tuple[Part, ...]

    @property
    def device_bytes(self) -> int:
        return sum(part.bytes for part in self.device)

    @property
    def host_bytes(self) -> int:
        return sum(part.bytes for part in self.host)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"device_bytes": self.device_bytes, "host_bytes": self.host_bytes}


def analysis_memory(
    teachers: Sequence[Geometry],
    student: Geometry,
    settings: AlignSettings,
    documents: int,
    tokens: int,
    device: str = "cpu",
    dtype: str = "auto",
) -> AnalysisForecast:
    """Forecast the peak for so many documents of up to ``tokens`` tokens."""
    tokens, dtype = min(tokens, settings.max_tokens), dtype_name(dtype, device)
    distinct = {geometry.name: geometry for geometry in (*teachers, student)}
    weights = [Part("weights", model_memory(g, dtype, 1, 1, device).parameter_bytes, g.name) for g in distinct.values()]
    folds = max(min(settings.folds, documents), 1)
    batch = max(tokens, min(settings.batch_tokens, -(-documents // folds) * tokens))
    rows = min(settings.sample_tokens + batch, documents * tokens)
    values = sum(g.kv_values_per_token for g in (*teachers, student))
    on_gpu = device.startswith("cuda")
    counts = [_sums(teacher, student, settings) for teacher in teachers]
    per_fold = DOUBLE * CLASSES * sum(squares + products for squares, products in counts)
    solving = max(DOUBLE * _widest(teacher, student, settings, folds, on_gpu) for teacher in teachers)
    number = SINGLE if on_gpu else DOUBLE  # of products and maps on the host
    maps = sum(number * CLASSES * folds * _maps(teacher, student, settings) for teacher in teachers)
    reading = max(model_memory(g, dtype, 1, batch).activation_bytes for g in distinct.values())
    reading += SINGLE * batch * values + DOUBLE * min(ROWS_IN_DOUBLE, batch * values // len(KINDS))
    random = rows_of_random = 0
    if settings.random_teacher:
        random = max(part.bytes for part in weights if part.model != student.name or len(weights) == 1)
        rows_of_random = SINGLE * rows * max(teacher.kv_values_per_token for teacher in teachers)
    sample = SINGLE * rows * values
    sums = CLASSES * folds * sum(DOUBLE * squares + number * products for squares, products in counts)
    libraries = Part("libraries", LIBRARIES["cuda" if on_gpu else "cpu"])
    # First the sample and its controls, then the other documents, at last the maps of every fold.
    if not on_gpu:
        controls = Part("random", random + rows_of_random)
        phases = (
            [Part("sums", sums), Part("sample", sample), controls, Part("solving", solving)],
            [Part("sums", sums), Part("batch", reading)],
            [Part("sums", sums), Part("maps", maps), Part("solving", solving)],
        )
        return AnalysisForecast(device, (), _largest(phases, weights, libraries))
    on_device = (
        [Part("fold", per_fold), Part("random", random), Part("batch", reading)],
        [Part("random", random), Part("solving", solving)],
    )
    on_host = (
        [Part("sums", sums), Part("sample", sample), Part("random", rows_of_random)],
        [Part("sums", sums), Part("maps", maps)],
    )
    host = _largest(on_host, [], Part("libraries", LIBRARIES["cpu"]))
    return AnalysisForecast(device, _largest(on_device, weights, libraries), host)


def _largest(phases: Sequence[list[Part]], always: Sequence[Part], libraries: Part) -> tuple[Part, ...]:
    parts = (*always, *max(phases, key=lambda parts: sum(part.bytes for part in parts)), libraries)
    free = Part("allocator", int(FREE * sum(part.bytes for part in parts if part.name in ("batch", "solving"))))
    return tuple(part for part in (*parts, free) if part.bytes)


def _token_widths(teacher: Geometry, student: Geometry) -> tuple[int, int]:
    return min(teacher.hidden, MOST_OF_A_TOKEN), min(student.hidden, MOST_OF_A_TOKEN)


def _sums(teacher: Geometry, student: Geometry, settings: AlignSettings) -> tuple[int, int]:
    """Count the numbers of one fold and class, as ``align.align_sums.AlignSums`` holds them: squares and products."""
    token, own = _token_widths(teacher, student)
    own_tokens = (1 + TOKENS_BEFORE) * own
    squares, products = token**2 + own_tokens**2, 0
    for kind in KINDS:
        widths, unions = layer_widths(teacher, kind), unions_of(teacher, student, kind, settings.layers)
        used = {layer for union in unions for layer in union}
        squares += blocks(widths, unions) + own**2 + own * sum(widths[layer] for layer in used)
        for union, target, (heads, *_) in zip(unions, target_widths(student, kind), student.layer_shapes):
            features = sum(widths[layer] for layer in union) + own
            squares += target**2 // heads
            products += (features + token + own_tokens) * target
            if settings.row_weights != "equal":  # the fitted rows by themselves, which weigh otherwise in every layer
                squares += features**2 + (token**2 + own_tokens**2) * (kind == KINDS[0])  # tokens: of both kinds
                products += (features + token + own_tokens) * target
    return squares, products


def _widest(teacher: Geometry, student: Geometry, settings: AlignSettings, folds: int, on_gpu: bool) -> int:
    """Count the numbers at the peak of a solution: matrices of the features, and of features and targets."""
    most = 0
    own = _token_widths(teacher, student)[1]
    for kind in KINDS:
        widths, unions = layer_widths(teacher, kind), unions_of(teacher, student, kind, settings.layers)
        targets = target_widths(student, kind)
        for union in set(unions):
            features = sum(widths[layer] for layer in union) + own
            # Real and shuffled targets of all layers that share the features.
            alike = 2 * sum(target for other, target in zip(unions, targets) if other == union)
            gathered = min(CLASSES * folds * features**2, GATHERED_BYTES // DOUBLE)
            # On a GPU the random weights' sums come to the device for one class at a time.
            classes = 1 if on_gpu else CLASSES
            own_sums = classes * folds * (features**2 + features * alike // 2) if settings.random_teacher else 0
            shuffled = CLASSES * folds * features * alike // 2
            squares = (OF_LARGE if DOUBLE * features**2 > LARGE_BYTES else MATRICES) * features**2
            most = max(most, gathered + own_sums + shuffled + squares + SOLUTIONS * features * alike)
    return most


def _maps(teacher: Geometry, student: Geometry, settings: AlignSettings) -> int:
    """Count the numbers of one fold's maps of one class."""
    own = _token_widths(teacher, student)[1]
    count = 0
    for kind in KINDS:
        widths, unions = layer_widths(teacher, kind), unions_of(teacher, student, kind, settings.layers)
        for union, target in zip(unions, target_widths(student, kind)):
            count += (sum(widths[layer] for layer in union) + own) * target
    return count


def lines(forecast: AnalysisForecast, device: DeviceMemory, host: DeviceMemory) -> list[Message]:
    """Say what is needed where, of how much, and its parts."""
    said = []
    for memory, parts in places(forecast, device, host):
        needed = sum(part.bytes for part in parts)
        words = (
            phrase("Memory on {device}: about {needed} at the peak; {free} of {total} is free.")
            if needed < memory.free
            else phrase("Memory on {device}: about {needed} at the peak, more than the {free} of {total} that is free.")
        )
        sizes = {"needed": readable(needed), "free": readable(memory.free), "total": readable(memory.total)}
        said.append(Message(words, device=memory.device, **sizes))
        for part in sorted(parts, key=lambda part: -part.bytes):
            size = f"{readable(part.bytes):>9}"
            said.append(Message(phrase("  {size} {name}"), size=size, name=name_of(part)))
    return said


@dataclass(frozen=True)
class Way:
    """Settings with which an analysis takes less."""

    flags: str  # of the command line
    changes: dict[str, Any]  # of AlignSettings; ``load_in`` of the request
    bytes: int  # at the peak, of the larger memory


def size_of(
    request: AnalysisRequest,
    documents: Sequence[Document],
    teachers: Sequence[Geometry],
    student: Geometry,
    tokens: int | None = None,
) -> dict[str, Any]:
    """Return what the memory of an analysis follows from, as the other functions of this file take it.

    ``tokens`` of the longest document; without, its text is taken for tokens of two characters.
    """
    return {
        "teachers": [replace(teacher, quantised=loaded_in(teacher, request.load_in)) for teacher in teachers],
        "student": student,
        "settings": request.settings,
        "documents": len(documents),
        "tokens": tokens or max(len(document.text) for document in documents) // 2 + 1,
        "dtype": request.dtype,
    }


def ways_that_fit(
    teachers: Sequence[Geometry],
    student: Geometry,
    settings: AlignSettings,
    documents: int,
    tokens: int,
    device: DeviceMemory,
    host: DeviceMemory,
    dtype: str = "auto",
    room: str = "free",
) -> list[Way]:
    """Return the settings of ``SMALLER``, and teachers of 4 bits, that fit into the ``room`` ("free" or "total")."""

    def forecast(teachers: Sequence[Geometry], **changes: Any) -> AnalysisForecast:
        smaller = settings.model_copy(update=changes)
        return analysis_memory(teachers, student, smaller, documents, tokens, device.device, dtype)

    tried = [(flags, changes, forecast(teachers, **changes)) for flags, changes in SMALLER.items()]
    if not any(teacher.quantised for teacher in teachers):
        in_four = [replace(teacher, quantised=loaded_in(teacher, "4bit")) for teacher in teachers]
        tried.append(("--load-in 4bit", {"load_in": "4bit"}, forecast(in_four)))
    return [
        Way(flags, changes, max(found.device_bytes, found.host_bytes))
        for flags, changes, found in tried
        if not lacking(found, device, host, room)
    ]


def lacking(
    forecast: AnalysisForecast, device: DeviceMemory, host: DeviceMemory, room: str
) -> list[tuple[DeviceMemory, int]]:
    """Return the memories whose ``room`` ("free" or "total") is less than the forecast, and the bytes needed there."""
    needs = [(memory, sum(part.bytes for part in parts)) for memory, parts in places(forecast, device, host)]
    return [(memory, needed) for memory, needed in needs if needed > getattr(memory, room)]


def refuse_too_large(
    teachers: Sequence[Geometry],
    student: Geometry,
    settings: AlignSettings,
    documents: int,
    tokens: int,
    device: DeviceMemory,
    host: DeviceMemory,
    dtype: str = "auto",
) -> None:
    """Raise AlignError ``analysis-too-large`` where a whole memory is less than the forecast; name what fits."""
    # Where random weights do not fit beside the teacher, the analysis goes on without them and says so.
    settings = settings.model_copy(update={"random_teacher": False})
    asked = analysis_memory(teachers, student, settings, documents, tokens, device.device, dtype)
    if not (short := lacking(asked, device, host, "total")):
        return
    memory, needed = short[0]
    ways = ways_that_fit(teachers, student, settings, documents, tokens, device, host, dtype, "total")
    remedies = [Message("{flag} (about {size})", flag=way.flags, size=readable(way.bytes)) for way in ways]
    largest = max(asked.device or asked.host, key=lambda part: part.bytes)
    raise AlignError(
        "analysis-too-large",
        expected=Message(
            "an analysis that fits into the {total} of {device}", total=readable(memory.total), device=memory.device
        ),
        found=Message(
            "about {needed} at the peak, of which {largest}: {size}",
            needed=readable(needed),
            largest=name_of(largest),
            size=readable(largest.bytes),
        ),
        remedy=Message("choose what fits: {remedies}", remedies=remedies)
        if remedies
        else Message("take smaller models, or a larger device"),
    )


def name_of(part: Part) -> Message:
    """Name what a part of the forecast holds."""
    return Message(NAMES[part.name], name=part.model) if part.model else Message(NAMES[part.name])


def places(
    forecast: AnalysisForecast, device: DeviceMemory, host: DeviceMemory
) -> list[tuple[DeviceMemory, tuple[Part, ...]]]:
    return [*([(device, forecast.device)] if forecast.device else []), (host, forecast.host)]
