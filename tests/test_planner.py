"The planner: properties against brute force, sharing the work between processes, memory, files"
import itertools, json, math, os, textwrap
from pathlib import Path
import numpy as np, pytest, torch
import forks
from hypothesis import given, settings, strategies as st
from boss_nb.sample.schedule import Schedule
from boss_nb.plan.paths import path_tables, shortest_path
from boss_nb.plan.costs import calibrate, Calibration, gram_each, jump_costs
from boss_nb.core import CountNFE, noise, run_batches
from boss_nb.flow.data import GaussianMixture, image_mixture, moons, ring
from boss_nb.flow.velocity import guided
from boss_nb.plan.multistep import fit_coefs, pair_costs, pair_path, pair_tables, refine_schedule
from boss_nb.sample.schedule import as_knots
from boss_nb.sample.solvers import ab2_coefs, sample
from boss_nb.sample.schedule import rivals, uniform
from boss_nb.plan.choose import accept_refined, best_schedule, endpoint_error
from boss_nb.plan.published import compare_schedules, make_schedule, planners

gm = moons(dtype=torch.float64)
z = noise(40, (2,), dtype=torch.float64)

@settings(max_examples=25, deadline=None)
@given(st.integers(3, 8), st.integers(0, 10**6), st.booleans())
def test_pair_program_equals_brute_force(N, seed, fitted):
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(N-1, 3, generator=g, dtype=torch.float64); t = torch.cat([torch.zeros(1), torch.rand(N, generator=g, dtype=torch.float64)+.05]).cumsum(0); t = (t/t[-1]).double(); t[-1] = 1
    E = A@A.T; c, C = jump_costs(E, t), pair_costs(E, t, fitted); tabs = pair_tables(C, N)
    for s in range(N):
        for k in range(1, N-s+1):
            want = min(c[p[0],p[1]].item()+sum(C[a,b,d].item() for a,b,d in zip(p, p[1:], p[2:])) for m in itertools.combinations(range(s+1,N), k-1) for p in [(s,*m,N)])
            p, total = pair_path(c, tabs, k, s)
            assert total == pytest.approx(want, abs=1e-12) and len(p)==k+1 and p[0]==s and p[-1]==N

@settings(max_examples=25, deadline=None)
@given(st.integers(3, 10), st.integers(0, 10**6))
def test_costs_with_correction_rows(N, seed):
    "Any teacher with effective velocities w and student velocities v: costs from the definition"
    g = torch.Generator().manual_seed(seed); r = lambda *o: torch.randn(*o, generator=g, dtype=torch.float64)
    w, b, x0 = r(N,4), r(N,4), r(4)
    t = torch.cat([torch.zeros(1), torch.rand(N, generator=g, dtype=torch.float64)+.05]).cumsum(0); t = (t/t[-1]).double(); t[-1] = 1
    x = torch.cat([x0[None], x0+(w*t.diff()[:,None]).cumsum(0)])
    rows = torch.cat([w.diff(dim=0), b])
    c = jump_costs(rows@rows.T, t)
    for i in range(N):
        for j in range(i+1, N+1): assert c[i,j].item() == pytest.approx((x[i]+(t[j]-t[i])*(w[i]-b[i])-x[j]).pow(2).sum().item(), rel=1e-9, abs=1e-12)

def test_paths_are_the_papers_on_every_budget_and_start():
    cal = calibrate(gm, z, 10, progress=False)
    for s in range(10):
        for k in range(1, 11-s):
            want = min(sum(cal.cost[a,b].item() for a,b in zip(p,p[1:])) for m in itertools.combinations(range(s+1,10), k-1) for p in [(s,*m,10)])
            got = cal.schedule(k, start=float(cal.t[s]))
            assert got.cost == pytest.approx(want, rel=1e-12) and got.knots[0]==cal.t[s] and got.nfe==k

worker = textwrap.dedent('''
    import sys, torch, torch.distributed as dist
    from boss_nb.core import *
    from boss_nb.plan.costs import *
    from boss_nb.flow.data import moons
    dist.init_process_group('gloo')
    gm, n = moons(dtype=torch.float64), int(sys.argv[2])
    y = torch.arange(n, dtype=torch.float64)/n
    c = CountNFE(lambda x, t, y: gm(x, t) + y[:,None])
    cal = calibrate(c, noise(n, (2,), dtype=torch.float64), 30, batch_size=7, probe=3, until=float(sys.argv[3]) if len(sys.argv)>3 else None, progress=False, y=y)
    assert c.samples <= (n+8)//2*30 + 31*n, c.samples      # half of the pass, and the probes
    cal.save(f'{sys.argv[1]}/rank{dist.get_rank()}.safetensors')
    dist.destroy_process_group()
''')

