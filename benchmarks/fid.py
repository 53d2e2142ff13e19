"""How many images a second judging takes: ours, the bare network, and torch-fidelity with the same weights"""
import time
from common import *
from boss_nb.core import noise
from boss_nb.judge.frechet import digit_features, to_uint8
from boss_nb.judge.evaluate import throughput
from boss_nb.judge.extractors import inception_features
from other_tools import fidelity

def inception(a, size, n, bs):
    "A row: images per second by us and by torch-fidelity"
    reps = 1 if a.quick else 3
    ours = throughput(inception_features('random', device=a.device), size, n, bs, a.device, reps)
    seconds = best(fidelity(to_uint8(noise(n, size, 'test')).to(a.device), bs), a.device, reps, wall)
    return dict(what='Inception (random weights)', **ours, torch_fidelity_images_per_s=n/seconds)

def sizes(a):
    "(shape of an image, images, batch)"
    if a.device.type=='cuda' and not a.quick: return ((3,32,32), 10_000, 256), ((3,256,256), 5000, 128)
    return ((3,32,32), 8 if a.quick else 64, 16),

def show(r):
    other = f", torch-fidelity {r['torch_fidelity_images_per_s']:.1f} images/s" if 'torch_fidelity_images_per_s' in r else ''
    own = f"{r['images_per_s']:.1f} images/s, network's share {r['network_share']:.2f}"
    print(f"{r['what']}, {tuple(r['size'])}: {own}{other}")

def main():
    a, start = arguments(__doc__), time.time()
    own = throughput(digit_features(), (1,8,8), 200 if a.quick else 10_000, 500, a.device)
    rows = [dict(what='digits classifier', **own)]
    try: import torch_fidelity
    except ImportError: print("Inception needs pip install 'boss_nb[fid]': left out")
    else: rows += [inception(a, *o) for o in sizes(a)]
    for r in rows: show(r)
    keep(a, 'fid', time.time()-start, clock='wall', rows=rows)

if __name__=='__main__': main()
