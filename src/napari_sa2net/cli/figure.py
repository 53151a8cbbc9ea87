"""A figure that shows why: boundaries and attention of every stage, ready for a paper.

Columns are the four resolutions, coarse to fine; a map is in the column of the scale or
decoder stage that it belongs to, so that reading down a column is reading one stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.files import write_atomically
from napari_sa2net.interpret.maps import ADDED, REMOVED, STRIDES, palette
from napari_sa2net.interpret.refinement import stage_change
from napari_sa2net.words import counted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from napari_sa2net.interpret.maps import AttentionMap


# --------------------------------------------------------------------------------------------
# What a figure is made of: all of it, a part, or as coarse as it can be seen.

Labels = NDArray[np.integer[Any]]
Window = tuple[int, int, int, int]

#: Panels are this wide at most in pixels: three times what is printed, to look closer.
MOST = 1000


@dataclass(frozen=True, eq=False)
class Shown:
    """What a figure is made of.

    Attributes
    ----------
    name : str
    image : array (H, W) or (H, W, 3)
        Colours of uint8 as they are; other values are stretched.
    labels : integer array (H, W)
    maps : mapping of name to AttentionMap
        Any of the thirteen; a model without some stage has fewer.
    stages : mapping of stride to integer labels (H, W)
    objects : DataFrame
        With the columns label, refinement_px and contested.
    pixel_size_um : float or None
    window : (y0, y1, x0, x1), optional
        Part that is shown; unsaid: all of it.
    step : int
        Pixels of the image per pixel of what is given here.
    ran : bool
        The network was run; it is not on an image of one value.
    """

    name: str
    image: NDArray[Any]
    labels: Labels
    maps: Mapping[str, AttentionMap]
    stages: Mapping[int, Labels]
    objects: pd.DataFrame
    pixel_size_um: float | None = None
    window: Window | None = None
    step: int = 1
    ran: bool = True


def part_of(shown: Shown, window: Window) -> Shown:
    """The same of a window alone."""
    y0, y1, x0, x1 = window
    cut = slice(y0, y1), slice(x0, x1)
    return replace(
        shown,
        image=shown.image[cut],
        labels=shown.labels[cut],
        stages={stride: labels[cut] for stride, labels in shown.stages.items()},
        maps={
            name: replace(one, translate=(one.translate[0] - y0, one.translate[1] - x0))
            for name, one in shown.maps.items()
        },
        window=None,
    )


def coarser(shown: Shown) -> Shown:
    """The same with as many pixels as can be seen.

    Outlines of ten thousand cells, drawn at full size in every panel, take minutes and cover
    the picture.
    """
    step = -(-max(shown.labels.shape) // MOST)
    if step == 1:
        return shown
    middle = np.ix_(
        *(np.minimum(np.arange(0, n, step) + step // 2, n - 1) for n in shown.labels.shape)
    )

    def place(one: AttentionMap) -> AttentionMap:
        values = np.asarray(one.values)
        many = tuple(
            max(1, min(n, int(step / scale)))
            for n, scale in zip(values.shape, one.scale, strict=True)
        )
        (sy, sx), (ty, tx) = one.scale, one.translate
        return replace(
            one,
            values=_means(values, many),
            scale=(sy * many[0] / step, sx * many[1] / step),
            translate=(
                _coarse_position(ty + sy * (many[0] - 1) / 2, step),
                _coarse_position(tx + sx * (many[1] - 1) / 2, step),
            ),
        )

    return replace(
        shown,
        image=_means(np.asarray(shown.image), (step, step)),
        labels=np.asarray(shown.labels)[middle],
        stages={stride: np.asarray(labels)[middle] for stride, labels in shown.stages.items()},
        maps={name: place(one) for name, one in shown.maps.items()},
        step=step,
    )


def _coarse_position(at: float, step: int) -> float:
    """Of a position in pixels that in pixels of `step` × `step`."""
    return (at + 0.5) / step - 0.5


def _means(values: NDArray[Any], many: tuple[int, int]) -> NDArray[Any]:
    """Means of blocks; those at the far edges may be smaller. Keeps the type."""
    if 0 in values.shape or many == (1, 1):
        return values
    starts = [np.arange(0, n, step) for n, step in zip(values.shape, many, strict=False)]
    # Rows first, in the order of memory: no second copy of a large image is made.
    total = np.add.reduceat(values, starts[0], axis=0, dtype=np.float32)
    total = np.add.reduceat(total, starts[1], axis=1)
    rows, columns = (
        np.diff(start, append=n) for start, n in zip(starts, values.shape, strict=False)
    )
    count = np.outer(rows, columns).reshape(*total.shape[:2], *(1,) * (values.ndim - 2))
    return np.asarray(total / count, values.dtype if values.dtype == np.uint8 else np.float32)


# --------------------------------------------------------------------------------------------
# A picture of a result: image, masks outlined, attention maps; and outlines as lines.


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
    panels[1].set_title(f"{counted(len(np.unique(labels[labels > 0])), 'cell')} outlined")
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


NAMES = {8: "1/8", 4: "1/4", 2: "1/2", 1: "full"}
#: Scale i of the encoder has this stride.
SCALE_OF = {8: 4, 4: 3, 2: 2, 1: 1}
#: Of outlines on dark and on bright images.
ON_DARK, ON_BRIGHT = "#F0E442", "#000000"
PER_OBJECT = "cividis"

#: Inches: a figure as wide as a journal's page, its panels, and the room between them.
WIDTH, PANEL, BESIDE, ABOVE, LABEL, HEAD = 7.25, 1.1, 0.28, 0.2, 0.16, 0.5
#: Of narrower images (px) a scale bar would be shorter than a pixel.
FEW = 4
#: Height of panels by their width, at least and at most; images beyond are stretched.
LOWEST, HIGHEST = 0.4, 2.5
#: More pieces than this are a picture in the SVG, which programs could hardly open else.
MAX_SEGMENTS = 8_000


def draw(shown: Shown) -> Figure:
    """The figure; rows of maps that a model has none of are left out."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    title = f"{shown.name}: {counted(len(shown.objects), 'object')}"
    if shown.window is not None:
        shown = part_of(shown, shown.window)
        title += ", of which a part is shown"
    if not shown.ran:
        title += " (one value everywhere: the network was not run)"
    shown = coarser(shown)
    rows = [row for row in _ROWS if row.wanted(shown)]
    size_y, size_x = shown.labels.shape
    shape = size_y / max(1, size_x)
    tall = PANEL * float(np.clip(shape, LOWEST, HIGHEST))
    if not LOWEST <= shape <= HIGHEST:
        title += f", {'height' if shape < LOWEST else 'width'} stretched"
    height = HEAD + len(rows) * (tall + ABOVE) + 0.06
    # titley: else a third of the time goes into placing titles.
    with rc_context(
        {"font.size": 6, "axes.linewidth": 0.4, "axes.titlepad": 2.5, "axes.titley": 1.0}
    ):
        figure = Figure(figsize=(WIDTH, height))
        # By hand rather than by pyplot, which would keep figures and choose a window system.
        FigureCanvasAgg(figure)
        figure.text(0.06 / WIDTH, 1 - 0.12 / height, title, fontsize=8, va="center")
        top = HEAD
        for row in rows:
            left = 0.06
            for k, drawing in enumerate(row.panels()):
                low = height - top - tall
                axes = figure.add_axes(
                    (left / WIDTH, low / height, PANEL / WIDTH, tall / height)
                )
                axes.set_xticks([])
                axes.set_yticks([])
                drawing(axes, shown)
                if not LOWEST <= shape <= HIGHEST:
                    axes.set_aspect("auto")
                axes.set_xlim(-0.5, size_x - 0.5)
                axes.set_ylim(size_y - 0.5, -0.5)
                if k == 1:
                    axes.set_ylabel(row.title, fontweight="bold", fontsize=7, labelpad=2)
                if k and row is rows[0]:
                    x = (left + PANEL / 2) / WIDTH
                    head = "full size" if k == 4 else f"stage {NAMES[STRIDES[k - 1]]}"
                    figure.text(
                        x, 1 - 0.27 / height, head, ha="center", va="center", fontsize=8,
                        fontweight="bold",
                    )  # fmt: skip
                if not k and row is rows[0]:
                    _add_scale_bar(axes, (size_y, size_x), shown.pixel_size_um, shown.step)
                left += PANEL + BESIDE + (0 if k else LABEL)
            top += tall + ABOVE
        keys = [
            Patch(color=ADDED, label="added since the stage before"),
            Patch(color=REMOVED, label="removed"),
        ]
        figure.legend(
            handles=keys if shown.ran else [],
            loc="upper right",
            bbox_to_anchor=(1, 1 - 0.02 / height),
            ncols=2,
            frameon=False,
            handlelength=1,
            columnspacing=1,
        )
    return figure


