from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from napari_sa2net.cli.attention import _inside, picture, plane_numbers, window_numbers
from napari_sa2net.config import NetworkConfig
from napari_sa2net.data import plan_image, read_image, synthetic_nuclei
from napari_sa2net.data.results import ATTENTION, Job, ResultFolder
from napari_sa2net.errors import SettingsError
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.file import save_model
from napari_sa2net.nn import ATTENTION_NAMES, make_network


@pytest.fixture
def attention(run, tiny_model, images, tmp_path):
    def call(*more, inputs=(images / "a.tif",), out=tmp_path / "out"):
        flags = ["--model", tiny_model, "--diameter", 14]
        if not {"--figure", "--window"} & set(more):
            flags.append("--no-figure")
        return run("attention", *inputs, "-o", out, *flags, *more)

    return call


def rows(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_folder_with_a_bad_file(attention, images, tmp_path):
    out = tmp_path / "out"
    result = attention(
        "--figure", inputs=(images / "a.tif", images / "bad.tif", images / "colour.tif")
    )
    assert result.code == 1
    assert "bad.tif" in result.err.splitlines()[-1]
    for name, shape in (("a", (64, 80)), ("colour", (48, 40))):
        folder = out / name
        assert tifffile.imread(folder / "labels.tif").shape == shape
        maps = {path.name.removesuffix(".ome.tif") for path in (folder / "maps").iterdir()}
        assert maps == set(ATTENTION_NAMES)
        assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / "figure.svg").read_text("utf-8")[:600]
    wanted = {"label", "area_px", "scale_gate_1", "moved_4_mean_px", "moved_1_max_px"}
    wanted |= {"history", "refinement_px", "contested", "psi_8_inside", "psi_1_outside"}
    table = rows(out / "a" / "objects.csv")
    assert wanted <= set(table[0])
    labels = tifffile.imread(out / "a" / "labels.tif")
    assert [int(row["label"]) for row in table] == sorted(set(labels[labels > 0].tolist()))
    profiles = rows(out / "a" / "profiles.csv")
    assert list(profiles[0]) == ["label", "stride", "distance_px", "psi"]
    assert {row["label"] for row in profiles} == {row["label"] for row in table}
    assert {row["stride"] for row in profiles} == {"8", "4", "2", "1"}
    assert all(0 <= float(row["psi"]) <= 1 for row in profiles)
    assert all(len(row["psi"]) == len("0.1234") for row in profiles)
    assert {row["image"] for row in rows(out / "objects.csv")} <= {"a", "colour"}
    record = json.loads((out / "extra" / "attention" / "a.json").read_text())
    assert record["provenance"]["settings"]["predict"]["diameter"] == 14
    assert len(record["image_gates"]) == 4
    assert not [path for path in out.rglob("*") if ".part" in path.name]


def test_done_images_are_passed_over_until_something_changes(attention, tmp_path):
    def state(*more):
        return attention("--json", *more).json()["images"][0]["state"]

    assert state() == "done"
    assert state() == "skipped"
    assert state("--window", "0,31,0,31") == "done"


def test_zarr_and_the_labels_of_segment(attention, run, tiny_model, images, tmp_path):
    assert attention("--zarr").code == 0
    folder = tmp_path / "out" / "a"
    run("segment", images / "a.tif", "-o", tmp_path, "--model", tiny_model, "--diameter", 14)
    plain = tifffile.imread(tmp_path / "a.tif")
    assert np.array_equal(tifffile.imread(folder / "labels.tif"), plain)
    assert not (folder / "maps").exists()
    assert not list(folder.glob("figure.*"))
    ψ = read_image(folder / "maps.ome.zarr" / "aua_1")
    assert ψ.axes == "YX"
    assert 0 <= np.asarray(ψ.array).min() <= np.asarray(ψ.array).max() <= 1


def test_one_plane_of_a_stack(attention, tmp_path):
    planes = [synthetic_nuclei((48, 64), n=4, diameter=14, seed=seed)[0] for seed in (1, 2)]
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(stack, np.stack(planes), imagej=True, metadata={"axes": "ZYX"})
    refused = attention(inputs=(stack,))
    assert refused.code == 2
    assert "Z 0…1" in refused.err
    assert "--plane 1" in refused.err
    assert "T 0…1" in attention("--axes", "TYX", inputs=(stack,)).err
    assert attention("--plane", "7", inputs=(stack,)).code == 2
    assert attention("--plane", "1", inputs=(stack,)).code == 0
    record = json.loads((tmp_path / "out" / "extra" / "attention" / "stack.json").read_text())
    assert record["provenance"]["settings"]["image"]["index"] == [1]
    single = attention("--plane", "0", out=tmp_path / "other")
    assert single.code == 2
    assert "without --plane" in single.err


def test_a_flat_image_has_no_maps_and_says_so(attention, tmp_path):
    path = tmp_path / "flat.tif"
    tifffile.imwrite(path, np.full((32, 40), 7, np.uint8))
    result = attention("--figure", inputs=(path,))
    assert result.code == 0
    assert "no maps" in result.err
    folder = tmp_path / "out" / "flat"
    assert not tifffile.imread(folder / "labels.tif").any()
    assert (folder / "figure.svg").is_file()
    assert rows(folder / "objects.csv") == []


