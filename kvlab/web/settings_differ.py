"""Show the settings in which several runs differ, as a table."""

from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from kvlab.language import say
from kvlab.results.safe_csv import neutral
from kvlab.runs.settings_diff import MISSING, differences
from kvlab.web.widgets import grid, table_height


def table(all_settings: Sequence[dict[str, Any]], names: Sequence[str], spoken: Collection[str] = ()) -> None:
    """Draw the table, one column for each of the runs ``names``. ``spoken``: settings whose names are translated."""
    st.subheader(say("Settings that differ"))
    differing_settings = differences(all_settings)
    if not differing_settings:
        st.markdown(say("None: the settings of these runs are alike."))
        return
    rows = [
        [say(name) if name in spoken else in_words(name), *map(in_words, values)]
        for name, values in differing_settings.items()
    ]
    frame = pd.DataFrame(rows, columns=["setting", *map(neutral, names)])
    alt = say("Settings that are not alike in all selected runs")
    grid(frame, {"setting": say("setting")}, alt, table_height(len(rows), 460))


def differing(names: Sequence[str], all_settings: Sequence[dict[str, Any]]) -> list[str]:
    """Return the settings among ``names`` that differ."""
    return list(differences([{name: settings.get(name) for name in names} for settings in all_settings]))


def in_words(value: object) -> str:
    """Write the value of a setting in words."""
    if value is MISSING:
        return say("not set")
    if value is None:
        return say("none")
    if isinstance(value, list | tuple):
        return say(", ").join(map(in_words, value)) or say("none")
    if isinstance(value, float):
        return f"{value:g}"
    return neutral(str(value).encode("utf-8", "replace").decode())
