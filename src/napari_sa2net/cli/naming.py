"""Which output name each input gets, so that nothing overwrites anything silently."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_sa2net.data.io import image_name
from napari_sa2net.errors import SettingsError


@dataclass(frozen=True)
class Job:
    """One image of a batch: where it is, and the name its results get."""

    name: str
    path: Path


def name_jobs(paths: Sequence[Path]) -> list[Job]:
    """Give each input a name of its own.

    The name is the file's stem. Inputs that share it are told apart by their folder
    (``plate1_a``, ``plate2_a``) or else by their ending (``a_png``, ``a_tif``).

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
    names = {path: image_name(path) for path in unique}
    for refine in (_with_folder, _with_ending, _with_folder_and_ending):
        for group in _groups(names):
            if len(group) > 1:
                refined = {path: refine(path) for path in group}
                if len(_groups(refined)) == len(group):
                    names.update(refined)
    for group in _groups(names):
        if len(group) > 1:
            raise SettingsError(
                f"{group[0]} and {group[1]} would both be written as {names[group[0]]}.tif. "
                "Segment them into separate output folders."
            )
    return [Job(names[path], path) for path in unique]


def _groups(names: dict[Path, str]) -> list[list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path, name in names.items():
        # Some file systems hold A.tif and a.tif for one file.
        groups[name.casefold()].append(path)
    return list(groups.values())


def _with_folder(path: Path) -> str:
    return f"{path.resolve().parent.name}_{image_name(path)}"


def _with_ending(path: Path) -> str:
    return f"{image_name(path)}_{path.suffix.lstrip('.').lower()}"


def _with_folder_and_ending(path: Path) -> str:
    return f"{path.resolve().parent.name}_{_with_ending(path)}"
