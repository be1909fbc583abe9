"""The frame of every report in one HTML file that needs no network: its look, and figures that bring plotly along."""

from collections.abc import Callable, Iterable
from html import escape

import plotly.graph_objects as go
from plotly.io import to_html

FONTS = 'system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif'
# Left open: a report adds its own.
STYLE = """<style>
body { font: 15px/1.5 FONTS;
  max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { background: #f4f6f8; } td:first-child, th:first-child { text-align: left; }
.note { border-left: 4px solid #E69F00; padding: .3rem .8rem; background: #fff8e6; }
""".replace("FONTS", FONTS)


def whole_page(title: str, sections: Iterable[str], language: str = "en", style: str = "") -> str:
    """Sections of HTML as a page. ``language``: of its text, as HTML names it; ``style``: CSS beside the common one."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title>{STYLE}{style}</style>'
    body = "".join(sections)
    return f'<!doctype html><html lang="{escape(language)}"><head>{head}</head><body>{body}</body></html>\n'


def drawing() -> Callable[[go.Figure], str]:
    """Figure -> HTML; the first one brings the library along."""
    drawn = 0

    def draw(figure: go.Figure) -> str:
        nonlocal drawn
        drawn += 1
        figure = go.Figure(figure).update_layout(font_family=FONTS)
        return to_html(figure, full_html=False, include_plotlyjs=drawn == 1)

    return draw
