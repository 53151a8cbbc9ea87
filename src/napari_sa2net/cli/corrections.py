"""``sa2net corrections``: list, show, remove, restore, revert, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from napari_sa2net.cli import console
from napari_sa2net.cli.options import CommitId, CommitIds, Flag, Json, SetFolder
from napari_sa2net.words import counted

if TYPE_CHECKING:
    from napari_sa2net.data.commit import CommitRecord
    from napari_sa2net.data.corrections import TrainingSet

corrections = App(
    name="corrections", help="List, undo, export and import the corrections of a training set."
)


@corrections.command(name="list")
def list_command(directory: SetFolder, /, *, all: Flag = False, json: Json = False) -> None:
    """List the commits of a set of corrections.

    Parameters
    ----------
    all
        Also those that were superseded or removed.
    """
    training_set = _open(directory)
    states = ("active", "superseded", "removed") if all else ("active",)
    records = training_set.commits(*states)
    if json:
        console.print_json([_describe(training_set, record) for record in records])
        return
    rows = [
        (
            record.id[:8],
            record.source.name,
            "-".join(map(str, record.index)),
            record.group,
            f"{record.n_reviewed} of {record.n_objects}",
            f"{record.shape[0]} × {record.shape[1]}",
            record.parent.name,
            record.time.replace("T", " ").removesuffix("Z"),
            record.state if training_set.is_complete(record) else f"{record.state}, file gone",
        )
        for record in records
    ]
    names = ("id", "image", "plane", "group", "reviewed", "px", "model", "time (UTC)", "state")
    console.table(names, rows)
    n_cells = sum(record.n_reviewed for record in records if record.state == "active")
    n_active = sum(record.state == "active" for record in records)
    console.stderr().print(
        f"{n_active} to train on, with {counted(n_cells, 'reviewed object')}", style="dim"
    )


@corrections.command
def show(directory: SetFolder, commit: CommitId, /, *, json: Json = False) -> None:
    """Show everything that is known of a commit."""
    training_set = _open(directory)
    details = _describe(training_set, training_set.find(commit))
    if json:
        console.print_json(details)
        return
    if details["seen"] is not None:
        details["seen"] = _seen_words(details["seen"])
    rows = [(name, _text(value)) for name, value in details.items()]
    rows = [(name, text) for name, text in rows if text]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        console.say(f"{name:<{width}}  {text}")


@corrections.command
def remove(directory: SetFolder, /, *commits: CommitIds) -> None:
    """Move commits to the set's trash/, out of training."""
    _each("removed", _open(directory).remove, commits)


@corrections.command
def restore(directory: SetFolder, /, *commits: CommitIds) -> None:
    """Bring removed or superseded commits back into training."""
    _each("restored", _open(directory).restore, commits)


@corrections.command
def revert(directory: SetFolder, commit: CommitId, /) -> None:
    """Take a commit back: the one before it, of the same place, counts again."""
    training_set = _open(directory)
    taken_back = training_set.find(commit)
    record = training_set.revert(taken_back.id)
    out = console.stdout()
    out.print(f"reverted {taken_back.id[:8]} to {record.id[:8]}: {record.name}", markup=False)


@corrections.command(name="export")
def export_command(
    directory: SetFolder, destination: Path, /, *, overwrite: Flag = False
) -> None:
    """Copy the active commits to a new folder, or to a zip file.

    Parameters
    ----------
    destination
        New folder, or a name that ends in .zip.
    overwrite
        Replace an existing zip file.
    """
    training_set = _open(directory)
    target = training_set.export(destination, overwrite)
    n = len(training_set.commits())
    console.say(f"exported {counted(n, 'commit')}: {target}")


@corrections.command(name="import")
def import_command(
    directory: Path,
    source: Path,
    /,
    *,
    group: str = "",
    axes: str | None = None,
    channels: str | None = None,
) -> None:
    """Take in another set, or any folder or zip file with images/ and labels/.

    What is in the set already is passed over, so an interrupted import can be repeated.

    Parameters
    ----------
    directory
        Folder of the set; it is made if need be.
    source
        Folder or zip file.
    group
        Slide, patient or dish of the images that name none: never torn apart in validation.
    axes
        One letter per axis of the images, such as CYX; unsaid: as the files tell.
    channels
        Channels that show the cells, counted from 0 or by name, such as 1 or DAPI,GFP; only
        these are copied and learned from. Unsaid: the colours, or the first.
    """
    from napari_sa2net.data.corrections import import_into

    training_set, records = import_into(
        directory, source, group, console.warning, axes, channels
    )
    done = f"imported {counted(len(records), 'commit')}"
    if not records:
        done += " (all are here already)"
    console.say(f"{done}: {training_set.path}")


def _open(directory: Path) -> TrainingSet:
    from napari_sa2net.data.corrections import TrainingSet

    return TrainingSet.open(directory)


def _each(done: str, change: Any, commits: tuple[str, ...]) -> None:
    from napari_sa2net.errors import SettingsError

    if not commits:
        raise SettingsError("No commit is given. Name one or more ids, as list shows them.")
    for commit in commits:
        record = change(commit)
        console.say(f"{done} {record.id[:8]}: {record.name}")


def _describe(training_set: TrainingSet, record: CommitRecord) -> dict[str, Any]:
    from napari_sa2net.data.commit import locate
    from napari_sa2net.errors import CommitNotFoundError

    files: dict[str, str | None] = {}
    for kind in ("images", "labels", "reviewed"):
        try:
            files[kind] = str(locate(training_set.path, record, kind))
        except CommitNotFoundError:
            files[kind] = None
    return {**record.model_dump(mode="json"), "files": files}


def _seen_words(seen: dict[str, Any]) -> str:
    """How the image went in, as far as a line can tell; --json has all of it."""
    image, size = seen["image"], seen["diameter"]
    parts = [f"{key} {_text(image.get(key))}" for key in ("axes", "channels") if key in image]
    parts += [] if image.get("normalize", True) else ["intensities as they are"]
    return ", ".join([*parts, *([f"object size {size:.3g} px"] if size else [])])


def _text(value: Any) -> str:
    if isinstance(value, dict):
        parts = [f"{key} {item or 'gone'}" for key, item in value.items() if item != ""]
        return ", ".join(parts)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return "" if value is None else str(value)
