"""Learning while a person corrects, without a window: when, what stays, when it rests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import napari_sa2net.app.live as live_module
from napari_sa2net import edits
from napari_sa2net.app.cells import CellSource
from napari_sa2net.app.edit_session import restored_session
from napari_sa2net.app.live import LiveController
from napari_sa2net.app.session import ImageSource
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.edits import Corrections, proposed
from napari_sa2net.engine import messages as p
from napari_sa2net.provenance import provenance

#: twelve cells in rows of four
CENTRES = [(y, x) for y in (20, 50, 80) for x in (20, 50, 80, 110)]


def disks(centres: Any = CENTRES, radius: int = 8) -> Any:
    y, x = np.indices((100, 130))
    labels = np.zeros((100, 130), np.int32)
    for label, (cy, cx) in enumerate(centres, 1):
        labels[np.hypot(y - cy, x - cx) <= radius] = label
    return labels


class Live:
    """A desk with waves, and the tests' side of the engine."""

    def __init__(self, desk: Any) -> None:
        self.desk, self.correct = desk, desk.controller
        self.controller = LiveController(desk.controller)
        self.state = self.controller.state
        self.labels = desk.source.labels

    @property
    def asked(self) -> list[Any]:
        requests = self.desk.client.requests
        return [r for r in requests if isinstance(r, p.Call) and r.name == "wave"]

    def accept(self, *labels: int) -> None:
        for label in labels:
            assert self.correct.accept(label), self.correct.state.said

    @property
    def looks_again(self) -> bool:
        """Whether it looks again when nothing is corrected for a while."""
        timer = self.controller._timer
        return timer is not None and not timer.finished.is_set()

    def after_a_while(self) -> None:
        assert self.looks_again
        self.controller._rested()

    def answer(self, new: Any, before: float = 0.5, after: float = 0.7) -> None:
        """The engine is done: these are the cells that it sees."""
        call = self.asked[-1]
        sent = call.arguments
        stays = sent["areas"] | np.isin(sent["labels"], sent["reviewed"])
        box = sent["window"].box
        patch = proposed(sent["labels"], new, stays, (box[0], box[2]))
        made = {"live": {"base": {"name": "nuclei"}}}
        n = len(sent["held_back"])
        result = p.WaveResult(patch, 4, n, before, after, 1.0, made)
        self.desk.client.on_event(call.done(result))


@pytest.fixture
def live(desks: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    monkeypatch.setattr(live_module, "REST_S", 3600.0)
    made = Live(desks(disks()))
    yield made
    made.controller.close()


def larger() -> Any:
    """All cells larger, one more, and the last is gone."""
    labels = disks([*CENTRES[:11], (96, 65)], 11)
    return labels


def test_off_by_default_and_a_wave_after_five_corrections(live: Live) -> None:
    live.accept(1, 2, 3, 4, 5)
    assert not live.asked
    live.controller.set_on(True)
    assert live.state.running
    assert live.desk.link.session.live
    sent = live.asked[0].arguments
    assert sent["reviewed"] == (1, 2, 3, 4, 5)
    assert len(sent["held_back"]) == 1
    np.testing.assert_array_equal(sent["labels"], live.labels)
    assert sent["counts"][20, 20]
    assert not sent["counts"][80, 110]
    assert sent["window"] == p.Window(None, (0, 100, 0, 130))


def test_nothing_is_asked_before_enough_is_reviewed(live: Live) -> None:
    live.controller.set_on(True)
    assert live.state.words == "Accept or correct 5 more cells."
    live.accept(1, 2, 3, 4)
    assert not live.asked
    assert live.state.words == "Accept or correct 1 more cell."
    live.accept(5)
    assert len(live.asked) == 1


def test_reviewed_cells_stay_to_the_pixel_and_one_undo_takes_a_wave_back(live: Live) -> None:
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4)
    assert live.correct.delete(point=(80, 80))  # cell 11: a cleared place
    assert live.correct.mark("ignore", [(40, 0), (40, 35), (60, 35), (60, 0)])  # around 5
    before = live.labels.copy()
    live.answer(larger())
    after = live.labels
    assert live.state.words == "Wave 1: 5 cells changed, 1 new, 1 gone."
    for label in (1, 2, 3, 4, 5):
        np.testing.assert_array_equal(after == label, before == label)
    assert not after[disks() == 11].any()
    assert after[50, 60] == 6
    assert not after[80, 110]
    assert live.state.shown == {6, 7, 8, 9, 10, 13}
    assert live.correct.state.undo == live.state.undo
    assert "wave 1 (5 cells changed, 1 new, 1 gone)" in live.state.undo
    assert live.controller.undo()
    np.testing.assert_array_equal(live.labels, before)
    assert live.state.undo == ""
    assert live.state.words == "Wave 1 was taken back."
    assert not live.state.shown
    assert len(live.asked) == 1
    assert live.correct.redo()
    np.testing.assert_array_equal(live.labels, after)


