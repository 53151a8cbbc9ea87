"""From a planned image to the class probabilities of all its planes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data.plan import ImagePlan, plan_as_input
from napari_sa2net.data.sampling import spread_indices
from napari_sa2net.errors import Cancelled
from napari_sa2net.inference.diameter import estimate_diameter
from napari_sa2net.inference.predictor import (
    FINDING_SIZE,
    SEGMENTING,
    CancelCallback,
    Predictor,
    ProgressCallback,
)
from napari_sa2net.inference.scale import network_scale
from napari_sa2net.inference.size_search import N_PLANES
from napari_sa2net.inference.store import PlaneOf, allocate
from napari_sa2net.inference.tiles import Seams
from napari_sa2net.models import Model


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
    seams : (rows, columns)
        First rows and columns of the tiles but for the first.
    """

    probability: Any
    diameter: float | None
    scale: float
    n_tiles: int
    device: str
    precision: str
    seams: Seams = ((), ())


def plan_for(
    model: Model,
    image: Any,
    axes: str | None = None,
    channels: int | Iterable[int] | None = None,
    normalize: bool = True,
    predict: PredictConfig | None = None,
) -> ImagePlan:
    """Plan of an image for a model; see `segment` for the parameters."""
    predict = predict or PredictConfig()
    plan = plan_as_input(
        image,
        axes,
        channels,
        normalize,
        model.card.input,
        model.card.network.in_channels,
        levels=predict.levels,
        contrast=predict.contrast,
    )
    if axes is None and (notice := plan.notice()):
        warnings.warn(notice, stacklevel=3)
    return plan


def choose_scale(
    predictor: Predictor,
    plan: ImagePlan,
    instances: InstanceConfig | None = None,
    cancelled: CancelCallback | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[float | None, float]:
    """Object diameter (image px, None where nothing is rescaled) and network scale."""
    trained, config = predictor.card.diameter, predictor.config
    if not config.rescale or not trained or predictor.input.resize_to:
        return None, 1.0
    diameter = config.diameter
    if diameter is None and not (plan.is_empty or plan.constant):
        planes = spread_indices(plan.stack_shape, N_PLANES)
        diameter = estimate_diameter(
            predictor,
            plan,
            planes,
            instances=instances,
            cancelled=cancelled,
            on_crop=progress and (lambda i, n: progress(i, n, FINDING_SIZE)),
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
    diameter, scale = choose_scale(predictor, plan, instances, cancelled, progress)
    out = allocate((*plan.stack_shape, predictor.n_classes, *plan.spatial), np.float32)
    n_tiles = 0
    seams: Seams = ((), ())
    if plan.is_empty or plan.constant:
        fill_background(out)
    else:
        for done, index in enumerate(plan.indices()):
            plane = PlaneOf(out, index)

            def on_tile(i: int, n: int, done: int = done) -> None:
                nonlocal n_tiles
                n_tiles += i > 0
                if progress:
                    what = SEGMENTING
                    if plan.n_planes > 1:
                        what += f" plane {done + 1} of {plan.n_planes}"
                    progress(done * n + i, plan.n_planes * n, what)

            predictor.predict_plane(
                plan, index, scale, out=plane, on_tile=on_tile, cancelled=cancelled
            )
        seams = predictor.seams(plan, scale)
    if cancelled and cancelled():
        raise Cancelled("Cancelled; nothing was changed.")
    return Prediction(
        out,
        diameter,
        scale,
        n_tiles,
        str(predictor.device),
        str(predictor.dtype).removeprefix("torch."),
        seams,
    )


def fill_background(out: Any) -> None:
    """Probabilities of an image without objects: background 1, every other class 0."""
    if out.shape[-3] > 1 and 0 not in out.shape:
        for index in np.ndindex(*out.shape[:-3]):
            out[(*index, 0)] = 1.0
