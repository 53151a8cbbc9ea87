"""A table that follows its cells: right after any change, and only what changed is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.app.conftest import Client

from napari_sa2net.app import measured as measuring
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.measured import BLOCK, MeasuredCells, Place, TooMuch
from napari_sa2net.app.measurements import KeptWindow, Measurements
from napari_sa2net.app.session import ImageSource, Session
from napari_sa2net.engine import messages as p
from napari_sa2net.measure import box_columns, object_table
from napari_sa2net.quantities import GROUPS


def grid(n: int = 6, side: int = 20, cell: int = 10) -> np.ndarray:
    """n × n square cells with gaps."""
    labels = np.zeros((n * side, n * side), np.int32)
    for i in range(n * n):
        y, x = (i // n) * side + 5, (i % n) * side + 5
        labels[y : y + cell, x : x + cell] = i + 1
    return labels


def columns(labels: np.ndarray, image: Any = None, **more: Any) -> dict[str, np.ndarray]:
    table = object_table(labels, image=image, boxes=True, **more)
    return {name: table[name].to_numpy() for name in table.columns}


def measured(labels: np.ndarray, image: np.ndarray, **more: Any) -> MeasuredCells:
    axes = more.get("stack_axes", "")
    source = ImageSource("image", "image", image, axes + "YX")
    place = {name: value for name, value in more.items() if name != "groups"}
    cells = MeasuredCells(labels, Place(source, (0,) * labels.ndim, **place))
    cells.adopt(columns(labels, image, **more))
    return cells


def check(cells: MeasuredCells, image: np.ndarray, **more: Any) -> None:
    """The table is that of the labels as they are, boxes included."""
    whole = columns(cells.now(), image, **more)
    ends = box_columns(more.get("stack_axes", ""))
    for name, column in whole.items():
        if name not in ends:
            np.testing.assert_allclose(cells.columns[name], column, err_msg=name)
    for i, label in enumerate(whole["label"].tolist()):
        low, high = cells.boxes[label]
        assert [*low, *high] == [whole[name][i] for name in (*ends[::2], *ends[1::2])]
    assert set(cells.boxes) == set(whole["label"].tolist())


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((120, 120)).astype(np.float32)


def test_only_what_changed_is_measured(image: np.ndarray) -> None:
    labels = grid()
    cells = measured(labels, image, pixel_size_um=0.5)
    assert cells.follow() == {}
    labels[7:9, 7:9] = 0  # a hole in cell 1
    labels[45:50, 40:46] = 99  # a new cell, which takes a corner of cell 15
    assert set(cells.follow()) == {1, 15, 99}
    assert cells.n_measured == 3
    check(cells, image, pixel_size_um=0.5)
    # looked for in one place, seen in that place
    before = cells.n_measured
    labels[labels == 36] = 0
    labels[0, 0] = 2
    assert set(cells.follow([(slice(100, 120), slice(100, 120))])) == {36}
    assert cells.n_measured == before  # it is gone
    assert set(cells.follow()) == {2}
    assert cells.n_measured == before + 1
    check(cells, image, pixel_size_um=0.5)


def test_random_edits_stay_true(image: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    labels = grid()
    cells = measured(labels, image)
    for _ in range(40):
        y, x = rng.integers(0, 110, 2)
        h, w = rng.integers(1, 30, 2)
        labels[y : y + h, x : x + w] = rng.integers(0, 45)
        part = (slice(int(y), int(y + h)), slice(int(x), int(x + w)))
        cells.follow([part] if rng.random() < 0.5 else None)
    check(cells, image)


def test_places_count_from_the_first_pixel_of_the_image() -> None:
    """Also those of cells that are measured anew, where a layer holds a part of a stack."""
    image = np.random.default_rng(3).random((3, 5, 90, 90)).astype(np.float32)
    labels = np.zeros((1, 3, 60, 60), np.int32)
    labels[0, 1] = grid(3)
    corner = (1, 2, 7, 9)

    def table() -> dict[str, np.ndarray]:
        made = columns(labels, image[1:2, 2:, 7:67, 9:69], stack_axes="TZ")
        for axis, first in zip("tzyx", corner, strict=True):
            for name in {axis, f"centroid_{axis}"} & set(made):
                made[name] = made[name] + first
        return made

    source = ImageSource("image", "image", image, "TZYX")
    cells = MeasuredCells(labels, Place(source, corner, stack_axes="TZ"))
    cells.adopt(table())
    labels[0, 2, 5:15, 5:15] = 50
    labels[0, 1, 45:, 45:] = 9
    assert set(cells.follow()) == {9, 50}
    for name, column in table().items():
        if not name.startswith("box_"):
            np.testing.assert_allclose(cells.columns[name], column, err_msg=name)
    assert cells.columns["z"].tolist() == [3] * 9 + [4]


@pytest.mark.parametrize("axes", ["Z", "TZ"])
def test_cells_in_depth(axes: str) -> None:
    shape = {"Z": (3, 60, 60), "TZ": (2, 3, 60, 60)}[axes]
    rng = np.random.default_rng(2)
    labels = np.zeros(shape, np.int32)
    labels[:] = grid(3)
    image = rng.random(shape).astype(np.float32)
    more: dict[str, Any] = {"stack_axes": axes, "pixel_size_um": 0.5, "z_step_um": 2}
    cells = measured(labels, image, **more)
    labels[..., 1, 5:9, 5:15] = 0
    labels[..., 2, 20:60, 20:60] = 0
    assert {1, 5, 6, 8, 9} == set(cells.follow())
    check(cells, image, **more)
    assert cells.summary().in_depth


@pytest.mark.parametrize("axes", ["", "T", "Z"])
def test_groups_follow_every_edit(axes: str) -> None:
    """Also of the cells beside a change: what they touch, and their background."""
    rng = np.random.default_rng(4)
    shape = (*(3,) * len(axes), 120, 120)
    labels = np.zeros(shape, np.int32)
    labels[:] = grid(side=20, cell=14)
    image = rng.random(shape).astype(np.float32)
    more: dict[str, Any] = {
        "stack_axes": axes,
        "pixel_size_um": (0.5, 0.25),
        "z_step_um": 2,
        "groups": GROUPS,
    }
    cells = measured(labels, image, **more)
    assert cells.groups == GROUPS
    for _ in range(12):
        y, x = rng.integers(0, 110, 2)
        h, w = rng.integers(1, 30, 2)
        at = tuple(slice(i, i + 1) for i in rng.integers(0, 3, len(axes)).tolist())
        part = (*at, slice(int(y), int(y + h)), slice(int(x), int(x + w)))
        labels[part] = rng.integers(0, 45)
        cells.follow([part] if rng.random() < 0.5 else None)
        check(cells, image, **more)


def test_what_is_told_of_a_cell_beyond_the_edge_of_a_block_follows() -> None:
    labels = np.zeros((40, 2 * BLOCK), np.int32)
    labels[10:20, BLOCK - 20 : BLOCK - 10], labels[10:20, BLOCK : BLOCK + 10] = 1, 2
    image = np.random.default_rng(4).random(labels.shape).astype(np.float32)
    more: dict[str, Any] = {"groups": GROUPS}
    cells = measured(labels, image, **more)
    assert cells.columns["neighbours"].tolist() == [0, 0]
    labels[10:20, BLOCK - 10 : BLOCK] = 1
    assert set(cells.follow()) == {1}
    assert cells.columns["neighbours"].tolist() == [1, 1]
    check(cells, image, **more)


def test_groups_of_a_cell_in_far_parts() -> None:
    labels = np.zeros((1000, 1000), np.int32)
    labels[:120, :120] = grid()
    image = np.random.default_rng(5).random(labels.shape).astype(np.float32)
    more: dict[str, Any] = {"groups": GROUPS}
    cells = measured(labels, image, **more)
    # over the border of two blocks, so that its ring lies in a third
    for part in ((slice(900, 905), slice(380, 384)), (slice(500, 504), slice(700, 720))):
        labels[part] = 1
        assert set(cells.follow([part])) == {1}
        check(cells, image, **more)


@pytest.mark.parametrize("axes", ["", "Z"])
def test_of_a_cell_in_far_parts_only_these_are_looked_at(
    axes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (4, 2000, 2000)[1 - len(axes) :]
    labels = np.zeros(shape, np.int32)
    labels[..., :120, :120] = grid()
    image = np.random.default_rng(3).random(shape).astype(np.float32)
    more: dict[str, Any] = {"stack_axes": axes} if axes else {}
    cells = measured(labels, image, **more)
    looked = 0
    read = MeasuredCells.read

    def counted(self: MeasuredCells, part: Any) -> np.ndarray:
        nonlocal looked
        found = read(self, part)
        looked += found.size
        return found

    monkeypatch.setattr(MeasuredCells, "read", counted)

    def paint(part: Any, value: int) -> None:
        nonlocal looked
        looked = 0
        plane = (slice(1, 2), *part) if axes else part
        labels[plane] = value
        cells.follow([plane])
        assert 0 < looked < 500_000  # of 4,000,000 in the box of the cell, or 16,000,000
        check(cells, image, **more)

    far, again = (
        (slice(1900, 1910), slice(1700, 1990)),
        (slice(1905, 1930), slice(1980, 1985)),
    )
    paint(far, 8)
    paint(again, 8)
    paint((slice(0, 60), slice(0, 60)), 0)  # its first part is gone, in that plane
    paint(again, 0)
    paint(far, 9)  # all is another's
    # it was so from the start
    cells = measured(labels, image, **more)
    labels[..., 1990:, 3] = 9
    cells.follow()
    check(cells, image, **more)


def test_labels_that_are_too_large_to_copy_are_followed_where_told(
    image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_sa2net.app.measured.MOST_BYTES", 10)
    labels = grid()
    cells = measured(labels, image)
    labels[5:15, 5:15] = 0
    labels[30:32, 6:9] = 7
    cells.follow([(slice(0, 35), slice(0, 20))])
    check(cells, image)
    assert cells.n_measured < 5


def test_numbers_beyond_all_counting(image: np.ndarray) -> None:
    labels = grid().astype(np.int64) * 10**12
    cells = measured(labels, image)
    labels[0:3, 0:3] = 5 * 10**15
    cells.follow()
    check(cells, image)


def test_all_at_once_is_for_the_engine(image: np.ndarray) -> None:
    labels = np.ones((1200, 1200), np.int32)
    cells = measured(labels, np.zeros(labels.shape))
    labels[:] = 2
    with pytest.raises(TooMuch):
        cells.follow()


def test_sizes_that_become_known(image: np.ndarray) -> None:
    labels = grid()
    cells = measured(labels, image)
    assert np.isnan(cells.columns["area_um2"]).all()
    assert cells.move(Place(pixel_size_um=0.5))
    np.testing.assert_allclose(cells.columns["area_um2"], cells.columns["area_px"] / 4)


def test_volumes_that_become_known() -> None:
    labels = np.zeros((3, 60, 60), np.int32)
    labels[:2] = grid(3)
    cells = measured(labels, np.zeros(labels.shape), stack_axes="Z")
    assert np.isnan(cells.columns["volume_um3"]).all()
    assert cells.move(Place(stack_axes="Z", pixel_size_um=0.5, z_step_um=3))
    voxels = cells.columns["volume_voxels"]
    np.testing.assert_allclose(cells.columns["volume_um3"], voxels * 0.25 * 3)
    assert cells.move(Place(stack_axes="Z", pixel_size_um=0.5))
    assert np.isnan(cells.columns["volume_um3"]).all()


def test_only_of_cells_that_are_as_they_were_the_confidence_stays(image: np.ndarray) -> None:
    labels = grid()
    cells = measured(labels, image)
    before = {**cells.columns, "confidence": np.linspace(0.1, 0.9, 36)}
    labels[labels == 3] = 0
    labels[labels == 5] = 3  # as large, and elsewhere
    cells.adopt({**columns(labels, image), "confidence": np.full(35, np.nan)})
    cells.recall(before)
    found = dict(zip(cells.columns["label"].tolist(), cells.columns["confidence"], strict=True))
    known = dict(zip(before["label"].tolist(), before["confidence"].tolist(), strict=True))
    assert np.isnan(found.pop(3))
    assert found == {label: known[label] for label in found}


def test_groups_of_cells_that_changed_meanwhile_are_not_taken(image: np.ndarray) -> None:
    labels = grid()
    cells = measured(labels, image)
    stamps = cells.stamps(cells.columns["label"].tolist())
    more = {"label": cells.columns["label"], "solidity": np.ones(36)}
    labels[5:8, 5:8] = 0
    cells.follow()
    assert not cells.add(stamps, more)
    assert cells.add(cells.stamps(cells.columns["label"].tolist()), more)
    assert (cells.columns["solidity"] == 1).all()


def test_a_cell_over_time_points_has_no_volume() -> None:
    labels = np.zeros((3, 60, 60), np.int32)
    labels[:2] = grid(3)
    table = columns(labels, stack_axes="T")
    cells = MeasuredCells(labels, Place(stack_axes="T"))
    cells.adopt(table)
    assert (table["planes"] == 2).all()
    assert not cells.summary().in_depth


# --- with the engine -----------------------------------------------------------------------


class Bench:
    """Measurements, and the tests' side of the engine."""

    def __init__(self) -> None:
        self.link = EngineLink(Session(), make_client=Client)
        self.client: Any = self.link.client
        self.measurements = Measurements(self.link)
        self.heard: list[str] = []
        self.measurements.changed.connect(self.heard.append)

    def answer(self, request: Any, image: Any = None) -> None:
        table = columns(request.arguments["labels"], image)
        self.client.on_event(request.done(table))