def test_what_is_edited_while_a_wave_runs_wins(live: Live) -> None:
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    live.accept(6)
    assert live.correct.delete(point=(50, 80))
    meanwhile = live.labels.copy()
    assert live.state.running
    live.answer(larger())
    np.testing.assert_array_equal(live.labels == 6, meanwhile == 6)
    assert not live.labels[40:61, 70:91].any()
    assert live.labels[80, 30] == 9  # larger


def test_a_wave_does_not_end_what_can_be_done_again(live: Live) -> None:
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5, 6)
    assert live.correct.undo()
    before = live.labels.copy()
    live.answer(larger())
    assert live.state.words == "Wave 1: dropped, as you took a step back meanwhile."
    np.testing.assert_array_equal(live.labels, before)
    live.after_a_while()  # after a while: still to be decided
    assert not live.state.running
    assert live.correct.redo()
    assert live.state.running
    live.answer(larger())
    assert live.state.words.startswith("Wave 1: ")
    assert (live.labels != before).any()


def test_the_next_wave_begins_with_what_is_new(live: Live) -> None:
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    live.accept(6, 7, 8, 9, 10)
    assert len(live.asked) == 1  # one at a time
    live.answer(disks())
    assert live.state.words == "Learning from 8 corrections… Go on meanwhile."
    assert len(live.asked) == 2
    # what is held back is so in every wave
    boxes = [{held.corner for held in call.arguments["held_back"]} for call in live.asked]
    assert boxes[0] < boxes[1]
    live.answer(disks())
    assert live.state.words == "Wave 2: nothing to change."
    assert len(live.asked) == 2


def test_it_rests_when_it_does_not_help(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "JUDGES", 1)
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    before = live.labels.copy()
    live.answer(larger(), before=0.7, after=0.6)
    np.testing.assert_array_equal(live.labels, before)  # worse is not shown
    assert "no better, so nothing was changed" in live.state.words
    assert not live.state.resting
    live.accept(6, 7, 8, 9, 10)
    live.answer(larger(), before=0.7, after=0.7)
    assert live.state.resting
    assert live.state.words.startswith("Learning rests: ")
    live.accept(11)
    assert not live.controller.state.running
    assert len(live.asked) == 2
    live.controller.set_on(False)
    live.controller.set_on(True)
    assert len(live.asked) == 3


def test_it_tries_again_with_twice_as_many_corrections(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "JUDGES", 1)
    monkeypatch.setattr(live_module, "EVERY", 2)
    monkeypatch.setattr(live_module, "HOLD", 2)
    live.controller.set_on(True)
    live.accept(1, 2)
    live.answer(disks(), before=0.7, after=0.7)
    live.accept(3, 4)
    live.answer(disks(), before=0.7, after=0.7)
    assert live.state.words.endswith("It tries again when there are 8 corrections.")
    live.accept(5, 6, 7)
    assert live.state.resting
    assert len(live.asked) == 2
    live.accept(8)
    assert not live.state.resting
    assert len(live.asked) == 3
    live.answer(disks(), before=0.7, after=0.7)  # one that is no better is enough now
    assert live.state.words.endswith("It tries again when there are 16 corrections.")


