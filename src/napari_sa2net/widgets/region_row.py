"""What part of the image is segmented, and whether its planes belong together."""

from __future__ import annotations

from typing import Literal

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QButtonGroup, QCheckBox, QGridLayout, QRadioButton, QWidget

from napari_sa2net.app.session import Planes, Where
from napari_sa2net.config import InstanceConfig
from napari_sa2net.data.axes import axis_noun
from napari_sa2net.widgets.common import tip_of


class RegionRow(QWidget):
    """Whole image or view; for stacks, all planes or the one that is shown.

    Signals
    -------
    valueChanged
        Ask :meth:`where` and :meth:`planes`.
    linkChanged
        Whether cells are linked across Z, see ``link``.
    """

    valueChanged = Signal()
    linkChanged = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.whole = QRadioButton("whole image")
        self.whole.setToolTip("Segment the image from edge to edge")
        self.view = QRadioButton("view")
        self.view.setToolTip("Segment only what the canvas shows now: quick for trials")
        self.all = QRadioButton()
        self.plane = QRadioButton("this one")
        self.link = QCheckBox("link cells across Z")
        self.link.setToolTip(tip_of(InstanceConfig, "link_planes"))
        self._in_depth = False
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
        grid.addWidget(self.link, 2, 0, 1, 3)
        grid.setColumnStretch(2, 1)
        self.whole.setChecked(True)
        self.all.setChecked(True)
        self._wheres.buttonClicked.connect(self._clicked)
        self._planes.buttonClicked.connect(self._clicked)
        self.link.clicked.connect(lambda _: self.linkChanged.emit())
        self.set_stack()

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
        self._show_link()

    def set_stack(self, axes: str = "", shape: tuple[int, ...] = ()) -> None:
        """Ask only for what makes a difference: along axes with several elements."""
        several = "".join(axis for axis, n in zip(axes, shape, strict=True) if n > 1)
        self.all.setText(f"all {axis_noun(several, 2)}")
        self.all.setToolTip(f"Segment every {axis_noun(several, 1)} of the stack")
        self.plane.setToolTip(f"Segment only the {axis_noun(several, 1)} that is shown now")
        self.all.setVisible(bool(several))
        self.plane.setVisible(bool(several))
        self._in_depth = "Z" in several
        self._show_link()

    def _show_link(self) -> None:
        # a single plane has nothing to be linked to
        self.link.setVisible(self._in_depth and self.planes() == "all")

    def _clicked(self) -> None:
        self._show_link()
        self.valueChanged.emit()
