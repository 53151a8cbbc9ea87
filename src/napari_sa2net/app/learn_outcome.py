"""What became of a run, and what a person makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from napari_sa2net.app.learn_layers import LearnLayers
from napari_sa2net.app.learn_material import LearnMaterial
from napari_sa2net.app.learn_state import Curves, Difference, Outcome
from napari_sa2net.app.session import error_info
from napari_sa2net.app.why import DIFFERENCE
from napari_sa2net.errors import SA2NetError
from napari_sa2net.models.registry import demote_model, promote_model


class LearnOutcome(LearnMaterial):
    """Chooses between parent and child and shows where they differ; part of the controller."""

    _layers: LearnLayers

    def use_child(self) -> None:
        """Segment with the child from now on; one that was kept aside is offered again."""
        with self._lock:
            outcome = self.state.outcome
            if outcome is not None:
                self._run(
                    lambda: promote_model(outcome.child),
                    lambda entry: self._moved(outcome, entry, use=True),
                )

    def keep_aside(self) -> None:
        """Keep the child, but do not offer it; segment with the parent."""
        with self._lock:
            outcome = self.state.outcome
            if outcome is not None:
                self._run(
                    lambda: demote_model(outcome.child),
                    lambda entry: self._moved(outcome, entry, use=False),
                )

    def back_to_parent(self) -> None:
        """Segment with the parent again; the child stays where it is."""
        with self._lock:
            outcome = self.state.outcome
            if outcome is not None:
                self._segment.set_model(outcome.parent)

    def show_difference(self, shown: bool) -> None:
        """Show what the child finds otherwise in the view, as a layer."""
        with self._lock:
            outcome = self.state.outcome
            if not shown or outcome is None:
                self._layers.hide(DIFFERENCE)
                self._compared(None)
                return
            try:
                self._layers.compare(outcome.parent, outcome.path)
            except SA2NetError as error:
                self._fail(error_info(error))
                self._compared(None)
                return
            self.state.error = self.session.error = None
            self.state.comparing = True

    def dismiss_outcome(self) -> None:
        """The person has read it."""
        with self._lock:
            self.show_difference(False)
            self.state.outcome = None
            self.state.curves = Curves()
            self.state.notices = ()

    # --- inside ------------------------------------------------------------------------

    def _compared(self, difference: Difference | None) -> None:
        self.state.comparing = False
        self.state.difference = difference

    def _moved(self, outcome: Outcome, entry: Any, use: bool) -> None:
        """The child was promoted or demoted on disk."""
        if not use and self.session.model == outcome.child:
            # before the list loses it, which would choose the first one there is
            self._segment.set_model(outcome.parent)
        self._segment.refresh_models()
        if use:
            self._segment.set_model(outcome.child)
        if self.state.outcome is outcome:
            self.state.outcome = replace(outcome, aside=entry.aside, path=str(entry.path))
        self._model_chosen()
