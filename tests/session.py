"""A session of the web app without a browser: its WebSocket, as the page speaks it. What it times is the server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import ClientConnection, connect

from tests.app import App

PATIENCE = 60  # seconds for one run of the script


class Session:
    """One open page. ``keys``: the widgets on it, by the key they have in the code."""

    def __init__(self, connection: ClientConnection, page: str, query: dict[str, str]):
        self._connection, self._page, self._query = connection, page, query
        self._states: dict[str, WidgetState] = {}
        self.keys: dict[str, str] = {}
        self.opened_s = self._run()

    def select_cell(self, chart: str, layer: int, head: int) -> float:
        """Click a cell of a heatmap -> seconds until the page is whole again."""
        point = {"curve_number": 1, "point_index": 0, "customdata": [layer, head]}
        selection = {"points": [point], "point_indices": [0], "box": [], "lasso": []}
        return self._changed(chart, string_value=json.dumps({"selection": selection}))

    def select_row(self, table: str, row: int) -> float:
        return self._changed(table, string_value=json.dumps({"selection": {"rows": [row], "columns": [], "cells": []}}))

    def choose(self, control: str, option: str) -> float:
        """Of a segmented control."""
        state = WidgetState(id=self.keys[control])
        state.string_array_value.data.append(option)
        return self._changed(control, state)

    def _changed(self, key: str, state: WidgetState | None = None, **value: str) -> float:
        self._states[key] = state or WidgetState(id=self.keys[key], **value)
        return self._run()

    def _run(self) -> float:
        request = BackMsg()
        request.rerun_script.page_name = self._page
        request.rerun_script.query_string = urlencode(self._query)
        request.rerun_script.widget_states.widgets.extend(self._states.values())
        here: dict[str, str] = {}
        started = time.perf_counter()
        self._connection.send(request.SerializeToString())
        while True:
            message = ForwardMsg()
            message.ParseFromString(self._connection.recv(PATIENCE))
            kind = message.WhichOneof("type")
            if kind == "delta":
                self._see(message.delta.new_element, here)
            elif kind == "page_info_changed":
                self._query = dict(part.split("=", 1) for part in message.page_info_changed.query_string.split("&"))
            elif kind == "script_finished" and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                took = time.perf_counter() - started
                break
        # A figure that was drawn anew is another widget: it has no state yet.
        self.keys = here
        self._states = {key: state for key, state in self._states.items() if state.id == here.get(key)}
        return took

    @staticmethod
    def _see(element, here: dict[str, str]) -> None:
        kind = element.WhichOneof("type")
        assert kind != "exception", element.exception.message
        identity = getattr(getattr(element, kind or "", None), "id", "") or ""
        if identity.startswith("$$ID-"):
            here[identity.split("-", 2)[2]] = identity


@contextmanager
def session(app: App, page: str = "", **query: str) -> Iterator[Session]:
    """A page of a running app, opened and whole."""
    address = f"ws{app.url.removeprefix('http')}/_stcore/stream"
    headers = {"Authorization": f"Bearer {app.token}"}
    with connect(address, additional_headers=headers, max_size=None) as connection:
        yield Session(connection, page, query)
