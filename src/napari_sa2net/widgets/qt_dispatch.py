"""Carry calls from worker threads into the GUI thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Qt, Signal


class GuiDispatcher(QObject):
    """Call functions in the GUI thread, whoever asks.

    Worker threads never touch widgets or emit widgets' signals: they hand a function to
    this object, and the event loop of the thread that made it runs it later, in order.
    After :meth:`close` calls are dropped silently, so that an answer that comes too late
    meets no deleted widget.
    """

    _called = Signal(object, object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._lock = threading.Lock()
        self._open = True
        self._called.connect(self._run, Qt.ConnectionType.QueuedConnection)

    def __call__(self, function: Callable[..., Any], *args: Any) -> None:
        """Run ``function(*args)`` in the GUI thread soon; returns at once.

        Safe from any thread.
        """
        # the lock keeps close() and the emission apart: Qt may free the C++ side after it
        with self._lock:
            if self._open:
                self._called.emit(function, args)

    def close(self) -> None:
        """Drop every call from now on, also those under way."""
        with self._lock:
            self._open = False

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if self._open:
            function(*args)
