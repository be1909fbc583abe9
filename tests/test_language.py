"""Words that people read: the catalogue is complete, all that is shown is said through it, values stay as they are."""

import ast
import copy
import json
import pickle
import re
import string

import pytest

from kvlab import PACKAGE, language
from kvlab.cli import main
from kvlab.errors import PARTS, KvlabError, ModelError
from kvlab.language import Message, plural, say, speaking
from kvlab.runs import failures
from tests import catalogue
from tests.catalogue import SPEAKERS, called, spoken

PROSE = re.compile(r"[A-Za-z’']{2,} [a-z’']{2,}")
NOT_PROSE = re.compile(r"^(:material/|<style>|<)")
# The door says its few words in both languages at once; the report of a run has words of its own.
APART = {PACKAGE / "web" / "access", PACKAGE / "results" / "training"}
SHOWN = [
    path for room in ("web", "results") for path in sorted((PACKAGE / room).rglob("*.py")) if path.parent not in APART
]


def parts(text):
    """The literal parts of a template, and the names of its holes."""
    if "%{" in text.replace("%{{", ""):  # of plotly, which fills in what it finds
        return re.sub(r"%\{[^}]*\}", "", text), set(re.findall(r"%\{[^}]*\}", text))
    found = list(string.Formatter().parse(text))
    return "".join(literal for literal, *_ in found), {name for _, name, *_ in found if name is not None}


@pytest.fixture(scope="module")
def entries():
    """(words, words for many or "", Chinese) of the catalogue."""
    found = []
    for entry in catalogue.catalogue():
        if entry.id:
            one, many = entry.id if isinstance(entry.id, tuple) else (entry.id, "")
            found.append((one, many, entry.string[0] if isinstance(entry.string, tuple) else entry.string))
    return found


def test_every_word_that_is_said_has_chinese(entries):
    """A template that is nothing but values and signs needs none."""
    missing = [one for one, many, chinese in entries if not chinese and re.search("[A-Za-z]", parts(many or one)[0])]
    assert not missing, "\n".join(missing)


def test_the_catalogue_has_what_is_said_and_nothing_else(entries):
    said = {(one, many) for one, many, _ in spoken()}
    assert {(one, many) for one, many, _ in entries} == said and len(said) > 1000


def test_chinese_has_the_holes_of_its_english(entries):
    assert not [
        (many or one, chinese) for one, many, chinese in entries if not parts(chinese)[1] <= parts(many or one)[1]
    ]
    assert not [one for one, _, chinese in entries if one == chinese and PROSE.search(one)]


def test_the_compiled_catalogue_is_that_of_the_text():
    assert catalogue.MO.read_bytes() == catalogue.compiled(catalogue.catalogue())


def test_bold_words_are_bold_without_spaces_around_them(entries):
    """Markdown does not close ** behind a punctuation mark that a letter follows: **甲：**乙 would show its stars."""
    for _, _, text in entries:
        pieces = text.split("**")
        for at in range(1, len(pieces) - 1, 2):
            before, bold, after = pieces[at - 1][-1:], pieces[at], pieces[at + 1][:1]
            assert not (bold[-1] in "，。：；！？）”" and (after.isalnum() or after == "{")), text
            assert not (bold[0] in "（“" and (before.isalnum() or before == "}")), text


def speaks(node):
    """Whether words are said in an expression: what stands before it in a table is a name, and never shown."""
    return any(called(part) in SPEAKERS for part in ast.walk(node))


def unspoken(tree):
    """Prose that is not said through the language module."""
    fine = set()
    for node in ast.walk(tree):
        if called(node) in SPEAKERS:
            fine |= {id(part) for argument in node.args for part in ast.walk(argument)}
        elif called(node) == "Field":  # the words of a schema, for who writes a program
            fine |= {id(keyword.value) for keyword in node.keywords if keyword.arg == "description"}
        elif isinstance(node, ast.Subscript):
            fine |= {id(part) for part in ast.walk(node.slice)}  # a name in a table
        elif isinstance(node, ast.Dict):
            fine |= {id(name) for name, value in zip(node.keys, node.values, strict=True) if speaks(value)}
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            fine.add(id(node.value))  # a docstring
        elif isinstance(node, ast.Raise) and "Error" in ast.unparse(node) and not raises_known(node):
            fine |= {id(part) for part in ast.walk(node)}  # of a mistake in the code, which nobody reads on a page
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in fine
        if PROSE.search(node.value) and not NOT_PROSE.search(node.value.strip())
    ]


def raises_known(node):
    """An error with an expectation, what was found and a remedy."""
    return isinstance(node.exc, ast.Call) and {keyword.arg for keyword in node.exc.keywords} >= set(PARTS)


