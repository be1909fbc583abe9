"""The Runs page without a browser, on real folders, real processes and one really trained run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import altair
import pytest

from kvlab.errors import RunError
from kvlab.runs import exports, monitor, notes, run_queue, store, training
from kvlab.web.training import charts, share, source
from tests import trained, trainers
from tests.spoken import as_read
from tests.test_history import ODD
from tests.test_pages import open_page, said
from tests.training import metrics
from tests.waiting import wait_until

pytestmark = [pytest.mark.page, pytest.mark.xdist_group("pages")]


@pytest.fixture
def root() -> Path:
    return store.runs_root()


@pytest.fixture
def fake(root, monkeypatch):
    """Runs that are launched are carried out by the fake trainer, in real processes that end with the test."""
    monkeypatch.setattr(run_queue, "TRAINER", trainers.FAKE)
    with trainers.nothing_outlives(root):
        yield


def page(*folders: Path, **query):
    ids = {"runs": ",".join(folder.name for folder in folders)} if folders else {}
    app = open_page("runs", **ids, **query)
    assert not app.exception
    return app


def history(app):
    return app.dataframe[0].value


def table(app, column: str):
    """The table that has this column."""
    return next(frame.value for frame in (*app.dataframe, *app.table) if column in frame.value.columns)


def everything(app) -> str:
    others = [e.value for kind in (app.warning, app.success, app.caption, app.code) for e in kind]
    return as_read("\n".join([said(app), *others]))


def click(app, key: str):
    app.button(key=key).click().run()
    assert not app.exception
    return app


# --- history and selection ---------------------------------------------------------------------------------------


def test_an_empty_folder_says_so():
    assert "No training runs yet" in said(page())


def test_the_history_tells_each_run_and_filters(root):
    trained.by_hand(root, "kv", steps=100)
    trained.lost(root)
    store.create(root, "analysis", "mine", {"teacher": "a"})
    app = page()
    shown = history(app)
    assert shown["name"].tolist() == ["gone", "kv"]
    assert shown["state"].tolist() == ["lost", "finished"]
    assert shown["steps"].tolist() == ["4 / 80", "100 / 80"] and shown["verdict"].tolist() == ["✓ passed"] * 2
    assert shown["loss"].tolist() == [2.5, 0.1] and shown["ce_after"].tolist() == [3.25, 3.25]
    app.button_group(key="runs-show").set_value("analysis").run()
    assert history(app)["name"].tolist() == ["mine"]
    app.button_group(key="runs-show").set_value("all").run()
    assert history(app)["name"].tolist() == ["mine", "gone", "kv"]


def test_unknown_ids_are_named_in_one_message_and_the_rest_is_shown(root):
    run = trained.by_hand(root)
    app = open_page("runs", runs=f"20260101T000000.000Z-away-abcd,{run.name},../../etc,<script>,,{run.name}")
    assert not app.exception and len(app.warning) == 1
    for part in ("away-abcd", "etc", "script"):
        assert part in app.warning[0].value
    assert f"kv · {run.name[-4:]}" in said(app)


def test_the_selection_outlives_a_change_of_page(root):
    run = trained.by_hand(root)
    app = page(run)
    pages = Path(__file__).parents[1] / "pages"
    app.switch_page(str(pages / "overview.py")).run()
    app.query_params.pop("runs", None)
    app.switch_page(str(pages / "runs.py")).run()
    assert f"kv · {run.name[-4:]}" in said(app) and app.query_params["runs"] == run.name


# --- several -----------------------------------------------------------------------------------------------------


def test_several_are_compared_by_what_differs(root):
    first = trained.by_hand(root, "first", lr=1e-3)
    second = trained.by_hand(root, "second", lr=2e-3, control="ce-only", thresholds={"memory": 0.5})
    report = {"before": {"ce": 3.5, "kv_key": 1.0, "documents": 32, "tokens": 3700}}
    trained.write(second, "report.json", report)
    assert not any(name.startswith("kl ") for name in table(page(first, second), "steps/s").columns)
    trained.write(second, "report.json", report | {"functional": trained.functional((0.25, 0.125))})
    app = page(first, second)
    labels = [f"{name} · {run.name[-4:]}" for name, run in (("first", first), ("second", second))]
    differing = table(app, "setting").set_index("setting")
    assert differing.to_dict("index") == {
        "lr": dict(zip(labels, ("0.001", "0.002"))),
        "control": dict(zip(labels, ("none", "ce-only"))),
        "thresholds.memory": dict(zip(labels, ("0.8", "0.5"))),
    }
    results = table(app, "steps/s").set_index("run")
    assert results.loc[labels[0], ["ce before", "ce after", "steps/s"]].tolist() == [3.5, 3.25, 2.0]
    assert results.loc[labels[1], ["kv_key before", "documents", "tokens"]].tolist() == [1.0, 32, 3700]
    assert results.loc[labels[1], ["kl_before", "kl_after"]].tolist() == [0.25, 0.125]
    assert "which differ by control" in everything(app) and "Not on the same documents" not in everything(app)
    assert [history(app)["line"].tolist(), results["line"].tolist()] == [["━━"] * 2] * 2


def test_other_held_out_documents_are_said(root):
    app = page(trained.by_hand(root, seed=1), trained.by_hand(root, seed=2))
    assert "Not on the same documents" in everything(app)


def test_a_default_is_no_difference_and_settings_of_garbage_are_none(root):
    app = page(trained.by_hand(root, "a"), trained.by_hand(root, "b", batch_size=2))
    assert "the settings of these runs are alike" in said(app)
    page(trained.garbage(root), trained.by_hand(root, "c"))


def test_more_than_can_be_told_apart_are_named_and_not_drawn(root):
    runs = [trained.by_hand(root, f"run {n}") for n in range(charts.DRAWN + 2)]
    assert f"The first {charts.DRAWN} of the selected training runs are shown below, 2 are not" in said(page(*runs))
    pairs = {(charts.colour(n), tuple(charts.dash(n))) for n in range(charts.DRAWN)}
    assert len(pairs) == charts.DRAWN


def test_curves_are_the_logged_values(root):
    run = trained.by_hand(root, steps=4)
    assert source.of(run).curve("loss") == ([1, 2, 3, 4], [10, 5, 10 / 3, 2.5])
    assert source.of(run).curve("heldout") == ([0, 4], [3.5, 3.25])
    assert source.of(run).curve("memory") == ([0, 1, 2], [used / 2**30 for used in (3, 9, 5)])
    store.append_metrics(run, {"step": 5, "loss": 7.0})
    assert source.of(run).curve("loss")[1][-1] == 7.0


def test_the_figure_of_several_runs_draws_each_by_its_values_and_is_the_same_at_each_rerun(root):
    for name, steps in (("a", 4), ("b", 2)):
        trained.by_hand(root, name, steps=steps)
    rows = source.rows()
    first, second = (charts.of_runs(rows, "loss").to_dict() for _ in range(2))
    assert first == second  # so that zoom stays
    assert "zoom" in json.dumps(first["params"]) and altair.SCHEMA_VERSION in first["$schema"]
    drawn = [row for table in first["datasets"].values() for row in table if row["line"] == "raw"]
    labels = [f"{row.name} · {row.id[-4:]}" for row in rows]
    assert [(row["name"], row["at"], row["value"]) for row in drawn] == [
        *((labels[0], step, 10 / step) for step in (1, 2)),
        *((labels[1], step, 10 / step) for step in (1, 2, 3, 4)),
    ]
    saved = [(line.name, list(line.x), list(line.y)) for line in charts._figure(rows, "loss", True).data]
    assert saved[1::2] == [
        (label, list(range(1, n + 1)), [10 / s for s in range(1, n + 1)]) for label, n in zip(labels, (2, 4))
    ]
    smooth_only = charts.of_runs(rows, "loss", raw=False).to_dict()
    assert {row["line"] for table in smooth_only["datasets"].values() for row in table} == {"smoothed"}


# --- one ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def really(tmp_path_factory, pair) -> Path:
    return trained.really(tmp_path_factory.mktemp("really"), "tiny kv", pair)


def test_a_really_trained_run_is_shown_as_its_files_say(really, monkeypatch):
    monkeypatch.setenv("KVLAB_RUNS", str(really.parent))
    app = page(really)
    report = json.loads((really / "report.json").read_text())
    before, after = report["before"], report["after"]
    assert f"held-out CE {before['ce']:.4f} → {after['ce']:.4f} nats per token" in said(app)
    assert f"n = {before['tokens']:,} tokens, {before['documents']} held-out documents" in said(app)
    figures = {button.key for button in app.get("download_button") if button.label in map(str, share.FIGURES.values())}
    assert figures == {f"figure-{name}-{really.name}" for name in ("loss", "memory", "held out")}
    loss = next(line for line in share._figure(really, "loss").data if line.name == "loss" and line.showlegend is False)
    assert list(loss.y) == [line["loss"] for line in metrics(really) if "loss" in line]
    checkpoints = table(app, "checked")
    assert checkpoints["checked"].tolist() == [c["name"] for c in report["checkpoints"]]
    assert history(app)["loss"].tolist() == [report["final_loss"]] and history(app)["steps"].tolist() == ["6 / 6"]
    assert "max_steps: 6" in everything(app)
    assert set(app.selectbox(key="runs-metric").options) >= {
        *("Total loss", "Cross-entropy (CE), training", "Cross-entropy (CE), held-out"),
        *("KV error of K, training", "KV error of V, training", "Memory in use", "Router entropy"),
    }
    for metric in ("heldout", "memory", "entropy", "effective_rank_key"):
        app.selectbox(key="runs-metric").set_value(metric).run()
        assert not app.exception
    assert {"projector.safetensors", "training.log"} <= set(table(app, "file")["file"])


def test_a_failed_run_says_what_was_found_and_what_to_do(root):
    run = trained.by_hand(root, state="failed")
    error = {"kind": "out-of-memory", "expected": "room", "found": "a *full* GPU", "remedy": "use a batch of 1"}
    store.write_status(run, error=error)
    app = page(run)
    assert "a *full* GPU" in said(app) and "use a batch of 1" in said(app)
    store.write_status(run, error={"odd": 1})
    assert "No reason was recorded" in said(page(run))


def test_an_analysis_has_its_link_its_note_and_no_training(root):
    app = page(store.create(root, "analysis", "mine", {"teacher": "a"}))
    assert not [button for button in app.button if button.key in ("run-resume", "run-again", "run-stop")]
    assert app.text_area


# --- notes -------------------------------------------------------------------------------------------------------


def write_note(app, run: Path, text: str):
    app.text_area(key=f"note-box-{run.name}").set_value(text)
    next(button for button in app.button if button.label == "Save note").click().run()
    assert not app.exception
    return app


def test_a_note_is_kept_and_shown_as_plain_text(root):
    run = trained.by_hand(root)
    text = "<b>good</b> ![x](http://example.org/x.png)"
    app = write_note(page(run), run, text)
    assert notes.read(run) == text and history(app)["note"].tolist() == [text]
    assert text not in everything(app)
    app = page(run)
    assert app.text_area(key=f"note-box-{run.name}").value == text
    write_note(app, run, "")
    assert not (run / "notes.md").exists()


def test_two_windows_do_not_lose_each_others_note(root):
    run = trained.by_hand(root)
    one, two = page(run), page(run)
    write_note(one, run, "from one")
    write_note(two, run, "from two")
    assert notes.read(run) == "from one" and "another one, written meanwhile" in said(two)
    assert "from one" in everything(two) and two.text_area(key=f"note-box-{run.name}").value == "from two"
    write_note(two, run, "from two")
    assert notes.read(run) == "from two"
    one.run()
    click(one, f"note-take-{run.name}")
    assert one.text_area(key=f"note-box-{run.name}").value == "from two"


def test_a_note_on_a_running_run_and_stop(root, fake):
    run = trainers.launch(root, hang="training")
    trainers.wait_for_phase(run, "training")
    app = write_note(page(run), run, "while it runs")
    assert notes.read(run) == "while it runs" and history(app)["state"].tolist() == ["running: training"]
    click(app, "run-stop")
    assert "Asked to stop" in everything(app)
    trainers.wait_for(run, "cancelled")
    assert notes.read(run) == "while it runs" and len(store.read_lines(run / "metrics.jsonl").records) == 3


# --- actions -----------------------------------------------------------------------------------------------------


def test_kill_asks_first_then_resume_goes_on(root, fake):
    run = trainers.launch(root, hang="evaluating after")
    trainers.wait_for_phase(run, "evaluating after")
    app = click(page(run), "run-kill")
    assert "Kill test run" in said(app) and trainers.state(run) == "running"
    click(app, "run-no")
    assert "Kill test run" not in said(app) and trainers.state(run) == "running"
    click(app, "run-kill")
    click(app, "run-yes")
    assert "all that it started are gone" in everything(app) and trainers.state(run) == "cancelled"
    click(app, "run-resume")
    trainers.wait_for(run, "done")


def test_a_lost_run_is_lost_keeps_its_numbers_and_resumes(root, fake):
    run = trainers.launch(root, die="evaluating after")
    trainers.wait_for(run, "lost")
    wait_until(lambda: "signal 9" in str(store.read_status(run)), 60, "the cause, which its keeper records")
    app = page(run)
    assert "lost: its process is gone" in said(app) and "signal 9" in said(app)
    assert history(app)["steps"].tolist() == ["3 / ?"] and history(app)["loss"].tolist() == [1.0]
    assert source.of(run).curve("loss") == ([1, 2, 3], [3.0, 1.5, 1.0])
    click(app, "run-resume")
    trainers.wait_for(run, "done")


def test_launched_again_with_its_settings_and_its_prompts(root, fake):
    run = trainers.launch(root)
    (run / "prompts.jsonl").write_text('{"text": "Tom"}\n')
    trainers.wait_for(run, "done")
    app = click(page(run), "run-again")
    new = store.find(root, app.query_params["runs"])
    assert new != run and store.read_config(new) == store.read_config(run)
    assert (new / "prompts.jsonl").read_text() == '{"text": "Tom"}\n' and run_queue.device(
        store.read_status(new)
    ) == "cpu"
    trainers.wait_for(new, "done")


def test_delete_asks_first_one_or_several(root):
    one, two, three = (trained.by_hand(root, name) for name in ("one", "two", "three"))
    app = click(page(one), "run-delete")
    assert "Delete one" in said(app) and one.exists()
    click(app, "run-no")
    assert one.exists() and "Delete one" not in said(app)
    click(app, "run-delete")
    click(app, "run-yes")
    assert not one.exists() and "Deleted: 1 run." in everything(app) and "runs" not in app.query_params
    app = click(page(two, three), "runs-delete")
    assert two.exists() and three.exists()
    click(app, "run-yes")
    assert store.listing(root) == [] and "Deleted: 2 runs." in everything(app)


def test_a_question_is_not_answered_for_another_run(root):
    one, two = trained.by_hand(root, "one"), trained.by_hand(root, "two")
    app = click(page(one), "run-delete")
    app.query_params["runs"] = two.name
    app.run()
    assert "run-yes" not in [button.key for button in app.button] and one.exists() and two.exists()


def test_reports_are_made_for_download(root):
    app = page(trained.by_hand(root))
    assert {f"report.{form}" for form in ("html", "md", "json")} <= {
        button.key.split("-")[1] for button in app.get("download_button")
    }


# --- faults ------------------------------------------------------------------------------------------------------


def test_a_folder_of_garbage_is_shown_and_all_that_was_logged_before_is_read(root):
    good, bad = trained.by_hand(root, "good"), trained.garbage(root)
    app = page(bad)
    shown = history(app)
    assert shown["state"].tolist() == ["lost", "finished"]
    assert shown["steps"].tolist() == ["4 / ?", "4 / 80"] and shown["loss"].tolist() == [2.5, 2.5]
    assert source.of(bad).curve("loss")[1] == [10, 5, 10 / 3, 2.5]
    assert "2 damaged lines" in said(app) and "onerror" not in said(app)
    page(good, bad)
    app = click(page(bad), "run-again")
    assert "no table of settings" in said(app) and len(store.listing(root)) == 2
    click(app, "run-delete")
    click(app, "run-yes")
    assert store.listing(root) == [good]


def test_odd_values_of_every_kind_do_no_harm(root):
    runs = [trained.by_hand(root, "![x](http://example.org/x.png) <b>"), trained.by_hand(root, "other")]
    for run in runs:
        for name in ("status.json", "verdict.json", "report.json"):
            trained.write(run, name, ODD | {"state": "failed" if name == "status.json" else "pass", "error": ODD})
    (run / "config.yaml").write_text('{teachers: ["\\uD800"], 1: {2: x}, lr: .nan}')
    app = page(*runs)
    listed = history(app)  # newest first: what cannot be read is empty, what can is as it was logged
    assert listed["name"].tolist() == ["? half"] * 2
    assert listed["state"].tolist() == ["failed"] * 2 and listed["steps"].tolist() == ["4 / ?", "4 / 100"]
    assert listed["loss"].tolist() == [2.5] * 2 and listed["device"].tolist() == ["?"] * 2
    assert listed[["ce_before", "ce_after", "elapsed"]].isna().all(axis=None)
    results = table(app, "ce before")
    assert results["steps/s"].tolist() == [2.0] * 2 and results["share"].tolist() == [0.1] * 2
    assert results[["ce before", "ce after", "kv_key before", "documents"]].isna().all(axis=None)
    differing = table(app, "setting").set_index("setting")
    assert differing.loc["1.2"].tolist() == ["not set", "x"] and differing.loc["teachers"].tolist()[1] == "?"
    for run, of in zip(runs, ("100", "?")):
        app = page(run)
        assert [error.value for error in app.error] == ["No reason was recorded. Its log in the run’s folder may tell."]
        assert f"step 4 / {of} · peak memory of the process 9 B, 10% of 90 B · ? · –" in said(app)
        assert table(app, "checked")["step"].tolist() == [f"{10**30:,}"]
        assert app.code[0].value == (run / "config.yaml").read_text().rstrip("\n")


def test_runs_that_cannot_be_written_are_one_message(root, monkeypatch):
    run = trained.by_hand(root, state="failed")
    app = page(run)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    for name in ("replace", "rename", "mkdir"):  # root may write everywhere: the system's answer is what is tested
        monkeypatch.setattr(store.os, name, refuse)
    monkeypatch.setattr(Path, "touch", refuse)
    for act in (lambda: click(app, "run-resume"), lambda: click(app, "run-again"), lambda: write_note(app, run, "x")):
        act()
        assert len(app.error) == 1 and "can be written to" in app.error[0].value
        assert "KVLAB_RUNS=FOLDER" in said(app)
    click(app, "run-delete")
    click(app, "run-yes")
    assert len(app.error) == 1 and run.exists() and history(app)["loss"].tolist() == [2.5]


def test_a_run_deleted_by_another_page_while_selected(root):
    kept, gone = trained.by_hand(root, "kept"), trained.by_hand(root, "gone")
    one, two = page(kept, gone), page(gone)
    click(two, "run-delete")
    training.delete(gone)  # a third was faster
    click(two, "run-yes")
    assert not two.error and len(two.warning) == 1
    one.run()
    assert not one.exception and len(one.warning) == 1 and gone.name in one.warning[0].value
    assert f"kept · {kept.name[-4:]}" in said(one)


def test_an_action_on_a_run_that_is_gone_is_one_message(root):
    run = trained.by_hand(root, state="failed")
    app = page(run)
    training.delete(run)
    write_note(app, run, "too late")
    assert not app.exception and len(app.warning) == 1 and not run.exists()


def test_twenty_that_wait_say_their_places(root, fake):
    first = trainers.launch(root, hang="training")
    trainers.wait_for_phase(first, "training")
    waiting = [trainers.launch(root) for _ in range(20)]
    app = page(waiting[4])
    states = dict(zip([f.name for f in store.listing(root)], history(app)["state"]))
    assert [states[run.name] for run in waiting] == [f"waiting: {n} before it" for n in range(1, 21)]
    click(app, "run-stop")
    assert "out of the queue" in everything(app) and trainers.state(waiting[4]) == "cancelled"
    for run in (*waiting[:4], *waiting[5:]):
        training.stop(run)
    training.stop(first)
    trainers.wait_until_idle(root)


EXPORTER = """
import sys, time
from pathlib import Path
from kvlab.runs import store
from kvlab.runs.process import identity
folder, language, *flags = sys.argv[1:]
place = Path(folder) / ".export"
store.write_status(place, state="running", phase="writing the model", **identity())
while not (place / "go").exists():
    time.sleep(0.02)
