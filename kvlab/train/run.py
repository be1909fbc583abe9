"""Run the phases of one training run: read, load, fit, evaluate, train, evaluate, save, report."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import cached_property, partial
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import set_seed
from transformers.utils import logging as transformers_logging

from kvlab.align.checks import run_checks
from kvlab.errors import Cancelled, TrainError
from kvlab.host import launched, memory
from kvlab.inject.own import check_cache
from kvlab.language import Message
from kvlab.models.forward import empty_cache
from kvlab.models.loading import LoadedModel, free_memory, load, pick_device, random_like, reader, rounded
from kvlab.models.proofs import self_test
from kvlab.request import refusals
from kvlab.request.forecast import room_of_training, sentence, training_memory
from kvlab.request.train import TrainConfig
from kvlab.runs import failures, store
from kvlab.runs.lenient import read_json
from kvlab.runs.records import FORECAST, REPORT
from kvlab.shapes import Geometry
from kvlab.train import checkpoint, data, functional, head_outputs, maps, record_words, shared_map
from kvlab.train.learner import Fusing, Learner
from kvlab.train.loop import Loop, Objective, evaluate, warm_then_fall
from kvlab.train.maps import Fitted
from kvlab.train.memory_watch import MemoryWatch, look
from kvlab.train.record import MAPS, Record
from kvlab.train.student import check_attention, recompute_activations
from kvlab.train.targets import Teachers

FITTING = timedelta(hours=4)  # that other processes wait for the first to fit the maps, at most


class Run:
    """One training run. ``at(phase, done, total)`` reports progress, ``stop`` a request to end (process.py)."""

    def __init__(self, folder: Path, config: TrainConfig, record: Record, watch: MemoryWatch | None, at, stop):
        self.folder, self.config, self.record, self.watch = folder, config, record, watch
        self.at, self.stop = at, stop
        self.begun, self.phase_began = time.monotonic(), time.monotonic()
        self.seconds: dict[str, float] = {}
        self.report = read_json(folder / REPORT) if checkpoint.saved_step(folder) else {}
        self.report.setdefault("started", store.timestamp())
        self.report.pop("report", None)  # an older version kept the gathered report in it

    def go(self) -> str:
        """Run all phases and return the verdict, "pass" or "fail". Raises Cancelled after saving the state."""
        config, record = self.config, self.record
        self.prepare()
        start = checkpoint.saved_step(self.folder)
        if start:
            checkpoint.load(self.accelerator, self.folder)
            record.say(f"goes on from the checkpoint of step {start}")
        if start or record.lines:
            record.resumed(start)
        record.show_on(config.log)
        if "before" in self.report:
            record.show_held_out(self.report["before"], 0)
        record.loaded = True
        record.verdict()
        if "before" not in self.report:
            self._evaluate("before")
            self._write_report("running")
        self._train(start)
        self._evaluate("after")
        self._phase("saving", 0, 1)
        if self.record.writes and config.map == "structured":
            maps.save(self.fitted, self.folder / MAPS)
        self._phase("reporting", 0, 1)
        if self.record.writes:
            self.report["checks"] = {"time": store.timestamp(), "outcomes": [asdict(o) for o in run_checks()]}
        if self.watch:
            self.watch.sample()
        state = record.verdict(ended=True)
        self.report["finished"] = store.timestamp()
        self._write_report(state)
        self._say_end(state)
        return state

    def prepare(self) -> None:
        """Read, load and fit, up to the state of ``learner`` and ``optimizer`` before step 1."""
        transformers_logging.disable_progress_bar()
        readers = self._read()
        self._phase("loading")
        self.at.weights = True
        set_seed(self.config.seed)
        self.take(*self._load(readers))

    @cached_property
    def accelerator(self) -> Accelerator:
        return accelerator(self.config)

    def _read(self) -> list[LoadedModel]:
        """Read and check all that needs no weights: geometries, precision, tokenizers, documents, timelines."""
        config = self.config
        self._phase("loading", 0, 1)
        refusals.check_functional(config)
        refusals.check_log(config)
        launched.check(config.device)
        device = str(pick_device(config.device))
        readers = self._readers()
        *teachers, student = readers
        shapes = [teacher.geometry for teacher in teachers]
        refusals.check(shapes, student.geometry, config.use_kv_projector, config.precision, device)
        refusals.check_heads(config, student.geometry)
        refusals.check_unquantised(student.geometry)
        train, heldout, notes = data.documents(config, self.folder)
        for note in notes:
            self.record.say(f"note: {note}")
        self.data = data.read(config, teachers, student, train, heldout)
        for note in self.data.notes:
            self.record.say(f"note: {note}")
        counts = f"{len(self.data.train)} training documents, {len(self.data.heldout)} held out"
        names = " + ".join(config.teachers)
        self.record.say(f"{names} -> {config.student}: {config.max_steps} steps on {counts}")
        self.report |= {
            "data": {"train": len(self.data.train), "heldout": len(self.data.heldout)},
            "geometry": [g.to_dict() for g in (*shapes, student.geometry)],
            "notes": [note.to_dict() for note in (*notes, *self.data.notes)],
        }
        tokens = max(item.longest for item in (*self.data.train, *self.data.heldout))
        self._forecast(shapes, student.geometry, device, tokens)
        room = shapes, student.geometry, config, tokens, device, launched.count()
        self.room = room_of_training(*room) if config.split_teacher else None
        return readers

    def _readers(self) -> list[LoadedModel]:
        return [reader(name) for name in (*self.config.teachers, self.config.student)]

    def _forecast(self, teachers: Sequence[Geometry], student: Geometry, device: str, tokens: int) -> None:
        """Log the memory that the run will take, and store it with the memory in use now, for the report."""
        forecast = training_memory(teachers, student, self.config, tokens, device, launched.count())
        self.record.say(sentence(forecast, memory.device_memory(device), self.config))
        now = look(device)
        used = {"baseline": now["device_used"], "device_total": now["device_total"], "device": device}
        self.record.write_json(FORECAST, forecast.to_dict() | used)

    def _load(self, readers: Sequence[LoadedModel]) -> tuple[list[LoadedModel], LoadedModel]:
        """Load teachers and student onto this process's device."""
        config = self.config
        place = self.accelerator.device
        device = f"{place.type}:{place.index or 0}" if place.type == "cuda" else place.type
        if self.watch:
            self.watch.device = device
        if config.batch_size % self.accelerator.num_processes:
            raise TrainError(
                "batch-not-shared",
                expected=Message("a batch size that {n} processes share evenly", n=self.accelerator.num_processes),
                found=f"--batch_size {config.batch_size}",
                remedy=Message("use a multiple of {n}, or fewer processes", n=self.accelerator.num_processes),
            )
        teachers: list[LoadedModel] = []
        for number, name in enumerate(config.teachers):
            self._at("loading", number, len(readers))
            dtype = memory.DTYPE_ALIASES[config.precision]
            loaded = self._model(name, device, dtype, load_in=config.load_in, room=self.room)
            teachers.append(random_like(loaded, config.seed) if config.control == "random-teacher" else loaded)
            del loaded
        self._at("loading", len(teachers), len(readers))
        student = self._model(config.student, device, "float32")
        for note in rounded(*teachers):
            self.record.say(f"note: {note}")
            self.report["notes"].append(note.to_dict())
        hint = failures.slow_hint(device, config.precision, len(memory.gpus()))
        self.report["device"] = {"device": device, "words": hint.to_dict(), "processes": self.accelerator.num_processes}
        self.record.say(f"loaded; {hint}")
        return teachers, student

    def _model(self, name: str, device: str, dtype: str, **placed: Any) -> LoadedModel:
        return load(name, device, dtype, **placed)

    def take(self, teachers: Sequence[LoadedModel], student: LoadedModel) -> None:
        """Fit the maps of loaded models to ``data``, and build the learner and its optimiser."""
        self.student = student
        if self.config.functional:
            check_cache(student, empty_cache(student))
        if self.config.on_outputs:
            check_attention(student)
        self.report["rotation"] = [self_test(model).sentence() for model in (*teachers, student)]
        self.fitted = self._maps(teachers)
        settings, config = data.align_settings(self.config), self.config
        most = student.geometry.max_positions
        self.teachers = Teachers(teachers, self.fitted, settings, config.control, config.seed, most)
        self.output_scale = self._output_scale() if config.on_outputs else []
        self._prepare()

    def _maps(self, teachers: Sequence[LoadedModel]) -> list[Fitted]:
        config, path = self.config, self.folder / MAPS
        self._phase("fitting the map")
        shapes = [teacher.geometry for teacher in teachers]
        if checkpoint.saved_step(self.folder):  # fitted to the same student, before step 1
            return maps.load(path, shapes, self.student.geometry)
        kind = config.map if config.use_kv_projector else "identity"
        items = self.data.train[: config.fit_documents]
        if not self.record.writes:  # the first process fits, for all
            self.accelerator.wait_for_everyone()
            return maps.load(path, shapes, self.student.geometry)
        settings = data.align_settings(config)
        wanted = shared_map.key(teachers, self.student, items, kind, settings)
        # Not in a folder of one's own: what lies beside it is no run of kvlab.
        listed = self.folder.resolve().parent == store.runs_root().resolve()
        shareable = wanted and listed and kind == "ridge"
        other = shared_map.of_another_run(self.folder, wanted, MAPS) if shareable else None
        if other:
            self.record.say(f"the maps of {other.parent.name}, which were fitted to the same")
            fitted = maps.load(other, shapes, self.student.geometry)
        else:
            fitted = maps.fit(teachers, self.student, items, kind, settings, self._at)
        maps.save(fitted, path, **{shared_map.KEY: wanted or ""})
        self.accelerator.wait_for_everyone()
        for name, teacher in zip(config.teachers, fitted):
            known = [r2 for r2 in teacher.r2.values() if isfinite(r2)]
            held = f", held-out R² {sum(known) / len(known):.3f}" if known else ""
            self.record.say(f"{kind} map of {name}: {teacher.rows} rows of {len(items)} documents{held}")
        self.report["maps"] = [record_words.facts(f, kind) for f in fitted]
        return fitted

    def _output_scale(self) -> list[float]:
        """Measure the unit of the KV loss on head outputs: of the untrained student, so alike when a run is resumed."""
        self._phase("fitting the map")
        items, size = self.data.train[: self.config.fit_documents], self.config.batch_size
        scale = head_outputs.deviations(self.student, self.teachers, items, size, partial(self._at, self.at.name))
        self.record.say(f"KV loss on head outputs, whose own deviations are {' '.join(f'{x:.3g}' for x in scale)}")
        return scale

    def _prepare(self) -> None:
        config = self.config
        if config.trainable == "full":
            self.student.model.requires_grad_(True)
        elif config.trainable == "lora":
            add_lora(self.student, config.lora_rank)
        if config.gradient_checkpointing:
            recompute_activations(self.student)
        fusing = Fusing(config.fusion, config.fusion_weights, config.fusion_temperature)
        learner = Learner(self.student, self.fitted, fusing, self.output_scale).to(self.accelerator.device)
        if not config.learns_kv:
            learner.maps.requires_grad_(False)
            learner.routers.requires_grad_(False)
        groups = groups_of(learner, config.rate(self.student.geometry.parameters), config.map_lr)
        trained = sum(p.numel() for group in groups for p in group["params"])
        self.report["trained_parameters"] = trained
        self.record.say(f"training {trained:,} parameters ({config.trainable}), learning rate {groups[0]['lr']:g}")
        self.rates = [group["lr"] for group in groups]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        self.learner, self.optimizer = self.accelerator.prepare(learner, optimizer)

    def loop(self) -> Loop:
        config, prepared = self.config, (self.accelerator, self.learner, self.optimizer, self.teachers, self.data)
        schedule = warm_then_fall(config.warmup, config.max_steps)
        return Loop(*prepared, objective_of(config), self.rates, schedule, config.max_grad_norm)

    def _train(self, start: int) -> None:
        config, record, loop = self.config, self.record, self.loop()
        self._phase("training", start, config.max_steps)
        began = saved = time.monotonic()
        for number in range(start + 1, config.max_steps + 1):
            stopping = self.step(loop, number, (time.monotonic() - began) / max(1, number - 1 - start))
            late = self._agreed(time.monotonic() - saved > 60 * config.checkpoint_minutes)
            if stopping or late or number % config.checkpoint_every == 0 or number == config.max_steps:
                self._phase("saving", number, config.max_steps)
                checkpoint.save(self.accelerator, self.folder, number)
                saved = time.monotonic()
                record.say(f"saved the checkpoint of step {number}")
                if stopping and number < config.max_steps:
                    raise Cancelled
                self._phase("training", number, config.max_steps)

    def step(self, loop: Loop, number: int, pace: float) -> bool:
        """Run and record one step; return whether to stop. ``pace``: seconds per step so far."""
        line, steps = loop.step(number), self.config.max_steps
        self.record.step(line)
        self.record.say(record_words.step_words(line, steps, pace * (steps - number)))
        self.at("training", number, steps)
        return self._asked_to_stop()

    def _asked_to_stop(self) -> bool:
        """Return whether any process was asked to stop, so that all end at the same step."""
        return self._agreed(self.stop())

    def _agreed(self, wanted: bool) -> bool:
        """Return whether any process wants it."""
        if self.accelerator.num_processes == 1:
            return wanted  # without waiting for the device
        asked = torch.tensor(float(wanted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum") > 0)

    def _evaluate(self, when: str) -> None:
        """Evaluate in every process, so that none waits for another."""
        phase = f"evaluating {when}"
        self._phase(phase)
        learner, at = self.accelerator.unwrap_model(self.learner), partial(self._at, phase)
        size, device = self.config.batch_size, self.accelerator.device
        scores = evaluate(learner, self.teachers, self.data.heldout, size, device, at)
        errors = f"KV error K {scores['kv_key']:.4f}, V {scores['kv_value']:.4f}"
        if "kv_output" in scores:
            errors += f", head outputs {scores['kv_output']:.4f}"
        self.record.say(f"{phase}: held-out cross-entropy {scores['ce']:.4f} nats per token, {errors}")
        self.report[when] = scores
        self.record.show_held_out(scores, 0 if when == "before" else self.config.max_steps)
        if self.config.functional:
            measured = functional.measure(learner, self.teachers, self.data, size, phase, self._at)
            self.report["functional"] = functional.added(self.report.get("functional", {}), when, measured)
            self.record.say(f"{phase}: {record_words.function_words(measured)}")

    def _at(self, phase: str, done: int, total: int) -> None:
        """Report the progress of a phase that has nothing to save when it is stopped."""
        self.stop.check()
        self.at(phase, done, total)

    def _phase(self, name: str, *progress: int) -> None:
        """Begin a phase and report its ``progress``, done and total, where it is known."""
        now = time.monotonic()
        if self.at.name != "starting":
            self.seconds[self.at.name] = round(self.seconds.get(self.at.name, 0) + now - self.phase_began, 3)
        self.phase_began, self.at.name = now, name
        if progress:
            self.at(name, *progress)

    def _write_report(self, state: str) -> None:
        self.report |= record_words.summary(self.config, self.folder, self.record, self.watch, state)
        self.report["seconds"] = {**self.seconds, "all": round(time.monotonic() - self.begun, 3)}
        self.record.write_json(REPORT, self.report)

    def _say_end(self, state: str) -> None:
        before, after = self.report["before"], self.report["after"]
        change = after["ce"] - before["ce"]
        self.record.say(f"held-out cross-entropy {before['ce']:.4f} -> {after['ce']:.4f} ({change:+.4f})")
        self.record.say(f"VERDICT: {state.upper()} after {time.monotonic() - self.begun:.0f} s")


def accelerator(config: TrainConfig) -> Accelerator:
    """Set up Accelerate for the run: device, precision, accumulation."""
    device = pick_device(config.device)
    if device.type == "cuda" and ":" in config.device:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=FITTING),
        ],
    )


def objective_of(config: TrainConfig) -> Objective:
    learned = config.fusion == "learned" and len(config.teachers) > 1 and config.learns_kv
    sign = {"diverse": -1.0, "specialised": 1.0}[config.entropy]
    weights = config.kv_weights if config.learns_kv else {}
    return Objective(
        lambda_key=weights.get("key", 0.0),
        lambda_value=weights.get("value", 0.0),
        lambda_output=weights.get("output", 0.0),
        entropy=sign * config.entropy_weight if learned else 0.0,
        with_ce=config.trainable != "projector",
    )


def groups_of(learner: Learner, lr: float, map_lr: float) -> list[dict]:
    """Group the trained parameters by learning rate; the student first."""
    student = [p for p in learner.student.parameters() if p.requires_grad]
    others = [p for part in (learner.maps, learner.routers) for p in part.parameters() if p.requires_grad]
    groups = [{"params": student, "lr": lr}, {"params": others, "lr": map_lr}]
    return [group for group in groups if group["params"]]


def add_lora(student: LoadedModel, rank: int) -> None:
    from peft import inject_adapter_in_model

    inject_adapter_in_model(lora_config(rank), student.model)
    for name, parameter in student.model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    free_memory()


def lora_config(rank: int):
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
