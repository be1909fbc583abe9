"""Uploads, pasted text and samples → documents: exact spans, and a named reason for all that is refused."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlab.errors import PromptError
from kvlab.language import Message
from kvlab.request import prompts
from kvlab.request.formats import PARTS
from kvlab.request.prompts import (
    Cut,
    Limits,
    read_file,
    read_prompts,
    read_upload,
    safe_name,
    samples,
    tabular_columns,
    write_prompts,
)
from kvlab.shapes import Document, Segment
from kvlab.web.prompts_form import Pasted


def cut_out(document: Document) -> dict[str, str]:
    """The parts as their segments cut them, without the newline that joins a part to the next."""
    data = document.text.encode()
    parts = [data[segment.start : segment.end].decode() for segment in document.segments]
    parts = [part.removesuffix("\n") for part in parts[:-1]] + parts[-1:]
    return dict(zip([segment.name for segment in document.segments], parts, strict=True))


def read_pasted(text, **options):
    return read_upload(Pasted.name, Pasted(text).getvalue(), **options)


def jsonl(*rows: object) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def parquet(**columns: object) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def texts(reading: prompts.Reading) -> list[str]:
    return [document.text for document in reading.documents]


def problems(reading: prompts.Reading) -> list[tuple[str, str]]:
    return [(str(problem.where), problem.kind) for problem in reading.problems]


def refused(filename: str, data: bytes, **options: object) -> PromptError:
    with pytest.raises(PromptError) as caught:
        read_upload(filename, data, **options)
    return caught.value


# ---- documents and their segments


def test_segments_cut_the_text_into_the_fields():
    row = {"id": "apples", "prompt": "小明有3个苹果🍎", "reasoning": "3 + 2\n= 5 👩‍👧", "answer": "五"}
    (document,) = read_upload("a.jsonl", jsonl(row)).documents
    assert document == Document(
        "apples",
        "小明有3个苹果🍎\n3 + 2\n= 5 👩‍👧\n五",
        (Segment("prompt", 0, 24), Segment("reasoning", 24, 46), Segment("answer", 46, 49)),
    )
    assert cut_out(document) == {"prompt": row["prompt"], "reasoning": row["reasoning"], "answer": "五"}


def test_absent_blank_and_null_parts_are_left_out():
    rows = [
        {"prompt": "a"},
        {"prompt": "b", "answer": "c", "reasoning": None},
        {"prompt": "d", "reasoning": " ", "answer": ""},
        {"text": "e", "answer": "not of this document"},
        {"prompt": None, "text": "f"},
    ]
    documents = read_upload("a.jsonl", jsonl(*rows)).documents
    assert [(document.text, cut_out(document) if document.segments else {}) for document in documents] == [
        ("a", {"prompt": "a"}),
        ("b\nc", {"prompt": "b", "answer": "c"}),
        ("d", {"prompt": "d"}),
        ("e", {}),
        ("f", {}),
    ]


field = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)
fields = st.fixed_dictionaries({"prompt": field}, optional={"reasoning": field, "answer": field})


@given(st.lists(fields, min_size=1, max_size=5), st.booleans())
def test_random_fields_survive_json_and_segments(rows, escaped):
    data = "\r\n".join(json.dumps(row, ensure_ascii=escaped) for row in rows).encode()
    reading = read_upload("a.jsonl", data)
    distinct = list({"\n".join(row[part] for part in PARTS if part in row): row for row in rows})
    assert texts(reading) == distinct
    assert reading.problems == [] and reading.duplicates == len(rows) - len(distinct)
    for document in reading.documents:
        starts = [segment.start for segment in document.segments]
        ends = [segment.end for segment in document.segments]
        assert [0, *ends] == [*starts, len(document.text.encode())]  # they tile the text
    if len(distinct) == len(rows):
        assert [cut_out(document) for document in reading.documents] == [
            {part: row[part] for part in PARTS if part in row} for row in rows
        ]


@given(
    st.binary(max_size=200), st.sampled_from(["a.txt", "a.jsonl", "a.csv", "a.parquet", "a.md", "a.json", "a.json.gz"])
)
def test_no_bytes_break_a_reader(data, filename):
    try:
        reading = read_upload(filename, data)
    except PromptError as error:
        assert error.kind.startswith("prompts-")
    else:
        assert reading.documents and all(text.strip() for text in texts(reading))
        shown = [str(part) for problem in reading.problems for part in (problem.where, problem.message)]
        "".join([*texts(reading), *(document.id for document in reading.documents), *shown]).encode()


def test_answers_may_be_numbers_and_keep_their_spelling():
    data = b'{"prompt": "a", "answer": 42.0}\n{"prompt": "b", "answer": -7}\n{"prompt": "c", "answer": 1%s}' % (
        b"0" * 5000
    )
    assert texts(read_upload("a.jsonl", data)) == ["a\n42.0", "b\n-7", "c\n1" + "0" * 5000]


def test_ids_are_given_ones_where_usable_else_the_place():
    given_ids = ["q1", 7, "q1", "", "  ", None, True, 1.5, ["x"], "a\x00b\u202e\nc", "x" * 81, "line-13", "y" * 80]
    rows = [{"id": name, "prompt": f"p{n}"} for n, name in enumerate(given_ids)]
    reading = read_upload("a.jsonl", jsonl(*rows))
    assert [document.id for document in reading.documents] == [
        *("q1", "7", "line-3", "line-4", "line-5", "line-6", "line-7", "line-8", "line-9", "abc", "line-11"),
        *("line-13", "y" * 80),
    ]
    taken = read_upload("a.jsonl", jsonl({"id": "line-2", "text": "a"}, {"text": "b"}))
    assert [document.id for document in taken.documents] == ["line-2", "line-2-2"]


def test_duplicates_are_counted_and_left_out():
    reading = read_upload("a.jsonl", jsonl({"text": "a\nb"}, {"prompt": "a", "answer": "b"}, {"text": "c"}))
    assert (texts(reading), reading.duplicates) == (["a\nb", "c"], 1)


@pytest.mark.parametrize(
    ("limit", "kept", "segments"),
    [
        (3, "问题🍎", [("prompt", 0, 10)]),
        (4, "问题🍎\n", [("prompt", 0, 11)]),
        (5, "问题🍎\n想", [("prompt", 0, 11), ("reasoning", 11, 14)]),
        (8, "问题🍎\n想法\n答", [("prompt", 0, 11), ("reasoning", 11, 18), ("answer", 18, 21)]),
    ],
)
def test_long_documents_are_cut_between_characters_and_listed(limit, kept, segments):
    rows = [{"id": "long", "prompt": "问题🍎", "reasoning": "想法", "answer": "答案"}, {"prompt": "短"}]
    reading = read_upload("a.jsonl", jsonl(*rows), limits=Limits(characters=limit))
    assert texts(reading) == [kept, "短"]
    assert reading.documents[0].segments == tuple(Segment(*segment) for segment in segments)
    assert reading.cut == [Cut("long", Message("line {n}", n=1), characters=9, kept=limit)]


def test_a_document_of_the_exact_limit_is_not_cut():
    assert read_pasted("abc", limits=Limits(characters=3)).cut == []


# ---- plain text


def test_text_is_separated_by_blank_lines_whatever_the_line_ends():
    data = "\ufeff  one\r\nstill one\r\n \t\r\n\r\n二\u2028的\r\n".encode()
    reading = read_upload("A.TXT", data)
    assert [(d.id, d.text, d.segments) for d in reading.documents] == [
        ("paragraph-1", "  one\nstill one", ()),
        ("paragraph-2", "二\u2028的", ()),
    ]
    assert read_pasted(data.decode()) == reading


def test_a_wrongly_encoded_line_of_text_costs_only_itself():
    data = b"one\nhere\n\n" + "中文".encode("gbk") + b"\nrest of two\n\nthree\na NUL \0 here"
    reading = read_upload("a.txt", data)
    assert texts(reading) == ["one\nhere", "rest of two", "three"]
    assert [d.id for d in reading.documents] == ["paragraph-1", "paragraph-2", "paragraph-3"]
    assert problems(reading) == [("line 4", "wrong-encoding"), ("line 8", "nul-bytes")]
    assert "byte 0xD6 at byte offset 10 (line 4), which is not UTF-8" in reading.problems[0].message
    assert "iconv -f GBK -t UTF-8" in reading.problems[0].message
    assert "a NUL byte at byte offset 40 (line 8)" in reading.problems[1].message


def test_byte_offsets_are_those_of_the_file():
    data = b"\xef\xbb\xbfgood\r\n\r\nbad \xff\r\n"
    assert data.index(b"\xff") == 15
    assert "byte offset 15 (line 3)" in read_upload("a.txt", data).problems[0].message
    assert str(refused("a.jsonl", b"\xef\xbb\xbf\xff").found).endswith(
        "byte 0xFF at byte offset 3 (line 1), which is not UTF-8"
    )


def test_half_a_character_in_pasted_text_is_refused():
    assert problems(read_pasted("good\n\nbad \ud800")) == [("line 3", "wrong-encoding")]


# ---- JSON lines


BAD_LINES = [
    (b'{"prompt": "a"', "broken-json", "Expecting ',' delimiter at character 15"),
    (b'{"prompt": NaN}', "broken-json", "NaN is not JSON"),
    (b"[" * 100_000, "broken-json", "brackets nested too deep"),
    (b'[{"prompt": "a"}]', "not-object", """Found a list: '[{"prompt": "a"}]'."""),
    (b'"a"', "not-object", """Found a string: '"a"'."""),
    (b"{}", "no-field", "Found no field."),
    (b'{"question": "a", "reply": "b"}', "no-field", "Found the fields 'question', 'reply'."),
    (b'{"prompt": 5}', "not-text", 'Expected text in "prompt". Found a number: 5.'),
    (b'{"text": ["a"]}', "not-text", "Expected text in \"text\". Found a list: ['a']."),
    (b'{"prompt": "a", "reasoning": 5}', "not-text", 'Expected text in "reasoning". Found a number'),
    (b'{"prompt": "a", "answer": {"b": 1}}', "not-text", 'text in "answer" (or a number). Found an object'),
    (b'{"prompt": "a", "answer": true}', "not-text", "Found true or false: True."),
    (b'{"prompt": " \\n", "answer": "b"}', "empty-document", 'text in "prompt". Found nothing but blanks.'),
    (b'{"prompt": "ab\\ud800"}', "lone-surrogate", "half of one (\\ud800) at character 3"),
    (b'{"prompt": "a\\u0000"}', "nul-bytes", "a NUL character at character 2"),
    (b'{"prompt": "\xd6\xd0"}', "wrong-encoding", "byte 0xD6 at byte offset 30 (line 2)"),
    (b'{"prompt": "\0"}', "nul-bytes", "a NUL byte at byte offset 30 (line 2)"),
]


@pytest.mark.parametrize(("line", "kind", "message"), BAD_LINES, ids=[kind for _, kind, _ in BAD_LINES])
def test_a_bad_json_line_is_named_and_the_others_are_kept(line, kind, message):
    reading = read_upload("a.jsonl", b'{"prompt": "one"}\n' + line + b'\n\n{"text": "four"}\n')
    assert [(d.id, d.text) for d in reading.documents] == [("line-1", "one"), ("line-4", "four")]
    assert problems(reading) == [("line 2", kind)]
    assert message in reading.problems[0].message
    assert "What to do:" in reading.problems[0].message


@pytest.mark.parametrize(("line", "kind", "message"), BAD_LINES[:-1], ids=[kind for _, kind, _ in BAD_LINES[:-1]])
def test_a_file_with_nothing_good_is_refused_for_its_reason(line, kind, message):
    error = refused("a.jsonl", line.replace(b"\n", b""))
    assert error.kind == f"prompts-{kind}"
    assert "line 1: " in error.found and "no good document (1 refused)" in error.found


def test_a_file_with_nothing_good_gives_the_first_reasons():
    error = refused("a.jsonl", b'{"prompt": 1}\n[]\n{"prompt": ""}\n{}')
    assert error.kind == "prompts-nothing-good"
    assert str(error.found) == (
        "no good document (4 refused). line 1: a number: 1; line 2: a list: '[]'; line 3: nothing but blanks; and more"
    )


def test_a_json_array_gets_the_command_that_mends_it():
    assert "jq -c '.[]'" in refused("a.jsonl", b'[\n {"prompt": "a"},\n {"prompt": "b"},\n]').remedy


# ---- tables


def test_csv_cells_are_text_and_its_parts_segments():
    data = '\ufeffid,prompt,answer,level\r\nk1,"2, or\r\n3?",007,NA\r\n,NA,"""yes""",\r\n'.encode()
    reading = read_upload("a.csv", data)
    assert [(d.id, cut_out(d)) for d in reading.documents] == [
        ("k1", {"prompt": "2, or\n3?", "answer": "007"}),
        ("row-2", {"prompt": "NA", "answer": '"yes"'}),
    ]
    assert (reading.columns, reading.column) == (["id", "prompt", "answer", "level"], "prompt")
    assert tabular_columns("a.csv", data) == reading.columns


@pytest.mark.parametrize("mark", [";", "\t"])
def test_csv_of_other_countries(mark):
    reading = read_upload("a.csv", f"prompt{mark}answer\nHello, you{mark}b\n".encode())
    assert cut_out(reading.documents[0]) == {"prompt": "Hello, you", "answer": "b"}


@pytest.mark.parametrize(
    ("header", "column", "chosen", "text"),
    [
        ("prompt,text,answer", None, "prompt", "a\nc"),
        ("other,text,answer", None, "text", "b"),
        ("prompt,text,answer", "text", "text", "b"),
        ("prompt,text,answer", "answer", "answer", "c"),
        ("id,question,n", None, "question", "b"),
    ],
)
def test_the_column_is_prompt_else_text_else_the_only_one(header, column, chosen, text):
    cells = "a,b,1" if header == "id,question,n" else "a,b,c"
    reading = read_upload("a.csv", f"{header}\n{cells}\n".encode(), column=column)
    assert (reading.column, texts(reading)) == (chosen, [text])
    assert [s.name for s in reading.documents[0].segments] == (["prompt", "answer"] if chosen == "prompt" else [])


@pytest.mark.parametrize(
    ("data", "column", "kind", "message"),
    [
        (b"a,b\nx,y\n", None, "no-column", "or exactly one column of text. Found the columns 'a', 'b'."),
        (b"a,b\n1,2\n", None, "no-column", "Found the columns 'a', 'b'."),
        (b"prompt\nx\n", "q", "no-column", "Expected one column named 'q'. Found the columns 'prompt'."),
        (b"prompt,prompt\nx,y\n", None, "no-column", "Found the columns 'prompt', 'prompt'"),
        (b"What is 2 + 2?\nx\n", None, "no-header", "Found what looks like data: 'What is 2 + 2?'"),
        ("1+1等于几？,2\n".encode(), None, "no-header", "Found what looks like data: '1+1等于几？', '2'"),
        (b"\xd6\xd0,b\nx,y\n", None, "wrong-encoding", "byte 0xD6 at byte offset 0 (line 1)"),
        (b'"a,b\nx,y\n', None, "broken-csv", "unexpected end of data (from line 1 to line 2)"),
        (b"prompt,answer\n", None, "empty", "only blank lines or a header"),
        (b"\n\n", None, "empty", "only blank lines"),
        (b"prompt,answer\na\nb,c,d\n", None, "ragged-row", "row 1: 1 cells in row 1 (line 2); row 2: 3 cells"),
    ],
)
def test_csv_that_cannot_be_used(data, column, kind, message):
    error = refused("a.csv", data, column=column)
    assert error.kind == f"prompts-{kind}" and message in str(error)


def test_bad_csv_rows_are_named_and_the_others_kept():
    data = b'prompt,answer\none,1\ntwo,2,3\n\n\xff,4\n\n"quo"te,5\n\0,6\n,7\nlast,8\n"open,9\n'
    reading = read_upload("a.csv", data)
    assert [(d.id, d.text) for d in reading.documents] == [("row-1", "one\n1"), ("row-7", "last\n8")]
    assert problems(reading) == [
        ("row 2", "ragged-row"),
        ("row 3", "wrong-encoding"),
        ("row 4", "broken-csv"),
        ("row 5", "nul-bytes"),
        ("row 6", "empty-document"),
        ("row 8", "broken-csv"),
    ]
    messages = [problem.message for problem in reading.problems]
    assert "Expected 2 cells, as in the header. Found 3 cells in row 2 (line 3)." in messages[0]
    assert "byte 0xFF at byte offset 29 (line 5)" in messages[1]
    assert "(from line 7 to line 7)" in messages[2] and "(from line 11 to line 11)" in messages[5]


def test_csv_cells_may_be_long():
    long = "x" * 200_000  # the csv module stops at 131,072 unless told otherwise
    assert texts(read_upload("a.csv", f"prompt\n{long}\n".encode(), limits=Limits(characters=10**6))) == [long]


def test_parquet_rows_become_documents():
    import pyarrow as pa

    data = parquet(
        prompt=pa.array(["问", "b", None, "d"]).dictionary_encode(), answer=[1, 2, None, None], id=["k", "k", "m", "n"]
    )
    reading = read_upload("a.parquet", data)
    assert [(d.id, cut_out(d)) for d in reading.documents] == [
        ("k", {"prompt": "问", "answer": "1"}),
        ("row-2", {"prompt": "b", "answer": "2"}),
        ("n", {"prompt": "d"}),
    ]
    assert problems(reading) == [("row 3", "empty-document")]
    assert tabular_columns("a.parquet", data) == reading.columns == ["prompt", "answer", "id"]


def test_parquet_nan_is_an_absent_cell_and_other_numbers_keep_their_spelling():
    data = parquet(prompt=["a", "b", "c"], answer=[math.nan, 1.5, -2.0])
    answers = [cut_out(document).get("answer") for document in read_upload("a.parquet", data).documents]
    assert answers == [None, "1.5", "-2.0"]


def test_parquet_takes_its_only_column_of_text_and_names_them_otherwise():
    import pyarrow as pa

    reading = read_upload("a.parquet", parquet(n=[1, 2], question=pa.array(["a", "b"], pa.large_string())))
    assert (reading.column, texts(reading)) == ("question", ["a", "b"])
    error = refused("a.parquet", parquet(a=["x"], b=["y"]))
    assert error.kind == "prompts-no-column" and str(error.found) == "the columns 'a', 'b'"
    error = refused("a.parquet", parquet(a=[[1]]), column="a")
    assert error.kind == "prompts-not-text" and "row 1: a list: [1]" in error.found


def test_parquet_with_text_that_is_not_utf8_costs_only_the_row():
    import pyarrow as pa

    offsets, values = pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff")
    column = pa.StringArray.from_buffers(2, offsets, values)
    for stored in (column, column.dictionary_encode()):
        reading = read_upload("a.parquet", parquet(prompt=stored))
        assert (texts(reading), problems(reading)) == (["a"], [("row 2", "wrong-encoding")])
        assert "byte 0xFF at byte 0 of the cell" in reading.problems[0].message


def test_parquet_that_is_not_parquet_or_broken():
    assert refused("a.parquet", b"prompt,answer\n").kind == "prompts-broken-parquet"
    whole = parquet(prompt=["a" * 100, "b" * 100])
    assert refused("a.parquet", whole[:-40] + whole[-8:]).kind == "prompts-broken-parquet"
    damaged = whole[:4] + b"\xff" * 40 + whole[44:]
    error = refused("a.parquet", damaged)
    assert error.kind == "prompts-broken-parquet" and "row 1: data that cannot be read" in error.found


def test_plain_files_have_no_columns():
    assert tabular_columns("a.jsonl", b"{}") == []
    assert refused("a.txt", b"a", column="x").kind == "prompts-no-column"


# ---- files that are refused whole, and limits


@pytest.mark.parametrize(
    ("filename", "data", "kind", "message"),
    [
        (
            "a.doc",
            b"a",
            "unknown-extension",
            ".txt, .md, .jsonl, .json, .csv, .parquet, or one of these and .gz. Found 'a",
        ),
        ("txt", b"a", "unknown-extension", "Found 'txt'."),
        ("a.txt", b"", "empty", "Expected at least one document. Found 0 bytes in a.txt."),
        ("a.txt", b"\xef\xbb\xbf \n\n", "empty", "Found only blank lines"),
        ("a.jsonl", b"\n\n", "empty", "Found only blank lines"),
        ("a.txt", "a中".encode("utf-16"), "utf16", "Found text in UTF-16 (its byte order mark at byte 0)."),
        ("a.csv", b"\xfe\xff" + "a".encode("utf-16-be"), "utf16", "iconv -f UTF-16 -t UTF-8"),
        ("a.txt", "a中".encode("utf-32"), "utf16", "Found text in UTF-32"),
        ("a.txt", "ab\ncd\n".encode("utf-16-le"), "binary", "iconv -f UTF-16LE -t UTF-8"),
        ("a.txt", b"PK\x03\x04rest", "binary", "binary data: a zip archive (.zip, .xlsx, .docx)"),
        ("a.jsonl", b"\x89PNG\r\n\x1a\nrest", "binary", "a PNG image"),
        ("a.csv", b"\x1f\x8brest", "binary", "gzip-compressed data"),
        ("a.txt", b"PAR1 rest PAR1", "binary", "a Parquet table"),
        ("a.txt", bytes(range(256)) * 4, "binary", "a NUL byte at byte offset 0"),
        ("a.txt", "中文\n\n第二".encode("gbk"), "wrong-encoding", "line 1: byte 0xD6 at byte offset 0 (line 1)"),
    ],
)
def test_files_that_are_refused_whole(filename, data, kind, message):
    error = refused(filename, data)
    assert error.kind == f"prompts-{kind}" and message in str(error)


def test_a_file_is_binary_when_more_than_half_of_its_lines_cannot_be_read():
    reading = read_upload("a.txt", b"one\n\ntwo\n\n\0\n\n\0\n")
    assert texts(reading) == ["one", "two"]
    assert problems(reading) == [("line 5", "nul-bytes"), ("line 7", "nul-bytes")]
    assert refused("a.txt", b"one\n\n\0\n\n\0\n").kind == "prompts-binary"


def test_too_large_a_file_names_the_limit():
    error = refused("../a\n.txt", b"x" * 3_000_000, limits=Limits(bytes=2**21))
    assert error.kind == "prompts-too-large"
    assert str(error.expected) == "at most 2 MiB (2,097,152 bytes)"
    assert str(error.found) == "2.9 MiB (3,000,000 bytes) in a.txt"
    with pytest.raises(PromptError, match=r"in pasted.txt"):
        read_pasted("abc", limits=Limits(bytes=2))


def test_too_many_documents_keeps_the_first_and_says_so():
    limits = Limits(documents=2)
    reading = read_pasted("a\n\nb\n\na\n\nc\n\nd", limits=limits)
    assert (texts(reading), reading.duplicates) == (["a", "b"], 1)
    assert problems(reading) == [("file", "too-many-documents")]
    assert "Expected at most 2 documents. Found more: the first 2 are kept, nothing from paragraph 4 on was read" in (
        reading.problems[0].message
    )
    assert read_pasted("a\n\nb\n\na", limits=limits).problems == []


def test_problems_are_counted_when_they_are_many_and_end_the_reading_when_too_many():
    data = b'{"text": "good"}\n' + b"x\n" * 9
    reading = read_upload("a.jsonl", data, limits=Limits(problems=2))
    assert problems(reading) == [("line 2", "broken-json"), ("line 3", "broken-json"), ("file", "more-problems")]
    assert "7 more than are listed" in reading.problems[-1].message
    reading = read_upload("a.jsonl", data, limits=Limits(documents=4))
    assert problems(reading)[3:] == [("line 5", "broken-json"), ("file", "too-many-problems")]
    assert "4 that cannot be read; nothing after line 5 was read" in reading.problems[-1].message


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("../../etc/pass\x00wd.txt", "passwd.txt"),
        ("C:\\Users\\me\\提示.jsonl", "提示.jsonl"),
        ("a\u202etxt.exe\n", "atxt.exe"),
        ('<b>"x".csv', "_b__x_.csv"),
        ("..", "upload"),
        ("", "upload"),
        (".hidden", "hidden"),
        ("x" * 200 + ".parquet", "x" * 72 + ".parquet"),
    ],
)
def test_names_are_safe_to_show(filename, name):
    assert safe_name(filename) == name


# ---- files on disk


def test_read_file_is_read_upload_of_a_path(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"q,prompt\nx,y\n")
    assert read_file(path, column="q") == read_upload("a.csv", path.read_bytes(), column="q")
    with pytest.raises(PromptError, match=r"Found 0.0 MiB \(13 bytes\) in a.csv") as caught:
        read_file(str(path), limits=Limits(bytes=3))
    assert caught.value.kind == "prompts-too-large"


def test_read_file_says_what_is_not_there(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    for name, found in (("none.txt", "no such file"), ("folder.txt", "a folder or a device")):
        with pytest.raises(PromptError) as caught:
            read_file(tmp_path / name)
        assert (caught.value.kind, str(caught.value.found)) == ("prompts-not-found", found)


@given(st.lists(fields, max_size=3, unique_by=repr))
def test_run_folders_give_the_same_documents_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("run") / "prompts.jsonl"
    documents = read_upload("a.jsonl", jsonl(*rows)).documents if rows else []
    documents = [*documents, Document("文-1\u2028", "only text\r\n 🍎")]
    write_prompts(documents, path)
    assert read_prompts(path) == documents


@pytest.mark.parametrize("second", ['{"id": "b", "te', '{"id": "b"}', "[]", '{"id": 1, "text": 2, "segments": [3]}'])
def test_a_broken_run_file_is_named(tmp_path, second):
    path = tmp_path / "prompts.jsonl"
    write_prompts([Document("a", "b")], path)
    path.write_text(path.read_text() + second)
    with pytest.raises(PromptError) as caught:
        read_prompts(path)
    assert caught.value.kind == "prompts-broken-file" and str(caught.value.found).startswith("line 2, which is none")
    with pytest.raises(PromptError) as caught:
        read_prompts(tmp_path / "none.jsonl")
    assert caught.value.kind == "prompts-not-found"


def test_bundled_samples_have_three_parts_each():
    if not prompts.SAMPLES.exists():
        pytest.skip(f"{prompts.SAMPLES} is not made yet: run the demo's build script")
    documents = samples()
    lines = [json.loads(line) for line in prompts.SAMPLES.read_bytes().splitlines()]
    assert read_file(prompts.SAMPLES).problems == []
    assert [document.id for document in documents] == [line["id"] for line in lines]
    for document, line in zip(documents, lines):
        assert cut_out(document) == {part: str(line[part]) for part in PARTS}
    assert samples(2) == documents[:2]


# ---- the whole


def test_ten_thousand_documents_are_read_in_a_moment():
    data = jsonl(*({"prompt": f"问题 {n}", "reasoning": "step " * 40, "answer": n} for n in range(10_000)))
    start = time.process_time()
    parsed = [json.loads(line) for line in data.splitlines()]
    parsing = time.process_time() - start
    assert len(read_upload("a.jsonl", data).documents) == len(parsed) == 10_000
    # On any machine; a reading that looks at every pair of texts takes thousands of times as long.
    assert time.process_time() - start < 100 * parsing


def test_the_web_process_does_not_pay_for_it():
    heavy = "torch transformers streamlit pandas pyarrow"
    code = f"import sys, kvlab.request.prompts; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
