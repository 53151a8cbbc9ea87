"""What the channels of a network's output mean, by name."""

from __future__ import annotations

from collections.abc import Sequence

#: The classes of our models, in the order of the network's output.
CLASSES = ("background", "interior", "boundary")
#: How deep in its object a pixel lies: 0 at the edge and beyond, 1 in the middle.
DISTANCE = "distance"
#: What a new network learns.
OUTPUTS = (*CLASSES, DISTANCE)


def n_classes(outputs: Sequence[str]) -> int:
    """How many of a network's outputs are classes; they come first."""
    return len(outputs) - (DISTANCE in outputs)


def is_taught(outputs: Sequence[str]) -> bool:
    """Whether labelled cells can teach a network with these outputs."""
    return tuple(outputs) in (CLASSES, OUTPUTS)
