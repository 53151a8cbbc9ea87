"""A finished study as tables (CSV), figure (PNG, SVG) and page (Markdown)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

from napari_sa2net.files import write_atomically
from napari_sa2net.training.focal_study import figure
from napari_sa2net.training.focal_study.networks import title_of
from napari_sa2net.training.focal_study.plan import (
    METRICS,
    PAIRS,
    THRESHOLD,
    TITLES,
    VARIANTS,
    StudySettings,
)
from napari_sa2net.training.schedule import Schedule, gamma_peak

NETWORKS = {
    "sa2net": "SA2-Net with squeeze and excitation on its skips (the modules with a γ are ψ4 … "
    "ψ1 and SE 4 … 1; scale-aware attention, which has none, is in every variant)",
    "focal_unet": "a U-Net with an attention gate and squeeze and excitation on each skip",
}
EXPLAINED = {
    "none": "no module with a γ",
    "all": "all modules, γ fixed at 1",
    "learnable": "all modules, γ learned",
    "chosen": "the modules that the rule keeps, γ learned anew",
}
#: Where no network has learned anything.
NOTHING_FOUND = (
    " But no network found anything in the test images, so neither scores nor γ say anything: "
    "train longer (--steps), in another folder."
)


def write_report(out: Path, state: dict[str, Any]) -> None:
    """Write results.csv, gamma.csv, figure.png, figure.svg and study.md."""
    drawn = figure.draw(state)
    for kind in ("png", "svg"):
        write_atomically(out / f"figure.{kind}", figure.encode(drawn, kind))
    write_atomically(out / "results.csv", _csv(_result_rows(state)))
    write_atomically(out / "gamma.csv", _csv(_gamma_rows(state)))
    write_atomically(out / "study.md", markdown(state).encode())


def summary_rows(state: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cells of the main table: variant, modules, parameters, metrics, time."""
    rows = []
    for name in VARIANTS:
        found = state["result"]["variants"][name]
        rows.append(
            (
                name,
                str(len(found["modules"])),
                f"{found['parameters']:,}",
                *(_percent(found[metric]) for metric in METRICS),
                f"{1000 * found['time']['seconds']:.1f} ms",
                _ratio(found["time"]),
            )
        )
    return rows


SUMMARY_COLUMNS = (
    "variant",
    "modules",
    "parameters",
    *(TITLES[m] for m in METRICS),
    "time per image",
    "ratio to none",
)


def conclusion(state: dict[str, Any]) -> str:
    """What the rule decided, and whether that says anything."""
    result = state["result"]
    found = any(one["dice"]["mean"] > 0 for one in result["variants"].values())
    return _decision(result) + ("" if found else NOTHING_FOUND)


def _decision(result: dict[str, Any]) -> str:
    removed = [title_of(m) for m in result["removed"]]
    if not removed:
        return "No module's γ ended near 0: the rule keeps all, so chosen is learnable."
    if not result["kept"]:
        return "Every module's γ ended near 0: the rule removes all, so chosen is none."
    kept = [title_of(m) for m in result["kept"]]
    return f"Removed: {', '.join(removed)}. Kept: {', '.join(kept)}."


def markdown(state: dict[str, Any]) -> str:
    """The page of a finished study."""
    settings, images, result = state["settings"], state["images"], state["result"]
    n_seeds = settings["seeds"]
    kind = f", kind {settings['kind']}" if settings["kind"] else ""
    held = (
        "the rows of split test"
        if images["test_is_named_in_the_index"]
        else "a fifth of each kind, held out by group with a fixed seed"
    )
    lines = [
        f"# Which attention modules does {state['data']}{kind} need?",
        "",
        *([f"`{state['command']}`", ""] if state["command"] else []),
        conclusion(state),
        "",
        f"Network: {NETWORKS[settings['network']]}; base {settings['base_channels']}. "
        f"{settings['steps']} steps of {settings['batch_size']} crops of {settings['crop']} "
        f"px, loss {_loss(settings)}, {n_seeds} seeds. Trained on {len(images['training'])} "
        f"images, measured on {len(images['test'])} others ({held}).",
        "",
        "## Scores",
        "",
        *_table(SUMMARY_COLUMNS, summary_rows(state)),
        "",
        *(f"- **{name}**: {text}" for name, text in _explained(result).items()),
        "",
        f"Percent; mean over {n_seeds} seeds with a 95 % t-interval over seeds. It says what "
        "other seeds would give on these test images. Objects are matched one to one, counts "
        "summed over images before dividing; Dice and IoU are means over images. Time is that "
        f"of the network alone (median of {state['time']['rounds']} rounds over "
        f"{state['time']['images']} images, all variants in turn); the ratio has a 95 % "
        "bootstrap interval.",
        "",
        "## Differences",
        "",
        *_table(
            ("", "metric", "difference", "over seeds", "over images", "verdict"),
            [_difference(d) for d in result["differences"]],
        ),
        "",
        "Points, paired seed by seed: the same first weights where both have them, the same "
        "crops in the same order. Over seeds: 95 % t-interval; over images: 95 % bootstrap "
        "over test images, drawn for both variants and all seeds together. “higher” and "
        "“lower” are said only where both exclude 0. "
        f"{len(PAIRS) * len(METRICS)} differences are shown without a correction for their "
        "number, so one or another may stand out by chance.",
        "",
        "## γ of every module",
        "",
        *_table(
            ("module", *(f"seed {i}" for i in range(n_seeds)), "median", "rule"),
            [
                (
                    title_of(row["module"]),
                    *(f"{row[f'seed_{i}']:.2f}" for i in range(n_seeds)),
                    f"{row['median']:.2f}",
                    row["rule"],
                )
                for row in _gamma_rows(state)
            ],
        ),
        "",
        "![γ of every module, and differences between variants](figure.png)",
        "",
        "Left, a dot is one seed. Else marks are means over seeds, lines t-intervals over "
        "seeds, and ticks the ends of bootstrap intervals over images.",
        "",
        "## The rule",
        "",
        "A module is removed where the median of its γ over the seeds is below "
        f"{settings['threshold']:g}"
        + (
            ": it then ended nearer to 0, where the module is off, than to 1, ordinary "
            "attention. "
            if settings["threshold"] == THRESHOLD
            else f" (unless said otherwise: {THRESHOLD:g}). "
        )
        + "γ is learned on training images alone; test images have no say in what is removed. "
        "What is kept is trained again from the same first weights, γ beginning at 1.",
        "",
        "## Published, and reconstructed",
        "",
        "**Published** (Yeung et al., ISBI 2022, arXiv 2111.00534): attention coefficients "
        "raised to a focal parameter γ in squeeze and excitation and attention gates; γ "
        "trainable, beginning at 1, at least 0; the claim that a heuristic on it reaches the "
        "best results with fewer modules.",
        "",
        "**Our reconstruction**, as the text gives no procedure: that γ is read after training "
        "and modules near 0 are removed; the threshold and the median; that γ has a learning "
        f"rate of its own (summing to {_travel(settings):.3g} over the run) and no weight "
        "decay; "
        "training again from the same first weights; the reduction of squeeze and excitation; "
        + (
            "γ on ψ of SA2-Net, a network that the paper did not study."
            if settings["network"] == "sa2net"
            else "widths of the U-Net, and squeeze and excitation before the gate."
        ),
        "",
        "## Versions",
        "",
        ", ".join(f"{name} {version}" for name, version in state["versions"].items())
        + f". {state['device']}, {_precisions(state)}.",
        "",
    ]
    return "\n".join(lines)


