"""Chats against renderings written by hand: which bytes of the contents each token has, over random Unicode text."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlab.align.items import Reader
from kvlab.errors import ModelError
from kvlab.models.chat import contents_of, read, tokenize_chat
from kvlab.models.geometry import geometry_of
from kvlab.models.loading import LoadedModel
from kvlab.models.tokens import tokenize
from kvlab.request.align import AlignSettings
from kvlab.shapes import Document, Segment
from tests.tiny import tiny_config, tiny_tokenizer

LLAMA = (  # strips each message, one sequence a turn
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
QWEN = (  # puts a system prompt first
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
TIGHT = "{% for m in messages %}{{ '. bo' if m.role == 'user' else 's' }}{{ m.content }}{% endfor %}s"


def llama(user, assistant, bos, eos):
    chat = [bos, "[INST] ", (user,), " [/INST]"]
    return chat if assistant is None else [*chat, " ", (assistant,), " ", eos]


def qwen(user, assistant, bos, eos):
    chat = ["<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n", (user,), "<|im_end|>\n"]
    return chat if assistant is None else [*chat, "<|im_start|>assistant\n", (assistant,), "<|im_end|>\n"]


def tight(user, assistant, bos, eos):
    chat = [". bo", (user,)]
    return [*chat, "s"] if assistant is None else [*chat, "s", (assistant,), "s"]


TEMPLATES = {"llama": (LLAMA, llama), "qwen": (QWEN, qwen), "tight": (TIGHT, tight)}
STYLES = ("byte", "sentencepiece")
texts = st.text("ab oats1\n你好，é😀", max_size=16).filter(str.strip)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    made = {}
    for style in STYLES:
        for name, (template, _) in TEMPLATES.items():
            tokenizer = tiny_tokenizer(tmp_path_factory.mktemp(f"{style}-{name}"), style)
            tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
            if style == "byte":
                tokenizer.add_special_tokens({"bos_token": "<s>"})
            tokenizer.chat_template = template
            made[style, name] = tokenizer
    return made


def document_of(prompt, reply):
    first, second = len(prompt.encode()) + 1, len(reply.encode())
    return Document("d", f"{prompt}\n{reply}", (Segment("prompt", 0, first), Segment("answer", first, first + second)))


def owners(parts, document):
    """The whole chat, and for each of its bytes the byte of the document that it is, or None."""
    chat, owned, searched = "", [], 0
    for part in parts:
        if isinstance(part, tuple):
            start = document.text.index(part[0], searched)
            searched = start + len(part[0])
            first = len(document.text[:start].encode())
            owned += range(first, first + len(part[0].encode()))
            chat += part[0]
        else:
            owned += [None] * len(part.encode())
            chat += part
    return chat, owned


def check(tokenizer, by_hand, document, user, assistant):
    """Every token has the bytes of the contents that lie in what it was made from, by the tokenizer's own offsets."""
    tokens = tokenize_chat(tokenizer, document)
    chat, owned = owners(by_hand(user, assistant, tokenizer.bos_token, tokenizer.eos_token), document)
    encoded = tokenizer(chat, add_special_tokens=False, return_offsets_mapping=True)
    assert tokens.ids.tolist() == encoded["input_ids"]
    at_byte = np.cumsum([0, *(len(c.encode()) for c in chat)])
    of_token = [[b for b in owned[at_byte[a] : at_byte[z]] if b is not None] for a, z in encoded["offset_mapping"]]

    content = np.flatnonzero(~tokens.special)
    written = len(document.text.encode())
    assert tokens.spans[:, 0].tolist() == [0, *tokens.spans[:-1, 1]]  # tiles the text
    assert tokens.spans[content[-1], 1] == tokens.spans[-1, 1] == written
    assert (tokens.spans[tokens.special, 0] == tokens.spans[tokens.special, 1]).all()
    for i in content:
        assert of_token[i], "a token of the template alone is not content"
        assert tokens.spans[i, 1] in (written, *(b + 1 for b in of_token[i]))
    for i in np.flatnonzero(tokens.special):  # a dummy prefix has an offset and no bytes
        shares = [j for j in content if set(of_token[j]) & set(of_token[i])]
        assert not of_token[i] or shares
    whole = [i for i in content[:-1] if not any(set(of_token[i]) & set(of_token[j]) for j in content if j != i)]
    assert all(tokens.spans[i, 1] == of_token[i][-1] + 1 for i in whole)
    return tokens


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=40)
@given(prompt=texts, reply=texts)
def test_tokens_have_the_bytes_of_the_contents_and_no_others(tokenizers, style, template, prompt, reply):
    document = document_of(prompt, reply)
    check(tokenizers[style, template], TEMPLATES[template][1], document, prompt.strip(), reply.strip())


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("style", STYLES)
def test_without_segments_all_is_the_users_message(tokenizers, style, template):
    text = "  Three boats leave the mill.\n老师读这一页。\n\n"
    tokens = check(
        tokenizers[style, template], TEMPLATES[template][1], Document("d", text), text.strip(), assistant=None
    )
    assert tokens.lossless


