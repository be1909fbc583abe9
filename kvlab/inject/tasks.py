"""Score tasks with and without a hand-over: multiple choice by log-likelihood, problems by the answer that is written.

    own      the student behind its own cache of the context
    handed   the student behind the cache that is handed over
    none     the student without the context: special tokens at the start, and the context's last token
    teacher  the first teacher alone

Options are scored as lm-evaluation-harness does: the tokens of context + option behind those that both readings begin
with alike; accuracy takes the largest sum of log p, "per byte" divides it by the option's bytes.
"""

from collections.abc import Sequence
from copy import copy
from math import nan

import numpy as np
import torch
from transformers import DynamicCache

from kvlab.inject.handoff import Handover
from kvlab.inject.scores import mean_of
from kvlab.inject.texts import greedy
from kvlab.language import Message
from kvlab.models import cache_names
from kvlab.models.forward import empty_cache
from kvlab.models.loading import LoadedModel
from kvlab.models.tokens import tokenize
from kvlab.request.answers import last_number, same_answer
from kvlab.request.segments import Markers, final_answer
from kvlab.request.task_files import Choice, Question, Task, by_task
from kvlab.results.certificate.data import TaskScore
from kvlab.results.certificate.verdict import known
from kvlab.results.paired import interval
from kvlab.shapes import Progress, no_progress

STAGE = "scoring tasks"
OWN, HANDED, NONE, TEACHER = VARIANTS = ("own", "handed", "none", "teacher")
ACCURACY, PER_BYTE, EXACT = "accuracy", "accuracy per byte", "exact match"


def evaluate(
    hand: Handover,
    tasks: Sequence[Task],
    markers: Markers | None = None,
    most_new: int = 200,
    progress: Progress = no_progress,
) -> tuple[list[TaskScore], list[Message]]:
    """Score every task. Items whose context has fewer than two tokens, or no room, are left out and said."""
    hand = copy(hand)
    hand.settings = hand.settings.model_copy(update={"chat": False})  # these sets are read as plain text
    right: dict[tuple[str, str, str], list[float]] = {}
    left_out = done = 0
    for task, items in by_task(tasks):
        for item in items:
            progress(STAGE, done, len(tasks))
            done += 1
            if not _admitted(hand, item):
                left_out += 1
                continue
            if isinstance(item, Choice):
                for variant, sums in scored(hand, item).items():
                    lengths = np.array([len(option.encode()) for option in item.options])
                    for metric, values in ((ACCURACY, sums), (PER_BYTE, sums / lengths)):
                        hit = float(int(np.argmax(values)) == item.right)
                        right.setdefault((task, metric, variant), []).append(hit)
            else:
                for variant, text in written(hand, item, most_new).items():
                    answer = final_answer("\n" + text, markers or Markers()) or last_number(text)
                    hit = float(answer is not None and same_answer(answer, item.answer))
                    right.setdefault((task, EXACT, variant), []).append(hit)
    notes = (
        [Message("{n} items of the tasks have no room in the models or no context.", n=left_out)] if left_out else []
    )
    return [_score(key, values, right) for key, values in right.items()], notes


def _score(key: tuple[str, str, str], values: list[float], right: dict[tuple[str, str, str], list[float]]) -> TaskScore:
    task, metric, variant = key
    mean, se = mean_of(values)
    own = right[task, metric, OWN]
    less = interval([a - b for a, b in zip(values, own, strict=True)])
    low, high = (nan, nan) if variant == OWN else (less.low, less.high)
    return TaskScore(
        task=task,
        metric=metric,
        variant=variant,
        right=known(mean),
        se=known(se),
        less_own=known(float(less.mean)),
        less_own_low=known(float(low)),
        less_own_high=known(float(high)),
        n=len(values),
    )


def _admitted(hand: Handover, item: Task) -> bool:
    """Return whether the context has two tokens, and the longest text a place in every model."""
    texts = [item.context + option for option in item.options] if isinstance(item, Choice) else [item.context]
    for loaded in (*hand.teachers, hand.student):
        most = loaded.geometry.max_positions
        if most is not None and max(len(tokenize(loaded.tokenizer, text)) for text in texts) > most:
            return False
    return len(tokenize(hand.student.tokenizer, item.context)) >= 2


