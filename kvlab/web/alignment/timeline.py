"""The timeline of a document, and the steps that R-KV keeps of it."""

import pandas as pd
import streamlit as st

from kvlab.language import say
from kvlab.request.time_rules import known
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.one_head import groups_sentence
from kvlab.results.alignment.rkv import kept_steps
from kvlab.results.alignment.sentences import kept_sentence
from kvlab.results.alignment.timeline import index_maps, rule_shown, timeline
from kvlab.results.words import sentences
from kvlab.web import document, files, language
from kvlab.web.alignment import resampled
from kvlab.web.document import document_picker, step_window
from kvlab.web.widgets import choice, plain


def panel(alignment: Alignment, shown: str) -> None:
    if not alignment.inspected:
        st.info(say("No document was kept token by token. Run again with --inspect above 0."))
        return
    left, middle, right, zoom = st.columns([3, 3, 2, 2])
    with left:
        number = document_picker(alignment, shown, "timeline")
    with middle:
        language.keep_choice(f"rule-{shown}", rule_shown(alignment))
        rules = {rule: known(rule).words for rule in alignment.timeline["rules"]}
        rule = choice(say("Joined by"), rules, f"rule-{shown}")
    window = document.choose(alignment, shown, number, right, zoom)
    st.markdown(sentences(_reading(alignment, rule), groups_sentence(alignment, number)))
    figure = timeline(alignment, number, rule, window)
    alt = say("Teacher and student tokens over byte position, joined by the time map; R² per student token beneath")
    with st.container(key="wide-timeline"):
        files.chart(figure, f"timeline-{shown}", alt, config=files.MOVING | {"scrollZoom": True})
    document.strip(alignment, shown, number, window)
    files.figure_button(figure, f"timeline-{number}-{rule}", f"timeline-{shown}")
    st.caption(
        say(
            "R² is held out, under the {rule} rule of this analysis, averaged over all heads; of a token, 1 − "
            "squared error / variance of the head. "
            "Grey bands are the parts of the document. "
            "␣ is a space, ⏎ a line break, <E4> one byte of a character that is split.",
            rule=plain(alignment.settings["time"]),
        )
    )
    resampled.panel(alignment, shown, number, window)
    kept_steps_pane(alignment, shown, number)
    left, right = st.columns(2)
    with left:
        st.markdown(say("**Every rule’s map, together**"))
        alt = say("For each rule, the teacher step that stands for each student token")
        files.chart(index_maps(alignment, number), f"maps-{shown}", alt, f"maps-{number}")
    with right:
        st.markdown(say("**Rules over {documents} documents**", documents=alignment.timeline["documents"]))
        column = st.column_config.NumberColumn
        columns = {
            "exact_rate": column(say("exact"), format="percent"),
            "coverage": column(say("covered"), format="percent"),
            "looks_ahead_rate": column(say("looks ahead"), format="percent"),
            "mean_absolute_lag_bytes": column(say("mean lag, bytes"), format="%.2f"),
            "largest_lag_bytes": column(say("largest"), format="%d"),
        }
        st.dataframe(
            pd.DataFrame.from_dict(alignment.timeline["rules"], orient="index").rename_axis("rule")[list(columns)],
            column_config={"rule": say("rule"), **columns},
            alt=say("Exact-boundary rate, coverage and lag of every time rule"),
        )
        st.caption(
            say(
                "Shares of {student:,} student content tokens ({teacher:,} of the teacher).",
                student=alignment.timeline["student_tokens"],
                teacher=alignment.timeline["teacher_tokens"],
            )
        )


def _reading(alignment: Alignment, rule: str) -> str:
    rates = alignment.timeline["rules"][rule]
    return say(
        "With **{rule}**, {exact:.0%} of student tokens end at the same byte as their teacher token, {covered:.0%} "
        "have a teacher step, and {ahead:.0%} would see ahead (mean distance {lag:.1f} bytes).",
        rule=rule,
        exact=rates["exact_rate"],
        covered=rates["coverage"],
        ahead=rates["looks_ahead_rate"],
        lag=rates["mean_absolute_lag_bytes"],
    )


def kept_steps_pane(alignment: Alignment, shown: str, document: int) -> None:
    """Draw the steps that R-KV keeps; draw nothing for an analysis under another rule."""
    steps = alignment.arrays.get(f"document.{document}.rkv.steps")
    if steps is None:
        return
    st.markdown(say("**Steps that a teacher head keeps** (R-KV)"))
    left, right, _ = st.columns([1, 1, 3])
    layer = left.selectbox(say("Teacher layer"), alignment.teacher["kv_layers"], key=f"kept-layer-{shown}")
    heads = alignment.teacher["layer_shapes"][alignment.teacher["kv_layers"].index(layer)][0]
    head = right.selectbox(say("Teacher KV head"), range(heads), key=f"kept-head-{shown}")
    st.markdown(kept_sentence(alignment, document, layer, head))
    figure = kept_steps(alignment, document, layer, head, step_window(alignment, shown, document))
    alt = say("Importance, redundancy and score of each teacher step; kept steps stand out")
    files.chart(figure, f"kept-{shown}", alt, f"kept-{document}-{layer}-{head}")
