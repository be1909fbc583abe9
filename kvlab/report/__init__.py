"""A finished alignment in words, as tables, and as one HTML file."""

from kvlab.report.layers import ceiling_sentence, chosen_table, layer_pairs, layer_sentence, layers_sentence
from kvlab.report.page import html
from kvlab.report.sentences import (
    ERROR_MEANING,
    apart_sentence,
    capture_sentence,
    control_sentence,
    fusion_rows_sentence,
    fusion_sentence,
    kept_sentence,
    sentence,
)
from kvlab.report.tables import capture_table, fusion_table, heads_table
from kvlab.report.words import whole

__all__ = [
    "ERROR_MEANING",
    "apart_sentence",
    "capture_sentence",
    "capture_table",
    "ceiling_sentence",
    "chosen_table",
    "control_sentence",
    "fusion_rows_sentence",
    "fusion_sentence",
    "fusion_table",
    "heads_table",
    "html",
    "kept_sentence",
    "layer_pairs",
    "layer_sentence",
    "layers_sentence",
    "sentence",
    "whole",
]
