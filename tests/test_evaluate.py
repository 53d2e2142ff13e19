"Evaluations that are killed, continued and spread over processes, as real processes"
import gc, json, math, os, signal, subprocess, sys, weakref
from pathlib import Path
import numpy as np
import pytest, torch
import forks
from boss_nb.core import noise
from PIL import Image
from boss_nb.judge.evaluate import evaluate, image_batches, left_to_do
from boss_nb.judge.frechet import digit_stats, Extractor, feature_stats, FeatureStats
from boss_nb.flow.nets import digits_teacher, UNet

script = str(Path(__file__).with_name('evaluate_script.py'))
env = os.environ | dict(OMP_NUM_THREADS='1', IN_TEST='1')

def torchrun(*argv): return subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_addr', '127.0.0.1', '--master_port', str(forks.free_port()), *argv], env=env, capture_output=True, text=True, timeout=300)

def run(folder, n=1, **kw):
    folder.mkdir(exist_ok=True)
    r = forks.spread(n, script, folder, *(f'{k}={o}' for k,o in kw.items()), IN_TEST=1)
    assert r.returncode==0, r.stderr[-20000:]
    return json.loads((folder/'result.json').read_text()), dict(np.load(folder/'result.npz'))

@pytest.fixture(scope='module')
def whole(tmp_path_factory): return run(tmp_path_factory.mktemp('whole'), plain=1)

def same(got, want):
    assert got[0]['value']==pytest.approx(want[0]['value'], rel=1e-9) and got[0]['protocol']==want[0]['protocol']
    for k in ('mu','sigma'): assert np.abs(got[1][k]-want[1][k]).max() < 1e-10
    assert (got[1]['features']==want[1]['features']).all() and (got[1]['images']==want[1]['images']).all()

def test_two_processes_are_one(tmp_path, whole):
    two = run(tmp_path, 2)
    assert (whole[0]['world'], two[0]['world'])==(1, 2) and two[0]['made']==230
    same(two, whole)
    assert whole[1]['images'].shape==(25,1,8,8)
    same(run(tmp_path/'small', 2, bs=10), run(tmp_path/'small1', bs=10))          # the first images are of several batches and of both

