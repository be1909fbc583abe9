"""The functional test in figures, sentences and files: the numbers of the result, and nothing beside them."""

import csv
import dataclasses
import io
import json
import re
import zipfile
from itertools import product

import numpy as np
import pytest

from kvlab.host.bundled import ANALYSIS, FUNCTION
from kvlab.inject import run as functional
from kvlab.language import speaking
from kvlab.results.alignment import data as results
from kvlab.results.alignment.data import as_json
from kvlab.results.alignment.sentences import sentence
from kvlab.results.function import data, figures
from kvlab.results.function.figures import error_against_damage, function_map, variants
from kvlab.results.function.page import function_archive, function_html, html_with_function
from kvlab.results.function.sentences import (
    OWN_PARTS,
    accuracy_sentence,
    beaten,
    correlation_sentence,
    enough,
    hybrid_sentence,
    lead_sentence,
    pieces,
    shares,
    useful,
    useful_sentence,
    verdict_sentence,
)
from kvlab.results.function.tables import cells_table, hybrid_table, variants_table
from tests.test_chinese_analysis import ENGLISH

NUMBER = re.compile(r"\d[\d,]*\.?\d*(?:e-?\d+)?")


@pytest.fixture(scope="module")
def sample():
    return data.read(FUNCTION)


def with_controls(sample, gaps):
    """Controls whose KL is so many standard errors above the projected cache's."""
    rows = [
        dataclasses.replace(row, kl_over_projected=gaps[row.variant], kl_over_projected_se=1.0)
        if row.variant in gaps
        else row
        for row in sample.injected
    ]
    return dataclasses.replace(sample, injected=rows)


def with_sources(sample, **gains):
    """The sample with the student's own tokens and the second source, and hybrids; ``gains`` over these tokens."""
    projected, share = sample.score("projected"), sample.injection["prefix"]
    alone, with_own = gains.get("alone", 3.0), gains.get("with_own", 3.0)
    se = gains.get("se", 1.0)
    control = dataclasses.replace(
        projected, variant="own-tokens", kl=0.75, kl_over_projected=alone, kl_over_projected_se=se
    )
    projected = dataclasses.replace(projected, below_own_tokens=alone, below_own_tokens_se=se)
    source = dataclasses.replace(
        projected, variant="with-own-token", kl=0.0625, kl_se=0.0078, below_own_tokens=with_own
    )
    kls = {  # source -> part -> KL of 0, 1, ... own layers or tokens
        "projected": {"layers": (0.5, 0.25, 0.04, 0.0), "read": (0.5, 0.3, 0.06, 0.0), "tokens": (0.5, 0.2, 0.01, 0.0)},
        "with-own-token": {"layers": (0.0625, 0.006, 0.002, 0.0), "read": (0.0625, 0.05, 0.04, 0.0)},
        "own-tokens": {"layers": (0.75, 0.31, 0.28, 0.0), "read": (0.75, 0.7, 0.6, 0.17)},
    }
    hybrids = [
        data.Hybrid(name, part, kept, kept / 3, kl, kl / 10, 2 * kl, kl / 5, n=900, documents=7)
        for name, parts in kls.items()
        for part, values in parts.items()
        for kept, kl in enumerate(values)
    ]
    replaced = {("projected", share), ("with-own-token", share), ("own-tokens", share)}
    others = [row for row in sample.injected if (row.variant, row.prefix) not in replaced]
    injected = [*others, projected, source, control]
    return dataclasses.replace(sample, injected=injected, hybrid=hybrids), share


@pytest.mark.parametrize(
    ("gains", "judged", "first", "second"),
    [
        (
            {},
            (True, True),
            "Useful: the projected cache, the teacher alone, beats",
            "own token beats own tokens without",
        ),
        (
            {"alone": 1.9},
            (False, True),
            "Not shown to be useful",
            "own token beats own tokens without",
        ),
        (
            {"alone": -3, "with_own": 2},
            (False, False),
            "(gain −3.000 ± 1.000",
            "own token does not beat own tokens",
        ),
        ({"with_own": -3}, (True, False), "Useful: ", "(gain −3.000 ± 1.000"),
        ({"se": np.nan}, (None, None), "not known without standard errors", "not known without standard errors"),
    ],
)
def test_a_cache_is_useful_where_it_beats_the_students_own_tokens(sample, gains, judged, first, second):
    told, share = with_sources(sample, **gains)
    assert useful(told, share) == dict(zip(("projected", "with-own-token"), judged))
    said = verdict_sentence(told, share)
    assert first in said and second in said and "nan" not in said
    assert said.startswith(useful_sentence(told, share)) and "Useful" not in said[1:]
    assert lead_sentence(told) == f"In function: {said}"
    with speaking("zh"):
        assert not ENGLISH.search(verdict_sentence(told, share))


