"""``python -m kvlab runs list | show | stop | ... | export``: with the same calls as the pages."""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kvlab.errors import PARTS, KvlabError, RunError
from kvlab.host.memory import readable
from kvlab.language import Message, phrase, plural, say
from kvlab.results import run_name
from kvlab.results.training import helps
from kvlab.results.training.facts import gather
from kvlab.results.training.words import checkpoint_words, mark_words, remarked, state_words
from kvlab.results.training.write import FORMATS, complete, text_of, write
from kvlab.runs import monitor, run_queue, store, training
from kvlab.runs.monitor import View
from kvlab.runs.places import slurm
from kvlab.shapes import phase_words

ID = "a run's id, its beginning or its last four characters; or its folder, such as the --output_dir of train"
POLL = 0.2  # seconds between two checks of a run that is stopping
SHOWN = 5  # runs to name when a short id fits several
PEAK = {"device": phrase("peak memory of the device: {size}"), "process": phrase("peak memory of the process: {size}")}


def add(commands, common: argparse.ArgumentParser) -> None:
    """Add the command ``runs`` to the parser."""
    runs = commands.add_parser("runs", help="the runs on disk: look at them, stop, resume, delete, report")
    actions = runs.add_subparsers(required=True, metavar="ACTION")
    listed = actions.add_parser("list", parents=[common], help="all runs, newest first")
    listed.set_defaults(run=_list)
    for name, call, words in (
        ("show", _show, "state, progress, loss, memory and checkpoints of a run"),
        ("stop", _stop, "ask a run to finish its step, save and end; take one that waits out of the queue"),
        ("kill", _kill, "end a run's processes by force, without saving"),
        ("resume", _resume, "go on from the last checkpoint"),
        ("delete", _delete, "remove a run that has ended, with its files"),
        ("report", _report, "the whole report: Markdown, HTML with figures, or JSON"),
        ("export", _export, "write the trained student as a model folder of transformers, with a model card"),
    ):
        action = actions.add_parser(name, parents=[common], help=words)
        action.add_argument("id", metavar="ID", help=ID)
        action.set_defaults(run=call)
        if name in ("show", "report"):
            action.add_argument("--json", action="store_true", help="as JSON")
        if name == "stop":
            action.add_argument("--no-wait", action="store_true", help="do not wait until it has ended")
        if name == "delete":
            action.add_argument("--yes", action="store_true", help="do not ask")
        if name == "export":
            action.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="a new or an empty folder")
            action.add_argument("--merged", action="store_true", help="of LoRA: the whole model, not the adapter")
        if name == "report":
            action.add_argument("--checks", action="store_true", help="run the seven KV checks for the report, now")
            about = (
                "md (default), html (one file, works offline), json, or all three, into the run's folder if not --out"
            )
            action.add_argument("--format", choices=[*FORMATS, "all"], help=about)
            about = "write report.md, report.html, report.json into this folder, not to standard output"
            action.add_argument("--out", type=Path, metavar="DIR", help=about)


def choose(root: Path, text: str) -> Path:
    """Return the run whose id is ``text``, begins with it, or ends with it, or whose folder it is.

    Raises RunError ``run-not-found``, ``run-ambiguous``.
    """
    if store.valid_id(text):
        return store.find(root, text)
    place = os.path.expanduser(text)
    is_folder = os.path.isdir(place)  # False also for a name that no file can have
    if is_folder and (os.sep in text or text in (os.curdir, os.pardir)):
        return _at(root, Path(place))
    fitting = [f for f in store.listing(root) if text and (f.name.startswith(text) or f.name.endswith(f"-{text}"))]
    if len(fitting) == 1:
        return fitting[0]
    if is_folder and not fitting:
        return _at(root, Path(place))
    names = [folder.name for folder in fitting[:SHOWN]]
    if len(fitting) > SHOWN:
        names.append("…")
    fits = {"text": repr(text[:100]), "n": len(fitting), "names": names}
    raise RunError(
        "run-ambiguous" if fitting else "run-not-found",
        expected=Message(
            "the id of one run in {folder}, its beginning or its last four characters, or the folder of a run",
            folder=root,
        ),
        found=Message("{text}, which fits {n}: {names}" if fitting else "{text}, which fits none", **fits),
        remedy=Message("take the id from: python -m kvlab runs list"),
    )


