"""The Python examples of README and docs run as they stand, and links lead somewhere."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path

import matplotlib
import pytest

from napari_sa2net.data.samples import reference_images

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs").glob("notebooks/*.ipynb")),
]

_FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)(#[^)\s]*)?\)")


def snippets(page: Path) -> list[tuple[int, str]]:
    """Line number (of a notebook: number of the cell) and text of each Python example."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        return [
            (number, "".join(cell["source"]))
            for number, cell in enumerate(json.loads(text)["cells"], 1)
            if cell["cell_type"] == "code"
        ]
    return [
        (text.count("\n", 0, match.start(1)) + 1, match.group(1))
        for match in _FENCE.finditer(text)
    ]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def few_reference_images():
    """One of each kind in place of three: that they are scored is tested elsewhere."""
    from napari_sa2net.training import compare_models, material

    some = [one for one in reference_images() if "medium-sparse" in one.name]
    with pytest.MonkeyPatch.context() as patch:
        for module in (compare_models, material):
            patch.setattr(module, "reference_images", lambda: iter(some))
        material._drawn.cache_clear()
        yield
    material._drawn.cache_clear()


@pytest.mark.parametrize("page", [p for p in PAGES if snippets(p)], ids=name_of)
def test_examples_run(page, few_reference_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))
    # Not by MPLBACKEND: matplotlib may be loaded already, with the windows of other tests.
    matplotlib.use("agg")
    namespace: dict[str, object] = {"__name__": "example"}
    for line, code in snippets(page):
        # Padded, so that a traceback names the line of the page.
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target, _ in _LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


def test_every_command_has_its_section():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    headings = " ".join(re.findall(r"^## (.*)$", text, re.MULTILINE))
    from napari_sa2net.cli import app

    commands = [name for name in app if not name.startswith("-")]
    assert len(commands) >= 6
    for command in commands:
        assert command in headings


def test_what_the_reference_names_is_there_and_described():
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert len(names) > 20
    for name in names:
        module, _, last = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), last)
        except AttributeError:
            found = importlib.import_module(name)
        assert inspect.getdoc(found), name


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"- {page.name}" in menu, page.name
