"""Several texts, chats, texts that the teacher has read, and texts that grow have the cache of a plain hand-over."""

from contextlib import contextmanager

import pytest
import torch

from kvlab.errors import AlignError
from kvlab.inject.handoff import Handover, handoff
from kvlab.inject.map_file import MapFile
from kvlab.models import cache_names, chat
from kvlab.models.capture import capture, captured
from kvlab.models.forward import empty_cache
from kvlab.models.loading import load
from kvlab.models.tokens import tokenize
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Document
from tests import handed
from tests.handed import fitted, generated, stored
from tests.tiny import TEXT, tiny_model

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("handoff")]
NEAR = 2e-5
CHAT = (
    "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
GROWING = (
    "Tom has 3 apples. ",
    "He buys 4 more in the market, ",
    "and 小明 gives him 5. How many ap",
    "ples has he now?",
)


@pytest.fixture(scope="module")
def demo():
    return handed.demo()


@contextmanager
def templates(models, template=CHAT):
    tokenizers = [loaded.tokenizer for loaded in (*models.teachers, models.student)]
    before = [tokenizer.chat_template for tokenizer in tokenizers]
    for tokenizer in tokenizers:
        tokenizer.chat_template = template
    try:
        yield
    finally:
        for tokenizer, kept in zip(tokenizers, before, strict=True):
            tokenizer.chat_template = kept


def near(mine, theirs, student):
    assert mine.get_seq_length() == theirs.get_seq_length() and torch.equal(mine.input_ids, theirs.input_ids)
    assert torch.equal(mine.replaced, theirs.replaced) and mine.approximate == theirs.approximate
    for x, y in zip(stored(mine, student), stored(theirs, student), strict=True):
        assert (x - y).abs().max() < NEAR * max(1.0, y.abs().max().item())


@torch.inference_mode()
def teacher_cache(teacher, text):
    ids = torch.from_numpy(tokenize(teacher.tokenizer, text).ids)[None]
    cache = empty_cache(teacher)
    teacher.model.base_model(input_ids=ids, **cache_names.passing(teacher.model.base_model, cache))
    return cache


def test_a_cache_that_the_teacher_has_already_gives_the_same_rows_to_the_last_bit(demo):
    models, _, judged, written = demo
    teacher, student = models.teachers[0], models.student
    text = judged[0].document.text
    tokens = tokenize(teacher.tokenizer, text)
    longer = teacher_cache(teacher, text + " And so on.")
    read, there = capture(teacher, [tokens]), captured(teacher, tokens, teacher_cache(teacher, text))
    for kind in KINDS:
        assert all(torch.equal(a, b) for a, b in zip(read.of(kind), there.of(kind), strict=True))
    plain = handoff(written, teacher, student, text)
    near(handoff(written, teacher, student, text, caches=[longer]), plain, student)
    short = teacher_cache(teacher, text[:20])
    with pytest.raises(AlignError, match="layers with"):
        handoff(written, teacher, student, text, caches=[short])


@pytest.mark.parametrize("options", [{}, {"read_last": 5, "source": "projected"}, {"own_layers": 2}])
def test_a_text_that_grows_has_the_cache_of_the_whole_and_is_read_once(demo, options):
    models, _, _, written = demo
    teacher, student = models.teachers[0], models.student
    stream, text, read = written.stream(teacher, student, **options), "", []
    forward = teacher.model.base_model.forward

    def counted(*args, **kwargs):
        read.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    for part in GROWING:
        text += part
        teacher.model.base_model.forward = counted
        try:
            cache = stream.extend(part)
        finally:
            del teacher.model.base_model.forward
        near(cache, handoff(written, teacher, student, text, **options), student)
        generated(student, cache, 3)  # is taken out again
    whole = len(tokenize(teacher.tokenizer, text))
    behind = read[0::2]  # each followed by the dry forward that finds the rotations
    assert whole - 2 <= sum(behind) <= whole + 2 * len(GROWING)


def test_a_growing_text_whose_teacher_keeps_a_state_is_read_again(tmp_path):
    teacher = load(tiny_model("jamba", tmp_path / "teacher", seed=1))
    student = load(tiny_model("llama", tmp_path / "student", seed=2))
    words = TEXT.split()
    documents = [Document(str(n), " ".join(words[n : n + 25])) for n in range(0, 60, 5)]
    settings = AlignSettings(random_teacher=False, layers="depth", folds=2, sinks=2)
    _, found, _ = fitted(teacher, student, documents, settings)
    written = handed.map_file(found, [teacher], student, settings)
    stream = written.stream(teacher, student, source="projected")
    text = " ".join(words[:25])
    for end in (30, 61, len(text)):
        cache = stream.extend(text[len(stream.text) : end])
        near(cache, handoff(written, teacher, student, text[:end], source="projected"), student)


def test_several_texts_are_padded_on_the_left_and_continued_alike(demo):
    models, _, judged, written = demo
    teacher, student = models.teachers[0], models.student
    texts = [judged[0].document.text, judged[1].document.text[:40], "Tom has 3 apples."]
    whole = handoff(written, teacher, student, texts)
    assert whole.input_ids.shape == whole.attention_mask.shape and whole.approximate
    said = generated(student, whole, 6)
    for b, text in enumerate(texts):
        one = handoff(written, teacher, student, text)
        length = one.input_ids.shape[1]
        assert whole.attention_mask[b].sum() == length and whole.input_ids[b, -length:].equal(one.input_ids[0])
        assert whole.replaced[b, -(length - 1) :].equal(one.replaced) and not whole.replaced[b, : -(length - 1)].any()
        (mine,) = generated(student, one, 6)
        assert said[b][: len(mine)] == mine


def test_no_text_and_several_texts_with_one_cache_are_refused(demo):
    models, _, judged, written = demo
    teacher, student = models.teachers[0], models.student
    text = judged[0].document.text
    with pytest.raises(AlignError, match="0 texts"):
        handoff(written, teacher, student, [])
    with pytest.raises(AlignError, match="one by one"):
        handoff(written, teacher, student, [text, text], caches=[teacher_cache(teacher, text)])


def test_a_part_that_fails_takes_nothing_with_it(demo, monkeypatch):
    models, _, _, written = demo
    teacher, student = models.teachers[0], models.student
    stream = written.stream(teacher, student)
    stream.extend(GROWING[0])

    def full(*_):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("kvlab.inject.handoff._fill", full)
        with pytest.raises(MemoryError):
            stream.extend("He")
    near(stream.extend(GROWING[1]), handoff(written, teacher, student, GROWING[0] + GROWING[1]), student)


def test_messages_are_read_by_each_models_own_template_and_await_an_answer(demo):
    models, found, _, _ = demo
    settings = AlignSettings(**handed.FEW, chat=True)
    written = handed.map_file(found, models.teachers, models.student, settings)
    asked = [{"role": "user", "content": "Tom has 3 apples and buys 4 more. How many has he?"}]
    told = [*asked, {"role": "assistant", "content": "3 + 4 = 7."}]
    with templates(models):
        cache = handoff(written, models.teachers[0], models.student, asked)
        ended = handoff(written, models.teachers[0], models.student, told)
        hand = Handover(written, models.teachers, models.student)
        for item, end in ((hand.item(asked), "<assistant>\n"), (hand.item(told), "7.\n")):
            assert models.student.tokenizer.decode(item.student.ids).endswith(end)
        assert models.student.tokenizer.decode(ended.input_ids[0]).count("<assistant>") == 1
        # What only the template wrote is read by the student itself.
        special = torch.from_numpy(hand.item(asked).student.special[:-1])
        assert special.any() and not cache.replaced[special].any() and cache.replaced.any()
        several = handoff(written, models.teachers[0], models.student, [asked, told])
        assert len(several.input_ids) == 2
    plain = AlignSettings(**handed.FEW)
    without = MapFile({**written.manifest, "settings": plain.model_dump(mode="json")}, written.tensors)
    joined = handoff(without, models.teachers[0], models.student, told)
    text = "\n".join(message["content"] for message in told)
    near(joined, handoff(without, models.teachers[0], models.student, text), models.student)
    document = Document("d", "2 + 2", ())
    with templates(models):
        opened = chat.read(models.student.tokenizer, document, True, answering=True)
        closed = chat.read(models.student.tokenizer, document, True)
    assert len(opened) > len(closed) and opened.ids[: len(closed)].tolist() == closed.ids.tolist()
