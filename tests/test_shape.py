"What tools/shape.py counts, and the import rules of tools/check_nbs.py, on a made-up library"
import json, sys
from pathlib import Path
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'tools'))
import imports, shape

def code(*lines):
    "A code cell"
    return dict(cell_type='code', source='\n'.join(lines), metadata={}, outputs=[])

def text(*lines):
    "A markdown cell"
    return dict(cell_type='markdown', source='\n'.join(lines), metadata={})

def write(path, *lines):
    "A file and the folders it is in"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines)+'\n')

def notebook(root, name, *cells):
    "A notebook"
    write(root/'nbs'/name, json.dumps(dict(cells=cells)))

wide = [f'    p{i:02}:int, # number {i}' for i in range(12)]
wide = ['def wide(', *wide, '    last=0,', ')->int: # a number', '    return 13']
hidden = ['def _helper(a, b, c, d, e, f, g):', '    "Seven"', '', '    # a comment', '    return a']
long_line = f'x = "{"o"*120}"'

def modules(root):
    "core → plan.costs → plan.choose → plan.costs, and a front door"
    lib = root/'boss_nb'
    write(lib/'__init__.py', '__version__ = "1"')
    write(lib/'_modidx.py', *['x = 1']*500)
    write(lib/'plan'/'__init__.py', '')
    write(lib/'core.py', "__all__ = ['wide', 'Thing']", *wide, *hidden)
    write(lib/'plan'/'costs.py', "__all__ = ['price', 'sample']", 'from .. import __version__',
          'from ..core import wide, _helper', 'def price(x):', '    from .choose import best',
          '    return best', 'def sample(v): return v')
    write(lib/'plan'/'choose.py', "__all__ = ['best']", 'import boss_nb.plan.costs as c',
          'best = c.price', 'hidden = c._secret')
    write(lib/'all.py', '__all__ = []', 'from .core import *', 'from .plan.costs import price')

def notebooks(root):
    "The same as notebooks"
    notebook(root, '00_core.ipynb',
             text('# core', '', 'Three `wide` words', '```', 'no words', '```'),
             code('#| default_exp core'), code('#| export', 'import math'),
             code('#| export', *wide), text('Nothing is shown'), code('import numpy'),
             code('#| export', *hidden, '', long_line),
             code('test_eq(wide(), 13); assert _helper', 'test_fail(wide)'),
             code('#| exporti', '@patch', 'class Thing:', '    def a(self): return 1',
                  '    def b(self,', '          x): # y', '        return x'))
    notebook(root, '02_plan.costs.ipynb', code('#| default_exp plan.costs'),
             code('#| export', 'from boss_nb.core import wide, _helper'),
             code('#| export', 'def sample(v): return v'),
             code('%matplotlib inline', 'from boss_nb.plan.choose import best'))
    notebook(root, '02b_plan.choose.ipynb', code('#| default_exp plan.choose'),
             code('from boss_nb.plan.choose import _mine', 'from boss_nb import core'),
             code('core.wide(); core._unseen.more'))
    notebook(root, '05_early.ipynb', code('from boss_nb.all import *'))
    notebook(root, '70_results.all.ipynb', code('from boss_nb.all import *'))
    notebook(root, '99_all.ipynb', code('#| default_exp all'))
    notebook(root, 'index.ipynb', code('from boss_nb.all import *', 'best(1).price'))
    notebook(root, 'tutorials/first.ipynb', code('from boss_nb.plan.costs import _third'))
    notebook(root, '.hidden/00_core.ipynb', code('from boss_nb.core import _nothing'))

def others(root):
    "A sidebar, README and tests"
    write(root/'nbs'/'sidebar.yml', '- contents: [index.ipynb, 00_core.ipynb]',
          '- contents: [02b_plan.choose.ipynb, 02_plan.costs.ipynb]')
    write(root/'README.md', '`Thing`, but not price')
    write(root/'tests'/'test_it.py', 'from boss_nb.core import _helper', 'def test_one():',
          '    assert 1', '    with pytest.raises(ValueError): assert 2')

