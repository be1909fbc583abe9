"""Compare the time rules for one head."""

import pandas as pd
import plotly.graph_objects as go

from kvlab.language import say
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.heads import LOWEST_SHOWN
from kvlab.results.style import NEUTRAL, TEACHER_COLOUR, layout, plus_minus, written


def rules_table(alignment: Alignment, kind: str, layer: int, head: int) -> pd.DataFrame | None:
    """Return held-out R² per rule, the best first; rules scored on their own tokens come last.

    None if the analysis did not compare rules.
    """
    compared = alignment.controls.get("rules")
    if not compared:
        return None
    position = alignment.layer_position(layer)
    rows = []
    for rule, facts in compared.items():
        r2, se = (float(alignment.arrays[f"rules.{kind}.{rule}.{name}"][position, head]) for name in ("r2", "se"))
        rows.append({"rule": rule, "own": rule == alignment.settings["time"], "r2": r2, "se": se} | facts)
    return pd.DataFrame(rows).sort_values(["common", "r2"], ascending=False, ignore_index=True)


def time_rules(alignment: Alignment, kind: str, layer: int, head: int) -> go.Figure:
    """Draw R² per rule, the analysis's rule highlighted; a star marks a rule scored on its own tokens."""
    frame = rules_table(alignment, kind, layer, head)
    figure = go.Figure(
        go.Bar(
            x=frame["r2"].clip(lower=LOWEST_SHOWN),
            y=[
                f"{rule}{'' if common else ' *'}  <b>{written(r2)}</b>" + plus_minus(se)
                for rule, common, r2, se in zip(frame["rule"], frame["common"], frame["r2"], frame["se"])
            ],
            orientation="h",
            marker_color=[TEACHER_COLOUR if used else NEUTRAL for used in frame["own"]],
            error_x={"type": "data", "array": frame["se"].fillna(0), "thickness": 1.5},
            customdata=frame[["rule", "rows_scored"]],
            hovertemplate="%{customdata[0]}: R² %{x:.3f}, n = %{customdata[1]:,}<extra></extra>",
        )
    )
    shown = frame["r2"].clip(lower=LOWEST_SHOWN)
    figure.add_vline(x=0, line={"width": 1, "color": NEUTRAL})
    figure.update_xaxes(
        title=say("held-out R² on the sample (whisker: ± 1 jackknife s.e.)"),
        range=[min(0.0, shown.min()) - 0.02, max(0.5, shown.max() + 0.05)],
        zeroline=False,
    )
    figure.update_yaxes(title=say("time rule"), autorange="reversed")
    return layout(figure, 90 + 34 * len(frame), margin={"l": 190, "r": 16, "t": 8, "b": 48})
