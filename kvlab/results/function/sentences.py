"""Say the results of a functional test, against their controls."""

from math import isfinite, sqrt

from kvlab.language import phrase, plural, say
from kvlab.results.alignment.data import Alignment
from kvlab.results.function import data
from kvlab.results.function.data import (
    CONTROLS,
    NAMES,
    SOURCES,
    Continued,
    Correlation,
    Hybrid,
    Injected,
    Injection,
    own_tokens_of,
)
from kvlab.results.style import plus_minus, written
from kvlab.results.words import listed, sentences

TWENTIETH = 1.96  # standard deviations that a normal number exceeds in one of 20 cases; ρ's deviation is 1 / √(n − 1)
FEW_RIGHT = 0.3  # share of right answers below which they tell little
CERTAIN = 2  # standard errors by which one variant must beat another
UNDECODED = "\ufffd"  # in a token that is a part of a character
MEANING = phrase(
    "KL = KL(own ‖ variant) of the next-token distributions and ΔCE = cross-entropy less that with the student’s own "
    "cache, both in nats per token of the continuation: 0 is as good as its own cache. A variant replaces the keys and "
    "values of the prefix; ± is one jackknife standard error over documents."
)
DAMAGE_MEANING = phrase(
    "Swap damage: the KL of the continuation when the projected part of one head, or of one layer, is handed over and "
    "nothing else; 0 is no damage. Its control hands over the training mean instead."
)
ATTENTION_MEANING = phrase(
    "R² of the attention output = 1 − RSS / TSS of the head’s output under the student’s own queries: 1 the same "
    "output, 0 no better than its mean."
)
HYBRID_MEANING = phrase(
    "The student computes its first layers of the prefix itself, or it reads the last tokens after the replaced cache "
    "of those before them; all else is handed over. Dotted: it has its own keys and values of these tokens, as made "
    "from the whole prefix, which no share of the prefill buys. The control has no teacher, but the student’s own "
    "tokens."
)
OWN_PARTS = {  # of a hybrid
    "layers": phrase("first layers"),
    "read": phrase("last tokens, read"),
    "tokens": phrase("last tokens, own rows"),
}
REMOVED = 0.9  # of the damage, by which a hybrid counts as enough
USEFUL = {  # whether the teacher alone beats the student's own tokens by two standard errors; None: not known
    True: phrase(
        "Useful: the projected cache, the teacher alone, beats the student’s own tokens without any teacher by "
        "{gain} ± {se:.3f} nats (KL {kl:.3f} against {own:.3f})."
    ),
    False: phrase(
        "Not shown to be useful: the projected cache, the teacher alone, does not beat the student’s own tokens "
        "without any teacher by more than two standard errors (gain {gain} ± {se:.3f} nats, KL {kl:.3f} against "
        "{own:.3f})."
    ),
    None: phrase(
        "Whether the projected cache, the teacher alone, is more useful than the student’s own tokens is not known "
        "without standard errors (KL {kl:.3f} against {own:.3f})."
    ),
}
ALSO_USEFUL = {  # the same of another source: with the student's own token, or refined
    True: phrase("The {source} beats {control} by {gain} ± {se:.3f} nats (KL {kl:.3f} against {own:.3f})."),
    False: phrase(
        "The {source} does not beat {control} by more than two standard errors (gain {gain} ± {se:.3f} nats, KL "
        "{kl:.3f} against {own:.3f})."
    ),
    None: "",
}
NO_OWN_TOKENS = phrase(
    "Whether the teacher is more useful than the student’s own tokens was not measured: this test was made by an "
    "earlier kvlab. Run it again to know."
)
PARTS = {"key": "K", "value": "V", "both": phrase("K and V")}
ERRORS = {"projection": "R²", "attention": phrase("R² of the attention output")}
OF_ONE_HEAD = {  # list of the result -> words on each of its cells; function first
    "swaps": phrase("swap damage KL {kl:.4f} ± {kl_se:.4f} beside {kl_mean:.4f} of its mean (n = {n:,} tokens)"),
    "attention": phrase("R² of the attention output {r2:.3f} ± {se:.3f} (n = {n:,} queries)"),
    "projection": phrase("R² {r2:.3f} ± {se:.3f} (n = {n:,} rows)"),
}
DAMAGES = {"kl": "KL", "delta_ce": "ΔCE"}


def variant(injection: Injection, name: str, share: float) -> Injected | None:
    """Return the numbers of one variant at one prefix; None if not measured."""
    return next((row for row in injection.injected if (row.variant, row.prefix) == (name, share)), None)


