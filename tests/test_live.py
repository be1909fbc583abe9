"""What the live view reads and draws of a run: only what is new, every spike, and whose memory it is."""

import json
import math

import pytest

from kvlab.request.train import TrainConfig
from kvlab.runs import store
from kvlab.runs.metrics import Table
from kvlab.runs.stages import STAGES, place
from kvlab.shapes import LOADING, PHASES
from kvlab.web.training import charts
from kvlab.web.training.source import Source, settings_of
from kvlab.web.widgets import duration


def table(**columns):
    made = Table()
    for values in zip(*columns.values()):
        made.add(dict(zip(columns, values)))
    return made


def drawn(chart):
    """The rows of a chart's data."""
    found = chart.to_dict()
    return [row for rows in found["datasets"].values() for row in rows]


def test_a_long_line_keeps_its_spikes_its_gaps_and_its_end():
    values = [1.0] * 10_000
    values[4321], values[77], values[500] = 9.0, -3.0, math.nan
    kept = charts.thinned(range(10_000), values, most=400)
    assert len(kept) <= 401 and kept == sorted(kept)
    assert (4321, 9.0) in kept and (77, -3.0) in kept and kept[-1] == (9999, 1.0)
    assert not any(math.isnan(y) for _, y in kept)


def test_a_short_line_is_drawn_as_it_is():
    assert charts.thinned([1, 2, 3], [0.5, math.nan, 0.25]) == [(1, 0.5), (3, 0.25)]


def test_loss_terms_are_drawn_raw_and_smoothed_and_absent_ones_are_not():
    steps = table(step=[1, 2, 3], loss=[4.0, 2.0, 2.0], kv_key=[1.0, 1.0, 1.0], entropy=[None, None, None])
    rows = drawn(charts.terms(steps, charts.TERMS, "loss"))
    assert {row["name"] for row in rows} == {"total", "KV K"}
    raw = [row["value"] for row in rows if row["name"] == "total" and row["line"] == "raw"]
    smooth = [row["value"] for row in rows if row["name"] == "total" and row["line"] == "smoothed"]
    assert raw == [4.0, 2.0, 2.0]
    assert smooth[0] == pytest.approx(4.0) and 2.0 < smooth[2] < smooth[1] < 4.0
    assert charts.terms(Table(), charts.TERMS, "loss") is None


def test_the_specification_stays_the_same_while_a_chart_grows():
    def specification(count):
        steps = table(step=list(range(1, count)), loss=[1.0 / n for n in range(1, count)])
        found = charts.terms(steps, charts.TERMS, "loss").to_dict()
        del found["datasets"], found["data"]
        return json.dumps(found)

    assert specification(5) == specification(50)


GPU = {"process_rss": [2**30] * 2, "device_used": [20 * 2**30, 60 * 2**30], "device_total": [80 * 2**30] * 2}


def test_memory_of_a_gpu_has_its_limit_and_that_of_a_process_has_none():
    chart, what = charts.memory(table(t=[0.0, 1.0], **GPU), 0.8)
    assert what == "device"
    assert {"gib": 64.0, "words": "80% of 80 GiB"} in drawn(chart)
    own = table(t=[0.0, 1.0], process_rss=[2**30, 2**31], device_used=[2**30, 2**31], device_total=[8e9, 8e9])
    chart, what = charts.memory(own, 0.8)
    assert what == "process"
    assert [row["gib"] for row in drawn(chart)] == [1.0, 2.0]


def test_weights_of_teachers_are_drawn_by_name():
    steps = table(step=[1, 2], router=[[0.25, 0.75], [0.5, 0.5]])
    rows = drawn(charts.router(steps, ["a", "b"]))
    assert {(row["at"], row["name"], row["value"]) for row in rows} >= {(1, "1 a", 0.25), (1, "2 b", 0.75)}
    assert charts.router(table(step=[1], loss=[1.0]), ["a", "b"]) is None


@pytest.fixture
def folder():
    return store.create(store.runs_root(), "training", "mine", {"max_steps": 4})


def test_only_what_is_new_is_read(folder, monkeypatch):
    source = Source(folder)
    store.append_metrics(folder, {"step": 1, "loss": 2.0})
    assert source.steps().column("loss") == [2.0]
    offsets = []
    read = store.read_lines
    monkeypatch.setattr(store, "read_lines", lambda path, at=0: offsets.append(at) or read(path, at))
    size = (folder / store.METRICS).stat().st_size
    store.append_metrics(folder, {"step": 2, "loss": 1.0})
    assert source.steps().column("loss") == [2.0, 1.0]
    assert offsets == [size]


def test_checkpoints_are_pending_until_the_run_writes_them(folder):
    source, settings = Source(folder), settings_of(TrainConfig(max_steps=40).model_dump())
    rows = source.checkpoints(settings)
    assert {row["state"] for row in rows} == {"pending"}
    assert [row["step"] for row in rows][:4] == [0, 4, 20, 40]
    (folder / "verdict.json").write_text(json.dumps({"state": "fail", "checkpoints": [{"name": "memory"}]}))
    assert source.checkpoints(settings) == [{"name": "memory"}] and source.verdict() == "fail"
    assert source.checkpoints(None) == [{"name": "memory"}]


def test_the_log_is_its_last_lines_and_else_what_the_process_printed(folder):
    source = Source(folder)
    assert source.log() == ("", "")
    (folder / "output.log").write_text("Traceback\n")
    assert source.log() == ("output.log", "Traceback")
    (folder / "training.log").write_text("".join(f"line {n}\n" for n in range(50_000)))
    name, text = source.log()
    assert name == "training.log" and text.splitlines()[-1] == "line 49999" and len(text.splitlines()) == 12


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "–"), (0.4, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3725, "1 h 02 min")]
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def test_every_phase_belongs_to_a_stage_and_they_come_in_order():
    order = ["starting", LOADING + "demo/teacher", "fitting the map", "evaluating before", "training"]
    places = [place("training", phase, 3, 9) for phase in [*order, "saving", "evaluating after"]]
    assert places == [0, 0, 1, 2, 3, 3, 4] and place("training", "saving", 0, 1) == 5
    assert place("training", "dreaming", 0, 0) is None
    known = [phase for phase in PHASES if any(place(kind, phase, 0, 0) is not None for kind in STAGES)]
    assert set(known) == PHASES - {"writing the model"}  # of an export, which is no run
