"""All that a fine-tuning works with: images by their use, views to score, replay."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from napari_sa2net.config import CLASSES, FineTuneConfig, InputConfig, Progress, is_taught
from napari_sa2net.data import plan_image
from napari_sa2net.data.axes import Channels
from napari_sa2net.data.samples import reference_images
from napari_sa2net.data.training_set import TrainingItem, load_training_folder
from napari_sa2net.errors import Cancelled, SettingsError
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.file import Model
from napari_sa2net.models.registry import ancestors, list_models
from napari_sa2net.training.compare import use_in_line
from napari_sa2net.training.dataset import Example, label_notes, load_example
from napari_sa2net.training.held_out import (
    Split,
    focus,
    is_one_group,
    make_view,
    split_examples,
    spread,
)
from napari_sa2net.training.replay import replay_examples

# --------------------------------------------------------------------------------------------
# The reference set as a network sees it: what tells that a child has forgotten.

#: Side of the part of an image that is scored (network px): a fixed cost in every round.
REFERENCE_SIDE = 320


def reference_examples(card: ModelCard) -> list[Example]:
    """Synthetic cells with known outlines, always the same."""
    return list(_drawn(card.input, card.network.in_channels))


@lru_cache(maxsize=2)
def _drawn(expects: InputConfig, in_channels: int) -> tuple[Example, ...]:
    examples = []
    for one in reference_images():
        plan = plan_image(one.image, model_input=expects, in_channels=in_channels)
        height, width = plan.spatial
        item = TrainingItem(one.name, Path(), Path(), kind=one.kind)
        pixels = plan.read((), 0, height, 0, width)
        nowhere = np.zeros((0, 2))
        examples.append(Example(item, pixels, one.labels, None, one.diameter, nowhere))
    return tuple(examples)


#: Names of the sets that are scored; all but the first make up the reference set.
HELD_OUT, EARLIER = "held-out corrections", "earlier corrections"
KINDS = {"fluo": "fluorescence", "stained": "stained tissue"}
#: Said where a group lies on both sides.
ONE_GROUP = (
    "All images are of one group, so it judges kindly: images of another group would tell more."
)
#: Object size (px) of a model that does not say its own.
DIAMETER = 24.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Material(Split):
    """What a run works with: examples by their use, and what they are scored and kept by.

    Attributes
    ----------
    diameter : float
        Object size of the network (px).
    views : dict of str to list of Example
        `HELD_OUT`, and parts of the reference set by name.
    notes : tuple of str
        What may be wrong with the labels, and which of several channels is read.
    """

    diameter: float
    views: dict[str, list[Example]]
    replay: list[Example]
    notes: tuple[str, ...] = ()

    @staticmethod
    def names(examples: Sequence[Example]) -> list[str]:
        """Names of images, in order."""
        return [e.item.name for e in examples]

    def division(self) -> dict[str, list[str]]:
        """Names by use, to divide the set in the same way again."""
        return {
            "training": self.names(self.training),
            "held_out": self.names(self.held_out),
            "earlier": self.names(self.earlier),
        }

    def commit_ids(self) -> dict[str, str]:
        """Ids of the commits by name, where the set has them."""
        return {item.name: item.commit for item in self._items() if item.commit}

    def places(self) -> dict[str, str]:
        """`TrainingItem.place` by name, by which an image is known that is kept anew."""
        return {item.name: item.place for item in self._items() if item.place}

    def caveats(self) -> tuple[str, ...]:
        """Why what is held back judges too kindly, in sentences."""
        said = []
        if self.known:
            said.append("The parent had learned from these corrections before.")
        if self.one_group:
            said.append(ONE_GROUP)
        return tuple(said)

    def _items(self) -> list[TrainingItem]:
        return [e.item for e in (*self.training, *self.held_out, *self.earlier)]


def prepare(
    folder: Path,
    parent: Model,
    config: FineTuneConfig,
    commits: Sequence[str] | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    division: Mapping[str, Sequence[str]] | None = None,
    axes: str | None = None,
    channels: Channels = None,
) -> Material:
    """Read a training set and divide it up.

    Parameters
    ----------
    commits : sequence of str, optional
        Only these images, by name or id of the commit; also superseded or removed ones.
    division : mapping, optional
        `Material.division` of an earlier run: the images are divided as then.
    axes, channels
        As of `load_training_folder`.

    Raises
    ------
    TrainingDataError, SettingsError, Cancelled
    """
    card = parent.card
    if not is_taught(card.classes):
        raise SettingsError(
            f"Model {parent.name!r} has the classes {', '.join(card.classes)}; corrections "
            f"teach models with {', '.join(CLASSES)}, such as 'nuclei'."
        )
    diameter = card.diameter or DIAMETER
    if division is not None:
        commits = sorted({name for names in division.values() for name in names})
    items = load_training_folder(folder, only=commits, axes=axes, channels=channels)
    examples = []
    for i, item in enumerate(items):
        if cancelled and cancelled():
            raise Cancelled("Cancelled; nothing was changed.")
        if progress:
            progress(i, len(items), "reading corrections")
        example = load_example(item, card.input, diameter, card.network.in_channels)
        examples.append(focus(example, diameter))
    notes = label_notes(examples, folder)
    cards = [card, *(entry.card for entry in ancestors(card, list_models(aside=True)))]
    uses = {e.item.name: use_in_line(cards, e.item) for e in examples}
    learned = {name for name, use in uses.items() if use in ("learned", "both")}
    if division is not None:
        split = _as_divided(examples, config, division, learned)
    else:
        before = {name for name, use in uses.items() if use in ("held out", "earlier")}
        split = split_examples(examples, config.held_out, config.seed, learned, before)
    held_out = spread(split.held_out, config.max_scored)
    earlier = spread(split.earlier, config.max_scored)
    views = {
        HELD_OUT: [make_view(e, diameter) for e in held_out],
        **reference_views(card, config.max_scored),
        EARLIER: [make_view(e, diameter) for e in earlier],
    }
    return Material(
        **vars(split),
        diameter=diameter,
        views={name: some for name, some in views.items() if some},
        replay=replay_examples(card, diameter, config.seed) if config.replay else [],
        notes=notes,
    )


def reference_views(card: ModelCard, most: int) -> dict[str, list[Example]]:
    """At most so many parts of each kind of the reference set, by the kind's name."""
    reference, diameter = reference_examples(card), card.diameter or DIAMETER
    return {
        name: [
            make_view(e, diameter, REFERENCE_SIDE)
            for e in spread([e for e in reference if e.item.kind == kind], most)
        ]
        for kind, name in KINDS.items()
    }


def _as_divided(
    examples: list[Example],
    config: FineTuneConfig,
    division: Mapping[str, Sequence[str]],
    learned: Collection[str],
) -> Split:
    if set(division["training"]) & set(division["held_out"]):
        # One image, in blocks.
        return split_examples(examples, config.held_out, config.seed, learned)
    by_name = {e.item.name: e for e in examples}
    training, held_out, earlier = (
        [by_name[name] for name in division[use]] for use in ("training", "held_out", "earlier")
    )
    return Split(
        training,
        held_out,
        earlier,
        known=any(e.item.name in learned for e in held_out),
        one_group=is_one_group([*training, *held_out]),
    )
