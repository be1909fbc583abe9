"""Measure how fast kvlab is, as ratios of two things measured side by side in one run."""

ROWS = {
    1: "align against bare forwards",
    2: "peak memory of many prompts against few",
    3: "byte alignment against re-encoding token by token",
    4: "layer similarity against dense CKA",
    5: "ridge against scikit-learn",
    6: "a million tokens in constant memory",
    7: "align where the sample is everything",
    8: "a training step against its floor",
    9: "the same on the demo pair",
    10: "a training run of 100 steps: memory and verdict",
    11: "the sums of an analysis at true shapes, counted",
    12: "the forecast of an analysis' memory against its peak",
    13: "two processes against one",
    14: "the first token behind a cache handed over",
}
