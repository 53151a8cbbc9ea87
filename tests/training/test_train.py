"""A real, tiny training from folder to registered model."""

import contextlib
import json
import shutil
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import tifffile
import torch
from scipy import ndimage
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from napari_sa2net import segment
from napari_sa2net.config import CLASSES, OUTPUTS, InputConfig, InstanceConfig, TrainConfig
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.data.training_set import load_training_folder, split_items
from napari_sa2net.errors import (
    Cancelled,
    ModelExistsError,
    OutputError,
    SettingsError,
    TrainingDataError,
    TrainingError,
)
from napari_sa2net.metrics import pool
from napari_sa2net.models import load_model
from napari_sa2net.models.file import save_model
from napari_sa2net.nn import network_config
from napari_sa2net.training import train
from napari_sa2net.training.dataset import (
    CropDataset,
    ValidationDataset,
    load_example,
)
from napari_sa2net.training.fine_tune import fine_tune
from napari_sa2net.training.processes import Place
from napari_sa2net.training.runs import write_tensors
from napari_sa2net.training.train import (
    FOREGROUNDS,
    TRIED,
    TUNED,
    SegmentationModule,
    _check_goes_on,
    _Watch,
    start_network,
    train_folder,
)

SMALL = TrainConfig(
    base_channels=4,
    steps=4,
    batch_size=2,
    crop=64,
    diameter=12,
    validate_every=2,
    learning_rate=1e-3,
    max_validation_images=2,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("training set")
    for kind in ("images", "labels"):
        (directory / kind).mkdir()
    for i in range(4):
        image, labels = synthetic_nuclei((96, 112), n=8, diameter=12, seed=i)
        tifffile.imwrite(directory / "images" / f"{i}.tif", image)
        tifffile.imwrite(directory / "labels" / f"{i}.tif", labels.astype(np.uint16))
    return directory


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))


TWO = SMALL.model_copy(
    update={"devices": 2, "device": "cpu", "precision": "float32", "validation_fraction": 0.5}
)


def sharing() -> list[psutil.Process]:
    """Processes that train along with this one."""
    found = []
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # one that has ended since
            if "train import follow" in " ".join(one.cmdline()):
                found.append(one)
    return found


def test_what_was_validated_is_known_to_who_goes_on(folder, tmp_path):
    run, seen = tmp_path / "run", []
    config = SMALL.model_copy(update={"steps": 6, "validate_every": 4})
    with pytest.raises(Cancelled):
        train_folder(
            folder,
            "later",
            config,
            run,
            on_progress=lambda *a: seen.append(a),
            cancelled=lambda: seen[-1][0] == 5,
        )
    best = (run / "best.ckpt").read_bytes()
    result = train_folder(folder, "later", config.model_copy(update={"resume": run}), run)
    assert result.card.training["best_step"] in (4, 5)  # where it was validated
    assert result.card.training["steps"] == 6
    assert (run / "best.ckpt").read_bytes() == best


def test_two_processes_share_batches_and_scores(folder, tmp_path):
    run = tmp_path / "run"
    steps = []
    result = train_folder(folder, "two", TWO, run, on_progress=lambda *a: steps.append(a))
    assert steps[-1][:2] == (4, 4)
    assert load_model("two").card.training["settings"]["devices"] == 2
    assert sharing() == []
    # What two processes scored, each its images, one alone scores as well.
    best = torch.load(run / "best.ckpt", weights_only=False)
    module = SegmentationModule(start_network(TWO)[0], TWO)
    module.load_state_dict(best["state_dict"])
    module.eval()
    _, items = split_items(load_training_folder(folder), TWO.validation_fraction, TWO.seed)
    examples = [load_example(item, InputConfig(), TWO.diameter) for item in items]
    with torch.inference_mode():
        for batch in DataLoader(ValidationDataset(examples, TWO), batch_size=1):
            module.validation_step(batch, 0)
    losses, scores = zip(*module._validated, strict=True)
    assert len(losses) == 2
    found = result.scores
    np.testing.assert_allclose(found["loss"], np.mean(losses), rtol=1e-4)
    at = TRIED.index(tuple(getattr(result.card.instance, field) for field in TUNED))
    alone = pool([one[at] for one in scores])
    np.testing.assert_allclose(found["dice"], alone["dice"], atol=1e-3)


def test_each_crop_comes_once(folder):
    shares = [list(Place(rank, 3).share(12)) for rank in range(3)]
    for step in range(2):
        batch = sorted(i for share in shares for i in share[2 * step : 2 * step + 2])
        assert batch == list(range(6 * step, 6 * step + 6))


