"""Models in the formats of other programs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_sa2net.config import DISTANCE, InputConfig, n_classes
from napari_sa2net.data.levels import apply_levels, measure_levels
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.errors import CheckpointError, OutputError, SettingsError
from napari_sa2net.files import user_data_dir, write_atomically
from napari_sa2net.models.card import ModelCard, read_card
from napari_sa2net.models.file import Model, load_model, save_model
from napari_sa2net.models.registry import (
    ONNX_SUFFIX,
    SUFFIX,
    ZOO_SUFFIX,
    bundled_models_dir,
    export_model,
    free_destination,
    limits_of,
)
from napari_sa2net.nn import (
    ATTENTION_NAMES,
    STRIDE,
    Network,
    SA2Net,
    activate,
    capture_attention,
    network_config,
)
from napari_sa2net.provenance import versions

#: Version of ONNX's operators; 20 is the first with all that a network is made of.
OPSET = 20
IMAGE, LOGITS, PROBABILITIES = "image", "logits", "probabilities"


def export_as(
    model: str | os.PathLike[str] | Model,
    destination: str | os.PathLike[str],
    *,
    attention: bool = False,
    authors: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a model for other programs; which format, the ending of the path tells.

    Parameters
    ----------
    model : str, path or Model
    destination : path
        ``.onnx`` for ONNX, ``.zip`` for a package of the BioImage Model Zoo, ``.safetensors``
        or a folder for a copy of a named model's file. Other endings are refused.
    attention : bool
        ONNX gives the attention maps too.
    authors : sequence of str
        Who made the model, for the package.
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
    ending = "" if target.is_dir() else target.suffix.lower()
    if authors and ending != ZOO_SUFFIX:
        raise SettingsError(
            f"Authors go into packages alone. Let the name end with {ZOO_SUFFIX}."
        )
    if ending == ONNX_SUFFIX:
        return export_onnx(model, target, attention=attention, overwrite=overwrite)
    if attention:
        raise SettingsError(
            f"Attention maps go into ONNX files alone. Let the name end with {ONNX_SUFFIX}."
        )
    if ending == ZOO_SUFFIX:
        return export_bioimageio(model, target, authors=authors, overwrite=overwrite)
    if isinstance(model, str):
        return export_model(model, target, overwrite)
    raise SettingsError(
        f"Give the name of a model, or a path that ends with {ONNX_SUFFIX} or {ZOO_SUFFIX}."
    )


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


class _Probabilities(nn.Module):
    """A network that gives probabilities."""

    def __init__(self, net: Network, classes: int) -> None:
        super().__init__()
        self.net, self.classes = net, classes

    def forward(self, x: Tensor) -> Tensor:
        """Compute probabilities."""
        return activate(self.net(x), self.classes)


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
    maps = map_names(net) if attention else ()
    return _onnx(
        _WithMaps(net, maps) if maps else net, net.in_channels, (LOGITS, *maps), metadata
    )


def _onnx(
    net: nn.Module, in_channels: int, outputs: Sequence[str], metadata: dict[str, str]
) -> bytes:
    onnx = needed("onnx", "onnx")
    needed("onnxscript", "onnx")
    # A batch of one, or of one row, would be taken for a constant.
    example = torch.rand(2, in_channels, 4 * STRIDE, 5 * STRIDE)
    rows, columns = torch.export.Dim("rows"), torch.export.Dim("columns")
    sizes = {0: torch.export.Dim("batch"), 2: STRIDE * rows, 3: STRIDE * columns}
    with torch.no_grad(), _silent():
        program = torch.onnx.export(
            net,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(sizes,),
            input_names=[IMAGE],
            output_names=list(outputs),
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


# --------------------------------------------------------------------------------------------
# Packages of the BioImage Model Zoo (bioimageio.spec, format 0.5)

#: Name of our own model file in a package, from which it is imported byte for byte.
ATTACHED = f"napari-sa2net{SUFFIX}"
#: Who made the bundled models.
OURS = "The napari-sa2net authors"
#: Side of the package's test image (px), where the model says none.
TEST_SIDE = 288
#: Pixels beside a result that have a say in it, all but less than 1e-3 of a probability.
CONTEXT = 128
_CITED = {
    "sa2net": (
        "Fiaz, Heidari, Anwer, Cholakkal: SA2-Net: Scale-aware Attention Network for "
        "Microscopic Image Segmentation. BMVC 2023",
        "10.48550/arXiv.2309.16661",
    ),
    "focal_unet": (
        "Yeung, Rundo, Sala, Schönlieb, Yang: Focal Attention Networks: optimising attention "
        "for biomedical image segmentation. ISBI 2022",
        "10.48550/arXiv.2111.00534",
    ),
}
_COLOURS = {"R": "red", "G": "green", "B": "blue"}


def export_bioimageio(
    model: str | os.PathLike[str] | Model,
    destination: str | os.PathLike[str],
    *,
    authors: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a model as a package of the BioImage Model Zoo (format 0.5).

    Parameters
    ----------
    model : str, path or Model
    destination : path
        Of the zip file.
    authors : sequence of str
        Names of who made the model. Unsaid: the authors of this package for a bundled model,
        nobody for another, which the Zoo does not take.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path of the file. It holds the network as ONNX and TorchScript, a test image with its
    result, documentation with a cover picture, and the model's own file, from which
    `import_model` takes it back. Its input ``image`` is float32 (batch, channel, y, x),
    normalised already as the documentation says; its output ``probabilities`` is float32
    (batch, channel, y, x), 0…1.

    Raises
    ------
    ModelNotFoundError, CheckpointError
        If there is no such model, or it cannot be read.
    OutputError
        If the destination exists or cannot be written.
    SettingsError
        If the extra ``bioimageio`` is missing, or an author's name is none.

    Examples
    --------
    >>> export_bioimageio("nuclei", "nuclei.zip", authors=["A. Name"])  # doctest: +SKIP
    PosixPath('nuclei.zip')
    """
    target = free_destination(Path(destination).expanduser(), overwrite)
    if isinstance(authors, str):
        authors = [authors]
    for name in authors:
        if not name.strip() or re.search(r"[/\\\0\n]", name):
            raise SettingsError(f"{name!r} is no author's name. Give it without slashes.")
    loaded = load_model(model)
    for package in ("onnx", "onnxscript", "bioimageio.spec"):
        needed(package, "bioimageio")
    if not authors and loaded.path is not None and loaded.path.parent == bundled_models_dir():
        authors = [OURS]
    with tempfile.TemporaryDirectory() as folder, _silent():
        package = _package(loaded, authors, Path(folder))
        save = import_module("bioimageio.spec").save_bioimageio_package_to_stream
        return write_atomically(target, lambda file: save(package, output_stream=file))


