"The console scripts as a user runs them: separate processes, files, exit codes"
import contextlib, io, json, os, subprocess, sys
from pathlib import Path
import matplotlib.pyplot as plt, numpy as np, pytest, torch
import forks
from safetensors.torch import save_file
from boss_nb.share import cli, demo, score, script
from boss_nb.sample.schedule import Schedule
from boss_nb.share.bundle import Bundle
from boss_nb.share.students import load_plan, pick, save_plan
from boss_nb.core import noise
from boss_nb.files import load_state
from boss_nb.flow.nets import architectures, digits_teacher, MLP, save_net, UNet, weights_path
from boss_nb.sample.solvers import sample
from boss_nb.sample.schedule import uniform
from boss_nb.train.straighten import straighten

scripts = ('boss_demo','boss_plan','boss_straighten','boss_sample','boss_fid','boss_evaluate')

exe = lambda name: str(Path(sys.executable).parent/name)

def run(name, *args, cwd=None):
    return subprocess.run([exe(name), *map(str,args)], cwd=cwd, capture_output=True, text=True, timeout=300)

def forked(name, *args, cwd=None): return forks.run(exe(name), *args, cwd=cwd)

def words(line):
    "Options of a line as arguments of a script's function"
    a = line.split()
    return {k[2:]: int(v) if v.isdigit() else v for k,v in zip(a[::2], a[1::2])}

# Help

light = '''
import runpy, sys
sys.argv[:] = {argv}
try: runpy.run_path({argv}[0], run_name='__main__')
except SystemExit as e: assert not e.code, e.code
heavy = dict.fromkeys(('torch','numpy','fastai','peft','diffusers','safetensors','matplotlib')).keys() & sys.modules.keys()
assert not heavy, heavy
'''

@pytest.mark.parametrize('name', scripts)
def test_help_imports_nothing_heavy(name):
    code = light.format(argv=[exe(name), '--help'])
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)
    assert r.returncode==0, r.stderr
    assert '--json' in r.stdout and '--seed' in r.stdout and r.stdout.startswith(f'usage: {name}')

def test_list_imports_nothing_heavy():
    code = "import sys, boss_nb.__main__ as m; m.chosen_script([]); assert 'torch' not in sys.modules"
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)
    assert r.returncode==0 and all(f'  {name[5:]} ' in r.stdout for name in scripts), r.stderr

def test_through_the_package():
    def main(*args): return subprocess.run([sys.executable, '-m', 'boss_nb', *args], capture_output=True, text=True, timeout=300)
    r = main('plan', '--help')
    assert r.returncode==0 and '--objective' in r.stdout, r.stderr
    r = main('sample', '--nfe', '0')
    assert r.returncode==2 and r.stderr.startswith('boss_sample: error'), r.stderr
    r = main('dream')
    assert r.returncode==2 and "no script 'dream': one of plan, " in r.stderr and r.stderr.count('\n')==1

options = dict(boss_demo='out quick rank seed json',
               boss_plan='model out nfe objective solver n n_steps shape preview calibration seed json',
               boss_straighten='model plan nfe out rank n n_iter n_steps solver lr bs accumulate amp folder shape seed json',
               boss_sample='model student plan nfe solver n out shape seed json',
               boss_fid='a b n save extractor weights resize convention of batch_size seed json',
               boss_evaluate='''model student plan nfe solver reference n repeats extractor weights resize convention of
                                batch_size amp folder shape seed json''')

@pytest.mark.parametrize('name', scripts)
def test_options_of_version_0_1_are_there(name):
    import inspect
    assert set(options[name].split()) <= set(inspect.signature(next(getattr(m, name) for m in (cli, score, demo) if hasattr(m, name))).parameters)

def test_unknown_option():
    assert run('boss_plan', '--nonsense').returncode==2
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"): cli.boss_plan(nonsense=1)

# Bad input

