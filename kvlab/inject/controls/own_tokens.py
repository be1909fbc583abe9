"""Control ``own-tokens``: no teacher at all, a ridge from the student's own token and the two before it."""

from kvlab.language import phrase

NAME = "own-tokens"
WORDS = phrase("own tokens without a teacher")
LOOK = ("#7570B3", "hexagon", "longdashdot")  # the purple of Dark2 (Brewer 2003)
PLACE = 2
