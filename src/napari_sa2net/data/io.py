"""Reading an image: TIFF, OME-Zarr, pictures and files of microscopes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.axes import STACK_NAMES, resolve_axes
from napari_sa2net.errors import ImageFileError, SA2NetError
from napari_sa2net.files import as_path, remote

# --------------------------------------------------------------------------------------------
# What every reader gives: an array, its axes, and sizes in µm where they are known.

#: Of a pixel (µm): its side, or along Y and X, or along Z, Y and X.
Sizes = float | tuple[float, float] | tuple[float, float, float] | None

_MICROMETRES = {
    "m": 1e6,
    "dm": 1e5,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "inch": 25400.0,
    "in": 25400.0,
}
_NO_LENGTH = ("", "pixel", "px", "dot", "reference frame", "none", "null", "unknown")
#: Sizes in those units above this (µm) come from such devices, not from microscopes.
MAX_DOT_UM = 50.0
#: Sizes in any unit outside of this (µm) are mistakes.
POSSIBLE_UM = (1e-5, 1e4)
#: Dots per inch that programs assume where nothing is known, also when they write in µm.
_ASSUMED_DPI = (72, 96, 150, 300)
_LONG_PREFIXES = {
    "nano": "n",
    "micro": "µ",
    "milli": "m",
    "centi": "c",
    "deci": "d",
    "pico": "p",
}


@dataclass(frozen=True)
class ImageFile:
    """An opened image.

    Attributes
    ----------
    array : array
        Read into memory, or lazy (zarr, memory map) where it is large.
    axes : str
        One letter per axis of `array`, as `plan_image` takes them.
    pixel_size_um : float or None
        Side of a pixel in µm; None where the file does not tell.
    name : str
        File name without its endings.
    channel_names : tuple of str
        Empty where the file does not tell.
    path : Path
    scale_um : dict of str to float
        Spacing in µm of the spatial axes that the file tells.
    notes : tuple of str
        What was left out, for the user to know.
    axes_told : bool
        The file says what the axes are; else the shape decided.
    """

    array: Any
    axes: str
    pixel_size_um: float | None
    name: str
    channel_names: tuple[str, ...] = ()
    path: Path | None = None
    scale_um: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    axes_told: bool = True

    @property
    def pixel_sides_um(self) -> float | tuple[float, float] | None:
        """Height and width of a pixel in µm where they differ, else as `pixel_size_um`."""
        y, x = self.scale_um.get("Y"), self.scale_um.get("X")
        return (y, x) if self.pixel_size_um and y and x and y != x else self.pixel_size_um

    @property
    def spacing_um(self) -> dict[str, float]:
        """µm along each axis that is known; both of a plane, or none."""
        size = self.pixel_size_um
        return {} if size is None else {"Y": size, "X": size, **self.scale_um}

    @property
    def voxel_sides_um(self) -> Sizes:
        """As `pixel_sides_um`, and the step between planes before them where it is known."""
        sides, step = self.pixel_sides_um, self.scale_um.get("Z")
        if sides is None or not step:
            return sides
        return (step, *(sides if isinstance(sides, tuple) else (sides, sides)))


def image_name(path: Path) -> str:
    """File name without .tif, .ome.tif, .ome.zarr and the like."""
    return re.sub(r"\.ome$", "", path.stem, flags=re.IGNORECASE) or path.name


def pixel_size(scale: dict[str, float]) -> float | None:
    """One figure for both sides of a pixel, its area kept; None where one is unknown."""
    if "Y" not in scale or "X" not in scale:
        return None
    return scale["X"] if scale["X"] == scale["Y"] else math.sqrt(scale["Y"] * scale["X"])


def micrometres(unit: str | None) -> float | None:
    """How many µm a unit of length is; None for pixels, unknown or missing units."""
    return _MICROMETRES.get(_unit_name(unit))


def unknown_unit(unit: str | None) -> tuple[str, ...]:
    """What to say of a unit that is neither a length nor a word for pixels."""
    name = _unit_name(unit)
    if name in _MICROMETRES or name in _NO_LENGTH:
        return ()
    return (f"no pixel size: the unit {unit!r} is not known",)


def counts_dots(unit: str | None) -> bool:
    """Whether screens and scanners count their dots in this unit."""
    return _unit_name(unit) in ("in", "inch", "cm")


def is_plausible(size_um: float, dots: bool = False) -> bool:
    """Whether a microscope may have recorded this size of a pixel (µm).

    Pictures of unknown size often carry that of a screen, such as 72 dots per inch. `dots`:
    it was recorded in a unit that such devices count in.
    """
    if not POSSIBLE_UM[0] <= size_um <= POSSIBLE_UM[1]:
        return False
    if dots:
        return size_um <= MAX_DOT_UM
    return not any(math.isclose(size_um, 25400 / dpi, rel_tol=2e-3) for dpi in _ASSUMED_DPI)


def plausible_scale(
    scale: dict[str, float], dots: bool = False
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The spacing by axis (µm) as far as it may be true, and what to say of what is not.

    Without the size of a pixel nothing is left: a doubtful unit is doubtful for all axes. Where
    only one side of a pixel is recorded it is taken to be square.
    """
    wrong = [scale[a] for a in "XY" if a in scale and not is_plausible(scale[a], dots)]
    if wrong:
        return {}, (f"no pixel size: the recorded {wrong[0]:.3g} µm is no microscope's",)
    found = {a: size for a, size in scale.items() if is_plausible(size)}
    if len(sides := found.keys() & {"X", "Y"}) == 1:
        (side,) = sides
        told, other = ("width", "height") if side == "X" else ("height", "width")
        note = (
            f"only the {told} of a pixel is recorded ({found[side]:.3g} µm); its {other} is "
            "taken to be the same"
        )
        return {**found, "X": found[side], "Y": found[side]}, (note,)
    return found, ()


