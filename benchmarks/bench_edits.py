"""Milliseconds per correction on 4096×4096 pixels with 5,000 objects, on one core.

A correction is all that happens between the click and labels that are right: finding the
objects, the step, its pixels and the index, the reviewed mask, the queue, and the step's
bytes for the journal; and the measurements, of which only those of changed cells are taken
anew. Undo and redo are timed the same way. Every single one is to stay below the limit.
Times are of the processor, as others may use the machine; the clock's are shown beside.

The first correction of a larger plane is measured with its journal, which copies all labels
meanwhile: the time is that of the calling thread, which is the window's.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from benchmarks.tables import show
from numpy.typing import NDArray
from scipy import ndimage

from napari_sa2net import edits
from napari_sa2net.app.edit_session import EditSession, labels_before
from napari_sa2net.app.measured import MeasuredCells, Place, TooMuch
from napari_sa2net.app.session import ImageSource
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.journal import Journal, JournalImage
from napari_sa2net.edits import Corrections, History, ReviewedMask, ReviewQueue, Step
from napari_sa2net.errors import EditError
from napari_sa2net.measure import object_table

SIDE, TILES, PER_TILE = 4096, 4, 313
#: Of the plane for the first correction.
LARGE = 8192
#: Milliseconds allowed for every single correction, undo and redo.
LIMIT = 100
REPEATS = 15
WAYS = ("do", "undo", "redo")


class Bench:
    """Labels under correction with everything that follows a step."""

    def __init__(self) -> None:
        self.labels = plane()
        smooth = ndimage.uniform_filter((self.labels > 0).astype(np.float32), 5)
        self.foreground: NDArray[np.float32] = smooth
        self.opening: dict[str, float] = {}
        start = time.process_time()
        self.corrections = Corrections(self.labels)
        self.index = self.corrections.plane()
        self.opening["scan of the plane"] = since(start)
        self.history = History(self.corrections)
        self.reviewed = ReviewedMask(self.corrections)
        self.reviewed.plane()
        start = time.process_time()
        self.queue = ReviewQueue(self.corrections, foreground=self.foreground).score_all()
        self.opening["doubt of all objects (in slices)"] = since(start)
        self.random = np.random.default_rng(0)
        place = Place(ImageSource("plane", "plane", smooth, "YX"), (0, 0))
        self.measured = MeasuredCells(self.labels, place)
        start = time.process_time()
        table = object_table(self.labels, image=smooth, boxes=True)
        self.opening["measurement of all objects (in the engine)"] = since(start)
        start = time.process_time()
        self.measured.adopt({str(name): table[name].to_numpy() for name in table})
        self.opening["copy of the labels"] = since(start)
        self.measuring: list[float] = []
        self.middle: dict[int, tuple[float, float]] = {}

    def measure(self, step: Step) -> None:
        """Bring the table up to date with a step, and the frame that napari shows."""
        start = time.process_time()
        parts = [
            (slice(y0, y1), slice(x0, x1))
            for patch in step.patches
            for y0, y1, x0, x1 in patch.boxes()
        ]
        try:
            self.measured.follow(parts)
            pd.DataFrame(self.measured.columns)
            self.measured.summary()
        except TooMuch:  # the engine measures all
            table = object_table(self.labels, image=self.foreground, boxes=True)
            self.measured.adopt({str(name): table[name].to_numpy() for name in table})
            return
        self.measuring.append(since(start))

    def followed(self, step: Step) -> None:
        """What a window does after each step."""
        self.reviewed.update(step)
        self.queue.update(step)
        self.queue.score_some()
        self.queue.next()
        step.to_bytes()
        self.measure(step)

    def some_label(self) -> int:
        """An object that is not tiny."""
        labels = self.index.labels[self.index.areas > 100]
        return int(self.random.choice(labels))

    def across(self) -> list[tuple[float, float]]:
        """A line through the middle of an object."""
        label = self.some_label()
        y, x = self.index.centre(label)
        y0, y1, _, _ = self.index.box(label)
        return [(y0 - 3, x), (y, x + 0.5), (y1 + 2, x)]

    def between(self) -> list[tuple[float, float]]:
        """A stroke from one object into its nearest neighbour."""
        labels, centres = self.index.labels, self.index.centres
        at = int(self.random.integers(labels.size))
        away = np.hypot(*(centres - centres[at]).T)
        away[at] = np.inf
        return [tuple(centres[at]), tuple(centres[int(away.argmin())])]

    def around(self, radius: float) -> NDArray[np.float64]:
        """A round outline somewhere in the plane."""
        y, x = self.random.uniform(400, SIDE - 400, 2)
        angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
        return np.stack([y + radius * np.sin(angle), x + radius * np.cos(angle)], axis=1)

    def in_box(self, side: int) -> tuple[tuple[int, int, int, int], NDArray[np.int32]]:
        """A box and new labels for it."""
        y, x = (int(v) for v in self.random.integers(0, SIDE - side, 2))
        moved = self.labels[y : y + side, x : x + side] > 0
        new = ndimage.label(ndimage.binary_erosion(moved))[0].astype(np.int32)
        return (y, y + side, x, x + side), new

    def far_from(self, label: int) -> NDArray[np.float64]:
        """A place in another corner of the plane."""
        y, x = self.index.centre(label)
        return np.array(
            [SIDE - 700 if y < SIDE / 2 else 700, SIDE - 700 if x < SIDE / 2 else 700]
        )

    def scatter(self) -> int:
        """A cell that gets a second part far away."""
        label = self.some_label()
        self.middle[label] = self.index.centre(label)
        atoms = self.painted(label, self.far_from(label))
        self.followed(self.history.record(edits.stroke(self.corrections, atoms)))
        return label

    def painted(
        self, label: int, start: NDArray[np.float64] | None = None
    ) -> list[tuple[tuple[NDArray[np.int64], ...], NDArray[np.int32], int]]:
        """A long stroke of a brush of 20 px, painted as napari does; unsaid, anywhere."""
        if start is None:
            start = self.random.uniform(600, SIDE - 600, 2)
        points = np.linspace(start, start + self.random.uniform(-425, 425, 2), 100)
        disk = np.argwhere(np.hypot(*np.indices((21, 21)) - 10) <= 10) - 10
        atoms = []
        for point in points:
            rows, cols = np.clip(disk + point.astype(int), 0, SIDE - 1).T
            atoms.append(((rows, cols), self.labels[rows, cols], label))
            self.labels[rows, cols] = label
        return atoms

    def kinds(self) -> Iterator[tuple[str, Callable[[], Callable[[], Step]]]]:
        """Each kind of correction: what prepares it, and what is timed."""
        c, h = self.corrections, self.history

        def one(make: Callable[..., Step], *rest: object) -> Callable[[], Callable[[], Step]]:
            def prepare() -> Callable[[], Step]:
                label = self.some_label()
                return lambda: h.do(make(c, [label], *rest))

            return prepare

        def over(make: Callable[..., Step], where: Callable[[], object], **more: object):
            def prepare() -> Callable[[], Step]:
                place = where()
                return lambda: h.do(make(c, place, **more))

            return prepare

        def view(side: int) -> tuple[int, int, int, int]:
            y, x = (int(v) for v in self.random.integers(0, SIDE - side, 2))
            return y, y + side, x, x + side

        yield "split along a line", over(edits.split, self.across)
        yield "merge by a stroke", over(edits.merge, self.between)
        yield "delete one", one(edits.delete)
        yield "smooth", one(edits.smooth)
        yield "fit to the edge", one(edits.fit_to_edge, self.foreground * 0.8)
        yield "redraw by a polygon", over(edits.redraw, lambda: self.around(25))
        yield "accept", one(edits.accept)
        yield "accept a view of 1024×1024", over(edits.accept_in_view, lambda: view(1024))

        def region() -> Callable[[], Step]:
            outline = self.around(200)
            return lambda: h.do(edits.mark_region(c, "reviewed", polygon=outline))

        yield "mark a region of 400 px", region

        def replace(side: int) -> Callable[[], Callable[[], Step]]:
            def prepare() -> Callable[[], Step]:
                box, new = self.in_box(side)
                return lambda: h.do(edits.replace_box(c, box, new))

            return prepare

        yield "segment a box of 256 again", replace(256)
        yield "segment a box of 512 again", replace(512)

        def stroke(far: bool) -> Callable[[], Callable[[], Step]]:
            def prepare() -> Callable[[], Step]:
                label = self.some_label()
                atoms = self.painted(label, self.far_from(label) if far else None)
                return lambda: h.record(edits.stroke(c, atoms))

            return prepare

        yield "brush, up to 600 px long", stroke(far=False)
        yield "brush far from its cell", stroke(far=True)

        def scattered(make: Callable[..., Step], *rest: object) -> Callable[[], Any]:
            """Of a cell with a second part far away."""

            def prepare() -> Callable[[], Step]:
                label = self.scatter()
                return lambda: h.do(make(c, [label], *rest))

            return prepare

        yield "delete one in two far parts", scattered(edits.delete)
        yield "smooth one in two far parts", scattered(edits.smooth)
        yield "fit one in two far parts", scattered(edits.fit_to_edge, self.foreground * 0.8)

        def cut() -> Callable[[], Step]:
            label = self.scatter()
            y, x = self.middle[label]
            return lambda: h.do(edits.split(c, [(y - 40, x), (y + 40, x)], labels=[label]))

        yield "split one in two far parts", cut

        def apart() -> Callable[[], Step]:
            label, other = self.some_label(), self.some_label()
            return lambda: h.do(edits.merge(c, labels=[label, other]))

        yield "merge two anywhere", apart

        def holed() -> Callable[[], Step]:
            label = self.some_label()
            y, x = (int(v) for v in self.index.centre(label))
            hole = (np.array([y]), np.array([x]))
            old = self.labels[hole].copy()
            self.labels[hole] = 0
            if old[0] == label:
                h.record(edits.stroke(c, [(hole, old, 0)]))
            else:
                self.labels[hole] = old
                return holed()
            return lambda: h.do(edits.fill_holes(c, [label]))

        yield "fill holes", holed
        yield "lasso of 300 px around ~20", over(lasso, lambda: self.around(150))


def lasso(corrections: Corrections, outline: NDArray[np.float64]) -> Step:
    """Delete what lies in an outline."""
    return edits.delete(corrections, lasso=outline)


def plane() -> NDArray[np.int32]:
    """Labels of 5,000 nuclei on 4096×4096 pixels."""
    side = SIDE // TILES
    tile = synthetic_nuclei(shape=(side, side), n=PER_TILE, diameter=34)[1].astype(np.int32)
    n = int(tile.max())
    labels = np.zeros((SIDE, SIDE), np.int32)
    for k in range(TILES * TILES):
        y, x = (k // TILES) * side, (k % TILES) * side
        labels[y : y + side, x : x + side] = np.where(tile > 0, tile + k * n, 0)
    return labels


def since(start: float) -> float:
    """Milliseconds of the processor since a start."""
    return (time.process_time() - start) * 1000


def first_of_large(small: NDArray[np.int32]) -> tuple[dict[str, object], float]:
    """The first correction of a session: its row, and seconds until the journal has it."""
    n = LARGE // SIDE
    labels = np.tile(small, (n, n))
    for k in range(n * n):
        part = labels[k // n * SIDE : (k // n + 1) * SIDE, k % n * SIDE : (k % n + 1) * SIDE]
        part[part > 0] += k * int(small.max())
    before, times, clock, until = labels.copy(), dict.fromkeys(WAYS, 0.0), 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        image = JournalImage("plane", shape=labels.shape)
        session = EditSession(
            labels, lambda arrays: Journal.create(image, arrays, None, Path(folder), copy=False)
        )
        index = session.corrections.plane()
        session.mask.plane()
        label = int(index.labels[index.areas > 100][0])
        step = edits.delete(session.corrections, [label])
        acts = (lambda: session.do(step), session.undo, session.redo)
        first = time.perf_counter()
        for way, act in zip(WAYS, acts, strict=True):
            start, began = time.thread_time(), time.perf_counter()
            act()
            times[way] = (time.thread_time() - start) * 1000
            clock = max(clock, (time.perf_counter() - began) * 1000)
        assert session.journal is not None
        session.journal.wait()
        until = time.perf_counter() - first
        if not np.array_equal(labels_before(session.journal.read()), before):
            raise AssertionError("the journal has other labels than before the first step")
        session.journal.discard()
    slowest = max(times.values())
    row: dict[str, object] = {
        "correction": f"the first on {LARGE}×{LARGE}, journalled",
        **{f"{way} (ms)": f"{t:.1f}" for way, t in times.items()},
        "slowest (ms)": f"{slowest:.1f}",
        "by the clock (ms)": f"{clock:.1f}",
        "limit (ms)": LIMIT,
        "kept": "yes" if slowest <= LIMIT else "no",
    }
    return row, until


def run(bench: Bench) -> list[dict[str, object]]:
    """Measure; one row per kind of correction."""
    rows: list[dict[str, object]] = []
    for name, prepare in bench.kinds():
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        clock = 0.0
        while len(times["do"]) < REPEATS:
            correct = prepare()
            for way, move in zip(
                WAYS, (correct, bench.history.undo, bench.history.redo), strict=True
            ):
                start, began = time.process_time(), time.perf_counter()
                try:
                    step = move()
                except EditError:  # nothing to smooth, a line that misses, ...
                    if way == "do":
                        break
                    raise
                bench.followed(step)
                times[way].append(since(start))
                clock = max(clock, (time.perf_counter() - began) * 1000)
        slowest = max(max(t) for t in times.values())
        rows.append(
            {
                "correction": name,
                **{f"{way} (ms)": f"{statistics.median(t):.1f}" for way, t in times.items()},
                "slowest (ms)": f"{slowest:.1f}",
                "by the clock (ms)": f"{clock:.1f}",
                "limit (ms)": LIMIT,
                "kept": "yes" if slowest <= LIMIT else "no",
            }
        )
    return rows


def main() -> int:
    """Print the table; 1 where any single correction takes longer than the limit, else 0."""
    large, until = first_of_large(plane())
    bench = Bench()
    print(f"{len(bench.index)} objects on {SIDE}×{SIDE} pixels")
    rows = [*run(bench), large]
    show(rows)
    print(f"the first step on {LARGE}×{LARGE} pixels was on disk after {until:.1f} s")
    print(
        f"measuring after a step: {statistics.median(bench.measuring):.1f} ms, "
        f"at most {max(bench.measuring):.1f} ms; {bench.measured.n_measured} cells in "
        f"{len(bench.measuring)} steps"
    )
    for what, took in bench.opening.items():
        print(f"once, on opening: {what} {took:.0f} ms")
    return 0 if all(row["kept"] == "yes" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
