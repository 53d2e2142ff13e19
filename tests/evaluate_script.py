"An evaluation for `test_evaluate.py` to spread over processes, kill and continue: evaluate_script.py FOLDER KEY=VALUE..."
import json, sys, time
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
from boss_nb.judge.evaluate import evaluate
from boss_nb.train.processes import join_processes, world
from boss_nb.judge.frechet import digit_stats
from boss_nb.flow.nets import digits_teacher

folder, kw = Path(sys.argv[1]), dict(o.split('=') for o in sys.argv[2:])
join_processes()
class Slow(torch.nn.Module):
    def __init__(self): super().__init__(); self.v = digits_teacher()
    def forward(self, x, t, y=None):
        if t[0]==0: print('batch', flush=True); time.sleep(float(kw.get('sleep', 0)))
        if kw.get('fail') and world()[0]==int(kw['fail']) : raise RuntimeError('told to fail')
        return self.v(x, t)
n = int(kw.get('n', 230))
import boss_nb.judge.evaluate as E
if kw.get('often'): put = E._Folder.put; E._Folder.put = lambda self, sums, patience=0.: put(self, sums, 0.)
r = evaluate(Slow(), 3, digit_stats(), n=n, batch_size=int(kw.get('bs', 40)), folder=None if kw.get('plain') else folder/'run', keep=True, cond=dict(y=torch.arange(n)%10))
if world()[0]==0:
    np.savez(folder/'result.npz', mu=r.stats.mu, sigma=r.stats.sigma, features=r.features.numpy(), images=r.images.numpy())
    (folder/'result.json').write_text(json.dumps(r.to_dict() | dict(world=world()[1], made=r.made)))
