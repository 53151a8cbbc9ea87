"""Correcting without a page: sessions, journals, commits, restoring."""

from __future__ import annotations

import gc
import weakref
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_sa2net.app import planes as planes_module
from napari_sa2net.app.cells import BoxRequest, CellSource, Foreground
from napari_sa2net.app.edit_session import (
    EditSession,
    Tally,
    find_offers,
    labels_before,
    restored_session,
    resumed_session,
)
from napari_sa2net.app.session import ImageSource
from napari_sa2net.config import InstanceConfig, NetworkConfig, PredictConfig
from napari_sa2net.data.corrections import TrainingSet, with_former
from napari_sa2net.data.journal import Journal, JournalImage, list_journals
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.edits import Patch, delete, laid_over
from napari_sa2net.engine import messages as p
from napari_sa2net.errors import JournalError
from napari_sa2net.models.card import ModelCard
from napari_sa2net.provenance import image_fingerprint

CENTRES = ((20, 20), (20, 60), (60, 20), (60, 77))


def disks(centres: Any = CENTRES, shape: tuple[int, int] = (96, 120)) -> Any:
    y, x = np.indices(shape)
    labels = np.zeros(shape, np.int32)
    for label, (cy, cx) in enumerate(centres, 1):
        labels[np.hypot(y - cy, x - cx) <= 8] = label
    return labels


def test_every_intent_is_a_step_with_words(desks: Any) -> None:
    labels = disks()
    labels[60, 20] = 0  # a hole
    began = labels.copy()
    desk = desks(labels)
    controller, state = desk.controller, desk.state
    changes: list[Any] = []
    controller.changed.connect(lambda key, change: changes.append((key, change)))
    deeds = [
        (lambda: controller.split([(20, 8), (20, 32)]), "Undo split of cell 1"),
        (lambda: controller.merge([(14, 20), (26, 20)]), "Undo merge of cells 1 and 5"),
        (lambda: controller.fill(point=(60, 15)), "Undo filling of cell 3"),
        (lambda: controller.delete(point=(20, 60)), "Undo deletion of cell 2"),
        (
            lambda: controller.redraw([(50, 65), (50, 90), (70, 90), (70, 65)]),
            "Undo redrawing of cell 4",
        ),
        (lambda: controller.smooth(point=(60, 77)), "Undo smoothing of cell 4"),
        (lambda: controller.redraw([(2, 90), (2, 110), (20, 110)]), "Undo drawing of cell 6"),
        (
            lambda: controller.mark("ignore", [(80, 0), (80, 50), (95, 50), (95, 0)]),
            "Undo marking of a region to ignore",
        ),
        (lambda: controller.unmark((88, 20)), "Undo removal of a region to ignore"),
        (lambda: controller.accept(3), None),
    ]
    n = 0
    for deed, words in deeds:
        if words is None:  # cell 3 was corrected: nothing to say of it
            assert not deed()
            assert not state.said.ok
            continue
        assert deed(), state.said
        n += 1
        assert state.undo == words
        assert state.unsaved == n
        key, change = changes[-1]
        assert key == "cells"
        for index, box in change.labels.items():
            assert index == ()
            assert box[1] > box[0]
            assert box[3] > box[2]
    assert len(changes) == n
    after = labels.copy()
    while controller.undo():
        pass
    assert "no correction to undo" in state.said.words
    np.testing.assert_array_equal(labels, began)
    assert state.unsaved == 0
    while controller.redo():
        pass
    np.testing.assert_array_equal(labels, after)


def test_what_cannot_be_done_is_said_and_changes_nothing(desks: Any) -> None:
    labels = disks()
    began = labels.copy()
    desk = desks(labels, corner=None)
    controller, state = desk.controller, desk.state
    for deed, words in (
        (lambda: controller.split([(40, 40), (42, 44)]), "touches no cell"),
        (lambda: controller.merge([(40, 40), (42, 44)]), "two cells"),
        (lambda: controller.delete(point=(90, 5)), "no cell to delete"),
        (lambda: controller.smooth(lasso=[(80, 0), (80, 9), (90, 9)]), "no cell there"),
        (lambda: controller.fit(point=(20, 20)), "Segment the image again"),
        (lambda: controller.unmark((5, 5)), "no marked region"),
        (lambda: controller.accept_view(), "view shows no cell"),
        (lambda: controller.segment_box([(0, 0), (50, 50)], InstanceConfig()), "pixels of an"),
    ):
        assert not deed()
        assert not state.said.ok
        assert words in state.said.words
    np.testing.assert_array_equal(labels, began)
    assert state.unsaved == 0
    assert list_journals(in_use=True) == []
    # cells that do not lie on the image's pixels can be corrected, but not kept
    assert controller.delete(point=(20, 20))
    controller.keeping.refresh()
    assert "cannot be kept together" in state.keep.problem
    assert controller.keeping.keep() is None
    assert "cannot be kept together" in state.said.words


def test_labels_changed_behind_our_back(desks: Any) -> None:
    labels = disks()
    desk = desks(labels)
    assert desk.controller.delete(point=(20, 20))
    labels[15:25, 15:25] = 7
    assert not desk.controller.undo()
    assert not desk.state.said.ok
    assert "restored" in desk.state.said.words
    desk.settle()
    assert [offer.n_edits for offer in desk.state.offers] == [1]
    # and a new session goes on from what is there
    assert desk.controller.delete(point=(20, 20))
    assert 7 not in labels


def test_first_stroke_is_in_the_journal_from_before_it(desks: Any) -> None:
    labels = disks()
    began = labels.copy()
    desk = desks(labels)
    where = np.mgrid[40:44, 40:44].reshape(2, -1)
    old = labels[tuple(where)].copy()
    labels[tuple(where)] = 9
    assert desk.controller.stroke("cells", [(tuple(where), old, 9)])
    assert desk.state.undo == "Undo painting of cell 9"
    session = desk.controller.session
    assert session is not None
    assert session.journal is not None
    assert session.journal.wait()
    assert session.is_safe
    np.testing.assert_array_equal(labels_before(session.journal.read()), began)
    assert not desk.controller.stroke("of another layer", [(tuple(where), old, 9)])


def test_kept_then_restored_in_another_window(desks: Any, home: Path) -> None:
    labels = disks()
    desk = desks(labels, model="mine", model_sha256="ab", path="/data/3.tif")
    controller = desk.controller
    controller.delete(point=(20, 20))
    controller.keeping.set_group("dish 1")
    (record,) = desk.keep()
    assert desk.state.unsaved == 0
    assert "Kept 0 cells" in desk.state.kept or record.n_reviewed == 0
    assert record.parent.name == "mine"
    assert record.group == "dish 1"
    assert record.source.fingerprint == image_fingerprint(desk.image.data)
    assert controller.keeping.keep() is None
    assert "nothing new" in desk.state.said.words
    # after it: two more, one taken back, never kept
    controller.accept(2)
    controller.delete(point=(60, 20))
    controller.undo()
    assert desk.state.unsaved == 1
    session = controller.session
    assert session is not None
    assert session.journal is not None
    assert session.journal.wait()
    controller.close()

    other = desks(disks(), image=desk.image.data)
    other.settle()
    (offer,) = other.state.offers
    assert offer.n_edits == 3
    assert offer.words.startswith("3 steps of work on “my cells” over nuclei Ü 3, today ")
    shown: list[Any] = []
    other.controller.restored.connect(shown.append)
    other.controller.keeping.restore(offer)
    other.settle()
    (cells,) = shown
    np.testing.assert_array_equal(cells.labels, labels)
    assert cells.model == {"name": "mine", "sha256": "ab"}
    other.controller.set_cells(
        CellSource(
            "new", cells.name, cells.labels, image=other.image, corner=cells.corner,
            journal=cells.journal,
        )
    )  # fmt: skip
    assert other.controller.open() is not None
    other.controller.show()
    assert other.state.unsaved == 1
    assert other.state.undo == "Undo acceptance of cell 2"
    assert other.state.redo == "Redo deletion of cell 3"
    assert other.state.offers == ()
    (again,) = other.keep()
    active = TrainingSet.open(other.state.folder).commits()
    assert [one.id for one in active] == [again.id]


def test_corrections_are_restored_where_the_image_has_no_cells(desks: Any) -> None:
    first = desks(disks())
    first.controller.accept(1)
    session = first.controller.session
    assert session is not None
    assert session.journal is not None
    assert session.journal.wait()
    first.controller.close()
    other = desks(disks(), image=first.image.data)
    other.settle()
    other.controller.set_cells(None)
    shown: list[Any] = []
    other.controller.restored.connect(shown.append)
    (offer,) = other.state.offers
    other.controller.keeping.restore(offer)
    other.settle()
    (cells,) = shown
    np.testing.assert_array_equal(cells.labels, disks())
    assert other.state.offers == ()


def test_keeping_adds_to_what_was_kept_before(desks: Any) -> None:
    """A second session on fresh labels does not drop what the first had reviewed."""
    first = desks(disks())
    first.controller.accept(1)
    first.keep()
    image = first.image.data
    first.controller.close()

    fresh = disks(CENTRES[1:])  # found anew, other numbers, one cell missing
    second = desks(fresh, image=image)
    second.controller.accept(2)
    (two,) = second.keep()
    training_set = TrainingSet.open(second.state.folder)
    assert [record.id for record in training_set.commits()] == [two.id]
    kept = training_set.load(two.id)
    assert kept.reviewed[20, 20]
    assert kept.reviewed[60, 20]
    assert not kept.reviewed[60, 77]
    assert kept.labels[20, 20] > 0
    assert kept.labels[20, 20] != kept.labels[60, 20]
    # within one session, what is taken back is not brought back
    second.controller.undo()
    second.controller.accept(3)
    (three,) = second.keep()
    kept = training_set.load(three.id)
    assert not kept.reviewed[60, 20]
    assert kept.reviewed[60, 77]


