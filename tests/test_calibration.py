"Paths and calibration: against brute force and the definition, memory, several processes, files, what is refused"
import itertools, json, math, os, textwrap
from pathlib import Path
import pytest, torch
import forks
from hypothesis import given, settings, strategies as st
from boss_nb.core import CountNFE, eval_velocity, noise
from boss_nb.flow.data import GaussianMixture, moons, ring
from boss_nb.flow.nets import MLP
from boss_nb.flow.velocity import guided
from boss_nb.sample.schedule import as_knots, Schedule
from boss_nb.sample.solvers import trajectory
from boss_nb.plan.paths import path_tables, read_path, shortest_path
from boss_nb.plan.multistep import ab2_schedule, multistep_schedule
from boss_nb.plan.costs import accelerations, calibrate, Calibration, error_growth, gram_each, jump_costs, sample_bytes

gm = moons(dtype=torch.float64)
z = noise(40, (2,), dtype=torch.float64)
old = Path(__file__).parent/'data'/'v0.1'

def random_grid(N, g):
    t = torch.cat([torch.zeros(1), torch.rand(N, generator=g, dtype=torch.float64)+.05]).cumsum(0).double()
    t = t/t[-1]
    t[-1] = 1
    return t

# paths

costs = torch.rand(21, 21, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

@pytest.mark.parametrize('k', [0, 21, 1.5, None])
def test_numbers_of_jumps_that_are_none(k):
    with pytest.raises(ValueError, match='k must be a whole number of at least 1 and at most 20'): shortest_path(costs, k)

def test_costs_that_are_none():
    with pytest.raises(FloatingPointError, match='NaN'): shortest_path(costs*math.nan, 2)
    with pytest.raises(FloatingPointError, match='minus infinity'): shortest_path(costs-math.inf, 2)
    with pytest.raises(ValueError, match='square matrix'): shortest_path(costs[:3], 2)
    with pytest.raises(ValueError, match='no path'): shortest_path(torch.full((4,4), math.inf), 2)

@pytest.mark.parametrize('k,start', [(13,8), (0,3), (21,0), (-1,0), (1,99)])
def test_paths_that_are_none(k, start):
    with pytest.raises(ValueError, match=f'no path of {k} jumps from node {start} to 20'): read_path(path_tables(costs)[1], k, start)

def test_path_without_a_jump(): assert read_path(path_tables(costs)[1], 0, 20)==[20]

def test_cost_of_a_path_is_its_total():
    for k in range(1, 21):
        idx, total = shortest_path(costs, k)
        assert len(idx)==k+1 and abs(sum(costs[i,j].item() for i,j in zip(idx,idx[1:]))-total) < 1e-12

@pytest.mark.parametrize('start', [3, 9, 15])
def test_tails_are_optimal(start):
    V, _ = path_tables(costs)
    for k in (1,2,4): assert V[k,start].item() == pytest.approx(shortest_path(costs[start:,start:], k)[1], abs=1e-12)

# costs

@settings(max_examples=25, deadline=None)
@given(st.integers(3, 10), st.integers(0, 10**6))
def test_costs_with_correction_rows(N, seed):
    "Any teacher with effective velocities w and student velocities v: costs from the definition"
    g = torch.Generator().manual_seed(seed)
    def r(*o): return torch.randn(*o, generator=g, dtype=torch.float64)
    w, b, x0, t = r(N,4), r(N,4), r(4), random_grid(N, g)
    x = torch.cat([x0[None], x0+(w*t.diff()[:,None]).cumsum(0)])
    rows = torch.cat([w.diff(dim=0), b])
    c = jump_costs(rows@rows.T, t)
    for i in range(N):
        for j in range(i+1, N+1):
            assert c[i,j].item() == pytest.approx((x[i]+(t[j]-t[i])*(w[i]-b[i])-x[j]).pow(2).sum().item(), rel=1e-9, abs=1e-12)

def test_gram_matrices_that_are_none():
    with pytest.raises(FloatingPointError, match='NaN'): jump_costs(torch.ones(2,2)*math.nan, torch.linspace(0,1,4))
    with pytest.raises(ValueError, match=r'E must have shape \(..., 2, 2\)'): jump_costs(torch.ones(3,3), torch.linspace(0,1,4))
    with pytest.raises(FloatingPointError, match='NaN'): Calibration(as_knots(3), torch.ones(1,2,2)*math.nan)
    with pytest.raises(FloatingPointError, match='NaN'): Calibration(as_knots(3), torch.ones(1,2,2), growth=torch.ones(4)*math.nan)

@pytest.mark.parametrize('solver', ['euler','heun','ab2'])
@pytest.mark.parametrize('power', [1., 1.5])
def test_the_pass_ends_where_the_sampler_does(solver, power):
    t = as_knots(12)**power
    assert torch.allclose(accelerations(gm, z, t, solver)[1], trajectory(gm, z, t, solver)[-1], atol=1e-12, rtol=0)

def test_paths_are_the_papers_on_every_budget_and_start():
    cal = calibrate(gm, z, 10, progress=False)
    for s in range(10):
        for k in range(1, 11-s):
            want = min(sum(cal.cost[a,b].item() for a,b in zip(p,p[1:])) for m in itertools.combinations(range(s+1,10), k-1) for p in [(s,*m,10)])
            got = cal.schedule(k, start=float(cal.t[s]))
            assert got.cost == pytest.approx(want, rel=1e-12) and got.knots[0]==cal.t[s] and got.nfe==k

def test_plans_of_a_calibration():
    cal = calibrate(gm, z, 20, progress=False)
    for k in range(1, 21):
        s = cal.schedule(k)
        assert s.cost == pytest.approx(shortest_path(cal.cost, k)[1], abs=1e-12) and cal.cost_of(s) == pytest.approx(s.cost, abs=1e-12)
        if 20%k==0: assert s.cost <= cal.cost_of(torch.linspace(0,1,k+1)) + 1e-12
    assert cal.schedules((2,5,9))==[cal.schedule(k) for k in (2,5,9)]
    s = cal.schedule(3, start=.5)
    assert (s.knots[0].item(), s.nfe, s.name)==(.5, 3, 'boss') and s.meta['teacher_steps']==20 and s.meta['n']==40
    assert s.meta['evaluations']==40*20+24 and s.meta['solver']=='euler'
    cal.growth = error_growth(gm, z, cal.t, 4)
    assert torch.equal(cal.schedule(4, power=0.).knots, cal.schedule(4).knots) and cal.schedule(4, power=.5).name=='weighted 0.5'
    assert calibrate(gm, z, 1, progress=False)._repr_png_()             # a single step has no acceleration to draw

@pytest.mark.parametrize('f,message', [
    (lambda c: c.schedule(0), 'at least 1 and at most 20, got 0'), (lambda c: c.schedule(21), 'at most 20, got 21'), (lambda c: c.schedule(1.5), 'steps must be a whole'),
    (lambda c: c.schedule(11, start=.5), 'at most 10, got 11'), (lambda c: c.schedule(2, start=1.), r'start must be in \[0,1\)'), (lambda c: c.schedule(2, start=-.1), 'start must be'),
    (lambda c: c.schedule(4, power=2.5), r'power must be in \[0,2\]'), (lambda c: c.schedule(4, power=.5), 'power needs the error growth'),
    (lambda c: c.cost_of([0,.001,1]), 'closer than the calibration grid'), (lambda c: c.bootstrap(n_boot=1), 'n_boot must be at least 2')])
def test_questions_without_an_answer(f, message):
    with pytest.raises(ValueError, match=message): f(calibrate(gm, z, 20, progress=False))

@pytest.mark.parametrize('f,error,message', [
    (lambda: calibrate(gm, z[:0]), ValueError, 'n at least 1'), (lambda: calibrate(lambda x,t: x*math.nan, z), FloatingPointError, 'not finite'),
    (lambda: calibrate(lambda x,t: x[:,0], z), ValueError, 'shape of x'), (lambda: calibrate(gm, z, grid=[0,.6,.5,1]), ValueError, 'must increase'),
    (lambda: calibrate(gm, z, grid=[.1,.6,1]), ValueError, 'from 0 to 1'), (lambda: calibrate(gm, z, 0), ValueError, 'teacher_steps must be a whole number of at least 1'),
    (lambda: calibrate(gm, z, 20, solver='rk4'), ValueError, 'solver must be one of'), (lambda: calibrate(gm, z, batch_size=0), ValueError, 'batch_size must be at least 1'),
    (lambda: calibrate(gm, z, until=0), ValueError, 'until must be positive'), (lambda: calibrate(gm, z, distributed=True), ValueError, 'torchrun'),
    (lambda: calibrate(gm, None, preview=True), ValueError, 'noise must be a tensor'), (lambda: calibrate(gm, z*math.inf), ValueError, 'noise must be finite'),
    (lambda: calibrate(gm, z.long()), ValueError, 'floating point'),
    (lambda: error_growth(gm, z, as_knots(4), 0), ValueError, 'probes must be'), (lambda: error_growth(gm, z, as_knots(4), 4), ValueError, 'at least 1 and at most 3'),
    (lambda: error_growth(gm, z, as_knots(4), solver='ab2'), ValueError, "'euler' or 'heun'")])
def test_what_is_refused(f, error, message):
    with pytest.raises(error, match=message): f()

def test_evaluations_are_counted():
    for solver,n in (('euler',20), ('heun',40), ('ab2',20)):
        c = CountNFE(gm)
        cal = calibrate(c, z, 20, solver=solver, progress=False)
        assert c.nfe==n+6 and cal.meta['evaluations']==c.samples==40*n+24                # with six calls for four samples, see check_function
    c = CountNFE(gm)
    error_growth(c, z, as_knots(100))
    assert c.samples==40*80

@pytest.mark.parametrize('scale,runs', [(2.,2), (1.,1)])
def test_a_guided_network_runs_twice_and_is_counted_twice(scale, runs):
    far, y = ring(6), torch.arange(6)
    v = CountNFE(guided(lambda x, t, y: far(x, t), scale, 0))
    cal = calibrate(v, noise(6, (2,)), 10, progress=False, cond=dict(y=y))
    assert cal.meta['evaluations']==(6*10+24)*runs==v.samples

def test_error_growth_of_small_grids():
    assert error_growth(gm, z, as_knots(1)).tolist()==[1.,1.]
    assert torch.allclose(error_growth(gm, z, as_knots(4)), error_growth(gm, z, as_knots(4), 3), rtol=0, atol=0)

def test_labels_travel_with_their_samples():
    y = torch.arange(40)%2
    v = lambda x,t,y: gm(x,t) + y[:,None]*x
    assert torch.allclose(calibrate(v, z, 10, batch_size=33, cond=dict(y=y), progress=False).E, calibrate(v, z, 10, cond=dict(y=y), progress=False).E, atol=1e-12, rtol=0)
    assert torch.allclose(error_growth(v, z, as_knots(10), cond=dict(y=y), batch_size=7), error_growth(v, z, as_knots(10), cond=dict(y=y)), rtol=1e-9)
    assert calibrate(v, z, 10, cond=dict(y=y), preview=True, progress=False).n==16

# samples

def test_until():
    x = noise(2000, (2,), dtype=torch.float64)
    enough = calibrate(gm, x, 20, until=.01, progress=False)
    assert enough.n < 2000 and enough.bootstrap().regret <= .01 and str(enough.bootstrap((2,))).startswith('| steps | cost')
    assert torch.equal(enough.each, calibrate(gm, x[:enough.n], 20, progress=False).each) and enough.meta['evaluations']==enough.n*20+24
    with pytest.warns(UserWarning, match='give more noise'): calibrate(gm, z[:20], 20, until=1e-6, progress=False)
    with pytest.warns(UserWarning, match='at least 2 samples'): calibrate(gm, z[:1], 20, until=1e-6, progress=False)

def test_bootstrap_of_weighted_costs():
    cal = calibrate(gm, z, 20, progress=False)
    with pytest.raises(ValueError, match='power needs'): cal.bootstrap(power=.5)
    cal.growth = error_growth(gm, z, cal.t, 4)
    r = cal.bootstrap((4,30), power=.5)
    assert [o['steps'] for o in r.rows]==[4] and r[4]['cost'] == pytest.approx(cal.schedule(4, power=.5).cost) and 'weighted 0.5' in str(r)

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
def test_batch_size_does_not_matter(dtype):
    v = GaussianMixture(noise(5, (3,4), seed=9), .3)
    x = noise(33, (3,4), dtype=dtype)
    a, *rest = (calibrate(v, x, 20, batch_size=b, progress=False) for b in (None, 1, 8, 32))
    for b in rest:
        assert torch.allclose(a.each, b.each, rtol=1e-3 if dtype!=torch.float64 else 1e-11)
        assert [s.indices for s in a.schedules(range(1,20))]==[s.indices for s in b.schedules(range(1,20))]

def test_memory_that_runs_out_changes_nothing():
    seen = []
    def v(x, t):
        seen.append(len(x))
        if len(x) > 5: raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
        return gm(x, t)
    cal, want = calibrate(v, z, 15, progress=False), calibrate(gm, z, 15, progress=False)
    assert torch.allclose(cal.each, want.each, rtol=1e-12) and max(seen)==40
    assert torch.allclose(error_growth(v, z, cal.t, 2), error_growth(gm, z, cal.t, 2), rtol=1e-9)
    with pytest.raises(MemoryError, match='batch_size 20 does not fit in memory'): calibrate(v, z, 15, batch_size=20, progress=False)

def test_accelerations_are_chunked(monkeypatch):
    "Coordinates go to float64 in slices; the batch is chosen so that accelerations stay within a gigabyte"
    a = torch.randn(3, 7, 1000, dtype=torch.float64)
    assert torch.allclose(gram_each(a, chunk=200), a@a.transpose(1,2), rtol=1e-12)
    sizes = []
    def v(x, t): sizes.append(len(x)); return -x
    calibrate(v, noise(1, (3,256,256)).expand(6,-1,-1,-1), 100, progress=False)         # 78 MB of accelerations a sample
    assert max(sizes)==6
    import boss_nb.plan.costs as b
    monkeypatch.setattr(b, 'sample_bytes', lambda *a: 2**29)
    sizes.clear()
    calibrate(v, noise(6, (2,)), 10, progress=False)
    assert max(sizes[6:])==2                    # after six calls for four samples, see check_function

def test_memory_of_a_sample():
    mb = [sample_bytes(o, dtype=d)//10**6 for o in ((3,256,256),(16,128,128)) for d in (torch.float32, torch.bfloat16)]
    assert mb==[77,38,103,51] and sample_bytes((4,), 10, torch.float32, 'heun')==19*4*4

@pytest.mark.parametrize('seed', range(4))
def test_half_precision_plans(seed):
    v = GaussianMixture(noise(5, (16,), seed=seed), .4)
    a, b = (calibrate(v, noise(64, (16,), 'calibrate', dtype=d), 50, progress=False) for d in (torch.float32, torch.bfloat16))
    for k in range(1, 16): assert a.cost_of(b.schedule(k)) <= 1.05*a.schedule(k).cost

# several processes

worker = textwrap.dedent('''
    import sys, torch, torch.distributed as dist
    from boss_nb.core import CountNFE, noise
    from boss_nb.plan.costs import calibrate
    from boss_nb.flow.data import moons
    dist.init_process_group('gloo')
    gm, n = moons(dtype=torch.float64), int(sys.argv[2])
    y = torch.arange(n, dtype=torch.float64)/n
    c = CountNFE(lambda x, t, y: gm(x, t) + y[:,None])
    until = float(sys.argv[3]) if len(sys.argv)>3 else None
    cal = calibrate(c, noise(n, (2,), dtype=torch.float64), 30, batch_size=7, until=until, progress=False, cond=dict(y=y))
    assert c.samples <= (n+8)//2*30, c.samples                 # half of the pass
    cal.save(f'{sys.argv[1]}/rank{dist.get_rank()}.safetensors')
    dist.destroy_process_group()
''')

@pytest.mark.parametrize('n,until', [(50,None), (1,None), (200,.05)])
def test_two_processes_make_the_same_plan(tmp_path, n, until):
    (tmp_path/'work.py').write_text(worker)
    r = forks.spread(2, tmp_path/'work.py', tmp_path, n, *([until] if until else []))
    assert r.returncode==0, r.stderr[-3000:]
    y = torch.arange(n, dtype=torch.float64)/n
    one = calibrate(lambda x, t, y: gm(x, t) + y[:,None], noise(n, (2,), dtype=torch.float64), 30, until=until, progress=False, cond=dict(y=y))
    assert (one.n < n) == (until is not None)                   # it stops early
    for r in (0, 1):
        two = Calibration.load(tmp_path/f'rank{r}.safetensors')
        assert two.n==one.n and torch.allclose(two.each, one.each, rtol=1e-12, atol=1e-15) and two.meta|dict(evaluations=0)==one.meta|dict(evaluations=0)
        assert two.meta['evaluations']-one.meta['evaluations']==6*min(4, n)           # the check of the second process
        for k in range(1, 31): assert (two.schedule(k).knots-one.schedule(k).knots).abs().max() <= 1e-12

# files

def test_calibration_comes_back(tmp_path):
    cal = calibrate(gm, z, 12, progress=False, meta=dict(seed=0, guidance=2.5))
    cal.growth = error_growth(gm, z, cal.t, 3)
    back = Calibration.load(cal.save(tmp_path/'c.safetensors'))
    assert torch.equal(back.cost, cal.cost) and torch.equal(back.growth, cal.growth) and torch.equal(back.each, cal.each)
    assert back.meta==cal.meta and back.meta['guidance']==2.5 and (back.n, back.solver, back.meta['shape'])==(40, 'euler', [2])
    for power in (0., .5):
        assert back.schedule(4, power=power)==cal.schedule(4, power=power)
        for planner in (ab2_schedule, multistep_schedule): assert planner(back, 4, power=power)==planner(cal, 4, power=power)
    assert 'fingerprint' not in back.meta and Calibration.load(tmp_path/'c.safetensors', lambda x,t: x).n==40      # a function has none

def test_a_file_is_for_its_network(tmp_path):
    net, x = MLP(2).eval(), noise(4, (2,))
    f = calibrate(net, x, 6, progress=False).save(tmp_path/'c.safetensors')
    assert Calibration.load(f, net).n==4 and Calibration.load(f, CountNFE(net)).n==4 and Calibration.load(f).n==4
    for other in (MLP(2).eval(), guided(net, 2., 0), lambda x,t: net(x,t)):
        with pytest.raises(ValueError, match='calibrated with another network'): Calibration.load(f, other)

def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    cal = calibrate(gm, z, 12, progress=False)
    f = cal.save(tmp_path/'c.safetensors')
    before = f.read_bytes()
    import boss_nb.files as m
    def full(tensors, path, metadata=None): path.write_bytes(b'half'); raise OSError(28, 'No space left on device')
    monkeypatch.setattr(m, 'save_file', full)
    with pytest.raises(OSError, match='No space'): cal.save(f)
    assert f.read_bytes()==before and os.listdir(tmp_path)==['c.safetensors']

@pytest.mark.parametrize('name,n', [('calibration',6), ('calibration_mean',1)])
def test_calibrations_of_version_0_1(name, n):
    cal, want = Calibration.load(old/f'{name}.safetensors'), json.loads((old/'plan.json').read_text())['schedules'][0]
    assert (cal.n, len(cal.each), cal.teacher_steps, cal.solver)==(6, n, 8, 'euler') and cal.meta['evaluations']==48+144 and 'spent' not in cal.meta
    s = cal.schedule(2)
    assert s.knots.tolist()==want['knots'] and s.indices==want['indices'] and s.cost == pytest.approx(want['cost'], rel=1e-6)
    assert cal.growth.shape==(9,) and cal.schedule(2, power=1.).steps==2
