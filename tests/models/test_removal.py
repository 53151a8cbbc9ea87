"""Removed models are moved, not deleted, and can be put back."""

from __future__ import annotations

import pytest

from napari_sa2net.errors import ModelExistsError, ModelNotFoundError
from napari_sa2net.models import (
    demote_model,
    find_model,
    list_models,
    promote_model,
    remove_model,
    rename_model,
    restore_model,
)
from napari_sa2net.models.registry import (
    add_file,
    bundled_models_dir,
    free_model_name,
    read_models,
    removed_models,
    removed_models_dir,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path))


def own():
    return [entry.name for entry in list_models(aside=True) if not entry.bundled]


def test_removed_and_put_back_where_it_was(tiny_model):
    add_file(tiny_model, "cells")
    add_file(tiny_model, "poor")
    demote_model("poor")
    cells, poor = remove_model("cells"), remove_model("poor")
    assert own() == []
    assert cells.parent == removed_models_dir()
    assert cells.read_bytes() == tiny_model.read_bytes()
    assert not restore_model(cells).aside
    assert restore_model(poor).aside
    assert own() == ["cells", "poor"]
    assert removed_models() == []


def test_what_a_change_gives_back_is_what_is_listed(tiny_model):
    def listed(name):
        (entry,) = (one for one in list_models(aside=True) if one.name == name)
        return entry

    assert add_file(tiny_model, "cells") == listed("cells")
    assert rename_model("cells", "nuclei of mine") == listed("nuclei of mine")
    assert demote_model("nuclei of mine") == listed("nuclei of mine")
    assert promote_model("nuclei of mine") == listed("nuclei of mine")
    remove_model("nuclei of mine")
    assert restore_model("nuclei of mine", "cells") == listed("cells")
    assert not listed("cells").bundled


def test_of_several_with_one_name_the_last_one_comes_back(tiny_model, tmp_path):
    other = tmp_path / "other.safetensors"
    add_file(bundled_models_dir() / "nuclei.safetensors", "cells")
    remove_model("cells")
    other.write_bytes(tiny_model.read_bytes())
    add_file(other, "cells")
    remove_model("cells")
    assert len(removed_models()) == 2
    assert restore_model("Cells").path.read_bytes() == tiny_model.read_bytes()
    with pytest.raises(ModelExistsError):
        restore_model("cells")  # the name is taken now
    assert restore_model("cells", "first").size_bytes > 1_000_000
    with pytest.raises(ModelNotFoundError, match="No model 'cells' was removed"):
        restore_model("cells")


def test_removed_for_ever(tiny_model):
    add_file(tiny_model, "cells")
    assert remove_model("cells", forever=True) is None
    assert removed_models() == []
    assert find_model("cells") is None


def test_a_file_that_is_gone_cannot_be_put_back(tiny_model):
    add_file(tiny_model, "cells")
    path = remove_model("cells")
    path.unlink()
    with pytest.raises(ModelNotFoundError, match="no longer there"):
        restore_model(path)


def test_bundled_models_stay():
    with pytest.raises(ModelExistsError, match="comes with the package"):
        remove_model("nuclei")
    assert find_model("nuclei") is not None


def test_free_names(tiny_model):
    assert free_model_name("cells") == "cells"
    add_file(tiny_model, "Cells")
    assert free_model_name("cells") == "cells-2"
    add_file(tiny_model, "cells-2", aside=True)
    assert free_model_name("cells") == "cells-3"
    assert free_model_name("nuclei") == "nuclei-2"
    long = "x" * 64
    add_file(tiny_model, long)
    assert free_model_name(long) == "x" * 62 + "-2"
    rename_model("cells-2", "other")
    assert free_model_name("cells") == "cells-2"


def test_what_is_wrong_with_a_file_is_told(tiny_model):
    path = add_file(tiny_model, "broken").path
    path.write_bytes(tiny_model.read_bytes()[:-10])
    entries, problems = read_models()
    assert [entry.name for entry in entries if not entry.bundled] == []
    assert len(problems) == 1
    assert "broken.safetensors is damaged or incomplete" in problems[0]
