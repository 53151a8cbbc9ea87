"""One run of fine-tuning: measures, trains, saves, and goes on after what went wrong."""

from __future__ import annotations

import contextlib
import copy
import logging
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from napari_sa2net.config import LEARNING, FineTuneConfig, Progress
from napari_sa2net.data.samples import REFERENCE_SHA256
from napari_sa2net.errors import Cancelled, OutOfMemoryError, Paused
from napari_sa2net.inference.devices import device_name, is_out_of_memory, resolve_device
from napari_sa2net.models.card import ModelCard, utc_now
from napari_sa2net.models.file import Model, as_stored, load_model, save_model
from napari_sa2net.models.registry import add_file
from napari_sa2net.nn import Network, make_network, network_config
from napari_sa2net.provenance import versions
from napari_sa2net.training.compare import (
    Change,
    Event,
    LossPoint,
    Notice,
    Planned,
    Score,
    Verdict,
    change,
    judge,
    score_of,
)
from napari_sa2net.training.dataset import Example
from napari_sa2net.training.held_out import make_view, spread
from napari_sa2net.training.material import DIAMETER, HELD_OUT, KINDS, Material
from napari_sa2net.training.replay import MixedCrops, agreement, as_fluorescence, trust
from napari_sa2net.training.runs import RECIPE, Asked, folder_input, tidy, write_state
from napari_sa2net.training.schedule import Schedule, steps_within
from napari_sa2net.training.train import fit
from napari_sa2net.training.tuning import (
    FEWEST,
    Record,
    Rounds,
    Scorer,
    Tallies,
    TuningModule,
    as_training,
    reference_of,
    working_dtype,
)

#: So much of the way back to the parent's weights is tried where what was forgotten speaks
#: against a child: what both can do survives in between (Wortsman et al., "Robust fine-tuning
#: of zero-shot models", CVPR 2022).
TAKEN_BACK = (0.25, 0.5, 0.75)

# --------------------------------------------------------------------------------------------
# The best round of a fine-tuning becomes a child: judged, saved, and put where it belongs.


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


def child_net(parent: Model, config: FineTuneConfig) -> Network:
    """A network of the parent's weights that may be changed."""
    net = copy.deepcopy(parent.net).float()
    if config.learn == "everything":
        return net
    # A saved network's exponents are fixed, so its weights lack them alone.
    focal = make_network(network_config(net), learnable_gamma=True)
    focal.load_state_dict(net.state_dict(), strict=False)
    return focal


def changes(parent: Tallies, child: Tallies) -> tuple[Change, dict[str, Change]]:
    """From parent to child on what was held back, and on each part of the reference set."""
    all_of_it = {name: change(before, child[name]) for name, before in parent.items()}
    return all_of_it.pop(HELD_OUT), all_of_it


def finish(run: Path, asked: Asked, parent: Model, state: dict[str, Any]) -> FineTuned:
    """Judge the best round of a state, save it, and put it where it belongs.

    No image is needed. `Cancelled` if there is no such round.
    """
    record = Record.of(state["record"])
    if record.best is None or record.weights is None:
        raise Cancelled(
            "Learning was stopped before its first round was over, so there is nothing to "
            f"keep. Nothing was changed. Run: {run}"
        )
    held_out, parts = changes(record.parent, record.best)
    reference = change(reference_of(record.parent), reference_of(record.best))
    verdict = judge(held_out, parts)
    verdict = replace(verdict, text=" ".join([verdict.text, *asked.caveats]))
    promoted = verdict.better if asked.promote is None else asked.promote
    net = child_net(parent, asked.config)
    net.load_state_dict(record.weights)
    card = _card(asked, parent, record, state, {HELD_OUT: held_out, **parts}, verdict)
    path = save_model(run / f"{asked.name}.safetensors", net.cpu().eval(), card, "float16")
    if asked.registered:
        path = add_file(path, asked.name, aside=not promoted).path
        tidy(run)
    return FineTuned(
        load_model(path),
        held_out.before,
        held_out.after,
        held_out,
        reference,
        verdict,
        promoted and asked.registered,
        path,
        run,
    )


