"""What the Models page shows, as evented state."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from psygnal import SignalGroupDescriptor

from napari_sa2net.app.session import ErrorInfo
from napari_sa2net.models.registry import ModelEntry
from napari_sa2net.training.comparison import Comparison


@dataclass(frozen=True)
class Family:
    """Where a model comes from and what came of it.

    Attributes
    ----------
    parent
        Name of the model that it learned from, as it is called now, else as the card says;
        empty if it names none.
    parent_here
        The parent is in the list.
    children
        Names of the models in the list that learned from it.
    """

    parent: str = ""
    parent_here: bool = False
    children: tuple[str, ...] = ()


@dataclass(frozen=True)
class Said:
    """What the last action did.

    Attributes
    ----------
    removed
        File of the model that was removed, which can be put back; None otherwise.
    """

    text: str
    removed: Path | None = None


@dataclass
class ModelsState:
    """Evented; written by the controller, read by the page.

    Attributes
    ----------
    entries
        All models: bundled, the user's, those kept aside.
    problems
        Files in the folder that are no models, in words.
    chosen
        Name of the model whose card is shown; empty if there is none.
    families
        By name; a model is missing until its file was looked at.
    busy
        What is being done, in words; empty if nothing is.
    said, error
        What the last action did, or what went wrong.
    other
        Name of the model that the chosen one is compared with; empty if there is no other.
    folder, has_corrections
        Training set to compare on, and whether it holds any.
    comparing, comparison, cancelled
        Whether two models are being compared; the result; the last one was cancelled.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    entries: tuple[ModelEntry, ...] = ()
    problems: tuple[str, ...] = ()
    chosen: str = ""
    families: dict[str, Family] = field(default_factory=dict)
    busy: str = ""
    said: Said | None = None
    error: ErrorInfo | None = None
    other: str = ""
    folder: Path = field(default_factory=Path)
    has_corrections: bool = False
    comparing: bool = False
    comparison: Comparison | None = None

    def entry(self, name: str | None = None) -> ModelEntry | None:
        """The chosen model, or that of a name."""
        wanted = self.chosen if name is None else name
        return next((entry for entry in self.entries if entry.name == wanted), None)
