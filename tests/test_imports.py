"What importing brings in, in a process of its own: planning needs torch and little else"
import subprocess, sys
from pathlib import Path

modules = sorted(p.stem for p in (Path(__file__).parent.parent/'boss_nb').glob('*.py') if not p.stem.startswith('_'))
plain = ['core','flows','models','sampling','bellman','multistep','schedules','states','ncsnpp']      # calibrate, plan, sample

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
