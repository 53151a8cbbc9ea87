"""What part of the image is segmented."""

from __future__ import annotations

from typing import Literal

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QButtonGroup, QGridLayout, QRadioButton, QWidget

from napari_sa2net.app.session import Planes, Where


class RegionRow(QWidget):
    """Whole image or view; for stacks, all planes or the one that is shown.

    Signals
    -------
    valueChanged
        Ask :meth:`where` and :meth:`planes`.
    """

    valueChanged = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.whole = QRadioButton("whole image")
        self.whole.setToolTip("Segment the image from edge to edge")
        self.view = QRadioButton("view")
        self.view.setToolTip("Segment only what the canvas shows now: quick for trials")
        self.all = QRadioButton("all planes")
        self.all.setToolTip("Segment every plane of the stack")
        self.plane = QRadioButton("this one")
        self.plane.setToolTip("Segment only the plane that is shown now")
        self._wheres = QButtonGroup(self)
        self._planes = QButtonGroup(self)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(4)
        for row, (group, buttons) in enumerate(
            ((self._wheres, (self.whole, self.view)), (self._planes, (self.all, self.plane)))
        ):
            for column, button in enumerate(buttons):
                group.addButton(button)
                grid.addWidget(button, row, column)
        grid.setColumnStretch(2, 1)
        self.whole.setChecked(True)
        self.all.setChecked(True)
        self._wheres.buttonClicked.connect(self._clicked)
        self._planes.buttonClicked.connect(self._clicked)
        self.set_stack(False)

    def where(self) -> Where:
        """``whole`` or ``view``."""
        return "view" if self.view.isChecked() else "whole"

    def planes(self) -> Planes:
        """``all`` or ``current``."""
        return "current" if self.plane.isChecked() else "all"

    def setValue(self, where: Where, planes: Literal["all", "current"]) -> None:
        """Show a choice; says nothing (only clicks do)."""
        (self.view if where == "view" else self.whole).setChecked(True)
        (self.plane if planes == "current" else self.all).setChecked(True)

    def set_stack(self, stack: bool) -> None:
        """Planes are asked for only where there are several."""
        self.all.setVisible(stack)
        self.plane.setVisible(stack)

    def _clicked(self) -> None:
        self.valueChanged.emit()
