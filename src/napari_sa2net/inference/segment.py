"""Segment an image: the public function and its result."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from napari_sa2net.config import (
    CancelCallback,
    InstanceConfig,
    PredictConfig,
    Progress,
    SegmentSettings,
    Settings,
)
from napari_sa2net.data.axes import axis_noun
from napari_sa2net.data.levels import spread_indices
from napari_sa2net.data.plan import ImagePlan, plan_as_input
from napari_sa2net.errors import Cancelled, SettingsError
from napari_sa2net.inference.diameter import (
    adapted_to_image,
    cells_seen,
    estimate_diameter,
)
from napari_sa2net.inference.planes import MEASURING, SEPARATING, label_stack, measure_objects
from napari_sa2net.inference.predict import (
    ADAPTING,
    ASKING_STAIN,
    FINDING_SIZE,
    SEGMENTING,
    Predictor,
)
from napari_sa2net.inference.tiling import (
    N_PLANES,
    PlaneOf,
    Seams,
    allocate,
    inside,
    network_scale,
)
from napari_sa2net.measure import empty_table
from napari_sa2net.models import Model, load_model
from napari_sa2net.provenance import provenance
from napari_sa2net.quantities import checked_groups

if TYPE_CHECKING:
    import pandas as pd


# --------------------------------------------------------------------------------------------
# From a planned image to the class probabilities of all its planes.


@dataclass(eq=False)
class Prediction:
    """Class probabilities of an image or a part of it, and all that is made from them.

    Attributes
    ----------
    plan : ImagePlan
        Of what was predicted.
    probability : array-like float32, stack axes + (classes, Y, X)
        numpy, or zarr on disk above 256 MB.
    model : Model
    config : PredictConfig
    diameter : float or None
        Object diameter (image px) that set the scale; None where nothing was rescaled.
    scale : float
        Network pixels per image pixel.
    n_tiles : int
        Tiles that were run.
    device, precision : str
    seams : (rows, columns)
        First rows and columns of the tiles but for the first, in pixels of the plan.
    pixel_size_um, z_step_um : float or None
        Of the image, for the table.
    last : (InstanceConfig, labels) or None
        The labels that were made last.
    engine : str
        What ran the network: ``torch``, or another library with its version.
    """

    plan: ImagePlan
    probability: Any
    model: Model
    config: PredictConfig
    diameter: float | None = None
    scale: float = 1.0
    n_tiles: int = 0
    device: str = ""
    precision: str = ""
    seams: Seams = ((), ())
    pixel_size_um: float | Sequence[float] | None = None
    z_step_um: float | None = None
    last: tuple[InstanceConfig, Any] | None = None
    engine: str = "torch"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.model.card.classes

    @property
    def n_bytes(self) -> int:
        """Memory that is held; what lies on disk does not count."""
        labels = self.last[1] if self.last is not None else None
        arrays = (self.plan.image, self.probability, labels)
        return sum(one.nbytes for one in arrays if isinstance(one, np.ndarray))

    def labels(
        self,
        config: InstanceConfig,
        cancelled: CancelCallback | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """int32 labels in the plan's `label_shape`; the last ones are remembered.

        Raises
        ------
        Cancelled
            Between two planes.
        """
        if self.last is None or self.last[0] != config:
            self.last = None
            made = label_stack(
                self.plan,
                self.probability,
                self.classes,
                config,
                progress=progress,
                cancelled=cancelled,
            )
            self.last = (config, made)
        return self.last[1]

    def table(
        self, labels: Any, boxes: bool = False, groups: Iterable[str] | None = ()
    ) -> pd.DataFrame:
        """The object table of labels of the plan; see `measure_objects`."""
        return measure_objects(
            self.plan,
            labels,
            self.probability,
            self.classes,
            self.pixel_size_um,
            z_step_um=self.z_step_um,
            boxes=boxes,
            groups=groups,
        )

    def record(self, instances: InstanceConfig, **image: Any) -> dict[str, Any]:
        """Provenance of labels; ``image``: more of how the image went in."""
        size = self.pixel_size_um
        # what was decided: who sees it again with another size might decide otherwise
        found = {"dab": "remove" if self.plan.removes_dab else "keep"}
        if self.config.adapt == "auto":
            found["adapt"] = "on" if self.model.base else "off"
        config = self.config.model_copy(update=found)
        return provenance(
            self.model.name,
            self.model.sha256,
            {
                **self.plan.settings(**image),
                "predict": config,
                "instances": instances,
            },
            None if size is None else np.asarray(size, float).tolist(),
            diameter=self.diameter,
            scale=self.scale,
            device=self.device,
            precision=self.precision,
            engine=self.engine,
        )


def plan_for(
    model: Model,
    image: Any,
    axes: str | None = None,
    channels: int | Iterable[int] | None = None,
    normalize: bool = True,
    predict: PredictConfig | None = None,
    measure: bool = True,
    guessed: bool = False,
) -> ImagePlan:
    """Plan of an image for a model; see `segment` and `plan_image` for the parameters.

    ``guessed``: also a stack of few planes may be a misunderstanding (`ImagePlan.notice`).
    """
    predict = predict or PredictConfig()
    plan = plan_as_input(
        image,
        axes,
        channels,
        normalize,
        model.card.input,
        model.card.network.in_channels,
        measure and predict.dab != "remove",
        levels=predict.levels,
        contrast=predict.contrast,
    )
    if predict.dab == "remove":
        plan = plan.without_dab()
        if measure:
            _ = plan.measured
    if axes is None and (notice := plan.notice(guessed=guessed)):
        warnings.warn(notice, stacklevel=3)
    return plan


def look_first(
    predictor: Predictor,
    plan: ImagePlan,
    instances: InstanceConfig | None = None,
    cancelled: CancelCallback | None = None,
    progress: Progress | None = None,
) -> tuple[Predictor, ImagePlan, float | None, float]:
    """What has to be known of an image before its cells are looked for.

    An image that may be immunohistochemistry is looked at as it is and without its brown
    stain. Under brown membranes and cytoplasm more nuclei are seen without it, and fewer where
    nuclei themselves are brown; so the way in which more is seen is taken.

    Returns
    -------
    predictor : Predictor
        Adapted to the image.
    plan : ImagePlan
        Without the brown stain, if less is seen with it.
    diameter : float or None
        Of the typical object (image px); None where nothing is rescaled.
    scale : float
        Network pixels per image pixel.

    Raises
    ------
    Cancelled
    """
    trained, config = predictor.card.diameter, predictor.config
    if not trained or predictor.input.resize_to:
        return predictor, plan, None, 1.0
    planes = spread_indices(plan.stack_shape, N_PLANES)
    ways = [plan]
    if config.dab == "auto" and not plan.removes_dab and plan.has_dab:
        ways.append(plan.without_dab())

    def step(what: str, part: int, parts: int) -> Callable[[int, int], None]:
        return lambda i, n: progress and progress(part * n + i, parts * n, what)

    def sized(way: int) -> tuple[ImagePlan, float | None, float]:
        one, diameter = ways[way], config.diameter
        if not config.rescale:
            return one, None, 1.0
        if diameter is None and not (one.is_empty or one.constant):
            diameter = estimate_diameter(
                predictor,
                one,
                planes,
                instances=instances,
                cancelled=cancelled,
                on_crop=step(FINDING_SIZE, way, len(ways)),
            )
        expected = diameter or predictor.card.expected_diameter
        return one, diameter, network_scale(expected, trained, plan.spatial)

    found = [sized(way) for way in range(len(ways))]
    way = 0
    if len(found) > 1:
        # At the sizes of both: at a small one alone, grains of the stain would pass for cells.
        scales = dict.fromkeys(scale for _, _, scale in found)
        looks = [(one, scale) for one, _, _ in found for scale in scales]
        seen = []
        for part, (one, scale) in enumerate(looks):
            told = step(ASKING_STAIN, part, len(looks))
            seen.append(cells_seen(predictor, one, planes, scale, instances, cancelled, told))
        with_dab, without = math.prod(seen[: len(scales)]), math.prod(seen[len(scales) :])
        way = int(without > with_dab)
    plan, diameter, scale = found[way]
    told = step(ADAPTING, 0, 1)
    predictor = adapted_to_image(predictor, plan, planes, scale, instances, cancelled, told)
    return predictor, plan, diameter, scale


def predict_image(
    model: Model,
    plan: ImagePlan,
    config: PredictConfig | None = None,
    *,
    instances: InstanceConfig | None = None,
    predictor: Predictor | None = None,
    pixel_size_um: float | Sequence[float] | None = None,
    z_step_um: float | None = None,
    progress: Progress | None = None,
    cancelled: CancelCallback | None = None,
) -> Prediction:
    """Class probabilities of all planes of an image, or a part of it.

    Parameters
    ----------
    model : Model
    plan : ImagePlan
    config : PredictConfig, optional
    instances : InstanceConfig, optional
        For the estimate of the object diameter; the model's own if not given.
    predictor : Predictor, optional
        One that is ready, made of the same model and settings; saves its making.
    pixel_size_um, z_step_um, progress, cancelled : optional
        As of `segment`.

    Raises
    ------
    DeviceError, OutOfMemoryError, Cancelled, ImageError
    """
    if predictor is None:
        predictor = Predictor(model, config, input_config=plan.model_input)
    config = predictor.config
    # A view is segmented as it would be within the whole image: with its object size, and
    # with context around it.
    whole = plan.whole if plan.boxed else plan
    predictor, known, diameter, scale = look_first(
        predictor, whole, instances, cancelled, progress
    )
    if known.removes_dab:
        plan = plan.without_dab()
    read = with_context(predictor, plan, scale)
    out = allocate((*read.stack_shape, predictor.n_classes, *read.spatial), np.float32)
    n_tiles = 0
    seams: Seams = ((), ())
    if plan.is_empty or plan.constant:
        fill_background(out)
    else:
        for done, index in enumerate(plan.indices()):
            plane = out[index] if isinstance(out, np.ndarray) else PlaneOf(out, index)

            def on_tile(i: int, n: int, done: int = done) -> None:
                nonlocal n_tiles
                n_tiles += i > 0
                if progress:
                    what = SEGMENTING
                    if (of := plan.n_planes) > 1:
                        # how many, and not which: planes are counted from 0
                        what += f", {done} of {of} {axis_noun(plan.stack_axes, of)} done"
                    progress(done * n + i, plan.n_planes * n, what)

            tissue = None
            if config.tissue:
                tissue = find_tissue(plan.whole, plan.in_whole(index)).seen_from(read.origin)
                fill_background(plane)
            predictor.predict_plane(
                read,
                index,
                scale,
                out=plane,
                on_tile=on_tile,
                cancelled=cancelled,
                wanted=None if tissue is None else tissue.touches,
            )
        seams = seams_of(predictor, read, plan, scale)
    if cancelled and cancelled():
        raise Cancelled("Cancelled; nothing was changed.")
    return Prediction(
        plan,
        cropped(out, read, plan),
        predictor.model,
        config,
        diameter,
        scale,
        n_tiles,
        *predictor.used,
        seams,
        pixel_size_um,
        z_step_um,
        engine=predictor.engine,
    )


def with_context(predictor: Predictor, plan: ImagePlan, scale: float) -> ImagePlan:
    """The part of the image that a part is predicted from."""
    if not plan.boxed or plan.is_empty:
        return plan
    whole = plan.whole
    index = plan.first if plan.stack_shape != whole.stack_shape else None
    return whole.part(index, predictor.context(whole.spatial, plan.box, scale))


def cropped(out: Any, read: ImagePlan, plan: ImagePlan) -> Any:
    """What was predicted with context, (..., Y, X), without it."""
    if read.box == plan.box:
        return out
    y, x = (plan.origin[name] - read.origin[name] for name in "YX")
    height, width = plan.spatial
    return np.ascontiguousarray(out[..., y : y + height, x : x + width])


def seams_of(predictor: Predictor, read: ImagePlan, plan: ImagePlan, scale: float) -> Seams:
    """Where the tiles of a part with its context met, in pixels of the part."""
    y, x = (plan.origin[name] - read.origin[name] for name in "YX")
    return inside(predictor.seams(read, scale), (y, x), plan.spatial)


def fill_background(out: Any) -> None:
    """Probabilities of an image without objects: background 1, every other class 0."""
    if out.shape[-3] > 1 and 0 not in out.shape:
        for index in np.ndindex(*out.shape[:-3]):
            out[(*index, 0)] = 1.0


# --------------------------------------------------------------------------------------------
# Where a slide has tissue: the rest of the glass needs no network.

#: Longest side of the coarse picture that it is looked for in (px), and least side of its
#: pixels (px of the image).
COARSE, LEAST_STEP = 2048, 8
#: More colour than this is tissue, however much more the rest of it has; and so is what is
#: darker than this share of the glass.
COLOURED, DARK = 0.1, 0.85
#: Around tissue so much is tissue too (px of the image): a cell at its edge keeps its context.
AROUND = 64
#: Rows of the image that are looked at at once, about (bytes).
_AT_ONCE = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Tissue:
    """A coarse mask of a plane, whose pixels are `step` px of the image wide."""

    mask: NDArray[np.bool_]
    step: int
    origin: tuple[int, int] = (0, 0)

    def seen_from(self, origin: Mapping[str, int]) -> Tissue:
        """The same for a part of the plane that begins elsewhere."""
        return replace(self, origin=(origin["Y"], origin["X"]))

    def touches(self, y0: int, y1: int, x0: int, x1: int) -> bool:
        """Whether there is tissue in rows y0…y1-1 and columns x0…x1-1."""
        (y, x), step = self.origin, self.step
        rows = slice((y0 + y) // step, -(-(y1 + y) // step))
        columns = slice((x0 + x) // step, -(-(x1 + x) // step))
        return bool(self.mask[rows, columns].any())


def tissue_step(spatial: tuple[int, int]) -> int:
    """Side of a pixel of the mask of a plane (px of the image)."""
    return max(LEAST_STEP, -(-max(spatial) // COARSE))


def find_tissue(plan: ImagePlan, index: tuple[int, ...] = ()) -> Tissue:
    """Where a plane of a colour image has tissue: it has colour, or is darker than the glass.

    Raises
    ------
    SettingsError
        The image has no colours.
    """
    if not plan.is_rgb:
        raise SettingsError(
            "Tissue is told from glass by its colour, and this image is none in colour. Leave "
            "out tissue (in the shell --tissue)."
        )
    from scipy.ndimage import binary_dilation, binary_fill_holes
    from skimage.filters import threshold_otsu

    height, width = plan.spatial
    step = tissue_step(plan.spatial)
    size = max(1, width * plan.n_channels * plan.dtype.itemsize)
    high = max(1, _AT_ONCE // size // step) * step
    bands = []
    for y in range(0, height, high):
        rows = slice(y, min(y + high, height))
        band = plan.read_channels(index, rows, slice(0, width))[..., :3]
        starts = [np.arange(0, n, step) for n in band.shape[:2]]
        total = np.add.reduceat(np.nan_to_num(band.astype(np.float32)), starts[0], axis=0)
        total = np.add.reduceat(total, starts[1], axis=1)
        counts = [np.diff(np.append(s, n)) for s, n in zip(starts, band.shape, strict=False)]
        bands.append(total / np.multiply.outer(*counts)[..., np.newaxis])
    colours = np.concatenate(bands)
    most, least = colours.max(axis=-1), colours.min(axis=-1)
    saturation = np.divide(most - least, most, out=np.zeros_like(most), where=most > 0)
    limit = COLOURED
    if np.ptp(saturation) > 0:
        limit = min(limit, float(threshold_otsu(saturation)))
    grey = colours.mean(axis=-1)
    mask = (saturation > limit) | (grey < DARK * np.percentile(grey, 99))
    around = np.ones((3, 3), bool)
    mask = binary_dilation(binary_fill_holes(mask), around, iterations=-(-AROUND // step))
    return Tissue(mask, step)


def refuse_tissue(config: PredictConfig) -> None:
    """Where nothing may be left out.

    Raises
    ------
    SettingsError
    """
    if config.tissue:
        raise SettingsError(
            "Why cells are seen is shown of a whole image: leave out tissue (in the shell "
            "--tissue), or segment."
        )


# --------------------------------------------------------------------------------------------
# Settings by name, sorted into how to predict and how to make objects.


def split_settings(
    instance: InstanceConfig | None = None, **settings: Any
) -> tuple[PredictConfig, InstanceConfig]:
    """Sort settings by name into how to predict and how to make objects.

    Parameters
    ----------
    instance : InstanceConfig, optional
        Values of the object settings that are not given, such as a model card's.
    **settings
        Fields of either.

    Raises
    ------
    SettingsError
        If a name is unknown or a value out of bounds.
    """
    known = {*PredictConfig.model_fields, *InstanceConfig.model_fields}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise SettingsError(
            f"Unknown setting {', '.join(unknown)}. Known are: {', '.join(sorted(known))}."
        )
    base = (instance or InstanceConfig()).model_dump()
    return (
        _checked(PredictConfig, {}, settings),
        _checked(InstanceConfig, base, settings),
    )


def _checked(kind: type[Any], base: dict[str, Any], settings: dict[str, Any]) -> Any:
    assert issubclass(kind, Settings)
    own = {name: value for name, value in settings.items() if name in kind.model_fields}
    try:
        return kind.model_validate({**base, **own})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"Setting '{name}': {first['msg']} (got {first['input']!r})."
        ) from error


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Result of `segment`.

    Attributes
    ----------
    labels : array-like int32
        The image's axes without channels; 0 is background, objects count over the whole
        stack. numpy, or zarr on disk above 256 MB.
    probability : array-like float32, stack axes + (classes, Y, X)
        numpy, or zarr on disk above 256 MB.
    objects : DataFrame
        One row per object: label, area_px, area_um2, confidence, ...; of a Z stack also
        planes, volume_voxels, volume_um3 and centroid_z. See
        `napari_sa2net.measure.object_table`.
    diameter : float or None
        Object diameter (image px) that set the scale: yours or the estimate.
    provenance : dict
        Model, settings and versions, ready for JSON.
    plan : ImagePlan
        How the image went in.
    n_tiles : int
    """

    labels: Any
    probability: Any
    objects: pd.DataFrame
    diameter: float | None
    provenance: dict[str, Any]
    plan: ImagePlan
    n_tiles: int = field(default=0)


