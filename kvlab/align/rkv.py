"""Apply rule ``rkv``: keep per layer and KV head the teacher steps that matter most and repeat least.

From R-KV (Cai et al. 2025, arXiv 2505.24133, §3.2-3.4), as KaVa (Kuzina et al. 2025, arXiv 2510.02312) uses it to cut
a teacher's cache down to the M steps of a student. KaVa looks from the answer's tokens; which queries look is the
caller's choice (``attention.observers``). Candidates are the content tokens: special ones are never kept.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kvlab.errors import AlignError
from kvlab.language import Message
from kvlab.request.time_rules.nearest import NO_STEP
from kvlab.shapes import HeadSteps, Tokens


@dataclass(frozen=True)
class RKV:
    """λ from the paper (§4.1); the others from its authors' code, where the paper names no number."""

    balance: float = 0.1  # λ of Eq. 7: the weight of importance against redundancy
    window: int = 7  # steps, odd: importance is the maximum over a step and its neighbours (Eq. 4)
    threshold: float = 0.5  # T: keys of a cosine above this are similar
    spared: int = 1  # β: the most recent similar keys, which are not counted against


def keep_steps(
    keys: list[torch.Tensor], attention: list[torch.Tensor], tokens: Tokens, count: int, parameters: RKV | None = None
) -> HeadSteps:
    """Return the ``count`` best steps of one document for every KV head of every cached layer.

    ``keys``: per layer [H, T, D], as compared (the papers' are after RoPE). ``attention``: per layer [H, T], the mean
    probability that the observers put on each step; rescaled to sum to 1 over content, because the softmax of Eq. 1 is
    over the candidates alone. Raises AlignError ``rkv-length-mismatch``.
    """
    chosen = parameters or RKV()
    content = torch.from_numpy(~tokens.special)
    head_steps = HeadSteps(steps=[], importance=[], redundancy=[], score=[])
    for k, a in zip(keys, attention, strict=True):
        if not k.shape[1] == a.shape[1] == len(tokens):
            raise AlignError(
                "rkv-length-mismatch",
                expected=Message("keys and attention of the document's {n} teacher tokens", n=len(tokens)),
                found=Message(
                    "keys of {keys} and attention of {attention} steps", keys=k.shape[1], attention=a.shape[1]
                ),
                remedy=Message("pass one document without its padding"),
            )
        candidates = content.to(k.device)
        shares = F.normalize(a[:, candidates].float(), p=1, dim=-1)
        important = importance(shares[:, None], chosen.window)
        redundant = redundancy(k[:, candidates], chosen)
        scored = _spread(score(important, redundant, chosen.balance), candidates)
        head_steps.importance.append(_spread(important, candidates))
        head_steps.redundancy.append(_spread(redundant, candidates))
        head_steps.score.append(scored)
        head_steps.steps.append(select(scored, count))
    return head_steps


def _spread(values: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Spread values [H, candidates] over all steps [H, T], NaN elsewhere."""
    whole = values.new_full((len(values), len(candidates)), torch.nan)
    whole[:, candidates] = values
    return whole


def importance(attention: torch.Tensor, window: int = RKV.window) -> torch.Tensor:
    """Return Eq. 4: attention [H, A, T] of A observers -> [H, T], the maximum over each step's window of their mean.

    The window is centred and pooled after the mean, as in the authors' code.
    """
    if not attention.shape[-1]:
        return attention.mean(dim=1)
    return F.max_pool1d(attention.mean(dim=1), kernel_size=window, stride=1, padding=window // 2)


def redundancy(keys: torch.Tensor, parameters: RKV | None = None) -> torch.Tensor:
    """Return Eq. 5 and 6: keys [H, T, D] -> [H, T], the softmax over steps of the mean cosine to the other keys.

    Every step spares its β most recent similar ones: that cosine does not count in *their* mean, so the latest of
    several repeating steps stays. (We read Eq. 6 with the sum over i, as printed and as in the authors' code; the
    other reading would spare all of them alike.)
    """
    chosen = parameters or RKV()
    # One head at a time: [H, T, T] of a long document would not fit into memory.
    means = [_mean_cosine(F.normalize(k.float(), dim=-1, eps=1e-8), chosen) for k in keys]
    return torch.stack(means).softmax(dim=-1)


def _mean_cosine(unit_keys: torch.Tensor, chosen: RKV) -> torch.Tensor:
    """Unit keys [T, D] -> [T]."""
    cosine = (unit_keys @ unit_keys.T).fill_diagonal_(0)
    similar = cosine > chosen.threshold
    similar_from_here_on = similar.flip(-1).cumsum(-1, dtype=torch.int32).flip(-1)
    cosine[similar & (similar_from_here_on <= chosen.spared)] = 0
    return cosine.sum(dim=0) / max(len(cosine), 1)


def score(importance: torch.Tensor, redundancy: torch.Tensor, balance: float = RKV.balance) -> torch.Tensor:
    """Return Eq. 7: λ I - (1 - λ) R. (KaVa writes + for a redundancy that is low where keys repeat.)"""
    return balance * importance - (1 - balance) * redundancy


def select(score: torch.Tensor, count: int) -> torch.Tensor:
    """Select the ``count`` best steps [H, count], in order of time, by scores [H, T], NaN where never to be kept.

    The earlier of two equals wins. -1 fills the end where a head has fewer than ``count`` candidates.
    """
    heads, length = score.shape
    best = score.nan_to_num(nan=-torch.inf, neginf=-torch.inf).sort(dim=-1, descending=True, stable=True)
    steps = best.indices[:, :count].masked_fill(best.values[:, :count] == -torch.inf, length).sort(dim=-1).values
    filled = torch.full((heads, count), NO_STEP, dtype=torch.int64, device=score.device)
    filled[:, : steps.shape[1]] = steps.masked_fill(steps == length, NO_STEP)
    return filled
