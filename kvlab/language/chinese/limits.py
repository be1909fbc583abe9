"""What is said where not everything is shown or taken."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "First step shown": "起始步",
    "Drawn: steps {first}–{last} of {all}. The sentence above is of the whole document.": (
        "当前绘制第 {first}–{last} 步，共 {all} 步。上面的一句说的是整篇文档。"
    ),
}