def _unit_name(unit: str | None) -> str:
    """A unit's short name, in the singular."""
    name = re.sub(r"\\u00b5|\\u03bc|&micro;|âµ|μ", "µ", (unit or "").strip().lower())
    name = re.sub(r"\s*(/|per)\s*(px|pixels?)$", "", name)
    match = re.fullmatch(r"(nano|micro|milli|centi|deci|pico)?met(?:er|re)s?", name)
    if match:
        return _LONG_PREFIXES.get(match[1] or "", "") + "m"
    aliases = {"µ": "µm", "inches": "inch", '"': "inch"}
    return aliases.get(name, name if name in _MICROMETRES else name.removesuffix("s"))


#: Of whole slides, which tiffslide knows more of.
SLIDE_SUFFIXES = (".svs", ".ndpi", ".scn", ".bif")
TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".lsm", ".stk", *SLIDE_SUFFIXES)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
#: Of microscopes' own formats, which plugins of bioio read.
BIOIO_SUFFIXES = (".nd2", ".czi", ".lif")
SUFFIXES = (*TIFF_SUFFIXES, *PICTURE_SUFFIXES, ".npy", *BIOIO_SUFFIXES)
KNOWN = "TIFF, PNG, JPEG, BMP, NPY, OME-Zarr, and ND2, CZI and LIF with the extra bioio"


