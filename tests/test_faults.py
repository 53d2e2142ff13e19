"Faults that people reported in other tools, tried here: surroundings, adapters, hidden state, ends, processes, copies"
import contextlib, copy, pickle, subprocess, sys
import pytest, torch
from torch import nn
import forks
from boss_nb.core import noise
from boss_nb.flow.data import moons
from boss_nb.flow.nets import load_net, MLP, save_net
from boss_nb.flow.velocity import (
    adapt, as_velocity, autocasted, broadcast, check_function, conditioned, explained, from_ddpm, from_edm, from_sigma, guided,
    with_time)
from boss_nb.sample.schedule import Schedule, uniform
from boss_nb.sample.solvers import sample, trajectory
from boss_nb.plan.costs import calibrate, error_growth
from boss_nb.plan.refine import refine_schedule, Trial
from boss_nb.plan.choose import plan
from boss_nb.plan.published import gits, oss
from boss_nb.train.lora import add_lora, make_student
from boss_nb.train.loop import train_flow
from boss_nb.train.states import States, teacher_states
from boss_nb.train.straighten import straighten
from boss_nb.train.generator import match_generator
from boss_nb.judge.frechet import Extractor, FeatureStats, feature_stats
from boss_nb.judge.evaluate import evaluate
from boss_nb.judge.measure import endpoint, measure, Run
from boss_nb.share.bundle import Bundle
from boss_nb.share.comfy import read_sigmas
from boss_nb.share.students import load_student, save_student

@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    return MLP(2, 32, 2).eval().requires_grad_(True)

z = noise(40, (2,))

# 1. surroundings

@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try: yield
    finally: torch.set_default_dtype(torch.float32)

@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try: yield
    finally: torch.use_deterministic_algorithms(False)

@contextlib.contextmanager
def low_precision():
    torch.set_float32_matmul_precision('medium')
    try: yield
    finally: torch.set_float32_matmul_precision('highest')

surroundings = dict(autocast=lambda: torch.autocast('cpu', torch.bfloat16), no_grad=torch.no_grad, inference=torch.inference_mode,
                    grad=torch.enable_grad, float64=default_dtype, deterministic=deterministic, medium=low_precision,
                    meta=lambda: torch.device('meta'))

def kw(**more): return dict(n_iter=12, bs=16, progress=False) | more
grid = torch.linspace(0, 1, 11, dtype=torch.float64)
entries = dict(
    sample=lambda v: sample(v, z, 3), trajectory=lambda v: trajectory(v, z, 3, 'ab2'),
    calibrate=lambda v: calibrate(v, z, 10, progress=False), error_growth=lambda v: error_growth(v, z, grid),
    explained=lambda v: explained(v, z, batch_size=8), teacher_states=lambda v: teacher_states(v, z, [0,5], 10, progress=False),
    plan=lambda v: plan(v, z, 3, spend=30_000, teacher_steps=20), gits=lambda v: gits(Trial(v, z, teacher_steps=10), 3),
    oss=lambda v: oss(Trial(v, z, teacher_steps=10), 3), error=lambda v: Trial(v, z, teacher_steps=10).errors(3),
    refine=lambda v: refine_schedule(Trial(v, z, teacher_steps=10), uniform(3), n_iter=1, progress=False),
    straighten=lambda v: straighten(v, uniform(2), z, teacher_steps=10, **kw()),
    lora=lambda v: straighten(v, uniform(2), z, lora=2, teacher_steps=10, **kw()),
    rollout=lambda v: straighten(v, uniform(2), z, rollout=1., teacher_steps=10, **kw()),
    match=lambda v: match_generator(v, (2,), online_warmup=2, ratio=1, **kw()),
    flow=lambda v: train_flow(v, z, **kw()),
    measure=lambda v: measure([Run('a', v, 3)], endpoint(Trial(v, z, teacher_steps=10)), progress=False))

def numbers(o):
    "A result as one tensor"
    if isinstance(o, torch.Tensor): return o
    if hasattr(o, 'each'): return o.each
    if hasattr(o, 'knots'): return o.knots
    if hasattr(o, 'rows'): return torch.tensor([r['endpoint_error'] for r in o.rows])
    return torch.cat([p.detach().flatten() for p in o.parameters()])