@pytest.fixture(scope='module')
def bad(tmp_path_factory):
    "A folder of files that must be refused, and of two that are good"
    d = tmp_path_factory.mktemp('bad')
    net = UNet(width=8, blocks=1)
    p = save_net(d/'noshape.safetensors', net)
    (d/'cut.safetensors').write_bytes(p.read_bytes()[:-500])
    (d/'junk.safetensors').write_bytes(b'not this')
    save_file({'a': torch.ones(2)}, d/'foreign.safetensors')
    for q in net.parameters(): q.data.fill_(1e30)
    save_net(d/'explodes.safetensors', net, shape=(1,8,8))
    (d/'plan.json').write_text('{"kind": "boss_nb.plan", "schedules": [{"knots": [0, 0.7, 0.3, 1]}]}')
    (d/'text.json').write_text('not json')
    (d/'file').write_text('')
    np.savez(d/'foreign.npz', mu=np.zeros(4), sigma=np.eye(4))
    rgb = dict(kind='boss_nb.samples')
    save_file({'samples': torch.ones(4,3,8,8)}, d/'rgb.safetensors', {'boss_nb': json.dumps(rgb)})
    save_plan(d/'good.json', [uniform(k) for k in range(1,11)])
    return d

cases = '''
boss_plan --model {d}/nothing.safetensors | no such file
boss_plan --model {d}/cut.safetensors | not a readable safetensors file
boss_plan --model {d}/junk.safetensors | not a readable safetensors file
boss_plan --model {d}/foreign.safetensors | was not made by save_net
boss_plan --model cifar_like:x.pth | config must be one of cifar10
boss_plan --model cifar10:/no.pth | no such file
boss_plan --model cifar10 | given as CONFIG:FILE, such as cifar10:checkpoint_8.pth
boss_sample --model x.pth | given as CONFIG:FILE, such as cifar10:checkpoint_8.pth
boss_plan --model {d}/noshape.safetensors | give --shape
boss_plan --model {d}/explodes.safetensors | not finite
boss_plan --shape 2,8,8 | does not fit
boss_plan --shape 3,8,8 | shape 3,8,8 does not fit digits
boss_plan --shape a | shape must be numbers separated by commas
boss_plan --shape 0,8,8 | shape must hold positive numbers
boss_plan --nfe 101 | between 1 and n_steps=100, got 101
boss_plan --nfe 0 | nfe must be at least 1
boss_plan --nfe 0-3 | nfe must be at least 1
boss_plan --nfe x | nfe must be a number
boss_plan --n 0 | n must be at least 1
boss_plan --objective luck | objective must be
boss_plan --objective paper --solver ab2 | goes with objective best
boss_plan --out {d}/file/plan.json | is not a folder
boss_plan --out q.json --json ./q.json | json must be another file than out
boss_plan --out q.json --calibration q.json | calibration must be another file than out
boss_straighten --nfe 0 | nfe must be between 1
boss_straighten --plan {d}/text.json | is not JSON
boss_straighten --plan {d}/plan.json --nfe 3 | broken schedule
boss_straighten --plan {d}/good.json --nfe 11 | budgets [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], got 11
boss_straighten --rank -1 --n 10 | rank must be
boss_straighten --n_iter 0 | n_iter must be at least 1
boss_straighten --accumulate 0 | accumulate must be at least 1
boss_straighten --n 9 | n must be at least 10
boss_straighten --plan {d}/good.json --nfe 5 --n 20 --n_iter 2 --n_steps 50 --bs 10 --accumulate 3 --amp half | amp must be
boss_sample --solver rk9 | solver must be one of
boss_sample --nfe 0 | nfe must be between 1 and 10000
boss_sample --nfe -1 | nfe must be between 1 and 10000
boss_sample --student {d}/foreign.safetensors | is not a boss_nb student
boss_sample --out {d}/x.gif | out must end in
boss_fid {d}/rgb.safetensors | shape (1,8,8), got (3, 8, 8)
boss_fid {d}/nothing.npz | no such file
boss_fid {d}/noshape.safetensors | holds no samples
boss_fid digits --n 5000 | n must be at most 1797
boss_fid digits --n 1 | n must be 0 (all) or at least 2
boss_fid digits --resize clean | for --extractor inception
boss_fid digits --save q.npz --json q.npz | json must be another file than save
boss_fid {d}/foreign.npz | does not say how its images were resized
boss_fid {d}/foreign.npz --n 5 | n must be left out
boss_fid digits --extractor inception --weights {d}/cut.safetensors | SHA-256
boss_evaluate --nfe 0 | nfe must be at least 1
boss_evaluate --nfe 20 --plan {d}/good.json | among the budgets there are, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], got 20
boss_evaluate --n 1 | n must be a whole number of at least 2
boss_evaluate --solver euler,rk9 | solver must be one of
boss_evaluate --reference none.npz | no such file
boss_evaluate --reference {d}/foreign.npz | convention must be one of
boss_evaluate --reference {d}/foreign.npz --convention edm | cannot be compared
boss_evaluate --extractor eyes | extractor must be one of
boss_evaluate --resize tf1 | for --extractor inception
boss_evaluate --amp fp8 | amp must be
boss_evaluate --student x --plan y | brings its own schedules
boss_demo --out {d}/file | is not a folder
boss_demo --out demo --json demo/plan.json | json must be another file
'''
cases = [o.split(' | ') for o in cases.strip().split('\n')]

