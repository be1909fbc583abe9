"""Recognise the data set formats that people have, by the names of a record's fields, and cut a record into parts.

Knows nothing of files or encodings. A part is named after what it is: "prompt", "reasoning", "answer", or in a chat
the role of its speaker. Fields that a format does not use are left out and reported, never lost in silence.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from kvlab.errors import PromptError
from kvlab.language import Message, phrase
from kvlab.request.uploads import Number, kind_of, printable, shown

Format = Literal["auto", "prompt", "text", "messages", "sharegpt", "alpaca", "qa", "preference"]
FORMATS = {
    "auto": phrase("as the names of its fields say"),
    "prompt": phrase("prompts with reasoning and answer"),
    "text": phrase("plain text"),
    "messages": phrase("messages"),
    "sharegpt": phrase("ShareGPT conversations"),
    "alpaca": phrase("Alpaca instructions"),
    "qa": phrase("questions and answers"),
    "preference": phrase("preference: prompt and chosen; rejected not read"),
}
PARTS = ("prompt", "reasoning", "answer")
ROLES = ("system", "user", "assistant", "tool")

SPOKEN = {
    "system": phrase("system"),
    "user": phrase("user"),
    "prompt": phrase("prompt"),
    "reasoning": phrase("reasoning"),
    "assistant": phrase("assistant"),
    "tool": phrase("tool"),
    "answer": phrase("answer"),
}
AS_TEXT = phrase("the turns of the chat are joined as plain text; --chat reads them in each model's own template")
LANGUAGES, DOMAINS = ("language", "lang"), ("domain", "category", "subject", "topic")
LABELS = ("id", *LANGUAGES, *DOMAINS)  # fields that say what a document is

REASONINGS = ("reasoning", "reasoning_content", "thinking")
ANSWERS = ("answer", "completion", "response", "output")
TURNS = {"messages": ("messages",), "sharegpt": ("conversations", "conversation")}
OPENERS = {**TURNS, "alpaca": ("instruction",), "prompt": ("prompt",)}  # the fields that tell a format
_OPENED = {field: name for name, openers in OPENERS.items() for field in openers}
DATA_SETS = ("messages", "sharegpt", "alpaca", "qa", "preference")
CHAT = ("system", "tools")
PREFERENCE = ("chosen", "rejected")
KNOWN = (*OPENERS["messages"], *OPENERS["sharegpt"], "instruction", "input", "context", "history", "prompt", "question")
KNOWN = (*KNOWN, "text", *REASONINGS, *ANSWERS, *CHAT, *PREFERENCE)
# The roles of OpenAI, ShareGPT, LLaMA-Factory and their relatives.
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "ipython"), "tool"),
}


@dataclass(frozen=True)
class Form:
    """How records are to be read, where the names of their fields do not say it or say it wrongly."""

    format: Format = "auto"
    column: str | None = None  # the field that holds the prompts
    answer: str | None = None  # the field that holds the answers
    names: tuple[tuple[str, str], ...] = ()  # (field of the file, our name) of further fields
    roles: tuple[tuple[str, str], ...] = ()  # (role in the file, our role)
    turn: tuple[str, str] | None = None  # the fields of a turn with its role and its text


AUTO = Form()


class Part(NamedTuple):
    """A part of a document: its name, its text, and whether a newline separates it from the part before."""

    name: str
    value: Any
    field: str  # of the file, for error messages
    apart: bool = True


class Cutting(NamedTuple):
    """A record as a format reads it: its parts, and the fields that they come from."""

    format: str
    parts: list[Part]
    used: frozenset[str]


def cut(fields: dict[str, Any], form: Form = AUTO) -> Cutting:
    """Return the parts of a record. Raises PromptError ``prompts-no-field`` and ``prompts-ambiguous``."""
    back = {ours: theirs for theirs, ours in form.names}
    if form.names:
        kept = {name: value for name, value in fields.items() if name not in dict(form.names)}
        fields = kept | {ours: fields.get(theirs) for theirs, ours in form.names if theirs in fields}
    if form.column is not None or form.answer is not None:
        return _chosen(fields, form)
    name = _format(fields, form)
    found = _CUT[name](fields, form)
    parts = [part for part in found if part.value is not None]
    return Cutting(name, parts, frozenset([back.get(part.field, part.field) for part in found]))


def telling(names: Mapping[str, Any] | list[str]) -> bool:
    """Return whether fields of these names tell a format other than "prompt" and "text"."""
    told = [name for format_name in ("messages", "sharegpt", "alpaca") for name in OPENERS[format_name]]
    pairs = (("question", "answer"), PREFERENCE)
    return any(name in names for name in told) or any(a in names and b in names for a, b in pairs)


def used_beside(column: str, names: list[str], answer: str | None = None) -> list[str]:
    """Return the fields that are read as reasoning and answer beside the prompts in ``column``."""
    if answer is not None:
        return [*[name for name in REASONINGS if name in names and name != column][:1], answer]
    if column in ("text", *REASONINGS, *ANSWERS):
        return []
    return [name for name in (*REASONINGS, *ANSWERS) if name in names and name != column]


def _chosen(fields: dict[str, Any], form: Form) -> Cutting:
    """Cut a record at the fields that the user chose."""
    column = form.column or next((name for name in ("prompt", "question", "instruction") if name in fields), "prompt")
    for name in filter(None, (column, form.answer)):
        if name not in fields:
            raise _no_field(fields, Message("a field {name}", name=shown(name)), Message("choose one of these fields"))
    if _is_chat(fields[column]) and form.answer is None:  # under any name
        others = {name: value for name, value in fields.items() if name not in KNOWN or name in (*ANSWERS, *CHAT)}
        name = "prompt" if column == "prompt" else "messages"
        parts = [part for part in _messages(others | {name: fields[column]}, form) if part.value is not None]
        used = {column if part.field == name else part.field for part in parts}
        return Cutting("messages", parts, frozenset(used))
    alone = form.format == "text" and form.answer is None
    beside = [] if alone else used_beside(column, list(fields), form.answer)
    if alone or (not beside and column != "prompt"):
        return Cutting("text", [Part("text", fields[column], column)], frozenset((column,)))
    chosen = {name: fields[name] for name in beside}
    reasoning, answer = _reasoning(chosen), _answer(chosen) if form.answer is None else []
    if form.answer is not None:
        answer = _answer_parts(form.answer, fields[form.answer])
    parts = [Part("prompt", fields[column], column), *reasoning, *answer]
    kept = [part for part in parts if part.value is not None]
    return Cutting("prompt", kept, frozenset(part.field for part in parts))


def _format(fields: dict[str, Any], form: Form) -> str:
    """Return the format that a record is in, or the one that the user chose, if the record has its field."""
    present = {name for name, value in fields.items() if value is not None}
    found = {_OPENED[name]: name for name in _OPENED if name in present}
    if _is_chat(fields.get("prompt")) and "prompt" in found:  # TRL writes a chat into "prompt"
        del found["prompt"]
        found.setdefault("messages", "prompt")
    if {"question", "answer"} <= present:
        found["qa"] = "question"
    if form.format == "auto" and present.issuperset(PREFERENCE):
        return "preference"
    if form.format != "auto":
        wanted = {"text": "text", "qa": "question", "messages": "messages", "sharegpt": "conversations"}
        wanted["preference"] = "chosen"
        there = form.format in found or (form.format in ("text", "qa", "preference") and wanted[form.format] in present)
        if not there:
            need = wanted.get(form.format) or OPENERS[form.format][0]
            raise _no_field(
                fields,
                Message('a field "{name}" ({format})', name=need, format=Message(FORMATS[form.format])),
                Message("choose another format, or name the fields: --column and --answer"),
            )
        return form.format
    if len(found) > 1:
        raise PromptError(
            "prompts-ambiguous",
            expected=Message("one kind of record: prompts, messages, instructions or questions"),
            found=Message("several in one: the fields {names}", names=[shown(name) for name in found.values()]),
            remedy=Message("say which to read: --format {formats} (“Read as” on the page)", formats=_or(list(found))),
        )
    if found:
        return next(iter(found))
    if "text" in present:
        return "text"
    raise _no_field(
        fields,
        Message('a field "prompt", "text", "messages", "conversations" or "instruction", or "question" and "answer"'),
        Message('name the fields to read: --column and --answer; or rename the one with the document to "prompt"'),
    )


def _no_field(fields: dict[str, Any], expected: Message, remedy: Message) -> PromptError:
    names = [shown(name) for name in list(fields)[:10]]
    found = Message("the fields {names}", names=names) if fields else Message("no field")
    return PromptError("prompts-no-field", expected=expected, found=found, remedy=remedy)


def _or(names: list[str]) -> str:
    return " | ".join(names)


def _prompt(fields: dict[str, Any], form: Form) -> list[Part]:
    return [
        *_system(fields),
        Part("prompt", fields["prompt"], "prompt"),
        *_reasoning(fields),
        *_answer(fields),
    ]


def _text(fields: dict[str, Any], form: Form) -> list[Part]:
    return [Part("text", fields["text"], "text")]


def _qa(fields: dict[str, Any], form: Form) -> list[Part]:
    question = Part("prompt", fields["question"], "question")
    return [*_system(fields), question, *_reasoning(fields), *_answer(fields)]


def _alpaca(fields: dict[str, Any], form: Form) -> list[Part]:
    """Return system, the turns of the history, the instruction with its input as one prompt, and the output."""
    parts = _system(fields)
    for turn in _listed("history", fields.get("history")):
        asked, said = turn if isinstance(turn, list) and len(turn) == 2 else (turn, None)
        parts += [Part("user", asked, "history"), Part("assistant", said, "history")]
    parts.append(Part("prompt", fields["instruction"], "instruction"))
    context = next((name for name in ("input", "context") if _filled(fields.get(name))), "input")
    if _filled(fields.get(context)):
        parts.append(Part("prompt", fields[context], context))
    else:
        parts.append(Part("prompt", None, context))
    return [*parts, *_reasoning(fields), *_answer(fields)]


def _messages(fields: dict[str, Any], form: Form) -> list[Part]:
    """Return the turns of a chat: of ``messages`` or ``conversations``, or of TRL's ``prompt`` and ``completion``."""
    first = TURNS.get(form.format, ())
    openers = (*first, *TURNS["messages"], *TURNS["sharegpt"])
    field = next((name for name in openers if fields.get(name) is not None), "prompt")
    turns = list(_turns(fields[field], field, form))
    if field == "prompt":
        answer = next((name for name in ANSWERS if _filled(fields.get(name))), None)
        if answer is not None and isinstance(fields[answer], list):
            turns += _turns(fields[answer], answer, form)
        else:
            turns += [Part("assistant", part.value, part.field) for part in _answer(fields)]
    system = [] if turns and turns[0].name == "system" and not _filled(fields.get("tools")) else _system(fields)
    if system and turns and turns[0].name == "system":  # one system message, with the tools behind it
        system = [turns.pop(0), *(part for part in system if part.field == "tools")]
    return [*system, *turns]


