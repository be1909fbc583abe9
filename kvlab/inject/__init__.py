"""Can the student use the teacher's cache? Attention on it, continuation from it, swaps of its parts."""

from kvlab import callable_room

callable_room(__name__)
