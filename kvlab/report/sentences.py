"""What the numbers say, one sentence each, with n, split and control."""

from __future__ import annotations

from math import isfinite

import numpy as np

from kvlab.plots import KIND_NAME, kept_mask
from kvlab.report.words import listed, number, points, whole
from kvlab.results import Alignment, HeadScore
from kvlab.types import SelfTest

ERROR_MEANING = (
    "Error = RSS / TSS = 1 − R² on documents that the map was not fitted on: 0 is perfect, 1 is no better than the "
    "training mean. “=” marks a head no better than its controls: not above the mean, shuffled rows and the group "
    "mean, or not more than two standard errors above the token alone or a teacher of random weights."
)


def sentence(alignment: Alignment) -> str:
    """The finding in one sentence."""
    summary, data = alignment.summary(), alignment.data
    parts = [f"{whole(summary[kind]['r2'])} of {name} ({_over(summary[kind])})" for kind, name in KIND_NAME.items()]
    documents = f"{data['documents']} document{'s' * (data['documents'] != 1)}"
    calibration = data["calibration_documents"]
    also = f", fitted also on {calibration} bundled samples" if calibration else ""
    return (
        f"On {documents} held out by document ({data['rows_scored']:,} student tokens, "
        f"{data['folds']} folds{also}), {alignment.teacher['name']} explains {parts[0]} and {parts[1]} of "
        f"{alignment.student['name']}'s variance, averaged over heads."
    )


def _over(means: dict) -> str:
    random = f", {points(means['gain_random'])} over random weights" if isfinite(means["gain_random"]) else ""
    return f"{points(means['gain'])} over the token alone{random}, shuffled rows {whole(means['r2_shuffled'])}"


def control_sentence(alignment: Alignment, score: HeadScore) -> str:
    """On which rows a head and its controls were measured."""
    words = (
        f"R² on documents held out ({alignment.data['folds']} folds {alignment.data['split']}), n = {score.n:,} tokens"
    )
    measured = isfinite(score.r2_random)
    sampled = "shuffled rows and random weights" if measured else "shuffled rows"
    if score.n_control < score.n:
        words += f"; {sampled} on {score.n_control:,} of them, a sample"
        if measured:
            words += f", where the teacher reaches {score.r2_random + score.gain_random:.3f}"
    if not measured:
        words += f"; random weights: {alignment.controls.get('random_teacher', 'not measured')}"
    return words + "."


def apart_sentence(alignment: Alignment, score: HeadScore) -> str:
    """The error with channels counted alike, and what is not in the score at all."""
    sinks = alignment.settings["sinks"]
    parts = [
        f"the first {sinks} content tokens of either model (attention sinks): {_apart(score.error_sink, score.n_sink)}"
        if sinks
        else "no sinks were left out",
        "the special token that both models begin with: " + _apart(score.error_special, score.n_special)
        if score.n_special
        else "the two models begin with no special token in common",
    ]
    return (
        f"Error {number(score.error)}; {number(score.error_standardised)} when every channel counts alike. "
        f"Not in the score above, apart: {'; '.join(parts)}."
    )


def _apart(error: float, n: int) -> str:
    return f"error {error:.2f}, n = {n:,}" if n and isfinite(error) else "none were scored"


def fusion_sentence(alignment: Alignment) -> str:
    """What all teachers together explain beyond the best single one."""
    parts = []
    for kind, name in KIND_NAME.items():
        scores = [s for s in alignment.fusion if s.kind == kind and isfinite(s.r2)]
        if scores:
            r2, gain = (sum(getattr(s, field) for s in scores) / len(scores) for field in ("r2", "gain"))
            parts.append(f"{whole(r2)} of {name} ({points(gain)} over the best single teacher)")
    return (
        f"Fused in the student's space, {len(alignment.teachers)} teachers explain {' and '.join(parts)}, averaged "
        f"over heads, on the {alignment.fusion[0].n:,} tokens that all of them cover."
    )


def fusion_rows_sentence(alignment: Alignment) -> str:
    """Why a teacher alone scores a little differently here than in its own result."""
    return (
        f"Held out ({alignment.data['folds']} folds {alignment.data['split']}). Each teacher alone is the map of its "
        "own result with one weight per head, fitted like the fusion's, so that a better scale is no gain: its R² "
        "differs a little from there. “=” marks a gain within two standard errors of none."
    )


def kept_sentence(alignment: Alignment, number: int, layer: int, head: int) -> str:
    """Which steps one teacher head keeps of a document, and by what."""
    kept = kept_mask(alignment, number, layer, head)
    position = list(alignment.teacher["kv_layers"]).index(layer)
    score = alignment.arrays[f"document.{number}.rkv.score"][position, head]
    candidates = int((~np.isnan(score)).sum())
    every = "all" if kept.sum() == candidates else f"{kept.sum()} of"
    return (
        f"Teacher layer {layer}, head {head} keeps **{every} {candidates} candidate steps** of this document, those of "
        "the highest score λ·importance − (1 − λ)·redundancy with λ = 0.1. Special tokens and the first "
        f"{alignment.settings['sinks']} content tokens are no candidates."
    )


def capture_sentence(alignment: Alignment, role: str) -> str:
    """What the self-test of one model's keys showed, and which layers keep nothing."""
    model = alignment.teacher if role == "teacher" else alignment.student
    found = alignment.capture.get(role)
    tested = SelfTest.from_dict(found).sentence() if found else "keys are compared as cached, no rotation was undone"
    words = [f"{role.capitalize()} {model['name']}: {tested}."]
    if model.get("latent"):
        words.append("Its latent cache (MLA): K stands for the latent, V for the rotary key part.")
    without = sorted(set(range(model["layers"])) - set(model["kv_layers"]))
    if without:
        words.append(f"Without a KV cache: layer{'s' * (len(without) > 1)} {listed(without)}.")
    return " ".join(words)
