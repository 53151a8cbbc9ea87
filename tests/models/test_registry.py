"""Models by name, on a real disk, also from two processes at once."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from napari_sa2net import errors
from napari_sa2net.config import NetworkConfig
from napari_sa2net.models import (
    ModelCard,
    export_model,
    find_model,
    import_model,
    list_models,
    load_model,
    registry,
    remove_model,
    rename_model,
    save_model,
)
from napari_sa2net.nn import SA2Net


def write_model(path: Path, seed: int = 0, name: str = "cells") -> Path:
    torch.manual_seed(seed)
    card = ModelCard(
        name=name,
        network=NetworkConfig(in_channels=1, n_classes=1, base_channels=1),
        classes=("foreground",),
    )
    return save_model(path, SA2Net(1, 1, 1), card)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty registry, with one bundled model."""
    bundled = tmp_path / "bundled"
    bundled.mkdir()
    write_model(bundled / "nuclei.safetensors", name="nuclei")
    monkeypatch.setattr(registry, "bundled_models_dir", lambda: bundled)
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_model(tmp_path / "cells.safetensors")


def names() -> list[str]:
    return [entry.name for entry in list_models()]


def test_bundled_folder_is_in_the_package() -> None:
    assert registry.bundled_models_dir().name == "weights"
    assert registry.bundled_models_dir().parent.joinpath("__init__.py").is_file()


def test_package_without_models_lists_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setattr(registry, "bundled_models_dir", lambda: tmp_path / "none")
    assert list_models() == []
    assert find_model("nuclei") is None
    with pytest.raises(errors.ModelNotFoundError, match="Models: none"):
        load_model("nuclei")
    assert not (tmp_path / "nowhere").exists()


def test_import_list_load(home: Path, source: Path) -> None:
    entry = import_model(source)
    assert entry.name == "cells"
    assert entry.path == home / "cells.safetensors"
    assert not entry.bundled
    assert entry.size_bytes == source.stat().st_size
    assert entry.path.read_bytes() == source.read_bytes()
    assert names() == ["nuclei", "cells"]
    assert [e.bundled for e in list_models()] == [True, False]
    loaded = load_model("cells")
    assert (loaded.name, loaded.path) == ("cells", entry.path)
    assert load_model("Cells").sha256 == loaded.sha256


def test_a_file_is_not_imported_twice_unasked(home: Path, source: Path, tmp_path: Path) -> None:
    import_model(source)
    again = tmp_path / "again.safetensors"
    again.write_bytes(source.read_bytes())
    with pytest.raises(errors.ModelExistsError, match="there already, under the name 'cells'"):
        import_model(again)
    with pytest.raises(errors.ModelExistsError, match="under the name 'cells'"):
        import_model(again, free_name=True)
    assert names() == ["nuclei", "cells"]
    import_model(again, "twice")
    assert names() == ["nuclei", "cells", "twice"]
    rename_model("cells", "mine")
    remove_model("twice")
    with pytest.raises(errors.ModelExistsError, match="under the name 'mine'"):
        import_model(again)
    # the bundled one, too
    with pytest.raises(errors.ModelExistsError, match="under the name 'nuclei'"):
        import_model(find_model("nuclei").path)


def test_a_published_checkpoint_is_not_imported_twice_unasked(
    home: Path, tmp_path: Path
) -> None:
    content = {"state_dict": SA2Net(3, 1, 1).state_dict(), "epoch": 1}
    torch.save(content, tmp_path / "best.pth.tar")
    import_model(tmp_path / "best.pth.tar", "published")
    (tmp_path / "best.pth.tar").rename(tmp_path / "copy.pth.tar")
    with pytest.raises(errors.ModelExistsError, match="under the name 'published'"):
        import_model(tmp_path / "copy.pth.tar")
    assert import_model(tmp_path / "copy.pth.tar", "twice").name == "twice"


def test_name_in_the_registry_wins_over_the_card(home: Path, source: Path) -> None:
    entry = import_model(source, "Zellen grün 2.1")
    assert entry.card.name == "Zellen grün 2.1" == load_model("Zellen grün 2.1").name


def test_import_of_a_published_checkpoint(home: Path, tmp_path: Path) -> None:
    net = SA2Net(3, 1, 1).eval()
    state = {**net.state_dict(), "up1.AG.weight.2.bias": torch.zeros(1)}
    content = {"state_dict": state, "epoch": 1}
    torch.save(content, tmp_path / "best_model-X.pth.tar")
    entry = import_model(tmp_path / "best_model-X.pth.tar")
    assert entry.name == "best_model-X"
    assert entry.card.dropped_keys == ("up1.AG.weight.2.bias",)
    assert entry.card.input.channel_order == "BGR"
    assert entry.card.parent is not None
    assert "best_model-X.pth.tar" in entry.card.parent
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(load_model(entry.name).net(x), net(x))


def test_import_of_a_bad_file_changes_nothing(home: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_text("hello, I am not a model")
    with pytest.raises(errors.ForeignCheckpointError):
        import_model(tmp_path / "bad.pt")
    assert names() == ["nuclei"]
    assert not home.exists() or not list(home.glob("*"))


BAD_NAMES = (
    *("", " ", ".", "..", "a/b", "a\\b", "../up", "/etc", "a\0b", "a\nb", ".hidden", "a."),
    *("a ", "-rf", "CON", "nul.v2", "x" * 65, "a:b", "a*", "a?"),
)


def test_bad_names(home: Path, source: Path) -> None:
    import_model(source)
    for name in BAD_NAMES:
        with pytest.raises(errors.SettingsError, match="cannot name a model"):
            import_model(source, name)
        with pytest.raises(errors.SettingsError, match="cannot name a model"):
            rename_model("cells", name)
    assert names() == ["nuclei", "cells"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("best_model-MyNet.pth.tar", "best_model-MyNet"),
        ("a.b.pt", "a.b"),
        (".pt", "imported"),
        ("a:b*c.pt", "a_b_c"),
        ("con.pt", "model con"),
        ("-x-.pt", "x-"),
        ("x" * 100 + ".pt", "x" * 64),
    ],
)
def test_names_from_files_are_allowed(file: str, name: str) -> None:
    from napari_sa2net.models.checkpoint import name_of_file

    assert name_of_file(Path(file)) == name
    assert registry.is_model_name(name)


