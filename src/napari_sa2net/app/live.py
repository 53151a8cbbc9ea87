"""Learning while a person corrects: when a wave runs, what it changes, and when it rests."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from psygnal import SignalGroupDescriptor

from napari_sa2net import edits
from napari_sa2net.app.cells import Box, CellSource, Index
from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.edit_session import Change, EditSession
from napari_sa2net.app.session import ErrorInfo, SegmentRequest
from napari_sa2net.config import InstanceConfig, LiveConfig
from napari_sa2net.data.commit import Seen
from napari_sa2net.edits import Changed, Corrections, Snapshot, Step
from napari_sa2net.edits.shapes import common
from napari_sa2net.engine import messages as p
from napari_sa2net.training.compare import HeldBack
from napari_sa2net.words import counted

#: A wave begins after so many new corrections, and needs as many.
EVERY = 5
#: Or after fewer, when nothing was corrected for so long (s).
REST_S = 4.0
#: Every so many-th correction is held back: it is scored, and never learned from.
HOLD = 4
#: From so many that are held back on, they are believed.
JUDGES = 3
#: A wave by which their mean score (0 … 1) falls by more is not shown.
WORSE = 0.05
#: After so many waves in a row that were no better, learning rests, until there are twice as
#: many corrections to learn from.
PATIENCE = 2
#: Pixels of the part of a plane that a wave looks at, at most: more would be felt when a wave
#: is laid over the cells.
MOST_PIXELS = 1024 * 1024

#: What a person has said of: a cell by its label, or a cleared place by its id.
Act = tuple[str, int]

OFF = "The rest of this {noun} is segmented anew as you correct, and one undo takes it back."
NO_IMAGE = "These cells lie on no image, so there is nothing to learn from."


@dataclass
class LiveState:
    """Evented; written by the controller, read by the page.

    Attributes
    ----------
    on
        A person has switched it on.
    running
        A wave is under way.
    resting
        It was no help, or could not go on, and stopped by itself.
    words
        One line: what the last wave changed, or what goes on.
    wave
        Number of the last wave.
    undo
        What an undo would take back, if that is a wave.
    shown
        Cells of the shown plane that the last wave changed or found.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    on: bool = False
    running: bool = False
    resting: bool = False
    words: str = ""
    wave: int = 0
    undo: str = ""
    shown: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class WaveRequest(SegmentRequest):
    """Learn from what is reviewed of a box of the cells, and segment the rest of it anew.

    Attributes
    ----------
    cells, index, box
        Key of the layer, plane and box of its labels.
    wave
        Its number.
    labels, counts, areas
        Of the box: labels, reviewed pixels, and those of marked and cleared areas.
    reviewed
        Cells that must not change.
    held_back
        Corrections to score by.
    since
        The plane as it was.
    config
        How it learns.
    acts
        What had been reviewed.
    """

    cells: str
    index: Index
    box: Box
    wave: int
    labels: NDArray[np.integer]
    counts: NDArray[np.bool_]
    areas: NDArray[np.bool_]
    reviewed: tuple[int, ...]
    held_back: tuple[HeldBack, ...]
    since: Snapshot
    config: LiveConfig
    acts: frozenset[Act]

    function = "wave"
    asks = ("labels", "counts", "areas", "reviewed", "held_back", "config")


@dataclass
class _Plane:
    """What is known of the waves of one plane.

    Attributes
    ----------
    held
        Of every act, whether it is held back.
    learned
        Acts when the last wave began.
    poor
        Waves in a row that were no better on what is held back.
    taken_back, stands
        Waves in a row that a person took back; the last one was not.
    wake
        With so many corrections it is tried again.
    """

    held: dict[Act, bool] = field(default_factory=dict)
    learned: frozenset[Act] = frozenset()
    poor: int = 0
    resting: bool = False
    taken_back: int = 0
    stands: bool = False
    wake: float = math.inf
    words: str = ""
    shown: frozenset[int] = frozenset()

    def rest(self, corrections: int) -> None:
        """Until there are twice as many corrections."""
        self.resting, self.wake = True, 2 * corrections

    def try_again(self) -> None:
        """One more failure is enough then."""
        self.resting, self.wake = False, math.inf
        self.poor = self.taken_back = PATIENCE - 1

    @property
    def again(self) -> str:
        """When a plane that rests is tried again; empty where that is not known."""
        if not self.resting or self.wake == math.inf:
            return ""
        return f"It tries again when there are {counted(int(self.wake), 'correction')}."


