"""The views of one pinned head: controls, teacher heads, tokens, error spectrum, time rules. One shows at a time."""

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.heads import contribution_table, contributions, controls, token_scores, worst_tokens
from kvlab.results.alignment.one_head import contribution_sentence, rules_sentence, spectrum_sentence, worst_sentence
from kvlab.results.alignment.rules import rules_table, time_rules
from kvlab.results.alignment.sentences import apart_sentence, sources_of_head
from kvlab.results.alignment.spectrum import spectrum, spectrum_table
from kvlab.web import backend, cells, files, picker
from kvlab.web.cells import Cell
from kvlab.web.document import document_picker, token_window
from kvlab.web.widgets import count, method, number, show_error

WORST = 12  # tokens listed


def panel(alignment: Alignment, shown: str, cell: Cell) -> None:
    """Draw the view that the user clicked, else the one in the address."""
    VIEWS[picker.view(say("Shown of this head"), VIEWS, "pane", "pane")][1](alignment, shown, cell)


def _controls(alignment: Alignment, shown: str, cell: Cell) -> None:
    score = alignment.score(*cell)
    figure = controls(score)
    alt = say(
        "R² of this head from the teacher, for both classes of tokens, with the student’s own token, and from the "
        "controls: the student’s own tokens, the teacher’s token, random weights, group mean, shuffled rows, training "
        "mean"
    )
    files.chart(figure, f"controls-{shown}", alt)
    with st.container(horizontal=True):
        method(sources_of_head(alignment, score), apart_sentence(alignment, score))
        files.figure_button(figure, f"controls-{cells.name_of(cell)}", f"controls-{shown}")


def _teacher_heads(alignment: Alignment, shown: str, cell: Cell) -> None:
    st.markdown(say("**Which teacher heads it is built from** (ridge refitted without, and with only, each)"))
    figure = contributions(alignment, *cell)
    files.chart(figure, f"contributions-{shown}", say("Held-out R² lost without each teacher head, and of each alone"))
    st.caption(contribution_sentence(alignment, *cell))
    files.figure_button(figure, f"teacher-heads-{cells.name_of(cell)}", f"contributions-{shown}")
    table = contribution_table(alignment, *cell)
    columns = {
        "teacher_head": count(say("teacher KV head")),
        "without": number(say("R² lost without it")),
        "alone": number(say("R² from it alone")),
    }
    files.table(table, columns, f"teacher-heads-{cells.name_of(cell)}", f"contributions-{shown}")


def _tokens(alignment: Alignment, shown: str, cell: Cell) -> None:
    if not alignment.inspected:
        st.info(say("No document was kept token by token. Run again with --inspect above 0."))
        return
    chosen = document_picker(alignment, shown, "detail")
    st.markdown(say("**R² along the student’s tokens** (1 − squared error over the head’s variance; their mean ≈ R²)"))
    figure = token_scores(alignment, chosen, *cell, token_window(alignment, shown, chosen))
    alt = say("Held-out R² of each student token")
    files.chart(figure, f"tokens-{shown}", alt, f"tokens-{cells.name_of(cell)}")
    _worst(alignment, shown, cell, chosen)


def _worst(alignment: Alignment, shown: str, cell: Cell, chosen: int) -> None:
    left, right = st.columns([3, 2], vertical_alignment="center")
    left.markdown(say("**The worst tokens in their context**"))
    everywhere = right.toggle(say("Of all documents kept"), key=f"worst-all-{shown}")
    numbers = range(len(alignment.inspected)) if everywhere else [chosen]
    worst = worst_tokens(alignment, *cell, numbers, WORST)
    scored = sum(sum(alignment.inspected[n].scored) for n in numbers)
    st.markdown(worst_sentence(alignment, worst, *cell, scored))
    columns = {
        "r2": number("R²"),
        "before": say("before it"),
        "text": say("token"),
        "after": say("after it"),
        "read_from": say("teacher tokens read from"),
        "token": count(say("student token no.")),
        "byte": count(say("first byte")),
        "document": say("document"),
    }
    files.table(worst, columns, f"worst-tokens-{cells.name_of(cell)}", f"worst-{shown}", unfolded=True)
    st.caption(say("␣ is a space, ⏎ a line break; … where the text goes on. Sinks and special tokens are not ranked."))