def test_more_columns_are_asked_for_when_the_cells_are_shown(image: np.ndarray) -> None:
    bench, labels = Bench(), grid()
    soon: list[Any] = []
    bench.link.dispatch = soon.append
    bench.measurements.choose(["shape"])
    table = columns(labels, image)
    for key in ("mine", "gone"):
        bench.measurements.adopt(key, labels, Place(), table)
    bench.measurements.forget("gone")
    # the labels are copied for it, in a moment of its own
    assert (bench.heard, bench.client.requests) == (["mine", "gone"], [])
    for one in soon:
        one()
    (request,) = bench.client.requests
    assert (request.kind, request.about.key) == ("measure_groups", "mine")


def test_groups_come_and_go_as_they_are_chosen(image: np.ndarray) -> None:
    bench, labels = Bench(), grid()
    place = Place(ImageSource("i", "i", image, "YX"), (0, 0))
    bench.measurements.adopt("mine", labels, place, columns(labels, image))
    assert not bench.client.requests
    bench.measurements.choose(["shape"])
    (request,) = bench.client.requests
    # the image goes along for intensities alone
    assert "image" not in request.arguments
    assert request.arguments["groups"] == ("shape",)
    bench.measurements.choose(["shape", "intensity"])  # one question at a time
    assert len(bench.client.requests) == 1
    cells = bench.measurements.cells("mine")
    assert cells is not None
    label = cells.columns["label"]
    bench.client.on_event(request.done({"label": label, "solidity": np.ones(36)}))
    assert (cells.columns["solidity"] == 1).all()
    request = bench.client.requests[-1]
    assert request.arguments["groups"] == ("intensity",)
    assert request.arguments["image"] is image
    # not wanted any more when it comes
    bench.measurements.choose(["shape"])
    heard = len(bench.heard)
    bench.client.on_event(request.done({"label": label, "max_intensity": np.ones(36)}))
    assert "max_intensity" not in cells.columns
    bench.measurements.choose([])
    assert "solidity" not in cells.columns
    assert len(bench.heard) > heard
    heard = len(bench.heard)
    bench.measurements.choose([])  # as before: nothing to tell
    assert len(bench.heard) == heard
    assert len(bench.client.requests) == 2


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_groups_that_were_not_measured_are_asked_for_again(image: np.ndarray, end: str) -> None:
    bench, labels = Bench(), grid()
    bench.measurements.adopt("mine", labels, Place(), columns(labels, image))
    bench.measurements.choose(["shape", "intensity"])
    (request,) = bench.client.requests
    assert request.arguments["groups"] == ("shape",)  # there is no image to measure
    if end == "failed":
        bench.client.on_event(p.Failed(request.job, "MemoryError", "No memory."))
        assert bench.link.session.error is not None
    else:
        bench.client.on_event(p.WasCancelled(request.job))
        assert bench.link.session.error is None
    assert bench.measurements.is_followed("mine")  # its table is as true as before
    bench.measurements.choose(["shape"])
    assert len(bench.client.requests) == 2