def test_an_older_test_without_this_control_says_so_and_still_shows_the_others(sample):
    older = dataclasses.replace(sample, injected=[r for r in sample.injected if r.variant != "own-tokens"])
    assert useful(older, 0.5) == {}
    said = verdict_sentence(older, 0.5)
    assert "was not measured: this test was made by an earlier kvlab" in said and "beats every control" in said
    plain = dataclasses.replace(older, hybrid=[])
    assert hybrid_sentence(plain) is None and "How much must the student still read" not in function_html(plain)


def test_what_must_still_be_read_removes_nine_tenths_of_the_damage(sample):
    told, _ = with_sources(sample)
    both = ("projected", "with-own-token")
    found = {(source, part): enough(told, source, part).kept for source, part in product(both, ("layers", "read"))}
    assert found["projected", "layers"] == 2 and found["projected", "read"] == 3
    assert found["with-own-token", "layers"] == 1 and found["with-own-token", "read"] == 3
    said = hybrid_sentence(told)
    assert "90% of the KL of the projected cache (0.500 with 50% of each document handed over)" in said
    assert "compute 2 of its 4 layers itself, the first ones (67% of the prefill; KL 0.040 ± 0.004" in said
    assert "the last 3 of the prefix’ tokens (100% of the prefill; KL 0.000 ± 0.000, without any teacher 0.170)" in said
    assert "compute 1 of its 4 layers itself, the first ones (33% of the prefill; KL 0.006 ± 0.001" in said
    for control in (0.28, 0.17, 0.31):
        assert f"without any teacher {control:.3f})" in said
    assert said.count("n = 900 tokens of 7 held-out documents") == 2


def test_hybrids_are_drawn_and_written_with_their_numbers(sample):
    told, _ = with_sources(sample)
    lines = {(trace.name, trace.xaxis or "x"): trace for trace in figures.hybrid(told).data}
    parts = {("", "x"): "layers", ("", "x2"): "read", (", own rows", "x2"): "tokens"}
    for (name, axis), trace in lines.items():
        behind = ", own rows" if name.endswith(", own rows") else ""
        source = next(s for s, words in data.NAMES.items() if words == name.removesuffix(behind))
        rows = [h for h in told.hybrid if (h.variant, h.part) == (source, parts[behind, axis])]
        assert rows and [list(trace.x), list(trace.y)] == [[h.share for h in rows], [h.kl for h in rows]]
        assert list(trace.error_y.array) == [h.kl_se for h in rows]
    assert len(lines) == 7 and sum(bool(trace.showlegend) for trace in lines.values()) == 4
    shown = hybrid_table(told)
    assert list(shown["kl"]) == [h.kl for h in told.hybrid] and set(shown["part"]) == set(OWN_PARTS.values())
    with zipfile.ZipFile(io.BytesIO(function_archive(told))) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("hybrid.csv").decode())))
    assert [(r["variant"], r["part"], float(r["kl"])) for r in rows] == [(h.variant, h.part, h.kl) for h in told.hybrid]
    for language, words in (("en", "How much must the student still read?"), ("zh", "学生还须自己读多少？")):
        assert words in function_html(told, language)


def test_a_refined_source_is_judged_against_the_refined_own_tokens(sample):
    told, share = with_sources(sample)
    row = told.score("with-own-token")
    refined = dataclasses.replace(row, variant="refined", kl=0.125, below_own_tokens=0.5, below_own_tokens_se=0.125)
    told = dataclasses.replace(told, injected=[*told.injected, refined])
    assert "refined" not in useful(told, share)
    control = dataclasses.replace(told.score("own-tokens"), variant="own-tokens-refined", kl=0.625)
    told = dataclasses.replace(told, injected=[*told.injected, control])
    assert useful(told, share)["refined"] is True
    words = "The projected cache, refined beats own tokens without a teacher, refined by 0.500 ± 0.125 nats"
    assert f"{words} (KL 0.125 against 0.625)" in verdict_sentence(told, share)


