"""The best round of a fine-tuning becomes a child: judged, saved, and put where it belongs."""

from __future__ import annotations

import copy
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_sa2net.config import FineTuneConfig
from napari_sa2net.data.reference import REFERENCE_SHA256
from napari_sa2net.inference.devices import device_name, resolve_device
from napari_sa2net.models.card import ModelCard, utc_now
from napari_sa2net.models.file import save_model
from napari_sa2net.models.model import Model, load_model
from napari_sa2net.models.registry import add_file
from napari_sa2net.nn import Network, make_network, network_config
from napari_sa2net.provenance import versions
from napari_sa2net.training.compare import Change, Score, Verdict, change, judge
from napari_sa2net.training.material import DIAMETER, HELD_OUT
from napari_sa2net.training.rounds import Record, reference_of
from napari_sa2net.training.runs import RECIPE, Asked, folder_input


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What became of a fine-tuning.

    Attributes
    ----------
    model : Model
        The child, with the weights of its best round.
    before, after : Score
        Parent and child on the corrections that were held back.
    held_out, reference : Change
        The same with an interval, and on the reference set.
    verdict : Verdict
        Whether the child is better, in words.
    promoted : bool
        Offered by name from now on; otherwise kept aside (`models.promote_model`).
    path : Path
        The child's file.
    run : Path
        Folder of the run.
    """

    model: Model
    before: Score
    after: Score
    held_out: Change
    reference: Change
    verdict: Verdict
    promoted: bool
    path: Path
    run: Path

    @property
    def card(self) -> ModelCard:
        """The child's card."""
        return self.model.card


@dataclass(frozen=True, eq=False)
class Ended:
    """A run that is over, as far as the child's card tells of it; no image is needed.

    Attributes
    ----------
    run : Path
    asked : Asked
    parent : Model
    record : Record
        With a best round.
    pieces : sequence of (step, total)
        The schedule.
    rounds, steps, micro, crop : int
    """

    run: Path
    asked: Asked
    parent: Model
    record: Record
    pieces: Sequence[Sequence[int]]
    rounds: int
    steps: int
    micro: int
    crop: int

    @classmethod
    def of_state(cls, run: Path, asked: Asked, parent: Model, state: dict[str, Any]) -> Ended:
        """From what lies on disk."""
        plan = state["schedule"]
        return cls(
            run,
            asked,
            parent,
            Record.of(state["record"]),
            plan["pieces"],
            plan["rounds"],
            state["module"]["done"],
            state["micro"],
            state["crop"],
        )


def child_net(parent: Model, config: FineTuneConfig) -> Network:
    """A network of the parent's weights that may be changed."""
    net = copy.deepcopy(parent.net).float()
    if config.learn == "everything":
        return net
    # A saved network's exponents are fixed, so its weights lack them alone.
    focal = make_network(network_config(net), learnable_gamma=True)
    focal.load_state_dict(net.state_dict(), strict=False)
    return focal


def finish(ended: Ended) -> FineTuned:
    """Judge the best round, save it, and put it where it belongs."""
    record, asked = ended.record, ended.asked
    assert record.best is not None and record.weights is not None
    held_out = change(record.parent[HELD_OUT], record.best[HELD_OUT])
    parts = {
        name: change(before, record.best[name])
        for name, before in record.parent.items()
        if name != HELD_OUT
    }
    reference = change(reference_of(record.parent), reference_of(record.best))
    verdict = judge(held_out, parts)
    verdict = replace(verdict, text=" ".join([verdict.text, *asked.caveats]))
    promoted = verdict.better if asked.promote is None else asked.promote
    net = child_net(ended.parent, asked.config)
    net.load_state_dict(record.weights)
    card = _card(ended, {HELD_OUT: held_out, **parts}, verdict)
    file = ended.run / f"{asked.name}.safetensors"
    path = save_model(file, net.cpu().eval(), card, "float16")
    if asked.registered:
        path = add_file(path, asked.name, aside=not promoted).path
    return FineTuned(
        load_model(path),
        held_out.before,
        held_out.after,
        held_out,
        reference,
        verdict,
        promoted and asked.registered,
        path,
        ended.run,
    )


def _card(ended: Ended, changes: dict[str, Change], verdict: Verdict) -> ModelCard:
    asked, parent, record = ended.asked, ended.parent, ended.record
    training = {
        "recipe": RECIPE,
        "data": Path(asked.training_set).name,
        **folder_input(asked.axes, asked.channels),
        "commits": list(asked.division["training"]),
        "held_out": list(asked.division["held_out"]),
        "held_out_before": list(asked.division["earlier"]),
        "commit_ids": asked.commit_ids,
        "places": asked.places,
        "command": asked.command or shlex.join(Path(sys.argv[0]).name.split()),
        "settings": asked.config.model_dump(mode="json"),
        "seed": asked.config.seed,
        "schedule": [list(piece) for piece in ended.pieces],
        "rounds": ended.rounds,
        "steps": ended.steps,
        "best_step": record.step,
        "batch": {"crops_at_once": ended.micro, "crop": ended.crop},
        "device": device_name(resolve_device(asked.config.device)),
        "versions": versions(),
        "reference_sha256": REFERENCE_SHA256,
        "verdict": verdict.text,
        "better": verdict.better,
    }
    return parent.card.model_copy(
        update={
            "name": asked.name,
            "description": f"{parent.name}, taught by corrections "
            f"({Path(asked.training_set).name})",
            "diameter": parent.card.diameter or DIAMETER,
            "training": training,
            "scores": {
                **{name: _scores(part.after, part) for name, part in changes.items()},
                **{f"{name}, parent": _scores(part.before) for name, part in changes.items()},
            },
            "parent": f"{parent.name} {parent.sha256}",
            "created": utc_now(),
        }
    )


def _scores(score: Score, change: Change | None = None) -> dict[str, float]:
    """Scores, and half the intervals of how they changed."""
    scores = {
        "ap50": score.ap50,
        "mean_ap": score.mean_ap,
        "dice": score.dice,
        "objects": float(score.n),
    }
    if change is not None:
        scores |= {"ap50_margin": change.margin, "dice_margin": change.dice.margin}
    return scores
