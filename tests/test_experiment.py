"""Experiments: the settings of their runs, their folder, what is taken in, and how they are judged."""

import json
import re

import pytest

from kvlab.cli.main import main
from kvlab.errors import KvlabError, RunError, TrainError
from kvlab.request.experiment import Experiment, arms_of, seeds_of
from kvlab.request.settings import checked
from kvlab.request.train import TrainConfig
from kvlab.results.training import experiment_report
from kvlab.results.training.experiment import gather, of_run
from kvlab.runs import experiment, run_queue, store, training

# Held-out cross-entropies at the end of three seeds, from docs/benchmarks.md, and KV errors of keys.
CE = {"kv": (0.353, 0.347, 0.352), "ce-only": (0.355, 0.348, 0.355), "shuffled-teacher": (0.415, 0.411, 0.411)}
KEYS = {"kv": (0.194, 0.188, 0.189), "ce-only": (0.320, 0.312, 0.317), "shuffled-teacher": (0.450, 0.453, 0.446)}
BEFORE = (0.333, 0.328, 0.329)


@pytest.fixture
def idle(monkeypatch):
    """A queue that starts nothing."""
    monkeypatch.setattr(run_queue, "attend", lambda *_: None)
    return store.runs_root()


def begun(root, seeds=(0, 1, 2), **fields):
    fields = {"name": "pair", "arms": arms_of(CE), "plans": [seeds], **fields}
    folder = experiment.create(root, checked(Experiment, fields))
    experiment.launch(folder)
    return folder


def finish(folder, arms=CE, tokens=14_360):
    """Let the runs of an experiment end as those of docs/benchmarks.md."""
    described = experiment.read(folder)
    for arm, values in arms.items():
        for seed, ce in zip(described.seeds, values):
            run = folder.parent.parent / described.runs[arm][seed]
            counts = {"documents": 128, "tokens": tokens + seed, "rows": 14_000}
            numbers = [{"ce": BEFORE[seed % 3], "kv_key": 0.3, **counts}, {"ce": ce, **counts}]
            numbers[1]["kv_key"] = KEYS.get(arm, KEYS["kv"])[seed % 3]
            versions = {"kvlab": experiment.__version__, **{n: experiment.version(n) for n in experiment.LIBRARIES}}
            report = {"before": numbers[0], "after": numbers[1], "versions": versions, "config": {}}
            (run / "report.json").write_text(json.dumps(report))
            store.write_status(run, state="done")
            run_queue.remove(run)
    return gather(folder)


def test_arms_and_seeds_are_read_as_they_are_written():
    spelled = ["slow:lr=1e-4,max-steps=200", "two:teachers=[demo/teacher,demo/teacher-b],fusion=learned"]
    assert arms_of(["kv", "slow", "ce-only"], spelled) == {
        "kv": {},
        "slow": {"lr": "1e-4", "max_steps": 200},  # YAML's own reading; the settings make it a number
        "ce-only": {"control": "ce-only"},
        "two": {"teachers": ["demo/teacher", "demo/teacher-b"], "fusion": "learned"},
    }
    assert seeds_of("0-2,7,1") == (0, 1, 2, 7)
    for text in ("", "a", "3-1", "-1"):
        with pytest.raises(TrainError, match="seeds like"):
            seeds_of(text)
    for arm in ("slow", ":lr=1", "slow:lr"):
        with pytest.raises(TrainError, match="an arm like"):
            arms_of([], [arm])
    with pytest.raises(TrainError, match="nobody"):
        arms_of(["nobody"])


def test_every_arm_and_length_has_the_same_held_out_text():
    long = {"kv": {}, "long": {"max_steps": 500}, "ce-only": {"control": "ce-only"}}
    configs = checked(Experiment, {"arms": long, "plans": [[3]]}).configs()
    assert {name: config.apart_from for (_, name), config in configs.items()} == {
        "kv": 1000,
        "long": 0,
        "ce-only": 1000,
    }
    assert list(configs) == [(3, "kv"), (3, "long"), (3, "ce-only")] and configs[3, "long"].seed == 3
    for setting, value in (("eval_documents", 5), ("student", "demo/teacher"), ("max_tokens", 99)):
        with pytest.raises(TrainError, match=setting):
            checked(Experiment, {"arms": {"kv": {}, "other": {setting: value}}}).configs()
    with pytest.raises(TrainError, match="the same run"):
        checked(Experiment, {"arms": {"kv": {}, "twin": {"device": "cpu"}}}).configs()
    with pytest.raises(TrainError, match="at least two arms"):
        checked(Experiment, {"arms": {"kv": {}}})


