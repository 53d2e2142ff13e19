"Methods to beat: densities of time, a network that knows its jump, average velocities that only the right tangent learns, runs that repeat"
import math
from copy import deepcopy
import pytest, torch
from fastai.callback.core import Callback
from hypothesis import given, settings, strategies as st
from boss_nb.core import noise, seeded
from boss_nb.flow.data import GaussianMixture
from boss_nb.train.loop import fit_method, Perceptual
from boss_nb.files import buffer_names, load_state, save_state
from boss_nb.flow.nets import fill_net, MLP, UNet
from boss_nb.train.reflow import (
    AnnealingReflow, FlowGuided, Jump, KDistil, MeanFlow, OnKnots, RectifiedDiffusion, Reflow, RFpp,
    SplitMeanFlow, u_shaped, vp_time)
from boss_nb.sample.solvers import sample
from boss_nb.train.states import States

m, s = torch.tensor([1.,-.5]), .3
curved, z = GaussianMixture(m[None], s), noise(600, (2,))
pairs = States.of(torch.stack([z, m+s*z], 1), [0.,1.])
class Labelled(MLP):
    def forward(self, x, t, y): return super().forward(x, t) + y[:,None].to(x)
labels = States.of(torch.stack([z, m+s*z], 1), [0.,1.], dict(y=torch.arange(600)%3))
every = {'Reflow': lambda p: Reflow(p, 'logit-normal'), 'KDistil': lambda p: KDistil(p, 3), 'RFpp': RFpp, 'RectifiedDiffusion': lambda p: RectifiedDiffusion(p, 'vp', 'noise'), 'AnnealingReflow': lambda p: AnnealingReflow(p, 5, flip=True),
         'FlowGuided': lambda p: FlowGuided(p, lambda x,t,**c: curved(x,t)), 'MeanFlow': MeanFlow, 'MeanFlow, teacher': lambda p: MeanFlow(p, lambda x,t,**c: curved(x,t)), 'SplitMeanFlow': lambda p: SplitMeanFlow(p, pairs=False)}
def start(k, labelled=False, seed=0):
    with seeded(seed):
        net = (Labelled if labelled else MLP)(2, 16, 2)
        return Jump(net) if 'Mean' in k else net
def weights(net): return torch.cat([p.detach().flatten() for p in net.parameters()])
def fit(net, method, n_iter=6, **kw): return fit_method(net, method, n_iter, **(dict(bs=32, lr=1e-2, valid=40, progress=False)|kw))

# densities

@settings(max_examples=60, deadline=None)
@given(st.floats(.01, 30), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_u_shaped_inverts_its_distribution(a, us):
    u = torch.tensor(sorted(us), dtype=torch.float64); t = u_shaped(u, a)
    F = ((a*t).exp()-(a*(1-t)).exp()+math.exp(a)-1)/(2*(math.exp(a)-1))     # as the density integrates, not as the code inverts it
    assert (F-u).abs().max() < 1e-9 and t.min() >= 0 and t.max() <= 1 and (t.diff() >= 0).all()
    assert (u_shaped(1-u, a)-(1-t)).abs().max() < 1e-9

@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1))
def test_vp_time_is_where_the_paths_meet(u):
    u = torch.tensor([u], dtype=torch.float64); t = vp_time(u)
    a, b = math.sin(math.pi/2*u.item()), math.cos(math.pi/2*u.item())
    assert t.item() == pytest.approx(a/(a+b), abs=1e-12) and torch.atan2(t, 1-t).item()*2/math.pi == pytest.approx(u.item(), abs=1e-9)

@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**6))
def test_k_steps_are_the_k_times(k, seed):
    d = KDistil(pairs, k); idx, t = d.draw(torch.Generator().manual_seed(seed), torch.arange(600))
    on = t*k; assert (on-on.round()).abs().max() < 1e-4 and t.min() >= 0 and t.max() < 1 and len(t.unique()) == (k if k<20 else len(t.unique()))
    assert torch.equal(d.bins(idx, t), on.round().long()) and d.n_bins==k

