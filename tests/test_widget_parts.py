"The parts of the widgets without a browser: explorer, straightness, paths and viewer, monitor"
import pickle, warnings
import numpy as np
import pytest, torch
from fastai.callback.core import Callback
from boss_nb.core import noise, seeded
from boss_nb.flow.data import moons
from boss_nb.flow.nets import MLP
from boss_nb.plan.refine import Trial
from boss_nb.plan.costs import calibrate, Calibration, error_growth
from boss_nb.plan.multistep import ab2_schedule
from boss_nb.sample.schedule import edm, Schedule, uniform
from boss_nb.sample.solvers import sample
from boss_nb.share.trajectories import Paths, straightness, TrajectoryViewer
from boss_nb.share.explorer import PlanExplorer, planners
from boss_nb.share.monitor import TrainingMonitor
from boss_nb.train.generator import match_generator
from boss_nb.train.loop import train_flow
from boss_nb.train.states import States, teacher_states
from boss_nb.train.straighten import straighten

PNG = b'\x89PNG\r\n\x1a\n'
close = lambda a, b, eps: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=eps)

@pytest.fixture(autouse=True)
def as_in_a_page(monkeypatch): monkeypatch.setenv('IN_TEST', '1')

def push(x, t): return torch.ones_like(x)                                # the same everywhere
def images(x, t): return (1+t.reshape(-1,1,1,1))*x.cos()-x               # curved, for any shape (c,h,w)
def latent(x, t): return x.flip(1)

@pytest.fixture(scope='module')
def flat():
    with seeded(0): return MLP(2, 16).eval()
@pytest.fixture(scope='module')
def plan(): return Schedule([0., .3, .7, 1.], name='paper')
@pytest.fixture(scope='module')
def x(): return noise(12, (2,), 'test', 8)
@pytest.fixture(scope='module')
def bent(flat, plan): return straighten(flat, plan, noise(200, (2,)), n_iter=30, bs=48, lr=4e-3, teacher_steps=20, progress=False)
@pytest.fixture(scope='module')
def paths(flat, x, bent): return Paths(flat, x, student=bent, teacher_steps=20)
@pytest.fixture(scope='module')
def cal():
    z = noise(8, (1,4,4), 'calibrate')
    c = calibrate(images, z, 20, progress=False)
    c.growth = error_growth(images, z, c.t)
    return c

def shows(o):
    "The picture, which is one"
    assert o.image.value[:8]==PNG
    return o.image.value

def change(o, slider, value):
    "Does a slider change the picture?"
    before = shows(o)
    slider.value = value
    return shows(o)!=before

# the explorer

@pytest.fixture(scope='module')
def explorer(cal): return PlanExplorer(cal, Trial(images, noise(4, (1,4,4), 'test'), teacher_steps=20), nfes=range(1,8))

def test_explorer_follows_its_sliders(explorer, cal):
    first = shows(explorer)
    assert tuple(explorer.objective.options)==('paper','weighted','ab2','multistep')
    assert change(explorer, explorer.nfe, 7)
    assert explorer.schedule==cal.schedule(7) and f'{explorer.schedule.knots[1]:.3f}' in explorer.text.value
    assert change(explorer, explorer.objective, 'ab2')
    assert explorer.schedule==ab2_schedule(cal, 7, power=1.)
    assert change(explorer, explorer.start, .5)
    assert explorer.schedule.knots[0].item()==.5 and repr(explorer.schedule) in repr(explorer)
    explorer.start.value = .75
    assert explorer.nfe.value==5 and explorer.schedule.steps==5                 # five grid steps are left
    explorer.start.value, explorer.nfe.value, explorer.objective.value = 0., 4, 'paper'
    assert shows(explorer)==first

def test_a_calibration_alone(cal):
    "From a file, without growth and without samples"
    ex = PlanExplorer(Calibration(cal.t, cal.each), nfes=range(1,6))
    assert tuple(ex.objective.options)==('paper','ab2','multistep') and ex.trial is None
    ex.objective.value = 'multistep'
    assert ex.schedule.solver=='multistep' and shows(ex)

def test_explorer_draws_points_in_the_plane():
    v = moons()
    c, nfes = calibrate(v, noise(16, (2,), 'calibrate'), 15, progress=False), range(1,6)
    bare, points = PlanExplorer(c, nfe=3, nfes=nfes), PlanExplorer(c, Trial(v, noise(20, (2,), 'test'), teacher_steps=15), nfe=3, nfes=nfes)
    assert shows(points)!=shows(bare)

@pytest.mark.parametrize('kw, words', [(dict(nfe=30), 'nfe must be one of'), (dict(nfes=[]), 'got none')])
def test_explorer_refuses(cal, kw, words):
    with pytest.raises(ValueError, match=words): PlanExplorer(cal, **kw)

