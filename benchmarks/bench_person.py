"""Seconds of a person per object, until an image has F1 ≥ 0.9 at an IoU of 0.5.

A simulated person (`benchmarks.person`) does the images of a source one after the other; each
act has a published price. Ways of doing it:

- hand: every object is drawn by its outline.
- correct: the bundled model segments, and what is wrong is corrected; clicks learn of it
  (`app.clicks`), after so many seconds of the person's own (`LESSON_S`), who goes on meanwhile.
- rounds: besides, what was corrected is kept, and a model learns from it after some images;
  the next ones are segmented with that model, if it was better.
- live: as `correct`, and it learns while the person corrects (`app.live`); a wave comes back
  after `WAVE_S`, and is taken back where it made things worse.

    python -m benchmarks person                                  two images of each source
    python -m benchmarks person --images 10 --seeds 3 --ways hand correct rounds

Time that the person would wait for the computer is counted apart. What is done is written
into OUT/rows.json, and a run that was broken off goes on there. Sources are the kinds of test
images of dsb2018 and the probes; on these nothing may be chosen. To choose by, there are
`--sources train:fluo train:rgb train:gray-bright` and the sources of more/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import platformdirs
from benchmarks.person import (
    CLICK,
    GOAL,
    OPERATORS,
    PRICES,
    SETTINGS,
    UNDO,
    Desk,
    K,
    M,
    Person,
)
from benchmarks.tables import program, show
from benchmarks.training_data import DATA

from napari_sa2net.app.live import LiveController
from napari_sa2net.config import FineTuneConfig
from napari_sa2net.data import read_image, synthetic_nuclei
from napari_sa2net.metrics import pool, score_image
from napari_sa2net.models import load_model

#: Counts up where the person works in another way, so that older rows are not taken.
VERSION = 9
#: Seconds from the beginning of a wave of learning until its cells are there, and until clicks
#: have learned.
WAVE_S, LESSON_S = 15.0, 6.0
#: A model learns after so many images of a folder, and with so many steps.
LEARN_AFTER, STEPS = (3, 6), 240
#: Seconds per object of people, for comparison: micro-sam's user study (Archit et al., Nature
#: Methods 2025) by hand, with Cellpose in the loop, and with a tuned micro-sam.
PUBLISHED = {"by hand": 3.27, "Cellpose in the loop": 0.72, "micro-sam, tuned": 0.056}


# --- images ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """An image with its truth."""

    name: str
    image: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class Source:
    """Images of one kind, read when they are needed."""

    name: str
    files: tuple[tuple[Path, str], ...]

    def names(self, n: int) -> list[tuple[Path, str]]:
        """Some of them in a drawn order; more contain fewer."""
        order = np.random.default_rng(0).permutation(len(self.files))
        return [self.files[i] for i in order[:n]]


def sources() -> dict[str, Source]:
    """All there are, by name; those of the default first."""
    found: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for row in _rows(DATA / "dsb2018" / "index.csv"):
        name = row["kind"] if row["split"] == "test" else f"train:{row['kind']}"
        found[name].append((DATA / "dsb2018" / row["split"], row["name"]))
    targets: dict[str, set[str]] = defaultdict(set)
    probes = _rows(DATA / "probes" / "index.csv")
    for row in probes:
        targets[row["source"]].add(row["target"])
    for row in probes:
        several = len(targets[row["source"]]) > 1
        name = f"{row['source']} {row['target']}" if several else row["source"]
        found[name].append((DATA / "probes" / row["source"], row["name"]))
    defaults = [name for name in found if not name.startswith("train:")]
    for row in _rows(DATA / "more" / "index.csv"):
        found[row["source"]].append((DATA / "more" / row["source"], row["name"]))
    order = [*defaults, *(name for name in found if name not in defaults)]
    return {name: Source(name, tuple(sorted(found[name]))) for name in order}


def default_sources() -> list[str]:
    """Test images of each kind, and the probes."""
    more = {row["source"] for row in _rows(DATA / "more" / "index.csv")}
    return [name for name in sources() if name not in more and not name.startswith("train:")]


def _rows(path: Path) -> list[dict[str, str]]:
    import csv

    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read(folder: Path, name: str) -> Picture:
    """An image with its truth."""
    image, truth = (
        np.asarray(read_image(folder / kind / name).array) for kind in ("images", "labels")
    )
    return Picture(name, image, truth.astype(np.int32))


def synthetic(n: int) -> list[Picture]:
    """Small images that need no folder of data."""
    made = (synthetic_nuclei((96, 96), 8, 20, seed, "fluo") for seed in range(n))
    return [Picture(f"synthetic {i}", *one) for i, one in enumerate(made)]


# --- ways ------------------------------------------------------------------------------------


class Way:
    """How a folder of images is done; others say what is there when the person begins.

    Parameters
    ----------
    desk
    seed
        Of what is drawn, where `draws`.
    images
        How many there are.
    """

    name = ""
    #: The outcome depends on a seed and on the order of the images.
    draws = False
    #: Only outlines are drawn.
    by_hand = False

    def __init__(self, desk: Desk, seed: int, images: int) -> None:
        self.desk = desk
        self.seed = seed
        self.images = images
        self.done = 0

    def begin(self, picture: Picture) -> None:
        """The image is open: show the cells that the person begins with."""
        raise NotImplementedError

    def edited(self, person: Person) -> None:
        """The person has changed or added cells; others may be changed now."""

    def end(self, person: Person) -> None:
        """The image is done."""
        self.done += 1


class Hand(Way):
    """Every object is drawn."""

    name = "hand"
    by_hand = True

    def begin(self, picture: Picture) -> None:
        self.desk.show_empty()


class Correct(Way):
    """Segmented and corrected."""

    name = "correct"
    #: what comes so many seconds after it was asked for
    takes: ClassVar = {"teach_clicks": LESSON_S}

    def __init__(self, desk: Desk, seed: int, images: int) -> None:
        super().__init__(desk, seed, images)
        (self._engine,) = desk.engines
        self._engine.later = frozenset(self.takes)
        self._due: dict[int, float] = {}

    def begin(self, picture: Picture) -> None:
        self.desk.show_segmented()
        self._due.clear()

    def edited(self, person: Person) -> None:
        now = person.ledger.seconds
        for call in self._engine.waiting:
            self._due.setdefault(call.job, now + self.takes[call.name])
        ready = [call for call in self._engine.waiting if self._due[call.job] <= now]
        if ready:
            self._engine.answer_now(ready)
            self.desk.work()

    def end(self, person: Person) -> None:
        super().end(person)
        self._engine.answer_now(list(self._engine.waiting))
        self.desk.work()


class Rounds(Correct):
    """Kept besides, and learned from after some images."""

    name = "rounds"
    draws = True
    config = FineTuneConfig(steps=STEPS)

    def end(self, person: Person) -> None:
        super().end(person)
        learns = [n for n in LEARN_AFTER if n < self.images]
        if self.done <= max(learns, default=0):
            # Shift-A in each view: what is not corrected is right; then K keeps
            person.ledger.pay("accept what is in view", 2 * K * person.views)
            self.desk.correct.accept_view()
            person.ledger.pay("keep", K)
            self.desk.keep()
        if self.done in learns:
            # the page, Learn, and the child in use
            person.ledger.pay("learn", 3 * CLICK)
            config = self.config.model_copy(update={"seed": self.seed})
            self.desk.learn_and_use(config, self.done)


class Live(Correct):
    """Learned from while the person corrects."""

    name = "live"
    draws = True

    takes: ClassVar = Correct.takes | {"wave": WAVE_S}

    def __init__(self, desk: Desk, seed: int, images: int) -> None:
        super().__init__(desk, seed, images)
        self._live = LiveController(desk.correct)
        # a busy machine must not change what is learned
        settings = {"seed": seed, "seconds": 1e6}
        self._live.config = self._live.config.model_copy(update=settings)
        self._live.set_on(True)

    def edited(self, person: Person) -> None:
        runs = any(call.name == "wave" for call in self._engine.waiting)
        before = person.look_again().f1 if runs else 0.0
        super().edited(person)
        # who sees at a glance that a wave made it worse takes it back
        if runs and self._live.state.undo and person.look_again().f1 < before:
            person.ledger.pay("take a wave back", M + UNDO)
            self._live.undo()
        if "went wrong" in self._live.state.words:
            raise RuntimeError(self._live.state.words)

    def end(self, person: Person) -> None:
        super().end(person)
        if self.done == self.images:
            self._live.close()


#: Another way is one more class: what is there at the beginning (`begin`), what follows an act
#: of the person (`edited`), and what an image (`end`).
WAYS: dict[str, type[Way]] = {way.name: way for way in (Hand, Correct, Rounds, Live)}


# --- measuring -------------------------------------------------------------------------------


def measure(
    way: type[Way], pictures: Sequence[Picture], desk: Desk, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """One row for each image of a folder that is done in a way."""
    doing = way(desk, seed, len(pictures))
    for number, picture in enumerate(pictures):
        before = desk.computing()
        desk.segment.reset_instances()
        desk.open(picture.name, picture.image)
        doing.begin(picture)
        first, model = pool([score_image(desk.labels, picture.truth)]), desk.model
        person = Person(desk, picture.truth, doing.edited, way.by_hand)
        person.correct()
        last = pool([score_image(desk.labels, picture.truth)])
        doing.end(person)
        computing = {
            name: seconds - before.get(name, 0.0) for name, seconds in desk.computing().items()
        }
        yield {
            "way": way.name,
            "seed": seed,
            "number": number,
            "image": picture.name,
            "model": model,
            "objects": len(person.seen.area_truth),
            "seconds": person.ledger.seconds,
            "wasted": person.ledger.wasted,
            "acts": person.ledger.acts,
            "tries": person.ledger.tries,
            "passes": person.passes,
            "F1 before": first["f1"],
            "F1": last["f1"],
            "computing": computing,
        }
        desk.put_away()


class Rows:
    """Rows on disk, so that what was measured is not measured again."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "rows.json"
        self.rows: list[dict[str, Any]] = []
        if self._path.is_file():
            self.rows = json.loads(self._path.read_text(encoding="utf-8"))

    def find(self, about: dict[str, Any]) -> list[dict[str, Any]]:
        """Those of which all of that is true."""
        return [row for row in self.rows if about.items() <= row.items()]

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write more, whole or not at all."""
        self.rows += rows
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self.rows, indent=0), encoding="utf-8")
        part.replace(self._path)


def measure_key(model: str) -> str:
    """Rows of another key were measured otherwise."""
    times = (WAVE_S, LESSON_S)
    is_of = [program(), load_model(model).sha256]
    how = [VERSION, PRICES, SETTINGS, LEARN_AFTER, STEPS, times, is_of]
    return hashlib.sha256(json.dumps(how).encode()).hexdigest()[:12]


def collect(
    ways: Sequence[type[Way]],
    folders: dict[str, list[Callable[[], Picture]]],
    seeds: int,
    rows: Rows,
    model: str = "nuclei",
) -> list[dict[str, Any]]:
    """All rows, those that are there already and those that have to be measured."""
    key, found = measure_key(model), []
    with tempfile.TemporaryDirectory(prefix="sa2net-person-") as home:
        former, os.environ["SA2NET_HOME"] = os.environ.get("SA2NET_HOME"), home
        desks = Desks(Path(home), model)
        try:
            for source, folder in folders.items():
                for way in ways:
                    for seed in range(seeds if way.draws else 1):
                        about = {"source": source, "measure": key}
                        found += _folder(way, seed, folder, about, rows, desks)
        finally:
            desks.close()
            os.environ.pop("SA2NET_HOME")
            if former is not None:
                os.environ["SA2NET_HOME"] = former
    return found


class Desks:
    """A desk for all folders; one of its own for a folder that teaches a model."""

    def __init__(self, home: Path, model: str) -> None:
        self._home, self._model = home, model
        self._desk: Desk | None = None
        self._n = 0

    def get(self, fresh: bool) -> Desk:
        if fresh:
            self.close()
        if self._desk is None:
            self._n += 1
            self._desk = Desk(self._home / f"kept {self._n}", self._model)
        return self._desk

    def close(self) -> None:
        if self._desk is not None:
            self._desk.close()
        self._desk = None


def _folder(
    way: type[Way],
    seed: int,
    folder: list[Callable[[], Picture]],
    about: dict[str, Any],
    rows: Rows,
    desks: Desks,
) -> list[dict[str, Any]]:
    """Rows of one folder; where images teach each other nothing, each is done for itself."""
    order = list(range(len(folder)))
    parts = [[i] for i in order]
    if way.draws:
        order = np.random.default_rng(seed).permutation(len(folder)).tolist()
        parts = [order]
        about = about | {"folder": len(folder)}
    out: list[dict[str, Any]] = []
    for part in parts:
        own = about | {"way": way.name, "seed": seed}
        if not way.draws:
            own["number"] = part[0]
        known = rows.find(own)
        if not known:
            pictures = [p for p in (folder[i]() for i in part) if p.truth.any()]
            desk = desks.get(fresh=way.draws)
            known = [row | own for row in measure(way, pictures, desk, seed)]
            if way.draws:
                desks.close()
            rows.add(known)
            for row in known:
                print(
                    f"{row['source']}, {row['way']}, {row['image']}: {row['objects']} objects, "
                    f"{row['seconds'] / row['objects']:.2f} s each, F1 {row['F1 before']:.2f} "
                    f"→ {row['F1']:.2f}",
                    file=sys.stderr,
                    flush=True,
                )
        out += known
    return out


# --- tables ----------------------------------------------------------------------------------


def per_object(rows: Sequence[dict[str, Any]]) -> float:
    """Seconds of a person per object, over the images."""
    return sum(row["seconds"] for row in rows) / sum(row["objects"] for row in rows)


def interval(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """95 % bootstrap interval of `per_object` over seeds and images."""
    rng = np.random.default_rng(0)
    by_seed: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_seed[row["seed"]].append(row)
    of = list(by_seed.values())
    draws = []
    for _ in range(1000):
        seeds = rng.integers(len(of), size=len(of))
        picked = [of[s][i] for s in seeds for i in rng.integers(len(of[s]), size=len(of[s]))]
        draws.append(per_object(picked))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, object]]:
    """Seconds per object by source and way, and means over the sources."""
    names = list(dict.fromkeys(row["source"] for row in rows))
    ways = list(dict.fromkeys(row["way"] for row in rows))
    table = []
    means: dict[str, list[float]] = defaultdict(list)
    for name in names:
        for way in ways:
            some = [r for r in rows if (r["source"], r["way"]) == (name, way)]
            if not some:
                continue
            table.append({"source": name, "way": way, **_figures(some)})
            means[way].append(per_object(some))
    for way in ways if len(names) > 1 else ():
        some = [row for row in rows if row["way"] == way]
        mean = {"s per object": f"{np.mean(means[way]):.2f}", "95 %": ""}
        table.append({"source": "mean of sources", "way": way, **_figures(some), **mean})
    return table


def _figures(some: Sequence[dict[str, Any]]) -> dict[str, str]:
    low, high = interval(some)
    waits = sum(
        row["computing"].get(name, 0.0)
        for row in some
        for name in ("segment", "object_at", "fine_tune")
    )
    return {
        "images": str(len({row["image"] for row in some})),
        "objects": str(sum(row["objects"] for row in some)),
        "s per object": f"{per_object(some):.2f}",
        "95 %": f"{low:.2f} … {high:.2f}",
        "F1 before": f"{np.mean([row['F1 before'] for row in some]):.2f}",
        "F1": f"{np.mean([row['F1'] for row in some]):.2f}",
        "done": f"{sum(row['F1'] >= GOAL for row in some)} of {len(some)}",
        "wasted": f"{sum(r['wasted'] for r in some) / sum(r['seconds'] for r in some):.0%}",
        "computing (s per image)": f"{waits / len(some):.1f}",
    }


def shares(rows: Sequence[dict[str, Any]]) -> list[dict[str, object]]:
    """What each act costs per object, and its share of the time, by way."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    spent: dict[str, dict[str, float]] = {way: defaultdict(float) for way in ways}
    for row in rows:
        for act, (_, seconds) in row["acts"].items():
            spent[row["way"]][act] += seconds
    acts = sorted({a for of in spent.values() for a in of}, key=lambda a: -_all(spent, a))
    objects = {w: sum(r["objects"] for r in rows if r["way"] == w) for w in ways}
    return [
        {"act": act}
        | {
            way: f"{spent[way][act] / objects[way]:.3f} s  "
            f"{spent[way][act] / max(sum(spent[way].values()), 1e-9):4.0%}"
            for way in ways
        }
        for act in acts
    ]


