"""Figures as boxes of HTML hold the numbers, colours and words of the plotly figure, and no markup of a user."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.colors import sample_colorscale

from kvlab.host import bundled
from kvlab.results.alignment.data import read
from kvlab.results.alignment.heads import gain_map, hover, mean_sources, r2_map
from kvlab.results.architecture import architectures
from kvlab.results.boxes import boxes
from kvlab.results.function.figures import variants
from kvlab.results.style import NO_GAIN_COLOUR
from kvlab.shapes import Geometry
from kvlab.web import backend
from kvlab.web.function import source
from tests.hostile import NAME

WIDTH = 400


@pytest.fixture(scope="module")
def sample():
    return read(bundled.ANALYSIS)


class Reader(HTMLParser):
    """Every element of a figure: its attributes, its style, and its own text with line breaks."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.all, self._open = set(), [], []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags |= {(tag, name) for name in (dict(attributes) or {"": ""})}
        if tag == "br":
            return self.handle_data("\n")
        found = dict(attributes) | {"text": ""}
        found["look"] = dict(part.split(":", 1) for part in found.get("style", "").split(";") if part)
        self.all.append(found)
        self._open.append(found)

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def of(self, kind):
        return [element for element in self.all if element.get("class") == kind]

    def texts(self):
        return [element["text"] for element in self.of("text")]


def em(element, name):
    return float(element["look"][name].removesuffix("em"))


def right(element):
    return em(element, "left") + em(element, "width")


def rgb(colour):
    if colour.startswith("#"):
        return tuple(int(colour[n : n + 2], 16) for n in (1, 3, 5))
    return tuple(float(number) for number in re.findall(r"[\d.]+", colour))


def contrast(*colours):
    def light(colour):
        parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb(colour)]
        return np.dot(parts, [0.2126, 0.7152, 0.0722])

    dark, bright = sorted(map(light, colours))
    return (bright + 0.05) / (dark + 0.05)


def test_bars_are_as_long_as_their_values_and_whiskers_as_their_errors():
    test = source.of_analysis(backend.SAMPLE)
    rows = test.at(test.injection["prefix"])
    found = Reader(boxes(variants(rows, "kl", 400), "KL of all", WIDTH))
    bars, lines = found.of("bar"), found.of("line")
    longest = max(rows, key=lambda row: row.kl)
    unit = em(bars[rows.index(longest)], "width") / longest.kl
    assert [em(bar, "width") for bar in bars] == pytest.approx([row.kl * unit for row in rows], abs=0.002)
    assert len({em(bar, "left") for bar in bars}) == 1  # from zero
    whiskers = [line for line in lines if em(line, "height") < 0.1]
    assert [em(line, "width") for line in whiskers] == pytest.approx(
        [max(2 * row.kl_se * unit, 1 / 13) for row in rows], abs=0.002
    )
    heights = [em(bar, "top") for bar in bars]
    assert heights == sorted(heights) and len(set(heights)) == len(rows)
    titles = [row["title"] for row in found.of("row")]
    assert titles[1] == f"projected cache: {rows[1].kl:.3f} ± {rows[1].kl_se:.3f}, n = {rows[1].n:,} tokens"
    assert "projected cache\n0.071 ± 0.011" in found.texts() and "(less is better)" in found.texts()[-1]
    assert found.all[0]["role"] == "img" and found.all[0]["aria-label"] == "KL of all"


def test_bars_of_k_and_v_stand_side_by_side_with_a_legend_and_only_v_is_hatched(sample):
    figure = mean_sources(sample, 400)
    found = Reader(boxes(figure, "R²", WIDTH))
    bars = found.of("bar")
    values = [(x, text, trace.name) for trace in figure.data for x, text in zip(trace.x, trace.text, strict=True)]
    unit = em(bars[0], "width") / values[0][0]
    zero = em(bars[0], "left")
    for bar, (x, text, kind) in zip(bars, values, strict=True):
        assert em(bar, "width") == pytest.approx(abs(x) * unit, abs=0.002)
        assert (right(bar) if x < 0 else em(bar, "left")) == pytest.approx(zero, abs=0.002)
        assert ("gradient" in bar["look"]["background"]) == (kind == "V") and text in found.texts()
    assert {"K", "V", "teacher", "held-out R², mean over heads"} <= set(found.texts()) and len(found.of("key")) == 2
    assert [bar["look"]["opacity"] for bar in bars[:3]] == ["1.0", "1.0", "0.45"]
    assert found.of("row")[0]["title"] == "K, teacher + own token: R² 0.85"


