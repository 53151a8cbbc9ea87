"""The Models page by its buttons: real viewer, real files, real engine."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import QMimeData, QPoint, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication
from qtpy.QtWidgets import QAbstractButton, QFileDialog

from napari_sa2net.models.registry import find_model
from napari_sa2net.widgets.dock import SA2NetDock, page_named

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

#: generous: on a busy machine the engine takes long to import torch
WAIT_MS = 400_000
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def dock(home: Path, make_napari_viewer: Any, qtbot: QtBot) -> Iterator[SA2NetDock]:
    """Segment and Models beside each other, the model ``tiny`` in use."""
    viewer = make_napari_viewer()
    dock = SA2NetDock(viewer, (page_named("Segment"), page_named("Models")))
    viewer.window.add_dock_widget(dock, name="SA2-Net")
    assert dock.workspace is not None
    dock.workspace.controller.choose_model("tiny")
    yield dock
    dock.shut()


def settle(qtbot: QtBot, page: Any) -> None:
    qtbot.waitUntil(lambda: not page.state.busy and bool(page.state.families), timeout=WAIT_MS)


def offered(dock: SA2NetDock) -> list[str]:
    """What the Segment page offers."""
    page: Any = dock.pages[0]
    combo = page.model_row.combo
    return [combo.itemText(i) for i in range(combo.count())]


def select(page: Any, name: str) -> None:
    page.list.setCurrentItem(page.list.item(name))


@pytest.mark.both_bindings
def test_every_button_by_hand(
    dock: SA2NetDock, qtbot: QtBot, tmp_path: Path, tiny_model: Path, monkeypatch: Any
) -> None:
    page: Any = dock.pages[1]
    settle(qtbot, page)
    # one alone has none to be compared with
    every, compare = page.state.entries, page.compare.button
    page.state.entries = tuple(one for one in every if one.name == page.state.chosen)
    assert not compare.isEnabled()
    assert "no other model" in compare.toolTip()
    page.state.entries = every
    assert "no other model" not in compare.toolTip()
    assert page.list.names() == ["nuclei", "tiny"]
    assert offered(dock) == ["nuclei", "tiny"]

    # bundled: nothing that changes it
    select(page, "nuclei")
    assert page.card.title.text() == "nuclei"
    assert "BBBC038v1" in page.card.rows.text()
    buttons = page.buttons
    assert not any(b.isEnabled() for b in (buttons.rename, buttons.shelf, buttons.remove))
    assert buttons.use.text() == "Use"
    buttons.use.click()
    assert page.session.model == "nuclei"
    assert dock.pages[0].model_row.value() == "nuclei"  # type: ignore[attr-defined]
    assert buttons.use.text() == "In use"
    assert not buttons.use.isEnabled()

    # rename
    select(page, "tiny")
    buttons.rename.click()
    assert buttons.name_row.field.text() == "tiny"
    buttons.name_row.field.setText("mein Gewebe ü")
    buttons.name_row.ok.click()
    settle(qtbot, page)
    assert offered(dock) == ["nuclei", "mein Gewebe ü"]
    assert page.card.title.text() == "mein Gewebe ü"

    # set aside: kept here, not offered there; used again
    buttons.shelf.click()
    settle(qtbot, page)
    assert offered(dock) == ["nuclei"]
    assert page.list.names() == ["nuclei", "mein Gewebe ü"]
    assert buttons.use.text() == "Offer again and use"
    buttons.use.click()
    settle(qtbot, page)
    assert page.session.model == "mein Gewebe ü"
    assert offered(dock) == ["nuclei", "mein Gewebe ü"]

    # remove asks first, and can be undone
    buttons.remove.click()
    assert not buttons.question.isHidden()
    assert find_model("mein Gewebe ü") is not None
    buttons.question.no.click()
    assert buttons.question.isHidden()
    assert find_model("mein Gewebe ü") is not None
    buttons.remove.click()
    buttons.question.yes.click()
    settle(qtbot, page)
    assert offered(dock) == ["nuclei"]
    assert page.session.model == "nuclei"
    assert "removed" in page.said.text()
    assert not page.put_back.isHidden()
    page.put_back.click()
    settle(qtbot, page)
    assert offered(dock) == ["nuclei", "mein Gewebe ü"]
    assert page.put_back.isHidden()

    # export
    target = tmp_path / "given away"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target), ""))
    buttons.export.click()
    settle(qtbot, page)
    assert target.with_name("given away.safetensors").read_bytes() == tiny_model.read_bytes()
    page.copy_path.click()
    clipboard = QGuiApplication.clipboard()
    assert clipboard is not None
    assert Path(clipboard.text()) == page.controller.models_folder

    # the list is read again when the page is shown
    (page.controller.models_folder / "mein Gewebe ü.safetensors").unlink()
    page.hide()
    page.show()
    page.controller.refresh()
    assert page.list.names() == ["nuclei"]
    for button in page.findChildren(QAbstractButton):
        assert button.toolTip(), button.text()


def test_drop_compare_and_errors(
    dock: SA2NetDock, qtbot: QtBot, tmp_path: Path, tiny_model: Path, other_model: Path
) -> None:
    page: Any = dock.pages[1]
    settle(qtbot, page)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(tiny_model.read_bytes()[:-10])
    drop(page.list, broken)
    assert page.busy.text() == "Checking the file…"
    settle(qtbot, page)
    assert not page.error.isHidden()
    assert "broken.safetensors is damaged" in page.error.message.text()
    page.error.dismiss.click()
    assert page.error.isHidden()

    drop(page.list, other_model)
    settle(qtbot, page)
    assert page.state.chosen == "tiny-2"
    assert offered(dock) == ["nuclei", "tiny", "tiny-2"]
    assert page.said.text().startswith("Imported as tiny-2")

    # a child of tiny, by its card
    child = tmp_path / "child.zip"  # in a package
    with zipfile.ZipFile(child, "w") as package:
        package.writestr("rdf.yaml", "type: model")
        package.writestr("napari-sa2net.safetensors", with_parent(tiny_model))
    drop(page.list, child)
    settle(qtbot, page)
    assert page.state.chosen == "child"
    assert "tiny</a> → <b>child</b>" in page.card.rows.text()
    assert page.compare.other.currentText() == "tiny"
    assert "no corrections yet" in page.compare.folder.text()
    page.compare.button.click()
    assert not page.compare.button.isEnabled()
    assert not page.cancel.isHidden()
    qtbot.waitUntil(lambda: not page.state.comparing, timeout=WAIT_MS)
    assert page.error.isHidden()
    assert "No difference beyond chance" in page.compare.verdict.text()
    assert "tiny → child" in page.compare.table.text()
    assert "6 images, 441 cells" in page.compare.table.text()
    page.card.chosen.emit("tiny")  # a click on the parent
    assert page.state.chosen == "tiny"
    assert page.compare.table.isHidden()  # it was about the other model


def with_parent(path: Path) -> bytes:
    """The model file with a card that names it as its parent."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    card = json.loads(header["__metadata__"]["card"])
    card["parent"] = f"tiny {hashlib.sha256(data).hexdigest()}"
    header["__metadata__"]["card"] = json.dumps(card)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


def drop(widget: Any, path: Path) -> None:
    """Drop a file, as the window system would."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    arguments = (
        Qt.DropAction.CopyAction,
        data,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    enter = QDragEnterEvent(QPoint(5, 5), *arguments)
    widget.dragEnterEvent(enter)
    assert enter.isAccepted()
    widget.dropEvent(QDropEvent(QPoint(5, 5).toPointF(), *arguments))
