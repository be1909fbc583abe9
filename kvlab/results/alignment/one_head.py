"""Say what each view of one head and of one timeline shows, in one sentence, with n, split and control."""

import numpy as np
import pandas as pd

from kvlab.language import phrase, plural, say
from kvlab.request.time_rules import known
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.heads import contribution_table
from kvlab.results.alignment.resampled import signal_table
from kvlab.results.alignment.rules import rules_table
from kvlab.results.alignment.spectrum import spectrum_table
from kvlab.results.alignment.timeline import shapes
from kvlab.results.style import KIND_NAME, plus_minus, written
from kvlab.results.words import sentences, whole

MOST_OF = 0.9  # of the variance
LITTLE = 0.02  # of R²


def contribution_sentence(alignment: Alignment, kind: str, layer: int, head: int) -> str:
    """Name the teacher head whose loss costs most, and the one that explains most alone."""
    frame, score = contribution_table(alignment, kind, layer, head), alignment.score(kind, layer, head)
    if frame.empty:
        return say("Nothing is scored here, so no teacher head contributes.")
    missed, alone = frame.loc[frame["without"].idxmax()], frame.loc[frame["alone"].idxmax()]
    most = {"missed": int(missed["teacher_head"]), "lost": written(float(missed["without"]))}
    most |= {"alone": int(alone["teacher_head"]), "reached": written(float(alone["alone"]))}
    scores = {"all": written(score.r2), "n": f"{score.n:,}", "identity": written(score.r2_identity)}
    contributed = say(
        "Without teacher head {missed} R² falls most, by {lost}; alone, head {alone} reaches most, {reached}; all "
        "together {all}. In all chosen layers, held out ({folds} folds by document), n = {n} tokens; the "
        "teacher’s token alone reaches {identity}.",
        **most,
        **scores,
        folds=alignment.data["folds"],
    )
    replaceable = float(missed["without"]) < LITTLE and len(frame) > 1
    needed = say("No single head is needed: the others make up for it.") if replaceable else ""
    return sentences(contributed, needed)


def spectrum_sentence(alignment: Alignment, kind: str, layer: int, head: int) -> str:
    """Compare the largest directions with the others."""
    frame, score = spectrum_table(alignment, kind, layer, head), alignment.score(kind, layer, head)
    needed = int((frame["cumulative"] < MOST_OF).sum()) + 1
    large, small = frame[:needed], frame[needed:]
    first = frame.iloc[0]
    largest = {"share": whole(first["share"]), "r2": written(1 - first["error"], 2), "se": written(first["se"], 2)}
    of_head = {"folds": alignment.data["folds"], "tokens": f"{score.n:,}", "total": written(score.r2, 3)}
    directions = {"identity": written(1 - first["error_identity"], 2), "n": needed, "all": len(frame)}
    return say(
        "The largest direction holds {share} of {name}’s variance and R² {r2} ± {se} (the teacher’s token: "
        "{identity}). {n} of {all} directions hold {most} of the variance: R² {large} on them{rest}. Held out "
        "({folds} folds by document), n = {tokens} tokens; weighted by share, these sum to the head’s {total}.",
        **directions,
        most=whole(large["share"].sum()),
        large=written(_weighted(large), 2),
        rest=say(", {small} on the others", small=written(_weighted(small), 2)) if len(small) else "",
        **largest,
        **of_head,
        name=KIND_NAME[kind],
    )


def _weighted(frame: pd.DataFrame) -> float:
    return 1 - float((frame["share"] * frame["error"]).sum() / frame["share"].sum())


