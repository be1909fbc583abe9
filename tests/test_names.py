"""Names and files: what a name stands for, what is here, and every way a model cannot be fetched."""

import json
from fnmatch import fnmatch
from inspect import signature
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from transformers import GgufConfig

from kvlab.errors import ModelError
from kvlab.host import bundled, models
from kvlab.host.models import PARTS, Source, folder_of, local_names, resolve, weight_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = Source("owner/model", None)


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache, and a Hub that nobody may reach unless the test says so."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(models.HfApi, "model_info", refuse(AssertionError("the Hub was asked")))
    monkeypatch.setattr(models, "snapshot_download", refuse(AssertionError("the Hub was asked")))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def refuse(error):
    def raise_it(*args, **kwargs):
        raise error

    return raise_it


def hub_error(kind, status):
    response = SimpleNamespace(headers={}, request=None, status_code=status)
    return kind("the Hub's first line\nand a second", response=response)


def cached(hub_cache, repo_id, *file_names):
    """A model in the Hugging Face cache's own layout, its files holding "{}"."""
    repo = hub_cache / f"models--{repo_id.replace('/', '--')}"
    folder = repo / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    for file_name in file_names:
        (folder / file_name).write_text("{}")
    return folder


def refusal(call, *arguments) -> ModelError:
    with pytest.raises(ModelError) as caught:
        call(*arguments)
    assert caught.value.remedy and caught.value.found and caught.value.expected
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        *("", "   ", "\t\n", "a\x00b", "Qwen/Qwen2\x1b[2J", "zero\u200bwidth", None, 7),
        *(
            "../secret",
            "a/../../etc",
            "~/../x",
            "a\\b",
            "~nobody-of-that-name/model",
            "/data/a\x00b",
            "./escape\x1b[2J",
        ),
        *("owner/na me!", "-owner/x", "owner/.hidden..", "x" * 300),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(name):
    assert refusal(resolve, name).kind == "model-name-invalid"


def test_aliases_and_ids_resolve_without_a_look_at_the_network():
    assert resolve("Qwen2-7B") == resolve(" qwen2-7b ") == Source("Qwen/Qwen2-7B", None)
    assert resolve("TinyLlama") == Source("TinyLlama/TinyLlama-1.1B-Chat-v1.0", None)
    assert resolve("gpt2") == Source("gpt2", None)
    assert resolve("owner/model-1.0_b") == Source("owner/model-1.0_b", None)


def test_every_spelling_of_a_folder_is_the_same_source(tmp_path, monkeypatch):
    folder = tmp_path / "模型 one"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = Source(str(folder), folder)
    for spelling in (str(folder), f"{folder}/", "./模型 one", "模型 one", "~/模型 one"):
        assert resolve(spelling) == expected


def test_a_folder_shaped_like_an_id_is_taken_only_when_it_holds_a_model(tmp_path):
    folder = tmp_path / "owner" / "model"
    folder.mkdir(parents=True)
    assert resolve("owner/model").folder is None
    (folder / "notes.txt").write_text("")
    assert resolve("owner/model").folder is None
    for name in ("config.json", "adapter_config.json", "model-Q4_K_M.gguf"):
        (folder / name).write_text("{}")
        assert resolve("owner/model").folder == folder
        (folder / name).unlink()


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a/b/c", "demo/nobody", "demo/teacher/deeper"])
def test_a_folder_that_is_not_there(name):
    assert refusal(resolve, name).kind == "model-not-found"


def test_demo_models_are_folders_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "DEMO", tmp_path)
    assert refusal(resolve, "demo/teacher").kind == "model-not-found"  # a checkout without its models
    (tmp_path / "teacher").mkdir()
    assert resolve("demo/teacher") == Source("demo/teacher", tmp_path / "teacher")