# straightness

def test_straightness_is_the_loss(flat, plan, bent):
    "Mean over the validation trajectories"
    kept, valid = bent.learn.method.states, bent.learn.valid_items
    before, after = (straightness(v, plan, kept)[valid] for v in (flat, bent))
    assert before.shape==(len(valid), 3) and after.mean() < before.mean()
    close(before.mean(), bent.loss_before, 1e-4); close(after.mean(), bent.loss_after, 1e-4)

def test_straightness_of_ab2_steps(plan):
    "The first step is Euler's, the others are not"
    v, t = moons(), uniform(20).knots
    keep = [(t-o).abs().argmin().item() for o in plan]
    kept = States.of(teacher_states(v, noise(16, (2,)), keep, t, progress=False), t[keep])
    d = straightness(v, Schedule(plan.knots, solver='ab2'), kept)-straightness(v, plan, kept)
    assert d[:,0].abs().max() < 1e-5 and d[:,1].abs().max() > 1e-3

def test_a_constant_velocity_is_straight():
    kept = States.of(teacher_states(push, noise(5, (2,)), [0,1,2,3,4], 4, progress=False), uniform(4).knots)
    assert straightness(push, uniform(4), kept).abs().max() < 1e-8

# paths

@pytest.mark.parametrize('who', ['teacher', 'student'])
def test_steps_end_where_samples_do(paths, plan, x, who): close(paths.steps_at(who, 0, 1)[0], sample(paths.nets[who], x, plan), 1e-5)

def test_steps_start_where_the_teacher_does(paths, plan, x, flat):
    t1 = plan.knots[1].item()
    close(paths.steps_at('teacher', 0, t1/2)[1], paths.teacher_at(0)[1], 1e-5)       # the first step points where the teacher points at 0
    close(paths.teacher_at(1)[0], sample(flat, x, 20), 1e-4)
    assert paths.nearest(t1)==t1

@pytest.mark.parametrize('kw, words', [(dict(t=1.5), 't must be between'), (dict(i=1), 'i must be'), (dict(sample=12), 'sample must be')])
def test_figure_refuses(paths, kw, words):
    with pytest.raises(ValueError, match=words): paths.figure(**kw)

# the viewer

def test_viewer_follows_its_sliders(flat, x, plan, bent):
    tv = TrajectoryViewer(flat, x, schedules=[uniform(2), plan], student=bent, teacher_steps=20)
    first, t = shows(tv), tv.paths.nearest(.3)
    assert tv.schedule.steps==2 and '2 evaluations' in repr(tv)
    assert change(tv, tv.plan, 1) and change(tv, tv.time, t) and change(tv, tv.sample, 11)
    assert tv.schedule==plan and 'paper' in tv.text.value and repr(tv.schedule) in repr(tv)
    assert change(tv, tv.plan, 0) and change(tv, tv.time, 0.) and change(tv, tv.sample, 0)
    assert shows(tv)==first
    assert set(tv._repr_mimebundle_())=={'image/png', 'text/plain'}             # in a test, as in a page

@pytest.mark.parametrize('kw, words', [
    (dict(schedules=None), 'schedules must be given'),
    (dict(schedules=[]), 'at least one'),
    (dict(schedules=Schedule([.5,1.])), 'from 0 to 1, got one from 0.5'),
    (dict(schedules=['four']), 'got str'),
    (dict(schedules=Schedule([0.,1.], solver='heun')), "'heun'"),
    (dict(schedules=8, teacher_steps=4), 'steps must be at least the 8'),
    (dict(schedules=2, noise=noise(3, (5,))), 'noise must be points'),
    (dict(schedules=2, noise=[0., 1.]), 'noise must be a tensor, got list')])
def test_viewer_refuses(flat, x, kw, words):
    with pytest.raises(ValueError, match=words): TrajectoryViewer(**dict(v=flat, noise=x) | kw)

def test_latents_show_themselves_through_a_decoder():
    film = TrajectoryViewer(latent, noise(3, (4,4,4)), schedules=[2, 4], decode=lambda z: z[:,:3].tanh(), teacher_steps=12)
    assert change(film, film.plan, 1) and change(film, film.sample, 2)
    assert [o[0] for o in film.plan.options]==['2', '4']

def test_latents_need_a_decoder():
    with pytest.raises(ValueError, match='decode'): TrajectoryViewer(latent, noise(3, (4,4,4)), schedules=2)

def test_film_of_a_student():
    "Images, beside the student that made them"
    film = TrajectoryViewer(images, noise(3, (1,4,4), 'test'), schedules=uniform(2), student=lambda x, t: .9*images(x, t), teacher_steps=8)
    assert change(film, film.time, film.paths.nearest(.5)) and 'student' in repr(film)

