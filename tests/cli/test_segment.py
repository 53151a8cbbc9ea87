from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from napari_sa2net.cli.segment import run_batch, segment_file
from napari_sa2net.data import read_cells, read_image, synthetic_nuclei
from napari_sa2net.data.formats import FORMATS
from napari_sa2net.data.results import Job
from napari_sa2net.inference.batch import BatchSettings
from napari_sa2net.models import load_model


@pytest.fixture
def segment(run, tiny_model, images, tmp_path):
    def call(*more, inputs=(images,), out=tmp_path / "out"):
        return run("segment", *inputs, "-o", out, "--model", tiny_model, *more)

    return call


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "objects.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_folder_with_a_bad_file(segment, images, tmp_path):
    out = tmp_path / "out"
    result = segment()
    assert result.code == 1
    assert sorted(path.name for path in out.iterdir()) == [
        "a.tif",
        "b.tif",
        "colour.tif",
        "extra",
        "objects.csv",
    ]
    for name, shape in (("a", (64, 80)), ("b", (64, 80)), ("colour", (48, 40))):
        labels = tifffile.imread(out / f"{name}.tif")
        assert labels.shape == shape
        assert labels.dtype.kind in "ui"
    assert {row["image"] for row in rows(out)} == {"a", "b", "colour"}
    assert {"label", "area_px", "area_um2", "confidence"} <= set(rows(out)[0])
    last = result.err.splitlines()[-1]
    assert "bad.tif" in last
    assert "Traceback" not in result.err

    manifest = json.loads((out / "extra" / "run.json").read_text())
    states = {image["name"]: image["state"] for image in manifest["images"]}
    assert states == {"a": "done", "bad": "failed", "b": "done", "colour": "done"}
    record = json.loads((out / "extra" / "images" / "a.json").read_text())
    assert record["provenance"]["model"]["sha256"] == manifest["model"]["sha256"]
    assert not list(out.rglob("*.part*"))


def test_what_is_measured(segment, images, tmp_path):
    out = tmp_path / "out"
    usual = set(rows(segment(inputs=(images / "a.tif",)) and out)[0])
    assert {"perimeter_px", "solidity", "feret_max_px"} <= usual
    assert not {"neighbours", "mean_ch0"} & usual
    colour = (images / "colour.tif", "--measure", "intensity", "neighbours")
    assert segment(*colour[1:], inputs=colour[:1], out=tmp_path / "all").code == 0
    told = set(rows(tmp_path / "all")[0])
    # every channel, as the image has three
    assert {"mean_ch0", "background_ch2", "neighbours", "contact_fraction"} <= told
    assert "solidity" not in told
    manifest = json.loads((tmp_path / "all" / "extra" / "run.json").read_text())
    assert manifest["settings"]["measure"] == ["intensity", "neighbours"]
    refused = segment("--measure", "texture", inputs=(images / "a.tif",))
    assert refused.code
    assert "texture" in refused.err


def test_a_pixel_size_may_be_said(segment, images, tmp_path):
    out, one = tmp_path / "out", (images / "a.tif",)
    assert segment("--pixel-size", "0.5", "--format", "ome-tiff", inputs=one).code == 0
    for row in rows(out):
        assert float(row["area_um2"]) == int(row["area_px"]) / 4
        assert float(row["equivalent_diameter_um"]) > 0
    assert read_image(out / "a.tif").pixel_size_um == 0.5
    assert read_image(out / "ome-tiff" / "a.ome.tif").scale_um == {"Y": 0.5, "X": 0.5}
    # another format later has it, too, and another size is another result
    later = segment("--pixel-size", "0.5", "--format", "ome-zarr", "--json", inputs=one).json()
    assert later["images"][0]["state"] == "skipped"
    assert read_image(out / "ome-zarr" / "a.ome.zarr").pixel_size_um == 0.5
    assert segment("--json", inputs=one).json()["images"][0]["state"] == "done"
    assert "equivalent_diameter_um" not in rows(out)[0]
    refused = segment("--pixel-size", "0", inputs=one)
    assert refused.code
    assert "pixel size" in refused.err