def test_processes_that_share_end_together(folder, tmp_path):
    run, seen = tmp_path / "run", []

    def kill_one(done, total, what):
        if what.startswith("training") and done == 3:
            [other] = sharing()
            other.kill()

    longer = TWO.model_copy(update={"steps": 6})
    with pytest.raises(TrainingError, match=r"One of the 2 processes .* ended.* --resume"):
        train_folder(folder, "killed", longer, run, on_progress=kill_one)
    assert sharing() == []
    on = longer.model_copy(update={"resume": run})
    again = {"on_progress": lambda *a: seen.append(a), "cancelled": lambda: seen[-1][0] >= 4}
    with pytest.raises(Cancelled, match="step 4 of 6"):
        train_folder(folder, "killed", on, run, **again)
    assert sharing() == []
    assert [done for done, _, what in seen if what.startswith("training")] == [3, 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 3}, "cannot share batches of 3 .* 2 or 4"),
        ({"devices": 64, "batch_size": 64}, "this machine has"),
        ({"batch_size": 1}, r"a --batch-size of 2\."),
        ({"max_validation_images": 1}, "an image to validate with, and there is 1. Give fewer"),
    ],
)
def test_what_cannot_be_shared_is_said(folder, tmp_path, change, words):
    with pytest.raises(SettingsError, match=words):
        train_folder(folder, "x", TWO.model_copy(update=change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_ends_in_a_registered_model(folder, tmp_path):
    steps = []
    result = train_folder(
        folder, "tiny", SMALL, on_progress=lambda *a: steps.append(a), command="as called"
    )
    model = load_model("tiny")
    assert model.card.training["command"] == "as called"
    assert model.card.training["steps"] == 4
    assert model.card.training["settings"] == SMALL.model_dump(mode="json")
    assert model.card.diameter == 12
    least, most = model.card.image_diameters
    assert 9 < least <= most < 15
    assert model.card.instance.foreground in FOREGROUNDS
    assert set(model.card.scores["validation"]) >= {"ap50", "mean_ap", "dice", "loss"}
    assert result.path.is_file()
    assert steps[-1][:2] == (4, 4)
    with torch.no_grad():
        assert torch.isfinite(model.net(torch.rand(1, 3, 32, 32))).all()


def test_the_threshold_is_tuned_on_the_validation_images(monkeypatch):
    """Half-sure pixels around every cell are not the cell's: the model says so itself.

    Nor is what it is half sure of in the middle a cell.
    """
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    sure = torch.full((1, 64, 64), 0.02)
    for number, (y, x) in enumerate(((4, 4), (4, 36), (36, 20)), start=1):
        sure[:, y - 3 : y + 19, x - 3 : x + 19] = 0.63  # a rim of 3 px
        sure[:, y : y + 16, x : x + 16] = 0.97
        labels[:, y : y + 16, x : x + 16] = number
    sure[:, 50:60, 2:12] = 0.87

    class Net(torch.nn.Module):
        n_classes = 3

        def forward(self, image):
            return torch.stack([1 - sure, sure - 1e-6, torch.full_like(sure, 1e-6)], 1).log()

    module = SegmentationModule(Net(), SMALL)
    said = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: said.update({name: value}))
    module.on_validation_epoch_start()
    batch = {"image": torch.zeros(1, 3, 64, 64), "labels": labels, "target": labels * 0}
    module.validation_step({**batch, "mask": labels >= 0}, 0)
    module.on_validation_epoch_end()
    assert said["val_foreground"] == 0.65
    assert said["val_min_confidence"] == 0.9
    assert said["val_mean_ap"] == 1


@pytest.mark.parametrize(
    ("dip", "cells", "split"),
    [(0.21, 2, 0.58), (0.21, 1, 0.5), (0.29, 2, 0.5), (0.29, 1, 0.43), (0.4, 2, 0.5)],
)
def test_how_deep_a_dip_cuts_is_tuned_on_the_validation_images(monkeypatch, dip, cells, split):
    """Two summits of the distance, with a pass between them that is this deep."""
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    labels[:, 20:44, 8:32] = 1
    labels[:, 20:44, 32:56] = cells
    outside = torch.where(labels > 0, 0.02, 0.98)
    at = (torch.arange(64.0) - 31.5).abs()
    height = 0.95 - dip * (1 - at / 12).clamp(min=0) - 0.05 * (at - 12).clamp(min=0)
    distance = height.clamp(0.02, 0.98).expand(1, 64, 64)

    class Net(torch.nn.Module):
        n_classes = 4

        def forward(self, image):
            sure = torch.stack([outside, 0.99 * (1 - outside), 0.01 * (1 - outside)], 1)
            return torch.cat([sure.log(), distance.logit()[:, None]], 1)

    module = SegmentationModule(Net(), SMALL)
    said = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: said.update({name: value}))
    module.on_validation_epoch_start()
    batch = {"image": torch.zeros(1, 3, 64, 64), "labels": labels, "target": labels * 0}
    module.validation_step({**batch, "mask": labels >= 0}, 0)
    module.on_validation_epoch_end()
    assert said["val_split"] == split
    assert said["val_ap50"] == 1