def _package(model: Model, authors: Sequence[str], folder: Path) -> Any:
    """Write the files of a package into an empty folder, and describe them (ModelDescr)."""
    from bioimageio.spec.common import FileDescr
    from bioimageio.spec.model import v0_5 as spec

    card = model.card
    network = _Probabilities(model.net, n_classes(card.classes)).eval()
    x = _test_input(card)
    with torch.no_grad():
        y = network(torch.from_numpy(x)).numpy()
        scripted = torch.jit.trace(network, torch.from_numpy(x), check_trace=False)
    np.save(folder / "test_input.npy", x)
    np.save(folder / "test_output.npy", y)
    torch.jit.save(scripted, str(folder / "model.pt"))
    metadata = {**onnx_metadata(model), "activation": f"done already: {activation(card)}"}
    outputs = (PROBABILITIES,)
    onnx = _onnx(network, model.net.in_channels, outputs, metadata)
    (folder / "model.onnx").write_bytes(onnx)
    iio.imwrite(folder / "cover.png", _cover(x[0], y[0], card))
    (folder / "README.md").write_text(_documentation(model), encoding="utf-8")
    _attach(model, folder / ATTACHED)

    def file(name: str) -> Any:
        return FileDescr(source=folder / name)

    side = _side(card)
    # A piece has to be larger than the halo around it; one size for all has no pieces.
    size = side if side else spec.ParameterizedSize(min=2 * CONTEXT + STRIDE, step=STRIDE)

    def out(axis: str) -> Any:
        reference = spec.SizeReference(tensor_id=IMAGE, axis_id=axis)
        if side:
            return spec.SpaceOutputAxis(id=axis, size=reference)
        return spec.SpaceOutputAxisWithHalo(id=axis, size=reference, halo=CONTEXT)

    return spec.ModelDescr(
        name=f"SA2-Net {_ascii(card.name)}"[:64].strip(),
        description=card.description[:1024] or f"The model {card.name} of napari-sa2net",
        authors=[spec.Author(name=name) for name in authors],
        cite=[spec.CiteEntry(text=text, doi=doi) for text, doi in _citations(card)],
        license=_licence(card, folder),
        tags=["segmentation", "cells", "2d", "pytorch", "sa2-net", "napari-sa2net"],
        documentation=file("README.md"),
        covers=[file("cover.png")],
        attachments=[file(ATTACHED)],
        inputs=[
            spec.InputTensorDescr(
                id=IMAGE,
                description="Image, normalised as the documentation says",
                axes=[
                    spec.BatchAxis(),
                    spec.ChannelAxis(channel_names=_channels(card)),
                    spec.SpaceInputAxis(id="y", size=size),
                    spec.SpaceInputAxis(id="x", size=size),
                ],
                test_tensor=file("test_input.npy"),
                data=spec.IntervalOrRatioDataDescr(type="float32"),
            )
        ],
        outputs=[
            spec.OutputTensorDescr(
                id=PROBABILITIES,
                description="Probability of each class; of the distance, its value",
                axes=[
                    spec.BatchAxis(),
                    spec.ChannelAxis(channel_names=_identifiers(card.classes)),
                    out("y"),
                    out("x"),
                ],
                test_tensor=file("test_output.npy"),
                data=spec.IntervalOrRatioDataDescr(type="float32", range=(0, 1)),
            )
        ],
        weights=spec.WeightsDescr(
            onnx=spec.OnnxWeightsDescr(
                source=folder / "model.onnx", opset_version=OPSET, parent="torchscript"
            ),
            torchscript=spec.TorchscriptWeightsDescr(
                source=folder / "model.pt",
                pytorch_version=torch.__version__.split("+")[0],
            ),
        ),
        config=spec.Config(napari_sa2net={k: v for k, v in metadata.items() if k != "card"}),
    )


