"""The bundled demo: its corpus, tokenizers, models and what the model card says of them."""

import json
import re
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate, pairwise

import pytest

from kvlab.demo.corpus import LANGUAGES, SPLITS, answer_in, parts_of, problems, split_of, text_of
from kvlab.host.bundled import CARD, DEMO, NAMES, SAMPLES, TRAINING
from kvlab.models.tokens import tokenize

NUMBER = r"\d+(?::\d\d|\.\d+)?"
EQUATION = re.compile(rf"({NUMBER}) ([+\-×÷]) ({NUMBER}) = ({NUMBER})")
GEOMETRY = {
    "teacher": ("qwen2", 6, 192, 12, 12, 16),
    "teacher-b": ("qwen3", 5, 160, 8, 4, 24),
    "student": ("llama", 4, 128, 4, 2, 32),
}
SINKS = 4


def value(number: str) -> Fraction:
    hours, colon, minutes = number.partition(":")
    return Fraction(int(hours) * 60 + int(minutes)) if colon else Fraction(Decimal(number))


def calculate(left: str, op: str, right: str) -> Fraction:
    a, b = value(left), value(right)
    return {"+": a + b, "-": a - b, "×": a * b, "÷": a / b}[op]


def samples() -> list[dict]:
    return [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]


def sample_texts() -> list[str]:
    return ["\n".join(sample[part] for part in ("prompt", "reasoning", "answer")) for sample in samples()]


def measured() -> dict:
    return json.loads(TRAINING.read_text())


@pytest.fixture(scope="module")
def tokenizers():
    from transformers import AutoTokenizer

    return {name: AutoTokenizer.from_pretrained(DEMO / name, local_files_only=True) for name in NAMES}


