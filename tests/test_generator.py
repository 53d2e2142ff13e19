"One-step generators: what is refused, runs that repeat and go on, precision, labels, files"
import math, warnings
from copy import deepcopy
import pytest, torch
from torch import nn
from boss_nb.core import noise, seeded
from boss_nb.flow.nets import MLP
from boss_nb.sample.schedule import uniform
from boss_nb.sample.solvers import sample
from boss_nb.share.students import load_student, save_student
from boss_nb.train.generator import match_generator
from boss_nb.train.straighten import straighten

with seeded(0): net = MLP(2, 32).eval()
z = noise(200, (2,), 'test')
@pytest.fixture(scope='module')
def first(): return straighten(net, uniform(1), noise(400, (2,)), n_iter=20, teacher_steps=8, progress=False)
@pytest.fixture(scope='module')
def lora(): return straighten(net, uniform(1), noise(64, (2,)), lora=4, n_iter=5, teacher_steps=8, progress=False)
def short(v=net, shape=(2,), **kw): return match_generator(v, shape, **dict(n_iter=3, bs=8, online_warmup=2, progress=False)|kw)
def same(a, b): return all(torch.equal(p,q) for p,q in zip(a.parameters(), b.parameters()))

# what is refused

class Broken(MLP):
    def forward(self, x, t): return super().forward(x, t)*math.nan
@pytest.mark.parametrize('kw, says', [
    (dict(shape=None), 'shape must be given'), (dict(schedule=9), '1 to 8 steps'), (dict(a=3), 'a must be between 0 and 2'), (dict(ratio=0), 'ratio must be'),
    (dict(time='gauss'), 'time must be'), (dict(online_warmup=-1), 'online_warmup'), (dict(until=0), 'until must be above 0'), (dict(weight=-1), 'weight must be'),
    (dict(limit=0), 'limit must be'), (dict(online_decay=1.), 'online_decay must be'), (dict(lr_online=-1.), 'lr_online must be'), (dict(cond=dict(y=3)), 'condition y')])
def test_refused(kw, says):
    with pytest.raises(ValueError, match=says): short(**kw)

def test_refused_starts(first, lora):
    for kw,says in ((dict(init=lora), 'a LoRA needs lora='), (dict(lora=2, init=lora), 'rank must be that of init, 4'), (dict(lora=2, init=first), 'must be a LoRA student'),
                    (dict(init=first, schedule=2), "init must be a student of the generator's own steps, 0 0.5 1; it was made for 0 1")):
        with pytest.raises(ValueError, match=says): short(**kw)

def test_not_finite():
    with pytest.raises((ValueError, FloatingPointError), match='not finite'): short(Broken(2, 8))

def test_a_misspelt_option_is_named():
    with pytest.raises(TypeError, match='online_warmup'): short(online_warmip=3)
    with pytest.raises(TypeError, match='how'): short(how=dict(ratio=2))

# runs

def test_a_run_is_a_function_of_its_settings(first):
    go = lambda **kw: short(init=first, **dict(n_iter=8, bs=32, ratio=2, lr=1e-3)|kw)
    one = go()
    assert same(go(), one) and not same(go(seed=1), one) and not same(go(a=1.), one)

def test_a_folder_refuses_another_start(tmp_path, first):
    short(init=first, folder=tmp_path)
    with pytest.raises(ValueError, match='holds a run with'): short(folder=tmp_path, online_decay=.98)

def test_parts_give_the_same(first):
    go = lambda **kw: short(init=first, n_iter=24, bs=32, online_warmup=5, ratio=2, lr=1e-3, limit=None, **kw)
    assert max((p-q).abs().max() for p,q in zip(go(accumulate=4).parameters(), go().parameters())) < 1e-3

def test_mixed_precision(first): assert math.isfinite(short(init=first, n_iter=8, bs=32, amp='bf16').loss_after)

class Small(MLP):
    "Runs out of memory above 16 rows with gradients, and out of mixed precision"
    def forward(self, x, t):
        if torch.is_grad_enabled() and (len(x) > 16 or not torch.is_autocast_enabled('cpu')): raise torch.cuda.OutOfMemoryError(f'CUDA out of memory: {len(x)} rows')
        return super().forward(x, t)
def test_memory_from_the_first_step_to_the_last(): assert math.isfinite(short(Small(2, 8), n_iter=2, bs=16, amp='bf16').loss_after)

def test_half_precision_weights():
    low = short(MLP(2, 8).bfloat16(), lora=2, n_iter=2)
    assert sample(low, noise(4, (2,)).bfloat16(), 1).dtype==torch.bfloat16

def test_a_lora_begins_where_its_start_is(lora):
    more = short(lora=4, init=lora, lr=1e-9, lr_online=1e-9, online_warmup=10)
    assert torch.allclose(more(z[:9], torch.zeros(9)), lora(z[:9], torch.zeros(9)), atol=1e-5)

class Labelled(nn.Module):
    "A velocity with labels: a flow, or its mirror image"
    def __init__(self):
        super().__init__()
        self.net, self.seen = deepcopy(net), set()
    def forward(self, x, t, y):
        self.seen |= set(y.tolist())
        f = (1-2*y.float())[:,None]
        return f*self.net(f*x, t)
def test_labels():
    g = short(Labelled(), n_iter=6, bs=32, cond=dict(y=torch.arange(2)))
    assert g.model.seen=={0,1} and sample(g, z[:6], 1, cond=dict(y=torch.tensor([0,1]*3))).shape==(6,2)

def test_saved_and_read_like_every_student(tmp_path):
    g = short()
    back = load_student(save_student(tmp_path/'g.safetensors', g, net))
    assert torch.equal(sample(back, z, back.schedule), sample(g, z, g.schedule))
    assert (back.meta['kind'], back.meta['a'], back.schedule.nfe)==('generator', .5, 1)

def test_a_learning_rate_that_is_far_too_high_is_found_out(first):
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        try: short(init=first, n_iter=400, bs=64, lr=.1, lr_online=1e-4, ratio=1, online_warmup=100); said = ''
        except FloatingPointError as e: said = str(e)
    assert said or any('Lower lr' in str(o.message) for o in w)
