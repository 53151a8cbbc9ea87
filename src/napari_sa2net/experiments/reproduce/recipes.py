"""What was published of each experiment, and where we had to fill in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from napari_sa2net.errors import SettingsError

#: Side of the images in all experiments (px).
SIZE = 224
#: Folds of the published cross-validation.
FOLDS = 5

RecipeName = Literal["published", "ours"]


@dataclass(frozen=True)
class Figure:
    """A published figure, in percent: the paper's where it could be verified, or a later one.

    Attributes
    ----------
    of : str
        What it was measured on.
    network : str
        Whose figure it is: the paper's, or that of a later network of its authors.
    """

    of: str
    dice: float
    iou: float
    dice_sd: float | None
    iou_sd: float | None
    source: str
    network: str = "paper"


@dataclass(frozen=True)
class Recipe:
    """How the network of one experiment is trained and scored; unsaid: as MoNuSeg and GlaS.

    Attributes
    ----------
    channel_order : "BGR", "RGB" or "any"
    in_channels, n_classes : int
        One class: sigmoid; more: softmax.
    scaling : "divide" or "range"
        Divided by 255, or, once resized, from each image's least to its greatest value, all
        channels together.
    masks : "above_zero", "nearest" or "nearest-exact"
        above_zero: resized bilinearly in whole numbers of 0 … 255, and whatever is above 0
        belongs, so that they grow. nearest: the nearest pixel, by its corner; nearest-exact:
        by its centre.
    cross_validated : bool
        Five folds of the training (and validation) images; else the data set's own split.
    loss : "dice_bce" or "dice_ce"
    dice_share : float
        Share of the Dice part; the rest is cross-entropy.
    squared_dice : bool
        Of dice_ce: squared terms in the denominator of Dice.
    optimizer : "adam" or "adamw"
    patience : int or None
        Epochs without a better validation Dice after which training stops.
    schedule : "warm_restarts", "plateau", "constant" or "one_cycle"
    figures : tuple of Figure
        Verified ones.
    unverified : str
        What could not be verified.
    filled_in : tuple of str
        What is our reading, because nothing is published or it could not be verified.
    outlined : bool
        Nothing of it is in the published code: all of it is our reading.
    name : "published" or "ours"
    zoom : int
        Images have zoom × 224 px; masks and scores stay at 224 px. Training then sees crops
        of 224 px.
    augmentation : "none", "published" or "wide"
        published: that of MoNuSeg and GlaS; wide: `prepare.WideAugmentation`.
    ema_decay : float or None
        Decay per step of the moving average of the weights, which is then what is kept.
    keeps : "best" or "last"
        The best epoch on the validation images, or the last one: then no image chose it.
    best_by : "dice" or "loss"
        What makes an epoch the best one: the greatest Dice, or the lowest loss.
    pooled : bool
        Published figures are over all pixels of all images at once, see `scoring.pooled`.
    nucleus_channel : int or None
        Input channel whose pixels count as background when scored.
    symmetries : bool
        Predictions are means over the eight turned and mirrored images.
    balanced : bool
        In the cross-entropy of dice_bce foreground and background weigh the same.
    antialiased : bool
        Images are smoothed as they are made smaller.
    """

    dataset: str
    title: str
    figures: tuple[Figure, ...]
    unverified: str
    filled_in: tuple[str, ...]
    channel_order: Literal["BGR", "RGB", "any"] = "BGR"
    in_channels: int = 3
    n_classes: int = 1
    scaling: Literal["divide", "range"] = "divide"
    masks: Literal["above_zero", "nearest", "nearest-exact"] = "above_zero"
    cross_validated: bool = True
    loss: Literal["dice_bce", "dice_ce"] = "dice_bce"
    dice_share: float = 0.5
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 4
    epochs: int = 2000
    patience: int | None = 50
    schedule: Literal["warm_restarts", "plateau", "constant", "one_cycle"] = "warm_restarts"
    outlined: bool = False
    name: RecipeName = "published"
    zoom: int = 1
    squared_dice: bool = True
    augmentation: Literal["none", "published", "wide"] = "published"
    ema_decay: float | None = None
    keeps: Literal["best", "last"] = "best"
    best_by: Literal["dice", "loss"] = "dice"
    pooled: bool = False
    nucleus_channel: int | None = None
    symmetries: bool = False
    balanced: bool = True
    antialiased: bool = False

    @property
    def scored(self) -> str:
        """What has a score each: images or volumes."""
        return "volumes" if self.dataset == "acdc" else "images"

    @property
    def whose(self) -> str:
        """Whose recipe it is, in words for title and card."""
        if self.name == "ours":
            return "our recipe for SA2-Net"
        if self.outlined:
            return "our reading of SA2-Net's recipe, after CASCADE"
        return "the published recipe of SA2-Net"


TABLES = "its authors' own table or log"
POOLED = "test images, pooled"
PREDICTIONS = "recomputed from the authors' committed predictions"
_DICE = "the squared terms in the denominator of Dice"
_AUGMENTED = (
    "half of the crops turned by right angles and flipped, a quarter turned by up to 20°"
)
_FOLDS = "folds of shuffled images, so that those of one patient may lie on both sides"
_BOTH = (_FOLDS, _DICE, f"the shares of the augmentations ({_AUGMENTED})")
_SKIN_AND_BLOOD = (
    "files in order of their names",
    "the validation loss is that of the main head",
)


def _later(network: str, dice: float, iou: float, of: str = "test images") -> Figure:
    """A figure of a later network of the same authors."""
    return Figure(of, dice, iou, None, None, TABLES, network)


#: Lesions and cells: one object an image, one training, figures over all pixels.
_ONE_BY_ONE: dict[str, Any] = {
    "n_classes": 2,
    "scaling": "range",
    "cross_validated": False,
    "loss": "dice_ce",
    "squared_dice": False,
    "learning_rate": 1e-4,
    "batch_size": 16,
    "patience": None,
    "schedule": "plateau",
    "augmentation": "none",
    "keeps": "last",
    "best_by": "loss",
    "pooled": True,
}
_UNREAD = "SA2-Net's own figures on {} are in no text that we could read."

RECIPES: dict[str, Recipe] = {
    "monuseg": Recipe(
        "monuseg",
        "MoNuSeg 2018",
        (Figure("test images, vote of five folds", 82.27, 69.99, None, None, PREDICTIONS),),
        "The paper's mean over folds could not be verified.",
        _BOTH,
    ),
    "glas": Recipe(
        "glas",
        "GlaS 2015",
        (
            Figure("test images, mean over folds", 91.38, 84.90, 0.4, 0.6, "published"),
            Figure("test images, vote of five folds", 92.05, 85.99, None, None, PREDICTIONS),
            _later("InceptionMamba (2025)", 91.88, 85.65),
        ),
        "",
        _BOTH,
    ),
    "isic2018": Recipe(
        "isic2018",
        "ISIC 2018, task 1",
        (
            _later("GA2-Net (2024)", 89.29, 87.69, POOLED),
            _later("InceptionMamba (2025)", 90.56, 88.98, POOLED),
        ),
        _UNREAD.format("ISIC 2018, task 1"),
        _SKIN_AND_BLOOD,
        channel_order="RGB",
        masks="nearest",
        epochs=150,
        **_ONE_BY_ONE,
    ),
    "segpc2021": Recipe(
        "segpc2021",
        "SegPC-2021",
        (
            _later("GA2-Net (2024)", 92.49, 92.32, POOLED),
            _later("InceptionMamba (2025)", 92.84, 92.63, POOLED),
        ),
        _UNREAD.format("SegPC-2021"),
        (
            *_SKIN_AND_BLOOD,
            "the box of the nucleus grown on each side by half of 2.5 times its size, after a "
            "public preparation, and stretched to 224×224 px",
            "masks cut at 0.5 of 255, so that whatever the cell touches belongs",
        ),
        channel_order="any",
        in_channels=4,
        epochs=100,
        nucleus_channel=3,
        **_ONE_BY_ONE,
    ),
    "acdc": Recipe(
        dataset="acdc",
        title="ACDC",
        channel_order="any",
        in_channels=1,
        n_classes=4,
        scaling="range",
        masks="nearest-exact",
        cross_validated=False,
        loss="dice_ce",
        dice_share=0.7,
        optimizer="adamw",
        learning_rate=1e-4,
        weight_decay=1e-4,
        batch_size=12,
        epochs=150,
        patience=None,
        schedule="constant",
        figures=(),
        unverified=_UNREAD.format("ACDC"),
        filled_in=(
            "all of it follows CASCADE",
            "the patients of each split (7, 1 and 2 of ten)",
            "intensities from each slice's least to its greatest value",
            "images of 224×224 px, masks resized to the nearest pixel",
            "AdamW 1e-4, weight decay 1e-4, a constant learning rate",
            "150 epochs of batches of 12",
            "the augmentation, taken over from MoNuSeg and GlaS",
            "0.3 cross-entropy and 0.7 Dice over all classes of a batch, with squared terms in "
            "its denominator",
            "all four heads summed with weight 1",
            "all epochs run, and the one with the best validation Dice is kept",
        ),
        outlined=True,
    ),
}


def _ours(
    published: Recipe,
    zoom: int,
    epochs: int,
    augmentation: Literal["published", "wide"],
) -> Recipe:
    """Same network, images and scores; trained and asked otherwise."""
    return replace(
        published,
        name="ours",
        zoom=zoom,
        epochs=epochs,
        patience=None,
        augmentation=augmentation,
        optimizer="adamw",
        weight_decay=1e-2,
        schedule="one_cycle",
        ema_decay=0.99,
        keeps="last",
        symmetries=True,
        # Balanced, it finds a fifth too much, which costs Dice at the threshold of ½.
        balanced=False,
        antialiased=True,
        filled_in=published.filled_in if augmentation == "published" else (_FOLDS, _DICE),
    )


#: Our own way of training and asking. Glands are large and need their surroundings: crops of
#: larger images, and wide augmentation in a short run, made them worse.
OURS: dict[str, Recipe] = {
    "monuseg": _ours(RECIPES["monuseg"], zoom=2, epochs=400, augmentation="wide"),
    "glas": _ours(RECIPES["glas"], zoom=1, epochs=200, augmentation="published"),
}


def recipe_of(dataset: str, name: RecipeName = "published") -> Recipe:
    """The recipe of a data set.

    Raises
    ------
    SettingsError
        If the data set is not known, or has no such recipe.
    """
    if dataset not in RECIPES:
        raise SettingsError(f"Unknown data set {dataset!r}. Known are: {', '.join(RECIPES)}.")
    if name == "published":
        return RECIPES[dataset]
    if name != "ours" or dataset not in OURS:
        raise SettingsError(
            f"There is no recipe {name!r} for {dataset}. Use the published one; 'ours' is "
            f"there for {' and '.join(OURS)}."
        )
    return OURS[dataset]
