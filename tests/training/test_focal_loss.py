"""Unified Focal loss: the authors' numbers, masks, penalties, and hard cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_sa2net.config import TrainConfig, UnifiedFocalConfig
from napari_sa2net.errors import SettingsError
from napari_sa2net.training.losses import (
    EPSILON,
    DiceCrossEntropy,
    UnifiedFocalLoss,
    deep_supervision_loss,
    distance_weights,
    make_loss,
)

FORMS = pytest.mark.parametrize("asymmetric", [True, False])


def batch(n_classes: int = 3, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, n_classes, 9, 11, generator=generator, dtype=dtype) * 2
    target = torch.zeros(2, 9, 11, dtype=torch.int64)
    target[0, 2:6, 3:8] = 1
    target[1, 4:, 5:] = 1
    target[:, 5, 3:9] = n_classes - 1
    return logits, target


def written_out(logits, target, weight, delta, gamma, asymmetric, pixel=None) -> float:
    """The formulas, image by image and class by class, in float64."""
    p = logits.double().softmax(1).clamp(EPSILON, 1 - EPSILON).numpy()
    target = target.numpy()
    w = np.ones(target.shape) if pixel is None else pixel
    tversky, focal = [], []
    for b in range(len(p)):
        cross_entropy = np.zeros(target.shape[1:])
        for c in range(p.shape[1]):
            y, q = target[b] == c, p[b, c]
            lost = delta * ((1 - q) * y * w[b]).sum() + (1 - delta) * (q * ~y * w[b]).sum()
            found = (q * y).sum()
            cost = 1 - (found + EPSILON) / (found + lost + EPSILON)
            tversky.append(cost if asymmetric and c == 0 else cost ** (1 - gamma))
            factor = (1 - q) ** gamma if c == 0 or not asymmetric else 1.0
            a = 1 - delta if c == 0 else delta
            cross_entropy += a * factor * -np.log(q) * y
        focal.append((cross_entropy * w[b]).mean())
    return weight * np.mean(tversky) + (1 - weight) * np.mean(focal)


@pytest.mark.parametrize("case", range(6))
def test_equals_the_authors_numbers(shared_dir, case: int) -> None:
    with np.load(shared_dir / "golden" / "unified_focal_loss.npz") as file:
        p = torch.from_numpy(file[f"c{case}_y_pred"]).movedim(-1, 1)
        target = torch.from_numpy(file[f"c{case}_y_true"]).argmax(-1)
        weight, delta, gamma = file[f"c{case}_params"]
        for form, asymmetric in (("asymmetric", True), ("symmetric", False)):
            parts = {"focal_tversky": 1.0, "focal": 0.0, "unified": weight}
            for part, share in parts.items():
                got = UnifiedFocalLoss(share, delta, gamma, asymmetric)(p.log(), target)
                expected = float(file[f"c{case}_{form}_{part}"])
                assert float(got) == pytest.approx(expected, rel=1e-5), (form, part)


@FORMS
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("distance_gamma", [0.0, 1.5])
def test_equals_the_formulas(asymmetric: bool, n_classes: int, distance_gamma: float) -> None:
    logits, target = batch(n_classes)
    pixel = np.stack([distance_weights(t, distance_gamma) for t in target.numpy()])
    expected = written_out(logits, target, 0.3, 0.7, 0.4, asymmetric, pixel)
    got = UnifiedFocalLoss(0.3, 0.7, 0.4, asymmetric, distance_gamma)(logits, target)
    assert float(got) == pytest.approx(expected, rel=1e-5)


@FORMS
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("distance_gamma", [0.0, 2.0])
def test_gradients_are_those_of_the_values(asymmetric, n_classes, distance_gamma) -> None:
    logits, target = batch(n_classes, torch.float64)
    mask = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) > 0.3
    loss = UnifiedFocalLoss(0.4, 0.7, 0.6, asymmetric, distance_gamma)
    logits = logits[:, :, 3:6, 4:8].clone().requires_grad_()
    target, mask = target[:, 3:6, 4:8], mask[:, 3:6, 4:8]
    assert torch.autograd.gradcheck(lambda x: loss(x, target, mask), (logits,))


@FORMS
@pytest.mark.parametrize("distance_gamma", [0.0, 1.0])
def test_masked_pixels_have_no_say(asymmetric: bool, distance_gamma: float) -> None:
    logits, target = batch()
    mask = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) > 0.4
    loss = UnifiedFocalLoss(asymmetric=asymmetric, distance_gamma=distance_gamma)
    changed = torch.where(mask[:, None], logits, logits.flip(0) * 9).requires_grad_()
    other = torch.where(mask, target, 255)
    got = loss(changed, other, mask)
    torch.testing.assert_close(got, loss(logits, target, mask))
    got.backward()
    assert changed.grad is not None
    assert not changed.grad[~mask[:, None].expand_as(changed)].any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "loss", [UnifiedFocalLoss(distance_gamma=1.0), DiceCrossEntropy((1.0, 1.0, 2.0))], ids=str
)
def test_logits_of_ignored_pixels_need_be_no_numbers(loss: torch.nn.Module, bad) -> None:
    logits, target = batch()
    mask = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) > 0.4
    good = logits.clone().requires_grad_()
    broken = torch.where(mask[:, None], logits, bad).requires_grad_()
    other = torch.where(mask, target, 255)
    expected, got = loss(good, target, mask), loss(broken, other, mask)
    expected.backward()
    got.backward()
    assert torch.equal(got, expected)
    assert torch.equal(broken.grad, good.grad)


def test_a_mask_of_a_part_is_the_loss_of_that_part() -> None:
    logits, target = batch()
    mask = torch.zeros_like(target, dtype=torch.bool)
    mask[:, 2:8, 1:9] = True
    loss = UnifiedFocalLoss(distance_gamma=1.0)
    part = loss(logits[:, :, 2:8, 1:9], target[:, 2:8, 1:9])
    # The distance to a boundary does not change: the part holds all boundaries near it.
    plain = UnifiedFocalLoss()
    torch.testing.assert_close(
        plain(logits, target, mask), plain(logits[:, :, 2:8, 1:9], target[:, 2:8, 1:9])
    )
    torch.testing.assert_close(loss(logits, target, mask), part)


def test_nothing_to_count_gives_zero_and_no_gradient() -> None:
    logits, target = batch()
    logits.requires_grad_()
    nothing = torch.zeros_like(target, dtype=torch.bool)
    loss = UnifiedFocalLoss(distance_gamma=1.0)(logits, target, nothing)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_images_without_a_counted_pixel_do_not_dilute_the_mean() -> None:
    logits, target = batch()
    mask = torch.ones_like(target, dtype=torch.bool)
    mask[1] = False
    loss = UnifiedFocalLoss()
    torch.testing.assert_close(loss(logits, target, mask), loss(logits[:1], target[:1]))


@FORMS
@pytest.mark.parametrize("distance_gamma", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 5)])
def test_finite_on_hard_cases(asymmetric, distance_gamma, gamma, dtype, shape) -> None:
    loss = UnifiedFocalLoss(0.5, 0.6, gamma, asymmetric, distance_gamma)
    truths = [
        torch.zeros(1, *shape, dtype=torch.int64),
        torch.ones(1, *shape, dtype=torch.int64),
    ]
    single = truths[0].clone()
    single[0, -1, -1] = 1
    for target in (*truths, single):
        right = F.one_hot(target, 2).movedim(-1, 1).float()
        for scale in (0.0, 3.0, 17.0, 1e4):
            for logits in (right * scale, -right * scale):
                x = logits.to(dtype).requires_grad_()
                value = loss(x, target)
                value.backward()
                assert torch.isfinite(value)
                assert x.grad is not None
                assert torch.isfinite(x.grad).all()


def test_better_predictions_cost_less() -> None:
    _, target = batch()
    right = F.one_hot(target, 3).movedim(-1, 1).float()
    for asymmetric in (True, False):
        loss = UnifiedFocalLoss(asymmetric=asymmetric, distance_gamma=0.5)
        values = [float(loss(right * s, target)) for s in (-4.0, 0.0, 4.0, 12.0)]
        assert values == sorted(values, reverse=True)
        assert values[-1] < 0.02


# --- distance penalty (reconstruction) ---------------------------------------------------


def test_without_penalty_the_loss_is_the_plain_one_exactly() -> None:
    logits, target = batch()
    plain, off = UnifiedFocalLoss(), UnifiedFocalLoss(distance_gamma=0.0)
    assert off.penalty(target) is None
    assert torch.equal(plain(logits, target), off(logits, target))
    ones = torch.ones(target.shape)
    assert torch.equal(plain(logits, target), plain(logits, target, pixel_weights=ones))


def test_weights_fall_with_the_distance_from_the_boundary() -> None:
    target = np.zeros((1, 12), int)
    target[0, 4:] = 1
    # Boundary pixels are 3 and 4; the farthest pixel is 11, at 7 px.
    expected = 1 - np.array([3, 2, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7]) / 7
    np.testing.assert_allclose(distance_weights(target, 1.0)[0], expected, atol=1e-6)
    np.testing.assert_allclose(distance_weights(target, 2.0)[0], expected**2, atol=1e-6)
    assert (distance_weights(target, 0.0) == 1).all()


def test_weights_measure_euclidean_distance_per_image() -> None:
    target = np.zeros((21, 31), int)
    target[10, 15] = 1
    weights = distance_weights(target, 1.0)
    boundary = {(10, 15), (9, 15), (11, 15), (10, 14), (10, 16)}
    y, x = np.indices(target.shape)
    distance = np.min([np.hypot(y - b, x - a) for b, a in boundary], axis=0)
    np.testing.assert_allclose(weights, 1 - distance / distance.max(), atol=1e-6)
    both = UnifiedFocalLoss(distance_gamma=1.0).penalty(
        torch.from_numpy(np.stack([target, np.roll(target, 5)]))
    )
    assert both is not None
    np.testing.assert_array_equal(both[0].numpy(), weights)
    assert not np.array_equal(both[1].numpy(), weights)


@pytest.mark.parametrize("value", [0, 1])
def test_an_image_without_boundary_weighs_one_everywhere(value: int) -> None:
    assert (distance_weights(np.full((5, 6), value), 3.0) == 1).all()
    logits = torch.randn(1, 2, 5, 6, generator=torch.Generator().manual_seed(2))
    target = torch.full((1, 5, 6), value)
    with_it, without = UnifiedFocalLoss(distance_gamma=3.0), UnifiedFocalLoss()
    assert torch.equal(with_it(logits, target), without(logits, target))


def test_penalty_makes_far_errors_cheap() -> None:
    target = torch.zeros(1, 20, 20, dtype=torch.int64)
    target[0, 8:12, 8:12] = 1
    right = F.one_hot(target, 2).movedim(-1, 1).float() * 8
    near, far = right.clone(), right.clone()
    near[0, :, 7, 8:12] *= -1
    far[0, :, 0, 8:12] *= -1
    plain, penalised = UnifiedFocalLoss(), UnifiedFocalLoss(distance_gamma=1.0)
    torch.testing.assert_close(plain(near, target), plain(far, target))
    assert float(penalised(far, target)) < 0.7 * float(penalised(near, target))


# --- choosing ------------------------------------------------------------------------------


def test_heads_share_one_distance_map(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = batch()
    loss = UnifiedFocalLoss(distance_gamma=1.0)
    calls = []
    penalty = loss.penalty
    monkeypatch.setattr(loss, "penalty", lambda *a: (calls.append(1), penalty(*a))[1])
    heads = [logits, -logits, logits * 2, logits * 0]
    combined = deep_supervision_loss(loss, heads, (1, 0.5, 0.25, 0.25), target)
    assert len(calls) == 1
    each = [float(loss(h, target)) for h in heads]
    assert float(combined) == pytest.approx(np.dot(each, (1, 0.5, 0.25, 0.25)) / 2)


def test_the_settings_choose_the_loss() -> None:
    assert isinstance(make_loss(TrainConfig()), DiceCrossEntropy)
    config = TrainConfig(
        loss="unified_focal", unified_focal=UnifiedFocalConfig(gamma=0.2, distance_gamma=1)
    )
    loss = make_loss(config)
    assert isinstance(loss, UnifiedFocalLoss)
    assert (loss.weight, loss.delta, loss.gamma) == (0.5, 0.6, 0.2)
    assert (loss.asymmetric, loss.distance_gamma) == (True, 1)


def test_one_channel_is_refused() -> None:
    """Its softmax is 1 everywhere: it would learn nothing, without a word."""
    logits, target = batch()
    with pytest.raises(SettingsError, match="a channel for every class"):
        UnifiedFocalLoss()(logits[:, :1], target)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": -0.1},
        {"weight": 1.1},
        {"delta": float("nan")},
        {"gamma": 1.0},
        {"gamma": -0.1},
        {"distance_gamma": -1.0},
        {"distance_gamma": float("inf")},
    ],
)
def test_parameters_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        UnifiedFocalLoss(**wrong)


@pytest.mark.parametrize("loss", [UnifiedFocalLoss(), DiceCrossEntropy((1.0, 1.0, 1.0))])
def test_what_torch_would_broadcast_or_refuse_in_its_own_words_is_told(loss) -> None:
    logits, target = batch()
    mask = torch.ones_like(target, dtype=torch.bool)
    assert torch.equal(loss(logits, target, mask), loss(logits, target))
    said = {
        r"mask must be \(2, 9, 11\) of bool.*not \(1, 9, 11\)": (logits, target, mask[:1]),
        r"mask must be .*not \(2, 1, 9, 11\)": (logits, target, mask[:, None]),
        r"mask must be .*of bool.*of uint8": (logits, target, mask.byte()),
        r"target must be .*not \(1, 9, 11\)": (logits, target[:1], None),
        r"target must be .*not \(2, 1, 9, 11\)": (logits, target[:, None], None),
        r"target must be .*of int64.*of uint8": (logits, target.byte(), None),
        r"Logits must be .*not \(3, 9, 11\)": (logits[0], target, None),
        r"Logits must be .*of int64": (logits.long(), target, None),
    }
    for message, given in said.items():
        with pytest.raises(SettingsError, match=message):
            loss(*given)
