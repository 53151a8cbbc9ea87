"""Keeping again: folders that are gone, work undone, groups, other windows."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from time import sleep, time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_sa2net.app.cells import CellSource
from napari_sa2net.app.keep import (
    KeepResult,
    WhatToKeep,
    before_words,
    kept_words,
    meanwhile_words,
)
from napari_sa2net.app.measured import Place
from napari_sa2net.app.saving import Placed, cells_in_image
from napari_sa2net.app.session import ImageSource
from napari_sa2net.data.commit import CommitRecord
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.provenance import image_fingerprint

STACK = np.arange(3 * 96 * 120, dtype=np.float32).reshape(3, 96, 120)


def disks() -> Any:
    """Cells 1 to 4."""
    y, x = np.indices((96, 120))
    labels = np.zeros((96, 120), np.int32)
    for label, (cy, cx) in enumerate(((20, 20), (20, 60), (60, 20), (60, 77)), 1):
        labels[np.hypot(y - cy, x - cx) <= 8] = label
    return labels


def stack(desks: Any, **source: Any) -> Any:
    desk: Any = desks(np.stack([disks()] * 3), image=STACK, plane=(0,), **source)
    return desk


def go_to(desk: Any, plane: int) -> None:
    source = desk.source
    desk.controller.set_cells(
        CellSource("cells", "my cells", source.labels, (plane,), desk.image, (0, 0, 0))
    )


def accept_all(desk: Any) -> None:
    for plane in range(3):
        go_to(desk, plane)
        for label in (1, 2, 3, 4):
            assert desk.controller.accept(label)


def active(desk: Any) -> dict[tuple[int, ...], Any]:
    return {r.index: r for r in TrainingSet.open(desk.state.folder).commits()}


def next_second() -> None:
    sleep(1.01 - time() % 1)


def undo_all(desk: Any) -> None:
    while desk.controller.undo():
        pass


def test_a_folder_that_was_deleted_is_made_anew_with_all_planes(desks: Any) -> None:
    desk = stack(desks)
    accept_all(desk)
    assert len(desk.keep()) == 3
    assert desk.state.kept_note == ""
    shutil.rmtree(desk.state.folder)
    desk.controller.keeping.refresh()
    assert desk.state.keep.folder_gone
    assert desk.state.keep.can
    assert desk.state.keep.n_planes == 3
    desk.controller.delete(point=(20, 20))
    desk.keep()
    assert set(active(desk)) == {(0,), (1,), (2,)}
    assert "11 reviewed cells and 1 deleted cell of 3 planes" in desk.state.kept
    assert "was gone, so it was made anew" in desk.state.kept_note
    assert not desk.state.keep.can
    # another set lies where ours was
    shutil.rmtree(desk.state.folder)
    TrainingSet.open(desk.state.folder, create=True)
    desk.controller.undo()
    desk.keep()
    assert set(active(desk)) == {(0,), (1,), (2,)}
    assert "did not hold what you had kept" in desk.state.kept_note
    # nothing of ours is left to take out of a folder that is gone
    undo_all(desk)
    shutil.rmtree(desk.state.folder)
    assert desk.keep() == []
    assert "was gone" in desk.state.kept_note
    assert not desk.state.keeping


def test_what_is_undone_is_taken_back(desks: Any) -> None:
    desk = stack(desks)
    accept_all(desk)
    desk.keep()
    for _ in range(4):
        desk.controller.undo()
    desk.controller.keeping.refresh()
    assert (desk.state.keep.n_planes, desk.state.keep.n_withdrawn) == (0, 1)
    assert desk.keep() == []
    assert "Took 1 plane back" in desk.state.kept
    assert desk.state.kept_note == ""  # nobody else has kept it
    assert set(active(desk)) == {(0,), (1,)}
    assert desk.state.unsaved == 0
    assert not desk.state.keep.can
    assert desk.state.keep.problem.startswith("Everything")
    for _ in range(4):
        desk.controller.redo()
    desk.keep()
    assert set(active(desk)) == {(0,), (1,), (2,)}
    undo_all(desk)
    desk.keep()
    assert active(desk) == {}
    assert desk.state.keep.problem.startswith("Nothing is reviewed yet")


def test_what_was_kept_before_the_session_comes_back(desks: Any) -> None:
    first = desks(disks())
    first.controller.accept(1)
    (one,) = first.keep()
    first.controller.close()
    second = desks(disks(), image=first.image.data)
    for label in (2, 3):
        second.controller.accept(label)
        second.keep()
    undo_all(second)
    second.keep()
    (record,) = active(second).values()
    assert record.id == one.id


def test_what_was_kept_before_is_of_the_image_under_the_cells(desks: Any) -> None:
    """Whatever image the other pages show."""
    first = desks(disks())
    assert first.controller.accept(1)
    first.keep()
    other = desks(disks(), image=first.image.data)
    other.link.session.image = ImageSource("elsewhere", "elsewhere", np.zeros((9, 9)))
    other.settle()
    other.state.kept_before = ""
    other.controller.keeping.set_folder(first.state.folder)
    other.settle()
    assert "1 reviewed cell of this image" in other.state.kept_before


def test_what_is_corrected_while_keep_writes_is_kept_by_the_next(desks: Any) -> None:
    desk = stack(desks)
    for label in (1, 2, 3):
        assert desk.controller.accept(label)
    gate = threading.Event()
    desk.controller._files.run(lambda: gate.wait(30), lambda _: None, lambda _: None)
    future = desk.controller.keeping.keep()
    desk.controller.delete(point=(20, 60))
    gate.set()
    (first,) = future.result(30)
    desk.settle()
    training_set = TrainingSet.open(desk.state.folder)
    assert 2 in training_set.load(first.id).labels
    assert desk.state.keep.can
    (second,) = desk.keep()
    assert 2 not in training_set.load(second.id).labels


def test_group_and_folder_can_be_changed_after_keeping(desks: Any, tmp_path: Path) -> None:
    desk = stack(desks)
    accept_all(desk)
    desk.keep()
    home = desk.state.folder
    keeping, state = desk.controller.keeping, desk.state
    keeping.set_group("dish ")
    assert state.keep.n_planes == 3
    keeping.set_group("")
    assert not state.keep.can
    keeping.set_group("dish 7")
    desk.keep()
    assert {record.group for record in active(desk).values()} == {"dish 7"}
    assert not state.keep.can
    keeping.set_folder(tmp_path / "other")
    assert (state.keep.n_planes, state.keep.n_cells) == (3, 12)
    desk.keep()
    assert set(active(desk)) == {(0,), (1,), (2,)}
    keeping.set_folder(home)
    assert not state.keep.can


def test_another_image_has_another_group(desks: Any) -> None:
    desk = desks(disks())
    desk.controller.keeping.set_group("patient 7")
    desk.controller.accept(1)
    desk.keep()
    other = ImageSource("image 2", "nuclei 4", desk.image.data + 1)
    desk.controller.set_cells(
        CellSource("cells 2", "cells 4", disks(), image=other, corner=(0, 0))
    )
    assert (desk.state.group, desk.state.kept) == ("", "")
    desk.controller.accept(1)
    (record,) = desk.keep()
    assert record.group == ""
    desk.controller.set_cells(desk.source)
    assert desk.state.group == "patient 7"
    desk.controller.keeping.refresh()
    assert not desk.state.keep.can


def test_what_is_announced_is_what_is_kept(desks: Any) -> None:
    desk = stack(desks)
    accept_all(desk)
    desk.keep()
    desk.controller.delete(lasso=[(0, 0), (0, 119), (40, 119), (40, 0)])
    desk.controller.keeping.refresh()
    what = desk.state.keep
    assert (what.n_cells, what.n_deleted, what.n_planes) == (2, 2, 1)
    desk.controller.delete(lasso=[(40, 0), (40, 119), (95, 119), (95, 0)])
    desk.controller.keeping.refresh()
    assert desk.state.keep.cells == "4 deleted cells"
    desk.keep()
    assert "Kept 4 deleted cells in" in desk.state.kept
    # a region to ignore alone teaches nothing
    bare = desks(disks(), image=STACK[0])
    bare.controller.mark("ignore", [(80, 0), (80, 50), (95, 50), (95, 0)])
    bare.controller.keeping.refresh()
    assert not bare.state.keep.can


def test_a_deleted_blob_is_nothing_to_keep_while_cells_are_there(desks: Any) -> None:
    labels = disks()
    labels[:, 82:] = 5  # far larger than the cells
    desk = desks(labels, image=STACK[0])
    desk.controller.delete(point=(50, 100))
    desk.controller.keeping.refresh()
    assert not desk.state.keep.can
    assert "Nothing is reviewed yet" in desk.state.keep.problem
    assert "deleted a large blob" in desk.state.keep.problem
    desk.controller.delete(point=(20, 20))
    desk.controller.keeping.refresh()
    assert desk.state.keep.cells == "1 deleted cell"
    (record,) = desk.keep()
    kept = TrainingSet.open(desk.state.folder).load(record.id)
    assert kept.reviewed[20, 20]
    assert not kept.reviewed[:, 82:].any()


def test_what_another_window_kept_is_not_replaced_in_silence(desks: Any) -> None:
    image = disks().astype(np.float32)
    first, second = desks(disks(), image=image), desks(disks(), image=image)
    for label in (1, 2, 3, 4):
        first.controller.accept(label)
    first.keep()
    next_second()  # commits tell theirs: the second desk shows older cells
    second.controller.delete(point=(60, 20))
    (theirs,) = second.keep()
    assert "in another window" in second.state.kept_note
    first.controller.delete(point=(20, 20))
    first.keep()
    note = first.state.kept_note
    assert f"Meanwhile version {theirs.id[:8]} (today " in note
    assert f'sa2net corrections restore "corrections" {theirs.id[:8]}' in note
    training_set = TrainingSet.open(first.state.folder)
    assert training_set.restore(theirs.name).id == theirs.id
    # theirs is active: ours can be taken back, and theirs stays
    undo_all(first)
    first.keep()
    assert "stays in the training set" in first.state.kept_note
    (record,) = active(first).values()
    assert record.id == theirs.id


def test_an_older_version_that_was_put_back_was_not_kept_meanwhile(desks: Any) -> None:
    image = disks().astype(np.float32)
    first, second = desks(disks(), image=image), desks(disks(), image=image)
    second.controller.accept(2)
    (theirs,) = second.keep()
    next_second()
    first.controller.accept(1)
    first.keep()
    assert f"Meanwhile version {theirs.id[:8]}" in first.state.kept_note
    TrainingSet.open(first.state.folder).restore(theirs.name)
    first.controller.accept(3)
    (record,) = first.keep()
    assert record.n_reviewed == 3  # what it had reviewed stays
    assert first.state.kept_note == ""


def test_an_image_whose_pixels_changed_is_another(desks: Any) -> None:
    desk = desks(disks())
    files = desk.controller._files
    files.image_changed("an image that nothing was asked of")
    before = files.fingerprint(desk.image).result(30)
    desk.image.data[0, 0] += 1
    assert files.fingerprint(desk.image).result(30) == before  # computed once
    files.image_changed(desk.image.key)
    assert files.fingerprint(desk.image).result(30) == image_fingerprint(desk.image.data)


def test_what_was_kept_in_another_session_is_known(desks: Any, home: Path) -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[4:12, 4:12], labels[24:32, 24:32] = 1, 2
    desk = desks(labels)
    desk.controller.keeping.set_group("slide 3")
    assert desk.controller.accept(1)
    desk.keep()
    desk.controller.close()
    next_second()

    again = desks(labels.copy())
    again.settle()
    assert again.state.kept == ""
    assert again.state.kept_before.startswith(
        "Kept before in “corrections”: 1 reviewed cell of this image, the last today"
    )
    assert again.state.group == "slide 3"
    assert again.controller.accept(2)
    (record,) = again.keep()
    assert again.state.kept.startswith("Kept 1 reviewed cell")
    assert again.state.kept_before == ""
    assert not again.state.kept_note
    assert record.n_reviewed == 2
    assert [one.id for one in TrainingSet.open(home / "corrections").commits()] == [record.id]

    other = desks(labels.copy(), image=np.ones((40, 40), np.float32))
    other.settle()
    assert not other.state.kept_before
    assert not other.state.group


SET = Path("my set")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (WhatToKeep(12, 1, 1), "Kept 12 reviewed cells and 1 deleted cell in “my set”."),
        (WhatToKeep(1, 0, 2), "Kept 1 reviewed cell of 2 planes in “my set”."),
        (
            WhatToKeep(0, 2, 3, noun="time point"),
            "Kept 2 deleted cells of 3 time points in “my set”.",
        ),
        (WhatToKeep(0, 0, 1), "Kept what you marked as all right in “my set”."),
        (WhatToKeep(n_withdrawn=1), "Took this image back out of “my set”."),
        (
            WhatToKeep(3, 0, 1, 2, is_stack=True),
            "Kept 3 reviewed cells in “my set”. Took 2 planes back out of “my set”.",
        ),
        (
            WhatToKeep(n_withdrawn=1, is_stack=True, noun="time point"),
            "Took 1 time point back out of “my set”.",
        ),
    ],
)
def test_what_was_kept_is_said(what: WhatToKeep, said: str) -> None:
    assert kept_words(SET, what) == said
    assert what.can
    assert not replace(what, problem="Nothing is reviewed.").can


def commits_at(*minutes: int) -> list[CommitRecord]:
    """Made so long ago, and as many cells reviewed in each."""
    one = CommitRecord.model_construct(n_reviewed=0)
    return [
        one.model_copy(
            update={
                "id": f"{i}abcdefgh",
                "time": (NOW - timedelta(minutes=m)).isoformat(),
                "n_reviewed": m,
            }
        )
        for i, m in enumerate(minutes)
    ]


NOW = datetime(2026, 3, 4, 12, 0).astimezone()


def test_what_was_kept_before_is_summed_up() -> None:
    records = commits_at(7, 1440 * 2, 1440)
    assert before_words(SET, records, NOW) == (
        f"Kept before in “my set”: {7 + 1440 * 3:,} reviewed cells of this image, the last "
        "today 11:53."
    )
    assert "cell of this image, the last today 11:59." in before_words(SET, commits_at(1), NOW)
    assert "yesterday 12:00" in before_words(SET, commits_at(1440), NOW)
    assert "02 March 2026 12:00" in before_words(SET, commits_at(1440 * 2), NOW)


def test_what_other_windows_kept_is_named_three_at_most() -> None:
    def said(n_replaced: int, n_left: int = 0) -> str:
        replaced, left = commits_at(*range(n_replaced)), commits_at(*range(5, 5 + n_left))
        return meanwhile_words(SET, KeepResult([], tuple(replaced), tuple(left)), NOW)

    assert said(0) == ""
    assert said(1) == (
        "Meanwhile version 0abcdefg (today 12:00) was kept in another window. That version is "
        "in “earlier” of the folder now. To have it back in place of yours, on the shell "
        'beside the folder: sa2net corrections restore "my set" 0abcdefg'
    )
    assert (
        "versions 0abcdefg (today 12:00), 1abcdefg (today 11:59), 2abcdefg (today 11:58) were "
        "kept in another window. Those versions are"
    ) in said(3)
    assert "2abcdefg (today 11:58) and 2 more were kept" in said(5)
    assert said(0, 1) == (
        "Meanwhile version 0abcdefg (today 11:55) was kept in another window, and that stays "
        "in the training set. To take it out, on the shell beside the folder: "
        'sa2net corrections remove "my set" 0abcdefg'
    )


def test_keep_says_on_which_plane_labels_are_no_cells(desks: Any) -> None:
    """Of axes that have several planes, counted from 1."""
    labels = np.tile(disks() + 1, (2, 1, 3, 1, 1))
    image = ImageSource("movie", "movie", np.zeros(labels.shape, np.float32), "TPZYX")
    desk = desks(labels, image=image.data)
    desk.controller.set_cells(replace(desk.source, image=image, plane=(1, 0, 2)))
    assert desk.controller.redraw([(10, 10), (10, 20), (20, 20), (20, 10)])
    desk.controller.keeping.refresh()
    said = desk.state.keep.problem
    assert said.startswith("On time point 1 of 0–1, plane 2 of 0–2: ")
    assert said.endswith('Show that plane, and press "Make label 1 the background".')


KEYS = st.one_of(
    st.integers(-9, 8),
    st.builds(slice, st.none() | st.integers(-12, 12), st.none() | st.integers(-12, 12)),
    st.builds(
        slice, st.none() | st.integers(0, 9), st.none() | st.integers(0, 12), st.integers(1, 4)
    ),
)


@settings(deadline=None, max_examples=60)
@given(
    keys=st.lists(KEYS, min_size=0, max_size=3),
    corner=st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 5)),
    left_out=st.sampled_from([None, [3], [3, 7]]),
)
def test_labels_of_a_part_in_the_frame_of_the_image_are_read_by_slices(
    keys: list[Any], corner: tuple[int, ...], left_out: list[int] | None
) -> None:
    shape = (9, 9, 9)
    part = np.random.default_rng(0).integers(0, 9, (5, 1, 6, 4))
    whole = np.zeros(shape, part.dtype)
    (z, y, x) = corner
    whole[z : z + 5, y : y + 6, x : x + 4] = part[:, 0]
    if left_out:
        whole[np.isin(whole, left_out)] = 0
    without = None if left_out is None else np.array(left_out)
    placed = Placed(part, corner, shape, (1,), without)
    key = tuple(keys) if len(keys) != 1 else keys[0]
    np.testing.assert_array_equal(placed[key], whole[key])
    np.testing.assert_array_equal(np.asarray(placed), whole)
    assert np.asarray(placed, np.float32).dtype == np.float32


def test_cells_are_saved_in_the_frame_of_their_image() -> None:
    image = np.arange(2 * 30 * 40).reshape(2, 30, 40)
    labels = np.zeros((2, 10, 12), np.int32)
    labels[0, 2:5, 2:5], labels[1, 6:8, 6:9] = 1, 2
    table = {"label": np.array([1, 2]), "area_px": np.array([9, 6])}
    source = ImageSource("image", "nuclei", image, axes="ZYX", path="/data/nuclei.tif")
    place = Place(source, (0, 15, 20), stack_axes="Z", pixel_size_um=(0.5, 0.25), z_step_um=2.0)
    cells = cells_in_image(labels, place, table, "my cells", {"a": 1}, np.array([1]))
    assert (cells.name, cells.image_path, cells.axes) == (
        "nuclei",
        Path("/data/nuclei.tif"),
        "ZYX",
    )
    assert cells.scale_um == {"Z": 2.0, "Y": 0.5, "X": 0.25}
    assert {name: column.tolist() for name, column in cells.table.items()} == {
        "label": [2],
        "area_px": [6],
    }
    whole = np.asarray(cells.labels)
    assert np.unique(whole).tolist() == [0, 2]
    assert (whole[1, 21:23, 26:29] == 2).all()
    labels[1] = 0  # small labels are copied
    assert (np.asarray(cells.labels)[1, 21:23, 26:29] == 2).all()
    # without an image they are in their own frame
    alone = cells_in_image(whole, Place(None, None, stack_axes="Z"), {}, "my cells", {})
    assert (alone.name, alone.image_path, alone.scale_um) == ("my cells", None, {})
    np.testing.assert_array_equal(np.asarray(alone.labels), whole)
