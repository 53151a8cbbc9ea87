"""What it costs to look inside: attention maps beside a prediction, memory, what-ifs, seams.

Ratios are of processor time, both ways turn by turn in one process, medians. The memory of a
4096×4096 image is measured in a process of its own: how far its peak rises above its size
before. Seconds of a what-if are what a person waits, labels and comparison included.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from benchmarks.tables import show

from napari_sa2net.config import PredictConfig
from napari_sa2net.data import plan_image, synthetic_nuclei
from napari_sa2net.inference.instances import label_objects
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.interpret.attention import WhatIfRun
from napari_sa2net.interpret.explain import explain, explain_plane
from napari_sa2net.interpret.refinement import compare_objects
from napari_sa2net.models import Model, load_model

SIZE, VIEW, LARGE = 1024, 512, 4096
DIAMETER = 33
REPEATS = 5
WANTED_OVERHEAD = 0.35
WANTED_MEMORY_GB = 1.5
WANTED_WHAT_IF_S = 1.5
WANTED_WHAT_IF_RATIO = 0.6
WANTED_SEAM = 1e-3

#: What a person may change: gates 1…4, exponents of ψ at strides 8, 4, 2, 1.
CHANGES: dict[str, tuple[tuple[bool, ...], tuple[float, ...]]] = {
    "scale gate 1 off": ((False, True, True, True), (1, 1, 1, 1)),
    "scale gate 4 off": ((True, True, True, False), (1, 1, 1, 1)),
    "ψ at 1/8 off": ((True, True, True, True), (0, 1, 1, 1)),
    "ψ at full resolution cubed": ((True, True, True, True), (1, 1, 1, 3)),
    "everything changed": ((False, False, False, False), (0, 2, 0, 2)),
}


def row(figure: str, value: float, unit: str, wanted: float | None) -> dict[str, object]:
    return {
        "figure": figure,
        "value": f"{value:.3g}{unit}",
        "wanted": "" if wanted is None else f"≤ {wanted:g}{unit}",
        "reached": wanted is None or value <= wanted,
    }


def seconds(ways: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """Median processor and wall seconds of each way, turn by turn, after one to warm up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for call in ways.values():
        call()
    for _ in range(REPEATS):
        for name, call in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: (statistics.median(t[0] for t in of), statistics.median(t[1] for t in of))
        for name, of in times.items()
    }


def overhead(model: Model, image: np.ndarray) -> list[dict[str, object]]:
    """Prediction with all maps and heads against the plain one."""
    rows = []
    for precision in ("auto", "float32"):
        predictor, plan = prepared(model, image, precision=precision)
        took = seconds(
            {
                "plain": lambda of=predictor, plan=plan: of.predict_plane(plan),
                "seen": lambda of=predictor, plan=plan: explain_plane(of, plan),
            }
        )
        more = took["seen"][0] / took["plain"][0] - 1
        name = str(predictor.dtype).removeprefix("torch.")
        what = f"maps and heads beside a prediction of {SIZE}×{SIZE}, {name}: more time"
        rows.append(row(what, more, "", WANTED_OVERHEAD))
        if precision == "auto" and name == "float32":
            break
    return rows


