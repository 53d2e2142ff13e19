"Run by tests/run.sh with the python of a fresh environment: use the installed wheel as a newcomer would"
import json, subprocess, sys
from importlib.metadata import files, metadata, version
from pathlib import Path

import boss_nb
root = Path(sys.argv[1])
assert root not in Path(boss_nb.__file__).resolve().parents, boss_nb.__file__
import torch
from torch import nn
from boss_nb.core import noise
from boss_nb.plan.costs import calibrate
from boss_nb.sample.solvers import sample
from boss_nb.plan.refine import Trial
print('  '.join(f'{o} {version(o)}' for o in ('torch','torchvision','fastai','fastcore','peft','safetensors','scikit-learn')))
from boss_nb.train.straighten import straighten

class Mine(nn.Module):
    "A curved velocity a newcomer might bring: dx/dt turns with time"
    def __init__(self): super().__init__(); self.w = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 2))
    def forward(self, x, t): return self.w(torch.cat([x, t[:,None]], 1)) + 2*torch.sin(6*t)[:,None]*x.flip(1)

torch.manual_seed(0)
net = Mine().requires_grad_(False)
plan = calibrate(net, noise(50, (2,), 'calibrate'), progress=False).schedule(4)
student = straighten(net, plan, noise(200, (2,)), n_iter=400, lr=3e-3, progress=False)
trial = Trial(net, noise(50, (2,), 'test'))
z, end = trial.noise, trial.end
before, after = (Trial(v, z, end).error(plan) for v in (net, student))
assert after < .7*before, (before, after)

demo = json.loads(Path('demo/results.json').read_text())
fd = {r['label']: r['fd_real'] for r in demo['rows']}
assert fd['planned'] < fd['uniform'] and fd['straightened (full)'] < fd['uniform'], fd
for f in ('digits.png','plan.json','adapter.safetensors'): assert (Path('demo')/f).stat().st_size > 0
for s in ('boss_demo','boss_plan','boss_straighten','boss_sample','boss_fid','boss_evaluate'):
    r = subprocess.run([Path(sys.executable).parent/s, '--help'], capture_output=True, text=True)
    assert r.returncode==0 and '--seed' in r.stdout and '--json' in r.stdout, (s, r.stderr)
r = subprocess.run([sys.executable, '-m', 'boss_nb', '--version'], capture_output=True, text=True); assert r.stdout.startswith(f'boss_nb {version("boss_nb")}, torch '), r
names = {str(f) for f in files('boss_nb')}
for n in ('boss_nb/weights/digits_stats.npz','boss_nb/weights/digits_unet.safetensors','boss_nb/weights/digits_classifier.safetensors','boss_nb/py.typed'): assert n in names, n
assert any('LICENSE' in n for n in names)
assert 'diffusers' in metadata('boss_nb').get_all('Provides-Extra')
import boss_nb.share.lora, boss_nb.share.tiny                                          # without the extra: it imports, and a call says what to do
assert 'diffusers' not in sys.modules
try: boss_nb.share.tiny.tiny_sd3()
except ImportError as e: assert 'pip install boss_nb[diffusers]' in str(e), e
else: raise AssertionError('diffusers was there without the extra')
from boss_nb.judge.evaluate import evaluate
from boss_nb.judge.frechet import digit_stats
from boss_nb.flow.nets import digits_teacher
fd = {k: evaluate(digits_teacher(), k, digit_stats(), n=200, progress=False) for k in (2,8)}   # the reference is in the wheel
assert fd[8].value < fd[2].value and fd[8].name=='FD-200' and fd[8].protocol['nfe']==8, fd
from boss_nb.judge.extractors import inception_features
try: inception_features('random')
except ImportError as e: assert 'pip install boss_nb[fid]' in str(e), e
else: raise AssertionError('torch-fidelity was there without the extra')
from boss_nb.share.bundle import Bundle
Bundle(student, base=None).save_pretrained('bundle')
assert Trial(Bundle.from_pretrained('bundle', base=net), z, end).error(plan)==after
print(f'wheel works: endpoint error {before:.3g} → {after:.3g}, demo --quick {demo["seconds"]:.0f} s')
