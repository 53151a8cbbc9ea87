"""What the Models page does, with a real engine and real files."""

from __future__ import annotations

import queue
import shutil
import time
from dataclasses import replace

import pytest

from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.models import (
    Family,
    ModelsController,
    detail_rows,
    lineage,
    main_rows,
    part_words,
    short_rows,
)
from napari_sa2net.app.segment import SegmentController
from napari_sa2net.app.session import Session
from napari_sa2net.config import InstanceConfig
from napari_sa2net.models.registry import file_sha256, find_model
from napari_sa2net.training.compare import Change, Interval, Part, Score

# The engine of this module runs with one thread and this home.
pytestmark = pytest.mark.timeout(900)


class Page:
    """Controllers, and a pump where a widget has the Qt event loop."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue = queue.SimpleQueue()
        self.session = Session(model="tiny")
        self.segmenting = SegmentController(EngineLink(self.session, self.calls.put))
        self.models = ModelsController(self.segmenting)
        self.state = self.models.state
        self.segmenting.refresh_models()
        self.models.refresh()

    def until(self, condition, timeout=400.0):
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, self.state
            try:
                self.calls.get(timeout=0.05)()
            except queue.Empty:
                continue

    def rest(self):
        self.until(lambda: not self.state.busy and len(self.state.families) > 0)

    def names(self):
        return [entry.name for entry in self.state.entries]

    def offered(self):
        return [entry.name for entry in self.session.models]


@pytest.fixture(scope="module")
def module_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA2NET_HOME", str(home))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield home


@pytest.fixture(scope="module")
def shared_page(module_home):
    page = Page()
    page.segmenting.start()
    yield page
    page.models.close()
    page.segmenting.close()
    page.segmenting.link.client.close(10)


@pytest.fixture
def page(shared_page, module_home, tiny_model):
    """With the model tiny and nothing else of the user's."""
    shutil.rmtree(module_home / "models", ignore_errors=True)
    (module_home / "models").mkdir()
    shutil.copy(tiny_model, module_home / "models" / "tiny.safetensors")
    shared_page.models.refresh()
    shared_page.segmenting.choose_model("tiny")
    shared_page.models.choose("tiny")
    shared_page.rest()
    return shared_page


def test_a_file_is_not_taken_in_twice(page, tiny_model, tmp_path):
    again = shutil.copy(tiny_model, tmp_path / "again.safetensors")
    page.models.import_files([again])
    page.rest()
    assert page.state.error.kind == "ModelExistsError"
    assert "again.safetensors is there already, under the name 'tiny'" in (
        page.state.error.message
    )
    assert page.names() == ["nuclei", "tiny"]


def test_import_compare_and_clear_errors(page, module_home, other_model, tmp_path):
    page.models.import_files([other_model])
    assert page.state.busy == "Checking the file…"
    page.rest()
    assert page.state.chosen == "tiny-2"
    assert page.offered() == ["nuclei", "tiny", "tiny-2"]
    assert page.state.said.text == ("Imported as tiny-2, since there is a model tiny already.")

    nonsense = tmp_path / "x.pt"
    nonsense.write_bytes(b"nonsense" * 50)
    page.models.import_files([nonsense])
    page.rest()
    assert page.state.error.kind == "ForeignCheckpointError"
    assert "x.pt is not a checkpoint" in page.state.error.message
    assert "tiny-3" not in page.names()

    # the very same file under another name
    shutil.copy(
        module_home / "models" / "tiny-2.safetensors", module_home / "models" / "as.safetensors"
    )
    page.models.refresh()
    page.rest()
    page.models.choose_other("as")
    assert page.models.compare() is not None
    assert page.state.error is None
    page.until(lambda: not page.state.comparing)
    assert "are the same model" in page.state.error.message

    page.models.choose_other("nuclei")
    page.models.compare()
    assert page.session.running
    page.until(lambda: "reference" in str(page.session.progress))
    page.models.cancel()
    page.until(lambda: not page.state.comparing)
    assert page.state.said.text.startswith("Cancelled")
    assert page.state.comparison is None
    assert not page.session.running


