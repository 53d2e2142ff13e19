"Kernel distance, precision and recall, density and coverage, sliced Wasserstein and the extrapolated Fréchet distance: against the peers, and at the edges"
import json, math, warnings
import numpy as np
import pytest, torch
from scipy.stats import wasserstein_distance
from boss_nb.judge.frechet import FeatureStats, frechet_distance
from boss_nb.judge.distances import (
    density_coverage, frechet_infinity, kid, precision_recall, distances, sliced_wasserstein)

def draw(n, d, seed=0, shift=0., scale=1., dtype=torch.float64):
    x = scale*torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)+shift/math.sqrt(d)
    return x.to(dtype)
pairs = [(200,200,8,.3), (150,400,64,1.), (500,90,3,0.), (60,50,200,.5)]
four = lambda a,b,k,closed: dict((s.metric, s.value) for s in precision_recall(a,b,k,closed)+density_coverage(a,b,k,closed))

# ---- kernel distance
@pytest.mark.parametrize('degree,gamma,coef0', [(3,None,1.), (2,.1,0.), (1,1.,2.)])
@pytest.mark.parametrize('n,d,mean', [(200,8,0.), (150,64,3.), (40,200,0.)])
def test_kid_against_peers(n, d, mean, degree, gamma, coef0):
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torchmetrics.image.kid import poly_mmd
    a, b = draw(n,d,1,.5)+mean, draw(n,d,2)+mean
    ours = kid(a, b, degree=degree, gamma=gamma, coef0=coef0).value
    theirs = kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=n, kid_kernel='poly', kid_kernel_poly_degree=degree, kid_kernel_poly_gamma=gamma, kid_kernel_poly_coef0=coef0, rng_seed=0, verbose=False)
    assert ours == pytest.approx(theirs['kernel_inception_distance_mean'], rel=1e-9)
    assert ours == pytest.approx(float(poly_mmd(b, a, degree, gamma, coef0)), rel=1e-9)
    assert kid(a, b, 1, n, degree=degree, gamma=gamma, coef0=coef0).value == pytest.approx(ours, rel=1e-9)   # a subset of all

def test_kid_subsets():
    "The mean over subsets has the mean of all pairs, in torch-fidelity's way of drawing as in ours; one subset of all items has the error of all pairs"
    from torch_fidelity.metric_kid import kid_features_to_metric
    a, b = draw(300,6,1,.5), draw(400,6,2); whole = kid(a,b)
    many = kid(a, b, 300, 60, seed=3)
    theirs = kid_features_to_metric(a, b, kid_subsets=300, kid_subset_size=60, kid_kernel='poly', kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1., rng_seed=0, verbose=False)
    mean, std = (theirs[f'kernel_inception_distance_{o}'] for o in ('mean','std'))
    for v in (many.value, mean): assert abs(v-whole.value) < 4*std/math.sqrt(300)
    assert kid(a, b, 300, 60, seed=3)==many and kid(a, b, 300, 60, seed=4).value!=many.value
    assert many.error > .8*whole.error and kid(a, b, 5, 60).error > many.error
    c = draw(300,6,5); assert kid(a, c, 3, 300).error == pytest.approx(kid(a, c).error, rel=1e-9)
    assert many.protocol['subsets']==300 and many.protocol['subset_size']==60 and whole.protocol['subsets']=='all pairs'

def test_kid_of_identical_sets():
    "Not 0 but a little below: pairs within a set leave out an item with itself, the pairs between a set and its copy do not"
    a = draw(200,5); k = (a@a.T/5+1)**3; off = (k.sum()-k.trace())/(200*199)
    s = kid(a, a)
    assert s.value == pytest.approx(float(2*off-2*k.mean()), rel=1e-9) and s.value < 0

def test_kid_error_by_definition():
    "The jackknife, by leaving items out one by one"
    a, b = draw(25,4,1,.5), draw(40,4,2); s = kid(a, b, degree=2, coef0=.5); but = lambda o,i: torch.cat([o[:i],o[i+1:]])
    left = [[kid(but(a,i), b, degree=2, coef0=.5).value for i in range(25)], [kid(a, but(b,i), degree=2, coef0=.5).value for i in range(40)]]
    assert s.error == pytest.approx(math.sqrt(sum(np.var(o)*(len(o)-1) for o in left)), rel=1e-8)