def rules_sentence(alignment: Alignment, kind: str, layer: int, head: int) -> str:
    """Compare the best rule on the common tokens with the analysis's rule and with the rule blind to the text."""
    frame = rules_table(alignment, kind, layer, head)
    best, used = frame.iloc[0], frame[frame["own"]]
    if not best["common"]:
        return say("No token is covered by every rule, so the rules cannot be compared.")

    def values(row: pd.Series) -> dict[str, str]:
        return {"rule": row["rule"], "r2": written(row["r2"]), "se": plus_minus(row["se"])}

    words = phrase(
        "The best rule for this head is **{rule}**: R² {r2}{se}, n = {n} tokens, those that all rules cover."
    )
    parts = [say(words, n=f"{best['rows_scored']:,}", **values(best))]
    if not best["own"] and len(used):
        parts.append(say("That of this analysis, **{rule}**, reaches {r2}{se}.", **values(used.iloc[0])))
    blind = frame[frame["rule"] == "nearest"]
    if len(blind) and blind.iloc[0]["common"]:
        control = written(blind["r2"].iloc[0])
        parts.append(say("The control, nearest, which is blind to the text: {r2}.", r2=control))
    parts.append(
        say(
            "Each from the teacher layer nearest in depth, ridge, held out by document ({folds} folds), on the sample. "
            "Rules that are not causal ({rules}) may have read ahead of the student; * is scored on its own tokens "
            "only (exact: where borders meet) and not to be compared.",
            folds=alignment.data["folds"],
            rules=[rule for rule in frame["rule"] if not known(rule).causal],
        )
    )
    return sentences(*parts)


def worst_sentence(alignment: Alignment, worst: pd.DataFrame, kind: str, layer: int, head: int, scored: int) -> str:
    """Say R² of the worst tokens."""
    if worst.empty:
        return say("No token is scored here.")
    lowest, highest = (written(worst["r2"].iloc[at], 2) for at in (0, -1))
    score = alignment.score(kind, layer, head)
    values = {"all": f"{scored:,}", "lowest": lowest, "highest": highest}
    values |= {"mean": written(score.r2, 2), "tokens": f"{score.n:,}"}
    return plural(
        len(worst),
        "The worst of {all} scored tokens has R² {lowest}; the head’s is {mean} (n = {tokens} held-out tokens; 0 is "
        "no better than the training mean).",
        "The {n} worst of {all} scored tokens have R² from {lowest} up to {highest}; the head’s is {mean} "
        "(n = {tokens} held-out tokens; 0 is no better than the training mean).",
        **values,
    )


def signal_sentence(alignment: Alignment, number: int, kind: str, layer: int, head: int) -> str:
    """Explain the lines, and say how well they agree on this document."""
    frame = signal_table(alignment, number, kind, layer, head)
    scored = frame[frame["scored"].eq(True)]
    student, resampled = (scored[scored["signal"] == name]["value"].to_numpy() for name in ("student", "resampled"))
    finite = ~np.isnan(student) & ~np.isnan(resampled)
    agree = np.corrcoef(student[finite], resampled[finite])[0, 1] if finite.sum() > 2 else float("nan")
    first = spectrum_table(alignment, kind, layer, head).iloc[0]
    along = {"share": whole(first["share"]), "r2": written(1 - first["error"], 2)}
    return say(
        "Drawn is (x − training mean) · v / s: v is the first principal direction of the student head ({share} of its "
        "variance), s the standard deviation along it. x is the student’s {name}; the teacher’s, resampled by "
        "{rule} and projected by the map that has not seen this document; and the same map applied to every step of "
        "the teacher before resampling. Student and resampled teacher correlate {agree} over {n} scored tokens of this "
        "document; along v the held-out R² over all documents is {r2}, from the teacher’s token alone "
        "{identity}.",
        **along,
        name=KIND_NAME[kind],
        rule=alignment.settings["time"],
        agree=written(float(agree), 2),
        n=int(finite.sum()),
        identity=written(1 - first["error_identity"], 2),
    )


def groups_sentence(alignment: Alignment, number: int) -> str:
    """Compare the borders of the two token timelines of a document."""
    counted = shapes(alignment.inspected[number])
    times = {"same": counted["1:1"], "split": counted["1:n"], "joined": counted["n:1"], "both": counted["n:n"]}
    return say(
        "This document has {n} exact borders. Between two of them stand: one token of each {same} times, one teacher "
        "token for several of the student {split} times, several for one {joined} times, several for several {both} "
        "times.",
        n=counted.total(),
        **times,
    )