def read_image(path: str | Path) -> ImageFile:
    """Open an image file or OME-Zarr folder; large ones stay on disk.

    Parameters
    ----------
    path : str or Path
        TIFF (also OME and ImageJ, and slides), PNG, JPEG, BMP, NPY, ND2, CZI and LIF (these
        with the extra bioio) or a Zarr folder; or the address of an OME-Zarr on the network:
        https://…, s3://….

    Raises
    ------
    ImageFileError
        Missing, damaged, or of another kind.
    AxesError
        The file holds fewer than two axes.
    """
    path = as_path(path)
    if url := remote(path):
        return _read_remote(path, url)
    if not os.path.exists(path):
        if os.path.islink(path):
            raise ImageFileError(f"{path} cannot be read: it is a link that leads nowhere.")
        raise ImageFileError(f"There is no file {path}; check the path.")
    with reading(path):
        if os.path.isdir(path):
            return _read_folder(path)
        suffix = path.suffix.lower()
        if suffix in TIFF_SUFFIXES:
            return _as_stored(read_tiff(path), path)
        if suffix in BIOIO_SUFFIXES:
            return read_bioio(path)
        if suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return _untold(array, path)
        if suffix in PICTURE_SUFFIXES:
            array = _read_picture(path)
            image = ImageFile(array, "YXC"[: array.ndim], None, image_name(path), path=path)
            return _as_stored(image, path)
    raise ImageFileError(f"{path} is of an unknown kind; {KNOWN} can be read.")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a damaged file makes of the block that reads it, as an error of ours.

    Raises
    ------
    SA2NetError
    """
    try:
        yield
    except (SA2NetError, MemoryError):
        raise
    except PermissionError as error:
        raise ImageFileError(f"{path} may not be read: {error.strerror}.") from error
    except Exception as error:  # decoders raise whatever they like on damaged files
        if not os.path.exists(path):
            raise ImageFileError(f"There is no file {path}; check the path.") from error
        reason = str(error) or type(error).__name__
        words = _instead(path) or f"it may be damaged or incomplete ({reason})."
        raise ImageFileError(f"{path} cannot be read; {words}") from error


def _instead(path: Path) -> str:
    """What a file is in the place of what its name says; empty where that is not known."""
    try:
        with path.open("rb") as file:
            first = file.read(512).lstrip().lower()
    except OSError:  # a folder, or gone by now
        return ""
    if first.startswith(b"version https://git-lfs"):
        return "it is what Git LFS leaves in its place: fetch the file itself by git lfs pull."
    if first.startswith((b"<!doctype html", b"<html")):
        return (
            "it is a web page, perhaps one that asks to sign in: download the file once more."
        )
    return "" if first else "it is empty: copy or download it once more."


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr array or group."""
    marks = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
    return os.path.isdir(path) and (
        path.suffix.lower() == ".zarr" or any(os.path.isfile(path / mark) for mark in marks)
    )


#: What is on the network comes through these, and the extra that brings them.
_EXTRAS = {"s3": "s3", "http": "remote", "https": "remote"}


def open_remote(url: str) -> Any:
    """The Zarr group or array at an address, to be read.

    Raises
    ------
    ImageFileError
        There is none, or nothing comes from there.
    """
    protocol = url.partition(":")[0]
    try:
        import fsspec  # noqa: F401
        import zarr

        try:
            return zarr.open(url, mode="r")
        except Exception as error:
            # who has no account can read what is public
            if (
                protocol != "s3"
                or "credentials" not in f"{type(error).__name__} {error}".lower()
            ):
                raise
            return zarr.open(url, mode="r", storage_options={"anon": True})
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        how = f"pip install 'napari-sa2net[{extra}]'" if extra else str(error)
        raise ImageFileError(f"{url}: to read from {protocol} needs more: {how}.") from error
    except FileNotFoundError as error:
        tiff = url.lower().endswith(SUFFIXES)
        only = "; over the network only OME-Zarr is read, so download it first" if tiff else ""
        raise ImageFileError(f"There is no OME-Zarr at {url}{only}.") from error
    except Exception as error:  # a network's own
        reason = str(error) or type(error).__name__
        raise ImageFileError(
            f"{url} cannot be read ({reason}). Check the address and the network."
        ) from error


