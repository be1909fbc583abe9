"""Continue a prompt greedily from its own cache, from replaced caches, and from nothing."""

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
import torch

from kvlab.inject.continuation import prefix_cache
from kvlab.inject.prefix import Prefix, Reading
from kvlab.inject.scores import mean_of
from kvlab.models import cache_names
from kvlab.models.forward import empty_cache
from kvlab.models.loading import LoadedModel
from kvlab.models.tokens import pieces_of
from kvlab.request.answers import same_answer
from kvlab.request.segments import Markers, final_answer
from kvlab.results.function.data import Accuracy, Continued, Text
from kvlab.shapes import Document, Tokens, segment_of

NO_PREFIX = "none"


def prompt_cut(tokens: Tokens, document: Document) -> int | None:
    """Count the cached tokens of the prompt: all but its last, which is fed. None where there is no such prompt."""
    prompt = [place for place, part in enumerate(document.segments) if part.name == "prompt"]
    inside = np.flatnonzero(np.isin(segment_of(tokens, document.segments), prompt)) if prompt else []
    return int(inside[-1]) if len(inside) and 0 < inside[-1] < len(tokens) - 1 else None


@torch.inference_mode()
def continuations(
    student: LoadedModel, reading: Reading, prefix: Prefix, names: Sequence[str], most: int, markers: Markers
) -> Text:
    """Continue the variants ``names``, "own" first, and "none": special tokens at the start and the prompt's last."""
    own, cut = reading.own, prefix.cut
    cache = prefix_cache(student, own, cut, prefix.rows, [prefix.variant(name) for name in names])
    continued = dict(zip(names, greedy(student, cache, own.ids[:, cut : cut + 1].expand(len(names), -1), most)))
    content = np.flatnonzero(~own.tokens.special)
    start = [*range(int(content[0]) if len(content) else 0), cut]
    (continued[NO_PREFIX],) = greedy(student, empty_cache(student), own.ids[:, start], most)
    document = reading.item.document
    expected = _expected(document, markers)
    text = document.text.encode()[: int(own.tokens.spans[cut, 1])].decode(errors="replace")
    return Text(
        document.id,
        text,
        expected,
        [_shown(student, name, ids, continued[names[0]], expected, markers) for name, ids in continued.items()],
    )


def greedy(student: LoadedModel, cache, ids: torch.Tensor, most: int) -> list[list[int]]:
    """Continue ids [B, T] from a cache; return the most likely next tokens of each row, up to the end of the text."""
    ends = student.model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends]) | {student.tokenizer.eos_token_id}
    continued: list[list[int]] = [[] for _ in ids]
    ended = [False] * len(continued)
    limit = student.geometry.max_positions
    for _ in range(most):
        if limit is not None and cache.get_seq_length() + ids.shape[1] > limit:
            break
        with student.lock:
            logits = student.model(input_ids=ids, **cache_names.passing(student.model, cache)).logits
        chosen = logits[:, -1].argmax(-1)
        for b, token in enumerate(chosen.tolist()):
            ended[b] = ended[b] or token in ends
            if not ended[b]:
                continued[b].append(token)
        if all(ended):
            break
        ids = chosen[:, None]
    return continued


def _shown(
    student: LoadedModel, name: str, ids: list[int], own: list[int], expected: str | None, markers: Markers
) -> Continued:
    text = student.tokenizer.decode(ids, skip_special_tokens=True)
    answer = final_answer("\n" + text, markers)
    return Continued(
        variant=name,
        tokens=[(piece or b"").decode(errors="replace") for piece in pieces_of(student.tokenizer, ids)],
        differs=differing(own, ids),
        text=text,
        answer=answer,
        right=None if expected is None else answer is not None and same_answer(answer, expected),
    )


def differing(own: Sequence[int], other: Sequence[int]) -> list[bool]:
    """Return per token of ``other`` whether it lies outside all runs of tokens shared with ``own``, in order."""
    differs = [True] * len(other)
    for block in SequenceMatcher(None, own, other, autojunk=False).get_matching_blocks():
        differs[block.b : block.b + block.size] = [False] * block.size
    return differs


def _expected(document: Document, markers: Markers) -> str | None:
    """Return the answer of the document, without its marker."""
    answers = [part for part in document.segments if part.name == "answer"]
    if not answers:
        return None
    written = document.text.encode()[answers[-1].start : answers[-1].end].decode(errors="replace")
    return final_answer("\n" + written, markers) or written.strip() or None


def accuracies(texts: Sequence[Text]) -> list[Accuracy]:
    """Compute the share of right answers of each variant, beside the own cache's on the same documents."""
    by_text = [{c.variant: c for c in text.continuations} for text in texts]
    rows = []
    for variant in by_text[0] if by_text else []:
        asked = [variants for variants in by_text if variants[variant].right is not None]
        right = [float(variants[variant].right) for variants in asked]
        less = [float(variants[variant].right) - float(variants["own"].right) for variants in asked]
        agreed = [_before_difference(variants["own"].tokens, variants[variant].tokens) for variants in by_text]
        same, _ = mean_of(agreed)
        rows.append(Accuracy(variant, *mean_of(right), *mean_of(less), same_tokens=same, documents=len(asked)))
    return rows


def _before_difference(own: Sequence[str], other: Sequence[str]) -> float:
    """Return the share of the own continuation before the first token that differs."""
    agreed = next((n for n, (a, b) in enumerate(zip(own, other)) if a != b), min(len(own), len(other)))
    return agreed / len(own) if own else float(not other)
