"""A run that was paused or broken off: go on, take what it has, or let it go."""

from __future__ import annotations

from datetime import UTC, datetime

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_sa2net.training.runs import UnfinishedRun
from napari_sa2net.widgets.common import link_button
from napari_sa2net.widgets.learn.set_section import when_words


class UnfinishedBox(QFrame):
    """The newest unfinished run; hidden where there is none.

    Signals
    -------
    resumeWanted, keepWanted, discardWanted : UnfinishedRun
    """

    resumeWanted = Signal(object)
    keepWanted = Signal(object)
    discardWanted = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "hint")
        self._runs: tuple[UnfinishedRun, ...] = ()
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.resume = link_button("Go on", "Learn on where it stood")
        self.keep = link_button(
            "Keep the best",
            "End it with the best round so far, also where its images are gone",
        )
        self.discard = link_button("Discard…", "Forget this run; the models stay as they are")
        self.sure = link_button("Discard for good", "There is no way back")
        row = QHBoxLayout()
        row.setSpacing(10)
        for button in (self.resume, self.keep, self.discard, self.sure):
            row.addWidget(button)
        row.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 6, 8, 6)
        layout.setSpacing(4)
        layout.addWidget(self.words)
        layout.addLayout(row)
        self.resume.clicked.connect(lambda: self.resumeWanted.emit(self._runs[0]))
        self.keep.clicked.connect(lambda: self.keepWanted.emit(self._runs[0]))
        self.discard.clicked.connect(lambda: self._ask(True))
        self.sure.clicked.connect(lambda: self.discardWanted.emit(self._runs[0]))
        self.set_runs(())

    def set_runs(self, runs: tuple[UnfinishedRun, ...]) -> None:
        """Show the newest."""
        self._runs = runs
        self.setVisible(bool(runs))
        self._ask(False)
        if runs:
            newest, more = runs[0], len(runs) - 1
            when = when_words(datetime.fromtimestamp(newest.time, UTC).isoformat())
            asked = newest.asked
            text = f"{asked.name} has not finished learning from {asked.base_name} ({when})."
            if more:
                text += f" {more} more after that."
            self.words.setText(text)

    def _ask(self, sure: bool) -> None:
        self.sure.setVisible(sure)
        self.discard.setVisible(not sure)
