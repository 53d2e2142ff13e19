"Plans for multistep solvers, trials, refinement, choosing, published planners: properties and edge cases"
import itertools, math
import pytest, torch
from hypothesis import given, settings, strategies as st
from boss_nb.core import CountNFE, noise
from boss_nb.flow.data import GaussianMixture, image_mixture, moons, ring
from boss_nb.flow.velocity import guided
from boss_nb.sample.schedule import as_knots, formulas, Schedule, shifted, uniform
from boss_nb.sample.solvers import ab2_coefs, sample, trajectory
from boss_nb.plan.costs import calibrate, error_growth, jump_costs
from boss_nb.plan.multistep import ab2_schedule, multistep_schedule, pair_costs, pair_path, pair_tables
from boss_nb.plan.choose import accept_refined, best_schedule, candidates, plan
from boss_nb.plan.refine import refine_schedule, rollout_calls, rule_of, Trial
from boss_nb.plan.published import make_schedule, published

gm = moons(dtype=torch.float64)
z = noise(40, (2,), 'calibrate', dtype=torch.float64)

def calibrated(v, x, steps, **kw):
    "A calibration with its error growth"
    cal = calibrate(v, x, steps, progress=False, **kw)
    cal.growth = error_growth(v, x, cal.t, cond=kw.get('cond'))
    return cal

def random_grid(N, g):
    t = torch.cat([torch.zeros(1), torch.rand(N, generator=g, dtype=torch.float64)+.05]).cumsum(0)
    t = (t/t[-1]).double()
    t[-1] = 1
    return t

# Multistep

@settings(max_examples=25, deadline=None)
@given(st.integers(3, 8), st.integers(0, 10**6), st.booleans())
def test_pair_program_equals_brute_force(N, seed, fitted):
    g = torch.Generator().manual_seed(seed)
    A, t = torch.randn(N-1, 3, generator=g, dtype=torch.float64), random_grid(N, g)
    E = A@A.T
    c, C = jump_costs(E, t), pair_costs(E, t, fitted)
    tabs = pair_tables(C, N)
    def cost(p): return c[p[0],p[1]].item()+sum(C[a,b,d].item() for a,b,d in zip(p, p[1:], p[2:]))
    for s in range(N):
        for k in range(1, N-s+1):
            want = min(cost((s,*m,N)) for m in itertools.combinations(range(s+1,N), k-1))
            p, total = pair_path(c, tabs, k, s)
            assert total == pytest.approx(want, abs=1e-12) and len(p)==k+1 and p[0]==s and p[-1]==N

@pytest.mark.parametrize('kw,what', [
    (dict(steps=0), 'steps must be'), (dict(steps=13), 'steps must be'), (dict(steps=True, start=1.), 'start must be in'),
    (dict(steps=8, start=.5), 'at most 6'), (dict(steps=3, power=-1), 'power must be in'), (dict(steps=3, power=1.), 'error growth')])
@pytest.mark.parametrize('planner', [ab2_schedule, multistep_schedule])
def test_multistep_planners_say_what_is_wrong(planner, kw, what):
    with pytest.raises(ValueError, match=what): planner(calibrate(gm, z, 12, progress=False), **kw)

def test_pair_tables_follow_the_growth():
    "Tables are kept with the record, and made anew for another growth"
    cal = calibrate(gm, z, 16, progress=False)
    plain = ab2_schedule(cal, 4)
    cal.growth = torch.ones(17, dtype=torch.float64)
    assert ab2_schedule(cal, 4, power=1.).knots.equal(plain.knots)
    cal.growth = torch.linspace(100, 1, 17, dtype=torch.float64)
    early = ab2_schedule(cal, 4, power=1.)
    assert not early.knots.equal(plain.knots) and ab2_schedule(cal, 4).knots.equal(plain.knots)

# Trials

def test_a_trial_counts_everything():
    v = CountNFE(gm)
    trial = Trial(v, z, teacher_steps=10, solver='heun')
    assert trial.evaluations==0
    trial.sample(3)
    assert trial.evaluations==40*3
    trial.errors(Schedule(as_knots(4), solver='heun'))
    assert trial.evaluations==v.samples==40*(3+20+8)
    trial.error(5)
    assert trial.evaluations==v.samples==40*(3+20+8+5)

