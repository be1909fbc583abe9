"""Control ``identity``: a ridge from the teachers' context-free token embeddings (kvlab.inject.fit)."""

from kvlab.language import phrase

WORDS = phrase("token identity alone")
LOOK = ("#CC79A7", "diamond", "dashdot")
PLACE = 3
