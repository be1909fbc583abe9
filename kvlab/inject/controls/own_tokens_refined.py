"""Control ``own-tokens-refined``: the own tokens alone, corrected likewise (kvlab.inject.refine)."""

from kvlab.language import phrase

NAME = "own-tokens-refined"
WORDS = phrase("own tokens without a teacher, refined")
LOOK = ("#7570B3", "hexagon-open", "dot")
PLACE = 2.5
