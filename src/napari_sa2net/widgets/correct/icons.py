"""Icons of the tools, drawn in the colour of the theme's text."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QIcon, QPainter, QPainterPath, QPen, QPixmap, QPolygonF

SIZE = 48
_MARK = QColor("#ffb02e")


def tool_icon(name: str, color: QColor) -> QIcon:
    """The icon of a tool; points lie in a square of 24."""
    pixmap = QPixmap(SIZE, SIZE)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.scale(SIZE / 24, SIZE / 24)
    painter.setPen(_pen(color))
    _DRAW[name](painter, color)
    painter.end()
    return QIcon(pixmap)


def _pen(color: QColor, width: float = 1.8, dashed: bool = False) -> QPen:
    pen = QPen(color, width)
    pen.setCapStyle(Qt.PenCapStyle.RoundCap)
    pen.setJoinStyle(Qt.PenJoinStyle.RoundJoin)
    if dashed:
        pen.setDashPattern([2.0, 1.8])
    return pen


def _line(painter: QPainter, *points: tuple[float, float]) -> None:
    painter.drawPolyline(QPolygonF([QPointF(x, y) for x, y in points]))


def _brush(painter: QPainter, color: QColor) -> None:
    _line(painter, (20, 4), (11, 13))
    tip = QPainterPath(QPointF(11, 12))
    tip.cubicTo(6, 12, 8, 19, 3.5, 20)
    tip.cubicTo(8, 22, 13.5, 19, 12.5, 13.5)
    painter.fillPath(tip, color)


def _eraser(painter: QPainter, color: QColor) -> None:
    corners = [(9, 19), (4, 14), (14, 4), (20, 10), (11, 19), (9, 19)]
    _line(painter, *corners)
    _line(painter, (8.5, 9.5), (14.5, 15.5))
    _line(painter, (9, 20.5), (20, 20.5))


def _split(painter: QPainter, color: QColor) -> None:
    painter.drawEllipse(QRectF(3, 6, 18, 12))
    painter.setPen(_pen(_MARK, 2.2))
    _line(painter, (14.5, 2.5), (9.5, 21.5))


def _merge(painter: QPainter, color: QColor) -> None:
    painter.drawEllipse(QRectF(2.5, 6.5, 10, 11))
    painter.drawEllipse(QRectF(11.5, 6.5, 10, 11))
    painter.setPen(_pen(_MARK, 2.2))
    _line(painter, (7, 12), (17, 12))


def _delete(painter: QPainter, color: QColor) -> None:
    painter.drawEllipse(QRectF(3, 4, 18, 16))
    painter.setPen(_pen(_MARK, 2.2))
    _line(painter, (8.5, 8.5), (15.5, 15.5))
    _line(painter, (15.5, 8.5), (8.5, 15.5))


def _fill(painter: QPainter, color: QColor) -> None:
    painter.drawEllipse(QRectF(3, 4, 18, 16))
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(_MARK)
    painter.drawEllipse(QRectF(9, 8.5, 7, 6.5))


def _smooth(painter: QPainter, color: QColor) -> None:
    _line(painter, (3, 9), (6, 4), (9, 9.5), (12, 3.5), (15, 9), (18, 4.5), (21, 9))
    painter.setPen(_pen(_MARK, 2.2))
    curve = QPainterPath(QPointF(3, 19.5))
    curve.cubicTo(8, 13, 16, 13, 21, 19.5)
    painter.drawPath(curve)


def _edge(painter: QPainter, color: QColor) -> None:
    painter.setPen(_pen(color, 1.5, dashed=True))
    painter.drawEllipse(QRectF(2.5, 3, 19, 18))
    painter.setPen(_pen(color))
    painter.drawEllipse(QRectF(8, 8, 8, 8))
    painter.setPen(_pen(_MARK, 2.0))
    for sign in (-1, 1):
        _line(painter, (12 + 5 * sign, 12), (12 + 9 * sign, 12))


def _redraw(painter: QPainter, color: QColor) -> None:
    _line(painter, (18, 3), (21, 6), (11, 16), (7, 17), (8, 13), (18, 3))
    painter.setPen(_pen(_MARK, 2.0))
    curve = QPainterPath(QPointF(3, 19))
    curve.cubicTo(8, 24, 16, 17, 21, 21)
    painter.drawPath(curve)


def _box(painter: QPainter, color: QColor) -> None:
    painter.setPen(_pen(color, 1.6, dashed=True))
    painter.drawRect(QRectF(3, 3.5, 18, 17))
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(_MARK)
    painter.drawEllipse(QRectF(6, 7.5, 5.5, 5.5))
    painter.drawEllipse(QRectF(12.5, 11, 5.5, 5.5))


def _ignore(painter: QPainter, color: QColor) -> None:
    painter.drawEllipse(QRectF(3, 3.5, 18, 17))
    painter.setPen(_pen(_MARK, 1.6))
    _line(painter, (5.5, 16), (15, 5.5))
    _line(painter, (8, 19), (19, 7.5))


def _reviewed(painter: QPainter, color: QColor) -> None:
    painter.drawRoundedRect(QRectF(3, 3.5, 18, 17), 5, 5)
    painter.setPen(_pen(_MARK, 2.4))
    _line(painter, (7.5, 12), (10.8, 15.5), (16.5, 8))


_DRAW: dict[str, Callable[[QPainter, QColor], None]] = {
    "brush": _brush,
    "eraser": _eraser,
    "split": _split,
    "merge": _merge,
    "delete": _delete,
    "fill": _fill,
    "smooth": _smooth,
    "edge": _edge,
    "redraw": _redraw,
    "box": _box,
    "ignore": _ignore,
    "reviewed": _reviewed,
}
