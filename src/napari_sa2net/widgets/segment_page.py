"""The Segment page: image, model, size, one button; then live sliders."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QFrame, QLabel, QVBoxLayout, QWidget

from napari_sa2net.app.preview import source_plan
from napari_sa2net.app.session import ImageSource, SegmentOutcome
from napari_sa2net.config import PredictConfig
from napari_sa2net.data.plan import COLOURS
from napari_sa2net.errors import SA2NetError
from napari_sa2net.widgets.advanced import AdvancedSection
from napari_sa2net.widgets.common import Form, align_forms, separator
from napari_sa2net.widgets.error_box import guarded
from napari_sa2net.widgets.image_row import SPLIT, ImageDetails
from napari_sa2net.widgets.model_row import ModelRow
from napari_sa2net.widgets.napari_port.geometry import axes_choices
from napari_sa2net.widgets.page_parts import (
    ImageChoice,
    NoImage,
    PageWidget,
    RunControls,
    column,
)
from napari_sa2net.widgets.region_row import RegionRow
from napari_sa2net.widgets.result_section import ResultSection
from napari_sa2net.widgets.size_row import TIP as SIZE_TIP
from napari_sa2net.widgets.size_row import SizeRow
from napari_sa2net.widgets.theme import text_color

if TYPE_CHECKING:
    from napari_sa2net.data.plan import ImagePlan
    from napari_sa2net.widgets.workspace import Workspace

SEGMENT_TIP = "Find the cells. The result is a new layer over the image"


class SegmentPage(PageWidget):
    """Binds the panels to the session; all state lives there."""

    def __init__(self, workspace: Workspace, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = workspace.session
        self.controller = workspace.controller
        self.port = workspace.port
        self._workspace = workspace
        self._dispatch = workspace.dispatch
        self._axes_shown: tuple[Any, ...] = ()
        self._build()
        self._connect()
        for field in ("models", "image", "settings", "region", "sliders", "device_line"):
            getattr(self, f"_show_{field}")()

    # --- building ------------------------------------------------------------------------

    def _build(self) -> None:
        self._no_image = NoImage(
            self._workspace, self, "One click then finds and measures its cells."
        )
        self.empty = self._no_image.state
        self.work = QWidget()
        self.found = QWidget()
        self._choice = ImageChoice(self._workspace, self.connections, self)
        self.image_row = self._choice.row
        self.model_row = ModelRow()
        self.size_row = SizeRow()
        self.region_row = RegionRow()
        self.advanced = AdvancedSection()
        self.hint = QFrame()
        self.hint.setProperty("role", "hint")
        hint_layout = QVBoxLayout(self.hint)
        hint_layout.setContentsMargins(10, 6, 8, 6)
        hint_text = QLabel("Drag a line across one cell in the image. Esc cancels.")
        hint_text.setWordWrap(True)
        hint_layout.addWidget(hint_text)
        self._run = run = RunControls(
            self._workspace,
            self.connections,
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
        form.add("Where", self.region_row, "How much of the image is segmented", top=True)
        work = column(self.work)
        parts: list[QWidget] = [form, self.hint, self.advanced, self.button, self.progress]
        for part in parts:
            work.addWidget(part)
        found = column(self.found)
        found.addWidget(separator())
        found.addWidget(self.result)
        self.hint.setVisible(False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 10, 8, 10)
        layout.setSpacing(8)
        # an error must be seen also where no image is open
        for part in (self.empty, self.work, self.error, self.found):
            layout.addWidget(part)
        layout.addStretch(1)
        # the camera moves many times a second; what depends on it follows when it rests
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(250)

    def _connect(self) -> None:
        connect = self.connections.connect
        events = self.session.events
        for field, show in (
            ("models", self._show_models),
            ("model", self._show_models),
            ("image", self._show_image),
            ("image_line", self._show_image_line),
            ("instances", self._show_settings),
            ("predict", self._show_settings),
            ("device_line", self._show_device_line),
            ("info", self._show_device_line),
            ("sliders", self._show_sliders),
            ("sliders_note", self._show_sliders),
            ("counted", self._show_sliders),
            ("countable", self._show_sliders),
            ("where", self._show_region),
            ("planes", self._show_region),
        ):
            connect(getattr(events, field), show)
        connect(self.port.view_changed, self._view_moved)
        connect(self.controller.result_ready, self._result_ready)
        self._rest.timeout.connect(self._view_rested)
        self.details.axesChosen.connect(self.port.set_axes)
        self.details.channelsChosen.connect(self.port.set_channels)
        self.details.splitWanted.connect(
            lambda axis: guarded(self.session, lambda: self.port.split(axis))
        )
        self.model_row.valueChanged.connect(self.controller.choose_model)
        self.size_row.valueChanged.connect(self._size_changed)
        self.size_row.measureToggled.connect(self._measure)
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
        self.result.tableWanted.connect(self._open_table)
        self.result.measureWanted.connect(self._workspace.measure_cells)
        self.result.backWanted.connect(self.controller.bring_back)

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
        self.hint.setVisible(measuring)

    def _region_changed(self) -> None:
        self.controller.set_region(self.region_row.where(), self.region_row.planes())
        self._workspace.refresh_image()

    def _predict_changed(self) -> None:
        self.controller.set_predict(self.advanced.predict(self.session.predict))

    def _instances_changed(self) -> None:
        config = self.advanced.instances(self.result.value(self.session.instances))
        linked = self.region_row.link.isChecked()
        self.controller.set_instances(config.model_copy(update={"link_planes": linked}))

    def _open_table(self) -> None:
        guarded(self.session, self._workspace.show_table)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        if event is not None and event.key() == Qt.Key.Key_Escape and self.hint.isVisible():
            self.port.cancel_measure()
            return
        super().keyPressEvent(event)

    # --- what the viewer and the session say ---------------------------------------------

    def _view_moved(self) -> None:
        source = self.session.image
        channels = source is not None and source.seen_channel is not None
        if channels or self.session.where == "view" or self.session.planes == "current":
            self._rest.start()

    def _view_rested(self) -> None:
        self._workspace.refresh_image()

    def _result_ready(self, outcome: SegmentOutcome) -> None:
        if self.session.predict.diameter is None:
            self.size_row.set_estimate(outcome.result.diameter, unsure=outcome.size_unsure)
        area = outcome.result.summary.median_area_px
        if math.isfinite(area) and area > 0:
            self.result.set_typical_area(area)

    def _show_models(self, _: Any = None) -> None:
        self.model_row.set_models(self.session.models, self.session.model)

    def _show_image(self, _: Any = None) -> None:
        source = self.session.image
        self.empty.setVisible(source is None)
        self.work.setVisible(source is not None)
        self.found.setVisible(source is not None)
        if source is None:
            return
        self.size_row.set_pixel_size(source.pixel_size_um)
        self.result.set_pixel_size(source.pixel_size_um)
        shown = (source.key, source.axes, source.channels, source.shape)
        if shown != self._axes_shown:
            if shown[:1] != self._axes_shown[:1]:
                self.size_row.set_estimate(None)
            self._axes_shown = shown
            self._show_axes(source)
        self._show_image_line()

    def _show_axes(self, source: ImageSource) -> None:
        spelled = source.axes or ""
        self.details.set_axes(axes_choices(spelled) if spelled else [], spelled)
        names: list[str] = []
        chosen: tuple[int, ...] = ()
        stack: tuple[str, tuple[int, ...]] = ("", ())
        grey = False
        notice, likely = "", None
        with suppress(SA2NetError):  # the preview line says what is wrong
            plan = source_plan(source)
            stack, grey = (plan.stack_axes, plan.stack_shape), not plan.is_rgb
            names, chosen = _channel_names(plan), plan.channels
            notice, likely = plan.notice(f"press “{SPLIT}”"), plan.likely_channels
        self.details.set_channels(names, chosen)
        self.details.set_notice(notice, likely)
        self.region_row.set_stack(*stack)
        self.advanced.set_levels(bool(stack[0]), grey)
        self._show_settings()

    def _show_image_line(self, _: Any = None) -> None:
        self.details.set_line(self.session.image_line)

    def _show_settings(self, _: Any = None) -> None:
        session = self.session
        self.size_row.setValue(session.predict.diameter)
        self.result.setValue(session.instances)
        self.region_row.link.setChecked(session.instances.link_planes)
        self.advanced.set_values(
            session.predict, session.instances, session.normalize, self.port.as_displayed
        )

    def _show_device_line(self, _: Any = None) -> None:
        self.advanced.set_info(self.session.info)

    def _show_region(self, _: Any = None) -> None:
        self.region_row.setValue(self.session.where, self.session.planes)

    def _show_sliders(self, _: Any = None) -> None:
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
