"""What is not kept yet, what would be kept, and where."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import QEvent, Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.correct import Review
from napari_sa2net.app.keep import WhatToKeep
from napari_sa2net.widgets.controls import Form, link_button, muted

GROUP_TIP = (
    "Slide, patient or dish, if you know it: images of one group are never used both to learn "
    "and to judge what was learned"
)


class KeepSection(QWidget):
    """One big button and what it would do.

    Signals
    -------
    keepWanted
    folderChosen : Path
    groupChanged : str
    """

    keepWanted = Signal()
    folderChosen = Signal(object)
    groupChanged = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._folder = Path()
        self.title = QLabel()
        self.title.setProperty("role", "summary")
        self.title.setWordWrap(True)
        self.safe = muted()
        self.folder = QLabel()
        self.folder.setProperty("role", "muted")
        self.change = link_button("change…", "Choose another folder, or start a new one")
        where = QWidget()
        row = QHBoxLayout(where)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.folder, 1)
        row.addWidget(self.change)
        self.group = QLineEdit()
        self.group.setPlaceholderText("optional")
        form = Form()
        form.add("Keep in", where, "The folder of your training set")
        form.add("Group", self.group, GROUP_TIP)
        self.what = muted()
        self.button = QPushButton("Keep these corrections")
        self.button.setProperty("role", "primary")
        self.kept = muted()
        self.note = QLabel()
        self.note.setWordWrap(True)
        self.note.setProperty("role", "warning")
        # it may hold a command to copy
        self.note.setTextFormat(Qt.TextFormat.PlainText)
        self.note.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        parts: list[QWidget] = [self.title, self.safe, form, self.what, self.button]
        for part in (*parts, self.kept, self.note):
            layout.addWidget(part)
        self.button.clicked.connect(self.keepWanted)
        self.change.clicked.connect(self._choose)
        # at each letter: the button, which may be off, is the next that a person wants
        self.group.textChanged.connect(self.groupChanged)
        self.set_keeping(False, WhatToKeep())
        self.set_unsaved(0, True, "")
        self.set_kept("", "")

    def set_unsaved(self, n: int, safe: bool, problem: str) -> None:
        """How many corrections are not kept, and whether a crash would lose any."""
        words = f"{n} correction{'' if n == 1 else 's'} not kept yet"
        self.title.setText(words if n else "Keep what you corrected")
        if problem:
            text = f"Not safe from a crash: {problem}"
        elif not n:
            text = ""
        else:
            text = "Safe: a crash would lose none." if safe else "Being written to the journal…"
        self.safe.setText(text)
        self.safe.setVisible(bool(text))

    def set_keeping(self, keeping: bool, what: WhatToKeep) -> None:
        """What Keep would do, or that it is being done."""
        only_back = what.can and not what.n_planes
        act = "Take back what was kept" if only_back else "Keep these corrections"
        tip = (
            "Take what you undid out of your training set (K)"
            if only_back
            else "Add image, cells and what is reviewed to your training set (K)"
        )
        self.button.setEnabled(what.can and not keeping)
        self.button.setText("Keeping…" if keeping else act)
        self.button.setToolTip(tip if what.can else what.problem)
        self.what.setText(what.problem or _would(what))

    def set_kept(self, words: str, note: str) -> None:
        """What the last Keep did, and what has to be known of it besides."""
        for label, text in ((self.kept, words), (self.note, note)):
            label.setText(text)
            label.setVisible(bool(text))

    def set_folder(self, folder: Path) -> None:
        """Show where to keep."""
        self._folder = folder
        self.folder.setText(folder.name)
        self.folder.setToolTip(str(folder))

    def set_group(self, group: str) -> None:
        """Show the group; says nothing."""
        if group != self.group.text():
            self.group.setText(group)

    def _choose(self) -> None:
        start = self._folder if self._folder.is_dir() else self._folder.parent
        chosen = QFileDialog.getExistingDirectory(
            self, "Folder of the training set", str(start)
        )
        if chosen:
            self.folderChosen.emit(Path(chosen))


def _would(what: WhatToKeep) -> str:
    """What Keep would do, in sentences."""
    sentences = []
    if what.folder_gone:
        sentences.append("The folder is gone: it is made anew.")
    if what.n_planes:
        planes = f" on {what.n_planes} {what.noun}s" if what.n_planes > 1 else ""
        sentences.append(
            f"Keeps the image with {what.cells}{planes} and the background around them. What "
            "nobody looked at is kept, but never learned from."
        )
    if what.n_withdrawn:
        where = f"On {what.withdrawn} nothing" if what.is_stack else "Nothing of this image"
        them = "it" if what.n_withdrawn == 1 else "them"
        sentences.append(
            f"{where} is reviewed any more: takes back what you had kept of {them}."
        )
    return " ".join(sentences)


# --------------------------------------------------------------------------------------------
# Walking through the cells: how far, which one, why it is doubtful.


class ReviewSection(QWidget):
    """Progress, the cell under review, and four buttons to go on.

    Signals
    -------
    previousWanted, acceptWanted, fixWanted, nextWanted, acceptViewWanted
    outlinesToggled : bool
    """

    previousWanted = Signal()
    acceptWanted = Signal()
    fixWanted = Signal()
    nextWanted = Signal()
    acceptViewWanted = Signal()
    outlinesToggled = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.title = QLabel()
        self.title.setProperty("role", "summary")
        self.title.setWordWrap(True)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Reviewed cells")
        self.cell = muted()
        self.cell.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.back = QPushButton("◀")
        self.back.setToolTip("Back to the cell before, more doubtful (Shift+N)")
        self.back.setAccessibleName("Cell before")
        self.accept = QPushButton("✓ Accept")
        self.accept.setToolTip("This cell is right as it is: accept it and go on (A)")
        self.fix = QPushButton("Fix")
        self.fix.setToolTip(
            "This cell is wrong: take up the brush with it. The tools above work as well"
        )
        self.forward = QPushButton("▶")
        self.forward.setToolTip("To the next doubtful cell, without a word on this one (N)")
        self.forward.setAccessibleName("Next cell")
        row = QHBoxLayout()
        row.setSpacing(4)
        for button, stretch in (
            (self.back, 1),
            (self.accept, 3),
            (self.fix, 3),
            (self.forward, 1),
        ):
            button.setProperty("role", "plain")
            row.addWidget(button, stretch)
        self.all = link_button(
            "Accept all in view",
            "Every cell whose centre you see now is right as it is (Shift+A)",
        )
        self.outlines = QCheckBox("Outline reviewed")
        self.outlines.setChecked(True)
        self.outlines.setToolTip(
            "Thin lines around all pixels that a model may learn from: reviewed cells and the "
            "background near them; orange around what it shall ignore"
        )
        below = QHBoxLayout()
        below.addWidget(self.outlines)
        below.addStretch(1)
        below.addWidget(self.all)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.title)
        layout.addWidget(self.bar)
        layout.addWidget(self.cell)
        layout.addLayout(row)
        layout.addLayout(below)
        self.back.clicked.connect(self.previousWanted)
        self.accept.clicked.connect(self.acceptWanted)
        self.fix.clicked.connect(self.fixWanted)
        self.forward.clicked.connect(self.nextWanted)
        self.all.clicked.connect(self.acceptViewWanted)
        self.outlines.toggled.connect(self.outlinesToggled)
        self.set_review(Review())

    def changeEvent(self, event: QEvent | None) -> None:
        super().changeEvent(event)
        kinds = (QEvent.Type.FontChange, QEvent.Type.StyleChange)
        if event is not None and event.type() in kinds:
            # of two lines there is room at all times: the buttons stay under the mouse
            ruler = muted("two\nlines")
            ruler.setFont(self.cell.font())
            self.cell.setMinimumHeight(ruler.heightForWidth(1000))

    def set_review(self, review: Review) -> None:
        """Show where the review stands."""
        if review.total:
            self.title.setText(
                f"Reviewed {review.done} of {review.total} cells, most doubtful first"
            )
        else:
            self.title.setText("Review the cells, most doubtful first")
        self.title.setToolTip(f"In the order of: {review.by}" if review.by else "")
        self.bar.setRange(0, max(1, review.total))
        self.bar.setValue(review.done)
        self.cell.setText(_words(review))
        here = review.label > 0
        self.back.setEnabled(here)
        self.fix.setEnabled(here)
        self.accept.setEnabled(here)
        self.accept.setText("✓ Accepted" if review.status == "accepted" else "✓ Accept")
        self.forward.setText("▶" if here else "Start ▶")


def _words(review: Review) -> str:
    if not review.label:
        if review.total and review.done >= review.total:
            return f"Every cell of this {review.noun} is reviewed."
        return "Press Start ▶ (N): the view goes to one cell after another."
    nothing = "nothing stands out" if review.scored else "…"
    reasons = ", ".join(review.reasons) or nothing
    status = f" · {review.status}" if review.status else ""
    return f"Cell {review.label}: {reasons}{status}"
