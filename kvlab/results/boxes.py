"""Write a figure as boxes of HTML, which a browser draws at once: plotly's script, of 4 MB, takes it seconds to read.

Known are the figures of the Overview page: bars, maps of cells, and the caches of two models. Others are refused.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape, unescape
from math import ceil, floor, isfinite, log10
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from kvlab.results.style import NEUTRAL

SIZE, LINE = 13, 16  # pixels: of the letters, and from line to line
LETTER = 0.48  # of its size, the width of most letters; Chinese ones are square
BAR_SHARE = 0.8  # of the room of a row that its bars take
SCALE_ROOM = 66  # pixels right of a map, for its scale of colours
FIELD = re.compile(r"%\{(\w+)(?:\[(\d+)\])?\}")  # of a hover template
HATCH = "repeating-linear-gradient(-45deg,rgba(68,68,68,.6) 0 1px,transparent 1px 6px)"
ANCHOR = {"left": "0", "center": "-50%", "right": "-100%"}  # how far a text is moved from where it lies
GREY = "opacity:.18"
MARKUP = {"<br>": "<br>", "<b>": '<span style="font-weight:600">', "</b>": "</span>"}  # of plotly's texts


def boxes(figure: go.Figure, about: str, width: int) -> str:
    """Return the figure as HTML for a place ``width`` pixels wide; in a narrower one all of it is smaller.

    ``about``: what it shows, for a screen reader. Its words take the colour and the font of the text around it.
    """
    content = figure.to_plotly_json()
    traces, layout = content["data"], content["layout"]
    kinds = {"-".join(filter(None, (trace["type"], trace.get("orientation"), trace.get("mode")))) for trace in traces}
    draw = next((draw for known, draw in DRAWN.items() if known[0] in kinds and kinds <= set(known)), None)
    if draw is None:
        raise ValueError(f"no boxes for {', '.join(sorted(kinds)) or 'an empty figure'}")
    # All lengths within are in em, of letters that are a share of the place.
    size = f"height:{_em(layout['height'])};font-size:{100 * SIZE / width:.4f}cqw;line-height:{_em(LINE)}"
    outside = f"container-type:inline-size;max-width:{1.25 * width:.0f}px;print-color-adjust:exact"
    inside = f'<div style="position:relative;{size}">{"".join(draw(traces, layout, width))}</div>'
    return f'<div role="img" aria-label="{_escaped(about)}" style="{outside}">{inside}</div>'


class Axis(NamedTuple):
    """Where numbers, or categories, lie in pixels."""

    low: float
    high: float
    start: float
    end: float
    names: Sequence[str] = ()

    def at(self, value: Any) -> float:
        place = self.names.index(value) if self.names else value
        return self.start + (place - self.low) * self.step

    @property
    def step(self) -> float:
        return (self.end - self.start) / (self.high - self.low)

    def ticks(self) -> Iterable[tuple[float, str]]:
        """Places of round numbers, six at most, and how the numbers are written."""
        room = (self.high - self.low) / 5
        step = 10.0 ** floor(log10(room))
        step *= next(factor for factor in (1, 2, 5, 10) if room <= step * factor)
        for n in range(ceil(self.low / step), floor(self.high / step) + 1):
            yield self.at(n * step), f"{n * step:.6g}".replace("-", "−")


def _categories(names: Iterable[str], start: float, end: float) -> Axis:
    found = list(dict.fromkeys(names))
    return Axis(-0.5, len(found) - 0.5, start, end, found)


def _bars(traces: list[dict], layout: dict, width: int) -> Iterable[str]:
    """Horizontal bars, the first category at the top; of several traces side by side, with a legend."""
    names = [name for trace in traces for name in trace["y"]]
    top, bottom = _heights(layout)
    rows = _categories(names, top, bottom)
    ends = [x + way * error for trace in traces for x, _, error in _marks(trace).values() for way in (1, -1)]
    low, high = layout["xaxis"].get("range") or (min(0, *ends), 1.05 * max(0, *ends))
    right = width - layout["margin"]["r"]
    columns = Axis(low, high if high > low else low + 1, max(map(_wide, names)) + 12, right)
    for x, words in columns.ticks():
        yield _line(x, x, top, bottom, "currentColor", GREY)
        yield _text(x, bottom + LINE, words, "center")
    for name in rows.names:
        yield _text(columns.start - 8, rows.at(name), name, "right")
    thick = rows.step * BAR_SHARE / len(traces)
    for number, trace in enumerate(traces):
        shift = thick * (number - len(traces) / 2)
        for n, (x, name, error) in _marks(trace).items():
            y = rows.at(name) + shift
            middle = y + thick / 2
            yield _box("bar", columns.at(0), columns.at(x), y, y + thick, _filled(trace, n))
            if error:
                left, end = columns.at(x - error), columns.at(x + error)
                for x0, x1, half in ((left, end, 0), (left, left, 4), (end, end, 4)):
                    yield _line(x0, x1, middle - half, middle + half, trace["error_x"]["color"])
            if trace.get("textposition") == "outside":
                place = (columns.at(x) + 4, "left") if x >= 0 else (columns.at(x) - 4, "right")
                yield _text(place[0], middle, trace["text"][n], place[1])
            yield _box("row", 0, right, y, y + thick, "", _title(trace, n))
        if len(traces) > 1:
            left = columns.start + 48 * number
            yield _box("key", left, left + 12, 4, 16, _filled(trace, 0))
            yield _text(left + 17, 10, trace["name"])
    yield from _lines(layout, columns, rows)
    yield _below(layout, columns)


def _map(traces: list[dict], layout: dict, width: int) -> Iterable[str]:
    """The cells of ``cell_map``: colours of its heatmaps, hover words of its invisible markers, and its texts."""
    heatmaps = [trace for trace in traces if trace["type"] == "heatmap"]
    top, bottom = _heights(layout)
    columns = _categories(heatmaps[0]["x"], layout["margin"]["l"], width - SCALE_ROOM)
    rows = _categories(heatmaps[0]["y"], top, bottom)
    colours = {place: colour for trace in heatmaps for place, colour in _coloured(trace)}
    gap = heatmaps[0]["xgap"] or -0.6  # without a gap, cells overlap a little, or a line would show between some
    wide, high = (columns.step - gap) / 2, (rows.step - gap) / 2
    for trace in (trace for trace in traces if trace.get("mode") == "markers"):
        for n, place in enumerate(zip(trace["x"], trace["y"])):
            x, y = columns.at(place[0]), rows.at(place[1])
            look = f"background:{colours[place]}" if place in colours else ""
            yield _box("cell", x - wide, x + wide, y - high, y + high, look, _title(trace, n))
    for trace in (trace for trace in traces if trace.get("mode") == "text"):
        font, widest = trace["textfont"], max(map(_wide, trace["text"])) / SIZE
        size = min(font["size"], rows.step, 2 * wide / widest)
        for n, (x, y, words) in enumerate(zip(trace["x"], trace["y"], trace["text"])):
            colour = _of(font["color"], n) if (x, y) in colours else "inherit"
            yield _text(columns.at(x), rows.at(y), words, "center", size, f"color:{colour}")
    for name in columns.names[:: ceil(24 / columns.step)]:
        yield _text(columns.at(name), bottom + LINE - 4, name, "center")
    for name in rows.names[:: ceil(LINE / rows.step)]:
        yield _text(columns.start - 8, rows.at(name), name, "right")
    yield from _scale(heatmaps[0], columns.end + 12, top, bottom)
    yield from _lines(layout, columns, rows)
    yield _text(0, 14, layout["title"]["text"], size=layout["title"]["font"]["size"], look="font-weight:600")
    yield _text(10, (top + bottom) / 2, layout["yaxis"]["title"]["text"], "center", turned=" rotate(-90deg)")
    yield _below(layout, columns)


def _scale(heatmap: dict, left: float, top: float, bottom: float) -> Iterable[str]:
    title, right = heatmap["colorbar"]["title"]["text"], left + heatmap["colorbar"]["thickness"]
    lines = title.count("<br>") + 1
    values = Axis(heatmap["zmin"], heatmap["zmax"], bottom, top + LINE * lines + 4)
    stops = ",".join(f"{colour} {at:.0%}" for at, colour in heatmap["colorscale"])
    yield _box("scale", left, right, values.end, bottom, f"background:linear-gradient(0deg,{stops})")
    for y, words in values.ticks():
        yield _text(right + 5, y, words)
    yield _text(left, top + LINE * lines / 2 - 4, title)


def _blocks(traces: list[dict], layout: dict, width: int) -> Iterable[str]:
    """The drawing of ``architectures``: blocks at given places, lines, and words over them."""
    margin, (top, bottom) = layout["margin"], _heights(layout)
    columns = Axis(*layout["xaxis"]["range"], margin["l"], width - margin["r"])
    rows = Axis(*layout["yaxis"]["range"], bottom, top)
    for trace in traces:
        for n, (x, y, base, wide) in enumerate(zip(trace["x"], trace["y"], trace["base"], trace["width"])):
            across = columns.at(x - wide / 2), columns.at(x + wide / 2)
            yield _box("block", *across, rows.at(base), rows.at(base + y), _filled(trace, n), _title(trace, n))
    yield from _lines(layout, columns, rows)
    for note in layout["annotations"]:
        lines = note["text"].count("<br>") + 1
        yield _text(columns.at(note["x"]), top - LINE * lines / 2 - 2, note["text"])


DRAWN = {("bar-h",): _bars, ("heatmap", "scatter-text", "scatter-markers"): _map, ("bar",): _blocks}


def _heights(layout: dict) -> tuple[float, float]:
    return layout["margin"]["t"], layout["height"] - layout["margin"]["b"]


def _marks(trace: dict) -> dict[int, tuple[float, str, float]]:
    """Value, category and error of each bar that has a value; an error that is not known is zero."""
    errors = trace["error_x"]["array"] if "error_x" in trace else [0] * len(trace["x"])
    marks = enumerate(zip(trace["x"], trace["y"], errors))
    return {n: (x, name, error if isfinite(error) else 0) for n, (x, name, error) in marks if isfinite(x)}


def _of(value: Any, n: int) -> Any:
    """Of a property that is one value for all marks or a list, that of the n-th."""
    return value if isinstance(value, str | float | int) else value[n]


def _filled(trace: dict, n: int) -> str:
    marker = trace["marker"]
    hatch = f"{HATCH}," if marker.get("pattern", {}).get("shape") else ""
    return f"background:{hatch}{_of(marker['color'], n)};opacity:{_of(marker.get('opacity', 1), n)}"


def _coloured(heatmap: dict) -> Iterable[tuple[tuple[str, str], str]]:
    """(x, y) and colour of each cell that has a value."""
    low, high = heatmap.get("zmin", 0), heatmap.get("zmax", 1)
    values = {
        (x, y): min(1, max(0, (value - low) / (high - low)))
        for y, row in zip(heatmap["y"], heatmap["z"])
        for x, value in zip(heatmap["x"], row)
        if value is not None
    }
    return zip(values, sample_colorscale(heatmap["colorscale"], list(values.values())) if values else ())


def _lines(layout: dict, columns: Axis, rows: Axis) -> Iterable[str]:
    for shape in layout.get("shapes", ()):
        if shape["type"] != "line":
            raise ValueError(f"no boxes for the shape {shape['type']}")
        whole = shape.get("yref") == "y domain"
        y0, y1 = (rows.start, rows.end) if whole else (rows.at(shape["y0"]), rows.at(shape["y1"]))
        yield _line(columns.at(shape["x0"]), columns.at(shape["x1"]), y0, y1, shape["line"].get("color", NEUTRAL))


def _below(layout: dict, columns: Axis) -> str:
    words = layout["xaxis"]["title"]["text"]
    y = layout["height"] - 2 - LINE * (words.count("<br>") + 1) / 2
    return _text((columns.start + columns.end) / 2, y, words, "center")


def _em(pixels: float) -> str:
    return f"{pixels / SIZE:.3f}em"


def _box(kind: str, x0: float, x1: float, y0: float, y1: float, look: str, title: str = "") -> str:
    place = f"left:{_em(min(x0, x1))};top:{_em(min(y0, y1))};width:{_em(abs(x1 - x0))};height:{_em(abs(y1 - y0))}"
    return f'<div class="{kind}" style="position:absolute;{place};{look}"{title}></div>'


def _line(x0: float, x1: float, y0: float, y1: float, colour: str, look: str = "") -> str:
    return _box("line", x0, max(x1, x0 + 1), y0, max(y1, y0 + 1), f"background:{colour};{look}")


def _title(trace: dict, n: int) -> str:
    """What plotly shows when the pointer is on the n-th mark of a trace, as an attribute."""
    template = trace["hovertemplate"].removesuffix("<extra></extra>")
    if "%{" in FIELD.sub("", template):
        raise ValueError(f"no words for the hover template {template}")

    def value(field: re.Match) -> str:
        found = trace[field[1]][n]
        return str(found if field[2] is None else found[int(field[2])])

    return f' title="{_escaped(unescape(FIELD.sub(value, template).replace("<br>", chr(10))))}"'


def _text(
    x: float, y: float, words: str, align: str = "left", size: float = SIZE, look: str = "", turned: str = ""
) -> str:
    """Write plotly's text, in which <br> and <b> count, with its middle at this height."""
    parts = re.split("(<br>|</?b>)", words)  # the second of two is markup
    marked = "".join(MARKUP[part] if n % 2 else _escaped(unescape(part)) for n, part in enumerate(parts))
    moved = f"transform:translate({ANCHOR[align]},-50%){turned};text-align:{align};pointer-events:none"
    place = f"position:absolute;left:{_em(x)};top:{_em(y)};white-space:nowrap;{moved}"
    inside = f'<span style="font-size:{_em(size)};{look}">{marked}</span>'
    return f'<div class="text" style="{place}">{inside}</div>'


def _wide(words: str) -> float:
    lines = unescape(re.sub("</?b>", "", words).replace("<br>", "\n")).split("\n")
    return max(sum(SIZE * (1 if ord(letter) > 0x2E7F else LETTER) for letter in line) for line in lines)


def _escaped(words: str) -> str:
    return escape(words.encode("utf-8", "replace").decode()).replace("\n", "&#10;")
