from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import tifffile
import zarr

from napari_sa2net.cli.models import card_lines
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.models import ModelCard


@pytest.fixture
def masks(tmp_path):
    """Truth of two images, and predictions: one right, one with a cell missing."""
    for kind in ("truth", "found"):
        (tmp_path / kind).mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        _, labels = synthetic_nuclei(shape=(96, 96), n=8, diameter=14, seed=seed)
        tifffile.imwrite(tmp_path / "truth" / f"{name}.tif", labels.astype(np.uint16))
        found = labels.copy()
        if name == "b":
            found[found == found.max()] = 0
        tifffile.imwrite(tmp_path / "found" / f"{name}.tif", found.astype(np.uint16))
    index = "split,name,kind\ntest,a.tif,fluo\ntest,b.tif,stained\ntrain,c.tif,fluo\n"
    (tmp_path / "index.csv").write_text(index)
    return tmp_path


def test_evaluate_prints_groups_and_json(run, masks):
    command = ("evaluate", masks / "found", masks / "truth", "--index", masks / "index.csv")
    options = ("--split", "test", "--group-by", "kind")
    result = run(*command, *options)
    assert result.code == 0
    lines = {line.split()[0]: line.split() for line in result.out.splitlines()}
    assert lines["group"][4] == "ap50"
    assert lines["fluo"][4] == "1.000"
    assert 0 < float(lines["stained"][4]) < 1
    assert float(lines["stained"][4]) < float(lines["all"][4]) < 1

    scores = run(*command, *options, "--json").json()
    assert scores["groups"]["fluo"]["ap50"] == 1
    assert f"{scores['all']['ap50']:.3f}" == lines["all"][4]


def test_evaluate_names_what_is_missing(run, masks):
    (masks / "found" / "b.tif").unlink()
    result = run("evaluate", masks / "found", masks / "truth")
    assert result.code == 2
    assert "missing" in result.err
    assert len(result.err.splitlines()) == 1


def test_models_come_and_go(run, tiny_model, tmp_path, own_home):
    imported = run("models", "import", tiny_model, "--name", "mine")
    assert imported.code == 0
    listed = run("models", "list", "--json").json()
    mine = next(entry for entry in listed if entry["name"] == "mine")
    assert mine["path"].startswith(str(own_home))
    assert not mine["bundled"]
    assert "mine" in run("models", "list").out
    assert run("models", "show", "mine", "--json").json()["card"]["name"] == "mine"
    shown = run("models", "show", tiny_model)
    assert "For tests only" in shown.out
    nuclei = run("models", "show", "nuclei").out
    assert "AP@0.5 0." in nuclei
    assert "not for" in nuclei
    assert "DAB" in nuclei
    assert "not for" not in shown.out
    assert not {"{", "[", '"'} & set(nuclei)
    assert "selectivity" not in nuclei, "as in every ordinary model"
    card = ModelCard.model_validate(
        {
            "name": "a",
            "network": {"gamma": (1.5, 1, 1, 0.25)},
            "classes": ("background", "interior", "boundary"),
        }
    )
    file = {"path": "a.safetensors", "size_bytes": 1}
    assert "selectivity     1/8: 1.5 · 1/4: 1 · 1/2: 1 · full: 0.25" in card_lines(
        card, file, False
    )
    sized = card.model_copy(update={"diameter": 24, "image_diameters": (13.04, 18)})
    expects = (
        "expects         objects 13 to 18 px across, as in the images that it learned from"
    )
    assert expects in card_lines(sized, file, False)
    detailed = run("models", "show", "nuclei", "--details").out
    assert "base_channels: 16" in detailed
    assert not {"{", "["} & set(detailed)
    assert len(detailed.splitlines()) > 2 * len(nuclei.splitlines())

    made = run("models", "variant", "mine", "--off", "4", "--selectivity", "1/4=2,full=0")
    assert made.out.splitlines()[0].startswith(f"kept mine-variant: {own_home}")
    shown = run("models", "show", "mine-variant").out
    assert "scores          not measured" in shown
    assert "variant of      mine " in shown
    assert "scales off      4" in shown
    assert "selectivity     1/8: 1 · 1/4: 2 · 1/2: 1 · full: 0" in shown
    twice = ("--selectivity", "1/4=2,1/4=3")
    switched = ("--off", "4", "--on", "4")
    for wrong in (("--off", "5"), ("--selectivity", "1/3=2"), twice, switched, ()):
        assert run("models", "variant", "mine", "other", *wrong).code == 2
    assert run("models", "remove", "mine-variant").code == 0

    taken = run("models", "import", tiny_model, "--name", "mine")
    assert taken.code == 2
    assert "mine" in taken.err
    assert run("models", "import", tiny_model, "--name", "mine", "--overwrite").code == 0

    assert run("models", "export", "mine", tmp_path / "copy.safetensors").code == 0
    assert (tmp_path / "copy.safetensors").read_bytes() == tiny_model.read_bytes()
    assert run("models", "rename", "mine", "ours").code == 0
    assert run("models", "aside", "ours").code == 0
    listed = {entry["name"]: entry for entry in run("models", "list", "--json").json()}
    assert listed["ours"]["aside"]
    assert run("models", "promote", "ours").code == 0
    removed = run("models", "remove", "ours")
    assert removed.out.strip() == f"removed ours: {own_home}/models/removed/ours.safetensors"
    assert run("models", "restore", "ours", "--name", "mine").code == 0
    assert run("models", "remove", "mine", "--forever").out.strip() == "removed mine: deleted"
    assert run("models", "remove", "nuclei").code == 2
    gone = run("models", "show", "mine")
    assert gone.code == 2
    assert "There is no model" in gone.err
    assert "'mine'" in gone.err


