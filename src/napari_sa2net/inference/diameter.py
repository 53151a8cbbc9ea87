"""What a few crops tell of an image: the diameter of its typical object, and what is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_sa2net.config import CancelCallback, InstanceConfig
from napari_sa2net.data.plan import ImagePlan
from napari_sa2net.errors import Cancelled
from napari_sa2net.inference.instances import (
    confidences,
    foreground_probability,
    label_objects,
)
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.tiling import (
    CROP,
    LARGE_SCALE,
    LARGEST_SCALE,
    MIN_SCALE,
    N_CROPS,
    ScaledPlane,
    Window,
    agree,
)

#: Width (px) of the rim outside cells that the overlap with the truth looks at.
RIM = 2
#: Positions per axis among which the crops with most contrast are chosen.
POSITIONS = 3
#: Passes at most from one scale.
MAX_PASSES = 3
#: Much enlarged cells that are less certain than this are not believed at once ...
CERTAIN = 0.75
#: ... and must be more certain by this than those at a scale that costs far less.
WORTH = 0.03
#: Where the first scale leads nowhere, so many times larger is tried, and smaller.
ENLARGED = 2.0
#: Fewer objects than this say nothing of the typical one.
MIN_OBJECTS = 3
#: A size that is no further than by this factor from those learned from is one of them.
NEAR = 2.0
#: Objects of fewer network pixels (px²) are none, whatever their size in the image.
SMALLEST = 20
#: A model is adapted to an image where it then sees so many times more cells, and so many
#: more, in so much of each crop (network px).
MORE, FEW_MORE, MIDDLE = 1.1, 3.0, 256
#: Objects below this share of the area that half of the foreground reaches are specks.
SPECK = 0.15


class Found(NamedTuple):
    """What one pass found in its crops.

    Attributes
    ----------
    scale : float
        Network pixels per image pixel.
    share : float
        Part of the crops that is cell.
    diameter : float
        Of the typical cell, in image pixels.
    confidence : float
        Expected overlap of all cells with the truth when each pixel is cell with its
        probability: sum inside, over the area plus the probability in the rim.
    """

    scale: float
    share: float
    diameter: float
    confidence: float


def estimate_diameter(
    predictor: Predictor,
    plan: ImagePlan,
    planes: Sequence[tuple[int, ...]] = ((),),
    *,
    instances: InstanceConfig | None = None,
    cancelled: CancelCallback | None = None,
    on_crop: Callable[[int, int], None] | None = None,
) -> float | None:
    """Typical object diameter in an image.

    The network finds objects best near the size that it was trained on, so it is run on a
    few crops, the image rescaled by what was found, and run again until both agree. On
    images unlike those trained on it may end at specks; an estimate that enlarges much is
    therefore compared with a moderate one by how certain the network is.

    A model that knows the sizes in the images that it learned from begins there, and what is
    found near them is taken for one of them: a part of a cell is found more easily than all
    of it, and how certain the network is does not tell them apart.

    Parameters
    ----------
    predictor : Predictor
    plan : ImagePlan
    planes : sequence of tuple of int
        The planes to look at: indices of the stack.
    instances : InstanceConfig, optional
        How objects are made; the model's own if not given. Small and doubtful ones count.
    cancelled : callable -> bool, optional
        Asked before every crop.
    on_crop : callable (done, total), optional
        Before the first crop, and after every one; mostly the search ends before the total.

    Returns
    -------
    float or None
        Median equivalent diameter in image pixels; None if the model does not say at which
        diameter it was trained, or no objects are found.

    Raises
    ------
    Cancelled
    """
    trained = predictor.card.diameter
    if not trained or 0 in plan.spatial:
        return None
    config = instances or predictor.card.instance
    # cells of the wrong size are doubtful, and tell their size all the same
    smallest = min(SMALLEST, round(trained**2 / 4))
    config = config.model_copy(update={"min_confidence": 0.0, "min_size": smallest})

    looked: dict[float, Found | None] = {}
    told = 0

    def look(scale: float) -> Found | None:
        if scale in looked:
            return looked[scale]
        before = min(len(looked), MAX_PASSES - 1) * N_CROPS

        def seen(done: int, n: int) -> None:
            nonlocal told
            told = max(told, before + round(done / n * N_CROPS))
            if on_crop:
                on_crop(told, MAX_PASSES * N_CROPS)

        looked[scale] = _measure(predictor, plan, planes, scale, config, cancelled, seen)
        return looked[scale]

    learned = predictor.card.image_diameters
    if learned is None:
        return _search(look, trained, 1.0)
    least, most = learned
    found = _search(look, trained, _scale(trained / min(max(trained, least), most)))
    if found is None:
        return None
    near = min(max(found, least), most)
    return near if max(near / found, found / near) <= NEAR else found


def _search(
    look: Callable[[float], Found | None], trained: float, scale: float
) -> float | None:
    """Look at one scale after the other, from this one on, until what is found agrees."""
    first = scale
    passes: list[Found] = []
    at = _follow(look, trained, first, passes)
    if at is None:
        # Cells that are far smaller run together into a few large ones, which are gone in an
        # image made smaller: again, from an enlarged one.
        others: list[Found] = []
        again = _follow(look, trained, _scale(ENLARGED * first), others)
        if again and again.confidence > max((one.confidence for one in passes), default=0.0):
            at = again
        if at is again or not passes:
            passes += others
    if at is not None:
        return _believed(passes, at.diameter, at, trained, look, first)
    if passes:
        # No agreement: the scale at which most was found, rather than wherever it drifted.
        most = max(passes, key=lambda one: (one.share, one.diameter))
        return _believed(passes, trained / most.scale, most, trained, look, first)
    found = look(_scale(first / ENLARGED))
    return None if found is None else found.diameter


def _follow(
    look: Callable[[float], Found | None],
    trained: float,
    scale: float,
    passes: list[Found],
) -> Found | None:
    """Look where the last pass points to, until it points to itself; each goes to passes."""
    for _ in range(MAX_PASSES):
        found = look(scale)
        if found is None:
            return None
        passes.append(found)
        # no scale is larger than the largest: cells that want a little more are at home there
        wanted = min(trained / found.diameter, LARGEST_SCALE)
        if agree(wanted, scale):
            return found
        scale = _scale(wanted)
    return None


def _scale(scale: float) -> float:
    return min(max(scale, MIN_SCALE), LARGEST_SCALE)


def _believed(
    passes: list[Found],
    diameter: float,
    at: Found,
    trained: float,
    look: Callable[[float], Found | None],
    first: float,
) -> float:
    """The estimate, unless it enlarges much and a moderate scale is about as certain."""
    if at.scale <= max(LARGE_SCALE, first) or at.confidence >= CERTAIN:
        return diameter
    moderate = [one for one in passes if one.scale <= LARGE_SCALE]
    between = look(ENLARGED)
    if between is not None:
        moderate.append(between)
    best = max(moderate, key=lambda one: one.confidence, default=at)
    if at.confidence > best.confidence + WORTH:
        return diameter
    # The scale is what looked right; what was measured there may again be specks.
    return trained / best.scale


def _measure(
    predictor: Predictor,
    plan: ImagePlan,
    planes: Sequence[tuple[int, ...]],
    scale: float,
    config: InstanceConfig,
    cancelled: CancelCallback | None,
    seen: Callable[[int, int], None],
) -> Found | None:
    """What is found in the crops at a scale; None where it is next to nothing."""
    sizes, looked_at = [], 0
    certain = around = 0.0
    windows = crops([ScaledPlane(plan, index, scale) for index in planes])
    for done, (plane, window) in enumerate(windows):
        seen(done, len(windows))
        if cancelled and cancelled():
            raise Cancelled("Cancelled; nothing was changed.")
        values = plane.read(window.y0, window.y1, window.x0, window.x1)
        probability = predictor.probabilities(values)
        labels = label_objects(probability, predictor.card.classes, config)
        inside, near = _overlap(labels > 0, probability, predictor.card.classes)
        certain, around = certain + inside, around + near
        sizes.append(_areas(labels, window, plane.shape))
        looked_at += labels.size
    seen(len(windows), len(windows))
    areas = np.concatenate(sizes)
    if len(areas) < MIN_OBJECTS:
        return None
    # On images unlike those trained on, specks may outnumber cells, though they make up
    # little of the foreground; by number alone, they would ask for an ever larger scale.
    areas = np.sort(areas)
    middle = areas[np.searchsorted(np.cumsum(areas), areas.sum() / 2)]
    typical = np.median(areas[areas >= SPECK * middle])
    diameter = float(np.sqrt(4 / np.pi * typical) / scale)
    return Found(scale, float(areas.sum() / looked_at), diameter, certain / around)


def _overlap(
    cells: NDArray[np.bool_], probability: NDArray[Any], classes: Sequence[str]
) -> tuple[float, float]:
    """Expected intersection and union (px) of the cells with the truth."""
    foreground = foreground_probability(probability, classes)
    rim = ndimage.binary_dilation(cells, iterations=RIM) & ~cells
    inside = float(foreground[cells].sum())
    return inside, float(cells.sum()) + float(foreground[rim].sum())


def cells_seen(
    predictor: Predictor,
    plan: ImagePlan,
    planes: Sequence[tuple[int, ...]],
    scale: float,
    instances: InstanceConfig | None = None,
    cancelled: CancelCallback | None = None,
    on_crop: Callable[[int, int], None] | None = None,
) -> float:
    """How many cells a plan shows, each counting as much as the network is sure of it.

    Parameters
    ----------
    planes : sequence of tuple of int
        The planes to look at, through a few crops.
    scale : float
        Network pixels per image pixel.
    on_crop : callable (done, total), optional
        Before every crop.

    Returns
    -------
    float
        Sum of the confidences of the cells that are kept, per pixel of the image.

    Raises
    ------
    Cancelled
    """
    shown = _shown(plan, planes, scale, CROP)
    seen = _seen_in(predictor, shown, instances, cancelled, on_crop)
    return seen * scale**2 / sum(values[0].size for values in shown)


def adapted_to_image(
    predictor: Predictor,
    plan: ImagePlan,
    planes: Sequence[tuple[int, ...]],
    scale: float,
    instances: InstanceConfig | None = None,
    cancelled: CancelCallback | None = None,
    on_crop: Callable[[int, int], None] | None = None,
) -> Predictor:
    """A predictor that is adapted to an image, by the middles of a few crops.

    Where `PredictConfig.adapt` is auto, the predictor itself unless the image is in colour, so
    that its stains may be others, and the adapted one sees clearly more cells there (`MORE`
    and `FEW_MORE`, as `cells_seen` counts them): where an image is like those of the training,
    adapting to so few pixels does rather harm.

    Raises
    ------
    Cancelled
    """
    is_asked = predictor.config.adapt == "auto"
    if (
        not predictor.adapts
        or plan.is_empty
        or plan.constant
        or (is_asked and not plan.tells_stains)
    ):
        return predictor
    shown = _shown(plan, planes, scale, MIDDLE)
    adapted = predictor.adapted(shown)
    if not is_asked:
        return adapted

    def told(part: int) -> Callable[[int, int], None]:
        return lambda done, n: on_crop and on_crop(part * n + done, 2 * n)

    before = _seen_in(predictor, shown, instances, cancelled, told(0))
    after = _seen_in(adapted, shown, instances, cancelled, told(1))
    return adapted if after > max(MORE * before, before + FEW_MORE) else predictor


def _shown(
    plan: ImagePlan, planes: Sequence[tuple[int, ...]], scale: float, side: int
) -> list[NDArray[np.float32]]:
    """What the network is given of the middles of the crops, of this side at most."""
    shown = []
    for plane, w in crops([ScaledPlane(plan, index, scale) for index in planes]):
        top, left = (max(0, n - side) // 2 for n in (w.y1 - w.y0, w.x1 - w.x0))
        shown.append(plane.read(w.y0 + top, w.y1 - top, w.x0 + left, w.x1 - left))
    return shown


def _seen_in(
    predictor: Predictor,
    shown: Sequence[NDArray[np.float32]],
    instances: InstanceConfig | None,
    cancelled: CancelCallback | None,
    on_crop: Callable[[int, int], None] | None,
) -> float:
    """Sum of the confidences of the cells that are kept."""
    config = instances or predictor.card.instance
    total = 0.0
    for done, values in enumerate(shown):
        if on_crop:
            on_crop(round(done / len(shown) * N_CROPS), N_CROPS)
        if cancelled and cancelled():
            raise Cancelled("Cancelled; nothing was changed.")
        probability = predictor.probabilities(values)
        labels = label_objects(probability, predictor.card.classes, config)
        foreground = foreground_probability(probability, predictor.card.classes)
        total += float(confidences(labels, foreground)[1:].sum())
    return total


def crops(planes: Sequence[ScaledPlane]) -> list[tuple[ScaledPlane, Window]]:
    """Up to `N_CROPS` windows of planes of one size: all, or those with most contrast.

    They come from as many planes as possible, so that one odd plane does not set the size.
    """
    height, width = planes[0].shape
    candidates = [
        (plane, Window(y, min(y + CROP, height), x, min(x + CROP, width)))
        for plane in planes
        for y in _starts(height)
        for x in _starts(width)
    ]
    if len(candidates) <= N_CROPS:
        return candidates
    # Looked at through every eighth row, which is cheap also when the plane is on disk.
    contrast = [
        float(np.std([plane.read(y, y + 1, w.x0, w.x1) for y in range(w.y0, w.y1, 8)]))
        for plane, w in candidates
    ]
    order = sorted(range(len(candidates)), key=lambda i: (-contrast[i], i))
    first_of: dict[int, int] = {}
    for i in order:
        if contrast[i] > 0:
            first_of.setdefault(id(candidates[i][0]), i)
    best = list(dict.fromkeys([*first_of.values(), *order]))[:N_CROPS]
    return [candidates[i] for i in sorted(best)]


def _starts(length: int) -> list[int]:
    if length <= CROP:
        return [0]
    n = min(POSITIONS, -(-length // CROP))
    return [i * (length - CROP) // (n - 1) for i in range(n)]


def _areas(
    labels: NDArray[np.int32], window: Window, shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Areas of the objects that the crop does not cut."""
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    cut = (window.y0 > 0, window.y1 < shape[0], window.x0 > 0, window.x1 < shape[1])
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    for edge, is_cut in zip(edges, cut, strict=True):
        if is_cut:
            areas[edge] = 0
    return areas[areas > 0]
