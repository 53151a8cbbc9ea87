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

    def disconnect(self) -> None:
        """Undo all of it."""
        for emitter, callback in self._made:
            emitter.disconnect(callback)
        self._made.clear()

    def __len__(self) -> int:
        return len(self._made)
