"""Settings by name, sorted into how to predict and how to make objects."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from napari_sa2net.config import InstanceConfig, PredictConfig, Settings
from napari_sa2net.errors import SettingsError


def split_settings(
    instance: InstanceConfig | None = None, **settings: Any
) -> tuple[PredictConfig, InstanceConfig]:
    """Sort settings by name into how to predict and how to make objects.

    Parameters
    ----------
    instance : InstanceConfig, optional
        Values of the object settings that are not given, such as a model card's.
    **settings
        Fields of either.

    Raises
    ------
    SettingsError
        If a name is unknown or a value out of bounds.
    """
    known = {*PredictConfig.model_fields, *InstanceConfig.model_fields}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise SettingsError(
            f"Unknown setting {', '.join(unknown)}. Known are: {', '.join(sorted(known))}."
        )
    base = (instance or InstanceConfig()).model_dump()
    return (
        _checked(PredictConfig, {}, settings),
        _checked(InstanceConfig, base, settings),
    )


def _checked(kind: type[Any], base: dict[str, Any], settings: dict[str, Any]) -> Any:
    assert issubclass(kind, Settings)
    own = {name: value for name, value in settings.items() if name in kind.model_fields}
    try:
        return kind.model_validate({**base, **own})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"Setting '{name}': {first['msg']} (got {first['input']!r})."
        ) from error
