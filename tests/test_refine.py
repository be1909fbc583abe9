"""Maps corrected through the student: trained on fitted documents alone, and no worse on those that stop them."""

import pytest
import torch

from kvlab.errors import Cancelled
from kvlab.inject import refine as refining
from kvlab.inject.correction import Correction, base_of, normal, replaced_kl
from kvlab.inject.fit import fit
from kvlab.inject.prefix import Models, cut_at, inputs_of, prefix_of, read_document
from kvlab.inject.split import split
from kvlab.inject.trial import tried
from kvlab.models.loading import load
from kvlab.request import prompts
from kvlab.request.align import AlignSettings
from kvlab.request.forecast import refining_memory
from kvlab.shapes import REFINING, no_progress

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("inject")]

SETTINGS = AlignSettings(layers="depth", random_teacher=False)
SHARE = 0.5


@pytest.fixture(scope="module")
def fitted():
    teacher, student = load("demo/teacher", "cpu", "float32"), load("demo/student", "cpu", "float32")
    documents = split([teacher], student, prompts.samples()[:30], [], SETTINGS, most=64)
    return (
        Models([teacher], [], student, SETTINGS),
        fit([teacher], [], student, documents, SETTINGS, no_progress),
        documents,
    )


@pytest.fixture(scope="module")
def refined(fitted):
    models, fit_, documents = fitted
    seen = []
    read = refining.read_document
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refining, "read_document", lambda m, item: seen.append(item.document.text) or read(m, item))
        sources = refining.refine(models, fit_, documents.fitted, SHARE, no_progress).sources
    return sources, seen


def kl(models, fit_, item, name):
    """Nats per token by the path of the functional test."""
    reading = read_document(models, item)
    prefix = prefix_of(models, fit_, reading, cut_at(SHARE, item))
    damaged = tried(models.student, reading.own, prefix, ["own", name], 4096).damaged[name]
    return damaged.kl / damaged.n


def test_the_loss_is_the_kl_of_the_functional_test(fitted):
    models, fit_, documents = fitted
    for item in documents.fitted[:3]:
        case = normal(refining._case(models, fit_, item, SHARE))
        rows = base_of(fit_.sources["projected"], case)
        assert float(replaced_kl(models.student, case, rows)) == pytest.approx(
            kl(models, fit_, item, "projected"), rel=1e-4
        )


def test_no_judged_document_is_read_and_each_source_is_refined(fitted, refined):
    _, fit_, documents = fitted
    sources, seen = refined
    assert set(sources) == {"refined", "with-own-token-refined", "own-tokens-refined"}
    assert seen and not {item.document.text for item in documents.judged} & set(seen)
    for name, new in refining.REFINED.items():
        assert sources[new].maps is fit_.sources[name].maps  # the ridge map stays, and a correction comes to it


def test_the_documents_that_stop_the_training_are_not_worse_off_and_judged_ones_are_better(fitted, refined):
    models, fit_, documents = fitted
    sources, _ = refined
    fit_.sources.update(sources)
    items = [item for item in documents.fitted if cut_at(SHARE, item)]
    order = torch.from_numpy(refining.np.random.default_rng(SETTINGS.seed).permutation(len(items))).tolist()
    stopping = [items[at] for at in order[: len(items) // refining.STOPPING]]
    for name, new in refining.REFINED.items():
        before, after = (sum(kl(models, fit_, item, n) for item in stopping) for n in (name, new))
        assert after <= before * (1 + 1e-5)
    judged = [item for item in documents.judged if cut_at(SHARE, item)]
    before, after = (sum(kl(models, fit_, item, n) for item in judged) for n in ("projected", "refined"))
    assert after < before


def test_the_forecast_covers_what_autograd_keeps_of_a_document(fitted):
    models, fit_, documents = fitted
    items = [item for item in documents.fitted if cut_at(SHARE, item)][:8]
    cases = refining._cases(models, fit_, items, SHARE, no_progress)
    training = refining._Training(models, fit_.sources["projected"], cases)
    here = [*training.correction.parameters(), *models.student.model.parameters()]
    known, kept = {x.untyped_storage().data_ptr() for x in here}, {}

    def keep(x):
        if x.untyped_storage().data_ptr() not in known:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    case = max(cases, key=lambda case: len(case.own.tokens))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = training.kl(case)
    tokens = len(case.own.tokens)
    parts = {p.name: p.bytes for p in refining_memory(models.student.geometry, 3, tokens)}
    forecast = parts["activations"] + parts["logits"]
    assert loss.requires_grad and forecast / 4 < sum(kept.values()) < forecast


def test_a_correction_is_zero_at_the_start_and_of_the_class_of_each_row():
    x, y = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.randn(40, 4)
    correction = Correction({("key", 0): x}, {("key", 0): y})
    classes = torch.arange(40) % 2
    assert not correction(("key", 0), x, classes).any()
    with torch.no_grad():
        correction.weights["key_0"][1] = 1.0
    rows = correction(("key", 0), x, classes)
    assert not rows[classes == 0].any() and (rows[classes == 1] != 0).all()
    mean, basis = correction.whitening(("key", 0))
    whitened = (x - mean) @ basis
    torch.testing.assert_close(whitened.T @ whitened / len(x), torch.eye(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows[1], y.std() * whitened[1].sum().expand(4))


def test_a_request_to_stop_ends_it(fitted):
    models, fit_, documents = fitted

    def stop(stage, done, total):
        if stage.startswith(REFINING) and done:
            raise Cancelled

    with pytest.raises(Cancelled):
        refining.refine(models, fit_, documents.fitted, SHARE, stop)


def test_what_a_source_reads_is_the_same_for_layers_that_read_the_same(fitted):
    models, fit_, documents = fitted
    item = next(item for item in documents.judged if cut_at(SHARE, item))
    inputs = inputs_of(models, fit_, item, read_document(models, item).own.ids, cut_at(SHARE, item))
    own = inputs.features["own tokens"]
    assert own["key", 0][0] is own["value", 3][0] and own["key", 0][0].shape[1] == 3 * 128
