"""Every word of the interface is there in English and Chinese, and no Chinese is there that nobody says."""

import ast
import re
import string
from pathlib import Path

import pytest

from kvlab import language
from kvlab.language import chinese, plural, say, speaking, translated

PACKAGE = Path(__file__).parents[1] / "kvlab"
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if "language" not in path.parts]
SPEAKERS = {"say": 0, "mark": 0, "plural": 2}  # which argument is the key; of plural the words for many
SHOWN = [
    path
    for path in FILES
    if path.relative_to(PACKAGE).parts[0] in ("web", "results")
    and path.name != "data.py"
    and path.relative_to(PACKAGE).parts[:2] not in (("results", "training"), ("web", "access"))
]
ERROR_FIELDS = {"expected", "found", "remedy"}  # of an error: messages, see test_every_error_has_chinese
PROSE = re.compile(r"[A-Za-z’']{2,} [a-z’']{2,}")
NOT_PROSE = re.compile(r"^(:material/|<style>|<)")


def name_of(call):
    """Of a function by its own name: a method that is called say is another thing."""
    return getattr(call.func, "id", "")


def keys(node):
    """The literal keys in an argument: also those of a conditional expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return keys(node.body) + keys(node.orelse)
    return []


def spoken():
    found = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            # A method of this name, as of a run's log, is none of ours.
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SPEAKERS:
                for key in keys(node.args[SPEAKERS[name_of(node)]]):
                    found.setdefault(key, path.relative_to(PACKAGE))
    return found


def holes(text):
    return {name.split(".")[0].split("[")[0] for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_every_word_that_is_said_has_chinese():
    missing = {key: str(path) for key, path in spoken().items() if key not in chinese.WORDS}
    assert not missing, f"no Chinese for {len(missing)}: {missing}"


def test_no_chinese_is_there_that_nobody_says():
    unused = set(chinese.WORDS) - set(spoken())
    assert not unused, f"{len(unused)} keys are said nowhere: {sorted(unused)}"


def test_no_key_stands_in_two_parts():
    parts = [part.WORDS for part in chinese.PARTS]
    twice = [key for n, part in enumerate(parts) for key in part if any(key in other for other in parts[n + 1 :])]
    assert not twice, f"in two files: {twice}"


@pytest.mark.parametrize("words", [chinese.WORDS, chinese.MESSAGES], ids=["words", "messages"])
def test_chinese_has_the_fields_of_its_english(words):
    other = {english: said for english, said in words.items() if not holes(said) <= holes(english)}
    assert not other, f"fields that the English does not have: {other}"
    same = [english for english, said in words.items() if said == english and PROSE.search(english)]
    assert not same, f"not translated: {same}"


def speaks(node):
    """Whether words are said in an expression: what stands before it in a table is a name, and never shown."""
    return any(isinstance(part, ast.Call) and name_of(part) in SPEAKERS for part in ast.walk(node))


def unspoken(path):
    """Prose in a file that is not said through the language module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    fine = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if name_of(node) in {*SPEAKERS, "translated"}:
                fine |= {id(part) for argument in node.args for part in ast.walk(argument)}
            fine |= {id(p) for k in node.keywords if k.arg in ERROR_FIELDS for p in ast.walk(k.value)}
        elif isinstance(node, ast.Subscript):
            fine |= {id(part) for part in ast.walk(node.slice)}  # a name in a table
        elif isinstance(node, ast.Dict):
            fine |= {id(name) for name, value in zip(node.keys, node.values, strict=True) if speaks(value)}
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            fine.add(id(node.value))  # a docstring
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in fine
        if PROSE.search(node.value) and not NOT_PROSE.search(node.value.strip())
    ]


def test_all_prose_is_said_through_the_language_module():
    assert SHOWN
    assert not {path: words for path in SHOWN if (words := unspoken(path))}


def test_the_language_is_that_of_the_speaker_then_of_who_asks():
    assert say("Overview") == "Overview"
    with speaking("zh"):
        assert say("Overview") == "概览"
        with speaking("en"):
            assert say("Overview") == "Overview"
        assert say("not in the catalogue {n}", n=3) == "not in the catalogue 3"
    try:
        language.ask(lambda: "zh")
        assert language.current() == "zh"
    finally:
        from kvlab.web import language as languages  # gives the question back to the session

        language.ask(languages.of_session)
    assert language.current() == "en"


def test_one_and_many_in_english():
    assert [plural(n, "{n} run", "{n} runs") for n in (1, 2)] == ["1 run", "2 runs"]


def test_a_message_is_recognised_with_its_values(monkeypatch):
    from kvlab.language import messages

    known = {"{n} prompts in {file}": "{file} 中有 {n} 条提示", "no prompts": "没有提示", "use {what}": "请用{what}"}
    monkeypatch.setattr(messages, "MESSAGES", known)
    messages._templates.cache_clear()
    messages.in_chinese.cache_clear()
    try:
        with speaking("zh"):
            assert translated("3 prompts in a.txt") == "a.txt 中有 3 条提示"
            assert translated("use no prompts") == "请用没有提示"
            assert translated("something else") == "something else"
        assert translated("no prompts") == "no prompts"
    finally:
        messages._templates.cache_clear()
        messages.in_chinese.cache_clear()


def test_what_is_not_a_number_is_a_dash():
    assert say("KL {kl:.3f} ± {se:.3f}, n = {n:,}", kl=0.25, se=float("nan"), n=1000) == "KL 0.250 ± –, n = 1,000"
    assert say("{a} and {b:+.0%}", a=float("nan"), b=float("inf")) == "– and +inf%"
