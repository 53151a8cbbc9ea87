"""What the See-why page does, without a page: looking inside, inspecting, trying."""

from __future__ import annotations

import math
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_sa2net.app.link import Background, Newest
from napari_sa2net.app.segment import ResultState, SegmentController
from napari_sa2net.app.session import (
    CELL,
    CHANGE,
    DIFFERENCE,
    PREVIEW,
    STAGE,
    WHAT_IF,
    Box,
    ErrorInfo,
    ImageSource,
    KeptVariant,
    LabelsUpdate,
    Overlay,
    Patch,
    WhatIfSettings,
    WhyState,
    difference_words,
    explain_request,
    time_to_explain,
)
from napari_sa2net.engine import messages as p
from napari_sa2net.errors import ModelExistsError, NotKeptError, SA2NetError
from napari_sa2net.models.registry import (
    ModelEntry,
    file_sha256,
    get_model,
    list_models,
    parent_named,
    remove_model,
    save_variant,
    variant_name,
)
from napari_sa2net.words import counted

if TYPE_CHECKING:
    from napari_sa2net.config import NetworkKind
    from napari_sa2net.engine.messages import AttentionMap, StageStep, WhatIfResult


MAX_STATES = 4
"""Explanations of so many images are held; their maps and stages are as large as images."""


