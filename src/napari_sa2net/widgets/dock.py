"""The dock: all pages, or one of them alone; and the window of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar, overload

from napari.settings import get_settings
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer, QUrl, Signal
from qtpy.QtGui import QDesktopServices, QShowEvent
from qtpy.QtWidgets import (
    QDockWidget,
    QFrame,
    QMainWindow,
    QScrollArea,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.widgets.controls import WheelGuard, around, guarded, link_button, vbox
from napari_sa2net.widgets.napari_port import PLUGIN
from napari_sa2net.widgets.napari_port.connections import Connections
from napari_sa2net.widgets.page import PageWidget
from napari_sa2net.widgets.theme import style_sheet
from napari_sa2net.widgets.workspace import DOCK, Workspace

if TYPE_CHECKING:
    import napari.viewer

    from napari_sa2net.widgets.workspace import Workspace


# --------------------------------------------------------------------------------------------
# The pages of the dock, in the order of the work.
#
# A new page is a subclass of `PageWidget` and one more entry in `PAGES`.


@dataclass(frozen=True)
class Page:
    """A page: its name on the tab, a tooltip, and its class, which loads when it is needed.

    ``manual``: what of the documentation tells of it.
    """

    name: str
    tip: str
    kind: str
    manual: str

    def make(self, workspace: Workspace) -> PageWidget:
        """A new page."""
        made: PageWidget = resolve_name(f"{__package__}.{self.kind}")(workspace)
        return made


PAGES: tuple[Page, ...] = (
    Page("Segment", "Find the cells in an image", "segment:SegmentPage", "quickstart"),
    Page(
        "See why",
        "What the network looked at, and what if it had not",
        "see_why.page:SeeWhyPage",
        "see_why",
    ),
    Page(
        "Correct",
        "Repair cells, say which are right, and keep that",
        "correct.page:CorrectPage",
        "correct",
    ),
    Page("Learn", "Teach the model what you corrected", "learn.page:LearnPage", "learn"),
    Page(
        "Models",
        "Which models there are; import, compare, rename, remove",
        "models:ModelsPage",
        "models",
    ),
)


def page_named(name: str) -> Page:
    """The page of that name."""
    return next(page for page in PAGES if page.name == name)


WIDTH = 360
#: of the plugin in napari's menus
TITLE = "SA2-Net"
DOCUMENTATION = "https://napari-sa2net.github.io/napari-sa2net"
HELP_TIP = "What this page can do, in the documentation (opens the browser)"


def manual_url(page: Page) -> QUrl:
    """Where the documentation of a page is."""
    return QUrl(f"{DOCUMENTATION}/{page.manual}/")


class SA2NetDock(QWidget):
    """Dock widget with the pages of SA2-Net; with a single page there are no tabs.

    Parameters
    ----------
    viewer : napari.Viewer
    pages : tuple of Page, optional
        Those of the class where it is not given.

    Attributes
    ----------
    shown : tuple of Page
        What the class shows.
    pages : sequence of PageWidget
        In the order of their tabs; each is made when it is first shown or asked for here.
    """

    shown: ClassVar[tuple[Page, ...]] = PAGES

    # napari passes the viewer where it finds this annotation, spelled so
    def __init__(
        self, viewer: napari.viewer.Viewer, pages: tuple[Page, ...] | None = None
    ) -> None:
        super().__init__()
        # to plugins napari hands a proxy that gives new proxies of layers at every access;
        # telling layers apart needs the viewer itself
        viewer = getattr(viewer, "__wrapped__", viewer)
        self.setObjectName(DOCK)
        self._viewer = viewer
        pages = pages or self.shown
        self._docked = False
        self._watched: QDockWidget | None = None
        self._in_front = self._closing = False
        # a new dock comes to the front once the tabs that it joins are laid out
        self._was_hidden = True
        self.workspace: Workspace | None = Workspace.of(viewer)
        self.workspace.docks.add(self)
        self._places = [_Place(page, self.workspace) for page in pages]
        for place in self._places:
            place.filled.connect(self._page_made)
        self.pages: Sequence[PageWidget] = _Pages(self._places)
        self._wheel = WheelGuard(self)
        self._connections = Connections()
        # when napari closes, its window deletes the dock without a word to the widget; what
        # is called then must not touch the widget, which is gone already
        self._farewell = _Farewell(self._connections, self.workspace)
        self.destroyed.connect(self._farewell)
        content: QWidget = self._places[0]
        self._tabs: QTabWidget | None = None
        if len(pages) > 1:
            content = self._tabs = tabs = QTabWidget()
            tabs.setUsesScrollButtons(False)
            tabs.setElideMode(Qt.TextElideMode.ElideRight)
            bar = tabs.tabBar()
            if bar is not None:
                bar.setExpanding(False)
            for page, place in zip(pages, self._places, strict=True):
                index = tabs.addTab(place, page.name)
                tabs.setTabToolTip(index, page.tip)
            tabs.currentChanged.connect(self._tab_chosen)
        vbox(content, on=self)
        self._connections.connect(viewer.events.theme, self._restyle)
        appearance = get_settings().appearance.events
        self._connections.connect(appearance.font_size, self._restyle)
        self._restyle()
        self._places[0].fill()

    def sizeHint(self) -> QSize:
        """The size that suits it."""
        return QSize(WIDTH, 640)

    def show_page(self, name: str) -> bool:
        """Bring a page to the front; False where it is not here."""
        names = [place.name for place in self._places]
        if name not in names:
            return False
        if self._tabs is not None:
            self._tabs.setCurrentIndex(names.index(name))
        self._raise()
        return True

    def shut(self) -> None:
        """End the engine (with the last page) and undo every connection; harmless twice."""
        if not self._farewell.said:
            for page in self._made():
                page.shut()
            self._farewell()
        if self.workspace is not None:
            self.workspace.docks.discard(self)
        self.workspace = None
        for place in self._places:
            place.workspace = None

    def event(self, event: QEvent | None) -> bool:
        """Look at the events of its own."""
        if event is not None:
            kind = event.type()
            if kind == QEvent.Type.ParentChange:
                # napari takes the widget out of its dock when a person closes it
                if self.parentWidget() is not None:
                    if not self._docked:
                        # napari has yet to put the dock into its window
                        QTimer.singleShot(0, self._join)
                    self._docked = True
                    self._watch_dock()
                elif self._docked:
                    self.shut()
                    # nobody else does: it would stay as a hidden window
                    self.deleteLater()
            elif kind == QEvent.Type.Show:
                self._restyle()
        return super().event(event)

    def _join(self) -> None:
        """Lie behind the same tabs as other docks of ours: one below the other both are low."""
        if self._farewell.said:
            return
        dock, window = _dock_of(self), self.window()
        if dock is None or not isinstance(window, QMainWindow) or dock.isFloating():
            return
        if self._goes_elsewhere(dock):
            self._viewer.window.remove_dock_widget(dock)
            return
        for other in window.findChildren(SA2NetDock):
            its = _dock_of(other)
            if (
                its not in (None, dock)
                and not its.isFloating()
                and window.dockWidgetArea(its) == window.dockWidgetArea(dock)
                and its not in window.tabifiedDockWidgets(dock)
            ):
                window.tabifyDockWidget(its, dock)
                dock.raise_()
                return

    def _goes_elsewhere(self, dock: QDockWidget) -> bool:
        """Whether a page that was chosen in napari's menu is shown where it is open already.

        Napari has made this dock for it by then; one that a script asks for has another name.
        """
        name, workspace = self._places[0].name, self.workspace
        if self._tabs or workspace is None or getattr(dock, "name", "") != f"{name} ({TITLE})":
            return False
        return workspace.show_where_open(name, self)

    def _watch_dock(self) -> None:
        """Follow the dock: napari's menu hides one that is there, also behind a tab."""
        dock = _dock_of(self)
        if dock is None or dock is self._watched:
            return
        self._watched = dock
        dock.visibilityChanged.connect(self._seen)
        dock.installEventFilter(self)

    def _seen(self, seen: bool) -> None:
        self._in_front = seen

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Look at the events of what is watched."""
        dock = self._watched
        ours = dock is not None and watched is dock and not self._farewell.said
        if ours and dock is not None and event is not None:
            kind = event.type()
            if kind == QEvent.Type.Close:
                self._closing = True
            elif kind == QEvent.Type.Hide and dock.isHidden():
                # whoever asks for what lies behind a tab wants to see it
                if not (self._in_front or self._closing or dock.isFloating()):
                    QTimer.singleShot(0, self._raise)
                self._closing, self._was_hidden = False, True
            elif kind == QEvent.Type.Show and self._was_hidden:
                self._was_hidden = False
                QTimer.singleShot(0, self._raise)
        return super().eventFilter(watched, event)

    def _raise(self) -> None:
        """Bring it before the docks behind the same tabs."""
        dock = _dock_of(self)
        if dock is not None and not self._farewell.said:
            dock.show()
            dock.raise_()

    def _restyle(self, event: object = None) -> None:
        sheet = style_sheet(self._viewer.theme)
        if sheet != self.styleSheet():
            self.setStyleSheet(sheet)
        for page in self._made():
            page.set_theme(self._viewer.theme)

    def _made(self) -> list[PageWidget]:
        """The pages that were made so far."""
        return [place.page for place in self._places if place.page is not None]

    def _tab_chosen(self, index: int) -> None:
        if self.workspace is not None:
            self._places[index].fill()

    def _page_made(self, page: PageWidget) -> None:
        self._farewell.connections.append(page.connections)
        self._wheel.guard(page)
        page.set_theme(self._viewer.theme)


def _dock_of(widget: QWidget) -> QDockWidget | None:
    """The dock that a widget lies in."""
    return around(widget, QDockWidget)


class _Farewell:
    """Undoes a dock's connections and releases its workspace, once."""

    def __init__(self, connections: Connections, workspace: Workspace) -> None:
        self.said = False
        self.connections = [connections]
        self._workspace = workspace

    def __call__(self) -> None:
        if self.said:
            return
        self.said = True
        for made in self.connections:
            made.disconnect()
        self._workspace.release()


