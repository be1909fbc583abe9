"""A note on a run, written by people: plain text in notes.md of its folder, which no process of the run touches."""

import os
from pathlib import Path

from kvlab.errors import RunError
from kvlab.language import Message
from kvlab.runs import store

NOTES = "notes.md"
LIMIT = 10_000  # characters


def read(folder: Path) -> str:
    """The note; empty when there is none, and cut at LIMIT. Links are not followed, foreign bytes are replaced."""
    try:
        descriptor = os.open(folder / NOTES, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = file.read(4 * LIMIT)
    except OSError:
        return ""
    text = found.decode("utf-8", "replace").replace("\r\n", "\n").replace("\x00", "")
    return text[:LIMIT].strip()


def write(folder: Path, text: str, before: str | None = None) -> None:
    """Replace the note whole; empty text removes it.

    ``before``: the note that the writer has seen, when another one must not be lost.
    Raises RunError ``run-not-found``, ``note-too-long``, ``note-changed``, ``runs-unwritable``, ``disk-full``.
    """
    store.find(folder.parent, folder.name)
    text = text.replace("\x00", "").strip()
    if len(text) > LIMIT:
        raise RunError(
            "note-too-long",
            expected=Message("a note of at most {n:,} characters", n=LIMIT),
            found=f"{len(text):,}",
            remedy=Message("shorten it; nothing was changed"),
        )
    if before is not None and read(folder) not in (before.strip(), text):
        raise RunError(
            "note-changed",
            expected=Message("the note as it was when you began to write"),
            found=Message("another one, written meanwhile in another window or by hand"),
            remedy=Message("look at it below, and save again to put yours in its place"),
        )
    with store.disk_errors(folder):
        if text:
            store.replace(folder / NOTES, text.encode("utf-8", "replace") + b"\n")
        else:
            (folder / NOTES).unlink(missing_ok=True)