def test_two_models_are_compared(run, tiny_model):
    result = run("models", "compare", "nuclei", tiny_model)
    assert result.code == 0
    assert "stained tissue" in result.out
    assert "nuclei is better on fluorescence" in result.out
    same = run("models", "compare", tiny_model, tiny_model, "--json")
    assert same.code == 2
    assert "the same model" in same.err


def test_published_checkpoint_is_imported(run, shared_dir, own_home):
    published = shared_dir / "golden" / "official_segpc_style.pt"
    result = run("models", "import", published, "--name", "published")
    assert result.code == 0
    assert "Left out: " in result.err
    card = run("models", "show", "published", "--json").json()["card"]
    assert len(card["dropped_keys"]) > 0


def test_importing_nonsense_is_one_clear_line(run, tmp_path):
    (tmp_path / "x.pt").write_bytes(b"nonsense" * 50)
    result = run("models", "import", tmp_path / "x.pt")
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert "x.pt" in result.err


def test_debug_shows_the_way_to_an_error(run, tmp_path):
    from napari_sa2net.errors import SA2NetError

    with pytest.raises(SA2NetError):
        run("models", "show", tmp_path / "none.pt", "--debug")


def test_doctor_times_the_model_and_tells_every_check(run, tiny_model):
    report = run("doctor", "--model", tiny_model, "--json").json()
    checks = {check["name"]: check for check in report["checks"]}
    assert {"versions", "devices", "models", "napari", "window system", "speed"} <= set(checks)
    assert "megapixels per second with tiny" in checks["speed"]["found"]
    assert "torch" in checks["versions"]["found"]
    assert checks["napari"]["status"] == "ok"


