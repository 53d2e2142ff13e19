"What holds across notebooks: faults, parity with peers, and the state things are left in"
import errno, json, math, os
import numpy as np, pytest, scipy.linalg, torch
from torch import nn
from boss_nb.sample.schedule import Schedule
from boss_nb.plan.costs import calibrate, Calibration, error_growth
from boss_nb.share.students import load_student, save_student
from boss_nb.core import noise, set_seed
from boss_nb.flow.data import flow_dls, GaussianMixture
from boss_nb.judge.frechet import FeatureStats, frechet_distance
from boss_nb.files import save_state
from boss_nb.flow.nets import load_net, MLP, save_net, UNet
from boss_nb.sample.solvers import sample, sample_adaptive, trajectory
from boss_nb.sample.schedule import uniform
from boss_nb.plan.choose import best_schedule, candidates
from boss_nb.plan.refine import Trial
from boss_nb.train.states import refine
from boss_nb.train.lora import add_lora
from boss_nb.train.straighten import straighten
from boss_nb.flow.nets import digits_teacher
from boss_nb.train.loop import train_flow

smooth = GaussianMixture(torch.tensor([[-1.,0],[1.,1.],[.5,-1]], dtype=torch.float64), std=.5)

@pytest.mark.parametrize('solver,order', [('euler',1),('heun',2),('ab2',2)])
@pytest.mark.parametrize('power', [1., 1.5])
def test_orders_of_convergence(solver, order, power):
    z = noise(20, (2,), dtype=torch.float64)
    exact = sample_adaptive(smooth, z, 1e-11, 1e-12, 'DOP853')
    e = [(sample(smooth, z, torch.linspace(0,1,n+1,dtype=torch.float64)**power, solver)-exact).norm().item() for n in (80,160,320)]
    assert math.log2(e[1]/e[2]) == pytest.approx(order, abs=.1)

def test_frechet_against_scipy():
    rng = np.random.default_rng(0)
    for d,n in ((3,50),(40,200),(64,70)):
        a,b = rng.normal(size=(n,d)), rng.normal(size=(n,d))@rng.normal(size=(d,d))+1
        (m1,s1),(m2,s2) = ((o.mean(0), np.cov(o.T)) for o in (a,b))
        want = ((m1-m2)**2).sum()+np.trace(s1+s2-2*scipy.linalg.sqrtm(s1@s2).real)
        assert frechet_distance(m1,s1,m2,s2) == pytest.approx(want, rel=1e-7)
        st = FeatureStats()
        for c in np.array_split(a, 7): st.update(torch.tensor(c))
        np.testing.assert_allclose(st.sigma, s1, rtol=1e-10, atol=1e-12)

def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    f = tmp_path/'net.safetensors'
    save_net(f, MLP(2)); old = f.read_bytes()
    import boss_nb.files as m
    def full(tensors, path, metadata=None): path.write_bytes(b'half'); raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(m, 'save_file', full)
    with pytest.raises(OSError, match='No space'): save_net(f, MLP(3))
    assert f.read_bytes()==old and os.listdir(tmp_path)==['net.safetensors']

@pytest.mark.parametrize('cut', [0, 1, 7, 100, -1])
def test_truncated_files(tmp_path, cut):
    cal = calibrate(smooth, noise(4,(2,),dtype=torch.float64), 10, progress=False)
    for p,load in ((save_net(tmp_path/'n.safetensors', MLP(2)), load_net), (cal.save(tmp_path/'c.safetensors'), Calibration.load)):
        p.write_bytes(p.read_bytes()[:cut])
        with pytest.raises(ValueError, match='not a readable safetensors file'): load(p)

def test_results_do_not_depend_on_batches():
    v, z = digits_teacher(), noise(30, (1,8,8))
    assert torch.allclose(sample(v, z, 5, batch_size=7), sample(v, z, 5), atol=1e-5)
    a, b = (calibrate(v, z, 20, batch_size=k, progress=False) for k in (None, 11))
    assert (a.E-b.E).norm() < 1e-5*a.E.norm() and [s.indices for s in a.schedules(range(1,15))]==[s.indices for s in b.schedules(range(1,15))]

def test_planning_and_straightening_leave_the_teacher_alone():
    v = digits_teacher().train(); state = {k:o.clone() for k,o in v.state_dict().items()}
    grads = [p.requires_grad for p in v.parameters()]
    plan = calibrate(v, noise(8,(1,8,8)), 20, progress=False).schedule(3)
    for r in (None, 4): straighten(v, plan, noise(40,(1,8,8)), lora=r, n_iter=3, teacher_steps=20, progress=False)
    assert v.training and grads==[p.requires_grad for p in v.parameters()] and all(torch.equal(o, state[k]) for k,o in v.state_dict().items())
    assert not any('lora' in n for n,_ in v.named_modules())

def test_straightening_stops_on_nan():
    class Bad(MLP):
        def forward(self, x, t): return super().forward(x, t) if not torch.is_grad_enabled() else super().forward(x, t)*math.nan
    with pytest.raises(FloatingPointError, match='iteration 0'): straighten(Bad(2), uniform(2), noise(30,(2,)), n_iter=5, teacher_steps=10, progress=False)

def test_straightening_repeats():
    v, z = MLP(2).requires_grad_(False), noise(60,(2,))
    a, b = (straighten(v, uniform(2), z, n_iter=10, teacher_steps=10, seed=5, progress=False) for _ in range(2))
    assert all(torch.equal(p,q) for p,q in zip(a.model.parameters(), b.model.parameters()))

def test_one_student_for_two_budgets(tmp_path):
    v, z = digits_teacher(), noise(60,(1,8,8))
    cal = calibrate(v, z[:30], progress=False); plans = cal.schedules((2,4))
    st = straighten(v, plans, z, grid=refine(plans, 16), solver='ab2', lora=4, n_iter=40, bs=48, progress=False)
    back = load_student(save_student(tmp_path/'s.safetensors', st), v)
    trial = Trial(v, noise(40,(1,8,8),'test'))
    other = Trial(back, trial.noise, end=trial.end)
    for p in back.schedules: assert other.error(p) < trial.error(p)
    assert [s.nfe for s in back.schedules]==[2,4]

def test_best_is_never_worse_than_uniform_where_it_chose():
    v = digits_teacher()
    trial, z = Trial(v, noise(40,(1,8,8),'choose')), noise(30,(1,8,8),'calibrate')
    cal = calibrate(v, z, progress=False)
    cal.growth = error_growth(v, z, cal.t, probes=5)
    for k in (1,2,5):
        s = best_schedule(trial, k, cal)
        assert s.nfe==k and trial.error(s) <= trial.error(uniform(k))*(1+1e-6)

def test_training_is_repeatable_and_interruptible():
    from fastai.basics import Callback, CancelFitException
    data = smooth.to(torch.float32).sample(300)
    def go(cbs=()): set_seed(1); return train_flow(MLP(2,16), data, 20, 50, cbs=cbs, progress=False)
    a, b = go(), go()
    assert all(torch.equal(p,q) for p,q in zip(a.parameters(), b.parameters()))
    class Stop(Callback):
        order = 90
        def after_batch(self):
            if self.training and self.train_iter==7: raise CancelFitException()
    assert all(torch.isfinite(p).all() for p in go(Stop()).parameters())