def test_the_same_seed_gives_the_same_weights(folder, tmp_path):
    config = SMALL.model_copy(update={"steps": 2, "precision": "float32"})
    nets = [
        load_model(train_folder(folder, "twin", config, out=tmp_path / name).path).net
        for name in ("a", "b")
    ]
    for a, b in zip(*(net.state_dict().values() for net in nets), strict=True):
        torch.testing.assert_close(a, b)


def test_a_cancelled_run_goes_on_where_it_was(folder, tmp_path):
    run = tmp_path / "run"
    seen = []

    def stop_after_three():
        seen.append(1)
        return len(seen) >= 3

    with pytest.raises(Cancelled, match="--resume"):
        train_folder(folder, "later", SMALL, out=run, cancelled=stop_after_three)
    assert not list(run.glob("*.safetensors"))
    steps = []
    config = SMALL.model_copy(update={"resume": run})
    for change in (
        {"base_channels": 8},
        {"network": "focal_unet"},
        {"seed": 5},
        {"learning_rate": 0.5},
    ):
        [flag] = change
        other = config.model_copy(update=change)
        with pytest.raises(SettingsError, match=f"--{flag.replace('_', '-')} was .* Give the"):
            train_folder(folder, "else", other)
    assert not (tmp_path / "home" / "runs" / "else").exists()
    # what was not said is the same where it is said
    said = {"network": "sa2net", "squeeze_excitation": False}
    config = config.model_copy(update=said)
    result = train_folder(
        folder, "later", config, out=run, on_progress=lambda *a: steps.append(a)
    )
    trained = [done for done, _, what in steps if what.startswith("training")]
    assert trained == [4], "steps 1 to 3 are in the checkpoint"
    assert result.card.training["steps"] == 4


def test_what_a_base_has_may_be_said_where_a_run_goes_on(tiny_model, tmp_path):
    config = SMALL.model_copy(update={"base": str(tiny_model), "base_channels": None})
    (tmp_path / "settings.json").write_text(config.model_dump_json())
    said = {"network": "sa2net", "base_channels": 4, "squeeze_excitation": False}
    on = config.model_copy(update={"resume": str(tmp_path), **said})
    _check_goes_on(on, {})
    with pytest.raises(SettingsError, match="--base-channels was 4 and is 8"):
        _check_goes_on(on.model_copy(update={"base_channels": 8}), {})


@pytest.mark.parametrize(
    ("said", "kind", "n_outputs", "channels", "se"),
    [
        ({}, "sa2net", 4, 16, False),
        ({"distance": False, "base_channels": 4}, "sa2net", 3, 4, False),
        ({"network": "focal_unet", "base_channels": 4}, "focal_unet", 4, 4, True),
        (
            {"network": "focal_unet", "base_channels": 4, "squeeze_excitation": False},
            "focal_unet",
            4,
            4,
            False,
        ),
    ],
)
def test_a_network_is_what_is_recommended_where_nothing_is_said(
    said, kind, n_outputs, channels, se
):
    net, parent = start_network(TrainConfig(**said))
    shape = network_config(net)
    assert parent is None
    assert (shape.kind, shape.n_classes, shape.base_channels) == (kind, n_outputs, channels)
    assert shape.se == (se,) * 4
    for head in (net.outc1, net.outc2, net.outc3, net.outc4):
        shares = head.bias[:3].detach().softmax(0).tolist()
        assert shares == pytest.approx([0.8, 0.15, 0.05])  # most pixels are background


