"""Read uploads in a process with limits (``host/limited.py``): a small file can need all memory, or have no end."""

from collections.abc import Callable
from typing import Any, TypeVar

from kvlab.errors import PromptError
from kvlab.host import limited
from kvlab.language import Message
from kvlab.request.documents import document_of
from kvlab.request.prompts import Cut, Problem, Reading
from kvlab.request.uploads import safe_name

Result = TypeVar("Result")

_DOCUMENT, _SEGMENT, _NOTE = 1000, 250, 2000  # bytes of memory beside the text, at most


def guarded(read: Callable[..., Result], filename: str, data: bytes, **options) -> Result:
    """Return ``read(filename, data, **options)``, such as ``prompts.read_upload``; raises PromptError as it does.

    Raises ``prompts-too-much-memory``, ``prompts-too-slow`` or ``prompts-unreadable`` where its process ends early.
    """
    try:
        result = limited.call(read, filename, data=data, **options)
        return _reading(result) if isinstance(result, dict) else result
    except limited.Exceeded as error:
        kinds = {"memory": "prompts-too-much-memory", "time": "prompts-too-slow", "died": "prompts-unreadable"}
        bounds = {"size": limited.MEMORY / 2**30, "n": limited.SECONDS}
        raise PromptError(
            kinds[error.kind],
            expected=Message("a file that is read within {size:.3g} GiB of memory and {n:g} s", **bounds),
            found=Message("{reason}, reading {name}", reason=error.reason, name=safe_name(filename)),
            remedy=Message("split it, keep a sample of its documents, or save them as .jsonl"),
        ) from None


def _reading(fields: dict[str, Any]) -> Reading:
    """Restore a Reading from its JSON."""
    documents = [document_of(document) for document in fields["documents"]]
    kinds = {"problems": Problem, "cut": Cut}
    parts = {
        name: [kind(**{key: _restored(value) for key, value in part.items()}) for part in fields[name]]
        for name, kind in kinds.items()
    }
    others = {name: value for name, value in fields.items() if name not in ("documents", *kinds)}
    formats = others.pop("formats")  # the only plain object
    return Reading(documents, **parts, formats=formats, **{name: _restored(value) for name, value in others.items()})


def _restored(value: Any) -> Any:
    """Return Messages for the objects in JSON."""
    if isinstance(value, list):
        return [_restored(part) for part in value]
    return Message.read(value) if isinstance(value, dict) else value


def memory_of(result: list[str] | Reading | PromptError) -> int:
    """Return about how many bytes of memory the result of a reading takes, for a cache with a limit."""
    if isinstance(result, PromptError):
        return _NOTE
    if isinstance(result, list):
        return sum(map(_size, result))
    texts = sum(_size(document.text) + _SEGMENT * len(document.segments) for document in result.documents)
    names = sum(map(_size, (*result.columns, *result.left_out)))
    return texts + names + _DOCUMENT * len(result.documents) + _NOTE * (len(result.problems) + len(result.cut))


def _size(text: str) -> int:
    return text.__sizeof__()
