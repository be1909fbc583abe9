"""The largest results that every page must bear: what is drawn of them, what is said to be left out, what is kept."""

import dataclasses
import gc
import itertools
import json
import re
import weakref

import numpy as np
import pytest

from kvlab.host import limited
from kvlab.host.bundled import ANALYSIS
from kvlab.language import speaking
from kvlab.request import prompts
from kvlab.request.guarded import guarded
from kvlab.results.alignment.data import mean_of_heads, read
from kvlab.results.alignment.difference import difference_heatmap, matched
from kvlab.results.alignment.heads import r2_map
from kvlab.results.alignment.layers import layer_pairs
from kvlab.results.alignment.rkv import kept_steps
from kvlab.results.memo import once
from kvlab.runs import store
from kvlab.web import backend, prompts_form
from kvlab.web.widgets import plain
from tests import inputs, large
from tests.test_pages import open_page

LAYERS = HEADS = 64


@pytest.fixture(scope="module")
def sample():
    return read(ANALYSIS)


@pytest.fixture(scope="module")
def wide(sample):
    return large.wide(sample, LAYERS, HEADS, documents=1)


@pytest.fixture(scope="module")
def long(sample):
    return large.long(sample)


def maps(wide):
    yield r2_map(wide, "key", (3, 5))
    yield difference_heatmap(wide, matched(wide, wide), "value", (3, 5))


def test_a_map_of_thousands_of_cells_has_no_numbers_in_it_and_a_marker_inside_each_cell(wide):
    for figure in maps(wide):
        heat, *written, points = figure.data
        assert np.shape(heat.z) == (LAYERS, HEADS)
        assert {text for trace in written for text in trace.text} <= {" ="}
        assert max(trace.textfont.size for trace in written) * LAYERS <= figure.layout.height
        # Within a marker all places are equally near: of two that overlap, a click may take the wrong one.
        assert points.marker.size * LAYERS <= figure.layout.height
        assert len(points.x) == LAYERS * HEADS


def test_every_cell_of_it_is_found_by_a_click_and_says_its_numbers(wide):
    points = r2_map(wide, "value").data[-1]
    found = points.to_plotly_json()
    assert sorted(map(tuple, found["customdata"].tolist())) == list(itertools.product(range(64), range(64)))
    at = found["customdata"].tolist().index([63, 7])
    assert (points.y[at], points.x[at]) == ("63", "7")
    assert f"R² {wide.score('value', 63, 7).r2:.3f}" in points.text[at]


def test_scores_by_head_and_means_agree_with_the_scores_one_by_one(sample):
    for score in sample.heads:
        assert sample.score(score.kind, score.layer, score.head) is score
        grid = sample.grid(score.kind, "gain")
        assert grid[sample.layer_position(score.layer), score.head] == score.gain
    of_keys = [score.r2 for score in sample.heads if score.kind == "key"]
    assert sample.summary()["key"]["r2"] == pytest.approx(sum(of_keys) / len(of_keys))
    table = sample.table()
    assert table["beats_controls"].tolist() == [score.beats_controls for score in sample.heads]
    table["r2"] = 0  # a copy
    assert sample.table()["r2"].iloc[0] == sample.heads[0].r2
    with pytest.raises(KeyError):
        sample.score("key", 99, 0)


def test_what_is_worked_out_of_a_result_is_worked_out_once_in_each_language_and_goes_with_it(sample):
    made = []

    @once
    def work(alignment, kind):
        made.append(kind)
        return [kind]

    own = large.wide(sample, 1, 1, documents=0)
    assert work(own, "key") is work(own, "key")
    work(own, "value")
    with speaking("zh"):
        work(own, "key")
    assert made == ["key", "value", "key"]
    assert len(layer_pairs(own)) == 2
    r2_map(own, "key")
    gone = weakref.ref(own)
    del own
    gc.collect()
    assert gone() is None


def test_of_a_long_document_the_steps_of_a_window_are_drawn(long):
    figure = kept_steps(long, 0, 2, 1, (600, 1199))
    drawn = [x for trace in figure.data if trace.yaxis == "y" for x in trace.x]
    assert sorted(drawn) == list(range(600, 1200))
    assert len(kept_steps(long, 0, 2, 1).data[0].x) == len(long.inspected[0].teacher_tokens) // 2