@pytest.mark.parametrize(
    ("began", "said", "words"),
    [
        # an older version wrote down what nobody had said
        ({"network": "sa2net", "base_channels": 16}, {}, None),
        ({"network": "sa2net", "base_channels": 8}, {}, "--base-channels was 8 and is 16"),
        ({"network": "sa2net"}, {"network": "focal_unet"}, "--network was sa2net and is focal"),
        ({"steps": 9, "workers": 3, "device": "cuda", "validate_every": 7}, {}, None),
        ({"seed": 5, "crop": 64}, {"seed": 5, "crop": 96}, "--crop was 64 and is 96. Give"),
        ({"gone": 5}, {}, None),
        # begun before there were these
        ({"seed": 0}, {"touching_weight": 5.0}, "--touching-weight was 0.0 and is 5.0"),
        ({"seed": 0}, {"hard_share": 1.0}, "--hard-share was 0.0 and is 1.0"),
        ({}, {"touching_weight": 5.0}, None),
    ],
)
def test_a_run_goes_on_with_the_settings_that_it_began_with(began, said, words, tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps(began))
    config = TrainConfig(resume=tmp_path, **said)
    if words is None:
        _check_goes_on(config, {})
    else:
        with pytest.raises(SettingsError, match=words):
            _check_goes_on(config, {})


@pytest.mark.parametrize(
    ("began", "now", "words"),
    [
        ({"axes": "CYX", "channels": [0, 2]}, {"axes": "CYX", "channels": [0, 2]}, None),
        ({"axes": "CYX"}, {}, "began with --axes CYX: give the same"),
        ({"channels": [0, 2]}, {"channels": [2, 0]}, "began with --channels 0,2: give"),
        ({}, {"channels": [1]}, "began without --channels: leave it out"),
        ({}, {"axes": "CYX"}, "began without --axes: leave it out"),
    ],
)
def test_a_run_goes_on_with_images_as_it_began_to_read_them(began, now, words, tmp_path):
    config = TrainConfig(resume=tmp_path)
    _check_goes_on(config, now)  # there is no word of what it began with
    (tmp_path / "settings.json").write_text(json.dumps(began))
    _check_goes_on(TrainConfig(), now)  # begins anew
    if words is None:
        _check_goes_on(config, now)
    else:
        with pytest.raises(SettingsError, match=words):
            _check_goes_on(config, now)


def test_matrices_alone_shrink_and_the_rate_warms_up():
    config = SMALL.model_copy(update={"weight_decay": 0.03, "steps": 40, "warmup": 0.5})
    module = SegmentationModule(start_network(config)[0], config)
    made = module.configure_optimizers()
    decays, plain = made["optimizer"].param_groups
    assert (decays["weight_decay"], plain["weight_decay"]) == (0.03, 0)
    assert min(p.ndim for p in decays["params"]) > 1 >= max(p.ndim for p in plain["params"])
    n = sum(1 for _ in module.net.parameters())
    assert len(decays["params"]) + len(plain["params"]) == n
    schedule = made["lr_scheduler"]
    assert schedule["interval"] == "step"
    rates = [schedule["scheduler"].lr_lambdas[0](step) for step in range(40)]
    assert rates[0] < rates[10] < rates[20] == pytest.approx(1, abs=0.06)
    assert decays["lr"] == pytest.approx(config.learning_rate * rates[0])


def test_what_was_found_best_is_told_and_of_equals_the_first(monkeypatch):
    module = SegmentationModule(start_network(SMALL)[0], SMALL)
    said = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: said.update({name: value}))
    # of ap50 and mean_ap, with the first settings that are tried; the others find nothing
    found = [(0.5, 0.5), (0.9, 0.2), (0.4, 0.7), (0.1, 0.9), *[(0.0, 0.0)] * (len(TRIED) - 4)]
    pooled = iter([{"ap50": a, "mean_ap": b, "dice": 0.8} for a, b in found])
    monkeypatch.setattr("napari_sa2net.training.train.pool", lambda _: next(pooled))
    module._validated = [(1.0, [None] * len(found)), (2.0, [None] * len(found))]
    module.on_validation_epoch_end()
    assert said["val_loss"] == 1.5
    assert said["val_score"] == pytest.approx(0.55)
    assert (said["val_ap50"], said["val_mean_ap"], said["val_dice"]) == (0.9, 0.2, 0.8)
    assert [said[f"val_{name}"] for name in TUNED] == [0.5, 0.5, 0.85]


