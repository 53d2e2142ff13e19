"The console scripts as a user runs them: separate processes, files, exit codes"
import contextlib, io, json, math, os, subprocess, sys
from pathlib import Path
import matplotlib.pyplot as plt, numpy as np, pytest, torch
import forks
from safetensors.torch import save_file
from boss_nb.share import cli
from boss_nb.sample.schedule import Schedule
from boss_nb.share.bundle import Bundle, save_plan
from boss_nb.core import noise
from boss_nb.files import load_state
from boss_nb.flow.nets import architectures, MLP, save_net, UNet
from boss_nb.sample.solvers import sample
from boss_nb.sample.schedule import uniform
from boss_nb.train.straighten import straighten

scripts = ('boss_demo','boss_plan','boss_straighten','boss_sample','boss_fid','boss_evaluate')

exe = lambda name: str(Path(sys.executable).parent/name)

def run(name, *args, cwd=None): return subprocess.run([exe(name), *map(str,args)], cwd=cwd, capture_output=True, text=True, timeout=300)

def forked(name, *args, cwd=None): return forks.run(exe(name), *args, cwd=cwd)

@pytest.fixture(scope='module')
def bad(tmp_path_factory):
    "A folder of files that must be refused"
    d = tmp_path_factory.mktemp('bad')
    net = UNet(width=8, blocks=1)
    p = save_net(d/'noshape.safetensors', net)
    (d/'cut.safetensors').write_bytes(p.read_bytes()[:-500])
    save_file({'a': torch.ones(2)}, d/'foreign.safetensors')
    class NaN(UNet): pass
    for q in net.parameters(): q.data.fill_(1e30)
    save_net(d/'explodes.safetensors', net, shape=(1,8,8))
    (d/'plan.json').write_text('{"kind": "boss_nb.plan", "schedules": [{"knots": [0, 0.7, 0.3, 1]}]}')
    (d/'text.json').write_text('not json')
    (d/'file').write_text('')
    np.savez(d/'foreign.npz', mu=np.zeros(4), sigma=np.eye(4))
    save_file({'samples': torch.ones(4,3,8,8)}, d/'rgb.safetensors', {'boss_nb': json.dumps(dict(kind='boss_nb.samples'))})
    return d

@pytest.mark.parametrize('name', scripts)
def test_help(name):
    r = forked(name, '--help')             # as a process of its own: `use_wheel.py`
    assert r.returncode==0 and '--json' in r.stdout and '--seed' in r.stdout

cases = [('boss_plan', ['--model','{d}/nothing.safetensors'], 'no such file'),
         ('boss_plan', ['--model','{d}/cut.safetensors'], 'not a readable safetensors file'),
         ('boss_plan', ['--model','{d}/foreign.safetensors'], 'was not made by save_net'),
         ('boss_plan', ['--model','cifar_like:x.pth'], 'config must be one of cifar10'),
         ('boss_plan', ['--model','cifar10'], 'given as CONFIG:FILE, such as cifar10:checkpoint_8.pth'),
         ('boss_sample', ['--model','x.pth'], 'given as CONFIG:FILE, such as cifar10:checkpoint_8.pth'),
         ('boss_plan', ['--model','{d}/noshape.safetensors'], 'give --shape'),
         ('boss_plan', ['--model','{d}/explodes.safetensors'], 'not finite'),
         ('boss_plan', ['--shape','2,8,8'], 'does not fit'),
         ('boss_plan', ['--nfe','101'], 'between 1 and n_steps=100, got 101'),
         ('boss_plan', ['--nfe','0'], 'nfe must be at least 1'),
         ('boss_plan', ['--n','0'], 'n must be at least 1'),
         ('boss_plan', ['--objective','luck'], 'objective must be'),
         ('boss_plan', ['--out','{d}/file/plan.json'], 'is not a folder'),
         ('boss_straighten', ['--nfe','0'], 'nfe must be between 1'),
         ('boss_straighten', ['--plan','{d}/text.json'], 'is not JSON'),
         ('boss_straighten', ['--plan','{d}/plan.json','--nfe','3'], 'broken schedule'),
         ('boss_straighten', ['--rank','-1','--n','10'], 'rank must be'),
         ('boss_straighten', ['--n_iter','0'], 'n_iter must be at least 1'),
         ('boss_sample', ['--solver','rk9'], 'solver must be one of'),
         ('boss_sample', ['--student','{d}/foreign.safetensors'], 'is not a boss_nb student'),
         ('boss_sample', ['--out','{d}/x.gif'], 'out must end in'),
         ('boss_fid', ['{d}/rgb.safetensors'], 'shape (1,8,8), got (3, 8, 8)'),
         ('boss_fid', ['{d}/nothing.npz'], 'no such file'),
         ('boss_fid', ['digits','--resize','clean'], 'for --extractor inception'),
         ('boss_fid', ['{d}/foreign.npz'], 'does not say how its images were resized'),
         ('boss_fid', ['digits','--extractor','inception','--weights','{d}/cut.safetensors'], 'SHA-256'),
         ('boss_evaluate', ['--nfe','0'], 'nfe must be at least 1'),
         ('boss_evaluate', ['--n','1'], 'n must be an integer of at least 2'),
         ('boss_evaluate', ['--reference','{d}/foreign.npz'], 'convention must be one of'),
         ('boss_evaluate', ['--reference','{d}/foreign.npz','--convention','edm'], 'cannot be compared'),
         ('boss_evaluate', ['--student','x','--plan','y'], 'brings its own schedules'),
         ('boss_demo', ['--out','{d}/file'], 'is not a folder')]

