"""Folders of labels: pairing, index, groups, report, and what is refused."""

from __future__ import annotations

import json

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from napari_sa2net.errors import EvaluationError
from napari_sa2net.evaluation import evaluate_folders
from napari_sa2net.metrics import SCORES, evaluate

RGB = np.array([1, 2, 3], np.uint8)


def cells(seed):
    rng = np.random.default_rng(seed)
    labels = np.zeros((40, 40), np.uint16)
    for value, (y, x) in enumerate(rng.permutation(16)[:9, None] // [4, 1] % 4 * 10, start=1):
        labels[y + 1 : y + 7, x + 1 : x + 7] = value
    return labels


@pytest.fixture
def folders(tmp_path):
    """Four images: a and b perfect, c shifted, d with nothing found."""
    predicted, truth = tmp_path / "predicted", tmp_path / "truth"
    predicted.mkdir()
    truth.mkdir()
    arrays = {}
    for seed, name in enumerate("abcd"):
        true = cells(seed)
        found = {"a": true, "b": true, "c": np.roll(true, 2, 1), "d": true * 0}[name]
        tifffile.imwrite(truth / f"{name}.tif", true)
        tifffile.imwrite(predicted / f"{name}.tif", found.astype(np.int32))
        arrays[name] = found, true
    (predicted / "objects.csv").write_text("label\n1\n")
    (predicted / "extra").mkdir()
    return predicted, truth, arrays


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "index.csv"
    path.write_text(
        "split,name,kind,height\n"
        "test,a,fluo,40\ntest,c,fluo,40\ntest,d,rgb,40\ntrain,b,fluo,40\ntrain,absent,rgb,40\n"
    )
    return path


def expected(arrays, names):
    return evaluate([arrays[n][0] for n in names], [arrays[n][1] for n in names])


def test_every_truth_is_scored(folders):
    predicted, truth, arrays = folders
    report = evaluate_folders(predicted, truth)
    assert report.all.scores == expected(arrays, "abcd")
    assert report.all.n_images == 4
    assert report.all.n_truth == sum(t.max() for _, t in arrays.values())
    assert report.groups == ()
    assert report.images["c"].scores == expected(arrays, "c")


def test_only_the_split_is_scored_and_pooled_by_group(folders, index):
    predicted, truth, arrays = folders
    report = evaluate_folders(predicted, truth, index=index, split="test", group_by="kind")
    assert [(g.name, g.n_images) for g in report.groups] == [("fluo", 2), ("rgb", 1)]
    assert report.groups[0].scores == expected(arrays, "ac")
    assert report.groups[1].scores == expected(arrays, "d")
    assert report.all.scores == expected(arrays, "acd")
    assert report.groups[1].n_predicted == 0


def test_the_report_as_text_and_as_json(folders, index):
    predicted, truth, _ = folders
    report = evaluate_folders(predicted, truth, index=index, split="test", group_by="kind")
    lines = report.table().splitlines()
    assert lines[0].split() == ["group", "images", "truth", "found", *SCORES]
    assert [line.split()[0] for line in lines[1:]] == ["fluo", "rgb", "all"]
    assert lines[2].split()[4] == "0.000"
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["all"]["ap50"] == report.all.scores["ap50"]
    assert list(data["groups"]) == ["fluo", "rgb"]
    assert sorted(data["images"]) == ["a", "c", "d"]
    assert data["schema_version"] == 1


def test_formats_pair_by_stem(folders):
    predicted, truth, arrays = folders
    for name, write in (
        ("a", lambda p, x: iio.imwrite(p.with_suffix(".png"), x.astype(np.uint8))),
        ("b", lambda p, x: np.save(p.with_suffix(".npy"), x)),
        ("c", lambda p, x: tifffile.imwrite(p.with_suffix(".ome.tif"), x)),
        ("d", lambda p, x: tifffile.imwrite(p.with_suffix(".TIFF"), x)),
    ):
        (predicted / f"{name}.tif").unlink()
        write(predicted / f"{name}.tif", arrays[name][0])
    assert evaluate_folders(predicted, truth).all.scores == expected(arrays, "abcd")


def test_names_of_the_index_may_carry_an_ending(folders, tmp_path):
    predicted, truth, arrays = folders
    index = tmp_path / "files.csv"
    index.write_text("\ufeffname,kind\na.tif,\nc.tif,x\n", encoding="utf-8")
    report = evaluate_folders(predicted, truth, index=index, group_by="kind")
    assert [g.name for g in report.groups] == ["(none)", "x"]
    assert report.all.scores == expected(arrays, "ac")


def test_a_truth_without_a_cell_is_said(folders):
    predicted, truth, arrays = folders
    assert evaluate_folders(predicted, truth).notes == ()
    for name in arrays:
        tifffile.imwrite(truth / f"{name}.tif", np.zeros((40, 40), np.uint8))
    (note,) = evaluate_folders(predicted, truth).notes
    assert note.startswith("No file of")
    assert "holds a cell" in note


def test_progress_tells_each_image(folders):
    predicted, truth, _ = folders
    seen = []
    evaluate_folders(predicted, truth, progress=lambda *at: seen.append(at))
    assert seen == [(0, 4, "a"), (1, 4, "b"), (2, 4, "c"), (3, 4, "d"), (4, 4, "")]


# --- refused ---------------------------------------------------------------------------


def test_missing_predictions_are_named_and_counted(folders):
    predicted, truth, _ = folders
    for number in range(7):
        tifffile.imwrite(truth / f"more{number}.tif", cells(0))
    with pytest.raises(
        EvaluationError, match=r"7 predictions missing.*more0.*more4 and 2 more"
    ):
        evaluate_folders(predicted, truth)


def test_a_missing_truth_is_named(folders, index):
    predicted, truth, _ = folders
    with pytest.raises(EvaluationError, match=r"1 true labels missing.*absent"):
        evaluate_folders(predicted, truth, index=index, split="train")


def test_different_shapes_name_the_file(folders):
    predicted, truth, _ = folders
    tifffile.imwrite(predicted / "b.tif", np.zeros((40, 41), np.uint16))
    with pytest.raises(EvaluationError, match=r"b\.tif.*shape"):
        evaluate_folders(predicted, truth)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p: p.write_bytes(b"not a tiff"), "cannot be scored"),
        (lambda p: tifffile.imwrite(p, np.full((40, 40), 0.5)), "whole numbers"),
        (
            lambda p: tifffile.imwrite(p, np.eye(40, dtype="u1")[..., None] * RGB),
            "colour",
        ),
    ],
    ids=["damaged", "float", "colour"],
)
def test_unusable_files_are_named(folders, write, says):
    predicted, truth, _ = folders
    write(predicted / "b.tif")
    with pytest.raises(EvaluationError, match=rf"(?s)b\.tif.*{says}|{says}.*b\.tif"):
        evaluate_folders(predicted, truth)


