"""Settings as frozen models: one definition feeds form, CLI flag and model card."""

from napari_sa2net.config.outputs import CLASSES, DISTANCE, OUTPUTS, is_taught, n_classes
from napari_sa2net.config.segmentation import (
    ALL,
    GAMMA_MOST,
    NONE,
    Four,
    Gamma,
    InputConfig,
    InstanceConfig,
    LevelsOf,
    NetworkConfig,
    NetworkKind,
    PredictConfig,
    Settings,
)
from napari_sa2net.config.training import (
    QUICK,
    FineTuneConfig,
    LossConfig,
    TrainConfig,
    UnifiedFocalConfig,
)

__all__ = [
    "ALL",
    "CLASSES",
    "DISTANCE",
    "GAMMA_MOST",
    "NONE",
    "OUTPUTS",
    "QUICK",
    "FineTuneConfig",
    "Four",
    "Gamma",
    "InputConfig",
    "InstanceConfig",
    "LevelsOf",
    "LossConfig",
    "NetworkConfig",
    "NetworkKind",
    "PredictConfig",
    "Settings",
    "TrainConfig",
    "UnifiedFocalConfig",
    "is_taught",
    "n_classes",
]
