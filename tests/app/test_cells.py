"""Where the cells of a layer lie, and which of them a click means."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_sa2net import edits
from napari_sa2net.app import cells as cells_module
from napari_sa2net.app.cells import (
    CellSource,
    box_of,
    chosen,
    inside,
    look_at_plane,
    unmarked,
)
from napari_sa2net.app.keep import CorrectFiles
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.session import ImageSource, Session
from napari_sa2net.data.commit import Commit
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.data.labels import Look
from napari_sa2net.edits import Corrections
from napari_sa2net.errors import EditError


def source(axes: str | None, shape: Any, labels: Any, **more: Any) -> CellSource:
    image = (
        None if shape is None else ImageSource("i", "image", np.zeros(shape, np.uint8), axes)
    )
    return CellSource("c", "cells", np.zeros(labels, np.int32), image=image, **more)


@pytest.mark.parametrize(
    ("axes", "shape", "labels", "extra", "stack", "depth", "noun"),
    [
        ("YX", (8, 9), (8, 9), (), "", None, "plane"),
        ("ZYX", (2, 8, 9), (2, 8, 9), (), "Z", 0, "plane"),
        ("TYX", (2, 8, 9), (2, 8, 9), (), "T", None, "time point"),
        ("TZYX", (3, 2, 8, 9), (3, 2, 8, 9), (), "TZ", 1, "plane"),
        ("CYX", (2, 8, 9), (8, 9), (), "", None, "plane"),
        # an axis of one that the image does not have
        ("TYX", (3, 8, 9), (1, 3, 8, 9), (0,), " T", None, "time point"),
        ("ZYX", (3, 8, 9), (3, 1, 8, 9), (1,), "Z ", 0, "plane"),
        # what nobody spelled: as when it was segmented, else depth
        (None, (3, 8, 9), (3, 8, 9), (), "", 0, "plane"),
        (None, None, (3, 8, 9), (), "", 0, "plane"),
        (None, None, (2, 3, 8, 9), (), "", 1, "plane"),
        (None, None, (8, 9), (), "", None, "plane"),
        ("YX", (8, 9), (3, 8, 9), (), "", 0, "plane"),  # more axes than the image has
    ],
)
def test_axes_of_the_stack(
    axes: Any, shape: Any, labels: Any, extra: Any, stack: str, depth: Any, noun: str
) -> None:
    cells = source(axes, shape, labels, extra=extra)
    assert cells.stack_axes == stack
    assert cells.depth_axis == depth
    assert cells.axis_noun == noun
    assert cells.shape == (8, 9)


def test_places_in_words_and_in_the_image() -> None:
    cells = source("TZYX", (5, 6, 90, 90), (3, 1, 4, 8, 9), extra=(1,), corner=(2, 1, 10, 20))
    assert cells.words_of((1, 0, 3)) == "time point 1, plane 3"
    assert cells.words_of((1, 0, 3), sizes=True) == "time point 1 of 0–2, plane 3 of 0–3"
    assert cells.image_index((1, 0, 3)) == (3, 4)
    assert cells.image_box() == (10, 18, 20, 29)
    assert cells.image_box((1, 3, 2, 5)) == (11, 13, 22, 25)
    assert source("YX", (8, 9), (8, 9)).words_of(()) == ""
    assert source(None, None, (3, 8, 9)).words_of((2,)) == "plane 2"
    assert source("ZYX", (1, 8, 9), (1, 8, 9)).words_of((0,)) == ""  # there is no other


def test_a_drawn_box_is_whole_pixels_inside_the_plane() -> None:
    assert box_of([(0, 0), (7, 7)], (20, 30)) == (0, 8, 0, 8)
    assert box_of([(-5.0, 21.6), (40, 99)], (20, 30)) == (0, 20, 22, 30)
    assert box_of([(3.4, 3.6), (12.4, 12.6)], (20, 30)) == (3, 13, 4, 14)
    for outline in ([(0, 0), (6, 9)], [(0, 0), (9, 6)], [(30, 0), (60, 20)]):
        with pytest.raises(EditError, match="too small"):
            box_of(outline, (20, 30))


def test_which_cells_a_click_or_an_outline_means() -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[5:15, 5:15], labels[5:15, 25:35] = 3, 8
    corrections = Corrections(labels)
    assert chosen(corrections, (), (7, 7), None) == [3]
    assert sorted(chosen(corrections, (), None, [(0, 0), (0, 50), (30, 50), (30, 0)])) == [3, 8]
    for point, lasso in (((20, 20), None), (None, [(20, 0), (20, 50), (35, 50), (35, 0)])):
        with pytest.raises(EditError, match="no cell there"):
            chosen(corrections, (), point, lasso)
    assert inside(corrections, (), [(0, 0), (0, 20), (20, 20), (20, 0)]) == 3
    assert inside(corrections, (), [(0, 0), (0, 50), (20, 50), (20, 0)]) is None
    assert inside(corrections, (), [(20, 0), (20, 9), (30, 9), (30, 0)]) is None
    with pytest.raises(EditError, match="no marked region"):
        unmarked((30, 30))(corrections, ())
    region = [(25, 25), (25, 45), (38, 45), (38, 25)]
    history = edits.History(corrections)
    history.do(edits.mark_region(corrections, "reviewed", polygon=region))
    history.do(unmarked((30, 30))(corrections, ()))
    assert not corrections.regions_of(())


@pytest.mark.parametrize(
    ("shape", "odd", "looks"),
    [
        ((10, 40), True, [(10, 40)]),
        ((20, 80), False, [(10, 40)]),
        ((20, 80), True, [(10, 40), (20, 80)]),  # what is seen so may be so only there
        ((30, 120), False, [(10, 40)]),
    ],
)
def test_of_a_large_plane_a_part_is_looked_at_unless_it_is_odd(
    monkeypatch: pytest.MonkeyPatch, shape: Any, odd: bool, looks: Any
) -> None:
    seen: list[Any] = []

    def look(plane: Any, _: str) -> Look:
        seen.append(plane.shape)
        return Look("odd" if odd else "")

    monkeypatch.setattr(cells_module, "LOOKED_AT", 400)
    monkeypatch.setattr(cells_module, "look_at", look)
    assert look_at_plane(np.zeros(shape, np.uint8)).problem == ("odd" if odd else "")
    assert seen == looks


def test_numbers_are_free_as_far_as_the_type_goes() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels.ravel()[:254] = np.arange(1, 255)
    free = cells_module._free_numbers(Corrections(labels), ())
    assert next(free) == 255
    with pytest.raises(EditError, match="type uint8 cannot number so many"):
        next(free)
    # those that are given up are given anew
    free = cells_module._free_numbers(Corrections(labels), (3, 7))
    assert [next(free) for _ in range(3)] == [3, 7, 255]


def test_levels_are_asked_for_where_they_do_not_keep_the_engine_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    link: Any = EngineLink(Session(), make_client=lambda _: None)  # type: ignore[arg-type,return-value]
    monkeypatch.setattr(link, "ask", lambda *given: asked.append(given))
    engine = cells_module.CorrectEngine(link, lambda *_: None, lambda *_: None)
    monkeypatch.setattr(cells_module, "MOST_PIXELS", 72)
    assert not engine.ask_foreground(source("YX", (8, 9), (8, 9)))  # of no result
    assert not engine.ask_foreground(source("YX", (8, 10), (8, 10), result_key="r"))
    assert not asked
    for _ in range(2):
        assert engine.ask_foreground(source("YX", (8, 9), (8, 9), result_key="r"))
    assert len(asked) == 1


# --- files of the Correct page ---------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))
    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    link = EngineLink(Session(), calls.put, make_client=lambda _: None)  # type: ignore[arg-type,return-value]
    moved: list[int] = []
    made: Any = CorrectFiles(link, lambda: moved.append(1))
    made.calls, made.told = calls, moved
    yield made
    made.close()


def test_what_a_journal_writes_is_told_and_it_knows_its_image(files: Any) -> None:
    cells = source("YX", (8, 9), (8, 9), path="/data/a.tif")
    journal = files.begin_journal(cells, {"labels": cells.labels})
    try:
        files.calls.get(timeout=30)()
        assert files.told
        about = journal.image
        assert (about.name, about.path, about.shape) == ("image", "/data/a.tif", (8, 9))
        assert about.fingerprint == files.fingerprint(cells.image).result(30)
        assert about.more["layer"] == "cells"
        n = len(files.told)
        files.closed = True
        files._news()
        assert len(files.told) == n
    finally:
        journal.discard()
    alone = source(None, None, (8, 9))
    journal = files.begin_journal(alone, {"labels": alone.labels})
    try:
        files.calls.get(timeout=30)
        assert (journal.image.name, journal.image.fingerprint) == ("cells", "")
    finally:
        journal.discard()


def test_an_image_is_read_for_its_fingerprint_once_until_it_changes(files: Any) -> None:
    image = source("YX", (8, 9), (8, 9)).image
    assert image is not None
    first = files.fingerprint(image)
    assert files.fingerprint(image) is first
    image.data[0] = 1
    files.image_changed("other")
    assert files.fingerprint(image) is first
    files.image_changed("i")
    files.image_changed("i")
    assert files.fingerprint(image).result(30) != first.result(30)


def test_commits_of_an_image_are_found_by_its_pixels(files: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 99, (30, 40), np.uint8)
    image = ImageSource("i", "image", pixels, "YX")
    folder = tmp_path / "set"
    assert files.find_kept(image, folder) == []
    training_set = TrainingSet.open(folder, create=True)
    labels = np.zeros((30, 40), np.int32)
    labels[5:15, 5:15] = 1
    own = files.fingerprint(image).result(30)
    for mark in (own, "another", own):
        training_set.commit(Commit(pixels, labels, source="image", fingerprint=mark))
    (record,) = files.find_kept(image, folder)  # the later one took the place of the first
    assert record.source.fingerprint == own
    # one that cannot be read is no image that was kept
    broken = ImageSource("b", "image", object(), "YX")
    assert files.find_kept(broken, folder) == []
    assert files.find_offers(broken) == ()