def test_of_several_files_each_has_its_line(page, other_model, tmp_path):
    files = [tmp_path / "x.pt", other_model, tmp_path / "y.pt"]
    for nonsense in (files[0], files[2]):
        nonsense.write_bytes(b"nonsense" * 50)
    page.models.import_files(files)
    page.rest()
    lines = page.state.error.message.splitlines()
    assert [line.split(":")[0] for line in lines] == ["x.pt", "y.pt"]
    assert all("is not a checkpoint" in line for line in lines)
    assert page.state.said.text.startswith("Imported as tiny")
    # those of before are not told again
    page.models.import_files([files[0]])
    page.rest()
    assert "y.pt" not in page.state.error.message


def test_both_published_formats_are_taken_in(page, shared_dir):
    golden = shared_dir / "golden"
    page.models.import_files(
        [golden / "official_segpc_style.pt", golden / "official_monuseg_style.pth.tar"]
    )
    page.rest()
    assert page.state.error is None
    assert {"official_segpc_style", "official_monuseg_style"} <= set(page.names())
    assert "weights that the published network never uses" in page.state.said.text
    entry = page.state.entry("official_monuseg_style")
    assert "Left out" in dict(detail_rows(entry))
    assert page.state.families[entry.name].parent == "official_monuseg_style.pth.tar"


def test_rename_keeps_what_is_in_use(page, other_model):
    page.segmenting.set_instances(InstanceConfig(foreground=0.7))
    page.models.rename("tiny", "mine")
    page.rest()
    assert page.state.chosen == "mine"
    assert page.session.model == "mine"
    assert page.session.instances.foreground == 0.7  # the same model: nothing is tuned anew
    page.models.rename("mine", "nuclei")
    page.rest()
    assert page.state.error.kind == "ModelExistsError"
    assert page.offered() == ["nuclei", "mine"]
    # there is no button to overwrite a model with another one
    page.models.import_files([other_model])
    page.rest()
    page.models.rename("tiny", "mine")
    page.rest()
    assert page.state.error.message == "A model is called 'mine' already. Choose another name."


def test_removed_and_put_back(page, module_home):
    page.models.remove("tiny")
    page.rest()
    assert page.offered() == ["nuclei"]
    assert page.session.model == "nuclei"
    assert str(module_home / "models" / "removed") in page.state.said.text
    assert "nuclei is chosen on the Segment page now" in page.state.said.text
    page.models.put_back()
    page.rest()
    assert page.offered() == ["nuclei", "tiny"]
    assert page.state.chosen == "tiny"
    page.models.remove("nuclei")
    page.rest()
    assert "comes with the package" in page.state.error.message


def test_aside_and_offered_again(page):
    page.models.set_aside("tiny")
    page.rest()
    assert page.names() == ["nuclei", "tiny"]
    assert page.offered() == ["nuclei"]
    assert page.session.model == "nuclei"
    page.models.promote("tiny")
    page.rest()
    assert page.offered() == ["nuclei", "tiny"]
    page.models.set_aside("tiny")
    page.rest()
    page.models.use("tiny")
    page.rest()
    assert page.session.model == "tiny"
    assert page.offered() == ["nuclei", "tiny"]


def test_use_takes_the_thresholds_of_the_model(page):
    page.segmenting.set_instances(InstanceConfig(foreground=0.8, fill_holes=False))
    page.models.use("nuclei")
    assert page.session.model == "nuclei"
    card = find_model("nuclei").card
    assert page.session.instances.foreground == card.instance.foreground
    assert not page.session.instances.fill_holes  # that is of the cells, not of the model


def test_export_never_replaces_unasked(page, tiny_model, tmp_path):
    target = tmp_path / "copy.safetensors"
    page.models.export("tiny", target)
    page.rest()
    assert target.read_bytes() == tiny_model.read_bytes()
    target.write_bytes(b"precious")
    page.models.export("tiny", target)
    page.rest()
    assert "exists already" in page.state.error.message
    assert target.read_bytes() == b"precious"
    page.models.export("tiny", target, overwrite=True)
    page.rest()
    assert target.read_bytes() == tiny_model.read_bytes()


