"""Uploads that need all memory or have no end: read in a process with limits, and said in one message each."""

import gzip
import io
import json
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kvlab.errors import PromptError
from kvlab.host import limited
from kvlab.request import prompts, tables, uploads
from kvlab.request.formats import AUTO
from kvlab.request.guarded import guarded, memory_of
from kvlab.request.prompts import Limits, read_upload
from kvlab.shapes import Document, Segment
from kvlab.web.kept import Kept
from kvlab.web.prompts_form import fitting
from tests import inputs
from tests.test_prompts import parquet, problems, texts

MIB = 2**20
limits_memory = pytest.mark.skipif(not limited.limits_memory(), reason="this system limits no memory")


def exceeded(function, *arguments, **limits):
    with pytest.raises(limited.Exceeded) as caught:
        limited.call(function, *arguments, **limits)
    return caught.value


def test_a_function_in_a_process_of_its_own_returns_its_value_or_its_error():
    assert limited.call(divmod, 17, 5) == [3, 2]
    assert limited.call(os.getpid) != os.getpid()
    with pytest.raises(PromptError) as caught:
        limited.call(read_upload, "a.txt", data=b" \n")
    assert caught.value.kind == "prompts-empty"


@limits_memory
def test_it_ends_at_its_limit_of_memory_and_says_so():
    found = exceeded(bytes, 300 * MIB, memory=200 * MIB)
    assert found.kind == "memory" and "more than 200 MiB of memory" in found.reason
    assert limited.call(len, "x" * 10 * MIB, memory=200 * MIB) == 10 * MIB


def test_it_ends_at_its_limit_of_time_or_when_it_breaks():
    found = exceeded(time.sleep, 1000, seconds=1)
    assert found.kind == "time" and "no end after 1 s" in found.reason
    assert "exit code -6" in exceeded(os.abort).reason
    found = exceeded(divmod, 1, 0)
    assert found.kind == "died" and "zero" in found.reason


def test_without_limits_of_the_system_the_time_still_has_one(monkeypatch):
    monkeypatch.setattr(limited, "resource", None)
    limited._limit(1, 1)  # would end this process otherwise
    assert not limited.limits_memory()
    assert exceeded(time.sleep, 1000, seconds=1).kind == "time"


def test_the_token_of_the_server_is_not_passed_on(monkeypatch):
    monkeypatch.setenv("KVLAB_TOKEN", "secret")
    assert limited.call(os.getenv, "KVLAB_TOKEN") is None


def cut_at_50(filename: str, data: bytes) -> prompts.Reading:
    return read_upload(filename, data, limits=Limits(characters=50))


def test_a_reading_comes_back_as_it_was():
    rows = [{"prompt": "é\n😀", "answer": "long " * 30, "id": "x"}, {"prompt": " "}, {"prompt": "b"}, {"prompt": "b"}]
    data = "\n".join(map(json.dumps, rows)).encode() + b"\n{\n\xff\n"
    expected = cut_at_50("a.jsonl", data)
    assert expected.cut and expected.duplicates and len(expected.problems) == 3
    restored = guarded(cut_at_50, "a.jsonl", data)
    assert restored == expected
    assert [str(problem.message) for problem in restored.problems] == [str(p.message) for p in expected.problems]
    table = b"prompt,more\na,1\nb\n"
    assert guarded(read_upload, "a.csv", table, column="more") == read_upload("a.csv", table, column="more")
    assert guarded(prompts.tabular_columns, "a.csv", table) == ["prompt", "more"]