# the monitor

def watch(f, *args, **kw):
    "A monitored run, in which no callback shadows another's attributes"
    m = TrainingMonitor(.01)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*shadow')
        f(*args, cbs=m, progress=False, **kw)
    assert m._repr_mimebundle_()['text/plain']==repr(m)
    return m

@pytest.fixture(scope='module')
def short(flat, plan): return lambda **kw: straighten(flat, plan, noise(50, (2,)), n_iter=10, bs=12, teacher_steps=10, solver='ab2', **kw)

def test_rows_are_losses(flat):
    "Of every step, and of intervals whose weighted mean is that loss"
    m, four = TrainingMonitor(), edm(4)
    s = straighten(flat, four, noise(100, (2,)), n_iter=20, bs=32, solver='ab2', teacher_steps=16, cbs=m, progress=False)
    at, means = m.means(20)
    assert means.shape==(20, 2+4) and m.step==20
    close(means[:,1], s.losses, 1e-5)
    r = m.rows
    close(r[:,0,2:].sum(1)/r[:,1,2:].sum(1), s.losses, 1e-4); close(r[:,1,2:].sum(1), [32]*20, 1e-6)
    at, few = m.means(7)
    assert len(at)==7
    close(few[0,1], s.losses[:3].mean(), 1e-5)
    assert 'step 20 of 20' in repr(m) and repr(m).endswith('done)') and m.intervals[0]==f't 0.00 to {four.knots[1]:.2f}'
    m.draw()
    assert shows(m)

def test_monitor_refuses():
    with pytest.raises(ValueError, match='every must be above 0 seconds, got 0'): TrainingMonitor(0)

def test_generators_are_watched(flat):
    m = watch(match_generator, flat, (2,), n_iter=8, bs=16, online_warmup=4)
    assert (m.step, m.intervals[3])==(8, 'interval 4') and 'step 8 of 8' in repr(m)

def test_flow_matching_has_no_intervals():
    m = watch(train_flow, MLP(2, 8), moons().sample(100), n_iter=12, bs=20)
    assert (m.step, m.intervals)==(12, []) and '12 of 12' in repr(m)

def test_parts_of_a_batch_are_one_step(short):
    m = watch(short, accumulate=2)
    assert (m.step, len(m.intervals))==(10, 3)

def test_a_pickled_monitor(short):
    m = watch(short)
    back = pickle.loads(pickle.dumps(m))
    assert (back.rows==m.rows).all() and repr(back)==repr(m)
    assert len(back._repr_mimebundle_()['image/png']) > 1000

class Enough(Callback):
    "Stopped by hand"
    order = 99
    def after_batch(self):
        if self.train_state.step==5: raise KeyboardInterrupt

def test_a_resumed_run_shows_its_past(short, tmp_path):
    "The loss in all; intervals are not in the checkpoint"
    m = TrainingMonitor()
    try: short(folder=tmp_path, save_every=3, cbs=[m, Enough()], progress=False)
    except KeyboardInterrupt: pass
    m.draw()
    assert m.step==6 and shows(m)
    m = watch(short, folder=tmp_path, save_every=3)
    assert m.step==10 and ((m.rows[:,1,2:].sum(1)==0)==(np.arange(10) < 6)).all()
    assert np.isfinite(m.means(10)[1][:,:2]).all()

class Broken(TrainingMonitor):
    watched = True
    def before_fit(self):
        self._begin()
        self.marks, self.total = [(0., None)], 10
    def figure(self): raise RuntimeError('no ink')

def test_a_figure_that_fails_stops_nothing(short):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        s = short(cbs=Broken(.001), progress=False)
    assert [str(o.message) for o in seen if 'no ink' in str(o.message)]==['the training monitor cannot draw, and training goes on without it: RuntimeError: no ink']
    assert len(s.losses)==10

class Counting(TrainingMonitor):
    watched = True
    def before_fit(self):
        self._begin()
        self.marks, self.drawn = [(0., None)], []
        self.total = 10
    def draw(self): self.drawn.append(len(self.rows))

def test_pictures_grow_with_the_run(short):
    "Drawn more than once where somebody watches, and with all steps in the end"
    m = Counting(1e-6)
    short(cbs=m, progress=False)
    assert m.drawn==sorted(m.drawn) and m.drawn[-1]==10

def test_points_that_decode_would_make_are_refused():
    "Only images are decoded: the plane shows the states themselves"
    with pytest.raises(ValueError, match='decode must make images'):
        TrajectoryViewer(lambda x,t: -x, noise(3, (4,)), schedules=[2], decode=lambda x: x[:,:2], teacher_steps=4)