def test_it_rests_when_waves_are_taken_back(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "EVERY", 2)
    live.controller.set_on(True)
    live.accept(1, 2)
    live.answer(larger())
    assert live.controller.undo()
    live.accept(3, 4)
    live.answer(larger())  # this one stands
    live.accept(5, 6)
    live.answer(disks())
    assert live.controller.undo()
    assert not live.state.resting
    assert live.correct.redo()
    assert live.controller.undo()
    assert not live.state.resting
    live.accept(7, 8)
    live.answer(disks())
    assert live.controller.undo()
    assert live.state.resting
    rests = "Learning rests. It tries again when there are 16 corrections."
    assert live.state.words == f"Wave 4 was taken back. {rests}"
    live.accept(9, 10)
    assert len(live.asked) == 4


def test_waves_that_are_done_again_end_the_rest(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "EVERY", 2)
    live.controller.set_on(True)
    for labels in ((1, 2), (3, 4)):
        live.accept(*labels)
        live.answer(larger() if labels == (1, 2) else disks())
    for _ in range(4):  # a person looks at what was there: two waves, two corrections
        assert live.correct.undo()
    assert live.state.resting
    assert live.correct.redo()
    assert live.state.words == "Wave 1 was done again."
    assert not live.state.resting
    assert live.correct.redo()
    assert live.correct.redo()
    assert len(live.asked) == 3


def test_rest_is_said_beside_a_wave_that_is_taken_back(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "EVERY", 4)
    monkeypatch.setattr(live_module, "JUDGES", 1)
    live.controller.set_on(True)
    for labels, new in (((1, 2, 3, 4), larger()), ((5, 6, 7, 8), disks())):
        live.accept(*labels)
        live.answer(new, before=0.5, after=0.5)  # shown, as it is not worse
    assert live.state.resting
    assert live.correct.undo()
    assert live.state.resting
    rests = "Learning rests. It tries again when there are 16 corrections."
    assert live.state.words == f"Wave 2 was taken back. {rests}"
    assert live.correct.redo()
    assert live.state.resting
    assert live.state.words == f"Wave 2 was done again. {rests}"


def test_better_in_between_begins_the_count_anew(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "JUDGES", 1)
    monkeypatch.setattr(live_module, "EVERY", 3)
    live.controller.set_on(True)
    for i, after in enumerate((0.5, 0.6, 0.5)):
        live.accept(*range(4 * i + 1, 4 * i + 5))
        live.answer(disks(), before=0.5, after=after)
    assert not live.state.resting


def test_off_stops_a_wave_and_what_comes_too_late_is_dropped(live: Live) -> None:
    stopped: list[Any] = []
    live.desk.client.cancel = lambda job, force=True: stopped.append((job, force))
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    before = live.labels.copy()
    live.controller.set_on(False)
    assert stopped == [(live.asked[0].job, False)]
    assert not live.state.running
    live.answer(larger())
    np.testing.assert_array_equal(live.labels, before)
    assert live.correct.state.undo == "Undo acceptance of cell 5"


def test_an_engine_that_dies_loses_nothing(live: Live) -> None:
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    first = live.asked[0]
    live.desk.client.on_event(p.Failed(first.job, "EngineError", "The process stopped."))
    live.desk.client.on_event(p.Died("The process stopped.", restarting=True))
    assert not live.state.running
    assert not live.state.resting
    live.desk.client.on_event(p.Ready(p.EngineInfo("cpu", "CPU", "2", 1)))
    live.after_a_while()  # after a while
    assert len(live.asked) == 2
    second = live.asked[1].arguments
    assert second["reviewed"] == first.arguments["reviewed"]
    live.desk.client.on_event(p.Failed(live.asked[1].job, "EngineError", "It stopped again."))
    assert live.state.resting
    assert live.state.words == "Learning rests: It stopped again."


