"""Cache values by key up to a number of bytes and for a time; Streamlit's caches count entries only."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class Kept:
    """The values used last that together take at most ``limit`` bytes, and always the newest one."""

    def __init__(self, limit: int, seconds: float, now: Callable[[], float] = time.monotonic):
        self._limit, self._seconds, self._now = limit, seconds, now
        self._values: OrderedDict[Hashable, tuple[Any, int, float]] = OrderedDict()  # value, bytes, when kept
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> Any:
        """Return the value of ``key``; None if there is none."""
        with self._lock:
            self._forget_old()
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def keep(self, key: Hashable, value: Any, size: int) -> None:
        """Keep ``value`` of ``size`` bytes; forget what was not used for longest where there is no room."""
        with self._lock:
            self._forget_old()
            self._values.pop(key, None)
            self._values[key] = value, size, self._now()
            while len(self._values) > 1 and self.size() > self._limit:
                self._values.popitem(last=False)

    def size(self) -> int:
        """Return the bytes of all values."""
        return sum(size for _, size, _ in self._values.values())

    def _forget_old(self) -> None:
        oldest = self._now() - self._seconds
        for key in [key for key, (_, _, kept) in self._values.items() if kept < oldest]:
            del self._values[key]
