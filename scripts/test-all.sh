#!/usr/bin/env bash
# All tests, on a display (scripts/with-display.sh). What must hold with PySide6, too, runs
# beside them in the moments in which they wait; what came of it is printed before the last line.
#
#   scripts/test-all.sh PYTEST...: what follows "python", such as -m pytest -n 2
set -uo pipefail
cd "$(dirname "$0")/.."
first=$(mktemp) said=$(mktemp)
QT_API=pyside6 PYTEST_QT_API=pyside6 OMP_NUM_THREADS=1 nice .venv-pyside6/bin/python \
    -m pytest -q -m both_bindings tests/gui >"$said" 2>&1 &
second=$!
trap 'kill "$second" 2>/dev/null; rm -f "$first" "$said"' EXIT
.venv/bin/python "$@" | tee "$first"
status=$?
wait "$second" || status=$?
echo "With PySide6:"
cat "$said"
tail -n 1 "$first"
exit "$status"
