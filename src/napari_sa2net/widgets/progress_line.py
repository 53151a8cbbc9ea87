"""One line of progress: what is going on, and how far it is."""

from __future__ import annotations

from qtpy.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from napari_sa2net.app.session import JobProgress
from napari_sa2net.widgets.common import muted


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
        self.set_progress(None, "")

    def set_progress(self, progress: JobProgress | None, idle: str) -> None:
        """Show progress; without it the words for an idle page."""
        self.bar.setVisible(progress is not None)
        if progress is None:
            self.label.setText(idle)
            self.label.setVisible(bool(idle))
            return
        # a range of 0 to 0 is Qt's "busy" bar
        self.bar.setRange(0, progress.total)
        self.bar.setValue(progress.done)
        text = str(progress)
        self.label.setText(text if progress.total else text.capitalize() + "…")
        self.label.setVisible(True)
