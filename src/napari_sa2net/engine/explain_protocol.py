"""Explaining, as client and engine speak of it: maps, stages, single objects, what-ifs.

Arrays are references on the wire and numpy arrays in the client's events.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from napari_sa2net.config import InstanceConfig, NetworkConfig
from napari_sa2net.engine.segment_protocol import Segment, SegmentResult
from napari_sa2net.errors import SettingsError
from napari_sa2net.inference.maps import AttentionMap

__all__ = [
    "AttentionMap",
    "CellInspection",
    "Explain",
    "ExplainResult",
    "Exponents",
    "Inspect",
    "MapChannel",
    "StageStep",
    "WhatIf",
    "WhatIfResult",
]

#: γ at strides 8, 4, 2 and 1; None where it is the model's own.
Exponents = tuple[float | None, float | None, float | None, float | None]

# --- requests ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Explain(Segment):
    """Segment one plane and show why; done with an `ExplainResult`.

    Attributes
    ----------
    keep_as
        Not empty: the other requests here ask for what is kept under it.
    window
        Its ``index`` names one plane of a stack.

    Raises
    ------
    SettingsError
        Nothing would be kept.
    """

    def __post_init__(self) -> None:
        if not self.keep_as:
            raise SettingsError("An explanation is kept under a name: give 'keep_as' one.")


@dataclass(frozen=True)
class MapChannel:
    """One map of an explained image, with another channel; done with an `AttentionMap`.

    Attributes
    ----------
    key
        ``keep_as`` of the `Explain`.
    name
        Of the map.
    channel
        Counts from 0; None reduces all channels as `ExplainResult.maps` has them.
    """

    job: int
    key: str
    name: str
    channel: int | None = None


@dataclass(frozen=True)
class Inspect:
    """One object of an explained image; done with a `CellInspection`.

    Attributes
    ----------
    labels
        The labels as they are now, where a person has edited them: an array to `submit`, a
        reference on the wire. None: those of the last segmentation.
    """

    job: int
    key: str
    label: int
    labels: Any = None


@dataclass(frozen=True)
class WhatIf:
    """An explained image, segmented with attention changed; done with a `WhatIfResult`.

    Attributes
    ----------
    gates
        For each of the four scale gates: as trained, or switched off (False).
    gamma
        Exponents of ψ at strides 8, 4, 2 and 1, in place of the model's own: 0 is off, 1
        plain ψ, above 1 sharper. None keeps the model's own.
    se_gamma
        The same of squeeze and excitation on the skips at these strides.
    box
        ``(y0, y1, x0, x1)`` in pixels of the image, inside what was explained; None for all
        of it.
    """

    job: int
    key: str
    gates: tuple[bool, bool, bool, bool] = (True, True, True, True)
    gamma: Exponents = (None, None, None, None)
    se_gamma: Exponents = (None, None, None, None)
    instances: InstanceConfig = field(default_factory=InstanceConfig)
    box: tuple[int, int, int, int] | None = None


# --- results -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ExplainResult:
    """A segmentation and what the network attended to.

    Attributes
    ----------
    segmentation
        As `Segment` gives it, with further columns in its table.
    maps
        By name; a model without some stage lacks its maps.
    stages
        int32 labels (H, W) of the window from the heads at strides 8, 4, 2 and 1; those of 1
        are the segmentation's.
    change
        int8 (H, W): +1 where the last stage (1/2 → full) added foreground, −1 where it
        removed it.
    image_gates
        Means of the four scale gates over the window; NaN where a model has none.
    index, box
        What was explained: the plane, and ``(y0, y1, x0, x1)`` in pixels of the image.
    network
        Of the model: its attention modules and their γ.
    """

    segmentation: SegmentResult
    maps: dict[str, AttentionMap]
    stages: dict[int, Any]
    change: Any
    image_gates: tuple[float, ...]
    index: tuple[int, ...]
    box: tuple[int, int, int, int]
    network: NetworkConfig


@dataclass(frozen=True)
class StageStep:
    """What one decoder stage did to an object.

    Attributes
    ----------
    stride
        Of the head: 8, 4, 2 or 1.
    n_objects_overlapping
        Objects of that head that the object overlaps.
    area_px
        Their area.
    mean_move_px, max_move_px
        How far the boundary moved from the stage before; NaN at the first.
    event
        ``""``, ``"split"``, ``"merged"``, ``"appeared"`` or ``"vanished"``.
    """

    stride: int
    n_objects_overlapping: int
    area_px: int
    mean_move_px: float
    max_move_px: float
    event: str = ""


@dataclass(frozen=True, eq=False)
class CellInspection:
    """One object under the loupe.

    Attributes
    ----------
    gates, image_gates
        Means of the four scale gates in the object and in the window.
    distances
        float32 (25,): −12 … +12 px from the boundary, negative inside.
    profiles
        By stride, ψ at these distances, float32 (25,); NaN where no pixel lies that far.
    history
        One step per head, from the coarsest on.
    thumbnail
        float32 (h, w) or (h, w, 3) in 0…1, of the image around the object.
    outline
        bool (h, w): the object's boundary in the thumbnail.
    centre
        (y, x) in pixels of the image.
    by_hand
        A person drew or changed the object: the last stage did not make it as it is.
    ring, ring_box
        uint8 (h, w): 1 next to the object, 2 around that, else 0; and where that lies,
        ``(y0, y1, x0, x1)`` in pixels of the image.
    """

    label: int
    gates: tuple[float, ...]
    image_gates: tuple[float, ...]
    distances: Any
    profiles: dict[int, Any]
    history: tuple[StageStep, ...]
    thumbnail: Any
    outline: Any
    centre: tuple[float, float]
    by_hand: bool = False
    ring: Any = None
    ring_box: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class WhatIfResult:
    """What changed attention would have done.

    Attributes
    ----------
    labels
        int32 (h, w) of the box.
    change
        int8 (h, w): +1 foreground gained, −1 lost, against the same crop with everything at
        its default.
    appeared, vanished, split, merged
        Objects.
    gained_px, lost_px
        Pixels.
    n_before, n_after
        Objects.
    from_cache
        The part of the network that the change does not touch was not run again.
    """

    key: str
    labels: Any
    change: Any
    box: tuple[int, int, int, int]
    appeared: int
    vanished: int
    split: int
    merged: int
    gained_px: int
    lost_px: int
    n_before: int
    n_after: int
    seconds: float
    from_cache: bool
