"""What learning shows over the image: the child so far, and what it does otherwise."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_sa2net.app.learn import LearnLayers, difference_words, outlines
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.session import DIFFERENCE, PREVIEW, ErrorInfo, ImageSource, Session
from napari_sa2net.engine import messages as p
from napari_sa2net.errors import ImageError


class Client:
    memory = 0

    def __init__(self, on_event: Any) -> None:
        self.on_event = on_event
        self.requests: list[Any] = []

    def submit(self, request: Any) -> None:
        self.requests.append(request)

    def close(self) -> None: ...


class Desk:
    """The layers, and the tests' side of the engine."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.link = EngineLink(Session(), self.calls.put, make_client=Client)
        self.client: Any = self.link.client
        self.source = ImageSource("a", "cells", np.zeros((2, 20, 30), np.uint8), "CYX")
        self.link.session.image = self.source
        self.shown: list[Any] = []
        self.told: list[Any] = []
        self.kept: dict[str, tuple[int, ...]] = {}
        self.layers = LearnLayers(
            self.link,
            self.shown.append,
            lambda number: self.told.append(("round", number)),
            lambda difference: self.told.append(("compared", difference)),
            lambda error: self.told.append(("failed", error)),
            lambda: self.kept,
        )

    @property
    def asked(self) -> list[Any]:
        return list(self.client.requests)

    def hear(self, event: Any) -> None:
        self.client.on_event(event)
        self.calls.get(timeout=30)()

    def answer(self, call: Any, labels: Any, offset: Any = (3, 4)) -> None:
        summary = p.Summary(1, 1.0, 0)
        self.hear(call.done(p.SegmentResult("", np.asarray(labels), offset, summary)))

    def background(self) -> None:
        self.calls.get(timeout=30)()


@pytest.fixture
def desk() -> Iterator[Desk]:
    one = Desk()
    yield one
    one.layers.close()


def cells(*places: tuple[int, int], size: int = 4) -> Any:
    labels = np.zeros((12, 16), np.int32)
    for label, (y, x) in enumerate(places, 1):
        labels[y : y + size, x : x + size] = label
    return labels


PARENT, CHILD = cells((1, 1)), cells((1, 1), (6, 8))


def test_gain_and_loss_are_shown_when_both_have_answered(desk: Desk) -> None:
    desk.layers.compare("old", "new")
    old, new = desk.asked
    assert [call.arguments["model"] for call in (old, new)] == ["old", "new"]
    desk.answer(new, CHILD)
    assert not desk.shown
    desk.answer(old, PARENT)
    desk.background()
    (overlay,) = desk.shown
    assert (overlay.source.key, overlay.slot) == ("a", DIFFERENCE)
    assert overlay.content.box == (3, 15, 4, 20)
    change = overlay.content.values
    assert change[CHILD != PARENT].all()
    assert not change[CHILD == PARENT].any()
    ((what, difference),) = desk.told
    assert what == "compared"
    assert difference.image_key == "a"
    assert difference.words == "+1 cell, +16 px, 1 appeared"


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_comparison_that_lacks_a_half_comes_to_nothing(
    desk: Desk, which: int, end: str
) -> None:
    desk.layers.compare("old", "new")
    job = desk.asked[which].job
    desk.hear(p.Failed(job, "X", "No memory.") if end == "failed" else p.WasCancelled(job))
    failed = [("failed", ErrorInfo("X", "No memory."))] if end == "failed" else []
    assert desk.told == [("compared", None), *failed]
    # the other half says nothing more, however it ends
    other = desk.asked[1 - which]
    if which:
        desk.answer(other, PARENT)
    else:
        desk.hear(p.Failed(other.job, "X", "No memory."))
    assert len(desk.told) == 1 + len(failed)
    assert not desk.shown


def test_of_two_comparisons_the_newer_counts(desk: Desk) -> None:
    desk.layers.compare("old", "new")
    desk.layers.compare("old", "newer")
    first, second = desk.asked[:2], desk.asked[2:]
    desk.answer(first[0], PARENT)
    desk.hear(p.Failed(first[1].job, "X", "No memory."))
    assert not desk.told
    desk.answer(second[0], PARENT)
    desk.answer(second[1], PARENT)
    desk.background()
    assert [what for what, _ in desk.told] == ["compared"]
    assert desk.told[0][1].words == "No pixel differs"


