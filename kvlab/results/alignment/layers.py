"""Show the layers of an analysis: the chosen teacher layers, and the similarity of all pairs."""

from collections import Counter
from math import ceil, floor, isnan
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kvlab.language import phrase, plural, say
from kvlab.request.time_rules import known
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.sentences import split
from kvlab.results.memo import once
from kvlab.results.style import (
    CELL_TEXT_UP_TO,
    CKA_SCALE,
    KIND_COLOUR,
    KIND_NAME,
    R2_SCALE,
    STUDENT_COLOUR,
    TEACHER_COLOUR,
    finite_or_none,
    layout,
    written,
)
from kvlab.results.words import clauses, listed, number, together

MATRICES = {  # array -> title, words of the hover
    "r2": (phrase("held-out R² of each teacher layer alone"), phrase("held-out R² alone")),
    "cka": (phrase("unbiased CKA with the teacher"), "CKA"),
    "own": (phrase("the student with itself, the ceiling"), "CKA"),
}
DARK_FROM = 0.6  # share of the range, from which on white is easier to read than black
NOTHING = "rgba(138,143,152,0.22)"  # grey on white and on black: the layer has no cache, or was not searched


def chosen(alignment: Alignment, kind: str) -> dict[int, list[int]]:
    """Return the teacher layers of each student layer, both numbered as in the models."""
    return dict(zip(alignment.student["kv_layers"], alignment.layer_map["teacher_layers"][kind]))


