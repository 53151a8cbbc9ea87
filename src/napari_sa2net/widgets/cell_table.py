"""The table of cells: a row is a cell on the canvas, and the other way round."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.theme import get_theme
from qtpy.QtCore import (
    QAbstractTableModel,
    QItemSelection,
    QItemSelectionModel,
    QItemSelectionRange,
    QModelIndex,
    Qt,
)
from qtpy.QtGui import QAction, QColor, QGuiApplication, QKeySequence
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QMenu,
    QSplitter,
    QTableView,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_sa2net.app.saving import Saving, cells_in_image
from napari_sa2net.data.formats import FORMATS, csv
from napari_sa2net.errors import OutputError
from napari_sa2net.files import write_atomically
from napari_sa2net.quantities import GROUPS, RING_GAP, RING_WIDTH
from napari_sa2net.widgets.controls import LineLabel, guarded, hbox, link_button, vbox
from napari_sa2net.widgets.napari_port.connections import Connections
from napari_sa2net.widgets.napari_port.measured_layers import finest
from napari_sa2net.widgets.napari_port.picking import CellPicker, show_cell
from napari_sa2net.widgets.napari_port.reading import layer_key
from napari_sa2net.widgets.napari_port.results import LABEL, METADATA_KEY
from napari_sa2net.widgets.napari_port.reviewed_layer import ChosenCell, PaintedCells
from napari_sa2net.widgets.theme import style_sheet
from napari_sa2net.words import counted

if TYPE_CHECKING:
    import pandas as pd
    from napari.viewer import Viewer

    from napari_sa2net.app.session import Session
    from napari_sa2net.widgets.napari_port.cells import CellLayers
    from napari_sa2net.widgets.napari_port.measured_layers import MeasuredLayers
    from napari_sa2net.widgets.numbers import NumbersView

HEIGHT = 260
#: What columns are called, with their unit.
HEADS = {
    LABEL: "label",
    "t": "time point",
    "z": "first plane",
    "planes": "planes",
    "area_px": "area (px²)",
    "area_um2": "area (µm²)",
    "volume_voxels": "volume (voxels)",
    "volume_um3": "volume (µm³)",
    "diameter_px": "diameter (px)",
    "eccentricity": "eccentricity",
    "mean_intensity": "mean intensity",
    "confidence": "confidence",
    "touches_border": "touches border",
    "centroid_z": "z (planes)",
    "centroid_y": "y (px)",
    "centroid_x": "x (px)",
}
#: Beginnings of the names of groups of measurements, the unit comes behind.
_MORE = {
    "surface": "surface",
    "perimeter": "perimeter",
    "equivalent_diameter": "diameter",
    "major_axis": "major axis",
    "minor_axis": "minor axis",
    "orientation": "orientation",
    "feret_max": "largest diameter (Feret)",
    "contact_fraction": "share of outline in contact",
    "contact": "contact",
}
_UNITS = {"um": "µm", "px": "px", "um2": "µm²", "px2": "px²", "deg": "°"}
_CHANNEL = re.compile(r"(mean|sum|std|min|max|background)_ch(\d+)")
#: What can be measured beside size, mean intensity and confidence, in words.
CHOICES = {
    "shape": ("Shape", "Perimeter, axes, orientation, solidity, circularity, Feret"),
    "intensity": (
        "Intensity of every channel",
        f"Mean, sum, deviation, least and most, and the mean of the background in a ring "
        f"{RING_GAP} to {RING_GAP + RING_WIDTH} px around each cell",
    ),
    "neighbours": ("Neighbours", "How many cells touch it, and along how much of its outline"),
}
#: Columns of places in a stack: the number at napari's slider, as in every file of a table.
COUNTED = ("t", "z")
FROM_0 = " (from 0)"
TIPS = {
    "t": "The number at napari's slider, which begins with 0, as in every saved table",
    "z": "The number at napari's slider, which begins with 0, as in every saved table",
    "centroid_z": "Centre of the cell as napari tells it of the mouse: the first plane is at 0",
    "centroid_y": "Centre of the cell as napari tells it of the mouse: the first pixel is at 0",
    "centroid_x": "Centre of the cell as napari tells it of the mouse: the first pixel is at 0",
}
NO_CELLS = "No cells over {}. Segment it on the Segment page, and they are listed here."
NO_IMAGE = "No cells. Open an image and segment it, and they are listed here."


def head(name: str) -> str:
    """What a column is called, with its unit."""
    if name in HEADS:
        return HEADS[name]
    if told := _CHANNEL.fullmatch(name):
        return f"channel {told[2]}: {told[1]}"
    begin, _, unit = name.rpartition("_")
    if unit in _UNITS and begin in _MORE:
        return f"{_MORE[begin]} ({_UNITS[unit]})"
    return _MORE.get(name, name)


def shown_columns(features: pd.DataFrame) -> dict[str, str]:
    """Columns that say something of these cells, with their heads."""
    names = [str(name) for name in features.columns]
    planes = features["planes"].to_numpy() if "planes" in names else np.ones(0)
    several = bool((planes > 1).any())
    # of cells in depth the areas of all planes are a volume, of flat ones there is none
    needless = set() if several else {"planes", "volume_voxels", "volume_um3"}
    if several and "volume_voxels" in names:
        needless = {"area_px", "area_um2"}
    if not several and "z" in names:
        needless |= {"centroid_z"}
    if f"equivalent_diameter_{'um' if 'area_um2' in names else 'px'}" in names:
        needless |= {"diameter_px"}  # the same, or in pixels
    heads = {name: head(name) for name in names if name not in needless}
    if "z" not in names and "planes" in heads:
        heads["planes"] = "time points"
    elif not several and "z" in heads:
        heads["z"] = "plane"
    return {name: head + FROM_0 * (name in COUNTED) for name, head in heads.items()}


def two_lines(words: str) -> str:
    """A head on two lines of about the same length, so that its column is narrow."""
    gaps = [i for i, letter in enumerate(words) if letter == " "]
    if not gaps:
        return words
    at = min(gaps, key=lambda i: max(i, len(words) - i - 1))
    return f"{words[:at]}\n{words[at + 1 :]}"


class CellModel(QAbstractTableModel):
    """Rows of a layer's features, in any order."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.names: list[str] = []
        self.heads: list[str] = []
        self._columns: list[Any] = []
        self._labels = np.empty(0, np.int64)
        self._order = np.empty(0, np.int64)
        self._by: tuple[str, bool] | None = None
        self._out = np.empty(0, np.int64)

    def set_features(self, features: pd.DataFrame) -> None:
        """Show other rows, in the order that was asked for last."""
        self.beginResetModel()
        heads = shown_columns(features) if LABEL in features.columns else {}
        self.names, self.heads = list(heads), list(heads.values())
        self._columns = [features[name].to_numpy() for name in heads]
        self._labels = features[LABEL].to_numpy() if heads else np.empty(0, np.int64)
        self._order = self._ordered()
        self.endResetModel()

    def leave_out(self, labels: Any) -> None:
        """List these cells no more, and all others."""
        self.beginResetModel()
        self._out = np.asarray(labels, np.int64)
        self._order = self._ordered()
        self.endResetModel()

    @property
    def left_out(self) -> Any:
        """Labels of cells that are not listed; some may have no row at all."""
        return self._out

    @property
    def n_cells(self) -> int:
        """How many cells there are, listed or not."""
        return int(self._labels.size)

    @property
    def sorted_by(self) -> tuple[int, Qt.SortOrder]:
        """Column by which the rows are sorted, and how; -1 where it is by label, unasked."""
        name, down = self._by or ("", False)
        orders = Qt.SortOrder
        at = self.names.index(name) if name in self.names else -1
        return at, orders.DescendingOrder if down else orders.AscendingOrder

    def label(self, row: int) -> int:
        """Cell of a row."""
        return int(self._labels[self._order[row]])

    def row(self, label: int) -> int:
        """Row of a cell; -1 where it has none."""
        found = np.flatnonzero(self._labels[self._order] == label)
        return int(found[0]) if found.size else -1

    def rows(self, labels: Any) -> Any:
        """Rows of cells, in ascending order."""
        return np.flatnonzero(np.isin(self._labels[self._order], labels))

    def shown(self, with_left_out: bool = False) -> dict[str, Any]:
        """All rows in the order they are shown in, by the heads, with all digits."""
        order = self._sorted() if with_left_out else self._order
        columns = [column[order] for column in self._columns]
        return dict(zip(self.heads, columns, strict=True))

    def csv(self) -> bytes:
        """`shown` as a file."""
        return csv(self.shown())

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """How many cells."""
        return 0 if parent is not None and parent.isValid() else int(self._order.size)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        """How many columns."""
        return 0 if parent is not None and parent.isValid() else len(self.names)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Head and tooltip of a column."""
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(self.names):
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return two_lines(self.heads[section])
        if role == Qt.ItemDataRole.ToolTipRole:
            return TIPS.get(self.names[section])
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """A value, as it is read."""
        if not index.isValid():
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        return _words(self._columns[index.column()][self._order[index.row()]])

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; those without a value come last."""
        if not 0 <= column < len(self.names):
            return
        self.beginResetModel()
        self._by = (self.names[column], order == Qt.SortOrder.DescendingOrder)
        self._order = self._ordered()
        self.endResetModel()

    def _ordered(self) -> Any:
        order = self._sorted()
        return order[~np.isin(self._labels[order], self._out)] if self._out.size else order

    def _sorted(self) -> Any:
        order = np.argsort(self._labels, kind="stable")
        if self._by is None or self._by[0] not in self.names:
            return order
        values = self._columns[self.names.index(self._by[0])][order]
        if values.dtype == object:
            values = np.array([str(value) for value in values])
        unknown = values != values
        at = np.argsort(values, kind="stable")
        if self._by[1]:
            at = at[::-1]
        return order[np.concatenate([at[~unknown[at]], at[unknown[at]]])]


