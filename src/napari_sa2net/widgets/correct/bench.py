"""Takes up and lays down the tools of the Correct page, and does what is drawn with them."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from itertools import zip_longest
from typing import Any
from weakref import WeakKeyDictionary

from napari.layers import Labels
from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QComboBox, QLabel, QWidget

from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.edit_session import Offer
from napari_sa2net.config import InstanceConfig
from napari_sa2net.widgets.controls import (
    Form,
    LeftoverBox,
    ValueSlider,
    fold_button,
    link_button,
    make_narrow,
    offer,
    tip_of,
    vbox,
)
from napari_sa2net.widgets.correct.tools import (
    NAPARI_KEYS,
    OTHER_KEYS,
    TOOLS,
    Tool,
    ToolStrip,
    tool_named,
)
from napari_sa2net.widgets.napari_port import NapariPort
from napari_sa2net.widgets.napari_port.connections import Connections
from napari_sa2net.widgets.napari_port.drawing import Drawing
from napari_sa2net.widgets.napari_port.keys import Keys, spelled
from napari_sa2net.widgets.napari_port.picking import CellPicker
from napari_sa2net.widgets.number_field import NumberField, take_typed
from napari_sa2net.words import counted, plural

# --------------------------------------------------------------------------------------------
# Smaller parts of the Correct page: restoring, settings of a box, keys.


class CellsRow(QComboBox):
    """List of Labels layers.

    Signals
    -------
    chosen : str
        Key of the layer that was picked.
    """

    chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        make_narrow(self, 8)
        self.activated.connect(lambda index: self.chosen.emit(self.itemData(index)))

    def set_choices(self, choices: list[tuple[str, str]], current: str | None) -> None:
        """Show the layers (key, name); says nothing."""
        offer(self, choices, current)


class OfferBox(LeftoverBox):
    """Corrections that were never kept; hidden where there are none."""

    def __init__(self) -> None:
        restore = link_button("Restore", "Show them as a new layer and go on")
        discard = link_button("Discard…", "Delete them for good")
        sure = link_button("Delete for good", "There is no way back")
        super().__init__((restore,), discard, sure)
        self.restore = restore

    def set_offers(self, offers: tuple[Offer, ...]) -> None:
        """Show the newest."""
        text = ""
        if offers:
            newest, more = offers[0], len(offers) - 1
            text = f"{newest.words}, {plural(newest.n_edits, 'was', 'were')} never kept."
            if newest.problem:
                text = f"{text} {newest.problem}"
            elif not newest.is_whole:
                text += (
                    " The program ended before everything was surely written down: once "
                    "restored, look whether your last steps are there."
                )
            if more:
                lots = counted(more, "older piece of work is", "older pieces of work are")
                text += f" {lots} offered after this one."
            self.restore.setEnabled(not newest.problem)
        self.set_words(text)


class BoxSettings(QWidget):
    """How a box is segmented again; starts with the settings of the Segment page."""

    def __init__(self) -> None:
        super().__init__()
        fields = InstanceConfig.model_fields
        self.foreground = ValueSlider(0.02, 0.98)
        self.split = ValueSlider(0, 1)
        self.diameter_box = NumberField()
        self.diameter_box.setRange(0, 10000)
        self.diameter_box.setDecimals(1)
        self.diameter_box.setSpecialValueText("as before")
        self.diameter_box.setSuffix(" px")
        self.diameter_box.set_lengths(None)
        form = Form()
        form.add(
            fields["foreground"].title or "Foreground",
            self.foreground,
            tip_of(InstanceConfig, "foreground"),
        )
        form.add(fields["split"].title or "Split", self.split, tip_of(InstanceConfig, "split"))
        form.add(
            "Object size",
            self.diameter_box,
            "Diameter of a cell in the box, in pixels; smaller finds smaller cells",
        )
        vbox(form, on=self)

    def set_values(self, config: InstanceConfig) -> None:
        """Start from these."""
        self.foreground.setValue(config.foreground)
        self.split.setValue(config.split)

    def instances(self, base: InstanceConfig) -> InstanceConfig:
        """``base`` with what the sliders say."""
        take_typed(self)
        return base.model_copy(
            update={"foreground": self.foreground.value(), "split": self.split.value()}
        )

    def diameter(self) -> float | None:
        """Object size in px; None for as before."""
        take_typed(self)
        return self.diameter_box.value() or None


class CheatSheet(QWidget):
    """All keys, folded away until asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.sheet = QLabel(_sheet())
        self.sheet.setTextFormat(Qt.TextFormat.RichText)
        # else a long key makes the whole page wider than the dock, which cuts it off
        self.sheet.setWordWrap(True)
        tip = "All keys of this page and the handiest of napari's"
        self.fold = fold_button("Keys", tip, self.sheet)
        vbox(self.fold, self.sheet, on=self, spacing=4)


