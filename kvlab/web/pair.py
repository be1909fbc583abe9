"""Say in a form, before anything is launched: whether the models can be had and fit, and how long the prompts are."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.host import memory
from kvlab.host.memory import readable
from kvlab.language import phrase, say
from kvlab.request.documents import digest
from kvlab.results.words import sentences
from kvlab.shapes import Document, Geometry
from kvlab.web import backend
from kvlab.web.server import worker
from kvlab.web.widgets import plain

ASKED = "pair-asked"  # in the session: the questions in hand, by what they are about
PATIENCE = 0.3  # seconds to wait for answers before drawing the form without them
COUNTED = 100_000  # characters whose tokens are counted; the rest is estimated from them
PENDING = phrase(":material/hourglass_top: Whether these models can be had and fit is looked up…")
UNAVAILABLE = phrase("**A model cannot be had.** Expected {expected}; found {found}. {remedy}")

Forecast = Callable[[list[Geometry], Geometry], str]  # says whether a pair fits


def says(teachers: Sequence[str], student: str, documents: Sequence[Document], forecast: Forecast) -> None:
    """Draw what is known of the pair and of the prompts."""
    if not teachers or not student:
        return
    names = list(dict.fromkeys((*teachers, student)))
    try:
        asked = _asked(names, documents)
    except KvlabError as error:
        _unavailable(error)
        return
    if wait(asked.values(), PATIENCE).not_done:
        _await()
        return
    try:
        geometries = {name: _answer(asked[f"geometry {name}"]) for name in names}
        words = [forecast([geometries[name] for name in teachers], geometries[student])]
        if counted := asked.get(_about_tokens(names, documents)):
            words.append(_lengths(counted.result(), documents))
    except KvlabError as error:
        st.session_state.pop(ASKED, None)  # ask again the next time: the user may have mended it
        _unavailable(error)
        return
    st.caption(sentences(*words))


@st.fragment(run_every=1.0)
def _await() -> None:
    if not wait(st.session_state.get(ASKED, {}).values(), 0).not_done:
        st.rerun()  # the whole page, to draw the answers
    st.caption(say(PENDING))


def _unavailable(error: KvlabError) -> None:
    parts = {part: plain(getattr(error, part)) for part in ("expected", "found", "remedy")}
    st.error(say(UNAVAILABLE, **parts), icon=":material/error:")


def _asked(names: Sequence[str], documents: Sequence[Document]) -> dict[str, Future]:
    """Return the questions about these models and prompts; ask those that were not asked yet."""
    known: dict[str, Future] = st.session_state.get(ASKED, {})
    wanted: dict[str, Callable[[], Future]] = {f"geometry {name}": lambda name=name: _geometry(name) for name in names}
    if documents:
        texts = [document.text for document in _first(documents)]
        wanted[_about_tokens(names, documents)] = lambda: worker().question("tokens", names=list(names), texts=texts)
    asked = {about: known.get(about) or ask() for about, ask in wanted.items()}
    st.session_state[ASKED] = asked
    return asked


def _about_tokens(names: Sequence[str], documents: Sequence[Document]) -> str:
    return f"tokens {digest(_first(documents))} {' '.join(names)}"


def _geometry(name: str) -> Future:
    """Ask for the geometry of a model; those of the sample are on disk."""
    if name in backend.PAIR_OF_SAMPLE:
        answer: Future = Future()
        answer.set_result(backend.geometry(name))
        return answer
    return worker().question("geometry", name=name)


def _answer(question: Future) -> Geometry:
    found = question.result()
    return found if isinstance(found, Geometry) else Geometry.from_dict(found)


def fits(needed: int, device: memory.DeviceMemory | None, limit: float = 1.0) -> str:
    """Say whether so many bytes fit below a share of the device's; None: of a device of another machine."""
    if device is None:
        return say(":material/memory: It takes about {needed} of its device.", needed=readable(needed))
    sizes = {"needed": readable(needed), "free": readable(device.free), "device": plain(device.device)}
    if (device.total - device.free + needed) / device.total < limit:
        return say(":material/check_circle: The pair fits: about {needed} of {free} free on {device}.", **sizes)
    return say(":material/warning: **The pair does not fit:** about {needed}, {free} free on {device}.", **sizes)


def _first(documents: Sequence[Document]) -> list[Document]:
    """Return the first documents whose tokens are counted, at least one."""
    counted, size = [], 0
    for document in documents:
        if counted and size + len(document.text) > COUNTED:
            break
        counted.append(document)
        size += len(document.text)
    return counted


def _lengths(counts: dict[str, int], documents: Sequence[Document]) -> str:
    """Say how many tokens the prompts are, for each model."""
    counted = sum(len(document.text) for document in _first(documents))
    scale = sum(len(document.text) for document in documents) / max(counted, 1)
    text = phrase("about {n:,} tokens for {name}") if scale > 1 else phrase("{n:,} tokens for {name}")
    parts = [say(text, n=round(count * scale), name=plain(name)) for name, count in counts.items()]
    return say("Prompts: {lengths}.", lengths=parts)
