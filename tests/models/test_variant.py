"""A change of attention kept as a model: weights as they were, the change in the card."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.inference.conftest import network

from napari_sa2net.config import FineTuneConfig, NetworkConfig, PredictConfig
from napari_sa2net.data import plan_image, synthetic_nuclei
from napari_sa2net.errors import (
    CardError,
    ModelExistsError,
    ModelNotFoundError,
    OutputError,
    SettingsError,
)
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.interpret.attention import WhatIfRun
from napari_sa2net.interpret.explain import explain_plane
from napari_sa2net.models import (
    ModelCard,
    find_model,
    list_models,
    load_model,
    read_card,
    remove_model,
    restore_model,
    save_model,
    save_variant,
)
from napari_sa2net.models.card import (
    card_of_header,
    open_checked,
    read_header,
    variant_card,
)
from napari_sa2net.models.registry import add_file, file_sha256, parent_of, rename_model
from napari_sa2net.nn import FocalUNet, capture_attention, network_config
from napari_sa2net.training.compare import use_of
from napari_sa2net.training.fine_tune import repeat_from_card
from napari_sa2net.training.run import child_net
from napari_sa2net.training.runs import RECIPE

CLASSES = ("background", "interior", "boundary")
OFF_4 = (None, None, None, False)
SCORES = {"test": {"ap50": 0.7}}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path))


@pytest.fixture
def add(tmp_path):
    """Put a small network into the list, by name."""

    def make(name="parent", dtype="float16", net=None, **shape):
        net = net or network(4, **shape)
        card = ModelCard(
            name=name,
            network=network_config(net),
            classes=CLASSES,
            training={"data": "made up", "limits": "plants", "verdict": "Better.", "seed": 3},
            scores=SCORES,
            licence="CC0",
        )
        return add_file(save_model(tmp_path / "made.safetensors", net, card, dtype), name)

    return make


CHANGES = {
    "scale": {"gates": OFF_4},
    "finest scale": {"gates": (False, None, None, None)},
    "powers": {"gamma": (None, 2.0, 0.3, 0.0)},
    "ordinary again": {"gamma": (1.0, 1.0, 1.0, 1.0), "gates": (True,) * 4},
    "weights": {"se_gamma": (0.0, 0.5, 1.0, 3.3), "gates": (None, False, None, None)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_it_segments_as_the_what_if_showed(add, change, precision):
    own = {"gamma": (1.0, 0.5, 3.0, 2.0), "scales": (True, True, False, True)}
    if "se_gamma" in change:
        own["se"] = (True,) * 4
    add(**own)
    plan = plan_image(synthetic_nuclei((90, 130), 12, seed=4)[0])
    settings = PredictConfig(device="cpu", precision=precision)
    parent = Predictor(load_model("parent"), settings)
    tried = WhatIfRun(parent, plan, box=(10, 80, 20, 120))
    as_trained, shown = tried.run(), tried.run(**change)
    assert np.abs(shown - as_trained).max() > 1e-4

    assert save_variant("parent", "kept", **change).name == "kept"
    variant = Predictor(load_model("kept"), settings)
    ordinary = explain_plane(variant, plan, box=(10, 80, 20, 120))
    np.testing.assert_array_equal(ordinary.probability, shown)
    begins_with = WhatIfRun(variant, plan, box=(10, 80, 20, 120))
    np.testing.assert_array_equal(begins_with.run(), shown)
    if "se_gamma" not in change:
        # From the variant back to its parent.
        back = {"gates": (True, False, True, True), "gamma": own["gamma"]}
        np.testing.assert_array_equal(begins_with.run(**back), as_trained)


def test_the_network_itself_computes_it_and_its_map_says_nothing_is_added(add):
    add(dtype="float32")
    save_variant("parent", "kept", gates=OFF_4)
    net, x = load_model("kept").net, torch.rand(1, 3, 48, 64)
    assert net.scales == (False, True, True, True)
    reference = load_model("parent").net
    gate = reference.bottleneck.scale_gates
    keep_three = torch.tensor([1.0, 1.0, 1.0, 0.0]).view(1, 4, 1, 1)
    with torch.inference_mode():
        with capture_attention(net) as maps:
            found = net(x)
        assert maps["scale_gate_4"].abs().max() == 0 < maps["scale_gate_3"].abs().max()
        before = reference(x)
        handle = gate.register_forward_hook(lambda m, i, o: o * keep_three)
        torch.testing.assert_close(found, reference(x))
        handle.remove()
        assert (found - before).abs().max() > 1e-3


def test_the_card_names_its_parent_and_has_no_scores(add):
    parent = add()
    variant = save_variant("parent", gates=OFF_4, gamma=(None, 2, None, None))
    assert variant.name == "parent-variant"
    card = variant.card
    assert card.scores == {}
    assert not {"verdict", "seed"} & card.training.keys()
    assert card.training["data"] == "made up"
    assert variant.limits == "plants"
    assert card.licence == "CC0"
    assert card.description == (
        "parent with scale 4 off, detail 1/4 at selectivity 2. "
        "Its scores have not been measured."
    )
    assert card.parent == f"parent {file_sha256(parent.path)}"
    assert parent_of(card, list_models()).name == "parent"
    assert not variant.aside
    # The weights are its parent's, in their own precision.
    first, second = load_file(parent.path), load_file(variant.path)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert value.dtype == second[key].dtype
        assert value.equal(second[key])
    # Once more, and again: names that are free.
    assert save_variant("parent", gates=OFF_4).name == "parent-variant-2"
    assert save_variant("parent-variant", gates=(True,) * 4).card.network.gamma[1] == 2


def test_it_can_be_taken_back_and_be_had_again(add):
    add()
    kept = save_variant("parent", "kept", gates=OFF_4)
    removed = remove_model("kept")
    assert find_model("kept") is None
    assert restore_model(removed).card == kept.card


def test_what_is_no_variant_is_refused_and_nothing_is_written(add):
    parent = add(gates=(True, False, True, True))
    names = [entry.name for entry in list_models()]
    refused = [
        ({}, SettingsError, "Nothing is changed"),
        # There is no such map, and γ is what it is.
        ({"gamma": (1.0, 0.0, None, None)}, SettingsError, "Nothing is changed"),
        ({"gamma": (2.0, 2.0, None, None)}, SettingsError, "no attention for detail 1/4"),
        ({"gates": OFF_4, "se_gamma": (0.5,) * 4}, SettingsError, "features 1/8, features 1/4"),
        ({"gamma": (None, None, 9.0, None)}, SettingsError, "between 0 and 8"),
        ({"gates": (True, False)}, SettingsError, "four scale gates"),
        ({"gates": OFF_4, "name": "a/b"}, SettingsError, "cannot name"),
        ({"gates": OFF_4, "name": "nuclei"}, ModelExistsError, "bundled"),
        ({"gates": OFF_4, "name": "Parent", "overwrite": True}, ModelExistsError, "itself"),
        ({"gates": OFF_4, "sha256": "0" * 64}, ModelNotFoundError, "another model"),
    ]
    for arguments, error, words in refused:
        with pytest.raises(error, match=words):
            save_variant("parent", **arguments)
    with pytest.raises(ModelNotFoundError, match="gone"):
        save_variant("gone", gates=OFF_4)
    assert [entry.name for entry in list_models()] == names
    assert read_card(parent.path).scores == SCORES


def test_a_full_disk_leaves_nothing_behind(add, monkeypatch):
    add()

    def full(source, target, length):
        target.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("napari_sa2net.models.registry.shutil.copyfileobj", full)
    with pytest.raises(OutputError, match="No space"):
        save_variant("parent", "kept", gates=OFF_4)
    assert find_model("kept") is None


def test_a_unet_has_no_scales_to_switch(add):
    add(net=FocalUNet(3, 3, 4).eval())
    with pytest.raises(SettingsError, match="no attention for scale 4"):
        # Also beside a change that can be made.
        save_variant("parent", gates=OFF_4, gamma=(0, None, None, None))
    assert find_model("parent-variant") is None
    powers = {"gamma": (0, None, None, None), "se_gamma": (None, None, None, 2)}
    card = save_variant("parent", **powers).card
    assert card.network.gamma[0] == 0
    changed = "detail 1/8 at selectivity 0, features full at selectivity 2"
    assert card.training["changed"] == changed


def test_cards_without_switches_are_as_earlier_versions_read_them(add):
    """A version that does not know switches refuses them in words, and reads all others."""

    def written(path):
        with open_checked(path) as file:
            return json.loads(read_header(file, "")["__metadata__"]["card"])

    add()
    powers = written(save_variant("parent", "powers", gamma=(2, None, None, None)).path)
    assert powers["schema_version"] == 1
    assert "scales" not in powers["network"]
    switched = written(save_variant("parent", "switched", gates=OFF_4).path)
    assert switched["schema_version"] == 2
    assert switched["network"]["scales"] == [False, True, True, True]
    back = save_variant("switched", "back", gates=(True,) * 4)
    assert written(back.path)["schema_version"] == 1
    assert "scales" not in NetworkConfig().model_dump()
    with pytest.raises(CardError, match="knows up to 4"):
        card_of_header({"__metadata__": {"card": json.dumps({"schema_version": 5})}}, "it")


def test_it_keeps_its_change_under_another_name_and_in_a_saved_network(add, tmp_path):
    add()
    save_variant("parent", "kept", gates=OFF_4, gamma=(0.5, None, None, None))
    rename_model("kept", "other")
    model = load_model("other")
    path = save_model(tmp_path / "saved.safetensors", model.net, model.card)
    kept = load_model(path).card.network
    assert kept.scales == (False, True, True, True)
    assert kept.gamma == (0.5, 1.0, 1.0, 1.0)
    assert network_config(load_model(path).net) == kept


def test_learning_from_it_keeps_its_switches(add):
    add()
    save_variant("parent", "kept", gates=OFF_4, gamma=(0.5, None, None, None))
    variant = load_model("kept")
    for learn in ("everything", "attention"):
        child = child_net(variant, FineTuneConfig(learn=learn))
        config = network_config(child)
        assert config == variant.card.network
        assert [p.requires_grad for n, p in child.named_parameters() if "gamma" in n] == (
            [True] * 4 if learn == "attention" else []
        )
    # What it can be trained on from scratch is told by its parent alone.
    with pytest.raises(CardError, match="it is parent with its attention changed"):
        repeat_from_card(variant.card, "nowhere")


def test_what_its_weights_have_learned_from_is_known(add):
    card = add().card
    training = {**card.training, "recipe": RECIPE, "commits": ["a"], "verdict": "Better."}
    taught = card.model_copy(update={"training": training, "name": "taught"})
    variant = variant_card(taught, "kept", "taught", OFF_4, (None,) * 4, (None,) * 4)
    item = SimpleNamespace(name="a", commit="", kin=(), before=(), place="")
    assert use_of(taught, item) == use_of(variant, item) == "learned"
    assert "verdict" not in variant.training
