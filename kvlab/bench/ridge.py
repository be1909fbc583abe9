"""Compare ridge over penalties and folds from sums with scikit-learn's same nested cross-validation.

The other side leaves out the same pairs of folds, fits ``Ridge(solver="cholesky")``, its fastest here, and tests on
both folds, and tries the same penalties in turn, as kvlab does; it cannot use sums in place of rows. ``RidgeCV`` leaves
out rows, or chooses one penalty for all targets, so it cannot do this.
"""

import numpy as np
import torch

from kvlab.align.crossfit import MIDDLE_PENALTY, RELATIVE_PENALTIES, crossfit_ridge, pairs
from kvlab.align.fold_sums import FIT_AND_SCORE, Pairing
from kvlab.align.moments import pilot_of
from kvlab.align.ties import last_of_the_least
from kvlab.bench.layers import layered_rows
from kvlab.bench.row import FASTER, Row, in_turn, not_measured, timed

NAME, AGAINST, BAR = "ridge over all penalties and folds", "scikit-learn on the same rows", 5.0
FOLDS, EQUAL, BATCH = 5, 1e-6, 4096


def against_sklearn(device: torch.device, quick: bool) -> Row:
    try:
        import sklearn
    except ImportError:
        return not_measured(NAME, AGAINST, FASTER, BAR, "pip install scikit-learn")
    rows, features, targets, heads, rounds = (200, 12, 6, 2, 1) if quick else (20_000, 512, 256, 4, 5)
    (x,), (y,) = layered_rows(rows, [features], [targets], torch.device("cpu"))
    fold = torch.arange(rows) % FOLDS
    on_device, sklearn_rows = [part.to(device) for part in (x, y)], [part.numpy() for part in (x, y)]

    def ours() -> np.ndarray:
        return by_sums(*on_device, fold.to(device), heads)

    ours()  # to warm up
    measured = in_turn(ours, lambda: by_sklearn(*sklearn_rows, fold.numpy(), heads), device, rounds)
    our_r2, other_r2 = (side.result for side in measured[-1])
    difference = float(np.abs(our_r2 - other_r2).max())
    return timed(
        NAME,
        AGAINST,
        measured,
        FASTER,
        BAR,
        equal=difference <= EQUAL,
        largest_difference=difference,
        rows=rows,
        features=features,
        targets=targets,
        folds=FOLDS,
        penalties=len(RELATIVE_PENALTIES),
        r2=our_r2.tolist(),
        sklearn=sklearn.__version__,
    )


def by_sums(x: torch.Tensor, y: torch.Tensor, fold: torch.Tensor, heads: int) -> np.ndarray:
    """Compute held-out R^2 [H], including the sums over the rows."""
    pairing = Pairing.begin(pilot_of(x[:BATCH]), pilot_of(y[:BATCH]), FOLDS)
    for f in range(FOLDS):
        inside = fold == f
        for x_part, y_part in zip(x[inside].split(BATCH), y[inside].split(BATCH)):
            pairing.add(f, FIT_AND_SCORE, x_part, y_part)
    return crossfit_ridge(pairing, heads).r2.cpu().numpy()


def by_sklearn(x: np.ndarray, y: np.ndarray, fold: np.ndarray, heads: int) -> np.ndarray:
    """Compute held-out R^2 [H] with the same folds, penalties, and choice of a penalty per head."""
    from sklearn.linear_model import Ridge

    def fitted(train: np.ndarray, relative: float) -> Ridge:
        alpha = relative * float(x[train].var(0, dtype=np.float64).mean()) * int(train.sum())
        return Ridge(alpha=alpha, solver="cholesky").fit(x[train], y[train])

    def per_head(squares: np.ndarray) -> np.ndarray:
        return squares.sum(0, dtype=np.float64).reshape(heads, -1).sum(1)

    errors = np.full((FOLDS, len(RELATIVE_PENALTIES), heads), np.inf)

    def gets_better(p: int) -> bool:
        errors[:, p] = 0
        for f, g in pairs(FOLDS):
            model = fitted((fold != f) & (fold != g), RELATIVE_PENALTIES[p])
            for chosen_for, tested_on in ((f, g), (g, f)):
                test = fold == tested_on
                errors[chosen_for, p] += per_head(np.square(y[test] - model.predict(x[test])))
        return bool((last_of_the_least(torch.from_numpy(errors), dim=1) == p).any())

    middle = RELATIVE_PENALTIES.index(MIDDLE_PENALTY)
    gets_better(middle)
    for way in (range(middle - 1, -1, -1), range(middle + 1, len(RELATIVE_PENALTIES))):
        all(gets_better(p) for p in way)  # as far as it does
    chosen = last_of_the_least(torch.from_numpy(errors), dim=1).numpy()  # [F, H]
    rss, tss = np.zeros(heads), np.zeros(heads)
    for f in range(FOLDS):
        train, test = fold != f, fold == f
        for p in np.unique(chosen[f]):
            predicted = fitted(train, RELATIVE_PENALTIES[p]).predict(x[test])
            rss += np.where(chosen[f] == p, per_head(np.square(y[test] - predicted)), 0)
        tss += per_head(np.square(y[test] - y[train].mean(0, dtype=np.float64)))
    return 1 - rss / tss
