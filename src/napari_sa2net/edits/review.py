"""The order of review: most doubtful first, those that the edge cuts last; and the walk."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy  # its parts load on first use
from numpy.typing import NDArray

from napari_sa2net.edits.corrections import Corrections, PlaneIndex, Reader
from napari_sa2net.edits.reviewed import ignored_labels, reviewed_labels
from napari_sa2net.edits.shapes import Box, grown
from napari_sa2net.edits.step import Index, Step
from napari_sa2net.errors import EditError

# --------------------------------------------------------------------------------------------
# How doubtful an object is: an estimate of the chance that it is wrong, with reasons.
#
# The score is a logistic function of a few measurements of one object and its surroundings.
# Its weights were fitted on the images that the bundled model's training held out from its
# training split (2,563 objects, 263 of them wrong: overlap with the truth below one half), and
# rounded. Seams and image borders are flagged; their small weights are a guess, as beyond
# size, shape and blur they told nothing there. Disagreement under flips told little that the
# blur did not, so it may be left out.

#: Width of the band around an object whose probabilities are looked at (px).
BAND = 3
#: Fewest objects of a plane for which a typical size means something.
_FEWEST = 5
#: Blur of an ordinary object, used where there is no probability.
_ORDINARY_BLUR = 0.25
_BIAS = -5.7
#: Pixels of a window beyond which only some of them are looked at.
_MOST_PIXELS = 1 << 16
_SQUARE = np.ones((3, 3), bool)


@dataclass(frozen=True)
class _Term:
    """One measurement: its weight, and from where on it is named as a reason."""

    weight: float
    named_from: float
    words: str


_TERMS: dict[str, _Term] = {
    "blur": _Term(6.0, 0.35, "blurred boundary"),
    "flips": _Term(3.0, 0.04, "changes when the image is flipped"),
    "shape": _Term(11.0, 0.06, "irregular shape"),
    "small": _Term(0.7, 1.5, "unusually small"),
    "large": _Term(1.4, 1.0, "unusually large"),
    "contact": _Term(2.4, 0.2, "touches a neighbour"),
    "border": _Term(0.1, 1.0, "cut at the image border"),
    "seam": _Term(0.5, 1.0, "on a seam, where the network saw it in two pieces"),
}


@dataclass(frozen=True)
class Doubt:
    """How doubtful one object is.

    Attributes
    ----------
    label : int
    score : float
        In 0…1: estimated chance that the object is wrong.
    reasons : tuple of str
        In words, the weightiest first; empty where nothing stands out.
    cut : bool
        The edge of the image cuts the object: nobody can tell whether it is right.
    """

    label: int
    score: float
    reasons: tuple[str, ...]
    cut: bool = False


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a plane beside its labels.

    Attributes
    ----------
    foreground : float array (H, W), numpy or read by slices; optional
        Foreground probability.
    flips : sequence of such arrays
        The same from flipped images, flipped back.
    seams : (rows, cols)
        First rows and columns of tiles but the first.
    """

    foreground: Any = None
    flips: Sequence[Any] = ()
    seams: tuple[Sequence[int], Sequence[int]] = ((), ())


def typical_area(plane: PlaneIndex) -> float:
    """Median area (px²) of the objects of a plane; NaN where there are few."""
    return float(np.median(plane.areas)) if len(plane) >= _FEWEST else np.nan


def doubt(
    label: int, plane: PlaneIndex, read: Reader, typical: float, evidence: Evidence
) -> Doubt:
    """Doubt of one object.

    Parameters
    ----------
    label : int
        An object of the plane.
    plane : PlaneIndex
    read : callable
        Reads a box of the plane's labels.
    typical : float
        Median area of the plane's objects (px²); NaN where unknown.
    evidence : Evidence
    """
    # of one that lies in several places, the largest is looked at
    places = plane.places(label, read)
    place = max(places, key=lambda box: (box[1] - box[0]) * (box[3] - box[2]))
    box = grown(place, BAND, plane.shape)
    window = read(box)
    every = int(np.ceil(np.sqrt(window.size / _MOST_PIXELS)))
    if every > 1 and (window[::every, ::every] == label).any():
        window = window[::every, ::every]  # of a giant, some of its pixels tell enough
    else:
        every = 1
    own = window == label
    near = scipy.ndimage.binary_dilation(own, _SQUARE, iterations=BAND) & (own | (window == 0))
    # log2 of the ratio to the typical area, both ways; 16 times is as odd as it gets.
    ratio = np.log2(plane.area(label) / typical) if np.isfinite(typical) else 0.0
    rows, cols = evidence.seams
    y0, y1, x0, x1 = plane.box(label)
    height, width = plane.shape
    values = {
        **_seen(near, box, every, evidence),
        "shape": _irregularity(own) if len(places) == 1 else 1.0,
        "small": float(np.clip(-ratio, 0, 4)),
        "large": float(np.clip(ratio, 0, 4)),
        "contact": _contact(own, window),
        "border": float(y0 == 0 or x0 == 0 or y1 == height or x1 == width),
        "seam": float(any(y0 < s < y1 for s in rows) or any(x0 < s < x1 for s in cols)),
    }
    parts = {name: _TERMS[name].weight * value for name, value in values.items()}
    reasons = sorted(
        (name for name, value in values.items() if value >= _TERMS[name].named_from),
        key=lambda name: -parts[name],
    )
    score = 1 / (1 + np.exp(-(_BIAS + sum(parts.values()))))
    words = tuple(_TERMS[name].words for name in reasons)
    return Doubt(label, float(score), words, cut=bool(values["border"]))


