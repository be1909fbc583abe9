"""Imports run one way through the rooms, a folder of kvlab is a room, and the web side never loads torch."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

PROJECT = Path(__file__).parents[1]
# A room imports from itself and from the rooms before it; those before "models" are free of torch.
ROOMS = (
    *("kvlab", "language", "errors", "shapes"),
    *("host", "request", "runs", "results", "web", "app", "pages", "doctor"),
    *("models", "demo", "align", "inject", "train", "bench"),
    *("api", "cli", "worker", "__main__"),
)
TORCH = ROOMS[ROOMS.index("models") :]
HEAVY = {"torch", "transformers", "accelerate", "peft"}
FILES = [*sorted((PROJECT / "kvlab").rglob("*.py")), PROJECT / "app.py", *sorted((PROJECT / "pages").glob("*.py"))]


def name_of(path):
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def room_of(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "kvlab" and len(parts) > 1 else parts[0]


def imported(tree):
    """Names in the imports of a file, in functions too: `from a import b` gives a and a.b. Types alone do not count."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "an import names the whole path"
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def test_imports_run_one_way_through_the_rooms():
    wrong = []
    for module, tree in MODULES.items():
        room = room_of(module)
        for name in {name for name in imported(tree) if name in MODULES and "." in name}:
            backwards = ROOMS.index(room_of(name)) > ROOMS.index(room)
            if backwards or (room in TORCH and room_of(name) == "web"):
                wrong.append(f"{module} imports {name}")
    assert not wrong


def test_streamlit_stays_in_web_and_torch_behind_the_models():
    for module, tree in MODULES.items():
        packages = {name.split(".")[0] for name in imported(tree)}
        assert room_of(module) in ("web", "app", "pages") or "streamlit" not in packages, module
        assert room_of(module) in TORCH or not packages & HEAVY, module
    free = [module for module in MODULES if room_of(module) not in (*TORCH, "app", "pages")]
    code = f"import sys\nfor name in {free!r}: __import__(name)\nassert 'torch' not in sys.modules, 'torch came along'"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_shadows_the_standard_library_and_pages_are_thin():
    names = {module.rsplit(".", 1)[-1] for module in MODULES} - {"__main__"}
    assert not names & set(sys.stdlib_module_names)
    for page in (PROJECT / "pages").glob("*.py"):
        assert len(page.read_text().splitlines()) <= 50


def test_every_package_that_is_imported_is_required():
    lines = [
        line
        for name in ("", "-extra", "-slurm")
        for line in (PROJECT / f"requirements{name}.txt").read_text().splitlines()
    ]
    required = {canonical(re.match(r"[\w-]+", line)[0]) for line in lines if line[:1].isalpha()}
    packages = {name.split(".")[0] for tree in MODULES.values() for name in imported(tree)}
    foreign = packages - set(sys.stdlib_module_names) - {"kvlab", "tests", "__future__"}
    of_package = packages_distributions()
    missing = {name for name in foreign if not {canonical(d) for d in of_package.get(name, [name])} & required}
    assert missing == {"markupsafe", "pydantic_core", "sklearn"}  # parts of jinja2 and pydantic; one ratio of bench


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()
