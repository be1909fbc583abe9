"""Say in the form what memory an analysis or a functional test takes, and offer settings with which it fits."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.host.memory import device_memory, readable
from kvlab.language import say
from kvlab.request.align import AnalysisRequest
from kvlab.request.analysis_memory import Way, analysis_memory, name_of, places, size_of, ways_that_fit
from kvlab.request.settings import checked
from kvlab.results.words import sentences
from kvlab.shapes import Document, Geometry
from kvlab.web import pair
from kvlab.web.server import worker
from kvlab.web.widgets import plain

LARGEST = 3  # parts that are named


class Memory:
    """The forecast of what a form asks for."""

    def __init__(self, everything: dict[str, Any], documents: Sequence[Document]):
        self._everything, self._documents = everything, documents
        self._ways: list[Way] | None = None  # where it does not fit

    def says(self, teachers: list[Geometry], student: Geometry) -> str:
        """Say what is needed where, and its largest parts."""
        try:
            fields = {name: value for name, value in self._everything.items() if name in AnalysisRequest.model_fields}
            request = checked(AnalysisRequest, fields)
        except KvlabError:  # a setting is invalid, which Run will say
            return ""
        if not self._documents:
            return ""
        size = size_of(request, self._documents, teachers, student)
        elsewhere = worker().elsewhere
        if elsewhere:
            needed = analysis_memory(**size, device="cpu" if request.device == "cpu" else "cuda")
            parts = needed.device or needed.host
            return sentences(pair.fits(sum(part.bytes for part in parts), None), _largest(parts))
        device, host = device_memory(request.device), device_memory("cpu")
        forecast = analysis_memory(**size, device=device.device)
        words = []
        for memory, parts in places(forecast, device, host):
            needed = sum(part.bytes for part in parts)
            words += [pair.fits(needed, memory), _largest(parts)]
            if needed > memory.free and self._ways is None:
                self._ways = ways_that_fit(**size, device=device, host=host)
        return sentences(*words)

    def offers(self) -> None:
        """Draw a button for each way to make fit what does not."""
        if self._ways is None:
            return
        if not self._ways:
            st.caption(say("No setting of the form makes it fit: take smaller models, or a larger device."))
            return
        st.caption(say("With these settings it fits:"))
        with st.container(horizontal=True):
            for number, way in enumerate(self._ways):
                label = say("{flag} (about {size})", flag=plain(way.flags), size=readable(way.bytes))
                st.button(label, key=f"form-fits-{number}", on_click=_take, args=(way,), type="tertiary")


def _take(way: Way) -> None:
    for name, value in way.changes.items():
        st.session_state[f"form-{name.replace('_', '-')}"] = value


def _largest(parts: Sequence[Any]) -> str:
    largest = sorted(parts, key=lambda part: -part.bytes)[:LARGEST]
    named = [say("{size} {name}", size=readable(part.bytes), name=plain(name_of(part))) for part in largest]
    return say("The most: {parts}.", parts=named)
