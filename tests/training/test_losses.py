"""Dice and cross-entropy with a mask."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_sa2net.config import TrainConfig
from napari_sa2net.training.losses import (
    DiceCrossEntropy,
    deep_supervision_loss,
    distance_loss,
    make_loss,
)
from napari_sa2net.training.replay import answers_kept


def batch(seed=0):
    torch.manual_seed(seed)
    return torch.randn(2, 3, 8, 10), torch.randint(0, 3, (2, 8, 10))


def test_equals_its_parts_written_out():
    logits, target = batch()
    weights = torch.tensor([1.0, 1.0, 2.5])
    p = logits.softmax(1)
    cross_entropy = F.cross_entropy(logits, target, weight=weights)
    dice = []
    for c in range(3):
        truth = (target == c).float()
        overlap = 2 * (p[:, c] * truth).sum() + 1
        dice.append(overlap / ((p[:, c] + truth).sum() + 1))
    expected = cross_entropy + 1 - torch.stack(dice).mean()
    torch.testing.assert_close(DiceCrossEntropy((1, 1, 2.5))(logits, target), expected)


def test_masked_pixels_have_no_say():
    logits, target = batch()
    mask = torch.rand(2, 8, 10) > 0.4
    loss = DiceCrossEntropy((1.0, 1.0, 2.0))
    changed = torch.where(mask[:, None], logits, torch.randn_like(logits) * 9)
    other = torch.where(mask, target, (target + 1) % 3)
    torch.testing.assert_close(loss(logits, target, mask), loss(changed, other, mask))
    changed.requires_grad_()
    loss(changed, other, mask).backward()
    assert changed.grad is not None
    assert not changed.grad[~mask[:, None].expand_as(changed)].any()


def test_nothing_to_count_gives_zero_and_no_gradient():
    logits, target = batch()
    logits.requires_grad_()
    loss = DiceCrossEntropy((1.0, 1.0, 2.0))(
        logits, target, torch.zeros(2, 8, 10, dtype=torch.bool)
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_perfect_prediction_is_near_zero_and_half_precision_finite():
    _, target = batch()
    logits = F.one_hot(target, 3).movedim(-1, 1).float() * 40
    loss = DiceCrossEntropy((1.0, 1.0, 2.0))
    assert float(loss(logits, target)) < 1e-3
    assert torch.isfinite(loss((logits * 1000).half(), target))


def test_heads_are_weighted_and_zero_weights_skipped():
    logits, target = batch()
    loss = DiceCrossEntropy((1.0, 1.0, 1.0))
    heads = [logits, -logits, logits * 2, logits * torch.nan]
    combined = deep_supervision_loss(loss, heads, (1.0, 0.5, 0.5, 0.0), target)
    expected = (
        loss(heads[0], target) + 0.5 * loss(heads[1], target) + 0.5 * loss(heads[2], target)
    ) / 2
    torch.testing.assert_close(combined, expected)


def test_the_distance_is_learned_from_the_last_channel_alone():
    torch.manual_seed(0)
    head = torch.randn(2, 4, 8, 8, requires_grad=True)
    target = torch.randint(0, 3, (2, 8, 8))
    distance = torch.rand(2, 8, 8) * (target > 0)
    loss = make_loss(TrainConfig())
    both = deep_supervision_loss(loss, [head], [1.0], target, None, distance)
    classes = loss(head[:, :3], target)
    seen = distance_loss(head[:, 3], distance)
    assert both.item() == pytest.approx((classes + 3 * seen).item(), rel=1e-6)
    inside = distance > 0
    error = F.smooth_l1_loss(head[:, 3].sigmoid(), distance, beta=0.1, reduction="none")
    assert seen.item() == pytest.approx(
        (error[inside].mean() + 0.5 * error[~inside].mean()).item(), rel=1e-5
    )


def test_a_distance_where_nothing_counts_has_no_say():
    logits = torch.full((1, 4, 4), torch.nan, requires_grad=True)
    loss = distance_loss(logits, torch.rand(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_pixels_count_by_their_weight():
    """A pixel of weight 3 is as three of weight 1; Dice, which is of areas, takes no notice."""
    logits, target = batch()
    weights = torch.randint(1, 4, (2, 8, 10)).float()
    loss = DiceCrossEntropy((1.0, 1.0, 2.0))
    each = F.cross_entropy(logits, target, reduction="none")
    share = torch.tensor([1.0, 1.0, 2.0])[target]
    plain = (each * share).sum() / share.sum()
    weighed = (each * share * weights).sum() / (share * weights).sum()
    torch.testing.assert_close(
        loss(logits, target, None, weights) - loss(logits, target), weighed - plain
    )
    mask = torch.rand(2, 8, 10) > 0.4
    torch.testing.assert_close(
        loss(logits, target, mask, weights), loss(logits, target, mask, weights * mask)
    )

    seen, distance = torch.randn(2, 8, 10), torch.rand(2, 8, 10) * (target > 0)
    error = F.smooth_l1_loss(seen.sigmoid(), distance, beta=0.1, reduction="none")
    parts = [weights * inside for inside in (distance > 0, distance == 0)]
    objects, ground = ((error * w).sum() / w.sum() for w in parts)
    torch.testing.assert_close(
        distance_loss(seen, distance, None, weights), objects + 0.5 * ground
    )


@pytest.mark.parametrize("settings", [{}, {"loss": "unified_focal"}])
def test_weights_reach_classes_and_distance_of_each_head(settings):
    logits, target = batch()
    head = torch.cat([logits, torch.randn(2, 1, 8, 10)], dim=1)
    distance, weights = torch.rand(2, 8, 10), torch.rand(2, 8, 10) + 0.5
    loss = make_loss(TrainConfig(**settings))
    both = deep_supervision_loss(
        loss, [head, head], (1.0, 0.5), target, None, distance, pixel_weights=weights
    )
    expected = loss(logits, target, None, weights) + 3.0 * distance_loss(
        head[:, 3], distance, None, weights
    )
    torch.testing.assert_close(both, expected)
    assert not torch.isclose(
        both, deep_supervision_loss(loss, [head], [1.0], target, None, distance)
    )


def test_weights_are_on_top_of_a_penalty():
    logits, target = batch()
    weights = torch.rand(2, 8, 10) + 0.5
    loss = make_loss(TrainConfig(loss="unified_focal", unified_focal={"distance_gamma": 2.0}))
    penalty = loss.penalty(target, None)
    torch.testing.assert_close(
        deep_supervision_loss(loss, [logits], [1.0], target, pixel_weights=weights),
        loss(logits, target, None, penalty * weights),
    )


def test_answers_are_kept_where_the_teacher_is_sure():
    """Two pixels: of one the teacher is sure, the other is left out; by hand."""
    teacher = torch.tensor([[[[4.0, 0.5]], [[0.0, 0.0]], [[0.0, 0.0]]]])
    student = torch.tensor([[[[0.0, -3.0]], [[0.0, 5.0]], [[0.0, 1.0]]]])
    where = torch.tensor([[[0.5, 1.0]]])
    p = np.exp([4.0, 0.0, 0.0])
    p /= p.sum()
    expected = float((p * (np.log(p) - np.log(1 / 3))).sum()) * 0.5
    kept = answers_kept([student], [teacher], [1.0], where, 0.9)
    assert float(kept) == pytest.approx(expected, rel=1e-5)
    # with a low bar the other pixel counts, too
    assert float(answers_kept([student], [teacher], [1.0], where, 0.1)) > expected
    # a distance beside the classes: how far it is off, either way
    half, more = torch.tensor([[[[0.0, 9.0]]]]), torch.tensor([[[[np.log(3.0), -9.0]]]])
    for own, true in ((half, more), (more, half)):
        one, other = torch.cat([student, own], 1), torch.cat([teacher, true], 1)
        kept = answers_kept([one], [other], [1.0], where, 0.9)
        assert float(kept) == pytest.approx(expected + 0.5 * (3 / 4 - 1 / 2), rel=1e-5)
