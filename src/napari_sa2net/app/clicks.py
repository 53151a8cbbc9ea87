"""Click a cell: ask for what lies under a click, and let clicks learn a person's cells.

Once a person clicks, what they have drawn and corrected of a plane teaches the network that
answers (`training.click`), in the background and for this plane alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net import edits
from napari_sa2net.app.cells import Box, CellSource, Index, box_of
from napari_sa2net.app.edit_session import Change, EditSession
from napari_sa2net.app.planes import Corrector
from napari_sa2net.app.session import ErrorInfo, SegmentRequest
from napari_sa2net.edits import Corrections
from napari_sa2net.engine import messages as p
from napari_sa2net.errors import EditError
from napari_sa2net.metrics import typical_diameter

#: so many cells tell what is typical
FEW = 3
#: diameter of a cell in a box that is drawn around it, as a share of the box
BOXED = 0.85
#: longest side of such a box, in diameters
LONGEST = 3.5
#: half of what is looked at around a click, in typical cells
AROUND = 2.0
#: half of what is looked at around a cell to learn from, in typical cells
AROUND_LEARNED = 2.4
#: clicks learn after so many new cells (later a quarter of those known), from so many of the
#: newest ...
EVERY, MOST = 3, 24
#: ... while they are no more pixels than this
MOST_PIXELS = 6_000_000
#: planes whose cells clicks know, at most (1.2 MB each)
MOST_LESSONS = 16

Point = tuple[float, float]


@dataclass(frozen=True, eq=False)
class ClickRequest(SegmentRequest):
    """A click on one plane of the cells, to be answered by the object there.

    Attributes
    ----------
    cells, index, box
        Key of the layer, plane, and the box of its labels that is looked at.
    labels
        Of the box, as they are.
    click, against
        The click, and clicks on what belongs to other cells: (y, x) in the box.
    diameter
        Of a typical cell (px).
    bounds
        A box that the object lies in; None where nothing was said.
    lesson
        Key of what clicks have learned of the plane; empty for nothing.
    """

    cells: str
    index: Index
    box: Box
    labels: NDArray[np.integer]
    click: Point
    against: tuple[Point, ...]
    diameter: float
    bounds: Box | None
    lesson: str

    function = "object_at"
    asks = ("labels", "click", "against", "diameter", "lesson")


@dataclass(frozen=True, eq=False)
class LessonRequest(SegmentRequest):
    """Cells of one plane that clicks are to learn from.

    Attributes
    ----------
    cells, index
        Key of the layer, and plane.
    taught
        The cells, each with what lies around it.
    diameter
        Of a typical one (px).
    result
        Key of the result that the cells come from.
    """

    cells: str
    index: Index
    taught: tuple[p.TaughtCell, ...]
    diameter: float
    result: str

    function = "teach_clicks"
    asks = ("taught", "diameter", "result")


@dataclass
class _Lesson:
    """What clicks have learned of a plane.

    Attributes
    ----------
    image
        Key and generation of the image.
    asked
        Cells that were reviewed when it was last asked for and have not changed since.
    key
        Of the network that knows them; empty: the bundled one is as good.
    known
        Cells that it has learned from.
    diameter
        Their typical size (px).
    """

    image: tuple[str, int]
    asked: frozenset[int] = frozenset()
    key: str = ""
    known: frozenset[int] = frozenset()
    diameter: float = 0.0


class CorrectClicks:
    """Answers clicks on cells, and lets clicks learn; a part of the Correct page's controller.

    Parameters
    ----------
    controller
        Whose state and sessions these are.
    """

    def __init__(self, controller: Corrector) -> None:
        self._controller, self._link = controller, controller.link
        self._state = controller.state
        #: where a cell was clicked that a click made, by layer, plane and label
        self._clicked: dict[tuple[str, Index, int], Point] = {}
        #: of the planes on which a person has clicked
        self._lessons: dict[tuple[str, Index], _Lesson] = {}
        #: whether something else is to learn first, and lessons that have ended
        self.gives_way: Callable[[], bool] = lambda: False
        self.ended = 0
        self._link.answer(("object_at", "teach_clicks"), self)
        self._link.died.connect(self._engine_died)
        controller.changed.connect(self._changed)

    # --- a click -----------------------------------------------------------------------

    def add(self, point: Point, bounds: Any = None) -> None:
        """Ask for the cell under a click, in a box where one was drawn."""
        session, source = self._controller.open(), self._state.cells
        if session is None or source is None or self._controller.is_unseen():
            return
        corrections, index = session.corrections, source.plane
        lesson = self._lesson(source)
        box = None if bounds is None else box_of(bounds, source.shape)
        if box is not None:
            height, width = box[1] - box[0], box[3] - box[2]
            # what is looked at is as wide as several cells: a long box has to fit in
            diameter = max(BOXED * math.sqrt(height * width), max(height, width) / LONGEST)
        else:
            diameter = lesson.diameter or self._typical(corrections, index)
        under = edits.label_at(corrections, point, index)
        before = self._clicked.get((source.key, index, under))
        # since then the number may have gone to another cell
        known = before is not None and edits.label_at(corrections, before, index) == under
        against = [before] if under and before is not None and known else []
        try:
            self._ask(source, point, diameter, against, box, lesson.key)
        except EditError as error:
            self._controller.say(str(error), ok=False)
            return
        self._consider(session, source)

    def _ask(
        self,
        source: CellSource,
        click: Point,
        diameter: float,
        against: Sequence[Point],
        bounds: Box | None,
        lesson: str,
    ) -> None:
        (y, x), (height, width) = click, source.shape
        if not (-0.5 <= y < height - 0.5 and -0.5 <= x < width - 0.5):
            raise EditError("That is outside the image: click on it.")
        box = _around(click, AROUND * diameter, source.shape)
        y0, y1, x0, x1 = box
        request = ClickRequest(
            **self._controller.about(source, box),
            cells=source.key,
            index=source.plane,
            box=box,
            labels=np.array(source.labels[source.plane][y0:y1, x0:x1]),
            click=(y - y0, x - x0),
            against=tuple((a - y0, b - x0) for a, b in against),
            diameter=diameter,
            bounds=bounds,
            lesson=lesson,
        )
        self._link.ask(request.function, request.arguments(), source.result_key, about=request)

    def _typical(self, corrections: Corrections, index: Index) -> float:
        """Diameter of a typical cell (px): of those that are there, else of the model's."""
        plane = corrections.plane(index)
        if len(plane) >= FEW:
            return plane.typical_diameter
        session = self._link.session
        told = session.info.model_diameter if session.info is not None else None
        learned = session.card.expected_diameter if session.card is not None else None
        return session.predict.diameter or learned or told or edits.UNKNOWN_DIAMETER

    def _object_ready(self, request: ClickRequest, mask: NDArray[np.bool_]) -> None:
        session = self._controller.session_of(request.cells)
        if session is None:
            return
        if self._link.generation(request.source.key) != request.generation:
            self._controller.say("The image changed meanwhile: click again.", ok=False)
            return
        y0, _, x0, _ = request.box
        point = (request.click[0] + y0, request.click[1] + x0)
        if request.bounds is not None:
            top, bottom, left, right = request.bounds
            within = np.zeros(mask.shape, bool)
            within[max(0, top - y0) : bottom - y0, max(0, left - x0) : right - x0] = True
            mask = mask & within
        elif mask.any():
            from_click = np.abs(np.argwhere(mask) - request.click)
            if from_click.max() > LONGEST / 2 * request.diameter:
                self._controller.say(
                    "It is not clear where this cell ends: drag a box around it, or draw it "
                    "with Redraw.",
                    ok=False,
                )
                return

        def act() -> Change:
            made = edits.add_at(session.corrections, mask, (y0, x0), point, request.index)
            return session.do(made)

        if self._controller.change(request.cells, act):
            label = edits.label_at(session.corrections, point, request.index)
            self._clicked[request.cells, request.index, label] = point
            self._controller.carry.after(request.cells)

    # --- what clicks learn -------------------------------------------------------------

    def _lesson(self, source: CellSource) -> _Lesson:
        """Of the shown plane; it begins anew where the image is another or has other pixels."""
        at, image = (source.key, source.plane), self._image_of(source)
        lesson = self._lessons.pop(at, None)
        if lesson is not None and lesson.image != image:
            self._drop(lesson)
            lesson = None
        # the last used is the last
        self._lessons[at] = lesson = lesson or _Lesson(image)
        self.show()
        return lesson

    def _image_of(self, source: CellSource) -> tuple[str, int]:
        key = source.image.key if source.image is not None else ""
        return key, self._link.generation(key)

    def show(self) -> None:
        """The state as the lesson of the shown plane is."""
        source, n = self._state.cells, 0
        if source is not None:
            lesson = self._lessons.get((source.key, source.plane))
            if lesson is not None and lesson.image == self._image_of(source):
                n = len(lesson.known)
        self._state.clicks_learned = n

    def forget(self, key: str) -> None:
        """The layer is gone or has other labels."""
        for call in (*self._link.asked("object_at"), *self._link.asked("teach_clicks")):
            if call.about.cells == key:
                # not by force, which would cost what the engine keeps
                self._link.client.cancel(call.job, force=False)
        for cells, index in [at for at in self._lessons if at[0] == key]:
            self._drop(self._lessons.pop((cells, index)))
        for at in [at for at in self._clicked if at[0] == key]:
            del self._clicked[at]

    def _changed(self, key: str, change: Change) -> None:
        session = self._controller.session_of(key)
        for patch in change.step.patches:
            at = key, patch.index
            lesson = self._lessons.get(at)
            if lesson is None or session is None:
                continue
            # what a person has mended or taken back since is not what was learned
            lesson.asked -= {*np.unique(patch.old).tolist(), *np.unique(patch.new).tolist()}
            lesson.known &= session.corrections.marked(patch.index).keys()
            if lesson.key and not lesson.known:
                # all was taken back
                self._drop(lesson)
                self._lessons[at] = _Lesson(lesson.image)
        self.show()
        self._consider_shown(key)

    def _consider_shown(self, key: str) -> None:
        source, session = self._state.cells, self._controller.session_of(key)
        if session is not None and source is not None and source.key == key:
            self._consider(session, source)

    def _consider(self, session: EditSession, source: CellSource) -> None:
        """Teach where a person clicks and enough is new."""
        lesson = self._lessons.get((source.key, source.plane))
        if lesson is not None and lesson.image != self._image_of(source):
            lesson = None  # until the next click
        busy = any(self._link.asked(kind) for kind in ("teach_clicks", "wave"))
        shared = self._link.session
        if lesson is None or busy or source.unseen or shared.running or shared.engine == "down":
            return
        corrections, index = session.corrections, source.plane
        marked, plane = corrections.marked(index), corrections.plane(index)
        for label in edits.ignored_labels(corrections, index):
            marked.pop(label, None)
        new = len(marked.keys() - lesson.asked)
        if new < max(EVERY, len(lesson.asked) // 4) or source.image is None:
            return
        if self.gives_way():
            return
        newest = [label for label in reversed(marked) if label in plane]
        # what was corrected says more than what the model had right
        some = sorted(newest, key=lambda label: marked[label] != "corrected")[:MOST]
        if len(some) < EVERY:
            return
        diameter = typical_diameter([plane.area(label) for label in some])
        taught: list[p.TaughtCell] = []
        left = MOST_PIXELS
        for label in some:
            top, bottom, first, last = plane.box(label)
            middle = ((top + bottom - 1) / 2, (first + last - 1) / 2)
            box = _around(middle, AROUND_LEARNED * diameter, source.shape)
            labels = np.array(corrections.read(index, box))
            left -= labels.size
            if left < 0 and len(taught) >= EVERY:
                break
            taught.append(p.TaughtCell(label, labels, source.image_box(box)))
        try:
            about = self._controller.about(source, _around((0, 0), 1, source.shape))
        except EditError:
            return
        image = about["source"]
        about["key"] = f"clicks {image.key} {source.key} {about['generation']} {index}"
        request = LessonRequest(
            **about,
            cells=source.key,
            index=index,
            taught=tuple(taught),
            diameter=diameter,
            result=source.result_key,
        )
        lesson.asked = frozenset(marked)
        self._link.ask(request.function, request.arguments(), request.key, about=request)

    def _engine_died(self) -> None:
        """The next process knows nothing, and the line says so at once."""
        for at, lesson in self._lessons.items():
            self._lessons[at] = _Lesson(lesson.image)
        self.show()

    def _drop(self, lesson: _Lesson) -> None:
        if lesson.key:
            self._link.submit(p.Forget(lesson.key))

    # --- what the engine says ----------------------------------------------------------

    def job_done(self, call: p.Call, result: Any) -> None:
        """A click is answered, or clicks have learned."""
        if call.kind == "object_at":
            self._object_ready(call.about, np.asarray(result))
            return
        self.ended += 1
        request: LessonRequest = call.about
        lesson = self._lessons.get((request.cells, request.index))
        if lesson is None or lesson.image != (request.source.key, request.generation):
            self._link.submit(p.Forget(call.key))
            return
        session = self._controller.session_of(request.cells)
        marked = session.corrections.marked(request.index) if session is not None else {}
        # some may have been taken back while it learned
        lesson.known, lesson.diameter = frozenset(marked.keys() & {*result}), request.diameter
        lesson.key = call.key if lesson.known else ""
        if not lesson.known:
            # what was worse is not kept; nor is the image for it
            self._link.submit(p.Forget(call.key))
        known = [at for at, one in self._lessons.items() if one.key]
        for at in known[:-MOST_LESSONS]:
            self._drop(self._lessons.pop(at))
        self.show()

    def job_failed(self, call: p.Call, error: ErrorInfo) -> None:
        """What a click asked for could not be had; without a lesson it works as before."""
        if call.kind == "teach_clicks":
            self.ended += 1
            words = (
                f"Clicks could not learn from your cells, and work as before. {error.message}"
            )
            self._controller.say(words, ok=False)
        else:
            self._link.fail(error)

    def job_cancelled(self, call: p.Call) -> None:
        """Something else was asked for: teach after it, or at the next correction."""
        if call.kind == "teach_clicks":
            self.ended += 1
            lesson = self._lessons.get((call.about.cells, call.about.index))
            if lesson is not None:
                lesson.asked = frozenset()
                self._consider_shown(call.about.cells)


def _around(point: Point, reach: float, shape: tuple[int, int]) -> Box:
    """A square around a point, clipped to the plane."""
    (y, x), (height, width) = point, shape
    return (
        max(0, round(y - reach)),
        min(height, round(y + reach) + 1),
        max(0, round(x - reach)),
        min(width, round(x + reach) + 1),
    )
