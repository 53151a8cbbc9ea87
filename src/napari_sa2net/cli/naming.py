"""Which output name each input gets, so that nothing overwrites anything silently."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from napari_sa2net.data.image_file import image_name
from napari_sa2net.data.io import is_zarr
from napari_sa2net.errors import SettingsError
from napari_sa2net.files import readable


@dataclass(frozen=True)
class Job:
    """One image of a batch: where it is, and the name its results get."""

    name: str
    path: Path


def name_jobs(paths: Sequence[Path]) -> list[Job]:
    """Give each input a name of its own.

    The name is the file's stem; inside an OME-Zarr, such as a plate, the way to the image in it
    (``A_1_0``). Inputs that share it are told apart by the folders above, as many as need be
    (``plate1_a``, ``plate2_a``), or else by their ending (``a_png``, ``a_tif``).

    Parameters
    ----------
    paths : sequence of Path
        A path given twice is one input.

    Raises
    ------
    SettingsError
        If some names cannot be told apart.
    """
    unique = list({path.resolve(): path for path in paths}.values())
    parts = {path: _Parts.of(path) for path in unique}
    names = {path: part.name() for path, part in parts.items()}
    # A refined name may be that of another input, so what has become equal is refined again.
    for _ in range(len(unique)):
        shared = [group for group in _groups(names) if len(group) > 1]
        if not shared:
            break
        for group in shared:
            names.update(_apart({path: parts[path] for path in group}))
    for group in _groups(names):
        if len(group) > 1:
            raise SettingsError(
                f"{group[0]} and {group[1]} would both be written as {names[group[0]]}.tif. "
                "Segment them into separate output folders."
            )
    return [Job(names[path], path) for path in unique]


@dataclass(frozen=True)
class _Parts:
    """Of what an input's name is made: folders above, outermost first, its own, its ending."""

    above: tuple[str, ...]
    own: str
    ending: str

    @classmethod
    def of(cls, path: Path) -> _Parts:
        full = path.resolve()
        top = _zarr_above(full)
        if top is None:
            ending = path.suffix.lstrip(".").lower()
            return cls(full.parts[1:-1], image_name(path), ending)
        own = "_".join(full.relative_to(top).parts)
        return cls((*top.parts[1:-1], image_name(top)), own, "")

    def name(self, folders: int = 0, ending: bool = False) -> str:
        """With so many folders."""
        above = self.above[max(0, len(self.above) - folders) :]
        return readable("_".join([*above, self.own, *([self.ending] if ending else [])]))


def _zarr_above(path: Path) -> Path | None:
    """The outermost OME-Zarr that an image lies in; None for one that is no part of another."""
    if path.is_file():
        return None
    named = [parent for parent in path.parents if parent.suffix.lower() == ".zarr"]
    inner = list(takewhile(is_zarr, path.parents)) if is_zarr(path) else []
    return max((*named, *inner), key=lambda one: -len(one.parts), default=None)


def _groups(names: dict[Path, str]) -> list[list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path, name in names.items():
        # Some file systems hold A.tif and a.tif for one file.
        groups[name.casefold()].append(path)
    return list(groups.values())


def _apart(group: dict[Path, _Parts]) -> dict[Path, str]:
    """Names with the fewest folders, or else the ending, that tell all of a group apart."""
    depth = max(len(parts.above) for parts in group.values())
    for ending in (False, True):
        for folders in range(0 if ending else 1, depth + 1):
            refined = {path: parts.name(folders, ending) for path, parts in group.items()}
            if len(_groups(refined)) == len(group):
                return refined
    return {}
