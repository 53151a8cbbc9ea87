"""Arrays of requests and results: by reference on the wire, by value at its ends."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from napari_sa2net.data.plan import plan_image
from napari_sa2net.engine import protocol as p
from napari_sa2net.engine.images import Sources, image_reference
from napari_sa2net.engine.shm import Check, Pool, take
from napari_sa2net.errors import EngineError

#: Arrays with fewer bytes go through the pipe with the rest of the result.
SMALL = 2**16


def prepare(
    request: p.JobRequest, pool: Pool, sources: Sources, check: Check
) -> tuple[p.JobRequest, list[str]]:
    """The request with references instead of arrays, and the names of what was shared.

    Parameters
    ----------
    check
        Called between chunks; may raise.

    Raises
    ------
    ImageError, AxesError, ChannelError
        The image cannot be read, or is none.
    EngineError
        There is no room for it.
    """
    ref: Any
    if isinstance(request, p.MeasureImage):
        return _both(request, pool, sources, check)
    if isinstance(request, p.Segment):
        name = request.keep_as or f"job-{request.job}"
        image = plan_image(request.image, request.axes, request.channels, measure=False).image
        ref = image_reference(image, name, pool, sources, check)
        wire: p.JobRequest = replace(request, image=ref)
    elif isinstance(request, p.Measure | p.Inspect) and request.labels is not None:
        ref = pool.share(request.labels, check)
        wire = replace(request, labels=ref)
    else:
        return request, []
    return wire, [ref.name] if isinstance(ref, p.ArrayRef) else []


def _both(
    request: p.MeasureImage, pool: Pool, sources: Sources, check: Check
) -> tuple[p.JobRequest, list[str]]:
    """Labels and the image under them."""
    labels = pool.share(request.labels, check)
    names = [labels.name]
    image: Any = None
    try:
        if request.image is not None:
            plan = plan_image(request.image, request.axes, request.channels, measure=False)
            image = image_reference(plan.image, f"job-{request.job}", pool, sources, check)
    except BaseException:
        pool.release(labels.name)
        raise
    if isinstance(image, p.ArrayRef):
        names.append(image.name)
    return replace(request, labels=labels, image=image), names


def pack(result: Any, pool: Pool) -> Any:
    """A result, nested as it may be, with references instead of its large arrays.

    Raises
    ------
    EngineError
        There is no room for them.
    """
    shared: list[str] = []

    def packed(part: Any) -> Any:
        if not isinstance(part, np.ndarray):
            return _rebuilt(part, packed)
        if part.nbytes < SMALL or part.dtype.hasobject:
            return part
        ref = pool.share(part)
        shared.append(ref.name)
        return ref

    try:
        return packed(result)
    except BaseException:
        for name in shared:
            pool.release(name)
        raise


def unpack(result: Any) -> tuple[Any, list[str]]:
    """The result with private copies instead of references, and the references' names.

    What cannot be copied is an `EngineError` in place of the result; the names are complete.
    """
    names: list[str] = []
    error: EngineError | None = None

    def unpacked(part: Any) -> Any:
        nonlocal error
        if not isinstance(part, p.ArrayRef):
            return _rebuilt(part, unpacked)
        names.append(part.name)
        if error is None:
            try:
                return take(part)
            except EngineError as gone:
                error = gone
        return part

    whole = unpacked(result)
    return (whole if error is None else error), names


def _rebuilt(value: Any, change: Any) -> Any:
    """A container with changed parts; anything else as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
        changed = {name: change(part) for name, part in parts.items()}
        if all(changed[name] is parts[name] for name in parts):
            return value
        return replace(value, **changed)
    if isinstance(value, dict):
        return {key: change(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(change(part) for part in value)
    return value
