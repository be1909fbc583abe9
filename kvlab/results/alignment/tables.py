"""Make tables of the numbers. Their columns have English names; ``heading`` translates a name."""

from collections.abc import Iterable, Mapping

import pandas as pd

from kvlab.language import phrase, say
from kvlab.request.align import prompt_source
from kvlab.results.alignment.data import Alignment
from kvlab.results.memo import once
from kvlab.results.style import KIND_NAME
from kvlab.shapes import SelfTest

HEADS = {
    "kind": "K/V",
    "layer": phrase("layer"),
    "head": phrase("head"),
    "r2": "R²",
    "se": phrase("± s.e."),
    "strongest": phrase("gain over the strongest control"),
    "control": phrase("strongest control"),
    "r2_standardised": phrase("standardised R²"),
    "cosine": phrase("cosine"),
    "r2_identity": phrase("R² teacher’s token"),
    "gain": phrase("gain over teacher’s token"),
    "gain_se": phrase("± s.e. of that gain"),
    "r2_random": phrase("R² random weights"),
    "gain_random": phrase("gain over random"),
    "gain_random_se": phrase("± s.e. of this gain"),
    "r2_group_mean": phrase("R² group mean"),
    "r2_shuffled": phrase("R² shuffled"),
    "n": phrase("n tokens"),
    "n_control": phrase("n control"),
    "r2_sink": phrase("R² of sinks"),
    "n_sink": phrase("n sinks"),
    "r2_special": phrase("R² of special token"),
    "n_special": phrase("n special"),
    "r2_exact": phrase("R² exact tokens"),
    "exact_se": phrase("± s.e. exact"),
    "r2_inside": phrase("R² inside a teacher token"),
    "inside_se": phrase("± s.e. inside"),
    "n_inside": phrase("n inside"),
    "r2_with_own": phrase("R² teacher + own token"),
    "with_own_se": phrase("± s.e. with own token"),
    "r2_own": phrase("R² student’s own tokens"),
    "own_se": phrase("± s.e. of own tokens"),
    "added": phrase("added by the teacher"),
    "added_se": phrase("± s.e. of what is added"),
}
FUSION = {name: HEADS[name] for name in ("kind", "se", "gain_random", "gain_random_se", "n", "n_control")}
FUSION |= {"r2": phrase("fused R²"), "gain": phrase("gain"), "gain_se": phrase("± s.e. of gain")}
OF_TEACHERS = {"r2_alone": phrase("R² alone: {teacher}"), "weights": phrase("weight: {teacher}")}  # a column for each
POSITIONS = {"rope": phrase("RoPE, undone"), "none": phrase("no RoPE"), "absolute": phrase("part of keys and values")}
RULES = [  # columns of the table of time rules
    *(phrase("rule"), phrase("exact_rate"), phrase("coverage")),
    *(phrase("mean_absolute_lag_bytes"), phrase("largest_lag_bytes"), phrase("looks_ahead_rate")),
]
# The words for the values of alignment.json and injection.json. Settings and packages keep their own names.
FACTS = {
    "documents": phrase("documents"),
    "documents_sha256": phrase("documents (SHA-256)"),
    "documents_judged": phrase("documents judged"),
    "documents_fitted": phrase("documents fitted on"),
    "longest_fitted": phrase("longest fitted text, student tokens"),
    "calibration_documents": phrase("calibration documents"),
    "student_tokens": phrase("student tokens"),
    "teacher_tokens": phrase("teacher tokens"),
    "repeated_tokens": phrase("student tokens of repeated beginnings, left out"),
    "folds": phrase("folds"),
    "split": phrase("split"),
    "rows_fit": phrase("rows fit"),
    "rows_fitted": phrase("rows fitted"),
    "rows_scored": phrase("rows scored"),
    "rows_per_feature": phrase("rows per feature"),
    "rows": phrase("control rows"),
    "whole_sample": phrase("control whole sample"),
    "random_teacher": phrase("control random teacher"),
    "offline": phrase("offline diagnostic"),
    "share_replaced": phrase("share of the prefix replaced"),
    "forwards_of_swaps": phrase("forwards of swaps"),
    "read_sample_s": phrase("read sample"),
    "choose_layers_s": phrase("choose layers"),
    "controls_s": phrase("controls"),
    "compare_rules_s": phrase("compare rules"),
    "sum_s": phrase("sum"),
    "read_rest_s": phrase("read rest"),
    "fit_and_score_s": phrase("fit and score"),
    "token_by_token_s": phrase("token by token"),
    "fit_s": phrase("fitting"),
    "layer_swaps_s": phrase("swaps of layers"),
    "inject_s": phrase("injecting"),
    "hybrid_s": phrase("hybrid curve"),
    "head_swaps_forecast_s": phrase("swaps of heads, forecast"),
    "head_swaps_s": phrase("swaps of heads"),
    "texts_s": phrase("texts"),
}
SPLITS = {phrase("by document"), phrase("by document: no judged text was fitted on")}  # values of ``data["split"]``


