"""Names and signatures that other people's code relies on."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys
from collections import Counter

import pytest

import napari_sa2net


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            "napari_sa2net",
            (
                *("load_model", "segment", "attention", "explain", "fine_tune", "evaluate"),
                *("TrainingSet", "__version__"),
            ),
        ),
        ("napari_sa2net.nn", ("SA2Net", "capture_attention")),
        ("napari_sa2net.models", ("load_checkpoint", "load_model", "save_model", "ModelCard")),
        ("napari_sa2net.models", ("export_onnx", "export_bioimageio", "import_model")),
        ("napari_sa2net.data", ("read_image", "plan_image", "write_labels", "list_images")),
        ("napari_sa2net.data", ("read_cells", "write_cells")),
    ],
)
def test_public_names(module, names):
    found = importlib.import_module(module)
    for name in names:
        assert hasattr(found, name), f"{module}.{name}"
        assert name in dir(found)


@pytest.mark.parametrize("name", ["segment", "attention"])
def test_both_ways_through_the_network_take_the_same_arguments(name):
    wanted = ["image", "model", "axes", "channels", "diameter", "normalize", "device"]
    found = parameters(getattr(napari_sa2net, name))
    assert found[:2] == wanted[:2]
    assert set(wanted) <= set(found)


def test_evaluate_takes_labels_and_truth():
    assert parameters(napari_sa2net.evaluate)[:2] == ["labels", "truth"]


def test_fine_tune_takes_a_training_set_a_base_and_a_config():
    assert parameters(napari_sa2net.fine_tune)[:3] == ["training_set", "base", "config"]
    from napari_sa2net.training.fine_tune import FineTuned

    assert {"model", "before", "after", "verdict", "path"} <= set(FineTuned.__annotations__)


def test_network_arguments():
    from napari_sa2net.nn import SA2Net

    assert parameters(SA2Net)[:3] == ["in_channels", "n_classes", "base_channels"]
    assert parameters(SA2Net.forward)[1:3] == ["x", "deep_supervision"]


def test_settings_as_keywords_are_the_settings():
    from napari_sa2net import config

    named = {"diameter", "device"}
    assert set(config.PredictSettings.__annotations__) == (
        set(config.PredictConfig.model_fields) - named
    )
    assert set(config.SegmentSettings.__annotations__) == (
        {*config.PredictConfig.model_fields, *config.InstanceConfig.model_fields} - named
    )


def test_types_are_known_to_users(tmp_path):
    """With py.typed a type checker reads our annotations from a user's file."""
    pytest.importorskip("mypy")
    (tmp_path / "use.py").write_text(
        "import napari_sa2net as sa2net\n"
        "from napari_sa2net.data import synthetic_nuclei\n"
        "image, _ = synthetic_nuclei(shape=(64, 64), n=3, seed=1)\n"
        "result = sa2net.segment(image, min_size=20)\n"
        "reveal_type(result)\n"
        "sa2net.segment(image, min_sise=20)\n"
    )
    # What other packages and rooms say of types takes long to read, and is not asked here.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nfollow_imports = skip\nfollow_imports_for_stubs = True\n"
        "[mypy-napari_sa2net,napari_sa2net.data,napari_sa2net.data.samples,"
        "napari_sa2net.config,napari_sa2net.inference.segment]\nfollow_imports = silent\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "use.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=300,
    )
    assert "inference.segment.Segmentation" in run.stdout
    assert re.search(r"use.py:6: error: .*min_sise", run.stdout)
    assert "use.py:4: error" not in run.stdout
    assert "import-untyped" not in run.stdout


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        _ = napari_sa2net.segmnt


def test_version_is_that_of_the_distribution():
    assert importlib.metadata.version("napari-sa2net") == napari_sa2net.__version__


