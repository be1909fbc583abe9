"""A certificate: its gates by hand, three verdicts on real pairs, its file, and what an engine is answered."""

import json
from dataclasses import replace
from math import nan

import jsonschema
import pytest
import torch

from kvlab import PROJECT, load_map
from kvlab.cli import main
from kvlab.errors import AlignError, ModelError
from kvlab.inject.certify import certify, compute
from kvlab.inject.handoff import Handover, handoff
from kvlab.inject.latency import latency, moved_bytes
from kvlab.inject.lengths import CONTINUED, beyond, joined
from kvlab.inject.map_file import MapFile
from kvlab.language import speaking
from kvlab.models.loading import ModelCache, load, random_like
from kvlab.request import prompts
from kvlab.request.certify import CertifyRequest, Gates
from kvlab.results.certificate import data, verdict, words
from kvlab.results.certificate.page import certificate_html
from kvlab.results.function import data as function
from kvlab.results.function.data import AttentionError, Hybrid, Injected
from kvlab.shapes import Document, no_progress
from tests import handed

SCHEMA = PROJECT / "docs" / "certificate.schema.json"
DEMO = ["demo/teacher", "demo/student"]


def rung(kept, p95, gain=0.5, se=0.1):
    numbers = {"kl": p95 / 2, "kl_se": 0.01, "delta_ce": 0.0, "delta_ce_se": 0.0, "n": 500, "documents": 9}
    gains = {"below_own_tokens": gain, "below_own_tokens_se": se}
    return Hybrid("projected", "layers", kept, kept / 3, **numbers, kl_p95=p95, **gains)


def heads(*cosines):
    cells = []
    for layer, cosine in enumerate(cosines):
        cells.append(AttentionError("both", layer, 0, 0.1, 0.0, 0.1, 0.0, {}, {}, [], 9, {"projected": cosine}))
        cells.append(AttentionError("key", layer, 0, 0.1, 0.0, 0.1, 0.0, {}, {}, [], 9, {"projected": -1.0}))
    return cells


def judged(rows, cosines=(0.6, 0.9, 0.99), reproduces=True, over_projected=(0.5, 0.1)):
    own = {"largest_difference": 0.0, "tolerance": 1e-4, "reproduces": reproduces}
    student = {"name": "s", "kv_layers": [0, 1, 2]}
    over = over_projected or (0.0, 0.0)
    random = Injected("random", 0.5, 1.0, 0.1, 1.0, 0.1, 0.5, *over, 0.0, 0.1, 500, 9)
    measured = {"injected": [random] if over_projected else [], "hybrid": rows, "attention": heads(*cosines)}
    return function.Injection({}, {"prefix": 0.5}, [], student, {}, own, **measured)


STRICT = Gates()


def called(test, gates=STRICT):
    ladder = verdict.rungs(test, gates, "projected")
    return verdict.verdict(test, ladder, gates)[:2], [rung.failed for rung in ladder]


def test_the_verdict_is_the_least_own_layers_at_which_every_gate_holds():
    rows = [rung(0, 0.5), rung(1, 0.19), rung(2, 0.05), rung(3, 0.0)]  # three: nothing is the teacher's
    assert called(judged(rows)) == (("own-layers", 1), [("cosine", "kl"), (), ()])
    assert verdict.head_output_cosine(judged(rows), "projected", 1) == pytest.approx((1 + 0.9 + 0.99) / 3)
    assert called(judged([rung(0, 0.2), *rows[1:]], (0.9, 0.9, 0.9)))[0] == ("hand-over", 0)
    # Every gate by itself.
    good = rung(0, 0.1)
    for wrong, failed in (
        (rung(0, 0.21), ("kl",)),
        (rung(0, 0.1, gain=0.19), ("controls",)),
        (rung(0, 0.1, se=nan), ("controls",)),
        (replace(good, groups_p95={"language: zh": 0.3, "language: en": 0.1}), ("groups",)),
        (replace(good, documents=2), ("documents",)),
        (replace(good, n=99), ("documents",)),
        (replace(good, kl_p95=nan), ("kl",)),
    ):
        assert called(judged([wrong], (1, 1, 1))) == (("prefill-anew", 0), [failed])
    assert called(judged([good], (1, 1, 0.6))) == (("prefill-anew", 0), [("cosine",)])
    assert called(judged([good], (1, 1, 1), reproduces=False))[0] == ("prefill-anew", 0)
    assert called(judged([]))[0] == ("prefill-anew", 0)
    for over_projected in ((), (0.19, 0.1), (nan, nan)):  # not measured, within its error
        assert called(judged([good], (1, 1, 1), over_projected=over_projected))[1] == [("random",)]


