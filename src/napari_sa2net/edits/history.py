"""Undo and redo over all corrections."""

from __future__ import annotations

from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.step import Step
from napari_sa2net.errors import NothingToEditError

#: Memory that steps may take before the oldest are forgotten.
LIMIT_BYTES = 256 << 20


class History:
    """Steps that were done and steps that were taken back.

    Parameters
    ----------
    corrections : Corrections
        What the steps are done on.
    limit_bytes : int
        Memory for all steps; the oldest are forgotten beyond it (the newest never).

    Attributes
    ----------
    done, undone : list of Step
        Oldest first; the last ones are next to be taken back and done again.
    """

    def __init__(self, corrections: Corrections, limit_bytes: int = LIMIT_BYTES) -> None:
        self.corrections = corrections
        self.limit_bytes = limit_bytes
        self.done: list[Step] = []
        self.undone: list[Step] = []
        self._bytes = 0

    def do(self, step: Step) -> Step:
        """Carry out a step and remember it; what was taken back is forgotten.

        Raises
        ------
        EditConflictError
            If it does not fit the labels; nothing has changed then.
        """
        self.corrections.apply(step)
        self._push(step)
        return step

    def record(self, step: Step) -> Step:
        """Remember a step whose pixels are in the array already (a stroke)."""
        self.corrections.record(step)
        self._push(step)
        return step

    def undo(self) -> Step:
        """Take back the newest step; the step.

        Raises
        ------
        NothingToEditError
            If there is none.
        EditConflictError
            If something else changed its pixels; nothing has changed then.
        """
        if not self.done:
            raise NothingToEditError("There is no correction to undo.")
        step = self.done[-1]
        self.corrections.revert(step)
        self.undone.append(self.done.pop())
        return step

    def redo(self) -> Step:
        """Do again what was taken back last; errors as of :meth:`undo`."""
        if not self.undone:
            raise NothingToEditError("There is no correction to do again.")
        step = self.undone[-1]
        self.corrections.apply(step)
        self.done.append(self.undone.pop())
        return step

    @property
    def undo_words(self) -> str:
        """For the tooltip: "Undo split of cell 17"; empty where there is nothing."""
        return f"Undo {self.done[-1].words}" if self.done else ""

    @property
    def redo_words(self) -> str:
        """For the tooltip: "Redo split of cell 17"; empty where there is nothing."""
        return f"Redo {self.undone[-1].words}" if self.undone else ""

    @property
    def nbytes(self) -> int:
        """Memory of all steps, nearly."""
        return self._bytes

    def _push(self, step: Step) -> None:
        self._bytes += step.nbytes - sum(other.nbytes for other in self.undone)
        self.undone.clear()
        self.done.append(step)
        while self._bytes > self.limit_bytes and len(self.done) > 1:
            self._bytes -= self.done.pop(0).nbytes
