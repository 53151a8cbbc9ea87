"""Words and numbers of the session, without an engine."""

from __future__ import annotations

import ast
import math
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import napari_sa2net
from napari_sa2net.app.cells import box_of
from napari_sa2net.app.edit_session import moment_words
from napari_sa2net.app.link import Newest, TimeLeft
from napari_sa2net.app.session import (
    ImageSource,
    JobProgress,
    RunTime,
    SegmentRequest,
    Session,
    as_seen,
    device_line,
    explain_request,
    image_line,
    nothing_found_words,
    segment_request,
    summary_line,
)
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.engine.messages import EngineInfo, Summary, Window
from napari_sa2net.errors import EditError, ImageError


@pytest.mark.parametrize(
    ("summary", "size", "words"),
    [
        (Summary(143, 937.5, 3), 0.32, "143 cells · median 96 µm² · 3 touch the border"),
        (Summary(2, 1000.0, 0, True), 0.5, "2 cells · median 1,000 voxels"),
        (Summary(1, 40.0, 1), None, "1 cell · median 40 px² · 1 touches the border"),
        (Summary(2, 40.4, 0), None, "2 cells · median 40 px²"),
        (Summary(0, math.nan, 0), 0.5, "No cells found"),
        (Summary(9, 26842.0, 0), 0.5, "9 cells · median 6,710 µm²"),
        (Summary(9, 12.0, 0), 0.01, "9 cells · median 0.0012 µm²"),
        (Summary(9, 12345.6, 0), None, "9 cells · median 12,346 px²"),
        (Summary(1234, math.nan, 1000), 0.5, "1,234 cells · 1,000 touch the border"),
    ],
)
def test_summary(summary, size, words):
    assert summary_line(summary, size) == words


def test_volumes_are_said_where_all_sides_are_known():
    cells = Summary(2, 1000.0, 0, in_depth=True)
    assert summary_line(cells, 0.5, 2.0) == "2 cells · median 500 µm³"
    assert summary_line(cells, None, 2.0) == "2 cells · median 1,000 voxels"


def test_device_line():
    info = EngineInfo("cpu", "CPU, 2 threads", "2", 1, threads=2)
    assert device_line(info).startswith("CPU, 2 threads; no GPU")
    gpu = EngineInfo("cuda:0", "NVIDIA H100", "2", 1, devices=("cpu", "cuda:0"))
    assert device_line(gpu) == "NVIDIA H100 (cuda:0)"


def test_progress():
    assert str(JobProgress(14, 22, "segmenting")) == "segmenting · 64%"
    assert str(JobProgress(0, 1, "segmenting")) == "segmenting"
    assert JobProgress(11, 22, "segmenting").fraction == 0.5
    assert str(JobProgress(0, 0, "starting")) == "starting"
    assert JobProgress(0, 0, "starting").fraction == 0
    assert JobProgress(25, 22, "segmenting").fraction == 1
    assert str(JobProgress(1, 2, "segmenting")) == "segmenting · 50%"
    assert JobProgress(1, 2, "segmenting", ends=5).seconds_left(3.5) == 1.5
    assert JobProgress(1, 2, "segmenting", ends=5).seconds_left(5) is None


def test_preview_reads_no_pixel():
    class Unreadable:
        shape, dtype, ndim = (30, 511, 640), np.dtype("uint16"), 3

        def __getitem__(self, key):
            raise AssertionError("a pixel was read")

    source = ImageSource("a", "a", Unreadable(), axes="TYX", pixel_size_um=0.32)
    line = image_line(source)
    assert "511 × 640" in line
    assert "30" in line
    assert "0.32 µm/px" in line
    assert "complex" in image_line(ImageSource("b", "b", np.zeros((4, 4), complex)))


def test_a_source_shows_its_finest_level():
    levels = [np.zeros((40, 60), np.uint8), np.zeros((20, 30), np.uint8)]
    assert ImageSource("m", "m", levels).shape == (40, 60)
    assert ImageSource("m", "m", levels).dtype == np.uint8

    class MultiScaleData(list):  # as napari hands it out
        shape = (0,)

    assert ImageSource("m", "m", MultiScaleData(levels)).shape == (40, 60)


@pytest.mark.parametrize(
    ("axes", "stack"), [(None, ""), ("YX", ""), ("TCZYX", "TZ"), ("YXS", ""), ("PYXC", "P")]
)
def test_axes_that_are_walked_along(axes, stack):
    assert ImageSource("a", "a", np.zeros((2, 2)), axes).stack_axes == stack


@pytest.mark.parametrize(("size", "side"), [(None, None), (0.5, 0.5), ((0.2, 0.8), 0.4)])
def test_pixels_of_two_sides_have_the_area_of_a_square(size, side):
    source = ImageSource("a", "a", np.zeros((2, 2)), pixel_size_um=size)
    assert source.pixel_side_um == (side if side is None else pytest.approx(side))


