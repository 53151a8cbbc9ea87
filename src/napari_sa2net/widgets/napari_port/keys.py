"""Keys of a page: bound while it is seen, and what was bound before comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app_model.types import KeyBinding, KeyCode

#: Keys that a person chose in napari's preferences, by the usual ones.
_chosen: dict[str, str] = {}
#: Keys that always do something else: undo, laying a tool down, and what the sheet tells of.
_TAKEN = frozenset(
    KeyBinding.from_str(key).parts[0]
    for key in (
        *("Ctrl+Z", "Ctrl+Shift+Z", "Meta+Z", "Meta+Shift+Z"),
        *("Escape", "Space", "1", "2", "M", "L", "[", "]"),
    )
)


def choose_keys(usual: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Take keys that a person wants instead of the usual ones, for whatever is bound later.

    Parameters
    ----------
    usual, wanted
        Keys by what they do; what has no wish keeps its key.

    Returns
    -------
    list of str
        Why a wish was not taken, one sentence each.
    """
    _chosen.clear()
    refused, found = [], {}
    for name, key in usual.items():
        wish = wanted.get(name, "").strip() or key
        parts, found[name] = KeyBinding.from_str(wish.replace("-", "+")).parts, key
        why = ""
        if len(parts) > 1 or parts[0].key in (None, KeyCode.UNKNOWN):
            why = f"{wish!r} is no key"
        elif parts[0].is_modifier_key():
            why = f"{wish} alone is no key: add a letter to it, as in Alt+X"
        elif parts[0] in _TAKEN:
            why = f"{parts[0]} is needed for something else"
        elif wish != key:
            found[name] = str(parts[0])
        if why:
            refused.append(f"{why}, so {_words(name)} stays with {spelled(key)}.")
    by_key: dict[str, list[str]] = {}
    for name, key in found.items():
        by_key.setdefault(spelled(key), []).append(name)
    twice = {key: names for key, names in by_key.items() if len(names) > 1}
    for key, names in twice.items():
        both = " and ".join(map(_words, names))
        refused.append(f"{key} is given to {both}, so all keep their usual keys.")
    if twice:
        return refused
    _chosen.update({usual[name]: key for name, key in found.items() if key != usual[name]})
    return refused


def _words(name: str) -> str:
    return name.replace("_", " ")


def key_now(usual: str) -> str:
    """The key that does now what this one usually does; as napari spells it."""
    return _chosen.get(usual, usual)


def spelled(usual: str) -> str:
    """`key_now` as it is read: Shift+N."""
    return key_now(usual).replace("-", "+")


class Keys:
    """Binds keys to functions on something that has a keymap, a viewer or a layer.

    Parameters
    ----------
    bindings : dict of str to callable
        Functions without arguments, by their usual keys in napari's spelling; bound to those
        that a person chose.
    """

    def __init__(self, bindings: dict[str, Callable[[], Any]]) -> None:
        self._bindings = bindings
        self._bound: Any = None
        self._ours: dict[str, Any] = {}
        self._former: dict[str, Any] = {}

    @property
    def bound(self) -> Any:
        """What the keys are bound to; None while they are not."""
        return self._bound

    def bind(self, to: Any) -> None:
        """Bind, after letting go of what they were bound to."""
        if to is self._bound:
            return
        self.release()
        self._bound = to
        for usual, act in self._bindings.items():
            key = key_now(usual)
            self._ours[key] = _without_argument(act)
            self._former[key] = to.bind_key(key, self._ours[key], overwrite=True)

    def release(self) -> None:
        """What was bound before comes back, and what was bound since stays."""
        if self._bound is None:
            return
        for key, ours in self._ours.items():
            bound = self._bound.bind_key(key, None, overwrite=True)
            keep = self._former[key] if bound is ours else bound
            if keep is not None:
                self._bound.bind_key(key, keep, overwrite=True)
        self._ours, self._former, self._bound = {}, {}, None


def _without_argument(act: Callable[[], Any]) -> Callable[[Any], None]:
    def pressed(_: Any) -> None:
        act()

    return pressed
