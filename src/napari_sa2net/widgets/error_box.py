"""An error in words, inside the page; details fold out and can be copied."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QPlainTextEdit, QVBoxLayout, QWidget

from napari_sa2net.app.session import ErrorInfo, Session
from napari_sa2net.widgets.common import fold_button, link_button


def guarded(session: Session, action: Callable[[], Any]) -> None:
    """Say on the page what went wrong with an action of napari's."""
    try:
        action()
    except Exception as error:
        session.error = ErrorInfo(type(error).__name__, str(error), traceback.format_exc())


class ErrorBox(QFrame):
    """Hidden until there is something to say.

    Signals
    -------
    dismissed, restartWanted
    """

    dismissed = Signal()
    restartWanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "error")
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.fold = fold_button("Details", "The technical text, for a bug report")
        self.copy = link_button("Copy", "Copy the message and its details")
        self.restart = link_button("Restart", "Start the background process again")
        self.dismiss = link_button("Dismiss", "Hide this message")
        self.details = QPlainTextEdit()
        self.details.setReadOnly(True)
        self.details.setFixedHeight(140)
        self.details.setVisible(False)
        row = QHBoxLayout()
        row.setSpacing(4)
        row.addWidget(self.fold)
        row.addStretch(1)
        row.addWidget(self.restart)
        row.addWidget(self.copy)
        row.addWidget(self.dismiss)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 8, 8, 6)
        layout.setSpacing(4)
        layout.addWidget(self.message)
        layout.addLayout(row)
        layout.addWidget(self.details)
        self.fold.toggled.connect(self.details.setVisible)
        self.copy.clicked.connect(self._copy)
        self.dismiss.clicked.connect(self.dismissed)
        self.restart.clicked.connect(self.restartWanted)
        self.setVisible(False)

    def set_error(self, error: ErrorInfo | None, *, can_restart: bool = False) -> None:
        """Show an error, or hide the box."""
        self.setVisible(error is not None)
        if error is None:
            return
        self.message.setText(error.message)
        self.details.setPlainText(error.details)
        self.fold.setChecked(False)
        self.fold.setVisible(bool(error.details))
        self.restart.setVisible(can_restart)

    def _copy(self) -> None:
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            text = f"{self.message.text()}\n\n{self.details.toPlainText()}"
            clipboard.setText(text.strip())