def dictionary(text: str, rows: int, stored: bool) -> bytes:
    """One text that all rows repeat: a few KB on disk. ``stored``: Arrow's type is, else the column is of strings."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": column}), buffer, store_schema=stored)
    return buffer.getvalue()


@limits_memory
@pytest.mark.parametrize("stored", [True, False], ids=["dictionary", "strings"])
def test_a_text_that_a_small_parquet_file_repeats_takes_its_memory_once(stored, monkeypatch):
    data = dictionary("x" * 4 * MIB, 100_000, stored)
    assert len(data) < MIB
    monkeypatch.setattr(limited, "MEMORY", 400 * MIB)
    reading = guarded(read_upload, "a.parquet", data)
    assert [len(text) for text in texts(reading)] == [prompts.LIMITS.characters]
    assert reading.duplicates == tables.UNPACKED // (4 * MIB) - 1
    assert problems(reading) == [(f"row {reading.duplicates + 2}", "unpacks-to-more")]


@pytest.mark.parametrize("kind", ["dictionary", "plain", "null", "number"])
def test_the_cells_of_a_parquet_file_are_the_same_in_every_batch(kind, monkeypatch):
    monkeypatch.setattr(tables, "_BATCH", 1)  # a row at a time
    cells = [f"text {n % 7}" if n % 5 else None for n in range(40)]
    column = pa.array(cells).dictionary_encode() if kind == "dictionary" else pa.array(cells)
    answers = pa.array([None] * 40 if kind == "null" else list(range(40)))
    table = tables.open_table(".parquet", parquet(prompt=column, answer=answers))
    content = [record.content for record in table.rows(["prompt", "answer"])]
    expected = [None if kind == "null" else str(n) for n in range(40)]
    assert [row["prompt"] for row in content] == cells
    assert [row["answer"] for row in content] == expected


def test_all_documents_of_a_file_together_have_a_limit():
    cells = ["é" * 40 + str(n) for n in range(10)]
    reading = read_upload("a.parquet", parquet(text=cells), limits=Limits(text=81 * 3))
    assert texts(reading) == cells[:3] and problems(reading) == [("file", "too-much-text")]
    assert "nothing from row 4 on was read" in reading.problems[0].message


def test_a_file_of_duplicates_is_not_read_to_its_end():
    taken = []

    def records():
        for number in range(1, 10**9):
            taken.append(number)
            yield uploads.Record("paragraph", number, {"text": "a"})

    reading = prompts._collect(records(), Limits(records=1000))
    assert (len(reading.documents), reading.duplicates, len(taken)) == (1, 999, 1001)
    assert problems(reading) == [("file", "too-many-records")]


def test_blank_lines_are_passed_over_without_reading_each():
    data = b"\xef\xbb\xbfone\n" + b" \t\n\r\n" * 500_000 + b"  two\nthree\n\n\n"
    numbered = list(uploads.lines(data, blank=False))
    assert [(number, line) for number, _, line in numbered if line.strip()] == [
        *((1, b"one"), (1_000_002, b"  two"), (1_000_003, b"three"))
    ]
    assert len(numbered) == 5
    for _, offset, line in numbered:
        assert data[offset : offset + len(line)] == line
    assert texts(read_upload("a.txt", data)) == ["one", "  two\nthree"]


def test_a_quote_that_is_not_closed_ends_the_reading_soon(monkeypatch):
    read = []
    decode = tables.decode
    monkeypatch.setattr(tables, "decode", lambda line, *place: read.append(place) or decode(line, *place))
    monkeypatch.setattr(tables, "_RECORD", 1000)
    reading = read_upload("a.csv", b'prompt\ngood\n"open\n' + b"a\n" * 100_000)
    assert texts(reading) == ["good"] and problems(reading) == [("row 2", "broken-csv")]
    assert "from line 3 on" in reading.problems[0].message
    assert len(read) < 3 * 600
    long = "one line " * 1000
    rest = ['"' + "many\nlines\n" * 40 + '"', "last"]
    assert len(read_upload("a.csv", "\n".join(["prompt", long, *rest]).encode()).documents) == 3


@pytest.mark.parametrize("header", ["a," * 1000 + "a", "b" * 1001], ids=["many", "long"])
def test_a_table_offers_only_so_many_columns_of_only_so_long_names(header):
    with pytest.raises(PromptError) as caught:
        prompts.tabular_columns("a.csv", header.encode())
    assert caught.value.kind == "prompts-too-many-columns" and "1,001" in caught.value.found
    assert tables.COLUMNS == 1000 == len(prompts.tabular_columns("a.csv", b"a," * 999 + b"a"))


def test_of_a_column_the_first_rows_tell_whether_it_holds_text(monkeypatch):
    monkeypatch.setattr(tables, "_JUDGED", 10)
    data = b"a,b\n" + b"1,word\n" * 5 + b"2,3\n" * 20
    assert tables.choose_column(tables.open_table(".csv", data), AUTO) == "b"


@pytest.mark.parametrize(
    ("limit", "kind", "words"),
    [
        pytest.param({"MEMORY": 40 * MIB}, "prompts-too-much-memory", "more than 40 MiB", marks=limits_memory),
        ({"SECONDS": 0.01}, "prompts-too-slow", "no end after 0.01 s"),
    ],
)
def test_an_upload_beyond_the_limits_is_one_message(limit, kind, words, monkeypatch):
    for name, value in limit.items():
        monkeypatch.setattr(limited, name, value)
    with pytest.raises(PromptError) as caught:
        guarded(read_upload, "a.txt", b"hello" * 10 * MIB)
    assert caught.value.kind == kind
    assert words in caught.value.found and "a.txt" in caught.value.found


def test_the_cache_of_readings_is_bounded_in_bytes_and_in_time():
    clock = [0.0]
    kept = Kept(100, 60, lambda: clock[0])
    for name, size in {"a": 40, "b": 40, "c": 10}.items():
        kept.keep(name, name.upper(), size)
    assert kept.find("a") == "A" and kept.size() == 90
    kept.keep("d", "D", 30)  # "b" was used last long ago
    assert [kept.find(name) for name in "abcd"] == ["A", None, "C", "D"] and kept.size() == 80
    kept.keep("e", "E", 1000)  # the newest stays, whatever its size
    assert [kept.find(name) for name in "acde"] == [None, None, None, "E"]
    clock[0] = 61
    assert kept.find("e") is None and kept.size() == 0


def test_the_files_of_one_form_together_hold_only_so_much_text(monkeypatch):
    monkeypatch.setattr(prompts, "LIMITS", Limits(bytes_together=10))
    small = prompts.Reading([Document("a", "éé", ())])
    assert fitting(small, [Document("b", "123456", ())]) is small
    with pytest.raises(PromptError) as caught:
        fitting(small, [Document("b", "1234567", ())])
    assert caught.value.kind == "prompts-too-much-text"


def test_the_size_of_a_reading_counts_its_texts_as_they_lie_in_memory():
    def size(text):
        return memory_of(prompts.Reading([Document("a", text, ())]))

    assert size("x" * 10_000) - size("") == 10_000
    assert 39_000 < size("😀" * 10_000) - size("") < 41_000


def test_the_size_of_a_reading_counts_its_turns_and_the_names_that_come_with_it():
    def size(turns, **names):
        segments = tuple(Segment("user", n, n + 1) for n in range(turns))
        return memory_of(prompts.Reading([Document("a", "x" * 1000, segments)], **names))

    assert size(1000) - size(0) >= 100_000
    assert size(0, left_out=["x" * 500] * 10) - size(0) >= 5000


@pytest.mark.parametrize("name", [name for name, (_, texts, _) in inputs.FILES.items() if texts])
def test_what_was_recognised_comes_back_from_the_process(name):
    data = inputs.FILES[name][0]
    restored, expected = guarded(read_upload, name, data), read_upload(name, data)
    assert restored == expected
    assert list(map(str, restored.recognised())) == list(map(str, expected.recognised()))


def test_what_the_user_overruled_holds_in_the_process():
    row = json.dumps({"prompt": "p", "messages": [{"role": "user", "content": "m"}], "q": "a", "s": "b"}).encode()
    with pytest.raises(PromptError) as caught:
        guarded(read_upload, "a.jsonl", row)
    assert caught.value.kind == "prompts-ambiguous" and "--format" in caught.value.remedy
    assert texts(guarded(read_upload, "a.jsonl", row, format="messages")) == ["m"]
    assert texts(guarded(read_upload, "a.jsonl", row, column="q", answer="s")) == ["a\nb"]


@limits_memory
def test_what_a_packed_file_unpacks_to_is_bounded_before_it_is_in_memory(monkeypatch):
    unit = gzip.compress(bytes(16 * MIB))  # such members may follow each other
    monkeypatch.setattr(limited, "MEMORY", 500 * MIB)
    with pytest.raises(PromptError) as caught:
        guarded(read_upload, "a.txt.gz", unit * 256)  # 4 GiB
    assert caught.value.kind == "prompts-too-large"


@limits_memory
def test_a_turn_that_a_small_parquet_file_repeats_does_not_take_all_memory(monkeypatch):
    rows = 400
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * MIB]))
    turns = pa.StructArray.from_arrays([pa.array(["user"] * rows), text], ["role", "content"])
    buffer = io.BytesIO()
    column = pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), turns)
    pq.write_table(pa.table({"messages": column}), buffer, store_schema=False)
    data = buffer.getvalue()
    assert len(data) < MIB
    monkeypatch.setattr(limited, "MEMORY", 600 * MIB)
    reading = guarded(read_upload, "a.parquet", data)
    assert len(reading.documents) == 1 and problems(reading) == [(f"row {reading.duplicates + 2}", "unpacks-to-more")]


def test_blank_lines_of_a_json_file_are_passed_over(monkeypatch):
    blank = b" \n" * 200_000
    numbered = []
    lines = uploads.lines
    monkeypatch.setattr(uploads, "lines", lambda *a, **b: (numbered.append(line) or line for line in lines(*a, **b)))
    assert texts(read_upload("a.json", blank + b'[{"text": "a"},' + blank + b'{"text": "b"}]' + blank)) == ["a", "b"]
    assert texts(read_upload("a.jsonl", blank + b'{"text": "\xff\xff\xff"}\n{"text": "c"}' + blank)) == ["c"]
    assert len(numbered) < 100


def test_the_turns_of_all_documents_have_a_limit():
    rows = [{"messages": [{"role": "user", "content": f"{n}"}] * 3} for n in range(5)]
    reading = read_upload("a.json", json.dumps(rows).encode(), limits=Limits(segments=8))
    assert len(reading.documents) == 2 and problems(reading) == [("file", "too-many-segments")]
    assert "nothing from item 3 on was read" in reading.problems[0].message


def test_a_json_file_offers_only_so_many_fields_of_only_so_long_names():
    row = {"prompt": "a", "b" * 1001: "c", **{f"f{n}": "d" for n in range(2000)}}
    assert prompts.tabular_columns("a.json", json.dumps([row]).encode()) == ["prompt", *(f"f{n}" for n in range(999))]
    reading = read_upload("a.json", json.dumps([row]).encode())
    assert len(reading.left_out) == 100 and max(map(len, reading.left_out)) == 1000