class LiveController:
    """Runs waves of learning beside the Correct page.

    All methods return at once and belong to the link's thread.

    Parameters
    ----------
    correct
        Whose cells these are; every wave is one step of their history.

    Attributes
    ----------
    state : LiveState
    config : LiveConfig
        How waves learn.
    """

    def __init__(self, correct: CorrectController) -> None:
        self.correct = correct
        self.link = correct.link
        self.state = LiveState()
        self.config = LiveConfig()
        self._planes: dict[tuple[str, Index], _Plane] = {}
        self._waves: dict[str, int] = {}
        self._asked: tuple[int, WaveRequest] | None = None
        self._engine_key = ""
        self._timer: threading.Timer | None = None
        self._failed = 0
        self._proposing = False
        self.closed = False
        #: lessons of clicks that had ended when the last wave began
        self._lessons = -1
        correct.clicks.gives_way = self._is_due
        self.link.answer(("wave",), self)
        correct.changed.connect(self._changed)
        correct.state.events.cells.connect(self._cells_chosen)
        self.link.ready.connect(self._engine_ready)
        self.state.on = self.link.session.live

    # --- what a person does ------------------------------------------------------------

    def set_on(self, on: bool) -> None:
        """Switch it on or off; off stops a wave that is under way."""
        with self.link.lock:
            if on == self.state.on:
                return
            self.link.session.live = self.state.on = on
            self._stop()
            self._failed = 0
            for plane in self._planes.values():
                plane.resting, plane.words, plane.wake = False, "", math.inf
                plane.poor = plane.taken_back = 0
            if on:
                self._consider(rested=True)
            self._show()

    def undo(self) -> bool:
        """Take the newest wave back, where nothing was corrected since."""
        with self.link.lock:
            return bool(self.state.undo) and self.correct.undo()

    def close(self) -> None:
        """Stop; nothing happens any more."""
        with self.link.lock:
            self.closed = True
            self._stop()

    # --- when --------------------------------------------------------------------------

    def _changed(self, key: str, change: Change) -> None:
        """A correction was made, or taken back."""
        cells = self.correct.state.cells
        session = self.correct.session_of(key)
        if self.closed or cells is None or cells.key != key or session is None:
            return
        record = session.record_of(change.step, "wave")
        if record is not None:
            # a wave was done, taken back or done again: no correction to learn from
            index = tuple(record["plane"])  # maybe not the shown one
            plane = self._plane(key, index)
            undone = change.step in session.history.undone
            if undone:
                plane.learned = self._acts(session, index)
                plane.words, plane.shown = f"Wave {record['wave']} was taken back.", frozenset()
                plane.stands, plane.taken_back = False, plane.taken_back + 1
                if plane.taken_back >= PATIENCE:
                    plane.rest(len(plane.learned))
            elif not self._proposing:
                if plane.taken_back == PATIENCE > plane.poor and plane.again:
                    # that was why it rests
                    plane.resting, plane.wake = False, math.inf
                plane.stands, plane.taken_back = True, max(0, plane.taken_back - 1)
                plane.words = f"Wave {record['wave']} was done again."
            if not self._proposing and plane.again:
                plane.words += f" Learning rests. {plane.again}"
            if not self._proposing:
                self._show()
            return
        if self.state.on:
            self._consider()
        self._show()

    def _cells_chosen(self, _: Any = None) -> None:
        if not self.closed:
            self._show()
            if self.state.on and self._asked is None:
                self._rest()

    def _engine_ready(self) -> None:
        if self.state.on and not self.closed:
            self._rest()

    def _consider(self, rested: bool = False) -> None:
        """Begin a wave where enough is new, or look again after a while."""
        found = self._here()
        if found is None or self._asked is not None:
            return
        session, source = found
        plane = self._plane(source.key, source.plane)
        acts = self._acts(session, source.plane)
        new = len(acts - plane.learned)
        if plane.resting and len(acts) >= plane.wake:
            plane.try_again()
        if plane.resting or len(acts) < EVERY or not new:
            return
        if (new >= EVERY or rested) and self._begin():
            return
        self._rest()

    def _is_due(self) -> bool:
        """A wave waits to begin, and is not to wait for clicks to learn: both take turns."""
        found = self._here()
        if self.closed or not self.state.on or found is None or self._asked is not None:
            return False
        session, source = found
        plane = self._plane(source.key, source.plane)
        new = len(self._acts(session, source.plane) - plane.learned)
        return not plane.resting and new >= EVERY and self._lessons < self.correct.clicks.ended

    def _rest(self) -> None:
        """Look again when nothing was corrected for a while."""
        self._drop_timer()
        self._timer = threading.Timer(REST_S, lambda: self.link.dispatch(self._rested))
        self._timer.daemon = True
        self._timer.start()

    def _rested(self) -> None:
        with self.link.lock:
            session = self.correct.session
            back = session is not None and session.history.undone
            if not self.closed and self.state.on and not back:
                self._consider(rested=True)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop(self) -> None:
        self._drop_timer()
        if self._asked is not None:
            # not by force, which would cost what the engine keeps
            self.link.client.cancel(self._asked[0], force=False)
            self._asked = None
        if self._engine_key:
            self.link.submit(p.Forget(self._engine_key))
            self._engine_key = ""

    # --- a wave begins -----------------------------------------------------------------

    def _here(self) -> tuple[EditSession, CellSource] | None:
        """Cells that can be learned from as they are shown."""
        session, source = self.correct.session, self.correct.state.cells
        if session is None or source is None or source.unseen:
            return None
        if source.image is None or source.corner is None or self.correct.state.odd.words:
            return None
        return session, source

    def _begin(self) -> bool:
        found, shared = self._here(), self.link.session
        if found is None or self._asked is not None:
            return False
        if shared.running or shared.engine == "down" or self.link.asked("teach_clicks"):
            return False
        session, source = found
        request = self._request(session, source)
        if self._engine_key not in ("", request.key):
            self.link.submit(p.Forget(self._engine_key))
        self._engine_key = request.key
        plane = self._plane(source.key, source.plane)
        plane.learned = request.acts
        number = self.link.ask(
            request.function, request.arguments(), request.key, about=request
        )
        self._asked = (number, request)
        self._lessons = self.correct.clicks.ended
        self._show()
        return True

    def _request(self, session: EditSession, source: CellSource) -> WaveRequest:
        index, corrections = source.plane, session.corrections
        acts = self._acts(session, index)
        plane = self._plane(source.key, index)
        reviewed = edits.reviewed_labels(corrections, index)
        box = _box(source, corrections, reviewed)
        y0, y1, x0, x1 = box
        regions = corrections.regions_of(index)
        areas = np.zeros((y1 - y0, x1 - x0), bool)
        for region in regions:
            for part in region.boxes(corrections.shape):
                inner = common(part, box)
                if inner is not None:
                    a, b, c, d = inner
                    areas[a - y0 : b - y0, c - x0 : d - x0] |= region.mask(inner)
        asked = _as_segmented(self.correct.about(source, box), source, self.link.session)
        image = asked["source"]
        index_words = "-".join(str(i) for i in index)
        asked["key"] = f"live {image.key} {asked['generation']} {asked['model']} {index_words}"
        held = [act for act in acts if plane.held[act]]
        corner = source.image_box(box)
        return WaveRequest(
            **asked,
            cells=source.key,
            index=index,
            box=box,
            wave=self._number(source.key, session) + 1,
            labels=corrections.read(index, box),
            counts=session.reviewed(index)[y0:y1, x0:x1],
            areas=areas,
            reviewed=tuple(sorted(reviewed)),
            held_back=_held_back(corrections, index, held, box, (corner[0], corner[2])),
            since=Snapshot.of(corrections, index),
            config=self.config,
            acts=acts,
        )

    def _acts(self, session: EditSession, index: Index) -> frozenset[Act]:
        """What a person has said on a plane; of each it is known whether it is held back."""
        corrections = session.corrections
        cells = edits.reviewed_labels(corrections, index)
        cells -= edits.ignored_labels(corrections, index)
        acts: list[Act] = [("cell", label) for label in corrections.marked(index)]
        acts += [("cell", label) for label in sorted(cells - corrections.marked_labels(index))]
        acts = [act for act in acts if act[1] in cells]
        for region in edits.reviewed_regions(corrections, index):
            if region.kind == "cleared":
                acts.append(("place", region.id))
        cells_key = self.correct.state.cells
        held = self._plane(cells_key.key if cells_key is not None else "", index).held
        for act in acts:
            held.setdefault(act, len(held) % HOLD == HOLD - 1)
        return frozenset(acts)

    def _number(self, key: str, session: EditSession | None) -> int:
        """Of the last wave; a journal may know of some from before."""
        known = session.waves if session is not None else ()
        return max([self._waves.get(key, 0), *(int(one["wave"]) for one in known)])

    def _plane(self, key: str, index: Index) -> _Plane:
        return self._planes.setdefault((key, index), _Plane())

    # --- what the engine says ----------------------------------------------------------

    def job_done(self, call: p.Call, result: p.WaveResult) -> None:
        """A wave is done: show it where nothing was edited meanwhile."""
        request: WaveRequest = call.about
        if not self._ended(call.job):
            return
        self._failed = 0
        session = self.correct.session_of(request.cells)
        stale = self.link.generation(request.source.key) != request.generation
        if session is None:
            return
        plane = self._plane(request.cells, request.index)
        if stale or session.history.undone:
            # a step of its own would end what can be done again
            why = "the image changed" if stale else "you took a step back"
            plane.words = f"Wave {request.wave}: dropped, as {why} meanwhile."
            plane.learned = frozenset()
            self._show()
            if self.state.on:
                self._rest()
            return
        judged = result.n_judged >= JUDGES
        if judged:
            plane.poor = plane.poor + 1 if result.after <= result.before else 0
        words = f"Wave {request.wave}: "
        scores = ""
        if judged and math.isfinite(result.before):
            scores = f" Corrections held back: {result.before:.0%} → {result.after:.0%} right."
        if judged and result.after < result.before - WORSE:
            words += f"no better, so nothing was changed.{scores}"
        else:
            self._waves[request.cells] = request.wave
            if plane.stands:
                plane.taken_back = 0
            changed = self._propose(request, result)
            words += f"{changed.words}.{scores}" if changed else f"nothing to change.{scores}"
        if plane.poor >= PATIENCE:
            plane.rest(len(request.acts))
            words = (
                "Learning rests: on the corrections held back it was no better "
                f"({result.before:.0%} → {result.after:.0%} right). {plane.again}"
            )
        plane.words = words
        self._show()
        if self.state.on:
            self._consider()

    def job_failed(self, call: p.Call, error: ErrorInfo) -> None:
        """A wave failed; after the engine died the next begins from what is reviewed."""
        if not self._ended(call.job):
            return
        request: WaveRequest = call.about
        plane = self._plane(request.cells, request.index)
        plane.learned = frozenset()
        self._failed += 1
        if error.kind != "EngineError" or self._failed >= PATIENCE:
            plane.resting, plane.wake = True, math.inf
            plane.words = f"Learning rests: {error.message}"
        self._show()

    def job_cancelled(self, call: p.Call) -> None:
        """A wave gave way to what was asked for: try again after a while."""
        if not self._ended(call.job):
            return
        request: WaveRequest = call.about
        self._plane(request.cells, request.index).learned = frozenset()
        self._show()
        if self.state.on:
            self._rest()

    def _ended(self, job: int) -> bool:
        """Whether that was the wave that is waited for; it is no more."""
        if self.closed or self._asked is None or self._asked[0] != job:
            return False
        self._asked = None
        return True

    def _propose(self, request: WaveRequest, result: p.WaveResult) -> Changed | None:
        """Lay a wave over the cells; what it changes."""
        dy, dx = (
            a - b
            for a, b in zip(_corner(request.window.box), _corner(request.box), strict=True)
        )
        raw = result.patch
        patch = replace(raw, index=request.index, rows=raw.rows - dy, cols=raw.cols - dx)
        made: list[Changed] = []

        def make(corrections: Corrections) -> Step:
            words = f"wave {request.wave}"
            step, changed = edits.proposal(
                corrections, request.index, patch, words, request.since
            )
            made.append(changed)
            return step

        record = {**result.provenance, "wave": request.wave, "plane": list(request.index)}
        self._proposing = True
        try:
            if not self.correct.propose(request.cells, make, record):
                return None
        finally:
            self._proposing = False
        self._plane(request.cells, request.index).stands = True
        self._plane(request.cells, request.index).shown = frozenset(
            (*made[0].changed, *made[0].new)
        )
        return made[0]

    # --- what is shown -----------------------------------------------------------------

    def _show(self) -> None:
        state, source, session = self.state, self.correct.state.cells, self.correct.session
        state.running = self._asked is not None
        state.undo, state.wave = "", 0
        if source is None:
            state.words, state.shown, state.resting = "", frozenset(), False
            return
        plane = self._plane(source.key, source.plane)
        if session is not None:
            done = session.history.done
            is_wave = bool(done) and session.record_of(done[-1], "wave") is not None
            state.undo = session.history.undo_words if is_wave else ""
        state.wave = self._number(source.key, session)
        state.resting = plane.resting
        state.shown = plane.shown
        state.words = self._words(plane, session, source)

    def _words(self, plane: _Plane, session: EditSession | None, source: CellSource) -> str:
        if not self.state.on:
            return ""
        if source.image is None or source.corner is None:
            return NO_IMAGE
        if plane.words and self._asked is None:
            return plane.words
        acts = self._acts(session, source.plane) if session is not None else frozenset()
        if self._asked is not None:
            n = len(self._asked[1].acts) - len(self._asked[1].held_back)
            return f"Learning from {counted(n, 'correction')}… Go on meanwhile."
        missing = EVERY - len(acts)
        if missing > 0:
            return f"Accept or correct {counted(missing, 'more cell')}."
        return ""