class ExplainController:
    """Runs the See-why page of one viewer, beside the Segment page and on its engine.

    All methods return at once and belong to the segment controller's thread. What the page
    shows is ``session.why``, the state of the chosen image.

    Parameters
    ----------
    segment
        Takes the segmentation that comes with every explanation.

    Attributes
    ----------
    overlay
        `Overlay`: a layer is to be shown, replaced or taken away.
    """

    overlay = Signal(Overlay)

    def __init__(self, segment: SegmentController) -> None:
        self.link = segment.link
        self.session = segment.session
        self._segment = segment
        self._lock = segment.link.lock
        self._states: dict[str, WhyState] = {}
        self._newest = Newest(segment.link)
        self._background = Background(segment.link, "sa2net-see-why")
        #: a model is being written or taken away: a second click means the same one
        self._writing = False
        self.link.answer(("explain", "map_channel", "inspect", "what_if"), self)
        self.link.died.connect(self._engine_died)
        self.session.events.image.connect(self._image_chosen)
        self.session.events.instances.connect(self._instances_changed)
        segment.result_ready.connect(self._segmented)
        segment.labels_updated.connect(self._labels_updated)

    # --- what a person does ----------------------------------------------------------

    def explain(self) -> int | None:
        """Look inside: explain the chosen image with the settings of now.

        Of a stack the plane that is shown. A run that is still in flight is cancelled.
        Returns the job's number; None when something is missing, which ``session.error``
        says.
        """
        with self._lock:
            source = self.session.image
            generation = self.link.generation(source.key) if source else 0
            try:
                request = explain_request(self.session, generation, uuid.uuid4().hex)
                request = self._segment.at_known_size(request)
            except SA2NetError as error:
                self.link.fail(ErrorInfo(type(error).__name__, str(error)))
                return None
            expected = time_to_explain(self.session)
            return self._segment.run(request, expected)

    def cancel(self) -> None:
        """Cancel what runs, of this page or another."""
        self.link.cancel_runs()

    def show_layer(self, slot: str, shown: bool) -> None:
        """Add or remove the layer of a map, of the outlines or of the change."""
        with self._lock:
            state = self.session.why
            if state is None or shown == (slot in state.shown):
                return
            self._put(_with_layer(state, slot, shown))
            self._emit(slot)

    def set_channel(self, name: str, channel: int | None) -> None:
        """Show one channel of a map, or all of them together (None)."""
        with self._lock:
            state = self.session.why
            if state is None or not state.kept or state.channels.get(name) == channel:
                return
            channels = {n: c for n, c in state.channels.items() if n != name}
            if channel is not None:
                channels[name] = channel
            self._put(state.changed(channels=channels))
            arguments = {"name": name, "channel": channel}
            self._newest.ask("map_channel", state.key, name, arguments)

    def set_stage(self, stride: int) -> None:
        """Choose the stage whose outlines are shown; shows them."""
        with self._lock:
            state = self.session.why
            if state is None or stride not in state.result.stages:
                return
            self._put(state.changed(stage=stride, shown=state.shown | {STAGE}))
            self._emit(STAGE)

    def inspect(self, label: int, labels: Any = None) -> None:
        """Look at one object; ``labels`` (H, W) where a person has edited them."""
        with self._lock:
            state = self.session.why
            if state is None or not state.kept:
                return
            self._put(state.changed(wanted=label))
            arguments = {"label": label, "labels": labels}
            self._newest.ask("inspect", state.key, "object", arguments)

    def set_what_if(self, settings: WhatIfSettings) -> None:
        """Segment the view with attention changed; may be called as a slider moves."""
        with self._lock:
            state = self.session.why
            if state is None or not state.kept or settings == state.what_if:
                return
            state = state.changed(what_if=settings, keep_problem="")
            if settings.is_default:
                self._newest.forget(state.key, "what_if")
                state = state.changed(what_if_result=None, shown=state.shown - {WHAT_IF})
                self._put(state)
                self._emit(WHAT_IF)
            else:
                self._put(state)
                self._try()

    def reset_what_if(self) -> None:
        """Attention as trained."""
        self.set_what_if(WhatIfSettings())

    def proposed_name(self) -> str:
        """A name for the what-if as a model, which none has."""
        state = self.session.why
        assert state is not None
        return variant_name(state.model)

    def keep_what_if(self, name: str) -> None:
        """Keep the what-if as a model of that name and choose it; `undo_keep` undoes that."""
        with self._lock:
            state = self.session.why
            if state is None or state.what_if.is_default or self._writing:
                return
            settings, parent = state.what_if, state.model
            sha256 = state.result.segmentation.provenance["model"]["sha256"]

            def work() -> ModelEntry:
                return save_variant(
                    _called_now(parent, sha256),
                    name,
                    gates=settings.gates,
                    gamma=settings.gamma,
                    se_gamma=settings.se_gamma,
                    sha256=sha256,
                )

            def done(entry: ModelEntry) -> None:
                # The sliders of the Segment page stay: the what-if was shown with them.
                self._segment.refresh_models(entry.name)
                self._tell(state.key, KeptVariant(entry.name, parent, settings, entry.card))

            self._writing = True
            self._background.run(work, done, partial(self._not_kept, state.key))

    def undo_keep(self) -> None:
        """Take the model that a what-if was kept as away again, and choose its parent."""
        with self._lock:
            state = self.session.why
            if state is None or state.variant is None or self._writing:
                return
            kept, key = state.variant, state.key

            def work() -> str:
                if get_model(kept.name).card != kept.card:
                    raise ModelExistsError(
                        f"{kept.name!r} is another model by now, so it stays. What is no "
                        "longer wanted can be removed on the Models page."
                    )
                parent = _called_now(kept.parent, parent_named(kept.card)[1])
                remove_model(kept.name)
                return parent

            def done(parent: str) -> None:
                used = self.session.model == kept.name
                self._segment.refresh_models(parent if used else "")
                self._tell(key, None)

            self._writing = True
            self._background.run(work, done, partial(self._not_kept, key))

    def close(self) -> None:
        """Finish what is being written; nothing is told any more."""
        self._background.close(wait=True)

    def view_rested(self) -> None:
        """The camera came to rest: a what-if follows it."""
        with self._lock:
            state = self.session.why
            if state is not None and not state.what_if.is_default:
                box = self._view_box(state)
                if box is not None and box != state.what_if_box:
                    self._try()

    def layer_gone(self, image_key: str, slot: str) -> None:
        """A person deleted a layer of the page."""
        with self._lock:
            state = self._states.get(image_key)
            if state is not None and slot in state.shown:
                self._put(_with_layer(state, slot, False))

    def forget_image(self, key: str) -> None:
        """The image is gone, or has other pixels."""
        with self._lock:
            state = self._states.pop(key, None)
            if state is not None:
                self._newest.forget(state.key)
            self._image_chosen(self.session.image)

    def forget_result(self, result_key: str) -> None:
        """The layer of the cells is gone, and with it what the engine kept."""
        with self._lock:
            self._lose(result_key)

    # --- what the engine says --------------------------------------------------------

    def job_done(self, call: p.Call, result: Any) -> None:
        """A call of ours is done; the link says so."""
        if call.kind == "explain":
            self._explained(call, result)
            return
        state = self._of_result(call.key)
        if state is not None:
            if call.kind == "map_channel":
                self._channel_came(state, result)
            elif call.kind == "inspect" and result.label == state.wanted:
                state = state.changed(inspection=result, shown=state.shown | {CELL})
                self._put(state)
                self._emit(CELL, state)
            elif call.kind == "what_if" and not state.what_if.is_default:
                state = state.changed(what_if_result=result, shown=state.shown | {WHAT_IF})
                self._put(state)
                self._emit(WHAT_IF, state)
        self._newest.ended(call)

    def job_failed(self, call: p.Call, error: ErrorInfo) -> None:
        """A call of ours failed."""
        if call.kind != "explain" and error.kind == NotKeptError.__name__:
            self._lose(call.key)
        else:
            self.link.fail(error)
        self._newest.ended(call)

    def job_cancelled(self, call: p.Call) -> None:
        """A call of ours was cancelled, or a newer one took its place."""
        self._newest.ended(call)

    def _explained(self, call: p.Call, result: p.ExplainResult) -> None:
        request = call.about
        if not self._segment.accept(request, result.segmentation):
            return
        former = self._states.pop(request.source.key, None)
        state = WhyState(request, result, dict(result.maps))
        if former is not None:
            self._newest.forget(former.key)
            there = {*result.maps, STAGE, CHANGE}
            stage = former.stage if former.stage in result.stages else 1
            state = state.changed(
                shown=former.shown & there,
                focus=former.focus if former.focus in result.maps else "",
                stage=stage,
                variant=former.variant,  # so that it can still be taken back
            )
            for slot in former.shown - there:
                self.overlay.emit(Overlay(request.source, slot, None, result.index))
        while len(self._states) >= MAX_STATES:
            self._newest.forget(self._states.pop(next(iter(self._states))).key)
        self._put(state)
        for slot in sorted(state.shown):
            self._emit(slot, state)

    def _channel_came(self, state: WhyState, came: p.AttentionMap) -> None:
        if came.channel != state.channels.get(came.name):
            return
        state = state.changed(maps={**state.maps, came.name: came})
        self._put(state)
        if came.name in state.shown:
            self._emit(came.name, state)

    def _engine_died(self) -> None:
        for state in list(self._states.values()):
            self._lose(state.key)

    # --- what the Segment page does --------------------------------------------------

    def _image_chosen(self, source: ImageSource | None) -> None:
        state = self._states.get(source.key) if source is not None else None
        if state is not self.session.why:
            self.session.why = state

    def _segmented(self, state: ResultState) -> None:
        """A newer result took the place of the explained one."""
        if state.replaces is not None:
            self._lose(state.replaces)

    def _labels_updated(self, update: LabelsUpdate) -> None:
        state = self._of_result(update.key)
        if state is not None and not (state.moved and CELL not in state.shown):
            # the cell that was outlined may have another outline now
            state = state.changed(moved=True, shown=state.shown - {CELL})
            self._put(state)
            self._emit(CELL, state)

    def _instances_changed(self) -> None:
        state = self.session.why
        if state is not None and state.kept and not state.what_if.is_default:
            self._try()

    # --- inside ----------------------------------------------------------------------

    def _put(self, state: WhyState) -> None:
        """Make it the state of its image, the newest of all."""
        self._states.pop(state.image_key, None)
        self._states[state.image_key] = state
        self._image_chosen(self.session.image)

    def _of_result(self, key: str) -> WhyState | None:
        return next((s for s in self._states.values() if s.key == key), None)

    def _lose(self, key: str) -> None:
        state = self._of_result(key)
        if state is not None and state.kept:
            self._newest.forget(key)
            self._put(state.changed(kept=False))

    def _emit(self, slot: str, state: WhyState | None = None) -> None:
        state = state or self.session.why
        assert state is not None
        result = state.result
        content: p.AttentionMap | Patch | None = None
        if slot in state.shown:
            if slot == STAGE:
                content = Patch(result.stages[state.stage], result.box, state.stage)
            elif slot == CHANGE:
                content = Patch(result.change, result.box)
            elif slot == WHAT_IF:
                tried = state.what_if_result
                content = Patch(tried.change, tried.box) if tried is not None else None
            elif slot == CELL:
                cell = state.inspection
                content = Patch(cell.ring, cell.ring_box) if cell is not None else None
            else:
                content = state.maps[slot]
        self.overlay.emit(Overlay(state.request.source, slot, content, result.index))

    def _tell(self, key: str, variant: KeptVariant | None, problem: str = "") -> None:
        """What came of keeping, or of taking back."""
        self._writing = False
        state = self._of_result(key)
        if state is not None:
            self._put(state.changed(variant=variant, keep_problem=problem))

    def _not_kept(self, key: str, error: Exception) -> None:
        state = self._of_result(key)
        self._tell(key, state.variant if state is not None else None, str(error))
        # Another window may have been faster.
        self._segment.refresh_models()

    def _try(self) -> None:
        state = self.session.why
        assert state is not None
        # with nothing of it in view the last part is tried again
        box = self._view_box(state) or state.what_if_box or state.result.box
        state = state.changed(what_if_box=box)
        self._put(state)
        settings = state.what_if
        arguments = {
            "gates": settings.gates,
            "gamma": settings.gamma,
            "se_gamma": settings.se_gamma,
            "instances": self.session.instances,
            "box": box,
        }
        self._newest.ask("what_if", state.key, "view", arguments)

    def _view_box(self, state: WhyState) -> Box | None:
        """What the camera shows of the explained part; None for nothing of it."""
        view = self.session.image.view if self.session.image is not None else None
        whole = state.result.box
        if view is None:
            return whole
        y0, y1 = max(view[0], whole[0]), min(view[1], whole[1])
        x0, x1 = max(view[2], whole[2]), min(view[3], whole[3])
        return (y0, y1, x0, x1) if y1 > y0 and x1 > x0 else None