def _action(menu: QMenu, text: str) -> QAction:
    action = menu.addAction(text)
    assert action is not None
    return action


def features_table(layer: Labels) -> dict[str, Any]:
    """Measurements of a layer's cells; empty where it has none."""
    features = layer.features
    if LABEL not in features.columns or not len(features):
        return {}
    return {str(n): features[n].to_numpy() for n in features.columns if n != "index"}


def _words(value: Any) -> str:
    """A value as it is read: four figures of a fraction, yes or nothing of a truth."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else ""
    if isinstance(value, (float, np.floating)):
        number = float(value)
        if not np.isfinite(number):
            return ""
        return f"{number:,.0f}" if abs(number) >= 1e4 else f"{number:.4g}"
    return str(value)


class CellTable(QWidget):
    """Shows the chosen cells, as they are measured.

    Choosing a row chooses the cell, outlines it, and shows it where it is out of view; choosing
    a cell on the canvas chooses its row.
    """

    def __init__(
        self,
        session: Session,
        cells: CellLayers,
        measured: MeasuredLayers,
        viewer: Viewer,
        saving: Saving,
        numbers: NumbersView,
    ) -> None:
        super().__init__()
        self.setObjectName("sa2net")
        self.numbers = numbers
        self._saving = saving
        self._session = session
        self._cells = cells
        self._measured = measured
        self._viewer = viewer
        self._layer: Labels | None = None
        self._of_layer = Connections()
        self.connections = Connections()
        self._choosing = False
        self.title = LineLabel()
        self.said = LineLabel("muted")
        # else a long name makes napari's window wider than the screen
        self.title.setMinimumWidth(260)
        self.said.setMinimumWidth(60)
        self.save = link_button("Save…", "Save the table, or the cells for other programs")
        menu = QMenu(self)
        #: Whether what the plot's filters take away is left out of files; while they do.
        self.only = _action(menu, "")
        self.only.setCheckable(True)
        self.only.setChecked(True)
        self.only.setVisible(False)
        #: What the menu offers, by the keys of `FORMATS`.
        self.saves: dict[str, Any] = {
            key: menu.addAction(f"{FORMATS[key].title}…", partial(self._save, key))
            for key in ("csv", *(key for key in FORMATS if key != "csv"))
        }
        menu.insertSeparator(self.saves["csv"])
        menu.insertSeparator(self.saves["ome-tiff"])
        self.save.setMenu(menu)
        self.view = _View()
        self.model = CellModel(self.view)
        self.view.setModel(self.model)
        self.measures = link_button("Measure…", "What is measured of every cell")
        self.measures.setMenu(self._menu())
        self.plot = link_button(
            "Plot", "Plot the numbers, choose cells in the plot, colour them"
        )
        self.plot.setCheckable(True)
        top = hbox((self.title, 1), self.said, self.measures, self.plot, self.save)
        self._split = split = QSplitter(Qt.Orientation.Horizontal)
        split.addWidget(self.view)
        split.addWidget(numbers)
        split.setChildrenCollapsible(False)
        for at in (0, 1):
            split.setStretchFactor(at, 1)
        numbers.setVisible(False)
        vbox(top, (split, 1), on=self, spacing=2, margins=(8, 2, 8, 4))
        self.chosen = ChosenCell(self._viewer)
        self._picker = CellPicker(
            self._viewer, lambda: self._layer, self._outline, with_key=False
        )
        self.plot.toggled.connect(self._plot_wanted)
        numbers.chosen.connect(self._choose_all)
        numbers.left_out.connect(self._leave_out)
        selection = self.view.selectionModel()
        assert selection is not None
        selection.currentRowChanged.connect(self._row_chosen)
        # the row that is chosen already: back to its cell
        self.view.clicked.connect(lambda index: self._row_chosen(index, index))
        self.connections.connect(self._cells.changed, self._follow)
        self.connections.connect(self._measured.changed, lambda _: self._follow())
        self.connections.connect(self._saving.changed, self._show_said)
        self.connections.connect(self._viewer.events.theme, self._restyle)
        self._restyle()
        self._follow()
        self._picker.turn(True)
        farewell = _Farewell(
            self._picker, self.chosen, numbers.painted, self.connections, self._of_layer
        )
        self.destroyed.connect(farewell)
        self._farewell = farewell

    def shut(self) -> None:
        """Undo every connection; harmless twice."""
        self._farewell()

    def choose(self, label: int) -> None:
        """Choose the row of a cell; of none where it has none."""
        row = self.model.row(label)
        selection = self.view.selectionModel()
        assert selection is not None
        self._choosing = True
        try:
            if row < 0:
                selection.clear()
            else:
                index = self.model.index(row, 0)
                flags = QItemSelectionModel.SelectionFlag
                selection.setCurrentIndex(index, flags.ClearAndSelect | flags.Rows)
                self.view.scrollTo(index)
        finally:
            self._choosing = False

    def _menu(self) -> QMenu:
        """Groups of measurements to tick."""
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        self.groups = {}
        for group in GROUPS:
            words, tip = CHOICES[group]
            action = self.groups[group] = _action(menu, words)
            action.setToolTip(tip)
            action.setCheckable(True)
            action.setChecked(group in self._session.measure)
            action.toggled.connect(partial(self._measure, group))
        return menu

    def _measure(self, group: str, wanted: bool) -> None:
        chosen = {*self._session.measure} - {group} | ({group} if wanted else set())
        self._session.measure = tuple(one for one in GROUPS if one in chosen)

    def _plot_wanted(self, wanted: bool) -> None:
        self.plot.setText("Hide plot" if wanted else "Plot")
        self._show_numbers()
        self.numbers.setVisible(wanted)
        if wanted:
            half = self._split.width() // 2
            self._split.setSizes([self._split.width() - half, half])

    def _show_numbers(self) -> None:
        import pandas as pd

        features = self._layer.features if self._layer is not None else pd.DataFrame()
        heads = shown_columns(features) if LABEL in features.columns else {}
        self.numbers.set_features(self._layer, features, heads)

    def _choose_all(self, labels: Any) -> None:
        """Choose the rows of many cells; the picture stays where it is."""
        rows = self.model.rows(labels)
        selection, flags = self.view.selectionModel(), QItemSelectionModel.SelectionFlag
        assert selection is not None
        wanted, last = QItemSelection(), self.model.columnCount() - 1
        # neighbouring rows together: a selection of thousands of pieces is slow
        for part in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if rows.size else ():
            ends = self.model.index(int(part[0]), 0), self.model.index(int(part[-1]), last)
            wanted.append(QItemSelectionRange(*ends))
        self._choosing = True
        try:
            selection.select(wanted, flags.ClearAndSelect)
            if rows.size:
                self.view.scrollTo(self.model.index(int(rows[0]), 0))
        finally:
            self._choosing = False

    def _leave_out(self, labels: Any) -> None:
        """Filters of the plot: what they take away is not listed."""
        self._choosing = True
        try:
            self.model.leave_out(labels)
        finally:
            self._choosing = False
        if self._layer is not None:
            self.choose(int(self._layer.selected_label))
        self._show_title()

    # --- what is said --------------------------------------------------------------------

    def _follow(self, _: Any = None) -> None:
        """Other cells are chosen, or their table is another."""
        layer = self._cells.current
        if layer is not self._layer:
            self._of_layer.disconnect()
            self.chosen.hide()
            self._layer = layer
            if layer is not None:
                connect = self._of_layer.connect
                connect(layer.events.selected_label, self._cell_chosen)
                connect(layer.events.features, self._show)
                connect(layer.events.paint, self._edited)
                connect(layer.events.data, self._edited)
                connect(layer.events.features, self._edited)
                connect(layer.events.name, self._show)
            self._show()
            self._show_said()
        else:
            self._show_title()

    def _show(self, _: Any = None) -> None:
        import pandas as pd

        layer = self._layer
        before, bar = self.model.names, self.view.verticalScrollBar()
        at = bar.value() if bar is not None else 0
        self._choosing = True
        try:
            self.model.set_features(layer.features if layer is not None else pd.DataFrame())
        finally:
            self._choosing = False
        if self.model.names != before:
            self.view.mark_sorted(*self.model.sorted_by)
            self.view.fit_columns()
        if layer is not None:
            self.choose(int(layer.selected_label))
            # it may have another outline, or be gone
            self._outline(self.chosen.label)
        if bar is not None:
            bar.setValue(at)
        if self.numbers.isVisible():
            self._show_numbers()
        self._show_title()

    def _show_title(self) -> None:
        layer, image = self._layer, self._session.image
        if layer is not None:
            line = self._measured.line(layer) or "not measured"
            n, listed = self.model.n_cells, self.model.rowCount()
            out = f" · {n - listed} filtered out" if listed < n else ""
            self.title.setText(f"{layer.name}: {line}{out}")
            self.only.setText(
                f"Only the {listed} of {counted(n, 'cell')} that no filter takes out"
            )
            self.only.setVisible(bool(out))
        else:
            self.title.setText(NO_CELLS.format(image.name) if image is not None else NO_IMAGE)
        self.title.setToolTip(self.title.text())
        self.save.setEnabled(layer is not None)
        self.saves["csv"].setEnabled(self.model.n_cells > 0)

    def _cell_chosen(self, _: Any = None) -> None:
        if self._layer is not None and not self._choosing:
            label = int(self._layer.selected_label)
            self.choose(label)
            if label != self.chosen.label:
                self.chosen.hide()

    def _outline(self, label: int) -> None:
        """Mark a cell in the picture, as Review does; none for 0."""
        layer = self._layer
        if layer is not None:
            box = self._measured.box(layer, label) if label else None
            self.chosen.show(layer, label, box)

    def _row_chosen(self, index: QModelIndex, _: QModelIndex) -> None:
        layer = self._layer
        if self._choosing or layer is None or not index.isValid():
            return
        label = self.model.label(index.row())
        self._choosing = True
        try:
            self._viewer.layers.selection.active = layer
            show_cell(self._viewer, layer, label, self._measured.box(layer, label))
            self._outline(label)
        finally:
            self._choosing = False

    def _save(self, key: str) -> None:
        """Ask where, and save there in a format while the person goes on."""
        layer, chosen = self._layer, FORMATS[key]
        if layer is None:
            return

        def save() -> None:
            name = f"{layer.name}{chosen.ending}"
            start = str(Path.home() / "".join(c for c in name if c not in '/\\:*?"<>|'))
            what = f"{chosen.title} (*{chosen.ending})"
            path, _ = QFileDialog.getSaveFileName(self, "Save the cells", start, what)
            if not path:
                return
            target = chosen.named(path)
            if target != Path(path) and target.exists():
                # the dialog has asked about another name
                raise OutputError(f"{target} is there: choose it itself, to replace it.")
            n, listed = self.model.n_cells, self.model.rowCount()
            only = self.only.isVisible() and self.only.isChecked()
            what = counted(n, "cell") if n else ""
            what = f"{listed} of {counted(n, 'cell')}" if only else what
            of = layer_key(layer)
            if key == "csv":
                shown = self.model.shown(with_left_out=not only)
                self._saving.write(
                    target, lambda: write_atomically(target, csv(shown)), what, of
                )
                return
            cells = cells_in_image(
                finest(layer),
                self._measured.place(layer),
                features_table(layer),
                layer.name,
                layer.metadata.get(METADATA_KEY) or {},
                self.model.left_out if only else None,
            )
            self._saving.save(target, cells, key, what, of)

        guarded(self._session, save)

    def _edited(self, _: Any = None) -> None:
        if self._layer is not None:
            self._saving.edited(finest(self._layer))

    def _show_said(self) -> None:
        """What became of the cells that are shown; of others it would be said of these."""
        ours = self._layer is not None and self._saving.of == layer_key(self._layer)
        said = self._saving.said if ours else ""
        self.said.setText(said)
        self.said.setToolTip(said)

    def _restyle(self, _: Any = None) -> None:
        self.setStyleSheet(style_sheet(self._viewer.theme))
        self.view.fit()
        colors = get_theme(self._viewer.theme)
        self.numbers.set_colors(
            QColor(colors.text.as_hex()), QColor(colors.background.as_hex())
        )


class _View(QTableView):
    """Low rows, chosen as wholes; Ctrl+C copies them."""

    def __init__(self) -> None:
        super().__init__()
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setAlternatingRowColors(False)
        self.setWordWrap(False)
        head, rows = self.horizontalHeader(), self.verticalHeader()
        assert head is not None
        assert rows is not None
        rows.setVisible(False)
        head.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        # of thousands of rows a hundred tell how wide the columns are
        head.setResizeContentsPrecision(100)
        self.setSortingEnabled(True)
        head.sortIndicatorChanged.connect(self._make_room)
        self.fit()

    def fit_columns(self) -> None:
        """Columns as wide as what is in them; room for the arrow is kept where it is."""
        head = self.horizontalHeader()
        assert head is not None
        head.setSortIndicatorShown(False)
        self.resizeColumnsToContents()
        head.setSortIndicatorShown(True)
        self._make_room(head.sortIndicatorSection())

    def _make_room(self, column: int, _: Any = None) -> None:
        head = self.horizontalHeader()
        if column >= 0 and head is not None:
            wide = max(self.columnWidth(column), head.sectionSizeHint(column))
            self.setColumnWidth(column, wide)

    def mark_sorted(self, column: int, order: Qt.SortOrder) -> None:
        """Put the arrow on a column, on none for -1; the rows stay as they are."""
        head = self.horizontalHeader()
        assert head is not None
        with signals_blocked(head):
            head.setSortIndicator(column, order)
        port = head.viewport()
        if port is not None:
            port.update()

    def fit(self) -> None:
        """Rows as high as a line of the font."""
        rows = self.verticalHeader()
        if rows is not None:
            height = self.fontMetrics().height() + 4
            rows.setMinimumSectionSize(height)
            rows.setDefaultSectionSize(height)

    def keyPressEvent(self, event: Any) -> None:
        if event.matches(QKeySequence.StandardKey.Copy):
            self._copy()
        else:
            super().keyPressEvent(event)

    def _copy(self) -> None:
        model, selection = self.model(), self.selectionModel()
        clipboard = QGuiApplication.clipboard()
        if not isinstance(model, CellModel) or selection is None or clipboard is None:
            return
        columns = range(model.columnCount())
        lines = ["\t".join(model.heads)]
        for row in sorted(index.row() for index in selection.selectedRows()):
            lines.append("\t".join(str(model.index(row, c).data()) for c in columns))
        clipboard.setText("\n".join(lines))


class _Farewell:
    """Undoes a table's connections, once."""

    def __init__(
        self,
        picker: CellPicker,
        chosen: ChosenCell,
        painted: PaintedCells,
        *connections: Connections,
    ) -> None:
        self._picker = picker
        self._chosen = chosen
        self._painted = painted
        self._connections = connections

    def __call__(self, _: Any = None) -> None:
        self._picker.turn(False)
        self._chosen.hide()
        self._painted.hide()
        for made in self._connections:
            made.disconnect()