def _sheet() -> str:
    tools = [(spelled(tool.key), tool.words) for tool in TOOLS]
    half = (len(tools) + 1) // 2
    pairs = zip_longest(tools[:half], tools[half:], fillvalue=("", ""))
    rows = [_row(*left, *right) for left, right in pairs]
    history = [("Ctrl+Z", "undo"), ("Ctrl+Shift+Z", "redo"), ("Esc", "lay the tool down")]
    others = [(spelled(key), words) for key, words in OTHER_KEYS.values()]
    rows += [_wide(key, words) for key, words in (*others, *history)]
    rows += [_wide(key, words + " (napari)") for key, words in NAPARI_KEYS]
    return f"<table cellspacing='2'>{''.join(rows)}</table>"


def _row(key: str, words: str, key2: str, words2: str) -> str:
    cell = "<td style='padding-right:6px'><b>{}</b></td><td style='padding-right:16px'>{}</td>"
    left, right = cell.format(escape(key), words), cell.format(escape(key2), words2)
    return f"<tr>{left}{right}</tr>"


def _wide(key: str, words: str) -> str:
    return (
        f"<tr><td style='padding-right:6px'><b>{escape(key)}</b></td>"
        f"<td colspan='3'>{escape(words)}</td></tr>"
    )


#: pixels of napari's brush where nobody has chosen another
NAPARI_BRUSH = 10

#: what the controller does with a click or a lasso of a tool
_ACTS = {"delete": "delete", "fill": "fill", "smooth": "smooth", "edge": "fit"}
_MARKS = ("ignore", "reviewed")