def test_former_cells_are_kept_whole_or_not_at_all() -> None:
    now, before = disks(((20, 20), (20, 60))), disks(((20, 26), (60, 20)))
    reviewed, former_reviewed = now == 1, before > 0
    former: Any = type("Former", (), {"labels": before, "reviewed": former_reviewed})
    labels, mask = with_former(now, reviewed, former)
    assert mask[20, 20]
    assert mask[60, 20]
    # cell 1 of before was reviewed anew in part: its rest is not trusted
    assert not mask[(before == 1) & (now == 0)].any()
    assert labels[60, 20] not in (0, labels[20, 20], labels[20, 60])
    np.testing.assert_array_equal(labels[reviewed] > 0, True)


def test_planes_windows_and_channels_are_kept_where_they_lie(desks: Any) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (3, 110, 140, 3), np.uint8)
    labels = np.stack([disks(), disks()])[:, None]
    desk = desks(labels, image=image, corner=(1, 10, 15), extra=(1,), plane=(0, 0))
    desk.controller.accept(1)
    desk.controller.set_cells(
        CellSource("cells", "my cells", labels, (1, 0), desk.image, (1, 10, 15), (1,))
    )
    desk.controller.delete(point=(60, 77))
    one, two = desk.keep()
    assert (one.index, two.index) == ((1,), (2,))
    assert one.box == (10, 106, 15, 135)
    assert one.axes == "YXC"
    training_set = TrainingSet.open(desk.state.folder)
    kept = training_set.load(two.id)
    np.testing.assert_array_equal(kept.image, image[2, 10:106, 15:135])
    np.testing.assert_array_equal(kept.labels, labels[1, 0])
    assert kept.reviewed[60, 77]
    assert one.levels is not None
    assert len(one.levels) == 3


def test_a_folder_that_cannot_be_written_loses_nothing(desks: Any, tmp_path: Path) -> None:
    desk = desks(disks())
    desk.controller.accept(1)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    desk.controller.keeping.set_folder(blocked / "set")
    future = desk.controller.keeping.keep()
    assert future is not None
    with pytest.raises(Exception, match="cannot"):
        future.result(30)
    desk.settle()
    assert desk.link.session.error is not None
    assert not desk.state.keeping
    assert desk.state.unsaved == 1
    desk.link.session.error = None
    desk.controller.keeping.set_folder(tmp_path / "good")
    (record,) = desk.keep()
    assert record.n_reviewed == 1


