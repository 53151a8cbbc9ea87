"""Drive the real program and save its pictures into docs/images.

    python docs/make_screenshots.py [--image FILE] [--only NAME ...]

Needs a display; without one: ``xvfb-run -a -s "-screen 0 1600x1000x24" python docs/...``.
Without ``--image`` a sample image of the plugin is used.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# napari's own preferences of the person who runs this stay as they are
os.environ["NAPARI_CONFIG"] = ""

import napari
from napari._qt.dialogs.qt_notification import NapariQtNotification
from napari.settings import get_settings
from PIL import Image
from qtpy.QtWidgets import QApplication, QScrollArea, QTabWidget, QWidget

from napari_sa2net.widgets.numbers import range_of

OUT = Path(__file__).parent / "images"
WINDOW = (1366, 768)
TALL = (1366, 980)
PATIENCE_S = 600
#: a picture with more bytes gets 256 colours
MOST_BYTES = 300_000


class Program:
    """One napari window with the dock."""

    def __init__(
        self, theme: str = "dark", font: int = 9, window: tuple[int, int] = WINDOW
    ) -> None:
        settings = get_settings()
        settings.appearance.theme = theme
        settings.appearance.font_size = font
        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(*window)
        _, dock = self.viewer.window.add_plugin_dock_widget("napari-sa2net", "SA2-Net")
        self.dock = dock
        self.page: Any = dock.pages[0]
        self.pause(0.5)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Let the program run until something is so."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            QApplication.processEvents()
            time.sleep(0.01)
            if time.monotonic() > end:
                raise TimeoutError(f"waited in vain for {what}")

    def pause(self, seconds: float) -> None:
        """Let it draw."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end, "a pause")

    def ready(self) -> None:
        """Wait for the engine and its estimate."""
        self.wait(lambda: self.page.session.estimate is not None, "the engine")
        self.pause(0.3)

    def turn_to(self, name: str) -> None:
        """Another page."""
        tabs = self.dock.findChild(QTabWidget)
        index = next(i for i in range(tabs.count()) if tabs.tabText(i) == name)
        tabs.setCurrentIndex(index)
        self.page = self.dock.pages[index]
        self.pause(0.3)

    def segment(self) -> None:
        """Press the button and wait for the cells."""
        self.page.button.click()
        self.wait(lambda: not self.page.session.running, "the segmentation")
        if self.page.session.error is not None:
            raise RuntimeError(self.page.session.error.message)
        self.pause(0.8)

    def save(self, name: str, *, popup: QWidget | None = None) -> None:
        """A picture of the whole window, with a popup on it where one is open."""
        # on a busy machine a run is long, and its end is told over the picture
        for told in self.viewer.window._qt_window.findChildren(NapariQtNotification):
            told.close()
        self.pause(0.3)
        path = OUT / f"{name}.png"
        self.viewer.screenshot(str(path), canvas_only=False, flash=False)
        if popup is not None:
            paste(path, popup, self.page.window())
        if path.stat().st_size > MOST_BYTES:
            with Image.open(path) as picture:
                few = few_colors(picture.convert("RGB"))
            few.save(path, optimize=True)
        print(path)

    def close(self) -> None:
        """Close the window; the engine ends with it."""
        self.viewer.close()
        QApplication.processEvents()


def few_colors(picture: Image.Image) -> Image.Image:
    """With 256 colours; small things on the dock keep theirs."""
    width, height = picture.size
    dock = picture.crop((width - 360, 0, width, height))
    sample = Image.new("RGB", (width + 4 * 360, height))
    sample.paste(picture, (0, 0))
    for i in range(4):
        sample.paste(dock, (width + 360 * i, 0))
    return picture.quantize(palette=sample.quantize(256), dither=Image.Dither.NONE)


def paste(path: Path, popup: QWidget, window: QWidget) -> None:
    """Draw a popup, a window of its own, onto a saved picture of the main window."""
    from qtpy.QtGui import QPainter, QPixmap

    picture = QPixmap(str(path))
    painter = QPainter(picture)
    painter.drawPixmap(popup.pos() - window.pos(), popup.grab())
    painter.end()
    picture.save(str(path))


def add_image(program: Program, image: Path | None) -> None:
    """The image of the command line, or stained tissue."""
    if image is None:
        program.viewer.open_sample("napari-sa2net", "tissue")
        return
    from napari_sa2net.data import read_image

    file = read_image(image)
    place: dict[str, object] = {}
    if file.pixel_size_um:
        place = {"scale": (file.pixel_size_um,) * 2, "units": ("um", "um")}
    program.viewer.add_image(file.array, name=file.name, **place)


def empty(image: Path | None) -> None:
    """No image yet."""
    program = Program()
    program.save("empty")
    program.close()


def segment(image: Path | None) -> None:
    """Before, and after."""
    program = Program()
    add_image(program, image)
    program.ready()
    program.save("ready")
    program.segment()
    program.save("segment")
    program.page.model_row.show_card()
    program.save("model-card", popup=program.page.model_row.popup)
    program.page.model_row.popup.close()
    program.page.advanced.fold.setChecked(True)
    program.save("advanced")
    program.close()


def table(image: Path | None) -> None:
    """The cells of a range in the histogram, lit in the picture and chosen in the table."""
    program = Program()
    add_image(program, image)
    program.ready()
    program.segment()
    program.page.result.table.click()
    made = program.dock.workspace.show_table()
    program.wait(lambda: "circularity" in made.model.names, "the shapes")
    made.plot.click()
    program.wait(lambda: made.numbers._plot is not None, "the plot")
    areas = made._layer.features["area_px"]
    made.numbers.set_gate(range_of("area_px", 0, float(areas.quantile(0.1))))
    made.numbers.drop.click()
    ends = areas.quantile([0.6, 1.0])
    made.numbers.set_gate(range_of("area_px", *map(float, ends)))
    program.pause(1)
    program.save("table")
    program.close()


