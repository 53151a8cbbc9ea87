"""Settings of the network, of segmentation and of learning; what long work tells and asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

#: What long work calls as it goes on: done, total, and what it does, for a person to read.
Progress = Callable[[int, int, str], None]
#: What a training does in its steps; what comes before and after them has other words.
LEARNING = "learning"
#: What it asks many times: True stops it.
CancelCallback = Callable[[], bool]

# --------------------------------------------------------------------------------------------
# Settings of the network, of its input and of segmentation.

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
Engine = Literal["auto", "torch", "openvino", "onnxruntime"]


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
    scales: Four = Field(
        ALL,
        title="Scales",
        description="Scales 4, 3, 2, 1 that scale-aware attention adds to; off: its gate is 0",
    )

    @model_serializer(mode="wrap")
    def _briefly(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `scales` where all are on, so that earlier versions read the card."""
        fields: dict[str, Any] = dump(self)
        if all(self.scales):
            fields.pop("scales", None)
        return fields


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
        10,
        ge=0,
        title="Smallest (px²)",
        description="Objects with a smaller area are dropped",
    )
    min_confidence: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Confidence",
        description="Cells of less confidence are dropped: those that the network is nowhere "
        "as sure of as this; lower where faint cells are missing, 0 keeps all",
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
    engine: Engine = Field(
        "auto",
        title="Engine",
        description="What runs the network on the processor: torch, or the library openvino or "
        "onnxruntime, if it is installed; auto: torch",
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
    dab: Literal["auto", "keep", "remove"] = Field(
        "auto",
        title="Brown stain (DAB)",
        description="Of immunohistochemistry in colour: keep it, or remove it so that nuclei "
        "under brown membranes and cytoplasm are seen; auto: removed where more cells are seen "
        "without it",
    )
    adapt: Literal["auto", "on", "off"] = Field(
        "auto",
        title="Adapt to the image",
        description="Normalise what the encoder sees by this image, and less by the images of "
        "the training: for other stains and microscopes; auto: images in colour, where more "
        "cells are seen so",
    )
    augment: bool = Field(
        False,
        title="Average flips",
        description="Average over four flips: slower, a little more accurate",
    )
    tissue: bool = Field(
        False,
        title="Tissue only",
        description="Leave out the empty glass of a slide in colour: faster, the same cells",
    )

    @field_validator("contrast")
    @classmethod
    def _black_is_below_white(
        cls, limits: tuple[float, float] | None
    ) -> tuple[float, float] | None:
        if limits is not None and limits[0] >= limits[1]:
            raise ValueError("the first limit must be below the second")
        return limits


class PredictSettings(TypedDict, total=False):
    """`PredictConfig` as keyword arguments, for completion; size and device are named apart."""

    rescale: bool
    precision: Literal["auto", "float32"]
    engine: Engine
    tile: int | None
    levels: LevelsOf
    contrast: tuple[float, float] | None
    dab: Literal["auto", "keep", "remove"]
    adapt: Literal["auto", "on", "off"]
    augment: bool
    tissue: bool


class SegmentSettings(PredictSettings, total=False):
    """The same with `InstanceConfig`."""

    foreground: float
    split: float
    min_size: int
    min_confidence: float
    fill_holes: bool
    remove_border: bool
    link_planes: bool
    link_overlap: float


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

    network: NetworkKind | None = Field(
        None,
        title="Network",
        description="sa2net, or focal_unet: a U-Net with attention gates; unsaid: sa2net, or "
        "that of the model that training starts from",
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
    base_channels: int | None = Field(
        None,
        ge=1,
        le=256,
        title="Base channels",
        description="unsaid: 16, or those of the model that training starts from; a multiple "
        "of those begins as a wider network that gives the same",
    )
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
    wide_share: float = Field(
        1.0,
        ge=0,
        le=1,
        title="Share of wide augmentation",
        description="Of the crops; the others are augmented plainly",
        json_schema_extra={"only_with": {"augmentation": "wide"}},
    )
    touching_weight: float = Field(
        0.0,
        ge=0,
        le=100,
        title="Touching weight",
        description="So much more a pixel counts that is near two objects at once, in "
        "cross-entropy and distance, not in Dice; it keeps touching objects apart",
    )
    hard_share: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Share of hard places",
        description="Of the crops that look at an object, those that look at one which the "
        "model that training starts from misses, merges or makes up, in images that have "
        "such; of large ones the middle is searched",
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
    devices: int = Field(
        1,
        ge=1,
        le=64,
        title="Devices",
        description="GPUs, or processes on a CPU, that share each batch",
    )
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


class LiveConfig(Settings):
    """How a model learns for seconds while a person corrects.

    Chosen by ``benchmarks/bench_live.py`` on training images.
    """

    steps: int = Field(50, ge=1, le=1000, title="Steps", description="Fewer on a slow machine")
    seconds: float = Field(
        20.0,
        gt=0,
        title="Time (seconds)",
        description="On a slow machine learning ends by then, with fewer steps; with it what "
        "clicks learn and find",
    )
    batch: int = Field(1, ge=1, le=16, title="Batch size")
    window: int = Field(
        192, ge=64, le=1024, multiple_of=16, title="Window", description="network pixels"
    )
    learning_rate: float = Field(2e-3, gt=0, le=1, title="Learning rate", description="peak")
    distillation: float = Field(
        1.0,
        ge=0,
        title="Former answers",
        description="Weight of what the model was sure of where nobody has reviewed, times the "
        "trust that it has earned where somebody has",
    )
    turned: int = Field(
        2, ge=1, le=8, title="Turned", description="In how many ways a window is turned"
    )
    seed: int = Field(0, title="Seed")


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
        description="Learning ends after so many rounds in a row that are worse",
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


# --------------------------------------------------------------------------------------------
# What the channels of a network's output mean, by name.

#: The classes of our models, in the order of the network's output.
CLASSES = ("background", "interior", "boundary")
#: How deep in its object a pixel lies: 0 at the edge and beyond, 1 in the middle.
DISTANCE = "distance"
#: What a new network learns.
OUTPUTS = (*CLASSES, DISTANCE)


def n_classes(outputs: Sequence[str]) -> int:
    """How many of a network's outputs are classes; they come first."""
    return len(outputs) - (DISTANCE in outputs)


def is_taught(outputs: Sequence[str]) -> bool:
    """Whether labelled cells can teach a network with these outputs."""
    return tuple(outputs) in (CLASSES, OUTPUTS)


# --------------------------------------------------------------------------------------------
# Settings as frozen models: one definition feeds form, CLI flag and model card.