def remote_content(url: str) -> str:
    """Digest of what an OME-Zarr on the network says of itself."""
    content = json.dumps(dict(open_remote(url).attrs), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _read_remote(path: Path, url: str) -> ImageFile:
    try:
        return read_zarr(path, open_remote(url))
    except (SA2NetError, MemoryError):
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ImageFileError(f"{url} cannot be read ({reason}).") from error


def _read_folder(path: Path) -> ImageFile:
    if not is_zarr(path):
        raise ImageFileError(f"{path} is a folder, not an image; name the files in it.")

    return read_zarr(path)


#: What a viewer does to a picture before it shows it, by EXIF's number.
_TURNS = {
    2: "mirrored",
    3: "turned by 180°",
    4: "turned upside down and mirrored",
    5: "mirrored and turned by 90°",
    6: "turned by 90°",
    7: "mirrored and turned by 90°",
    8: "turned by 90°",
}


def turned(path: Path) -> str:
    """How a viewer of photographs shows a picture otherwise than it is stored; mostly empty."""
    suffix = path.suffix.lower()
    number: Any = 1
    with suppress(Exception), warnings.catch_warnings():  # reading it says what is wrong
        warnings.simplefilter("ignore")
        if suffix in PICTURE_SUFFIXES:
            from PIL import Image

            with Image.open(path) as picture:
                number = picture.getexif().get(274)
        elif suffix in TIFF_SUFFIXES:
            import tifffile

            with tifffile.TiffFile(path) as tif:
                number = tif.pages.first.tags.valueof(274)
    return _TURNS.get(number, "")


def _as_stored(image: ImageFile, path: Path) -> ImageFile:
    """A picture with a note where viewers would turn it; napari does not, nor do we."""
    how = turned(path)
    if not how:
        return image
    note = (
        f"read as it is stored, as in napari; viewers of photographs show it {how} "
        "(EXIF), and what was drawn on it there does not fit"
    )
    return replace(image, notes=(*image.notes, note))


def _read_picture(path: Path) -> NDArray[Any]:
    """A picture as (Y, X) or (Y, X, C), palettes and print colours resolved to RGB."""
    from PIL import Image

    with warnings.catch_warnings():
        # Large scans are what this program is for; Pillow still refuses absurd ones.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            mode = picture.mode
            if mode in ("P", "PA"):
                mode = "RGBA" if "A" in mode or "transparency" in picture.info else "RGB"
            elif mode not in ("1", "L", "LA", "RGB", "RGBA", "F") and mode[0] != "I":
                mode = "RGB"
            array = np.asarray(picture if mode == picture.mode else picture.convert(mode))
    return array[..., 0] if mode == "LA" else array


# --------------------------------------------------------------------------------------------
# TIFF in: axes, pixel size and channel names as the writing program recorded them.

# Of a damaged file our error says what there is to say; without a handler Python would print
# tifffile's line before it.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_NO_RGB = (
    "its colours are stored as {}, and read as if they were red, green and blue: save it as RGB"
)
#: What to say of how a file stores black, white and colours.
_COLOURS = {
    "MINISWHITE": (
        "0 is white in this file: here bright and dark are swapped against other programs; "
        "if cells are missed, invert the image and save it",
    ),
    "SEPARATED": (_NO_RGB.format("CMYK, for printing"),),
    "CIELAB": (_NO_RGB.format("L*a*b*"),),
    "ICCLAB": (_NO_RGB.format("L*a*b*"),),
    "ITULAB": (_NO_RGB.format("L*a*b*"),),
}

#: Colours of a table that get brighter with their number are a way to show brightness.
_LUMA = (0.299, 0.587, 0.114)


def _palette_note(page: Any) -> tuple[str, ...]:
    """What to say where numbers stand for colours of a table, which are no brightness."""
    if page.photometric.name != "PALETTE" or page.colormap is None:
        return ()
    rise = np.diff(np.asarray(page.colormap, float).T @ _LUMA)
    if min(rise[rise > 0].sum(), -rise[rise < 0].sum()) <= 0.1 * np.abs(rise).sum():
        return ()
    return (
        "its colours come from a table, and the numbers behind them are read: where those are "
        "no brightness, save it as RGB",
    )


#: Above this size in bytes an image stays on disk and is read window by window.
LAZY_BYTES = 256 * 2**20

#: Spacing in µm by axis, channel names, and notes.
Metadata = tuple[dict[str, float], list[str], tuple[str, ...]]


def read_tiff(path: Path) -> ImageFile:
    """Open a TIFF file's image at full resolution: of several, the largest."""
    import tifffile  # slow to load

    tif = tifffile.TiffFile(path)
    try:
        if not tif.series:
            raise ImageFileError(f"{path} holds no image.")
        number = _largest(tif.series)
        series: Any = tif.series[number]
        lazy = series.size * series.dtype.itemsize > LAZY_BYTES
        if lazy and series.dataoffset is not None and not series.is_pyramidal:
            array: Any = tifffile.memmap(path, series=number, mode="r")
        elif lazy:
            from napari_sa2net.data.on_disk import LazyTiff

            array = LazyTiff.of(tif, path, tif.series.index(series))
        else:
            array = series.asarray()
        axes = _clean_axes(series.axes, series.kind, tuple(array.shape))
        scale, names, notes = _metadata(tif, number)
        notes = (*notes, *_others(tif.series, number), *_not_there(tif, series, path))
        notes = (*notes, *_COLOURS.get(series.keyframe.photometric.name, ()))
        notes += _palette_note(series.keyframe)
    except BaseException:
        tif.close()
        raise
    if not lazy or isinstance(array, np.ndarray):
        tif.close()
    if not scale and path.suffix.lower() in SLIDE_SUFFIXES:
        scale, more = _size_of_slide(path)
        notes = (*notes, *more)
    told = not set(series.axes) & set("QI")
    return ImageFile(
        array, axes, pixel_size(scale), image_name(path), tuple(names), path, scale, notes, told
    )


