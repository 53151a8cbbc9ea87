"""When what goes on will be over, by how long its parts have taken so far."""

from __future__ import annotations

import time
from dataclasses import replace

from napari_sa2net.app.preview import RunTime
from napari_sa2net.app.session import JobProgress


class TimeLeft:
    """Follows the progress of one run.

    Parameters
    ----------
    expected : RunTime, optional
        How long all of it would take; told where nothing better is known yet.
    """

    def __init__(self, expected: RunTime | None = None) -> None:
        self._ends = None
        # a wide range says nothing that could be counted down
        if expected is not None and expected.high <= 2 * expected.low:
            self._ends = time.monotonic() + expected.high
        self._first = self._last = JobProgress(0, 0, "")
        self._began = 0.0

    def of(self, progress: JobProgress) -> JobProgress:
        """The progress with the time at which it will be over."""
        now = time.monotonic()
        if progress.total != self._last.total or progress.done < self._last.done:
            self._first, self._began = progress, now
        self._last = progress
        parts = progress.done - self._first.done
        if not (progress.total and parts):
            return replace(progress, ends=self._ends)
        per_part = (now - self._began) / parts
        return replace(progress, ends=now + per_part * (progress.total - progress.done))