def test_without_a_value_there_is_no_bar_and_without_an_error_no_whisker():
    test = source.of_analysis(backend.SAMPLE)
    first, second, *rest = test.at(test.injection["prefix"])
    nan = float("nan")
    rows = [dataclasses.replace(first, kl=nan), dataclasses.replace(second, kl_se=nan), *rest]
    drawn = boxes(variants(rows, "kl", 400), "KL", WIDTH)
    found = Reader(drawn)
    assert len(found.of("bar")) == len(rows) - 1 and "nanem" not in drawn
    assert len([line for line in found.of("line") if em(line, "height") < 0.1]) == len(rows) - 2


@pytest.mark.parametrize("kind", ["key", "value"])
def test_every_head_is_a_cell_in_the_figures_colour_with_the_words_of_its_hover(sample, kind):
    figure = gain_map(sample, kind)
    found = Reader(boxes(figure, "gains", WIDTH))
    scores = [score for score in sample.heads if score.kind == kind]
    limit, scale = figure.data[0].zmax, [list(stop) for stop in figure.data[0].colorscale]
    cells = found.of("cell")
    for cell, score in zip(cells, scores, strict=True):
        share = (score.strongest.r2 + limit) / (2 * limit)
        expected = sample_colorscale(scale, [share])[0] if score.layer else NO_GAIN_COLOUR  # layer 0 gains nothing
        assert rgb(cell["look"]["background"]) == rgb(expected)
        assert cell["title"] == hover(score).replace("<br>", "\n")
    tops, lefts = (sorted({em(cell, side) for cell in cells}) for side in ("top", "left"))
    assert [(tops.index(em(c, "top")), lefts.index(em(c, "left"))) for c in cells] == [
        (s.layer, s.head) for s in scores
    ]
    assert found.texts().count("+0.00 =") == 2 and f"{scores[-1].added:+.2f}" in found.texts()
    assert "gain\nin R²" in found.texts() and "student layer" in found.texts()
    (shades,) = found.of("scale")
    assert re.findall(r"rgb\([\d,]+\)", shades["look"]["background"]) == [colour for _, colour in scale]


def test_the_number_in_a_cell_can_be_read_on_its_colour(sample):
    gains = np.linspace(-0.3, 0.3, len(sample.heads))
    heads = [
        dataclasses.replace(score, added=gain, added_se=0.001, gain=0.9, gain_random=0.9)
        for score, gain in zip(sample.heads, gains, strict=True)
    ]
    shown = dataclasses.replace(sample, heads=heads)
    seen = set()
    for kind in ("key", "value"):
        found = Reader(boxes(gain_map(shown, kind), "gains", WIDTH))
        numbers = [e["look"]["color"] for e in found.all if e["look"].get("color") in ("#FFFFFF", "#000000")]
        for cell, colour in zip(found.of("cell"), numbers, strict=True):
            assert contrast(cell["look"]["background"], colour) >= 4.5, cell["look"]["background"]
        seen |= set(numbers)
    assert seen == {"#FFFFFF", "#000000"}


def test_a_number_without_a_colour_behind_it_has_the_colour_of_the_page(sample):
    nothing = dict.fromkeys(("r2", "gain", "gain_se", "gain_random", "added"), float("nan"))
    heads = [dataclasses.replace(score, **nothing) for score in sample.heads]
    found = Reader(boxes(gain_map(dataclasses.replace(sample, heads=heads), "key"), "gains", WIDTH))
    assert [cell["look"].get("background") for cell in found.of("cell")] == [None] * 8
    assert [e["look"]["color"] for e in found.all if e["text"] == "–" and "color" in e["look"]] == ["inherit"] * 8


