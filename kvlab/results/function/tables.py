"""Make tables of a functional test. Their columns have English names; ``function_heading`` translates a name."""

from dataclasses import asdict

import pandas as pd

from kvlab.language import phrase, say
from kvlab.request.align import prompt_source
from kvlab.results.alignment import tables as alignment_tables
from kvlab.results.function.data import COMPARED, NAMES, Injection
from kvlab.results.function.sentences import OWN_PARTS
from kvlab.results.style import KIND_NAME

HEADINGS = {
    "variant": phrase("variant"),
    "prefix": phrase("prefix"),
    "kl": "KL",
    "kl_se": phrase("± s.e. of KL"),
    "delta_ce": "ΔCE",
    "delta_ce_se": phrase("± s.e. of ΔCE"),
    "kl_p95": phrase("KL, 95 % of tokens"),
    "kl_p99": phrase("KL, 99 % of tokens"),
    "same_choice": phrase("same most likely token"),
    "kl_over_projected": phrase("KL over projected"),
    "kl_over_projected_se": phrase("± s.e. of that KL"),
    "ce_over_projected": phrase("CE over projected"),
    "ce_over_projected_se": phrase("± s.e. of that CE"),
    "n": phrase("n"),
    "documents": phrase("documents"),
    "part": phrase("the student’s own"),
    "kept": phrase("layers or tokens"),
    "share": phrase("share of the prefill"),
    "below_own_tokens": phrase("KL below own tokens"),
    "below_own_tokens_se": phrase("± s.e. of this KL"),
    "r2": "R²",
    "kind": phrase("replaced"),
    "layer": phrase("layer"),
    "head": phrase("head"),
    "attention_r2": phrase("R² of the attention output"),
    "attention_se": phrase("± s.e. of this R²"),
    "value": phrase("value"),
    "se": phrase("± s.e."),
    **{name: NAMES[name] for name in COMPARED},
    "kl_mean": phrase("KL of its mean"),
    "kl_mean_se": phrase("± s.e. of mean KL"),
    "delta_ce_mean": phrase("ΔCE of its mean"),
    "delta_ce_mean_se": phrase("± s.e. of mean ΔCE"),
    "right": phrase("answers right"),
    "less_own": phrase("less own cache"),
    "less_own_se": phrase("± s.e. of difference"),
    "same_tokens": phrase("same tokens before the first difference"),
    "measure": phrase("measure"),
    "damage": phrase("damage"),
    "rho": phrase("Spearman’s ρ"),
    "heads": phrase("heads"),
}


def function_heading(column: str) -> str:
    """Translate the name of a column."""
    return say(HEADINGS[column])


def tables(injection: Injection) -> dict[str, pd.DataFrame]:
    """Return file name -> table of all tables that this test has, with the names of injection.json."""
    frames = {
        "variants.csv": pd.DataFrame(injection.injected),
        "projection.csv": _with_controls(injection.projection),
        "attention.csv": _with_controls(injection.attention),
        "swaps.csv": pd.DataFrame(injection.swaps),
        "correlations.csv": pd.DataFrame(injection.correlations),
        "hybrid.csv": pd.DataFrame(injection.hybrid),
        "documents.csv": pd.DataFrame(injection.documents),
        "accuracy.csv": pd.DataFrame(injection.accuracy),
        "texts.csv": texts(injection),
    }
    return {name: frame for name, frame in frames.items() if len(frame)}


def _with_controls(cells) -> pd.DataFrame:
    """Return one row per head, with a column per control and without the columns that hold several numbers."""
    columns = [name for name in COMPARED if any(name in cell.controls for cell in cells)]
    controls = pd.DataFrame([cell.controls for cell in cells], columns=columns)
    left_out = ["controls", "controls_kl", "query_heads", "cosines"]
    return pd.DataFrame(cells).drop(columns=left_out, errors="ignore").join(controls)


def texts(injection: Injection) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"document": text.id, "prompt": text.prompt, "expected": text.expected, "variant": c.variant}
            | {"continuation": c.text, "answer": c.answer, "right": c.right}
            for text in injection.texts
            for c in text.continuations
        ]
    )


