"""Model folders that would keep this process busy for ever, or end it: refused in words, before anything is built."""

import json

import pytest
from torch.nn.modules import module as torch_modules

from kvlab.errors import ModelError
from kvlab.host import limited
from kvlab.models import geometry as geometry_module
from kvlab.models import loading, trial
from kvlab.models.chat import tokenize_chat
from kvlab.models.loading import geometry, load
from kvlab.models.trial import template_tried, tokenizer_tried
from kvlab.shapes import Document
from tests.tiny import WORDS, tiny_config, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.model

# As published: GPT-2's and Llama 3's. Qwen2's is the one of the tiny tokenizers.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def refusal(call, *arguments) -> ModelError:
    with pytest.raises(ModelError) as caught:
        call(*arguments)
    return caught.value


def folder_with(folder, architecture="llama", **fields):
    folder.mkdir(exist_ok=True)
    written = tiny_config(architecture).to_dict() | fields
    (folder / "config.json").write_text(json.dumps(written))
    return str(folder)


# ---- configurations


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_hidden_layers": 10**5}, "num_hidden_layers from 0 to 512"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers from 0 to 512"),
        ({"num_hidden_layers": -1}, "num_hidden_layers from 0 to 512"),
        ({"num_hidden_layers": 0}, "at least one layer"),
        ({"num_labels": 10**9}, "num_labels from 0 to 30,000"),
        ({"architecture": "gemma3", "text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers from 0 to 512"),
        ({"architecture": "gpt2", "n_layer": 10**5}, "n_layer from 0 to 512"),
    ],
    ids=str,
)
def test_a_count_without_end_is_refused_before_anything_is_built(fields, words, tmp_path):
    error = refusal(geometry, folder_with(tmp_path, **fields))
    assert error.kind == "model-out-of-bounds"
    assert words in error.expected and str(tmp_path) in error.expected
    assert "config.json" in error.remedy


def test_the_largest_published_counts_pass():
    deepest = {"num_hidden_layers": 126, "num_labels": 21_843, "vocab_size_per_layer_input": 262_144}
    geometry_module.check_counts({"text_config": deepest, "rope_theta": 1e9, "layer_norm_eps": -1}, "any")


