"""A form made from a settings model: titles, help, bounds and kinds are those of its fields."""

from __future__ import annotations

from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QAbstractSpinBox, QCheckBox, QComboBox, QGridLayout, QWidget
from superqt.utils import signals_blocked

from napari_sa2net.config import Settings
from napari_sa2net.widgets.controls import Form, fold_button, link_button, vbox
from napari_sa2net.widgets.number_field import NumberField, WholeNumberField

#: what a number may be where the model sets no bound
MOST = 1_000_000
#: smallest step of a field without an upper bound near it
FINEST = 4


class SettingsForm(QWidget):
    """Folded away; every field of a model but those that the page shows itself.

    Parameters
    ----------
    kind : type of Settings
    without : names of fields
    choices : mapping of field name to callable() -> list of str, optional
        Fields of text that are chosen from a list.
    empty : words for None

    Signals
    -------
    valueChanged : Settings
        By a person only; always one that the model accepts.
    """

    valueChanged = Signal(object)

    def __init__(
        self,
        kind: type[Settings],
        without: tuple[str, ...] = (),
        choices: dict[str, Callable[[], list[str]]] | None = None,
        empty: str = "automatic",
    ) -> None:
        super().__init__()
        self._kind = kind
        self._value = kind()
        self._choices = choices or {}
        self._empty = empty
        self.fields: dict[str, QWidget] = {}
        self._show: dict[str, Callable[[Any], None]] = {}
        self.body = QWidget()
        tip = "All settings of learning; they are right for most"
        self.fold = fold_button("Advanced", tip, self.body)
        self.form = Form()
        #: rows that are shown only while another field has a certain value
        self._only_with: dict[str, dict[str, Any]] = {}
        # What a model has in common with others comes after what is its own.
        own = kind.__annotations__
        for name in sorted(kind.model_fields, key=lambda name: name not in own):
            if name not in without:
                self._add(name, kind.model_fields[name])
        self.reset = link_button("Back to what is recommended", "All of these as they were")
        vbox(self.form, self.reset, on=self.body)
        vbox(self.fold, self.body, on=self)
        self.reset.clicked.connect(lambda: self._take(self._recommended()))
        self._without = without
        self.set_value(self._value)

    def set_value(self, value: Settings) -> None:
        """Show settings; says nothing."""
        self._value = value
        for name, show in self._show.items():
            with signals_blocked(self.fields[name]):
                show(_at(value, name))
        for name, wanted in self._only_with.items():
            there = all(getattr(value, other) == this for other, this in wanted.items())
            self.form.set_row_visible(self.fields[name], there)
        self.reset.setVisible(value != self._recommended())

    def refresh_choices(self) -> None:
        """Ask anew what can be chosen."""
        for name, choices in self._choices.items():
            combo = self.fields[name]
            assert isinstance(combo, QComboBox)
            chosen = getattr(self._value, name)
            combo.clear()
            combo.addItems(dict.fromkeys([*choices(), chosen]))
            combo.setCurrentText(chosen)

    def _recommended(self) -> Settings:
        """The settings with what the page shows itself as it is."""
        return self._kind(**{name: getattr(self._value, name) for name in self._without})

    def _set(self, name: str, value: Any) -> None:
        changed = self._value.model_dump()
        *outer, last = name.split(".")
        inside = changed
        for part in outer:
            inside = inside[part]
        inside[last] = value
        try:
            new = self._kind(**changed)
        except ValidationError:  # an end of the range that is itself not allowed
            self.set_value(self._value)
            return
        self._take(new)

    def _take(self, value: Settings) -> None:
        if value != self._value:
            self.set_value(value)
            self.valueChanged.emit(value)

    # --- one field -----------------------------------------------------------------------

    def _add(self, name: str, info: FieldInfo, only_with: dict[str, Any] | None = None) -> None:
        """A row; settings within settings become rows of their own, named "outer.inner"."""
        extra = info.json_schema_extra
        if isinstance(extra, dict) and "only_with" in extra:
            only_with = dict(extra["only_with"])  # type: ignore[arg-type]
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            for inner, inner_info in kind.model_fields.items():
                self._add(f"{name}.{inner}", inner_info, only_with)
            return
        field = self._field(name, info)
        self.fields[name] = field
        if only_with is not None:
            self._only_with[name] = only_with
        self.form.add(info.title or name, field, info.description or info.title or name)

    def _field(self, name: str, info: FieldInfo) -> QWidget:
        kind = info.annotation
        optional = get_origin(kind) in (Union, UnionType)
        if optional:
            kind = next(part for part in get_args(kind) if part is not type(None))
        if get_origin(kind) is Literal:
            return self._combo(name, [str(value) for value in get_args(kind)])
        if name in self._choices:
            return self._combo(name, self._choices[name]())
        if kind is bool:
            box = QCheckBox()
            box.clicked.connect(lambda on: self._set(name, on))
            self._show[name] = box.setChecked
            return box
        if kind is int:
            return self._whole(name, info, optional)
        if kind is float:
            spin = _decimal(info)
            spin.valueChanged.connect(lambda value: self._set(name, value))
            self._show[name] = spin.setValue
            return spin
        if get_origin(kind) is tuple:
            return self._several(name, info, len(get_args(kind)))
        raise TypeError(f"no field for {name}: {info.annotation}")

    def _combo(self, name: str, values: list[str]) -> QComboBox:
        combo = QComboBox()
        combo.addItems(values)
        combo.textActivated.connect(lambda text: self._set(name, text))
        self._show[name] = combo.setCurrentText
        return combo

    def _whole(self, name: str, info: FieldInfo, optional: bool) -> WholeNumberField:
        spin = WholeNumberField()
        low, high, step = _bounds(info)
        spin.setRange(int(low) - optional, int(high))
        spin.setSingleStep(int(step or 1))
        nothing = int(low) - 1
        if optional:
            spin.setSpecialValueText(self._empty)
        spin.valueChanged.connect(
            lambda value: self._set(name, None if optional and value == nothing else value)
        )
        self._show[name] = lambda value: spin.setValue(nothing if value is None else value)
        return spin

    def _several(self, name: str, info: FieldInfo, n: int) -> QWidget:
        whole = QWidget()
        grid = QGridLayout(whole)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(3)
        spins = [_decimal(info) for _ in range(n)]

        def show(values: Any) -> None:
            for spin, value in zip(spins, values, strict=True):
                with signals_blocked(spin):
                    spin.setValue(value)

        for i, spin in enumerate(spins):
            spin.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
            spin.setToolTip(info.description or info.title or name)
            grid.addWidget(spin, i // 2, i % 2)
            spin.valueChanged.connect(
                lambda _: self._set(name, tuple(one.value() for one in spins))
            )
        self._show[name] = show
        return whole


def _at(value: Settings, name: str) -> Any:
    """Value of a field, also of one within another: "outer.inner"."""
    found: Any = value
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _bounds(info: FieldInfo) -> tuple[float, float, float | None]:
    """Least, most, and step."""
    low, high, step = 0.0, float(MOST), None
    for rule in info.metadata:
        if isinstance(rule, Ge | Gt):
            low = float(rule.ge if isinstance(rule, Ge) else rule.gt)  # type: ignore[arg-type]
        elif isinstance(rule, Le | Lt):
            high = float(rule.le if isinstance(rule, Le) else rule.lt)  # type: ignore[arg-type]
        elif isinstance(rule, MultipleOf):
            step = float(rule.multiple_of)  # type: ignore[arg-type]
    return low, high, step


def _decimal(info: FieldInfo) -> NumberField:
    low, high, _ = _bounds(info)
    spin = NumberField()
    fine = info.default if isinstance(info.default, float) else 1.0
    decimals = 2 if fine == 0 or fine >= 0.05 else FINEST
    spin.setDecimals(decimals)
    spin.setRange(low, high)
    spin.setSingleStep(max(10.0**-decimals, 0.1 * fine))
    return spin
