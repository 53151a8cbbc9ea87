"""Training reads what segmenting read: of commits, of older sets, and of folders."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from napari_sa2net.app.training_set import read_kept
from napari_sa2net.config import FineTuneConfig, InputConfig, TrainConfig
from napari_sa2net.data import plan_image, synthetic_nuclei
from napari_sa2net.data.commit import MANIFEST, Commit, Seen
from napari_sa2net.data.corrections import TrainingSet, import_into
from napari_sa2net.data.formats import write_cells
from napari_sa2net.data.training_set import (
    TrainingItem,
    load_training_folder,
    object_size,
)
from napari_sa2net.errors import (
    ChannelError,
    CorrectionsError,
    LabelsError,
    SettingsError,
    TrainingDataError,
)
from napari_sa2net.inference.segment import predict_image, segment
from napari_sa2net.models.file import open_model, save_model
from napari_sa2net.training.compare import Notice
from napari_sa2net.training.compare_models import compare_models
from napari_sa2net.training.dataset import load_example, vary_intensity
from napari_sa2net.training.fine_tune import fine_tune
from napari_sa2net.training.held_out import focus
from napari_sa2net.training.train import train_folder

CELLS, LABELS = synthetic_nuclei((96, 96), n=8, diameter=20, seed=1)
GROUND = np.full_like(CELLS, 100)
GROUND[::7, ::5] = 130
NAMES = ("DAPI", "Membrane")
SMALL = {"steps": 2, "batch_size": 1, "crop": 48, "max_scored": 1}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))


def learned(item, expects=None, n=3):
    return load_example(item, expects or InputConfig(), 24, n).image


def seen(image, axes=None, channels=None, **more):
    plan = plan_image(image, axes, channels, **more)
    return plan.read((0,) * len(plan.stack_shape), 0, 96, 0, 96)


@pytest.fixture
def folder(tmp_path):
    """Images of two channels, with names; the cells are in the second."""
    for kind in ("images", "labels"):
        (tmp_path / "plain" / kind).mkdir(parents=True)
    for i in range(4):
        image, labels = synthetic_nuclei((96, 96), n=8, diameter=20, seed=i + 1)
        stack = np.stack([GROUND, image])
        path = tmp_path / "plain" / "images" / f"im{i}.ome.tif"
        path = path.with_name(f"im{i}.tif")
        tifffile.imwrite(
            path, stack, ome=True, metadata={"axes": "CYX", "Channel": {"Name": NAMES}}
        )
        tifffile.imwrite(tmp_path / "plain" / "labels" / f"im{i}.tif", labels.astype("u2"))
    return tmp_path / "plain"


# --- commits ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "axes", "channels"),
    [
        (np.stack([GROUND, CELLS]), "CYX", (0, 1)),
        (np.stack([GROUND, CELLS, GROUND, CELLS // 3]), "CYX", (0, 1, 2, 3)),
        (np.stack([GROUND, CELLS], axis=-1), "YXC", (0, 1)),
        (np.stack([GROUND, CELLS, GROUND, CELLS, GROUND], axis=-1), "YXC", range(5)),
        (np.stack([GROUND, CELLS, CELLS], axis=-1), None, None),
        (CELLS[None], "CYX", None),
    ],
)
def test_all_that_was_committed_is_learned_from(tmp_path, image, axes, channels):
    training_set = TrainingSet.open(tmp_path / "set", create=True)
    record = training_set.commit(Commit(image, LABELS, axes=axes))
    (item,) = load_training_folder(training_set.path)
    expected = seen(image, axes, channels)
    np.testing.assert_allclose(learned(item), expected, atol=1e-6)
    # As version 0.1.0 wrote it.
    path = training_set.path / MANIFEST
    manifest = json.loads(path.read_text())
    assert manifest["commits"][0].pop("seen") is None
    path.write_text(json.dumps(manifest))
    (item,) = load_training_folder(training_set.path)
    assert item.seen is None
    np.testing.assert_allclose(learned(item), expected, atol=1e-6)
    assert training_set.find(record.id).seen is None


def test_an_import_of_an_older_version_is_learned_from_as_it_was(tmp_path):
    """It copied all channels, and the first was learned from."""
    training_set = TrainingSet.open(tmp_path / "set", create=True)
    stack = np.stack([CELLS, GROUND])
    training_set.commit(Commit(stack, LABELS, axes="CYX", notes="imported from /data"))
    (item,) = load_training_folder(training_set.path)
    np.testing.assert_allclose(learned(item), seen(CELLS), atol=1e-6)


def test_a_commit_of_a_segmentation(tiny_model, tmp_path):
    """Settings of the result travel, and only the channels that were chosen are kept."""
    stack = np.stack([np.stack([GROUND, CELLS * (t + 1), CELLS // 2]) for t in range(3)])
    result = segment(stack, tiny_model, axes="TCYX", channels=(2, 1), diameter=30)
    training_set = TrainingSet.open(tmp_path / "set", create=True)
    record = training_set.commit(
        Commit(stack[0], LABELS, axes="CYX", channels=(2, 1), made=result.provenance)
    )
    assert record.axes == "CYX"
    assert (training_set.load(record.id).image == stack[0][[2, 1]]).all()
    assert record.parent.sha256 == result.provenance["model"]["sha256"]
    assert record.seen.channels == (2, 1)
    assert record.seen.predict["diameter"] == 30
    (item,) = load_training_folder(training_set.path)
    example = load_example(item, InputConfig(), 24)
    expected = result.plan.read((0,), 0, 96, 0, 96)
    np.testing.assert_allclose(example.image, expected, atol=1e-6)
    assert example.diameter == focus(example, 24).diameter == 30
    # Of one channel of colours there is one left.
    colours = np.stack([GROUND, CELLS, GROUND], axis=-1)
    record = training_set.commit(Commit(colours, LABELS, channels=[1]))
    assert record.axes == "YX"
    with pytest.raises(CorrectionsError, match="no channel 4"):
        training_set.commit(Commit(colours, LABELS, channels=[4]))


def test_models_see_images_as_they_would_segment_them(tmp_path):
    """Of one input channel, or of raw values."""
    training_set = TrainingSet.open(tmp_path / "set", create=True)
    stack = np.stack([GROUND, CELLS])
    training_set.commit(Commit(stack, LABELS, axes="CYX"))
    (item,) = load_training_folder(training_set.path)
    one = seen(stack, "CYX", (0, 1), in_channels=1)
    np.testing.assert_allclose(learned(item, n=1), one, atol=1e-6)
    with pytest.raises(TrainingDataError, match="takes 3 channels, and 2 are chosen"):
        learned(item, InputConfig(channel_order="any"))


@pytest.mark.parametrize(
    ("found", "left", "size"),
    [
        (20, 24, 20),
        (12, 24, 12),  # half as large, or twice
        (11.9, 24, 24),
        (48, 24, 48),
        (48.1, 24, 24),
        (20, None, 20),
        (None, 24, 24),
        (None, None, 30),
    ],
)
def test_an_estimated_size_that_was_far_off_is_not_learned_with(tmp_path, found, left, size):
    item = TrainingItem("a", tmp_path, tmp_path, seen=Seen(diameter=found))
    assert object_size(item, left, 30) == size
    # one that a person has typed is
    typed = replace(item, seen=Seen(diameter=found, predict={"diameter": 9}))
    assert object_size(typed, left, 30) == 9


def test_raw_values_are_not_flattened_by_augmentation():
    import torch

    image = torch.from_numpy(CELLS.astype(np.float32))[None].repeat(3, 1, 1)
    varied = vary_intensity(image, np.random.default_rng(0), colour=False)
    assert varied.max() > 0.3 * image.max()
    assert np.corrcoef(varied[0].ravel(), image[0].ravel())[0, 1] > 0.9


# --- folders ------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, "1", "membrane", ("Membrane",), [1]])
def test_channels_of_a_folder(folder, channels):
    item = load_training_folder(folder, channels=channels)[0]
    np.testing.assert_allclose(learned(item), seen(CELLS), atol=1e-6)


def test_several_channels_of_a_folder_in_an_order(folder):
    for channels in ((1, 0), "Membrane, DAPI", "1 0", ("1", "dapi")):
        item = load_training_folder(folder, channels=channels)[0]
        stack = np.stack([GROUND, CELLS])
        np.testing.assert_allclose(learned(item), seen(stack, "CYX", (1, 0)), atol=1e-6)


def test_channels_that_are_not_there(folder, tmp_path):
    for channels, words in (
        ("GFP", "its channels are DAPI, Membrane"),
        (2, "channels 0 to 1"),
        (-1, "no channel -1"),
    ):
        (item, *_) = load_training_folder(folder, channels=channels)
        with pytest.raises(TrainingDataError, match=words):
            learned(item)
    with pytest.raises(ChannelError, match="No channel is named"):
        load_training_folder(folder, channels=" , ")
    training_set, _ = import_into(tmp_path / "set", folder)
    with pytest.raises(TrainingDataError, match="Leave axes and channels out"):
        load_training_folder(training_set.path, channels=1)


def test_a_file_without_axes_is_spelled_out(tmp_path):
    for kind, values in (("images", np.stack([GROUND, CELLS])), ("labels", LABELS)):
        (tmp_path / kind).mkdir()
        np.save(tmp_path / kind / "a.npy", values)
    (item,) = load_training_folder(tmp_path)
    with pytest.raises(TrainingDataError, match=r"stack of 2 planes .* give --axes CYX"):
        learned(item)
    (item,) = load_training_folder(tmp_path, axes="CYX", channels=1)
    np.testing.assert_allclose(learned(item), seen(CELLS), atol=1e-6)
    with pytest.raises(TrainingDataError, match="names 4 axes"):
        learned(load_training_folder(tmp_path, axes="TCYX")[0])


def test_outlines_in_um_are_never_learned_as_pixels(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    um = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "images" / "a.tif", CELLS, **um)
    path = write_cells(tmp_path / "labels" / "a.geojson", LABELS, "geojson")
    content = json.loads(path.read_text("utf-8"))
    (item,) = load_training_folder(tmp_path)
    assert not load_example(item, InputConfig(), 24).note
    for feature in content["features"]:
        label = feature["properties"]["measurements"]["label"]
        area = float((label == LABELS).sum()) / 4
        feature["properties"]["measurements"]["Area µm^2"] = area
        rings = feature["geometry"]["coordinates"]
        feature["geometry"]["coordinates"] = [(np.array(r) / 2).tolist() for r in rings]
    path.write_text(json.dumps(content), "utf-8")
    for read in (
        lambda: load_example(item, InputConfig(), 24),
        lambda: import_into(tmp_path / "set", tmp_path),
        lambda: read_kept(tmp_path, "a"),
    ):
        with pytest.raises((TrainingDataError, LabelsError), match="seem to be in µm"):
            read()


def test_a_stack_of_one_plane_is_a_plane(tmp_path):
    for kind, values in (("images", np.stack([GROUND, CELLS])[None]), ("labels", LABELS)):
        (tmp_path / kind).mkdir()
        np.save(tmp_path / kind / "a.npy", values)
    (item,) = load_training_folder(tmp_path, axes="ZCYX", channels=1)
    np.testing.assert_allclose(learned(item), seen(CELLS), atol=1e-6)
    training_set, (record,) = import_into(tmp_path / "set", tmp_path, axes="ZCYX", channels=1)
    assert (training_set.load(record.id).image == CELLS).all()


def test_which_channel_is_taken_is_said(folder, caplog, tmp_path):
    said = []
    _, records = import_into(tmp_path / "set", folder, note=said.append)
    (note,) = said
    assert "2 channels, and none is chosen: channel 0 (DAPI)" in note
    assert records[0].axes == "YX"
    said.clear()
    import_into(tmp_path / "other", folder, channels="Membrane", note=said.append)
    assert said == []
    with caplog.at_level(logging.WARNING):
        config = TrainConfig(steps=1, batch_size=1, crop=32, validate_every=1)
        train_folder(folder, "first", config, tmp_path / "run")
    assert "channel 0 (DAPI)" in caplog.text


def test_an_import_of_other_channels_is_taken_in_anew(folder, tmp_path):
    training_set, records = import_into(tmp_path / "set", folder)
    assert import_into(tmp_path / "set", folder)[1] == []
    assert import_into(tmp_path / "set", folder, channels=0)[1] == []
    _, anew = import_into(tmp_path / "set", folder, channels=1)
    assert len(anew) == 4
    assert [r.place for r in anew] == [r.place for r in records]
    assert (training_set.load(anew[0].id).image == CELLS).all()
    assert len(training_set.commits("superseded")) == 4


def test_training_in_full_with_channels(folder, tmp_path):
    config = TrainConfig(steps=1, batch_size=1, crop=32, validate_every=1)
    result = train_folder(folder, "one", config, tmp_path / "run", channels="Membrane")
    assert result.card.training["channels"] == ["Membrane"]
    on = config.model_copy(update={"resume": tmp_path / "run", "steps": 2})
    with pytest.raises(SettingsError, match="began with --channels Membrane"):
        train_folder(folder, "one", on, tmp_path / "run")


def test_learning_and_comparing_with_channels(folder, tiny_model, tmp_path, monkeypatch):
    config = FineTuneConfig(**SMALL, rounds=1, replay=0)
    told = []
    tuned = fine_tune(folder, tiny_model, config, name="two", on_event=told.append)
    assert any("channel 0 (DAPI)" in e.text for e in told if isinstance(e, Notice))
    first = tuned.before.ap50
    tuned = fine_tune(folder, tiny_model, config, name="right", channels=("Membrane",))
    assert tuned.card.training["channels"] == ["Membrane"]
    assert tuned.before.ap50 > first + 0.3
    # Compared on that folder, it is read as it was learned from.
    from napari_sa2net.training import compare_models as module

    monkeypatch.setattr(module, "reference_images", lambda: iter(()))
    result = compare_models(tiny_model, tuned.path, folder)
    assert result.parts[0].change.before.ap50 > first + 0.3
    assert not any("chosen" in note for note in result.notes)
    result = compare_models(tiny_model, tuned.path, folder, channels=0)
    assert result.parts[0].change.before.ap50 < 0.3


def test_comparing_sees_channels_and_size_of_commits(tiny_model, tmp_path, monkeypatch):
    """Cells in the second of two channels; rescaled as then, or not at all."""
    from napari_sa2net.training import compare_models as module

    scales = []

    def predict(*args, **kwargs):
        made = predict_image(*args, **kwargs)
        scales.append(made.scale)
        return made

    monkeypatch.setattr(module, "reference_images", lambda: iter(()))
    monkeypatch.setattr(module, "predict_image", predict)
    model = open_model(tiny_model)
    card = model.card.model_copy(update={"diameter": 24.0})
    sound = save_model(tmp_path / "sound.safetensors", model.net, card)
    for tensor in model.net.parameters():
        tensor.data *= 0.0
    ruined = save_model(tmp_path / "ruined.safetensors", model.net, card)
    for i, (predict_as, scale) in enumerate(
        [({"diameter": 30.0}, 0.8), ({"rescale": False}, 1.0)]
    ):
        training_set = TrainingSet.open(tmp_path / f"set {i}", create=True)
        stack = np.stack([np.zeros_like(CELLS), CELLS])
        plan = plan_image(stack, "CYX", (0, 1))
        made = {"settings": {**plan.settings(), "predict": predict_as}}
        training_set.commit(Commit(stack, LABELS, axes="CYX", made=made))
        scales.clear()
        result = compare_models(sound, ruined, training_set)
        assert scales == pytest.approx([scale, scale])
        assert result.parts[0].change.before.ap50 > 0.2
