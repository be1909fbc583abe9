"""Byte spans against the tokenizer's own decoding of every prefix, over random Unicode text."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvlab.models.tokens import pieces_of, spans_from_offsets, tokenize, written_special
from tests.tiny import tiny_tokenizer

STYLES = ("byte", "sentencepiece")
# U+FFFD is what decoding gives for half a character, U+2581 what SentencePiece writes for a space.
characters = st.characters(exclude_categories=("Cs",), exclude_characters="\ufffd\u2581")
texts = st.text(characters, max_size=40) | st.text("ab 1\n你好，é😀\u0301", max_size=60)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    return {style: tiny_tokenizer(tmp_path_factory.mktemp(style), style) for style in STYLES}


@pytest.mark.parametrize("style", STYLES)
@given(text=texts)
def test_ends_are_what_decoding_the_prefix_has_read(tokenizers, style, text):
    tokenizer = tokenizers[style]
    tokens = tokenize(tokenizer, text)
    assume(tokens.lossless)
    written = text.encode()
    assert (np.diff(tokens.spans[:, 1]) >= 0).all()
    assert tokens.spans[:, 0].tolist() == [0, *tokens.spans[:-1, 1]][: len(tokens)]
    assert not len(tokens) or tokens.spans[-1, 1] == len(written)
    for k in range(1, len(tokens) + 1):
        decoded = tokenizer.decode(tokens.ids[:k], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if "\ufffd" not in decoded:  # the prefix ends between two characters
            assert written[: tokens.spans[k - 1, 1]] == decoded.encode()


@pytest.mark.parametrize("style", STYLES)
@given(text=texts)
def test_offsets_give_the_same_ends_as_the_vocabulary(tokenizers, style, text):
    tokenizer = tokenizers[style]
    tokens = tokenize(tokenizer, text)
    assume(tokens.lossless)
    encoded = tokenizer(text, return_offsets_mapping=True)
    pieces = pieces_of(tokenizer, tokens.ids.tolist())
    by_offsets = spans_from_offsets(text, encoded["offset_mapping"], pieces, tokens.special)
    assert by_offsets[:, 1].tolist() == tokens.spans[:, 1].tolist()


@pytest.mark.parametrize("style", STYLES)
def test_a_character_split_over_tokens_is_split_over_its_bytes(tokenizers, style):
    tokens = tokenize(tokenizers[style], "😀")
    content = tokens.spans[~tokens.special]
    assert len(content) >= 4  # neither vocabulary holds the character; SentencePiece adds its prefix
    assert content[-4:].tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_special_tokens_have_no_bytes(tokenizers):
    tokens = tokenize(tokenizers["sentencepiece"], "boats")
    assert tokens.special.tolist()[0] is True and tokens.spans[0].tolist() == [0, 0]
    assert tokens.spans[~tokens.special][-1, 1] == 5


def test_normalised_text_is_said_and_still_tiled(tokenizers):
    text = "cafe\u0301 boats"
    tokens = tokenize(tokenizers["byte"], text)
    assert not tokens.lossless
    assert tokens.spans[-1, 1] == len(text.encode()) and (np.diff(tokens.spans[:, 1]) >= 0).all()


def test_a_limit_cuts_the_end(tokenizers):
    whole = tokenize(tokenizers["byte"], "three boats leave the mill")
    cut = whole.first(3)
    assert cut.spans.tolist() == whole.spans[:3].tolist() and len(whole) > 3


@pytest.mark.parametrize("style", STYLES)
def test_empty_text_has_no_content(tokenizers, style):
    tokens = tokenize(tokenizers[style], "")
    assert tokens.special.all()


def test_a_truncation_or_padding_in_the_file_does_not_reach_a_document(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path, "byte")
    text = "Three boats leave the mill and one turns over."
    whole = tokenize(tokenizer, text)
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    assert tokenize(tokenizer, text).ids.tolist() == whole.ids.tolist() and len(whole) > 5


@pytest.mark.parametrize(("style", "piece"), [("byte", "<|endoftext|>"), ("sentencepiece", "</s>")])
def test_special_tokens_that_the_text_itself_is_read_as_are_named(tokenizers, style, piece):
    tokenizer = tokenizers[style]
    assert written_special(tokenizer, tokenize(tokenizer, f"boats{piece} mill {piece}")) == [piece]
    assert written_special(tokenizer, tokenize(tokenizer, "boats 😀 <|im_end|> <0x41>")) == []
