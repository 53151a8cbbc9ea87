"""A folder of images without a window: listed, walked through, segmented as on the shell."""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_sa2net.app.folder import (
    FolderController,
    by_worth,
    summary_words,
)
from napari_sa2net.app.folder_files import (
    RESULTS,
    Corrected,
    FolderImage,
    OpenedImage,
    corrected_file,
    list_folder,
    look_at,
    output_of,
    read_opened,
)
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.segment import SegmentController
from napari_sa2net.app.session import ErrorInfo, ImageSource, JobProgress, Session
from napari_sa2net.config import PredictConfig
from napari_sa2net.data import read_image, synthetic_nuclei
from napari_sa2net.data.io import ImageFile
from napari_sa2net.data.results import CORRECTED
from napari_sa2net.engine import messages as p
from napari_sa2net.errors import ImageFileError

PATIENCE = 150.0


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images, the last of them damaged, and two of one name."""
    folder = tmp_path / "images Ü"
    folder.mkdir()
    for i, name in enumerate(("a.tif", "b.tif", "b.png")):
        image, _ = synthetic_nuclei((96, 96), 5, seed=i)
        if name.endswith("png"):
            import imageio.v3 as iio

            iio.imwrite(folder / name, (255 * (image / image.max())).astype(np.uint8))
        else:
            tifffile.imwrite(folder / name, image)
    (folder / "c.tif").write_bytes(b"II*\0 no image")
    return folder


class Page:
    """The controller, with a pump in the place of Qt's event loop."""

    def __init__(self, model: str, make_client: Any = None) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        session = Session(model=model, predict=PredictConfig())
        more = {} if make_client is None else {"make_client": make_client}
        self.link = EngineLink(session, self.calls.put, **more)
        self.segment = SegmentController(self.link)
        self.folder = FolderController(self.link)
        self.state = self.folder.state
        self.opened: list[OpenedImage] = []
        self.folder.opened.connect(self.opened.append)

    def until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.state
            try:
                self.calls.get(timeout=0.05)()
            except queue.Empty:
                continue

    def open(self, folder: Path) -> None:
        self.folder.open_folder(folder)
        self.until(lambda: not self.state.busy)

    def settle(self) -> None:
        """Wait for the files."""
        done: list[int] = []
        self.folder.files.run(lambda: None, lambda _: done.append(1), lambda _: None)
        self.until(lambda: done)

    def rows(self) -> dict[str, str]:
        return {image.name: image.words() for image in self.state.images}

    def run(self) -> None:
        assert self.folder.segmenting.segment_all()
        self.until(lambda: not self.state.running)
        self.settle()

    def close(self) -> None:
        self.folder.close()
        self.segment.close()
        self.link.client.close(10)  # type: ignore[call-arg]


class Client:
    """Takes requests; a test answers them."""

    def __init__(self, on_event: Any) -> None:
        self.on_event = on_event
        self.requests: list[Any] = []
        self.cancelled: list[tuple[int, bool]] = []

    def start(self) -> None: ...
    def restart(self) -> None: ...
    def submit(self, request: Any) -> None:
        self.requests.append(request)

    def cancel(self, job: int, force: bool = True) -> None:
        self.cancelled.append((job, force))

    def close(self, wait: float = 0) -> None: ...

    def asked(self) -> list[p.Call]:
        return [one for one in self.requests if isinstance(one, p.Call)]


@pytest.fixture
def pages(home: Path) -> Iterator[Callable[..., Page]]:
    made: list[Page] = []

    def make(model: str = "tiny", make_client: Any = Client) -> Page:
        made.append(Page(model, make_client))
        return made[-1]

    yield make
    for page in made:
        page.close()


@pytest.fixture
def page(home: Path, tiny_model: Path) -> Iterator[Page]:
    """With an engine, and a model in the registry."""
    (home / "models").mkdir(parents=True)
    shutil.copy(tiny_model, home / "models" / "tiny.safetensors")
    page = Page("tiny")
    page.segment.refresh_models()
    page.segment.start()
    yield page
    page.close()


