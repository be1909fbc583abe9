"""Control ``own-tokens``: no teacher at all, a ridge from the student's own token and the two before it."""

from kvlab.language import phrase

NAME = "own-tokens"
WORDS = phrase("the student’s own tokens, no teacher")
LOOK = ("#009E73", "square", "solid")
PLACE = 2
