"""Which result an image has, what becomes of the one before, and what sliders ask for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_sa2net.app import segment as segment_module
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.segment import ADDED_WORDS, SegmentController
from napari_sa2net.app.session import ExplainRequest, ImageSource, SegmentRequest, Session
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.engine import messages as p

SHAPE = (40, 48)
PART = p.Window(None, (0, 20, 0, 20))


class Client:
    memory = 0

    def __init__(self, on_event: Any) -> None:
        self.on_event = on_event
        self.requests: list[Any] = []
        self.cancelled: list[int] = []

    def start(self) -> None: ...
    def restart(self) -> None: ...
    def submit(self, request: Any) -> None:
        self.requests.append(request)

    def cancel(self, job: int, force: bool = True) -> None:
        self.cancelled.append(job)

    def close(self) -> None: ...


class Desk:
    def __init__(self) -> None:
        self.session = Session(model="nuclei")
        self.link = EngineLink(self.session, make_client=Client)
        self.client: Any = self.link.client
        self.page = SegmentController(self.link)
        self.heard: list[Any] = []
        for name in ("result_ready", "labels_updated", "table_ready", "cancelled"):
            getattr(self.page, name).connect(
                lambda *given, name=name: self.heard.append((name, *given)), max_args=1
            )
        self.source = ImageSource("a", "a", np.zeros(SHAPE, np.float32), "YX")
        self.page.set_image(self.source)
        self.client.requests.clear()

    def request(self, key: str, **more: Any) -> SegmentRequest:
        kind = more.pop("kind", SegmentRequest)
        given: dict[str, Any] = {
            "source": self.source,
            "generation": self.link.generation("a"),
            "key": key,
            "model": "nuclei",
            "predict": PredictConfig(),
            "instances": self.session.instances,
            "normalize": True,
            "window": p.Window(),
        }
        return kind(**{**given, **more})

    def result(self, key: str, n: int = 2, **more: Any) -> p.SegmentResult:
        more = {"n_tiles": 1, "diameter": 12.0, **more}
        return p.SegmentResult(
            key, np.ones(SHAPE, np.int32), (0, 0), p.Summary(n, 40.0, 0), **more
        )

    def take(self, key: str, **more: Any) -> Any:
        n = more.pop("n", 2)
        assert self.page.accept(self.request(key, **more), self.result(key, n))
        return self.page.results()[key]

    def asked(self, name: str) -> list[Any]:
        return [r for r in self.client.requests if isinstance(r, p.Call) and r.name == name]

    @property
    def forgotten(self) -> list[str]:
        return [r.key for r in self.client.requests if isinstance(r, p.Forget)]

    def rest(self) -> None:
        self.page._results.close()
        self.page._results.tables()


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(segment_module, "REST_S", 3600.0)
    one = Desk()
    yield one
    one.page.close()


def test_a_newer_result_takes_the_place_of_one_that_nobody_edited(desk: Desk) -> None:
    first = desk.take("one")
    assert (first.replaces, first.adds_to, first.looks_into) == (None, None, None)
    assert desk.session.result_key == "one"
    assert desk.session.sliders == "live"
    assert desk.session.summary.startswith("2 cells")
    assert desk.session.found_diameter == 12
    second = desk.take("two")
    assert second.replaces == "one"
    assert desk.forgotten == ["one"]
    assert list(desk.page.results()) == ["two"]
    desk.page.mark_edited("two")
    assert desk.session.sliders == "edited"
    third = desk.take("three")
    assert third.replaces is None
    assert desk.forgotten == ["one"]  # its labels are a person's
    assert desk.session.sliders == "live"
    desk.page.mark_edited("none")
    assert desk.session.sliders == "live"


@pytest.mark.parametrize("edited", [False, True])
def test_another_part_of_the_image_adds_to_the_cells_that_are_there(
    desk: Desk, edited: bool
) -> None:
    desk.take("one")
    if edited:
        desk.page.mark_edited("one")
    second = desk.take("two", window=PART)
    assert (second.adds_to, second.replaces) == ("one", None)
    assert desk.forgotten == ["one"]
    assert desk.session.sliders_note == ADDED_WORDS
    third = desk.take("three", window=PART)  # the same part anew
    assert (third.adds_to, third.replaces) == (None, "two")
    whole = desk.take("four")
    assert (whole.adds_to, whole.replaces) == (None, "three")


def test_to_look_into_cells_lays_none_over_those_that_a_person_corrected(desk: Desk) -> None:
    desk.take("one")
    looked = desk.take("two", kind=ExplainRequest)
    assert looked.replaces == "one"
    desk.page.mark_edited("two")
    again = desk.take("three", kind=ExplainRequest)
    assert (again.looks_into, again.replaces, again.edited) == ("two", None, True)
    assert desk.session.sliders == "edited"
    # of another model or part they are other cells, for a layer of their own
    for more in ({"model": "other"}, {"window": PART}):
        desk.take("x")
        desk.page.mark_edited("x")
        apart = desk.take("y", kind=ExplainRequest, **more)
        assert (apart.looks_into, apart.replaces, apart.adds_to) == (None, None, None)


def test_a_result_of_other_pixels_or_axes_is_not_taken(desk: Desk) -> None:
    request = desk.request("late")
    desk.page.image_changed("a")
    assert not desk.page.accept(request, desk.result("late"))
    assert desk.forgotten == ["late"]
    assert desk.page.results() == {}
    desk.take("one")
    desk.page.image_changed("other")
    assert desk.session.sliders == "live"
    desk.page.image_changed("a")
    assert desk.session.sliders == "lost"
    assert desk.forgotten == ["late", "one"]
    new = desk.take("two")
    assert new.replaces == "one"
    desk.session.image = replace(desk.source, axes="XY")
    desk.page._show_result()
    assert desk.session.sliders == "reread"


def test_sliders_ask_for_one_at_a_time_and_for_the_table_at_rest(desk: Desk) -> None:
    desk.take("one")
    settings = [InstanceConfig(foreground=f) for f in (0.4, 0.3, 0.2)]
    for one in settings:
        desk.page.set_instances(one)
    (first,) = desk.asked("derive")
    assert first.arguments == {"instances": settings[0], "table": False}
    desk.client.on_event(first.done(desk.result("one", 5)))
    assert [name for name, *_ in desk.heard[-1:]] == ["labels_updated"]
    assert desk.session.summary.startswith("5 cells")
    second = desk.asked("derive")[-1]
    assert second.arguments["instances"] == settings[2]  # those between are passed over
    desk.client.on_event(second.done(desk.result("one", 6)))
    assert len(desk.asked("derive")) == 2
    desk.rest()
    third = desk.asked("derive")[-1]
    assert third.arguments == {"instances": settings[2], "table": True}
    heard = len(desk.heard)
    desk.client.on_event(third.done(desk.result("one", 6, objects={"label": np.arange(6)})))
    # the labels are those that are shown: only the table is new
    assert [name for name, *_ in desk.heard[heard:]] == ["table_ready"]
    desk.rest()
    assert len(desk.asked("derive")) == 3


def test_a_table_is_asked_for_as_soon_as_labels_come_where_sliders_rest(desk: Desk) -> None:
    desk.take("one")
    desk.page.set_instances(InstanceConfig(foreground=0.3))
    (first,) = desk.asked("derive")
    desk.rest()
    assert len(desk.asked("derive")) == 1  # one at a time
    desk.client.on_event(first.done(desk.result("one", 5)))
    second = desk.asked("derive")[-1]
    assert second.arguments == {"instances": desk.session.instances, "table": True}


def test_sliders_that_rest_keep_no_program_from_ending(desk: Desk) -> None:
    desk.take("one")
    desk.page.set_instances(InstanceConfig(foreground=0.3))
    waiting = [one for one in threading.enumerate() if isinstance(one, threading.Timer)]
    assert waiting
    assert all(one.daemon for one in waiting)


def test_a_slider_that_moved_while_the_network_ran_is_derived(desk: Desk) -> None:
    request = desk.request("one")
    desk.page.set_instances(InstanceConfig(foreground=0.3))
    assert not desk.asked("derive")
    assert desk.page.accept(request, desk.result("one"))
    (derive,) = desk.asked("derive")
    assert derive.arguments["instances"].foreground == 0.3
    # cancelled by a newer one of another page: it is still wanted
    desk.client.on_event(p.WasCancelled(derive.job))
    assert len(desk.asked("derive")) == 2


@pytest.mark.parametrize("why", ["edited", "lost"])
def test_sliders_leave_what_is_not_theirs_alone(desk: Desk, why: str) -> None:
    desk.take("one")
    desk.page.set_instances(InstanceConfig(foreground=0.3))
    (derive,) = desk.asked("derive")
    if why == "edited":
        desk.page.mark_edited("one")
    else:
        desk.client.on_event(p.Failed(derive.job, "NotKeptError", "It is gone."))
        assert desk.session.error is None
        assert desk.session.sliders == "lost"
    heard = len(desk.heard)
    if why == "edited":
        desk.client.on_event(derive.done(desk.result("one", 9)))
    desk.page.set_instances(InstanceConfig(foreground=0.2))
    desk.rest()
    assert len(desk.asked("derive")) == 1
    assert len(desk.heard) == heard


def test_a_lost_result_is_brought_back_with_its_model_and_the_sliders_of_now(
    desk: Desk,
) -> None:
    assert desk.page.bring_back() is None
    desk.take("one", model="other", normalize=False, window=PART)
    assert desk.page.bring_back() is None  # it is there
    desk.page.image_changed("a")
    desk.session.instances = InstanceConfig(foreground=0.3)
    pixels = np.ones(SHAPE, np.float32)
    desk.session.image = replace(desk.source, data=pixels)
    assert desk.page.bring_back() is not None
    (call,) = desk.asked("segment")
    assert call.arguments["image"] is pixels
    assert (call.arguments["model"], call.arguments["normalize"]) == ("other", False)
    assert call.arguments["window"] == PART
    assert call.arguments["instances"].foreground == 0.3
    assert call.about.generation == desk.link.generation("a")
    desk.client.on_event(p.WasCancelled(call.job))
    assert desk.heard[-1] == ("cancelled", "a")


def test_what_is_forgotten_is_forgotten_in_the_engine_too(desk: Desk) -> None:
    desk.take("one")
    desk.page.forget_result("one")
    assert desk.forgotten == ["one"]
    assert desk.session.sliders == "none"
    desk.page.forget_result("none")
    assert desk.forgotten == ["one", "none"]
    desk.take("two")
    desk.page.forget_image("other")
    assert desk.session.image is desk.source
    desk.page.forget_image("a")
    assert desk.forgotten[-1] == "two"
    assert desk.session.image is None
    assert desk.page.results() == {}
    desk.page.forget_image("a")
    assert desk.forgotten[-1] == "two"


def test_results_of_a_closed_window_are_taken_up(desk: Desk) -> None:
    desk.take("one")
    held = desk.page.results()
    other = Desk()
    other.page.take_up(held.values())
    assert other.session.result_key == "one"
    assert other.page.results() == held
    other.page.close()


def test_the_size_that_was_found_is_used_again_for_the_same_look(desk: Desk) -> None:
    assert desk.page.at_known_size(desk.request("x")).predict.diameter is None
    desk.take("one")
    assert desk.page.at_known_size(desk.request("x")).predict.diameter == 12
    for more in (
        {"model": "other"},
        {"normalize": False},
        {"generation": 7},
        {"source": replace(desk.source, axes="XY")},
        {"source": replace(desk.source, channels=(0,))},
        {"source": replace(desk.source, key="b")},
        {"predict": PredictConfig(rescale=False)},
    ):
        assert desk.page.at_known_size(desk.request("x", **more)).predict.diameter is None
    chosen = desk.request("x", predict=PredictConfig(diameter=30))
    assert desk.page.at_known_size(chosen).predict.diameter == 30


def test_a_brown_stain_that_was_removed_stays_so_for_the_same_look(desk: Desk) -> None:
    made = {"settings": {"predict": {"dab": "remove"}}}
    assert desk.page.accept(desk.request("one"), desk.result("one", provenance=made))
    assert desk.page.results()["one"].decided == {"dab": "remove", "adapt": "off"}
    known = desk.page.at_known_size(desk.request("x"))
    assert (known.predict.diameter, known.predict.dab) == (12, "remove")
    again = desk.page.at_known_size(known)  # what was known at once is known again
    assert again.predict == known.predict
    # cells of another look have another size
    keep = desk.request("x", predict=PredictConfig(dab="keep"))
    assert desk.page.at_known_size(keep) is keep
    assert desk.take("two").decided["dab"] == "keep"
    known = desk.page.at_known_size(desk.request("x"))
    assert (known.predict.diameter, known.predict.dab) == (12, "keep")


@pytest.mark.parametrize(
    ("was", "chosen", "asked"),
    [("on", "auto", "on"), ("off", "auto", "off"), ("on", "on", "on"), ("on", "off", None)],
)
def test_a_model_that_was_adapted_is_so_for_the_same_look(
    desk: Desk, was: Any, chosen: Any, asked: str | None
) -> None:
    made = {"settings": {"predict": {"adapt": was}}}
    assert desk.page.accept(desk.request("one"), desk.result("one", provenance=made))
    request = desk.request("x", predict=PredictConfig(adapt=chosen))
    known = desk.page.at_known_size(request)
    if asked is None:
        assert known is request
    else:
        assert (known.predict.diameter, known.predict.adapt) == (12, asked)


def test_a_stain_that_was_removed_elsewhere_is_none_of_a_grey_image(desk: Desk) -> None:
    chosen = desk.request("x", predict=PredictConfig(dab="remove"))
    assert chosen.arguments()["predict"].dab == "auto"
    colours = ImageSource("b", "b", np.zeros((*SHAPE, 3), np.uint8), "YXC")
    chosen = desk.request("x", predict=PredictConfig(dab="remove"), source=colours)
    assert chosen.arguments()["predict"].dab == "remove"


def test_edited_cells_are_measured_and_other_errors_are_said(desk: Desk) -> None:
    labels = np.ones(SHAPE, np.int32)
    desk.page.measure("one", labels)
    (call,) = desk.asked("measure")
    assert call.key == "one"
    assert call.arguments["labels"] is labels
    desk.client.on_event(call.done({"label": np.array([1])}))
    assert desk.heard[-1][0] == "table_ready"
    assert desk.heard[-1][1].key == "one"
    desk.page.measure("one", labels)
    desk.client.on_event(p.Failed(desk.asked("measure")[-1].job, "X", "No memory."))
    assert desk.session.error is not None
    assert desk.session.error.message == "No memory."
    desk.page.dismiss_error()
    assert desk.session.error is None


def measured(desk: Desk, seconds: float = 2.0) -> None:
    """The engine has timed its network."""
    info = p.EngineInfo(
        "cpu", "CPU", "2", 1, seconds_per_megapixel=seconds, model_diameter=30.0
    )
    desk.session.info = info


def test_what_changes_how_long_a_run_takes_is_estimated_anew(desk: Desk) -> None:
    measured(desk)
    image = ImageSource("a", "a", np.zeros((2, 1000, 1000), np.uint8), "ZYX", plane=(0,))
    desk.page.set_image(replace(image, view=(0, 500, 0, 1000)))
    desk.page.set_region("whole", "all")
    desk.page.set_predict(PredictConfig(diameter=15))  # enlarged to twice the side
    whole = desk.session.estimate
    assert whole is not None
    assert whole.low == whole.high == 2 * 2 * 2**2
    for where, planes, share in (
        ("whole", "current", 1 / 2),
        ("view", "all", 1 / 2),
        ("view", "current", 1 / 4),
        (None, None, 1 / 4),
    ):
        desk.page.set_region(where, planes)
        assert desk.session.estimate is not None
        assert desk.session.estimate.high == pytest.approx(whole.high * share)
    desk.page.set_region("whole", "all")
    desk.page.set_predict(PredictConfig(diameter=15, rescale=False))
    assert desk.session.estimate is not None
    assert desk.session.estimate.high == 2 * 2


@pytest.mark.parametrize(
    ("more", "timed"),
    [
        ({"diameter": 30.0}, False),
        ({"tile": 256}, False),
        ({"augment": True}, True),
        ({"precision": "float32"}, True),
        ({"device": "cpu"}, True),
    ],
)
def test_what_changes_the_time_of_a_tile_is_timed_anew(
    desk: Desk, more: Any, timed: bool
) -> None:
    desk.page.set_predict(PredictConfig(**more))
    assert not desk.asked("warm_up")  # nothing is known yet
    desk.page.set_predict(PredictConfig())
    measured(desk)
    desk.page.set_predict(PredictConfig(**more))
    assert bool(desk.asked("warm_up")) == timed
    assert desk.session.predict == PredictConfig(**more)


def test_thresholds_are_the_models_until_a_person_chooses(desk: Desk) -> None:
    desk.page.refresh_models()
    card = next(entry.card for entry in desk.session.models if entry.name == "nuclei")
    desk.page.set_model("nuclei")
    assert desk.session.instances == card.instance
    own = InstanceConfig(foreground=0.9, remove_border=True, fill_holes=False)
    desk.page.set_instances(own)
    desk.page.set_model("nuclei")
    assert desk.session.instances == own
    # chosen for its thresholds: what becomes of holes and border stays
    desk.page.choose_model("nuclei")
    now = desk.session.instances
    assert now == desk.page.tuned
    assert (now.foreground, now.split) == (card.instance.foreground, card.instance.split)
    assert (now.remove_border, now.fill_holes) == (True, False)
    desk.session.model = "a file.safetensors"
    assert desk.page.tuned == now


def test_what_cannot_be_segmented_is_said(desk: Desk) -> None:
    desk.page.set_image(None)
    assert desk.page.segment() is None
    assert desk.session.error is not None
    assert not desk.client.requests
    desk.page.set_image(desk.source)
    number = desk.page.segment()
    assert number is not None
    again = desk.page.segment()
    assert desk.client.cancelled == [number]  # the one before gives way
    assert again != number
    desk.page.set_normalize(False)
    assert not desk.session.normalize
