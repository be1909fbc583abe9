"""The features of the student's own tokens, by hand."""

from types import SimpleNamespace

import torch
from torch import nn

from kvlab.align import own_tokens
from kvlab.align.own_tokens import own_token_features, own_token_width, teacher_token_features


def student(width, vocabulary=11):
    embeddings = nn.Embedding(vocabulary, width)
    with torch.no_grad():
        embeddings.weight.copy_(torch.randn(vocabulary, width, generator=torch.Generator().manual_seed(0)))
        embeddings.weight[3] *= 1e3  # how long an embedding is says nothing
    model = SimpleNamespace(get_input_embeddings=lambda: embeddings)
    return SimpleNamespace(model=model, geometry=SimpleNamespace(vocabulary=vocabulary), home="cpu")


IDS = torch.tensor([[5, 3, 5, 0], [1, 2, 7, 10]])


def test_a_row_holds_its_own_token_and_the_two_before_it_and_zeros_where_there_are_none():
    loaded = student(6)
    weight = loaded.model.get_input_embeddings().weight.detach()
    unit = weight / (weight.square().mean(1, keepdim=True) + 1e-6).sqrt()
    found = own_token_features(loaded, IDS)
    assert found.shape == (2, 1, 4, 18) and own_token_width(18) == 6
    for b, ids in enumerate(IDS.tolist()):
        for step in range(4):
            for before in range(3):
                expected = unit[ids[step - before]] if step >= before else torch.zeros(6)
                torch.testing.assert_close(found[b, 0, step, 6 * before : 6 * before + 6], expected)


def test_wide_embeddings_are_seen_along_the_principal_directions_of_the_vocabulary(monkeypatch):
    monkeypatch.setattr(own_tokens, "MOST_OF_A_TOKEN", 4)
    loaded = student(6)
    weight = loaded.model.get_input_embeddings().weight.detach()
    unit = weight / (weight.square().mean(1, keepdim=True) + 1e-6).sqrt()
    found = own_token_features(loaded, IDS)
    assert found.shape == (2, 1, 4, 12)
    # As far as four dimensions tell tokens apart: the best approximation of their products.
    _, values, directions = torch.linalg.svd(unit, full_matrices=False)
    kept = unit @ directions[:4].T @ directions[:4]
    own = found[0, 0, :, :4]
    torch.testing.assert_close(own @ own.T, kept[IDS[0]] @ kept[IDS[0]].T, rtol=1e-4, atol=1e-4)
    assert values[4] > 0.1 and torch.equal(found[0, 0, 0, 4:], torch.zeros(8))
    torch.testing.assert_close(found[0, 0, 1, 4:8], own[0])


def test_the_teachers_token_is_its_embedding_or_as_much_of_it_as_the_principal_directions_hold(monkeypatch):
    loaded = student(6)
    weight = loaded.model.get_input_embeddings().weight.detach()
    weight[3] /= 1e3  # one long embedding would be the first direction by itself
    assert torch.equal(teacher_token_features(loaded, IDS)[:, 0], weight[IDS])
    monkeypatch.setattr(own_tokens, "MOST_OF_A_TOKEN", 2)
    found = teacher_token_features(loaded, IDS)[:, 0].reshape(-1, 2)
    rows = weight[IDS.flatten()]
    directions = torch.linalg.svd(weight, full_matrices=False)[2][:2]
    kept = rows @ directions.T @ directions
    torch.testing.assert_close(found @ found.T, kept @ kept.T, rtol=1e-4, atol=1e-4)
    # The student's features of the same model, which are scaled, have directions of their own.
    scaled = weight / (weight.square().mean(1, keepdim=True) + 1e-6).sqrt()
    directions = torch.linalg.svd(scaled, full_matrices=False)[2][:2]
    kept, found = scaled[IDS[0]] @ directions.T @ directions, own_token_features(loaded, IDS)[0, 0, :, :2]
    torch.testing.assert_close(found @ found.T, kept @ kept.T, rtol=1e-4, atol=1e-4)