def _card(
    asked: Asked,
    parent: Model,
    record: Record,
    state: dict[str, Any],
    changes: dict[str, Change],
    verdict: Verdict,
) -> ModelCard:
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
        "schedule": [list(piece) for piece in state["schedule"]["pieces"]],
        "rounds": state["schedule"]["rounds"],
        "steps": state["module"]["done"],
        "best_step": record.step,
        "taken_back": record.taken_back,
        "batch": {"crops_at_once": state["micro"], "crop": state["crop"]},
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
            "image_diameters": asked.image_diameters,
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


logger = logging.getLogger(__name__)

#: Steps that are timed, after one that is not: the first is slower. One where seconds count.
PROBE_STEPS = {"everything": 3, "attention": 1}
#: Batches that a loader offers at most; a run ends long before.
MANY = 10_000_000
SMALLEST_CROP = 64
#: AP on a kind of reference image from which the parent is held to know it.
KNOWN = 0.1
#: Sides of which the parent's answers are looked at to see whether they can be trusted.
MAX_TRUST_IMAGES = 8


def _log(event: Event) -> None:
    """Where nobody asked for events, what a person should know is not lost."""
    if isinstance(event, Notice):
        logger.warning(event.text)


class Stopped(Exception):
    """A person wants it to end here."""


