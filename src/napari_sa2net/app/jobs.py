"""Jobs in flight: numbers, and what each one is for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

JobKind = Literal[
    "warm_up",
    "segment",
    "derive",
    "measure",
    "measure_image",
    "confidence",
    "explain",
    "map_channel",
    "inspect",
    "what_if",
    "box",
    "level",
    "learn_preview",
    "learn_compare",
    "import",
    "compare",
]


@dataclass(frozen=True, eq=False)
class Job:
    """A job that was submitted.

    Attributes
    ----------
    key
        Of the result that it belongs to.
    request
        What was asked for, as the controller wants it back: of a run a `SegmentRequest`.
    """

    number: int
    kind: JobKind
    key: str = ""
    request: Any = None


class JobBook:
    """Numbers jobs and finds them again; a job that is not in it is stale."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}

    def open(
        self,
        kind: JobKind,
        key: str = "",
        request: Any = None,
    ) -> Job:
        job = Job(next(self._numbers), kind, key, request)
        self._jobs[job.number] = job
        return job

    def get(self, number: int) -> Job | None:
        return self._jobs.get(number)

    def close(self, number: int) -> Job | None:
        """Remove and return the job; None when it was dropped before."""
        return self._jobs.pop(number, None)

    def find(self, kind: JobKind, key: str | None = None) -> Job | None:
        """The newest open job of a kind (and of a key)."""
        for job in reversed(self._jobs.values()):
            if job.kind == kind and (key is None or job.key == key):
                return job
        return None

    def all(self, kind: JobKind | None = None) -> list[Job]:
        return [j for j in self._jobs.values() if kind is None or j.kind == kind]
