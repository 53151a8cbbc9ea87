"""Models in the formats of other programs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_sa2net.config import n_classes
from napari_sa2net.errors import SettingsError
from napari_sa2net.files import user_data_dir, write_atomically
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.file import Model, load_model
from napari_sa2net.models.registry import ONNX_SUFFIX, export_model, free_destination
from napari_sa2net.nn import (
    ATTENTION_NAMES,
    STRIDE,
    Network,
    SA2Net,
    capture_attention,
    network_config,
)
from napari_sa2net.provenance import versions

#: Version of ONNX's operators; 20 is the first with all that a network is made of.
OPSET = 20
IMAGE, LOGITS = "image", "logits"


def export_as(
    model: str | os.PathLike[str] | Model,
    destination: str | os.PathLike[str],
    *,
    attention: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a model for other programs; which format, the ending of the path tells.

    Parameters
    ----------
    model : str, path or Model
    destination : path
        ``.onnx`` for ONNX; anything else, or a folder, for a copy of a named model's file.
    attention : bool
        ONNX gives the attention maps too.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path of the file.

    Raises
    ------
    ModelNotFoundError, CheckpointError
        If there is no such model, or it cannot be read.
    OutputError
        If the destination exists or cannot be written.
    SettingsError
        If a package is missing that writes the format, or it has no attention maps.
    """
    target = Path(destination).expanduser()
    if target.suffix.lower() == ONNX_SUFFIX and not target.is_dir():
        return export_onnx(model, target, attention=attention, overwrite=overwrite)
    if attention:
        raise SettingsError(
            f"Attention maps go into ONNX files alone. Let the name end with {ONNX_SUFFIX}."
        )
    if isinstance(model, str):
        return export_model(model, target, overwrite)
    raise SettingsError("Give the name of a model, or a path that ends with .onnx.")


def needed(package: str, extra: str) -> Any:
    """A package of an extra.

    Raises
    ------
    SettingsError
        If it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise SettingsError(
            f"This needs {package}, which is not installed ({error}). Install it with: "
            f'pip install "napari-sa2net[{extra}]"'
        ) from error


# --------------------------------------------------------------------------------------------
# ONNX


def export_onnx(
    model: str | os.PathLike[str] | Model,
    destination: str | os.PathLike[str],
    *,
    attention: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a model as an ONNX file, which runs with ONNX Runtime and without this package.

    Parameters
    ----------
    model : str, path or Model
    destination : path
    attention : bool
        Give the attention maps as further outputs, under the names of `ATTENTION_NAMES`.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path of the file. Its input ``image`` is float32 (batch, channels, height, width), any
    batch, height and width multiples of 16; its output ``logits`` has the size of the image.
    The file's metadata says what goes in and what comes out; see `onnx_metadata`.

    Raises
    ------
    ModelNotFoundError, CheckpointError, OutputError, SettingsError
        As of `export_as`.
    """
    target = free_destination(Path(destination).expanduser(), overwrite)
    needed("onnxscript", "onnx")
    loaded = load_model(model)
    content = onnx_bytes(loaded.net, onnx_metadata(loaded), attention)
    return write_atomically(target, content)


def onnx_metadata(model: Model) -> dict[str, str]:
    """What an ONNX file says of a model: texts by name; what has structure, as JSON.

    Parameters
    ----------
    model : Model

    Returns
    -------
    dict of str to str
        ``outputs`` are the channels of ``logits`` in order: of the first ``n_classes`` one is
        right (softmax over them; sigmoid where it is one alone), each other one is a value in
        0…1 by itself (sigmoid). ``input`` and ``object_size_px`` say how an image is brought
        in; ``card`` is the whole model card.
    """
    card = model.card
    said = {
        "name": card.name,
        "description": card.description,
        "licence": card.licence,
        "outputs": json.dumps(card.classes),
        "n_classes": str(n_classes(card.classes)),
        "activation": activation(card),
        "object_size_px": "" if card.diameter is None else f"{card.diameter:g}",
        "channel_order": card.input.channel_order
        + (", a grey image in all three" if card.input.channel_order != "any" else ""),
        "normalisation": normalisation(card),
        "input": card.input.model_dump_json(),
        "size_multiple": str(STRIDE),
        "card": card.to_json(),
        "sha256": model.sha256,
        "producer": f"napari-sa2net {_version()}",
    }
    return {key: text for key, text in said.items() if text}


