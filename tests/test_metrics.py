"Statistics and the Fréchet distance against the peers"
import json
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from boss_nb.flow.data import digits
from boss_nb.core import as_table
from boss_nb.judge.frechet import (
    check_same_features, digit_features, digit_stats, Extractor, feature_stats, FeatureStats, frechet,
    frechet_distance, read_stats, Score, to_uint8)

def moments(d, n, seed, mean=0.):
    g = np.random.default_rng(seed)
    x = g.normal(size=(n,d))@(g.normal(size=(d,d))*np.geomspace(1, .03, d))/d**.5 + mean + .3*g.normal(size=d)
    return x, x.mean(0), np.cov(x.T)

@pytest.mark.parametrize('d,n1,n2', [(3,50,60), (64,500,900), (256,2000,700), (128,60,2000), (96,40,30)])
def test_frechet_against_peers(d, n1, n2):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid
    from scipy.linalg import sqrtm
    (x,m1,s1), (y,m2,s2) = moments(d, n1, 0), moments(d, n2, 1, .1)
    a, b = (FeatureStats(meta=dict(extractor='x')).update(torch.tensor(o)) for o in (x,y))
    ours = frechet(a, b)
    full = min(n1, n2) > d                        # the peers' square roots of products lose digits when a covariance is singular
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(torch.tensor(o)) for o in (x,y)), verbose=False)['frechet_inception_distance']
    assert ours == pytest.approx(theirs, rel=1e-9 if full else 1e-6)
    assert ours == pytest.approx(float(_compute_fid(*(torch.tensor(o) for o in (m1,s1,m2,s2)))), rel=1e-9 if full else 1e-6)
    if full: assert ours == pytest.approx(((m1-m2)**2).sum()+np.trace(s1)+np.trace(s2)-2*np.trace(sqrtm(s1@s2).real), rel=1e-8)
    assert frechet(a, b, 'fast') == pytest.approx(ours, rel=1e-9 if full else 1e-5)
    assert frechet(b, a) == pytest.approx(ours, rel=1e-9) and frechet(a, a)==0 and frechet_distance(m1, s1, m1.copy(), s1+0)==0

def test_singular_covariances_keep_their_digits():
    "Both of rank r in D dimensions: rotated to r dimensions, the distance has full rank and is known to all digits"
    g = np.random.default_rng(0); d, r = 200, 12
    Q = np.linalg.qr(g.normal(size=(d,d)))[0][:,:r]; A, B = (o@o.T/30 for o in g.normal(size=(2,r,30))); m = g.normal(size=r)
    want = frechet_distance(np.zeros(r), A, m, B)
    assert frechet_distance(np.zeros(d), Q@A@Q.T, Q@m, Q@B@Q.T) == pytest.approx(want, rel=1e-7)

@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.floats(0, 1e4), st.integers(0, 99))
def test_any_split_gives_the_same_statistics(parts, mean, seed):
    x = torch.tensor(np.random.default_rng(seed).normal(size=(sum(parts),4)))+mean
    whole, merged = FeatureStats().update(x), FeatureStats()
    for o in x.split(parts): merged = merged.merge(FeatureStats().update(o))
    assert merged.n==len(x) and np.allclose(merged.mu, x.numpy().mean(0), rtol=1e-12) and np.allclose(whole.sigma, np.cov(x.numpy().T), atol=1e-7) and np.allclose(merged.sigma, whole.sigma, atol=1e-7)

def test_files_of_peers(tmp_path):
    from pytorch_fid.fid_score import compute_statistics_of_path
    s = FeatureStats(meta=dict(extractor='inception-6726825d', resize='torch')).update(torch.randn(50, 7))
    m, c = compute_statistics_of_path(str(s.save(tmp_path/'ours.npz')), None, 1, 7, 'cpu')          # pytorch-fid reads ours
    assert (m==s.mu).all() and (c==s.sigma).all()
    np.savez(tmp_path/'theirs.npz', mu=m, sigma=c)
    b = read_stats(tmp_path/'theirs.npz', 'pytorch-fid', n=50)
    assert b.n==50 and frechet(s, b) < 1e-9
    for convention in ('clean-fid', 'edm', 'torch-fidelity'):
        with pytest.raises(ValueError, match='resize torch and (clean|tf1)'): frechet(s, read_stats(tmp_path/'theirs.npz', convention))
    assert read_stats(tmp_path/'ours.npz').meta==FeatureStats.load(tmp_path/'ours.npz').meta
    with pytest.raises(ValueError, match="means resize 'clean'"): read_stats(tmp_path/'ours.npz', 'clean-fid')
    with pytest.raises(ValueError, match='n must be what'): read_stats(tmp_path/'ours.npz', n=3)
    assert json.loads(str(np.load(tmp_path/'ours.npz')['meta']))['n']==50

@pytest.mark.parametrize('change,says', [(dict(mu=None),'must hold mu and sigma'), (dict(sigma=np.eye(3)),'broken'), (dict(mu=np.full(4,np.nan)),'broken'), (dict(mu=np.array(['a']*4)),'broken'), (dict(mu=np.zeros(4,int)),'broken'),
                                         (dict(sigma=np.triu(np.ones((4,4)))),'not symmetric'), (dict(mu=np.array([{}]*4)),'allow_pickle'), (dict(n=1),'n=1'), (dict(meta='[]'),'not a boss_nb'), (dict(meta='{"n": 7}'),'not a boss_nb')])