def _preference(fields: dict[str, Any], form: Form) -> list[Part]:
    """Return the prompt, in whatever format it is, and the chosen answer; the rejected one is left out.

    A chosen answer that begins with the user's turn is the whole chat (UltraFeedback); one without a prompt beside it
    is the whole document (TRL's implicit prompt).
    """
    chosen = [fields["chosen"]] if isinstance(fields["chosen"], dict) else fields["chosen"]
    rest = {name: value for name, value in fields.items() if name not in (*ANSWERS, *PREFERENCE)}
    openers = [name for name in ("prompt", "question", *_OPENED) if _filled(rest.get(name))]
    opener = openers[0] if openers else None
    asked: list[Part] = []
    if opener is not None:
        format_name = "messages" if _is_chat(rest[opener]) else _OPENED.get(opener, "qa")
        asked = _CUT[format_name]({name: rest[name] for name in rest if name == opener or name not in openers}, form)
    left_out = [Part("answer", None, "rejected")]
    if isinstance(chosen, list):
        said = list(_turns(chosen, "chosen", form))
        if said and said[0].name in ("system", "user"):
            asked = [] if said[0].name == "system" else _system(fields)
            left_out += [Part("user", None, name) for name in openers if _repeats(rest[name], said)]
        turns = [part._replace(name="user") if part.name == "prompt" else part for part in asked]
        return [*turns, *said, *left_out]
    if opener is None:
        return [Part("text", chosen, "chosen"), *left_out]
    if _is_chat(rest[opener]):
        return [*asked, Part("assistant", chosen, "chosen"), *left_out]
    apart = opener != "prompt" and not (isinstance(chosen, str) and chosen[:1].isspace())
    return [*asked, Part("answer", chosen, "chosen", apart), *left_out]


