"""What is said about a result: controls, what is scored apart, the self-tests."""

import json
from dataclasses import replace

import pytest

from kvlab.host.bundled import ANALYSIS, FUNCTION
from kvlab.language import Message, speaking
from kvlab.results.alignment import data as alignments
from kvlab.results.alignment.data import read
from kvlab.results.alignment.heads import sources
from kvlab.results.alignment.page import html
from kvlab.results.alignment.sentences import (
    apart_sentence,
    capture_sentence,
    control_sentence,
    sentence,
    sources_of_head,
)
from kvlab.results.alignment.tables import capture_table
from kvlab.results.function import data as injections
from kvlab.web.widgets import head_sentence
from tests.finished import by_class, of_one_map, with_gaps

NAN = float("nan")


@pytest.fixture(scope="module")
def sample():
    return read(ANALYSIS)


@pytest.fixture
def score(sample):
    return sample.score("key", 3, 0)


def test_a_head_says_its_gain_over_the_strongest_control(sample, score):
    said = head_sentence(sample, score)
    assert f"R² **{score.r2:.3f} ± {score.se:.3f}** of K" in said
    assert f"its strongest control, the student’s own tokens: **+{score.added:.3f} ± {score.added_se:.3f}**" in said
    assert f"n = {score.n:,} tokens, 5 folds by document" in said and "no better" not in said


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"gain": -0.001}, "the teacher’s token"),
        ({"gain_random": -0.001}, "a teacher of random weights"),
        ({"r2_shuffled": 0.9}, "shuffled rows"),
        ({"r2": -0.1}, "the mean"),
    ],
)
def test_every_control_that_is_not_beaten_is_named(sample, score, changed, name):
    weak = replace(score, **changed)
    assert weak.unbeaten[0] == name and weak.beats_controls is False
    assert weak.strongest.control == name and f"It is no better than {name}" in head_sentence(sample, weak)


def test_a_gain_within_its_error_is_not_called_none(sample, score):
    """18 ± 17 points: neither better nor no better."""
    said = head_sentence(sample, replace(score, gain=0.18, gain_se=0.17))
    assert "**+0.180 ± 0.170**" in said and "It cannot be told from the teacher’s token" in said
    assert "no better" not in said


def test_the_student_s_own_tokens_are_a_control(sample, score):
    (score,) = (s for s in by_class(sample).heads if (s.kind, s.layer, s.head) == ("key", 3, 0))
    assert score.unbeaten == []
    weak = replace(score, added=0.0079)  # 2 standard errors are .008
    assert weak.unbeaten == ["the student’s own tokens"] and not weak.beats_controls
    # Of a projector other than ridge only the own tokens are known.
    alone = replace(score, added=NAN, added_se=NAN, r2_with_own=NAN, with_own_se=NAN)
    assert alone.unbeaten == [] and replace(alone, r2_own=0.75).unbeaten == ["the student’s own tokens"]
    assert replace(alone, r2_own=NAN).unbeaten == []


def test_the_finding_leads_with_what_the_teacher_adds(sample):
    said = sentence(by_class(sample))
    assert said.startswith(
        "On 160 documents held out by document (17,007 student tokens, 5 folds), demo/teacher adds R² +0.115 "
        "± 0.004 of K and +0.115 ± 0.004 of V to what demo/student’s own tokens explain without any teacher"
    )
    assert "The teacher alone explains R² 0.74 of K and 0.74 of V" in said
    assert "own tokens alone (this one and the two before it) 0.73 of K and 0.73 of V" in said
    assert "own token together 0.84 of K and 0.84 of V" in said and "shuffled rows 0.00 of K" in said
    assert "more than two standard errors in 16 of 16 heads" in said
    assert "of the 12,007 that end where a teacher token ends the teacher explains R² 0.76 of K" in said
    assert "of the 5,000 that end inside one 0.69 of K" in said


def test_a_head_says_its_sources_and_both_classes(sample):
    result = by_class(sample)
    score = result.score("key", 3, 0)
    said = sources_of_head(result, score)
    assert "without any teacher, reach R² 0.730 ± 0.005" in said
    assert "together reach 0.860 ± 0.003: the teacher adds +0.130 ± 0.004." in said
    assert "(exact): R² 0.760 ± 0.006, n = 12,007; tokens that end inside one: R² 0.690 ± 0.008, n = 5,000" in said
    assert "control, the student’s own tokens: **+0.130 ± 0.004**" in head_sentence(result, score)
    old = of_one_map(sample)
    assert "own tokens" not in sources_of_head(old, old.heads[0]) + head_sentence(old, old.heads[0])


def test_how_many_maps_there_are_is_said(sample):
    result = by_class(sample)
    assert "made by an earlier version, with one map for all tokens" in sentence(of_one_map(sample))
    asked = {"settings": result.settings | {"rows": "exact"}, "heads": [replace(s, n_inside=0) for s in result.heads]}
    assert "One map for all tokens, fitted on those where both" in sentence(replace(result, **asked))
    assert "too few for a map of their own" in sentence(replace(result, heads=asked["heads"]))
    blind = replace(result, settings=result.settings | {"time": "nearest"})
    assert "map" not in sentence(blind)


