"""Compare `align`'s held-out R² with a float64 computation from the rows themselves, over ten choices of documents.

    python -m tests.reference STUDENT PROMPTS [--teacher demo/teacher] [--seeds 0-9]

Seed 0 takes all documents; the others a share of them, drawn anew, and draw their own folds. The reference never sums
in float32: it centres the rows, and for every fold chooses a penalty by the rule of docs/method.md and solves.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kvlab.align import pipeline
from kvlab.align.crossfit import RELATIVE_PENALTIES, pairs, ridge_by_class
from kvlab.align.fold_sums import FITTED
from kvlab.align.items import Reader
from kvlab.align.sample import Sample
from kvlab.align.ties import HAIR
from kvlab.models.loading import LoadedModel, load
from kvlab.request import prompts
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Document, no_progress

WITHIN, WORST = 1e-3, -0.1  # of R²: from the reference, and the lowest of a head


class Rows:
    """Centred rows x [N, P] and y [N, Q] of every fold, of one kind, student layer and class of rows."""

    def __init__(self, sample: Sample, kind: str, layer: int, layers: Sequence[int], row_classes: tuple | None):
        self.x, self.y = [], []
        for fold in range(sample.folds):
            groups = [
                group
                for group in sample.groups
                if group[0] == fold
                and group[1].use in FITTED
                and (row_classes is None or group[1].row_class in row_classes)
            ]
            # At least one group, so that a fold without rows of this class has the right widths.
            x = [sample.side_by_side(kind, layers, group).double().numpy() for group in groups or sample.groups[:1]]
            y = [sample.y(kind, layer, group).double().numpy() for group in groups or sample.groups[:1]]
            rows = slice(None) if groups else slice(0)
            self.x.append(np.concatenate(x)[rows])
            self.y.append(np.concatenate(y)[rows])
        mean_x, mean_y = np.concatenate(self.x).mean(0), np.concatenate(self.y).mean(0)
        self.x, self.y = [x - mean_x for x in self.x], [y - mean_y for y in self.y]
        self.grams, self.products = [x.T @ x for x in self.x], [x.T @ y for x, y in zip(self.x, self.y)]

    def residuals(self, without: Sequence[int], tested: int, columns: np.ndarray, penalties: Sequence[float]):
        """Residuals [N, Q] of one fold for each relative penalty, fitted on the folds that are not in ``without``."""
        folds = [fold for fold in range(len(self.x)) if fold not in without]
        n = sum(len(self.x[fold]) for fold in folds)
        mean_x = sum(self.x[fold].sum(0) for fold in folds) / n
        mean_y = sum(self.y[fold].sum(0) for fold in folds) / n
        gram = (sum(self.grams[fold] for fold in folds) - n * np.outer(mean_x, mean_x))[np.ix_(columns, columns)]
        product = (sum(self.products[fold] for fold in folds) - n * np.outer(mean_x, mean_y))[columns]
        x, y = (self.x[tested] - mean_x)[:, columns], self.y[tested] - mean_y
        scale = np.diag(gram).mean() or 1.0
        for penalty in penalties:
            yield y, y - x @ np.linalg.solve(gram + penalty * scale * np.eye(len(gram)), product)


def reference(sample: Sample, kind: str, layer: int, choice, heads: int, classes: Sequence[tuple | None]) -> np.ndarray:
    """Held-out R² [H] over all classes of rows."""
    rss, tss = np.zeros(heads), np.zeros(heads)

    def by_head(values: np.ndarray) -> np.ndarray:
        return (values**2).sum(0).reshape(heads, -1).sum(1)

    for row_classes in classes:
        rows = Rows(sample, kind, layer, choice.union, row_classes)
        errors = np.zeros((sample.folds, len(RELATIVE_PENALTIES), heads))
        for f, g in pairs(sample.folds):
            for chosen_for, tested in ((f, g), (g, f)):
                columns = choice.columns(choice.of_fold[chosen_for]).numpy()
                found = rows.residuals((f, g), tested, columns, RELATIVE_PENALTIES)
                errors[chosen_for] += [by_head(residuals) for _, residuals in found]
        # Of penalties whose errors differ by less than a hair, the largest.
        as_good = errors < (1 + HAIR) * errors.min(1, keepdims=True)
        chosen = len(RELATIVE_PENALTIES) - 1 - as_good[:, ::-1].argmax(1)
        for fold in range(sample.folds):
            columns = choice.columns(choice.of_fold[fold]).numpy()
            for place in np.unique(chosen[fold]):
                ((y, residuals),) = rows.residuals((fold,), fold, columns, RELATIVE_PENALTIES[place : place + 1])
                mine = chosen[fold] == place
                rss[mine] += by_head(residuals)[mine]
                tss[mine] += by_head(y)[mine]
    return 1 - rss / tss


def compare(
    teacher: LoadedModel, student: LoadedModel, documents: Sequence[Document], seed: int
) -> tuple[float, float, int]:
    """Return the largest difference from the reference, the lowest R² of a head, and the number of heads."""
    settings = AlignSettings(seed=seed, random_teacher=False, inspect=0)
    reader = Reader([teacher], student, documents, (), settings)
    work = pipeline._Work([teacher], student, settings, reader, no_progress)
    work.read_sample()
    sample, choices, sums = work.samples[0], work.layers[0].choices, work.sums[0]
    pairings = {(kind, layer): sums.pairing(kind, layer) for kind in KINDS for layer in range(len(work.heads))}
    fits = ridge_by_class(pairings, {place: work.heads[place[1]] for place in pairings})
    differences, lowest = [], []
    for (kind, layer), fit in fits.items():
        classes = [of_class.classes for of_class in fit.fits]
        expected = reference(sample, kind, layer, choices[kind][layer], work.heads[layer], classes)
        differences.extend(abs(fit.r2.numpy() - expected))
        lowest.append(fit.r2.min().item())
    return max(differences), min(lowest), len(differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--teacher", default="demo/teacher")
    parser.add_argument("--seeds", default="0-9")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    teacher, student = load(asked.teacher), load(asked.student)
    documents = prompts.read_file(asked.prompts).documents
    first, _, last = asked.seeds.partition("-")
    wrong = []
    for seed in range(int(first), int(last or first) + 1):
        share = 1 if seed == 0 else 0.3 + 0.07 * seed
        some = random.Random(seed).sample(documents, int(len(documents) * share)) if seed else documents
        difference, lowest, heads = compare(teacher, student, some, seed)
        print(
            f"seed {seed}: {len(some)} documents, {heads} heads, off by {difference:.1e}, lowest R² {lowest:.3f}",
            flush=True,
        )
        if not (difference <= WITHIN and lowest >= WORST):
            wrong.append(seed)
    if wrong:
        raise SystemExit(f"not within {WITHIN} of the reference, or below {WORST}: seeds {wrong}")


if __name__ == "__main__":
    main()
