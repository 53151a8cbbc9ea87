"""Intents: what a button asks for, frozen at the moment it was pressed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from napari_sa2net.app.session import ImageSource, Session
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.engine.protocol import Explain, Segment, Window
from napari_sa2net.errors import ImageError


@dataclass(frozen=True, eq=False)
class SegmentRequest:
    """Everything a segmentation depends on.

    Attributes
    ----------
    source
        The image as it was.
    generation
        Number of the image's content; a result of an older generation is dropped.
    key
        Name of the result, see `SegmentOutcome`.
    """

    source: ImageSource
    generation: int
    key: str
    model: str
    predict: PredictConfig
    instances: InstanceConfig
    normalize: bool
    window: Window

    def to_engine(self, job: int) -> Segment:
        """The engine's request; its image is still the array itself."""
        return Segment(**self._fields(job))

    def may_replace(self, former: SegmentRequest) -> bool:
        """Whether the labels may take the place of a former result of the image."""
        return self.window in (Window(), former.window)

    def adds_to(self, former: SegmentRequest) -> bool:
        """Whether the cells of a former result stay, but for those of this part of the image.

        A view or a plane says nothing of the cells elsewhere.
        """
        return self.window not in (Window(), former.window) and not isinstance(
            former, ExplainRequest
        )

    def _fields(self, job: int) -> dict[str, Any]:
        source, predict = self.source, self.predict
        if source.contrast is not None and self.normalize:
            predict = predict.model_copy(update={"contrast": source.contrast})
        return {
            "job": job,
            "image": source.data,
            "model": self.model,
            "axes": source.axes,
            "channels": source.channels,
            "normalize": self.normalize,
            "predict": predict,
            "instances": self.instances,
            "pixel_size_um": source.pixel_size_um,
            "z_step_um": source.z_step_um,
            "keep_as": self.key,
            "window": self.window,
        }


class ExplainRequest(SegmentRequest):
    """A segmentation of one plane that also shows why."""

    def to_engine(self, job: int) -> Explain:
        """The engine's request; its image is still the array itself."""
        return Explain(**self._fields(job))

    def adds_to(self, former: SegmentRequest) -> bool:
        """Never: its layer is looked into, and has the labels that the engine knows."""
        return False

    def may_replace(self, former: SegmentRequest) -> bool:
        """Not a result of more or other than this: a stack for one of its planes."""
        return isinstance(former, ExplainRequest) or former.window == self.window


def as_seen(source: ImageSource, session: Session) -> ImageSource:
    """The source with the channel that is shown, where nobody has chosen any.

    A model that takes just as many channels as there are gets all of them.
    """
    if source.channels is not None or source.seen_channel is None:
        return source
    card = next((one.card for one in session.models if one.name == session.model), None)
    taken = card.network.in_channels if card is not None else 3
    axes = source.axes or ""
    n = source.shape[axes.index("C")] if "C" in axes else 1
    if n == taken and (taken > 3 or not session.normalize):
        return source
    return replace(source, channels=(source.seen_channel,))


def segment_request(session: Session, generation: int, key: str) -> SegmentRequest:
    """Freeze the session's settings into a request.

    Raises
    ------
    ImageError
        There is no image, or "view" was chosen and the view shows nothing of it.
    """
    source = _source(session, "segment")
    index = source.plane if session.planes == "current" else None
    return SegmentRequest(*_frozen(session, source, generation, key, index))


def explain_request(session: Session, generation: int, key: str) -> ExplainRequest:
    """The same for an explanation; of a stack the plane that is shown.

    Raises
    ------
    ImageError
        As of `segment_request`.
    """
    source = _source(session, "look into")
    return ExplainRequest(*_frozen(session, source, generation, key, source.plane))


def _source(session: Session, verb: str) -> ImageSource:
    if session.image is None:
        raise ImageError(f"There is no image to {verb}. Open one, or try a sample image.")
    return session.image


def _frozen(
    session: Session,
    source: ImageSource,
    generation: int,
    key: str,
    index: tuple[int, ...] | None,
) -> tuple[Any, ...]:
    box = None
    if session.where == "view":
        box = source.view
        if box is None or box[1] <= box[0] or box[3] <= box[2]:
            raise ImageError(
                "The view shows no part of this image. Move the camera over it, "
                "or choose the whole image."
            )
    return (
        source,
        generation,
        key,
        session.model,
        session.predict,
        session.instances,
        session.normalize,
        Window(index=index, box=box),
    )