def test_a_model_of_too_many_modules_is_refused_whatever_field_asks_for_them(tmp_path, monkeypatch):
    name = folder_with(tmp_path)
    modules = 3 * 13 + 6  # of three layers of Llama, and those around them; some are registered once more
    monkeypatch.setattr(geometry_module, "MODULES", modules // 2)
    error = refusal(geometry, name)
    assert error.kind == "model-out-of-bounds" and f"at most {modules // 2} modules" in error.expected
    assert not torch_modules._global_module_registration_hooks
    monkeypatch.setattr(geometry_module, "MODULES", modules * 2)
    assert geometry(name).layers == 3


@pytest.mark.parametrize(
    "written",
    [
        "[" * 100_000,
        '{"model_type": "llama", "x": ' + '{"a": ' * 900 + "1" + "}" * 901,
        '{"model_type": "llama", "x": ' + "[" * 60 + "]" * 60 + "}",
        '{"model_type": ["llama"]}',
        '{"model_type": {}}',
        "null",
    ],
    ids=["brackets", "objects", "lists", "list", "object", "null"],
)
def test_a_config_json_of_another_shape_is_one_message(written, tmp_path):
    (tmp_path / "config.json").write_text(written)
    assert refusal(geometry, str(tmp_path)).kind == "model-broken"


def test_values_that_transformers_lets_pass_are_one_message(tmp_path):
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    fields = {"model_type": "deepseek_v3", **sizes, "head_dim": 1.5, "vocab_size": 100, "intermediate_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    error = refusal(geometry, str(tmp_path))
    assert error.kind == "model-broken" and "float" in error.found


def test_an_index_of_weights_that_is_nested_too_deep_is_one_message(tmp_path):
    name = tiny_model("llama", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[" * 100_000)
    error = refusal(load, name, "cpu")
    assert error.kind == "model-broken" and "nested too deep" in error.found


# ---- tokenizers


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return json.loads((folder / "tokenizer.json").read_text())


def tokenizer_folder(folder, good, **changed):
    (folder / "tokenizer.json").write_text(json.dumps({**good, **changed}))
    return folder


def cut_by(pattern):
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [cut, bytes_]}


def replacing(this, that, times=1):
    step = {"type": "Replace", "pattern": {"String": this}, "content": that}
    return {"type": "Sequence", "normalizers": [step] * times}


@pytest.mark.parametrize("pattern", [GPT2, LLAMA3, WORDS])
def test_published_patterns_are_read_within_the_limits(pattern, good, tmp_path):
    tokenizer_tried(tokenizer_folder(tmp_path, good, pre_tokenizer=cut_by(pattern)), "a model")


def test_a_sentencepiece_tokenizer_is_read_within_the_limits(tmp_path):
    tiny_tokenizer(tmp_path, "sentencepiece")
    tokenizer_tried(tmp_path, "a model")


@pytest.mark.parametrize(
    "changed",
    [
        {"pre_tokenizer": cut_by("(x+x+)+y")},
        {"pre_tokenizer": cut_by("(Ω|ΩΩ)+$")},
        {"normalizer": replacing("ж", "ж" * 3000)},
        {"normalizer": replacing("q", "qq", times=40)},
    ],
    ids=["nested", "alternatives", "longer", "doubled"],
)
def test_a_pattern_that_explodes_is_refused_before_this_process_reads_it(changed, good, tmp_path, monkeypatch):
    name = tiny_model("llama", tmp_path)
    tokenizer_folder(tmp_path, good, **changed)
    monkeypatch.setattr(limited, "SECONDS", 5)  # the last takes minutes, or all the memory that it may have
    monkeypatch.setattr(loading.AutoTokenizer, "from_pretrained", lambda *_, **__: pytest.fail("read here"))
    error = refusal(load, name, "cpu")
    assert error.kind == "tokenizer-harmful"
    assert "tokenizer.json" in error.found and name in error.expected


def test_a_file_of_tokenizers_that_ends_the_process_does_not_end_this_one(good, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise limited.Exceeded("died", "exit code -6")

    monkeypatch.setattr(limited, "call", broken)
    error = refusal(tokenizer_tried, tokenizer_folder(tmp_path, good, version="2"), "a model")
    assert error.kind == "tokenizer-harmful" and "exit code -6" in error.found


def test_a_tokenizer_is_tried_once_for_each_content(good, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(limited, "call", lambda *arguments: called.append(arguments[1]))
    for _ in range(2):
        tokenizer_tried(tokenizer_folder(tmp_path, good, padding=None, version="3"), "a model")
    assert len(called) == 1
    tokenizer_tried(tokenizer_folder(tmp_path, good, version="4"), "a model")
    assert len(called) == 2
    monkeypatch.setattr(trial, "LARGEST", 100)
    assert "MiB of tokenizer.json" in refusal(tokenizer_tried, tmp_path, "a model").found


def test_a_panic_of_the_library_is_one_message(tmp_path, monkeypatch):
    class Panic(BaseException):
        """As pyo3's, which is no Exception."""

    def panic(*_, **__):
        raise Panic("index out of bounds")

    name = tiny_model("llama", tmp_path)
    monkeypatch.setattr(loading.AutoTokenizer, "from_pretrained", panic)
    error = refusal(load, name, "cpu")
    assert error.kind == "tokenizer-missing" and "index out of bounds" in error.found


# ---- chat templates

LOOPS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3


@pytest.mark.parametrize("template", [LOOPS, "{{ 'a' * 10 ** 12 }}"], ids=["loops", "memory"])
def test_a_template_without_end_is_refused_before_this_process_renders_it(template, tmp_path, monkeypatch):
    monkeypatch.setattr(limited, "SECONDS", 7)
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.chat_template = template
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *_, **__: pytest.fail("rendered here"))
    error = refusal(tokenize_chat, tokenizer, Document("a", "Hello", ()))
    assert error.kind == "chat-template-broken" and "soon renders" in error.expected


def test_a_template_that_refuses_in_its_own_words_is_left_to_the_chat():
    template_tried("{{ raise_exception('no system message') }}", "a model")
