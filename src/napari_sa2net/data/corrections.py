"""A set of corrections on disk: commits that can be trained on, undone and exchanged.

Every change holds a lock of the folder, reads the manifest anew, and ends in one rename of it:
two windows may write to one set, and a crash leaves the set before or after, never between.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.axes import Channels
from napari_sa2net.data.commit import (
    KINDS,
    LOCK,
    MANIFEST,
    Changes,
    Commit,
    CommitRecord,
    Manifest,
    State,
    as_plane,
    check_values,
    checked_commit,
    create_set,
    file_stem,
    find_record,
    is_training_set,
    locate,
    manifest_bytes,
    new_id,
    pick_channels,
    read_manifest,
    recover,
    tidy,
    write_copy,
    write_files,
    write_manifest,
)
from napari_sa2net.data.label_files import OUTLINES, PICTURES, is_other_format, label_files
from napari_sa2net.data.labels import LEFT_OUT, NO_CELL, as_labels, look_at_reviewed, notes_on
from napari_sa2net.data.training_set import TrainingItem, load_training_folder, read_truth
from napari_sa2net.errors import (
    CommitNotFoundError,
    CorrectionsError,
    LabelsError,
    OutputError,
    SA2NetError,
)
from napari_sa2net.files import TEMPORARY_PREFIX, cannot_write, locked, taken, write_atomically
from napari_sa2net.metrics import objects_numbered
from napari_sa2net.provenance import image_fingerprint

if TYPE_CHECKING:
    from napari_sa2net.data.plan import ImagePlan


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommittedData:
    """The arrays of a commit.

    Attributes
    ----------
    image : (H, W), (H, W, 3 or 4) or (C, H, W), as committed
    labels : int32 (H, W)
    reviewed : bool (H, W)
    record : CommitRecord
    """

    image: NDArray[Any]
    labels: NDArray[np.int32]
    reviewed: NDArray[np.bool_]
    record: CommitRecord


class TrainingSet:
    """Commits of corrected labels in a folder; made by `open`.

    Attributes
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest = read_manifest(path)

    # --- opening ---------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | os.PathLike[str], create: bool = False) -> TrainingSet:
        """Open a set, and clear away what a crash left unfinished.

        Parameters
        ----------
        path : path
            Its folder. One that may only be read can be listed and loaded from.
        create : bool
            Make it where there is none.

        Raises
        ------
        CorrectionsError
            If there is no set, the folder holds other images and labels, or the manifest is
            damaged.
        OutputError
            If a new one cannot be made.
        """
        folder = Path(path).expanduser().absolute()
        if create and not is_training_set(folder):
            create_set(folder)
        training_set = cls(folder)
        try:
            with locked(folder / LOCK, timeout=1):
                recover(folder)
                tidy(folder, read_manifest(folder))
        except SA2NetError as error:
            # Read-only, or another window is at work, which clears up itself.
            logger.debug("Nothing cleared up in %s: %s", folder, error)
        return training_set

    # --- reading ---------------------------------------------------------------------------

    def commits(self, *states: State) -> list[CommitRecord]:
        """Commits in those states (unsaid: active), oldest first, as they are now on disk.

        Raises
        ------
        CorrectionsError
            If the folder is gone or its manifest damaged.
        """
        self._manifest = read_manifest(self.path)
        wanted = states or ("active",)
        return [record for record in self._manifest.commits if record.state in wanted]

    def find(self, identity: str) -> CommitRecord:
        """The commit with that id or name, or the only one whose id begins so.

        Raises
        ------
        CommitNotFoundError
        """
        self._manifest = read_manifest(self.path)
        return find_record(self._manifest, identity)

    def latest(
        self, source: str, index: Sequence[int] = (), box: Sequence[int] | None = None
    ) -> CommitRecord | None:
        """The active commit of a place, which a new one would supersede.

        Parameters
        ----------
        source : str
            The fingerprint of the image (or its name, if it was committed without one).
        index, box
            As committed.
        """
        place = (source, tuple(index), None if box is None else tuple(box))
        return next((r for r in self.commits() if r.place == place), None)

    def former(self, commit: Commit, known: Collection[str]) -> CommitRecord | None:
        """The active commit of a place that is none of those that a new one goes on from."""
        record = self.latest(commit.fingerprint or commit.source, commit.index, commit.box)
        return None if record is None or record.id in known else record

    def _with_former(self, commit: Commit, known: Collection[str]) -> Commit:
        record = self.former(commit, known)
        if record is None or commit.reviewed is None:
            return commit
        labels, reviewed = with_former(commit.labels, commit.reviewed, self.load(record.id))
        return replace(commit, labels=labels, reviewed=reviewed)

    def load(self, identity: str) -> CommittedData:
        """Read the arrays of a commit, whatever its state.

        Raises
        ------
        CommitNotFoundError
            If there is no such commit, or a file of it is gone.
        CorrectionsError
            If a file was changed from outside so that it does not fit.
        """
        from napari_sa2net.data.io import read_image

        record = self.find(identity)
        arrays = []
        for kind in KINDS:
            for attempt in range(3):
                path = locate(self.path, record, kind)
                try:
                    arrays.append(np.asarray(read_image(path).array))
                    break
                except SA2NetError:
                    # Another window may just have moved it to the trash or back.
                    if attempt == 2 or path.exists():
                        raise
        image, labels, reviewed = arrays
        spatial = tuple(image.shape[record.axes.index(axis)] for axis in "YX")
        try:
            labels = as_labels(labels)
        except LabelsError as error:
            raise CorrectionsError(
                f"{locate(self.path, record, 'labels')}: {error} Bring the file back, or "
                "remove the commit."
            ) from error
        if not spatial == labels.shape == reviewed.shape:
            raise CorrectionsError(
                f"The files of {record.name!r} do not fit each other any more: image "
                f"{spatial}, labels {labels.shape}, reviewed {reviewed.shape}. Bring them "
                "back, or remove the commit."
            )
        return CommittedData(image, labels.astype(np.int32, copy=False), reviewed > 0, record)

    def is_complete(self, record: CommitRecord) -> bool:
        """Whether all files of a commit are there."""
        try:
            return all(locate(self.path, record, kind) for kind in KINDS)
        except CommitNotFoundError:
            return False

    # --- changing --------------------------------------------------------------------------

    def commit(self, commit: Commit) -> CommitRecord:
        """Keep corrected labels; when this returns they are on disk and listed.

        An active commit of the same source, plane and box is superseded: kept, no longer
        trained on, and brought back by `revert`.

        Raises
        ------
        CorrectionsError
            If the arrays do not fit, nothing is reviewed, what is reviewed is not numbered
            cell by cell (see `look_at`), or the folder is gone.
        OutputError
            If it cannot be written (disk full, read-only). The set is then as before.
        """
        return self.commit_all([commit])[0]

    def commit_all(
        self,
        commits: Iterable[Commit],
        withdraw: Iterable[str] = (),
        known: Collection[str] | None = None,
    ) -> list[CommitRecord]:
        """Keep several at once: all of them or, after an error, none (see `commit`).

        Parameters
        ----------
        commits
        withdraw : str
            Ids of commits to take back in the same change: they go to the trash, and where
            one of them was active, the one before of its place is active again.
        known : collection of str, optional
            Ids of commits that these go on from. What any other active commit of the same
            place had reviewed, and these have not, is then kept too.
        """
        if known is not None:
            commits = [self._with_former(commit, known) for commit in commits]
        checked = [checked_commit(commit) for commit in commits]
        for commit in checked:
            assert commit.reviewed is not None
            look = look_at_reviewed(commit.labels, commit.reviewed)
            if look.blocks:
                raise CorrectionsError(f"{commit.source}: {look.blocks}".removeprefix(": "))
        return self._commit_all(checked, withdraw)

    def _commit_all(
        self, checked: Sequence[Commit], withdraw: Iterable[str] = ()
    ) -> list[CommitRecord]:
        with self._changing() as changes:
            records: list[CommitRecord] = []
            for commit in checked:
                identity = new_id([*changes.ids, *(r.id for r in records)])
                name = file_stem(commit.source, tuple(commit.index), identity)
                records.append(commit.record(identity, name, _now()))
            with changes.writing(records):
                for commit, record in zip(checked, records, strict=True):
                    write_files(self.path, commit, record)
            for record in records:
                changes.activate(record)
            changes.withdraw(withdraw)
        return records

    def adopt(self, folder: Path, records: Sequence[CommitRecord]) -> None:
        """Copy active commits of another set, ids and all, see `import_corrections`.

        Of two of one place the later one is active. Those that are here are passed over.

        Raises
        ------
        CommitNotFoundError, CorrectionsError, OutputError
        """
        with self._changing() as changes:
            here = set(changes.ids)
            new = [record for record in records if record.id not in here]
            with changes.writing(new):
                for record in new:
                    for kind in KINDS:
                        content = locate(folder, record, kind).read_bytes()
                        path = self.path / kind / f"{record.name}.tif"
                        write_atomically(path, content, make_folder=False)
            for record in new:
                rivals = [
                    other
                    for other in changes.manifest.commits
                    if other.state == "active" and other.place == record.place
                ]
                if any(other.time > record.time for other in rivals):
                    changes.put(record, "superseded")
                else:
                    changes.activate(record)

    def revert(self, identity: str) -> CommitRecord:
        """Take an active commit back: it goes to the trash, the one before is active again.

        Returns
        -------
        The commit that is active now.

        Raises
        ------
        CommitNotFoundError
        CorrectionsError
            If it is not active, or there is none before it.
        OutputError
        """
        with self._changing() as changes:
            record = changes.find(identity)
            if record.state != "active":
                raise CorrectionsError(
                    f"{record.name!r} is {record.state}; only an active commit can be reverted."
                )
            before = [
                r
                for r in changes.manifest.commits
                if r.place == record.place and r.state == "superseded"
            ]
            if not before:
                raise CorrectionsError(
                    f"There is no commit before {record.name!r}. To take it out of the set, "
                    "remove it."
                )
            changes.put(record, "removed")
            return changes.activate(before[-1])

    def remove(self, identity: str) -> CommitRecord:
        """Move a commit to the set's trash; `restore` brings it back.

        Raises
        ------
        CommitNotFoundError, CorrectionsError, OutputError
        """
        with self._changing() as changes:
            record = changes.find(identity)
            if record.state == "removed":
                raise CorrectionsError(f"{record.name!r} is in the trash already.")
            return changes.put(record, "removed")

    def restore(self, identity: str) -> CommitRecord:
        """Make a removed or superseded commit active; another of its place is superseded.

        Raises
        ------
        CommitNotFoundError
            Also if its files are gone, because the trash was emptied.
        CorrectionsError, OutputError
        """
        with self._changing() as changes:
            record = changes.find(identity)
            if record.state == "active":
                raise CorrectionsError(f"{record.name!r} is active already.")
            for kind in KINDS:
                locate(self.path, record, kind)
            return changes.activate(record)

    # --- in and out ------------------------------------------------------------------------

    def export(self, destination: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Copy the active commits to a folder or .zip, see `export_corrections`."""
        return export_corrections(self, destination, overwrite)

    def import_folder(
        self,
        source: str | os.PathLike[str],
        group: str = "",
        axes: str | None = None,
        channels: Channels = None,
    ) -> list[CommitRecord]:
        """Take in a folder or zip file, see `import_corrections`."""
        return import_corrections(self, source, group, axes=axes, channels=channels)

    @contextmanager
    def _changing(self) -> Iterator[Changes]:
        """Changes to the set as it is now; written when the block ends without an error."""
        read_manifest(self.path)  # a folder that is gone is named before its lock is missed
        with locked(self.path / LOCK):
            recover(self.path)
            changes = Changes(self.path, read_manifest(self.path))
            try:
                yield changes
                read_manifest(self.path)  # not deleted meanwhile
                write_manifest(self.path, changes.manifest)
            except OutputError:
                read_manifest(self.path)  # where the folder is gone, says so
                raise
            finally:
                # After an error this takes back the files of commits that are not listed.
                with suppress(SA2NetError, OSError):
                    recover(self.path)
            self._manifest = changes.manifest
            write_copy(self.path, changes.manifest)
            tidy(self.path, changes.manifest)


def with_former(
    labels: NDArray[Any], reviewed: NDArray[np.bool_], former: CommittedData
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Labels and mask (H, W), with what was reviewed before where nothing is reviewed now.

    Cells of before that were reviewed anew in part are left out, so that none is kept with a
    piece missing.
    """
    result = labels.astype(np.int64)
    torn = np.unique(former.labels[reviewed & former.reviewed])
    taken = former.reviewed & ~reviewed & ~np.isin(former.labels, torn[torn > 0])
    above = int(result.max(initial=0))
    result[taken] = np.where(former.labels[taken] > 0, former.labels[taken] + above, 0)
    return objects_numbered(result)[0], reviewed | taken


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


# --------------------------------------------------------------------------------------------
# Sets of corrections in and out: folders and zip files, ours and other people's.


#: Images that are taken in under one lock; another window waits that long.
BATCH = 8


def export_corrections(
    training_set: TrainingSet,
    destination: str | os.PathLike[str],
    overwrite: bool = False,
    identities: Sequence[str] | None = None,
) -> Path:
    """Copy commits to a folder or, if its name ends in .zip, to a zip file.

    Parameters
    ----------
    training_set : TrainingSet
    destination : path
        The copy is a set of its own, and can be trained on.
    overwrite : bool
        Replace an existing zip file. An existing folder is never replaced.
    identities : sequence of str, optional
        Ids of the commits; unsaid: all active ones. They are active in the copy.

    Returns
    -------
    The path of the copy.

    Raises
    ------
    CorrectionsError
        If there is nothing to export, or a file is missing.
    OutputError
        If the destination exists or cannot be written. Nothing is left behind then.
    """
    target = Path(destination).expanduser().absolute()
    if identities is None:
        records = training_set.commits()
    else:
        records = list({r.id: r for r in map(training_set.find, identities)}.values())
    if not records:
        raise CorrectionsError(f"{training_set.path} has no active commits to export.")
    manifest = Manifest(
        commits=tuple(r.model_copy(update={"state": "active"}) for r in records)
    )
    places = [r.place for r in records]
    if len(set(places)) < len(places):
        raise CorrectionsError(
            "Two of these commits are of the same place; export the one that should be used."
        )
    files = [
        (f"{kind}/{record.name}.tif", locate(training_set.path, record, kind))
        for record in records
        for kind in KINDS
    ]
    if target.suffix.lower() == ".zip":
        if target.is_dir() or (target.exists() and not overwrite):
            raise taken(target)

        def save(file: BinaryIO) -> None:
            # The TIFFs are compressed already.
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(MANIFEST, manifest_bytes(manifest))
                for name, path in files:
                    archive.write(path, name)

        return write_atomically(target, save, durable=True)
    return _export_folder(target, manifest, files)


def import_into(
    folder: str | os.PathLike[str],
    source: str | os.PathLike[str],
    group: str = "",
    note: Callable[[str], None] | None = None,
    axes: str | None = None,
    channels: Channels = None,
) -> tuple[TrainingSet, list[CommitRecord]]:
    """`import_corrections` into the set of a folder, which is made if need be.

    Where the source cannot be used, none is made.

    Raises
    ------
    CorrectionsError, TrainingDataError, OutputError
    """
    made: list[TrainingSet] = []

    def opened() -> TrainingSet:
        made.append(TrainingSet.open(folder, create=True))
        return made[0]

    own = Path(folder).expanduser().absolute()
    records = _import(opened, own, source, group, note, axes, channels)
    return made[0], records


def import_corrections(
    training_set: TrainingSet,
    source: str | os.PathLike[str],
    group: str = "",
    note: Callable[[str], None] | None = None,
    axes: str | None = None,
    channels: Channels = None,
) -> list[CommitRecord]:
    """Take in another set, or any folder or zip file with ``images/`` and ``labels/``.

    Parameters
    ----------
    training_set : TrainingSet
    source : path
        Another set: its active commits keep their ids; those that are here already are passed
        over. Anything else that `load_training_folder` takes: every image becomes a commit,
        wholly reviewed unless ``reviewed/`` says otherwise; images that are here with the
        same labels are passed over. So an interrupted import is repeated to go on.
    group : str
        For images that have none.
    note : callable(str), optional
        Told what may be wrong with the labels, and which of several channels is taken; unsaid:
        the log is.
    axes, channels
        As of `load_training_folder`. Of each image the chosen channels are copied; unsaid: the
        colours, or the first. With other channels than before, images are taken in anew.

    Returns
    -------
    The commits that were made.

    Raises
    ------
    TrainingDataError
        If the source cannot be used. All of it is looked at before anything is taken in.
    OutputError
        If the set cannot be written.
    """
    own = training_set.path
    return _import(lambda: training_set, own, source, group, note, axes, channels)


@contextmanager
def opened_source(source: str | os.PathLike[str]) -> Iterator[Path]:
    """The folder of a source; that of a zip file is unpacked for the while.

    Raises
    ------
    CorrectionsError
    """
    path = Path(source).expanduser().absolute()
    if path.is_file():
        with _unzipped(path) as folder:
            yield folder
    else:
        yield path


def _export_folder(target: Path, manifest: Manifest, files: list[tuple[str, Path]]) -> Path:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(f"{target} exists already. Give the path of a new folder.")
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
    try:
        for kind in KINDS:
            (temporary / kind).mkdir(parents=True)
        for name, path in files:
            shutil.copyfile(path, temporary / name)
        write_manifest(temporary, manifest)
        if target.is_dir():
            target.rmdir()
        os.replace(temporary, target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _import(
    opened: Callable[[], TrainingSet],
    own: Path,
    source: str | os.PathLike[str],
    group: str,
    note: Callable[[str], None] | None,
    axes: str | None,
    channels: Channels,
) -> list[CommitRecord]:
    """Look at a source, then open the set (at `own`) and take it in."""
    path = Path(source).expanduser().absolute()
    if path == own:
        raise CorrectionsError("A set cannot be imported into itself. Choose another folder.")
    with opened_source(path) as folder:
        items = load_training_folder(folder, axes=axes, channels=channels)
        if is_training_set(folder):
            return _import_set(opened, TrainingSet(folder))
        doubts, empty, told = [], [], []
        for item in items:  # all of them, before the first is taken in
            commit, doubt, channel = _read_item(item, group, path)
            doubts.append(doubt)
            told += [channel] if channel else []
            if not commit.labels.any():
                empty.append(item.name)
        if len(empty) == len(items):
            raise CorrectionsError(f"No label image of {path} {NO_CELL}")
        for words in (*told[:1], *notes_on(doubts, empty)):
            (note or logger.warning)(words)
        training_set = opened()
        known: dict[tuple[Any, ...], list[str]] = {}
        for record in training_set.commits("active", "superseded"):
            known.setdefault(record.place, []).append(record.id)
        made: list[CommitRecord] = []
        for start in range(0, len(items), BATCH):
            some = items[start : start + BATCH]
            batch = [_read_item(item, group, path)[0] for item in some]
            new = [commit for commit in batch if not _is_here(training_set, known, commit)]
            made += training_set._commit_all(new) if new else []
        return made


def _is_here(
    training_set: TrainingSet, known: dict[tuple[Any, ...], list[str]], commit: Commit
) -> bool:
    """Whether these labels were kept before; they must not supersede what was made of them."""
    for identity in known.get((commit.fingerprint, (), None), ()):
        kept = training_set.load(identity)
        assert commit.reviewed is not None
        same = (kept.labels == commit.labels).all() and (kept.reviewed == commit.reviewed).all()
        if same and _same_channels(kept, commit):
            return True
    return False


def _same_channels(kept: CommittedData, commit: Commit) -> bool:
    """Whether the same would be learned from both, by another choice of channels or not."""
    image, axes = kept.image, kept.record.axes
    if axes == "YXC":  # an alpha is not learned from
        image = image[..., :3]
    elif kept.record.channels is not None:
        image, _ = pick_channels(image, axes, kept.record.channels)
    real = np.asarray(commit.image).dtype.kind == "f"
    return np.array_equal(image, commit.image, equal_nan=real)


def _import_set(opened: Callable[[], TrainingSet], other: TrainingSet) -> list[CommitRecord]:
    records = other.commits()
    for record in records:  # readable, before the first is taken in
        check_values(other.load(record.id).image, f"{record.name}: ")
    training_set = opened()
    here = {r.id for r in training_set.commits("active", "superseded", "removed")}
    new = [record for record in records if record.id not in here]
    for start in range(0, len(new), BATCH):
        training_set.adopt(other.path, new[start : start + BATCH])
    return [training_set.find(record.id) for record in new]


def _read_item(item: TrainingItem, group: str, origin: Path) -> tuple[Commit, str, str]:
    """What is to be kept of an item, and what may be wrong with labels and channels."""
    from napari_sa2net.data.io import read_image
    from napari_sa2net.data.training_set import plan_file, unchosen

    try:
        file = read_image(item.image)
        plan = plan_file(file, item, measure=False)
        told = unchosen(file, item)
    except SA2NetError as error:
        raise CorrectionsError(f"{item.name}: {error}") from error
    if plan.n_planes > 1:
        raise CorrectionsError(f"{item.image} {plan.stack_words('import them')}")
    labels, reviewed, note = read_truth(item, plan.spatial, LEFT_OUT, file.pixel_size_um)
    first = (0,) * len(plan.stack_shape)
    height, width = plan.spatial
    values = plan.read_raw(first, 0, height, 0, width)
    image, axes = as_plane(values, plan.is_rgb)
    commit = Commit(
        image,
        labels,
        reviewed,
        source=item.name,
        path=str(origin if origin.is_file() else item.image),
        fingerprint=image_fingerprint(_all_channels(file.array, plan)),
        axes=axes,
        made={"settings": plan.settings(measured=False)},
        pixel_size_um=file.pixel_size_um,
        group=item.group or group,
        kind=item.kind,
        split="train" if item.split == "train" else "val" if item.split == "val" else "",
        notes=f"imported from {origin}",
    )
    try:
        return checked_commit(commit), note, told
    except CorrectionsError as error:
        raise CorrectionsError(f"{item.name}: {error}") from error


def _all_channels(array: Any, plan: ImagePlan) -> NDArray[Any]:
    """The one plane with its channels, whichever were chosen: by it the image is known."""
    plane = array[tuple(0 if axis in plan.stack_axes else slice(None) for axis in plan.axes)]
    names = [axis for axis in plan.axes if axis not in plan.stack_axes]
    wanted = [axis for axis in ("YXC" if plan.is_rgb else "CYX") if axis in names]
    return np.asarray(plane).transpose([names.index(axis) for axis in wanted])


@contextmanager
def _unzipped(path: Path) -> Iterator[Path]:
    """The training folder in a zip file, unpacked for the while."""
    with tempfile.TemporaryDirectory(prefix="sa2net-import-") as temporary:
        try:
            with zipfile.ZipFile(path) as archive:
                # extractall keeps every member below the folder, whatever its name.
                wanted = [name for name in archive.namelist() if _is_wanted(name)]
                archive.extractall(temporary, wanted)
        except zipfile.BadZipFile as error:
            raise CorrectionsError(
                f"{path} is not a zip file, or damaged ({error}). Give a folder, or a zip file "
                "of one."
            ) from error
        except (OSError, NotImplementedError, RuntimeError) as error:
            raise CorrectionsError(f"{path} cannot be unpacked ({error}).") from error
        yield _root(Path(temporary), path)


def _is_wanted(name: str) -> bool:
    path = PurePosixPath(name)
    if any(part.startswith((".", "__MACOSX")) for part in path.parts):
        return False
    in_folder = any(part in KINDS or part.endswith((".zarr", ".sa2net")) for part in path.parts)
    return in_folder or path.suffix.lower() in {".csv", *PICTURES, *OUTLINES}


def _root(folder: Path, archive: Path) -> Path:
    """Where the images are: at the top, or in the one folder that was zipped."""
    for candidate in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        if any((candidate / name).exists() for name in (MANIFEST, "images", "index.csv")):
            return candidate
        found = label_files(candidate.iterdir()).values()
        if any(is_other_format(path) for paths in found for path in paths):
            return candidate  # cells beside their images
    raise CorrectionsError(
        f"{archive} holds no training images. It should hold images/ and labels/ with the "
        "same names."
    )
