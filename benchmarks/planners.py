"Planners against each other without training: endpoint error at the same number of evaluations, and what each plan cost to make"
import time
from common import *
from boss_nb.sample.schedule import Schedule
from boss_nb.plan.costs import calibrate
from boss_nb.core import CountNFE, noise
from boss_nb.flow.data import image_mixture
from boss_nb.sample.schedule import as_knots
from boss_nb.sample.solvers import sample
from boss_nb.sample.schedule import uniform
from boss_nb.plan.published import make_schedule
from boss_nb.flow.nets import digits_teacher

def ways(k, quick=False):
    yield 'equal steps', lambda c: uniform(k)
    for n in ('cosine','edm','sharp_euler','gits','oss','boss','weighted'): yield n, lambda c, n=n: make_schedule(n, k, c)
    yield 'equal steps, ab2', lambda c: Schedule(as_knots(k), 'uniform', solver='ab2')
    yield 'multistep plan', lambda c: c.schedule(k, 'multistep')
    if quick: return                                           # the rest tries candidates on rollouts: minutes
    yield 'best, Euler', lambda c: c.schedule(k, 'best', solver='euler')
    yield 'best', lambda c: c.schedule(k, 'best')

def compare(v, shape, a, ks, n):
    "Rows for one flow; judged on noise that no planner saw"
    small = 16 if a.quick else 100; count = CountNFE(v)
    t0 = now(a.device); cal = calibrate(count, noise(small, shape, device=a.device), n_steps=20 if a.quick else 100, probe=3 if a.quick else 7, progress=False); spent = now(a.device)-t0
    z = noise(n, shape, start=3*10**8, device=a.device); end = sample(v, z, 100, batch_size=500); rows = []
    for k in ks:
        for name,make in ways(k, a.quick):
            t0 = now(a.device); s = make(cal); made = now(a.device)-t0
            e = (sample(v, z, s, batch_size=500)-end).double().flatten(1).pow(2).mean(1)
            rows.append(dict(schedule=name, nfe=s.nfe, error=e.mean().item(), error_se=(e.std()/n**.5).item(), made_s=made))
    return dict(n=n, calibration_s=spent, calibration_evaluations=count.nfe, rows=rows)

a = arguments(__doc__, n=(1000, 'noises that judge'), budgets=('4,6,8', 'numbers of steps')); start = time.time(); ks, n = ((3,), 32) if a.quick else (list(map(int, a.budgets.split(','))), a.n)
flows = {'digits': compare(digits_teacher().to(a.device), (1,8,8), a, ks, n)}
if not a.quick: flows['exact mixture, D=512'] = compare(image_mixture(0), (512,), a, ks, n) if a.device.type=='cpu' else None
flows = {k:o for k,o in flows.items() if o}
for f,d in flows.items():
    print(f'\n{f}: endpoint error, n={d["n"]}\n{"":18}'+''.join(f'{k:>10} NFE' for k in ks))
    for w,_ in ways(3, a.quick): print(f'{w:18}'+''.join(f"{next(r['error'] for r in d['rows'] if (r['schedule'],r['nfe'])==(w,k)):14.3g}" for k in ks))
keep(a, 'planners', time.time()-start, flows=flows)
