"""What the Learn page learns from: the training set, its problems, a name for the child."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from napari_sa2net.app.controllers import SegmentController
from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.learn_kept import LearnSet
from napari_sa2net.app.learn_set import gone, read_summary, thumbnails, with_thumbnails
from napari_sa2net.app.learn_state import RUNNING, LearnState, SetSummary
from napari_sa2net.app.session import ErrorInfo, error_info
from napari_sa2net.config import FineTuneConfig, is_taught
from napari_sa2net.errors import SA2NetError
from napari_sa2net.training.runs import free_name, unfinished_runs


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
        self._closed = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="learn")
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
        card = next((e.card for e in self.session.models if e.name == self.session.model), None)
        if not problem and card is not None and not is_taught(card.classes):
            problem = (
                f"{self.session.model} does not tell cells apart (its classes are "
                f"{', '.join(card.classes)}), so it cannot learn from corrected cells. Choose "
                "another model."
            )
        self.state.problem = problem

    def _fail(self, error: ErrorInfo) -> None:
        self.state.error = error

    def _found_runs(self, runs: Any) -> None:
        self.state.unfinished = tuple(one for one in runs if str(one.run) != self.state.run)

    def _run(self, work: Callable[[], Any], done: Callable[[Any], Any]) -> None:
        """Run in the background, one after another; an error goes to the page."""

        def tell(future: Future[Any]) -> None:
            if future.cancelled():
                return
            with self._lock:
                if self._closed:
                    return
                error = future.exception()
                if error is None:
                    done(future.result())
                else:
                    self._fail(error_info(error))

        if not self._closed:
            future = self._worker.submit(work)
            future.add_done_callback(lambda ended: self.link.dispatch(lambda: tell(ended)))
