"""Connections to napari's events that can all be undone at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer


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


class WatchedLayers:
    """Layers of a viewer of some kind, each with connections that end when it goes.

    Parameters
    ----------
    viewer
        What is there is watched at once.
    wanted
        Whether a layer is of the kind.
    connect
        Makes the connections of a layer with the function that it is given.
    came, gone
        Called with a layer that was added, or removed.
    """

    def __init__(
        self,
        viewer: Viewer,
        wanted: Callable[[Any], bool],
        connect: Callable[[Any, Callable[..., None]], None],
        came: Callable[[Any], None] = lambda _: None,
        gone: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self._wanted, self._connect = wanted, connect
        self._came, self._gone = came, gone
        self._layers: dict[Layer, Connections] = {}
        self._own = Connections()
        self._own.connect(viewer.layers.events.inserted, self._inserted)
        self._own.connect(viewer.layers.events.removed, self._removed)
        for layer in viewer.layers:
            self._watch(layer)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._layers))

    def __contains__(self, layer: object) -> bool:
        return layer in self._layers

    def __len__(self) -> int:
        return len(self._layers)

    def close(self) -> None:
        """Watch nothing any more."""
        self._own.disconnect()
        for connections in self._layers.values():
            connections.disconnect()
        self._layers.clear()

    def _watch(self, layer: Layer) -> bool:
        if not self._wanted(layer):
            return False
        self._layers[layer] = connections = Connections()
        self._connect(layer, connections.connect)
        return True

    def _inserted(self, event: Any) -> None:
        if self._watch(event.value):
            self._came(event.value)

    def _removed(self, event: Any) -> None:
        connections = self._layers.pop(event.value, None)
        if connections is not None:
            connections.disconnect()
            self._gone(event.value)
