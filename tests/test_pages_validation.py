"""The Validation page without a browser: the form's run, what it refuses, and a run's view in every state.

Runs are those of the fake trainer, in real processes.
"""

import json
import os
from pathlib import Path
from typing import get_args

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from kvlab.demo.corpus import problems
from kvlab.host import memory
from kvlab.request import prompts
from kvlab.request import train as settings
from kvlab.request.train import TrainConfig
from kvlab.runs import monitor, process, run_queue, store, training
from kvlab.runs.places import slurm
from kvlab.runs.places.slurm import SlurmSettings
from kvlab.web import server
from kvlab.web.training import launch as validation_launch
from kvlab.web.training import options as words
from tests.spoken import as_read
from tests.trained import functional
from tests.trainers import FAKE, launch, wait_for, wait_for_phase, wait_until_idle
from tests.waiting import wait_until

PAGES = Path(__file__).parents[1] / "pages"
SCRIPT = str(PAGES.parent / "kvlab" / "web" / "script.py")
pytestmark = [pytest.mark.page, pytest.mark.xdist_group("pages"), pytest.mark.usefixtures("worker_of_pages")]


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.setattr(run_queue, "TRAINER", FAKE)
    root = store.runs_root()
    yield root
    for entry in run_queue.entries(root):
        store.append(entry.folder / "stop", b"")
    wait_until_idle(root)


def open_page(**query):
    app = AppTest.from_file(SCRIPT, default_timeout=60)
    for name, value in query.items():
        app.query_params[name] = value
    return app.switch_page(str(PAGES / "validation.py")).run()


def said(app):
    kinds = (app.markdown, app.error, app.warning, app.info, app.success, app.subheader, app.caption)
    return as_read("\n".join(element.value for kind in kinds for element in kind))


def keys(app):
    return [button.key for button in app.button]


@pytest.fixture
def asked(monkeypatch):
    """The settings of launched runs, which are not started."""
    configs = []
    monkeypatch.setattr(validation_launch, "launch", lambda config, documents=(), to=None: configs.append(config))
    return configs


def test_one_click_asks_for_the_recommended_run(asked):
    app = open_page()
    assert not app.exception
    assert app.button(key="launch-button").label == "Launch 100-step validation"
    app.button(key="launch-button").click().run()
    assert asked == [TrainConfig()]
    assert not app.exception


def test_the_button_says_how_many_steps():
    app = open_page()
    app.number_input(key="train-max_steps").set_value(2500).run()
    assert app.button(key="launch-button").label == "Launch 2,500-step validation"


def test_a_preset_asks_for_two_teachers_and_forgets_what_was_set(asked):
    app = open_page()
    app.number_input(key="train-seed").set_value(7).run()
    app.button(key="preset-two").click().run()
    app.button(key="launch-button").click().run()
    assert not app.exception
    assert asked == [TrainConfig(teachers=("demo/teacher", "demo/teacher-b"), fusion="learned")]


def test_every_setting_of_a_run_is_in_the_form(monkeypatch):
    seen = []
    monkeypatch.setattr(validation_launch, "config_of", lambda asked: seen.append(asked.settings) or TrainConfig())
    monkeypatch.setattr(validation_launch, "launch", lambda *_: None)
    open_page().button(key="launch-button").click().run()
    assert set(seen[0]) == set(TrainConfig.model_fields) - {"apart_from"}  # which an experiment decides
    assert set(seen[0]["thresholds"]) == set(settings.Thresholds.model_fields)


def test_every_choice_has_words():
    for shown, choice in (
        (words.MAPS, settings.MapKind),
        (words.FUSIONS, settings.Fusion),
        (words.ENTROPIES, settings.Entropy),
        (words.TRAINABLE, settings.Trainable),
        (words.CONTROLS, settings.Control),
        (words.PRECISIONS, settings.Precision),
        (words.TIMES, settings.TimeRule),
        (words.LAYERS, settings.LayerRule),
        (words.KV_LOSSES, settings.KVLoss),
    ):
        assert set(shown) == set(get_args(choice))


