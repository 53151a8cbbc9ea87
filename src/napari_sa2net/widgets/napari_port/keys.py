"""Keys of a page: bound while it is seen, and what was bound before comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Keys:
    """Binds keys to functions on something that has a keymap, a viewer or a layer.

    Parameters
    ----------
    bindings : dict of str to callable
        Functions without arguments; napari's spelling of keys.
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
        for key, act in self._bindings.items():
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
