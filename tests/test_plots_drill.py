"""The views of one head and of a timeline carry the numbers of the result, in figures, tables and sentences."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from kvlab.host.bundled import ANALYSIS
from kvlab.language import speaking
from kvlab.results.alignment.data import Inspected, TokenView, read
from kvlab.results.alignment.heads import worst_tokens
from kvlab.results.alignment.one_head import groups_sentence, rules_sentence, signal_sentence, spectrum_sentence
from kvlab.results.alignment.resampled import has_signal, signal
from kvlab.results.alignment.rules import rules_table, time_rules
from kvlab.results.alignment.spectrum import spectrum, spectrum_table
from kvlab.results.alignment.strip import minimap
from kvlab.results.alignment.timeline import drawn_bytes, groups, index_maps, shapes, timeline
from kvlab.results.safe_csv import safe_csv

CELL = ("key", 3, 0)


@pytest.fixture(scope="module")
def sample():
    return read(ANALYSIS)


def without(alignment, *prefixes):
    """As an earlier version wrote it."""
    arrays = {name: a for name, a in alignment.arrays.items() if not any(p in name for p in prefixes)}
    controls = {name: value for name, value in alignment.controls.items() if name != "rules"}
    return dataclasses.replace(alignment, arrays=arrays, controls=controls)


@pytest.mark.parametrize("kind", ["key", "value"])
def test_the_errors_of_all_directions_sum_to_the_head(sample, kind):
    for score in (s for s in sample.heads if s.kind == kind):
        table = spectrum_table(sample, kind, score.layer, score.head)
        assert (table["share"] * table["error"]).sum() == pytest.approx(score.error, abs=1e-4)
        assert (table["share"] * table["error_identity"]).sum() == pytest.approx(1 - score.r2_identity, abs=1e-4)
        assert table["cumulative"].iloc[-1] == pytest.approx(1, abs=1e-4)
        assert table["share"].is_monotonic_decreasing


def test_the_spectrum_is_drawn_and_said(sample):
    table = spectrum_table(sample, *CELL)
    r2, alone, share = spectrum(sample, *CELL).data
    np.testing.assert_allclose(r2.y, 1 - table["error"])
    np.testing.assert_allclose(r2.error_y.array, table["se"])
    np.testing.assert_allclose(alone.y, 1 - table["error_identity"])
    np.testing.assert_allclose(share.y, table["share"])
    said = spectrum_sentence(sample, *CELL)
    needed = int(np.searchsorted(np.cumsum(table["share"]), 0.9)) + 1
    assert f"{needed} of {len(table)} directions" in said and "n = 17,007 tokens" in said
    with speaking("zh"):
        assert "主方向" in spectrum(sample, *CELL).layout.xaxis2.title.text


def test_a_head_that_does_not_vary_has_no_directions(sample):
    arrays = sample.arrays | {"spectrum.key.share": np.full_like(sample.arrays["spectrum.key.share"], np.nan)}
    assert spectrum_table(dataclasses.replace(sample, arrays=arrays), *CELL).empty


def test_rules_are_ranked_on_the_same_tokens(sample):
    table = rules_table(sample, *CELL)
    assert set(table["rule"]) == {"exact", "floor", "ceil", "overlap", "linear", "nearest", "segment"}
    same = table[table["common"]]
    assert same["r2"].is_monotonic_decreasing and same["rows_scored"].nunique() == 1
    assert table["rule"].iloc[-1] == "exact" and not table["common"].iloc[-1]
    assert table[table["own"]]["rule"].tolist() == ["floor"]
    (bar,) = time_rules(sample, *CELL).data
    assert list(bar.x) == pytest.approx(table["r2"].tolist())
    said = rules_sentence(sample, *CELL)
    assert f"**{same['rule'].iloc[0]}**" in said and "exact" not in said.split("Each from")[0]


def test_an_earlier_analysis_holds_none_of_it(sample):
    old = without(sample, "spectrum.", "rules.", ".signal.")
    assert spectrum_table(old, *CELL) is None and rules_table(old, *CELL) is None
    assert not has_signal(old, 0) and has_signal(sample, 0)


def test_the_worst_tokens_are_those_of_the_lowest_r2(sample):
    worst = worst_tokens(sample, *CELL, range(len(sample.inspected)), 12)
    errors = np.concatenate(
        [
            sample.arrays[f"document.{n}.error.key"][3, 0][np.array(d.scored, dtype=bool)]
            for n, d in enumerate(sample.inspected)
        ]
    )
    np.testing.assert_allclose(worst["r2"], 1 - np.sort(errors)[::-1][:12])
    row = worst.iloc[0]
    document = next(d for d in sample.inspected if d.id == row["document"])
    shown = document.text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    assert row["before"].lstrip("…") + row["text"] + row["after"].rstrip("…") in shown
    assert document.student_tokens[row["token"]].start == row["byte"]


def views(*spans, text):
    return [TokenView(text.encode()[a:b].decode(errors="replace"), a, b, a == b) for a, b in spans]


TEXT = "=1+ab 河"


@pytest.fixture(scope="module")
def small():
    """Special, "=1", "+a", "b ", "河" for the teacher; special, "=", "1", "+ab", " ", "河" for the student."""
    teacher = views((0, 0), (0, 2), (2, 4), (4, 6), (6, 9), text=TEXT)
    student = views((0, 0), (0, 1), (1, 2), (2, 5), (5, 6), (6, 9), text=TEXT)
    return Inspected("=cmd", TEXT, [["prompt", 0, 9]], 0, teacher, student, [False, True, True, True, True, True])


def test_groups_lie_between_common_borders(small):
    assert [(g.start, g.end, g.teacher, g.student) for g in groups(small)] == [
        (0, 2, 1, 2),
        (2, 6, 2, 2),
        (6, 9, 1, 1),
    ]
    assert shapes(small) == {"1:n": 1, "n:n": 1, "1:1": 1}


@pytest.mark.parametrize(
    ("rule", "index", "read_from"),
    [
        ("floor", 1, "=1"),
        ("linear", 1.5, "=1 +a"),
        ("overlap", 2.4, "+a b␣"),
        ("floor", np.nan, ""),
        ("rkv", 1, "other"),
    ],
)
def test_what_a_token_was_read_from(small, rule, index, read_from):
    alignment = SimpleNamespace(
        settings={"time": rule},
        timeline={"rules": {"floor": {}, "linear": {}, "overlap": {}}},
        inspected=[small],
        arrays={f"document.0.index.{rule}": np.full(6, index), "document.0.error.key": np.ones((1, 1, 6))},
        layer_position=lambda layer: layer,
    )
    worst = worst_tokens(alignment, "key", 0, 0, [0], 9)
    row = worst[worst["token"] == 3].iloc[0]
    assert row["read_from"].startswith(read_from) and bool(row["read_from"]) == bool(read_from)
    assert (row["before"], row["text"], row["after"]) == ("=1", "+ab", "␣河")
    assert "'=cmd" in safe_csv(worst) and ",'=," in safe_csv(worst)  # no formula for a spreadsheet


def test_the_three_lines_are_those_of_the_result(sample):
    document = sample.inspected[2]
    figure = signal(sample, 2, *CELL, (40, 120))
    for line, name, tokens in zip(
        figure.data, ("teacher", "resampled", "student"), (document.teacher_tokens, *[document.student_tokens] * 2)
    ):
        values = sample.arrays[f"document.2.signal.key.{name}"][3, 0]
        inside = [i for i, t in enumerate(tokens) if not t.special and 40 <= t.end <= 120]
        assert list(line.x) == [tokens[i].end for i in inside]
        np.testing.assert_allclose(np.array(line.y, dtype=float), values[inside].astype(float))
    assert "standard deviations" in figure.layout.yaxis.title.text
    said = signal_sentence(sample, 2, *CELL)
    assert f"over {sum(document.scored)} scored tokens" in said


def test_the_resampled_teacher_explains_the_student_as_well_as_the_spectrum_says(sample):
    """Pooled over the documents kept: 1 - RSS / TSS along the first direction, in its own standard deviations."""
    rss = tss = 0.0
    for number, document in enumerate(sample.inspected):
        scored = np.array(document.scored, dtype=bool)
        student, resampled = (
            sample.arrays[f"document.{number}.signal.value.{name}"][1, 1][scored].astype(float)
            for name in ("student", "resampled")
        )
        rss, tss = rss + ((student - resampled) ** 2).sum(), tss + (student**2).sum()
    table = spectrum_table(sample, "value", 1, 1)
    assert rss / tss == pytest.approx(table["error"].iloc[0], abs=0.15)  # 12 of 160 documents


def test_only_the_window_and_its_margins_are_drawn_of_a_long_document(sample):
    document = sample.inspected[0]
    many = 20_000
    tokens = [TokenView("a", i, i + 1, False) for i in range(many)]
    long = Inspected(
        "long", "a" * many, [["prompt", 0, 9000], ["answer", 9000, many]], 0, tokens, tokens, [True] * many
    )
    arrays = dict(sample.arrays)
    for kind in ("key", "value"):
        arrays[f"document.0.error.{kind}"] = np.tile(np.linspace(0, 1, many, dtype=np.float32), (4, 2, 1))
    arrays["document.0.row_class"] = np.zeros(many, dtype=np.float32)
    for rule in sample.timeline["rules"]:
        arrays[f"document.0.index.{rule}"] = np.arange(many, dtype=np.float32)
        arrays[f"document.0.lag.{rule}"] = np.zeros(many, dtype=np.float32)
    big = dataclasses.replace(sample, inspected=[long, *sample.inspected[1:]], arrays=arrays)
    assert document.id != long.id and drawn_bytes(long, (10_000, 10_096)) == (9952, 10_144)
    figure = timeline(big, 0, "floor", (10_000, 10_096))
    assert max(len(trace.x) for trace in figure.data) < 2000
    assert max(len(trace.x) for trace in timeline(big, 0, "floor").data) < 20_000
    assert max(len(trace.x) for trace in index_maps(big, 0).data) <= 2000

    strip = minimap(big, 0, (10_000, 10_096))
    (bar,) = strip.data
    assert len(bar.x) <= 240 and bar.customdata[0][0] == 0
    np.testing.assert_allclose(bar.marker.color, [1 - at / many for at in bar.x], atol=0.01)
    frame = next(shape for shape in strip.layout.shapes if shape.x0 == 10_000)
    assert frame.x1 == 10_096 and [note.text for note in strip.layout.annotations] == ["prompt", "answer"]


def test_exact_borders_and_groups_are_drawn(sample):
    figure = timeline(sample, 0, "floor")
    named = {trace.name: trace for trace in figure.data}
    found = groups(sample.inspected[0])
    assert list(named["exact border"].x[::3]) == [group.end for group in found]
    others = [g for g in found if (g.teacher, g.student) != (1, 1)]
    assert len(named["not one to one, teacher : student"].x) == 6 * len(others)
    labels = next(t for t in figure.data if t.mode == "text" and t.text and ":" in t.text[0] and t.name is None)
    assert list(labels.text) == [f"{g.teacher}:{g.student}" for g in others]
    said = groups_sentence(sample, 0)
    assert f"{len(found)} exact borders" in said