def variants_table(injection: Injection, share: float | None = None) -> pd.DataFrame:
    """Return every variant at one prefix, or at all; the variant in words."""
    rows = [row for row in injection.injected if share is None or row.prefix == share]
    return _measured(pd.DataFrame([asdict(row) | {"variant": say(NAMES[row.variant])} for row in rows]))


def _measured(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out the columns that older results have not measured."""
    newer = ("below_own_tokens", "below_own_tokens_se", "kl_p95", "kl_p99")
    return frame.drop(columns=[name for name in newer if name in frame and frame[name].isna().all()])


def hybrid_table(injection: Injection) -> pd.DataFrame:
    """Return every hybrid of the student's own and the replaced cache; the variant and its own part in words."""
    words = [{"variant": say(NAMES[row.variant]), "part": say(OWN_PARTS[row.part])} for row in injection.hybrid]
    rows = [asdict(row) | named for row, named in zip(injection.hybrid, words, strict=True)]
    return _measured(pd.DataFrame(rows).drop(columns="groups_p95", errors="ignore"))


def accuracy_table(injection: Injection) -> pd.DataFrame:
    return pd.DataFrame([asdict(row) | {"variant": say(NAMES[row.variant])} for row in injection.accuracy])


def cells_table(injection: Injection) -> pd.DataFrame:
    """Return one row per K or V head, to pick a head from: the damage of its swap, then R²."""
    attended = {(c.kind, c.layer, c.head): c for c in injection.attention}
    swapped = {(c.kind, c.layer, c.head): c for c in injection.swaps}
    rows = []
    for cell in injection.projection:
        at = cell.kind, cell.layer, cell.head
        attention, swap = attended.get(at), swapped.get(at)
        row = {"kind": KIND_NAME[cell.kind], "layer": cell.layer, "head": cell.head}
        row |= {name: getattr(swap, name, None) for name in ("kl", "kl_se", "delta_ce", "delta_ce_se", "kl_mean")}
        row |= {"attention_r2": None if attention is None else 1 - attention.error}
        row |= {"attention_se": getattr(attention, "se", None), "r2": 1 - cell.error, "se": cell.se}
        rows.append(row | {"n": cell.n})
    return pd.DataFrame(rows)


def head_table(injection: Injection, layer: int, head: int | None) -> pd.DataFrame:
    """Return every measure of one head or of one whole layer: a row per measure and replaced part."""
    parts = {"key": "K", "value": "V", "both": say("K and V")}
    rows = []
    for name, cells in (("projection", injection.projection), ("attention", injection.attention)):
        measure = "R²" if name == "projection" else say("R² of the attention output")
        for c in cells:
            if (c.layer, c.head) == (layer, head):
                controls = {control: 1 - error for control, error in c.controls.items()}
                row = {"measure": measure, "kind": parts[c.kind], "value": 1 - c.error, "se": c.se}
                rows.append(row | controls | {"n": c.n})
    for c in injection.attention:
        if (c.layer, c.head) == (layer, head) and c.kind != "value":
            measured = {"kind": parts[c.kind], "value": c.kl, "se": c.kl_se, **c.controls_kl, "n": c.n}
            rows.append({"measure": say("KL of the attention distribution"), **measured})
    for c in injection.swaps:
        if (c.layer, c.head) == (layer, head):
            swap = {"kind": parts[c.kind], "n": c.n}
            kl = {"measure": say("swap damage KL"), "value": c.kl, "se": c.kl_se, "mean": c.kl_mean}
            ce = {"measure": say("swap damage ΔCE"), "value": c.delta_ce, "se": c.delta_ce_se, "mean": c.delta_ce_mean}
            rows += [swap | kl, swap | ce]
    columns = ["measure", "kind", "value", "se", *COMPARED, "n"]
    return pd.DataFrame(rows).reindex(columns=columns)


def settings_table(injection: Injection) -> pd.DataFrame:
    """Return settings, data, versions and seconds in two columns."""
    return alignment_tables.settings_table(
        [
            (say("prompts"), prompt_source(injection.prompts)),
            *injection.settings.items(),
            *injection.injection.items(),
            *alignment_tables.facts(injection.data),
            *injection.versions.items(),
            *alignment_tables.facts(injection.timings),
        ]
    )
