"""The mutation list fits the code, and its runner tells a test that noticed from one that broke."""

from __future__ import annotations

import ast
import functools
from collections import Counter

import pytest

from tests import mutate
from tests.mutate import BROKEN, EQUIVALENT, KILLED, STALE, SURVIVED, Mutation, Outcome

EVERY = mutate.mutations()


@functools.cache
def functions_of(file):
    """The names of the test functions of a file; ``Class::name`` of those in a class."""
    path = mutate.PROJECT / file
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return names | {f"{node.name}::{part.name}" for node in classes for part in node.body if hasattr(part, "name")}


def test_every_mutation_applies_to_one_place_and_leaves_python():
    for mutation in EVERY:
        text = mutate.mutated(mutation, mutate.PROJECT)
        assert text is not None, f"{mutation.id}: not exactly once in {mutation.file}"
        assert mutation.before != mutation.after, mutation.id
        if mutation.file.endswith(".py"):
            ast.parse(text, mutation.id)


def test_ids_are_unique():
    assert [name for name, times in Counter(mutation.id for mutation in EVERY).items() if times > 1] == []


def test_every_named_test_exists():
    for mutation in EVERY:
        assert bool(mutation.tests) != bool(mutation.equivalent), mutation.id
        for test in mutation.tests:
            file, _, name = test.partition("[")[0].partition("::")
            assert name in functions_of(file), f"{mutation.id}: {test}"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "double.py").write_text("def double(x):\n    return 2 * x\n")
    test = "from double import double\n\n\ndef test_double():\n    assert double(0) == 0\n\n\n"
    (tmp_path / "test_double.py").write_text(f"{test}def test_three():\n    assert double(3) == 6\n")
    return tmp_path


def outcome(project, before, after, test="test_three", equivalent=""):
    mutation = Mutation("X", "double.py", "", before, after, "here", (f"test_double.py::{test}",), equivalent)
    text = (project / "double.py").read_text()
    result = mutate.run(mutation, project).result
    assert (project / "double.py").read_text() == text
    return result


def test_only_a_failed_test_kills(project):
    assert outcome(project, "2 * x", "3 * x") == KILLED
    assert outcome(project, "2 * x", "3 * x", "test_double") == SURVIVED
    assert outcome(project, "def double", "def triple") == BROKEN  # at collection
    assert outcome(project, "2 * x", "2 * y") == BROKEN


def test_a_text_that_is_not_there_once_is_stale_and_equivalent_ones_do_not_run(project):
    assert outcome(project, "4 * x", "3 * x") == STALE
    assert outcome(project, "x", "y") == STALE
    assert outcome(project, "4 * x", "3 * x", equivalent="why") == STALE
    assert outcome(project, "2 * x", "x * 2", equivalent="why") == EQUIVALENT


def test_equivalent_mutations_do_not_count():
    def of(result, name):
        return Outcome(Mutation(name, "f", "", "a", "b", "here"), result)

    found = [of(KILLED, "A"), of(SURVIVED, "B"), of(EQUIVALENT, "C"), of(BROKEN, "D"), of(KILLED, "E")]
    assert mutate.rate(found) == 0.5
    assert mutate.summary(found).splitlines() == [
        "here: 2 of 4 killed, 50.0%",
        "all: 2 of 4 killed, 50.0%",
        "equivalent: C",
        "SURVIVED: B",
        "broken: D",
    ]
