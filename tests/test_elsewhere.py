"""A run in a folder of one's own is one of the runs: found by its path, listed, resumed, exported, taken off."""

import os

import pytest
import yaml
from transformers import AutoModelForCausalLM

from kvlab.cli import main
from kvlab.errors import RunError
from kvlab.runs import run_queue, store, training
from kvlab.runs.history import History
from tests.trainers import FAKE, nothing_outlives, state, wait_until_idle

SETTINGS = {"max_steps": 2, "use_kv_projector": True, "use_safe_resample": True}


def runs(*arguments):
    return main.main(["runs", *arguments])


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def own(tmp_path):
    """The folder of a stopped run, as an earlier version left it: not listed."""
    folder = tmp_path / "mine" / "result"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("steps: 3\ndevice: cpu\n")
    store.append_metrics(folder, {"step": 1, "loss": 3.0})
    store.write_status(folder, kind="training", name="result", state="cancelled")
    return folder


@pytest.mark.model
@pytest.mark.xdist_group("train-run")
@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_in_a_folder_of_ones_own_is_one_of_the_runs(pair, root, tmp_path, monkeypatch, capsys):
    os.symlink(pair["student"], tmp_path / "student")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(pair | SETTINGS | {"student": "./student"}))
    monkeypatch.chdir(tmp_path)
    assert main.main(["train", "--config", "settings.yaml", "--output_dir", "result"]) in (0, 1)
    assert store.read_config(tmp_path / "result")["student"] == pair["student"]
    (listed,) = store.listing(root)
    (row,) = History(root).rows()
    assert (row.id, row.name, row.state, row.step) == (listed.name, "result", "done", 2)
    capsys.readouterr()
    assert runs("list") == 0 and listed.name in capsys.readouterr().out
    for name in ("result", "result/", "./result", str(tmp_path / "result"), listed.name, listed.name[-4:]):
        assert runs("show", name) == 0
        assert f"{listed.name}\nfinished" in (shown := capsys.readouterr().out) and str(tmp_path / "result") in shown
    assert runs("report", "result/") == 0
    assert f"`{listed.name}`" in capsys.readouterr().out.splitlines()[0]
    assert runs("export", "result/", "--to", "student-2") == 0
    assert str(tmp_path / "student-2") in capsys.readouterr().out
    AutoModelForCausalLM.from_pretrained(tmp_path / "student-2")
    assert runs("resume", "result/") == 2 and "it is finished" in capsys.readouterr().err
    # The same command again: the same run.
    assert main.main(["train", "--config", "settings.yaml", "--output_dir", "result"]) in (0, 1)
    assert store.listing(root) == [listed]


def test_a_run_of_a_path_is_resumed_in_the_queue_and_then_listed(own, root, monkeypatch, capsys):
    monkeypatch.setattr(run_queue, "TRAINER", FAKE)
    with nothing_outlives(root):
        assert runs("resume", f"{own}/") == 0 and "Queued." in capsys.readouterr().out
        wait_until_idle(root)
    (listed,) = store.listing(root)
    assert listed.resolve() == own and state(own) == state(listed) == "done"
    assert run_queue.device(store.read_status(own)) == "cpu"
    assert [end["state"] for end in store.read_status(own)["history"]] == ["cancelled"]


def test_an_enlisted_run_is_found_whatever_happens_to_its_folder(own, root, tmp_path):
    listed = store.enlist(root, own)
    assert store.enlist(root, own) == store.in_list(root, own) == store.find(root, listed.name) == listed
    copied = tmp_path / "copied"
    copied.mkdir()
    for file in own.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    other = store.enlist(root, copied)
    assert other != listed and {path.resolve() for path in store.listing(root)} == {own, copied}
    again = store.enlist(tmp_path / "other runs", own)
    assert (again.name, again.resolve()) == (listed.name, own)
    own.rename(tmp_path / "moved")
    assert store.listing(root) == [other]
    with pytest.raises(RunError) as caught:
        store.find(root, listed.name)
    assert caught.value.kind == "run-not-found"


def test_delete_takes_it_off_the_list_and_leaves_its_files(own, root, monkeypatch, capsys):
    listed = store.enlist(root, own)
    before = {file.name: file.read_bytes() for file in own.iterdir()}
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked = []
    monkeypatch.setattr("builtins.input", lambda words: asked.append(words) or "y")
    assert runs("delete", listed.name) == 0 and f"Its files stay in {own}." in asked[0]
    assert store.listing(root) == [] and not os.path.lexists(listed)
    assert before.items() <= {file.name: file.read_bytes() for file in own.iterdir()}.items()
    training.sweep(root)


def test_a_folder_without_a_run_and_a_name_of_nothing_are_refused(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    refused = {"photos": "photos, which holds no run"}
    for name in ("./nothing", "~nobody-of-this-name/run", "x" * 300 + "/", "nul\0/"):
        refused[name] = "which fits none"
    for name, found in refused.items():
        assert runs("show", name) == 2
        assert found in capsys.readouterr().err
    assert not root.exists()
