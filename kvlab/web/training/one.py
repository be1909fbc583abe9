"""One run of the history in detail, with its note."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from kvlab.errors import KvlabError, system_reason
from kvlab.host.memory import readable
from kvlab.language import phrase, say
from kvlab.results.safe_csv import neutral
from kvlab.results.training.words import mark_words
from kvlab.runs import labels, monitor, notes, store
from kvlab.runs.history import Row
from kvlab.web import language, outcome, places
from kvlab.web.training import actions, charts, experiment, live, share, source, table, words
from kvlab.web.widgets import UNKNOWN, duration, grid, plain, show_error, table_height

PEAKS = {  # by whose memory it is, and whether its total is known
    ("device", False): phrase("peak memory of the GPU {used}"),
    ("device", True): phrase("peak memory of the GPU {used}, {share:.0%} of {total}"),
    ("process", False): phrase("peak memory of the process {used}"),
    ("process", True): phrase("peak memory of the process {used}, {share:.0%} of {total}"),
}
PAGES = {  # kind of a run -> its page, and the words and icon of the link
    "analysis": (places.alignment, phrase("Open the analysis"), ":material/grid_on:"),
    "injection": (places.function, phrase("Open the functional test"), ":material/science:"),
    "certificate": (places.certificate, phrase("Open the certificate"), ":material/verified:"),
}
CE = phrase("held-out CE {before:.4f} → {after} nats per token")
CE_OF = phrase(
    "held-out CE {before:.4f} → {after} nats per token (n = {tokens:,} tokens, {documents} held-out documents)"
)
LIVE = (places.validation, phrase("Open live view"), ":material/monitoring:")
SETTINGS_SHOWN = 100_000  # characters
FILES_SHOWN = 200


def panel(row: Row, key: str) -> None:
    """Draw one run. ``key``: for its buttons, as in actions."""
    trains = row.kind not in store.COMPUTED
    files, view = source.of(row.folder), monitor.view(row.folder)
    st.subheader(plain(words.label(row)))
    st.markdown(_summary(row))
    if trains:
        live.ended(view, files, key)
    with st.container(horizontal=True, vertical_alignment="center", key="run-actions"):
        place, label, icon = PAGES.get(row.kind, LIVE)
        st.page_link(place(), label=say(label), icon=icon, query_params={"run": row.id})
        if trains:
            actions.course(row, key)
            actions.again(row, key, lambda new: table.select([new]))
        _pin(row)
        if not row.active:
            actions.delete([row], key, say("Delete"))
        if trains:
            share.button(row.folder)
            actions.export(row, key, view.config)
            if (settings := source.settings_of(view.config)) and settings.control == "none":
                experiment.button(settings, key.format("experiment"), experiment.prompts_of(row.folder))
    if trains:
        actions.exporting(row, key)
    actions.question([row], key, key, table.drop)
    if trains:
        live.checkpoints(files.checkpoints(source.settings_of(view.config)))
    left, right = st.columns(2, gap="medium")
    with left:
        called(row)
    with right:
        note(row, key)
    if trains:
        charts.panel([row])
    with st.expander(say("Settings (config.yaml)"), icon=":material/tune:"):
        st.code(_settings(row.folder), language="yaml")
    with st.expander(say("Files in its folder"), icon=":material/folder:"):
        _files(row.folder)


def _summary(row: Row) -> str:
    files = source.of(row.folder)
    parts = [f"**{plain(words.standing(row))}**"]
    if row.verdict:
        parts.append(say("it runs: **{verdict}**", verdict=mark_words(row.verdict)))
    if steps := words.steps(row):
        parts.append(say("step {steps}", steps=steps))
    if row.ce_before is not None:
        after = UNKNOWN if row.ce_after is None else f"{row.ce_after:.4f}"
        n = {name: files.measured("before").get(name) for name in ("documents", "tokens")}
        known = all(isinstance(count, int) for count in n.values())
        parts.append(say(CE_OF if known else CE, before=row.ce_before, after=after, **n))
    if peak := row.peak:
        total = readable(peak.total) if peak.total else ""
        parts.append(say(PEAKS[peak.what, bool(peak.total)], used=readable(peak.used), share=peak.share, total=total))
    if row.device:
        parts.append(plain(row.device))
    parts.append(duration(row.elapsed_s))
    if row.started:
        parts.append(say("started {time}", time=language.local_time(row.started, "%Y-%m-%d %H:%M:%S")))
    if damaged := files.damaged_lines:
        parts.append(words.damaged(damaged))
    return " · ".join(parts)


def _settings(folder: Path) -> str:
    """Read the settings file as text, even a damaged one."""
    try:
        descriptor = os.open(folder / store.CONFIG, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, encoding="utf-8", errors="replace") as file:
            return file.read(SETTINGS_SHOWN)
    except OSError as error:
        return say("# not readable: {error}", error=system_reason(error))


def _files(folder: Path) -> None:
    st.code(str(folder.resolve() if folder.is_symlink() else folder), language=None)
    listed = _listed(folder)
    frame = pd.DataFrame([(neutral(name), size) for name, size in listed[:FILES_SHOWN]], columns=["file", "size"])
    headings = {"file": say("file"), "size": say("size")}
    grid(frame, headings, say("Files of the run and their sizes"), table_height(len(frame), 400))
    if len(listed) > FILES_SHOWN:
        st.caption(say("{n} more files are not listed.", n=len(listed) - FILES_SHOWN))


def _listed(folder: Path) -> list[tuple[str, str]]:
    """List name and size of every file that is not hidden."""
    listed = []
    for at, folders, names in os.walk(folder):  # which follows no links
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(at) / name
            try:
                size = say("a link, not followed") if path.is_symlink() else readable(path.lstat().st_size)
            except OSError:
                continue
            listed.append((str(path.relative_to(folder)).encode("utf-8", "replace").decode(), size))
    return listed


def _pin(row: Row) -> None:
    """Draw the button that makes a run the baseline of its kind, or no longer."""
    pinned = row.labels.baseline
    st.button(
        say("Unpin the baseline") if pinned else say("Pin as baseline"),
        key=f"pin-{row.id}",
        icon=":material/keep_off:" if pinned else ":material/keep:",
        on_click=_set_baseline,
        args=(row,),
        help=say("The baseline is listed first, and other runs are compared with it."),
    )


def _set_baseline(row: Row) -> None:
    """Pin a run, in place of the baseline of its kind so far, or unpin it."""
    others = [] if row.labels.baseline else [r for r in source.rows() if r.labels.baseline and r.kind == row.kind]
    _label(row, {"baseline": not row.labels.baseline}, others)


def called(row: Row) -> None:
    """Draw the name and the tags of a run, to edit and save."""
    name, tags = f"label-name-{row.id}", f"label-tags-{row.id}"
    st.session_state.setdefault(name, row.labels.name)
    st.session_state.setdefault(tags, ", ".join(row.labels.tags))
    error = st.session_state.pop(f"label-error-{row.id}", None)
    with st.form(f"label-form-{row.id}", border=False):
        st.text_input(say("Name"), key=name, max_chars=labels.NAME_LIMIT, placeholder=words.name(row))
        st.text_input(say("Tags, separated by commas"), key=tags, placeholder=say("baseline, lr sweep"))
        st.form_submit_button(say("Save name and tags"), on_click=_save_labels, args=(row, name, tags))
    if error:
        show_error(error)


def _save_labels(row: Row, name: str, tags: str) -> None:
    parts = re.split("[,，、;；]", st.session_state[tags])
    _label(row, {"name": st.session_state[name], "tags": parts})
    saved = labels.read(row.folder)
    st.session_state[name], st.session_state[tags] = saved.name, ", ".join(saved.tags)


def _label(row: Row, changes: dict[str, Any], unpinned: Sequence[Row] = ()) -> None:
    try:
        for other in unpinned:
            labels.write(other.folder, baseline=False)
        labels.write(row.folder, **changes)
    except KvlabError as error:
        st.session_state[f"label-error-{row.id}"] = error


def note(row: Row, key: str) -> None:
    """Draw the note of a run, to edit and save."""
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
        saved = (row, key, box, begun, seen)
        st.form_submit_button(say("Save note"), on_click=_save, args=saved, icon=":material/save:")
    if error:
        show_error(error)
    if on_disk != st.session_state[begun]:
        # Leave the box alone: replacing its text would lose what the user is typing.
        st.caption(say("Written meanwhile in another window or by hand:"))
        st.code(on_disk or say("(no note)"), language=None, wrap_lines=True)
        st.button(say("Take that one"), key=f"note-take-{row.id}", on_click=_take, args=(row, box, begun))
    st.session_state[seen] = on_disk


def _save(row: Row, key: str, box: str, begun: str, seen: str) -> None:
    outcome.forget(key)
    try:
        notes.write(row.folder, st.session_state[box], before=st.session_state.get(seen))
    except KvlabError as error:
        st.session_state[f"note-error-{row.id}"] = error
        return
    st.session_state[begun] = st.session_state[box] = notes.read(row.folder)


def _take(row: Row, box: str, begun: str) -> None:
    st.session_state[box] = st.session_state[begun] = notes.read(row.folder)