# ---- balls
@pytest.mark.parametrize('n,m,d,shift', pairs)
@pytest.mark.parametrize('k', [1,3,5,20])
def test_balls_against_peers(n, m, d, shift, k):
    from prdc import compute_prdc
    from torch_fidelity.metric_prc import calculate_precision_recall_full
    a, b = draw(n,d,1,shift), draw(m,d,2)
    theirs = compute_prdc(b.numpy(), a.numpy(), k)
    for chunk in (4096, 64):
        ours = {s.metric:s.value for s in precision_recall(a,b,k,closed=False,chunk=chunk)+density_coverage(a,b,k,chunk=chunk)}
        assert ours == pytest.approx(theirs, abs=1e-12)
    assert [s.value for s in precision_recall(a,b,k)] == pytest.approx(list(calculate_precision_recall_full(a,b,k)), abs=1e-6)   # theirs is float32 in the mean

@pytest.mark.parametrize('d,values', [(1,6), (2,4), (5,2)])
@pytest.mark.parametrize('k', [1,2,4])
def test_ties_and_duplicates(d, values, k):
    "Few values, many equal distances and equal items: in whole numbers both peers are exact, and each has its own rule"
    from prdc import compute_prdc
    g = torch.Generator().manual_seed(d)
    a, b = (torch.randint(values, (n,d), generator=g).double() for n in (40,70))
    open_ = compute_prdc(b.numpy(), a.numpy(), k)
    D = lambda x,y: (x[:,None]-y[None]).square().sum(2)
    r = lambda x: (D(x,x)+torch.eye(len(x))*1e9).kthvalue(k).values
    closed = dict(precision=(D(a,b)<=r(b)[None]).any(1).double().mean(), recall=(D(a,b)<=r(a)[:,None]).any(0).double().mean(), density=(D(a,b)<=r(b)[None]).sum().double()/k/40, coverage=(D(a,b)<=r(b)[None]).any(0).double().mean())
    assert open_['precision'] < closed['precision'] or open_['recall'] < closed['recall']             # the rules do differ here
    for scale,off in ((1.,0.), (.1,1e2/7), (1e-11,0.), (1e6,-1e7/3)):                               # and in numbers that are not whole, we have the same ties
        x, y = scale*a+off, scale*b+off
        assert four(x,y,k,False) == pytest.approx(open_, abs=1e-12)
        assert four(x,y,k,True) == pytest.approx({n:float(o) for n,o in closed.items()}, abs=1e-12)

def test_ties_are_no_wider_than_rounding():
    "A part in a billion outside of a ball is outside; and an offset of a million, exact in these numbers, changes nothing"
    b = torch.tensor([[0.,0],[1,0]]).double()
    for eps,p in ((-1e-9,1.), (0.,1.), (1e-9,0.)): assert precision_recall(torch.tensor([[-1-eps,0],[-1-eps,0]], dtype=torch.float64), b, 1)[0].value==p
    x, y = ((draw(150,6,i)*1024).round()/1024 for i in (1,2))
    assert four(x+2.**20, y+2.**20, 3, True)==four(x, y, 3, True)==four(x-2.**30, y-2.**30, 3, True)

def test_ball_edges():
    a, b = draw(30,4,1), draw(20,4,2)
    precision_recall(a, b, 19); density_coverage(b, a, 19)
    for k in (20,25):
        with pytest.raises(ValueError, match=f'k must be below the number of items of either set, 20, got {k}'): precision_recall(a, b, k)
    for k in (0,-1,1.5,None):
        with pytest.raises(ValueError, match='k must be a whole number of at least 1'): density_coverage(a, b, k)
    same = four(b, b, 3, True); assert same['precision']==same['recall']==same['coverage']==1
    assert four(a+1e3, b, 3, True) == dict(precision=0, recall=0, density=0, coverage=0)
    flat = torch.full((30,4), .3)
    assert [four(flat, flat[:20], 3, c)['precision'] for c in (True,False)] == [1,0]                # balls of radius 0: a point is on the surface, and nothing is inside
    s = precision_recall(draw(200,4,3), draw(300,4,4), seed=7); assert s==precision_recall(draw(200,4,3), draw(300,4,4), seed=7) and s[0].error > 0
    assert precision_recall(a, b)[0].error is None and 'error_by' not in precision_recall(a, b)[0].protocol
    far = torch.cat([b, torch.full((1,4), 1e8)]); assert precision_recall(a, far)[1].value == pytest.approx(precision_recall(a, b)[1].value*20/21)   # an outlier does not blur the rest