def test_script_and_manifest_are_registered():
    scripts = importlib.metadata.entry_points(group="console_scripts", name="sa2net")
    assert [entry.value for entry in scripts] == ["napari_sa2net.cli:main"]
    manifests = importlib.metadata.entry_points(group="napari.manifest", name="napari-sa2net")
    assert [entry.value for entry in manifests] == ["napari_sa2net:napari.yaml"]


def test_script_starts_and_names_its_commands():
    run = subprocess.run(
        [sys.executable, "-m", "napari_sa2net.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for command in ("segment", "evaluate", "models", "train", "demo", "doctor"):
        assert command in run.stdout


def test_manifest_is_valid_and_its_names_lead_somewhere():
    from npe2 import PluginManifest

    manifest = PluginManifest.from_distribution("napari-sa2net")
    commands = manifest.contributions.commands
    known = {command.id for command in commands}
    assert {"napari-sa2net.dock", "napari-sa2net.segment"} <= known
    for command in commands:
        module, _, name = str(command.python_name).partition(":")
        assert callable(getattr(importlib.import_module(module), name)), command.python_name


#: Settings and flags with a number or a yes where nothing is said, wherever they occur.
GIVEN = """
    as_published asymmetric axes_told balanced base_channels batch_size begin blurred
    by_person chance channels chunk clip coarse copy counted cross_validated current
    delta dice_share effort epochs fewest figure filled force fraction gamma gated grace
    in_channels is_cell is_whole jpeg keep_reviewed largest learning_rate limit_bytes
    linked make_folder max_bytes max_results mean_share measure middle mode most n
    n_classes noisy normalize ok opening packed patience radius ran reach restarting
    safe scale shaded side squared squared_dice stage there threads threshold turned
    visible wake wants_preview weight z_step zoom
"""
#: Those that are given in so many places, and nothing (0, no) in others.
GIVEN_SOMEWHERE = """
    antialias:1 aside:2 cancel:1 diameter:1 first:1 in_use:1 inverted:1 kept:3
    measured:1 n_channels:2 n_planes:2 seconds:4 sizes:1 step:3 steps:1 stride:2 table:1
    timeout:2 wait:1
"""


def test_what_is_not_said_is_nothing_but_for_a_few():
    """A flag is off and a number 0, of functions and of records of any kind."""
    given, nothing = Counter(), Counter()
    for module in modules_but_widgets():
        own = [one for one in vars(module).values() if one_of(one, module)]
        own += [f for one in own if inspect.isclass(one) for f in functions_of(one)]
        for one in own:
            if inspect.isclass(one):
                continue
            for parameter in inspect.signature(one).parameters.values():
                default = parameter.default
                if isinstance(default, (bool, int, float)):
                    (given if default else nothing)[parameter.name] += 1
    assert given.keys() - nothing.keys() == set(GIVEN.split())
    both = {f"{name}:{given[name]}" for name in given.keys() & nothing.keys()}
    assert both == set(GIVEN_SOMEWHERE.split())


def modules_but_widgets():
    for found in pkgutil.walk_packages(napari_sa2net.__path__, "napari_sa2net."):
        if "widgets" not in found.name and not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def one_of(what, module):
    return (
        inspect.isfunction(what) or inspect.isclass(what)
    ) and what.__module__ == module.__name__


def functions_of(kind):
    for what in vars(kind).values():
        function = getattr(what, "__func__", what)
        if inspect.isfunction(function):
            yield function


@pytest.mark.parametrize(
    ("module", "version"),
    [
        ("app.segment", 1),
        ("data.commit", 1),
        ("data.formats", 1),
        ("data.journal_store", 2),
        ("data.results", 1),
        ("edits.step", 2),
        ("evaluation", 1),
        ("experiments.focal_study.run", 1),
        ("models.card", 1),
        ("provenance", 1),
        ("training.runs", 1),
    ],
)
def test_what_lies_on_disk_has_a_version(module, version):
    """Who raises one has to read what was written before, and says so here."""
    assert version == importlib.import_module(f"napari_sa2net.{module}").SCHEMA_VERSION