@pytest.mark.parametrize(("style", "piece", "end"), [("byte", "Ġboats", 3), ("sentencepiece", "oat", 2)])
def test_a_token_across_a_border_is_cut_to_the_content(tokenizers, style, piece, end):
    tokenizer = tokenizers[style, "tight"]
    document = Document("d", "ats and boats", (Segment("prompt", 0, 7), Segment("answer", 7, 13)))
    tokens = check(tokenizer, tight, document, "ats and", "boats")
    (across, *_) = np.flatnonzero(~tokens.special)
    assert tokenizer.convert_ids_to_tokens(int(tokens.ids[across])) == piece  # "bo" is the template's
    assert tokens.spans[across].tolist() == [0, end]


def test_a_token_across_the_end_of_a_content_ends_with_it(tokenizers):
    tokenizer = tokenizers["byte", "tight"]
    document = Document("d", "ats. A boat\n1", (Segment("prompt", 0, 12), Segment("answer", 12, 13)))
    tokens = check(tokenizer, tight, document, "ats. A boat", "1")
    (across,) = np.flatnonzero(tokens.spans[:, 1] == 11)
    assert tokenizer.convert_ids_to_tokens(int(tokens.ids[across])) == "Ġboats"  # the "s" is the template's
    assert tokens.spans[across].tolist() == [6, 11]


@pytest.mark.parametrize("style", STYLES)
def test_templates_change_nothing_of_the_content_between_two_models(tokenizers, style):
    """System prompt, headers and stripped whitespace apart, a content is cut as it is in plain text."""
    document = document_of("Three boats leave the mill. 老师慢慢地读", "two boats 😀")
    chats = [tokenize_chat(tokenizers[style, name], document) for name in ("llama", "qwen")]
    ends = [set(tokens.spans[~tokens.special, 1].tolist()) for tokens in chats]
    plain = tokenize(tokenizers[style, "qwen"], document.text)
    assert len(chats[1]) > len(chats[0])  # the system prompt
    assert {46, len(document.text.encode())} <= ends[0] & ends[1]
    assert len(ends[0] & ends[1]) > 0.8 * (~plain.special).sum()
    assert all(tokens.lossless for tokens in chats)  # also with a dummy prefix after every added token


def test_contents_are_the_messages_without_the_whitespace_around_them():
    document = document_of(" é?", "42 \n")
    assert [(c.role, c.text, c.start) for c in contents_of(document)] == [("user", "é?", 1), ("assistant", "42", 5)]
    no_prompt = Document("d", "a", (Segment("reasoning", 0, 1),))
    assert [(c.role, c.text) for c in contents_of(no_prompt)] == [("user", ""), ("assistant", "a")]


def test_reading_is_plain_unless_a_chat_is_asked_for(tokenizers):
    document = document_of("boats", "two")
    tokenizer = tokenizers["byte", "qwen"]
    assert read(tokenizer, document).ids.tolist() == tokenize(tokenizer, document.text).ids.tolist()
    assert read(tokenizer, document, chat=True).ids.tolist() == tokenize_chat(tokenizer, document).ids.tolist()


@pytest.mark.parametrize(
    ("template", "kind", "found"),
    [
        (None, "missing", "none in its tokenizer files"),
        ("{{ raise_exception('System role only') }}", "broken", "TemplateError: System role only"),
        ("{% for m in messages %}", "broken", "TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__ }}", "broken", "SecurityError"),  # the sandbox
        ("{{ messages[0].content }}{{ messages[0].content }}", "rewrites", "a message that appears 2 times"),
        ("{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}", "rewrites", "changes or cuts"),
        ("no content", "rewrites", "a message that appears 0 times"),
    ],
)
def test_a_template_that_cannot_be_used_is_said_with_the_way_out(tmp_path, template, kind, found):
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.chat_template = template
    with pytest.raises(ModelError) as caught:
        tokenize_chat(tokenizer, document_of("boats", "<think>a</think>two"))
    assert caught.value.kind == f"chat-template-{kind}"
    assert found in caught.value.found and "leave out --chat" in caught.value.remedy


