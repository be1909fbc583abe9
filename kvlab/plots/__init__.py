"""Results -> Plotly figures. Knows nothing of Streamlit or torch."""

from kvlab.plots.difference import difference_heatmap
from kvlab.plots.fusion import fused_parts, fusion_weights, gain_heatmap
from kvlab.plots.groups import Group, groups, shapes
from kvlab.plots.heads import contribution_table, contributions, control_values, controls, error_heatmap, token_errors
from kvlab.plots.injection import accuracy, curve, variants
from kvlab.plots.injection_heads import error_against_damage, function_map, layer_damage, measured
from kvlab.plots.layers import MATRICES, chosen, similarity
from kvlab.plots.minimap import minimap
from kvlab.plots.rkv import kept_mask, kept_steps
from kvlab.plots.rules import rules_table, time_rules
from kvlab.plots.signal import has_signal, signal, signal_table
from kvlab.plots.spectrum import error_spectrum, spectrum_table
from kvlab.plots.style import KIND_NAME, visible, written
from kvlab.plots.timeline import LAG_BINS, drawn_bytes, index_maps, rule_shown, timeline

__all__ = [
    "KIND_NAME",
    "LAG_BINS",
    "MATRICES",
    "Group",
    "accuracy",
    "chosen",
    "contribution_table",
    "contributions",
    "control_values",
    "controls",
    "curve",
    "difference_heatmap",
    "drawn_bytes",
    "error_against_damage",
    "error_heatmap",
    "error_spectrum",
    "function_map",
    "fused_parts",
    "fusion_weights",
    "gain_heatmap",
    "groups",
    "has_signal",
    "index_maps",
    "kept_mask",
    "kept_steps",
    "layer_damage",
    "measured",
    "minimap",
    "rule_shown",
    "rules_table",
    "shapes",
    "signal",
    "signal_table",
    "similarity",
    "spectrum_table",
    "time_rules",
    "timeline",
    "token_errors",
    "variants",
    "visible",
    "written",
]
