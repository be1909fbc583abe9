"""The live view of one training run, read from its folder once a second while the run is active.

The page holds no state: a reload, another browser or another server shows the same view of a run's id.
"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from kvlab.errors import KvlabError, RunError
from kvlab.language import Message, phrase, say
from kvlab.request.train import Thresholds
from kvlab.results.training.experiment import of_run
from kvlab.results.training.words import checkpoint_words, remarked
from kvlab.results.training.write import complete
from kvlab.results.words import sentences
from kvlab.runs import monitor, run_queue, store, training
from kvlab.runs.metrics import pace
from kvlab.runs.monitor import View
from kvlab.runs.places import slurm
from kvlab.web import outcome, places, server, stages
from kvlab.web.training import actions, charts, launch, share, source, verdict, words
from kvlab.web.training.source import Source
from kvlab.web.widgets import UNKNOWN, duration, plain, show_error

EVERY = 1.0  # seconds between two redraws of an active run
ENDS = {
    "failed": phrase("This run failed."),
    "lost": phrase("This run was lost: its process is gone and did not say how it ended."),
}
MEMORY = {"device": phrase("**GPU memory in use**"), "process": phrase("**Memory of this process** (no GPU)")}
PACE = phrase(
    "Median of the last 20 steps, and of all once the run is done, as in its report. The log counts each step."
)
COMPUTED = {  # kinds that other pages show: the explanation, the page and its icon
    "analysis": (phrase("This is an analysis, not a training run."), places.alignment, ":material/grid_on:"),
    "injection": (phrase("This is a functional test, not a training run."), places.function, ":material/science:"),
    "certificate": (phrase("This is a certificate, not a training run."), places.certificate, ":material/verified:"),
}


def panel(run_id: str) -> None:
    """Draw a training run in any state; an unknown id shows an error."""
    view = _view(run_id)
    if view is None:
        return
    if view.kind in COMPUTED:
        about, place, icon = COMPUTED[view.kind]
        st.info(say(about), icon=":material/info:")
        st.page_link(place(), label=say("Show it"), query_params={"run": run_id}, icon=icon)
        return
    moving = _moving(view)
    # Use the same fragment after the end of a run, so that the charts stay as they are.
    st.fragment(_draw, run_every=EVERY if moving else None)(run_id, moving)


def _draw(run_id: str, moving: bool) -> None:
    view = _view(run_id)
    if view is None:
        return
    if moving != _moving(view):
        st.rerun()  # the whole page, to start or stop the timer
    files = source.of(view.folder)
    _heading(view)
    _state(view, files, moving)
    if files.steps().rows or files.memory().rows:
        _numbers(view, files)
        _curves(view, files)
    checkpoints(files.checkpoints(source.settings_of(view.config)))
    _log(files)


def _view(run_id: str) -> View | None:
    """Return the state of the run; None after showing an error."""
    try:
        return monitor.view(store.find(store.runs_root(), run_id))
    except RunError as error:
        show_error(error)
        return None


def _moving(view: View) -> bool:
    """Return whether anything may still change: the run, its process, or the cause that the keeper will write."""
    unexplained = view.state == "lost" and run_queue.place(view.folder) is not None
    return (
        view.active
        or not training.gone(view.folder)
        or (unexplained and run_queue.keeper(view.folder.parent) is not None)
    )


def _heading(view: View) -> None:
    settings = view.config
    teachers = settings.get("teachers") or ()
    st.subheader(plain(words.name(view)), anchor=False)
    facts = [say("run {id}", id=view.id)]
    if len(teachers) > 1:
        facts.append(say("{fusion} fusion", fusion=settings.get("fusion")))
    if control := words.control(settings.get("control")):
        facts.append(control)
    st.caption(plain(" · ".join(facts)))


def _state(view: View, files: Source, moving: bool) -> None:
    """Show the state of the run, its buttons, and the outcome of the last action."""
    key = f"{{}}-{view.id}"
    if view.active:
        left, right = st.columns([7, 3], vertical_alignment="center")
        # Draw the buttons before anything that may wait.
        with right, st.container(horizontal=True, horizontal_alignment="right"):
            actions.course(view, key)
        with left:
            if view.state == "queued":
                server.problem()  # restarts a queue whose keeper was killed
                job = slurm.reason_words(store.read_status(view.folder))
                waiting = say("Waiting. {words}", words=plain(job)) if job else None
                st.info(waiting or words.waiting(run_queue.place(view.folder) or 0), icon=":material/hourglass_top:")
            else:
                stages.line("training", view.phase or "starting", view.done, view.total)
                share_done = (view.share or 0.0) if view.total > 1 else 0.0
                st.progress(share_done, text=plain(words.going_on(view)))
        outcome.show(key, view.state)
        actions.question([view], key, f"kill-{{}}-{view.id}")
        return
    ended(view, files, key)
    outcome.show(key, view.state)
    with st.container(horizontal=True):
        if view.state in ENDS and (changes := launch.changes_of(view)):
            actions.again(view, key, launch.show, changes)
        actions.course(view, key)
        if not moving:  # each redraw replaces the button, and a click could miss it
            share.button(view.folder)


def ended(view: View, files: Source, key: str) -> None:
    """Show how a run ended: its verdicts, or why it has none and what to do. Draw nothing while it is active.

    ``key``: for its buttons, as in actions.
    """
    complete(view.folder)
    if view.state == "done":
        verdict.panel(view, files, key)
        _of_experiment(view)
    elif view.state == "cancelled":
        cause = store.read_status(view.folder).get("cause")
        killed = isinstance(cause, dict) and cause.get("kind") == "run-killed-by-user"
        gone = say("Its process is gone.") if training.gone(view.folder) else say("Its process is about to end.")
        st.info(sentences(words.cancelled(view, killed), gone), icon=":material/stop_circle:")
    elif view.state in ENDS:
        st.markdown(f"**:red[{say(ENDS[view.state])}]**")
        try:
            show_error(KvlabError.from_dict(view.error))
        except (KeyError, TypeError):
            tell = st.error if view.error else st.markdown
            tell(say("No reason was recorded. Its log in the run’s folder may tell."))


def _of_experiment(view: View) -> None:
    """Say whether the teacher helps, by the experiment that this run is a part of."""
    try:
        judged = of_run(view.folder.parent, view.id)
    except KvlabError:
        return
    if judged:
        experiment_id, found = judged
        st.markdown(say("**By its experiment:** {words}", words=plain(found["words"])))
        place = {"query_params": {"experiment": experiment_id}, "icon": ":material/compare:"}
        st.page_link(places.experiments(), label=say("Show the experiment"), **place)


def _numbers(view: View, files: Source) -> None:
    steps = files.steps()
    if not steps.rows:
        return  # nothing to count yet: the stages say what it does
    max_steps = view.config.get("max_steps")
    total = max_steps if isinstance(max_steps, int) else 0
    speed = pace(steps, total)
    loss = steps.column("loss")
    shown = {
        say("Step"): say("{done:,} of {total:,}", done=speed.step, total=total),
        say("Loss"): f"{loss[-1]:.4f}" if loss else UNKNOWN,
        say("Elapsed"): duration(view.elapsed_s),
        say("Remaining"): duration(speed.remaining_s if view.state == "running" else None),
        say("Steps per second"): f"{1 / speed.seconds_per_step:.2f}" if speed.seconds_per_step else UNKNOWN,
        say("Tokens per second"): f"{speed.tokens_per_s:,.0f}" if speed.tokens_per_s else UNKNOWN,
    }
    paces = (say("Steps per second"), say("Tokens per second"))
    with st.container(key="live-numbers"):
        for column, (name, value) in zip(st.columns(len(shown)), shown.items()):
            column.metric(name, value, help=say(PACE) if name in paces else None)
    device = files.report().get("device")
    if isinstance(device, dict) and device.get("words"):
        st.caption(say("How it computes: it {words}.", words=plain(Message.read(device["words"]))))


def _curves(view: View, files: Source) -> None:
    """Draw loss terms, cross-entropy and memory side by side; below, the weights of several teachers."""
    steps = files.steps()
    settings = source.settings_of(view.config)
    limit = settings.thresholds.memory if settings else Thresholds().memory
    in_use, whose = charts.memory(files.memory(), limit)
    several = len(view.config.get("teachers") or ()) > 1
    # Without a KV term the loss is the cross-entropy, and the weights of one teacher have no entropy.
    terms = {name: term for name, term in charts.TERMS.items() if name != "entropy" or several}
    alone = view.config.get("control") == "ce-only"
    *first, ce, memory = st.columns(2 if alone else 3)
    for loss in first:
        with loss:
            st.markdown(say("**Loss terms**, raw (thin), smoothed (thick)"))
            _chart(charts.terms(steps, terms, say("loss")), f"terms-{view.id}", say("Loss terms over steps"))
    with ce:
        st.markdown(say("**Cross-entropy** on the training text"))
        chart = charts.terms(steps, charts.CE, say("nats per token"))
        _chart(chart, f"ce-{view.id}", say("Cross-entropy over steps"))
    with memory:
        st.markdown(say(MEMORY[whose]) if in_use else say("**Memory in use**"))
        _chart(in_use, f"memory-{view.id}", say("Memory in use over time"))
    teachers = [str(name) for name in view.config.get("teachers") or ()]
    if len(teachers) > 1 and (chart := charts.router(steps, teachers)):
        st.markdown(say("**Weight of each teacher**, mean over layers and rows of a step"))
        _chart(chart, f"router-{view.id}", say("Weight of each teacher over steps"))


def _chart(chart, key: str, about: str) -> None:
    if chart is None:
        st.caption(say("Nothing is logged yet."))
    else:  # new points reset the zoom of a chart whose selections have no callback
        readable = charts.readable(chart)
        st.altair_chart(readable, key=key, alt=about, on_select=lambda: None, selection_mode=[charts.ZOOM])


def checkpoints(rows: Sequence[dict[str, Any]]) -> None:
    """Draw the checkpoint table of a verdict. ``rows``: as in verdict.json."""
    st.markdown(say("**Checkpoints**"))
    shown = [
        {
            say("step"): _written(row.get("step")),
            say("checked"): plain(checkpoint_words(row.get("name", UNKNOWN))),
            say("result"): words.mark(row.get("state")),
            say("value"): _written(row.get("value")),
            say("threshold"): _written(row.get("threshold")),
            say("found"): plain(remarked(row)),
        }
        for row in rows
    ]
    if shown:
        with st.container(key="wide-checkpoints"):
            st.table(shown, hide_index=True, alt=say("The checkpoints of the verdict"))
    else:
        st.caption(say("The settings of this run cannot be read, so its checkpoints are not known."))


def _written(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else UNKNOWN


def _log(files: Source) -> None:
    name, text = files.log()
    st.markdown(say("**{log}**, the last lines", log=plain(name) if name else say("Log")))
    if text:
        st.code(text, language=None, wrap_lines=True)
    else:
        st.caption(say("Nothing is logged yet."))
    if files.damaged_lines:
        st.caption(words.damaged(files.damaged_lines))