class _Place(QScrollArea):
    """Makes a page when it is first shown; scrolls it up and down, and is never narrower."""

    filled = Signal(object)

    def __init__(self, page: Page, workspace: Workspace) -> None:
        super().__init__()
        self.page: PageWidget | None = None
        self.workspace: Workspace | None = workspace
        self.name = page.name
        self._page, self._make = page, page.make
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def fill(self) -> PageWidget:
        """The page, made now if it was not."""
        if self.page is None:
            assert self.workspace is not None
            self.page = self._make(self.workspace)
            help_link = link_button("Help", HELP_TIP)
            help_link.clicked.connect(lambda: QDesktopServices.openUrl(manual_url(self._page)))
            inside = self.page.layout()
            assert isinstance(inside, QVBoxLayout)
            inside.addWidget(help_link, 0, Qt.AlignmentFlag.AlignRight)
            self.setWidget(self.page)
            self.filled.emit(self.page)
            # what is put into a place that is seen already stays hidden without this
            self.page.show()
        return self.page

    def showEvent(self, event: QShowEvent | None) -> None:
        if self.workspace is not None:
            self.fill()
        super().showEvent(event)

    def minimumSizeHint(self) -> QSize:
        page, bar = self.widget(), self.verticalScrollBar()
        hint = super().minimumSizeHint()
        if page is None or bar is None:
            return hint
        return QSize(page.minimumSizeHint().width() + bar.sizeHint().width(), hint.height())


