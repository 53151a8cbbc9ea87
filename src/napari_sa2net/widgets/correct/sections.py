"""What is not kept yet, what would be kept, and where."""

from __future__ import annotations

from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QLineEdit, QProgressBar, QWidget

from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.keep import ADDED, WhatToKeep
from napari_sa2net.app.live import LiveController
from napari_sa2net.app.planes import Review
from napari_sa2net.widgets.controls import (
    FolderRow,
    Form,
    check_box,
    hbox,
    link_button,
    muted,
    push_button,
    show_text,
    text_label,
    timer,
    vbox,
)
from napari_sa2net.widgets.napari_port.connections import Connections
from napari_sa2net.widgets.napari_port.keys import spelled
from napari_sa2net.words import counted, plural

GROUP_TIP = (
    "Slide, patient or dish, if you know it: images of one group are never used both to learn "
    "and to judge what was learned"
)
CARRY_TIP = (
    "Do the same on the planes beside this one, as far as the cell goes on there: it overlaps, "
    "the image shows it, and nobody has reviewed it. One undo takes all of it back"
)


class KeepSection(QWidget):
    """One big button and what it would do."""

    def __init__(self, controller: CorrectController, connections: Connections) -> None:
        super().__init__()
        self._state = state = controller.state
        self.title = text_label(role="summary")
        self.safe = muted()
        self.folder = FolderRow("Choose another folder, or start a new one")
        self.group = QLineEdit()
        self.group.setPlaceholderText("optional")
        form = Form()
        form.add("Keep in", self.folder, "The folder of your training set")
        form.add("Group", self.group, GROUP_TIP)
        self.what = muted()
        self.button = push_button("Keep these corrections", role="primary")
        self.kept = muted()
        self.note = text_label(role="warning")
        # it may hold a command to copy
        self.note.setTextFormat(Qt.TextFormat.PlainText)
        self.note.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        parts: list[QWidget] = [self.title, self.safe, form, self.what, self.button]
        vbox(*parts, self.kept, self.note, on=self)
        keeping, events = controller.keeping, state.events
        self.button.clicked.connect(keeping.keep)
        self.folder.chosen.connect(keeping.set_folder)
        # at each letter: the button, which may be off, is the next that a person wants
        self.group.textChanged.connect(keeping.set_group)
        follow = connections.follow
        follow(self._show_keep, events.keep, events.keeping)
        follow(self._show_unsaved, events.unsaved, events.safe, events.journal_problem)
        follow(self._show_kept, events.kept, events.kept_before, events.kept_note)
        follow(self._show_place, events.folder, events.group)

    def _show_unsaved(self) -> None:
        """How many corrections are not kept, and whether a crash would lose any."""
        n, problem = self._state.unsaved, self._state.journal_problem
        words = f"{counted(n, 'correction')} not kept yet"
        self.title.setText(words if n else "Keep what you corrected")
        if problem:
            text = f"Not safe from a crash: {problem}"
        elif not n:
            text = ""
        elif self._state.safe:
            text = "Safe: a crash would lose none."
        else:
            text = "Being written to the journal…"
        show_text(self.safe, text)

    def _show_keep(self) -> None:
        """What Keep would do, or that it is being done."""
        what, keeping = self._state.keep, self._state.keeping
        only_back = what.can and not what.n_planes
        act = "Take back what was kept" if only_back else "Keep these corrections"
        tip = (
            f"Take what you undid out of your training set ({spelled('K')})"
            if only_back
            else f"Add image, cells and what is reviewed to your training set ({spelled('K')})"
        )
        self.button.setEnabled(what.can and not keeping)
        self.button.setText("Keeping…" if keeping else act)
        self.button.setToolTip(tip if what.can else what.problem)
        self.what.setText(what.problem or _would(what))

    def _show_kept(self) -> None:
        """What the last Keep did, and what has to be known of it besides."""
        show_text(self.kept, self._state.kept or (ADDED if self._state.kept_before else ""))
        show_text(self.note, self._state.kept_note)

    def _show_place(self) -> None:
        self.folder.set_folder(self._state.folder)
        if self._state.group != self.group.text():
            self.group.setText(self._state.group)


