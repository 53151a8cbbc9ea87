"""Cells that are corrected, and how they lie on their image."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_sa2net import edits
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.session import ErrorInfo, SegmentRequest, as_seen, decided_in
from napari_sa2net.config import InstanceConfig
from napari_sa2net.data.axes import axis_noun, index_words
from napari_sa2net.data.labels import IN_PYTHON, NUMBER_THEM, Look, look_at, numbered
from napari_sa2net.edits import Corrections, Patch, Step
from napari_sa2net.edits.objects import pixel_step
from napari_sa2net.engine import messages as p
from napari_sa2net.errors import EditError, SA2NetError

if TYPE_CHECKING:
    from napari_sa2net.app.session import ImageSource
    from napari_sa2net.data.commit import Seen


#: Pixels of a plane that are looked at for what is odd.
LOOKED_AT = 1 << 18
#: What becomes of several cells under one number, see `look_at`.
_AS_ONE = "corrected as one"

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
    r"""Labels as a layer offers them; a new object whenever anything of it changes.

    Attributes
    ----------
    key
        Identifies the layer for as long as it lives.
    labels
        The layer's own array, integers (\*stack, H, W); corrected in place.
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
    added
        What the cells of another part of the image changed when they were added, if nobody
        has edited the labels since.
    made
        Provenance of the segmentation that made the cells; empty where none did.
    elsewhere
        Where the view shows a plane that the cells do not have: how to come to theirs.
    notes
        What may be wrong with the cells as they were read.
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
    added: tuple[Patch, ...] = ()
    made: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: str = ""
    notes: str = ""

    @property
    def unseen(self) -> str:
        """Why no plane of the cells is seen, and what to do; empty where one is."""
        return self.turned or self.elsewhere

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

    @property
    def depth_axis(self) -> int | None:
        """Stack axis along which cells go on from plane to plane; None where none is known.

        Over time they move, and positions are different cells.
        """
        axes, n = self.stack_axes, self.labels.ndim - 2
        if not axes and n:
            own = ""
            if self.image is not None:
                with suppress(SA2NetError):  # what it is decides, as when it was segmented
                    own = self.image.plan.stack_axes
            axes = own if len(own) == n else "Z".rjust(n)
        return axes.index("Z") if "Z" in axes else None

    def words_of(self, index: Index, sizes: bool = False) -> str:
        """``plane 5`` or ``time point 2, plane 5``; empty for no stack.

        ``sizes``: ``plane 5 of 0–9``.
        """
        axes = self.stack_axes.rjust(len(index), "Z")
        long = [
            (*at, n) for *at, n in zip(axes, index, self.labels.shape, strict=False) if n > 1
        ]
        names, places, stack = zip(*long, strict=True) if long else ((), (), ())
        return index_words("".join(names), places, stack if sizes else ())

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


def look_at_plane(plane: Any) -> Look:
    """Whether a plane of labels is numbered cell by cell.

    Of a large one not every pixel is looked at, as that would be felt, unless what is seen so
    is odd.
    """
    every = max(1, round(math.sqrt(plane.size / LOOKED_AT)))
    look = look_at(np.asarray(plane[::every, ::every]), _AS_ONE)
    return look_at(np.asarray(plane), _AS_ONE) if every > 1 and look.blocks else look


def odd_words(look: Look) -> str:
    """Why labels of elsewhere may be no cells; empty if they are."""
    words, by_hand, _ = (look.problem or look.note).partition(IN_PYTHON)
    return words[:1].upper() + words[1:] + (by_hand and ": if it is no cell, delete it.")


@dataclass(frozen=True)
class Odd:
    """Why nothing can be accepted or kept, and what one click does about it.

    Attributes
    ----------
    words
        Empty where the labels are cells.
    mend
        What a button is called that mends them.
    """

    words: str = ""
    mend: str = ""

    @classmethod
    def of(cls, look: Look) -> Odd:
        """What is said of a plane."""
        if not look.blocks:
            return cls()
        # the button does what is said to those who have none
        words, by_hand, _ = look.blocks.removesuffix(NUMBER_THEM).rstrip().partition(IN_PYTHON)
        words = words[:1].upper() + words[1:] + (by_hand and ".")
        if look.background:
            return cls(words, f"Make label {look.background} the background")
        return cls(words, "Make cells of what is 0" if look.inverted else "Number the pieces")