# --- rows and panels ---------------------------------------------------------------------

Drawing = Callable[["Axes", Shown], None]


@dataclass(frozen=True)
class _Row:
    """A row: what stands on the left, then one panel for each resolution."""

    title: str
    left: Drawing
    of_stride: Callable[[int], Drawing]
    wanted: Callable[[Shown], bool]

    def panels(self) -> list[Drawing]:
        return [self.left, *(self.of_stride(stride) for stride in STRIDES)]


def _image(axes: Axes, shown: Shown) -> None:
    _show_image(axes, shown)
    _outline(axes, shown.labels, _line_colour(shown), 0.5)
    axes.set_title("image and result")


def _stage(stride: int) -> Drawing:
    def drawing(axes: Axes, shown: Shown) -> None:
        from matplotlib.colors import to_rgba

        if not shown.ran:
            _missing(axes, "network not run")
            return
        if stride not in shown.stages:
            _missing(axes, "no such stage")
            return
        _show_image(axes, shown)
        labels = np.asarray(shown.stages[stride])
        before = [s for s in STRIDES if s > stride and s in shown.stages]
        if before:
            change = stage_change(shown.stages[before[-1]], labels)
            over = np.zeros((*change.shape, 4))
            over[change > 0], over[change < 0] = to_rgba(ADDED), to_rgba(REMOVED)
            axes.imshow(over, interpolation="nearest")
        _outline(axes, labels, _line_colour(shown), 0.3)
        axes.set_title("mask = result" if stride == 1 else f"mask at {NAMES[stride]}")

    return drawing