#: Diameter (px) of a cell where nothing tells it.
UNKNOWN_DIAMETER = 24.0
#: So many objects tell how doubtful those of a plane are.
_ENOUGH = 1000


def expected_wrong(
    labels: NDArray[np.integer], foreground: NDArray[np.floating], diameter: float | None = None
) -> float:
    """How many cells of a plane are wrong or missed, about, as the model's doubt has it.

    The sum of the objects' doubts; and for the missed ones, the foreground probability that
    lies outside of all objects, in typical cells. Chosen among such measures on 107 images
    that are no test images: it follows the number of errors of an image with a rank
    correlation of 0.94 (0.69 to 0.95 within a source; the doubts alone 0.86, and 0.39 to 0.73).

    Parameters
    ----------
    labels : integer array (H, W)
    foreground : float array (H, W)
        Foreground probability.
    diameter : float, optional
        Of a typical cell (px), where no object tells it.
    """
    corrections = Corrections(np.ascontiguousarray(labels))
    plane, read = corrections.plane(), partial(corrections.look, ())
    typical, evidence = typical_area(plane), Evidence(foreground)
    every = max(1, len(plane) // _ENOUGH)
    looked_at = plane.labels[::every].tolist()
    doubts = [doubt(label, plane, read, typical, evidence).score for label in looked_at]
    wrong = float(np.mean(doubts)) * len(plane) if doubts else 0.0
    if len(plane):
        one = float(np.median(plane.areas))
    else:
        one = np.pi / 4 * (diameter or UNKNOWN_DIAMETER) ** 2
    outside = np.nan_to_num(foreground[labels == 0]).sum(dtype=np.float64)
    return wrong + float(outside) / one


def _contact(own: NDArray[np.bool_], window: NDArray[Any]) -> float:
    """Share of an object's outermost pixels that touch another object."""
    rim = own & ~scipy.ndimage.binary_erosion(own)
    others = scipy.ndimage.binary_dilation((window != 0) & ~own, _SQUARE)
    return float(np.count_nonzero(rim & others) / np.count_nonzero(rim))


def _irregularity(own: NDArray[np.bool_]) -> float:
    """Area of the ellipse with the object's second moments, over its own area, minus 1.

    0 for ellipses of any length; the more, the more bent, notched or scattered; at most 1.
    """
    y, x = np.nonzero(own)
    dy, dx = y - y.mean(), x - x.mean()
    # A pixel is a square, with moments of its own.
    yy, xx, yx = (dy * dy).mean() + 1 / 12, (dx * dx).mean() + 1 / 12, (dy * dx).mean()
    ellipse = 4 * np.pi * np.sqrt(max(yy * xx - yx * yx, 0.0))
    return float(np.clip(ellipse / y.size - 1, 0, 1))


def _seen(
    near: NDArray[np.bool_], box: Box, every: int, evidence: Evidence
) -> dict[str, float]:
    """What the probabilities tell: mean entropy (bits), and spread under flips."""
    if evidence.foreground is None:
        return {"blur": _ORDINARY_BLUR}
    y0, y1, x0, x1 = box
    seen = []
    for array in (evidence.foreground, *evidence.flips):
        values = np.asarray(array[y0:y1:every, x0:x1:every])[near]
        seen.append(np.nan_to_num(values.astype(np.float64)).clip(0, 1))
    p = seen[0].clip(1e-6, 1 - 1e-6)
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    found = {"blur": float(entropy.mean())}
    if len(seen) > 1:
        found["flips"] = float(np.std(seen, axis=0).mean())
    return found


_Key = tuple[bool, float, int]


class ReviewQueue:
    """Objects of one plane in the order of doubt.

    Scoring takes a fraction of a millisecond per object, so a window does it in slices
    (:meth:`score_some`), and after an edit again for the objects that changed.

    Parameters
    ----------
    corrections : Corrections
    index : tuple of int
        Plane of the stack.
    foreground : float array (H, W), numpy or read by slices; optional
        Foreground probability of the plane; without it, size and shape decide.
    flips : sequence of such arrays
        The same from flipped images, flipped back. The window's queue has none: the engine
        keeps the average of the flips alone.
    seams : (rows, cols)
        First rows and columns of the tiles but the first.

    Raises
    ------
    EditError
        If there is no such plane, or a probability does not fit it.
    """

    def __init__(
        self,
        corrections: Corrections,
        index: Index = (),
        foreground: Any = None,
        flips: Sequence[Any] = (),
        seams: tuple[Sequence[int], Sequence[int]] = ((), ()),
    ) -> None:
        for array in (foreground, *flips):
            if array is not None and tuple(np.shape(array)) != corrections.shape:
                raise EditError(
                    f"The probability has shape {tuple(np.shape(array))}, the plane "
                    f"{corrections.shape}: use the probability of this plane."
                )
        self.index = corrections.checked(index)
        self._corrections = corrections
        self._evidence = Evidence(foreground, flips, seams)
        self._doubts: dict[int, Doubt] = {}
        self._keys: list[_Key] = []  # sorted
        self._gone: dict[int, _Key] = {}
        plane = corrections.plane(self.index)
        self._typical = typical_area(plane)
        self._waiting: dict[int, None] = dict.fromkeys(plane.labels.tolist())

    # --- scoring ---------------------------------------------------------------------

    def score_some(self, seconds: float = 0.02) -> bool:
        """Score waiting objects for about so long; True when all are scored."""
        end = time.perf_counter() + seconds
        plane = self._corrections.plane(self.index)
        read = partial(self._corrections.look, self.index)
        while self._waiting:
            label = next(iter(self._waiting))
            del self._waiting[label]
            former = self._doubts.pop(label, None)
            if former is not None:
                del self._keys[bisect_left(self._keys, self._key(former))]
            if label in plane:
                found = doubt(label, plane, read, self._typical, self._evidence)
                self._doubts[label] = found
                self._gone.pop(label, None)
                insort(self._keys, self._key(found))
            elif former is not None:
                self._gone[label] = self._key(former)
            if time.perf_counter() >= end:
                break
        return not self._waiting

    def score_all(self) -> ReviewQueue:
        """Score all objects now."""
        self.score_some(np.inf)
        return self

    def update(self, step: Step) -> None:
        """Have the objects that a step changed scored again, in either direction."""
        for patch in step.patches:
            if patch.index == self.index:
                changed = np.unique(np.concatenate([patch.old, patch.new]))
                self._waiting |= dict.fromkeys(changed[changed != 0].tolist())

    def doubt(self, label: int) -> Doubt | None:
        """Score and reasons of an object; None where it is not scored (yet)."""
        return self._doubts.get(label)

    # --- walking ---------------------------------------------------------------------

    @property
    def order(self) -> list[int]:
        """Scored objects outside ignored regions, most doubtful first, cut ones last."""
        ignored = ignored_labels(self._corrections, self.index)
        return [label for *_, label in self._keys if label not in ignored]

    @property
    def progress(self) -> tuple[int, int]:
        """How many objects are reviewed, of how many outside ignored regions."""
        plane = self._corrections.plane(self.index)
        ignored = ignored_labels(self._corrections, self.index)
        reviewed = {
            label
            for label in reviewed_labels(self._corrections, self.index)
            if label in plane and label not in ignored
        }
        return len(reviewed), len(plane) - len(ignored)

    def next(self, label: int | None = None) -> int | None:
        """The most doubtful unreviewed object after one, or of all; None when none is left.

        After the last one the walk begins again. The object walked from may have been
        deleted meanwhile.
        """
        skip = reviewed_labels(self._corrections, self.index)
        skip |= ignored_labels(self._corrections, self.index)
        keys = self._keys
        key = self._place(label)
        at = 0 if key is None else bisect_right(keys, key)
        for *_, other in (*keys[at:], *keys[:at]):
            if other not in skip and other != label:
                return other
        return None

    def previous(self, label: int) -> int | None:
        """The object before one, reviewed or not; None at the beginning."""
        key = self._place(label)
        if key is None:
            return None
        ignored = ignored_labels(self._corrections, self.index)
        keys = self._keys
        for *_, other in reversed(keys[: bisect_left(keys, key)]):
            if other not in ignored:
                return other
        return None

    def _place(self, label: int | None) -> _Key | None:
        if label is None:
            return None
        known = self._doubts.get(label)
        return self._gone.get(label) if known is None else self._key(known)

    @staticmethod
    def _key(doubt: Doubt) -> _Key:
        return doubt.cut, -doubt.score, doubt.label
