"""Maps, stages, histories and what-ifs in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from napari_sa2net.app.why import CELL, CHANGE, DIFFERENCE, PREVIEW, STAGE, WHAT_IF
from napari_sa2net.models.exponents import GATE_WORDS

if TYPE_CHECKING:
    from napari_sa2net.config import NetworkKind
    from napari_sa2net.engine.protocol import AttentionMap, StageStep, WhatIfResult

STAGE_WORDS = {8: "1/8", 4: "1/4", 2: "1/2", 1: "full"}
LEARN_WORDS = {PREVIEW: "cells so far", DIFFERENCE: "difference"}
_GRAINS = {1: "full size", 2: "half size", 3: "a quarter", 4: "an eighth"}


def map_title(name: str, channel: int | None = None, network: NetworkKind = "sa2net") -> str:
    """``ψ 1/4``, ``scale 2``, ``query``, ``local 3 ch 5``: short, for lists.

    What is ψ in a SA2-Net is ``gate 1/4`` in a FocalUNet.
    """
    kind, _, number = name.rpartition("_")
    if kind == "aua":
        title = f"{GATE_WORDS[network]} {STAGE_WORDS[int(number)]}"
    elif name == "global_query":
        title = "query"
    else:
        title = f"{'scale' if kind == 'scale_gate' else 'local'} {number}"
    return title if channel is None else f"{title} ch {channel + 1}"


def map_help(shown: AttentionMap, network: NetworkKind = "sa2net") -> str:
    """What a map means, and what it does not."""
    kind, _, number = shown.name.rpartition("_")
    if kind == "aua":
        stage = STAGE_WORDS[int(number)]
        if network == "focal_unet":
            return (
                f"How much of the fine detail the gate before the {stage} stage lets through "
                "at each place: 1 all, 0 nothing. It is not the probability of a cell."
            )
        return (
            f"How much the {stage} stage adds to the fine detail at each place: 1 all, 0 "
            "nothing more than passes anyway. It is not the probability of a cell."
        )
    if shown.name == "global_query":
        return (
            "How hard the network looks at each place, at all scales together. Compare places "
            "of this image only; it is not a certainty."
        )
    grain = _GRAINS[int(number)]
    if kind == "scale_gate":
        return (
            f"How much attention adds to scale {number} (the image at {grain}): 0 adds "
            "nothing, below 0 the addition is reversed. It is not the size of a cell."
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
    network: NetworkKind = "sa2net",
) -> str:
    """``why: ψ 1/4 (nuclei_03)``."""
    if slot in LEARN_WORDS:
        return f"learn: {LEARN_WORDS[slot]} ({image})"
    if slot == STAGE:
        title = f"outlines {STAGE_WORDS[stride]}"
    else:
        words = {CHANGE: "last change", WHAT_IF: "what if", CELL: "this cell"}
        title = words.get(slot) or map_title(slot, channel, network)
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
    parts = []
    more = result.n_after - result.n_before
    if more:
        parts.append(f"{signed(more)} cell{'' if abs(more) == 1 else 's'}")
    if result.gained_px:
        parts.append(f"+{result.gained_px:,} px")
    if result.lost_px:
        parts.append(f"−{result.lost_px:,} px")
    for n, word in (
        (result.split, "split"),
        (result.merged, "merged"),
        (result.appeared, "appeared"),
        (result.vanished, "vanished"),
    ):
        if n:
            parts.append(f"{n} {word}")
    n = result.n_before
    there = f"{n:,} cell{'' if n == 1 else 's'} {part}"
    return f"{', '.join(parts)} · of {there}" if parts else f"No pixel changes · {there}"


def signed(n: int) -> str:
    """With a sign, and a true minus."""
    return f"+{n:,}" if n > 0 else f"−{-n:,}" if n < 0 else "0"
