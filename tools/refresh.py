"Execute notebooks top to bottom and store their outputs: `python tools/refresh.py [--flags slow] [nbs/31_plan.costs.ipynb ...]`"
import argparse, os, sys, time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))

def flags(source):
    "Names of the `#|` directives at the top of a cell"
    head = []
    for l in source.splitlines():
        if not l.startswith('#|'): break
        head.append(l[2:].strip().replace(' ', ''))
    return set(head)

def refresh(f, skip):
    "Run `f` as `nbdev_test` would, leaving cells flagged `skip` and their outputs alone; write it back cleaned, or not at all"
    from execnb.nbio import read_nb, write_nb
    from execnb.shell import CaptureShell
    from nbdev.clean import clean_nb
    start, nb = time.time(), read_nb(f)
    shell = CaptureShell(f, mpl_format='png')
    def left_alone(c):
        if c.cell_type != 'code': return True
        if skip & flags(c.source) or 'eval:false' in flags(c.source): return True
        c.outputs = []
    def no_warnings(c): c.outputs = [o for o in c.outputs if o.get('name') != 'stderr']
    os.chdir(f.parent)
    try: shell.run_all(nb, exc_stop=True, preproc=left_alone, postproc=no_warnings)
    except Exception:
        print(shell.prettytb(fname=f), file=sys.stderr)
        return False
    clean_nb(nb)
    write_nb(nb, f)
    print(f'{f.name}: {time.time()-start:.0f} s, {f.stat().st_size/1000:.0f} kB', flush=True)
    return True

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('notebooks', nargs='*', type=Path, help='default: every notebook of the project')
    p.add_argument('--flags', default='', help='flags of cells to run that are normally left alone: slow, cuda')
    a = p.parse_args()
    from nbdev.config import get_config
    from nbdev.doclinks import nbglob
    os.chdir(root)
    os.environ['IN_TEST'] = '1'
    skip = set(get_config().tst_flags.split()) - set(a.flags.split())
    files = [o.resolve() for o in a.notebooks] or sorted(Path(o).resolve() for o in nbglob())
    failed = [f.name for f in files if not refresh(f, skip)]
    if failed: sys.exit('failed: ' + ', '.join(failed))

if __name__ == '__main__': main()