def test_a_step_is_told_and_a_run_is_stopped_between_two(monkeypatch):
    told, stop = [], []
    watch = _Watch(9, lambda *step: told.append(step), lambda: bool(stop))
    strategy = SimpleNamespace(
        reduce=lambda value: value, reduce_boolean_decision=lambda asked, all: asked
    )
    trainer = SimpleNamespace(
        strategy=strategy,
        global_step=3,
        should_stop=False,
        callback_metrics={"val_dice": 0.5, "train_loss": 1.0},
    )
    watch.on_train_batch_end(trainer, None, {"loss": torch.tensor(0.1239)})
    assert told == [(3, 9, "training, loss 0.124")]
    assert not watch.stopped
    assert not trainer.should_stop
    stop.append(1)
    watch.on_train_batch_end(trainer, None, {"loss": torch.tensor(0.1)})
    assert watch.stopped
    assert trainer.should_stop
    for bad in (torch.nan, torch.inf):
        with pytest.raises(TrainingError, match=r"at step 3\. Lower the learning rate"):
            watch.on_train_batch_end(trainer, None, {"loss": torch.tensor(bad)})
    checkpoint = {}
    watch.on_save_checkpoint(trainer, None, checkpoint)
    assert checkpoint["validation"] == {"dice": 0.5}


def test_an_interrupted_run_ends_like_an_uninterrupted_one(folder, tmp_path):
    config = SMALL.model_copy(update={"precision": "float32"})
    train_folder(folder, "whole", config, out=tmp_path / "whole")
    run, seen = tmp_path / "parts", []

    def stop_after_two():
        seen.append(1)
        return len(seen) == 2

    with pytest.raises(Cancelled):
        train_folder(folder, "parts", config, out=run, cancelled=stop_after_two)
    train_folder(folder, "parts", config.model_copy(update={"resume": run}), out=run)
    whole, parts = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=False)
        for name in ("whole", "parts")
    )
    assert whole["global_step"] == parts["global_step"] == 4
    assert (run / "log").is_dir()
    assert list((run / "log").glob("from_step_*")), "the first part's log stays"
    for state in ("current_model_state", "state_dict"):  # present and averaged weights
        for key, value in whole[state].items():
            torch.testing.assert_close(parts[state][key], value, msg=f"{state} {key}")


def test_a_run_that_ends_between_validations_goes_on_where_it_was(
    folder, tmp_path, monkeypatch
):
    config = SMALL.model_copy(update={"precision": "float32", "validate_every": 4})
    train_folder(folder, "whole", config, out=tmp_path / "whole")
    monkeypatch.setattr("napari_sa2net.training.train.SAVE_AFTER", timedelta(0))
    run, seen, steps = tmp_path / "parts", [], []

    def stop_after_three():
        seen.append(1)
        return len(seen) == 3

    with pytest.raises(Cancelled):
        train_folder(folder, "parts", config, out=run, cancelled=stop_after_three)
    train_folder(
        folder,
        "parts",
        config.model_copy(update={"resume": run}),
        out=run,
        on_progress=lambda *a: steps.append(a),
    )
    trained = [done for done, _, what in steps if what.startswith("training")]
    assert trained == [4]
    whole, parts = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=False)
        for name in ("whole", "parts")
    )
    for key, value in whole["state_dict"].items():
        torch.testing.assert_close(parts["state_dict"][key], value, msg=key)


def test_training_can_start_from_a_model(folder, tmp_path):
    config = SMALL.model_copy(update={"steps": 2})
    parent = train_folder(folder, "parent", config)
    more = {"hard_share": 0.5, "touching_weight": 2.0, "wide_share": 0.5}
    config = config.model_copy(update={"base": "parent", "learning_rate": 1e-9, **more})
    child = train_folder(folder, "child", config)
    assert child.card.parent is not None
    assert child.card.parent.startswith("parent ")
    a, b = (load_model(r.path).net.outc4.weight for r in (parent, child))
    torch.testing.assert_close(a, b, atol=1e-3, rtol=0)


@pytest.fixture
def hard(tiny_model):
    """Settings of a training that looks at what a model that finds the cells gets wrong."""
    return SMALL.model_copy(update={"base": str(tiny_model), "hard_share": 1.0})


@pytest.fixture
def flawed(folder, tmp_path):
    """The folder, but one cell of each image has no label, and one label no cell."""
    directory = tmp_path / "flawed"
    shutil.copytree(folder, directory)
    for path in (directory / "labels").iterdir():
        labels = tifffile.imread(path)
        labels[labels == 3] = 0
        ground = np.argwhere(ndimage.minimum_filter(labels == 0, 9, mode="constant"))
        y, x = ground[len(ground) // 2]
        labels[y - 3 : y + 4, x - 3 : x + 4] = 99
        tifffile.imwrite(path, labels)
    return directory


def until_crops(directory, config, run, place=None, **how):
    """A training up to its first step; gives the examples that crops are cut from."""
    seen = []

    def stop(examples, *_):
        seen.extend(examples)
        raise Cancelled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "CropDataset", stop)
        with pytest.raises(Cancelled):
            train.train_with(place or Place(), directory, "child", config, run, **how)
    return seen


