"""``sa2net corrections``."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_sa2net.data import synthetic_nuclei


@pytest.fixture
def plain(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "plain" / kind).mkdir(parents=True)
    for seed in range(2):
        image, labels = synthetic_nuclei((40, 50), 4, 12, seed)
        tifffile.imwrite(tmp_path / "plain" / "images" / f"Zelle {seed}.tif", image)
        tifffile.imwrite(tmp_path / "plain" / "labels" / f"Zelle {seed}.tif", labels)
    return tmp_path / "plain"


def test_a_set_is_made_listed_changed_and_passed_on(run, plain, tmp_path):
    folder = tmp_path / "Übung 1"
    made = run("corrections", "import", folder, plain, "--group", "dish")
    assert made.code == 0
    assert "imported 2 commits" in made.out
    repeated = run("corrections", "import", folder, plain)
    assert "imported 0 commits (all are here already)" in repeated.out

    listed = run("corrections", "list", folder, "--json").json()
    assert [entry["source"]["name"] for entry in listed] == ["Zelle 0", "Zelle 1"]
    first = listed[0]["id"]
    table = run("corrections", "list", folder)
    assert first[:8] in table.out
    assert "2 to train on, with 8 reviewed objects" in table.err

    shown = run("corrections", "show", folder, first[:6], "--json").json()
    assert shown["group"] == "dish"
    assert tifffile.imread(shown["files"]["labels"]).max() == 4
    assert "dish" in run("corrections", "show", folder, first).out

    # Corrected labels of the same image supersede.
    truth = plain / "labels" / "Zelle 0.tif"
    tifffile.imwrite(truth, np.where(tifffile.imread(truth) == 1, 0, 1).astype(np.int32))
    assert "imported 1 commit:" in run("corrections", "import", folder, plain).out
    listed = run("corrections", "list", folder, "--all", "--json").json()
    assert [entry["state"] for entry in listed] == ["superseded", "active", "active"]
    reverted = run("corrections", "revert", folder, listed[2]["id"])
    assert f"reverted {listed[2]['id'][:8]} to {first[:8]}" in reverted.out

    assert run("corrections", "remove", folder, first, listed[1]["id"]).code == 0
    assert run("corrections", "list", folder, "--json").json() == []
    assert run("corrections", "export", folder, tmp_path / "x.zip").code == 2
    assert run("corrections", "restore", folder, first).code == 0
    exported = run("corrections", "export", folder, tmp_path / "x.zip")
    assert "exported 1 commit:" in exported.out
    assert run("corrections", "export", folder, tmp_path / "x.zip").code == 2
    again = run("corrections", "export", folder, tmp_path / "x.zip", "--overwrite")
    assert again.code == 0
    run("corrections", "import", tmp_path / "other", tmp_path / "x.zip")
    (entry,) = run("corrections", "list", tmp_path / "other", "--json").json()
    assert entry["id"] == first

    (folder / "labels" / f"{entry['name']}.tif").unlink()
    assert "active, file gone" in run("corrections", "list", folder).out
    assert "labels gone" in run("corrections", "show", folder, first).out


def test_axes_and_channels_of_what_is_imported(run, plain, tmp_path):
    for path in (plain / "images").iterdir():
        image = tifffile.imread(path)
        stack = np.stack([np.zeros_like(image), image])
        names = {"axes": "CYX", "Channel": {"Name": ["Phase", "DAPI"]}}
        tifffile.imwrite(path, stack, ome=True, metadata=names)
    made = run("corrections", "import", tmp_path / "unsaid", plain)
    assert made.code == 0
    assert "2 channels, and none is chosen: channel 0 (Phase)" in made.err
    for flags in (("--channels", "dapi"), ("--channels", "1", "--axes", "CYX")):
        folder = tmp_path / " ".join(flags)
        made = run("corrections", "import", folder, plain, *flags)
        assert made.code == 0
        assert "channel" not in made.err
        (entry, _) = run("corrections", "list", folder, "--json").json()
        assert entry["seen"]["image"]["channels"] == [1]
        assert tifffile.imread(entry["files"]["images"]).max() > 0
    bad = run("corrections", "import", tmp_path / "bad", plain, "--channels", "GFP")
    assert bad.code == 2
    assert "its channels are Phase, DAPI" in bad.err
    assert not (tmp_path / "bad").exists()
    bad = run("corrections", "import", tmp_path / "bad", folder, "--channels", "1")
    assert "Leave axes and channels out" in bad.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list", "nowhere"), "is not there"),
        (("list", "."), "holds no corrections"),
        (("remove", "."), "holds no corrections"),
        (("show", "SET", "zzz"), "no commit 'zzz'"),
        (("remove", "SET"), "No commit is given"),
        (("import", "SET", "nowhere"), "is not a folder"),
    ],
)
def test_mistakes_are_one_line_each(run, tmp_path, monkeypatch, arguments, words):
    from napari_sa2net.data.corrections import TrainingSet

    monkeypatch.chdir(tmp_path)
    TrainingSet.open("SET", create=True)
    result = run("corrections", *arguments)
    assert result.code == 2
    assert words in result.err
    assert len(result.err.splitlines()) == 1


def relabelled(plain, change):
    for path in (plain / "labels").iterdir():
        tifffile.imwrite(path, change(tifffile.imread(path)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda labels: ((labels > 0) * 255).astype(np.uint8), "looks like a mask"),
        (lambda labels: (labels > 0).astype(np.uint8), "skimage.measure.label"),
        (lambda labels: 0 * labels, "every pixel is 0"),
        (lambda labels: labels / np.float32(255), "one for each cell"),
    ],
)
def test_what_is_no_numbered_cells_is_refused_and_leaves_nothing(
    run, plain, tmp_path, change, words
):
    relabelled(plain, change)
    refused = run("corrections", "import", tmp_path / "new", plain)
    assert refused.code != 0
    assert words in refused.err
    assert not (tmp_path / "new").exists()


def test_an_image_without_cells_beside_others_is_said(run, plain, tmp_path):
    path = next((plain / "labels").iterdir())
    tifffile.imwrite(path, 0 * tifffile.imread(path))
    made = run("corrections", "import", tmp_path / "new", plain)
    assert "imported 2 commits" in made.out
    assert f"{path.stem}: no cell is labelled" in made.err
