"""What an explained plane says about its objects, and `explain`, which does it all at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.config import InstanceConfig, SegmentSettings, n_classes
from napari_sa2net.data import ImagePlan
from napari_sa2net.errors import AxesError, Cancelled, ImageError, SettingsError
from napari_sa2net.inference.devices import give_memory_back
from napari_sa2net.inference.instances import foreground_probability, label_objects
from napari_sa2net.inference.planes import LARGE, label_in_blocks
from napari_sa2net.inference.predict import (
    SEGMENTING,
    CancelCallback,
    Predictor,
    ProgressCallback,
)
from napari_sa2net.inference.segment import (
    choose_scale,
    fill_background,
    plan_for,
    split_settings,
)
from napari_sa2net.inference.tiling import Seams, allocate, inside
from napari_sa2net.interpret.attention import (
    WIDE,
    AttentionMaps,
    Collector,
    to_image,
    wide_bytes,
)
from napari_sa2net.interpret.maps import AttentionMap, place
from napari_sa2net.interpret.objects import Profiles, all_profiles, gate_columns, mean_gates
from napari_sa2net.interpret.refinement import STRIDES, refinement_table, stage_change
from napari_sa2net.measure import object_table
from napari_sa2net.models import Model, load_model
from napari_sa2net.provenance import provenance

if TYPE_CHECKING:
    import pandas as pd


# --------------------------------------------------------------------------------------------
# One plane, predicted and explained in one pass: probabilities, attention maps, heads.

#: Memory for unreduced maps (bytes); of larger planes only reduced ones are kept, and a
#: single channel is run again when it is asked for.
KEEP_WIDE = 2**28

Box = tuple[int, int, int, int]


class Crop:
    """A box of a planned image, with the levels of the whole.

    Attributes
    ----------
    spatial : (h, w)
    in_channels : int
    whole : ImagePlan
    """

    def __init__(self, plan: ImagePlan, box: Box) -> None:
        self.whole = plan
        self._y, self._x = box[0], box[2]
        self.spatial = (box[1] - box[0], box[3] - box[2])
        self.in_channels = plan.in_channels

    def read(
        self, index: tuple[int, ...], y0: int, y1: int, x0: int, x1: int
    ) -> NDArray[np.float32]:
        """As of `ImagePlan`, counted from the box's first pixel."""
        y, x = self._y, self._x
        return self.whole.read(index, y0 + y, y1 + y, x0 + x, x1 + x)


