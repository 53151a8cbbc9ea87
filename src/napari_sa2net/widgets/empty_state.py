"""What the page shows while no image is open: how to get one."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QLabel, QMenu, QPushButton, QVBoxLayout, QWidget

from napari_sa2net.widgets.common import muted


class EmptyState(QWidget):
    """Two buttons: open an image, or try a sample.

    Parameters
    ----------
    samples : list of (str, str)
        Key and words of each sample image.
    promise : str
        What the page does with an image.

    Signals
    -------
    openWanted
    sampleWanted : str
        Key of the sample.
    """

    openWanted = Signal()
    sampleWanted = Signal(str)

    def __init__(
        self,
        samples: list[tuple[str, str]],
        promise: str = "One click then finds and measures its cells.",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        title = QLabel("Open an image, or try a sample")
        title.setProperty("role", "title")
        title.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        title.setWordWrap(True)
        text = muted(promise)
        text.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.open = QPushButton("Open an image…")
        self.open.setProperty("role", "primary")
        self.open.setToolTip("Choose an image file; you can also drop one onto napari")
        self.sample = QPushButton("Try a sample")
        self.sample.setToolTip("Open an image that comes with the plugin")
        menu = QMenu(self.sample)
        for key, words in samples:
            action = menu.addAction(words)
            assert action is not None
            action.triggered.connect(lambda _=False, key=key: self.sampleWanted.emit(key))
        self.sample.setMenu(menu)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 24, 4, 24)
        layout.setSpacing(10)
        for widget in (title, text, self.open, self.sample):
            layout.addWidget(widget)
        self.open.clicked.connect(self.openWanted)
