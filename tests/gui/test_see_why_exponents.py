"""See why of a model with exponents of its own: what it shows, and what can be tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from qtpy.QtWidgets import QTabWidget

from napari_sa2net.config import NetworkConfig
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.file import save_model
from napari_sa2net.nn import make_network

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

    from napari_sa2net.widgets.dock import SA2NetDock

WAIT_MS = 180_000
WIDTH = 360
pytestmark = pytest.mark.timeout(600)

CONFIG = NetworkConfig(
    kind="focal_unet",
    base_channels=4,
    gamma=(0.0, 0.6734, 3.6449, 1.0),
    se=(True, True, False, True),
    se_gamma=(1.0, 0.25, 1.0, 2.0),
)


def save_learned(home: Path, image: np.ndarray) -> None:
    """A model whose statistics have seen the image, so that its answers vary over it."""
    torch.manual_seed(3)
    net = make_network(CONFIG)
    x = torch.from_numpy((image / image.max()).astype(np.float32)).expand(1, 3, -1, -1)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net.train()(x)
        net.eval().outc4.weight /= net(x).std()
    card = ModelCard(
        name="learned", network=CONFIG, classes=("background", "interior", "boundary")
    )
    save_model(home / "models" / "learned.safetensors", net, card)


def test_sliders_show_what_is_at_work(
    home: Path, open_dock: Callable[[], SA2NetDock], qtbot: QtBot
) -> None:
    image = synthetic_nuclei((128, 160), n=12, diameter=20, seed=0)[0]
    save_learned(home, image)
    dock = open_dock()
    dock.workspace.controller.set_model("learned")
    dock.window().show()
    dock.findChild(QTabWidget).setCurrentIndex(1)
    page: Any = dock.pages[1]
    page.port.viewer.add_image(image, name="nuclei")
    qtbot.waitUntil(page.isVisible)
    page.button.click()
    qtbot.waitUntil(lambda: not page.session.running, timeout=WAIT_MS)
    assert page.session.error is None
    section = page.what_if
    assert page.session.why.result.network == CONFIG.model_copy(
        update={"gamma": tuple(float(np.float32(g)) for g in CONFIG.gamma)}
    )
    own = [0.0, 0.67, 3.64, 1.0], [1.0, 0.25, 0.0, 2.0]
    assert [s.value() for s in section.gammas] == own[0]
    assert [s.value() for s in section.se_gammas] == own[1]
    assert section.line.text() == "As trained"
    assert page.tiles.tiles["aua_4"].accessibleName() == "detail 1/4"
    page.tiles.tiles["aua_4"].click()
    assert any(layer.name == "why: detail 1/4 (nuclei)" for layer in page.port.viewer.layers)
    section.fold.click()
    qtbot.waitUntil(section.se_gammas[0].isVisible)
    starts = [
        s.mapTo(page, s.rect().topLeft()).x() for s in (section.gammas[0], section.se_gammas[0])
    ]
    assert starts[0] == starts[1]
    assert page.minimumSizeHint().width() + 20 <= WIDTH

    def tried(change: Callable[[], None]) -> Any:
        change()
        qtbot.waitUntil(lambda: "Trying" not in section.line.text(), timeout=WAIT_MS)
        qtbot.waitUntil(lambda: not page.session.running, timeout=WAIT_MS)
        return page.session.why.what_if_result

    # the gate that the model had switched off does something when it is on again
    on = tried(lambda: section.gammas[0].spin.setValue(1.0))
    assert on.gained_px + on.lost_px > 0
    assert section.gammas[2].value() == 3.64
    section.reset.click()
    assert [s.value() for s in section.gammas] == own[0]
    assert section.line.text() == "As trained"
    excited = tried(lambda: section.se_gammas[3].spin.setValue(0.0))
    assert excited.gained_px + excited.lost_px > 0
    section.reset.click()
    assert [s.value() for s in section.se_gammas] == own[1]
