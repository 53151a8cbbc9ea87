#!/usr/bin/env bash
# Set-up for `make demo`, `make test`, `make bench`, `make lint`: a virtual environment in .venv
# and, with --qt, the system packages that Qt needs. Instant when nothing is left to do.
# With --pyside6 there is a second environment in .venv-pyside6: all of .venv, but with PySide6
# in the place of PyQt6.
#
#   scripts/setup.sh [--qt] [--pyside6]
#   PYTHON=python3.12 scripts/setup.sh     to choose the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."

want_qt=no
want_pyside6=no
for flag in "$@"; do
    case $flag in
        --qt) want_qt=yes ;;
        --pyside6) want_pyside6=yes ;;
        *) printf 'set-up: unknown flag %s\n' "$flag" >&2; exit 2 ;;
    esac
done
venv=.venv
second=.venv-pyside6
log=$venv/setup.log

say() { printf '%s\n' "$*"; }
die() { printf '\nset-up: %s\n' "$*" >&2; exit 1; }
is_root() { [ "$(id -u)" = 0 ]; }
has_apt() { command -v apt-get >/dev/null 2>&1 && command -v dpkg-query >/dev/null 2>&1; }

apt_install() {
    say "Installing system packages: $*"
    local out
    out=$(mktemp)
    if ! { DEBIAN_FRONTEND=noninteractive apt-get update &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } \
        </dev/null >"$out" 2>&1; then
        tail -n 15 "$out" >&2
        rm -f "$out"
        die "apt-get could not install: $*"
    fi
    rm -f "$out"
}

# --- what Qt needs from the system ---------------------------------------------------------
qt_packages=(
    xvfb xauth libegl1 libgl1 libxkbcommon-x11-0 libdbus-1-3 libxcb-cursor0 libxcb-icccm4
    libxcb-keysyms1 libxcb-shape0 libxcb-xinerama0 libxcb-image0 libxcb-render-util0
    libxcb-randr0 libfontconfig1 libglib2.0-0
)

installed() {
    # Newer releases carry some of these under a name that ends in t64.
    local state
    for name in "$1" "$1t64"; do
        state=$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null || true)
        [ "$state" = installed ] && return 0
    done
    return 1
}

if [ "$want_qt" = yes ] && has_apt; then
    missing=()
    for package in "${qt_packages[@]}"; do
        installed "$package" || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        is_root || die "Qt needs system packages that are missing. Install them with
  sudo apt-get update && sudo apt-get install -y ${missing[*]}
and run the same command again."
        apt_install "${missing[@]}"
    fi
fi

# --- Python -----------------------------------------------------------------------------
new_enough='import sys; raise SystemExit(sys.version_info < (3, 11))'

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c "$new_enough" >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || die "Python 3.11 or newer is needed and was not found. Install it, or
name one: PYTHON=/path/to/python3.12 make test"
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        if is_root && has_apt; then
            apt_install "$package"
        else
            die "$python cannot make virtual environments. Install the missing part with
  sudo apt-get install -y $package
and run the same command again."
        fi
    fi
    say "Creating the virtual environment in $venv ($("$python" --version))"
    "$python" -m venv --clear "$venv" || die "the virtual environment could not be created"
fi
"$venv/bin/python" -c "$new_enough" ||
    die "$venv holds a Python older than 3.11. Remove that folder and run the same command again."

# --- packages ---------------------------------------------------------------------------
wanted=$(cat pyproject.toml constraints.txt "$0" | cksum)
is_done() { [ -f "$1/.setup-stamp" ] && [ "$(cat "$1/.setup-stamp")" = "$wanted" ]; }

pip_install() {
    "$venv/bin/python" -m pip ${into:+--python "$into"} install --disable-pip-version-check \
        --no-input --retries 5 --constraint constraints.txt "$@" </dev/null >>"$log" 2>&1 || {
        grep -v '^WARNING' "$log" | tail -n 15 >&2
        die "pip could not install the packages (whole log: $log). Check the network connection
and run the same command again."
    }
}

if ! is_done "$venv"; then
    : >"$log"
    say "Installing PyTorch (log: $log)"
    # First and alone, so that nothing that depends on it brings another build.
    pip_install torch
    say "Installing napari-sa2net with napari and the test tools; minutes on a fresh machine"
    pip_install --editable '.[dev]'
    printf '%s\n' "$wanted" >"$venv/.setup-stamp"
    rm -rf "$second" # it stands on the first
    say "Set-up complete"
fi

# --- the same with PySide6 --------------------------------------------------------------
if [ "$want_pyside6" = yes ] && ! is_done "$second"; then
    say "Installing PySide6 in $second"
    "$venv/bin/python" -m venv --clear --without-pip "$second" ||
        die "the virtual environment $second could not be created"
    into=$second/bin/python
    purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
    site=$("$into" -c "$purelib")
    # What is installed here hides what the first environment has of the same name.
    printf 'import site; site.addsitedir("%s")\n' "$("$venv/bin/python" -c "$purelib")" \
        >"$site/shared.pth"
    printf 'raise ImportError("PyQt6 is not for this environment")\n' >"$site/PyQt6.py"
    pip_install --no-deps PySide6-Essentials shiboken6
    printf '%s\n' "$wanted" >"$second/.setup-stamp"
fi
