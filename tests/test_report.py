"""What is said about a result: controls, what is scored apart, the self-tests."""

import json
from dataclasses import replace

import pytest

from kvlab.host.bundled import ANALYSIS, FUNCTION
from kvlab.language import Message, speaking
from kvlab.results.alignment import data as alignments
from kvlab.results.alignment.data import read
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


def test_the_verdict_says_both_gains(sample, score):
    said = head_sentence(sample, score)
    assert f"{round(score.gain * 100)} points more than its token alone does" in said
    assert f"{round(score.gain_random * 100)} points more than a teacher of random weights" in said
    assert f"n = {score.n:,} tokens, 5 folds by document" in said and "no better" not in said


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"gain": 0.001}, "the teacher’s token"),
        ({"gain_random": 0.001}, "a teacher of random weights"),
        ({"r2_group_mean": 0.9}, "the group mean"),
        ({"r2_shuffled": 0.9}, "shuffled rows"),
        ({"r2": -0.1}, "the mean"),
    ],
)
def test_every_control_that_is_not_beaten_is_named(sample, score, changed, name):
    weak = replace(score, **changed)
    assert weak.unbeaten[0] == name and weak.beats_controls is False
    assert f"It is no better than {name}" in head_sentence(sample, weak)


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
        "On 160 documents held out by document (17,007 student tokens, 5 folds), demo/teacher adds +11.5 ± 0.4 points "
        "of K and +11.5 ± 0.4 points of V to what demo/student’s own tokens explain without any teacher"
    )
    assert "the teacher alone explains 74% of K and 74% of V" in said
    assert "own tokens alone (this one and the two before it) 73% of K and 73% of V" in said
    assert "own token together 84% of K and 84% of V" in said and "shuffled rows 0% of K" in said
    assert "more than two standard errors in 16 of 16 heads" in said
    assert "of the 12,007 that end where a teacher token ends the teacher explains 76% of K" in said
    assert "of the 5,000 that end inside one 69% of K" in said


def test_a_head_says_its_sources_and_both_classes(sample):
    result = by_class(sample)
    score = result.score("key", 3, 0)
    said = sources_of_head(result, score)
    assert "without any teacher, reach R² 0.730 ± 0.005" in said
    assert "together reach 0.860 ± 0.003: the teacher adds +0.130 ± 0.004." in said
    assert "(exact): R² 0.760 ± 0.006, n = 12,007; tokens that end inside one: R² 0.690 ± 0.008, n = 5,000" in said
    assert "adds **+13.0 ± 0.4 points** of K to the student’s own tokens (73% without" in head_sentence(result, score)
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
    assert f"error {score.error_sink:.2f}, n = {score.n_sink:,}" in said and "error 0.25, n = 160" in said
    assert f"{score.error_standardised:.2f} when every channel counts alike" in said
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
        "error of sinks",
        "folds that agree",
        " of each teacher layer alone",
    ):
        assert words in page, words
    assert f"{sample.heads[0].r2_random:.4f}" in page


def test_nothing_is_further_above_a_control_than_above_the_training_mean(sample, score):
    bad = {"r2": 0.1, "r2_identity": -0.3, "gain": 0.4, "r2_random": -1.03, "gain_random": 1.13}
    said = head_sentence(sample, replace(score, **bad))
    assert "10 points more than its token alone" in said and "10 points more than a teacher of random weights" in said
    sample = of_one_map(sample)
    worse = replace(sample, heads=[replace(s, **bad | {"r2": -0.43, "gain_random": 0.6}) for s in sample.heads])
    assert "-43% of V (−43 points over the teacher’s token, −43 points over random weights" in sentence(worse)


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
