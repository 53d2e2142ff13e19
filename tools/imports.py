"Notebooks and modules as their source says, and three rules for what they may import"
import ast, json, re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

package = 'boss_nb'
door = 'all'                  # the module that gathers all public names
after_the_door = 70           # notebooks from this number on may use it

# Notebooks

def parsed(source):
    "The tree of a cell; lines for IPython (`%magic`, `!command`, `name?`) are left out"
    try:
        return ast.parse(source)
    except SyntaxError:
        if source.lstrip().startswith('%%'):
            return ast.parse('')
        plain = re.sub(r'^(\s*)([%!?].*|[\w.]+\?+\s*)$', r'\1pass', source, flags=re.M)
        return ast.parse(plain)

@dataclass
class Cell:
    "A cell of a notebook"
    kind: str
    source: str

    @cached_property
    def tree(self):
        "Its syntax tree, empty if it is no code"
        return parsed(self.source if self.kind == 'code' else '')

    @property
    def exported(self):
        "Does nbdev write it to a module?"
        directive = re.search(r'^#\s*\|\s*export[is]?\b', self.source, re.M)
        return self.kind == 'code' and bool(directive)

    @property
    def only_imports(self):
        "Nothing but imports, or nothing at all?"
        return all(isinstance(o, (ast.Import, ast.ImportFrom)) for o in self.tree.body)

@dataclass
class Notebook:
    "A notebook: its place and its cells"
    path: Path
    name: str
    cells: list

    @cached_property
    def number(self):
        "What its file name begins with, (5, 'b') for `05b_loop.ipynb`, or None"
        found = re.match(r'(\d+)([a-z]*)_', self.path.name)
        return (int(found[1]), found[2]) if found else None

    @cached_property
    def module(self):
        "The module it exports to, or None"
        for cell in self.cells:
            found = re.search(r'^#\s*\|\s*default_exp\s+(\S+)', cell.source, re.M)
            if cell.kind == 'code' and found:
                return found[1]

    @cached_property
    def tree(self):
        "One syntax tree of all its code"
        return ast.Module([o for cell in self.cells for o in cell.tree.body], [])

def read_notebook(path, nbs):
    "A notebook in the folder `nbs`"
    stored = json.loads(path.read_text())['cells']
    cells = [Cell(o['cell_type'], ''.join(o['source'])) for o in stored]
    return Notebook(path, path.relative_to(nbs).as_posix(), cells)

def read_notebooks(root):
    "All notebooks, numbered ones first and in their order"
    nbs = root/'nbs'
    hidden = lambda path: any(o.startswith(('.', '_')) for o in path.relative_to(nbs).parts)
    paths = [o for o in nbs.rglob('*.ipynb') if not hidden(o)]
    notebooks = [read_notebook(o, nbs) for o in paths]
    return sorted(notebooks, key=lambda o: (o.number is None, o.number or (), o.name))

# Modules

@dataclass
class Source:
    "A Python file of the package, or a test"
    name: str       # of a module, without the package: `plan.costs`
    path: Path
    text: str

    @cached_property
    def tree(self):
        "Its syntax tree"
        return ast.parse(self.text)

    @property
    def folder(self):
        "Names of the packages it is in, from which relative imports count"
        parts = self.name.split('.') if self.name else []
        return parts if self.path.name == '__init__.py' else parts[:-1]

def module_name(path, folder):
    "`plan.costs` for plan/costs.py, `plan` for plan/__init__.py"
    parts = path.relative_to(folder).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)

def read_modules(root):
    "All modules of the package but nbdev's index, by name"
    folder = root/package
    paths = [o for o in sorted(folder.rglob('*.py')) if o.name != '_modidx.py']
    sources = [Source(module_name(o, folder), o, o.read_text()) for o in paths]
    return {o.name: o for o in sources}

def read_tests(root):
    "All Python files in tests/"
    return [Source(o.stem, o, o.read_text()) for o in sorted((root/'tests').rglob('*.py'))]

def known_names(modules, notebooks):
    "Names of all modules and of the packages that hold them; '' is the whole package"
    names = {*modules, *(o.module for o in notebooks if o.module)}
    parents = {n.rsplit('.', i)[0] for n in names for i in range(1, n.count('.')+1)}
    return names | parents | {''}

# Imports

@dataclass(frozen=True)
class Imported:
    "One imported name"
    target: str     # the module it comes from, or that it is
    name: str       # what is taken from that module, '' if it is the module itself
    bound: str      # what it is called here

def joined(*names):
    "A dotted name"
    return '.'.join(o for o in names if o)

def longest_known(dotted, known):
    "The part of a dotted name that is a module, and the list of names after it"
    parts = dotted.split('.') if dotted else []
    for n in range(len(parts), -1, -1):
        if '.'.join(parts[:n]) in known:
            return '.'.join(parts[:n]), parts[n:]

def in_package(dotted):
    "A dotted name without the package's own, None if it is another package's"
    first, _, rest = dotted.partition('.')
    return rest if first == package else None