def mended(corrections: Corrections, look: Look) -> Step:
    """One step that makes labels cells, on all planes that have the fault of the shown one.

    Nobody has looked at the cells by that: none counts as reviewed.

    Raises
    ------
    EditError
        If the labels' type cannot number so many.
    """
    planes = list(np.ndindex(*corrections.labels.shape[:-2]))
    if look.background:
        words = f"making label {look.background} the background"

        def new(plane: NDArray[Any]) -> NDArray[Any]:
            return np.where(plane == look.background, 0, plane)

    else:
        words = "making cells of what is 0" if look.inverted else "numbering of the pieces"
        free = _free_numbers(corrections, look.numbers)

        def new(plane: NDArray[Any]) -> NDArray[Any]:
            if look.inverted:
                # also where cells are too few to tell
                edges = (plane[0], plane[-1], plane[:, 0], plane[:, -1])
                is_around = 2 * np.count_nonzero(plane) > plane.size
                touches = all(edge.any() for edge in edges)
                alike = is_around and touches and np.isin(plane, (0, *look.numbers)).all()
                return numbered(plane, look, free) if alike else plane
            own = look if look.numbers else look_at(plane)
            return numbered(plane, own, free) if own.numbers or own.apart else plane

    patches = []
    for index in planes:
        plane = np.asarray(corrections.labels[index])
        patches.append(Patch.between(index, (0, 0), plane, new(plane)))
    return pixel_step(corrections, "paint", words, patches, by_person=False)


def _free_numbers(corrections: Corrections, given_up: tuple[int, ...]) -> Iterator[int]:
    """Numbers that no cell has, the least first; those that are given up count."""
    used: set[int] = set()
    for index in np.ndindex(*corrections.labels.shape[:-2]):
        used.update(corrections.plane(index).labels.tolist())
    used -= set(given_up)
    most = np.iinfo(corrections.labels.dtype).max
    number = 0 if given_up else max(used, default=0)
    while True:
        number += 1
        if number > most:
            raise EditError(
                f"Labels of type {corrections.labels.dtype} cannot number so many cells: "
                "convert the layer with layer.data = layer.data.astype('int32')."
            )
        if number not in used:
            yield number


# --------------------------------------------------------------------------------------------
# What correcting asks of the engine: a box segmented again, and the probability's levels.

#: thresholds at which the foreground is asked for, beside that of the cells
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
#: results with more pixels are not asked for: it would keep the engine busy for long
MOST_PIXELS = 32_000_000


@dataclass(frozen=True, eq=False)
class Foreground:
    r"""Foreground probability in steps, read by slices like an array.

    Attributes
    ----------
    thresholds : tuple of float
        Ascending; whether a pixel reaches one of them is exact.
    reached : uint8 (\*stack, H, W)
        How many thresholds each pixel reaches.
    edge : float
        The threshold of the cells, one of them.
    seams : (rows, columns)
        First rows and columns of the network's tiles but for the first.
    """

    thresholds: tuple[float, ...]
    reached: NDArray[np.uint8]
    edge: float
    seams: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return self.reached.shape

    def plane(self, index: Index) -> Foreground:
        """One plane of a stack."""
        return replace(self, reached=self.reached[index])

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        ends = np.array([0.0, *self.thresholds, 1.0], np.float32)
        middles = (ends[1:] + ends[:-1]) / 2
        values: NDArray[np.float32] = middles[self.reached[key]]
        return values


@dataclass(frozen=True, eq=False)
class BoxRequest(SegmentRequest):
    """A box of one plane of the cells, to be segmented again.

    Attributes
    ----------
    cells, index, box
        Key of the layer, plane and box of its labels.
    """

    cells: str
    index: Index
    box: Box


@dataclass(eq=False)
class _Asked:
    """Levels of one result on the way."""

    cells: str
    thresholds: tuple[float, ...]
    edge: float
    reached: NDArray[np.uint8]
    done: int = 0


