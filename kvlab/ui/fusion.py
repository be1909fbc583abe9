"""Several teachers together: what they add to the best single one, head by head."""

from __future__ import annotations

from math import isfinite

import streamlit as st

from kvlab import plots, report
from kvlab.plots import KIND_NAME
from kvlab.results import Alignment
from kvlab.safe_csv import safe_csv
from kvlab.ui import cells
from kvlab.ui.text import count, number

FILE = "fusion.csv"


def panel(alignment: Alignment, shown: str) -> None:
    st.markdown(report.fusion_sentence(alignment))
    st.caption(report.fusion_rows_sentence(alignment))
    cell = cells.selected(alignment)
    cells.maps(
        lambda kind, marked: plots.gain_heatmap(alignment, kind, marked),
        cell,
        "fusion-gain",
        shown,
        "gain in held-out R² of all teachers over the best single one",
    )
    frame = report.fusion_table(alignment).rename(columns={"K/V": "kind"})
    columns = {name: number(name) for name in frame.columns}
    columns |= {"kind": "K/V", "layer": "layer", "head": "head", "n tokens": count("n tokens")}
    cells.table(frame, columns, "fusion", shown, "Fused scores of every student head beside each teacher alone")
    st.download_button(
        FILE,
        lambda: safe_csv(alignment.fusion_table()),
        f"fusion-{shown}.csv",
        "text/csv",
        key="download-fusion",
        icon=":material/download:",
        on_click="ignore",
    )
    _detail(alignment, shown, *cell)


def _detail(alignment: Alignment, shown: str, kind: str, layer: int, head: int) -> None:
    score = alignment.fused(kind, layer, head)
    with st.container(border=True, key="detail"):
        st.subheader(f"{KIND_NAME[kind]}, layer {layer}, head {head}")
        if not isfinite(score.r2):
            st.markdown(f"Its {KIND_NAME[kind]} does not vary on these prompts, so nothing is scored.")
            return
        verdict = {
            True: "",
            False: " **The other teachers add nothing that can be told from chance.**",
            None: " One fold only is scored, so there is no standard error.",
        }[score.beats_best]
        gain = f"{plots.written(score.gain, sign='+')} ± {score.gain_se:.3f} R²"
        st.markdown(
            f"The {len(alignment.teachers)} teachers together explain **{report.whole(score.r2)}** of "
            f"{KIND_NAME[kind]} on held-out text, {gain} over the best single teacher on the same {score.n:,} tokens."
            + verdict
        )
        left, right = st.columns(2)
        for column, name, title, figure in (
            (left, "fused", "Together and alone", plots.fused_parts(score, alignment.teachers)),
            (right, "weights", "Weight of each teacher", plots.fusion_weights(score, alignment.teachers)),
        ):
            with column:
                st.markdown(f"**{title}**")
                st.plotly_chart(figure, key=f"{name}-{shown}", config={"displayModeBar": False}, alt=title)
        st.caption("Weights are fitted by ridge towards equal shares; they need not sum to 1.")