@pytest.mark.parametrize("heads", [8, 16, 40])
def test_what_is_written_into_a_cell_is_no_wider_than_it(sample, heads):
    student = sample.student | {"kv_layers": list(range(4))}
    scores = [
        dataclasses.replace(sample.heads[0], layer=n, head=h, r2=0.1, r2_own=0.2)
        for n in range(4)
        for h in range(heads)
    ]
    found = Reader(boxes(gain_map(dataclasses.replace(sample, heads=scores, student=student), "key"), "", WIDTH))
    cell = em(found.of("cell")[0], "width")
    inside = [e for e in found.all if "color" in e["look"] and e["text"].strip()]
    assert len(inside) == len(found.of("cell")) == 4 * heads
    assert all(0.48 * len(e["text"]) * em(e, "font-size") <= cell + 0.05 for e in inside)


def geometries(sample):
    return [Geometry.from_dict(side) for side in (sample.teacher, sample.student)]


def test_blocks_of_both_models_are_as_wide_as_their_channels(sample):
    teacher, student = geometries(sample)
    found = Reader(boxes(architectures([teacher, student]), "both", 755))
    blocks = found.of("block")
    of_teacher = sum(2 * heads for heads, _, _ in teacher.layer_shapes)
    assert len(blocks) == of_teacher + sum(2 * heads for heads, _, _ in student.layer_shapes)
    for block in blocks:
        channels = int(re.search(r"(\d+) channels", block["title"])[1])
        assert em(block, "width") / channels == pytest.approx(em(blocks[0], "width") / teacher.key_width, rel=0.01)
    assert blocks[0]["title"] == "layer 0, KV head 0: K, 16 channels"
    assert max(map(right, blocks[:of_teacher])) < min(em(block, "left") for block in blocks[of_teacher:])
    assert any(text.startswith("demo/student, vocabulary 899\n4 layers × 2 KV heads") for text in found.texts())


def test_a_layer_without_a_cache_is_a_line(sample):
    teacher, student = geometries(sample)
    hybrid = dataclasses.replace(student, layers=6)
    assert len(Reader(boxes(architectures([teacher, hybrid]), "", 755)).of("line")) == 2


def test_a_name_is_text_wherever_it_stands(sample):
    name = NAME + "\"'><img src=x onerror=alert(1)>\n\n</div> \ud800"
    teacher, student = (dataclasses.replace(model, name=name) for model in geometries(sample))
    found = Reader(boxes(architectures([teacher, student]), name, 755))
    shown = name.replace("\ud800", "?")
    assert found.all[0]["aria-label"] == shown
    assert [text.startswith(shown + ", vocabulary") for text in found.texts()] == [True, True]
    bars = go.Bar(x=[1], y=[name], orientation="h", marker_color="#000", hovertemplate="%{y}<extra></extra>")
    layout = {"margin": {"t": 0, "b": 0, "r": 0}, "height": 99, "xaxis_title_text": ""}
    drawn = boxes(go.Figure(bars, layout), "", WIDTH)
    assert "<img" not in drawn and 'font-weight:600">evil</span>' in drawn  # of plotly's own text, <b> and <br> count
    tags = found.tags | Reader(drawn).tags
    allowed = {("div", name) for name in ("class", "style", "title", "role", "aria-label")}
    assert tags - allowed == {("span", "style")} | ({("br", "")} & tags)


def test_what_is_not_known_is_refused(sample):
    refused = [
        go.Figure(),
        go.Figure(go.Pie(values=[1])),
        go.Figure(go.Scatter(x=[1], y=[1], mode="lines")),
        go.Figure(go.Scatter(x=[1], y=[1], mode="markers")),
        mean_sources(sample, 400).add_scatter(x=[1], y=["teacher"], mode="markers"),
        r2_map(sample, "key", selected=(0, 0)),  # its outline is a rectangle
    ]
    for figure in refused:
        figure.update_layout(height=400)
        with pytest.raises(ValueError, match="no boxes for"):
            boxes(figure, "", WIDTH)
    with pytest.raises(ValueError, match="hover template"):
        boxes(mean_sources(sample, 400).update_traces(hovertemplate="%{x:.2f}"), "", WIDTH)
