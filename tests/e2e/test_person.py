"""The simulated person of ``benchmarks person``: what acts cost, and how they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.filters import gaussian

from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.metrics import evaluate

# on a busy machine torch alone takes a minute to import
pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
#: Far from each other but for the last two, which touch.
CENTRES = ((24, 24), (24, 72), (72, 24), (70, 66), (70, 83))
RADIUS = 9
#: Little to learn with.
FEW = {"steps": 2, "rounds": 1, "crop": 64, "batch_size": 1, "replay": 0, "max_scored": 1}


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        patch.setenv("SA2NET_HOME", str(tmp_path_factory.mktemp("home")))
        import benchmarks.person

        yield benchmarks.person


@pytest.fixture(scope="module")
def bench(person: Any) -> Any:
    import benchmarks.bench_person

    return benchmarks.bench_person


@pytest.fixture(scope="module")
def the_desk(
    person: Any, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[Any]:
    made = person.Desk(tmp_path_factory.mktemp("kept"), str(tiny_model))
    yield made
    made.close()


@pytest.fixture
def desk(the_desk: Any) -> Iterator[Any]:
    yield the_desk
    the_desk.put_away()


def discs(centres: Any = CENTRES, radius: float = RADIUS) -> Any:
    y, x = np.indices((96, 96))
    labels = np.zeros((96, 96), np.int32)
    for number, (cy, cx) in enumerate(centres, 1):
        labels[(np.hypot(y - cy, x - cx) <= radius) & (labels == 0)] = number
    return labels


def image_of(truth: Any) -> Any:
    """As a microscope may show it: bright on dark, darker where two touch."""
    edge = (np.roll(truth, 1, 1) != truth) & (truth > 0)
    noise = np.random.default_rng(0).normal(0, 3, truth.shape)
    return np.clip(20 + 160 * (truth > 0) - 60 * edge + noise, 0, 255).astype(np.uint8)


def corrected(person: Any, desk: Any, truth: Any, labels: Any, by_hand: bool = False) -> Any:
    desk.open("picture", image_of(truth))
    desk.show(labels)
    someone = person.Person(desk, truth, by_hand=by_hand)
    someone.correct()
    return someone


def test_right_cells_cost_looks_alone(person: Any, desk: Any) -> None:
    truth = discs()
    someone = corrected(person, desk, truth, truth)
    assert someone.ledger.acts == {"look": [5, pytest.approx(5 * person.LOOK)]}
    assert desk.correct.session.tally.depth == 0
    np.testing.assert_array_equal(desk.labels, truth)


def test_a_missed_cell_costs_a_click(person: Any, desk: Any) -> None:
    truth = discs(CENTRES[:4])
    someone = corrected(person, desk, truth, np.where(truth == 2, 0, truth))
    ledger = someone.ledger
    assert ledger.tries == {"click to add": [1, 1]}
    price = 4 * person.LOOK + person.M + person.K + person.CLICK + person.CHECK
    assert ledger.seconds == pytest.approx(price)
    assert ledger.wasted == 0
    assert someone.seen.f1 == 1


def test_size_and_foreground_are_set_where_much_is_wrong(person: Any, tmp_path: Path) -> None:
    truth = discs([(y, x) for y in range(10, 96, 19) for x in range(10, 96, 19)], 6)
    desk = person.Desk(tmp_path)
    desk.open("picture", image_of(truth))
    desk.set_size(80.0)
    someone = person.Person(desk, truth)
    assert someone.seen.f1 < person.SET_UP_BELOW
    someone._set_up()
    assert someone.seen.f1 > person.GOAL
    assert desk.link.session.predict.diameter == pytest.approx(12, abs=1)
    acts = ("prepare", "measure a cell", "segment", "judge at a glance")
    assert tuple(someone.ledger.acts) == acts
    # cells from elsewhere are corrected as they are
    desk.show(np.zeros_like(truth))
    other = person.Person(desk, truth)
    other._set_up()
    assert not other.ledger.acts
    desk.close()


def test_split_is_raised_where_many_cells_are_merged(
    person: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = person.Desk(tmp_path)
    at = [(y, x + d) for y in (12, 36, 60, 84) for x in (12, 42, 72) for d in (0, 12)]
    truth = discs(at, 7)
    desk.open("picture", (20 + 160 * gaussian(truth > 0, 1)).astype(np.uint8))
    desk.set_size(14.0)
    desk.set_slider("split", 0.02)
    someone = person.Person(desk, truth)
    faults = [someone.seen.fault(t)[0] for t in someone.seen.area_truth]
    assert faults.count("merged") >= person.SET_UP_FROM
    before = someone.seen.f1
    monkeypatch.setattr(person, "SPLITS", (0.01, 0.5, 0.8))
    monkeypatch.setattr(person, "OTHER_SIZE", 10)  # merged ones are larger; no size mends that
    someone._set_up()
    assert desk.slider("split") == 0.5
    assert someone.seen.f1 > max(before, person.GOAL)
    desk.close()


def in_pieces(truth: Any) -> Any:
    """Cells 1 to 12, each cut into three."""
    thirds = np.indices(truth.shape)[1] // 4 % 3
    return np.where((truth > 0) & (truth <= 12), 3 * truth + 100 + thirds, truth)


def merged(truth: Any, n: int) -> Any:
    """So many cells under one number, and four that are missed."""
    found = np.where(truth > 21, 0, truth)
    return np.where((truth > 0) & (truth <= n), 100, found)


@pytest.mark.parametrize(
    ("spoil", "moved"),
    [
        (in_pieces, [("split", False)]),
        (lambda truth: merged(truth, 9), []),
        (lambda truth: merged(truth, 10), [("split", True)]),
    ],
)
def test_split_is_moved_where_ten_cells_ask_for_it(
    person: Any, desk: Any, monkeypatch: pytest.MonkeyPatch, spoil: Any, moved: Any
) -> None:
    truth = discs([(y, x) for y in range(10, 96, 19) for x in range(10, 96, 19)], 6)
    desk.open("picture", image_of(truth))
    desk.show(spoil(truth))
    desk.segmented = True
    slid: list[Any] = []
    monkeypatch.setattr(person, "OTHER_SIZE", 10)
    monkeypatch.setattr(
        person.Person, "_slide", lambda self, setting, values, up: slid.append((setting, up))
    )
    person.Person(desk, truth)._set_up()
    assert [one for one in slid if one[0] == "split"] == moved


def drop_in(truth: Any) -> Any:
    labels = truth.copy()
    labels[40:50, 5:15] = 77
    labels[80:90, 40:50] = 78
    return labels


def halved(truth: Any) -> Any:
    labels = truth.copy()
    labels[24:][truth[24:] == 1] = 77
    labels[24:][truth[24:] == 2] = 78
    return labels


@pytest.mark.parametrize(
    ("spoil", "acts"),
    [
        (drop_in, {"delete"}),
        (halved, {"merge"}),
        (lambda truth: np.where(truth == 5, 4, truth), {"click to cut", "cut line"}),
        # too large by far: drawn anew
        (lambda truth: np.where(discs(((24, 24),), 16) > 0, 1, truth), {"outline"}),
    ],
    ids=["false", "split", "merged", "outline"],
)
def test_each_fault_is_repaired_with_its_tool(
    person: Any, desk: Any, spoil: Callable[[Any], Any], acts: set[str]
) -> None:
    truth = discs()
    labels = spoil(truth)
    assert evaluate(labels, truth)["f1"] < person.GOAL
    someone = corrected(person, desk, truth, labels)
    always = {"look", "prepare", "take up a tool", "check", "undo"}
    done = set(someone.ledger.acts) - always
    assert done
    assert done <= acts
    assert evaluate(desk.labels, truth)["f1"] >= person.GOAL
    # all of it are steps of the page, which can be taken back
    while desk.correct.undo():
        pass
    np.testing.assert_array_equal(desk.labels, labels)


def test_from_the_goal_on_nothing_is_repaired_and_all_is_looked_at(
    person: Any, desk: Any
) -> None:
    truth = discs([(y, x) for y in range(10, 90, 20) for x in range(10, 90, 20)], 6)
    someone = corrected(person, desk, truth, np.where(truth == 1, 0, truth))
    assert set(someone.ledger.acts) == {"look"}
    assert someone.ledger.acts["look"][0] == truth.max()
    assert 1 not in desk.labels


def test_a_longer_outline_costs_more(person: Any, desk: Any) -> None:
    large = discs(((24, 24),), 20)
    truth = np.where(large > 0, 1, discs(((70, 30), (70, 70), (30, 75)), 8))
    truth[discs(((70, 30),), 8) > 0] = 4
    someone = corrected(person, desk, truth, np.zeros_like(truth), by_hand=True)
    drawn, seconds = someone.ledger.acts["outline"]
    assert drawn == truth.max()
    lengths = [person.length(someone.outline(t)) for t in range(1, int(truth.max()) + 1)]
    assert max(lengths) > 2 * min(lengths)
    price = drawn * person.STROKE + person.CM * someone.scale * sum(lengths)
    assert seconds == pytest.approx(price)
    # a hand draws it, not the truth's pixels
    assert (desk.labels != truth).any()
    assert evaluate(desk.labels, truth)["f1"] == 1
    # along a circle of pixels there are more than a hundred corners
    assert all(len(someone.outline(t)) < 40 for t in range(1, 5))


def test_a_tool_that_fails_is_given_up(person: Any) -> None:
    ledger = person.Ledger()
    first = ledger.hope("click to add")
    for n in range(10):
        ledger.tried("click to add", n == 0)
    assert ledger.hope("click to add") < first / 2


def test_cells_that_are_worth_nothing_are_not_taken_away_one_by_one(
    person: Any, desk: Any
) -> None:
    truth = discs(CENTRES[:3])
    labels = np.zeros_like(truth)
    for number, (y, x) in enumerate(np.ndindex(12, 12), 1):
        labels[8 * y : 8 * y + 5, 8 * x : 8 * x + 5] = number
    someone = corrected(person, desk, truth, labels)
    assert someone.ledger.acts["begin without the cells"][0] == 1
    assert someone.seen.f1 >= person.GOAL
    assert someone.ledger.seconds < 30


def test_a_lasso_takes_false_cells_away_together(person: Any, desk: Any) -> None:
    truth = discs([(y, x) for y in range(10, 90, 20) for x in range(10, 90, 20)], 6)
    labels = truth.copy()
    for number, (y, x) in enumerate(((88, 70), (88, 76), (88, 82), (88, 88)), 70):
        labels[y : y + 4, x : x + 4] = number
    someone = corrected(person, desk, truth, labels)
    assert someone.ledger.acts["delete"][0] == 1
    assert someone.ledger.acts["look"][0] == truth.max() + 4
    assert evaluate(desk.labels, truth)["f1"] == 1


def test_many_false_cells_are_taken_away_in_the_review(person: Any, desk: Any) -> None:
    places = [(y, x) for y in range(10, 90, 20) for x in range(10, 90, 20)]
    every = discs(places, 6)
    false = (2, 7, 12, 13, 16)
    truth = np.where(np.isin(every, false), 0, every)
    truth = np.unique(truth, return_inverse=True)[1].reshape(truth.shape).astype(np.int32)
    someone = corrected(person, desk, truth, every)
    acts = someone.ledger.acts
    assert evaluate(desk.labels, truth)["f1"] >= person.GOAL
    assert "delete" not in acts
    # false and right ones, as the review leads to them; none of these is looked at again
    reviewed = acts["no cell"][0] + acts["accept"][0]
    assert acts["look at the cell under review"][0] == reviewed
    assert acts["look"][0] == len(np.unique(every)) - 1 - reviewed
    assert acts["no cell"][1] == pytest.approx(person.NONE * acts["no cell"][0])


def test_the_row_tells_of_the_last_labels(bench: Any, person: Any, desk: Any) -> None:
    truth = discs()
    last: list[Any] = []

    class Spoiled(bench.Way):
        name = "spoiled"

        def begin(self, picture: Any) -> None:
            self.desk.show(halved(picture.truth))

        def end(self, person: Any) -> None:
            super().end(person)
            last.append(self.desk.labels.copy())

    pictures = [bench.Picture(f"{i}", image_of(truth), truth) for i in range(2)]
    rows = list(bench.measure(Spoiled, pictures, desk))
    assert [row["image"] for row in rows] == ["0", "1"]
    for row, labels in zip(rows, last, strict=True):
        assert row["F1"] == evaluate(labels, truth)["f1"] >= person.GOAL
        assert row["F1 before"] == evaluate(halved(truth), truth)["f1"] < person.GOAL
        assert row["objects"] == 5
        assert row["seconds"] == pytest.approx(sum(s for _, s in row["acts"].values()))
    assert bench.per_object(rows) == pytest.approx(rows[0]["seconds"] / 5)


def test_what_follows_an_act_spares_the_person_the_rest(bench: Any, desk: Any) -> None:
    truth = discs([(y, x) for y in range(10, 90, 20) for x in range(10, 90, 20)], 6)

    class Followed(bench.Hand):
        name = "followed"

        def edited(self, person: Any) -> None:
            cells = self.desk.correct.state.cells
            self.desk.correct.add_area(cells.key, (0, 0), truth)

    (row,) = bench.measure(Followed, [bench.Picture("1", image_of(truth), truth)], desk)
    assert row["acts"]["outline"][0] == 1
    assert row["acts"]["look"][0] == truth.max()
    assert row["F1"] == 1


def test_what_was_kept_is_learned_from(
    bench: Any, desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_sa2net.config import FineTuneConfig

    monkeypatch.setattr(bench, "LEARN_AFTER", (2,))
    monkeypatch.setattr(bench.Rounds, "config", FineTuneConfig(**FEW))
    made = (synthetic_nuclei((96, 96), 8, 20, seed, "fluo") for seed in range(3))
    pictures = [bench.Picture(f"{i}", *one) for i, one in enumerate(made)]
    rows = list(bench.measure(bench.Rounds, pictures, desk))
    learned = ["fine_tune" in row["computing"] for row in rows]
    assert learned == [False, True, True]
    assert [row["computing"].get("fine_tune", 0) > 0 for row in rows] == [False, True, False]
    assert [row["acts"].get("keep", [0])[0] for row in rows] == [1, 1, 0]
    assert desk.learn.state.summary.n_images == 2


def test_a_run_that_was_broken_off_goes_on(
    bench: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert bench.main(["--quick", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for words in ("Prices of the acts", "s per object", "by hand 3.27", "Where the time goes"):
        assert words in printed
    assert len(bench.Rows(out).rows) == 2

    def no(*_: Any) -> Any:
        raise AssertionError("it is measured already")

    monkeypatch.setattr(bench, "measure", no)
    assert bench.main(["--quick", "--out", str(out)]) == 0
    assert capsys.readouterr().out == printed
    with pytest.raises(AssertionError):
        bench.main(["--quick", "--out", str(tmp_path / "other")])


def test_options_go_to_the_benchmark(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmarks.__main__ as run

    asked: list[list[str]] = []

    def note(command: list[str], **_: Any) -> Any:
        asked.append(command[command.index("-m") + 1 :])
        return type("Ended", (), {"returncode": 0})

    monkeypatch.setattr(run.subprocess, "run", note)
    monkeypatch.setattr(run.sys, "argv", ["benchmarks", "person", "--images", "3"])
    assert run.main() == 0
    assert asked == [["benchmarks.bench_person", "--images", "3"]]
