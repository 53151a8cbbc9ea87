"""The network as tiles: every tile a map of this image, a click lays it over the image."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QAbstractButton, QGridLayout, QLabel, QSizePolicy, QSlider, QWidget
from superqt.utils import signals_blocked

from napari_sa2net.app.see_why import STAGE_WORDS, map_help, map_symbol, map_title
from napari_sa2net.config import NetworkKind
from napari_sa2net.engine.messages import AttentionMap
from napari_sa2net.interpret.maps import STRIDES
from napari_sa2net.widgets.controls import hbox, muted, text_label, vbox
from napari_sa2net.widgets.napari_port.maps import STAGE_COLORS, colored
from napari_sa2net.widgets.theme import ACCENT
from napari_sa2net.words import plain

#: pixels of a thumbnail's longer side, enough for a dense display
THUMBNAIL = 160
GRAINS = ("1 fine", "2", "3", "4 coarse")
ROWS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Which scale counts, and where",
        "How much attention adds at each of four scales, and at all of them together",
        (
            *((f"scale_gate_{i}", words) for i, words in enumerate(GRAINS, 1)),
            ("global_query", "overall"),
        ),
    ),
    (
        "What passes, judged by what is nearby",
        "How much of each scale passes, after a look at the surroundings of each place",
        tuple((f"local_gate_{i}", words) for i, words in enumerate(GRAINS, 1)),
    ),
    (
        "Where fine detail shapes the boundary",
        "What each stage, from coarse to full size, takes from the fine detail of the image",
        tuple((f"aua_{s}", STAGE_WORDS[s]) for s in STRIDES),
    ),
)
#: the last row's title and tooltip, by the kind of the network
STAGE_ROW: dict[NetworkKind, tuple[str, str]] = {
    "sa2net": ROWS[-1][:2],
    "focal_unet": (
        "Where fine detail passes",
        "How much fine detail passes to each stage, from coarse to full size",
    ),
}


class MapTile(QAbstractButton):
    """One map as a small picture with its name; checked while its layer is shown."""

    def __init__(self, name: str, caption: str) -> None:
        super().__init__()
        self.name = name
        self.described = False
        self._image: QImage | None = None
        self.setText(caption)
        self.setCheckable(True)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        # tiles of detail carry the colour that their stage has everywhere on the page
        kind, _, number = name.rpartition("_")
        self._stage = QColor(STAGE_COLORS[int(number)]) if kind == "aua" else None

    def set_map(
        self,
        shown: AttentionMap | None,
        bright: bool = False,
        network: NetworkKind = "sa2net",
    ) -> None:
        """Show a map; without one the tile is empty and cannot be pressed."""
        self.setEnabled(shown is not None)
        self.setAccessibleName(map_title(self.name))
        self._image = None
        if shown is None:
            self.setToolTip("No such map: this model has no such stage, or was not run")
        else:
            self.setToolTip(
                f"{map_help(shown, network)} Click: show or hide it over the image. "
                f"{map_symbol(self.name, network)}"
            )
            values = shrunk(shown.values)
            pixels = colored(values, self.name, shown.low, shown.high, bright)
            self._image = to_image(pixels)
        self.update()

    def sizeHint(self) -> QSize:
        """The size that suits it."""
        return QSize(62, 50 + self.fontMetrics().height() + 4)

    def minimumSizeHint(self) -> QSize:
        """The least size."""
        return QSize(50, self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw it."""
        painter = QPainter(self)
        painter.setRenderHints(
            QPainter.RenderHint.Antialiasing | QPainter.RenderHint.SmoothPixmapTransform
        )
        text = self.palette().windowText().color()
        caption = self.fontMetrics().height() + 3
        frame = QRectF(self.rect()).adjusted(1.5, 1.5, -1.5, -caption - 1.5)
        painter.fillRect(frame, QColor(0, 0, 0, 255 if self._image else 40))
        if self._image is not None:
            painter.drawImage(fitted(self._image, frame.adjusted(1, 1, -1, -1)), self._image)
        faint = QColor(text)
        faint.setAlphaF(0.7 if self.underMouse() else 0.3)
        border = QColor(ACCENT).lighter(130) if self.isChecked() else faint
        painter.setPen(QPen(border, 3 if self.isChecked() else 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(frame, 2, 2)
        if self.isChecked():
            _draw_tick(painter, frame, border)
        if not self.isEnabled():
            text.setAlphaF(0.4)
        font = self.font()
        font.setBold(self.described)
        font.setUnderline(self.hasFocus())
        painter.setFont(font)
        painter.setPen(text)
        below = QRectF(0, self.height() - caption, self.width(), caption)
        if self._stage is not None:
            bar = QRectF(frame.left(), frame.bottom() - 4, frame.width(), 4)
            painter.fillRect(bar, self._stage)
        painter.drawText(below, Qt.AlignmentFlag.AlignCenter, self.text())


class MapTiles(QWidget):
    """All tiles, in the order in which the network works.

    Signals
    -------
    toggled : str, bool
        A tile was clicked: add or remove the layer of that map.
    """

    toggled = Signal(str, bool)

    def __init__(self) -> None:
        super().__init__()
        self.tiles: dict[str, MapTile] = {}
        self._maps: dict[str, AttentionMap] = {}
        self._look: tuple[bool, NetworkKind] = (False, "sa2net")
        self._rows: list[list[QWidget]] = []
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(4)
        grid.setVerticalSpacing(2)
        for i, (title, tip, row) in enumerate(ROWS):
            label = QLabel(title)
            label.setToolTip(tip)
            label.setWordWrap(True)
            if i:
                label.setContentsMargins(0, 6, 0, 0)
            grid.addWidget(label, 2 * i, 0, 1, 5)
            self._rows.append([label])
            for j, (name, caption) in enumerate(row):
                tile = self.tiles[name] = MapTile(name, caption)
                self._rows[i].append(tile)
                grid.addWidget(tile, 2 * i + 1, j)
                tile.clicked.connect(
                    lambda checked, name=name: self.toggled.emit(name, checked)
                )
        self.stage_row = label
        for j in range(5):
            grid.setColumnStretch(j, 1)
        self.set_maps({})

    def set_maps(
        self,
        maps: Mapping[str, AttentionMap],
        bright: bool = False,
        network: NetworkKind = "sa2net",
    ) -> None:
        """Show maps, in the colours that they have over a dark or a bright image.

        Tiles whose map is the same object are left as they are.
        """
        look = (bright, network)
        for name, tile in self.tiles.items():
            shown = maps.get(name)
            if shown is None or look != self._look or shown is not self._maps.get(name):
                tile.set_map(shown, bright, network)
        # scale-aware attention is the SA2-Net's own
        for row in self._rows[:-1]:
            for part in row:
                part.setVisible(network == "sa2net")
        title, tip = STAGE_ROW[network]
        self.stage_row.setText(title)
        self.stage_row.setToolTip(tip)
        self._maps, self._look = dict(maps), look

    def set_shown(self, shown: frozenset[str], described: str) -> None:
        """Tick the tiles of shown layers; says nothing."""
        for name, tile in self.tiles.items():
            tile.setChecked(name in shown)
            if tile.described != (name == described):
                tile.described = name == described
                tile.update()


def shrunk(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Means of blocks, so that no side is longer than `THUMBNAIL`."""
    step = max(1, -(-max(values.shape) // THUMBNAIL))
    if step == 1 or 0 in values.shape:
        return values
    # a side that is shorter than a block is one block
    dy, dx = (min(step, n) for n in values.shape)
    height, width = values.shape[0] // dy, values.shape[1] // dx
    part = values[: height * dy, : width * dx]
    return part.reshape(height, dy, width, dx).mean(axis=(1, 3))


def to_image(pixels: NDArray[np.uint8]) -> QImage:
    """RGBA pixels (h, w, 4) as Qt has them."""
    height, width = pixels.shape[:2]
    data = pixels.tobytes()
    # the copy outlives the bytes
    return QImage(data, width, height, 4 * width, QImage.Format.Format_RGBA8888).copy()


def fitted(image: QImage, frame: QRectF) -> QRectF:
    """The largest rectangle of the image's proportions in the middle of a frame."""
    if not image.width() or not image.height():
        return frame
    factor = min(frame.width() / image.width(), frame.height() / image.height())
    width, height = factor * image.width(), factor * image.height()
    middle = frame.center()
    return QRectF(middle.x() - width / 2, middle.y() - height / 2, width, height)


def _draw_tick(painter: QPainter, frame: QRectF, color: QColor) -> None:
    """A tick in the corner, so that not the border's colour alone says what is shown."""
    box = QRectF(frame.right() - 15, frame.top(), 15, 14)
    painter.fillRect(box, color)
    painter.setPen(QPen(Qt.GlobalColor.white, 2))
    points = [(3.5, 7.5), (6.5, 10.5), (11.5, 4)]
    corner = box.topLeft()
    painter.drawPolyline(QPolygonF([corner + QPointF(x, y) for x, y in points]))


# --------------------------------------------------------------------------------------------
# A map's colours as a strip.


@lru_cache(maxsize=32)
def color_strip(name: str, bright: bool = False) -> QImage:
    """All colours of the map ``name`` from left to right, 256 × 1 px."""
    values = np.linspace(0, 1, 256, dtype=np.float32)[None]
    return to_image(colored(values, name, 0, 1, bright))


# --------------------------------------------------------------------------------------------
# The map that was clicked last: colours, range, meaning, channel.


class ColorBar(QWidget):
    """Colours from the low to the high end of a map, with numbers under them."""

    def __init__(self) -> None:
        super().__init__()
        self._name, self._low, self._high, self._bright = "", 0.0, 1.0, False
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Colour bar")

    def set_range(self, name: str, low: float, high: float, bright: bool = False) -> None:
        """Show the colours of the map ``name``, over a dark or a bright image."""
        self._name, self._low, self._high, self._bright = name, low, high, bright
        self.setToolTip(f"Colours of the layer, from {_number(low)} to {_number(high)}")
        self.update()

    def sizeHint(self) -> QSize:
        """The size that suits it."""
        return QSize(200, 12 + self.fontMetrics().height() + 2)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw it."""
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

    def __init__(self) -> None:
        super().__init__()
        self._name = ""
        self.title = text_label(role="summary", wrap=False)
        self.bar = ColorBar()
        self.help = muted()
        self.channel = QSlider(Qt.Orientation.Horizontal)
        tip = "Show one channel of this map instead of the mean of all; far left is the mean"
        self.channel.setToolTip(tip)
        self.channel.setAccessibleName("Channel")
        self.channel_words = QLabel()
        self.channel_row = QWidget()
        hbox(QLabel("Channel"), (self.channel, 1), self.channel_words, on=self.channel_row)
        self.mixed = muted()
        vbox(self.title, self.bar, self.help, self.mixed, self.channel_row, on=self, spacing=4)
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
        self.title.setText(map_title(shown.name, shown.channel))
        self.bar.set_range(shown.name, shown.low, shown.high, bright)
        self.help.setText(map_help(shown, network))
        self.title.setToolTip(map_symbol(shown.name, network))
        self.channel.setEnabled(can_choose)
        with signals_blocked(self.channel):
            self.channel.setRange(0, shown.n_channels)
            self.channel.setValue(0 if channel is None else channel + 1)
        self._show_words()
        # the widest text it will ever hold, so that the slider keeps its length
        widest = f"{shown.n_channels} of 0–{shown.n_channels}"
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
        at, n = self.channel.value(), self.channel.maximum()
        self.channel_words.setText(f"{at - 1} of 0–{n - 1}" if at else "mean of all")

    def _moved(self, at: int) -> None:
        self._show_words()
        self.channelChanged.emit(self._name, at - 1 if at else None)


def _number(value: float) -> str:
    """With a true minus."""
    text = plain(abs(value))
    return f"−{text}" if value < 0 and text != "0" else text
