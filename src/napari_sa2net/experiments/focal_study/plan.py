"""What a study is asked to do: settings, presets, variants."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError

from napari_sa2net.config import NetworkKind, Settings, TrainConfig, UnifiedFocalConfig
from napari_sa2net.errors import SettingsError

#: What is compared, in the order of tables: no module; every module with γ fixed at 1; every
#: module with a learned γ; the modules that the rule keeps, with a learned γ.
Variant = Literal["none", "all", "learnable", "chosen"]
VARIANTS: tuple[Variant, ...] = ("none", "all", "learnable", "chosen")
#: (variant, what it is compared with), seed by seed.
PAIRS: tuple[tuple[Variant, Variant], ...] = (
    ("all", "none"),
    ("learnable", "none"),
    ("chosen", "none"),
    ("learnable", "all"),
    ("chosen", "all"),
    ("chosen", "learnable"),
)
METRICS = ("dice", "iou", "ap50", "mean_ap")
TITLES = {"dice": "Dice", "iou": "IoU", "ap50": "AP50", "mean_ap": "mean AP"}
#: A module is removed where the median of its γ over the seeds is below: then it ended nearer
#: to 0, which is off, than to 1, which is ordinary attention.
THRESHOLD = 0.5
#: Share of each kind that is measured on where the index names no test images.
TEST_FRACTION = 0.2
#: Seed of what is held out; not one of the trainings', which all see the same images.
SPLIT_SEED = 0


@dataclass(frozen=True)
class Preset:
    """Size of a study; `images` is the most to train on, and the most to measure on."""

    base_channels: int
    images: int | None
    seeds: int
    steps: int
    batch_size: int
    crop: int


PRESETS: dict[str, Preset] = {
    # Measured: 0.43 s of processor time per step with all modules (SA2-Net, bfloat16, one
    # thread, busy machine), so 12 trainings of 600 steps are 52 minutes on one core.
    "cpu": Preset(base_channels=8, images=60, seeds=3, steps=600, batch_size=4, crop=160),
    "full": Preset(base_channels=16, images=None, seeds=5, steps=4000, batch_size=8, crop=256),
}


class StudySettings(Settings):
    """All that the result of a study depends on, beside the images."""

    network: NetworkKind = "sa2net"
    kind: str | None = Field(None, min_length=1)
    base_channels: int = Field(8, ge=1, le=256)
    images: int | None = Field(None, ge=2)
    seeds: int = Field(3, ge=3, le=100)
    steps: int = Field(600, ge=1)
    batch_size: int = Field(4, ge=1, le=256)
    crop: int = Field(160, ge=32, le=2048, multiple_of=16)
    diameter: float = Field(24.0, ge=4, le=256)
    loss: Literal["dice_ce", "unified_focal"] = "dice_ce"
    unified_focal: UnifiedFocalConfig = Field(
        default_factory=UnifiedFocalConfig,
        json_schema_extra={"only_with": {"loss": "unified_focal"}},
    )
    threshold: float = Field(THRESHOLD, gt=0, lt=8)
    precision: Literal["auto", "float32"] = "auto"

    def training(self, seed: int) -> TrainConfig:
        """Settings of one training."""
        return TrainConfig(
            # modules are compared by the classes alone, on images much as they are
            distance=False,
            augmentation="plain",
            network=self.network,
            learnable_gamma=True,
            squeeze_excitation=True,
            loss=self.loss,
            unified_focal=self.unified_focal,
            base_channels=self.base_channels,
            steps=self.steps,
            batch_size=self.batch_size,
            crop=self.crop,
            diameter=self.diameter,
            seed=seed,
        )


def settings_of(preset: str = "cpu", **said: Any) -> StudySettings:
    """The settings of a preset, with what was said otherwise; None is: not said.

    Raises
    ------
    SettingsError
        If the preset is unknown or a value is out of bounds.
    """
    if preset not in PRESETS:
        raise SettingsError(f"There is no preset {preset!r}. Choose {' or '.join(PRESETS)}.")
    values = asdict(PRESETS[preset]) | {k: v for k, v in said.items() if v is not None}
    try:
        return StudySettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])).replace("base_channels", "base")
        flag = name.replace("_", "-")
        raise SettingsError(f"--{flag}: {first['msg']} (got {first['input']!r}).") from error