def _called_now(name: str, sha256: str) -> str:
    """Name of the model with that file, which may have been renamed; else the one it had."""
    names = [e.name for e in list_models(aside=True) if file_sha256(e.path) == sha256]
    return name if name in names or not names else names[0]


def _with_layer(state: WhyState, slot: str, shown: bool) -> WhyState:
    """With a layer more or less; a map is described while it is shown."""
    state = state.changed(shown=state.shown | {slot} if shown else state.shown - {slot})
    if shown and slot in state.maps:
        return state.changed(focus=slot)
    if state.focus not in state.shown:
        return state.changed(
            focus=next((name for name in state.maps if name in state.shown), "")
        )
    return state


# --------------------------------------------------------------------------------------------
# Maps, stages, histories and what-ifs in words.

STAGE_WORDS = {8: "1/8", 4: "1/4", 2: "1/2", 1: "full"}
LEARN_WORDS = {PREVIEW: "cells so far", DIFFERENCE: "difference"}
#: Of maps that other trainings do not share (docs/see_why.md).
ANOTHER = "Networks trained anew gave other maps here: compare images, not models."
_GRAINS = {1: "full size", 2: "half size", 3: "a quarter", 4: "an eighth"}


def map_title(name: str, channel: int | None = None) -> str:
    """``detail 1/4``, ``scale 2``, ``overall``, ``nearby 3, channel 4``: short, for lists."""
    kind, _, number = name.rpartition("_")
    if kind == "aua":
        title = f"detail {STAGE_WORDS[int(number)]}"
    elif name == "global_query":
        title = "overall"
    else:
        title = f"{'scale' if kind == 'scale_gate' else 'nearby'} {number}"
    return title if channel is None else f"{title}, channel {channel}"