def segment(
    image: Any,
    model: str | os.PathLike[str] | Model = "nuclei",
    axes: str | None = None,
    channels: int | Iterable[int] | None = None,
    diameter: float | None = None,
    normalize: bool = True,
    device: str = "auto",
    *,
    pixel_size_um: float | Sequence[float] | None = None,
    z_step_um: float | None = None,
    progress: Progress | None = None,
    cancelled: CancelCallback | None = None,
    table: bool = True,
    measure: Iterable[str] | None = None,
    **settings: Unpack[SegmentSettings],
) -> Segmentation:
    """Segment an image into labelled objects.

    Parameters
    ----------
    image : array
        numpy, dask, zarr, or a list of multiscale levels; any real dtype and any size.
    model : str, path or Model
        A bundled or registered name, a model file, or a loaded model.
    axes : str, optional
        Spells the array: "YX", "YXC", "CYX", "ZYX", "TCYX", … Unsaid: 2-D is YX, a last
        axis of 3 or 4 is RGB(A), other leading axes are a stack, with a warning where they
        may be channels.
    channels : int or iterable of int, optional
        Which channels go in; unsaid: all of RGB, otherwise the first.
    diameter : float, optional
        Typical object diameter in image pixels; unsaid: estimated.
    normalize : bool
        False: the values, all channels and the size go into the network as they are.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    pixel_size_um : float or (y, x), optional
        For areas in µm².
    z_step_um : float, optional
        From plane to plane of a Z stack, for volumes in µm³.
    progress : callable (done, total, what), optional
        What goes on, in words such as "segmenting", and how much of it is done; a total of 0
        is an unknown one.
    cancelled : callable -> bool, optional
        Asked before every tile and plane.
    table : bool
        Measure the objects; False leaves the table empty.
    measure : iterable of str, optional
        What is measured beside size, mean intensity and confidence: any of "shape",
        "intensity" (of every channel, with a ring of background) and "neighbours"; "none" for
        no more. Unsaid: "shape".
    **settings
        Any field of `PredictConfig` and `InstanceConfig`: tile, precision, augment,
        foreground, split, min_size, link_planes, …

    Raises
    ------
    ImageError, AxesError, ChannelError
        If the image cannot be segmented.
    SettingsError
        If a setting is unknown or out of bounds.
    ModelNotFoundError, CheckpointError, DeviceError, OutOfMemoryError
    Cancelled
    """
    groups = checked_groups(measure)
    loaded = load_model(model)
    predict, instances = split_settings(
        loaded.card.instance, diameter=diameter, device=device, **settings
    )
    plan = plan_for(loaded, image, axes, channels, normalize, predict, guessed=True)
    made = predict_image(
        loaded,
        plan,
        predict,
        instances=instances,
        pixel_size_um=pixel_size_um,
        z_step_um=z_step_um,
        progress=progress,
        cancelled=cancelled,
    )
    if progress:
        progress(0, 0, SEPARATING)
    labels = made.labels(instances, cancelled, progress)
    if progress and table:
        progress(0, 0, MEASURING)
    objects = made.table(labels, groups=groups) if table else empty_table(plan.stack_axes)
    record = made.record(instances)
    return Segmentation(
        labels, made.probability, objects, made.diameter, record, made.plan, made.n_tiles
    )
