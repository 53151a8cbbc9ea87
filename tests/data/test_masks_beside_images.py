"""Masks of other programs as what is learned from and scored against, wherever they lie."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_sa2net.app.training_set import import_question, read_kept
from napari_sa2net.data import synthetic_nuclei, write_cells
from napari_sa2net.data.corrections import import_into
from napari_sa2net.data.listing import list_images
from napari_sa2net.data.training_set import load_training_folder, read_truth
from napari_sa2net.errors import SA2NetError, TrainingDataError
from napari_sa2net.evaluation import evaluate_folders

SHAPE = (96, 128)
KINDS = {
    "imagej": "_rois.zip",
    "geojson": ".geojson",
    "cellpose": "_seg.npy",
    "coco": ".json",
    "ome-zarr": ".ome.zarr",
    "project": ".sa2net",
}


def images() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {f"cell_{i}": synthetic_nuclei(SHAPE, n=8, diameter=18, seed=i) for i in range(3)}


def make(folder: Path, key: str, where: str) -> dict[str, np.ndarray]:
    """A training folder in one of three layouts; the truth by name."""
    below = {"labels": "images", "images": "images", "flat": "."}[where]
    own = {"labels": "labels", "images": "images", "flat": "."}[where]
    (folder / below).mkdir(parents=True, exist_ok=True)
    truths = {}
    for name, (image, truth) in images().items():
        mask = folder / own / f"{name}{KINDS[key]}"
        if key == "ome-zarr" and where != "labels":
            # the image and its labels are one
            write_cells(mask, truth, key, image=image, image_axes="YX")
        else:
            tifffile.imwrite(folder / below / f"{name}.tif", image)
            write_cells(mask, truth, key, image_path=folder / below / f"{name}.tif")
        truths[name] = truth
    return truths


@pytest.mark.parametrize("where", ["labels", "images", "flat"])
@pytest.mark.parametrize("key", KINDS)
def test_every_road_takes_them(tmp_path: Path, key: str, where: str) -> None:
    if key == "project" and where != "labels":
        where = "flat"
    source = tmp_path / "source"
    truths = make(source, key, where)
    items = load_training_folder(source)
    assert [item.name for item in items] == sorted(truths)
    for item in items:
        labels, counts, note = read_truth(item, SHAPE)
        assert np.array_equal(labels, truths[item.name])
        assert counts is None
        assert note == ""
    # the Import button, and the window that shows what it took
    assert import_question(source) is None
    assert np.array_equal(read_kept(source, "cell_1").labels, truths["cell_1"])
    # the shell
    kept, records = import_into(tmp_path / "set", source)
    assert len(records) == 3
    for record in records:
        data = kept.load(record.id)
        assert np.array_equal(data.labels > 0, truths[record.source.name] > 0)
    # a zip file of it
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", source)
    assert import_into(tmp_path / "set", archive)[1] == []
    # scores
    truth = source / {"flat": ""}.get(where, where)
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    for name, values in truths.items():
        tifffile.imwrite(predicted / f"{name}.tif", values.astype(np.uint16))
    report = evaluate_folders(predicted, truth)
    assert set(report.images) == set(truths)
    assert report.all.scores["ap50"] == 1


def test_one_coco_file_of_all_images(tmp_path: Path) -> None:
    import json

    make(tmp_path, "coco", "flat")
    together: dict = {"images": [], "annotations": [], "categories": []}
    for i, path in enumerate(sorted(tmp_path.glob("*.json"))):
        one = json.loads(path.read_text("utf-8"))
        together["images"].append({**one["images"][0], "id": i})
        together["annotations"] += [
            {**annotation, "image_id": i, "id": 1000 * i + annotation["id"]}
            for annotation in one["annotations"]
        ]
        path.unlink()
    (tmp_path / "annotations.json").write_text(json.dumps(together))
    items = load_training_folder(tmp_path)
    assert {item.labels.name for item in items} == {"annotations.json"}
    for item in items:
        assert np.array_equal(read_truth(item, SHAPE)[0], images()[item.name][1])


def test_outlines_that_are_named_as_no_image(tmp_path: Path) -> None:
    make(tmp_path, "imagej", "flat")
    first, *others = sorted(images())
    for name in others:
        for path in tmp_path.glob(f"{name}*"):
            path.unlink()
    (tmp_path / f"{first}{KINDS['imagej']}").rename(tmp_path / "RoiSet.zip")  # Fiji's own name
    words = f"RoiSet.zip has the name of no image: call it as its image, such as {first}_RoiSet"
    with pytest.raises(TrainingDataError, match=words):
        load_training_folder(tmp_path)
    (tmp_path / "RoiSet.zip").rename(tmp_path / f"{first}_RoiSet.zip")
    assert len(load_training_folder(tmp_path)) == 1


def test_cellpose_file_that_is_named_as_no_image(tmp_path: Path) -> None:
    make(tmp_path, "cellpose", "flat")
    first, *others = sorted(images())
    for name in others:
        for path in tmp_path.glob(f"{name}*"):
            path.unlink()
    (tmp_path / f"{first}_seg.npy").rename(tmp_path / "other_seg.npy")
    with pytest.raises(TrainingDataError, match=f"such as {first}_seg.npy"):
        load_training_folder(tmp_path)
    (tmp_path / "other_seg.npy").rename(tmp_path / f"{first}_seg.npy")
    assert len(load_training_folder(tmp_path)) == 1


def test_two_files_with_outlines_are_scored(tmp_path: Path) -> None:
    for folder, key in (("a", "imagej"), ("b", "geojson")):
        for name, (_, truth) in images().items():
            write_cells(tmp_path / folder / f"{name}{KINDS[key]}", truth, key)
    report = evaluate_folders(tmp_path / "a", tmp_path / "b")
    assert report.all.scores["mean_ap"] == 1
    assert report.all.n_truth == sum(truth.max() for _, truth in images().values())


def test_overlaps_are_said(tmp_path: Path) -> None:
    import roifile

    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", np.zeros(SHAPE, np.uint16))
    square = np.array([[10, 10], [40, 10], [40, 40], [10, 40]])
    rois = [roifile.ImagejRoi.frompoints(square + by, name=f"r{by}") for by in (0, 20)]
    roifile.roiwrite(tmp_path / "labels" / "a.zip", rois)
    (item,) = load_training_folder(tmp_path)
    labels, _, note = read_truth(item, SHAPE)
    assert "overlap in 100 pixels" in note
    assert labels[35, 35] == 2
    said: list[str] = []
    import_into(tmp_path / "set", tmp_path, note=said.append)
    assert any("overlap" in one for one in said)
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    tifffile.imwrite(predicted / "a.tif", labels.astype(np.uint16))
    assert any(
        "overlap" in one for one in evaluate_folders(predicted, tmp_path / "labels").notes
    )


def test_masks_are_no_images(tmp_path: Path) -> None:
    make(tmp_path, "cellpose", "flat")
    assert [path.name for path in list_images(tmp_path)] == [f"cell_{i}.tif" for i in range(3)]
    # an image of such a name is one
    np.save(tmp_path / "x_seg.npy", np.zeros(SHAPE))
    assert len(list_images(tmp_path)) == 4


@pytest.mark.parametrize("name", ["cell_1.geojson", "cell_1.zip", "cell_1_seg.npy"])
def test_damaged_masks_are_named(tmp_path: Path, name: str) -> None:
    tifffile.imwrite(tmp_path / "cell_1.tif", np.zeros(SHAPE, np.uint16))
    (tmp_path / name).write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '|O', odd")
    with pytest.raises(SA2NetError, match=name):
        read_truth(load_training_folder(tmp_path)[0], SHAPE)


def test_masks_of_another_image_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "geojson", "flat")
    tifffile.imwrite(tmp_path / "cell_0.tif", np.zeros((20, 20), np.uint16))
    with pytest.raises(TrainingDataError, match=r"cell_0\.geojson.*outside"):
        read_truth(load_training_folder(tmp_path)[0], (20, 20))


def test_a_folder_of_images_alone_says_where_masks_may_lie(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(SHAPE, np.uint16))
    (tmp_path / "settings.json").write_text('{"a": 1}')
    with pytest.raises(TrainingDataError, match="ImageJ ROIs"):
        load_training_folder(tmp_path)
    make(tmp_path, "imagej", "flat")
    with pytest.raises(TrainingDataError, match="'a'"):
        load_training_folder(tmp_path)


def test_an_archive_of_other_things(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(SA2NetError, match="no training images"):
        import_into(tmp_path / "set", path)
