"""Taking models in and comparing them, as client and engine speak of it."""

from __future__ import annotations

from dataclasses import dataclass

from napari_sa2net.training.comparison import Comparison, Part

__all__ = ["Compare", "Comparison", "ImportModel", "Imported", "Part"]


@dataclass(frozen=True)
class ImportModel:
    """Take a model file or published checkpoint into the list; done with `Imported`.

    Attributes
    ----------
    path
        The file.
    name
        What to call it; empty: as the file, with a number if that is taken.
    """

    job: int
    path: str
    name: str = ""


@dataclass(frozen=True)
class Imported:
    """A model that was taken in.

    Attributes
    ----------
    wanted
        The name that it would have had if that were free.
    n_dropped
        Weights that the published network never uses, and that were left out.
    """

    name: str
    path: str
    wanted: str
    n_dropped: int


@dataclass(frozen=True)
class Compare:
    """Score two models on the same images; done with a `Comparison`.

    Attributes
    ----------
    first, second
        Names or paths.
    training_set
        Folder of corrections; empty: only the reference set is scored.
    """

    job: int
    first: str
    second: str
    training_set: str = ""
    device: str = "auto"