def similarity(alignment: Alignment, kind: str, name: str) -> go.Figure:
    """Draw one matrix of MATRICES over the layers as numbered in the models, with the chosen layers outlined."""
    title, words = MATRICES[name]
    across = alignment.student if name == "own" else alignment.teacher
    values = np.full((alignment.student["layers"], across["layers"]), np.nan)  # NaN for a layer without a cache
    values[np.ix_(alignment.student["kv_layers"], across["kv_layers"])] = alignment.arrays[f"similarity.{kind}.{name}"]
    legible = max(values.shape) <= CELL_TEXT_UP_TO
    gap = 2 if legible else 0
    lowest, highest = _r2_range(alignment) if name == "r2" else (0.0, 1.0)
    y_title = say("student layer")
    x_title = y_title if name == "own" else say("teacher layer")
    where = say("{student} %{{y}}, {other} %{{x}}", student=y_title, other=x_title)
    figure = go.Figure(
        go.Heatmap(
            z=finite_or_none(values),
            x=list(range(values.shape[1])),
            y=list(range(values.shape[0])),
            zmin=lowest,
            zmax=highest,
            colorscale=R2_SCALE if name == "r2" else CKA_SCALE,
            xgap=gap,
            ygap=gap,
            hoverongaps=False,
            hovertemplate=f"{where}<br>{say(words)} %{{z:.3f}}<extra></extra>",
            colorbar={"title": {"text": "R²" if name == "r2" else "CKA"}, "thickness": 12},
        )
    )
    if legible:
        _write(figure, values, lowest + DARK_FROM * (highest - lowest))
    if name != "own":
        _outline(figure, chosen(alignment, kind), 2.5 if legible else 1.8)
    every = max(1, -(-max(values.shape) // CELL_TEXT_UP_TO))  # labels of 64 layers would overlap
    ticks = {"tickmode": "linear", "tick0": 0, "dtick": every, "showgrid": False, "zeroline": False}
    figure.update_xaxes(title=x_title, range=[-0.5, values.shape[1] - 0.5], **ticks)
    figure.update_yaxes(title=y_title, range=[values.shape[0] - 0.5, -0.5], **ticks)
    height = min(640, max(250, 96 + 40 * values.shape[0]))
    heading = {"text": say("{kind}: {title}", kind=KIND_NAME[kind], title=say(title)), "font": {"size": 15}}
    return layout(figure, height, title=heading, plot_bgcolor=NOTHING)


def _write(figure: go.Figure, values: np.ndarray, dark_from: float) -> None:
    """Write the numbers into the cells, white on dark ones."""
    rows, columns = np.nonzero(~np.isnan(values))
    shown = values[rows, columns]
    figure.add_scatter(
        x=columns.tolist(),
        y=rows.tolist(),
        mode="text",
        text=[f"{value:.2f}" for value in shown],
        textfont={"color": ["#FFFFFF" if value > dark_from else "#000000" for value in shown], "size": 13},
        hoverinfo="skip",
        showlegend=False,
    )


def graph(alignment: Alignment) -> go.Figure:
    """Draw which teacher layers feed which student layer, K and V; a wider line explains more alone.

    The width is held-out R² of the teacher layer alone, CKA where that was not searched.
    """
    name = "r2" if "similarity.key.r2" in alignment.arrays else "cka"
    titles = [say("{kind}: teacher layers → student layers", kind=kind) for kind in KIND_NAME.values()]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.08)
    low, high = _r2_range(alignment) if name == "r2" else (0.0, 1.0)
    for column, kind in enumerate(KIND_NAME, 1):
        values = alignment.arrays[f"similarity.{kind}.{name}"]
        links = [
            Link(teacher, student, float(values[position, alignment.teacher["kv_layers"].index(teacher)]))
            for position, (student, teachers) in enumerate(chosen(alignment, kind).items())
            for teacher in teachers
        ]
        words = say(MATRICES[name][1])
        _add_links(figure, alignment, links, (low, high), {"color": KIND_COLOUR[kind]}, words, column)
        for x, model, colour in ((0, alignment.teacher, TEACHER_COLOUR), (1, alignment.student, STUDENT_COLOUR)):
            _add_layers(figure, x, model, colour, column)
    sides = {"tickvals": [0, 1], "ticktext": [say("teacher"), say("student")], "range": [-0.15, 1.15]}
    figure.update_xaxes(**sides, showgrid=False, zeroline=False, fixedrange=True)
    most = max(alignment.teacher["layers"], alignment.student["layers"])
    figure.update_yaxes(visible=False, range=[1.04, -0.04], fixedrange=True)
    return layout(figure, min(640, max(280, 80 + 26 * most)), margin={"l": 16, "r": 16, "t": 36, "b": 32})


class Link(NamedTuple):
    """A teacher layer that feeds a student layer, both as numbered in the models."""

    teacher: int
    student: int
    value: float  # NaN where it was not measured


WIDTHS = (1, 2, 3.5, 5, 7, 9)  # pixels of a line
HOVERED = 0.72  # of a line, where a point says its numbers: nearer to the student fewer points lie over each other


def _height(model: dict, layer: int) -> float:
    """Return the place of a layer between 0, the first, and 1, the last of the model."""
    return layer / max(1, model["layers"] - 1)


def _add_layers(figure: go.Figure, x: float, model: dict, colour: str, column: int) -> None:
    layers = model["kv_layers"]
    every = max(1, -(-len(layers) // CELL_TEXT_UP_TO))
    figure.add_scatter(
        x=[x] * len(layers),
        y=[_height(model, layer) for layer in layers],
        mode="markers+text",
        marker={"size": 11, "color": colour},
        text=[str(layer) if place % every == 0 else "" for place, layer in enumerate(layers)],
        textposition=f"middle {'left' if x == 0 else 'right'}",
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=column,
    )


def _add_links(
    figure: go.Figure,
    alignment: Alignment,
    links: list[Link],
    span: tuple[float, float],
    look: dict,
    words: str,
    column: int,
) -> None:
    places, hovers = [], []
    lines: dict[float, tuple[list, list]] = {}
    for link in links:
        share = 0.0 if isnan(link.value) else (link.value - span[0]) / (span[1] - span[0])
        width = WIDTHS[int(min(max(share, 0.0), 0.999) * len(WIDTHS))]
        x, y = lines.setdefault(width, ([], []))
        start, end = _height(alignment.teacher, link.teacher), _height(alignment.student, link.student)
        x += [0, 1, None]
        y += [start, end, None]
        places.append(start + HOVERED * (end - start))
        where = say("teacher layer {teacher} → student layer {student}", teacher=link.teacher, student=link.student)
        hovers.append(f"{where}<br>{words} {written(link.value)}")
    on = {"row": 1, "col": column, "showlegend": False}
    for width, (x, y) in sorted(lines.items()):
        line = look | {"width": width}
        figure.add_scatter(x=x, y=y, mode="lines", line=line, opacity=0.6, hoverinfo="skip", **on)
    figure.add_scatter(
        x=[HOVERED] * len(places),
        y=places,
        mode="markers",
        marker=look | {"size": 7},
        text=hovers,
        hovertemplate="%{text}<extra></extra>",
        **on,
    )


def _r2_range(alignment: Alignment) -> tuple[float, float]:
    """Return the range from the worst to the best layer of K and V, in tenths: neighbouring layers differ by little."""
    r2 = np.concatenate([alignment.arrays[f"similarity.{kind}.r2"].ravel() for kind in KIND_NAME])
    known = r2[~np.isnan(r2)].clip(0, 1)
    if not len(known):
        return 0.0, 1.0
    lowest, highest = floor(known.min() * 10), ceil(known.max() * 10)
    return lowest / 10, max(highest, lowest + 1) / 10


def _outline(figure: go.Figure, layers: dict[int, list[int]], thick: float) -> None:
    """Draw boxes around the chosen cells, with white beneath, so that they stand out on every colour."""
    x: list[float | None] = []
    y: list[float | None] = []
    for student, teachers in layers.items():
        for teacher in teachers:
            x += [teacher - 0.47, teacher + 0.47, teacher + 0.47, teacher - 0.47, teacher - 0.47, None]
            y += [student - 0.47, student - 0.47, student + 0.47, student + 0.47, student - 0.47, None]
    box = {"x": x, "y": y, "mode": "lines", "name": say("chosen"), "showlegend": False, "hoverinfo": "skip"}
    for colour, width in (("#FFFFFF", 2 * thick), (STUDENT_COLOUR, thick)):
        figure.add_scatter(line={"color": colour, "width": width}, **box)


NAMES = {"cka": "CKA", "cka_shuffled": phrase("CKA shuffled"), "r2": phrase("R² alone")}
ANY = phrase("{n:,} student tokens")
EXACT = phrase("{n:,} student tokens, those where both models have read the same bytes")
EXACT_HERE = phrase(
    "{n:,} student tokens, those where both models have read the same bytes (the scores of heads are of the other "
    "tokens too, and lower)"
)
AMONG = {
    "banded": phrase("among teacher layers near the proportional depth"),
    "full": phrase("among all {n} teacher layers"),
}

FIRST = {
    "banded": phrase("the nearest in depth"),
    "full": phrase("those that explain most alone"),
}

GROWING = phrase(
    "How many layers enter (1, 2, 4, … up to all, {first} first) was chosen by the held-out R² they reach, on "
    "{measured}; {split}, the layers that score a fold chosen without it. Each alone was measured {among}."
)
ADDED_ONE_BY_ONE = phrase(  # in older results
    "Layers were chosen by the held-out R² they reach, {among}, on {measured}; {split}, the layers that score "
    "a fold chosen without it."
)


def layers_sentence(alignment: Alignment) -> str:
    """Say how the teacher layers were chosen, and on which tokens."""
    layer_map, rule = alignment.layer_map, known(alignment.settings["time"])
    measured = ANY
    if rule.reads_bytes and not alignment.by_class:
        measured = EXACT if rule.own_tokens else EXACT_HERE
    fields = {"measured": say(measured, n=layer_map["rows"]), "split": split(alignment)}
    fields["among"] = say(AMONG[layer_map["search"]], n=len(alignment.teacher["kv_layers"]))
    if layer_map["rule"] == "heldout" and "similarity.key.r2" in alignment.arrays:
        words = GROWING if "rows" in alignment.settings else ADDED_ONE_BY_ONE
        fields["first"] = say(FIRST[layer_map["search"]])
    elif layer_map["rule"] == "cka":
        words = phrase(
            "The most similar layer by CKA was chosen, {among}, on {measured}; {split}, the layers that score a fold "
            "chosen without it."
        )
    else:
        words = phrase("Layers were chosen by proportional depth alone; the matrices are measured on {measured}.")
    return say(words, **fields)


def layer_sentence(alignment: Alignment, layer: int) -> str:
    """Say which teacher layers explain one student layer."""
    parts = []
    for kind, name in KIND_NAME.items():
        layers = chosen(alignment, kind)[layer]
        values = {"kind": name, "layers": listed(layers)}
        part = plural(
            len(layers), "{kind} from teacher layer {layers}", "{kind} from teacher layers {layers}", **values
        )
        if best := best_alone(alignment, kind, layer):
            alone = {"layer": best[0], "r2": best[1]}
            part = say("{which} (held-out R² of the best alone: {r2:.2f}, layer {layer})", which=part, **alone)
        parts.append(part)
    return say("Student layer {layer} is explained: {parts}.", layer=layer, parts=together(parts))


def best_alone(alignment: Alignment, kind: str, layer: int) -> tuple[int, float] | None:
    """Return the teacher layer that explains a student layer best on its own, and its R²; None if not searched."""
    singles = alignment.arrays.get(f"similarity.{kind}.r2")
    row = singles[alignment.layer_position(layer)] if singles is not None else np.array([np.nan])
    if np.isnan(row).all():
        return None
    return alignment.teacher["kv_layers"][int(np.nanargmax(row))], float(np.nanmax(row))


def ceiling_sentence(alignment: Alignment, kind: str) -> str:
    """Say what to compare a CKA with: chance, and the similarity of the student's own layers."""
    between, null, own = (alignment.arrays[f"similarity.{kind}.{name}"] for name in ("cka", "cka_shuffled", "own"))
    parts = [
        say("{kind}: CKA with the teacher up to {cka}", kind=KIND_NAME[kind], cka=number(_most(between))),
        say("shuffled rows reach at most {cka}", cka=number(_most(null))),
    ]
    neighbours = np.diagonal(own, 1)
    if len(neighbours) and not np.isnan(neighbours).all():
        words = phrase("neighbouring student layers have {cka:.2f} with each other (at 1 nothing tells them apart)")
        parts.append(say(words, cka=np.nanmean(neighbours)))
    return say("{clauses}.", clauses=clauses(parts))


def chosen_table(alignment: Alignment) -> pd.DataFrame:
    """Return the chosen teacher layers of each student layer, and the reasons for them."""
    rows = []
    for kind, name in KIND_NAME.items():
        by_fold = alignment.layer_map["by_fold"][kind]
        for position, (layer, layers) in enumerate(chosen(alignment, kind).items()):
            best = best_alone(alignment, kind, layer)
            alike = Counter(map(tuple, by_fold[position]))[tuple(layers)]
            cka, null = (alignment.arrays[f"similarity.{kind}.{m}"][position] for m in ("cka", "cka_shuffled"))
            rows.append(
                {
                    "K/V": name,
                    phrase("student layer"): layer,
                    phrase("teacher layers"): listed(layers),
                    phrase("folds that agree"): say("{n} of {total}", n=alike, total=len(by_fold[position])),
                    phrase("best alone"): None if best is None else best[0],
                    phrase("R² of it"): None if best is None else best[1],
                    phrase("highest CKA"): _most(cka),
                    phrase("shuffled rows"): _most(null),
                }
            )
    return pd.DataFrame(rows)


@once
def layer_pairs(alignment: Alignment) -> pd.DataFrame:
    """Return every number of the matrices, one row per pair of layers."""
    teachers, rows = alignment.teacher["kv_layers"], []
    for kind, name in KIND_NAME.items():
        matrices = {m: alignment.arrays.get(f"similarity.{kind}.{m}") for m in ("cka", "cka_shuffled", "r2")}
        for position, (student, layers) in enumerate(chosen(alignment, kind).items()):
            for column, teacher in enumerate(teachers):
                values = {m: None if a is None else float(a[position, column]) for m, a in matrices.items()}
                numbered = {phrase("student layer"): student, phrase("teacher layer"): teacher}
                pair = {"kind": name, **numbered, "chosen": teacher in layers}
                rows.append(pair | values)
    return pd.DataFrame(rows).rename(columns=NAMES)


def _most(values: np.ndarray) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmax(values))