class ToolBench(QObject):
    """The strip of tools at work on one layer.

    Without a tool, a click on a cell chooses it for review. napari's brush and eraser are
    tools like the others; their buttons follow the layer.

    Parameters
    ----------
    port, controller
        Viewer, and what does the corrections.
    begin : callable
        Corrections of the layer are about to begin.
    page : QWidget
        While it is not seen, clicks are not ours.

    Attributes
    ----------
    tool : Tool or None
        Taken up now.
    """

    def __init__(
        self,
        port: NapariPort,
        controller: CorrectController,
        begin: Callable[[], Any],
        page: QWidget,
    ) -> None:
        super().__init__(page)
        self.strip = ToolStrip()
        self.box = BoxSettings()
        self.tool: Tool | None = None
        self._page = page
        self._viewer = port.viewer
        self._controller = controller
        self._begin = begin
        self._layer: Labels | None = None
        self._drawing: Drawing | None = None
        self._fixing = False
        self._brushes: WeakKeyDictionary[Labels, int] = WeakKeyDictionary()
        self._connections = Connections()
        # the other tools have Esc by the mouse at work for them
        self._brush_keys = Keys({"Escape": lambda: QTimer.singleShot(0, self.end)})
        self.picker = CellPicker(port.viewer, lambda: self._layer, controller.review.choose)
        self.strip.toolChosen.connect(self.choose)
        self.strip.undo.clicked.connect(controller.undo)
        self.strip.redo.clicked.connect(controller.redo)
        self._show()

    @property
    def layer(self) -> Labels | None:
        """What is corrected."""
        return self._layer

    @property
    def drawing(self) -> Drawing | None:
        """The mouse at work for a tool."""
        return self._drawing

    def set_layer(self, layer: Labels | None) -> None:
        """Work on a layer; a tool that is taken up is laid down."""
        if layer is not self._layer:
            self.lay_down()
            self._connections.disconnect()
            self._layer = layer
            if layer is not None:
                self._connections.connect(layer.events.mode, self.follow)
                active = self._viewer.layers.selection.events.active
                self._connections.connect(active, self.follow)
        self.follow()

    def end(self) -> None:
        """Lay down the tool that is taken up, napari's brush and eraser too."""
        if self.tool is not None:
            self.choose("")

    def end_fix(self) -> None:
        """The person is done with a cell: the brush that was taken up for it is laid down."""
        if self._fixing:
            self.end()

    def toggle(self, name: str) -> None:
        """Take up a tool, or lay it down."""
        self.choose("" if self.tool is not None and self.tool.name == name else name)

    def choose(self, name: str) -> None:
        """Take up a tool; with no name lay down the one that is taken up."""
        layer = self._layer
        was_brush = self.tool is not None and bool(self.tool.mode)
        self._fixing = False
        self.lay_down()
        if layer is None or not name:
            if layer is not None and was_brush:
                layer.mode = "pan_zoom"
            self._show()
            return
        tool = tool_named(name)
        self._begin()
        source = self._controller.state.cells
        # napari's own tools work from every side, but where the cells are
        own = not tool.mode or (source is not None and source.elsewhere)
        if own and self._controller.is_unseen():
            self._show()
            return
        if tool.mode:
            self._fit_brush()
            self._viewer.layers.selection.active = layer
            layer.mode = tool.mode
        else:
            assert tool.shape is not None
            self.picker.turn(False)
            self._drawing = Drawing(
                self._viewer,
                layer,
                tool.shape,
                f"{tool.words.lower()}: drawing (Esc ends)",
                lambda points: self._use(tool, points),
                (lambda point, alt: self._click(tool, point, alt)) if tool.clicks else None,
                self._drawing_ended,
                lambda call: QTimer.singleShot(0, call),
            )
        self.tool = tool
        self._show()

    def brush(self, label: int) -> None:
        """Take up the brush with a cell."""
        if self._layer is not None and label:
            self.choose("brush")
            self._layer.selected_label = label
            self._fixing = True

    def _fit_brush(self) -> None:
        """A brush of a third of a typical cell's diameter, until a person chooses another."""
        layer, session = self._layer, self._controller.session
        cells = self._controller.state.cells
        if layer is None or session is None or cells is None:
            return
        plane = session.corrections.plane(cells.plane)
        if not len(plane) or layer.brush_size != self._brushes.get(layer, NAPARI_BRUSH):
            return
        layer.brush_size = self._brushes[layer] = max(1, round(plane.typical_diameter / 3))

    def lay_down(self) -> None:
        """Give the mouse back to napari."""
        drawing, self._drawing, self.tool = self._drawing, None, None
        if drawing is not None:
            drawing.end()
        self.picker.turn(self._page.isVisible())

    def shut(self) -> None:
        """The page is about to go, or is not seen any more."""
        self.end_fix()
        self.lay_down()
        self._brush_keys.release()
        self.picker.turn(False)
        self._show()

    def disconnect_all(self) -> None:
        """Leave the layer with no callback of ours."""
        self._brush_keys.release()
        self._connections.disconnect()
        self._layer = None

    def follow(self, _: Any = None) -> None:
        """Show napari's brush or eraser as taken up where the layer is in that mode."""
        if self._drawing is not None:
            return
        layer = self._layer
        active = layer is not None and self._viewer.layers.selection.active is layer
        mode = str(layer.mode) if layer is not None and active else ""
        self.tool = next((tool for tool in TOOLS if tool.mode and tool.mode == mode), None)
        if layer is not None and self.tool is not None and self._page.isVisible():
            self._brush_keys.bind(layer)
            self._fit_brush()  # also where it is napari's button or key that takes it up
        else:
            self._fixing = False
            self._brush_keys.release()
        self._show()

    # --- inside --------------------------------------------------------------------------

    def _use(self, tool: Tool, points: Any) -> None:
        """Something was drawn with a tool."""
        controller = self._controller
        if tool.name == "click":
            controller.add(tuple(points.mean(axis=0)), points)
        elif tool.name == "box":
            base = controller.link.session.instances
            controller.segment_box(points, self.box.instances(base), self.box.diameter())
        elif tool.name in _MARKS:
            controller.mark(tool.name, points)
        elif tool.name in _ACTS:
            getattr(controller, _ACTS[tool.name])(lasso=points)
        else:
            getattr(controller, tool.name)(points)

    def _click(self, tool: Tool, point: tuple[float, float], alt: bool) -> None:
        """Something was clicked with a tool."""
        if tool.name == "click":
            if alt:
                self._controller.delete(point=point)
            else:
                self._controller.add(point)
        elif tool.name in _MARKS:
            self._controller.unmark(point)
        else:
            getattr(self._controller, _ACTS[tool.name])(point=point)

    def _drawing_ended(self) -> None:
        self._drawing, self.tool = None, None
        self.picker.turn(self._page.isVisible())
        self.follow()

    def _show(self) -> None:
        self.strip.set_tool(self.tool)
        self.box.setVisible(self.tool is not None and self.tool.name == "box")