@pytest.mark.parametrize('name', entries)
def test_what_the_caller_has_set_changes_nothing(net, name):
    want = numbers(entries[name](copy.deepcopy(net)))
    for what,inside in surroundings.items():
        before, v = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_float32_matmul_precision()), copy.deepcopy(net)
        with inside(): got = entries[name](v)
        got = numbers(got)
        assert got.dtype==want.dtype and torch.equal(got, want), what
        assert not got.is_inference() and before==(torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_float32_matmul_precision())

@pytest.mark.parametrize('name', entries)
def test_training_mode_changes_nothing(net, name):
    if name=='flow': pytest.skip('a flow is trained with its own dropout')
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.drop = copy.deepcopy(net), nn.Dropout(.5)
        def forward(self, x, t): return self.drop(self.net(x, t))
    v = Dropping().eval()
    want = numbers(entries[name](v))
    v.train()
    assert torch.equal(numbers(entries[name](v)), want) and v.training and v.drop.training

def test_reported_losses_are_of_the_student(net):
    plain = straighten(net, uniform(2), z, teacher_steps=10, **kw())
    with torch.autocast('cpu', torch.bfloat16): s = straighten(net, uniform(2), z, teacher_steps=10, **kw())
    assert (s.loss_before, s.loss_after)==(plain.loss_before, plain.loss_after)

@pytest.mark.parametrize('lora', [None, 2])
def test_a_network_made_under_inference_mode(lora):
    with torch.inference_mode():
        torch.manual_seed(0)
        s = straighten(MLP(2, 16, 2).eval(), uniform(2), noise(40, (2,)), lora=lora, teacher_steps=10, **kw())
    assert s.loss_after < s.loss_before
    with torch.inference_mode(): made = MLP(2, 8, 2)
    with pytest.raises(ValueError, match='inference_mode'): train_flow(made, z, **kw())

def test_a_file_is_read_as_it_was_written(net, tmp_path):
    save_net(tmp_path/'n.safetensors', net)
    with default_dtype(), torch.inference_mode(): back = load_net(tmp_path/'n.safetensors')
    assert all(p.dtype==torch.float32 and not p.is_inference() for p in back.parameters()) and torch.equal(back(z, torch.ones(40)), net(z, torch.ones(40)))

# 2. adapters that are there already

def loaded(net, state):
    base = add_lora(net, 2).get_base_model() if state!='peft model' else add_lora(net, 2)
    torch.manual_seed(1)
    for n,p in base.named_parameters():
        if 'lora_B' in n: p.data.normal_(std=.3)
    for m in base.modules():
        if not hasattr(m, 'lora_A'): continue
        if state=='fused': m.merge()
        if state=='off': m.enable_adapters(False)
        if state=='half': m.set_scale('default', .5)
    return base.eval()

states = ('on', 'off', 'fused', 'half', 'peft model')
@pytest.mark.parametrize('state', states)
def test_a_student_starts_as_its_teacher(net, state, tmp_path):
    v = loaded(net, state); t = torch.full((40,), .3)
    before = v(z, t)
    s = straighten(v, uniform(2), z, lora=4, teacher_steps=10, **kw(lr=1e-12, n_iter=1))
    assert torch.equal(s(z, t), before) and torch.equal(v(z, t), before)
    s = straighten(v, uniform(2), z, lora=4, teacher_steps=10, **kw(lr=.02, n_iter=5))
    assert not torch.equal(s(z, t), before) and torch.equal(v(z, t), before)
    assert len([p for p in s.parameters() if p.requires_grad])==2*5                  # one adapter of five layers trains
    f = save_student(tmp_path/'s.safetensors', s)
    assert torch.equal(load_student(f, v)(z, t), s(z, t))
    if state!='off':                                                                 # its base is the network with what was loaded
        with pytest.raises(ValueError, match='another base'): load_student(f, net)

@pytest.mark.parametrize('state', states)
def test_a_copy_starts_as_its_teacher(net, state):
    v = loaded(net, state); t = torch.full((40,), .3)
    before = v(z, t)
    assert torch.equal(make_student(v)(z, t), before) and torch.equal(v(z, t), before)

# 3. LoRA files