def _gate(name: str, words: str) -> Callable[[int], Drawing]:
    """Maps of the encoder's scales, by the stride of each."""
    return lambda stride: _map(f"{name}_gate_{SCALE_OF[stride]}", f"{words} {SCALE_OF[stride]}")


def _per_object(column: str, title: str) -> Drawing:
    def drawing(axes: Axes, shown: Shown) -> None:
        table = shown.objects.sort_values("label")
        labels = np.asarray(shown.labels)
        values = np.append(table[column].to_numpy(float), np.nan)
        at = np.searchsorted(table["label"].to_numpy(), labels)
        values = np.where(labels > 0, values[at], np.nan)
        _show_image(axes, shown)
        if np.isfinite(values).any():
            high = 1.0 if column == "contested" else max(float(np.nanmax(values)), 1e-6)
            drawn = axes.imshow(
                values, cmap=PER_OBJECT, vmin=0, vmax=high, interpolation="nearest"
            )
            _colour_bar(axes, drawn)
        axes.set_title(title)

    return drawing


def _map(name: str, words: str) -> Drawing:
    colours = palette(name, bright=True)
    signed = not isinstance(colours, str)

    def drawing(axes: Axes, shown: Shown) -> None:
        if name not in shown.maps or 0 in shown.maps[name].values.shape:
            _missing(axes, f"no {words}")
            return
        from matplotlib.colors import LinearSegmentedColormap

        one = shown.maps[name]
        height, width = one.values.shape
        (sy, sx), (ty, tx) = one.scale, one.translate
        drawn = axes.imshow(
            np.asarray(one.values),
            cmap=colours
            if isinstance(colours, str)
            else LinearSegmentedColormap.from_list("signed", colours),
            vmin=one.low,
            vmax=one.high,
            interpolation="nearest",
            extent=(
                tx - sx / 2,
                tx + sx * (width - 0.5),
                ty + sy * (height - 0.5),
                ty - sy / 2,
            ),
        )
        _outline(axes, shown.labels, "#000000" if signed else "#FFFFFF", 0.25)
        axes.set_title(words)
        _colour_bar(axes, drawn)

    return drawing


