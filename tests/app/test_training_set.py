"""A training set as the Learn page tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_sa2net.app import training_set as training_set_module
from napari_sa2net.app.training_set import (
    FEWEST,
    NOTHING,
    ImportQuestion,
    gone,
    import_question,
    picture_of,
    plan_words,
    read_summary,
    seconds_to_learn,
    thumbnails,
    with_thumbnails,
)
from napari_sa2net.config import FineTuneConfig
from napari_sa2net.data import plan_image
from napari_sa2net.data.commit import Commit
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.errors import SA2NetError
from napari_sa2net.training.compare import Planned, Score


def squares(n: int) -> Any:
    labels = np.zeros((40, 60), np.int32)
    for i in range(n):
        y, x = divmod(i, 5)
        labels[2 + 12 * y : 10 + 12 * y, 2 + 11 * x : 10 + 11 * x] = i + 1
    return labels


def keep(folder: Path, *images: tuple[str, int, str, str]) -> None:
    """Images of a name, with so many cells, of a group and a split."""
    training_set = TrainingSet.open(folder, create=True)
    rng = np.random.default_rng(0)
    for name, n, group, split in images:
        image = rng.integers(0, 255, (40, 60), np.uint8)
        more: Any = {"group": group, "split": split}
        training_set.commit(Commit(image, squares(n), source=name, fingerprint=name, **more))


@pytest.mark.parametrize(
    ("images", "problem", "division"),
    [
        ([("a", FEWEST, "", "")], "", "A strip of the image with about 20%"),
        ([("a", FEWEST - 1, "", "")], "3 reviewed cells is too little", "A strip"),
        ([("a", 1, "", "")], "1 reviewed cell is too little", "A strip"),
        ([("a", 2, "", ""), ("b", 1, "", "")], "", "held back to judge by: whole images."),
        ([("a", 5, "g", ""), ("b", 5, "g", "")], "", "All images are of one group"),
        ([("a", 5, "g", ""), ("b", 5, "g", ""), ("c", 5, "h", "")], "", "by: whole groups."),
        ([("a", 5, "", "train"), ("b", 5, "", "val")], "", "marked for validation"),
    ],
)
def test_what_can_be_learned_from(
    tmp_path: Path, images: Any, problem: str, division: str
) -> None:
    keep(tmp_path / "set", *images)
    summary = read_summary(tmp_path / "set", 0.2)
    assert problem in summary.problem
    assert bool(summary.problem) == bool(problem)
    assert division in summary.division
    assert summary.n_images == len(images)
    assert summary.n_cells == sum(n for _, n, _, _ in images)
    assert summary.n_groups == len({group for _, _, group, _ in images if group})
    assert [item.name for item in summary.items] == [name for name, *_ in images[::-1]]
    assert [item.n_cells for item in summary.items] == [n for _, n, _, _ in images[::-1]]
    assert summary.listed
    assert summary.there


def test_where_nothing_is_there_is_nothing_to_learn_from(tmp_path: Path) -> None:
    none = read_summary(tmp_path / "none", 0.2)
    assert (none.problem, none.there, none.listed) == (NOTHING, False, False)
    (tmp_path / "empty").mkdir()
    empty = read_summary(tmp_path / "empty", 0.2)
    assert (empty.problem, empty.there) == (NOTHING, True)
    TrainingSet.open(tmp_path / "set", create=True)
    new = read_summary(tmp_path / "set", 0.2)
    assert (new.problem, new.listed) == (NOTHING, True)
    (tmp_path / "empty" / "notes.txt").touch()
    odd = read_summary(tmp_path / "empty", 0.2)
    assert odd.problem not in ("", NOTHING)
    assert odd.n_cells is None
    lost = gone(new)
    assert lost.gone
    assert f"{tmp_path / 'set'} is gone" in lost.problem


def test_the_newest_are_listed_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_set_module, "MOST_LISTED", 3)
    keep(tmp_path / "set", *[(f"image {i}", 1, "", "") for i in range(5)])
    summary = read_summary(tmp_path / "set", 0.2)
    assert summary.n_images == summary.n_cells == 5
    assert [item.name for item in summary.items] == ["image 4", "image 3", "image 2"]


def folder_of(folder: Path, *images: Any, **options: Any) -> Path:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i, image in enumerate(images):
        tifffile.imwrite(folder / "images" / f"{i}.tif", image, **options)
        tifffile.imwrite(folder / "labels" / f"{i}.tif", squares(6).astype(np.uint16))
    return folder


def test_a_folder_of_images_has_small_pictures_and_no_list(tmp_path: Path) -> None:
    image = np.zeros((40, 60), np.uint8)
    image[:, 30:] = 200
    folder = folder_of(tmp_path / "folder", image, image.T.copy().T)
    summary = read_summary(folder, 0.2)
    assert not summary.listed
    assert summary.n_cells is None
    assert [item.key for item in summary.items] == ["0", "1"]
    assert "whole images" in summary.division
    (folder / "images" / "1.tif").write_bytes(b"II*\0 no image")
    found = dict(thumbnails(summary))
    assert list(found) == ["0"]  # what cannot be read is passed over
    assert found["0"].dtype == np.uint8
    shown = with_thumbnails(summary, found)
    assert shown.items[0].thumbnail is found["0"]
    assert shown.items[1].thumbnail is None
    assert with_thumbnails(shown, {}).items[0].thumbnail is found["0"]
    assert list(thumbnails(gone(read_summary(tmp_path / "none", 0.2)))) == []


def test_small_pictures_are_of_the_middle_plane_from_black_to_white() -> None:
    stack = np.zeros((5, 100, 160), np.uint16)
    stack[2, :, 80:] = 4000
    small = picture_of(plan_image(stack, "ZYX", in_channels=1))
    assert small.shape == (25, 40)
    assert np.unique(small[:, :20]).tolist() == [0]
    assert np.unique(small[:, 20:]).tolist() == [255]
    stack[2, 0, 0] = 60_000  # brighter than white is white
    assert picture_of(plan_image(stack, "ZYX", in_channels=1))[0, 0] == 255
    colours = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(picture_of(plan_image(colours, "YXC")), colours)
    two = np.stack([np.eye(30), np.zeros((30, 30))]).astype(np.float32)
    assert picture_of(plan_image(two, "CYX", channels=(0, 1))).shape == (30, 30)
    three = np.stack([np.eye(30)] * 3).astype(np.float32)
    assert picture_of(plan_image(three, "CYX", channels=(0, 1, 2))).shape == (30, 30, 3)


@pytest.mark.parametrize(
    ("shape", "options", "axes"),
    [
        ((40, 60), {}, None),
        ((40, 60, 3), {"photometric": "rgb"}, None),
        ((2, 40, 60), {"imagej": True, "metadata": {"axes": "CYX"}}, ("CYX",)),
        ((5, 40, 60), {}, ("CYX", "YXC")),
        ((60, 40, 5), {}, ("YXC", "CYX")),
        ((2, 2, 40, 60), {"imagej": True, "metadata": {"axes": "ZCYX"}}, None),
    ],
)
def test_what_a_folder_does_not_tell_is_asked(
    tmp_path: Path, shape: Any, options: Any, axes: Any
) -> None:
    image = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    question = import_question(folder_of(tmp_path / "folder", image, **options))
    if axes is None:
        assert question is None
    else:
        assert question is not None
        assert question.axes == axes
        assert question.shape == shape


def test_sets_of_ours_are_not_asked_about_and_empty_ones_are_refused(tmp_path: Path) -> None:
    keep(tmp_path / "set", ("a", 5, "", ""))
    assert import_question(tmp_path / "set") is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(SA2NetError):
        import_question(tmp_path / "empty")


def test_channels_are_called_as_the_file_calls_them() -> None:
    one = ImportQuestion(Path("a"), ("CYX", "YXC"), (2, 40, 60), ("DAPI", "actin"))
    assert one.channels("CYX") == ("DAPI", "actin")
    assert one.channels("YXC") == tuple(map(str, range(60)))
    assert one.channels("ZYX") == ("0",)


def test_what_a_run_takes_at_least() -> None:
    config = FineTuneConfig(
        minutes=0.01, batch_size=2, crop=100 * 16 // 10, max_scored=4, held_out=0.5
    )
    score = Score(0, 0, 0, 0)
    assert plan_words(Planned(9, 3, 1.0, 1, 1, score, score)) == (
        "Learns from 1 cell, and is judged on 1 that is held back."
    )
    assert plan_words(Planned(9, 3, 1.0, 1200, 14, score, score)) == (
        "Learns from 1,200 cells, and is judged on 14 that are held back."
    )
    assert seconds_to_learn(config, 3, None) == pytest.approx(0.6)
    # twice the reference set and two images of three; five steps of four passes
    least = 2 * (1 + 0.1 * 2) + 5 * 4 * 2 * 160**2 / 1e6
    assert seconds_to_learn(config, 3, 10.0) == pytest.approx(10 * least)
    # of many images only some are scored
    many = seconds_to_learn(config, 300, 10.0)
    assert many == pytest.approx(10 * (least + 2 * 0.1 * 2))
    assert seconds_to_learn(config.model_copy(update={"minutes": 9.0}), 3, 10.0) == 540
