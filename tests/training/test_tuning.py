"""What learns of a model, how fast, and what is done where a step goes wrong; without data."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from napari_sa2net.config import FineTuneConfig
from napari_sa2net.nn import SA2Net, make_network, network_config
from napari_sa2net.training.schedule import Schedule
from napari_sa2net.training.tuning import CLIP, DECODER, SLOWER, TuningModule


def module_of(total: int = 10, **settings: Any) -> TuningModule:
    torch.manual_seed(0)
    net, teacher = SA2Net(1, 3, 4), SA2Net(1, 3, 4)
    config = FineTuneConfig(**settings)
    if config.learn == "attention":
        net = make_network(network_config(net), learnable_gamma=True)
    return TuningModule(net, teacher, config, 20.0, Schedule(total, 1, warmup=0.0))


def names_of(module: TuningModule, parameters: Any) -> set[str]:
    wanted = {id(p) for p in parameters}
    return {name for name, p in module.net.named_parameters() if id(p) in wanted}


def test_matrices_shrink_and_the_encoder_learns_at_its_own_rate() -> None:
    module = module_of(weight_decay=0.02, encoder_rate=0.25, learning_rate=1e-3)
    module.configure_optimizers()
    seen: list[str] = []
    for group in module._adam[0].param_groups:
        for name in names_of(module, group["params"]):
            seen.append(name)
            parameter = module.net.get_parameter(name)
            assert group["weight_decay"] == (0.02 if parameter.ndim > 1 else 0)
            assert group["peak"] == (1e-3 if name.startswith(DECODER) else 2.5e-4)
    assert sorted(seen) == sorted(name for name, _ in module.net.named_parameters())


def test_of_attention_alone_only_the_exponents_learn() -> None:
    module = module_of(learn="attention")
    module.configure_optimizers()
    (group,) = module._adam[0].param_groups
    exponents = names_of(module, group["params"])
    assert exponents
    assert all(name.endswith("gamma") for name in exponents)
    assert group["weight_decay"] == 0
    module._prepare(module._adam[0])
    learning = [p for p in module.net.parameters() if p.requires_grad]
    assert names_of(module, learning) == exponents
    norms = [one for one in module.net.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    assert not any(one.training for one in norms)


@pytest.mark.parametrize("freeze", [True, False])
def test_normalisation_stands_still_where_it_is_to(freeze: bool) -> None:
    module = module_of(freeze_norm=freeze)
    norms = [one for one in module.net.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    assert {one.training for one in norms} == {not freeze}
    assert module.net.training


def test_the_decoder_learns_first_and_the_rate_follows_the_schedule() -> None:
    module = module_of(total=10, decoder_first=0.3, learning_rate=1e-3, encoder_rate=0.5)
    module.configure_optimizers()
    all_learn = []
    for step in range(10):
        module.done = step
        module._prepare(module._adam[0])
        learning = names_of(module, [p for p in module.net.parameters() if p.requires_grad])
        all_learn.append(not all(name.startswith(DECODER) for name in learning))
        assert {
            name for name, _ in module.net.named_parameters() if name.startswith(DECODER)
        } <= learning
        rates = {group["lr"] for group in module._adam[0].param_groups}
        assert sorted(rates) == pytest.approx(
            [5e-4 * module.schedule.rate(step), 1e-3 * module.schedule.rate(step)]
        )
    assert all_learn == [False] * 3 + [True] * 7
    module.slower = SLOWER
    module._prepare(module._adam[0])
    assert max(group["lr"] for group in module._adam[0].param_groups) == pytest.approx(
        1e-3 * SLOWER * module.schedule.rate(9)
    )


def stepped(module: TuningModule, losses: Any, micro: int = 4) -> dict[str, torch.Tensor]:
    """One step, with crops whose loss is so much times the sum of all weights."""
    module.configure_optimizers()
    weights = list(module.net.parameters())
    module.micro = micro
    module.loss_of = lambda part: part["factor"].mean() * sum(w.sum() for w in weights)  # type: ignore[method-assign]
    module.optimizers = lambda: module._adam[0]  # type: ignore[method-assign,assignment]
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign,assignment]
    before = {name: value.clone() for name, value in module.net.state_dict().items()}
    factor = torch.tensor(losses)
    module.training_step({"factor": factor, "target": torch.zeros(len(factor), 2)}, 0)
    return before


@pytest.mark.parametrize("micro", [1, 2, 3, 4])
def test_a_batch_in_parts_is_the_same_step(micro: int) -> None:
    made = []
    for size in (4, micro):
        module = module_of()
        stepped(module, [1e-6, 2e-6, 3e-6, 4e-6], size)
        made.append((module.last_loss, [p.grad for p in module.net.parameters()]))
        assert module.done == 1
        assert module.average.n == 1
    (loss, grads), (other_loss, other_grads) = made
    assert other_loss == pytest.approx(loss, rel=1e-5)
    for one, other in zip(grads, other_grads, strict=True):
        torch.testing.assert_close(one, other)


def test_steep_losses_take_no_longer_steps() -> None:
    module = module_of()
    stepped(module, [100.0, 100.0])
    norms = torch.stack([p.grad.norm() for p in module.net.parameters() if p.grad is not None])
    assert float(norms.norm()) == pytest.approx(CLIP, rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_without_a_number_is_counted_and_not_taken(bad: float) -> None:
    module = module_of()
    before = stepped(module, [1.0, bad])
    assert module.last_loss != module.last_loss  # NaN
    assert (module.done, module.average.n) == (1, 0)
    for name, value in module.net.state_dict().items():
        assert torch.equal(value, before[name])


def test_back_to_good_weights_slower_and_not_back_in_time() -> None:
    module = module_of()
    module.configure_optimizers()
    module.remember()
    good = module.state()
    with torch.no_grad():
        for parameter in module.net.parameters():
            parameter.add_(1)
    module.average.update(module.net)
    module.done = 5
    module.roll_back()
    assert (module.done, module.slower, module.rollbacks) == (5, SLOWER, 1)
    assert module.average.n == good["averaged"]
    for name, value in module.net.state_dict().items():
        assert torch.equal(value, good["net"][name])
    module.roll_back()
    assert (module.slower, module.rollbacks) == (pytest.approx(SLOWER**2), 2)


def test_a_state_is_all_that_the_next_step_depends_on() -> None:
    one, other = module_of(), module_of()
    stepped(one, [1.0, 2.0])
    state = one.state()
    other.configure_optimizers()
    other.restore(state)
    for module in (one, other):
        module._prepare(module._adam[0])
        stepped_on(module)
    assert (other.done, other.slower, other.rollbacks) == (one.done, one.slower, one.rollbacks)
    for name, value in one.net.state_dict().items():
        assert torch.equal(value, other.net.state_dict()[name])
    # and what went on meanwhile has not changed it
    assert state["done"] == 1
    assert not all(torch.equal(p, state["net"][n]) for n, p in one.net.named_parameters())


def stepped_on(module: TuningModule) -> None:
    for parameter in module.net.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    module._adam[0].step()