def _repeats(value: Any, said: list[Part]) -> bool:
    """Return whether a prompt or all turns of a chat stand among these turns."""
    texts = [part.value for part in said]
    turns = value if isinstance(value, list) else [value]
    return all((turn.get("content", turn.get("value")) if isinstance(turn, dict) else turn) in texts for turn in turns)


_CUT = {
    "prompt": _prompt,
    "text": _text,
    "messages": _messages,
    "sharegpt": _messages,
    "alpaca": _alpaca,
    "qa": _qa,
    "preference": _preference,
}


def _system(fields: dict[str, Any]) -> list[Part]:
    """Return the system message; definitions of tools stand in it as text."""
    if "system" not in fields and "tools" not in fields:
        return []
    tools = fields.get("tools")
    if isinstance(tools, list | dict):
        tools = _json(tools) if tools else None
    if not _filled(tools) or tools.strip() == "[]":
        tools = None
    return [Part("system", fields.get("system"), "system"), Part("system", tools, "tools")]


def _reasoning(fields: Mapping[str, Any]) -> list[Part]:
    filled = [name for name in REASONINGS if _filled(fields.get(name))]
    return [Part("reasoning", fields[name], name) for name in filled[:1]]


def _answer(fields: Mapping[str, Any]) -> list[Part]:
    filled = [name for name in ANSWERS if _filled(fields.get(name))]
    if len(filled) > 1:
        raise PromptError(
            "prompts-ambiguous",
            expected=Message("one field with the answer"),
            found=Message("several: {names}", names=[shown(name) for name in filled]),
            remedy=Message("say which it is: --answer {names} (“Answers” on the page)", names=_or(filled)),
        )
    return _answer_parts(filled[0], fields[filled[0]]) if filled else []