def shares(injection: Injection) -> list[float]:
    """Return the measured prefix lengths, as shares of a document's tokens, ascending."""
    return sorted({row.prefix for row in injection.injected})


def beaten(injection: Injection, share: float) -> dict[str, bool | None]:
    """Return control -> whether the projected cache's KL is below its own by more than two standard errors.

    The standard error is that of the difference; None without one (fewer than three documents).
    """
    judged: dict[str, bool | None] = {}
    for name in CONTROLS:
        control = variant(injection, name, share)
        if control is not None:
            gain, se = control.kl_over_projected, control.kl_over_projected_se
            judged[name] = gain > CERTAIN * se if isfinite(se) else None
    return judged


def useful(injection: Injection, share: float) -> dict[str, bool | None]:
    """Return source -> whether its KL is below that of the student's own tokens by more than two standard errors.

    Empty in older results, which lack this control; None without a standard error.
    """
    judged: dict[str, bool | None] = {}
    for source in SOURCES:
        row = variant(injection, source, share)
        if row is not None and variant(injection, own_tokens_of(source), share) is not None:
            gain, se = row.below_own_tokens, row.below_own_tokens_se
            judged[source] = gain > CERTAIN * se if isfinite(se) else None
    return judged


def useful_sentence(injection: Injection, share: float) -> str:
    """Say which source beats the student's own tokens; empty where that is not known of any."""
    parts = []
    for source, beats in useful(injection, share).items():
        row, own_tokens = variant(injection, source, share), variant(injection, own_tokens_of(source), share)
        words = (USEFUL if source == "projected" else ALSO_USEFUL)[beats]
        names = {"source": say(NAMES[source]), "control": say(NAMES[own_tokens.variant])}
        gain = written(row.below_own_tokens, sign="" if beats else "+")
        numbers = {"gain": gain, "se": row.below_own_tokens_se, "kl": row.kl, "own": own_tokens.kl}
        parts.append(say(words, **names, **numbers))
    return sentences(*parts)


def verdict_sentence(injection: Injection, share: float) -> str:
    """Say whether the cache is useful, which controls it beats, and how far from the own cache it still is."""
    judged = beaten(injection, share)
    won = [say(NAMES[name]) for name, beats in judged.items() if beats is True]
    lost = [say(NAMES[name]) for name, beats in judged.items() if beats is False]
    projected = variant(injection, "projected", share)
    values = {"share": share, "kl": projected.kl, "se": projected.kl_se, "n": projected.n}
    values |= {"documents": projected.documents, "yes": listed(won or [""]), "no": listed(lost or [""])}
    if None in judged.values():
        text = phrase(
            "With {share:.0%} of each document handed over, the projected cache is {kl:.3f} nats from the own cache (n "
            "= {n:,} tokens of {documents} held-out documents). Fewer than three documents give no standard error: "
            "whether it beats its controls is not known."
        )
    elif all(judged.values()):
        text = phrase(
            "With {share:.0%} of each document handed over, the projected cache beats every control by more than two "
            "standard errors ({yes}); it is {kl:.3f} ± {se:.3f} nats from the own cache (n = {n:,} tokens of "
            "{documents} held-out documents)."
        )
    elif any(judged.values()):
        text = phrase(
            "With {share:.0%} of each document handed over, the projected cache beats {yes} by more than two standard "
            "errors, but not {no}; it is {kl:.3f} ± {se:.3f} nats from the own cache (n = {n:,} tokens of {documents} "
            "held-out documents)."
        )
    else:
        text = phrase(
            "With {share:.0%} of each document handed over, the projected cache beats no control by more than two "
            "standard errors ({no}): nothing shows that the student can use it (KL {kl:.3f} ± {se:.3f}, n = {n:,} "
            "tokens of {documents} held-out documents)."
        )
    against_controls = say(text, **values)
    if not useful(injection, share):
        return sentences(against_controls, say(NO_OWN_TOKENS))
    return sentences(useful_sentence(injection, share), against_controls)


def lead_sentence(injection: Injection) -> str:
    """Say what an analysis of the same request leads with: whether the student can use the cache."""
    if not injection.reproduces:
        return data.sentence(injection)
    return say("In function: {verdict}", verdict=verdict_sentence(injection, injection.injection["prefix"]))


