"""Which model came of which: by the sha256 that a card names, whatever files are called."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from napari_sa2net.models.card import ModelCard, open_checked
from napari_sa2net.models.registry import ModelEntry

_SHA256 = re.compile(r"[0-9a-f]{64}")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; read again only when the file has changed.

    Raises
    ------
    CheckpointPathError, CorruptCheckpointError
        If it cannot be read or is empty.
    """
    with open_checked(path):
        stat = path.stat()
    return _sha256(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=512)
def _sha256(path: Path, _changed: int, _size: int) -> str:
    with open_checked(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parent_named(card: ModelCard) -> tuple[str, str]:
    """Name and sha256 of the parent that a card names; empty where it names none."""
    text = card.parent or ""
    found = _SHA256.search(text)
    name = _SHA256.sub("", text).strip().removesuffix("sha256").rstrip(" ,")
    return name, found.group() if found else ""


def parent_of(card: ModelCard, entries: Sequence[ModelEntry]) -> ModelEntry | None:
    """The model that a card's model learned from, if it is among the entries.

    Raises
    ------
    CheckpointError
        If the file of an entry cannot be read.
    """
    _, sha256 = parent_named(card)
    if not sha256:
        return None
    return next((e for e in entries if file_sha256(e.path) == sha256), None)


def children_of(entry: ModelEntry, entries: Sequence[ModelEntry]) -> list[ModelEntry]:
    """The entries that learned from a model; raises as `parent_of`."""
    named = [e for e in entries if e.card.parent and e.name != entry.name]
    if not named:
        return []
    sha256 = file_sha256(entry.path)
    return [e for e in named if parent_named(e.card)[1] == sha256]


def ancestors(card: ModelCard, entries: Sequence[ModelEntry]) -> list[ModelEntry]:
    """Parent, grandparent, …, as far as they are among the entries; raises as `parent_of`."""
    found: list[ModelEntry] = []
    while (parent := parent_of(card, entries)) is not None and parent not in found:
        found.append(parent)
        card = parent.card
    return found
