"""The live view of one training run, from its folder: ``panel`` looks once a second while the run is at work.

Nothing of it lives in the page: a reload, another browser or another server builds the same from the run's id.
"""

from __future__ import annotations

import streamlit as st

from kvlab.errors import KvlabError, RunError
from kvlab.language import Message, say
from kvlab.request.train import Thresholds
from kvlab.runs import monitor, run_queue, store, training
from kvlab.runs.metrics import pace
from kvlab.runs.monitor import View
from kvlab.web import outcome, places
from kvlab.web.training import actions, charts, end, share
from kvlab.web.training import source as live_source
from kvlab.web.training import words as live_words
from kvlab.web.training import words as report_words
from kvlab.web.training.source import Source
from kvlab.web.widgets import UNKNOWN, duration, plain, show_error

EVERY = 1.0  # seconds between two looks at a run that is at work


def panel(run_id: str) -> None:
    """Draw a training run, whatever its state; an id of none is one message."""
    try:
        view = _view(run_id)
    except RunError as error:
        show_error(error)
        return
    if view.kind == "analysis":
        st.info(say("This is an analysis, not a training run."), icon=":material/info:")
        st.page_link(places.alignment(), label=say("Show it"), query_params={"run": run_id}, icon=":material/grid_on:")
        return
    if view.kind == "injection":
        st.info(say("This is a functional test, not a training run."), icon=":material/info:")
        st.page_link(places.function(), label=say("Show it"), query_params={"run": run_id}, icon=":material/science:")
        return
    moving = _moving(view)
    # One fragment for a run that moves and one that rests, so that the charts stay as they are when it ends.
    st.fragment(_draw, run_every=EVERY if moving else None)(run_id, moving)


def _draw(run_id: str, moving: bool) -> None:
    try:
        view = _view(run_id)
    except RunError as error:
        show_error(error)
        return
    if moving != _moving(view):
        st.rerun()  # the page with it: the timer starts or stops
    source = live_source.of(view.folder)
    _heading(view)
    _state(view, source, moving)
    _numbers(view, source)
    _charts(view, source)
    _checkpoints(source, view)
    _router(view, source)
    _log(source)


def _view(run_id: str) -> View:
    return monitor.view(store.find(store.runs_root(), run_id))


def _moving(view: View) -> bool:
    """Whether anything may still change: the run, its process, or the cause that the keeper is about to write."""
    unexplained = view.state == "lost" and run_queue.place(view.folder) is not None
    return (
        view.active
        or not training.gone(view.folder)
        or (unexplained and run_queue.keeper(view.folder.parent) is not None)
    )


def _heading(view: View) -> None:
    settings = view.config
    teachers = settings.get("teachers") or ()
    pair = " + ".join(map(str, teachers)) + f" → {settings.get('student')}" if teachers else view.name
    st.subheader(plain(pair), anchor=False)
    facts = [say("run {id}", id=view.id)]
    if len(teachers) > 1:
        facts.append(say("{fusion} fusion", fusion=settings.get("fusion")))
    if control := live_words.control(settings.get("control")):
        facts.append(control)
    st.caption(plain(" · ".join(facts)))


def _state(view: View, source: Source, moving: bool) -> None:
    if not view.active:
        end.outcome(view, source)
        outcome.show(view.id)
        with st.container(horizontal=True):
            end.again(view)
            actions.buttons(view)
            if not moving:  # while it is drawn anew each second, a click could meet a button that is gone
                share.button(view.folder)
        return
    left, right = st.columns([7, 3], vertical_alignment="center")
    with right:  # before anything that may wait
        actions.buttons(view)
    with left:
        if view.state == "queued":
            _queued(view)
        else:
            words = plain(live_words.going_on(view))
            st.progress((view.share or 0.0) if view.total > 1 else 0.0, text=words)
    outcome.show(view.id)
    actions.question(view)


def _queued(view: View) -> None:
    root = view.folder.parent
    st.info(live_words.waiting(run_queue.place(view.folder) or 0), icon=":material/hourglass_top:")
    if run_queue.keeper(root) is None:  # it was killed: whoever looks sets the queue going again
        try:
            run_queue.attend(root)
        except KvlabError as error:
            show_error(error)


