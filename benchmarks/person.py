"""A simulated person who corrects cells at the Correct page, with a price for each act.

The person sees what is wrong (by the truth), but changes pixels only as a hand can: with the
page's controllers, by clicks, lines and outlines. What it costs is the sum of the acts.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.measure import approximate_polygon, find_contours

from napari_sa2net import edits
from napari_sa2net.app.cells import CellSource
from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.learn import LearnController
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.segment import SegmentController
from napari_sa2net.app.session import ImageSource, Session
from napari_sa2net.config import FineTuneConfig, PredictConfig
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.arrays import prepare
from napari_sa2net.engine.server import failure
from napari_sa2net.engine.service import Handlers
from napari_sa2net.metrics import overlap_table

# --------------------------------------------------------------------------------------------
# What acts cost.

_KLM = "Card, Moran, Newell, Commun. ACM 23 (1980) 396: the Keystroke-Level Model"
_MHP = "Card, Moran, Newell, The Psychology of Human-Computer Interaction (1983)"
#: Seconds of the operators, and where they come from.
OPERATORS: dict[str, tuple[float, str]] = {
    "K": (0.28, f"press a key, average typist who is no secretary; {_KLM}"),
    "B": (0.10, f"press or let go a mouse button, half of a click of 0.2 s; {_KLM}"),
    "P": (1.10, f"point with the mouse, whatever the way; {_KLM}"),
    "D": (0.90, f"draw a stroke, however it bends ...; {_KLM}"),
    "cm": (0.16, f"... and each cm of it on the screen; {_KLM}"),
    "M": (1.35, f"prepare what is done next, unless that is as before; {_KLM}"),
    "eye": (0.23, f"move the eyes to the next object and see it; {_MHP}"),
    "see": (0.10, f"see what came; {_MHP}"),
    "decide": (0.07, f"decide whether it is right; {_MHP}"),
}
K, B, P, D, CM, M, EYE, SEE, DECIDE = (seconds for seconds, _ in OPERATORS.values())

#: The acts; strokes cost `CM` for each cm besides. One hand rests on the keys and the other on
#: the mouse, so that none has to move between them (operator H).
LOOK = EYE + DECIDE
CHECK = SEE + DECIDE
CLICK = P + 2 * B
STROKE = P + 2 * B + D
#: At the cell under review, to which the view goes.
ARRIVE = EYE + SEE + DECIDE
#: A and Shift+D
ACCEPT, NONE = K, 2 * K
#: Space bar and a drag
PAN = K + 2 * P + 2 * B
UNDO = 2 * K
PRICES: dict[str, tuple[float, str]] = {
    "look at the next object, right or wrong": (LOOK, "eye + decide"),
    "look at the cell under review": (ARRIVE, "eye + see + decide"),
    "accept it, or leave it, and go on": (ACCEPT, "K"),
    "no cell, and go on": (NONE, "2 K"),
    "check what came of a click, line or merge": (CHECK, "see + decide"),
    "prepare, where the kind of fault is another than before": (M, "M"),
    "take up another tool": (K, "K"),
    "click": (CLICK, "P + 2 B"),
    "click with Alt": (K + CLICK, "K + P + 2 B"),
    "outline, lasso, line (and 0.16 s for each cm)": (STROKE, "P + 2 B + D"),
    "measure a cell (and 0.16 s for each cm), Segment": (
        2 * CLICK + STROKE,
        "2 (P + 2 B) + P + 2 B + D",
    ),
    "move a slider, there or back": (STROKE, "P + 2 B + D"),
    "judge the result at a glance": (M, "M"),
    "undo": (UNDO, "2 K"),
    "move the view": (PAN, "K + 2 P + 2 B"),
}

#: An image is done from this F1 at an IoU of 0.5; an object is right from this IoU.
GOAL, RIGHT = 0.9, 0.5
#: Times that the person goes through an image at most.
PASSES = 2
#: cm on the screen: side of the canvas, what a typical object measures at least and at most
#: (the person zooms for it), and how far a hand is off along an outline.
CANVAS, LEAST, MOST, HAND = 25.0, 1.0, 2.0, 0.1
#: Share of an object from which another one that lies on it is in the way of drawing it.
IN_THE_WAY = 0.15
#: False cells that a lasso takes away at once, at most.
MOST_AT_ONCE = 30
#: The review is taken up where so many cells, and this share of those that nobody has reviewed,
#: are false; and left where of the last ten fewer were wrong.
REVIEWED_FROM, REVIEWED_WHILE = (3, 0.25), 3
#: Size and sliders are set first where less than this F1 is right and so many objects are
#: wrong; the size only if the cells that were found are larger or smaller by this factor.
SET_UP_BELOW, SET_UP_FROM, OTHER_SIZE = 0.75, 10, 1.2
#: Where the sliders are let go, one after the other.
CONFIDENCES = (0.0, 0.5, 0.7, 0.8, 0.85, 0.95)
FOREGROUNDS = (0.2, 0.3, 0.45, 0.6, 0.75, 0.85)
SPLITS = (0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85)
#: Tools that are better when clicks have learned of more cells.
CLICKS = ("click to add", "click to grow", "click to cut")
#: A person believes in a tool at first as after so many (successes, failures).
BELIEF = (4.0, 1.0)

SETTINGS = (
    *(GOAL, RIGHT, PASSES, CANVAS, LEAST, MOST, HAND, IN_THE_WAY, MOST_AT_ONCE, BELIEF),
    *(REVIEWED_FROM, REVIEWED_WHILE, SET_UP_BELOW, SET_UP_FROM, OTHER_SIZE),
    *(CONFIDENCES, FOREGROUNDS, SPLITS),
)

Point = tuple[float, float]


@dataclass
class Ledger:
    """What the acts on an image have cost.

    Attributes
    ----------
    acts
        Times and seconds of each.
    tries
        Successes and tries of what may fail.
    seen
        The same, as far as the person goes by it.
    wasted
        Seconds of acts that brought nothing, checks and undoing included.
    """

    acts: dict[str, list[float]] = field(default_factory=dict)
    tries: dict[str, list[float]] = field(default_factory=dict)
    seen: dict[str, list[float]] = field(default_factory=dict)
    wasted: float = 0.0

    @property
    def seconds(self) -> float:
        """Of all acts."""
        return sum(seconds for _, seconds in self.acts.values())

    def pay(self, act: str, seconds: float) -> None:
        """An act was done."""
        entry = self.acts.setdefault(act, [0, 0.0])
        entry[0] += 1
        entry[1] += seconds

    def tried(self, what: str, worked: bool) -> None:
        """What may fail was tried."""
        for known in (self.tries, self.seen):
            entry = known.setdefault(what, [0, 0])
            entry[0] += worked
            entry[1] += 1

    def forget_half(self, what: Sequence[str]) -> None:
        """What was seen of these so far counts half: they may be better now."""
        for name in what:
            self.seen[name] = [n / 2 for n in self.seen.get(name, (0.0, 0.0))]

    def hope(self, what: str) -> float:
        """Chance of success that a person expects from what was seen so far."""
        good, tries = self.seen.get(what, (0.0, 0.0))
        return (good + BELIEF[0]) / (tries + sum(BELIEF))


# --------------------------------------------------------------------------------------------
# The pages without a window, and the engine's work in this process.


class Engine:
    """A client whose engine works in this process when it is told to, and is timed."""

    def __init__(self, on_event: Callable[[p.Event], None], handlers: Any = None) -> None:
        self._on_event = on_event
        self._queue: deque[p.Request] = deque()
        #: functions that are not answered before `answer_now`
        self.later: frozenset[str] = frozenset()
        self.waiting: list[p.Call] = []
        self._handlers = handlers or Handlers(self)  # type: ignore[arg-type]
        #: seconds of the processor, by the engine's function
        self.seconds: dict[str, float] = defaultdict(float)

    def start(self) -> None:
        self._on_event(p.Ready(self._handlers.info("cpu")))

    def restart(self) -> None: ...
    def cancel(self, job: int, force: bool = True) -> None: ...
    def close(self) -> None: ...

    def submit(self, request: p.Request) -> None:
        if isinstance(request, p.Call) and request.name in self.later:
            self.waiting.append(request)
        else:
            self._queue.append(request)

    def answer_now(self, calls: Sequence[p.Call]) -> None:
        """What has waited is answered next."""
        self._queue.extend(calls)
        self.waiting = [call for call in self.waiting if call not in calls]

    def work(self) -> bool:
        """Answer the first request that waits; False where there is none."""
        if not self._queue:
            return False
        request = self._queue.popleft()
        if isinstance(request, p.Forget):
            self._handlers.forget(request.key)
        elif isinstance(request, p.Call):
            start = time.process_time()
            event: p.Event
            try:
                event = request.done(self._handlers.run(prepare(request, {})))
            except Exception as error:
                event = failure(request.job, error)
            self.seconds[request.name] += time.process_time() - start
            self._on_event(event)
        return True

    # --- what the engine's functions ask of their server ---------------------------------

    def send(self, event: Any) -> None:
        self._on_event(event)

    def between(self) -> None: ...

    def cancelled(self, job: int) -> Callable[[], bool]:
        return lambda: False

    def is_waited_for(self) -> bool:
        return False

    def signal(self, job: int) -> None: ...

    def read_region(self, source: str, key: Any) -> Any:
        raise AssertionError("images are in memory")


class Desk:
    """The controllers of a window, for one image after the other.

    Parameters
    ----------
    folder
        For what is kept; `SA2NET_HOME` should lead somewhere of its own, too.
    model
        To segment with.
    """

    def __init__(self, folder: Path, model: str = "nuclei") -> None:
        self.engines: list[Engine] = []
        self.link = EngineLink(
            Session(model=model, predict=PredictConfig(device="cpu")), make_client=self._engine
        )
        self.segment = SegmentController(self.link)
        self.correct = CorrectController(self.link)
        self.learn = LearnController(self.segment, self.correct, self._engine)
        self.learn.set_preview(False)
        self.correct.keeping.set_folder(folder)
        self._numbers = 0
        self._cells: list[str] = []
        self._made: dict[str, Any] = {}
        #: the cells are the model's
        self.segmented = False
        self.image: ImageSource | None = None
        self.segment.refresh_models(model)
        self.segment.start()
        self.work()

    def _engine(self, on_event: Callable[[p.Event], None]) -> Engine:
        self.engines.append(Engine(on_event))
        return self.engines[-1]

    @property
    def model(self) -> str:
        """What is segmented with now."""
        return self.link.session.model

    @property
    def labels(self) -> NDArray[np.int32]:
        """The cells as they are now."""
        assert self.correct.state.cells is not None
        return self.correct.state.cells.labels

    def computing(self) -> dict[str, float]:
        """Seconds of the processor so far, by what the engine was asked for."""
        total: dict[str, float] = defaultdict(float)
        for engine in self.engines:
            for name, seconds in engine.seconds.items():
                total[name] += seconds
        return total

    def work(self, until: Callable[[], Any] = lambda: True, seconds: float = 3600) -> None:
        """Let the engines answer, and files be read and written, until that holds."""
        end = time.monotonic() + seconds
        while True:
            busy = sum(engine.work() for engine in self.engines)
            for error in (self.link.session.error, self.learn.state.error):
                if error is not None:
                    raise RuntimeError(f"{error.message}\n{error.details}")
            if not busy and until():
                return
            if time.monotonic() > end:
                raise TimeoutError("waited too long for the engine")
            if not busy:
                time.sleep(0.002)

    def open(self, name: str, image: NDArray[Any]) -> None:
        """Choose an image, without cells."""
        self._numbers += 1
        axes = "YXC" if image.ndim == 3 else "YX"
        view = (0, image.shape[0], 0, image.shape[1])
        self.image = ImageSource(f"image {self._numbers}", name, image, axes, view=view)
        self.segment.set_image(self.image)

    def show_empty(self, made: bool = False) -> None:
        """Cells of which there are none; ``made``: any more, of the model's."""
        assert self.image is not None
        empty = np.zeros(self.image.shape[:2], np.int32)
        self._show(empty, **self._made if made else {})

    def show_segmented(self) -> None:
        """The cells that the model finds."""
        found: list[p.SegmentResult] = []
        hear = self.segment.result_ready.connect(lambda _, result: found.append(result))
        assert self.segment.segment() is not None
        self.work(lambda: found)
        self.segment.result_ready.disconnect(hear)
        (result,) = found
        model = result.provenance.get("model", {})
        self._made = {
            "result_key": result.key,
            "model": model.get("name", ""),
            "model_sha256": model.get("sha256", ""),
            "made": result.provenance,
        }
        self._show(np.array(result.labels, np.int32), **self._made)
        self.segmented = True

    def set_size(self, diameter: float | None) -> None:
        """Object size (px; None: as estimated), and Segment."""
        predict = self.link.session.predict
        self.segment.set_predict(predict.model_copy(update={"diameter": diameter}))
        self.show_segmented()

    def slider(self, setting: str) -> float:
        """Where a slider stands: `foreground` or `min_confidence`."""
        return float(getattr(self.link.session.instances, setting))

    def set_slider(self, setting: str, value: float) -> None:
        """Move a slider; the cells follow."""
        instances = self.link.session.instances
        self.segment.set_instances(instances.model_copy(update={setting: value}))
        self.show_segmented()

    def show(self, labels: NDArray[np.int32]) -> None:
        """Cells from elsewhere."""
        self._show(np.array(labels, np.int32))

    def _show(self, labels: NDArray[np.int32], **made: Any) -> None:
        self._numbers += 1
        key = f"cells {self._numbers}"
        self._cells.append(key)
        source = CellSource(key, key, labels, image=self.image, corner=(0, 0), **made)
        self.correct.set_cells(source)
        self.correct.open()
        self.work()
        self.segmented = False

    def put_away(self) -> None:
        """Image and cells are closed."""
        for key in self._cells:
            self.correct.forget_cells(key)
        self._cells.clear()
        if self.image is not None:
            self.segment.forget_image(self.image.key)
        self.work()

    def keep(self) -> None:
        """Press Keep."""
        answer = self.correct.keeping.keep()
        assert answer is not None, self.correct.state.said.words
        self.work(lambda: answer.done() and not self.correct.state.keeping)

    def learn_and_use(self, config: FineTuneConfig, images: int) -> bool:
        """Press Learn, and segment with the child from now on if it is better."""
        learn, state = self.learn, self.learn.state
        learn.set_config(config)
        learn.refresh()
        self.work(lambda: state.summary is not None and state.summary.n_images == images)
        assert learn.learn(), state.error
        self.work(lambda: state.phase == "idle")
        outcome = state.outcome
        better = outcome is not None and not outcome.aside
        if outcome is not None and better:
            learn.use_child()
            self.work(lambda: self.model == outcome.child)
        learn.dismiss_outcome()
        return better

    def close(self) -> None:
        """Let go of all files."""
        self.learn.close()
        self.correct.close()
        self.link.close()


