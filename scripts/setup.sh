#!/usr/bin/env bash
# Make .venv with the project and its tools in it, at the versions of requirements/constraints.txt. Does nothing when it is up to date.
#
# PYTHON names the interpreter to use; without it, the first of python3, python3.13, ... that is 3.11 or newer is taken.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
constraints=requirements/constraints.txt

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$*" >&2; exit 1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1; }
can_make_venv() { "$1" -c 'import ensurepip, venv' > /dev/null 2>&1; }
can_install_packages() { [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; }

install_packages() {
    local log
    log=$(mktemp)
    say "installing Debian packages with apt-get: $*"
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } > "$log" 2>&1; then
        cat "$log" >&2
        fail "apt-get failed (above)"
    fi
    rm "$log"
}

find_python() { # prints the interpreter, preferring one that can make a virtual environment as it is
    local candidate fallback=
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
        is_new_enough "$candidate" || continue
        if can_make_venv "$candidate"; then
            echo "$candidate"
            return
        fi
        fallback=${fallback:-$candidate}
    done
    echo "$fallback"
}

# The stamp tells what the environment was made from, where, and for which interpreter.
fingerprint() {
    { pwd; "$venv/bin/python" -V; cat pyproject.toml "$constraints" scripts/setup.sh; } 2> /dev/null | sha256sum
}

if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.installed" 2> /dev/null)" = "$(fingerprint)" ]; then
    exit 0
fi

python=$(find_python)
if [ -z "$python" ]; then
    can_install_packages || fail "needs Python 3.11 or newer: as root, run \`apt-get install python3 python3-venv\`, or name one with PYTHON=..."
    install_packages python3 python3-venv
    python=$(find_python)
    [ -n "$python" ] || fail "this Debian's python3 is older than 3.11; name a newer one with PYTHON=..."
fi
if ! can_make_venv "$python"; then
    package="$("$python" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")')"
    can_install_packages || fail "$python cannot make virtual environments: as root, run \`apt-get install $package\`"
    install_packages "$package"
    can_make_venv "$python" || fail "$python still cannot make virtual environments; name another one with PYTHON=..."
fi

say "making $venv with $("$python" -V) ($(command -v "$python"))"
"$python" -m venv --clear "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)

say "installing $(grep -c == "$constraints") pinned packages from the Python package index into $venv ($constraints)"
"${pip[@]}" install --constraint "$constraints" --upgrade pip
"${pip[@]}" install --constraint "$constraints" --build-constraint "$constraints" --editable '.[bridge,formats,edge,client]' --group dev

# xdelta3 is compiled here. Without it the pure Python codec does the same work, slower.
if "${pip[@]}" install --constraint "$constraints" --build-constraint "$constraints" --editable '.[xdelta]' > "$venv/xdelta.log" 2>&1; then
    say "xdelta3 compiled and installed"
else
    say "no xdelta3 (no C compiler or no Python headers? see $venv/xdelta.log): going on with the pure Python VCDIFF codec"
fi

fingerprint > "$venv/.installed"
say "done"
