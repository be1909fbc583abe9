"""A finished alignment in words, as tables, as one HTML file, and as a ZIP of CSV and JSON."""

from kvlab.report.archive import NAME as ARCHIVE_NAME
from kvlab.report.archive import archive
from kvlab.report.difference import (
    DIFFERENCE_MEANING,
    TEXT,
    compared_settings,
    difference_sentence,
    differences_table,
    means_table,
    one_difference_sentence,
    shapes_sentence,
)
from kvlab.report.head_views import (
    contribution_sentence,
    groups_sentence,
    rules_sentence,
    signal_sentence,
    spectrum_sentence,
    worst_sentence,
)
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
from kvlab.report.tables import capture_table, fusion_table, heading, heads_table
from kvlab.report.words import listed, whole
from kvlab.report.worst import worst_tokens

__all__ = [
    "ARCHIVE_NAME",
    "DIFFERENCE_MEANING",
    "ERROR_MEANING",
    "TEXT",
    "apart_sentence",
    "archive",
    "capture_sentence",
    "capture_table",
    "ceiling_sentence",
    "chosen_table",
    "compared_settings",
    "contribution_sentence",
    "control_sentence",
    "difference_sentence",
    "differences_table",
    "fusion_rows_sentence",
    "fusion_sentence",
    "fusion_table",
    "groups_sentence",
    "heading",
    "heads_table",
    "html",
    "kept_sentence",
    "layer_pairs",
    "layer_sentence",
    "layers_sentence",
    "listed",
    "means_table",
    "one_difference_sentence",
    "rules_sentence",
    "sentence",
    "shapes_sentence",
    "signal_sentence",
    "spectrum_sentence",
    "whole",
    "worst_sentence",
    "worst_tokens",
]
