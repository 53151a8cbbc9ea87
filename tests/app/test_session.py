"""Words and numbers of the session, without an engine."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_sa2net.app.preview import image_line
from napari_sa2net.app.requests import segment_request
from napari_sa2net.app.session import (
    ImageSource,
    JobProgress,
    Session,
    device_line,
    summary_line,
)
from napari_sa2net.engine.protocol import EngineInfo, Summary, Window
from napari_sa2net.errors import ImageError


@pytest.mark.parametrize(
    ("summary", "size", "words"),
    [
        (Summary(143, 937.5, 3), 0.32, "143 cells · median 96 µm² · 3 touch the border"),
        (Summary(1, 40.0, 1), None, "1 cell · median 40 px² · 1 touches the border"),
        (Summary(2, 40.4, 0), None, "2 cells · median 40 px²"),
        (Summary(0, math.nan, 0), 0.5, "No cells found"),
        (Summary(9, 26842.0, 0), 0.5, "9 cells · median 6,710 µm²"),
        (Summary(9, 12.0, 0), 0.01, "9 cells · median 0.0012 µm²"),
        (Summary(9, 12345.6, 0), None, "9 cells · median 12,346 px²"),
    ],
)
def test_summary(summary, size, words):
    assert summary_line(summary, size) == words


def test_device_line():
    info = EngineInfo("cpu", "CPU, 2 threads", "2", 1, threads=2)
    assert device_line(info).startswith("CPU, 2 threads; no GPU")
    gpu = EngineInfo("cuda:0", "NVIDIA H100", "2", 1, devices=("cpu", "cuda:0"))
    assert device_line(gpu) == "NVIDIA H100 (cuda:0)"


def test_progress():
    assert str(JobProgress(14, 22, "tiles")) == "14 of 22 tiles"
    assert JobProgress(11, 22, "tiles").fraction == 0.5
    assert str(JobProgress(0, 0, "starting")) == "starting"
    assert JobProgress(0, 0, "starting").fraction == 0


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
    engine = request.to_engine(7)
    assert (engine.job, engine.keep_as) == (7, "k")
    assert engine.image is data
    session.image = ImageSource("a", "a", data, view=(5, 5, 0, 9))
    with pytest.raises(ImageError, match="view"):
        segment_request(session, 4, "k")


def test_the_session_is_evented():
    session, heard = Session(), []
    session.events.model.connect(heard.append)
    session.model = "other"
    session.model = "other"
    assert heard == ["other"]
