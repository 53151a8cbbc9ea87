"""The tools of the Correct page: name, key, what to do with the mouse."""

from __future__ import annotations

from dataclasses import dataclass

from napari_sa2net.widgets.napari_port.drawing import Shape


@dataclass(frozen=True)
class Tool:
    """A tool of the strip.

    Attributes
    ----------
    name
        Of the tool; its icon goes by it, too.
    words
        Under the icon.
    key
        That takes it up; of napari's own tools, napari's key.
    tip
        What it does.
    hint
        What to do with the mouse while it is taken up.
    shape
        What a drag draws; None for napari's own tools.
    clicks
        A click does something, too.
    mode
        Of the layer, for napari's own tools.
    """

    name: str
    words: str
    key: str
    tip: str
    hint: str
    shape: Shape | None = None
    clicks: bool = False
    mode: str = ""


TOOLS: tuple[Tool, ...] = (
    Tool(
        "brush", "Brush", "2", "Paint the selected cell with napari's brush",
        "Paint the chosen cell. M starts a new one, [ and ] change the size.", mode="paint",
    ),
    Tool(
        "eraser", "Eraser", "1", "Erase pixels with napari's eraser",
        "Erase pixels. [ and ] change the size.", mode="erase",
    ),
    Tool(
        "split", "Split", "S", "Cut a cell in two along a line",
        "Drag a line across a cell, from outside to outside.", "line",
    ),
    Tool(
        "merge", "Merge", "G", "Make one cell of several",
        "Drag from one cell into the next; all that you touch become one.", "line",
    ),
    Tool(
        "delete", "Delete", "D", "Remove cells that are none",
        "Click a cell, or drag around several.", "lasso", True,
    ),
    Tool(
        "fill", "Fill", "H", "Fill the holes in a cell",
        "Click a cell with holes, or drag around several.", "lasso", True,
    ),
    Tool(
        "smooth", "Smooth", "O", "Smooth the outline of a cell",
        "Click a cell with a rough outline, or drag around several.", "lasso", True,
    ),
    Tool(
        "edge", "To edge", "T", "Grow or shrink a cell to the edge that the model saw",
        "Click a cell: it grows or shrinks to the edge that the model saw.", "lasso", True,
    ),
    Tool(
        "redraw", "Redraw", "R", "Draw the outline of a cell anew, or a cell that was missed",
        "Drag around one cell to draw it anew; on free ground you draw a new cell.", "lasso",
    ),
    Tool(
        "box", "Box", "Q", "Segment a part of the image again with other settings",
        "Set the sliders below, then drag a box: the cells in it are found anew.", "box",
    ),
    Tool(
        "ignore", "Ignore", "I", "Mark a region that nothing shall be learned from",
        "Drag around a region to leave out. A click in it takes the mark away.", "lasso", True,
    ),
    Tool(
        "reviewed", "All right", "U", "Mark a region in which every cell is right now",
        "Drag around a region where every cell is right. A click in it takes the mark away.",
        "lasso", True,
    ),
)  # fmt: skip

#: keys of the page beside those of the tools
OTHER_KEYS: tuple[tuple[str, str], ...] = (
    ("N", "next doubtful cell"),
    ("Shift-N", "the one before"),
    ("A", "accept, and next"),
    ("Shift-A", "accept all cells in view"),
    ("K", "keep these corrections"),
)
#: of napari, good to know
NAPARI_KEYS: tuple[tuple[str, str], ...] = (
    ("M", "brush a new cell"),
    ("L", "pick a cell by a click"),
    ("[  ]", "size of the brush"),
    ("Space", "hold to move the view"),
)


def tool_named(name: str) -> Tool:
    """The tool of that name."""
    return next(tool for tool in TOOLS if tool.name == name)
