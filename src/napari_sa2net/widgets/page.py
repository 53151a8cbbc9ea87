"""What several pages have in common: choosing the image, starting a run, getting an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QPoint, QSize, Qt
from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton, QScrollArea, QWidget

from napari_sa2net.app.session import RunTime
from napari_sa2net.widgets.controls import (
    ErrorBox,
    ProgressLine,
    around,
    guarded,
    muted,
    push_button,
    range_words,
    repolish,
    text_label,
    vbox,
)
from napari_sa2net.widgets.napari_port.connections import Connections
from napari_sa2net.widgets.number_field import take_typed
from napari_sa2net.widgets.rows import ImageRow

if TYPE_CHECKING:
    from napari_sa2net.widgets.workspace import Workspace

SAMPLES = [
    ("nuclei", "Synthetic nuclei with the true outlines"),
    ("tissue", "Stained tissue (skin)"),
    ("nuclei_stack", "Stack of nuclei, 60 planes"),
    ("timelapse", "Time-lapse of cells, 30 frames"),
]


class PageWidget(QWidget):
    """What the dock asks of a page.

    Attributes
    ----------
    connections : Connections
        To session, controller and port; undone before the page goes.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.connections = Connections()

    def minimumSizeHint(self) -> QSize:
        """The least size."""
        # as low as one likes: a scroll area believes the height that a layout names here,
        # which counts wrapped lines at their narrowest, and would always show its bar
        return QSize(super().minimumSizeHint().width(), 1)

    def bring_up(self, *parts: QWidget) -> None:
        """Scroll until parts that belong together are seen, or else the first of them."""
        area = around(self, QScrollArea)
        port, bar = (area.viewport(), area.verticalScrollBar()) if area else (None, None)
        if port is None or bar is None:
            return
        tops = [part.mapTo(self, QPoint(0, 0)).y() for part in parts]
        ends = [top + part.height() for top, part in zip(tops, parts, strict=True)]
        if max(ends) > bar.value() + port.height() or min(tops) < bar.value():
            bar.setValue(min(min(tops), max(ends) - port.height()))

    def shut(self) -> None:
        """The page is about to go: undo every connection."""
        self.connections.disconnect()

    def set_theme(self, theme: str) -> None:
        """Theme or font changed; for what a style sheet cannot do."""


def error_box(page: PageWidget, workspace: Workspace, controller: Any = None) -> ErrorBox:
    """What went wrong, with a page's controller of its own or in the session."""
    box, session, segment = ErrorBox(page), workspace.session, workspace.controller
    controllers = [segment] if controller is None else [controller, segment]

    def show() -> None:
        error = controller.state.error if controller is not None else None
        box.set_error(error or session.error, can_restart=session.engine == "down")

    def dismiss() -> None:
        for one in controllers:
            one.dismiss_error()

    own = [controller.state.events.error] if controller is not None else []
    page.connections.follow(show, session.events.error, session.events.engine, *own)
    box.dismissed.connect(dismiss)
    box.restartWanted.connect(segment.link.restart)
    return box


class ImageChoice(QObject):
    """The list of images and its pin; the port keeps the choice for all pages."""

    def __init__(self, workspace: Workspace, page: PageWidget) -> None:
        super().__init__(page)
        self.row = ImageRow()
        self._session = workspace.session
        self._port = workspace.port
        self.row.chosen.connect(self._choose)
        self.row.pinToggled.connect(self._pin)
        port, events = self._port, self._session.events
        page.connections.follow(
            self.refresh, port.images_changed, port.image_changed, events.image
        )

    def refresh(self) -> None:
        """Show the images as they are."""
        source = self._session.image
        self.row.set_choices(self._port.choices(), source.key if source else None)
        self.row.set_pinned(self._port.pinned)

    def _choose(self, key: str) -> None:
        self._port.choose(key)
        self.row.set_pinned(self._port.pinned)

    def _pin(self, pinned: bool) -> None:
        self._port.set_pinned(pinned)
        self.row.set_pinned(self._port.pinned)


