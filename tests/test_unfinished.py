"""An interrupted analysis or refinement goes on where it stopped, with the same result; nothing half-done is kept."""

import json
import signal

import numpy as np
import pytest
from safetensors import safe_open

from kvlab import PACKAGE
from kvlab.align import batches as reading_batches
from kvlab.align import run as analysis
from kvlab.align import unfinished
from kvlab.align.pipeline import READING, align_several
from kvlab.align.unfinished import Unfinished
from kvlab.cli import main
from kvlab.errors import Cancelled
from kvlab.inject import refine
from kvlab.inject import run as functional
from kvlab.models.loading import ModelCache, load
from kvlab.request.align import AlignSettings, AnalysisRequest
from kvlab.request.inject import EPOCHS, InjectionRequest, InjectSettings
from kvlab.request.prompts import RUN_PROMPTS, write_prompts
from kvlab.request.settings import checked
from kvlab.results.alignment import data
from kvlab.results.function import data as function_data
from kvlab.runs import store
from kvlab.runs.places import slurm_job
from kvlab.shapes import REFINING, Document, no_progress
from tests.tiny import TEXT, tiny_model

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("unfinished")]
SETTINGS = AlignSettings(sample_tokens=100, batch_tokens=200, inspect=2, folds=3, random_teacher=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in ("teacher", "second", "student")]
    for seed, (folder, architecture) in enumerate(zip(folders, ("qwen2", "qwen3", "llama"))):
        tiny_model(architecture, folder, seed=seed, num_hidden_layers=2)
    *teachers, student = [load(str(folder), "cpu", "float32") for folder in folders]
    return teachers, student


@pytest.fixture(scope="module")
def documents():
    words, rng = TEXT.split(), np.random.default_rng(0)
    return [Document(f"d{i}", " ".join(rng.choice(words, 25))) for i in range(40)]


def run(models, documents, folder=None, progress=no_progress, asked_for="this"):
    teachers, student = models
    kept = Unfinished(folder, asked_for) if folder else None
    return [a for a, _ in align_several(teachers, student, documents, SETTINGS, progress=progress, unfinished=kept)]


def interrupted_after(count):
    def progress(stage, done, total):
        if stage == READING and done > count:
            raise Cancelled

    return progress


@pytest.fixture
def forwards(monkeypatch):
    """How many batches were really read."""
    seen = []
    capture = reading_batches.capture

    def counted(loaded, batch, pre_rope=True):
        seen.append(len(batch))
        return capture(loaded, batch, pre_rope)

    monkeypatch.setattr(reading_batches, "capture", counted)
    return seen


