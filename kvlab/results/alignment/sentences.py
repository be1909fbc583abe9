"""Say what the numbers show, in one sentence each, with n, split and control."""

from math import isfinite

import numpy as np

from kvlab.language import Message, phrase, plural, say
from kvlab.request.time_rules import known
from kvlab.results.alignment.data import Alignment, HeadScore
from kvlab.results.alignment.rkv import kept_mask
from kvlab.results.alignment.tables import split_words
from kvlab.results.style import KIND_NAME, plus_minus, written
from kvlab.results.words import clauses, listed, sentences, together
from kvlab.shapes import SelfTest

R2_MEANING = phrase(
    "R² = 1 − RSS / TSS on documents that the map was not fitted on: 1 is perfect, 0 no better than the training mean."
)
GAIN_MEANING = phrase(
    "R² = 1 − RSS / TSS on documents that the map was not fitted on: 1 is perfect, 0 no better than the training mean. "
    "A gain is R² less that of the strongest control: the training mean, shuffled rows, the teacher’s token, a "
    "teacher of random weights; or what the teacher adds to the student’s own tokens. “=” marks a head that "
    "does not beat one of them by two standard errors, “?” one of which that is not known."
)
TESTED = {"teacher": phrase("Teacher {name}: {tested}."), "student": phrase("Student {name}: {tested}.")}


def sentence(alignment: Alignment) -> str:
    """Say the finding: what the teacher adds to the student's own tokens, else what it explains; and by which maps."""
    summary, data = alignment.summary(), alignment.data
    calibration = data["calibration_documents"]
    where = say(
        "On {documents} held out by document ({rows:,} student tokens, {folds} folds{also})",
        documents=plural(data["documents"], "{n} document", "{n} documents"),
        rows=data["rows_scored"],
        folds=data["folds"],
        also=say(", fitted also on {n} bundled samples", n=calibration) if calibration else "",
    )
    models = {"teacher": alignment.teacher["name"], "student": alignment.student["name"]}
    if any(isfinite(means["added"]) for means in summary.values()):
        words = phrase(
            "{where}, {teacher} adds R² {added} to what {student}’s own tokens explain without any teacher (means over "
            "heads, of their standard errors too)."
        )
        added = [_of_kind(kind, _gain(means["added"], means["added_se"])) for kind, means in summary.items()]
        headline = say(words, where=where, added=together(added), **models)
        finding = sentences(headline, _undecided_sentence(summary), _sources_sentence(alignment))
    else:
        values = [_with(_of_kind(kind, written(means["r2"], 2)), _over(means)) for kind, means in summary.items()]
        words = phrase("{where}, {teacher} explains R² {values} of {student}, averaged over heads.")
        finding = sentences(say(words, where=where, values=together(values), **models), _own_sentence(alignment))
    return sentences(finding, maps_sentence(alignment))


def _of_kind(kind: str, value: str) -> str:
    return say("{value} of {kind}", value=value, kind=KIND_NAME[kind])


def _with(value: str, over: str) -> str:
    return say("{value} ({over})", value=value, over=over)


def _gain(gain: float, se: float) -> str:
    return written(gain, sign="+") + plus_minus(se)


def _undecided_sentence(summary: dict) -> str:
    """Say of which of K and V the data do not tell whether the teacher adds anything."""
    undecided = [
        name for kind, name in KIND_NAME.items() if abs(summary[kind]["added"]) <= 2 * summary[kind]["added_se"]
    ]
    if not undecided:
        return ""
    return say(
        "Whether it adds anything to {kinds} cannot be told: zero is within two standard errors.",
        kinds=together(undecided),
    )


def _sources_sentence(alignment: Alignment) -> str:
    """Say what each source and control explains, and in how many heads the teacher clearly adds something."""
    judged = [score for score in alignment.heads if isfinite(score.added_se)]
    clear = say(
        "The teacher adds more than two standard errors in {clear} of {heads} heads.",
        clear=sum(score.added > 2 * score.added_se for score in judged),
        heads=len(judged),
    )
    controls = [
        say("its token alone {values}", values=_values(alignment, "r2_identity")),
        say("shuffled rows {values}", values=_values(alignment, "r2_shuffled")),
    ]
    if any(isfinite(score.r2_random) for score in alignment.heads):
        controls.insert(1, say("random weights in its place {values}", values=_values(alignment, "r2_random")))
    explained = say(
        "The teacher alone explains R² {teacher}; the student’s own tokens alone (this one and the two before it) "
        "{own}; the teacher and the student’s own token together {both}; {controls}.",
        teacher=_values(alignment, "r2"),
        own=_values(alignment, "r2_own"),
        both=_values(alignment, "r2_with_own"),
        controls=clauses(controls),
    )
    return sentences(explained, clear if judged else "")


