"""What a person last chose, for the next time: model, object size, options, sliders."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.errors import SA2NetError
from napari_sa2net.files import user_data_dir, write_atomically

if TYPE_CHECKING:
    from napari_sa2net.app.controllers import SegmentController

SCHEMA_VERSION = 1
#: images whose object size is kept
MOST_SIZES = 500
#: what napari's preferences are where nobody has set them
DEFAULTS = {"model": "nuclei", "device": "auto"}


def settings_file() -> Path:
    """Where it is written, in the person's folder of this plugin."""
    return user_data_dir() / "settings.json"


def remember(controller: SegmentController, preferences: dict[str, str]) -> None:
    """Write down what is chosen now; a folder that cannot be written is no reason to stop.

    Parameters
    ----------
    preferences : dict
        What napari's preferences say, as far as it tells; what is changed there later
        counts more.
    """
    session = controller.session
    now: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "preferences": preferences,
        "model": session.model,
        # each image has an object size of its own
        "predict": session.predict.model_dump(mode="json", exclude={"diameter"}),
        "sizes": dict(list(controller.sizes.items())[-MOST_SIZES:]),
        "normalize": session.normalize,
        "where": session.where,
        "planes": session.planes,
    }
    if controller.instances_chosen:
        now["instances"] = session.instances.model_dump(mode="json")
    text = json.dumps(now, indent=1)
    with suppress(SA2NetError, OSError):
        path = settings_file()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text.encode())


def recall(controller: SegmentController, preferences: dict[str, str]) -> None:
    """Choose as the person did last; what cannot be read is as if there were nothing."""
    try:
        then = json.loads(settings_file().read_text(encoding="utf-8"))
        if then["schema_version"] != SCHEMA_VERSION:
            return
        predict = {**then["predict"], "diameter": None}
        sizes = {
            str(image): PredictConfig(diameter=size).diameter
            for image, size in then.get("sizes", {}).items()
        }
        model = str(then["model"])
        for name, value in preferences.items():
            before = then["preferences"].get(name, DEFAULTS.get(name))
            if before != value:  # chosen anew in napari
                model = value if name == "model" else model
                predict = {**predict, name: value} if name == "device" else predict
        config = PredictConfig(**predict)
        instances = InstanceConfig(**then["instances"]) if "instances" in then else None
        where, planes, normalize = then["where"], then["planes"], bool(then["normalize"])
        if where not in ("whole", "view") or planes not in ("current", "all"):
            return
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SA2NetError):
        return
    controller.sizes.update({image: size for image, size in sizes.items() if size})
    session = controller.session
    session.model, session.predict, session.normalize = model, config, normalize
    session.where, session.planes = where, planes
    if instances is not None:
        controller.set_instances(instances)
