"Straightening against its rivals on the digits teacher: the same teacher data, the same number of training steps, several seeds"
import time
from copy import deepcopy
from common import *
from boss_nb.plan.costs import calibrate
from boss_nb.core import noise
from boss_nb.flow.data import digits
from boss_nb.train.loop import fit_method
from boss_nb.judge.frechet import digit_features, feature_stats, frechet
from boss_nb.train.reflow import KDistil, Reflow
from boss_nb.sample.solvers import sample
from boss_nb.sample.schedule import uniform
from boss_nb.plan.choose import best_schedule
from boss_nb.train.states import knot_union, refine, States, teacher_states
from boss_nb.train.straighten import straighten
from boss_nb.flow.nets import digits_teacher

a = arguments(__doc__, nfe=(4, 'number of steps'), iterations=(300, 'training steps'), seeds=(2, 'seeds'), trajectories=(5000, 'teacher trajectories per seed'), n=(1797, 'noises that judge'))
start, dev, k = time.time(), a.device, a.nfe
if a.quick: a.iterations, a.seeds, a.trajectories, a.n = 3, 1, 80, 64
v, feat, (real, _) = digits_teacher().to(dev), digit_features(), digits()
cal = calibrate(v, noise(20 if a.quick else 100, (1,8,8), device=dev), n_steps=20 if a.quick else 100, probe=7, progress=False)
zc = noise(32 if a.quick else 128, (1,8,8), start=30_000, device=dev)
plans = dict(uniform=uniform(k), boss=cal.schedule(k), best=best_schedule(v, zc, k, cal, 'euler'))
z = noise(a.n, (1,8,8), start=20_000, device=dev); end = sample(v, z, 100, batch_size=500); ref = feature_stats(real, feat)
def judge(u, s):
    x = end if u is v and s.nfe==100 else sample(u, z, s, batch_size=500); return dict(nfe=s.nfe, error=(x-end).double().pow(2).mean().item(), fd_real=frechet(feature_stats(x, feat), ref))
rows = [dict(method=f'untrained, {n}', seed=None, **judge(v, s)) for n,s in plans.items()] + [dict(method='teacher', seed=None, **judge(v, uniform(100)))]

grid = refine(list(plans.values()), 16); keep_ = knot_union(list(plans.values()), grid)
for seed in range(a.seeds):
    x = States.of(teacher_states(v, noise(a.trajectories, (1,8,8), start=10**6*(seed+1), device=dev), keep_, grid, 'ab2', progress=False), grid[keep_])
    def boss(plan, **kw): return straighten(v, plans[plan], noise(2, (1,8,8)), **dict(states=x, n_iter=a.iterations, bs=64, lr=3e-4, valid=min(64, a.trajectories//4), seed=seed, progress=False) | kw)
    def fit(m): return fit_method(deepcopy(v).requires_grad_(True), m, a.iterations, 64, 3e-4, valid=min(64, a.trajectories//4), seed=seed, progress=False).model.net
    for name,make,s in (('straightened, equal steps', lambda: boss('uniform'), 'uniform'), ("straightened, the paper's plan", lambda: boss('boss'), 'boss'), ('straightened, best plan', lambda: boss('best'), 'best'),
                        ('straightened, best plan, LoRA of rank 8', lambda: boss('best', rank=8, lr=3e-3), 'best'), ('k-distillation', lambda: fit(KDistil(x, k)), 'uniform'), ('reflow', lambda: fit(Reflow(x)), 'uniform')):
        t0 = now(dev); u = make(); spent = now(dev)-t0
        rows.append(dict(method=name, seed=seed, train_s=spent, **judge(u, plans[s]))); print(f"{name}, seed {seed}: endpoint error {rows[-1]['error']:.4f}, Fréchet distance {rows[-1]['fd_real']:.2f}, {spent:.0f} s", flush=True)
keep(a, 'straightening', time.time()-start, nfe=k, iterations=a.iterations, bs=64, trajectories=a.trajectories, teacher_evaluations=(len(grid)-1)*a.trajectories, n=len(z), extractor=feat.name, rows=rows)
