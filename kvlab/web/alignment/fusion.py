"""Several teachers together: what they add to the best single one, head by head."""

from math import isfinite

import streamlit as st

from kvlab.language import phrase, say
from kvlab.results.alignment.data import Alignment, FusedScore
from kvlab.results.alignment.fusion import fused_parts, fusion_weights, gain_heatmap
from kvlab.results.alignment.sentences import fusion_rows_sentence, fusion_sentence
from kvlab.results.alignment.tables import fusion_table, heading
from kvlab.results.safe_csv import safe_csv
from kvlab.results.style import KIND_NAME, written
from kvlab.web import cells, files
from kvlab.web.widgets import count, number, plain

NO_GAIN = {  # by ``FusedScore.unbeaten``
    "best": phrase(" **The other teachers add nothing that can be told from chance.**"),
    "random": phrase(" **Random weights in their place bring as much.**"),
}


def panel(alignment: Alignment, shown: str) -> None:
    st.markdown(fusion_sentence(alignment))
    st.caption(plain(fusion_rows_sentence(alignment)))
    cell = cells.selected(alignment)
    cells.maps(
        lambda kind, marked: gain_heatmap(alignment, kind, marked),
        cell,
        "fusion-gain",
        shown,
        say("{kind} gain in held-out R² of all teachers over the best single one; the table below has the numbers."),
    )
    frame = fusion_table(alignment).rename(columns={"K/V": "kind"})
    columns = {name: number(heading(name)) for name in frame.columns if name not in ("kind", "layer", "head")}
    columns |= {name: count(say(name)) for name in ("n tokens", "n control")}
    cells.table(frame, columns, "fusion", shown, say("Fused scores of every student head beside each teacher alone"))
    files.download(
        "fusion.csv", lambda: safe_csv(alignment.fusion_table()), f"fusion-{shown}.csv", "text/csv", "download-fusion"
    )
    _detail(alignment, shown, *cell)


def _detail(alignment: Alignment, shown: str, kind: str, layer: int, head: int) -> None:
    score = alignment.fused(kind, layer, head)
    with st.container(border=True, key="detail"):
        st.subheader(cells.words((kind, layer, head)))
        if not isfinite(score.r2):
            st.markdown(say("Its {kind} does not vary on these prompts, so nothing is scored.", kind=KIND_NAME[kind]))
            return
        sentence = say(
            "The {teachers} teachers together explain R² **{r2}** of {kind} on held-out text, {gain} ± {se:.3f} R² "
            "over the best single teacher on the same {n:,} tokens.",
            teachers=len(alignment.teachers),
            r2=written(score.r2),
            kind=KIND_NAME[kind],
            gain=written(score.gain, sign="+"),
            se=score.gain_se,
            n=score.n,
        )
        st.markdown(sentence + _over_random(score) + _verdict(score))
        left, right = st.columns(2)
        for column, name, title, figure in (
            (left, "fused", say("Together and alone"), fused_parts(score, alignment.teachers)),
            (right, "weights", say("Weight of each teacher"), fusion_weights(score, alignment.teachers)),
        ):
            with column:
                st.markdown(f"**{title}**")
                files.chart(figure, f"{name}-{shown}", title, f"{name}-{cells.name_of((kind, layer, head))}")
        st.caption(say("Weights are fitted by ridge towards equal shares; they need not sum to 1."))


def _over_random(score: FusedScore) -> str:
    if not isfinite(score.gain_random):
        return say(" Random weights in place of the other teachers were not measured.")
    return say(
        " That is {gain} ± {se:.3f} R² over random weights in place of the other teachers (on {n:,} tokens of the "
        "sample).",
        gain=written(score.gain_random, sign="+"),
        se=score.gain_random_se,
        n=score.n_control,
    )


def _verdict(score: FusedScore) -> str:
    if score.unbeaten is None:
        return say(" Fewer than three folds are scored, so there is no standard error.")
    return say(NO_GAIN[score.unbeaten[0]]) if score.unbeaten else ""
