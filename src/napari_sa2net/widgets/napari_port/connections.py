"""Connections to napari's events that can all be undone at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Connections:
    """Remembers what it connected, so that closing leaves nothing behind."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, Callable[..., Any]]] = []

    def connect(self, emitter: Any, callback: Callable[..., Any]) -> None:
        """Connect a callback to an event emitter."""
        emitter.connect(callback)
        self._made.append((emitter, callback))

    def follow(self, show: Callable[[], Any], *emitters: Any) -> None:
        """Call it now, and again whenever one of them speaks (psygnal's own: not napari's)."""
        for emitter in emitters:
            self.connect(emitter, show)
        show()

    def disconnect(self) -> None:
        """Undo all of it."""
        for emitter, callback in self._made:
            emitter.disconnect(callback)
        self._made.clear()

    def __len__(self) -> int:
        return len(self._made)