def test_a_model_that_another_window_removed(page, module_home):
    (module_home / "models" / "tiny.safetensors").unlink()
    page.models.rename("tiny", "x")
    page.rest()
    assert page.state.error.kind == "ModelNotFoundError"
    assert page.names() == ["nuclei"]


def test_compares_with_the_parent_first(page, tiny_model, tmp_path):
    from napari_sa2net.models.file import open_model, save_model
    from napari_sa2net.models.registry import add_file

    model = open_model(tiny_model)
    training = {
        "recipe": "fine-tune",
        "data": "set",
        "commits": ["a", "b"],
        "held_out": ["c"],
        "commit_ids": {"a": "0123456789ab", "b": "ba9876543210"},
        "verdict": "Better on corrections you held back.",
        "seed": 3,
    }
    card = model.card.model_copy(
        update={
            "name": "child",
            "parent": f"old-name {file_sha256(tiny_model)}",
            "training": training,
            "scores": {"held-out": {"ap50": 0.7}, "held-out, parent": {"ap50": 0.5}},
            "network": model.card.network,
        }
    )
    add_file(save_model(tmp_path / "c.safetensors", model.net, card), "my child", aside=True)
    page.models.refresh()
    page.models.choose("my child")
    page.rest()
    assert page.state.other == "tiny"
    assert page.state.families["my child"] == Family("tiny", True, ())
    assert lineage(page.state.families, "tiny") == ([], ("my child",))
    # the bundled model learned from one that had its name before
    assert page.state.families["nuclei"] == Family("an earlier nuclei", False, ())
    bundled = next(e for e in page.state.entries if e.name == "nuclei")
    assert dict(short_rows(bundled))["Learned from"] == "an earlier nuclei"
    rows = dict(main_rows(page.state.entry())) | dict(detail_rows(page.state.entry()))
    assert rows["Trained on"] == "2 corrected images of “set”; 1 held back to judge it"
    # of a single image a strip was held back
    alone = {**training, "commits": ["a"], "held_out": ["a"]}
    single = page.state.entry().card.model_copy(update={"training": alone})
    words = dict(main_rows(replace(page.state.entry(), card=single)))["Trained on"]
    assert words == "1 corrected image of “set”; a part of it held back to judge it"
    assert "Expects" not in rows
    for sizes, said in (((13.04, 18), "13 to 18"), ((40.01, 40.02), "40")):
        sized = replace(
            page.state.entry(),
            card=card.model_copy(update={"diameter": 24, "image_diameters": sizes}),
        )
        for told in (main_rows(sized), short_rows(sized)):
            assert dict(told)["Expects"].startswith(f"objects {said} px across, as in")
    assert rows["Scores"] == "held-out: AP 0.50 → 0.70"
    assert rows["Commits"] == "01234567, ba987654"
    assert rows["Selectivity"] == "1 (ordinary attention)"
    assert rows["To repeat it"] == "sa2net train FOLDER --from-card 'my child'"


def test_a_family_from_its_oldest_on() -> None:
    families = {
        "c": Family("b", True, ("d", "e")),
        "b": Family("a", False, ("c",)),
        "alone": Family("", False, ()),
        "x": Family("y", True, ("y",)),
        "y": Family("x", True, ("x",)),
    }
    assert lineage(families, "c") == (["a", "b"], ("d", "e"))
    assert lineage(families, "b") == (["a"], ("c",))
    assert lineage(families, "alone") == ([], ())
    assert lineage(families, "nobody") == ([], ())
    # who is said to descend from themselves
    assert lineage(families, "x") == (["y"], ("y",))


def test_scores_of_a_part_in_words() -> None:
    change = Change(
        before=Score(0.611, 0.4, 0.8, 50),
        after=Score(0.784, 0.5, 0.75, 50),
        difference=0.173,
        low=-0.05,
        high=0.31,
        dice=Interval(-0.05, -0.1, 0.01),
    )
    assert part_words(Part("fluorescence", 2, change)) == (
        "fluorescence: 2 images, 50 cells",
        "AP 0.61 → 0.78, +0.17 (−0.05 … +0.31); Dice 0.80 → 0.75, −0.05 (−0.10 … +0.01)",
    )