def test_a_trial_with_conditions_in_batches():
    y = torch.linspace(0, 1, 40, dtype=torch.float64)
    v = lambda x,t,y: gm(x,t)+y[:,None]
    a, b = (Trial(v, z, cond=dict(y=y), batch_size=o) for o in (None, 7))
    assert torch.allclose(a.errors(4), b.errors(4), rtol=1e-12)
    one = Trial(v, z[5:6], cond=dict(y=y[5:6]))
    assert torch.allclose(a.errors(4)[5], one.errors(4)[0], rtol=1e-9)
    r, q = (refine_schedule(o, uniform(3), n_iter=2) for o in (a, b))
    assert torch.allclose(r.knots, q.knots, atol=1e-9)

def test_a_trial_from_a_later_start():
    t = as_knots(16)
    late = sample(gm, z, t[:9])                                                      # the teacher at t=.5
    trial = Trial(gm, late, teacher_steps=100, start=.5)
    given = Trial(gm, late, sample(gm, late, .5+.5*as_knots(100)), start=.5)
    assert trial.error(3)==given.error(3)                                             # the teacher starts where the states are
    cal = calibrate(gm, z, 16, progress=False)
    best = best_schedule(trial, 3, cal)
    assert best.knots[0]==.5 and best.steps==3 and trial.error(best) <= trial.error(3)
    with pytest.raises(ValueError, match='the nearest is 0.375'): best_schedule(Trial(gm, late, start=.37), 3, cal)
    with pytest.raises(ValueError, match='must begin at'): best_schedule(trial, 3, schedules=[uniform(3)])
    with pytest.raises(ValueError, match='must begin at'):
        best_schedule(Trial(gm, z), 3, schedules=[uniform(3), Schedule([.5,.7,.8,1.], 'late')])

@pytest.mark.parametrize('make,what', [
    (lambda: Trial(gm, z[:0]), 'n at least 1'), (lambda: Trial(gm, z, z[:2]), 'shape of noise'),
    (lambda: Trial(gm, z, start=1.), r'start must be in \[0,1\)'), (lambda: Trial(gm, z, teacher_steps=0), 'teacher_steps must be'),
    (lambda: Trial(gm, z, solver='rk9').end, 'solver must be one of'), (lambda: Trial(gm, z).error([0,.5,.4,1]), 'must increase')])
def test_a_trial_says_what_is_wrong(make, what):
    with pytest.raises(ValueError, match=what): make()

# Refinement

def test_refine_keeps_order_and_gets_better():
    v, x = image_mixture(3, dim=16, k=3), noise(50, (16,))
    trial = Trial(v, x, teacher_steps=50)
    trial.end
    ab2 = Schedule(as_knots(5), solver='ab2')
    for s in (uniform(5), ab2, Schedule(as_knots(5), solver='multistep', coefs=ab2_coefs(5))):
        for history in (0, 1, 3):
            before = trial.evaluations
            r = refine_schedule(trial, s, history)
            assert r.meta['fit_evaluations']==trial.evaluations-before
            assert (r.knots.diff()>0).all() and r.steps==5 and trial.error(r) <= trial.error(s)*(1+1e-6)
            if s.solver=='euler' and not history: assert r.solver=='euler'
    broken = Trial(lambda x,t: v(x,t)*math.nan, x, trial.end)
    with pytest.raises(FloatingPointError, match='not finite'): refine_schedule(broken, uniform(3))

@pytest.mark.parametrize('spend', [200, 400, 1000, 3000])
def test_refinement_stays_within_its_evaluations(spend):
    v = CountNFE(gm)
    trial = Trial(v, z, teacher_steps=20)
    trial.end
    before = v.samples
    r = refine_schedule(trial, Schedule(as_knots(5), solver='ab2'), spend=spend)
    assert v.samples-before==r.meta['fit_evaluations'] <= spend and r.meta['fit_error'][1] <= r.meta['fit_error'][0]

@pytest.mark.parametrize('kw,what', [
    (dict(history=-1), 'history must be'), (dict(history=1.5), 'history must be'), (dict(spend=100), 'spend must be at least 120'),
    (dict(schedule=Schedule(as_knots(3), solver='heun')), 'cannot be refined')])
def test_refinement_says_what_is_wrong(kw, what):
    with pytest.raises(ValueError, match=what): refine_schedule(Trial(gm, z), **{'schedule':uniform(3), **kw})