# --------------------------------------------------------------------------------------------
# What the person sees.


class Seen:
    """Labels against the truth: what is right, what is wrong, and how.

    Attributes
    ----------
    match, of
        Label of each true object that is right, and the true object of each right label.
    """

    def __init__(self, truth: NDArray[Any], labels: NDArray[Any]) -> None:
        table = overlap_table(truth, labels)
        self.area_truth = dict(
            zip(table.before.tolist(), table.area_before.tolist(), strict=True)
        )
        self.area = dict(zip(table.after.tolist(), table.area_after.tolist(), strict=True))
        self.on: dict[int, dict[int, int]] = defaultdict(dict)
        self.under: dict[int, dict[int, int]] = defaultdict(dict)
        self.match: dict[int, int] = {}
        self.of: dict[int, int] = {}
        pairs = (table.before[table.i], table.after[table.j], table.shared, table.iou)
        for t, label, shared, iou in zip(*(part.tolist() for part in pairs), strict=True):
            self.on[t][label] = shared
            self.under[label][t] = shared
            if iou >= RIGHT and t not in self.match and label not in self.of:
                self.match[t], self.of[label] = label, t

    @property
    def f1(self) -> float:
        """At an IoU of 0.5."""
        both = len(self.area_truth) + len(self.area)
        return 2 * len(self.match) / both if both else 1.0

    def spurious(self) -> list[int]:
        """Wrong labels that are not about an object that still is to be put right."""
        return [
            label
            for label, area in self.area.items()
            if label not in self.of
            and 2 * sum(n for t, n in self.under[label].items() if t not in self.match) < area
        ]

    def fault(self, t: int) -> tuple[str, list[int]]:
        """What is wrong with a true object, and with which labels."""
        area, on = self.area_truth[t], self.on[t]
        for label, shared in on.items():
            others = (n for u, n in self.under[label].items() if 2 * n > self.area_truth[u])
            if 2 * shared > area and sum(1 for _ in others) > 1:
                return "merged", [label]
        parts = [label for label, n in on.items() if 2 * n > self.area[label]]
        if len(parts) > 1 and 2 * sum(on[label] for label in parts) > area:
            return "split", parts
        if 2 * sum(on.values()) < area:
            return "missed", []
        return "outline", list(on)


