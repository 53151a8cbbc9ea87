"""What the Models page does, without a page."""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from psygnal import SignalGroupDescriptor

from napari_sa2net.app.keep import default_folder
from napari_sa2net.app.link import Background
from napari_sa2net.app.segment import SegmentController
from napari_sa2net.app.session import ErrorInfo
from napari_sa2net.data.commit import is_training_set, read_manifest
from napari_sa2net.engine import messages as p
from napari_sa2net.errors import CheckpointError, CorrectionsError, ModelNotFoundError
from napari_sa2net.metrics import SCORES
from napari_sa2net.models.card import VARIANT, ModelCard, gamma_rows
from napari_sa2net.models.registry import (
    ModelEntry,
    demote_model,
    export_model,
    file_sha256,
    parent_named,
    promote_model,
    read_models,
    remove_model,
    rename_model,
    restore_model,
    user_models_dir,
)
from napari_sa2net.training.compare import Comparison, Part
from napari_sa2net.words import counted, listed

# --------------------------------------------------------------------------------------------
# What the Models page shows, as evented state.


@dataclass(frozen=True)
class Family:
    """Where a model comes from and what came of it.

    Attributes
    ----------
    parent
        Name of the model that it learned from, as it is called now, else as the card says;
        empty if it names none.
    parent_here
        The parent is in the list.
    children
        Names of the models in the list that learned from it.
    """

    parent: str = ""
    parent_here: bool = False
    children: tuple[str, ...] = ()


@dataclass(frozen=True)
class Said:
    """What the last action did.

    Attributes
    ----------
    removed
        File of the model that was removed, which can be put back; None otherwise.
    """

    text: str
    removed: Path | None = None