def _size_of_slide(path: Path) -> tuple[dict[str, float], tuple[str, ...]]:
    """The pixel size that a slide keeps where its maker alone puts it."""
    try:
        import tiffslide
    except ImportError:
        return {}, (
            "no pixel size found; more of slides is read with pip install "
            "'napari-sa2net[slides]'",
        )
    try:
        with tiffslide.TiffSlide(path) as slide:
            known = slide.properties
            sizes = {axis: _number(known.get(f"tiffslide.mpp-{axis.lower()}")) for axis in "YX"}
    except Exception:  # not a slide but for its name: what was read of it stays
        return {}, ()
    return plausible_scale({axis: size for axis, size in sizes.items() if size}, dots=True)


def read_bioio(path: Path) -> ImageFile:
    """Open a file of a microscope by bioio: of several images the largest.

    Raises
    ------
    ImageFileError
        bioio, or its plugin for such files, is not there.
    """
    kind = path.suffix.lower().lstrip(".")
    try:
        import bioio
        from bioio_base.exceptions import UnsupportedFileFormatError
    except ImportError as error:
        raise _needs_bioio(path, kind) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what readers find odd in their files
        try:
            image = bioio.BioImage(path)
        except UnsupportedFileFormatError as error:
            if importlib.util.find_spec(f"bioio_{kind}") is None:
                raise _needs_bioio(path, kind) from error
            raise
        shapes = {}
        for scene in range(len(image.scenes)):
            image.set_scene(scene)
            shapes[scene] = image.shape
        taken = max(shapes, key=lambda scene: math.prod(shapes[scene]))  # the first of equals
        image.set_scene(taken)
        axes, array = image.dims.order, image.dask_data
        kept = [i for i, n in enumerate(array.shape) if axes[i] in "YX" or n > 1]
        array = array[tuple(slice(None) if i in kept else 0 for i in range(array.ndim))]
        axes = "".join(axes[i] for i in kept)
        names = tuple(map(str, image.channel_names or ())) if "C" in axes else ()
        sizes = image.physical_pixel_sizes
        told = {axis: float(getattr(sizes, axis) or 0) for axis in "ZYX"}
        scale, notes = plausible_scale(_told(told))
        if array.nbytes <= LAZY_BYTES:
            array = np.asarray(array)
    if len(shapes) > 1:
        size = " × ".join(map(str, array.shape))
        more = f"picture {taken + 1} of {len(shapes)} in this file read, the largest ({size})"
        notes = (*notes, more)
    axes = _clean_axes(axes, "", tuple(array.shape))
    return ImageFile(
        array, axes, pixel_size(scale), image_name(path), names, path, scale, notes
    )


def _needs_bioio(path: Path, kind: str) -> ImageFileError:
    return ImageFileError(
        f"{path} needs bioio with its plugin bioio-{kind}: pip install 'napari-sa2net[bioio]'."
    )


def _untold(array: Any, path: Path) -> ImageFile:
    """An array of which its file tells the shape alone."""
    axes = resolve_axes(array.shape).names
    return ImageFile(array, axes, None, image_name(path), path=path, axes_told=False)


def _largest(series: Sequence[Any]) -> int:
    """Which series has most pixels, the first of equals: others are thumbnails and labels."""

    def pixels(one: Any) -> int:
        sizes = zip(one.axes, one.shape, strict=True)
        return math.prod(size for axis, size in sizes if axis != "S")

    return max(range(len(series)), key=lambda i: (pixels(series[i]), -i))