def test_an_image_is_known_again_by_its_file_else_by_its_pixels():
    pixels = np.arange(12.0).reshape(3, 4)
    named = ImageSource("a", "a", pixels, path="/data/a.tif").identity
    assert named == ImageSource("b", "b", pixels + 1, path="/data/a.tif").identity
    assert named != ImageSource("a", "a", pixels, path="/data/b.tif").identity
    assert named != ImageSource("a", "a", pixels[:2], path="/data/a.tif").identity
    own = ImageSource("a", "a", pixels).identity
    assert own == ImageSource("b", "b", pixels.copy()).identity
    assert own == ImageSource("m", "m", [pixels, pixels[::2]]).identity
    assert own != ImageSource("a", "a", pixels + 1).identity


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"view": (0, 4, 0, 4), "plane": (1,)}, True),
        ({"axes": "CYX"}, False),
        ({"channels": (0,)}, False),
        ({"data": np.zeros((2, 8, 9))}, False),
    ],
)
def test_a_plan_is_kept_while_it_is_of_the_same_image(other, same):
    former = ImageSource("a", "a", np.zeros((2, 8, 9)), "ZYX")
    now = replace(former, **other)
    now.take_plan(former)
    assert "plan" not in now.__dict__  # there was none yet
    plan = former.plan
    now.take_plan(None)
    now.take_plan(former)
    assert (now.__dict__.get("plan") is plan) == same


def test_a_plan_of_an_array_that_has_grown_is_made_anew():
    class OnDisk:
        shape, dtype, ndim = (2, 8, 9), np.dtype(np.uint8), 3

        def __getitem__(self, key):
            raise AssertionError("a pixel was read")

    data = OnDisk()
    former = ImageSource("a", "a", data, "ZYX")
    assert former.plan.n_planes == 2
    data.shape = (3, 8, 9)
    now = replace(former, view=(0, 4, 0, 4))
    now.take_plan(former)
    assert now.plan.n_planes == 3


def test_a_request_is_what_the_session_was():
    session = Session()
    with pytest.raises(ImageError, match="Open one"):
        segment_request(session, 0, "k")
    data = np.zeros((5, 30, 40))
    session.image = ImageSource("a", "a", data, plane=(3,), view=(1, 20, 2, 30))
    assert segment_request(session, 4, "k").window == Window()
    session.where, session.planes = "view", "current"
    request = segment_request(session, 4, "k")
    assert request.window == Window((3,), (1, 20, 2, 30))
    assert request.generation == 4
    assert (request.function, request.key) == ("segment", "k")
    assert request.arguments()["image"] is data
    # to look into it, always the plane that is shown
    session.planes = "all"
    looked = explain_request(session, 4, "k")
    assert (looked.function, looked.window) == ("explain", Window((3,), (1, 20, 2, 30)))
    session.image = None
    with pytest.raises(ImageError, match="no image to look into"):
        explain_request(session, 4, "k")


@pytest.mark.parametrize(
    "box", [None, (5, 5, 0, 9), (5, 4, 0, 9), (0, 9, 7, 7), (0, 9, 8, 7), (0, 1, 3, 4)]
)
@pytest.mark.parametrize("where", ["view", "area"])
def test_a_part_that_shows_nothing_of_the_image_is_refused(where, box):
    parts = {"view": box, "area": (0, 9, 0, 9)} if where == "view" else {"area": box}
    session = Session(image=ImageSource("a", "a", np.zeros((30, 40)), **parts), where=where)
    if box == (0, 1, 3, 4):
        assert segment_request(session, 0, "k").window == Window(box=box)
    else:
        says = {"view": "The view shows no part", "area": "No area is drawn"}[where]
        with pytest.raises(ImageError, match=says):
            segment_request(session, 0, "k")


def test_what_a_new_window_begins_with():
    """All of the image, as it is recommended, and nothing that goes on."""
    new = Session()
    assert (new.model, new.normalize, new.where, new.planes) == ("nuclei", True, "whole", "all")
    assert (new.predict, new.instances) == (PredictConfig(), InstanceConfig())
    assert (new.engine, new.running, new.live, new.sliders) == ("stopped", False, False, "none")
    assert new.sliders_note.startswith("Segment first")
    assert new.card is None


