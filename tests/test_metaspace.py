"""Spans of tokenizers that write a sign for a space, in every form of it and behind normalisers that replace text.

Against brute force: pieces of the vocabulary as they are written, and the shortest prefix of the text that has them.
"""

import itertools

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kvlab.models.tokens import tokenize

KNOWN = "He said: ``count 12 apples''  and it  was … good. 小明有 3 个苹果。 AI ﬁne Ünder the hat, he hears."
TEXTS = (
    KNOWN,
    "he <s> and </s> it",
    "<s>he</s>",
    " </s> he",
    "  he  said  ",
    "he``x''<s>``y''  </s>  he",  # x, y and b are unknown
    "a</s></s> b",
    "Ünder ﬁne … x",
    "é é",
    "he\thears  it",
    "he_hears ▁it",
)
NORMALIZERS = {
    "none": None,
    "nfkc": normalizers.NFKC(),
    "lower case": normalizers.Lowercase(),
    "no accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "one for several": normalizers.Replace(Regex(" {2,}"), " "),
    "one for several, composed": normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]),
    "quotes": normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]),
    "several for one": normalizers.Replace("…", "..."),
    "none for several": normalizers.Replace(Regex("[\u200b ]{2,}"), ""),
    "blanks": normalizers.Replace(Regex(r"\s"), " "),
}
SPECIAL, UNKNOWN, ON = ("<s>", "</s>"), "<unk>", "0"


def built(normalizer, scheme: str, split: bool, sign: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(sign, scheme, split)
    tokenizer.decoder = decoders.Metaspace(sign, scheme, split)
    alphabet = sorted({*KNOWN, *KNOWN.lower(), *"\t\"'", sign})
    trainer = trainers.BpeTrainer(
        vocab_size=160, show_progress=False, special_tokens=[UNKNOWN, *SPECIAL], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator([KNOWN, KNOWN.replace("  ", " "), KNOWN.lower()] * 3, trainer)
    names = dict(zip(("bos_token", "eos_token"), SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN, **names)


def ends_by_hand(tokenizer, pieces: list[str], text: str, sign: str) -> list[int | None]:
    """Bytes of the text behind each piece, each stretch between two written special tokens on its own.

    None behind a part of what one character became.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer

    def made(some: str) -> str:
        return (normalizer.normalize_str(some) if normalizer else some).replace(" ", sign)

    ends, start, inner = [], 0, []
    for piece in [*pieces, None]:
        if piece is not None and piece not in SPECIAL:
            inner.append(piece)
            continue
        stop = len(text) if piece is None else text.index(piece, start)
        stretch = text[start:stop]
        # A sign behind a prefix tells that the text goes on there.
        prefixes = [made(stretch[:p] + ON).removesuffix(ON) for p in range(len(stretch))] + [made(stretch)]
        lengths = [1 if part == UNKNOWN else len(part) for part in inner]
        added = sum(lengths) - len(prefixes[-1])
        assert added in (0, 1) and (not added or inner[0][0] == sign), (inner, prefixes[-1])
        for count in range(1, len(inner) + 1):
            wanted = prefixes[-1][: max(sum(lengths[:count]) - added, 0)]
            shortest = len(stretch)
            while shortest and count < len(inner) and prefixes[shortest - 1].startswith(wanted):
                shortest -= 1
            whole = count == len(inner) or prefixes[shortest] == wanted
            ends.append(len(text[: start + shortest].encode()) if whole else None)
        start, inner = stop + len(piece or ""), []
        if piece is not None:
            ends.append(len(text[:start].encode()))
    return ends


@pytest.mark.parametrize("name", NORMALIZERS)
def test_spans_are_those_of_the_pieces_as_they_are_written(name):
    for scheme, split, sign in itertools.product(("always", "first", "never"), (True, False), "▁_"):
        tokenizer = built(NORMALIZERS[name], scheme, split, sign)
        for text in TEXTS:
            tokens = tokenize(tokenizer, text)
            pieces = tokenizer.convert_ids_to_tokens(tokens.ids)
            expected = ends_by_hand(tokenizer, pieces, text, sign)
            ends = [end if known is not None else None for end, known in zip(tokens.spans[:, 1].tolist(), expected)]
            assert ends == expected and expected.count(None) < 5, (scheme, split, text)
            plain = name == "none" and UNKNOWN not in pieces and not {"_", "▁"} & set(text)
            assert tokens.lossless or not plain
            assert not (tokens.lossless and UNKNOWN in pieces)  # whose own bytes are in no vocabulary


def test_a_word_longer_than_prefixes_are_tried_on_has_the_offsets_of_the_tokenizer():
    tokenizer = built(NORMALIZERS["quotes"], "always", True, "▁")
    text = "``he''" * 200 + " he"
    tokens = tokenize(tokenizer, text)
    pieces = tokenizer.convert_ids_to_tokens(tokens.ids)
    assert not tokens.lossless and tokens.spans[:, 1].tolist() == ends_by_hand(tokenizer, pieces, text, "▁")
