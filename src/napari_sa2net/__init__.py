"""Cell and nucleus segmentation with SA2-Net, in napari, from Python and from the shell.

>>> import napari_sa2net as sa2net
>>> model = sa2net.load_model("nuclei")
>>> result = sa2net.segment(image, model=model)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from napari_sa2net.data.corrections import TrainingSet
    from napari_sa2net.evaluation import evaluate
    from napari_sa2net.inference.segment import segment
    from napari_sa2net.interpret.attention import attention
    from napari_sa2net.interpret.explain import explain
    from napari_sa2net.models.file import load_model
    from napari_sa2net.training.fine_tune import fine_tune

# Loaded on first use (PEP 562): napari imports this package for its manifest, and torch must
# not come along.
_LAZY = {
    "TrainingSet": "napari_sa2net.data.corrections",
    "attention": "napari_sa2net.interpret.attention",
    "evaluate": "napari_sa2net.evaluation",
    "explain": "napari_sa2net.interpret.explain",
    "fine_tune": "napari_sa2net.training.fine_tune",
    "load_model": "napari_sa2net.models.file",
    "segment": "napari_sa2net.inference.segment",
}

__all__ = [
    "TrainingSet",
    "__version__",
    "attention",
    "evaluate",
    "explain",
    "fine_tune",
    "load_model",
    "segment",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
