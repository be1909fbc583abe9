"""Read uploads in a process with limits (``host/limited.py``): a small file can need all memory, or have no end."""

from collections.abc import Callable
from typing import TypeVar

from kvlab.errors import PromptError
from kvlab.host import limited
from kvlab.language import Message
from kvlab.request.prompts import Reading
from kvlab.request.uploads import safe_name

Result = TypeVar("Result")

_DOCUMENT, _NOTE = 1000, 2000  # bytes of memory beside the text, at most


def guarded(read: Callable[..., Result], filename: str, data: bytes, **options) -> Result:
    """Return ``read(filename, data, **options)``, such as ``prompts.read_upload``; raises PromptError as it does.

    Raises ``prompts-too-much-memory``, ``prompts-too-slow`` or ``prompts-unreadable`` where its process ends early.
    """
    try:
        return limited.call(read, filename, data, **options)
    except limited.Exceeded as error:
        kinds = {"memory": "prompts-too-much-memory", "time": "prompts-too-slow", "died": "prompts-unreadable"}
        bounds = {"size": limited.MEMORY / 2**30, "n": limited.SECONDS}
        raise PromptError(
            kinds[error.kind],
            expected=Message("a file that is read within {size:.3g} GiB of memory and {n:g} s", **bounds),
            found=Message("{reason}, reading {name}", reason=error.reason, name=safe_name(filename)),
            remedy=Message("split it, keep a sample of its documents, or save them as .jsonl"),
        ) from None


def memory_of(result: list[str] | Reading | PromptError) -> int:
    """Return about how many bytes of memory the result of a reading takes, for a cache with a limit."""
    if isinstance(result, PromptError):
        return _NOTE
    if isinstance(result, list):
        return sum(map(_size, result))
    texts = sum(_size(document.text) for document in result.documents)
    return texts + _DOCUMENT * len(result.documents) + _NOTE * (len(result.problems) + len(result.cut))


def _size(text: str) -> int:
    return text.__sizeof__()
