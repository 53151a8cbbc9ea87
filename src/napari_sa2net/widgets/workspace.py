"""What all pages of one viewer share: session, controller, engine and port."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari.settings
from app_model.types import Action, MenuRule
from napari.utils import progress
from napari.utils.notifications import show_info
from napari.utils.task_status import Status
from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QApplication, QLabel, QWidget

from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.measurements import Measurements
from napari_sa2net.app.segment import SegmentController, recall, remember
from napari_sa2net.app.session import JobProgress, LabelsUpdate, Planes, Session, Where
from napari_sa2net.config import PredictConfig
from napari_sa2net.widgets.controls import guarded
from napari_sa2net.widgets.napari_port import PLUGIN, NapariPort
from napari_sa2net.widgets.napari_port.cells import CellLayers
from napari_sa2net.widgets.napari_port.drawing import undrawn
from napari_sa2net.widgets.napari_port.measured_layers import MeasuredLayers
from napari_sa2net.widgets.napari_port.reading import layer_key

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer
    from psygnal import SignalInstance

    from napari_sa2net.app.correct import CorrectController
    from napari_sa2net.app.folder import FolderController
    from napari_sa2net.app.learn import LearnController
    from napari_sa2net.app.live import LiveController
    from napari_sa2net.app.models import ModelsController
    from napari_sa2net.app.saving import Saving
    from napari_sa2net.app.see_why import ExplainController
    from napari_sa2net.widgets.cell_table import CellTable


# --------------------------------------------------------------------------------------------
# Carry calls from worker threads into the GUI thread.


class GuiDispatcher(QObject):
    """Call functions in the GUI thread, whoever asks.

    Worker threads never touch widgets or emit widgets' signals: they hand a function to
    this object, and the event loop of the thread that made it runs it later, in order.
    After :meth:`close` calls are dropped silently, so that an answer that comes too late
    meets no deleted widget.
    """

    _called = Signal(object, object)

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._open = True
        self._called.connect(self._run, Qt.ConnectionType.QueuedConnection)

    def __call__(self, function: Callable[..., Any], *args: Any) -> None:
        """Run ``function(*args)`` in the GUI thread soon; returns at once.

        Safe from any thread.
        """
        # the lock keeps close() and the emission apart: Qt may free the C++ side after it
        with self._lock:
            if self._open:
                self._called.emit(function, args)

    def close(self) -> None:
        """Drop every call from now on, also those under way."""
        with self._lock:
            self._open = False

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if self._open:
            function(*args)


# --------------------------------------------------------------------------------------------
# What runs, told to napari.

#: What the menu of a right click on a layer offers, and on which kind of layer.
ON_LAYERS = (("Segment", "image"), ("Measure cells", "labels"), ("Correct", "labels"))
#: ms; what is over sooner is nothing to tell
BRIEF_MS = 700
#: s; the end of what takes longer is told to whoever looks elsewhere
LONG = 20.0
#: %; of its speed, at which napari's wheel turns
WHEEL = 15


class Activity(QObject):
    """A run as napari shows it: a bar in its activity dock, and a word before it closes.

    At the end of a long run that nobody sees there is a notification.

    Parameters
    ----------
    what : str
        What runs, such as "learning".
    running, progress, outcome : callable
        Whether it runs, how far it is, and what came of it, in words.
    """

    def __init__(
        self,
        viewer: Viewer,
        what: str,
        running: Callable[[], bool],
        progress: Callable[[], JobProgress | None],
        outcome: Callable[[], str],
    ) -> None:
        super().__init__()
        self._viewer, self._what = viewer, what
        self._running, self._progress, self._outcome = running, progress, outcome
        self._began = 0.0
        self._bar: Any = None
        self._task: Any = None
        # napari's bars let other events in: only from here, and one call at a time
        self._inside = False
        self._clock = QTimer(self)
        self._clock.setInterval(BRIEF_MS)
        self._clock.timeout.connect(self._tick)

    def follow(self, _: Any = None) -> None:
        """Something may have begun or ended."""
        if not self._began and self._running():
            self._began = time.monotonic()
            self._clock.start()
        elif self._began and not self._running():
            QTimer.singleShot(0, self._tick)

    def end(self) -> None:
        """Nothing runs any more; harmless twice."""
        self._clock.stop()
        self._began = 0.0
        bar, task, self._bar, self._task = self._bar, self._task, None, None
        if task is not None:
            self._viewer.window._update_task_status(task, Status.COMPLETED)
        if bar is not None:
            bar.close()

    def _tick(self) -> None:
        if self._inside or not self._began:
            return
        self._inside = True
        try:
            if self._running():
                self._show()
            else:
                long = time.monotonic() - self._began > LONG
                self.end()
                if long:
                    self._tell(self._outcome())
        finally:
            self._inside = False

    def _show(self) -> None:
        if self._bar is None:
            # plugins have no public name for it yet
            register = getattr(self._viewer.window, "_register_task_status", None)
            if register is not None:
                self._task = register("SA2-Net", Status.BUSY, self._what)
            # napari lets the window be drawn in the middle of it, canvas and all
            with undrawn(self._viewer):
                self._bar = progress(total=100, desc=f"SA2-Net: {self._what}")
            self._calm()
            return  # the bar moves at the next tick: to set it draws the window, too
        now, bar = self._progress(), self._bar
        if now is not None and bar is not None:
            bar.update(round(100 * now.fraction) - bar.n)
            if bar is self._bar:
                bar.set_description(f"SA2-Net: {now.what}")

    def _calm(self) -> None:
        """Slow napari's turning wheel: each frame draws the window anew, canvas and all.

        Without a graphics card that took more time of the processor than all else of a run.
        """
        window = getattr(self._viewer.window, "_qt_window", None)
        for label in window.statusBar().findChildren(QLabel) if window is not None else ():
            if label.movie() is not None:
                label.movie().setSpeed(WHEEL)

    def _tell(self, words: str) -> None:
        docks = [
            dock
            for dock in self._viewer.window.dock_widgets.values()
            if isinstance(dock, QWidget) and dock.objectName() == DOCK and dock.isVisible()
        ]
        if words and not (docks and QApplication.activeWindow() is not None):
            show_info(f"SA2-Net: {words}")
            for dock in docks:
                QApplication.alert(dock.window())


#: objectName of every dock of ours
DOCK = "sa2net"
#: after the dock has been drawn
PRELOAD_MS = 1500
#: napari needs the first two for its first Labels layer
PRELOADED = (
    *("pandas", "skimage.color", "scipy.ndimage"),
    *("napari_sa2net.inference.planes", "napari_sa2net.edits"),
)
TABLE = "Table of cells"

_workspaces: weakref.WeakKeyDictionary[Any, Workspace] = weakref.WeakKeyDictionary()


class Workspace(QObject):
    """One per viewer; lives as long as a page of it is open.

    The engine process starts with the first page and ends with the last; what learns then is
    paused. What only some pages need is made with the first of them, and does nothing before:
    `explain`, `correct` (also with the first stroke on cells, which is journalled), `learn`
    and `models`.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._users = 0
        self._device = "auto"
        # where corrections are kept, where napari's preferences say so
        self._corrections: Path | None = None
        #: keys of the Correct page that a person wants, by what they do
        self.wanted_keys: dict[str, str] = {}
        self._table: CellTable | None = None
        self._going_on = ""
        #: those that are open, each with `show_page`
        self.docks: weakref.WeakSet[Any] = weakref.WeakSet()
        self.session = Session()
        self.dispatch = GuiDispatcher()
        self.port = NapariPort(viewer)
        self.link = EngineLink(self.session, dispatch=self.dispatch)
        self.controller = SegmentController(self.link)
        self.cells = CellLayers(self.port)
        self.measurements = Measurements(self.link)
        self.measured = MeasuredLayers(self.port, self.cells, self.measurements)
        port, controller, cells = self.port, self.controller, self.cells
        port.image_changed.connect(self._image_changed)
        port.pixels_changed.connect(controller.image_changed)
        port.image_gone.connect(controller.forget_image)
        port.result_edited.connect(controller.mark_edited)
        port.result_gone.connect(controller.forget_result)
        port.painted.connect(self._painted)
        controller.result_ready.connect(port.show)
        controller.result_ready.connect(self._remember)
        controller.labels_updated.connect(self._labels_updated)
        controller.table_ready.connect(lambda u: port.update_table(u.key, u.objects))
        # what was edited is made to be corrected
        port.add_to_edited = lambda *area: self.correct.add_area(*area)
        self.measured.changed.connect(lambda _: self._count())
        cells.changed.connect(self._count)
        self.session.events.result_key.connect(lambda _: self._count())
        self.session.events.measure.connect(self.measurements.choose)
        # cells of ours are measured unasked, those of others when a person asks
        cells.made.connect(self.measured.measure)
        session = self.session
        self._activities: list[Activity] = []
        self._watch(
            "finding cells",
            session,
            session.events.running,
            lambda: session.running,
            lambda: session.error.message if session.error is not None else session.counted,
        )

    def _watch(
        self,
        what: str,
        state: Any,
        changed: SignalInstance,
        running: Callable[[], bool],
        outcome: Callable[[], str],
    ) -> None:
        """Tell napari of a state's runs; ``changed`` speaks when one begins or ends."""
        viewer = self.port.viewer
        activity = Activity(viewer, what, running, lambda: state.progress, outcome)
        self._activities.append(activity)
        for signal in (changed, state.events.progress):
            signal.connect(activity.follow)

    # --- what is made with the page that needs it ------------------------------------------

    @cached_property
    def explain(self) -> ExplainController:
        """Of the See-why page."""
        from napari_sa2net.app.see_why import ExplainController

        explain, port = ExplainController(self.controller), self.port
        port.pixels_changed.connect(explain.forget_image)
        port.image_gone.connect(explain.forget_image)
        port.result_gone.connect(explain.forget_result)
        port.maps.gone.connect(explain.layer_gone)
        explain.overlay.connect(port.show_overlay)
        return explain

    @cached_property
    def correct(self) -> CorrectController:
        """Of the Correct page."""
        from napari_sa2net.app.correct import CorrectController

        correct, cells, port = CorrectController(self.link), self.cells, self.port
        port.pixels_changed.connect(correct.image_changed)
        port.image_gone.connect(correct.image_changed)
        cells.painted.connect(correct.stroke)
        cells.gone.connect(correct.forget_cells)
        correct.changed.connect(cells.show)
        correct.changed.connect(self.measured.correct_changed)
        correct.restored.connect(cells.show_restored)
        correct.journal_begun.connect(cells.set_journal)
        correct.waves_changed.connect(cells.set_waves)
        correct.carried_changed.connect(cells.set_carried)
        correct.state.events.folder.connect(self._folder_chosen)

        def refresh(_: Any = None) -> None:
            correct.set_cells(cells.source())

        cells.changed.connect(refresh)
        # after the port has shown it: key and model are on the layer only then
        self.controller.result_ready.connect(refresh)
        refresh()
        if self._corrections is not None:
            correct.keeping.set_folder(self._corrections)
        if self._made("folder") is not None:
            self._follow_corrections(correct)
        return correct

    @cached_property
    def live(self) -> LiveController:
        """Of the Correct page: what is learned while a person corrects."""
        from napari_sa2net.app.live import LiveController

        live = LiveController(self.correct)
        self.session.events.live.connect(self._remember)
        return live

    @cached_property
    def learn(self) -> LearnController:
        """Of the Learn page."""
        from napari_sa2net.app.learn import LearnController
        from napari_sa2net.config import FineTuneConfig
        from napari_sa2net.widgets.napari_port.folder_layers import KeptLayers

        learn = LearnController(self.controller, self.correct)
        learn.set_config(FineTuneConfig(device=self._device))
        self.port.maps.gone.connect(learn.layer_gone)
        learn.overlay.connect(self.port.show_overlay)
        self._kept = KeptLayers(self.port, self.cells)  # a signal holds its listeners weakly
        learn.set.opened.connect(self._kept.show)
        state = learn.state

        def outcome() -> str:
            if state.error is not None:
                return state.error.message
            if state.phase != "idle" or state.outcome is None:
                return ""
            return state.outcome.verdict.text

        self._watch("learning", state, state.events.phase, lambda: learn.running, outcome)
        return learn

    @cached_property
    def saving(self) -> Saving:
        """Of the table of cells."""
        from napari_sa2net.app.saving import Saving

        return Saving(self.link)

    @cached_property
    def folder(self) -> FolderController:
        """Of a folder of images, made when one is opened."""
        from napari_sa2net.app.folder import FolderController
        from napari_sa2net.widgets.napari_port.folder_layers import FolderLayers
        from napari_sa2net.widgets.napari_port.keys import Keys

        folder = FolderController(self.link, self._training_set)
        self._folder_layers = FolderLayers(
            self.port, self.cells, folder, self.controller, self._correct_if
        )
        self._folder_keys = Keys({"PageDown": folder.next, "PageUp": folder.previous})
        folder.state.events.order.connect(self._list_opened)
        self._watch(
            "segmenting a folder",
            folder.state,
            folder.state.events.running,
            lambda: folder.state.running,
            lambda: folder.state.said,
        )
        correct = self._made("correct")
        if correct is not None:
            self._follow_corrections(correct)
        return folder

    def _training_set(self) -> Path:
        """Where corrections are kept."""
        correct = self._made("correct")
        if correct is not None:
            return Path(correct.state.folder)
        from napari_sa2net.app.keep import default_folder

        return self._corrections or default_folder()

    def _correct_if(self, make: bool) -> CorrectController | None:
        """The controller of corrections, made now if need be."""
        made: CorrectController | None = self.correct if make else self._made("correct")
        return made

    def _list_opened(self, order: tuple[int, ...]) -> None:
        """The keys walk through the list while there is one, on whichever page."""
        if not order:
            self._folder_keys.release()
        else:
            self._folder_keys.bind(self.port.viewer)

    def _follow_corrections(self, correct: CorrectController) -> None:
        """The list of the folder tells what is corrected and kept."""
        correct.changed.connect(self._corrected)
        correct.state.events.kept.connect(self._kept_some)
        correct.state.events.cells.connect(self._next_image)
        correct.through = self._image_through

    def _corrected(self, key: str, _: Any) -> None:
        session = self.correct.session_of(key)
        if session is not None and self._folder_layers.is_shown(key):
            self.folder.touched(n_cells=session.n_cells)

    def _image_through(self) -> None:
        """Every cell of the shown image is reviewed: go on with the next of the folder."""
        cells = self.correct.state.cells
        if cells is not None and self._folder_layers.is_shown(cells.key):
            state, done = self.folder.state, self.correct.state.said.words
            before, self._going_on = state.current, cells.key
            words = self.folder.go_on()
            if state.opening < 0 and state.current == before:
                self._going_on = ""  # there is no other
            self.correct.say(f"{done} {words}")

    def _next_image(self, cells: Any) -> None:
        """The walk goes on with the first cell of the image that was opened for it."""
        if not self._going_on or cells is None or cells.key == self._going_on:
            return
        if self.folder.state.opening < 0 and self._folder_layers.is_shown(cells.key):
            self._going_on = ""
            # not now: napari is at work on its layers
            QTimer.singleShot(0, self.correct.review.next)

    def _kept_some(self, words: str) -> None:
        """Corrections were kept, perhaps all of the shown image."""
        cells, session = self.correct.state.cells, self.correct.session
        if words and cells is not None and session is not None:
            tally = session.tally
            if tally.kept and not tally.unsaved and self._folder_layers.is_shown(cells.key):
                self.folder.touched("kept")

    @cached_property
    def models(self) -> ModelsController:
        """Of the Models page."""
        from napari_sa2net.app.models import ModelsController

        models = ModelsController(self.controller)
        if self._made("correct") is not None or self._corrections is not None:
            models.set_folder(self._training_set())
        return models

    def _made(self, name: str) -> Any:
        """One of those above, if it was made already."""
        return self.__dict__.get(name)

    def _folder_chosen(self, folder: Any) -> None:
        models = self._made("models")
        if models is not None:
            models.set_folder(folder)

    def _painted(self, layer: Labels, atoms: Any) -> None:
        """A stroke, perhaps the first thing that is done to any cells."""
        _ = self.correct
        self.cells.take_stroke(layer, atoms)

    # --- its life --------------------------------------------------------------------------

    @classmethod
    def of(cls, viewer: Viewer) -> Workspace:
        """The viewer's workspace; count one more user of it (see `release`)."""
        workspace = _workspaces.get(viewer)
        if workspace is None:
            if not _workspaces:
                _offers.append(offer_on_layers())
            workspace = _workspaces[viewer] = cls(viewer)
            workspace._take_preferences()
            workspace.measurements.choose(workspace.session.measure)
            workspace.controller.refresh_models()
            workspace.controller.set_image(workspace.port.source())
            workspace.controller.take_up(workspace.port.take_up())
            workspace.measured.take_up()
            workspace._count()
            workspace.controller.start()
            QTimer.singleShot(PRELOAD_MS, workspace._preload)
        workspace._users += 1
        return workspace

    def _preload(self) -> None:
        """What the first result needs, and takes a while to import: not when it comes.

        Python looks for garbage among all objects once a quarter of them is new, so after these
        imports, and the window stands still for it: now, not within the run that follows.
        """
        missing = [name for name in PRELOADED if name not in sys.modules]
        if not missing:
            return

        def load() -> None:
            for name in missing:
                import_module(name)
            self.dispatch(gc.collect)

        threading.Thread(target=load, daemon=True).start()

    def release(self) -> None:
        """One user less; the last one ends the engine and leaves the viewer."""
        self._users -= 1
        if self._users == 0:
            self._remember()
            for activity in self._activities:
                activity.end()
            folder = self._made("folder")
            if folder is not None:
                folder.segmenting.cancel()
                folder.save()
                folder.close()
                self._folder_keys.release()
                self._folder_layers.close()
            self.port.leave(self.controller.results())
            self.measured.leave()
            for viewer, workspace in list(_workspaces.items()):
                if workspace is self:
                    del _workspaces[viewer]
            if not _workspaces and _offers:
                _offers.pop()()
            self.dispatch.close()
            live, learn, correct = map(self._made, ("live", "learn", "correct"))
            for part in (live, learn, self.controller, correct):
                if part is not None:
                    part.close()
            for part in map(self._made, ("models", "saving", "explain")):
                if part is not None:
                    part.close()
            if self._table is not None:
                self._table.shut()
            self.measured.close()
            self.cells.close()
            self.port.close()

    def refresh_image(self) -> None:
        """Take plane and view as they are shown now."""
        self.controller.set_image(self.port.source())

    def set_region(self, where: Where, planes: Planes | None = None) -> None:
        """A person has chosen how much of the image is looked at."""
        before = self.session.where
        self.controller.set_region(where, planes)
        if where == "area" != before:
            self.port.draw_area()
        self.refresh_image()

    def _count(self) -> None:
        """The line of the chosen cells as they are now."""
        layer, session = self.cells.current, self.session
        line = name = ""
        if layer is not None:
            line = self.measured.line(layer)
            if not line:
                name = layer.name
            elif self.port.result_key(layer) != session.result_key:
                line = f"“{layer.name}”: {line}"
        session.counted, session.countable = line, name

    def show_table(self) -> CellTable:
        """Open the table of the chosen cells below the canvas, or show it again."""
        from napari_sa2net.widgets.cell_table import HEIGHT, CellTable
        from napari_sa2net.widgets.numbers import NumbersView

        window = self.port.viewer.window
        if self._table is None or TABLE not in window.dock_widgets:
            if self._table is not None:
                self._table.shut()
            self._table = table = CellTable(
                self.session,
                self.cells,
                self.measured,
                self.port.viewer,
                self.saving,
                NumbersView(
                    self.port.viewer,
                    lambda labels: self.correct.remove(labels),
                    lambda: self.correct.undo(),
                ),
            )
            # beside the canvas it would squeeze the pages
            dock = window.add_dock_widget(table, name=TABLE, area="bottom")
            main = dock.parent()
            # below the canvas alone: the columns beside it keep their height
            for corner, side in (
                (Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea),
                (Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea),
            ):
                main.setCorner(corner, side)
            # it has a size to change only when it has been laid out
            QTimer.singleShot(
                0, lambda: main.resizeDocks([dock], [HEIGHT], Qt.Orientation.Vertical)
            )
        dock = self._table.parentWidget()
        assert dock is not None
        dock.show()
        dock.raise_()
        return self._table

    def open_page(self, name: str) -> None:
        """Show a page where it is open, else in a dock of its own."""
        if not self.show_where_open(name):
            guarded(self.session, lambda: self.port.open_page(name))

    def show_where_open(self, name: str, but: Any = None) -> bool:
        """Show a page where it is open, in another dock than this; False where it is not."""
        return any(dock.show_page(name) for dock in list(self.docks) if dock is not but)

    def measure_cells(self) -> None:
        """Measure the chosen cells, whatever made them."""
        if self.cells.current is not None:
            self.measured.measure(self.cells.current)

    def _remember(self, _: Any = None) -> None:
        remember(self.controller, preferences())

    def _take_preferences(self) -> None:
        """Start with what the person chose last, here or in napari's preferences."""
        chosen = preferences()
        self.session.model = chosen.get("model") or self.session.model
        self._device = chosen.get("device") or "auto"
        folder = chosen.get("corrections", "").strip()
        self._corrections = Path(folder).expanduser().absolute() if folder else None
        self.wanted_keys = {
            name.removeprefix(_KEY): key
            for name, key in chosen.items()
            if name.startswith(_KEY)
        }
        with suppress(ValueError):
            self.link.client.memory = max(0, int(float(chosen.get("memory") or 0) * 2**30))
        self.session.predict = PredictConfig(device=self._device)
        recall(self.controller, chosen)

    def _labels_updated(self, update: LabelsUpdate) -> None:
        """A slider moved; the table follows when it rests."""
        layer = self.port.result_layer(update.key)
        if layer is None or not self.port.update_labels(update.key, update.labels):
            return
        if self.port.added_part(layer) is None:
            self.measurements.set_summary(layer_key(layer), update.summary)

    def _image_changed(self) -> None:
        self.refresh_image()


