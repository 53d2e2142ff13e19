"What is in the sdist and the wheel, and which version they say: check_dist.py FOLDER [VERSION]"
import email, re, sys, tarfile, zipfile
from configparser import ConfigParser
from pathlib import Path

root, folder, want = Path(__file__).resolve().parent.parent, Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
ini = ConfigParser(delimiters=['=']); ini.read(root/'settings.ini', encoding='utf-8')
version = ini['DEFAULT']['version']
[whl], [tar] = folder.glob('*.whl'), folder.glob('*.tar.gz')
inside = set(zipfile.ZipFile(whl).namelist())
source = {n.split('/', 1)[1] for n in tarfile.open(tar).getnames() if '/' in n}
package = {str(p.relative_to(root)) for p in (root/'boss_nb').rglob('*') if p.suffix in ('.py','.safetensors','.npz','.json','.typed') or p.name=='py.typed'}
assert package <= inside, f'not in the wheel: {sorted(package-inside)}'
assert package | {'LICENSE','README.md','CHANGELOG.md','CITATION.cff','settings.ini','setup.py'} <= source, f'not in the sdist: {sorted(package-source)}, or LICENSE, README.md, CHANGELOG.md, CITATION.cff, settings.ini, setup.py'
assert not (extra := {n for n in inside if n.startswith('boss_nb/')} - package), f'too much in the wheel: {sorted(extra)}'
assert any(re.search(r'dist-info/.*LICENSE', n) for n in inside), 'no licence in the wheel'
m = email.message_from_bytes(zipfile.ZipFile(whl).read(next(n for n in inside if n.endswith('METADATA'))))
assert m['Version']==version and m['Requires-Python']=='>='+ini['DEFAULT']['min_python'] and 'boss_nb' in m.get_payload(), (m['Version'], m['Requires-Python'])
said = {'CITATION.cff': re.search(r'^version: (.+)$', (root/'CITATION.cff').read_text(), re.M)[1], 'boss_nb': re.search(r'"(.+)"', (root/'boss_nb'/'__init__.py').read_text())[1],
        'CHANGELOG.md': re.search(r'^## (\d\S*)', (root/'CHANGELOG.md').read_text(), re.M)[1]}
assert set(said.values())=={version}, f'settings.ini says {version}, but {said}'
assert want in (None, version), f'asked for {want}, but this is {version}'
print(f'{whl.name}, {whl.stat().st_size/1e6:.1f} MB, {len(inside)} files; {tar.name}, {tar.stat().st_size/1e6:.1f} MB')
