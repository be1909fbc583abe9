"""The answer of known cases: the sample, random weights, templated questions, too few tokens, a model with itself.

``answers.json`` holds what real analyses of the demo models' sizes stored of the last four: random weights in both
models on 40 samples; 36 questions of one template; a student with itself on 24 samples; three pasted sentences.
"""

import dataclasses
import json
from pathlib import Path

import pytest

from kvlab.host import bundled
from kvlab.language import Message, speaking
from kvlab.results import answer
from kvlab.results.alignment.data import Alignment, HeadScore, numbers, read
from kvlab.results.alignment.heads import gain_map
from kvlab.results.function import data as function
from kvlab.results.style import NO_GAIN_COLOUR
from tests import finished

STORED = json.loads((Path(__file__).parent / "answers.json").read_text(encoding="utf-8"))
VERDICTS = {"sample": "Yes", "random": "No", "templated": "No", "few": "Cannot be told", "itself": "Yes"}


@pytest.fixture(scope="module")
def sample():
    return read(bundled.ANALYSIS)


@pytest.fixture(scope="module")
def tested():
    return function.read(bundled.FUNCTION)


def case(sample: Alignment, name: str) -> Alignment:
    if name == "sample":
        return sample
    stored = STORED[name]
    columns = numbers(stored["heads"])
    heads = [HeadScore(**dict(zip(columns, row))) for row in zip(*columns.values())]
    notes = [Message.read(note) for note in stored["notes"]]
    return dataclasses.replace(sample, heads=heads, data=sample.data | stored["data"], notes=notes)


@pytest.mark.parametrize("name", VERDICTS)
def test_the_answer_of_known_cases(sample, name):
    found = answer.of_analysis(case(sample, name))
    assert found.words == VERDICTS[name]
    assert found.line().startswith(f"{VERDICTS[name]}. ") and len(found.why.split()) <= 40
    with speaking("zh"):
        assert answer.of_analysis(case(sample, name)).words in ("能", "不能", "无法判断")


def with_share(sample: Alignment, clear: int) -> Alignment:
    """``clear`` of 16 heads gain; the others are exactly the teacher's token, without an error."""
    strong = {"r2": 0.7, "gain": 0.2, "gain_se": 0.01, "gain_random": 0.2, "gain_random_se": 0.01}
    strong |= {"added": 0.1, "added_se": 0.01}
    weak = strong | {"gain": 0.0, "gain_se": 0.0}
    heads = [dataclasses.replace(s, **(strong if n < clear else weak)) for n, s in enumerate(sample.heads)]
    return dataclasses.replace(sample, heads=heads)


@pytest.mark.parametrize(
    ("clear", "verdict"), [(0, "no"), (1, "no"), (2, "part"), (7, "part"), (8, "yes"), (16, "yes")]
)
def test_half_of_the_heads_are_yes_and_one_in_ten_is_chance(sample, clear, verdict):
    found = answer.of_analysis(with_share(sample, clear))
    assert found.verdict == verdict and f"In {clear} of 16 heads" in found.why


def test_errors_as_large_as_the_gains_are_no_no(sample):
    """18 ± 17 points are neither a gain nor none; in layer 0 there is none over the own tokens."""
    heads = [dataclasses.replace(score, gain=0.18, gain_se=0.17) for score in sample.heads]
    found = answer.of_analysis(dataclasses.replace(sample, heads=heads))
    assert found.verdict == "unknown" and "In 12 the error is as large" in found.why


def test_the_functional_test_has_a_say(sample, tested):
    """A student that does no better with the cache makes a yes a part; one that does makes a no a part."""
    assert answer.of_analysis(sample, tested).verdict == "yes"
    row = tested.score("projected")
    useless = [dataclasses.replace(r, below_own_tokens=0.01, below_own_tokens_se=0.01) for r in tested.injected]
    useless = dataclasses.replace(tested, injected=useless)
    assert answer.of_analysis(sample, useless).verdict == "part"
    assert (
        "no better with it: KL 0.071, without a teacher 0.179 (gain +0.010 ± 0.010)" in answer.of_test(useless).line()
    )
    assert answer.of_analysis(with_share(sample, 0), tested).verdict == "part"
    found = answer.of_test(tested)
    assert found.verdict == "yes" and f"KL {row.kl:.3f}, without a teacher 0.179" in found.why
    assert answer.of_test(dataclasses.replace(tested, own=tested.own | {"reproduces": False})).verdict == "unknown"


def test_without_the_own_tokens_it_is_at_most_in_part(sample):
    """The strongest control of all is not known of older results."""
    found = answer.of_analysis(finished.of_one_map(sample))
    assert found.verdict == "part" and "own tokens were not measured" in found.why


def test_the_gain_is_over_the_strongest_control_and_grey_where_it_is_none(sample):
    for kind in ("key", "value"):
        figure = gain_map(sample, kind, (3, 1))
        gains, greys = (trace for trace in figure.data if trace.type == "heatmap")
        assert gains.zmin == -gains.zmax and greys.colorscale[0][1] == NO_GAIN_COLOUR
        for score in (s for s in sample.heads if s.kind == kind):
            at = sample.layer_position(score.layer), score.head
            shown, other = (greys, gains) if score.layer == 0 else (gains, greys)  # the own tokens are all of layer 0
            assert shown.z[at] == pytest.approx(score.added) and other.z[at] is None
    worse = [dataclasses.replace(score, gain=-0.3, gain_se=0.01) for score in sample.heads]
    gains, *greys = (t for t in gain_map(dataclasses.replace(sample, heads=worse), "key").data if t.type == "heatmap")
    assert not greys and set(gains.z.ravel()) == {-0.3}  # clearly less is said to be less
