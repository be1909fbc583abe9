"""Everything that is shown, in a language whose words stand in brackets: what is outside of them is no word of kvlab.

The language brackets each literal part of a template, so that values stay outside: names, paths and texts of users are
never in brackets, and words that a page says without ``kvlab.language`` are outside of them too.
"""

import gettext
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from string import Formatter

import pytest
from google.protobuf.json_format import MessageToDict

from kvlab import language
from kvlab.cli import main
from kvlab.errors import KvlabError
from kvlab.host import bundled
from kvlab.host.bundled import ANALYSIS, FUNCTION
from kvlab.language import Message, speaking
from kvlab.request.align import AlignSettings
from kvlab.request.inject import InjectSettings
from kvlab.request.train import Thresholds, TrainConfig
from kvlab.results.alignment import data as alignments
from kvlab.results.alignment.page import html
from kvlab.results.certificate.data import read as read_certificate
from kvlab.results.function import data as injections
from kvlab.results.function.page import function_html
from kvlab.runs import notes, store
from kvlab.web import backend, checks
from kvlab.web import language as of_session
from kvlab.web.widgets import KEYS, LAYER_RULES, PROJECTORS, ROW_WEIGHTS, ROWS, SEARCHES, TIME_RULES
from tests import trained
from tests.finished import fused, run_of
from tests.test_pages import open_page
from tests.test_report_chinese import figures, words_of

pytestmark = [pytest.mark.page, pytest.mark.xdist_group("pages"), pytest.mark.usefixtures("worker_of_pages")]

PSEUDO = "qps"  # as it is called in the address
OPEN, CLOSE = "⁅", "⁆"
SAID = re.compile(f"{OPEN}[^{CLOSE}]*{CLOSE}")
LETTERS = re.compile("[A-Za-z\u4e00-\u9fff]{2,}")
# What is no prose: terms and units, models, names of settings with their values, of packages, files and commands.
TERMS = ["KV", "KL", "CE", "ΔCE", "CKA", "RSS", "TSS", "RoPE", "MLA", "UTF", "half", "GiB", "MiB", "KiB", "CPU", "GPU"]
TERMS += ["CSV", "HTML", "ZIP", "JSON", "kvlab"]
MODELS = ["demo/teacher-b", "demo/teacher", "demo/student", "Qwen2-7B", "TinyLlama", "qwen2", "llama"]
SETTINGS = [*AlignSettings.model_fields, *InjectSettings.model_fields, *TrainConfig.model_fields]
SETTINGS += [*Thresholds.model_fields, *(name.replace("_", " ") for name in SETTINGS)]
VALUES = [
    *TIME_RULES,
    *ROWS,
    *ROW_WEIGHTS,
    *LAYER_RULES,
    *SEARCHES,
    *PROJECTORS,
    *KEYS,
    "True",
    "False",
    "None",
    "auto",
    "cuda",
    "samples",
]
PACKAGES = ["python", "torch", "transformers", "device", "dtype", "cpu", "float32", "bfloat16", "float16"]
NAMES = sorted([*TERMS, *MODELS, *SETTINGS, *VALUES, *PACKAGES], key=len, reverse=True)
NAMED = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, NAMES))})(?!\w)")
FILES = re.compile(
    r"[\w-]+\.(csv|html|json|zip)|KVLAB_TOKEN=new|:material/\w+:|\b[0-9a-f]{64}\b|heldout-\d+-\d+(: )?|\+cpu|/tmp/\S+"
)
# What a page adds to a text of a user: what keeps it from being read as Markdown, its ground, whitespace one can see.
AROUND = re.compile(r":small\[\]|:(?:green|orange|red|gray|blue)\[\**|\\|:orange-background\[⟦|⟧\]|…")


class Bracketed(gettext.NullTranslations):
    """Each part of a template that has letters is in brackets; its fields are as they were."""

    def gettext(self, message):
        if "{" not in message or "%{" in message.replace("%{{", ""):  # what plotly fills in is no field
            return bracketed(message)
        text, words = "", ""
        for literal, name, form, conversion in Formatter().parse(message):
            words += literal  # which ends at an escaped brace, too
            if name is not None:
                field = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
                text, words = text + escaped(words) + "{" + field + "}", ""
        return text + escaped(words)

    def ngettext(self, one, many, n):
        return self.gettext(one if n == 1 else many)


def escaped(words):
    return bracketed(words).replace("{", "{{").replace("}", "}}")


def bracketed(words):
    return f"{OPEN}{words}{CLOSE}" if LETTERS.search(words) else words


@pytest.fixture
def pseudo(monkeypatch):
    """The language beside the others. Under a name of its own, for what is remembered is remembered by language."""
    catalogue = language._catalogue
    monkeypatch.setattr(language, "_catalogue", lambda name: Bracketed() if name == PSEUDO else catalogue(name))
    monkeypatch.setitem(language.LANGUAGES, PSEUDO, "⁅⁆")
    monkeypatch.setitem(of_session.SPOKEN, PSEUDO, "<script></script>")


