"""Tokenize a document as a chat in each model's own template; align only the bytes of the message contents.

The turns of a chat keep their roles; of other documents the prompt is the user's message, the rest the assistant's. A
tool call is the assistant's text, the tool's answer a message of the role "tool". The places of the contents in the
rendered chat are known by construction: rendering placeholders shows the template's own pieces, and the chat must then
consist of these pieces with the contents between them. Templates are programs from a model's files; transformers runs
them in Jinja's immutable sandbox.
"""

from dataclasses import dataclass, replace

import numpy as np

from kvlab.errors import ModelError
from kvlab.host.models import first_line
from kvlab.language import Message
from kvlab.models.tokens import spans_by_section, tokenize
from kvlab.models.trial import template_tried
from kvlab.shapes import Document, Segment, Tokens


def read(tokenizer, document: Document, chat: bool = False, answering: bool = False) -> Tokens:
    """Tokenize the document for one model, as plain text or as a chat. Raises as ``tokenize_chat``."""
    return tokenize_chat(tokenizer, document, answering) if chat else tokenize(tokenizer, document.text)


@dataclass(frozen=True)
class Content:
    """The text of one message, and where it begins in the document and in the rendered chat (bytes)."""

    role: str
    text: str
    start: int
    rendered: int = 0


def tokenize_chat(tokenizer, document: Document, answering: bool = False) -> Tokens:
    """Tokenize a document as a chat; its spans are of ``document.text``, and tokens of the template alone are special.

    A token across a border of a content has the bytes that lie inside. Contents are rendered without surrounding
    whitespace, which some templates strip and others keep, so that both models read the same. This whitespace belongs
    to the next token, and at the end of the text to the last token of the content. Without segments all is the user's
    message. ``answering``: the chat ends with the beginning of an answer.
    Raises ModelError ``chat-template-missing``, ``chat-template-broken`` and ``chat-template-rewrites``.
    """
    chat, contents = render(tokenizer, contents_of(document), answering)
    encoded = tokenizer(
        chat, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    spans, lossless = spans_by_section(chat, tokenizer, ids, encoded["offset_mapping"])
    ends, special = np.zeros(len(ids), dtype=np.int64), np.ones(len(ids), dtype=bool)
    for content in contents:
        first, last = content.rendered, content.rendered + len(content.text.encode())
        inside = np.maximum(spans[:, 0], first) < np.minimum(spans[:, 1], last)
        special &= ~inside
        ends[inside] = content.start + np.minimum(spans[inside, 1], last) - first
    ends[np.flatnonzero(~special)[-1:]] = len(document.text.encode())
    ends = np.maximum.accumulate(ends)
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    return Tokens(ids=ids, spans=np.stack([starts, ends], axis=1), special=special, lossless=lossless)


def contents_of(document: Document) -> list[Content]:
    """Return the messages of a document, stripped, without empty ones; a document without segments is the user's.

    Reasoning opens the message of the assistant that what follows belongs to.
    """
    written = document.text.encode()
    parts = document.segments or (Segment("prompt", 0, len(written)),)
    spans: list[tuple[str, int, int]] = []
    before = ""
    for part in parts:
        role, start = _ROLES.get(part.name, part.name), part.start
        if role == "assistant" and before in ("reasoning", "answer"):
            start = spans.pop()[1]
        spans.append((role, start, part.end))
        before = part.name
    messages = [_content(role, written[start:end], start) for role, start, end in spans]
    # An empty prompt is still a message: templates want a user to speak first.
    if not any(message.role == "user" for message in messages):
        first = next((place for place, message in enumerate(messages) if message.role != "system"), len(messages))
        messages.insert(first, Content("user", "", messages[first].start if first < len(messages) else len(written)))
    return [message for message in messages if message.text or message.role == "user"]


_ROLES = {"prompt": "user", "reasoning": "assistant", "answer": "assistant"}


def _content(role: str, written: bytes, start: int) -> Content:
    text = written.decode()
    leading = len(text) - len(text.lstrip())
    return Content(role, text.strip(), start + len(text[:leading].encode()))


def render(tokenizer, contents: list[Content], answering: bool = False) -> tuple[str, list[Content]]:
    """Return the whole chat, and the contents with their byte offsets in it."""
    if not tokenizer.chat_template:
        raise ModelError(
            "chat-template-missing",
            expected=Message("a chat template of {name}", name=tokenizer.name_or_path),
            found=Message("none in its tokenizer files (a base model, not a chat model)"),
            remedy=Message("align the plain text: leave out --chat"),
        )
    template_tried(tokenizer.chat_template, tokenizer.name_or_path)
    placeholders = [f"KVLAB{number}{content.role.upper()}" for number, content in enumerate(contents)]
    pieces, rest = [], _apply(tokenizer, contents, placeholders, answering)
    for placeholder in placeholders:
        if rest.count(placeholder) != 1:
            raise _rewritten(tokenizer, Message("a message that appears {n} times", n=rest.count(placeholder)))
        piece, rest = rest.split(placeholder)
        pieces.append(piece)
    chat, placed = "", []
    for piece, content in zip(pieces, contents):
        chat += piece
        placed.append(replace(content, rendered=len(chat.encode())))
        chat += content.text
    chat += rest
    if _apply(tokenizer, contents, [content.text for content in contents], answering) != chat:
        raise _rewritten(tokenizer, Message("a message that the template changes or cuts out of"))
    return chat, placed


def _apply(tokenizer, contents: list[Content], texts: list[str], answering: bool) -> str:
    messages = [{"role": content.role, "content": text} for content, text in zip(contents, texts)]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answering)
    except Exception as error:  # each template is a program and fails in its own way
        raise ModelError(
            "chat-template-broken",
            expected=Message(
                "a chat template of {name} that renders messages of {roles}",
                name=tokenizer.name_or_path,
                roles=list(dict.fromkeys(content.role for content in contents)),
            ),
            found=Message("{kind}: {reason}", kind=type(error).__name__, reason=first_line(error)),
            remedy=Message("align the plain text (leave out --chat), or mend chat_template in the tokenizer's files"),
        ) from error


def _rewritten(tokenizer, found: Message) -> ModelError:
    return ModelError(
        "chat-template-rewrites",
        expected=Message(
            "each message once and unchanged in the chat that {name} renders", name=tokenizer.name_or_path
        ),
        found=found,
        remedy=Message("align the plain text (leave out --chat), or take tags such as </think> out of the prompts"),
    )
