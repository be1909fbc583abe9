"""The bench runs every row, its two sides agree where they must, and its verdict is its exit code. No speed here."""

import json
import sys
from math import isnan

import pytest
import torch

from kvlab import cli
from kvlab.bench import ROWS, layers, memory, overhead, ridge, row, run, timelines
from kvlab.bench.pair import TINY, documents, random_pair, tokenizers

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("bench")]
CPU = torch.device("cpu")
FIELDS = {"name", "against", "ratio", "low", "high", "bar", "holds", "unit", "detail"}


def test_quick_runs_every_row_without_verdicts_and_writes_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "_in_own_process", memory.measure)  # another process would import torch again
    out = tmp_path / "bench.json"
    assert cli.main(["bench", "--quick", "--out", str(out)]) == 0
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["quick"] and {"date", "device", "torch", "transformers", "python", "load"} <= set(written)
    assert len(written["rows"]) == len(ROWS)
    for found in written["rows"]:
        assert set(found) == FIELDS and found["bar"] is None and found["holds"] is None
        assert 0 < found["low"] <= found["ratio"] <= found["high"]
    printed = capsys.readouterr().out
    assert "✓" not in printed and "✗" not in printed and len(printed.splitlines()) == 1 + len(ROWS)


def test_peak_memory_is_measured_in_a_process_of_its_own():
    found = memory._in_own_process(6, CPU)
    assert 0 < found["before"] <= found["peak"] and found["student_tokens"] > 0


def test_layer_similarity_from_sums_equals_dense_grams():
    teacher, student = layers.layered_rows(150, [12, 20, 8], [10, 14], CPU)
    found = layers.by_sums(student, teacher)
    assert found.shape == (2, 3) and found.max() > 0.1
    torch.testing.assert_close(found, layers.dense_cka(student, teacher), rtol=0, atol=1e-6)


def test_ridge_from_sums_equals_scikit_learn():
    pytest.importorskip("sklearn")
    (x,), (y,) = layers.layered_rows(300, [24], [8], CPU)
    fold = torch.arange(300) % ridge.FOLDS
    ours = ridge.by_sums(x, y, fold, 2)
    assert (ours > 0.2).all()
    assert abs(ours - ridge.by_sklearn(x.numpy(), y.numpy(), fold.numpy(), 2)).max() < 1e-6


def test_without_scikit_learn_its_row_says_how_to_get_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    out = tmp_path / "bench.json"
    assert cli.main(["bench", "--rows", "5", "--quick", "--out", str(out)]) == 0
    assert "not measured: pip install scikit-learn" in capsys.readouterr().out
    assert json.loads(out.read_text())["rows"][0]["ratio"] is None


def test_bare_forwards_read_the_tokens_that_align_reads():
    texts = documents(6, 60)
    teacher, student = random_pair(CPU, TINY)
    batches = overhead._batches(teacher, student, texts, overhead.AlignSettings(batch_tokens=128))
    for model in (teacher, student):
        read = sum(int(mask.sum()) for loaded, _, mask in batches if loaded is model)
        assert read == sum(len(timelines.tokenize(model.tokenizer, document.text)) for document in texts)


def test_reencoding_gives_every_student_token_a_teacher_token():
    teacher, student = tokenizers()
    text = "The boats reach the bridge. 河水流过。"
    ids, places = timelines.reencoded(teacher, student, text)
    assert len(ids) == len(places) == len(student(text)["input_ids"])
    assert (places[1:] >= places[:-1]).all()
    assert (ids >= 0).mean() > 0.8  # a space decodes to nothing


@pytest.mark.parametrize(("ratio", "code"), [(1.2, 0), (1.3, 1)])
def test_a_bar_that_does_not_hold_is_exit_code_1(ratio, code, monkeypatch, capsys):
    monkeypatch.setitem(run.MEASURES, 1, lambda *_: row.judged("a", "b", [ratio, 0.1, 9.0], row.TIME, 1.25))
    assert cli.main(["bench", "--rows", "1"]) == code
    assert "✓✗"[code] in capsys.readouterr().out


def test_verdicts_need_the_same_result_too():
    assert row.judged("a", "b", [9.0], row.FASTER, 5.0).holds
    assert not row.judged("a", "b", [4.0], row.FASTER, 5.0).holds
    assert not row.judged("a", "b", [9.0], row.FASTER, 5.0, equal=False).holds
    assert isnan(row.not_measured("a", "b", row.FASTER, 5.0, "no").ratio)


@pytest.mark.parametrize("rows", ["0", "1,9", "x", "1,,2", ""])
def test_rows_that_do_not_exist_are_refused(rows, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bench", "--rows", rows])
    assert stopped.value.code == 2 and "not a list of numbers" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_exit_code_2(capsys):
    assert cli.main(["bench", "--rows", "4", "--quick", "--device", "cuda"]) == 2
    assert "cuda" in capsys.readouterr().err
