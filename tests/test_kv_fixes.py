"""The founding checklist's seven checks: `python tests/test_kv_fixes.py` prints its block, pytest collects seven."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from kvlab.align import checks  # noqa: E402  (the script is also run by its path)
from kvlab.language import speaking  # noqa: E402

BLOCK = """\
================================================================================
 KV 对齐修复验证测试
================================================================================

测试 1: 头数投影 (GQA: Ht=12 -> Hs=2)
✓ 头数投影测试通过!

测试 2: 头数 + head_dim 不匹配 (Ht=28 -> Hs=2, Dt=128 -> Ds=64)
✓ 测试通过!

测试 3: 安全时间重采样 (T_in=80 -> T_out=50)
✓ 测试通过!

测试 4: 边界情况 (T_in=1, T_out=1)
✓ 测试通过!

测试 5: 边界情况 (T_in=0, 空序列)
✓ 测试通过!

测试 6: 集成测试 - resample_kv_with_interpolation
✓ 测试通过!

测试 7: 综合测试 - 头数投影 + 时间重采样
✓ 测试通过!

================================================================================
🎉 所有测试通过!
================================================================================
"""


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.run.__name__)
def test_check(check):
    check.run()


def test_script_prints_exactly_the_block():
    done = subprocess.run(
        [sys.executable, "tests/test_kv_fixes.py"], cwd=PROJECT, capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stdout) == (0, BLOCK)


def test_a_broken_projector_fails_by_number_with_the_reason(monkeypatch, capsys):
    monkeypatch.setattr(checks.KVProjector, "forward", lambda self, keys, values: (keys, values))
    with speaking("zh"):
        assert checks.print_checks() is False
    printed = capsys.readouterr().out
    assert "✗ 测试失败: AssertionError: shape (2, 12, 9, 16) instead of (2, 2, 9, 16)" in printed
    assert "❌ 测试失败: 1, 2, 7" in printed
    assert "tee" in printed and "PyTorch" in printed


if __name__ == "__main__":
    with speaking("zh"):
        sys.exit(0 if checks.print_checks() else 1)