@pytest.mark.parametrize('name,args,says', cases, ids=[f'{n}-{s[:20]}' for n,_,s in cases])
def test_bad_input(name, args, says, bad, tmp_path):
    before = sorted(os.listdir(bad))
    r = forked(name, *[a.format(d=bad) for a in args], '--json', tmp_path/'out.json', cwd=tmp_path)
    assert r.returncode==2, r.stderr
    assert r.stderr.startswith(f'{name}: error: ') and r.stderr.count('\n')==1 and says in r.stderr
    assert os.listdir(tmp_path)==[] and sorted(os.listdir(bad))==before

def test_unknown_option(): assert run('boss_plan', '--nonsense').returncode==2

@pytest.mark.skipif(os.geteuid()==0, reason='root may write anywhere')
def test_no_permission(tmp_path):
    (tmp_path/'locked').mkdir(mode=0o500)
    r = run('boss_plan', '--out', tmp_path/'locked'/'p.json')
    assert r.returncode==2 and 'no permission' in r.stderr

def test_plan_straighten_sample_fid(tmp_path):
    "The parts on files, in a row; the same seed gives the same files"
    done = {'boss_plan'}                                                                  # twice in the same way: the files are compared
    def ok(name, *a):
        r = (forked if name in done else run)(name, *a, cwd=tmp_path); done.add(name)     # the others once as a process of their own
        assert r.returncode==0, r.stderr
    ok('boss_plan', '--n', 16, '--objective', 'weighted', '--calibration', 'cal.safetensors', '--json', 'p.json')
    ok('boss_plan', '--n', 16, '--objective', 'weighted', '--out', 'again.json')
    p, q = (json.loads((tmp_path/f).read_text()) for f in ('plan.json','again.json'))
    assert p==q and [s['nfe'] for s in p['schedules']]==list(range(1,11))
    assert all(s['knots'][0]==0 and s['knots'][-1]==1 for s in p['schedules'])
    ok('boss_straighten', '--plan', 'plan.json', '--nfe', 3, '--rank', 4, '--n', 80, '--n_iter', 40, '--bs', 64, '--json', 's.json')
    s = json.loads((tmp_path/'s.json').read_text())
    assert s['error_after'] < s['error_before'] and s['loss_after'] < s['loss_before']
    ok('boss_sample', '--student', 'student.safetensors', '--n', 200, '--out', 'x.safetensors', '--json', 'x.json', '--seed', 500)
    assert json.loads((tmp_path/'x.json').read_text())['nfe']==3
    ok('boss_sample', '--nfe', 3, '--n', 200, '--out', 'u.safetensors', '--seed', 500)
    ok('boss_sample', '--n', 9, '--out', 'u.png')
    assert (tmp_path/'u.png').read_bytes()[:4]==b'\x89PNG'
    fd = {}
    for f in ('x','u'):
        ok('boss_fid', f'{f}.safetensors', '--n', 200, '--save', f'{f}.npz', '--json', 'f.json')
        fd[f] = json.loads((tmp_path/'f.json').read_text())['frechet']
    assert 0 < fd['x'] < fd['u']

