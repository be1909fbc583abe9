"""Two analyses side by side: A is open, the user picks B (`?run=A&with=B`)."""

from collections.abc import Sequence

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.request.align import prompt_source
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.difference import (
    DIFFERENCE_MEANING,
    TEXT,
    HeadDifference,
    compared_settings,
    difference_heatmap,
    difference_sentence,
    differences_table,
    gain_sentence,
    matched,
    means_table,
    one_difference_sentence,
    shapes_sentence,
)
from kvlab.results.alignment.heads import controls, r2_map
from kvlab.results.alignment.sentences import sentence
from kvlab.results.style import KIND_NAME
from kvlab.results.words import listed
from kvlab.runs import labels
from kvlab.runs.monitor import View
from kvlab.web import backend, cells, files, language, picker, settings_differ
from kvlab.web.cells import Cell
from kvlab.web.widgets import count, grid, number, plain, show_error, table_height

WITH, TEACHER = "with", "with_teacher"  # parameters of the address
ABOUT = phrase("Choose a second analysis: other prompts, another rule, another teacher. The one that is open is A.")
ALONE = phrase("There is no second analysis yet. Run one with “New analysis” above: other prompts, rules or teachers.")
SAME = phrase("This is analysis A itself. Choose another one.")
GAIN_MEANING = phrase(
    "Colour: what the teacher of B says beyond its strongest control, minus the same of A (held-out R²); purple is "
    "more in B, orange less. “=” marks a difference within two standard errors of none."
)
OTHER_STUDENT = phrase("The students are different models; a head is compared with the head of the same number.")
PER_HEAD = phrase("Analysis {letter}: {kind} R² per student layer and KV head")
ERRORS = phrase("R² of A and of B, on one colour range")
NO_RESULT = {
    "queued": phrase("Analysis B has no result: it is queued."),
    "running": phrase("Analysis B has no result: it is running."),
    "failed": phrase("Analysis B has no result: it is failed."),
    "cancelled": phrase("Analysis B has no result: it was stopped."),
    "lost": phrase("Analysis B has no result: it is lost."),
}
MEANS = ("A", "B", "B − A")


def _columns() -> dict:
    """Configure the table's columns, named as in ``difference.differences_table``."""
    return {
        "gain": number(say("gain of B − A"), say("R² beyond the strongest control of each, B minus A.")),
        "gain_se": number(say("gain ± s.e.")),
        "difference": number(say("R² of B − R² of A")),
        "se": number(say("± s.e."), say("√(s.e. of A² + s.e. of B²).")),
        "clear": st.column_config.CheckboxColumn(say("beyond 2 s.e.")),
        "r2_a": number("R² A"),
        "se_a": number(say("± s.e. A")),
        "n_a": count(say("n tokens A")),
        "r2_b": number("R² B"),
        "se_b": number(say("± s.e. B")),
        "n_b": count(say("n tokens B")),
    }


def panel(alignment: Alignment, shown: str) -> None:
    """Draw the picker of B and the comparison. ``alignment`` is A; ``shown`` names it."""
    others = [view for view in backend.listed("analysis") if view.state == "done"]
    chosen = _picker(others, alignment, shown)
    if chosen is None:
        return
    try:
        view = None if chosen == backend.SAMPLE else backend.view_of(chosen)
        if view is not None and view.state != "done":
            st.info(say(NO_RESULT[view.state]), icon=":material/info:")
            return
        # If B is the run of A, start with its second teacher.
        other, name = picker.of_teacher(chosen, say("Teacher of B"), TEACHER, 1 + (chosen == shown))
    except KvlabError as error:
        show_error(error)
        return
    if name == shown:
        st.info(say(SAME), icon=":material/info:")
        return
    _comparison(alignment, other, f"{shown}-{name}")


def _comparison(a: Alignment, b: Alignment, shown: str) -> None:
    differences = _matched(shown, (id(a), id(b)), a, b)
    st.markdown(say("**B:** {finding}", finding=plain(sentence(b))))
    for note in b.notes:  # the page shows the notes of A above all views
        st.caption(say(":material/info: B: {note}", note=plain(note)))
    if differences:
        st.markdown(f"**{gain_sentence(differences)}**")
        st.caption(difference_sentence(differences))
    else:
        st.warning(plain(shapes_sentence(a, b)), icon=":material/info:")
    all_settings = [compared_settings(a), compared_settings(b)]
    if differing := settings_differ.differing(TEXT, all_settings):
        names = listed([say(name) for name in differing])
        st.caption(say("Not measured on the same text: {names} differ.", names=names))
    if differences and a.student["name"] != b.student["name"]:
        st.caption(say(OTHER_STUDENT))
    if differences:
        _maps(a, b, differences, shown)
    means = means_table(a, b)
    means[list(MEANS)] = means[list(MEANS)].round(3) + 0  # no negative zero
    st.subheader(say("Means over heads"))
    columns = {name: number(name) for name in MEANS} | {phrase("R² of"): say("R² of")}
    alt = say("Held-out R² of A and B, mean over heads, with what each control reaches")
    grid(means, columns, alt, table_height(len(means), 360))
    settings_differ.table(all_settings, ["A", "B"], spoken=[name for name in all_settings[0] if " " in name])


