"""Segment an image, and look at the network's attention on it: the public functions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from napari_sa2net.config import InstanceConfig, PredictConfig, Settings
from napari_sa2net.data import ImagePlan, plan_image
from napari_sa2net.errors import AxesError, Cancelled, SettingsError
from napari_sa2net.inference.attention import AttentionMaps, attention_maps
from napari_sa2net.inference.diameter import estimate_diameter
from napari_sa2net.inference.labelling import label_stack, measure_objects
from napari_sa2net.inference.predictor import (
    CancelCallback,
    Predictor,
    ProgressCallback,
    network_scale,
)
from napari_sa2net.inference.store import allocate
from napari_sa2net.models import Model, load_model
from napari_sa2net.provenance import provenance

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Prediction:
    """Class probabilities of an image, and how they were made.

    Attributes
    ----------
    probability : array-like float32, stack axes + (classes, Y, X)
        numpy, or zarr on disk above 1 GB.
    diameter : float or None
        Object diameter (image px) that set the scale; None where nothing was rescaled.
    scale : float
        Network pixels per image pixel.
    n_tiles : int
        Tiles that were run.
    device, precision : str
    """

    probability: Any
    diameter: float | None
    scale: float
    n_tiles: int
    device: str
    precision: str


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Result of `segment`.

    Attributes
    ----------
    labels : array-like int32
        The image's axes without channels; 0 is background, objects count over the whole
        stack. numpy, or zarr on disk above 1 GB.
    probability : array-like float32, stack axes + (classes, Y, X)
        numpy, or zarr on disk above 1 GB.
    objects : DataFrame
        One row per object: label, area_px, area_um2, confidence, ...
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
    progress: ProgressCallback | None = None,
    cancelled: CancelCallback | None = None,
    table: bool = True,
    **settings: Any,
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
        axis of 3 or 4 is RGB(A), other leading axes are a stack.
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
    progress : callable (done, total, what), optional
        After every tile.
    cancelled : callable -> bool, optional
        Asked before every tile and plane.
    table : bool
        Measure the objects; False leaves the table empty.
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
    loaded = load_model(model)
    predict, instances = split_settings(
        loaded.card.instance, diameter=diameter, device=device, **settings
    )
    plan = plan_for(loaded, image, axes, channels, normalize)
    made = predict_image(
        loaded, plan, predict, instances=instances, progress=progress, cancelled=cancelled
    )
    classes = loaded.card.classes
    labels = label_stack(
        plan, made.probability, classes, instances, progress=progress, cancelled=cancelled
    )
    objects = measure_objects(
        plan, labels, made.probability, classes, pixel_size_um, table=table
    )
    size = None if pixel_size_um is None else np.asarray(pixel_size_um, float).tolist()
    record = provenance(
        loaded.name,
        loaded.sha256,
        {
            "image": {
                "axes": plan.axes,
                "shape": list(plan.shape),
                "channels": list(plan.channels),
                "normalize": normalize,
            },
            "predict": predict,
            "instances": instances,
        },
        size,
        diameter=made.diameter,
        scale=made.scale,
        device=made.device,
        precision=made.precision,
    )
    return Segmentation(
        labels, made.probability, objects, made.diameter, record, plan, made.n_tiles
    )


def attention(
    image: Any,
    model: str | os.PathLike[str] | Model = "nuclei",
    axes: str | None = None,
    channels: int | Iterable[int] | None = None,
    diameter: float | None = None,
    normalize: bool = True,
    device: str = "auto",
    *,
    progress: ProgressCallback | None = None,
    cancelled: CancelCallback | None = None,
    **settings: Any,
) -> AttentionMaps:
    """Attention maps of the network on one image.

    Parameters
    ----------
    image, model, axes, channels, diameter, normalize, device
        As of `segment`. The image must be a single plane.
    progress, cancelled : callable, optional
        As of `segment`.
    **settings
        Any field of `PredictConfig`.

    Returns
    -------
    AttentionMaps
        A mapping: maps[name] is float32 (Y, X) at image size, channels reduced;
        maps.native[name] is unreduced (C, h, w) on the network's grid.

    Raises
    ------
    AxesError
        If the image is a stack.
    and the errors of `segment`.
    """
    loaded = load_model(model)
    predict, _ = split_settings(
        loaded.card.instance, diameter=diameter, device=device, **settings
    )
    plan = plan_for(loaded, image, axes, channels, normalize)
    if plan.stack_shape:
        raise AxesError(
            f"Attention is shown for one plane, but the image is a stack ({plan.axes}). "
            "Pass one plane of it, or spell the axes if one of them is channels."
        )
    predictor = Predictor(loaded, predict, input_config=plan.model_input)
    index: tuple[int, ...] = ()
    _, scale = choose_scale(predictor, plan, loaded.card.instance, cancelled)
    plane = predictor.scaled(plan, index, scale)
    return attention_maps(
        loaded,
        plane,
        device=predict.device,
        tile=predict.tile,
        progress=progress,
        cancelled=cancelled,
    )


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


def plan_for(
    model: Model,
    image: Any,
    axes: str | None = None,
    channels: int | Iterable[int] | None = None,
    normalize: bool = True,
) -> ImagePlan:
    """Plan of an image for a model; see `segment` for the parameters."""
    expects = model.card.input
    if not normalize:
        # As it is: neither channel order nor a fixed size is imposed on raw values.
        expects = expects.model_copy(update={"channel_order": "any", "resize_to": None})
    n = model.card.network.in_channels
    if channels is None and (not normalize or n > 3):
        # All channels, where they are just as many as the network takes.
        shape_only = plan_image(image, axes, in_channels=1, measure=False)
        channels = range(n) if shape_only.n_channels == n else None
    return plan_image(
        image, axes, channels, normalize=normalize, model_input=expects, in_channels=n
    )


def choose_scale(
    predictor: Predictor,
    plan: ImagePlan,
    instances: InstanceConfig | None = None,
    cancelled: CancelCallback | None = None,
) -> tuple[float | None, float]:
    """Object diameter (image px, None where nothing is rescaled) and network scale."""
    trained, config = predictor.card.diameter, predictor.config
    if not config.rescale or not trained or predictor.input.resize_to:
        return None, 1.0
    diameter = config.diameter
    if diameter is None and not (plan.is_empty or plan.constant):
        middle = tuple(n // 2 for n in plan.stack_shape)
        diameter = estimate_diameter(
            predictor, plan, middle, instances=instances, cancelled=cancelled
        )
    return diameter, network_scale(diameter, trained, plan.spatial)


def predict_image(
    model: Model,
    plan: ImagePlan,
    config: PredictConfig | None = None,
    *,
    instances: InstanceConfig | None = None,
    predictor: Predictor | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCallback | None = None,
) -> Prediction:
    """Class probabilities of all planes of an image.

    Parameters
    ----------
    model : Model
    plan : ImagePlan
    config : PredictConfig, optional
    instances : InstanceConfig, optional
        For the estimate of the object diameter; the model's own if not given.
    predictor : Predictor, optional
        One that is ready, made of the same model and settings; saves its making.
    progress, cancelled : callable, optional
        As of `segment`.

    Raises
    ------
    DeviceError, OutOfMemoryError, Cancelled, ImageError
    """
    if predictor is None:
        predictor = Predictor(model, config, input_config=plan.model_input)
    diameter, scale = choose_scale(predictor, plan, instances, cancelled)
    out = allocate((*plan.stack_shape, predictor.n_classes, *plan.spatial), np.float32)
    n_tiles = 0
    if plan.is_empty or plan.constant:
        fill_background(out)
    else:
        for done, index in enumerate(plan.indices()):
            plane = PlaneOf(out, index)

            def on_tile(i: int, n: int, done: int = done) -> None:
                nonlocal n_tiles
                n_tiles += 1
                if progress:
                    progress(done * n + i, plan.n_planes * n, "tiles")

            predictor.predict_plane(
                plan, index, scale, out=plane, on_tile=on_tile, cancelled=cancelled
            )
    if cancelled and cancelled():
        raise Cancelled("Cancelled; nothing was changed.")
    return Prediction(
        out,
        diameter,
        scale,
        n_tiles,
        str(predictor.device),
        str(predictor.dtype).removeprefix("torch."),
    )


class PlaneOf:
    """One plane (classes, Y, X) of a stack, to be written and read by slices."""

    def __init__(self, array: Any, index: tuple[int, ...]) -> None:
        self.array, self.index = array, index
        self.shape = tuple(array.shape[len(index) :])
        self.dtype = array.dtype

    def __getitem__(self, key: tuple[Any, ...]) -> Any:
        return self.array[(*self.index, *key)]

    def __setitem__(self, key: tuple[Any, ...], values: Any) -> None:
        self.array[(*self.index, *key)] = values


def fill_background(out: Any) -> None:
    """Probabilities of an image without objects: background 1, every other class 0."""
    if out.shape[-3] > 1 and 0 not in out.shape:
        for index in np.ndindex(*out.shape[:-3]):
            out[(*index, 0)] = 1.0
