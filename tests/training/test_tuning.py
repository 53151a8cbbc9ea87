"""What learns of a model, how fast, and what is done where a step goes wrong; without data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from napari_sa2net.config import CLASSES, FineTuneConfig, InstanceConfig
from napari_sa2net.errors import TrainingError
from napari_sa2net.nn import SA2Net, make_network, network_config
from napari_sa2net.training import tuning
from napari_sa2net.training.compare import LossPoint, Notice, RoundPoint, tally
from napari_sa2net.training.material import HELD_OUT
from napari_sa2net.training.schedule import Schedule
from napari_sa2net.training.tuning import (
    DECODER,
    Record,
    Rounds,
    Scorer,
    TuningModule,
)


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
    module.slower = 0.3
    module._prepare(module._adam[0])
    assert max(group["lr"] for group in module._adam[0].param_groups) == pytest.approx(
        1e-3 * 0.3 * module.schedule.rate(9)
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
        sums = sum(float(p.detach().sum()) for p in module.net.parameters())
        stepped(module, [1e-6, 2e-6, 3e-6, 4e-6], size)
        assert module.last_loss == pytest.approx(2.5e-6 * sums, rel=1e-3)
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
    assert float(norms.norm()) == pytest.approx(5, rel=1e-3)


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
    assert (module.done, module.slower, module.rollbacks) == (5, 0.3, 1)
    assert module.average.n == good["averaged"]
    for name, value in module.net.state_dict().items():
        assert torch.equal(value, good["net"][name])
    module.roll_back()
    assert (module.slower, module.rollbacks) == (pytest.approx(0.09), 2)


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


# --- after every round -----------------------------------------------------------------------


def tallies_of(found: int) -> Any:
    """Of four cells so many are found; those of the reference set all are."""
    truth = np.zeros((40, 40), np.int32)
    for label, (y, x) in enumerate(((2, 2), (2, 22), (22, 2), (22, 22)), 1):
        truth[y : y + 10, x : x + 10] = label
    own = tally(np.where(truth <= found, truth, 0), truth)
    return {HELD_OUT: [own], "fluo": [tally(truth, truth)]}


class Run:
    """A run without data, by a clock that goes on with its steps and scores."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        total: int = 10,
        rounds: int = 2,
        patience: int = 9,
        limit: float | None = None,
        found: Any = (3,),
        scoring: float = 0.0,
    ) -> None:
        self.now = 0.0
        monkeypatch.setattr(tuning.time, "monotonic", lambda: self.now)
        self.module = module_of()
        self.module.configure_optimizers()
        self.module.remember()
        self.module.schedule = Schedule(total, rounds)
        self.record = Record(tallies_of(2))
        self.told: list[Any] = []
        self.saved: list[int] = []
        self.shown: list[int] = []
        scores = iter(found)

        def score(_: Any) -> Any:
            self.now += scoring
            self.last = next(scores, getattr(self, "last", 2))
            return tallies_of(self.last)

        self.trainer = SimpleNamespace(should_stop=False)
        self.rounds = Rounds(
            self.record,
            SimpleNamespace(score=score),  # type: ignore[arg-type]
            patience,
            limit,
            lambda: self.saved.append(self.module.done),
            self.told.append,
            lambda net, number: self.shown.append(number * (1 - net.training)),
        )
        self.rounds.on_fit_start(self.trainer, self.module)  # type: ignore[arg-type]
        self.rounds.on_train_start(self.trainer, self.module)  # type: ignore[arg-type]

    def step(self, n: int = 1, loss: float = 1.0, seconds: float = 1.0) -> None:
        for _ in range(n):
            assert not self.trainer.should_stop
            self.now += seconds
            self.module.done += 1
            self.module.last_loss = loss
            self.rounds.on_train_batch_end(self.trainer, self.module, None)  # type: ignore[arg-type]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]


