"""The common style of all figures: colours with one meaning each, the layout, and the text of a token.

In every sequential map light is little, in both themes: Purples is R², explained (0 to 1), Blues is CKA, Reds the
damage of a swap. The blue-white-red map is lag (blue = behind, red = read ahead), the brown-white-green one a gain in
R² over controls or from other teachers (brown = lost, green = gained, grey = not told from none), the
orange-white-purple one R² of analysis B minus R² of analysis A (orange = less in B, purple = more). K stands before V,
the teacher above the student.
"""

from math import isfinite, isnan

import numpy as np
import plotly.graph_objects as go

from kvlab.language import phrase
from kvlab.results.alignment.data import TokenView

KIND_NAME = {"key": "K", "value": "V"}
R2_SCALE, CKA_SCALE, DAMAGE_SCALE, GAIN_SCALE, DIFFERENCE_SCALE = "Purples", "Blues", "Reds", "BrBG", "PuOr"
WHISKER = "#666B73"  # seen on white, on black, and on the grey of a control
LOWEST_SHOWN = -1.0  # of R²; a lower bar or point is cut, and its number written
NO_GAIN_COLOUR = "#C9CDD3"  # of a cell whose gain is not told from none
TEACHER_COLOUR, STUDENT_COLOUR, NEUTRAL = "#0072B2", "#D55E00", "#8A8F98"  # Okabe and Ito 2008, and grey
INSIDE_COLOUR = "#7B61C9"  # tokens of the student that end inside a teacher token
KIND_COLOUR = {"key": "#009E73", "value": "#CC79A7"}
# Printed in grey, the two colours are alike: V is dashed or hatched.
KIND_DASH, KIND_HATCH = {"key": "solid", "value": "dash"}, {"key": "", "value": "/"}
# Opacity of grey: later segments are darker.
SEGMENT_SHADE = {phrase("prompt"): 0.05, phrase("reasoning"): 0.16, phrase("answer"): 0.3}
SEGMENT_SHADE |= {phrase("system"): 0.02, phrase("user"): 0.05, phrase("tool"): 0.16, phrase("assistant"): 0.3}
# Behind a cell's number: whether it exceeds its controls, or zero; None if unknown.
VERDICT_MARKS = {True: "", False: " =", None: " ?"}
CELL_TEXT_UP_TO = 16  # heads or layers; with more, the numbers are not legible


def layout(figure: go.Figure, height: int, **options) -> go.Figure:
    """Give the figure the common style; ``options`` override it."""
    common = {
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 36, "b": 48},
        "font": {"size": 13},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }
    return figure.update_layout(**(common | options))


def finite_or_none(values: np.ndarray) -> list:
    """Return numbers as nested lists for JSON; NaN becomes None."""
    if values.ndim > 1:
        return [finite_or_none(row) for row in values]
    return [None if np.isnan(value) else float(value) for value in values]


def written(value: float, digits: int = 3, sign: str = "") -> str:
    """Write a number rounded, without a negative zero, with a true minus; with ``sign`` "+" also a plus."""
    return "–" if isnan(value) else f"{round(value, digits) + 0:{sign}.{digits}f}".replace("-", "−")


def plus_minus(se: float | None) -> str:
    """Write a standard error behind its number; nothing if there is none."""
    return f" ± {se:.3f}" if se is not None and isfinite(se) else ""


def visible(token: TokenView | str) -> str:
    """Return the text of a token, or a text, with visible whitespace."""
    text = token if isinstance(token, str) else token.text
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")


def label(token: TokenView) -> str:
    """Return the token's text if it fits over the token's bytes, else a dot."""
    text = visible(token)
    wide = sum(2 if ord(c) > 0x2E7F else 1 for c in text)
    return text if wide <= 1.6 * (token.end - token.start) + 0.5 else "·"
