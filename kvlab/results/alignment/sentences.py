"""Say what the numbers show, in one sentence each, with n, split and control."""

from math import isfinite

import numpy as np

from kvlab.language import Message, phrase, plural, say
from kvlab.results.alignment.data import Alignment, HeadScore
from kvlab.results.alignment.rkv import kept_mask
from kvlab.results.alignment.tables import split_words
from kvlab.results.style import KIND_NAME
from kvlab.results.words import clauses, listed, number, points, sentences, together, whole
from kvlab.shapes import SelfTest

ERROR_MEANING = phrase(
    "Error = RSS / TSS = 1 − R² on documents that the map was not fitted on: 0 is perfect, 1 is no better than the "
    "training mean. “=” marks a head no better than its controls: not above the mean, shuffled rows and the group "
    "mean, or not more than two standard errors above the token alone or a teacher of random weights. “?” marks one of "
    "which that is not known."
)
TESTED = {"teacher": phrase("Teacher {name}: {tested}."), "student": phrase("Student {name}: {tested}.")}


def sentence(alignment: Alignment) -> str:
    """Say the finding in one sentence."""
    summary, data = alignment.summary(), alignment.data
    shares = [
        say("{share} of {kind} ({over})", share=whole(summary[kind]["r2"]), kind=name, over=_over(summary[kind]))
        for kind, name in KIND_NAME.items()
    ]
    calibration = data["calibration_documents"]
    models = {"teacher": alignment.teacher["name"], "student": alignment.student["name"]}
    return say(
        "On {documents} held out by document ({rows:,} student tokens, {folds} folds{also}), {teacher} explains "
        "{shares} of {student}'s variance, averaged over heads.",
        documents=plural(data["documents"], "{n} document", "{n} documents"),
        rows=data["rows_scored"],
        folds=data["folds"],
        also=say(", fitted also on {n} bundled samples", n=calibration) if calibration else "",
        shares=together(shares),
        **models,
    )


def _over(means: dict) -> str:
    """Say how far R² is above its controls. A control worse than the training mean counts as the mean."""
    token, shuffled = points(min(means["gain"], means["r2"])), whole(means["r2_shuffled"])
    if not isfinite(means["gain_random"]):
        return say("{token} over the token alone, shuffled rows {shuffled}", token=token, shuffled=shuffled)
    return say(
        "{token} over the token alone, {random} over random weights, shuffled rows {shuffled}",
        token=token,
        random=points(min(means["gain_random"], means["r2_random"] + means["gain_random"])),
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
    """Say the error with channels counted alike, and the errors outside the score."""
    sinks = alignment.settings["sinks"]
    first = say("no sinks were left out")
    if sinks:
        error = _apart(score.error_sink, score.n_sink)
        first = say(
            "the first {sinks} content tokens of either model (attention sinks): {error}", sinks=sinks, error=error
        )
    special = say("the two models begin with no special token in common")
    if score.n_special:
        error = _apart(score.error_special, score.n_special)
        special = say("the special token that both models begin with: {error}", error=error)
    return say(
        "Error {error}; {standardised} when every channel counts alike. Not in the score above, apart: {apart}.",
        error=number(score.error),
        standardised=number(score.error_standardised),
        apart=clauses([first, special]),
    )


def _apart(error: float, n: int) -> str:
    return say("error {error:.2f}, n = {n:,}", error=error, n=n) if n and isfinite(error) else say("none were scored")


def fusion_sentence(alignment: Alignment) -> str:
    """Say what all teachers explain beyond the best single one, and beyond random weights in place of the others."""
    parts = []
    for kind, name in KIND_NAME.items():
        scores = [score for score in alignment.fusion if score.kind == kind and isfinite(score.r2)]
        if not scores:
            continue
        columns = ("r2", "gain", "gain_random")
        r2, gain, random = (sum(getattr(score, column) for score in scores) / len(scores) for column in columns)
        over = say("{points} over the best single teacher", points=points(gain))
        if isfinite(random):
            words = phrase("{one}, {points} over random weights in place of the others")
            over = say(words, one=over, points=points(random))
        parts.append(say("{share} of {kind} ({over})", share=whole(r2), kind=name, over=over))
    finding = say(
        "Fused in the student's space, {teachers} teachers explain {shares}, averaged over heads, on the {n:,} tokens "
        "that all of them cover.",
        teachers=len(alignment.teachers),
        shares=together(parts),
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
