"""Control ``random``: a ridge from teachers of the same architecture with random weights (kvlab.inject.fit)."""

from kvlab.language import phrase

NAME = "random"
WORDS = phrase("random-weights teacher")
LOOK = ("#D55E00", "cross", "longdash")
PLACE = 4
