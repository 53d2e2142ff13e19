"The planner against brute force, on whatever hypothesis thinks of"
import itertools, math, re
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from boss_nb.sample.schedule import Schedule
from boss_nb.plan.paths import path_tables, read_path, shortest_path
from boss_nb.plan.costs import calibrate, jump_costs
from boss_nb.core import noise
from boss_nb.flow.data import GaussianMixture
from boss_nb.sample.schedule import as_knots

def brute(c, k, start=0):
    n = len(c)-1
    return min(sum(c[i,j] for i,j in zip(p,p[1:])) for m in itertools.combinations(range(start+1, n), k-1) for p in [(start,*m,n)])

costs = st.integers(2, 9).flatmap(lambda n: arrays(np.float64, (n,n), elements=st.one_of(st.floats(0, 1e6), st.just(0.), st.just(math.inf))))

@settings(max_examples=150, deadline=None)
@given(costs)
def test_every_budget_and_start(c):
    n = len(c)-1
    V, A = path_tables(c)
    for s in range(n):
        for k in range(1, n-s+1):
            want = brute(c, k, s)
            assert V[k,s] == pytest.approx(want, rel=1e-12)
            if math.isfinite(want):
                p = read_path(A, k, s)
                assert len(p)==k+1 and p[0]==s and p[-1]==n and all(a<b for a,b in zip(p,p[1:]))
                assert sum(c[i,j] for i,j in zip(p,p[1:])) == pytest.approx(want, rel=1e-12)
            elif s==0:
                with pytest.raises(ValueError, match='no path'): shortest_path(c, k)
        assert torch.isinf(V[n-s+1:,s]).all()

@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_random_matrices(n, k, seed):
    c = np.random.default_rng(seed).exponential(size=(n+1,n+1))
    if k > n:
        with pytest.raises(ValueError, match='k must be'): shortest_path(c, k)
    else:
        idx, total = shortest_path(torch.tensor(c), k)
        assert total == pytest.approx(brute(c, k), rel=1e-12) and len(idx)==k+1

@settings(max_examples=40, deadline=None)
@given(st.sampled_from([(), (1,), (3,), (2,3), (1,2,2), (2,1,3,1)]), st.lists(st.floats(.05, 1.), min_size=2, max_size=14), st.integers(1,6), st.integers(0, 10**6))
def test_costs_are_the_definition(shape, gaps, n, seed):
    "Any grid, any tensor rank: the identity gives what the definition says, float64"
    t = torch.tensor([0.]+gaps, dtype=torch.float64).cumsum(0); t = t/t[-1]
    v, x = GaussianMixture(noise(3, shape, seed=seed, dtype=torch.float64), .3), noise(n, shape, 'calibrate', seed, dtype=torch.float64)
    cal = calibrate(v, x, grid=t, progress=False)
    xs, vs = [x], []
    for k in range(len(t)-1): vs.append(v(xs[-1], t[k].expand(n))); xs.append(xs[-1]+(t[k+1]-t[k])*vs[-1])
    for i,j in itertools.combinations(range(len(t)), 2):
        want = (xs[i]+(t[j]-t[i])*vs[i]-xs[j]).reshape(n,-1).pow(2).sum(1).mean().item()
        assert cal.cost[i,j].item() == pytest.approx(want, rel=1e-9, abs=1e-24)
    assert torch.isinf(cal.cost[torch.tril(torch.ones_like(cal.cost)).bool()]).all()
    for k in range(1, len(t)): assert cal.schedule(k).nfe==k

@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(.01, 1.), min_size=1, max_size=12), st.floats(.2, 8.))
def test_sigmas_undo_the_shift(gaps, s):
    k = torch.tensor([0.]+gaps, dtype=torch.float64).cumsum(0); k = k/k[-1]
    given_ = torch.tensor(Schedule(k).to_sigmas(shift=s, final=True), dtype=torch.float64)
    assert torch.allclose(s*given_/(1+(s-1)*given_), 1-k, atol=1e-12)

@pytest.mark.parametrize('grid', [[0,.5,.4,1], [0,.5,.5,1], [0,1.2], [0,float('nan'),1], [.1,1], [0,.9], [0]])
def test_bad_grids(grid):
    with pytest.raises(ValueError, match='grid|knots'): calibrate(lambda x,t: x, noise(2,(2,)), grid=grid, progress=False)

def test_nan_after_the_first_step_is_caught():
    v = lambda x,t: torch.where(t[:,None] > .5, torch.nan, 1.)*x
    with pytest.raises(FloatingPointError, match='t=0.'): calibrate(v, noise(3,(2,)), progress=False)
    E = torch.eye(4); E[2,2] = math.nan
    with pytest.raises(FloatingPointError): jump_costs(E, as_knots(5))

def test_links_of_the_readme_lead_to_files():
    root = Path(__file__).resolve().parent.parent
    links = re.findall(r'\]\(((?!https?:|#)[^)#\s]+)', (root/'README.md').read_text())
    assert len(links) > 20 and not [o for o in links if not (root/o).exists()]
