"""Cache values derived from a result, per language, for as long as the result lives.

Every click draws the same maps again. At 64 layers of 64 heads, translating their 8,192 cells takes the longest.
"""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

from kvlab.language import current, speaking
from kvlab.results.alignment.data import Alignment

Value = TypeVar("Value")


def once(make: Callable[..., Value]) -> Callable[..., Value]:
    """Cache ``make(alignment, *rest)`` by ``rest`` and language. Callers share the value and must not change it.

    The value must not refer to the alignment, or its memory is never freed.
    """
    cache: WeakKeyDictionary[Alignment, dict[tuple, Value]] = WeakKeyDictionary()

    @wraps(make)
    def cached(alignment: Alignment, *rest) -> Value:
        values = cache.setdefault(alignment, {})
        language = current()
        if (language, *rest) not in values:
            with speaking(language):  # look up the language once, not for every word
                values[language, *rest] = make(alignment, *rest)
        return values[language, *rest]

    return cached
