"""Boards show each step of metrics.jsonl once, with its numbers, however the run came to it."""

import math
import sys
from types import SimpleNamespace

import pytest

from kvlab.errors import TrainError
from kvlab.request import refusals
from kvlab.request.train import TrainConfig
from kvlab.results.training.verdict import in_force
from kvlab.runs import store
from kvlab.train.boards import EVENTS, Board
from kvlab.train.process import perform
from tests.training import ended_behind, metrics, written

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("train-run")]
RECORDS = [{"step": n, "loss": 10.0 / n, "router": [0.25, n / 8]} for n in (1, 2, 3)]


def shown(folder):
    """{tag: [(step, value), ...]} of a run's event files, each event of every file, as no reader filters them."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = events.EventAccumulator(str(folder / EVENTS), {"scalars": 0}, purge_orphaned_data=False).Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def board(folder, records=(), kind="tensorboard", said=None):
    return Board(kind, folder, records, (said if said is not None else []).append)


def test_the_board_has_the_numbers_of_every_line(tmp_path):
    pytest.importorskip("tensorboard")
    opened = board(tmp_path)
    for line in [*RECORDS, {"step": 4, "loss": math.nan}]:
        opened.step(line)
    opened.show("heldout", {"ce": 2.5, "documents": 3}, 4)
    opened.close()
    found = shown(tmp_path)
    assert found["train/loss"][:3] == [(1, 10.0), (2, 5.0), (3, pytest.approx(10 / 3))]
    assert math.isnan(found["train/loss"][3][1]) and found["train/router.1"] == [(1, 0.125), (2, 0.25), (3, 0.375)]
    assert found["heldout/ce"] == [(4, 2.5)] and "train/step" not in found


def test_a_resumed_run_shows_the_steps_in_force_and_none_twice(tmp_path):
    """Also those that a killed process had not written; an open TensorBoard forgets what it has read."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = board(tmp_path)
    first.step(RECORDS[1])  # of its three steps the board has one
    open_one = events.EventAccumulator(str(tmp_path / EVENTS)).Reload()
    assert [event.step for event in open_one.Scalars("train/loss")] == [2]
    second = board(tmp_path, [*RECORDS, {"resumed_from": 2}])
    second.step({"step": 3, "loss": 7.0})
    assert shown(tmp_path)["train/loss"] == [(1, 10.0), (2, 5.0), (3, 7.0)]
    seen = [(event.step, event.value) for event in open_one.Reload().Scalars("train/loss")]
    assert seen == [(1, 10.0), (2, 5.0), (3, 7.0)]
    first.close(), second.close()


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_that_was_killed_and_resumed_is_on_the_board_as_in_its_metrics(pair, tmp_path):
    pytest.importorskip("tensorboard")
    folder = written(tmp_path / "run", pair | {"max_steps": 4, "log": "tensorboard"})
    with ended_behind(3):  # which is behind a checkpoint
        perform(folder)
    assert store.read_status(folder)["state"] == "failed"
    perform(folder)
    assert {"resumed_from": 2} in metrics(folder) and store.read_status(folder)["state"] == "done"
    lines, found = in_force(metrics(folder)), shown(folder)
    for name in ("loss", "ce", "kv_key", "lr"):
        assert found[f"train/{name}"] == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines]
    assert [step for step, _ in found["heldout/ce"]] == [0, 4]


def test_trackio_gets_the_same_under_the_id_of_the_run(tmp_path, monkeypatch):
    """Its calls are recorded: the package is optional."""
    calls, there = [], []

    def runs(project):
        if not there:
            raise ValueError(f"Project {project!r} does not exist")  # as trackio 0.43 does
        return [SimpleNamespace(name=n, delete=lambda n=n: calls.append(("delete", project, n))) for n in there]

    fake = SimpleNamespace(
        Api=lambda: SimpleNamespace(runs=runs),
        init=lambda project, name, **_: SimpleNamespace(
            log=lambda values, step: calls.append((name, step, values)), finish=lambda: calls.append("finish")
        ),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    (tmp_path / "result").mkdir()
    board(tmp_path / "result", kind="trackio").close()
    assert calls == ["finish"]
    there += ["result", "another"]
    opened = board(tmp_path / "result", [*RECORDS, {"resumed_from": 1}], "trackio")
    opened.step({"step": 2, "loss": 7.0})
    opened.close()
    assert calls[1:] == [
        ("delete", "kvlab", "result"),
        ("result", 1, {"train/loss": 10.0, "train/router.0": 0.25, "train/router.1": 0.125}),
        ("result", 2, {"train/loss": 7.0}),
        "finish",
    ]


def test_a_board_that_fails_is_given_up_with_one_line(tmp_path):
    (tmp_path / EVENTS).write_text("a file where the folder should be")
    said = []
    opened = board(tmp_path, RECORDS, said=said)
    opened.step({"step": 4, "loss": 1.0})
    opened.close()
    assert len(said) == 1 and said[0].startswith("no more steps on tensorboard: ")


def test_a_missing_package_is_refused_before_weights_are_loaded(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(refusals, "find_spec", lambda name: None if name == "tensorboard" else object())
    with pytest.raises(TrainError) as caught:
        refusals.check_log(TrainConfig(log="tensorboard"))
    assert "pip install tensorboard" in str(caught.value)
    refusals.check_log(TrainConfig(log="trackio"))
    folder = written(tmp_path / "run", pair | {"log": "tensorboard"})
    assert perform(folder) == 2 and store.read_status(folder)["error"]["kind"] == "log-missing"
