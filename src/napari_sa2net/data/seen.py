"""An image of a training set as segmenting saw it: channels, axes, levels and size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from napari_sa2net.config import InputConfig
from napari_sa2net.data.channels import channel_numbers
from napari_sa2net.data.image_file import ImageFile
from napari_sa2net.data.io import read_image
from napari_sa2net.data.manifest import Seen
from napari_sa2net.data.plan import ImagePlan, plan_as_input, plan_image
from napari_sa2net.data.training_set import TrainingItem

#: Settings of the input that have nothing to do with intensities.
_NO_LEVELS = {"channel_order", "resize_to", "antialias"}
#: Normalisations by values of the image itself; the others are given.
_MEASURED = {"percentile", "range"}
#: An estimated object size this many times off what a person left of the cells was wrong.
OFF = 2.0


def plan_item(
    item: TrainingItem,
    expects: InputConfig | None = None,
    in_channels: int = 3,
    measure: bool = True,
) -> ImagePlan:
    """Plan of an item's image for a network, as it was when its cells were made.

    Parameters
    ----------
    item : TrainingItem
    expects : InputConfig, optional
        What the network expects.
    in_channels : int
        Channels that it takes.
    measure : bool
        As of `plan_image`.

    Raises
    ------
    ImageFileError, ImageError, AxesError, ChannelError
    """
    return plan_file(read_image(item.image), item, expects, in_channels, measure)


def plan_file(
    file: ImageFile,
    item: TrainingItem,
    expects: InputConfig | None = None,
    in_channels: int = 3,
    measure: bool = True,
) -> ImagePlan:
    """`plan_item` of a file that is open already."""
    axes = item.axes or file.axes
    plan = plan_as_input(
        file.array,
        axes,
        chosen_channels(file, item),
        item.seen is None or item.seen.normalize,
        expects or InputConfig(),
        in_channels,
        measure=False,
    )
    if measure:
        take_levels(plan, item)
    return plan


def chosen_channels(file: ImageFile, item: TrainingItem) -> tuple[int, ...] | None:
    """Channels of the file that go in; None: nobody has chosen."""
    if item.channels is not None:
        return named_channels(file, item.axes, item.channels)
    plan = plan_image(file.array, item.axes or file.axes, in_channels=1, measure=False)
    if item.commit and not plan.is_rgb:
        return tuple(range(plan.n_channels))
    return None


def named_channels(
    file: ImageFile, axes: str | None, choice: Iterable[str | int]
) -> tuple[int, ...]:
    """Numbers of channels of a file that are given by number or by name.

    Parameters
    ----------
    axes : str or None
        Of the image; None: as the file tells.
    choice : iterable of str or int
        See `channel_choice`.

    Raises
    ------
    ChannelError
    """
    plan = plan_image(file.array, axes or file.axes, in_channels=1, measure=False)
    names = file.channel_names
    colours = ("red", "green", "blue", "alpha")[: plan.n_channels] if plan.is_rgb else ()
    return channel_numbers(choice, plan.n_channels, names or colours)


def unchosen(file: ImageFile, item: TrainingItem) -> str:
    """Which of several channels goes in where nobody has chosen; empty where that is plain."""
    if item.channels is not None or item.commit:
        return ""
    plan = plan_image(file.array, item.axes or file.axes, in_channels=1, measure=False)
    if plan.is_rgb or plan.n_channels < 2:
        return ""
    named = f" ({file.channel_names[0]})" if file.channel_names else ""
    return (
        f"{item.name} has {plan.n_channels} channels, and none is chosen: channel 0{named} is "
        "learned from, here and in images like it. Choose with --channels, or when you import "
        "the folder."
    )


def object_size(item: TrainingItem, measured: float | None, otherwise: float) -> float:
    """Object diameter (px) that sets the scale: that of segmenting, else that of the cells.

    Parameters
    ----------
    measured : float or None
        Of the cells as a person left them.
    otherwise : float
        The network's, which leaves the image as it is.
    """
    seen = item.seen
    if seen is None:
        return measured or otherwise
    if seen.predict.get("rescale") is False:
        return otherwise
    if typed := seen.predict.get("diameter"):
        return float(typed)
    found = seen.diameter
    if found and not (measured and not 1 / OFF <= found / measured <= OFF):
        return float(found)
    return measured or otherwise


def is_unscaled(item: TrainingItem) -> bool:
    """Whether the image went in at its own size."""
    return item.seen is not None and item.seen.predict.get("rescale") is False


def take_levels(plan: ImagePlan, item: TrainingItem) -> None:
    """A crop of a larger image is as bright as that image was when it was segmented."""
    given, expects, seen = item.levels, plan.model_input, item.seen
    chosen = seen is not None and seen.predicted.contrast is not None
    if given is None or not plan.normalize or not (chosen or _alike(seen, expects)):
        _ = plan.measured
        return
    if len(given) == plan.n_channels:
        given = tuple(given[c] for c in plan.channels)
    low, high = np.array(given, np.float64).T
    if len(low) == len(plan.channels) and (high > low).all():
        clip = chosen or plan.measured.clip
        plan.measured = replace(plan.measured, low=low, high=high, clip=clip, constant=False)


def _alike(seen: Seen | None, expects: InputConfig) -> bool:
    """Whether levels of the one are levels to the other."""
    made = InputConfig() if seen is None else seen.expects
    if {made.normalization, expects.normalization} <= _MEASURED:
        return True
    one, other = (config.model_dump(exclude=_NO_LEVELS) for config in (made, expects))
    return one == other
