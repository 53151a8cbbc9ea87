"""Fields for numbers: what is typed is what is used, whatever the system's language."""

from __future__ import annotations

import re
import unicodedata

from qtpy.QtCore import QLocale, QPoint, Signal
from qtpy.QtGui import QValidator
from qtpy.QtWidgets import QAbstractSpinBox, QDoubleSpinBox, QSpinBox, QToolTip, QWidget

_SEPARATORS = dict.fromkeys(",٫，．", ".") | {"−": "-"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
#: A number and what follows it.
_WITH_UNIT = re.compile(rf"({_NUMBER.pattern})\s*(.*)", re.IGNORECASE | re.DOTALL)
#: 1.000 may be meant as one or as a thousand.
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}")
#: How long it is said why what was typed is not taken (ms).
_SAID_MS = 8000


class _Typed:
    """What both kinds of fields make of a text.

    A decimal comma is a decimal point, and digits of any script are digits. Whatever is typed
    stays to be seen until it is finished. What cannot be read as it is meant (a group
    separator, another unit, a number out of range) is not taken then: the field goes back to
    the number before and says why. Qt's own fields drop such keys one by one, and use what is
    left.

    Attributes
    ----------
    problem : str
        Why what was typed last was not taken; empty where it was.
    units : dict of str to float
        Units that may be typed, and how much one is in the field's own.
    no_units : dict of str to str
        Units that cannot be taken now, and why.
    """

    problem: str
    units: dict[str, float]
    no_units: dict[str, str]

    def _prepare(self) -> None:
        assert isinstance(self, QAbstractSpinBox)
        locale = QLocale.c()
        locale.setNumberOptions(
            QLocale.NumberOption.OmitGroupSeparator | QLocale.NumberOption.RejectGroupSeparator
        )
        self.setLocale(locale)
        # A number counts when it is finished: 1 is not meant on the way to 18.5.
        self.setKeyboardTracking(False)
        self.problem = ""
        self.units, self.no_units = {}, {}
        self._text: str | None = None
        line = self.lineEdit()
        assert line is not None
        line.textEdited.connect(self._edited)
        self.editingFinished.connect(self._finished)

    def validate(self, text: str | None, pos: int) -> tuple[QValidator.State, str, int]:
        """Whether a text is a number, or may become one."""
        taken = isinstance(self._read(text), float)
        state = QValidator.State.Acceptable if taken else QValidator.State.Intermediate
        # With points for commas: those Qt would take out as separators of thousands.
        return state, _plain(text), pos

    def _edited(self, text: str) -> None:
        self._text = text

    def _finished(self) -> None:
        """What was typed is taken by now, or it is said why not."""
        text, self._text = self._text, None
        if text is None:
            return
        assert isinstance(self, QAbstractSpinBox)
        read = self._read(text)
        self.problem = "" if isinstance(read, float) else f"{read} It stays at {self.text()}."
        self.problemChanged.emit(self.problem)  # type: ignore[attr-defined]
        if self.problem and self.isVisible():
            below = self.mapToGlobal(QPoint(0, self.height()))
            QToolTip.showText(below, self.problem, self, self.rect(), _SAID_MS)

    def _read(self, text: str | None) -> float | str:
        """The number of a text, or why there is none."""
        assert isinstance(self, (QSpinBox, QDoubleSpinBox))
        special = self.specialValueText()
        own = self.suffix().strip()
        plain = _plain(text).removeprefix(self.prefix()).strip()
        typed = plain.removesuffix(own).strip() if own else plain
        if special and typed.casefold() in ("", special.casefold()):
            return float(self.minimum())
        if not typed:
            return "Nothing was typed."
        found = _WITH_UNIT.fullmatch(typed)
        if found is None:
            return f"“{typed}” is no number."
        number, unit = found[1], found[4].strip()
        if (unit and unit[0] in ".+-") or unit[:1].isdecimal():  # 1.234.5
            return f"“{typed}” is no number."
        decimals = self.decimals() if isinstance(self, QDoubleSpinBox) else 0
        if _GROUPED.fullmatch(number) and decimals < 3:
            whole = number.replace(".", "")
            return f"“{typed}” may be {number[: number.index('.')]} or {whole}: write one."
        value = float(number)
        if unit and _unit(unit) != _unit(own):
            factor = {_unit(name): size for name, size in self.units.items()}.get(_unit(unit))
            if factor is None:
                because = {_unit(n): why for n, why in self.no_units.items()}.get(_unit(unit))
                what = f"in {own}" if own else "without a unit"
                return f"“{typed}”: {because or f'give the number {what}'}."
            value *= factor
        if decimals == 0 and isinstance(self, QSpinBox) and value != round(value):
            return f"“{typed}” is no whole number."
        rounded = round(value, decimals)
        low, high = self.minimum(), self.maximum()
        least = low + 1 if special and isinstance(self, QSpinBox) else low
        if not low <= value <= high:
            return f"“{typed}” is outside of {least:g} to {high:g}{f' {own}' if own else ''}."
        return float(min(max(rounded, low), high))


class NumberField(_Typed, QDoubleSpinBox):
    """A field for a number, shown with a decimal point and without groups of thousands.

    Signals
    -------
    problemChanged : str
        Something was typed: why it is not taken, or that it is.
    """

    problemChanged = Signal(str)

    def __init__(self) -> None:
        QDoubleSpinBox.__init__(self)
        self._trims = False
        self._prepare()

    def valueFromText(self, text: str | None) -> float:
        """The number that a text is read as; as many decimals of it as are shown."""
        read = self._read(text)
        return read if isinstance(read, float) else self.value()

    def set_lengths(self, pixel_size_um: float | None) -> None:
        """Let lengths be typed in a field of pixels, where a pixel's size (µm) is known."""
        lengths = {"um": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3}
        unknown = "the size of a pixel is not known, so give the number in px"
        self.units, self.no_units = {"pixel": 1.0, "pixels": 1.0}, {}
        if pixel_size_um:
            self.units |= {name: um / pixel_size_um for name, um in lengths.items()}
        else:
            self.no_units = dict.fromkeys(lengths, unknown)

    def trim(self) -> None:
        """Show no zeros behind the point: 3 rather than 3.00."""
        self._trims = True

    def textFromValue(self, value: float) -> str:
        """The number as it is shown."""
        text = super().textFromValue(value)
        return text.rstrip("0").rstrip(".") if self._trims and "." in text else text

    def interpretText(self) -> None:
        """Take what is being typed."""
        super().interpretText()
        self._finished()


class WholeNumberField(_Typed, QSpinBox):
    """As `NumberField` for whole numbers: 18.5 is not taken, and never 185."""

    problemChanged = Signal(str)

    def __init__(self) -> None:
        QSpinBox.__init__(self)
        self._prepare()

    def valueFromText(self, text: str | None) -> int:
        """The number that a text is read as."""
        read = self._read(text)
        return int(read) if isinstance(read, float) else self.value()

    def interpretText(self) -> None:
        """Take what is being typed."""
        super().interpretText()
        self._finished()


def take_typed(root: QWidget) -> None:
    """Take the numbers that are still being typed, as leaving their fields would."""
    for field in root.findChildren(QAbstractSpinBox):
        field.interpretText()


def _plain(text: str | None) -> str:
    """The text with ASCII digits and points, character by character."""
    return "".join(
        str(unicodedata.decimal(c)) if c.isdecimal() else _SEPARATORS.get(c, c)
        for c in text or ""
    )


def _unit(text: str) -> str:
    """One spelling of a unit: µ is u, ² is 2, upper case and blanks do not count."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("μ", "u")
    return re.sub(r"[\s^]", "", plain)
