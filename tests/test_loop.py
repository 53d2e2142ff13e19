"Runs that are killed, interrupted, resumed and spread over processes, as real processes"
import json, math, os, random, signal, subprocess, sys
from copy import deepcopy
from pathlib import Path
import pytest
import torch
from torch import nn
import forks
from boss_nb.core import noise
from boss_nb.files import load_state
from boss_nb.flow.nets import MLP, save_net
from boss_nb.sample.schedule import uniform
from boss_nb.flow.data import ring
from boss_nb.train.loop import EMA, fit_method, FlowMatching, train_flow
from boss_nb.train.straighten import straighten

script = str(Path(__file__).with_name('loop_script.py'))

def words(kw): return [f'{k}={o}' for k,o in kw.items()]

def result(folder, r):
    assert r.returncode==0, r.stderr[-3000:]
    return json.loads((folder/'result.json').read_text())

def run(folder, **kw):
    folder.mkdir(exist_ok=True)
    return result(folder, forks.run(script, folder, *words(kw), IN_TEST=1))

@pytest.fixture(scope='module')
def whole(tmp_path_factory): return run(tmp_path_factory.mktemp('whole'), plain=1)

@pytest.fixture(scope='module')
def generated(tmp_path_factory): return run(tmp_path_factory.mktemp('generated'), plain=1, method='generator')

def stop(folder, sig, at, **kw):
    folder.mkdir(exist_ok=True)
    p = forks.Process(script, folder, 'sleep=.03', *words(kw), IN_TEST=1)
    for l in p.lines():
        if l.startswith(f'step {at}'): p.send(sig); break
    r = p.wait(120)
    return r.returncode, r.stderr

