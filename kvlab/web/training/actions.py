"""What a user can do to runs: stop, kill, resume, launch again, delete.

``key`` is a format string for the keys of a page's buttons, such as ``run-{}``. It also names the place of their
question and outcome.
"""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from kvlab.errors import KvlabError, RunError
from kvlab.language import Message, current, phrase, say
from kvlab.runs import exports, monitor, store, training
from kvlab.runs.places import slurm
from kvlab.shapes import phase_words
from kvlab.web import outcome
from kvlab.web.training import launch, words
from kvlab.web.training.words import Run
from kvlab.web.widgets import duration, plain, show_error

STOP_HELP = phrase("It finishes its step, saves a checkpoint and ends; a waiting run leaves the queue.")
RESUME_HELP = phrase("It goes on from its last checkpoint.")
RESTART_HELP = phrase("It has no checkpoint yet: it restarts from step 0 in the same folder.")
AGAIN_HELP = phrase("A new run with the same settings, from the beginning.")
KILL = phrase(
    "**Kill {names}?** Kill ends the process and all that it started at once. The steps since the last checkpoint are "
    "lost; what was logged is kept. **Stop** finishes the step and saves."
)
LOOK = 1.0  # seconds between two looks at an export
EXPORT = phrase(
    "Writes the student of the last checkpoint as a folder inside the run’s own: weights, tokenizer, generation config "
    "and a model card with the verdict. AutoModelForCausalLM.from_pretrained opens it."
)
ELSEWHERE = phrase("Runs started with --output_dir only leave this list: their own folder stays as it is.")
DELETE = phrase("**Delete {names}?** All files go with it, checkpoints too. This cannot be undone.")


def course(run: Run, key: str) -> None:
    """Draw the buttons that stop, kill or resume a run, as its state allows."""
    if run.active:
        queued = run.state == "queued"
        if st.button(
            say("Take out of the queue") if queued else say("Stop"),
            key=key.format("stop"),
            icon=":material/stop_circle:",
            disabled=run.stopping,
            help=say(STOP_HELP),
        ):
            outcome.of(key, lambda: _stop(run), say("Asking it to stop…"))
        if not queued and st.button(say("Kill"), key=key.format("kill"), icon=":material/dangerous:"):
            _ask(key, "kill", [run])
    elif run.state in training.RESUMABLE:
        saved = (run.folder / "checkpoint").is_dir()
        if st.button(
            say("Resume from its last checkpoint") if saved else say("Start it again"),
            key=key.format("resume"),
            icon=":material/resume:",
            type="primary",
            help=say(RESUME_HELP) if saved else say(RESTART_HELP),
        ):
            outcome.of(key, lambda: _resume(run), say("Queueing it…"))


def again(run: Run, key: str, then: Callable[[str], None], changes: dict[str, Any] | None = None) -> None:
    """Draw a button that launches a run with these settings, except for ``changes``; ``then`` gets its id."""
    label = say("Launch again")
    if changes:
        settings = [plain(f"{name} {value}") for name, value in changes.items()]
        label = say("Launch again with {settings}", settings=settings)
    kind = "primary" if changes else "secondary"
    if st.button(label, key=key.format("again"), icon=":material/replay:", type=kind, help=say(AGAIN_HELP)):
        outcome.of(key, lambda: _again(run, then, changes or {}), say("Launching a new run…"))


def export(run: Run, key: str, config: dict[str, Any]) -> None:
    """Draw a button that exports the student of an ended run with a checkpoint, beside what was exported before."""
    if run.active or not (run.folder / "checkpoint").is_dir() or config.get("trainable") == "projector":
        return
    kinds = {"export": (say("Export"), False)}
    if config.get("trainable") == "lora":
        kinds = {"export": (say("Export the adapter"), False), "merged": (say("Export the whole model"), True)}
    last = exports.view(run.folder)
    moving = last is not None and last.active
    with st.popover(say("Export the student"), icon=":material/deployed_code:", key=key.format("exports")):
        st.caption(say(EXPORT))
        for name, (label, merged) in kinds.items():
            if st.button(label, key=key.format(name), width="stretch", disabled=moving):
                outcome.of(key, lambda merged=merged: _export(run, merged), say("Starting the export…"))
        for folder in sorted(run.folder.resolve().glob(exports.FOLDERS)):
            st.code(str(folder), language=None, wrap_lines=True)


def exporting(run: Run, key: str) -> None:
    """Say how far the run's export is, or why the last one failed."""
    last = exports.view(run.folder)
    if last is None:
        return
    if last.active:
        outcome.forget(key)
        _exporting(run, key)
    elif error := exports.failure(last):
        st.markdown(say("**The student was not exported.**"))
        show_error(error)


