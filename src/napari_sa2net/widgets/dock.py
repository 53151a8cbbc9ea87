"""The dock: all pages, or one of them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.settings import get_settings
from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from napari_sa2net.widgets.common import WheelGuard
from napari_sa2net.widgets.napari_port.connections import Connections
from napari_sa2net.widgets.pages import PAGES, Page, page_named
from napari_sa2net.widgets.theme import style_sheet
from napari_sa2net.widgets.workspace import Workspace

if TYPE_CHECKING:
    import napari.viewer

WIDTH = 360


class SA2NetDock(QWidget):
    """Dock widget with the pages of SA2-Net; with a single page there are no tabs.

    Parameters
    ----------
    viewer : napari.Viewer
    pages : tuple of Page, optional
        All pages where it is not given.
    """

    # napari passes the viewer where it finds this annotation, spelled so
    def __init__(self, viewer: napari.viewer.Viewer, pages: tuple[Page, ...] = PAGES) -> None:
        super().__init__()
        # to plugins napari hands a proxy that gives new proxies of layers at every access;
        # telling layers apart needs the viewer itself
        viewer = getattr(viewer, "__wrapped__", viewer)
        self.setObjectName("sa2net")
        self._viewer = viewer
        self._docked = False
        self.workspace: Workspace | None = Workspace.of(viewer)
        self.pages = [page.make(self.workspace) for page in pages]
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        if len(pages) == 1:
            layout.addWidget(_Scrolled(self.pages[0]))
        else:
            tabs = QTabWidget()
            tabs.setUsesScrollButtons(False)
            tabs.setElideMode(Qt.TextElideMode.ElideRight)
            bar = tabs.tabBar()
            if bar is not None:
                bar.setExpanding(False)
            for page, widget in zip(pages, self.pages, strict=True):
                index = tabs.addTab(_Scrolled(widget), page.name)
                tabs.setTabToolTip(index, page.tip)
            layout.addWidget(tabs)
        self._wheel = WheelGuard(self)
        for widget in self.pages:
            self._wheel.guard(widget)
        self._connections = Connections()
        self._connections.connect(viewer.events.theme, self._restyle)
        appearance = get_settings().appearance.events
        self._connections.connect(appearance.font_size, self._restyle)
        self._restyle()
        # when napari closes, its window deletes the dock without a word to the widget; what
        # is called then must not touch the widget, which is gone already
        connections = [self._connections, *(page.connections for page in self.pages)]
        self._farewell = _Farewell(connections, self.workspace)
        self.destroyed.connect(self._farewell)

    def sizeHint(self) -> QSize:
        return QSize(WIDTH, 640)

    def shut(self) -> None:
        """End the engine (with the last page) and undo every connection; harmless twice."""
        if not self._farewell.said:
            for page in self.pages:
                page.shut()
            self._farewell()
        self.workspace = None

    def event(self, event: QEvent | None) -> bool:
        if event is not None:
            kind = event.type()
            if kind == QEvent.Type.ParentChange:
                # napari takes the widget out of its dock when a person closes it
                if self.parentWidget() is not None:
                    self._docked = True
                elif self._docked:
                    self.shut()
            elif kind == QEvent.Type.Show:
                self._restyle()
        return super().event(event)

    def _restyle(self, event: object = None) -> None:
        sheet = style_sheet(self._viewer.theme)
        if sheet != self.styleSheet():
            self.setStyleSheet(sheet)
        for widget in self.pages:
            widget.set_theme(self._viewer.theme)


class _Farewell:
    """Undoes a dock's connections and releases its workspace, once."""

    def __init__(self, connections: list[Connections], workspace: Workspace) -> None:
        self.said = False
        self._connections = connections
        self._workspace = workspace

    def __call__(self) -> None:
        if self.said:
            return
        self.said = True
        for made in self._connections:
            made.disconnect()
        self._workspace.release()


class _Scrolled(QScrollArea):
    """Scrolls a page up and down, and is never narrower than the page."""

    def __init__(self, page: QWidget) -> None:
        super().__init__()
        self.setWidget(page)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def minimumSizeHint(self) -> QSize:
        page, bar = self.widget(), self.verticalScrollBar()
        hint = super().minimumSizeHint()
        if page is None or bar is None:
            return hint
        return QSize(page.minimumSizeHint().width() + bar.sizeHint().width(), hint.height())


class SegmentDock(SA2NetDock):
    """The Segment page alone."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer, (page_named("Segment"),))


class SeeWhyDock(SA2NetDock):
    """The See-why page alone."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer, (page_named("See why"),))


class CorrectDock(SA2NetDock):
    """The Correct page alone."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer, (page_named("Correct"),))


class ModelsDock(SA2NetDock):
    """The Models page alone."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer, (page_named("Models"),))


class LearnDock(SA2NetDock):
    """The Learn page alone."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer, (page_named("Learn"),))


__all__ = ["CorrectDock", "LearnDock", "ModelsDock", "SA2NetDock", "SeeWhyDock", "SegmentDock"]