def _attach(model: Model, path: Path) -> None:
    """The model's own file, byte for byte; made where it came of a published checkpoint."""
    try:
        if model.path is not None and read_card(model.path):
            path.write_bytes(model.path.read_bytes())
            return
    except CheckpointError:
        pass
    except OSError as error:
        raise OutputError(f"{model.path} cannot be copied ({error}).") from error
    save_model(path, model.net, model.card)


def _side(card: ModelCard) -> int | None:
    """Side of the square to which all images are brought, where it suits the network."""
    side = card.input.resize_to
    return side if side and side % STRIDE == 0 else None


def _test_input(card: ModelCard) -> NDArray[np.float32]:
    """Drawn nuclei of the model's object size as its input, float32 (1, C, H, W)."""
    side, diameter = _side(card) or TEST_SIDE, min(card.diameter or 20, 60)
    image, _ = synthetic_nuclei((side, side), 40, diameter=diameter, seed=1)
    channels = np.stack([image] * card.network.in_channels)
    samples = [channel.ravel() for channel in channels]
    levels = measure_levels(samples, card.input, normalize=True, complete=True)
    return apply_levels(channels, levels)[None]


def _cover(x: NDArray[Any], y: NDArray[Any], card: ModelCard) -> NDArray[np.uint8]:
    """The test image and how likely its pixels are of a cell, side by side."""
    cells = 1 - y[0] if card.classes[0] == "background" else y[0]
    grey = np.ptp(x[0])
    pair = [(x[0] - x[0].min()) / (grey if grey else 1), cells]
    picture = np.hstack([np.clip(one, 0, 1) for one in pair]) * 255
    return picture.round().astype(np.uint8)


def _ascii(text: str) -> str:
    """Text in the signs that a package's name may have."""
    return re.sub(r"[^A-Za-z0-9_+() -]", "-", text)


def _identifiers(names: Sequence[str]) -> list[str]:
    words = [re.sub(r"\W", "_", name) for name in names]
    return [word if word.isidentifier() else f"_{word}" for word in words]


def _channels(card: ModelCard) -> list[str]:
    order, n = card.input.channel_order, card.network.in_channels
    colours = [_COLOURS[sign] for sign in order] if order != "any" and n >= len(order) else []
    return [*colours, *(f"channel_{i}" for i in range(len(colours), n))]


def _citations(card: ModelCard) -> list[tuple[str, str]]:
    focal = any(gamma != 1 for gamma in (*card.network.gamma, *card.network.se_gamma))
    kinds = [card.network.kind, *(["focal_unet"] if focal else [])]
    return [_CITED[kind] for kind in dict.fromkeys(kinds)]