def test_a_step_in_depth_stays_where_a_pixel_size_is_said(segment, tmp_path):
    plane, _ = synthetic_nuclei(shape=(64, 64), n=4, seed=0)
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(
        stack,
        np.stack([plane] * 2),
        imagej=True,
        metadata={"axes": "ZYX", "spacing": 2.0, "unit": "um"},
    )
    asked = ("--pixel-size", "0.3251", "--diameter", "18")
    assert segment(*asked, inputs=(stack,)).code == 0
    # in a file that is asked for later, too
    assert segment(*asked, "--format", "ome-tiff", inputs=(stack,)).code == 0
    later = read_image(tmp_path / "out" / "ome-tiff" / "stack.ome.tif")
    assert later.scale_um == {"Z": 2.0, "Y": 0.3251, "X": 0.3251}


def test_masks_lie_on_voxels_that_are_no_cubes(segment, tmp_path):
    plane, _ = synthetic_nuclei(shape=(64, 48), n=4, seed=0)
    sides = {"PhysicalSizeZ": 2.0, "PhysicalSizeY": 0.6, "PhysicalSizeX": 0.3}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.stack([plane] * 2), metadata={"axes": "ZYX", **sides}
    )
    assert segment("--diameter", "18", inputs=(tmp_path / "a.ome.tif",)).code == 0
    mask = read_image(tmp_path / "out" / "a.tif")
    assert mask.scale_um == pytest.approx({"Z": 2.0, "Y": 0.6, "X": 0.3}, rel=1e-5)


@pytest.mark.parametrize("axes", ["XY", "YXZ", "XZY"])
def test_axes_in_any_order_give_the_same_cells(segment, tmp_path, axes):
    plane, _ = synthetic_nuclei(shape=(64, 48), n=4, seed=0)
    usual = "ZYX" if "Z" in axes else "YX"
    image = np.stack([plane] * 2) if "Z" in axes else plane
    turned = image.transpose([usual.index(a) for a in axes])
    for name, array in (("usual", image), ("turned", turned)):
        np.save(tmp_path / f"{name}.npy", array)
    asked = ("--diameter", "18", "--axes")
    for name, letters in (("usual", usual), ("turned", axes)):
        told = segment(*asked, letters, inputs=(tmp_path / f"{name}.npy",), out=tmp_path / name)
        assert told.code == 0, told.err
    found = [
        json.loads((tmp_path / name / "extra" / "images" / f"{name}.json").read_text())
        for name in ("usual", "turned")
    ]
    assert found[0]["objects"] == found[1]["objects"] > 0
    assert found[0]["wrong"] == found[1]["wrong"]


def test_json_is_the_only_thing_on_stdout(segment):
    result = segment("--json")
    assert result.json()["n_done"] == 3
    assert result.json()["n_failed"] == 1
    assert result.err == ""


def test_every_image_bad_is_a_failure(segment, images):
    assert segment(inputs=(images / "bad.tif",)).code == 2


def test_finished_images_are_skipped_until_something_changes(segment, images, tmp_path):
    def states(*more):
        manifest = segment("--json", *more).json()
        return {image["name"]: image["state"] for image in manifest["images"]}

    good = {"a", "b", "colour"}
    segment()
    before = (tmp_path / "out" / "objects.csv").read_text()
    again = states()
    assert {name for name in good if again[name] == "skipped"} == good
    assert again["bad"] == "failed"
    assert (tmp_path / "out" / "objects.csv").read_text() == before

    os.utime(images / "a.tif", (1, 1))
    (tmp_path / "out" / "b.tif").unlink()
    changed = states()
    assert (changed["a"], changed["b"], changed["colour"]) == ("done", "done", "skipped")

    other = states("--foreground", "0.4")
    assert {other[name] for name in good} == {"done"}
    redone = states("--foreground", "0.4", "--overwrite")
    assert {redone[name] for name in good} == {"done"}
    # The device does not change a result, so it is no reason to do it again.
    assert states("--foreground", "0.4", "--device", "cpu")["a"] == "skipped"


