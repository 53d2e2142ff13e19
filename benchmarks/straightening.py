"""Straightening and other methods on the digits teacher: the same teacher data and training steps, several seeds"""
import time
from copy import deepcopy
from common import *
from boss_nb.core import noise
from boss_nb.flow.data import digits
from boss_nb.flow.nets import digits_teacher
from boss_nb.sample.schedule import uniform
from boss_nb.plan.costs import calibrate, error_growth
from boss_nb.plan.choose import best_schedule
from boss_nb.plan.refine import Trial
from boss_nb.train.loop import fit_method
from boss_nb.train.states import knot_union, refine, States, teacher_states
from boss_nb.train.straighten import straighten
from boss_nb.train.reflow import KDistil, Reflow
from boss_nb.judge.frechet import digit_features
from boss_nb.judge.measure import endpoint, frechet_to, measure, Run

shape = (1,8,8)

def plans_of(v, k, a):
    "Equal steps, the paper's plan, and the best one for Euler steps"
    z = noise(20 if a.quick else 100, shape, 'calibrate', device=a.device)
    cal = calibrate(v, z, 20 if a.quick else 100, progress=False)
    cal.growth = error_growth(v, z, cal.t)
    decide = Trial(v, noise(32 if a.quick else 128, shape, 'choose', device=a.device))
    return dict(uniform=uniform(k), boss=cal.schedule(k), best=best_schedule(decide, k, cal, 'euler'))

class Training:
    "The ways to train on the teacher's states of one seed"
    def __init__(self, v, plans, seed, a):
        self.v, self.plans, self.seed, self.a, ps = v, plans, seed, a, list(plans.values())
        self.valid, grid = min(64, a.trajectories//4), refine(ps, 16)
        kept, z = knot_union(ps, grid), noise(a.trajectories, shape, 'train', seed, a.device)
        self.evaluations = (len(grid)-1)*a.trajectories
        self.states = States.of(teacher_states(v, z, kept, grid, 'ab2', progress=False), grid[kept])
    def straightened(self, plan, lora=None, lr=3e-4):
        fit = dict(n_iter=self.a.iterations, bs=64, valid=self.valid, seed=self.seed, progress=False)
        return straighten(self.v, self.plans[plan], noise(2, shape), lora, lr=lr, states=self.states, **fit)
    def fitted(self, method):
        net, fit = deepcopy(self.v).requires_grad_(True), dict(valid=self.valid, seed=self.seed, progress=False)
        return fit_method(net, method, self.a.iterations, 64, 3e-4, **fit).model.net
    def ways(self, k):
        "(name, function that trains, name of the plan)"
        yield 'straightened, equal steps', lambda: self.straightened('uniform'), 'uniform'
        yield "straightened, the paper's plan", lambda: self.straightened('boss'), 'boss'
        yield 'straightened, best plan', lambda: self.straightened('best'), 'best'
        yield 'straightened, best plan, LoRA of rank 8', lambda: self.straightened('best', 8, 3e-3), 'best'
        yield 'k-distillation', lambda: self.fitted(KDistil(self.states, k)), 'uniform'
        yield 'reflow', lambda: self.fitted(Reflow(self.states)), 'uniform'

def trained(training, k, device):
    "A `Run` for each way to train"
    for name,make,plan in training.ways(k):
        start = now(device)
        u = make()
        yield Run(name, u, training.plans[plan], meta=dict(seed=training.seed, train_s=now(device)-start))

def main():
    a = arguments(__doc__, nfe=(4, 'number of steps'), iterations=(300, 'training steps'), seeds=(2, 'seeds'),
                  trajectories=(5000, 'teacher trajectories per seed'), n=(1797, 'noises to measure on'))
    if a.quick: a.iterations, a.seeds, a.trajectories, a.n = 3, 1, 80, 64
    start, v, feat = time.time(), digits_teacher(a.device), digit_features()
    plans, rows = plans_of(v, a.nfe, a), []
    trial = Trial(v, noise(a.n, shape, 'test', device=a.device), batch_size=500)
    judges = [endpoint(trial, 'error'), frechet_to(digits()[0], feat, 'fd_real')]
    def put(run):
        r, = measure(run, judges, progress=False).rows
        rows.append(dict(method=r['label'], **{k: r.get(k) for k in ('seed','train_s','nfe','error','fd_real')}))
        print(f"{r['label']}: endpoint error {r['error']:.4f}, Fréchet distance {r['fd_real']:.2f}", flush=True)
    for n,s in plans.items(): put(Run(f'untrained, {n}', v, s))
    put(Run('teacher', v, uniform(100)))
    for seed in range(a.seeds):
        training = Training(v, plans, seed, a)
        for run in trained(training, a.nfe, a.device): put(run)
    keep(a, 'straightening', time.time()-start, nfe=a.nfe, iterations=a.iterations, bs=64, trajectories=a.trajectories,
         teacher_evaluations=training.evaluations, n=a.n, extractor=feat.name, rows=rows)

if __name__=='__main__': main()
