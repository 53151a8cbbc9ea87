"""What a model's card says, in words."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from napari_sa2net.app.models_state import Family
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.exponents import gamma_rows
from napari_sa2net.models.registry import ModelEntry
from napari_sa2net.training.comparison import Part

SCORES = {
    "ap50": "AP@0.5",
    "ap75": "AP@0.75",
    "mean_ap": "mean AP",
    "f1": "F1",
    "pq": "PQ",
    "aji": "AJI",
    "dice": "Dice",
    "iou": "IoU",
}
_NETWORKS = {"sa2net": "SA2-Net", "focal_unet": "U-Net with focal attention gates"}
_CHANNELS = {
    "RGB": "red, green, blue; a grey image goes into all",
    "BGR": "blue, green, red; a grey image goes into all",
    "any": "as they are",
}
#: Scores of the parent stand beside the child's under this ending.
PARENT = ", parent"
#: Commits that are named before the rest is only counted.
_NAMED = 6


def short_rows(entry: ModelEntry) -> list[tuple[str, str]]:
    """Titles and values of what most people ask of a model."""
    card = entry.card
    rows = []
    data = _trained_on(card)
    if data:
        rows.append(("Trained on", data))
    if card.diameter:
        rows.append(("Object size", f"about {card.diameter:g} px across; images are resized"))
    rows.append(("Images", _images(card)))
    if entry.limits:
        rows.append(("Not for", entry.limits))
    rows += _scores(card)
    if card.licence:
        rows.append(("Licence", card.licence))
    if card.parent:
        rows.append(("Learned from", card.parent.split(" ")[0].rstrip(",")))
    rows.append(("File", file_words(entry)))
    return rows


def main_rows(entry: ModelEntry) -> list[tuple[str, str]]:
    """Titles and values of what tells whether a model is the one to use."""
    card = entry.card
    rows = []
    data = _trained_on(card)
    if data:
        rows.append(("Trained on", data))
    if card.training.get("verdict"):
        rows.append(("Verdict", str(card.training["verdict"])))
    scores = _score_lines(card, {"ap50": "AP", "dice": "Dice"})
    if scores:
        rows.append(("Scores", "\n".join(scores)))
    size = f"about {card.diameter:g} px across" if card.diameter else "images are not resized"
    rows.append(("Object size", size))
    rows.append(("Images", _images(card)))
    if entry.limits:
        rows.append(("Not for", entry.limits))
    rows.append(("Licence", card.licence or "not said"))
    return rows


def detail_rows(entry: ModelEntry) -> list[tuple[str, str]]:
    """Titles and values of the rest of a card."""
    card = entry.card
    network, training = card.network, card.training
    rows = [
        ("Network", f"{_NETWORKS[network.kind]}, {network.base_channels} base channels"),
        ("Channels", f"{network.in_channels}, {_CHANNELS[card.input.channel_order]}"),
        ("Classes", ", ".join(card.classes)),
        *gamma_rows(network),
    ]
    scores = _score_lines(card, SCORES)
    if scores:
        rows.append(("All scores", "\n".join(scores)))
    commits = _commits(training)
    if commits:
        rows.append(("Commits", commits))
    made = _made_with(training)
    if made:
        rows.append(("Made with", made))
    if training.get("recipe") == "fine-tune":
        command = f"sa2net train FOLDER --from-card {shlex.quote(entry.name)}"
        rows.append(("To repeat it", command))
    if card.dropped_keys:
        n = len(card.dropped_keys)
        rows.append(("Left out", f"{n} weights that the published network never uses"))
    return rows


def file_words(entry: ModelEntry) -> str:
    """``2.5 MB, made 2026-11-22``."""
    return f"{entry.size_bytes / 1e6:.1f} MB, made {entry.card.created[:10]}"


def hint_words(entry: ModelEntry, parent: str = "") -> str:
    """What tells a model from others in a list: ``from nuclei · 30 px``."""
    parts = [f"from {parent}"] if parent else []
    if entry.card.diameter:
        parts.append(f"{entry.card.diameter:g} px")
    return " · ".join(parts)


def part_words(part: Part) -> tuple[str, str]:
    """What was scored, and ``AP 0.61 → 0.78, +0.17 (+0.11 … +0.23)``, then Dice alike."""
    change = part.change
    images = f"{part.n_images} image{'' if part.n_images == 1 else 's'}"
    about = f"{part.name}: {images}, {change.after.n} cells"
    before, after = change.before, change.after
    said = []
    for name, was, now, one in (
        ("AP", before.ap50, after.ap50, change),
        ("Dice", before.dice, after.dice, change.dice),
    ):
        spread = f"{one.difference:+.2f} ({one.low:+.2f} … {one.high:+.2f})"
        said.append(f"{name} {was:.2f} → {now:.2f}, {spread.replace('-', '−')}")
    return about, "; ".join(said)


def lineage(families: dict[str, Family], name: str) -> tuple[list[str], tuple[str, ...]]:
    """Ancestors of a model, the oldest first, and its children."""
    chain: list[str] = []
    now = name
    while (family := families.get(now)) is not None and family.parent:
        if family.parent in chain or family.parent == name:
            break
        chain.insert(0, family.parent)
        if not family.parent_here:
            break
        now = family.parent
    own = families.get(name)
    return chain, own.children if own is not None else ()


def _trained_on(card: ModelCard) -> str:
    training = card.training
    data = training.get("data")
    if training.get("recipe") == "fine-tune":
        n, held = (len(training.get(key) or ()) for key in ("commits", "held_out"))
        images = f"{n} corrected image{'' if n == 1 else 's'}"
        return f"{images} of “{data}”; {held} held back to judge it"
    if not data:
        return ""
    text = _words(data)
    n_images = training.get("images")
    if not isinstance(n_images, int):
        return text
    return f"{text} ({n_images} image{'' if n_images == 1 else 's'})"


def _commits(training: dict[str, Any]) -> str:
    ids = training.get("commit_ids") or {}
    names = training.get("commits") or ()
    if training.get("recipe") != "fine-tune" or not names:
        return ""
    shown = [str(ids.get(name, name))[:8] if name in ids else str(name) for name in names]
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return ", ".join(shown[:_NAMED]) + more


def _images(card: ModelCard) -> str:
    n = card.network.in_channels
    if n == 1:
        return "one channel"
    if card.input.channel_order in ("RGB", "BGR"):
        return "colour or grey"
    return f"{n} channels"


def _scores(card: ModelCard) -> list[tuple[str, str]]:
    rows = []
    for name, scores in card.scores.items():
        shown = [f"{SCORES[k]} {v:.2f}" for k, v in scores.items() if k in SCORES]
        if shown:
            rows.append((f"Scores, {name}", " · ".join(shown)))
    return rows


def _score_lines(card: ModelCard, titles: Mapping[str, str]) -> list[str]:
    """One line for each set of images; with the parent's scores where they are known."""
    lines = []
    for name, scores in card.scores.items():
        if name.endswith(PARENT):
            continue
        before = card.scores.get(f"{name}{PARENT}", {})
        shown = []
        for key, title in titles.items():
            if key in scores:
                was = f"{before[key]:.2f} → " if key in before else ""
                margin = scores.get(f"{key}_margin")
                spread = "" if margin is None else f" ± {margin:.2f}"
                shown.append(f"{title} {was}{scores[key]:.2f}{spread}")
        if shown:
            lines.append(f"{name}: {' · '.join(shown)}")
    return lines


def _made_with(training: dict[str, Any]) -> str:
    parts = []
    if training.get("steps"):
        parts.append(f"{training['steps']} steps")
    settings = training.get("settings") or {}
    seed = training.get("seed", settings.get("seed"))
    if seed is not None:
        parts.append(f"seed {seed}")
    versions = training.get("versions") or {}
    parts += [
        f"{name} {versions[name]}" for name in ("napari-sa2net", "torch") if name in versions
    ]
    return " · ".join(parts)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_words(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(v) for v in value)
    return str(value)
