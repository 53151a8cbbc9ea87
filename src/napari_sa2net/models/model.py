"""A loaded model: network, card, and where it came from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from napari_sa2net.errors import SettingsError
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.registry import find_model, is_model_name, model_not_found
from napari_sa2net.nn import Network


@dataclass(frozen=True, eq=False)
class Model:
    """A network ready to run.

    Attributes
    ----------
    net : SA2Net or FocalUNet
        In eval mode, float32, on the CPU.
    card : ModelCard
    path : Path or None
        File it was read from; None for a network made in memory.
    sha256 : str
        Of the file, hexadecimal; empty for a network made in memory.
    """

    net: Network
    card: ModelCard
    path: Path | None = None
    sha256: str = ""

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.card.name

    @property
    def diameter(self) -> float | None:
        """Object diameter that the network was trained at, in pixels."""
        return self.card.diameter


def load_model(model: str | os.PathLike[str] | Model) -> Model:
    """Load a model by name or path.

    Parameters
    ----------
    model : str, path or Model
        A bundled or registered name, or a path: our file or a published checkpoint. A
        loaded Model is returned as it is.

    Raises
    ------
    SettingsError
        If `model` is neither of these.
    ModelNotFoundError
        If there is no model and no file of that name.
    CheckpointError
        If the file cannot be used; the subclass and its message say why.
    """
    from napari_sa2net.models.file import open_model

    if isinstance(model, Model):
        return model
    if not isinstance(model, (str, os.PathLike)):
        raise SettingsError(
            f"model is {model!r}; give a name such as 'nuclei', the path of a model file, or "
            "what load_model returned."
        )
    if isinstance(model, str) and is_model_name(model):
        entry = find_model(model)
        if entry is not None:
            loaded = open_model(entry.path)
            # A registered model is called what its file is called.
            card = loaded.card.model_copy(update={"name": entry.name})
            return Model(loaded.net, card, loaded.path, loaded.sha256)
        if not Path(model).exists() and not Path(model).suffix:
            raise model_not_found(model)
    return open_model(model)