def _own_sentence(alignment: Alignment) -> str:
    """Say what the student's own tokens explain where no map from them and the teacher together was fitted."""
    if not any(isfinite(score.r2_own) for score in alignment.heads):
        return ""
    words = phrase(
        "The student’s own tokens (this one and the two before it), without any teacher, explain R² {values}."
    )
    return say(words, values=_values(alignment, "r2_own"))


def _values(alignment: Alignment, column: str) -> str:
    """Write the means of a column: 0.74 of K and 0.69 of V."""
    return together([_of_kind(kind, written(means[column], 2)) for kind, means in alignment.summary().items()])


def maps_sentence(alignment: Alignment) -> str:
    """Say which tokens have a map of their own, and what each class explains."""
    if "rows" not in alignment.settings:
        return say(
            "This analysis was made by an earlier version, with one map for all tokens and without the student’s own "
            "tokens as a control: run it again for both."
        )
    if not known(alignment.settings["time"]).reads_bytes:
        return ""
    if not alignment.by_class:
        return say("One map for all tokens, fitted on those where both models have read the same bytes.")
    split_heads = [score for score in alignment.heads if score.has_classes]
    if not split_heads:
        return say("One map for all tokens: none, or too few for a map of their own, end inside a teacher token.")
    return say(
        "Each class of tokens has its own map: of the {n_exact:,} that end where a teacher token ends the teacher "
        "explains R² {exact}, of the {n_inside:,} that end inside one {inside}.",
        n_exact=split_heads[0].n_exact,
        exact=_values(alignment, "r2_exact"),
        n_inside=split_heads[0].n_inside,
        inside=_values(alignment, "r2_inside"),
    )


def class_sentence(score: HeadScore) -> str:
    """Say R² of one head for both classes of tokens; nothing where all share one map."""
    if not score.has_classes:
        return ""
    return say(
        "Tokens that end where a teacher token ends (exact): R² {exact}, n = {n_exact:,}; tokens that end inside one: "
        "R² {inside}, n = {n_inside:,}; each class under its own map, about its own mean.",
        exact=written(score.r2_exact) + plus_minus(score.exact_se),
        n_exact=score.n_exact,
        inside=written(score.r2_inside) + plus_minus(score.inside_se),
        n_inside=score.n_inside,
    )


def sources_of_head(alignment: Alignment, score: HeadScore) -> str:
    """Say everything about the sources and controls of one head."""
    return sentences(own_sentence(score), class_sentence(score), control_sentence(alignment, score))


def own_sentence(score: HeadScore) -> str:
    """Say what the student's own tokens explain of one head without a teacher, and what the teacher adds to them."""
    if not isfinite(score.r2_own):
        return ""
    own = written(score.r2_own) + plus_minus(score.own_se)
    alone = say(
        "The student’s own tokens, this one and the two before it, read without context and without any teacher, "
        "reach R² {own}.",
        own=own,
    )
    if not isfinite(score.added):
        return alone
    added = say(
        "The teacher and the student’s own token together reach {both}: the teacher adds {added}.",
        both=written(score.r2_with_own) + plus_minus(score.with_own_se),
        added=written(score.added, sign="+") + plus_minus(score.added_se),
    )
    return sentences(alone, added)


def _over(means: dict) -> str:
    """Say how far R² is above its controls."""
    token, shuffled = written(means["gain"], 2, "+"), written(means["r2_shuffled"], 2)
    if not isfinite(means["gain_random"]):
        return say("{token} over the teacher’s token, shuffled rows {shuffled}", token=token, shuffled=shuffled)
    return say(
        "{token} over the teacher’s token, {random} over random weights, shuffled rows {shuffled}",
        token=token,
        random=written(means["gain_random"], 2, "+"),
        shuffled=shuffled,
    )


def control_sentence(alignment: Alignment, score: HeadScore) -> str:
    """Say on which rows a head and its controls were measured."""
    measured = isfinite(score.r2_random)
    parts = [say("R² on documents held out ({split}), n = {n:,} tokens", split=split(alignment), n=score.n)]
    if score.n_control < score.n and measured:
        words = phrase(
            "shuffled rows and random weights on {n:,} of them, a sample, where the teacher reaches {r2:.3f}"
        )
        parts.append(say(words, n=score.n_control, r2=score.r2_random + score.gain_random))
    elif score.n_control < score.n:
        parts.append(say("shuffled rows on {n:,} of them, a sample", n=score.n_control))
    if not measured:
        why = alignment.controls.get("random_teacher", Message("not measured"))
        parts.append(say("random weights: {why}", why=why))
    return say("{clauses}.", clauses=clauses(parts))


def split(alignment: Alignment) -> str:
    """Describe the split: 5 folds by document."""
    return say("{n} folds {how}", n=alignment.data["folds"], how=split_words(alignment.data["split"]))


