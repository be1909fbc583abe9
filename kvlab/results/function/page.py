"""Write a functional test as one HTML file without network, as a section of an analysis's report, and as a ZIP."""

from kvlab.language import current, say, speaking
from kvlab.results import answer
from kvlab.results.alignment.archive import zipped
from kvlab.results.alignment.data import Alignment, as_json
from kvlab.results.alignment.page import html
from kvlab.results.function import data, figures, sentences, tables
from kvlab.results.function.data import Injection
from kvlab.results.rendering import render
from kvlab.results.safe_csv import safe_csv

CALLED = {"data": data, "figures": figures, "sentences": sentences, "tables": tables}  # by function_section.html.j2


def function_html(injection: Injection, language: str | None = None) -> str:
    """Write the whole report in ``language``, else in the current one. Escapes all text of users."""
    teachers = " + ".join(teacher["name"] for teacher in injection.teachers)
    with speaking(language or current()):
        title = say("Functional test: {teachers} → {student}", teachers=teachers, student=injection.student["name"])
        return render(
            "function.html.j2", title=title, injection=injection, function=CALLED, answered=answer.of_test(injection)
        )


def html_with_function(alignment: Alignment, language: str | None, injection: Injection | None) -> str:
    """Write the report of an analysis, with the functional test of the same request if there is one."""
    if injection is None:
        return html(alignment, language)
    return html(alignment, language, injection=injection, function=CALLED)


def function_archive(injection: Injection) -> bytes:
    """Return a ZIP of injection.json and every table as CSV; the same result gives the same bytes."""
    texts = {data.JSON_NAME: as_json(injection)}
    texts |= {name: safe_csv(frame) for name, frame in tables.tables(injection).items()}
    return zipped(texts)
