"""The explain controller: what it asks of the engine, and what it makes of the answers.

A client that answers by hand stands where the engine is, so that answers can come late, out
of order, or not at all.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.see_why import ExplainController
from napari_sa2net.app.segment import SegmentController
from napari_sa2net.app.session import (
    CELL,
    CHANGE,
    STAGE,
    WHAT_IF,
    ImageSource,
    KeptVariant,
    Session,
    WhatIfSettings,
)
from napari_sa2net.config import InstanceConfig, NetworkConfig, PredictConfig
from napari_sa2net.engine import messages as p
from napari_sa2net.models.registry import (
    add_file,
    file_sha256,
    find_model,
    removed_models,
    rename_model,
    save_variant,
)

INFO = p.EngineInfo("cpu", "CPU", "2", 1, threads=2)
STRIDES = {"scale_gate_1": 4, "global_query": 4, "local_gate_2": 4, "aua_8": 8, "aua_1": 1}
NETWORK = NetworkConfig(kind="focal_unet")
OFF = WhatIfSettings((None, False, None, None))


class HandClient:
    """Takes requests and answers when it is told to."""

    def __init__(self, on_event):
        self.on_event = on_event
        self.sent: list[p.Request] = []
        self.cancelled: list[tuple[int, bool]] = []

    def start(self):
        self.on_event(p.Ready(INFO))

    def restart(self):
        self.on_event(p.Ready(INFO))

    def submit(self, request):
        self.sent.append(request)

    def cancel(self, job, force=True):
        self.cancelled.append((job, force))

    def close(self):
        pass

    def of(self, kind):
        """Requests of a class, or calls of a name."""
        return [
            request
            for request in self.sent
            if kind in (type(request), getattr(request, "name", None))
        ]

    def done(self, request, result):
        self.on_event(request.done(result))


def map_of(name, size=(40, 48), channel=None, value=0.5):
    stride = STRIDES[name]
    grid = tuple(-(-n // stride) for n in size)
    return p.AttentionMap(
        name,
        np.full(grid, value, np.float32),
        stride,
        (stride, stride),
        ((stride - 1) / 2, (stride - 1) / 2),
        -1.0 if name.startswith("scale") else 0.0,
        1.0,
        channel,
        8 if name.startswith("local") else 1,
    )


def answer(request, box=None):
    """A hand-made explanation of the window that was asked for."""
    window = request.arguments["window"]
    y0, y1, x0, x1 = box or window.box or (0, 40, 0, 48)
    labels = np.zeros((y1 - y0, x1 - x0), np.int32)
    labels[4:12, 4:14] = 1
    stages = {8: np.roll(labels, 2), 4: np.roll(labels, 1), 2: labels.copy(), 1: labels}
    result = p.SegmentResult(
        request.key, labels, (y0, x0), p.Summary(1, 80.0, 0), {"label": np.array([1])}
    )
    maps = {name: map_of(name, labels.shape) for name in STRIDES}
    index = window.index or ()
    change = np.zeros(labels.shape, np.int8)
    return p.ExplainResult(
        result, maps, stages, change, (0.1,) * 4, index, (y0, y1, x0, x1), NETWORK
    )


class Desk:
    """Session, controllers and a client that a test answers for."""

    def __init__(self):
        self.session = Session(model="any")
        link = EngineLink(self.session, make_client=self.make)
        self.segment = SegmentController(link)
        self.explain = ExplainController(self.segment)
        self.overlays = []
        self.outcomes = []
        self.explain.overlay.connect(self.overlays.append)
        self.segment.result_ready.connect(self.outcomes.append)
        self.segment.start()

    def make(self, on_event):
        self.client = HandClient(on_event)
        return self.client

    @property
    def why(self):
        return self.session.why

    def open(self, key="a", data=None, **more):
        source = ImageSource(key, key, np.zeros((40, 48)) if data is None else data, **more)
        self.segment.set_image(source)
        return source

    def ask(self):
        assert self.explain.explain() is not None
        return self.client.of("explain")[-1]

    def look(self):
        request = self.ask()
        self.client.done(request, answer(request))
        return request

    def newest(self, kind):
        return self.client.of(kind)[-1]


@pytest.fixture
def desk():
    return Desk()


def test_an_explanation_comes_with_cells_that_sliders_move(desk):
    source = desk.open(pixel_size_um=0.5)
    assert desk.why is None
    request = desk.ask()
    assert desk.session.running
    desk.client.on_event(p.Progress(request.job, 3, 10, "segmenting"))
    assert str(desk.session.progress) == "segmenting · 30%"
    desk.client.done(request, answer(request))
    assert not desk.session.running
    assert desk.session.progress is None
    (outcome,) = desk.outcomes
    assert (outcome.key, outcome.replaces) == (request.key, None)
    assert outcome.request.source is source
    assert desk.session.sliders == "live"
    assert desk.session.summary.startswith("1 cell")
    assert desk.why.key == request.key
    assert set(desk.why.maps) == set(STRIDES)
    assert desk.overlays == []
    # a slider then asks for the same key; outlines and maps are those of before
    desk.segment.set_instances(InstanceConfig(foreground=0.4))
    derive = desk.newest("derive")
    assert derive.key == desk.why.key
    assert not desk.why.moved
    desk.client.done(derive, answer(request).segmentation)
    assert desk.why.moved


@pytest.mark.parametrize(
    ("source", "window"),
    [
        ({"view": (5, 20, 6, 30)}, p.Window(None, (5, 20, 6, 30))),
        (
            {"data": np.zeros((7, 40, 48)), "plane": (3,), "view": (0, 9, 0, 9)},
            p.Window((3,), (0, 9, 0, 9)),
        ),
    ],
)
def test_view_and_the_plane_that_is_shown(desk, source, window):
    desk.open(**source)
    desk.segment.set_region(where="view", planes="all")
    assert desk.ask().arguments["window"] == window


def test_the_size_that_was_found_is_of_what_went_in_then(desk):
    def size():
        return desk.ask().arguments["predict"].diameter

    desk.open(data=np.zeros((2, 40, 48)), axes="CYX", channels=(0,))
    assert size() is None
    desk.segment.segment()
    request = desk.newest("segment")
    found = p.SegmentResult(
        *(request.key, np.ones((40, 48), np.int32), (0, 0), p.Summary(1, 80.0, 0)), diameter=17
    )
    desk.client.done(request, found)
    assert size() == 17
    desk.segment.set_channels((1,))
    assert size() is None
    desk.segment.set_channels((0,))
    assert size() == 17
    desk.segment.set_normalize(False)
    assert size() is None
    desk.segment.set_normalize(True)
    desk.segment.set_predict(PredictConfig(diameter=9))
    assert size() == 9


def test_what_cannot_be_explained_is_said(desk):
    assert desk.explain.explain() is None
    assert "Open one" in desk.session.error.message
    desk.open(view=(5, 5, 0, 3))
    desk.segment.set_region(where="view")
    assert desk.explain.explain() is None
    assert "view" in desk.session.error.message
    assert desk.client.of("explain") == []
    desk.segment.set_region(where="whole")
    request = desk.ask()
    desk.client.on_event(p.Failed(request.job, "ImageError", "All NaN."))
    assert desk.session.error.message == "All NaN."
    assert not desk.session.running
    assert desk.why is None


def test_one_run_at_a_time_and_cancel(desk):
    desk.open()
    first = desk.ask()
    desk.segment.segment()
    assert desk.client.cancelled == [(first.job, True)]
    desk.client.on_event(p.WasCancelled(first.job))
    assert desk.session.running  # the segmentation still runs
    second = desk.ask()
    desk.explain.cancel()
    assert desk.session.progress.what == "cancelling"
    assert (second.job, True) in desk.client.cancelled
    desk.client.on_event(p.WasCancelled(desk.newest("segment").job))
    desk.client.on_event(p.WasCancelled(second.job))
    assert not desk.session.running
    assert desk.why is None
    assert desk.outcomes == []


@pytest.mark.parametrize("how", ["pixels", "deleted"])
def test_a_stale_explanation_is_dropped(desk, how):
    source = desk.open()
    request = desk.ask()
    tell = desk.segment.image_changed if how == "pixels" else desk.segment.forget_image
    tell(source.key)
    desk.explain.forget_image(source.key)
    assert desk.client.cancelled == [(request.job, False)]
    desk.client.done(request, answer(request))
    assert desk.outcomes == []
    assert desk.overlays == []
    assert desk.why is None
    assert p.Forget(request.key) in desk.client.sent


def test_layers_come_go_and_are_put_anew_by_a_second_run(desk):
    desk.open()
    desk.look()
    desk.explain.show_layer("aua_8", True)
    desk.explain.show_layer("aua_8", True)  # it is there already
    desk.explain.show_layer(CHANGE, True)
    desk.explain.set_stage(4)
    slots = [(o.slot, o.content is not None) for o in desk.overlays]
    assert slots == [("aua_8", True), (CHANGE, True), (STAGE, True)]
    assert desk.overlays[0].content is desk.why.maps["aua_8"]
    result = desk.why.result
    assert desk.overlays[-1].content.values is result.stages[4]
    assert desk.overlays[-1].content.stride == 4
    desk.explain.set_stage(16)
    assert desk.why.stage == 4
    # the person deletes a layer: its tile is no longer ticked, and nothing is asked
    desk.explain.layer_gone("a", CHANGE)
    assert desk.why.shown == {"aua_8", STAGE}
    desk.overlays.clear()
    desk.look()
    assert desk.outcomes[-1].replaces == desk.outcomes[0].key
    assert {o.slot for o in desk.overlays} == {"aua_8", STAGE}
    assert desk.overlays[0].content is desk.why.maps["aua_8"]
    assert (desk.why.stage, desk.why.focus) == (4, "aua_8")
    desk.explain.show_layer("aua_8", False)
    assert desk.overlays[-1].content is None


def test_a_map_that_the_next_model_lacks_goes(desk):
    desk.open()
    desk.look()
    for slot in ("aua_8", "aua_1"):
        desk.explain.show_layer(slot, True)
    request = desk.ask()
    less = answer(request)
    desk.client.done(request, replace(less, maps={"aua_8": less.maps["aua_8"]}, stages={1: 1}))
    assert desk.why.shown == {"aua_8"}
    assert desk.why.focus == ""
    gone = [o.slot for o in desk.overlays if o.content is None]
    assert gone == ["aua_1"]
    desk.explain.set_stage(8)
    assert STAGE not in desk.why.shown


def test_every_image_has_its_own(desk):
    one = desk.open("one")
    desk.look()
    desk.explain.show_layer("aua_1", True)
    two = desk.open("two")
    assert desk.why is None
    desk.look()
    assert desk.why.shown == frozenset()
    desk.segment.set_image(one)
    assert desk.why.shown == {"aua_1"}
    # an explanation that ends while another image is chosen waits there
    request = desk.ask()
    desk.segment.set_image(two)
    desk.client.done(request, answer(request))
    assert desk.why.image_key == "two"
    assert desk.overlays[-1].source is one
    desk.segment.set_image(one)
    assert desk.why.key == request.key
    # and of many images the oldest are let go
    for i in range(4):
        desk.open(f"more {i}")
        desk.look()
    desk.segment.set_image(one)
    assert desk.why is None


def test_cells_of_more_than_was_explained_stay(desk):
    """A whole stack is not given up for the explanation of one of its planes."""
    desk.open(data=np.zeros((5, 40, 48)), plane=(2,))
    desk.segment.segment()
    segment = desk.newest("segment")
    whole = p.SegmentResult(
        segment.key, np.zeros((5, 40, 48), np.int32), (0, 0, 0), p.Summary(0, 0.0, 0)
    )
    desk.client.done(segment, whole)
    first = desk.look()
    assert desk.outcomes[-1].replaces is None
    assert p.Forget(segment.key) not in desk.client.sent
    # the next explanation takes the place of the first, also of another plane
    desk.segment.set_image(replace(desk.session.image, plane=(4,)))
    desk.look()
    assert desk.outcomes[-1].replaces == first.key
    # Segment replaces it, and the engine no longer keeps what it was made from
    assert desk.why.kept
    desk.segment.segment()
    again = desk.newest("segment")
    desk.client.done(again, replace(whole, key=again.key))
    assert not desk.why.kept


def test_cells_of_another_model_stay(desk):
    desk.open()
    desk.look()
    first = desk.look()
    assert desk.outcomes[-1].replaces == desk.outcomes[0].key
    desk.session.model = "another"
    desk.look()
    assert desk.outcomes[-1].replaces is None
    assert p.Forget(first.key) not in desk.client.sent


def test_edited_cells_stay_the_persons(desk):
    desk.open()
    request = desk.look()
    desk.segment.mark_edited(request.key)
    desk.look()
    assert desk.outcomes[-1].replaces is None
    assert desk.outcomes[-1].looks_into == request.key
    assert desk.why.key != request.key
    assert desk.session.sliders == "edited"


def test_the_newest_channel_wins(desk):
    desk.open()
    desk.look()
    desk.explain.show_layer("local_gate_2", True)
    desk.overlays.clear()
    for channel in (1, 2, 3):
        desk.explain.set_channel("local_gate_2", channel)
    (first,) = desk.client.of("map_channel")
    assert first == p.Call(
        first.job, "map_channel", {"name": "local_gate_2", "channel": 1}, desk.why.key
    )
    desk.client.done(first, map_of("local_gate_2", channel=1))
    assert desk.overlays == []  # not what is wanted any more
    _, second = desk.client.of("map_channel")
    assert second.arguments["channel"] == 3
    came = map_of("local_gate_2", channel=3, value=0.9)
    desk.client.done(second, came)
    assert desk.why.maps["local_gate_2"] is came
    assert desk.overlays[-1].content is came
    # back to the mean
    desk.explain.set_channel("local_gate_2", None)
    last = desk.newest("map_channel")
    assert last.arguments["channel"] is None
    desk.client.done(last, map_of("local_gate_2"))
    assert desk.why.maps["local_gate_2"].channel is None


def test_inspect_the_newest_cell(desk):
    desk.open()
    desk.look()
    edited = np.zeros((40, 48), np.int32)
    desk.explain.inspect(1)
    desk.explain.inspect(5)
    desk.explain.inspect(7, edited)
    (first,) = desk.client.of("inspect")
    desk.client.done(first, inspection(1))
    assert desk.why.inspection is None
    last = desk.newest("inspect")
    assert (last.arguments["label"], last.arguments["labels"] is edited) == (7, True)
    desk.client.done(last, inspection(7))
    assert desk.why.inspection.label == 7


def test_the_cell_that_is_looked_at_is_outlined(desk):
    desk.open()
    desk.look()

    def outlined():
        return [o.content and o.content.box for o in desk.overlays if o.slot == CELL]

    for label in (1, 2):
        desk.explain.inspect(label)
        desk.client.done(desk.newest("inspect"), inspection(label))
        assert CELL in desk.why.shown
        assert desk.overlays[-1].content.values is desk.why.inspection.ring
    assert outlined() == [(1, 2, 3, 4), (2, 3, 4, 5)]
    # a slider made the cells anew: the outline may be another one now
    desk.segment.set_instances(InstanceConfig(foreground=0.7))
    derive = desk.newest("derive")
    labels = np.zeros((40, 48), np.int32)
    desk.client.done(
        derive, p.SegmentResult(derive.key, labels, (0, 0), p.Summary(0, math.nan, 0))
    )
    assert desk.why.moved
    assert outlined()[2:] == [None]
    # and that is said once, however far the slider goes
    n = len(desk.overlays)
    desk.segment.set_instances(InstanceConfig(foreground=0.8))
    derive = desk.newest("derive")
    desk.client.done(
        derive, p.SegmentResult(derive.key, labels, (0, 0), p.Summary(0, math.nan, 0))
    )
    assert len(desk.overlays) == n
    # a person deletes it, looks at the next cell, and then looks inside anew
    desk.explain.inspect(3)
    desk.client.done(desk.newest("inspect"), inspection(3))
    desk.explain.layer_gone("a", CELL)
    assert CELL not in desk.why.shown
    desk.explain.inspect(4)
    desk.client.done(desk.newest("inspect"), inspection(4))
    desk.look()
    assert outlined()[3:] == [(3, 4, 5, 6), (4, 5, 6, 7), None]


def inspection(label):
    zeros = np.zeros(25, np.float32)
    none = (0.0,) * 4
    picture = np.zeros((3, 3), np.float32)
    return p.CellInspection(
        label,
        none,
        none,
        zeros,
        {8: zeros},
        (),
        picture,
        picture > 0,
        (1, 1),
        ring=np.ones((1, 1), np.uint8),
        ring_box=(label, label + 1, label + 2, label + 3),
    )


def tried(key, box=(0, 40, 0, 48), gained=0):
    size = (box[1] - box[0], box[3] - box[2])
    change = np.zeros(size, np.int8)
    labels = np.zeros(size, np.int32)
    counts = (0, 0, 1, 0, gained, 5)
    return p.WhatIfResult(*counts, change, key, labels, box, 3, 4, 0.1, True)


def test_what_if_is_live_and_reset(desk):
    desk.open(view=(10, 90, -5, 20))
    desk.look()
    desk.explain.set_what_if(OFF)
    sharp = replace(OFF, gamma=(1.0, 2.0, 1.0, 1.0), se_gamma=(0.0, None, None, 3.0))
    desk.explain.set_what_if(replace(OFF, gamma=(1.0, 1.5, 1.0, 1.0)))
    desk.explain.set_what_if(sharp)
    (first,) = desk.client.of("what_if")
    # what the camera shows of what was explained
    assert first.arguments["box"] == (10, 40, 0, 20)
    assert first.arguments["gates"] == OFF.gates
    assert first.arguments["instances"] == desk.session.instances
    desk.client.done(first, tried(first.key, first.arguments["box"]))
    assert desk.overlays[-1].slot == WHAT_IF
    assert desk.overlays[-1].content.box == first.arguments["box"]
    last = desk.newest("what_if")
    assert last.arguments["gamma"] == sharp.gamma
    assert last.arguments["se_gamma"] == sharp.se_gamma
    # reset: the layer goes, and the answer that is still to come is not shown
    desk.explain.reset_what_if()
    assert desk.overlays[-1].content is None
    n = len(desk.overlays)
    desk.client.done(last, tried(last.key, last.arguments["box"]))
    assert len(desk.overlays) == n
    assert desk.why.what_if_result is None
    assert WHAT_IF not in desk.why.shown


def test_what_if_follows_view_and_sliders(desk):
    source = desk.open(view=(0, 20, 0, 20))
    desk.look()
    desk.explain.view_rested()
    assert desk.client.of("what_if") == []
    desk.explain.set_what_if(OFF)
    desk.client.done(desk.newest("what_if"), tried(desk.why.key))
    desk.explain.view_rested()
    assert len(desk.client.of("what_if")) == 1
    desk.segment.set_image(replace(source, view=(10, 30, 0, 20)))
    desk.explain.view_rested()
    assert desk.newest("what_if").arguments["box"] == (10, 30, 0, 20)
    desk.client.done(desk.newest("what_if"), tried(desk.why.key))
    desk.segment.set_instances(InstanceConfig(foreground=0.3))
    assert desk.newest("what_if").arguments["instances"].foreground == 0.3


def test_what_if_follows_the_view_out_and_says_what_it_is_about(desk):
    source = desk.open(view=(0, 20, 0, 20))
    desk.look()
    desk.explain.set_what_if(OFF)
    desk.client.done(desk.newest("what_if"), tried(desk.why.key, (0, 20, 0, 20)))
    assert desk.why.what_if_part == "in the view"
    # zoomed out until everything is in view
    desk.segment.set_image(replace(source, view=(-9, 70, -9, 70)))
    desk.explain.view_rested()
    assert desk.newest("what_if").arguments["box"] == (0, 40, 0, 48)
    assert desk.why.what_if_part == "in the view before this one"
    desk.client.done(desk.newest("what_if"), tried(desk.why.key))
    assert desk.why.what_if_part == "in the whole image"
    # with nothing of it in view nothing new is asked, and sliders keep to the last part
    asked = len(desk.client.of("what_if"))
    desk.segment.set_image(replace(source, view=(60, 70, 0, 9)))
    desk.explain.view_rested()
    assert len(desk.client.of("what_if")) == asked
    desk.explain.set_what_if(replace(OFF, gamma=(2.0, 1.0, 1.0, 1.0)))
    assert desk.newest("what_if").arguments["box"] == (0, 40, 0, 48)


def test_what_if_of_a_part_that_was_looked_into(desk):
    desk.open(view=(10, 30, 8, 40))
    desk.segment.set_region(where="view")
    desk.look()
    desk.explain.set_what_if(OFF)
    question = desk.newest("what_if")
    assert question.arguments["box"] == desk.why.result.box == (10, 30, 8, 40)
    desk.client.done(question, tried(question.key, question.arguments["box"]))
    assert desk.why.what_if_part == "in all that was looked into"


def test_a_dead_engine_answers_no_more_questions(desk):
    desk.open()
    desk.look()
    desk.explain.show_layer("aua_8", True)
    desk.explain.inspect(1)
    desk.explain.inspect(2)
    question = desk.newest("inspect")
    desk.client.on_event(p.Failed(question.job, "EngineError", "It stopped."))
    desk.client.on_event(p.Died("It stopped."))
    assert not desk.why.kept
    assert "stopped" in desk.session.error.message
    asked = len(desk.client.sent)
    desk.explain.inspect(1)
    desk.explain.set_what_if(OFF)
    desk.explain.set_channel("local_gate_2", 1)
    assert len(desk.client.sent) == asked
    # maps are here, so their layers can still come and go
    desk.explain.show_layer("aua_1", True)
    assert desk.overlays[-1].content is not None
    desk.client.on_event(p.Ready(INFO))
    desk.look()
    assert desk.why.kept
    assert desk.why.shown == {"aua_8", "aua_1"}


def test_what_the_engine_forgot_is_no_error(desk):
    desk.open()
    desk.look()
    desk.explain.inspect(1)
    question = desk.newest("inspect")
    desk.client.on_event(p.Failed(question.job, "NotKeptError", "Not kept."))
    assert not desk.why.kept
    assert desk.session.error is None
    # other errors are shown
    desk.look()
    desk.explain.inspect(99)
    question = desk.newest("inspect")
    desk.client.on_event(p.Failed(question.job, "SettingsError", "There is no object 99."))
    assert desk.why.kept
    assert "99" in desk.session.error.message


def test_cells_whose_layer_is_gone_can_be_asked_no_more(desk):
    desk.open()
    request = desk.look()
    desk.segment.forget_result(request.key)
    desk.explain.forget_result(request.key)
    assert not desk.why.kept


@pytest.fixture
def kept_desk(desk, tiny_model, tmp_path, monkeypatch):
    """An image looked into with a model of the user's, and a what-if of it."""
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path))
    entry = add_file(tiny_model, "tiny")
    desk.segment.refresh_models("tiny")
    desk.open()
    request = desk.ask()
    made = answer(request)
    model = {"name": "tiny", "sha256": file_sha256(entry.path)}
    segmentation = replace(made.segmentation, provenance={"model": model})
    desk.client.done(request, replace(made, segmentation=segmentation))
    desk.explain.set_what_if(WhatIfSettings(gamma=(None, 2.0, None, None)))
    yield desk
    desk.explain.close()


