"""The flags of ``sa2net train``: settings of two recipes, and which recipe is meant."""

from __future__ import annotations

from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter
from pydantic import ValidationError

from napari_sa2net.config import FineTuneConfig, Settings, TrainConfig
from napari_sa2net.errors import SettingsError

BOTH = Group("Training", sort_key=10)
FINE = Group("Learning from corrections", sort_key=11)
FULL = Group("Training in full (from random weights, or --base with --full)", sort_key=12)


def _flags() -> type[Any]:
    """All settings of both recipes; None is: not said."""
    both = {**TrainConfig.model_fields, **FineTuneConfig.model_fields}
    beside: dict[str, list[str]] = {name: [] for name in both}
    for name, field in both.items():
        for other, needed in _company(field).items():
            beside[other].append(f"--{name.replace('_', '-')} counts only with {needed}")
    parts = []
    for name, field in both.items():
        full, fine = TrainConfig.model_fields.get(name), FineTuneConfig.model_fields.get(name)
        group = BOTH if full and fine else FINE if fine else FULL
        text = ". ".join(part for part in (field.title, field.description) if part)
        if beside[name]:
            text += f". {', '.join(beside[name])}"
        said = [_default(f) for f in (fine, full) if f is not None]
        if any(said):
            shown = dict.fromkeys(value or "by the time" for value in said)
            text += f" [{' / in full '.join(shown)}]"
        annotation: Any = field.annotation
        kind = Annotated[
            annotation | None,
            Parameter(group=BOTH if name in ("base", "resume") else group, help=text),
        ]
        parts.append((name, kind, None))
    # Classes of the module `types`, where these come from, are taken for plain values.
    return make_dataclass("TrainFlags", parts, frozen=True, namespace={"__module__": __name__})


def _company(field: Any) -> dict[str, Any]:
    """Values of other settings beside which alone a setting counts."""
    extra = field.json_schema_extra
    return extra.get("only_with", {}) if isinstance(extra, dict) else {}


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, Settings) or value == {}:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


TrainFlags = _flags()


def given(flags: Any) -> dict[str, Any]:
    """The flags that were said."""
    if flags is None:
        return {}
    said = {field.name: getattr(flags, field.name) for field in fields(flags)}
    return {name: value for name, value in said.items() if value is not None}


def settings_of(recipe: type[Settings], said: dict[str, Any], name: str, hint: str) -> Any:
    """The settings of a recipe.

    Raises
    ------
    SettingsError
        If a flag belongs to the other recipe, a value is out of bounds, or a flag counts
        only beside another one that was not said.
    """
    strange = [flag for flag in said if flag not in recipe.model_fields]
    if strange:
        flags = ", ".join(f"--{flag.replace('_', '-')}" for flag in strange)
        raise SettingsError(f"{flags}: no setting of {name}. {hint}")
    try:
        settings = recipe.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        flag = ".".join(str(part) for part in first["loc"]).replace("_", "-")
        raise SettingsError(f"--{flag}: {first['msg']} (got {first['input']!r}).") from error
    check_company(settings, said)
    return settings


def check_company(settings: Settings, said: dict[str, Any]) -> None:
    """See that nothing was said that counts only beside another value than is chosen.

    Raises
    ------
    SettingsError
        Naming the flags as they were typed.
    """
    for name, value in said.items():
        for other, needed in _company(type(settings).model_fields[name]).items():
            if getattr(settings, other) != needed:
                raise SettingsError(
                    f"{', '.join(_typed(name, value))}: only with "
                    f"--{other.replace('_', '-')} {needed}. Add that, or leave it out."
                )


def _typed(name: str, value: Any) -> list[str]:
    """The flags that gave a value."""
    flag = f"--{name.replace('_', '-')}"
    if not isinstance(value, Settings):
        return [flag]
    return [
        f"{flag}.{'no-' if getattr(value, part) is False else ''}{part.replace('_', '-')}"
        for part in sorted(value.model_fields_set)
    ]


def is_resumable(folder: Path | None) -> bool:
    """Whether a folder is the run of a fine-tuning."""
    from napari_sa2net.training.runs import is_run

    return folder is not None and is_run(Path(folder).expanduser())