def change(app, **fields):
    for name, value in fields.items():
        kind = {
            bool: app.toggle,
            str: app.selectbox,
            list: app.multiselect,
            int: app.number_input,
            float: app.number_input,
        }[type(value)]
        kind(key=f"train-{name}").set_value(value)
    return app.run()


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"teachers": []}, "at least one teacher"),
        ({"teachers": ["demo/none"]}, "one of the bundled models"),
        ({"trainable": "projector"}, 'trainable "projector" needs map "structured"'),
        ({"use_kv_projector": False}, "--use_kv_projector"),
        ({"use_kv_projector": False}, "12 x 16 / 16 in demo/teacher"),
        ({"precision": "fp16"}, "a GPU for --fp16"),
        ({"map_lr": 0.0}, "map_lr: Input should be greater than 0"),
        ({"threshold-spike": 1.0}, "thresholds.spike: Input should be greater than 1"),
    ],
)
def test_a_bad_value_or_pair_is_one_message_before_launch(fields, found):
    app = change(open_page(), **fields)
    app.button(key="launch-button").click().run()
    assert not app.exception
    told = said(app)
    assert found in told and told.count("What to do:") == 1
    assert not store.listing(store.runs_root())


@pytest.mark.parametrize("place", ["", "/no/such/folder"])
def test_a_folder_that_is_not_there_is_said(place):
    app = open_page()
    app.button_group(key="train-source").set_value("folder").run()
    app.text_input(key="train-folder").set_value(place).run()
    app.button(key="launch-button").click().run()
    assert "a file or folder with documents" in said(app)
    assert not store.listing(store.runs_root())


def test_weights_that_are_no_numbers_are_named(asked):
    app = change(open_page(), teachers=["demo/teacher", "demo/teacher-b"])
    app.text_input(key="train-fusion_weights").set_value("0.7 much").run()
    app.button(key="launch-button").click().run()
    assert "fusion_weights.1" in said(app) and not asked
    app.text_input(key="train-fusion_weights").set_value("0.7, 0.3").run()
    app.button(key="launch-button").click().run()
    assert asked[0].fusion_weights == (0.7, 0.3)


def uploaded(count):
    lines = [json.dumps({"prompt": p["prompt"], "answer": p["answer"]}) for p in problems("train", count, seed=1)]
    return "\n".join(lines).encode()


def test_uploaded_documents_go_into_the_runs_folder(root):
    app = open_page()
    app.button_group(key="train-source").set_value("upload").run()
    files = [("a.jsonl", uploaded(4), "application/json"), ("b.txt", b"A last one.", "text/plain")]
    app.file_uploader(key="train-files").set_value(files).run()
    app.button(key="launch-button").click().run()
    assert not app.exception
    (folder,) = store.listing(root)
    assert len(prompts.read_prompts(folder / prompts.RUN_PROMPTS)) == 5
    assert store.read_config(folder)["data"] == settings.OWN_PROMPTS
    assert app.query_params["run"] == folder.name
    wait_for(folder, "done")


def test_two_documents_are_too_few(root):
    app = open_page()
    app.button_group(key="train-source").set_value("upload").run()
    app.file_uploader(key="train-files").set_value([("a.jsonl", uploaded(2), "application/json")]).run()
    app.button(key="launch-button").click().run()
    assert "at least three documents" in said(app) and not store.listing(root)


def test_the_worker_is_ended_first_where_it_holds_the_same_gpu(asked, monkeypatch):
    monkeypatch.setattr(validation_launch, "held_on", lambda device: ["demo/teacher"])  # there is no GPU here
    ended = []
    monkeypatch.setattr(server.worker(), "stop", lambda: ended.append(True), raising=False)
    app = open_page()
    app.button(key="launch-button").click().run()
    assert "holds demo/teacher on this GPU" in said(app) and not asked
    app.button(key="room-none").click().run()
    assert "room-end" not in keys(app) and not asked
    app.button(key="launch-button").click().run()
    app.button(key="room-end").click().run()
    assert ended == [True] and asked == [TrainConfig()]


