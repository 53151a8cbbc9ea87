"""What the client remembers of jobs, and tells of them itself."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from napari_sa2net.engine import protocol as p


@dataclass
class OpenJob:
    """A job without an answer yet."""

    request: p.JobRequest
    sent: bool = False
    cancelled: bool = False
    shared: list[str] = field(default_factory=list)
    timer: threading.Timer | None = None


@dataclass(frozen=True)
class Tell:
    """Not a request: an event to be told from a thread of ours."""

    event: p.WasCancelled
