"""The mathematics of alignment: time, layers, heads, statistics, scores. Knows nothing of Streamlit."""
