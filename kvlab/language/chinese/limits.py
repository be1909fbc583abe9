"""What is said where not everything is shown or taken."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "Reading {name}…": "正在读取 {name}……",
    "At most {files} files of {most} MiB together are read: of these {n} ({size:.1f} MiB), the first {taken} are used. "
    "Remove some, or join and thin them out.": (
        "合计最多读取 {files} 个文件、{most} MiB：此处共 {n} 个（{size:.1f} MiB），只用前 {taken} 个。"
        "请移除一些，或合并、精简后再上传。"
    ),
    "{n:,} older analyses are not listed here: open them from Runs.": (
        "另有 {n:,} 个较早的分析未列出：请从“运行记录”页打开。"
    ),
    "First step shown": "起始步",
    "Drawn: steps {first}–{last} of {all}. The sentence above is of the whole document.": (
        "当前绘制第 {first}–{last} 步，共 {all} 步。上面的一句说的是整篇文档。"
    ),
}
