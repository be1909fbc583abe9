"""One vocabulary of training runs: every state, phase, mark and checkpoint has its word, and foreign ones stay."""

import ast

from kvlab import PACKAGE
from kvlab.language import Message, speaking
from kvlab.results.training.verdict import judge
from kvlab.results.training.words import checkpoint_words, mark_words, remarked, state_words, verdict_words
from kvlab.runs import store
from kvlab.shapes import LOADING, PHASES, phase_words

# Who is told a phase, as a literal or a constant.
TELLERS = {"progress", "_at", "at", "_phase", "write_status"}


def texts(node, constants):
    """The strings that an argument can be: a literal, a constant of its module, the start of an f-string."""
    if isinstance(node, ast.Name):
        return constants.get(node.id, [])
    if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
        return [node.values[0].value]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def constants_of(tree):
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name | ast.Tuple):
            targets = getattr(node.targets[0], "elts", node.targets)
            values = getattr(node.value, "elts", [node.value])
            for target, value in zip(targets, values):
                found[getattr(target, "id", "")] = texts(value, {})
    return found


def told_phases():
    for path in (path for room in ("align", "inject", "train", "runs") for path in (PACKAGE / room).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = constants_of(tree)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if getattr(call.func, "attr", getattr(call.func, "id", "")) in TELLERS:
                given = [*call.args[:1], *(word.value for word in call.keywords if word.arg == "phase")]
                yield from (text for node in given for text in texts(node, constants))


def test_every_phase_that_a_run_tells_has_its_word_and_no_other_has():
    told = set(told_phases()) | {"waiting", "starting"}
    assert {phase for phase in told if phase not in PHASES} == {LOADING}  # the name of a model follows
    assert {phase for phase in PHASES if phase not in told} == {"evaluating before", "evaluating after"}
    with speaking("zh"):
        assert phase_words("fitting the map") == "拟合映射" and phase_words("loading done") == "加载 done"
        assert phase_words("a stage of tomorrow") == "a stage of tomorrow"


def test_states_marks_and_checkpoints_have_one_word_each():
    assert [state_words(state) for state in (*store.ACTIVE, *store.FINAL, "lost")] == [
        *("waiting", "running", "finished", "failed", "stopped", "lost")
    ]
    assert [mark_words(state) for state in ("pass", "fail", "pending", "odd", None, ["pass"])] == [
        *("✓ passed", "✗ failed", "… pending"),
        *(None, None, None),
    ]
    with speaking("zh"):
        assert (state_words("cancelled"), state_words("odd"), mark_words("fail")) == ("已取消", "odd", "✗ 未通过")
        for checkpoint in judge([], 100, peak_share=0.1):
            assert checkpoint_words(checkpoint.name) != checkpoint.name


def test_a_remark_is_spoken_in_the_language_and_one_of_an_old_version_stays():
    row = {"words": Message("waits for step {step}", step=50).to_dict()}
    assert remarked(row) == "waits for step 50" and remarked({}) == ""
    with speaking("zh"):
        assert remarked(row) == "等待第 50 步" and remarked({"words": "still loading"}) == "still loading"


def test_the_verdict_names_the_checkpoints_that_failed():
    rows = [{"name": "loss converging", "state": "fail"}, {"name": "memory", "state": "pass"}]
    assert verdict_words("fail", rows, 100) == "**It runs: failed** in 100 steps, at: loss converging."
    assert "All 2 checkpoints passed in 100 steps" in verdict_words("pass", rows, 100)
    assert verdict_words("pending", rows[1:], 100).startswith("**It runs: not judged.**")
