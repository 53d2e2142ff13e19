"What importing brings in, in a process of its own: planning needs torch and little else"
import subprocess, sys
from pathlib import Path
import parso, pytest

root = Path(__file__).resolve().parent.parent
modules = sorted('.'.join(p.relative_to(root/'boss_nb').with_suffix('').parts) for p in (root/'boss_nb').rglob('*.py') if not p.stem.startswith('_'))
plain = [m for m in modules if m in ('core','files') or m.split('.')[0] in ('flow','sample','plan') and m!='flow.data'] + ['train.states']      # calibrate, plan, sample

def brought(names):
    "Top-level packages in memory after imports"
    code = 'import sys; '+'; '.join(f'import {n}' for n in names)+'; print(*{o.partition(".")[0] for o in sys.modules})'
    return set(subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True).stdout.split())

def test_planning_needs_torch_and_little_else():
    got = brought(f'boss_nb.{m}' for m in plain)
    assert 'torch' in got and not got & {'fastai','matplotlib','pandas','sklearn','scipy','peft','torchvision','ipywidgets','IPython','diffusers','transformers'}, got

def test_nothing_imports_the_extras():
    got = brought(f'boss_nb.{m}' for m in modules)
    assert 'fastai' in got and not got & {'diffusers','transformers','accelerate','torch_fidelity','nbdev'}, got

def test_the_package_itself_imports_nothing(): assert not brought(['boss_nb']) & {'torch','numpy','fastcore'}

@pytest.mark.parametrize('path', sorted(str(p.relative_to(root)) for d in ('boss_nb','benchmarks') for p in (root/d).rglob('*.py'))+['setup.py'])
def test_the_oldest_python_can_read_it(path):
    "Syntax only: this file is run by whatever Python is at hand"
    from nbdev.config import get_config
    oldest = parso.load_grammar(version=get_config(path=root).min_python)
    assert not [(e.start_pos, e.message) for e in oldest.iter_errors(oldest.parse((root/path).read_text()))]

def test_what_the_oldest_python_cannot_read():
    oldest = parso.load_grammar(version='3.10')
    for bad in ('d[*w,k]', 'try: x\nexcept* E: y\n', 'f"{d["a"]}"'): assert list(oldest.iter_errors(oldest.parse(bad))), bad
