"""What is learned from and what is held back: images, groups, or parts of the one image."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_sa2net.data.training_set import object_size
from napari_sa2net.edits.reviewed import REACH
from napari_sa2net.errors import TrainingDataError
from napari_sa2net.training.compare import reviewed_objects
from napari_sa2net.training.dataset import Example, evenly, median_diameter, scaled_part

# --------------------------------------------------------------------------------------------
# Which reviewed pixels are certain: background far from a reviewed cell may be no background.
#
# Around an accepted or corrected cell the background counts as reviewed, up to half the way to
# the next labelled cell and at most 15 px. A neighbour that nobody has labelled lies in there
# with all its pixels. Close to the cell itself a person has seen that there is none.

#: So far from a reviewed cell its background is certain, as a share of the typical diameter.
NEAR = 0.15
LEAST = 2.0


def certain_pixels(
    labels: NDArray[np.integer], counts: NDArray[np.bool_] | None, diameter: float
) -> NDArray[np.bool_] | None:
    """Reviewed pixels that are what they are labelled as.

    Parameters
    ----------
    labels : int (H, W)
    counts : bool (H, W) or None
        Reviewed pixels; None: all.
    diameter : float
        Typical of the reviewed cells (px).

    Returns
    -------
    bool (H, W) or None
        Reviewed cells, the background next to them, and what was reviewed farther away than
        any cell's surroundings reach, with what lies around that: a region that was marked as
        all right, or a place that was cleared. None: all.
    """
    if counts is None or counts.all():
        return None
    own = counts & reviewed_objects(labels, counts)[labels]
    if not own.any():
        return counts
    away = ndimage.distance_transform_edt(~own)
    marked = counts & (away > REACH + 1)
    if marked.any():
        marked = ndimage.distance_transform_edt(~marked) <= REACH
    return counts & (own | (away <= max(LEAST, NEAR * diameter)) | marked)


#: Side of the part of an image that is scored (network px).
SCORED_SIDE = 512
#: Context that a crop may show around reviewed pixels (network px).
MARGIN = 128
#: Fewest reviewed objects of which a part can be held back.
FEWEST = 4


@dataclass(frozen=True, eq=False)
class Split:
    """Examples of a training set by their use.

    Attributes
    ----------
    training, held_out : lists of Example
        The same one image in both, with different pixels that count, where there is only one.
    earlier : list of Example
        Held back before the parent was made, and never learned from.
    known : bool
        The parent has learned from what is held out, for want of anything else.
    one_group : bool
        All images are of one group, which had to be torn.
    """

    training: list[Example]
    held_out: list[Example]
    earlier: list[Example]
    known: bool = False
    one_group: bool = False


def focus(example: Example, network_diameter: float) -> Example:
    """The example with size and places of its reviewed objects, without what lies far off."""
    chosen = reviewed_objects(example.labels, example.counts)
    measured = median_diameter(np.where(chosen[example.labels], example.labels, 0))
    diameter = object_size(example.item, measured, example.diameter)
    labels, counts, image = example.labels, example.counts, example.image
    if counts is not None and counts.any():
        margin = int(MARGIN * diameter / network_diameter) + 1
        rows, columns = (np.flatnonzero(counts.any(axis)) for axis in (1, 0))
        window = (
            slice(max(0, rows[0] - margin), rows[-1] + margin + 1),
            slice(max(0, columns[0] - margin), columns[-1] + margin + 1),
        )
        labels, counts = labels[window], counts[window]
        image = image[(slice(None), *window)]
    numbers = np.flatnonzero(chosen)
    centres = ndimage.center_of_mass(labels > 0, labels, numbers) if numbers.size else []
    return replace(
        example,
        image=image,
        labels=labels,
        counts=counts,
        diameter=float(diameter),
        centres=np.asarray(centres, float).reshape(-1, 2),
        certain=certain_pixels(labels, counts, float(measured or diameter)),
    )


def split_examples(
    examples: Sequence[Example],
    fraction: float,
    seed: int,
    trained_on: Collection[str] = (),
    held_before: Collection[str] = (),
) -> Split:
    """Hold corrections back: whole groups, else whole images, else part of the one image.

    Parameters
    ----------
    examples : sequence of Example
        From `focus`. Those marked ``val`` are held out, whatever else is said.
    fraction : float
        Share of the reviewed objects to hold out.
    seed : int
        The order in which images are held out is drawn by it; it does not change when the
        set grows.
    trained_on, held_before : collections of str
        Names of the images that the parent learned from, and that were held back from it;
        one in both was torn, and counts as learned from.

    Raises
    ------
    TrainingDataError
        If there is too little to do both.
    """
    useful = [e for e in examples if e.counts is None or e.counts.any()]
    if not any(len(e.centres) for e in useful):
        raise TrainingDataError(
            "No cell in the training set has been reviewed. Accept or correct some cells, "
            "then keep the corrections."
        )
    marked = [e for e in useful if e.item.split == "val"]
    if marked:
        rest = [e for e in useful if e.item.split != "val"]
        return _checked(Split(rest, marked, []))
    units = _units(useful)
    order = sorted(units, key=lambda unit: hashlib.sha256(f"{seed}-{unit}".encode()).digest())
    known = {unit for unit in order if any(e.item.name in trained_on for e in units[unit])}
    old = [
        unit
        for unit in order
        if unit not in known and all(e.item.name in held_before for e in units[unit])
    ]
    fresh = [unit for unit in order if unit not in old and unit not in known]
    if len(units) < 2:
        return _in_blocks(useful, fraction, known=bool(known))
    wanted = fraction * sum(len(e.centres) for e in useful)
    free = order if not (old or fresh) else fresh
    chosen = _take(free, units, wanted, keep_one=not (known or old))
    if not chosen:  # nothing new to hold out: what was held out before serves
        chosen, old = old, []
    out = {id(e) for unit in chosen for e in units[unit]}
    earlier = [e for unit in old for e in units[unit]]
    aside = out | {id(e) for e in earlier}
    return _checked(
        Split(
            [e for e in useful if id(e) not in aside],
            [e for e in useful if id(e) in out],
            earlier,
            known=any(unit in known for unit in chosen),
            one_group=is_one_group(useful),
        )
    )


def is_one_group(examples: Sequence[Example]) -> bool:
    """Whether several images are all of one group, so that it cannot be kept whole."""
    with_objects = [e.item for e in examples if len(e.centres)]
    groups = {item.group for item in with_objects}
    return len(with_objects) > 1 and len(groups) == 1 and groups != {""}


def _units(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Groups, with single images as groups of their own; images where that leaves one."""
    groups: dict[str, list[Example]] = {}
    for e in examples:
        groups.setdefault(f"group {e.item.group}" if e.item.group else e.item.name, []).append(
            e
        )
    with_objects = [unit for unit in groups.values() if any(len(e.centres) for e in unit)]
    if len(with_objects) > 1:
        return groups
    return {e.item.name: [e] for e in examples}