def test_when_a_layer_goes_its_journal_is_offered_on_the_image_that_is_looked_at(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desks(disks())
    looked: list[Any] = []
    monkeypatch.setattr(desk.controller.keeping, "look_for_offers", looked.append)
    desk.controller.accept(1)
    desk.controller.set_cells(None)
    looked.clear()
    other = ImageSource("other", "other", np.zeros((96, 120), np.float32))
    desk.link.session.image = other
    desk.controller.forget_cells("never there")
    assert looked == []
    desk.controller.forget_cells("cells")  # not those that are corrected
    assert looked == [other]
    assert desk.controller.session_of("cells") is None
    looked.clear()
    desk.controller.set_cells(desk.source)
    desk.controller.accept(1)
    looked.clear()
    desk.controller.forget_cells("cells")
    assert looked == [desk.image]
    assert desk.state.cells is None


def test_a_layer_that_is_gone_lets_go_of_its_labels(desks: Any) -> None:
    desk = desks(disks())
    desk.controller.accept(1)
    desk.settle()
    held = weakref.ref(desk.source.labels)
    desk.controller.set_cells(None)
    desk.controller.forget_cells("cells")
    desk.source = None
    gc.collect()
    assert held() is None


def test_no_journal_no_stop(desks: Any, home: Path) -> None:
    """Where no journal can be written, correcting goes on and the page says so."""
    home.mkdir()
    (home / "journals").write_text("in the way")
    labels = disks()
    desk = desks(labels)
    assert desk.controller.delete(point=(20, 20))
    assert "cannot be" in desk.state.journal_problem
    assert not desk.state.safe
    (home / "journals").unlink()
    desk.controller.accept(2)
    assert desk.state.journal_problem == ""
    session = desk.controller.session
    assert session is not None
    assert session.journal is not None
    assert session.journal.wait()
    # what was done before there was a journal is in it, too
    desk.controller.close()
    (info,) = list_journals()
    journal = Journal.reopen(info.id)
    restored = journal.read()
    journal.close()
    np.testing.assert_array_equal(restored.arrays["labels"], labels)
    assert [step.header["move"] for step in restored.steps] == ["state"]


@pytest.mark.parametrize("open_before", [True, False])
def test_an_added_part_is_the_first_step_unless_a_script_wrote_over_it(
    open_before: bool, desks: Any
) -> None:
    first = disks(CENTRES[:2])
    whole, added = laid_over(first, (40, 0), disks()[40:])
    now = whole.copy()
    desk = desks(whole, added=added)
    assert desk.state.undo == "Undo segmenting of an area"
    if open_before:
        desk.controller.open()
    assert desk.controller.delete(point=CENTRES[0])
    assert desk.controller.undo()
    np.testing.assert_array_equal(whole, now)
    session = desk.controller.session
    assert sorted(session.corrections.plane().labels) == [1, 2, 3, 4]
    assert desk.controller.undo()
    np.testing.assert_array_equal(whole, first)
    assert sorted(session.corrections.plane().labels) == [1, 2]
    assert session.journal.wait()
    np.testing.assert_array_equal(labels_before(session.journal.read()), first)

    whole = now.copy()
    whole[60, 20] = 9
    desk = desks(whole, added=added)
    assert desk.controller.delete(point=CENTRES[0])
    assert desk.controller.undo()
    assert not desk.controller.undo()
    assert "no correction to undo" in desk.state.said.words


@pytest.mark.parametrize("moves", ["z", "xz", "xzz", "xzzyy", "zzyy", "xzzxzz", "zxzzx"])
def test_steps_from_before_there_was_a_journal_are_taken_back_and_done_again(
    moves: str, desks: Any, home: Path
) -> None:
    """x deletes another cell, z takes back, y does again."""
    home.mkdir()
    (home / "journals").write_text("in the way")
    labels = disks()
    desk = desks(labels)
    assert desk.controller.delete(point=CENTRES[0])
    assert desk.controller.accept(4)
    assert desk.state.journal_problem
    (home / "journals").unlink()
    centres = iter(CENTRES[1:3])
    for move in moves:
        if move == "x":
            assert desk.controller.delete(point=next(centres))
        else:
            assert {"y": desk.controller.redo, "z": desk.controller.undo}[move]()
    session = desk.controller.session
    assert session is not None
    assert session.journal is not None
    session.journal.close()
    again, cells = restored_session(session.journal.id, desk.image)
    np.testing.assert_array_equal(cells.labels, labels)
    assert again.corrections.marked() == session.corrections.marked()
    # nobody has kept them: closed again, they are offered again
    assert again.tally.unsaved
    assert again.close() is None
    once_more, cells = restored_session(session.journal.id, desk.image)
    np.testing.assert_array_equal(cells.labels, labels)
    once_more.tally.keep(once_more.tally.depth)
    assert once_more.close() is None
    with pytest.raises(JournalError):
        restored_session(session.journal.id, desk.image)


def test_which_journals_are_written_here(desks: Any) -> None:
    """Those that have begun, and that of the chosen cells: it is not offered to restore."""
    desk = desks(disks(), journal="ab" * 16)
    assert desk.controller.journals() == {"ab" * 16}
    desk.controller.set_cells(replace(desk.source, journal=""))
    assert desk.controller.journals() == set()
    desk.controller.set_cells(None)
    assert desk.controller.journals() == set()


def test_levels_of_the_foreground_and_the_edge(desks: Any) -> None:
    labels = disks()
    desk = desks(labels, result_key="run 1")
    y, x = np.indices(labels.shape)
    truth = np.clip(1.4 - np.hypot(y - 20, x - 20) / 16, 0, 1)
    assert desk.controller.open() is not None
    assert desk.state.review.by == "" or "blurred" not in desk.state.review.by
    asked = []
    while desk.client.requests:
        (request,) = desk.client.requests
        desk.client.requests.clear()
        assert request.name == "derive"
        threshold = request.arguments["instances"].foreground
        asked.append(threshold)
        if len(asked) == 2:  # a slider of the Segment page came between: asked again
            desk.client.on_event(p.WasCancelled(request.job))
            (request,) = desk.client.requests
            desk.client.requests.clear()
            assert request.arguments["instances"].foreground == threshold
        found = (truth >= threshold).astype(np.int32)
        summary, seams = p.Summary(1, 1.0, 0), ((60,), ())
        result = p.SegmentResult("run 1", found, (0, 0), summary, seams=seams)
        desk.client.on_event(request.done(result))
    assert asked == [0.1, 0.3, 0.5, 0.7, 0.9]
    session = desk.controller.session
    assert session is not None
    known = session.foreground
    assert known is not None
    assert np.abs(known[()] - truth).max() <= 0.1 + 1e-6
    np.testing.assert_array_equal(known[()] >= 0.5, truth >= 0.5)
    assert "blurred" in desk.state.review.by
    assert "seam" in desk.state.review.by
    queue = session.queue(desk.source).score_all()
    seam = "on a seam, where the network saw it in two pieces"
    assert [seam in queue.doubt((), label).reasons for label in (1, 2, 3, 4)] == [
        *(False, False),
        *(True, True),
    ]
    assert desk.controller.fit(point=(20, 20))
    np.testing.assert_array_equal(labels == 1, (truth >= 0.5) & (labels == 1))
    assert (labels == 1).sum() > 400


def test_levels_are_not_asked_for_where_there_is_no_result(desks: Any) -> None:
    desk = desks(disks())
    desk.controller.open()
    assert desk.client.requests == []
    lost = desks(disks(), result_key="run 2")
    lost.controller.open()
    (request,) = lost.client.requests
    lost.client.on_event(p.Failed(request.job, "NotKeptError", "gone"))
    assert lost.link.session.error is None
    assert lost.controller.session.foreground is None
    lost.controller.open()  # a new engine may have them
    again = lost.client.requests[-1]
    assert (again.name, again.job) != (request.name, request.job)
    # of labels of another size nothing is taken, and it is asked for anew
    small = p.SegmentResult("run 2", disks()[:50], (0, 0), p.Summary(1, 1.0, 0))
    lost.client.on_event(again.done(small))
    assert lost.controller.session.foreground is None
    n = len(lost.client.requests)
    lost.controller.open()
    lost.controller.open()
    assert len(lost.client.requests) == n + 1


def test_box_is_segmented_with_its_settings_and_put_in_place(desks: Any) -> None:
    labels = disks()
    desk = desks(labels, image=np.zeros((3, 110, 140), np.float32), corner=(2, 10, 15))
    labels3 = labels[None]
    desk.controller.set_cells(
        CellSource("cells", "my cells", labels3, (0,), desk.image, (2, 10, 15))
    )
    desk.controller.accept(1)
    config = InstanceConfig(foreground=0.3, split=0.9, min_confidence=0.8)
    desk.controller.segment_box([(4.2, 5), (4.2, 80), (40, 80), (40, 5)], config, 12.0)
    (request,) = desk.client.requests
    assert (request.name, request.key) == ("segment", "")
    assert request.arguments["window"] == p.Window(index=(2,), box=(14, 51, 20, 96))
    # doubtful cells too: who drags a box says that there is something
    everything = InstanceConfig(foreground=0.3, split=0.9)
    assert request.arguments["instances"] == everything
    assert request.arguments["predict"].diameter == 12
    assert desk.link.session.running
    assert desk.link.calls[request.job] is request
    assert isinstance(request.about, BoxRequest)
    found = np.zeros((37, 76), np.int32)
    found[10:20, 40:60] = 3
    result = p.SegmentResult("", found[None], (2, 14, 20), p.Summary(1, 1.0, 0))
    desk.client.on_event(request.done(result))
    assert not desk.link.session.running
    assert labels3[0, 20, 60] == labels3[0, 15, 50] > 0
    assert labels3[0, 20, 20] == 1  # accepted: it stays
    assert desk.state.undo.startswith("Undo segmenting a box again")
    desk.controller.undo()
    np.testing.assert_array_equal(labels3[0], disks())
    desk.controller.segment_box([(4.2, 5), (4.2, 80), (40, 80), (40, 5)], config, 12.0)
    desk.link.outdate(desk.image.key)  # in mid-run the image got other pixels
    desk.client.on_event(desk.client.requests[-1].done(result))
    np.testing.assert_array_equal(labels3[0], disks())


@pytest.mark.parametrize(
    ("made", "chosen", "asked"),
    [
        ({}, "auto", "auto"),
        ({"settings": {"predict": {"dab": "auto"}}}, "auto", "keep"),
        ({"settings": {"predict": {"dab": "remove"}}}, "auto", "remove"),
        ({"settings": {"predict": {"dab": "remove"}}}, "keep", "keep"),
    ],
)
def test_a_box_is_seen_with_the_stain_of_the_cells_around_it(
    desks: Any, made: dict[str, Any], chosen: Any, asked: str
) -> None:
    labels = disks()
    desk = desks(labels)
    image = ImageSource("img", "ihc", np.zeros((*labels.shape, 3), np.uint8), "YXC")
    desk.controller.set_cells(
        CellSource("cells", "my cells", labels, (), image, (0, 0), made=made)
    )
    session = desk.link.session
    session.predict = session.predict.model_copy(update={"dab": chosen})
    desk.controller.segment_box([(4, 5), (4, 80), (40, 80), (40, 5)], InstanceConfig(), 12.0)
    predict = desk.client.requests[-1].arguments["predict"]
    assert predict.dab == asked
    assert predict.adapt == ("off" if made else "auto")


@pytest.mark.parametrize(
    ("was", "chosen", "asked"),
    [("on", "auto", "on"), ("off", "auto", "off"), ("on", "off", "off"), ("off", "on", "on")],
)
def test_a_box_is_seen_by_the_model_as_adapted_as_around_it(
    desks: Any, was: str, chosen: Any, asked: str
) -> None:
    labels = disks()
    desk = desks(labels)
    image = ImageSource("img", "img", np.zeros(labels.shape, np.uint8), "YX")
    made = {"settings": {"predict": {"adapt": was}}}
    desk.controller.set_cells(
        CellSource("cells", "my cells", labels, (), image, (0, 0), made=made)
    )
    session = desk.link.session
    session.predict = session.predict.model_copy(update={"adapt": chosen})
    desk.controller.segment_box([(4, 5), (4, 80), (40, 80), (40, 5)], InstanceConfig(), 12.0)
    assert desk.client.requests[-1].arguments["predict"].adapt == asked


def test_review_order_and_view(desks: Any) -> None:
    labels = disks()
    labels[40:43, 100:112] = 5
    desk = desks(labels)
    seen: list[int] = []
    desk.controller.look_at.connect(seen.append)
    review = desk.controller.review
    assert review.score_some()  # nothing has begun
    review.next()
    assert desk.state.review.reasons
    for _ in range(4):
        review.next()
    assert sorted(seen) == [1, 2, 3, 4, 5]
    assert seen[0] == 5
    assert desk.state.review.total == 5
    review.choose(3)
    review.accept_and_next()
    assert desk.state.review.done == 1
    assert desk.state.review.label != 3
    review.choose(3)
    assert desk.state.review.status == "accepted"
    desk.controller.delete(point=(60, 20))
    assert desk.state.review.label == 0
    assert desk.state.review.total == 4
    review.next()
    other = desk.state.review.label
    assert desk.controller.undo()  # not of the walk: the view stays
    assert desk.state.review.label == other
    seen.clear()
    assert desk.controller.undo()
    assert seen == [3]
    assert desk.state.review.label == 3
    assert desk.state.review.status == ""


class Stack:
    """A desk whose view follows the walk, as the window's does."""

    def __init__(self, desks: Any, labels: Any, image: Any = None, axes: str = "ZYX") -> None:
        pixels = labels.astype(np.float32) if image is None else image
        source = ImageSource("image", "stack 3", pixels, axes)
        self.desk = desks(labels, plane=(0,), image=pixels)
        self.controller, self.state = self.desk.controller, self.desk.state
        self.source = replace(self.desk.source, image=source)
        self.seen: list[Any] = []
        self.controller.look_at.connect(self.go, max_args=2)
        self.show(0)

    def show(self, plane: int) -> None:
        self.controller.set_cells(replace(self.source, plane=(plane,)))

    def go(self, label: int, index: Any) -> None:
        self.seen.append((label, index[0]))
        self.show(index[0])


def test_the_walk_goes_through_all_planes(desks: Any) -> None:
    planes = np.zeros((3, 96, 120), np.int32)
    planes[0] = disks(CENTRES[:1])
    planes[1] = disks(CENTRES[:1])
    planes[1][40:43, 100:112] = 9
    planes[2][disks(CENTRES[2:3]) > 0] = 7
    stack = Stack(desks, planes)
    review, state = stack.controller.review, stack.state
    through: list[int] = []
    stack.controller.through = lambda: through.append(1)
    review.next()
    assert stack.seen == [(9, 1)]
    assert state.cells.plane == (1,)
    assert (state.review.label, state.review.where) == (9, "plane 1")
    assert (state.review.done, state.review.total) == (0, 3)
    assert state.review.scored
    for _ in range(2):
        review.accept_and_next()
    assert {label for label, _ in stack.seen} == {9, 1, 7}
    # who looks at a cell on the plane beside it looks at the same cell
    review.choose(state.review.label)
    review.accept_and_next()
    assert (state.review.done, state.review.total) == (3, 3)
    assert "all 3 planes" in state.said.words
    assert through == [1]
    session = stack.controller.session
    assert session is not None
    # of a cell on several planes, the one that was seen is what counts
    assert sum(len(session.corrections.marked((i,))) for i in range(3)) == 3
    stack.show(0)
    review.choose(1)
    stack.show(1)
    assert state.review.label == 1
    stack.show(2)
    assert state.review.label == 0


def test_what_is_known_of_the_order_is_told_while_it_is_worked_out(desks: Any) -> None:
    planes = np.stack([disks(CENTRES[:2])] * 4)
    stack = Stack(desks, planes)
    review, state = stack.controller.review, stack.state
    stack.controller.open()
    told: list[Any] = []
    state.events.review.connect(lambda new: told.append((new.planes, new.scored)))
    calls = 0
    while not review.score_some(0.0):
        calls += 1
    assert sorted(told) == told  # each time more
    assert {known for known, _ in told} >= {(2, 4), (3, 4), (4, 4)}
    assert told[-1] == ((4, 4), True)
    assert len(told) < calls  # nothing is told where nothing is new
    n = len(told)
    assert review.score_some(0.0)
    assert len(told) == n


def test_the_walk_looks_through_more_planes_where_those_known_are_done(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a moment; then it says that it goes on."""
    planes = np.zeros((20, 96, 120), np.int32)
    planes[0], planes[3] = disks(CENTRES[:1]), disks(CENTRES[2:3]) * 5
    stack = Stack(desks, planes)
    review, state = stack.controller.review, stack.state
    session = stack.controller.open()
    assert session is not None
    queue = session.queue(state.cells)
    look = type(queue).score_some
    monkeypatch.setattr(type(queue), "score_some", lambda self, _=0: look(self, 0.0))
    stack.controller.accept(1)
    review.next()
    assert (state.review.label, state.cells.plane) == (5, (3,))
    review.accept_and_next()
    assert state.said.words == planes_module.NOT_YET
    while not review.score_some():
        pass
    review.next()
    assert "all 20 planes" in state.said.words


def test_a_correction_is_carried_kept_and_noted(desks: Any) -> None:
    labels = np.stack([disks(CENTRES[:2])] * 6)
    labels[5] = disks(CENTRES[1:2])
    began = labels.copy()
    stack = Stack(desks, labels)
    controller, state = stack.controller, stack.state
    noted: list[Any] = []
    controller.carried_changed.connect(lambda key, carried: noted.append(carried))
    assert not controller.carry.carry()
    assert "Correct a cell first" in state.said.words
    stack.show(2)
    assert controller.accept(2)
    assert state.carried.is_stack
    assert not state.carried.can
    assert not controller.carry.carry()
    assert controller.split([(20, 8), (20, 32)])
    assert state.carried.can
    assert controller.carry.carry()
    assert state.undo == "Undo split of cell 1, also on planes 0–1 and 3–4"
    assert state.carried.words == "planes 0–1 and 3–4"
    assert not state.carried.can
    assert all(np.unique(plane).size == 4 for plane in labels[:5])
    assert noted[-1][0]["from"] == [2]
    assert not controller.carry.carry()
    assert "already" in state.said.words
    # go and see
    for plane in (3, 4, 0, 1):
        controller.carry.look()
        assert stack.seen[-1][1] == plane
    # all of these planes are kept, and their records say where it came from
    controller.keeping.refresh()
    assert state.keep.n_planes == 5
    records = {record.index[0]: record for record in stack.desk.keep()}
    assert sorted(records) == [0, 1, 2, 3, 4]
    assert all("carried from plane 2" in records[i].notes for i in (0, 1, 3, 4))
    assert records[2].notes == ""
    assert "split of cell 1" in records[0].notes
    # what is on disk does it all again
    session = controller.session
    assert session is not None
    after, identity = labels.copy(), session.journal.id
    assert controller.undo()
    assert noted[-1] == ()
    np.testing.assert_array_equal(labels, began)
    assert state.carried.words == ""
    assert controller.redo()
    controller.close()
    again, _ = restored_session(identity, stack.desk.image)
    np.testing.assert_array_equal(again.labels, after)
    assert len(again.carried) == 1
    again.close()


def test_a_journal_of_labels_of_another_type_is_not_gone_on_with(desks: Any) -> None:
    """In its numbers the labels of before would be others; they are offered instead."""
    before = desks(300 * disks())
    assert before.controller.accept(600)
    identity = before.controller.session.journal.id
    before.controller.close()
    narrow = disks().astype(np.uint8)
    shown = narrow.copy()
    again = desks(narrow, image=before.image.data, journal=identity)
    assert again.controller.accept(1)
    session = again.controller.session
    assert session.journal.id != identity
    assert list(session.corrections.marked(())) == [1]
    np.testing.assert_array_equal(narrow, shown)


def test_what_was_said_on_the_walk_and_carried_goes_back_to_its_cell(desks: Any) -> None:
    stack = Stack(desks, np.stack([disks(CENTRES[:2])] * 3))
    controller, state = stack.controller, stack.state
    stack.show(1)
    controller.review.choose(2)
    controller.review.remove_and_next()
    assert (state.cells.plane, state.review.label) != ((1,), 2)
    assert controller.carry.carry()
    assert 2 not in stack.desk.source.labels
    for _ in range(2):
        stack.show(0)
        assert controller.undo()
        assert stack.seen[-1] == (2, 1)
        assert (state.cells.plane, state.review.label) == ((1,), 2)
        assert controller.redo()


def test_every_correction_is_carried_while_that_is_wanted(desks: Any) -> None:
    y, x = np.indices((96, 120))
    truth = np.stack([np.hypot(y - 48, x - 60) <= r for r in (9, 10, 11, 11, 10)])
    image = np.where(truth, 1.0, 0.1).astype(np.float32)
    labels = np.zeros(truth.shape, np.int32)
    stack = Stack(desks, labels, image)
    controller, state = stack.controller, stack.state
    controller.carry.set_on(True)
    stack.show(2)
    corners = [(48 + 11 * np.sin(a), 60 + 11 * np.cos(a)) for a in np.linspace(0, 6.28, 30)]
    assert controller.redraw(corners)
    assert state.carried.words == "planes 0–1 and 3–4"
    assert np.unique(labels).tolist() == [0, 1]  # one number in depth
    for plane, own in zip(labels, truth, strict=True):
        assert np.count_nonzero((plane > 0) & own) > 0.8 * np.count_nonzero((plane > 0) | own)
    assert state.unsaved == 1
    assert controller.undo()
    assert not labels.any()
    # what goes on nowhere is done here, and that is said
    assert controller.redraw([(2, 2), (2, 12), (12, 12), (12, 2)])
    assert labels[2].any()
    assert not labels[[0, 1, 3, 4]].any()
    assert "no plane" in state.said.words
    assert state.said.ok
    # over time every time point has cells of its own
    labels[...] = 0
    controller.forget_cells("cells")
    moving = Stack(desks, np.zeros(truth.shape, np.int32), image, axes="TYX")
    moving.controller.carry.set_on(True)
    moving.show(2)
    assert moving.controller.redraw(corners)
    assert moving.state.carried.words == "time points 0–1 and 3–4"
    assert len(np.unique(moving.desk.source.labels)) == 6


def test_what_was_taken_back_and_done_otherwise_is_not_noted(desks: Any) -> None:
    labels = np.stack([disks(CENTRES[:2])] * 3)
    stack = Stack(desks, labels)
    controller = stack.controller
    assert controller.delete(point=(20, 20))
    assert controller.carry.carry()
    assert controller.undo()
    assert controller.delete(point=(20, 60))
    session = controller.session
    assert session is not None
    assert session.carried == ()


def test_tally() -> None:
    tally = Tally()
    for move in ("do", "do", "undo", "do"):
        tally.move(move)  # type: ignore[arg-type]
    assert tally.unsaved == 2
    tally.keep(2)
    assert tally.unsaved == 0
    tally.move("undo")
    assert tally.unsaved == 1
    tally.move("do")
    assert tally.unsaved == 2
    tally.move("undo")
    tally.move("redo")
    assert tally.unsaved == 2


def test_offers_of_this_image_only(home: Path) -> None:
    labels = disks()
    for name, fingerprint in (("a", "1" * 32), ("b", "2" * 32), ("a", "")):
        about = JournalImage(name, fingerprint=fingerprint, shape=labels.shape)
        journal = Journal.create(about, {"labels": labels})
        journal.append(b"x", {"move": "do"})
        journal.close()
    assert len(find_offers("1" * 32, "a")) == 2
    assert len(find_offers("2" * 32, "b")) == 1
    assert find_offers("3" * 32, "c") == ()


def test_corrections_of_version_0_1_0_are_restored(home: Path) -> None:
    (home / "journals").mkdir(parents=True)
    packed = Path(__file__).parents[1] / "data" / "journals_0.1.0.zip"
    with zipfile.ZipFile(packed) as file:
        file.extractall(home / "journals")
    offers = {offer.id[-6:]: offer for offer in find_offers("ab" * 16, "")}
    assert [offers[one].n_edits for one in ("aaaaaa", "bbbbbb")] == [5, 4]
    for identity, name, unsaved in (("aaaaaa", "whole", 3), ("bbbbbb", "torn", 2)):
        image: Any = object()
        session, cells = restored_session(offers[identity].id, image)
        np.testing.assert_array_equal(cells.labels, np.load(home / "journals" / f"{name}.npy"))
        assert session.tally.unsaved == unsaved  # one was taken back
        assert cells.name == "cells"
        assert session.close() is None


def test_sessions_hold_few_planes() -> None:
    stack = np.stack([disks()] * 7)
    session = EditSession(stack, lambda arrays: pytest.fail("no step, no journal"))
    for i in range(7):
        session.show_plane((i,))
        session.mask.plane((i,))
    assert len(session.mask._planes) <= 4
    assert session.close() is None


def test_foreground_of_a_plane() -> None:
    reached = np.array([[[0, 1], [2, 3]]], np.uint8)
    known = Foreground((0.2, 0.5, 0.8), reached, 0.5)
    np.testing.assert_allclose(known.plane((0,))[:, 1], [0.35, 0.9])
    assert known.plane((0,)).shape == (2, 2)


def test_what_is_odd_about_labels_of_elsewhere_is_said(desks: Any) -> None:
    _, labels = synthetic_nuclei((96, 96), n=10, diameter=14, seed=1)

    def said(labels: Any, **source: Any) -> Any:
        desk = desks(labels, **source)
        assert (desk.controller.open() is None) == (labels.min() < 0)
        return desk.state.said

    assert said(labels.copy()).words == ""
    assert said(labels + 1).words.startswith("Label 1 covers")
    assert said((labels > 0).astype(np.uint8)).words.startswith("This looks like a mask")
    assert "under one number" in said((labels + 1) // 2).words
    assert said(np.stack([labels * 0, labels + 1]), plane=(0,)).words == ""
    # What a model made, or a person kept, is not doubted.
    assert said((labels + 1) // 2, model="tiny").words == ""
    for wrong, words in (
        (labels - 1, "negative; these go down to -1"),
        (np.where(labels, labels.astype("u8") + np.uint64(2**63), np.uint64(0)), "Number them"),
    ):
        desk = desks(wrong)
        assert desk.controller.open() is None
        assert words in desk.state.said.words
        assert not desk.state.said.ok


@pytest.mark.parametrize("dtype", ["uint32", "int64", "uint64"])
def test_large_numbers_are_corrected_and_kept(desks: Any, dtype: str, home: Path) -> None:
    _, labels = synthetic_nuclei((96, 96), n=10, diameter=14, seed=1)
    huge = np.where(labels, labels.astype(dtype) + np.dtype(dtype).type(4_000_000_000), 0)
    desk = desks(huge.astype(dtype))
    assert desk.controller.accept(4_000_000_003)
    assert desk.controller.do(lambda c, i: delete(c, [4_000_000_005], i))
    (record,) = desk.keep()
    kept = TrainingSet.open(desk.state.folder).load(record.id)
    assert record.n_objects == labels.max() - 1
    assert len(np.unique(kept.labels[labels == 3])) == 1
    assert not kept.labels[labels == 5].any()


def _apart() -> Any:
    """Nine cells that do not touch."""
    labels = np.zeros((96, 96), np.int32)
    for number in range(9):
        y, x = 8 + 30 * (number // 3), 8 + 30 * (number % 3)
        labels[y : y + 14, x : x + 12] = number + 1
    return labels


def _framed(labels: Any, value: int) -> Any:
    """With a mark of what does not count at the edge."""
    return np.pad(labels[2:-2, 2:-2], 2, constant_values=value)


def test_what_is_no_cells_is_not_accepted_or_kept_until_it_is_mended(desks: Any) -> None:
    labels = _apart()
    far = np.where(labels == labels.max(), labels[labels > 0].min(), labels)
    rows, cols = np.nonzero(labels == 3)
    for wrong, words, button in (
        (labels + 1, "Label 1 covers", "Make label 1 the background"),
        (_framed(labels, 255), "Label 255, far above", "Make label 255 the background"),
        ((labels > 0).astype(np.uint8) * 255, "This looks like a mask", "Number the pieces"),
        (np.where(labels % 2, 1, 2) * (labels > 0), "This looks like a mask", "Number the pi"),
        (far, "several far apart places", "Number the pieces"),
    ):
        before = wrong.copy()
        desk = desks(wrong)
        desk.controller.open()
        assert words in desk.state.odd.words
        said = desk.state.odd.words
        assert "Fiji" not in said  # the button does it
        assert "Python" not in said
        assert said.endswith(".")
        assert desk.state.odd.mend.startswith(button)
        label = int(wrong[rows[0], cols[0]])
        polygon = [(0, 0), (0, 90), (90, 90), (90, 0)]
        for say_right in (
            lambda desk=desk, label=label: desk.controller.accept(label),
            desk.controller.accept_view,
            lambda desk=desk, polygon=polygon: desk.controller.mark("reviewed", polygon),
        ):
            assert say_right() is False
            assert words in desk.state.said.words
            assert not desk.state.said.ok
        assert desk.controller.mend()
        assert desk.state.odd.words == ""
        assert len(np.unique(wrong)) == len(np.unique(labels))
        np.testing.assert_array_equal(wrong > 0, labels > 0)
        for one in np.unique(labels)[1:]:  # the same cells
            assert len(np.unique(wrong[labels == one])) == 1
        assert desk.controller.session.corrections.marked() == {}
        assert desk.controller.accept(int(wrong[rows[0], cols[0]]))
        desk.controller.undo()
        assert desk.controller.undo()  # one step
        np.testing.assert_array_equal(wrong, before)
        desk.controller.keeping.refresh()
        assert words in desk.state.odd.words


def test_cells_of_a_mask_with_black_and_white_swapped_are_numbered(desks: Any) -> None:
    labels = _apart()
    wrong = (labels == 0).astype(np.uint8) * 255
    before = wrong.copy()
    desk = desks(wrong)
    desk.controller.open()
    said = desk.state.odd.words
    assert said.startswith("This looks like a mask in which the cells are 0")
    assert "Python" not in said
    assert desk.state.odd.mend == "Make cells of what is 0"
    assert desk.controller.accept_view() is False
    assert desk.controller.mend()
    assert desk.state.odd.words == ""
    np.testing.assert_array_equal(wrong > 0, labels > 0)
    assert len(np.unique(wrong)) == len(np.unique(labels))
    assert desk.controller.undo()
    np.testing.assert_array_equal(wrong, before)


def test_a_mask_of_cells_that_touch_is_not_said_to_be_black_and_white_swapped(
    desks: Any,
) -> None:
    yy, xx = np.indices((96, 120))
    layer = np.zeros((96, 120), np.uint8)
    for row in range(-1, 6):
        for column in range(-1, 6):
            layer[np.hypot(yy - 21 * row, xx - 24 * column - 12 * (row % 2)) < 13] = 1
    desk = desks(layer)
    desk.controller.open()
    said = desk.state.odd.words
    assert said.startswith("This looks like a mask of cells that touch each other")
    assert said.endswith("where it was made, unless the gaps are the cells.")
    # a person may still say what it is, and take that back
    assert desk.state.odd.mend == "Make cells of what is 0"
    before = layer.copy()
    assert desk.controller.mend()
    np.testing.assert_array_equal(layer > 0, before == 0)
    assert desk.controller.undo()
    np.testing.assert_array_equal(layer, before)


def test_a_stack_with_black_and_white_swapped_is_numbered_where_few_cells_are(
    desks: Any,
) -> None:
    labels = _apart()
    one, cell = np.zeros_like(labels), np.zeros_like(labels)
    one[10:20, 10:20] = 1
    cell[5:-5, 5:-5] = 255  # no background: it does not go all around
    wrong = np.stack([(plane == 0) * np.uint8(255) for plane in (labels, one, one * 0)])
    ended = wrong[1].copy()
    ended[:, -1] = 0  # nor here, on three sides of four
    wrong = np.concatenate([wrong, cell[None].astype(np.uint8), ended[None]])
    desk = desks(wrong, plane=(0,))
    desk.controller.open()
    assert desk.controller.mend()
    np.testing.assert_array_equal(wrong[:3] > 0, np.stack([labels, one, one * 0]) > 0)
    np.testing.assert_array_equal(wrong[3], cell)
    np.testing.assert_array_equal(wrong[4], ended)
    assert wrong[1].max() not in wrong[0]


def test_what_may_be_background_is_said_without_python(desks: Any) -> None:
    labels = _apart()
    # far larger than the cells and at all sides, but not all of the rest
    labels[(labels == 0) & (np.indices(labels.shape).sum(0) % 3 > 0)] = 40
    desk = desks(labels)
    desk.controller.open()
    assert desk.state.odd.words == ""
    assert desk.state.said.words.startswith("Label 40 covers")
    assert desk.state.said.words.endswith("the number 0: if it is no cell, delete it.")


def test_keep_says_nothing_of_cells_that_were_chosen_before(desks: Any) -> None:
    desk = desks(_apart())
    assert desk.controller.accept(1)
    desk.controller.keeping.refresh()
    assert desk.state.keep.can
    other = replace(desk.source, key="others", labels=_apart() - 1)
    desk.controller.set_cells(other)
    assert not desk.state.keep.can
    assert desk.state.keep.problem.startswith("Nothing is reviewed yet")
    assert desk.controller.open() is None
    assert desk.state.said.words.startswith("Labels must not be negative; these go down to -1.")
    desk.controller.set_cells(desk.source)
    desk.controller.keeping.refresh()
    assert desk.state.keep.can


def test_keep_refuses_what_is_no_cells(desks: Any, tmp_path: Path) -> None:
    labels = _apart()
    desk = desks(labels + 1)
    desk.controller.keeping.set_folder(tmp_path / "set")
    assert desk.controller.redraw([(10, 10), (10, 20), (20, 20), (20, 10)])
    desk.controller.keeping.refresh()
    assert desk.state.keep.problem.startswith("Label 1 covers")
    assert desk.state.keep.problem.endswith('Press "Make label 1 the background", above.')
    assert "Python" not in desk.state.keep.problem
    assert not desk.state.keep.can
    assert desk.controller.keeping.keep() is None
    assert desk.state.said.words.startswith("Label 1 covers")
    assert not (tmp_path / "set").exists()
    assert desk.controller.mend()
    assert desk.state.keep.can


def test_keep_says_which_plane_is_no_cells_where_another_is_shown(desks: Any) -> None:
    labels = _apart()
    stack = np.stack([labels, labels + 1, labels])
    desk = desks(stack, plane=(1,))
    assert desk.controller.redraw([(10, 10), (10, 20), (20, 20), (20, 10)])
    desk.controller.set_cells(replace(desk.source, plane=(0,)))
    desk.controller.keeping.refresh()
    assert desk.state.odd.words == ""
    said = desk.state.keep.problem
    assert said.startswith("On plane 1 of 0–2: label 1 covers"), said
    assert said.endswith('Show that plane, and press "Make label 1 the background".')
    assert not desk.state.keep.can


def test_specks_of_cells_do_not_stand_in_the_way(desks: Any) -> None:
    labels = _apart()
    labels[labels == 4] = 0
    labels[0, 95] = labels[95, 0] = 3  # far, but no cells
    desk = desks(labels)
    assert desk.controller.accept(3)
    assert desk.state.odd.words == ""


def test_pieces_of_all_planes_are_numbered(desks: Any) -> None:
    labels = _apart()
    stack = np.stack([labels > 0, labels == 2, labels * 0]).astype(np.uint8)
    desk = desks(stack, plane=(0,))
    assert desk.controller.mend()
    n = len(np.unique(labels)) - 1
    assert sorted(np.unique(stack)) == list(range(n + 2))
    many = np.zeros((200, 200), np.uint8)
    many[::4, ::4] = 1
    desk = desks(many)
    assert not desk.controller.mend()
    assert "astype('int32')" in desk.state.said.words
    assert many.max() == 1


def answer(desk: Any, mask: Any) -> Any:
    """Answer the newest question with a mask; the call."""
    call = desk.client.requests[-1]
    desk.client.on_event(call.done(mask))
    return call


def test_a_click_asks_for_the_object_there_and_makes_it_a_cell(desks: Any) -> None:
    labels = disks()
    labels[labels == 4] = 0  # was missed
    desk = desks(labels, image=np.zeros((3, 110, 140), np.float32), corner=(2, 10, 15))
    planes = labels[None]
    source = CellSource("cells", "my cells", planes, (0,), desk.image, (2, 10, 15))
    desk.controller.set_cells(source)
    desk.controller.add((60.0, 77.0))
    asked = desk.client.requests[-1]
    assert (asked.name, asked.kind) == ("object_at", "object_at")
    y0, y1, x0, x1 = asked.about.box
    assert asked.arguments["diameter"] == pytest.approx(16, rel=0.1)  # of the cells there
    assert (60 - y0, 77 - x0) == asked.arguments["click"]
    assert asked.arguments["window"] == p.Window(
        index=(2,), box=(y0 + 10, y1 + 10, x0 + 15, x1 + 15)
    )
    np.testing.assert_array_equal(asked.arguments["labels"], planes[0, y0:y1, x0:x1])
    assert asked.arguments["against"] == ()
    assert not desk.link.session.running  # it is no run: Cancel has nothing to stop
    truth = disks()
    answer(desk, truth[y0:y1, x0:x1] == 4)
    np.testing.assert_array_equal(planes[0] > 0, truth > 0)
    assert desk.state.undo.startswith("Undo drawing of cell")
    desk.controller.undo()
    assert not planes[0, 60, 77]
    desk.controller.add((60.0, 77.0))
    desk.link.outdate(desk.image.key)
    answer(desk, truth[y0:y1, x0:x1] == 4)
    assert not planes[0, 60, 77]
    assert desk.state.said.words == "The image changed meanwhile: click again."


def test_a_second_click_in_a_cell_cuts_it_against_the_first(desks: Any) -> None:
    labels = disks(((30, 30), (30, 44), (70, 40), (70, 80)))
    both = np.isin(labels, (1, 2))
    labels[both] = 0
    desk = desks(labels)
    desk.controller.add((30.0, 28.0))
    y0, y1, x0, x1 = desk.client.requests[-1].about.box
    answer(desk, both[y0:y1, x0:x1])
    one = labels[30, 28]
    assert labels[30, 46] == one != 0
    desk.controller.add((30.0, 46.0))
    call = desk.client.requests[-1]
    y0, y1, x0, x1 = call.about.box
    assert call.arguments["against"] == ((30 - y0, 28 - x0),)
    answer(desk, (both & (np.indices(labels.shape)[1] > 37))[y0:y1, x0:x1])
    assert labels[30, 28] == one
    assert labels[30, 46] not in (0, one)
    assert desk.state.undo == f"Undo cutting of cell {one} by a click"


def test_a_box_bounds_what_is_made(desks: Any) -> None:
    labels = np.zeros((96, 120), np.int32)
    desk = desks(labels)
    desk.controller.add((40.0, 50.0), [(30, 35), (30, 64), (49, 64), (49, 35)])
    call = desk.client.requests[-1]
    assert call.arguments["diameter"] == pytest.approx(0.85 * np.sqrt(20 * 30))
    y0, y1, x0, x1 = call.about.box
    answer(desk, np.ones((y1 - y0, x1 - x0), bool))
    rows, columns = np.nonzero(labels)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 49, 35, 64)


def test_a_cell_without_an_end_in_sight_is_not_made(desks: Any) -> None:
    labels = disks()
    labels[labels == 4] = 0
    desk = desks(labels)
    before = labels.copy()
    desk.controller.add((60.0, 77.0))
    y0, y1, x0, x1 = desk.client.requests[-1].about.box
    answer(desk, np.ones((y1 - y0, x1 - x0), bool))
    assert "drag a box around it" in desk.state.said.words
    np.testing.assert_array_equal(labels, before)


def test_a_click_that_can_make_nothing_says_why(desks: Any) -> None:
    desk = desks(disks())
    before = len(desk.client.requests)
    desk.controller.add((200.0, 10.0))
    assert "outside the image" in desk.state.said.words
    desk.controller.set_cells(CellSource("cells", "my cells", disks(), (), None, None))
    desk.controller.add((20.0, 20.0))
    assert "pixels of an image" in desk.state.said.words
    assert len(desk.client.requests) == before
    desk.controller.set_cells(desk.source)
    desk.controller.add((20.0, 20.0))
    y0, y1, x0, x1 = desk.client.requests[-1].about.box
    answer(desk, disks()[y0:y1, x0:x1] == 1)
    assert "is one cell there" in desk.state.said.words


def test_a_click_that_was_taken_back_counts_no_more(desks: Any) -> None:
    """Its number is painted elsewhere by the brush."""
    labels = disks()
    desk = desks(labels)
    desk.controller.add((40.0, 40.0))
    y0, y1, x0, x1 = desk.client.requests[-1].about.box
    answer(desk, disks(((40, 40),))[y0:y1, x0:x1] == 1)
    number = labels[40, 40]
    desk.controller.undo()
    place = np.nonzero(disks(((80, 105),)))
    before = labels[place].copy()
    labels[place] = number
    assert desk.controller.stroke("cells", [(place, before, number)])
    desk.controller.add((80.0, 108.0))
    assert desk.client.requests[-1].arguments["against"] == ()


def test_a_long_box_is_looked_at_whole(desks: Any) -> None:
    desk = desks(np.zeros((96, 120), np.int32))
    desk.controller.add((40.0, 60.0), [(36, 5), (36, 114), (45, 114), (45, 5)])
    about = desk.client.requests[-1].about
    assert about.diameter >= 110 / 3.5
    assert about.box[2] <= 5
    assert about.box[3] >= 115


def corrected(desk: Any, labels: Any, numbers: Any) -> None:
    """A person draws these cells anew."""
    for number in numbers:
        y, x = (int(c) for c in np.argwhere(labels == number).mean(axis=0))
        assert desk.controller.redraw(
            [(y - 7, x - 7), (y - 7, x + 7), (y + 7, x + 7), (y + 7, x - 7)]
        )


def lessons(desk: Any) -> list[Any]:
    return [r for r in desk.client.requests if getattr(r, "name", "") == "teach_clicks"]


def test_clicks_learn_what_a_person_has_corrected(desks: Any) -> None:
    """Once a person clicks; the next click is answered by what knows these cells."""
    labels = disks()
    desk = desks(labels, image=np.zeros((110, 140), np.float32), corner=(10, 15))
    corrected(desk, labels, (1, 2, 3))
    assert not lessons(desk)  # nobody has clicked
    desk.controller.add((4.0, 4.0))
    click = desk.client.requests[-2]
    assert click.arguments["lesson"] == ""
    (lesson,) = lessons(desk)
    taught = lesson.arguments["taught"]
    assert {one.label for one in taught} == {1, 2, 3}
    for one in taught:
        y0, y1, x0, x1 = (a - b for a, b in zip(one.box, (10, 10, 15, 15), strict=True))
        np.testing.assert_array_equal(one.labels, labels[y0:y1, x0:x1])
        assert (one.labels == one.label).sum() == (labels == one.label).sum()
    assert not desk.link.session.running
    desk.client.on_event(lesson.done((1, 2, 3)))
    assert len(lessons(desk)) == 1  # nothing is new
    assert desk.state.clicks_learned == 3
    desk.controller.add((4.0, 4.0))
    click = desk.client.requests[-1]
    assert click.arguments["lesson"] == lesson.key
    assert click.arguments["diameter"] == lesson.arguments["diameter"]
    assert lesson.arguments["diameter"] == pytest.approx(2 * np.sqrt(14**2 / np.pi))
    # a new process knows nothing
    desk.link.died.emit()
    assert desk.state.clicks_learned == 0
    desk.controller.add((4.0, 4.0))
    assert len(lessons(desk)) == 2
    # one that is no better than the bundled network is not taken
    desk.client.on_event(lessons(desk)[-1].done(()))
    desk.controller.add((4.0, 4.0))
    assert desk.client.requests[-1].arguments["lesson"] == ""
    assert desk.state.clicks_learned == 0


def taught(desks: Any) -> tuple[Any, Any, Any]:
    """A desk on which clicks have learned from three cells; its labels; what was asked."""
    labels = disks()
    desk = desks(labels, image=np.zeros((96, 120), np.float32))
    desk.controller.add((4.0, 4.0))
    corrected(desk, labels, (1, 2, 3))
    (lesson,) = lessons(desk)
    desk.client.on_event(lesson.done((1, 2, 3)))
    return desk, labels, lesson


def test_clicks_forget_cells_that_are_taken_back(desks: Any) -> None:
    desk, _, lesson = taught(desks)
    desk.controller.undo()
    assert desk.state.clicks_learned == 2
    desk.controller.undo()
    desk.controller.undo()
    assert desk.state.clicks_learned == 0
    assert p.Forget(lesson.key) in desk.client.requests
    desk.controller.add((4.0, 4.0))
    click = next(r for r in desk.client.requests[::-1] if getattr(r, "name", "") == "object_at")
    assert click.arguments["lesson"] == ""


def test_cells_that_are_taken_back_while_clicks_learn_are_not_known(desks: Any) -> None:
    labels = disks()
    for n, known in ((1, 2), (3, 0)):
        desk = desks(labels, image=np.zeros((96, 120), np.float32))
        desk.controller.add((4.0, 4.0))
        corrected(desk, labels, (1, 2, 3))
        lesson = lessons(desk)[-1]
        for _ in range(n):
            desk.controller.undo()
        desk.client.on_event(lesson.done((1, 2, 3)))
        assert desk.state.clicks_learned == known
        assert (p.Forget(lesson.key) in desk.client.requests) is (known == 0)


def test_clicks_that_could_not_learn_are_said_without_a_box(desks: Any) -> None:
    """They work as before, so that there is nothing to run again."""
    labels = disks()
    desk = desks(labels, image=np.zeros((96, 120), np.float32))
    desk.controller.add((4.0, 4.0))
    corrected(desk, labels, (1, 2, 3))
    (lesson,) = lessons(desk)
    desk.client.on_event(p.Failed(lesson.job, "RuntimeError", "No memory is left."))
    assert desk.link.session.error is None
    assert "No memory is left." in desk.state.said.words
    assert "work as before" in desk.state.said.words


def test_what_clicks_learned_goes_with_the_cells(desks: Any) -> None:
    desk, labels, lesson = taught(desks)
    desk.controller.forget_cells("cells")
    assert p.Forget(lesson.key) in desk.client.requests
    assert desk.state.clicks_learned == 0
    # and one that comes too late
    desk.controller.set_cells(desk.source)
    desk.controller.add((4.0, 4.0))
    corrected(desk, labels, (1, 2, 3))
    late = lessons(desk)[-1]
    desk.controller.forget_cells("cells")
    desk.client.on_event(late.done((1, 2, 3)))
    assert desk.client.requests[-1] == p.Forget(late.key)


def test_clicks_forget_an_image_that_has_other_pixels(desks: Any) -> None:
    desk, _, lesson = taught(desks)
    desk.link.outdate(desk.image.key)
    desk.controller.add((4.0, 4.0))
    click = next(r for r in desk.client.requests[::-1] if getattr(r, "name", "") == "object_at")
    assert click.arguments["lesson"] == ""
    again = lessons(desk)[-1]
    assert again.key != lesson.key
    desk.link.outdate(desk.image.key)
    desk.controller.add((4.0, 4.0))
    desk.client.on_event(again.done((1, 2, 3)))  # of what the image was
    assert desk.state.clicks_learned == 0


def test_clicks_learn_rather_what_was_corrected_than_what_was_accepted(desks: Any) -> None:
    places = [(y, x) for y in range(15, 290, 30) for x in range(15, 290, 30)]
    labels = disks(places, (300, 300))
    desk = desks(labels, image=np.zeros((300, 300), np.float32))
    corrected(desk, labels, (1, 2, 3, 4))
    for label in range(5, 60):
        assert desk.controller.accept(label)
    desk.controller.add((1.0, 1.0))
    (lesson,) = lessons(desk)
    taught = [one.label for one in lesson.arguments["taught"]]
    assert len(taught) == 24
    assert taught[:4] == [4, 3, 2, 1]
    assert taught[4:] == list(range(59, 39, -1))


def test_what_is_mended_after_clicks_learned_it_is_learned_anew(desks: Any) -> None:
    labels = disks()
    desk = desks(labels, image=np.zeros((96, 120), np.float32))
    desk.controller.add((4.0, 4.0))
    corrected(desk, labels, (1, 2, 3))
    for _ in range(3):
        desk.controller.undo()
    corrected(desk, labels, (1, 2, 3))
    first, *more = lessons(desk)
    assert not more  # one at a time
    desk.client.on_event(first.done((1, 2, 3)))
    desk.controller.add((4.0, 4.0))
    assert len(lessons(desk)) == 2


def test_clicks_learn_after_what_was_asked_for_meanwhile(desks: Any) -> None:
    labels = disks()
    desk = desks(labels, image=np.zeros((96, 120), np.float32))
    desk.controller.add((4.0, 4.0))
    corrected(desk, labels, (1, 2, 3))
    (lesson,) = lessons(desk)
    desk.client.on_event(p.WasCancelled(lesson.job))
    assert len(lessons(desk)) == 2
    desk.link.session.running = True  # a run of Segment: not until the next correction
    desk.client.on_event(p.WasCancelled(lessons(desk)[-1].job))
    assert len(lessons(desk)) == 2


def test_clicks_learn_nothing_from_a_region_to_ignore(desks: Any) -> None:
    labels = disks()
    desk = desks(labels, image=np.zeros((96, 120), np.float32))
    desk.controller.add((4.0, 4.0))
    assert desk.controller.mark("ignore", [(0, 0), (0, 119), (45, 119), (45, 0)])
    inside = [n for n in (1, 2, 3, 4) if np.argwhere(labels == n)[:, 0].mean() < 45]
    assert inside
    corrected(desk, labels, (1, 2, 3, 4))
    for lesson in lessons(desk):
        assert not {one.label for one in lesson.arguments["taught"]} & set(inside)
    assert len(lessons(desk)) == (len(inside) == 1)


def test_clicks_that_learned_on_another_image_know_nothing_of_this(desks: Any) -> None:
    desk, _, lesson = taught(desks)
    other = ImageSource("other", "other", np.ones((96, 120), np.float32))
    desk.controller.set_cells(replace(desk.source, image=other))
    assert desk.state.clicks_learned == 0
    desk.controller.add((4.0, 4.0))
    assert p.Forget(lesson.key) in desk.client.requests
    assert desk.client.requests[-2].arguments["lesson"] == ""
    assert lessons(desk)[-1].key != lesson.key


def test_a_click_on_an_image_that_has_other_pixels_now_makes_nothing(desks: Any) -> None:
    labels = disks()
    desk = desks(labels)
    desk.controller.add((40.0, 40.0))
    desk.link.outdate(desk.image.key)
    before = labels.copy()
    y0, y1, x0, x1 = desk.client.requests[-1].about.box
    answer(desk, disks(((40, 40),))[y0:y1, x0:x1] == 1)
    np.testing.assert_array_equal(labels, before)


def test_what_clicks_have_learned_is_forgotten_of_the_planes_not_used_for_longest(
    desks: Any,
) -> None:
    """The line says that they know a plane only where they do."""
    labels = np.stack([disks()] * 18)
    desk = desks(labels, image=np.zeros((18, 96, 120), np.float32), plane=(0,))
    for i in range(18):
        desk.controller.set_cells(replace(desk.source, plane=(i,)))
        desk.controller.add((4.0, 4.0))
        corrected(desk, labels[i], (1, 2, 3))
        desk.client.on_event(lessons(desk)[-1].done((1, 2, 3)))
        assert desk.state.clicks_learned == 3
    keys = [lesson.key for lesson in lessons(desk)]
    assert [r.key for r in desk.client.requests if isinstance(r, p.Forget)] == keys[:2]
    desk.controller.set_cells(replace(desk.source, plane=(0,)))
    assert desk.state.clicks_learned == 0
    # what was no help is not kept, nor its image
    desk.controller.add((4.0, 4.0))
    last = lessons(desk)[-1]
    desk.client.on_event(last.done(()))
    assert desk.client.requests[-1] == p.Forget(last.key)


def test_a_click_takes_the_size_of_cells_of_the_page_or_of_the_model(desks: Any) -> None:
    """Of three cells that are there at least."""
    labels = disks()

    def asked(desk: Any) -> float:
        desk.controller.add((4.0, 4.0))
        return float(desk.client.requests[-1].arguments["diameter"])

    assert asked(desks(labels)) == pytest.approx(16, abs=1)
    labels[labels == 4] = 0
    assert asked(desks(labels.copy())) == pytest.approx(16, abs=1)
    labels[labels == 3] = 0
    desk = desks(labels)
    assert asked(desk) == 24
    desk.link.session.info = p.EngineInfo("cpu", "CPU", "2", 1, model_diameter=31.0)
    assert asked(desk) == 31
    card = ModelCard(
        name="nuclei",
        network=NetworkConfig(n_classes=1),
        classes=("cell",),
        diameter=31,
        image_diameters=(60, 90),
    )
    desk.link.session.models = (SimpleNamespace(name="nuclei", card=card),)
    assert asked(desk) == 60
    desk.link.session.predict = PredictConfig(diameter=12)
    assert asked(desk) == 12


@pytest.mark.parametrize(
    ("point", "is_inside"),
    [
        ((-0.5, -0.5), True),
        ((-0.51, 5.0), False),
        ((5.0, -0.51), False),
        ((95.4, 119.4), True),
        ((95.5, 5.0), False),
        ((5.0, 119.5), False),
    ],
)
def test_clicks_on_the_edge_of_the_image(desks: Any, point: Any, is_inside: bool) -> None:
    desk = desks(disks())
    desk.controller.add(point)
    asked = [r for r in desk.client.requests if getattr(r, "name", "") == "object_at"]
    assert len(asked) == is_inside
    assert ("outside the image" in desk.state.said.words) != is_inside


def test_what_is_looked_at_around_a_click_is_four_cells_wide(desks: Any) -> None:
    desk = desks(disks())
    desk.link.session.predict = PredictConfig(diameter=10)
    desk.controller.set_cells(replace(desk.source, labels=np.zeros((96, 120), np.int32)))
    desk.controller.add((40.0, 50.0))
    assert desk.client.requests[-1].about.box == (20, 61, 30, 71)
    desk.controller.add((3.0, 117.0))
    assert desk.client.requests[-1].about.box == (0, 24, 97, 120)


@pytest.mark.parametrize(("reach", "is_made"), [(17, True), (18, False)])
def test_a_cell_ends_within_a_diameter_and_three_quarters(
    desks: Any, reach: int, is_made: bool
) -> None:
    labels = np.zeros((96, 120), np.int32)
    desk = desks(labels)
    desk.link.session.predict = PredictConfig(diameter=10)
    desk.controller.add((40.0, 50.0))
    y0, y1, x0, x1 = desk.client.requests[-1].about.box
    mask = np.zeros((y1 - y0, x1 - x0), bool)
    mask[40 - y0, 50 - x0 : 50 - x0 + reach + 1] = True
    mask[39 - y0 : 42 - y0, 50 - x0] = True
    answer(desk, mask)
    assert labels.any() == is_made


def test_clicks_learn_from_so_much_as_is_soon_learned(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of no more pixels than that, but three at least."""
    from napari_sa2net.app import clicks

    labels = disks()
    side = round(2 * 2.4 * 2 * np.sqrt(14**2 / np.pi))  # of a window
    monkeypatch.setattr(clicks, "MOST_PIXELS", side)  # less than any
    desk = desks(labels, image=np.zeros((96, 120), np.float32))
    corrected(desk, labels, (1, 2, 3, 4))
    desk.controller.add((4.0, 4.0))
    assert [one.label for one in lessons(desk)[0].arguments["taught"]] == [4, 3, 2]


def test_clicks_learn_anew_when_a_quarter_is_new(desks: Any) -> None:
    places = [(y, x) for y in range(15, 290, 30) for x in range(15, 290, 30)]
    labels = disks(places, (300, 300))
    desk = desks(labels, image=np.zeros((300, 300), np.float32))
    for label in range(1, 17):
        assert desk.controller.accept(label)
    desk.controller.add((1.0, 1.0))
    desk.client.on_event(lessons(desk)[-1].done(tuple(range(1, 17))))
    for label in range(17, 20):
        assert desk.controller.accept(label)
    assert len(lessons(desk)) == 1
    assert desk.controller.accept(20)
    assert len(lessons(desk)) == 2


def test_cells_that_go_take_their_own_questions_along(desks: Any) -> None:
    cancelled: list[Any] = []
    desk = desks(disks())
    desk.client.cancel = lambda job, force=True: cancelled.append((job, force))
    desk.controller.add((40.0, 40.0))
    job = desk.client.requests[-1].job
    desk.controller.forget_cells("other cells")
    assert cancelled == []
    desk.controller.forget_cells("cells")
    assert cancelled == [(job, False)]


def test_a_click_that_fails_is_said(desks: Any) -> None:
    desk = desks(disks())
    desk.controller.add((40.0, 40.0))
    job = desk.client.requests[-1].job
    desk.client.on_event(p.Failed(job, "ModelError", "It is damaged."))
    assert desk.link.session.error.message == "It is damaged."


def test_a_box_bounds_what_is_made_at_the_edge_of_the_image(desks: Any) -> None:
    """It begins where the image does, and only in it is anything made."""
    labels = np.zeros((96, 120), np.int32)
    desk = desks(labels)
    desk.controller.add((5.0, 6.0), [(0, 0), (0, 11), (9, 11), (9, 0)])
    y0, y1, x0, x1 = desk.client.requests[-1].about.box
    answer(desk, np.ones((y1 - y0, x1 - x0), bool))
    assert labels[:10, :12].all()
    assert np.count_nonzero(labels) == 120


@pytest.mark.parametrize("why", ["turned", "elsewhere"])
def test_cells_of_which_no_plane_is_seen_are_not_corrected(desks: Any, why: str) -> None:
    desk = desks(disks())
    unseen: dict[str, Any] = {why: "Turn it back."}
    desk.controller.set_cells(replace(desk.source, **unseen))
    assert not desk.controller.accept(1)
    desk.controller.add((4.0, 4.0))
    assert desk.state.said.words == "Turn it back."
    assert not desk.client.requests
    desk.controller.set_cells(desk.source)
    assert desk.controller.accept(1)


def a_journal(arrays: Any) -> Journal:
    return Journal.create(JournalImage("cells", shape=arrays["labels"].shape), arrays)


def test_a_layer_goes_on_in_its_journal(home: Path) -> None:
    """What was painted while no page was open is one more step, and is undone first."""
    stack = np.stack([disks()] * 2)
    began = stack.copy()
    session = EditSession(stack, a_journal)
    session.do(delete(session.corrections, [1], (0,)))
    without = stack.copy()
    assert session.journal is not None
    identity = session.journal.id
    assert session.close() is None
    stack[1, 0:3, 0:4] = 77
    shown = stack.copy()
    source = CellSource("cells", "my cells", stack, plane=(0,), journal=identity)
    again = resumed_session(source, a_journal)
    assert again is not None
    np.testing.assert_array_equal(stack, shown)
    again.undo()
    np.testing.assert_array_equal(stack, without)
    again.undo()
    np.testing.assert_array_equal(stack, began)
    again.redo()
    again.redo()
    np.testing.assert_array_equal(stack, shown)
    assert again.close() is None
    # nothing was painted: no step more
    source = replace(source, labels=shown)
    third = resumed_session(source, a_journal)
    assert third is not None
    assert len(third.history.done) == 2
    assert third.close() is None


@pytest.mark.parametrize("other", ["shape", "type", "journal"])
def test_a_journal_of_other_labels_is_not_gone_on_with(home: Path, other: str) -> None:
    labels = disks()
    session = EditSession(labels, a_journal)
    session.do(delete(session.corrections, [1], ()))
    assert session.journal is not None
    identity = session.journal.id
    assert session.close() is None
    changed = {"shape": labels[:-1], "type": labels.astype(np.int64), "journal": labels}[other]
    changed = changed.copy()
    before = changed.copy()
    journal = "0" * len(identity) if other == "journal" else identity
    source = CellSource("cells", "my cells", changed, journal=journal)
    assert resumed_session(source, a_journal) is None
    np.testing.assert_array_equal(changed, before)
    # it was let go, so who it is of can go on with it
    own = resumed_session(replace(source, labels=labels, journal=identity), a_journal)
    assert own is not None
    assert own.close() is None


def test_cells_are_counted_over_planes_once() -> None:
    stack = np.stack([disks(), disks(), disks() * 0])
    session = EditSession(stack, a_journal)
    n = len(np.unique(stack)) - 1
    assert session.n_cells == n
    session.corrections.apply(delete(session.corrections, [1], (0,)))
    assert session.n_cells == n
    assert EditSession(stack, a_journal).n_cells == n  # it is on another plane, too
    assert EditSession(stack[:1], a_journal).n_cells == n - 1


def test_cells_of_another_part_are_the_first_step(home: Path) -> None:
    former = np.stack([disks(), disks() * 0])
    now = former.copy()
    now[0, 0:4, 0:5], now[1, 2:6, 2:9] = 88, 89
    session = EditSession(now, a_journal)
    added = now.copy()
    session.record_area(tuple(Patch.between((z,), (0, 0), former[z], now[z]) for z in (0, 1)))
    np.testing.assert_array_equal(now, added)
    assert session.corrections.plane((1,)).area(89) == 28
    assert not session.corrections.marked((0,))
    session.undo()
    np.testing.assert_array_equal(now, former)
    assert 89 not in session.corrections.plane((1,))
    session.redo()
    np.testing.assert_array_equal(now, added)
    assert session.close() is None