def test_what_a_job_asks_for_is_in_the_form_where_slurm_is_found(root, monkeypatch):
    sent = []
    monkeypatch.setattr(validation_launch, "launch", lambda config, documents=(), to=None: sent.append((config, to)))
    monkeypatch.setattr(slurm, "found", lambda: True)
    store.make_root(root)
    (root / slurm.DEFAULTS).write_text("partition: long\ncpus: 3\n")
    app = change(open_page(), precision="fp16")  # which a login node without a GPU cannot run, and the job can
    app.button_group(key="train-place-where").set_value("slurm").run()
    assert app.text_input(key="train-place-partition").value == "long"
    app.number_input(key="train-place-gpus").set_value(4)
    app.text_input(key="train-place-time_limit").set_value("soon").run()
    assert "soon" in said(app) and app.button(key="launch-button").disabled
    assert app.button(key="launch-experiment").disabled
    app.text_input(key="train-place-time_limit").set_value("2:00:00").run()
    app.button(key="launch-button").click().run()
    assert not app.exception
    job = SlurmSettings(partition="long", cpus=3, gpus=4, time_limit="2:00:00")
    assert sent == [(TrainConfig(precision="fp16"), job)]
    app.button_group(key="train-place-where").set_value("here").run()
    app.button(key="launch-button").click().run()
    assert "a GPU for --fp16" in said(app) and len(sent) == 1
    folder = store.create(root, "training", "job", {})
    slurm._enter(folder)
    store.write_status(folder, state="queued", job={"id": "7"}, queue={"host": "slurm"})
    app.run()  # no controller answers here
    assert not app.exception and "Slurm does not answer" in said(app)
    assert monitor.view(folder).state == "queued"
    slurm.leave(folder)


def test_a_processor_asks_for_no_room():
    assert memory.device_memory("cpu").device == "cpu"
    assert validation_launch.held_on("cpu") == []


def test_a_busy_device_and_the_place_in_the_queue_are_said(root):
    first = launch(root, hang="training")
    pid = wait_for_phase(first, "training")
    app = open_page()
    assert "The device is busy: 1 run before it in the queue" in said(app)
    assert f"show-{first.name}" in keys(app)
    app.button(key="launch-button").click().run()
    second = next(folder for folder in store.listing(root) if folder != first)
    assert app.query_params["run"] == second.name
    assert "The device is busy. 1 run is before it in the queue" in said(app)
    app.button(key=f"stop-{second.name}").click().run()
    assert monitor.view(second).state == "cancelled" and "This run was stopped" in said(app)
    assert process.exists(pid, store.read_status(first)["process_started"])


def test_a_run_is_stopped_resumed_and_killed_from_its_page(root):
    folder = launch(root, steps=7, max_steps=7, hang="evaluating after")
    wait_for_phase(folder, "evaluating after")
    app = open_page(run=folder.name)
    assert not app.exception
    step = next(metric for metric in app.metric if metric.label == "Step")
    assert step.value == "7 of 7"
    app.button(key=f"stop-{folder.name}").click().run()
    wait_until(lambda: training.gone(folder), 30, "the end of a stopped run")
    app.run()
    assert "This run was stopped" in said(app) and "Its process is gone" in said(app)

    (folder / "been").unlink()  # it hangs again
    app.button(key=f"resume-{folder.name}").click().run()
    pid = wait_for_phase(folder, "evaluating after")
    app.run()
    app.button(key=f"kill-{folder.name}").click().run()
    assert "Kill ends the process" in said(app)
    app.button(key=f"kill-no-{folder.name}").click().run()
    assert f"kill-yes-{folder.name}" not in keys(app) and monitor.view(folder).state == "running"
    app.button(key=f"kill-{folder.name}").click().run()
    app.button(key=f"kill-yes-{folder.name}").click().run()
    assert f"Killed: process {pid} and all that it started are gone." in said(app)
    assert "This run was killed" in said(app)
    assert not process.group_members(pid)