@pytest.mark.parametrize('config', [dict(lora_bias=True), dict(bias='lora_only'), dict(modules_to_save=['body.4']), dict(use_dora=True),
                                    dict(use_rslora=True), dict(rank_pattern={'body.0':1}), dict(alpha_pattern={'body.0':1})])
def test_what_a_lora_file_cannot_hold_is_refused(net, tmp_path, config):
    from peft import get_peft_model, LoraConfig
    s = straighten(net, uniform(2), z, lora=2, teacher_steps=10, **kw(n_iter=1))
    s.model = get_peft_model(copy.deepcopy(net), LoraConfig(r=2, target_modules=['body.0','body.2'], **config))
    with pytest.raises(ValueError, match=next(iter(config))): save_student(tmp_path/'s.safetensors', s)
    assert not list(tmp_path.iterdir())

def test_a_file_with_another_alpha(net, tmp_path):
    s = straighten(net, uniform(2), z, lora=dict(rank=2, alpha=8.), teacher_steps=10, **kw(lr=.02))
    back = load_student(save_student(tmp_path/'s.safetensors', s), net)
    assert torch.equal(back(z, torch.ones(40)), s(z, torch.ones(40)))

# 5. not a function of state and time

class Cached(nn.Module):
    "Computes every `period`-th call, and answers with the last in between"
    def __init__(self, net, period): super().__init__(); self.net, self.period, self.calls = net, period, 0
    def forward(self, x, t):
        if self.calls%self.period==0: self.last = self.net(x, t)
        self.calls += 1
        return self.last[:1].expand_as(x) if len(self.last)!=len(x) else self.last
class Random(nn.Module):
    def __init__(self, net): super().__init__(); self.net = net
    def forward(self, x, t): return nn.functional.dropout(self.net(x, t), .1, training=True)
class Averaging(nn.Module):
    "Adds a little of the call before"
    def __init__(self, net): super().__init__(); self.net, self.old = net, 0.
    def forward(self, x, t):
        u = self.net(x, t)
        out, self.old = u+.1*self.old, u.mean().detach()
        return out

hidden = dict(every_second=lambda n: Cached(n, 2), every_third=lambda n: Cached(n, 3), every_fourth=lambda n: Cached(n, 4), dropout=Random, averaging=Averaging)
uses = dict(calibrate=lambda v: calibrate(v, z, 10, progress=False), plan=lambda v: plan(v, z, 3, teacher_steps=20),
            straighten=lambda v: straighten(v, uniform(2), z, teacher_steps=10, **kw()),
            states=lambda v: straighten(v, uniform(2), z, states=States.of(torch.randn(40, 3, 2), uniform(2).knots), **kw()),
            match=lambda v: match_generator(v, (2,), **kw()), evaluate=lambda v: evaluate(v, 3, torch.rand(50, 1, 1, 2)*2-1, 20, two_pixels(), shape=(1,1,2), progress=False),
            measure=lambda v: measure([Run('a', v, 3)], lambda x: x.mean(), (20, (2,)), progress=False))

def two_pixels(): return Extractor(lambda x: x.float().flatten(1), 'two')

@pytest.mark.parametrize('name', uses)
@pytest.mark.parametrize('what', hidden)
def test_a_hidden_state_is_found(net, what, name):
    v = hidden[what](net if name!='evaluate' else Flat(net))
    with pytest.raises(ValueError, match='not a function of x and t: .*'+('dropout|randomness' if what=='dropout' else 'the calls before|randomness')): uses[name](v)
class Flat(nn.Module):
    "A network of points for images of two pixels"
    def __init__(self, net): super().__init__(); self.net = net
    def forward(self, x, t): return self.net(x.flatten(1), t).reshape(x.shape)

def test_functions_pass(net):
    for v in (net, moons(), lambda x,t: torch.zeros_like(x), lambda x,t: torch.ones_like(x), guided(lambda x,t,y: net(x,t)*y[:,None], 2., 0)):
        assert check_function(v, z, dict(y=torch.arange(40)) if getattr(v, 'nfe_per_call', 1)==2 else {}) in (24, 48)
    cal = calibrate(net, z, 10, progress=False)
    assert cal.meta['evaluations']==40*10+24

