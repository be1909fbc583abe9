"""Variant ``refined``: the projected cache, corrected through the student (kvlab.inject.refine)."""

from kvlab.language import phrase

NAME = "refined"
WORDS = phrase("projected cache, refined")
LOOK = ("#0072B2", "diamond-open", "dot")
PLACE = -0.9
SOURCE = True