def test_broken_files(tmp_path, change, says):
    good = dict(mu=np.zeros(4), sigma=np.eye(4), n=50, meta='{"extractor": "x"}')
    np.savez(tmp_path/'good.npz', **good); assert FeatureStats.load(tmp_path/'good.npz').n==50
    np.savez(tmp_path/'bad.npz', **{k:o for k,o in (good|change).items() if o is not None})
    with pytest.raises(ValueError, match=says.replace('[','.')): FeatureStats.load(tmp_path/'bad.npz')
    (tmp_path/'cut.npz').write_bytes((tmp_path/'good.npz').read_bytes()[:300])
    with pytest.raises(ValueError, match='not a statistics file'): FeatureStats.load(tmp_path/'cut.npz')

def test_nothing_half_written(tmp_path):
    s = FeatureStats().update(torch.randn(5,3)); s.save(tmp_path/'s.npz'); before = (tmp_path/'s.npz').read_bytes()
    s.meta['odd'] = object()
    with pytest.raises(TypeError): s.save(tmp_path/'s.npz')
    assert (tmp_path/'s.npz').read_bytes()==before and [p.name for p in tmp_path.iterdir()]==['s.npz']

def test_shipped_statistics_are_of_the_digits():
    x = digits()[0]; here = feature_stats(x, digit_features())
    assert digit_stats().n==len(x)==1797 and frechet(here, digit_stats()) < 1e-5
    check_same_features(here.meta, digit_stats().meta)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_by_dtype(dtype):
    levels = torch.arange(256, dtype=torch.uint8)
    off = (to_uint8((levels.double()/127.5-1).to(dtype)).int()-levels.int()).abs().max()
    assert off <= (1 if dtype==torch.bfloat16 else 0)

def test_score_is_json_and_a_row(tmp_path):
    s = Score('FD', 1.25, .5, dict(seed=0, n=50_000, nfe=4, velocity=None))
    assert s.name=='FD-50k' and str(s)=='FD-50k 1.25 ± 0.5 (n 50,000, nfe 4, seed 0)' and float(s)==1.25
    d = json.loads(s.save(tmp_path/'s.json').read_text())
    assert d['protocol']==dict(n=50_000, nfe=4, seed=0) and s.row()['FD-50k']==1.25
    tex = as_table([dict(a='50% & more_\\', b=2., b_error=.1)], [('A','a',''),('B','b','.1f')], 'latex')
    assert r'50\% \& more\_\textbackslash{} & 2.0 $\pm$ 0.1 \\' in tex

f = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
@pytest.mark.parametrize('go,exc,says', [(lambda: FeatureStats().update(f*float('nan')), FloatingPointError, 'NaN'), (lambda: FeatureStats().mu, ValueError, 'no features'),
    (lambda: FeatureStats(3).update(f), ValueError, r'\(b, 3\)'), (lambda: FeatureStats().update(f[:1]).sigma, ValueError, 'at least 2 items, got 1'),
    (lambda: FeatureStats().update(f.long()), ValueError, 'floating-point')])
def test_features_that_cannot_be_added(go, exc, says):
    with pytest.raises(exc, match=says): go()

def test_alone_nothing_is_reduced():
    st = FeatureStats().update(f); assert st.all_reduce() is st

def images_of_digits(): return digits()[0][:9]
def lines(x): return x.flatten(1)[:,:9]
@pytest.mark.parametrize('go,exc,says', [
    (lambda x: feature_stats([x[:5], torch.zeros(5,1,16,16)], Extractor(lines, 'pixels')), ValueError, r'one shape, got \(1, 8, 8\) and \(1, 16, 16\)'),
    (lambda x: digit_features()(torch.zeros(3,3,32,32)), ValueError, r'\(b,1,8,8\)'), (lambda x: digit_features()(x[:4]*float('nan')), FloatingPointError, '4 of 4 images'),
    (lambda x: Extractor(lambda x: x, 'raw')(x[:2]), ValueError, 'must return features'), (lambda x: digit_features()((x*8+8).long()), ValueError, 'torch.int64'),
    (lambda x: digit_features()((x+1)*127.5), ValueError, '0 to 255'), (lambda x: feature_stats(x, lambda x: x.flatten(1)), ValueError, 'name must be given'),
    (lambda x: feature_stats(x[:1], digit_features()), ValueError, 'at least 2 images'),
    (lambda x: frechet(feature_stats(x, digit_features()), feature_stats(x, Extractor(lines, 'pixels'))), ValueError, 'extractor digits17-')])
def test_images_that_are_none(go, exc, says):
    with pytest.raises(exc, match=says): go(images_of_digits())

def test_networks_are_told_apart_by_weights():
    nets = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64,3)) for _ in range(2)]; a, b = map(Extractor, nets); x = images_of_digits()
    assert a.name!=b.name and Extractor(nets[0]).name==a.name
    with pytest.raises(ValueError, match='extractor Sequential-'): frechet(feature_stats(x, a), feature_stats(x, b))

def test_tables():
    rows = [dict(who='a_b', fd=1.234, fd_error=.1), dict(who='c', fd=2.)]; cols = [('model','who',''),('FD','fd','.2f'),('none','zip','.1f')]
    assert as_table(rows, cols, 'csv')=='who,fd,fd_error\na_b,1.234,0.1\nc,2.0,\n' and 'a\\_b' in as_table(rows, cols, 'latex')
    with pytest.raises(ValueError, match='markdown'): as_table(rows, cols, 'html')