def test_a_shorter_run_leaves_out_what_a_longer_one_trains_on():
    from kvlab.train import data

    long = TrainConfig(max_steps=150, fit_documents=2)
    short = TrainConfig(max_steps=5, fit_documents=2, apart_from=long.documents_read)
    texts = []
    for config in (short, long):
        train, _, _ = data.documents(config, store.runs_root())
        texts.append(data._known(config, train))
    assert texts[0] == texts[1] and len(texts[0]) == 300


def test_a_folder_names_its_runs_and_takes_in_those_that_exist(idle):
    config = TrainConfig(control="ce-only", seed=1, checkpoint_every=7, functional=True)
    there = training.launch(config.model_dump(mode="json"), "mine", root=idle)
    other = training.launch(TrainConfig(control="ce-only", seed=1, lr=0.5).model_dump(mode="json"), "other", root=idle)
    folder = begun(idle)
    described = experiment.read(folder)
    assert described.runs["ce-only"][1] == there and described.taken == (there,)
    ids = [run_id for runs in described.runs.values() for run_id in runs.values()]
    assert len(set(ids)) == 9 and other not in ids and all((idle / run_id).is_dir() for run_id in ids)
    settings = store.read_config(idle / described.runs["shuffled-teacher"][2])
    assert (settings["control"], settings["seed"]) == ("shuffled-teacher", 2)
    first = [entry.folder.name for entry in run_queue.entries(idle)][2:5]
    assert first == [described.runs[arm][0] for arm in CE]  # whole pairs come first

    training.stop(idle / described.runs["kv"][0])
    training.delete(idle / described.runs["kv"][0])
    assert experiment.states(folder, described)["kv", 0] == "missing"
    again = experiment.launch(folder)
    assert again.runs["kv"][0] != described.runs["kv"][0] and again.runs["ce-only"] == described.runs["ce-only"]
    assert len(experiment.stop(folder)) == 8  # not the one that was taken in
    assert len(experiment.resume(folder)) == 8
    with pytest.raises(RunError, match="fits 0"):
        experiment.find(idle, "nobody")


def test_finished_runs_of_another_version_are_repeated(idle):
    folder = begun(idle)
    finish(folder)
    second = begun(idle)
    assert len(experiment.read(second).taken) == 9
    run = idle / experiment.read(folder).runs["kv"][0]
    report = json.loads((run / "report.json").read_text())
    (run / "report.json").write_text(json.dumps(report | {"versions": {"kvlab": "0"}}))
    assert len(experiment.read(begun(idle)).taken) == 8
    assert len(gather(folder)["versions"]) == 2


def test_an_experiment_says_what_the_documentation_says_with_intervals(idle):
    folder = begun(idle)
    assert gather(folder)["verdict"]["words"].template.startswith("Not judged yet")
    report = finish(folder)
    ce, keys = report["measures"]["ce"], report["measures"]["kv_key"]
    without, shuffled = ce["comparisons"]
    assert (without["call"], shuffled["call"]) == ("no different", "better")
    assert without["mean"] == pytest.approx(-0.002) and without["n"] == 3
    assert (without["low"], without["high"]) == pytest.approx((-0.002 - 0.0024841, -0.002 + 0.0024841), abs=1e-6)
    assert [row["call"] for row in keys["comparisons"]] == ["better", "better"]
    assert ce["arms"][0]["mean"] == pytest.approx((0.020 + 0.019 + 0.023) / 3)
    assert str(report["verdict"]["words"]).startswith("It does not help: no different from ce-only (-0.0020 [-0.0045")
    assert of_run(idle, experiment.read(folder).runs["kv"][1])[1]["state"] == "helps not"
    assert of_run(idle, experiment.read(folder).runs["ce-only"][1]) is None


def test_it_helps_where_it_ends_below_its_controls_and_its_start(idle):
    lower = {"kv": (0.30, 0.29, 0.295), "ce-only": (0.333, 0.328, 0.331), "shuffled-teacher": (0.35, 0.34, 0.36)}
    report = finish(begun(idle), lower)
    assert report["verdict"]["state"] == "helps" and "from its own start" in str(report["verdict"]["words"])
    one = finish(begun(idle, seeds=(5, 6)), {"kv": (0.30, 0.29), "ce-only": (0.31, 0.33), "shuffled-teacher": (1, 1)})
    assert one["verdict"]["state"] == "unknown"
    (against, _) = one["measures"]["ce"]["comparisons"]
    assert against["call"] == "too few seeds" and against["more"] >= 1