@pytest.mark.parametrize('sig', [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_and_continued(tmp_path, whole, sig):
    code, err = stop(tmp_path, sig, 17)
    assert code!=0
    done = load_state(tmp_path/'run/last.safetensors')[1]['done']
    assert done==15 if sig==signal.SIGKILL else done in (18,19)          # the interrupted batch is finished and kept
    if sig==signal.SIGTERM: assert code==128+sig
    if sig==signal.SIGINT: assert 'KeyboardInterrupt' in err
    got = run(tmp_path)
    assert got['weights']==whole['weights'] and (got['before'], got['after'])==(whole['before'], whole['after'])
    assert got['losses']==whole['losses']

def spread(folder, n, **kw):
    folder.mkdir(exist_ok=True)
    return result(folder, forks.spread(n, script, folder, *words(kw), IN_TEST=1))

def torchrun(folder, n, **kw):
    folder.mkdir(exist_ok=True)
    return subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', str(n), '--master_addr', '127.0.0.1', '--master_port', str(forks.free_port()), script, str(folder), *words(kw)],
                          env=os.environ | dict(OMP_NUM_THREADS='1', IN_TEST='1'), capture_output=True, text=True, timeout=300)

@pytest.mark.parametrize('sig', [signal.SIGKILL, signal.SIGINT])
def test_a_generator_stopped_and_continued(tmp_path, generated, sig):
    "Two networks, two optimisers and an average, all of them to the bit"
    stop(tmp_path, sig, 17, method='generator')
    assert load_state(tmp_path/'run/last.safetensors')[1]['done']==15 if sig==signal.SIGKILL else True
    got = run(tmp_path, method='generator')
    assert got['weights']==generated['weights'] and got['losses']==generated['losses'] and (got['before'], got['after'])==(generated['before'], generated['after'])

@pytest.mark.parametrize('kw', [{}, dict(rank=2, accumulate=2), dict(method='generator', limit=1), dict(method='generator', accumulate=2, lr=3e-3)])
def test_two_processes_are_one(tmp_path, kw):
    one, two = run(tmp_path/'one', plain=1, **kw), spread(tmp_path/'two', 2, **kw)
    assert (one['world'], two['world'])==(1, 2)
    assert two['losses']==pytest.approx(one['losses'], rel=1e-4)
    assert two['after']==pytest.approx(one['after'], rel=1e-3)
    flat = lambda r: [o for w in r['weights'] for o in w]
    assert flat(two)==pytest.approx(flat(one), abs=1e-4)
    assert sorted(os.listdir(tmp_path/'two/run'))==['last.safetensors', 'log.csv']

def test_three_processes_are_one(tmp_path):
    "Three do not divide the generator's warm-up batch of 128: then it is of 129; a smaller batch is a warm-up batch too"
    odd = spread(tmp_path/'odd', 3, method='generator', bs=129, n_iter=2)
    assert odd['world']==3 and len(odd['losses'])==2 and math.isfinite(odd['after'])
    kw = dict(method='generator', bs=33, lr=3e-3)
    one, three = run(tmp_path/'one', plain=1, **kw), spread(tmp_path/'three', 3, **kw)
    assert three['world']==3 and three['after']==pytest.approx(one['after'], rel=.15) and three['losses'][-10:]==pytest.approx(one['losses'][-10:], rel=.25)

@pytest.mark.parametrize('what', ['cut', 'empty', 'another kind', 'another network'])
def test_foreign_checkpoints(tmp_path, what):
    torch.manual_seed(0); net, z, f = MLP(2, 8, 1), noise(40, (2,)), tmp_path/'run/last.safetensors'
    go = lambda **kw: straighten(kw.pop('net', net), uniform(2), z, n_iter=6, teacher_steps=4, bs=8, folder=tmp_path/'run', progress=False, save_every=2)
    go(); whole = f.read_bytes()
    if what=='cut': f.write_bytes(whole[:-40])
    elif what=='empty': f.write_bytes(b'')
    elif what=='another kind': save_net(f, net)
    with pytest.raises(ValueError, match='last.safetensors|states|base='): go(**({'net': MLP(2, 8, 1)} if what=='another network' else {}))

def test_log_of_the_wrong_kind_is_told(tmp_path):
    net, z = MLP(2, 8, 1), noise(40, (2,))
    (tmp_path/'run').mkdir(); (tmp_path/'run/log.csv').write_text('not,a,log\nx,y,z\n')
    with pytest.raises(ValueError, match='log.csv'): straighten(net, uniform(2), z, n_iter=40, teacher_steps=4, bs=8, folder=tmp_path/'run', progress=False)

def test_one_process_interrupted_stops_all_at_the_same_batch(tmp_path, whole):
    r = torchrun(tmp_path, 2, interrupt=7)
    assert r.returncode!=0 and 'KeyboardInterrupt' in r.stderr
    assert load_state(tmp_path/'run/last.safetensors')[1]['done'] in (8, 9)
    assert run(tmp_path)['losses']==pytest.approx(whole['losses'], rel=1e-4)      # begun by two, finished by one

def test_nan_weights_are_not_saved(tmp_path):
    from fastai.basics import Callback
    net, z = MLP(2, 8, 1), noise(40, (2,))
    class Spoil(Callback):
        order = 89
        def after_batch(self):
            if self.train_state.step==3: next(self.model.parameters()).data.fill_(float('nan'))
    with pytest.raises(FloatingPointError, match='not finite after step 4.*of step 2'):
        straighten(net, uniform(2), z, n_iter=6, teacher_steps=4, bs=8, folder=tmp_path/'run', progress=False, save_every=2, cbs=Spoil())
    assert load_state(tmp_path/'run/last.safetensors')[1]['done']==2

def test_weights_by_cost_and_other_networks_resume(tmp_path):
    torch.manual_seed(0); net, z = MLP(2, 8, 1), noise(40, (2,))
    from fastai.basics import Callback
    class Kill(Callback):
        order = 99
        def after_batch(self):
            if self.train_state.step==4: raise RuntimeError('killed')
    go = lambda **kw: straighten(net, uniform(3), z, n_iter=8, teacher_steps=6, bs=9, weight='cost', progress=False, save_every=2, **kw)
    whole = go()
    with pytest.raises(RuntimeError, match='^killed$'): go(folder=tmp_path/'run', cbs=Kill())
    again = go(folder=tmp_path/'run')
    assert all(torch.equal(p, q) for p,q in zip(whole.parameters(), again.parameters())) and not again.model.training

# One process: settings, precision, random numbers

points = ring().sample(2000)
def short(net=None, method=None, **kw):
    "Some steps of flow matching"
    torch.manual_seed(0)
    options = dict(n_iter=60, bs=32, lr=4e-3, seed=3, progress=False) | kw
    return fit_method(net or MLP(2, 32), method or FlowMatching(points), **options)

@pytest.mark.parametrize('kw,match', [(dict(bs=30, accumulate=4), 'multiple of accumulate'), (dict(n_iter=0), 'n_iter must be at least 1'), (dict(bs=0), 'bs must be at least 1'),
    (dict(accumulate=0), 'accumulate must be at least 1'), (dict(save_every=0), 'save_every must be at least 1'), (dict(amp='half'), "'bf16' or 'fp16'"), (dict(valid=2000), 'valid must leave'),
    (dict(lr=0), 'lr must be above 0'), (dict(lr=math.nan), 'lr must be above 0'), (dict(warmup=2), 'warmup must be between 0 and 1'), (dict(hold=-.1), 'hold must be between 0 and 1')])
def test_wrong_settings(kw, match):
    with pytest.raises(ValueError, match=match): short(**kw)

def test_a_misspelt_option_is_a_type_error():
    with pytest.raises(TypeError, match='decai'): short(decai=.9)
    with pytest.raises(TypeError, match='decai'): train_flow(MLP(2), points, 2, decai=.9)

def test_networks_that_cannot_train():
    with pytest.raises(ValueError, match='net has no weights that train'): short(MLP(2, 8).requires_grad_(False))
    with pytest.raises(ValueError, match='no weights that train'): train_flow(MLP(2).requires_grad_(False), points, 2)
    with pytest.raises(ValueError, match="amp='bf16'"): short(MLP(2, 8).bfloat16())
    class Wrong(FlowMatching):
        def loss(self, *a): return super().loss(*a).mean()
    with pytest.raises(ValueError, match='one number per sample'): short(method=Wrong(points), n_iter=1)
    for kw,match in ((dict(n_iter=0), 'n_iter must be at least 1'), (dict(lr=0), 'lr must be above 0')):
        with pytest.raises(ValueError, match=match): train_flow(MLP(2), points, **kw)

def test_double_precision_inside_and_float32_outside():
    torch.manual_seed(0)
    got = short(MLP(2, 32).double())
    assert got.after < got.before and next(got.model.net.parameters()).dtype==torch.float64

def test_random_numbers_of_others_are_left_alone():
    class Moody(FlowMatching):
        def setup(self, net):
            torch.rand(1)
            assert not net.training
    net, method = MLP(2, 32).train(), Moody(points)
    here = torch.get_rng_state(), random.getstate()
    fit_method(net, method, 2, bs=16, progress=False)
    assert torch.equal(torch.get_rng_state(), here[0]) and random.getstate()==here[1]

def test_losses_that_are_not_finite():
    class NaNs(FlowMatching):
        def loss(self, net, *args): return super().loss(net, *args)*(1 if torch.is_grad_enabled() else math.nan)
    with pytest.raises(FloatingPointError, match='validation loss is nan after 2 steps'): short(method=NaNs(points), n_iter=2)
    class Flood(FlowMatching):
        def loss(self, net, x, *args): return super().loss(net, x, *args)+(net(x, args[0]).sum(1)*0).exp()*net(x, args[0]).abs().sum(1).sqrt().mul(0).sqrt()
    with pytest.raises(FloatingPointError, match="use amp='bf16'"): short(method=Flood(points), amp='fp16')
    with pytest.raises(FloatingPointError, match='at iteration 0'): short(method=FlowMatching(points*math.nan))

def test_another_method_is_another_run(tmp_path):
    class Other(FlowMatching): pass
    short(folder=tmp_path, n_iter=4)
    for method in (Other(points), FlowMatching(points, time='logit-normal'), FlowMatching(points+1)):
        with pytest.raises(ValueError, match='holds a run with'): short(method=method, folder=tmp_path, n_iter=4)

def test_lines_of_the_log(tmp_path):
    short(folder=tmp_path, save_every=10)
    rows = [r.split(',') for r in (tmp_path/'log.csv').read_text().splitlines()]
    assert [int(r[0]) for r in rows[1:]]==[10, 20, 30, 40, 50, 60] and rows[0][:4]==['step','loss','lr','seconds']

def test_statistics_of_a_network_in_train_mode_belong_to_the_run(tmp_path):
    class Normed(nn.Module):
        def __init__(self): super().__init__(); self.net, self.norm = MLP(2, 8), nn.BatchNorm1d(2)
        def forward(self, x, t): return self.norm(self.net(x, t))
    net = Normed()
    a, b, c = (short(deepcopy(net), n_iter=6, bs=16, **kw) for kw in ({}, dict(folder=tmp_path), dict(folder=tmp_path)))
    assert a.model.net.norm.running_mean.abs().max() > 0
    for o in (b, c): assert torch.equal(o.model.net.norm.running_mean, a.model.net.norm.running_mean) and o.after==a.after

def test_float16_goes_on_with_its_scale(tmp_path):
    from fastai.basics import Callback
    class Loud(FlowMatching):
        def loss(self, net, *args): return 1e3*super().loss(net, *args)
    class Kill(Callback):
        order = 99
        def after_batch(self):
            if self.train_state.step==17: raise RuntimeError('killed')
    go = lambda **kw: short(method=Loud(points), amp='fp16', n_iter=30, save_every=5, **kw)
    whole = go()
    with pytest.raises(RuntimeError, match='^killed$'): go(folder=tmp_path, cbs=Kill())
    again = go(folder=tmp_path)
    assert all(torch.equal(p, q) for p,q in zip(whole.model.parameters(), again.model.parameters()))
    assert whole.grad_scaling.scaler.get_scale()==again.grad_scaling.scaler.get_scale() and whole.ema.step==again.ema.step

def test_every_label_is_seen_and_none():
    class Hears(nn.Module):
        "Notes the labels that come"
        def __init__(self): super().__init__(); self.label, self.seen = nn.Embedding(4, 2), set()
        def forward(self, x, t, y):
            self.seen |= set(y.tolist())
            return x+self.label(y)
    net = Hears()
    train_flow(net, points[:400], 5, 100, y=torch.arange(400)%3, null=3, drop_label=.3, progress=False)
    assert net.seen=={0,1,2,3}

def test_training_that_ends_early_leaves_the_average():
    from fastai.basics import Callback, CancelFitException
    class Stop(Callback):
        order = 90
        def after_batch(self):
            if self.train_state.step==7: raise CancelFitException()
    learn = short(cbs=Stop())
    assert learn.ema.swapped and learn.train_state.step==7 and not torch.equal(learn.ema.avg[0], next(learn.model.parameters()))