def test_gates_are_the_users():
    test = judged([rung(0, 0.5)], (0.6, 0.6, 0.6))
    assert called(test, Gates(kl_p95=0.5, head_output_cosine=-1))[0] == ("hand-over", 0)
    assert called(test, Gates(kl_p95=0.5, head_output_cosine=0.61))[1] == [("cosine",)]
    without = judged([rung(0, 0.1)], (1, 1, 1), over_projected=())
    assert called(without, Gates(beats_random=False))[1] == [()]
    grouped = judged([replace(rung(0, 0.1), groups_p95={"domain: law": 9.0})], (1, 1, 1))
    assert called(grouped)[1] == [("groups",)] and called(grouped, Gates(every_group=False))[1] == [()]


def test_a_length_counts_up_to_the_first_that_fails():
    def length(tokens, p95):
        numbers = {"kl": 0.1, "kl_se": 0.1, "below_own_tokens": 0.1, "below_own_tokens_se": 0.1, "n": 9, "documents": 3}
        return data.Length(tokens=tokens, times=tokens / 100, kl_p95=p95, **numbers)

    rows = [length(100, 0.1), length(200, 0.2), length(400, 0.3), length(800, 0.1)]
    assert verdict.longest_of(rows, Gates(), 100) == 200
    assert verdict.longest_of(rows[2:], Gates(), 100) == 100 and verdict.longest_of([], Gates(), 70) == 70


