"""Segment an image: the public function and its result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_sa2net.data.plan import ImagePlan
from napari_sa2net.inference.labelling import (
    MEASURING,
    SEPARATING,
    label_stack,
    measure_objects,
)
from napari_sa2net.inference.prediction import plan_for, predict_image
from napari_sa2net.inference.predictor import CancelCallback, ProgressCallback
from napari_sa2net.inference.settings import split_settings
from napari_sa2net.models import Model, load_model
from napari_sa2net.provenance import provenance

if TYPE_CHECKING:
    import pandas as pd


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
    z_step_um : float, optional
        From plane to plane of a Z stack, for volumes in µm³.
    progress : callable (done, total, what), optional
        What goes on, in words such as "segmenting", and how much of it is done; a total of 0
        is an unknown one.
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
    plan = plan_for(loaded, image, axes, channels, normalize, predict)
    made = predict_image(
        loaded, plan, predict, instances=instances, progress=progress, cancelled=cancelled
    )
    classes = loaded.card.classes
    if progress:
        progress(0, 0, SEPARATING)
    labels = label_stack(
        plan, made.probability, classes, instances, progress=progress, cancelled=cancelled
    )
    if progress and table:
        progress(0, 0, MEASURING)
    objects = measure_objects(
        plan,
        labels,
        made.probability,
        classes,
        pixel_size_um,
        table=table,
        z_step_um=z_step_um,
    )
    size = None if pixel_size_um is None else np.asarray(pixel_size_um, float).tolist()
    record = provenance(
        loaded.name,
        loaded.sha256,
        {
            **plan.settings(),
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
