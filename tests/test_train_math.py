"""Loss terms, fusion and collapse against values computed by hand or by another way."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kvlab.train import collapse, fusion, learner
from kvlab.train.loop import Objective, lowest, warm_then_fall
from kvlab.train.targets import variances

COVERED = torch.tensor([[True, True, False, True], [True, False, True, True]])


def test_kv_loss_by_hand():
    student = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # rows: (0 + 4) / 2 = 2 and (9 + 16) / 2 = 12.5; in units of a deviation of 2: a quarter
    assert learner.kv_error(student, target, 2.0).item() == pytest.approx((2 + 12.5) / 4)


def test_the_target_is_stop_gradient_and_the_fit_is_the_other_way_round():
    student, target = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    error, fit = learner.matched(student, target, 1.5)
    assert error.item() == pytest.approx(fit.item())
    error.backward()
    assert target.grad is None
    expected = 2 * (student - target).detach() / 1.5**2 / 3
    torch.testing.assert_close(student.grad, expected)
    student.grad = None
    fit.backward()
    assert student.grad is None and torch.allclose(target.grad, -expected)


def test_cross_entropy_counts_only_predicted_tokens():
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 4, 7), torch.randint(7, (2, 4))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    found = learner.cross_entropy(logits, ids, mask[:, 1:].bool())
    log_p = logits.double().log_softmax(-1).numpy()
    by_hand = -sum(log_p[b, t, ids[b, t + 1]] for b, t in ((0, 0), (0, 1), (0, 2), (1, 0)))
    assert found.item() == pytest.approx(by_hand, rel=1e-5)


def test_fixed_weights_are_shared_among_the_teachers_that_cover_a_row():
    found = fusion.fixed((3.0, 1.0), COVERED)
    torch.testing.assert_close(found, torch.tensor([[0.75, 1.0, 0.0, 0.75], [0.25, 0.0, 1.0, 0.25]]))
    alone = fusion.fixed((1.0, 0.0), COVERED)  # the third row is covered by a teacher of no weight alone
    torch.testing.assert_close(alone, torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]))


def test_similarity_weights_by_hand():
    student = torch.tensor([[1.0, 0.0]] * 4)
    targets = torch.stack([torch.tensor([[2.0, 0.0]] * 4), torch.tensor([[0.0, 3.0]] * 4)])
    found = fusion.similarity(student, targets, COVERED, temperature=0.5)
    share = math.exp(1 / 0.5) / (math.exp(1 / 0.5) + 1)
    torch.testing.assert_close(found[0], torch.tensor([share, 1.0, 0.0, share]))
    torch.testing.assert_close(found.sum(0), torch.ones(4))


def test_similarity_weights_carry_no_gradient():
    student = torch.randn(4, 3, requires_grad=True)
    targets = torch.randn(2, 4, 3, requires_grad=True)
    assert not fusion.similarity(student, targets, COVERED, temperature=0.1).requires_grad


def test_a_router_sees_rows_in_units_of_their_scale():
    torch.manual_seed(0)
    rows, weight = torch.randn(4, 3), torch.randn(2, 3)
    for scale in (1.0, 2.0):
        router = fusion.Router(3, 2, scale)
        router.load_state_dict({"gate.weight": weight, "gate.bias": torch.tensor([0.5, 0.0])})
        logits = (rows / scale) @ weight.T + torch.tensor([0.5, 0.0])
        share = 1 / (1 + (logits[:, 1] - logits[:, 0]).exp())
        torch.testing.assert_close(router(rows, COVERED)[0, [0, 3]], share[[0, 3]])


def test_a_router_starts_even_learns_from_the_target_and_leaves_the_student_alone():
    torch.manual_seed(0)
    router = fusion.Router(3, 2, scale=2.0)
    student = torch.randn(4, 3, requires_grad=True)
    weights = router(student, COVERED)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 1.0, 0.0, 0.5], [0.5, 0.0, 1.0, 0.5]]))
    good, bad = student.detach(), torch.randn(4, 3)
    optimizer = torch.optim.SGD(router.parameters(), lr=1.0)
    for _ in range(20):
        optimizer.zero_grad()
        target = fusion.fuse(router(student, COVERED), torch.stack([good, bad]))
        learner.matched(student, target, 1.0)[1].backward()
        optimizer.step()
    assert (router(student, COVERED)[0, [0, 3]] > 0.7).all()
    assert student.grad is None


def test_entropy_is_a_share_of_the_largest():
    even, single = torch.full((2, 3), 0.5), torch.tensor([[1.0] * 3, [0.0] * 3])
    assert fusion.entropy(even).item() == pytest.approx(3.0) and fusion.entropy(single).item() == 0
    assert fusion.entropy(torch.ones(1, 3)).item() == 0  # one teacher
    weights = torch.full((2, 1), 0.5, requires_grad=True)
    fusion.entropy(torch.softmax(weights * torch.tensor([[0.0], [50.0]]), 0)).backward()
    assert weights.grad.isfinite().all()


def test_collapse_moments_add_up_and_see_variance_and_rank():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 6)) * [3, 3, 3, 1, 1, 1] + 5
    x = torch.tensor(rows, dtype=torch.float32)
    together = collapse.Moments.of(x[:100]) + collapse.Moments.of(x[100:])
    covariance = together.covariance()
    np.testing.assert_allclose(covariance, np.cov(rows.T, bias=True), atol=2e-3)
    assert collapse.variance(covariance).item() == pytest.approx(rows.var(0).mean(), rel=1e-4)
    eigenvalues = np.linalg.eigvalsh(np.cov(rows.T, bias=True))
    assert collapse.effective_rank(covariance).item() == pytest.approx(
        eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-3
    )
    line = torch.randn(400, 1) * torch.ones(1, 6)
    assert collapse.effective_rank(collapse.Moments.of(line).covariance()).item() == pytest.approx(1, abs=1e-3)
    several = collapse.Moments.of(torch.stack([x, 2 * x, line.expand(400, 6)])).covariance()
    one_by_one = [collapse.Moments.of(rows).covariance() for rows in (x, 2 * x, line)]
    for measure in (collapse.variance, collapse.effective_rank):
        torch.testing.assert_close(measure(several), torch.stack([measure(of) for of in one_by_one]))


def test_the_layer_nearest_to_collapse_is_told():
    alike = {"key": [(0, 2), (1,)], "value": [(0, 1, 2)]}
    before = {("key", 0): 1.0, ("key", 1): 2.0, ("key", 2): 4.0}
    before |= {("value", n): 1.0 for n in range(3)}
    told = {"variance_key": [0.9, 2.0, 1.6], "variance_value": [0.7, 0.8, 0.9]}  # in the order of ``alike``
    told |= {"rank_key": [5.0, 3.0, 4.0], "rank_value": [2.0, math.nan, 9.0]}
    line = lowest(told, alike, before)
    assert line["variance_ratio_key"] == pytest.approx(0.5)  # layers 0, 2, 1: 0.9, 0.5, 0.8
    assert line["variance_ratio_value"] == pytest.approx(0.7) and line["effective_rank_key"] == 3
    assert math.isnan(line["effective_rank_value"])


def test_the_variance_before_training_is_the_mean_over_teachers_that_saw_other_rows():
    fitted = [SimpleNamespace(variance={("key", 0): a, ("value", 0): b}) for a, b in ((1.0, 2.0), (3.0, 8.0))]
    assert variances(fitted) == {("key", 0): 2.0, ("value", 0): 5.0}


def test_each_term_has_its_own_weight():
    sums = {"ce": torch.tensor(12.0), "kv_key": torch.tensor(6.0), "kv_value": torch.tensor(9.0)}
    sums |= {"entropy": torch.tensor(3.0)}
    found = Objective(2.0, 0.5, -0.1, with_ce=True).terms(sums, tokens=4, rows=3)
    assert found["loss"].item() == pytest.approx(3 + 2 * 2 + 0.5 * 3 - 0.1)
    assert Objective(2.0, 0.5, 0.0, with_ce=False).terms(sums, 4, 3)["loss"].item() == pytest.approx(5.5)


def test_the_rate_rises_and_falls():
    factor = warm_then_fall(0.1, 100)
    assert [factor(n) for n in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert factor(100) == pytest.approx(0.1) and factor(55) == pytest.approx(0.55)


def test_an_answer_is_right_where_every_token_of_it_is_the_most_likely():
    """Against greedy decoding of the same scores, one document at a time."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 3, (200, 6), generator=rng)
    logits = torch.randn(200, 6, 3, generator=rng)
    answers = torch.zeros(200, 6, dtype=torch.bool)
    answers[:150, 4:] = True  # the others have none
    right = 0
    for b in range(150):
        right += [int(logits[b, place - 1].argmax()) for place in (4, 5)] == ids[b, 4:].tolist()
    assert 5 < right < 50 and int(learner.right_answers(logits, ids, answers)) == right
