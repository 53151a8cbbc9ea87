"""The order of review: most doubtful first, those that the edge cuts last; and the walk."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import merge
from typing import Any

import numpy as np
import scipy  # its parts load on first use
from numpy.typing import NDArray

from napari_sa2net.edits.corrections import Corrections, PlaneIndex, Reader
from napari_sa2net.edits.reviewed import ignored_labels, reviewed_labels
from napari_sa2net.edits.shapes import Box, common, grown
from napari_sa2net.edits.step import Index, Step, planes_of
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
    cut: bool


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
    if (window[::every, ::every] == label).any():
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
    labels: NDArray[np.integer],
    foreground: NDArray[np.floating] | None,
    diameter: float | None = None,
) -> float:
    """How many cells of a plane are wrong or missed, about, as the model's doubt has it.

    The sum of the objects' doubts; and for the missed ones, the foreground probability that
    lies outside of all objects, in typical cells. Chosen among such measures on 107 images
    that are no test images: it follows the number of errors of an image with a rank
    correlation of 0.94 (0.69 to 0.95 within a source; the doubts alone 0.86, and 0.39 to 0.73).

    Parameters
    ----------
    labels : integer array (H, W)
    foreground : float array (H, W), or None
        Foreground probability; without it, size and shape decide, and none is missed.
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
    if foreground is None:
        return wrong
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

    @property
    def scored(self) -> bool:
        """All objects are scored as they are now."""
        return not self._waiting

    @property
    def keys(self) -> Sequence[_Key]:
        """Cut, negative score and label of the scored objects, in the order of review."""
        return self._keys

    def key(self, label: int) -> _Key | None:
        """The same of one object, also where it is gone since; None of one never scored."""
        return self._place(label)

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


# --------------------------------------------------------------------------------------------
# All planes of a stack in one order.

#: An object on one plane.
Node = tuple[Index, int]
_NodeKey = tuple[bool, float, Index, int]
#: After a step that changes no more objects than this, they are linked anew at once.
_FEW = 200