def test_a_text_that_holds_the_placeholders_is_read_like_any_other(tokenizers):
    document = document_of("KVLAB0USER KVLAB0USERX", "KVLAB1ASSISTANT")
    check(tokenizers["byte", "qwen"], qwen, document, "KVLAB0USER KVLAB0USERX", "KVLAB1ASSISTANT")


TURNS = [
    ("system", "Be brief."),
    ("user", "boats?"),
    ("assistant", '{"name": "add"}'),
    ("tool", "3"),
    ("assistant", "3"),
]
PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def chat_of(turns):
    text, segments = "", []
    for place, (role, said) in enumerate(turns):
        piece = said + "\n" * (place + 1 < len(turns))
        start = len(text.encode())
        segments.append(Segment(role, start, start + len(piece.encode())))
        text += piece
    return Document("d", text, tuple(segments))


@pytest.mark.parametrize("style", STYLES)
def test_the_turns_of_a_chat_keep_their_roles_in_each_template(tokenizers, style):
    document, tokenizer = chat_of(TURNS), tokenizers[style, "qwen"]
    assert [(c.role, c.text) for c in contents_of(document)] == TURNS
    tokenizer.chat_template, before = PLAIN, tokenizer.chat_template
    try:
        tokens = tokenize_chat(tokenizer, document)
    finally:
        tokenizer.chat_template = before
    by_hand = "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in TURNS)
    assert tokens.ids.tolist() == tokenizer(by_hand, add_special_tokens=False)["input_ids"]
    ends = set(tokens.spans[~tokens.special, 1].tolist())
    borders = {segment.end - 1 for segment in document.segments[:-1]} | {len(document.text.encode())}
    assert borders <= ends  # every message ends where a token ends, at its newline


def test_reasoning_belongs_to_the_message_behind_it():
    turns = [("user", "a"), ("reasoning", "r"), ("assistant", "b"), ("assistant", "c"), ("user", "d")]
    assert [(c.role, c.text) for c in contents_of(chat_of(turns))] == [
        ("user", "a"),
        ("assistant", "r\nb"),
        ("assistant", "c"),
        ("user", "d"),
    ]


def readers(folder, template):
    """The same tiny model twice, without weights."""
    tokenizer = tiny_tokenizer(folder)
    tokenizer.chat_template = template
    geometry = geometry_of(tiny_config("llama", len(tokenizer)), "tiny")
    return LoadedModel("tiny", None, tokenizer, geometry, torch.device("meta"), torch.float32)


DROPS_THINKING = "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] }}{% endfor %}"
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "turns", "kind"),
    [
        (
            DROPS_THINKING,
            [("prompt", "boats {n}"), ("reasoning", "<think>slowly</think>"), ("answer", "{n}")],
            "rewrites",
        ),
        (NO_SYSTEM, [("system", "Be brief."), ("user", "boats {n}"), ("assistant", "{n}")], "broken"),
    ],
)
def test_the_reason_why_a_template_takes_no_prompt_is_the_error(tmp_path, template, turns, kind):
    model = readers(tmp_path, template)
    refused = [chat_of([(role, said.format(n=n)) for role, said in turns]) for n in range(12)]
    good = [Document(f"g{n}", f"three boats {n}") for n in range(4)]
    chat = AlignSettings(chat=True)
    with pytest.raises(ModelError) as caught:
        next(Reader([model], model, refused, good, chat).windows())
    assert caught.value.kind == f"chat-template-{kind}" and "leave out --chat" in caught.value.remedy
    reader = Reader([model], model, [*refused, *good], [], chat)
    assert [item.document.id for window in reader.windows() for item in window] == ["g0", "g1", "g2", "g3"]
    assert any("12 of 16 documents were left out, because a chat template" in note for note in reader.notes())
    assert any(str(caught.value.found) in note for note in reader.notes())


def test_a_token_without_a_row_of_the_embedding_is_named(tmp_path):
    model = readers(tmp_path, None)
    model.tokenizer.add_tokens(["Lily"])
    beyond = model.geometry.vocabulary
    documents = [Document(str(n), f"three boats {n}") for n in range(3)]
    assert len(next(Reader([model], model, documents, [], AlignSettings()).windows())) == 3
    with pytest.raises(ModelError) as caught:
        next(Reader([model], model, [*documents, Document("l", "And Lily went")], [], AlignSettings()).windows())
    assert caught.value.kind == "tokenizer-beyond-embedding"
    assert f"token {beyond} ('Lily')" in caught.value.found and f"from 0 to {beyond - 1}" in caught.value.expected
