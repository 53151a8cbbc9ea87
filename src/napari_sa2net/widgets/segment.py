"""The Segment page: image, model, size, one button; then live sliders."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QCheckBox, QComboBox, QFrame, QWidget

from napari_sa2net.app.session import ImageSource, Sliders, source_plan
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data.plan import COLOURS
from napari_sa2net.engine.messages import EngineInfo, SegmentResult
from napari_sa2net.errors import SA2NetError
from napari_sa2net.widgets.controls import (
    PAGE_MARGINS,
    Form,
    ValueSlider,
    align_forms,
    check_box,
    fold_button,
    guarded,
    hbox,
    keep_together,
    link_button,
    muted,
    offer,
    push_button,
    separator,
    show_text,
    text_label,
    timer,
    tip_of,
    vbox,
)
from napari_sa2net.widgets.napari_port.reading import axes_choices
from napari_sa2net.widgets.page import ImageChoice, NoImage, PageWidget, RunControls
from napari_sa2net.widgets.rows import TIP as SIZE_TIP
from napari_sa2net.widgets.rows import ImageDetails, ModelRow, RegionRow, SizeRow
from napari_sa2net.widgets.theme import text_color

if TYPE_CHECKING:
    from napari_sa2net.app.segment import ResultState
    from napari_sa2net.data.plan import ImagePlan
    from napari_sa2net.widgets.folder import FolderSection
    from napari_sa2net.widgets.workspace import Workspace


# --------------------------------------------------------------------------------------------
# Settings that are right for most: folded away.

_TILES = (256, 512, 1024, 2048)
NORMALIZE_TIP = (
    "Stretch the image's brightness to what the model expects (percentiles of the whole "
    "image). Off: the raw values go in"
)


LEVELS_TIP = (
    "What becomes black and white. Automatic: of each time point, and of all planes in depth "
    "together. As displayed: the contrast limits of the image layer"
)
AS_DISPLAYED = "displayed"


class AdvancedSection(QWidget):
    """Device, tile, precision and what becomes of the cells.

    Signals
    -------
    predictChanged, instancesChanged, normalizeChanged, displayedChanged
        Ask :meth:`predict`, :meth:`instances`, :meth:`normalize`, :meth:`as_displayed`.
    """

    predictChanged = Signal()
    instancesChanged = Signal()
    normalizeChanged = Signal()
    displayedChanged = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.form = Form()
        tip = "Device, size of the pieces, precision, border cells"
        self.fold = fold_button("Advanced", tip, self.form)
        self.device, self.tile, self.precision = QComboBox(), QComboBox(), QComboBox()
        tiles = [(None, "automatic"), *((side, f"{side} px") for side in _TILES)]
        offer(self.tile, tiles, None)
        offer(self.precision, [("auto", "fast"), ("float32", "exact (float32)")], "auto")
        for title, combo, tip in (
            ("Device", self.device, "What the network runs on; automatic takes a GPU if any"),
            ("Pieces", self.tile, tip_of(PredictConfig, "tile")),
            ("Precision", self.precision, tip_of(PredictConfig, "precision")),
        ):
            self.form.add(title, combo, tip)
        self.adapt = QComboBox()
        offer(self.adapt, [("auto", "automatic"), ("on", "always"), ("off", "never")], "auto")
        self.form.add("Adapt", self.adapt, tip_of(PredictConfig, "adapt"))
        self.augment = self._box("average flips (slower)", PredictConfig, "augment")
        self.normalize_box = check_box("adjust brightness", NORMALIZE_TIP, checked=True)
        self.form.add_wide(self.normalize_box)
        self.levels = QComboBox()
        self.form.add("Brightness", self.levels, LEVELS_TIP)
        self.drop_border = self._box("drop border cells", InstanceConfig, "remove_border")
        self.fill_holes = self._box("fill holes", InstanceConfig, "fill_holes")
        self.set_info(None)
        vbox(self.fold, self.form, on=self)
        self.levels.activated.connect(self._levels_chosen)
        self.normalize_box.toggled.connect(self.levels.setEnabled)
        for combo in (self.device, self.tile, self.precision, self.adapt):
            combo.activated.connect(lambda _: self.predictChanged.emit())
        self.augment.clicked.connect(lambda _: self.predictChanged.emit())
        self.normalize_box.clicked.connect(lambda _: self.normalizeChanged.emit())
        for box in (self.drop_border, self.fill_holes):
            box.clicked.connect(lambda _: self.instancesChanged.emit())
        self.set_levels(False, False)
        self.set_values(PredictConfig(), InstanceConfig(), True)

    def set_info(self, info: EngineInfo | None) -> None:
        """Offer the engine's devices; the choice stays where it can."""
        chosen = self.device.currentData() or "auto"
        self.device.clear()
        self.device.addItem("automatic", "auto")
        for device in info.devices if info is not None else ("cpu",):
            self.device.addItem(device.upper() if device == "cpu" else device, device)
        self.device.setCurrentIndex(max(0, self.device.findData(chosen)))

    def set_levels(self, stack: bool, grey: bool) -> None:
        """Offer what brightness may be measured over; hidden where there is no choice."""
        self.levels.clear()
        offered = [("automatic", "auto")]
        if stack:
            offered += [("of the whole stack", "stack"), ("of each plane", "plane")]
        if grey:
            offered.append(("as displayed", AS_DISPLAYED))
        for words, value in offered:
            self.levels.addItem(words, value)
        self.form.set_row_visible(self.levels, len(offered) > 1)

    def as_displayed(self) -> bool:
        """Whether the contrast limits of the layer are the levels."""
        return bool(self.levels.currentData() == AS_DISPLAYED)

    def predict(self, base: PredictConfig) -> PredictConfig:
        """``base`` with this section's settings."""
        return _with(
            base,
            device=self.device.currentData(),
            tile=self.tile.currentData(),
            precision=self.precision.currentData(),
            adapt=self.adapt.currentData(),
            augment=self.augment.isChecked(),
            levels=self.levels.currentData() if self._offers(base.levels) else base.levels,
        )

    def instances(self, base: InstanceConfig) -> InstanceConfig:
        """``base`` with this section's settings."""
        return _with(
            base,
            remove_border=self.drop_border.isChecked(),
            fill_holes=self.fill_holes.isChecked(),
        )

    def normalize(self) -> bool:
        """Whether brightness is adjusted to what the model expects."""
        return self.normalize_box.isChecked()

    def set_values(
        self,
        predict: PredictConfig,
        instances: InstanceConfig,
        normalize: bool,
        as_displayed: bool = False,
    ) -> None:
        """Show settings; says nothing (only clicks do)."""
        wanted = AS_DISPLAYED if as_displayed else predict.levels
        self.levels.setCurrentIndex(max(0, self.levels.findData(wanted)))
        self.levels.setEnabled(normalize)
        self.device.setCurrentIndex(max(0, self.device.findData(predict.device)))
        if predict.tile is not None and self.tile.findData(predict.tile) < 0:
            self.tile.addItem(f"{predict.tile} px", predict.tile)
        self.tile.setCurrentIndex(self.tile.findData(predict.tile))
        self.precision.setCurrentIndex(self.precision.findData(predict.precision))
        self.adapt.setCurrentIndex(self.adapt.findData(predict.adapt))
        self.augment.setChecked(predict.augment)
        self.drop_border.setChecked(instances.remove_border)
        self.fill_holes.setChecked(instances.fill_holes)
        self.normalize_box.setChecked(normalize)

    def show_adapted(self, adapted: bool) -> None:
        """Say what was decided where nobody has chosen."""
        self.adapt.setItemText(0, "automatic: adapted" if adapted else "automatic")

    def _offers(self, levels: str) -> bool:
        """Whether there is this choice now, and a row to choose it from."""
        return not self.as_displayed() and self.levels.findData(levels) >= 0

    def _levels_chosen(self, _: int) -> None:
        self.displayedChanged.emit()
        self.predictChanged.emit()

    def _box(
        self, text: str, model: type[PredictConfig] | type[InstanceConfig], field: str
    ) -> QCheckBox:
        box = check_box(text, tip_of(model, field))
        self.form.add_wide(box)
        return box


