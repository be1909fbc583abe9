"""kvlab as a library: functions and packages of one name, typed results, the notebook of docs/, the page of the API."""

import subprocess
import sys

import nbclient
import nbformat
import pandas as pd
import plotly.graph_objects as go
import pytest

import kvlab
from kvlab import PROJECT
from kvlab.errors import AlignError, KvlabError, RunError, TrainError
from kvlab.request import prompts
from kvlab.results.alignment.data import read as read_alignment
from kvlab.results.certificate.data import Acceptance
from kvlab.results.function.data import read as read_test
from tests import documentation

QUICK = {"folds": 2, "layers": "depth", "random_teacher": False, "calibration": "none", "device": "cpu"}
PAIR = "demo/teacher", "demo/student"


def test_importing_kvlab_loads_nothing_and_packages_are_functions_too():
    code = (
        "import kvlab, sys\n"
        "assert not {'torch', 'pandas', 'plotly'} & set(sys.modules)\n"
        "assert all(callable(getattr(kvlab, name)) for name in kvlab.__all__ if name != 'load_map')\n"
        "assert 'torch' not in sys.modules\n"
        "import kvlab.align.run\n"
        "assert callable(kvlab.align) and kvlab.align.run.compute\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_settings_are_the_flags_and_an_unknown_one_is_named():
    with pytest.raises(AlignError, match="fold_count"):
        kvlab.align(*PAIR, fold_count=3)
    with pytest.raises(TrainError, match="stepz"):
        kvlab.train(*PAIR, stepz=3)
    with pytest.raises(AlignError, match="folds"):
        kvlab.align(*PAIR, folds=1)
    with pytest.raises(AlignError, match="linear"):
        kvlab.inject(*PAIR, time="linear")
    with pytest.raises(KvlabError, match="no such file"):
        kvlab.align(*PAIR, "nowhere.jsonl")


@pytest.mark.model
@pytest.mark.xdist_group("api")
def test_an_analysis_is_tables_figures_and_the_files_of_the_command(tmp_path):
    texts = [document.text for document in prompts.samples()[:12]]
    seen = []
    aligned = kvlab.align(*PAIR, texts, progress=lambda stage, *_: seen.append(stage), **QUICK)
    table = aligned.to_pandas()
    assert isinstance(table, pd.DataFrame) and len(table) == 2 * 4 * 2 and aligned.answer and seen
    assert table["r2"].tolist() == [score.r2 for score in aligned.alignments[0].heads]
    assert all(isinstance(aligned.figure(name, "value"), go.Figure) for name in ("sources", "gain", "r2"))
    with pytest.raises(ValueError, match="sources, gain, r2"):
        aligned.figure("other")
    aligned.save(tmp_path / "new")
    pd.testing.assert_frame_equal(read_alignment(tmp_path / "new").table(), table)
    assert kvlab.load_map(tmp_path / "new").sources == ["projected"]


@pytest.mark.model
@pytest.mark.xdist_group("api")
def test_a_functional_test_and_a_certificate_bring_their_map(tmp_path):
    few = {**QUICK, "curve": (), "documents": 4, "texts": 2, "new_tokens": 5}
    tested = kvlab.inject(*PAIR, prompts.samples()[:20], swap_layers=0, **few)
    assert set(tested.to_pandas()["variant"]) >= {"own", "projected", "own-tokens"} and tested.answer
    assert all(isinstance(tested.figure(name), go.Figure) for name in ("variants", "curve", "hybrid", "accuracy"))
    with pytest.raises(ValueError, match="variants"):
        tested.to_pandas("other")
    tested.save(tmp_path / "test")
    assert read_test(tmp_path / "test").injected == tested.injection.injected
    assert kvlab.load_map(tmp_path / "test").id == tested.map.id
    certified = kvlab.certify(*PAIR, prompts.samples()[:20], out=tmp_path / "c", timed=(32,), beyond=(1,), **few)
    assert certified.certificate == kvlab.load_certificate(tmp_path / "c") and certified.answer
    rungs = certified.to_pandas()
    assert rungs["kl_p95"].tolist() == [rung.kl_p95 for rung in certified.certificate.rungs]
    assert len(certified.to_pandas("latency")) == 1 and isinstance(certified.accepts(PAIR, 10), Acceptance)
    assert all(isinstance(certified.figure(name), go.Figure) for name in ("ladder", "lengths", "latency", "heads"))
    with pytest.raises(ValueError, match="rungs"):
        certified.to_pandas("verdict")
    # Without a random teacher the gate on it was not measured, so nothing is handed over.
    assert certified.certificate.verdict == "prefill-anew"


@pytest.mark.model
@pytest.mark.xdist_group("api")
def test_a_training_run_goes_on_by_itself_and_is_waited_for(tmp_path):
    run = kvlab.train(*PAIR, root=tmp_path, max_steps=3, device="cpu")
    with pytest.raises(RunError, match="ends within"):
        run.wait(0)
    assert run.wait(180).state == "done" and run.folder.parent == tmp_path
    frame = run.to_pandas()
    assert frame.index.tolist() == [1, 2, 3] and frame["loss"].notna().all()
    assert isinstance(run.figure("loss"), go.Figure) and run.verdict and run.helps is not None
    with pytest.raises(ValueError, match="loss"):
        run.figure("nothing")


@pytest.mark.model
@pytest.mark.xdist_group("api")
def test_the_notebook_runs_from_two_models_to_a_decision(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(PROJECT / "docs" / "decision.ipynb", as_version=4)
    written = [line for cell in notebook.cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    assert len([line for line in written if line.strip()]) <= 30
    assert not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code")  # nothing generated is kept
    few = [document.text for document in prompts.samples()[:60]]
    first = next(cell for cell in notebook.cells if "PROMPTS = None" in cell.source)
    first.source = first.source.replace("PROMPTS = None", f"PROMPTS = {few!r}")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "\n".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))
    assert "explains more than every control" in shown and "accepted=" in shown
    assert all(f"{name}: '" in shown for name in ("handed over", "student alone", "teacher alone"))
    assert (tmp_path / "certificate" / "map.safetensors").exists()


def test_the_pages_that_follow_from_the_code_are_those_of_docs():
    for name, text in documentation.written().items():
        assert (PROJECT / "docs" / name).read_text(encoding="utf-8") == text, "python -m tests.documentation"
