"""K and V heatmaps on one colour range; a click or a table row pins one head's detail."""

from __future__ import annotations

import streamlit as st

from kvlab import plots, report
from kvlab.language import say
from kvlab.plots import KIND_NAME
from kvlab.report import ERROR_MEANING
from kvlab.results import Alignment
from kvlab.ui import cells, downloads
from kvlab.ui.text import count, head_sentence, number


def _columns() -> dict:
    """Of the table, by the names of ``Alignment.table``."""
    return {
        "kind": "K/V",
        "layer": say("layer"),
        "head": say("head"),
        "error": number(say("error 1 − R²")),
        "r2": number("R²"),
        "se": number(say("± s.e.")),
        "gain": number(say("gain over token")),
        "gain_random": number(say("gain over random weights")),
        "beats_controls": st.column_config.CheckboxColumn(say("beats controls")),
        "error_standardised": number(say("standardised error"), say("Every channel counts alike.")),
        "cosine": number(say("cosine")),
        "r2_identity": number(say("R² token identity")),
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
    """``shown`` names the result in widgets and files."""
    st.caption(say(ERROR_MEANING))
    cell = cells.selected(alignment)
    cells.maps(
        lambda kind, marked: plots.error_heatmap(alignment, kind, marked),
        cell,
        "error",
        shown,
        say("{kind} projection error per student layer and KV head; the table below has the numbers."),
    )
    frame = alignment.table()
    frame["kind"] = frame["kind"].map(KIND_NAME)
    cells.table(frame, _columns(), "error", shown, say("Scores of every student head beside their controls"))
    _detail(alignment, shown, *cell)


def _detail(alignment: Alignment, shown: str, kind: str, layer: int, head: int) -> None:
    score = alignment.score(kind, layer, head)
    with st.container(border=True, key="detail"):
        st.subheader(say("{kind}, layer {layer}, head {head}", kind=KIND_NAME[kind], layer=layer, head=head))
        st.markdown(head_sentence(alignment, score))
        left, right = st.columns([4, 5])
        with left:
            st.markdown(say("**Against its controls**"))
            st.plotly_chart(
                plots.controls(score),
                key=f"controls-{shown}",
                config={"displayModeBar": False},
                alt=say(
                    "R² of this head beside token identity, random weights, group mean, shuffled rows, training mean"
                ),
            )
        with right:
            st.markdown(say("**Which teacher heads it is built from** (ridge refitted without, and with only, each)"))
            st.plotly_chart(
                plots.contributions(alignment, kind, layer, head),
                key=f"contributions-{shown}",
                config={"displayModeBar": False},
                alt=say("Held-out R² lost without each teacher head, and of each alone"),
            )
        st.caption(f"{report.control_sentence(alignment, score)} {report.apart_sentence(alignment, score)}")
        if alignment.inspected:
            _tokens(alignment, shown, kind, layer, head)


def _tokens(alignment: Alignment, shown: str, kind: str, layer: int, head: int) -> None:
    chosen = document_picker(alignment, shown, "detail")
    st.markdown(say("**Error along the student’s tokens** (squared error over the head’s variance; mean ≈ the error)"))
    figure = plots.token_errors(alignment, chosen, kind, layer, head)
    st.plotly_chart(
        figure,
        key=f"tokens-{shown}",
        config={"displayModeBar": False},
        alt=say("Held-out squared error of each student token"),
    )
    downloads.figure_button(figure, f"tokens-{KIND_NAME[kind]}-{layer}-{head}", f"tokens-{shown}")


def document_picker(alignment: Alignment, shown: str, where: str) -> int:
    """Which of the documents kept token by token is shown."""
    labels = [f"{d.id}: {' '.join(d.text.split())[:70]}" for d in alignment.inspected]
    return st.selectbox(
        say("Document"),
        range(len(labels)),
        format_func=labels.__getitem__,
        key=f"document-{where}-{shown}",
        help=say("The first documents of the analysis are kept token by token."),
    )
