"""How fast kvlab is, as ratios of two things measured side by side in one run. Nothing here imports torch by itself."""

ROWS = {
    1: "align against bare forwards",
    2: "peak memory, many prompts against few",
    3: "byte alignment against re-encoding",
    4: "layer similarity against dense CKA",
    5: "ridge against scikit-learn",
    6: "statistics of a million tokens, memory",
    7: "align of as many tokens as the sample holds, against bare forwards",
}
