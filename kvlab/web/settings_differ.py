"""Only the settings that are not alike in all of several runs, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from kvlab.language import say
from kvlab.results.safe_csv import neutral
from kvlab.runs.settings_diff import MISSING, differences
from kvlab.web.widgets import table_height


def table(all_settings: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """``names``: of the runs, one column each."""
    st.subheader(say("Settings that differ"))
    found = differences(all_settings)
    if not found:
        st.markdown(say("None: the settings of these runs are alike."))
        return
    frame = pd.DataFrame(
        [[said(say(name) if " " in name else name), *map(said, values)] for name, values in found.items()],
        columns=["setting", *map(neutral, names)],
    )
    st.dataframe(
        frame,
        hide_index=True,
        height=table_height(len(frame), 460),
        column_config={"setting": say("setting")},
        alt=say("Settings that are not alike in all selected runs"),
    )


def differing(names: Sequence[str], all_settings: Sequence[dict[str, Any]]) -> list[str]:
    """Those of ``names`` that are not alike in all."""
    return list(differences([{name: settings.get(name) for name in names} for settings in all_settings]))


def said(value: object) -> str:
    """A setting in words."""
    if value is MISSING:
        return say("not set")
    if value is None:
        return say("none")
    if isinstance(value, list | tuple):
        return say(", ").join(map(said, value)) or say("none")
    if isinstance(value, float):
        return f"{value:g}"
    return neutral(str(value).encode("utf-8", "replace").decode())
