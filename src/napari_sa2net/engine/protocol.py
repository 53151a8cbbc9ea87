"""What client and engine say to each other: plain frozen dataclasses, no torch.

Requests go from napari's process to the engine, events come back. A request that carries a
``job`` is answered by any number of `Progress` and then by exactly one of `Done`, `Failed`
and `WasCancelled` with the same number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari_sa2net.engine.explain_protocol import (
    AttentionMap,
    CellInspection,
    Explain,
    ExplainResult,
    Exponents,
    Inspect,
    MapChannel,
    StageStep,
    WhatIf,
    WhatIfResult,
)
from napari_sa2net.engine.models_protocol import (
    Compare,
    Comparison,
    Imported,
    ImportModel,
    Part,
)
from napari_sa2net.engine.segment_protocol import (
    ArrayRef,
    Derive,
    EngineInfo,
    FileRef,
    Measure,
    MeasureImage,
    ObjectTable,
    RegionRef,
    Segment,
    SegmentResult,
    Summary,
    WarmUp,
    Window,
)
from napari_sa2net.engine.train_protocol import (
    FineTune,
    FineTuneResult,
    Pause,
    StopAndKeep,
    TrainProgress,
)

__all__ = [
    "ArrayRef",
    "AttentionMap",
    "Cancel",
    "CellInspection",
    "Compare",
    "Comparison",
    "Derive",
    "Died",
    "Done",
    "EngineInfo",
    "Event",
    "Explain",
    "ExplainResult",
    "Exponents",
    "Failed",
    "FileRef",
    "FineTune",
    "FineTuneResult",
    "Forget",
    "ImportModel",
    "Imported",
    "Inspect",
    "JobRequest",
    "KeyedRequest",
    "MapChannel",
    "Measure",
    "MeasureImage",
    "ObjectTable",
    "Part",
    "Pause",
    "Progress",
    "ReadRegion",
    "Ready",
    "RegionData",
    "RegionRef",
    "Release",
    "Request",
    "Segment",
    "SegmentResult",
    "Shutdown",
    "StageStep",
    "Starting",
    "StopAndKeep",
    "Summary",
    "TrainProgress",
    "WarmUp",
    "WasCancelled",
    "WhatIf",
    "WhatIfResult",
    "Window",
]

# --- requests ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Forget:
    """Drop what is kept under a key."""

    key: str


@dataclass(frozen=True)
class Cancel:
    """Stop a job at the next tile or plane."""

    job: int


@dataclass(frozen=True)
class Shutdown:
    """End the engine."""


@dataclass(frozen=True)
class Release:
    """The receiver of an array has copied it; the sender may free it (both directions)."""

    name: str


@dataclass(frozen=True)
class RegionData:
    """Answer to `ReadRegion`: the region, or what went wrong."""

    token: int
    array: ArrayRef | None
    error: str = ""


KeyedRequest = Derive | MapChannel | Inspect | WhatIf
"""Of several of one kind that wait for one key only the newest runs."""
JobRequest = (
    WarmUp | Segment | Measure | MeasureImage | KeyedRequest | FineTune | ImportModel | Compare
)
Request = JobRequest | Forget | Cancel | Shutdown | Release | RegionData | Pause | StopAndKeep

# --- events ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """The engine has imported torch and takes jobs; it keeps nothing from before."""

    info: EngineInfo


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` steps of the job; ``what`` says what goes on."""

    job: int
    done: int
    total: int
    what: str


@dataclass(frozen=True, eq=False)
class Done:
    """The job's result, of the class that its request names."""

    job: int
    result: Any


@dataclass(frozen=True)
class Failed:
    """The job failed.

    Attributes
    ----------
    kind
        Class name of the error: one of `napari_sa2net.errors`, else the foreign name.
    message
        For the user: what is wrong and what to do.
    details
        Traceback or the engine's last words, to be folded away.
    """

    job: int
    kind: str
    message: str
    details: str = ""


@dataclass(frozen=True)
class WasCancelled:
    """The job was cancelled, or replaced by a newer one of its kind."""

    job: int


@dataclass(frozen=True)
class Starting:
    """The client is starting an engine process."""


@dataclass(frozen=True)
class Died:
    """The engine process is gone, and with it everything it kept.

    Attributes
    ----------
    message
        What happened and what to do; empty when it was ended to cancel a job.
    restarting
        The client starts another one by itself; else `EngineClient.restart` does.
    """

    message: str
    details: str = ""
    restarting: bool = True


@dataclass(frozen=True)
class ReadRegion:
    """The engine asks the client for part of a `RegionRef`; never reaches ``on_event``."""

    token: int
    source: str
    key: tuple[int | slice, ...]


Event = (
    Starting
    | Ready
    | Progress
    | TrainProgress
    | Done
    | Failed
    | WasCancelled
    | Died
    | ReadRegion
    | Release
)
