"""Evaluate a demo model on held-out problems."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kvlab.demo.corpus import answer_in, text_of
from kvlab.models.tokens import tokenize

SINKS = 4  # first content tokens of a document, which no map is fitted on
LONGEST_CONTINUATION = 200
BATCH = 40


@torch.inference_mode()
def cross_entropy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, problems: Sequence[dict[str, str]]
) -> dict[str, float]:
    """Return nats per token and per byte, without the first content token of a document (some have no BOS)."""
    model.eval()
    nats, tokens, size = 0.0, 0, 0
    for problem in problems:
        text = text_of(problem)
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        first = int(ids[0, 0] == tokenizer.bos_token_id) + 1
        logits = model(input_ids=ids).logits[0, first - 1 : -1]
        nats += F.cross_entropy(logits, ids[0, first:], reduction="sum").item()
        tokens += ids.shape[1] - first
        left_out = tokenizer.decode(ids[0, :first], skip_special_tokens=True)
        # The tokenizer decodes a piece of a character as a replacement mark, which is longer than the piece.
        size += len(text.encode()) - len(left_out.replace("\ufffd", "?").encode())
    return {"nats_per_token": round(nats / tokens, 4), "nats_per_byte": round(nats / size, 4)}


@torch.inference_mode()
def accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, problems: Sequence[dict[str, str]]) -> float:
    """Return the share of problems whose final answer is right in a greedy continuation of the prompt."""
    model.eval()
    right = 0
    ordered = sorted(problems, key=lambda problem: len(tokenizer(problem["prompt"])["input_ids"]))
    for at in range(0, len(ordered), BATCH):
        part = ordered[at : at + BATCH]
        prompts = tokenizer(
            [problem["prompt"] + "\n" for problem in part],
            return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False,
        )  # fmt: skip
        ids = model.generate(**prompts, max_new_tokens=LONGEST_CONTINUATION, do_sample=False)
        texts = tokenizer.batch_decode(ids[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
        for text, problem in zip(texts, part):
            right += answer_in("\n" + text, problem["lang"]) == problem["answer"]
    return right / len(problems)


def timelines(
    tokenizers: dict[str, PreTrainedTokenizerFast], problems: Sequence[dict[str, str]]
) -> dict[str, dict[str, float]]:
    """Compare the models' timelines of the same documents."""
    texts = [text_of(problem) for problem in problems]
    timeline = {name: [_ends(tokenizer, text) for text in texts] for name, tokenizer in tokenizers.items()}
    length = {name: sum(map(len, rows)) for name, rows in timeline.items()}
    rows: dict[str, dict[str, float]] = {
        "mean_tokens": {name: round(count / len(texts), 2) for name, count in length.items()},
        "exact_rate": {},
        "exact_rows_without_sinks": {},
    }
    for name in tokenizers:
        if name == "student":
            continue
        borders = [set(ends) for ends in timeline[name]]
        exact = [[end in b for end in ends] for ends, b in zip(timeline["student"], borders)]
        rows["exact_rate"][name] = round(sum(map(sum, exact)) / length["student"], 4)
        rows["exact_rows_without_sinks"][name] = sum(sum(row[SINKS:]) for row in exact)
    return rows | {"documents": len(texts)}


def _ends(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the byte at which each content token ends."""
    tokens = tokenize(tokenizer, text)
    return tokens.spans[~tokens.special, 1].tolist()