def test_refinement_counts_its_calls():
    for k in (1, 2, 5, 9):
        for history in (0, 3):
            rule = rule_of(uniform(k), history)
            by_hand = k + sum(k-i for i in range(1,k)) + sum((k-i-1)*min(i,history) for i in range(k))
            assert rollout_calls(rule)==by_hand

def test_refined_schedules_are_judged_by_all_samples():
    a, b = torch.full((200,), .01), torch.full((200,), .001)
    b[0] = 3.                                                                        # one sample in another mode decides the bare mean
    assert a.mean() < b.mean() and accept_refined(b, a) and not accept_refined(b, a, [a]) and accept_refined(b, a, [a*10])
    assert accept_refined(a/2, a) and not accept_refined(a*2, a) and not accept_refined(a+.1*torch.rand(200), a)
    assert not accept_refined(torch.ones(1)*2, torch.ones(1))

# Choosing

def test_best_is_never_worse_and_much_better():
    v = image_mixture(7, dim=64, k=4)
    x = noise(64, (64,), 'calibrate')
    cal = calibrated(v, x, 50)
    test, decide = (Trial(v, noise(n, (64,), split), teacher_steps=50) for n,split in ((400,'test'), (100,'choose')))
    fit = Trial(v, noise(100, (64,), 'calibrate'), teacher_steps=50)
    for k in (1,2,3,4,6,10):
        s = best_schedule(decide, k, cal, refine_on=fit)
        for o in (uniform(k), cal.schedule(k)): assert test.error(s) <= test.error(o)*(1+1e-9)
        c = CountNFE(v)
        sample(c, test.noise[:2], s)
        assert c.nfe==k==s.nfe
        if k > 3: assert test.error(s) < .3*test.error(uniform(k))

def test_candidates():
    cal = calibrated(gm, z, 16)
    assert {s.solver for s in candidates(4, cal, None)}=={'euler','ab2','multistep'}
    for o in ('euler','ab2','multistep'): assert {s.solver for s in candidates(4, cal, o)}=={o}
    assert [s.name for s in candidates(20, cal, None)]==['uniform','cosine','shifted 1.5','shifted 2','uniform ab2']   # more steps than the grid
    with pytest.raises(ValueError, match='solver must be'): candidates(4, cal, 'heun')
    keys = [(s.solver, *s.knots.tolist()) for s in candidates(2, cal, None)]
    assert len(keys)==len(set(keys)) and len(candidates(1, cal, None))==1

def test_a_grid_too_fine_for_pairs():
    cal = calibrate(gm, z, 301, progress=False)
    assert 'plan' not in best_schedule(Trial(gm, z, teacher_steps=50), 4, cal).name
    with pytest.raises(ValueError, match='at most 300'): ab2_schedule(cal, 4)

def test_half_precision():
    v = GaussianMixture(noise(5, (16,), seed=3), .4)
    x = noise(64, (16,), 'calibrate', dtype=torch.bfloat16)
    r = refine_schedule(Trial(v, x), multistep_schedule(calibrate(v, x, 50, progress=False), 3))
    assert r.meta['fit_error'][1] <= r.meta['fit_error'][0]
    s = plan(v, x, 3, teacher_steps=30)
    assert s.steps==3 and Trial(v, x).error(s) <= Trial(v, x).error(3)

# One call

@pytest.mark.parametrize('steps', [1, 4, [2,3,6]])
@pytest.mark.parametrize('spend', [12_000, 20_000, 40_000, None])
@pytest.mark.parametrize('runs,start', [(1, 0.), (2, .3)])
def test_plan_stays_within_its_evaluations(steps, spend, runs, start):
    v = CountNFE(gm)
    f = lambda x, t: v(x, t)
    f.nfe_per_call = runs
    got = plan(f, noise(100, (2,), dtype=torch.float64), steps, spend, start, teacher_steps=24)
    many = got if isinstance(steps, list) else [got]
    assert [s.steps for s in many]==(steps if isinstance(steps, list) else [steps])
    assert all(s.knots[0]==start and s.knots[-1]==1 for s in many)
    assert all(s.meta['evaluations']==v.samples*runs for s in many)
    if spend: assert v.samples*runs <= spend