def _others(series: Sequence[Any], taken: int) -> tuple[str, ...]:
    """What to say of the series that are not read."""
    n = len(series)
    if n == 1:
        return ()
    if taken == 0:
        return (f"{n - 1} further image series in this file not read",)
    size = " × ".join(str(length) for length in series[taken].shape)
    return (f"picture {taken + 1} of {n} in this file read, the largest ({size})",)


#: Of OME's record: which file holds a plane, and the mark of that file.
_UUID = re.compile(r"""UUID\s+FileName=["']([^"']+)["']\s*>([^<]*)<""")
_OWN_UUID = re.compile(r"""OME\b[^>]*\sUUID=["']([^"']+)["']""")


def _not_there(tif: Any, series: Any, path: Path) -> tuple[str, ...]:
    """What to say of an image that lies in several files, some of them elsewhere."""
    record = (tif.ome_metadata or "") if tif.is_ome else ""
    files = {unescape(name): uuid.strip() for name, uuid in _UUID.findall(record)}
    own = _OWN_UUID.search(record)
    gone = [
        name
        for name, uuid in files.items()  # this one may have been renamed
        if not os.path.exists(path.parent / name) and not (own and uuid == own[1])
    ]
    # the record may also tell of other images' files, such as those of other positions
    if len(files) < 2 or not gone or all(page is not None for page in series):
        return ()
    more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
    return (f"what this image has in other files is read as 0: {gone[0]}{more} is not there",)


def _clean_axes(axes: str, kind: str, shape: tuple[int, ...]) -> str:
    """Axes of tifffile as `plan_image` takes them; unknown ones become a stack."""
    if kind == "shaped" and set(axes) & set("QI") and not set(axes) & set("SC"):
        return resolve_axes(shape).names
    if "C" not in axes and axes.endswith("S"):
        axes = axes[:-1] + "C"
    known = set(axes) - set("QI")
    free = [letter for letter in STACK_NAMES if letter not in known]
    clean: list[str] = []
    for letter in reversed(axes):  # the axis next to the plane gets the first free name
        unknown = letter in "QI" or letter in clean
        clean.append(free.pop(0) if unknown else letter)
    return "".join(reversed(clean))


def _metadata(tif: Any, number: int) -> Metadata:
    """What the file tells of one of its series."""
    series = tif.series[number]
    if tif.is_ome and tif.ome_metadata:
        return _ome(tif.ome_metadata, series, number)
    if tif.is_imagej and tif.imagej_metadata is not None:
        scale, notes = _imagej(tif.imagej_metadata, series)
        return scale, [], notes
    scale, notes = _resolution_tags(series)
    if tif.is_shaped and scale:
        every: Sequence[Mapping[str, Any]] = tif.shaped_metadata or ()
        told = every[number] if number < len(every) else {}
        step, factor = _number(told.get("spacing")), micrometres(str(told.get("unit", "")))
        if step and factor:
            scale, notes = plausible_scale({**scale, "Z": abs(step) * factor})
    if tif.is_lsm and tif.lsm_metadata:
        sizes = {axis: tif.lsm_metadata.get(f"VoxelSize{axis}", 0) * 1e6 for axis in "ZYX"}
        scale, notes = plausible_scale(_told(sizes))
    elif tif.is_svs:
        match = re.search(r"\bMPP\s*=\s*([\d.,]+)", series.keyframe.description or "")
        size = _number(match[1]) if match else None
        if size:
            scale, notes = plausible_scale(dict.fromkeys("YX", size))
    return scale, [], notes


def _told(sizes: dict[str, float]) -> dict[str, float]:
    """Sizes but for zeros, by which programs say that they do not know."""
    return {axis: size for axis, size in sizes.items() if size}


def _ome(xml: str, series: Any, number: int) -> Metadata:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return {}, [], ()
    every = [e for e in root.iter() if e.tag.endswith("}Pixels")]
    pixels = next(iter(_of_series(every, series, number)), None)
    if pixels is None:
        return {}, [], ()
    sizes: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    dots = False
    for axis in "ZYX":
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        size, factor = _number(pixels.get(f"PhysicalSize{axis}")), micrometres(unit)
        if size and factor:
            sizes[axis] = size * factor
            dots = dots or counts_dots(unit)
        elif size:
            notes = unknown_unit(unit)
    scale, doubts = plausible_scale(sizes, dots)
    names = [e.get("Name") for e in pixels if e.tag.endswith("}Channel")]
    named = [name or str(i) for i, name in enumerate(names)] if any(names) else []
    return scale, named, (*notes, *doubts)