def _version() -> str:
    return versions().get("napari-sa2net", "")


def activation(card: ModelCard) -> str:
    """How logits become probabilities, in words."""
    n, total = n_classes(card.classes), len(card.classes)
    first = "sigmoid" if n == 1 else "softmax"
    if total == n:
        return f"{first} of all outputs"
    return f"{first} of outputs 0 to {n - 1}, sigmoid of the others"


def normalisation(card: ModelCard) -> str:
    """How an image's values become those of the input, in words."""
    said, clipped = card.input, "then clipped to -0.5 … 1.5"
    return {
        "percentile": f"percentile {said.low:g} becomes 0 and percentile {said.high:g} 1, each "
        f"channel by itself, {clipped}",
        "divide": f"divided by {said.divisor:g}, {clipped}",
        "range": f"the least value becomes 0 and the greatest 1, all channels together, "
        f"{clipped}",
        "none": "values as they are",
    }[said.normalization]


def kept_onnx(model: Model, anew: bool = False) -> Path:
    """File of a model as ONNX, made once and kept among the user's files, by its weights.

    Parameters
    ----------
    model : Model
    anew : bool
        Make it again, since the one that is kept cannot be read.

    Raises
    ------
    SettingsError, OutputError
        If a package is missing; if it cannot be kept.
    """
    path = user_data_dir() / "engines" / f"{weights_sha256(model.net)}-{OPSET}{ONNX_SUFFIX}"
    if anew or not path.is_file():
        write_atomically(path, onnx_bytes(model.net, onnx_metadata(model)))
    return path


def weights_sha256(net: Network) -> str:
    """SHA-256 of what a network computes: its shape and all its weights."""
    digest = hashlib.sha256(network_config(net).model_dump_json().encode())
    for name, weight in sorted(net.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class _WithMaps(nn.Module):
    """A network that gives its attention maps beside its logits."""

    def __init__(self, net: Network, names: tuple[str, ...]) -> None:
        super().__init__()
        self.net, self.names = net, names

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute logits and maps."""
        with capture_attention(self.net) as maps:
            logits = self.net(x)
        return (logits, *(maps[name] for name in self.names))


def map_names(net: Network) -> tuple[str, ...]:
    """Names of the attention maps that a network has."""
    stages = dict(zip(("aua_8", "aua_4", "aua_2", "aua_1"), net.gates, strict=True))
    local = isinstance(net, SA2Net)
    return tuple(name for name in ATTENTION_NAMES if stages.get(name, local))


def onnx_bytes(net: Network, metadata: dict[str, str], attention: bool = False) -> bytes:
    """A network as the content of an ONNX file.

    Parameters
    ----------
    net : SA2Net or FocalUNet
        In evaluation, float32, on the CPU.
    metadata : dict of str to str
    attention : bool
        As of `export_onnx`.

    Raises
    ------
    SettingsError
        If a package is missing.
    """
    onnx = needed("onnx", "onnx")
    needed("onnxscript", "onnx")
    maps = map_names(net) if attention else ()
    # A batch of one, or of one row, would be taken for a constant.
    example = torch.rand(2, net.in_channels, 4 * STRIDE, 5 * STRIDE)
    rows, columns = torch.export.Dim("rows"), torch.export.Dim("columns")
    sizes = {0: torch.export.Dim("batch"), 2: STRIDE * rows, 3: STRIDE * columns}
    with torch.no_grad(), _silent():
        program = torch.onnx.export(
            _WithMaps(net, maps) if maps else net,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(sizes,),
            input_names=[IMAGE],
            output_names=[LOGITS, *maps],
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    # What is known of the graph while it is made is of no use afterwards, and large.
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.helper.set_model_props(proto, metadata)
    proto.producer_name, proto.producer_version = "napari-sa2net", _version()
    content: bytes = proto.SerializeToString()
    return content


@contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's words on other packages and on its own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