def test_runs_on_other_text_are_no_pair_and_errors_of_other_targets_are_not_compared(idle):
    folder = begun(idle, arms=arms_of(["kv", "exact-rows", "random-teacher"]))
    finish(folder, {"kv": CE["kv"]})
    report = finish(folder, {"exact-rows": CE["kv"], "random-teacher": CE["kv"]}, tokens=15_000)
    (exact, _) = report["measures"]["ce"]["comparisons"]
    assert exact["unlike"] == [0, 1, 2] and exact["n"] == 0 and exact["call"] == "too few seeds"
    assert all(row["other_target"] and row["call"] is None for row in report["measures"]["kv_key"]["comparisons"])
    assert report["controls"] == ["random-teacher"]


def test_seeds_that_are_added_after_a_result_are_another_look(idle):
    folder = begun(idle)
    assert experiment.extend(folder, [3]).plans == ((0, 1, 2, 3),)  # nothing had ended: no look was taken
    experiment.launch(folder)
    finish(folder, {arm: (*values, values[0]) for arm, values in CE.items()})
    assert len(experiment.extend(folder, [3, 4]).plans) == 2
    experiment.launch(folder)
    looks = gather(folder)["looks"]
    assert (looks["taken"], looks["planned"], looks["level"]) == (1, 1, 0.975)
    assert looks["error_rate"] == pytest.approx(0.075)
    assert "look 2, of which 1 planned" in experiment_report.judging(gather(folder))
    with pytest.raises(TrainError, match="does not have yet"):
        experiment.extend(folder, [0])


def test_reports_hold_the_calls_in_every_form_and_language(idle, tmp_path):
    folder = begun(idle, name="<b>*pair*</b>")
    report = finish(folder)
    paths = {path.name: path.read_text() for path in experiment_report.write(report, tmp_path / "out")}
    assert {"report.md", "report.html", "experiment.json"} == set(paths)
    stored = json.loads(paths["experiment.json"])
    assert stored["measures"]["ce"]["comparisons"][0]["call"] == "no different" and stored["seeds"] == [0, 1, 2]
    assert re.search(
        r"cross-entropy.*`ce-only` \| −0.0020 .*−0.0045, \+0.0005.* \| 3 \| ± 0.01 \| no different", paths["report.md"]
    )
    assert "<b>*pair*" not in paths["report.html"] and "plotly" in paths["report.html"]
    assert "无差异" in experiment_report.text_of(report, "md", "zh")
    figure = experiment_report.figure(report)
    dots = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert len(dots) == 2 * 3 and list(dots[0].y) == pytest.approx([0.020, 0.022, 0.082])


def test_the_command_begins_follows_reports_and_lists(idle, capsys, monkeypatch, tmp_path):
    assert main(["experiment"]) == 0 and "No experiments in" in capsys.readouterr().out
    flags = ["--seeds", "0-2", "--arms", "kv,ce-only,shuffled-teacher", "--lr", "0.01", "--no-wait"]
    assert main(["experiment", *flags]) == 0 and "9 runs, of which 0 existed" in capsys.readouterr().out
    (folder,) = experiment.listing(idle)
    assert experiment.read(folder).settings["lr"] == 0.01
    finish(folder)
    assert main(["experiment", folder.name[-4:], "--format", "json"]) == 1  # it does not help
    assert json.loads(capsys.readouterr().out)["verdict"]["state"] == "helps not"
    assert main(["experiment"]) == 0 and "kv, ce-only, shuffled-teacher × 3" in capsys.readouterr().out
    run = experiment.read(folder).runs["kv"][0]
    assert main(["experiment", "--of", run, "--seeds", "0-3", "--no-wait"]) == 0
    assert "12 runs, of which 9 existed" in capsys.readouterr().out
    assert main(["experiment", folder.name, "--lr", "1"]) == 2 and main(["experiment", "--delete"]) == 2
    assert main(["experiment", "--arms", "kv"]) == 2
    assert main(["experiment", folder.name, "--tensorboard", str(tmp_path / "board")]) == 1
    assert {path.parent.name for path in (tmp_path / "board").glob("*/seed-*")} == set(CE)
    assert main(["experiment", folder.name, "--delete"]) == 0 and not folder.exists() and (idle / run).is_dir()


def test_a_damaged_experiment_is_an_error_with_a_remedy(idle):
    folder = begun(idle)
    for content in (b"\xff", b"arms: 3", b"[]"):
        (folder / experiment.FILE).write_bytes(content)
        with pytest.raises(KvlabError):
            gather(folder)
    assert of_run(idle, "x") is None