@st.fragment(run_every=LOOK)
def _exporting(run: Run, key: str) -> None:
    last = exports.view(run.folder)
    if last is None or not last.active:
        if last is not None and last.state == "done":
            outcome.keep(key, Message("The student is exported; “Export the student” names its folder."))
        st.rerun()
    words = {"phase": plain(phase_words(last.phase)), "time": duration(last.elapsed_s or 0.0)}
    st.info(say("Exporting the student: {phase} ({time})", **words), icon=":material/deployed_code:")
    st.caption(say("It goes on without this page; other pages and runs do not wait for it."))


def delete(runs: Sequence[Run], key: str, label: str, button: str = "") -> None:
    """Draw a button that asks whether to delete runs. ``button``: its key, if not the page's own."""
    if st.button(label, key=button or key.format("delete"), icon=":material/delete:"):
        _ask(key, "delete", runs)


def question(runs: Sequence[Run], key: str, answers: str, then: Callable[[list[str]], None] | None = None) -> None:
    """Ask whether to kill or delete these runs. Withdraw the question for other runs, or with nothing left to kill.

    ``answers``: format string for the keys of the answers. ``then`` gets the ids of deleted runs.
    """
    action, asked = st.session_state.get(_asked(key), ("", []))
    if not action:
        return
    if asked != [run.id for run in runs] or (action == "kill" and runs[0].state != "running"):
        _withdraw(key)
        return
    names = [plain(words.label(run)) for run in runs]
    kills = action == "kill"
    with st.container(border=True, key=answers.format("question")):
        st.markdown(say(KILL if kills else DELETE, names=names))
        if not kills and any(run.folder.is_symlink() for run in runs):
            st.markdown(say(ELSEWHERE))
        with st.container(horizontal=True):
            yes = say("Kill it now") if kills else say("Delete for good")
            confirmed = st.button(yes, key=answers.format("yes"), type="primary")
            no = say("Keep it running") if kills else say("Keep")
            st.button(no, key=answers.format("no"), on_click=_withdraw, args=(key,))
    if confirmed:
        _withdraw(key)
        if kills:
            outcome.of(key, lambda: _kill(runs[0]), say("Killing the run…"))
        else:
            outcome.of(key, lambda: _delete(runs, then), say("Deleting…"))


def _ask(key: str, action: str, runs: Sequence[Run]) -> None:
    st.session_state[_asked(key)] = action, [run.id for run in runs]


def _withdraw(key: str) -> None:
    st.session_state.pop(_asked(key), None)


def _asked(key: str) -> str:
    return f"asked-{key}"


def _stop(run: Run) -> Message:
    if training.stop(run.folder) == "cancelled":
        return Message("It was waiting, and is out of the queue.")
    return Message("Asked to stop: it finishes its step, saves and ends.")


def _kill(run: Run) -> Message:
    pid, job = monitor.view(run.folder).pid, slurm.job_of(store.read_status(run.folder))
    training.kill(run.folder)
    if job:
        return Message("Killed: Slurm job {id} is gone.", id=job)
    return Message("Killed: process {pid} and all that it started are gone.", pid=pid)


def _resume(run: Run) -> Message:
    training.resume(run.folder)
    return Message("Queued: it goes on when its device is free.")


def _export(run: Run, merged: bool) -> None:
    exports.start(run.folder, merged, current())


def _again(run: Run, then: Callable[[str], None], changes: dict[str, Any]) -> Message:
    new = launch.again(run.folder, changes)
    then(new)
    return Message("Launched: {id}", id=new)


def _delete(runs: Sequence[Run], then: Callable[[list[str]], None] | None) -> Message:
    """Delete as many of the runs as possible. Raises the first error, with the number of deleted runs."""
    gone: list[str] = []
    errors: list[KvlabError] = []
    for run in runs:
        try:
            training.delete(run.folder)
            gone.append(run.id)
        except KvlabError as error:
            if run.folder.exists() or run.folder.is_symlink():
                errors.append(error)
            else:  # another session was faster
                gone.append(run.id)
    if then:
        then(gone)
    if not errors:
        return Message.plural(len(gone), "Deleted: {n} run.", "Deleted: {n} runs.")
    first = errors[0]
    found = first.found
    if len(runs) > 1:
        found = Message("{found} ({gone} of {asked} were deleted)", found=found, gone=len(gone), asked=len(runs))
    raise RunError(first.kind, expected=first.expected, found=found, remedy=first.remedy)
