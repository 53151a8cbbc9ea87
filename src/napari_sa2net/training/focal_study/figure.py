"""The study in one figure: γ of every module, and what the modules bring."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from napari_sa2net.training.focal_study.networks import title_of
from napari_sa2net.training.focal_study.plan import METRICS, TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = {"all": "#0072B2", "learnable": "#E69F00", "chosen": "#009E73"}
MARKS = {"all": "s", "learnable": "^", "chosen": "o"}
KEPT, REMOVED = "#0072B2", "#D55E00"
#: Differences are not magnified beyond so many points on either side.
LEAST_POINTS = 0.5
WIDTH, HEIGHT, DPI = 7.25, 3.0, 300


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


def encode(figure: Figure, kind: str) -> bytes:
    """The figure as "png" or "svg"; the same figure gives the same bytes."""
    from matplotlib import rc_context

    content = BytesIO()
    # Text stays text, so that a journal's font can be put in; no time, no random names.
    metadata = {"Date": None} if kind == "svg" else {}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sa2net"}):
        figure.savefig(content, format=kind, dpi=DPI, metadata=metadata)
    return content.getvalue()


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
