"""Which model came of which, whatever their files are called."""

from __future__ import annotations

import hashlib

import pytest

from napari_sa2net.models import list_models, open_model, rename_model, save_model
from napari_sa2net.models.registry import (
    add_file,
    ancestors,
    file_sha256,
    parent_named,
    parent_of,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))


def child_of(parent, name, tmp_path):
    """A model whose card names a parent, in the registry."""
    model = open_model(parent.path)
    card = model.card.model_copy(
        update={"name": name, "parent": f"{parent.name} {file_sha256(parent.path)}"}
    )
    return add_file(save_model(tmp_path / f"{name}.safetensors", model.net, card), name)


def test_family_across_renames(tiny_model, tmp_path):
    first = add_file(tiny_model, "first")
    second = child_of(first, "second", tmp_path)
    third = child_of(second, "my third", tmp_path)
    rename_model("first", "older")
    entries = list_models(aside=True)
    names = {entry.name: entry for entry in entries}
    assert parent_named(second.card)[0] == "first"
    assert parent_of(names["second"].card, entries).name == "older"
    assert [e.name for e in ancestors(third.card, entries)] == ["second", "older"]
    assert parent_of(names["older"].card, entries) is None


def test_a_file_that_changes_is_read_again(tmp_path):
    path = tmp_path / "x"
    for content in (b"one", b"three"):
        path.write_bytes(content)
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"my model {'a' * 64}", "my model"),
        (f"MoNuSeg.pth.tar, sha256 {'a' * 64}", "MoNuSeg.pth.tar"),
    ],
)
def test_how_cards_name_a_parent(tiny_model, text, name):
    card = open_model(tiny_model).card.model_copy(update={"parent": text})
    assert parent_named(card) == (name, "a" * 64)
    assert parent_named(card.model_copy(update={"parent": None})) == ("", "")
