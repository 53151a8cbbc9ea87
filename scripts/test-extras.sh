#!/usr/bin/env bash
# The tests of what is optional (dask, remote images, scanners, other engines, the Zoo), with it installed.
set -euo pipefail
cd "$(dirname "$0")/.."
base=$PWD/.venv/bin/python
place=.venv-extras
into=$place/bin/python
purelib='import sysconfig; print(sysconfig.get_path("purelib"))'

"$base" -m venv --clear --without-pip "$place"
site=$("$into" -c "$purelib")
# What is installed here hides what the first environment has of the same name.
printf 'import site; site.addsitedir("%s")\n' "$("$base" -c "$purelib")" >"$site/shared.pth"
# The extras as pyproject has them, without the package, whose dependencies are there.
readarray -t packages < <("$base" -c '
import tomllib
extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
for name in ("dask", "remote", "s3", "slides", "bioio", "onnx", "openvino", "bioimageio"):
    print(*(one for one in extras[name] if not one.startswith("napari-sa2net")), sep="\n")')
"$base" -m pip --python "$into" install --quiet --disable-pip-version-check -c constraints.txt \
    "${packages[@]}" "moto[server]" ngio ome-zarr-models >"$place/pip.log" 2>&1 ||
    { tail -n 5 "$place/pip.log" >&2; exit 1; }
exec scripts/with-display.sh "$into" -m pytest -n 2 --dist loadfile tests/cli/test_shared.py \
    tests/data/test_remote.py tests/data/test_scanners.py tests/data/test_formats.py \
    tests/models/test_export.py tests/models/test_bioimageio.py tests/inference/test_engines.py
