"""Progress, learning rate and rounds of a run whose length may change."""

import numpy as np
import pytest

from napari_sa2net.config import TrainConfig
from napari_sa2net.nn import SA2Net
from napari_sa2net.training.schedule import Schedule, gamma_peak, steps_within
from napari_sa2net.training.train import SegmentationModule


def rounds_seen(schedule, upto):
    """Steps after which a round is over."""
    return [s for s in range(1, upto + 1) if schedule.round_of(s) > schedule.round_of(s - 1)]


def test_every_round_is_over_once_and_the_last_with_the_last_step():
    for steps, rounds in ((10, 3), (7, 7), (100, 8), (3, 1)):
        ends = rounds_seen(Schedule(steps, rounds), steps)
        assert len(ends) == rounds
        assert ends[-1] == steps


def test_rate_rises_then_falls_to_a_hundredth():
    schedule = Schedule(100, 4, warmup=0.1)
    rates = np.array([schedule.rate(step) for step in range(100)])
    assert 0 < rates[0] < 0.2
    assert rates.argmax() == pytest.approx(10, abs=1)
    assert rates.max() == pytest.approx(1, abs=0.01)
    assert (np.diff(rates[11:]) < 0).all()
    assert schedule.rate(100) == pytest.approx(0.01)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 19, 21])
def test_no_rate_of_a_short_run_is_above_the_peak(steps):
    schedule = Schedule(steps, 1, warmup=0.05)
    assert all(0 < schedule.rate(step) <= 1 for step in range(steps))


@pytest.mark.parametrize("warmup", [0, 0.05, 0.1])
@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_the_first_steps_are_small_however_few_there_are(steps, warmup):
    schedule = Schedule(steps, 1, warmup=warmup)
    net = SA2Net(1, 2, 4)
    module = SegmentationModule(net, TrainConfig(steps=steps, warmup=warmup))
    (whole,) = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[:1]
    for step in range(steps):
        assert schedule.rate(step) <= (step + 1) / 10
        assert whole(step) <= (step + 1) / 10


def test_few_steps_do_not_move_an_exponent_far():
    assert gamma_peak(1) == gamma_peak(12, mean_share=0.5) == 0.2
    assert gamma_peak(4000) == 4 / 4000


def test_a_new_plan_goes_on_from_the_same_progress():
    schedule = Schedule(100, 4)
    before = [schedule.progress(s) for s in range(41)]
    schedule.replan(40, 60)
    assert [schedule.progress(s) for s in range(41)] == before
    assert schedule.total == 60
    assert schedule.progress(60) == pytest.approx(1)
    # what was left is spread evenly over the steps that are left
    assert schedule.progress(41) == pytest.approx(0.4 + 0.6 / 20)
    assert schedule.progress(50) == pytest.approx(0.7)
    assert rounds_seen(schedule, 60)[-1] == 60


def test_a_plan_can_be_followed_again():
    first = Schedule(100, 4, warmup=0.1)
    first.replan(30, 50)
    first.replan(45, 80)
    again = Schedule(1, 4, 0.1, first.pieces)
    assert [again.rate(s) for s in range(80)] == [first.rate(s) for s in range(80)]


def test_steps_fit_the_time_and_scoring_takes_a_third_at_most():
    steps, rounds = steps_within(180, per_step=0.5, per_round=2, rounds=8)
    assert rounds == 8
    assert steps * 0.5 + rounds * 2 <= 180
    assert steps > 300
    steps, rounds = steps_within(60, per_step=1, per_round=10, rounds=8)
    assert rounds == 2
    assert steps == 40
    assert steps_within(0.1, 5, 5, 8) == (1, 1)
    assert steps_within(0.1, 5, 5, 8, fewest=12) == (12, 1)


def test_rates_as_shares_of_the_peak():
    long = Schedule(1000, 1)
    assert [long.rate(step) for step in (0, 4)] == pytest.approx([0.1, 0.5], rel=1e-3)
    assert long.rate(1000) == pytest.approx(0.01)