def map_symbol(name: str, network: NetworkKind = "sa2net") -> str:
    """What papers and files call a map: ``ψ of up-attention at stage 1/4, aua_4``."""
    kind, _, number = name.rpartition("_")
    if kind == "aua":
        what = "attention gate α" if network == "focal_unet" else "ψ of up-attention"
        what += f" at stage {STAGE_WORDS[int(number)]}"
    elif name == "global_query":
        what = "length of the global query"
    else:
        what = f"{'scale' if kind == 'scale_gate' else 'local'} gate {number}"
    return f"In papers and files: {what}, {name}."


def map_help(shown: AttentionMap, network: NetworkKind = "sa2net") -> str:
    """What a map means, and what it does not."""
    kind, _, number = shown.name.rpartition("_")
    if kind == "aua":
        stage = STAGE_WORDS[int(number)]
        if network == "focal_unet":
            return (
                f"How much of the fine detail reaches the {stage} stage at each place: 1 all, "
                "0 nothing. It is not the probability of a cell."
            )
        known = "Closing it anywhere hardly changes what the bundled model finds."
        if number != "8":
            known = ANOTHER
        return (
            f"Where the {stage} stage stresses fine detail: 1 fully, 0 no more than passes "
            f"anyway. It is not the probability of a cell. {known}"
        )
    if shown.name == "global_query":
        return (
            "How hard the network looks at each place, at all scales together. Compare places "
            "of this image only; it is not a certainty."
        )
    grain = _GRAINS[int(number)]
    if kind == "scale_gate":
        return (
            f"How much attention adds to scale {number} (the image at {grain}): 0 nothing, "
            f"below 0 it is reversed. It is not the size of a cell. {ANOTHER}"
        )
    which = "Mean of all channels" if shown.channel is None else "One channel of many"
    return (
        f"How much of the detail around each place passes at scale {number} (the image at "
        f"{grain}), from 0.5 half to 1 all. {which}; it is not a probability."
    )


