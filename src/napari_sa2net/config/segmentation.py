"""Settings of the network, of its input and of segmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

#: Largest focal exponent.
GAMMA_MOST = 8.0
Gamma = Annotated[float, Field(ge=0, le=GAMMA_MOST)]


class Settings(BaseModel):
    """Base: immutable, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Four = tuple[bool, bool, bool, bool]
ALL: Four = (True, True, True, True)
NONE: Four = (False, False, False, False)
NetworkKind = Literal["sa2net", "focal_unet"]
LevelsOf = Literal["auto", "stack", "plane"]


class NetworkConfig(Settings):
    """Which network, and its shape. Four values go from the deepest skip to the shallowest."""

    kind: NetworkKind = Field(
        "sa2net",
        title="Network",
        description="sa2net, or focal_unet: a U-Net with attention gates",
    )
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
    gates: Four = Field(
        ALL,
        title="Attention gates",
        description="Up-attention maps ψ4, ψ3, ψ2, ψ1 that the network has",
    )
    se: Four = Field(
        NONE,
        title="Squeeze and excitation",
        description="Skips 4, 3, 2, 1 whose channels are weighted by the whole image",
    )
    se_gamma: tuple[Gamma, Gamma, Gamma, Gamma] = Field(
        (1.0, 1.0, 1.0, 1.0),
        title="Focal exponents of squeeze and excitation",
        description="Exponent of the channel weights of skips 4, 3, 2, 1",
    )


class InputConfig(Settings):
    """What a model expects of its input image."""

    channel_order: Literal["RGB", "BGR", "any"] = Field(
        "RGB",
        title="Channel order",
        description="RGB and BGR models take a grey image in all three channels",
    )
    normalization: Literal["percentile", "divide", "range", "none"] = Field(
        "percentile",
        title="Normalisation",
        description="'range': least value to greatest, all channels together",
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
    antialias: bool = Field(
        False,
        title="Smooth while resizing",
        description="Smooth an image that is made smaller to the fixed size; published: not",
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
        True,
        title="Link across Z",
        description="Of a Z stack: give overlapping cells of neighbouring planes one label",
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
        title="Pieces (px)",
        description="Side of the pieces in which an image is segmented, in pixels of the "
        "network; smaller ones need less memory; empty: chosen for the device",
    )
    levels: LevelsOf = Field(
        "auto",
        title="Brightness levels",
        description="What black and white are measured over: the whole stack, or each plane "
        "alone; auto: each time point, and all planes in depth together",
    )
    contrast: tuple[float, float] | None = Field(
        None,
        title="Contrast limits",
        description="Values that become black and white, instead of measured ones",
    )
    augment: bool = Field(
        False,
        title="Average flips",
        description="Average over four flips: slower, a little more accurate",
    )

    @field_validator("contrast")
    @classmethod
    def _black_is_below_white(
        cls, limits: tuple[float, float] | None
    ) -> tuple[float, float] | None:
        if limits is not None and limits[0] >= limits[1]:
            raise ValueError("the first limit must be below the second")
        return limits