def heading(column: str) -> str:
    """Translate the name of a table's column."""
    for template in OF_TEACHERS.values():
        start = template.partition("{")[0]
        if column.startswith(start):
            return say(template, teacher=column.removeprefix(start))
    return say(column)


def heads_table(alignment: Alignment) -> pd.DataFrame:
    """Return every score beside its controls."""
    frame = explained(alignment)[list(HEADS)].rename(columns=HEADS)
    return frame.assign(**{"K/V": frame["K/V"].map(KIND_NAME)})


BEATS = {True: phrase("yes"), False: phrase("no"), None: "?"}


@once
def explained(alignment: Alignment) -> pd.DataFrame:
    """Return all scores as R², with the gain over the strongest control, its name, and whether all are beaten."""
    frame, strongest = alignment.table(), [score.strongest for score in alignment.heads]
    frame["strongest"] = [float("nan") if gain is None else gain.r2 for gain in strongest]
    frame["control"] = ["" if gain is None else say(gain.control) for gain in strongest]
    frame["beats"] = [say(BEATS[beats]) for beats in frame["beats_controls"]]
    for name in ("standardised", "sink", "special"):
        frame[f"r2_{name}"] = 1 - frame[f"error_{name}"]
    return frame.drop(columns=[name for name in frame if name.startswith("error")])


def fusion_table(alignment: Alignment) -> pd.DataFrame:
    """Return the fused scores, with a column per teacher."""
    frame = alignment.fusion_table()
    names = dict(FUSION)
    for number, teacher in enumerate(alignment.teachers, 1):
        for column, words in OF_TEACHERS.items():
            names[f"{column} {number}"] = words.format(teacher=f"{number} {teacher}")
    frame = frame.assign(kind=frame["kind"].map(KIND_NAME)).rename(columns=names)
    last = [name for name in frame.columns if name.startswith(("R² alone", "weight"))] + ["n tokens", "n control"]
    return frame[[name for name in frame.columns if name not in last] + last]


def capture_table(alignment: Alignment, role: str) -> pd.DataFrame:
    """Return the result of the self-test per layer, also naming layers without a cache."""
    model = alignment.teacher if role == "teacher" else alignment.student
    tests, rows = {}, []
    if role in alignment.capture:
        tests = {test.layer: test for test in SelfTest.from_dict(alignment.capture[role]).layers}
    for layer in range(model["layers"]):
        test = tests.get(layer)
        cached = say("as cached") if layer in model["kv_layers"] else say("no KV cache")
        rows.append(
            {
                "layer": layer,
                phrase("positions"): say(POSITIONS.get(test.positions, test.positions)) if test else cached,
                phrase("layout"): test.layout if test else None,
                phrase("rotated channels"): test.rotary_width if test else None,
                phrase("scale"): test.scale if test else None,
                phrase("largest difference"): test.error if test else None,
            }
        )
    return pd.DataFrame(rows)


def rules_table(alignment: Alignment) -> pd.DataFrame:
    """Return the rates and lags of every time rule."""
    rows = [{"rule": rule, **values} for rule, values in alignment.timeline["rules"].items()]
    return pd.DataFrame(rows)[RULES]


def asked(alignment: Alignment) -> list[tuple[str, object]]:
    """Return (name, value) of the requested settings."""
    documents = say("prompts"), prompt_source(alignment.prompts)
    return [documents, (say("teachers"), ", ".join(alignment.teachers)), *alignment.settings.items()]


def measured(result: Alignment) -> list[tuple[str, object]]:
    """Return (name, value) of data, controls, versions and seconds."""
    return [*facts(result.data), *facts(result.controls), *result.versions.items(), *facts(result.timings)]


def facts(values: Mapping[str, object]) -> list[tuple[str, object]]:
    """Return (name, value) in words, without nested values."""
    single = [(name, value) for name, value in values.items() if not isinstance(value, dict)]
    return [(say(FACTS[name]) if name in FACTS else name, _fact(name, value)) for name, value in single]


def _fact(name: str, value: object) -> object:
    if name == "split":
        return split_words(str(value))
    if name in FACTS and name.endswith("_s"):
        return say("{seconds:.2f} s", seconds=value)
    return value


def split_words(split: str) -> str:
    """Say how documents were held out."""
    return say(split) if split in SPLITS else split


def settings_table(pairs: Iterable[tuple[str, object]]) -> pd.DataFrame:
    """Return a table of two columns, setting and value."""
    return pd.DataFrame([(name, str(value)) for name, value in pairs], columns=[phrase("setting"), phrase("value")])
