"""What is said of uploads, pasted text, prompt files and settings."""

from __future__ import annotations

MESSAGES: dict[str, str] = {
    # an error in one line, and places in a file
    "Expected {expected}. Found {found}. What to do: {remedy}": "期望：{expected}。实际：{found}。处理办法：{remedy}",
    "file": "文件",
    "line {n}": "第 {n} 行",
    "row {n}": "第 {n} 行数据",
    "paragraph {n}": "第 {n} 段",
    "none": "无",
    # the file
    "a file ending in {extensions}": "扩展名为 {extensions} 之一的文件",
    "save the prompts in one of these formats and rename the file accordingly": "将提示保存为其中一种格式，并相应地重"
    "命名文件",
    "a file at {path}": "位于 {path} 的文件",
    "a folder or a device": "这是文件夹或设备",
    "no such file": "没有这个文件",
    "check the path and the permissions": "检查路径和权限",
    "at most {n} MiB ({bytes} bytes)": "至多 {n} MiB（{bytes} 字节）",
    "{n} MiB ({bytes} bytes) in {name}": "{name} 有 {n} MiB（{bytes} 字节）",
    "the pasted text": "粘贴的文本",
    "split it, or keep a sample of its documents": "拆分它，或只保留一部分文档",
    "at least one document": "至少一篇文档",
    "0 bytes in {name}": "{name} 为 0 字节",
    "only blank lines": "只有空行",
    "only blank lines or a header": "只有空行或表头",
    "choose a file with text in it": "选择一个有文本的文件",
    "no column for a {suffix} file": "{suffix} 文件无需指定列",
    "the column {column}": "指定了列 {column}",
    "leave the column out, or choose a .csv or .parquet file": "不指定列，或选择 .csv 或 .parquet 文件",
    # its encoding
    "text": "文本",
    "text in UTF-8": "UTF-8 文本",
    "text in {encoding} (its byte order mark at byte 0)": "{encoding} 文本（字节 0 处有其字节序标记）",
    "save the file as UTF-8, or: iconv -f {encoding} -t UTF-8 old.txt > new.txt": "将文件另存为 UTF-8，或运行：iconv "
    "-f {encoding} -t UTF-8 old.txt > new.txt",
    "binary data: {kind}": "二进制数据：{kind}",
    "a zip archive (.zip, .xlsx, .docx)": "zip 压缩包（.zip、.xlsx、.docx）",
    "a PNG image": "PNG 图像",
    "a JPEG image": "JPEG 图像",
    "gzip-compressed data": "gzip 压缩数据",
    "zstd-compressed data": "zstd 压缩数据",
    "xz-compressed data": "xz 压缩数据",
    "a PDF": "PDF 文件",
    "a program": "可执行程序",
    "an SQLite database": "SQLite 数据库",
    "a Parquet table": "Parquet 表",
    "a NUL byte at byte offset {n}, and most lines are not UTF-8 text": "字节偏移 {n} 处有 NUL 字节，且多数行不是 "
    "UTF-8 文本",
    "unpack or export it to one of {extensions}; if it is text in UTF-16: "
    "iconv -f UTF-16LE -t UTF-8 old.txt > new.txt": "解压或导出为 {extensions} 之一；若是 UTF-16 文本：iconv -f "
    "UTF-16LE -t UTF-8 old.txt > new.txt",
    "a NUL byte at byte offset {n} (line {line})": "字节偏移 {n} 处有 NUL 字节（第 {line} 行）",
    "remove it and load the file again; this line is left out, the others are kept": "删除它后重新加载文件；这一行已略"
    "去，其余各行保留",
    "byte 0x{byte} at byte offset {n} (line {line}), which is not UTF-8": "字节偏移 {n} 处（第 {line} 行）的字节 "
    "0x{byte} 不是 UTF-8",
    "byte 0x{byte} at byte {n} of the cell, which is not UTF-8": "单元格第 {n} 字节 0x{byte} 不是 UTF-8",
    "save the file as UTF-8; Chinese text from Windows: iconv -f "
    "GBK -t UTF-8 old.txt > new.txt": "将文件另存为 UTF-8；来自 Windows 的中文文本：iconv -f GBK -t UTF-8 old.txt > "
    "new.txt",
    # JSON lines
    "one JSON object per line": "每行一个 JSON 对象",
    "{line} (brackets nested too deep)": "{line}（括号嵌套过深）",
    "{line} ({reason} at character {n})": "{line}（{reason}，第 {n} 个字符处）",
    "turn the JSON array into one object per line: jq -c '.[]' old.json > new.jsonl": "将 JSON 数组转换为每行一个对象"
    "：jq -c '.[]' old.json > new.jsonl",
    "write each document on its own line, for example: {example}": "每篇文档单独写一行，例如：{example}",
    # values
    "a number": "数字",
    "a string": "字符串",
    "true or false": "真或假",
    "a list": "列表",
    "an object": "对象",
    "null": "空值 null",
    # documents
    'a field "prompt" or "text"': "字段 prompt 或 text",
    "the fields {names}": "字段 {names}",
    "no field": "没有字段",
    'rename the field with the document to "prompt"': "将存放文档的字段改名为 prompt",
    'text in "{name}"': "{name} 中为文本",
    'text in "{name}" (or a number)': "{name} 中为文本（或数字）",
    "put it in quotes": "加上引号",
    "turn it into one string": "改成一个字符串",
    "a NUL character at character {n}": "第 {n} 个字符是 NUL",
    "remove it and load the file again": "删除它后重新加载文件",
    'whole characters in "{name}"': "{name} 中为完整的字符",
    "half of one ({code}) at character {n}": "第 {n} 个字符只有一半（{code}）",
    "write the text again from its source: an emoji was cut in two when it was saved": "从来源重新写出文本：保存时有表"
    "情符号被截成两半",
    'a document with text in "{name}"': "{name} 中有文本的文档",
    "nothing but blanks": "只有空白",
    "fill it in or remove it": "填写内容或删除它",
    # tables
    "a first row with the names of the columns": "首行为列名",
    "what looks like data: {cells}": "看似数据：{cells}",
    "put a row such as prompt,reasoning,answer on top, or choose "
    "the column by its name": "在顶部加一行表头，如 prompt,reasoning,answer，或按列名选择列",
    "a column named 'prompt' or 'text', or exactly one column of text": "名为 prompt 或 text 的列，或恰好一列文本",
    "one column named {column}": "恰好一列名为 {column}",
    "the columns {names}": "各列为 {names}",
    "no named column": "没有命名的列",
    "choose the column to read, or rename it to prompt": "选择要读取的列，或将其改名为 prompt",
    'a cell in quotes to end with one, and quotes inside it doubled ("")': "带引号的单元格以引号结束，其中的引号写两次"
    '（""）',
    "{error} (from line {first} to line {last})": "{error}（第 {first} 行至第 {last} 行）",
    "close or double the quote; the lines it has swallowed are left out": "补上引号或将引号写两次；被它吞掉的行已略去",
    "{n} cells, as in the header": "{n} 个单元格，与表头一致",
    "{n} cells in row {row} (line {line})": "第 {row} 行数据（文件第 {line} 行）有 {n} 个单元格",
    "put cells that hold a comma in double quotes, and give each row all its cells": "含逗号的单元格加双引号，并补全每"
    "行的单元格",
    "a Parquet file": "Parquet 文件",
    "data that cannot be read as one ({error})": "无法按此格式读取的数据（{error}）",
    "write it again, for example with pandas: frame.to_parquet('prompts.parquet')": "重新写出，例如用 pandas："
    "frame.to_parquet('prompts.parquet')",
    # an upload as a whole
    "at most {n} documents": "至多 {n} 篇文档",
    "more: the first {n} are kept, nothing from {where} on was read": "更多：保留前 {n} 篇，从{where}起未读取",
    "load the rest as another file if it is needed": "如有需要，将其余部分作为另一个文件加载",
    "mostly good documents": "大部分文档可用",
    "{n} that cannot be read; nothing after {where} was read": "{n} 篇无法读取；{where}之后未读取",
    "mend the file and load it again": "修复文件后重新加载",
    "few problems": "问题较少",
    "{n} more than are listed": "比列出的还多 {n} 个",
    "mend the listed ones and load the file again": "修复列出的问题后重新加载文件",
    "no good document ({n} refused). {reasons}": "没有可用的文档（拒绝了 {n} 篇）。{reasons}",
    "no good document ({n} refused). {reasons}; and more": "没有可用的文档（拒绝了 {n} 篇）。{reasons}；以及更多",
    "the column that holds the prompts": "存放提示的列",
    "{n} columns, none of them named prompt or text": "共 {n} 列，没有名为 prompt 或 text 的列",
    "choose one above": "在上方选择一列",
    # the prompts of a run
    "the prompts of a run at {path}": "位于 {path} 的运行提示",
    "choose another run, or start it again": "选择另一次运行，或重新启动",
    "one document per line in {path}": "{path} 中每行一篇文档",
    "line {n}, which is none ({error})": "第 {n} 行不是文档（{error}）",
    "the file was changed or only half written: start the run again": "文件被改动或只写了一半：重新启动运行",
    # settings
    "a table of settings": "设置表",
    "start from a saved config.yaml": "从已保存的 config.yaml 开始",
    "the request": "请求",
    "the settings": "设置",
    "correct this setting; `python -m kvlab align --help` lists them": "改正这一项设置；全部设置见 `python -m kvlab "
    "align --help`",
}
