"""A run of learning: begun, paused, stopped, and what its engine says."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.link import JOB, Background, EngineLink, MakeClient, TimeLeft, Trainer
from napari_sa2net.app.segment import SegmentController
from napari_sa2net.app.session import (
    DIFFERENCE,
    PREVIEW,
    Box,
    ErrorInfo,
    ImageSource,
    JobProgress,
    Overlay,
    Patch,
    SegmentRequest,
    as_seen,
    difference_words,
    error_info,
    source_plan,
)
from napari_sa2net.app.training_set import (
    RUNNING,
    Curves,
    Difference,
    LearnSet,
    LearnState,
    Outcome,
    Phase,
    SetSummary,
    gone,
    in_window,
    plan_words,
    read_summary,
    thumbnails,
    with_thumbnails,
)
from napari_sa2net.config import LEARNING, FineTuneConfig, is_taught
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.client import EngineClient
from napari_sa2net.errors import ImageError, ModelExistsError, SA2NetError
from napari_sa2net.interpret.refinement import Changes, compare_objects
from napari_sa2net.models.registry import (
    check_model_name,
    demote_model,
    find_model,
    promote_model,
)
from napari_sa2net.training.runs import (
    UnfinishedRun,
    discard_run,
    free_name,
    read_asked,
    unfinished_runs,
)

# --------------------------------------------------------------------------------------------
# What the Learn page learns from: the training set, its problems, a name for the child.


class LearnMaterial:
    """Reads what there is to learn from; the foundation of the controller.

    Parameters
    ----------
    segment, correct
        As of `LearnController`.
    """

    def __init__(self, segment: SegmentController, correct: CorrectController) -> None:
        self.link = segment.link
        self.session = segment.session
        self.state = LearnState(folder=correct.state.folder, parent=segment.session.model)
        self._segment = segment
        self._correct = correct
        self._lock = segment.link.lock
        self._background = Background(self.link, "learn")
        self._reading = 0
        self._seen: set[Path] = set()
        self.set = LearnSet(self.link, self.state, self.refresh, self._fail)
        self.session.events.model.connect(self._model_chosen)
        self.session.events.models.connect(self._model_chosen)
        correct.state.events.folder.connect(self._folder_chosen)
        correct.state.events.kept.connect(self._kept)

    @property
    def running(self) -> bool:
        """An engine of learning is at work."""
        return self.state.phase in RUNNING

    def refresh(self) -> None:
        """Read the training set and the list of unfinished runs anew, in the background."""
        with self._lock:
            self._reading += 1
            folder, share = self.state.folder, self.state.config.held_out
            self._run(lambda: read_summary(folder, share), partial(self._read, self._reading))
            self._run(unfinished_runs, self._found_runs)
            self._suggest()

    def set_folder(self, folder: Path) -> None:
        """Learn from another training set; corrections are kept there from now on."""
        self._correct.keeping.set_folder(folder)

    def set_child(self, name: str) -> None:
        """Name of the child; empty for the one that is suggested."""
        self.state.child = name.strip()

    def set_config(self, config: FineTuneConfig) -> None:
        """Settings of the next run, its minutes above all."""
        with self._lock:
            again = config.held_out != self.state.config.held_out
            self.state.config = config
            if again:
                self.refresh()

    def dismiss_error(self) -> None:
        """The person has read the error."""
        self.state.error = None

    # --- inside ------------------------------------------------------------------------

    def _model_chosen(self, _: Any = None) -> None:
        outcome = self.state.outcome
        self.state.in_use = outcome is not None and self.session.model == outcome.child
        if self.state.phase == "idle":
            self.state.parent = self.session.model
            self._suggest()
        self._judge_problem()

    def _folder_chosen(self, folder: Path) -> None:
        if folder != self.state.folder:
            self.state.folder = folder
            self.state.summary = self.state.error = None
            self.set.forget()
            self.refresh()

    def _kept(self, words: str) -> None:
        if words:
            self.refresh()

    def _suggest(self) -> None:
        try:
            self.state.suggested = free_name(Path(self.session.model).name)
        except SA2NetError:
            self.state.suggested = ""

    def _read(self, number: int, summary: SetSummary) -> None:
        if number != self._reading:
            return
        if summary.there:
            self._seen.add(summary.folder)
        elif summary.folder in self._seen:
            # in the place of the list, and of what a run said of it
            summary = gone(summary)
            self.state.error = None
            self.set.forget()
        former = self.state.summary
        pictures = {} if former is None else {i.key: i.thumbnail for i in former.items}
        self.state.summary = with_thumbnails(summary, pictures)
        self._judge_problem()
        if any(item.thumbnail is None for item in self.state.summary.items):
            self._run(
                lambda: dict(thumbnails(summary)),
                lambda found: self._pictured(summary, found),
            )

    def _pictured(self, summary: SetSummary, found: dict[str, Any]) -> None:
        if self.state.summary is not None and self.state.summary.folder == summary.folder:
            self.state.summary = with_thumbnails(self.state.summary, found)

    def _judge_problem(self) -> None:
        summary = self.state.summary
        problem = summary.problem if summary is not None else ""
        card = self.session.card
        if not problem and card is not None and not is_taught(card.classes):
            problem = (
                f"{self.session.model} does not tell cells apart (its classes are "
                f"{', '.join(card.classes)}), so it cannot learn from corrected cells. Choose "
                "another model."
            )
        self.state.problem = problem

    def _fail(self, error: ErrorInfo) -> None:
        self.state.error = in_window(error)

    def _found_runs(self, runs: Any) -> None:
        self.state.unfinished = tuple(one for one in runs if str(one.run) != self.state.run)

    def _run(self, work: Callable[[], Any], done: Callable[[Any], Any]) -> None:
        """Run in the background, one after another; an error goes to the page."""
        if not self._background.closed:
            self._background.run(work, done, lambda error: self._fail(error_info(error)))


# --------------------------------------------------------------------------------------------
# What learning shows over the image: the child so far, and what it does otherwise.


@dataclass(frozen=True, eq=False)
class _Pair:
    """Parent and child on the way; each answer fills one."""

    request: SegmentRequest
    found: dict[str, NDArray[np.int32]]


class LearnLayers:
    """Asks the engine that segments, in the view of the chosen image.

    Parameters
    ----------
    link
        The engine and the session.
    show
        Takes an `Overlay`: a layer is to be shown, replaced or taken away.
    previewed
        Called with the number of the round that is shown now.
    compared
        Called with a `Difference`, or None where it came to nothing.
    failed
        Called with an `ErrorInfo`.
    kept_channels
        Channels that went in when cells of an image were kept, by its name.
    """

    def __init__(
        self,
        link: EngineLink,
        show: Callable[[Overlay], None],
        previewed: Callable[[int], None],
        compared: Callable[[Difference | None], None],
        failed: Callable[[ErrorInfo], None],
        kept_channels: Callable[[], Mapping[str, tuple[int, ...]]],
    ) -> None:
        self._link = link
        self._kept_channels = kept_channels
        self._show = show
        self._previewed = previewed
        self._compared = compared
        self._failed = failed
        self._pair: _Pair | None = None
        self._shown: dict[str, Overlay] = {}
        self._background = Background(link, "learn-compare")
        link.answer(("learn_preview", "learn_compare"), self)

    # --- asking ------------------------------------------------------------------------

    def preview(self, model: str, number: int) -> None:
        """Show the view as a model file sees it; passed over while another is on the way."""
        if not self._link.asked("learn_preview"):
            request = self._request(model)
            if request is not None:
                self._ask("learn_preview", request, (request, number))

    def compare(self, parent: str, child: str) -> None:
        """Show what the child gains and loses in the view.

        Raises
        ------
        ImageError
            If there is no image, or the view shows nothing of it.
        """
        requests = [self._request(model) for model in (parent, child)]
        if requests[0] is None or requests[1] is None:
            raise ImageError(
                "There is no image in view to compare the two models on. Open one, or move "
                "the camera over it."
            )
        self._pair = _Pair(requests[1], {})
        for which, request in zip(("parent", "child"), requests, strict=True):
            assert request is not None
            self._ask("learn_compare", request, (self._pair, which))

    def hide(self, slot: str) -> None:
        """Take a layer away."""
        overlay = self._shown.pop(slot, None)
        if slot == DIFFERENCE:
            self._pair = None
        if overlay is not None:
            self._show(Overlay(overlay.source, slot, None, overlay.index))

    def close(self) -> None:
        """Show nothing more."""
        self._background.close()

    # --- what the engine says ----------------------------------------------------------

    def job_done(self, call: p.Call, result: p.SegmentResult) -> None:
        """A call of ours is done; the link says so."""
        if call.kind == "learn_preview":
            request, number = call.about
            self._background.run(
                partial(outlines, _plane(result.labels)),
                partial(self._show_lines, request, number, result),
                lambda error: self._failed(error_info(error)),
            )
            return
        pair: _Pair
        pair, which = call.about
        if pair is not self._pair:
            return
        pair.found[which] = _plane(result.labels)
        if len(pair.found) == 2:
            self._background.run(
                partial(compare_objects, pair.found["parent"], pair.found["child"]),
                partial(self._show_pair, pair, result),
                lambda error: self.job_failed(call, error_info(error)),
            )

    def job_failed(self, call: p.Call, error: ErrorInfo) -> None:
        """A call of ours failed; a preview whose file is gone already is no loss."""
        if call.kind == "learn_compare" and call.about[0] is self._pair:
            self._pair = None
            self._compared(None)
            self._failed(error)

    def job_cancelled(self, call: p.Call) -> None:
        """A call of ours was cancelled."""
        if call.kind == "learn_compare" and call.about[0] is self._pair:
            self._pair = None
            self._compared(None)

    # --- inside ------------------------------------------------------------------------

    def _show_lines(
        self, request: SegmentRequest, number: int, result: p.SegmentResult, lines: Any
    ) -> None:
        if self._fresh(request):
            self._put(PREVIEW, request, lines, _box(result))
            self._previewed(number)

    def _show_pair(self, pair: _Pair, result: p.SegmentResult, changes: Changes) -> None:
        if pair is not self._pair:
            return
        self._pair = None
        if not self._fresh(pair.request):
            self._compared(None)
            return
        self._put(DIFFERENCE, pair.request, changes.change, _box(result))
        n = [int((np.unique(pair.found[k]) > 0).sum()) for k in ("parent", "child")]
        words = difference_words(changes, n[1] - n[0]) or "No pixel differs"
        self._compared(Difference(pair.request.source.key, words))

    def _put(self, slot: str, request: SegmentRequest, values: Any, box: Box) -> None:
        index = request.window.index or ()
        overlay = Overlay(request.source, slot, Patch(values, box), index)
        former = self._shown.get(slot)
        if former is not None and former.source.key != request.source.key:
            self.hide(slot)
        self._shown[slot] = overlay
        self._show(overlay)

    def _fresh(self, request: SegmentRequest) -> bool:
        return self._link.generation(request.source.key) == request.generation

    def _request(self, model: str) -> SegmentRequest | None:
        """The view of the chosen image; None where it shows nothing of one."""
        session = self._link.session
        source = session.image
        if source is None:
            return None
        box = source.view
        if box is not None and (box[1] <= box[0] or box[3] <= box[2]):
            return None
        return SegmentRequest(
            as_seen(self._as_kept(source), session),
            self._link.generation(source.key),
            uuid.uuid4().hex,
            model,
            session.predict,
            session.instances,
            session.normalize,
            p.Window(index=source.plane, box=box),
        )

    def _as_kept(self, source: ImageSource) -> ImageSource:
        """With the channels that its kept cells were made from, where none are chosen now."""
        channels = self._kept_channels().get(source.name)
        if source.channels is not None or not channels:
            return source
        with suppress(SA2NetError):  # the request says what is wrong
            plan = source_plan(source)
            if not plan.is_rgb and max(channels) < plan.n_channels:
                return replace(source, channels=channels)
        return source

    def _ask(self, kind: str, request: SegmentRequest, about: Any) -> None:
        self._link.ask(request.function, request.arguments(), kind=kind, about=about)


def outlines(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """1 on the outermost two pixels of every object (H, W), 0 elsewhere.

    napari can draw contours of labels itself, but works them out on the window's thread.
    """
    ahead, behind = slice(1, None), slice(None, -1)
    pairs = [(np.s_[ahead, :], np.s_[behind, :]), (np.s_[:, ahead], np.s_[:, behind])]
    edge = np.zeros(labels.shape, bool)
    for one, other in pairs:
        differs = labels[one] != labels[other]
        edge[one] |= differs
        edge[other] |= differs
    wide = edge.copy()
    for one, other in pairs:
        wide[one] |= edge[other]
        wide[other] |= edge[one]
    return (wide & (labels > 0)).astype(np.uint8)


def _plane(labels: Any) -> NDArray[np.int32]:
    values: NDArray[np.int32] = np.asarray(labels)
    return values.reshape(values.shape[-2:])


def _box(result: p.SegmentResult) -> Box:
    height, width = np.shape(result.labels)[-2:]
    y, x = (int(v) for v in result.offset[-2:])
    return y, y + height, x, x + width


# --------------------------------------------------------------------------------------------
# What became of a run, and what a person makes of it.


class LearnOutcome(LearnMaterial):
    """Chooses between parent and child and shows where they differ; part of the controller."""

    _layers: LearnLayers

    def use_child(self) -> None:
        """Segment with the child from now on; one that was kept aside is offered again."""
        with self._lock:
            outcome = self.state.outcome
            if outcome is not None:
                self._run(
                    lambda: promote_model(outcome.child),
                    lambda entry: self._moved(outcome, entry, use=True),
                )

    def keep_aside(self) -> None:
        """Keep the child, but do not offer it; segment with the parent."""
        with self._lock:
            outcome = self.state.outcome
            if outcome is not None:
                self._run(
                    lambda: demote_model(outcome.child),
                    lambda entry: self._moved(outcome, entry, use=False),
                )

    def back_to_parent(self) -> None:
        """Segment with the parent again; the child stays where it is."""
        with self._lock:
            outcome = self.state.outcome
            if outcome is not None:
                self._segment.set_model(outcome.parent)

    def show_difference(self, shown: bool) -> None:
        """Show what the child finds otherwise in the view, as a layer."""
        with self._lock:
            outcome = self.state.outcome
            if not shown or outcome is None:
                self._layers.hide(DIFFERENCE)
                self._compared(None)
                return
            try:
                self._layers.compare(outcome.parent, outcome.path)
            except SA2NetError as error:
                self._fail(error_info(error))
                self._compared(None)
                return
            self.state.error = self.session.error = None
            self.state.comparing = True

    def dismiss_outcome(self) -> None:
        """The person has read it."""
        with self._lock:
            self.show_difference(False)
            self.state.outcome = None
            self.state.curves = Curves()
            self.state.notices = ()

    # --- inside ------------------------------------------------------------------------

    def _compared(self, difference: Difference | None) -> None:
        self.state.comparing = False
        self.state.difference = difference

    def _moved(self, outcome: Outcome, entry: Any, use: bool) -> None:
        """The child was promoted or demoted on disk."""
        if not use and self.session.model == outcome.child:
            # before the list loses it, which would choose the first one there is
            self._segment.set_model(outcome.parent)
        self._segment.refresh_models()
        if use:
            self._segment.set_model(outcome.child)
        if self.state.outcome is outcome:
            self.state.outcome = replace(outcome, aside=entry.aside, path=str(entry.path))
        self._model_chosen()


NOTHING_KEPT = (
    "Stopped before the first round was over: there is nothing to keep, and nothing was "
    "changed."
)
#: between two things that take the window a while
APART_S = 0.2


class LearnRun(LearnOutcome):
    """Runs an engine of learning; a part of the controller.

    Parameters
    ----------
    segment, correct, make_client
        As of `LearnController`.
    """

    def __init__(
        self,
        segment: SegmentController,
        correct: CorrectController,
        make_client: MakeClient,
    ) -> None:
        super().__init__(segment, correct)
        self._make_client = make_client
        self._trainer: Trainer | None = None
        self._clock = (0, 0.0)
        self._left = TimeLeft()
        self._resumed = self._repeating = False

    def set_preview(self, wanted: bool) -> None:
        """Whether the view is shown as the child sees it, after each round."""
        with self._lock:
            self.state.wants_preview = wanted
            if not wanted:
                self._hide_preview()

    def learn(self) -> bool:
        """Begin; False when something is missing, which ``state.error`` says."""
        with self._lock:
            if self.state.phase != "idle":
                return False
            state = self.state
            try:
                if state.problem:
                    raise SA2NetError(state.problem)
                name = check_model_name(state.child or state.suggested)
                if find_model(name) is not None:
                    raise ModelExistsError(
                        f"There is a model {name!r} already. Choose another name."
                    )
            except SA2NetError as error:
                self._fail(error_info(error))
                return False
            arguments = {
                "training_set": str(state.folder),
                "base": self.session.model,
                "config": state.config,
                "name": name,
                "preview": True,
            }
            self._begin(p.Call(JOB, "fine_tune", arguments), self.session.model, name)
            return True

    def resume(self, run: UnfinishedRun | None = None) -> bool:
        """Go on with the run that is paused, or with another unfinished one."""
        with self._lock:
            if self.running or (run is None and not self.state.run):
                return False
            folder = run.run if run is not None else Path(self.state.run)
            try:
                asked = read_asked(folder)
            except SA2NetError as error:
                self._fail(error_info(error))
                self._end_run()
                return False
            arguments = {"run": str(folder), "preview": True}
            request = p.Call(JOB, "resume_fine_tuning", arguments)
            self._begin(request, asked.base_name, asked.name, str(folder))
            return True

    def keep_best(self, run: UnfinishedRun) -> None:
        """End an unfinished run with the best it has; its images are not needed."""
        with self._lock:
            if self.resume(run):
                self.stop()

    def pause(self) -> None:
        """Write the run to disk and give the computer back; `resume` goes on."""
        with self._lock:
            if self._trainer is not None and self.state.phase in ("starting", "learning"):
                self._phase("pausing", "pausing")
                self._trainer.pause()

    def stop(self) -> None:
        """End it with the best round so far."""
        with self._lock:
            if self.state.phase == "paused" and not self.resume():
                return
            if self._trainer is not None and self.state.phase != "stopping":
                self._phase("stopping", "keeping the best so far")
                self._trainer.stop(self._resumed)

    def discard(self, run: UnfinishedRun | None = None) -> None:
        """Delete the run that is paused, or another unfinished one, for good."""
        with self._lock:
            if run is None and self.state.phase != "paused":
                return
            folder = run.run if run is not None else Path(self.state.run)
            if run is None:
                self._end_run()
            self._run(lambda: discard_run(folder), lambda _: self.refresh())

    # --- what the learning engine says -------------------------------------------------

    def _heard(self, trainer: Trainer, event: p.Event) -> None:
        with self._lock:
            if trainer is not self._trainer:
                return
            match event:
                case p.Ready():
                    if self.state.phase == "starting":
                        self.state.progress = JobProgress(0, 0, "reading the corrections")
                case p.Progress(_, done, total, what):
                    # its steps are told with their losses, see `_news`
                    # a run that goes on may have taken all its steps
                    begins = self.state.phase == "starting" and not what.startswith(LEARNING)
                    after = self.state.phase == "learning" and not what.startswith(LEARNING)
                    if begins or after:
                        before = self.state.progress
                        if before is None or before.what != what:
                            self._left = TimeLeft()
                        progress = self._left.of(JobProgress(done, total, what))
                        if after:
                            self.state.seconds_left = progress.seconds_left(time.monotonic())
                        self.state.progress = progress
                case p.TrainProgress():
                    self._news(event)
                case p.Call(result=result):
                    self._done(result)
                case p.Failed(_, kind, message, details):
                    self._end_run()
                    self._fail(ErrorInfo(kind, message, details))
                case p.WasCancelled():
                    self._end_run()
                    self.state.notices = (NOTHING_KEPT,)

    def _news(self, news: p.TrainProgress) -> None:
        state, curves = self.state, self.state.curves
        state.run = news.run
        repeated = self._repeating
        if news.plan is not None:
            self._repeating = False
            state.plan = plan_words(news.plan)
            curves = replace(curves, parent=news.plan.parent, steps=news.plan.steps)
            state.seconds_left = news.plan.seconds or None
        if self._repeating and news.plan is None:
            # after a pause it begins with all points of before
            self._repeating = False
            curves = replace(curves, losses=news.losses, rounds=news.rounds)
        elif news.losses or news.rounds:
            curves = replace(
                curves,
                losses=(*curves.losses, *news.losses),
                rounds=(*curves.rounds, *news.rounds),
                steps=news.losses[-1].steps if news.losses else curves.steps,
            )
        if curves.losses and curves.losses[-1].steps > curves.steps:
            curves = replace(curves, steps=curves.losses[-1].steps)
        if news.losses and not repeated and state.phase in ("starting", "learning"):
            last = news.losses[-1]
            state.progress = JobProgress(last.step, last.steps, LEARNING)
            self._estimate(last.step, last.steps)
            if state.phase == "starting":
                state.phase = "learning"
        if curves is not state.curves:
            state.curves = curves
        if news.notices:
            state.notices = (*state.notices, *news.notices)
        if news.preview and state.wants_preview and curves.rounds:
            self._layers.preview(news.preview, curves.rounds[-1].round)

    def _estimate(self, step: int, steps: int) -> None:
        """Seconds that are left, by what the steps of this sitting have taken."""
        first, start = self._clock
        if not start:
            self._clock = (step, time.monotonic())
        elif step > first:
            per_step = (time.monotonic() - start) / (step - first)
            self.state.seconds_left = per_step * max(0, steps - step)

    def _done(self, result: p.FineTuneResult) -> None:
        state = self.state
        if result.paused:
            self._drop_trainer()
            self._hide_preview_soon()
            state.progress = None
            state.run = result.run
            state.seconds_left = None
            state.phase = "paused"
            self._run(unfinished_runs, self._found_runs)
            return
        assert result.verdict is not None
        assert result.held_out is not None and result.reference is not None
        parent = state.parent
        self._end_run(keep_curves=True)
        self.state.error = self.session.error = None
        state.outcome = Outcome(
            parent,
            result.model,
            result.path,
            not result.promoted,
            result.verdict,
            result.held_out,
            result.reference,
            result.seconds,
        )
        self._segment.refresh_models()

    # --- inside ------------------------------------------------------------------------

    def _begin(self, request: p.Call, parent: str, name: str, run: str = "") -> None:
        state = self.state
        self.show_difference(False)
        self.state.error = self.session.error = None
        state.outcome = None
        state.parent, state.name, state.run = parent, name, run
        if state.phase != "paused":
            state.curves, state.plan = Curves(), ""
        state.notices, state.seconds_left = (), None
        self._clock = (0, 0.0)
        self._resumed = self._repeating = bool(run)
        self._phase("starting", "getting ready to learn")
        self._found_runs(state.unfinished)
        trainer = Trainer(
            lambda event: self.link.dispatch(lambda: self._heard(trainer, event)),
            self._make_client,
        )
        self._trainer = trainer
        trainer.begin(request)

    def _phase(self, phase: Phase, what: str) -> None:
        self.state.progress = JobProgress(0, 0, what)
        self.state.phase = phase

    def _drop_trainer(self) -> None:
        if self._trainer is not None:
            self._trainer.end()
            self._trainer = None

    def _end_run(self, keep_curves: bool = False) -> None:
        self._drop_trainer()
        self._hide_preview_soon()
        state = self.state
        state.run, state.name = "", ""
        state.progress, state.seconds_left = None, None
        if not keep_curves:
            state.curves, state.plan = Curves(), ""
        state.phase = "idle"
        self._model_chosen()
        self.refresh()

    def _hide_preview(self) -> None:
        self._layers.hide(PREVIEW)
        self.state.previewed = 0

    def _hide_preview_soon(self) -> None:
        """Not in one go with what the page shows anew: napari takes a while for a layer."""

        def hide() -> None:
            with self._lock:
                if not self._background.closed and not self.running:
                    self._hide_preview()

        timer = threading.Timer(APART_S, lambda: self.link.dispatch(hide))
        timer.daemon = True
        timer.start()

    def _previewed(self, number: int) -> None:
        if self.running and self.state.wants_preview:
            self.state.previewed = number
        else:
            self._hide_preview()


# --------------------------------------------------------------------------------------------
# What the Learn page does, without a page: learning, pausing, judging, choosing.


class LearnController(LearnRun):
    """Runs the Learn page of one viewer.

    All methods return at once and belong to the link's thread. What the page shows is
    ``state``. Each run has an engine process of its own, so segmenting goes on meanwhile.

    Parameters
    ----------
    segment
        Its link, session and models; previews and comparisons run on its engine.
    correct
        Whose training set is learned from.
    make_client
        Makes the learning engine's client.

    Attributes
    ----------
    state : LearnState
    set : LearnSet
    overlay
        `Overlay`: a layer is to be shown, replaced or taken away.
    """

    overlay = Signal(Overlay)

    def __init__(
        self,
        segment: SegmentController,
        correct: CorrectController,
        make_client: MakeClient = EngineClient,
    ) -> None:
        super().__init__(segment, correct, make_client)
        self._layers = LearnLayers(
            self.link,
            self.overlay.emit,
            self._previewed,
            self._compared,
            self._fail,
            lambda: {} if self.state.summary is None else self.state.summary.channels,
        )

    def layer_gone(self, image_key: str, slot: str) -> None:
        """A person deleted a layer of the page."""
        if slot == DIFFERENCE:
            self.show_difference(False)
        elif slot == PREVIEW:
            # it would come back after the next round
            self.set_preview(False)

    def close(self) -> None:
        """Pause what runs, so that it can go on another time; returns at once."""
        with self._lock:
            self._background.close()
            if self._trainer is not None:
                self._trainer.leave()
                self._trainer = None
        self._layers.close()
        self.set.close()