@st.cache_resource(show_spinner=False, max_entries=8)
def _matched(shown: str, identities: tuple[int, int], _a: Alignment, _b: Alignment) -> list[HeadDifference]:
    """Match the heads of both, cached. ``identities`` tells two readings of the same files apart."""
    return matched(_a, _b)


def _maps(a: Alignment, b: Alignment, differences: Sequence[HeadDifference], shown: str) -> None:
    raw = st.toggle(say("R² itself, without its controls"), key=f"difference-raw-{shown}")
    st.caption(say(DIFFERENCE_MEANING if raw else GAIN_MEANING))
    cell = cells.selected(a)
    cells.maps(
        lambda kind, marked: difference_heatmap(a, differences, kind, marked, "r2" if raw else "gain"),
        cell,
        "difference",
        shown,
        say(
            "{kind} of B minus {kind} of A on held-out text, per student layer and KV head; the table below has the "
            "numbers."
        ),
    )
    frame = differences_table(differences)
    cells.table(frame, _columns(), "difference", shown, say("Every head in both analyses"))
    # Four more maps take as long as everything else: draw them only when the expander is open.
    errors = st.expander(say(ERRORS), icon=":material/grid_on:", key=f"errors-{shown}", on_change="rerun")
    if errors.open:
        with errors:
            _errors(a, b, cell, shown)
    _detail(a, b, differences, cell, shown)


def _errors(a: Alignment, b: Alignment, cell: Cell, shown: str) -> None:
    for letter, alignment in (("A", a), ("B", b)):
        st.markdown(_named(letter, alignment))
        for column, kind in zip(st.columns(2), KIND_NAME, strict=True):
            figure = r2_map(alignment, kind, cell[1:] if cell[0] == kind else None)
            alt = say(PER_HEAD, letter=letter, kind=KIND_NAME[kind])
            with column:
                files.chart(figure, f"error-{letter}-{shown}-{kind}", alt, f"{letter}-{KIND_NAME[kind]}-r2")


def _detail(a: Alignment, b: Alignment, differences: Sequence[HeadDifference], cell: Cell, shown: str) -> None:
    head = next(d for d in differences if (d.kind, d.layer, d.head) == cell)
    with st.container(border=True, key="detail"):
        st.subheader(cells.words(cell))
        st.markdown(one_difference_sentence(head))
        for column, letter, alignment in zip(st.columns(2), "AB", (a, b), strict=True):
            with column:
                st.markdown(_named(letter, alignment))
                alt = say("Analysis {letter}: R² of this head beside its controls", letter=letter)
                name = f"{letter}-controls-{cells.name_of(cell)}"
                files.chart(controls(alignment.score(*cell)), f"controls-{letter}-{shown}", alt, name)


def _named(letter: str, alignment: Alignment) -> str:
    teacher, prompts = plain(alignment.teacher["name"]), plain(prompt_source(alignment.prompts))
    return say("**{letter}:** {teacher}, {prompts}", letter=letter, teacher=teacher, prompts=prompts)


def _picker(others: Sequence[View], a: Alignment, shown: str) -> str | None:
    """Draw the picker of B and return its id, first from this session or the address; write it to both."""
    names = backend.labels(others)
    if len(a.teachers) < 2:
        names.pop(shown, None)
    baseline = next((view.id for view in others if view.id != shown and labels.read(view.folder).baseline), None)
    wanted = st.session_state.get(WITH) or st.query_params.get(WITH) or baseline
    if wanted:
        names.setdefault(wanted, wanted)
    if not names:
        st.info(say(ALONE), icon=":material/info:")
        return None
    key = f"with-picker-{shown}"
    if st.session_state.get(key) not in names:
        st.session_state[key] = wanted
    language.keep_choice(key)

    def picked() -> None:
        st.session_state[WITH] = st.session_state[key]
        st.query_params.pop(TEACHER, None)

    chosen = st.selectbox(
        say("Compare with (B)"),
        list(names),
        index=None,
        format_func=names.get,
        placeholder=say("Choose an analysis"),
        key=key,
        on_change=picked,
    )
    if chosen is None:
        st.caption(say(ABOUT))
        forget()
        return None
    st.session_state[WITH] = st.query_params[WITH] = chosen
    return chosen


def forget() -> None:
    """Remove B from the address, for the other views."""
    for name in (WITH, TEACHER):
        st.query_params.pop(name, None)
