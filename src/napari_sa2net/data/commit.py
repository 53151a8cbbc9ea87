"""What is handed over to be kept: an image, its corrected labels, and what was reviewed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.channels import choose_channels
from napari_sa2net.data.manifest import CommitRecord, Parent, Seen, Source
from napari_sa2net.errors import ChannelError, CorrectionsError
from napari_sa2net.files import readable


@dataclass(frozen=True)
class Commit:
    """Corrected labels of an image, a plane or a crop.

    Attributes
    ----------
    image : (H, W), (H, W, 3 or 4) or (C, H, W), real numbers
        The values of the source, not normalised.
    labels : whole numbers ≥ 0, (H, W)
        0 is background.
    reviewed : (H, W), not 0 where the labels can be trusted, or None for everywhere
        All that was ever reviewed there: the commit replaces an earlier one of its place.
    source : str
        Name of the image.
    path, fingerprint : str
        Its file, and its `image_fingerprint`, by which later commits find this one.
    index, box, levels, pixel_size_um, group, kind, split, n_edits, notes
        See `CommitRecord`.
    axes : "YX", "YXC", "CYX" or None
        Unsaid: YX, or YXC where the last axis has length 3 or 4.
    channels : sequence of int, optional
        Channels of `image` that the cells were made from, in their order: only these are kept,
        and learned from. Unsaid: all of them.
    made : mapping, optional
        ``provenance`` of the segmentation that made the cells: settings, model and object size
        travel with the commit, so that learning sees what segmenting saw.
    parent, parent_sha256 : str
        Name of the model whose labels were corrected, and of its file.
    """

    image: NDArray[Any]
    labels: NDArray[Any]
    reviewed: NDArray[Any] | None = None
    source: str = "image"
    path: str = ""
    fingerprint: str = ""
    index: Sequence[int] = ()
    box: Sequence[int] | None = None
    axes: str | None = None
    channels: Sequence[int] | None = None
    made: Mapping[str, Any] | None = None
    levels: Sequence[Sequence[float]] | None = None
    pixel_size_um: float | None = None
    parent: str = ""
    parent_sha256: str = ""
    group: str = ""
    kind: str = ""
    split: Literal["", "train", "val"] = ""
    n_edits: int = 0
    notes: str = ""

    def record(self, identity: str, name: str, time: str) -> CommitRecord:
        """The entry of a checked commit for the manifest."""
        assert self.reviewed is not None and self.axes is not None
        counts = _counts(self.labels, self.reviewed)
        size = self.pixel_size_um
        made = self.made or {}
        seen, model = Seen.of(made), made.get("model") or {}
        levels = self.levels
        if levels is None and seen is not None:
            # Of the channels of the file, which need not be those that went in.
            known = seen.levels_of(self.index)
            n = 1 if self.axes == "YX" else self.image.shape[self.axes.index("C")]
            levels = known if len(known) == n else None
        return CommitRecord(
            id=identity,
            name=name,
            time=time,
            source=Source(name=self.source, path=self.path, fingerprint=self.fingerprint),
            index=tuple(int(i) for i in self.index),
            box=_box(self.box),
            shape=(self.labels.shape[0], self.labels.shape[1]),
            axes=self.axes,
            levels=None
            if levels is None
            else tuple((float(low), float(high)) for low, high in levels),
            seen=seen,
            pixel_size_um=None if size is None else float(size),
            parent=Parent(
                name=self.parent or model.get("name", ""),
                sha256=self.parent_sha256 or model.get("sha256", ""),
            ),
            group=self.group.strip(),
            kind=self.kind.strip(),
            split=self.split,
            n_objects=counts[0],
            n_reviewed=counts[1],
            reviewed_share=round(float(self.reviewed.mean()), 6),
            n_edits=self.n_edits,
            notes=self.notes,
        )


def checked_commit(commit: Commit) -> Commit:
    """The commit with its axes named, its mask as bool, and its labels as whole numbers.

    Raises
    ------
    CorrectionsError
        If the arrays do not fit each other, labels are not labels, or nothing is reviewed.
    """
    image, labels = np.asarray(commit.image), np.asarray(commit.labels)
    axes = commit.axes or _axes(image)
    if axes not in ("YX", "YXC", "CYX") or image.ndim != len(axes):
        raise CorrectionsError(
            f"An image of shape {image.shape} with axes {axes!r} cannot be kept: choose one "
            "plane, with axes YX, YXC or CYX."
        )
    if axes == "YXC" and image.shape[2] not in (3, 4):
        image, axes = np.moveaxis(image, 2, 0), "CYX"
    if commit.channels is not None:
        image, axes = pick_channels(image, axes, commit.channels)
    if image.dtype.kind not in "biuf" or image.dtype.itemsize > 8:
        raise CorrectionsError(
            f"An image of {image.dtype} cannot be kept; convert it to real numbers."
        )
    spatial = tuple(image.shape[axes.index(axis)] for axis in "YX")
    reviewed = (
        np.ones(spatial, bool) if commit.reviewed is None else np.asarray(commit.reviewed) != 0
    )
    if not spatial == labels.shape == reviewed.shape or 0 in spatial:
        raise CorrectionsError(
            f"Image {spatial}, labels {labels.shape} and reviewed mask {reviewed.shape} must "
            "have the same height and width, and at least one pixel."
        )
    if labels.dtype.kind not in "biu":
        raise CorrectionsError(
            f"Labels must be whole numbers, not {labels.dtype}. Convert them: one whole number "
            "for each cell, 0 for background, saved as 16-bit or as labels of napari."
        )
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise CorrectionsError(
            f"Labels must lie in 0 … 2147483647; these are {labels.min()} … {labels.max()}."
        )
    if not reviewed.any():
        raise CorrectionsError(
            "Nothing is marked as reviewed, so nothing could be learned from it. Accept or "
            "correct at least one object, or mark a region as wholly reviewed."
        )
    box = _box(commit.box)
    if box is not None and (box[1] - box[0], box[3] - box[2]) != spatial:
        raise CorrectionsError(f"The box {box} does not have the image's size {spatial}.")
    size = commit.pixel_size_um
    if size is not None and not (math.isfinite(size) and size > 0):
        raise CorrectionsError(f"A pixel size of {size} µm makes no sense; leave it out.")
    return replace(
        commit,
        image=image,
        labels=labels,
        reviewed=reviewed,
        axes=axes,
        source=readable(commit.source),
        path=readable(commit.path),
        group=readable(commit.group),
        kind=readable(commit.kind),
        notes=readable(commit.notes),
        channels=None,
    )


def pick_channels(
    image: NDArray[Any], axes: str, channels: Sequence[int]
) -> tuple[NDArray[Any], str]:
    """Channels of a plane in that order, and the axes of what they make.

    Raises
    ------
    CorrectionsError
        If there is no such channel.
    """
    at = axes.find("C")
    n = image.shape[at] if at >= 0 else 1
    try:
        picks = choose_channels(channels, n, axes == "YXC")
    except ChannelError as error:
        raise CorrectionsError(str(error)) from error
    planes = image[None] if at < 0 else np.moveaxis(image, at, 0)
    return as_plane(planes[list(picks)], axes == "YXC")


def as_plane(values: NDArray[Any], colours: bool) -> tuple[NDArray[Any], str]:
    """Channels (k, H, W) as they are kept: YX, colours YXC, others CYX."""
    if len(values) == 1:
        return values[0], "YX"
    if colours and len(values) == 3:
        return np.moveaxis(values, 0, 2), "YXC"
    return values, "CYX"


def _axes(image: NDArray[Any]) -> str:
    if image.ndim == 3 and image.shape[-1] in (3, 4):
        return "YXC"
    return "YX" if image.ndim == 2 else "?" * image.ndim


def _box(box: Sequence[int] | None) -> tuple[int, int, int, int] | None:
    if box is None:
        return None
    y0, y1, x0, x1 = (int(value) for value in box)
    return y0, y1, x0, x1


def _counts(labels: NDArray[Any], reviewed: NDArray[np.bool_]) -> tuple[int, int]:
    """Number of objects, and of those with a reviewed pixel."""
    if labels.max() < 4 * labels.size + 1_000_000:
        # Much quicker than sorting the pixels.
        flat = labels.ravel().astype(np.int64, copy=False)
        every = np.bincount(flat)
        seen = np.bincount(flat[reviewed.ravel()])
        return int((every[1:] > 0).sum()), int((seen[1:] > 0).sum())
    every, seen = np.unique(labels), np.unique(labels[reviewed])
    return int((every > 0).sum()), int((seen > 0).sum())