def plain_imports(node, known):
    "`import boss_nb.plan.costs as c`"
    for alias in node.names:
        dotted = in_package(alias.name)
        if dotted is not None:
            target, _ = longest_known(dotted, known)
            yield Imported(target, '', alias.asname or package)

def origin(node, folder):
    "The module that `from ... import` names, None if it is not of this package"
    if not node.level:
        return in_package(node.module)
    above = folder[:len(folder)-node.level+1]
    return joined(*above, node.module)

def from_imports(node, known, folder):
    "`from boss_nb.plan import costs`, `from ..plan.costs import calibrate`"
    start = origin(node, folder)
    for alias in node.names if start is not None else []:
        bound, whole = alias.asname or alias.name, joined(start, alias.name)
        if whole in known:
            yield Imported(whole, '', bound)
        else:
            yield Imported(longest_known(start, known)[0], alias.name, bound)

def imports(tree, known, folder=()):
    "All that is imported from this package, wherever it is done"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from plain_imports(node, known)
        if isinstance(node, ast.ImportFrom):
            yield from from_imports(node, known, list(folder))

def import_graph(modules, known):
    "The modules that each module imports"
    targets = lambda o: {i.target for i in imports(o.tree, known, o.folder)} - {o.name}
    return {name: targets(o) for name, o in modules.items()}

def reachable(graph, start):
    "All modules that are imported on the way from one"
    seen, todo = set(), [start]
    while todo:
        new = graph.get(todo.pop(), set()) - seen
        seen |= new
        todo += new
    return seen

def circles(graph):
    "Sets of modules that all import each other, directly or not"
    reach = {o: reachable(graph, o) for o in graph}
    found = {frozenset(n for n in reach[o] if o in reach.get(n, ())) for o in graph}
    return sorted(sorted(o or package for o in c) for c in found if len(c) > 1)

# Private names

def is_private(name):
    "One underscore in front? `__version__` is not private"
    return name.startswith('_') and not name.startswith('__')

def dotted_name(node):
    "`a.b.c` of an attribute of an attribute of a name, else None"
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        start = dotted_name(node.value)
        return start and f'{start}.{node.attr}'

def attributes(tree, bound, known):
    "Pairs of a module of this package and the name that is taken from it by a dot"
    for node in ast.walk(tree):
        dotted = dotted_name(node) if isinstance(node, ast.Attribute) else None
        first, _, rest = (dotted or '').partition('.')
        if first in bound:
            target, after = longest_known(joined(bound[first], rest), known)
            if after:
                yield target, after[0]

def private_uses(tree, known, own=None, folder=()):
    "Private names of other modules, as sorted pairs (module, name)"
    found = list(imports(tree, known, folder))
    whole_package = {o.bound: '' for o in found if o.bound == package}
    bound = {o.bound: o.target for o in found if not o.name} | whole_package
    taken = [(o.target, o.name) for o in found if o.name]
    taken += attributes(tree, bound, known)
    return sorted({(m, n) for m, n in taken if is_private(n) and m != own})

def private_in_library(modules, notebooks, known):
    "(who, module, name) for modules and notebooks; a notebook counts as its module"
    found = {(o.name or package, *use) for o in modules.values()
             for use in private_uses(o.tree, known, o.name, o.folder)}
    found |= {(o.module or o.name, *use) for o in notebooks
              for use in private_uses(o.tree, known, o.module)}
    return sorted(found)

def private_in_tests(tests, known):
    "(who, module, name) for the files in tests/"
    return sorted((o.path.name, *use) for o in tests for use in private_uses(o.tree, known))

# The order of notebooks

def homes(notebooks):
    "The numbered notebook that each module is written in"
    found = {}
    for o in notebooks:
        if o.number and o.module:
            found.setdefault(o.module, o)
    return found

def is_upward(notebook, home):
    "Does a notebook that imports the module of `home` look ahead?"
    if home.module == door and notebook.number[0] >= after_the_door:
        return False
    return home.number >= notebook.number

def upward(notebooks, known):
    "(notebook, module, notebook of that module) for each import from what comes later"
    home, found = homes(notebooks), []
    for o in notebooks:
        targets = {i.target for i in imports(o.tree, known)} if o.number else set()
        for target in sorted(targets & set(home) - {o.module}):
            if is_upward(o, home[target]):
                found.append((o.name, target, home[target].name))
    return found

def broken_rules(root):
    "All that breaks the rules of imports, one line each"
    notebooks, modules = read_notebooks(root), read_modules(root)
    known = known_names(modules, notebooks)
    said = [f'{who}: imports boss_nb.{m}, which comes later ({home})'
            for who, m, home in upward(notebooks, known)]
    said += [f'{" ".join(c)}: import each other in a circle'
             for c in circles(import_graph(modules, known))]
    said += [f'{who}: uses {name}, which is private to {package}.{m}'
             for who, m, name in private_in_library(modules, notebooks, known)]
    return said