def test_what_it_cannot_learn_from_is_said(live: Live) -> None:
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    failed = p.Failed(live.asked[0].job, "SettingsError", "Model 'x' has other classes.")
    live.desk.client.on_event(failed)
    assert live.state.words == "Learning rests: Model 'x' has other classes."
    assert live.desk.link.session.error is None


def test_a_wave_that_gave_way_is_tried_again(live: Live) -> None:
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    live.desk.client.on_event(p.WasCancelled(live.asked[0].job))
    assert not live.state.running
    live.after_a_while()
    assert len(live.asked) == 2


def test_waves_and_what_clicks_learn_take_turns(live: Live) -> None:
    """Who goes on clicking would else keep every wave waiting."""
    requests = live.desk.client.requests

    def learning() -> list[Any]:
        names = ("teach_clicks", "wave")
        return [r for r in requests if isinstance(r, p.Call) and r.name in names]

    live.controller.set_on(True)
    live.correct.add((4.0, 4.0))
    live.accept(1, 2, 3)
    (lesson,) = learning()
    assert lesson.name == "teach_clicks"
    live.accept(4, 5, 6)  # a wave is due
    assert len(learning()) == 1
    live.desk.client.on_event(lesson.done((1, 2, 3)))
    live.accept(7)
    assert [one.name for one in learning()] == ["teach_clicks", "wave"]
    live.answer(live.labels)
    live.accept(8, 9, 10, 11, 12)
    assert [one.name for one in learning()] == ["teach_clicks", "wave", "teach_clicks"]
    # one that fails has had its turn, too
    live.desk.client.on_event(p.Failed(learning()[-1].job, "RuntimeError", "No memory."))
    assert live.correct.mark("ignore", [(90, 0), (90, 5), (95, 5), (95, 0)])
    assert learning()[-1].name == "wave"


def test_the_engine_keeps_what_it_learned_until_that_is_of_no_use(live: Live) -> None:
    def forgotten() -> list[str]:
        return [r.key for r in live.desk.client.requests if isinstance(r, p.Forget)]

    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    first = live.asked[0].key
    live.answer(larger())
    live.accept(6, 7, 8, 9, 10)
    assert live.asked[1].key == first  # it goes on from there
    assert forgotten() == []
    live.answer(larger())
    live.desk.link.outdate("image")
    live.accept(11)
    live.after_a_while()
    second = live.asked[2].key
    assert second != first
    assert forgotten() == [first]
    live.controller.set_on(False)
    assert forgotten() == [first, second]
    live.controller.set_on(True)
    live.controller.set_on(False)
    live.controller.close()
    assert forgotten() == [first, second]  # once


def test_clicks_let_the_first_wave_go_before_them(live: Live) -> None:
    live.desk.link.session.running = True
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    assert not live.asked
    assert live.correct.clicks.gives_way()


def test_clicks_wait_for_a_wave_that_is_due_alone(live: Live) -> None:
    gives_way, clicks = live.correct.clicks.gives_way, live.correct.clicks
    clicks.ended += 1
    live.accept(1, 2, 3, 4, 5)
    assert not gives_way()  # it is off
    live.controller.set_on(True)
    assert live.state.running
    assert not gives_way()
    live.answer(live.labels.copy())
    clicks.ended += 1
    assert not gives_way()  # nothing is new
    live.desk.link.session.running = True  # so that it has to wait
    live.accept(6, 7, 8, 9)
    assert not gives_way()
    live.accept(10)
    assert gives_way()
    plane = live.controller._plane("cells", ())
    plane.resting = True
    assert not gives_way()
    plane.resting = False
    clicks.ended -= 1  # none of clicks since the last wave: that is their turn
    assert not gives_way()
    clicks.ended += 1
    assert gives_way()
    live.controller.close()
    assert not gives_way()


