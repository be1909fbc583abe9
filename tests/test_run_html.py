"""The report in its three forms and two languages: complete, and nothing of a user's or a machine's is markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from kvlab.language import LANGUAGES, phrase, say, speaking
from kvlab.request.train import Thresholds
from kvlab.results.training import figures
from kvlab.results.training.facts import gather
from kvlab.results.training.report import html, markdown
from kvlab.results.training.verdict import judge
from kvlab.results.training.words import CHECKPOINTS, PARTS
from kvlab.runs import store
from tests.test_run_report import CHECKED, checks, write

EVIL = "<script>document.title='owned'</script> [x](http://evil.test) **b** ![i](//e/x.png) | ~~s~~ `c` www.evil.test"
IDENTIFIERS = re.compile(r"[A-Za-z]+")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.+]+")
# What is the same in Chinese: identifiers and the field's own names.
PLAIN = {"h1", "h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "ol", "li", "code", "pre"}
KNOWN = {"RuntimeError", "NaN", "Inf", "GB", "KiB", "MiB", "GiB", "B", "GPU", "CPU", "KV", "K", "V", "T", "CE"}
KNOWN |= {"AdamW", "LoRA", "NVML", "CUDA", "nat", "logits", "SVG", "PNG", "dpi"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two teachers that has everything a report can tell, and texts that would like to be markup."""
    config = {"max_steps": 20, "seed": 7, "teachers": [f"a/{EVIL}", "demo/b"], "student": EVIL, "precision": "fp32"}
    folder = store.create(tmp_path / "runs", "training", EVIL, config)
    lines = []
    for step in range(1, 21):
        line = {"step": step, "loss": 5 - step / 5, "ce": 2.0, "kv_key": 1.5, "kv_value": 1.4, "seconds": 0.5}
        lines.append({**line, "router": [0.4, 0.6], "tokens_per_s": 80.0})
        store.append_metrics(folder, lines[-1])
    for t, phase, gb in [(0, "loading", 2), (10, "training", 5), (15, "training", 6), (60, "evaluating after", 4)]:
        row = {"t": t, "phase": phase, "process_rss": 10**9, "device_used": gb * 10**9, "device_total": 10 * 10**9}
        source = "NVML: the whole device, other processes included"
        store.append(folder / "memory.jsonl", json.dumps({**row, "source": source}).encode() + b"\n")
    table = [c.to_dict() for c in judge(lines, 20, Thresholds(), peak_share=0.6, ended=True)]
    write(folder, "verdict.json", {"state": "pass", "checkpoints": table})
    made = {
        "config": config,
        "versions": {"torch": "2.13", EVIL: EVIL},
        "before": {"ce": 3.5, "kv_key": 1.2, "kv_value": 1.1, "documents": 3, "tokens": 300, "rows": 280},
        "after": {"ce": 3.25, "kv_key": 0.9, "kv_value": 0.8},
        "device": {"device": "cuda:0", "words": "runs on cuda:0 in full precision", "processes": 1},
        "data": {"train": 17, "heldout": 3},
        "notes": [f"document cut: {EVIL}"],
        "trained_parameters": 1234,
        "checks": {"time": CHECKED, "outcomes": [{**c, "seconds": 0.1} for c in checks(failing=2)]},
    }
    write(folder, "report.json", made)
    parts = [{"name": "student weights", "bytes": 10**9}, {"name": "teacher weights", "model": EVIL, "bytes": 10**9}]
    sizes = {"total": 2 * 10**9, "lower": 10**9, "upper": 3 * 10**9, "baseline": 10**9, "tokens": 128}
    write(folder, "forecast.json", {"parts": parts, **sizes})
    (folder / "notes.md").write_text(f"# mine\n\n{EVIL}\n```\n<img src=x onerror=alert(1)>\n````\n# out")
    killed = {"kind": "run-killed", "expected": "e", "found": EVIL, "remedy": f"resume {EVIL}"}
    history = [{"state": "lost", "started": CHECKED, "error": killed, "resumed": CHECKED}]
    odd = {"kind": EVIL, "expected": EVIL, "found": f"1. {EVIL}", "remedy": f"# {EVIL}"}
    store.write_status(folder, state="failed", started=CHECKED, phase="reporting", history=history, error=odd)
    return folder


