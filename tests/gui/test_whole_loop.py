"""The loop that makes a model yours, in a real viewer: segment, correct, keep, learn, use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtWidgets import QTabWidget
from skimage.measure import find_contours

from napari_sa2net.config import FineTuneConfig, InputConfig
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.data.plan import plan_image
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.data.training_set import load_training_folder
from napari_sa2net.models.card import read_card
from napari_sa2net.models.registry import find_model, list_models
from napari_sa2net.training.dataset import load_example

pytestmark = pytest.mark.timeout(300)
WAIT_MS = 120_000

SHORT = FineTuneConfig(
    steps=12, rounds=2, batch_size=2, crop=64, replay=0, held_out=0.4, max_scored=2
)


class Mouse:
    """A mouse event as napari hands it to callbacks."""

    def __init__(self, layer: Labels, point: Any) -> None:
        self.layer = layer
        self.button = 1
        self.modifiers: tuple[Any, ...] = ()
        self.type = "mouse_press"
        self.move(point)

    def move(self, point: Any) -> None:
        self.position = self.layer.data_to_world(tuple(point))
        self.pos = 10 * np.array(point, dtype=float)


def drag(qtbot: Any, layer: Labels, points: Any) -> None:
    event = Mouse(layer, points[0])
    called = [callback(layer, event) for callback in list(layer.mouse_drag_callbacks)]
    generators = [one for one in called if one is not None]
    for generator in generators:
        next(generator, None)
    event.type = "mouse_move"
    for point in points[1:]:
        event.move(point)
        for generator in generators:
            next(generator, None)
    event.type = "mouse_release"
    for generator in generators:
        next(generator, None)
    qtbot.wait(10)


class Person:
    """Turns pages, presses buttons, works on the image."""

    def __init__(self, dock: Any, qtbot: Any) -> None:
        self.dock, self.qtbot = dock, qtbot
        self.viewer = dock._viewer
        self.tabs = dock.findChild(QTabWidget)
        dock.window().show()

    def page(self, name: str) -> Any:
        index = next(i for i in range(self.tabs.count()) if self.tabs.tabText(i) == name)
        self.tabs.setCurrentIndex(index)
        page = self.dock.pages[index]
        self.qtbot.waitUntil(page.isVisible)
        return page

    def wait(self, condition: Any) -> None:
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=WAIT_MS)

    def segment(self) -> Labels:
        page = self.page("Segment")
        before = page.session.result_key
        page.button.click()
        self.wait(lambda: not page.session.running and page.session.result_key != before)
        assert page.session.error is None
        return page.port.result_layer(page.session.result_key)

    def press(self, key: str) -> None:
        self.viewer.window._qt_viewer.canvas._key_map_handler.press_key(key)

    def correct(self, cells: Labels, truth: Any) -> None:
        """Delete what is no cell, draw what was missed; all others are right."""
        page = self.page("Correct")
        self.wait(lambda: page.state.cells is not None)
        overlap = [int(np.bincount(truth[cells.data == k]).argmax()) for k in _numbers(cells)]
        missed = [k for k in np.unique(truth) if k and k not in overlap]
        wrong = [k for k, true in zip(_numbers(cells), overlap, strict=True) if not true]
        redrawn = [*missed, overlap[0]][:2]
        self.press("D")
        for label in wrong[:3]:
            drag(self.qtbot, cells, [np.argwhere(cells.data == label).mean(0)])
        self.press("R")
        for true in redrawn:
            drag(self.qtbot, cells, find_contours(truth == true, 0.5)[0][::3])
        self.press("Escape")
        assert page.state.unsaved > 0
        page.accept_view()
        self.wait(lambda: page.state.safe and page.keep.button.isEnabled())
        page.keep.button.click()
        self.wait(lambda: not page.state.keeping)
        assert page.session.error is None
        assert page.keep.kept.text().startswith("Kept ")


def _numbers(cells: Labels) -> list[int]:
    return [int(k) for k in np.unique(cells.data) if k]


def test_from_an_image_to_a_model_that_learned_from_its_corrections(
    open_dock: Any, home: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    person = Person(open_dock(), qtbot)
    viewer = person.viewer
    for i in range(2):
        image, truth = synthetic_nuclei((128, 144), n=12, diameter=22, seed=50 + i)
        layer = viewer.add_image(image, name=f"slide {i}")
        viewer.layers.selection.active = layer
        person.correct(person.segment(), truth)
    records = TrainingSet.open(home / "corrections").commits()
    assert [record.source.name for record in records] == ["slide 0", "slide 1"]
    assert all(record.n_reviewed > 3 for record in records)
    assert {record.parent.name for record in records} == {"tiny"}

    page = person.page("Learn")
    person.wait(lambda: page.state.summary is not None and page.state.summary.n_images == 2)
    assert page.button.text().startswith("Learn from 2 corrections")
    page.controller.set_config(SHORT)
    page.button.click()
    person.wait(lambda: page.state.outcome is not None or page.session.error is not None)
    assert page.session.error is None
    outcome = page.state.outcome
    assert len(page.state.curves.rounds) == 2
    # better on one image with the other's corrections, or it is kept aside
    assert find_model("tiny-tuned").aside is not outcome.verdict.better
    assert page.card.verdict.text().replace("\u00a0", " ") == outcome.verdict.text
    card = read_card(outcome.path)
    assert sorted([*card.training["commits"], *card.training["held_out"]]) == sorted(
        record.name for record in records
    )
    page.card.difference.click()
    person.wait(lambda: page.state.difference is not None)
    page.card.difference.click()

    # promoted, whatever the verdict, by the person's own choice
    page.card.use.click()
    person.wait(lambda: page.state.in_use)
    assert "tiny-tuned" in [entry.name for entry in list_models()]
    cells = person.segment()
    made = cells.metadata["napari-sa2net"]
    assert made["model"]["name"] == "tiny-tuned"
    # the corrected cells stayed as they were: the new ones are in a layer of their own
    assert len([one for one in viewer.layers if isinstance(one, Labels)]) >= 3
    assert cells.data.max() > 0
    person.page("Learn").card.back.click()
    assert page.session.model == "tiny"


def test_what_segmenting_saw_is_kept_whatever_is_chosen_since(
    open_dock: Any, home: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cells are in the second dye of the second time point, at a size that was typed."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    person = Person(open_dock(), qtbot)
    viewer, port = person.viewer, person.dock.workspace.port
    image, _ = synthetic_nuclei((128, 144), n=12, diameter=22, seed=50)
    ground = np.full_like(image, 90)
    ground[::5, ::3] = 140
    stack = np.stack([np.stack([ground, image // (3 - t)]) for t in range(2)])
    layer = viewer.add_image(stack, name="dyes", axis_labels=("t", "c", "y", "x"))
    viewer.layers.selection.active = layer
    viewer.dims.set_point(0, 1)
    port.set_channels((1,))
    controller = person.dock.workspace.controller
    controller.set_predict(controller.session.predict.model_copy(update={"diameter": 25.0}))
    cells = person.segment()
    whole = plan_image(stack, "TCYX", (1,))
    seen = whole.read((1,), 0, 128, 0, 144)
    # set otherwise before Keep
    port.set_channels((0,))
    controller.set_predict(controller.session.predict.model_copy(update={"diameter": 60.0}))
    viewer.layers.selection.active = cells
    page = person.page("Correct")
    person.wait(lambda: page.state.cells is not None and page.state.cells.plane[0] == 1)
    page.accept_view()
    person.wait(lambda: page.state.safe and page.keep.button.isEnabled())
    page.keep.button.click()
    person.wait(lambda: not page.state.keeping)
    (item,) = load_training_folder(home / "corrections")
    example = load_example(item, InputConfig(), 24)
    np.testing.assert_allclose(example.image, seen, atol=1e-6)
    assert example.diameter == 25
    assert item.seen.image["axes"] == "TCYX"
