"""Tables of images (index.csv), as people and spreadsheets write them."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from pathlib import Path

from napari_sa2net.errors import TrainingDataError
from napari_sa2net.files import readable

#: Endings that names in a table may carry.
_ENDING = re.compile(r"\.(tiff?|btf|tf8|png|jpe?g|bmp|npy)$", re.IGNORECASE)
_OME = re.compile(r"\.ome$", re.IGNORECASE)
_DELIMITERS = ",;\t|"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def stem_of(name: str) -> str:
    """What files of one image have in common: the name without .tif, .ome.tif, .png …

    Accents count the same however a system spells them.
    """
    plain = _OME.sub("", _ENDING.sub("", name)) or name
    return unicodedata.normalize("NFC", readable(plain))


def split_word(text: str) -> str:
    """A split in one spelling: "Training" is train, "validation" is val."""
    return _SPLITS.get(text.strip().casefold(), text.strip())


def read_index(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a table of images.

    UTF-8, UTF-16 and Windows-1252; columns set apart by commas, semicolons or tabs; blanks
    around words, empty rows and upper case in the heads do not count.

    Returns
    -------
    columns : list of str
        In lower case.
    rows : list of dict of str to str

    Raises
    ------
    TrainingDataError
        If it cannot be read.
    """
    try:
        lines = _text(path.read_bytes()).lstrip("\ufeff").splitlines(keepends=True)
        while lines and not lines[0].strip():
            del lines[0]
        delimiter = ""
        if lines and (said := re.match(r"sep=(.)\s*$", lines[0], re.IGNORECASE)):
            delimiter = said[1]  # Excel's own way of telling
            del lines[0]
        delimiter = delimiter or _delimiter(lines[0] if lines else "")
        text = io.StringIO("".join(lines), newline="")
        table = [
            [cell.strip() for cell in row]
            for row in csv.reader(text, delimiter=delimiter, skipinitialspace=True)
        ]
    except (OSError, UnicodeError, csv.Error) as error:
        raise TrainingDataError(
            f"The index {path} cannot be read ({error}). Save it as CSV in UTF-8."
        ) from error
    columns = [head.casefold() for head in table[0]] if table else []
    rows = [
        dict(zip(columns, [*row, *[""] * len(columns)], strict=False))
        for row in table[1:]
        if any(row)
    ]
    return [head for head in columns if head], rows


def _text(raw: bytes) -> str:
    for mark, encoding in _BOMS:
        if raw.startswith(mark):
            return raw.decode(encoding)
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        half = raw[start::2]
        if half and half.count(0) > len(half) // 2:
            return raw.decode(encoding)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        pass
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _delimiter(head: str) -> str:
    """What sets the columns apart: what gives one called name, else most columns."""
    heads = {
        mark: [
            cell.strip().casefold()
            for cell in next(csv.reader([head], delimiter=mark, skipinitialspace=True), [])
        ]
        for mark in _DELIMITERS
    }
    return max(_DELIMITERS, key=lambda mark: ("name" in heads[mark], len(heads[mark])))
