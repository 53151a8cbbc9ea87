"""What is kept is what segmenting saw: channels, axes, levels and size, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile

from napari_sa2net.app.cells import CellSource, KeptPlace
from napari_sa2net.app.edit_session import restored_session
from napari_sa2net.app.keep import how_seen
from napari_sa2net.app.session import ImageSource
from napari_sa2net.app.training_set import read_kept, thumbnail
from napari_sa2net.config import InputConfig, PredictConfig
from napari_sa2net.data.commit import Seen
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.data.plan import plan_as_input
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.data.training_set import load_training_folder
from napari_sa2net.provenance import provenance
from napari_sa2net.training.dataset import load_example

SIDE = (96, 112)
CELLS, LABELS = synthetic_nuclei(SIDE, n=8, diameter=20, seed=3)
# Other channels: one without cells, one that is much brighter, and cells of another place.
GROUND = np.full(SIDE, 100, np.uint16)
GROUND[::7, ::5] = 130
OTHER = (synthetic_nuclei(SIDE, n=5, diameter=16, seed=9)[0] * 7).astype(np.uint16)
CHANNELS = np.stack([GROUND, CELLS, OTHER])
#: Several planes, of which others are brighter than the one that is kept.
STACK = np.stack([CHANNELS * (i + 1) for i in range(3)])


def expected(
    image: Any,
    axes: str,
    channels: Any,
    index: tuple[int, ...] = (),
    normalize: bool = True,
    expects: InputConfig | None = None,
    **more: Any,
) -> tuple[Any, dict[str, Any]]:
    """What segmenting reads, and the provenance of its result."""
    expects = expects or InputConfig()
    plan = plan_as_input(image, axes, channels, normalize, expects, 3, **more)
    height, width = plan.spatial
    seen = plan.read(index, 0, height, 0, width)
    made = provenance(
        "tiny",
        "ab",
        {**plan.settings(), "predict": PredictConfig(diameter=31, **more)},
        diameter=31.0,
        scale=24 / 31,
    )
    return seen, made


def desk_of(desks: Any, image: Any, axes: str, page: Any, **source: Any) -> Any:
    """Reviewed cells over an image; ``page``: the channels that are chosen now."""
    labels = source.pop("labels", LABELS)
    desk = desks(labels, image=np.zeros(labels.shape, np.uint8))
    desk.image = ImageSource("img", "two dyes", image, axes, page)
    fields = {"corner": (0,) * labels.ndim, "image": desk.image, **source}
    desk.source = CellSource("kept cells", "cells", labels, **fields)
    desk.controller.set_cells(desk.source)
    for label in np.unique(labels):
        if label:
            assert desk.controller.accept(int(label))
    return desk


def learned(desk: Any, expects: InputConfig | None = None) -> Any:
    (record,) = desk.keep()
    (item,) = load_training_folder(desk.state.folder)
    assert item.commit == record.id
    return load_example(item, expects or InputConfig(), 24)


SEVERAL = [
    ("CYX", CHANNELS, (1,), ()),
    ("CYX", CHANNELS, (0, 1), ()),
    ("CYX", CHANNELS, (2, 1, 0), ()),
    ("CYX", CHANNELS[:2], (1, 0), ()),
    ("YXC", np.moveaxis(np.concatenate([CHANNELS, CHANNELS[:2]]), 0, -1), (1, 2), ()),
    ("YXC", (np.moveaxis(CHANNELS, 0, -1) // 120).astype(np.uint8), None, ()),
    ("YXC", (np.moveaxis(CHANNELS, 0, -1) // 120).astype(np.uint8), (1,), ()),
    ("YXC", (np.moveaxis(CHANNELS, 0, -1) // 120).astype(np.uint8), (2, 1), ()),
    ("TCYX", STACK, (1, 0), (0,)),
    ("CZYX", np.moveaxis(STACK, 0, 1), (2, 1), (1,)),
    ("TYXS", np.moveaxis(STACK, 1, -1), None, (0,)),
    ("YX", CELLS.astype(np.float32) / 4095 - 0.25, None, ()),
]


@pytest.mark.parametrize(("axes", "image", "channels", "index"), SEVERAL)
@pytest.mark.parametrize("kind", ["numpy", "dask", "multiscale"])
@pytest.mark.parametrize("told", [True, False], ids=["made by us", "drawn"])
def test_learning_sees_what_segmenting_saw(
    desks: Any,
    axes: str,
    image: Any,
    channels: Any,
    index: tuple[int, ...],
    kind: str,
    told: Any,
) -> None:
    data: Any = da.from_array(image, chunks=64) if kind == "dask" else image
    if kind == "multiscale":
        small = [slice(None, None, 2) if a in "YX" else slice(None) for a in axes]
        data = [image, image[tuple(small)]]
    seen, made = expected(data, axes, channels, index)
    labels = LABELS if not index else np.zeros((3, *SIDE), np.int32)
    if index:
        labels[index] = LABELS
    # The page has been set to another channel since; what made the cells counts.
    page = (0,) if told and "C" in axes else channels
    desk = desk_of(
        desks, data, axes, page, labels=labels, plane=index, made=made if told else {}
    )
    example = learned(desk)
    np.testing.assert_allclose(example.image, seen, atol=1e-6)
    assert (example.labels > 0).sum() == (LABELS > 0).sum()
    assert example.diameter == (31 if told else pytest.approx(20, abs=3))


@pytest.mark.parametrize("removed", [True, False])
def test_learning_sees_no_brown_stain_where_segmenting_saw_none(
    desks: Any, removed: bool
) -> None:
    brown = np.full((*SIDE, 3), (150, 100, 60), np.uint8)
    brown[LABELS > 0] = (90, 80, 130)
    plan = plan_as_input(brown, "YXC", None, True, InputConfig(), 3)
    plan = plan.without_dab() if removed else plan
    predict = PredictConfig(diameter=31, dab="remove" if removed else "auto")
    made = provenance(
        "tiny", "ab", {**plan.settings(), "predict": predict}, diameter=31.0, scale=24 / 31
    )
    desk = desk_of(desks, brown, "YXC", None, made=made)
    (record,) = desk.keep()
    (item,) = load_training_folder(desk.state.folder)
    example = load_example(item, InputConfig(), 24)
    np.testing.assert_allclose(
        example.image, plan.read((), 0, *SIDE[:1], 0, SIDE[1]), atol=1e-6
    )
    # the picture that is kept is the image as it is
    np.testing.assert_array_equal(tifffile.imread(item.image), brown)
    assert record.source.name == "two dyes"


def test_a_crop_is_as_bright_as_the_whole(desks: Any) -> None:
    image = np.full((200, 240), 50, np.uint16)
    image[:96, :112] = CELLS // 4
    image[120:, 130:] = 60_000
    for made in ({}, expected(image, "YX", None)[1]):
        seen, _ = expected(image, "YX", None)
        desk = desk_of(desks, image, "YX", None, corner=(0, 0), made=made)
        np.testing.assert_allclose(learned(desk).image, seen[:, :96, :112], atol=1e-6)
        desk.controller.close()


@pytest.mark.parametrize(
    ("normalize", "expects"),
    [
        (False, InputConfig()),
        (True, InputConfig(low=5, high=90)),
        (True, InputConfig(normalization="divide", divisor=4095)),
        (True, InputConfig(normalization="none")),
    ],
)
def test_other_levels_travel_too(desks: Any, normalize: bool, expects: InputConfig) -> None:
    image = np.stack([CELLS, CELLS // 2 + 900, GROUND])
    seen, made = expected(image, "CYX", (1, 2, 0), (), normalize, expects)
    desk = desk_of(desks, image, "CYX", (0,), labels=LABELS[:48], made=made)
    example = learned(desk, expects)
    np.testing.assert_allclose(example.image, seen[:, :48], rtol=1e-6)


def test_cells_that_nobody_segmented_follow_the_page(desks: Any) -> None:
    session_image = np.stack([CELLS / 4095, CELLS / 8000]).astype(np.float32)
    desk = desk_of(desks, session_image, "CYX", (1,))
    session = desk.link.session
    session.normalize = False
    session.predict = PredictConfig(rescale=False)
    example = learned(desk)
    np.testing.assert_allclose(example.image[0], CELLS / 8000, atol=1e-6)
    assert example.diameter == 24  # as it is: no network pixel is another size


def test_a_stain_that_was_removed_elsewhere_is_none_of_drawn_cells(desks: Any) -> None:
    desk = desk_of(desks, CELLS, "YX", None)
    desk.link.session.predict = PredictConfig(dab="remove")
    np.testing.assert_allclose(learned(desk).image, expected(CELLS, "YX", None)[0], atol=1e-6)


def test_levels_of_another_image_are_not_taken(desks: Any) -> None:
    _, made = expected(CHANNELS, "CYX", (2, 1))
    desk = desk_of(desks, CELLS, "YX", None, made=made)
    np.testing.assert_allclose(learned(desk).image, expected(CELLS, "YX", None)[0], atol=1e-6)


def test_an_estimate_that_was_far_off_is_not_learned_with(desks: Any) -> None:
    _, made = expected(CELLS, "YX", None)
    made["settings"]["predict"]["diameter"] = None
    for found, used in ((26.0, 26.0), (70.0, pytest.approx(20, abs=3))):
        desk = desk_of(desks, CELLS, "YX", None, made={**made, "diameter": found})
        assert learned(desk).diameter == used
        desk.controller.close()


def test_what_was_kept_is_kept_anew_as_it_was(desks: Any) -> None:
    """Opened from the set and corrected further: its own settings, not the page's."""
    seen, made = expected(STACK, "TCYX", (2, 1), (1,))
    labels = np.zeros((3, *SIDE), np.int32)
    labels[1] = LABELS
    desk = desk_of(desks, STACK, "TCYX", (0,), labels=labels, plane=(1,), made=made)
    desk.controller.keeping.set_group("dish 1")
    (first,) = desk.keep()
    kept = read_kept(desk.state.folder, first.id)
    assert (kept.axes, kept.channels) == ("CYX", (0, 1))
    folder = desk.state.folder
    again = desk_of(
        desks, kept.image, "CYX", (0,), labels=kept.labels, kept=kept.place, made={}
    )
    again.controller.keeping.set_folder(folder)
    again.controller.delete(point=np.argwhere(LABELS == 1)[0])
    example = learned(again)
    np.testing.assert_allclose(example.image, seen, atol=1e-6)
    assert example.diameter == 31
    (record,) = TrainingSet.open(folder).commits()
    assert record.place == first.place
    assert record.seen == first.seen
    assert record.group == "dish 1"  # never on both sides
    # Segmented anew from one of its channels: that is what was seen.
    once, made = expected(kept.image, "CYX", (1,))
    newest = desk_of(
        desks, kept.image, "CYX", (0, 1), labels=kept.labels, kept=kept.place, made=made
    )
    newest.controller.keeping.set_folder(folder)
    np.testing.assert_allclose(learned(newest).image, once, atol=1e-6)
    (record,) = TrainingSet.open(folder).commits()
    assert record.seen is not None
    assert record.seen.channels == (1,)  # of the stack


