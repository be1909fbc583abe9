"""R-KV: which steps of a document each teacher head keeps."""

from __future__ import annotations

import streamlit as st

from kvlab import plots, report
from kvlab.language import say
from kvlab.results import Alignment
from kvlab.ui import downloads
from kvlab.ui.document import step_window


def panel(alignment: Alignment, shown: str, document: int) -> None:
    """Nothing when the analysis used another rule."""
    steps = alignment.arrays.get(f"document.{document}.rkv.steps")
    if steps is None:
        return
    st.markdown(say("**Steps that a teacher head keeps** (R-KV)"))
    left, right, _ = st.columns([1, 1, 3])
    layer = left.selectbox(say("Teacher layer"), alignment.teacher["kv_layers"], key=f"kept-layer-{shown}")
    heads = alignment.teacher["layer_shapes"][alignment.teacher["kv_layers"].index(layer)][0]
    head = right.selectbox(say("Teacher KV head"), range(heads), key=f"kept-head-{shown}")
    st.markdown(report.kept_sentence(alignment, document, layer, head))
    figure = plots.kept_steps(alignment, document, layer, head, step_window(alignment, shown, document))
    st.plotly_chart(
        figure,
        key=f"kept-{shown}",
        config={"displayModeBar": False},
        alt=say("Importance, redundancy and score of each teacher step; kept steps stand out"),
    )
    downloads.figure_button(figure, f"kept-{document}-{layer}-{head}", f"kept-{shown}")