class Visible(HTMLParser):
    """Tags, and the text outside code, styles and scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.words, self.inside = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("code", "pre", "style", "script"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.words.append(data)


def test_nothing_in_a_run_becomes_markup_in_html(folder):
    for language in LANGUAGES:
        page = Visible(html(gather(folder), language))
        assert not {"a", "img", "iframe", "link", "b", "strong", "del"} & {tag for tag, _ in page.tags}
        assert all("src" not in attributes and "href" not in attributes for _, attributes in page.tags)
        assert "<script>document" not in html(gather(folder), language)


def test_nothing_in_a_run_becomes_markup_in_markdown(folder):
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for language in LANGUAGES:
        page = Visible(reader.render(markdown(gather(folder), language)))
        assert {tag for tag, _ in page.tags} <= PLAIN
        assert sum(tag == "h1" for tag, _ in page.tags) == 1
        rows = [
            len(re.findall("<t[dh]>", row)) for row in reader.render(markdown(gather(folder), language)).split("<tr>")
        ]
        assert set(rows[1:]) == {2, 3, 4, 6}


@pytest.mark.parametrize("write_report", [html, markdown])
def test_a_chinese_report_has_no_english_in_it(folder, write_report):
    written = write_report(gather(folder), "zh")
    if write_report is markdown:
        written = MarkdownIt("commonmark", {"html": True}).enable("table").render(written)
    words = " ".join(Visible(written).words).replace(folder.name, "")
    assert "损失收敛" in words and "教师" in words
    left = set(IDENTIFIERS.findall(MOMENT.sub("", words)))
    assert left <= KNOWN, left - KNOWN


def test_figures_are_in_the_language_of_the_report(folder):
    drawn = {language: html(gather(folder), language).rsplit("plotly.js v", 1)[-1] for language in LANGUAGES}
    calls = {
        language: "".join(re.findall(r"Plotly\.newPlot\(.*?\)\s*\}", text, re.S)) for language, text in drawn.items()
    }
    for english in (
        *(phrase("loss term"), phrase("optimizer step"), phrase("memory in use (GiB)")),
        *(figures.TITLES["router"], figures.TITLES["held out"], figures.TERMS["ce"]),
    ):
        with speaking("zh"):
            chinese = say(english)
        escaped = chinese.encode("ascii", "backslashreplace").decode()
        assert english in calls["en"], english
        assert chinese in calls["zh"] or escaped in calls["zh"], english
        assert english not in calls["zh"], english


def test_every_checkpoint_and_every_part_of_a_forecast_has_its_word():
    assert {checkpoint.name for checkpoint in judge([], 100, peak_share=0.1)} == set(CHECKPOINTS)
    with speaking("zh"):
        assert all(say(words) != words for words in (*CHECKPOINTS.values(), *PARTS.values()))


@pytest.mark.parametrize("state", ["queued", "lost", "failed", "half-made"])
@pytest.mark.parametrize("language", list(LANGUAGES))
def test_a_run_that_never_worked_says_what_is_missing(tmp_path, state, language):
    folder = store.create(tmp_path, "training", "x", {"max_steps": 20})
    if state == "half-made":
        (folder / "status.json").unlink()
        (folder / "config.yaml").write_text("")
    elif state != "queued":
        store.write_status(folder, state={"lost": "running"}.get(state, state), host=None, pid=1, process_started=0.0)
    report = gather(folder)
    with speaking(language):
        not_measured = say("not measured: the run did not come to its evaluation")
        no_forecast = say("no forecast was recorded")
        no_figure = say("{figure}: nothing was logged that could be drawn.", figure=say(figures.TITLES["loss"]))
    for written in (html(report, language), markdown(report, language)):
        assert not_measured in written and no_forecast in written
    page = html(report, language)
    assert no_figure in page and "newPlot" not in page.rsplit("</style>", 1)[1]
    assert not re.search(r"\d\.\d{4}", "".join(Visible(page).words)), "a loss that nobody measured"


def test_a_control_beside_the_run_is_shown_and_others_are_not(folder, tmp_path):
    made = json.loads((folder / "report.json").read_text())
    for control, seed, ce in (("ce-only", 7, 3.11), ("shuffled-teacher", 8, 3.22), ("none", 7, 3.33)):
        other = store.create(folder.parent, "training", control, {})
        write(
            other,
            "report.json",
            {**made, "config": {**made["config"], "control": control, "seed": seed}, "after": {"ce": ce}},
        )
        ours = other.name if control == "ce-only" else None
        found = [run["id"] for run in gather(folder)["controls"]]
        assert (ours in found) if ours else other.name not in found
    assert "3.5000 → 3.1100" in markdown(gather(folder))


def test_long_curves_are_thinned_and_keep_their_peak_and_end(folder):
    with open(folder / "metrics.jsonl", "a") as file:
        file.writelines(f'{{"step": {step}, "loss": 1.5}}\n' for step in range(21, 5001))
    with open(folder / "memory.jsonl", "a") as file:
        row = {"phase": "training", "process_rss": 1, "device_total": 10**10}
        file.writelines(
            json.dumps({**row, "t": 100 + n, "device_used": 9e9 if n == 3333 else 1e9}) + "\n" for n in range(5000)
        )
    series = gather(folder)["series"]
    assert series["every"] == 3 and len(series["step"]) <= 1700 and series["step"][-1] == 5000
    assert max(series["memory"]["bytes"]) == 9e9 and len(series["memory"]["bytes"]) <= 2000
    assert "One of 3 points is drawn." in html(gather(folder))
