"""Lay the images that the bundled models learn from into one training folder, as links.

    python -m benchmarks.training_data OUT [--cells]
    sa2net train OUT --full …

OUT gets `images/`, `labels/` and `index.csv`. What validates is the seeded tenth of dsb2018's
training images that always did, and every eighth image of the second stage. Without --cells:
nuclei, for the model ``nuclei``; with it whole cells, for ``cells``, of which the images of
T98G cells named in `CELLS_KEPT` are left out, to be scored on.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

from napari_sa2net.data.training_set import load_training_folder, split_items

DATA = Path(os.environ.get("SA2NET_DATA") or Path(__file__).parents[2] / "shared") / "data"
#: Every so many-th image of T98G cells is never learned from.
CELLS_KEPT = 5
#: Shows whole cells by a membrane stain, though it is filed as fluorescence.
WHOLE_CELLS = "mIF.tif"
#: Further sources of nuclei: what the images are of there, by their kind.
NUCLEI = {
    ("dsb2018_stage1_test", "fluo"): "fluo-stage2",
    ("dsb2018_stage1_test", "rgb"): "rgb-stage2",
    ("bbbc039", "fluo"): "fluo-screen",
    ("cellbindb_demo", "fluo"): "fluo-tissue",
    ("cellbindb_demo", "rgb"): "rgb-tissue",
}
CELLS = {
    ("usiigaci_t98g", "phase"): "phase-t98g",
    ("yeastvision_phase", "phase"): "phase-yeast",
    ("ecoli_dapi", "fluo"): "fluo-bacteria",
    ("cellbindb_demo", "fluo"): "fluo-membranes",
}


def nuclei() -> list[tuple[str, str, str, Path, Path]]:
    """(split, name, kind, image, labels) of every image."""
    items = load_training_folder(DATA / "dsb2018")
    learned, held = split_items(items, 0.1, 0)
    rows = [
        (split, f"dsb_{item.name}", item.kind, item.image, item.labels)
        for split, some in (("train", learned), ("val", held))
        for item in some
    ]
    for source, name, own in _more(NUCLEI):
        if name == WHOLE_CELLS:
            continue
        n = sum(row[1].startswith(source) for row in rows)
        validates = source == "dsb2018_stage1_test" and n % 8 == 0
        rows.append(("val" if validates else "train", *_files(source, name, own)))
    return rows


def cells() -> list[tuple[str, str, str, Path, Path]]:
    """As `nuclei`, of whole cells."""
    rows: list[tuple[str, str, str, Path, Path]] = []
    for i, (source, name, own) in enumerate(_more(CELLS)):
        if source == "usiigaci_t98g" and i % CELLS_KEPT == 0:
            continue
        if source == "cellbindb_demo" and name != WHOLE_CELLS:
            continue
        split = "val" if source == "usiigaci_t98g" and i % CELLS_KEPT == 1 else "train"
        rows.append((split, *_files(source, name, own)))
    return rows


def _more(kinds: dict[tuple[str, str], str]) -> list[tuple[str, str, str]]:
    with (DATA / "more" / "index.csv").open(newline="") as file:
        found = [(r["source"], r["name"], r["kind"]) for r in csv.DictReader(file)]
    return sorted((s, n, kinds[s, k]) for s, n, k in found if (s, k) in kinds)


def _files(source: str, name: str, kind: str) -> tuple[str, str, Path, Path]:
    folder = DATA / "more" / source
    stem = f"{source}_{Path(name).stem}"
    return stem, kind, folder / "images" / name, folder / "labels" / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--cells", action="store_true")
    args = parser.parse_args()
    rows = cells() if args.cells else nuclei()
    for part in ("images", "labels"):
        (args.out / part).mkdir(parents=True, exist_ok=True)
    with (args.out / "index.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("split", "name", "kind"))
        for split, name, kind, image, labels in rows:
            table.writerow((split, name, kind))
            for part, path in (("images", image), ("labels", labels)):
                link = args.out / part / (name + path.suffix)
                if not link.exists():
                    link.symlink_to(path.resolve())
    for kind in sorted({row[2] for row in rows}):
        n = {s: sum(r[0] == s and r[2] == kind for r in rows) for s in ("train", "val")}
        print(f"{kind}: {n['train']} to learn from, {n['val']} to validate with")


if __name__ == "__main__":
    main()
