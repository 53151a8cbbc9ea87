"""Models: card, file, registry on disk, importers. Torch loads on first use only."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_sa2net.models.card import ModelCard as ModelCard
    from napari_sa2net.models.card import read_card as read_card
    from napari_sa2net.models.export import export_as as export_as
    from napari_sa2net.models.export import export_bioimageio as export_bioimageio
    from napari_sa2net.models.export import export_onnx as export_onnx
    from napari_sa2net.models.file import Model as Model
    from napari_sa2net.models.file import load_checkpoint as load_checkpoint
    from napari_sa2net.models.file import load_model as load_model
    from napari_sa2net.models.file import open_model as open_model
    from napari_sa2net.models.file import save_model as save_model
    from napari_sa2net.models.imports import download_model as download_model
    from napari_sa2net.models.imports import import_model as import_model
    from napari_sa2net.models.registry import ModelEntry as ModelEntry
    from napari_sa2net.models.registry import demote_model as demote_model
    from napari_sa2net.models.registry import export_model as export_model
    from napari_sa2net.models.registry import find_model as find_model
    from napari_sa2net.models.registry import list_models as list_models
    from napari_sa2net.models.registry import promote_model as promote_model
    from napari_sa2net.models.registry import remove_model as remove_model
    from napari_sa2net.models.registry import rename_model as rename_model
    from napari_sa2net.models.registry import restore_model as restore_model
    from napari_sa2net.models.registry import save_variant as save_variant

_MODULES = {
    "ModelCard": "card",
    "read_card": "card",
    "export_as": "export",
    "export_bioimageio": "export",
    "export_onnx": "export",
    "load_checkpoint": "file",
    "open_model": "file",
    "save_model": "file",
    "download_model": "imports",
    "import_model": "imports",
    "Model": "file",
    "load_model": "file",
    "ModelEntry": "registry",
    "demote_model": "registry",
    "export_model": "registry",
    "find_model": "registry",
    "list_models": "registry",
    "promote_model": "registry",
    "remove_model": "registry",
    "rename_model": "registry",
    "restore_model": "registry",
    "save_variant": "registry",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