def ends_from_spelling(name: str, tokenizer, text: str) -> list[int]:
    """The byte at which each content token ends, without the helper of the demo itself."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    spelled = tokenizer.convert_ids_to_tokens(ids)
    if name != "student":  # one character of the spelling for each byte
        return list(accumulate(map(len, spelled)))
    widths = [1 if token.startswith("<0x") else len(token.replace("▁", " ").encode()) for token in spelled]
    return [end - 1 for end in accumulate(widths)]  # the dummy prefix is no byte of the text


@pytest.mark.parametrize("split", SPLITS)
def test_the_generator_is_deterministic(split):
    assert problems(split, 40, seed=5) == problems(split, 40, seed=5)
    assert problems(split, 40, seed=5) != problems(split, 40, seed=6)
    assert problems(split, 10, seed=5) == problems(split, 40, seed=5)[:10]


def test_the_generator_is_the_same_in_another_process():
    code = (
        "import sys; from kvlab.demo.corpus import problems; "
        "sys.stdout.buffer.write(repr(problems('heldout', 20, 3)).encode()); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=DEMO.parents[1])
    assert found.stdout.decode() == repr(problems("heldout", 20, 3))


def test_thousands_of_templates_and_none_in_both_splits():
    train = {problem["template"] for problem in problems("train", 6000)}
    heldout = {problem["template"] for problem in problems("heldout", 1500)}
    assert len(train) > 4000
    assert not train & heldout
    assert {split_of(template) for template in train} == {"train"}
    assert {split_of(template) for template in heldout} == {"heldout"}


def test_both_languages_take_turns():
    assert [problem["lang"] for problem in problems("train", 6)] == ["en", "zh"] * 3


@pytest.mark.parametrize("split", SPLITS)
def test_equations_hold_and_lead_to_the_answer(split):
    for problem in problems(split, 2000):
        equations = EQUATION.findall(problem["reasoning"])
        assert 1 <= len(equations) <= 3, problem
        for left, op, right, result in equations:
            assert calculate(left, op, right) == value(result), problem
        for before, after in pairwise(equations):
            assert before[3] == after[0], problem
        assert equations[-1][3] == problem["answer"], problem


def test_every_field_of_every_sentence_is_filled():
    for problem in problems("train", 3000):
        text = text_of(problem)
        assert not set("{}") & set(text), text
        assert "  " not in text, text
        assert text == text.strip(), text


def test_a_text_is_its_parts_and_its_answer_can_be_read_back():
    for problem in problems("train", 200):
        assert "\n".join(parts_of(problem)) == text_of(problem)
        assert text_of(problem).count(LANGUAGES[problem["lang"]].marker) == 1
        assert answer_in(text_of(problem), problem["lang"]) == problem["answer"]
    assert answer_in("no answer at all", "en") is None


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="found 'test'"):
        problems("test", 1)


def test_samples_are_held_out_problems():
    found = samples()
    texts = set(sample_texts())
    templates = {text_of(problem): problem["template"] for problem in problems("heldout", len(found), seed=13)}
    assert texts == set(templates)
    assert {split_of(template) for template in templates.values()} == {"heldout"}
    assert all(set(problem) == {"id", "lang", "prompt", "reasoning", "answer"} for problem in found)
    assert len({problem["id"] for problem in found}) == len(found) >= 120


def test_the_weights_are_small_float16_files():
    sizes = [(DEMO / name / "model.safetensors").stat().st_size for name in NAMES]
    assert sum(sizes) <= 12_000_000
    for name in NAMES:
        with open(DEMO / name / "model.safetensors", "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        assert {tensor["dtype"] for key, tensor in header.items() if key != "__metadata__"} == {"F16"}


@pytest.mark.parametrize("name", NAMES)
def test_geometry(name):
    config = json.loads((DEMO / name / "config.json").read_text())
    found = (
        config["model_type"],
        config["num_hidden_layers"],
        config["hidden_size"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
    )
    assert found == GEOMETRY[name]
    assert config["max_position_embeddings"] == 2048
    assert config["tie_word_embeddings"] is True
    assert config["dtype"] == "float32"


def test_rope_bases_differ():
    configs = [json.loads((DEMO / name / "config.json").read_text()) for name in NAMES]
    assert len({config["rope_parameters"]["rope_theta"] for config in configs}) == len(NAMES)


def test_tokenizers_are_fast_and_mark_the_start_as_their_models_do(tokenizers):
    assert all(tokenizer.is_fast for tokenizer in tokenizers.values())
    text = "Tom has 12 apples."
    assert tokenizers["student"](text)["input_ids"][0] == tokenizers["student"].bos_token_id
    for name in ("teacher", "teacher-b"):
        first = tokenizers[name](text)["input_ids"][0]
        assert first not in tokenizers[name].all_special_ids
        assert tokenizers[name].eos_token == tokenizers[name].pad_token == "<|endoftext|>"


@pytest.mark.parametrize("name", NAMES)
def test_token_bytes_are_the_text(tokenizers, name):
    strange = ["龘 is rare, 😀 rarer.", "  two spaces\n\n\ttab", "naïve café — 3.14", "Straße 数学！"]
    for text in sample_texts() + strange:
        tokens = tokenize(tokenizers[name], text)
        assert tokens.lossless
        assert tokens.spans[~tokens.special, 1].tolist() == ends_from_spelling(name, tokenizers[name], text)


def test_rare_characters_fall_back_to_bytes(tokenizers):
    student = tokenizers["student"]
    pieces = [student.convert_ids_to_tokens(student(text)["input_ids"]) for text in sample_texts()]
    assert sum(token.startswith("<0x") for row in pieces for token in row) > 500
    assert student.unk_token not in {token for row in pieces for token in row}


def test_timelines_of_the_samples(tokenizers):
    texts = sample_texts()
    ends = {name: [ends_from_spelling(name, tokenizers[name], text) for text in texts] for name in NAMES}
    length = {name: sum(map(len, rows)) for name, rows in ends.items()}
    recorded = measured()["timelines"]
    for name in ("teacher", "teacher-b"):
        exact = [[end in set(borders) for end in own] for own, borders in zip(ends["student"], ends[name])]
        rate = sum(map(sum, exact)) / length["student"]
        rows = sum(sum(row[SINKS:]) for row in exact)
        assert 0.6 <= rate <= 0.95
        assert length["student"] >= 1.15 * length[name]
        assert rows >= 5600
        assert recorded["exact_rate"][name] == round(rate, 4)
        assert recorded["exact_rows_without_sinks"][name] == rows
    assert recorded["mean_tokens"] == {name: round(length[name] / len(texts), 2) for name in NAMES}


@pytest.mark.parametrize("name", ["teacher", "teacher-b"])
def test_the_teachers_know_more_than_the_student(name):
    teacher, student = measured()[name]["heldout"], measured()["student"]["heldout"]
    assert min(teacher["problems"], student["problems"]) >= 200
    assert teacher["nats_per_byte"] < 0.95 * student["nats_per_byte"]
    assert teacher["accuracy"] > student["accuracy"] + 0.1


def test_the_card_says_what_was_measured():
    from kvlab.demo.card import card

    text = CARD.read_text(encoding="utf-8")
    assert text == card(measured())
    for name in NAMES:
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |") and "%" in line)
        assert f"{measured()[name]['heldout']['accuracy']:.1%}" in row
        assert str(measured()[name]["heldout"]["nats_per_byte"]) in row


@pytest.mark.model
@pytest.mark.parametrize("name", NAMES)
def test_models_load_as_float32_and_know_their_language(tokenizers, name):
    import torch
    from transformers import AutoModelForCausalLM

    from kvlab.demo.evaluate import cross_entropy

    model = AutoModelForCausalLM.from_pretrained(DEMO / name, local_files_only=True)
    assert model.dtype is torch.float32
    few = cross_entropy(model, tokenizers[name], problems("heldout", 12, seed=21))
    assert few["nats_per_byte"] == pytest.approx(measured()[name]["heldout"]["nats_per_byte"], rel=0.2)