def _of_series(every: list[Any], series: Any, number: int) -> list[Any]:
    """Descriptions of a series among those of all images: its own first."""
    if len(every) < 2:
        return every
    size = {axis: str(length) for axis, length in zip(series.axes, series.shape, strict=True)}
    fits = [e for e in every if all(e.get(f"Size{a}") == size.get(a) for a in "YX")]
    own = every[number : number + 1]
    return own if own and own[0] in fits else fits


def _imagej(metadata: dict[str, Any], series: Any) -> tuple[dict[str, float], tuple[str, ...]]:
    unit = str(metadata.get("unit", ""))
    factor = micrometres(unit)
    if not factor:
        return {}, unknown_unit(unit)
    y_factor, z_factor = (
        micrometres(str(metadata.get(f"{axis}unit", ""))) or factor for axis in "yz"
    )
    per_pixel = _per_pixel(series)
    scale = {axis: per_pixel[axis] * {"Y": y_factor, "X": factor}[axis] for axis in per_pixel}
    spacing = _number(metadata.get("spacing"))
    if spacing and scale:
        scale["Z"] = abs(spacing) * z_factor
    return plausible_scale(scale, counts_dots(unit))


def _resolution_tags(series: Any) -> tuple[dict[str, float], tuple[str, ...]]:
    """From the baseline tags; the inch of most programs is a screen's 72 dpi, not a size."""
    unit = series.keyframe.tags.get("ResolutionUnit")
    factor = {2: 25400.0, 3: 1e4}.get(int(unit.value) if unit else 0)
    if factor is None:
        return {}, ()
    scale = {axis: size * factor for axis, size in _per_pixel(series).items()}
    # Said of nearly every TIFF file, so there is nothing to note.
    return plausible_scale(scale, dots=True)[0], ()


def _per_pixel(series: Any) -> dict[str, float]:
    """Resolution units per pixel, from rationals of pixels per unit."""
    sizes = {}
    for axis in "YX":
        tag = series.keyframe.tags.get(f"{axis}Resolution")
        if tag is None or not isinstance(tag.value, Sequence) or 0 in tag.value:
            return {}
        pixels, units = tag.value
        sizes[axis] = units / pixels
    return sizes


def _number(value: Any) -> float | None:
    try:
        return float(str(value).replace(",", "."))
    except (TypeError, ValueError):
        return None


# --------------------------------------------------------------------------------------------
# Zarr in: OME-Zarr 0.1 to 0.5 by their metadata, and plain arrays.


def read_zarr(path: Path, opened: Any = None) -> ImageFile:
    """Open a Zarr folder lazily, an OME-Zarr at full resolution; or one that is `opened`.

    Raises
    ------
    ImageFileError
        A group without an image, or a whole plate.
    """
    import zarr  # slow to load

    node: Any = zarr.open(str(path), mode="r") if opened is None else opened
    if isinstance(node, zarr.Array):
        axes = _dimension_names(node)
        if not axes:
            return _untold(node, path)
        return ImageFile(node, axes, None, image_name(path), path=path)
    attributes = ome_of(node)
    if "multiscales" not in attributes and "0" in node and _is_zarr_image(node["0"]):
        return _read_largest(path, node)  # bioformats2raw keeps all images of a file
    if "multiscales" in attributes:
        return _read_multiscale(path, node, attributes)
    if "plate" in attributes or "well" in attributes:
        raise ImageFileError(
            f"{path} is a whole plate or well; name one image in it, such as {path}/A/1/0."
        )
    arrays = [name for name, member in node.members() if isinstance(member, zarr.Array)]
    if len(arrays) == 1:
        return _untold(node[arrays[0]], path)
    what = f"{len(arrays)} arrays: {', '.join(sorted(arrays)[:5])}" if arrays else "no array"
    raise ImageFileError(
        f"{path} holds no OME-Zarr image but {what}; name the array, such as {path}/0."
    )


