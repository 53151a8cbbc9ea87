"""Intents: what a button asks for, frozen at the moment it was pressed."""

from __future__ import annotations

from dataclasses import dataclass

from napari_sa2net.app.session import ImageSource, Session
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.engine.protocol import Segment, Window
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
        source = self.source
        return Segment(
            job=job,
            image=source.data,
            model=self.model,
            axes=source.axes,
            channels=source.channels,
            normalize=self.normalize,
            predict=self.predict,
            instances=self.instances,
            pixel_size_um=source.pixel_size_um,
            keep_as=self.key,
            window=self.window,
        )


def segment_request(session: Session, generation: int, key: str) -> SegmentRequest:
    """Freeze the session's settings into a request.

    Raises
    ------
    ImageError
        There is no image, or "view" was chosen and the view shows nothing of it.
    """
    source = session.image
    if source is None:
        raise ImageError("There is no image to segment. Open one, or try a sample image.")
    box = None
    if session.where == "view":
        box = source.view
        if box is None or box[1] <= box[0] or box[3] <= box[2]:
            raise ImageError(
                "The view shows no part of this image. Move the camera over it, "
                "or choose the whole image."
            )
    index = source.plane if session.planes == "current" else None
    return SegmentRequest(
        source=source,
        generation=generation,
        key=key,
        model=session.model,
        predict=session.predict,
        instances=session.instances,
        normalize=session.normalize,
        window=Window(index=index, box=box),
    )