def test_a_mask_from_elsewhere_is_not_replaced(segment, images, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.tif").write_bytes(b"precious")
    result = segment(inputs=(images / "a.tif", images / "b.tif"))
    assert result.code == 1
    assert "--overwrite" in result.err
    assert (out / "a.tif").read_bytes() == b"precious"
    assert segment("--overwrite", inputs=(images / "a.tif",)).code == 0
    assert tifffile.imread(out / "a.tif").shape == (64, 80)


def test_another_image_of_that_name_in_a_later_run_is_refused(segment, images, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    tifffile.imwrite(other / "a.tif", np.zeros((9, 9), np.uint8))
    assert segment(inputs=(images / "a.tif",)).code == 0
    result = segment(inputs=(other / "a.tif",))
    assert result.code == 2
    assert "belongs to another image" in result.err
    assert tifffile.imread(tmp_path / "out" / "a.tif").shape == (64, 80)


def test_results_in_the_folder_of_the_images_are_not_segmented_in_turn(
    run, segment, tiny_model, tmp_path
):
    one = tmp_path / "one"
    one.mkdir()
    image, _ = synthetic_nuclei(shape=(64, 80), n=5, diameter=14, seed=1)
    iio.imwrite(one / "c.png", (image / image.max() * 255).astype(np.uint8))
    assert segment(inputs=(one,), out=one).code == 0
    masks, table = sorted(one.glob("*.tif")), (one / "objects.csv").read_text()
    # A folder, a pattern, and what a shell makes of one.
    for inputs in ((one,), (f"{one}/*",), sorted(one.iterdir())):
        again = segment("--json", inputs=inputs, out=one)
        assert again.code == 0, again.err
        assert [(i["name"], i["state"]) for i in again.json()["images"]] == [("c", "skipped")]
        assert sorted(one.glob("*.tif")) == masks == [one / "c.tif"]
        assert (one / "objects.csv").read_text() == table
    flags = ("-o", tmp_path / "why", "--model", tiny_model, "--no-figure", "--json")
    elsewhere = run("attention", one, *flags)
    assert [i["name"] for i in elsewhere.json()["images"]] == ["c"]
    (one / "c.png").unlink()
    nothing = segment(inputs=(one,), out=one)
    assert nothing.code == 2
    assert "only results of sa2net" in nothing.err
    # An image that merely looks like a result is an image.
    tifffile.imwrite(one / "d.tif", image)
    assert segment("--json", inputs=(one,)).json()["images"][0]["name"] == "d"


def test_a_failed_image_is_recorded_as_such_and_tried_again(segment, images, tmp_path):
    out = tmp_path / "out"
    segment()
    record = json.loads((out / "extra" / "images" / "bad.json").read_text())
    assert record["state"] == "failed"
    assert "bad.tif" in record["error"]
    # A mask that somebody else puts there meanwhile is not ours.
    (out / "bad.tif").write_bytes(b"precious")
    (images / "bad.tif").write_bytes((images / "a.tif").read_bytes())
    assert "not written by sa2net" in segment(inputs=(images / "bad.tif",)).err
    assert (out / "bad.tif").read_bytes() == b"precious"
    (out / "bad.tif").unlink()
    again = {i["name"]: i["state"] for i in segment("--json").json()["images"]}
    assert again == {"a": "skipped", "bad": "done", "b": "skipped", "colour": "skipped"}


def test_equal_errors_are_told_once_and_nothing_is_left(segment, images, tmp_path):
    (images / "bad.tif").unlink()
    (images / "colour.tif").unlink()
    out = tmp_path / "new" / "out"
    result = segment("--axes", "ZYX", out=out)
    assert result.code == 2
    assert result.err.count("names 3 axes") == 2  # while it ran, and at the end
    assert "2 images, " in result.err.splitlines()[-1]
    assert "objects" not in result.err
    assert not out.parent.exists()
    # A folder that was there before is left as it was.
    out.mkdir(parents=True)
    (out / "mine.txt").write_text("mine")
    assert segment("--channels", "7", out=out).code == 2
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    segment(out=out)
    before = (out / "objects.csv").read_text()
    assert segment("--channels", "7", out=out).code == 2
    assert (out / "objects.csv").read_text() == before
    assert segment("--json", out=out).json()["images"][0]["state"] == "skipped"


def test_same_name_in_two_folders_gives_two_masks(segment, images, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    tifffile.imwrite(other / "a.tif", np.zeros((9, 9), np.uint8))
    assert segment(inputs=(images / "a.tif", other / "a.tif")).code == 0
    out = tmp_path / "out"
    assert tifffile.imread(out / "in_a.tif").shape == (64, 80)
    assert tifffile.imread(out / "other_a.tif").shape == (9, 9)


def test_a_name_that_a_spreadsheet_would_compute_stands_as_text(segment, images, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    names = ["'=2", "+b", "-a", "=1+1", "@c", "d-1"]
    for name in names:
        shutil.copy(images / "a.tif", own / f"{name}.tif")
    assert segment(inputs=(own,)).code == 0
    with (tmp_path / "out" / "objects.csv").open(newline="") as file:
        cells = list(dict.fromkeys(row["image"] for row in csv.DictReader(file)))
    assert sorted(cells) == sorted(["''=2", "'+b", "'-a", "'=1+1", "'@c", "d-1"])
    back = {cell.removeprefix("'") for cell in cells}
    assert back == set(names) == {path.stem for path in (tmp_path / "out").glob("*.tif")}


def test_output_into_the_input_folder_is_refused(segment, images):
    before = (images / "a.tif").read_bytes()
    result = segment("--overwrite", out=images)
    assert result.code == 2
    assert "another output folder" in result.err
    assert (images / "a.tif").read_bytes() == before
    assert not (images / "extra").exists()


def test_glob_stack_axes_and_channels(segment, tmp_path):
    stack = np.stack([synthetic_nuclei(shape=(40, 48), n=3, seed=s)[0] for s in range(3)])
    np.save(tmp_path / "stack.npy", stack)
    result = segment("--axes", "ZYX", inputs=(str(tmp_path / "*.npy"),))
    assert result.code == 0
    assert tifffile.imread(tmp_path / "out" / "stack.tif").shape == (3, 40, 48)
    result = segment("--axes", "CYX", "--channels", "1,2", inputs=(tmp_path / "stack.npy",))
    assert result.code == 0
    assert tifffile.imread(tmp_path / "out" / "stack.tif").shape == (40, 48)


def test_ome_zarr(segment, tmp_path):
    import zarr

    image, _ = synthetic_nuclei(shape=(48, 40), n=4, seed=3)
    group = zarr.open_group(tmp_path / "plate.ome.zarr", mode="w", zarr_format=2)
    array = group.create_array("0", shape=image.shape, dtype=image.dtype, chunks=(32, 32))
    array[:] = image
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [
                {"name": "y", "type": "space", "unit": "micrometer"},
                {"name": "x", "type": "space", "unit": "micrometer"},
            ],
            "datasets": [
                {
                    "path": "0",
                    "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5]}],
                }
            ],
        }
    ]
    assert segment(inputs=(tmp_path / "plate.ome.zarr",)).code == 0
    out = tmp_path / "out"
    assert tifffile.imread(out / "plate.tif").shape == (48, 40)
    first = rows(out)[0]
    assert float(first["area_um2"]) == pytest.approx(0.25 * int(first["area_px"]))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--model", "no-such-model"), "no model"),
        (("--device", "quantum"), "quantum"),
        (("--foreground", "3"), "--foreground 3"),
        (("--tile", "100"), "--tile 100"),
        (("--channels", ""), "numbers from 0, or names"),
        (("--no-such-flag",), "--no-such-flag"),
    ],
)
def test_wrong_usage_is_one_clear_line(run, images, tmp_path, tiny_model, more, words):
    model = () if "--model" in more else ("--model", tiny_model)
    result = run("segment", images, "-o", tmp_path / "out", *model, *more)
    assert result.code == 2
    assert words in result.err
    assert len(result.err.splitlines()) == 1
    assert not list((tmp_path / "out").rglob("*.tif"))


