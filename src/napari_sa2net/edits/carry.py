"""Carry a correction of one plane of a stack to the planes beside it, where the cell goes on.

From plane to plane, in both directions, the same is done as long as the cell is there: one
that overlaps the corrected one by half of both together, or goes on under its number, and that
nobody has reviewed. What is drawn follows the image: the level at which a person's outline
lies on its own plane says where the cell ends on the others. Where the image shows no such
edge, the outline goes on as it is, as long as the picture stays alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy  # its parts load on first use
from numpy.typing import NDArray

from napari_sa2net.edits.contours import SAME
from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.objects import SMALLEST_PART, joined, merge, pixel_step
from napari_sa2net.edits.review import beside, goes_on
from napari_sa2net.edits.reviewed import ignored_labels, reviewed_labels
from napari_sa2net.edits.shapes import Box, common, grown, union
from napari_sa2net.edits.step import CORRECTED, Index, Patch, Step
from napari_sa2net.errors import EditError
from napari_sa2net.metrics import distinct

Mask = NDArray[np.bool_]
#: Reads pixels (h, w) of a box of a plane of the image; None where there are none.
Look = Callable[[Index, Box], NDArray[Any] | None]
#: Pixels of a box that belong to other cells.
Others = Callable[[Box], Mask]

#: Two outlines on planes beside each other are of one cell from this IoU on.
SAME_CELL = 0.5
#: A part of a cell that is cut goes on where this share of it is in the cell there.
PART_GOES_ON = 0.4
#: The cell goes on where its contrast is this share of that on the person's plane.
CONTRAST = 0.5
#: The level of an outline is believed where it gives that outline again with this IoU.
LEVEL_HOLDS = 0.7
#: Without one, the outline goes on where the pictures of two planes correlate like this.
ALIKE = 0.6
#: A cell that is like the outline already by this IoU stays as it is.
ALREADY = 0.8
#: An edge moves from plane to plane by at most this share of the cell's diameter.
MOVES = 0.15

#: Fewest pixels that tell how bright it is around a cell.
_RING = 20

#: Corrections that can be carried.
CARRIED = ("split", "merge", "delete", "fill", "smooth", "edge", "redraw", "paint", "erase")
_EIGHT = np.ones((3, 3), bool)


def carried(
    corrections: Corrections,
    step: Step,
    along: int,
    look: Look | None = None,
    linked: bool = True,
) -> Step:
    r"""A correction that was just made, with the same on the planes beside it.

    To be carried out in the place of the former, which is taken back before.

    Parameters
    ----------
    corrections : Corrections
        As the step has left them.
    step : Step
        On one plane.
    along : int
        Stack axis along which the planes lie beside each other.
    look : callable, optional
        Reads the image, without which nothing is drawn.
    linked : bool
        A new cell has one number on all planes where no other cells tell whether they have.

    Raises
    ------
    EditError
        If this is no correction of single cells on one plane, or goes on nowhere.
    """
    indices = {patch.index for patch in step.patches}
    if step.kind not in CARRIED or len(indices) != 1:
        raise EditError(
            "This cannot be carried to other planes: correct a cell (cut, join, delete, draw "
            "or click), and carry that."
        )
    (index,) = indices
    carrier = _Carrier(corrections, along, look, linked)
    for act in _acts(corrections, step, index):
        for by in (-1, 1):
            carrier.carry(act, index, by)
    if not carrier.patches:
        raise EditError(carrier.why or "The cell goes on in no plane beside this one.")
    patches, marks, added = list(step.patches), list(step.marks), list(step.added)
    for at, found in sorted(carrier.patches.items()):
        patch = joined(at, found)
        if not patch:
            continue
        changed = {*patch.old.tolist(), *patch.new.tolist()} - {0}
        gave_way = changed - carrier.meant.get(at, set())
        own = pixel_step(corrections, step.kind, "", [patch], yielded=gave_way)
        patches += own.patches
        marks += own.marks
        added += own.added
    return replace(step, patches=tuple(patches), marks=tuple(marks), added=tuple(added))


# --- what was done ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Shape:
    """A cell, or a part of one, on some plane."""

    label: int
    mask: Mask
    corner: tuple[int, int]

    @property
    def box(self) -> Box:
        (y, x), (height, width) = self.corner, self.mask.shape
        return y, y + height, x, x + width

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))

    @property
    def diameter(self) -> float:
        return float(2 * np.sqrt(self.area / np.pi))

    def within(self, box: Box) -> Mask:
        """The same in another box."""
        y0, y1, x0, x1 = box
        whole = np.zeros((y1 - y0, x1 - x0), bool)
        both = common(box, self.box)
        if both is not None:
            a, b, c, d = both
            y, x = self.corner
            whole[a - y0 : b - y0, c - x0 : d - x0] = self.mask[a - y : b - y, c - x : d - x]
        return whole

    @classmethod
    def of(cls, label: int, mask: Mask, corner: tuple[int, int]) -> _Shape | None:
        """Cut to what is there; None of nothing."""
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not rows.size:
            return None
        part = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].copy()
        return cls(label, part, (corner[0] + int(rows[0]), corner[1] + int(cols[0])))


@dataclass(frozen=True, eq=False)
class _Act:
    """What became of some cells: those before, and those after."""

    before: tuple[_Shape, ...]
    after: tuple[_Shape, ...]


def _acts(corrections: Corrections, step: Step, index: Index) -> list[_Act]:
    """What a step did, cell by cell."""
    patch = step.patches[0]
    labels = {*patch.old.tolist(), *patch.new.tolist()} - {0}
    plane = corrections.plane(index)
    box = union([patch.box, *(plane.box(label) for label in labels if label in plane)])
    after = corrections.read(index, box)
    before = after.copy()
    rows, cols = patch.pixels()
    before[rows - box[0], cols - box[2]] = np.repeat(patch.old, patch.lengths)
    corner = box[0], box[2]
    olds = {one: _Shape.of(one, before == one, corner) for one in sorted(labels)}
    news = {one: _Shape.of(one, after == one, corner) for one in sorted(labels)}
    own = {one: shape for one, shape in olds.items() if shape is not None}
    if step.kind == "split":
        acts = []
        for label, old in own.items():
            there = distinct(after[(before == label) & (after != 0)])[0].tolist()
            parts = [news[one] for one in there if news.get(one) is not None]
            if len(parts) > 1:
                acts.append(_Act((old,), tuple(filter(None, parts))))
        return acts
    if step.kind == "merge":
        whole = tuple(shape for shape in news.values() if shape is not None)
        return [_Act(tuple(own.values()), whole)] if len(whole) == 1 else []
    gone = [shape for one, shape in own.items() if news[one] is None]
    if step.kind == "delete" or (step.kind == "erase" and len(gone) == len(own)):
        return [_Act((shape,), ()) for shape in gone]
    # one that merely gave way was not corrected
    said = [
        label
        for marks in step.marks
        for label, code in zip(marks.labels.tolist(), marks.after.tolist(), strict=True)
        if code == CORRECTED
    ]
    known = {label for marks in step.marks for label in marks.labels.tolist()}
    meant = [one for one in labels if one in said or one not in known]
    return [
        _Act((olds[one],) if olds[one] is not None else (), (news[one],))  # type: ignore[arg-type]
        for one in meant
        if news[one] is not None
    ]


# --- from plane to plane ---------------------------------------------------------------


@dataclass(eq=False)
class _Carrier:
    """Collects what is done on other planes.

    Attributes
    ----------
    patches
        Of each plane.
    meant
        Cells of each plane that are corrected, not those that give way.
    why
        Why nothing could be done.
    """

    corrections: Corrections
    along: int
    look: Look | None
    linked: bool
    patches: dict[Index, list[Patch]] = field(default_factory=dict)
    meant: dict[Index, set[int]] = field(default_factory=dict)
    why: str = ""

    def carry(self, act: _Act, index: Index, by: int) -> None:
        """Do the same on one plane after the other, until the cell goes on no more."""
        edge = None
        if len(act.after) == 1 and len(act.before) <= 1:
            edge = self._edge(act.after[0], index)
            if edge is None:
                return
        one_number: bool | None = None
        stack, first = self.corrections.labels.shape[:-2], index
        while (at := beside(index, self.along, by, stack)) is not None:
            if edge is not None:
                if one_number is None:
                    one_number = self._one_number(first, at, act)
                done = self._draw(act, index, at, edge, one_number)
            elif not act.after:
                done = self._delete(act, at)
            elif len(act.before) == 1:
                done = self._split(act, at)
            else:
                done = self._merge(act, at)
            if done is None:
                return
            act, index = done, at

    def _take(self, at: Index, patch: Patch, *labels: int) -> None:
        self.patches.setdefault(at, []).append(patch)
        self.meant.setdefault(at, set()).update(labels)

    def _there(self, shape: _Shape, at: Index) -> _Shape | None:
        """The cell on a plane that a cell of the plane beside it goes on as.

        None where there is none, or a person has reviewed or ignored it.
        """
        plane = self.corrections.plane(at)
        window = self.corrections.look(at, shape.box)
        labels, counts = distinct(window[shape.mask])
        best, most = 0, 0.0
        for label, n in zip(labels.tolist(), counts.tolist(), strict=True):
            if label:
                area = plane.area(label)
                iou = n / (area + shape.area - n)
                if label == shape.label and n >= SAME_CELL * min(area, shape.area):
                    iou = 1.0  # it goes on under its number
                if iou > most:
                    best, most = label, iou
        if most < SAME_CELL or not self._free(best, at):
            return None
        box = plane.box(best)
        return _Shape.of(best, self.corrections.look(at, box) == best, (box[0], box[2]))

    def _free(self, label: int, at: Index) -> bool:
        """Nobody has said anything of a cell."""
        known = reviewed_labels(self.corrections, at) | ignored_labels(self.corrections, at)
        return label not in known

    def _delete(self, act: _Act, at: Index) -> _Act | None:
        there = self._there(act.before[0], at)
        if there is None:
            return None
        self._give(there, at, 0)
        return _Act((there,), ())

    def _give(self, shape: _Shape, at: Index, to: int) -> None:
        window = self.corrections.look(at, shape.box)
        new = np.where(shape.mask, to, window)
        self._take(at, Patch.between(at, shape.corner, window, new), shape.label, to)

    def _split(self, act: _Act, at: Index) -> _Act | None:
        (whole,) = act.before
        there = self._there(whole, at)
        if there is None:
            return None
        box = there.box
        parts = [part.within(box) & there.mask for part in act.after]
        if any(
            np.count_nonzero(own) < PART_GOES_ON * part.area
            for own, part in zip(parts, act.after, strict=True)
        ):
            return None  # one of the cells ends here, or the other is one by itself already
        # each pixel goes to the part that is nearest
        away = [scipy.ndimage.distance_transform_edt(~own) for own in parts]
        number = np.where(there.mask, np.argmin(away, axis=0) + 1, 0)
        sizes = np.bincount(number.ravel(), minlength=len(parts) + 1)[1:]
        if sizes.min() < SMALLEST_PART:
            return None
        # the largest keeps the number of the cell, unless the cells are linked by theirs
        names = [0] * len(parts)
        plane = self.corrections.plane(at)
        taken = [part.label for part in act.after if part.label in plane]
        if there.label == whole.label and set(taken) <= {whole.label}:
            names = [part.label for part in act.after]
        else:
            fresh = iter(self.corrections.new_labels(len(parts) - 1))
            largest = int(np.argmax(sizes))
            names = [there.label if i == largest else next(fresh) for i in range(len(parts))]
        window = self.corrections.look(at, box)
        new = np.where(there.mask, np.array([0, *names], np.int64)[number], window)
        self._take(at, Patch.between(at, there.corner, window, new), *names)
        shapes = [
            _Shape.of(name, number == i + 1, there.corner) for i, name in enumerate(names)
        ]
        return _Act((there,), tuple(filter(None, shapes)))

    def _merge(self, act: _Act, at: Index) -> _Act | None:
        (whole,) = act.after
        found = [self._there(part, at) for part in act.before]
        there = {one.label: one for one in found if one is not None}
        linked = any(
            one is not None and one.label == part.label
            for one, part in zip(found, act.before, strict=True)
        )
        if not there or (len(there) == 1 and (not linked or whole.label in there)):
            return None
        plane = self.corrections.plane(at)
        can = whole.label in there or (linked and whole.label not in plane)
        if len(there) == 1:
            # of linked cells only the one goes on whose number is no more
            (one,) = there.values()
            if not can:
                return None
            self._give(one, at, whole.label)
            return replace(act, before=(one,), after=(replace(one, label=whole.label),))
        step = merge(self.corrections, index=at, labels=list(there))
        (patch,) = step.patches
        box = union([one.box for one in there.values()] + [patch.box])
        window = self.corrections.look(at, box)
        own = np.isin(window, list(there))
        rows, cols = patch.pixels()
        own[rows - box[0], cols - box[2]] = True
        largest = max(there.values(), key=lambda one: one.area)
        name = whole.label if can else largest.label
        new = np.where(own, name, window)
        self._take(at, Patch.between(at, (box[0], box[2]), window, new), name)
        shape = _Shape.of(name, own, (box[0], box[2]))
        assert shape is not None
        return _Act(tuple(there.values()), (shape,))

    # --- drawn by the image --------------------------------------------------------------

    def _edge(self, drawn: _Shape, index: Index) -> _Edge | None:
        """How the image shows the edge that a person has drawn."""
        if self.look is None:
            self.why = "These cells lie on no image that shows whether the cell goes on."
            return None
        others = self._others(index, [drawn.label])
        return _Edge.of(drawn, self.look, index, self.corrections.shape, others)

    def _others(self, at: Index, own: list[int]) -> Others:
        """Where cells lie on a plane that are not to be touched."""

        def others(box: Box) -> Mask:
            return ~np.isin(self.corrections.look(at, box), [0, *own])

        return others

    def _one_number(self, index: Index, at: Index, act: _Act) -> bool:
        """Whether cells have one number on two planes, by what else there is on them."""
        own = {shape.label for shape in act.after}
        one, other = (set(self.corrections.plane(i).labels.tolist()) - own for i in (index, at))
        if not one or not other:
            return self.linked
        both = list(one & other)[:50]
        on = sum(goes_on(self.corrections, label, index, at) for label in both)
        return on > len(both) / 2

    def _draw(
        self, act: _Act, index: Index, at: Index, edge: _Edge, one_number: bool
    ) -> _Act | None:
        (drawn,) = act.after
        assert self.look is not None
        target = self._there(act.before[0], at) if act.before else None
        plane = self.corrections.plane(at)
        gives = [target.label] if target is not None else []
        if act.before:
            # of a cell that was in pieces the others give way, as on the person's plane
            window = self.corrections.look(at, drawn.box)
            labels, counts = (column.tolist() for column in distinct(window[drawn.mask]))
            gives += [
                label
                for label, n in zip(labels, counts, strict=True)
                if label and n > plane.area(label) / 2 and self._free(label, at)
            ]
        found = edge.follow(drawn, self.look, index, at, self._others(at, gives))
        if found is None:
            return None
        window = self.corrections.look(at, found.box)
        labels, counts = (column.tolist() for column in distinct(window[found.mask]))
        own = found.area
        for label, n in zip(labels, counts, strict=True):
            if label and n > ALREADY * (plane.area(label) + own - n):
                return None  # the cell is there, and right
        mask = found.mask & np.isin(window, [0, *gives])
        shape = _Shape.of(drawn.label, mask, found.corner)
        if shape is None or shape.area < SAME * own:
            return None  # other cells lie there
        name = drawn.label
        if target is not None:
            name = target.label
        elif not one_number or name in plane:
            (name,) = self.corrections.new_labels(1)
        box = union([found.box, *(plane.box(label) for label in gives)])
        window = self.corrections.look(at, box)
        new = np.where(np.isin(window, gives), 0, window) if gives else window
        new = np.where(shape.within(box), name, new)
        self._take(at, Patch.between(at, (box[0], box[2]), window, new), name)
        before = (target,) if target is not None else ()
        return _Act(before, (replace(shape, label=name),))


@dataclass(frozen=True, eq=False)
class _Edge:
    """Where a person's outline lies in the image.

    Attributes
    ----------
    sign
        1 for cells that are brighter than what is around them, -1 for darker ones.
    share
        Level of the outline between the surroundings (0) and the cell (1); None where the
        outline lies at no level.
    contrast
        Of the cell against its surroundings.
    """

    sign: int
    share: float | None
    contrast: float
    shape: tuple[int, int]

    @classmethod
    def of(
        cls, drawn: _Shape, look: Look, index: Index, shape: tuple[int, int], others: Others
    ) -> _Edge | None:
        seen = _Seen.of(drawn, look, index, shape, others)
        if seen is None:
            return None
        contrast = seen.inside - seen.around
        sign = 1 if contrast >= 0 else -1
        best, share = 0.0, None
        for one in np.linspace(0.2, 0.8, 13):
            mask = seen.at_level(sign, seen.around + one * contrast)
            iou = _iou(mask, seen.own)
            if iou > best:
                best, share = iou, float(one)
        clear = abs(contrast) > 2 * seen.noise
        held = share if best >= LEVEL_HOLDS and clear else None
        return cls(sign, held, abs(contrast), shape)

    def follow(
        self, drawn: _Shape, look: Look, index: Index, at: Index, others: Others
    ) -> _Shape | None:
        """The outline on the next plane; None where the cell does not go on."""
        seen = _Seen.of(drawn, look, at, self.shape, others)
        if seen is None:
            return None
        if self.share is None:
            before = _Seen.of(drawn, look, index, self.shape, others)
            if before is None or _alike(before.image, seen.image) < ALIKE:
                return None
            return drawn
        level = seen.around + self.sign * self.share * self.contrast
        mask = seen.at_level(self.sign, level)
        if _iou(mask, seen.own) < SAME_CELL:
            return None
        inside = float(np.median(seen.image[mask]))
        if self.sign * (inside - seen.around) < CONTRAST * self.contrast:
            return None
        return _Shape.of(drawn.label, mask, (seen.box[0], seen.box[2]))


@dataclass(frozen=True, eq=False)
class _Seen:
    """The image around a cell, and what is inside and around."""

    box: Box
    image: NDArray[np.float32]
    own: Mask
    others: Mask
    reach: int
    inside: float
    around: float
    noise: float

    @classmethod
    def of(
        cls, drawn: _Shape, look: Look, index: Index, shape: tuple[int, int], others: Others
    ) -> _Seen | None:
        reach = max(2, round(MOVES * drawn.diameter))
        box = grown(drawn.box, 2 * reach + 2, shape)
        pixels = look(index, box)
        if pixels is None:
            return None
        image = scipy.ndimage.gaussian_filter(np.asarray(pixels, np.float32), 1.0)
        own, taken = drawn.within(box), others(box)
        core = scipy.ndimage.binary_erosion(own, _EIGHT, iterations=reach // 2)
        near = scipy.ndimage.binary_dilation(own, _EIGHT, iterations=2)
        far = scipy.ndimage.binary_dilation(near, _EIGHT, iterations=reach)
        ring = image[far & ~near & ~taken]
        if ring.size < _RING:  # neighbours all around
            ring = image[far & ~near]
        if not ring.size:
            return None
        inside = float(np.median(image[core if core.any() else own]))
        # of the half that is least like the cell: the other may be its neighbours
        around = float(np.median(ring))
        side = ring[ring <= around] if inside >= around else ring[ring >= around]
        around = float(np.median(side))
        noise = 1.5 * float(np.median(np.abs(side - around)))
        return cls(box, image, own, taken, reach, inside, around, noise)

    def at_level(self, sign: int, level: float) -> Mask:
        """What lies beyond a level and near the cell, in one piece without holes."""
        near = scipy.ndimage.binary_dilation(self.own, _EIGHT, iterations=self.reach)
        beyond = near & ~self.others & (sign * (self.image - level) > 0)
        # what hangs on by a thread is a neighbour
        beyond = scipy.ndimage.binary_opening(beyond, iterations=max(1, self.reach // 3))
        pieces, n = scipy.ndimage.label(beyond)
        if not n:
            return np.zeros(near.shape, bool)
        sizes = np.bincount(pieces[self.own], minlength=n + 1)
        sizes[0] = 0
        filled: Mask = scipy.ndimage.binary_fill_holes(pieces == sizes.argmax())
        return filled


def _iou(one: Mask, other: Mask) -> float:
    either = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / either) if either else 0.0


def _alike(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Correlation of two pictures."""
    a, b = (np.asarray(part, np.float64) - float(np.mean(part)) for part in (one, other))
    least = 1e-12 * max(float(np.abs(one).max()), float(np.abs(other).max())) ** 2
    both = float(np.mean(a * a)) * float(np.mean(b * b))
    # of a picture without any structure nothing can be said
    return float(np.mean(a * b)) / both**0.5 if least and both > least**2 else 0.0
