"""Settings as frozen models: one definition feeds form, CLI flag and model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Gamma = Annotated[float, Field(ge=0, le=8)]


class Settings(BaseModel):
    """Base: immutable, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NetworkConfig(Settings):
    """Shape of a SA2-Net."""

    in_channels: int = Field(3, ge=1, le=1024, title="Input channels")
    n_classes: int = Field(3, ge=1, le=1024, title="Classes")
    base_channels: int = Field(
        16, ge=1, le=1024, title="Base channels", description="Width C of the network"
    )
    gamma: tuple[Gamma, Gamma, Gamma, Gamma] = Field(
        (1.0, 1.0, 1.0, 1.0),
        title="Focal exponents",
        description="Exponent of the up-attention maps ψ4, ψ3, ψ2, ψ1; 1 as published",
    )


class InputConfig(Settings):
    """What a model expects of its input image."""

    channel_order: Literal["RGB", "BGR", "any"] = Field(
        "RGB",
        title="Channel order",
        description="RGB and BGR models take a grey image in all three channels",
    )
    normalization: Literal["percentile", "divide", "none"] = Field(
        "percentile", title="Normalisation"
    )
    low: float = Field(1.0, ge=0, lt=50, title="Low percentile", description="becomes 0")
    high: float = Field(99.8, gt=50, le=100, title="High percentile", description="becomes 1")
    divisor: float = Field(255.0, gt=0, title="Divisor", description="for 'divide'")
    resize_to: int | None = Field(
        None,
        ge=16,
        title="Fixed input size (px)",
        description="The whole image is resized to this square, as a published script did",
    )


class InstanceConfig(Settings):
    """How probabilities become objects."""

    foreground: float = Field(
        0.5,
        ge=0.02,
        le=0.98,
        title="Foreground",
        description="Probability from which a pixel belongs to a cell; lower: larger cells",
    )
    split: float = Field(
        0.5,
        ge=0,
        le=1,
        title="Split",
        description="How readily touching cells are cut apart; 0 never, 1 at every hint",
    )
    min_size: int = Field(
        20,
        ge=0,
        title="Smallest (px²)",
        description="Objects with a smaller area are dropped",
    )
    fill_holes: bool = Field(True, title="Fill holes", description="Close holes inside cells")
    remove_border: bool = Field(
        False,
        title="Drop border cells",
        description="Remove cells that touch the image border",
    )
    link_planes: bool = Field(
        False,
        title="Link across Z",
        description="Give overlapping cells of neighbouring planes one label",
    )
    link_overlap: float = Field(
        0.3,
        gt=0,
        le=1,
        title="Overlap to link",
        description="Smallest intersection over union of two linked cells",
    )


class PredictConfig(Settings):
    """How the network is run."""

    diameter: float | None = Field(
        None,
        gt=0.5,
        le=10000,
        title="Object size (px)",
        description="Typical cell diameter in the image; empty: estimated from the image",
    )
    rescale: bool = Field(
        True, title="Rescale", description="Resize to the object size the model was trained on"
    )
    device: str = Field("auto", title="Device", description="auto, cpu, cuda, cuda:1 or mps")
    precision: Literal["auto", "float32"] = Field(
        "auto",
        title="Precision",
        description="auto: bfloat16 or float16 where the device is faster with it",
    )
    tile: int | None = Field(
        None,
        ge=64,
        le=16384,
        multiple_of=16,
        title="Tile (px)",
        description="Side of a tile in the network's pixels; empty: chosen for the device",
    )
    augment: bool = Field(
        False,
        title="Average flips",
        description="Average over four flips: slower, a little more accurate",
    )


class TrainConfig(Settings):
    """How a network is trained."""

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
    boundary_weight: float = Field(2.0, gt=0, le=100, title="Boundary weight")
    head_weights: tuple[float, float, float, float] = Field(
        (1.0, 0.5, 0.3, 0.2),
        title="Head weights",
        description="Loss weights of the four heads, full resolution first",
    )
    kind_weights: dict[str, float] = Field(
        default_factory=dict,
        title="Kind weights",
        description="Share of crops by the kind column of index.csv; others share the rest",
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
