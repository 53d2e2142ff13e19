"""Fail unless notebooks are stored as `nbdev_clean` leaves them, without error outputs, small,
cheap to make pages of, and import only what came before: `python tools/check_nbs.py`"""
import argparse, ast, re, sys
from pathlib import Path
from execnb.nbio import read_nb, nb2str
from nbdev.clean import clean_nb
from imports import broken_rules

def mixed(source):
    "Imports, and other things as well? The documentation runs every cell that imports"
    kinds = {isinstance(o, (ast.Import, ast.ImportFrom)) for o in ast.parse(source).body}
    return len(kinds) == 2

def paths_of_notebooks(root):
    "All notebooks that are not hidden"
    hidden = lambda path: any(p.startswith(('.', '_')) for p in path.relative_to(root).parts)
    return [o for o in sorted((root/'nbs').rglob('*.ipynb')) if not hidden(o)]

def same_pages(paths):
    "Notebooks whose page would be overwritten by that of another"
    bad, pages = [], {}
    for f in paths:
        page = f.parent/re.sub(r'^\d+[a-z]*_', '', f.stem)      # what nbdev calls the page
        if page in pages:
            other = pages[page].name
            bad.append(f'{f.name}: its page would be the same as that of {other}, {page.name}.html')
        pages[page] = f
    return bad

def stored_badly(f):
    "What is wrong with the file of a notebook"
    nb, bad = read_nb(f), []
    failed = lambda c: any(o.get('output_type') == 'error' for o in c.get('outputs', []))
    errors = [c for c in nb.cells if failed(c)]
    clean_nb(nb)
    if nb2str(nb) != f.read_text():
        bad.append(f'{f.name}: not clean, run nbdev_clean')
    if errors:
        bad.append(f'{f.name}: {len(errors)} cells with an error output')
    if f.stat().st_size > 400_000:
        bad.append(f'{f.name}: {f.stat().st_size//1000} kB, keep outputs small')
    return bad

def cells_badly(f):
    "What is wrong with the code cells of a notebook"
    code, bad = [c.source for c in read_nb(f).cells if c.cell_type == 'code'], []
    if any('#| export' in s and 'eval: false' in s for s in code):
        bad.append(f'{f.name}: an exported cell is not evaluated')
    if any('#| default_exp' in s for s in code):
        both = [s for s in code if '#| export' not in s and mixed(s)]
        if both:
            line = both[0].splitlines()[0]
            bad.append(f'{f.name}: imports belong in a cell of their own, not in {line!r}...')
    return bad

def bad_imports(root):
    "Imports that break a rule, and how many there are"
    bad = broken_rules(root)
    return bad + [f'{len(bad)} imports break a rule'] if bad else []

def main():
    "Say what is wrong, and fail if anything is"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--skip-imports', action='store_true', help='leave out the import rules')
    args = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    paths = paths_of_notebooks(root)
    bad = same_pages(paths)
    for f in paths:
        bad += stored_badly(f) + cells_badly(f)
    if not args.skip_imports:
        bad += bad_imports(root)
    if bad:
        sys.exit('\n'.join(bad))

if __name__ == '__main__':
    main()
