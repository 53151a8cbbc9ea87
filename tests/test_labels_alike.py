"""Labels of elsewhere are taken, or refused in the same words, wherever they come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import napari_sa2net
from napari_sa2net.app.training_set import read_kept
from napari_sa2net.config import InputConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.corrections import TrainingSet, import_corrections
from napari_sa2net.data.labels import Look, look_at
from napari_sa2net.data.training_set import load_training_folder
from napari_sa2net.errors import SA2NetError
from napari_sa2net.evaluation import evaluate_folders
from napari_sa2net.training.dataset import load_example

IMAGE, LABELS = synthetic_nuclei((80, 96), n=10, diameter=14, seed=1)
N = int(LABELS.max())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A training folder with one image, and its labels once more as a prediction."""
    for kind in ("images", "labels", "found"):
        (tmp_path / "set" / kind).mkdir(parents=True)
    tifffile.imwrite(tmp_path / "set" / "images" / "a.tif", IMAGE)
    tifffile.imwrite(tmp_path / "set" / "found" / "a.tif", LABELS.astype(np.uint16))
    return tmp_path / "set"


def trained_on(folder: Path) -> NDArray[Any]:
    (item,) = load_training_folder(folder)
    return load_example(item, InputConfig(), 14.0).labels


def imported(folder: Path) -> NDArray[Any]:
    corrections = TrainingSet.open(folder.parent / "new", create=True)
    (record,) = corrections.import_folder(folder)
    return corrections.load(record.id).labels


def shown(folder: Path) -> NDArray[Any]:
    return read_kept(folder, "a").labels


def scored(folder: Path) -> NDArray[Any]:
    report = evaluate_folders(folder / "found", folder / "labels")
    assert report.all.scores["mean_ap"] == 1
    return LABELS


DOORS = [trained_on, imported, shown, scored]


def palette(path: Path, labels: NDArray[Any]) -> None:
    picture = Image.fromarray(labels.astype(np.uint8), mode="P")
    picture.putpalette(np.random.default_rng(0).integers(0, 255, 768).astype("u1").tolist())
    picture.save(path.with_suffix(".png"))


def tiff(change: Callable[[NDArray[Any]], Any], **more: Any) -> Callable[..., None]:
    return lambda path, labels: tifffile.imwrite(path, change(labels), **more)


TAKEN = {
    "palette": palette,
    "grey RGB": lambda path, x: Image.fromarray(np.dstack([x.astype("u1")] * 3)).save(
        path.with_suffix(".png")
    ),
    "grey RGBA": lambda path, x: Image.fromarray(
        np.dstack([x.astype("u1")] * 3 + [np.full(x.shape, 255, "u1")])
    ).save(path.with_suffix(".png")),
    "16-bit RGB": lambda path, x: path.with_suffix(".png").write_bytes(
        imagecodecs.png_encode(np.dstack([x.astype("u2") * 300] * 3))
    ),
    "grey RGB TIFF": tiff(lambda x: np.dstack([x.astype("u1")] * 3), photometric="rgb"),
    "float": tiff(lambda x: x.astype(np.float32)),
    "one plane": tiff(lambda x: x[None].astype(np.uint16)),
    "one channel": lambda path, x: np.save(path.with_suffix(".npy"), x[..., None]),
    "uint32": tiff(lambda x: np.where(x, x.astype("u4") + np.uint32(4e9), 0).astype("u4")),
    "int64": lambda path, x: np.save(
        path.with_suffix(".npy"), np.where(x, x.astype("i8") + 2**40, 0)
    ),
    "uint64": lambda path, x: np.save(
        path.with_suffix(".npy"), np.where(x, x.astype("u8") + np.uint64(2**63), np.uint64(0))
    ),
}


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize("write", TAKEN.values(), ids=TAKEN)
def test_taken_rightly(folder: Path, write: Any, door: Any) -> None:
    write(folder / "labels" / "a.tif", LABELS)
    _, found = np.unique(door(folder), return_inverse=True)
    assert (found.reshape(LABELS.shape) == LABELS).all()