def _would(what: WhatToKeep) -> str:
    """What Keep would do, in sentences."""
    sentences = []
    if what.folder_gone:
        sentences.append("The folder is gone: it is made anew.")
    if what.n_planes:
        planes = f" on {counted(what.n_planes, what.noun)}" if what.n_planes > 1 else ""
        sentences.append(
            f"Keeps the image with {what.cells}{planes} and the background around them. What "
            "nobody looked at is kept, but never learned from."
        )
    if what.n_withdrawn:
        where = f"On {what.withdrawn} nothing" if what.is_stack else "Nothing of this image"
        them = plural(what.n_withdrawn, "it", "them")
        sentences.append(
            f"{where} is reviewed any more: takes back what you had kept of {them}."
        )
    return " ".join(sentences)


# --------------------------------------------------------------------------------------------
# Learning while a person corrects: a switch, and a line on the last wave.


class LiveSection(QWidget):
    """Whether the model learns meanwhile, what that has changed, and the way back."""

    def __init__(self, controller: LiveController, connections: Connections) -> None:
        super().__init__()
        self._state = state = controller.state
        self.switch = check_box(
            "Learn while I correct",
            "After every few cells that you accept or correct, the model learns from them for "
            "some seconds, in the background, and the cells that nobody has reviewed are found "
            "anew. What you have reviewed is never touched. It works on the plane in sight",
        )
        self.words = muted()
        self.undo = link_button("Undo", "")
        self.outlines = check_box(
            "Outline what changed",
            "Pink lines around cells that the last wave changed or found",
        )
        self.outlines.setChecked(True)
        row = hbox(self.outlines, None, self.undo)
        self.below = QWidget()
        vbox(row, on=self.below)
        vbox(self.switch, self.words, self.below, on=self)
        self.switch.toggled.connect(controller.set_on)
        self.undo.clicked.connect(controller.undo)
        # once, after the cells are drawn: to lay a page out takes a while
        self._soon = timer(self, 0, self._show, once=True)
        events = state.events
        for event in (events.on, events.words, events.undo, events.shown):
            connections.connect(event, lambda _: self._soon.start())
        self._show()

    def _show(self) -> None:
        state = self._state
        self.switch.setChecked(state.on)
        show_text(self.words, state.words)
        self.below.setVisible(bool(state.shown or state.undo))
        self.outlines.setVisible(bool(state.shown))
        self.undo.setVisible(bool(state.undo))
        self.undo.setToolTip(state.undo)


# --------------------------------------------------------------------------------------------
# Carrying a correction to the planes beside it.


class CarrySection(QWidget):
    """A switch, a button for the newest correction, and where it was carried to."""

    def __init__(self, controller: CorrectController, connections: Connections) -> None:
        super().__init__()
        self._state = state = controller.state
        self.switch = check_box("", CARRY_TIP)
        self.now = link_button("Carry the last one", f"{CARRY_TIP} ({spelled('J')})")
        self.words = muted()
        self.look = link_button("Look at them", "Go from one of them to the next")
        first = hbox(self.switch, None, self.now)
        self.below = QWidget()
        vbox(hbox((self.words, 1), self.look), on=self.below)
        policy = self.below.sizePolicy()
        # the buttons below stay under the mouse
        policy.setRetainSizeWhenHidden(True)
        self.below.setSizePolicy(policy)
        vbox(first, self.below, on=self)
        self.switch.toggled.connect(controller.carry.set_on)
        self.now.clicked.connect(controller.carry.carry)
        self.look.clicked.connect(controller.carry.look)
        connections.follow(self._show, state.events.carried, state.events.carry)

    def _show(self) -> None:
        carried = self._state.carried
        self.setVisible(carried.is_stack)
        self.switch.setText(f"Also on neighbouring {plural(2, carried.noun)}")
        self.switch.setChecked(self._state.carry)
        self.now.setEnabled(carried.can)
        self.words.setText(f"Carried to {carried.words}." if carried.words else "")
        self.below.setVisible(bool(carried.words))


