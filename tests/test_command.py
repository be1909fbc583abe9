"""The command that a form shows asks for the same as the form."""

import shlex

import pytest

from kvlab.cli import analysis, train
from kvlab.cli.flags import Parser
from kvlab.cli.train import config_of
from kvlab.request import command
from kvlab.request.align import AlignSettings, AnalysisRequest
from kvlab.request.inject import InjectionRequest, InjectSettings
from kvlab.request.segments import Markers
from kvlab.request.train import Thresholds, TrainConfig
from kvlab.web.alignment.form import command_of


def parsed(words: str, model):
    parser = Parser()
    analysis.add(parser, model)
    command_name, *rest = shlex.split(words)[3:]
    assert command_name == model.command
    return analysis.request_of(model, parser.parse_args(rest))


@pytest.mark.parametrize(
    "request_",
    [
        AnalysisRequest(teacher="demo/teacher", student="demo/student"),
        AnalysisRequest(
            teacher="a/b",
            more_teachers=("demo/teacher-b", "/m/it's here"),
            student="demo/student",
            markers=Markers(reasoning=("think:",), answer=("so:", "####")),
            device="cpu",
            settings=AlignSettings(time="exact", folds=3, random_teacher=False, compare_rules=True, max_tokens=77),
        ),
        InjectionRequest(
            teacher="demo/teacher",
            student="demo/student",
            injection=InjectSettings(prefix=0.3, curve=(0.1, 0.9), hybrid=False, seconds=9.0),
        ),
    ],
)
def test_an_analysis_and_a_test_are_asked_for_alike(request_):
    assert parsed(command_of(request_), type(request_)) == request_


def test_only_what_was_changed_is_written():
    words = command_of(AnalysisRequest(teacher="demo/teacher", student="demo/student"))
    assert words == "python -m kvlab align --teacher demo/teacher --student demo/student --out DIR"


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(
            teachers=("demo/teacher", "demo/teacher-b"),
            use_safe_resample=False,
            fusion_weights=(0.25, 0.75),
            control="ce-only",
            lr=0.5,
            thresholds=Thresholds(converged=0.9),
        ),
    ],
)
def test_a_training_run_is_asked_for_alike(config):
    always = ("teachers", "student", "use_kv_projector", "use_safe_resample")
    parser = Parser()
    train.add(parser)
    words = shlex.split(command.line(config, always=always))[4:]
    assert config_of(parser.parse_args([*words, "--output_dir", "DIR"])) == config
