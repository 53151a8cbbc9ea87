"""An image in blocks, made by processes on one or many machines, and joined again.

A block is a rectangle of the tiles of a plane; its probabilities go to a file. Whoever makes
the last block that a part to be labelled looks at labels it. What the tiles are, the size of
the cells and the levels are decided once, by the first process, and read by the others; so the
joined result is that of one process, whatever the blocks are and whoever made them.

::

    OUT/extra/blocks/NAME/decided.json          what all have to agree about
    OUT/extra/blocks/NAME/block-0007.npy        probabilities (classes, h, w)
    OUT/extra/blocks/NAME/part-0003.npy         labels of the part alone
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.levels import Levels, spread_indices
from napari_sa2net.data.results import Job, ResultFolder, fingerprint
from napari_sa2net.errors import OutOfMemoryError, OutputError, SettingsError
from napari_sa2net.files import write_atomically, write_once
from napari_sa2net.inference.batch import BatchSettings, News, channels_of, segment_image
from napari_sa2net.inference.devices import is_out_of_memory
from napari_sa2net.inference.diameter import adapted_to_image
from napari_sa2net.inference.planes import (
    MEASURING,
    SEPARATING,
    label_part,
    label_stack,
    parts_of,
)
from napari_sa2net.inference.predict import HALO, Predictor, Wanted, is_wanted
from napari_sa2net.inference.segment import (
    Prediction,
    Segmentation,
    Tissue,
    fill_background,
    find_tissue,
    look_first,
    plan_for,
    tissue_step,
)
from napari_sa2net.inference.tiling import N_PLANES, ScaledPlane, Tile, plan_tiles
from napari_sa2net.provenance import versions

if TYPE_CHECKING:
    from napari_sa2net.config import PredictConfig
    from napari_sa2net.data import ImageFile, ImagePlan
    from napari_sa2net.models import Model

#: Side of a block (px of the image) where nobody says it.
BLOCK = 4096
#: Of these a mosaic keeps so many open.
_OPEN = 64


# --------------------------------------------------------------------------------------------
# The blocks of one image.


@dataclass(frozen=True)
class Block:
    """A rectangle of tiles of one plane.

    Attributes
    ----------
    index : tuple of int
        The plane.
    box : (y0, y1, x0, x1)
        Of the image, without overlap.
    tiles : tuple of Tile
    """

    index: tuple[int, ...]
    box: tuple[int, int, int, int]
    tiles: tuple[Tile, ...]


def cut(plane: ScaledPlane, tile: int, side: int) -> list[Block]:
    """Blocks of a plane: rectangles of its tiles, about as large as a side (px)."""
    rows: dict[tuple[int, int], dict[tuple[int, int], Tile]] = {}
    for one in plan_tiles(*plane.shape, tile, HALO):
        core = one.core
        rows.setdefault((core.y0, core.y1), {})[core.x0, core.x1] = one
    columns = list(next(iter(rows.values())))
    found = []
    for down in _runs(list(rows), side * plane.rows.scale):
        for across in _runs(columns, side * plane.columns.scale):
            box = plane.image_window(down[0][0], down[-1][1], across[0][0], across[-1][1])
            tiles = tuple(rows[y][x] for y in down for x in across)
            found.append(Block((), box, tiles))
    return found


def _runs(cores: list[tuple[int, int]], length: float) -> Iterator[list[tuple[int, int]]]:
    """Neighbouring cores, together about so long."""
    n = max(1, min(len(cores), round(cores[-1][1] / max(1.0, length))))
    for i in range(n):
        yield cores[len(cores) * i // n : len(cores) * (i + 1) // n]


class Mosaic:
    """Probabilities out of the files of blocks, by slices: stack axes + (classes, Y, X)."""

    dtype = np.dtype(np.float32)

    def __init__(
        self, shape: tuple[int, ...], blocks: Sequence[Block], files: Sequence[Path]
    ) -> None:
        self.shape = shape
        self._at: dict[tuple[int, ...], list[tuple[Block, Path]]] = {}
        for block, file in zip(blocks, files, strict=True):
            self._at.setdefault(block.index, []).append((block, file))
        self._opened = lru_cache(_OPEN)(partial(np.load, mmap_mode="r"))

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        given = key if isinstance(key, tuple) else (key,)
        n = len(self.shape) - 3
        index, parts = given[:n], (*given[n:], *[slice(None)] * 3)[:3]
        kinds, rows, columns = (
            slice(*part.indices(size))
            for part, size in zip(parts, self.shape[-3:], strict=True)
        )
        n_kinds = len(range(*kinds.indices(self.shape[-3])))
        shape = (n_kinds, rows.stop - rows.start, columns.stop - columns.start)
        out = np.zeros(shape, np.float32)
        if kinds.start == 0 and self.shape[-3] > 1:
            out[0] = 1  # glass is background
        for block, file in self._at[tuple(int(i) for i in index)]:
            y0, y1, x0, x1 = block.box
            top, bottom = max(y0, rows.start), min(y1, rows.stop)
            left, right = max(x0, columns.start), min(x1, columns.stop)
            if top < bottom and left < right:
                values = self._opened(file)
                if not values.size:  # glass
                    continue
                source = values[kinds, top - y0 : bottom - y0, left - x0 : right - x0]
                y, x = rows.start, columns.start
                out[:, top - y : bottom - y, left - x : right - x] = source
        return out


class _Corner:
    """An array to be written as if it were in its place in the whole plane."""

    def __init__(self, array: NDArray[np.float32], y: int, x: int) -> None:
        self.array, self._y, self._x = array, y, x

    def __setitem__(self, key: tuple[slice, slice, slice], values: NDArray[Any]) -> None:
        kinds, rows, columns = key
        y, x = self._y, self._x
        self.array[
            kinds, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x
        ] = values


class SharedImage:
    """An image in blocks, with what all processes have to agree about.

    Parameters
    ----------
    job : Job
    folder : ResultFolder
    image : ImageFile
        That is opened.
    model : Model
    settings : BatchSettings
    block : int, optional
        Side of a block (px of the image).
    anew : bool
        What other settings have left goes; otherwise that is an error.
    news : News, optional

    Attributes
    ----------
    blocks : list of Block
        None of an image without anything in it.

    Raises
    ------
    SettingsError
        Other settings, another image or another kind of device were used before.
    """

    def __init__(
        self,
        job: Job,
        folder: ResultFolder,
        image: ImageFile,
        model: Model,
        settings: BatchSettings,
        block: int | None = None,
        anew: bool = False,
        news: News | None = None,
    ) -> None:
        self.folder = place(folder, job)
        self.image = image
        self.name = job.name
        self._model, self._settings = model, settings
        self._predictor: Predictor | None = None
        self._pooled: dict[int, dict[str, Any]] = {}
        self._pooled_of: tuple[int, ...] | None = None
        self._side = block or BLOCK
        self.plan: ImagePlan = plan_for(
            model,
            image.array,
            settings.axes or image.axes,
            channels_of(image, settings),
            settings.normalize,
            settings.predict,
            measure=False,
        )
        path = self.folder / "decided.json"
        asked = {"of": _asked(job, model, settings), "block": self._side}
        if anew and path.exists() and read_json(path).get("asked") != asked:
            shutil.rmtree(self.folder, ignore_errors=True)
        if not path.exists():
            write_once(path, json.dumps({"asked": asked, **self._decide(news)}).encode())
        self.decided = read_json(path)
        if self.decided.get("asked") != asked:
            raise SettingsError(
                f"{job.path} was begun otherwise: {difference(self.decided['asked'], asked)}. "
                f"Give the same to all that share it, or delete {self.folder} to begin anew."
            )
        if self.decided.get("dab") == "removed":
            self.plan = self.plan.without_dab()
        levels = self.decided["levels"]
        if levels is not None:
            arrays: dict[str, Any] = {
                k: np.array(v) if isinstance(v, list) else v for k, v in levels.items()
            }
            self.plan.__dict__["measured"] = Levels(**arrays)
        self.blocks: list[Block] = []
        self.parts: list[tuple[tuple[int, ...], slice, slice]] = []
        #: Blocks that each part looks at.
        self._below: list[list[int]] = []
        if self.decided["empty"]:
            return
        plane = ScaledPlane(
            self.plan,
            (),
            self.decided["scale"],
            self.plan.model_input.resize_to,
            self.plan.model_input.antialias,
        )
        grid = cut(plane, self.decided["tile"], self._side)
        parts = list(parts_of(self.plan.spatial))
        for index in self.plan.indices():
            first = len(self.blocks)
            tissue = self._tissue(index)
            for rows, columns in parts:
                self._below.append([first + n for n in _touching(grid, rows, columns)])
            for one in grid:
                tiles = (tile for tile in one.tiles if is_wanted(tile, plane, tissue))
                self.blocks.append(Block(index, one.box, tuple(tiles)))
            self.parts += [(index, *part) for part in parts]
        self._above: list[list[int]] = [[] for _ in self.blocks]
        for part, below in enumerate(self._below):
            for number in below:
                self._above[number].append(part)

    # --- what is decided once ----------------------------------------------------------------

    def _decide(self, news: News | None) -> dict[str, Any]:
        plan = self.plan
        empty = plan.is_empty or plan.constant
        decided: dict[str, Any] = {
            "empty": empty,
            "levels": None,
            "dab": "kept",
            "diameter": None,
            "scale": 1.0,
        }
        if not empty:
            predictor = self._made()
            predictor, plan, decided["diameter"], decided["scale"] = look_first(
                predictor,
                plan,
                self._settings.instances,
                progress=news.step if news else None,
            )
            self._predictor = predictor
            # after the search, since that makes tiles smaller where memory is short
            used = {"used": predictor.used, "engine": predictor.engine}
            decided |= {"tile": predictor.tile, **used}
            decided["adapted"] = predictor.model.base is not None
        if plan.removes_dab:
            decided["dab"] = "removed"
        if not plan.is_empty:
            kept = asdict(plan.measured)
            decided["levels"] = {
                k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in kept.items()
            }
        return decided

    def _tissue(self, index: tuple[int, ...]) -> Wanted | None:
        """Where a plane has tissue, if nothing else is wanted."""
        if not self._settings.predict.tissue:
            return None
        path = self.folder / f"tissue-{'-'.join(map(str, index)) or 0}.npy"
        if not path.exists():
            found = find_tissue(self.plan, index)
            content = io.BytesIO()
            np.save(content, found.mask)
            write_once(path, content.getvalue())
        return Tissue(np.load(path), tissue_step(self.plan.spatial)).touches

    @property
    def _config(self) -> PredictConfig:
        """The settings, as it was decided."""
        config = self._settings.predict
        if config.adapt != "auto":
            return config
        adapt = "on" if self.decided.get("adapted") else "off"
        return config.model_copy(update={"adapt": adapt})

    def _made(self) -> Predictor:
        return Predictor(self._model, self._settings.predict, self.plan.model_input)

    @property
    def predictor(self) -> Predictor:
        """The model, ready to run as it was decided."""
        if self._predictor is None:
            self._predictor = self._made()
            if self.decided.get("adapted"):
                self._predictor.config = self._config
                planes = spread_indices(self.plan.stack_shape, N_PLANES)
                self._predictor = adapted_to_image(
                    self._predictor, self.plan, planes, self.decided["scale"]
                )
        device, precision = self._predictor.used
        if precision != (begun := self.decided["used"][1]):
            raise SettingsError(
                f"{self.name} was begun in {begun}, and {device} here computes "
                f"in {precision}, which gives other cells. Give all that share it the same "
                "kind of --device, or --precision float32."
            )
        self._predictor.tile = self.decided["tile"]
        return self._predictor

    # --- blocks ------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the probabilities of all planes."""
        return (*self.plan.stack_shape, self._model.net.n_classes, *self.plan.spatial)

    def file(self, number: int) -> Path:
        """Where the probabilities of a block go."""
        return self.folder / f"block-{number:04d}.npy"

    def done(self, number: int) -> bool:
        """Whether a block was made, and its file is whole."""
        block = self.blocks[number]
        y0, y1, x0, x1 = block.box
        if not block.tiles:
            return self.file(number).exists()
        return _whole(self.file(number), self.shape[-3] * (y1 - y0) * (x1 - x0))

    def missing(self) -> list[int]:
        """Numbers of the blocks that are still to be made."""
        return [number for number in range(len(self.blocks)) if not self.done(number)]

    def make(self, number: int) -> None:
        """Make a block that is not there, and label what it was the last one for.

        Raises
        ------
        OutOfMemoryError, OutputError, SettingsError
        """
        if not self.done(number):
            self._predict(number)
        for part in self._above[number]:
            if not self._labelled(part) and all(map(self.done, self._below[part])):
                self._label(part)

    def _predict(self, number: int) -> None:
        block, predictor = self.blocks[number], self.predictor
        plane = predictor.scaled(self.plan, block.index, self.decided["scale"])
        if self._pooled_of != block.index:
            self._pooled_of, self._pooled = block.index, {}
        y0, y1, x0, x1 = block.box
        # without a tile, of glass alone, it is nothing
        rows, columns = (y1 - y0, x1 - x0) if block.tiles else (0, 0)
        out = np.zeros((self.shape[-3], rows, columns), np.float32)
        fill_background(out)
        there = _Corner(out, y0, x0)
        try:
            with predictor.whole_plane(plane, self._pooled):
                for tile in block.tiles:
                    read, keep = tile.read, predictor.kept(plane, tile)
                    x = plane.read(read.y0, read.y1, read.x0, read.x1)
                    predictor.write(predictor.probabilities(x, keep), plane, tile, keep, there)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"Memory ran out with pieces of {predictor.tile} px, as the first process "
                f"chose them. Delete {self.folder}, and give all a smaller --tile."
            ) from error
        write_atomically(self.file(number), lambda file: np.save(file, out))

    # --- parts that are labelled -------------------------------------------------------------

    def _part_file(self, part: int) -> Path:
        return self.folder / f"part-{part:04d}.npy"

    def _labelled(self, part: int) -> bool:
        _, rows, columns = self.parts[part]
        size = (rows.stop - rows.start) * (columns.stop - columns.start)
        return _whole(self._part_file(part), size)

    def _label(self, part: int) -> None:
        index, rows, columns = self.parts[part]
        labels = label_part(
            self.probability()[(*index, slice(None), rows, columns)],
            self.plan,
            self._model.card.classes,
            self._settings.instances,
        )
        write_atomically(self._part_file(part), lambda file: np.save(file, labels))

    def probability(self) -> Mosaic:
        """Of the blocks that are there."""
        files = [self.file(number) for number in range(len(self.blocks))]
        return Mosaic(self.shape, self.blocks, files)

    # --- the whole ---------------------------------------------------------------------------

    def join(self, news: News) -> Segmentation:
        """The result, from all blocks.

        Raises
        ------
        OutputError
            If blocks are missing.
        """
        if not self.blocks:
            return segment_image(self.image, self._model, self._settings, news)
        if missing := self.missing():
            raise OutputError(
                f"{self.name}: {len(missing)} of {len(self.blocks)} blocks are missing "
                f"({_numbers(missing)}). Give the same command again for the shards that "
                "make them, and join then."
            )
        for index in self.plan.indices():
            # for the record, as of one that was read plane by plane
            self.plan.measured_of(index)
        todo = [part for part in range(len(self.parts)) if not self._labelled(part)]
        for done, part in enumerate(todo):
            news.step(done, len(todo), SEPARATING)
            self._label(part)
        numbers = {
            (index, rows.start, columns.start): number
            for number, (index, rows, columns) in enumerate(self.parts)
        }

        def labelled(index: tuple[int, ...], rows: slice, columns: slice) -> NDArray[np.int32]:
            return np.load(self._part_file(numbers[index, rows.start, columns.start]))

        settings, probability = self._settings, self.probability()
        news.step(0, 0, SEPARATING)
        labels = label_stack(
            self.plan,
            probability,
            self._model.card.classes,
            settings.instances,
            progress=news.step,
            labelled=labelled,
        )
        news.step(0, 0, MEASURING)
        device, precision = self.decided["used"]
        made = Prediction(
            self.plan,
            probability,
            self._model,
            self._config,
            self.decided["diameter"],
            self.decided["scale"],
            sum(len(block.tiles) for block in self.blocks),
            device=device,
            precision=precision,
            pixel_size_um=self.image.pixel_sides_um,
            z_step_um=self.image.scale_um.get("Z"),
            engine=self.decided["engine"],
        )
        return Segmentation(
            labels,
            probability,
            made.table(labels, groups=settings.measure or "none"),
            made.diameter,
            made.record(settings.instances),
            self.plan,
            made.n_tiles,
        )