# ---- sliced Wasserstein
@pytest.mark.parametrize('n,m', [(50,50), (50,75), (31,100), (2,3)])
@pytest.mark.parametrize('p', [1,2,3.5])
def test_swd_against_scipy(n, m, p):
    "p=1 from scipy; other p by repeating items until both sets have the same number"
    a, b = draw(n,5,1,1.), draw(m,5,2); th = torch.randn(40, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    A, B = ((o@(th/th.norm(dim=1,keepdim=True)).T).T.sort(1).values for o in (a,b))
    same = (A.repeat_interleave(m,1)-B.repeat_interleave(n,1)).abs()
    s = sliced_wasserstein(a, b, 40, p, seed=9)
    assert s.value == pytest.approx(float((same**p).mean()**(1/p)), rel=1e-12)
    if p==1: assert s.value == pytest.approx(np.mean([wasserstein_distance(x.numpy(), y.numpy()) for x,y in zip(A,B)]), rel=1e-12)
    assert sliced_wasserstein(a, b, 40, p, seed=9, chunk=7).value == pytest.approx(s.value, rel=1e-12) and sliced_wasserstein(b, a, 40, p, seed=9).value == pytest.approx(s.value, rel=1e-12)

def test_swd_error_by_definition():
    a, b = draw(37,3,1,1.), draw(52,3,2); s = sliced_wasserstein(a, b, 30, seed=5, blocks=6)
    ga, gb = (torch.randperm(len(o), generator=torch.Generator().manual_seed(5))%6 for o in (a,b))
    left = np.array([sliced_wasserstein(a[ga!=i], b[gb!=i], 30, seed=5).value for i in range(6)])
    th = torch.randn(30, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64); th /= th.norm(dim=1,keepdim=True)
    w = np.array([np.mean((np.repeat(np.sort((a@t).numpy()),52)-np.repeat(np.sort((b@t).numpy()),37))**2) for t in th])
    assert s.error == pytest.approx(math.hypot(w.std(ddof=1)/math.sqrt(30)/(2*s.value), left.std()*math.sqrt(5)), rel=1e-8)

@pytest.mark.parametrize('d', [1,3,100])
def test_swd_of_a_shift(d):
    a = draw(40,d,1); s = torch.linspace(1,2,d, dtype=torch.float64); w = sliced_wasserstein(a+s, a, 3000, seed=d)
    assert abs(w.value-s.norm()/math.sqrt(d)) < 4*w.error+1e-9 and w.error < .05*w.value
    with pytest.raises(ValueError, match='p must be at least 1 and finite, got inf'): sliced_wasserstein(a, a, p=math.inf)
    with pytest.raises(ValueError, match='n_projections must be a whole number of at least 2'): sliced_wasserstein(a, a, 1)

# ---- Fréchet, extrapolated
def fd(a, b): return frechet_distance(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))

def test_frechet_infinity_by_definition():
    a, b = draw(333,6,1,.5), draw(250,6,2,0,1.2); B = 7
    ga, gb = (torch.randperm(len(o), generator=torch.Generator().manual_seed(4))%B for o in (a,b))
    p = torch.tensor([B*fd(a,b)-(B-1)*fd(a[ga!=i], b[gb!=i]) for i in range(B)], dtype=torch.float64); s = frechet_infinity(a, b, B, seed=4)
    assert s.value == pytest.approx(float(p.mean()), rel=1e-8) and s.error == pytest.approx(float(p.std()/B**.5), rel=1e-8)
    ref = FeatureStats(meta=dict(extractor='inception-6726825d', resize='tf1')).update(b)
    q = torch.tensor([B*fd(a,b)-(B-1)*fd(a[ga!=i], b) for i in range(B)], dtype=torch.float64); t = frechet_infinity(a, ref, B, seed=4)
    assert t.value == pytest.approx(float(q.mean()), rel=1e-8) and t.metric=='FID-inf' and t.protocol['extrapolated']=='a' and t.protocol['resize']=='tf1' and t.protocol['n_reference']==250
    assert s.metric=='FD-inf' and s.protocol['extrapolated']=='both'