def _with(base: Any, **changes: Any) -> Any:
    """A validated copy (pydantic's model_copy would not check)."""
    return type(base)(**{**base.model_dump(), **changes})


# --------------------------------------------------------------------------------------------
# Sliders that change the shown cells live, and a line that counts them.


class ResultSection(QWidget):
    """Foreground, Split, Smallest, Confidence; summary; link to the table.

    Signals
    -------
    valueChanged
        A person moved a slider; ask :meth:`value`.
    """

    valueChanged = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._pixel_area: float | None = None
        self._typical = 300.0
        self._min_px = 0
        fields = InstanceConfig.model_fields
        low, high = 0.02, 0.98
        self.form = Form()
        self.foreground = ValueSlider(low, high)
        self.split = ValueSlider(0, 1)
        # areas span orders of magnitude: most of the slider belongs to small ones
        self.smallest = ValueSlider(0, 1, power=2)
        self.form.add(
            fields["foreground"].title or "Foreground",
            self.foreground,
            f"{tip_of(InstanceConfig, 'foreground')} (0.02 to 0.98)",
        )
        self.form.add(
            fields["split"].title or "Split", self.split, tip_of(InstanceConfig, "split")
        )
        self.form.add("Smallest", self.smallest, tip_of(InstanceConfig, "min_size"))
        # nearly all cells lie near 1: most of the slider belongs to them
        self.confidence = ValueSlider(0, 1, power=0.3)
        self.form.add(
            fields["min_confidence"].title or "Confidence",
            self.confidence,
            tip_of(InstanceConfig, "min_confidence"),
        )
        self.reset = link_button(
            "Reset",
            "Foreground, Split and Confidence as tuned for this model, Smallest at its default",
        )
        self.note = muted()
        self.back = link_button(
            "Bring it back",
            "Run the model again as it made these cells; then the sliders act on them",
        )
        self.summary = text_label(
            role="summary", tip="Number of cells, their median area, and how many are cut off"
        )
        self.table = link_button(
            "→ table", "Open the table of all cells: area, shape, brightness, confidence"
        )
        self.measure = link_button(
            "Measure", "Count these cells and measure them: area, shape, brightness"
        )
        row = hbox((self.summary, 1), self.table, self.measure, spacing=8)
        sliders = hbox((self.note, 9), None, self.reset, spacing=8)
        vbox(self.form, sliders, self.back, row, on=self)
        self.foreground.valueChanged.connect(lambda _: self.valueChanged.emit())
        self.split.valueChanged.connect(lambda _: self.valueChanged.emit())
        self.smallest.valueChanged.connect(self._smallest_moved)
        self.confidence.valueChanged.connect(lambda _: self.valueChanged.emit())
        self.set_pixel_size(None)
        self.setValue(InstanceConfig())
        self.set_state("none", "", "")

    def value(self, base: InstanceConfig) -> InstanceConfig:
        """``base`` with what the sliders say."""
        changes = {
            "foreground": self.foreground.value(),
            "split": self.split.value(),
            "min_size": self._min_px,
            "min_confidence": self.confidence.value(),
        }
        return InstanceConfig(**{**base.model_dump(), **changes})

    def setValue(self, config: InstanceConfig) -> None:
        """Show settings; says nothing."""
        self.foreground.setValue(config.foreground)
        self.split.setValue(config.split)
        self._min_px = config.min_size
        self.confidence.setValue(config.min_confidence)
        self._show_smallest()

    def set_pixel_size(self, pixel_size_um: float | None) -> None:
        """Show the smallest area in µm² where the pixel size is known, else in px²."""
        self._pixel_area = pixel_size_um**2 if pixel_size_um else None
        self._set_range()

    def set_typical_area(self, area_px: float) -> None:
        """Area of a typical cell (px²): the slider ends at twice of it."""
        self._typical = area_px
        self._set_range()

    def fit(self) -> None:
        """Follow a change of font."""
        for slider in (self.foreground, self.split, self.smallest, self.confidence):
            slider.fit("0000.0 µm²")

    def set_tuned(self, tuned: bool) -> None:
        """Whether the sliders stand where the model's tuning put them."""
        self.reset.setVisible(not tuned)

    def set_state(self, sliders: Sliders, note: str, summary: str, countable: str = "") -> None:
        """Sliders act only on a result that is live; the note says why not.

        ``countable``: name of cells that are not measured yet.
        """
        self.form.setEnabled(sliders == "live")
        show_text(self.note, note)
        self.back.setVisible(sliders == "lost")
        line = f"“{countable}” is not measured." if countable else summary
        self.summary.setText(keep_together(line))
        self.summary.setVisible(bool(line))
        self.table.setVisible(bool(summary))
        self.measure.setVisible(bool(countable))

    def _set_range(self) -> None:
        high = max(100.0, 2 * self._typical)
        if self._pixel_area is None:
            self.smallest.set_range(0, high, 0, " px²")
            self.smallest.spin.units = {}
            unknown = "the size of a pixel is not known, so give the number in px²"
            self.smallest.spin.no_units = {"um2": unknown}
        else:
            decimals = max(0, math.ceil(-math.log10(self._pixel_area)))
            self.smallest.set_range(0, high * self._pixel_area, min(decimals, 4), " µm²")
            self.smallest.spin.units = {"px2": self._pixel_area, "px": self._pixel_area}
        self._show_smallest()

    def _show_smallest(self) -> None:
        self.smallest.setValue(self._min_px * (self._pixel_area or 1.0))

    def _smallest_moved(self, value: float) -> None:
        self._min_px = max(0, round(value / (self._pixel_area or 1.0)))
        self.valueChanged.emit()