def test_a_model_without_attention_has_cells_and_no_maps_and_says_so(run, images, tmp_path):
    config = NetworkConfig(
        kind="focal_unet", base_channels=4, scales=(False,) * 4, gates=(False,) * 4
    )
    classes = ("background", "interior", "boundary")
    card = ModelCard(name="plain", network=config, classes=classes, diameter=14)
    path = save_model(tmp_path / "plain.safetensors", make_network(config), card)
    out = tmp_path / "out"
    result = run("attention", images / "a.tif", "-o", out, "--model", path, "--no-figure")
    assert result.code == 0
    assert "this model has no attention: there are no maps" in result.err
    assert "one value throughout" not in result.err
    assert (out / "a" / "labels.tif").is_file()
    assert not list((out / "a").glob("maps/*"))


@pytest.mark.parametrize(
    "flags",
    [("--plane", "x"), ("--window", "1,2,3"), ("--window", "9,3,0,5"), ("--window", "a,b,c,d")],
)
def test_wrong_flags_are_explained(attention, flags):
    result = attention(*flags)
    assert result.code == 2
    assert flags[0] in result.err
    assert "such as" in result.err


def test_a_window_outside_the_image(attention):
    result = attention("--window", "500,600,0,10")
    assert result.code == 2
    assert "--window" in result.err


def test_planes_and_windows_as_they_are_typed():
    assert plane_numbers(None) == plane_numbers("") == ()
    assert plane_numbers("12") == (12,)
    assert plane_numbers("0, 12") == plane_numbers("0 12") == (0, 12)
    assert window_numbers(None) is None
    # first and last, both seen: a single pixel is a part, too
    assert window_numbers("0,255,100,355") == (0, 256, 100, 356)
    assert window_numbers("0 0 0 0") == (0, 1, 0, 1)
    for wrong in ("-1,5,0,5", "0,5,-1,5", "1,0,0,5", "0,5,1,0", "0,5,0,5,6"):
        with pytest.raises(SettingsError, match="--window"):
            window_numbers(wrong)


def test_a_window_is_cut_at_the_ends_of_the_image():
    assert _inside(None, (20, 30)) is None
    assert _inside((0, 99, 5, 99), (20, 30)) == (0, 20, 5, 30)
    assert _inside((19, 20, 29, 30), (20, 30)) == (19, 20, 29, 30)
    for y0, x0 in ((20, 0), (0, 30)):
        with pytest.raises(SettingsError, match=f"row {y0}, column {x0}.*20 × 30 pixels"):
            _inside((y0, 99, x0, 99), (20, 30))


def test_the_picture_under_a_figure_is_what_people_look_at():
    rng = np.random.default_rng(0)
    for axes, shape, wanted in (
        ("YX", (8, 9), lambda a: a),
        ("ZYX", (2, 8, 9), lambda a: a[1]),
        ("YXC", (8, 9, 3), lambda a: a),  # in colour
        ("CYX", (2, 8, 9), lambda a: a.astype(np.float32).mean(0)),
    ):
        array = rng.integers(0, 255, shape, np.uint8)
        channels = (0, 1) if axes == "CYX" else None
        result = SimpleNamespace(plan=plan_image(array, axes, channels=channels))
        index = (1,) if "Z" in axes else ()
        np.testing.assert_allclose(picture(result, index), wanted(array), rtol=1e-6)


def test_outputs_of_others_are_not_touched(attention, run, tiny_model, images, tmp_path):
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (out / "a" / "labels.tif").write_bytes(b"mine")
    result = attention()
    assert result.code == 2
    assert (out / "a" / "labels.tif").read_bytes() == b"mine"
    assert attention("--overwrite").code == 0
    mixed = run("segment", images / "a.tif", "-o", out, "--model", tiny_model)
    assert mixed.code == 2
    assert "sa2net attention" in mixed.err


def test_an_image_inside_its_own_results_is_refused(attention, images, tmp_path):
    inside = tmp_path / "out" / "a" / "a.tif"
    inside.parent.mkdir(parents=True)
    inside.write_bytes((images / "a.tif").read_bytes())
    result = attention(inputs=(inside,))
    assert result.code == 2
    assert "another output folder" in result.err


def test_columns_stand_in_one_order_with_and_without_a_pixel_size(tmp_path):
    folder = ResultFolder(tmp_path / "out", "key", layout=ATTENTION)
    tables = {
        "a": "label,area_px,confidence,moved_px,history\n1,9,0.5,1.5,\n",
        "b": "label,area_px,area_um2,confidence,moved_px,moved_um,history\n"
        "1,9,2.25,0.5,1.5,0.75,split at 1/4\n",
    }
    for name, table in tables.items():
        path = tmp_path / f"{name}.tif"
        path.write_bytes(b"")
        job = Job(name, path)
        source = folder.claim(job)
        folder.mask_path(name).parent.mkdir(parents=True)
        folder.mask_path(name).write_bytes(b"")
        folder.finish(job, source, table, {})
    assert folder.write_objects() == 2
    first, second = rows(tmp_path / "out" / "objects.csv")
    wanted = ["image", *tables["b"].splitlines()[0].split(",")]
    assert list(first) == wanted
    assert (first["area_um2"], first["history"]) == ("", "")
    assert (second["moved_um"], second["history"]) == ("0.75", "split at 1/4")
