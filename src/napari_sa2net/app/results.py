"""The newest result of each image, and what the sliders still want of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from napari_sa2net.app.jobs import JobBook
from napari_sa2net.app.preview import nothing_found_words
from napari_sa2net.app.requests import SegmentRequest
from napari_sa2net.app.session import SLIDER_WORDS, Session, Sliders, summary_line
from napari_sa2net.config import InstanceConfig
from napari_sa2net.engine.protocol import Derive, Request, Summary

REST_S = 0.25
"""A slider that has not moved for so long rests: the table follows."""


@dataclass
class ResultState:
    """The newest result of one image.

    Attributes
    ----------
    shown, table_of, wanted
        Settings of the labels that are shown, of their table, and of the sliders.
    edited
        A person has edited the labels.
    kept
        The engine keeps its probabilities, and they belong to the image as it is.
    diameter
        Size of the cells (px) that set the scale; None where nothing was rescaled.
    """

    key: str
    request: SegmentRequest
    summary: Summary
    shown: InstanceConfig
    table_of: InstanceConfig
    wanted: InstanceConfig
    edited: bool = False
    kept: bool = True
    diameter: float | None = None

    @property
    def sliders(self) -> Sliders:
        """Whether the sliders act on it."""
        return "edited" if self.edited else "live" if self.kept else "lost"


class Results:
    """Results by image; asks for derivations, one in flight for each result.

    Parameters
    ----------
    jobs
        Where derivations are booked.
    submit
        Sends a request to the engine.
    at_rest
        Called on another thread when sliders have rested; shall call `tables`.
    """

    def __init__(
        self, jobs: JobBook, submit: Callable[[Request], None], at_rest: Callable[[], None]
    ) -> None:
        self._jobs = jobs
        self._submit = submit
        self._at_rest = at_rest
        self._by_image: dict[str, ResultState] = {}
        self._timer: threading.Timer | None = None

    def of_image(self, image_key: str | None) -> ResultState | None:
        """Newest result of an image."""
        return self._by_image.get(image_key) if image_key is not None else None

    def get(self, key: str) -> ResultState | None:
        """The result of that key, if it is the newest of its image."""
        return next((r for r in self._by_image.values() if r.key == key), None)

    def all(self) -> list[ResultState]:
        """The newest of each image."""
        return list(self._by_image.values())

    def put(self, result: ResultState) -> None:
        """Make it the newest result of its image."""
        self._by_image[result.request.source.key] = result

    def remove(self, result: ResultState) -> None:
        self._by_image.pop(result.request.source.key, None)

    def lose_all(self) -> None:
        """The engine keeps nothing any more."""
        for result in self._by_image.values():
            result.kept = False

    def want(self, result: ResultState, config: InstanceConfig) -> None:
        """A slider moved: derive at once or after the derivation that runs."""
        if result.edited or not result.kept:
            return
        result.wanted = config
        self.derive(result)
        self._start_timer()

    def derive(self, result: ResultState, table: bool = False) -> None:
        """Ask for the wanted setting unless a derivation of this result is in flight."""
        if result.edited or not result.kept:
            return
        if result.wanted == (result.table_of if table else result.shown):
            return
        if self._jobs.find("derive", result.key) is not None:
            return
        request = replace(result.request, instances=result.wanted)
        job = self._jobs.open("derive", result.key, request)
        self._submit(Derive(job.number, result.key, result.wanted, table))

    def tables(self) -> None:
        """Sliders rest: ask for the tables that are behind."""
        for result in self._by_image.values():
            if self._jobs.find("derive", result.key) is not None:
                self._start_timer()
            else:
                self.derive(result, table=True)

    @property
    def resting(self) -> bool:
        """No slider has moved lately."""
        return self._timer is None or not self._timer.is_alive()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def show(self, session: Session) -> None:
        """Set the session's fields that follow the chosen image's result."""
        source = session.image
        result = self.of_image(source.key if source is not None else None)
        if result is None:
            session.sliders, session.result_key, session.summary = "none", "", ""
            session.found_diameter = None
        else:
            same = result.request.model == session.model
            session.found_diameter = result.diameter if same else None
            session.sliders = result.sliders
            session.result_key = result.key
            source = result.request.source
            session.summary = summary_line(
                result.summary, source.pixel_size_um, source.z_step_um
            )
        session.sliders_note = SLIDER_WORDS[session.sliders]
        if result is not None and result.sliders == "live" and not result.summary.n_objects:
            session.sliders_note = nothing_found_words(result.request)

    def _start_timer(self) -> None:
        self.close()
        self._timer = threading.Timer(REST_S, self._at_rest)
        self._timer.daemon = True
        self._timer.start()
