"""Public data sets in the layouts that their authors hand out."""

from __future__ import annotations

import builtins
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import make_layouts as make

from napari_sa2net.errors import SettingsError, TrainingDataError
from napari_sa2net.experiments.layouts import crop_cell, open_layout, read_outlines


def splits(layout) -> dict[str, int]:
    return {s: len(layout.split(s)) for s in ("train", "val", "test")}


def test_monuseg_as_downloaded(tmp_path: Path) -> None:
    layout = open_layout("monuseg", make.monuseg(tmp_path))
    assert layout.form == "downloaded"
    assert splits(layout) == {"train": 3, "val": 0, "test": 1}
    samples = {s.name: s for s in layout}
    assert [s.group for s in samples.values()].count("TCGA-A7-A130") == 2
    for i in range(3):
        image, labels = make.blob(i)
        sample = samples[f"TCGA-A7-A13{i // 2}-01Z-00-DX{i}"]
        np.testing.assert_array_equal(sample.image, image)
        np.testing.assert_array_equal(sample.mask, labels)
        assert sample.mask.dtype == np.int32


@pytest.mark.parametrize("dataset", ["monuseg", "glas"])
def test_folders_of_the_published_code(tmp_path: Path, dataset: str) -> None:
    layout = open_layout(dataset, make.folders(tmp_path))
    assert layout.form == "folders"
    assert splits(layout) == {"train": 4, "val": 1, "test": 2}
    sample = layout.split("val")[0].read()
    image, labels = make.blob(100)
    np.testing.assert_array_equal(sample.image, image)
    np.testing.assert_array_equal(sample.mask > 0, labels > 0)


def test_glas_as_downloaded(tmp_path: Path) -> None:
    layout = open_layout("glas", make.glas(tmp_path))
    assert splits(layout) == {"train": 4, "val": 0, "test": 2}
    assert [item.name for item in layout.items[:2]] == ["testA_1", "testB_1"]
    groups = {item.name: item.group for item in layout.items}
    assert groups["train_1"] == groups["train_2"] == "patient 1"
    assert groups["train_3"] == "patient 2"
    sample = layout.split("train")[3].read()
    np.testing.assert_array_equal(sample.mask, make.blob(3)[1])
    next(tmp_path.rglob("Grade.csv")).unlink()
    assert open_layout("glas", tmp_path).split("train")[0].group == "train_1"


def test_isic2018_as_downloaded(tmp_path: Path) -> None:
    layout = open_layout("isic2018", make.isic2018(tmp_path))
    assert splits(layout) == {"train": 7, "val": 1, "test": 2}
    sample = layout.split("test")[0].read()
    assert sample.name == "ISIC_0000008"
    assert sample.image.shape == (*make.SHAPE, 3)
    np.testing.assert_array_equal(sample.mask > 0, make.blob(8)[1] == 1)


def test_segpc2021_cell_by_cell(tmp_path: Path) -> None:
    layout = open_layout("segpc2021", make.segpc2021(tmp_path))
    assert len(layout) == 10
    # Half, a fifth and the rest of the cells, in order of the files: training images first.
    assert splits(layout) == {"train": 5, "val": 2, "test": 3}
    assert [item.name for item in layout.items] == [
        *(f"train {100 + i}_{cell}" for i in range(4) for cell in (1, 2)),
        "validation 1000_1", "validation 1000_2",
    ]  # fmt: skip
    assert [item.split for item in layout.items] == ["train"] * 5 + ["val"] * 2 + ["test"] * 3
    sample = layout.items[0].read()
    # Nucleus 4 × 6 px: grown by half of 2.5 times that, 5 and 8 px, on each side.
    assert sample.image.shape == (14, 22, 4)
    assert sample.mask.shape == (14, 22)
    nucleus = sample.image[..., 3]
    assert set(np.unique(nucleus)) == {0, 255}
    assert (nucleus > 0).sum() == 24
    assert sample.mask[nucleus > 0].all()
    assert sample.mask.sum() == 12 * 12


