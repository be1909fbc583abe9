"""K and V heatmaps on one colour range, beside them the detail of the head that a click or a table row pins."""

from functools import partial

import streamlit as st

from kvlab.language import phrase, say
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.heads import gain_map, r2_map
from kvlab.results.alignment.tables import explained
from kvlab.results.function.sentences import head_sentence as function_sentence
from kvlab.results.function.tables import function_heading
from kvlab.results.style import KIND_NAME
from kvlab.web import cells, language
from kvlab.web.alignment import one_head
from kvlab.web.function import source
from kvlab.web.widgets import count, head_sentence, number, segments

MEASURES = {"gain": phrase("Gain over controls"), "r2": phrase("Explained, R²")}
MAPS = {"gain": gain_map, "r2": r2_map}
LEGENDS = {
    "gain": phrase("Green: more than every control; grey “=”: not told from one; brown: less. “?”: no standard error."),
    "r2": phrase("Dark: much is explained. “=”: no better than a control; “?”: no standard error."),
}


def _columns() -> dict:
    """Configure the table's columns, named as in ``Alignment.table``."""
    return {
        "r2": number("R²"),
        "se": number(say("± s.e.")),
        "strongest": number(say("gain over the strongest control")),
        "control": say("strongest control"),
        "added": number(say("added by the teacher"), say("To what the student’s own tokens explain.")),
        "added_se": number(say("± s.e. of what is added")),
        "gain": number(say("gain over teacher’s token")),
        "gain_random": number(say("gain over random weights")),
        "beats": say("beats controls"),
        "r2_standardised": number(say("standardised R²"), say("Every channel counts alike.")),
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
        "r2_sink": number(say("R² of sinks"), say("The first content tokens, which are in no fit and not in R².")),
        "n_sink": count(say("n sinks")),
        "r2_special": number(say("R² of special token"), say("Of the special token that both models begin with.")),
        "n_special": count(say("n special")),
    }


def panel(alignment: Alignment, shown: str) -> None:
    """Draw the maps of all heads beside the pinned one. ``shown`` names the result in widgets and files."""
    cell, test = cells.selected(alignment), source.of_analysis(shown)
    left, right = st.columns(2, gap="small")
    with left:
        key = f"maps-of-{shown}"
        language.keep_choice(key, next(iter(MEASURES)))
        measure = segments(say("Colour"), MEASURES, key, label_visibility="collapsed")
        words = phrase("{kind}: {measure} per student layer and KV head; the table below has the numbers.")
        alt = say(words, kind="{kind}", measure=say(MEASURES[measure]))
        cells.maps(partial(MAPS[measure], alignment), cell, measure, shown, alt)
        st.caption(say(LEGENDS[measure]))
    with right.container(border=True, key="detail"):
        st.subheader(cells.words(cell))
        st.markdown(head_sentence(alignment, alignment.score(*cell)))
        one_head.panel(alignment, shown, cell)
        if test is not None and test.reproduces:
            st.markdown(function_sentence(test, *cell))
    frame, columns = explained(alignment).copy(), _columns()
    if test is not None:
        r2 = {(c.kind, c.layer, c.head): 1 - c.error for c in test.attention}
        heads = zip(frame["kind"], frame["layer"], frame["head"], strict=True)
        frame["attention_r2"] = [r2.get(at) for at in heads]
        columns = {"attention_r2": number(function_heading("attention_r2"))} | columns
    frame["kind"] = frame["kind"].map(KIND_NAME)
    cells.table(frame, columns, "heads", shown, say("Scores of every student head beside their controls"))