def test_the_error_of_a_token_is_the_mean_over_the_heads_that_have_one():
    error = np.random.default_rng(0).random((3, 2, 5)).astype(np.float32)
    error[2, 1] = np.nan  # a layer of one head
    error[:, :, 4] = np.nan
    expected = np.nanmean(error[:, :, :4].astype(np.float64), axis=(0, 1))
    found = mean_of_heads(error)
    assert found[:4] == pytest.approx(expected) and np.isnan(found[4])


@pytest.mark.page
@pytest.mark.xdist_group("pages")
def test_an_uploaded_file_is_read_once_however_often_the_page_runs(monkeypatch):
    read_ids = []

    def counted(read, name, data, **options):
        read_ids.append((read.__name__, name))
        return guarded(read, name, data, **options)

    monkeypatch.setattr(prompts_form, "guarded", counted)
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    app.button_group(key="form-source").set_value("upload").run()
    lines = "\n".join(json.dumps({"prompt": f"{n} + 1 = ?"}) for n in range(10_000))
    app.file_uploader[0].set_value(("many.jsonl", lines.encode(), "application/json")).run()
    app.selectbox(key="form-time").set_value("nearest").run()
    app.selectbox(key="form-time").set_value("floor").run()
    assert not app.exception
    assert "Prompts read: 10,000" in [caption.value for caption in app.caption]
    assert read_ids.count(("read_upload", "many.jsonl")) == 1
    app.file_uploader[0].set_value(("many.jsonl", b"no JSON", "application/json")).run()
    app.selectbox(key="form-time").set_value("nearest").run()
    assert "one JSON object per line" in app.error[0].value and read_ids.count(("read_upload", "many.jsonl")) == 2


@pytest.mark.page
@pytest.mark.xdist_group("pages")
def test_an_upload_that_cannot_be_read_within_the_limits_is_one_message_on_the_page(monkeypatch):
    monkeypatch.setattr(limited, "SECONDS", 0.01)
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    app.button_group(key="form-source").set_value("upload").run()
    app.file_uploader[0].set_value(("endless.jsonl", b'{"prompt": "a"}', "application/json")).run()
    assert not app.exception
    (error,) = app.error
    assert "within 2 GiB of memory and 0.01 s" in error.value


@pytest.mark.page
@pytest.mark.xdist_group("pages")
def test_of_more_files_than_are_read_together_the_first_are_used_and_one_message_says_so(monkeypatch):
    monkeypatch.setattr(prompts, "LIMITS", dataclasses.replace(prompts.LIMITS, files=3, bytes_together=25))
    app = open_page("validation")
    app.button_group(key="train-source").set_value("upload").run()
    app.file_uploader(key="train-files").set_value([(f"{n}.txt", b"Ten bytes.", "text/plain") for n in range(4)]).run()
    assert not app.exception
    said = [warning.value for warning in app.warning if "files of" in warning.value]
    assert len(said) == 1 and "of these 4 (0.0 MiB), the first 2 are used" in said[0]
    app.file_uploader(key="train-files").set_value([(f"{n}.txt", b"One.", "text/plain") for n in range(4)]).run()
    assert "the first 3 are used" in next(warning.value for warning in app.warning if "files of" in warning.value)


@pytest.mark.page
@pytest.mark.xdist_group("pages")
def test_the_newest_analyses_are_listed_however_many_runs_came_after_them(monkeypatch):
    monkeypatch.setattr(backend, "LISTED", 2)
    kinds = ["analysis"] * 3 + ["training"] * 3
    folders = [store.create(store.runs_root(), kind, f"run {n}", {}) for n, kind in enumerate(kinds)]
    for folder in folders:
        store.write_status(folder, state="done")
    read = []
    monkeypatch.setattr(store, "read_config", lambda folder: read.append(folder) or {})
    app = open_page("alignment", run="sample")
    picker = app.selectbox(key="run-picker")
    assert len(picker.options) == 1 + 2 and "run 2" in picker.options[1] and "run 1" in picker.options[2]
    assert "1 older analysis is" in picker.help
    assert not read  # YAML is slow


