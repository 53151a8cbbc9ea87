"""The map that was clicked last: colours, range, meaning, channel."""

from __future__ import annotations

from qtpy.QtCore import QRectF, QSize, Qt, Signal
from qtpy.QtGui import QPainter, QPaintEvent
from qtpy.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QSlider, QVBoxLayout, QWidget

from napari_sa2net.app.session import plain
from napari_sa2net.app.why_words import map_help, map_title
from napari_sa2net.config import NetworkKind
from napari_sa2net.engine.protocol import AttentionMap
from napari_sa2net.widgets.common import muted
from napari_sa2net.widgets.see_why.color_strip import color_strip


class ColorBar(QWidget):
    """Colours from the low to the high end of a map, with numbers under them."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._name, self._low, self._high, self._bright = "", 0.0, 1.0, False
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Colour bar")

    def set_range(self, name: str, low: float, high: float, bright: bool = False) -> None:
        """Show the colours of the map ``name``, over a dark or a bright image."""
        self._name, self._low, self._high, self._bright = name, low, high, bright
        self.setToolTip(f"Colours of the layer, from {_number(low)} to {_number(high)}")
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(200, 12 + self.fontMetrics().height() + 2)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        if not self._name:
            return
        painter = QPainter(self)
        bar = QRectF(0, 0, self.width(), 12)
        painter.drawImage(bar, color_strip(self._name, self._bright))
        text = self.palette().windowText().color()
        painter.setPen(text)
        below = QRectF(0, 13, self.width(), self.height() - 13)
        ends = (
            (self._low, Qt.AlignmentFlag.AlignLeft),
            ((self._low + self._high) / 2, Qt.AlignmentFlag.AlignHCenter),
            (self._high, Qt.AlignmentFlag.AlignRight),
        )
        for value, align in ends:
            painter.drawText(below, align, _number(value))


class MapDetail(QWidget):
    """Title, colour bar, one line of help, and for local gates the channel.

    Signals
    -------
    channelChanged : str, object
        Name of the map, and the channel from 0 or None for the mean of all.
    """

    channelChanged = Signal(str, object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._name = ""
        self.title = QLabel()
        self.title.setProperty("role", "summary")
        self.bar = ColorBar()
        self.help = muted()
        self.channel = QSlider(Qt.Orientation.Horizontal)
        tip = "Show one channel of this map instead of the mean of all; far left is the mean"
        self.channel.setToolTip(tip)
        self.channel.setAccessibleName("Channel")
        self.channel_words = QLabel()
        self.channel_row = QWidget()
        row = QHBoxLayout(self.channel_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        row.addWidget(QLabel("Channel"))
        row.addWidget(self.channel, 1)
        row.addWidget(self.channel_words)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        self.mixed = muted()
        for part in (self.title, self.bar, self.help, self.mixed, self.channel_row):
            layout.addWidget(part)
        self.channel.valueChanged.connect(self._moved)
        self.set_map(None)
        self.set_together(0)

    def set_map(
        self,
        shown: AttentionMap | None,
        channel: int | None = None,
        *,
        can_choose: bool = True,
        bright: bool = False,
        network: NetworkKind = "sa2net",
    ) -> None:
        """Describe a map; ``channel`` is the one that is wanted. Says nothing."""
        for part in (self.title, self.bar):
            part.setVisible(shown is not None)
        self.channel_row.setVisible(shown is not None and shown.name.startswith("local"))
        if shown is None:
            self._name = ""
            self.help.setText("Click a picture to lay that map over the image.")
            return
        self._name = shown.name
        self.title.setText(map_title(shown.name, shown.channel, network))
        self.bar.set_range(shown.name, shown.low, shown.high, bright)
        self.help.setText(map_help(shown, network))
        self.channel.setEnabled(can_choose)
        self.channel.blockSignals(True)
        self.channel.setRange(0, shown.n_channels)
        self.channel.setValue(0 if channel is None else channel + 1)
        self.channel.blockSignals(False)
        self._show_words()
        # the widest text it will ever hold, so that the slider keeps its length
        widest = f"{shown.n_channels} of {shown.n_channels}"
        metrics = self.channel_words.fontMetrics()
        words = (widest, "mean of all")
        self.channel_words.setMinimumWidth(max(map(metrics.horizontalAdvance, words)) + 4)

    def set_together(self, n: int) -> None:
        """How many maps are shown at once."""
        self.mixed.setVisible(n > 1)
        self.mixed.setText(
            f"{n} maps are shown at once: each is weaker and their colours mix. Show one alone "
            "to read it by its colour bar."
        )

    def _show_words(self) -> None:
        at = self.channel.value()
        self.channel_words.setText(f"{at} of {self.channel.maximum()}" if at else "mean of all")

    def _moved(self, at: int) -> None:
        self._show_words()
        self.channelChanged.emit(self._name, at - 1 if at else None)


def _number(value: float) -> str:
    """With a true minus."""
    text = plain(abs(value))
    return f"−{text}" if value < 0 and text != "0" else text
