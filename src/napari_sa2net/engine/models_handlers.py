"""What the engine does with models as such: take them in, compare them."""

from __future__ import annotations

from pathlib import Path

from napari_sa2net.engine import protocol as p
from napari_sa2net.inference.predictor import CancelCallback, ProgressCallback
from napari_sa2net.models.importers import name_of_file
from napari_sa2net.models.imports import import_model
from napari_sa2net.models.registry import free_model_name


def take_in(request: p.ImportModel) -> p.Imported:
    """Import a file under a name that is free.

    Raises
    ------
    CheckpointError, SettingsError, ModelExistsError, OutputError
        Nothing is changed then.
    """
    path = Path(request.path)
    wanted = request.name or name_of_file(path)
    entry = import_model(path, request.name or free_model_name(wanted))
    return p.Imported(entry.name, str(entry.path), wanted, len(entry.card.dropped_keys))


def compare(
    request: p.Compare, progress: ProgressCallback, cancelled: CancelCallback
) -> p.Comparison:
    """Score two models; raises as `compare_models`."""
    # Here, because only who compares needs it.
    from napari_sa2net.training.compare_models import compare_models

    return compare_models(
        request.first,
        request.second,
        request.training_set or None,
        device=request.device,
        progress=progress,
        cancelled=cancelled,
    )