# --------------------------------------------------------------------------------------------
# Walking through the cells: how far, which one, why it is doubtful.


class ReviewSection(QWidget):
    """Progress, the cell under review, and buttons to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.title = text_label(role="summary")
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Reviewed cells")
        self.cell = muted()
        self.cell.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.back = push_button(
            "◀", f"Back to the cell before, more doubtful ({spelled('Shift-N')})"
        )
        self.back.setAccessibleName("Cell before")
        self.accept = push_button(
            "✓ Accept", f"This cell is right as it is: accept it and go on ({spelled('A')})"
        )
        self.no_cell = push_button(
            "✗ No cell", f"This is no cell: take it away and go on ({spelled('Shift-D')})"
        )
        self.fix = push_button(
            "Fix",
            "This cell is wrong: take up the brush with it. The tools above work as well",
        )
        self.forward = push_button(
            "▶", f"To the next doubtful cell, without a word on this one ({spelled('N')})"
        )
        self.forward.setAccessibleName("Next cell")
        row = hbox(
            *((self.back, 1), (self.accept, 3), (self.no_cell, 3), (self.fix, 2)),
            (self.forward, 1),
            spacing=4,
        )
        self.all = link_button(
            "Accept all in view",
            f"Every cell whose centre you see now is right as it is ({spelled('Shift-A')})",
        )
        self.outlines = check_box(
            "Outline reviewed",
            "Thin lines around all pixels that a model may learn from: reviewed cells and the "
            "background near them; orange around what it shall ignore",
        )
        self.outlines.setChecked(True)
        below = hbox(self.outlines, None, self.all)
        vbox(self.title, self.bar, self.cell, row, below, on=self)
        self.set_review(Review())

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow a change of font or style."""
        super().changeEvent(event)
        kinds = (QEvent.Type.FontChange, QEvent.Type.StyleChange)
        if event is not None and event.type() in kinds:
            # of two lines there is room at all times: the buttons stay under the mouse
            ruler = muted("two\nlines")
            ruler.setFont(self.cell.font())
            self.cell.setMinimumHeight(ruler.heightForWidth(1000))

    def set_review(self, review: Review) -> None:
        """Show where the review stands."""
        known, n = review.planes
        if review.total:
            # of all planes once they were looked through
            more = f" on {known} of {counted(n, review.noun)} so far" if known < n else ""
            where = f" on {counted(n, review.noun)}" if n > 1 and not more else more
            cells = f"{review.done:,} of {counted(review.total, 'cell')}"
            self.title.setText(f"Reviewed {cells}{where}, most doubtful first")
        else:
            self.title.setText("Review the cells, most doubtful first")
        self.title.setToolTip(f"In the order of: {review.by}" if review.by else "")
        self.bar.setRange(0, max(1, review.total))
        self.bar.setValue(review.done)
        self.cell.setText(_words(review))
        here = review.label > 0
        self.back.setEnabled(here)
        self.fix.setEnabled(here)
        self.no_cell.setEnabled(here)
        self.accept.setEnabled(here)
        self.accept.setText("✓ Accepted" if review.status == "accepted" else "✓ Accept")
        self.forward.setText("▶" if here else "Start ▶")


def _words(review: Review) -> str:
    if not review.label:
        if review.scored and review.total and review.done >= review.total:
            return review.all_done
        return f"Press Start ▶ ({spelled('N')}): the view goes to one cell after another."
    nothing = "nothing stands out" if review.scored else "…"
    reasons = ", ".join(review.reasons) or nothing
    status = f" · {review.status}" if review.status else ""
    where = f", {review.where}" if review.where else ""
    return f"Cell {review.label}{where}: {reasons}{status}"
