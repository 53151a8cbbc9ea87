"""Model files: ours (safetensors with a card) and what both published scripts save."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from napari_sa2net.config import NetworkConfig
from napari_sa2net.errors import (
    CardError,
    CorruptCheckpointError,
    NonFiniteWeightsError,
    SettingsError,
)
from napari_sa2net.files import write_atomically
from napari_sa2net.models.card import (
    CARD_KEY,
    ModelCard,
    card_of_header,
    is_safetensors,
    open_checked,
    read_header,
)
from napari_sa2net.models.checkpoint import build_network, published_card, read_published
from napari_sa2net.models.registry import find_model, is_model_name, model_not_found
from napari_sa2net.nn import Network, network_config

# --------------------------------------------------------------------------------------------
# A loaded model: network, card, and where it came from.


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
    base : Model, optional
        What it was, where the encoder has the statistics of an image (`Predictor.adapted`).
    """

    net: Network
    card: ModelCard
    path: Path | None = None
    sha256: str = ""
    base: Model | None = None

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


logger = logging.getLogger(__name__)

FLOAT16_MAX = torch.finfo(torch.float16).max


def save_model(
    path: str | os.PathLike[str],
    net: Network,
    card: ModelCard,
    dtype: Literal["float32", "float16"] = "float32",
) -> Path:
    """Write a model file; atomically, so a half-written one is never seen.

    Parameters
    ----------
    path : path
        An existing file is replaced.
    net : SA2Net or FocalUNet
        On any device. Learned focal exponents go into the card's network.
    card : ModelCard
        Its network must have the sizes of `net`.
    dtype : "float32" or "float16"
        Of the convolutions. Vectors (norms, biases) stay float32: they are few, and a
        running variance may be too small or large for float16.

    Returns
    -------
    Path of the file.

    Raises
    ------
    CardError
        If the card does not fit the network.
    NonFiniteWeightsError
        If a weight is NaN or infinite.
    OutputError
        If the file cannot be written.
    """
    # A fixed γ lives in the card; a learned one becomes fixed when it is saved.
    network = network_config(net)
    learned = {"gamma": network.gamma, "se_gamma": network.se_gamma}
    if card.network.model_copy(update=learned) != network:
        raise CardError(
            f"The card says {_shape(card.network)}, the network has {_shape(network)}. "
            "Make the card for it."
        )
    card = card.model_copy(update={"network": network})
    tensors = {
        key: _to_store(key, value, dtype)
        for key, value in net.state_dict().items()
        if not key.endswith(".focal.gamma")
    }
    data = safetensors.torch.save(tensors, metadata={CARD_KEY: card.to_json()})
    return write_atomically(path, data)


def _shape(network: NetworkConfig) -> str:
    shape = network.model_dump(mode="json", exclude={"gamma", "se_gamma"})
    return ", ".join(f"{key} {value}" for key, value in shape.items())


def as_stored(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they come back from a file of float16."""
    return {
        key: value.half().to(value.dtype) if _fits_half(value) else value
        for key, value in weights.items()
    }


def _fits_half(value: Tensor) -> bool:
    floating = value.is_floating_point() and value.ndim > 1
    return floating and float(value.abs().max()) < FLOAT16_MAX


def _to_store(key: str, value: Tensor, dtype: str) -> Tensor:
    value = value.detach().cpu().contiguous()
    if not value.is_floating_point():
        return value
    value = value.float()
    if not torch.isfinite(value).all():
        raise NonFiniteWeightsError(
            f"The weight {key} holds NaN or infinity, so the model is not saved. "
            "Train again from an earlier state, with a lower learning rate."
        )
    if dtype == "float16" and _fits_half(value):
        value = value.half()
    return value


def load_checkpoint(path: str | os.PathLike[str]) -> Network:
    """Load the network of a model file or of a published checkpoint.

    The format is recognised by content, never by suffix.

    Parameters
    ----------
    path : path
        Our safetensors file, the dict of the published MoNuSeg/GlaS script, or the bare
        state dict of the ISIC/SegPC script.

    Returns
    -------
    SA2Net or FocalUNet
        Float32, on the CPU, in eval mode.

    Raises
    ------
    CheckpointPathError
        Missing, a folder, or unreadable.
    CorruptCheckpointError
        Empty, truncated or damaged.
    UnsafeCheckpointError
        A pickle that holds more than tensors and plain values.
    ForeignCheckpointError
        Another kind of file, or another network.
    CheckpointShapeError, CheckpointDtypeError, NonFiniteWeightsError
        Weights that no SA2-Net has.
    CardError
        Our file without a usable card.
    """
    with open_checked(path) as file:
        net, _ = _load(file, Path(path))
    return net


def open_model(path: str | os.PathLike[str]) -> Model:
    """Load network and card of a model file or a published checkpoint.

    A published checkpoint gets the card that its script implies; the unused weights that
    were left out are in ``card.dropped_keys``.

    Raises
    ------
    CheckpointError
        As `load_checkpoint`.
    """
    path = Path(path).expanduser()
    with open_checked(path) as file:
        # One handle for both, so that hash and weights are of the same file even if it is
        # replaced meanwhile.
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        net, card = _load(file, path)
    return Model(net, card, path.absolute(), sha256)


def _load(file: BufferedReader, path: Path) -> tuple[Network, ModelCard]:
    file.seek(0)
    if is_safetensors(file.read(9)):
        return _load_ours(file, str(path))
    published = read_published(file, str(path))
    net, dropped = build_network(published.state_dict, str(path), drop_unused=True)
    if dropped:
        logger.info(
            "%s: left out %d weights that the published network never uses: %s",
            path,
            len(dropped),
            ", ".join(dropped),
        )
    return net, published_card(path, net, dropped, script=published.script)


def _load_ours(file: BufferedReader, where: str) -> tuple[Network, ModelCard]:
    card = card_of_header(read_header(file, where), where)
    file.seek(0)
    try:
        state_dict = safetensors.torch.load(file.read())
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CorruptCheckpointError(
            f"{where} is damaged ({error}). Download or copy it again."
        ) from error
    net, _ = build_network(state_dict, where, card.network)
    return net, card