def test_shares_and_ends_of_jumps():
    gen = torch.Generator().manual_seed(0); idx = torch.arange(600).repeat(20)
    for o in (0., .3, 1.):
        for time in ('uniform', 'u-shaped', 'logit-normal'):
            _, t, h, *_ = SplitMeanFlow(pairs, share=o, time=time).draw(gen, idx)
            assert abs((h>0).float().mean()-o) < .02 and h.min() >= 0 and (t+h).max() <= 1+1e-6 and t.min() >= 0

# a network that knows how far it jumps

@pytest.mark.parametrize('make', [lambda: MLP(2, 16), lambda: UNet(width=8, blocks=1, classes=3)], ids=['mlp', 'unet'])
def test_jump_is_kept_and_differentiated(tmp_path, make):
    with seeded(1):
        net = make()
        for p in net.parameters(): p.data.normal_(std=.1)
        x = torch.randn(4, 2) if isinstance(net, MLP) else torch.randn(4, 1, 8, 8)
        t, h = torch.rand(2, 4); j = Jump(net); before = j(x, t, h); j.jump.mlp[-1].weight.data.normal_()
    assert torch.equal(before, net(x, t)) and not torch.equal(j(x, t, h), before)
    assert {k for k in j.state_dict() if k.startswith('net.')} == {'net.'+k for k in net.state_dict()}
    f = save_state(tmp_path/'j.safetensors', j.state_dict(), buffer_names(j))
    assert torch.equal(fill_net(Jump(make()), load_state(f)[0], f).eval()(x, t, h), j.eval()(x, t, h))
    a, b = deepcopy(j), deepcopy(j); b.jump.mlp[-1].weight.data.zero_()
    assert torch.equal(a(x, t, h), j(x, t, h)) and torch.equal(b(x, t, h), net.eval()(x, t))
    a = a.double(); X, T, H, e = x.double(), t.double(), h.double(), 1e-6
    V = torch.randn(X.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)); one = torch.ones_like(T)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH): du = torch.func.jvp(a, (X, T, H), (V, one, -one))[1]
    num = (a(X+e*V, T+e, H-e)-a(X-e*V, T-e, H+e))/(2*e)
    assert (du-num).abs().max() < 1e-5*num.abs().max()

def test_jump_trains_what_it_should():
    frozen = MLP(2, 8).requires_grad_(False)
    assert all(p.requires_grad for p in Jump(frozen).parameters()) and not any(p.requires_grad for p in frozen.parameters())
    part = MLP(2, 8); part.body.requires_grad_(False)
    j = Jump(part); assert not any(p.requires_grad for p in j.net.body.parameters()) and j.net.time.mlp[0].weight.requires_grad
    own = Jump(part, copy=False); assert own.net is part
    j = Jump(MLP(2, 8)); j(z[:5], torch.rand(5), torch.rand(5)).sum().backward()
    assert all(p.grad is not None for p in j.parameters())                    # what DistributedDataParallel insists on

class Deaf(MLP):
    "Has an embedding of time under another name as well, and never calls it"
    def __init__(self): super().__init__(2, 8); self.clock = torch.nn.Linear(1, 8)
class Failing(MLP):
    def forward(self, x, t): raise RuntimeError('lost')
def test_jump_says_what_is_wrong():
    with pytest.raises(ValueError, match="never called its submodule 'clock'"): Jump(Deaf(), 'clock')(z[:3], torch.rand(3), torch.rand(3))
    with pytest.raises(ValueError, match='there are time, body'): Jump(MLP(2), 'embed')
    j = Jump(Failing(2))
    with pytest.raises(RuntimeError, match='lost'): j(z[:3], torch.rand(3))
    assert not j.net.time._forward_hooks                                      # the hook goes also when the call fails
    v = Jump(MLP(2)).on([0., .25, 1.])
    for t in (1., .5):
        with pytest.raises(ValueError, match='t must be a knot that has a next one'): v(z[:3], torch.full((3,), t))
    assert v.nfe_per_call==1 and sample(v, z[:6].half(), [0., .25, 1.]).dtype==torch.float16

# average velocities, learned

class Forgets(MeanFlow): tangent = (1., 0.)              # that the jump gets shorter as t moves
class Reversed(MeanFlow): tangent = (-1., 1.)            # the paper's direction of time
class Stayed(SplitMeanFlow):
    "The second half starts where the first did"
    def loss(self, net, x0, x1, t, h, lam):
        x, v = self.point(x0, x1, t, {}); L = lam[:,None]
        with torch.no_grad(): want = torch.where(h[:,None]>0, L*net(x, t, h=lam*h)+(1-L)*net(x, t+lam*h, h=(1-lam)*h), v)
        return self.weighted(net(x, t, h=h)-want)

