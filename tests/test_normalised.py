"""Spans of text that a tokenizer normalises, against brute force: the shortest prefix that reads as was decoded."""

import math
import unicodedata
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from kvlab.align.inspection import timeline_summary
from kvlab.models.normalised import clusters
from kvlab.models.tokens import tokenize
from kvlab.request.time_rules import CAUSAL, MAPS
from tests.tiny import tiny_tokenizer

TEXTS = {
    "Vietnamese": "Tiếng Việt có nhiều dấu, và mỗi chữ một khác. Đường phố hẹp.",
    "Korean": "한국어 문장을 분해하면 자모가 된다. 값과 닭이 있다.",
    "French": "L’été dernier, à Besançon, le garçon a gêné la fenêtre où Zoë naît.",
    "Greek": "Ἐν ἀρχῇ ἦν ὁ λόγος, καὶ τῇ ψυχῇ ᾠδή. Μαΐου και ταΰγετος.",
    "Japanese": "がぎぐ パピプ ゴジラが東京でピザを食べる。",
    "Bengali": "কোনো বাংলা লোক কৌতুক বোঝে, ড় ঢ় য়।",
}
FORMS = {
    "nfc": ("byte", normalizers.NFC()),
    "nfkc": ("byte", normalizers.NFKC()),
    "nfkc, lower case": ("byte", normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
    "nfc, trimmed": ("byte", normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])),
    "nfc, dummy prefix": (
        "sentencepiece",
        normalizers.Sequence([normalizers.NFC(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    ),
}
PREFIX = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
TEACHER = "nfc, whole"
WHOLE = {
    "as it is, whole": normalizers.Sequence(PREFIX),
    TEACHER: normalizers.Sequence([normalizers.NFC(), *PREFIX]),
    "nfkc, whole": normalizers.Sequence([normalizers.NFKC(), *PREFIX]),
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Each form, trained on the composed texts, and one that takes text as it is."""
    text = "\n".join([*TEXTS.values()] * 3)
    made = {name: tiny_tokenizer(tmp_path_factory.mktemp("t"), style, 900, text) for name, (style, _) in FORMS.items()}
    for name, (_, normalizer) in FORMS.items():
        made[name].backend_tokenizer.normalizer = normalizer
    whole = "\n".join([text, unicodedata.normalize("NFD", text), unicodedata.normalize("NFKC", text)])
    for name, normalizer in WHOLE.items():  # a token ends in no character
        vocab = 1100 if name == TEACHER else 600
        made[name] = tiny_tokenizer(tmp_path_factory.mktemp("t"), "sentencepiece", vocab, whole)
        made[name].backend_tokenizer.normalizer = normalizer
    made["as it is"] = tiny_tokenizer(tmp_path_factory.mktemp("t"), "byte", 900, unicodedata.normalize("NFD", text))
    made["as it is"].backend_tokenizer.normalizer = None
    return made


def by_prefixes(tokenizer, ids: np.ndarray, text: str) -> list[int | None]:
    """Bytes read behind each token: of the shortest prefix of which every longer one begins as what was decoded.

    None behind half a character.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer

    def made(some: str) -> str:
        return (normalizer.normalize_str(some) if normalizer else some).replace("▁", " ").removeprefix(" ")

    whole, ends = [made(text[:p]) for p in range(len(text) + 1)], []
    for k in range(1, len(ids) + 1):
        decoded = tokenizer.decode(ids[:k], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if "\ufffd" in decoded:
            ends.append(None)
            continue
        shortest = len(text)
        while shortest and whole[shortest - 1].startswith(decoded):
            shortest -= 1
        ends.append(len(text[:shortest].encode()))
    return ends


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("language", TEXTS)
def test_ends_of_decomposed_text_are_those_of_its_prefixes(tokenizers, form, language):
    text = unicodedata.normalize("NFD", TEXTS[language])
    tokens = tokenize(tokenizers[form], text)
    expected = by_prefixes(tokenizers[form], tokens.ids, text)
    ends = tokens.spans[:, 1].tolist()
    content = (~tokens.special).tolist()
    assert not tokens.lossless
    assert [e for e, x, c in zip(ends, expected, content) if c and x is not None] == [
        x for x, c in zip(expected, content) if c and x is not None
    ]
    assert ends[-1] == len(text.encode()) and (np.diff(ends) >= 0).all()


@pytest.mark.parametrize("language", TEXTS)
def test_floor_never_looks_ahead_on_decomposed_text_and_exact_is_exact(tokenizers, language):
    text = unicodedata.normalize("NFD", TEXTS[language])
    teacher, student = tokenize(tokenizers["nfc"], text), tokenize(tokenizers["as it is"], text)
    read_t = by_prefixes(tokenizers["nfc"], teacher.ids, text)
    read_s = by_prefixes(tokenizers["as it is"], student.ids, text)
    floor = MAPS["floor"](teacher, student, ())
    known = [(r, c) for r, c in zip(floor.rows, floor.columns) if read_t[c] is not None and read_s[r] is not None]
    assert len(known) > 20
    assert all(read_t[c] <= read_s[r] for r, c in known)
    ends = {end for end in read_t if end is not None}
    exact = [read_s[r] in ends for r, _ in known]
    assert [bool(floor.exact[r]) for r, _ in known] == exact and 0 < sum(exact) < len(exact)


def steps_by_hand(rule: str, read_t: list[int], read_s: list[int], content_t: list[int], content_s: list[int]) -> dict:
    """Student step -> the teacher steps with a share in it, from the definition of the rule (docs/method.md)."""

    def between(t: list[int], s: list[int]) -> dict:
        places = [Fraction(k * (len(t) - 1), max(len(s) - 1, 1)) for k in range(len(s))]
        return {row: {t[math.floor(u)], t[math.ceil(u)]} for row, u in zip(s, places)}

    def bytes_of(read: list[int], content: list[int], step: int) -> set[int]:
        return set(range(max([read[other] for other in content if other < step], default=0), read[step]))

    if rule in ("linear", "segment"):
        everywhere = range(len(read_t)), range(len(read_s))
        return between(*map(list, everywhere if rule == "linear" else (content_t, content_s)))
    if rule == "nearest":
        last_t, last_s = len(read_t) - 1, max(len(read_s) - 1, 1)
        return {row: {math.floor(Fraction(row * last_t, last_s) + Fraction(1, 2))} for row in range(len(read_s))}
    steps = {}
    for row in content_s:
        if rule == "overlap":
            mine = bytes_of(read_s, content_s, row)
            steps[row] = {c for c in content_t if mine & bytes_of(read_t, content_t, c)}
        elif rule == "ceil":
            steps[row] = set([c for c in content_t if read_t[c] >= read_s[row]][:1])
        else:
            steps[row] = set([c for c in content_t if read_t[c] <= read_s[row]][-1:])
            if rule == "exact":
                steps[row] = {c for c in steps[row] if read_t[c] == read_s[row]}
    return steps


@pytest.mark.parametrize("student", ["as it is, whole", "nfkc, whole"])
@pytest.mark.parametrize("language", TEXTS)
def test_rates_of_every_rule_on_decomposed_text_are_those_of_prefixes(tokenizers, language, student):
    """Exact: one teacher step, which ends at the same byte. Looking ahead: a share of one that has read more."""
    text = unicodedata.normalize("NFD", TEXTS[language])
    made = [tokenize(tokenizers[name], text) for name in (TEACHER, student)]
    read_t, read_s = (by_prefixes(tokenizers[name], one.ids, text) for name, one in zip((TEACHER, student), made))
    content_t, content_s = (np.flatnonzero(~one.special).tolist() for one in made)
    item = SimpleNamespace(teachers=[made[0]], student=made[1], document=SimpleNamespace(segments=()))
    found = timeline_summary([item], 0)["rules"]
    assert set(found) == set(MAPS) and None not in (*read_t, *read_s)
    for rule in MAPS:
        steps = {row: of for row, of in steps_by_hand(rule, read_t, read_s, content_t, content_s).items() if of}
        steps = {row: steps[row] for row in content_s if row in steps}
        exact = [
            row
            for row, of in steps.items()
            if {read_t[c] for c in of if c in content_t} == {read_s[row]} and len(of) == 1
        ]
        ahead = [row for row, of in steps.items() if any(read_t[c] > read_s[row] for c in of)]
        rates = found[rule]["exact_rate"], found[rule]["looks_ahead_rate"], found[rule]["coverage"]
        assert rates == (
            pytest.approx(len(exact) / len(content_s)),
            pytest.approx(len(ahead) / len(steps)),
            pytest.approx(len(steps) / len(content_s)),
        ), rule
        assert bool(ahead) == (rule not in CAUSAL) and len(exact) < len(content_s), rule


@pytest.mark.parametrize("form", ["nfc", "nfc, trimmed", "nfc, dummy prefix"])
def test_blanks_at_the_ends_and_special_tokens_between_composed_letters(tokenizers, form):
    """The token of a letter ends behind its marks, on both sides of a special token and of trimmed blanks."""
    special = tokenizers[form].eos_token
    text = unicodedata.normalize("NFD", f"  Tiếng Việt {special} nhiều dấu  ")
    tokens = tokenize(tokenizers[form], text)
    whole = ["\ufffd" not in tokenizers[form].decode(tokens.ids[: k + 1]) for k in range(len(tokens))]
    ends = set(tokens.spans[whole & ~tokens.special, 1].tolist())
    within = {len(text[:p].encode()) for p in range(1, len(text)) if unicodedata.combining(text[p])}
    assert not ends & within and len(ends) > 5
    assert {text.encode().index(special.encode()) + len(special), len(text.encode())} <= ends


@settings(max_examples=150)
@given(text=st.text("ae\u0301\u0323\u1112\u1161\u11ab 한か\u3099ﬁ①A\u212b\u0958", max_size=12))
def test_any_text_is_tiled_to_its_end(tokenizers, text):
    for form in FORMS:
        tokens = tokenize(tokenizers[form], text)
        ends = tokens.spans[:, 1]
        assert (np.diff(ends) >= 0).all()
        assert tokens.special.all() or ends[-1] == len(text.encode()) or not text.strip()


@pytest.mark.parametrize("text", ["he <s> and </s> it", "<s>he</s>", "a </s></s> b", " </s> he"])
def test_a_dummy_prefix_behind_a_special_token_has_no_bytes(tmp_path, text):
    """Llama's normaliser writes one before every stretch of text between special tokens."""
    tokenizer = tiny_tokenizer(tmp_path, "sentencepiece")
    tokens = tokenize(tokenizer, text)
    assert tokens.lossless
    pieces = [text.encode()[a:b].decode() for a, b in tokens.spans[~tokens.special].tolist()]
    assert "".join(pieces) == text
    names = tokenizer.convert_ids_to_tokens(tokens.ids[~tokens.special].tolist())
    special = [piece for piece, name in zip(pieces, names) if name in ("<s>", "</s>")]
    assert special == [name for name in names if name in ("<s>", "</s>")]
    for piece, name in zip(pieces, names):
        assert piece in (name.replace("▁", " "), name.replace("▁", " ", 1).replace(" ", "", 1).replace("▁", " "))


@pytest.mark.parametrize("text", ["Tiếng Việt", "한국어 말", "naïve café", "ёж", "பாடம்"])
def test_every_cluster_of_decomposed_text_is_one_composed_character(text):
    composed, decomposed = unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)
    marks = [i for i, character in enumerate(composed) if unicodedata.category(character)[0] == "M"]
    pieces = list(clusters(decomposed))
    assert "".join(pieces) == decomposed and len(pieces) == len(composed) - len(marks)
    assert "".join(unicodedata.normalize("NFC", piece) for piece in pieces) == composed
