"""What an explained plane says about its objects, and `explain`, which does it all at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.config import InstanceConfig
from napari_sa2net.data import ImagePlan
from napari_sa2net.errors import AxesError, Cancelled, ImageError
from napari_sa2net.inference.big_planes import LARGE, label_in_blocks
from napari_sa2net.inference.changes import stage_change
from napari_sa2net.inference.devices import give_memory_back
from napari_sa2net.inference.explain import Explained, explain_plane
from napari_sa2net.inference.inspection import gate_columns, mean_gates
from napari_sa2net.inference.instances import foreground_probability, label_objects
from napari_sa2net.inference.maps import AttentionMap
from napari_sa2net.inference.prediction import choose_scale, plan_for
from napari_sa2net.inference.predictor import (
    SEGMENTING,
    CancelCallback,
    Predictor,
    ProgressCallback,
)
from napari_sa2net.inference.profiles import Profiles, all_profiles
from napari_sa2net.inference.refinement import STRIDES, refinement_table
from napari_sa2net.inference.settings import split_settings
from napari_sa2net.measure import object_table
from napari_sa2net.models import Model, load_model
from napari_sa2net.provenance import provenance

if TYPE_CHECKING:
    import pandas as pd

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
        object), those of `napari_sa2net.inference.profiles.Profiles.columns`, and those of
        `napari_sa2net.inference.refinement.refinement_table`.
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
    **settings: Any,
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
