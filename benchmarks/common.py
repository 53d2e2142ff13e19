"What the benchmarks share: arguments, clocks, and a JSON that says where it was measured"
import argparse, datetime, json, os, platform, subprocess, sys, time
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here.parent))                            # this checkout, installed or not
import numpy as np, torch
from boss_nb import __version__
from boss_nb.core import default_device
from boss_nb.files import atomic_write

def arguments(doc, **more):
    "`--device --threads --quick --out`, and more as name=(default, help)"
    p = argparse.ArgumentParser(description=doc)
    p.add_argument('--device', default=None, help='cpu, cuda, cuda:1, mps; default the best there is')
    p.add_argument('--threads', type=int, default=None, help="CPU threads, default torch's own")
    p.add_argument('--quick', action='store_true', help='does it run? seconds, and figures that mean nothing')
    p.add_argument('--out', type=Path, default=here/'results', help='folder for the JSON')
    for k,(d,h) in more.items(): p.add_argument(f'--{k}', type=type(d), default=d, help=f'{h}, default {d}')
    a = p.parse_args(); a.device = default_device(a.device)
    if a.threads: torch.set_num_threads(a.threads)
    return a

def now(device):
    "Seconds: on a CPU those of all threads of this process, whatever else the machine does; on an accelerator those on the wall, when it is done"
    if device.type=='cpu': return time.process_time()
    if device.type=='cuda': torch.cuda.synchronize(device)
    return time.perf_counter()

def clock(f, device, now=now):
    "Seconds of one call"
    s = now(device); f(); return now(device)-s

def wall(device):
    if device.type=='cuda': torch.cuda.synchronize(device)
    return time.perf_counter()

def ratio(f, g, device, reps):
    "f's time over g's, run in turn after one round that warms up: the median, and the quartiles"
    f(); g(); r = [clock(f, device)/clock(g, device) for _ in range(reps)]
    return dict(zip(('low','median','high'), map(float, np.quantile(r, (.25,.5,.75)))), rounds=reps)

def best(f, device, reps=5, now=now):
    "Seconds of the fastest of some calls"
    f(); return min(clock(f, device, now) for _ in range(reps))

def processor():
    try: return next(l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name'))
    except (OSError, StopIteration): return platform.processor() or platform.machine()

def commit():
    "The commit of this checkout, `$BOSS_COMMIT` where the tree came without git, else None"
    try: r = subprocess.run(['git','-C',here,'describe','--always','--dirty'], capture_output=True, text=True).stdout.strip()
    except OSError: r = ''
    return r or os.environ.get('BOSS_COMMIT') or None

def where(device):
    "Device, software and commit"
    return dict(device=str(device), name=torch.cuda.get_device_name(device) if device.type=='cuda' else processor(), threads=torch.get_num_threads(), cores=os.cpu_count(),
                clock='CPU time of all threads' if device.type=='cpu' else 'wall', torch=torch.__version__, boss_nb=__version__, python=platform.python_version(), commit=commit(), date=str(datetime.date.today()))

def keep(a, name, seconds, **d):
    "Write `NAME-DEVICE.json`, whole or not at all, and say where"
    f = a.out/f'{name}-{a.device.type}{"-quick" if a.quick else ""}.json'; f.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(f) as tmp: tmp.write_text(json.dumps(dict(benchmark=name, **where(a.device), quick=a.quick, seconds=round(seconds,1)) | d, indent=1)+'\n')
    print(f'written: {f} ({seconds:.0f} s)')
