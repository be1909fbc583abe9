"""The records of a run: status.json, verdict.json, report.json, forecast.json. Damaged fields read as defaults."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from kvlab.runs.lenient import TABLES, Count, Fields, Lenient, Number, Text

VERDICT, REPORT, FORECAST, GATHERED = "verdict.json", "report.json", "forecast.json", "gathered.json"
# Written after the end of a run has been recorded. report.json is the run's own record, so its JSON has another name.
REPORT_OF_FORM = {"md": "report.md", "html": "report.html", "json": GATHERED}

Size = Annotated[Number, Field(ge=0)]
Seconds = Annotated[Number, Field(gt=-1e12, lt=1e12)]  # a longer time is garbage


class Queue(Lenient):
    """The queue that a run waits in."""

    host: Text | None = None
    device: Text | None = None
    visible_devices: Text | None = None


class Ended(Lenient):
    """An earlier end of a run that was resumed."""

    state: Text | None = None
    started: Text | None = None
    updated: Text | None = None
    elapsed_s: Seconds | None = None
    error: Fields = {}
    resumed: Text | None = None


class Status(Lenient):
    """status.json. Moments are UTC ISO text."""

    kind: Text | None = None
    name: Text | None = None
    state: Literal["queued", "running", "done", "failed", "cancelled"] | None = None
    phase: Text = ""
    done: Count = 0
    total: Count = 0
    started: Text | None = None
    updated: Text | None = None
    elapsed_s: Seconds | None = None
    phase_started: Text | None = None
    heartbeat: Text | None = None
    next_heartbeat_due: Text | None = None
    host: Text | None = None
    pid: Count | None = None
    process_started: Number | None = None
    error: Fields | None = None
    cause: Fields | None = None  # of the death of its process, from whoever saw it
    queue: Queue = Queue()
    job: Fields = {}  # of Slurm: id, settings, state and reason as last seen
    history: Annotated[list[Ended], TABLES] = []


class Checkpoint(Lenient):
    """A row of the verdict. ``words``: a Message as JSON, or finished words of an older version."""

    name: Text = ""
    state: Literal["pass", "fail", "pending"] | None = None
    step: Count | None = None
    value: Number | None = None
    threshold: Number | None = None
    words: Text | Fields = ""


class Verdict(Lenient):
    """verdict.json"""

    state: Literal["pass", "fail", "pending"] | None = None
    checkpoints: Annotated[list[Checkpoint], TABLES] = []


class Measured(Lenient):
    """Means over the held-out documents."""

    model_config = ConfigDict(extra="allow")
    ce: Number | None = None
    kv_key: Number | None = None
    kv_value: Number | None = None
    kv_output: Number | None = None
    documents: Count | None = None
    tokens: Count | None = None
    rows: Count | None = None


class Device(Lenient):
    """The device that a run used. ``words``: a Message as JSON, or finished words of an older version."""

    device: Text | None = None
    words: Text | Fields | None = None


class Documents(Lenient):
    """The numbers of documents."""

    train: Count | None = None
    heldout: Count | None = None


class Outcome(Lenient):
    """One of the seven KV checks."""

    number: Count | None = None
    error: Text | None = None


class Checks(Lenient):
    """The KV checks that the run itself made."""

    time: Text | None = None
    outcomes: Annotated[list[Outcome], TABLES] = []


class Damage(Lenient):
    """The distance of the student on another cache from itself on its own; nats per token, with standard errors."""

    kl: Number | None = None
    kl_se: Number | None = None
    delta_ce: Number | None = None
    delta_ce_se: Number | None = None


class Variants(Lenient):
    """The damage of each injected cache; the last two are controls."""

    projected: Damage = Damage()
    mean: Damage = Damage()
    shuffled: Damage = Damage()


class OwnCache(Lenient):
    """Whether the student's own cache, injected, reproduces its logits."""

    largest_difference: Number | None = None
    tolerance: Number | None = None
    reproduces: Annotated[bool, Field(strict=True)] = False


class Measurement(Lenient):
    """The functional test at one moment (kvlab.train.functional.measure)."""

    documents: Count | None = None
    n: Count | None = None
    prefix: Number | None = None
    share_replaced: Number | None = None
    own: OwnCache = OwnCache()
    variants: Variants = Variants()
    by_document: Fields = {}  # variant -> sums of each document: kl, delta_ce, same_choice, n


class Functional(Lenient):
    """The functional test before and after the training, and the change."""

    before: Measurement | None = None
    after: Measurement | None = None
    change: Variants = Variants()


class Report(Lenient):
    """report.json, which a run writes and reads back when it is resumed."""

    config: Fields = {}
    versions: Fields = {}
    seed: Any = None
    before: Measured | None = None
    after: Measured | None = None
    functional: Functional | None = None
    device: Device = Device()
    data: Documents = Documents()
    trained_parameters: Count | None = None
    notes: list[Any] = []
    checks: Checks = Checks()


class Part(Lenient):
    """A part of the memory forecast."""

    model_config = ConfigDict(extra="allow")
    name: Text = ""
    bytes: Size | None = None


class Forecast(Lenient):
    """forecast.json"""

    model_config = ConfigDict(extra="allow")
    parts: Annotated[list[Part], TABLES] = []
    total: Size | None = None
    lower: Size | None = None
    upper: Size | None = None
    baseline: Size | None = None
    tokens: Size | None = None
