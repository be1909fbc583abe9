"""The mathematics of alignment: time, layers, heads, statistics, scores. Knows nothing of Streamlit."""

from kvlab import callable_room

callable_room(__name__)
