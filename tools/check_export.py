"Fail unless `boss_nb/` is exactly what `nbdev_export` makes of the notebooks, with no module left behind"
import os, re, shutil, subprocess, sys, tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
with tempfile.TemporaryDirectory() as d:
    copy = Path(d)/'boss_nb'                      # nbdev takes the project's name from its folder's settings
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns('.git', '.venv*', '_proc', '_docs', '.cache', 'build', '*.egg-info', '__pycache__'))
    for p in (copy/'boss_nb').rglob('*.py'): p.unlink()
    (copy/'boss_nb'/'__init__.py').write_text((root/'boss_nb'/'__init__.py').read_text())
    r = subprocess.run(['nbdev_export'], cwd=copy, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': ''})
    if r.returncode: sys.exit(f'nbdev_export failed: {r.stderr[-2000:]}')
    made, have = ({str(p.relative_to(o/'boss_nb')): p.read_text() for p in (o/'boss_nb').rglob('*.py')} for o in (copy, root))
bad = [f'boss_nb/{n} is out of date, run nbdev_export' for n in made if n in have and made[n]!=have[n]]
bad += [f'boss_nb/{n} is missing, run nbdev_export' for n in made if n not in have] + [f'boss_nb/{n} has no notebook: delete it' for n in have if n not in made]
if bad: sys.exit('\n'.join(bad))
