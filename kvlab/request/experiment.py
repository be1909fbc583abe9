"""The settings of an experiment: arms × seeds of one training run, all measured on the same held-out text.

``experiment.yaml`` of its folder. The first arm is the one that is judged; each other arm is compared with it, seed by
seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import yaml
from pydantic import Field, model_validator

from kvlab.errors import KvlabError, TrainError
from kvlab.language import Message
from kvlab.request.settings import Request, checked
from kvlab.request.train import DEMO_DATA, TrainConfig

# Arms by name; any other has its settings spelled out.
ARMS: dict[str, dict[str, Any]] = {
    "kv": {},
    "ce-only": {"control": "ce-only"},
    "shuffled-teacher": {"control": "shuffled-teacher"},
    "random-teacher": {"control": "random-teacher"},
    "exact-rows": {"time": "exact"},
    "head-outputs": {"kv_loss": "head-outputs"},
}
CONTROLLED = ("kv", "ce-only", "shuffled-teacher")  # the arms of "with its controls"
# Of these depends on which text, and in which tokens, the arms are measured.
SAME_TEXT = ("student", "data", "data_format", "data_column", "data_answer", "chat", "eval_documents", "max_tokens")
# Settings that change no number of a run.
WITHOUT_EFFECT = ("checkpoint_every", "checkpoint_minutes", "log", "thresholds", "functional", "device")
# The smallest differences that matter: nats per token, shares of a variance, share of the answers.
MARGINS = {"ce": 0.01, "kv_key": 0.02, "kv_value": 0.02, "kv_output": 0.02, "kl": 0.01, "accuracy": 0.05}
MOST_SEEDS = 1000


class Experiment(Request):
    """One experiment; ``experiment.yaml`` of its folder."""

    command: ClassVar[str] = "experiment"
    refusal: ClassVar[type[KvlabError]] = TrainError
    refusal_kind: ClassVar[str] = "experiment-invalid"

    name: str = ""  # shown in lists
    settings: dict[str, Any] = {}  # of a training run, common to all arms
    arms: dict[str, dict[str, Any]] = {name: ARMS[name] for name in CONTROLLED}  # what differs; the first is judged
    plans: tuple[tuple[int, ...], ...] = ((0, 1, 2),)  # the seeds of each look at the results
    looks: int = Field(1, ge=1)  # planned before the first one
    margins: dict[str, float] = {}  # by measure, the smallest difference that matters
    runs: dict[str, dict[int, str]] = {}  # the id of the run of each arm and seed
    taken: tuple[str, ...] = ()  # ids of runs that existed before
    created: str = ""  # the moment, in UTC

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        if len(self.arms) < 2:
            raise ValueError(Message("an experiment compares at least two arms, not {arms}", arms=list(self.arms)))
        if not self.plans or not all(self.plans) or min(map(min, self.plans)) < 0 or len(self.seeds) > MOST_SEEDS:
            raise ValueError(Message("seeds are whole numbers from 0, at least one and at most {n:,}", n=MOST_SEEDS))
        if unknown := set(self.margins) - set(MARGINS):
            raise ValueError(Message("margins are of {known}, not {unknown}", known=list(MARGINS), unknown=[*unknown]))
        return self

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of the current look."""
        return self.plans[-1]

    @property
    def judged(self) -> str:
        """Return the arm that the others are compared with."""
        return next(iter(self.arms))

    def margin(self, measure: str) -> float:
        return self.margins.get(measure, MARGINS[measure])

    def configs(self) -> dict[tuple[int, str], TrainConfig]:
        """Return the settings of every run by seed and arm, seed by seed, so that whole pairs come first.

        Raises TrainError ``config-invalid``, ``arms-differ-in-text``, ``arms-alike``.
        """
        fields = {name: value for name, value in self.settings.items() if name not in ("seed", "apart_from")}
        arms = {name: checked(TrainConfig, {**fields, **changes}) for name, changes in self.arms.items()}
        _check(arms)
        most = max(config.documents_read for config in arms.values())
        configs = {}
        for seed in self.seeds:
            for name, config in arms.items():
                shorter = config.data == DEMO_DATA and config.documents_read < most
                changes = {"seed": seed, "apart_from": most if shorter else 0}
                configs[seed, name] = config.model_copy(update=changes)
        return configs