def test_local_names_demo_first_then_usable_cached_models_in_order(tmp_path, hub_cache, monkeypatch):
    monkeypatch.setattr(bundled, "DEMO", tmp_path / "demo")
    for name in ("student", "teacher"):
        (tmp_path / "demo" / name).mkdir(parents=True)
        (tmp_path / "demo" / name / "config.json").write_text("{}")
        (tmp_path / "demo" / name / "model.safetensors").write_text("")
    cached(hub_cache, "Zeta/model", "config.json", "model.safetensors")
    cached(hub_cache, "alpha/model", "config.json", "model-00001-of-00002.safetensors")
    cached(hub_cache, "beta/pickled", "config.json", "pytorch_model.bin")
    cached(hub_cache, "gamma/weights-only", "model.safetensors")
    (hub_cache / "models--broken--model").mkdir()
    (hub_cache / "not a repository").write_text("?")
    assert local_names() == ["demo/teacher", "demo/student", "alpha/model", "Zeta/model"]


def test_local_names_of_a_missing_or_broken_cache(tmp_path, hub_cache, monkeypatch):
    monkeypatch.setattr(bundled, "DEMO", tmp_path / "demo")
    assert local_names() == []
    hub_cache.write_text("a file where a folder should be")
    assert local_names() == []
    monkeypatch.setattr(models, "scan_cache_dir", refuse(PermissionError(13, "Permission denied")))
    assert local_names() == []


def test_a_cached_model_needs_no_network(hub_cache):
    folder = cached(hub_cache, "owner/model", "config.json", "tokenizer.json", "model.safetensors")
    for part in PARTS:
        assert folder_of(HUB, part) == folder


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OfflineModeIsEnabled("offline mode is enabled"), "model-offline"),
        (ConnectionError("Name or service not known"), "model-offline"),
        (TimeoutError("timed out"), "model-offline"),
        (hub_error(HfHubHTTPError, 503), "model-offline"),
        (hub_error(RepositoryNotFoundError, 404), "model-not-found"),
        (hub_error(GatedRepoError, 403), "model-gated"),
    ],
)
def test_the_hub_refuses(monkeypatch, error, kind):
    monkeypatch.setattr(models.HfApi, "model_info", refuse(error))
    found = refusal(folder_of, HUB, "config")
    assert found.kind == kind
    remedy = {"offline": "hf download owner/model", "not-found": "hf auth login", "gated": "hf auth login"}
    assert remedy[kind.removeprefix("model-")] in found.remedy
    assert "\n" not in found.found


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (hub_error(GatedRepoError, 403), "model-gated"),
        (OSError(28, "No space left on device", "/cache/blob"), "model-download-failed"),
        (PermissionError(13, "Permission denied", "/cache/blob"), "model-download-failed"),
        (hub_error(RemoteEntryNotFoundError, 404), "model-download-failed"),
        (ConnectionError("connection reset"), "model-offline"),
    ],
)
def test_a_download_breaks_off(monkeypatch, error, kind):
    on_the_hub(monkeypatch, "config.json", "model.safetensors")
    monkeypatch.setattr(models, "snapshot_download", refuse(error))
    assert refusal(folder_of, HUB, "weights").kind == kind


def on_the_hub(monkeypatch, *file_names):
    siblings = [SimpleNamespace(rfilename=file_name) for file_name in file_names]
    monkeypatch.setattr(models.HfApi, "model_info", lambda self, repo_id, timeout: SimpleNamespace(siblings=siblings))


def test_offline_with_only_the_configuration_here(hub_cache, monkeypatch):
    folder = cached(hub_cache, "owner/model", "config.json")
    monkeypatch.setattr(models.HfApi, "model_info", refuse(OfflineModeIsEnabled("offline mode is enabled")))
    assert folder_of(HUB, "config") == folder
    assert refusal(folder_of, HUB, "weights").kind == "model-offline"
    (folder / "pytorch_model.bin").write_text("")
    assert refusal(folder_of, HUB, "weights").kind == "model-no-safetensors"


def test_half_of_a_sharded_model_is_fetched_again(hub_cache, monkeypatch):
    folder = cached(hub_cache, "owner/model", "config.json", "model-1.safetensors")
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    on_the_hub(monkeypatch, "config.json", "model.safetensors.index.json")

    def download(repo_id, **how):
        (folder / "model-2.safetensors").write_text("")
        return str(folder)

    monkeypatch.setattr(models, "snapshot_download", download)
    assert folder_of(HUB, "weights") == folder
    assert [file.name for file in weight_files(folder, "owner/model")] == ["model-1.safetensors", "model-2.safetensors"]