def places(examples):
    return {one.item.name: one.hard.tolist() for one in examples}


def makes_a_step(run):
    torch.save({"global_step": 1}, run / "last.ckpt")


def test_training_looks_at_what_its_base_gets_wrong(folder, flawed, hard, tmp_path):
    said = []
    crops = until_crops(flawed, hard, tmp_path, on_progress=lambda *a: said.append(a))
    looked = [one[:2] for one in said if "gets wrong" in one[2]]
    assert looked == [(i + 1, len(crops)) for i in range(len(crops))]
    for one in crops:
        whole = tifffile.imread(folder / "labels" / f"{one.item.name}.tif")
        for place in (one.centres[-1], ndimage.center_of_mass(whole == 3)):
            assert np.linalg.norm(one.hard - place, axis=1).min() < 1
        assert len(one.hard) <= 3


def test_in_a_large_image_it_looks_in_the_middle(flawed, hard, tmp_path, monkeypatch):
    everywhere = until_crops(flawed, hard, tmp_path)
    monkeypatch.setattr(train, "HARD_SIDE", 64)
    middle = until_crops(flawed, hard, tmp_path)
    n = 0
    for one, other in zip(everywhere, middle, strict=True):
        half = np.divide(one.labels.shape, 2)
        assert (np.abs(other.hard - half) <= 32 * one.diameter / hard.diameter + 1).all()
        for place in one.hard[(np.abs(one.hard - half) < 24).all(1)]:
            assert np.linalg.norm(other.hard - place, axis=1).min() < 1
            n += 1
    assert n


def test_a_large_image_is_searched_in_pieces(folder, hard):
    item = load_training_folder(folder)[0]
    one = load_example(item, InputConfig(), hard.diameter)
    config = hard.model_copy(update={"diameter": 8 * one.diameter})  # 768 x 896 of the network
    asked = []
    train._with_hard([one], config, None, lambda: asked.append(1))
    assert len(asked) == 2


def test_its_base_is_judged_with_its_own_settings(folder, hard, tiny_model, tmp_path):
    model = load_model(tiny_model)
    card = model.card.model_copy(update={"instance": InstanceConfig(min_confidence=1)})
    strict = save_model(tmp_path / "strict.safetensors", model.net, card)
    config = hard.model_copy(update={"base": str(strict)})
    for one in until_crops(folder, config, tmp_path / "run"):
        np.testing.assert_allclose(one.hard, one.centres)  # of none it is so sure: all missed


def test_who_goes_on_and_who_trains_along_look_at_the_same(
    folder, flawed, hard, tmp_path, monkeypatch
):
    run, out = tmp_path / "run", tmp_path / "out"
    until_crops(folder, hard, out)  # what another run left there
    began = places(until_crops(flawed, hard, run))
    makes_a_step(run)
    makes_a_step(out)
    on = hard.model_copy(update={"resume": run})
    monkeypatch.setattr(train, "_with_hard", lambda *_: pytest.fail("looked again"))
    assert places(until_crops(flawed, hard, run, Place(1, 2))) == began
    assert places(until_crops(flawed, on, run)) == began
    assert (run / "last.ckpt").is_file()
    assert places(until_crops(flawed, on, out)) == began
    assert places(until_crops(flawed, on, out, Place(1, 2))) == began
    assert not (out / "last.ckpt").exists()


def test_places_of_something_else_are_refused(folder, flawed, hard, other_model, tmp_path):
    run, base = tmp_path / "run", tmp_path / "base.safetensors"
    shutil.copy(hard.base, base)
    hard = hard.model_copy(update={"base": str(base)})
    until_crops(flawed, hard, run)
    makes_a_step(run)
    on = hard.model_copy(update={"resume": run})
    others = tmp_path / "others"
    shutil.copytree(flawed, others)
    for path in [*others.glob("*/*.tif")]:
        path.rename(path.with_stem(f"other {path.stem}"))
    with pytest.raises(SettingsError, match="began with another set of images"):
        train_folder(others, "child", on, run)
    shutil.copy(other_model, base)
    with pytest.raises(SettingsError, match="began with another base"):
        train_folder(flawed, "child", on, run)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"x", lambda b: b[:200] + b[300:]])
