"""The Experiments page: the list of experiments, and one with its verdict, figure, comparisons and runs."""

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import Message, phrase, plural, say
from kvlab.request.experiment import CONTROLLED, Experiment, arms_of
from kvlab.request.prompts import RUN_PROMPTS
from kvlab.request.settings import checked
from kvlab.request.train import OWN_PROMPTS, TrainConfig
from kvlab.results.safe_csv import neutral
from kvlab.results.training import experiment_report
from kvlab.results.training.experiment import HELPS, HELPS_NOT, gather
from kvlab.results.training.experiment_report import REPORT_OF_FORM, STATES
from kvlab.runs import experiment, store
from kvlab.runs.places.slurm import SlurmSettings
from kvlab.web import outcome, places
from kvlab.web.files import chart, download
from kvlab.web.training import launch, place, share
from kvlab.web.widgets import grid, plain, show_error, table_height

SEEDS = (0, 1, 2)  # of one click
CHOSEN = "experiment-shown"  # in the session: the experiment that the page shows
KEY = "experiments"  # the place of the outcome of the last action
EVERY = 2.0  # seconds between two redraws while runs are active
ABOUT = phrase(
    "An experiment trains every arm with the same seeds on the same held-out text and compares them seed by seed. Its "
    "runs wait in the queue like any others: close this page whenever you like."
)
WITH_CONTROLS = phrase(
    "The same run, CE only and a shuffled teacher, with the seeds 0, 1 and 2; runs that exist already are taken in."
)
BOXES = {HELPS: (st.success, ":material/check_circle:"), HELPS_NOT: (st.warning, ":material/info:")}


def page() -> None:
    st.title(say("Experiments"))
    launch.attend()
    st.markdown(say(ABOUT))
    outcome.show(KEY)
    folders = experiment.listing(store.runs_root())
    if not folders:
        st.info(say("No experiments yet. “Launch with its controls, 3 seeds” on the Validation page begins one."))
        st.page_link(places.validation(), label=say("Validation"), icon=":material/model_training:")
        return
    names = [folder.name for folder in folders]
    wanted = st.query_params.get("experiment") or st.session_state.get(CHOSEN)
    place = names.index(wanted) if wanted in names else 0
    shown = st.selectbox(say("Experiment"), names, place, format_func=lambda name: f"{_name(name)} · {name[:15]}")
    st.query_params["experiment"] = st.session_state[CHOSEN] = shown
    folder = folders[names.index(shown)]
    moving = _active(folder)
    st.fragment(_draw, run_every=EVERY if moving else None)(folder, moving)


def _draw(folder: Path, moving: bool) -> None:
    if _active(folder) != moving:
        st.rerun()  # the whole page, to start or stop the timer
    try:
        report = gather(folder)
    except KvlabError as error:
        show_error(error)
        return
    _verdict(report)
    st.caption(plain(experiment_report.judging(report)))
    _actions(folder, report)
    if figure := experiment_report.figure(report):
        about = say("Changes of each measure during training, by arm and seed, with t intervals")
        chart(figure, f"experiment-{report['id']}", about, f"experiment-{report['id']}")
    _comparisons(report)
    _runs(report)


def _verdict(report: dict[str, Any]) -> None:
    if found := report["verdict"]:
        box, icon = BOXES.get(found["state"], (st.info, ":material/hourglass_top:"))
        box(plain(found["words"]), icon=icon)


def _actions(folder: Path, report: dict[str, Any]) -> None:
    states = [run["state"] for run in report["runs"]]
    ended = sum(state in ("failed", "cancelled", "lost") for state in states)
    with st.container(horizontal=True, key="experiment-actions"):
        active = any(state in store.ACTIVE for state in states)
        if active and st.button(say("Stop its runs"), key="experiment-stop", icon=":material/stop_circle:"):
            outcome.of(KEY, lambda: _stop(folder), say("Asking them to stop…"))
        if ended:
            label = plural(ended, "Resume {n} run that ended early", "Resume {n} runs that ended early")
            if st.button(label, key="experiment-resume", icon=":material/resume:", type="primary"):
                outcome.of(KEY, lambda: _resume(folder), say("Queueing them…"))
        fills = {"key": "experiment-fill", "icon": ":material/play_arrow:"}
        if "missing" in states and st.button(say("Launch what is missing"), **fills):
            outcome.of(KEY, lambda: _fill(folder), say("Queueing them…"))
        if report["over"]:
            about = say("A look that was not planned: from then on the intervals are wider.")
            if st.button(say("Add 2 seeds"), key="experiment-more", icon=":material/add:", help=about):
                outcome.of(KEY, lambda: _extend(folder, report), say("Queueing them…"))
        _downloads(report)