def _check(arms: Mapping[str, TrainConfig]) -> None:
    first, *others = arms
    for name in SAME_TEXT:
        for other in others:
            values = [getattr(arms[arm], name) for arm in (first, other)]
            if values[0] != values[1]:
                raise TrainError(
                    "arms-differ-in-text",
                    expected=Message("arms that are measured on the same held-out text: one {setting}", setting=name),
                    found=Message(
                        "{one} in {first}, {two} in {other}",
                        one=_short(values[0]),
                        two=_short(values[1]),
                        first=first,
                        other=other,
                    ),
                    remedy=Message("make it the same in all arms, or an experiment of its own"),
                )
    for place, other in enumerate(others, 1):
        for twin in list(arms)[:place]:
            if _effective(arms[other]) == _effective(arms[twin]):
                raise TrainError(
                    "arms-alike",
                    expected=Message("arms that differ in a setting"),
                    found=Message("{one} and {two}, which are the same run", one=twin, two=other),
                    remedy=Message("leave one of them out"),
                )


def _effective(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(exclude=set(WITHOUT_EFFECT))


def _short(value: object) -> str:
    return str(value)[:100]


def arms_of(names: Iterable[str], spelled: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Return the arms of ``names`` and those spelled out as "NAME:setting=value,setting=value", in this order.

    Values are YAML. Raises TrainError ``arm-unknown``, ``arm-unreadable``.
    """
    own = dict(map(_spelled, spelled))
    arms: dict[str, dict[str, Any]] = {}
    for name in names:
        if name not in own and name not in ARMS:
            raise TrainError(
                "arm-unknown",
                expected=Message("arms among {known}, or spelled out with --arm", known=list(ARMS)),
                found=name[:100],
                remedy=Message("spell it out, for example: --arm slow:lr=1e-4,max_steps=200"),
            )
        arms[name] = own.pop(name, None) or ARMS.get(name, {})
    return arms | own


def _spelled(text: str) -> tuple[str, dict[str, Any]]:
    name, colon, settings = text.partition(":")
    try:
        # Commas inside brackets belong to a list, as in teachers=[a,b].
        parts = _apart(settings)
        pairs = [part.partition("=") for part in parts]
        if not name.strip() or not colon or not all(key.strip() and equals for key, equals, _ in pairs):
            raise ValueError
        return name.strip(), {key.strip().replace("-", "_"): yaml.safe_load(value) for key, _, value in pairs}
    except (ValueError, yaml.YAMLError) as error:
        raise TrainError(
            "arm-unreadable",
            expected=Message("an arm like {example}", example="slow:lr=0.0001,max_steps=200"),
            found=text[:200],
            remedy=Message("give its name, a colon, and the settings in which it differs"),
        ) from error


def _apart(text: str) -> list[str]:
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "[{") - (sign in "]}")
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def seeds_of(text: str) -> tuple[int, ...]:
    """Parse "0-4" or "0,1,7-9". Raises TrainError ``seeds-unreadable``."""
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            begin, end = int(first), int(last if dash else first)
            if end < begin or end - begin >= MOST_SEEDS:
                raise ValueError
            seeds += range(begin, end + 1)
    except ValueError as error:
        raise TrainError(
            "seeds-unreadable",
            expected=Message("seeds like 0-4 or 0,1,7, at most {n:,}", n=MOST_SEEDS),
            found=text[:100],
            remedy=Message("give whole numbers from 0"),
        ) from error
    return tuple(dict.fromkeys(seeds))