@torch.inference_mode()
def scored(hand: Handover, item: Choice) -> dict[str, np.ndarray]:
    """Return sum of log p(option) of every option, by variant."""
    student, teacher = hand.student, hand.teachers[0]
    ids, start = options_of(student, item)
    handed = hand.over(item.context)
    begin = _begin(student, item.context)
    return {
        OWN: log_likelihoods(student, ids, start),
        HANDED: log_likelihoods(student, ids, start, handed),
        NONE: log_likelihoods(student, [begin + of[start - 1 :] for of in ids], len(begin) + 1),
        TEACHER: log_likelihoods(teacher, *options_of(teacher, item)),
    }


def options_of(loaded: LoadedModel, item: Choice) -> tuple[list[list[int]], int]:
    """Return the tokens of context + each option, and where the options begin: behind what they share with it."""
    context = tokenize(loaded.tokenizer, item.context).ids.tolist()
    ids = [tokenize(loaded.tokenizer, item.context + option).ids.tolist() for option in item.options]
    starts = []
    for of_option in ids:
        pairs = zip(context, of_option)
        starts.append(next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(context), len(of_option))))
    return ids, max(1, min(starts))


def _begin(student: LoadedModel, context: str) -> list[int]:
    """Return the special tokens before the content."""
    tokens = tokenize(student.tokenizer, context)
    content = np.flatnonzero(~tokens.special)
    return tokens.ids[: int(content[0]) if len(content) else 0].tolist()


@torch.inference_mode()
def log_likelihoods(
    loaded: LoadedModel, ids: Sequence[Sequence[int]], start: int, cache: DynamicCache | None = None
) -> np.ndarray:
    """Return [B] sums of log p of the tokens from ``start`` on, in one forward padded on the right.

    ``cache``: of the beginning that all have in common, of at least ``start - 1`` tokens; it is not changed.
    """
    keep = start - 1 if cache is not None else 0
    longest = max(map(len, ids))
    padded = torch.zeros(len(ids), longest - keep, dtype=torch.int64)
    for b, of_option in enumerate(ids):
        padded[b, : len(of_option) - keep] = torch.tensor(of_option[keep:])
    padded = padded.to(loaded.device)
    held = empty_cache(loaded)
    if cache is not None and keep:
        for layer in loaded.geometry.kv_layers:
            stored = cache.layers[layer].keys, cache.layers[layer].values
            held.update(*(x[:, :, :keep].expand(len(ids), -1, -1, -1).contiguous() for x in stored), layer)
    with loaded.lock:
        logits = loaded.model(input_ids=padded, **cache_names.passing(loaded.model, held)).logits
    log_p = logits.float().log_softmax(-1)
    sums = []
    for b, of_option in enumerate(ids):
        following = padded[b, start - keep : len(of_option) - keep]
        predicting = log_p[b, start - 1 - keep : len(of_option) - 1 - keep]
        sums.append(float(predicting.gather(1, following[:, None]).double().sum()))
    return np.array(sums)


@torch.inference_mode()
def written(hand: Handover, item: Question, most: int) -> dict[str, str]:
    """Return the greedy continuation of the context, by variant."""
    student, teacher = hand.student, hand.teachers[0]
    ids = torch.from_numpy(tokenize(student.tokenizer, item.context).ids)[None].to(student.device)
    of_teacher = torch.from_numpy(tokenize(teacher.tokenizer, item.context).ids)[None].to(teacher.device)
    start = torch.tensor([[*_begin(student, item.context), int(ids[0, -1])]], device=student.device)
    handed = hand.over(item.context)
    made = {
        OWN: (student, empty_cache(student), ids),
        HANDED: (student, handed, handed.input_ids[:, -1:]),
        NONE: (student, empty_cache(student), start),
        TEACHER: (teacher, empty_cache(teacher), of_teacher),
    }
    return {
        variant: loaded.tokenizer.decode(greedy(loaded, cache, begun, most)[0], skip_special_tokens=True)
        for variant, (loaded, cache, begun) in made.items()
    }
