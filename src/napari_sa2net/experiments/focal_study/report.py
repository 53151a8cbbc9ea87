"""A finished study as tables (CSV), figure (PNG, SVG) and page (Markdown)."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from napari_sa2net.data.write import render
from napari_sa2net.experiments.focal_study.plan import (
    METRICS,
    PAIRS,
    THRESHOLD,
    TITLES,
    VARIANTS,
    StudySettings,
    title_of,
)
from napari_sa2net.experiments.focal_study.scoring import Scores, pooled
from napari_sa2net.files import write_atomically
from napari_sa2net.training.schedule import Schedule, gamma_peak

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# --------------------------------------------------------------------------------------------
# The study in one figure: γ of every module, and what the modules bring.

#: Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = {"all": "#0072B2", "learnable": "#E69F00", "chosen": "#009E73"}
MARKS = {"all": "s", "learnable": "^", "chosen": "o"}
KEPT, REMOVED = "#0072B2", "#D55E00"
#: Differences are not magnified beyond so many points on either side.
LEAST_POINTS = 0.5
WIDTH, HEIGHT = 7.25, 3.0


def draw(state: dict[str, Any]) -> Figure:
    """The figure of a finished study."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    result = state["result"]
    with rc_context({"font.size": 7, "axes.linewidth": 0.5, "axes.titlesize": 7.5}):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        FigureCanvasAgg(figure)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
        _draw_gamma(left, result, state["settings"]["threshold"])
        _draw_differences(middle, result, "none", ("all", "learnable", "chosen"))
        _draw_differences(right, result, "all", ("learnable", "chosen"))
        right.tick_params(labelleft=False)
        # Beside the axes, where it cannot hide an interval.
        figure.legend(
            *middle.get_legend_handles_labels(), loc="outside lower right", ncols=3,
            frameon=False, fontsize=7, handletextpad=0.3,
        )  # fmt: skip
    return figure


def _draw_gamma(axes: Axes, result: dict[str, Any], threshold: float) -> None:
    gamma = result["gamma"]
    for x, (module, values) in enumerate(gamma.items()):
        kept = module in result["kept"]
        n = len(values)
        # Side by side in the order of the seeds, so that equal values show.
        places = [x + 0.3 * ((i + 0.5) / n - 0.5) for i in range(n)]
        axes.plot(
            places, values, "o", ms=3, color=KEPT if kept else REMOVED,
            mfc=KEPT if kept else "white", mew=0.8, clip_on=False, zorder=3,
        )  # fmt: skip
    axes.axhline(1, color="0.75", lw=0.6, zorder=0)
    axes.axhline(threshold, color=REMOVED, lw=0.6, ls="--", zorder=0)
    # In two lines: beside one another “gate 4” and “gate 3” would run together.
    axes.set_xticks(range(len(gamma)), [title_of(m).replace(" ", "\n") for m in gamma])
    axes.set_xlim(-0.6, len(gamma) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("learned γ")
    axes.set_title("γ by module and seed (open: removed)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_differences(
    axes: Axes, result: dict[str, Any], against: str, variants: tuple[str, ...]
) -> None:
    found = {
        (d["of"], d["metric"]): d for d in result["differences"] if d["against"] == against
    }
    for i, variant in enumerate(variants):
        for y, metric in enumerate(METRICS):
            d = found[variant, metric]
            at = y + 0.2 * (i - (len(variants) - 1) / 2)
            mean, low, high = (100 * d[key] for key in ("mean", "low", "high"))
            axes.plot([low, high], [at, at], color=COLOURS[variant], lw=0.9)
            axes.plot(
                100 * d["images_low"], at, "|", 100 * d["images_high"], at, "|",
                color=COLOURS[variant], ms=4, mew=0.8,
            )  # fmt: skip
            axes.plot(
                mean, at, MARKS[variant], color=COLOURS[variant], ms=3.5,
                label=variant if y == 0 else None,
            )  # fmt: skip
    axes.axvline(0, color="0.75", lw=0.6, zorder=0)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -LEAST_POINTS), max(high, LEAST_POINTS))
    axes.set_yticks(range(len(METRICS)), [TITLES[m] for m in METRICS])
    axes.set_ylim(len(METRICS) - 0.5, -0.5)
    axes.set_xlabel(f"minus “{against}”, points")
    axes.set_title(f"Difference to {against}")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


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
    drawn = draw(state)
    for kind in ("png", "svg"):
        write_atomically(out / f"figure.{kind}", render(drawn, kind))
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


# --------------------------------------------------------------------------------------------
# What a study found: means over seeds, and differences of variants, with 95 % intervals.

#: Draws of the bootstrap over images.
DRAWS = 2000
LEVEL = 0.95


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t; values that are all equal give themselves."""
    n = len(values)
    mean = float(np.mean(values))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * float(np.std(values, ddof=1))
    half /= math.sqrt(n)
    return mean, mean - half, mean + half


def summarise(
    scores: Mapping[str, Sequence[Scores]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Means of every variant and differences of every pair.

    Parameters
    ----------
    scores : mapping of variant to the scores of each seed
        Of the same images in the same order.

    Returns
    -------
    dict of variant to dict of metric to seeds, mean, low, high
        Low and high: t-interval over seeds.
    list of dict with of, against, metric, seeds, mean, low, high, images_low, images_high,
        verdict
        `seeds` are differences within a seed; `images_low` and `images_high` a bootstrap over
        images of the mean over seeds, all variants and seeds drawn together. The verdict is
        "higher" or "lower" only where both intervals exclude 0.
    """
    n = len(scores[VARIANTS[0]][0]["dice"])
    rng = np.random.default_rng(0)
    picks = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    values = {
        v: {m: [float(pooled(s)[m][0]) for s in scores[v]] for m in METRICS} for v in VARIANTS
    }
    drawn = {v: [pooled(s, picks) for s in scores[v]] for v in VARIANTS}
    variants: dict[str, Any] = {v: {} for v in VARIANTS}
    for v in VARIANTS:
        for m, each in values[v].items():
            mean, low, high = t_interval(each)
            variants[v][m] = {"seeds": each, "mean": mean, "low": low, "high": high}
    differences: list[dict[str, Any]] = []
    for of, against in PAIRS:
        for metric in METRICS:
            each = [
                a - b for a, b in zip(values[of][metric], values[against][metric], strict=True)
            ]
            mean, low, high = t_interval(each)
            draws = np.mean(
                [a[metric] - b[metric] for a, b in zip(drawn[of], drawn[against], strict=True)],
                axis=0,
            )
            outside = (1 - LEVEL) / 2
            images = np.quantile(draws, [outside, 1 - outside])
            differences.append(
                {
                    "of": of,
                    "against": against,
                    "metric": metric,
                    "seeds": each,
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "images_low": float(images[0]),
                    "images_high": float(images[1]),
                    "verdict": _verdict(low, high, *images),
                }
            )
    return variants, differences


def _verdict(low: float, high: float, images_low: float, images_high: float) -> str:
    if min(low, images_low) > 0:
        return "higher"
    if max(high, images_high) < 0:
        return "lower"
    return "not told apart"
