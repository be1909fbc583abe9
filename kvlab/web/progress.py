"""Show the progress of an analysis or functional test from its folder, with Cancel, or how it ended."""

from dataclasses import replace

import streamlit as st

from kvlab.errors import KvlabError, RunError
from kvlab.language import Message, phrase, say
from kvlab.request.prompts import RUN_PROMPTS
from kvlab.results import run_name
from kvlab.results.alignment import so_far
from kvlab.results.alignment.heads import map_so_far
from kvlab.results.style import KIND_NAME
from kvlab.runs import store
from kvlab.runs.monitor import View
from kvlab.shapes import phase_words
from kvlab.web import backend, files, outcome, places, stages
from kvlab.web.server import worker
from kvlab.web.widgets import plain, show_error

# What an interrupted run goes on from, by its kind: the names of align.unfinished, which needs torch.
UNFINISHED = {
    "analysis": "unfinished.safetensors",
    "injection": "unfinished-refinement.safetensors",
    "certificate": "unfinished-refinement.safetensors",
}
REFINED = phrase(
    "What had been refined is kept: the maps are fitted again and refining goes on from there, unless kvlab has "
    "changed since."
)
GOES_ON = {
    "analysis": phrase("What had been read is kept: the analysis goes on from there, unless kvlab has changed since."),
    "injection": REFINED,
    "certificate": REFINED,
}

# Kind of a run -> its page.
PAGES = {"analysis": places.alignment, "injection": places.function, "certificate": places.certificate}
RUNNING = {
    "analysis": phrase("Analysis {name}: {phase}"),
    "injection": phrase("Functional test {name}: {phase}"),
    "certificate": phrase("Certificate {name}: {phase}"),
}
ENDS = {
    "analysis": {
        "cancelled": phrase("This analysis was stopped."),
        "lost": phrase("This analysis was lost"),
        "failed": phrase("This analysis failed"),
    },
    "injection": {
        "cancelled": phrase("This functional test was stopped."),
        "lost": phrase("This functional test was lost"),
        "failed": phrase("This functional test failed"),
    },
    "certificate": {
        "cancelled": phrase("This certificate was stopped."),
        "lost": phrase("This certificate was lost"),
        "failed": phrase("This certificate failed"),
    },
}


ALLOCATIONS = {  # state of the worker's allocation: words, icon
    "waiting": (phrase("The worker waits for its allocation (Slurm job {job})."), ":material/hourglass_top:"),
    "here": (
        phrase("The worker has its allocation (Slurm job {job}) and keeps it until you give it back."),
        ":material/memory:",
    ),
    "ended": (
        phrase("The worker's allocation has ended (Slurm job {job}); the next analysis asks for another."),
        ":material/power_settings_new:",
    ),
}


def allocation() -> None:
    """Say on every page where srun has brought the worker, if it has, with the button that gives it back."""
    if worker().allocation is not None:
        _allocation()


@st.fragment(run_every=2.0)
def _allocation() -> None:
    found = worker().allocation
    if found is None:
        return
    words, icon = ALLOCATIONS[found.state]
    left, right = st.columns([5, 1], vertical_alignment="center")
    left.caption(f"{icon} {say(words, job=found.job)}")
    if found.state != "ended" and right.button(say("Give it back"), key="allocation-end", width="stretch"):
        outcome.of("allocation", _given_back, say("Ending the worker…"))
    outcome.show("allocation", found.state)


def _given_back() -> Message:
    worker().stop()
    return Message("The allocation is given back.")


def banner(page: str) -> None:
    """Show what the worker computes, with a link, on every page but its own. ``page``: the current one."""
    for kind, kind_page in PAGES.items():
        active = next((view for view in backend.listed(kind) if view.active), None)
        if active is not None and page != kind_page().url_path:
            _banner(active.id, kind)
            return


