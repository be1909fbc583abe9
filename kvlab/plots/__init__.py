"""Results -> Plotly figures. Knows nothing of Streamlit or torch."""

from kvlab.plots.difference import difference_heatmap
from kvlab.plots.fusion import fused_parts, fusion_weights, gain_heatmap
from kvlab.plots.heads import contributions, control_values, controls, error_heatmap, token_errors
from kvlab.plots.layers import MATRICES, chosen, similarity
from kvlab.plots.rkv import kept_mask, kept_steps
from kvlab.plots.style import KIND_NAME, written
from kvlab.plots.timeline import LAG_BINS, index_maps, rule_shown, timeline

__all__ = [
    "KIND_NAME",
    "LAG_BINS",
    "MATRICES",
    "chosen",
    "contributions",
    "control_values",
    "controls",
    "difference_heatmap",
    "error_heatmap",
    "fused_parts",
    "fusion_weights",
    "gain_heatmap",
    "index_maps",
    "kept_mask",
    "kept_steps",
    "rule_shown",
    "similarity",
    "timeline",
    "token_errors",
    "written",
]
