"""``sa2net models``: list, show, import, export, vary, rename, aside, remove, compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from napari_sa2net.cli import console
from napari_sa2net.cli.console import StepProgress
from napari_sa2net.cli.options import Device, Flag, Json, ModelName, OwnModel
from napari_sa2net.errors import CheckpointError, SettingsError

if TYPE_CHECKING:
    from napari_sa2net.models import ModelCard, ModelEntry


# --------------------------------------------------------------------------------------------
# A model's card as lines for people.

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
    from napari_sa2net.models.card import ORDINARY, VARIANT, gamma_rows
    from napari_sa2net.models.registry import limits_of

    varied = card.training.get("recipe") == VARIANT
    rows = [
        (
            "model",
            ", ".join(part for part in (str(file.get("name", card.name)), where) if part),
        ),
        ("description", card.description),
        ("trained on", str(card.training.get("data", ""))),
        ("object size", f"{card.diameter:g} px" if card.diameter else "any; not resized"),
        ("expects", card.expected_words),
        ("image channels", f"{card.network.in_channels} ({card.input.channel_order})"),
        ("not for", limits_of(card)),
        ("classes", ", ".join(card.classes)),
        # Where it is not that of every ordinary model.
        *(
            (title.lower(), text)
            for title, text in gamma_rows(card.network)
            if text != ORDINARY
        ),
        ("scores", "\n".join(_score_lines(card)) or ("not measured" if varied else "")),
        ("variant of" if varied else "learned from", card.parent or ""),
        ("licence", card.licence),
        ("left out", card.dropped_words),
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
    from napari_sa2net.metrics import SCORES

    for data, scores in card.scores.items():
        named = (
            f"{SCORES[key]} {value:.3f}{_spread(scores, key)}"
            for key, value in scores.items()
            if key in SCORES
        )
        line = ", ".join(named)
        if line:
            yield f"{data}: {line}"


def _spread(scores: Mapping[str, float], key: str) -> str:
    """Half the interval of how a score changed from the parent's, where it is known."""
    margin = scores.get(f"{key}_margin")
    return "" if margin is None else f" ± {margin:.3f}"


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


models = App(
    name="models", help="List, show, import, export, rename, compare and remove models."
)


@models.command(name="list")
def list_command(*, json: Json = False) -> None:
    """List bundled models and yours, also those that are kept aside."""
    from napari_sa2net.models import list_models
    from napari_sa2net.models.registry import user_models_dir

    entries = list_models(aside=True)
    if json:
        console.print_json([_describe(entry) for entry in entries])
        return
    rows = [
        (
            entry.name,
            "bundled" if entry.bundled else "kept aside" if entry.aside else "yours",
            f"{entry.card.diameter:g} px" if entry.card.diameter else "any",
            f"{entry.size_bytes / 1e6:.1f} MB",
            entry.card.description,
        )
        for entry in entries
    ]
    console.table(("name", "from", "object size", "file", "description"), rows)
    console.stderr().print(f"Your models are in {user_models_dir()}", style="dim")


@models.command
def show(
    model: str,
    /,
    *,
    detailed: Annotated[bool, Parameter(name="--details", negative="")] = False,
    json: Flag = False,
) -> None:
    """Show a model's card: what it was trained on, scores, object size, licence.

    Parameters
    ----------
    model
        Name, or path of a model file.
    detailed
        Also the network, its input, the objects' settings and how it was trained.
    json
        Print one JSON document, with everything in it.
    """
    card, details = _card(model)
    if json:
        console.print_json({**details, "card": card.model_dump(mode="json")})
        return
    out = console.stdout()
    for line in card_lines(card, details, detailed):
        out.print(line, markup=False)


