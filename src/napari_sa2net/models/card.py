"""The model card, and reading it from a model file without torch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import Field, PositiveFloat, ValidationError, field_validator, model_validator

from napari_sa2net.config import (
    GAMMA_MOST,
    InputConfig,
    InstanceConfig,
    NetworkConfig,
    Settings,
)
from napari_sa2net.errors import (
    CardError,
    CheckpointPathError,
    CorruptCheckpointError,
    ForeignCheckpointError,
    SettingsError,
)
from napari_sa2net.files import readable_all
from napari_sa2net.words import counted

#: Version of the card's fields, that of a network with scales switched off, which earlier
#: versions cannot run, and those of cards with sizes of objects learned from, and with a least
#: confidence, which they cannot read; files with a higher one are refused.
SCHEMA_VERSION, SWITCHED_VERSION, SIZED_VERSION, CONFIDENCE_VERSION = 1, 2, 3, 4
#: Key of the card in the safetensors metadata.
CARD_KEY = "card"
#: safetensors itself allows no larger header.
MAX_HEADER = 100_000_000


def utc_now() -> str:
    """Time stamp, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class ModelCard(Settings):
    """What a model is, what it expects, and how it was made."""

    schema_version: int = Field(SCHEMA_VERSION, ge=1)
    name: str = Field(min_length=1, max_length=200)
    description: str = ""
    network: NetworkConfig
    classes: tuple[str, ...] = Field(description="Name of each output channel")
    input: InputConfig = Field(default_factory=InputConfig)
    diameter: float | None = Field(
        None,
        gt=0,
        title="Object size (px)",
        description="Object diameter that the network was trained at",
    )
    image_diameters: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None,
        title="Objects learned from (px)",
        description="Least and greatest typical object diameter of the images that it learned "
        "from, as they were; the search for an image's own begins there",
    )
    instance: InstanceConfig = Field(
        default_factory=InstanceConfig, description="Defaults, tuned on validation images"
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="Data, command, settings, versions, steps, seed"
    )
    scores: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="Scores by data set"
    )
    licence: str = ""
    parent: str | None = Field(None, description="Name and sha256 of the model it started from")
    created: str = Field(default_factory=utc_now)
    dropped_keys: tuple[str, ...] = Field(
        (), description="Unused weights of a published checkpoint that were left out"
    )

    @field_validator("instance")
    @classmethod
    def _of_the_image_alone(cls, value: InstanceConfig) -> InstanceConfig:
        """What no model is tuned for is the default, also where an older card tells it."""
        fields = InstanceConfig.model_fields
        unsaid = {name: fields[name].default for name in ("link_planes", "min_size")}
        return value.model_copy(update=unsaid)

    @property
    def expected_diameter(self) -> float | None:
        """Size (px) in an image of which nothing is known; None for that of the network.

        Of the sizes in images that it learned from, the one for which least is resized.
        """
        if self.diameter is None or self.image_diameters is None:
            return None
        least, most = self.image_diameters
        return min(max(self.diameter, least), most)

    @property
    def expected_words(self) -> str:
        """How large objects in images are expected to be; empty where it is not told."""
        if self.expected_diameter is None or self.image_diameters is None:
            return ""
        least, most = (f"{size:.3g}" for size in self.image_diameters)
        sizes = least if least == most else f"{least} to {most}"
        return f"objects {sizes} px across, as in the images that it learned from"

    @property
    def dropped_words(self) -> str:
        """What was left out of a published checkpoint; empty where nothing was."""
        n = len(self.dropped_keys)
        return f"{counted(n, 'weight')} that the published network never uses" if n else ""

    @field_validator("image_diameters")
    @classmethod
    def _least_first(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError("the least size is above the greatest")
        return value

    @model_validator(mode="after")
    def _classes_fit(self) -> ModelCard:
        if len(self.classes) != self.network.n_classes:
            raise ValueError(
                f"{len(self.classes)} class names for {self.network.n_classes} classes"
            )
        if len(set(self.classes)) != len(self.classes) or "" in self.classes:
            raise ValueError("class names must differ and not be empty")
        return self

    def to_json(self) -> str:
        """The card as JSON text.

        Raises
        ------
        CardError
            If `training` holds something that JSON cannot.
        """
        version = SCHEMA_VERSION if all(self.network.scales) else SWITCHED_VERSION
        unsaid: dict[str, Any] = {}
        if self.image_diameters is None:
            unsaid["image_diameters"] = True
        else:
            version = SIZED_VERSION
        if self.instance.min_confidence == 0:
            unsaid["instance"] = {"min_confidence"}
        else:
            version = CONFIDENCE_VERSION
        try:
            content = {**self.model_dump(), "schema_version": version}
            card = type(self).model_validate(readable_all(content))
            return card.model_dump_json(exclude=unsaid)
        except ValueError as error:
            raise CardError(
                f"The model card cannot be written as JSON ({error}). Keep numbers, text, "
                "lists and dictionaries only in its 'training' entry."
            ) from error

    @classmethod
    def from_json(cls, text: str, where: str = "the model file") -> ModelCard:
        """Parse a card.

        Raises
        ------
        CardError
            If it is not JSON, malformed, or of a newer schema version.
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise CardError(
                f"The model card in {where} is not valid JSON ({error}). "
                "Get the file again from where it came."
            ) from error
        version = fields.get("schema_version") if isinstance(fields, dict) else None
        # bool is an int in Python, and true is no version.
        if not isinstance(version, int) or isinstance(version, bool):
            raise CardError(
                f"The model card in {where} has no schema version. "
                "Save the model again with napari-sa2net."
            )
        if version > CONFIDENCE_VERSION:
            raise CardError(
                f"The model card in {where} has schema version {version}; this version of "
                f"napari-sa2net knows up to {CONFIDENCE_VERSION}. Update it: "
                "pip install -U napari-sa2net"
            )
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "card"
            raise CardError(
                f"The model card in {where} is malformed ({field}: {first['msg']}). "
                "Save the model again with napari-sa2net."
            ) from error


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """Read the card of one of our model files; torch is not needed.

    Raises
    ------
    CheckpointPathError, CorruptCheckpointError, ForeignCheckpointError, CardError
        If the path cannot be read, the file is damaged or half-written, is not a
        safetensors file, or has no usable card.
    """
    with open_checked(path) as file:
        header = read_header(file, str(path))
    return card_of_header(header, str(path))


def card_of_header(header: dict[str, Any], where: str) -> ModelCard:
    """The card in a safetensors header; raises CardError if there is none."""
    text = (header.get("__metadata__") or {}).get(CARD_KEY)
    if text is None:
        raise CardError(
            f"{where} is a safetensors file without a model card, so its channel order, "
            "normalisation and classes are unknown. Import the original published "
            "checkpoint instead, or save the network with napari_sa2net.models.save_model."
        )
    return ModelCard.from_json(text, where)


def open_checked(path: str | os.PathLike[str]) -> BufferedReader:
    """Open for reading; raises CheckpointPathError, or CorruptCheckpointError if empty."""
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            raise CheckpointPathError(f"{path} is a folder. Give the path of the model file.")
        if path.exists() and not path.is_file():
            # Reading a pipe or a device could wait for ever.
            raise CheckpointPathError(f"{path} is not a file. Give the path of a model file.")
        file = path.open("rb")
    except CheckpointPathError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointPathError(f"{path} does not exist. Check the path.") from None
    except (OSError, ValueError) as error:
        raise CheckpointPathError(
            f"{str(path)!r} cannot be read ({error}). Check the path and its permissions."
        ) from error
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise CorruptCheckpointError(f"{path} is empty. Download or copy it again.")
    return file


def is_safetensors(start: bytes) -> bool:
    """Whether the first bytes (at least 9) are those of a safetensors file."""
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= MAX_HEADER


def read_header(file: BinaryIO, where: str) -> dict[str, Any]:
    """Header of a safetensors file, with the file's length checked against it.

    Raises
    ------
    ForeignCheckpointError
        If it is not a safetensors file.
    CorruptCheckpointError
        If the header is damaged or the file is shorter or longer than it says.
    """
    file.seek(0)
    start = file.read(9)
    if not is_safetensors(start):
        raise ForeignCheckpointError(
            f"{where} is not a model file of napari-sa2net. "
            "Published checkpoints have to be imported first: sa2net models import FILE"
        )
    length = int.from_bytes(start[:8], "little")
    file.seek(8)
    text = file.read(length)
    size = os.fstat(file.fileno()).st_size
    try:
        header = json.loads(text)
        # Tensors follow one another without gaps, so the largest end is the data's length.
        entries = [entry for key, entry in header.items() if key != "__metadata__"]
        end = max((entry["data_offsets"][1] for entry in entries), default=0)
        metadata = header.get("__metadata__") or {}
        whole = isinstance(metadata, dict) and size == 8 + length + end
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise CorruptCheckpointError(
            f"{where} is damaged or incomplete. Download or copy it again."
        )
    return header


def write_with_card(source: BinaryIO, target: BinaryIO, card: ModelCard) -> None:
    """Copy a safetensors file with another card; the weights stay, byte for byte.

    Raises
    ------
    ForeignCheckpointError, CorruptCheckpointError
        As of `read_header`.
    CardError
        If the card cannot be written.
    """
    header = read_header(source, "the model file")
    data_at = 8 + int.from_bytes(_from(source, 0, 8), "little")
    metadata = {**(header.get("__metadata__") or {}), CARD_KEY: card.to_json()}
    text = json.dumps({**header, "__metadata__": metadata}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the weights aligned
    target.write(len(text).to_bytes(8, "little") + text)
    source.seek(data_at)
    shutil.copyfileobj(source, target, 1 << 20)


def _from(file: BinaryIO, at: int, n: int) -> bytes:
    file.seek(at)
    return file.read(n)


# --------------------------------------------------------------------------------------------
# The focal exponents γ of a model in words, for cards in the dock and on the shell.

#: Scale of each map, the deepest first.
SCALES = ("1/8", "1/4", "1/2", "full")
#: γ = 1 everywhere, in words.
ORDINARY = "1 (ordinary attention)"


def gamma_rows(network: NetworkConfig) -> list[tuple[str, str]]:
    """Title and values for the maps, for squeeze and excitation, and for scales that are off.

    Parameters
    ----------
    network : NetworkConfig

    Returns
    -------
    list of (title, values)
        As ``("Selectivity", "1/8: 1.2 · 1/4: 1 · 1/2: off · full: 0.7")``; one number where
        all are equal. Of squeeze and excitation, and of scales, only where there is
        something to say.
    """
    rows = [("Selectivity", _values(network.gamma, network.gates))]
    if any(network.se):
        rows.append(("Feature selectivity", _values(network.se_gamma, network.se)))
    off = [str(4 - k) for k, on in enumerate(network.scales) if not on][::-1]
    if off:
        rows.append(("Scales off", ", ".join(off)))
    return rows


def _values(gamma: Sequence[float], there: Sequence[bool]) -> str:
    values = [f"{g:.3g}" if t else "off" for g, t in zip(gamma, there, strict=True)]
    if len(set(values)) == 1:
        return ORDINARY if values[0] == "1" else f"{values[0]} (at every scale)"
    return " · ".join(f"{name}: {value}" for name, value in zip(SCALES, values, strict=True))


# --------------------------------------------------------------------------------------------
# Variants: a model with its attention changed, and the words for what was changed.

#: Recipe of a variant's card: it was not trained, and none of its scores are known.
VARIANT = "variant"
#: What a variant's card says of the training of its weights; never a score or a verdict.
_OF_WEIGHTS = (
    *("data", "images", "axes", "channels", "limits"),
    *("commits", "commit_ids", "held_out", "held_out_before", "places"),
)


def check_change(
    gates: Sequence[bool | None],
    gamma: Sequence[float | None],
    se_gamma: Sequence[float | None],
) -> None:
    """Check a change of attention, each None keeping what the model has.

    Parameters
    ----------
    gates : four bools or None
        Scale gates 1…4, on or off.
    gamma, se_gamma : four floats in 0…8, or None
        Exponents of ψ, and of squeeze and excitation, at strides 8, 4, 2, 1.

    Raises
    ------
    SettingsError
        If an exponent is out of bounds or something does not come in four.
    """
    for n, what in ((len(gates), "scale gates"), (len(gamma), "ψ"), (len(se_gamma), "skips")):
        if n != 4:
            raise SettingsError(f"There are four {what}, not {n}.")
    for value in (*gamma, *se_gamma):
        if value is not None and not 0 <= value <= GAMMA_MOST:
            raise SettingsError(
                f"Selectivity (γ) lies between 0 and {GAMMA_MOST:g}, not at {value}."
            )


def variant_card(
    card: ModelCard,
    name: str,
    parent: str,
    gates: Sequence[bool | None],
    gamma: Sequence[float | None],
    se_gamma: Sequence[float | None],
) -> ModelCard:
    """The card of a model with its attention changed.

    Parameters
    ----------
    card : ModelCard
        Of the model.
    name : str
        Of the variant.
    parent : str
        Name and sha256 of the model.
    gates, gamma, se_gamma
        As of `check_change`.

    Returns
    -------
    ModelCard
        Without scores: nobody has measured the variant.

    Raises
    ------
    SettingsError
        As of `check_change`; if nothing would be different; if the model lacks what is changed.
    """
    check_change(gates, gamma, se_gamma)
    own = card.network
    has_scales = own.kind == "sa2net"
    lacking = [
        f"scale {i}" for i, on in enumerate(gates, 1) if on is not None and not has_scales
    ]
    for word, wanted, there in (("detail", gamma, own.gates), ("features", se_gamma, own.se)):
        # Without a module everything passes, as with γ = 0.
        lacking += [
            f"{word} {stage}"
            for stage, value, here in zip(SCALES, wanted, there, strict=True)
            if value and not here
        ]
    if lacking:
        raise SettingsError(
            f"{card.name} has no attention for {', '.join(lacking)}, so it cannot be changed "
            "there. Leave that out."
        )
    network = own.model_copy(
        update={
            "scales": _other(own.scales, gates[::-1], (has_scales,) * 4),
            "gamma": _other(own.gamma, gamma, own.gates),
            "se_gamma": _other(own.se_gamma, se_gamma, own.se),
        }
    )
    changed = change_words(own, network)
    if not changed:
        raise SettingsError(
            "Nothing is changed, so there is no variant to keep. Switch a scale off, or choose "
            "another selectivity, first."
        )
    kept = {key: card.training[key] for key in _OF_WEIGHTS if key in card.training}
    return card.model_copy(
        update={
            "name": name,
            "description": f"{card.name} with {changed}. Its scores have not been measured.",
            "network": network,
            "training": {**kept, "recipe": VARIANT, "changed": changed},
            "scores": {},
            "parent": parent,
            "created": utc_now(),
        }
    )


def change_words(before: NetworkConfig, after: NetworkConfig) -> str:
    """``scale 4 off, detail 1/4 at selectivity 2``; empty where nothing differs."""
    parts = [
        f"scale {4 - k} {'on' if now else 'off'}"
        for k, (was, now) in enumerate(zip(before.scales, after.scales, strict=True))
        if was != now
    ][::-1]
    for word, first, second in (
        ("detail", before.gamma, after.gamma),
        ("features", before.se_gamma, after.se_gamma),
    ):
        parts += [
            f"{word} {scale} at selectivity {now:.3g}"
            for scale, was, now in zip(SCALES, first, second, strict=True)
            if was != now
        ]
    return ", ".join(parts)


def _other(own: Sequence[Any], wanted: Sequence[Any], there: Sequence[bool]) -> tuple[Any, ...]:
    """What is wanted where it is, and there is something to have it; else the own."""
    return tuple(
        a if b is None or not t else type(a)(b)
        for a, b, t in zip(own, wanted, there, strict=True)
    )
