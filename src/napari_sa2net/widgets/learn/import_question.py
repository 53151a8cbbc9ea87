"""What has to be said of images before they are taken into the training set."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.learn_state import ImportQuestion
from napari_sa2net.widgets.common import Form, link_button, muted
from napari_sa2net.widgets.image_row import ChannelButton

AXES_TIP = "The axis of the files that counts channels, and how long it is"
CHANNELS_TIP = (
    "The channels that show the cells: these are copied and learned from. Choose those that "
    "you segment with"
)


class ImportBox(QWidget):
    """A question and its answer, in the place of a dialog.

    Signals
    -------
    answered : Path, str, tuple of int
        Source, axes (empty where the files tell) and channels.
    dropped
        Nothing shall be taken in.
    """

    answered = Signal(object, str, tuple)
    dropped = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._question: ImportQuestion | None = None
        self.words = muted()
        self.axes = QComboBox()
        self.axes.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.axes.setMinimumContentsLength(8)
        self.channels = ChannelButton()
        self.form = Form()
        # as wide as the fields of other rows
        self.channels.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.form.add("Channels are", self.axes, AXES_TIP)
        self.form.add("Cells are in", self.channels, CHANNELS_TIP)
        self.take_in = QPushButton("Import")
        self.drop = link_button("Cancel", "Take nothing in")
        row = QHBoxLayout()
        row.addWidget(self.take_in, 1)
        row.addWidget(self.drop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.words)
        layout.addWidget(self.form)
        layout.addLayout(row)
        self.axes.activated.connect(lambda _: self._show_channels())
        self.take_in.clicked.connect(self._answer)
        self.drop.clicked.connect(self.dropped)
        self.set_question(None)

    def set_question(self, question: ImportQuestion | None) -> None:
        """Ask; hidden where there is nothing to ask."""
        self.setVisible(question is not None)
        if question is None or question == self._question:
            self._question = question
            return
        self._question = question
        self.axes.clear()
        for axes in question.axes:
            side = "first" if axes.startswith("C") else "last"
            self.axes.addItem(f"{side} axis ({question.shape[axes.index('C')]})", axes)
        self.form.set_row_visible(self.axes, len(question.axes) > 1)
        self._show_channels()

    def _show_channels(self) -> None:
        assert self._question is not None
        names = self._question.channels(self.axes.currentData())
        self.channels.set_channels(list(names), (0,))
        self.words.setText(
            f"The images of {self._question.source.name} have {len(names)} channels. Say which "
            "of them show the cells."
        )

    def _answer(self) -> None:
        if self._question is not None:
            axes = self.axes.currentData() if self.axes.count() > 1 else ""
            self.answered.emit(self._question.source, axes, self.channels.value())
