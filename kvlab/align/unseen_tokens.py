"""The rows whose token no fitted document has, for the control by the teacher's token.

A map of embeddings says something of every token. What it says of one that it was not fitted on can be far off, most
where there are few documents: on 36 small stories .1 % of the rows had R² -20 and took .02 from the control. So such
rows are a part of their own, where all rows are at hand (``crossfit.crossfit_ridge``).
"""

from collections.abc import Sequence
from functools import partial

import torch

from kvlab.align.align_sums import TEACHER_TOKEN, AlignSums, Beside
from kvlab.align.crossfit import Unseen, pairs
from kvlab.align.fold_sums import APART, FITTED, HOST, Classes, Pairing
from kvlab.align.sample import Group, Sample


def unseen_tokens(sample: Sample, sums: AlignSums) -> dict[tuple[Beside, Classes], Unseen]:
    """The rows of a sample that is everything, by the problem (``AlignSums.token_layers``) and its classes of rows."""
    groups = [group for group in sample.groups if group[1].use not in APART]
    embedded = [sample.e(group).to(HOST) for group in groups]
    ids = torch.cat(embedded).unique(dim=0, return_inverse=True)[1].split([len(rows) for rows in embedded])
    found: dict[tuple[Beside, Classes], Unseen] = {}
    for beside, targets in sums.token_layers.items():
        whole = sums.token_pairing(TEACHER_TOKEN, beside)
        layer = targets[0][1]
        rows = []
        for x, group in zip(embedded, groups):
            y = torch.cat([sample.y(*target, group).to(HOST) for target in targets], dim=1)
            weights = sample.weights(layer, group)
            rows.append((x, y, None if weights is None else weights.to(HOST)))
        for of_class in whole.by_class():
            found[beside, of_class.classes] = _of_class(of_class, groups, ids, rows)
    return found


def _of_class(pairing: Pairing, groups: Sequence[Group], ids: Sequence[torch.Tensor], rows: Sequence[tuple]) -> Unseen:
    folds, classes = pairing.features.folds, pairing.classes
    count = int(max((int(of_group.max()) for of_group in ids if len(of_group)), default=0)) + 1
    in_fold = torch.zeros(folds, count, dtype=torch.int64)
    mine = [at for at, (_, part) in enumerate(groups) if classes is None or part.row_class in classes]
    for at in mine:
        fold, part = groups[at]
        if part.use in FITTED:
            in_fold[fold] |= torch.bincount(ids[at], minlength=count).clamp(max=1)
    without = [(f, f) for f in range(folds)]
    if folds >= 3:
        without += [pair for f, g in pairs(folds) for pair in ((f, g), (g, f))]
    new_rows: dict[tuple[int, int], list] = {}
    for other, tested in without:
        seen = in_fold.sum(0) - in_fold[tested] - (in_fold[other] if other != tested else 0) > 0
        of_tested = new_rows[other, tested] = []
        for at in mine:
            new = ~seen[ids[at]]
            if groups[at][0] == tested and new.any():
                x, y, weights = rows[at]
                of_tested.append((groups[at][1], x[new], y[new], None if weights is None else weights[new]))
    return Unseen(partial(Pairing.begin, pairing.features.pilots[0], pairing.targets.pilots[1], 1), new_rows)
