"""``sa2net train``: which recipe is meant, learning from corrections, repeating a card."""

import json
import shutil
import signal

import numpy as np
import pytest
import tifffile

from napari_sa2net.cli.train import ctrl_c
from napari_sa2net.data import write_cells
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.errors import Paused
from napari_sa2net.models import find_model, load_model
from napari_sa2net.training.compare import RoundPoint
from napari_sa2net.training.fine_tune import fine_tune

TUNE = ("--steps", "2", "--rounds", "1", "--batch-size", "1", "--crop", "48", "--replay", "0")
TUNE += ("--max-scored", "1")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for i in range(3):
        image, labels = synthetic_nuclei((64, 64), n=6, diameter=20, seed=i)
        tifffile.imwrite(folder / "images" / f"{i}.tif", image)
        tifffile.imwrite(folder / "labels" / f"{i}.tif", labels.astype(np.uint16))
    return folder


def test_base_means_learning_and_its_card_repeats_it(
    run, cells, tiny_model, own_home, tmp_path
):
    first = run("train", cells, "--name", "child", "--base", tiny_model, *TUNE, "--promote")
    assert first.code == 0, first.err
    assert "corrections held back" in first.out
    assert "reference set" in first.out
    card = find_model("child").card
    assert card.training["recipe"] == "fine-tune"
    assert card.training["command"].startswith("sa2net")

    path = tmp_path / "card.json"
    path.write_text(card.to_json(), encoding="utf-8")
    lost = run("train", cells, "--from-card", path)
    assert lost.code == 2
    assert "--base" in lost.err
    again = run("train", cells, "--from-card", path, "--base", tiny_model)
    assert again.code == 0, again.err
    one, two = load_model("child"), load_model("child-again")
    for (name, a), b in zip(one.net.named_parameters(), two.net.parameters(), strict=True):
        assert (a == b).all(), name
    assert two.card.training["held_out"] == one.card.training["held_out"]
    assert two.card.scores == one.card.scores
    extra = run("train", cells, "--from-card", path, "--steps", "3")
    assert extra.code == 2
    assert "--steps" in extra.err


def test_full_goes_on_from_the_weights_of_a_base(run, cells, tiny_model, own_home, tmp_path):
    result = run(
        *("train", cells, "--name", "full", "--base", tiny_model, "--full", "--steps", "1"),
        *(
            "--batch-size",
            "1",
            "--crop",
            "32",
            "--validate-every",
            "1",
            "--out",
            tmp_path / "o",
        ),
        *("--max-validation-images", "1"),
    )
    assert result.code == 0, result.err
    card = find_model("full").card
    assert card.parent.startswith("tiny ")
    assert "recipe" not in card.training


def test_axes_and_channels_of_a_folder(run, cells, tiny_model, own_home, tmp_path):
    folder = tmp_path / "dyes"
    shutil.copytree(cells, folder)
    for path in (folder / "images").iterdir():
        image = tifffile.imread(path)
        np.save(path.with_suffix(".npy"), np.stack([np.zeros_like(image), image]))
        path.unlink()
    unsaid = run("train", folder, "--name", "a", "--base", tiny_model, *TUNE)
    assert unsaid.code == 2
    assert "give --axes CYX" in unsaid.err
    first = run("train", folder, "--name", "a", "--base", tiny_model, *TUNE, "--axes", "CYX")
    assert "2 channels, and none is chosen: channel 0" in first.err
    read_as = ("--axes", "CYX", "--channels", "1")
    second = run("train", folder, "--name", "b", "--base", tiny_model, *TUNE, *read_as)
    assert second.code == 0, second.err
    assert "none is chosen" not in second.err
    card = find_model("b").card
    assert card.training["channels"] == ["1"]
    assert card.training["axes"] == "CYX"
    assert card.scores["held-out corrections, parent"]["ap50"] > 0
    again = run("train", folder, "--from-card", "b", "--base", tiny_model)
    assert again.code == 0, again.err
    refused = run("train", folder, "--from-card", "b", "--channels", "0")
    assert refused.code == 2
    assert "--channels" in refused.err
    compared = run(
        *("models", "compare", tiny_model, "b", "--on", folder),
        *("--axes", "CYX", "--channels", "7"),
    )
    assert compared.code == 2
    assert "no channel 7" in compared.err