@pytest.mark.parametrize('sig', [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_by_force_and_continued_by_two(tmp_path, whole, sig):
    p, k = forks.Process(script, tmp_path, 'sleep=.3', 'often=1', IN_TEST=1), 0
    for l in p.lines():
        k += l.startswith('batch')
        if k==4: p.send(sig); break
    assert p.wait(120).returncode!=0
    got = run(tmp_path, 2)
    assert 30 <= got[0]['made'] <= 230-2*40                     # what was written is not made again
    same(got, whole)

def test_one_process_that_fails_loses_only_its_own(tmp_path):
    r = torchrun(script, str(tmp_path), 'fail=1'); assert r.returncode!=0 and 'told to fail' in r.stderr
    got = run(tmp_path)
    assert got[0]['made'] < 230                                  # process 0 had written what it made
    assert got[0]['protocol']['n']==230 and got[1]['features'].shape==(230,64)

def test_memory_does_not_depend_on_n():
    "No sample outlives its batch"
    alive, most = [], []
    def v(x, t):
        u = -x; alive.append(weakref.ref(u)); gc.collect(); most.append(sum(r() is not None for r in alive)); return u
    pix, ref = Extractor(lambda x: x.flatten(1)[:,:8], 'eight'), FeatureStats(8, dict(extractor='eight')).update(torch.randn(20,8))
    evaluate(v, 1, ref, n=1000, extractor=pix, shape=(1,8,8), batch_size=50, images=0, progress=False)
    assert len(most)==20+6 and max(most[7:]) <= 2

def test_broken_folders(tmp_path):
    kw = dict(reference=digit_stats(), n=60, batch_size=30, folder=tmp_path/'run'); v = digits_teacher(); evaluate(v, 2, **kw)
    part = next((tmp_path/'run').glob('part-*.npz')); whole = part.read_bytes()
    part.write_bytes(whole[:500])
    with pytest.raises(ValueError, match='is broken'): evaluate(v, 2, **kw)
    part.write_bytes(whole); part.with_name('part-copy.npz').write_bytes(whole)
    with pytest.raises(ValueError, match='counted twice'): evaluate(v, 2, **kw)
    part.with_name('part-copy.npz').unlink(); assert evaluate(v, 2, **kw).made==0
    (tmp_path/'run/evaluation.json').write_text('{')
    with pytest.raises(ValueError, match='evaluation.json is broken'): evaluate(v, 2, **kw)

def test_noise_belongs_to_the_sample():
    seen = []
    evaluate(lambda x,t: seen.append(x.clone()) or 0*x, 1, digit_stats(), n=50, batch_size=17, seed=5, shape=(1,8,8))
    assert torch.equal(torch.cat(seen[6:]), noise(50, (1,8,8), 'test', 5))

@pytest.mark.parametrize('done,n,size,want', [([], 7, 3, [(0,3),(3,6),(6,7)]), ([(3,6)], 9, 3, [(0,3),(6,9)]), ([(0,9)], 9, 3, [])])
def test_left_to_do(done, n, size, want): assert left_to_do(done, n, size)==want

@pytest.mark.parametrize('done,n,says', [([(0,3),(2,5)], 9, 'samples 2 to 2 were counted twice'), ([(0,8)], 5, 'at least the 8 samples')])
def test_ranges_that_cannot_be(done, n, says):
    with pytest.raises(ValueError, match=says): left_to_do(done, n, 3)

pixels = Extractor(lambda x: x.flatten(1), 'pixels')
wrong = [(dict(n=1), 'n must be a whole number of at least 2'), (dict(n=50.), 'n must be a whole number'),
         (dict(batch_size=0), 'batch_size must be a whole number of at least 1'), (dict(amp='fp8'), "amp must be None, 'bf16' or 'fp16'"),
         (dict(reference=3), 'extractor must be given'), (dict(schedule=[0,.5,.4,1.]), 'increas'), (dict(method='exakt'), "'exact' or 'fast'"),
         (dict(extractor=pixels), 'extractor pixels and digits17'), (dict(reference='nowhere.npz'), 'no such file'),
         (dict(batch_size=25, cond=dict(y=torch.arange(25))), 'as many as a batch'), (dict(batchsize=25), 'batchsize'),
         (dict(reference=feature_stats(torch.rand(9,1,16,16), pixels), extractor=pixels, shape=(1,8,8)), r'size \[1, 8, 8\] and \[1, 16, 16\]'),
         (dict(reference=FeatureStats(3, dict(extractor='pixels')).update(torch.rand(9,3)), extractor=pixels, shape=(1,8,8)), '64 and 3 features'),
         (dict(v=lambda x,t: x*math.nan), 'samples 0 to 49'), (dict(v=lambda x,t: x*1e30), 'infinity')]
@pytest.mark.parametrize('kw,says', wrong, ids=[o for _,o in wrong])
def test_what_is_refused(kw, says):
    with pytest.raises((ValueError, TypeError, FloatingPointError, FileNotFoundError), match=says):
        evaluate(**(dict(v=digits_teacher(), schedule=4, reference=digit_stats(), n=50) | kw))

def test_no_dropout_in_samples():
    net = UNet(width=16, blocks=1, dropout=.5).train()
    assert evaluate(net, 1, digit_stats(), n=8).value==evaluate(net, 1, digit_stats(), n=8).value and net.training

class Holds(torch.nn.Module):
    "The teacher, under a name of its own"
    def __init__(self): super().__init__(); self.v = digits_teacher()
    def forward(self, x, t): return self.v(x, t)

def test_a_folder_knows_what_it_is_of(tmp_path):
    v, kw = Holds(), dict(reference=digit_stats(), n=60, batch_size=30, folder=tmp_path/'run')
    evaluate(v, 2, **kw)
    f = lambda x,t: v(x, t)
    for says,u,k,more in (('knots', v, 3, {}), ('seed is 0 there, 1 asked for', v, 2, dict(seed=1)), ('at least the 60 samples', v, 2, dict(n=50)),
                          ('identity must be given: v is a function', f, 2, {}), ('identity is', f, 2, dict(identity='f')),
                          ('identity must be given: decode', v, 2, dict(shape=(1,8,8), decode=lambda x: -x))):
        with pytest.raises(ValueError, match=says): evaluate(u, k, **(kw | more))
    (tmp_path/'run/evaluation.json').unlink()
    with pytest.raises(ValueError, match='part of another evaluation'): evaluate(v, 3, **kw)
    f = json.loads((tmp_path/'run/evaluation.json').read_text())['facts']; assert f['split']=='test'

def test_a_folder_of_version_01_is_not_mixed_with(tmp_path):
    "Its noise was another: seed + i"
    kw = dict(reference=digit_stats(), n=60, folder=tmp_path/'run'); evaluate(digits_teacher(), 1, **kw)
    p = tmp_path/'run/evaluation.json'; d = json.loads(p.read_text()); del d['facts']['split']; p.write_text(json.dumps(d))
    with pytest.raises(ValueError, match='split is null there'): evaluate(digits_teacher(), 1, **kw)

def test_pictures_that_are_none(tmp_path):
    for i in range(5): Image.fromarray(np.full((8,8), i, np.uint8)).save(tmp_path/f'{i}.png')
    (tmp_path/'a.png').write_bytes(b'none')
    for n,says in ((None, 'not a picture'), (6, 'not a picture'), (7, 'between 1 and 6'), (0, 'between 1 and 6')):
        with pytest.raises(ValueError, match=says): [*image_batches(tmp_path, n=n)]
    with pytest.raises(ValueError, match='channels must be 1 or 3, got 2'): [*image_batches(tmp_path, channels=2)]

def test_command_under_torchrun(tmp_path):
    exe = Path(sys.executable).with_name('boss_evaluate')
    if not exe.exists(): pytest.skip('boss_evaluate is not installed as a command')
    ask = ['--nfe', '2', '--n', '120', '--batch_size', '20', '--folder', str(tmp_path/'rows'), '--json', str(tmp_path/'t.json')]
    two = torchrun('--no-python', '--', str(exe), *ask)
    assert two.returncode==0 and two.stdout.count('FD-120')>=1, two.stderr[-3000:]
    got = json.loads((tmp_path/'t.json').read_text())
    one = forks.run(exe, *ask[:6], '--json', tmp_path/'one.json'); assert one.returncode==0, one.stderr
    assert got['rows'][0]['fd']==pytest.approx(json.loads((tmp_path/'one.json').read_text())['rows'][0]['fd'], rel=1e-9)
