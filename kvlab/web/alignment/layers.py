"""Student layers against teacher layers: the measurements and the choice."""

from functools import partial

import streamlit as st

from kvlab.language import phrase, say
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.layers import (
    MATRICES,
    ceiling_sentence,
    chosen_table,
    graph,
    layer_pairs,
    layer_sentence,
    layers_sentence,
    similarity,
)
from kvlab.results.safe_csv import safe_csv
from kvlab.results.style import KIND_NAME
from kvlab.results.words import sentences
from kvlab.web import cells, files
from kvlab.web.widgets import grid, method, number

ABOUT = {
    "r2": phrase("Held-out R² that each teacher layer reaches on its own, all channels of the layer together."),
    "cka": phrase("Unbiased linear CKA of the two caches: 0 unrelated, 1 alike up to rotation and scale."),
    "own": phrase(
        "The ceiling: CKA of the student’s layers with each other. Where neighbours are alike, a choice between "
        "teacher layers matters little."
    ),
}
TOGETHER = phrase(
    "The layers of a student layer are chosen together, as the set that explains held-out text best: one that explains "
    "less alone can be among them."
)
# Columns of the tables that hold no scores.
CHOSEN = (phrase("student layer"), phrase("teacher layers"), phrase("folds that agree"), phrase("best alone"))
PAIRS = (phrase("student layer"), phrase("teacher layer"), phrase("chosen"))


def panel(alignment: Alignment, shown: str) -> None:
    name = "r2" if "similarity.key.r2" in alignment.arrays else "cka"
    alt = say("Teacher layers joined to the student layers that they feed; wider: more explained alone")
    files.chart(graph(alignment), f"graph-{shown}", alt, "layers-graph")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(say("Wider: {measure} is higher. Hover a dot for its number.", measure=say(MATRICES[name][1])))
        method(layers_sentence(alignment), say(TOGETHER))
    layers = alignment.student["kv_layers"]
    left, right = st.columns([1, 4], vertical_alignment="center")
    layer = left.selectbox(
        say("Student layer"), layers, index=layers.index(cells.selected(alignment)[1]), key=f"layer-{shown}"
    )
    right.markdown(layer_sentence(alignment, layer))
    for name in MATRICES:
        if f"similarity.key.{name}" in alignment.arrays:
            _matrices(alignment, shown, name)
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    left.markdown(say("**What was chosen for each student layer**"))
    pairs = layer_pairs(alignment)
    with right:
        name = f"layers-{shown}.csv"
        files.download("layers.csv", partial(safe_csv, pairs), name, "text/csv", "download-layers", width="stretch")
    columns = {name: say(name) for name in CHOSEN}
    columns |= {name: number(say(name)) for name in (phrase("R² of it"), phrase("highest CKA"))}
    columns |= {phrase("shuffled rows"): number(say("its null, shuffled rows"))}
    alt = say("The teacher layers of every student layer, and how many folds chose the same")
    grid(chosen_table(alignment), columns, alt)
    with st.expander(say("Every pair of layers as a table"), icon=":material/table:"):
        columns = {name: say(name) for name in PAIRS} | {"CKA": number("CKA"), "kind": "K/V"}
        columns |= {name: number(say(name)) for name in (phrase("CKA shuffled"), phrase("R² alone"))}
        grid(pairs, columns, say("CKA, its null and held-out R² of every pair of layers"), 280)


def _matrices(alignment: Alignment, shown: str, name: str) -> None:
    for column, kind in zip(st.columns(2), KIND_NAME, strict=True):
        figure, title = similarity(alignment, kind, name), say(MATRICES[name][0])
        alt = say("{kind}: {title}, per student and teacher layer", kind=KIND_NAME[kind], title=title)
        with column:
            files.chart(figure, f"similarity-{shown}-{kind}-{name}", alt, f"{KIND_NAME[kind]}-layers-{name}")
    words = [say(ABOUT[name])]
    if name == "cka":
        words += [ceiling_sentence(alignment, kind) for kind in KIND_NAME]
    if name != "own":
        words.append(say("Outlined: chosen. Grey: not searched, or a layer without a KV cache."))
    st.caption(sentences(*words))
