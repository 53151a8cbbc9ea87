"""Training folders as people lay them out."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_sa2net.config import InputConfig
from napari_sa2net.data import plan_image
from napari_sa2net.data.training_set import (
    TrainingItem,
    _with_kin,
    load_training_folder,
    split_items,
    take_levels,
)
from napari_sa2net.errors import TrainingDataError
from napari_sa2net.evaluation import evaluate_folders


def put(folder, name, kind="images"):
    (folder / kind).mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / kind / f"{name}.tif", np.zeros((8, 8), np.uint8))


def folder_of(tmp_path, names, index=None):
    for name in names:
        put(tmp_path, name)
        put(tmp_path, name, "labels")
    if index is not None:
        (tmp_path / "index.csv").write_text(index)
    return tmp_path


def test_images_and_labels_pair_by_name(tmp_path):
    folder = folder_of(tmp_path, ["b", "ä 1.2", "a"])
    put(folder, "a", "reviewed")
    items = load_training_folder(folder)
    assert [item.name for item in items] == ["a", "b", "ä 1.2"]
    assert items[0].reviewed is not None
    assert items[1].reviewed is None


def test_only_train_and_val_rows_are_read(tmp_path):
    index = "split,name,kind,group\ntrain,a,fluo,g1\nval,b.tif,fluo,g2\ntest,missing,fluo,g3\n"
    items = load_training_folder(folder_of(tmp_path, ["a", "b"], index))
    training, validation = split_items(items)
    assert [i.name for i in training] == ["a"]
    assert [i.name for i in validation] == ["b"]
    assert training[0].kind == "fluo"
    assert training[0].group == "g1"


GERMAN = "Split;Name;Kind;Group\r\nTraining;a;fluo;Körner\r\nValidation; b ;fluo;x\r\n;;;\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        GERMAN.encode("cp1252"),
        GERMAN.encode("utf-8-sig"),
        GERMAN.replace(";", "\t").encode("utf-16"),
        GERMAN.replace(";", "\t").encode("utf-16-le"),
        GERMAN.replace(";", ",").encode("utf-16-be"),
        ("sep=;\r\n" + GERMAN).encode(),
        GERMAN.replace(";", ", ").encode(),
        GERMAN.replace(";", " ,\t").encode(),
        GERMAN.replace("Training", '"TRAIN"').replace("Validation", " val ").encode("latin-1"),
        GERMAN.replace("a;", "a.ome.tif;").replace(" b ", "b.PNG").encode(),
    ],
    ids=range(10),
)
def test_an_index_as_spreadsheets_write_it(tmp_path, raw):
    folder = folder_of(tmp_path, ["a", "b"])
    (folder / "index.csv").write_bytes(raw)
    found = [(i.name, i.split, i.kind, i.group) for i in load_training_folder(folder)]
    assert found == [("a", "train", "fluo", "Körner"), ("b", "val", "fluo", "x")]
    for kind in ("one", "two"):
        (tmp_path / kind).mkdir()
        for name in "ab":
            np.save(tmp_path / kind / f"{name}.npy", np.eye(9, dtype=int))
    index = tmp_path / "index.csv"
    report = evaluate_folders(
        tmp_path / "one", tmp_path / "two", index, split="training", group_by="GROUP"
    )
    assert [group.name for group in report.groups] == ["Körner"]


def test_rows_without_a_split_are_not_lost(tmp_path):
    index = "split,name\ntrain,a\n,b\ntest,c\n"
    items = load_training_folder(folder_of(tmp_path, ["a", "b", "c"], index))
    assert [(i.name, i.split) for i in items] == [("a", "train"), ("b", "")]


def test_splits_that_are_unknown_are_named(tmp_path):
    folder = folder_of(tmp_path, ["a", "b"], "split,name\nfold 1,a\nfold 2,b\n")
    with pytest.raises(TrainingDataError, match="are fold 1, fold 2, and none is train or val"):
        load_training_folder(folder)


def test_images_of_a_split_of_no_known_name_are_said(tmp_path, caplog):
    folder = folder_of(tmp_path, ["a", "b"], "split,name\nTraining,a\nValidierung,b\n")
    assert [item.name for item in load_training_folder(folder)] == ["a"]
    (note,) = caplog.messages
    assert note.startswith("1 image is left out: index.csv gives it the split Validierung")
    caplog.clear()
    load_training_folder(folder, ("train", "test"))
    (note,) = caplog.messages
    assert note.endswith("which is none of train, test.")
    caplog.clear()
    (folder / "index.csv").write_text("split,name\ntrain,a\ntest,b\n")
    assert len(load_training_folder(folder)) == 1
    assert not caplog.messages  # that is what such a split is for


@pytest.mark.parametrize("ending", ["_cp_masks", "_mask", ".labels", "-Label"])
def test_masks_beside_their_images_are_said(tmp_path, ending):
    for name in ("a", "b", f"a{ending}", f"b{ending}"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((8, 8), np.uint8))
    words = f"a{ending}.tif looks like the labels of a.tif: move it to labels/a.tif"
    with pytest.raises(TrainingDataError, match=words):
        load_training_folder(tmp_path)


def test_rows_without_a_split_may_share_a_group(tmp_path):
    index = "split,name,kind,group\ntrain,a,x,g\n,b,x,g\nval,c,x,h\n"
    training, validation = split_items(
        load_training_folder(folder_of(tmp_path, ["a", "b", "c"], index))
    )
    assert [item.name for item in training] == ["a", "b"]
    assert [item.name for item in validation] == ["c"]


def test_an_index_with_a_head_full_of_commas(tmp_path):
    index = "split;name;kind, as seen by me, twice, at least\nval;a;x, y\ntrain;b;z\n"
    items = load_training_folder(folder_of(tmp_path, ["a", "b"], index))
    assert [(item.name, item.split) for item in items] == [("a", "val"), ("b", "train")]


def test_an_index_that_is_no_table(tmp_path):
    folder = folder_of(tmp_path, ["a"], "split,name\n")
    (folder / "index.csv").write_bytes(b"split,name\ntrain,a\r" + b"x" * 140_000)
    with pytest.raises(TrainingDataError, match="cannot be read"):
        load_training_folder(folder)


def test_files_of_one_image_pair_by_stem(tmp_path):
    put(tmp_path, "a.ome")
    put(tmp_path, "a", "labels")
    put(tmp_path, "a.OME", "reviewed")
    put(tmp_path, "b")
    put(tmp_path, "b.ome", "labels")
    put(tmp_path, unicodedata.normalize("NFD", "ä"))
    put(tmp_path, unicodedata.normalize("NFC", "ä"), "labels")
    (tmp_path / "labels" / "a.tif").rename(tmp_path / "labels" / "a.Tif")
    items = load_training_folder(tmp_path)
    assert [item.name for item in items] == ["a", "b", unicodedata.normalize("NFC", "ä")]
    assert items[0].reviewed is not None
    put(tmp_path, "a")
    with pytest.raises(TrainingDataError, match="'a' with two endings"):
        load_training_folder(tmp_path)


def test_of_two_endings_in_an_index_a_tiff_goes_before_a_picture_of_it(tmp_path):
    folder = folder_of(tmp_path, ["a", "b"], "split,name\ntrain,a\nval,b\n")
    put(folder, "a", "reviewed")
    for kind in ("images", "reviewed"):
        (folder / kind / "a.PNG").write_bytes(b"a preview")
        (folder / kind / "a.jpg").write_bytes(b"a preview")
    item = load_training_folder(folder)[0]
    assert item.image == folder / "images" / "a.tif"
    assert item.reviewed == folder / "reviewed" / "a.tif"


def test_an_index_may_lie_above_the_splits(tmp_path):
    folder_of(tmp_path / "train", ["a", "b"])
    folder_of(tmp_path / "test", ["c"])
    (tmp_path / "index.csv").write_text("split,name\ntrain,a\ntrain,b\ntest,c\n")
    assert [i.name for i in load_training_folder(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("split,name,group\ntrain,a,g\nval,b,g\n", "one side"),
        ("name\na\n", "column 'split'"),
        ("split,name\ntrain,a\ntrain,a\n", "twice"),
        ("split,name\ntrain,nowhere\n", "no file for 'nowhere'"),
        ("split,name\ntest,a\n", "no training images"),
    ],
)
def test_a_bad_index_says_what_to_do(tmp_path, index, words):
    with pytest.raises(TrainingDataError, match=words):
        load_training_folder(folder_of(tmp_path, ["a", "b"], index))


def test_missing_folders_and_labels_say_what_to_do(tmp_path):
    with pytest.raises(TrainingDataError, match="not a folder"):
        load_training_folder(tmp_path / "nowhere")
    with pytest.raises(TrainingDataError, match="no images/ folder"):
        load_training_folder(tmp_path)
    put(tmp_path, "a")
    with pytest.raises(TrainingDataError, match="labels"):
        load_training_folder(tmp_path)


@pytest.mark.parametrize("path", ["images/a.tif", r"C:\data\my images\a.tif", "/b/a.ome.tif"])
def test_whole_paths_may_stand_in_an_index(tmp_path, path):
    folder = folder_of(tmp_path, ["a", "b"], f"split,name\ntrain,{path}\nval,b\n")
    assert [(i.name, i.split) for i in load_training_folder(folder)] == [
        ("a", "train"),
        ("b", "val"),
    ]


@pytest.mark.parametrize("name", ["", "images/"])
def test_a_row_without_a_name_is_said(tmp_path, name):
    folder = folder_of(tmp_path, ["a", "b"], f"split,name\ntrain,{name}\nval,b\n")
    with pytest.raises(TrainingDataError, match=r"index\.csv has a row without a name"):
        load_training_folder(folder)


@pytest.mark.parametrize(
    ("name", "meant"), [("1", "001"), ("Cell", "cell"), ("a", "a_mask"), ("a", "a-labels")]
)
def test_a_name_that_a_spreadsheet_has_changed_is_pointed_out(tmp_path, name, meant):
    folder = folder_of(tmp_path, [meant, "b"], f"split,name\ntrain,{name}\ntrain,b\n")
    with pytest.raises(TrainingDataError, match=f"for '{name}' .*There is '{meant}': if that"):
        load_training_folder(folder)
    (folder / "index.csv").write_text(f"split,name\ntrain,{meant}\ntrain,b\n")
    (path,) = (folder / "labels").glob(f"{meant}.*")
    path.unlink()
    with pytest.raises(TrainingDataError, match=f"labels has no file for '{meant}'") as error:
        load_training_folder(folder)
    assert "There is" not in str(error.value)


def test_a_seeded_tenth_of_each_kind_validates(tmp_path):
    names = [f"n{i:02d}" for i in range(40)]
    rows = [f"train,{n},{'x' if i < 30 else 'y'}," for i, n in enumerate(names)]
    items = load_training_folder(
        folder_of(tmp_path, names, "split,name,kind,group\n" + "\n".join(rows))
    )
    training, validation = split_items(items, 0.1, seed=1)
    assert len(validation) == 4
    assert len(training) == 36
    assert {i.kind for i in validation} == {"x", "y"}
    assert split_items(items, 0.1, seed=1)[1] == validation
    assert split_items(items, 0.1, seed=2)[1] != validation


def test_groups_are_not_torn(tmp_path):
    names = [f"n{i}" for i in range(12)]
    rows = [f"train,{n},,g{i // 3}" for i, n in enumerate(names)]
    items = load_training_folder(
        folder_of(tmp_path, names, "split,name,kind,group\n" + "\n".join(rows))
    )
    training, validation = split_items(items, 0.2)
    assert not {i.group for i in training} & {i.group for i in validation}


def test_one_image_cannot_be_split(tmp_path):
    with pytest.raises(TrainingDataError, match="one more image"):
        split_items(load_training_folder(folder_of(tmp_path, ["a"])))


@pytest.mark.parametrize("kind", ["percentile", "range", "divide"])
def test_a_crop_is_as_bright_as_its_image_was(kind):
    crop = np.zeros((8, 8, 3), np.uint8)
    crop[2:4] = 90
    plan = plan_image(crop, model_input=InputConfig(normalization=kind))
    before = plan.levels.tolist()
    take_levels(plan, TrainingItem("crop", Path(), Path(), levels=((10, 200),) * 3))
    assert plan.levels.tolist() == (before if kind == "divide" else [[10, 200]] * 3)


def test_images_of_one_group_are_kin_and_none_is_its_own():
    groups = {"a": "g", "b": "g", "c": "h", "d": "", "e": "", "f": "g"}
    items = [TrainingItem(name, Path(), Path(), group=g) for name, g in groups.items()]
    kin = [item.kin for item in _with_kin(items)]
    assert kin == [("b", "f"), ("a", "f"), (), (), (), ("a", "b")]
