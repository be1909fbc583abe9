"""How a finished training run ended: whether it helps, whether it runs, the bars behind it, and the next step."""

from collections.abc import Sequence

import streamlit as st

from kvlab.language import Message, phrase, say
from kvlab.results.training import figures, helps, records
from kvlab.results.training.helps import Helps
from kvlab.results.training.records import Kin
from kvlab.results.training.report import compared
from kvlab.results.training.words import verdict_words
from kvlab.results.words import listed, sentences
from kvlab.runs.monitor import View
from kvlab.web import files, outcome, places
from kvlab.web.training import launch, words
from kvlab.web.training.source import Source
from kvlab.web.widgets import plain

# The colour follows whether the run helps: that it runs proves nothing.
BOXES = {
    helps.BETTER: (st.success, ":material/trending_up:"),
    helps.ALIKE: (st.warning, ":material/drag_handle:"),
    helps.WORSE: (st.error, ":material/trending_down:"),
    helps.OPEN: (st.info, ":material/help:"),
    helps.CONTROL: (st.info, ":material/balance:"),
}
ALT = phrase("Held-out numbers before and after the training, of this run and of its controls")
CONTROLS_HELP = phrase("One run each, with the same settings and held-out documents: {names}.")


def panel(view: View, source: Source, key: str) -> None:
    """Draw the verdicts of a finished run. ``key``: for its buttons, as in actions."""
    mine = records.kin_of(view.folder)
    kin = records.controls_among(mine, records.finished(view.folder.parent)) if mine else []
    judged = helps.judge(mine, kin) if mine else None
    left, right = st.columns([5, 6], gap="medium")
    with left:
        box, icon = BOXES[judged.state if judged else helps.OPEN]
        box(helps.lead(judged), icon=icon)
        checkpoints = [row | {"name": plain(row.get("name"))} for row in source.checkpoints()]
        st.markdown(verdict_words(source.verdict(), checkpoints, plain(view.config.get("max_steps", "?"))))
        if weights := _last_weights(view, source):
            st.caption(weights)
        if judged:
            _next(view, judged, kin, key)
    if not mine:
        return
    with right:
        runs = compared(mine.fields(), [run.fields() for run in kin])
        files.chart(figures.held_out(runs, title=False), f"held-out-{view.id}", say(ALT), "held-out")
        _numbers(view, source, judged)


def _next(view: View, judged: Helps, kin: Sequence[Kin], key: str) -> None:
    """Offer the next step: launch the missing controls, or lay the run over those that are there."""
    waiting = records.under_way(view.folder, view.config) if judged.missing else {}
    missing = [name for name in judged.missing if name not in waiting]
    if waiting:
        names = listed([say(helps.REFERENCES[name]) for name in waiting])
        st.caption(say(":material/hourglass_top: Its controls wait or run: {names}.", names=names))
    with st.container(horizontal=True, vertical_alignment="center"):
        if missing:
            names = listed([say(helps.REFERENCES[name]) for name in missing])
            if st.button(
                say("Launch its controls"),
                key=key.format("controls"),
                type="primary",
                icon=":material/balance:",
                help=say(CONTROLS_HELP, names=names),
            ):
                outcome.of(key, lambda: _launch(view, missing), say("Queueing its controls…"))
        if ids := [*(run.id for run in kin), *waiting.values()]:
            label = say("Compare with the run it controls") if judged.control != "none" else say("Compare with them")
            icon = ":material/stacked_line_chart:"
            st.page_link(places.runs(), label=label, icon=icon, query_params={"runs": ",".join([view.id, *ids])})


def _launch(view: View, controls: Sequence[str]) -> Message:
    for name in controls:
        launch.again(view.folder, {"control": name})
    return Message.plural(len(controls), "Queued: {n} control.", "Queued: {n} controls.")


def _numbers(view: View, source: Source, judged: Helps) -> None:
    with st.expander(say("What was compared"), icon=":material/info:"):
        rows = [
            dict(zip((say("measure"), say("against"), say("difference"), say("reads")), row))
            for row in helps.rows(judged)
        ]
        if rows:
            st.table(rows, hide_index=True, alt=say("Every comparison of the verdict"))
        about = helps.counted(judged)
        change = words.change(source.measured("before"), source.measured("after"))
        st.caption(sentences(about, change, words.function(source.report().get("functional"))))


def _last_weights(view: View, source: Source) -> str:
    teachers, steps = view.config.get("teachers") or (), source.steps()
    if len(teachers) < 2 or not steps.rows:
        return ""
    weights = [steps.column(f"router.{number}")[-1] for number in range(len(teachers))]
    shares = [f"{plain(name)} {weight:.0%}" for name, weight in zip(teachers, weights) if weight == weight]
    return say("Weights of the teachers in the last step: {shares}.", shares=shares) if shares else ""