def test_waves_wait_while_an_image_is_segmented(live: Live) -> None:
    live.desk.link.session.running = True
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    assert not live.asked
    live.desk.link.session.running = False
    live.after_a_while()
    assert len(live.asked) == 1


def test_a_result_of_other_pixels_is_dropped(live: Live) -> None:
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    before = live.labels.copy()
    live.desk.link.outdate("image")
    live.answer(larger())
    np.testing.assert_array_equal(live.labels, before)
    assert live.state.words == "Wave 1: dropped, as the image changed meanwhile."
    live.accept(6)
    live.after_a_while()
    assert len(live.asked) == 2  # all that was said is learned from the image as it is


def test_what_is_noted_of_a_wave_follows_undo_and_lies_in_the_journal(live: Live) -> None:
    noted: list[Any] = []
    live.correct.waves_changed.connect(lambda key, waves: noted.append((key, waves)))
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    live.answer(larger())
    assert noted[-1][0] == "cells"
    assert noted[-1][1][0]["wave"] == 1
    assert noted[-1][1][0]["live"]["base"]["name"] == "nuclei"
    live.correct.undo()
    assert noted[-1][1] == ()
    live.correct.redo()
    assert len(noted[-1][1]) == 1
    session = live.correct.session
    labels, identity = live.labels.copy(), session.journal.id
    live.correct.close()
    again, _ = restored_session(identity, live.desk.image)
    np.testing.assert_array_equal(again.labels, labels)
    assert [record["wave"] for record in again.waves] == [1]
    again.close()


def test_the_plane_in_sight(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "REST_S", 3600.0)
    labels = np.stack([disks(), disks()])
    live = Live(desks(labels, plane=(1,)))
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    assert live.asked[0].arguments["window"].index == (1,)
    live.answer(larger())
    np.testing.assert_array_equal(live.labels[0], disks())
    assert (live.labels[1] != disks()).any()
    live.controller.close()


def test_a_wave_of_another_plane_is_taken_back_there(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "REST_S", 3600.0)
    live = Live(desks(np.stack([disks(), disks()]), plane=(1,)))
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    live.answer(larger())
    live.correct.set_cells(replace(live.desk.source, plane=(0,)))
    assert live.correct.undo()
    np.testing.assert_array_equal(live.labels[1], disks())
    assert live.state.words == "Accept or correct 5 more cells."
    live.correct.set_cells(live.desk.source)
    assert live.state.words == "Wave 1 was taken back."
    assert not live.state.shown
    assert len(live.asked) == 1  # what was taken back is not asked for again
    live.controller.close()


def test_a_huge_plane_within_bounds(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "REST_S", 3600.0)
    monkeypatch.setattr(live_module, "MOST_PIXELS", 80 * 80)
    live = Live(desks(disks()))
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    y0, y1, x0, x1 = live.asked[0].arguments["window"].box
    assert (y1 - y0) * (x1 - x0) <= 80 * 80
    assert live.asked[0].arguments["labels"].shape == (y1 - y0, x1 - x0)


def test_cells_of_no_image(desks: Any) -> None:
    live = Live(desks(disks(), corner=None))
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    assert not live.asked
    assert live.state.words == live_module.NO_IMAGE
    live.controller.close()


def moved(desks: Any, monkeypatch: pytest.MonkeyPatch, **source: Any) -> Live:
    """Cells over a part of a larger image, in the middle of which they begin."""
    monkeypatch.setattr(live_module, "REST_S", 3600.0)
    image = np.zeros((400, 500), np.float32)
    labels = np.zeros((200, 300), np.int32)
    labels[60:160, 100:230] = disks()
    live = Live(desks(labels, image=image, corner=(100, 150), **source))
    live.controller.set_on(True)
    return live