def test_why_a_run_cannot_be_killed_is_said_and_stays():
    run = finished("running", host="another", pid=1, next_heartbeat_due="2999-01-01T00:00:00+00:00")
    app = open_page(run=run.name)
    app.button(key=f"kill-{run.name}").click().run()
    app.button(key=f"kill-yes-{run.name}").click().run()
    for _ in range(2):
        assert not app.exception and "one on another" in said(app)
        app.run()  # the next look


def finished(state, config=None, **status):
    folder = store.create(
        store.runs_root(), "training", "mine", {**TrainConfig().model_dump(mode="json"), **(config or {})}
    )
    store.write_status(folder, state=state, **status)
    return folder


def out_of_memory(changes):
    return {
        "kind": "out-of-memory",
        "expected": "memory",
        "found": "CUDA *out*",
        "remedy": "batch 1",
        "changes": changes,
    }


def test_a_failed_run_says_why_and_launches_what_may_work(asked):
    changes = {"batch_size": 1, "gradient_accumulation_steps": 4}
    folder = finished("failed", error=out_of_memory(changes))
    app = open_page(run=folder.name)
    assert not app.exception
    assert "This run failed" in said(app) and "CUDA *out*" in said(app) and "batch 1" in said(app)
    button = app.button(key=f"again-{folder.name}")
    assert as_read(button.label) == "Launch again with batch_size 1, gradient_accumulation_steps 4"
    button.click().run()
    assert asked == [TrainConfig(batch_size=1, gradient_accumulation_steps=4)]


def test_a_failure_without_a_known_change_offers_none():
    folder = finished("failed", error={**out_of_memory({}), "kind": "model-not-found"})
    app = open_page(run=folder.name)
    assert f"again-{folder.name}" not in keys(app) and f"resume-{folder.name}" in keys(app)


def test_a_run_that_the_system_killed_is_lost_and_may_be_tried_with_less_memory(root):
    folder = launch(root, die="training")
    wait_for(folder, "lost")
    wait_until_idle(root)
    (folder / store.CONFIG).write_text(yaml.safe_dump(TrainConfig().model_dump(mode="json")))
    app = open_page(run=folder.name)
    assert not app.exception
    assert "This run was lost" in said(app) and "SIGKILL" in said(app)
    assert validation_launch.changes_of(monitor.view(folder)) == {"batch_size": 1, "gradient_accumulation_steps": 4}
    app.button(key=f"resume-{folder.name}").click().run()
    wait_for(folder, "done")


CE = {"before": (0.5, 0.49, 0.51, 0.5), "after": (0.76, 0.74, 0.75, 0.75)}  # of each held-out document


def test_the_verdict_is_said_with_what_was_measured():
    folder = finished("done", phase="reporting")
    checkpoints = [{"step": 100, "name": "memory", "state": "pass", "value": 0.5, "threshold": 0.8, "words": "half"}]
    (folder / "verdict.json").write_text(json.dumps({"state": "pass", "checkpoints": checkpoints}))
    measured = {"ce": 0.5, "kv_key": 1.25, "kv_value": 1.5, "documents": 32, "tokens": 3700}
    rows = {when: [[ce * (100 + n), 100 + n] for n, ce in enumerate(each)] for when, each in CE.items()}
    report = {
        when: measured | {"ce": ce, "ce_by_document": rows[when]} for when, ce in (("before", 0.5), ("after", 0.75))
    }
    config = TrainConfig().model_dump(mode="json")
    (folder / "report.json").write_text(json.dumps(report | {"functional": functional(), "config": config}))
    app = open_page(run=folder.name)
    assert not app.exception and not app.success
    (verdict,) = [element.value for element in app.error]  # it runs and makes the student worse: red
    assert "It helps: worse." in verdict and "+0.2500" in verdict
    assert "It runs: passed.** All 1 checkpoints passed in 100 steps" in said(app)
    assert "cross-entropy 0.5000 → 0.7500 nats per token" in said(app) and "KV error of K 1.2500" in said(app)
    assert "on the projected cache KL 0.250 ± 0.010 → 0.125 ± 0.010 (-0.125 ± 0.030)" in said(app)
    assert len(app.get("plotly_chart")) == 1
    labels = [button.label for button in app.get("download_button")]
    assert labels == [
        "SVG, PNG, HTML",
        "HTML, one file with figures",
        "Markdown",
        "JSON",
        "config.yaml",
        "verdict.json",
    ]

    checkpoints[0]["state"] = "fail"
    (folder / "verdict.json").write_text(json.dumps({"state": "fail", "checkpoints": checkpoints}))
    assert "It runs: failed** in 100 steps, at: memory" in said(open_page(run=folder.name))


