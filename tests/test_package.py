"""What is published: the wheel, its page on the index, and the recipes beside it."""

from __future__ import annotations

import email
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

import napari_sa2net

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HOME = PROJECT["urls"]["Homepage"]

# names on conda-forge, where they differ
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "dask": "dask-core"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    built = next(
        iter(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("w"))))
    )
    with zipfile.ZipFile(built) as archive:
        yield archive


@pytest.fixture(scope="module")
def page(wheel):
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_string(wheel.read(name).decode())


def test_wheel_holds_what_runs_and_nothing_else(wheel):
    names = wheel.namelist()
    for file in ("napari.yaml", "py.typed", "weights/nuclei.safetensors", "data/skin.png"):
        assert f"napari_sa2net/{file}" in names
    ours = {path.relative_to(ROOT / "src").as_posix() for path in ROOT.glob("src/**/*.py")}
    assert ours <= set(names)
    assert {name.split("/")[0] for name in names} == {
        "napari_sa2net",
        f"napari_sa2net-{napari_sa2net.__version__}.dist-info",
    }
    for name in ROOT.glob("src/napari_sa2net/weights/**/*.safetensors"):
        inside = wheel.read(name.relative_to(ROOT / "src").as_posix())
        assert inside == name.read_bytes()


def test_page_on_the_index_stands_alone(page):
    text = page.get_payload()
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 10
    assert all(target.startswith(("https://", "#")) for target in targets)
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert pictures
    ours = f"{HOME.removeprefix('https://github.com')}/"
    for target in targets:
        if ours in target:  # a file of this version, which is there
            _, version, path = (
                target.split(ours)[1]
                .removeprefix("blob/")
                .rpartition(f"v{napari_sa2net.__version__}/")
            )
            assert version, target
            assert (ROOT / path).exists(), target
    assert re.search(r"^## ", text, re.MULTILINE)
    assert "BSD-3-Clause" in text.split("\n## ")[0].splitlines()[2]


def test_sdist_can_be_tested(tmp_path):
    built = next(iter(SdistBuilder(str(ROOT)).build(directory=str(tmp_path))))
    with tarfile.open(built) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    for file in ("tests/conftest.py", "Makefile", "scripts/setup.sh", "constraints.txt",
                 "docs/notebooks/see_why.ipynb", "CITATION.cff", "napari.yaml"):  # fmt: skip
        assert file in names


def test_conda_recipe_asks_for_the_same(wheel):
    text = (ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text.replace("${{ version }}", napari_sa2net.__version__))
    assert recipe["context"]["version"] == napari_sa2net.__version__
    asked = [Requirement(one) for one in PROJECT["dependencies"]]
    wanted = {CONDA.get(one.name, one.name): one.specifier for one in asked}
    run = [Requirement(one.replace(" ", "", 1)) for one in recipe["requirements"]["run"]]
    got = {one.name: one.specifier for one in run if one.name != "python"}
    assert got == wanted


def test_one_version_and_one_home():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == napari_sa2net.__version__
    assert citation["repository-code"] == HOME
    assert citation["license"] == PROJECT["license"]
