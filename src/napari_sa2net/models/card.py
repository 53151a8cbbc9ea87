"""The model card, and reading it from a model file without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from napari_sa2net.config import (
    InputConfig,
    InstanceConfig,
    NetworkConfig,
    NetworkKind,
    Settings,
)
from napari_sa2net.errors import (
    CardError,
    CheckpointPathError,
    CorruptCheckpointError,
    ForeignCheckpointError,
)
from napari_sa2net.files import readable_all

#: Version of the card's fields; files with a higher one are refused.
SCHEMA_VERSION = 1
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
    def _planes_are_of_the_image(cls, value: InstanceConfig) -> InstanceConfig:
        """A model says nothing of linking planes, also where an older card seems to."""
        linked = InstanceConfig.model_fields["link_planes"].default
        return value.model_copy(update={"link_planes": linked})

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
        try:
            content = self.model_dump()
            clean = readable_all(content)
            card = self if clean == content else type(self).model_validate(clean)
            return card.model_dump_json()
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
        if version > SCHEMA_VERSION:
            raise CardError(
                f"The model card in {where} has schema version {version}; this version of "
                f"napari-sa2net knows up to {SCHEMA_VERSION}. Update it: "
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


def read_header(file: BufferedReader, where: str) -> dict[str, Any]:
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


# --------------------------------------------------------------------------------------------
# The focal exponents γ of a model in words, for cards in the dock and on the shell.

#: What attends at each stage of the decoder: up-attention, or the gate of a skip.
GATE_WORDS: dict[NetworkKind, str] = {"sa2net": "ψ", "focal_unet": "gate"}
#: Scale of each map, the deepest first.
SCALES = ("1/8", "1/4", "1/2", "full")
#: γ = 1 everywhere, in words.
ORDINARY = "1 (ordinary attention)"


def gamma_rows(network: NetworkConfig) -> list[tuple[str, str]]:
    """Title and values for the maps, and for squeeze and excitation where there is any.

    Parameters
    ----------
    network : NetworkConfig

    Returns
    -------
    list of (title, values)
        As ``("γ of ψ", "1/8: 1.2 · 1/4: 1 · 1/2: off · full: 0.7")``; one number where all are
        equal.
    """
    maps = "ψ" if network.kind == "sa2net" else "the gates"
    rows = [(f"γ of {maps}", _values(network.gamma, network.gates))]
    if any(network.se):
        rows.append(("γ of squeeze", _values(network.se_gamma, network.se)))
    return rows


def _values(gamma: Sequence[float], there: Sequence[bool]) -> str:
    values = [f"{g:.3g}" if t else "off" for g, t in zip(gamma, there, strict=True)]
    if len(set(values)) == 1:
        return ORDINARY if values[0] == "1" else f"{values[0]} (at every scale)"
    return " · ".join(f"{name}: {value}" for name, value in zip(SCALES, values, strict=True))
