"Tables of runs by judges: what is kept, what is measured again, what is refused"
import json
from pathlib import Path
from types import SimpleNamespace
import pytest, torch
from boss_nb.core import noise
from boss_nb.flow.data import moons
from boss_nb.flow.nets import digits_teacher
from boss_nb.judge.evaluate import evaluate
from boss_nb.judge.frechet import digit_features, digit_stats, Extractor, feature_stats, frechet
from boss_nb.judge.measure import endpoint, frechet_to, measure, Results, Run
from boss_nb.sample.schedule import Schedule, uniform
from boss_nb.sample.solvers import sample

root = Path(__file__).resolve().parent.parent
ref, shape = digit_stats(), (1,8,8)
class Times(torch.nn.Module):
    "A velocity times a number, silent where its label is 1"
    def __init__(self, v, k): super().__init__(); self.v, self.k = v, k
    def forward(self, x, t, y=None): return self.k*(self.v(x, t) if y is None else self.v(x, t)*(1-y.reshape(-1,1,1,1)))
@pytest.fixture(scope='module')
def v(): return digits_teacher()
def table(runs, judges=None, noise=(40,shape), **kw): return measure(runs, judges or frechet_to(ref), noise, progress=False, **kw)

def test_the_same_weights_are_not_the_same_velocity(v, tmp_path):
    r = table([Run('a', Times(v,1.), 2), Run('b', Times(v,.5), 2)], folder=tmp_path)
    assert r.measured==2 and r['a']['fd']!=r['b']['fd']

def test_conditions_and_decoders_are_part_of_a_row(v, tmp_path):
    rs = [table(Run('a', Times(v,1.), 2, cond=dict(y=torch.full((40,), k))), folder=tmp_path) for k in (0.,1.,1.)]
    assert [r.measured for r in rs]==[1,1,0] and rs[0]['a']['fd']!=rs[1]['a']['fd']==rs[2]['a']['fd']
    fs = [table(Run('a', v, 2), folder=tmp_path, decode=f) for f in (lambda x: x, lambda x: -x)]       # functions cannot be recognised
    assert [r.measured for r in fs]==[1,1] and fs[0]['a']['fd']!=fs[1]['a']['fd'] and len([*tmp_path.iterdir()])==2
    es = [Run('a', v, 2), Run('b', Times(v,1.), 2, cond=dict(y=torch.zeros(40)))]
    assert [table(o).protocol['cond'] for o in (es, es[::-1])]==['differs between rows']*2

def test_a_broken_row(v, tmp_path):
    table(Run('a', v, 2), folder=tmp_path)
    for text in ('{"row": {}}', '{', '[]', '{"row": 3}'):
        for p in tmp_path.glob('*.json'): p.write_text(text)
        with pytest.raises(ValueError, match='is broken'): table(Run('a', v, 2), folder=tmp_path)

@pytest.mark.parametrize('runs,kw,says', [([], {}, 'at least one'), ([Run('a',None,2)]*2, {}, "'a' twice"), ([Run('a',None,2)], dict(repeats=0), 'repeats must be'),
    ([Run('a',None,2)], dict(judges=[]), 'judges must hold at least one'), ([Run('a',None,2)], dict(noise=None), 'noise must be a tensor or'),
    ([Run('a',None,2)], dict(noise=(1,shape)), 'n must be a whole number of at least 2'), ([Run('a',None,2)], dict(noise=torch.zeros(9,1,8,8), repeats=2), 'repeats are on disjoint noise')])
def test_what_is_refused(runs, kw, says):
    kw = dict(judges=frechet_to(ref), noise=(40,shape)) | kw
    with pytest.raises(ValueError, match=says): measure(runs, progress=False, **kw)

def test_options_are_not_conditions(v):
    with pytest.raises(TypeError, match='batchsize'): measure(Run('a', v, 2), frechet_to(ref), (40,shape), batchsize=3)

def test_a_row_by_hand_and_in_memory_as_streamed(v, tmp_path):
    a = table(Run('a', v, 4), noise=(60,shape), repeats=2, seed=3)['a']
    assert a['values']['fd']==pytest.approx([evaluate(v, 4, ref, n=60, seed=s).value for s in (3,4)], rel=1e-6)
    assert a['fd_error']==pytest.approx(torch.tensor(a['values']['fd'], dtype=torch.float64).std().item()/2**.5, rel=1e-6)
    both = table(Run('a', v, 4), [frechet_to(ref), lambda x: dict(mean=x.mean(), std=x.std())], (60,shape), repeats=2, seed=3)
    assert both['a']['values']['fd']==pytest.approx(a['values']['fd'], rel=1e-6) and both.columns==['fd','mean','std']
    given = table(Run('a', v, 4), noise=noise(60, shape, 'test', 3))
    assert given['a']['fd']==pytest.approx(a['values']['fd'][0], rel=1e-6)