class StackQueue:
    """Objects of all planes of a stack in one order of doubt.

    Planes are looked at one after the other, those near the shown one first, so that nothing
    waits for a large stack. An object that goes on under its number from plane to plane, pixel
    on pixel, is one: its most doubtful plane stands for it, and it counts as reviewed once it
    is on one of its planes.

    Parameters
    ----------
    corrections : Corrections
    make : callable
        Gives the queue of a plane.
    along : int, optional
        Stack axis along which objects go on (depth); unsaid, every plane is by itself, as
        over time.
    """

    def __init__(
        self,
        corrections: Corrections,
        make: Callable[[Index], ReviewQueue],
        along: int | None = None,
    ) -> None:
        self._corrections = corrections
        self._make = make
        self._along = along
        self._queues: dict[Index, ReviewQueue] = {}
        self._todo: list[Index] = list(np.ndindex(*corrections.labels.shape[:-2]))[::-1]
        self._links: set[Node] = set()  # goes on in the next plane
        self._to_link: dict[Node, None] = {}
        self._said: dict[Index, tuple[set[int], set[int]]] = {}

    # --- scoring ---------------------------------------------------------------------

    def show(self, index: Index) -> None:
        """A plane is shown: look at it first, and then at those near it."""
        away = [sum(abs(a - b) for a, b in zip(one, index, strict=True)) for one in self._todo]
        order = sorted(range(len(away)), key=lambda i: (-away[i], -i))
        self._todo = [self._todo[i] for i in order]
        if index in self._todo:
            self._begin(self._todo.pop())

    def score_some(self, seconds: float = 0.02) -> bool:
        """Look at objects for about so long; True when all planes are known."""
        end = time.perf_counter() + seconds
        while True:
            for queue in self._queues.values():
                if not queue.scored and not queue.score_some(end - time.perf_counter()):
                    return False
            while self._to_link:
                self._link(*next(iter(self._to_link)))
                if time.perf_counter() >= end:
                    return self.scored
            if not self._todo:
                return True
            self._begin(self._todo.pop())  # something is done however little time there is
            if time.perf_counter() >= end:
                return False

    def score_all(self) -> StackQueue:
        """Look at all planes now."""
        self.score_some(np.inf)
        return self

    @property
    def scored(self) -> bool:
        """Every object of every plane is scored as it is now."""
        waiting = (not queue.scored for queue in self._queues.values())
        return not self._todo and not self._to_link and not any(waiting)

    @property
    def planes(self) -> tuple[int, int]:
        """How many planes were looked at, of how many."""
        return len(self._queues), len(self._queues) + len(self._todo)

    def update(self, step: Step) -> None:
        """Have the objects that a step changed scored again, in either direction."""
        for index in planes_of(step):
            self._said.pop(index, None)
        for patch in step.patches:
            if patch.index in self._queues:
                self._queues[patch.index].update(step)
                labels = np.unique(np.concatenate([patch.old, patch.new])).tolist()
                for label in filter(None, labels):
                    self._to_link[patch.index, label] = None
                    before = self._beside(patch.index, -1)
                    if before is not None:
                        self._to_link[before, label] = None
        if len(self._to_link) <= _FEW:
            while self._to_link:
                self._link(*next(iter(self._to_link)))

    def doubt(self, index: Index, label: int) -> Doubt | None:
        """Score and reasons of an object on a plane; None where it is not scored (yet)."""
        queue = self._queues.get(index)
        return None if queue is None else queue.doubt(label)

    def _begin(self, index: Index) -> None:
        self._queues[index] = self._make(index)
        before = self._beside(index, -1)
        for at in (index, before):
            after = None if at is None else self._beside(at, 1)
            if at in self._queues and after in self._queues:
                assert at is not None and after is not None
                one, other = (self._corrections.plane(i) for i in (at, after))
                both = [label for label in one.labels.tolist() if label in other]
                self._to_link |= dict.fromkeys((at, label) for label in both)

    def _beside(self, index: Index, by: int) -> Index | None:
        if self._along is None:
            return None
        return beside(index, self._along, by, self._corrections.labels.shape[:-2])

    def _link(self, index: Index, label: int) -> None:
        """Find out whether an object goes on in the next plane."""
        del self._to_link[index, label]
        after = self._beside(index, 1)
        self._links.discard((index, label))
        known = index in self._queues and after in self._queues
        if after is not None and known and goes_on(self._corrections, label, index, after):
            self._links.add((index, label))

    # --- objects over planes ----------------------------------------------------------

    def run(self, index: Index, label: int) -> list[Node]:
        """An object on all planes over which it goes on, in their order."""
        nodes = [(index, label)]
        while (before := self._beside(nodes[0][0], -1)) and (before, label) in self._links:
            nodes.insert(0, (before, label))
        while nodes[-1] in self._links:
            after = self._beside(nodes[-1][0], 1)
            assert after is not None
            nodes.append((after, label))
        return nodes

    def _told(self, index: Index) -> tuple[set[int], set[int]]:
        """Reviewed and ignored objects of a plane."""
        if index not in self._said:
            corrections = self._corrections
            reviewed = reviewed_labels(corrections, index)
            ignored = ignored_labels(corrections, index)
            plane = corrections.plane(index)
            self._said[index] = {one for one in reviewed if one in plane} - ignored, ignored
        return self._said[index]

    def is_reviewed(self, index: Index, label: int) -> bool:
        """Whether an object is reviewed on any of its planes."""
        return any(label in self._told(at)[0] for at, _ in self.run(index, label))

    @property
    def progress(self) -> tuple[int, int]:
        """How many objects are reviewed, of how many outside ignored regions, as far as known.

        An object that goes on over planes is one.
        """
        total = -len(self._links)
        done: set[Node] = set()
        for index in self._queues:
            reviewed, ignored = self._told(index)
            total += len(self._corrections.plane(index)) - len(ignored)
            if ignored and self._links:
                before = self._beside(index, -1)
                gone = ((index, one) in self._links for one in ignored)
                total += sum(gone)
                if before is not None:
                    kept = ignored - self._told(before)[1]
                    total += sum((before, one) in self._links for one in kept)
            done |= {self.run(index, label)[0] for label in reviewed}
        return len(done), total

    # --- walking ---------------------------------------------------------------------

    def next(self, node: Node | None = None) -> Node | None:
        """The most doubtful object that nobody has reviewed, after one, or of all.

        After the last one the walk begins again. None where none is left that is scored.
        """
        own = set(self.run(*node)) if node is not None else set()
        key = self._key(node)
        for *_, index, label in self._walk(key):
            if (index, label) in own or not self._stands(index, label):
                continue
            if not self.is_reviewed(index, label):
                return index, label
        return None

    def previous(self, node: Node) -> Node | None:
        """The object before one, reviewed or not; None at the beginning."""
        key = self._key(node)
        if key is None:
            return None
        own = set(self.run(*node))
        parts = [
            _nodes(index, queue.keys[: self._at(queue, key)][::-1])
            for index, queue in self._queues.items()
        ]
        for *_, index, label in merge(*parts, reverse=True):
            if (index, label) not in own and self._stands(index, label):
                return index, label
        return None

    def _stands(self, index: Index, label: int) -> bool:
        """Whether an object is not ignored, and this plane of it the most doubtful one."""
        if label in self._told(index)[1]:
            return False
        nodes = [
            (at, one) for at, one in self.run(index, label) if one not in self._told(at)[1]
        ]
        keys = [key for key in map(self._key, nodes) if key is not None]
        return min(keys)[2] == index

    def _walk(self, key: _NodeKey | None) -> Iterator[_NodeKey]:
        """All scored objects from one on, and then those before it."""
        parts: tuple[list[Iterator[_NodeKey]], ...] = ([], [])
        for index, queue in self._queues.items():
            at = 0 if key is None else self._at(queue, key)
            for part, keys in zip(parts, (queue.keys[at:], queue.keys[:at]), strict=True):
                part.append(_nodes(index, keys))
        for part in parts:
            yield from merge(*part)

    @staticmethod
    def _at(queue: ReviewQueue, key: _NodeKey) -> int:
        """How many objects of a plane come before one of any plane."""
        index = queue.index
        return bisect_left(queue.keys, key, key=lambda one: (*one[:2], index, one[2]))

    def _key(self, node: Node | None) -> _NodeKey | None:
        if node is None or node[0] not in self._queues:
            return None
        key = self._queues[node[0]].key(node[1])
        return None if key is None else (*key[:2], node[0], node[1])


def _nodes(index: Index, keys: Sequence[_Key]) -> Iterator[_NodeKey]:
    for cut, score, label in keys:
        yield cut, score, index, label


def beside(index: Index, along: int, by: int, stack: Sequence[int]) -> Index | None:
    """The plane that lies so far from one along a stack axis; None where there is none."""
    at = index[along] + by
    return (*index[:along], at, *index[along + 1 :]) if 0 <= at < stack[along] else None


def goes_on(corrections: Corrections, label: int, index: Index, other: Index) -> bool:
    """Whether an object has a pixel that is its own on two planes."""
    planes = corrections.plane(index), corrections.plane(other)
    if any(label not in plane for plane in planes):
        return False
    box = common(*(plane.box(label) for plane in planes))
    if box is None:
        return False
    one, two = (corrections.look(at, box) == label for at in (index, other))
    return bool((one & two).any())
