"""The order of review: most doubtful first, those that the edge cuts last; and the walk."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.doubt import Doubt, Evidence, doubt, typical_area
from napari_sa2net.edits.marking import ignored_labels, reviewed_labels
from napari_sa2net.edits.patch import Index
from napari_sa2net.edits.step import Step
from napari_sa2net.errors import EditError

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
