"""The output folder of a batch: whose a mask is, what is done, and what is taken away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_sa2net.data.formats import FORMATS
from napari_sa2net.data.results import (
    ATTENTION,
    Job,
    ResultFolder,
    fingerprint,
    input_images,
    is_result,
    records_of,
    settings_key,
    without_results,
)
from napari_sa2net.errors import ImageFileError, OutputError

TABLE = "label,area_px\n1,9\n"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").write_bytes(b"image")
    return Job("a", tmp_path / "in" / "a.tif")


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., ResultFolder]:
    return lambda key="key", **more: ResultFolder(tmp_path / "out", key, **more)


def segment(folder: ResultFolder, job: Job, table: str = TABLE) -> dict[str, Any]:
    source = folder.claim(job)
    folder.mask_path(job.name).write_bytes(b"mask")
    return folder.finish(job, source, table, {"n_objects": 1})


def touch(path: Path) -> None:
    changed = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(changed, changed))


def test_an_image_is_done_until_settings_image_or_mask_are_others(begin, job):
    record = segment(begin(), job)
    assert record["n_objects"] == 1
    assert begin().finished(job) == {**record, "schema_version": 1}
    assert begin("other").finished(job) is None
    assert begin(overwrite=True).finished(job) is None
    assert begin().finished(Job("b", job.path)) is None
    begin().mask_path("a").unlink()
    assert begin().finished(job) is None
    segment(begin(), job)
    assert begin().finished(job)
    touch(job.path)
    assert begin().finished(job) is None
    folder = begin("other")
    folder.claim(job)
    assert begin("other").finished(job) is None  # it has not ended


def test_a_mask_of_somebody_else_is_replaced_only_where_that_was_said(begin, job, tmp_path):
    folder = begin(otherwise=", or say so")
    folder.mask_path("a").write_bytes(b"drawn")
    with pytest.raises(OutputError, match=r"not written by sa2net.*folder, or say so\."):
        folder.claim(job)
    assert records_of(folder.folder, ["a"]) == {}
    segment(begin(overwrite=True), job)
    begin().claim(job)  # it is ours now
    other = Job("a", tmp_path / "a.tif")
    other.path.write_bytes(b"other image")
    with pytest.raises(OutputError, match="belongs to another image"):
        begin().claim(other)
    begin(overwrite=True).claim(other)


def test_a_mask_that_came_after_a_failure_is_not_ours(begin, job):
    folder = begin()
    folder.claim(job)
    folder.fail(job, "It is damaged.")
    record = records_of(folder.folder, ["a"])["a"]
    assert (record["state"], record["error"]) == ("failed", "It is damaged.")
    folder.claim(job)
    folder.fail(job, "It is damaged.")
    folder.mask_path("a").write_bytes(b"drawn")
    with pytest.raises(OutputError, match="not written by sa2net"):
        begin().claim(job)
    # one that we had written when it failed is
    folder.mask_path("a").unlink()
    folder.claim(job)
    folder.mask_path("a").write_bytes(b"half a stack")
    folder.fail(job, "The second plane is damaged.")
    begin().claim(job)


def test_a_failure_leaves_what_was_done_before_with_other_settings(begin, job):
    done = segment(begin(), job)
    failing = begin("other")
    failing.claim(job)
    failing.fail(job, "Memory ran out.")
    assert begin().finished(job) == {**done, "schema_version": 1}
    # but not where the mask is another one by now, or the image
    failing.claim(job)
    touch(failing.mask_path("a"))
    failing.fail(job, "Memory ran out.")
    assert records_of(failing.folder, ["a"])["a"]["state"] == "failed"
    segment(begin(), job)
    touch(job.path)
    failing.claim(job)
    failing.fail(job, "Memory ran out.")
    assert records_of(failing.folder, ["a"])["a"]["state"] == "failed"


def test_who_has_not_claimed_an_image_or_has_ended_it_cannot_fail_it(begin, job):
    done = segment(begin(), job)
    begin().fail(job, "Another image of that name.")
    assert begin().finished(job) == {**done, "schema_version": 1}
    folder = begin()
    segment(folder, job)
    folder.fail(job, "The table of all could not be written.")
    assert begin().finished(job)
    assert folder.done["a"]["state"] == "done"


def test_tables_are_joined_of_what_is_done_and_has_its_mask(begin, job, tmp_path):
    folder = begin()
    segment(folder, job, "label,area_px,mean\n1,9,0.10\n2,4,0.50\n")
    segment(folder, Job("=b", job.path), "label,area_px,area_um2,mean\n1,9,2.25,1e-3\n")
    segment(folder, Job("gone", job.path))
    folder.mask_path("gone").unlink()
    segment(folder, Job("failed", job.path))
    again = begin("other", overwrite=True)
    touch(job.path)
    again.claim(Job("failed", job.path))
    again.fail(Job("failed", job.path), "no")
    assert folder.write_objects() == 3
    assert (folder.folder / "objects.csv").read_text().splitlines() == [
        "image,label,area_px,area_um2,mean",
        "'=b,1,9,2.25,1e-3",
        "a,1,9,,0.10",
        "a,2,4,,0.50",
    ]
    found = records_of(folder.folder, ["a", "gone", "failed", "never"])
    assert {name: record["state"] for name, record in found.items()} == {
        "a": "done",
        "failed": "failed",
    }
    (folder.folder / "extra" / "images" / "a.json").write_text("[1]")
    assert records_of(folder.folder, ["a"]) == {}


def test_a_folder_made_for_nothing_goes_again(begin, tmp_path):
    (tmp_path / "there").mkdir()
    new = ResultFolder(tmp_path / "there" / "x" / "y")
    assert new.discard()
    assert os.listdir(tmp_path / "there") == []
    # what somebody else put into it stays, and what was there before
    new = ResultFolder(tmp_path / "there" / "x" / "y")
    (tmp_path / "there" / "x" / "note.txt").write_text("mine")
    assert new.discard()
    assert os.listdir(tmp_path / "there" / "x") == ["note.txt"]
    begin()
    assert not begin().discard()
    assert (begin().folder / "extra" / "images").is_dir()


def test_two_commands_do_not_share_a_folder(begin, tmp_path):
    begin()
    with pytest.raises(OutputError, match="holds results of sa2net segment"):
        begin(layout=ATTENTION)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        ResultFolder(tmp_path / "file" / "out")


def test_what_a_batch_wrote_is_no_image(begin, job, tmp_path):
    folder, out = begin(), tmp_path / "out"
    segment(folder, job)
    ours = ["a.tif", "corrected/a.tif", "imagej/a_rois.zip", "ome-zarr/a.ome.zarr"]
    theirs = ["b.tif", "elsewhere/a.tif", "corrected/b.tif", "corrected/deep/a.tif", "a.png"]
    assert all(is_result(out / one) for one in ours)
    assert not any(is_result(out / one) for one in theirs)
    assert is_result(out / "ome-tiff" / "a.ome.tif")
    assert not is_result(out / "ome-tiff" / "b.ome.tif")
    # the folder of records only where a run has ended in it
    assert not is_result(out / "extra")
    folder.write_manifest({"state": "finished"})
    assert is_result(out / "extra")
    assert is_result(out / "objects.csv")
    assert not is_result(tmp_path / "objects.csv")
    with pytest.raises(ImageFileError, match="only results of sa2net"):
        without_results([out / "a.tif"])
    assert without_results([]) == []
    assert without_results([job.path, out / "a.tif"]) == [job.path]
    assert input_images([str(job.path), str(out / "a.tif")]) == [job.path]


def test_an_image_beside_its_own_mask_stays_an_image(job):
    """The record of a run that was to replace it says so."""
    folder = ResultFolder(job.path.parent, "key", overwrite=True)
    folder.claim(job)
    assert not is_result(job.path)


def test_explained_images_have_folders_of_their_own(begin, job, tmp_path):
    folder = begin(layout=ATTENTION)
    assert folder.mask_path("a") == tmp_path / "out" / "a" / "labels.tif"
    folder.mask_path("a").parent.mkdir()
    segment(folder, job)
    assert is_result(tmp_path / "out" / "a" / "stage_4.tif")
    assert is_result(tmp_path / "out" / "a" / "maps" / "gate.tif")
    assert not is_result(tmp_path / "out" / "a" / "own.tif")
    assert not is_result(tmp_path / "out" / "a")


def test_formats_that_an_image_has_or_lacks(begin):
    folder = begin()
    folder.formats = ("geojson", "imagej", "ome-zarr")
    folder.together = ("ome-zarr",)
    assert folder.exported("a") == ["geojson", "imagej"]
    assert folder.missing("a") == ["geojson", "imagej"]
    for key in ("imagej", "csv", "ome-zarr"):
        folder.export_path("a", key).parent.mkdir()
        folder.export_path("a", key).write_text("")
    assert folder.export_path("a", "imagej").name == f"a{FORMATS['imagej'].ending}"
    assert folder.exported("a") == ["geojson", "imagej", "csv"]  # what was there stays right
    assert folder.missing("a") == ["geojson"]
    folder.drop(folder.export_path("a", "imagej"))
    folder.drop(folder.export_path("a", "imagej").parent)
    assert folder.missing("a") == ["geojson", "imagej"]


def test_names_that_the_systems_language_cannot_write(tmp_path):
    """Where it is set to plain C, a name of other letters reads as bytes, and none is lost."""
    for name in ("Zelle ü.npy", "Zelle ö.npy", "b.npy"):
        np.save(tmp_path / name, np.zeros((2, 2), np.uint8))
    text = (
        "import sys; from napari_sa2net.data.commit import file_stem; "
        "from napari_sa2net.data.results import name_jobs, refuse_inputs_as_outputs; "
        "from pathlib import Path; jobs = name_jobs(sorted(Path(sys.argv[1]).glob(chr(42)))); "
        "refuse_inputs_as_outputs(jobs, Path(sys.argv[1]) / 'out'); "
        "print(*(job.name for job in jobs), file_stem('Zelle \\xfc', (), 'abc'), sep='|')"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", text, str(tmp_path)],
        env={**os.environ, **plain},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    *names, stem = ran.stdout.strip().split("|")
    assert len(set(names)) == 3
    assert names[-1] == "b"
    assert all(name.isascii() and name.startswith("Zelle _") for name in names[:-1])
    assert stem == "Zelle __abc"


def test_a_folder_is_known_by_all_of_its_files(tmp_path):
    deep = tmp_path / "image.zarr" / "0"
    deep.mkdir(parents=True)
    for place, size, when in ((deep / "a", 3, 5), (deep.parent / "b", 4, 7)):
        place.write_bytes(b"x" * size)
        os.utime(place, ns=(when, when))
    found = fingerprint(deep.parent)
    assert (found["size"], found["mtime_ns"]) == (7, 7)
    assert found["path"] == str(deep.parent.resolve())
    assert fingerprint(deep / "a")["mtime_ns"] == 5


def test_the_key_is_of_settings_and_model_in_any_order():
    key = settings_key({"a": 1, "b": 2}, "ab")
    assert key == settings_key({"b": 2, "a": 1}, "ab")
    assert key != settings_key({"a": 1, "b": 3}, "ab")
    assert key != settings_key({"a": 1, "b": 2}, "cd")