@dataclass
class ModelsState:
    """Evented; written by the controller, read by the page.

    Attributes
    ----------
    entries
        All models: bundled, the user's, those kept aside.
    problems
        Files in the folder that are no models, in words.
    chosen
        Name of the model whose card is shown; empty if there is none.
    families
        By name; a model is missing until its file was looked at.
    busy
        What is being done, in words; empty if nothing is.
    said, error
        What the last action did, or what went wrong.
    other
        Name of the model that the chosen one is compared with; empty if there is no other.
    folder, has_corrections
        Training set to compare on, and whether it holds any.
    comparing, comparison, cancelled
        Whether two models are being compared; the result; the last one was cancelled.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    entries: tuple[ModelEntry, ...] = ()
    problems: tuple[str, ...] = ()
    chosen: str = ""
    families: dict[str, Family] = field(default_factory=dict)
    busy: str = ""
    said: Said | None = None
    error: ErrorInfo | None = None
    other: str = ""
    folder: Path = field(default_factory=Path)
    has_corrections: bool = False
    comparing: bool = False
    comparison: Comparison | None = None

    def entry(self, name: str | None = None) -> ModelEntry | None:
        """The chosen model, or that of a name."""
        wanted = self.chosen if name is None else name
        return next((entry for entry in self.entries if entry.name == wanted), None)


class ModelsController:
    """Runs the Models page of one viewer.

    All methods return at once; files are touched on a thread of its own, and what needs the
    network goes to the engine. Its state belongs to the thread of the link's ``dispatch``.

    Parameters
    ----------
    segmenting
        Whose list of models follows.
    """

    def __init__(self, segmenting: SegmentController) -> None:
        self.segmenting = segmenting
        self.link = segmenting.link
        self.session = segmenting.session
        self.state = ModelsState(folder=default_folder())
        self._lock = self.link.lock
        self._background = Background(self.link, "sa2net-models")
        self._importing = 0
        self._imports: list[str] = []
        self._refused: list[tuple[str, ErrorInfo]] = []
        self.link.answer(("import_model", "compare_models"), self)
        self.link.died.connect(self._engine_died)

    # --- what is there ---------------------------------------------------------------

    def refresh(self) -> None:
        """Read the list again, for all pages."""
        with self._lock:
            self._show()
            self.segmenting.refresh_models()

    def choose(self, name: str) -> None:
        """Show a model's card."""
        with self._lock:
            entry = self.state.entry(name)
            if entry is None or name == self.state.chosen:
                return
            self.state.chosen = name
            self._choose_other()

    def choose_other(self, name: str) -> None:
        """Choose what the shown model is compared with."""
        self.state.other = name

    def set_folder(self, folder: Path) -> None:
        """Choose the training set to compare on."""
        with self._lock:
            self.state.folder = folder
            self.state.has_corrections = _has_corrections(folder)

    @property
    def models_folder(self) -> Path:
        """Where the user's models are; made if it is not there yet."""
        return user_models_dir()

    # --- what a person does ----------------------------------------------------------

    def use(self, name: str) -> None:
        """Choose a model on the Segment page; one that was kept aside is offered again."""
        entry = self.state.entry(name)
        if entry is not None and entry.aside:
            self._do(
                f"Offering {name} again…",
                lambda: promote_model(name),
                lambda moved: self._used(moved.name),
            )
        elif entry is not None:
            with self._lock:
                self._used(name)

    def import_files(self, paths: Sequence[Path]) -> None:
        """Take model files or published checkpoints into the list."""
        with self._lock:
            if not self._importing:
                self._imports, self._refused = [], []
            self._begin("Checking the file…" if len(paths) == 1 else "Checking the files…")
            for path in paths:
                self._importing += 1
                self.link.ask("import_model", {"path": str(path)}, about=path)
            if not paths:
                self.state.busy = ""

    def export(self, name: str, target: Path, overwrite: bool = False) -> None:
        """Copy a model's file to a path, or into a folder."""
        self._do(
            f"Copying {name}…",
            lambda: export_model(name, target, overwrite),
            lambda path: self._tell(f"Copied {name} to {path}"),
        )

    def rename(self, name: str, new_name: str) -> None:
        """Call a model of the user's something else."""
        if new_name == name:
            return
        self._do(
            f"Renaming {name}…",
            lambda: rename_model(name, new_name),
            lambda entry: self._renamed(name, entry),
        )

    def remove(self, name: str) -> None:
        """Take a model of the user's out of the list; `put_back` undoes that."""
        self._do(
            f"Removing {name}…",
            lambda: remove_model(name),
            lambda path: self._removed(name, path),
        )

    def put_back(self) -> None:
        """Undo the last removal."""
        said = self.state.said
        if said is None or said.removed is None:
            return
        removed = said.removed
        self._do(
            "Putting it back…",
            lambda: restore_model(removed),
            lambda entry: self._moved(entry, f"{entry.name} is back."),
        )

    def promote(self, name: str) -> None:
        """Offer a model that was kept aside."""
        self._do(
            f"Offering {name}…",
            lambda: promote_model(name),
            lambda entry: self._moved(
                entry, f"{entry.name} is offered on the Segment page again."
            ),
        )

    def set_aside(self, name: str) -> None:
        """Keep a model, but do not offer it."""
        self._do(
            f"Setting {name} aside…",
            lambda: demote_model(name),
            lambda entry: self._moved(
                entry, f"{entry.name} is kept aside: it stays here, but is not offered."
            ),
        )

    def compare(self) -> int | None:
        """Score the other model and the chosen one on the same images.

        Returns
        -------
        Number of the job; None if there is nothing to compare with, or something runs.
        """
        with self._lock:
            state = self.state
            first, second = state.other, state.chosen
            if state.entry(first) is None or state.entry(second) is None:
                return None
            if self.session.running:
                return None
            state.error = state.said = None
            state.comparison = None
            state.comparing = True
            state.has_corrections = _has_corrections(state.folder)
            arguments = {
                "first": first,
                "second": second,
                "training_set": str(state.folder) if state.has_corrections else None,
                "device": self.session.predict.device,
            }
            return self.link.run("compare_models", arguments)

    def cancel(self) -> None:
        """Cancel a comparison."""
        self.link.cancel_runs()

    def dismiss_error(self) -> None:
        """The person has read the error."""
        self.state.error = None

    def close(self) -> None:
        """Finish what is being written; nothing is told any more."""
        self.link.died.disconnect(self._engine_died)
        self._background.close(wait=True)

    # --- what the engine says --------------------------------------------------------

    def job_done(self, call: p.Call, result: Any) -> None:
        """A call of ours is done; the link says so."""
        if call.name == "compare_models":
            self.state.comparing = False
            self.state.comparison = result
            self.session.error = None
            return
        entry, wanted = result
        text = f"Imported {entry.name}."
        if entry.name != wanted:
            text = f"Imported as {entry.name}, since there is a model {wanted} already."
        if entry.card.dropped_words:
            text += f" Left out: {entry.card.dropped_words}."
        self._imported()
        self.refresh()
        self.choose(entry.name)
        self._imports.append(text)
        self._tell("\n".join(self._imports))

    def job_failed(self, call: p.Call, error: ErrorInfo) -> None:
        """A call of ours failed."""
        if call.name == "compare_models":
            self.state.comparing = False
        else:
            self._imported()
            self._refused.append((call.about.name, error))
            error = _one_line_each(self._refused)
        self.state.error = error

    def job_cancelled(self, call: p.Call) -> None:
        """A call of ours was cancelled."""
        if call.name == "compare_models":
            self.state.comparing = False
            self._tell("Cancelled; nothing was compared.")
        else:
            self._imported()
            self._imports.append(f"Cancelled; {call.about.name} was not imported.")
            self._tell("\n".join(self._imports))

    def _engine_died(self) -> None:
        self.state.comparing = False

    # --- inside ----------------------------------------------------------------------

    def _begin(self, words: str) -> None:
        self.state.error = self.state.said = None
        self.state.busy = words

    def _tell(self, text: str, removed: Path | None = None) -> None:
        self.state.said = Said(text, removed)

    def _imported(self) -> None:
        self._importing = max(0, self._importing - 1)
        if not self._importing:
            self.state.busy = ""

    def _used(self, name: str) -> None:
        self._show()
        self.segmenting.refresh_models()
        self.segmenting.choose_model(name)
        self._tell(f"{name} is chosen on the Segment page.")

    def _moved(self, entry: ModelEntry, text: str) -> None:
        self.refresh()
        self.choose(entry.name)
        self._tell(text)

    def _renamed(self, name: str, entry: ModelEntry) -> None:
        chosen = self.state.chosen == name
        self._show(entry.name if chosen else "")
        self.segmenting.refresh_models(entry.name if self.session.model == name else "")
        self._tell(f"{name} is now called {entry.name}.")

    def _removed(self, name: str, path: Path | None) -> None:
        used = self.session.model == name
        self.refresh()
        where = f"; its file is kept in {path.parent}" if path is not None else ""
        text = f"{name} is removed from the list{where}."
        if used:
            text += f" {self.session.model} is chosen on the Segment page now."
        self._tell(text, path)

    def _show(self, chosen: str = "") -> None:
        """Read the list; keep what is chosen as far as it is still there."""
        state = self.state
        entries, problems = read_models(aside=True)
        state.problems = tuple(problems)
        if tuple(entries) != state.entries:
            state.entries = tuple(entries)
            state.families = {}
        names = [entry.name for entry in entries]
        wanted = chosen or state.chosen or self.session.model
        state.chosen = wanted if wanted in names else names[0] if names else ""
        state.has_corrections = _has_corrections(state.folder)
        self._choose_other()
        if not state.families:
            # Files are hashed for it, and large ones take a while.
            self._later(lambda: _families(entries), partial(self._take_families, entries))

    def _take_families(
        self, entries: Sequence[ModelEntry], families: dict[str, Family]
    ) -> None:
        if tuple(entries) == self.state.entries:
            self.state.families = families
            self._choose_other()

    def _choose_other(self) -> None:
        """Compare with the parent, else with the model in use, else with any other."""
        state = self.state
        names = [entry.name for entry in state.entries if entry.name != state.chosen]
        family = state.families.get(state.chosen, Family())
        wanted = [family.parent, *family.children, self.session.model, *names]
        state.other = next((name for name in wanted if name in names), "")

    def _do(self, words: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        with self._lock:
            self._begin(words)

        def done(result: Any) -> None:
            self.state.busy = ""
            then(result)

        self._later(work, done)

    def _later(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Work on the thread, then go on where the controller lives."""
        self._background.run(work, then, self._failed)

    def _failed(self, error: BaseException) -> None:
        self.state.busy = ""
        details = "".join(traceback.format_exception(error))
        if isinstance(error, ModelNotFoundError):
            self.refresh()  # another window was faster
        self.state.error = ErrorInfo(type(error).__name__, str(error), details)


def _one_line_each(refused: Sequence[tuple[str, ErrorInfo]]) -> ErrorInfo:
    """What was wrong with each file that was not taken in."""
    if len(refused) == 1:
        return refused[0][1]
    lines = [f"{name}: {error.message}" for name, error in refused]
    details = [f"{name}\n{error.details}" for name, error in refused if error.details]
    return ErrorInfo(refused[0][1].kind, "\n".join(lines), "\n\n".join(details))


def _has_corrections(folder: Path) -> bool:
    if not is_training_set(folder):
        return (folder / "images").is_dir()
    try:
        return any(record.state == "active" for record in read_manifest(folder).commits)
    except CorrectionsError:
        return True  # comparing says what is wrong with it


def _families(entries: Sequence[ModelEntry]) -> dict[str, Family]:
    """Parents and children among the entries; a file that is gone has none."""
    names: dict[str, str] = {}
    for entry in entries:
        with suppress(CheckpointError):
            names.setdefault(file_sha256(entry.path), entry.name)
    parents: dict[str, tuple[str, bool]] = {}
    for entry in entries:
        said, sha256 = parent_named(entry.card)
        here = names.get(sha256, "")
        if sha256 and not here and said in names.values():
            said = f"an earlier {said}"  # that name is another model's now
        parents[entry.name] = (here or said, bool(here))
    return {
        entry.name: Family(
            *parents[entry.name],
            tuple(
                child for child, (name, here) in parents.items() if here and name == entry.name
            ),
        )
        for entry in entries
    }


# --------------------------------------------------------------------------------------------
# What a model's card says, in words.

_NETWORKS = {"sa2net": "SA2-Net", "focal_unet": "U-Net with focal attention gates"}
_CHANNELS = {
    "RGB": "red, green, blue; a grey image goes into all",
    "BGR": "blue, green, red; a grey image goes into all",
    "any": "as they are",
}
#: Scores of the parent stand beside the child's under this ending.
PARENT = ", parent"
#: Commits that are named before the rest is only counted.
_NAMED = 6


def short_rows(entry: ModelEntry) -> list[tuple[str, str]]:
    """Titles and values of what most people ask of a model."""
    card = entry.card
    varied = card.training.get("recipe") == VARIANT
    size = f"about {card.diameter:g} px across; images are resized" if card.diameter else ""
    parent = parent_named(card)[0] if card.parent else ""
    return _told(
        ("Trained on", _trained_on(card)),
        ("Object size", size),
        ("Expects", card.expected_words),
        ("Images", _images(card)),
        ("Not for", entry.limits),
        *(_scores(card) or [("Scores", "not measured" if varied else "")]),
        ("Licence", card.licence),
        (
            "Variant of" if varied else "Learned from",
            f"an earlier {parent}" if parent == entry.name else parent,
        ),
        ("File", file_words(entry)),
    )


def main_rows(entry: ModelEntry) -> list[tuple[str, str]]:
    """Titles and values of what tells whether a model is the one to use."""
    card, training = entry.card, entry.card.training
    varied = training.get("recipe") == VARIANT
    scores = "\n".join(_score_lines(card, {"ap50": "AP", "dice": "Dice"}))
    size = f"about {card.diameter:g} px across" if card.diameter else "images are not resized"
    return _told(
        ("Trained on", _trained_on(card)),
        ("Verdict", str(training.get("verdict") or "")),
        ("Changed", str(training.get("changed", "")) if varied else ""),
        ("Scores", scores or ("not measured" if varied else "")),
        ("Object size", size),
        ("Expects", card.expected_words),
        ("Images", _images(card)),
        ("Not for", entry.limits),
        ("Licence", card.licence or "not said"),
    )


def detail_rows(entry: ModelEntry) -> list[tuple[str, str]]:
    """Titles and values of the rest of a card."""
    card = entry.card
    network, training = card.network, card.training
    command = f"sa2net train FOLDER --from-card {shlex.quote(entry.name)}"
    return _told(
        ("Network", f"{_NETWORKS[network.kind]}, {network.base_channels} base channels"),
        ("Channels", f"{network.in_channels}, {_CHANNELS[card.input.channel_order]}"),
        ("Classes", ", ".join(card.classes)),
        *gamma_rows(network),
        ("All scores", "\n".join(_score_lines(card, SCORES))),
        ("Commits", _commits(training)),
        ("Made with", _made_with(training)),
        ("To repeat it", command if training.get("recipe") == "fine-tune" else ""),
        ("Left out", card.dropped_words),
    )


def _told(*rows: tuple[str, str]) -> list[tuple[str, str]]:
    """Without those of which nothing is known."""
    return [(title, value) for title, value in rows if value]


def file_words(entry: ModelEntry) -> str:
    """``2.5 MB, made 2026-11-22``."""
    return f"{entry.size_bytes / 1e6:.1f} MB, made {entry.card.created[:10]}"


def hint_words(entry: ModelEntry, parent: str = "") -> str:
    """What tells a model from others in a list: ``from nuclei · 30 px``."""
    parts = [f"from {parent}"] if parent else []
    if entry.card.diameter:
        parts.append(f"{entry.card.diameter:g} px")
    return " · ".join(parts)


def part_words(part: Part) -> tuple[str, str]:
    """What was scored, and ``AP 0.61 → 0.78, +0.17 (+0.11 … +0.23)``, then Dice alike."""
    change = part.change
    images = counted(part.n_images, "image")
    about = f"{part.name}: {images}, {counted(change.after.n, 'cell')}"
    before, after = change.before, change.after
    said = []
    for name, was, now, one in (
        ("AP", before.ap50, after.ap50, change),
        ("Dice", before.dice, after.dice, change.dice),
    ):
        spread = f"{one.difference:+.2f} ({one.low:+.2f} … {one.high:+.2f})"
        said.append(f"{name} {was:.2f} → {now:.2f}, {spread.replace('-', '−')}")
    return about, "; ".join(said)


def lineage(families: dict[str, Family], name: str) -> tuple[list[str], tuple[str, ...]]:
    """Ancestors of a model, the oldest first, and its children."""
    chain: list[str] = []
    now = name
    while (family := families.get(now)) is not None and family.parent:
        if family.parent in chain or family.parent == name:
            break
        chain.insert(0, family.parent)
        if not family.parent_here:
            break
        now = family.parent
    own = families.get(name)
    return chain, own.children if own is not None else ()


def _trained_on(card: ModelCard) -> str:
    training = card.training
    data = training.get("data")
    if training.get("recipe") == "fine-tune":
        learned, held = (set(training.get(key) or ()) for key in ("commits", "held_out"))
        n = len(learned)
        images = counted(n, "corrected image")
        # of a single image a strip is held back
        of_whom = "a part of it" if held & learned else f"{len(held)}"
        return f"{images} of “{data}”; {of_whom} held back to judge it"
    if not data:
        return ""
    text = _words(data)
    n_images = training.get("images")
    if not isinstance(n_images, int):
        return text
    return f"{text} ({counted(n_images, 'image')})"


def _commits(training: dict[str, Any]) -> str:
    ids = training.get("commit_ids") or {}
    names = training.get("commits") or ()
    if training.get("recipe") != "fine-tune" or not names:
        return ""
    shown = [str(ids.get(name, name))[:8] if name in ids else str(name) for name in names]
    return listed(shown, _NAMED)


def _images(card: ModelCard) -> str:
    n = card.network.in_channels
    if n == 1:
        return "one channel"
    if card.input.channel_order in ("RGB", "BGR"):
        return "colour or grey"
    return f"{n} channels"


def _scores(card: ModelCard) -> list[tuple[str, str]]:
    rows = []
    for name, scores in card.scores.items():
        shown = [f"{SCORES[k]} {v:.2f}" for k, v in scores.items() if k in SCORES]
        if shown:
            rows.append((f"Scores, {name}", " · ".join(shown)))
    return rows


def _score_lines(card: ModelCard, titles: Mapping[str, str]) -> list[str]:
    """One line for each set of images; with the parent's scores where they are known."""
    lines = []
    for name, scores in card.scores.items():
        if name.endswith(PARENT):
            continue
        before = card.scores.get(f"{name}{PARENT}", {})
        shown = []
        for key, title in titles.items():
            if key in scores:
                was = f"{before[key]:.2f} → " if key in before else ""
                margin = scores.get(f"{key}_margin")
                spread = "" if margin is None else f" ± {margin:.2f}"
                shown.append(f"{title} {was}{scores[key]:.2f}{spread}")
        if shown:
            lines.append(f"{name}: {' · '.join(shown)}")
    return lines


def _made_with(training: dict[str, Any]) -> str:
    parts = []
    if training.get("steps"):
        parts.append(counted(training["steps"], "step"))
    settings = training.get("settings") or {}
    seed = training.get("seed", settings.get("seed"))
    if seed is not None:
        parts.append(f"seed {seed}")
    versions = training.get("versions") or {}
    parts += [
        f"{name} {versions[name]}" for name in ("napari-sa2net", "torch") if name in versions
    ]
    return " · ".join(parts)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_words(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(v) for v in value)
    return str(value)