def apart_sentence(alignment: Alignment, score: HeadScore) -> str:
    """Say R² with channels counted alike, and R² of what is outside the score."""
    sinks = alignment.settings["sinks"]
    first = say("no sinks were left out")
    if sinks:
        r2 = _apart(1 - score.error_sink, score.n_sink)
        first = say("the first {sinks} content tokens of either model (attention sinks): {r2}", sinks=sinks, r2=r2)
    special = say("the two models begin with no special token in common")
    if score.n_special:
        r2 = _apart(1 - score.error_special, score.n_special)
        special = say("the special token that both models begin with: {r2}", r2=r2)
    return say(
        "R² {r2}; {standardised} when every channel counts alike. Not in the score above, apart: {apart}.",
        r2=written(score.r2, 2),
        standardised=written(1 - score.error_standardised, 2),
        apart=clauses([first, special]),
    )


def _apart(r2: float, n: int) -> str:
    return say("R² {r2}, n = {n:,}", r2=written(r2, 2), n=n) if n and isfinite(r2) else say("none were scored")


def fusion_sentence(alignment: Alignment) -> str:
    """Say what all teachers explain beyond the best single one, and beyond random weights in place of the others."""
    parts = []
    for kind in KIND_NAME:
        scores = [score for score in alignment.fusion if score.kind == kind and isfinite(score.r2)]
        if not scores:
            continue
        columns = ("r2", "gain", "gain_random")
        r2, gain, random = (sum(getattr(score, column) for score in scores) / len(scores) for column in columns)
        over = say("{gain} over the best single teacher", gain=written(gain, 2, "+"))
        if isfinite(random):
            words = phrase("{one}, {gain} over random weights in place of the others")
            over = say(words, one=over, gain=written(random, 2, "+"))
        parts.append(_with(_of_kind(kind, written(r2, 2)), over))
    finding = say(
        "Fused in the student's space, {teachers} teachers explain R² {values}, averaged over heads, on the {n:,} "
        "tokens that all of them cover.",
        teachers=len(alignment.teachers),
        values=together(parts),
        n=alignment.fusion[0].n,
    )
    return finding + _beating(alignment)


def _beating(alignment: Alignment) -> str:
    """Say in how many heads the gain is clear."""
    scored = [score for score in alignment.fusion if isfinite(score.r2)]
    if not any(isfinite(score.gain_random) for score in scored):
        return say(
            " Random weights in place of the other teachers were not measured: part of the gain is what any further "
            "features bring."
        )
    known = [score.beats_best for score in scored if score.beats_best is not None]
    if not known:
        return ""
    return say(
        " In {beating} of {heads} heads both gains exceed two standard errors; random weights are measured on {n:,} "
        "tokens of the sample.",
        beating=sum(known),
        heads=len(known),
        n=alignment.fusion[0].n_control,
    )


def fusion_rows_sentence(alignment: Alignment) -> str:
    """Say why a teacher alone scores a little differently here than in its own result."""
    return say(
        "Held out ({split}). Each teacher alone is the map of its own result with one weight per head, fitted like the "
        "fusion's, so that a better scale is no gain: its R² differs a little from there. “=” marks a gain within two "
        "standard errors of none, or of what random weights in place of the other teachers bring.",
        split=split(alignment),
    )


def kept_sentence(alignment: Alignment, number: int, layer: int, head: int) -> str:
    """Say which steps one teacher head keeps of a document, and by which score."""
    kept = int(kept_mask(alignment, number, layer, head).sum())
    position = list(alignment.teacher["kv_layers"]).index(layer)
    score = alignment.arrays[f"document.{number}.rkv.score"][position, head]
    candidates = int((~np.isnan(score)).sum())
    steps = say("all {candidates} candidate steps", candidates=candidates)
    if kept < candidates:
        steps = say("{kept} of {candidates} candidate steps", kept=kept, candidates=candidates)
    values = {"layer": layer, "head": head, "steps": steps, "sinks": alignment.settings["sinks"]}
    return say(
        "Teacher layer {layer}, head {head} keeps **{steps}** of this document, those of the highest score "
        "λ·importance − (1 − λ)·redundancy with λ = 0.1. Special tokens and the first {sinks} content tokens are no "
        "candidates.",
        **values,
    )


def capture_sentence(alignment: Alignment, role: str) -> str:
    """Say the result of the self-test of one model's keys, and which layers have no cache."""
    model = alignment.teacher if role == "teacher" else alignment.student
    tested = say("keys are compared as cached, no rotation was undone")
    if alignment.capture.get(role):
        tested = SelfTest.from_dict(alignment.capture[role]).sentence()
    words = [say(TESTED[role], name=model["name"], tested=tested)]
    if model.get("latent"):
        words.append(say("Its latent cache (MLA): K stands for the latent, V for the rotary key part."))
    without = sorted(set(range(model["layers"])) - set(model["kv_layers"]))
    if without:
        layers = {"layers": listed(without)}
        words.append(
            plural(
                len(without), "Without a KV cache: layer {layers}.", "Without a KV cache: layers {layers}.", **layers
            )
        )
    return sentences(*words)
