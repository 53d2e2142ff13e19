"""Planners without training: endpoint error at the same number of evaluations, and what each plan cost to make"""
import time
from common import *
from boss_nb.core import noise
from boss_nb.flow.data import image_mixture
from boss_nb.flow.nets import digits_teacher
from boss_nb.sample.schedule import as_knots, Schedule
from boss_nb.plan.costs import calibrate, error_growth
from boss_nb.plan.choose import best_schedule
from boss_nb.plan.refine import Trial
from boss_nb.plan.published import make_schedule
from boss_nb.judge.measure import endpoint, measure, Run

class Planners:
    "A flow, its calibration, and the noise that planners try schedules on"
    def __init__(self, v, shape, a):
        n, N, self.v = 16 if a.quick else 100, 20 if a.quick else 100, v
        def draw(split, k, seed=0): return noise(k, shape, split, seed, a.device)
        z, start = draw('calibrate', n), now(a.device)
        self.cal = calibrate(v, z, N, progress=False)
        counted = Trial(v, z)
        self.cal.growth = error_growth(counted.v, z, self.cal.t, 3 if a.quick else 7)
        self.seconds = now(a.device)-start
        self.evaluations = self.cal.meta['evaluations']+counted.evaluations
        self.states = Trial(v, z[:32], teacher_steps=N)                          # for those that look at states
        self.decide, self.fit = (Trial(v, draw('choose', 4*n, s), teacher_steps=N, batch_size=500) for s in (0, 1))

    def ways(self, k, quick):
        "(name, function that makes the schedule) of k steps"
        def named(n): return lambda: make_schedule(n, k, self.cal, self.states)
        yield 'equal steps', named('uniform')
        for n in ('cosine','edm','sharp_euler','gits','oss','boss','weighted'): yield n, named(n)
        yield 'equal steps, ab2', lambda: Schedule(as_knots(k), 'uniform', solver='ab2')
        yield 'multistep plan', named('multistep')
        if quick: return                                           # the rest tries candidates on rollouts: minutes
        yield 'best, Euler', lambda: best_schedule(self.decide, k, self.cal, 'euler', refine_on=self.fit)
        yield 'best', lambda: best_schedule(self.decide, k, self.cal, refine_on=self.fit)

def compare(v, shape, a, ks, n):
    "Rows for one flow, measured on noise that no planner had"
    p, runs = Planners(v, shape, a), []
    for k in ks:
        for name,make in p.ways(k, a.quick):
            start = now(a.device)
            s = make()
            runs.append(Run(f'{name}, {k}', v, s, meta=dict(planner=name, made_s=now(a.device)-start)))
    trial = Trial(v, noise(n, shape, 'test', device=a.device), batch_size=500)
    rows = measure(runs, endpoint(trial, 'error'), batch_size=500, progress=False).rows
    names = dict(schedule='planner', nfe='nfe', error='error', error_se='error_error', made_s='made_s')
    rows = [{k: r[o] for k,o in names.items()} for r in rows]
    return dict(n=n, calibration_s=p.seconds, calibration_evaluations=p.evaluations, rows=rows)

def show(flow, d, ks):
    "Print a table: planners by numbers of steps"
    print(f'\n{flow}: endpoint error, n={d["n"]}\n{"":18}'+''.join(f'{k:>10} NFE' for k in ks))
    for w in dict.fromkeys(r['schedule'] for r in d['rows']):
        print(f'{w:18}'+''.join(f"{r['error']:14.3g}" for r in d['rows'] if r['schedule']==w))

def main():
    a = arguments(__doc__, n=(1000, 'noises to measure on'), budgets=('4,6,8', 'numbers of steps'))
    start, ks, n = time.time(), [int(k) for k in a.budgets.split(',')], a.n
    if a.quick: ks, n = [3], 32
    flows = {'digits': compare(digits_teacher(a.device), (1,8,8), a, ks, n)}
    if not a.quick and a.device.type=='cpu': flows['exact mixture, D=512'] = compare(image_mixture(0), (512,), a, ks, n)
    for f,d in flows.items(): show(f, d, ks)
    keep(a, 'planners', time.time()-start, flows=flows)

if __name__=='__main__': main()