def test_two_files_of_one_stem_are_refused(folders):
    predicted, truth, arrays = folders
    np.save(predicted / "a.npy", arrays["a"][0])
    with pytest.raises(EvaluationError, match=r"a\.npy and a\.tif"):
        evaluate_folders(predicted, truth)


def test_folders_that_are_missing_or_empty(folders, tmp_path):
    predicted, truth, _ = folders
    with pytest.raises(EvaluationError, match="does not exist"):
        evaluate_folders(tmp_path / "nowhere", truth)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="no label files"):
        evaluate_folders(predicted, tmp_path / "empty")


@pytest.mark.parametrize(
    ("text", "kwargs", "says"),
    [
        (None, {"split": "test"}, "needs an index"),
        (None, {"group_by": "kind"}, "needs an index"),
        ("name\na\n", {"split": "test"}, "no column split"),
        ("name\na\n", {"group_by": "kind"}, "no column kind; its columns are name"),
        ("file\na\n", {}, "no column name"),
        ("split,name\ntest,a\nval,b\n", {"split": "best"}, "'best'; its splits are test, val"),
        ("name\n", {}, "no row"),
        ("name\na\na\n", {}, "more than once"),
        ("", {}, "no column name; it is empty"),
    ],
)
def test_an_index_that_does_not_fit(folders, tmp_path, text, kwargs, says):
    predicted, truth, _ = folders
    if text is not None:
        kwargs = {**kwargs, "index": tmp_path / "i.csv"}
        kwargs["index"].write_text(text)
    with pytest.raises(EvaluationError, match=says):
        evaluate_folders(predicted, truth, **kwargs)


def test_an_index_that_is_not_there(folders, tmp_path):
    with pytest.raises(EvaluationError, match="cannot be read"):
        evaluate_folders(*folders[:2], index=tmp_path / "none.csv")
