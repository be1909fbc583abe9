"""Every error a user can cause says three things: what was expected, what was found, what to do.

Raised anywhere, caught once at the edge (command line, worker, page).
"""

from __future__ import annotations


class KvlabError(Exception):
    """A request that cannot be served, in words for the person who made it.

    ``kind`` is a stable short name (``model-not-found``) for tests, JSON and translation.
    """

    def __init__(self, kind: str, *, expected: str, found: str, remedy: str):
        self.kind, self.expected, self.found, self.remedy = kind, expected, found, remedy
        super().__init__(f"Expected {expected}. Found {found}. What to do: {remedy}")

    def to_dict(self) -> dict[str, str]:
        return {"kind": self.kind, "expected": self.expected, "found": self.found, "remedy": self.remedy}

    @classmethod
    def from_dict(cls, fields: dict[str, str]) -> KvlabError:
        return cls(fields["kind"], **{key: fields[key] for key in ("expected", "found", "remedy")})

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
    """A training run that cannot start, or that failed in a way its settings can mend."""


class Cancelled(Exception):
    """The user asked to stop; work done so far is kept."""
