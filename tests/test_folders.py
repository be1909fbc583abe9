"""Paths of this machine → documents: files, folders of files, LLaMA-Factory's and Hugging Face's folders."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest

from kvlab.errors import PromptError
from kvlab.request.folders import read_path
from kvlab.request.prompts import Limits
from tests import inputs
from tests.inputs import ASKED, FILES, FOLDERS, SUMS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return inputs.write(tmp_path_factory.mktemp("files"))


def texts(path: Path | str) -> list[str]:
    return [document.text for document in read_path(path).documents]


def refused(path: Path) -> PromptError:
    with pytest.raises(PromptError) as caught:
        read_path(path)
    return caught.value


@pytest.mark.parametrize("name", FILES)
def test_files_as_people_have_them(folder, name):
    _, expected, words = FILES[name]
    if not expected:
        assert words in refused(folder / name).found
        return
    reading = read_path(folder / name)
    assert [document.text for document in reading.documents] == expected and reading.problems == []
    assert ", ".join(map(str, reading.recognised())) == words


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_as_people_have_them(folder, name):
    assert texts(folder / name) == FOLDERS[name]


def test_a_split_that_is_not_for_training_is_said_and_can_be_given(folder):
    said = [str(words) for words in read_path(folder / "hfpq").recognised()]
    assert said[0] == "files: 'train-00000-of-00001.parquet'"
    assert said[1] == "files of other splits, not read: 'test-00000-of-00001.parquet'"
    assert texts(folder / "hfpq" / "data" / "test-00000-of-00001.parquet") == [f"{ASKED[0]}\n{SUMS[0]}"]


def test_a_folder_of_files_is_read_whole_and_its_problems_name_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{broken\n')
    (tmp_path / "b.txt").write_text("two\n\nthree")
    (tmp_path / "README.md").write_text("not a document")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    reading = read_path(tmp_path)
    assert [document.text for document in reading.documents] == ["one", "two", "three"]
    assert [str(problem.where) for problem in reading.problems] == ["a.jsonl, line 2"]
    assert reading.formats == {"text": 3}


def test_a_home_folder_and_a_way_up_are_paths(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "inner").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "inner")
    assert texts("~/a.txt") == texts("../a.txt") == texts("~/inner/../a.txt") == ["one"]


def test_folders_that_cannot_be_read_are_asked_about(tmp_path):
    assert refused(tmp_path).kind == "prompts-not-found"
    assert refused(tmp_path / "none.txt").kind == "prompts-not-found"
    for language in ("de", "en"):
        (tmp_path / language).mkdir()
        (tmp_path / language / "a.txt").write_text(language)
    error = refused(tmp_path)
    assert error.kind == "prompts-ambiguous" and "2: 'de', 'en'" in error.found
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.txt").write_text("trained on")
    assert texts(tmp_path) == ["trained on"]


# ---- LLaMA-Factory


def factory(folder: Path, info: dict, rows: list[dict]) -> Path:
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def test_the_columns_of_its_entry_are_used(tmp_path):
    columns = {"prompt": "ask", "query": "about", "response": "reply", "system": "rule", "history": "before"}
    row = {"ask": "a", "about": "b", "reply": "c", "rule": "s", "before": [["q", "r"]], "instruction": "not this"}
    place = factory(tmp_path, {"mine": {"file_name": "rows.json", "columns": columns}}, [row])
    reading = read_path(place)
    assert [document.text for document in reading.documents] == ["s\nq\nr\na\nb\nc"]
    assert reading.left_out == ["instruction"]


def test_the_tags_of_its_entry_are_used(tmp_path):
    tags = {"role_tag": "who", "content_tag": "what", "user_tag": "U", "assistant_tag": "A", "system_tag": "S"}
    entry = {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "chat"}, "tags": tags}
    row = {"chat": [{"who": "S", "what": "s"}, {"who": "U", "what": "u"}, {"who": "A", "what": "a"}]}
    (document,) = read_path(factory(tmp_path, {"mine": entry}, [row])).documents
    assert (document.text, [part.name for part in document.segments]) == ("s\nu\na", ["system", "user", "assistant"])


def test_the_preferences_of_its_entry_are_read(tmp_path):
    columns = {"prompt": "ask", "query": "about", "chosen": "good", "rejected": "bad"}
    entry = {"file_name": "rows.json", "ranking": True, "columns": columns}
    reading = read_path(factory(tmp_path, {"mine": entry}, [{"ask": "a", "about": "b", "good": "c", "bad": "d"}]))
    assert ([document.text for document in reading.documents], reading.left_out) == (["a\nb\nc"], [])
    assert reading.formats == {"preference": 1}


def test_of_several_data_sets_one_is_named(tmp_path):
    info = {name: {"file_name": "rows.json"} for name in ("one", "two")} | {"hub": {"hf_hub_url": "a/b"}}
    place = factory(tmp_path, info, [{"instruction": "a", "output": "b"}])
    error = refused(place)
    assert error.kind == "prompts-ambiguous" and "'one', 'two'" in error.found and "/NAME" in error.remedy
    assert texts(place / "two") == ["a\nb"]


def test_a_file_outside_of_its_folder_is_not_read(tmp_path):
    (tmp_path / "secret.json").write_text('[{"instruction": "a"}]')
    (tmp_path / "inner").mkdir()
    place = factory(tmp_path / "inner", {"mine": {"file_name": "../secret.json"}}, [])
    assert "lies outside" in refused(place).found


# ---- saved by Hugging Face's library


def saved(folder: Path, **columns: list) -> Path:
    """What ``save_to_disk`` writes: Arrow streams, and a JSON file that lists them."""
    folder.mkdir(parents=True)
    whole, names = pa.table(columns), []
    for number in range(2):
        names.append(f"data-0000{number}-of-00002.arrow")
        half = whole.slice(number * len(whole) // 2, len(whole) // 2)
        with pa.OSFile(str(folder / names[-1]), "wb") as sink, pa.ipc.new_stream(sink, half.schema) as stream:
            stream.write_table(half)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text('{"features": {}}')
    return folder


class FakeDataset:
    """The part of a ``datasets.Dataset`` that is used; the library itself is an optional extra."""

    def __init__(self, table: pa.Table):
        self.table, self.column_names = table, table.column_names
        self.features = {name: type("Value", (), {"dtype": "string"}) for name in table.column_names}

    def select_columns(self, names):
        return FakeDataset(self.table.select(names))

    def with_format(self, kind):
        assert kind is None
        return self

    def __iter__(self):
        return iter(self.table.to_pylist())


@pytest.mark.parametrize("library", [False, True])
def test_a_saved_data_set_is_read_with_and_without_its_library(tmp_path, monkeypatch, library):
    chats = [[{"role": "user", "content": asked}] for asked in ASKED]
    place = saved(tmp_path / "set", messages=chats, score=[1, 2, 3, 4])
    monkeypatch.setitem(sys.modules, "datasets", None)
    if library:
        fake = ModuleType("datasets")
        fake.load_from_disk = lambda path: FakeDataset(pa.table({"messages": chats, "score": [1, 2, 3, 4]}))
        monkeypatch.setitem(sys.modules, "datasets", fake)
    reading = read_path(place)
    assert [document.text for document in reading.documents] == ASKED
    assert (reading.formats, reading.left_out) == ({"messages": 4}, ["score"])
    assert [part.name for part in reading.documents[0].segments] == ["user"]


def test_of_saved_splits_the_training_one_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    saved(tmp_path / "train", text=["a", "b"])
    saved(tmp_path / "test", text=["c", "d"])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    reading = read_path(tmp_path)
    assert [document.text for document in reading.documents] == ["a", "b"]
    assert "files of other splits, not read: 'test'" in str(reading.recognised()[1])
    assert texts(tmp_path / "test") == ["c", "d"]
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["first", "second"]}')
    assert refused(tmp_path).kind == "prompts-ambiguous"


def test_a_damaged_saved_data_set_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    place = saved(tmp_path / "set", text=["a", "b"])
    for text in ("null", "{}", "[" * 100_000, '{"_data_files": [{"filename": "none.arrow"}]}'):
        (place / "state.json").write_text(text)
        assert refused(place).kind == "prompts-not-found"


def test_the_files_of_a_folder_together_have_the_limits_of_one(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"{name}{n} é" for n in range(3)))
    for limits in (Limits(documents=7), Limits(text=7 * len("a0 é".encode()))):
        reading = read_path(tmp_path, limits=limits)
        assert [document.text[0] for document in reading.documents] == [*"aaabbb"]
        (problem,) = reading.problems
        assert (str(problem.where), problem.kind) == ("folder", "too-many-files")
        assert "c.txt" in problem.message and "d.txt" in problem.message and "b.txt" not in problem.message


def test_a_text_of_two_files_is_one_document_and_every_id_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    (tmp_path / "b.txt").write_text("three\n\ntwo\n\nfour")
    reading = read_path(tmp_path)
    assert [document.text for document in reading.documents] == ["one", "two", "three", "four"]
    assert len({document.id for document in reading.documents}) == 4
    assert reading.duplicates == 1 and reading.formats == {"text": 4}
