"""What calibration costs: over the teacher's bare evaluations, of the dynamic programme, and against a loop over pairs"""
import time
from common import *
from boss_nb.core import noise
from boss_nb.flow.nets import digits_teacher, n_params, UNet
from boss_nb.sample.schedule import as_knots
from boss_nb.sample.solvers import sample
from boss_nb.plan.costs import calibrate, error_growth, gram_each, jump_costs

def overhead(v, z, a, reps):
    "Calibration over sampling the same noise in the same steps; and planning every budget to 20"
    N = 10 if a.quick else 100
    def calibrated(): return calibrate(v, z, N, progress=False)
    def with_growth():
        cal = calibrated()
        cal.growth = error_growth(v, z, cal.t)
    def bare(): sample(v, z, N)
    cal = calibrated()
    plans = best(lambda: cal.schedules(range(1, min(20, N)+1)), torch.device('cpu'))
    return dict(shape=list(z.shape[1:]), n=len(z), n_steps=N, parameters=n_params(v),
                ratio=ratio(lambda: calibrated().cost, bare, a.device, reps),
                ratio_with_probes=ratio(with_growth, bare, a.device, max(1, reps//2)), all_budgets_ms=1000*plans)

def followed(a):
    "States and velocities of a flow, in memory: shapes `(N+1,n,D)` and `(N,n,D)`"
    N, n, D = (20, 20, 64) if a.quick else (100, 100, 3072)
    V = torch.randn(N, n, D, generator=torch.Generator().manual_seed(0)).mul_(.1).cumsum(0)
    X = torch.cat([torch.zeros(1,n,D), V.div(N).cumsum(0)])
    return X.to(a.device), V.to(a.device)

def by_pairs(X, V, dtype=torch.float32):
    "Costs by their definition, pair by pair"
    N = len(V)
    t, c = as_knots(N).tolist(), torch.zeros(N+1, N+1, dtype=dtype, device=X.device)
    for i in range(N):
        for j in range(i+1, N+1): c[i,j] = (X[i]+(t[j]-t[i])*V[i]-X[j]).to(dtype).pow(2).sum(1).mean()
    return c

def by_gram(V, A):
    "Costs from the Gram matrix of accelerations, which go into `A`"
    for k in range(1, len(V)): torch.sub(V[k], V[k-1], out=A[:,k-1])
    return jump_costs(gram_each(A).mean(0), as_knots(len(V)))

def pairs(a, reps):
    "Costs from states and velocities in memory: pair by pair, and ours"
    X, V = followed(a)
    N, n, D = V.shape
    A = torch.empty(n, N-1, D, device=a.device)
    want, have = by_pairs(X, V, torch.float64).cpu(), by_gram(V, A)
    up = torch.ones(N+1, N+1).triu(2).bool()
    off = ((have-want)[up].abs()/want[up]).max().item()
    if off > 1e-2: raise SystemExit(f'costs differ by {off:.2g}: no time was taken')
    return dict(setting=f'N={N}, n={n}, D={D}, float32 trajectories in memory',
                loop_over_ours=ratio(lambda: by_pairs(X, V), lambda: by_gram(V, A), a.device, reps), largest_difference=off)

def models(a):
    "Networks and noise to calibrate on"
    z = noise(10 if a.quick else 100, (1,8,8), 'calibrate', device=a.device)
    rows = dict(digits=overhead(digits_teacher(a.device), z, a, 2 if a.quick else 7))
    if a.device.type=='cuda':
        net = UNet(3, 128).to(a.device).eval().requires_grad_(False)
        z = noise(64, (3,32,32), 'calibrate', device=a.device)
        rows['U-Net, 32x32'] = overhead(net, z, a, 3)
    return rows

def main():
    a, start = arguments(__doc__), time.time()
    rows = models(a)
    for k,r in rows.items():
        growth = f"with the error growth {r['ratio_with_probes']['median']:.3f}"
        print(f"{k}: calibration over bare evaluations {r['ratio']['median']:.3f}, {growth};",
              f"plans for every budget in {r['all_budgets_ms']:.1f} ms")
    p = pairs(a, 2 if a.quick else 5)
    print(f"loop over pairs: {p['loop_over_ours']['median']:.1f} times as long")
    keep(a, 'calibration', time.time()-start, models=rows, pairs=p)

if __name__=='__main__': main()
