"""What the See-why page holds of an image: explanation, shown layers, what-if."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from napari_sa2net.app.preview import source_plan
from napari_sa2net.config import NetworkKind
from napari_sa2net.engine.protocol import (
    AttentionMap,
    CellInspection,
    ExplainResult,
    Exponents,
    WhatIfResult,
)

if TYPE_CHECKING:
    from napari_sa2net.app.requests import ExplainRequest
    from napari_sa2net.app.session import ImageSource

Box = tuple[int, int, int, int]

STAGE, CHANGE, WHAT_IF, CELL = "stage", "change", "what_if", "cell"
"""Layers of the page that are no attention maps; those go by the map's name."""
PREVIEW, DIFFERENCE = "learn_preview", "learn_difference"
"""Layers of the Learn page: cells as the child sees them, and where it differs."""
STRIDES = (8, 4, 2, 1)
"""Of the decoder's stages, from the coarsest on."""


@dataclass(frozen=True)
class WhatIfSettings:
    """Attention as a person wants to try it.

    Attributes
    ----------
    gates
        Which of the four scales stay on.
    gamma
        Exponents of ψ at strides 8, 4, 2, 1: 0 off, 1 plain ψ, above 1 sharper; None as
        trained.
    se_gamma
        The same of squeeze and excitation on the skips at these strides.
    """

    gates: tuple[bool, bool, bool, bool] = (True, True, True, True)
    gamma: Exponents = (None, None, None, None)
    se_gamma: Exponents = (None, None, None, None)

    @property
    def is_default(self) -> bool:
        """Everything is as trained."""
        return self == WhatIfSettings()


@dataclass(frozen=True, eq=False)
class Explanation:
    """A finished explanation; ``key`` is that of its segmentation."""

    key: str
    request: ExplainRequest
    result: ExplainResult


@dataclass(frozen=True, eq=False)
class WhyState:
    """All that the page shows of one image; every change makes a new one.

    Attributes
    ----------
    maps
        By name; of a map with several channels the one that was chosen.
    channels
        Channel that is wanted of a map; a map that is not in it shows all of them.
    shown
        Which layers are over the image: names of maps, `STAGE`, `CHANGE`, `WHAT_IF`, `CELL`.
    focus
        Map that the page describes; empty for none.
    stage
        Stride of the boundary stage that is chosen.
    kept
        The engine can still answer questions on it.
    moved
        The sliders of the Segment page have changed the cells since.
    wanted
        Label that is being inspected.
    what_if_box
        Part of the image that the newest what-if was asked for; None before the first.
    """

    explanation: Explanation
    maps: dict[str, AttentionMap]
    channels: dict[str, int] = field(default_factory=dict)
    shown: frozenset[str] = frozenset()
    focus: str = ""
    stage: int = 1
    kept: bool = True
    moved: bool = False
    wanted: int | None = None
    inspection: CellInspection | None = None
    what_if: WhatIfSettings = field(default_factory=WhatIfSettings)
    what_if_box: Box | None = None
    what_if_result: WhatIfResult | None = None

    @property
    def key(self) -> str:
        return self.explanation.key

    @property
    def image_key(self) -> str:
        return self.explanation.request.source.key

    @property
    def what_if_part(self) -> str:
        """Part of the image that the what-if's result is about, in words."""
        assert self.what_if_result is not None
        box, explained = self.what_if_result.box, self.explanation.result.box
        if box == explained:
            height, width = source_plan(self.explanation.request.source).spatial
            whole = explained == (0, height, 0, width)
            return "in the whole image" if whole else "in all that was looked into"
        return "in the view" if box == self.what_if_box else "in the view before this one"

    def changed(self, **fields: Any) -> WhyState:
        """A state with other fields."""
        return replace(self, **fields)


@dataclass(frozen=True, eq=False)
class Patch:
    """Pixels of a part of the image.

    Attributes
    ----------
    values
        int32 labels, int8 signs or the lines around a cell (h, w).
    box
        ``(y0, y1, x0, x1)`` in the image.
    stride
        Stage of labels; 0 where it means nothing.
    """

    values: Any
    box: Box
    stride: int = 0


@dataclass(frozen=True, eq=False)
class Overlay:
    """One layer of the page: show it, put other content into it, or take it away.

    Attributes
    ----------
    source
        The image as it was explained.
    slot
        Name of a map, `STAGE`, `CHANGE`, `WHAT_IF` or `CELL`; one layer for each.
    content
        None: take the layer away.
    index
        Plane of the stack.
    network
        What kind the model is, which maps are named for.
    """

    source: ImageSource
    slot: str
    content: AttentionMap | Patch | None
    index: tuple[int, ...] = ()
    network: NetworkKind = "sa2net"
