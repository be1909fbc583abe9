"""K and V heatmaps on one colour range; a click or a table row pins one head's detail."""

import streamlit as st

from kvlab.language import say
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.heads import error_heatmap
from kvlab.results.alignment.sentences import ERROR_MEANING
from kvlab.results.function.sentences import head_sentence as function_sentence
from kvlab.results.function.tables import function_heading
from kvlab.results.style import KIND_NAME
from kvlab.web import cells
from kvlab.web.alignment import one_head
from kvlab.web.function import source
from kvlab.web.widgets import count, head_sentence, number


def _columns() -> dict:
    """Configure the table's columns, named as in ``Alignment.table``."""
    return {
        "error": number(say("error 1 − R²")),
        "r2": number("R²"),
        "se": number(say("± s.e.")),
        "added": number(say("added by the teacher"), say("To what the student’s own tokens explain.")),
        "added_se": number(say("± s.e. of what is added")),
        "gain": number(say("gain over teacher’s token")),
        "gain_random": number(say("gain over random weights")),
        "beats_controls": st.column_config.CheckboxColumn(say("beats controls")),
        "error_standardised": number(say("standardised error"), say("Every channel counts alike.")),
        "cosine": number(say("cosine")),
        "r2_exact": number(say("R² exact tokens"), say("Those that end where a teacher token ends.")),
        "r2_inside": number(say("R² inside a teacher token"), say("Tokens that end inside a teacher token.")),
        "n_inside": count(say("n inside")),
        "r2_with_own": number(say("R² teacher + own token")),
        "r2_own": number(
            say("R² student’s own tokens"), say("No teacher: the token and the two before it, context-free.")
        ),
        "r2_identity": number(say("R² teacher’s token")),
        "r2_random": number(say("R² random weights")),
        "r2_group_mean": number(say("R² group mean")),
        "r2_shuffled": number(say("R² shuffled rows")),
        "n": count(say("n tokens")),
        "n_control": count(say("n control"), say("Rows on which shuffled rows and random weights are measured.")),
        "error_sink": number(
            say("error of sinks"), say("The first content tokens, which are in no fit and not in R².")
        ),
        "n_sink": count(say("n sinks")),
        "error_special": number(
            say("error of special token"), say("Of the special token that both models begin with.")
        ),
        "n_special": count(say("n special")),
    }


def panel(alignment: Alignment, shown: str) -> None:
    """Draw the view of all heads. ``shown`` names the result in widgets and files."""
    st.caption(say(ERROR_MEANING))
    cell = cells.selected(alignment)
    cells.maps(
        lambda kind, marked: error_heatmap(alignment, kind, marked),
        cell,
        "error",
        shown,
        say("{kind} projection error per student layer and KV head; the table below has the numbers."),
    )
    frame, columns, test = alignment.table(), _columns(), source.of_analysis(shown)
    if test is not None:
        errors = {(c.kind, c.layer, c.head): c.error for c in test.attention}
        heads = zip(frame["kind"], frame["layer"], frame["head"], strict=True)
        frame["attention"] = [errors.get(at) for at in heads]
        columns = {"attention": number(function_heading("attention"))} | columns
    frame["kind"] = frame["kind"].map(KIND_NAME)
    cells.table(frame, columns, "error", shown, say("Scores of every student head beside their controls"))
    with st.container(border=True, key="detail"):
        st.subheader(cells.words(cell))
        if test is not None and test.reproduces:
            st.markdown(function_sentence(test, *cell))
        st.markdown(head_sentence(alignment, alignment.score(*cell)))
        one_head.panel(alignment, shown, cell)
