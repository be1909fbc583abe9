"""Train a student on the keys and values of frozen teachers, projected into its space."""

from kvlab import callable_room

callable_room(__name__)
