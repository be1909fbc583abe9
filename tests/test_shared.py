"""Text that other folds hold, too, against a search for every run."""

import json

import numpy as np
import pytest

from kvlab.align import shared_text
from kvlab.align.items import Reader
from kvlab.align.shared_text import RUN, shared_shares
from kvlab.language import Message, speaking
from kvlab.models.loading import reader
from kvlab.request import prompts
from kvlab.request.align import AlignSettings
from kvlab.shapes import Document

SAMPLES = [document.text for document in prompts.samples(40)]
ENGLISH = [text for text in SAMPLES if text.isascii()]
BODY = " ".join(ENGLISH[:3])


def by_search(texts, folds):
    runs = [[text[at : at + RUN] for at in range(len(text) - RUN + 1)] for text in texts]
    elsewhere = [{run for of, fold in zip(runs, folds) if fold != own for run in of} for own in folds]
    return [np.mean([run in others for run in of]) if of else 0.0 for of, others in zip(runs, elsewhere)]


def test_shares_are_those_of_a_search_for_every_run(monkeypatch):
    half = ENGLISH[5].encode()[:RUN]
    texts = [text.encode() for text in (*SAMPLES[6:26], f"A {BODY}", f"Some {BODY}", f"{BODY} at last", "", "short")]
    texts += [b"x" * 300 + half, b"y" * RUN + half]
    folds = [number % 3 for number in range(len(texts))]
    monkeypatch.setattr(shared_text, "ONE_IN", 1)
    np.testing.assert_allclose(shared_shares(texts, folds), by_search(texts, folds))
    monkeypatch.setattr(shared_text, "ONE_IN", 8)
    np.testing.assert_allclose(shared_shares(texts[:25], folds[:25]), by_search(texts[:25], folds[:25]), atol=0.1)


def test_of_much_text_fewer_runs_are_kept_and_the_shares_stay(monkeypatch):
    texts = [(f"{number} {BODY} {ENGLISH[number]}" * 4).encode() for number in range(6)]
    exact = by_search(texts, [0, 1, 2, 0, 1, 2])
    monkeypatch.setattr(shared_text, "MOST_KEPT", sum(map(len, texts)) // 16)
    np.testing.assert_allclose(shared_shares(texts, [0, 1, 2, 0, 1, 2]), exact, atol=0.15)


def read(texts, folds=5, known=()):
    found = Reader(
        [reader("demo/teacher")],
        reader("demo/student"),
        [Document(f"d{number}", text) for number, text in enumerate(texts)],
        (),
        AlignSettings(folds=folds),
        known,
    )
    assert sum(len(window) for window in found.windows()) == len(texts)
    return found


def test_documents_that_differ_by_a_word_or_in_order_alone_are_said():
    sentences = ENGLISH[:6]
    turned = [" ".join(sentences[number:] + sentences[:number]) for number in range(6)]
    for texts in ([f"{word} {BODY}" for word in ("One", "Two", "Three", "Four", "Five", "Six")], turned):
        (note,) = read([*texts, SAMPLES[30]]).shared_notes()
        assert str(note).startswith("6 of 7 documents are mostly text that documents of other folds have as well")
        assert str(note).endswith("d0, d1, d2, d3, d4, …")


def test_the_bundled_samples_share_little():
    assert read(SAMPLES).shared_notes() == []


def test_held_out_documents_are_set_against_those_trained_on_and_not_against_each_other():
    held = [f"First {BODY}", f"Then {BODY}", SAMPLES[30], f"{BODY} {ENGLISH[5]}"]
    assert read(held[:3], known=[SAMPLES[31]]).shared_notes() == []
    (note,) = read(held[:3], known=[f"Once {BODY}", SAMPLES[31]]).shared_notes()
    assert str(note) == "2 of 3 held-out documents are mostly text of training documents: d0, d1"
    # What one begins with as a training document does counts once, and is not among it.
    assert read(held[2:], known=[f"{BODY}, and so on"]).shared_notes() == []


@pytest.mark.parametrize("piece", ["<|endoftext|>", "</s>"])
def test_text_that_is_read_as_a_special_token_is_said(piece):
    notes = read([SAMPLES[0], f"{SAMPLES[1]}{piece}{SAMPLES[2]}", SAMPLES[3]]).notes()
    assert f"In 1 of 3 documents a tokenizer reads pieces of the text as special tokens ({piece}), which count as " in (
        " ".join(map(str, notes))
    )


def test_a_document_keeps_its_name_in_every_language():
    names = ["done", "training", "model"]
    documents = [Document(name, f"{name} {BODY}") for name in names]
    reader_of = Reader([reader("demo/teacher")], reader("demo/student"), documents, (), AlignSettings(folds=3))
    assert sum(map(len, reader_of.windows())) == 3
    (note,) = reader_of.shared_notes()
    with speaking("zh"):
        said = str(Message.read(json.loads(json.dumps(note.to_dict()))))
    assert note.values["names"] == names and all(name in said for name in names)
    assert "documents are mostly text" not in said
