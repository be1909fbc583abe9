"""The stages of a run, as people follow them: each takes up one or several phases of its status."""

from kvlab.language import phrase

# By kind of a run: the words of each stage, and the beginnings of the phases that belong to it.
STAGES = {
    "training": (
        (phrase("load"), ("waiting", "starting", "loading")),
        (phrase("fit the map"), ("fitting the map",)),
        (phrase("evaluate"), ("evaluating before",)),
        (phrase("train"), ("training",)),
        (phrase("evaluate again"), ("evaluating after",)),
        (phrase("save"), ("saving", "reporting")),
    ),
    "analysis": (
        (phrase("load"), ("waiting", "starting", "loading")),
        (
            phrase("read caches and controls"),
            ("reading caches", "comparing", "measuring controls", "reading with", "fitting on"),
        ),
        (phrase("score heads"), ("fitting and scoring", "fusing", "reading documents")),
        (phrase("write"), ("writing results",)),
    ),
    "injection": (
        (phrase("load"), ("waiting", "starting", "loading")),
        (phrase("read and fit"), ("reading", "comparing", "measuring controls", "fitting", "refining", "fusing")),
        (phrase("continue from each cache"), ("continuing",)),
        (phrase("single heads"), ("replacing",)),
        (phrase("write texts"), ("greedy",)),
        (phrase("write"), ("writing results",)),
    ),
    "certificate": (
        (phrase("load"), ("waiting", "starting", "loading")),
        (phrase("read and fit"), ("reading", "comparing", "measuring controls", "fitting", "refining", "fusing")),
        (phrase("continue from each cache"), ("continuing", "replacing", "greedy")),
        (phrase("longer texts"), ("handing over",)),
        (phrase("time it"), ("timing",)),
        (phrase("tasks"), ("scoring tasks",)),
        (phrase("write"), ("writing results",)),
    ),
}


def place(kind: str, phase: str, done: int, total: int) -> int | None:
    """Return the number of the stage that a phase belongs to; None for an unknown phase."""
    if kind == "training" and phase == "saving" and done < total and total > 1:
        phase = "training"  # a checkpoint on the way
    for number, (_, phases) in enumerate(STAGES.get(kind, ())):
        if phase.startswith(phases):
            return number
    return None