class NoImage(QWidget):
    """The page without an image: open one, or a sample.

    Parameters
    ----------
    promise : str
        What the page does with an image.
    *more : QWidget
        Further ways to begin.
    """

    def __init__(self, workspace: Workspace, promise: str, *more: QWidget) -> None:
        super().__init__()
        self._session, self._port = workspace.session, workspace.port
        title = text_label("Open an image, or try a sample", role="title")
        text = muted(promise)
        for part in (title, text):
            part.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.open = push_button(
            "Open an image…",
            "Choose an image file; you can also drop one onto napari",
            "primary",
        )
        self.sample = push_button(
            "Try a sample", "Open an image that comes with the plugin", ""
        )
        menu = QMenu(self.sample)
        for key, words in SAMPLES:
            action = menu.addAction(words)
            assert action is not None
            action.triggered.connect(lambda _=False, key=key: self._open_sample(key))
        self.sample.setMenu(menu)
        parts = (title, text, self.open, self.sample, *more)
        vbox(*parts, on=self, spacing=10, margins=(4, 24, 4, 24))
        self.open.clicked.connect(self._open)

    def _open(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Open an image")
        if paths:
            guarded(self._session, lambda: self._port.open(paths))

    def _open_sample(self, name: str) -> None:
        guarded(self._session, lambda: self._port.open_sample(name))


class RunControls(QObject):
    """A page's big button, the progress line and the error box.

    While anything runs, of whichever page, the button cancels it.

    Parameters
    ----------
    words, tip : str
        Of the button while nothing runs.
    start : callable
        The button was pressed.
    seconds : callable
        How long it would take; None where that is not known.
    """

    def __init__(
        self,
        workspace: Workspace,
        page: PageWidget,
        words: str,
        tip: str,
        start: Callable[[], Any],
        seconds: Callable[[], RunTime | None],
    ) -> None:
        super().__init__(page)
        self.button = QPushButton(words)
        self.progress = ProgressLine()
        self.error = error_box(page, workspace)
        self._session = workspace.session
        self._controller = workspace.controller
        self._words, self._tip = words, tip
        self._start, self._seconds = start, seconds
        self._page = page
        events = self._session.events
        page.connections.follow(self.show_running, events.running, events.models)
        page.connections.follow(
            self.show_progress,
            *(events.progress, events.estimate, events.engine, events.device_line, events.info),
        )
        self.button.clicked.connect(self._pressed)

    def set_words(self, words: str) -> None:
        """Call the button so while nothing runs."""
        if words != self._words:
            self._words = words
            self.show_running()

    def show_running(self) -> None:
        """The button as it is now."""
        running = self._session.running
        self.button.setText("Cancel" if running else self._words)
        self.button.setToolTip("Stop; nothing is changed" if running else self._tip)
        self.button.setProperty("role", "cancel" if running else "primary")
        self.button.setEnabled(running or bool(self._session.models))
        repolish(self.button)
        self.show_progress()

    def show_progress(self) -> None:
        """How far the run is, or how long one would take."""
        session = self._session
        if session.running:
            self.progress.set_progress(session.progress, "")
        else:
            self.progress.set_progress(None, self._idle())

    def _pressed(self) -> None:
        if self._session.running:
            self._controller.cancel()
        else:
            take_typed(self._page)
            self._start()

    def _idle(self) -> str:
        session = self._session
        if not session.models:
            return "No model is installed. Install one with: sa2net models import FILE"
        if session.engine == "starting" or (session.engine != "down" and not session.info):
            return f"Getting ready in the background; you can press {self._words} already."
        parts = []
        seconds = self._seconds()
        if seconds is not None:
            words = range_words(seconds.low, seconds.high).capitalize()
            parts.append(words + " (longest with small cells)" if " to " in words else words)
        if session.device_line:
            parts.append(f"on {session.device_line}" if parts else session.device_line)
        return " ".join(parts)
