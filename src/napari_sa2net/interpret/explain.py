"""What an explained plane says about its objects, and `explain`, which does it all at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.config import (
    CancelCallback,
    InstanceConfig,
    Progress,
    SegmentSettings,
    n_classes,
)
from napari_sa2net.data.plan import Box, ImagePlan
from napari_sa2net.errors import AxesError, Cancelled, ImageError, SettingsError
from napari_sa2net.inference.devices import give_memory_back
from napari_sa2net.inference.instances import foreground_probability, label_objects
from napari_sa2net.inference.planes import label_in_blocks, plane_of
from napari_sa2net.inference.predict import SEGMENTING, Predictor
from napari_sa2net.inference.segment import (
    Prediction,
    cropped,
    fill_background,
    look_first,
    plan_for,
    refuse_tissue,
    seams_of,
    split_settings,
    with_context,
)
from napari_sa2net.inference.tiling import PlaneOf, allocate
from napari_sa2net.interpret.attention import (
    WIDE,
    AttentionMaps,
    Collector,
    to_image,
    wide_bytes,
)
from napari_sa2net.interpret.maps import STRIDES, AttentionMap, place
from napari_sa2net.interpret.objects import Profiles, all_profiles, gate_columns, mean_gates
from napari_sa2net.interpret.refinement import refinement_table, stage_change
from napari_sa2net.measure import object_table
from napari_sa2net.models import Model, load_model
from napari_sa2net.quantities import DEFAULT

if TYPE_CHECKING:
    import pandas as pd


# --------------------------------------------------------------------------------------------
# One plane, predicted and explained in one pass: probabilities, attention maps, heads.

#: Memory for unreduced maps (bytes); of larger planes only reduced ones are kept, and a
#: single channel is run again when it is asked for.
KEEP_WIDE = 2**28


@dataclass(eq=False)
class Explained(Prediction):
    """A predicted plane or box of one, and what the network showed.

    Its probabilities are those of an ordinary prediction, bit for bit.

    Attributes
    ----------
    maps : AttentionMaps or None
        Of the box with its context; None where the network was not run, because the image
        is empty or of one value throughout.
    heads : dict of stride to array-like float32 (classes, h, w)
        Probabilities of the heads at strides 8, 4, 2, on their grids, with context.
    outer : (y0, y1, x0, x1)
        What the network was given, in pixels of the image.
    """

    maps: AttentionMaps | None = None
    heads: dict[int, Any] = field(default_factory=dict)
    outer: Box = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        self._config = self.model.card.instance
        self._stages: tuple[InstanceConfig, dict[int, NDArray[np.int32]]] | None = None

    @cached_property
    def image_maps(self) -> dict[str, AttentionMap]:
        """All maps over the box, reduced."""
        return self.placed()

    @cached_property
    def image_gates(self) -> tuple[float, float, float, float]:
        """Means of the scale gates over the box; NaN without them."""
        return mean_gates(self.image_maps)

    @property
    def box(self) -> Box:
        """What was asked for, in pixels of the image."""
        return self.plan.box

    @property
    def plane(self) -> Any:
        """Probabilities (classes, h, w) of the plane alone."""
        return self.probability[(0,) * len(self.plan.stack_shape)]

    @property
    def n_bytes(self) -> int:
        """Memory that is held; what lies on disk does not count."""
        held = [one.values for one in self.image_maps.values()]
        if self._stages is not None:
            held += self._stages[1].values()
        return super().n_bytes + self.map_bytes + sum(one.nbytes for one in held)

    @property
    def map_bytes(self) -> int:
        """Memory of maps and heads."""
        arrays = list(self.heads.values())
        if self.maps is not None:
            arrays += [*self.maps.reduced.values(), *self.maps.native.values()]
        # A map of one channel is there twice, once as a view.
        held = [array for array in arrays if isinstance(array, np.ndarray)]
        own = {id(a if a.base is None else a.base): a for a in held}
        return sum(array.nbytes for array in own.values())

    def placed(self) -> dict[str, AttentionMap]:
        """All maps over the box, reduced."""
        if self.maps is None:
            return {}
        return {
            name: self.place(name, values, None) for name, values in self.maps.reduced.items()
        }

    def channel(self, name: str, channel: int | None) -> AttentionMap | None:
        """One map over the box, of one channel; None where that must be run again.

        Raises
        ------
        SettingsError
            There is no such map or channel.
        """
        maps = self.maps
        if maps is None or name not in maps.reduced:
            there = ", ".join(maps.reduced) if maps is not None else "none"
            raise SettingsError(f"There is no map '{name}' here; there are: {there}.")
        n = maps.n_channels[name]
        if channel is not None and not 0 <= channel < n:
            raise SettingsError(f"'{name}' has the channels 0 to {n - 1}, not {channel}.")
        if channel is None or n == 1:
            return self.place(name, maps.reduced[name], None)
        if name not in maps.native:
            return None
        return self.place(name, maps.native[name][channel], channel)

    def stage(self, stride: int, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Probabilities by the head of a stride, brought to image size.

        Parameters
        ----------
        stride : int
            8, 4 or 2; the network was run.
        rows, columns : slice
            With start and stop, counted in the box.

        Returns
        -------
        float32 (classes, h, w)
        """
        assert self.maps is not None
        y, x = self.box[0] - self.outer[0], self.box[2] - self.outer[2]
        window = (rows.start + y, rows.stop + y, columns.start + x, columns.stop + x)
        return to_image(self.heads[stride], stride, self.maps.scale, self.maps.shape, window)

    def place(self, name: str, values: Any, channel: int | None) -> AttentionMap:
        """A map, or a channel of one, over the box."""
        assert self.maps is not None
        origin = self.outer[0], self.outer[2]
        n = self.maps.n_channels[name]
        return place(name, values, self.maps.scale, self.box, origin, channel, n)

    @property
    def corner(self) -> tuple[int, int]:
        """First pixel of the box in the image."""
        return self.box[0], self.box[2]

    def labels(
        self,
        config: InstanceConfig,
        cancelled: CancelCallback | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """As of `Prediction`; stages follow them."""
        made = super().labels(config, cancelled, progress)
        self._config = config
        return made

    def stages(
        self, labels: Any = None, cancelled: CancelCallback | None = None
    ) -> dict[int, NDArray[np.int32]]:
        """Labels (Y, X) of all heads, those of the main one as given or made last."""
        if labels is None:
            labels = self.labels(self._config, cancelled)
        finest = self.flat(labels)
        if self._stages is None or self._stages[0] != self._config:
            made = stage_labels(self, self.classes, self._config, finest, cancelled)
            self._stages = (self._config, {s: v for s, v in made.items() if s > 1})
        return {**self._stages[1], 1: finest}

    def flat(self, labels: Any) -> NDArray[np.int32]:
        """The plane (Y, X) of labels of the box, with or without the stack's axes.

        Raises
        ------
        SettingsError
            They are of another shape.
        """
        plan = self.plan
        if labels.ndim == 2 and labels.shape != plan.label_shape:
            labels = labels[tuple(slice(None) if a in "YX" else None for a in plan.label_axes)]
        if labels.shape != plan.label_shape or labels.dtype.kind not in "iu":
            raise SettingsError(
                f"Labels of shape {labels.shape} do not fit the explained part of shape "
                f"{plan.label_shape}; look inside again."
            )
        return np.asarray(plane_of(plan, labels, (0,) * len(plan.stack_shape))[:, :])

    def table(
        self, labels: Any, boxes: bool = False, groups: Iterable[str] | None = ()
    ) -> pd.DataFrame:
        """The object table with what gates and stages say."""
        stages = self.stages(labels)
        return with_reasons(
            super().table(labels, boxes, groups),
            stages,
            foreground_probability(np.asarray(self.plane), self.classes),
            self.image_maps,
            all_profiles(stages[1], self.image_maps, self.corner),
            self.corner,
            self.pixel_size_um,
        )


def explain_plane(
    predictor: Predictor,
    plan: ImagePlan,
    index: tuple[int, ...] = (),
    scale: float = 1.0,
    *,
    box: Box | None = None,
    on_tile: Callable[[int, int], None] | None = None,
    cancelled: CancelCallback | None = None,
) -> Explained:
    """Predict a plane, or a box of it, and collect what the network shows.

    Parameters
    ----------
    predictor : Predictor
    plan : ImagePlan
        The whole image.
    index : tuple of int
        Which plane of its stack.
    scale : float
        Network pixels per image pixel.
    box : (y0, y1, x0, x1), optional
        Predicted with context around it; the whole plane if not given.
    on_tile, cancelled : callable, optional
        As of `Predictor.predict_plane`.

    Raises
    ------
    OutOfMemoryError, Cancelled, ImageError
    """
    part = plan.part(index, box)
    read = with_context(predictor, part, scale)
    out = allocate((*read.stack_shape, predictor.n_classes, *read.spatial), np.float32)
    made = Explained(
        part, out, predictor.model, predictor.config, None, scale, 0, *predictor.used
    )
    made.outer = read.box
    if plan.is_empty or plan.constant:
        fill_background(out)
        made.outer, made.probability = part.box, cropped(out, read, part)
        return made
    at = (0,) * len(read.stack_shape)
    plane = predictor.scaled(read, at, scale)
    base = predictor.card.network.base_channels
    collector = Collector(
        plane,
        WIDE if wide_bytes(base, plane) <= KEEP_WIDE else (),
        heads=True,
        classes=n_classes(predictor.card.classes),
    )

    def count(done: int, total: int) -> None:
        made.n_tiles += done > 0
        if on_tile is not None:
            on_tile(done, total)

    predictor.predict_plane(
        read,
        at,
        scale,
        out=out[at] if isinstance(out, np.ndarray) else PlaneOf(out, at),
        watch=collector,
        on_tile=count,
        cancelled=cancelled,
    )
    made.probability = cropped(out, read, part)
    made.maps, made.heads = collector.maps(plane), collector.heads
    made.seams = seams_of(predictor, read, part, scale)
    return made


def look_inside(
    predictor: Predictor,
    plan: ImagePlan,
    index: tuple[int, ...],
    instances: InstanceConfig,
    *,
    box: Box | None = None,
    pixel_size_um: float | Sequence[float] | None = None,
    z_step_um: float | None = None,
    progress: Progress | None = None,
    cancelled: CancelCallback | None = None,
) -> Explained:
    """As `explain_plane`, checked, and at the scale of the image's objects.

    Raises
    ------
    AxesError, ImageError
        The index does not name one plane; the part is too large.
    OutOfMemoryError, Cancelled
    """
    check_plane(plan, index)
    check_size(plan.part(index, box).spatial)
    predictor, plan, diameter, scale = look_first(
        predictor, plan, instances, cancelled, progress
    )
    made = explain_plane(
        predictor,
        plan,
        index,
        scale,
        box=box,
        on_tile=progress and (lambda i, n: progress(i, n, SEGMENTING)),
        cancelled=cancelled,
    )
    made.diameter, made.pixel_size_um, made.z_step_um = diameter, pixel_size_um, z_step_um
    return made


def run_channel(
    predictor: Predictor,
    explained: Explained,
    name: str,
    channel: int,
    *,
    on_tile: Callable[[int, int], None] | None = None,
    cancelled: CancelCallback | None = None,
) -> AttentionMap:
    """One channel of a map that was kept reduced only: the network runs half-way again.

    Raises
    ------
    OutOfMemoryError, Cancelled, ImageError
    """
    part, scale = explained.plan, explained.scale
    read = with_context(predictor, part, scale)
    at = (0,) * len(read.stack_shape)
    collector = Collector(predictor.scaled(read, at, scale), channels={name: channel})
    predictor.look_at_plane(read, at, scale, collector, on_tile=on_tile, cancelled=cancelled)
    return explained.place(name, collector.single[name], channel)


#: More pixels than these are not explained at once.
LARGE = 64_000_000
#: Planes with more pixels than this have the stages before the last labelled in blocks.
IN_BLOCKS = 2**23


@dataclass(frozen=True, eq=False)
class Explanation:
    """Result of `explain`.

    Attributes
    ----------
    labels : int32 (H, W)
        0 is background.
    probability : float32 (classes, H, W)
    objects : DataFrame
        The columns of `segment`'s table, and further ones: scale_gate_1 … 4 (means in the
        object), those of `napari_sa2net.interpret.objects.Profiles.columns`, and those of
        `napari_sa2net.interpret.refinement.refinement_table`.
    profiles : Profiles
        ψ of every stage by distance from each object's boundary.
    maps : dict of str to AttentionMap
        Reduced, on their own grids. Empty for an image of one value throughout, on which the
        network is not run; a model without some stage lacks its maps.
    stages : dict of stride to int32 (H, W)
        Labels of the heads at strides 8, 4, 2 and 1; those of 1 are `labels`.
    change : int8 (H, W)
        +1 where the last stage added foreground, −1 where it removed it.
    image_gates : four floats
        Means of the scale gates over the image; NaN without them.
    diameter : float or None
        Object diameter (image px) that set the scale.
    provenance : dict
        Model, settings and versions, ready for JSON.
    plan : ImagePlan
    n_tiles : int
    """

    labels: NDArray[np.int32]
    probability: NDArray[np.float32]
    objects: pd.DataFrame
    profiles: Profiles
    maps: dict[str, AttentionMap]
    stages: dict[int, NDArray[np.int32]]
    change: NDArray[np.int8]
    image_gates: tuple[float, float, float, float]
    diameter: float | None
    provenance: dict[str, Any]
    plan: ImagePlan
    n_tiles: int = 0


def explain(
    image: Any,
    model: str | os.PathLike[str] | Model = "nuclei",
    axes: str | None = None,
    channels: int | Iterable[int] | None = None,
    diameter: float | None = None,
    normalize: bool = True,
    device: str = "auto",
    *,
    index: tuple[int, ...] = (),
    pixel_size_um: float | Sequence[float] | None = None,
    progress: Progress | None = None,
    cancelled: CancelCallback | None = None,
    **settings: Unpack[SegmentSettings],
) -> Explanation:
    """Segment one plane of an image and show why.

    Parameters
    ----------
    image, model, axes, channels, diameter, normalize, device, pixel_size_um
        As of `napari_sa2net.segment`.
    index : tuple of int
        Which plane of a stack.
    progress, cancelled : callable, optional
        As of `napari_sa2net.segment`.
    **settings
        Any field of `PredictConfig` and `InstanceConfig`.

    Raises
    ------
    AxesError
        The image is a stack and no plane of it was named, or there is no such plane.
    ImageError
        The plane is too large.
    and the errors of `napari_sa2net.segment`.
    """
    loaded = load_model(model)
    predict, instances = split_settings(
        loaded.card.instance, diameter=diameter, device=device, **settings
    )
    refuse_tissue(predict)
    plan = plan_for(loaded, image, axes, channels, normalize, predict)
    made = look_inside(
        Predictor(loaded, predict, input_config=plan.model_input),
        plan,
        index,
        instances,
        pixel_size_um=pixel_size_um,
        progress=progress,
        cancelled=cancelled,
    )
    probability, maps = np.asarray(made.plane), made.image_maps
    labels = made.flat(made.labels(instances, cancelled))
    stages = made.stages(labels, cancelled)
    foreground = foreground_probability(probability, made.classes)
    height, width = plan.spatial
    raw = np.moveaxis(plan.read_raw(index, 0, height, 0, width), 0, -1)
    table = object_table(labels, foreground, raw, pixel_size_um, groups=DEFAULT)
    give_memory_back()
    profiles = all_profiles(labels, maps)
    give_memory_back()
    return Explanation(
        labels,
        probability,
        with_reasons(table, stages, foreground, maps, profiles, pixel_size_um=pixel_size_um),
        profiles,
        maps,
        stages,
        stage_change(stages[2], stages[1]),
        made.image_gates,
        made.diameter,
        made.record(instances, index=list(index)),
        plan,
        made.n_tiles,
    )


def check_plane(plan: ImagePlan, index: tuple[int, ...]) -> None:
    """Whether an index names one plane.

    Raises
    ------
    AxesError
        It does not.
    """
    shape = plan.stack_shape
    if len(index) != len(shape) or not all(
        0 <= i < n for i, n in zip(index, shape, strict=True)
    ):
        raise AxesError(
            f"One plane is explained at a time: name one of the stack {plan.stack_axes} of "
            f"shape {shape}, not {index}."
            if shape
            else f"The image has a single plane, so there is no plane {index}."
        )


def check_size(spatial: tuple[int, int]) -> None:
    """Whether an area (H, W) can be explained as one.

    Raises
    ------
    ImageError
        It is too large.
    """
    if spatial[0] * spatial[1] > LARGE:
        raise ImageError(
            f"{spatial[0]} × {spatial[1]} pixels are too many to be explained at once (up to "
            f"{LARGE // 10**6} million): choose the view, or crop the image."
        )


def stage_labels(
    explained: Explained,
    classes: Sequence[str],
    config: InstanceConfig,
    finest: NDArray[np.int32],
    cancelled: CancelCallback | None = None,
) -> dict[int, NDArray[np.int32]]:
    """Labels of the four heads by stride.

    Parameters
    ----------
    explained : Explained
    classes : sequence of str
    config : InstanceConfig
        The one that `finest` was made with.
    finest : int32 (H, W)
        Labels of the main head.

    Returns
    -------
    dict of stride 8, 4, 2, 1 to int32 (H, W)

    Raises
    ------
    Cancelled
        Between two heads.
    """
    # how sure a network must be was tuned for its last head; those before it are less so
    config = config.model_copy(update={"min_confidence": 0.0})
    stages: dict[int, NDArray[np.int32]] = {}
    for stride in STRIDES[:-1]:
        if cancelled and cancelled():
            raise Cancelled("Cancelled; nothing was changed.")
        stages[stride] = _stage(explained, stride, classes, config, finest.shape, cancelled)
        give_memory_back()
    return {**stages, 1: finest}


def _stage(
    explained: Explained,
    stride: int,
    classes: Sequence[str],
    config: InstanceConfig,
    shape: tuple[int, ...],
    cancelled: CancelCallback | None,
) -> NDArray[np.int32]:
    height, width = shape

    def read(rows: slice, columns: slice) -> NDArray[np.float32]:
        return explained.stage(stride, rows, columns)

    if explained.maps is None:
        return np.zeros(shape, np.int32)
    if height * width <= IN_BLOCKS:
        return label_objects(read(slice(0, height), slice(0, width)), classes, config)
    # Four heads at once would not fit beside everything else.
    out = np.zeros(shape, np.int32)
    label_in_blocks(read, (height, width), classes, config, out, cancelled=cancelled)
    return out


def with_reasons(
    table: pd.DataFrame,
    stages: Mapping[int, NDArray[np.int32]],
    foreground: NDArray[np.floating[Any]],
    maps: Mapping[str, AttentionMap],
    profiles: Profiles,
    origin: tuple[int, int] = (0, 0),
    pixel_size_um: float | Sequence[float] | None = None,
) -> pd.DataFrame:
    """An object table of one plane with what gates, ψ and stages say about each object.

    Parameters
    ----------
    table : DataFrame with a column label
    stages : dict of stride to int32 (H, W)
        Those of 1 are the table's labels.
    foreground : float (H, W)
    maps : mapping of str to AttentionMap
    profiles : Profiles
    origin : (y, x)
        First pixel of the labels in the whole image.
    pixel_size_um : float or (y, x), optional
    """
    gates = gate_columns(stages[1], maps, origin)
    moves = refinement_table(stages, foreground, pixel_size_um)
    for more in (gates, profiles.columns(), moves):
        table = table.merge(more, "left", on="label")
    return table