def test_no_cells_are_measured_without_the_engine() -> None:
    bench = Bench()
    bench.measurements.choose(["shape"])
    none = np.zeros((20, 20), np.int32)
    bench.measurements.measure("mine", none, Place())
    assert not bench.client.requests
    assert bench.heard == ["mine"]
    cells = bench.measurements.cells("mine")
    assert cells is not None
    assert cells.columns["solidity"].size == 0


def test_measuring_that_was_cancelled_leaves_no_layer_that_waits(image: np.ndarray) -> None:
    bench = Bench()
    bench.measurements.measure("mine", grid(), Place())
    (request,) = bench.client.requests
    assert bench.heard == ["mine"]
    bench.client.on_event(p.WasCancelled(request.job))
    assert not bench.measurements.is_followed("mine")
    assert bench.heard == ["mine", "mine"]
    assert bench.measurements.line("mine") == ""


def test_where_more_changed_than_can_be_followed_all_is_measured(
    image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, labels = Bench(), grid()
    place = Place(ImageSource("i", "i", image, "YX"), (0, 0))
    bench.measurements.adopt("mine", labels, place, columns(labels, image))
    cells = bench.measurements.cells("mine")
    assert cells is not None

    def too_much(parts: Any = None) -> Any:
        raise TooMuch

    monkeypatch.setattr(cells, "follow", too_much)
    labels[:] = np.flip(labels)
    assert bench.measurements.follow("mine", labels, place)
    (request,) = bench.client.requests
    assert request.kind == "measure_image"
    assert "Measuring" in bench.measurements.line("mine")
    # and again, as it goes on while the table is on its way
    bench.answer(request, image)
    assert len(bench.client.requests) == 2
    monkeypatch.undo()
    bench.answer(bench.client.requests[-1], image)
    assert bench.measurements.line("mine").startswith("36 cells")
    check(cells, image)


def test_labels_that_are_not_measured_yet_are_not_followed(image: np.ndarray) -> None:
    bench = Bench()
    assert not bench.measurements.follow("mine", grid(), Place())
    assert not bench.measurements.is_followed("mine")
    bench.measurements.set_summary("mine", p.Summary(3, 1.0, 0))
    assert not bench.heard
    bench.measurements.adopt("mine", grid(), Place(), columns(grid(), image))
    bench.measurements.set_summary("mine", p.Summary(3, 1.0, 0))
    assert bench.measurements.line("mine").startswith("3 cells")
    assert bench.heard == ["mine", "mine"]
    bench.measurements.follow("mine", grid(), Place())
    assert bench.measurements.line("mine").startswith("36 cells")


def test_cells_are_measured_in_the_channels_that_go_in(image: np.ndarray) -> None:
    bench = Bench()
    two = ImageSource("i", "i", np.stack([image, image]), "CYX", channels=(1,))
    bench.measurements.measure("mine", grid(), Place(two, (0, 0)))
    (request,) = bench.client.requests
    assert (request.arguments["axes"], request.arguments["channels"]) == ("CYX", (1,))


def test_cells_of_another_part_are_measured_with_those_that_are_there(
    image: np.ndarray,
) -> None:
    bench, labels = Bench(), grid()
    place = Place(ImageSource("i", "i", image, "YX"), (0, 0))
    kept = KeptWindow("result", (0, 0), labels.shape)
    # of a layer that nobody has measured, all of them
    bench.measurements.extend("mine", labels, place, kept)
    (request,) = bench.client.requests
    bench.answer(request, image)
    n = int(bench.measurements.line("mine").split()[0])
    assert n == np.unique(labels).size - 1
    # then only what came
    more = labels.copy()
    more[0:2, 0:2] = labels.max() + 1
    bench.measurements.extend("mine", more, place, kept)
    assert bench.measurements.line("mine").startswith(f"{n + 1} cells")


def test_cells_of_an_image_that_is_read_as_one_of_other_axes(image: np.ndarray) -> None:
    """Two planes turn out to be channels: nothing is known of confidence in their window."""
    bench, labels = Bench(), grid()[None]
    stack = ImageSource("i", "i", np.stack([image] * 2), "ZYX")
    kept = KeptWindow("result", (0, 0, 0), labels.shape)
    planes = columns(labels, stack_axes="Z")
    bench.measurements.adopt("mine", labels, Place(stack, (0, 0, 0), (), "Z"), planes, kept)
    channels = Place(ImageSource("i", "i", stack.data, "CYX"), (0, 0), (0,))
    bench.measurements.follow("mine", labels, channels)
    (request,) = bench.client.requests
    assert request.kind == "measure_image"
    bench.answer(request, image)
    assert bench.measurements.line("mine").startswith(f"{labels.max()} cells")
    assert bench.client.requests == [request]


def test_layers_of_any_origin_are_measured(image: np.ndarray) -> None:
    bench, labels = Bench(), grid()
    place = Place(ImageSource("i", "i", image, "YX"), (0, 0))
    bench.measurements.measure("mine", labels, place)
    (request,) = bench.client.requests
    assert request.arguments["corner"] == (0, 0)
    assert "Measuring" in bench.measurements.line("mine")
    # drawn on while it is measured
    labels[5:15, 5:15] = 0
    bench.measurements.follow("mine", labels, place, [(slice(0, 20), slice(0, 20))])
    bench.answer(request, image)
    assert bench.measurements.line("mine").startswith("35 cells")
    cells = bench.measurements.cells("mine")
    assert cells is not None
    check(cells, image)
    # replaced by other labels of the same shape, of another shape, and by none
    other = np.flip(labels).copy()
    bench.measurements.follow("mine", other, place)
    check(cells, image)
    bench.measurements.follow("mine", np.zeros((5, 5), np.int32), place)
    assert bench.measurements.line("mine") == "No cells found"


def test_an_answer_that_is_too_late_is_not_taken(image: np.ndarray) -> None:
    bench, labels = Bench(), grid()
    place = Place(ImageSource("i", "i", image, "YX"), (0, 0))
    bench.measurements.measure("mine", labels, place)
    bench.measurements.measure("mine", labels[:40, :40].copy(), place)
    first, second = bench.client.requests
    bench.answer(second, image[:40, :40])
    bench.answer(first, image)
    assert bench.measurements.line("mine").startswith("4 cells")
    bench.measurements.forget("mine")
    assert bench.measurements.line("mine") == ""


def test_what_cannot_be_measured_is_told(image: np.ndarray) -> None:
    bench = Bench()
    bench.measurements.measure("mine", grid(), Place())
    (request,) = bench.client.requests
    bench.client.on_event(p.Failed(request.job, "ImageError", "The disk is gone."))
    error = bench.link.session.error
    assert error is not None
    assert error.message == "The disk is gone."
    assert not bench.measurements.is_followed("mine")


def test_confidence_comes_from_the_network(image: np.ndarray) -> None:
    bench, labels = Bench(), grid()
    place = Place(ImageSource("i", "i", np.zeros((200, 200)), "YX"), (10, 20))
    table = {**columns(labels, image), "confidence": np.full(36, 0.5)}
    kept = KeptWindow("result", (10, 20), labels.shape)
    bench.measurements.adopt("cells", labels, place, table, kept)
    labels[5:7, 5:15] = 0
    bench.measurements.follow("cells", labels, place)
    (request,) = bench.client.requests
    assert (request.key, request.arguments["at"]) == ("result", (7, 5))  # the cell itself
    cells = bench.measurements.cells("cells")
    assert cells is not None
    assert np.isnan(cells.columns["confidence"][0])
    assert (cells.columns["confidence"][1:] == 0.5).all()
    answer = {"label": np.array([1]), "confidence": np.array([0.25])}
    heard = len(bench.heard)
    bench.client.on_event(request.done(answer))
    assert cells.columns["confidence"][0] == 0.25
    assert len(bench.heard) == heard + 1
    # changed again before the answer came: it is of another cell
    labels[9, 9] = 0
    bench.measurements.follow("cells", labels, place)
    late = bench.client.requests[-1]
    labels[10, 9] = 0
    bench.measurements.follow("cells", labels, place)
    heard = len(bench.heard)
    bench.client.on_event(late.done(answer))
    assert np.isnan(cells.columns["confidence"][0])
    assert len(bench.heard) == heard


@pytest.mark.parametrize(
    ("size", "words"),
    [(None, "100 px²"), (0.5, "25 µm²"), ((0.5, 0.25), "12.5 µm²"), ((2.0, 4.0), "800 µm²")],
)
def test_the_line_tells_areas_in_the_unit_that_is_known(size: Any, words: str) -> None:
    bench, labels = Bench(), grid()
    assert bench.measurements.line("mine") == ""
    bench.measurements.adopt("mine", labels, Place(pixel_size_um=size), columns(labels))
    assert bench.measurements.line("mine") == f"36 cells · median {words}"


def test_confidence_is_asked_for_of_cells_that_lie_in_the_window_whole(
    image: np.ndarray,
) -> None:
    bench, labels = Bench(), grid()
    place = Place(ImageSource("i", "i", np.zeros((200, 200)), "YX"), (10, 20))
    table = {**columns(labels, image), "confidence": np.full(36, 0.5)}
    kept = KeptWindow("result", (15, 25), (10, 11))  # around the first, and nothing more
    bench.measurements.adopt("mine", labels, place, table, kept)
    labels[5, 5] = labels[5, 25] = 0
    bench.measurements.follow("mine", labels, place)
    (request,) = bench.client.requests
    assert request.arguments["at"] == (0, 0)
    assert request.arguments["labels"].shape == (10, 10)
    for corner, shape in (((16, 25), (10, 11)), ((15, 25), (9, 11)), ((15, 25), (10, 9))):
        kept = KeptWindow("result", corner, shape)
        bench.measurements.adopt("mine", labels, place, columns(labels, image), kept)
        labels[6, 6] = 1 - labels[6, 6]
        bench.measurements.follow("mine", labels, place)
    assert len(bench.client.requests) == 1


def test_what_is_known_of_cells_stays_where_all_are_measured_anew(image: np.ndarray) -> None:
    bench, labels = Bench(), grid()
    place = Place(ImageSource("i", "i", image, "YX"), (0, 0))
    kept = KeptWindow("result", (0, 0), labels.shape)
    table = {**columns(labels, image), "confidence": np.full(36, 0.5)}
    bench.measurements.adopt("mine", labels, place, table, kept)
    for _ in range(2):  # asked for again before the first answer came
        bench.measurements.measure("mine", labels, place)
    bench.answer(bench.client.requests[-1], image)
    cells = bench.measurements.cells("mine")
    assert cells is not None
    assert cells.n_measured == 36
    assert (cells.columns["confidence"] == 0.5).all()
    assert bench.client.requests[-1].key == "result"  # the window is known still


def test_an_image_that_the_cells_do_not_lie_on_is_not_measured(image: np.ndarray) -> None:
    bench = Bench()
    bench.measurements.measure("mine", grid(), Place(ImageSource("i", "i", image, "YX")))
    (request,) = bench.client.requests
    assert "image" not in request.arguments


def a_box(*ends: tuple[int, int]) -> Any:
    return np.array([a for a, _ in ends]), np.array([b for _, b in ends])


@pytest.mark.parametrize(
    "box",
    [
        a_box((0, 1), (0, 1)),
        a_box((BLOCK - 1, BLOCK), (0, BLOCK)),
        a_box((BLOCK - 1, BLOCK + 1), (5, 2 * BLOCK + 1)),
        a_box((1, 3), (BLOCK, 2 * BLOCK), (BLOCK - 1, BLOCK + 1)),
        a_box((0, 2), (3, 4), (0, 1), (0, BLOCK + 1)),
    ],
)
def test_blocks_of_a_box_are_those_of_its_pixels(box) -> None:
    pixels = np.stack([axis.ravel() for axis in np.meshgrid(*map(range, *box), indexing="ij")])
    expected = {(*at[:-2], at[-2] // BLOCK, at[-1] // BLOCK) for at in pixels.T.tolist()}
    assert measuring._blocks_in(box) == measuring._blocks_at(pixels) == expected
    assert measuring._blocks_at(pixels[:, :0]) == set()
    some = pixels[:, ::7]
    assert measuring._blocks_at(some) == {
        (*at[:-2], at[-2] // BLOCK, at[-1] // BLOCK) for at in some.T.tolist()
    }


def test_boxes_that_meet_and_reach() -> None:
    one, other = a_box((0, 1), (4, 9), (20, 30)), a_box((2, 3), (6, 7), (1, 25))
    both = measuring.union(one, other)
    assert [end.tolist() for end in both] == [[0, 4, 1], [3, 9, 30]]
    assert (measuring.volume(one), measuring.volume(both)) == (50, 3 * 5 * 29)
    around = measuring.grown(one, (9, 40, 33), 5)
    assert [end.tolist() for end in around] == [[0, 0, 15], [1, 14, 33]]
    part = (slice(0, 1), slice(4, None), slice(-3, None))
    assert [end.tolist() for end in measuring.corners(part, (9, 40, 33))] == [
        [0, 4, 30],
        [1, 40, 33],
    ]
    assert measuring.slices(one) == (slice(0, 1), slice(4, 9), slice(20, 30))


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 7, 5), (10, 1), (3, 40), (0, 4), (1, 3, 9)])
def test_an_array_is_compared_in_parts_that_are_not_large(shape, monkeypatch) -> None:
    monkeypatch.setattr(measuring, "CHUNK", 20)
    seen = np.zeros(shape, int)
    for part in measuring.chunks(shape):
        seen[part] += 1
        assert 0 < seen[part].size <= max(20, shape[-1])
        assert all(n == 1 for n in seen[part].shape[:-2])
    assert (seen == 1).all()


def test_boxes_are_read_together_only_where_that_is_not_much_more() -> None:
    def small(y: int, x: int) -> Any:
        return a_box((y, y + 10), (x, x + 10))

    assert list(measuring.windows({})) == []
    near = {1: small(0, 0), 2: small(240, 240)}
    ((box, labels),) = measuring.windows(near)
    assert ([end.tolist() for end in box], labels) == ([[0, 0], [250, 250]], [1, 2])
    far = {n: small(0, 100_000 * n) for n in (4, 1, 3, 2, 5)}
    found = list(measuring.windows(far))
    assert [labels for _, labels in found] == [[1], [2], [3], [4], [5]]
    assert all(measuring.volume(box) == 100 for box, _ in found)
    # halves along the longest side: of two groups each is read at once
    groups = {n: small(50_000 * (n % 2), 20 * n) for n in range(1, 8)}
    parts = sorted((sorted(labels) for _, labels in measuring.windows(groups)), key=len)
    assert sorted(n for labels in parts for n in labels) == list(range(1, 8))
    for box, labels in measuring.windows(groups):
        assert measuring.volume(box) <= max(2**16, 2**14 * len(labels))
        for n in labels:
            assert (box[0] <= groups[n][0]).all()
            assert (groups[n][1] <= box[1]).all()
    # large ones are worth three times their pixels
    wide = {1: a_box((0, 1000), (0, 1000)), 2: a_box((0, 1000), (5000, 6000))}
    ((box, _),) = measuring.windows(wide)
    assert measuring.volume(box) == 6 * 10**6
    wide[2] = a_box((0, 1000), (5001, 6001))
    assert [labels for _, labels in measuring.windows(wide)] == [[1], [2]]


@pytest.mark.parametrize("ndim", [2, 3, 4])
def test_boxes_of_scattered_pixels(ndim: int) -> None:
    rng = np.random.default_rng(ndim)
    where = rng.integers(0, 50, (ndim, 300))
    values = rng.choice([3, 7, 2**31 - 1, 12], 300)
    found = dict(measuring.extents(values, where))
    assert list(found) == [3, 7, 12, 2**31 - 1]
    for label, (low, high) in found.items():
        own = where[:, values == label]
        assert low.tolist() == own.min(1).tolist()
        assert high.tolist() == (own.max(1) + 1).tolist()
    assert list(measuring.extents(values[:0], where[:, :0])) == []


def test_boxes_of_labels_however_large_their_numbers() -> None:
    labels = np.zeros((3, 30, 40), np.int32)
    labels[1, 2:5, 7:9] = 4
    labels[2, 29, 39] = labels[0, 20, 3] = 9
    for large in (False, True):
        if large:
            labels[labels == 9] = 2**31 - 1
        found = measuring.boxes_of(labels)
        last = 2**31 - 1 if large else 9
        assert {label: [end.tolist() for end in box] for label, box in found.items()} == {
            4: [[1, 2, 7], [2, 5, 9]],
            last: [[0, 20, 3], [3, 30, 40]],
        }
    assert measuring.boxes_of(labels * 0) == {}
