"""``python -m kvlab experiment``: begin an experiment, follow it, extend it, report it."""

import argparse
import sys
import time
from pathlib import Path

from kvlab.cli import flags, slurm, train
from kvlab.cli.runs import choose
from kvlab.errors import KvlabError, RunError
from kvlab.language import Message, plural, say
from kvlab.request.experiment import CONTROLLED, MARGINS, Experiment, arms_of, seeds_of
from kvlab.request.prompts import RUN_PROMPTS
from kvlab.request.settings import checked
from kvlab.request.train import OWN_PROMPTS, TrainConfig
from kvlab.results.training import experiment_report
from kvlab.results.training.experiment import HELPS_NOT, UNKNOWN, gather
from kvlab.runs import experiment, places, store
from kvlab.runs.places.slurm import SlurmSettings

POLL = 1.0  # seconds between two looks at the runs
LEFT_OUT = ("seed", "control", "apart_from")  # an experiment decides them
FORMS = ("md", "html", "json")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags of an experiment."""
    about = "an experiment that exists: its id, its beginning or its last four characters; without any flag: list all"
    parser.add_argument("id", nargs="?", metavar="ID", help=about)
    parser.add_argument("--arms", metavar="A,B,..", help=f"the first is judged (default: {','.join(CONTROLLED)})")
    about = "an arm of your own and the settings in which it differs; repeat for several"
    parser.add_argument("--arm", action="append", default=[], metavar="NAME:setting=value,..", help=about)
    about = "such as 0-4 or 0,1,7 (default: 0-2); with ID: more seeds, which is one more look at the results"
    parser.add_argument("--seeds", metavar="SEEDS", help=about)
    about = "how often the results will be looked at before seeds are added; the looks share the 5 %% (default: 1)"
    parser.add_argument("--looks", type=int, default=1, metavar="N", help=about)
    about = f"the smallest difference that matters, of {', '.join(MARGINS)}; repeat for several"
    parser.add_argument("--margin", action="append", default=[], metavar="MEASURE=X", help=about)
    parser.add_argument("--name", help="shown in lists (default: the models)")
    parser.add_argument("--of", metavar="RUN", help="take the settings of this run; flags override them")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in YAML, such as a run's config.yaml")
    parser.add_argument("--no-wait", action="store_true", help="queue the runs and return")
    parser.add_argument("--stop", action="store_true", help="with ID: end the runs that it launched")
    parser.add_argument("--resume", action="store_true", help="with ID: queue what was stopped, has failed or is lost")
    parser.add_argument("--delete", action="store_true", help="with ID: remove the experiment; its runs stay")
    parser.add_argument("--format", choices=FORMS, default="md", help="of the report (default: md)")
    about = "write report.md, report.html and experiment.json into this folder, not to standard output"
    parser.add_argument("--out", type=Path, metavar="DIR", help=about)
    about = "write event files into this folder, a group per arm and a run per seed"
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help=about)
    slurm.add(parser)
    flags.add(parser, TrainConfig, leave_out=LEFT_OUT)


def run(options: argparse.Namespace) -> int:
    """Return 0; 1 where the experiment is over and its judged arm does not help, or that cannot be told."""
    runs = store.runs_root()
    given = flags.given(TrainConfig, options)
    begins = bool(given or options.arms or options.arm or options.of or options.config or options.seeds)
    acts = options.stop or options.resume or options.delete
    if not options.id and not begins and not acts:
        return _list(runs)
    if not options.id and acts:
        raise RunError(
            "experiment-not-found",
            expected=Message("the id of an experiment beside --stop, --resume or --delete"),
            found=Message("none"),
            remedy=Message("the list of experiments: python -m kvlab experiment"),
        )
    if options.id and (given or options.arms or options.arm or options.of or options.config):
        raise RunError(
            "experiment-exists",
            expected=Message("--seeds, --stop, --resume, --delete, --format, --out or --tensorboard beside the id"),
            found=Message("settings of a new experiment"),
            remedy=Message("leave the id out to begin another"),
        )
    folder = experiment.find(runs, options.id) if options.id else _begun(runs, options)
    if options.delete:
        experiment.delete(folder)
        print(say("Deleted; its runs stay."))
        return 0
    if options.stop:
        stopped = experiment.stop(folder)
        print(plural(len(stopped), "Asked {n} run to end.", "Asked {n} runs to end."))
        return 0
    if options.id and options.seeds:
        experiment.extend(folder, seeds_of(options.seeds))
    if options.resume:
        experiment.resume(folder)
    if begins or options.resume:
        _launch(folder, slurm.asked(options))
        if options.no_wait:
            return 0
        _follow(folder)
    return _report(folder, options)


def _begun(runs: Path, options: argparse.Namespace) -> Path:
    settings, prompts = _settings(runs, options)
    named = options.arms.split(",") if options.arms else () if options.arm else CONTROLLED
    arms = arms_of([name.strip() for name in named if name.strip()], options.arm)
    name = options.name or "-".join(Path(model).name for model in (*settings.teachers, settings.student))
    fields = {
        "name": name,
        "settings": settings.model_dump(mode="json", exclude={"seed", "apart_from"}),
        "arms": arms,
        "plans": [seeds_of(options.seeds or "0-2")],
        "looks": options.looks,
        "margins": dict(map(_margin, options.margin)),
    }
    return experiment.create(runs, checked(Experiment, fields), prompts)


def _settings(runs: Path, options: argparse.Namespace) -> tuple[TrainConfig, bytes | None]:
    """Return the common settings: of --of or --config, else the recommended run, under the flags; and its prompts."""
    fields, prompts = {}, None
    if options.of:
        source = choose(runs, options.of)
        fields = checked(TrainConfig, store.read_config(source)).model_dump(mode="json")
        if fields["data"] == OWN_PROMPTS:
            with store.disk_errors(source):
                prompts = (source / RUN_PROMPTS).read_bytes()
    fields |= train.settings_in(options.config)
    fields |= flags.given(TrainConfig, options)
    return train.anchored(checked(TrainConfig, fields)), prompts


def _margin(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError as error:
        raise RunError(
            "margin-unreadable",
            expected=Message("a margin like {example}", example="ce=0.005"),
            found=text[:100],
            remedy=Message("margins are of {known}", known=list(MARGINS)),
        ) from error


def _launch(folder: Path, place: SlurmSettings | None) -> None:
    launched = experiment.launch(folder, place)
    names = {"id": folder.name, "runs": len(launched.arms) * len(launched.seeds), "taken": len(launched.taken)}
    print(say("Experiment {id}: {runs} runs, of which {taken} existed before.", **names), flush=True)


def _follow(folder: Path) -> None:
    """Print what ends, until no run is active; Ctrl-C leaves the runs at work."""
    described = experiment.read(folder)
    told: dict[tuple[str, int], str] = {}
    try:
        while True:
            states = experiment.states(folder, described)
            for (arm, seed), state in states.items():
                if state not in store.ACTIVE and told.get((arm, seed)) != state:
                    over = sum(other not in store.ACTIVE for other in states.values())
                    words = say(experiment_report.STATES[state])
                    print(f"{over}/{len(states)}  {arm}  {seed}  {words}", flush=True)
                told[arm, seed] = state
            if not any(state in store.ACTIVE for state in states.values()):
                return
            time.sleep(POLL)
            if problem := places.attend(folder.parent.parent):
                print(problem, file=sys.stderr)
    except KeyboardInterrupt:
        again = f"python -m kvlab experiment {folder.name}"
        print(say("\nThe runs go on. To see the results: {command}", command=again), file=sys.stderr)
        raise


def _report(folder: Path, options: argparse.Namespace) -> int:
    report = gather(folder)
    if options.tensorboard:
        from kvlab.train.boards import export_experiment  # imports torch, which takes seconds

        export_experiment(report, store.runs_root(), options.tensorboard)
        print(say("Written: {files}", files=options.tensorboard))
    if options.out:
        for path in experiment_report.write(report, options.out, options.language):
            print(say("Written: {files}", files=path))
    if not options.out and not options.tensorboard:
        print(experiment_report.text_of(report, options.format, options.language), end="")
    judged = report["verdict"]
    return int(report["over"] and judged is not None and judged["state"] in (HELPS_NOT, UNKNOWN))


def _list(runs: Path) -> int:
    folders = experiment.listing(runs)
    if not folders:
        print(say("No experiments in {folder}.", folder=experiment.root_of(runs)))
    for folder in folders:
        try:
            report = gather(folder)
        except KvlabError as error:
            print(f"{folder.name}  {error}")
            continue
        judged = report["verdict"]
        arms = ", ".join(report["arms"])
        print(f"{folder.name}  {arms} × {len(report['seeds'])}  {judged['words'] if judged else ''}".rstrip())
    return 0