def test_a_comparison_of_other_pixels_or_one_that_is_hidden_is_not_shown(desk: Desk) -> None:
    desk.layers.compare("old", "new")
    old, new = desk.asked
    desk.answer(old, PARENT)
    desk.answer(new, CHILD)
    desk.link.outdate("a")
    desk.background()
    assert desk.told == [("compared", None)]
    desk.layers.compare("old", "new")
    old, new = desk.asked[2:]
    desk.answer(old, PARENT)
    desk.answer(new, CHILD)
    desk.layers.hide(DIFFERENCE)
    desk.background()
    assert len(desk.told) == 1
    assert not desk.shown


def test_layers_that_are_shown_are_taken_away_once(desk: Desk) -> None:
    desk.layers.preview("round 1", 1)
    desk.answer(desk.asked[0], CHILD)
    desk.background()
    (overlay,) = desk.shown
    assert overlay.slot == PREVIEW
    np.testing.assert_array_equal(overlay.content.values, outlines(CHILD))
    assert desk.told == [("round", 1)]
    # of another image: the first one goes
    desk.link.session.image = replace(desk.source, key="b")
    desk.layers.preview("round 2", 2)
    desk.answer(desk.asked[1], CHILD)
    desk.background()
    assert [(one.source.key, one.content is None) for one in desk.shown[1:]] == [
        ("a", True),
        ("b", False),
    ]
    for _ in range(2):
        desk.layers.hide(PREVIEW)
    assert [(one.source.key, one.content is None) for one in desk.shown[3:]] == [("b", True)]


def test_one_preview_at_a_time_and_a_lost_one_is_no_fault(desk: Desk) -> None:
    desk.layers.preview("round 1", 1)
    desk.layers.preview("round 2", 2)
    (call,) = desk.asked
    desk.hear(p.Failed(call.job, "ModelNotFoundError", "It is gone."))
    assert not desk.told
    desk.layers.preview("round 3", 3)
    assert len(desk.asked) == 2
    desk.answer(desk.asked[1], CHILD)
    desk.link.outdate("a")
    desk.background()
    assert not desk.told
    assert not desk.shown


@pytest.mark.parametrize("view", [(5, 5, 0, 9), (5, 4, 0, 9), (0, 9, 7, 7), None])
def test_where_nothing_of_an_image_is_in_view_there_is_nothing_to_compare(
    desk: Desk, view: Any
) -> None:
    desk.link.session.image = replace(desk.source, view=view) if view else None
    with pytest.raises(ImageError, match="no image in view"):
        desk.layers.compare("old", "new")
    desk.layers.preview("round 1", 1)
    assert not desk.asked


def test_channels_are_those_that_the_cells_were_kept_with(desk: Desk) -> None:
    def channels() -> Any:
        desk.layers.compare("old", "new")
        return desk.asked[-1].arguments["channels"]

    desk.kept = {"cells": (1, 0)}
    assert channels() == (1, 0)
    desk.link.session.image = replace(desk.source, channels=(0,))
    assert channels() == (0,)  # chosen now
    desk.link.session.image = desk.source
    desk.kept = {"cells": (2,)}  # that it does not have
    assert channels() != (2,)
    desk.kept = {"other": (1, 0)}
    assert channels() != (1, 0)


def test_outlines_are_two_pixels_wide_and_end_at_the_image() -> None:
    labels = np.zeros((12, 14), np.int32)
    labels[2:9, 3:10] = 1
    labels[2:9, 10:14] = 2  # touches the first, and the end of the image
    inner = np.zeros(labels.shape, bool)
    inner[4:7, 5:8] = True
    inner[4:7, 12:] = True  # no outline along the end of the image
    np.testing.assert_array_equal(outlines(labels), (labels > 0) & ~inner)
    # nor where a cell ends at the other side of the image
    labels = np.zeros((9, 9), np.int32)
    labels[:, 1:] = 1
    np.testing.assert_array_equal(outlines(labels)[4], [0, 1, 1, 0, 0, 0, 0, 0, 0])
    assert not outlines(np.ones((5, 5), np.int32)).any()


@pytest.mark.parametrize(
    ("changes", "more", "words"),
    [
        ({}, 0, ""),
        ({}, 1, "+1 cell"),
        ({"vanished": 2, "lost_px": 1200}, -2, "−2 cells, −1,200 px, 2 vanished"),
        ({"split": 1, "merged": 3, "appeared": 1, "gained_px": 7}, 2,
         "+2 cells, +7 px, 1 split, 3 merged, 1 appeared"),
    ],
)  # fmt: skip
def test_differences_in_words(changes: dict[str, int], more: int, words: str) -> None:
    none = dict.fromkeys(("appeared", "vanished", "split", "merged", "gained_px", "lost_px"), 0)
    assert difference_words(SimpleNamespace(**{**none, **changes}), more) == words  # type: ignore[arg-type]