def test_no_two_variants_look_alike():
    """Without colours either: markers differ, and so do the dashes of what is not refined, but for two solid ones."""
    assert len(set(figures.LOOK.values())) == len({marker for _, marker, _ in figures.LOOK.values()})
    assert len(set(figures.LOOK.values())) == len(figures.LOOK)
    plain = {name: look for name, look in figures.LOOK.items() if not name.endswith("refined")}
    colours, _, dashes = zip(*plain.values())
    assert len(set(colours)) == len(plain) and len(set(dashes)) == len(plain) - 1


def test_the_sample_reproduces_its_own_cache_and_beats_its_controls(sample):
    assert sample.reproduces and sample.own["largest_difference"] < 1e-5
    own, projected = sample.score("own"), sample.score("projected")
    assert abs(own.kl) < 1e-5 < projected.kl
    assert set(beaten(sample, 0.5)) == {"mean", "shuffled", "own-tokens", "identity", "random"}
    assert all(beaten(sample, 0.5).values())


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        ({"mean": 3, "shuffled": 3, "identity": 3, "random": 3}, "beats every control"),
        ({"mean": 3, "shuffled": 3, "identity": 1.9, "random": 3}, "but not token identity alone"),
        (
            {"mean": 1, "shuffled": 0, "own-tokens": -1, "identity": -3, "random": 1.9},
            "nothing shows that the student can use it",
        ),
    ],
)
def test_a_control_is_beaten_by_more_than_two_standard_errors_only(sample, gaps, words):
    assert words in verdict_sentence(with_controls(sample, gaps), 0.5)


def test_without_standard_errors_no_control_is_said_to_be_beaten_or_not(sample):
    rows = [dataclasses.replace(row, kl_se=np.nan, kl_over_projected_se=np.nan) for row in sample.injected]
    single = dataclasses.replace(sample, injected=rows)
    assert set(beaten(single, 0.5).values()) == {None}
    said = verdict_sentence(single, 0.5)
    assert "whether it beats its controls is not known" in said and "nan" not in said and "no control" not in said
    unsure = [dataclasses.replace(found, se=np.nan, less_own_se=np.nan, documents=2) for found in sample.accuracy]
    said = accuracy_sentence(dataclasses.replace(sample, accuracy=unsure))
    assert "2 held-out documents: too few for standard errors" in said and "within two" not in said


def test_figures_show_the_numbers_of_the_result(sample):
    rows = [row for row in sample.injected if row.prefix == 0.5]
    bars = variants(rows, "kl").data[0]
    np.testing.assert_array_equal(bars.x, [row.kl for row in rows])
    np.testing.assert_array_equal(bars.error_x.array, [row.kl_se for row in rows])
    curve = {trace.name: trace for trace in figures.curve(sample, "delta_ce").data}
    drawn = curve["projected cache"]
    np.testing.assert_array_equal(drawn.x, shares(sample))
    np.testing.assert_array_equal(drawn.y, [sample.score("projected", share).delta_ce for share in drawn.x])
    for measure, column in (("attention", "error"), ("kl", "kl")):
        figure = function_map(sample, measure, "key")
        heat = next(trace for trace in figure.data if trace.type == "heatmap")
        expected = sample.grid("attention" if measure == "attention" else "swaps", "key", column)
        expected = 1 - expected if measure == "attention" else expected
        np.testing.assert_allclose(np.array(heat.z, dtype=float), expected)
    scatter = error_against_damage(sample, "projection", "kl", ("key", 3, 0))
    keys = scatter.data[0]
    assert sorted(keys.x) == sorted(1 - c.error for c in sample.projection if c.kind == "key")
    assert sorted(keys.y) == sorted(s.kl for s in sample.swaps if s.kind == "key" and s.head is not None)


