"Straightening: what is refused, what conditions reach, runs that repeat and go on"
import math
from copy import deepcopy
import pytest, torch
from torch import nn
from fastai.callback.core import Callback
from boss_nb.core import noise
from boss_nb.flow.data import GaussianMixture
from boss_nb.flow.nets import MLP
from boss_nb.flow.velocity import adapt
from boss_nb.sample.schedule import edm, Schedule, uniform
from boss_nb.sample.solvers import sample
from boss_nb.train.loop import Perceptual
from boss_nb.train.states import States
from boss_nb.train.straighten import straighten, Straightened
from boss_nb.train.intervals import StraightenCallback

one, z = GaussianMixture(torch.zeros(1,2), std=.3), noise(500, (2,))
class Exact(nn.Module):
    "The exact velocity plus a linear correction"
    def __init__(self):
        super().__init__()
        self.fix, self.late = nn.Linear(2,2), nn.Linear(2,2)
        for p in self.parameters(): nn.init.zeros_(p)
    def forward(self, x, t): return one(x,t) + self.fix(x) + t[:,None]*self.late(x)
class Labelled(Exact):
    def forward(self, x, t, y): return super().forward(x,t) + 0*y[:,None]
flow = Exact()
def short(net=flow, schedules=uniform(2), noise=z, **kw):
    return straighten(net, schedules, noise, **dict(n_iter=2, teacher_steps=6, progress=False)|kw)

# what is refused

perceptual = Perceptual(lambda x: x.flatten(1), pixels=0)
@pytest.mark.parametrize('kw, says', [
    (dict(on='image'), "'velocity' or 'endpoint'"), (dict(loss=perceptual, on='velocity'), "must be 'endpoint' for a perceptual"),
    (dict(weight='up'), 'weight must be'), (dict(weight=[1.,2.]), '4 positive numbers'), (dict(rollout=2), 'rollout must be'),
    (dict(rollout=.5, whole=False), 'whole must be True'), (dict(loss='l1'), 'loss must be')])
def test_callback_refuses(kw, says):
    states = States.of(torch.randn(5, 5, 2), uniform(4).knots)
    with pytest.raises(ValueError, match=says): StraightenCallback(uniform(4), states, **kw)

def test_callback_refuses_solvers_of_two_evaluations():
    states = States.of(torch.randn(5, 3, 2), uniform(2).knots)
    with pytest.raises(ValueError, match="is for 'heun'"): StraightenCallback(Schedule(uniform(2).knots, 'h', solver='heun'), states)

@pytest.mark.parametrize('kw, says', [
    (dict(net=lambda x,t: x), 'must be an nn.Module'), (dict(schedules=[]), 'at least one Schedule'), (dict(schedules=edm(3)), 'teacher grid'),
    (dict(n_iter=0), 'n_iter'), (dict(lora=-1), 'rank must be'), (dict(lora=0), 'rank must be'), (dict(lr=0.), 'lr must be above 0'),
    (dict(states=torch.ones(5,2,2)), 'states must hold 3 times')])
def test_straighten_refuses(kw, says):
    with pytest.raises(ValueError, match=says): short(**kw)

@pytest.mark.parametrize('kw, says', [(dict(rolout=1.), 'rollout'), (dict(fit=dict(lr=1)), 'fit'), (dict(y=torch.ones(500)), r'cond=dict\(y='),
                                      (dict(lora=dict(rang=1)), 'rang'), (dict(method=1), 'method')])
def test_a_misspelt_option_is_named(kw, says):
    with pytest.raises(TypeError, match=says): short(**kw)

# conditions

class Scaled(Exact):
    seen = []
    def forward(self, x, t, y=None, scale=1.):
        self.seen.append((scale, y is not None and len(y)==len(x)))
        return super().forward(x, t)
@pytest.mark.parametrize('kw', [{}, dict(online=True), dict(rollout=1.)])
def test_conditions_reach_teacher_and_student(kw):
    Scaled.seen.clear()
    short(Scaled(), noise=z[:40], bs=8, teacher_steps=4, cond=dict(y=torch.arange(40)%3, scale=3.), **kw)
    assert set(Scaled.seen)=={(3., True)}

def test_conditions_of_given_states_come_with_them():
    held, y = States.of(torch.stack([z,z], 1), torch.tensor([0.,1.])), torch.arange(500)%3
    with pytest.raises(ValueError, match='come with their states'): short(Labelled(), uniform(1), states=held, cond=dict(y=y))

