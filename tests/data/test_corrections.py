"""Commits of corrected labels: kept, listed, undone, and never half there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_sa2net import provenance
from napari_sa2net.data import read_image, synthetic_nuclei
from napari_sa2net.data.commit import (
    MANIFEST,
    Commit,
    Manifest,
    Seen,
    checked_commit,
    file_stem,
    find_record,
    locate,
    pick_channels,
)
from napari_sa2net.data.corrections import TrainingSet, import_into, with_former
from napari_sa2net.data.training_set import load_training_folder, read_truth, split_items
from napari_sa2net.errors import (
    CommitNotFoundError,
    CorrectionsError,
    OutputError,
    SA2NetError,
    TrainingDataError,
)
from napari_sa2net.provenance import image_fingerprint

ALL = ("active", "superseded", "removed")


@pytest.fixture
def training_set(tmp_path) -> TrainingSet:
    return TrainingSet.open(tmp_path / "Übung, Körner 3", create=True)


def a_commit(seed: int = 0, **more) -> Commit:
    image, labels = synthetic_nuclei((40, 56), 4, 12, seed)
    return Commit(image, labels, **{"source": f"Präparat {seed}", **more})


def files_of(training_set: TrainingSet) -> set[str]:
    root = training_set.path
    return {p.relative_to(root).as_posix() for p in root.rglob("*.tif")}


# --- what is kept --------------------------------------------------------------------------


def test_a_commit_is_a_folder_that_people_can_read_and_train_on(training_set):
    image, labels = synthetic_nuclei((40, 56), 4, 12)
    reviewed = labels < 3
    record = training_set.commit(
        Commit(
            image,
            labels,
            reviewed,
            source="Präparat 1: Zellkerne/oben",
            path="/data/p1.tif",
            fingerprint="f1",
            index=(2, 7),
            box=(10, 50, 0, 56),
            levels=[(3, 900)],
            pixel_size_um=0.25,
            parent="nuclei",
            parent_sha256="ab" * 32,
            group=" Schale 1 ",
            notes="erste",
            n_edits=7,
        )
    )
    assert record.n_objects == 4
    assert record.n_reviewed == 2
    assert record.reviewed_share == pytest.approx(reviewed.mean(), abs=1e-6)
    name = f"Präparat 1_ Zellkerne_oben_2-7_{record.id[:8]}"
    assert record.name == name
    assert files_of(training_set) == {
        f"{k}/{name}.tif" for k in ("images", "labels", "reviewed")
    }

    manifest = json.loads((training_set.path / MANIFEST).read_text(encoding="utf-8"))
    assert manifest["schema_version"] == 1
    entry = manifest["commits"][0]
    assert entry["parent"] == {"name": "nuclei", "sha256": "ab" * 32}
    assert entry["box"] == [10, 50, 0, 56]
    assert entry["group"] == "Schale 1"
    assert entry["time"].endswith("Z")

    path = training_set.path / "images" / f"{name}.tif"
    assert (tifffile.imread(path) == image).all()
    assert read_image(path).pixel_size_um == pytest.approx(0.25)
    assert tifffile.imread(training_set.path / "labels" / f"{name}.tif").dtype == np.uint16
    data = TrainingSet.open(training_set.path).load(record.id)
    assert (data.image == image).all()
    assert (data.labels == labels).all()
    assert data.labels.dtype == np.int32
    assert (data.reviewed == reviewed).all()
    assert data.record == record

    (item,) = load_training_folder(training_set.path)
    assert (item.name, item.group, item.commit) == (name, "Schale 1", record.id)
    assert item.levels == ((3.0, 900.0),)
    assert item.reviewed is not None


@pytest.mark.parametrize(
    ("image", "axes", "kept"),
    [
        (np.linspace(-1, 1, 20).reshape(4, 5).astype(np.float32), None, "YX"),
        (np.where(np.eye(4, 5), np.nan, 3.0), None, "YX"),
        (np.arange(20).reshape(4, 5) > 7, None, "YX"),
        (np.arange(20, dtype=np.int64).reshape(4, 5) << 40, None, "YX"),
        (np.arange(60, dtype=np.uint8).reshape(4, 5, 3), None, "YXC"),
        (np.arange(80, dtype=np.uint16).reshape(4, 5, 4), None, "YXC"),
        (np.arange(60, dtype=np.float64).reshape(4, 5, 3), None, "YXC"),
        (np.arange(40, dtype=np.uint16).reshape(4, 5, 2), "YXC", "CYX"),
        (np.arange(60, dtype=np.uint16).reshape(3, 4, 5), "CYX", "CYX"),
        (np.arange(20, dtype=np.uint16).reshape(1, 4, 5), "CYX", "CYX"),
    ],
)
def test_every_kind_of_image_comes_back_as_it_was(training_set, image, axes, kept):
    labels = np.zeros((4, 5), np.int32)
    labels[1, 2] = 2**31 - 1
    record = training_set.commit(Commit(image, labels, axes=axes))
    data = training_set.load(record.id)
    assert record.axes == kept
    same = np.moveaxis(image, 2, 0) if kept != (axes or kept) else image
    np.testing.assert_array_equal(data.image, same)
    assert data.image.dtype == (np.uint8 if image.dtype == bool else image.dtype)
    assert data.labels[1, 2] == 2**31 - 1
    # What the trainer reads has the axes that were meant.
    assert read_image(training_set.path / "images" / f"{record.name}.tif").axes == kept


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": np.zeros((3, 3), int)}, "same height and width"),
        ({"labels": np.zeros((40, 56))}, "whole numbers"),
        ({"labels": np.full((40, 56), -1)}, "must lie in"),
        ({"reviewed": np.zeros((40, 56), bool)}, "Nothing is marked as reviewed"),
        ({"reviewed": np.ones((2, 2), bool)}, "same height and width"),
        ({"image": np.zeros((3, 40, 56))}, "one plane"),
        ({"image": np.zeros((40, 56), complex)}, "real numbers"),
        ({"box": (0, 40, 0, 10)}, "box"),
        ({"box": (0, 10, 0, 56)}, "box"),
        *(({"pixel_size_um": size}, f"{size} µm") for size in (0.0, -0.5, np.nan, np.inf)),
        ({"image": np.full((40, 56), np.nan)}, "no number in it"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_words(training_set, changes, words):
    image, labels = synthetic_nuclei((40, 56), 4, 12)
    with pytest.raises(CorrectionsError, match=words):
        training_set.commit(Commit(**{"image": image, "labels": labels, **changes}))
    assert not files_of(training_set)
    assert training_set.commits(*ALL) == []


@pytest.mark.parametrize("name", ["x" * 500, "é" * 300, "x" * 110, "細胞" * 18])
def test_files_keep_as_much_of_a_long_name_as_an_encrypted_folder_takes(name):
    """143 bytes, of which place and number take some."""
    stem = file_stem(name, (12, 345), "0123456789ab")
    assert len(f"{stem}.tif".encode()) <= 143
    kept = stem.removesuffix("_12-345_01234567")
    assert name.startswith(kept)
    assert len(kept.encode()) > 100


@pytest.mark.parametrize(
    "name", ["", "...", "a/b\\c:d*?", "CON", "x" * 500, "é" * 300, "\ud800"]
)
def test_any_name_becomes_a_file(training_set, name):
    stem = file_stem(name, (), "0123456789ab")
    assert len(f"{stem}.tif".encode()) < 200
    record = training_set.commit(a_commit(source=name.encode("utf-8", "replace").decode()))
    assert training_set.load(record.id).labels.any()


# --- undoing -------------------------------------------------------------------------------


def test_a_cell_that_is_cut_is_reviewed_where_most_of_it_is(training_set):
    labels = np.zeros((20, 40), np.int32)
    labels[5:15, 0:10], labels[5:15, 12:22], labels[5:15, 30:40] = 1, 2, 3
    reviewed = np.zeros(labels.shape, bool)
    reviewed[:, :16] = True  # all of the first, 4 of 10 columns of the second
    image = np.zeros(labels.shape, np.uint8)
    assert training_set.commit(Commit(image, labels, reviewed)).n_reviewed == 1
    reviewed[:, :18] = True
    record = training_set.commit(Commit(image, labels, reviewed, index=(1,)))
    assert (record.n_reviewed, record.n_objects) == (2, 3)


def test_a_later_commit_supersedes_and_revert_restores_the_one_before(training_set):
    first = training_set.commit(a_commit())
    other = training_set.commit(a_commit(1))
    second = training_set.commit(a_commit(n_edits=2))
    third = training_set.commit(a_commit(n_edits=3))
    states = {r.id: r.state for r in training_set.commits(*ALL)}
    assert states[first.id] == states[second.id] == "superseded"
    assert [r.id for r in training_set.commits()] == [other.id, third.id]
    assert f"earlier/labels/{first.name}.tif" in files_of(training_set)
    assert {i.commit for i in load_training_folder(training_set.path)} == {other.id, third.id}

    assert training_set.revert(third.id).id == second.id
    assert training_set.revert(second.id).id == first.id
    with pytest.raises(CorrectionsError, match="no commit before"):
        training_set.revert(first.id)
    with pytest.raises(CorrectionsError, match="only an active"):
        training_set.revert(third.id)
    assert f"images/{first.name}.tif" in files_of(training_set)
    assert f"trash/images/{third.name}.tif" in files_of(training_set)

    training_set.restore(third.id)
    states = {r.id: r.state for r in training_set.commits(*ALL)}
    assert states == {
        first.id: "superseded",
        other.id: "active",
        second.id: "removed",
        third.id: "active",
    }
    assert all(training_set.load(identity).labels.any() for identity in states)


@pytest.mark.parametrize(
    "more", [{"index": (1,)}, {"box": (0, 40, 0, 56)}, {"fingerprint": "x"}]
)
def test_other_planes_boxes_and_images_are_other_places(training_set, more):
    training_set.commit(a_commit())
    training_set.commit(a_commit(**more))
    assert len(training_set.commits()) == 2


def test_removed_commits_rest_in_the_trash(training_set):
    record = training_set.commit(a_commit())
    assert training_set.remove(record.id[:5]).state == "removed"
    assert files_of(training_set) == {
        f"trash/{kind}/{record.name}.tif" for kind in ("images", "labels", "reviewed")
    }
    with pytest.raises(CorrectionsError, match="already"):
        training_set.remove(record.id)
    with pytest.raises(TrainingDataError, match="no corrections yet"):
        load_training_folder(training_set.path)
    training_set.restore(record.id)
    assert training_set.load(record.id).record.state == "active"

    training_set.remove(record.id)
    shutil.rmtree(training_set.path / "trash")
    with pytest.raises(CommitNotFoundError, match="gone"):
        training_set.restore(record.id)
    assert not training_set.is_complete(training_set.find(record.id))


@pytest.mark.parametrize("moves", [1, 2, 3])
def test_files_that_another_window_moves_are_looked_for_again(training_set, monkeypatch, moves):
    """Twice: what goes on moving ends in an error, not in waiting."""
    record = training_set.commit(a_commit())
    other, real, read = TrainingSet.open(training_set.path), read_image, []

    def moved_first(path):
        read.append(path.parent.parent.name)
        if len(read) <= moves:
            (other.restore if path.parent.parent.name == "trash" else other.remove)(record.id)
        return real(path)

    monkeypatch.setattr("napari_sa2net.data.io.read_image", moved_first)
    if moves == 3:
        with pytest.raises(SA2NetError, match="There is no file"):
            training_set.load(record.id)
        assert len(read) == 3
    else:
        data = training_set.load(record.id)
        assert data.labels.max() == 4
        assert data.image.shape == (40, 56)
        assert len(read) == moves + 3


def test_ids_may_be_shortened_as_long_as_they_are_clear(training_set):
    records = [training_set.commit(a_commit(seed)) for seed in range(2)]
    assert training_set.find(records[0].name).id == records[0].id
    for nothing in ("", "zzz"):
        with pytest.raises(CommitNotFoundError, match="corrections list DIR --all"):
            training_set.find(nothing)
    one, other = (
        record.model_copy(update={"id": f"ab{i}", "name": f"n{i}"})
        for i, record in enumerate(records)
    )
    clash = Manifest(commits=(one, other.model_copy(update={"name": "ab"})))
    for said, found in (("ab0", "ab0"), ("ab1", "ab1"), ("n0", "ab0"), ("ab", "ab1")):
        assert find_record(clash, said).id == found
    with pytest.raises(CommitNotFoundError, match="Several commits begin with 'ab'; give more"):
        find_record(Manifest(commits=(one, other)), "ab")


@pytest.mark.parametrize(
    ("channels", "image", "axes", "picked"),
    [
        ((0,), np.arange(6).reshape(2, 3), "YX", ((2, 3), "YX")),
        ((1,), np.arange(12).reshape(2, 2, 3), "CYX", ((2, 3), "YX")),
        ((1, 0), np.arange(12).reshape(2, 2, 3), "CYX", ((2, 2, 3), "CYX")),
        ((2, 0, 1), np.arange(24).reshape(4, 2, 3), "CYX", ((3, 2, 3), "CYX")),
        ((2, 1, 0), np.arange(18).reshape(2, 3, 3), "YXC", ((2, 3, 3), "YXC")),
        ((2, 0), np.arange(18).reshape(2, 3, 3), "YXC", ((2, 2, 3), "CYX")),
        ((2,), np.arange(18).reshape(2, 3, 3), "YXC", ((2, 3), "YX")),
    ],
)
def test_channels_of_a_plane_are_picked_in_their_order(channels, image, axes, picked):
    values, named = pick_channels(image, axes, channels)
    assert (values.shape, named) == picked
    at, to = axes.find("C"), named.find("C")
    for n, channel in enumerate(channels):
        expected = image if at < 0 else image.take(channel, axis=at)
        np.testing.assert_array_equal(values if to < 0 else values.take(n, axis=to), expected)


@pytest.mark.parametrize(("channels", "axes"), [((1,), "YX"), ((3,), "YXC"), ((2,), "CYX")])
def test_a_channel_that_there_is_not_is_refused(channels, axes):
    image = np.zeros({"YX": (2, 3), "YXC": (2, 3, 3), "CYX": (2, 2, 3)}[axes])
    with pytest.raises(CorrectionsError, match="channel"):
        pick_channels(image, axes, channels)


@pytest.mark.parametrize(
    ("image", "channels", "n_channels"),
    [
        ({"axes": "YX", "shape": [5, 6], "channels": [0]}, (0,), 1),
        ({"axes": "CYX", "shape": [4, 5, 6], "channels": [2, 0]}, (2, 0), 4),
        ({"axes": "ZCYX", "shape": [7, 2, 5, 6], "channels": [1]}, (1,), 2),
        ({"axes": "CYX", "shape": [5, 6], "channels": [0]}, (0,), 0),
        ({"axes": "CYX", "shape": [4, 5, 6]}, (), 0),
        ({"channels": [1]}, (1,), 1),
        ({}, (), 0),
    ],
)
def test_channels_of_the_whole_image_are_counted_where_all_is_known(
    image, channels, n_channels
):
    seen = Seen(image=image)
    assert (seen.channels, seen.n_channels) == (channels, n_channels)


def test_levels_of_a_plane_are_found_along_the_axes_they_change_along():
    one = Seen(image={"levels": [[1, 9]]})
    assert one.levels_of(()) == one.levels_of((3, 4)) == [[1, 9]]
    assert Seen().levels_of((1,)) == ()
    assert Seen(image={"levels": 3}).levels_of((1,)) == ()
    by = {"0-1": [[1, 9]], "2-1": [[2, 8]], "2-5": [[3, 7]]}
    both = Seen(image={"axes": "TZCYX", "levels_along": "TZ", "levels": by})
    assert both.levels_of((2, 1)) == [[2, 8]]
    assert both.levels_of((2, 5)) == [[3, 7]]
    assert both.levels_of((1, 2)) == ()
    last = Seen(
        image={"axes": "TZYX", "levels_along": "Z", "levels": {"1": [[4, 6]], "3": [[2, 5]]}}
    )
    assert last.levels_of((3, 1)) == [[4, 6]]
    assert last.levels_of((1, 3)) == [[2, 5]]
    assert last.levels_of((1, 2)) == ()


def test_what_another_version_wrote_of_settings_is_passed_over():
    seen = Seen(input={"channel_order": "any", "of_later": 3}, predict={"overlap": "wide"})
    assert seen.expects.channel_order == "any"
    assert seen.predicted == Seen().predicted
    assert seen.normalize
    assert not Seen(image={"normalize": False}).normalize


def test_what_was_reviewed_before_stays_where_nothing_is_reviewed_now(training_set):
    """Cells of before that were reviewed anew in part go; numbers are told apart."""
    former = np.array([[1, 1, 2, 2, 0, 3, 0, 5]] * 2)
    record = training_set.commit(
        Commit(
            former,
            former,
            np.array([[1, 1, 1, 1, 1, 1, 0, 0]] * 2, bool),
            source="a",
        )
    )
    now = np.array([[0, 0, 7, 0, 0, 7, 7, 0]] * 2)
    reviewed = np.array([[0, 0, 1, 0, 0, 0, 0, 0]] * 2, bool)
    labels, mask = with_former(now, reviewed, training_set.load(record.id))
    # of before: cell 1, background and cell 3; of 2 a part is reviewed anew, 5 never was
    assert mask[0].tolist() == [True, True, True, False, True, True, False, False]
    assert (labels[0] > 0).tolist() == [True, True, True, False, False, True, True, False]
    assert labels[0, 0] == labels[0, 1]
    assert len({*labels[0, [0, 2, 5]].tolist()}) == 3


def test_a_new_commit_goes_on_from_those_that_are_known(training_set):
    first = training_set.commit(a_commit())
    assert training_set.latest("Präparat 0", ()) == first
    assert training_set.latest("Präparat 0", (1,)) is None
    assert training_set.latest("Präparat 0", (), (0, 40, 0, 56)) is None
    assert training_set.latest("another", ()) is None
    assert training_set.former(a_commit(), []) == first
    assert training_set.former(a_commit(), [first.id]) is None
    assert training_set.former(a_commit(index=(2,)), []) is None
    marked = training_set.commit(a_commit(fingerprint="f"))
    assert training_set.former(a_commit(fingerprint="f"), [first.id]) == marked
    assert training_set.former(a_commit(1, fingerprint="f"), []) == marked
    training_set.remove(first.id)
    assert training_set.latest("Präparat 0", ()) is None


# --- what trains ---------------------------------------------------------------------------


def test_crops_and_planes_of_one_image_are_never_torn_apart(training_set):
    for seed in range(6):
        for index in range(3):
            training_set.commit(a_commit(seed, index=(index,)))
    items = load_training_folder(training_set.path)
    training, validation = split_items(items, 0.2)
    assert len(items) == 18
    assert not {i.group for i in training} & {i.group for i in validation}


def test_a_new_correction_follows_the_side_of_its_group(training_set):
    training_set.commit(a_commit(0, split="val", group="dish"))
    training_set.commit(a_commit(1, group="dish"))
    training_set.commit(a_commit(2))
    sides = {i.name[:10]: i.split for i in load_training_folder(training_set.path)}
    assert sides == {"Präparat 0": "val", "Präparat 1": "val", "Präparat 2": ""}


def test_only_what_the_manifest_lists_is_trained_on(training_set):
    record = training_set.commit(a_commit())
    tifffile.imwrite(training_set.path / "images" / "stray.tif", np.zeros((3, 3), np.uint8))
    (training_set.path / "index.csv").write_text("split,name\ntrain,stray\n")
    assert [i.commit for i in load_training_folder(training_set.path)] == [record.id]
    TrainingSet.open(training_set.path)
    assert "images/stray.tif" in files_of(training_set), "a stranger's file was deleted"


# --- opening -------------------------------------------------------------------------------


def test_opening_what_is_no_set_says_what_to_do(tmp_path):
    with pytest.raises(CorrectionsError, match="not there"):
        TrainingSet.open(tmp_path / "nowhere")
    with pytest.raises(CorrectionsError, match="holds no corrections"):
        TrainingSet.open(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.tif").write_bytes(b"x")
    with pytest.raises(CorrectionsError, match="import this one"):
        TrainingSet.open(tmp_path, create=True)
    with pytest.raises(OutputError):
        TrainingSet.open(tmp_path / "images" / "a.tif", create=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:-30], r"damaged \((Expecting|Unterminated|Invalid) .*line"),
        (lambda text: b"[]", r"damaged \(list indices must be"),
        (lambda text: b"{}", r"damaged \(schema_version is missing\)"),
        (lambda text: b"", r"damaged \(Expecting value: line 1"),
        (lambda text: text.replace(b'"active"', b'"asleep"'), "damaged.*state"),
        (lambda text: text.replace(b'"name": "Pr', b'"name": "../../Pr'), "damaged.*name"),
        (lambda text: text.replace(b'"schema_version": 1', b'"schema_version": 2'), "newer"),
    ],
)
def test_a_damaged_or_newer_manifest_is_never_written_over(training_set, change, words):
    training_set.commit(a_commit())
    path = training_set.path / MANIFEST
    damaged = change(path.read_bytes())
    path.write_bytes(damaged)
    for act in (
        lambda: TrainingSet.open(training_set.path),
        lambda: TrainingSet.open(training_set.path, create=True),
        lambda: training_set.commit(a_commit(1)),
        lambda: load_training_folder(training_set.path),
    ):
        with pytest.raises(CorrectionsError, match=words):
            act()
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("twice", ["id", "name"])
def test_a_manifest_that_lists_a_commit_twice_is_refused(training_set, twice):
    """Names are files, and some systems do not tell A from a."""
    for seed in range(2):
        training_set.commit(a_commit(seed))
    path = training_set.path / MANIFEST
    content = json.loads(path.read_bytes())
    first, second = content["commits"]
    second[twice] = first[twice] if twice == "id" else first[twice].upper()
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CorrectionsError, match="lists a commit twice"):
        TrainingSet.open(training_set.path)


def test_what_is_gone_is_told_from_a_file_that_is(training_set):
    record = training_set.commit(a_commit())
    with pytest.raises(CorrectionsError, match="is active already"):
        training_set.restore(record.id)
    (training_set.path / "labels" / f"{record.name}.tif").unlink()
    with pytest.raises(CommitNotFoundError, match=r"labels/.* is gone\. Bring"):
        training_set.load(record.id)
    shutil.rmtree(training_set.path)
    with pytest.raises(CorrectionsError) as caught:
        locate(training_set.path, record, "labels")
    assert "Bring the file back" not in str(caught.value)
    assert str(training_set.path) in str(caught.value)


def test_entries_of_others_stay_in_the_manifest(training_set):
    training_set.commit(a_commit())
    path = training_set.path / MANIFEST
    content = json.loads(path.read_bytes())
    content["commits"][0]["seen by"] = "Zoë"
    content["lab"] = "B 4"
    path.write_text(json.dumps(content), encoding="utf-8")
    training_set.commit(a_commit(1))
    content = json.loads(path.read_bytes())
    assert content["lab"] == "B 4"
    assert content["commits"][0]["seen by"] == "Zoë"


def test_labels_changed_from_outside_to_another_size_are_noticed(training_set):
    record = training_set.commit(a_commit())
    tifffile.imwrite(training_set.path / "labels" / f"{record.name}.tif", np.ones((3, 3), "u2"))
    with pytest.raises(CorrectionsError, match="do not fit"):
        training_set.load(record.id)


# --- several windows -----------------------------------------------------------------------


def test_two_windows_both_keep_their_commits(training_set):
    other = TrainingSet.open(training_set.path)
    first = training_set.commit(a_commit(0))
    second = other.commit(a_commit(1))
    assert [r.id for r in training_set.commits()] == [first.id, second.id]
    other.remove(first.id)
    assert [r.id for r in training_set.commits()] == [second.id]


def test_many_windows_at_once(training_set):
    code = (
        "import sys, numpy as np\n"
        "from napari_sa2net.data.commit import Commit\n"
        "from napari_sa2net.data.corrections import TrainingSet\n"
        "for i in range(6):\n"
        "    s = TrainingSet.open(sys.argv[1])\n"
        "    s.commit(Commit(np.zeros((8, 9), 'u1'), np.ones((8, 9), int), "
        "source=f'{sys.argv[2]} {i}'))\n"
    )
    command = [sys.executable, "-c", code, str(training_set.path)]
    windows = [subprocess.Popen([*command, f"window {i}"]) for i in range(2)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda seed: training_set.commit(a_commit(seed)), range(12)))
    assert [window.wait(60) for window in windows] == [0, 0]
    records = training_set.commits()
    assert len(records) == 24
    assert {r.id for r in made} <= {r.id for r in records}
    assert all(training_set.is_complete(record) for record in records)


# --- trouble -------------------------------------------------------------------------------


def test_what_a_crash_left_is_cleared_away(training_set):
    record = training_set.commit(a_commit())
    before = files_of(training_set)
    root = training_set.path
    for kind in ("images", "labels"):
        (root / kind / "half_00000000.tif").write_bytes(b"half")
    (root / "labels" / ".part-abc").write_bytes(b"half")
    note = {
        "ids": ["000000000000"],
        "files": [f"{k}/half_00000000.tif" for k in ("images", "labels", "reviewed")],
    }
    (root / ".pending-000000000000.json").write_text(json.dumps(note))
    # A note that a crash after the manifest's rename left must not take the commit along.
    done = {"ids": [record.id], "files": [f"images/{record.name}.tif"]}
    (root / ".pending-1.json").write_text(json.dumps(done))
    (root / ".pending-2.json").write_text("{")
    left = {path.name: path.read_bytes() for path in root.glob(".pending-*.json")}
    TrainingSet.open(root)
    assert files_of(training_set) == before
    assert sorted(p.name for p in root.iterdir() if p.name.startswith(".")) == [".lock"]
    # another window that broke off meanwhile, before the next change of this one
    for name, content in left.items():
        (root / name).write_bytes(content)
    (root / "images" / "half_00000000.tif").write_bytes(b"half")
    training_set.remove(record.id)
    assert files_of(training_set) == {f"trash/{name}" for name in before}
    assert sorted(p.name for p in root.iterdir() if p.name.startswith(".")) == [".lock"]


def test_files_left_in_the_wrong_place_are_found_and_moved(training_set):
    record = training_set.commit(a_commit())
    root = training_set.path
    (root / "trash" / "labels").mkdir(parents=True)
    os.replace(
        root / "labels" / f"{record.name}.tif", root / "trash" / "labels" / f"{record.name}.tif"
    )
    assert load_training_folder(root)[0].labels.is_file()
    assert TrainingSet.open(root).load(record.id).labels.any()
    assert (root / "labels" / f"{record.name}.tif").is_file()


@pytest.mark.parametrize("when", range(1, 11))
def test_a_disk_that_fills_up_leaves_the_set_as_it_was(training_set, monkeypatch, when):
    first = training_set.commit(a_commit())
    before, manifest = files_of(training_set), (training_set.path / MANIFEST).read_bytes()
    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == when:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            training_set.commit(a_commit(n_edits=2))
    if when < 10:
        assert (training_set.path / MANIFEST).read_bytes() == manifest
        assert files_of(training_set) == before
    else:  # the folder's flush after the rename: the commit is there, and whole
        assert [r.n_edits for r in training_set.commits()] == [2]
        assert training_set.revert(training_set.commits()[0].id).id == first.id
        return
    assert [p.name for p in training_set.path.iterdir() if p.name.startswith(".")] == [".lock"]
    assert training_set.commits(*ALL) == [first]
    second = training_set.commit(a_commit(n_edits=2))
    assert training_set.revert(second.id).id == first.id


def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        training_set = TrainingSet.open(disk / "set", create=True)
        rng = np.random.default_rng(0)
        kept = []
        labels = np.ones((100, 100), int)

        def fill() -> None:
            for number in range(100):
                noise = rng.integers(0, 65535, (100, 100)).astype(np.uint16)
                kept.append(training_set.commit(Commit(noise, labels, source=f"n {number}")))

        with pytest.raises(OutputError, match="No space left"):
            fill()
        assert 3 < len(kept) < 20
        again = TrainingSet.open(disk / "set")
        assert [r.id for r in again.commits()] == [r.id for r in kept]
        assert all(again.load(r.id).labels.all() for r in kept)
        assert len(files_of(again)) == 3 * len(kept)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="POSIX only")
def test_a_read_only_folder_can_be_read():
    # Not below pytest's own folder, into which no other user may look.
    root = Path(tempfile.mkdtemp(prefix="sa2net ro "))
    euid = os.geteuid()
    try:
        root.chmod(0o755)
        training_set = TrainingSet.open(root / "set", create=True)
        record = training_set.commit(a_commit())
        for path in [root / "set", *(root / "set").rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if euid == 0:
            os.seteuid(65534)
        again = TrainingSet.open(root / "set")
        assert again.load(record.id).labels.any()
        assert len(load_training_folder(root / "set")) == 1
        for act in (lambda: again.commit(a_commit(1)), lambda: again.remove(record.id)):
            with pytest.raises(OutputError, match="may be written"):
                act()
    finally:
        os.seteuid(euid)
        for path in [root / "set", *(root / "set").rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(root)


def test_a_folder_deleted_in_mid_work_stays_deleted(training_set, monkeypatch):
    record = training_set.commit(a_commit())
    shutil.rmtree(training_set.path)
    for act in (
        lambda: training_set.commit(a_commit(1)),
        lambda: training_set.remove(record.id),
        lambda: training_set.load(record.id),
        training_set.commits,
    ):
        with pytest.raises(CorrectionsError, match="is not there"):
            act()
    assert not training_set.path.exists()


@pytest.mark.parametrize("when", [1, 2, 5])
@pytest.mark.parametrize("between", [False, True])
def test_a_folder_deleted_while_it_is_written(training_set, monkeypatch, when, between):
    """Before a file takes its place, or between two files."""
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == when and not between:
            shutil.rmtree(training_set.path)
        real(source, target)
        if len(calls) == when and between:
            shutil.rmtree(training_set.path)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(CorrectionsError, match="is not there"):
        training_set.commit(a_commit(1))
    assert not training_set.path.exists()


def test_errors_are_all_of_one_family():
    assert issubclass(CommitNotFoundError, CorrectionsError)
    assert issubclass(CorrectionsError, TrainingDataError)
    assert issubclass(CorrectionsError, SA2NetError)


# --- telling images apart ------------------------------------------------------------------


def test_a_fingerprint_is_of_the_pixels_and_not_of_how_they_are_held(tmp_path, monkeypatch):
    import zarr

    monkeypatch.setattr(provenance, "MAX_PIXELS", 60_000)
    stack = np.random.default_rng(0).integers(0, 9, (7, 300, 250)).astype(np.uint8)
    held = zarr.create_array(tmp_path / "z", shape=stack.shape, dtype=stack.dtype)
    held[:] = stack
    marks = {image_fingerprint(one) for one in (stack, np.asfortranarray(stack), held)}
    assert len(marks) == 1
    assert image_fingerprint(stack + np.uint8(1)) not in marks
    assert image_fingerprint(stack[:6]) not in marks
    small = stack[0, :50, :60]
    changed = small.copy()
    changed[17, 23] += 1
    assert image_fingerprint(small) != image_fingerprint(changed)
    assert image_fingerprint(small) != image_fingerprint(small.astype(np.uint16))
    assert image_fingerprint(np.zeros((0, 5))) != image_fingerprint(np.zeros((5, 0)))


@pytest.mark.parametrize("has_copy", [True, False])
def test_the_way_out_of_a_damaged_manifest_works(tmp_path, has_copy):
    folder = tmp_path / "mein Satz"
    training_set = TrainingSet.open(folder, create=True)
    _, labels = synthetic_nuclei((40, 56), 4, 12, 0)
    records = [
        training_set.commit(Commit(labels * 9 + i, labels, labels > 1, source=f"s{i}"))
        for i in range(2)
    ]
    manifest, copy = folder / "corrections.json", folder / "corrections.json.bak"
    manifest.write_text('{"schema_version": 1, "comm')
    if not has_copy:
        copy.unlink()
    with pytest.raises(CorrectionsError) as damaged:
        TrainingSet.open(folder)
    if has_copy:
        assert "Delete corrections.json and rename corrections.json.bak" in str(damaged.value)
        manifest.unlink()
        copy.rename(manifest)
        assert [r.id for r in TrainingSet.open(folder).commits()] == [r.id for r in records]
        return
    assert f"sa2net corrections import NEW '{folder}'" in str(damaged.value)
    manifest.rename(folder / "old.json")
    fresh, again = import_into(tmp_path / "NEW", folder)
    assert len(again) == 2
    assert (fresh.load(again[0].id).reviewed == (labels > 1)).all()


def _nine() -> np.ndarray:
    labels = np.zeros((96, 96), np.int32)
    for number in range(9):
        y, x = 8 + 30 * (number // 3), 8 + 30 * (number % 3)
        labels[y : y + 14, x : x + 12] = number + 1
    return labels


def test_cells_that_are_left_out_are_not_counted_as_reviewed(tmp_path):
    labels = np.where(_nine() == 9, 1, _nine())
    for part, array in (("images", labels.astype(np.float32)), ("labels", labels)):
        (tmp_path / "from" / part).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "from" / part / "a.tif", array)
    said = []
    kept, records = import_into(tmp_path / "set", tmp_path / "from", note=said.append)
    assert any("left out" in words for words in said)
    assert (records[0].n_objects, records[0].n_reviewed) == (8, 7)
    # the same again is known
    assert import_into(tmp_path / "set", tmp_path / "from", note=said.append)[1] == []
    reviewed = kept.load(records[0].id).reviewed
    assert not reviewed[labels == 1].any()
    assert reviewed[labels != 1].all()


NOT_CELLS = {
    "Label 1 covers": lambda labels: labels + 1,
    "this looks like a mask": lambda labels: (labels > 0).astype(np.uint8),
    "several far apart places": lambda labels: np.where(labels == 9, 1, labels),
}


@pytest.mark.parametrize("words", NOT_CELLS)
def test_what_is_no_cells_is_not_committed_and_not_learned_from(tmp_path, words):
    labels = NOT_CELLS[words](_nine())
    image = labels.astype(np.float32)
    training_set = TrainingSet.open(tmp_path / "set", create=True)
    with pytest.raises(CorrectionsError, match=f"(?i)odd: .*{words}"):
        training_set.commit(Commit(image, labels, source="odd"))
    assert training_set.commits() == []
    # Nobody looked at what is wrong: it may be anything.
    reviewed = np.zeros(labels.shape, bool)
    reviewed[:5, :5] = labels[:5, :5] == 0
    if reviewed.any():
        training_set.commit(Commit(image, labels, reviewed, source="unseen"))
    # A set of before.
    training_set._commit_all([checked_commit(Commit(image, labels, source="odd"))])
    items = load_training_folder(tmp_path / "set")
    item = next(item for item in items if item.name.startswith("odd"))
    if "far" not in words:
        with pytest.raises(TrainingDataError, match=f"(?i){item.name}: {words}"):
            read_truth(item, labels.shape)
        return
    _, counts, note = read_truth(item, labels.shape)
    assert note.startswith(f"{item.name}: ")
    assert "are left out" in note
    assert not counts[labels == 1].any()
    assert counts[labels != 1].all()
