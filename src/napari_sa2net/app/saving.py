"""Save the cells of a layer as files of other programs, while a person works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_sa2net.app.link import Background, EngineLink
from napari_sa2net.app.measured import Place
from napari_sa2net.app.session import error_info
from napari_sa2net.data.formats import FORMATS, write_cells
from napari_sa2net.data.outlines import Cells
from napari_sa2net.measure import sizes_of

#: Labels with more bytes are not copied, but read while a person may go on.
COPIED = 2**26


class Placed:
    """Labels of a part in the frame of the whole image, read by slices; around them is 0.

    Cells that are left out are 0, too.
    """

    def __init__(
        self,
        labels: Any,
        corner: tuple[int, ...],
        shape: tuple[int, ...],
        extra: tuple[int, ...] = (),
        without: NDArray[np.integer] | None = None,
    ) -> None:
        self._labels, self._corner, self._extra = labels, corner, extra
        self._without = without
        self.shape = shape
        self.dtype = np.dtype(labels.dtype)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        given = index if isinstance(index, tuple) else (index,)
        parts = (*given, *[slice(None)] * (len(self.shape) - len(given)))
        inner = [n for i, n in enumerate(self._labels.shape) if i not in self._extra]
        sizes: list[int] = []
        into: list[slice] = []
        own: list[Any] = []
        drop: list[int] = []
        for axis, (part, first, n) in enumerate(zip(parts, self._corner, inner, strict=True)):
            if not isinstance(part, slice):
                place = range(self.shape[axis])[part]
                part = slice(place, place + 1)
                drop.append(axis)
            at = np.arange(*part.indices(self.shape[axis]))
            met = np.flatnonzero((at >= first) & (at < first + n))
            low, high = (int(met[0]), int(met[-1]) + 1) if met.size else (0, 0)
            step = part.step or 1
            begin = int(at[low]) - first if met.size else 0
            sizes.append(at.size)
            into.append(slice(low, high))
            own.append(slice(begin, begin + (high - low) * step, step))
        values = np.zeros(sizes, self.dtype)
        if all(one.stop > one.start for one in into):
            rest = iter(own)
            key = tuple(
                0 if i in self._extra else next(rest) for i in range(len(self._labels.shape))
            )
            part = np.asarray(self._labels[key])
            if self._without is not None:
                part = np.where(np.isin(part, self._without), 0, part)
            values[tuple(into)] = part
        return values.squeeze(tuple(drop)) if drop else values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[()] if dtype is None else self[()].astype(dtype)


def cells_in_image(
    labels: Any,
    place: Place,
    table: Mapping[str, Any],
    name: str,
    made: Mapping[str, Any],
    without: NDArray[np.integer] | None = None,
) -> Cells:
    """Cells of a layer, in the frame of the image that they lie on.

    Parameters
    ----------
    labels : array
        Of the layer. Small ones are copied, so that they may be edited meanwhile.
    place : Place
        How they lie on the image.
    table : mapping of str to array
        Their measurements; may be empty.
    name : str
        Where there is no image: of the layer.
    made : mapping
        Provenance.
    without : array of int, optional
        Labels of cells that are left out.
    """
    if without is not None and table:
        stay = ~np.isin(table["label"], without)
        table = {head: np.asarray(column)[stay] for head, column in table.items()}
    if labels.size * np.dtype(labels.dtype).itemsize <= COPIED:
        labels = np.array(labels)
    scale = {} if place.z_step_um is None else {"Z": place.z_step_um}
    if place.pixel_size_um is not None:
        scale["Y"], scale["X"] = sizes_of(place.pixel_size_um)
    axes = f"{place.stack_axes}YX"
    plan = place.plan()
    if plan is None or place.corner is None or place.image is None:
        whole = labels
        if place.extra or without is not None:
            rest = tuple(n for i, n in enumerate(labels.shape) if i not in place.extra)
            whole = Placed(labels, (0,) * len(rest), rest, place.extra, without)
        return Cells(whole, axes, scale, table, name, made=made)
    # the image's own axes, those of its planes last
    shape = tuple(plan.shape[plan.axes.index(axis)] for axis in axes)
    path = Path(place.image.path) if place.image.path else None
    return Cells(
        Placed(labels, place.corner, shape, place.extra, without),
        axes,
        scale,
        table,
        place.image.name,
        plan.image,
        plan.axes,
        path,
        made,
    )


class Saving:
    """Writes one file after the other on a thread, and tells what became of it.

    All methods belong to the link's thread.

    Attributes
    ----------
    busy : bool
        Something is being written.
    said, of : str
        What was written last, or is being, and the key of the layer that it was.
    changed
        These are others.
    """

    changed = Signal()

    def __init__(self, link: EngineLink) -> None:
        self._link = link
        self._background = Background(link, "saving")
        self._waiting = 0
        self._edited = False
        self.said = self.of = ""

    @property
    def busy(self) -> bool:
        """Something is being written."""
        return self._waiting > 0

    def save(self, path: Path, cells: Cells, format: str, what: str = "", of: str = "") -> None:
        """Write cells in one of `FORMATS`."""
        path = FORMATS[format].named(path)
        self.write(path, lambda: write_cells(path, cells, format), what, of)

    def write(self, path: Path, work: Callable[[], Any], what: str = "", of: str = "") -> None:
        """Run what writes a file; what it holds is told with its name, as in "12 cells"."""

        def done(_: Any) -> None:
            self._waiting -= 1
            self.said, self.of = f"Saved {path.name}{what and ': '}{what}", of
            if self._edited:
                self.said += "; cells were changed meanwhile: save them again"
            self._edited = self._edited and self.busy
            self.changed.emit()

        def failed(error: Exception) -> None:
            self._waiting -= 1
            self.said = ""
            self._link.fail(error_info(error))
            self.changed.emit()

        if self._background.closed:
            return
        self._edited = self._edited and self.busy
        self._waiting += 1
        self.said, self.of = f"Saving {path.name}…", of
        self._background.run(work, done, failed)
        self.changed.emit()

    def edited(self, labels: Any) -> None:
        """The cells were changed; of those that were copied it does not matter."""
        copied = labels.size * np.dtype(labels.dtype).itemsize <= COPIED
        self._edited = self._edited or (self.busy and not copied)

    def close(self) -> None:
        """Finish what is being written; nothing is told any more."""
        self._background.close(cancel=False)