#: What takes the entries of `offer_on_layers` away again, while there are any.
_offers: list[Callable[[], None]] = []


def offer_on_layers() -> Callable[[], None]:
    """Put our commands into the menu of a right click on a layer, which no manifest can.

    Returns
    -------
    callable
        Takes them away.
    """
    try:
        from napari._app_model import get_app_model

        app = get_app_model()
        made = [
            app.register_action(
                Action(
                    id=f"{PLUGIN}.on_layer.{number}",
                    title=f"{words} (SA2-Net)",
                    callback=partial(_do_on_layer, words),
                    palette=False,
                    menus=[
                        MenuRule(
                            id="napari/layers/context",
                            when=f"active_layer_type == {kind!r}",
                            group="0_sa2net",
                        )
                    ],
                )
            )
            for number, (words, kind) in enumerate(ON_LAYERS)
        ]

        def take_away() -> None:
            for one in made:
                one()

        return take_away
    except (ImportError, AttributeError):  # private to napari
        return lambda: None


def _do_on_layer(words: str) -> None:
    """What was chosen in the menu, in the window that is open in front."""
    workspace = _workspaces.get(napari.current_viewer())
    if workspace is None:
        return
    if words in ("Segment", "Correct"):
        workspace.open_page(words)
    else:
        workspace.measure_cells()
        guarded(workspace.session, workspace.show_table)


#: Beginning of the names of keys among the preferences.
_KEY = "key of "


def preferences() -> dict[str, str]:
    """Settings of ours in napari's preferences; empty where napari has none yet (< 0.9)."""
    if not _may_be_set():
        return {}
    try:
        from napari.settings import get_plugin_settings

        settings = get_plugin_settings(PLUGIN)
        return {
            "model": str(settings.segment.model),
            "device": str(settings.segment.device),
            "corrections": str(settings.correct.corrections),
            "memory": str(settings.segment.memory),
            **{_KEY + name: str(key) for name, key in settings.keys.model_dump().items()},
        }
    except (ImportError, KeyError, AttributeError):
        return {}


def _may_be_set() -> bool:
    """False where nobody has set anything: napari would read every plugin's manifest to say so.

    That is where it has not read them yet, and our settings have no file.
    """
    if getattr(napari.settings, "_PLUGIN_SETTINGS", True):
        return True
    path = napari.settings.get_settings().config_path
    return path is not None and (Path(path).parent / f"{PLUGIN}.yaml").is_file()