@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "The made-up library"
    path = tmp_path_factory.mktemp('library')
    for make in (modules, notebooks, others):
        make(path)
    return path

@pytest.fixture(scope='module')
def rows(root):
    "What is counted, by label"
    return {o.label: o for o in shape.shape(root)}

expected = {
    'public names': 5,                                           # all but __all__ of the door
    'public names in boss_nb.all': 3,                            # wide, Thing, price
    'public names used in README, tutorials or explanations': 3, # Thing, best, price
    'of those in boss_nb.all': 2,                                # Thing, price
    'exported code cells': 4,
    'lines per exported cell, median': 2.5,                      # 1, 4, 4, 1
    'lines per exported cell, 90th percentile': 4,
    'exported cells of more than 20 lines': 0,
    'lines per exported cell with signatures, median': 5.5,      # 16, 5, 6, 1
    'lines per exported cell with signatures, 90th percentile': 16,
    'exported lines': 30,
    'exported lines over 120 characters, percent': 3.3,
    'longest exported run with nothing shown, lines': 5,         # wide, _helper
    'import circles': 1,
    'private names imported across modules': 4,                  # see test_broken_rules
    'private names used by tests/': 1,
    'modules': 4,
    'largest module, lines': 22,
    'median module, lines': 5.5,
    'functions over 12 parameters': 1,
    'helpers over 6 positional parameters': 1,
    'parameters of public functions': 15,
    'parameters with a docment, percent': 80.,
    'words of prose': 8,
    'numbered notebooks': 6,
    'notebooks before the problem is shown': 2,
    'assertions in notebooks': 3,
    'test functions in tests/': 1,
    'assertions in tests/': 2,
    'tests of failures': 2,
}

def test_every_row_is_expected(rows): assert list(rows) == list(expected)

@pytest.mark.parametrize('label', expected)
def test_count(rows, label): assert rows[label].value == expected[label]

def test_names_in_notes(rows):
    assert rows['import circles'].note == 'plan.choose plan.costs'
    assert rows['functions over 12 parameters'].note == 'core.wide 13'
    assert rows['helpers over 6 positional parameters'].note == 'core._helper 7'
    assert rows['largest module, lines'].note == 'core'
    assert rows['notebooks before the problem is shown'].note == 'first in 02_plan.costs.ipynb'
    assert rows['longest exported run with nothing shown, lines'].note == '00_core.ipynb'

def test_broken_rules(root):
    assert imports.broken_rules(root) == [
        '02_plan.costs.ipynb: imports boss_nb.plan.choose, '
        'which comes later (02b_plan.choose.ipynb)',
        '05_early.ipynb: imports boss_nb.all, which comes later (99_all.ipynb)',
        'plan.choose plan.costs: import each other in a circle',
        'plan.choose: uses _unseen, which is private to boss_nb.core',
        'plan.choose: uses _secret, which is private to boss_nb.plan.costs',
        'plan.costs: uses _helper, which is private to boss_nb.core',
        'tutorials/first.ipynb: uses _third, which is private to boss_nb.plan.costs']

def test_order_of_notebooks(tmp_path):
    for name in ('100_d', '06_c', '05b_b', '05_a'):
        notebook(tmp_path, f'{name}.ipynb')
    notebook(tmp_path, 'index.ipynb')
    got = [o.name for o in imports.read_notebooks(tmp_path)]
    assert got == ['05_a.ipynb', '05b_b.ipynb', '06_c.ipynb', '100_d.ipynb', 'index.ipynb']

def test_table_and_json(rows):
    found = [rows['public names'], rows['import circles']]
    before = json.loads(shape.as_json(found[:1]))
    assert before == {'public names': [5, '']}
    assert shape.table(found, before).splitlines()[2:] == [
        '| public names | 5 | 5 |', '| import circles | - | 1 (plan.choose plan.costs) |']
    assert shape.table(found).splitlines()[2] == '| public names | 5 |'
