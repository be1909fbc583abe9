"""Extract what kvlab says, and keep its Chinese catalogue: ``python -m tests.catalogue`` after a change of words.

Adds new words to kvlab.po without Chinese (write it there, then run this again), drops words that nobody says, and
compiles kvlab.mo. tests/test_language.py checks that both files are current and complete.
"""

import ast
import io
from datetime import UTC, datetime
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from jinja2.ext import extract_from_ast

from kvlab import PACKAGE
from kvlab.language import DOMAIN, FOLDER
from kvlab.results.rendering import environment

PO = FOLDER / "zh" / "LC_MESSAGES" / f"{DOMAIN}.po"
MO = PO.with_suffix(".mo")
# Who speaks, or names words that are spoken later -> which arguments are the words.
SPEAKERS = {"say": (0,), "phrase": (0,), "setting": (1,), "Message": (0,), "plural": (1, 2), "Message.plural": (1, 2)}


def literals(node):
    """The literal words in an argument: also those of a conditional expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return literals(node.body) + literals(node.orelse)
    return []


def called(node: ast.AST) -> str:
    """The name that a call calls, such as ``st.markdown``; empty for anything else. Much faster than ast.unparse."""
    names, at = [], node.func if isinstance(node, ast.Call) else None
    while isinstance(at, ast.Attribute):
        names.append(at.attr)
        at = at.value
    return ".".join([at.id, *reversed(names)]) if isinstance(at, ast.Name) else ""


def spoken(root: Path = PACKAGE):
    """Yield (words, words for many or "", file) of everything that is said under ``root``."""
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            places = SPEAKERS.get(called(node), ())
            if places and len(node.args) > places[-1]:
                words = [literals(node.args[place]) for place in places]
                many = words[1][0] if len(words) == 2 and words[1] else ""
                for one in filter(None, words[0]):
                    yield one, many, path.relative_to(root.parent).as_posix()
    for path in sorted(root.rglob("*.j2")):
        tree = environment().parse(path.read_text(encoding="utf-8"))
        for _, name, words in extract_from_ast(tree, ("say", "plural"), babel_style=False):
            one, many = words if name == "plural" else (words[0], "")
            yield one, many, path.relative_to(root.parent).as_posix()


def catalogue() -> Catalog:
    with PO.open("rb") as file:
        return read_po(file, locale="zh")


def compiled(words: Catalog) -> bytes:
    words.creation_date = words.revision_date = datetime(2026, 1, 1, tzinfo=UTC)  # else each run gives other bytes
    buffer = io.BytesIO()
    write_mo(buffer, words)
    return buffer.getvalue()


def updated(words: Catalog) -> Catalog:
    """The catalogue of what is said now, with the Chinese that ``words`` has of it."""
    new = Catalog(locale="zh", header_comment="# Chinese for kvlab.", fuzzy=False)
    places: dict[tuple[str, str], list[tuple[str, int | None]]] = {}
    for one, many, file in spoken():
        places.setdefault((one, many), []).append((file, None))
    for one, many in sorted(places, key=lambda key: (places[key][0][0], key)):
        old = words.get(one)
        string = old.string if old else ""
        string = string[0] if isinstance(string, tuple) else string
        if many:
            string = (string,)
        new.add((one, many) if many else one, string, locations=sorted(set(places[one, many])))
    return new


def main() -> None:
    words = updated(catalogue())
    with PO.open("wb") as file:
        # Dates and versions would change the file at every run.
        write_po(file, words, width=0, omit_header=False, include_lineno=False)
    text = PO.read_text(encoding="utf-8").splitlines(keepends=True)
    fleeting = tuple(
        f'"{name}' for name in ("POT", "PO-", "Generated", "Last-Tr", "Report-", "Project-", "Language-Team")
    )
    PO.write_text("".join(line for line in text if not line.startswith(fleeting)), "utf-8")
    MO.write_bytes(compiled(catalogue()))
    missing = [message.id for message in words if message.id and not any(message.string)]
    print(f"{len(words)} entries; without Chinese: {len(missing)}", *missing, sep="\n")


if __name__ == "__main__":
    main()