def _numbers(view: View, source: Source) -> None:
    steps = source.steps()
    total = view.config.get("max_steps")
    total = total if isinstance(total, int) else 0
    speed = pace(steps, total)
    per_second = f"{1 / speed.seconds_per_step:.2f}" if speed.seconds_per_step else UNKNOWN
    loss = steps.column("loss")
    shown = {
        say("Step"): say("{done:,} of {total:,}", done=speed.step, total=total),
        say("Loss"): f"{loss[-1]:.4f}" if loss else UNKNOWN,
        say("Elapsed"): duration(view.elapsed_s),
        say("Remaining"): live_words.remaining(view, speed),
        say("Steps per second"): per_second,
        say("Tokens per second"): f"{speed.tokens_per_s:,.0f}" if speed.tokens_per_s else UNKNOWN,
    }
    with st.container(key="live-numbers"):
        for column, (name, value) in zip(st.columns(len(shown)), shown.items()):
            column.metric(name, value)
    device = source.report().get("device")
    if isinstance(device, dict) and device.get("words"):
        st.caption(say("How it computes: it {words}.", words=plain(str(Message.read(device["words"])))))


def _charts(view: View, source: Source) -> None:
    steps = source.steps()
    loss, ce, memory = st.columns(3)
    with loss:
        st.markdown(say("**Loss terms**, raw (thin), smoothed (thick)"))
        chart = charts.terms(steps, charts.TERMS, say("loss"))
        _chart(chart, f"terms-{view.id}", say("Loss terms over steps"))
    with ce:
        st.markdown(say("**Cross-entropy** on the training text"))
        chart = charts.terms(steps, charts.CE, say("nats per token"))
        _chart(chart, f"ce-{view.id}", say("Cross-entropy over steps"))
    with memory:
        chart, what = charts.memory(source.memory(), _limit(view))
        st.markdown(live_words.memory(what if chart else ""))
        _chart(chart, f"memory-{view.id}", say("Memory in use over time"))


def _router(view: View, source: Source) -> None:
    teachers = [str(name) for name in view.config.get("teachers") or ()]
    if len(teachers) > 1 and (chart := charts.router(source.steps(), teachers)):
        st.markdown(say("**Weight of each teacher**, mean over layers and rows of a step"))
        _chart(chart, f"router-{view.id}", say("Weight of each teacher over steps"))


def _chart(chart, key: str, words: str) -> None:
    if chart is None:
        st.caption(say("Nothing is logged yet."))
    else:  # a selection that the page is told of is one that new points do not reset
        st.altair_chart(chart, key=key, alt=words, on_select=_keep, selection_mode=[charts.ZOOM])


def _keep() -> None:
    """The zoom is in the chart's own state."""


def _limit(view: View) -> float:
    settings = live_source.settings_of(view.config)
    return settings.thresholds.memory if settings else Thresholds().memory


def _checkpoints(source: Source, view: View) -> None:
    st.markdown(say("**Checkpoints**"))
    rows = [
        {
            say("step"): str(row.get("step", "")),
            say("checked"): plain(report_words.checkpoint(str(row.get("name", "")))),
            say("result"): live_words.result(row.get("state")),
            say("value"): _written(row.get("value")),
            say("threshold"): _written(row.get("threshold")),
            say("found"): plain(report_words.remarked(row)),
        }
        for row in source.checkpoints(live_source.settings_of(view.config))
    ]
    if rows:
        st.table(rows, hide_index=True, alt=say("The checkpoints of the verdict"))
    else:
        st.caption(say("The settings of this run cannot be read, so its checkpoints are not known."))


def _written(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else UNKNOWN


def _log(source: Source) -> None:
    name, text = source.log()
    st.markdown(say("**{log}**, the last lines", log=name or say("Log")))
    if text:
        st.code(text, language=None, wrap_lines=True)
    else:
        st.caption(say("Nothing is logged yet."))
    if source.damaged_lines:
        st.caption(
            say(
                "{n} damaged lines of the logged numbers were passed over; all others are shown.",
                n=source.damaged_lines,
            )
        )
