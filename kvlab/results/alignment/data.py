"""Write a finished alignment to disk and read it back. The web process reads these; no torch here.

``alignment.json`` holds everything but the arrays, which lie beside it in ``arrays.safetensors`` (float32, the signals
float16): ``contribution.{key,value}.{without,alone}`` [Ls, Hs, Ht], ``similarity.{key,value}.{cka,cka_shuffled,r2}``
[Ls, Lt] and ``.own`` [Ls, Ls], ``spectrum.{key,value}.{share,error,se,error_identity}`` [Ls, Hs, D], where rules are
compared ``rules.{key,value}.RULE.{r2,se}`` [Ls, Hs], ``document.N.error.{key,value}`` [Ls, Hs, Ts],
``document.N.signal.{key,value}.{student,resampled}`` [Ls, Hs, Ts] and ``.teacher`` [Ls, Hs, Tt],
``document.N.{index,lag}.RULE`` [Ts], ``document.N.row_class`` [Ts] (EXACT or INSIDE), and of the rkv rule
``document.N.rkv.steps`` [Lt, Ht, Ts] and ``document.N.rkv.{importance,redundancy,score}`` [Lt, Ht, Tt].
A missing value is NaN. Of several teachers, the first lies here, the others in ``teacher-2/``, ...
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from kvlab.errors import AlignError
from kvlab.language import Message, phrase
from kvlab.request.time_rules import known
from kvlab.results.safe_csv import safe_csv

FORMAT = 2
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)  # when read from a damaged file
JSON_NAME, ARRAYS_NAME, CSV_NAME = "alignment.json", "arrays.safetensors", "heads.csv"
LEAST_GAIN = 0.0005  # of a fusion, in R^2: the same teacher twice always gains 0.00001
EXACT, INSIDE = 0, 1  # row classes: the token ends where a teacher token ends, or inside one
FUSION_NAME, OTHER_TEACHER = "fusion.csv", "teacher-{}"
CSV_COLUMNS = ["kind", "layer", "head", "r2", "error", "cosine", "r2_shuffled", "r2_identity", "n"]
CSV_COLUMNS += ["r2_exact", "exact_se", "r2_inside", "inside_se", "n_inside", "r2_own", "own_se"]
CSV_COLUMNS += ["r2_with_own", "with_own_se", "added", "added_se", "se", "r2_random", "random_se", "beats_controls"]

OWN_TOKENS = phrase("the student’s own tokens")


@dataclass(frozen=True)
class Gain:
    """What a teacher adds to one control, in held-out R². ``se`` is None where any gain counts; NaN if not known."""

    control: str  # to be translated
    r2: float
    se: float | None = None

    @property
    def error(self) -> float:
        """Return two standard errors, none for a control that has none."""
        return 0.0 if self.se is None else 2 * self.se

    @property
    def clear(self) -> bool:
        """Return whether it is more than two standard errors above zero."""
        return self.r2 > self.error


@dataclass(frozen=True)
class HeadScore:
    """Held-out scores of one student head; error = RSS / TSS = 1 - R^2 of documents not fitted on.

    Standard errors are by jackknife over at least three scored folds. A value that was not measured is NaN.
    """

    kind: str  # "key" | "value"
    layer: int  # as numbered in the student
    head: int
    r2: float
    error: float
    cosine: float  # pooled over rows, not centred
    r2_shuffled: float  # the same ridge on rows in shuffled order, on the sample's rows
    r2_identity: float  # ridge from the teacher's context-free token embedding
    n: int  # scored rows (student tokens)
    se: float  # of r2
    gain: float  # r2 - r2_identity
    gain_se: float
    error_standardised: float  # mean over channels of RSS / TSS: every channel counts alike
    shuffled_se: float
    identity_se: float
    r2_group_mean: float  # contiguous groups of heads and channels averaged, nothing fitted
    r2_random: float  # ridge from a teacher of random weights, on the sample's rows
    random_se: float
    gain_random: float  # r2 on the sample's rows - r2_random
    gain_random_se: float
    n_control: int  # rows of the sample: shuffled rows and random weights are measured on these
    error_sink: float  # RSS / TSS of the first content tokens, which are in no fit and not in r2
    n_sink: int
    error_special: float  # of the special token that both models begin with
    n_special: int
    # Not a number in results of before there were maps by class of row.
    r2_exact: float = nan  # of the rows that end where a teacher token ends
    exact_se: float = nan
    r2_inside: float = nan  # of the rows that end inside a teacher token
    inside_se: float = nan
    n_inside: int = 0
    r2_own: float = nan  # no teacher: ridge from the student's own token and the two before it, context-free
    own_se: float = nan
    r2_with_own: float = nan  # ridge from the teacher and the student's own token
    with_own_se: float = nan
    added: float = nan  # r2_with_own - r2_own: what the teacher adds to the student's own tokens
    added_se: float = nan

    @property
    def n_exact(self) -> int:
        """Return the scored rows that end where a teacher token ends."""
        return self.n - self.n_inside

    @property
    def has_classes(self) -> bool:
        """Return whether both classes of rows were scored, each by a map of its own."""
        return self.n_inside > 0 and isfinite(self.r2_exact)

    @property
    def gains(self) -> list[Gain]:
        """Return what the score adds to each control that was measured, the training mean included.

        The group mean is none of them: it reads the teacher's cache, so a teacher that it explains by is no worse.
        Against the student's own tokens, the teacher with the student's own token counts; where that map was not
        fitted, the teacher alone.
        """
        own = Gain(OWN_TOKENS, self.r2 - self.r2_own)
        if isfinite(self.added):
            own = Gain(OWN_TOKENS, self.added, self.added_se)
        gains = [
            Gain(phrase("the mean"), self.r2),
            Gain(phrase("shuffled rows"), self.r2 - self.r2_shuffled),
            Gain(phrase("the teacher’s token"), self.gain, self.gain_se),
            Gain(phrase("a teacher of random weights"), self.gain_random, self.gain_random_se),
            own,
        ]
        return [gain for gain in gains if isfinite(gain.r2)]

    @property
    def unbeaten(self) -> list[str] | None:
        """Return the controls that the score does not beat; None without a standard error (under three scored folds).

        It must exceed the mean and shuffled rows; and by more than two standard errors the teacher's token and a
        teacher of random weights (if measured). With the student's own token it must add more than two
        standard errors to the student's own tokens; where only those were measured, it must exceed them.
        """
        if not isfinite(self.gain_se):
            return None
        return [gain.control for gain in self.gains if not gain.clear]

    @property
    def strongest(self) -> Gain | None:
        """Return the gain over the strongest control: the smallest, among unbeaten controls if any; None unscored."""
        if not isfinite(self.r2):
            return None
        below = [gain for gain in self.gains if not gain.clear] if isfinite(self.gain_se) else []
        return min(below or self.gains, key=lambda gain: gain.r2)

    @property
    def beats_controls(self) -> bool | None:
        """Return whether the score beats every control; None if unknown."""
        return None if self.unbeaten is None else not self.unbeaten


@dataclass(frozen=True)
class FusedScore:
    """Held-out scores of one student head from all teachers together, on the tokens that all of them cover."""

    kind: str
    layer: int
    head: int
    r2: float
    se: float
    r2_alone: list[float]  # of each teacher, on the same tokens
    weights: list[float]  # of each teacher's prediction
    gain: float  # over the best single teacher
    gain_se: float
    n: int
    # On the sample: r2 minus that of the best single teacher fused with random weights in place of the others. NaN if
    # not measured, and in results of older versions.
    gain_random: float = nan
    gain_random_se: float = nan
    n_control: int = 0  # tokens of the sample that all teachers cover

    @property
    def unbeaten(self) -> list[str] | None:
        """Return what the fusion does not beat by more than two standard errors and LEAST_GAIN; None if unknown.

        "best" is the best single teacher; "random" is random weights in place of the others (if measured).
        """
        gains = {"best": (self.gain, self.gain_se)}
        if isfinite(self.gain_random):
            gains["random"] = self.gain_random, self.gain_random_se
        if not all(isfinite(se) for _, se in gains.values()):
            return None
        return [name for name, (gain, se) in gains.items() if not gain > max(2 * se, LEAST_GAIN)]

    @property
    def beats_best(self) -> bool | None:
        """Return whether the fusion beats the best single teacher and random weights (if measured); None if unknown."""
        return None if self.unbeaten is None else not self.unbeaten


@dataclass(frozen=True)
class TokenView:
    text: str
    start: int  # byte
    end: int  # byte, exclusive
    special: bool


@dataclass(frozen=True)
class Inspected:
    """A document with its tokens."""

    id: str
    text: str
    segments: list[list]  # [name, start byte, end byte]
    fold: int
    teacher_tokens: list[TokenView]
    student_tokens: list[TokenView]
    scored: list[bool]  # per student token: counted in the scores


@dataclass(eq=False)  # equal by identity, because ``kvlab.results.memo`` uses it as a key
class Alignment:
    """A finished alignment. Sessions share it and cache values derived from it, so nobody may change it."""

    settings: dict[str, Any]
    teacher: dict[str, Any]  # Geometry
    student: dict[str, Any]
    data: dict[str, Any]
    timeline: dict[str, Any]
    layer_map: dict[str, Any]  # rule, search, rows, teacher_layers and by_fold per kind, numbered as in the teacher
    heads: list[HeadScore]
    inspected: list[Inspected]
    notes: list[Message]
    versions: dict[str, str]
    capture: dict[str, Any] = field(default_factory=dict)  # self-tests of "teacher" and "student"
    controls: dict[str, Any] = field(default_factory=dict)  # facts about the sample and the random weights
    teachers: list[str] = field(default_factory=list)  # all teachers of the analysis, this one included
    fusion: list[FusedScore] = field(default_factory=list)  # of several teachers
    timings: dict[str, float] = field(default_factory=dict)
    prompts: str = ""
    arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.notes, self.controls = read_messages(self.notes, self.controls)

    def table(self) -> pd.DataFrame:
        """Return all head scores, one row each."""
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        # Column by column: asdict takes most of a second for the 8,192 heads of a large model.
        names = [*(column.name for column in fields(HeadScore)), "beats_controls"]
        return pd.DataFrame({name: [getattr(score, name) for score in self.heads] for name in names})

    def fusion_table(self) -> pd.DataFrame:
        """Return all fused scores, one row each, with a column per teacher."""
        rows = []
        for score in self.fusion:
            row = asdict(score)
            for name in ("r2_alone", "weights"):
                row |= {f"{name} {number}": value for number, value in enumerate(row.pop(name), 1)}
            last = {name: row.pop(name) for name in ("gain_random", "gain_random_se", "n_control")}
            rows.append(row | last)
        return pd.DataFrame(rows)

    def grid(self, kind: str, column: str) -> np.ndarray:
        """Return one column of the table as [Ls, Hs]; NaN where a layer has fewer heads."""
        chosen = self._table[self._table["kind"] == kind]
        heads = chosen["head"].to_numpy()
        grid = np.full((len(self.student["kv_layers"]), 1 + heads.max()), np.nan)
        grid[pd.Index(self.student["kv_layers"]).get_indexer(chosen["layer"]), heads] = chosen[column]
        return grid

    def score(self, kind: str, layer: int, head: int) -> HeadScore:
        """Return the score of student layer ``layer`` (as numbered in the model) and KV head ``head``."""
        return self._by_head[kind, layer, head]

    @cached_property
    def _by_head(self) -> dict[tuple[str, int, int], HeadScore]:
        return {(score.kind, score.layer, score.head): score for score in self.heads}

    def fused(self, kind: str, layer: int, head: int) -> FusedScore:
        """Return the score of a head from all teachers together."""
        return self._fused_by_head[kind, layer, head]

    @cached_property
    def _fused_by_head(self) -> dict[tuple[str, int, int], FusedScore]:
        return {(score.kind, score.layer, score.head): score for score in self.fusion}

    def layer_position(self, layer: int) -> int:
        """Return the position of a student layer among those with a cache, the first axis of the arrays."""
        return list(self.student["kv_layers"]).index(layer)

    def mean(self, kind: str, column: str) -> float:
        """Return the mean of a column over the heads that vary; NaN if none does."""
        values = self.grid(kind, column)
        return float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else float("nan")

    def summary(self) -> dict[str, dict[str, float]]:
        """Return the means over layers and heads, separately for K and V."""
        return self._summary

    @cached_property
    def _summary(self) -> dict[str, dict[str, float]]:
        columns = (
            *("r2", "r2_identity", "r2_shuffled", "r2_random", "r2_group_mean"),
            *("gain", "gain_random", "cosine", "error_standardised"),
            *("r2_exact", "r2_inside", "r2_own", "r2_with_own", "added", "added_se"),
        )
        return {kind: {column: self.mean(kind, column) for column in columns} for kind in ("key", "value")}

    @property
    def by_class(self) -> bool:
        """Return whether tokens that end inside a teacher token had a map of their own; False in old results."""
        return self.settings.get("rows") == "by-class"

    def row_class(self, number: int) -> np.ndarray | None:
        """Return EXACT or INSIDE for each student token of a document; None where all tokens share one map."""
        if not self.by_class or not known(self.settings["time"]).reads_bytes:
            return None
        return self.arrays.get(f"document.{number}.row_class")

    def to_dict(self) -> dict[str, Any]:
        without_arrays = {column.name: getattr(self, column.name) for column in fields(self) if column.name != "arrays"}
        return {
            "format": FORMAT,
            **without_arrays,
            "heads": [asdict(score) for score in self.heads],
            "inspected": [asdict(document) for document in self.inspected],
            "fusion": [asdict(score) for score in self.fusion],
            "summary": self.summary(),
        }


def write(alignment: Alignment, folder: Path) -> None:
    """Write arrays, heads.csv and alignment.json; the JSON last, so that a reader never finds half a result."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON_NAME).unlink(missing_ok=True)
    save_file(alignment.arrays, folder / ARRAYS_NAME)
    (folder / CSV_NAME).write_text(heads_csv(alignment), encoding="utf-8")
    if alignment.fusion:
        (folder / FUSION_NAME).write_text(safe_csv(alignment.fusion_table()), encoding="utf-8")
    write_json(alignment, folder / JSON_NAME)


