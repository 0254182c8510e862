#!/usr/bin/env bash
# One entry for a fresh machine. Needs Python >= 3.11; everything else goes into a virtual environment of its own.
#
#   ./bitsr.sh demo [OPTIONS]   set up, then compress, pack and run the bundled model on the bundled picture
#   ./bitsr.sh test [OPTIONS]   set up, then run the tests; OPTIONS go to pytest
#   ./bitsr.sh check            set up, then lint, formatting and types
#
# BITSR_VENV=DIR   place of the environment (default: .venv)      PYTHON=...   the interpreter to build it with
set -euo pipefail
start=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
venv=${BITSR_VENV:-.venv}

usage() { sed -n '2,8s/^# \{0,1\}//p' bitsr.sh; }

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python >= 3.11 with the venv module found; install one or set PYTHON" >&2
    exit 1
}

# What an environment is made from; the native engine is compiled when it is installed.
sources() { find pyproject.toml constraints.txt native -type f -print0 | LC_ALL=C sort -z | xargs -0 cat; }

# setup EXTRAS: an environment with this checkout and its pinned packages; nothing is done when it is already there.
setup() {
    local stamp="$venv/.bitsr-$1"
    if [ -f "$stamp" ] && sources | cmp -s - "$stamp"; then
        return
    fi
    local python
    python=$(find_python)
    echo "bitsr: setting up $venv (once; the download takes a few minutes)" >&2
    "$python" -m venv "$venv"
    local pins="$PWD/constraints.txt"
    PIP_CONSTRAINT=$pins PIP_BUILD_CONSTRAINT=$pins \
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$1]"
    sources > "$stamp"
}

command=${1:-}
[ $# -eq 0 ] || shift
case "$command" in
    demo)
        setup torch
        venv=$(cd "$venv" && pwd)
        cd "$start"
        "$venv/bin/python" -m bitsr demo "$@"
        ;;
    test)
        setup torch,dev
        OMP_NUM_THREADS=1 "$venv/bin/python" -m pytest -n 2 "$@"
        ;;
    check)
        setup torch,dev
        "$venv/bin/ruff" check .
        "$venv/bin/ruff" format --check .
        "$venv/bin/mypy"
        ;;
    -h | --help | help)
        usage
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac
