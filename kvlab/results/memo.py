"""Cache values derived from a result, per language, for as long as the result lives.

Clicks draw the same maps again: at 64 layers of 64 heads, the words of their 8,192 cells take longer than all else.
"""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

from kvlab.language import current, speaking
from kvlab.results.alignment.data import Alignment

Found = TypeVar("Found")


def once(make: Callable[..., Found]) -> Callable[..., Found]:
    """``make(alignment, *rest)``, kept by ``rest`` and language. What it gives is shared: nobody changes it.

    It must not hold the alignment, which would then never be let go.
    """
    found: WeakKeyDictionary[Alignment, dict[tuple, Found]] = WeakKeyDictionary()

    @wraps(make)
    def kept(alignment: Alignment, *rest) -> Found:
        of_one = found.setdefault(alignment, {})
        language = current()
        if (language, *rest) not in of_one:
            with speaking(language):  # asked once, not for every word
                of_one[language, *rest] = make(alignment, *rest)
        return of_one[language, *rest]

    return kept