def test_without_standard_errors_or_random_weights_nothing_is_claimed(sample, score):
    single = replace(score, gain_se=NAN)
    assert single.beats_controls is None and "not known" in head_sentence(sample, single)
    unmeasured = replace(score, r2_random=NAN, gain_random=NAN, gain_random_se=NAN)
    assert unmeasured.beats_controls and "random" not in head_sentence(sample, unmeasured)
    without = replace(sample, controls=sample.controls | {"random_teacher": Message("not asked for")})
    assert "random weights: not asked for" in control_sentence(without, unmeasured)


def test_a_smaller_sample_and_the_teacher_on_it_are_said(sample, score):
    said = control_sentence(sample, replace(score, n_control=999))
    assert f"on 999 of them, a sample, where the teacher reaches {score.r2:.3f}" in said
    assert "999" not in control_sentence(sample, score)


def test_sinks_and_special_tokens_are_said_apart(sample, score):
    said = apart_sentence(sample, replace(score, error_special=0.25, n_special=160))
    r2_of_sinks = f"{1 - score.error_sink:.2f}".replace("-", "−")
    assert f"R² {r2_of_sinks}, n = {score.n_sink:,}" in said and "R² 0.75, n = 160" in said
    assert f"{1 - score.error_standardised:.2f} when every channel counts alike" in said
    assert "no special token in common" in apart_sentence(sample, score)


def test_the_self_test_is_said_per_model_and_layer(sample):
    gapped = with_gaps(sample)
    said = capture_sentence(gapped, "teacher")
    assert "RoPE undone in 6 of 6 layers" in said and "latent cache (MLA)" in said
    assert "Without a KV cache: layers 2, 5 and 8" in said
    table = capture_table(gapped, "teacher").set_index("layer")
    assert table.loc[5, "positions"] == "no KV cache" and table.loc[6, "layout"] == "half"
    assert len(table) == 9 and table.loc[0, "largest difference"] < 1e-4


def test_keys_as_cached_have_no_self_test(sample):
    cached = replace(sample, capture={})
    assert "compared as cached" in capture_sentence(cached, "student")
    assert capture_table(cached, "student")["positions"].eq("as cached").all()


def test_the_html_holds_layers_controls_and_self_tests(sample):
    page = html(with_gaps(sample))
    for words in (
        "Self-test of the captured keys",
        "latent cache (MLA)",
        "no KV cache",
        "R² random weights",
        "R² group mean",
        "R² of sinks",
        "folds that agree",
        " of each teacher layer alone",
    ):
        assert words in page, words
    assert f"{sample.heads[0].r2_random:.4f}" in page


def test_no_sentence_says_another_gain_than_the_chart_shows(sample, score):
    """A control below the training mean stays what it is; the training mean is then the strongest control."""
    bad = {"r2": -0.44, "r2_identity": -0.205, "gain": -0.235, "r2_random": -0.38, "gain_random": -0.06}
    weak = replace(score, **bad | {"added": 0.3})
    assert (weak.strongest.control, weak.strongest.r2) == ("the mean", -0.44)
    drawn = dict(zip((bar.name for bar in sources(weak)), (bar.r2 for bar in sources(weak))))
    assert weak.strongest.r2 == drawn["teacher"] - drawn["train mean"]
    assert f"**{weak.strongest.r2:.3f}**".replace("-", "−") in head_sentence(sample, weak)
    sample = of_one_map(sample)
    worse = replace(sample, heads=[replace(s, **bad) for s in sample.heads])
    assert "−0.44 of V (−0.23 over the teacher’s token, −0.06 over random weights" in sentence(worse)


OLD_NOTE = "done is no hole: {n}"  # as older versions wrote notes: finished
NOTES = [Message("Cut: {documents}", documents=["done", "training"]), Message.read(OLD_NOTE)]


@pytest.mark.parametrize(
    ("module", "folder"), [(alignments, ANALYSIS), (injections, FUNCTION)], ids=["align", "inject"]
)
def test_notes_are_messages_on_disk_and_back_and_old_ones_stay_as_they_are(module, folder, tmp_path):
    result = module.read(folder)
    module.write(replace(result, notes=NOTES), tmp_path)
    assert module.read(tmp_path).notes == NOTES
    path = tmp_path / module.JSON_NAME
    fields = json.loads(path.read_text(encoding="utf-8"))
    assert fields["notes"][0] == {"text": "Cut: {documents}", "values": {"documents": ["done", "training"]}}
    place = fields["controls" if module is alignments else "data"]
    assert place["random_teacher"] == {"text": "seed {n}", "values": {"n": 0}}
    place["random_teacher"], fields["notes"] = "not asked for", [OLD_NOTE]
    path.write_text(json.dumps(fields), encoding="utf-8")
    old = module.read(tmp_path)
    with speaking("zh"):
        assert list(map(str, old.notes)) == [OLD_NOTE]
        words = (old.controls if module is alignments else old.data)["random_teacher"]
        assert str(words) == "not asked for"
