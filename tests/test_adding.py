"""docs/adding-a-rule.md is true: a time rule, a projector and a control of one file each are found by everything."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
pytestmark = [pytest.mark.page, pytest.mark.model, pytest.mark.xdist_group("adding")]

RULE = '''
"""Rule ``every-second``: of two teacher tokens in a row the first stands for both."""
import numpy as np
from kvlab.language import phrase
from kvlab.request.time_rules.floor import floor
from kvlab.request.time_rules.rule import TimeRule, time_map


def every_second(teacher, student, segments=()):
    below = floor(teacher, student)
    kept = below.columns % 2 == 0
    return time_map("every-second", teacher, student, below.rows[kept], below.columns[kept], np.ones(kept.sum()))


RULE = TimeRule(
    "every-second", phrase("every-second — only even teacher steps"), every_second, causal=True, reads_bytes=True
)
'''
PROJECTOR = '''
"""Projector ``nothing``: every teacher head becomes zero."""
from kvlab.language import phrase

WORDS = phrase("nothing — the mean of the student")


def solve(train, shapes, heads_s, penalty):
    assert sum(heads * width for heads, width in shapes) == len(train.xx)
    return train.xy.new_zeros(train.xy.shape)
'''
CONTROL = '''
"""Control ``zeros``: nothing at all in every replaced row."""
from kvlab.language import phrase

WORDS = phrase("zeros in its place")


def rows(projected, mean, order):
    return projected.new_zeros(projected.shape)
'''
# Runs in a copy of the project, and prints what each place shows of the three.
SCRIPT = """
import contextlib, io, json, sys
from pathlib import Path
from kvlab.cli.main import main

def printed(*arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        assert main(arguments) == 0, out.getvalue()
    return out.getvalue()

shown = {command: printed(command, "--help") for command in ("align", "inject", "train")}
from streamlit.testing.v1 import AppTest
for language in ("en", "zh"):
    for page, key, toggle in (
        ("alignment", "form", "form-toggle"),
        ("function", "function", "function-form-toggle"),
        ("validation", "train", ""),
    ):
        app = AppTest.from_file("kvlab/web/script.py", default_timeout=60)
        app.query_params["lang"] = language
        app.switch_page(str(Path("pages", f"{page}.py").resolve())).run()
        assert not app.exception, app.exception
        if toggle:
            app.button(key=toggle).click().run()
        assert not app.exception, app.exception
        for name in ("time", "projector"):
            for box in app.selectbox:
                if box.key == f"{key}-{name}":
                    shown[f"{page} {name} {language}"] = box.options
texts = [f"{n} apples and {n + 2} pears are {2 * n + 2} pieces of fruit. " * 3 for n in range(3, 9)]
Path("prompts.jsonl").write_text("\\n".join(json.dumps({"prompt": text}) for text in texts))
shown["run"] = printed(
    *"align --teacher demo/teacher --student demo/student --prompts prompts.jsonl --calibration none".split(),
    *"--time every-second --projector nothing --compare-rules --inspect 1 --layers depth --no-random-teacher".split(),
    *"--folds 2 --sinks 0 --out out".split(),
)
shown["test"] = printed(
    *"inject --teacher demo/teacher --student demo/student --prompts prompts.jsonl --calibration none".split(),
    *"--time every-second --projector nothing --layers depth --no-random-teacher --folds 2 --sinks 0".split(),
    *"--texts 0 --swap-layers 0 --documents 2 --out tested".split(),
)
shown["function"] = Path("tested/function.html").read_text()
shown["injection"] = json.loads(Path("tested/injection.json").read_text())
shown["report"] = Path("out/report.html").read_text()
shown["result"] = json.loads(Path("out/alignment.json").read_text())
Path("shown.json").write_text(json.dumps(shown))
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(PROJECT / "kvlab", copy / "kvlab", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT / "pages", copy / "pages", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "kvlab" / "request" / "time_rules" / "every_second.py").write_text(RULE)
    (copy / "kvlab" / "align" / "projections" / "nothing.py").write_text(PROJECTOR)
    (copy / "kvlab" / "inject" / "controls" / "zeros.py").write_text(CONTROL)
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((copy / "shown.json").read_text())


def test_the_command_lines_know_them(shown):
    for command in ("align", "inject", "train"):
        assert "segment,every-second" in shown[command].replace("rkv,", "").replace("\n", "").replace(" ", "")
    assert "group-mean,nothing" in shown["align"] and "nothing" not in shown["train"]


def test_the_forms_offer_them_in_their_english_words(shown):
    words = "every-second — only even teacher steps"
    for language in ("en", "zh"):
        assert shown[f"alignment time {language}"][-1] == shown[f"validation time {language}"][-1] == words
        assert shown[f"function time {language}"][1:] == [shown[f"alignment time {language}"][1], words]  # as causal
        assert shown[f"alignment projector {language}"][-1] == "nothing — the mean of the student"
    assert shown["alignment time zh"][0] != shown["alignment time en"][0]


def test_they_run_and_the_report_shows_them(shown):
    result = shown["result"]
    assert (result["settings"]["time"], result["settings"]["projector"]) == ("every-second", "nothing")
    rates = result["timeline"]["rules"]
    assert 0 < rates["every-second"]["coverage"] < rates["floor"]["coverage"]
    assert rates["every-second"]["looks_ahead_rate"] == 0 and "every-second" in result["controls"]["rules"]
    assert max(head["r2"] for head in result["heads"]) <= 0  # the mean of the other fold explains nothing
    assert shown["report"].count("every-second") >= 3


def test_the_functional_test_accepts_them_and_compares_with_the_control(shown):
    kl = {row["variant"]: row["kl"] for row in shown["injection"]["injected"] if row["prefix"] == 0.5}
    assert list(kl) == ["own", "projected", "mean", "shuffled", "own-tokens", "identity", "zeros"]
    assert kl["zeros"] > 0 and kl["projected"] == pytest.approx(kl["mean"], rel=1e-3)  # the projector gives the mean
    assert "zeros in its place" in shown["function"]
    assert all("zeros" in head["controls"] for head in shown["injection"]["projection"])
