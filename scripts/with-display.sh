#!/usr/bin/env bash
# Run a command on the display there is, else on a virtual one.
set -euo pipefail
if [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] || [ "$(uname)" = Darwin ]; then
    exec "$@"
fi
command -v xvfb-run >/dev/null 2>&1 || {
    echo "no display, and xvfb-run is missing: install the package xvfb" >&2
    exit 1
}
exec xvfb-run --auto-servernum --server-args="-screen 0 1366x768x24" "$@"