def _all(spent: dict[str, dict[str, float]], act: str) -> float:
    return sum(of.get(act, 0.0) for of in spent.values())


def successes(rows: Sequence[dict[str, Any]]) -> list[dict[str, object]]:
    """How often what may fail has helped, by source; of all ways but by hand."""
    some = [row for row in rows if row["way"] != "hand"] or list(rows)
    what = sorted({name for row in some for name in row["tries"]})
    table: list[dict[str, object]] = []
    for name in list(dict.fromkeys(row["source"] for row in some)):
        line: dict[str, object] = {"source": name}
        for act in what:
            of = [r["tries"].get(act, (0, 0)) for r in some if r["source"] == name]
            good, tries = (sum(one[i] for one in of) for i in (0, 1))
            line[act] = f"{good} of {tries}" + (f", {good / tries:.0%}" if tries else "")
        table.append(line)
    return table


def print_tables(rows: list[dict[str, Any]]) -> None:
    """All of them."""
    print("\nPrices of the operators (s)")
    show([{"operator": o, "s": f"{s:.2f}", "what": w} for o, (s, w) in OPERATORS.items()])
    print("\nPrices of the acts (s)")
    show([{"act": act, "s": f"{s:.2f}", "made of": w} for act, (s, w) in PRICES.items()])
    print("\nSeconds of the person per object, until F1 ≥ 0.9 at an IoU of 0.5")
    show(summary(rows))
    by_hand = [row for row in rows if row["way"] == "hand"]
    if by_hand:
        outlines = [row["acts"].get("outline", (0, 0.0)) for row in by_hand]
        looks = [row["acts"]["look"] for row in by_hand]
        each = sum(s for _, s in outlines) / max(sum(n for n, _ in outlines), 1)
        each += sum(s for _, s in looks) / max(sum(n for n, _ in looks), 1)
        told = ", ".join(f"{what} {s:g}" for what, s in PUBLISHED.items())
        print(f"\nan object drawn, look and outline: {each:.2f} s; of people (s): {told}")
    print("\nWhere the time goes: seconds per object, and share")
    show(shares(rows))
    if any(row["tries"] for row in rows):
        print("\nHow often an act did what it was done for (all ways but by hand)")
        show(successes(rows))
    if any(WAYS[row["way"]].draws for row in rows):
        print("\nImage by image: seconds per object where images teach the next ones")
        show(by_number(rows))