def _at(root: Path, place: Path) -> Path:
    """Return the run in a folder anywhere, by its path in ``root`` if it is listed there."""
    if store.read_status(place).get("kind") in store.KINDS or (place / store.METRICS).is_file():
        return store.in_list(root, place)
    raise RunError(
        "run-not-found",
        expected=Message("the folder of a run, with its {file}", file=store.STATUS),
        found=Message("{place}, which holds no run", place=place),
        remedy=Message("take the id from: python -m kvlab runs list"),
    )


def _list(options: argparse.Namespace) -> int:
    root = store.runs_root()
    training.sweep(root)
    try:
        run_queue.recover(root)
        run_queue.attend(root)
    except RunError as error:  # list the runs all the same
        print(say("The run queue is not moving. {error}", error=error), file=sys.stderr)
    if problem := slurm.look(root):
        print(say("Slurm does not answer: what its jobs do is not known now. {error}", error=problem), file=sys.stderr)
    folders = store.listing(root)
    for folder in folders:
        complete(folder)
    views = [monitor.view(folder) for folder in folders]
    if not views:
        print(say("No runs in {folder}.", folder=root))
    for view in views:
        kind = say(store.KINDS[view.kind]) if view.kind in store.KINDS else view.kind
        print(f"{view.id}  {kind}  {_course(view)}  {run_name.of_run(view.folder, view.kind, view.name)}")
    return 0


def _show(options: argparse.Namespace) -> int:
    folder = _chosen(options)
    complete(folder)
    view = monitor.view(folder)
    if options.json:
        print(json.dumps({**asdict(view), "folder": str(view.folder)}, ensure_ascii=False, indent=1, default=str))
        return 0
    print(f"{view.id}\n{_course(view)}\n{view.folder.resolve()}")
    if view.error:
        print(KvlabError.from_dict({"kind": "", **dict.fromkeys(PARTS), **view.error}))
    report = gather(view.folder)
    if not view.active and view.kind == "training":
        print(helps.lead(helps.read(report["helps"])).replace("**", ""))
    _show_numbers(report["run"], view.active)
    for checkpoint in [*report["milestones"], *report["conditions"]]:
        names = {"mark": mark_words(checkpoint["state"]) or "–", "name": checkpoint_words(checkpoint["name"])}
        print(say("  {mark} {name}: {remark}", remark=remarked(checkpoint), **names))
    return 0


def _show_numbers(run: dict[str, Any], active: bool) -> None:
    """Print loss, speed and memory as far as they are known."""
    if run["final_loss"] is not None:
        losses = {"step": run["steps_done"], "loss": run["final_loss"], "first": run["first_loss"]}
        words = [say("step {step}: loss {loss:.4f}, at first {first:.4f}", **losses)]
        if active and run["remaining_s"]:
            words.append(say("about {seconds:.0f} s left", seconds=run["remaining_s"]))
        print(say(", ").join(words))
    if run["tokens_per_s"]:
        print(say("{n:.0f} tokens/s", n=run["tokens_per_s"]))
    if peak := run["peak_memory"]:
        words = [say(PEAK.get(peak["of"], PEAK["process"]), size=readable(peak["bytes"]))]
        if peak["total"]:
            words.append(say("{share:.0%} of {total}", share=peak["share"], total=readable(peak["total"])))
        print(say(", ").join(words))


