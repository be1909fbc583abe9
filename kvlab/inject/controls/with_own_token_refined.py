"""Variant ``with-own-token-refined``: with the own token, corrected likewise (kvlab.inject.refine)."""

from kvlab.language import phrase

NAME = "with-own-token-refined"
WORDS = phrase("projected cache + own token, refined")
LOOK = ("#56B4E9", "star-open", "dot")
PLACE = -0.8
SOURCE = True