@pytest.mark.parametrize('line,says', cases, ids=[a for a,_ in cases])
def test_bad_input(line, says, bad, tmp_path):
    "One line, exit code 2, nothing written"
    before = sorted(os.listdir(bad))
    name, *args = [o.format(d=bad) for o in line.split()]
    r = forked(name, *args, *([] if '--json' in args else ['--json', tmp_path/'out.json']), cwd=tmp_path)
    assert r.returncode==2, r.stderr
    assert r.stderr.startswith(f'{name}: error: ') and r.stderr.count('\n')==1 and says in r.stderr, r.stderr
    assert os.listdir(tmp_path)==[] and sorted(os.listdir(bad))==before

@pytest.mark.parametrize('name', ('digits_classifier','fashion_classifier','fashion_autoencoder'))
def test_not_a_velocity(name):
    with pytest.raises(ValueError, match='must be a velocity network'): script.load_model(str(weights_path(name)))

@pytest.mark.skipif(os.geteuid()==0, reason='root may write anywhere')
def test_no_permission(tmp_path):
    (tmp_path/'locked').mkdir(mode=0o500)
    r = run('boss_plan', '--out', tmp_path/'locked'/'p.json')
    assert r.returncode==2 and 'no permission' in r.stderr

# From files to files

def test_plan_straighten_sample_fid(tmp_path):
    "The parts on files, in a row; the same seed gives the same files"
    done = {'boss_plan'}                              # runs twice in the same way: the files are compared
    def ok(name, *a):
        r = (forked if name in done else run)(name, *a, cwd=tmp_path)     # the others once as a process of their own
        done.add(name)
        assert r.returncode==0, r.stderr
    def written(f): return json.loads((tmp_path/f).read_text())
    ok('boss_plan', '--n', 16, '--objective', 'weighted', '--calibration', 'cal.safetensors', '--json', 'p.json')
    ok('boss_plan', '--n', 16, '--objective', 'weighted', '--out', 'again.json')
    p, q = (written(f) for f in ('plan.json','again.json'))
    assert p==q and [s['nfe'] for s in p['schedules']]==list(range(1,11)) and len(written('p.json')['plan'])==10
    assert all(s['knots'][0]==0 and s['knots'][-1]==1 for s in p['schedules'])
    train = ('--rank', 4, '--n', 80, '--n_iter', 40, '--bs', 64)
    ok('boss_straighten', '--plan', 'plan.json', '--nfe', 3, *train, '--json', 's.json')
    s = written('s.json')
    assert s['error_after'] < s['error_before'] and s['loss_after'] < s['loss_before']
    ok('boss_sample', '--student', 'student.safetensors', '--n', 200, '--out', 'x.safetensors', '--json', 'x.json', '--seed', 500)
    assert written('x.json')['nfe']==3
    ok('boss_sample', '--nfe', 3, '--n', 200, '--out', 'u.safetensors', '--seed', 500)
    ok('boss_sample', '--n', 9, '--out', 'u.png')
    assert (tmp_path/'u.png').read_bytes()[:4]==b'\x89PNG'
    fd = {}
    for f in ('x','u'):
        ok('boss_fid', f'{f}.safetensors', '--n', 200, '--save', f'{f}.npz', '--json', 'f.json')
        fd[f] = written('f.json')['frechet']
    assert 0 < fd['x'] < fd['u']