def same(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.table()["r2"], theirs.table()["r2"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(mine.table()["gain_se"], theirs.table()["gain_se"], rtol=0, atol=1e-12)
        assert mine.data == theirs.data
        assert [f.r2 for f in mine.fusion] == pytest.approx([f.r2 for f in theirs.fusion], abs=1e-12)


@pytest.fixture(scope="module")
def whole(models, documents):
    return run(models, documents)


def test_a_cancelled_analysis_goes_on_and_ends_the_same(models, documents, whole, tmp_path, forwards):
    with pytest.raises(Cancelled):
        run(models, documents, tmp_path, interrupted_after(25))
    before = sum(forwards)
    assert (tmp_path / unfinished.NAME).exists()
    forwards.clear()
    again = run(models, documents, tmp_path)
    same(again, whole)
    assert sum(forwards) < before + 3 * len(documents) - 3 * 20  # the sums of some 20 documents were not read again
    assert any("Continued" in note for note in again[0].notes)


def test_it_can_be_interrupted_again_and_again(models, documents, whole, tmp_path):
    for count in (12, 20, 33):
        with pytest.raises(Cancelled):
            run(models, documents, tmp_path, interrupted_after(count))
    same(run(models, documents, tmp_path), whole)


def test_what_was_kept_on_the_way_survives_a_kill(models, documents, whole, tmp_path, monkeypatch):
    """The file as it is after some batch, without the last save that an exception makes."""
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    monkeypatch.setattr(unfinished, "SHARE", 1e9)
    saves = []
    save = Unfinished._save

    def kept(self, sums, done, fingerprint):
        save(self, sums, done, fingerprint)
        saves.append(done)
        if len(saves) == 3:
            raise SystemExit

    monkeypatch.setattr(Unfinished, "_save", kept)
    with pytest.raises(SystemExit):
        run(models, documents, tmp_path)
    assert saves[:3] == [1, 2, 3]
    monkeypatch.setattr(Unfinished, "_save", save)
    same(run(models, documents, tmp_path), whole)


@pytest.mark.parametrize("other", ["request", "code"])
def test_another_request_or_other_code_does_not_go_on_from_it(
    models, documents, whole, tmp_path, forwards, monkeypatch, other
):
    asked_for = "that" if other == "request" else "this"
    with monkeypatch.context() as before, pytest.raises(Cancelled):
        before.setattr(unfinished, "CODE", "that" if other == "code" else unfinished.CODE)
        run(models, documents, tmp_path, interrupted_after(25), asked_for=asked_for)
    forwards.clear()
    found = run(models, documents, tmp_path)
    same(found, whole)
    assert not any("Continued" in note for note in found[0].notes)
    assert sum(forwards) >= 3 * len(documents)


def test_the_code_is_what_takes_part_in_an_analysis(tmp_path):
    (tmp_path / "shapes.py").write_text("")
    hashes = [unfinished.hash_of_code(tmp_path)]
    # The last of them is an editor's lock.
    for file in (
        "models/capture.py",
        "align/sums.py",
        "request/align.py",
        "request/time_rules/floor.py",
        "web/page.py",
        "errors.py",
        "align/.#sums.py",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f"# {file}")
        hashes.append(unfinished.hash_of_code(tmp_path))
    assert len(set(hashes[:5])) == 5 and len(set(hashes[4:])) == 1
    assert unfinished.hash_of_code(PACKAGE) == unfinished.CODE
    assert all(list((PACKAGE / room).glob("*.py")) for room in ("host", "request", "models", "align"))


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_file_is_as_good_as_none(models, documents, whole, tmp_path, damage):
    path = tmp_path / unfinished.NAME
    if damage is None:  # cut off
        with pytest.raises(Cancelled):
            run(models, documents, tmp_path, interrupted_after(25))
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.write_bytes(damage)
    same(run(models, documents, tmp_path), whole)


def test_a_batch_that_is_half_added_is_not_kept(models, documents, whole, tmp_path, monkeypatch):
    from kvlab.align.fusion import FusionSums

    add, calls = FusionSums.add, []

    def failing(self, *arguments):
        calls.append(1)
        if len(calls) == 18:
            raise MemoryError("in the middle of a batch")
        add(self, *arguments)

    monkeypatch.setattr(FusionSums, "add", failing)
    with pytest.raises(MemoryError):
        run(models, documents, tmp_path)
    assert len(calls) == 18
    monkeypatch.setattr(FusionSums, "add", add)
    same(run(models, documents, tmp_path), whole)


def test_a_full_disk_costs_the_interruption_not_the_analysis(models, documents, whole, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    monkeypatch.setattr(unfinished, "SHARE", 1e9)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unfinished, "save_file", full)
    same(run(models, documents, tmp_path), whole)
    assert "No space left" in caplog.text


def test_a_run_folder_goes_on_from_what_it_holds(models, documents, tmp_path):
    """As the worker does it: config and prompts in a folder, cancelled, and asked for again."""
    teachers, student = models
    fields = {"teacher": teachers[0].name, "more_teachers": [teachers[1].name], "student": student.name}
    fields |= {"calibration": "none", "device": "cpu", "settings": SETTINGS.model_dump()}
    request = checked(AnalysisRequest, fields)
    folder = store.create(tmp_path, "analysis", "x", request.model_dump())
    write_prompts(documents, folder / RUN_PROMPTS)
    cache = ModelCache()
    with pytest.raises(Cancelled):
        analysis.analyse(folder, interrupted_after(25), cache)
    assert (folder / unfinished.NAME).exists() and not (folder / data.JSON_NAME).exists()
    analysis.analyse(folder, no_progress, cache)
    assert not (folder / unfinished.NAME).exists()
    first, second = data.read(folder), data.read(folder / data.OTHER_TEACHER.format(2))
    assert any("Continued" in note for note in first.notes)
    assert (first.teachers, second.teachers) == ([t.name for t in teachers],) * 2
    assert first.fusion == second.fusion != []


TESTED = InjectSettings(refine=True, curve=(), documents=4, swap_layers=0, texts=0, hybrid=False)
FITTED, SOURCES = 12, 3  # half of 24 documents are judged; one of eight fitted ones stops the training
MEASURED, FIRST = 2, 1  # passes that tell the cost, and those over the stopping document before the first epoch


class Passes:
    """Counts the passes over documents, and ends the test before one of them, as a kill would."""

    def __init__(self, monkeypatch):
        self.done, self.last = 0, None
        kl = refine._Training.kl

        def counted(training, case):
            if self.done == self.last:
                raise SystemExit
            self.done += 1
            return kl(training, case)

        monkeypatch.setattr(refine._Training, "kl", counted)
        monkeypatch.setattr(refine, "PATIENCE", 100)  # no training is stopped early

    def of(self, folder, cache, last=None, progress=no_progress):
        """The result of a test, or None if it ended before ``last`` passes."""
        self.done, self.last = 0, last
        if last is None:
            functional.test(folder, progress, cache)
            return function_data.read(folder)
        with pytest.raises(SystemExit):
            functional.test(folder, progress, cache)
        return None


@pytest.fixture
def passes(monkeypatch):
    return Passes(monkeypatch)


def folder_of_a_test(models, documents, root, injection=TESTED):
    teachers, student = models
    fields = {"teacher": teachers[0].name, "student": student.name, "calibration": "none", "device": "cpu"}
    settings = SETTINGS.model_copy(update={"folds": 2})
    request = checked(InjectionRequest, fields | {"settings": settings, "injection": injection})
    folder = store.create(root, "injection", "x", request.model_dump())
    write_prompts(documents[:24], folder / RUN_PROMPTS)
    return folder


def test_a_refinement_ended_within_an_epoch_goes_on_and_ends_the_same(models, documents, passes, tmp_path):
    cache, stages = ModelCache(), []
    folder = folder_of_a_test(models, documents, tmp_path)
    whole = passes.of(folder, cache, progress=lambda *stage: stages.append(stage))
    assert passes.done == MEASURED + SOURCES * (FIRST + EPOCHS * FITTED)
    told = [(done, total) for stage, done, total in stages if stage.startswith(REFINING)]
    assert {total for _, total in told} == {SOURCES * EPOCHS * FITTED} and told[-1] == (216, 216)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    folder, kept = folder_of_a_test(models, documents, tmp_path), []
    # Two epochs and 3 passes of a third; the other four and 10 passes of the next source; that one and two of the last.
    for last, epochs in ((MEASURED + FIRST + 27, 2), (MEASURED + 48 + FIRST + 10, 6), (MEASURED + FIRST + 97, 14)):
        passes.of(folder, cache, last)
        with safe_open(folder / unfinished.REFINEMENT, "pt") as file:
            kept.append(sum(epoch for epoch, *_ in json.loads(file.metadata()["reached"]).values()))
        assert kept[-1] == epochs
    again = passes.of(folder, cache, progress=lambda *stage: stages.append(stage))
    assert passes.done == MEASURED + 4 * FITTED and stages[-1][2] != 216
    assert [row.variant for row in again.injected] == [row.variant for row in whole.injected]
    for name in ("kl", "kl_se", "delta_ce", "same_choice", "kl_over_projected"):
        found, expected = ([getattr(row, name) for row in result.injected] for result in (again, whole))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert again.score("refined").kl != again.score("projected").kl
    assert any("14 epochs of refining" in note for note in again.notes) and len(again.notes) == len(whole.notes) + 1
    assert not list(folder.glob("unfinished*"))


@pytest.mark.parametrize("other", ["request", "documents", "code", "maps", "damage"])
def test_a_refinement_of_other_work_is_not_gone_on_with(models, documents, passes, tmp_path, monkeypatch, other):
    monkeypatch.setattr(refine, "EPOCHS", 1)
    cache, folder = ModelCache(), folder_of_a_test(models, documents, tmp_path)
    passes.of(folder, cache, MEASURED + 2 * (FIRST + FITTED) + 5)
    kept = folder / unfinished.REFINEMENT
    if other == "request":
        injection = TESTED.model_copy(update={"prefix": 0.6})
        folder = kept.rename(folder_of_a_test(models, documents, tmp_path, injection) / kept.name).parent
    elif other == "documents":
        write_prompts([*documents[:23], documents[30]], folder / RUN_PROMPTS)
    elif other == "code":
        monkeypatch.setattr(unfinished, "CODE", "that")
    elif other == "maps":  # of a model that was trained on under the same name
        embeddings = cache.get(models[1].name, "cpu", "auto").model.get_input_embeddings().weight
        embeddings.data *= 1.2
    else:
        kept.write_bytes(kept.read_bytes()[:-100])
    found = passes.of(folder, cache)
    assert passes.done == MEASURED + SOURCES * (FIRST + FITTED)
    assert any("had refined was left" in note for note in found.notes)
    assert not kept.exists()


def test_the_same_work_goes_on_where_maps_differ_by_rounding(models, documents, passes, tmp_path, monkeypatch):
    """What is forecast is what is left: 12 passes of half a second."""
    monkeypatch.setattr(refine, "EPOCHS", 1)
    monkeypatch.setattr(refine._Training, "seconds_of_a_pass", lambda training: 0.5)
    cache, folder = ModelCache(), folder_of_a_test(models, documents, tmp_path)
    stages = []
    passes.of(folder, cache, 2 * (FIRST + FITTED) + 5, lambda stage, *_: stages.append(stage))
    assert any(stage.startswith(f"{REFINING}18 s, ") for stage in stages)
    embeddings = cache.get(models[1].name, "cpu", "auto").model.get_input_embeddings().weight
    embeddings.data *= 1 + 1e-6
    found = passes.of(folder, cache)
    assert found.timings["refine_forecast_s"] == 6.0 < found.timings["refine_s"] + 6.0
    assert passes.done == FIRST + FITTED and any("2 epochs of refining" in note for note in found.notes)


@pytest.mark.parametrize("epochs", [0, 1])
def test_an_interrupted_command_says_whether_it_goes_on(tmp_path, monkeypatch, capsys, epochs):
    def interrupted(request, documents, cache, progress, folder):
        if epochs:
            (folder / unfinished.REFINEMENT).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(functional, "compute", interrupted)
    command = ["inject", "--teacher", "demo/teacher", "--student", "demo/student", "--refine", "--out", str(tmp_path)]
    assert main.main(command) == 2
    said = "the same command goes on where this stopped" if epochs else "what was not finished is not there"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("number", "preempted", "goes_on"), [("USR2", 0, 1), ("TERM", 1, 1), ("TERM", 0, 0)])
def test_a_job_that_slurm_ends_is_put_back_with_what_its_analysis_has_read(
    tmp_path, monkeypatch, capsys, number, preempted, goes_on
):
    asked = []
    monkeypatch.setattr(
        slurm_job, "_scontrol", lambda *words: asked.append(words[0]) or f"PreemptTime={preempted or None}"
    )
    monkeypatch.setattr(analysis, "compute", lambda *_: signal.raise_signal(signal.Signals[f"SIG{number}"]))
    monkeypatch.setenv(slurm_job.SUBMITTED, "1")
    before = {known: signal.getsignal(known) for known in (signal.SIGUSR2, signal.SIGTERM)}
    try:
        out = ["--out", str(tmp_path), "--submit", "slurm"]  # as in the command that was submitted
        assert main.main(["align", "--teacher", "demo/teacher", "--student", "demo/student", *out]) == 2
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
    assert ("requeue" in asked) is bool(goes_on)
    assert ("its job is put back" if goes_on else "the same command goes on") in capsys.readouterr().err
