"""A picture of a result: image, masks outlined, attention maps; and outlines as lines."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.files import write_atomically


def outline(labels: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Pixels of objects that have a neighbour of another label."""
    from skimage.segmentation import find_boundaries

    return np.asarray(find_boundaries(labels, mode="inner"))


def outline_segments(labels: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Straight pieces of all borders between labels, (n, 2 ends, x and y)."""
    down = _runs(labels[1:] != labels[:-1])
    across = _runs((labels[:, 1:] != labels[:, :-1]).T)
    pieces = []
    for (line, start, stop), flip in ((down, False), (across, True)):
        level = line + 0.5
        ends = np.stack(
            [np.stack([start - 0.5, level], 1), np.stack([stop - 0.5, level], 1)], 1
        )
        pieces.append(ends[..., ::-1] if flip else ends)
    return np.concatenate(pieces)


def _runs(
    mask: NDArray[np.bool_],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Row, start and stop of every run of True in the rows of a mask."""
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    line, start = np.nonzero(steps > 0)
    return line, start, np.nonzero(steps < 0)[1]


def save_picture(
    path: Path,
    image: NDArray[Any],
    labels: NDArray[np.integer[Any]],
    maps: Mapping[str, NDArray[np.float32]],
    title: str,
) -> Path:
    """Write a PNG with one panel each for image, masks and every map.

    Parameters
    ----------
    path : Path
    image : (Y, X) or (Y, X, 3)
    labels : (Y, X) integers
    maps : title of the panel -> (Y, X) float32
    title : str

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    gray = image.ndim == 2
    low, high = np.percentile(image, (0.5, 99.8)) if gray else (0, 255)
    style: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": high} if gray else {}
    # Made by hand rather than by pyplot, which would keep figures and choose a window system.
    figure = Figure(figsize=(4 * (2 + len(maps)), 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 + len(maps), squeeze=False)[0]
    figure.suptitle(title)
    panels[0].imshow(image, **style)
    panels[0].set_title("image")
    panels[1].imshow(image, **style)
    edges = np.zeros((*labels.shape, 4), np.float32)
    edges[outline(labels)] = (1.0, 0.8, 0.0, 1.0) if gray else (0.0, 0.9, 0.3, 1.0)
    panels[1].imshow(edges, interpolation="nearest")
    panels[1].set_title(f"{len(np.unique(labels[labels > 0]))} cells outlined")
    for panel, (name, values) in zip(panels[2:], maps.items(), strict=True):
        # A few pixels at the image border must not take the whole range of colours.
        low, high = np.percentile(values, (0.5, 99.5))
        shown = panel.imshow(values, cmap="viridis", vmin=low, vmax=high)
        panel.set_title(name, fontsize="medium")
        figure.colorbar(shown, ax=panel, shrink=0.8)
    for panel in panels:
        panel.set_axis_off()
    content = BytesIO()
    figure.savefig(content, format="png")
    return write_atomically(path, content.getvalue())
