"""The two formats of published SA2-Net checkpoints, read without running their pickles."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.serialization import MAGIC_NUMBER

from napari_sa2net.config import InputConfig, NetworkConfig
from napari_sa2net.errors import (
    CardError,
    CheckpointDtypeError,
    CheckpointError,
    CheckpointShapeError,
    CorruptCheckpointError,
    ForeignCheckpointError,
    NonFiniteWeightsError,
    UnsafeCheckpointError,
)
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.registry import MAX_NAME, SUFFIX, is_model_name
from napari_sa2net.nn import FocalExponent, Network, make_network, network_config
from napari_sa2net.words import listed

#: "folds": dict of the MoNuSeg/GlaS script; "bare": state dict of the ISIC/SegPC script.
Script = Literal["folds", "bare"]

EXPECTED = (
    "Expected is a model file of napari-sa2net, a package of one (*.zip), or a published "
    "SA2-Net checkpoint (*.pth.tar or *.pt)."
)
AGAIN = "Download or copy it again."
SAVE_AGAIN = (
    "If you trust its author, ask for the state dict alone: "
    "torch.save(net.state_dict(), 'weights.pt')"
)
#: What garbled pickles and zips provoke; lengths in them may be beyond all memory.
UNREADABLE = (ValueError, EOFError, OSError, MemoryError, OverflowError, zipfile.BadZipFile)
ZIP_START = b"PK\x03\x04"
#: Of every pickle since protocol 2, the oldest that torch writes.
PICKLE_START = b"\x80"
#: A legacy torch file is a few pickles one after the other; the weights follow.
LEGACY_PICKLES = 5
#: What state dicts are made of, all of it known to torch's safe loading.
HARMLESS_TORCH = re.compile(
    r"torch\.\w*Storage|torch\._utils\._rebuild_\w+|torch\.\w*Tensor|torch\.device"
    r"|torch\.nn\.parameter\.\w+|torch\._tensor\._rebuild_from_type_v2|torch\.Size"
    r"|torch\.storage\.\w+|torch\.(float|int|uint|bfloat|bool|complex)\w*|torch\.serialization\.\w+"
)
HARMLESS = {
    "collections.OrderedDict",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
}


@dataclass(frozen=True)
class Published:
    """State dict of a published checkpoint, and the script that wrote it."""

    state_dict: Mapping[str, object]
    script: Script


class _NumpyValue:
    """Stands in for numpy scalars (a loss, a score): nothing here needs their value.

    Replacing them means that no code of numpy runs on the file's bytes.
    """

    def __init__(self, *_args: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


SAFE_GLOBALS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_NumpyValue, "numpy.dtype"),
    (_NumpyValue, "numpy.core.multiarray.scalar"),
    (_NumpyValue, "numpy._core.multiarray.scalar"),
]


def read_published(file: BufferedReader, where: str) -> Published:
    """Read a published checkpoint.

    Raises
    ------
    CorruptCheckpointError, ForeignCheckpointError, UnsafeCheckpointError
    """
    _check_container(file, where)
    file.seek(0)
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS), warnings.catch_warnings():
            # Of other pickle protocols, which read just as well.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file of unknown origin provokes
        raise _why(file, where, error) from error
    if not isinstance(content, Mapping):
        raise ForeignCheckpointError(
            f"{where} holds a {type(content).__name__}, not a network's weights. {EXPECTED}"
        )
    inner = content.get("state_dict")
    if isinstance(inner, Mapping):
        return Published(inner, "folds")
    return Published(content, "bare")


def _check_container(file: BufferedReader, where: str) -> None:
    """Refuse what is neither a whole zip with a pickle nor a pickle."""
    file.seek(0)
    start = file.read(8)
    if len(start) < 8:
        raise CorruptCheckpointError(f"{where} has only {len(start)} bytes. {AGAIN}")
    if _is_zip(file):
        try:
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                pickled = any(name.endswith("/data.pkl") for name in names)
                # Torch reads weights without looking at their checksums.
                damaged = archive.testzip() if pickled else None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            raise CorruptCheckpointError(f"{where} is truncated or damaged. {AGAIN}") from error
        except (RuntimeError, NotImplementedError) as error:  # encrypted, odd compression
            raise ForeignCheckpointError(
                f"{where} is a zip of another kind. {EXPECTED}"
            ) from error
        if holds_package(names):
            raise ForeignCheckpointError(
                f"{where} is a package. It has to be imported first: sa2net models import FILE"
            )
        if not pickled:
            raise ForeignCheckpointError(f"{where} is a zip without weights. {EXPECTED}")
        if damaged:
            raise CorruptCheckpointError(f"{where} is damaged at {damaged}. {AGAIN}")
        if any("/code/" in name for name in names):
            raise UnsafeCheckpointError(
                f"{where} is a TorchScript program, which holds code, and is not run. "
                "Ask its author for the state dict."
            )
    elif start[:1] != PICKLE_START:
        # Not handed to torch at all; old pickles are told from other files for the message.
        names = _globals(file)
        if names:
            raise _unsafe(where, names)
        raise ForeignCheckpointError(f"{where} is not a checkpoint. {EXPECTED}")


def _why(file: BufferedReader, where: str, error: Exception) -> CheckpointError:
    """The error to raise for a file that torch refused."""
    try:
        names = _globals(file)
    except UNREADABLE:
        return CorruptCheckpointError(f"{where} is truncated or damaged. {AGAIN}")
    if names:
        return _unsafe(where, names)
    if not _is_zip(file) and not _is_legacy(file):
        return ForeignCheckpointError(f"{where} is a pickle, but holds no network. {EXPECTED}")
    if isinstance(error, pickle.UnpicklingError):
        # A whole pickle without imports, so not a truncated one.
        return UnsafeCheckpointError(
            f"{where} is pickled in a way that weights need not be, so it was not opened. "
            f"{SAVE_AGAIN}"
        )
    # Torch's own message is not shown: it advises to switch the safe loading off.
    return CorruptCheckpointError(f"{where} is truncated or damaged. {AGAIN}")


def holds_package(names: Sequence[str]) -> bool:
    """Whether files of a zip are those of a package of the BioImage Model Zoo."""
    return any(
        name in ("rdf.yaml", "bioimageio.yaml") or name.endswith((".bioimageio.yaml", SUFFIX))
        for name in names
    )


def _is_zip(file: BufferedReader) -> bool:
    file.seek(0)
    return file.read(4) == ZIP_START


def _is_legacy(file: BufferedReader) -> bool:
    """Whether it begins with the pickled number that torch wrote before it used zips."""
    file.seek(0)
    return any(arg == MAGIC_NUMBER for _, arg, _ in pickletools.genops(file))


def _globals(file: BufferedReader) -> list[str]:
    """Names that a pickle would import and that no state dict needs; nothing is run.

    Raises
    ------
    ValueError, EOFError, zipfile.BadZipFile
        If a torch file's pickle is truncated or damaged.
    """
    if _is_zip(file):
        with zipfile.ZipFile(file) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            with archive.open(name) as pickled:
                return _needless(set(_imports(pickled)))
    file.seek(0)
    start = file.read(1)
    file.seek(0)
    if start != PICKLE_START:
        try:
            return _needless(set(_imports(file)))
        except UNREADABLE:
            return []
    n_pickles = LEGACY_PICKLES if _is_legacy(file) else 1
    file.seek(0)
    found: set[str] = set()
    for _ in range(n_pickles):
        found.update(_imports(file))
    return _needless(found)


def _imports(file: IO[bytes]) -> Iterator[str]:
    """Qualified names that one pickle imports, read without running it."""
    texts: list[str] = []
    for op, arg, _ in pickletools.genops(file):
        if op.name in ("GLOBAL", "INST"):
            yield str(arg).replace(" ", ".")
        elif op.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif isinstance(arg, str):
            texts.append(arg)


def _needless(names: set[str]) -> list[str]:
    return sorted(
        name
        for name in names
        # Text files happen to parse as pickles, but do not import what Python can.
        if all(part.isidentifier() for part in name.split("."))
        and name not in HARMLESS
        and not HARMLESS_TORCH.fullmatch(name)
    )


def _unsafe(where: str, names: list[str]) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"{where} is a pickle that would run code when opened (it asks for "
        f"{listed(names)}), so it was not opened. {SAVE_AGAIN}"
    )


def published_card(
    path: Path, net: Network, dropped: tuple[str, ...], script: Script
) -> ModelCard:
    """The card that a published checkpoint would have.

    The MoNuSeg/GlaS script reads images as BGR, divides by 255 and resizes all of it to
    224 px. The ISIC/SegPC script resizes to 224 px, too, and brings each image (SegPC: the
    crop of a cell, with its nucleus as fourth channel) from its least to its greatest value.
    """
    colour = net.in_channels == 3
    if script == "folds":
        expected = InputConfig(
            channel_order="BGR" if colour else "any",
            normalization="divide",
            divisor=255,
            resize_to=224,
        )
        source = "MoNuSeg/GlaS"
    else:
        expected = InputConfig(
            channel_order="RGB" if colour else "any", normalization="range", resize_to=224
        )
        source = "ISIC/SegPC"
    return ModelCard(
        name=name_of_file(path),
        description=f"Imported from a checkpoint of the published {source} script.",
        network=network_config(net),
        classes=class_names(net.n_classes),
        input=expected,
        licence="not stated in the file; ask its author",
        dropped_keys=dropped,
    )


def class_names(n_classes: int) -> tuple[str, ...]:
    """Names for the classes of a checkpoint that does not name them."""
    if n_classes == 1:
        return ("foreground",)
    if n_classes == 2:
        return ("background", "foreground")
    return ("background", *(f"class {i}" for i in range(1, n_classes)))


def name_of_file(path: Path) -> str:
    """A model name made of a file's name, without the endings of checkpoints."""
    stem = re.sub(r"(\.(pth|pt|tar|ckpt|bin|safetensors|zip))+$", "", path.name, flags=re.I)
    name = re.sub(r"^\W+", "", re.sub(r"[^\w .-]+", "_", stem))[:MAX_NAME].rstrip(" .")
    if name and not is_model_name(name):  # a device of Windows
        name = f"model {name}"
    return name or "imported"


