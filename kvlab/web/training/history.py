"""The Runs page: history, selection, then one run in detail or several side by side."""

from collections.abc import Sequence

import streamlit as st

from kvlab.language import phrase, plural, say
from kvlab.runs import store
from kvlab.runs.history import Row
from kvlab.web import language, outcome, places
from kvlab.web.training import actions, charts, compare, launch, one, source, table, words
from kvlab.web.widgets import plain

SHOWN = {  # kind: its name in the switch, and the text shown without such runs
    "training": (phrase("Training runs"), phrase("No training runs yet in {folder}.")),
    "analysis": (phrase("Analyses"), phrase("No analyses yet in {folder}.")),
    "injection": (phrase("Functional tests"), phrase("No functional tests yet in {folder}.")),
    "certificate": (phrase("Certificates"), phrase("No certificates yet in {folder}.")),
    "all": (phrase("All"), phrase("No runs yet in {folder}.")),
}
LAUNCH = {  # where runs of a kind are launched
    "training": (places.validation, phrase("Launch a training run"), ":material/model_training:"),
    "analysis": (places.alignment, phrase("Start an analysis"), ":material/grid_on:"),
    "injection": (places.function, phrase("Start a functional test"), ":material/science:"),
    "certificate": (places.certificate, phrase("Make a certificate"), ":material/verified:"),
    "all": (places.alignment, phrase("Start an analysis"), ":material/grid_on:"),
}
KEY = "run-{}"  # for the buttons of one run
LOOK = 2.0  # seconds between two checks of active runs


def page() -> None:
    st.title(say("Runs"))
    rows = source.rows()
    selected, unknown = table.selected(rows)
    if "runs-show" not in st.session_state and selected:
        kinds = {row.kind for row in selected} & set(SHOWN) or {"training"}
        st.session_state["runs-show"] = kinds.pop() if len(kinds) == 1 else "all"
    launch.attend()
    drawn = _drawn(rows, selected)
    colours = _colours(drawn) if len(selected) > 1 else {}
    listed = _history(rows, selected, colours)
    selected = [row for row in selected if row.id in listed]
    outcome.show(KEY, [row.id for row in selected])
    if unknown:
        st.warning(
            say(
                "Not in {folder}, deleted or never there: {names}. The others are shown."
                if selected
                else "Not in {folder}, deleted or never there: {names}.",
                folder=_folder(),
                names=plain(table.named(unknown)),
            ),
            icon=":material/search_off:",
        )
    if len(selected) == 1:
        one.panel(selected[0], KEY)
    elif selected:
        _several(selected, [row for row in drawn if row.id in listed or row.labels.baseline], colours)
    elif rows:
        st.caption(say("Tick one run to see it in detail, several to lay them over each other."))
    if any(row.active for row in rows):
        st.session_state["runs-seen"] = _seen(rows)
        _look()


def _drawn(rows: Sequence[Row], selected: Sequence[Row]) -> list[Row]:
    """Return the training runs to lay over each other: the selected ones, beside the baseline."""
    drawn = [row for row in selected if row.kind not in store.COMPUTED]
    baseline = [row for row in rows if row.labels.baseline and row.kind not in store.COMPUTED and row not in drawn]
    return [*(baseline[:1] if drawn else []), *drawn][: charts.DRAWN]


def _colours(drawn: Sequence[Row]) -> dict[str, int]:
    """Return the position of each run's colour. A run keeps it while others are ticked and unticked."""
    kept: dict[str, int] = st.session_state.setdefault("runs-colours", {})
    taken: dict[str, int] = {}
    for row in drawn:
        place = kept.get(row.id)
        if place is None or place in taken.values():
            others = {kept[other.id] for other in drawn if other.id in kept} | set(taken.values())
            place = next(n for n in range(len(others) + 1) if n not in others)
        taken[row.id] = kept[row.id] = place
    return taken


def _history(rows: Sequence[Row], selected: Sequence[Row], colours: dict[str, int]) -> set[str]:
    """Draw the list; return the ids of the runs in it."""
    language.keep_choice("runs-show", "training")
    names = {kind: say(name) for kind, (name, _) in SHOWN.items()}
    left, right = st.columns([5, 3], vertical_alignment="center")
    picked = left.segmented_control(
        say("Show"), list(names), format_func=names.get, key="runs-show", label_visibility="collapsed"
    )
    kind = picked or "all"
    wanted = right.text_input(
        say("Filter"),
        key="runs-filter",
        placeholder=say("Filter by name, tag, control, note or state"),
        label_visibility="collapsed",
        icon=":material/search:",
    )
    # A damaged run of unknown kind may be a training run.
    shown = [row for row in rows if kind == "all" or row.kind == kind or (kind == "training" and row.kind == "unknown")]
    if not shown:
        st.info(say(SHOWN[kind][1], folder=_folder()))
        place, label, icon = LAUNCH[kind]
        st.page_link(place(), label=say(label), icon=icon)
        return set()
    listed, shown = len(shown), table.matching(shown, wanted)
    shown = sorted(shown, key=lambda row: not row.labels.baseline)  # the baseline first
    hidden = len({row.id for row in selected} - {row.id for row in shown})
    active = sum(row.active for row in shown)
    facts = [plural(len(shown), "{n} run, newest first", "{n} runs, newest first")]
    if listed > len(shown):
        facts.append(plural(listed - len(shown), "{n} filtered out", "{n} filtered out"))
    if active:
        facts.append(say("{n} waiting or running", n=active))
    if hidden:
        facts.append(say("{n} selected, but not in this list", n=hidden))
    st.caption(say("{facts}. Click a heading to sort.", facts=" · ".join(facts)))
    table.panel(shown, selected, colours, kind)
    return {row.id for row in shown}


def _folder() -> str:
    return plain(store.runs_root())


def _several(selected: Sequence[Row], drawn: Sequence[Row], colours: dict[str, int]) -> None:
    _common_actions(selected)
    left_out = [row for row in selected if row.kind not in store.COMPUTED and row not in drawn]
    if left_out:
        st.info(
            say(
                "The first {drawn} of the selected training runs are shown below, {others} are not.",
                drawn=len(drawn),
                others=len(left_out),
            )
        )
    if any(row.kind in store.COMPUTED for row in selected):
        st.caption(say("Only training runs have steps that are laid over each other."))
    if drawn:
        charts.panel(drawn, colours)
        compare.results(drawn, colours)
    if len(drawn) > 1:
        compare.settings(drawn)


def _common_actions(selected: Sequence[Row]) -> None:
    """Draw the buttons that act on several runs at once."""
    over = [row for row in selected if not row.active]
    with st.container(horizontal=True, key="run-actions"):
        if len(over) > 1:
            actions.delete(over, KEY, say("Delete {n} runs", n=len(over)), "runs-delete")
        elif over:
            actions.delete(over, KEY, say("Delete {name}", name=plain(words.name(over[0])[:60])), "runs-delete")
        if st.button(say("Select none"), key="runs-none", icon=":material/deselect:"):
            table.select([])
            st.rerun()
    actions.question(over, KEY, KEY, table.drop)


@st.fragment(run_every=LOOK)
def _look() -> None:
    if _seen(source.rows()) != st.session_state.get("runs-seen"):
        st.rerun()


def _seen(rows: Sequence[Row]) -> list[tuple]:
    return [(row.id, row.state, row.phase, row.step, row.stopping, row.ahead, row.verdict) for row in rows]
