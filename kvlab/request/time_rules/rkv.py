"""Rule ``rkv``: every head keeps its own teacher steps, so there is no single map; see kvlab.align.rkv."""

from kvlab.language import phrase
from kvlab.request.time_rules.rule import TimeRule

RULE = TimeRule("rkv", phrase("R-KV — per head, the teacher steps that matter most and repeat least"), None, place=7)
