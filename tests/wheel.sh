#!/usr/bin/env bash
# Builds sdist and wheel into dist/, installs the wheel into a fresh environment with the newest dependencies and uses it there.
# `wheel.sh VERSION` also wants that version, in the package and in the changelog.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD py=${PYTHON:-python3}
. tests/install.sh
export PIP_DISABLE_PIP_VERSION_CHECK=1
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"$py" -m venv "$work/build"
"$work/build/bin/pip" install -q build
"$work/build/bin/pip" install -q uv || true
rm -rf dist
"$work/build/bin/python" -m build -o dist . >"$work/build.log" 2>&1 || { tail -40 "$work/build.log"; exit 1; }   # the wheel is made from the sdist: both are complete
"$work/build/bin/python" tests/check_dist.py dist "$@"
"$py" -m venv "$work/env"
install "$work/build/bin/uv" "$work/env/bin/python" dist/boss_nb-*.whl
cd "$work" && env/bin/boss_demo --quick --out demo && env/bin/python "$root/tests/use_wheel.py" "$root"
