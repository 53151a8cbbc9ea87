"""The Python examples of README and docs run as they stand, and links lead somewhere."""

from __future__ import annotations

import importlib
import inspect
import json
import math
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


WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 8: "eight"}
ORDINALS = {4: "fourth"}


def said(value: object) -> str:
    """A number as the docs write it: a word where there is one."""
    return WORDS.get(value, f"{value:g}")  # type: ignore[call-overload, str-format]


def written(module, name):
    """A constant as the module has it at first: an engine in this process may have set it."""
    value = re.search(rf"^{name} = (.+)$", inspect.getsource(module), re.MULTILINE)
    return eval(value[1])


@pytest.mark.parametrize(
    ("page", "sentence", "where", "numbers"),
    [
        ("learn", "set the newest {})", "app.training_set", lambda m: [m.MOST_LISTED]),
        ("learn", "off by more than a factor of {} from", "data.training_set",
         lambda m: [said(m.OFF)]),
        ("correct", "has half of its pixels in common with the corrected one (IoU of {})",
         "edits.carry", lambda m: [m.SAME_CELL]),
        ("correct", "after {} cells, and again as more come (the newest {:d} count",
         "app.clicks", lambda m: [said(m.EVERY), m.MOST]),
        ("correct", "from {} cells on every {} is held back", "training.click",
         lambda m: [said(m.JUDGED), ORDINALS[m.HOLD]]),
        ("correct", "The {:d} planes you clicked on last are known", "app.clicks",
         lambda m: [m.MOST_LESSONS]),
        ("correct", "the next cell, at most {:d} px;", "edits.reviewed", lambda m: [m.REACH]),
        ("correct", "after every {} cells that you accept", "app.live",
         lambda m: [said(m.EVERY)]),
        ("correct", "Every {} correction is held back", "app.live",
         lambda m: [ORDINALS[m.HOLD]]),
        ("correct", "after {} in a row that were no better", "app.live",
         lambda m: [said(m.PATIENCE)]),
        ("measure", "pixels more than {:d} and up to {:d} px from its nearest pixel",
         "quantities", lambda m: [m.RING_GAP, m.RING_GAP + m.RING_WIDTH]),
        ("formats", "large cells ({:g} MB) that you change", "app.saving",
         lambda m: [m.COPIED / 2**20]),
        ("formats", "Of more than {:,d} cells the measurements", "data.formats",
         lambda m: [m._MOST_PROPERTIES]),
        ("cli", "more than {:g} µm given in inches", "data.io", lambda m: [m.MAX_DOT_UM]),
        ("cli", "sets their side (px; unsaid: {:d})", "inference.blocks", lambda m: [m.BLOCK]),
        ("cli", "nothing is done for a minute, and for {} times as long as ever before",
         "cli.segment", lambda m: [said(m._LONG / 60 * m._TIMES)]),
        ("cli", "as wide as a journal's page ({:.0f} mm), 300 dpi", "cli.figure",
         lambda m: [m.WIDTH * 25.4]),
        ("cli", "the middle {:d} px of the network are searched", "training.train",
         lambda m: [m.HARD_SIDE]),
        ("focal", "as it is up to {0:d}×{0:d} network pixels", "inference.predict",
         lambda m: [m.COARSE_SIDE]),
        ("focal", "its state of some {:g} seconds ago at most", "experiments.focal_study.run",
         lambda m: [m.SAVE_SECONDS]),
        ("focal", "it sums to {:g} over a run (to less in a run below some {:.0f} steps, as no"
         " step is above {:g})", "training.schedule",
         lambda m: [m.GAMMA_TRAVEL, 2 * m.GAMMA_TRAVEL / m.GAMMA_STEP, m.GAMMA_STEP]),
        ("focal", "upper bound of {:g} on every γ", "config", lambda m: [m.GAMMA_MOST]),
        ("focal", "reduction {:d} with at least {:d} hidden units", "nn.focal",
         lambda m: [m.SE_REDUCTION, m.SE_MIN_HIDDEN]),
        ("focal", "over the seeds is below {:g}**", "experiments.focal_study.plan",
         lambda m: [m.THRESHOLD]),
        ("focal", "or a seeded fifth held out", "experiments.focal_study.plan",
         lambda m: [m.TEST_FRACTION == 1 / 5]),
        ("focal", "| `cpu` | {0} | {1} to train on, {1} to measure on | {2} | {3} | {4}"
         " | {5} px |",
         "experiments.focal_study.plan", lambda m: preset(m, "cpu")),
        ("focal", "| `full` | {0} | all | {2} | {3} | {4} | {5} px |",
         "experiments.focal_study.plan", lambda m: preset(m, "full")),
        ("see_why", "in a band of {:d} px on both sides", "interpret.refinement",
         lambda m: [m.BAND]),
        ("see_why", "over the pixels −{:d} to −{:d} px, −{:d} to {:d} px and {:d} to {:d} px",
         "interpret.objects", lambda m: [abs(n) for ends in m.RANGES.values() for n in ends]),
        ("architecture", "on disk beyond {:g} GB", "engine.cache",
         lambda m: [m.ON_DISK / 2**30]),
        ("architecture", "without the window {:g} MB", "inference.tiling",
         lambda m: [written(m, "MEMORY_LIMIT") / 2**20]),
        ("reproduce", "of some {:g} seconds ago at most", "experiments.reproduce.fold",
         lambda m: [m.SAVE_SECONDS]),
        ("reproduce", "warm restarts every {:d} epochs, down to 1e-{:.0f}",
         "experiments.reproduce.fold", lambda m: [m.PERIOD, -math.log10(m.LOWEST_RATE)]),
        ("reproduce", "| input | {0:d}×{0:d}, BGR |", "experiments.reproduce.recipes",
         lambda m: [m.SIZE]),
        ("reproduce", "a crop of one cell at scale {:g}", "experiments.layouts",
         lambda m: [m.SCALE]),
        ("corrections", "waits up to {:g} s for the last steps", "app.link",
         lambda m: [m.CLOSE_S]),
        ("models", "of which half a percent or more is brown", "data.levels",
         lambda m: [m.BROWN_FROM == 0.005]),
        ("models", "three quarters come from the image", "nn.base",
         lambda m: [m.ADAPTED == 3 / 4]),
        ("models", "a tenth and three cells more", "inference.diameter",
         lambda m: [m.MORE == 1.1, m.FEW_MORE == 3]),
    ],
)  # fmt: skip
def test_numbers_that_the_docs_tell_are_those_that_are_used(page, sentence, where, numbers):
    module = importlib.import_module(f"napari_sa2net.{where}")
    text = " ".join((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").split())
    found = numbers(module)
    assert False not in found
    assert sentence.format(*found).replace(",", " ", sentence.count(":,d")) in text


def preset(plan: object, name: str) -> list[object]:
    """Columns of the table of presets."""
    one = plan.PRESETS[name]  # type: ignore[attr-defined]
    return [one.base_channels, one.images, one.seeds, one.steps, one.batch_size, one.crop]


def test_figures_that_were_published_stand_in_the_docs():
    from napari_sa2net.experiments.reproduce.recipes import RECIPES

    text = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    for recipe in RECIPES.values():
        for one in recipe.figures:
            sd = "" if one.dice_sd is None else f" ± {one.dice_sd:g}"
            both = f"{one.dice:.2f}{sd} / {one.iou:.2f}"
            assert both in text, (recipe, one)