def test_the_next_step_is_to_launch_the_controls(monkeypatch):
    folder, launched = finished("done", phase="reporting"), []
    config = TrainConfig().model_dump(mode="json")
    (folder / store.CONFIG).write_text(yaml.safe_dump(config))
    rows = [[50.0, 100], [52.0, 100], [49.0, 100]]
    measured = {"ce": 0.5, "ce_by_document": rows}
    (folder / "report.json").write_text(json.dumps({"before": measured, "after": measured, "config": config}))
    monkeypatch.setattr(
        validation_launch, "launch", lambda config, documents=(), to=None: launched.append(config) or "new"
    )
    app = open_page(run=folder.name)
    assert "It helps: not compared yet." in app.info[0].value and "CE only" in app.info[0].value
    app.button(key=f"controls-{folder.name}").click().run()
    assert not app.exception
    controls = ("ce-only", "shuffled-teacher", "random-teacher")
    assert launched == [TrainConfig(control=control) for control in controls]


@pytest.mark.parametrize("run", ["../../etc/passwd", "20260101T000000.000Z-gone-abcd", "<script>"])
def test_an_address_of_no_run_is_one_clear_message(run):
    app = open_page(run=run)
    assert not app.exception
    assert "Expected" in said(app) and said(app).count("What to do") == 1


def test_a_run_deleted_under_the_page_is_said(root):
    folder = finished("cancelled")
    app = open_page(run=folder.name)
    training.delete(folder)
    app.run()
    assert not app.exception and "no such folder" in said(app)
    app.button(key="validation-new").click().run()
    assert "run" not in app.query_params and "launch-button" in keys(app)


def test_an_analysis_is_sent_to_its_own_page():
    folder = store.create(store.runs_root(), "analysis", "mine", {"teacher": "a", "student": "b"})
    app = open_page(run=folder.name)
    assert not app.exception and "not a training run" in said(app)


def test_damaged_files_of_a_run_do_not_break_its_page():
    folder = finished("done")
    (folder / "config.yaml").write_text(":\n\t- [")
    (folder / "verdict.json").write_text('{"state": [1], "checkpoints": [3, {"name": null, "value": "x"}]}')
    (folder / "report.json").write_text("[" * 100_000)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\nnonsense\n{"step": 2, "lo')
    (folder / "memory.jsonl").write_text('{"t": 1}\n')
    (folder / "training.log").write_bytes(b"\xff\xfe words\n")
    app = open_page(run=folder.name)
    assert not app.exception
    assert "1 damaged lines" in said(app)


def test_a_queue_that_stands_still_goes_on_when_the_server_starts_or_a_page_is_opened(root):
    folder = store.create(root, "training", "waits", {"steps": 2})
    store.write_status(folder, queue={"host": os.uname().nodename, "device": "cpu", "visible_devices": None})
    assert not run_queue.entries(root)  # whoever queued it died in between
    assert server.recover_queue() is None
    wait_for(folder, "done")
    wait_until_idle(root)

    other = store.create(root, "training", "waits", {"steps": 2})
    run_queue.add(other, "cpu")
    open_page()
    wait_for(other, "done")


def test_a_queue_that_cannot_go_on_is_said_on_the_page(root, monkeypatch):
    folder = store.create(root, "training", "waits", {"steps": 2})
    run_queue.add(folder, "cpu")
    monkeypatch.setattr(run_queue, "KEEPER", ("/no/such/python",))
    assert server.recover_queue().kind == "runs-unwritable"
    app = open_page()
    assert not app.exception and "The run queue is not moving" in said(app)
    training.stop(folder)
    assert server.problem() is None
