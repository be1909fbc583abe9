"""The student of a run as a folder of transformers: the same logits, opened as people open it."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from kvlab.errors import KvlabError
from kvlab.runs import exports, locks, store
from kvlab.runs.run_queue import RUN_LOCK
from kvlab.train import checkpoint
from kvlab.train.export import WEIGHTS, export, main
from kvlab.train.process import perform
from tests.tiny import TEXT, tiny_model
from tests.training import forget_accelerate, prepared, written

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("train-run"), pytest.mark.usefixtures("fresh_accelerate")]
IDS = torch.arange(1, 200).reshape(1, -1)


def trained(folder, settings):
    forget_accelerate()
    perform(written(folder, settings))
    assert store.read_status(folder)["state"] == "done", (folder / "training.log").read_text()
    return folder


def logits_of_the_checkpoint(folder, settings):
    """Of the run itself, gone on from its checkpoint by Accelerate."""
    run = prepared(folder, settings)
    assert checkpoint.load(run.accelerator, folder) == settings["max_steps"]
    with torch.no_grad():
        return run.student.model.eval()(IDS).logits


def logits(folder):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits


@pytest.fixture(scope="module")
def settings(pair):
    return pair | {"max_steps": 3}


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole") / "run", settings)


@pytest.fixture(scope="module")
def adapted(settings, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("lora") / "run", settings | {"trainable": "lora", "lr": 0.05})


def test_a_distilled_student_reopened_gives_the_logits_of_the_checkpoint(whole, settings, tmp_path):
    to = export(whole, tmp_path / "new" / "student")
    expected = logits_of_the_checkpoint(whole, settings)
    assert torch.equal(logits(to), expected)
    assert (logits(settings["student"]) - expected).abs().max() > 1e-2  # it did learn
    before, after = (AutoTokenizer.from_pretrained(place) for place in (settings["student"], to))
    assert after(TEXT)["input_ids"] == before(TEXT)["input_ids"]
    assert GenerationConfig.from_pretrained(to).eos_token_id == before.eos_token_id
    assert sorted(path.name for path in to.parent.iterdir()) == ["student"]


def test_a_checkpoint_of_several_processes_is_exported_too(whole, tmp_path):
    """There Accelerate saves what wraps the learner."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    file = folder / "checkpoint" / "model.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in load_file(file).items()}, file)
    assert torch.equal(logits(export(folder, tmp_path / "wrapped")), logits(export(whole, tmp_path / "plain")))


def test_a_lora_run_is_an_adapter_or_merged(adapted, settings, tmp_path):
    settings = settings | {"trainable": "lora", "lr": 0.05}
    adapter, merged = export(adapted, tmp_path / "adapter"), export(adapted, tmp_path / "merged", merged=True)
    expected = logits_of_the_checkpoint(adapted, settings)
    assert torch.equal(logits(adapter), expected)
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=0)
    assert (logits(settings["student"]) - expected).abs().max() > 1e-2
    described = json.loads((adapter / "adapter_config.json").read_text())
    assert (described["base_model_name_or_path"], described["r"]) == (settings["student"], 8)
    assert not (adapter / "config.json").exists() and not (merged / "adapter_config.json").exists()
    assert AutoTokenizer.from_pretrained(adapter)(TEXT) == AutoTokenizer.from_pretrained(merged)(TEXT)
    assert GenerationConfig.from_pretrained(adapter).eos_token_id is not None


def test_an_adapter_of_a_base_that_has_changed_is_refused_and_merged_is_not(settings, tmp_path):
    student = tiny_model("llama", tmp_path / "student", seed=3, num_hidden_layers=2)
    settings = settings | {"student": student, "trainable": "lora", "max_steps": 2}
    folder = trained(tmp_path / "run", settings)
    expected = logits_of_the_checkpoint(folder, settings)
    tiny_model("llama", tmp_path / "student", seed=4, num_hidden_layers=2)
    assert refused(folder, tmp_path / "adapter") == "student-changed"
    torch.testing.assert_close(logits(export(folder, tmp_path / "merged", merged=True)), expected, atol=1e-4, rtol=0)
    tiny_model("llama", tmp_path / "student", seed=4, num_hidden_layers=3)
    assert refused(folder, tmp_path / "other", merged=True) == "checkpoint-unfit"


