"""Cells that are corrected, and how they lie on their image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.axes import axis_noun
from napari_sa2net.data.numbered import look_at

if TYPE_CHECKING:
    from napari_sa2net.app.session import ImageSource
    from napari_sa2net.data.manifest import Seen

#: Pixels of a plane that are looked at for what is odd.
LOOKED_AT = 1 << 18

Index = tuple[int, ...]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class KeptPlace:
    """Where an image of a training set came from, so that keeping it anew replaces it.

    Attributes
    ----------
    name, path, fingerprint, index, box, levels, group, kind, split, seen, channels
        As of the commit, see `CommitRecord`.
    """

    name: str
    path: str
    fingerprint: str
    index: Index
    box: Box | None
    levels: tuple[tuple[float, float], ...] | None
    group: str
    kind: str
    split: Literal["", "train", "val"]
    seen: Seen | None = None
    channels: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class CellSource:
    """Labels as a layer offers them; a new object whenever anything of it changes.

    Attributes
    ----------
    key
        Identifies the layer for as long as it lives.
    labels
        The layer's own array, integers (\\*stack, H, W); corrected in place.
    plane
        Plane that is shown, one number for each stack axis of ``labels``.
    image
        The image under the cells; None where there is none.
    corner
        Place of the first label in the image without channels (stack axes, then y and x);
        None where the pixels of the two do not lie on each other.
    extra
        Stack axes of ``labels`` that the image does not have; they have length 1.
    path
        File of the image, where there is one.
    result_key
        Of the segmentation that made the cells, for as long as the page shows it.
    model, model_sha256
        What made the cells, as far as the layer says.
    journal
        Id of the journal of their corrections, where there is one.
    turned
        Where the view shows no plane of the stack, but cuts through all: how to turn it back.
    kept
        Where the image came from, if it was opened from a training set.
    since
        When the cells came into the viewer, to the second; None where that is not known.
    could_lie_on
        Where ``corner`` is None: they have the image's shape, so `CellLayers.lay_on_image`
        makes the pixels of the two lie on each other.
    former
        Labels before the cells of another part of the image were added, which nobody has
        edited since; None where none were.
    made
        Provenance of the segmentation that made the cells; empty where none did.
    """

    key: str
    name: str
    labels: NDArray[Any]
    plane: Index = ()
    image: ImageSource | None = None
    corner: Index | None = None
    extra: tuple[int, ...] = ()
    path: str = ""
    result_key: str = ""
    model: str = ""
    model_sha256: str = ""
    journal: str = ""
    turned: str = ""
    kept: KeptPlace | None = None
    since: datetime | None = None
    could_lie_on: bool = False
    former: NDArray[Any] | None = None
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a plane (px)."""
        return int(self.labels.shape[-2]), int(self.labels.shape[-1])

    @property
    def stack_axes(self) -> str:
        """Letters of the stack axes of ``labels``; empty where the image does not tell."""
        own = iter(self.image.stack_axes if self.image is not None else "")
        axes = [" " if i in self.extra else next(own, "") for i in range(self.labels.ndim - 2)]
        return "".join(axes) if all(axes) else ""

    @property
    def axis_noun(self) -> str:
        """What one element of the stack is called: "plane" or "time point"."""
        return axis_noun(self.stack_axes.strip(), 1)

    def image_index(self, index: Index) -> Index:
        """Stack index in the image of a plane of the labels."""
        assert self.corner is not None
        own = [i for axis, i in enumerate(index) if axis not in self.extra]
        return tuple(i + first for i, first in zip(own, self.corner[:-2], strict=True))

    def image_box(self, box: Box | None = None) -> Box:
        """A box of the labels (unsaid: all of them) in pixels of the image."""
        assert self.corner is not None
        y0, y1, x0, x1 = box or (0, self.shape[0], 0, self.shape[1])
        y, x = self.corner[-2:]
        return y0 + y, y1 + y, x0 + x, x1 + x


def odd_words(source: CellSource) -> str:
    """Why labels of elsewhere may be no cells, of the plane that is shown; empty if they are.

    Of a large plane not every pixel is looked at, as that would be felt.
    """
    plane = source.labels[source.plane]
    every = max(1, round(math.sqrt(plane.size / LOOKED_AT)))
    look = look_at(np.asarray(plane[::every, ::every]), "corrected as one")
    words = look.problem or look.note
    return words[:1].upper() + words[1:]
