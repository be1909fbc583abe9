"""Write the student of a run as a folder that transformers opens: weights, tokenizer, generation config, model card.

The folder appears whole or not at all, and never in place of another one. Weights are in float32, as they were trained.
"""

import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import ModelCardData
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from kvlab.errors import TrainError
from kvlab.host import privacy
from kvlab.host.models import Source, first_line, resolve
from kvlab.language import Message
from kvlab.models.loading import load
from kvlab.request.settings import read
from kvlab.request.train import TrainConfig
from kvlab.results.training.facts import gather
from kvlab.results.training.report import card
from kvlab.runs import exports, locks, store, training
from kvlab.runs.job import Job
from kvlab.runs.run_queue import RUN_LOCK
from kvlab.shapes import LOADING, Progress, no_progress
from kvlab.train import checkpoint
from kvlab.train.run import lora_config

WEIGHTS, CARD = "model.safetensors", "README.md"
STUDENT, WRAPPED = "student.", "module."  # beginnings of the names in a checkpoint; the second with several processes
USAGE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # the folder of this file
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)"""


def export(
    folder: Path, to: Path, merged: bool = False, language: str = "en", progress: Progress = no_progress
) -> Path:
    """Write the student of the run's newest checkpoint to the folder ``to``, and return its absolute path.

    ``merged``: write a student trained with LoRA as a whole model instead of an adapter.
    Raises TrainError ``export-not-empty``, ``export-untrained``, ``export-no-checkpoint``, ``checkpoint-unfit``,
    ``student-changed``, RunError like ``training.ended``, and as ``load`` and ``checkpoint.written`` do.
    """
    training.ended(folder)
    to = to.expanduser().resolve()
    _check_empty(to)
    config = read(TrainConfig, folder)
    progress("reading the checkpoint", 0, 3)
    state, step = _trained(folder, config)
    weights = _student_weights(state / WEIGHTS)
    source = resolve(config.student)
    progress(f"{LOADING}{config.student}", 1, 3)
    loaded = load(config.student, "cpu", "float32")
    adapter = config.trainable == "lora" and not merged
    model = _filled(loaded.model, weights, config, source, merged)
    draft = to.with_name(f".{to.name}.{os.getpid()}.draft")
    progress("writing the model", 2, 3)
    with checkpoint.written(draft):
        draft.mkdir(parents=True)
        # peft would ask the Hub whether the vocabulary has grown; it never does here.
        model.save_pretrained(draft, **({"save_embedding_layers": False} if adapter else {}))
        loaded.tokenizer.save_pretrained(draft)
        if adapter and loaded.model.generation_config is not None:
            loaded.model.generation_config.save_pretrained(draft)
        (draft / CARD).write_text(_card(folder, config, source, step, adapter, language), encoding="utf-8")
        draft.rename(to)  # onto nothing or an empty folder; the system refuses any other
    return to


def beside(folder: Path, merged: bool = False, language: str = "en", progress: Progress = no_progress) -> Path:
    """Export into the run's own folder, named by the step of its checkpoint, unless that lies there already.

    Raises as ``export``, and ``run-busy``.
    """
    kind = "-merged" if merged else ""
    with locks.owned(folder / RUN_LOCK):
        to = folder / f"export-step-{checkpoint.saved_step(folder)}{kind}"
        if (to / CARD).is_file() and any(to.glob("*.safetensors")):
            return to.resolve()  # of this very checkpoint: a folder appears whole or not at all
        return export(folder, to, merged, language, progress)


def main() -> None:
    """Export beside a run, as ``runs.exports`` asks: FOLDER LANGUAGE [--merged]; its state is in the folder."""
    privacy.keep()
    folder, language, *flags = sys.argv[1:]
    job = Job(Path(folder) / exports.STATE, Message("the student to be exported"))
    job.perform(lambda _, progress: beside(Path(folder), "--merged" in flags, language, progress))


def _check_empty(to: Path) -> None:
    """Raises TrainError ``export-not-empty`` and RunError ``runs-unwritable``."""
    with store.disk_errors(to):
        empty = not to.exists() or (to.is_dir() and not any(to.iterdir()))
    if not empty:
        raise TrainError(
            "export-not-empty",
            expected=Message("a new or an empty folder for the model"),
            found=Message("something else at {place}: nothing is overwritten", place=to),
            remedy=Message("name another folder, or move that one away"),
        )


def _trained(folder: Path, config: TrainConfig) -> tuple[Path, int]:
    """Return the newest checkpoint with a trained student, and its step."""
    if config.trainable == "projector":
        raise TrainError(
            "export-untrained",
            expected=Message("a run that trains the student"),
            found=Message("one that trains the projector only: its student is still {name}", name=config.student),
            remedy=Message("launch a run with --trainable full or lora"),
        )
    state, step = checkpoint.newest(folder)
    if state is None:
        raise TrainError(
            "export-no-checkpoint",
            expected=Message("a checkpoint of the run in {folder}", folder=folder),
            found=Message("none"),
            remedy=Message("resume the run: it saves one when it is stopped, and at its end"),
        )
    return state, step


def _student_weights(file: Path) -> dict[str, torch.Tensor]:
    """Read the student's tensors of a checkpoint, by their names in the student."""
    weights = {}
    try:
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118, it is no dictionary
                inner = name.removeprefix(WRAPPED)
                if inner.startswith(STUDENT):
                    weights[inner.removeprefix(STUDENT)] = stored.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise _unfit(file, first_line(error)) from error
    return weights