# --------------------------------------------------------------------------------------------
# From a state dict to a network, with every way in which it may not fit.

#: Weights that the published network builds but never uses in its forward pass.
UNUSED = re.compile(
    r"Multi_scale_Fuse\d+\..+"
    r"|up[1-4]\.AG\.weight\..+"
    r"|bottleneck\.gcn[1-4]\.dwconv(3x3|5x5)_1\.(weight|bias)"
)
#: Written by DataParallel in front of every key.
PARALLEL_PREFIX = "module."
COUNTER = ".num_batches_tracked"
ANOTHER = "Is it a checkpoint of another network?"


def build_network(
    state_dict: Mapping[str, object],
    where: str,
    config: NetworkConfig | None = None,
    drop_unused: bool = False,
) -> tuple[Network, tuple[str, ...]]:
    """Network of the sizes that the weights have.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Floating-point weights of any precision; ``num_batches_tracked`` may be missing.
    where : str
        Path, for messages.
    config : NetworkConfig, optional
        Which network it is; unsaid: the published SA2-Net.
    drop_unused : bool
        Leave out the weights that the published network never uses, instead of refusing
        them.

    Returns
    -------
    net : SA2Net or FocalUNet, float32, eval mode
    dropped : names of the weights left out, in the file's order

    Raises
    ------
    ForeignCheckpointError, CheckpointShapeError, CheckpointDtypeError,
    NonFiniteWeightsError, CorruptCheckpointError
    CardError
        If the weights have other sizes than `config`.
    """
    given = _tensors(state_dict, where)
    dropped = tuple(key for key in given if UNUSED.fullmatch(key)) if drop_unused else ()
    for key in dropped:
        del given[key]
    ours = config is not None
    in_channels, n_classes, base = sizes = _sizes(given, where, ours)
    if config is None:
        # Not validated as settings: absurd sizes are told apart below, by the weights.
        config = NetworkConfig.model_construct(
            in_channels=in_channels, n_classes=n_classes, base_channels=base
        )
    elif sizes != (config.in_channels, config.n_classes, config.base_channels):
        raise CardError(
            f"The card in {where} does not belong to its weights: they have {in_channels} "
            f"input channels, {n_classes} classes and {base} base channels. "
            "Get the file again from where it came."
        )
    # Without memory: shapes are compared before anything is allocated.
    with torch.device("meta"), _Unfilled():
        net = make_network(config)
    wanted = net.state_dict()
    for key in wanted:
        if key.endswith(COUNTER):
            given.setdefault(key, torch.tensor(0))
    _check_keys(given, wanted, where, ours)
    weights = {key: _checked(key, given[key], wanted[key], where) for key in wanted}
    net.load_state_dict(weights, assign=True)
    _set_exponents(net, config)
    return net.eval(), dropped


