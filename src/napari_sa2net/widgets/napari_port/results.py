"""Labels layers that we make: where they lie, and whose they are."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.utils.transforms import Affine

from napari_sa2net.app.session import ImageSource
from napari_sa2net.widgets.napari_port.reading import layer_axes, linear_part, unit_points

if TYPE_CHECKING:
    import pandas as pd
    from napari.layers import Image, Labels, Layer
    from napari.viewer import Viewer
    from numpy.typing import NDArray

    from napari_sa2net.app.segment import ResultState
    from napari_sa2net.edits import Patch
    from napari_sa2net.engine.messages import SegmentResult


METADATA_KEY = "napari-sa2net"


def place_labels(
    layer: Image, source: ImageSource, labels: NDArray[np.int32], offset: tuple[int, ...]
) -> tuple[NDArray[np.int32], dict[str, Any]]:
    """Array and transform arguments of a Labels layer that lies over its image.

    Parameters
    ----------
    layer : Image
        The layer that was segmented.
    source : ImageSource
        Its description at that time (axes, channels).
    labels : int32
        Labels in the image's axes without channels, of a window of the image.
    offset : tuple of int
        Index of the window's first element in the image without channels.

    Returns
    -------
    labels : int32
        With an axis of length 1 for channels that lie between stack axes and the plane:
        napari aligns axes from the last, so without it a time point would be read as a
        channel. Its one pixel is as long as all channels, so the labels are seen with each.
    arguments : dict
        scale, translate, rotate, shear, affine, units, axis_labels.
    """
    channel = _channel_axis(layer, source)
    if channel > 0:
        labels = np.expand_dims(labels, channel)
    return labels, place_grid(layer, source, offset)


def place_grid(
    layer: Image,
    source: ImageSource,
    offset: tuple[float, ...],
    step: tuple[float, float] = (1.0, 1.0),
) -> dict[str, Any]:
    """Transform arguments of a layer whose pixels lie on a grid of their own in an image.

    Parameters
    ----------
    layer, source
        As of `place_labels`.
    offset : tuple of float
        Centre of the grid's first pixel in the image without channels, in pixels; pixel
        centres are whole numbers.
    step : (float, float)
        Image pixels per grid pixel along Y and X.

    Returns
    -------
    dict
        scale, translate, rotate, shear, affine, units, axis_labels; for the image's axes, but
        for channels that come first.
    """
    channel = _channel_axis(layer, source)
    keep = list(range(layer.ndim))
    start = list(offset)
    steps = np.ones(layer.ndim)
    steps[-2:] = step
    if channel == 0:
        keep.remove(0)
        start.insert(0, 0)
    elif channel > 0:
        n = source.shape[channel]
        start.insert(channel, (n - 1) / 2)
        steps[channel] = n
    # the window's corner before the affine: world = affine(linear @ data + translate)
    corner = np.asarray(layer.affine.inverse(layer.data_to_world(start)))
    arguments: dict[str, Any] = {
        "translate": corner[keep],
        "affine": layer.affine.affine_matrix[np.ix_([*keep, -1], [*keep, -1])],
        "units": tuple(layer.units[i] for i in keep),
        "axis_labels": tuple(layer.axis_labels[i] for i in keep),
    }
    if len(keep) == layer.ndim:
        parts: Any = layer
    else:
        points = [layer.affine.inverse(layer.data_to_world(p)) for p in unit_points(layer.ndim)]
        linear = linear_part(np.array(points))[np.ix_(keep, keep)]
        parts = Affine(linear_matrix=linear, ndim=len(keep))
    shear = np.asarray(parts.shear)
    if not shear.any():
        # napari gives zeros of another length than it takes
        shear = np.zeros(len(keep) * (len(keep) - 1) // 2)
    # napari composes rotate @ shear @ scale, so a coarser grid is a larger scale
    scale = np.asarray(parts.scale) * steps[keep]
    arguments.update(scale=scale, rotate=parts.rotate, shear=shear)
    return arguments


def with_axes_before(arguments: dict[str, Any], ndim: int) -> dict[str, Any]:
    """The arguments of `place_grid` for labels with further axes before the others."""
    n = ndim - len(arguments["scale"])
    if not n:
        return arguments
    parts = ("scale", "rotate", "shear")
    linear, affine = np.eye(ndim), np.eye(ndim + 1)
    linear[n:, n:] = Affine(**{name: arguments[name] for name in parts}).linear_matrix
    affine[n:, n:] = arguments["affine"]
    whole = Affine(linear_matrix=linear, ndim=ndim)
    return {
        **{name: getattr(whole, name) for name in parts},
        "translate": [*np.zeros(n), *arguments["translate"]],
        "affine": affine,
        "units": ("pixel",) * n + arguments["units"],
        "axis_labels": tuple(f"-{ndim - i}" for i in range(n)) + arguments["axis_labels"],
    }


def set_transforms(layer: Layer, arguments: dict[str, Any]) -> None:
    """Move a layer where the arguments differ from what it has."""
    for name, value in arguments.items():
        old = getattr(layer, name)
        if name == "affine":
            old = old.affine_matrix
        if name in ("units", "axis_labels"):
            same = old == value
        else:
            same = np.shape(old) == np.shape(value) and np.allclose(old, value)
        same = same or (name == "shear" and not np.any(old) and not np.any(value))
        if not same:
            setattr(layer, name, value)


def _channel_axis(layer: Image, source: ImageSource) -> int:
    """Axis of the channels among those that the layer shows; -1 where there is none."""
    return (source.axes or layer_axes(layer))[: layer.ndim].find("C")


@dataclass(eq=False)
class Area:
    """A part of an image whose cells were added to those of other parts.

    Attributes
    ----------
    former
        Labels of the layer before, in its shape now, without axes that the image lacks.
    start
        First element of the part in them.
    offset
        Their first element in the image (stack axes, y, x).
    changes
        What the cells of the part changed in them, as they were laid over them last.
    """

    former: NDArray[np.int32]
    start: tuple[int, ...]
    offset: tuple[int, ...]
    changes: tuple[Patch, ...] = ()

    def with_cells(self, labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """The former cells with those of the part."""
        from napari_sa2net.edits import laid_over  # takes a while to load

        merged, self.changes = laid_over(self.former, self.start, labels)
        return merged


class ResultLayer:
    """A Labels layer of ours; replaced in place until a person edits it.

    Attributes
    ----------
    edited : bool
        A person, or someone's script, changed the labels.
    writing : bool
        We change them just now.
    result : SegmentResult
        What it shows; the port sets it.
    area : Area or None
        Where the result was added to cells of other parts of the image.
    """

    def __init__(
        self, viewer: Viewer, layer: Labels, image: Image, on_edit: Callable[[], None]
    ) -> None:
        self.viewer = viewer
        self.layer = layer
        self.image = image
        self.edited = False
        self.result: SegmentResult
        self.area: Area | None = None
        self._on_edit = on_edit
        self.writing = False
        self._written = labels_digest(layer)
        self._events = (layer.events.paint, layer.events.labels_update, layer.events.data)
        for event in self._events:
            event.connect(self._changed)

    @property
    def alive(self) -> bool:
        """The layer is there still."""
        return self.layer in self.viewer.layers

    def replace(
        self, labels: NDArray[np.int32], arguments: dict[str, Any] | None = None
    ) -> None:
        """Show other labels, and move the layer where `arguments` differ."""
        with self._quietly():
            self.layer.data = labels
            set_transforms(self.layer, arguments or {})
        self._written = labels_digest(self.layer)

    def look(self) -> bool:
        """Whether a person, or a script of which napari says nothing, changed the labels."""
        if not self.edited and self._written != labels_digest(self.layer):
            self.touch()
            # some write and leave what is seen as it was
            self.layer.refresh()
        return self.edited

    def set_metadata(self, provenance: dict[str, Any]) -> None:
        """Record model, settings and versions in ``layer.metadata``."""
        self.layer.metadata = {**self.layer.metadata, METADATA_KEY: provenance}

    def adopt(self, on_edit: Callable[[], None]) -> None:
        """Belong to another run from now on."""
        self._on_edit = on_edit

    def disconnect(self) -> None:
        """Leave the layer to the user, with no callback of ours on it."""
        for event in self._events:
            event.disconnect(self._changed)

    def touch(self) -> None:
        """A person has changed the labels, or said something of them."""
        self._changed()

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        self.writing = True
        try:
            yield
        finally:
            self.writing = False

    def _changed(self, event: Any = None) -> None:
        if self.writing or self.edited:
            return
        self.edited = True
        self._on_edit()


@contextmanager
def keep_selection(viewer: Viewer) -> Iterator[None]:
    """A new layer takes the selection in napari; give it back."""
    selection = viewer.layers.selection
    chosen, active = set(selection), selection.active
    try:
        yield
    finally:
        alive = {layer for layer in chosen if layer in viewer.layers}
        selection.active = active if active in viewer.layers else None
        selection.update(alive)


# --------------------------------------------------------------------------------------------
# The object table in a layer's features, so that everyone finds a cell's row.

#: What tells in ``layer.metadata`` which columns of the features are ours.
COLUMNS_KEY = "napari-sa2net columns"
LABEL = "label"
#: What napari calls the column that names labels; of the two a table needs one.
INDEX = "index"

#: Columns of others by label, also of cells that are gone: undoing brings them back.
_THEIRS: WeakKeyDictionary[Labels, pd.DataFrame] = WeakKeyDictionary()


def set_features(layer: Labels, table: Mapping[str, Any]) -> None:
    """Put the object table into a layer's features, one row for each of its labels.

    Columns of which nothing is known are left out. Columns that a person or a script has
    added stay, each value with its label.
    """
    import pandas as pd

    ours = {name: np.asarray(column) for name, column in table.items()}
    shown = {
        name: column
        for name, column in ours.items()
        if name == LABEL or not (name.startswith("box_") or _unknown(column))
    }
    new = pd.DataFrame(shown)
    former, before = layer.features, set(layer.metadata.get(COLUMNS_KEY, ()))
    theirs = [name for name in former.columns if name not in {*before, *ours, INDEX}]
    if theirs:
        rows = former[theirs].set_axis(labels_of(former), axis="index")
        if layer in _THEIRS:
            rows = pd.concat([rows, _THEIRS[layer].reindex(columns=theirs)])
        _THEIRS[layer] = rows = rows[~rows.index.duplicated()]
        new = pd.concat([new, rows.reindex(new[LABEL]).reset_index(drop=True)], axis=1)
    layer.metadata = {**layer.metadata, COLUMNS_KEY: sorted(shown)}
    layer.features = new
    link_rows(layer)


def labels_of(features: pd.DataFrame) -> Any:
    """Labels that the rows of a table are about, as napari counts them where none says."""
    for name in (LABEL, INDEX):
        if name in features.columns:
            return features[name].to_numpy()
    return np.arange(len(features))


def link_rows(layer: Labels) -> None:
    """Have napari find the row of a cell by its label, not by its position in the table.

    It looks for a column "index" only. Where its inside is not as expected, there is one.
    """
    features = layer.features
    if LABEL not in features.columns or INDEX in features.columns:
        return
    rows = {int(label): i for i, label in enumerate(features[LABEL].tolist())}
    if isinstance(getattr(layer, "_label_index", None), dict):
        layer._label_index = rows
    else:
        layer.features = features.rename(columns={LABEL: INDEX})


def _unknown(column: Any) -> bool:
    """A column without a value, as of sizes in µm where the pixel size is unknown."""
    return bool(column.size and column.dtype.kind == "f" and np.isnan(column).all())


# --------------------------------------------------------------------------------------------
# Order in which the cells of a table are gone through.

#: An object smaller than this share of the median area is a speck: it is all boundary, and so
#: mostly contested, but seldom what a person wants to look at first.
SPECK = 0.25


def ranked(table: pd.DataFrame, column: str) -> list[int]:
    """Labels of a table by a column, the highest first; specks after all others.

    Parameters
    ----------
    table : DataFrame
        With the columns label and `column`; without area_px nothing counts as a speck.
    column : str
        Rows without a value are left out.
    """
    known = table.dropna(subset=[column])
    speck = np.zeros(len(known), bool)
    if "area_px" in known:
        speck = (known["area_px"] < SPECK * known["area_px"].median()).to_numpy(bool)
    order = known.assign(speck=speck).sort_values(
        ["speck", column], ascending=[True, False], kind="stable"
    )
    return [int(label) for label in order["label"]]


# --------------------------------------------------------------------------------------------
# What a closed dock leaves of its layers, for the one that is opened next in this napari.


@dataclass(frozen=True, eq=False)
class LeftResult:
    """A result that a layer showed.

    Attributes
    ----------
    key
        Of the result.
    image
        Key of its image.
    number
        Results that came later have higher ones.
    result, area, edited
        As of `ResultLayer`.
    state
        Where it was the newest of its image; without the image's pixels.
    labels
        Digest of the labels when the dock was closed.
    """

    key: str
    image: str
    number: int
    result: SegmentResult
    area: Area | None
    edited: bool
    state: ResultState | None
    labels: int | None


@dataclass(frozen=True, eq=False)
class LeftTable:
    """A table that followed a layer's cells, and the digest of its labels then.

    It is empty where it was still to come.
    """

    columns: Mapping[str, Any]
    labels: int | None


#: Nothing in the values holds the layers.
LEFT_RESULTS: WeakKeyDictionary[Labels, LeftResult] = WeakKeyDictionary()
LEFT_TABLES: WeakKeyDictionary[Labels, LeftTable] = WeakKeyDictionary()
#: Axes and channels as a person chose them.
LEFT_CHOICES: WeakKeyDictionary[Image, tuple[str | None, tuple[int, ...] | None]] = (
    WeakKeyDictionary()
)


def labels_digest(layer: Labels) -> int | None:
    """Changes with any label of a layer; None where they do not lie in memory."""
    if not isinstance(layer.data, np.ndarray) or isinstance(layer.data, np.memmap):
        return None
    return zlib.crc32(np.ascontiguousarray(layer.data).data, layer.data.ndim)