def write_json(result: Any, path: Path) -> None:
    """Write ``as_json`` in one step, so that a reader finds all of it or none."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(as_json(result), encoding="utf-8")
    partial.replace(path)


def as_json(result: Any) -> str:
    """Return the text of alignment.json or injection.json; ``result`` has a ``to_dict``."""
    return json.dumps(plain(result.to_dict()), ensure_ascii=False, indent=1, allow_nan=False)


def heads_csv(alignment: Alignment) -> str:
    return safe_csv(alignment.table()[CSV_COLUMNS])


def read(folder: Path) -> Alignment:
    """Read the alignment in a folder. Raises AlignError if there is no readable one."""
    try:
        fields = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
        if fields.pop("format") != FORMAT:
            raise ValueError("another format version")
        fields.pop("summary")
        fields["heads"] = [HeadScore(**numbers(s)) for s in fields["heads"]]
        fields["inspected"] = [_inspected(d) for d in fields["inspected"]]
        fields["fusion"] = [FusedScore(**numbers(s)) for s in fields["fusion"]]
        return Alignment(**fields, arrays=load_file(folder / ARRAYS_NAME))
    except (*DAMAGED, SafetensorError) as error:
        raise AlignError(
            "alignment-unreadable",
            expected=Message(
                "{json} and {arrays} as written by kvlab {version}.x",
                json=JSON_NAME,
                arrays=ARRAYS_NAME,
                version=FORMAT,
            ),
            found=Message("{kind}: {reason}", kind=type(error).__name__, reason=error),
            remedy=Message("run the analysis again; its settings are in config.yaml"),
        ) from error


def _inspected(fields: dict) -> Inspected:
    views = {name: [TokenView(**token) for token in fields[name]] for name in ("teacher_tokens", "student_tokens")}
    return Inspected(**(fields | views))


def numbers(value: Any, may_be_none: Collection[str] = ()) -> Any:
    """Replace the nulls of JSON by NaN, except in the fields that ``may_be_none``."""
    if isinstance(value, dict):
        return {k: v if v is None and k in may_be_none else numbers(v, may_be_none) for k, v in value.items()}
    if isinstance(value, list):
        return [numbers(v, may_be_none) for v in value]
    return nan if value is None else value


def worst_head(alignment: Alignment) -> tuple[str, int, int]:
    """Return kind, layer and head of the largest error among the keys."""
    keys = (score for score in alignment.heads if score.kind == "key")
    worst = max(keys, key=lambda score: -1 if isnan(score.error) else score.error)
    return worst.kind, worst.layer, worst.head


def mean_of_heads(error: np.ndarray) -> np.ndarray:
    """Average [Ls, Hs, Ts] -> [Ts] over the heads with an error at each token; missing heads are NaN."""
    total, count = np.zeros(error.shape[-1]), np.zeros(error.shape[-1], dtype=int)
    for layer in error:  # one by one: a copy of all is hundreds of megabytes for a large model
        known = ~np.isnan(layer)
        total += np.where(known, layer, 0).sum(0)
        count += known.sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def read_messages(notes: Sequence[object], facts: Mapping[str, Any]) -> tuple[list[Message], dict[str, Any]]:
    """Return notes as Messages, and ``facts`` with its ``random_teacher`` as a Message."""
    words = {name: Message.read(facts[name]) for name in ("random_teacher",) if name in facts}
    return [Message.read(note) for note in notes], {**facts, **words}


def plain(value: Any) -> Any:
    """Return a value for JSON: NaN and infinity become null, a Message its template and values."""
    if isinstance(value, Message):
        return value.to_dict()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