@pytest.fixture
def only_pseudo(monkeypatch):
    """Whatever language is asked for: a command may take none."""
    monkeypatch.setattr(language, "_catalogue", lambda name: Bracketed())


@pytest.fixture(scope="module")
def sample():
    return alignments.read(ANALYSIS)


@pytest.fixture(scope="module")
def function():
    return injections.read(FUNCTION)


SHOWN = {"label", "body", "help", "placeholder", "options", "alt", "text"}  # fields of elements


def shown(app):
    """Every text of a page: labels, help, options, markdown, heads and cells of tables."""

    def texts(value, field=""):
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from texts(inner, name)
        elif isinstance(value, list):
            for inner in value:
                yield from texts(inner, field)
        elif field == "columns":
            yield from texts(list(json.loads(value).values()))
        elif field in SHOWN and isinstance(value, str) and not value.startswith("<"):
            yield value

    def walk(block):
        for child in block.children.values():
            if child.proto is not None:
                yield from texts(MessageToDict(child.proto, preserving_proto_field_name=True))
            if hasattr(child, "children"):
                yield from walk(child)

    assert not app.exception
    yield from walk(app._tree)
    for table in app.dataframe:
        yield from (cell for row in table.value.to_numpy() for cell in row if isinstance(cell, str))


class Read(HTMLParser):
    """The texts of a page of HTML that a reader sees."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.hidden = [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.hidden = tag in ("script", "style")

    def handle_endtag(self, tag):
        self.hidden = False

    def handle_data(self, data):
        if not self.hidden:
            self.texts.append(data)


def outside(text):
    return SAID.sub("\0", text).split("\0")


def unsaid(texts, data=""):
    """(what has letters outside of brackets, the whole text), but for names and what is a part of ``data``."""
    found = []
    for text in texts:
        for part in outside(FILES.sub("", AROUND.sub("", text.replace("⏎", " ").replace("␣", " ")))):
            in_data = " ".join(part.split()) in data
            if not in_data and LETTERS.search(NAMED.sub("", part)):
                found.append((part, text))
    return found


@pytest.fixture(scope="module")
def documents(sample, function):
    """All that the documents of the sample say, and what was made of them."""
    texts = [document.text for document in sample.inspected]
    texts += [text.prompt for text in function.texts]
    texts += [f"{text.prompt} {made.text}" for text in function.texts for made in text.continuations]
    certificate = read_certificate(bundled.CERTIFICATE)
    models = *certificate.teachers, certificate.student
    texts += [f"{model.name} ({model.architecture}), {model.fingerprint}" for model in models]
    texts += [certificate.id, certificate.map_id, *(f": {group.name}" for group in certificate.groups)]
    return "\n".join(" ".join(text.split()) for text in texts)


@pytest.mark.parametrize(
    ("page", "query"),
    [
        ("", {}),
        *(("alignment", {"view": view}) for view in ("heads", "layers", "timeline", "compare", "numbers")),
        *(("alignment", {"pane": pane}) for pane in ("teacher-heads", "tokens", "spectrum", "time-rules")),
        *(("function", {"view": view}) for view in ("verdict", "heads", "texts", "numbers")),
        *(("certificate", {"view": view}) for view in ("gates", "prompts", "latency", "heads")),
        *((page, {}) for page in ("validation", "runs")),
    ],
)
def test_every_word_of_a_page_is_said_through_the_catalogue(pseudo, documents, page, query):
    sample = {"run": "sample"} if page in ("alignment", "function", "certificate") else {}
    assert not unsaid(shown(open_page(page, lang=PSEUDO, **sample, **query)), documents)


def test_every_word_of_the_checks_is_said_through_the_catalogue(pseudo, monkeypatch):
    finding = {"name": Message("package {name}", name="torch"), "found": Message("none"), "remedy": Message("{n}", n=1)}
    answers = {
        "checks": [{"number": 1, "title": "头数投影", "explanation": "words", "error": "", "seconds": 0.5}],
        "doctor": [{"status": "warn", **{name: words.to_dict() for name, words in finding.items()}}],
    }
    monkeypatch.setattr(backend, "ready", lambda: True)
    monkeypatch.setattr(backend, "ask", answers.__getitem__)
    checks._examined.clear()
    texts = list(shown(open_page("checks", lang=PSEUDO)))
    checks._examined.clear()
    # The seven have Chinese titles in every language.
    assert not unsaid(text.replace("头数投影", "") for text in texts)
    assert any("torch" in part for text in texts for part in outside(text))


@pytest.mark.parametrize("page", ["alignment", "function", "certificate"])
def test_every_word_of_a_form_is_said_through_the_catalogue(pseudo, documents, page):
    button = "form-toggle" if page == "alignment" else f"{page}-form-toggle"
    app = open_page(page, run="sample", lang=PSEUDO)
    assert not unsaid(shown(app.button(key=button).click().run()), documents + FORM)


# What the form starts with: words that open a part of a text.
FORM = "reasoning: 思考： 推理： 解： answer: answer： the answer is 答案： 答： 答案是"


def test_every_word_of_the_reports_is_said_through_the_catalogue(pseudo, sample, function, documents):
    assert not unsaid(Read(html(fused(sample), PSEUDO)).texts, documents)
    assert not unsaid(Read(function_html(function, PSEUDO)).texts, documents)


def test_every_word_of_the_figures_is_said_through_the_catalogue(pseudo, sample):
    with speaking(PSEUDO):
        drawn = [words for figure in figures(sample) for words in words_of(figure)]
    assert len(drawn) > 100 and not unsaid(drawn)


class Asked:
    """Names that are words of kvlab too."""

    document, prompts, model, run, note = "done", "training", "model", "waiting", "running"


@pytest.fixture
def aligned(sample):
    """An analysis of such names."""
    first = replace(sample.inspected[0], id=Asked.document)
    notes = [Message("{n} documents of the same text", n=3), Message("Cut: {documents}", documents=[Asked.document])]
    teacher = {**sample.teacher, "name": Asked.model}
    return replace(
        sample, inspected=[first], notes=notes, teacher=teacher, teachers=[Asked.model], prompts=Asked.prompts
    )


@pytest.fixture
def tested(function):
    """A functional test of such names."""
    text = replace(function.texts[0], id=Asked.document)
    teachers = [{**function.teachers[0], "name": Asked.model}]
    return replace(function, texts=[text], teachers=teachers, prompts=Asked.prompts)


def assert_data(texts, *names):
    """Each name is there, and nowhere as a word of kvlab."""
    texts = list(texts)
    for name in names:
        assert any(re.search(rf"\b{name}\b", part) for text in texts for part in outside(text)), name
        assert not [text for text in texts if f"{OPEN}{name}{CLOSE}" in text], name


def test_names_of_users_are_no_words_of_kvlab_on_the_pages(pseudo, aligned):
    run = run_of(aligned).name
    for view in ("timeline", "numbers"):
        names = (Asked.document,) if view == "timeline" else (Asked.model, Asked.prompts)
        assert_data(shown(open_page("alignment", run=run, view=view, lang=PSEUDO)), Asked.model, *names)


def test_names_of_users_are_no_words_of_kvlab_in_reports(pseudo, aligned, tested):
    assert_data(Read(html(aligned, PSEUDO)).texts, Asked.document, Asked.model, Asked.prompts)
    assert_data(Read(function_html(tested, PSEUDO)).texts, Asked.model, Asked.prompts)


def test_a_note_and_a_name_of_a_run_are_no_words_of_kvlab(pseudo):
    folder = trained.by_hand(store.runs_root(), Asked.run)
    notes.write(folder, Asked.note)
    assert_data(shown(open_page("runs", lang=PSEUDO)), Asked.run, Asked.note)


@pytest.mark.parametrize("arguments", [["list"], ["show"], ["report"], ["report", "--format", "html"]])
def test_every_word_of_the_runs_on_the_command_line_is_said(only_pseudo, capsys, arguments):
    folder = trained.by_hand(store.runs_root(), Asked.run)
    asked = arguments if arguments == ["list"] else [arguments[0], folder.name, *arguments[1:]]
    assert main.main(["runs", *asked]) == 0
    written = capsys.readouterr().out
    texts = Read(written).texts if "html" in arguments else written.splitlines()
    names = rf"{folder.parent}|{folder.name}|\bRuntimeError\b|```bash|`{Asked.run}`|(?:^|  ){Asked.run}$"
    assert not unsaid(re.sub(rf"{names}|python -m kvlab (runs|train) [^`|⁅]*", "", text) for text in texts)
    assert any(Asked.run in text for text in texts)


def test_errors_of_the_command_line_say_their_words_and_keep_names(only_pseudo, tmp_path, capsys):
    asked = ["align", "--teacher", "demo/teacher", "--student", "demo/done", "--out", str(tmp_path)]
    assert main.main(asked) == 2
    text = capsys.readouterr().err
    assert not unsaid([text.replace("demo/done", "")]) and any("demo/done" in part for part in outside(text))


def test_an_error_of_another_process_says_its_words_and_keeps_names(pseudo):
    error = KvlabError(
        "k", expected=Message("{n} documents", n=2), found=Message("{id}", id="done"), remedy="old words, finished"
    )
    with speaking(PSEUDO):
        assert str(KvlabError.from_dict(json.loads(json.dumps(error.to_dict())))) == (
            "⁅Expected ⁆2⁅ documents⁆⁅. Found ⁆done⁅. What to do: ⁆old words, finished"
        )
