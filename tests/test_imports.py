"""Imports point one way, Streamlit stays in ui/, and the web side is free of torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [
        *sorted((PROJECT / "kvlab").rglob("*.py")),
        PROJECT / "app.py",
        *sorted((PROJECT / "pages").glob("*.py")),
    ]
}

# Each group may import itself and the groups named behind it.
GROUPS = {
    "base": ({"kvlab", "kvlab.errors", "kvlab.types", "kvlab.language"}, set()),
    "input": (
        {
            "kvlab.documents",
            "kvlab.uploads",
            "kvlab.tables",
            "kvlab.prompts",
            "kvlab.segments",
            "kvlab.request",
            "kvlab.request_flags",
            "kvlab.injection_request",
        },
        {"base"},
    ),
    "results": (
        {
            "kvlab.results",
            "kvlab.once",
            "kvlab.injection",
            "kvlab.difference",
            "kvlab.safe_csv",
            "kvlab.plots",
            "kvlab.report",
        },
        {"base"},
    ),
    "models": (
        {
            "kvlab.cache_names",
            "kvlab.causal",
            "kvlab.names",
            "kvlab.files",
            "kvlab.geometry",
            "kvlab.memory",
            "kvlab.models",
            "kvlab.tokens",
            "kvlab.padding",
            "kvlab.capture",
            "kvlab.reading",
            "kvlab.rotation",
            "kvlab.probe",
            "kvlab.selftest",
            "kvlab.attention",
            "kvlab.chat",
            "kvlab.twice",
        },
        {"base", "demo"},
    ),
    "align": ({"kvlab.align"}, {"base", "input", "results", "models"}),
    "inject": ({"kvlab.inject"}, {"base", "input", "results", "models", "align", "work", "demo"}),
    "runs": ({"kvlab.runs"}, {"base"}),
    "access": ({"kvlab.access"}, {"base"}),
    "run-report": (
        {
            f"kvlab.run_{name}"
            for name in (
                *("report", "series", "controls", "files", "functional", "injected"),
                *("sections", "blocks", "remarks", "words", "chinese", "markdown", "html", "write"),
            )
        },
        {"base", "runs", "models", "results"},
    ),
    "demo-text": ({f"kvlab.demo.{name}" for name in ("corpus", "english", "chinese", "phrases")}, {"base", "demo"}),
    "demo-build": (
        {f"kvlab.demo.{name}" for name in ("build", "card", "evaluate", "learn", "tokens")},
        {"base", "demo", "demo-text", "models"},
    ),
    "demo": ({"kvlab.demo"}, {"base"}),
    "work": (
        {"kvlab.analysis", "kvlab.checks", "kvlab.doctor"},
        {"base", "input", "results", "models", "align", "demo", "access"},
    ),
    # What is known of a training run without torch: the form, the command line and the pages read it.
    "training": (
        {"kvlab.forecast", *(f"kvlab.train.{name}" for name in ("config", "failures", "plan", "verdict"))},
        {"base", "input", "models"},
    ),
    # Imports what trains only once a run has begun, so that a usage error costs no torch.
    "training-run": (
        {"kvlab.train"},
        {
            *("base", "input", "training", "models", "align", "inject", "work", "runs", "run-report"),
            *("demo", "demo-text"),
        },
    ),
    "worker": ({"kvlab.worker"}, {"base", "work", "models", "runs", "inject"}),
    "bench": (
        {"kvlab.bench"},
        {
            *("base", "input", "results", "models", "align", "inject", "work", "runs", "run-report"),
            *("training", "training-run"),
        },
    ),
    "cli": (
        {"kvlab.cli", "kvlab.cli_runs", "kvlab.__main__"},
        {
            *("base", "input", "results", "models", "work", "inject", "runs", "run-report"),
            *("bench", "training", "training-run"),
        },
    ),
    "ui": (
        {"kvlab.ui", "app", "pages"},
        {"base", "input", "results", "runs", "run-report", "models", "training", "access"},
    ),
}
WEB_ONLY = {"kvlab.memory", "kvlab.names"}  # all that the web side takes from the models: sizes in words, local names
WEB = ("ui", "access", "runs", "run-report", "results", "input", "base", "training")  # groups that never import torch


def group_of(module):
    for group, (members, _) in GROUPS.items():
        for member in members:
            if module == member or (member != "kvlab" and module.startswith(member + ".")):
                return group
    raise AssertionError(f"{module} belongs to no group: name it in GROUPS")


def imported(path):
    """Every module of ours that a file names in an import, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in names if name.split(".")[0] in ("kvlab", "pages", "app") and name in MODULES}


def third_party(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [n for node in ast.walk(tree) if isinstance(node, ast.Import) for n in (a.name for a in node.names)]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    group = group_of(module)
    allowed = {group} | GROUPS[group][1]
    wrong = {name for name in imported(MODULES[module]) if group_of(name) not in allowed}
    assert not wrong, f"{module} ({group}) imports {sorted(wrong)}"
    if group in WEB:
        models = {name for name in imported(MODULES[module]) if group_of(name) == "models"}
        assert models <= WEB_ONLY, f"{module} imports {sorted(models - WEB_ONLY)}, which need torch"


@pytest.mark.parametrize("module", MODULES)
def test_streamlit_stays_in_ui_and_torch_out_of_it(module):
    packages = third_party(MODULES[module])
    if group_of(module) != "ui":
        assert "streamlit" not in packages
    if group_of(module) in WEB:
        # types.py names torch only for the type checker
        assert module == "kvlab.types" or not packages & {"torch", "transformers", "accelerate"}


def test_the_web_side_imports_without_torch():
    web = [name for name in MODULES if group_of(name) in WEB and "." in name]
    web = [name for name in web if not name.startswith("pages")]
    code = f"import sys\nfor name in {web!r}: __import__(name)\nassert 'torch' not in sys.modules, 'torch came along'"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pages_are_thin():
    for page in (PROJECT / "pages").glob("*.py"):
        assert len(page.read_text().splitlines()) <= 50
