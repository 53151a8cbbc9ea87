"""A run of learning: begun, paused, stopped, and what its engine says."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

from napari_sa2net.app.controllers import SegmentController
from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.learn_outcome import LearnOutcome
from napari_sa2net.app.learn_state import Curves, Outcome, Phase, plan_words
from napari_sa2net.app.session import ErrorInfo, JobProgress, error_info
from napari_sa2net.app.trainer import JOB, MakeClient, Trainer
from napari_sa2net.app.why import PREVIEW
from napari_sa2net.engine import protocol as p
from napari_sa2net.errors import ModelExistsError, SA2NetError
from napari_sa2net.models.registry import check_model_name, find_model
from napari_sa2net.training.runs import (
    UnfinishedRun,
    discard_run,
    read_asked,
    unfinished_runs,
)

NOTHING_KEPT = (
    "Stopped before the first round was over: there is nothing to keep, and nothing was "
    "changed."
)
#: between two things that take the window a while
APART_S = 0.2
PAUSED_EARLY = "Paused before the first step: nothing was changed. Begin anew when you like."


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
            self._begin(
                p.FineTune(
                    JOB, str(state.folder), self.session.model, state.config, name, preview=True
                ),
                self.session.model,
                name,
            )
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
            request = p.FineTune(JOB, resume=str(folder), preview=True)
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
                    if self.state.phase == "starting" and not self.state.curves.steps:
                        self.state.progress = JobProgress(done, total, what)
                case p.TrainProgress():
                    self._news(event)
                case p.Done(_, result):
                    self._done(result)
                case p.Failed(_, kind, message, details):
                    self._end_run()
                    self._fail(ErrorInfo(kind, message, details))
                case p.WasCancelled():
                    words = PAUSED_EARLY if self.state.phase == "pausing" else NOTHING_KEPT
                    self._end_run()
                    self.state.notices = (words,)

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
            state.progress = JobProgress(last.step, last.steps, "learning")
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

    def _begin(self, request: p.FineTune, parent: str, name: str, run: str = "") -> None:
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
                if not self._closed and not self.running:
                    self._hide_preview()

        timer = threading.Timer(APART_S, lambda: self.link.dispatch(hide))
        timer.daemon = True
        timer.start()

    def _previewed(self, number: int) -> None:
        if self.running and self.state.wants_preview:
            self.state.previewed = number
        else:
            self._hide_preview()