class CorrectEngine:
    """Asks the engine for the Correct page and takes its answers.

    Parameters
    ----------
    link
        The engine.
    foreground_ready
        Called with the key of the cells and a `Foreground`.
    box_ready
        Called with a `BoxRequest` and int32 labels of its box.
    """

    def __init__(
        self,
        link: EngineLink,
        foreground_ready: Callable[[str, Foreground], None],
        box_ready: Callable[[BoxRequest, NDArray[np.int32]], None],
    ) -> None:
        self._link = link
        self._foreground_ready = foreground_ready
        self._box_ready = box_ready
        self._asked: dict[str, _Asked] = {}
        link.answer(("box", "level"), self)

    # --- asking ------------------------------------------------------------------------

    def ask_foreground(self, source: CellSource) -> bool:
        """Ask for the levels of a result, once; False where the engine cannot have them."""
        key = source.result_key
        if not key or source.labels.size > MOST_PIXELS:
            return False
        if key not in self._asked:
            edge = self._link.session.instances.foreground
            thresholds = tuple(sorted({*LEVELS, edge}))
            reached = np.zeros(source.labels.shape, np.uint8)
            self._asked[key] = _Asked(source.key, thresholds, edge, reached)
            self._ask_level(key)
        return True

    def segment_box(
        self,
        source: CellSource,
        outline: Any,
        instances: InstanceConfig,
        diameter: float | None,
    ) -> None:
        """Segment a box of the shown plane again with these settings; doubtful cells count.

        Raises
        ------
        EditError
            If the box holds too little of the image, or the cells lie on none.
        """
        box = box_of(outline, source.shape)
        # who drags a box looks at what comes: one too many is a click, one missing is work
        instances = instances.model_copy(update={"min_confidence": 0.0})
        request = BoxRequest(
            **self.about(source, box, instances, diameter),
            cells=source.key,
            index=source.plane,
            box=box,
        )
        self._link.cancel_runs()
        self._link.run(request.function, request.arguments(), kind="box", about=request)

    def about(
        self,
        source: CellSource,
        box: Box,
        instances: InstanceConfig,
        diameter: float | None,
    ) -> dict[str, Any]:
        """What a request says of image, model and settings; EditError without an image."""
        image, session = source.image, self._link.session
        if image is None or source.corner is None:
            raise EditError(
                "These cells do not lie on the pixels of an image, so there is nothing to "
                "segment. Choose cells that were made on the image."
            )
        image = as_seen(image, session)
        predict = session.predict
        if diameter is not None:
            predict = predict.model_copy(update={"diameter": diameter})
        if source.made:
            # as where the cells around it were found
            decided = decided_in(source.made).items()
            auto = {name: way for name, way in decided if getattr(predict, name) == "auto"}
            predict = predict.model_copy(update=auto)
        index = source.image_index(source.plane) or None
        return {
            "source": image,
            "generation": self._link.generation(image.key),
            "key": uuid.uuid4().hex,
            "model": session.model,
            "predict": predict,
            "instances": instances,
            "normalize": session.normalize,
            "window": p.Window(index=index, box=source.image_box(box)),
        }

    # --- what the engine says ----------------------------------------------------------

    def job_done(self, call: p.Call, result: Any) -> None:
        """A call of ours is done; the link says so."""
        if call.kind == "box":
            y0, y1, x0, x1 = call.about.box
            if self._link.generation(call.about.source.key) != call.about.generation:
                return  # that was said when the image changed
            self._link.session.error = None
            self._box_ready(call.about, np.asarray(result.labels).reshape(y1 - y0, x1 - x0))
            return
        asked = self._asked.get(call.key)
        if asked is None or result.labels.size != asked.reached.size:
            self._asked.pop(call.key, None)
            return
        asked.reached += np.asarray(result.labels).reshape(asked.reached.shape) > 0
        asked.done += 1
        if asked.done < len(asked.thresholds):
            self._ask_level(call.key)
            return
        del self._asked[call.key]
        known = Foreground(asked.thresholds, asked.reached, asked.edge, result.seams)
        self._foreground_ready(asked.cells, known)

    def job_failed(self, call: p.Call, error: ErrorInfo) -> None:
        """A call of ours failed; without levels there are other reasons for doubt."""
        if call.kind == "box":
            self._link.fail(error)
        else:
            self._asked.pop(call.key, None)

    def job_cancelled(self, call: p.Call) -> None:
        """A slider's question took the place of ours: ask again."""
        if call.key in self._asked:
            self._ask_level(call.key)

    def _ask_level(self, key: str) -> None:
        asked = self._asked[key]
        config = InstanceConfig(
            foreground=asked.thresholds[asked.done], split=0, min_size=0, fill_holes=False
        )
        self._link.ask("derive", {"instances": config}, key, "level")


def box_of(outline: Any, shape: tuple[int, int]) -> Box:
    """Pixels inside a drawn rectangle, clipped to the plane."""
    points = np.asarray(outline, float)
    low = np.floor(points.min(axis=0) + 0.5).astype(int)
    high = np.floor(points.max(axis=0) + 0.5).astype(int) + 1
    y0, x0 = np.clip(low, 0, shape)
    y1, x1 = np.clip(high, 0, shape)
    if min(y1 - y0, x1 - x0) < 8:
        raise EditError("The box is too small: drag it around at least one cell.")
    return int(y0), int(y1), int(x0), int(x1)


# --------------------------------------------------------------------------------------------
# Which cells or regions a click or a lasso means.

MakeStep = Callable[[Corrections, Index], Step]


def chosen(corrections: Corrections, index: Index, point: Any, lasso: Any) -> list[int]:
    """Cells under a point or in a lasso."""
    if lasso is not None:
        found = edits.labels_in(corrections, lasso, index)
    else:
        found = [edits.label_at(corrections, point, index)]
    found = [label for label in found if label]
    if not found:
        raise EditError("There is no cell there: click on one.")
    return found


def inside(corrections: Corrections, index: Index, outline: Any) -> int | None:
    """The cell that an outline is about: the one whose centre lies in it, if just one does."""
    found = edits.labels_in(corrections, outline, index)
    return found[0] if len(found) == 1 else None


def unmarked(point: Any) -> MakeStep:
    """Removal of the marked region under a point."""

    def make(corrections: Corrections, index: Index) -> Step:
        region = edits.region_at(corrections, point, index)
        if region is None:
            raise EditError("There is no marked region there: draw around one.")
        return edits.remove_region(corrections, region.id)

    return make
