"""Questions that come faster than their answers: the newest of each kind counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari_sa2net.app.jobs import Job, JobKind
from napari_sa2net.app.link import EngineLink
from napari_sa2net.engine import protocol as p


class Newest:
    """Asks the engine: one question of a kind in flight for a key, the newest waits.

    Of several that wait, only those with different ``about`` are all asked.
    """

    def __init__(self, link: EngineLink) -> None:
        self._link = link
        self._waiting: dict[tuple[JobKind, str], dict[Any, Callable[[int], p.Request]]] = {}

    def ask(
        self, kind: JobKind, key: str, about: Any, make: Callable[[int], p.Request]
    ) -> None:
        """Submit ``make(job number)`` now or when the one in flight has ended.

        ``about`` comes back as ``job.request``.
        """
        if self._link.jobs.find(kind, key) is not None:
            self._waiting.setdefault((kind, key), {})[about] = make
            return
        job = self._link.jobs.open(kind, key, about)
        self._link.submit(make(job.number))

    def ended(self, job: Job) -> None:
        """A job has ended: ask what waits for it."""
        waiting = self._waiting.get((job.kind, job.key))
        if waiting:
            about = next(iter(waiting))
            self.ask(job.kind, job.key, about, waiting.pop(about))

    def forget(self, key: str, kind: JobKind | None = None) -> None:
        """Ask nothing more of a key."""
        for one in [w for w in self._waiting if w[1] == key and kind in (None, w[0])]:
            del self._waiting[one]
