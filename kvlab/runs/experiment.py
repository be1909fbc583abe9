"""Experiments on disk: runs/experiments/ID/experiment.yaml names the settings, and the run of every arm and seed.

Its runs are runs like any others, in the queue and in the lists; the state of an experiment is theirs. Launching one
again launches only what is missing, so a launch that broke off is completed by the next.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from kvlab import __version__
from kvlab.errors import KvlabError, RunError, TrainError
from kvlab.host import privacy
from kvlab.language import Message
from kvlab.request.experiment import WITHOUT_EFFECT, Experiment
from kvlab.request.prompts import RUN_PROMPTS
from kvlab.request.settings import checked
from kvlab.request.train import OWN_PROMPTS, TrainConfig
from kvlab.runs import locks, monitor, store, training
from kvlab.runs.places import slurm
from kvlab.runs.places.slurm import SlurmSettings
from kvlab.runs.records import REPORT, Report, Status
from kvlab.runs.settings_diff import differences

FOLDER, FILE, LOCK = "experiments", "experiment.yaml", ".lock"
NEWEST = 1000  # runs to search for those that exist already
LIBRARIES = ("torch", "transformers")
PATIENCE = 60.0  # seconds to wait for another process that launches the same experiment


def root_of(runs: Path) -> Path:
    return runs / FOLDER


def listing(runs: Path) -> list[Path]:
    """Return the folders of all experiments, newest first."""
    return [folder for folder in store.listing(root_of(runs)) if not folder.is_symlink()]


def find(runs: Path, experiment_id: str) -> Path:
    """Return the folder of the experiment with this id, its beginning or its last four characters.

    Raises RunError ``experiment-not-found``.
    """
    fitting = [
        folder
        for folder in listing(runs)
        if experiment_id and (folder.name.startswith(experiment_id) or folder.name.endswith(f"-{experiment_id}"))
    ]
    if len(fitting) != 1:
        raise RunError(
            "experiment-not-found",
            expected=Message("the id of one experiment in {folder}", folder=root_of(runs)),
            found=Message("{text}, which fits {n}", text=repr(experiment_id[:100]), n=len(fitting)),
            remedy=Message("the list of experiments: python -m kvlab experiment"),
        )
    return fitting[0]


def read(folder: Path) -> Experiment:
    """Read an experiment. Raises RunError ``experiment-unreadable`` and TrainError ``experiment-invalid``."""
    try:
        with open(folder / FILE, "rb", opener=store.private) as file:
            fields = yaml.safe_load(file)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RunError(
            "experiment-unreadable",
            expected=Message("a readable {file} in {folder}", file=FILE, folder=folder.name),
            found=str(error)[:200],
            remedy=Message("begin another experiment; the runs of this one are taken in"),
        ) from error
    return checked(Experiment, fields)


def of_run(runs: Path, run_id: str) -> Iterator[tuple[Path, Experiment]]:
    """Yield the experiments that name a run, newest first."""
    for folder in listing(runs):
        with suppress(KvlabError):
            experiment = read(folder)
            if any(run_id in ids.values() for ids in experiment.runs.values()):
                yield folder, experiment


def create(runs: Path, experiment: Experiment, prompts: bytes | None = None) -> Path:
    """Create the folder of an experiment, without any run yet. ``prompts``: the content of its runs' prompts.jsonl.

    Raises what ``Experiment.configs`` raises, and as store.disk_errors does.
    """
    experiment.configs()
    root = root_of(runs)
    with store.disk_errors(root):
        store.make_root(runs)
        privacy.make(root)
        folder = root / store.new_id(experiment.name, "experiment")
        privacy.make(folder)
        if prompts is not None:
            store.replace(folder / RUN_PROMPTS, prompts)
    _write(folder, experiment.model_copy(update={"created": store.timestamp()}))
    return folder


def launch(folder: Path, place: SlurmSettings | None = None) -> Experiment:
    """Give every arm and seed its run: one that exists, else a new one in the queue. Return the experiment.

    Runs that were deleted are launched anew. ``place``: new runs are submitted to Slurm, as one job array; by default
    they go where the experiment's other runs went.
    Raises as ``read`` and training.launch do, and RunError ``run-busy`` while another process launches it.
    """
    with locks.held(folder / LOCK, PATIENCE) as mine:
        if not mine:
            raise locks.busy(folder / LOCK)
        experiment = read(folder)
        runs = folder.parent.parent
        configs, new = experiment.configs(), []
        place = place or _place(runs, experiment)
        known: list[tuple[str, dict[str, Any]]] | None = None
        for (seed, arm), config in configs.items():
            placed = experiment.runs.get(arm, {}).get(seed)
            if placed is None or not store.is_run(runs / placed):
                known = list(_existing(runs, folder / RUN_PROMPTS)) if known is None else known
                run_id, taken = _found(known, config), True
                if run_id is None:
                    run_id, taken = _created(folder, experiment.name, arm, config), False
                    if place is None:
                        _submit([runs / run_id], config.device, None)
                    else:
                        new.append(runs / run_id)
                experiment = _placed(experiment, arm, seed, run_id, taken)
                _write(folder, experiment)
        if new:
            _submit(new, "", place)
        return experiment


def extend(folder: Path, seeds: Sequence[int]) -> Experiment:
    """Plan more seeds. If the results of the present ones are complete, they count as a look that was taken.

    Raises TrainError ``seeds-known``, and as ``read``.
    """
    with locks.held(folder / LOCK, PATIENCE) as mine:
        if not mine:
            raise locks.busy(folder / LOCK)
        experiment = read(folder)
        new = [seed for seed in seeds if seed not in experiment.seeds]
        if not new:
            raise TrainError(
                "seeds-known",
                expected=Message("seeds that the experiment does not have yet"),
                found=[*seeds],
                remedy=Message("it has {seeds}", seeds=[*experiment.seeds]),
            )
        looked = complete(folder, experiment)
        plans = experiment.plans if looked else experiment.plans[:-1]
        experiment = experiment.model_copy(update={"plans": (*plans, (*experiment.seeds, *new))})
        experiment.configs()
        _write(folder, experiment)
        return experiment


def states(folder: Path, experiment: Experiment) -> dict[tuple[str, int], str]:
    """Return the state of the run of every arm and seed of the current look; "missing" where there is none."""
    runs, found = folder.parent.parent, {}
    for arm in experiment.arms:
        for seed in experiment.seeds:
            run_id = experiment.runs.get(arm, {}).get(seed)
            there = run_id is not None and store.valid_id(run_id) and store.is_run(runs / run_id)
            found[arm, seed] = monitor.judge(store.read_status(runs / run_id)) if there else "missing"
    return found


def complete(folder: Path, experiment: Experiment) -> bool:
    """Return whether every run of the current look is over: finished, or failed by itself."""
    return all(state in ("done", "failed") for state in states(folder, experiment).values())


def resume(folder: Path) -> list[str]:
    """Queue again every run that was stopped, has failed or is lost. Return their ids. Raises as training.resume."""
    experiment, runs = read(folder), folder.parent.parent
    ended = [at for at, state in states(folder, experiment).items() if state in training.RESUMABLE]
    ids = [experiment.runs[arm][seed] for arm, seed in ended]
    for run_id in ids:
        training.resume(runs / run_id)
    return ids


def stop(folder: Path) -> list[str]:
    """Ask every active run that the experiment has launched to end. Return their ids. Raises as training.stop."""
    experiment, runs = read(folder), folder.parent.parent
    active = [at for at, state in states(folder, experiment).items() if state in store.ACTIVE]
    ids = [experiment.runs[arm][seed] for arm, seed in active]
    ids = [run_id for run_id in ids if run_id not in experiment.taken]
    for run_id in reversed(ids):  # the last first, or the next would start in the place of the stopped one
        with suppress(RunError):  # it has ended meanwhile
            training.stop(runs / run_id)
    return ids


def delete(folder: Path) -> None:
    """Delete the folder of an experiment; its runs stay. Raises as store.disk_errors does."""
    with store.disk_errors(folder):
        draft = folder.with_name(training.DELETED.format(folder.name))
        folder.rename(draft)
        shutil.rmtree(draft, ignore_errors=True)


def _place(runs: Path, experiment: Experiment) -> SlurmSettings | None:
    """Return what the jobs of an experiment's own runs asked for; None if they ran on this machine."""
    for ids in experiment.runs.values():
        for run_id in ids.values():
            asked = Status.of(store.read_status(runs / run_id)).job.get("settings")
            if asked and run_id not in experiment.taken:
                return slurm.settings(asked, runs)
    return None