def keep(desk, name="sharper"):
    desk.explain.keep_what_if(name)
    settle(desk)


def settle(desk):
    desk.explain._background.run(lambda: None, lambda _: None, lambda _: None).result()


def test_a_what_if_is_kept_chosen_and_taken_back(kept_desk):
    desk = kept_desk
    assert desk.explain.proposed_name() == "tiny-variant"
    instances = desk.session.instances.model_copy(update={"foreground": 0.4})
    desk.segment.set_instances(instances)
    keep(desk)
    assert desk.session.model == "sharper"
    # The what-if was shown with these sliders.
    assert desk.session.instances == instances
    card = find_model("sharper").card
    assert desk.why.variant == KeptVariant("sharper", "tiny", desk.why.what_if, card)
    assert find_model("sharper").card.network.gamma == (1.0, 2.0, 1.0, 1.0)
    desk.explain.undo_keep()
    settle(desk)
    keep(desk, "again")
    assert find_model("sharper") is None
    assert [path.name for path in removed_models()] == ["sharper.safetensors"]
    desk.explain.undo_keep()
    desk.segment.refresh_models("nuclei")
    settle(desk)
    assert desk.session.model == "nuclei", "what a person chose since stays chosen"


def test_without_a_what_if_there_is_nothing_to_keep(kept_desk):
    desk = kept_desk
    desk.explain.set_what_if(WhatIfSettings())
    keep(desk)
    assert find_model("sharper") is None
    assert (desk.why.variant, desk.why.keep_problem) == (None, "")
    desk.session.image = None
    keep(desk)  # nothing is explained