def test_doctor_reports_a_broken_model_and_goes_on(run, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    result = run("doctor", "--model", tmp_path / "broken.safetensors")
    assert result.code == 1
    assert "✗ speed" in result.out
    assert "→" in result.out
    assert "versions" in result.out


def test_threads_wait_patiently_unless_told_otherwise(monkeypatch, capsys):
    from napari_sa2net import cli

    for given, found in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
        if given is None:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        with pytest.raises(SystemExit):
            cli.main(["--version"])
        assert os.environ["OMP_WAIT_POLICY"] == found


@pytest.mark.parametrize(
    ("flags", "display", "napari", "wanted"),
    [
        ((), True, True, "window"),
        ((), False, True, "files"),
        (("--window",), False, True, "window"),
        (("--no-window",), True, True, "files"),
        (("--window",), True, False, "files"),
    ],
)
def test_demo_opens_a_window_where_there_can_be_one(
    run, monkeypatch, flags, display, napari, wanted
):
    demo = importlib.import_module("napari_sa2net.cli.demo")
    done = []
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0" if display else "")
    dock = types.ModuleType("dock")
    dock.open_demo = lambda model, device: done.append(("window", model, device))
    monkeypatch.setitem(sys.modules, "napari_sa2net.widgets.dock", dock)
    monkeypatch.setattr(
        demo, "write_demo", lambda *given: done.append(("files", *given[1:])) or 3
    )
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: find(name) if name != "napari" or napari else None,
    )
    result = run("demo", *flags, "--model", "m", "--device", "cpu")
    assert done == [(wanted, "m", "cpu")]
    assert result.code == (0 if wanted == "window" else 3)
    assert ("napari is not installed" in result.err) == (not napari)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert demo.has_display()
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.delenv("WAYLAND_DISPLAY")
    monkeypatch.setenv("DISPLAY", "")
    assert demo.has_display()


def test_demo_without_a_window(run, tiny_model, tmp_path):
    out = tmp_path / "demo"
    result = run("demo", "--no-window", "-o", out, "--model", tiny_model)
    assert result.code == 0
    names = ["nuclei-stack", "nuclei-timelapse", "tissue"]
    places = [result.out.index(name) for name in names]
    assert places == sorted(places)  # what is hardest for the model comes last
    assert sorted(path.stem for path in out.glob("*.tif")) == names
    assert sorted(path.stem for path in out.glob("*.png")) == names
    for name in names:
        picture = (out / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert name in result.out
    record = json.loads((out / "extra" / "images" / "nuclei-stack.json").read_text())
    assert record["provenance"]["pixel_size_um"] == pytest.approx(0.26)


def test_help_of_every_command(run):
    for command in ("segment", "evaluate", "models", "train", "demo", "doctor"):
        result = run(command, "--help")
        assert result.code == 0
        assert "Usage" in result.out


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "cp932", "utf-8"])
def test_all_is_printed_on_any_encoding(encoding):
    text = "B\udcf6gen: ✓ 3 × 4 px², λ ≥ 0.5 “x” é 細"
    command = "from napari_sa2net.cli import console as c; c.print_on_any_encoding(); "
    command += f"c.stdout().print({text!r}); c.error({text!r})"
    done = subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    said = done.stdout.decode(encoding).strip()
    assert done.stderr.decode(encoding).strip() == f"error: {said}"
    assert said.replace("ö", "o").startswith("Bogen: ")
    expected = {
        "ascii": 'Bogen: ok 3 x 4 px2, lambda >= 0.5 "x" e ?',
        "cp1252": "Bögen: ok 3 × 4 px², lambda >= 0.5 “x” é ?",
        "utf-8": text.replace("\udcf6", "ö"),
    }
    assert said == expected.get(encoding, said)


@pytest.mark.parametrize("command", ["train", "attention", "focal-study"])
def test_help_is_printed_on_an_old_encoding(command):
    done = subprocess.run(
        [sys.executable, "-m", "napari_sa2net.cli", command, "--help"],
        env={**os.environ, "PYTHONIOENCODING": "cp437"},
        capture_output=True,
    )
    assert done.returncode == 0
    assert b"Usage: sa2net" in done.stdout
    assert b"Traceback" not in done.stderr


