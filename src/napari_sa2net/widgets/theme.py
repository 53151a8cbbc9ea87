"""Colours and icons of the pages on top of napari's own style sheet."""

from __future__ import annotations

from pathlib import Path

from napari.utils.theme import get_theme
from qtpy.QtCore import QByteArray, Qt
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtSvg import QSvgRenderer

#: the one accent; white text on it keeps a contrast above 4.5 in both themes
ACCENT = "#1f75c4"
ACCENT_HOVER = "#2b86da"
ACCENT_PRESSED = "#185d9d"

#: pixels of an icon's side, enough for a dense display
ICON_SIZE = 48


def _rgba(color: QColor, alpha: float) -> str:
    return f"rgba({color.red()}, {color.green()}, {color.blue()}, {round(255 * alpha)})"


def text_color(theme: str) -> QColor:
    """Colour of text in a napari theme."""
    return QColor(get_theme(theme).text.as_hex())


def link_color(theme: str) -> str:
    """Colour of links in a napari theme, as ``#rrggbb``."""
    return _link(is_dark(theme))


def is_dark(theme: str) -> bool:
    """Whether a napari theme is a dark one; napari says so itself only since 0.7.1."""
    return QColor(get_theme(theme).background.as_hex()).lightness() < 128


def style_sheet(theme: str) -> str:
    """Style sheet of our pages for the napari theme named ``theme``."""
    colors = get_theme(theme)
    dark = is_dark(theme)
    text = QColor(colors.text.as_hex())
    error = QColor("#e5484d" if dark else "#c62a2f")
    line = _rgba(text, 0.18)
    # one size for every kind of control: napari's own differ by a point, which looks
    # ragged in a form
    return f"""
    #sa2net QPushButton, #sa2net QComboBox, #sa2net QCheckBox, #sa2net QRadioButton,
    #sa2net QAbstractSpinBox, #sa2net QToolButton, #sa2net QLabel,
    #sa2net QTreeWidget {{ font-size: {_pt()}pt; }}
    #sa2net QTreeWidget {{ border: 1px solid {line}; border-radius: 4px; }}
    #sa2net QTreeWidget::item {{ padding: 1px 0px; }}
    #sa2net QTabBar::tab {{ padding: 5px 6px; }}
    #sa2net QLabel[role="muted"] {{ color: {_rgba(text, 0.66)}; }}
    #sa2net QLabel[role="summary"] {{ font-weight: 600; }}
    #sa2net QLabel[role="title"] {{ font-weight: 600; font-size: {_pt() + 2}pt; }}
    #sa2net QLabel:disabled {{ color: {_rgba(text, 0.4)}; }}
    #sa2net QPushButton[role="primary"] {{
        background-color: {ACCENT}; color: white; font-weight: 600;
        padding: 8px; border-radius: 4px; font-size: {_pt() + 1}pt; }}
    #sa2net QPushButton[role="primary"]:hover {{ background-color: {ACCENT_HOVER}; }}
    #sa2net QPushButton[role="primary"]:pressed {{ background-color: {ACCENT_PRESSED}; }}
    #sa2net QPushButton[role="primary"]:disabled {{
        background-color: {_rgba(text, 0.10)}; color: {_rgba(text, 0.45)}; border: 0px; }}
    #sa2net QPushButton[role="cancel"] {{
        background-color: transparent; color: {colors.text.as_hex()}; font-weight: 600;
        padding: 7px; border-radius: 4px; border: 1px solid {_rgba(text, 0.5)};
        font-size: {_pt() + 1}pt; }}
    #sa2net QPushButton[role="cancel"]:hover {{ background-color: {_rgba(text, 0.08)}; }}
    #sa2net QPushButton[role="link"] {{
        background: transparent; color: {_link(dark)}; padding: 2px; border: 0px; }}
    #sa2net QPushButton[role="link"]:hover {{ text-decoration: underline; }}
    #sa2net QPushButton[role="link"]:disabled {{ color: {_rgba(text, 0.4)}; border: 0px; }}
    #sa2net QToolButton {{ padding: 3px; border-radius: 3px; }}
    #sa2net QToolButton[role="tool"] {{
        background-color: {_rgba(text, 0.06)}; border: 1px solid transparent;
        border-radius: 4px; padding: 4px 0px; }}
    #sa2net QToolButton[role="tool"]:hover {{ background-color: {_rgba(text, 0.14)}; }}
    #sa2net QToolButton[role="tool"]:checked {{
        background-color: {_rgba(QColor(ACCENT), 0.45)}; border: 1px solid {ACCENT_HOVER}; }}
    #sa2net QPushButton[role="plain"] {{ padding: 6px 4px; border-radius: 4px; }}
    #sa2net QLabel[role="warning"] {{ color: {warning_color(dark)}; }}
    #sa2net QToolButton[role="fold"] {{
        background: transparent; border: 0px; padding: 2px; font-weight: 600; }}
    #sa2net QToolButton[role="info"] {{
        background: transparent; border: 1px solid {_rgba(text, 0.5)};
        border-radius: 11px; min-width: 21px; max-width: 21px;
        min-height: 21px; max-height: 21px; padding: 0px; font-weight: 600; }}
    #sa2net QToolButton[role="info"]:hover {{ background-color: {_rgba(text, 0.12)}; }}
    #sa2net QFrame[role="line"] {{ background-color: {line}; max-height: 1px; }}
    #sa2net QFrame[role="card"] {{
        border: 1px solid {_rgba(text, 0.4)}; border-radius: 4px; }}
    #sa2net QFrame[role="card"] QLabel {{ border: 0px; }}
    #sa2net QFrame[role="error"] {{
        background-color: {_rgba(error, 0.12)}; border-left: 3px solid {error.name()};
        border-radius: 2px; }}
    #sa2net QFrame[role="error"] QLabel, #sa2net QFrame[role="error"] QPushButton,
    #sa2net QFrame[role="hint"] QLabel {{ background: transparent; }}
    #sa2net QFrame[role="hint"] {{
        background-color: {_rgba(QColor(ACCENT), 0.16)}; border-left: 3px solid {ACCENT};
        border-radius: 2px; }}
    #sa2net QProgressBar {{
        border: 0px; border-radius: 3px; background-color: {line};
        min-height: 6px; max-height: 6px; }}
    #sa2net QProgressBar::chunk {{ background-color: {ACCENT}; border-radius: 3px; }}
    """


def _pt() -> int:
    from napari.settings import get_settings

    return int(get_settings().appearance.font_size)


def warning_color(dark: bool) -> str:
    """Colour of words that something is wrong, on a dark or a light ground."""
    return "#ffb454" if dark else "#8a4b00"


def _link(dark: bool) -> str:
    return "#6db3f2" if dark else ACCENT_PRESSED


def icon(name: str, color: QColor) -> QIcon:
    """The icon of that name, ``icons/NAME.svg``, in a colour."""
    svg = (Path(__file__).parent / "icons" / f"{name}.svg").read_text("utf-8")
    pixmap = QPixmap(ICON_SIZE, ICON_SIZE)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    QSvgRenderer(QByteArray(svg.replace("currentColor", color.name()).encode())).render(painter)
    painter.end()
    return QIcon(pixmap)