def test_damaged_places_are_looked_for_anew(flawed, hard, tmp_path, damage):
    began = places(until_crops(flawed, hard, tmp_path))
    makes_a_step(tmp_path)
    on = hard.model_copy(update={"resume": tmp_path})
    kept = tmp_path / "hard.npz"
    kept.write_bytes(damage(kept.read_bytes()))
    with pytest.raises(SettingsError, match=r"hard\.npz is damaged .* Delete it"):
        train_folder(flawed, "child", on, tmp_path)
    kept.unlink()
    assert places(until_crops(flawed, on, tmp_path)) == began


def test_a_run_that_begins_anew_takes_nothing_from_one_before(folder, flawed, hard, tmp_path):
    said = []
    before = until_crops(folder, hard, tmp_path)
    makes_a_step(tmp_path)
    left = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    anew = hard.model_copy(update={"seed": 9})
    with pytest.raises(Cancelled):
        train_folder(
            flawed,
            "child",
            anew,
            tmp_path,
            on_progress=lambda *a: said.append(a),
            cancelled=lambda: "gets wrong" in said[-1][2],
        )
    # as long as it looks for places, the one before can go on
    assert {name: (tmp_path / name).read_bytes() for name in left} == left
    assert places(until_crops(flawed, anew, tmp_path)) != places(before)
    assert not (tmp_path / "last.ckpt").exists()
    assert json.loads((tmp_path / "settings.json").read_text())["seed"] == 9


def test_the_weight_of_pixels_reaches_the_loss():
    config = SMALL.model_copy(update={"touching_weight": 4.0})
    module = SegmentationModule(start_network(config)[0].eval(), config)
    batch = {
        "image": torch.rand(1, 3, 32, 32),
        "target": torch.randint(0, 3, (1, 32, 32)),
        "distance": torch.rand(1, 32, 32),
        "mask": torch.ones(1, 32, 32, dtype=torch.bool),
    }
    ones = torch.ones(1, 32, 32)
    some = torch.where(batch["target"] == 2, 5.0, 1.0)
    with torch.no_grad():
        plain, weighed = (float(module.loss_of({**batch, "weight": w})) for w in (ones, some))
    assert abs(plain - weighed) > 0.01