def test_frechet_infinity_is_unbiased():
    "60 pairs of sets with 16 features and only 100 items: the plain distance is off by many times the truth, the extrapolated one is not, with intervals that hold"
    d, n, truth = 16, 100, 1+16*.1**2
    v = [(frechet_infinity(a,b), fd(a,b)) for a,b in ((draw(n,d,10+r,1.,1.1), draw(n,d,5000+r)) for r in range(60))]
    values, errors = (np.array([getattr(s,k) for s,_ in v]) for k in ('value','error'))
    assert np.mean([o for _,o in v]) > 2*truth and abs(values.mean()-truth) < 4*values.std()/60**.5 and values.std()/60**.5 < .1*truth
    assert np.mean(abs(values-truth) < 1.96*errors) > .87

def test_frechet_infinity_refuses():
    a, b = draw(40,20), draw(400,20,1)
    with pytest.raises(ValueError, match=r'reference must hold at least 40 items to be extrapolated \(20 features, 10 blocks\), got 39'): frechet_infinity(b, a[:39])
    small = FeatureStats().update(a[:39]); assert math.isfinite(frechet_infinity(b, small).value)      # a fixed reference is what it is
    with pytest.raises(ValueError, match='blocks must be a whole number of at least 3'): frechet_infinity(b, b, 2)
    with pytest.raises(ValueError, match='a must hold at least 40 items'): frechet_infinity(a[:39], small)

def test_frechet_infinity_warns_once_below_five_items_per_feature():
    "From 2d, where it is not refused, to 5d; a reference that is not extrapolated may be small"
    a, b = draw(100,20), draw(400,20,1)
    def said(f):
        with warnings.catch_warnings(record=True) as w: warnings.simplefilter('always'); f()
        return [str(o.message) for o in w if 'frechet_infinity' in str(o.message)]
    for f in (lambda: frechet_infinity(a[:99], b), lambda: frechet_infinity(b, a[:99]), lambda: frechet_infinity(a[:99], FeatureStats().update(b)), lambda: distances(a[:99], b)):
        w = said(f); assert len(w)==1 and 'n=99 items of d=20 features' in w[0] and 'n=5d=100' in w[0]
    for f in (lambda: frechet_infinity(a, b), lambda: frechet_infinity(a, FeatureStats().update(b[:50])), lambda: distances(a[:99], b, 'kid')): assert said(f)==[]
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); assert math.isfinite(frechet_infinity(b, a[:40]).value)

def test_frechet_infinity_is_too_low_where_it_warns():
    "Flat spectrum: at n=2d the mean is below the truth by many standard errors, at n=5d by little"
    d, truth = 16, .09+16*.01
    def off(n, k): v = np.array([frechet_infinity(draw(n,d,10+r,.3,1.1), draw(n,d,5000+r)).value for r in range(k)]); return v.mean()-truth, v.std()/k**.5
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); low, e = off(32, 600)
    assert low < -3*e and low < -.3*truth
    low, e = off(80, 300); assert abs(low) < 3*e < .25*truth

# ---- all of them
every = [('kid',kid), ('precision_recall',precision_recall), ('density_coverage',density_coverage), ('sliced_wasserstein',sliced_wasserstein), ('frechet_infinity',frechet_infinity), ('distances',distances)]
as_list = lambda o: o if isinstance(o, list) else [o]

@pytest.mark.parametrize('name,f', every, ids=[o for o,_ in every])
def test_edges_of_all(name, f):
    a, b = draw(120,5,1), draw(130,5,2)
    for bad in (math.nan, math.inf):
        x = a.clone(); x[7,2] = bad
        with pytest.raises(FloatingPointError, match='a holds NaN or infinity, first in row 7'): f(x, b)
        with pytest.raises(FloatingPointError, match='b holds NaN or infinity, first in row 7'): f(b, x)
    for x,y,said in ((a, b[:,:4], 'as many features, got 5 and 4'), (a[:,0], b, 'a must be real features of shape'), (a, b[None], 'b must be real features of shape'), (a+0j, b, 'a must be real features'), (a[:1], b, 'a must hold at least'), (a[:0], b, 'a must hold at least')):
        with pytest.raises(ValueError, match=said): f(x, y)
    with pytest.raises(ValueError, match='a must be features'): f(FeatureStats().update(a), b)
    half = a.half(), b.half()
    for s,t in zip(as_list(f(*half)), as_list(f(*(o.double() for o in half)))): assert s==t                       # a dtype is how features are stored, not how they are computed
    for s,t in zip(as_list(f(a.numpy(), b.numpy())), as_list(f(a,b))): assert s==t
    for s in as_list(f(a,b)):
        d = json.loads(json.dumps(s.to_dict())); assert d['protocol']['n']==120 and d['protocol']['n_reference']==130 and d['error'] >= 0 and 'error_by' in d['protocol']
    a.requires_grad_(); f(a, b)