# 6. ends

@pytest.mark.parametrize('f, says', [
    (lambda n: evaluate(Flat(n), [.3,.6,1.], torch.rand(50, 1, 1, 2), 20, two_pixels(), shape=(1,1,2)), 'begin at 0'),
    (lambda n: evaluate(Flat(n), [0.,.6], torch.rand(50, 1, 1, 2), 20, two_pixels(), shape=(1,1,2)), 'end at 1'),
    (lambda n: measure([Run('a', n, [.3,1.])], lambda x: x.mean(), (20, (2,))), 'begin at 0'),
    (lambda n: measure([Run('a', n, [0,.3])], lambda x: x.mean(), z), 'end at 1'),
    (lambda n: match_generator(n, (2,), [0,.5], **kw()), 'end at 1'), (lambda n: match_generator(n, (2,), [.5,1.], **kw()), 'begin at 0'),
    (lambda n: straighten(n, Schedule([0,.5]), z, teacher_steps=10, **kw()), 'end at 1'),
    (lambda n: Trial(n, z).error([0,.5]), 'end at 1'), (lambda n: Trial(n, z).error([.5,1.]), 'begin at 0'),
    (lambda n: Bundle(n, Schedule([.3,1.]), shape=(2,)).sample(4), 'begin at 0')])
def test_ends_that_are_not_ends(net, f, says):
    with pytest.raises(ValueError, match=says): f(net)

def test_states_that_are_given_may_start_late(net):
    late = [.3,.6,1.]
    assert measure([Run('a', net, late)], lambda x: x.mean(), z, progress=False).rows
    trial = Trial(net, z, start=.3)
    assert measure([Run('a', net, late)], endpoint(trial), progress=False).rows[0]['endpoint_error']==pytest.approx(trial.error(late))
    assert Bundle(net, Schedule(late), shape=(2,)).sample(z).shape==z.shape

def test_who_wrote_a_list_of_sigmas():
    text = ', '.join(map(str, Schedule([0,.5,1.]).to_sigmas()))
    with pytest.raises(ValueError, match="writer='diffusers'"): read_sigmas(text)
    assert torch.equal(read_sigmas(text, 'diffusers').knots, uniform(2).knots)
    assert torch.equal(read_sigmas('1.0, 0.5, 0.0', 'diffusers').knots, uniform(2).knots) and read_sigmas('1.0, 0.5', 'comfy').knots[-1]==.5
    with pytest.raises(ValueError, match='writer must be'): read_sigmas(text, 'me')

# 7. processes that disagree

script = """
import sys, torch
torch.set_num_threads(1)
from boss_nb.core import noise
from boss_nb.flow.nets import MLP, digits_teacher
from boss_nb.judge.frechet import digit_stats
from boss_nb.judge.evaluate import evaluate
from boss_nb.plan.costs import calibrate
from boss_nb.sample.schedule import uniform
from boss_nb.train.processes import join_processes
from boss_nb.train.straighten import straighten
rank, odd = join_processes()[0], sys.argv[1]
mine = lambda what: rank if odd==what else 0
torch.manual_seed(mine('network'))
v = MLP(64, 8, 1)
e = lambda: evaluate(v, 2+mine('schedule'), digit_stats(), 40+mine('n'), seed=mine('seed'), progress=False)
c = lambda: calibrate(v, noise(8, (1,8,8), 'calibrate', mine('seed')), 5, progress=False)
s = lambda: straighten(v, uniform(2), noise(20, (1,8,8)), n_iter=2+mine('n'), bs=4, lr=1e-3*(1+mine('schedule')), teacher_steps=4, seed=mine('seed'), progress=False)
for name,f in dict(evaluate=e, calibrate=c, straighten=s).items():
    try: f(); said = 'ok'
    except ValueError as err: said = str(err).replace(chr(10), ' ')
    open(f'{sys.argv[2]}/{rank}-{name}', 'w').write(f'{rank} {name} {said}')
"""
@pytest.mark.parametrize('odd', ['nothing', 'network', 'seed', 'schedule', 'n'])
def test_processes_that_disagree(tmp_path, odd):
    (tmp_path/'script.py').write_text(script)
    r = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_addr', '127.0.0.1', '--master_port',
                        str(forks.free_port()), str(tmp_path/'script.py'), odd, str(tmp_path)], capture_output=True, text=True, timeout=300)
    lines = [p.read_text() for p in sorted(tmp_path.glob('?-*'))]
    assert len(lines)==6, r.stdout+r.stderr
    for l in lines:
        fine = odd=='nothing' or 'calibrate' in l[:12] and odd in ('schedule','n')
        assert l.endswith('ok')==fine and (fine or 'must be called with the same settings' in l), l