def test_the_saved_statistics_are_those_of_the_saved_weights(folder, tmp_path):
    """At a high rate, averages of BatchNorm's statistics are not."""
    config = SMALL.model_copy(
        update={"learning_rate": 0.05, "validation_fraction": 0.25, "precision": "float32"}
    )
    result = train_folder(folder, "statistics", config)
    net = load_model(result.path).net
    norms = {name: m for name, m in net.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    kept = {name: m.running_mean.clone() for name, m in norms.items()}
    training, _ = split_items(load_training_folder(folder), 0.25, config.seed)
    examples = [load_example(item, InputConfig(), config.diameter) for item in training]
    crops = DataLoader(CropDataset(examples, config, config.steps * 2), config.batch_size)
    update_bn((batch["image"] for batch in crops), net)
    for name, m in norms.items():
        # Weights are kept in float16.
        torch.testing.assert_close(kept[name], m.running_mean, atol=0.02, rtol=0.02)


def test_a_model_of_classes_alone_learns_the_distance_too(folder, tmp_path):
    config = SMALL.model_copy(update={"steps": 2, "distance": False})
    parent = train_folder(folder, "classes", config)
    assert parent.card.classes == CLASSES
    more = SMALL.model_copy(update={"steps": 2, "base": "classes"})
    net, _ = start_network(more)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before, after = load_model(parent.path).net.eval()(x), net.eval()(x)
    torch.testing.assert_close(after[:, :3], before)
    assert (after[:, 3] == 0).all(), "nothing is known of it yet"
    wider = train_folder(folder, "wider", more)
    assert wider.card.classes == OUTPUTS
    image, _ = synthetic_nuclei((64, 64), n=4, seed=0)
    result = segment(image, model=wider.path, diameter=12)
    assert result.probability.shape == (4, 64, 64)
    np.testing.assert_allclose(result.probability[:3].sum(0), 1, atol=1e-3)
    assert result.probability[3].min() >= 0
    assert result.probability[3].max() <= 1


def test_names_and_settings_are_checked_before_the_work(folder, tmp_path):
    config = SMALL.model_copy(update={"steps": 2})
    train_folder(folder, "taken", config)
    with pytest.raises(ModelExistsError, match="another name"):
        train_folder(folder, "taken", config)
    with pytest.raises(SettingsError, match=r"last\.ckpt"):
        train_folder(folder, "x", config.model_copy(update={"resume": tmp_path}))
    with pytest.raises(SettingsError, match="--full --base MODEL"):
        train_folder(folder, "x", config.model_copy(update={"hard_share": 0.5}))
    with pytest.raises(TrainingDataError, match="kind weights"):
        train_folder(folder, "y", config.model_copy(update={"kind_weights": {"": 0.0}}))


def test_a_loss_that_is_no_number_stops_the_run(folder):
    config = SMALL.model_copy(update={"learning_rate": 1.0, "steps": 60, "warmup": 0.0})

    def poison(done, total, what):
        if what.startswith("reading"):
            return
        raise AssertionError("the run should have stopped before a step was reported")

    import napari_sa2net.training.train as module

    original = module.deep_supervision_loss
    module.deep_supervision_loss = lambda *a, **k: original(*a, **k) * torch.nan
    try:
        with pytest.raises(TrainingError, match="learning rate"):
            train_folder(folder, "nan", config, on_progress=poison)
    finally:
        module.deep_supervision_loss = original


def test_wrong_files_are_named(folder, tmp_path):
    broken = tmp_path / "broken"
    for kind in ("images", "labels"):
        (broken / kind).mkdir(parents=True)
    for i in range(2):
        tifffile.imwrite(broken / "images" / f"{i}.tif", np.ones((20, 20), np.uint8))
        tifffile.imwrite(broken / "labels" / f"{i}.tif", np.ones((20, 21), np.uint8))
    with pytest.raises(TrainingDataError, match="same height and width"):
        train_folder(broken, "z", SMALL)
    for i in range(2):
        tifffile.imwrite(broken / "labels" / f"{i}.tif", np.full((20, 20), 0.5, np.float32))
    with pytest.raises(TrainingDataError, match="whole numbers"):
        train_folder(broken, "z", SMALL)
    for i in range(2):
        tifffile.imwrite(broken / "labels" / f"{i}.tif", np.zeros((20, 20), np.uint8))
    with pytest.raises(TrainingDataError, match="labelled object"):
        train_folder(broken, "z", SMALL)


def test_settings_of_a_run_are_readable(folder, tmp_path, capfd):
    config = SMALL.model_copy(update={"steps": 2})
    train_folder(folder, "kept", config, out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["steps"] == 2
    said = capfd.readouterr()
    assert "Lightning" not in said.err + said.out
    assert "GPU available" not in said.err + said.out


@contextlib.contextmanager
def small_disk(n_bytes):
    """No file may grow beyond that; what writes more hears of it as of a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_no_checkpoint(folder, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Cancelled):
        train_folder(folder, "full", SMALL, run, cancelled=lambda: True)
    before = (run / "last.ckpt").read_bytes()
    on = SMALL.model_copy(update={"resume": run})
    with (
        small_disk(20_000),
        pytest.raises(OutputError, match=r"last\.ckpt' cannot be written.*disk is not full"),
    ):
        train_folder(folder, "full", on, out=run)
    assert (run / "last.ckpt").read_bytes() == before
    assert not list(run.glob(".part*"))


def test_a_full_disk_costs_no_state_of_a_run(tmp_path):
    write_tensors(tmp_path / "state.pt", {"a": torch.zeros(10)})
    before = (tmp_path / "state.pt").read_bytes()
    with small_disk(20_000), pytest.raises(OutputError, match="cannot be written"):
        write_tensors(tmp_path / "state.pt", {"a": torch.rand(100_000)})
    assert (tmp_path / "state.pt").read_bytes() == before
    with pytest.raises((RuntimeError, TypeError, AttributeError)):
        write_tensors(tmp_path / "state.pt", {"a": lambda: 0})


def test_label_images_without_a_cell_are_named(folder, tmp_path, caplog):
    empty = tmp_path / "empty"
    shutil.copytree(folder, empty)
    tifffile.imwrite(empty / "labels" / "0.tif", np.zeros((96, 112), np.uint8))
    train_folder(empty, "some", SMALL.model_copy(update={"steps": 2}))
    assert "0: no cell is labelled, so all of it is learned as background" in caplog.text
    for path in (empty / "labels").iterdir():
        tifffile.imwrite(path, np.zeros((96, 112), np.uint8))
    with pytest.raises(TrainingDataError, match="every pixel is 0"):
        fine_tune(empty, "nuclei", {"steps": 1}, name="none")