def test_names_are_taken_once(home: Path, tmp_path: Path, source: Path) -> None:
    other = write_model(tmp_path / "other.safetensors", seed=1)
    import_model(source)
    for name in ("cells", "Cells"):
        with pytest.raises(errors.ModelExistsError, match="overwrite"):
            import_model(other, name)
    assert (home / "cells.safetensors").read_bytes() == source.read_bytes()
    import_model(other, "CELLS", overwrite=True)
    assert names() == ["nuclei", "CELLS"]
    assert (home / "CELLS.safetensors").read_bytes() == other.read_bytes()


def test_bundled_models_stay(home: Path, source: Path) -> None:
    with pytest.raises(errors.ModelExistsError, match="bundled"):
        import_model(source, "nuclei", overwrite=True)
    with pytest.raises(errors.ModelExistsError, match="comes with the package"):
        remove_model("nuclei")
    with pytest.raises(errors.ModelExistsError, match="comes with the package"):
        rename_model("nuclei", "mine")
    import_model(source)
    with pytest.raises(errors.ModelExistsError):
        rename_model("cells", "Nuclei")
    assert names() == ["nuclei", "cells"]


def test_remove(home: Path, source: Path) -> None:
    import_model(source)
    remove_model("cells")
    assert names() == ["nuclei"]
    assert source.exists()
    with pytest.raises(errors.ModelNotFoundError, match="nuclei"):
        remove_model("cells")


def test_rename_keeps_the_content(home: Path, source: Path) -> None:
    import_model(source)
    sha256 = load_model("cells").sha256
    assert rename_model("cells", "Cells").name == "Cells"
    assert rename_model("Cells", "other").card.name == "other"
    assert names() == ["nuclei", "other"]
    assert load_model("other").sha256 == sha256
    with pytest.raises(errors.ModelNotFoundError):
        rename_model("cells", "x")


def test_export(home: Path, tmp_path: Path, source: Path) -> None:
    import_model(source)
    out = tmp_path / "out"
    out.mkdir()
    assert export_model("cells", out) == out / "cells.safetensors"
    assert export_model("nuclei", out / "n.SAFETENSORS") == out / "n.SAFETENSORS"
    assert (out / "cells.safetensors").read_bytes() == source.read_bytes()
    with pytest.raises(errors.OutputError, match="overwrite=True in Python"):
        export_model("nuclei", out / "cells.safetensors")
    export_model("nuclei", out / "cells.safetensors", overwrite=True)
    assert import_model(out / "cells.safetensors", "back").card.name == "back"
    with pytest.raises(errors.ModelNotFoundError):
        export_model("missing", out)


def test_broken_and_unfinished_files_are_left_out(
    home: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import_model(source)
    data = source.read_bytes()
    (home / "broken.safetensors").write_bytes(data[:-10])
    (home / ".part-x.safetensors").write_bytes(data)
    (home / "notes.txt").write_text("mine")
    (home / "folder.safetensors").mkdir()
    with caplog.at_level(logging.WARNING, logger="napari_sa2net"):
        assert names() == ["nuclei", "cells"]
    assert "broken.safetensors" in caplog.text
    with pytest.raises(errors.CorruptCheckpointError):
        load_model("broken")
    remove_model("broken")
    assert not (home / "broken.safetensors").exists()


def test_home_that_cannot_be_written(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "file"))
    with pytest.raises(errors.OutputError, match="SA2NET_HOME"):
        import_model(source)


# Each process takes the same name many times; readers must see whole models only.
WRITER = """
import sys
from napari_sa2net.errors import ModelExistsError, ModelNotFoundError
from napari_sa2net.models.registry import add_file
from napari_sa2net.models.registry import remove_model
won = 0
for _ in range(25):
    try:
        add_file(sys.argv[1], "shared")
        won += 1
    except ModelExistsError:
        try:
            remove_model("shared")
        except ModelNotFoundError:
            pass
    add_file(sys.argv[1], "same", overwrite=True)
print(won)
"""


def test_two_processes_at_once(home: Path, tmp_path: Path, source: Path) -> None:
    other = write_model(tmp_path / "other.safetensors", seed=1)
    whole = {source.read_bytes(), other.read_bytes()}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        for path in (source, other)
    ]
    seen = 0
    while any(p.poll() is None for p in processes):
        for entry in list_models():
            assert entry.name in ("nuclei", "shared", "same")
        path = home / "same.safetensors"
        if path.exists():
            assert path.read_bytes() in whole
            seen += 1
    said = [p.communicate()[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0]
    assert all(int(out) > 0 for out in said)
    assert seen > 3
    left = {path.name for path in home.iterdir()} - {".lock", "removed"}
    assert left <= {"shared.safetensors", "same.safetensors"}


def test_waiting_for_a_stuck_process_ends(
    home: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import filelock

    home.mkdir(parents=True)
    monkeypatch.setattr(registry, "LOCK_TIMEOUT", 0.1)
    with (
        filelock.FileLock(home / ".lock"),
        pytest.raises(errors.OutputError, match="Another program"),
    ):
        import_model(source)
    shutil.rmtree(home)
