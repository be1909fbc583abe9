"""What documents begin with alike is counted once: in fits, in held-out scores, in runs and in functional tests."""

from dataclasses import replace
from itertools import takewhile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvlab.align.fold_sums import FITTED, SCORED
from kvlab.align.items import Reader
from kvlab.align.pipeline import align
from kvlab.align.rows import EXACT, row_parts, rows_of
from kvlab.align.shared_text import repeated_beginnings, repeated_steps
from kvlab.errors import TrainError
from kvlab.inject.prefix import cut_at
from kvlab.inject.split import split
from kvlab.models.loading import load
from kvlab.request import prompts
from kvlab.request.align import AlignSettings
from kvlab.shapes import Document
from tests.test_time import tokens
from tests.training import prepared

SYSTEM = "You are a careful assistant who counts boats, and stones. 请一步一步地思考。\n"
USES = tuple({*FITTED, *SCORED})
TEXTS = st.lists(st.text("aä水", max_size=6), max_size=12)


def alike(a, b):
    """Bytes that two texts begin with alike, one by one."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b)))


@given(TEXTS, TEXTS)
def test_against_every_pair(texts, known):
    found = repeated_beginnings(texts, known)
    assert list(found) == list(dict.fromkeys(texts))
    earlier = [text.encode() for text in known]
    for text, repeated in found.items():
        assert repeated == max((alike(text.encode(), other) for other in earlier), default=0)
        earlier.append(text.encode())


def test_a_token_across_the_border_is_the_documents_own():
    timeline = tokens([1, 2, 3, 1], bos=True)
    assert repeated_steps(timeline, 0).tolist() == [False] * 5
    assert repeated_steps(timeline, 4).tolist() == [True, True, True, False, False]


@pytest.fixture(scope="module")
def models():
    return load("demo/teacher", "cpu", "float32"), load("demo/student", "cpu", "float32")


def with_system(documents):
    return [Document(d.id, SYSTEM + d.text, ()) for d in documents]


@pytest.mark.model
@pytest.mark.xdist_group("beginnings")
class TestOnTheDemoPair:
    def rows(self, models, documents, calibration=(), again=False):
        """(the text up to the row's token, document, the row's class) of everything that is fitted or scored."""
        settings = AlignSettings(sinks=2)
        reader = Reader([models[0]], models[1], documents, calibration, settings)
        for window in reader.windows():
            for item in window:
                repeated = 0 if again else item.repeated
                parts = row_parts(item.teachers[0], item.student, item.maps[0], item.scored, settings, repeated)
                for step, row_class in zip(*rows_of(parts, USES)):
                    yield item.document.text.encode()[: item.student.spans[step, 1]], item.document.id, row_class

    def test_no_context_is_counted_twice_and_none_is_lost(self, models):
        documents = with_system(prompts.samples(12)) + prompts.samples(40)[12:]
        calibration = with_system(prompts.samples(50)[40:])
        once = [context for context, *_ in self.rows(models, documents, calibration)]
        assert len(once) == len(set(once))
        every = {context for context, *_ in self.rows(models, documents, calibration, again=True)}
        # Where a beginning ends within a word or a character, the earlier document may have cut it otherwise.
        lost = every - set(once)
        assert set(once) < every and len(lost) == 4 < 0.01 * len(every)
        assert {text[-2:] for text in lost} == {b"On", b"t ", b"\n\xe5", b"\n\xe6"}

    def test_the_keys_left_out_are_those_of_another_document(self, models):
        reader = Reader([models[0]], models[1], with_system(prompts.samples(6)), [], AlignSettings())
        first, *others = next(reader.windows())
        with torch.inference_mode():
            keys = [
                models[1].model(torch.from_numpy(i.student.ids)[None], use_cache=True).past_key_values.layers[-1].keys
                for i in (first, others[0])
            ]
        steps = np.flatnonzero(repeated_steps(others[0].student, others[0].repeated))
        assert first.repeated == 0 and len(steps) > 20
        difference = (keys[0][0, :, : len(keys[1][0, 0])] - keys[1][0, :, : len(keys[0][0, 0])]).abs().amax((0, 2))
        assert difference[steps].max() < 1e-4 < difference[len(steps) + 1]

    def test_an_analysis_says_it_and_scores_the_rest(self, models):
        settings = AlignSettings(layers="depth", random_teacher=False, inspect=3, sinks=2)
        documents = with_system(prompts.samples(12))
        rows = [(name, row_class) for _, name, row_class in self.rows(models, documents)]
        found, _ = align(models[0], models[1], documents, settings)
        assert found.data["rows_scored"] == found.data["rows_fit"] == len(rows)
        inside = sum(row_class != EXACT for _, row_class in rows)
        assert {score.n_inside for score in found.heads} == {inside} and inside > 100
        every = [name for _, name, _ in self.rows(models, documents, again=True)]
        # One or two tokens of each document would be apart in any case, as the teacher's sinks.
        assert 0 <= found.data["repeated_tokens"] - (len(every) - len(rows)) <= 2 * 11
        assert any("11 of 12 documents begin as an earlier one does" in note for note in found.notes)
        # A word or two that some documents begin with are counted, but no caution.
        few, _ = align(models[0], models[1], prompts.samples(24), settings)
        assert 0 < few.data["repeated_tokens"] < 0.05 * few.data["student_tokens"]
        assert not any("begin as an earlier one does" in note for note in few.notes)
        for view in found.inspected:
            assert sum(view.scored) == sum(name == view.id for name, _ in rows)

    def test_a_functional_test_goes_on_in_what_is_the_documents_own(self, models):
        parts = split([models[0]], models[1], with_system(prompts.samples(30)), (), AlignSettings(folds=3), 8)
        for item in parts.judged:
            known, length = int(repeated_steps(item.student, item.repeated).sum()), len(item.student)
            assert (known > 20) == (item.repeated > 0)
            assert cut_at(0.5, item) == known + round((length - known) / 2)
            few = replace(item, student=item.student.first(known + 3))
            assert cut_at(0.5, few) == 0 or not known


def shared(folder, prefix, own):
    folder.mkdir(exist_ok=True)
    path = folder / "shared.txt"
    path.write_text("\n\n".join(prefix + text for text in own), encoding="utf-8")
    return {"data": str(path)}


OWN = [f"{n} boats leave the mill and {n + 1} stones stay." for n in range(20)]


@pytest.mark.model
@pytest.mark.xdist_group("train-loop")
class TestInARun:
    def test_what_was_trained_on_is_not_held_out(self, pair, tmp_path):
        run = prepared(tmp_path / "run", pair | shared(tmp_path / "data", SYSTEM.strip() + " ", OWN))
        run._evaluate("before")
        told, trained = run.report["before"], [item.document.text for item in run.data.train]
        ce, count = 0.0, 0
        student = run.accelerator.unwrap_model(run.learner).loaded
        for n, item in enumerate(run.data.heldout):
            earlier = trained + [held.document.text for held in run.data.heldout[:n]]
            text = item.document.text.encode()
            known = max(alike(text, other.encode()) for other in earlier)
            ids = torch.from_numpy(item.student.ids)[None]
            with torch.inference_mode():
                losses = -student.model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            own = torch.from_numpy(item.student.spans[1:, 1] > known)
            ce, count = ce + float(losses[own].sum()), count + int(own.sum())
        assert 0 < count == told["tokens"] < sum(len(i.student) - 1 for i in run.data.heldout) / 2
        assert told["ce"] == pytest.approx(ce / count, rel=1e-4)
        # The student reads and learns all of it.
        (micro,) = run.data.step(0)
        assert all(item.repeated == 0 for item in micro) and any(item.repeated for item in run.data.train)

    def test_nothing_held_out_is_refused(self, pair, tmp_path):
        held = prepared(tmp_path / "first", pair | shared(tmp_path / "data", "", OWN)).data.heldout
        texts = {item.document.text for item in held}
        # What is held out depends on the seed and the number of documents alone.
        own = [text if text in texts else f"{list(texts)[n % len(texts)]} And {text}" for n, text in enumerate(OWN)]
        with pytest.raises(TrainError, match="held-out documents that go on"):
            prepared(tmp_path / "run", pair | shared(tmp_path / "data", "", own))
