"""One run in detail, with its note."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from kvlab.errors import KvlabError, system_reason
from kvlab.host.memory import readable
from kvlab.language import phrase, say
from kvlab.results.safe_csv import neutral
from kvlab.runs import monitor, notes, store
from kvlab.runs.history import Row, finite
from kvlab.web import places
from kvlab.web.training import actions, charts, source
from kvlab.web.training import words as report_words
from kvlab.web.training import words as runs_words
from kvlab.web.widgets import duration, plain, show_error, table_height

PEAKS = {  # of the device or of the process, and whether its share is known
    ("device", False): phrase("peak memory of the GPU {used}"),
    ("device", True): phrase("peak memory of the GPU {used}, {share:.0%} of {total}"),
    ("process", False): phrase("peak memory of the process {used}"),
    ("process", True): phrase("peak memory of the process {used}, {share:.0%} of {total}"),
}
SETTINGS_SHOWN = 100_000  # characters
FILES_SHOWN = 200


def panel(row: Row) -> None:
    st.subheader(plain(runs_words.label(row)))
    st.markdown(_summary(row))
    _error(row)
    with st.container(horizontal=True, key="run-actions"):
        _link(row)
        actions.for_one(row)
    actions.confirm([row])
    left, right = st.columns([5, 2], gap="medium")
    with left:
        if row.kind not in store.COMPUTED:
            _checkpoints(row)
    with right:
        note(row)
    if row.kind not in store.COMPUTED:
        charts.panel([row])
    with st.expander(say("Settings (config.yaml)"), icon=":material/tune:"):
        st.code(_settings(row.folder), language="yaml")
    with st.expander(say("Files in its folder"), icon=":material/folder:"):
        _files(row.folder)


def _link(row: Row) -> None:
    if row.kind == "analysis":
        where, label, icon = places.alignment(), say("Open the analysis"), ":material/grid_on:"
    elif row.kind == "injection":
        where, label, icon = places.function(), say("Open the functional test"), ":material/science:"
    else:
        where, label, icon = places.validation(), say("Open live view"), ":material/monitoring:"
    st.page_link(where, label=label, icon=icon, query_params={"run": row.id})


def _summary(row: Row) -> str:
    parts = [f"**{plain(runs_words.standing(row))}**"]
    if row.verdict:
        parts.append(say("verdict **{verdict}**", verdict=runs_words.verdict_of(row)))
    if steps := runs_words.steps(row):
        parts.append(say("step {steps}", steps=steps))
    if row.ce_before is not None:
        after = f"{row.ce_after:.4f}" if row.ce_after is not None else "–"
        ce = say("held-out CE {before:.4f} → {after} nats per token", before=row.ce_before, after=after)
        parts.append(f"{ce}{_measured_on(row)}")
    if peak := row.peak:
        words = PEAKS[peak.what, bool(peak.total)]
        total = readable(peak.total) if peak.total else ""
        parts.append(say(words, used=readable(peak.used), share=peak.share, total=total))
    parts += [plain(row.device)] if row.device else []
    parts.append(duration(row.elapsed_s))
    if row.started:
        parts.append(say("started {time:%Y-%m-%d %H:%M:%S} UTC", time=row.started))
    if damaged := source.damaged(row.folder):
        parts.append(say("{n} damaged lines in its metrics passed over, all others read", n=damaged))
    return " · ".join(parts)


def _measured_on(row: Row) -> str:
    before = source.report(row.folder).get("before")
    documents, tokens = (before.get(name) if isinstance(before, dict) else None for name in ("documents", "tokens"))
    if not isinstance(documents, int) or not isinstance(tokens, int):
        return ""
    return say(" (n = {tokens:,} tokens, {documents} held-out documents)", tokens=tokens, documents=documents)


def _error(row: Row) -> None:
    found = monitor.view(row.folder).error if row.state in ("failed", "lost") else None
    if not found:
        return
    try:
        show_error(KvlabError.from_dict({key: _clean(value) for key, value in found.items()}))
    except KeyError:
        st.error(say("No reason was recorded. Its log in the run’s folder may tell."))


def _checkpoints(row: Row) -> None:
    table = source.checkpoints(row.folder)
    if not table:
        st.markdown(say("No checkpoint has been judged yet." if row.active else "No checkpoint has been judged."))
        return
    frame = pd.DataFrame(
        {
            "step": pd.Series([finite(c.get("step")) for c in table], dtype="float64"),
            "name": [report_words.checkpoint(_clean(c.get("name", "–"))) for c in table],
            "state": [report_words.mark(c.get("state")) or "–" for c in table],
            "words": [_clean(report_words.remarked(c)) for c in table],
        }
    )
    st.dataframe(
        frame,
        hide_index=True,
        column_config={
            "step": st.column_config.NumberColumn(say("step"), format="%d", width=50),
            "name": st.column_config.TextColumn(say("checked"), width=118),
            "state": st.column_config.TextColumn(say("state"), width=74),
            "words": st.column_config.TextColumn(say("what was found"), width=520),
        },
        height=table_height(len(frame), 330),
        placeholder="–",
        alt=say("The checkpoints of the run, each with its state and what was found"),
    )


def _clean(value: object) -> str:
    """Text of a record without halves of characters."""
    return str(value).encode("utf-8", "replace").decode()


def _settings(folder: Path) -> str:
    """As they stand in the file, be they what they may."""
    try:
        descriptor = os.open(folder / store.CONFIG, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, encoding="utf-8", errors="replace") as file:
            return file.read(SETTINGS_SHOWN)
    except OSError as error:
        return say("# not readable: {error}", error=system_reason(error))


def _files(folder: Path) -> None:
    st.code(str(folder), language=None)
    found = _listed(folder)
    st.dataframe(
        pd.DataFrame([(neutral(name), size) for name, size in found[:FILES_SHOWN]], columns=["file", "size"]),
        hide_index=True,
        height=table_height(min(len(found), FILES_SHOWN), 400),
        column_config={"file": say("file"), "size": say("size")},
        alt=say("Files of the run and their sizes"),
    )
    if len(found) > FILES_SHOWN:
        st.caption(say("{n} more files are not listed.", n=len(found) - FILES_SHOWN))


def _listed(folder: Path) -> Sequence[tuple[str, str]]:
    found = []
    for at, folders, names in os.walk(folder):  # which follows no links
        folders.sort()
        for name in sorted(names):
            path = Path(at) / name
            inner = str(path.relative_to(folder)).encode("utf-8", "replace").decode()
            try:
                size = say("a link, not followed") if path.is_symlink() else readable(path.lstat().st_size)
            except OSError:
                continue
            if not name.startswith("."):
                found.append((inner, size))
    return found


def note(row: Row) -> None:
    box, begun, seen = (f"note-{part}-{row.id}" for part in ("box", "begun", "seen"))
    on_disk = notes.read(row.folder)
    if box not in st.session_state:
        st.session_state[box] = st.session_state[begun] = on_disk
    error = st.session_state.pop(f"note-error-{row.id}", None)
    with st.form(f"note-form-{row.id}", border=False):
        st.text_area(
            say("Note"),
            key=box,
            height=110,
            max_chars=notes.LIMIT,
            placeholder=say("What this run was for, what came out"),
            help=say(
                "Plain text, kept as {file} in the run’s folder, shown in the history and in the report.",
                file=notes.NOTES,
            ),
        )
        st.form_submit_button(say("Save note"), on_click=_save, args=(row, box, begun, seen), icon=":material/save:")
    if error:
        show_error(error)
    if on_disk != st.session_state[begun]:
        # What is being typed here is not replaced: the box would lose it.
        st.caption(say("Written meanwhile in another window or by hand:"))
        st.code(on_disk or say("(no note)"), language=None, wrap_lines=True)
        st.button(say("Take that one"), key=f"note-take-{row.id}", on_click=_take, args=(row, box, begun))
    st.session_state[seen] = on_disk


def _save(row: Row, box: str, begun: str, seen: str) -> None:
    actions.forget()
    try:
        notes.write(row.folder, st.session_state[box], before=st.session_state.get(seen))
    except KvlabError as error:
        st.session_state[f"note-error-{row.id}"] = error
        return
    st.session_state[begun] = st.session_state[box] = notes.read(row.folder)


def _take(row: Row, box: str, begun: str) -> None:
    st.session_state[box] = st.session_state[begun] = notes.read(row.folder)