def deepest(mask: NDArray[np.bool_], corner: tuple[int, int]) -> Point:
    """The pixel farthest from the outline."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), mask.shape)
    return float(y + corner[0]), float(x + corner[1])


def length(points: NDArray[np.float64]) -> float:
    """Of a line through points (px)."""
    return float(np.hypot(*np.diff(points, axis=0).T).sum())


# --------------------------------------------------------------------------------------------
# What the person does.


class Person:
    """Puts the cells of an image right, as cheaply as the tools allow.

    Object after object is looked at, the nearest next; what is wrong is repaired with the
    cheapest tool that promises to help, and with the next one where it did not. Where many
    cells are false, the review leads from one doubtful cell to the next, by keys. From `GOAL`
    on nothing more is repaired, but all the rest is looked at, as nobody sees that figure.

    Parameters
    ----------
    desk
        With image and cells.
    truth : int (H, W)
    edited
        Called after each act that changed cells: they may change more.
    by_hand
        Objects are drawn, whatever is wrong with them.
    """

    def __init__(
        self,
        desk: Desk,
        truth: NDArray[Any],
        edited: Callable[[Person], None] = lambda _: None,
        by_hand: bool = False,
    ) -> None:
        self.desk = desk
        self.truth = np.asarray(truth)
        self.ledger = Ledger()
        self.passes = 0
        self._edited = edited
        self._by_hand = by_hand
        self._places = dict(enumerate(ndimage.find_objects(self.truth), 1))
        numbers = [t for t, place in self._places.items() if place is not None]
        centres = ndimage.center_of_mass(self.truth > 0, self.truth, numbers)
        self._centres: dict[int, Point] = dict(zip(numbers, centres, strict=True))
        areas = np.bincount(self.truth.ravel())[numbers]
        diameter = 2 * math.sqrt(float(np.median(areas)) / math.pi)
        #: cm on the screen per pixel
        self.scale = float(
            np.clip(CANVAS / max(self.truth.shape), LEAST / diameter, MOST / diameter)
        )
        self._view_side = CANVAS / self.scale
        self._tool, self._kind = "", ""
        self.seen = self.look_again()

    @property
    def views(self) -> int:
        """Into how many views the image does not fit at once."""
        return math.prod(math.ceil(n / self._view_side - 1e-6) for n in self.truth.shape)

    # --- going through the image ---------------------------------------------------------

    def correct(self) -> None:
        """Go through the image until it is done."""
        if not self._by_hand:
            self._set_up()
        self._begin_anew()
        while self.passes < PASSES and (not self.passes or self.seen.f1 < GOAL):
            self._go_through()
            self.passes += 1

    def _set_up(self) -> None:
        """Size of the cells and the sliders, where much is wrong at first sight."""
        wrong = len(self.seen.area_truth) - len(self.seen.match)
        few = self.seen.f1 >= SET_UP_BELOW or wrong < SET_UP_FROM
        if few or not self.desk.segmented:
            return
        self._prepare("settings")
        true, found = (
            2 * math.sqrt(float(np.median(list(areas.values()) or [0])) / math.pi)
            for areas in (self.seen.area_truth, self.seen.area)
        )
        if not true / OTHER_SIZE < found < true * OTHER_SIZE:
            self.ledger.pay("measure a cell", CLICK + STROKE + CM * self.scale * true)
            self._is_better(self.desk.set_size, true, None, "segment", CLICK, 2 * CLICK)
            if self.seen.f1 >= SET_UP_BELOW:
                return
        # more false cells than those that were not found: up; else down
        missing = len(self.seen.area_truth) - len(self.seen.match)
        self._slide("min_confidence", CONFIDENCES, len(self.seen.spurious()) > missing)
        # outlines too far out: up; else down
        sizes = self.seen.area_truth, self.seen.area
        pairs = [
            (t, n)
            for t, on in self.seen.on.items()
            for n, both in on.items()
            if 2 * both > min(sizes[0][t], sizes[1][n])
        ]
        larger = sum(sizes[1][n] > sizes[0][t] for t, n in pairs)
        self._slide("foreground", FOREGROUNDS, 2 * larger > len(pairs))
        # more merged than cut into pieces: up; else down
        wrong_now = [
            self.seen.fault(t)[0] for t in self.seen.area_truth if t not in self.seen.match
        ]
        merged, split = wrong_now.count("merged"), wrong_now.count("split")
        if max(merged, split) >= SET_UP_FROM:
            self._slide("split", SPLITS, merged > split)

    def _slide(self, setting: str, values: Sequence[float], up: bool) -> None:
        """Move a slider on and on, as long as more cells come right."""
        now = self.desk.slider(setting)
        values = [v for v in values if (v > now if up else v < now)]
        for value in values if up else reversed(values):
            act = partial(self.desk.set_slider, setting)
            before = self.desk.slider(setting)
            if not self._is_better(act, value, before, "move a slider", STROKE, STROKE):
                return

    def _is_better(
        self,
        act: Callable[[Any], None],
        value: Any,
        before: Any,
        name: str,
        price: float,
        back: float,
    ) -> bool:
        """Set it, judge at a glance, and set it back if it is no better."""
        former = self.seen.f1
        self.ledger.pay(name, price)
        act(value)
        self.ledger.pay("judge at a glance", M)
        self.seen = self.look_again()
        if self.seen.f1 > former:
            return True
        self.ledger.pay(name, back)
        act(before)
        self.seen = self.look_again()
        return False

    def _begin_anew(self) -> None:
        """Without the cells, where taking false ones away takes longer than they are worth."""
        false, right = len(self.seen.spurious()), list(self.seen.match)
        keys = M + false * (ARRIVE + NONE) + len(right) * (ARRIVE + ACCEPT)
        if min(false * CLICK, keys) > sum(self._draws(t) for t in right) + M + CLICK:
            self.ledger.pay("begin without the cells", M + CLICK)
            self.desk.show_empty(made=True)
            self._after()

    def _go_through(self) -> None:
        known: set[tuple[str, int]] = set()
        view, at = self._view((0.0, 0.0)), (0.0, 0.0)
        while True:
            if not self._by_hand and self.seen.f1 < GOAL and self._many_false():
                known |= self._review()
            targets = [t for t in self._targets() if t[:2] not in known]
            if not targets:
                return
            here = [t for t in targets if self._view(t[2]) == view]
            if not here:
                view = min(self._view(t[2]) for t in targets)
                self.ledger.pay("move the view", PAN)
                here = [t for t in targets if self._view(t[2]) == view]
            kind, number, at = min(here, key=lambda t: math.dist(t[2], at))
            known.add((kind, number))
            self.ledger.pay("look", LOOK)
            if self.seen.f1 >= GOAL:
                continue
            if kind == "spurious":
                self._mend(number)
            elif number not in self.seen.match:
                self._repair(number)

    def _many_false(self) -> bool:
        """More cells that nobody has reviewed are false than a person clicks away."""
        unseen = self.seen.area.keys() - edits.reviewed_labels(self._corrections)
        false = len(unseen.intersection(self.seen.spurious()))
        return false >= max(REVIEWED_FROM[0], REVIEWED_FROM[1] * len(unseen))

    def _review(self) -> set[tuple[str, int]]:
        """From one doubtful cell to the next, by keys; the objects that were seen to."""
        review, state = self.desk.correct.review, self.desk.correct.state
        known: set[tuple[str, int]] = set()
        visited: set[int] = set()
        wrong: deque[bool] = deque([True] * 10, 10)
        self._prepare("review")
        self.ledger.pay("review", K)
        review.next()
        while (label := state.review.label) and label not in visited:
            if self.seen.f1 >= GOAL or sum(wrong) < REVIEWED_WHILE:
                break
            visited.add(label)
            self.ledger.pay("look at the cell under review", ARRIVE)
            wrong.append(label not in self.seen.of)
            if not wrong[-1]:
                known.add(("object", self.seen.of[label]))
                self.ledger.pay("accept", ACCEPT)
                review.accept_and_next()
            elif label in self.seen.spurious():
                self.ledger.pay("no cell", NONE)
                review.remove_and_next()
            else:
                under = self.seen.under[label]
                t = max(under.keys() - self.seen.match.keys(), key=lambda t: under[t])
                self._repair(t)
                known.add(("object", t))
                self.ledger.pay("accept", ACCEPT)
                review.next()
            self._after()
        return known

    def _targets(self) -> list[tuple[str, int, Point]]:
        own = [("object", t, centre) for t, centre in self._centres.items()]
        plane = self._corrections.plane()
        return own + [
            ("spurious", label, tuple(plane.centre(label))) for label in self.seen.spurious()
        ]

    def _view(self, point: Point) -> tuple[int, int]:
        """Rows of views are gone through there and back."""
        row, column = (int(max(c, 0) // self._view_side) for c in point)
        return row, column if row % 2 == 0 else -column

    def look_again(self) -> Seen:
        """At the cells as they are now."""
        return Seen(self.truth, self.desk.labels)

    # --- repairing -----------------------------------------------------------------------

    def _mend(self, label: int) -> None:
        """Give a piece to the object of which it is one; take what is none away."""
        t, shared = max(self.seen.under[label].items(), key=lambda one: one[1], default=(0, 0))
        if t in self.seen.match and shared > IN_THE_WAY * self.seen.area_truth[t]:
            self._prepare("split")
            both = [self.seen.match[t], label]
            if self._pays("merge", STROKE, t) and self._try(
                "merge", t, lambda: self._merge(both)
            ):
                return
        if label in self.seen.spurious():
            self._prepare("spurious")
            self._take_away(label)

    def _repair(self, t: int) -> None:
        kind, labels = self.seen.fault(t)
        self._prepare(kind)
        pieces = [one for one, n in self.seen.on[t].items() if 2 * n > self.seen.area[one]]
        if kind in ("missed", "outline") and len(pieces) == 1:
            kind = "too small"
        if kind == "too small" and self._pays("click to grow", CLICK, t):
            done = self._try(
                "click to grow",
                t,
                lambda: self._click("click to grow", t, pieces[0]),
                drawn=True,
            )
        elif kind == "missed" and self._pays("click to add", CLICK, t):
            done = self._try(
                "click to add", t, lambda: self._click("click to add", t, 0), drawn=True
            )
        elif kind == "merged":
            done = self._pays("click to cut", CLICK, t) and self._try(
                "click to cut", t, lambda: self._click("click to cut", t, labels[0])
            )
            done = done or (
                self._pays("cut line", STROKE, t)
                and self._try("cut line", t, lambda: self._cut(t, labels[0]))
            )
        elif kind == "split" and self._pays("merge", STROKE, t):
            done = self._try("merge", t, lambda: self._merge(labels), drawn=True)
        else:
            done = False
        if not done:
            self._draw(t)

    def _prepare(self, kind: str) -> None:
        if kind != self._kind:
            self.ledger.pay("prepare", M)
        self._kind = kind

    def _pays(self, what: str, price: float, t: int) -> bool:
        """Trying is cheaper than drawing at once, by what came of it so far."""
        if self._by_hand:
            return False
        hope, draw = self.ledger.hope(what), self._draws(t)
        return price + CHECK + (1 - hope) * (draw + 2 * K) < draw

    def _draws(self, t: int) -> float:
        """Seconds of drawing an object."""
        return STROKE + CM * self.scale * length(self.outline(t))

    def _try(self, what: str, t: int, act: Callable[[], None], drawn: bool = False) -> bool:
        """Do it for a true object, look, and take it back if it did not help.

        ``drawn``: else the object is drawn; where its outline replaces what came, nothing has
        to be taken back.
        """
        before, paid = self.seen, self.ledger.seconds
        depth = self._depth
        act()
        self.ledger.pay("check", CHECK)
        changed = self._depth != depth
        self.seen = self.look_again()
        worked = t in self.seen.match and self.seen.f1 > before.f1
        if changed and not worked and not (drawn and self._replaces(t)):
            self.ledger.pay("undo", UNDO)
            assert self.desk.correct.undo()
            self.seen = self.look_again()
        self.ledger.tried(what, worked)
        if worked:
            self._after()
        else:
            self.ledger.wasted += self.ledger.seconds - paid
        return worked

    def _click(self, act: str, t: int, label: int) -> None:
        """Click a cell where nothing lies, or where it is more or less than it should be."""
        self._take("C")
        self.ledger.pay(act, CLICK)
        place = self._places[t]
        own = self.truth[place] == t
        free = own & (self.desk.labels[place] == label)
        corner = (place[0].start, place[1].start)
        self.desk.correct.add(deepest(free if free.any() else own, corner))
        self.desk.work()

    def _cut(self, t: int, label: int) -> None:
        """Split along the neck between an object and the others under a label."""
        self._take("S")
        place = self._box(label)
        own = self.desk.labels[place] == label
        true = self.truth[place]
        here, there = own & (true == t), own & (true > 0) & (true != t)
        away = [ndimage.distance_transform_edt(~part) for part in (here, there)]
        seam = np.argwhere(own & (np.abs(away[0] - away[1]) <= 1.5))
        if len(seam) < 2:
            seam = np.argwhere(own)
        middle = seam.mean(axis=0)
        _, _, axes = np.linalg.svd(seam - middle, full_matrices=False)
        along = (seam - middle) @ axes[0]
        reach = np.array([along.min() - 3, along.max() + 3])
        line = middle + reach[:, None] * axes[0] + (place[0].start, place[1].start)
        self._pay_stroke("cut line", line)
        self.desk.correct.split(line)

    def _merge(self, labels: list[int]) -> None:
        """A stroke through all pieces of an object."""
        self._take("G")
        stroke = np.array(sorted(self._middle(label) for label in labels))
        self._pay_stroke("merge", stroke)
        self.desk.correct.merge(stroke)

    def _draw(self, t: int) -> None:
        """Draw an object by its outline, and clear the place for it before."""
        for label in self._in_the_way(t):
            if label in self.seen.of:
                self._outline(self.seen.of[label])
            elif label in self.seen.area:
                self._delete(label)
        self._outline(t)

    def _outline(self, t: int) -> None:
        self._take("R")
        outline = self.outline(t)
        self._pay_stroke("outline", outline)
        worked = self.desk.correct.redraw(outline)
        self._after()
        self.ledger.tried("outline", worked and t in self.seen.match)

    def _take_away(self, label: int) -> None:
        """Delete a false cell, and with it others around it where a lasso is cheaper."""
        plane, at = self._corrections.plane(), self._corrections.plane().centre(label)
        false = sorted(self.seen.spurious(), key=lambda n: math.dist(plane.centre(n), at))
        best, lasso, others = CLICK + K, None, 0
        for n in range(2, min(len(false), MOST_AT_ONCE) + 1):
            loop = _around(
                np.array([plane.centre(one) for one in false[:n]]), HAND / self.scale
            )
            within = edits.labels_in(self._corrections, loop)
            if not set(within) <= set(false) or np.ptp(loop, axis=0).max() > self._view_side:
                break
            each = (STROKE + CM * self.scale * length(loop)) / len(within)
            if each < best:
                best, lasso, others = each, loop, len(within) - 1
        if lasso is None:
            self._delete(label)
            return
        self._take("D")
        for _ in range(others):
            self.ledger.pay("look", LOOK)
        self._pay_stroke("delete", lasso)
        assert self.desk.correct.delete(lasso=lasso)
        self._after()

    def _delete(self, label: int) -> None:
        """Click a cell: it is taken away."""
        if self._tool in ("", "C"):
            self._take("C")
            self.ledger.pay("delete", K + CLICK)
        else:
            self._take("D")
            self.ledger.pay("delete", CLICK)
        assert self.desk.correct.delete(point=self._middle(label))
        self._after()

    def _in_the_way(self, t: int) -> list[int]:
        """Cells that keep an object from being drawn."""
        inside = edits.labels_in(self._corrections, self.outline(t))
        least = IN_THE_WAY * self.seen.area_truth[t]
        reviewed = edits.reviewed_labels(self._corrections)  # others give way
        # one that lies there alone is replaced, unless it is another object
        return [
            label
            for label, shared in self.seen.on[t].items()
            if label in reviewed
            and (shared > least or label in inside)
            and ([label] != inside or label in self.seen.of)
        ]

    def _replaces(self, t: int) -> bool:
        """Drawing an object replaces what lies there."""
        return not self._in_the_way(t)

    def outline(self, t: int) -> NDArray[np.float64]:
        """What a hand draws around an object: its outline, simplified."""
        place = self._places[t]
        mask = np.pad(self.truth[place] == t, 2)
        contour = max(find_contours(mask.astype(float), 0.5), key=len)
        line = approximate_polygon(contour, HAND / self.scale)
        if len(line) < 4:
            line = contour
        return line - 2 + _corner(place)

    # --- hands ---------------------------------------------------------------------------

    def _take(self, tool: str) -> None:
        if tool != self._tool:
            self.ledger.pay("take up a tool", K)
        self._tool = tool

    def _pay_stroke(self, act: str, line: NDArray[np.float64]) -> None:
        self.ledger.pay(act, STROKE + CM * self.scale * length(line))

    def _after(self) -> None:
        known = self.desk.correct.state.clicks_learned
        self._edited(self)
        if self.desk.correct.state.clicks_learned > known:
            # the page says so
            self.ledger.forget_half(CLICKS)
        self.seen = self.look_again()

    @property
    def _corrections(self) -> edits.Corrections:
        assert self.desk.correct.session is not None
        return self.desk.correct.session.corrections

    @property
    def _depth(self) -> int:
        assert self.desk.correct.session is not None
        return self.desk.correct.session.tally.depth

    def _box(self, label: int) -> tuple[slice, slice]:
        y0, y1, x0, x1 = self._corrections.plane().box(label)
        return slice(y0, y1), slice(x0, x1)

    def _middle(self, label: int) -> Point:
        """Where a cell is clicked."""
        box = self._box(label)
        return deepest(self.desk.labels[box] == label, _corner(box))


def _around(points: NDArray[np.float64], by: float) -> NDArray[np.float64]:
    """A closed line around points, so far from them."""
    angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    ring = by * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    wide = (points[:, None] + ring).reshape(-1, 2)
    corners = ConvexHull(wide).vertices
    return wide[np.append(corners, corners[0])]


def _corner(place: tuple[slice, slice]) -> tuple[int, int]:
    return place[0].start, place[1].start
