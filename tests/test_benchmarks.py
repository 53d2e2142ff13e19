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