if (place / "die").exists():
    sys.exit("no memory left")
(Path(folder) / ("export-step-4" + "-merged" * ("--merged" in flags))).mkdir()
store.write_status(place, state="done")
"""


def test_the_student_of_a_run_is_exported_by_a_process_of_its_own(root, monkeypatch):
    """No question of another page waits for it; its state is said in words, and so is its failure."""
    monkeypatch.setattr(exports, "COMMAND", (sys.executable, "-P", "-c", EXPORTER))
    run, lora = trained.by_hand(root), trained.by_hand(root, "adapted", trainable="lora")
    projector, none = trained.by_hand(root, "maps", trainable="projector"), trained.by_hand(root, "none")
    for folder in (run, lora, projector):
        (folder / "checkpoint").mkdir()
    buttons = {folder.name: {button.key for button in page(folder).button} for folder in (run, lora, projector, none)}
    offered = {name: keys & {"run-export", "run-merged"} for name, keys in buttons.items()}
    assert list(offered.values()) == [{"run-export"}, {"run-export", "run-merged"}, set(), set()]
    app = click(page(lora), "run-merged")
    wait_until(lambda: store.read_status(lora / ".export").get("state") == "running", 30, "the export")
    app.run()
    assert any("Exporting the student: writing the model (" in info.value for info in app.info)
    assert app.button(key="run-export").disabled and app.button(key="run-merged").disabled
    with pytest.raises(RunError) as caught:
        exports.start(lora)
    assert caught.value.kind == "export-active"
    (lora / ".export" / "go").touch()
    wait_until(lambda: not exports.view(lora).active, 30, "the end of the export")
    app.run()
    assert str(lora / "export-step-4-merged") in [code.value for code in app.code]
    assert not any("Exporting the student" in info.value for info in app.info)
    assert not app.button(key="run-export").disabled
    assert "die" not in everything(app) and ".export" not in str(table(app, "file"))
    for name in ("go", "die"):
        (run / ".export").mkdir(exist_ok=True)
        (run / ".export" / name).touch()
    app = click(page(run), "run-export")
    wait_until(lambda: not exports.view(run).active, 30, "the end of the export")
    app.run()
    assert "not exported" in said(app) and "no memory left" in said(app) and not list(run.glob("export-*"))


def test_a_run_of_a_folder_of_ones_own_is_shown_and_only_leaves_the_list(root, tmp_path):
    own = trained.by_hand(root, "result").rename(tmp_path / "result")
    listed = store.enlist(root, own)
    app = page(listed)
    assert history(app)["name"].tolist() == ["result"] and str(own) in [code.value for code in app.code]
    app = click(app, "run-delete")
    assert "their own folder stays as it is" in said(app)
    click(app, "run-yes")
    assert store.listing(root) == [] and (own / "metrics.jsonl").exists()


def test_a_link_out_of_runs_is_neither_followed_nor_deleted_through(root, tmp_path):
    run = trained.by_hand(root)
    link = trained.link_out(root, tmp_path / "outside")
    app = page(link, run)
    assert history(app)["name"].tolist() == ["kv"] and len(app.warning) == 1
    inner = run / "checkpoint"
    inner.symlink_to(tmp_path / "outside")
    app = click(page(run), "run-delete")
    click(app, "run-yes")
    assert not run.exists() and link.is_symlink()
    assert (tmp_path / "outside" / "metrics.jsonl").exists() and monitor.view(tmp_path / "outside").state == "done"