def _licence(card: ModelCard, folder: Path) -> Any:
    """The SPDX name with which the card's licence begins; its words as a file otherwise."""
    from bioimageio.spec.common import FileDescr
    from bioimageio.spec.generic.v0_3 import LicenseId
    from pydantic import TypeAdapter, ValidationError

    words = card.licence.strip()
    if not words:
        return None
    try:
        return TypeAdapter(LicenseId).validate_python(re.split("[;, ]", words)[0])
    except ValidationError:
        path = folder / "LICENSE.txt"
        path.write_text(words + "\n", encoding="utf-8")
        return FileDescr(source=path)


def _documentation(model: Model) -> str:
    """README of a package."""
    card = model.card
    classes = ", ".join(f"`{name}`" for name in _identifiers(card.classes))
    lines = [
        f"# {card.name}",
        card.description,
        f"A network of [napari-sa2net](https://github.com/napari-sa2net/napari-sa2net), with "
        f"{card.network.base_channels} base channels. napari-sa2net takes this package as it "
        "is (`sa2net models import FILE.zip`), prepares images and makes cells of the result. "
        "In other programs both are left to you:",
        "## What goes in",
        "The package does no preprocessing, since the format has no words for all of ours. "
        "The network wants a float32 image that is prepared like this:",
        *(f"{i}. {step}" for i, step in enumerate(_steps(card), 1)),
    ]
    if card.input.normalization == "percentile":
        lines.append(_RECIPE.format(low=card.input.low, high=card.input.high))
    lines += [
        "Larger images may be cut into pieces which overlap by "
        f"{CONTEXT} px on each side; what is nearer to a cut is not to be used.",
        "## What comes out",
        f"`{PROBABILITIES}`: {classes}, 0…1 ({activation(card)}; done already). "
        + _reading(card),
        "## Validation",
        "The package holds a test image of drawn nuclei, already prepared, and its result; "
        "`bioimageio test` compares them. On labelled images of your own: segment with "
        "napari-sa2net and score with `sa2net evaluate MASKS LABELS`.",
        *(
            f"- {data}: " + ", ".join(f"{key} {value:.3f}" for key, value in scores.items())
            for data, scores in card.scores.items()
        ),
        "## Limits",
        limits_of(card) or "Nothing is known of what it cannot.",
        "## Training",
        str(card.training.get("data") or "Not said."),
        f"Licence: {card.licence}" if card.licence else "Licence: not said.",
        "## Please cite",
        *(f"- {text}. doi:{doi}" for text, doi in _citations(card)),
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


_RECIPE = """```python
import numpy as np

def prepare(channel):  # one channel, before it is put together with the others
    channel = np.asarray(channel, float)
    low = np.percentile(channel, {low:g}, method="lower")
    high = np.percentile(channel, {high:g}, method="higher")
    return np.clip((channel - low) / (high - low), -0.5, 1.5).astype(np.float32)
```

Of several channels, each high value is taken to be at least a quarter of the widest channel's
range above its low value, so that an empty channel stays dark."""


def _steps(card: ModelCard) -> list[str]:
    """How an image is prepared, step by step."""
    said: InputConfig = card.input
    coloured = "red" in _channels(card)
    grey = "; a grey image goes into all three colours" if coloured else ""
    odd = {
        "divide": " Images whose values do not lie between 0 and that number are brought to "
        "0…1 by percentiles 1 and 99.8 instead."
    }
    steps = [
        f"Channels: {', '.join(_channels(card))}{grey}.",
        f"Values, as measured over the whole image: {normalisation(card)}."
        f"{odd.get(said.normalization, '')} NaN becomes 0.",
    ]
    if said.resize_to:
        steps.append(f"The whole image is resized to {said.resize_to} × {said.resize_to} px.")
    elif card.diameter:
        steps.append(f"It is resized so that objects are about {card.diameter:g} px across.")
    if not _side(card):
        steps.append(
            f"Height and width are filled up to multiples of {STRIDE}, at the bottom and at "
            "the right, by reflection."
        )
    return steps


def _reading(card: ModelCard) -> str:
    """How cells are made of the probabilities, in words."""
    first = card.classes[0]
    cells = "1 − `background`" if first == "background" else f"`{_identifiers([first])[0]}`"
    said = f"A pixel belongs to a cell where {cells} is at least {card.instance.foreground:g}. "
    if DISTANCE in card.classes:
        said += (
            "`distance` is how deep in its object a pixel lies, 0 at the edge and 1 in the "
            "middle: touching cells are cut where it dips between two middles. "
        )
    if card.instance.min_confidence > 0:
        said += (
            f"Objects of which it is nowhere as sure as {card.instance.min_confidence:g} are "
            "left out. "
        )
    return said + "Telling touching cells apart is no part of the package."