def _take(
    order: Sequence[str], units: dict[str, list[Example]], wanted: float, keep_one: bool
) -> list[str]:
    """First units of an order that hold about so many objects."""
    chosen: list[str] = []
    taken = 0
    candidates = [unit for unit in order if any(len(e.centres) for e in units[unit])]
    for unit in candidates[: len(candidates) - 1] if keep_one else candidates:
        if chosen and taken >= wanted:
            break
        chosen.append(unit)
        taken += sum(len(e.centres) for e in units[unit])
    return chosen


def _checked(split: Split) -> Split:
    for side, what, other, way in (
        (split.training, "learn from", "val", "train"),
        (split.held_out, "hold back", "train", "val"),
    ):
        if not any(len(e.centres) for e in side):
            said = any(e.item.split == other for e in (*split.training, *split.held_out))
            of_table = f", or give one of those marked {other} the mark {way}" if said else ""
            raise TrainingDataError(
                f"There is no reviewed cell left to {what}. Correct cells of one more image"
                f"{of_table}."
            )
    return split


def _in_blocks(examples: Sequence[Example], fraction: float, known: bool) -> Split:
    """One image: a strip at one end is held out, with a gap to what is learned from."""
    example = max(examples, key=lambda e: len(e.centres))
    n = len(example.centres)
    if n < FEWEST:
        raise TrainingDataError(
            f"Only {n} cell(s) of one image have been reviewed; {FEWEST} are needed, so that "
            "some can be held back. Review a few more cells."
        )
    shape = example.labels.shape
    counts = np.ones(shape, bool) if example.counts is None else example.counts
    axis = int(np.ptp(example.centres, axis=0).argmax())
    at = np.sort(example.centres[:, axis])
    k = max(1, n - max(1, round(fraction * n)))
    border = round((at[k - 1] + at[k]) / 2)
    gap = round(example.diameter)
    place = np.arange(shape[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
    # Of a cell on the border, the part beyond it is what is scored.
    held = replace(example, counts=counts & (place >= border))
    learned = replace(example, counts=counts & (place < border - gap))
    sides = [replace(e, centres=_centres(e)) for e in (learned, held)]
    return _checked(Split([sides[0]], [sides[1]], [], known))


def _centres(example: Example) -> NDArray[np.float64]:
    numbers = np.flatnonzero(reviewed_objects(example.labels, example.counts))
    if not numbers.size:
        return np.zeros((0, 2))
    return np.asarray(
        ndimage.center_of_mass(example.labels > 0, example.labels, numbers), float
    )


def make_view(example: Example, network_diameter: float, side: int = SCORED_SIDE) -> Example:
    """The part of an example with most reviewed objects, at the network's object size.

    Of it count the pixels whose label is certain: a model is scored on these.
    """
    scale = network_diameter / example.diameter
    counts = np.ones(example.labels.shape, bool) if example.counts is None else example.counts

    def start(shape: tuple[int, int]) -> tuple[int, ...]:
        return tuple(
            _window(
                example.centres[:, axis] * scale,
                np.flatnonzero(counts.any(1 - axis))[[0, -1]] * scale,
                n,
                side,
            )
            for axis, n in enumerate(shape)
        )

    part = scaled_part(example, scale, side, start)
    if part.counts is None or part.certain is None:
        return part
    return replace(part, counts=part.counts & part.certain)


def _window(
    places: NDArray[np.floating], extent: NDArray[np.floating], n: int, side: int
) -> int:
    """Start of the window of `side` within 0 … n that shows most places, or all that counts."""
    if n <= side:
        return 0
    if extent[1] - extent[0] > side and places.size:
        starts = np.clip(places - side / 2, 0, n - side)
        inside = (places >= starts[:, None]) & (places < starts[:, None] + side)
        chosen = places[inside[inside.sum(1).argmax()]]
        extent = np.array([chosen.min(), chosen.max()])
    # In the middle of what it shows, so that little of it is cut.
    return int(np.clip((extent[0] + extent[1] - side) / 2, 0, n - side))


def spread(examples: Sequence[Example], most: int) -> list[Example]:
    """At most so many examples, evenly by name."""
    return evenly(examples, most, lambda e: e.item.name)
