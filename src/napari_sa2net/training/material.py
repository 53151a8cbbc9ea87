"""All that a fine-tuning works with: images by their use, views to score, replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_sa2net.config import FineTuneConfig
from napari_sa2net.data.training_set import TrainingItem, load_training_folder
from napari_sa2net.errors import Cancelled, SettingsError, TrainingDataError
from napari_sa2net.models.model import Model
from napari_sa2net.training.dataset import Example, load_example
from napari_sa2net.training.held_out import (
    Split,
    View,
    focus,
    make_view,
    split_examples,
    spread,
)
from napari_sa2net.training.reference import REFERENCE_SIDE, reference_examples
from napari_sa2net.training.replay import replay_examples
from napari_sa2net.training.targets import CLASSES

Progress = Callable[[int, int, str], None]
#: Names of the sets that are scored; all but the first make up the reference set.
HELD_OUT, EARLIER = "held-out corrections", "earlier corrections"
KINDS = {"fluo": "fluorescence", "stained": "stained tissue"}
#: Object size (px) of a model that does not say its own.
DIAMETER = 24.0


@dataclass(frozen=True, eq=False)
class Material:
    """What a run works with.

    Attributes
    ----------
    split : Split
    diameter : float
        Object size of the network (px).
    views : dict of str to list of View
        `HELD_OUT`, and parts of the reference set by name.
    replay : list of Example
    """

    split: Split
    diameter: float
    views: dict[str, list[View]]
    replay: list[Example]

    @staticmethod
    def names(examples: Sequence[Example]) -> list[str]:
        """Names of images, in order."""
        return [e.item.name for e in examples]

    def division(self) -> dict[str, list[str]]:
        """Names by use, to divide the set in the same way again."""
        return {
            "training": self.names(self.split.training),
            "held_out": self.names(self.split.held_out),
            "earlier": self.names(self.split.earlier),
        }

    def commit_ids(self) -> dict[str, str]:
        """Ids of the commits by name, where the set has them."""
        split = self.split
        everything = (*split.training, *split.held_out, *split.earlier)
        return {e.item.name: e.item.commit for e in everything if e.item.commit}


def prepare(
    folder: Path,
    parent: Model,
    config: FineTuneConfig,
    commits: Sequence[str] | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    division: Mapping[str, Sequence[str]] | None = None,
) -> Material:
    """Read a training set and divide it up.

    Parameters
    ----------
    folder : Path
    parent : Model
    config : FineTuneConfig
    commits : sequence of str, optional
        Only these images, by name or id of the commit.
    progress, cancelled : callables, optional
    division : mapping, optional
        `Material.division` of an earlier run: the images are divided as then.

    Raises
    ------
    TrainingDataError, SettingsError, Cancelled
    """
    card = parent.card
    if card.classes != CLASSES:
        raise SettingsError(
            f"Model {parent.name!r} has the classes {', '.join(card.classes)}; corrections "
            f"teach models with {', '.join(CLASSES)}, such as 'nuclei'."
        )
    diameter = card.diameter or DIAMETER
    if division is not None:
        commits = sorted({name for names in division.values() for name in names})
    items = _chosen(load_training_folder(folder), commits)
    examples = []
    for i, item in enumerate(items):
        if cancelled and cancelled():
            raise Cancelled("Cancelled; nothing was changed.")
        if progress:
            progress(i, len(items), "reading corrections")
        examples.append(focus(load_example(item, card.input, diameter), diameter))
    if division is not None:
        split = _as_divided(examples, config, division)
    else:
        before = card.training if card.training.get("recipe") == "fine-tune" else {}
        split = split_examples(
            examples,
            config.held_out,
            config.seed,
            before.get("commits", ()),
            [*before.get("held_out", ()), *before.get("held_out_before", ())],
        )
    held_out = spread(split.held_out, config.max_scored)
    reference = reference_examples(card)
    earlier = spread(split.earlier, config.max_scored)
    views = {
        HELD_OUT: [make_view(e, diameter) for e in held_out],
        **{name: [] for name in KINDS.values()},
        EARLIER: [make_view(e, diameter) for e in earlier],
    }
    for kind, name in KINDS.items():
        some = spread([e for e in reference if e.item.kind == kind], config.max_scored)
        views[name] = [make_view(e, diameter, REFERENCE_SIDE) for e in some]
    return Material(
        split,
        diameter,
        {name: some for name, some in views.items() if some},
        replay_examples(card, diameter, config.seed) if config.replay else [],
    )


def _chosen(items: list[TrainingItem], commits: Sequence[str] | None) -> list[TrainingItem]:
    if commits is None:
        return items
    chosen = [item for item in items if item.name in commits or item.commit in commits]
    found = {key for item in chosen for key in (item.name, item.commit)}
    missing = [name for name in commits if name not in found]
    if missing:
        raise TrainingDataError(
            f"The training set no longer has {', '.join(missing[:3])}"
            f"{' …' if len(missing) > 3 else ''}. Bring back what is missing (removed commits "
            "can be restored), or start a new run."
        )
    return chosen


def _as_divided(
    examples: list[Example], config: FineTuneConfig, division: Mapping[str, Sequence[str]]
) -> Split:
    if set(division["training"]) & set(division["held_out"]):
        return split_examples(examples, config.held_out, config.seed)  # one image, in blocks
    by_name = {e.item.name: e for e in examples}
    training, held_out, earlier = (
        [by_name[name] for name in division[use]] for use in ("training", "held_out", "earlier")
    )
    return Split(training, held_out, earlier)