@pytest.mark.page
@pytest.mark.xdist_group("pages")
def test_files_as_people_have_them_are_read_by_the_form_and_what_they_are_is_said():
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    app.button_group(key="form-source").set_value("upload").run()
    for name, (data, texts, words) in inputs.FILES.items():
        app.file_uploader[0].set_value((name, data, "application/octet-stream")).run()
        assert not app.exception
        said = {caption.value for caption in app.caption}
        if texts:
            apart = re.sub(r", (?=\d+ (part|role))", "; ", words)
            assert {f"Prompts read: {len(texts)}", plain(f"Read as {apart}")} <= said, name
        else:
            assert any(plain(words) in found.value for found in app.markdown), name


@pytest.mark.page
@pytest.mark.xdist_group("pages")
def test_pasted_text_is_read_within_the_limits_of_an_upload_and_once(monkeypatch):
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    app.button_group(key="form-source").set_value("paste").run()
    app.text_area(key="form-pasted").set_value("Tom has 3 apples.").run()
    assert {"Prompts read: 1", "Read as plain text, 1 document"} <= {caption.value for caption in app.caption}
    monkeypatch.setattr(limited, "SECONDS", 0.01)
    app.run()
    assert "Prompts read: 1" in {caption.value for caption in app.caption}
    app.text_area(key="form-pasted").set_value("Tom has 4 apples.").run()
    assert any(plain("no end after 0.01 s, reading pasted.txt") in found.value for found in app.markdown)
    assert app.button(key="run-button").disabled and not app.exception


@pytest.mark.page
@pytest.mark.xdist_group("pages")
def test_what_the_form_recognised_can_be_overruled(monkeypatch):
    asked = []
    monkeypatch.setattr(backend, "launch", lambda request, documents: asked.append([d.text for d in documents]))
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    app.button_group(key="form-source").set_value("upload").run()
    row = {"prompt": "p", "messages": [{"role": "user", "content": "m"}], "problem": "q", "solution": "s"}
    app.file_uploader[0].set_value(("a.jsonl", json.dumps(row).encode(), "application/json")).run()
    assert any("several in one" in found.value for found in app.markdown)
    assert app.button(key="run-button").disabled
    app.selectbox(key="form-file-format").set_value("messages").run()
    app.button(key="run-button").click().run()
    app.selectbox(key="form-file-format").set_value("auto").run()
    app.selectbox(key="form-file-column").set_value("problem").run()
    app.selectbox(key="form-file-answer").set_value("solution").run()
    app.button(key="run-button").click().run()
    assert asked == [["m"], ["q\ns"]]


@pytest.mark.page
@pytest.mark.xdist_group("pages")
def test_a_column_is_asked_for_and_several_files_are_read_together(monkeypatch):
    asked = []
    monkeypatch.setattr(backend, "launch", lambda request, documents: asked.append((request.prompts, documents)))
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    app.button_group(key="form-source").set_value("upload").run()
    table = b"channel,question,region\nmail,Where is it?,north\nphone,When is it?,south\n"
    app.file_uploader(key="form-files").set_value([("c.csv", table, "text/csv")]).run()
    assert not app.exception and not app.error  # several columns of text are a question, not an error
    assert app.selectbox(key="form-file-which").value == "question"
    app.selectbox(key="form-file-which").set_value("region").run()
    assert "north" in [code.value for code in app.code]  # the first document
    assert any("--prompts c.csv --column region" in code.value for code in app.code)
    more = [("c.csv", table, "text/csv"), ("d.txt", b"Where is it?\n\nWho is it?", "text/plain")]
    app.file_uploader(key="form-files").set_value(more).run()
    app.button(key="run-button").click().run()
    assert not app.exception
    ((prompts_of, documents),) = asked
    assert prompts_of == "c.csv + 1"
    assert [d.text for d in documents] == ["Where is it?", "When is it?", "Who is it?"]
