"""What a study is made of: settings, presets, variants of a network, and its images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError

from napari_sa2net.config import (
    Four,
    InputConfig,
    NetworkKind,
    Progress,
    Settings,
    TrainConfig,
    UnifiedFocalConfig,
)
from napari_sa2net.data.training_set import (
    LEARNED_FROM,
    TrainingItem,
    load_training_folder,
    split_items,
)
from napari_sa2net.errors import SettingsError, TrainingDataError
from napari_sa2net.nn import Network, make_network, network_config
from napari_sa2net.training.dataset import Example, evenly, load_example
from napari_sa2net.training.train import start_network

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


# --------------------------------------------------------------------------------------------
# Networks with some of the attention modules, and the rule.
#
# Published (arXiv 2111.00534): a module's coefficients are raised to one trainable γ, and γ
# tells which modules a data set needs. Reconstruction: everything about how, since the text
# gives neither rule nor threshold.

SKIPS = (4, 3, 2, 1)


def modules_of(kind: NetworkKind) -> tuple[str, ...]:
    """Names of the modules that have a γ: the gates of skips 4…1, then SE of skips 4…1."""
    gate = "psi" if kind == "sa2net" else "gate"
    return tuple(f"{name}{k}" for name in (gate, "se") for k in SKIPS)


def title_of(module: str) -> str:
    """Name of a module for people: ψ4, gate 4, SE 4."""
    name, k = module[:-1], module[-1]
    return {"psi": f"ψ{k}", "gate": f"gate {k}", "se": f"SE {k}"}[name]


def build(
    settings: StudySettings, seed: int, kept: Collection[str], learnable: bool
) -> Network:
    """A network with some of the modules, before its first step.

    The weights are those that a network with all modules draws from the seed, so all
    variants of a seed begin equal in what they share.

    Parameters
    ----------
    kept : collection of str
        Of `modules_of`.
    learnable : bool
        Train γ of every module; else it is 1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole, _ = start_network(settings.training(seed))
        names = modules_of(settings.network)
        there = [name in kept for name in names]
        config = network_config(whole).model_copy(
            update={"gates": _four(there[:4]), "se": _four(there[4:])}
        )
        net = make_network(config, learnable)
    state = whole.state_dict()
    net.load_state_dict({key: state[key] for key in net.state_dict()})
    return net


def gamma_of(net: Network, kind: NetworkKind) -> dict[str, float]:
    """γ of every module that there is."""
    config = network_config(net)
    there, gamma = (*config.gates, *config.se), (*net.gamma, *net.se_gamma)
    return {
        name: float(g) for name, g, t in zip(modules_of(kind), gamma, there, strict=True) if t
    }


def as_trained(net: Network) -> Network:
    """A copy in eval mode and on the CPU, with γ fixed where it was learned."""
    fixed = make_network(network_config(net))
    state = net.state_dict()
    fixed.load_state_dict({key: state[key].detach().cpu() for key in fixed.state_dict()})
    return fixed.eval()


def keep(gamma: Mapping[str, Sequence[float]], threshold: float) -> tuple[str, ...]:
    """The rule (reconstruction): modules whose median γ over seeds reaches the threshold."""
    return tuple(name for name, values in gamma.items() if median(values) >= threshold)


def count_parameters(net: Network) -> int:
    """Weights of a network; a fixed γ is none."""
    return sum(p.numel() for p in net.parameters())


def _four(values: Sequence[bool]) -> Four:
    a, b, c, d = values
    return a, b, c, d


# --------------------------------------------------------------------------------------------
# What it learns from and what it is measured on: never the same images.


@dataclass(frozen=True, eq=False)
class StudyImages:
    """Images in memory.

    Attributes
    ----------
    named : bool
        The index names the test images; else they were held out.
    digest : str
        SHA-256 of all files and of what they are used for.
    """

    training: list[Example]
    test: list[Example]
    named: bool
    digest: str

    def plain(self) -> dict[str, Any]:
        """Names and digest, for JSON."""
        return {
            "training": [e.item.name for e in self.training],
            "test": [e.item.name for e in self.test],
            "test_is_named_in_the_index": self.named,
            "digest": self.digest,
        }


def choose_items(
    directory: str | Path, settings: StudySettings
) -> tuple[list[TrainingItem], list[TrainingItem], bool]:
    """Items to train on, items to measure on, and whether the index names the latter.

    Rows of split train and val are trained on (no step of the study needs validation
    images), rows of split test are measured on. Without such rows a seeded share of each
    kind is held out, whole groups at a time.

    Raises
    ------
    TrainingDataError
        If a side would be empty, the folder does not serve, or the kind is not there.
    """
    items = load_training_folder(directory, (*LEARNED_FROM, "test"))
    if settings.kind is not None:
        kinds = sorted({item.kind for item in items if item.kind})
        items = [item for item in items if item.kind == settings.kind]
        if not items:
            there = f"The kinds there are: {', '.join(kinds)}." if kinds else (
                "Its index.csv has no column kind, or there is no index.csv."
            )  # fmt: skip
            raise TrainingDataError(
                f"{directory} has no images of kind {settings.kind!r}. {there}"
            )
    test = [item for item in items if item.split == "test"]
    learned = [item for item in items if item.split != "test"]
    named = bool(test)
    if not learned:
        raise TrainingDataError(
            f"{directory} has test images alone. Mark images to train on in index.csv with "
            "split train."
        )
    if not named:
        unmarked = [replace(item, split="") for item in learned]
        learned, test = split_items(unmarked, TEST_FRACTION, SPLIT_SEED)
    learned, test = (
        evenly(side, settings.images, lambda item: (item.kind, item.name))
        for side in (learned, test)
    )
    return learned, test, named


def load_images(
    directory: str | Path,
    settings: StudySettings,
    on_progress: Progress | None = None,
    cancelled: Callable[[], None] | None = None,
) -> StudyImages:
    """Read what `choose_items` chose.

    Parameters
    ----------
    on_progress : callable (done, total, what), optional
    cancelled : callable, optional
        Asked before each image; raises what shall end it.

    Raises
    ------
    TrainingDataError
        As of `choose_items` and `dataset.load_example`, or if no image has an object.
    """
    training, test, named = choose_items(directory, settings)
    digest = hashlib.sha256()
    examples: list[Example] = []
    items = [*training, *test]
    for i, item in enumerate(items):
        if cancelled:
            cancelled()
        if on_progress:
            on_progress(i, len(items), "reading images")
        use = "train" if i < len(training) else "test"
        digest.update(f"{use}/{item.name}/{item.kind}\0".encode())
        for path in (item.image, item.labels, item.reviewed):
            if path is not None:
                digest.update(_content(path))
        examples.append(load_example(item, InputConfig(), settings.diameter))
    for use, some in (
        ("trained", examples[: len(training)]),
        ("measured", examples[len(training) :]),
    ):
        if not any(e.labels.any() for e in some):
            raise TrainingDataError(
                f"None of the {len(some)} images that would be {use} on has a labelled "
                "object. Label images are 0 for background and one number per object."
            )
    return StudyImages(
        examples[: len(training)], examples[len(training) :], named, digest.hexdigest()
    )


def _content(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise TrainingDataError(f"{path} cannot be read ({error}).") from error
