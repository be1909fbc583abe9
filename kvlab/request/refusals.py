"""Refuse training runs that geometries and timelines show to be impossible, before loading weights. No torch here."""

from collections.abc import Sequence
from importlib.util import find_spec

from kvlab.errors import TrainError
from kvlab.language import Message
from kvlab.request.time_rules import CAUSAL
from kvlab.request.train import TrainConfig
from kvlab.shapes import Geometry


def check_functional(config: TrainConfig) -> None:
    """Refuse the functional test with a rule that is not causal. Raises TrainError ``functional-looks-ahead``."""
    if not config.functional or (config.use_safe_resample and config.time in CAUSAL):
        return
    rule = config.time if config.use_safe_resample else Message("step i for step i (no --use_safe_resample)")
    raise TrainError(
        "functional-looks-ahead",
        expected=Message(
            "a causal time rule ({rules}) for the functional test, by which the teacher has read no more than the "
            "student",
            rules=CAUSAL,
        ),
        found=Message("{rule}, which may look ahead: a good continuation could then be told in advance", rule=rule),
        remedy=Message(
            "choose --time floor and --use_safe_resample, or run without the functional test (functional: false)"
        ),
    )


def check_log(config: TrainConfig) -> None:
    """Refuse a board whose package is missing. Raises TrainError ``log-missing``."""
    if config.log != "none" and find_spec(config.log) is None:
        raise TrainError(
            "log-missing",
            expected=Message("the package {name} for --log {name}", name=config.log),
            found=Message("it is not installed"),
            remedy=Message("pip install {name}, or leave --log out", name=config.log),
        )


def check(teachers: Sequence[Geometry], student: Geometry, use_kv_projector: bool, precision: str, device: str) -> None:
    """Refuse unequal shapes and fp16 on a processor. Raises TrainError ``shapes-differ``, ``precision-unsupported``."""
    if precision == "fp16" and device == "cpu":
        raise TrainError(
            "precision-unsupported",
            expected=Message("a GPU for --fp16"),
            found=Message("the processor, which has no mixed precision in float16"),
            remedy=Message("use --bf16, or leave the precision out (float32)"),
        )
    if use_kv_projector:
        return
    for teacher in teachers:
        if len({*teacher.layer_shapes, *student.layer_shapes}) > 1:
            wanted = {"name": student.name, "shape": _shapes(student)}
            raise TrainError(
                "shapes-differ",
                expected=Message("KV heads, key width and value width of {name}, {shape}, in every teacher", **wanted),
                found=Message("{shape} in {name}", shape=_shapes(teacher), name=teacher.name),
                remedy=Message(
                    "project them: --use_kv_projector (kv_alignment: use_head_projector: true in a config file)"
                ),
            )


def check_heads(config: TrainConfig, student: Geometry) -> None:
    """Refuse a KV loss on head outputs for a latent cache. Raises TrainError ``queries-unavailable``."""
    if config.on_outputs and student.latent:
        raise TrainError(
            "queries-unavailable",
            expected=Message("a cache of keys and values, from which a head's output follows"),
            found=Message("a latent cache in {name}", name=student.name),
            remedy=Message("take the KV loss on keys and values: --kv_loss rows"),
        )


def check_unquantised(student: Geometry) -> None:
    """Refuse to train quantised weights. Raises TrainError ``student-quantised``."""
    if student.quantised is not None:
        raise TrainError(
            "student-quantised",
            expected=Message("a student with unquantised weights, which are trained"),
            found=Message("{name}, quantised by {method}", name=student.name, method=student.quantised.method),
            remedy=Message("choose the model that it was made from; a teacher may be quantised"),
        )


def check_index(document: str, teacher: Geometry, length_t: int, length_s: int) -> None:
    """Refuse to read step i for step i beyond the teacher's timeline. Raises TrainError ``time-out-of-bounds``."""
    if length_t < length_s:
        student = {"steps": length_s, "document": document}
        available = {"steps": length_t, "name": teacher.name}
        raise TrainError(
            "time-out-of-bounds",
            expected=Message(
                "at least {steps} teacher steps for the {steps} of the student in document {document}", **student
            ),
            found=Message("{steps} of {name}: step {steps} would be index {steps} out of bounds", **available),
            remedy=Message(
                "resample the timeline: --use_safe_resample (kv_alignment: use_safe_resample: true in a file)"
            ),
        )


def _shapes(geometry: Geometry) -> list[str]:
    return [f"{heads} x {key} / {value}" for heads, key, value in dict.fromkeys(geometry.layer_shapes)]
