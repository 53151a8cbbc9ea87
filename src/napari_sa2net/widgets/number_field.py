"""Fields for numbers: what is typed is what is used, whatever the system's language."""

from __future__ import annotations

import re
import unicodedata

from qtpy.QtCore import QLocale
from qtpy.QtGui import QValidator
from qtpy.QtWidgets import QAbstractSpinBox, QDoubleSpinBox, QSpinBox, QWidget

_SEPARATORS = dict.fromkeys(",٫，．", ".") | {"−": "-"}
_TYPED = re.compile(r"-?[\d.]*")
_NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)")
#: 1.000 may be meant as one or as a thousand.
_GROUPED = re.compile(r"-?[1-9]\d{0,2}\.\d{3}")


class NumberField(QDoubleSpinBox):
    """A field for a number, shown with a decimal point and without groups of thousands.

    A decimal comma is a decimal point, and digits of any script are digits. What would not
    be read as it is meant (a group separator, a number out of range) can be typed but is not
    taken: the field goes back to the number before. Qt's own fields drop such keys one by
    one, and use what is left.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        _prepare(self)

    def validate(self, text: str | None, pos: int) -> tuple[QValidator.State, str, int]:
        """Whether a text is a number, may become one, or neither."""
        text = _plain(text)
        number = _number_part(self, text)
        if not _TYPED.fullmatch(number):
            return super().validate(text, pos)
        taken = self._read(number) is not None
        state = QValidator.State.Acceptable if taken else QValidator.State.Intermediate
        return state, text, pos

    def valueFromText(self, text: str | None) -> float:
        """The number that a text is read as."""
        text = _plain(text)
        value = self._read(_number_part(self, text))
        return super().valueFromText(text) if value is None else value

    def _read(self, number: str) -> float | None:
        ambiguous = _GROUPED.fullmatch(number) and self.decimals() < 3
        if ambiguous or not _NUMBER.fullmatch(number):
            return None
        value = float(number)
        return value if self.minimum() <= value <= self.maximum() else None


class WholeNumberField(QSpinBox):
    """As `NumberField` for whole numbers: 18.5 is not taken, and never 185."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        _prepare(self)

    def validate(self, text: str | None, pos: int) -> tuple[QValidator.State, str, int]:
        """Whether a text is a number, may become one, or neither."""
        text = _plain(text)
        number = _number_part(self, text)
        state, text, pos = super().validate(text, pos)
        if _TYPED.fullmatch(number) and state == QValidator.State.Invalid:
            state = QValidator.State.Intermediate
        return state, text, pos

    def valueFromText(self, text: str | None) -> int:
        """The number that a text is read as."""
        return super().valueFromText(_plain(text))


def take_typed(root: QWidget) -> None:
    """Take the numbers that are still being typed, as leaving their fields would."""
    for field in root.findChildren(QAbstractSpinBox):
        field.interpretText()


def _prepare(field: QAbstractSpinBox) -> None:
    locale = QLocale.c()
    locale.setNumberOptions(
        QLocale.NumberOption.OmitGroupSeparator | QLocale.NumberOption.RejectGroupSeparator
    )
    field.setLocale(locale)
    # A number counts when it is finished: 1 is not meant on the way to 18.5.
    field.setKeyboardTracking(False)


def _plain(text: str | None) -> str:
    """The text with ASCII digits and points, character by character."""
    return "".join(
        str(unicodedata.decimal(c)) if c.isdecimal() else _SEPARATORS.get(c, c)
        for c in text or ""
    )


def _number_part(field: QSpinBox | QDoubleSpinBox, text: str) -> str:
    return text.removeprefix(field.prefix()).removesuffix(field.suffix()).strip()