def test_a_disk_that_is_full_is_one_line(run, masks, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device", "/tmp/x")

    monkeypatch.setattr("napari_sa2net.evaluation.evaluate_folders", fail)
    result = run("evaluate", masks / "found", masks / "truth")
    assert result.code == 2
    assert result.err.splitlines() == [
        "error: '/tmp/x': No space left on device. Free space, or choose another folder."
    ]


def test_what_is_odd_about_masks_is_said(run, masks):
    path = masks / "found" / "a.tif"
    labels = tifffile.imread(path)
    tifffile.imwrite(path, (labels + 1) // 2)
    result = run("evaluate", masks / "found", masks / "truth")
    assert result.code == 0
    assert "several cells under one number are counted as one" in " ".join(result.err.split())
    said = run("evaluate", masks / "found", masks / "truth", "--json").json()["notes"]
    assert len(said) == 1
    tifffile.imwrite(path, (labels > 0).astype("u1"))
    result = run("evaluate", masks / "found", masks / "truth")
    assert result.code == 2
    assert "a.tif: this looks like a mask" in result.err


def can_hold(folder, name):
    try:
        (folder / name).write_bytes(b"")
        (folder / name).unlink()
    except (OSError, UnicodeError):
        return False
    return True


def test_names_that_are_no_utf_8(run, tmp_path, tiny_model):
    name = os.fsdecode(b"Z\xe4hle.tif")
    if not can_hold(tmp_path, name):
        pytest.skip("this system takes names in UTF-8 only")
    folder = tmp_path / os.fsdecode(b"B\xf6gen")
    image, labels = synthetic_nuclei((80, 80), n=8, diameter=14, seed=1)
    for kind, values in (("images", image), ("labels", labels.astype("u2"))):
        (folder / kind).mkdir(parents=True)
        tifffile.imwrite(str(folder / kind / name), values)
    (folder / "index.csv").write_bytes("split;name\ntrain;Zähle\n".encode("cp1252"))
    out = tmp_path / "out"
    command = ("segment", folder / "images", "-o", out, "--model", tiny_model)
    assert run(*command).code == 0
    assert (out / "Zähle.tif").is_file()
    assert (out / "objects.csv").read_text("utf-8").splitlines()[1].startswith("Zähle,1,")
    record = json.loads((out / "extra" / "images" / "Zähle.json").read_text("utf-8"))
    assert record["input"]["path"].endswith("Bögen/images/Zähle.tif")
    again = run(*command, "--json").json()["images"]
    assert [(one["name"], one["state"]) for one in again] == [("Zähle", "skipped")]
    assert run(*command[:2], "-o", tmp_path / "o2", *command[4:]).code == 0
    scores = run("evaluate", out, folder / "labels", "--index", folder / "index.csv", "--json")
    assert list(scores.json()["images"]) == ["Zähle"]
    explained = ("attention", folder / "images", "-o", tmp_path / "why", "--model", tiny_model)
    assert run(*explained, "--no-figure").code == 0
    assert (tmp_path / "why" / "Zähle" / "labels.tif").is_file()
    new = tmp_path / "new"
    assert run("corrections", "import", new, folder).code == 0
    (commit,) = run("corrections", "list", new, "--json").json()
    assert commit["source"]["name"] == "Zähle"
    assert commit["source"]["path"].endswith("Bögen/images/Zähle.tif")
    assert run("corrections", "import", new, folder).out.startswith("imported 0 commits")


def test_fields_of_a_plate_are_told_apart(run, tmp_path, tiny_model):
    image, _ = synthetic_nuclei((64, 64), n=5, diameter=14, seed=1)
    for well in ("A/1", "A/2", "B/1"):
        field = zarr.open_group(str(tmp_path / f"plate.zarr/{well}/0"), mode="w", zarr_format=2)
        field.create_array("0", shape=image.shape, dtype=image.dtype)[:] = image
        axes = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
        field.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    options = (tmp_path / "plate.zarr/*/*/0", "--model", tiny_model, "-o")
    assert run("segment", *options, tmp_path / "out").code == 0
    names = sorted(path.stem for path in (tmp_path / "out").glob("*.tif"))
    assert names == ["A_1_0", "A_2_0", "B_1_0"]
    assert run("attention", *options, tmp_path / "why", "--no-figure").code == 0
    assert sorted(p.parent.name for p in (tmp_path / "why").glob("*/labels.tif")) == names
