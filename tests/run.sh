#!/usr/bin/env bash
# All checks. Makes its own environment in .venv-test (ignored by git); `--here` uses the active one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
. tests/install.sh
step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }
export PIP_DISABLE_PIP_VERSION_CHECK=1

if [ "${1:-}" != --here ]; then
    py=${PYTHON:-$(command -v python3.11 || command -v python3)}
    step "environment: $($py --version) in .venv-test"
    [ -x .venv-test/bin/python ] || "$py" -m venv .venv-test
    . .venv-test/bin/activate
    pip install -q uv || true
    install uv .venv-test/bin/python -e '.[dev]'
    python -W ignore -c 'import boss_nb.judge.measure, boss_nb.share.cli, boss_nb.share.pipelines, boss_nb.share.monitor, boss_nb.share.trajectories, boss_nb.train.reflow, peft'     # compiled here once, not by all workers at the same time
fi

if [ ! -d /usr/share/datasets/fashion-mnist ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    step 'Fashion-MNIST'
    { apt-get update -q && apt-get install -y -q --no-install-recommends dataset-fashion-mnist; } >/dev/null 2>&1 || echo 'Fashion-MNIST could not be installed: what needs it is skipped, and says so'
fi

step 'notebooks are clean and executed without errors'
python tools/check_nbs.py

step 'the package and the README are what the notebooks say'
python tools/check_export.py
python tools/readme.py --check

step 'nbdev_test'
workers=$(nproc); [ "$workers" -le 4 ] || workers=4
export OMP_NUM_THREADS=1                 # processes run side by side: one thread each
export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296   # glibc: keep memory between layers instead of faulting it in again
nbdev_test --timing --n_workers "$workers"
unset OMP_NUM_THREADS

step 'sdist and wheel, in a fresh environment with the newest dependencies; documentation site'
log=$(mktemp)
OMP_NUM_THREADS=1 bash tests/wheel.sh >"$log" 2>&1 & wheel=$!                      # mostly waits for files, while the site is made
if [ -z "$(command -v chromium chromium-browser google-chrome)" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -q && apt-get install -y -q --no-install-recommends chromium; } >/dev/null 2>&1 || echo 'no Chromium could be installed: the browser tests will be skipped'
fi
site=0; python tools/build_docs.py || site=$?
wait "$wheel" || { cat "$log"; exit 1; }
cat "$log"; rm "$log"; [ "$site" = 0 ]

step pytest
OMP_NUM_THREADS=1 BOSS_SITE=$root/_docs python -m pytest tests -q -n "$workers" --dist worksteal --durations 12
