"""Try the tokenizer and the chat template of a model's files in a process with limits, before this one uses them.

Both are programs of strangers: a pattern that backtracks for years, a normaliser that makes gigabytes of a word, a
template of nested loops. The tokenizers library cannot be interrupted, and it ends the process when memory is short.
Loads neither torch nor a model, since the process that tries starts anew each time.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from kvlab.errors import ModelError
from kvlab.host import bundled, limited
from kvlab.language import Message

FILE = "tokenizer.json"
LARGEST = 256 * 2**20  # bytes of tokenizer.json; those of 260,000 tokens have 35 MiB
RUN = 5000  # characters of a text that repeats one
LETTERS = 100  # characters of the patterns that are tried

_GROWTH, _ALLOWED = 64, 1000  # normalised characters or tokens per byte of text, and beyond; NFKC makes 18 of one
_PROSE = "Tom's 12 boats\tcost £3.50;\r\n\r\n  they've left ... 小明有5个苹果。 e\u0301té 😀 한국어 don't_stop\n"
_COMMON = " \n\t.-_aA0é中😀"


def tokenizer_tried(folder: Path, name: str) -> None:
    """Raise ``tokenizer-harmful`` if the tokenizer in ``folder`` does not read short texts within the limits."""
    file = folder / FILE
    if not file.is_file() or folder.resolve().parent == bundled.DEMO.resolve():
        return
    size = file.stat().st_size
    if size > LARGEST:
        sizes = {"size": size / 2**20, "most": LARGEST / 2**20}
        raise _harmful(name, Message("{size:.0f} MiB of {file}; at most {most:g} are read", file=FILE, **sizes))
    with open(file, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    try:
        _tokenizer_tried(digest, file, name)
    except limited.Exceeded as error:
        raise _harmful(
            name, Message("{reason}, reading short texts with {file}", reason=error.reason, file=FILE)
        ) from None


def template_tried(template: str | dict[str, str], name: str) -> None:
    """Raise ``chat-template-broken`` if a chat template does not render two short messages within the limits."""
    for written in template.values() if isinstance(template, dict) else [template]:
        try:
            _template_tried(written)
        except limited.Exceeded as error:
            raise ModelError(
                "chat-template-broken",
                expected=Message("a chat template of {name} that soon renders two short messages", name=name),
                found=error.reason,
                remedy=Message(
                    "align the plain text (leave out --chat), or mend chat_template in the tokenizer's files"
                ),
            ) from None


# Only what passed is remembered: what failed may have met a machine that was short of memory.
@lru_cache(maxsize=64)
def _tokenizer_tried(digest: str, file: Path, name: str) -> None:
    limited.call(try_tokenizer, str(file), name)


@lru_cache(maxsize=64)
def _template_tried(template: str) -> None:
    limited.call(try_template, template)


def try_tokenizer(file: str, name: str) -> None:
    """Tokenize short texts, among them runs of each character that its patterns name. Runs in the other process."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(file)
    except Exception:  # transformers says what is wrong with it
        return
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with open(file, encoding="utf-8") as content:
        texts = list(trial_texts(json.load(content)))
    grown = Message("more than {n} characters or tokens for a byte of text, from {file}", n=_GROWTH, file=FILE)
    for text in texts:
        most = _GROWTH * len(text.encode()) + _ALLOWED
        if tokenizer.normalizer and len(tokenizer.normalizer.normalize_str(text)) > most:
            raise _harmful(name, grown)
        tokens = tokenizer.encode(text).ids
        if len(tokens) > most:
            raise _harmful(name, grown)
        tokenizer.decode(tokens[:RUN])


def trial_texts(fields: dict[str, Any]) -> Iterator[str]:
    """Yield prose, and runs of common characters and of those that the patterns in a tokenizer.json name."""
    patterns = list(_patterns([fields.get("normalizer"), fields.get("pre_tokenizer")]))
    letters = dict.fromkeys(_COMMON + "".join(patterns))
    yield _PROSE
    for letter in list(letters)[:LETTERS]:
        yield letter * RUN + "!"
    for words in dict.fromkeys(re.sub(r"[^\w ]", "", pattern) for pattern in patterns):
        if words:
            yield words[:RUN] * (RUN // len(words)) + "!"


def _patterns(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for name, value in part.items():
            if name in ("Regex", "String") and isinstance(value, str):
                yield value
            else:
                yield from _patterns(value)
    elif isinstance(part, list):
        for value in part:
            yield from _patterns(value)


def try_template(template: str) -> None:
    """Render two short messages. Runs in the other process."""
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "user", "content": "2 + 2 = ?"}, {"role": "assistant", "content": "4"}]
    try:
        rendered = render_jinja_template(conversations=[messages], chat_template=template)
    except MemoryError:
        raise
    except Exception:  # the chat itself says what is wrong with it
        return
    if len(str(rendered)) > _GROWTH * 2**20:
        raise MemoryError


def _harmful(name: str, found: Message) -> ModelError:
    return ModelError(
        "tokenizer-harmful",
        expected=Message("a tokenizer of {name} that reads a short text in a moment", name=name),
        found=found,
        remedy=Message(
            "take the tokenizer files of the model it was trained from, or look at the patterns of its normalizer and "
            "pre_tokenizer"
        ),
    )
