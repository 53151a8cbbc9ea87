"""Statistics of a whole plane, for networks that weigh channels by what they see of it all.

Squeeze and excitation pools over its whole input, so tiles on their own would disagree. Its
statistics therefore come from one coarse pass over the whole plane, whatever the tiles are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from napari_sa2net.inference.resample import ScaledPlane
from napari_sa2net.nn import fixed_statistics, pad_to_stride, pooled_statistics, pools_globally

#: Side (network px) of the largest square plane whose statistics are taken as it is; larger
#: planes are shrunk to its area.
COARSE_SIDE = 1024


def coarse_plane(plane: ScaledPlane, side: int = COARSE_SIDE) -> ScaledPlane:
    """The plane, shrunk to at most the area of a square; itself if it is not larger.

    Of a plane that shows a box of an image (its plan has an attribute ``whole``), the plane
    of that image.
    """
    # A box of an image is seen as a part of that image.
    whole = getattr(plane.plan, "whole", plane.plan)
    if whole.spatial != plane.plan.spatial:
        plane = ScaledPlane(whole, plane.index, plane.rows.scale)
    height, width = plane.shape
    shrink = side / math.sqrt(height * width)
    if shrink >= 1:
        return plane
    if plane.rows.scale != plane.columns.scale:  # a model of a fixed input size
        return ScaledPlane(
            plane.plan, plane.index, resize_to=side, antialias=plane.rows.antialias
        )
    return ScaledPlane(plane.plan, plane.index, plane.rows.scale * shrink)


@contextmanager
def whole_plane(
    net: nn.Module,
    plane: ScaledPlane,
    dtype: torch.dtype = torch.float32,
    side: int = COARSE_SIDE,
    kept: dict[int, dict[str, Tensor]] | None = None,
) -> Iterator[None]:
    """Inside the block, windows of a plane are seen as parts of it.

    Parameters
    ----------
    net : Module
        In eval mode, on its device. One that pools nothing is not run.
    plane : ScaledPlane
    dtype : torch.dtype
        Precision of the coarse pass.
    side : int
        As of `coarse_plane`.
    kept : dict, optional
        Statistics of this plane by side: taken from it, or put into it for later.
    """
    if not pools_globally(net):
        yield
        return
    statistics = {} if kept is None else kept
    if side not in statistics:
        statistics[side] = _statistics(net, coarse_plane(plane, side), dtype)
    with fixed_statistics(net, statistics[side]):
        yield


def _statistics(net: nn.Module, coarse: ScaledPlane, dtype: torch.dtype) -> dict[str, Tensor]:
    device = next(net.parameters()).device
    x = torch.from_numpy(coarse.read(0, coarse.shape[0], 0, coarse.shape[1]))[None]
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
    ):
        return pooled_statistics(net, pad_to_stride(x.to(device)))