def test_points_too(tmp_path):
    "A network that does not make images"
    save_net(tmp_path/'mlp.safetensors', MLP(2), shape=(2,))
    assert forked('boss_plan', '--model', 'mlp.safetensors', '--nfe', '1-4', cwd=tmp_path).returncode==0
    r = forked('boss_sample', '--model', 'mlp.safetensors', '--plan', 'plan.json', '--nfe', 4, cwd=tmp_path)
    assert r.returncode==2 and 'are not images' in r.stderr
    assert forked('boss_sample', '--model', 'mlp.safetensors', '--plan', 'plan.json', '--nfe', 4, '--out', 'x.safetensors', cwd=tmp_path).returncode==0

def test_folders(tmp_path, monkeypatch):
    "A Bundle's folder as network, student and plan"
    torch.manual_seed(0); net = UNet(width=8, mults=(1,), blocks=1).eval().requires_grad_(False); z = noise(40,(1,8,8))
    st = {r: straighten(net, [uniform(2), uniform(3)], z, rank=r, n_iter=2, n_steps=6, progress=False) for r in (0,2)}
    own = Schedule([0,.3,1]); kw = dict(shape=[1,8,8])
    for name,b in dict(flow=Bundle(net, [own], **kw), full=Bundle(st[0], **kw), lora=Bundle(st[2], **kw), both=Bundle(st[2], base=net, **kw), plan=Bundle(None, [own])).items(): b.save_pretrained(tmp_path/name)
    save_plan(tmp_path/'other.json', [uniform(2)])
    def go(*args):
        cli.boss_sample(**dict(zip([a[2:] for a in args[::2]], args[1::2])), n=4, out='x.safetensors', seed=7)
        return load_state('x.safetensors')[0]['samples']
    x = noise(4, (1,8,8), 7); is_ = lambda got, v, s: torch.allclose(got, sample(v, x, s), atol=1e-5)
    monkeypatch.chdir(tmp_path)
    for args,v,s in (('--model flow --nfe 2', net, own), ('--model flow --nfe 3', net, uniform(3)), ('--model flow --nfe 2 --plan other.json', net, uniform(2)), ('--model flow --nfe 2 --plan plan', net, own), ('--model full', st[0], uniform(2)),
                     ('--model both --nfe 3', st[2], uniform(3)), ('--student full', st[0], uniform(2)), ('--student both --nfe 3', st[2], uniform(3)), ('--student lora --model flow', st[2], uniform(2)), ('--model full --nfe 3', st[0], uniform(3))):
        a = args.split(); assert is_(go(*[int(o) if o.isdigit() else o for o in a]), v, s), args
    assert 'of flow) written' in forked('boss_sample', '--model', 'flow', '--nfe', 2, '--out', 'x.png', cwd=tmp_path).stdout
    for args,says in (('--student lora', 'another base network'), ('--model lora', 'give the base'), ('--model plan', 'give it as --plan'), ('--student flow', 'holds a flow, expected a student'), ('--student plan', 'expected a student'), ('--student lora --model full', 'holds a full, expected a flow'),
                      ('--model full --plan plan', 'brings its own schedules'), ('--model full --nfe 5', 'budgets [2, 3]'), ('--model flow --plan full --nfe 5', 'budgets [2, 3]')):
        with contextlib.redirect_stderr(err := io.StringIO()), pytest.raises(SystemExit) as e: cli.boss_sample(**{a[2:]: int(b) if b.isdigit() else b for a,b in zip(args.split()[::2], args.split()[1::2])}, out='no.png')
        assert e.value.code==2 and says in err.getvalue() and err.getvalue().count('\n')==1 and not (tmp_path/'no.png').exists(), (args, err.getvalue())

def test_pictures_in_the_range_of_the_network(tmp_path, monkeypatch):
    class Bright(UNet):
        vrange = (0,1)
        def forward(self, x, t): return (.25-x)/(1-t.clamp_max(.999))[:,None,None,None]   # every image ends at a quarter
    for name,cls,want in (('a',Bright,64), ('b',type('Dark', (Bright,), dict(vrange=(-1,1))),159)):
        monkeypatch.setitem(architectures, cls.__name__, cls); save_net(tmp_path/f'{name}.safetensors', cls(width=8), shape=(1,8,8))
        cli.boss_sample(model=str(tmp_path/f'{name}.safetensors'), n=1, nfe=1, out=str(tmp_path/f'{name}.png'))
        assert abs(plt.imread(tmp_path/f'{name}.png')[20,20,0]*255-want) < 2
