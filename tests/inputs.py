"""Files as people have them, of four documents each: their bytes, and how they are read or which question is asked."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ASKED = [f"What is {n} plus {n + 1}? Think about it." for n in range(1, 5)]
SAID = [f"Adding {n} and {n + 1}." for n in range(1, 5)]
SUMS = [str(2 * n + 1) for n in range(1, 5)]


def lines(*columns: dict[str, Any]) -> bytes:
    return "\n".join(map(json.dumps, columns)).encode()


def table(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _turns(role: str, text: str, system: str, user: str, assistant: str, answer: str, asked: str) -> list[dict]:
    said = ((system, "You are helpful."), (user, asked), (assistant, answer))
    return [{role: name, text: words} for name, words in said]


ALPACA = [
    {"instruction": asked, "input": "Use words." * (n % 2), "output": f"{said} {total}", "system": "", "history": []}
    for n, (asked, said, total) in enumerate(zip(ASKED, SAID, SUMS))
]
SHAREGPT = [
    {"conversations": _turns("from", "value", "system", "human", "gpt", f"{said} {total}", asked)}
    for asked, said, total in zip(ASKED, SAID, SUMS)
]
CALL = {"name": "add", "arguments": {"a": 1}}
TOOLS = [
    {
        "conversations": [
            {"from": "human", "value": asked},
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": total},
            {"from": "gpt", "value": total},
        ],
        "tools": "[]",
    }
    for asked, total in zip(ASKED, SUMS)
]
OPENAI = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
MESSAGES = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": asked},
            {"role": "assistant", "content": None, "tool_calls": [OPENAI]},
            {"role": "tool", "tool_call_id": "c1", "content": total},
            {"role": "assistant", "content": total},
        ]
    }
    for asked, total in zip(ASKED, SUMS)
]
CHATS = [[{"role": "user", "content": asked}] for asked in ASKED]
EXCEL = "\r\n".join(f'"{asked}";"{total}"' for asked, total in zip(ASKED, SUMS))
SEP = "\r\n".join(f"{asked};{said};{total}" for asked, said, total in zip(ASKED, SAID, SUMS))
ANSWERED = [{"prompt": asked, "answer": total} for asked, total in zip(ASKED, SUMS)]

_ADDED = [f"{asked}\n{said} {total}" for asked, said, total in zip(ASKED, SAID, SUMS)]
_PLAIN = [f"{asked}\n{total}" for asked, total in zip(ASKED, SUMS)]
_JOINED = [f"{asked} {total}" for asked, total in zip(ASKED, SUMS)]
_WITH_INPUT = [text.replace("\n", "\nUse words.\n") if n % 2 else text for n, text in enumerate(_ADDED)]
_CALLED = [f"{asked}\n{json.dumps(CALL)}\n{total}\n{total}" for asked, total in zip(ASKED, SUMS)]
_PROMPTS = "prompts with reasoning and answer, 4 documents, 2 parts: prompt, answer"

# name -> its bytes, the texts of its documents, and what is said about it
FILES: dict[str, tuple[bytes, list[str], str]] = {
    "alpaca.json": (
        json.dumps(ALPACA, indent=1).encode(),
        _WITH_INPUT,
        "Alpaca instructions, 4 documents, 2 parts: prompt, answer",
    ),
    "sharegpt.json": (
        json.dumps(SHAREGPT).encode(),
        [f"You are helpful.\n{text}" for text in _ADDED],
        "ShareGPT conversations, 4 documents, 3 roles: system, user, assistant",
    ),
    "sharegpt_tools.json": (
        json.dumps(TOOLS).encode(),
        _CALLED,
        "ShareGPT conversations, 4 documents, 3 roles: user, assistant, tool",
    ),
    "messages.jsonl": (
        lines(*MESSAGES),
        [f"Be brief.\n{text}" for text in _CALLED],
        "messages, 4 documents, 4 roles: system, user, assistant, tool",
    ),
    "prompt_completion.jsonl": (
        lines(*({"prompt": asked, "completion": f" {total}"} for asked, total in zip(ASKED, SUMS))),
        _JOINED,
        _PROMPTS,
    ),
    "prompt_response.jsonl": (
        lines(*({"prompt": asked, "response": f" {total}"} for asked, total in zip(ASKED, SUMS))),
        _JOINED,
        _PROMPTS,
    ),
    "trl_prompt_completion_chat.jsonl": (
        lines(
            *(
                {"prompt": chat, "completion": [{"role": "assistant", "content": total}]}
                for chat, total in zip(CHATS, SUMS)
            )
        ),
        _PLAIN,
        "messages, 4 documents, 2 roles: user, assistant",
    ),
    "chat_prompt.parquet": (
        table(prompt=CHATS, answer=SUMS),
        _PLAIN,
        "messages, 4 documents, 2 roles: user, assistant",
    ),
    "trl_preference.jsonl": (
        lines(
            *({"prompt": asked, "chosen": f" {total}", "rejected": " 0"} for asked, total in zip(ASKED, SUMS)),
        ),
        _JOINED,
        "preference: prompt and chosen; rejected not read, 4 documents, 2 parts: prompt, answer",
    ),
    "trl_preference_chat.jsonl": (
        lines(
            *(
                {"prompt": chat, **{name: [{"role": "assistant", "content": text}] for name, text in pair.items()}}
                for chat, pair in zip(CHATS, ({"chosen": total, "rejected": "0"} for total in SUMS))
            )
        ),
        _PLAIN,
        "preference: prompt and chosen; rejected not read, 4 documents, 2 roles: user, assistant",
    ),
    "gsm8k.jsonl": (
        lines(
            *({"question": asked, "answer": f"{said}\n#### {total}"} for asked, said, total in zip(ASKED, SAID, SUMS))
        ),
        [f"{asked}\n{said}\n#### {total}" for asked, said, total in zip(ASKED, SAID, SUMS)],
        "questions and answers, 4 documents, 3 parts: prompt, reasoning, answer",
    ),
    "excel_semicolon_comma_in_header.csv": (
        f'\ufeff"prompt, the question";"answer"\r\n{EXCEL}\r\n'.encode(),
        _PLAIN,
        _PROMPTS,
    ),
    "excel_sep_line.csv": (
        f"sep=;\r\nprompt;reasoning;answer\r\n{SEP}\r\n".encode(),
        [f"{asked}\n{said}\n{total}" for asked, said, total in zip(ASKED, SAID, SUMS)],
        "prompts with reasoning and answer, 4 documents, 3 parts: prompt, reasoning, answer",
    ),
    "lines.jsonl.gz": (gzip.compress(lines(*ANSWERED)), _PLAIN, _PROMPTS),
    "one_array.json": (json.dumps(ANSWERED).encode(), _PLAIN, _PROMPTS),
    "notes.md": (
        "\n\n".join(["# Title", *(f"- {asked}" for asked in ASKED)]).encode(),
        ["# Title", *(f"- {asked}" for asked in ASKED)],
        "plain text, 5 documents",
    ),
    "cp1252_smart.txt": (
        "\n\n".join(f"It’s the “smart” quote {n}" for n in range(4)).encode("cp1252"),
        [],
        "the text looks like Windows-1252",
    ),
    "big5.txt": ("\n\n".join(["小明有蘋果，一共有幾個？"] * 4).encode("big5"), [], "the text looks like Big5"),
}


def write(folder: Path) -> Path:
    """Write all files, a LLaMA-Factory folder ``lf`` and a Hugging Face folder ``hfpq`` to ``folder``."""
    for name, (data, _, _) in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "lf").mkdir()
    (folder / "lf" / "alpaca.json").write_bytes(json.dumps(ALPACA).encode())
    (folder / "lf" / "dataset_info.json").write_text('{"mine": {"file_name": "alpaca.json"}}')
    (folder / "hfpq" / "data").mkdir(parents=True)
    (folder / "hfpq" / "README.md").write_text("---\n---\n")
    for split, rows in (("train", 4), ("test", 1)):
        data = table(prompt=ASKED[:rows], answer=SUMS[:rows])
        (folder / "hfpq" / "data" / f"{split}-00000-of-00001.parquet").write_bytes(data)
    return folder


FOLDERS = {"lf": _WITH_INPUT, "lf/mine": _WITH_INPUT, "hfpq": _PLAIN, "hfpq/../lf": _WITH_INPUT}
