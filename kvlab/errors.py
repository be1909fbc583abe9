"""Errors that a user can cause. Each says three things: what was expected, what was found, what to do.

Any module raises them; the edge (command line, worker, page) catches them once.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from kvlab.language import Message, phrase

PARTS = ("expected", "found", "remedy")
# The C library's wording, which people know.
SYSTEM = {
    errno.EPERM: phrase("Operation not permitted"),
    errno.ENOENT: phrase("No such file or directory"),
    errno.EIO: phrase("Input/output error"),
    errno.EAGAIN: phrase("Resource temporarily unavailable"),
    errno.ENOMEM: phrase("Cannot allocate memory"),
    errno.EACCES: phrase("Permission denied"),
    errno.EEXIST: phrase("File exists"),
    errno.ENOTDIR: phrase("Not a directory"),
    errno.EISDIR: phrase("Is a directory"),
    errno.EMFILE: phrase("Too many open files"),
    errno.ENOSPC: phrase("No space left on device"),
    errno.EROFS: phrase("Read-only file system"),
    errno.ENAMETOOLONG: phrase("File name too long"),
    errno.ENOLCK: phrase("No locks available"),
    errno.EOPNOTSUPP: phrase("Operation not supported"),
    errno.ESTALE: phrase("Stale file handle"),
    errno.EDQUOT: phrase("Disk quota exceeded"),
}


class KvlabError(Exception):
    """A request that kvlab cannot serve, in words for the person who made it.

    ``kind`` is a stable short name (``model-not-found``). Each part is a Message, or a plain string that nobody
    translates, such as a library's own message or a name.
    """

    def __init__(self, kind: str, *, expected: Message | str, found: Message | str, remedy: Message | str):
        self.kind = kind
        self.expected, self.found, self.remedy = (Message.read(part) for part in (expected, found, remedy))
        super().__init__(kind)

    @property
    def message(self) -> Message:
        """Return all three parts in one line."""
        parts = {name: getattr(self, name) for name in PARTS}
        return Message("Expected {expected}. Found {found}. What to do: {remedy}", **parts)

    def __str__(self) -> str:
        return str(self.message)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **{name: getattr(self, name).to_dict() for name in PARTS}}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> KvlabError:
        """Read an error from JSON. Older versions wrote finished words in place of Messages."""
        return cls(str(fields["kind"]), **{name: fields[name] for name in PARTS})

    def __reduce__(self):
        return type(self).from_dict, (self.to_dict(),)


class ModelError(KvlabError):
    """A model that cannot be found, read or used."""


class PromptError(KvlabError):
    """A prompt or an upload that cannot be read."""


class AlignError(KvlabError):
    """A pair, a setting or data on which an alignment cannot be computed."""


class RunError(KvlabError):
    """A run folder or a worker that cannot be used."""


class TrainError(KvlabError):
    """A training run that cannot start, or that failed in a way that other settings can avoid."""


class Cancelled(Exception):
    """The user asked to stop. The work done so far stays on disk."""


def system_reason(error: OSError) -> Message:
    """Return why the operating system refused."""
    reason = SYSTEM.get(error.errno)
    return Message(reason) if reason else Message.read(error.strerror or str(error))