def _submit(folders: Sequence[Path], device: str, place: SlurmSettings | None) -> None:
    """Queue or submit new runs; where that fails, remove them again."""
    try:
        if place is None:
            training.submit(folders[0], device)
        else:
            slurm.submit(folders, place)
    except BaseException:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _created(folder: Path, name: str, arm: str, config: TrainConfig) -> str:
    def fill(run: Path) -> None:
        if config.data == OWN_PROMPTS:
            shutil.copyfile(folder / RUN_PROMPTS, run / RUN_PROMPTS)

    runs, name = folder.parent.parent, f"{name} {arm} {config.seed}"
    return training.create(config.model_dump(mode="json"), name, runs, fill).name


def _existing(runs: Path, prompts: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield id and settings of the runs that may be taken in, newest first: of this version, finished or on their way.

    A finished run must come from the same versions of kvlab, torch and transformers.
    """
    here = {"kvlab": __version__, **{name: version(name) for name in LIBRARIES}}
    for folder in store.listing(runs)[:NEWEST]:
        status = store.read_status(folder)
        state = monitor.judge(status)
        if status.get("kind") != "training" or state not in ("done", *store.ACTIVE):
            continue
        if state == "done":
            report = Report.read(folder / REPORT)
            if {name: report.versions.get(name) for name in here} != here or report.after is None:
                continue
        with suppress(KvlabError):
            config = checked(TrainConfig, store.read_config(folder)).model_dump(mode="json")
            if config["data"] != OWN_PROMPTS or _same(folder / RUN_PROMPTS, prompts):
                yield folder.name, config


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one.read_bytes() == other.read_bytes()
    return False


def _found(known: Sequence[tuple[str, dict[str, Any]]], config: TrainConfig) -> str | None:
    wanted = config.model_dump(mode="json")
    for run_id, settings in known:
        measured = settings["functional"] or not wanted["functional"]
        kinds = [str(run["device"]).partition(":")[0] for run in (settings, wanted)]
        if measured and kinds[0] == kinds[1] and set(differences([settings, wanted])) <= _without_effect(wanted):
            return run_id
    return None


def _without_effect(settings: dict[str, Any]) -> set[str]:
    return {*WITHOUT_EFFECT, *(f"thresholds.{name}" for name in settings["thresholds"])}


def _placed(experiment: Experiment, arm: str, seed: int, run_id: str, taken: bool) -> Experiment:
    runs = {**experiment.runs, arm: {**experiment.runs.get(arm, {}), seed: run_id}}
    earlier = (*experiment.taken, run_id) if taken else experiment.taken
    return experiment.model_copy(update={"runs": runs, "taken": earlier})


def _write(folder: Path, experiment: Experiment) -> None:
    fields = json.loads(experiment.model_dump_json())
    for arm in fields["runs"]:  # JSON has texts for keys
        fields["runs"][arm] = {int(seed): run_id for seed, run_id in fields["runs"][arm].items()}
    with store.disk_errors(folder):
        store.replace(folder / FILE, yaml.safe_dump(fields, sort_keys=False, allow_unicode=True).encode())