class _Unfilled(TorchFunctionMode):
    """Random first values, which are slow to draw, are left out."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _set_exponents(net: Network, config: NetworkConfig) -> None:
    """Put the focal exponents in: they are in no state dict, so still on the meta device."""
    modules = dict(net.named_modules())
    for path, values in (("up{}.AG", config.gamma), ("se.{}", config.se_gamma)):
        for k, exponent in zip((4, 3, 2, 1), values, strict=True):
            name = path.format(k)
            if f"{name}.focal" in modules:
                net.get_submodule(name).focal = FocalExponent(exponent)


def _tensors(state_dict: Mapping[str, object], where: str) -> dict[str, Tensor]:
    given: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ForeignCheckpointError(
                f"{where} holds {key!r} of type {type(value).__name__} where a SA2-Net has "
                "named weights. Give the state dict of a SA2-Net."
            )
        given[key] = value
    if given and all(key.startswith(PARALLEL_PREFIX) for key in given):
        given = {key.removeprefix(PARALLEL_PREFIX): value for key, value in given.items()}
    return given


def _sizes(given: Mapping[str, Tensor], where: str, ours: bool) -> tuple[int, int, int]:
    """Input channels, classes and base channels, off the first and last convolution."""
    missing = [key for key in ("inc.conv.weight", "outc4.weight") if key not in given]
    if missing and ours:
        raise _changed(where, f"{listed(missing)} missing")
    if missing:
        raise ForeignCheckpointError(
            f"{where} is not a SA2-Net: {listed(missing)} missing. {ANOTHER}"
        )
    first, last = given["inc.conv.weight"].shape, given["outc4.weight"].shape
    if len(first) != 4 or len(last) != 4 or min(*first, *last) < 1:
        raise CheckpointShapeError(
            f"{where} is not a SA2-Net: inc.conv.weight has shape {tuple(first)} and "
            f"outc4.weight {tuple(last)}, where four axes are needed. {ANOTHER}"
        )
    return first[1], last[0], first[0]


def _changed(where: str, problem: str) -> ForeignCheckpointError:
    """The error for a file with a card of ours, whose weights are not those of its card."""
    return ForeignCheckpointError(
        f"{where} is incomplete or changed: {problem}. Get the file again from where it came."
    )


def _check_keys(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str, ours: bool
) -> None:
    missing = [key for key in wanted if key not in given]
    surplus = [key for key in given if key not in wanted]
    if not missing and not surplus:
        return
    problems = []
    if missing:
        problems.append(f"{listed(missing)} missing")
    if surplus:
        problems.append(f"{listed(surplus)} surplus")
    if ours:
        raise _changed(where, "; ".join(problems))
    raise ForeignCheckpointError(f"{where} is not a SA2-Net: {'; '.join(problems)}. {ANOTHER}")


def _checked(key: str, value: Tensor, wanted: Tensor, where: str) -> Tensor:
    if value.shape != wanted.shape:
        raise CheckpointShapeError(
            f"{where}: {key} has shape {tuple(value.shape)}, a SA2-Net of this size "
            f"{tuple(wanted.shape)}. {ANOTHER}"
        )
    if value.layout != torch.strided or value.is_quantized:
        raise CheckpointDtypeError(
            f"{where}: {key} is sparse or quantised. Save the network with ordinary weights."
        )
    if value.device.type == "meta":
        raise CorruptCheckpointError(
            f"{where}: {key} was saved without its values (meta device). Save the network "
            "after its weights are loaded."
        )
    if key.endswith(COUNTER):
        return value.detach().to(torch.int64).clone()
    if not value.is_floating_point():
        raise CheckpointDtypeError(
            f"{where}: {key} is {str(value.dtype).removeprefix('torch.')}; weights must be "
            "floating-point. Save the network with float32 weights."
        )
    # A copy of its own, since weights in a file may share memory.
    result = value.detach().to(torch.float32, copy=True).contiguous()
    if not torch.isfinite(result).all():
        raise NonFiniteWeightsError(
            f"{where}: {key} holds NaN or infinity, so its training broke down. "
            "Use an earlier checkpoint."
        )
    return result