REQUEST = {
    "settings": {"layers": "depth", "folds": 3},
    "injection": {"curve": (), "texts": 0, "documents": 12},
    "lengths": {"beyond": (1.0, 2.0), "timed": (64,)},
    "calibration": "none",
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The certificate of the demo pair by the command line, its folder, and the exit code."""
    folder = tmp_path_factory.mktemp("certificate")
    names = ["--teacher", DEMO[0], "--student", DEMO[1], "--out", str(folder), "--language", "zh"]
    few = ["--layers", "depth", "--folds", "3", "--curve", "--texts", "4", "--documents", "16", "--calibration", "none"]
    code = main.main(["certify", *names, *few, "--beyond", "1", "2", "--timed", "64", "128"])
    return data.read(folder), folder, code


@pytest.mark.model
@pytest.mark.xdist_group("certificate")
class TestDemo:
    def test_the_demo_pair_is_handed_over_and_says_on_what(self, demo):
        certificate, folder, code = demo
        test = function.read(folder)
        passing = [rung.own_layers for rung in certificate.rungs if not rung.failed]
        assert (certificate.source, code, certificate.own_layers) == ("with-own-token", 0, passing[0])
        assert certificate.verdict == ("own-layers" if passing[0] else "hand-over")
        assert certificate.injected[0].variant == "own" and len(certificate.injected) == len(test.at(0.5))
        assert certificate.rungs[0].kl_p95 == test.score("with-own-token").kl_p95 < test.score("own-tokens").kl_p95
        assert {group.name for group in certificate.groups} == {"en", "zh"}
        assert sum(group.n for group in certificate.groups) == test.score("projected").n
        whole = sum(group.kl * group.n for group in certificate.groups) / test.score("projected").n
        assert whole == pytest.approx(test.score("with-own-token").kl)
        assert len(certificate.documents) == certificate.documents_judged == 16
        heads = {(head.kind, head.layer, head.head): head for head in certificate.heads}
        for cell in test.projection:
            head = heads[cell.kind, cell.layer, cell.head]
            assert head.r2 == pytest.approx(1 - cell.controls["with-own-token"])
            assert head.controls["projected"] == pytest.approx(1 - cell.error) and "own-tokens" in head.controls
        assert [row.times for row in certificate.lengths] == [1.0, 2.0]
        assert all(row.n <= CONTINUED * row.documents for row in certificate.lengths)
        assert certificate.lengths[0].tokens == certificate.longest_fitted == test.data["longest_fitted"]
        assert [cost.length for cost in certificate.latency] == [64, 128]
        assert load_map(folder).id == certificate.map_id

    def test_it_keeps_to_its_schema_and_a_changed_number_is_noticed(self, demo, tmp_path):
        certificate, folder, _ = demo
        schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
        assert schema == data.schema(), "write it anew: python -m tests.documentation"
        written = json.loads((folder / data.NAME).read_text(encoding="utf-8"))
        jsonschema.validate(written, schema)
        for wrong in ({"version": 2}, {"verdict": "yes"}, {"longest": "far"}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({**written, **wrong}, schema)
        for wrong in ({"longest": 9999}, {"version": 2}, {"verdict": "yes"}):
            (tmp_path / data.NAME).write_text(json.dumps({**written, **wrong}), encoding="utf-8")
            with pytest.raises(AlignError, match="certificate as written by kvlab"):
                data.read(tmp_path)
        with pytest.raises(AlignError, match="certificate as written by kvlab"):
            data.read(tmp_path / "none.json")
        assert certificate.signed() == certificate

    def test_an_engine_is_answered_for_models_and_length(self, demo):
        certificate, _, _ = demo
        prints = [certificate.teachers[0].fingerprint, certificate.student.fingerprint]
        for models in (DEMO, prints):
            answer = certificate.accepts(models, certificate.longest)
            assert answer and answer.approximate and answer.certificate == certificate.id and not answer.reason
        for models, length, words_of in (
            (DEMO, certificate.longest + 1, "certified are at most"),
            (DEMO[::-1], 10, "demo/student instead of demo/teacher"),
            (DEMO[:1], 10, "1 models instead of 2"),
        ):
            answer = certificate.accepts(models, length)
            assert not answer and words_of in answer.reason and not answer.approximate
        refused = certificate.model_copy(update={"verdict": "prefill-anew"})
        assert not refused.accepts(DEMO, 10) and not refused.approximate

    def test_a_cache_carries_the_certificate_or_is_refused(self, demo):
        certificate, folder, _ = demo
        teacher, student = map(load, DEMO)
        found = load_map(folder)
        cache = handoff(found, teacher, student, "Tom has 3 apples and buys 4 more.", certificate=certificate)
        assert cache.approximate and cache.certificate_id == certificate.id
        assert handoff(found, teacher, student, "Tom has 3 apples.").certificate_id is None
        with_own = certificate.model_copy(update={"own_layers": 4}).signed()
        own = handoff(found, teacher, student, "Tom has 3 apples and buys 4 more.", certificate=with_own)
        alone = handoff(found, teacher, student, "Tom has 3 apples and buys 4 more.", own_layers=4)
        assert all(torch.equal(a, b) for a, b in zip(handed.stored(own, student), handed.stored(alone, student)))
        with pytest.raises(AlignError, match="certificate"):
            handoff(found, teacher, student, "Tom has 3 apples. " * 200, certificate=certificate)
        less = handoff(found, teacher, student, "Tom has 3 apples and buys 4 more.", certificate=with_own, own_layers=1)
        assert all(torch.equal(a, b) for a, b in zip(handed.stored(less, student), handed.stored(alone, student)))
        with pytest.raises(AlignError, match="projected instead of with-own-token"):
            handoff(found, teacher, student, "Tom has 3 apples.", certificate=certificate, source="projected")
        with pytest.raises(AlignError, match="certificate"):
            handoff(handed.demo()[3], teacher, student, "Tom has 3 apples.", certificate=certificate)

    def test_an_earlier_map_does_not_pass_for_one_that_could_not_be_written(self, demo, tmp_path, monkeypatch):
        """The disk is full where the map is written, in a folder that holds the map of an earlier certificate."""
        (tmp_path / "map.safetensors").write_bytes((demo[1] / "map.safetensors").read_bytes())

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(MapFile, "save", full)
        few = {**REQUEST, "injection": {"curve": (), "texts": 0, "documents": 2, "hybrid": False}}
        request = CertifyRequest(teacher=DEMO[0], student=DEMO[1], **few)
        with pytest.raises(ModelError, match="map"):
            compute(request, prompts.samples()[:12], ModelCache(), no_progress, tmp_path)
        assert function.read(tmp_path).reproduces and not (tmp_path / data.NAME).exists()  # the test itself is kept

    def test_its_page_says_everything_in_both_languages_and_escapes(self, demo):
        certificate, folder, _ = demo
        report = (folder / data.REPORT).read_text(encoding="utf-8")
        assert 'lang="zh-Hans"' in report and certificate.id in report
        marked = certificate.model_copy(
            update={
                "prompts": "<b>x</b>",
                "documents": (certificate.documents[0].model_copy(update={"document": "<script>1</script>"}),),
            }
        )
        with speaking("en"):
            page = certificate_html(marked)
            assert "<script>1" not in page and "<b>x" not in page and "&lt;b&gt;x" in page
            assert f"<b>{words.answered(certificate).words}." in page
            for table in (words.ladder_table, words.variants_table, words.groups_table, words.lengths_table):
                assert str(table(certificate).iloc[0, 0]) in page


@pytest.mark.model
@pytest.mark.xdist_group("certificate")
@pytest.mark.parametrize("pair", ["itself", "random", "unrelated"])
def test_a_model_with_itself_is_handed_over_and_pairs_without_a_bond_are_not(pair, tmp_path):
    from kvlab.inject.handoff import map_file
    from kvlab.inject.pipeline import judge

    teacher, student = load("demo/student"), load("demo/student")
    if pair == "random":
        teacher, student = random_like(load("demo/teacher"), 1), random_like(student, 2)
    elif pair == "unrelated":
        teacher = random_like(load("demo/teacher"), 3)
    request = CertifyRequest(teacher=DEMO[0], student=DEMO[1], **REQUEST)
    documents, fits = prompts.samples()[:60], []
    test = judge([teacher], student, documents, request.settings, request.injection, keep=fits.append)
    test.data["documents_sha256"] = ""
    found = map_file(fits[0], [teacher], student, request.settings)
    certificate = certify(request, test, found, [teacher], student, documents)
    if pair == "itself":
        assert certificate.verdict == "hand-over" and certificate.own_layers == 0
        assert certificate.rungs[0].kl < 1e-6 and certificate.rungs[0].kl_p95 < 1e-6
        assert certificate.rungs[0].head_output_cosine > 0.99999
        assert all(row.kl < 1e-6 for row in certificate.lengths)
    else:
        assert certificate.verdict == "prefill-anew" and certificate.rungs[0].failed
        assert not certificate.accepts(DEMO, 10)
        # A student of random weights hardly reads its cache: KL alone would let it pass.
        assert all("random" in rung.failed for rung in certificate.rungs)


@pytest.mark.model
@pytest.mark.xdist_group("handoff")
def test_longer_texts_are_joined_documents_each_once():
    student = load("demo/student")
    documents = [Document(str(n), f"Tom has {n} apples and {n + 1} pears.") for n in range(12)]
    made = list(joined(student, documents, 40))
    assert len(made) > 1
    lines = [line for text in made for line in text.text.split("\n")]
    assert lines == [document.text for document in documents][: len(lines)]
    models, found, judged, _ = handed.demo()
    texts = [item.document for item in judged]
    tried, notes = beyond(models, found, texts, 30, (1.0, 1e4), "projected", 0, lambda *_: None)
    assert [t.tokens for t in tried] == [30] and "shorter" in str(notes[0]) and len(tried[0].damaged) <= 2


@pytest.mark.model
@pytest.mark.xdist_group("handoff")
def test_the_cost_counts_what_is_read_and_the_timed_cache_is_the_hand_overs(monkeypatch):
    models, _, judged, written = handed.demo()
    hand = Handover(written, models.teachers, models.student)
    text, made, fill = judged[0].document.text, [], hand.filled
    monkeypatch.setattr(hand, "filled", lambda *a: made.append(fill(*a)) or made[-1])
    (cost,), notes = latency(hand, [text], (40, 100_000), rounds=1)
    assert "positions" in str(notes[0]) and cost.length == 40 and cost.rounds == 1
    whole = hand.student.tokenizer.decode(made[-1].input_ids[0], skip_special_tokens=True)
    plain = handoff(written, models.teachers[0], models.student, whole)
    assert made[-1].input_ids.equal(plain.input_ids)
    for mine, theirs in zip(handed.stored(made[0], models.student), handed.stored(plain, models.student)):
        length = theirs.shape[2]
        assert torch.equal(mine[:, :, :length], theirs)
    item = hand.item(whole)
    # One teacher layer for each student layer: 4 of 6, keys and values of 2 heads of 64 float32.
    layers = {(kind, at) for (kind, _), chosen in hand.fit.layers[0].items() for at in chosen}
    heads, key, value = models.teachers[0].geometry.layer_shapes[0]
    per_layer = {"key": heads * key * 4, "value": heads * value * 4}
    assert moved_bytes(hand, item) == sum(per_layer[kind] for kind, _ in layers) * len(item.teachers[0])
    assert cost.bytes_cached == sum(x.nbytes for x in handed.stored(made[-1], models.student))
    assert cost.own_tokens == int((~plain.replaced).sum()) and cost.teacher_tokens == len(item.teachers[0])
    assert cost.handed_s == cost.mapping_s + cost.first_token_s and cost.cold_s > cost.first_token_s > 0