def test_plan_says_the_least_it_needs():
    x = noise(40, (2,), dtype=torch.float64)
    with pytest.raises(ValueError, match='spend must be at least') as e: plan(gm, x, [3,4], spend=10)
    least = int(str(e.value).split('at least ')[1].split()[0])
    v = CountNFE(gm)
    plan(v, x, [3,4], spend=least)
    assert v.samples <= least
    with pytest.raises(ValueError, match=f'spend must be at least {least}'): plan(gm, x, [3,4], spend=least-1)

@pytest.mark.parametrize('kw,what', [
    (dict(steps=0), 'steps must be'), (dict(steps=[3,2.5]), 'steps must be'), (dict(noise=z[:15]), 'at least 16 samples'),
    (dict(start=1.), 'start must be in'), (dict(solver='heun'), 'solver must be'), (dict(noise=z*math.nan), 'finite'), (dict(steps=[]), 'steps must')])
def test_plan_says_what_is_wrong(kw, what):
    with pytest.raises(ValueError, match=what): plan(gm, **{'noise':z, 'steps':3, 'teacher_steps':12, **kw})

def test_plan_with_a_calibration_and_conditions():
    y = torch.arange(40)%2
    v = CountNFE(lambda x,t,y: gm(x,t)+.1*y[:,None])
    cal = calibrate(v, z, 20, progress=False, cond=dict(y=y))
    before, x = v.samples, noise(40, (2,), 'choose', dtype=torch.float64)
    s = plan(v, x, 3, cond=dict(y=y), cal=cal)
    assert s.meta['evaluations']==v.samples-before and cal.growth is None
    trial = Trial(v, x, cond=dict(y=y))
    assert trial.error(s) <= trial.error(3)
    only = plan(v, x, 3, cond=dict(y=y), cal=cal, solver='ab2')
    assert only.solver=='ab2' and plan(v, x, 3, cond=dict(y=y), cal=cal, solver='euler').solver=='euler'

def test_a_guided_network_runs_twice_and_is_counted_twice():
    gm, y = ring(6), torch.arange(6)
    for scale,runs in ((2., 2), (1., 1)):
        v = CountNFE(guided(lambda x, t, y: gm(x, t), scale, 0))
        trial = Trial(v, noise(6, (2,)), cond=dict(y=y), teacher_steps=10)
        make_schedule('gits', 4, trial=trial)
        assert trial.evaluations==v.samples==6*10*runs
        make_schedule('oss', 4, trial=trial)
        make_schedule('best', 3, trial=trial)
        assert trial.evaluations==v.samples

# Published planners

@pytest.mark.parametrize('name', [*formulas, *published, 'boss', 'weighted', 'ab2', 'multistep'])
def test_every_schedule_at_every_number_of_steps(name):
    cal, trial = calibrated(gm, z, 24), Trial(gm, z[:20], teacher_steps=24)
    for k in range(1, 25):
        s = make_schedule(name, k, cal, trial)
        assert s.steps==k and s.knots[0]==0 and s.knots[-1]==1 and torch.isfinite(sample(gm, z[:3], s)).all()

def test_best_beside_every_other_schedule():
    cal, trial = calibrated(gm, z, 16), Trial(gm, noise(50, (2,), 'choose', dtype=torch.float64), teacher_steps=16)
    for k in (2, 4):
        best = make_schedule('best', k, cal, trial)
        for name in ('uniform','cosine','boss','weighted','ab2','multistep'):
            assert trial.error(best) <= trial.error(make_schedule(name, k, cal, trial))*(1+1e-9)

@pytest.mark.parametrize('name,what', [('magic', 'one of uniform, shifted'), ('ays', 'needs a calibration'), ('oss', 'needs a trial'), ('best', 'needs a trial')])
def test_make_schedule_says_what_is_missing(name, what):
    with pytest.raises(ValueError, match=what): make_schedule(name, 4)

def test_what_a_calibration_alone_can_make():
    cal = calibrate(gm, z, 16, progress=False)
    for name in ('boss','ays','sharp_euler','ab2','multistep'): assert make_schedule(name, 2, cal).steps==2
    with pytest.raises(ValueError): make_schedule('weighted', 2, cal)

def test_published_planners_from_a_later_start():
    late = Trial(gm, sample(gm, z, torch.linspace(0, .5, 9, dtype=torch.float64)), teacher_steps=8, start=.5)
    for f in (published['gits'], published['oss']): assert f(late, 3).knots[0]==.5
