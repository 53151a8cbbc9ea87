"""One line of progress: what is going on, how far it is, and how long it will take."""

from __future__ import annotations

import time

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from napari_sa2net.app.session import JobProgress
from napari_sa2net.widgets.common import duration_words, muted


class ProgressLine(QWidget):
    """A thin bar and a grey line; the bar is there only while something runs."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Progress")
        self.label = muted()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.bar)
        layout.addWidget(self.label)
        self._progress: JobProgress | None = None
        # the time that is left runs on between two parts
        self._clock = QTimer(self)
        self._clock.setInterval(1000)
        self._clock.timeout.connect(self._tick)
        self.set_progress(None, "")

    def set_progress(self, progress: JobProgress | None, idle: str) -> None:
        """Show progress; without it the words for an idle page."""
        self._progress = progress
        self.bar.setVisible(progress is not None)
        if progress is None:
            self._clock.stop()
            self.label.setText(idle)
            self.label.setVisible(bool(idle))
            return
        # a range of 0 to 0 is Qt's "busy" bar
        self.bar.setRange(0, progress.total if progress.total > 1 else 0)
        self.bar.setValue(progress.done)
        self._tick()
        self.label.setVisible(True)
        if progress.ends is None:
            self._clock.stop()
        else:
            self._clock.start()

    def _tick(self) -> None:
        progress = self._progress
        if progress is None:
            return
        text = str(progress)
        text = text[:1].upper() + text[1:]
        left = progress.seconds_left(time.monotonic())
        if left is not None:
            text += f" · {duration_words(left)} left"
        elif progress.total <= 1:
            text += "…"
        self.label.setText(text)
