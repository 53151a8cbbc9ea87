#!/usr/bin/env bash
# Build wheel and source archive into dist/, check what the index would, and use the wheel as a
# stranger would: in a new environment, from a folder that is not this one.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
constraints=$PWD/constraints.txt

rm -rf dist
"$python" -m build --outdir dist
"$python" -m twine check --strict dist/*

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
wheel=$(echo "$PWD"/dist/*.whl)
"$python" -m venv "$place/env"
pip() { "$place/env/bin/python" -m pip install --quiet --disable-pip-version-check -c "$constraints" "$@"; }
pip torch
pip "$wheel"
"$place/env/bin/python" -m pip check

cd "$place"
export SA2NET_HOME=$place/home
env/bin/python - <<'PY'
from pathlib import Path

import napari_sa2net as sa2net
from napari_sa2net.data import synthetic_nuclei, write_labels

assert "site-packages" in sa2net.__file__, sa2net.__file__
Path("images").mkdir()
image, truth = synthetic_nuclei(shape=(128, 128), n=8, seed=1)
write_labels("images/nuclei.tif", image.astype("int32"))
score = sa2net.evaluate(sa2net.segment(image).labels, truth)["ap50"]
assert score > 0.6, score
print(f"the bundled model finds synthetic nuclei: AP at IoU 0.5 {score:.2f}")
PY
env/bin/sa2net models list
env/bin/sa2net segment images -o masks
test -s masks/nuclei.tif && test -s masks/objects.csv
echo "wheel and source archive are fit to be published: $wheel"