def test_what_is_held_back_lies_where_it_does_in_the_image(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = moved(desks, monkeypatch)
    live.accept(1, 2, 3)
    assert live.correct.delete(point=(60 + 20, 100 + 110))  # the fourth: a place without a cell
    live.accept(5)
    (place,) = live.asked[0].arguments["held_back"]
    assert not place.is_cell
    assert place.corner == (100 + 60 + 12, 150 + 100 + 102)
    np.testing.assert_array_equal(place.mask, (disks() == 4)[12:29, 102:119])
    live.accept(6, 7, 8, 9, 10)
    live.answer(live.labels)
    place, cell = sorted(live.asked[1].arguments["held_back"], key=lambda held: held.is_cell)
    assert (cell.is_cell, cell.corner) == (True, (100 + 60 + 42, 150 + 100 + 102))  # cell 8
    np.testing.assert_array_equal(cell.mask, place.mask)
    live.controller.close()


def test_areas_of_a_person_are_told_in_their_place(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was marked or cleared stays as it is."""
    live = moved(desks, monkeypatch)
    live.accept(1, 2, 3)
    assert live.correct.delete(point=(80, 210))
    assert live.correct.mark("ignore", [(0, 5), (0, 15), (9, 15), (9, 5)])
    live.accept(5)
    sent = live.asked[0].arguments
    assert sent["window"].box == (100, 300, 150, 450)
    expected = np.zeros((200, 300), bool)
    expected[0:9, 5:15] = True
    expected[60:160, 100:230] |= disks() == 4
    np.testing.assert_array_equal(sent["areas"], expected)
    assert not sent["counts"][0:10, 5:16].any()
    assert sent["counts"][80, 210]
    live.controller.close()


@pytest.mark.parametrize(
    ("view", "box"),
    [
        (None, (152, 232, 254, 334)),  # around the reviewed cells
        ((120, 140, 300, 320), (100, 180, 270, 350)),
        ((390, 400, 0, 10), (220, 300, 150, 230)),
    ],
)
def test_of_a_huge_plane_a_wave_looks_at_what_is_seen(
    desks: Any, monkeypatch: pytest.MonkeyPatch, view: Any, box: Any
) -> None:
    monkeypatch.setattr(live_module, "MOST_PIXELS", 80 * 80)
    live = moved(desks, monkeypatch)
    source = live.desk.source
    live.correct.set_cells(replace(source, image=replace(source.image, view=view)))
    live.accept(1, 2, 3, 5, 6)
    assert live.asked[-1].arguments["window"].box == box
    live.controller.close()


def test_held_back_corrections_tell_how_much_better_a_wave_is(live: Live) -> None:
    """From three of them on."""
    live.controller.set_on(True)
    live.accept(*range(1, 12))
    live.answer(disks(), before=0.5, after=0.7)
    assert len(live.asked) == 2
    live.answer(disks(), before=0.5, after=0.7)
    assert live.state.words == "Wave 2: nothing to change."  # two are too few
    live.accept(12)
    live.after_a_while()
    assert len(live.asked[2].arguments["held_back"]) == 3
    live.answer(larger(), before=0.5, after=0.7)
    assert live.state.words == ("Wave 3: 1 cell new. Corrections held back: 50% → 70% right.")


@pytest.mark.parametrize(("after", "is_shown"), [(0.46, True), (0.44, False)])
def test_a_wave_that_is_little_worse_is_shown(
    live: Live, monkeypatch: pytest.MonkeyPatch, after: float, is_shown: bool
) -> None:
    monkeypatch.setattr(live_module, "JUDGES", 1)
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    live.answer(larger(), before=0.5, after=after)
    assert (live.labels[80, 30] == 9) == is_shown
    assert live.state.words.endswith(f"Corrections held back: 50% → {after:.0%} right.")
    assert ("nothing was changed" in live.state.words) != is_shown


@pytest.mark.parametrize(
    ("is_told", "model"), [(True, "mine"), (True, "gone"), (False, "gone")]
)
def test_a_wave_goes_in_as_the_segmentation_did(
    desks: Any, monkeypatch: pytest.MonkeyPatch, is_told: bool, model: str
) -> None:
    """Whatever the page is set to by now; only where it runs is the page's."""
    monkeypatch.setattr(live_module, "REST_S", 3600.0)
    image = ImageSource("two", "two", np.zeros((2, 100, 130), np.float32), "CYX", (0,))
    settings = {
        "image": {"axes": "CYX", "channels": [1], "normalize": False},
        "predict": PredictConfig(diameter=31, device="cuda"),
        "instances": InstanceConfig(min_size=77),
    }
    made = provenance("mine", "ab", settings, diameter=31.0, scale=0.5) if is_told else {}
    live = Live(desks(disks()))
    session = live.desk.link.session
    session.models = (SimpleNamespace(name="mine"), SimpleNamespace(name="nuclei"))
    session.model = "nuclei"
    session.predict = PredictConfig(diameter=12, device="cpu")
    live.correct.set_cells(replace(live.desk.source, image=image, made=made, model=model))
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    sent = live.asked[0].arguments
    assert sent["model"] == ("mine" if model == "mine" else "nuclei")
    assert sent["predict"] == PredictConfig(diameter=31 if is_told else 12, device="cpu")
    assert sent["channels"] == ((1,) if is_told else (0,))
    assert sent["normalize"] != is_told
    assert sent["instances"] == (InstanceConfig(min_size=77) if is_told else session.instances)
    live.controller.close()


def test_switched_on_twice_it_goes_on_and_the_last_wave_has_a_number(live: Live) -> None:
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    live.controller.set_on(True)
    assert live.state.running
    assert live.state.wave == 0
    live.answer(larger())
    assert live.state.wave == 1
    # a page that is opened later counts on
    later = LiveController(live.correct)
    assert later.state.on
    live.controller.closed = True
    live.accept(6, 7, 8, 9, 10)
    assert live.asked[-1].about.wave == 2
    later.close()


def test_only_a_wave_is_taken_back(live: Live) -> None:
    live.controller.set_on(True)
    live.accept(1, 2, 3)
    assert not live.controller.undo()
    assert live.correct.state.undo == "Undo acceptance of cell 3"
    live.accept(4, 5)
    live.answer(larger())
    live.accept(6)
    assert live.state.undo == ""
    assert not live.controller.undo()
    assert live.correct.state.undo == "Undo acceptance of cell 6"


def test_off_and_on_begins_the_count_of_waves_that_were_no_help_anew(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "JUDGES", 1)
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    live.answer(disks(), before=0.7, after=0.7)
    live.controller.set_on(False)
    assert live.state.words == ""
    live.controller.set_on(True)
    live.accept(6, 7, 8, 9, 10)
    live.answer(disks(), before=0.7, after=0.7)
    assert not live.state.resting
    assert live.state.words == (
        "Wave 2: nothing to change. Corrections held back: 70% → 70% right."
    )


@pytest.mark.parametrize("between", ["done", "off and on", "nothing"])
def test_an_engine_that_dies_now_and_then_is_no_reason_to_rest(
    live: Live, between: str
) -> None:
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    for i in range(2):
        live.desk.client.on_event(p.Failed(live.asked[-1].job, "EngineError", "It stopped."))
        live.controller._engine_ready()
        if i:
            break
        live.after_a_while()
        if between == "done":
            live.answer(disks())
            live.accept(6, 7, 8, 9, 10)
        elif between == "off and on":
            live.controller.set_on(False)
            live.controller.set_on(True)
    assert live.state.resting == (between == "nothing")


@pytest.mark.parametrize("busy", ["down", "clicks"])
def test_waves_wait_for_an_engine_that_can_learn(live: Live, busy: str) -> None:
    if busy == "down":
        live.desk.link.session.engine = "down"
    else:
        lesson = live.desk.link.ask("teach_clicks", {})
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    assert not live.asked
    assert live.looks_again
    if busy == "down":
        live.desk.link.session.engine = "ready"
    else:
        del live.desk.link.calls[lesson]
    live.after_a_while()
    assert len(live.asked) == 1


def test_it_looks_again_after_a_while_only_where_it_is_on(live: Live) -> None:
    live.controller._engine_ready()
    live.correct.set_cells(replace(live.desk.source))
    assert not live.looks_again
    live.controller.set_on(True)
    live.accept(1, 2, 3, 4, 5)
    live.correct.set_cells(replace(live.desk.source))
    assert not live.looks_again  # a wave is under way
    live.answer(disks())
    live.correct.set_cells(replace(live.desk.source))
    assert live.looks_again
    live.controller.set_on(False)
    assert not live.looks_again


def test_every_plane_and_every_model_has_learning_of_its_own(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "REST_S", 3600.0)
    live = Live(desks(np.stack([disks(), disks()]), plane=(1,)))
    live.controller.set_on(True)
    keys = []
    for plane, model in (((1,), "nuclei"), ((0,), "nuclei"), ((1,), "other")):
        live.desk.link.session.model = model
        live.correct.set_cells(replace(live.desk.source, plane=plane))
        first = 6 if model == "other" else 1
        live.accept(*range(first, first + 5))
        keys.append(live.asked[-1].key)
        assert live.asked[-1].arguments["window"].index == plane
        live.answer(disks())
    assert len(set(keys)) == 3
    live.controller.close()


def test_a_wave_lands_on_the_cells_wherever_they_lie_on_the_image(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = moved(desks, monkeypatch)
    live.accept(1, 2, 3, 5, 6)
    new = np.zeros_like(live.labels)
    new[60:160, 100:230] = larger()
    live.answer(new)
    changed = new.copy()
    changed[60:160, 100:230][np.isin(larger(), (1, 2, 3, 5, 6))] = 0
    kept = np.isin(live.labels, (1, 2, 3, 5, 6))
    np.testing.assert_array_equal((live.labels > 0) & ~kept, (changed > 0) & ~kept)
    live.controller.close()


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((80, 80), (0, 80, 0, 80)),
        ((64, 100), (0, 64, 0, 100)),
        ((64, 101), (0, 64, 0, 100)),
        ((40, 1000), (0, 40, 420, 580)),  # long and narrow: as much of its length
        ((1000, 40), (420, 580, 0, 40)),
        ((200, 300), (60, 140, 110, 190)),
    ],
)
def test_of_a_plane_as_much_is_looked_at_as_may_be(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], box: Any
) -> None:
    monkeypatch.setattr(live_module, "MOST_PIXELS", 80 * 80)
    source = CellSource("c", "cells", np.zeros(shape, np.int32), corner=(0, 0))
    assert live_module._box(source, Corrections(source.labels), set()) == box


def test_held_back_is_what_lies_in_the_box_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "MOST_PIXELS", 4 * 100)
    labels = np.zeros((60, 60), np.int32)
    labels[10:20, 10:20] = 1  # ends with the box, and is as large as may be
    labels[9:19, 25:30] = 2  # begins before it
    labels[30:41, 10:20] = 3  # too large
    labels[45:50, 10:15] = 4
    corrections = Corrections(labels)
    history = edits.History(corrections)
    history.do(edits.delete(corrections, [4]))
    (region,) = corrections.regions
    labels[45:47, 10:15] = 9  # drawn there later
    acts = [("cell", n) for n in (1, 2, 3, 7)] + [("place", region)]

    def held(box: Any) -> list[Any]:
        found = live_module._held_back(corrections, (), acts, box, (110, 210))
        return [(one.corner, int(one.mask.sum()), one.is_cell) for one in found]

    cell, place = ((110, 210), 100, True), ((145, 210), 15, False)
    assert held((10, 50, 10, 50)) == [cell, place]
    assert held((10, 49, 10, 50)) == [cell]
    assert held((10, 50, 10, 20)) == [cell, place]
    assert held((10, 50, 10, 19)) == [place]