@pytest.mark.parametrize('n,until', [(50,None), (1,None), (200,.02)])
def test_two_processes_make_the_same_plan(tmp_path, n, until):
    (tmp_path/'work.py').write_text(worker)
    r = forks.spread(2, tmp_path/'work.py', tmp_path, n, *([until] if until else [])); assert r.returncode==0, r.stderr[-3000:]
    y = torch.arange(n, dtype=torch.float64)/n
    one = calibrate(lambda x, t, y: gm(x, t) + y[:,None], noise(n, (2,), dtype=torch.float64), 30, probe=3, until=until, progress=False, y=y)
    for r in (0, 1):
        two = Calibration.load(tmp_path/f'rank{r}.safetensors')
        assert two.n==one.n and torch.allclose(two.each, one.each, rtol=1e-12, atol=1e-15) and torch.allclose(two.gain, one.gain, rtol=1e-9)
        assert torch.allclose(two.witness, one.witness, rtol=1e-12)
        for k in range(1, 31): assert (two.schedule(k).knots-one.schedule(k).knots).abs().max() <= 1e-12

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
def test_batch_size_does_not_matter(dtype):
    v = GaussianMixture(noise(5, (3,4), seed=9), .3)
    x = noise(33, (3,4), dtype=dtype)
    a, *rest = (calibrate(v, x, 20, batch_size=b, progress=False) for b in (None, 1, 8, 32))
    for b in rest: assert torch.allclose(a.each, b.each, rtol=1e-3 if dtype!=torch.float64 else 1e-11) and [s.indices for s in a.schedules(range(1,20))]==[s.indices for s in b.schedules(range(1,20))]

def test_memory_that_runs_out_changes_nothing():
    seen = []
    def v(x, t):
        seen.append(len(x))
        if len(x) > 5: raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
        return gm(x, t)
    cal, want = calibrate(v, z, 15, progress=False, probe=2), calibrate(gm, z, 15, progress=False, probe=2)
    assert torch.allclose(cal.each, want.each, rtol=1e-12) and torch.allclose(cal.gain, want.gain, rtol=1e-9) and max(seen)==40
    with pytest.raises(MemoryError, match='batch_size 20 does not fit'): calibrate(v, z, 15, batch_size=20, progress=False)

def test_accelerations_are_chunked(monkeypatch):
    "Coordinates go to float64 in slices; the micro-batch is chosen so that accelerations stay within a gigabyte"
    a = torch.randn(3, 7, 1000, dtype=torch.float64)
    assert torch.allclose(gram_each(a, chunk=200), a@a.transpose(1,2), rtol=1e-12)
    sizes = []
    def v(x, t): sizes.append(len(x)); return -x
    calibrate(v, noise(1, (3,256,256)).expand(6,-1,-1,-1), 100, progress=False)         # 78 MB of accelerations a sample
    assert max(sizes)==6
    import boss_nb.plan.costs as b
    monkeypatch.setattr(b, 'sample_bytes', lambda *a: 2**29); sizes.clear()
    calibrate(v, noise(6, (2,)), 10, progress=False); assert max(sizes)==2

def test_best_is_never_worse_and_much_better():
    v = image_mixture(7, dim=64, k=4)
    cal = calibrate(v, noise(64, (64,)), 50, progress=False)
    zt = noise(400, (64,), start=5*10**6); end = sample(v, zt, 50)
    for k in (1,2,3,4,6,10):
        s = cal.schedule(k, 'best', n=100); e = endpoint_error(v, zt, s, end)
        for o in (uniform(k), cal.schedule(k)): assert e <= endpoint_error(v, zt, o, end)*(1+1e-9)
        c = CountNFE(v); sample(c, zt[:2], s); assert c.nfe==k==s.nfe
        if k > 3: assert e < .3*endpoint_error(v, zt, uniform(k), end)