class TuningRun:
    """See `fine_tune`; `begin` or `take_on` comes first, then `train`."""

    def __init__(
        self,
        run: Path,
        asked: Asked,
        parent: Model,
        material: Material,
        start: float,
        on_event: Callable[[Event], None] | None,
        preview: Callable[[Model, int], None] | None,
        cancelled: Callable[[], bool] | None,
        paused: Callable[[], bool] | None,
    ) -> None:
        self.run = run
        self.asked = asked
        self.parent = parent
        self.material = material
        self.config: FineTuneConfig = asked.config
        self.device = resolve_device(self.config.device)
        self.dtype = working_dtype(self.device, self.config.precision)
        self.crop = self.config.crop
        self._start = start
        self._tell = on_event or _log
        self._preview = preview
        self._cancelled = cancelled or (lambda: False)
        self._paused = paused or (lambda: False)
        self.scorer = Scorer(material.views, parent.card, self.device, self.dtype, self._ask)
        self.record: Record
        self.schedule: Schedule
        self.module: TuningModule

    # --- before the first step -------------------------------------------------------------

    def begin(self, progress: Progress | None = None) -> None:
        """Score the parent, measure the machine's speed, plan."""
        config = self.config
        say = progress or (lambda done, total, what: None)
        scoring, timing = (
            "scoring the model as it is",
            "measuring how fast this computer learns",
        )
        say(0, 0, scoring)
        teacher = self._network()
        start = time.monotonic()
        parent = self._careful(
            lambda: self.scorer.score(teacher, lambda done, total: say(done, total, scoring))
        )
        per_round = time.monotonic() - start
        self.record = Record(parent)
        rounds, steps = config.rounds, config.steps or 1
        per_step = 0.0
        if config.steps is None and not self.asked.schedule:
            say(0, 0, timing)
            per_step = self._probe(lambda done, total: say(done, total, timing))
            left = config.minutes * 60 - (time.monotonic() - self._start)
            steps, rounds = steps_within(
                left, per_step, per_round, config.rounds, FEWEST[config.learn]
            )
        self.schedule = Schedule(steps, rounds, config.warmup, self.asked.schedule)
        self.module = self._module(self._trusted(teacher))
        self._limited = config.steps is None and not self.asked.schedule
        self.record.seconds = time.monotonic() - self._start
        expected = self.record.seconds + self.schedule.total * per_step + rounds * per_round
        self._tell(self._plan(expected if per_step else 0.0))
        for words in (*self.material.notes, *self.asked.caveats):
            self._tell(Notice(words))

    def _plan(self, seconds: float) -> Planned:
        held_out = score_of(self.record.parent[HELD_OUT])
        return Planned(
            self.schedule.total,
            self.schedule.rounds,
            seconds,
            sum(len(e.centres) for e in self.material.training),
            held_out.n,
            held_out,
            score_of(reference_of(self.record.parent)),
        )

    def take_on(self, state: dict[str, Any]) -> None:
        """Go on where a run stood."""
        self.record = Record.of(state["record"])
        self.crop = state["crop"]
        plan = state["schedule"]
        self.schedule = Schedule(1, plan["rounds"], plan["warmup"], plan["pieces"])
        self.module = self._module(state["trust"])
        self.module.waiting = state["module"]
        self.module.done = state["module"]["done"]
        self.module.micro = state["micro"]
        self._limited = state["limited"]
        self._tell(self._plan(0.0))

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, and what came out of those before."""
        return {
            # where it goes on and has not yet taken a step: as it was
            "module": self.module.waiting or self.module.state(),
            "micro": self.module.micro,
            "trust": self.module.trust,
            "crop": self.crop,
            "limited": self._limited,
            "schedule": {
                "rounds": self.schedule.rounds,
                "warmup": self.schedule.warmup,
                "pieces": [list(piece) for piece in self.schedule.pieces],
            },
            "record": self.record.plain(),
        }

    def save(self) -> None:
        """Write the state."""
        write_state(self.run, self.state())

    # --- training --------------------------------------------------------------------------

    def train(self, progress: Progress | None = None) -> None:
        """Take the steps.

        Raises
        ------
        Stopped
            By the person; `state` holds the best round so far, if there was one.
        Paused
            By the person; everything is on disk.
        OutOfMemoryError
            Even with the smallest batch and crop.
        TrainingError
        """

        def tell(event: Event) -> None:
            if progress and isinstance(event, LossPoint):
                progress(event.step, event.steps, f"{LEARNING}, loss {event.loss:.3f}")
            self._tell(event)

        limit = self.config.minutes * 60 if self._limited else None
        show = None if self._preview is None else self._show
        while self._goes_on():
            rounds = Rounds(
                self.record, self.scorer, self.config.patience, limit, self.save, tell, show
            )
            try:
                self._ask()
                self._fit(rounds)
                break
            except Paused:
                raise self._paused_here() from None
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
                    raise
            # Outside the except clause: the traceback would keep the tensors alive.
            self._shrink(tell)
        try:
            self._take_back(progress)
        except Paused:
            raise self._paused_here() from None
        except (MemoryError, RuntimeError) as error:
            # the best round is there
            if not is_out_of_memory(error):
                raise

    def _goes_on(self) -> bool:
        """Steps are left, and it is worth to take them."""
        tried = self.record.since_best < self.config.patience
        return self.module.done < self.schedule.total and tried

    def _paused_here(self) -> Paused:
        self.save()
        return Paused(
            f"Learning is paused at step {self.module.done} of {self.schedule.total}. "
            f"Go on with the run {self.run}"
        )

    def _take_back(self, progress: Progress | None = None) -> None:
        """Some of the weights, where what was forgotten alone speaks against the best round."""
        record = self.record
        if record.best is None or record.weights is None:
            return
        held_out, parts = changes(record.parent, record.best)
        if judge(held_out, parts).better or not judge(held_out).better:
            return
        say = progress or (lambda *_: None)
        new, old = self.asked.name, self.parent.card.name
        net = self._network()
        first = {name: value.cpu().clone() for name, value in net.state_dict().items()}
        for tried, share in enumerate(TAKEN_BACK):

            def tell(done: int, total: int, before: int = tried) -> None:
                # all shares are counted: it takes so long at most
                whole = len(TAKEN_BACK) * total
                say(before * total + done, whole, f"going back towards {old}, to forget less")

            mixed = {
                name: torch.lerp(value, first[name].to(value.dtype), share)
                if value.is_floating_point()
                else value
                for name, value in record.weights.items()
            }
            net.load_state_dict(as_stored(mixed))
            tallies = self.scorer.score(net, tell)
            if judge(*changes(record.parent, tallies)).better:
                record.best, record.weights, record.taken_back = tallies, mixed, share
                self.save()
                self._tell(
                    Notice(
                        f"{new} had forgotten some of what {old} could do. So it went back "
                        f"{share:.0%} of the way to {old}: what it learned from you is still "
                        "better, and nothing else is worse."
                    )
                )
                return

    def _fit(self, rounds: Rounds) -> None:
        module = self.module
        if hasattr(module, "_adam") and module.waiting is None:
            module.waiting = module.state()  # a new optimiser takes the old one's moments on
        settings = as_training(self.config, self.material.diameter).model_copy(
            update={"crop": self.crop}
        )
        crops = MixedCrops(
            self.material.training,
            self._replay(),
            settings,
            self.config.replay,
            MANY,
            module.done,
        )
        fit(
            module,
            DataLoader(crops, batch_size=self.config.batch_size),
            self.device,
            self.dtype,
            rounds,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            limit_val_batches=0,
        )

    def _shrink(self, tell: Callable[[Event], None]) -> None:
        """After memory ran out: fewer crops at once, then smaller ones."""
        self.module.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.module.micro > 1:
            self.module.micro //= 2
            tell(Notice(f"Memory ran out: on with {self.module.micro} crops at once."))
        elif self.crop > SMALLEST_CROP:
            self.crop = max(SMALLEST_CROP, self.crop // 32 * 16)
            tell(Notice(f"Memory ran out: on with crops of {self.crop} px."))
        else:
            raise OutOfMemoryError(
                f"Memory ran out even with one crop of {self.crop} px at a time. Close other "
                "programs, choose the device 'cpu', or a smaller model."
            )

    def _ask(self) -> None:
        if self._paused():
            raise Paused("paused")
        if self._cancelled():
            raise Stopped

    def _show(self, net: Network, number: int) -> None:
        assert self._preview is not None
        card = self.parent.card.model_copy(update={"name": self.asked.name})
        shown = child_net(self.parent, self.config)
        shown.load_state_dict(net.state_dict())
        self._preview(Model(shown.eval(), card), number)

    # --- parts -----------------------------------------------------------------------------

    def _network(self) -> Network:
        net = child_net(self.parent, self.config).eval().to(self.device)
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _module(self, trusted: float) -> TuningModule:
        torch.manual_seed(self.config.seed)
        net = child_net(self.parent, self.config).train()
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return TuningModule(
            net,
            child_net(self.parent, self.config),
            self.config,
            self.material.diameter,
            self.schedule,
            trusted,
            self._ask,
        )

    def _replay(self) -> list[Example]:
        """Pictures of the kinds that the parent knows: only those can be forgotten."""
        known = {
            kind
            for kind, name in KINDS.items()
            if score_of(self.record.parent[name]).ap50 >= KNOWN
        }
        replay = [e for e in self.material.replay if e.item.kind in known]
        if replay and "fluo" in known:
            replay += as_fluorescence(self.material.training)
        return replay

    def _trusted(self, teacher: Network) -> float:
        """How far the parent's sure answers agree with a person's, on what is learned from."""
        if all(e.counts is None or e.counts.all() for e in self.material.training):
            return 0.0  # nothing is left for the parent to answer
        total = torch.zeros(2, 2, dtype=torch.int64).numpy()
        for example in spread(self.material.training, MAX_TRUST_IMAGES):
            self._ask()
            view = make_view(example, self.material.diameter)
            probability = self.scorer.probability(teacher, view)
            total = total + agreement(
                probability, view.labels, view.counts, self.config.confidence
            )
        return trust(total)

    def _probe(self, progress: Callable[[int, int], None]) -> float:
        """Seconds of a step on this machine, now."""
        settings = as_training(self.config, self.material.diameter)
        steps = PROBE_STEPS[self.config.learn] + 1
        crops = MixedCrops(
            self.material.training, self._replay(), settings, self.config.replay, steps
        )
        module = TuningModule(
            self._network(),
            self._network(),
            self.config,
            self.material.diameter,
            Schedule(1, 1),
            ask=self._ask,
        )
        batches = iter(DataLoader(crops, batch_size=self.config.batch_size))
        low = self.dtype != torch.float32
        seconds = []
        for step in range(steps):
            progress(step, steps)
            start = time.monotonic()
            batch = {k: v.to(self.device) for k, v in next(batches).items()}
            self._ask()
            with contextlib.suppress(MemoryError, RuntimeError):  # the run will find out
                with torch.autocast(self.device.type, self.dtype, enabled=low):
                    loss = module.loss_of(batch)
                loss.backward()
                module.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.monotonic() - start)
        return min(seconds[1:])

    def _careful(self, run: Callable[[], Tallies]) -> Tallies:
        try:
            return run()
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                "Memory ran out while the model was scored. Close other programs, or choose "
                "the device 'cpu'."
            ) from error