def test_an_online_run_goes_on_with_its_labels(tmp_path):
    go = lambda y: short(Labelled(), noise=z[:40], n_iter=4, bs=8, teacher_steps=4, online=True, folder=tmp_path, cond=dict(y=y))
    go(torch.arange(40)%3)
    with pytest.raises(ValueError, match='holds a run with'): go(2-torch.arange(40)%3)

# settings

def test_batches_are_a_multiple_of_their_parts():
    st = short(schedules=uniform(3), bs=16, rollout=.5, accumulate=2)               # 16 evaluations: 6 trajectories of 3 steps, in 2 parts
    assert st.learn.opt is None
    assert st.learn.train_state.bs==6

def test_online_states_are_in_the_precision_of_the_noise():
    low = MLP(2, 8).bfloat16()
    assert short(low, noise=z[:40].bfloat16(), lora=2, bs=8, teacher_steps=4, online=True).loss_after < math.inf

def test_settings_are_recorded(): assert short(hold=.5).meta['hold']==.5

class Sleepy(Exact):
    def forward(self, x, t): return super().forward(nn.functional.dropout(x, .5, self.training), t)
def test_weights_by_cost_are_measured_without_dropout():
    once, again = (short(Sleepy().train(), uniform(3), weight='cost') for _ in range(2))
    assert torch.equal(once.losses, again.losses)

@pytest.mark.parametrize('lora', [None, 2])
def test_the_given_network_stays_as_it_is(lora):
    inner = nn.Sequential(nn.Linear(2, 8), nn.Dropout(.5), nn.Linear(8, 2)).eval()
    inner[0].requires_grad_(False)
    st = short(adapt(inner, call=lambda f,x,t: f(x)), lora=lora, teacher_steps=4)
    assert not any(m.training for m in inner.modules())
    if lora is None:
        got = st.model.f.f
        assert torch.equal(got[0].weight, inner[0].weight) and not torch.equal(got[2].weight, inner[2].weight)

def test_states_in_bfloat16(tmp_path):
    off = lambda v: (sample(v, noise(100,(2,),'test'), 2)-sample(one, noise(100,(2,),'test'), 100)).pow(2).mean()
    st = short(n_iter=100, bs=64, teacher_steps=20, lr=.02, store='bfloat16', folder=tmp_path)
    assert off(st) < .2*off(flow)

# runs in folders

@pytest.mark.parametrize('kw', [dict(lora=1), dict(loss='huber'), dict(weight=[1.,2.]), dict(betas=(.9,.95)), dict(teacher_steps=12)])
def test_a_folder_refuses_another_run(tmp_path, kw):
    short(folder=tmp_path)
    with pytest.raises(ValueError, match='holds'): short(**dict(folder=tmp_path)|kw)

def test_a_folder_refuses_another_network(tmp_path):
    short(folder=tmp_path)
    other = deepcopy(flow); other.fix.weight.data += .1
    with pytest.raises(ValueError, match='fingerprint'): short(other, folder=tmp_path)

# gradient checkpointing

class Offers(Exact):
    def enable_gradient_checkpointing(self): self.on = True
def test_gradient_checkpointing():
    assert short(Offers(), uniform(1), checkpointing=True).model.on
    with pytest.raises(ValueError, match='which Exact has not'): short(schedules=uniform(1), checkpointing=True)

# what a student shows

@pytest.mark.parametrize('lora', [None, 4])
def test_a_student_draws_itself(lora):
    st = short(MLP(2, 8), lora=lora)
    html, n = st._repr_html_(), st.n_trained
    assert f'{st.loss_before:.4g} → {st.loss_after:.4g}' in html and html.count('<svg')==2 and html.count('<div>')==html.count('</div>')
    assert ('LoRA of rank 4' if lora else 'all weights') in html and 'seed 0' in html
    st.model.requires_grad_(False)                                                  # as from a file
    assert st.n_trained==n and f'{n:,} parameters' in st._repr_html_()

def test_a_student_without_losses_draws_no_curve():
    html = Straightened(flow, uniform(2), [uniform(2)], 1., .5)._repr_html_()
    assert html.count('<svg')==1 and html.count('<div>')==html.count('</div>')