def test_endpoint_on_its_own_noise(v):
    "Beside streamed noise the endpoint is compared on the noise of its trial"
    z = noise(12, shape, 'choose'); t = SimpleNamespace(noise=z, end=sample(v, z, 10), cond=None)
    r = table(Run('a', v, 2), [endpoint(t), frechet_to(ref)])
    want = (sample(v, z, 2)-t.end).double().pow(2).flatten(1).mean(1)
    assert r['a']['endpoint_error']==pytest.approx(want.mean().item(), rel=1e-5) and r['a']['nfe']==2
    assert r['a']['endpoint_error_error']==pytest.approx((want.std()/12**.5).item(), rel=1e-5)
    assert table(Run('a', v, 2), endpoint(t), None)['a']['endpoint_error']==pytest.approx(want.mean().item(), rel=1e-5)

def test_rows_are_kept_and_named_anew(v, tmp_path):
    runs = [Run(l, v, s, meta=dict(seed=i)) for i,(l,s) in enumerate((('a',uniform(2)), ('b',Schedule([0,.5,1],'half')), ('c',3)))]
    r = table(runs, folder=tmp_path)
    assert r.measured==2 and [(o['label'],o['schedule'],o['seed']) for o in r.rows]==[('a','uniform',0), ('b','half',1), ('c','uniform',2)] and r.columns==['fd']
    again = table(runs, folder=tmp_path); assert again.measured==0 and again.rows==r.rows
    assert len([*tmp_path.iterdir()])==2                                                       # rows, no sums
    assert table(runs, noise=(39,shape), folder=tmp_path).measured==2
    assert table(runs, [frechet_to(ref), lambda x: x.mean()], folder=tmp_path).measured==3      # a function is measured each time

def test_samples_that_are_kept():
    gm = moons(); z = noise(6, (2,), 'test'); t = SimpleNamespace(noise=z, end=sample(gm, z, 4), cond=None)
    two = [Schedule([0,.3,1], 'boss'), Schedule([0,.6,1], 'ab2 plan', solver='ab2')]
    runs = [Run('a',gm,o) for o in two]+[Run('a',gm,[0,.50001,1]), Run('a',gm,[0,.50002,1]), Run('teacher',gm,4)]
    both = measure(runs, endpoint(t), z, keep=True, progress=False)
    assert len(both.samples)==5 and ('teacher',4) in both.samples
    assert torch.allclose(both.samples['a',2,'ab2 plan','ab2'], sample(gm, z, two[1]))
    assert torch.equal(both.samples['teacher',4], t.end) and both['teacher']['endpoint_error']==0

def test_teacher_and_real_at_once(v):
    "What `bench` of 0.1 did: endpoint error, Fréchet distance to the teacher's samples and to real images"
    z = noise(40, shape, 'test'); t = SimpleNamespace(noise=z, end=sample(v, z, 10), cond=None); feat = digit_features()
    r = measure([Run('two', v, 2), Run('teacher', v, 10)], dict(endpoint_error=endpoint(t), fd_teacher=frechet_to(t.end, feat), fd_real=frechet_to(ref)), z, progress=False)
    assert r.columns==['endpoint_error','fd_teacher','fd_real'] and r['teacher']['fd_teacher'] < 1e-6 < r['two']['fd_teacher']
    assert r['two']['fd_real']==pytest.approx(frechet(feature_stats(sample(v, z, 2), feat), ref), rel=1e-6)
    tex = r.table('latex'); assert tex.count('pm')==2 and len(r.table('csv').splitlines())==3 and r.describe() in str(r)
    s = r.score(r['two'], 'fd_teacher'); assert s.name=='FD-40' and s.protocol['nfe']==2 and s.protocol['extractor']==feat.name
    assert r.score(r['two'], 'endpoint_error').error > 0

def test_tables_of_version_01_load():
    r = Results.load(root/'tests/data/v0.1/bench.json')
    assert r.columns==['endpoint_error','fd_teacher','fd_real'] and r['teacher']['endpoint_error']==0
    assert 'FD real' in r.table() and r.describe() and r.plot('fd_real') is not None

def test_hostile_tables(tmp_path):
    for text in ('[]', '{', '{"kind": "boss_nb.results"}', '{"kind": "boss_nb.bench", "rows": [3], "protocol": {}}', '{"kind": "x", "rows": [], "protocol": {}}'):
        (tmp_path/'x.json').write_text(text)
        with pytest.raises(ValueError, match='not a boss_nb table'): Results.load(tmp_path/'x.json')
    with pytest.raises(FileNotFoundError, match='no such file'): Results.load(tmp_path/'none.json')
