"How many images a second judging takes: ours, the bare network, and torch-fidelity on the same images with the same weights"
import io, time
from common import *
from boss_nb.core import noise
from boss_nb.metrics import to_uint8
from boss_nb.evaluate import throughput
from boss_nb.extractors import inception_features, random_inception
from boss_nb.metrics import digit_features

def rival(size, n, bs, device):
    "torch-fidelity's network with the same random weights, and its sums"
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics
    torch.save(random_inception(), f := io.BytesIO()); f.seek(0)
    net = FeatureExtractorInceptionV3('inception', ['2048'], feature_extractor_weights_path=f).to(device); x = to_uint8(noise(n, size)).to(device)
    return lambda: fid_features_to_statistics(torch.cat([net(b)[0] for b in x.split(bs)]).cpu())

a = arguments(__doc__); start = time.time(); gpu = a.device.type=='cuda'
rows = [dict(what='digits classifier', **throughput(digit_features(), (1,8,8), 200 if a.quick else 10_000, 500, a.device))]
try: import torch_fidelity
except ImportError: print("Inception needs pip install 'boss_nb[fid]': left out")
else:
    for size,n,bs in (((3,32,32), 10_000, 256), ((3,256,256), 5000, 128)) if gpu and not a.quick else (((3,32,32), 8 if a.quick else 64, 16),):
        ours = inception_features('random', device=a.device); r = throughput(ours, size, n, bs, a.device, 1 if a.quick else 3)
        rows.append(dict(what='Inception (random weights)', **r, torch_fidelity_images_per_s=n/best(rival(size, n, bs, a.device), a.device, 1 if a.quick else 3, wall)))
for r in rows: print(f"{r['what']}, {tuple(r['size'])}: {r['images_per_s']:.1f} images/s, network's share {r['network_share']:.2f}" + (f", torch-fidelity {r['torch_fidelity_images_per_s']:.1f} images/s" if 'torch_fidelity_images_per_s' in r else ''))
keep(a, 'fid', time.time()-start, clock='wall', rows=rows)
