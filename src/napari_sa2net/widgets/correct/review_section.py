"""Walking through the cells: how far, which one, why it is doubtful."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.correct_state import Review
from napari_sa2net.widgets.common import link_button, muted


class ReviewSection(QWidget):
    """Progress, the cell under review, and four buttons to go on.

    Signals
    -------
    previousWanted, acceptWanted, fixWanted, nextWanted, acceptViewWanted
    outlinesToggled : bool
    """

    previousWanted = Signal()
    acceptWanted = Signal()
    fixWanted = Signal()
    nextWanted = Signal()
    acceptViewWanted = Signal()
    outlinesToggled = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.title = QLabel()
        self.title.setProperty("role", "summary")
        self.title.setWordWrap(True)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Reviewed cells")
        self.cell = muted()
        self.back = QPushButton("◀")
        self.back.setToolTip("Back to the cell before, more doubtful (Shift+N)")
        self.back.setAccessibleName("Cell before")
        self.accept = QPushButton("✓ Accept")
        self.accept.setToolTip("This cell is right as it is: accept it and go on (A)")
        self.fix = QPushButton("Fix")
        self.fix.setToolTip(
            "This cell is wrong: take up the brush with it. The tools above work as well"
        )
        self.forward = QPushButton("▶")
        self.forward.setToolTip("To the next doubtful cell, without a word on this one (N)")
        self.forward.setAccessibleName("Next cell")
        row = QHBoxLayout()
        row.setSpacing(4)
        for button, stretch in (
            (self.back, 1),
            (self.accept, 3),
            (self.fix, 3),
            (self.forward, 1),
        ):
            button.setProperty("role", "plain")
            row.addWidget(button, stretch)
        self.all = link_button(
            "Accept all in view",
            "Every cell whose centre you see now is right as it is (Shift+A)",
        )
        self.outlines = QCheckBox("Outline reviewed")
        self.outlines.setChecked(True)
        self.outlines.setToolTip(
            "Thin lines around all pixels that a model may learn from: reviewed cells and the "
            "background near them; orange around what it shall ignore"
        )
        below = QHBoxLayout()
        below.addWidget(self.outlines)
        below.addStretch(1)
        below.addWidget(self.all)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.title)
        layout.addWidget(self.bar)
        layout.addWidget(self.cell)
        layout.addLayout(row)
        layout.addLayout(below)
        self.back.clicked.connect(self.previousWanted)
        self.accept.clicked.connect(self.acceptWanted)
        self.fix.clicked.connect(self.fixWanted)
        self.forward.clicked.connect(self.nextWanted)
        self.all.clicked.connect(self.acceptViewWanted)
        self.outlines.toggled.connect(self.outlinesToggled)
        self.set_review(Review())

    def set_review(self, review: Review) -> None:
        """Show where the review stands."""
        if review.total:
            self.title.setText(
                f"Reviewed {review.done} of {review.total} cells, most doubtful first"
            )
        else:
            self.title.setText("Review the cells, most doubtful first")
        self.title.setToolTip(f"In the order of: {review.by}" if review.by else "")
        self.bar.setRange(0, max(1, review.total))
        self.bar.setValue(review.done)
        self.cell.setText(_words(review))
        here = review.label > 0
        self.back.setEnabled(here)
        self.fix.setEnabled(here)
        self.accept.setEnabled(here)
        self.accept.setText("✓ Accepted" if review.status == "accepted" else "✓ Accept")
        self.forward.setText("▶" if here else "Start ▶")


def _words(review: Review) -> str:
    if not review.label:
        if review.total and review.done >= review.total:
            return f"Every cell of this {review.noun} is reviewed."
        return "Press Start ▶ (N): the view goes to one cell after another."
    nothing = "nothing stands out" if review.scored else "…"
    reasons = ", ".join(review.reasons) or nothing
    status = f" · {review.status}" if review.status else ""
    return f"Cell {review.label}: {reasons}{status}"