def light(image: Path | None) -> None:
    """Light theme, letters of 125 %."""
    program = Program("light", 11)
    add_image(program, image)
    program.ready()
    program.segment()
    program.save("segment-light")
    program.close()


def see_why(image: Path | None) -> None:
    """One map over the image, one cell closely."""
    program = Program(window=TALL)
    add_image(program, image)
    program.ready()
    program.turn_to("See why")
    program.segment()
    page, session = program.page, program.page.session
    page.tiles.tiles["aua_4"].click()
    key = session.why.key
    shape = session.why.result.change.shape
    place = page.port.result_layer(key).features.set_index("label")
    # among the most refined cells one that is not near the border, for a full picture
    label = next(
        label
        for label in page.port.ranked(key, "refinement_px")
        if 0.25 < place.loc[label, "centroid_y"] / shape[0] < 0.75
        and 0.25 < place.loc[label, "centroid_x"] / shape[1] < 0.75
    )
    page.port.go_to(key, label)
    page.inspect(label)
    program.wait(lambda: session.why.inspection is not None, "the cell")
    program.viewer.scene.camera.zoom *= 0.45
    program.pause(1)
    program.save("see_why")
    page.tiles.tiles["aua_4"].click()
    page.stages.slider.setValue(0)
    page.what_if.gates[3].click()
    program.wait(lambda: session.why.what_if_result is not None, "what if")
    program.pause(0.5)
    for area in program.dock.findChildren(QScrollArea):
        bar = area.verticalScrollBar()
        bar.setValue(bar.maximum())
    program.save("what_if")
    program.close()


def correct(image: Path | None) -> None:
    """Some cells reviewed, one under review, the split tool taken up."""
    program = Program(window=TALL)
    add_image(program, image)
    program.ready()
    program.segment()
    program.turn_to("Correct")
    page, review = program.page, program.page.controller.review
    program.wait(lambda: page.state.review.scored, "the order of review")
    review.next()
    for _ in range(6):
        review.accept_and_next()
    program.wait(lambda: bool(page.state.review.reasons), "why the cell is doubtful")
    page.bench.choose("split")
    program.pause(2)
    program.save("correct")
    page.bench.choose("")
    program.close()


def learn(image: Path | None) -> None:
    """Teach the model cells that glow on dark tissue, which it has never seen."""
    from napari_sa2net.config import FineTuneConfig
    from napari_sa2net.data.commit import Commit
    from napari_sa2net.data.corrections import TrainingSet
    from napari_sa2net.data.samples import synthetic_nuclei

    def slide(seed: int, side: int = 320) -> tuple[Any, Any]:
        picture, labels = synthetic_nuclei((side, side), 90, 20, seed, "stained")
        return 255 - picture[..., ::-1], labels

    home = os.environ.get("SA2NET_HOME")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["SA2NET_HOME"] = folder
        training_set = TrainingSet.open(Path(folder) / "corrections", create=True)
        for i in range(4):
            picture, labels = slide(i)
            name = f"slide_{i + 1}"
            training_set.commit(Commit(picture, labels, source=name, fingerprint=name))
        program = Program()
        program.viewer.add_image(slide(7, 400)[0], name="slide_7")
        program.ready()
        program.turn_to("Learn")
        page = program.page
        program.wait(lambda: page.state.summary is not None, "the training set")
        page.controller.set_config(FineTuneConfig(steps=48, rounds=8, batch_size=2, crop=128))
        page.button.click()
        state = page.state
        program.wait(lambda: len(state.curves.rounds) >= 4 or page.session.error, "four rounds")
        program.wait(lambda: state.previewed or page.session.error, "the cells so far")
        program.pause(1)
        program.save("learn")
        program.wait(lambda: state.outcome is not None or page.session.error, "the verdict")
        page.card.difference.click()
        program.wait(lambda: state.difference is not None, "the difference")
        program.pause(0.5)
        program.save("learn_verdict")
        program.close()
    if home is None:
        del os.environ["SA2NET_HOME"]
    else:
        os.environ["SA2NET_HOME"] = home


def models(image: Path | None) -> None:
    """The card of the bundled model, in a home without any other."""
    from unittest.mock import patch

    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        patch.dict(os.environ, SA2NET_HOME=folder),
    ):
        program = Program()
        program.viewer.open_sample("napari-sa2net", "nuclei")
        program.turn_to("Models")
        program.page.controller.choose("nuclei")
        program.pause(1)
        program.save("models")
        program.close()


def stack(image: Path | None) -> None:
    """A stack: axes, planes, one of them."""
    program = Program()
    program.viewer.open_sample("napari-sa2net", "nuclei_stack")
    program.ready()
    program.page.region_row.plane.click()
    program.segment()
    program.save("stack")
    program.close()


def measure(image: Path | None) -> None:
    """The line tool, before the line."""
    program = Program()
    add_image(program, image)
    program.page.size_row.measure.click()
    program.save("measure")
    program.page.size_row.measure.click()
    program.close()


SHOTS: dict[str, Callable[[Path | None], None]] = {
    "empty": empty,
    "segment": segment,
    "table": table,
    "light": light,
    "see_why": see_why,
    "correct": correct,
    "learn": learn,
    "models": models,
    "stack": stack,
    "measure": measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, help="a 2-D image file")
    parser.add_argument("--only", nargs="+", choices=SHOTS, help="some of the pictures")
    arguments = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    for name in arguments.only or SHOTS:
        SHOTS[name](arguments.image)


if __name__ == "__main__":
    main()