REPOSITORY = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "merges.txt", "vocab.json")
NEVER = ("pytorch_model.bin", "modeling_custom.py", "original/consolidated.00.pth", "onnx/model.onnx", "model.gguf")


@pytest.mark.parametrize(
    ("part", "wanted"), [("config", REPOSITORY[:1]), ("tokenizer", REPOSITORY[2:]), ("weights", REPOSITORY[1:2])]
)
def test_what_is_fetched_and_what_never(tmp_path, monkeypatch, part, wanted):
    on_the_hub(monkeypatch, *REPOSITORY, *NEVER)
    asked = {}

    def download(repo_id, **how):
        asked.update(how, repo_id=repo_id)
        (tmp_path / "config.json").write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr(models, "snapshot_download", download)
    assert folder_of(HUB, part) == tmp_path
    assert asked["repo_id"] == "owner/model"
    fetched = {file for file in (*REPOSITORY, *NEVER) if any(fnmatch(file, rule) for rule in asked["allow_patterns"])}
    assert fetched == {"config.json", *wanted}


def test_pickles_on_the_hub_are_refused_before_anything_is_fetched(monkeypatch):
    on_the_hub(monkeypatch, "config.json", "pytorch_model.bin")
    found = refusal(folder_of, HUB, "config")
    assert found.kind == "model-no-safetensors"
    assert "pytorch_model.bin" in found.found and "save_pretrained" in found.remedy


def test_a_repository_or_folder_without_configuration(tmp_path, monkeypatch):
    on_the_hub(monkeypatch, "README.md")
    assert refusal(folder_of, HUB, "config").kind == "model-broken"
    (tmp_path / "adapter_config.json").write_text("{}")
    found = refusal(folder_of, Source(str(tmp_path), tmp_path), "config")
    assert found.kind == "model-broken" and "adapter" in found.found


def test_weight_files_of_a_folder(tmp_path):
    name = str(tmp_path)
    assert str(refusal(weight_files, tmp_path, name).found) == "no weight files"
    (tmp_path / "pytorch_model.bin").write_text("")
    assert refusal(weight_files, tmp_path, name).kind == "model-no-safetensors"
    (tmp_path / "model.safetensors").write_text("")
    assert weight_files(tmp_path, name) == [tmp_path / "model.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')
    found = refusal(weight_files, tmp_path, name)
    assert found.kind == "model-broken" and "model-2.safetensors" in found.found
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": [')
    assert refusal(weight_files, tmp_path, name).kind == "model-broken"


def test_how_to_mend_broken_files_depends_on_where_they_came_from():
    assert "hf download owner/model" in models.broken("owner/model", "?").remedy
    assert "git checkout" in models.broken("demo/teacher", "?").remedy
    assert "copy the folder" in models.broken("/data/model", "?").remedy


@pytest.mark.parametrize("beside", [(), ("config.json", "tokenizer.json")])
def test_a_gguf_model_is_named_with_the_command_that_converts_it(tmp_path, beside):
    for name in ("model-Q4_K_M.gguf", "README.md", *beside):
        (tmp_path / name).write_text("{}")

    def weights():
        source = resolve(str(tmp_path))
        return weight_files(folder_of(source, "weights"), source.name)

    error = refusal(weights)
    assert error.kind == "model-gguf" and "model-Q4_K_M.gguf" in error.found
    assert f"pretrained_model_name_or_path='{tmp_path}', gguf_file='model-Q4_K_M.gguf'" in error.remedy
    program = str(error.remedy).split('python -c "')[1].split('"')[0]
    compile(program, "program", "exec")
    assert "G(dequantize=True)" in program and "dequantize" in signature(GgufConfig).parameters
    (tmp_path / "config.json").write_text("{}")
    assert refusal(resolve, str(tmp_path / "model-Q4_K_M.gguf")).remedy == error.remedy
    (tmp_path / "pytorch_model.bin").write_text("")  # whole numbers rather than rounded ones
    assert refusal(weights).kind == "model-no-safetensors"
