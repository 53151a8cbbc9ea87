#!/usr/bin/env bash
# The tests of the window that must hold everywhere, with several napari and both Qt bindings.
# Prints a table for docs/install.md. What is to be tried can be named:
#
#   scripts/test-matrix.sh 0.7.1 0.8.0 0.9.2
set -euo pipefail
cd "$(dirname "$0")/.."
base=$PWD/.venv/bin/python
root=.venv-matrix
purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
shared=$("$base" -c "$purelib")

# The oldest that pyproject allows, and the newest of each later minor version that there is.
versions=("$@")
if [ ${#versions[@]} -eq 0 ]; then
    read -ra versions < <("$base" -m pip index versions napari 2>/dev/null | "$base" -c '
import re, sys
newest = {}
for one in re.search("versions: (.*)", sys.stdin.read())[1].split(", "):
    if re.fullmatch(r"\d+\.\d+\.\d+", one) and (v := tuple(map(int, one.split(".")))) > (0, 7, 1):
        newest[v[:2]] = max(newest.get(v[:2], v), v)
print(*[".".join(map(str, v)) for v in sorted({(0, 7, 1), *newest.values()})])')
fi
[ ${#versions[@]} -gt 0 ] || { echo "no version of napari was found; name some" >&2; exit 1; }

rows=()
failed=0
for version in "${versions[@]}"; do
    for binding in PyQt6 PySide6; do
        place=$root/napari-$version-$binding
        into=$place/bin/python
        "$base" -m venv --clear --without-pip "$place"
        site=$("$into" -c "$purelib")
        # What is installed here hides what the first environment has of the same name.
        printf 'import site; site.addsitedir("%s")\n' "$shared" >"$site/shared.pth"
        packages=("napari==$version")
        if [ "$binding" = PySide6 ]; then
            printf 'raise ImportError("PyQt6 is not for this environment")\n' >"$site/PyQt6.py"
            packages+=($(grep -E '^(PySide6-Essentials|shiboken6)==' constraints.txt))
        fi
        "$base" -m pip --python "$into" install --quiet --disable-pip-version-check "${packages[@]}" \
            >"$place/pip.log" 2>&1 || { tail -n 5 "$place/pip.log" >&2; exit 1; }
        api=$(printf %s "$binding" | tr '[:upper:]' '[:lower:]')
        code=0
        QT_API=$api PYTEST_QT_API=$api scripts/with-display.sh "$into" -m pytest -q -n 2 \
            --dist loadfile -m both_bindings tests/gui >"$place/tests.log" 2>&1 || code=$?
        [ "$code" = 0 ] || failed=$((failed + 1))
        rows+=("| $version | $binding | $("$into" -c 'import platform; print(platform.python_version())') | $(tail -n 1 "$place/tests.log" | tr -d '=' | sed 's/ in .*//;s/^ *//') |")
        echo "${rows[-1]}"
    done
done
printf '\n| napari | Qt binding | Python | tests of the window |\n|---|---|---|---|\n'
printf '%s\n' "${rows[@]}"
exit "$failed"