def test_the_process_of_an_export_writes_into_the_folder_of_the_run_and_says_how_it_ended(adapted, monkeypatch):
    (adapted / exports.STATE).mkdir()
    for flags, name in (((), "export-step-3"), (("--merged",), "export-step-3-merged")):
        monkeypatch.setattr("sys.argv", ["export", str(adapted), "zh", *flags])
        main()
        last = exports.view(adapted)
        assert (last.state, last.phase, exports.failure(last)) == ("done", "writing the model", None)
        assert {"README.md", "tokenizer.json"} <= {path.name for path in (adapted / name).iterdir()}
    weights = adapted / "export-step-3-merged" / WEIGHTS
    before = weights.stat().st_mtime_ns
    main()
    assert (exports.view(adapted).state, weights.stat().st_mtime_ns) == ("done", before)  # it was there already
    weights.unlink()
    main()
    assert exports.failure(exports.view(adapted)).kind == "export-not-empty"
    with locks.held(adapted / RUN_LOCK):  # by this process: shared with its children, and not with another
        monkeypatch.setattr("kvlab.runs.locks._ours", lambda path: False)
        main()
    assert exports.failure(exports.view(adapted)).kind == "run-busy"
    assert (adapted / "export-step-3" / "adapter_config.json").exists()


def test_tied_weights_stay_tied(settings, tmp_path):
    student = tiny_model("llama", tmp_path / "student", seed=3, num_hidden_layers=2, tie_word_embeddings=True)
    settings = settings | {"student": student, "max_steps": 2}
    folder = trained(tmp_path / "run", settings)
    to = export(folder, tmp_path / "out")
    assert torch.equal(logits(to), logits_of_the_checkpoint(folder, settings))
    model = AutoModelForCausalLM.from_pretrained(to)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_the_card_holds_the_verdict_and_what_was_measured(whole, adapted, tmp_path):
    head, text = card(export(whole, tmp_path / "whole"))
    assert head["library_name"] == "transformers" and "base_model" not in head  # a folder is none for the Hub
    assert "**It runs: " in text and "3 of 3 steps" in text and "| loss converging |" in text
    measured = json.loads((whole / "report.json").read_text())
    numbers = [f"{measured[when]['ce']:.4f}" for when in ("before", "after")]
    assert " → ".join(numbers) in text and "On 3 held-out documents" in text
    head, text = card(export(adapted, tmp_path / "lora", language="zh"))
    assert head["library_name"] == "peft" and "lora" in head["tags"] and "效果：" in text


def card(folder):
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def refused(folder, to, **how):
    there = sorted(path.name for path in to.parent.iterdir())
    with pytest.raises(KvlabError) as caught:
        export(folder, to, **how)
    assert sorted(path.name for path in to.parent.iterdir()) == there
    return caught.value.kind


def test_nothing_is_overwritten_and_what_cannot_be_exported_is_refused(whole, settings, tmp_path, monkeypatch):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("mine")
    assert refused(whole, taken) == refused(whole, taken / "thesis.tex") == "export-not-empty"
    assert [path.name for path in taken.iterdir()] == ["thesis.tex"]
    run = store.create(tmp_path / "runs", "training", "x", settings)
    store.write_status(run, state="done")
    assert refused(run, tmp_path / "a") == "export-no-checkpoint"
    projector = written(tmp_path / "projector", settings | {"trainable": "projector", "map": "structured"})
    store.write_status(projector, kind="training", state="done")
    assert refused(projector, tmp_path / "a") == "export-untrained"
    assert refused(store.create(tmp_path / "runs", "training", "x", settings), tmp_path / "a") == "run-active"
    assert refused(store.create(tmp_path / "runs", "analysis", "x", {}), tmp_path / "a") == "run-not-training"
    (tmp_path / "empty").mkdir()

    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
    assert refused(whole, tmp_path / "empty") == refused(whole, tmp_path / "a") == "disk-full"