STAIN_TIP = tip_of(PredictConfig, "dab")
#: Choices, and what is said of the first where it took the brown away.
STAINS = (("auto", "automatic"), ("keep", "keep"), ("remove", "remove"))
REMOVED = "automatic: removed"

MEASURE_HINT = "Drag a line across one cell in the image. Esc cancels."
AREA_HINT = "Drag a rectangle over the image, then press Segment."
OPEN_FOLDER = "Open a folder of images…"
FOLDER_TIP = "List the images of a folder: segment all of them, correct one after the other"
LAYERS_TIP = "List the image layers of this window: segment all of them, one after the other"
SEGMENT_TIP = "Find the cells. The result is a new layer over the image"


class SegmentPage(PageWidget):
    """Binds the panels to the session; all state lives there."""

    def __init__(self, workspace: Workspace, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = workspace.session
        self.controller = workspace.controller
        self.port = workspace.port
        self._workspace = workspace
        self._axes_shown: tuple[Any, ...] = ()
        self._measuring = False
        self._build()
        self._connect()

    # --- building ------------------------------------------------------------------------

    def _build(self) -> None:
        #: made when the first folder is opened
        self.folder: FolderSection | None = None
        # beside an image, and where there is none among the other ways to begin
        self.open_folder = link_button(OPEN_FOLDER, FOLDER_TIP)
        self.begin_folder = push_button(OPEN_FOLDER, FOLDER_TIP, "")
        self.all_layers = link_button("All open layers", LAYERS_TIP)
        self.ways = hbox(self.open_folder, None, self.all_layers)
        promise = "One click then finds and measures its cells."
        self.empty = NoImage(self._workspace, promise, self.begin_folder)
        self.work = QWidget()
        self.found = QWidget()
        self._choice = ImageChoice(self._workspace, self)
        self.image_row = self._choice.row
        self.model_row = ModelRow()
        self.size_row = SizeRow()
        self.stain = QComboBox()
        offer(self.stain, STAINS, "auto")
        self.region_row = RegionRow()
        self.advanced = AdvancedSection()
        self.hint = QFrame()
        self.hint.setProperty("role", "hint")
        self.hint_text = text_label(MEASURE_HINT)
        vbox(self.hint_text, on=self.hint, margins=(10, 6, 8, 6))
        self._run = run = RunControls(
            self._workspace,
            self,
            "Segment",
            SEGMENT_TIP,
            self._start,
            lambda: self.session.estimate,
        )
        self.button, self.progress, self.error = run.button, run.progress, run.error
        self.result = ResultSection()

        form = Form()
        form.add("Image", self.image_row, "The image layer to segment")
        self.details = ImageDetails(form)
        form.add("Model", self.model_row, "The trained network that finds the cells")
        form.add("Object size", self.size_row, SIZE_TIP)
        form.add_wide(self.size_row.note)
        form.add("Brown stain", self.stain, STAIN_TIP)
        self._form = form
        form.add("Where", self.region_row, "How much of the image is segmented", top=True)
        vbox(
            form, self.hint, self.advanced, self.button, self.progress, on=self.work, spacing=8
        )
        vbox(separator(), self.result, on=self.found, spacing=8)
        self.hint.setVisible(False)
        # an error must be seen also where no image is open
        self._parts = vbox(
            *(self.ways, self.empty, self.work, self.error, self.found, None),
            on=self,
            spacing=8,
            margins=PAGE_MARGINS,
        )
        # the camera moves many times a second; what depends on it follows when it rests
        self._rest = timer(self, 250, self._workspace.refresh_image, once=True)

    def _connect(self) -> None:
        connect, follow = self.connections.connect, self.connections.follow
        events = self.session.events
        follow(self._show_models, events.models, events.model)
        follow(self._show_image, events.image)
        follow(self._show_image_line, events.image_line)
        follow(self._show_settings, events.instances, events.predict, events.model)
        follow(self._show_region, events.where, events.planes)
        follow(
            self._show_sliders,
            *(events.sliders, events.sliders_note, events.counted, events.countable),
        )
        follow(self._show_device_line, events.device_line, events.info)
        connect(self.port.view_changed, self._view_moved)
        connect(self.controller.result_ready, self._result_ready)
        self.details.axesChosen.connect(self.port.set_axes)
        self.details.channelsChosen.connect(self.port.set_channels)
        self.details.misread.splitWanted.connect(
            lambda axis: guarded(self.session, lambda: self.port.split(axis))
        )
        self.model_row.valueChanged.connect(self.controller.choose_model)
        self.size_row.valueChanged.connect(self._size_changed)
        self.size_row.measureToggled.connect(self._measure)
        self.stain.activated.connect(self._stain_chosen)
        self.region_row.valueChanged.connect(self._region_changed)
        self.region_row.linkChanged.connect(self._instances_changed)
        self.advanced.predictChanged.connect(self._predict_changed)
        self.advanced.instancesChanged.connect(self._instances_changed)
        self.advanced.displayedChanged.connect(
            lambda: self.port.set_as_displayed(self.advanced.as_displayed())
        )
        self.advanced.normalizeChanged.connect(
            lambda: self.controller.set_normalize(self.advanced.normalize())
        )
        self.result.valueChanged.connect(self._instances_changed)
        self.result.reset.clicked.connect(self.controller.reset_instances)
        self.result.table.clicked.connect(self._open_table)
        self.result.measure.clicked.connect(self._workspace.measure_cells)
        self.result.back.clicked.connect(self.controller.bring_back)
        for button in (self.open_folder, self.begin_folder):
            button.clicked.connect(lambda: self.with_folder().choose())
        self.all_layers.clicked.connect(self._list_layers)
        self.connections.follow(self._show_ways, self.port.images_changed)
        if "folder" in vars(self._workspace):  # opened on a page before this one
            self.with_folder()

    def with_folder(self) -> FolderSection:
        """The section of the folder of images, made now if it was not."""
        if self.folder is None:
            from napari_sa2net.widgets.folder import FolderSection

            self.folder = FolderSection(self._workspace, self.connections)
            self._parts.insertWidget(0, self.folder)
            events = self._workspace.folder.state.events
            self.connections.follow(
                self._show_folder, events.folder, events.layers, events.busy
            )
        return self.folder

    def _list_layers(self) -> None:
        self.with_folder()
        self._workspace.folder.open_layers()

    def _show_ways(self) -> None:
        """Several layers can be the list."""
        self.all_layers.setVisible(
            self.open_folder.isVisibleTo(self) and len(self.port.images()) > 1
        )

    def _show_folder(self) -> None:
        """Ways to open a folder while none is; with one, what is run for this image alone."""
        state = vars(self._workspace)["folder"].state if self.folder is not None else None
        there = state is not None and (
            state.folder is not None or state.layers or bool(state.busy)
        )
        image = self.session.image is not None
        self.open_folder.setVisible(image and not there)
        self._show_ways()
        self.empty.setVisible(not image and not there)
        self._run.set_words("Segment this image" if there else "Segment")

    def shut(self) -> None:
        """Undo every connection to session and port; the page is about to go."""
        self._rest.stop()
        self.port.cancel_measure()
        super().shut()

    def set_theme(self, theme: str) -> None:
        """Follow napari's theme where a style sheet cannot."""
        self.image_row.set_color(text_color(theme))
        align_forms(self)
        self.result.fit()

    # --- what a person does --------------------------------------------------------------

    def _start(self) -> None:
        self.port.cancel_measure()
        # plane and view are those of this moment
        self._workspace.refresh_image()
        self.controller.segment()

    def _size_changed(self, diameter: float | None) -> None:
        predict = self.session.predict
        self.controller.set_predict(
            PredictConfig(**{**predict.model_dump(), "diameter": diameter})
        )

    def _measure(self, wanted: bool) -> None:
        if not wanted:
            self.port.cancel_measure()
            return
        self._set_measuring(True)
        self.port.measure(lambda call: QTimer.singleShot(0, call), self._measured)

    def _measured(self, length: float | None) -> None:
        self._set_measuring(False)
        if length is not None:
            self.size_row.setValue(length)
            self._size_changed(self.size_row.value())

    def _set_measuring(self, measuring: bool) -> None:
        self.size_row.set_measuring(measuring)
        self._measuring = measuring
        self._show_hint()

    def _show_hint(self) -> None:
        source, where = self.session.image, self.session.where
        undrawn = source is not None and where == "area" and source.area is None
        self.hint_text.setText(MEASURE_HINT if self._measuring else AREA_HINT)
        self.hint.setVisible(self._measuring or undrawn)

    def _region_changed(self) -> None:
        self._workspace.set_region(self.region_row.where(), self.region_row.planes())

    def _stain_chosen(self, _: int) -> None:
        self.controller.set_predict(_with(self.session.predict, dab=self.stain.currentData()))

    def _predict_changed(self) -> None:
        self.controller.set_predict(self.advanced.predict(self.session.predict))

    def _instances_changed(self) -> None:
        config = self.advanced.instances(self.result.value(self.session.instances))
        linked = self.region_row.link.isChecked()
        self.controller.set_instances(config.model_copy(update={"link_planes": linked}))

    def _open_table(self) -> None:
        guarded(self.session, self._workspace.show_table)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Take the keys that mean something here."""
        if event is not None and event.key() == Qt.Key.Key_Escape and self._measuring:
            self.port.cancel_measure()
            return
        super().keyPressEvent(event)

    # --- what the viewer and the session say ---------------------------------------------

    def _view_moved(self) -> None:
        source = self.session.image
        channels = source is not None and source.seen_channel is not None
        if channels or self.session.where != "whole" or self.session.planes == "current":
            self._rest.start()

    def _result_ready(self, state: ResultState, result: SegmentResult) -> None:
        if self.session.predict.diameter is None:
            unsure = state.size_unsure(result.objects)
            self.size_row.set_estimate(result.diameter, unsure=unsure)
        self._show_removed(state.decided["dab"] == "remove")
        self.advanced.show_adapted(state.decided["adapt"] == "on")
        area = result.summary.median_area_px
        if math.isfinite(area) and area > 0:
            self.result.set_typical_area(area)

    def _show_removed(self, removed: bool) -> None:
        """Say what became of the brown stain where nobody has chosen."""
        auto = removed and self.session.predict.dab == "auto"
        self.stain.setItemText(0, REMOVED if auto else STAINS[0][1])

    def _show_models(self) -> None:
        self.model_row.set_models(self.session.models, self.session.model)

    def _show_image(self) -> None:
        source = self.session.image
        self._show_folder()
        self._show_hint()
        self.work.setVisible(source is not None)
        self.found.setVisible(source is not None)
        if source is None:
            return
        self.size_row.set_pixel_size(source.pixel_side_um)
        self.result.set_pixel_size(source.pixel_side_um)
        said = source.axes, source.axes_guessed
        shown = (source.key, said, source.channels, source.shape)
        if shown != self._axes_shown:
            if shown[:1] != self._axes_shown[:1]:
                self.size_row.set_estimate(None)
                self._show_removed(False)
            self._axes_shown = shown
            self._show_axes(source)
        self._show_image_line()

    def _show_axes(self, source: ImageSource) -> None:
        spelled = source.axes or ""
        self.details.set_axes(axes_choices(spelled) if spelled else [], spelled)
        names: list[str] = []
        chosen: tuple[int, ...] = ()
        stack: tuple[str, tuple[int, ...]] = ("", ())
        grey = colours = False
        with suppress(SA2NetError):  # the preview line says what is wrong
            plan = source_plan(source)
            stack, grey = (plan.stack_axes, plan.stack_shape), not plan.is_rgb
            names, chosen = _channel_names(plan), plan.channels
            colours = plan.tells_stains
        self.details.set_channels(names, chosen)
        self.details.misread.set_image(source)
        self.region_row.set_stack(*stack)
        self.advanced.set_levels(bool(stack[0]), grey)
        self._form.set_row_visible(self.stain, colours)
        self._show_settings()

    def _show_image_line(self) -> None:
        self.details.set_line(self.session.image_line)

    def _show_settings(self) -> None:
        session = self.session
        self.size_row.setValue(session.predict.diameter)
        self.stain.setCurrentIndex(self.stain.findData(session.predict.dab))
        self.result.setValue(session.instances)
        self.result.set_tuned(self.controller.tuned == session.instances)
        self.region_row.link.setChecked(session.instances.link_planes)
        self.advanced.set_values(
            session.predict, session.instances, session.normalize, self.port.as_displayed
        )

    def _show_device_line(self) -> None:
        self.advanced.set_info(self.session.info)

    def _show_region(self) -> None:
        self.region_row.setValue(self.session.where, self.session.planes)
        self._show_hint()

    def _show_sliders(self) -> None:
        session = self.session
        self.result.set_state(
            session.sliders, session.sliders_note, session.counted, session.countable
        )


def _channel_names(plan: ImagePlan) -> list[str]:
    """What the image's channels are called; empty where there is but one."""
    if plan.channel_axis is None:
        return []
    if plan.is_rgb:
        return list(COLOURS)
    # Counted as in the line above, on the shell, and by napari's own slider.
    return [str(i) for i in range(plan.n_channels)]
