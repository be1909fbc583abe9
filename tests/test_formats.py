"""The data set formats that people have → documents: every part there, and what was read is said."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlab.errors import PromptError
from kvlab.request.formats import FORMATS, KNOWN, Form
from kvlab.request.prompts import Limits, Reading, read_upload
from tests.test_prompts import cut_out, jsonl, parquet, refused

ASKED, SAID = "What is 1 plus 2?", "Adding 1 and 2. 3"
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}


def parts(reading: Reading) -> list[list[tuple[str, str]]]:
    """The segments of each document with their text."""
    cut = []
    for document in reading.documents:
        written = document.text.encode()
        cut.append([(part.name, written[part.start : part.end].decode()) for part in document.segments])
        starts, ends = [part.start for part in document.segments], [part.end for part in document.segments]
        assert not starts or [0, *ends] == [*starts, len(written)]  # they tile the text
    return [segments for segments in cut if segments]


ASKS, SAYS, LIES = (
    {"role": role, "content": text} for role, text in (("user", "a"), *(("assistant", c) for c in "bc"))
)
S = [("system", "s\n"), ("prompt", "a\n")]
RECORDS = [
    (
        "alpaca",
        {"instruction": ASKED, "input": "Use words.", "output": SAID, "system": "", "history": []},
        [("prompt", f"{ASKED}\nUse words.\n"), ("answer", SAID)],
    ),
    (
        "alpaca",
        {"instruction": "b", "input": "", "output": "c", "system": "s", "history": [["q", "r"]]},
        [("system", "s\n"), ("user", "q\n"), ("assistant", "r\n"), ("prompt", "b\n"), ("answer", "c")],
    ),
    (
        "alpaca",  # Dolly
        {"instruction": "b", "context": "About c.", "response": "d"},
        [("prompt", "b\nAbout c.\n"), ("answer", "d")],
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}]},
        [("system", "s\n"), ("user", "a")],
    ),
    (
        "sharegpt",
        {
            "system": "s",
            "tools": '[{"name": "add"}]',
            "conversations": [
                {"from": "human", "value": ASKED},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                {"from": "observation", "value": "3"},
                {"from": "gpt", "value": "3"},
            ],
        },
        [
            ("system", 's\n[{"name": "add"}]\n'),
            ("user", f"{ASKED}\n"),
            ("assistant", '{"name": "add", "arguments": {"a": 1}}\n'),
            ("tool", "3\n"),
            ("assistant", "3"),
        ],
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "developer", "content": "s"},
                {"role": "user", "content": "a\nb"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "3"},
                {"role": "assistant", "reasoning_content": "r", "content": "3"},
            ]
        },
        [
            ("system", "s\n"),
            ("user", "a\nb\n"),
            ("assistant", '{"name": "add", "arguments": {"a": 1, "b": 2}}\n'),
            ("tool", "3\n"),
            ("reasoning", "r\n"),
            ("assistant", "3"),
        ],
    ),
    (
        "messages",  # TRL
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
        [("user", "a\n"), ("assistant", "b")],
    ),
    ("messages", {"prompt": [{"role": "user", "content": "a"}], "answer": 3}, [("user", "a\n"), ("assistant", "3")]),
    ("prompt", {"prompt": ASKED, "completion": " 3"}, [("prompt", ASKED), ("answer", " 3")]),
    ("prompt", {"prompt": "Q", "completion": "A"}, [("prompt", "Q"), ("answer", "A")]),  # TRL puts nothing between
    ("prompt", {"prompt": "Q", "response": "A"}, [("prompt", "Q\n"), ("answer", "A")]),
    ("prompt", {"prompt": "Q", "response": " A"}, [("prompt", "Q"), ("answer", " A")]),
    (
        "prompt",
        {"prompt": "Q", "thinking": "r", "output": "A"},
        [("prompt", "Q\n"), ("reasoning", "r\n"), ("answer", "A")],
    ),
    (
        "qa",
        {"question": ASKED, "answer": "Adding 1 and 2.\n#### 3"},
        [("prompt", f"{ASKED}\n"), ("reasoning", "Adding 1 and 2.\n"), ("answer", "#### 3")],
    ),
    ("qa", {"question": "q", "answer": "a"}, [("prompt", "q\n"), ("answer", "a")]),
    # TRL's preferences: nothing stands between prompt and chosen
    ("preference", {"prompt": "Q", "chosen": " A", "rejected": " B"}, [("prompt", "Q"), ("answer", " A")]),
    ("preference", {"prompt": "Q", "chosen": "A", "rejected": "B"}, [("prompt", "Q"), ("answer", "A")]),
    ("preference", {"prompt": [ASKS], "chosen": [SAYS], "rejected": [LIES]}, [("user", "a\n"), ("assistant", "b")]),
    ("preference", {"chosen": [ASKS, SAYS], "rejected": [ASKS, LIES]}, [("user", "a\n"), ("assistant", "b")]),
    (
        "preference",  # UltraFeedback: the whole chat twice, and its beginning
        {"prompt": "a", "messages": [ASKS, SAYS], "chosen": [ASKS, SAYS], "rejected": [ASKS, LIES]},
        [("user", "a\n"), ("assistant", "b")],
    ),
    (
        "preference",
        {"system": "s", "prompt": "a", "chosen": [SAYS], "rejected": [LIES]},
        [("system", "s\n"), ("user", "a\n"), ("assistant", "b")],
    ),
    ("preference", {"prompt": [ASKS], "chosen": "b", "rejected": "c"}, [("user", "a\n"), ("assistant", "b")]),
    (
        "preference",  # LLaMA-Factory
        {"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt", "value": "b"}, "rejected": LIES},
        [("user", "a\n"), ("assistant", "b")],
    ),
    (
        "preference",
        {"instruction": "a", "input": "i", "chosen": "b", "rejected": "c"},
        [("prompt", "a\ni\n"), ("answer", "b")],
    ),
    ("preference", {"system": "s", "question": "a", "chosen": "b", "rejected": "c"}, [*S, ("answer", "b")]),
]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize(("name", "record", "expected"), RECORDS)
def test_every_part_of_a_record_is_read(name, record, expected, suffix):
    packed = {
        ".jsonl": lambda: jsonl(record),
        ".json": lambda: json.dumps([record], indent=1).encode(),
        ".jsonl.gz": lambda: gzip.compress(jsonl(record)),
        ".parquet": lambda: parquet(**{key: [value] for key, value in record.items()}),
    }
    reading = read_upload(f"a{suffix}", packed[suffix]())
    assert parts(reading) == [expected]
    assert reading.formats == {name: 1} and reading.problems == [] and reading.left_out == []


def test_what_was_recognised_is_said_with_the_roles_and_what_is_left_out():
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"messages": [*chat, {"role": "user", "content": str(n)}], "source": "web", "score": 5} for n in range(40)]
    said = [str(words) for words in read_upload("a.jsonl", jsonl(*rows)).recognised()]
    assert said == ["messages, 40 documents", "3 roles: system, user, assistant", "not read: 'source', 'score'"]
    said = [str(words) for words in read_upload("a.csv", b"id,text,level\n7,a,hard\n").recognised()]
    assert said == ["plain text, 1 document", "not read: 'level'"]


def test_of_preferences_the_rejected_answer_is_said_not_to_be_read():
    row = {"prompt": "Q", "chosen": " A", "rejected": " B", "score_chosen": 9}
    for name, data in {"a.jsonl": jsonl(row), "a.csv": b"prompt,chosen,rejected,score_chosen\nQ, A, B,9\n"}.items():
        reading = read_upload(name, data)
        assert [document.text for document in reading.documents] == ["Q A"]
        said = "preference: prompt and chosen; rejected not read, 1 document", "2 parts: prompt, answer"
        assert [str(words) for words in reading.recognised()] == [*said, "not read: 'score_chosen'"]
        assert parts(read_upload(name, data, format="prompt")) == [[("prompt", "Q")]]
    both = {"prompt": "other", "messages": [ASKS, SAYS], "chosen": [ASKS, SAYS], "rejected": [ASKS, LIES]}
    assert read_upload("a.jsonl", jsonl(both)).left_out == ["prompt"]
    reading = read_upload("a.jsonl", jsonl({"chosen": "Human: a. Assistant: b", "rejected": "Human: a. Assistant: c"}))
    assert (reading.documents[0].text, reading.documents[0].segments) == ("Human: a. Assistant: b", ())


def test_a_table_of_a_known_format_needs_no_column():
    reading = read_upload("a.csv", b"instruction,input,output\na,b,c\nd,,e\n")
    assert (reading.column, parts(reading)) == (
        None,
        [[("prompt", "a\nb\n"), ("answer", "c")], [("prompt", "d\n"), ("answer", "e")]],
    )


@pytest.mark.parametrize(
    ("record", "found", "remedy"),
    [
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "'messages', 'prompt'", "messages | prompt"),
        ({"prompt": "a", "completion": "b", "response": "c"}, "'completion', 'response'", "completion | response"),
        ({"instruction": "a", "output": "b", "question": "c", "answer": "d"}, "'instruction', 'question'", "alpaca"),
    ],
)
def test_an_ambiguous_record_is_asked_about(record, found, remedy):
    error = refused("a.jsonl", jsonl(record))
    assert error.kind == "prompts-ambiguous" and found in error.found and remedy in error.remedy


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (Form("messages"), [("user", "m")]),
        (Form("prompt", answer="response"), [("prompt", "p\n"), ("answer", "r")]),
        (Form("text"), []),
        (Form(column="note", answer="response"), [("prompt", "n\n"), ("answer", "r")]),
        (Form(column="turns"), [("user", "t")]),
    ],
)
def test_what_is_recognised_can_be_overruled(form, expected):
    record = {"prompt": "p", "messages": [{"role": "user", "content": "m"}], "response": "r", "completion": "c"}
    record |= {"text": "x", "note": "n", "turns": [{"from": "human", "value": "t"}]}
    for reading in (
        read_upload("a.jsonl", jsonl(record), form=form),
        read_upload("a.parquet", parquet(**{key: [value] for key, value in record.items()}), form=form),
    ):
        assert parts(reading) == ([expected] if expected else [])
        assert expected or reading.documents[0].text == "x"


def test_a_column_can_be_read_alone():
    data = b"question,answer\nq,a\n"
    assert parts(read_upload("a.csv", data)) == [[("prompt", "q\n"), ("answer", "a")]]
    for name in ("question", "answer"):
        reading = read_upload("a.csv", data, form=Form("text", name))
        assert [document.text for document in reading.documents] == [name[0]] and reading.formats == {"text": 1}


def test_text_in_pieces_is_put_together():
    turn = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert parts(read_upload("a.jsonl", jsonl({"messages": [turn]}))) == [[("user", "a\nb")]]


def test_a_format_that_is_not_there_is_said():
    for name in sorted(set(FORMATS) - {"auto", "prompt"}):
        error = refused("a.jsonl", jsonl({"prompt": "a"}), form=Form(name))
        assert error.kind == "prompts-no-field" and "'prompt'" in error.found
    assert refused("a.txt", b"a", form=Form("alpaca")).kind == "prompts-no-column"


@pytest.mark.parametrize(
    ("turns", "kind"),
    [
        ("[]", "no-turns"),
        ([{"role": "narrator", "content": "a"}], "no-turns"),
        (["a"], "no-turns"),
        ([{"role": "user", "content": 5.5}], "not-text"),
        ([{"role": "assistant", "content": {"a": 1}, "tool_calls": [CALL]}], "not-text"),
        ([{"role": "assistant", "tool_calls": True}], "no-turns"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "not-text"),
        ([{"role": "user", "content": " "}], "empty-document"),
        ([], "empty-document"),
    ],
)
def test_turns_that_cannot_be_read_are_named(turns, kind):
    good = {"messages": [{"role": "user", "content": "good"}]}
    reading = read_upload("a.jsonl", jsonl(good, {"messages": turns}))
    assert [(str(p.where), p.kind) for p in reading.problems] == [("line 2", kind)]


TURN = ("role", "content", "from", "value", "tool_calls", "function", "name", "arguments", "text", "type", "thinking")
ROLE_NAMES = st.sampled_from(["user", "assistant", "human", "gpt", "tool", "", "a\nb"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ROLE_NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TURN), inner, max_size=4),
    max_leaves=8,
)
TURNS = st.lists(st.fixed_dictionaries({"role": ROLE_NAMES}, optional=dict.fromkeys(TURN[1:], VALUES)), max_size=3)


@given(
    st.lists(st.dictionaries(st.sampled_from(KNOWN), VALUES | TURNS, max_size=4), min_size=1, max_size=3)
    | st.lists(st.fixed_dictionaries({"messages": TURNS}), min_size=1, max_size=3),
    st.sampled_from(list(FORMATS)),
    st.sampled_from([None, "prompt", "messages", "answer"]),
    st.sampled_from([".jsonl", ".json"]),
)
def test_no_record_breaks_a_format(rows, name, column, suffix):
    data = json.dumps(rows).encode() if suffix == ".json" else jsonl(*rows)
    try:
        reading = read_upload(f"a{suffix}", data, form=Form(name, column))
    except PromptError as error:
        assert error.kind.startswith("prompts-") and str(error)
    else:
        assert sum(reading.formats.values()) == len(reading.documents) and all(map(str, reading.recognised()))
        parts(reading)


# ---- files of JSON, packed files, Markdown


@pytest.mark.parametrize(
    ("data", "texts", "problems"),
    [
        (b'\xef\xbb\xbf[\n {"text": "a"},\n {"text": "b"}\n]\n', ["a", "b"], []),
        (b'{"data": [{"text": "a"}, {"text": "b"}], "version": 1}', ["a", "b"], []),
        (b'{"text": "a"}\n{"text": "b"}\n', ["a", "b"], []),
        (b'{\n "text": "a"\n}', ["a"], []),
        (b'[{"text": "a"}, 5, {"text": "b"}]', ["a", "b"], [("item 2", "not-object")]),
        (b'[{"text": "a"}, {"text": }, {"text": "b"}]', ["a"], [("item 2", "broken-json")]),
        (b'[{"text": "a"} {"text": "b"}]', ["a"], [("item 2", "broken-json")]),
        (b'[{"text": "a"}', ["a"], [("item 2", "broken-json")]),
    ],
)
def test_json_files(data, texts, problems):
    reading = read_upload("a.json", data)
    assert [document.text for document in reading.documents] == texts
    assert [(str(problem.where), problem.kind) for problem in reading.problems] == problems
    assert reading.documents[0].id in ("item-1", "line-1")


def test_numbers_of_a_json_array_keep_their_spelling():
    assert cut_out(read_upload("a.json", b'[{"prompt": "a", "answer": 42.0}]').documents[0])["answer"] == "42.0"


@pytest.mark.parametrize("data", [b"[", b"[]", b"[}", b"{", b"5", b'"a"', b"", b"[" * 100_000, b"{}", b"[,]", b"[5"])
def test_json_that_holds_no_document_is_refused(data):
    with pytest.raises(PromptError):
        read_upload("a.json", data)


def test_packed_files_are_unpacked_up_to_the_limit():
    assert read_upload("a.TXT.GZ", gzip.compress(b"one\n\ntwo")).documents[1].text == "two"
    bomb = gzip.compress(b"x" * 3_000_000)
    assert refused("a.txt.gz", bomb, limits=Limits(bytes=2**20)).kind == "prompts-too-large"
    for data in (b"one", gzip.compress(b"one" * 999)[:-9], b"\x1f\x8b\x08\x00" + b"\xff" * 20):
        assert refused("a.txt.gz", data).kind == "prompts-broken-gzip"
    assert refused("a.gz", gzip.compress(b"one")).kind == "prompts-unknown-extension"


def test_markdown_is_read_as_paragraphs():
    reading = read_upload("notes.md", b"# Title\n\n- one\n- two\n")
    assert [document.text for document in reading.documents] == ["# Title", "- one\n- two"]


# ---- what spreadsheets and editors save


@pytest.mark.parametrize(
    "data",
    [
        '\ufeff"prompt, the question";"answer"\r\n"1, 2?";"3"\r\n"b; c";"d"\r\n',
        'sep=;\r\n"prompt, the question";answer\r\n1, 2?;3\r\n"b; c";d\r\n',
        '"sep=;"\n"prompt, the question";answer\n1, 2?;3\n"b; c";d\n',
        '"sep=\t"\n"prompt, the question"\tanswer\n1, 2?\t3\nb; c\td\n',
        "prompt, the question;answer\n1, 2?;3\nb d;d\n".replace("b d", '"b; c"'),
    ],
)
def test_spreadsheets_of_other_countries(data):
    reading = read_upload("a.csv", data.encode())
    assert reading.columns == ["prompt, the question", "answer"] and reading.problems == []
    assert parts(reading) == [[("prompt", "1, 2?\n"), ("answer", "3")], [("prompt", "b; c\n"), ("answer", "d")]]


def test_lines_of_a_file_that_says_its_sign_are_counted_from_the_first():
    reading = read_upload("a.csv", b"sep=;\nprompt;answer\na;b;c\nd;e\n")
    assert "row 1 (line 3)" in reading.problems[0].message


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("It’s the “smart” quote.", "cp1252", "Windows-1252"),
        ("Où est la bibliothèque? Déjà vu, naïve café.", "latin-1", "ISO-8859-1"),
        ("Schöne Grüße aus München, 3 Äpfel.", "latin-1", "ISO-8859-1"),
        ("小明有蘋果，一共有幾個？", "big5", "Big5"),
        ("小明有3个苹果，又买了5个，一共有几个？", "gbk", "GBK"),
        ("これはテストです。リンゴはいくつありますか", "shift_jis", "Shift-JIS"),
        ("사과는 모두 몇 개입니까", "euc_kr", "EUC-KR"),
        ("Сколько яблок у Маши всего?", "cp1251", "Windows-1251"),
    ],
)
def test_an_encoding_is_named_as_what_it_is(text, encoding, named):
    files = {
        "a.txt": f"good\n\n{text}",
        "a.jsonl": f'{{"text": "good"}}\n{{"text": "{text}"}}',
        "a.csv": f'prompt\ngood\n"{text}"\n',
        "a.json": f'[{{"text": "{text}"}}]',
    }
    for name, content in files.items():
        data = content.encode(encoding)
        try:
            (problem,) = (problem.message for problem in read_upload(name, data).problems)
        except PromptError as error:
            problem = error.message
        assert f"looks like {named}" in problem and f"iconv -f {named} -t UTF-8" in problem
