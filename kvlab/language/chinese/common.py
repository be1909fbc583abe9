"""Words that every page has."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "Language": "语言",
    "Overview": "概览",
    "Alignment": "对齐",
    "Validation": "验证训练",
    "Runs": "运行记录",
    "Checks": "检查",
}
