"Schedules and solvers: edges of every formula, records in files, what is refused, half precision"
import json, math
from pathlib import Path
from types import SimpleNamespace
import pytest, torch
from boss_nb.core import noise
from boss_nb.flow.data import moons
from boss_nb.sample.schedule import as_knots, beta, edm, formulas, nfe_of, Schedule, shifted, uniform
from boss_nb.sample.solvers import ab2_coefs, sample, sample_adaptive, trajectory

gm, z = moons(dtype=torch.float64), noise(25, (2,), dtype=torch.float64)
old = Path(__file__).parent/'data'/'v0.1'

@pytest.mark.parametrize('bad,message', [([0,.5,.5,1], 'must increase'), ([0,2.], r'in \[0,1\]'), ([0.], 'at least 2 times'), (0, 'at least 1 step'),
                                         ([0,math.nan,1], r'in \[0,1\]'), ([[0,1.]], 'in one dimension')])
def test_knots_that_are_none(bad, message):
    with pytest.raises(ValueError, match=message): as_knots(bad)

@pytest.mark.parametrize('name', formulas)
@pytest.mark.parametrize('steps', [1,2,3,7,20])
def test_formulas_have_their_ends_and_their_steps(name, steps):
    s = formulas[name](steps)
    assert (s.nfe, s.knots[0].item(), s.knots[-1].item()) == (steps, 0., 1.)

@pytest.mark.parametrize('name', formulas)
@pytest.mark.parametrize('bad', [0, -1, 1.5, None])
def test_formulas_take_whole_numbers(name, bad):
    with pytest.raises(ValueError, match='steps must be a whole number of at least 1'): formulas[name](bad)

def test_special_cases_of_formulas():
    k = edm(5).knots
    assert ((1-k)/k)[4].item() == pytest.approx(.002, abs=1e-9) and edm(1).knots.tolist()==[0.,1.]
    assert torch.allclose(beta(5).knots, 1-beta(5).knots.flip(0), atol=1e-12)
    for low in (.1, .2, .3): assert shifted(4, low).knots[[0,-1]].tolist()==[0.,1.]

@pytest.mark.parametrize('kw,message', [
    (dict(solver='magic'), 'solver must be one of'), (dict(coefs=[[1.]]*3), 'belong to solver'), (dict(solver='multistep'), 'belong to solver'),
    (dict(solver='multistep', coefs=[[1.],[.5,.4],[1.]]), 'sum to 1'), (dict(solver='multistep', coefs=[[1.,0.],[1.],[1.]]), r'between 1 and k\+1'),
    (dict(solver='multistep', coefs=[[1.],[1.]]), '3 steps in all'), (dict(solver='multistep', coefs=[[1.],[math.nan],[1.]]), 'sum to 1')])
def test_schedules_that_are_none(kw, message):
    with pytest.raises(ValueError, match=message): Schedule([0,.1,.4,1], **kw)

@pytest.mark.parametrize('text,message', [('{"a":1}', 'is not a boss_nb schedule'), ('[1]', 'is not a boss_nb schedule'), ('{"kind', 'is not JSON'),
    ('{"kind":"boss_nb.schedule","knots":[0,1,0.5]}', 'broken schedule: knots must'), ('{"kind":"boss_nb.schedule"}', 'broken schedule')])
def test_files_that_are_no_schedules(tmp_path, text, message):
    (p := tmp_path/'s.json').write_text(text)
    with pytest.raises(ValueError, match=message): Schedule.load(p)

def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file'): Schedule.load(tmp_path/'none.json')

def test_schedule_of_version_0_1():
    d = json.loads((old/'schedule.json').read_text())
    s = Schedule.load(old/'schedule.json')
    assert s.knots.tolist()==d['knots'] and (s.name, s.solver, s.coefs, s.nfe)==(d['name'], d['solver'], d['coefs'], d['nfe'])
    assert s.to_dict() == d

def test_sigmas():
    s = uniform(4)
    with pytest.raises(ValueError, match='shift or mu, not both'): s.to_sigmas(shift=2., mu=1.)
    with pytest.raises(ValueError, match='shift must be positive'): s.to_sigmas(shift=0.)
    assert s.to_sigmas(final=True)==[1.,.75,.5,.25,0.]

def test_evaluations_of_solvers():
    assert Schedule(torch.linspace(0,1,4), solver='heun').nfe==6 and nfe_of(3, 'ab2')==3

def test_euler_is_euler():
    x = z
    for t in (0, .25, .5, .75): x = x + .25*gm(x, torch.full((25,), t, dtype=x.dtype))
    assert torch.equal(sample(gm, z, 4), x)
    s = Schedule([0,.1,.4,1])
    assert torch.equal(sample(gm, z, s), sample(gm, z, s.knots))

def test_anything_with_knots_is_a_schedule():
    k = as_knots(5)**1.4
    plan = SimpleNamespace(knots=k, solver='multistep', coefs=ab2_coefs(k))
    assert torch.allclose(sample(gm, z, plan), sample(gm, z, k, 'ab2'), atol=1e-12, rtol=0)
    assert torch.equal(sample(gm, z, plan, 'euler'), sample(gm, z, k))

@pytest.mark.parametrize('f', [sample, trajectory])
@pytest.mark.parametrize('x,how,error,message', [
    (z[:0], (4,), ValueError, 'n at least 1'), (None, (4,), ValueError, 'got NoneType'), (z*math.inf, (4,), ValueError, 'noise must be finite'),
    (torch.ones(2,2,dtype=torch.int), (4,), ValueError, 'floating point'), (z, (4,'rk9'), ValueError, "euler, heun, ab2, multistep, got 'rk9'"),
    (z, (4,'multistep'), ValueError, 'needs coefs for 4 steps')])
def test_what_is_refused(f, x, how, error, message):
    with pytest.raises(error, match=message): f(gm, x, *how)

def test_half_precision():
    zh = noise(50, (2,), dtype=torch.bfloat16)
    assert sample(moons(), zh, 4).dtype==torch.bfloat16 and trajectory(moons(), zh, 4).dtype==torch.bfloat16
    drift = lambda x,t: torch.full_like(x, .125)                    # 1000 steps of 1/8000 each: lost one by one in bfloat16
    assert torch.allclose(sample(drift, zh, 1000).float(), zh.float()+.125, atol=.02)

def test_time_in_float32_for_those_who_want_it():
    seen = {}
    class V:
        def __init__(self, exact): self.float32_time = exact
        def __call__(self, x, t): seen[self.float32_time] = (x.dtype, t.dtype); return x
    for exact in (True, False): sample(V(exact), noise(2, (2,), dtype=torch.bfloat16), 2, cond={})
    assert seen=={True: (torch.bfloat16, torch.float32), False: (torch.bfloat16, torch.bfloat16)}

def test_a_misspelt_option_is_an_error():
    v, z = (lambda x, t: -x), noise(3, (2,))
    for f in (lambda: sample(v, z, 4, solvr='ab2'), lambda: trajectory(v, z, 4, y=1), lambda: sample_adaptive(v, z, rtoll=1.)):
        with pytest.raises(TypeError): f()
