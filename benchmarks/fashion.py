"""How good the Fashion-MNIST teacher is, and what a few steps of it are worth: planned, straightened, one step"""
import time
from common import *
from boss_nb.core import CountNFE, image_grid, noise
from boss_nb.files import fingerprint
from boss_nb.flow.data import fashion_mnist
from boss_nb.flow.velocity import guided
from boss_nb.flow.latents import class_labels, decode, encode, fashion_autoencoder, fashion_teacher
from boss_nb.sample.schedule import uniform
from boss_nb.sample.solvers import sample
from boss_nb.plan.costs import calibrate, error_growth
from boss_nb.plan.choose import best_schedule
from boss_nb.plan.refine import Trial
from boss_nb.train.straighten import straighten
from boss_nb.train.generator import match_generator
from boss_nb.judge.frechet import fashion_features, feature_stats, FeatureStats, frechet, to_uint8
from boss_nb.judge.extractors import efficientnet_features

class Harness:
    "Teacher, decoder, judges and noise of one space; `row` measures a way to sample"
    def __init__(self, a, space='latents'):
        dev, self.a = a.device, a
        self.space, self.v = space, fashion_teacher(space, dev)
        self.ae = fashion_autoencoder(dev) if space=='latents' else None
        self.shape = tuple(self.v.meta['shape'])
        self.judges = dict(classifier=fashion_features(dev))
        if a.eye: self.judges['efficientnet'] = efficientnet_features(dev, size=a.eye)
        self.rows, self.pictures, self.reference = [], {}, {}
        self.start(a)
    def start(self, a):
        "Noise, labels, and statistics of the test images"
        self.z = noise(a.n, self.shape, 'test', device=a.device)
        self.y = class_labels(a.n, device=a.device)
        self.real = to_uint8(fashion_mnist('test')[0])
        if a.quick: self.real = self.real[:200]
        for k,j in self.judges.items(): self.reference[k] = self.stats(k, self.real, f'test-{len(self.real)}')
    def stats(self, judge, x, name=''):
        "Statistics of uint8 images, kept in a file where they have a name"
        j = self.judges[judge]
        f = self.a.cache/f'{name}-{j.name}-{j.meta["resize"].replace(" ", "")}.npz'
        if name and f.is_file(): return FeatureStats.load(f)
        st = feature_stats(x.to(self.a.device), j, 200)
        if name: f.parent.mkdir(parents=True, exist_ok=True); st.save(f)
        return st
    def images(self, z): return to_uint8(decode(self.ae, z) if self.ae is not None else z)
    def judge(self, x, judges, name=''):
        "Fréchet distances of uint8 images to the test images"
        return {f'fd_{k}': frechet(self.stats(k, x, name), self.reference[k], 'fast') for k in judges}
    def row(self, label, v, schedule, solver=None, n=None, judges=None, picture=True, **facts):
        "Sample, decode, measure, keep the first forty pictures"
        n, s = n or len(self.z), time.time()
        count = CountNFE(v)
        end = sample(count, self.z[:n], schedule, solver, dict(y=self.y[:n]), 256)
        x = self.images(end)
        scores, seconds = self.judge(x, judges or self.judges), round(time.time()-s, 1)
        self.rows.append(dict(label=label, nfe=count.samples//n, n=n, **scores, **facts, seconds=seconds))
        print(self.rows[-1], flush=True)
        if picture: self.pictures[label] = x[:40].cpu()
        return end

def teacher_part(h, a):
    "Real images, decoded real images, and the teacher without guidance and at several scales"
    train, i = fashion_mnist('train')[0], torch.randperm(60_000, generator=torch.Generator().manual_seed(0))
    sets = {'training images': to_uint8(train[i[:a.n]])}
    if h.ae is not None: sets['test images, decoded'] = h.images(encode(h.ae, h.real.float()/127.5-1))
    for label,x in sets.items():
        h.rows.append(dict(label=label, nfe=0, n=len(x), **h.judge(x, h.judges)))
        print(h.rows[-1], flush=True)
    few = min(a.n, max(64, a.n//10))
    for w in a.scales: h.row(f'scale {w:g}', guided(h.v, w, 10), 25, 'ab2', few, ['classifier'], False, scale=w)
    best = min(h.rows[len(sets):], key=lambda r: r['fd_classifier'])['scale']
    h.row('teacher', h.v, 100, scale=1.)
    h.row('teacher, guided', guided(h.v, best, 10), 50, 'ab2', scale=best)
    h.pictures['nearest training image'] = nearest(h.pictures['teacher'], train)
    return dict(best_scale=best)

def planned(h, a):
    "By number of steps: the paper's plan, the best plan, the best of Euler steps, and the seconds of the first two"
    N, out, began = 20 if a.quick else 100, {}, time.time()
    def trial(split, seed=0):
        z, y = fresh(h, a, a.noises, split, seed)
        return Trial(h.v, z, teacher_steps=N, cond=dict(y=y))
    first, decide, fit = trial('calibrate'), trial('choose'), trial('choose', 1)
    cal = calibrate(h.v, first.noise, N, progress=False, cond=first.cond)
    cal.growth = error_growth(h.v, first.noise, cal.t, cond=first.cond)
    for o in (decide, fit): o.end                                   # followed once, for all numbers of steps
    shared = time.time()-began
    for k in a.budgets:
        began = time.time()
        best = best_schedule(decide, k, cal, refine_on=fit)
        made = shared+time.time()-began
        out[k] = cal.schedule(k), best, best_schedule(decide, k, cal, 'euler'), made
    return out

def fresh(h, a, n, split, seed=0):
    "Noise and labels of all classes"
    return noise(n, h.shape, split, seed, a.device), class_labels(n, device=a.device)

def training(a, y):
    "Options of `straighten`"
    return dict(solver='ab2', teacher_steps=16, n_iter=a.iterations, progress=False, cond=dict(y=y),
                valid=min(256, len(y)//4), amp=None if a.quick else 'bf16')

def students_part(h, a):
    "Equal steps, plans and a straightened network, with the teacher's pictures beside them"
    h.pictures['teacher'] = h.images(sample(h.v, h.z[:40], 100, cond=dict(y=h.y[:40]))).cpu()
    plans = planned(h, a)
    euler = plans[a.nfe][2]
    for k,(paper, best, _, made) in plans.items():
        main = k==a.nfe
        h.row(f'equal steps, {k}', h.v, uniform(k), picture=main)
        h.row(f"the paper's plan, {k}", h.v, paper, picture=main)
        facts = dict(made_s=round(made), solver_of_plan=best.solver, knots=best.knots.tolist())
        h.row(f'planned, {k}', h.v, best, picture=main, **facts)
    zt, yt = fresh(h, a, a.trajectories, 'train')
    began = time.time()
    straight = straighten(h.v, euler, zt, **training(a, yt))
    h.row(f'straightened, {a.nfe}', straight, euler, made_s=round(time.time()-began), knots=euler.knots.tolist())
    return {k: getattr(a, k) for k in ('nfe','noises','trajectories','iterations')}

def onestep_part(h, a):
    "One step: of the teacher, straightened for it, and matched in distribution from there"
    zt, yt = fresh(h, a, a.trajectories, 'train', 1)
    h.row('equal steps, 1', h.v, 1)
    began = time.time()
    first = straighten(h.v, uniform(1), zt, **training(a, yt))
    h.row('straightened, 1', first, 1, made_s=round(time.time()-began))
    began = time.time()
    small = dict(online_warmup=2, valid=16) if a.quick else {}
    one = match_generator(h.v, h.shape, init=first, n_iter=a.matching, bs=16 if a.quick else 96, lr=3e-5,
                          cond=dict(y=torch.arange(10)), progress=False, **small)
    h.row('flow generator matching, 1', one, 1, made_s=round(time.time()-began))
    return {k: getattr(a, k) for k in ('trajectories','iterations','matching')}

def nearest(x, train, m=10):
    "The training images nearest to the first `m` of `x`, by squared distance of pixels"
    d = torch.cdist((x[:m].float()/127.5-1).flatten(1), train.flatten(1))
    return to_uint8(train[d.argmin(1)])

def front_picture(pictures, nfe, path, cols=10):
    "The same noise in every column, one row for each way to sample, as PNG"
    from matplotlib.figure import Figure
    few = {f'{say} {nfe} steps': f'{key}, {nfe}' for say,key in (('straightened,', 'straightened'), ('planned,', 'planned'), ('equal,', 'equal steps'))}
    rows = {'teacher, 100 steps': 'teacher', **few, 'matched, 1 step': 'flow generator matching, 1', 'equal, 1 step': 'equal steps, 1'}
    fig = Figure(figsize=(8.2, .72*len(rows)))
    for ax,(label,key) in zip(fig.subplots(len(rows), 1), rows.items()):
        x = torch.as_tensor(pictures[key][:cols]).float()/127.5-1
        ax.imshow(image_grid(x, cols), interpolation='nearest', aspect='equal'); ax.set_xticks([]); ax.set_yticks([])
        ax.set_ylabel(label, rotation=0, ha='right', va='center', fontsize=10)
        for o in ax.spines.values(): o.set_visible(False)
    fig.subplots_adjust(hspace=.02)
    with atomic_write(path) as tmp: fig.savefig(tmp, format='png', dpi=120, bbox_inches='tight')

parts = dict(teacher=teacher_part, students=students_part, onestep=onestep_part)

def put(a, name, h, facts, seconds):
    "Write pictures and rows of a part; and the front page's picture, once there is all that it shows"
    at = lambda k: a.out/f'fashion-{k}{"" if a.space=="latents" else "-"+a.space}.npz'
    a.out.mkdir(parents=True, exist_ok=True)
    with atomic_write(at(name)) as tmp, open(tmp, 'wb') as o: np.savez_compressed(o, **{k: x.cpu().numpy() for k,x in h.pictures.items()})
    keep(a, at(name).stem, seconds, clock='wall', n=a.n, n_test=len(h.real), space=a.space, rows=h.rows, teacher=h.v.meta | dict(fingerprint=fingerprint(h.v)[:16]), judges={k: j.meta for k,j in h.judges.items()}, **facts)
    both = [at(k) for k in ('students','onestep')]
    if all(f.is_file() for f in both): front_picture({k: x for f in both for k,x in np.load(f).items()}, a.nfe, at('front').with_suffix('.png'))

def main():
    a = arguments(__doc__, n=(5000, 'images of every distance'), nfe=(3, 'steps of the straightened network and of the pictures, one of 2, 3, 4'), noises=(64, 'noises to plan on'),
        trajectories=(6000, 'teacher trajectories'), iterations=(1000, 'training steps of a student'), matching=(200, 'steps of flow generator matching'),
        eye=(128, 'pixels that EfficientNet is shown, 0 to leave it out'), space=('latents', 'latents or pixels'), part=('', f'one of {", ".join(parts)}, default all'))
    a.cache, a.scales, a.budgets = here.parent/'.cache'/'fashion', (1., 1.25, 1.5, 2., 3.), (2, 3, 4)
    if a.nfe not in a.budgets: raise SystemExit(f'nfe must be one of {a.budgets}, got {a.nfe}')
    if a.part not in ('', *parts): raise SystemExit(f'part must be one of {", ".join(parts)}, got {a.part!r}')
    if a.quick: a.n, a.eye, a.scales, a.cache, a.noises, a.trajectories, a.iterations, a.matching, a.budgets = 40, 0, (1., 2.), a.out/'cache', 16, 64, 4, 2, (a.nfe,)
    for name in [a.part] if a.part else parts:
        began, h = time.time(), Harness(a, a.space)
        facts = parts[name](h, a)
        put(a, name, h, facts, time.time()-began)

if __name__=='__main__': main()
