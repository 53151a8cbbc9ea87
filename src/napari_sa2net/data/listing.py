"""Which image files there are: those that paths, patterns and folders name."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from napari_sa2net.data.io import KNOWN, SUFFIXES, is_zarr, ome_of, open_remote
from napari_sa2net.errors import ImageFileError
from napari_sa2net.files import as_path, readable, remote


def list_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Images among files, patterns and folders, in natural order within each.

    A folder stands for the image files right inside it; an OME-Zarr folder is one image. A
    file that is named is taken whatever its ending, so that reading it can say what is
    wrong. Nothing is listed twice.

    Raises
    ------
    ImageFileError
        A path does not exist, or a pattern or folder holds no image.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    found: dict[Path, None] = {}
    for given in paths:
        images = list(_expand(given))
        if not images:
            below = _below(given)
            raise ImageFileError(f"{given} holds no image{below}; {KNOWN} can be read.")
        found |= dict.fromkeys(images)
    if not found:
        raise ImageFileError("No image is given; name files, folders or a pattern.")
    return list(found)


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that puts image2 before image10."""
    parts = re.findall(r"\d+|\D+", path.name.casefold())
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts]


def _expand(given: str | Path) -> Iterator[Path]:
    for path in _matches(given):
        yield from _plate_images(path) or [path]


def _matches(given: str | Path) -> Iterator[Path]:
    if remote(given):
        yield as_path(given)
        return
    path = Path(given).expanduser()
    if os.path.isdir(path) and not is_zarr(path):
        try:
            entries = sorted(path.iterdir(), key=natural_key)
        except OSError as error:
            raise ImageFileError(f"{given} cannot be read: {error.strerror}.") from error
        yield from (entry for entry in entries if _is_image(entry))
    elif os.path.lexists(path):
        yield path
    elif glob.has_magic(str(given)):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        yield from (match for match in sorted(matches, key=natural_key) if _is_image(match))
    else:
        raise ImageFileError(f"There is no file or folder {given}; check the path.")


#: So many folders are looked into for images.
_LOOKED_INTO = 200


def _below(given: str | Path) -> str:
    """Where the images are, of a folder that has some in its folders only."""
    top = Path(given).expanduser()
    if not os.path.isdir(top):
        return ""
    for folder, inner, names in islice(os.walk(top), _LOOKED_INTO):
        here = Path(folder)
        images = [here / name for name in (*inner, *names) if _is_image(here / name)]
        inner[:] = sorted(
            (name for name in inner if not is_zarr(here / name)),
            key=lambda name: (name.lower() != "images", name),
        )
        if images and here != top:
            if here.name.lower() == "images":  # beside labels, which are not to be taken
                last = os.path.join(given, here.name)
                if here.parent == top:
                    return f" itself; for those in its folder {here.name}, give '{last}'"
                pattern = os.path.join(given, "**", here.name, "*")
                return f" itself; for those in its folders, give the pattern '{pattern}'"
            endings = {image.suffix for image in images}
            ending = f"*{endings.pop()}" if len(endings) == 1 else "*"
            way = "*" if here.parent == top else "**"
            pattern = os.path.join(given, way, ending)
            return f" itself; for those in its folders, give the pattern '{pattern}'"
    return ""


def _is_image(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if os.path.isdir(path):
        return is_zarr(path)
    return path.suffix.lower() in SUFFIXES and not is_seg(path)


def is_seg(path: Path) -> bool:
    """Whether a .npy file holds Python objects and no image: Cellpose's masks do."""
    if not path.name.lower().endswith("_seg.npy"):
        return False
    try:
        with path.open("rb") as file:
            return b"'|O'" in file.read(128)
    except OSError:
        return False


def _plate_images(path: Path) -> list[Path]:
    """Images of all wells of an OME-Zarr plate, or of one well; none of anything else."""
    url = remote(path)
    if url is None:
        marks = (path / mark for mark in ("zarr.json", ".zattrs"))
        texts = (mark.read_bytes() for mark in marks if os.path.isfile(mark))
        if not is_zarr(path) or not any(b'"plate"' in t or b'"well"' in t for t in texts):
            return []
    import zarr

    try:
        node: Any = open_remote(url) if url else zarr.open(str(path), mode="r")
        known = ome_of(node)
        wells = {"": node} if "well" in known else {}
        for well in known.get("plate", {}).get("wells", ()):
            if well["path"] in node:
                wells[f"{well['path']}/"] = node[well["path"]]
        return [
            path / f"{at}{image['path']}"
            for at, well in wells.items()
            for image in ome_of(well).get("well", {}).get("images", ())
        ]
    except Exception:  # reading it says what is wrong
        return []


#: Endings that names in a table may carry.
_ENDING = re.compile(r"\.(tiff?|btf|tf8|png|jpe?g|bmp|npy|zarr|nd2|czi|lif)$", re.IGNORECASE)
_OME = re.compile(r"\.ome$", re.IGNORECASE)


def stem_of(name: str) -> str:
    """What files of one image have in common: the name without .tif, .ome.tif and the like.

    Accents count the same however a system spells them.
    """
    plain = _OME.sub("", _ENDING.sub("", name)) or name
    return unicodedata.normalize("NFC", readable(plain))