def test_tables_show_the_numbers_of_the_result(sample):
    shown = variants_table(sample, 0.5)
    rows = [row for row in sample.injected if row.prefix == 0.5]
    assert list(shown["variant"]) == [data.NAMES[row.variant] for row in rows]
    for column in ("kl", "kl_se", "delta_ce", "delta_ce_se", "n", "documents"):
        assert list(shown[column]) == [getattr(row, column) for row in rows], column
    cells = cells_table(sample).set_index(["kind", "layer", "head"])
    assert len(cells) == len(sample.projection)
    assert list(cells["r2"]) == [1 - cell.error for cell in sample.projection]
    for name, found in (("r2", sample.projection), ("attention_r2", sample.attention), ("kl", sample.swaps)):
        for cell in found:
            if cell.head is not None and cell.kind != "both":
                at = ("K" if cell.kind == "key" else "V", cell.layer, cell.head)
                assert cells.loc[at, name] == (cell.kl if name == "kl" else 1 - cell.error), (name, at)
    with zipfile.ZipFile(io.BytesIO(function_archive(sample))) as archive:
        written = {
            name: list(csv.DictReader(io.StringIO(archive.read(name).decode()))) for name in archive.namelist()[1:]
        }
    lists = {"variants.csv": (sample.injected, "kl"), "swaps.csv": (sample.swaps, "delta_ce")}
    lists |= {"projection.csv": (sample.projection, "error"), "attention.csv": (sample.attention, "se")}
    lists |= {"correlations.csv": (sample.correlations, "rho"), "accuracy.csv": (sample.accuracy, "right")}
    for name, (found, column) in lists.items():
        assert [float(row[column]) for row in written[name]] == [getattr(cell, column) for cell in found], name
    for row, cell in zip(written["projection.csv"], sample.projection, strict=True):
        assert {name: float(row[name]) for name in cell.controls} == cell.controls


def test_the_report_has_the_same_numbers_in_both_languages(sample):
    pages = {language: function_html(sample, language) for language in ("en", "zh")}
    assert '<html lang="zh-Hans">' in pages["zh"] and '<html lang="en">' in pages["en"]
    tables = {language: re.findall(r"<td>([^<]*)</td>", page) for language, page in pages.items()}
    numbers = {language: [text for text in found if NUMBER.fullmatch(text)] for language, found in tables.items()}
    assert numbers["en"] == numbers["zh"] and len(numbers["en"]) > 200
    said = re.findall(r"<p>([^<]*)</p>", pages["zh"])
    assert len(said) > 8 and not [text for text in said if ENGLISH.search(text)]


def test_of_a_test_whose_own_cache_fails_the_report_says_that_alone(sample):
    broken = dataclasses.replace(sample, own=sample.own | {"reproduces": False})
    page = function_html(broken)
    assert "Nothing is reported" in page and "js-plotly-plot" not in page and "Plotly.newPlot" not in page


def test_texts_of_users_stay_text(sample):
    made = data.Continued("own", ["<script>x</script>"], [True], "<script>x</script>", "=1+1", False)
    text = data.Text("<b>id</b>", "<img src=x>", "=2", [made])
    hostile = dataclasses.replace(sample, texts=[text])
    page = function_html(hostile)
    assert "<script>x" not in page and "<img src" not in page and "&lt;script&gt;x" in page
    with zipfile.ZipFile(io.BytesIO(function_archive(hostile))) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("texts.csv").decode())))
        assert rows[0]["answer"] == "'=1+1" and rows[0]["expected"] == "'=2"
        assert json.loads(archive.read(data.JSON_NAME))["own"] == sample.own


def test_tokens_of_one_character_are_joined():
    made = data.Continued("own", ["a", "\ufffd", "\ufffd", "b"], [False, False, True, False], "a天b", None, None)
    assert pieces(made) == [("a", False), ("天", True), ("b", False)]


def test_beside_an_analysis_of_the_same_request_its_report_gets_a_section(sample, tmp_path):
    aligned = results.read(ANALYSIS)
    results.write(aligned, tmp_path)
    functional.write(sample, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Can the student use the projected cache?" in page and sentence(aligned).split("(")[0] in page
    assert as_json(data.read(tmp_path)) == as_json(sample) and (tmp_path / functional.REPORT_NAME).exists()
    (tmp_path / "report.html").unlink()
    functional.write(dataclasses.replace(sample, prompts="others.txt"), tmp_path)
    assert not (tmp_path / "report.html").exists()
    # Another upload by the same name.
    functional.write(dataclasses.replace(sample, data={**sample.data, "documents_sha256": "0"}), tmp_path)
    assert not (tmp_path / "report.html").exists()
    with speaking("zh"):
        assert "学生能使用投影后的缓存吗？" in html_with_function(aligned, None, sample)


def test_what_chance_does_to_a_rank_correlation_is_said(sample):
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    heads = min(c.heads for c in sample.correlations if (c.error, c.damage) == ("projection", "kl"))
    said = correlation_sentence(sample, "projection", "kl")
    chance = float(said.split(f"alone {heads} heads come to ±")[1].split()[0])
    drawn = [abs(spearmanr(*rng.normal(size=(2, heads))).statistic) for _ in range(2000)]
    assert np.mean(np.array(drawn) > chance) == pytest.approx(0.05, abs=0.015)