def what_ifs(model: Model, image: np.ndarray) -> list[dict[str, object]]:
    """Answers for a view in the middle of an image, against the whole network again."""
    predictor, plan = prepared(model, image)
    first = (SIZE - VIEW) // 2
    box = (first, first + VIEW, first, first + VIEW)
    classes, config = model.card.classes, model.card.instance
    cold: list[float] = []

    def labels(probability: np.ndarray) -> np.ndarray:
        return label_objects(probability, classes, config)

    def at_first() -> WhatIfRun:
        start = time.perf_counter()
        run = WhatIfRun(predictor, plan, box=box)
        before = labels(run.run())
        gates, gamma = CHANGES["everything changed"]
        compare_objects(before, labels(run.run(gates, gamma)))
        cold.append(time.perf_counter() - start)
        return run

    run = [at_first() for _ in range(REPEATS)][-1]
    before = labels(run.run())
    bare = WhatIfRun(predictor, plan, box=box, max_bytes=0)
    ways: dict[str, Callable[[], object]] = {}
    for name, (gates, gamma) in CHANGES.items():
        ways[name] = lambda g=gates, y=gamma: compare_objects(before, labels(run.run(g, y)))
    gates, gamma = CHANGES["everything changed"]
    ways["network alone, resumed"] = lambda: run.run(gates, gamma)
    ways["network alone, whole"] = lambda: bare.run(gates, gamma)
    ways["whole"] = lambda: compare_objects(before, labels(bare.run(gates, gamma)))
    took = seconds(ways)
    view = f"{VIEW}×{VIEW}"
    rows = [
        row(
            f"what-if of {view}, the first of a view", statistics.median(cold), " s",
            WANTED_WHAT_IF_S,
        )
    ]  # fmt: skip
    for name in CHANGES:
        rows.append(row(f"what-if of {view}, {name}", took[name][1], " s", WANTED_WHAT_IF_S))
        ratio = took[name][0] / took["whole"][0]
        rows.append(row("    against a full run", ratio, "", WANTED_WHAT_IF_RATIO))
    ratio = took["network alone, resumed"][0] / took["network alone, whole"][0]
    rows.append(row("    everything changed, network alone", ratio, "", None))
    return rows


def seams(model: Model, image: np.ndarray) -> list[dict[str, object]]:
    """Largest difference of maps in tiles of 512 px from those of the whole image."""
    made = []
    for tile in (SIZE, 512):
        predictor, plan = prepared(model, image, precision="float32", tile=tile)
        made.append(explain_plane(predictor, plan))
    whole, tiled = made
    assert whole.maps is not None
    assert tiled.maps is not None
    worst = max(
        float(np.abs(whole.maps.native[name] - tiled.maps.native[name]).max())
        for name in whole.maps
    )
    what = f"maps of {SIZE}×{SIZE} in {tiled.n_tiles} tiles, float32: largest difference"
    return [row(what, worst, "", WANTED_SEAM)]


def memory() -> list[dict[str, object]]:
    """Peak of the process above its size before, for maps alone and for everything."""
    if not Path("/proc/self/status").exists():
        return []
    rows = []
    for what, figure in (
        ("maps", f"memory for prediction and maps of {LARGE}×{LARGE}"),
        ("explain", "    with labels of four stages and table"),
    ):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_attention", what]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(row(figure, float(run.stdout), " GB", WANTED_MEMORY_GB))
    return rows


def measure_memory(what: str) -> float:
    """In a fresh process: gigabytes that the peak lies above the size before."""
    model = load_model("nuclei")
    small, _ = synthetic_nuclei((SIZE, SIZE), n=400, diameter=DIAMETER, seed=0)
    image = np.tile(small, (LARGE // SIZE, LARGE // SIZE))
    predictor, plan = prepared(model, image)
    explain(small[:256, :256], model, diameter=DIAMETER, device="cpu")
    before = _status("VmRSS")
    if what == "maps":
        explain_plane(predictor, plan)
    else:
        explain(image, model, diameter=DIAMETER, device="cpu")
    return _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e9


def prepared(model: Model, image: np.ndarray, **settings: object) -> tuple[Predictor, object]:
    """Predictor and plan; one network pixel per image pixel."""
    plan = plan_image(image, model_input=model.card.input, in_channels=model.net.in_channels)
    config = PredictConfig.model_validate({"device": "cpu", **settings})
    return Predictor(model, config, plan.model_input), plan


def main() -> int:
    """Measure everything; 1 where a limit is passed, else 0."""
    if len(sys.argv) > 1:
        print(measure_memory(sys.argv[1]))
        return 0
    model = load_model("nuclei")
    image, _ = synthetic_nuclei((SIZE, SIZE), n=400, diameter=DIAMETER, seed=0)
    rows = overhead(model, image) + what_ifs(model, image) + seams(model, image) + memory()
    show(rows)
    return int(not all(one["reached"] for one in rows))


if __name__ == "__main__":
    sys.exit(main())