def ome_of(node: Any) -> Mapping[str, Any]:
    """OME metadata: under "ome" since version 0.5, at the top before."""
    attributes = dict(node.attrs)
    ome = attributes.get("ome")
    return ome if isinstance(ome, Mapping) else attributes


def _is_zarr_image(node: Any) -> bool:
    import zarr

    return isinstance(node, zarr.Group) and "multiscales" in ome_of(node)


def _read_largest(path: Path, node: Any) -> ImageFile:
    """Of the images "0", "1", … in a group the largest: others are thumbnails and labels."""
    groups: dict[str, Any] = {}
    while str(len(groups)) in node and _is_zarr_image(node[str(len(groups))]):
        groups[str(len(groups))] = node[str(len(groups))]
    images = {
        name: _read_multiscale(path, group, ome_of(group)) for name, group in groups.items()
    }
    # max keeps the first of equals.
    taken = max(images, key=lambda name: math.prod(images[name].array.shape))
    image = images[taken]
    if len(images) == 1:
        return image
    size = " × ".join(str(length) for length in image.array.shape)
    note = f"picture {taken} of 0 to {len(images) - 1} in this file read, the largest ({size})"
    return replace(image, notes=(*image.notes, note))


def _read_multiscale(path: Path, node: Any, attributes: Mapping[str, Any]) -> ImageFile:
    multiscale: Mapping[str, Any] = next(iter(attributes["multiscales"]), {})
    dataset = next(iter(multiscale.get("datasets", ())), None)
    if dataset is None:
        raise ImageFileError(f"{path} holds no image: its metadata name no array.")
    if dataset["path"] not in node:
        raise ImageFileError(
            f"{path} lacks its full resolution, the array {dataset['path']}: copy or download "
            "all of it once more."
        )
    array = node[dataset["path"]]
    axes, units = _axes(multiscale.get("axes"), array.ndim)
    sizes: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    steps = _scale(dataset, array.ndim), _scale(multiscale, array.ndim)
    for i, name in enumerate(axes):
        factor, step = micrometres(units[i]), steps[0][i] * steps[1][i]
        if name in "ZYX" and factor and step:
            sizes[name] = step * factor
        elif name in "YX":
            notes = unknown_unit(units[i])
    scale, doubts = plausible_scale(sizes, any(counts_dots(unit) for unit in units))
    channels = (attributes.get("omero") or {}).get("channels") or []
    names = tuple(str(channel.get("label") or i) for i, channel in enumerate(channels))
    return ImageFile(
        array, axes, pixel_size(scale), image_name(path), names, path, scale, (*notes, *doubts)
    )


def _axes(described: Any, ndim: int) -> tuple[str, list[str | None]]:
    """Axes letters and units. Version 0.3 lists names only, earlier ones mean TCZYX."""
    if not described:
        return "TCZYX"[-ndim:], [None] * ndim
    letters: list[str] = []
    units: list[str | None] = []
    for axis in described:
        entry = axis if isinstance(axis, Mapping) else {"name": axis}
        name = str(entry.get("name", "")).upper()
        kind = {"channel": "C", "time": "T"}.get(str(entry.get("type")))
        letter = kind or name[:1]
        if letter in letters or not letter.isalpha():
            letter = next(free for free in STACK_NAMES if free not in letters)
        letters.append(letter)
        units.append(entry.get("unit"))
    if len(letters) != ndim:
        raise ImageFileError(
            f"The metadata describe {len(letters)} axes, but the array has {ndim}."
        )
    return "".join(letters), units


def _scale(entry: Mapping[str, Any], ndim: int) -> list[float]:
    for transform in entry.get("coordinateTransformations") or []:
        if transform.get("type") == "scale" and len(transform.get("scale", [])) == ndim:
            return [float(step) for step in transform["scale"]]
    return [1.0] * ndim


def _dimension_names(array: Any) -> str | None:
    """Axes of a plain array of version 3 that names its dimensions by single letters."""
    names = getattr(array.metadata, "dimension_names", None)
    if not names or not all(isinstance(name, str) and len(name) == 1 for name in names):
        return None
    axes = "".join(names).upper()
    return axes if {"Y", "X"} <= set(axes) and len(set(axes)) == len(axes) else None
