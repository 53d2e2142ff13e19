"The Fashion-MNIST teacher can be made again, and its benchmark runs, in tiny sizes"
import json
from pathlib import Path
import numpy as np, pytest, torch
import forks
from boss_nb.flow.data import fashion_mnist
from boss_nb.flow.nets import load_net

root = Path(__file__).resolve().parent.parent
try: fashion_mnist('test'); here = True
except FileNotFoundError: here = False
needs_data = pytest.mark.skipif(not here, reason='Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist')

@needs_data
def test_the_teacher_is_made_again_and_goes_on(tmp_path):
    "Classifier, autoencoder and teacher from nothing; then the teacher a second time, which finds its run"
    out, runs = tmp_path/'weights', tmp_path/'runs'
    def make(*what):
        r = forks.run(root/'tools'/'make_teacher.py', *what, '--quick', '--device', 'cpu', '--out', out, '--runs', runs, cwd=tmp_path)
        assert r.returncode==0, r.stderr[-2000:]
    make()
    files = {p.stem: p for p in out.iterdir()}
    assert sorted(files)==['fashion_autoencoder','fashion_classifier','fashion_latents']
    first = load_net(files['fashion_latents'])
    assert first.meta['n_iter']==12 and first.meta['shape']==[4,7,7] and first.config['classes']==10
    ae = load_net(files['fashion_autoencoder'])
    z = ae.encode(fashion_mnist('train')[0][:400])
    assert abs(z.std().item()-1) < .05 and z.mean().abs() < .05                   # measured on what it was trained on
    make('latents')
    for a,b in zip(first.parameters(), load_net(files['fashion_latents']).parameters()): assert torch.equal(a, b)

def test_quick_weights_do_not_replace_those_of_the_package(tmp_path):
    r = forks.run(root/'tools'/'make_teacher.py', '--quick', cwd=tmp_path)
    assert r.returncode==2 and '--quick needs --out' in r.stderr

@needs_data
def test_the_benchmark_runs(tmp_path):
    r = forks.run(root/'benchmarks'/'fashion.py', '--quick', '--threads', '1', '--device', 'cpu', '--out', tmp_path, cwd=tmp_path)
    assert r.returncode==0, r.stderr[-2000:]
    d = {k: json.loads((tmp_path/f'fashion-{k}-cpu-quick.json').read_text()) for k in ('teacher','students','onestep')}
    nfe = {r['label']: r['nfe'] for k in d for r in d[k]['rows']}
    assert nfe['teacher']==100 and nfe['planned, 3']==nfe['straightened, 3']==3 and nfe['flow generator matching, 1']==1
    assert nfe['scale 2']==50 and nfe['scale 1']==25                               # guidance runs the network twice
    assert all(r['fd_classifier'] > 0 for k in d for r in d[k]['rows'])
    assert np.load(tmp_path/'fashion-students.npz')['planned, 3'].shape==(40,1,28,28)
    assert (tmp_path/'fashion-front.png').stat().st_size > 5000

@needs_data
@pytest.mark.parametrize('name', ['fashion-teacher', 'fashion-students', 'fashion-onestep'])
def test_results_are_of_the_teacher_that_ships(name):
    "A new teacher needs new results"
    from boss_nb.flow.latents import fashion_teacher
    from boss_nb.files import fingerprint
    d = json.loads((root/'benchmarks'/'results'/f'{name}-cpu.json').read_text())
    assert d['teacher']['fingerprint']==fingerprint(fashion_teacher(device='cpu'))[:16]