def test_missing_input_is_named(segment, tmp_path):
    result = segment(inputs=(tmp_path / "nowhere",))
    assert result.code == 2
    assert "nowhere" in result.err


def test_an_image_done_in_the_moment_of_the_interrupt_counts(tiny_model, images, tmp_path):
    def work(*args):
        segment_file(*args)
        raise KeyboardInterrupt

    jobs = [Job(f"im{i}", path) for i, path in enumerate(sorted(images.glob("*.tif"))[:2])]
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_batch(jobs, out, load_model(tiny_model), BatchSettings(), quiet=True, work=work)
    manifest = json.loads((out / "extra" / "run.json").read_text())
    assert manifest["state"] == "interrupted"
    assert [(one["name"], one["state"]) for one in manifest["images"]] == [("im0", "done")]
    assert {row["image"] for row in rows(out)} <= {"im0"}
    summary = run_batch(jobs, out, load_model(tiny_model), BatchSettings(), quiet=True)
    assert [one["state"] for one in summary["images"]] == ["skipped", "done"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for child processes")
def test_interrupted_batch_resumes(run, tiny_model, tmp_path):
    folder, out = tmp_path / "many", tmp_path / "out"
    folder.mkdir()
    image, _ = synthetic_nuclei(shape=(64, 64), n=4, seed=0)
    names = [f"im{i:02}" for i in range(24)]
    for name in names:
        tifffile.imwrite(folder / f"{name}.tif", image)
    command = [
        *(sys.executable, "-m", "napari_sa2net.cli", "segment", str(folder)),
        *("-o", str(out), "--model", str(tiny_model)),
    ]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever starts the tests in the background has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (out / "im01.tif").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err

    manifest = json.loads((out / "extra" / "run.json").read_text())
    assert manifest["state"] == "interrupted"
    done = [image["name"] for image in manifest["images"] if image["state"] == "done"]
    assert 1 <= len(done) < len(names)
    assert not [path for path in out.rglob("*") if "part" in path.name]
    assert {row["image"] for row in rows(out)} == set(done)

    again = run("segment", folder, "-o", out, "--model", tiny_model, "--json")
    assert again.code == 0
    states = {image["name"]: image["state"] for image in again.json()["images"]}
    assert sorted(states) == names
    assert all(states[name] == "skipped" for name in done)
    assert {row["image"] for row in rows(out)} == set(names)


def cells(seed=1, shape=(96, 96)):
    return synthetic_nuclei(shape=shape, n=10, diameter=14, seed=seed)[0]


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".zarr"])
def test_a_short_first_axis_is_pointed_out_unless_the_file_tells(segment, tmp_path, suffix):
    path = tmp_path / f"two{suffix}"
    array = np.stack([cells(shape=(24, 32))] * 2)
    match suffix:
        case ".tif":
            tifffile.imwrite(path, array)
        case ".npy":
            np.save(path, array)
        case ".zarr":
            import zarr

            zarr.save_array(str(path), array)
    line = " ".join(segment(inputs=(path,)).err.split())
    assert "Read as 2 planes of 24 × 32 pixels; if the first axis holds channels" in line
    assert "give --axes CYX." in line
    again = segment("--axes", "CYX", "--overwrite", inputs=(path,))
    assert "Read as" not in again.err
    assert tifffile.imread(tmp_path / "out" / "two.tif").shape == (24, 32)