def test_a_second_click_is_the_same_one(kept_desk):
    desk = kept_desk
    desk.explain.keep_what_if("sharper")
    keep(desk)
    assert desk.why.keep_problem == ""
    assert desk.why.variant.name == "sharper"
    desk.explain.undo_keep()
    desk.explain.undo_keep()
    settle(desk)
    assert desk.why.keep_problem == ""
    assert len(removed_models()) == 1


def test_a_parent_is_found_under_its_new_name(kept_desk):
    desk = kept_desk
    rename_model("tiny", "small")
    desk.segment.refresh_models("small")
    keep(desk)
    assert desk.why.keep_problem == ""
    assert find_model("sharper").card.description.startswith("small with ")
    desk.explain.undo_keep()
    settle(desk)
    assert desk.session.model == "small"


def test_another_model_that_took_the_name_is_not_taken_away(kept_desk):
    desk = kept_desk
    keep(desk)
    other = save_variant("tiny", "sharper", gamma=(0.5, None, None, None), overwrite=True)
    desk.explain.undo_keep()
    settle(desk)
    assert "another model by now" in desk.why.keep_problem
    assert find_model("sharper") == other


def test_why_a_what_if_is_not_kept(kept_desk, other_model):
    desk = kept_desk
    keep(desk, "tiny")
    assert "Choose another name" in desk.why.keep_problem
    assert desk.why.variant is None
    # The model is another one by now.
    add_file(other_model, "tiny", overwrite=True)
    keep(desk)
    assert "Look inside again" in desk.why.keep_problem
    assert find_model("sharper") is None
    desk.explain.set_what_if(OFF)
    assert desk.why.keep_problem == ""