def test_published_splits_are_by_number_in_order_of_the_files(tmp_path: Path) -> None:
    for i in range(2594):
        for folder, ending in (
            ("ISIC2018_Task1-2_Training_Input", ".jpg"),
            ("ISIC2018_Task1_Training_GroundTruth", "_segmentation.png"),
        ):
            path = tmp_path / "isic" / folder / f"ISIC_{i:07d}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    layout = open_layout("isic2018", tmp_path / "isic")
    assert splits(layout) == {"train": 1815, "val": 259, "test": 520}
    assert [i.split for i in layout.items] == ["train"] * 1815 + ["val"] * 259 + ["test"] * 520
    assert [item.name for item in layout.items] == [f"ISIC_{i:07d}" for i in range(2594)]
    assert not layout.notes
    # As many cells as there are in SegPC-2021.
    for folder, cells in (("train", 1643), ("validation", 990)):
        for part in ("x", "y"):
            (tmp_path / "a" / folder / part).mkdir(parents=True)
        (tmp_path / "a" / folder / "x" / "7.bmp").touch()
        for number in range(1, cells + 1):
            (tmp_path / "a" / folder / "y" / f"7_{number}.bmp").touch()
    layout = open_layout("segpc2021", tmp_path / "a")
    assert splits(layout) == {"train": 1316, "val": 527, "test": 790}
    assert layout.items[1316].name == "train 7_1317", "an image on two sides"
    assert [item.name.split("_")[0] for item in layout.items] == (
        ["train 7"] * 1643 + ["validation 7"] * 990
    )


def test_a_cell_at_the_edge_is_padded_with_black() -> None:
    image = np.full((30, 30, 3), 200, np.uint8)
    values = np.zeros((30, 30), np.uint8)
    values[:8, :6], values[0:4, 0:4] = 20, 40
    crop, cell = crop_cell(image, values)
    assert crop.shape == (14, 14, 4)  # 5 px on each side
    assert not crop[:5].any()
    assert not crop[:, :5].any()
    assert (crop[5:, 5:, :3] == 200).all()
    assert (crop[5:9, 5:9, 3] == 255).all()
    assert cell.sum() == 8 * 6


def test_acdc_slice_by_slice(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    layout = open_layout("acdc", make.acdc(tmp_path))
    assert splits(layout) == {"train": 8, "val": 4, "test": 4}
    assert len(layout.classes) == 4
    item = layout.items[1]
    assert (item.name, item.group) == ("patient001_frame01_slice01", "patient001")
    assert item.unit == "patient001_frame01"
    sample = item.read()
    assert sample.image.shape == sample.mask.shape == make.SHAPE
    assert sample.image.dtype == np.float32
    assert set(np.unique(sample.mask)) == {0, 1, 2, 3}
    assert sample.mask[14:22, 16:32].min() == 3, "Y comes first"
    assert sample.image[sample.mask == 3].min() >= 180


def test_acdc_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args, **kwargs):
        if name == "nibabel":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingsError, match="pip install nibabel"):
        open_layout("acdc", tmp_path)


