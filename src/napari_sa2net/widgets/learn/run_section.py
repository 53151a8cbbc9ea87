"""A run that goes on: how far it is, its curves, pause and stop."""

from __future__ import annotations

import time
from dataclasses import replace

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_sa2net.app.learn_state import LearnState
from napari_sa2net.widgets.common import link_button, muted
from napari_sa2net.widgets.progress_line import ProgressLine

PAUSE_TIP = (
    "Write everything to disk and give the computer back; it goes on where it stood, today or "
    "after a restart"
)
STOP_TIP = "End now, with the best round so far; within two seconds"


class RunSection(QWidget):
    """Shows a run.

    Signals
    -------
    pauseWanted, resumeWanted, stopWanted, discardWanted
    previewToggled : bool
    """

    pauseWanted = Signal()
    resumeWanted = Signal()
    stopWanted = Signal()
    discardWanted = Signal()
    previewToggled = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._phase = ""
        self.title = QLabel()
        self.title.setProperty("role", "summary")
        self.title.setWordWrap(True)
        self.plan = muted()
        self.progress = ProgressLine()
        self.pause = QPushButton("Pause")
        self.pause.setProperty("role", "plain")
        self.stop = QPushButton("Stop and keep the best")
        self.stop.setProperty("role", "plain")
        self.stop.setToolTip(STOP_TIP)
        self.discard = link_button("Discard…", "Forget this run; the models stay as they are")
        self.sure = link_button("Discard for good", "There is no way back")
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        buttons.addWidget(self.pause, 1)
        buttons.addWidget(self.stop, 1)
        self.preview = QCheckBox("show the cells so far on the image")
        self.preview.setToolTip(
            "After each round, outline the cells in view as the learning model sees them"
        )
        self.previewed = muted()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        for part in (self.title, self.plan, self.progress):
            layout.addWidget(part)
        layout.addLayout(buttons)
        layout.addWidget(self.discard)
        layout.addWidget(self.sure)
        layout.addWidget(self.preview)
        layout.addWidget(self.previewed)
        self.pause.clicked.connect(self._pressed)
        self.stop.clicked.connect(self.stopWanted)
        self.discard.clicked.connect(lambda: self._ask(True))
        self.sure.clicked.connect(self.discardWanted)
        self.preview.clicked.connect(self.previewToggled)

    def set_run(self, state: LearnState) -> None:
        """Phase, names, plan."""
        phase = self._phase = state.phase
        paused = phase == "paused"
        verb = "has paused learning" if paused else "learns"
        self.title.setText(f"{state.name} {verb} from {state.parent}")
        self.plan.setText(state.plan)
        self.plan.setVisible(bool(state.plan))
        self.pause.setText("Go on" if paused else "Pause")
        self.pause.setToolTip("Go on where it stood" if paused else PAUSE_TIP)
        self.pause.setEnabled(phase in ("starting", "learning", "paused"))
        self.stop.setEnabled(phase in ("starting", "learning", "paused"))
        self._ask(False)
        self.set_progress(state)
        self.set_preview(state)

    def set_progress(self, state: LearnState) -> None:
        """How far it is; called several times a second."""
        progress, left = state.progress, state.seconds_left
        if state.phase == "paused":
            losses = state.curves.losses
            where = f"Paused at step {losses[-1].step} of {losses[-1].steps}." if losses else ""
            self.progress.set_progress(None, where)
            return
        if progress is not None and progress.total and state.phase == "learning":
            ends = None if left is None else time.monotonic() + left
            progress = replace(progress, ends=ends)
        self.progress.set_progress(progress, "")

    def set_preview(self, state: LearnState) -> None:
        """Whether the cells so far are shown, and of which round."""
        self.preview.setChecked(state.wants_preview)
        self.preview.setVisible(state.phase in ("starting", "learning"))
        shown = bool(state.previewed) and state.phase == "learning"
        self.previewed.setVisible(shown)
        self.previewed.setText(f"The outlines show round {state.previewed}.")

    def _ask(self, sure: bool) -> None:
        paused = self._phase == "paused"
        self.discard.setVisible(paused and not sure)
        self.sure.setVisible(paused and sure)

    def _pressed(self) -> None:
        if self._phase == "paused":
            self.resumeWanted.emit()
        else:
            self.pauseWanted.emit()