@models.command(name="import")
def import_command(file: Path, /, *, name: str | None = None, overwrite: Flag = False) -> None:
    """Take a model file, a package of one or a published SA2-Net checkpoint into the list.

    Parameters
    ----------
    file
        Our .safetensors, a package of the BioImage Model Zoo (.zip) with one in it, or a
        published .pth.tar or .pt.
    name
        What to call it; unsaid: as the file.
    overwrite
        Replace your model of that name.
    """
    from napari_sa2net.models import import_model

    entry = import_model(file, name, overwrite)
    if entry.card.dropped_words:
        console.warning(f"Left out: {entry.card.dropped_words}.")
    console.say(f"imported {entry.name}: {entry.path}")


@models.command(name="export")
def export_command(
    model: ModelName,
    destination: Path,
    /,
    *,
    attention: Flag = False,
    author: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    overwrite: Flag = False,
) -> None:
    """Copy a model's file somewhere else, or write it for other programs.

    Parameters
    ----------
    destination
        File, or a folder that is there; a name that ends with .onnx makes an ONNX file, one
        that ends with .zip a package of the BioImage Model Zoo.
    attention
        The ONNX file gives the attention maps too.
    author
        Who made the model, for the package; may be given several times.
    overwrite
        Replace an existing file.
    """
    from napari_sa2net.models import export_as

    target = export_as(
        model, destination, attention=attention, authors=author, overwrite=overwrite
    )
    console.say(f"exported {model}: {target}")


@models.command
def variant(
    model: ModelName,
    name: str | None = None,
    /,
    *,
    off: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (),
    on: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (),
    selectivity: str | None = None,
    feature_selectivity: str | None = None,
    overwrite: Flag = False,
) -> None:
    """Keep a model with its attention changed as a model of its own.

    It is what *What if* on the See why page tries. Nothing is learned or measured.

    Parameters
    ----------
    name
        What to call it; unsaid: as the model, with -variant.
    off
        Scales at which attention adds nothing, of 1 (finest) to 4, such as 4.
    on
        Scales that the model has off, to be on again.
    selectivity
        How choosy each stage is with fine detail, 0 to 8 (γ of ψ), such as 1/4=2,full=0.5; 0:
        all of it passes, 1: as the map shows. The others stay.
    feature_selectivity
        The same of the weights of features (squeeze and excitation), where there are any.
    overwrite
        Replace your model of that name.
    """
    from napari_sa2net.models import save_variant

    entry = save_variant(
        model,
        name,
        gates=_switches(off, on),
        gamma=_by_stage("--selectivity", selectivity),
        se_gamma=_by_stage("--feature-selectivity", feature_selectivity),
        overwrite=overwrite,
    )
    console.say(f"kept {entry.name}: {entry.path}")
    console.say(entry.card.description)


def _switches(off: tuple[int, ...], on: tuple[int, ...]) -> list[bool | None]:
    """Switches of the scales 1 to 4, None where nothing is said."""
    said = [*off, *on]
    if any(scale not in (1, 2, 3, 4) for scale in said) or len(set(said)) < len(said):
        raise SettingsError("Give --off and --on scales from 1 to 4, each once.")
    return [False if i in off else True if i in on else None for i in (1, 2, 3, 4)]


def _by_stage(flag: str, text: str | None) -> list[float | None]:
    """Numbers at 1/8, 1/4, 1/2 and full, None where nothing is said."""
    from napari_sa2net.models.card import SCALES

    said: dict[str, float] = {}
    try:
        for part in (text or "").replace(",", " ").split():
            stage, _, value = part.partition("=")
            if stage in said:
                raise ValueError
            said[SCALES[SCALES.index(stage)]] = float(value)
    except ValueError:
        raise SettingsError(
            f"{flag} {text}: give stages ({', '.join(SCALES)}) with a number from 0 to 8 "
            "each, and each once, such as 1/4=2,full=0.5."
        ) from None
    return [said.get(stage) for stage in SCALES]


@models.command
def promote(model: OwnModel, /) -> None:
    """Offer a model that was kept aside because it was not better than its parent."""
    from napari_sa2net.models import promote_model

    entry = promote_model(model)
    console.say(f"promoted {entry.name}: {entry.path}")