def _downloads(report: dict[str, Any]) -> None:
    with st.popover(say("Report and files"), icon=":material/download:", key=f"experiment-take-{report['id']}"):
        language = share.language_of_report("experiment-in")
        for form, (label, mime) in share.REPORTS.items():

            def made(form: str = form, language: str = language) -> str:
                return experiment_report.text_of(report, form, language)

            name = f"{report['id']}-{REPORT_OF_FORM[form]}"
            download(say(label), made, name, mime, f"experiment-{form}", width="stretch")


def _comparisons(report: dict[str, Any]) -> None:
    st.subheader(plain(say("{judged} against the other arms, at the end", judged=report["judged"])), anchor=False)
    rows = [{name: neutral(str(value)) for name, value in row.items()} for row in _rows(report)]
    if not rows:
        st.caption(say("No run has ended yet."))
        return
    headings = {
        "measure": say("measure"),
        "against": say("against"),
        "difference": say("difference"),
        "interval": say("interval"),
        "n": say("n seeds"),
        "margin": say("margin"),
        "call": say("call"),
        "more": say("more seeds to tell"),
    }
    alt = say("Differences at the end by measure and arm, with intervals and calls")
    grid(pd.DataFrame(rows), headings, alt, table_height(len(rows), 460))
    st.caption(plain(say(experiment_report.ABOUT)))
    st.caption(plain(experiment_report.measured_on(report)))


def _rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    return list(experiment_report.comparison_rows(report))


def _runs(report: dict[str, Any]) -> None:
    st.subheader(say("Runs"), anchor=False)
    rows = [
        {
            "arm": neutral(run["arm"]),
            "seed": run["seed"],
            "state": say(STATES[run["state"]]),
            "before": run["before"].get("ce"),
            "after": run["after"].get("ce"),
            "taken": say("yes") if run["taken"] else say("no"),
            "open": f"validation?run={run['id']}" if run["state"] != "missing" else None,
        }
        for run in report["runs"]
    ]
    headings = {
        "arm": say("arm"),
        "seed": say("seed"),
        "state": say("state"),
        "before": st.column_config.NumberColumn(say("CE before"), format="%.4f"),
        "after": st.column_config.NumberColumn(say("CE after"), format="%.4f"),
        "taken": say("existed before"),
        "open": st.column_config.LinkColumn(say("run"), display_text=say("Show it")),
    }
    grid(pd.DataFrame(rows), headings, say("The runs of the experiment"), table_height(len(rows), 460))


def button(config: TrainConfig, key: str, prompts: Path | None = None) -> None:
    """Draw the button that launches a run with its controls. ``prompts``: its prompts.jsonl, if it has its own."""
    label = say("Launch with its controls, 3 seeds")
    if st.button(label, key=key, icon=":material/science:", help=say(WITH_CONTROLS), width="stretch"):
        try:
            with st.spinner(say("Queueing the runs…")):
                own = prompts.read_bytes() if prompts and config.data == OWN_PROMPTS else None
                begin(config, own, place.of_run(prompts.parent) if prompts else None)
        except KvlabError as error:
            show_error(error)
            return
        st.switch_page(places.experiments())


def begin(config: TrainConfig, prompts: bytes | None = None, to: SlurmSettings | None = None) -> None:
    """Launch a run's settings with its controls, and show the experiment. Raises as experiment.create and launch."""
    settings = config.model_dump(mode="json", exclude={"seed", "control", "apart_from"})
    fields = {"name": launch.name_of(config), "settings": settings, "arms": arms_of(CONTROLLED), "plans": [SEEDS]}
    folder = experiment.create(store.runs_root(), checked(Experiment, fields), prompts)
    experiment.launch(folder, to)
    st.session_state[CHOSEN] = folder.name


def prompts_of(folder: Path) -> Path:
    return folder / RUN_PROMPTS


def _name(experiment_id: str) -> str:
    """Return the part of an id that names it."""
    return experiment_id.partition("-")[2]


def _active(folder: Path) -> bool:
    try:
        return any(state in store.ACTIVE for state in experiment.states(folder, experiment.read(folder)).values())
    except KvlabError:
        return False


def _stop(folder: Path) -> Message:
    return Message.plural(len(experiment.stop(folder)), "Asked {n} run to end.", "Asked {n} runs to end.")


def _resume(folder: Path) -> Message:
    return Message.plural(len(experiment.resume(folder)), "Queued: {n} run.", "Queued: {n} runs.")


def _fill(folder: Path) -> Message:
    experiment.launch(folder)
    return Message("Every arm and seed has its run.")


def _extend(folder: Path, report: dict[str, Any]) -> Message:
    following = max(report["seeds"]) + 1
    experiment.extend(folder, [following, following + 1])
    experiment.launch(folder)
    return Message("Queued, with the seeds {seeds}.", seeds=[following, following + 1])
