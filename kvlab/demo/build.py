"""`python -m kvlab.demo.build` makes the demo again: tokenizers, models, held-out results, samples, model card."""

import argparse
import json
import re

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from kvlab.demo.card import card
from kvlab.demo.corpus import LANGUAGES, parts_of, problems
from kvlab.demo.evaluate import accuracy, cross_entropy, timelines
from kvlab.demo.learn import STEPS, train
from kvlab.demo.tokens import train_tokenizers
from kvlab.host.bundled import CARD, DEMO, NAMES, SAMPLES, TRAINING

WATCH_PROBLEMS = 40
RESULT_PROBLEMS = 400
SAMPLE_DOCUMENTS = 160
WATCH_SEED, RESULT_SEED, SAMPLE_SEED = 11, 12, 13
SAMPLE_PARTS = ("prompt", "reasoning", "answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=NAMES, help="train this model alone, with the tokenizer in place")
    parser.add_argument("--steps", type=int, help="training steps instead of the model's own number")
    parser.add_argument("--minutes", type=float, help="end each training within this time by fewer steps")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--more", action="store_true", help="go on training from the weights in place")
    parser.add_argument("--skip-training", action="store_true", help="only results, samples and model card")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    if not (asked.only or asked.more or asked.skip_training):
        for name, tokenizer in train_tokenizers().items():
            tokenizer.save_pretrained(DEMO / name)
        write_samples()
    for name in [asked.only] if asked.only else NAMES:
        if not asked.skip_training:
            train_and_save(name, asked.steps or STEPS[name], asked.minutes, asked.more)
        remember(name, results(name))
    tokenizers = {name: AutoTokenizer.from_pretrained(DEMO / name) for name in NAMES}
    remember("timelines", timelines(tokenizers, _samples()))
    CARD.write_text(card(known()), encoding="utf-8")


def write_samples() -> None:
    """Write the bundled prompts in the format of uploads: English and Chinese in turn, all from held-out templates."""
    rows = [
        {"id": problem["id"], "lang": problem["lang"]} | dict(zip(SAMPLE_PARTS, parts_of(problem), strict=True))
        for problem in _samples()
    ]
    SAMPLES.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def train_and_save(name: str, steps: int, minutes: float | None, more: bool = False) -> None:
    """Train one model with the tokenizer in its folder and record its history; `more` continues from its weights."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO / name)
    watched = problems("heldout", WATCH_PROBLEMS, WATCH_SEED)
    start = AutoModelForCausalLM.from_pretrained(DEMO / name, dtype=torch.float32) if more else None
    stages = known()[name]["stages"] if more else []
    model, history = train(
        name,
        tokenizer,
        steps,
        minutes,
        watch=lambda model: accuracy(model, tokenizer, watched),
        model=start,
        stage=len(stages),
    )
    save(model, name)
    remember(name, {"stages": [*stages, history]})


def save(model: PreTrainedModel, name: str) -> None:
    """Save weights as float16; the config says float32, so that loading upcasts them."""
    model.half().save_pretrained(DEMO / name)
    path = DEMO / name / "config.json"
    config = json.loads(path.read_text())
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n")


def results(name: str) -> dict:
    """Measure the saved model: its geometry, and its results on held-out problems."""
    model = AutoModelForCausalLM.from_pretrained(DEMO / name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(DEMO / name)
    held_out = problems("heldout", RESULT_PROBLEMS, RESULT_SEED)
    by_language = {  # the same number of problems in each
        code: round(accuracy(model, tokenizer, [problem for problem in held_out if problem["lang"] == code]), 4)
        for code in LANGUAGES
    }
    config = model.config
    return {
        "geometry": {
            "architecture": config.model_type,
            "layers": config.num_hidden_layers,
            "hidden": config.hidden_size,
            "intermediate": config.intermediate_size,
            "query_heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "head_width": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            "vocabulary": config.vocab_size,
            "rope_theta": config.rope_parameters["rope_theta"],
            "parameters": model.num_parameters(),
            "bytes": (DEMO / name / "model.safetensors").stat().st_size,
        },
        "heldout": {
            "problems": RESULT_PROBLEMS,
            **cross_entropy(model, tokenizer, held_out),
            "accuracy": round(sum(by_language.values()) / len(by_language), 4),
            "accuracy_by_language": by_language,
        },
    }


def _samples() -> list[dict[str, str]]:
    return problems("heldout", SAMPLE_DOCUMENTS, SAMPLE_SEED)


def known() -> dict:
    """Return the content of training.json."""
    return json.loads(TRAINING.read_text()) if TRAINING.exists() else {}


def remember(name: str, facts: dict) -> None:
    """Add measured facts to training.json."""
    all_facts = known()
    all_facts[name] = all_facts.get(name, {}) | facts
    text = json.dumps(all_facts, indent=1)
    compact = re.sub(r"\[\s+([\d.]+),\s+([\d.]+)\s+\]", r"[\1, \2]", text)  # a point of a curve on one line
    TRAINING.write_text(compact + "\n")


if __name__ == "__main__":
    main()
