"""Write a finished alignment as one HTML file that needs no network: see ``templates/alignment.html.j2``."""

from kvlab.language import current, say, speaking
from kvlab.results import answer
from kvlab.results.alignment import fusion, heads, layers, one_head, rules, sentences, spectrum, tables, timeline
from kvlab.results.alignment.data import Alignment, worst_head
from kvlab.results.function.data import Injection
from kvlab.results.rendering import render
from kvlab.results.style import KIND_NAME

# The modules that alignment.html.j2 calls.
CALLED = {"fusion": fusion, "heads": heads, "layers": layers, "one_head": one_head, "rules": rules}
CALLED |= {"sentences": sentences, "spectrum": spectrum, "tables": tables, "timeline": timeline}


def html(
    alignment: Alignment, language: str | None = None, injection: Injection | None = None, **function: object
) -> str:
    """Write the whole report in ``language``, else in the current one. Escapes all text of users.

    ``injection``: a functional test of the same request; ``function``: the modules that its section calls.
    """
    if injection is not None:
        function["injection"] = injection
    cell = worst_head(alignment)
    names = {"teacher": alignment.teacher["name"], "student": alignment.student["name"]}
    directions = spectrum.spectrum_table(alignment, *cell)
    with speaking(language or current()):
        return render(
            "alignment.html.j2",
            title=say("KV alignment: {teacher} → {student}", **names),
            alignment=alignment,
            answered=answer.of_analysis(alignment, injection),
            RULES=answer.RULES,
            kinds=list(KIND_NAME),
            cell=cell,
            score=alignment.score(*cell),
            has_spectrum=directions is not None and not directions.empty,
            has_rules=rules.rules_table(alignment, *cell) is not None,
            **CALLED,
            **function,
        )
