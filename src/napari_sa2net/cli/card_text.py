"""A model's card as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_sa2net.models import ModelCard

_SCORES = {
    "ap50": "AP@0.5",
    "ap75": "AP@0.75",
    "mean_ap": "mean AP",
    "f1": "F1",
    "pq": "PQ",
    "aji": "AJI",
    "dice": "Dice",
    "iou": "IoU",
}
#: Titles of the parts of a card in ``--details``.
_PARTS = ("network", "input", "instance", "training")


def card_lines(card: ModelCard, file: Mapping[str, Any], details: bool) -> list[str]:
    """What most people ask of a model; with ``details`` everything that the card says.

    Parameters
    ----------
    card : ModelCard
    file : mapping
        name, path, size_bytes, bundled and aside of the model, as far as they are known.
    details : bool
    """
    where = "bundled" if file.get("bundled") else "kept aside" if file.get("aside") else ""
    size = f"{file['size_bytes'] / 1e6:.1f} MB, made {card.created[:10]}"
    from napari_sa2net.models.exponents import ORDINARY, gamma_rows
    from napari_sa2net.models.registry import limits_of

    rows = [
        (
            "model",
            ", ".join(part for part in (str(file.get("name", card.name)), where) if part),
        ),
        ("description", card.description),
        ("trained on", str(card.training.get("data", ""))),
        ("object size", f"{card.diameter:g} px" if card.diameter else "any; not resized"),
        ("image channels", f"{card.network.in_channels} ({card.input.channel_order})"),
        ("not for", limits_of(card, bool(file.get("bundled")))),
        ("classes", ", ".join(card.classes)),
        # Where it is not that of every ordinary model.
        *((title, text) for title, text in gamma_rows(card.network) if text != ORDINARY),
        ("scores", "\n".join(_score_lines(card))),
        ("learned from", card.parent or ""),
        ("licence", card.licence),
        ("left out", _left_out(card)),
        ("file", f"{file['path']}\n{size}"),
    ]
    if details:
        fields = card.model_dump(mode="json")
        rows += [(part, "\n".join(_flat(fields[part]))) for part in _PARTS]
    rows = [(title, text) for title, text in rows if text]
    width = max(len(title) for title, _ in rows)
    return [
        f"{title if first else '':<{width}}  {line}"
        for title, text in rows
        for first, line in ((i == 0, line) for i, line in enumerate(text.split("\n")))
    ]


def _score_lines(card: ModelCard) -> Iterator[str]:
    for data, scores in card.scores.items():
        named = (
            f"{_SCORES[key]} {value:.3f}{_spread(scores, key)}"
            for key, value in scores.items()
            if key in _SCORES
        )
        line = ", ".join(named)
        if line:
            yield f"{data}: {line}"


def _spread(scores: Mapping[str, float], key: str) -> str:
    """Half the interval of how a score changed from the parent's, where it is known."""
    margin = scores.get(f"{key}_margin")
    return "" if margin is None else f" ± {margin:.3f}"


def _left_out(card: ModelCard) -> str:
    n = len(card.dropped_keys)
    return f"{n} weights that the published network never uses" if n else ""


def _flat(value: Any, path: str = "") -> Iterator[str]:
    """``path.to.value: 1`` of every value in nested mappings; short lists in one line."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for i, item in enumerate(value):
            yield from _flat(item, f"{path}.{i + 1}")
    else:
        words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        yield f"{path}: {' '.join(words.split())}"