@pytest.mark.parametrize('objective,solvers', (('paper',['euler']*2), ('ab2',['ab2']*2), ('multistep',['multistep']*2)))
def test_objectives(objective, solvers, tmp_path):
    r = forked('boss_plan', '--objective', objective, '--nfe', '3,5', '--n', 16, '--n_steps', 30, cwd=tmp_path)
    assert r.returncode==0, r.stderr
    assert [s.solver for s in load_plan(tmp_path/'plan.json')]==solvers

def test_preview(tmp_path):
    r = forked('boss_plan', '--objective', 'paper', '--nfe', '2-4', '--preview', cwd=tmp_path)
    assert r.returncode==0 and load_plan(tmp_path/'plan.json')[0].name.endswith('(preview)')

def test_points_too(tmp_path):
    "A network that does not make images"
    save_net(tmp_path/'mlp.safetensors', MLP(2), shape=(2,))
    assert forked('boss_plan', '--model', 'mlp.safetensors', '--nfe', '1-4', '--objective', 'paper', cwd=tmp_path).returncode==0
    plan = ('--model', 'mlp.safetensors', '--plan', 'plan.json', '--nfe', 4)
    r = forked('boss_sample', *plan, cwd=tmp_path)
    assert r.returncode==2 and 'are not images' in r.stderr
    assert forked('boss_sample', *plan, '--out', 'x.safetensors', cwd=tmp_path).returncode==0

def test_evaluate_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    score.boss_evaluate(nfe='2,4', solver='euler,ab2', n=100, repeats=2, folder='rows', json='e.json')
    r = json.loads(Path('e.json').read_text())
    assert len(r['rows'])==4 and r['protocol']['n']==100 and [o['nfe'] for o in r['rows']]==[2,4,2,4]

# Folders of bundles

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "Bundles of every kind, and what is in them"
    d = tmp_path_factory.mktemp('folders')
    torch.manual_seed(0)
    net, own = UNet(width=8, mults=(1,), blocks=1).eval().requires_grad_(False), Schedule([0,.3,1])
    def student(lora): return straighten(net, [uniform(2), uniform(3)], noise(40, (1,8,8)), lora=lora, n_iter=2, teacher_steps=6, progress=False)
    full, lora = student(None), student(2)
    parts = dict(flow=(net, [own]), full=(full,), lora=(lora,))
    for name,args in parts.items(): Bundle(*args, shape=[1,8,8]).save_pretrained(d/name)
    Bundle(lora, base=net, shape=[1,8,8]).save_pretrained(d/'both')
    Bundle(None, [own]).save_pretrained(d/'plan')
    save_plan(d/'other.json', [uniform(2)])
    return d, dict(net=net, full=full, lora=lora), dict(own=own, two=uniform(2), three=uniform(3))

