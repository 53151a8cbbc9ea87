"""Settings of training in full, and of learning from corrections."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from napari_sa2net.config.segmentation import NetworkKind, Settings


class UnifiedFocalConfig(Settings):
    """Parameters of the Unified Focal loss."""

    weight: float = Field(
        0.5, ge=0, le=1, title="Tversky share", description="λ; the rest is cross-entropy"
    )
    delta: float = Field(
        0.6,
        ge=0,
        le=1,
        title="Foreground weight",
        description="δ: above 0.5 missed foreground costs more than false foreground",
    )
    gamma: float = Field(
        0.5,
        ge=0,
        lt=1,
        title="Focal parameter",
        description="γ: higher looks more at what is hard to tell",
    )
    asymmetric: bool = Field(
        True,
        title="Asymmetric",
        description="Easy background is suppressed, hard foreground enhanced, nothing else",
    )
    distance_gamma: float = Field(
        0.0,
        ge=0,
        le=8,
        title="Distance penalty",
        description="γ_d: higher looks more at pixels near true boundaries; 0 is off",
    )


class LossConfig(Settings):
    """What a network is told about its mistakes, in full training and in fine-tuning."""

    loss: Literal["dice_ce", "unified_focal"] = Field(
        "dice_ce",
        title="Loss",
        description="dice_ce: Dice and cross-entropy; unified_focal: Unified Focal loss",
    )
    boundary_weight: float = Field(
        2.0,
        gt=0,
        le=100,
        title="Boundary weight",
        description="Weight of the class between touching cells, in dice_ce",
        json_schema_extra={"only_with": {"loss": "dice_ce"}},
    )
    unified_focal: UnifiedFocalConfig = Field(
        default_factory=UnifiedFocalConfig,
        title="Unified Focal loss",
        json_schema_extra={"only_with": {"loss": "unified_focal"}},
    )
    head_weights: tuple[float, float, float, float] = Field(
        (1.0, 0.5, 0.3, 0.2),
        title="Head weights",
        description="Loss weights of the four heads, full resolution first",
    )


class TrainConfig(LossConfig):
    """How a network is trained."""

    network: NetworkKind = Field(
        "sa2net",
        title="Network",
        description="sa2net, or focal_unet: a U-Net with attention gates",
    )
    learnable_gamma: bool = Field(
        False,
        title="Learn focal exponents",
        description="Train one exponent per attention module; begins at 1",
    )
    squeeze_excitation: bool | None = Field(
        None,
        title="Squeeze and excitation",
        description="Weigh the channels of every skip by the whole image; empty: in "
        "focal_unet only",
    )
    distance: bool = Field(
        True,
        title="Distance to the edge",
        description="Learn, beside the classes, how deep in its object a pixel lies; it tells "
        "touching objects apart",
    )
    base_channels: int = Field(16, ge=1, le=256, title="Base channels")
    steps: int = Field(4000, ge=1, title="Steps", description="Optimiser steps")
    batch_size: int = Field(8, ge=1, le=256, title="Batch size")
    crop: int = Field(
        256, ge=32, le=2048, multiple_of=16, title="Crop (px)", description="Side of a crop"
    )
    diameter: float = Field(
        24.0,
        ge=4,
        le=256,
        title="Object size (px)",
        description="Images are rescaled so that the median object has this diameter",
    )
    learning_rate: float = Field(2e-3, gt=0, le=1, title="Learning rate", description="peak")
    weight_decay: float = Field(1e-2, ge=0, le=1, title="Weight decay")
    warmup: float = Field(
        0.05, ge=0, lt=1, title="Warm-up", description="fraction of the steps"
    )
    ema_decay: float = Field(
        0.999,
        ge=0,
        lt=1,
        title="Weight averaging",
        description="Decay of the exponential moving average of the weights that is kept",
    )
    kind_weights: dict[str, float] = Field(
        default_factory=dict,
        title="Kind weights",
        description="Share of crops by the kind column of index.csv; others share the rest",
    )
    augmentation: Literal["plain", "wide"] = Field(
        "wide",
        title="Augmentation",
        description="plain: rotation, scale, brightness, stain; wide: also other stains, blur, "
        "low resolution, noise, shading, JPEG, inversion, and cells packed densely",
    )
    validate_every: int = Field(250, ge=1, title="Validate every", description="steps")
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, title="Validation", description="Held out where no split is given"
    )
    max_validation_images: int = Field(
        48, ge=1, title="Validation images", description="scored at each validation"
    )
    precision: Literal["auto", "float32"] = Field("auto", title="Precision")
    device: str = Field("auto", title="Device")
    workers: int = Field(0, ge=0, le=64, title="Loader processes")
    seed: int = Field(0, ge=0, title="Seed")
    base: str | None = Field(
        None, title="Start from", description="Model whose weights training starts from"
    )
    resume: Path | None = Field(None, title="Resume", description="Run folder to go on with")


#: Settings of fine-tuning where attention alone learns.
QUICK: dict[str, Any] = {
    "minutes": 0.25,
    "rounds": 2,
    "replay": 0,
    "crop": 128,
    "max_scored": 4,
}


class FineTuneConfig(LossConfig):
    """How a model learns from corrections."""

    minutes: float = Field(
        3.0,
        gt=0,
        le=1440,
        title="Time (minutes)",
        description="About how long learning takes; this machine's speed is measured first",
    )
    learn: Literal["everything", "attention"] = Field(
        "everything",
        title="What learns",
        description="Attention: only the focal exponents of the attention maps, a handful of "
        "numbers, in seconds; it rarely brings much",
    )
    steps: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        title="Steps",
        description="A fixed number of optimiser steps instead of a time",
    )
    rounds: int = Field(
        8,
        ge=1,
        le=1000,
        title="Rounds",
        description="How often the corrections that were held back are scored",
    )
    patience: int = Field(
        4,
        ge=1,
        le=1000,
        title="Patience",
        description="Learning ends after so many rounds without a better score",
    )
    held_out: float = Field(
        0.2,
        gt=0,
        lt=1,
        title="Held back",
        description="Share of the corrections that are only for scoring, by whole images",
    )
    learning_rate: float = Field(2e-3, gt=0, le=1, title="Learning rate", description="peak")
    encoder_rate: float = Field(
        1.0,
        ge=0,
        le=1,
        title="Encoder's rate",
        description="Learning rate of the encoder, as a share of the decoder's",
    )
    decoder_first: float = Field(
        0.15,
        ge=0,
        le=1,
        title="Decoder first",
        description="Share of the steps at the start in which only the decoder learns",
    )
    warmup: float = Field(
        0.05, ge=0, lt=1, title="Warm-up", description="fraction of the steps"
    )
    freeze_norm: bool = Field(
        True,
        title="Keep statistics",
        description="Batch normalisation keeps the means and variances of the model as it was",
    )
    replay: float = Field(
        0.25,
        ge=0,
        le=0.9,
        title="Replay",
        description="Share of a batch that repeats what the model knew, against forgetting",
    )
    distillation: float = Field(
        3.0,
        ge=0,
        le=100,
        title="Keep answers",
        description="Weight of giving the answers that the model gave before, on replay and "
        "where nobody has reviewed",
    )
    confidence: float = Field(
        0.5,
        ge=0,
        lt=1,
        title="Sure from",
        description="Former answers count from this probability on",
    )
    batch_size: int = Field(4, ge=1, le=256, title="Batch size")
    crop: int = Field(
        192, ge=32, le=2048, multiple_of=16, title="Crop (px)", description="Side of a crop"
    )
    weight_decay: float = Field(1e-2, ge=0, le=1, title="Weight decay")
    ema_decay: float = Field(
        0.97,
        ge=0,
        lt=1,
        title="Weight averaging",
        description="Decay of the exponential moving average of the weights that is kept",
    )
    max_scored: int = Field(
        24,
        ge=1,
        le=1000,
        title="Scored images",
        description="at most of each set, in each round",
    )
    precision: Literal["auto", "float32"] = Field("auto", title="Precision")
    device: str = Field("auto", title="Device")
    seed: int = Field(0, ge=0, title="Seed")

    @model_validator(mode="before")
    @classmethod
    def _attention_is_quick(cls, given: Any) -> Any:
        """Few numbers learn in seconds: what was not said is chosen for that."""
        if isinstance(given, dict) and given.get("learn") == "attention":
            return {**QUICK, **given}
        return given
