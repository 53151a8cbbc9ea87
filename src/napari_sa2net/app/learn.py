"""What the Learn page does, without a page: learning, pausing, judging, choosing."""

from __future__ import annotations

from psygnal import Signal

from napari_sa2net.app.controllers import SegmentController
from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.learn_layers import LearnLayers
from napari_sa2net.app.learn_run import LearnRun
from napari_sa2net.app.trainer import MakeClient
from napari_sa2net.app.why import DIFFERENCE, PREVIEW, Overlay
from napari_sa2net.engine.client import EngineClient


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
            self._closed = True
            if self._trainer is not None:
                self._trainer.leave()
                self._trainer = None
        self._layers.close()
        self.set.close()
        self._worker.shutdown(wait=False, cancel_futures=True)
