"""Options that several commands have, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from napari_sa2net.config import InstanceConfig, PredictConfig

_OBJECTS = Group("Objects", help="Unsaid: as tuned for the model.", sort_key=1)
_RUNNING = Group("Running", sort_key=2)

#: A switch that is off unless it is said.
Flag = Annotated[bool, Parameter(negative="")]
Json = Annotated[Flag, Parameter(help="Print one JSON document.")]
JsonOnStdout = Annotated[Flag, Parameter(help="Print one JSON document on stdout.")]
JsonOfRun = Annotated[Flag, Parameter(help="Print one JSON document about the run on stdout.")]

Output = Annotated[Path, Parameter(name=["--output", "-o"], help="Folder for the results.")]
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1 or mps.")]
ModelOrFile = Annotated[str, Parameter(help="Name of a model, or a model file.")]
ModelName = Annotated[str, Parameter(help="Name of the model.")]
OwnModel = Annotated[str, Parameter(help="Name of one of your models.")]

# A set of corrections and its commits.
SetFolder = Annotated[Path, Parameter(help="Folder of the set.")]
CommitId = Annotated[str, Parameter(help="Its id, or the beginning of it.")]
CommitIds = Annotated[str, Parameter(help="Ids, or the beginnings of them.")]

# Images that go through a network.
Inputs = Annotated[
    list[str],
    Parameter(
        negative="", help='Images, folders, globs ("plate*/*.tif") and OME-Zarr folders.'
    ),
]
ImageAxes = Annotated[
    str | None,
    Parameter(
        help="One letter per axis of the images, such as ZYX or CYX; unsaid: as the file tells."
    ),
]
ImageChannels = Annotated[
    str | None,
    Parameter(help="Channels to segment, counted from 0 or by name, such as 1 or DAPI,GFP."),
]
Normalize = Annotated[
    bool,
    Parameter(
        help="Stretch the intensities as the model expects; off: they are taken as they are."
    ),
]
PixelSize = Annotated[
    float | None,
    Parameter(
        help="Side of a pixel in µm, for the table and the files; unsaid: as the image tells."
    ),
]
Measure = Annotated[
    list[Literal["shape", "intensity", "neighbours", "none"]] | None,
    Parameter(
        negative="",
        consume_multiple=True,
        help="What the table tells beside size, mean intensity and confidence: shape, "
        "intensity (of every channel) and neighbours, or none; unsaid: shape.",
    ),
]
FormatName = Literal[
    "ome-tiff",
    "ome-zarr",
    "ome-zarr-0.4",
    "imagej",
    "geojson",
    "cellpose",
    "coco",
    "csv",
    "project",
]
Formats = Annotated[
    tuple[FormatName, ...],
    Parameter(
        negative="",
        help="Write the cells in this format too, into OUT/FORMAT; may be given several times.",
        consume_multiple=False,
    ),
]
Instances = Annotated[
    InstanceConfig | None, Parameter(name="*", group=_OBJECTS, show_default=False)
]
Predict = Annotated[PredictConfig | None, Parameter(name="*", group=_RUNNING)]