def _stop(options: argparse.Namespace) -> int:
    folder = _chosen(options)
    if training.stop(folder) == "cancelled":
        print(say("Taken out of the queue."))
        return 0
    print(say("Asked to stop: it finishes its step and saves."), flush=True)
    if options.no_wait:
        return 0
    phase = ""
    while not training.gone(folder):
        view = monitor.view(folder)
        if view.phase != phase:
            print(f"{phase_words(view.phase)} {view.done}/{view.total}", flush=True)
        phase = view.phase
        time.sleep(POLL)
    print(say("Its process is gone: {course}", course=_course(monitor.view(folder))))
    return 0


def _kill(options: argparse.Namespace) -> int:
    folder = _chosen(options)
    training.kill(folder)
    if job := slurm.job_of(store.read_status(folder)):
        print(say("Killed: Slurm job {id} is gone.", id=job))
        return 0
    pid = store.read_status(folder).get("pid")
    print(say("Killed: process {pid} and all that it started are gone.", pid=pid))
    return 0


def _resume(options: argparse.Namespace) -> int:
    folder = training.resume(_chosen(options), store.runs_root())
    ahead = run_queue.place(folder)
    print(plural(ahead, "Queued, {n} run before it.", "Queued, {n} runs before it.") if ahead else say("Queued."))
    return 0


def _delete(options: argparse.Namespace) -> int:
    folder = _chosen(options)
    if not options.yes:
        if not sys.stdin.isatty():
            raise RunError(
                "delete-unconfirmed",
                expected=Message("a yes to deleting {name}", name=folder.name),
                found=Message("nobody to ask"),
                remedy=Message("repeat it with --yes"),
            )
        question = say("Delete {name} and its files? [y/N] ", name=folder.name)
        if folder.is_symlink():
            names = {"name": folder.name, "folder": folder.resolve()}
            question = say("Take {name} off the list? Its files stay in {folder}. [y/N] ", **names)
        if input(question).strip().lower() not in ("y", "yes"):
            print(say("Not deleted."))
            return 1
    training.delete(folder)
    print(say("Deleted."))
    return 0


def _report(options: argparse.Namespace) -> int:
    folder = _chosen(options)
    if options.format == "all":
        options.out = options.out or folder
    outcomes = when = None
    if options.checks:
        from kvlab.align.checks import run_checks  # imports torch, which takes seconds

        outcomes = [asdict(outcome) for outcome in run_checks()]
        when = store.timestamp()
    report = gather(folder, outcomes, when)
    form = options.format or ("json" if options.json else "md")
    if options.out is None:
        print(text_of(report, form, options.language), end="")
        return 0
    with store.disk_errors(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    for path in write(report, options.out, FORMATS if form == "all" else (form,), options.language):
        print(say("Written: {files}", files=path))
    return 0


def _export(options: argparse.Namespace) -> int:
    folder = _chosen(options)
    from transformers.utils import logging as transformers_logging

    from kvlab.train.export import export  # imports torch, which takes seconds

    transformers_logging.disable_progress_bar()
    print(say("Written: {files}", files=export(folder, options.to, options.merged, options.language)))
    return 0


def _chosen(options: argparse.Namespace) -> Path:
    if problem := slurm.look(store.runs_root()):
        print(say("Slurm does not answer: what its jobs do is not known now. {error}", error=problem), file=sys.stderr)
    return choose(store.runs_root(), options.id)


def _course(view: View) -> str:
    """Describe state and progress in a few words."""
    words = [state_words(view.state)]
    if view.stopping:
        words.append(say("stopping: it finishes its step and saves"))
    if view.state == "queued":
        if ahead := run_queue.place(view.folder):
            words.append(say("{n} before it", n=ahead))
        if job := slurm.reason_words(store.read_status(view.folder)):
            words.append(str(job))
    elif view.state != "done" and view.phase:
        progress = f" {view.done}/{view.total}" if view.total else ""
        words[-1] += say(" ({progress})", progress=phase_words(view.phase) + progress)
    if view.elapsed_s is not None:
        words.append(say("{seconds:.0f} s", seconds=view.elapsed_s))
    if view.overdue and view.silent_s is not None:
        words.append(say("no update for {seconds:.0f} s: a long step, or stuck", seconds=view.silent_s))
    return say(", ").join(words)