@st.fragment(run_every=2.0)
def _banner(run_id: str, kind: str) -> None:
    view = _view(run_id)
    if view is None or not view.active:
        st.rerun()
    left, right = st.columns([5, 1], vertical_alignment="center")
    left.info(
        say(RUNNING[kind], name=plain(run_name.of_run(view.folder, view.kind, view.name)), phase=plain(_phase(view))),
        icon=":material/progress_activity:",
    )
    if right.button(say("Show it"), key="banner-show", width="stretch"):
        if kind == "analysis":
            st.session_state["run"] = run_id
        st.switch_page(PAGES[kind](), query_params={"run": run_id})


def _view(run_id: str) -> View | None:
    try:
        return backend.view_of(run_id)
    except RunError:
        return None


@st.fragment(run_every=0.5)
def running(run_id: str) -> None:
    """Show the progress of one run; rerun the whole page at its end."""
    view = _view(run_id)
    if view is None or not view.active:
        st.rerun()
    left, right = st.columns([5, 1], vertical_alignment="center")
    with left:
        stages.line(view.kind, view.phase or "starting", view.done, view.total)
        st.progress((view.share or 0.0) if view.total > 1 else 0.0, text=plain(_phase(view)))
    if right.button(say("Cancel"), key=f"cancel-{run_id}", width="stretch", icon=":material/stop_circle:"):
        outcome.of(run_id, lambda: worker().cancel(backend.folder_of(run_id)), say("Asking the worker to stop…"))
    outcome.show(run_id)
    if view.kind == "analysis":
        _so_far(run_id)


def _so_far(run_id: str) -> None:
    """Draw the first scores of a running analysis, once there are any."""
    scores = so_far.read(backend.folder_of(run_id))
    if scores is None:
        return
    st.caption(so_far.caption(replace(scores, teacher=plain(scores.teacher))))
    for column, kind in zip(st.columns(2), KIND_NAME, strict=True):
        alt = say("{kind} R² so far, per student layer and KV head", kind=KIND_NAME[kind])
        figure = map_so_far(scores, kind)
        column.plotly_chart(figure, key=f"so-far-{run_id}-{kind}", config=files.NO_BAR, alt=alt)


def _phase(view: View) -> str:
    """Describe the stage, count, elapsed and remaining time."""
    if view.state == "queued":
        if backend.ready():
            return say("waiting for the worker")
        return say("waiting for the worker — it is still starting (about 10 s)")
    phase = phase_words(view.phase) or say("starting")
    if view.total > 1:
        phase = say("{phase} {done} of {total}", phase=phase, done=view.done, total=view.total)
    words = [phase]
    if view.elapsed_s is not None:
        words.append(say("{seconds:.0f} s elapsed", seconds=view.elapsed_s))
    if view.phase_remaining_s is not None:
        words.append(say("about {seconds:.0f} s left in this stage", seconds=view.phase_remaining_s))
    if view.overdue:
        words.append(say("no update for {seconds:.0f} s: a long step, or stuck", seconds=view.silent_s))
    return " · ".join(words)


def ended(view: View) -> bool:
    """Return whether a run has a result to show; if not, say how it ended."""
    if view.state == "done":
        return True
    ends = ENDS[view.kind if view.kind in ENDS else "analysis"]
    if view.state == "cancelled":
        st.info(say(ends["cancelled"]))
    else:
        st.subheader(say(ends["lost" if view.state == "lost" else "failed"]))
        try:
            show_error(KvlabError.from_dict(view.error))
        except (KeyError, TypeError):
            st.error(say("No reason was recorded. Its folder may be damaged; run the analysis again."))
    _again(view)
    return False


def _again(view: View) -> None:
    """Offer to run it again, if its folder still holds the request."""
    if not {store.CONFIG, RUN_PROMPTS} <= set(view.files):
        return
    if UNFINISHED.get(view.kind) in view.files:
        label, icon = say("Continue"), ":material/resume:"
        about = say(GOES_ON[view.kind])
    else:
        label, icon = say("Run again"), ":material/replay:"
        about = say("With the same prompts and settings, from the beginning.")
    if st.button(label, key=f"again-{view.id}", icon=icon, type="primary", help=about):
        try:
            backend.again(view.folder)
        except KvlabError as error:
            show_error(error)
            return
        outcome.forget(view.id)
        st.rerun()
    st.caption(about)
