"What calibration costs: over the teacher's bare evaluations, of the dynamic programme, and against the loop over pairs it replaces"
import time
from common import *
from boss_nb.plan.costs import calibrate, gram_each, jump_costs
from boss_nb.core import noise
from boss_nb.flow.nets import UNet
from boss_nb.sample.schedule import as_knots
from boss_nb.sample.solvers import sample
from boss_nb.flow.nets import digits_teacher

def overhead(v, z, a, reps):
    "Calibration over sampling the same noise in the same steps; and planning every budget to 20"
    N = 10 if a.quick else 100
    got = lambda **kw: calibrate(v, z, n_steps=N, progress=False, **kw)
    cal = got()
    return dict(shape=list(z.shape[1:]), n=len(z), n_steps=N, parameters=sum(p.numel() for p in v.parameters()), ratio=ratio(lambda: got().cost, lambda: sample(v, z, N), a.device, reps),
                ratio_with_probes=ratio(lambda: got(probe=7).cost, lambda: sample(v, z, N), a.device, max(1, reps//2)), all_budgets_ms=1000*best(lambda: got_plans(cal), torch.device('cpu')))

def got_plans(cal):
    cal._tables.clear()                                              # as if nobody had asked yet
    return cal.schedules(range(1, min(20, cal.n_steps)+1))

def pairs(a, reps):
    "Costs from states and velocities in memory: the definition, pair by pair, and ours"
    N, n, D = (20, 20, 64) if a.quick else (100, 100, 3072)
    g = torch.Generator().manual_seed(0); V = torch.randn(N, n, D, generator=g).mul_(.1).cumsum(0); X = torch.cat([torch.zeros(1,n,D), V.div(N).cumsum(0)]).to(a.device); V = V.to(a.device)
    t = as_knots(N); h = t.tolist()
    def loop(dtype=torch.float32):
        c = torch.zeros(N+1, N+1, dtype=dtype, device=a.device)
        for i in range(N):
            for j in range(i+1, N+1): c[i,j] = (X[i]+(h[j]-h[i])*V[i]-X[j]).to(dtype).pow(2).sum(1).mean()
        return c
    A = torch.empty(n, N-1, D, device=a.device)
    def ours():
        for k in range(1, N): torch.sub(V[k], V[k-1], out=A[:,k-1])
        return jump_costs(gram_each(A).mean(0), t)
    want, have = loop(torch.float64).cpu(), ours(); up = torch.ones(N+1, N+1).triu(2).bool()
    off = ((have-want)[up].abs()/want[up]).max().item()
    if off > 1e-2: raise SystemExit(f'costs differ by {off:.2g}: no time was taken')
    return dict(setting=f'N={N}, n={n}, D={D}, float32 trajectories in memory', loop_over_ours=ratio(loop, ours, a.device, reps), largest_difference=off)

a = arguments(__doc__); start = time.time(); gpu = a.device.type=='cuda'
rows = dict(digits=overhead(digits_teacher().to(a.device), noise(10 if a.quick else 100, (1,8,8), device=a.device), a, 2 if a.quick else 7))
if gpu: rows['U-Net, 32x32'] = overhead(UNet(3, 128).to(a.device).eval().requires_grad_(False), noise(64, (3,32,32), device=a.device), a, 3)
for k,r in rows.items(): print(f"{k}: calibration over bare evaluations {r['ratio']['median']:.3f}, with probes {r['ratio_with_probes']['median']:.3f}; plans for every budget in {r['all_budgets_ms']:.1f} ms")
p = pairs(a, 2 if a.quick else 5); print(f"loop over pairs: {p['loop_over_ours']['median']:.1f} times as long")
keep(a, 'calibration', time.time()-start, models=rows, pairs=p)