def by_number(rows: Sequence[dict[str, Any]]) -> list[dict[str, object]]:
    """Seconds per object by the place of an image in its folder, and without learning."""
    learned = [row for row in rows if WAYS[row["way"]].draws]
    table: list[dict[str, object]] = []
    for source, way in dict.fromkeys((row["source"], row["way"]) for row in learned):
        line: dict[str, object] = {"source": source, "way": way}
        same: dict[str, object] = {"source": source, "way": "the same images, correct"}
        for place in sorted({row["number"] for row in learned}):
            about = {"source": source, "way": way, "number": place}
            some = [row for row in learned if about.items() <= row.items()]
            plain = {
                row["image"]: row
                for row in rows
                if (row["source"], row["way"]) == (source, Correct.name)
            }
            others = [plain[row["image"]] for row in some if row["image"] in plain]
            for one, those in ((line, some), (same, others)):
                one[str(place + 1)] = f"{per_object(those):.2f}" if those else ""
        table += [line, same]
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for and is not there yet; print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks person")
    parser.add_argument("--sources", nargs="+", help="names; unsaid: test images and probes")
    parser.add_argument("--images", type=int, default=2, help="of each source at most")
    parser.add_argument("--seeds", type=int, default=1, help="for ways that learn")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["hand", "correct"])
    parser.add_argument("--quick", action="store_true", help="one small synthetic image")
    parser.add_argument("--out", type=Path, help="where the rows are kept")
    asked = parser.parse_args(arguments)
    cache = Path(platformdirs.user_cache_dir("napari-sa2net", appauthor=False))
    rows = Rows(asked.out or cache / "bench" / "person")
    folders: dict[str, list[Callable[[], Picture]]] = {}
    if asked.quick:
        folders["synthetic"] = [lambda: synthetic(1)[0]]
    elif not DATA.is_dir():
        print("no images to measure on (set SA2NET_DATA)")
        return 0
    else:
        there = sources()
        for name in asked.sources or default_sources():
            if name not in there:
                parser.error(f"no source {name!r}: there are {', '.join(there)}")
            folders[name] = [
                lambda file=file: read(*file) for file in there[name].names(asked.images)
            ]
    found = collect([WAYS[name] for name in asked.ways], folders, asked.seeds, rows)
    print_tables(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
