"Fail unless notebooks are stored as `nbdev_clean` leaves them, without error outputs, small, and cheap to make pages of"
import ast, re, sys
from pathlib import Path
from execnb.nbio import read_nb, nb2str
from nbdev.clean import clean_nb

def mixed(source):
    "Imports, and other things as well? The documentation runs every cell that imports, to know what is exported"
    kinds = {isinstance(o, (ast.Import, ast.ImportFrom)) for o in ast.parse(source).body}
    return len(kinds)==2

root, bad, pages = Path(__file__).resolve().parent.parent, [], {}
for f in sorted((root/'nbs').rglob('*.ipynb')):
    if any(p.startswith(('.', '_')) for p in f.relative_to(root).parts): continue
    page = f.parent/re.sub(r'^\d+[a-z]*_', '', f.stem)                             # what nbdev calls the page
    if page in pages: bad.append(f'{f.name}: its page would be the same as that of {pages[page].name}, {page.name}.html')
    pages[page] = f
    nb = read_nb(f)
    errors = [c for c in nb.cells if any(o.get('output_type')=='error' for o in c.get('outputs', []))]
    stored, directives = f.read_text(), [c.source for c in nb.cells if c.cell_type=='code']
    clean_nb(nb)
    if nb2str(nb)!=stored: bad.append(f'{f.name}: not clean, run nbdev_clean')
    if errors: bad.append(f'{f.name}: {len(errors)} cells with an error output')
    if f.stat().st_size > 400_000: bad.append(f'{f.name}: {f.stat().st_size//1000} kB, keep outputs small')
    if any('#| export' in s and 'eval: false' in s for s in directives): bad.append(f'{f.name}: an exported cell is not evaluated')
    if any('#| default_exp' in s for s in directives) and (m := [s for s in directives if '#| export' not in s and mixed(s)]): bad.append(f'{f.name}: imports belong in a cell of their own, not in {m[0].splitlines()[0]!r}...')
if bad: sys.exit('\n'.join(bad))