def _corner(box: Box | None) -> tuple[int, int]:
    assert box is not None
    return box[0], box[2]


def _box(source: CellSource, corrections: Corrections, reviewed: set[int]) -> Box:
    """The part of the plane that a wave looks at: all, or what lies around the view."""
    height, width = source.shape
    if height * width <= MOST_PIXELS:
        return 0, height, 0, width
    assert source.corner is not None
    view = source.image.view if source.image is not None else None
    if view is not None:
        dy, dx = source.corner[-2:]
        y, x = (view[0] + view[1]) / 2 - dy, (view[2] + view[3]) / 2 - dx
    else:
        plane = corrections.plane(source.plane)
        some = [plane.centre(label) for label in reviewed if label in plane]
        y, x = np.mean(some, axis=0) if some else (height / 2, width / 2)
    side = math.isqrt(MOST_PIXELS)
    tall, wide = min(height, side), min(width, side)
    tall, wide = min(height, MOST_PIXELS // wide), min(width, MOST_PIXELS // tall)
    y0 = int(np.clip(y - tall / 2, 0, height - tall))
    x0 = int(np.clip(x - wide / 2, 0, width - wide))
    return y0, y0 + tall, x0, x0 + wide


def _held_back(
    corrections: Corrections,
    index: Index,
    acts: list[Act],
    box: Box,
    corner: tuple[int, int],
) -> tuple[HeldBack, ...]:
    """Held-back cells and places that lie in a box, in pixels of the image."""
    found = []
    plane = corrections.plane(index)
    dy, dx = corner[0] - box[0], corner[1] - box[2]
    for kind, number in acts:
        if kind == "cell":
            if number not in plane:
                continue
            places = [plane.box(number)]
        else:
            places = corrections.regions[number].boxes(corrections.shape)
        for place in places:
            y0, y1, x0, x1 = place
            inside = y0 >= box[0] and y1 <= box[1] and x0 >= box[2] and x1 <= box[3]
            if not inside or (y1 - y0) * (x1 - x0) > MOST_PIXELS // 4:
                continue
            if kind == "cell":
                mask = corrections.read(index, place) == number
            else:
                mask = corrections.regions[number].mask(place)
                # a cell that was drawn there later is what counts
                mask = mask & (corrections.read(index, place) == 0)
            if mask.any():
                found.append(HeldBack((y0 + dy, x0 + dx), mask, kind == "cell"))
    return tuple(found)


def _as_segmented(asked: dict[str, Any], source: CellSource, session: Any) -> dict[str, Any]:
    """A request that goes in as the segmentation did that made the cells, if one did."""
    known = {entry.name for entry in session.models}
    if source.model in known:
        asked = {**asked, "model": source.model}
    seen = Seen.of(source.made)
    if seen is None:
        return asked
    predict = seen.predicted.model_copy(
        update={"diameter": seen.diameter, "device": session.predict.device}
    )
    image = asked["source"]
    if seen.channels and "C" in (image.axes or ""):
        image = replace(image, channels=seen.channels)
    instances: Mapping[str, Any] = seen.instances
    with suppress(ValueError):
        asked = {**asked, "instances": InstanceConfig.model_validate(instances)}
    return {**asked, "source": image, "predict": predict, "normalize": seen.normalize}