def _spectrum(alignment: Alignment, shown: str, cell: Cell) -> None:
    table = spectrum_table(alignment, *cell)
    if table is None:
        words = phrase("This analysis does not hold {what}: it was made by an earlier kvlab. Run it again to have it.")
        st.info(say(words, what=say("the spectrum")), icon=":material/info:")
        return
    if table.empty:
        st.info(say("This head does not vary on these prompts, so there are no directions to tell apart."))
        return
    st.markdown(say("**Which directions of the head are explained** (eigenvectors of its covariance, held-out rows)"))
    figure = spectrum(alignment, *cell)
    alt = say("Held-out R² along each principal direction of the head, and its share of the variance")
    files.chart(figure, f"spectrum-{shown}", alt)
    st.markdown(spectrum_sentence(alignment, *cell))
    files.figure_button(figure, f"spectrum-{cells.name_of(cell)}", f"spectrum-{shown}")
    columns = {
        "direction": count(say("direction")),
        "share": number(say("share of variance")),
        "cumulative": number(say("up to here")),
        "r2": number(say("R² along it")),
        "se": number(say("± s.e. along it")),
        "r2_identity": number(say("R² teacher’s token")),
    }
    table = table.assign(r2=1 - table["error"], r2_identity=1 - table["error_identity"])
    files.table(table, columns, f"spectrum-{cells.name_of(cell)}", f"spectrum-{shown}")


def _time_rules(alignment: Alignment, shown: str, cell: Cell) -> None:
    table = rules_table(alignment, *cell)
    if table is None:
        _ask_for_rules()
        return
    st.markdown(say("**This head under every time rule**"))
    figure = time_rules(alignment, *cell)
    files.chart(figure, f"rules-{shown}", say("Held-out R² of this head under each time rule"))
    st.markdown(rules_sentence(alignment, *cell))
    files.figure_button(figure, f"time-rules-{cells.name_of(cell)}", f"rules-{shown}")
    columns = {
        "rule": say("rule"),
        "own": st.column_config.CheckboxColumn(say("of this analysis")),
        "r2": number("R²"),
        "se": number(say("± s.e. of R²")),
        "rows_scored": count(say("n scored")),
        "common": st.column_config.CheckboxColumn(say("on the same tokens")),
        "rows_fit": count(say("n fitted")),
    }
    files.table(table, columns, f"time-rules-{cells.name_of(cell)}", f"rules-{shown}")


def _ask_for_rules() -> None:
    run_id = st.query_params.get("run", backend.SAMPLE)
    st.info(
        say(
            "This analysis was run under one time rule. The comparison fits the other rules on the sample, with the "
            "same folds, from the teacher layer nearest in depth; it is a new analysis of the same prompts, with "
            "progress and Cancel. On the command line: --compare-rules."
        ),
        icon=":material/info:",
    )
    if st.button(
        say("Compare time rules"), key="compare-rules", icon=":material/rule:", disabled=run_id == backend.SAMPLE
    ):
        try:
            launched = backend.compare_rules(run_id)
        except KvlabError as error:
            show_error(error)
            return
        st.session_state["run"] = launched
        st.session_state.pop("run-picker", None)
        st.query_params["run"] = launched
        st.rerun()


VIEWS = {
    "controls": (phrase("Controls"), _controls),
    "teacher-heads": (phrase("Teacher heads"), _teacher_heads),
    "tokens": (phrase("Tokens"), _tokens),
    "spectrum": (phrase("Spectrum"), _spectrum),
    "time-rules": (phrase("Time rules"), _time_rules),
}
