"""Models that are kept aside: there by name, not offered, moved by a rename."""

import pytest

from napari_sa2net.errors import ModelExistsError, ModelNotFoundError
from napari_sa2net.models import (
    demote_model,
    find_model,
    list_models,
    load_model,
    promote_model,
    remove_model,
    rename_model,
)
from napari_sa2net.models.registry import add_file, aside_models_dir


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path))


def offered():
    return [entry.name for entry in list_models() if not entry.bundled]


def test_aside_and_back(tiny_model):
    entry = add_file(tiny_model, "child", aside=True)
    assert entry.aside
    assert entry.path.parent == aside_models_dir()
    assert offered() == []
    assert [e.name for e in list_models(aside=True) if e.aside] == ["child"]
    assert load_model("child").name == "child"
    assert not promote_model("child").aside
    assert offered() == ["child"]
    assert not promote_model("child").aside
    assert demote_model("CHILD").aside
    assert offered() == []
    assert rename_model("child", "other").aside
    remove_model("other")
    assert find_model("other") is None


def test_a_name_is_taken_wherever_the_model_is(tiny_model):
    add_file(tiny_model, "child", aside=True)
    with pytest.raises(ModelExistsError):
        add_file(tiny_model, "Child")
    # Replaced, and not there twice.
    assert not add_file(tiny_model, "Child", overwrite=True).aside
    assert [e.name for e in list_models(aside=True) if not e.bundled] == ["Child"]


def test_only_models_of_the_user_move():
    with pytest.raises(ModelExistsError, match="comes with the package"):
        demote_model("nuclei")
    with pytest.raises(ModelNotFoundError):
        promote_model("nobody")