def curve_sentence(injection: Injection) -> str:
    """Say how the damage of each source grows with the prefix."""
    measured, parts = shares(injection), []
    for source in SOURCES:
        first, last = variant(injection, source, measured[0]), variant(injection, source, measured[-1])
        if first is None or last is None:
            continue
        ends = {"least": first.prefix, "first": first.kl, "first_se": first.kl_se, "n": first.n}
        ends |= {"most": last.prefix, "last": last.kl, "last_se": last.kl_se, "other": last.n}
        text = phrase(
            "From {least:.0%} to {most:.0%} of the document, the KL of the {source} goes from {first:.3f} ± "
            "{first_se:.3f} to {last:.3f} ± {last_se:.3f} nats per token (n = {n:,} and {other:,} tokens: what is "
            "left of each document)."
        )
        parts.append(say(text, source=say(NAMES[source]), **ends))
    return sentences(*parts)


def enough(injection: Injection, source: str, part: str) -> Hybrid | None:
    """Return the smallest own part that removes ``REMOVED`` of the source's KL; None if not measured."""
    rows = [row for row in injection.hybrid if (row.variant, row.part) == (source, part)]
    return next((row for row in rows if row.kl <= (1 - REMOVED) * rows[0].kl), rows[-1] if rows else None)


def _cost(row: Hybrid, control: Hybrid) -> str:
    return say(
        "{share:.0%} of the prefill; KL {kl:.3f}{se}, without any teacher {control:.3f}",
        share=row.share,
        kl=row.kl,
        se=plus_minus(row.kl_se),
        control=control.kl,
    )


def hybrid_sentence(injection: Injection) -> str | None:
    """Answer how much of the prefix the student must still read itself; None if not measured."""
    parts = []
    measured = {(row.variant, row.part, row.kept): row for row in injection.hybrid}
    for source in SOURCES:
        layers, tokens = enough(injection, source, "layers"), enough(injection, source, "read")
        if layers is None or tokens is None:
            continue
        costs = [_cost(row, measured["own-tokens", row.part, row.kept]) for row in (layers, tokens)]
        all_layers = len(injection.student["kv_layers"])
        counts = {
            "layers": layers.kept,
            "all": all_layers,
            "tokens": tokens.kept,
            "n": layers.n,
            "documents": layers.documents,
        }
        text = phrase(
            "To remove {removed:.0%} of the KL of the {source} ({kl:.3f} with {prefix:.0%} of each document handed "
            "over), the student must compute {layers} of its {all} layers itself, the first ones ({layers_cost}), or "
            "read the last {tokens} of the prefix’ tokens ({tokens_cost}); n = {n:,} tokens of {documents} held-out "
            "documents."
        )
        values = {
            "removed": REMOVED,
            "kl": measured[source, "layers", 0].kl,
            "prefix": injection.injection["prefix"],
            "source": say(NAMES[source]),
        }
        parts.append(say(text, layers_cost=costs[0], tokens_cost=costs[1], **counts, **values))
    return sentences(*parts) if parts else None


def layers_sentence(injection: Injection) -> str | None:
    """Name the layer that costs most; None if no layer was swapped."""
    layers = [swap for swap in injection.swaps if swap.head is None and swap.kind == "both"]
    if not layers:
        return None
    worst = max(layers, key=lambda swap: swap.kl)
    damage = {"kl": worst.kl, "se": worst.kl_se, "mean": worst.kl_mean, "mean_se": worst.kl_mean_se}
    damage |= {"layer": worst.layer, "n": worst.n, "documents": worst.documents}
    return say(
        "Layer {layer} costs most when its K and V alone are handed over: KL {kl:.3f} ± {se:.3f} (its training mean "
        "instead: {mean:.3f} ± {mean_se:.3f}; n = {n:,} tokens of {documents} documents).",
        **damage,
    )


def correlation_sentence(injection: Injection, error: str, damage: str) -> str:
    """Say how well an error of a head predicts its damage."""
    pairs = [c for c in injection.correlations if (c.error, c.damage) == (error, damage) and isfinite(c.rho)]
    if not pairs:
        return say("No rank correlation: too few heads were swapped one by one.")
    names = {"key": "K", "value": "V", "both kinds": say("both together")}
    parts = [
        plural(c.heads, "{kind} {rho} ({n} head)", "{kind} {rho} ({n} heads)", kind=names[c.kind], rho=rho(c))
        for c in pairs
    ]
    fewest = min(c.heads for c in pairs)
    return say(
        "Spearman’s ρ of {error} with the {damage} of a swap: {parts}; −1 would mean that it ranks the heads as their "
        "damage does (more explained, less damage), 0 that it says nothing about it. By chance alone {fewest} heads "
        "come to ±{chance:.2f} in one of 20 cases.",
        fewest=fewest,
        chance=min(1.0, TWENTIETH / sqrt(fewest - 1)),
        error=say(ERRORS[error]),
        damage=DAMAGES[damage],
        parts=say(", ").join(parts),
    )


