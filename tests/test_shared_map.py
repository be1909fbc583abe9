"""Runs that would fit the very same maps fit them once; anything that could change a map makes another."""

import pytest
import torch
from safetensors.torch import load_file

from kvlab.runs import store
from kvlab.train import maps, shared_map
from kvlab.train.record import MAPS
from tests.training import prepared

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("train-run")]


@pytest.fixture
def fitted(monkeypatch):
    """How often maps were fitted."""
    times, fit = [], maps.fit

    def counted(*arguments):
        times.append(1)
        return fit(*arguments)

    monkeypatch.setattr(maps, "fit", counted)
    return times


def run_of(settings):
    return prepared(store.create(store.runs_root(), "training", "arm", settings), settings)


def test_arms_of_one_seed_share_their_maps_and_others_do_not(pair, fitted):
    first = run_of(pair)
    for arm in ({"control": "shuffled-teacher"}, {"control": "ce-only", "lr": 1e-4}, {"kv_loss": "head-outputs"}):
        again = run_of(pair | arm)
        assert len(fitted) == 1
        mine, other = (load_file(run.folder / MAPS) for run in (again, first))
        assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)
        assert again.fitted[0].scale == first.fitted[0].scale and again.report["maps"] == first.report["maps"]
    changes = ({"seed": 1}, {"control": "random-teacher"}, {"fit_documents": 11}, {"time": "nearest"}, {"sinks": 2})
    for number, change in enumerate(changes, 2):
        run_of(pair | change)
        assert len(fitted) == number, change


def test_a_run_in_a_folder_of_ones_own_fits_its_maps(pair, fitted, tmp_path):
    for name in ("a", "b"):
        prepared(tmp_path / name, pair)
    assert len(fitted) == 2


def test_one_changed_weight_or_token_is_another_map(pair, tmp_path):
    run = prepared(tmp_path / "run", pair)
    teacher, items = run.teachers.models[0], run.data.train[:3]
    settings = maps.AlignSettings()

    def asked():
        return shared_map.key([teacher], run.student, items, "ridge", settings)

    keys = [asked()]
    assert asked() == keys[0]
    norm = teacher.model.model.norm.weight
    with torch.no_grad():
        for change in (lambda: norm.fill_(3.0), lambda: norm.fill_(2.0), lambda: norm[:1].add_(1e-3)):
            change()
            keys.append(asked())
    items[0].student.ids[1] += 1
    keys.append(asked())
    assert len(set(keys)) == len(keys)


def test_a_damaged_file_is_no_map(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / MAPS).write_bytes(b"\x00" * 20)
    assert shared_map.of_another_run(tmp_path / "b", "key", MAPS) is None