def square(n: int, value: int) -> NDArray[Any]:
    labels = np.zeros(LABELS.shape, np.uint16)
    for i in range(n):
        labels[5 + 20 * (i // 4) : 17 + 20 * (i // 4), 5 + 22 * (i % 4) : 17 + 22 * (i % 4)] = (
            value
        )
    return labels


REFUSED = {
    "colours": (
        lambda path: Image.fromarray(
            np.dstack([LABELS, LABELS * 2, LABELS * 3]).astype(np.uint8)
        ).save(path.with_suffix(".png")),
        "colour picture",
    ),
    "fractions": (lambda path: tifffile.imwrite(path, LABELS / np.float32(7)), "whole numbers"),
    "no numbers": (
        lambda path: tifffile.imwrite(path, np.where(LABELS, LABELS, np.nan).astype("f4")),
        "hold nan",
    ),
    "negative": (
        lambda path: tifffile.imwrite(path, LABELS.astype(np.int16) - 1),
        "must not be negative; these go down to -1",
    ),
    "JPEG": (
        lambda path: Image.fromarray(LABELS.astype("u1")).save(path.with_suffix(".jpg")),
        "JPEG",
    ),
    "two channels": (
        lambda path: tifffile.imwrite(
            path, np.stack([LABELS, LABELS]).astype("u2"), metadata={"axes": "CYX"}, ome=True
        ),
        "2 channels",
    ),
    "another size": (
        lambda path: tifffile.imwrite(path, LABELS[:-1].astype("u2")),
        "same height and width",
    ),
}


def around(value: int, kind: str = "u1") -> NDArray[Any]:
    """Cells, and bands of another number around them, as some data sets draw them."""
    rim = ndimage.grey_dilation(LABELS, 7) * (LABELS == 0) > 0
    return np.where(rim, value, LABELS).astype(kind)


def within(*box: int) -> NDArray[Any]:
    """Cells, but 255 in a box."""
    labels = LABELS.astype(np.uint8)
    labels[box[0] : box[1], box[2] : box[3]] = 255
    return labels


# Only these look at what is numbered; a person who opens an image sees it.
LOOKED_AT = {
    "mask": (lambda path: tifffile.imwrite(path, square(8, 1)), "looks like a mask"),
    "mask of 255": (lambda path: tifffile.imwrite(path, square(2, 255)), "looks like a mask"),
    "background 1": (
        lambda path: tifffile.imwrite(path, LABELS.astype("u2") + 1),
        "looks like background",
    ),
    "background last": (
        lambda path: tifffile.imwrite(path, np.where(LABELS, LABELS, 99).astype("u2")),
        "label 99 covers",
    ),
    "bands of 255": (
        lambda path: tifffile.imwrite(path, around(255)),
        rf"label 255, far above the next number, {N}, lies in bands .*labels == 255\] = 0",
    ),
    "bands of 65535": (
        lambda path: tifffile.imwrite(path, around(65535, "u2")),
        "pixels that do not count",
    ),
    "bands of 32 bits": (
        lambda path: tifffile.imwrite(path, around(2**32 - 1, "u4")),
        "pixels that do not count",
    ),
    "a frame of 255": (
        lambda path: tifffile.imwrite(path, np.pad(LABELS[2:-2, 2:-2], 2, constant_values=255)),
        "label 255, far above",
    ),
    "255 in two corners": (
        lambda path: tifffile.imwrite(
            path, np.maximum(within(0, 9, 0, 9), within(70, 80, 86, 96))
        ),
        "label 255, far above",
    ),
    "a large area of 255": (
        lambda path: tifffile.imwrite(path, within(0, 40, 0, 96)),
        "label 255, far above",
    ),
}


def _says_else(door: Any, case: str) -> bool:
    """Scores compare two shapes, and pass over kinds of files that hold no labels."""
    return door is scored and case in ("JPEG", "another size")


@pytest.mark.parametrize(
    ("door", "case"),
    [
        *((door, case) for door in DOORS for case in REFUSED if not _says_else(door, case)),
        *((door, case) for door in (trained_on, imported, scored) for case in LOOKED_AT),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_refused_in_true_words(folder: Path, door: Any, case: str) -> None:
    write, words = {**REFUSED, **LOOKED_AT}[case]
    write(folder / "labels" / "a.tif")
    with pytest.raises(SA2NetError, match=words):
        door(folder)


def test_python_scores_as_the_shell_does() -> None:
    score = napari_sa2net.evaluate
    assert score(LABELS.astype(np.float32), LABELS[None])["mean_ap"] == 1
    assert score(np.dstack([LABELS] * 3), LABELS)["mean_ap"] == 1
    huge = np.where(LABELS, LABELS.astype("u8") + np.uint64(2**63), np.uint64(0))
    assert score([LABELS, LABELS], [huge, LABELS])["mean_ap"] == 1
    for labels, words in (
        (LABELS > 0, "mask"),
        (LABELS + 1, "background"),
        (LABELS - 1, "negative"),
        (LABELS / 7, "whole numbers"),
        (np.dstack([LABELS, LABELS, LABELS * 2]), "colour"),
    ):
        with pytest.raises(SA2NetError, match=words):
            score(labels, LABELS)
        with pytest.raises(SA2NetError, match=words):
            score([LABELS, LABELS], [LABELS, labels])


def shared_numbers() -> NDArray[Any]:
    """Pairs of cells under one number."""
    return np.where(LABELS, (LABELS + 1) // 2, 0).astype(np.uint16)


def test_cells_under_one_number_are_told(folder: Path, caplog: Any) -> None:
    tifffile.imwrite(folder / "labels" / "a.tif", shared_numbers())
    (item,) = load_training_folder(folder)
    words = f"of {(N + 1) // 2} numbers stand in several"
    assert words in load_example(item, InputConfig(), 14.0).note
    notes: list[str] = []
    corrections = TrainingSet.open(folder.parent / "new", create=True)
    import_corrections(corrections, folder, note=notes.append)
    assert len(notes) == 1
    assert words in notes[0]
    (note,) = evaluate_folders(folder / "found", folder / "labels").notes
    assert words in note
    assert "counted as one" in note
    napari_sa2net.evaluate(LABELS, shared_numbers())
    assert words in caplog.text


def test_a_cell_of_an_odd_number_is_noted_and_one_in_its_row_is_not() -> None:
    one = within(30, 42, 40, 52)
    look = look_at(one)
    assert not look.problem
    assert not look.blocks
    assert f"label 255 stands far above the next number, {N}" in look.note
    one[one == 255] = 200
    assert look_at(one) == Look()
    last = np.where(LABELS, LABELS + (255 - N), 0)
    assert look_at(last) == Look()


def test_a_cell_that_has_the_number_of_a_mark_is_a_cell() -> None:
    """The cell before it was deleted, or others of the stack go on; its shape says nothing."""
    row = np.zeros((64, 512), np.uint8)
    for number in (*range(1, 254), 255):
        y, x = divmod(number, 64)
        row[8 * y : 8 * y + 4, 8 * x : 8 * x + 4] = number
    row[60] = row[row == 255].max()
    assert not look_at(row).problem
    assert "255 stands" not in look_at(row).note
    frames = np.stack([np.where(LABELS, LABELS + 250, 0), around(255, "i4")])
    assert not look_at(frames).problem
    assert "255 stands" not in look_at(frames).note


@pytest.mark.parametrize(("number", "turn"), [(3, 2), (6, -1)])
def test_labels_drawn_on_a_picture_that_was_turned_are_told(
    folder: Path, number: int, turn: int
) -> None:
    """Half round they fit by their shape alone; by a quarter they do not fit at all."""
    (folder / "images" / "a.tif").unlink()
    exif = Image.Exif()
    exif[274] = number
    picture = Image.fromarray((IMAGE / IMAGE.max() * 255).astype("u1"))
    picture.save(folder / "images" / "a.png", exif=exif)
    tifffile.imwrite(folder / "labels" / "a.tif", np.rot90(LABELS, turn).astype("u2"))
    (item,) = load_training_folder(folder)
    notes: list[str] = []
    corrections = TrainingSet.open(folder.parent / "new", create=True)
    if number == 3:
        assert "turned by 180° (EXIF)" in load_example(item, InputConfig(), 14.0).note
        import_corrections(corrections, folder, note=notes.append)
        assert "see that the labels fit" in " ".join(notes)
    else:
        for door in (trained_on, imported):
            with pytest.raises(SA2NetError, match=r"turned by 90° \(EXIF\)\. If the labels"):
                door(folder)


def test_an_image_without_height_is_named(folder: Path) -> None:
    np.save(folder / "images" / "b.npy", np.zeros((0, 96), np.uint16))
    np.save(folder / "labels" / "b.npy", np.zeros((0, 96), np.uint16))
    tifffile.imwrite(folder / "labels" / "a.tif", LABELS.astype(np.uint16))
    for item in load_training_folder(folder):
        if item.name == "b":
            with pytest.raises(SA2NetError, match=r"b\.npy has no pixel"):
                load_example(item, InputConfig(), 14.0)
    with pytest.raises(SA2NetError, match=r"b\.npy has no pixel"):
        read_kept(folder, "b")
    with pytest.raises(SA2NetError, match=r"b\.npy has no pixel"):
        TrainingSet.open(folder.parent / "new", create=True).import_folder(folder)


def test_a_mask_of_what_counts_is_read_as_labels_are(folder: Path) -> None:
    (folder / "reviewed").mkdir()
    tifffile.imwrite(folder / "labels" / "a.tif", LABELS.astype(np.uint16))
    counts = LABELS < 4
    Image.fromarray(np.dstack([counts.astype("u1") * 255] * 3)).save(
        folder / "reviewed" / "a.png"
    )
    (item,) = load_training_folder(folder)
    assert (load_example(item, InputConfig(), 14.0).counts == counts).all()