def _answer_parts(field: str, value: Any) -> list[Part]:
    """Return an answer; GSM8K's, which gives the reasoning first and the result behind "####", in two parts.

    A completion goes on where its prompt ends (TRL); other answers stand on a line of their own, unless they begin
    with a blank.
    """
    apart = field == "answer" or not isinstance(value, str) or not (field == "completion" or value[:1].isspace())
    if isinstance(value, str):
        reasoning, mark, result = value.rpartition("\n####")
        if mark and reasoning.strip():
            return [Part("reasoning", reasoning, field, apart), Part("answer", mark[1:] + result, field)]
    return [Part("answer", value, field, apart)]


def _turns(value: Any, field: str, form: Form) -> Iterator[Part]:
    for turn in _listed(field, value):
        if not isinstance(turn, dict):
            raise _no_turn(field, turn)
        role_field, text_field = form.turn or (
            ("role", "content") if turn.get("role") is not None else ("from", "value")
        )
        said = turn.get(role_field)
        role = (dict(form.roles) or _ROLES).get(said) or _ROLES.get(said) if isinstance(said, str) else None
        if role is None:
            raise _no_turn(field, turn)
        reasoning = next((turn[name] for name in REASONINGS if _filled(turn.get(name))), None)
        if reasoning is not None:
            yield Part("reasoning", reasoning, field)
        text = _content(turn.get(text_field), field)
        calls = [_call(call) for call in _listed(field, turn.get("tool_calls"))]
        if calls and isinstance(text, str):
            text = "\n".join([text, *calls] if text.strip() else calls)
        if not isinstance(text, str) or text.strip():
            yield Part(role, text, field)


def _content(value: Any, field: str) -> Any:
    """Return the text of a turn; OpenAI writes it in pieces too, of which only text can be read."""
    if value is None:
        return ""
    if not isinstance(value, list):
        return value
    texts = []
    for piece in value:
        text, _kind = (piece.get("text"), piece.get("type")) if isinstance(piece, dict) else (piece, piece)
        if not isinstance(text, str):
            raise PromptError(
                "prompts-not-text",
                expected=Message('text in "{name}"', name=field),
                found=Message(
                    "a message with {kind}", kind=shown(piece.get("type") if isinstance(piece, dict) else piece)
                ),
                remedy=Message("leave pictures and sounds out: only text has a cache that is compared here"),
            )
        texts.append(text)
    return "\n".join(texts)


def _call(call: Any) -> str:
    """Write a tool call as JSON with its name and arguments, as ShareGPT data do."""
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict):
        return _json(function)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json.loads(arguments)
    return _json({"name": function.get("name"), "arguments": arguments})


def _json(value: Any) -> str:
    return json.dumps(_unspelled(value), ensure_ascii=False, default=str)


def _unspelled(value: Any) -> Any:
    """Return a value of JSON with its numbers as numbers again."""
    if isinstance(value, dict):  # Arrow fills the fields that only other records have with null
        return {name: _unspelled(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_unspelled(inner) for inner in value]
    if isinstance(value, Number):
        try:
            return json.loads(value)
        except ValueError:  # more digits than Python reads
            return str(value)
    return value


def _listed(field: str, value: Any) -> list:
    if value is None:
        return []
    if not isinstance(value, list):
        raise PromptError(
            "prompts-no-turns",
            expected=Message('a list of messages in "{name}"', name=field),
            found=Message("{kind}: {value}", kind=kind_of(value), value=shown(value)),
            remedy=Message("write it as JSON, such as {example}", example=_EXAMPLE),
        )
    return value


_EXAMPLE = '[{"role": "user", "content": "2 + 2 = ?"}, {"role": "assistant", "content": "4"}]'


def _no_turn(field: str, turn: Any) -> PromptError:
    return PromptError(
        "prompts-no-turns",
        expected=Message('messages in "{name}", each with a role ({roles}) and a text', name=field, roles=list(ROLES)),
        found=printable(shown(turn)),
        remedy=Message("write it as JSON, such as {example}", example=_EXAMPLE),
    )


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _filled(value: Any) -> bool:
    return value is not None and (not isinstance(value, str) or bool(value.strip())) and value != []