def _explained(result: dict[str, Any]) -> dict[str, str]:
    twin = result["chosen_is"]
    same = {"chosen": f"the modules that the rule keeps, which is **{twin}**"} if twin else {}
    return EXPLAINED | same


def _travel(settings: dict[str, Any]) -> float:
    """Sum of the learning rates of γ over a run."""
    config = StudySettings.model_validate(settings).training(0)
    schedule = Schedule(config.steps, 1, config.warmup)
    total = sum(schedule.rate(step) for step in range(config.steps))
    return gamma_peak(total) * total


def _difference(d: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{d['of']} − {d['against']}",
        TITLES[d["metric"]],
        _points(d["mean"]),
        f"{_points(d['low'])} … {_points(d['high'])}",
        f"{_points(d['images_low'])} … {_points(d['images_high'])}",
        d["verdict"],
    )


def _points(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def _percent(found: dict[str, float]) -> str:
    return f"{100 * found['mean']:.1f} ± {50 * (found['high'] - found['low']):.1f}"


def _ratio(found: dict[str, float]) -> str:
    return f"{found['ratio']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def _precisions(state: dict[str, Any]) -> str:
    return " and ".join(sorted({run["precision"] for run in state["runs"].values()}))


def _loss(settings: dict[str, Any]) -> str:
    if settings["loss"] != "unified_focal":
        return str(settings["loss"])
    of = ", ".join(f"{name} {value}" for name, value in settings["unified_focal"].items())
    return f"unified_focal ({of})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _result_rows(state: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per variant and quantity, then one per difference."""
    result = state["result"]
    rows: list[dict[str, Any]] = []

    def row(of: str, against: str, quantity: str, **values: Any) -> None:
        # One set of columns for all rows.
        columns = dict.fromkeys(
            ("value", "low", "high", "images_low", "images_high", "verdict"), ""
        )
        seeds = values.pop("seeds", [""] * state["settings"]["seeds"])
        each = {f"seed_{i}": value for i, value in enumerate(seeds)}
        rows.append(
            {"variant": of, "minus": against, "quantity": quantity} | columns | values | each
        )

    for name, found in result["variants"].items():
        row(name, "", "modules", value=len(found["modules"]))
        row(name, "", "parameters", value=found["parameters"])
        time = found["time"]
        row(name, "", "seconds_per_image", value=time["seconds"])
        row(name, "", "time_ratio", value=time["ratio"], low=time["low"], high=time["high"])
        for m in METRICS:
            s = found[m]
            row(name, "", m, value=s["mean"], low=s["low"], high=s["high"], seeds=s["seeds"])
    for d in result["differences"]:
        shared = ("low", "high", "images_low", "images_high", "verdict", "seeds")
        values = {key: d[key] for key in shared}
        row(d["of"], d["against"], d["metric"], value=d["mean"], **values)
    return rows


def _gamma_rows(state: dict[str, Any]) -> list[dict[str, Any]]:
    result = state["result"]
    return [
        {"module": module}
        | {f"seed_{i}": value for i, value in enumerate(values)}
        | {
            "median": median(values),
            "rule": "kept" if module in result["kept"] else "removed",
        }
        for module, values in result["gamma"].items()
    ]


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