def _has(prefix: str) -> Callable[[Shown], bool]:
    return lambda shown: any(name.startswith(prefix) for name in shown.maps)


_ROWS = (
    _Row("boundary", _image, _stage, lambda shown: True),
    _Row(
        "detail",
        _per_object("refinement_px", "boundary moved (px)"),
        lambda stride: _map(f"aua_{stride}", f"detail {NAMES[stride]}"),
        _has("aua_"),
    ),
    _Row(
        "scales",
        _map("global_query", "overall"),
        _gate("scale", "scale"),
        _has("scale_gate_"),
    ),
    _Row(
        "nearby",
        _per_object("contested", "boundary contested"),
        _gate("local", "nearby"),
        _has("local_gate_"),
    ),
)


# --- parts of panels ---------------------------------------------------------------------


def _show_image(axes: Axes, shown: Shown) -> None:
    image = np.asarray(shown.image)
    if image.dtype == np.uint8 and image.ndim == 3:
        axes.imshow(image)
        return
    finite = image[np.isfinite(image)]
    low, high = np.percentile(finite, (0.5, 99.8)) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(image.astype(np.float32), nan=low) - low) / max(high - low, 1e-9)
    axes.imshow(scaled.clip(0, 1), cmap="gray", vmin=0, vmax=1)


def _line_colour(shown: Shown) -> str:
    """For outlines: bright where objects are brighter than what is around them."""
    image = np.nan_to_num(np.asarray(shown.image, np.float32))
    gray = image if image.ndim == 2 else image[..., :3].mean(axis=2)
    inside = np.asarray(shown.labels) > 0
    if not inside.any() or inside.all():
        return ON_DARK
    return ON_DARK if gray[inside].mean() > gray[~inside].mean() else ON_BRIGHT


def _outline(axes: Axes, labels: Labels, colour: str, width: float) -> None:
    """Draw the borders between pixels of different labels."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    ends = outline_segments(labels)
    if not len(ends):
        return
    # One path for all: a line each makes an SVG ten times as large.
    codes = np.tile(np.array([Path.MOVETO, Path.LINETO], Path.code_type), len(ends))
    # Not add_patch: it measures every piece in Python, which took most of the figure's time.
    axes.add_artist(
        PathPatch(
            Path(ends.reshape(-1, 2), codes),
            fill=False,
            edgecolor=colour,
            linewidth=width,
            capstyle="projecting",
            rasterized=len(ends) > MAX_SEGMENTS,
        )
    )


def _colour_bar(axes: Axes, drawn: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    room = axes.inset_axes((1.03, 0, 0.05, 1))
    axes.figure.colorbar(drawn, cax=room, ticks=MaxNLocator(3, steps=[1, 2, 5, 10]))
    room.tick_params(labelsize=5, length=1.5, width=0.4, pad=1)


def _missing(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="gray")


def _add_scale_bar(
    axes: Axes, shape: tuple[int, int], pixel_size_um: float | None, step: int = 1
) -> None:
    """A bar of a round length, up to a quarter of the panel; none beside a few pixels."""
    height, width = shape
    if width * step < FEW:
        return
    unit = step * (pixel_size_um or 1.0)
    length = round_length(width / 4 * unit)
    text = f"{length:g} {'µm' if pixel_size_um else 'px'}"
    size = length / unit
    right, level = 0.95 * width - 0.5, 0.95 * height - 0.5
    # White on black: seen on any image.
    for line_width, colour in ((2.6, "black"), (1.6, "white")):
        axes.plot(
            [right - size, right],
            [level, level],
            color=colour,
            lw=line_width,
            solid_capstyle="butt",
            zorder=5,
        )
    axes.annotate(
        text,
        (right - size / 2, level),
        (0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color="white",
        zorder=5,
        bbox={"facecolor": "black", "alpha": 0.6, "pad": 0.8, "linewidth": 0},
        fontsize=5.5,
    )


def round_length(longest: float) -> float:
    """The largest of 1, 2, 5, 10, 20, 50 … (or 0.5, 0.2 …) that is not longer."""
    power = 10.0 ** np.floor(np.log10(max(longest, 1e-9)))
    return float(max(step * power for step in (1, 2, 5) if step * power <= longest * 1.000001))
