"""What all pages of one viewer share: session, controller, engine and port."""

from __future__ import annotations

import threading
import weakref
from importlib import import_module
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer

from napari_sa2net.app.controllers import SegmentController
from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.explain import ExplainController
from napari_sa2net.app.learn import LearnController
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.models import ModelsController
from napari_sa2net.app.session import Session
from napari_sa2net.config import FineTuneConfig, PredictConfig
from napari_sa2net.widgets.napari_port import PLUGIN, NapariPort
from napari_sa2net.widgets.napari_port.cells import CellLayers
from napari_sa2net.widgets.napari_port.kept_layers import KeptLayers
from napari_sa2net.widgets.qt_dispatch import GuiDispatcher

if TYPE_CHECKING:
    from napari.viewer import Viewer

#: after the dock has been drawn
PRELOAD_MS = 1500

_workspaces: weakref.WeakKeyDictionary[Any, Workspace] = weakref.WeakKeyDictionary()


class Workspace(QObject):
    """One per viewer; lives as long as a page of it is open.

    The engine process starts with the first page and ends with the last; what learns then is
    paused.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._users = 0
        self.session = Session()
        self.dispatch = GuiDispatcher()
        self.port = NapariPort(viewer)
        self.link = EngineLink(self.session, dispatch=self.dispatch)
        self.controller = SegmentController(self.link)
        self.explain = ExplainController(self.controller)
        self.correct = CorrectController(self.link)
        self.models = ModelsController(self.controller)
        self.learn = LearnController(self.controller, self.correct)
        self.cells = CellLayers(self.port)
        self.kept = KeptLayers(self.port, self.cells)
        port, controller, explain = self.port, self.controller, self.explain
        port.image_changed.connect(self._image_changed)
        port.pixels_changed.connect(controller.image_changed)
        port.image_gone.connect(controller.forget_image)
        port.result_edited.connect(controller.mark_edited)
        port.result_gone.connect(controller.forget_result)
        port.pixels_changed.connect(explain.forget_image)
        port.image_gone.connect(explain.forget_image)
        port.result_gone.connect(explain.forget_result)
        port.maps.gone.connect(explain.layer_gone)
        controller.result_ready.connect(port.show)
        port.maps.gone.connect(self.learn.layer_gone)
        explain.overlay.connect(port.show_overlay)
        self.learn.overlay.connect(port.show_overlay)
        self.learn.set.opened.connect(self.kept.show)
        controller.labels_updated.connect(lambda u: port.update_labels(u.key, u.labels))
        controller.table_ready.connect(lambda u: port.update_table(u.key, u.objects))
        self._connect_correct()

    def _connect_correct(self) -> None:
        port, cells, correct = self.port, self.cells, self.correct
        port.pixels_changed.connect(correct.image_changed)
        port.image_gone.connect(correct.image_changed)
        cells.changed.connect(self.refresh_cells)
        cells.painted.connect(correct.stroke)
        cells.gone.connect(correct.forget_cells)
        # after the port has shown it: key and model are on the layer only then
        self.controller.result_ready.connect(lambda _: self.refresh_cells())
        correct.changed.connect(cells.show)
        correct.restored.connect(cells.show_restored)
        correct.journal_begun.connect(cells.set_journal)
        correct.state.events.folder.connect(self.models.set_folder)

    @classmethod
    def of(cls, viewer: Viewer) -> Workspace:
        """The viewer's workspace; count one more user of it (see `release`)."""
        workspace = _workspaces.get(viewer)
        if workspace is None:
            workspace = _workspaces[viewer] = cls(viewer)
            workspace._take_preferences()
            workspace.controller.refresh_models()
            workspace.controller.set_image(workspace.port.source())
            workspace.refresh_cells()
            workspace.controller.start()
            QTimer.singleShot(PRELOAD_MS, workspace._preload)
        workspace._users += 1
        return workspace

    def _preload(self) -> None:
        """napari needs pandas for its first Labels layer, and that import takes a while."""
        threading.Thread(target=import_module, args=("pandas",), daemon=True).start()

    def release(self) -> None:
        """One user less; the last one ends the engine and leaves the viewer."""
        self._users -= 1
        if self._users == 0:
            for viewer, workspace in list(_workspaces.items()):
                if workspace is self:
                    del _workspaces[viewer]
            self.dispatch.close()
            self.learn.close()
            self.controller.close()
            self.correct.close()
            self.models.close()
            self.cells.close()
            self.port.close()

    def refresh_image(self) -> None:
        """Take plane and view as they are shown now."""
        self.controller.set_image(self.port.source())

    def refresh_cells(self) -> None:
        """Take the chosen cells as they are now."""
        self.correct.set_cells(self.cells.source())

    def _take_preferences(self) -> None:
        """Start with what the person set in napari's preferences for this plugin."""
        chosen = preferences()
        self.session.model = chosen.get("model") or self.session.model
        device = chosen.get("device") or "auto"
        self.session.predict = PredictConfig(device=device)
        self.learn.set_config(FineTuneConfig(device=device))

    def _image_changed(self) -> None:
        self.refresh_image()


def preferences() -> dict[str, str]:
    """Settings of ours in napari's preferences; empty where napari has none yet (< 0.9)."""
    try:
        from napari.settings import get_plugin_settings

        settings = get_plugin_settings(PLUGIN).segment
        return {"model": str(settings.model), "device": str(settings.device)}
    except (ImportError, KeyError, AttributeError):
        return {}
