"""Sets of corrections in and out."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest
import tifffile

from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.commit import Commit
from napari_sa2net.data.corrections import TrainingSet, export_corrections
from napari_sa2net.data.training_set import load_training_folder
from napari_sa2net.errors import CorrectionsError, OutputError, SA2NetError, TrainingDataError

ALL = ("active", "superseded", "removed")


@pytest.fixture
def training_set(tmp_path) -> TrainingSet:
    made = TrainingSet.open(tmp_path / "Satz eins", create=True)
    for seed in range(3):
        made.commit(a_commit(seed))
    return made


@pytest.fixture
def other(tmp_path) -> TrainingSet:
    return TrainingSet.open(tmp_path / "Satz zwei", create=True)


def a_commit(seed: int, **more) -> Commit:
    image, labels = synthetic_nuclei((40, 56), 4, 12, seed)
    return Commit(image, labels, **{"source": f"Präparat {seed}", "group": "g", **more})


@pytest.fixture
def plain(tmp_path):
    """Images and labels as other people keep them."""
    folder = tmp_path / "von Jürgen"
    for kind in ("images", "labels", "reviewed"):
        (folder / kind).mkdir(parents=True)
    for seed, kind in ((0, "fluo"), (1, "stained")):
        image, labels = synthetic_nuclei((40, 56), 4, 12, seed, kind)
        tifffile.imwrite(folder / "images" / f"Zelle {seed}.tif", image)
        np.save(folder / "labels" / f"Zelle {seed}.npy", labels)
    tifffile.imwrite(folder / "reviewed" / "Zelle 1.tif", (labels < 3).astype(np.uint8))
    return folder


def test_an_image_without_a_number_is_not_taken_in(training_set, other, plain) -> None:
    empty = np.full((40, 56), np.nan, np.float32)
    empty[3, 4] = np.inf
    tifffile.imwrite(plain / "images" / "Zelle 1.tif", empty)
    with pytest.raises(CorrectionsError, match="Zelle 1: The image has no number in it"):
        other.import_folder(plain)
    # nor from a set into which an earlier version took it
    taken = training_set.commits()[0]
    tifffile.imwrite(training_set.path / "images" / f"{taken.name}.tif", empty)
    with pytest.raises(CorrectionsError, match=f"{taken.name}: The image has no number in it"):
        other.import_folder(training_set.path)
    assert other.commits() == []
    # dead pixels are no reason
    empty[:20] = 1
    tifffile.imwrite(plain / "images" / "Zelle 1.tif", empty)
    assert len(other.import_folder(plain)) == 2


@pytest.mark.parametrize("name", ["Kopie ü", "Kopie ü.zip"])
def test_an_export_is_a_set_that_comes_in_again(training_set, other, tmp_path, name):
    records = training_set.commits()
    training_set.remove(records[0].id)
    target = training_set.export(tmp_path / name)
    if target.is_dir():
        assert len(load_training_folder(target)) == 2
        assert TrainingSet.open(target).commits() == records[1:]
    made = other.import_folder(target)
    assert made == records[1:]
    for record in records[1:]:
        assert (other.load(record.id).labels == training_set.load(record.id).labels).all()
    assert other.import_folder(target) == []
    assert other.commits(*ALL) == records[1:]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".part")]


def test_an_export_replaces_nothing_unasked(training_set, tmp_path):
    training_set.export(tmp_path / "a.zip")
    with pytest.raises(OutputError, match="exists already"):
        training_set.export(tmp_path / "a.zip")
    training_set.export(tmp_path / "a.zip", overwrite=True)
    with pytest.raises(OutputError, match="exists already"):
        training_set.export(training_set.path, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        training_set.export(tmp_path / "file" / "b")


def test_chosen_commits_are_exported(training_set, tmp_path):
    old = training_set.commits()[0]
    new = training_set.commit(a_commit(0))
    target = export_corrections(training_set, tmp_path / "one", identities=[old.id, old.id])
    (record,) = TrainingSet.open(target).commits()
    assert (record.id, record.state) == (old.id, "active")
    with pytest.raises(CorrectionsError, match="same place"):
        export_corrections(training_set, tmp_path / "two", identities=[old.id, new.id])
    empty = TrainingSet.open(tmp_path / "empty", create=True)
    with pytest.raises(CorrectionsError, match="no active commits"):
        empty.export(tmp_path / "three")


def test_of_two_sets_the_later_commit_of_a_place_counts(training_set, other, tmp_path):
    exported = training_set.export(tmp_path / "a.zip")
    mine = other.commit(a_commit(1))
    path = other.path / "corrections.json"
    path.write_text(path.read_text().replace(mine.time, "2999-01-01T00:00:00Z"))
    other.import_folder(exported)
    names = {r.source.name: (r.id, r.state) for r in other.commits()}
    assert names["Präparat 1"] == (mine.id, "active")
    assert len(names) == 3
    assert [r.state for r in other.commits("superseded")] == ["superseded"]


def test_plain_images_and_labels_are_taken_in(other, plain):
    (plain / "index.csv").write_text(
        "split,name,kind,group\nval,Zelle 0,fluo,Schale\ntrain,Zelle 1,stained,\n"
    )
    records = other.import_folder(plain, group="dish 7")
    assert [(r.source.name, r.split, r.kind, r.group) for r in records] == [
        ("Zelle 0", "val", "fluo", "Schale"),
        ("Zelle 1", "train", "stained", "dish 7"),
    ]
    assert records[0].reviewed_share == 1
    data = other.load(records[1].id)
    assert (data.reviewed == (data.labels < 3)).all()
    assert data.image.shape == (40, 56, 3)
    assert {i.kind for i in load_training_folder(other.path)} == {"fluo", "stained"}

    # Again: nothing new, not even over what was corrected since.
    corrected = Commit(
        data.image,
        np.where(data.labels == 1, 9, data.labels),
        source="Zelle 1",
        fingerprint=records[1].source.fingerprint,
    )
    mine = other.commit(corrected)
    assert other.import_folder(plain) == []
    assert mine.id in {r.id for r in other.commits()}


@pytest.mark.parametrize("below", ["", "set/"])
def test_a_zip_of_plain_images_is_taken_in(other, plain, tmp_path, below):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for path in plain.rglob("*.*"):
            archive.write(path, below + path.relative_to(plain).as_posix())
        archive.writestr(f"{below}images/../../../escaped.tif", b"x")
        archive.writestr(f"__MACOSX/{below}._images", b"x")
    records = other.import_folder(tmp_path / "z.zip")
    assert len(records) == 2
    assert records[0].source.path.endswith("z.zip")
    assert not list(tmp_path.parent.rglob("escaped.tif"))


def test_a_bad_source_changes_nothing(other, plain, training_set, tmp_path):
    np.save(plain / "labels" / "Zelle 1.npy", np.zeros((3, 3), int))
    with pytest.raises(TrainingDataError, match=r"Zelle 1.*same height"):
        other.import_folder(plain)
    np.save(plain / "labels" / "Zelle 1.npy", np.full((40, 56), 0.5))
    with pytest.raises(TrainingDataError, match=r"Zelle 1.*whole numbers"):
        other.import_folder(plain)
    tifffile.imwrite(plain / "images" / "Zelle 1.tif", np.zeros((5, 40, 56), np.uint8))
    with pytest.raises(TrainingDataError, match="stack"):
        other.import_folder(plain)
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(CorrectionsError, match="not a zip"):
        other.import_folder(tmp_path / "bad.zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(CorrectionsError, match="holds no training images"):
        other.import_folder(tmp_path / "empty.zip")
    with pytest.raises(CorrectionsError, match="into itself"):
        other.import_folder(other.path)
    with pytest.raises(SA2NetError, match="not a folder"):
        other.import_folder(tmp_path / "nowhere")
    record = training_set.commits()[1]
    os.unlink(training_set.path / "labels" / f"{record.name}.tif")
    with pytest.raises(CorrectionsError, match="gone"):
        other.import_folder(training_set.path)
    assert other.commits(*ALL) == []
    assert not list(other.path.rglob("*.tif"))