@models.command(alias="demote")
def aside(model: OwnModel, /) -> None:
    """Keep a model aside: it stays there by name, but is not offered."""
    from napari_sa2net.models import demote_model

    entry = demote_model(model)
    console.say(f"kept aside {entry.name}: {entry.path}")


@models.command
def rename(model: ModelName, name: str, /) -> None:
    """Call one of your models something else; its file keeps its content.

    Parameters
    ----------
    name
        The new one.
    """
    from napari_sa2net.models import rename_model

    entry = rename_model(model, name)
    console.say(f"renamed {model}: {entry.path}")


@models.command
def remove(model: ModelName, /, *, forever: Flag = False) -> None:
    """Take one of your models out of the list; bundled ones stay.

    Parameters
    ----------
    forever
        Delete its file, which otherwise `restore` brings back.
    """
    from napari_sa2net.models import remove_model

    path = remove_model(model, forever)
    where = "deleted" if path is None else str(path)
    console.say(f"removed {model}: {where}")


@models.command
def restore(model: str, /, *, name: str | None = None) -> None:
    """Put a model back that was removed.

    Parameters
    ----------
    model
        What it was called; of several, the one removed last.
    name
        What to call it; unsaid: as before.
    """
    from napari_sa2net.models import restore_model

    entry = restore_model(model, name)
    console.say(f"put back {entry.name}: {entry.path}")


@models.command
def compare(
    first: str,
    second: str,
    /,
    *,
    on: Path | None = None,
    axes: str | None = None,
    channels: str | None = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Score two models on the same images and tell whether the second is better.

    Parameters
    ----------
    first
        Name or file of a model, such as the parent.
    second
        Name or file of another, such as its child.
    on
        Folder of corrections, or with images/ and labels/; what one of both has learned from
        is left out. Unsaid: only the reference set of synthetic cells is scored.
    axes
        One letter per axis of the images of a folder with images/ and labels/, such as CYX.
    channels
        Their channels, counted from 0 or by name, such as 1 or DAPI,GFP. Unsaid: as one of the
        two has learned from that folder.
    """
    from dataclasses import asdict

    from napari_sa2net.training.compare_models import compare_models

    with StepProgress(quiet=json) as progress:
        result = compare_models(
            first,
            second,
            on,
            device=device,
            axes=axes,
            channels=channels,
            progress=progress.step,
        )
    if json:
        console.print_json({"schema_version": 1, **asdict(result)})
        return
    rows = [
        (
            part.name,
            str(part.n_images),
            str(part.change.after.n),
            score,
            f"{was:.3f}",
            f"{now:.3f}",
            f"{one.difference:+.3f}",
            f"{one.low:+.3f} to {one.high:+.3f}",
        )
        for part in result.parts
        for score, was, now, one in (
            ("AP@0.5", part.change.before.ap50, part.change.after.ap50, part.change),
            ("Dice", part.change.before.dice, part.change.after.dice, part.change.dice),
        )
    ]
    names = ("scored on", "images", "cells", "score", result.first, result.second)
    console.table((*names, "difference", "95 % interval"), rows)
    console.say(result.verdict.text)
    for note in result.notes:
        console.warning(note)


def _describe(entry: ModelEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "path": str(entry.path),
        "bundled": entry.bundled,
        "aside": entry.aside,
        "size_bytes": entry.size_bytes,
        "card": entry.card.model_dump(mode="json"),
    }


def _card(model: str) -> tuple[ModelCard, dict[str, Any]]:
    """Card of a name, of one of our files, or of a published checkpoint."""
    from napari_sa2net.models import find_model, open_model, read_card
    from napari_sa2net.models.registry import is_model_name, model_not_found

    entry = find_model(model) if is_model_name(model) else None
    if entry is not None:
        details = _describe(entry)
        del details["card"]
        return entry.card, details
    path = Path(model).expanduser()
    if not path.exists():
        raise model_not_found(model)
    try:
        card = read_card(path)
    except CheckpointError:
        # A published checkpoint has no card of its own; opening it makes one, or says why not.
        card = open_model(path).card
    return card, {"path": str(path), "size_bytes": path.stat().st_size}