@pytest.mark.parametrize(
    ("shape", "axes", "predict", "sure", "blank", "words"),
    [
        ((8, 9), "YX", {}, 0.0, False, "{size}; a lower Foreground"),
        ((8, 9), "YX", {}, 0.1, False, "{size}; a lower Confidence or Foreground"),
        ((2, 8, 9), "CYX", {}, 0.0, False, "another channel; {size}; a lower Foreground"),
        ((2, 8, 9), "ZYX", {"levels": "plane"}, 0.0, False, "{size}; a lower Foreground"),
        (
            (2, 8, 9),
            "ZYX",
            {"levels": "stack"},
            0.0,
            False,
            "{size}; a lower Foreground; Brightness of each plane, under Advanced",
        ),
        ((8, 9), "YX", {}, 0.0, True, "image"),
        ((2, 8, 9), "CYX", {}, 0.0, True, "channel or image"),
    ],
)
def test_what_to_try_where_nothing_was_found(shape, axes, predict, sure, blank, words):
    request = SegmentRequest(
        ImageSource("a", "a", np.zeros(shape), axes),
        0,
        "k",
        "m",
        PredictConfig(**predict),
        InstanceConfig(min_confidence=sure),
        True,
        Window(),
    )
    size = "“measure…” across one cell, for the Object size"
    said = nothing_found_words(request, blank)
    if blank:
        assert said == f"What went in has one value throughout: choose another {words}."
    else:
        assert said == f"Nothing found? Try {words.format(size=size)}; or another Model."


def test_the_session_is_evented():
    session, heard = Session(), []
    session.events.model.connect(heard.append)
    session.model = "other"
    session.model = "other"
    assert heard == ["other"]


def test_time_left_goes_by_the_parts_so_far(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def after(seconds: float, left: TimeLeft, done: int, total: int) -> float | None:
        now[0] += seconds
        return left.of(JobProgress(done, total, "segmenting")).seconds_left(now[0])

    left = TimeLeft()
    assert after(0, left, 0, 0) is None
    assert after(0, left, 0, 4) is None
    assert after(5, left, 1, 4) == pytest.approx(15)
    assert after(5, left, 2, 4) == pytest.approx(10)
    # what goes on next begins anew
    assert after(50, left, 0, 10) is None
    assert after(1, left, 5, 10) == pytest.approx(1)
    assert after(1, left, 0, 10) is None
    # until then, what was expected of all; a wide range says nothing
    left = TimeLeft(RunTime(10, 12))
    assert after(3, left, 0, 1) == pytest.approx(9)
    assert after(20, left, 0, 1) is None
    assert after(0, TimeLeft(RunTime(1, 60)), 0, 1) is None


SOURCE = Path(napari_sa2net.__file__).parent
READ_BY_PEOPLE = (
    "app",
    "config.py",
    "edits",
    "engine",
    "errors.py",
    "inference",
    "interpret",
    "training",
    "widgets",
)


@pytest.mark.parametrize("room", READ_BY_PEOPLE)
def test_nobody_reads_of_engines_and_tiles(room):
    """Sentences in the program speak of cells and images, not of how it is built."""
    top = SOURCE / room
    files = [top] if top.is_file() else sorted(top.rglob("*.py"))
    assert files
    said = [
        f"{file.relative_to(SOURCE)}:{line}: {text}"
        for file in files
        # the one is for who starts it by hand, the other for who calls it with numbers
        if file.name not in ("__main__.py", "tiling.py")
        for line, text in _sentences(ast.parse(file.read_text("utf-8")))
        if re.search(r"(?<!-)\b(engines?|tiles?)\b", text, re.IGNORECASE)
    ]
    assert said == []


def _sentences(tree: ast.AST) -> list[tuple[int, str]]:
    """Strings of several words that are neither docstrings nor for the log."""
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            skipped.add(node.value)
        if isinstance(node, ast.Call) and "_log" in ast.unparse(node.func):
            skipped.update(ast.walk(node))
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and " " in node.value.strip()
        and node not in skipped
    ]


@pytest.mark.parametrize(
    ("n_channels", "taken", "normalize", "chosen", "expected"),
    [
        (3, 3, True, None, (1,)),
        (2, 1, True, None, (1,)),
        (3, 3, True, (0, 2), (0, 2)),
        # a model of just that many stains, or of raw values, gets all of them
        (5, 5, True, None, None),
        (3, 3, False, None, None),
        (4, 3, False, None, (1,)),
        (4, 4, True, None, None),
    ],
)
def test_the_channel_that_is_seen_is_the_default(
    n_channels, taken, normalize, chosen, expected
):
    image = np.zeros((n_channels, 8, 9))
    source = ImageSource("a", "a", image, "CYX", chosen, seen_channel=1)
    card = SimpleNamespace(network=SimpleNamespace(in_channels=taken))
    session = Session(
        models=(SimpleNamespace(name="some", card=card),), model="some", normalize=normalize
    )
    assert as_seen(source, session).channels == expected


@pytest.mark.parametrize(("n_channels", "expected"), [(3, None), (4, (1,))])
def test_a_model_that_is_not_there_is_taken_for_one_of_three_channels(n_channels, expected):
    source = ImageSource("a", "a", np.zeros((n_channels, 8, 9)), "CYX", seen_channel=1)
    assert as_seen(source, Session(model="gone", normalize=False)).channels == expected