def test_refined_schedules_are_judged_by_all_samples():
    a = torch.full((200,), .01); b = torch.full((200,), .001); b[0] = 3.              # one sample in another mode decides the bare mean
    assert a.mean() < b.mean() and accept_refined(b, a) and not accept_refined(b, a, [a]) and accept_refined(b, a, [a*10])
    assert accept_refined(a/2, a) and not accept_refined(a*2, a) and not accept_refined(a+.1*torch.rand(200), a)
    assert not accept_refined(torch.ones(1)*2, torch.ones(1))

@pytest.mark.parametrize('name', [*rivals, *planners, 'boss', 'weighted', 'ab2', 'multistep'])
def test_every_schedule_at_every_budget(name):
    cal = calibrate(gm, z, 24, progress=False)
    for k in range(1, 25):
        s = make_schedule(name, k, cal)
        assert s.steps==k and s.knots[0]==0 and s.knots[-1]==1 and torch.isfinite(sample(gm, z[:3], s)).all()

def test_half_precision_plans():
    v = GaussianMixture(noise(5, (16,), seed=3), .4)
    a, b = (calibrate(v, noise(64, (16,), dtype=d), 50, progress=False) for d in (torch.float32, torch.bfloat16))
    for k in range(1, 16): assert a.cost_of(b.schedule(k)) <= 1.05*a.schedule(k).cost
    r = b.schedule(3, 'refined', n=64); assert r.meta['fit_error'][1] <= r.meta['fit_error'][0]

def test_refine_keeps_order_and_gets_better():
    v = image_mixture(3, dim=16, k=3); x = noise(50, (16,)); end = sample(v, x, 50)
    for s in (uniform(5), Schedule(as_knots(5), solver='ab2'), Schedule(as_knots(5), solver='multistep', coefs=ab2_coefs(5))):
        for history in (0, 1, 3):
            r = refine_schedule(v, x, end, s, history)
            assert (r.knots.diff()>0).all() and r.steps==5 and endpoint_error(v, x, r, end) <= endpoint_error(v, x, s, end)*(1+1e-6)
            if s.solver=='euler' and not history: assert r.solver=='euler'
    with pytest.raises(FloatingPointError, match='not finite'): refine_schedule(lambda x,t: v(x,t)*math.nan, x, end, uniform(3))

def test_plan_files_survive_a_full_disk_and_know_their_model(tmp_path, monkeypatch):
    cal = calibrate(gm, z, 12, probe=3, progress=False, meta=dict(seed=0, guidance=2.5)); f = cal.save(tmp_path/'c.safetensors')
    back = Calibration.load(f); old = f.read_bytes()
    assert back.meta['guidance']==2.5 and back.meta['shape']==[2] and back.spent==cal.spent
    for o in ('boss','weighted','ab2','multistep'): assert back.schedule(4, o)==cal.schedule(4, o)
    for bad in (lambda x,t: 1.5*gm(x,t), moons(std=.3, dtype=torch.float64)):
        with pytest.raises(ValueError, match='not the velocity that was calibrated'): Calibration.load(f, v=bad)
    import boss_nb.flow.nets as m
    def full(tensors, path, metadata=None): path.write_bytes(b'half'); raise OSError(28, 'No space left on device')
    monkeypatch.setattr(m, 'save_file', full)
    with pytest.raises(OSError, match='No space'): cal.save(f)
    assert f.read_bytes()==old and os.listdir(tmp_path)==['c.safetensors']

def test_one_call_compares_everything():
    cal = calibrate(gm, z, 16, progress=False)
    rows = compare_schedules(gm, noise(50, (2,), start=999, dtype=torch.float64), cal=cal, nfes=(2,4), n_steps=16)
    assert {r['label'] for r in rows} == {*rivals, *planners, 'boss','weighted','ab2','multistep','refined','best'}
    e = {(r['label'],r['nfe']): r['error'] for r in rows}
    assert e['best',4] <= e['uniform',4] and '| best |' in rows.table()

def test_a_guided_network_runs_twice_and_is_counted_twice():
    gm, y = ring(6), torch.arange(6)
    for scale,runs in ((2., 2), (1., 1)):
        v = CountNFE(guided(lambda x, t, y: gm(x, t), scale, 0))
        cal = calibrate(v, noise(6, (2,)), 10, probe=3, progress=False, y=y)
        assert cal.spent['teacher']==6*10*runs and sum(cal.spent.values())==v.samples
        before = v.samples
        make_schedule('gits', 4, cal); make_schedule('oss', 4, cal); cal.schedule(3, 'best')
        assert sum(cal.spent.values())-(cal.spent['teacher']+cal.spent['probes'])==v.samples-before