# 9. copies

wraps = [as_velocity, adapt, autocasted, from_sigma, from_edm, lambda n: adapt(n, 'noise', (1000,0)), lambda n: adapt(n, 'data'), lambda n: adapt(n, 'reverse'),
         lambda n: with_time(n, 0, 999), lambda n: conditioned(Labelled(n), y=torch.ones(40)), lambda n: broadcast(Labelled(n), y=1.),
         lambda n: guided(Labelled(n), 1., 0), lambda n: from_ddpm(n, torch.linspace(.99, .01, 20))]
class Labelled(nn.Module):
    def __init__(self, net): super().__init__(); self.net = net
    def forward(self, x, t, y=None): return self.net(x, t)*(1 if y is None else y[:,None])

@pytest.mark.parametrize('k', range(len(wraps)))
def test_velocities_can_be_copied(net, k):
    v, cond = wraps[k](net), dict(y=torch.ones(40)) if k==11 else {}
    for c in (copy.deepcopy(v), pickle.loads(pickle.dumps(v))):
        assert torch.equal(c(z, torch.full((40,), .4), **cond), v(z, torch.full((40,), .4), **cond)) and c.describe()==v.describe()

def test_records_can_be_copied(net):
    s = straighten(net, uniform(2), z, teacher_steps=10, **kw())
    l = straighten(net, uniform(2), z, lora=2, teacher_steps=10, **kw())
    trial = Trial(net, z, teacher_steps=10)
    res = measure([Run('a', net, 3)], endpoint(trial), progress=False)
    flow = Bundle(net, uniform(3), shape=(2,))
    for o in (s, l, trial, res, flow, calibrate(net, z, 10, progress=False), uniform(3), moons(), FeatureStats(2)):
        for c in (copy.deepcopy(o), pickle.loads(pickle.dumps(o))): assert type(c) is type(o)
    for o in (s, l, flow):
        for c in (copy.deepcopy(o), pickle.loads(pickle.dumps(o))): assert torch.equal(c(z, torch.ones(40)), o(z, torch.ones(40)))

# in pipelines of diffusers

def tiny():
    pytest.importorskip('diffusers')
    from boss_nb.share.tiny import tiny_embeds, tiny_sd3
    pipe = tiny_sd3()
    pipe.set_progress_bar_config(disable=True)
    return pipe, tiny_embeds(pipe)

def styled(pipe, state):
    "Somebody's LoRA in a pipeline"
    from peft import LoraConfig
    pipe.transformer.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=['to_q','to_v']), adapter_name='style')
    torch.manual_seed(0)
    for n,p in pipe.transformer.named_parameters():
        if 'lora_B' in n: p.data.normal_(std=.3)
    if state=='off': pipe.disable_lora()
    if state=='half': pipe.set_adapters('style', .5)
    if state in ('fused','gone'): pipe.fuse_lora()
    if state=='gone': pipe.unload_lora_weights()

@pytest.mark.parametrize('state', ['on', 'off', 'half', 'fused', 'gone'])
def test_a_pipeline_that_carries_a_lora(state, tmp_path):
    from boss_nb.share.lora import save_pipeline_lora, straighten_lora, use_lora_schedule
    from boss_nb.share.pipelines import pipeline_velocity
    pipe, embeds = tiny(); styled(pipe, state)
    v = pipeline_velocity(pipe, **embeds)
    z, t = v.noise(4), torch.full((4,), .3)
    before, fit = v(z, t), dict(bs=4, teacher_steps=4, progress=False)
    s = straighten_lora(v, uniform(2), z, rank=4, lr=1e-12, n_iter=1, **fit)
    assert torch.equal(s(z, t), before) and torch.equal(v(z, t), before)
    s = straighten_lora(v, uniform(2), z, rank=4, alpha=8., lr=1e-2, n_iter=3, **fit)
    assert not torch.equal(s(z, t), before) and torch.equal(v(z, t), before)
    f = save_pipeline_lora(tmp_path, s)
    if state in ('fused','gone','half'): return
    if state=='off': pipe.enable_lora()
    pipe.load_lora_weights(tmp_path, adapter_name='few')
    pipe.set_adapters(['style','few'] if state=='on' else ['few'])
    assert torch.allclose(pipeline_velocity(pipe, **embeds)(z, t), s(z, t), atol=1e-5)
    assert len(use_lora_schedule(pipe, f))==2