class Smooth(torch.nn.Module):
    "gain(t,h) x + shift(t,h), the form of the average velocity of a flow to one Gaussian"
    def __init__(self): super().__init__(); self.f = torch.nn.Sequential(torch.nn.Linear(2,32), torch.nn.Tanh(), torch.nn.Linear(32,32), torch.nn.Tanh(), torch.nn.Linear(32,3))
    def forward(self, x, t, h): o = self.f(torch.stack([t,h], 1)); return o[:,:1]*x + o[:,1:]

@pytest.fixture(scope='module')
def learned():
    "Mean squared distance of a single step from where the flow goes, after training with each rule"
    data, zt, out = curved.sample(2000), noise(500, (2,), start=10**6), {}
    for c in (MeanFlow, Forgets, Reversed, SplitMeanFlow, Stayed):
        with seeded(0): net = Smooth()
        fit(net, c(data, curved, p=0., share=.5), 600, bs=64, lr=.04, valid=1, clip=5., explode=1e9)
        out[c] = (sample(OnKnots(net, 1), zt, 1)-(m+s*zt)).pow(2).mean().item()
    return out
@pytest.mark.parametrize('right, wrong', [(MeanFlow, Forgets), (MeanFlow, Reversed), (SplitMeanFlow, Stayed)])
def test_only_the_right_rule_learns_the_average_velocity(learned, right, wrong): assert learned[right] < .01 < .05 < learned[wrong], learned

# runs

@pytest.mark.parametrize('k', every)
def test_methods_repeat_and_take_conditions(k):
    a, b, c = (fit(start(k), every[k](pairs), seed=o).model.net for o in (3, 3, 4))
    assert torch.equal(weights(a), weights(b)) and not torch.equal(weights(a), weights(c)) and torch.isfinite(weights(a)).all()
    y = fit(start(k, True), every[k](labels)); assert math.isfinite(y.after)
    assert not torch.equal(weights(y.model.net), weights(start(k, True)))

@pytest.mark.parametrize('k', ['AnnealingReflow', 'FlowGuided', 'MeanFlow', 'SplitMeanFlow'])
def test_parts_and_precision(k):
    whole, parts = (fit(start(k), every[k](pairs), accumulate=o).model.net for o in (1, 4))
    assert (weights(whole)-weights(parts)).abs().max() < 1e-4
    assert torch.isfinite(weights(fit(start(k), every[k](pairs), amp='bf16').model.net)).all()

class Stop(Callback):
    order = 95
    def after_batch(self):
        if self.training and self.learn.train_state.step==4: raise RuntimeError('pulled the plug')
@pytest.mark.parametrize('k', ['AnnealingReflow', 'SplitMeanFlow'])
def test_stopped_and_continued(tmp_path, k):
    want = fit(start(k), every[k](pairs), 8).model.net
    with pytest.raises(RuntimeError, match='plug'): fit(start(k), every[k](pairs), 8, folder=tmp_path, save_every=2, cbs=[Stop()])
    assert load_state(tmp_path/'last.safetensors')[1]['done'] == 4
    assert torch.equal(weights(fit(start(k), every[k](pairs), 8, folder=tmp_path, save_every=2).model.net), weights(want))

def test_images_with_attention_and_a_perceptual_loss():
    im = noise(24, (1,8,8)); st_ = States.of(torch.stack([im, im.flip(-1)], 1), [0.,1.], dict(y=torch.arange(24)%3))
    with seeded(0): net = UNet(width=8, blocks=1, classes=3)
    for f in (lambda: MeanFlow(st_), lambda: SplitMeanFlow(st_)): assert math.isfinite(fit(Jump(net), f(), 2, bs=8, valid=4).after)
    seen = Perceptual(lambda x: (x.mean(-1), x.mean(-2)))
    for f in (lambda: RFpp(st_, perceptual=seen, by_time=True), lambda: KDistil(st_, 1, distance=seen)): assert math.isfinite(fit(deepcopy(net), f(), 2, bs=8, valid=4).after)