def layer_name(
    slot: str,
    image: str,
    *,
    channel: int | None = None,
    stride: int = 0,
) -> str:
    """``why: detail 1/4 (nuclei_03)``."""
    if slot in LEARN_WORDS:
        return f"learn: {LEARN_WORDS[slot]} ({image})"
    if slot == STAGE:
        title = f"outlines {STAGE_WORDS[stride]}"
    else:
        words = {CHANGE: "last change", WHAT_IF: "what if", CELL: "this cell"}
        title = words.get(slot) or map_title(slot, channel)
    return f"why: {title} ({image})"


def history_words(
    history: tuple[StageStep, ...], by_hand: bool = False
) -> list[tuple[str, str]]:
    """One line for each stage: its name, and what happened there.

    ``by_hand``: the object is no longer, or never was, what the last stage made of it.
    """
    lines = []
    seen = False
    for step in history:
        parts = []
        n = step.n_objects_overlapping
        if by_hand and step.stride == 1:
            lines.append((STAGE_WORDS[1], "drawn or changed by hand"))
            break
        if step.event == "appeared":
            parts.append("comes back" if seen else "appears")
        elif n == 0:
            parts.append("gone" if seen else "nothing here" if by_hand else "not there yet")
        elif step.event:
            parts.append({"split": "split off", "merged": "merged"}.get(step.event, step.event))
        seen = seen or n > 0
        if n > 1 and step.event != "merged":
            parts.append(f"in {n} pieces")
        if math.isfinite(step.mean_move_px):
            mean, most = step.mean_move_px, step.max_move_px
            parts.append(f"boundary moved {mean:.1f} px, at most {most:.1f}")
        elif n and not step.event:
            parts.append("there" if n == 1 else "")
        lines.append((STAGE_WORDS[step.stride], " · ".join(part for part in parts if part)))
    return lines


def what_if_words(result: WhatIfResult, part: str) -> str:
    """``−2 cells, +318 px, 1 split · of 66 cells in the view``; ``part``: where that is."""
    words = difference_words(result, result.n_after - result.n_before)
    there = f"{counted(result.n_before, 'cell')} {part}"
    return f"{words} · of {there}" if words else f"No pixel changes · {there}"
