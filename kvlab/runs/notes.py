"""Read and write the note on a run: plain text by people, in notes.md of its folder. No run process touches it."""

import os
from pathlib import Path

from kvlab.errors import RunError
from kvlab.language import Message
from kvlab.runs import store

NOTES = "notes.md"
LIMIT = 10_000  # characters


def read(folder: Path) -> str:
    """Return the note, cut at LIMIT; empty if there is none. Ignores links; replaces bytes that are not UTF-8."""
    try:
        descriptor = os.open(folder / NOTES, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            data = file.read(4 * LIMIT)
    except OSError:
        return ""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\x00", "")
    return text[:LIMIT].strip()


def write(folder: Path, text: str, before: str | None = None) -> None:
    """Replace the whole note; empty text removes it.

    ``before`` is the note that the writer saw; a note that somebody else wrote since is not overwritten.
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
