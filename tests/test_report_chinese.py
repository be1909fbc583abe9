"""The report of an analysis in Chinese: the numbers of the English one, and no English words but names."""

import io
import json
import re
import zipfile
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import pytest

from kvlab.host.bundled import ANALYSIS
from kvlab.language import Message, speaking
from kvlab.results.alignment import data as results
from kvlab.results.alignment.archive import archive
from kvlab.results.alignment.difference import (
    difference_heatmap,
    difference_sentence,
    matched,
    one_difference_sentence,
    shapes_sentence,
)
from kvlab.results.alignment.fusion import fused_parts, fusion_weights, gain_heatmap
from kvlab.results.alignment.heads import contributions, controls, gain_map, mean_sources, r2_map, token_scores
from kvlab.results.alignment.layers import MATRICES, graph, layers_sentence, similarity
from kvlab.results.alignment.one_head import (
    contribution_sentence,
    groups_sentence,
    rules_sentence,
    signal_sentence,
    spectrum_sentence,
)
from kvlab.results.alignment.page import html
from kvlab.results.alignment.resampled import signal
from kvlab.results.alignment.rkv import kept_steps
from kvlab.results.alignment.rules import time_rules
from kvlab.results.alignment.sentences import (
    apart_sentence,
    capture_sentence,
    control_sentence,
    kept_sentence,
    sentence,
    sources_of_head,
)
from kvlab.results.alignment.spectrum import spectrum
from kvlab.results.alignment.strip import minimap
from kvlab.results.alignment.timeline import index_maps, timeline
from tests.finished import by_class, fused, of_fewer_heads, of_one_map, of_rkv, shifted, with_gaps

NUMBER = re.compile(r"[+−-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")
WORD = re.compile(r"[A-Za-z]{2,}")
# Terms that stay, rules, layouts, models, files.
TERMS = ["KV", "RSS", "TSS", "CKA", "RoPE", "MLA", "UTF", "softmax", "half", "align"]
TERMS += ["exact", "floor", "ceil", "overlap", "nearest", "linear", "segment", "SHA"]
NAMES = ["demo/teacher-b", "demo/teacher", "demo/student", "demo/narrow", "R-KV"]
OF_A_HEAD = (contribution_sentence, spectrum_sentence, rules_sentence)
BLOCKS = ("h1", "h2", "p", "th", "td")


@pytest.fixture(scope="module")
def sample():
    return results.read(ANALYSIS)


@pytest.fixture(scope="module")
def pages(sample):
    """The same analysis in both languages, with a fusion in it."""
    return {language: Blocks(html(fused(by_class(sample)), language)) for language in ("en", "zh")}