def test_each_round_is_scored_saved_shown_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, total=10, rounds=2, found=(3, 4))
    run.step(10)
    assert run.trainer.should_stop
    assert [(point.round, point.step, point.best) for point in run.of(RoundPoint)] == [
        (1, 5, True),
        (2, 10, True),
    ]
    assert run.saved == [5, 10]
    assert run.shown == [1, 2]
    assert run.record.step == 10
    points = run.of(LossPoint)
    assert [point.step for point in points] == list(range(1, 11))
    assert [point.rate for point in points] == [run.module.schedule.rate(i) for i in range(10)]
    assert run.record.seconds == 10


def test_rounds_that_are_worse_end_it_with_the_best_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch, total=50, rounds=10, patience=2, found=(4, 0, 0, 0))
    run.step(10)
    assert not run.trainer.should_stop
    assert not run.of(Notice)
    run.step(5)
    assert run.trainer.should_stop
    assert [point.best for point in run.of(RoundPoint)] == [True, False, False]
    (notice,) = run.of(Notice)
    assert notice.text.startswith("Worse for 2 rounds")
    assert notice.text.endswith("that of step 5.")
    # at the end of a run nothing ends early
    run = Run(monkeypatch, total=15, rounds=3, patience=2, found=(4, 0, 0))
    run.step(15)
    assert not run.of(Notice)


def test_losses_that_are_no_numbers_end_it_after_three_ways_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nan = float("nan")
    run = Run(monkeypatch, total=40, rounds=8)
    run.step(3, nan)
    assert all("on with a lower rate" in notice.text for notice in run.of(Notice))
    with pytest.raises(TrainingError, match="no number 4 times"):
        run.step(1, nan)  # there is nothing to keep
    run = Run(monkeypatch, total=40, rounds=8)
    run.step(5)
    run.step(3, nan)
    run.step(1, nan)
    assert run.trainer.should_stop
    first, *_, last = run.of(Notice)
    assert "at step 6: back to the last good weights, on with a lower rate" in first.text
    assert "at step 9: back to the last good weights, learning ends with the best" in last.text
    assert len(run.of(Notice)) == 4
    assert len(run.of(LossPoint)) == 5


@pytest.mark.parametrize(("seconds", "late"), [(1.149, False), (1.151, True)])
def test_a_run_ends_little_after_its_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float, late: bool
) -> None:
    run = Run(monkeypatch, total=100, rounds=2, limit=10.0)
    run.step(10, seconds=seconds)
    assert run.trainer.should_stop == late
    assert len(run.of(RoundPoint)) == late
    assert (run.module.schedule.total == 11) == late


@pytest.mark.parametrize(
    ("limit", "seconds", "scoring", "total"),
    [
        (40.0, 1.0, 0.0, 40),  # it is slower than planned
        (40.0, 1.0, 2.0, 20),  # and there are nine more rounds to score
        (400.0, 1.0, 0.0, 400),
        (96.0, 1.0, 0.0, 100),  # about as planned
        (None, 1.0, 0.0, 100),
    ],
)
def test_the_rest_is_planned_anew_by_what_a_step_takes(
    monkeypatch: pytest.MonkeyPatch,
    limit: float | None,
    seconds: float,
    scoring: float,
    total: int,
) -> None:
    run = Run(monkeypatch, total=100, rounds=10, limit=limit, scoring=scoring)
    run.step(10, seconds=seconds)
    assert run.module.schedule.total == total


def test_a_score_tells_how_far_it_is_and_can_be_stopped_before_each_view() -> None:
    net = SA2Net(1, 3, 4).eval()
    views = [
        SimpleNamespace(
            image=np.zeros((1, 64, 64), np.float32),
            labels=np.ones((64, 64), np.int32) * i,
            counts=None,
        )
        for i in range(3)
    ]
    asked: list[int] = []
    card: Any = SimpleNamespace(classes=CLASSES, instance=InstanceConfig())
    by_set: Any = {"a": views[:2], "b": views[2:]}
    cpu = torch.device("cpu")
    scorer = Scorer(by_set, card, cpu, torch.float32, lambda: asked.append(1))
    told: list[tuple[int, int]] = []
    found = scorer.score(net, lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3)]
    assert len(asked) == 3
    assert {name: [one.n for one in some] for name, some in found.items()} == {
        "a": [0, 1],
        "b": [1],
    }
    assert scorer.probability(net, by_set["a"][0]).shape == (3, 64, 64)
    scorer.score(net)  # nobody need listen