def test_planes_that_a_file_tells_of_are_planes(segment, tmp_path):
    path = tmp_path / "two.tif"
    array = np.stack([cells(shape=(24, 32))] * 2)
    tifffile.imwrite(path, array, imagej=True, metadata={"axes": "ZYX"})
    assert "Read as" not in segment(inputs=(path,)).err


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_channels_last_are_pointed_out(segment, tmp_path, suffix):
    path = tmp_path / f"five{suffix}"
    array = np.dstack([cells(shape=(24, 32))] * 5)
    tifffile.imwrite(path, array) if suffix == ".tif" else np.save(path, array)
    result = segment(inputs=(path,))
    line = " ".join(result.err.split())
    assert "Read as 24 planes of 32 × 5 pixels" in line
    assert "give --axes YXC." in line
    again = segment("--axes", "YXC", "--overwrite", inputs=(path,))
    assert "Read as" not in again.err
    assert tifffile.imread(tmp_path / "out" / "five.tif").shape == (24, 32)


def test_which_of_several_channels_is_taken_is_said(segment, tmp_path):
    path = tmp_path / "two.ome.tif"
    array = np.stack([cells(), np.zeros((96, 96), np.uint16)])
    tifffile.imwrite(
        path, array, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    )
    said = " ".join(segment(inputs=(path,)).err.split())
    assert "channel 0 of 2 (0 DAPI, 1 GFP) is taken; --channels takes others" in said
    again = segment("--channels", "0", "--overwrite", inputs=(path,))
    assert "is taken" not in again.err