def test_constant_features():
    "Zero variance: distances of a set to a copy are 0, without NaN, and by the distance of the values otherwise"
    a = torch.full((100,4), .7); res = {s.metric:s for s in distances(a, a+0)}
    assert all(abs(res[o].value) < 1e-9 and res[o].error < 1e-9 for o in ('KD','SWD','FD-inf')) and res['precision'].value==res['recall'].value==1 and res['density'].value==res['coverage'].value==0
    res = {s.metric:s.value for s in distances(a, a+1)}
    assert res['FD-inf'] == pytest.approx(4, rel=1e-5) and res['precision']==0 and res['KD'] == pytest.approx((.7*.7+1)**3+(1.7*1.7+1)**3-2*(.7*1.7+1)**3, rel=1e-5)

def test_fewer_items_than_features():
    a, b = draw(40,100,1), draw(50,100,2)
    with pytest.raises(ValueError, match='a must hold at least 200 items to be extrapolated.*kid has no bias'): distances(a, b)
    assert len(distances(a, b, ('kid','precision','recall','density','coverage','swd')))==6
    with pytest.raises(ValueError, match='a must hold at least 3 items, got 2'): kid(a[:2], b)

def test_relatives_says_the_same():
    a, b = draw(200,6,1,.5), draw(240,6,2); one = [kid(a,b), *precision_recall(a,b), *density_coverage(a,b), sliced_wasserstein(a,b), frechet_infinity(a,b)]
    assert distances(a, b)==one
    assert [s.value for s in distances(a, b, chunk=33)] == pytest.approx([s.value for s in one], rel=1e-9)
    assert distances(a, b, ('kid','swd','fd_infinity'), subsets=7, subset_size=50, n_projections=90, blocks=4, seed=3)==[kid(a,b,7,50,3), sliced_wasserstein(a,b,90,seed=3,blocks=4), frechet_infinity(a,b,4,3)]
    assert distances(a, b, ('precision','coverage'), k=4, k_density=2, seed=3)==[precision_recall(a,b,4,seed=3)[0], density_coverage(a,b,2,seed=3)[1]]
    s = distances(a, b, ('recall','fd_infinity','kid'), extractor='inception-6726825d-tf1', nfe=4)
    assert s[0].protocol['nfe']==4 and s[0].value==one[2].value and s[1].metric=='FID-inf' and s[1].name=='FID-inf-200' and s[2].name=='KID-200' and s[2].value==one[0].value
    for other in ('inception-random-6726825d','dinov2-vitl14-1234','digits17',None): assert [o.metric for o in distances(a, b, ('kid','fd_infinity'), **(dict(extractor=other) if other else {}))]==['KD','FD-inf']
    assert [kid(a, b, **o).metric for o in ({}, dict(subsets=3, subset_size=50))]==['KD','KD']
    assert distances(a, b, ())==[]
    with pytest.raises(ValueError, match="got 'fid'"): distances(a, b, ('kid','fid'))
    torch.manual_seed(0); distances(a, b); x = torch.rand(1); torch.manual_seed(0); assert torch.equal(x, torch.rand(1))   # nothing takes from the global generator

def test_memory_does_not_grow_with_pairs():
    "No matrix of all pairs: 6,000 against 6,000 items in blocks of 400, in a process that may not grow by half the size of one (288 MB)"
    import os, subprocess, sys
    if not os.path.exists('/proc/self/status'): pytest.skip('memory is read from /proc')
    code = '''if True:
        import torch; from boss_nb.judge.distances import *; torch.set_num_threads(1)
        small, (a, b) = torch.randn(100,4), torch.randn(2,6000,4); g = lambda x: distances(x[0], x[1], chunk=400, n_projections=64)
        peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])   # of this process alone; ru_maxrss has the parent's in it
        g((small, small+1)); before = peak(); g((a,b)); print(peak()-before)'''
    grown = int(subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True).stdout)
    assert 0 < grown*1024 < 144e6