def remove(pattern: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        path = sorted(root.rglob(pattern))[0]
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


@pytest.mark.parametrize(
    ("dataset", "damage", "named"),
    [
        ("monuseg", remove("*DX1.xml"), r"Annotations.TCGA-A7-A130-01Z-00-DX1\.xml is miss"),
        ("monuseg", remove("*DX1.tif"), r"Images.TCGA-A7-A130-01Z-00-DX1\.tif is missing"),
        ("monuseg", remove("Annotations"), r"Annotations.TCGA-A7-A130.*\.xml is missing"),
        ("glas", remove("train_2_anno.bmp"), r"train_2_anno\.bmp is missing"),
        ("glas", remove("train_2.bmp"), r"train_2\.bmp is missing: the image of train_2_anno"),
        ("isic2018", remove("ISIC_0000003.jpg"), r"ISIC_0000003\.jpg is missing"),
        ("isic2018", remove("ISIC_0000003_seg*"), r"ISIC_0000003_segmentation\.png is missing"),
        ("isic2018", remove("*GroundTruth"), "Training_GroundTruth is missing"),
        ("segpc2021", remove("y"), "train.y is missing"),
        ("segpc2021", remove("x"), "train.x is missing"),
        ("segpc2021", remove("validation"), r"validation.x is missing"),
        ("segpc2021", remove("train"), r"train.x is missing"),
        ("segpc2021", remove("1000.bmp"), r"x.1000\.bmp is missing"),
        ("acdc", remove("*frame12.nii.gz"), r"patient001_frame12\.nii\.gz is missing"),
        ("acdc", remove("*frame12_gt.nii.gz"), r"patient001_frame12_gt\.nii\.gz is missing"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, dataset: str, damage, named: str) -> None:
    if dataset == "acdc":
        pytest.importorskip("nibabel")
    root = make.MAKERS[dataset](tmp_path)
    damage(root)
    with pytest.raises(TrainingDataError, match=named):
        open_layout(dataset, root)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (remove("Train_Folder/labelcol/Tr2.png"), r"labelcol.Tr2\.png is missing"),
        (remove("Test_Folder/img/Te1.png"), r"Test_Folder.img.Te1\.png is missing"),
        (remove("Test_Folder/labelcol"), r"Test_Folder.labelcol is missing"),
        (remove("Train_Folder"), r"Train_Folder is missing: expected is Train_Folder.img"),
    ],
)
def test_what_is_missing_in_folders_is_named(tmp_path: Path, damage, named: str) -> None:
    damage(make.folders(tmp_path))
    with pytest.raises(TrainingDataError, match=named):
        open_layout("glas", tmp_path)


@pytest.mark.parametrize(
    ("dataset", "damage", "note"),
    [
        ("monuseg", None, r"3 training images are there, of 30 or 37 handed out"),
        ("glas", None, r"4 training images are there, of 85"),
        ("isic2018", None, r"10 images are there, of 2594"),
        ("segpc2021", remove("102_1.bmp"), r"cells of 102\.bmp are not numbered from 1 with"),
        ("acdc", remove("patient001"), r"Of 100 patients \d+ are not there \(patient001, "),
    ],
)
def test_what_seems_to_be_missing_is_noted(tmp_path: Path, dataset, damage, note) -> None:
    if dataset == "acdc":
        pytest.importorskip("nibabel")
    root = make.MAKERS[dataset](tmp_path)
    if damage:
        damage(root)
    (found,) = open_layout(dataset, root).notes
    assert re.search(note, found)


def test_a_folder_of_tests_is_told_from_the_latest(tmp_path: Path) -> None:
    root = make.monuseg(tmp_path / "latest")
    assert splits(open_layout("monuseg", root))["train"]
    top = next(path for path in root.iterdir() if "Test" not in path.name)
    top.rename(root / "contest latest")
    assert splits(open_layout("monuseg", root))["train"]
    (root / "contest latest").rename(root / "my test-images")
    assert not splits(open_layout("monuseg", root))["train"]


def test_a_table_of_patients_in_another_encoding_is_read(tmp_path: Path) -> None:
    root = make.glas(tmp_path)
    table = next(root.rglob("Grade.csv"))
    before = {item.name: item.group for item in open_layout("glas", root).items}
    table.write_bytes(
        table.read_bytes() + "train_9,9,s\u00e4gez\u00e4hnig,x\n".encode("latin-1")
    )
    assert {item.name: item.group for item in open_layout("glas", root).items} == before


@pytest.mark.parametrize("dataset", list(make.MAKERS))
def test_other_folders_are_refused(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(TrainingDataError, match=r"[Ee]xpected is|with"):
        open_layout(dataset, tmp_path)
    with pytest.raises(TrainingDataError, match="is not a folder"):
        open_layout(dataset, tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="Known are: monuseg"):
        open_layout("imagenet", tmp_path)


def test_damaged_files_are_named_when_they_are_read(tmp_path: Path) -> None:
    root = make.glas(tmp_path)
    next(root.rglob("train_1_anno.bmp")).write_bytes(b"BM no picture")
    item = open_layout("glas", root).split("train")[0]
    with pytest.raises(TrainingDataError, match=r"train_1_anno\.bmp"):
        item.read()
    make.save(next(root.rglob("train_1_anno.bmp")), np.zeros((3, 4), np.uint8))
    with pytest.raises(TrainingDataError, match=r"the mask is \(3, 4\)"):
        item.read()


@pytest.mark.parametrize(
    "text", ["", "<a>", "<Annotations/>", "<A><Region><Vertex X='a' Y='1'/></Region></A>"]
)
def test_files_without_outlines_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(TrainingDataError, match=r"a\.xml"):
        read_outlines(path, (10, 10))


@pytest.mark.parametrize("dataset", ["monuseg", "glas"])
def test_the_real_training_images(shared_dir: Path, dataset: str) -> None:
    layout = open_layout(dataset, shared_dir / "data" / dataset)
    counts = {"monuseg": (24, 6), "glas": (85, 0)}[dataset]
    assert (len(layout.split("train")), len(layout.split("val"))) == counts
    sample = next(iter(layout))
    assert sample.image.dtype == np.uint8
    assert sample.image.shape == (*sample.mask.shape, 3)
    assert 0.05 < (sample.mask > 0).mean() < 0.95
    if dataset == "monuseg":
        assert sample.group.count("-") == 2