class _Pages(Sequence[PageWidget]):
    """The pages of a dock, made as they are asked for."""

    def __init__(self, places: list[_Place]) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> PageWidget: ...
    @overload
    def __getitem__(self, index: slice) -> list[PageWidget]: ...
    def __getitem__(self, index: int | slice) -> PageWidget | list[PageWidget]:
        if isinstance(index, slice):
            return [place.fill() for place in self._places[index]]
        return self._places[index].fill()


class SegmentDock(SA2NetDock):
    """The Segment page alone."""

    shown = (page_named("Segment"),)


class SeeWhyDock(SA2NetDock):
    """The See-why page alone."""

    shown = (page_named("See why"),)


class CorrectDock(SA2NetDock):
    """The Correct page alone."""

    shown = (page_named("Correct"),)


class ModelsDock(SA2NetDock):
    """The Models page alone."""

    shown = (page_named("Models"),)


class LearnDock(SA2NetDock):
    """The Learn page alone."""

    shown = (page_named("Learn"),)


def measure_cells(viewer: napari.viewer.Viewer) -> None:
    """Measure the cells of the selected layer, and open their table (Layers ▸ Measure).

    Any whole-number Labels layer will do; where none is chosen, the dock says what to do.
    """
    dock = viewer.window.add_plugin_dock_widget(PLUGIN, "SA2-Net")[1]
    workspace = dock.workspace
    workspace.measure_cells()
    guarded(workspace.session, workspace.show_table)


# --------------------------------------------------------------------------------------------
# The demo: napari with a sample, the dock, and a segmentation under way.

#: What the model handles best of the samples that are real, and what is there without them.
SAMPLE, WITHOUT = "nuclei_stack", "tissue"


def open_demo(model: str = "nuclei", device: str = "auto") -> None:
    """Open napari, segment a sample, and stay until the window is closed."""
    import napari

    viewer = napari.Viewer()
    segment_sample(viewer, model, device)
    napari.run()


def segment_sample(
    viewer: napari.viewer.Viewer, model: str = "nuclei", device: str = "auto"
) -> SA2NetDock:
    """Open the sample and the dock, and press Segment; returns the dock at once.

    Parameters
    ----------
    viewer : napari.Viewer
    model : str
        Name or path.
    device : str
    """
    from napari_sa2net.data.samples import has_bio_samples

    stack = has_bio_samples()
    viewer.open_sample(PLUGIN, SAMPLE if stack else WITHOUT)
    if stack:
        viewer.dims.set_current_step(0, int(viewer.dims.nsteps[0]) // 2)
    _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, "SA2-Net")
    controller = dock.workspace.controller
    controller.set_model(model)
    controller.set_predict(controller.session.predict.model_copy(update={"device": device}))
    if stack:
        # Its middle plane: all of them would take a minute.
        controller.set_region(planes="current")
    dock.workspace.refresh_image()
    controller.segment()
    return dock
