"Every benchmark runs, and says where"
import json
from pathlib import Path
import pytest
import forks

root = Path(__file__).resolve().parent.parent

@pytest.mark.parametrize('name', ['calibration','planners','straightening','fid'])
def test_benchmark_runs(name, tmp_path):
    r = forks.run(root/'benchmarks'/f'{name}.py', '--quick', '--threads', '1', '--device', 'cpu', '--out', tmp_path, cwd=tmp_path)
    assert r.returncode==0, r.stderr[-2000:]
    f, = tmp_path.iterdir()
    d = json.loads(f.read_text())
    assert f.name==f'{name}-cpu-quick.json' and (d['benchmark'], d['device'], d['threads'], d['quick'])==(name, 'cpu', 1, True) and d['date'] and d['torch']
    if name=='calibration': assert d['models']['digits']['ratio']['median'] > .8 and d['pairs']['largest_difference'] < 1e-2
    if name=='planners': assert all(r['nfe']==3 and r['error'] > 0 for r in d['flows']['digits']['rows'])
    if name=='straightening': assert {r['method'] for r in d['rows']} >= {'teacher','straightened, best plan','k-distillation','reflow'} and [r['error'] for r in d['rows'] if r['method']=='teacher']==[0]
    if name=='fid': assert d['rows'][0]['images_per_s'] > 0 and len(d['rows'])==2

stages = dict(a='tests', b='calibration', c='fid', d='teacher', e='students')

def of_gpu(out, *argv):
    "Results of benchmarks/gpu.py on the CPU, `{stage: contents}`"
    r = forks.run(root/'benchmarks/gpu.py', '--quick', '--threads', '1', '--device', 'cpu', '--out', out, *argv, cwd=out.parent, timeout=900)
    assert r.returncode==0, r.stderr[-2000:]
    found = [json.loads(f.read_text()) for f in sorted(out.glob('gpu-*-cpu-quick.json'))]
    assert all(d['benchmark']==f"gpu-{stages[d['stage']]}" for d in found)
    return {d['stage']: d for d in found}

def gpu_page(folder):
    "What the page of results shows of a folder"
    cells, names = json.loads((root/'nbs/73_results.benchmarks.ipynb').read_text())['cells'], {}
    code = [''.join(c['source']) for c in cells if c['cell_type']=='code']
    for c in code:
        if 'import' in c or 'def ratio' in c: exec(c.split('parts = []')[0], names)
        if '(folder)' in c or '_part(parts)' in c: exec(c, names)
    return names['gpu_page'](folder)

def test_a_few_minutes_on_a_gpu_rehearsed(tmp_path):
    "All stages, tiny; what cannot be had is said, and nothing fails"
    got = of_gpu(tmp_path/'out', '--minutes', '10')
    assert set(got)==set(stages)
    for k,d in got.items():
        assert d['card'] is None and d['torch'] and d['date'] and d['precision']['dtype']=='float32' and 'batch' in d
        for name,o in d['parts'].items():
            assert o['state'] in ('done','not available'), (name, o)
            if o['state']=='not available': assert k in 'cde' and len(o['why']) > 10, o       # packages, or Fashion-MNIST
    count = got['a']['parts']['pytest -m cuda']['count']
    assert count['passed'] >= 3 and count['failure']==count['error']==0
    assert got['b']['parts']['calibration']['calibration_over_bare']['median'] > 0
    assert {r['what'] for r in got['c']['parts']['Fréchet term']['rows']} >= {'scipy.linalg.sqrtm', 'exact, cpu', 'fast, cpu'}
    assert all(r['difference'] < 1e-6 for r in got['c']['parts']['Fréchet term']['rows'])
    assert len(list((tmp_path/'out').iterdir())) <= 8                    # as many may come back from the device
    page = gpu_page(tmp_path/'out')
    assert 'over bare evaluations' in page and 'scipy' in page and 'No GPU result' not in page
    if got['d']['parts']['teacher']['state']=='done':
        rows = [r for o in got['e']['parts'].values() for r in o['rows']]
        assert [r['nfe'] for r in rows]==[6, 4, 4, 4, 4, 1, 1] and all(min(r['distances'].values()) >= 0 for r in rows)

def test_no_time_is_said_too(tmp_path):
    "What does not fit into the minutes is skipped, with the reason; a stage that is unknown is refused"
    got = of_gpu(tmp_path/'out', '--minutes', '0', '--stages', 'bc')
    assert set(got)=={'b','c'} and {o['state'] for d in got.values() for o in d['parts'].values()}=={'skipped'}
    assert 'were left' in got['b']['parts']['planning']['why']
    r = forks.run(root/'benchmarks/gpu.py', '--stages', 'x', '--out', tmp_path, cwd=tmp_path)
    assert r.returncode!=0 and '--stages must be letters of abcde' in r.stderr

def test_one_part_that_fails_is_written_and_the_next_goes_on(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(root/'benchmarks'))
    import argparse, torch, gpu
    def broken(a, left): raise RuntimeError('the card is gone')
    monkeypatch.setitem(gpu.stages, 'b', ('calibration', dict(first=(broken, 0), second=(lambda a, left: dict(batch=1), 0))))
    a = argparse.Namespace(device=torch.device('cpu'), quick=True, out=tmp_path)
    gpu.run(a, 'b', lambda: 100)
    parts = json.loads((tmp_path/'gpu-calibration-cpu-quick.json').read_text())['parts']
    assert parts['first']['error']=='RuntimeError: the card is gone' and 'broken' in parts['first']['trace']
    assert parts['second']['state']=='done'
