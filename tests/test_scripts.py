"The console scripts as a user runs them: separate processes, files, exit codes"
import json, math, os, subprocess, sys
from pathlib import Path
import pytest, torch
from safetensors.torch import save_file
from boss_nb.models import MLP, UNet, save_net

scripts = ('boss_demo','boss_plan','boss_straighten','boss_sample','boss_fid')

def run(name, *args, cwd=None):
    code = f'import sys; sys.argv[0]={name!r}; from boss_nb.cli import {name}; {name}()'
    exe = Path(sys.executable).parent/name
    cmd = [str(exe)] if exe.exists() else [sys.executable, '-c', code]
    return subprocess.run([*cmd, *map(str,args)], cwd=cwd, capture_output=True, text=True, timeout=300)

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
    save_file({'samples': torch.ones(4,3,8,8)}, d/'rgb.safetensors', {'boss_nb': json.dumps(dict(kind='boss_nb.samples'))})
    return d

@pytest.mark.parametrize('name', scripts)
def test_help(name):
    r = run(name, '--help')
    assert r.returncode==0 and '--json' in r.stdout and '--seed' in r.stdout

cases = [('boss_plan', ['--model','{d}/nothing.safetensors'], 'no such file'),
         ('boss_plan', ['--model','{d}/cut.safetensors'], 'not a readable safetensors file'),
         ('boss_plan', ['--model','{d}/foreign.safetensors'], 'was not made by save_net'),
         ('boss_plan', ['--model','{d}/noshape.safetensors'], 'give --shape'),
         ('boss_plan', ['--model','{d}/explodes.safetensors'], 'not finite'),
         ('boss_plan', ['--shape','1,9,9'], 'does not fit'),
         ('boss_plan', ['--nfe','101'], 'between 1 and n_steps=100, got 101'),
         ('boss_plan', ['--nfe','0'], 'nfe must be at least 1'),
         ('boss_plan', ['--n','0'], 'n must be at least 1'),
         ('boss_plan', ['--objective','luck'], 'objective must be'),
         ('boss_plan', ['--out','{d}/file/plan.json'], 'is not a folder'),
         ('boss_straighten', ['--nfe','0'], 'nfe must be between 1'),
         ('boss_straighten', ['--plan','{d}/text.json'], 'is not JSON'),
         ('boss_straighten', ['--plan','{d}/plan.json','--nfe','3'], 'broken schedule'),
         ('boss_straighten', ['--rank','-1','--n','10'], 'rank must be'),
         ('boss_sample', ['--solver','rk9'], 'solver must be one of'),
         ('boss_sample', ['--student','{d}/foreign.safetensors'], 'is not a boss_nb student'),
         ('boss_sample', ['--out','{d}/x.gif'], 'out must end in'),
         ('boss_fid', ['{d}/rgb.safetensors'], 'shape (1,8,8), got (3, 8, 8)'),
         ('boss_fid', ['{d}/nothing.npz'], 'no such file'),
         ('boss_demo', ['--out','{d}/file'], 'is not a folder')]

@pytest.mark.parametrize('name,args,says', cases, ids=[f'{n}-{s[:20]}' for n,_,s in cases])
def test_bad_input(name, args, says, bad, tmp_path):
    before = sorted(os.listdir(bad))
    r = run(name, *[a.format(d=bad) for a in args], '--json', tmp_path/'out.json', cwd=tmp_path)
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
    ok = lambda *a: (lambda r: r.returncode==0 or pytest.fail(r.stderr))(run(*a, cwd=tmp_path))
    ok('boss_plan', '--n', 40, '--objective', 'weighted', '--calibration', 'cal.safetensors', '--json', 'p.json')
    ok('boss_plan', '--n', 40, '--objective', 'weighted', '--out', 'again.json')
    p, q = (json.loads((tmp_path/f).read_text()) for f in ('plan.json','again.json'))
    assert p==q and [s['nfe'] for s in p['schedules']]==list(range(1,11))
    assert all(s['knots'][0]==0 and s['knots'][-1]==1 for s in p['schedules'])
    ok('boss_straighten', '--plan', 'plan.json', '--nfe', 3, '--rank', 4, '--n', 120, '--n_iter', 60, '--json', 's.json')
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
    assert run('boss_plan', '--model', 'mlp.safetensors', '--nfe', '1-4', cwd=tmp_path).returncode==0
    r = run('boss_sample', '--model', 'mlp.safetensors', '--plan', 'plan.json', '--nfe', 4, cwd=tmp_path)
    assert r.returncode==2 and 'are not images' in r.stderr
    assert run('boss_sample', '--model', 'mlp.safetensors', '--plan', 'plan.json', '--nfe', 4, '--out', 'x.safetensors', cwd=tmp_path).returncode==0
