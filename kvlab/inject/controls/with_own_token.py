"""Variant ``with-own-token``: a ridge from the teachers' layers and the student's own token; a source of its own."""

from kvlab.language import phrase

NAME = "with-own-token"
WORDS = phrase("projected cache + own token")
LOOK = ("#56B4E9", "star", "8px,2px")
PLACE = -1
SOURCE = True  # shown beside the projected cache, which need not beat it