def test_levels_of_the_whole_stack_stay_where_a_plane_is_kept_anew(desks: Any) -> None:
    """The plane alone, which is all that the set holds, has others."""
    _, made = expected(STACK, "TCYX", (2, 1), (1,), levels="stack")
    labels = np.zeros((3, *SIDE), np.int32)
    labels[1] = LABELS
    desk = desk_of(desks, STACK, "TCYX", (0,), labels=labels, plane=(1,), made=made)
    (first,) = desk.keep()
    kept = read_kept(desk.state.folder, first.id)
    again = desk_of(
        desks, kept.image, "CYX", (0,), labels=kept.labels, kept=kept.place, made={}
    )
    again.controller.keeping.set_folder(desk.state.folder)
    again.controller.delete(point=np.argwhere(LABELS == 1)[0])
    (record,) = again.keep()
    assert record.levels == first.levels


def test_settings_survive_a_crash(desks: Any) -> None:
    _, made = expected(CHANNELS, "CYX", (2, 1))
    desk = desk_of(desks, CHANNELS, "CYX", (0,), made=made)
    identity = desk.controller.session.journal.id
    desk.controller.close()
    session, cells = restored_session(identity, desk.image)
    session.close()
    assert Seen.of(cells.made) == Seen.of(made)


def test_the_small_picture_shows_what_is_learned_from(desks: Any) -> None:
    _, made = expected(CHANNELS, "CYX", (0, 1))
    desk = desk_of(desks, CHANNELS, "CYX", (0,), made=made)
    desk.keep()
    (item,) = load_training_folder(desk.state.folder)
    step = max(SIDE) // 40
    seen = load_example(item, InputConfig(), 24).image[0, ::step, ::step]
    assert np.corrcoef(thumbnail(item).ravel(), seen.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    "settings",
    [{"levels": "stack"}, {"levels": "plane"}, {"contrast": (300.0, 900.0)}, {}],
    ids=["stack", "plane", "contrast", "auto"],
)
@pytest.mark.parametrize("expects", [InputConfig(), InputConfig(normalization="range")])
@pytest.mark.parametrize("kind", ["numpy", "dask"])
def test_levels_of_planes_and_chosen_ones_travel(
    desks: Any, settings: Any, expects: InputConfig, kind: str
) -> None:
    """Of a crop, whose own levels are others."""
    stack = np.stack([STACK, STACK // 3])
    data: Any = da.from_array(stack, chunks=64) if kind == "dask" else stack
    seen, made = expected(data, "ZTCYX", (2, 1), (1, 2), True, expects, **settings)
    labels = np.zeros((2, 3, 48, 112), np.int32)
    labels[1, 2] = LABELS[:48]
    desk = desk_of(desks, data, "ZTCYX", (0,), labels=labels, plane=(1, 2), made=made)
    np.testing.assert_allclose(learned(desk, expects).image, seen[:, :48], atol=1e-6)


def test_cells_that_nobody_segmented_follow_what_is_displayed(desks: Any) -> None:
    desk = desk_of(desks, CHANNELS, "CYX", None)
    shown = replace(desk.image, seen_channel=1, contrast=(200.0, 700.0))
    desk.controller.set_cells(replace(desk.source, image=shown))
    seen, _ = expected(CHANNELS, "CYX", (1,), contrast=(200.0, 700.0))
    np.testing.assert_allclose(learned(desk).image, seen, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axes", "kept", "channels"),
    [
        ((3, 20, 30), "CYX", (1,), (1,)),
        ((3, 20, 30), "CYX", (2, 0), (2, 0)),
        ((3, 20, 30), "CYX", (), (0, 1, 2)),
        ((20, 30, 3), "YXC", (), (0, 1, 2)),
        ((20, 30, 4), "YXC", (), (0, 1, 2)),
        ((20, 30), "YX", (), (0,)),
    ],
)
def test_an_image_of_a_training_set_goes_in_as_its_commit_says(
    shape, axes, kept, channels
) -> None:
    """Whatever the page is set to."""
    pixels = np.random.default_rng(0).integers(0, 99, shape).astype(np.uint8)
    image = ImageSource("i", "image", pixels, axes, channels=(0,))
    place = KeptPlace("a", "", "", (), None, None, "", "", "", channels=kept)
    labels = np.zeros((20, 30), np.int32)
    cells = CellSource("cells", "cells", labels, image=image, corner=(0, 0), kept=place)
    plan, seen = how_seen(cells, image, {})
    assert plan.channels == channels
    assert seen is None
