"""Two models compared: only where a person looked, with an interval, in words."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_sa2net.config import NetworkConfig
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.data.training_set import TrainingItem
from napari_sa2net.errors import EvaluationError
from napari_sa2net.metrics import evaluate
from napari_sa2net.models.card import ModelCard
from napari_sa2net.training.compare import (
    ALMOST_ALL,
    FEW,
    SURE,
    TOLERANCE,
    Change,
    Interval,
    Score,
    Tally,
    _interval,
    _nearness,
    change,
    drawn_dice,
    judge,
    score_of,
    tally,
    use_in_line,
    use_of,
    verdict_on,
)
from napari_sa2net.training.material import HELD_OUT
from napari_sa2net.training.runs import RECIPE
from napari_sa2net.training.tuning import Record, is_as_good, merit


def squares(*corners, shape=(60, 60), side=10):
    labels = np.zeros(shape, np.int32)
    for i, (y, x) in enumerate(corners, 1):
        labels[y : y + side, x : x + side] = i
    return labels


def test_without_a_mask_it_is_the_usual_score():
    _, truth = synthetic_nuclei((200, 200), 40, 20, seed=1)
    found = np.where(truth % 4 == 0, 0, np.roll(truth, 3, axis=1))
    found[0:9, 0:9] = 900
    score, usual = score_of([tally(found, truth)]), evaluate(found, truth)
    assert score.ap50 == pytest.approx(usual["ap50"])
    assert score.mean_ap == usual["mean_ap"]
    assert score.n == len(np.unique(truth)) - 1


def test_units_are_objects_with_false_ones_at_their_neighbours():
    truth = squares((5, 5), (5, 30))
    found = squares((5, 5), (20, 32), (40, 5))
    units = tally(found, truth).units
    assert units.tolist() == [[1, 1, 0], [0, 1, 1]]
    empty = np.zeros_like(truth)
    assert tally(found, empty).units.tolist() == [[0, 3, 0]]
    assert tally(empty, empty).units.tolist() == [[0, 0, 0]]
    assert score_of([tally(empty, empty)]).ap50 == 1


def test_what_was_not_reviewed_does_not_count():
    truth = squares((5, 5), (5, 40))
    counts = np.zeros(truth.shape, bool)
    counts[:, :30] = True
    # Right on the left; on the right nonsense, and one that reaches over by less than half.
    found = squares((5, 5), (30, 40), (45, 45), (40, 24))
    found[40:50, 24:38] = 4
    assert tally(found, truth, counts).units.tolist() == [[1, 0, 0]]
    # A false one within the reviewed part does count.
    found[40:50, 5:15] = 5
    assert tally(found, truth, counts).units.tolist() == [[1, 1, 0]]


def test_stored_and_read_again():
    truth = squares((5, 5), (5, 30))
    one = tally(truth, truth)
    again = Tally.of(one.plain())
    assert (again.units == one.units).all()
    assert again.score == one.score


def many(found, n=40, false=0):
    """A tally of n objects of which some are found."""
    units = np.zeros((n, 3), np.int64)
    units[:found, 0] = 1
    units[found:, 2] = 1
    units[:false, 1] = 1
    truth = squares((5, 5))
    return Tally(units, tally(truth, truth).score)


def test_interval_covers_the_difference_and_narrows_with_objects():
    few, lots = (change([many(5 * k, 10 * k)], [many(8 * k, 10 * k)]) for k in (1, 20))
    for one in (few, lots):
        assert one.difference == pytest.approx(0.3)
        assert one.low < 0.3 < one.high
    assert lots.margin < few.margin / 3
    assert lots.chance == 1
    assert change([many(5)], [many(5)]).chance == 0.5
    with pytest.raises(EvaluationError, match="same images"):
        change([many(5)], [many(5, 41)])


def test_verdicts_in_words():
    same = {"fluorescence": change([many(30)], [many(30)])}
    better = judge(change([many(20)], [many(30)]), same)
    assert better.better
    assert better.text.startswith("Better on corrections you held back: AP 0.50 → 0.75 (n = 40")
    assert better.text.endswith("; unchanged on the reference set.")
    worse = judge(change([many(30)], [many(10)]), same)
    assert not worse.better
    assert worse.text.startswith("Worse on corrections you held back: AP 0.75 → 0.25")
    chance = judge(change([many(4, 9)], [many(5, 9, false=1)]), same)
    assert not chance.better
    assert "within what chance explains" in chance.text
    nothing = judge(same["fluorescence"], same)
    assert not nothing.better
    assert nothing.text.startswith("No better")
    rise, fall = change([many(20)], [many(30)]), change([many(30)], [many(20)])
    both = judge(rise, {"stained tissue": rise})
    assert both.better
    assert "better on the reference set: stained tissue AP 0.50 → 0.75" in both.text
    # What was forgotten of one kind is not made up for by another.
    forgot = judge(rise, {"fluorescence": fall, "stained tissue": rise})
    assert not forgot.better
    assert "but worse on the reference set: fluorescence AP 0.75 → 0.50." in forgot.text


def test_few_cells_whose_area_is_covered_much_better_are_enough():
    truth = squares(*[(5 + 14 * (i // 3), 5 + 14 * (i % 3)) for i in range(9)])
    parent, child = truth.copy(), truth.copy()
    parent[:, ::4] = 0  # of each cell about a quarter is missing
    parent[truth == 1] = 0
    one_more = change([tally(parent, truth)], [tally(child, truth)])
    assert one_more.difference > 0
    assert one_more.chance < SURE
    assert one_more.dice.rose
    verdict = judge(one_more)
    assert verdict.better
    assert verdict.advice == ""
    assert "which chance may explain, and the area is covered better" in verdict.text
    # Area alone is not enough, nor where something else was forgotten.
    parent[truth == 1] = 1
    assert not judge(change([tally(parent, truth)], [tally(child, truth)])).better
    fall = change([many(30)], [many(20)])
    forgot = judge(one_more, {"fluorescence": fall})
    assert not forgot.better
    assert "forgot some of fluorescence" in forgot.advice


def test_where_it_is_not_better_the_advice_fits_the_reason():
    same = {"fluorescence": change([many(30)], [many(30)])}
    rise, fall = change([many(20)], [many(30)]), change([many(30)], [many(20)])
    assert judge(rise, same).advice == ""
    few = judge(change([many(4, 9)], [many(5, 9, false=1)]), same).advice
    assert "With 9 cells held back" in few
    assert "more images" in few
    forgot = judge(rise, {"fluorescence": fall, "stained tissue": rise}).advice
    assert "forgot some of fluorescence" in forgot
    assert "only images like yours" in forgot
    assert "more images" in judge(fall, same).advice
    good = judge(change([many(39)], [many(38)]), same).advice
    assert "little to learn" in good
    _, truth = synthetic_nuclei((200, 200), 40, 16, seed=1)
    child = truth.copy()
    child[child == 0] = truth.max() + 1
    flood = judge(change([tally(truth, truth)] * 2, [tally(child, truth)] * 2))
    assert "takes for cells what is none" in flood.advice
    assert "learn again" in flood.advice


def test_the_last_round_counts_that_nothing_tells_from_the_highest():
    _, truth = synthetic_nuclei((300, 300), 60, 16, seed=2)
    n = len(np.unique(truth)) - 1
    assert n == 60

    def found(first, last, known=1.0):
        """Tallies of a round that finds these of the held-back cells."""
        ends = {HELD_OUT: (first, last), "fluorescence": (1, round(known * n))}
        return {
            name: [tally(np.where((truth >= a) & (truth <= b), truth, 0), truth)]
            for name, (a, b) in ends.items()
        }

    parent, top = found(1, 20), found(1, 40)
    assert is_as_good(top, top, parent)
    # finds 39 of 60, loses three and gains two: chance
    assert is_as_good(found(4, 42), top, parent)
    # loses ten and gains none
    assert not is_as_good(found(1, 30), top, parent)
    # loses 20 and gains ten
    assert not is_as_good(found(21, 50), top, parent)
    # loses nine and gains six: chance, but no more better than a parent that found 30
    last = found(1, 27)
    others = (truth >= 40) & (truth <= 45)
    last[HELD_OUT] = [tally(np.where((truth <= 27) | others, truth, 0), truth)]
    assert is_as_good(last, found(1, 36), parent)
    assert judge(change(found(1, 30)[HELD_OUT], found(1, 36)[HELD_OUT])).better
    assert not is_as_good(last, found(1, 36), found(1, 30))
    # what was forgotten counts as it is: no more than the verdict forgives, or than the top
    assert is_as_good(found(1, 40, known=0.99), top, parent)
    assert not is_as_good(found(1, 45, known=0.9), top, parent)
    assert is_as_good(found(1, 45, known=0.9), found(1, 40, known=0.9), parent)


def test_a_run_of_an_older_version_goes_on_from_its_best_round():
    parent, best = {HELD_OUT: [many(20)]}, {HELD_OUT: [many(30)]}
    record = Record(parent, best, top=best, weights={})
    older = record.plain()
    del older["top"], older["taken_back"]
    read = Record.of(older)
    assert read.top is not None
    assert score_of(read.top[HELD_OUT]) == score_of(best[HELD_OUT])
    assert read.plain() == record.plain()
    begun = Record(parent).plain()
    del begun["top"]
    assert Record.of(begun).top is None


def test_a_small_loss_on_the_reference_set_is_no_change():
    held_out = change([many(20)], [many(30)])
    score = Score(0.8, 0.5, 0.9, 500)
    part = Change(
        before=score,
        after=Score(0.79, 0.5, 0.9, 500),
        difference=-0.01,
        low=-0.015,
        high=-0.005,
        chance=0.0,
    )
    assert judge(held_out, {"fluorescence": part}).better


def test_a_child_that_floods_the_background_is_not_better():
    _, truth = synthetic_nuclei((200, 200), 40, 16, seed=1)
    parent, child = truth.copy(), truth.copy()
    parent[parent <= len(np.unique(truth)) // 5] = 0
    child[child == 0] = truth.max() + 1
    flood = change([tally(parent, truth)] * 2, [tally(child, truth)] * 2)
    assert flood.difference > 0.1
    assert flood.dice.difference == pytest.approx(flood.after.dice - flood.before.dice)
    assert flood.dice.low <= flood.dice.difference <= flood.dice.high
    verdict = judge(flood)
    assert not verdict.better
    assert "but the area is covered worse: Dice 0." in verdict.text
    # Of the reference set it counts alike, and a round like that is not the best.
    rise = change([many(20)], [many(30)])
    elsewhere = judge(rise, {"fluorescence": flood})
    assert not elsewhere.better
    assert "but worse on the reference set: fluorescence Dice 0." in elsewhere.text
    both = {HELD_OUT: [tally(parent, truth)], "fluorescence": [tally(truth, truth)]}
    flooded = {**both, HELD_OUT: [tally(child, truth)]}
    assert merit(flooded, both) < merit(both, both)
    assert not verdict_on("a", "b", None, {"fluorescence": flood}).better


def test_areas_add_up_to_dice_and_are_drawn_with_the_cells():
    _, truth = synthetic_nuclei((200, 200), 40, 20, seed=1)
    found = np.where(truth % 4 == 0, 0, np.roll(truth, 3, axis=1))
    one = tally(found, truth)
    hit, missed, false = one.areas.sum(0)
    assert one.areas.shape == one.units.shape
    assert 2 * hit / (2 * hit + missed + false) == pytest.approx(one.score.dice)
    same = change([one], [one])
    assert (same.dice.difference, same.dice.chance) == (0, 0.5)
    assert (Tally.of(one.plain()).areas == one.areas).all()
    # A run that was stored before areas were: every cell as the image.
    plain = one.plain()
    del plain["areas"]
    old = Tally.of(plain)
    assert change([old], [old]).dice.margin == 0
    empty = np.zeros_like(truth)
    assert tally(found, empty).areas.tolist() == [[0, 0, int((found > 0).sum())]]


def test_dice_of_objects_drawn_anew_is_the_mean_over_the_images_they_are_of():
    rng = np.random.default_rng(0)
    shares = [rng.integers(0, 9, (n, 3)).astype(float) for n in (4, 1, 6)]
    shares[1][:] = 0  # of nothing: right
    of = np.repeat(np.arange(3), (4, 1, 6))
    every = np.concatenate(shares)
    picks = np.concatenate([rng.integers(0, 11, (40, 11)), [[0] * 11, [4] * 11]])
    wanted = []
    for drawn in picks:
        dices = []
        for image in np.unique(of[drawn]):
            hit, missed, false = every[[i for i in drawn if of[i] == image]].sum(0)
            whole = 2 * hit + missed + false
            dices.append(2 * hit / whole if whole else 1.0)
        wanted.append(np.mean(dices))
    np.testing.assert_allclose(drawn_dice(shares, picks), wanted)


def test_what_is_cut_from_a_source_was_had_for_the_same():
    training = {
        "recipe": RECIPE,
        "commits": ["a"],
        "commit_ids": {"a": "id-a"},
        "places": {"a": "slide1/0-64"},
    }
    card = ModelCard(
        name="child",
        network=NetworkConfig(in_channels=3, n_classes=3),
        classes=("background", "interior", "boundary"),
        training=training,
    )

    def used(place, **more):
        item = TrainingItem("b", Path(), Path(), commit="id-b", place=place, **more)
        return use_of(card, item)

    assert used("slide1/0-64") == used("slide1/64-128") == "learned"
    assert used("slide2/0-64") == used("") == "none"
    assert used("slide2/0-64", kin=("id-a",)) == used("", before=("id-a",)) == "learned"


@pytest.mark.parametrize(
    ("item", "near"),
    [
        ({"commit": "id-a"}, 0),
        ({"commit": "id-b", "before": ("id-a",)}, 1),
        ({"commit": "id-b", "place": "slide1/0-64"}, 1),
        ({"commit": "id-b", "kin": ("id-a",)}, 2),
        ({"commit": "id-b", "place": "slide1/64-128"}, 2),
        ({"commit": "id-b", "place": "slide2/0-64"}, None),
        ({"commit": "id-b"}, None),
        ({"name": "a"}, 0),  # of a folder, by its name
        ({"kin": ("a",)}, 2),
        ({}, None),
    ],
)
def test_how_near_an_image_is_to_one_that_was_learned(item, near):
    training = {"commit_ids": {"a": "id-a"}, "places": {"a": "slide1/0-64"}}
    given = {"name": "b", "image": Path(), "labels": Path(), **item}
    assert _nearness(training, "a", TrainingItem(**given)) == near


def test_without_corrections_each_part_of_the_reference_set_has_its_better_model():
    rise, fall = change([many(20)], [many(30)]), change([many(30)], [many(20)])
    same = change([many(30)], [many(30)])

    def said(**parts):
        verdict = verdict_on("old", "new", None, parts)
        assert verdict.text.endswith(" (reference set of synthetic cells).")
        return verdict.better, verdict.text.removesuffix(" (reference set of synthetic cells).")

    assert said(fluo=rise, bright=rise) == (True, "new is better on fluo and bright")
    assert said(fluo=rise, bright=same) == (True, "new is better on fluo")
    assert said(fluo=fall, bright=same) == (False, "old is better on fluo")
    assert said(fluo=rise, bright=fall) == (False, "new is better on fluo, old on bright")
    assert said(fluo=same) == (False, "No difference beyond chance")
    assert said() == (False, "No difference beyond chance")
    # of corrections the sentence is about them
    assert verdict_on("old", "new", rise, {"fluo": same}) == judge(rise, {"fluo": same})


def test_what_a_model_or_its_parent_had_an_image_for():
    def card(**training):
        return ModelCard(
            name="model",
            network=NetworkConfig(in_channels=3, n_classes=3),
            classes=("background", "interior", "boundary"),
            training={"recipe": RECIPE, **training},
        )

    item = TrainingItem("a", Path(), Path())
    learned, held_out = card(commits=["a"]), card(held_out=["a"])
    both, earlier = card(commits=["a"], held_out=["a"]), card(held_out_before=["a"])
    none, other = card(commits=["b"]), card(recipe="other", commits=["a"])
    for cards, use in (
        ((), "none"),
        ((none, other), "none"),
        ((held_out, none), "held out"),
        ((none, held_out), "earlier"),
        ((earlier,), "earlier"),
        ((held_out, learned), "learned"),
        ((held_out, both), "both"),
        ((both, learned), "learned"),
    ):
        assert use_in_line(cards, item) == use


def a_change(gain, chance, dice=(0.0, 0.5), n=100, before=0.5):
    return Change(
        before=Score(before, 0.4, 0.8, n),
        after=Score(before + gain, 0.4, 0.8 + dice[0], n),
        difference=gain,
        low=gain - 0.02,
        high=gain + 0.04,
        chance=chance,
        dice=Interval(dice[0], dice[0] - 0.01, dice[0] + 0.01, dice[1]),
    )


@pytest.mark.parametrize(
    ("gain", "chance", "dice", "better", "words"),
    [
        (0.1, SURE, (0, 0.5), True, "Better on corrections you held back: AP 0.50 → 0.60"),
        (0.1, SURE - 0.01, (0, 0.5), False, "Better on corrections you held back, but within"),
        (-0.1, 1 - SURE, (0, 0.5), False, "Worse on corrections you held back: AP"),
        (-0.1, 1.01 - SURE, (0, 0.5), False, "Worse on corrections you held back, but within"),
        (0.004, 0.6, (0, 0.5), False, "No better on corrections you held back: AP"),
        (-0.004, 0.4, (0, 0.5), False, "No better on corrections you held back: AP"),
        (0.006, 0.6, (0, 0.5), False, "Better on corrections you held back, but within"),
        (0.004, 0.6, (0.1, 1), True, "Better on corrections you held back: AP"),
        (0.1, 0.6, (0.1, SURE), True, "which chance may explain, and the area is covered"),
        (0.1, 0.6, (0.1, SURE - 0.01), False, "but within what chance explains"),
        (0.0, 0.5, (0.1, 1), False, "No better on corrections you held back: AP"),
        (-0.1, 0.3, (0.1, 1), False, "but within what chance explains"),
        (0.1, 1, (-0.1, 1 - SURE), False, "; but the area is covered worse: Dice 0.80 → 0.70"),
        (0.1, 1, (-0.1, 1.01 - SURE), True, "Better on corrections you held back: AP"),
        (-0.1, 0, (-0.1, 0), False, "; and the area is covered worse: Dice 0.80 → 0.70"),
    ],
)
def test_better_is_more_than_chance_explains(gain, chance, dice, better, words):
    verdict = judge(a_change(gain, chance, dice))
    assert verdict.better == better
    assert words in verdict.text
    assert "(n = 100, ± 0.03)" in verdict.text
    assert verdict.text.endswith(".")
    assert (verdict.advice == "") == better
    # nothing was forgotten, and nothing gained
    same = judge(a_change(gain, chance, dice), {"fluorescence": a_change(0, 0.5)})
    assert same.better == better
    assert same.text == verdict.text[:-1] + "; unchanged on the reference set."


@pytest.mark.parametrize(
    ("part", "worse", "words"),
    [
        ((-TOLERANCE, 0), False, "unchanged on the reference set."),
        (
            (-TOLERANCE - 0.001, 0),
            True,
            "; but worse on the reference set: stained AP 0.50 → 0",
        ),
        ((-0.1, 1.01 - SURE), False, "unchanged on the reference set."),
        ((0, 0.5, (-0.1, 0)), True, "worse on the reference set: stained Dice 0.80 → 0.70."),
        ((-0.1, 0, (-0.1, 0)), True, "stained AP 0.50 → 0.40 and Dice 0.80 → 0.70."),
        ((TOLERANCE + 0.01, 1), False, "; better on the reference set: stained AP 0.50 → 0.5"),
        ((TOLERANCE - 0.001, 1), False, "unchanged on the reference set."),
    ],
)
def test_what_was_forgotten_speaks_against_a_child(part, worse, words):
    lows = a_change(*part)
    if part[0] > 0:
        lows = replace(lows, low=0.001)
        assert "unchanged" in judge(a_change(0.1, 1), {"stained": replace(lows, low=0)}).text
    verdict = judge(a_change(0.1, 1), {"stained": lows})
    assert verdict.better == (not worse)
    assert words in verdict.text
    assert ("forgot some of stained" in verdict.advice) == worse


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (a_change(0.01, 0.6, n=FEW - 1), f"With {FEW - 1} cells held back"),
        (a_change(0.01, 0.6, n=FEW), "a longer time can help"),
        (a_change(-0.01, 0.4, before=ALMOST_ALL, n=3), "little to learn"),
        (a_change(-0.01, 0.4, before=ALMOST_ALL - 0.01, n=FEW), "a longer time can help"),
        (a_change(-0.01, 0.4, (-0.1, 0), before=1, n=3), "takes for cells what is none"),
    ],
)
def test_advice_is_of_what_stands_in_the_way(made, words):
    assert words in judge(made).advice


def told(gain=0.0, chance=0.5, dice=0.0, dice_chance=0.5, before=0.5, n=40, low=-1.0) -> Change:
    """Two models of which all is known but the images."""
    return Change(
        difference=gain,
        low=low,
        chance=chance,
        before=Score(before, 0.5, 0.8, n),
        after=Score(before + gain, 0.5, 0.8 + dice, n),
        dice=Interval(dice, chance=dice_chance),
    )


@pytest.mark.parametrize(
    ("change", "better", "words"),
    [
        (told(0.1, 0.9), True, "Better on corrections you held back: AP 0.50 → 0.60"),
        (told(0.1, 0.89), False, "Better on corrections you held back, but within what chance"),
        (told(-0.1, 0.1), False, "Worse on corrections you held back: AP 0.50 → 0.40"),
        (told(-0.1, 0.11), False, "Worse on corrections you held back, but within what chance"),
        (told(0.004, 0.6), False, "No better on corrections you held back"),
        (
            told(0.006, 0.6),
            False,
            "Better on corrections you held back, but within what chance",
        ),
        # few cells say little: the area does as well, where it changed by more than 0.02
        (
            told(0.1, 0.6, 0.021, 0.9),
            True,
            "area is covered better beyond it: Dice 0.80 → 0.82",
        ),
        (told(0.1, 0.6, 0.02, 0.9), False, "within what chance explains"),
        (told(0.1, 0.6, 0.021, 0.89), False, "within what chance explains"),
        (told(0.1, 0.9, -0.021, 0.1), False, "but the area is covered worse: Dice 0.80 → 0.78"),
        (told(0.1, 0.9, -0.02, 0.1), True, "Better on corrections you held back: AP"),
        (told(0.1, 0.9, -0.021, 0.11), True, "Better on corrections you held back: AP"),
    ],
)
def test_what_is_sure_and_what_chance_explains(change, better, words):
    verdict = judge(change)
    assert verdict.better == better
    assert words in verdict.text


@pytest.mark.parametrize(
    ("part", "better", "words"),
    [
        (told(-0.021, 0.1), False, "but worse on the reference set: a AP 0.50 → 0.48."),
        (told(-0.02, 0.1), True, "unchanged on the reference set."),
        (told(-0.021, 0.11), True, "unchanged on the reference set."),
        (told(0.021, 0.9, low=0.001), True, "better on the reference set: a AP 0.50 → 0.52."),
        (told(0.021, 0.9, low=0.0), True, "unchanged on the reference set."),
        (told(0.02, 0.9, low=0.001), True, "unchanged on the reference set."),
    ],
)
def test_what_is_no_change_of_the_reference_set(part, better, words):
    verdict = judge(told(0.1, 0.9), {"a": part})
    assert verdict.better == better
    assert verdict.text.endswith(words)


@pytest.mark.parametrize(
    ("before", "n", "words"),
    [
        (0.9, 40, "finds almost all of these cells"),
        (0.89, 29, "With 29 cells held back, little can be told from chance"),
        (0.89, 30, "a longer time can help, too"),
    ],
)
def test_advice_where_little_is_to_be_learned_or_told(before, n, words):
    assert words in judge(told(0.0, before=before, n=n)).advice


@pytest.mark.parametrize(("chance", "better"), [(0.1, False), (0.11, True)])
def test_better_on_one_part_is_not_better_where_another_is_surely_worse(chance, better):
    reference = {"a": told(0.1, 0.99, low=0.01), "b": told(-0.01, chance)}
    reference = {name: replace(part, high=0.2) for name, part in reference.items()}
    assert verdict_on("one", "two", None, reference).better == better


def test_an_interval_holds_nineteen_of_twenty_draws():
    interval = _interval(np.arange(1001) / 1000 - 0.25)
    assert (interval.low, interval.high) == pytest.approx((-0.225, 0.725))
    assert interval.difference == pytest.approx(0.25)
    # a draw counts half, however sums of other orders differ in their last digits
    assert interval.chance == pytest.approx(750.5 / 1001)
    assert _interval(np.full(10, 1e-12)).chance == 0.5