@pytest.mark.parametrize(
    ("gpu", "precision", "wanted"),
    [
        (torch.bfloat16, "auto", torch.bfloat16),
        (torch.bfloat16, "float32", torch.float32),
        (torch.float16, "auto", torch.float32),  # its gradients would have to be scaled
        (torch.float32, "auto", torch.float32),
    ],
)
def test_learning_is_as_precise_as_it_has_to_be(
    monkeypatch: pytest.MonkeyPatch, gpu: Any, precision: str, wanted: Any
) -> None:
    monkeypatch.setattr(tuning, "fast_dtype", lambda _: gpu)
    assert tuning.working_dtype(torch.device("cpu"), precision) is wanted


@pytest.mark.parametrize(("learn", "steps"), [("everything", 1), ("attention", 12)])
def test_some_steps_are_taken_where_the_time_is_over_before_the_first(
    monkeypatch: pytest.MonkeyPatch, learn: Any, steps: int
) -> None:
    """Exponents are learned by few steps, but not by one."""
    run = Run(monkeypatch, total=100, rounds=2, limit=0.5)
    run.module.tuning = FineTuneConfig(learn=learn)
    while not run.trainer.should_stop:
        run.step()
    assert run.module.done == steps


@pytest.mark.parametrize(
    ("trust", "distillation", "asked"),
    [(0.5, 2.0, (1, 2, 3)), (0.0, 2.0, (2,)), (0.5, 0.0, ())],
)
def test_the_parents_answers_are_kept_of_replay_and_where_nobody_has_looked(
    monkeypatch: pytest.MonkeyPatch, trust: float, distillation: float, asked: Any
) -> None:
    """By the share of the crops, so that replay weighs alike in every batch."""
    weights: list[Any] = []

    def kept(student: Any, teacher: Any, heads: Any, where: Any, confidence: float) -> Any:
        assert len(student[0]) == len(teacher[0]) == len(where)
        weights.append(where)
        return torch.tensor(3.0)

    monkeypatch.setattr(tuning, "answers_kept", kept)
    monkeypatch.setattr(tuning, "deep_supervision_loss", lambda *_: torch.tensor(10.0))
    module = module_of(distillation=distillation)
    module.trust = trust
    mask = torch.ones(4, 32, 32, dtype=torch.bool)
    mask[1, :16] = False  # half of it is reviewed, all of the first, nothing of the others
    mask[2:] = False
    batch = {
        "image": torch.zeros(4, 1, 32, 32),
        "replay": torch.tensor([False, False, True, False]),
        "mask": mask,
        "certain": mask,
        "target": torch.zeros(4, 32, 32, dtype=torch.long),
        "distance": torch.zeros(4, 32, 32),
    }
    loss = float(module.loss_of(batch))
    assert loss == pytest.approx(10 + distillation * 3 * len(asked) / 4)
    whole = {2: 1.0, 3: trust}
    for where in weights:
        for i, one in zip(asked, where, strict=True):
            wanted = torch.full((32, 32), whole.get(i, trust))
            if i == 1:
                wanted[16:] = 0
            torch.testing.assert_close(one, wanted)
    assert len(weights) == bool(asked)


def test_crops_and_losses_are_those_of_the_settings() -> None:
    config = FineTuneConfig(batch_size=3, crop=96, seed=5, loss="unified_focal")
    made = tuning.as_training(config, 17.0)
    assert (made.batch_size, made.crop, made.seed, made.diameter) == (3, 96, 5, 17)
    assert (made.augmentation, made.loss) == ("plain", config.loss)
    assert made.head_weights == config.head_weights