def test_a_loader_of_tensors_needs_no_alpha(tmp_path):
    from safetensors.torch import load_file
    from boss_nb.share.lora import save_pipeline_lora, straighten_lora
    from boss_nb.share.pipelines import pipeline_velocity
    pipe, embeds = tiny(); v = pipeline_velocity(pipe, **embeds)
    z, t = v.noise(4), torch.full((4,), .3)
    s = straighten_lora(v, uniform(2), z, rank=4, alpha=8., lr=1e-2, n_iter=3, bs=4, teacher_steps=4, progress=False)
    state, net = load_file(save_pipeline_lora(tmp_path, s)), copy.deepcopy(pipe.transformer)
    for k in [k for k in state if k.endswith('.lora_A.weight')]:
        layer = net.get_submodule(k.removeprefix('transformer.').removesuffix('.lora_A.weight'))
        layer.weight.data += state[k.replace('lora_A', 'lora_B')] @ state[k]
    pipe.transformer = net
    assert torch.allclose(pipeline_velocity(pipe, **embeds)(z, t), s(z, t), atol=1e-4) and not torch.allclose(v(z, t), s(z, t), atol=1e-3)

def test_a_schedule_for_a_lora_that_is_not_at_work(tmp_path):
    from boss_nb.share.lora import save_pipeline_lora, straighten_lora, use_lora_schedule
    from boss_nb.share.pipelines import pipeline_velocity
    pipe, embeds = tiny(); v = pipeline_velocity(pipe, **embeds)
    s = straighten_lora(v, uniform(2), v.noise(4), rank=4, lr=1e-2, n_iter=2, bs=4, teacher_steps=4, progress=False)
    f = save_pipeline_lora(tmp_path, s)
    def refused(says):
        with pytest.raises(ValueError, match=says): use_lora_schedule(pipe, f)
    refused('is not loaded')
    pipe.load_lora_weights(tmp_path, adapter_name='few')
    assert len(use_lora_schedule(pipe, f))==2
    pipe.set_adapters('few', .5); refused('at strength 0.5')
    pipe.set_adapters('few', 1.); pipe.disable_lora(); refused('switched off')
    pipe.enable_lora(); use_lora_schedule(pipe, f)
    pipe.fuse_lora(); use_lora_schedule(pipe, f)
    pipe.unfuse_lora()
    with torch.no_grad(): next(p for n,p in pipe.transformer.named_parameters() if 'lora_' not in n).add_(1.)
    refused('another SD3Transformer2DModel: the same layers with other weights')

def test_a_pipeline_with_our_scheduler_comes_back(tmp_path):
    pipe, embeds = tiny()
    from boss_nb.share.schedulers import heun_scheduler
    pipe.scheduler = heun_scheduler(pipe.scheduler)
    pickle.loads(pickle.dumps(pipe.scheduler)); copy.deepcopy(pipe.scheduler)
    pipe.save_pretrained(tmp_path)
    line = f"import diffusers, boss_nb.share.schedulers; p = diffusers.DiffusionPipeline.from_pretrained({str(tmp_path)!r}, **{{f'{{k}}{{i}}': None for k in ('text_encoder','tokenizer') for i in ('','_2','_3')}}); p.scheduler.set_timesteps(sigmas=[1., .5]); print(p.scheduler.sigmas.tolist())"
    r = subprocess.run([sys.executable, '-c', line], capture_output=True, text=True)
    assert r.returncode==0 and r.stdout.strip().endswith('[1.0, 0.5, 0.5, 0.0]'), r.stderr[-2000:]