@pytest.mark.parametrize("channels", ["gfp", "DAPI,GFP", "1", "0,1"])
def test_channels_by_name_are_those_by_number(segment, run, tiny_model, tmp_path, channels):
    path = tmp_path / "two.ome.tif"
    array = np.stack([np.zeros((96, 96), np.uint16), cells()])
    names = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(path, array, metadata=names)
    taken = [1] if channels in ("gfp", "1") else [0, 1]
    for command in ("segment", "attention"):
        out = tmp_path / command
        flags = ("--model", tiny_model, *["--no-figure"][: command == "attention"])
        done = run(command, path, "-o", out, *flags, "--channels", channels, "--json")
        assert done.code == 0, done.err
        record = json.loads(next((out / "extra").rglob("two*.json")).read_text())
        assert record["provenance"]["settings"]["image"]["channels"] == taken
        bad = run(
            command, path, "-o", tmp_path / "bad", "--model", tiny_model, "--channels", "Cy5"
        )
        assert bad.code == 2
        assert "its channels are DAPI, GFP" in " ".join(bad.err.split())


def test_colours_by_name_and_a_file_that_names_no_channel(segment, tmp_path):
    rgb = np.stack([np.zeros((96, 96)), cells() // 256, np.zeros((96, 96))], -1)
    tifffile.imwrite(tmp_path / "rgb.tif", rgb.astype(np.uint8), photometric="rgb")
    assert segment("--channels", "green", inputs=(tmp_path / "rgb.tif",)).code == 0
    np.save(tmp_path / "plain.npy", cells())
    bad = segment("--channels", "green", inputs=(tmp_path / "plain.npy",))
    assert bad.code == 2
    assert "it names no channel" in " ".join(bad.err.split())


def test_no_cells_found_says_what_to_try_next(segment, tmp_path):
    noise = np.random.default_rng(0).integers(100, 110, (2, 64, 64)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "one.tif", noise[0])
    tifffile.imwrite(tmp_path / "both.tif", noise, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "stack.tif", noise, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "flat.tif", np.full((64, 64), 7, np.uint16))

    def said(name, *more):
        result = segment("--min-size", "100000", *more, inputs=(tmp_path / name,))
        assert result.code == 0
        return " ".join(result.err.split())

    one = said("one.tif")
    assert "no cells found; try --diameter" in one
    assert "--channels" not in one
    assert "--levels" not in one
    assert "no cells found; try --channels" in said("both.tif", "--channels", "1")
    assert "--levels plane" in said("stack.tif")
    assert "--levels plane" not in said("stack.tif", "--levels", "plane", "--overwrite")
    assert "one value throughout" in said("flat.tif")


def test_one_saturated_time_point_spoils_no_other(segment, tmp_path):
    good, other = cells(1), cells(2)
    flash = np.full_like(good, 65535)
    movie = np.stack([good, flash, other])
    tifffile.imwrite(tmp_path / "t.tif", movie, imagej=True, metadata={"axes": "TYX"})
    for name, image in (("a", good), ("b", other)):
        tifffile.imwrite(tmp_path / f"{name}.tif", image)
    inputs = [tmp_path / f"{name}.tif" for name in "tab"]
    assert segment("--diameter", "14", inputs=inputs).code == 0
    labels = {name: tifffile.imread(tmp_path / "out" / f"{name}.tif") for name in "tab"}
    assert labels["a"].max() > 5
    np.testing.assert_array_equal(labels["t"][0] > 0, labels["a"] > 0)
    np.testing.assert_array_equal(labels["t"][2] > 0, labels["b"] > 0)
    assert labels["t"][1].max() == 0


def test_contrast_limits_are_the_levels(segment, tmp_path):
    image = cells()
    image[:40, :40] = 65535  # dirt
    tifffile.imwrite(tmp_path / "a.tif", image)
    assert segment("--diameter", "14", inputs=(tmp_path / "a.tif",)).code == 0
    before = tifffile.imread(tmp_path / "out" / "a.tif")[50:, 50:].max()
    limits = [str(v) for v in np.percentile(cells(), (1, 99.8))]
    again = segment(
        "--diameter", "14", "--contrast", *limits, "--overwrite", inputs=(tmp_path / "a.tif",)
    )
    assert again.code == 0
    assert len(np.unique(tifffile.imread(tmp_path / "out" / "a.tif")[50:, 50:])) > 2 > before
    wrong = segment("--contrast", "5", "5", inputs=(tmp_path / "a.tif",))
    assert wrong.code == 2
    assert "below the second" in wrong.err


def test_an_entry_that_cannot_be_read_is_named_and_the_rest_is_done(segment, images, tmp_path):
    (images / "bad.tif").unlink()
    (images / "self.tif").symlink_to("self.tif")
    (images / "gone.tif").symlink_to("nowhere.tif")
    (images / "loop").symlink_to("loop")
    for given in (images, images / "*.tif"):
        out = tmp_path / f"out{given == images}"
        result = segment(inputs=(given,), out=out)
        assert result.code == 1
        assert "Traceback" not in result.err
        assert {path.name for path in out.glob("*.tif")} == {"a.tif", "b.tif", "colour.tif"}
        errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 2
        assert "gone.tif cannot be read: No such file" in errors[0]
        assert "self.tif cannot be read: Too many levels of symbolic links" in errors[1]


def test_paths_that_are_none_are_named(run, segment, images, tmp_path):
    long = tmp_path / ("x" * 300)
    for call in (
        lambda: segment(inputs=(long,)),
        lambda: segment(inputs=(images,), out=long),
        lambda: run("evaluate", long, images),
        lambda: run("evaluate", images, images, "--index", long),
        lambda: run("corrections", "import", tmp_path / "set", long),
        lambda: run("train", long, "--base", "nuclei", "--name", "new"),
        lambda: run("attention", long, "-o", tmp_path / "why"),
    ):
        result = call()
        assert result.code == 2
        (line,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
        assert "xxx" in line
        assert "Free space" not in line


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="may read all")
def test_a_folder_that_may_not_be_read_is_named(run, segment, images):
    images.chmod(0)
    try:
        for result in (segment(), run("evaluate", images, images)):
            assert result.code == 2
            assert f"{images} cannot be read: Permission denied" in result.err
    finally:
        images.chmod(0o755)


def test_labels_beside_images_are_no_images(segment, images, tmp_path):
    """Of a folder of a training set the images are named, not what lies beside them."""
    top = tmp_path / "set" / "test"
    for kind in ("annotations", "images", "labels"):
        (top / kind).mkdir(parents=True)
        shutil.copy(images / "a.tif", top / kind)
    result = segment(inputs=(top,))
    assert f"for those in its folder images, give '{top / 'images'}'" in result.err
    result = segment(inputs=(top.parent,))
    pattern = str(top.parent / "**" / "images" / "*")
    assert f"give the pattern '{pattern}'" in result.err
    assert segment(inputs=(pattern,)).code == 0
    assert [path.name for path in (tmp_path / "out").glob("*.tif")] == ["a.tif"]


def test_images_in_folders_below_are_told_how_to_be_named(segment, images, tmp_path):
    deep = tmp_path / "plates" / "p1"
    deep.mkdir(parents=True)
    for name in ("a.tif", "b.tif"):
        (images / name).rename(deep / name)
    result = segment(inputs=(deep.parent,))
    pattern = str(deep.parent / "*" / "*.tif")
    assert f"holds no image itself; for those in its folders, give the pattern '{pattern}'" in (
        result.err
    )
    assert segment(inputs=(pattern,)).code == 0
    deeper = deep / "t" / "c.tif"
    deeper.parent.mkdir()
    (deep / "a.tif").rename(deeper)
    (deep / "b.tif").unlink()
    result = segment(inputs=(deep.parent,))
    pattern = str(deep.parent / "**" / "*.tif")
    assert f"'{pattern}'" in result.err
    assert segment(inputs=(pattern,), out=tmp_path / "out2").code == 0


def test_channels_of_what_was_read_as_planes(segment, run, tmp_path):
    image, _ = synthetic_nuclei(shape=(64, 80), n=5, diameter=14, seed=1)
    path = tmp_path / "two.tif"
    tifffile.imwrite(path, np.stack([image, image]))
    result = segment("--channels", "1", inputs=(path,))
    assert "There is no channel 1: the image has channel 0 only." in result.err
    assert "It was read as 2 planes (ZYX)" in result.err
    assert "--axes CYX" in result.err
    assert segment("--channels", "1", "--axes", "CYX", inputs=(path,)).code == 0


@pytest.mark.skipif(os.name == "nt", reason="no such names")
def test_a_name_of_two_lines_is_told_on_one(segment, images, tmp_path):
    path = tmp_path / "a\nb\x1b[2J.tif"
    (images / "a.tif").rename(path)
    result = segment(inputs=(path,))
    assert result.code == 0
    assert any(line.startswith("[1/1] a b [2J: ") for line in result.err.splitlines())
    assert "\x1b[2J" not in result.err


ALL = [word for key in FORMATS for word in ("--format", key)]


def test_formats_are_written_beside_and_hold_the_same_cells(segment, images, tmp_path):
    out = tmp_path / "out"
    assert segment(*ALL, inputs=(images / "a.tif", images / "colour.tif")).code == 0
    for key, one in FORMATS.items():
        for name in ("a", "colour"):
            path = out / key / f"{name}{one.ending}"
            assert path.exists()
            if key != "csv":
                labels = tifffile.imread(out / f"{name}.tif")
                assert np.array_equal(read_cells(path, labels.shape).labels, labels)
    assert not list(out.rglob(".part*"))
    # results are no images, in whichever format
    again = segment("--json", inputs=(*images.glob("[ac]*.tif"), out / "ome-tiff", out))
    assert {image["state"] for image in again.json()["images"]} == {"skipped"}
    assert again.json()["n_images"] == 2


def test_a_format_can_be_asked_for_later(segment, images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    one = (images / "a.tif",)
    segment(inputs=one)
    before = (out / "a.tif").stat().st_mtime_ns
    monkeypatch.setattr("napari_sa2net.inference.segment.segment", None)  # it is not run again
    result = segment("--format", "geojson", "--json", inputs=one)
    assert result.json()["images"][0]["state"] == "skipped"
    assert (out / "a.tif").stat().st_mtime_ns == before
    labels = tifffile.imread(out / "a.tif")
    path = out / "geojson" / "a.geojson"
    assert np.array_equal(read_cells(path, labels.shape).labels, labels)
    first = json.loads(path.read_text("utf-8"))["features"][0]["properties"]["measurements"]
    assert "confidence" in first


def test_no_file_of_a_format_is_out_of_date(segment, images, tmp_path):
    out = tmp_path / "out"
    one = (images / "a.tif",)
    segment("--format", "geojson", "--min-size", "0", inputs=one)
    segment("--min-size", "100000", inputs=one)
    assert not tifffile.imread(out / "a.tif").any()
    assert json.loads((out / "geojson" / "a.geojson").read_text("utf-8"))["features"] == []


def test_what_a_format_cannot_hold_costs_no_other_result(segment, tmp_path):
    stack = np.stack([synthetic_nuclei(shape=(64, 80), n=5, diameter=14, seed=1)[0]] * 2)
    tifffile.imwrite(tmp_path / "t.tif", stack, imagej=True, metadata={"axes": "TYX"})
    formats = ("--format", "cellpose", "--format", "imagej")
    result = segment(*formats, "--diameter", "14", inputs=(tmp_path / "t.tif",))
    assert result.code == 0
    assert "no cellpose" in result.err
    assert "OME-TIFF" in result.err
    out = tmp_path / "out"
    assert not (out / "cellpose").exists() or not list((out / "cellpose").iterdir())
    labels = tifffile.imread(out / "t.tif")
    path = out / "imagej" / "t_rois.zip"
    assert np.array_equal(read_cells(path, labels.shape, axes="TYX").labels, labels)
    again = segment(*formats, "--json", inputs=(tmp_path / "t.tif",))
    assert set(again.json()["images"][0]["not_written"]) == {"cellpose"}


def test_unknown_formats_are_refused(segment):
    result = segment("--format", "xyz")
    assert result.code == 2
    assert "geojson" in result.err