def test_nothing_to_see_changes_nothing():
    source = ImageSource("a", "a", np.zeros((8, 9)), "YX")
    assert as_seen(source, Session()) is source


@pytest.mark.parametrize("normalize", [True, False])
def test_levels_as_displayed_go_to_the_engine(normalize):
    source = ImageSource("a", "a", np.zeros((8, 9)), "YX", contrast=(3, 9))
    settings = PredictConfig(), InstanceConfig(), normalize, Window()
    sent = SegmentRequest(source, 0, "k", "m", *settings).arguments()
    assert sent["predict"].contrast == ((3, 9) if normalize else None)


class Questions:
    """An engine that answers when it is told to."""

    def __init__(self) -> None:
        self.asked_now: list[tuple[str, str, Any, dict[str, Any]]] = []

    def asked(self, name: str, key: str) -> bool:
        return any(one[:2] == (name, key) for one in self.asked_now)

    def ask(self, name: str, arguments: dict[str, Any], key: str, about: Any) -> None:
        self.asked_now.append((name, key, about, arguments))

    def answer(self, newest: Newest, name: str, key: str) -> Any:
        """End the call in flight; what is asked then."""
        (one,) = [one for one in self.asked_now if one[:2] == (name, key)]
        self.asked_now.remove(one)
        newest.ended(SimpleNamespace(name=name, key=key))
        return [one[2:] for one in self.asked_now if one[:2] == (name, key)]


def test_of_questions_that_wait_the_newest_of_each_subject_is_asked() -> None:
    link = Questions()
    newest = Newest(link)
    for n, about in enumerate(("a", "a", "b", "a", "b")):
        newest.ask("why", "image", about, {"n": n})
    newest.ask("why", "other image", "a", {"n": 5})
    newest.ask("how", "image", "a", {"n": 6})
    assert [one[3]["n"] for one in link.asked_now] == [0, 5, 6]
    assert link.answer(newest, "why", "image") == [("a", {"n": 3})]
    assert link.answer(newest, "why", "image") == [("b", {"n": 4})]
    assert link.answer(newest, "why", "image") == []
    assert link.answer(newest, "why", "other image") == []
    newest.ask("why", "image", "c", {"n": 7})
    assert link.asked_now[-1] == ("why", "image", "c", {"n": 7})


@pytest.mark.parametrize(
    ("kind", "left"), [(None, ["other/why"]), ("why", ["image/how", "other/why"]), ("x", None)]
)
def test_what_is_forgotten_is_not_asked_any_more(kind, left) -> None:
    every = ["image/how", "image/why", "other/why"]
    link = Questions()
    newest = Newest(link)
    for one in every * 2:
        key, name = one.split("/")
        newest.ask(name, key, "a", {})
    newest.forget("image", kind)
    still = [one for one in every if link.answer(newest, one.split("/")[1], one.split("/")[0])]
    assert still == (every if left is None else left)


@pytest.mark.parametrize(
    ("outline", "box"),
    [
        ([(2, 3), (2, 20), (15, 20), (15, 3)], (2, 16, 3, 21)),
        ([(2.4, 3.4), (15.4, 20.4)], (2, 16, 3, 21)),
        ([(2.5, 3.5), (15.5, 20.5)], (3, 17, 4, 22)),
        ([(-9, -4), (15, 20)], (0, 16, 0, 21)),
        ([(2, 3), (99, 99)], (2, 30, 3, 40)),
        ([(2, 3), (9, 10)], (2, 10, 3, 11)),
        ([(2, 3), (8, 20)], None),
        ([(2, 3), (20, 9)], None),
        ([(25, 3), (99, 20)], None),
    ],
)
def test_pixels_of_a_drawn_rectangle(outline, box) -> None:
    if box is None:
        with pytest.raises(EditError, match="too small"):
            box_of(outline, (30, 40))
    else:
        assert box_of(outline, (30, 40)) == box


def test_moments_are_said_as_people_say_them() -> None:
    now = datetime(2026, 3, 1, 0, 30).astimezone()
    assert moment_words(datetime(2026, 3, 1, 0, 5).astimezone(), now) == "today 00:05"
    assert moment_words(datetime(2026, 3, 1, 9, 5).astimezone(), now) == "today 09:05"
    assert moment_words(datetime(2026, 2, 28, 23, 59).astimezone(), now) == "yesterday 23:59"
    when = datetime(2026, 2, 27, 23, 59).astimezone()
    assert moment_words(when, now) == f"{when:%d %B %Y} 23:59"
    elsewhere = datetime(2026, 3, 1, 0, 5).astimezone().astimezone(UTC)
    assert moment_words(elsewhere, now) == "today 00:05"