@pytest.mark.parametrize('line,net,schedule', (
    ('--model flow --nfe 2', 'net', 'own'), ('--model flow --nfe 3', 'net', 'three'), ('--model flow', 'net', 'own'),
    ('--model flow --nfe 2 --plan other.json', 'net', 'two'), ('--model flow --nfe 2 --plan plan', 'net', 'own'),
    ('--model flow --plan other.json', 'net', 'two'),
    ('--model full', 'full', 'two'), ('--model full --nfe 3', 'full', 'three'), ('--model both --nfe 3', 'lora', 'three'),
    ('--student full', 'full', 'two'), ('--student both --nfe 3', 'lora', 'three'), ('--student lora --model flow', 'lora', 'two')))
def test_folders(line, net, schedule, folders, tmp_path, monkeypatch):
    "A Bundle's folder as network, student and plan; a single plan needs no number"
    d, nets, schedules = folders
    monkeypatch.chdir(d)
    cli.boss_sample(**words(line), n=4, out=str(tmp_path/'x.safetensors'), seed=7)
    got = load_state(tmp_path/'x.safetensors')[0]['samples']
    assert torch.allclose(got, sample(nets[net], noise(4, (1,8,8), 'test', 7), schedules[schedule]), atol=1e-5)

@pytest.mark.parametrize('line,says', (
    ('--student lora', 'another base network'), ('--model lora', 'give the base'), ('--model plan', 'give it as --plan'),
    ('--student flow', 'holds a flow, expected a student'), ('--student plan', 'expected a student'),
    ('--student lora --model full', 'holds a full, expected a flow'), ('--model full --plan plan', 'brings its own schedules'),
    ('--model full --nfe 5', 'budgets [2, 3]'), ('--model flow --plan full --nfe 5', 'budgets [2, 3]')))
def test_folders_that_do_not_fit(line, says, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(folders[0])
    with contextlib.redirect_stderr(err := io.StringIO()), pytest.raises(SystemExit) as e:
        cli.boss_sample(**words(line), out=str(tmp_path/'no.png'))
    assert e.value.code==2 and says in err.getvalue() and err.getvalue().count('\n')==1, err.getvalue()
    assert not (tmp_path/'no.png').exists()

def test_schedule_is_said(folders, tmp_path):
    r = forked('boss_sample', '--model', 'flow', '--nfe', 2, '--out', tmp_path/'x.png', cwd=folders[0])
    assert 'of flow) written' in r.stdout

def test_pictures_in_the_range_of_the_network(tmp_path, monkeypatch):
    class Bright(UNet):
        vrange = (0,1)
        def forward(self, x, t): return (.25-x)/(1-t.clamp_max(.999))[:,None,None,None]   # every image ends at a quarter
    for name,cls,want in (('a',Bright,64), ('b',type('Dark', (Bright,), dict(vrange=(-1,1))),159)):
        monkeypatch.setitem(architectures, cls.__name__, cls)
        save_net(tmp_path/f'{name}.safetensors', cls(width=8), shape=(1,8,8))
        cli.boss_sample(model=str(tmp_path/f'{name}.safetensors'), n=1, nfe=1, out=str(tmp_path/f'{name}.png'))
        assert abs(plt.imread(tmp_path/f'{name}.png')[20,20,0]*255-want) < 2

# Shared parts

def test_check_writable(tmp_path):
    assert script.check_writable(tmp_path/'new'/'folder'/'x.json')==tmp_path/'new'/'folder'/'x.json' and not os.listdir(tmp_path)
    (tmp_path/'f').write_text('')
    with pytest.raises(OSError, match='is not a folder'): script.check_writable(tmp_path/'f'/'x.json')
    with pytest.raises(OSError, match='it is a folder'): script.check_writable(tmp_path)

def test_shape_of_a_bundle(tmp_path):
    Bundle(digits_teacher(), shape=(1,8,8)).save_pretrained(tmp_path/'b')
    assert script.load_model(str(tmp_path/'b'))[1]==(1,8,8)