class Blocks(HTMLParser):
    """Text of every heading, paragraph and cell as (tag, text), and the language of the page."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open, self.language = [], None, None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "html":
            self.language = dict(attributes)["lang"]
        self.open = tag if tag in BLOCKS else None
        if self.open:
            self.found.append((tag, ""))

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        if self.open:
            self.found[-1] = (self.open, self.found[-1][1] + data)


def numbers(text):
    return sorted(NUMBER.findall(text))


def english(text):
    """Words that are neither a name nor a term of the field."""
    for name in NAMES:
        text = text.replace(name, "")
    return [word for word in WORD.findall(text) if word not in TERMS]


def test_the_chinese_report_holds_the_numbers_of_the_english_one(pages):
    assert (pages["en"].language, pages["zh"].language) == ("en", "zh-Hans")
    ours, theirs = pages["en"].found, pages["zh"].found
    assert [tag for tag, _ in ours] == [tag for tag, _ in theirs] and len(ours) > 500
    other = [(a, b) for (_, a), (_, b) in zip(ours, theirs) if numbers(a) != numbers(b)]
    assert not other
    assert sum(len(numbers(text)) for _, text in theirs) > 500


def test_no_english_words_are_left_in_the_chinese_report(pages, sample):
    named_by_us = by_class(sample).settings
    settings = {*named_by_us, *sample.versions, *map(str, named_by_us.values())}
    rules = set(sample.timeline["rules"])
    values = {*sample.versions.values(), "True", sample.data["documents_sha256"]}  # of what a setting is
    named = re.compile(r"heldout-\d+-\d+")  # documents, by the names the user gave them
    found = [named.sub("", text) for _, text in pages["zh"].found]
    left = [text for text in found if english(text) and text not in settings | rules | values]
    assert not left
    headings = [text for tag, text in pages["zh"].found if tag == "h2"]
    assert all(re.search("[一-鿿]", text) for text in headings) and len(headings) == 8


def test_every_sentence_has_its_chinese_with_the_same_numbers(sample):
    rkv, gapped, score = of_rkv(sample), with_gaps(sample), sample.score("key", 3, 0)
    nan = float("nan")
    unmeasured = replace(score, r2_random=nan, gain_random=nan, n_control=999, n_special=7, error_special=0.5)
    without = replace(sample, controls=sample.controls | {"random_teacher": Message("not asked for")})
    alike, other = matched(sample, sample), matched(sample, shifted(sample, "value", 2, 1, -0.2))
    alone = [replace(head, se_b=nan) for head in other]
    classes, one_map = by_class(sample), of_one_map(sample)
    own_only = replace(classes, heads=[replace(s, added=nan, r2_with_own=nan) for s in classes.heads])
    shared = replace(classes, heads=[replace(s, n_inside=0) for s in classes.heads])
    said = [
        *(partial(sentence, result) for result in (classes, one_map, own_only, shared)),
        partial(sentence, replace(shared, settings=shared.settings | {"rows": "exact"})),
        partial(sources_of_head, classes, classes.heads[0]),
        partial(layers_sentence, classes),
        partial(layers_sentence, replace(classes, layer_map=classes.layer_map | {"search": "full"})),
        partial(layers_sentence, one_map),
        partial(control_sentence, without, unmeasured),
        partial(control_sentence, sample, replace(score, n_control=999)),
        partial(apart_sentence, sample, unmeasured),
        partial(kept_sentence, rkv, 0, 2, 3),
        partial(layers_sentence, with_rule(sample, "cka", "full")),
        partial(layers_sentence, with_rule(sample, "depth", "banded")),
        partial(capture_sentence, gapped, "teacher"),
        partial(capture_sentence, replace(sample, capture={}), "student"),
        partial(difference_sentence, alike),
        partial(difference_sentence, other),
        partial(difference_sentence, alone),
        partial(difference_sentence, []),
        partial(one_difference_sentence, alike[0]),
        partial(one_difference_sentence, alone[0]),
        partial(one_difference_sentence, replace(alone[0], r2_b=nan)),
        *(partial(said_of, sample, "key", 3, 0) for said_of in OF_A_HEAD),
        partial(signal_sentence, sample, 2, "key", 3, 0),
        partial(groups_sentence, sample, 0),
        partial(shapes_sentence, sample, of_fewer_heads(sample)),
    ]
    for say_it in said:
        with speaking("zh"):
            chinese = say_it()
        assert numbers(chinese) == numbers(say_it()) and not english(chinese), chinese
        assert chinese.endswith("。") and not re.search(r"[一-鿿] ?[,;:.]|。 |[{}]", chinese), chinese


def with_rule(sample, rule, search):
    return replace(sample, layer_map=sample.layer_map | {"rule": rule, "search": search})


def figures(sample):
    """One of every kind."""
    two, rkv, score = fused(sample), of_rkv(sample), sample.score("key", 3, 0)
    differences = matched(sample, shifted(sample, "key", 1, 0, 0.1))
    yield r2_map(sample, "key")
    yield gain_map(sample, "key")
    yield mean_sources(sample, 360)
    yield controls(score)
    classes = by_class(sample)
    yield gain_map(classes, "value")
    yield controls(classes.score("key", 3, 0))
    yield timeline(classes, 0, "floor")
    yield contributions(sample, "value", 1, 0)
    yield spectrum(sample, "key", 3, 0)
    yield time_rules(sample, "value", 3, 0)
    yield signal(sample, 2, "key", 3, 0, (40, 120))
    yield minimap(sample, 0, (0, 96))
    yield token_scores(sample, 0, "key", 2, 1)
    yield from (similarity(sample, "key", name) for name in MATRICES)
    yield graph(sample)
    yield timeline(sample, 0, "ceil")
    yield index_maps(sample, 0)
    yield difference_heatmap(sample, differences, "key")
    yield gain_heatmap(two, "value")
    yield fused_parts(two.fused("key", 1, 0), two.teachers)
    yield fusion_weights(two.fused("key", 1, 0), two.teachers)
    yield kept_steps(rkv, 0, 2, 3)


def test_figures_say_everything_in_chinese_and_show_the_same_numbers(sample):
    with speaking("zh"):
        chinese = list(figures(sample))
    rules = set(sample.timeline["rules"])
    for ours, theirs in zip(figures(sample), chinese, strict=True):
        spoken, written = words_of(ours), words_of(theirs)
        assert len(spoken) == len(written) > 2
        for before, after in zip(spoken, written):
            assert numbers(before) == numbers(after), (before, after)
            assert not [word for word in english(after) if word not in rules], after
        assert [numbers_of(trace) for trace in ours.data] == [numbers_of(trace) for trace in theirs.data]


def words_of(figure):
    """Titles, axes, legends, colour bars, what is written on categories and said under the pointer."""
    layout = figure.to_plotly_json()["layout"]
    axes = [axis for name, axis in layout.items() if name.startswith(("xaxis", "yaxis"))]
    found = [layout.get("title", {}).get("text")]
    found += [axis.get("title", {}).get("text") for axis in axes]
    found += [text for axis in axes for text in axis.get("ticktext") or ()]
    found += [note.get("text") for note in layout.get("annotations", ())]
    for trace in figure.data:
        found += [trace.name, re.sub(r"%\{.*?\}|<.*?>", " ", trace.hovertemplate or "")]
        if trace.type == "heatmap":
            found.append(trace.colorbar.title.text)
        if trace.type == "bar" and trace.orientation == "h":
            found += trace.y
        if trace.hovertemplate == "%{text}<extra></extra>":  # a map's cells
            found += list(trace.text)
    return [re.sub(r"</?\w+>", " ", text) for text in found if text]


def numbers_of(trace):
    known = [part for part in (trace.x, trace.y, trace.z if trace.type == "heatmap" else None) if part is not None]
    return [str(value) for part in known for value in part if not re.search("[A-Za-z一-鿿]", str(value))]


def test_the_zip_says_what_it_holds_in_chinese_and_names_its_columns_in_english(sample):
    ours, theirs = (zipfile.ZipFile(io.BytesIO(archive(sample, language))) for language in ("en", "zh"))
    assert ours.namelist() == theirs.namelist()
    for name in set(ours.namelist()) - {"settings.json"}:
        assert ours.read(name) == theirs.read(name)
    before, after = (json.loads(file.read("settings.json")) for file in (ours, theirs))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"finding", "files"} and list(before["files"]) == list(after["files"])
    assert not english(after["finding"]) and numbers(after["finding"]) == numbers(before["finding"])