def _filled(
    model: PreTrainedModel, weights: Mapping[str, torch.Tensor], config: TrainConfig, source: Source, merged: bool
) -> nn.Module:
    """Put the checkpoint's weights into the student; return it, or a peft model for an adapter."""
    if config.trainable != "lora":
        _fill(model, weights)
        return model
    from peft import get_peft_model

    with warnings.catch_warnings():  # peft asks for a property that transformers has renamed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        adapted = get_peft_model(model, lora_config(config.lora_rank))
    adapted.peft_config["default"].base_model_name_or_path = _place(source)
    inner = adapted.get_base_model()
    base = {name: tensor for name, tensor in inner.state_dict().items() if "lora_" not in name}
    changed = [name for name, tensor in base.items() if name in weights and not torch.equal(tensor, weights[name])]
    if changed and not merged:
        raise TrainError(
            "student-changed",
            expected=Message("the base model {name} as it was when the run trained its adapter", name=source.name),
            found=Message("{n} other tensors ({first}, ...)", n=len(changed), first=changed[0]),
            remedy=Message("export the whole model, whose base weights are in the checkpoint: --merged"),
        )
    _fill(inner, weights)
    return adapted.merge_and_unload() if merged else adapted


def _fill(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Load every weight. A tensor that the checkpoint lacks must be tied to one that it has."""
    try:
        missing, unknown = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # of other sizes
        raise _unfit(model.config.name_or_path, first_line(error)) from error
    state = model.state_dict()
    filled = {state[name].data_ptr() for name in weights if name in state}
    wrong = [name for name in missing if state[name].data_ptr() not in filled] + list(unknown)
    if wrong:
        names = {"n": len(wrong), "first": wrong[0]}
        raise _unfit(
            model.config.name_or_path, Message("{n} tensors that only one of them has ({first}, ...)", **names)
        )


def _unfit(place: Path | str, reason: Message | str) -> TrainError:
    return TrainError(
        "checkpoint-unfit",
        expected=Message("a checkpoint that fits the student {place}", place=place),
        found=reason,
        remedy=Message("put the student back as the run found it, or run it again"),
    )


def _place(source: Source) -> str:
    """Return the name under which transformers finds a model: a Hub id or a folder."""
    return source.name if source.folder is None else str(source.folder.absolute())


def _card(folder: Path, config: TrainConfig, source: Source, step: int, adapter: bool, language: str) -> str:
    head = ModelCardData(
        base_model=source.name if source.folder is None else None,  # a folder means nothing on the Hub
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["kvlab", "knowledge-distillation", "kv-cache", *(["lora"] if config.trainable == "lora" else [])],
    )
    facts = {"student": config.student, "step": step, "usage": USAGE, "adapter": adapter, "base": _place(source)}
    return f"---\n{head.to_yaml()}\n---\n\n{card(gather(folder), facts, language)}"


if __name__ == "__main__":
    main()