def _touching(blocks: Sequence[Block], rows: slice, columns: slice) -> list[int]:
    """Which blocks rows and columns of their plane look at."""
    return [
        number
        for number, block in enumerate(blocks)
        if block.box[0] < rows.stop
        and rows.start < block.box[1]
        and block.box[2] < columns.stop
        and columns.start < block.box[3]
    ]


def place(folder: ResultFolder, job: Job) -> Path:
    """Where the blocks of an image are."""
    return folder.folder / "extra" / "blocks" / job.name


def _whole(path: Path, n_values: int) -> bool:
    """Whether a file has so many values of four bytes."""
    try:
        return path.stat().st_size > 4 * n_values
    except OSError:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """What a file of agreements says; OutputError if it cannot be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path} cannot be read ({error}). Delete it to begin anew."
        ) from error
    return dict(found)


def _asked(job: Job, model: Model, settings: BatchSettings) -> dict[str, Any]:
    """All that a result depends on, as it is after a way through JSON."""
    asked = {
        "image": fingerprint(job.path),
        "model": model.sha256,
        "version": versions().get("napari-sa2net", ""),
        "settings": settings.describe(),
    }
    return dict(json.loads(json.dumps(asked)))


def difference(before: Any, now: Any, name: str = "") -> str:
    """What differs between two descriptions, in the words of the flags."""
    if isinstance(before, dict) and isinstance(now, dict):
        every = [
            difference(before.get(key), now.get(key), key)
            for key in dict.fromkeys([*before, *now])
            if before.get(key) != now.get(key)
        ]
        return ", ".join(every)
    return f"{name.replace('_', '-')} was {before} and is {now}"


def _numbers(numbers: Sequence[int], most: int = 8) -> str:
    listed = ", ".join(str(number + 1) for number in numbers[:most])
    return listed + (" …" if len(numbers) > most else "")