def test_flags_of_the_other_recipe_are_refused(run, cells, tiny_model, own_home):
    wrong = run("train", cells, "--name", "x", "--base", tiny_model, "--workers", "1")
    assert wrong.code == 2
    assert "--workers" in wrong.err
    assert "--full" in wrong.err
    wrong = run("train", cells, "--name", "x", "--minutes", "1")
    assert wrong.code == 2
    assert "--base" in wrong.err
    bounds = run("train", cells, "--name", "x", "--base", tiny_model, "--minutes", "-1")
    assert bounds.code == 2
    assert "--minutes" in bounds.err
    assert "--name" in run("train", cells).err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--unified-focal.gamma", 0.3),
            "--unified-focal.gamma: only with --loss unified_focal",
        ),
        (
            ("--unified-focal.no-asymmetric", "--loss", "dice_ce"),
            "--unified-focal.no-asymmetric: only with --loss unified_focal",
        ),
        (
            ("--boundary-weight", 3, "--loss", "unified_focal"),
            "--boundary-weight: only with --loss dice_ce",
        ),
        (
            ("--loss", "unified_focal", "--unified-focal.gamma", 1),
            "--unified-focal.gamma 1: input should be less than 1",
        ),
    ],
)
@pytest.mark.parametrize("recipe", [("--full",), ("--base", "nuclei")])
def test_parameters_of_a_loss_that_is_not_chosen_are_refused(
    run, cells, own_home, recipe, flags, words
):
    result = run("train", cells, "--name", "a", *recipe, *flags)
    assert result.code == 2
    assert words in result.err
    assert len(result.err.splitlines()) == 1


def test_help_says_which_flags_belong_to_a_loss(run):
    text = " ".join(run("train", "--help").out.replace("│", " ").split())
    assert "--unified-focal counts only with unified_focal" in text
    assert "--boundary-weight counts only with dice_ce" in text


def test_kept_aside_is_listed_as_such_and_promoted(run, cells, tiny_model, own_home):
    kept = run("train", cells, "--name", "kid", "--base", tiny_model, *TUNE, "--no-promote")
    assert kept.code == 0, kept.err
    assert "sa2net models promote kid" in kept.out
    assert "kept aside" in run("models", "list").out
    listed = json.loads(run("models", "list", "--json").out)
    assert [entry["aside"] for entry in listed if entry["name"] == "kid"] == [True]
    assert run("models", "promote", "kid").code == 0
    assert "kept aside" not in run("models", "list").out
    assert run("models", "demote", "kid").code == 0
    assert find_model("kid").aside


def test_the_next_step_can_be_copied_and_a_paused_run_ends_with_its_best(
    run, cells, tiny_model, own_home, tmp_path
):
    name = "Mein Modell ü"
    begin = ("train", cells, "--name", name, "--base", tiny_model, *TUNE)
    made = run(*begin)
    assert made.code == 0, made.err
    assert "Dice" in made.out
    assert f"sa2net models promote '{name}'" in made.out or "Kept aside" not in made.out
    assert f"models remove '{name}'" in run(*begin).err
    none = run("train", cells, "--keep-best")
    assert none.code == 2
    assert "--resume" in none.err

    rounds = []
    with pytest.raises(Paused):
        fine_tune(
            cells,
            tiny_model,
            {"steps": 4, "rounds": 2, "batch_size": 1, "crop": 48, "replay": 0},
            name="halves",
            on_event=lambda e: rounds.extend([e] if isinstance(e, RoundPoint) else []),
            paused=lambda: bool(rounds),
        )
    kept = run("train", cells, "--resume", own_home / "runs" / "halves", "--keep-best")
    assert kept.code == 0, kept.err
    assert find_model("halves") is not None


@pytest.mark.parametrize(("key", "ending"), [("geojson", ".geojson"), ("cellpose", "_seg.npy")])
def test_masks_of_other_programs_are_learned_from(
    run, cells, tiny_model, own_home, tmp_path, key, ending
):
    beside = tmp_path / "beside"
    beside.mkdir()
    for path in sorted((cells / "images").glob("*.tif")):
        (beside / path.name).write_bytes(path.read_bytes())
        labels = tifffile.imread(cells / "labels" / path.name)
        write_cells(beside / f"{path.stem}{ending}", labels, key)
    for name, folder in (("plain", cells), ("other", beside)):
        more = ("--name", name, "--base", tiny_model, *TUNE, "--promote")
        trained = run("train", folder, *more)
        assert trained.code == 0, trained.err
    one, two = load_model("plain"), load_model("other")
    for (name, a), b in zip(one.net.named_parameters(), two.net.parameters(), strict=True):
        assert (a == b).all(), name


def test_the_first_ctrl_c_asks_and_the_second_interrupts():
    """After the training each of them interrupts, as before."""
    # said here: who starts the tests in the background has the signal ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ctrl_c() as pressed:
            assert not pressed()
            signal.raise_signal(signal.SIGINT)
            assert pressed()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with ctrl_c() as pressed:
            assert not pressed()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
