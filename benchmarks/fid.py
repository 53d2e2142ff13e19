"How many images a second judging takes: ours, the bare network, and torch-fidelity on the same images with the same weights"
import time
from common import *
from boss_nb.core import noise
from boss_nb.judge.frechet import to_uint8
from boss_nb.judge.evaluate import throughput
from boss_nb.judge.extractors import inception_features
from boss_nb.judge.frechet import digit_features
from rivals import fidelity

a = arguments(__doc__); start = time.time(); gpu = a.device.type=='cuda'
rows = [dict(what='digits classifier', **throughput(digit_features(), (1,8,8), 200 if a.quick else 10_000, 500, a.device))]
try: import torch_fidelity
except ImportError: print("Inception needs pip install 'boss_nb[fid]': left out")
else:
    for size,n,bs in (((3,32,32), 10_000, 256), ((3,256,256), 5000, 128)) if gpu and not a.quick else (((3,32,32), 8 if a.quick else 64, 16),):
        ours = inception_features('random', device=a.device); r = throughput(ours, size, n, bs, a.device, 1 if a.quick else 3)
        theirs = fidelity(to_uint8(noise(n, size)).to(a.device), bs)
        rows.append(dict(what='Inception (random weights)', **r, torch_fidelity_images_per_s=n/best(theirs, a.device, 1 if a.quick else 3, wall)))
for r in rows: print(f"{r['what']}, {tuple(r['size'])}: {r['images_per_s']:.1f} images/s, network's share {r['network_share']:.2f}" + (f", torch-fidelity {r['torch_fidelity_images_per_s']:.1f} images/s" if 'torch_fidelity_images_per_s' in r else ''))
keep(a, 'fid', time.time()-start, clock='wall', rows=rows)
