"Runs that are killed, interrupted, resumed and spread over processes, as real processes"
import json, math, os, signal, subprocess, sys
from pathlib import Path
import pytest
import torch
import forks
from boss_nb.core import noise
from boss_nb.files import load_state
from boss_nb.flow.nets import MLP, save_net
from boss_nb.sample.schedule import uniform
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
    go = lambda **kw: straighten(kw.pop('net', net), uniform(2), z, n_iter=6, n_steps=4, bs=8, folder=tmp_path/'run', progress=False, fit=dict(save_every=2))
    go(); whole = f.read_bytes()
    if what=='cut': f.write_bytes(whole[:-40])
    elif what=='empty': f.write_bytes(b'')
    elif what=='another kind': save_net(f, net)
    with pytest.raises(ValueError, match='last.safetensors|states|base='): go(**({'net': MLP(2, 8, 1)} if what=='another network' else {}))

def test_log_of_the_wrong_kind_is_told(tmp_path):
    net, z = MLP(2, 8, 1), noise(40, (2,))
    (tmp_path/'run').mkdir(); (tmp_path/'run/log.csv').write_text('not,a,log\nx,y,z\n')
    with pytest.raises(ValueError, match='log.csv'): straighten(net, uniform(2), z, n_iter=40, n_steps=4, bs=8, folder=tmp_path/'run', progress=False)

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
            if self.course.step==3: next(self.model.parameters()).data.fill_(float('nan'))
    with pytest.raises(FloatingPointError, match='not finite after step 4.*of step 2'):
        straighten(net, uniform(2), z, n_iter=6, n_steps=4, bs=8, folder=tmp_path/'run', progress=False, fit=dict(save_every=2), cbs=Spoil())
    assert load_state(tmp_path/'run/last.safetensors')[1]['done']==2

def test_weights_by_cost_and_other_networks_resume(tmp_path):
    torch.manual_seed(0); net, z = MLP(2, 8, 1), noise(40, (2,))
    from fastai.basics import Callback
    class Kill(Callback):
        order = 99
        def after_batch(self):
            if self.course.step==4: raise RuntimeError('killed')
    go = lambda **kw: straighten(net, uniform(3), z, n_iter=8, n_steps=6, bs=9, weight='cost', progress=False, fit=dict(save_every=2), **kw)
    whole = go()
    with pytest.raises(RuntimeError, match='^killed$'): go(folder=tmp_path/'run', cbs=Kill())
    again = go(folder=tmp_path/'run')
    assert all(torch.equal(p, q) for p,q in zip(whole.parameters(), again.parameters())) and not again.model.training
