"""The controller with a real engine; a pump stands where a widget has the Qt event loop."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.segment import ResultState, SegmentController
from napari_sa2net.app.session import (
    ErrorInfo,
    ImageSource,
    LabelsUpdate,
    Session,
)
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.engine.messages import SegmentResult

IMAGE = synthetic_nuclei((200, 240), 15, seed=5)[0]
SIGNALS = ("result_ready", "labels_updated", "table_ready", "failed", "cancelled")


class Page:
    """Session, controller, and everything that was signalled."""

    def __init__(self, model: str) -> None:
        self.calls: queue.SimpleQueue = queue.SimpleQueue()
        self.session = Session(model=model, predict=PredictConfig(tile=192))
        self.controller = SegmentController(EngineLink(self.session, self.calls.put))
        self.heard: list[tuple[str, object]] = []
        for name in SIGNALS:
            getattr(self.controller, name).connect(
                lambda value, *_, name=name: self.hear(name, value)
            )
        self.results: list[SegmentResult] = []
        self.controller.result_ready.connect(lambda _, result: self.results.append(result))

    def hear(self, name: str, value: object) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.heard.append((name, value))

    def until(self, condition, timeout=150.0):
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, (self.heard, self.session)
            try:
                self.calls.get(timeout=0.05)()
            except queue.Empty:
                continue

    def of(self, name: str) -> list:
        return [value for heard, value in self.heard if heard == name]

    def open(self, key: str, data=IMAGE, **more) -> ImageSource:
        source = ImageSource(key, key, data, **more)
        self.controller.set_image(source)
        self.heard.clear()
        return source

    def segment(self) -> tuple[ResultState, SegmentResult]:
        n = len(self.results)
        assert self.controller.segment() is not None
        self.until(lambda: len(self.results) > n)
        return self.of("result_ready")[-1], self.results[-1]

    def rest(self) -> None:
        """Until nothing is in flight and sliders rest."""
        calls = self.controller.link.calls
        self.until(lambda: not calls and self.controller._results.resting)
        self.until(lambda: self.calls.empty() and not calls)


@pytest.fixture(scope="module")
def page(tiny_model):
    page = Page(str(tiny_model))
    assert page.session.engine == "stopped"
    page.controller.start()
    page.until(lambda: page.session.info and page.session.info.seconds_per_megapixel)
    yield page
    page.controller.close()
    page.controller.link.client.close(10)


def test_a_warm_engine_says_how_long_it_will_take(page):
    page.open("estimate", pixel_size_um=0.5)
    assert page.session.engine == "ready"
    assert page.session.device_line
    whole = page.session.estimate.low
    expected = page.session.info.seconds_per_megapixel * IMAGE.size / 1e6
    assert whole == pytest.approx(expected)
    page.controller.set_image(replace(page.session.image, view=(0, 100, 0, 120)))
    page.controller.set_region(where="view")
    assert page.session.estimate.low == pytest.approx(whole / 4)
    page.controller.set_region(where="whole")


def test_what_a_run_finds_of_the_size_is_known_from_then_on(page):
    page.open("size")
    state, result = page.segment()
    assert page.session.found_diameter is None  # this model has no size
    table = result.objects
    sized = replace(state, diameter=20.0)
    for confidence, unsure in ((0.97, False), (0.5, True)):
        objects = {**table, "confidence": np.full_like(table["confidence"], confidence)}
        assert sized.size_unsure(objects) is unsure
        assert not state.size_unsure(objects)
    said = replace(state.request, predict=PredictConfig(diameter=20))
    assert not replace(sized, request=said).size_unsure(objects)
    page.controller.accept(state.request, replace(result, objects=objects, diameter=20.0))
    assert page.session.found_diameter == 20
    page.open("of another size")
    assert page.session.found_diameter is None


def test_segment(page):
    source = page.open("first", pixel_size_um=0.5)
    assert page.session.sliders == "none"
    seen = []
    page.session.events.progress.connect(seen.append)
    state, result = page.segment()
    page.session.events.progress.disconnect(seen.append)
    assert state.request.source is source
    assert state.replaces is None
    assert result.labels.shape == IMAGE.shape
    n = result.labels.max()
    assert n > 5
    assert list(result.objects["label"]) == list(range(1, n + 1))
    assert page.session.summary.startswith(f"{n} cells · median ")
    assert "µm²" in page.session.summary
    assert page.session.sliders == "live"
    assert not page.session.running
    assert page.session.progress is None
    last = [one for one in seen if one is not None and one.what == "segmenting"][-1]
    assert last.done == last.total == result.n_tiles


def test_sliders_act_live_and_the_table_follows(page):
    page.open("sliders")
    state, _ = page.segment()
    page.heard.clear()
    values = np.linspace(0.35, 0.6, 40)
    for value in values:
        page.controller.set_instances(InstanceConfig(foreground=float(value)))
        while not page.calls.empty():
            page.calls.get()()
    page.rest()
    updates, tables = page.of("labels_updated"), page.of("table_ready")
    # Those between were skipped; the last one was not.
    assert 1 <= len(updates) < 40
    assert all(update.key == state.key for update in updates)
    assert len(tables) == 1
    areas = np.bincount(updates[-1].labels.ravel())[1:]
    np.testing.assert_array_equal(tables[0].objects["area_px"], areas)
    assert page.session.summary.startswith(f"{len(areas)} cells")
    assert (updates[-1].labels > 0).sum() < (updates[0].labels > 0).sum()
    # Back to a setting that is shown: nothing to do.
    page.heard.clear()
    page.controller.set_instances(InstanceConfig(foreground=float(values[-1])))
    page.rest()
    assert not page.of("labels_updated")
    page.controller.set_instances(InstanceConfig())
    page.rest()


def test_a_slider_that_moves_during_the_run_counts(page):
    page.open("early")
    page.controller.segment()
    page.controller.set_instances(InstanceConfig(foreground=0.4))
    page.until(lambda: page.of("labels_updated"))
    assert isinstance(page.of("labels_updated")[0], LabelsUpdate)
    page.rest()
    page.controller.set_instances(InstanceConfig())
    page.rest()


def test_a_run_replaces_what_no_one_has_edited(page):
    page.open("rerun")
    first, _ = page.segment()
    second, result = page.segment()
    assert second.replaces == first.key
    assert page.session.result_key == second.key
    # After an edit sliders let go, and the next run makes a layer of its own.
    page.controller.mark_edited(second.key)
    assert page.session.sliders == "edited"
    assert "edited" in page.session.sliders_note
    page.heard.clear()
    page.controller.set_instances(InstanceConfig(foreground=0.4))
    time.sleep(0.4)
    page.until(page.calls.empty)
    assert not page.of("labels_updated")
    edited = result.labels.copy()
    edited[edited == 2] = 1
    page.controller.measure(second.key, edited)
    page.until(lambda: page.of("table_ready"))
    assert 2 not in page.of("table_ready")[0].objects["label"]
    third, _ = page.segment()
    assert third.replaces is None
    assert page.session.sliders == "live"
    page.controller.set_instances(InstanceConfig())
    page.rest()


def test_an_edit_during_the_run_is_not_overwritten(page):
    page.open("racing")
    first, _ = page.segment()
    page.heard.clear()
    page.controller.segment()
    page.controller.mark_edited(first.key)
    page.until(lambda: page.of("result_ready"))
    assert page.of("result_ready")[0].replaces is None


def test_a_stale_result_is_dropped(page):
    page.open("stale", np.tile(IMAGE, (2, 2)))
    page.controller.segment()
    page.until(lambda: page.session.progress and page.session.progress.what == "segmenting")
    page.controller.image_changed("stale")
    page.until(lambda: not page.session.running)
    assert not page.of("result_ready")
    assert page.session.sliders == "none"
    assert "pixels of “stale” were replaced during the run" in page.session.error.message
    # Also when it was done already, and only its event is still on the way.
    page.controller.set_image(replace(page.session.image, data=IMAGE))
    page.controller.segment()
    arrived = []
    while not any(arrived):
        call = page.calls.get(timeout=90)
        event = call.__closure__[0].cell_contents if call.__closure__ else None
        arrived.append(type(event).__name__ == "Call")
        if arrived[-1]:
            page.controller.image_changed("stale")
        call()
    assert not page.of("result_ready")
    assert not page.session.running
    assert page.session.error.kind == "ImageChanged"
    page.controller.image_changed("stale")
    assert len(page.of("failed")) == 2  # nothing more: nothing ran


def test_a_result_of_other_axes_is_dropped(page):
    source = page.open("read anew", np.stack([IMAGE] * 3), axes="ZYX")
    page.controller.segment()
    # which plane is shown is no reason to drop what was asked for
    page.controller.set_image(replace(source, plane=(1,)))
    assert page.session.error is None
    page.controller.set_image(replace(source, axes="CYX"))
    page.until(lambda: not page.session.running)
    assert not page.of("result_ready")
    assert page.session.error.kind == "ImageChanged"
    assert "axes of “read anew” were changed during the run" in page.session.error.message
    # new pixels with other axes: said once, and of the pixels
    page.controller.segment()
    page.controller.image_changed("read anew")
    page.controller.set_image(replace(source, data=IMAGE, axes="YX"))
    page.until(lambda: not page.session.running)
    assert len(page.of("failed")) == 2
    assert "pixels of “read anew” were replaced" in page.session.error.message
    assert page.segment()[1].labels.shape == IMAGE.shape


def test_sliders_let_go_of_a_result_while_the_axes_are_others(page):
    source = page.open("read later", np.stack([IMAGE] * 3), axes="CYX")
    page.segment()
    assert page.session.sliders == "live"
    page.controller.set_image(replace(source, view=(0, 32, 0, 32)))
    assert page.session.sliders == "live"
    read = replace(source, axes="ZYX", view=(0, 32, 0, 32), plane=(0,))
    page.controller.set_image(read)
    assert page.session.sliders == "reread"
    assert "axes of the image were changed" in page.session.sliders_note
    page.controller.set_instances(InstanceConfig(foreground=0.9))
    page.rest()
    assert not page.of("labels_updated")
    # as it was, and the sliders go on
    page.controller.set_image(source)
    assert page.session.sliders == "live"
    assert page.session.sliders_note == ""
    # a part of the image as it is read now is not added to cells of another reading
    page.controller.set_image(read)
    page.controller.set_region("view", "current")
    part, _ = page.segment()
    assert part.adds_to is None
    assert part.replaces is None
    assert page.session.sliders == "live"
    page.controller.set_region("whole", "all")
    page.controller.set_instances(InstanceConfig())
    page.rest()


def test_another_image_may_be_chosen_meanwhile(page):
    one = page.open("one")
    page.controller.segment()
    page.controller.set_image(ImageSource("two", "two", IMAGE[:50]))
    assert page.session.sliders == "none"
    page.until(lambda: page.of("result_ready"))
    assert page.of("result_ready")[0].request.source is one
    assert page.session.sliders == "none"
    page.controller.set_image(one)
    assert page.session.sliders == "live"
    page.controller.forget_result(page.session.result_key)
    assert page.session.sliders == "none"
    page.controller.forget_image("one")
    assert page.session.image is None
    assert page.session.image_line == ""


def test_cancel(page):
    page.open("cancel", np.tile(IMAGE, (5, 5)))
    page.controller.segment()
    page.until(lambda: page.session.progress and page.session.progress.what == "segmenting")
    assert page.session.engine == "busy"
    page.controller.cancel()
    assert page.session.progress.what == "cancelling"
    page.until(lambda: page.of("cancelled"))
    assert page.of("cancelled") == ["cancel"]
    assert not page.session.running
    assert page.session.engine == "ready"
    assert page.session.error is None


def test_errors_say_what_to_do(page):
    page.controller.set_image(None)
    assert page.controller.segment() is None
    assert "Open one" in page.session.error.message
    page.open("nan", np.full((30, 30), np.nan))
    page.controller.segment()
    page.until(lambda: page.of("failed"))
    assert page.session.error.kind == "ImageError"
    assert not page.session.running
    page.controller.dismiss_error()
    assert page.session.error is None
    model = page.session.model
    page.controller.set_model("no-such-model")
    page.until(lambda: page.session.error)
    assert page.session.error.kind == "ModelNotFoundError"
    page.controller.set_model(model)
    page.rest()
    page.open("fine")
    page.segment()
    assert page.session.error is None


def test_an_error_goes_with_its_image(page):
    def fail() -> None:
        page.controller.link.fail(ErrorInfo("ImageError", "all NaN"))

    source = page.open("bad")
    fail()
    page.controller.set_image(replace(source, view=(0, 5, 0, 5)))
    assert page.session.error is not None
    page.open("another")
    assert page.session.error is None
    fail()
    page.controller.forget_image("another")
    assert page.session.error is None
    # An engine that is gone is gone for every image.
    page.controller.link.fail(ErrorInfo("EngineError", "gone"))
    page.open("third")
    assert page.session.error is not None
    page.controller.dismiss_error()


def test_a_killed_engine_is_reported_and_comes_back(page):
    page.open("killed", np.tile(IMAGE, (2, 2)))
    page.segment()
    page.heard.clear()
    page.controller.segment()
    page.until(lambda: page.session.progress and page.session.progress.what == "segmenting")
    os.kill(page.session.info.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    page.until(lambda: page.of("failed"))
    page.until(lambda: page.session.sliders == "lost")
    assert len(page.of("failed")) == 1
    assert page.session.error.kind == "EngineError"
    assert page.session.engine == "starting"
    assert not page.session.running
    assert "Segment again" in page.session.sliders_note
    page.controller.set_instances(InstanceConfig(foreground=0.45))
    page.until(lambda: page.session.engine == "ready")
    state, _ = page.segment()
    assert state.request.instances.foreground == 0.45
    assert page.session.sliders == "live"
    assert page.session.error is None


def test_after_closing_nothing_is_signalled(tiny_model):
    page = Page(str(tiny_model))
    page.controller.start()
    page.open("closing")
    page.controller.segment()
    page.until(lambda: page.session.engine != "stopped")
    page.controller.close()
    page.heard.clear()
    page.controller.link.client.close(20)
    while not page.calls.empty():
        page.calls.get()()
    assert not page.heard
    assert page.session.engine == "stopped"


def test_without_dispatch_events_are_handled_at_once(tiny_model):
    """As a script would use it."""
    session = Session(model=str(tiny_model))
    controller = SegmentController(EngineLink(session))
    done = threading.Event()
    results = []
    controller.result_ready.connect(lambda _, result: (results.append(result), done.set()))
    controller.start()
    controller.set_image(ImageSource("a", "a", IMAGE))
    controller.segment()
    assert done.wait(150)
    controller.close()
    assert results[0].labels.max() > 5