def files(folder: Path) -> dict[str, Any]:
    """Everything in an output folder, but for how long it took and where it is."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content: Any = path.read_bytes()
            if path.suffix == ".json":
                content = json.loads(content)
                timeless(content)
            found[str(path.relative_to(folder))] = content
    return found


def timeless(content: Any) -> None:
    if isinstance(content, dict):
        content.pop("seconds", None)
        content.pop("output", None)
        for value in content.values():
            timeless(value)
    elif isinstance(content, list):
        for value in content:
            timeless(value)


def test_window_and_shell_leave_the_same_files(page, images, tmp_path, capsys):
    from napari_sa2net.cli import run

    page.open(images)
    assert page.rows() == dict.fromkeys(("a", "b_png", "b_tif", "c"), "not segmented")
    ours = tmp_path / "ours"
    page.folder.set_output(ours)
    page.run()
    theirs = tmp_path / "theirs"
    assert run(["segment", str(images), "-o", str(theirs), "--model", "tiny"]) == 1
    capsys.readouterr()
    assert list(files(ours)) == list(files(theirs))
    assert files(ours) == files(theirs)
    n = json.loads((ours / "extra" / "images" / "a.json").read_text())["objects"]
    assert n > 0
    assert page.rows()["a"] == f"{n} cells"
    assert page.rows()["c"].startswith("failed: holds no image")
    assert "1 could not be done" in page.state.said
    assert summary_words(page.state) == "4 images · 3 segmented · 1 failed"
    # either goes on where the other stopped
    assert run(["segment", str(images), "-o", str(ours), "--model", "tiny"]) == 1
    assert capsys.readouterr().err.count("(done before)") == 3
    before = (theirs / "a.tif").stat().st_mtime_ns
    page.folder.set_output(theirs)
    page.run()
    assert (theirs / "a.tif").stat().st_mtime_ns == before


def test_a_cancelled_run_goes_on_where_it_was(page, images):
    (images / "c.tif").unlink()
    page.open(images)
    seen: list[Any] = []
    page.state.events.progress.connect(seen.append)

    def cancel_in_the_second(progress: Any) -> None:
        if progress is not None and progress.what.startswith("image 2"):
            page.folder.segmenting.cancel()

    page.state.events.progress.connect(cancel_in_the_second)
    page.run()
    done = [image for image in page.state.images if image.n_cells is not None]
    assert len(done) in (1, 2)  # the second may be done before it hears of it
    assert "goes on from here" in page.state.said
    assert not any(image.what in ("running", "failed") for image in page.state.images)
    fractions = [one.fraction for one in seen if one is not None]
    assert fractions == sorted(fractions)
    manifest = json.loads((page.state.output / "extra" / "run.json").read_text())
    assert manifest["state"] == "interrupted"
    page.state.events.progress.disconnect(cancel_in_the_second)
    written = (page.state.output / "a.tif").stat().st_mtime_ns
    page.run()
    assert (page.state.output / "a.tif").stat().st_mtime_ns == written
    assert all(image.n_cells is not None for image in page.state.images)


def test_results_that_are_there_are_shown_and_opened(page, images):
    page.open(images)
    page.run()
    again = FolderController(page.link)
    again.open_folder(images)
    page.until(lambda: not again.state.busy)
    assert [image.words() for image in again.state.images] == list(page.rows().values())
    again.close()
    page.folder.open(0)
    page.until(lambda: page.opened)
    opened = page.opened[-1]
    assert (opened.number, opened.name, opened.axes, opened.rgb) == (0, "a", "YX", False)
    assert opened.labels is not None
    assert opened.labels.max() == page.state.images[0].n_cells
    assert opened.provenance["model"]["sha256"]
    assert opened.table is not None
    assert len(opened.table["label"]) == opened.labels.max()
    # an image that cannot be read says so in its row, and what is shown stays
    page.folder.open(3)
    page.until(lambda: page.state.error)
    assert "holds no image" in page.state.error.message
    assert (page.state.current, page.state.opening) == (0, -1)


def test_corrected_cells_are_written_before_the_next_image_is_shown(pages, images):
    page = pages()
    page.open(images)
    page.folder.open(0)
    page.until(lambda: page.opened)
    labels = np.zeros((96, 96), np.int32)
    labels[3:9, 3:9] = 7
    page.folder.leaving = lambda: Corrected(0, labels, "YX", 0.5, {"model": {"name": "m"}})
    page.folder.next()
    page.until(lambda: len(page.opened) == 2)
    page.folder.leaving = lambda: None
    page.settle()
    path = page.state.output / CORRECTED / "a.tif"
    assert (np.asarray(read_image(path).array) == labels).all()
    assert page.rows()["a"] == "1 cell · corrected"
    page.folder.previous()
    page.until(lambda: len(page.opened) == 3)
    assert page.opened[-1].corrected
    assert (page.opened[-1].labels == labels).all()
    # corrected cells are no images of the folder, also where results lie among the images
    page.folder.set_output(images)
    page.open(images)
    assert len(page.state.images) == 4


def test_corrected_cells_are_results(page, images):
    from napari_sa2net.data.results import is_result

    page.open(images)
    page.run()
    theirs = page.state.output / CORRECTED
    theirs.mkdir()
    for name in ("a.tif", "stranger.tif"):
        tifffile.imwrite(theirs / name, np.zeros((9, 9), np.uint8))
    assert is_result(theirs / "a.tif")
    assert not is_result(theirs / "stranger.tif")


def test_the_image_stays_where_its_corrections_cannot_be_written(pages, images):
    page = pages()
    page.open(images)
    page.folder.open(0)
    page.until(lambda: page.opened)
    (images / RESULTS).write_text("a file in the place of the folder")
    page.folder.leaving = lambda: Corrected(0, np.ones((96, 96), np.int32), "YX")
    page.folder.next()
    page.until(lambda: page.state.error)
    assert "so the image stays open" in page.state.error.message
    assert (page.state.current, len(page.opened)) == (0, 1)


def test_walking_follows_the_list_and_skips_what_is_passed(pages, images):
    page = pages()
    page.folder.next()  # nothing is open
    page.open(images)
    page.folder.next()
    page.folder.next()
    page.folder.next()
    page.until(lambda: page.state.opening < 0)
    assert [one.number for one in page.opened] == [2]
    assert page.state.current == 2
    page.folder.previous()
    page.until(lambda: len(page.opened) == 2)
    page.folder.previous()
    page.until(lambda: len(page.opened) == 3)
    page.folder.previous()  # the first one
    assert page.state.opening == -1
    assert [one.number for one in page.opened] == [2, 1, 0]


def test_an_image_that_cannot_be_read_is_stepped_over(pages, images):
    (images / "b.png").write_bytes(b"no image")
    page = pages()
    page.open(images)
    page.folder.open(0)
    page.until(lambda: page.opened)
    page.folder.next()
    page.until(lambda: len(page.opened) == 2)
    number = page.state.current
    assert page.state.images[number].path.name == "b.tif"
    assert [i.path.name for i in page.state.images if i.what == "failed"] == ["b.png"]
    page.folder.previous()
    page.until(lambda: len(page.opened) == 3)
    assert page.state.current == 0
    page.folder.open(number)
    page.until(lambda: len(page.opened) == 4)
    page.folder.next()  # nothing but a damaged one is left
    page.settle()
    assert page.state.current == number


def test_closing_a_folder_writes_the_shown_corrections(pages, images):
    page = pages()
    page.open(images)
    page.folder.open(0)
    page.until(lambda: page.opened)
    labels = np.zeros((96, 96), np.int32)
    labels[3:9, 3:9] = 7
    page.folder.leaving = lambda: Corrected(0, labels, "YX")
    page.folder.close_folder()
    page.until(lambda: page.state.folder is None)
    written = read_image(images / RESULTS / CORRECTED / "a.tif").array
    assert (np.asarray(written) == labels).all()


def test_most_worth_goes_on_where_it_is_pressed_again(pages, images):
    page = pages()
    page.open(images)
    known = [(one, 3.0 - i) for i, one in enumerate(page.state.images[:3])]
    page.state.images = tuple(
        replace(one, what="segmented", n_cells=5, wrong=wrong) for one, wrong in known
    )
    seen = []
    for _ in range(4):
        page.folder.most_worth()
        seen.append(page.state.opening)
        page.state.current, page.state.opening = page.state.opening, -1
    assert seen == [0, 1, 2, 0]


def test_bad_folders_say_what_to_do(pages, images, tmp_path):
    page = pages()
    empty = tmp_path / "empty"
    (empty / "inside").mkdir(parents=True)
    for folder, words in ((empty, "Open the folder in which"), (tmp_path / "no", "not there")):
        page.open(folder)
        assert page.state.folder is None
        assert words in page.state.error.message
    with pytest.raises(ImageFileError):
        list_folder(images / "a.tif")
    page.open(images)
    assert page.state.error is None
    shutil.rmtree(images)  # removed meanwhile
    page.folder.open(1)
    page.until(lambda: page.state.error)
    assert page.state.images[1].what == "failed"
    assert "no file" in page.state.images[1].why
    page.open(images)
    assert "not there" in page.state.error.message
    assert len(page.state.images) == 4  # what was listed stays


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
@pytest.mark.skipif(getattr(os, "getuid", lambda: 1)() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said_once(page, images):
    images.chmod(0o500)
    try:
        page.open(images)
        page.run()
        assert "cannot be made" in page.state.error.message
        assert not any(image.what for image in page.state.images)
    finally:
        images.chmod(0o700)


def test_an_output_that_cannot_be_made_is_said_once(page, images, tmp_path):
    page.open(images)
    (tmp_path / "file").write_text("")
    page.folder.set_output(tmp_path / "file" / "out")
    page.run()
    assert "cannot be made" in page.state.error.message
    assert not any(image.what for image in page.state.images)
    # masks must not take the place of the images
    page.folder.set_output(images)
    assert not page.folder.segmenting.segment_all()
    assert "would replace the image" in page.state.error.message


def test_an_engine_that_ends_costs_one_image(pages, images):
    page = pages()
    client = page.link.client
    page.open(images)
    page.link.session.engine = "ready"
    assert page.folder.segmenting.segment_all()
    first = client.asked()[-1]
    client.on_event(p.Failed(first.job, "EngineError", "It ran out of memory."))
    page.until(lambda: client.asked()[-1] is not first)
    assert page.rows()["a"] == "failed: It ran out of memory."
    second = client.asked()[-1]
    assert second.arguments["file"].name == "b_png"
    page.folder.segmenting.cancel()
    page.folder.segmenting.cancel()  # pressed again: at once
    assert client.cancelled == [(second.job, False), (second.job, True)]
    client.on_event(p.WasCancelled(second.job))
    page.until(lambda: client.asked()[-1].name == "finish_files")
    last = client.asked()[-1]
    assert last.arguments["state"] == "interrupted"
    assert [one["state"] for one in last.arguments["images"]] == ["failed"]
    summary = {"n_failed": 1, "n_done": 0, "n_objects": 0, "state": "interrupted"}
    client.on_event(last.done(summary))
    page.until(lambda: not page.state.running)
    # one that stays down ends the run
    page.link.session.engine = "ready"
    assert page.folder.segmenting.segment_all()
    page.link.session.engine = "down"
    client.on_event(p.Failed(client.asked()[-1].job, "EngineError", "It stopped five times."))
    page.until(lambda: not page.state.running)
    assert page.state.error.message == "It stopped five times."


def test_how_far_a_run_is_counts_all_images_and_never_backwards(pages, images):
    page = pages()
    client = page.link.client
    page.open(images)
    page.link.session.engine = "ready"
    assert page.folder.segmenting.segment_all()
    first = client.asked()[-1]
    assert page.state.progress.what == "image 1 of 4"
    for done, total, fraction in ((0, 4, 0), (3, 4, 3 / 16), (0, 0, 3 / 16), (1, 1, 3 / 16)):
        client.on_event(p.Progress(first.job, done, total, f"step {done} of {total}"))
        words = f"image 1 of 4: step {done} of {total}"
        page.until(lambda words=words: page.state.progress.what == words)
        assert page.state.progress.fraction == pytest.approx(fraction)
    assert page.rows()["a"] == "segmenting…"
    client.on_event(p.Failed(first.job, "EngineError", "It ran out of memory."))
    page.until(lambda: client.asked()[-1] is not first)
    assert page.state.progress.what == "image 2 of 4"
    assert page.state.progress.fraction == pytest.approx(1 / 4)
    page.folder.segmenting.cancel()
    client.on_event(p.Progress(client.asked()[-1].job, 1, 4, "predicting"))
    page.until(lambda: page.state.progress.what == "stopping after this piece")


def test_what_is_heard_of_another_run_changes_nothing(pages, images):
    """Of one that is over, before, in and after the next."""
    page = pages()
    client, segmenting = page.link.client, page.folder.segmenting
    page.open(images)

    def hear_of_another(call: p.Call) -> None:
        before = (page.rows(), page.state.progress, page.state.running, len(client.asked()))
        segmenting._heard(call, p.Progress(call.job, 1, 2, "an earlier run"))
        segmenting.job_done(call, {"state": "done", "n_objects": 3})
        segmenting.job_failed(call, ErrorInfo("EngineError", "earlier"))
        segmenting.job_cancelled(call)
        page.settle()
        after = (page.rows(), page.state.progress, page.state.running, len(client.asked()))
        assert after == before

    page.link.session.engine = "ready"
    assert segmenting.segment_all()
    first = client.asked()[-1]
    another = replace(first, key="another run", about=0)
    hear_of_another(another)
    assert page.state.running
    segmenting.cancel()
    client.on_event(p.WasCancelled(first.job))
    page.until(lambda: client.asked()[-1].name == "finish_files")
    last = client.asked()[-1]
    hear_of_another(replace(last, key="another run"))
    client.on_event(last.done({"n_failed": 0, "n_done": 0, "n_objects": 0, "state": "cut"}))
    page.until(lambda: not page.state.running)
    assert page.rows()["a"] == "not segmented"
    hear_of_another(another)


def test_settings_are_those_of_the_page_and_of_the_shown_image(pages, tmp_path):
    page = pages()
    folder = tmp_path / "two"
    folder.mkdir()
    tifffile.imwrite(
        folder / "two.tif", np.zeros((2, 40, 40), np.uint8), metadata={"axes": "CYX"}
    )
    page.open(folder)
    assert page.folder.segmenting.settings().channels is None
    assert (
        page.folder.segmenting.settings_words() == "tiny · size of the cells estimated in each"
    )
    page.folder.open(0)
    page.until(lambda: page.opened)
    source = ImageSource(
        "k", "two", page.opened[-1].data, "CYX", seen_channel=0, path=str(folder / "two.tif")
    )
    page.segment.set_image(source)
    assert page.folder.segmenting.settings().channels is None  # as on the shell
    page.segment.set_channels((1,))
    page.segment.set_predict(PredictConfig(diameter=18))
    assert page.folder.segmenting.settings().channels == (1,)
    assert page.folder.segmenting.settings_words() == "tiny · cells of 18 px · channel 1"
    page.segment.set_image(ImageSource("other", "other", np.zeros((9, 9)), channels=(3,)))
    assert page.folder.segmenting.settings().channels is None
    # a stain, of which the page shows no choice for a grey image
    page.segment.set_predict(PredictConfig(dab="remove"))
    page.segment.set_image(ImageSource("grey", "grey", np.zeros((9, 9))))
    assert page.folder.segmenting.settings().predict.dab == "auto"
    page.segment.set_image(ImageSource("rgb", "rgb", np.zeros((9, 9, 3), np.uint8), "YXC"))
    assert page.folder.segmenting.settings().predict.dab == "remove"


def test_the_order_of_doubt_ends_with_what_a_person_has_seen(pages):
    def image(what: Any, wrong: float | None = None) -> FolderImage:
        return FolderImage("n", Path("n.tif"), what, 5, wrong)

    images = [
        image("kept", 9.0),
        image("segmented", 1.0),
        image(""),
        image("segmented", 4.0),
        image("failed"),
        image("corrected", 8.0),
    ]
    assert by_worth(images) == (3, 1, 2, 4, 0, 5)
    page = pages()
    page.folder.state.images = (image(""),)
    page.folder.state.order = (0,)
    page.folder.most_worth()
    assert "Segment all" in page.state.error.message


def test_the_place_of_results_is_remembered(pages, images, tmp_path):
    page = pages()
    page.open(images)
    assert page.state.output == images / RESULTS
    page.folder.set_output(tmp_path / "elsewhere")
    page.settle()
    assert output_of(images) == tmp_path / "elsewhere"
    assert not (tmp_path / "elsewhere").exists()  # looking writes nothing
    page.open(images)
    assert page.state.output == tmp_path / "elsewhere"
    from napari_sa2net.files import user_data_dir

    (user_data_dir() / "folders.json").write_text("[not json")
    assert output_of(images) == images / RESULTS


def test_a_thousand_files_keep_few_pictures(pages, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    tifffile.imwrite(folder / "i0000.tif", picture)
    for i in range(1, 1000):
        os.link(folder / "i0000.tif", folder / f"i{i:04}.tif")
    page = pages()
    page.open(folder)
    assert len(page.state.images) == 1000
    told: list[int] = []
    page.folder.pictured.connect(told.append)
    for i in range(1000):
        assert page.folder.picture(i) is None
        assert len(page.folder._waiting) <= 40
    page.until(lambda: not page.folder._painting)
    # those that were asked for last, which are seen now, and first the newest
    assert len(told) == 41
    assert told[1] == 999
    assert page.folder.picture(999).shape == (8, 8)
    for i in range(600):
        page.folder.picture(i)
        page.until(lambda: not page.folder._painting)
    assert len(page.folder._pictures) == 400


class Layers:
    """Open layers with cells or without, each of which a test segments."""

    def __init__(self, page: Page, **cells: Any) -> None:
        self.page, self.cells, self.gone = page, dict(cells), ""
        self.asked: list[str] = []
        self.what: dict[str, Any] = {}

    def look(self) -> list[FolderImage]:
        return [
            FolderImage(
                f"image {key}",
                Path(key),
                self.what.get(key, "segmented" if cells is not None else ""),
                None if cells is None else int(cells.max()),
                key=key,
            )
            for key, cells in self.cells.items()
        ]

    def chosen(self) -> str:
        return self.asked[-1] if self.asked else ""

    def choose(self, key: str) -> bool:
        return key != self.gone

    def plan(self, key: str) -> None: ...

    def labels(self, key: str) -> Any:
        return self.cells[key]

    def segment(self, key: str) -> bool:
        self.asked.append(key)
        self.page.link.session.running = True
        return True

    def cancel(self) -> None:
        self.page.link.session.running = False

    def answer(self, cells: Any) -> None:
        """The one that is under way has these cells now."""
        self.cells[self.asked[-1]] = cells
        self.page.link.session.running = False


def squares(*sides: int) -> Any:
    cells = np.zeros((60, 200), np.int32)
    for label, side in enumerate(sides, 1):
        cells[5 : 5 + side, 20 * label : 20 * label + side] = label
    return cells


def test_open_layers_are_segmented_in_their_order_but_for_corrected_ones(pages):
    page = pages()
    state, segmenting = page.state, page.folder.segmenting
    layers = page.folder.shelf = Layers(page, a=None, b=squares(9, 9), c=None, d=None)
    layers.what = {"b": "corrected"}
    page.folder.open_layers()
    assert segmenting.segment_all()
    assert not segmenting.segment_all()  # one run at a time
    assert (layers.asked, page.rows()["image a"]) == (["a"], "segmenting…")
    page.link.session.progress = JobProgress(1, 4, "predicting")
    assert state.progress == JobProgress(250, 3000, "image 1 of 3: predicting")
    layers.answer(squares(10, 10, 10, 10, 10, 10))
    layers.gone = "c"
    page.until(lambda: layers.asked == ["a", "d"])
    layers.what["a"] = "corrected"  # meanwhile
    page.folder.look_again()
    page.link.session.progress = JobProgress(0, 0, "measuring")
    assert state.progress == JobProgress(2000, 3000, "image 3 of 3: measuring")
    assert page.rows()["image c"] == "failed: it is gone"
    layers.answer(squares(10, 10, 10, 10, 10, 1))
    page.until(lambda: not state.running)
    assert state.said == "14 cells in the open layers. 1 could not be done; their rows say why."
    assert state.progress is None
    # a speck among cells of one size is doubtful
    page.until(lambda: len(segmenting.wrong) == 2)
    assert segmenting.wrong["d"] > segmenting.wrong["a"]
    layers.what = dict.fromkeys("abcd", "kept")
    page.folder.look_again()
    assert not segmenting.segment_all()
    assert "Every layer of the list is corrected" in state.error.message
    assert not state.running


def test_a_run_over_open_layers_is_stopped_and_says_why_one_failed(pages):
    page = pages()
    state, segmenting = page.state, page.folder.segmenting
    layers = page.folder.shelf = Layers(page, a=None, b=None, c=None)
    page.folder.open_layers()
    assert segmenting.segment_all()
    page.link.session.error = ErrorInfo("EngineError", "It ran out of memory.")
    page.link.session.running = False
    page.until(lambda: layers.asked == ["a", "b"])
    assert page.rows()["image a"] == "failed: It ran out of memory."
    page.link.session.error = None
    page.link.session.progress = JobProgress(1, 2, "predicting")
    segmenting.cancel()
    page.until(lambda: not state.running)
    assert layers.asked == ["a", "b"]
    assert state.said == "Stopped; “Segment all” begins with the first again."
    assert not state.stopping
    # what failed is tried again
    assert segmenting.segment_all()
    assert layers.asked[2:] == ["a"]
    assert not segmenting.failures


@pytest.mark.parametrize(
    ("n", "summary", "said"),
    [
        (4, {"n_failed": 0, "n_objects": 1}, "1 cell in “results”."),
        (
            4,
            {"n_failed": 2, "n_objects": 1200},
            "1,200 cells in “results”. 2 could not be done; their rows say why.",
        ),
        (1, {"n_done": 1}, "Stopped after 1 image; “Segment all” goes on from here."),
        (2, {"n_done": 2}, "Stopped after 2 images; “Segment all” goes on from here."),
    ],
)
def test_a_run_is_summed_up(pages, images, n, summary, said):
    page = pages()
    client = page.link.client
    page.open(images)
    page.folder.set_output(images / "results")
    assert page.folder.segmenting.segment_all()
    how = "interrupted" if "n_done" in summary else "finished"
    for i in range(4):
        call = client.asked()[-1]
        assert (call.name, call.about) == ("segment_file", i)
        if i == n:
            client.on_event(p.WasCancelled(call.job))
            break
        client.on_event(call.done({"state": "done", "name": str(i)}))
        page.until(lambda call=call: client.asked()[-1] is not call)
    page.until(lambda: client.asked()[-1].name == "finish_files")
    last = client.asked()[-1].arguments
    assert [one["name"] for one in last["images"]] == [str(i) for i in range(n)]
    assert (last["n_images"], last["state"]) == (4, how)
    assert 0 <= last["seconds"] < PATIENCE
    base = {"n_failed": 0, "n_done": n, "n_objects": 0, "state": how}
    client.on_event(client.asked()[-1].done({**base, **summary}))
    page.until(lambda: not page.state.running)
    assert page.state.said == said


def test_nothing_of_the_list_changes_while_it_is_segmented(pages, images, tmp_path):
    page = pages()
    page.folder.shelf = Layers(page, a=None)
    page.open(images)
    before = page.state.images
    page.state.running = True
    for act in (page.folder.open_layers, lambda: page.folder.open_folder(tmp_path)):
        page.folder.dismiss_error()
        act()
        assert "cancel that first" in page.state.error.message
    page.folder.set_output(tmp_path / "elsewhere")
    page.state.running = False
    page.settle()
    assert page.state.images == before
    assert page.state.output != tmp_path / "elsewhere"
    page.folder.dismiss_error()
    assert page.state.error is None


def test_without_open_images_there_is_no_list_of_them(pages):
    page = pages()
    closed = []
    page.folder.closed.connect(lambda: closed.append(1))
    page.folder.layers_changed()  # there is no list
    page.folder.open_layers()
    assert "No image is open" in page.state.error.message
    layers = page.folder.shelf = Layers(page)
    page.folder.open_layers()
    assert "No image is open" in page.state.error.message
    layers.cells = {"a": None}
    page.folder.open_layers()
    assert page.state.layers
    assert page.state.error is None
    assert not closed
    layers.cells = {}
    page.folder.layers_changed()  # the last one went
    assert closed == [1]
    assert not page.state.layers
    assert page.state.images == ()


def test_layers_that_come_and_go_leave_the_others_in_their_order(pages):
    page = pages()
    state = page.state
    layers = page.folder.shelf = Layers(page, a=squares(9), b=None, c=squares(5, 5))
    page.folder.open_layers()
    assert state.order == (0, 1, 2)
    assert state.current == -1
    state.order = (2, 0, 1)  # as somebody has ordered them
    layers.cells = {"n": None, "b": None, "c": squares(5, 5)}
    layers.asked.append("b")  # it is the chosen one now
    page.folder.layers_changed()
    names = [state.images[i].key for i in state.order]
    assert names == ["c", "b", "n"]
    assert state.images[state.current].key == "b"
    page.folder.segmenting.failures = {"n": "no memory", "c": "no memory"}
    page.folder.segmenting.wrong = {"c": 2.0}
    page.folder.segmenting.doing = "b"
    page.folder.look_again()
    found = {image.key: image for image in state.images}
    assert (found["n"].what, found["n"].why) == ("failed", "no memory")
    assert (found["c"].what, found["c"].wrong) == ("segmented", 2.0)  # it has cells
    assert found["b"].what == "running"


def test_what_a_person_does_is_told_of_the_shown_image_alone(pages, images):
    page = pages()
    page.open(images)
    told = []
    page.state.events.images.connect(lambda new: told.append(new))
    page.folder.touched()
    assert not told  # none is shown
    page.folder.open(0)
    page.until(lambda: page.opened)
    page.settle()
    told.clear()
    page.folder.touched("corrected", 7)
    assert (page.state.images[0].what, page.state.images[0].n_cells) == ("corrected", 7)
    page.folder.touched("corrected", 7)
    assert len(told) == 1
    page.folder.touched("kept")
    assert (page.state.images[0].what, page.state.images[0].n_cells) == ("kept", 7)
    assert all(image.what != "kept" for image in page.state.images[1:])
    page.folder.forget_shown()
    page.folder.touched("corrected")
    assert page.state.images[0].what == "kept"


def test_from_one_to_the_next_that_is_most_worth_it(pages, images):
    page = pages()
    page.open(images)
    n = len(page.state.images)
    page.folder.most_worth()
    assert "press “Segment all” first" in page.state.error.message
    assert page.state.opening == -1
    for number, (what, wrong) in enumerate((("segmented", 1.0), ("segmented", 3.0))):
        page.folder.set_image(number, what=what, wrong=wrong)
    page.folder.set_image(n, what="kept")  # there is none
    assert page.folder.go_on() == f"On to “{page.state.images[1].title}”…"
    page.until(lambda: page.state.current == 1)
    page.settle()
    for number in range(n):
        page.folder.set_image(number, what="corrected")
    assert page.folder.go_on() == "So is every other image of the list."
    page.folder.set_image(1, what="segmented")
    assert page.folder.go_on() == "So is every other image of the list."  # but the shown one
    # out of the list, or the shown one: nothing is opened
    opened = len(page.opened)
    for number in (-1, n, 1):
        page.folder.open(number)
        assert page.state.opening == -1
    page.settle()
    assert len(page.opened) == opened


@pytest.mark.parametrize(
    ("known", "model", "doubt", "words"),
    [
        ({}, "", True, "not segmented"),
        ({"what": "running"}, "", True, "segmenting…"),
        ({"what": "failed", "why": "no room", "n_cells": 3}, "", True, "failed: no room"),
        ({"what": "kept"}, "", True, "kept"),
        ({"what": "segmented", "n_cells": 1, "wrong": 0.4}, "", False, "1 cell"),
        (
            {"what": "segmented", "n_cells": 5, "wrong": 1.6},
            *("", True, "5 cells · about 2 wrong or missed"),
        ),
        ({"what": "segmented", "n_cells": 0}, "", True, "0 cells"),
        ({"what": "corrected", "n_cells": 2, "wrong": 1.0}, "", True, "2 cells · corrected"),
        ({"what": "kept", "n_cells": 2, "wrong": 1.0}, "", True, "2 cells · kept"),
        ({"what": "segmented", "n_cells": 2, "model": "one"}, "one", True, "2 cells"),
        ({"what": "segmented", "n_cells": 2, "model": "one"}, "", True, "2 cells"),
        ({"what": "segmented", "n_cells": 2}, "one", True, "2 cells"),
        (
            {"what": "segmented", "n_cells": 2, "model": "one"},
            *("two", True, "2 cells · by one"),
        ),
    ],
)
def test_what_is_known_of_an_image_in_words(known, model, doubt, words):
    assert FolderImage("a", Path("a.tif"), **known).words(model, doubt) == words


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        (np.arange(1001.0).reshape(7, 143), (1.0, 999.0)),
        (np.stack([np.full((5, 5), 9.0), np.arange(25.0).reshape(5, 5)]), (0.0, 24.0)),
        (np.full((4, 4), 3, np.uint8), (3.0, 4.0)),
        (np.array([[np.nan, 1.0], [2.0, 1.0]]), (1.0, 2.0)),
        (np.zeros((0, 4)), (0.0, 1.0)),
    ],
)
def test_what_is_shown_black_and_white(pages, tmp_path, values, limits):
    """All but a thousandth on either side, of the middle plane."""
    np.save(tmp_path / "a.npy", values)
    opened = read_opened(0, FolderImage("a", tmp_path / "a.npy"), tmp_path / RESULTS)
    assert opened.limits == pytest.approx(limits, abs=0.1)
    assert not opened.rgb


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_channels_that_are_no_colours_come_first(pages, tmp_path, monkeypatch, n):
    values = np.random.default_rng(0).random((6, 7, n))
    file = ImageFile(values, "YXC", None, "a", (), tmp_path / "a", {}, ())
    monkeypatch.setattr("napari_sa2net.app.folder_files.read_image", lambda _: file)
    opened = read_opened(0, FolderImage("a", tmp_path / "a.npy"), tmp_path / RESULTS)
    assert opened.rgb == (n in (3, 4))
    assert opened.axes == ("YXC" if opened.rgb else "CYX")
    assert opened.data.shape == ((6, 7, n) if opened.rgb else (n, 6, 7))
    assert opened.data.flat[-1] == values.flat[-1]


@pytest.mark.parametrize("left", ["nothing", "another size", "no image"])
def test_results_that_cannot_be_shown_are_left_out(pages, tmp_path, left):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((30, 40)))
    image, output = FolderImage("a", tmp_path / "a.npy"), tmp_path / RESULTS
    path = corrected_file(output, "a")
    path.parent.mkdir(parents=True)
    labels = np.zeros((30, 41 if left == "another size" else 40), np.uint16)
    labels[2:9, 2:9], labels[20:22, 20:22] = 3, 9
    tifffile.imwrite(path, labels)
    (seen,) = look_at([image], output, tmp_path / "none")
    assert (seen.what, seen.n_cells) == ("corrected", 2)
    if left == "nothing":
        assert (read_opened(0, image, output).labels == labels).all()
        return
    if left == "no image":
        path.write_bytes(b"II*\0 none")
        (seen,) = look_at([image], output, tmp_path / "none")
        assert (seen.what, seen.n_cells) == ("corrected", None)
    opened = read_opened(0, image, output)
    assert opened.labels is None
    assert not opened.corrected