def rho(correlation: Correlation) -> str:
    """Write ρ of R² = 1 − error, whose ranks are those of the error turned round."""
    return written(-correlation.rho, 2, "+")


def correlated(injection: Injection) -> list[str]:
    """Return the errors whose correlation with the damage was measured."""
    return [error for error in ERRORS if any(c.error == error for c in injection.correlations)]


def head_sentence(injection: Injection, kind: str, layer: int, head: int) -> str:
    """Say the projection error of one head, and its damage."""
    parts = [
        say(words, **vars(cell), **({} if cells == "swaps" else {"r2": 1 - cell.error}))
        for cells, words in OF_ONE_HEAD.items()
        for cell in getattr(injection, cells)
        if (cell.kind, cell.layer, cell.head) == (kind, layer, head)
    ]
    if not parts:
        return say("Nothing was measured of this head.")
    return say("{kind} of this head: {parts}.", kind=PARTS[kind], parts=say("; ").join(parts))


def accuracy_sentence(injection: Injection) -> str | None:
    """Say whether answers stay right; None if no text was continued."""
    by_variant = {row.variant: row for row in injection.accuracy}
    if "projected" not in by_variant or "own" not in by_variant:
        return None
    own, projected = by_variant["own"], by_variant["projected"]
    values = {"own": own.right, "own_se": own.se, "projected": projected.right, "se": projected.se}
    values |= {"less": percent(projected.less_own), "less_se": projected.less_own_se}
    values |= {"same": projected.same_tokens, "n": projected.documents}
    if not projected.documents:
        words = phrase(
            "No continued document has an answer, so none is judged; {same:.0%} of the student's own continuation come "
            "before the first differing token."
        )
        return say(words, **values)
    if not isfinite(projected.less_own_se):
        text = phrase(
            "Right answers: {projected:.1%} on the projected cache, {own:.1%} on its own; {same:.0%} of its own "
            "continuation come before the first differing token (n = {n} held-out documents: too few for standard "
            "errors)."
        )
    elif abs(projected.less_own) > CERTAIN * projected.less_own_se:
        text = phrase(
            "Right answers: {projected:.1%} ± {se:.1%} on the projected cache, {own:.1%} ± {own_se:.1%} on its own, a "
            "difference of {less} ± {less_se:.1%}; {same:.0%} of its own continuation come before the first "
            "differing token (n = {n} held-out documents)."
        )
    else:
        text = phrase(
            "Right answers: {projected:.1%} ± {se:.1%} on the projected cache, {own:.1%} ± {own_se:.1%} on its own: a "
            "difference of {less} ± {less_se:.1%} is within two standard errors; {same:.0%} of its own "
            "continuation come before the first differing token (n = {n} held-out documents)."
        )
    few = say("On its own cache the student itself gets few of them right, so this tells little.")
    return sentences(say(text, **values), few if own.right < FEW_RIGHT else "")


def percent(difference: float) -> str:
    """Write a signed difference of shares in percent, with a true minus."""
    return written(100 * difference, 1, "+") + "%"


def pieces(continued: Continued) -> list[tuple[str, bool]]:
    """Split a continuation into (text, whether it differs); join tokens that are parts of one character."""
    split: list[tuple[str, bool]] = []
    tokens, differs, at, start = continued.tokens, continued.differs, 0, 0
    while start < len(tokens):
        end = start + 1
        while UNDECODED in tokens[start] and end < len(tokens) and UNDECODED in tokens[end]:
            end += 1
        piece = "".join(tokens[start:end])
        if UNDECODED in piece:
            following = continued.text.find(tokens[end], at) if end < len(tokens) else len(continued.text)
            piece = continued.text[at:following] if following > at else piece
        split.append((piece, any(differs[start:end])))
        at, start = at + len(piece), end
    return split


def same_request(alignment: Alignment, injection: Injection) -> bool:
    """Return whether both results are of the same models and documents."""

    def request(teachers: list[str], result: Alignment | Injection) -> tuple:
        # Older results have no checksum of the documents.
        return teachers, result.student["name"], result.prompts, result.data.get("documents_sha256")

    names = [teacher["name"] for teacher in injection.teachers]
    return request(list(alignment.teachers), alignment) == request(names, injection)