def test_all_prose_of_pages_and_results_is_said_through_the_language_module():
    assert len(SHOWN) > 50
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SHOWN}
    assert not {path: words for path, tree in trees.items() if (words := unspoken(tree))}


def test_the_parts_of_every_error_are_messages_or_values():
    """Words in quotes there would be shown in English, whoever reads them."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for keyword in node.keywords if isinstance(node, ast.Call) else ():
                if keyword.arg in PARTS:
                    value = keyword.value
                    literal = [part for part in ast.walk(value) if isinstance(part, ast.Constant)]
                    prose = [part.value for part in literal if isinstance(part.value, str) and PROSE.search(part.value)]
                    if prose and not speaks(value):
                        found.append((path.name, value.lineno, prose))
    assert not found


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


def test_one_and_many():
    assert [plural(n, "{n} run", "{n} runs") for n in (1, 2)] == ["1 run", "2 runs"]
    message = Message.plural(2, "{n} layer of {heads}", "{n} layers of {heads}", heads="done")
    assert str(message) == "2 layers of done"
    with speaking("zh"):
        assert "done" in message and "layers" not in message


def test_what_is_not_a_number_is_a_dash():
    assert say("KL {kl:.3f} ± {se:.3f}, n = {n:,}", kl=0.25, se=float("nan"), n=1000) == "KL 0.250 ± –, n = 1,000"
    assert say("{a} and {b:+.0%}", a=float("nan"), b=float("inf")) == "– and +inf%"


NESTED = Message(
    "Expected {expected}. Found {found}. What to do: {remedy}",
    expected=Message.plural(1, "{n} layer of {heads}", "{n} layers of {heads}", heads="Overview"),
    found=["Overview", Message("none"), 3, 0.25, True, None],
    remedy="none",
)


def test_a_message_translates_what_is_inside_it_and_no_value():
    assert str(NESTED).startswith("Expected 1 layer of Overview. Found Overview, none, 3, 0.25, True")
    with speaking("zh"):
        spoken_words = str(NESTED)
    assert spoken_words.startswith("期望：") and "Overview" in spoken_words and spoken_words.endswith("none")
    assert re.search("Overview[、，]无[、，]3", spoken_words)


@pytest.mark.parametrize(
    "there_and_back",
    [
        lambda m: Message.read(json.loads(json.dumps(m.to_dict()))),
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
    ],
    ids=["json", "copy", "pickle"],
)
def test_a_message_comes_back_as_it_was(there_and_back):
    back = there_and_back(NESTED)
    assert back == NESTED and hash(back) == hash(NESTED)
    unknown = there_and_back(Message("{a:.2f} of {b}", a=float("nan"), b=2))
    assert str(unknown) == "– of 2"
    for code in ("en", "zh"):
        with speaking(code):
            assert str(back) == str(NESTED)


def test_finished_words_of_older_files_are_shown_as_they_are():
    for words in ("Overview", "3 documents of the same text", "{n} is no hole", ""):
        with speaking("zh"):
            assert str(Message.read(words)) == words
    assert str(Message.read(None)) == ""
    error = KvlabError.from_dict({"kind": "k", "expected": "Overview", "found": "none", "remedy": "{x}"})
    with speaking("zh"):
        assert str(error) == "期望：Overview。实际：none。处理办法：{x}"


def test_an_error_says_its_parts_in_the_language_of_the_reader():
    error = ModelError("k", expected=Message("Overview"), found="done", remedy=Message("none"))
    back = ModelError.from_dict(json.loads(json.dumps(error.to_dict())))
    assert str(back) == str(error) == "Expected Overview. Found done. What to do: none"
    with speaking("zh"):
        assert str(back) == str(error) == "期望：概览。实际：done。处理办法：无"


def test_the_remedy_for_a_missing_package_is_said_in_chinese():
    failure = failures.advise(ModuleNotFoundError("No module named 'peft'", name="peft"), None, "loading")
    with speaking("zh"):
        assert "安装它：pip install peft" in str(failure.remedy)


def test_the_command_says_its_errors_in_the_language_asked_for(tmp_path, capsys):
    asked = ["align", "--teacher", "demo/teacher", "--student", "demo/nobody", "--out", str(tmp_path)]
    assert [main.main(asked), main.main([*asked, "--language", "zh"])] == [2, 2]
    english, said = capsys.readouterr().err.splitlines()
    assert english.startswith("kvlab: Expected one of the bundled models: demo/")
    assert said.startswith("kvlab: 期望：自带模型之一：demo/") and "没有模型 'demo/nobody'" in said