@dataclass(frozen=True, eq=False)
class Explained:
    """A predicted box of a plane, and what the network showed.

    Attributes
    ----------
    probability : array-like float32 (classes, h, w)
        Of the box; as an ordinary prediction gives it, bit for bit.
    maps : AttentionMaps or None
        Of the box with its context; None where the network was not run, because the image
        is empty or of one value throughout.
    heads : dict of stride to array-like float32 (classes, h, w)
        Probabilities of the heads at strides 8, 4, 2, on their grids, with context.
    box, outer : (y0, y1, x0, x1)
        What was asked for, and what the network was given, in pixels of the image.
    index : tuple of int
        The plane.
    scale : float
        Network pixels per image pixel.
    n_tiles : int
    seams : (rows, columns)
        Where tiles met, in pixels of the box.
    """

    probability: Any
    maps: AttentionMaps | None
    heads: dict[int, Any]
    box: Box
    outer: Box
    index: tuple[int, ...]
    scale: float
    n_tiles: int
    seams: Seams = ((), ())

    @property
    def n_bytes(self) -> int:
        """Memory of maps and heads; what lies on disk does not count."""
        arrays = list(self.heads.values())
        if self.maps is not None:
            arrays += [*self.maps.reduced.values(), *self.maps.native.values()]
        # A map of one channel is there twice, once as a view.
        own = {id(a if a.base is None else a.base): a for a in arrays if _in_memory(a)}
        return sum(array.nbytes for array in own.values())

    def placed(self) -> dict[str, AttentionMap]:
        """All maps over the box, reduced."""
        if self.maps is None:
            return {}
        return {
            name: self._place(name, values, None) for name, values in self.maps.reduced.items()
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
            return self._place(name, maps.reduced[name], None)
        if name not in maps.native:
            return None
        return self._place(name, maps.native[name][channel], channel)

    def place_channel(self, name: str, values: Any, channel: int) -> AttentionMap:
        """A channel that was run again; see `run_channel`."""
        return self._place(name, values, channel)

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

    def _place(self, name: str, values: Any, channel: int | None) -> AttentionMap:
        assert self.maps is not None
        origin = self.outer[0], self.outer[2]
        n = self.maps.n_channels[name]
        return place(name, values, self.maps.scale, self.box, origin, channel, n)


def _in_memory(array: Any) -> bool:
    return isinstance(array, np.ndarray)


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
    everything = (0, plan.spatial[0], 0, plan.spatial[1])
    if plan.is_empty or plan.constant:
        inner = box or everything
        size = inner[1] - inner[0], inner[3] - inner[2]
        out = allocate((predictor.n_classes, *size), np.float32)
        fill_background(out)
        return Explained(out, None, {}, inner, inner, index, scale, 0)
    inner, outer, crop = framed(predictor, plan, scale, box)
    plane = predictor.scaled(crop, index, scale)
    base = predictor.card.network.base_channels
    collector = Collector(
        plane,
        WIDE if wide_bytes(base, plane) <= KEEP_WIDE else (),
        heads=True,
        classes=n_classes(predictor.card.classes),
    )
    n_tiles = 0

    def count(done: int, total: int) -> None:
        nonlocal n_tiles
        n_tiles += done > 0
        if on_tile is not None:
            on_tile(done, total)

    out = allocate((predictor.n_classes, *crop.spatial), np.float32)
    predictor.predict_plane(
        crop, index, scale, out=out, watch=collector, on_tile=count, cancelled=cancelled
    )
    corner = inner[0] - outer[0], inner[2] - outer[2]
    size = inner[1] - inner[0], inner[3] - inner[2]
    return Explained(
        cropped(out, outer, inner),
        collector.maps(plane),
        collector.heads,
        inner,
        outer,
        index,
        scale,
        n_tiles,
        inside(predictor.seams(crop, scale), corner, size),
    )


def run_channel(
    predictor: Predictor,
    plan: ImagePlan,
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
    crop = Crop(plan, explained.outer)
    plane = predictor.scaled(crop, explained.index, explained.scale)
    collector = Collector(plane, channels={name: channel})
    predictor.look_at_plane(
        crop, explained.index, explained.scale, collector, on_tile=on_tile, cancelled=cancelled
    )
    return explained.place_channel(name, collector.single[name], channel)


def framed(
    predictor: Predictor, plan: ImagePlan, scale: float, box: Box | None
) -> tuple[Box, Box, Crop]:
    """A box, the box with the context that it is predicted with, and that to be read."""
    everything = (0, plan.spatial[0], 0, plan.spatial[1])
    inner = box or everything
    outer = everything if box is None else predictor.context(plan.spatial, inner, scale)
    return inner, outer, Crop(plan, outer)


def cropped(out: Any, outer: Box, inner: Box) -> Any:
    """What was predicted with context, without it."""
    if inner == outer:
        return out
    y, x = inner[0] - outer[0], inner[2] - outer[2]
    window = (
        slice(None),
        slice(y, y + inner[1] - inner[0]),
        slice(x, x + inner[3] - inner[2]),
    )
    return np.ascontiguousarray(out[window])


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
    progress: ProgressCallback | None = None,
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
    plan = plan_for(loaded, image, axes, channels, normalize, predict)
    check_plane(plan, index)
    check_size(plan.spatial)
    predictor = Predictor(loaded, predict, input_config=plan.model_input)
    diameter, scale = choose_scale(predictor, plan, instances, cancelled, progress)
    made = explain_plane(
        predictor,
        plan,
        index,
        scale,
        on_tile=progress and (lambda i, n: progress(i, n, SEGMENTING)),
        cancelled=cancelled,
    )
    classes = loaded.card.classes
    probability = np.asarray(made.probability)
    labels = label_objects(probability, classes, instances)
    stages = stage_labels(made, classes, instances, labels, cancelled)
    maps = made.placed()
    foreground = foreground_probability(probability, classes)
    height, width = plan.spatial
    raw = np.moveaxis(plan.read_raw(index, 0, height, 0, width), 0, -1)
    table = object_table(labels, foreground, raw, pixel_size_um)
    profiles = all_profiles(labels, maps)
    record = provenance(
        loaded.name,
        loaded.sha256,
        {
            **plan.settings(index=list(index)),
            "predict": predict,
            "instances": instances,
        },
        None if pixel_size_um is None else np.asarray(pixel_size_um, float).tolist(),
        diameter=diameter,
        scale=scale,
        device=str(predictor.device),
        precision=str(predictor.dtype).removeprefix("torch."),
    )
    return Explanation(
        labels,
        probability,
        with_reasons(table, stages, foreground, maps, profiles, pixel_size_um=pixel_size_um),
        profiles,
        maps,
        stages,
        stage_change(stages[2], stages[1]),
        mean_gates(maps),
        diameter,
        record,
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
