"""The shape of the library in numbers: `python tools/shape.py [--before FILE.json] [--json FILE]`

What is counted, and how, is said by the functions below; each returns rows of the table."""
import argparse, ast, io, json, math, re, statistics, tokenize
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
import imports

long_cell, long_line = 20, 120              # more is listed with --verbose
many_parameters, many_positional = 12, 6    # more is counted

# What is read

@dataclass
class Library:
    "All that is counted"
    root: Path

    @cached_property
    def notebooks(self):
        "All notebooks, numbered ones first"
        return imports.read_notebooks(self.root)

    @cached_property
    def numbered(self):
        "Numbered notebooks, in their order"
        return [o for o in self.notebooks if o.number]

    @cached_property
    def modules(self):
        "Modules by name"
        return imports.read_modules(self.root)

    @cached_property
    def tests(self):
        "Python files in tests/"
        return imports.read_tests(self.root)

    @cached_property
    def known(self):
        "Names of modules"
        return imports.known_names(self.modules, self.notebooks)

@dataclass
class Row:
    "A row of the table; `listed` is what --verbose shows"
    label: str
    value: object
    note: str = ''
    listed: tuple = ()

# Public names

def assigned_names(tree):
    "The names in `__all__ = [...]` and `__all__ += [...]`"
    found = []
    for node in tree.body:
        targets = getattr(node, 'targets', None) or [getattr(node, 'target', None)]
        if any(isinstance(o, ast.Name) and o.id == '__all__' for o in targets):
            if isinstance(node.value, (ast.List, ast.Tuple)):
                found += [o.value for o in node.value.elts if isinstance(o, ast.Constant)]
    return found

def exported_names(lib):
    "Names in `__all__` of all modules but the front door"
    trees = [o.tree for name, o in lib.modules.items() if name != imports.door]
    return {n for tree in trees for n in assigned_names(tree)}

def door_names(lib):
    "Names in `__all__` of the front door; without one, those it imports"
    source = lib.modules[imports.door]
    said = set(assigned_names(source.tree))
    if said:
        return said
    found = list(imports.imports(source.tree, lib.known, source.folder))
    stars = [lib.modules[o.target].tree for o in found if o.name == '*']
    names = {o.bound for o in found if o.name not in ('', '*')}
    return names | {n for tree in stars for n in assigned_names(tree)}

def words_of_code(tree):
    "Names, attributes and imported names in code"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name

def words_of_spans(text):
    "Identifiers in fences and in `code` of Markdown"
    fence = r'```.*?```'
    spans = re.findall(fence, text, re.S)
    spans += re.findall(r'`[^`]+`', re.sub(fence, '', text, flags=re.S))
    return {word for o in spans for word in re.findall(r'[A-Za-z_]\w*', o)}

def is_guide(notebook):
    "Front page, tutorial or explanation?"
    return notebook.name.startswith(('index.', 'tutorials/', 'explanations/'))

def words_of_guides(lib):
    "All identifiers that a reader of README, tutorials and explanations meets"
    readme = lib.root/'README.md'
    words = words_of_spans(readme.read_text()) if readme.exists() else set()
    for o in filter(is_guide, lib.notebooks):
        words |= set(words_of_code(o.tree))
        for cell in o.cells:
            words |= words_of_spans(cell.source) if cell.kind == 'markdown' else set()
    return words

def name_rows(lib):
    "How many names are public, and how many of them a reader meets"
    names, words = exported_names(lib), words_of_guides(lib)
    door = sorted(door_names(lib)) if imports.door in lib.modules else []
    unused = sorted(names - words)
    return [Row('public names', len(names)),
            Row('public names in boss_nb.all', len(door) if door else None),
            Row('public names used in README, tutorials or explanations', len(names & words),
                listed=[f'not used: {o}' for o in unused]),
            Row('of those in boss_nb.all', len(words & set(door)) if door else None,
                listed=[f'not used: {o}' for o in door if o not in words])]

# Lines

def colon_line(lines, first):
    "The line of the colon that ends a signature, which begins in line `first`"
    text, depth = io.StringIO('\n'.join(lines[first-1:])+'\n'), 0
    for token in tokenize.generate_tokens(text.readline):
        if token.type == tokenize.OP:
            depth += (token.string in '([{') - (token.string in ')]}')
            if token.string == ':' and not depth:
                return first - 1 + token.start[0]

def functions_of(tree):
    "All functions, wherever they are defined"
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [o for o in ast.walk(tree) if isinstance(o, kinds)]

def signature_lines(cell):
    "Numbers of the lines that hold a signature and nothing of the body"
    lines, found = cell.source.splitlines(), set()
    for o in functions_of(cell.tree):
        end = min(colon_line(lines, o.lineno)+1, o.body[0].lineno)
        found |= set(range(o.lineno, end))
    return found

def code_lines(cell):
    "Numbers of the lines that are neither blank nor directives"
    directive = re.compile(r'\s*#\s*\|')
    lines = enumerate(cell.source.splitlines(), 1)
    return {i for i, o in lines if o.strip() and not directive.match(o)}

def exported_cells(notebook):
    "Exported cells that hold more than imports"
    return [o for o in notebook.cells if o.exported and not o.only_imports]

def body_length(cell):
    "Lines of an exported cell without signatures, 0 if it only imports"
    return 0 if cell.only_imports else len(code_lines(cell) - signature_lines(cell))

def first_line(cell):
    "The first line of code that is no decorator, shortened"
    lines = cell.source.splitlines()
    code = [lines[i-1].strip() for i in sorted(code_lines(cell))]
    return next(o for o in code if not o.startswith('@'))[:70]

def percentile(values, part):
    "The smallest value that `part` of all values do not exceed"
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part*len(ordered))-1)] if ordered else None

def median(values):
    "The median, None of nothing"
    return statistics.median(values) if values else None

def cell_rows(lib):
    "How long exported cells are"
    cells = [(o, c) for o in lib.notebooks for c in exported_cells(o)]
    short = [body_length(c) for _, c in cells]
    whole = [len(code_lines(c)) for _, c in cells]
    long = sorted(((n, o.name, first_line(c)) for n, (o, c) in zip(short, cells)
                   if n > long_cell), reverse=True)
    listed = [f'{n} lines, {name}: {line}' for n, name, line in long]
    return [Row('exported code cells', len(cells)),
            Row('lines per exported cell, median', median(short)),
            Row('lines per exported cell, 90th percentile', percentile(short, .9)),
            Row(f'exported cells of more than {long_cell} lines', len(long), listed=listed),
            Row('lines per exported cell with signatures, median', median(whole)),
            Row('lines per exported cell with signatures, 90th percentile', percentile(whole, .9))]

def percent(part, whole):
    "In percent, to one digit"
    return round(100*part/whole, 1) if whole else None

def exported_lines(notebook):
    "All lines of code that a notebook exports, imports as well"
    for cell in notebook.cells:
        if cell.exported:
            lines = cell.source.splitlines()
            yield from (lines[i-1].rstrip() for i in sorted(code_lines(cell)))

def line_rows(lib):
    "How many exported lines are too long"
    lines = [(o.name, line) for o in lib.notebooks for line in exported_lines(o)]
    long = [(name, line) for name, line in lines if len(line) > long_line]
    listed = [f'{len(line)} characters, {name}: {line.strip()[:70]}' for name, line in long]
    return [Row('exported lines', len(lines)),
            Row(f'exported lines over {long_line} characters, percent',
                percent(len(long), len(lines)), listed=listed)]

# Runs of code with nothing shown

def runs(notebook):
    "(lines, first line) of exported code between cells that show something"
    found, length, start = [], 0, ''
    for cell in notebook.cells:
        if cell.exported:
            start = start if length or cell.only_imports else first_line(cell)
            length += body_length(cell)
        elif cell.kind == 'code' and not cell.only_imports:
            found.append((length, start))
            length = 0
    return [o for o in found+[(length, start)] if o[0]]

def run_rows(lib):
    "The longest run, and where it is"
    found = [(n, o.name, line) for o in lib.numbered for n, line in runs(o)]
    found.sort(key=lambda o: -o[0])
    longest, name, _ = found[0] if found else (0, '', '')
    listed = [f'{n} lines, {name} from: {line}' for n, name, line in found[:10]]
    return [Row('longest exported run with nothing shown, lines', longest, name, listed)]

# Modules and functions

def import_rows(lib):
    "Circles, and private names that leave their module"
    found = imports.circles(imports.import_graph(lib.modules, lib.known))
    named = '; '.join(' '.join(o) for o in found)
    private = imports.private_in_library(lib.modules, lib.notebooks, lib.known)
    tested = imports.private_in_tests(lib.tests, lib.known)
    listed = lambda uses: [f'{who}: {n} of {imports.package}.{m}' for who, m, n in uses]
    return [Row('import circles', len(found), named),
            Row('private names imported across modules', len(private), listed=listed(private)),
            Row('private names used by tests/', len(tested), listed=listed(tested))]

def module_rows(lib):
    "How long modules are"
    sources = [o for o in lib.modules.values() if o.path.name != '__init__.py']
    sizes = sorted(((len(o.text.splitlines()), o.name) for o in sources), reverse=True)
    largest, name = sizes[0] if sizes else (None, '')
    return [Row('modules', len(sizes)),
            Row('largest module, lines', largest, name),
            Row('median module, lines', median([n for n, _ in sizes]))]

def parameters(function):
    "All parameters but self, `*args` and `**kw` included"
    a = function.args
    found = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
    found = [o for o in found if o]
    return found[1:] if found and found[0].arg in ('self', 'cls') else found

def positional(function):
    "Parameters but self that may be given by position"
    a = function.args
    able = {o.arg for o in a.posonlyargs+a.args}
    return [o for o in parameters(function) if o.arg in able]

def named_functions(node, prefix=''):
    "(name, function) of all functions; `f.<inside>.g` is defined in f"
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, ast.ClassDef):
            inner = f'{prefix}{child.name}.'
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix+child.name, child
            inner = f'{prefix}{child.name}.<inside>.'
        yield from named_functions(child, inner)

def all_functions(lib):
    "(module and name, name, function, source) of all functions of the library"
    for source in lib.modules.values():
        for name, function in named_functions(source.tree):
            yield f'{source.name}.{name}', name, function, source

def is_helper(name):
    "One underscore in front, and defined in no function?"
    return imports.is_private(name.split('.')[-1]) and '<' not in name

def is_public(name):
    "No underscores but those of `__init__`, and defined in no function?"
    *above, last = name.split('.')
    hidden = any(o.startswith(('_', '<')) for o in above)
    return not hidden and (last == '__init__' or not last.startswith('_'))

def function_rows(lib):
    "Functions with many parameters"
    rows = [(full, name, f) for full, name, f, _ in all_functions(lib)]
    many = [(len(parameters(f)), full) for full, _, f in rows]
    many = sorted(((n, o) for n, o in many if n > many_parameters), reverse=True)
    helpers = [(len(positional(f)), full) for full, name, f in rows if is_helper(name)]
    helpers = sorted(((n, o) for n, o in helpers if n > many_positional), reverse=True)
    note = lambda found: ', '.join(f'{full} {n}' for n, full in found)
    return [Row(f'functions over {many_parameters} parameters', len(many), note(many)),
            Row(f'helpers over {many_positional} positional parameters',
                len(helpers), note(helpers))]

def lines_with_comment(text):
    "Numbers of the lines that end with a comment"
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {o.start[0] for o in tokens if o.type == tokenize.COMMENT}

def undescribed(function, lines, comments):
    "Parameters without a comment; one comment is for the last parameter of its line"
    end = colon_line(lines, function.lineno)
    last = {o.lineno: o for o in parameters(function)}
    described = {o.arg for line, o in last.items() if line in comments and line < end}
    return [o.arg for o in parameters(function) if o.arg not in described]

def docment_rows(lib):
    "How many parameters of public functions are described"
    total, listed = 0, []
    comments = {o.name: lines_with_comment(o.text) for o in lib.modules.values()}
    for full, name, f, source in all_functions(lib):
        if is_public(name):
            total += len(parameters(f))
            missing = undescribed(f, source.text.splitlines(), comments[source.name])
            listed += [f'{full}: {o}' for o in missing]
    return [Row('parameters of public functions', total),
            Row('parameters with a docment, percent', percent(total-len(listed), total),
                listed=listed)]

# The story

def prose_rows(lib):
    "Words of Markdown cells, without code"
    cells = [c for o in lib.notebooks for c in o.cells if c.kind == 'markdown']
    texts = [re.sub(r'```.*?```', '', c.source, flags=re.S) for c in cells]
    return [Row('words of prose', sum(len(o.split()) for o in texts))]

def in_sidebar_order(lib):
    "Numbered notebooks as the site lists them; without a sidebar, by their numbers"
    sidebar = lib.root/'nbs'/'sidebar.yml'
    if not sidebar.exists():
        return lib.numbered
    named = re.findall(r'[\w./-]+\.ipynb', sidebar.read_text())
    have = {o.name: o for o in lib.numbered}
    return [have[o] for o in dict.fromkeys(named) if o in have]

def is_sample(node):
    "A call of `sample`?"
    return isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'sample'

def shows_solver(notebook):
    "Does it define a function `sample` (no method), or call one?"
    patched = lambda f: any('patch' in ast.unparse(o) for o in f.decorator_list)
    defined = any(name == 'sample' and not patched(f)
                  for name, f in named_functions(notebook.tree))
    return defined or any(is_sample(o) for o in ast.walk(notebook.tree))

def story_rows(lib):
    "How long a reader waits for the problem"
    order = in_sidebar_order(lib)
    found = [i for i, o in enumerate(order) if shows_solver(o)]
    before, name = (found[0], order[found[0]].name) if found else (None, '')
    return [Row('numbered notebooks', len(lib.numbered)),
            Row('notebooks before the problem is shown', before, f'first in {name}' * bool(name))]

# Tests

notebook_tests = {'test_eq', 'test_close', 'test_fail', 'test_is', 'test_ne', 'test_eq_type',
                  'ExceptionExpected'}
failure_tests = {'test_fail', 'ExceptionExpected', 'raises'}

def called_names(trees):
    "The last name of everything that is called"
    calls = [o.func for tree in trees for o in ast.walk(tree) if isinstance(o, ast.Call)]
    return [getattr(o, 'id', None) or getattr(o, 'attr', None) for o in calls]

def count_asserts(trees):
    "Number of `assert` statements"
    return sum(isinstance(o, ast.Assert) for tree in trees for o in ast.walk(tree))

def test_rows(lib):
    "How much is asserted; exported code does not count"
    shown = [c.tree for o in lib.notebooks for c in o.cells if not c.exported]
    files = [o.tree for o in lib.tests]
    in_notebooks = [o for o in called_names(shown) if o in notebook_tests]
    functions = [o.name for tree in files for o in functions_of(tree)]
    failures = [o for o in called_names(shown+files) if o in failure_tests]
    return [Row('assertions in notebooks', len(in_notebooks)+count_asserts(shown)),
            Row('test functions in tests/', sum(o.startswith('test_') for o in functions)),
            Row('assertions in tests/', count_asserts(files)),
            Row('tests of failures', len(failures))]

# The table

measures = (name_rows, cell_rows, line_rows, run_rows, import_rows, module_rows, function_rows,
            docment_rows, prose_rows, story_rows, test_rows)

def shape(root):
    "All rows for a checkout"
    lib = Library(Path(root).resolve())
    return [row for measure in measures for row in measure(lib)]

def cell_text(value, note):
    "What a cell of the table says"
    if value is None:
        return '-'
    number = f'{value:g}' if isinstance(value, float) else str(value)
    return f'{number} ({note})' if note else number

def table(rows, before=None):
    "The rows in Markdown, with a column for what was before"
    head = ['', 'now'] if before is None else ['', 'before', 'now']
    lines = [head, ['---']*len(head)]
    for o in rows:
        now = cell_text(o.value, o.note)
        old = [] if before is None else [cell_text(*before.get(o.label, (None, '')))]
        lines.append([o.label, *old, now])
    return '\n'.join('| '+' | '.join(o)+' |' for o in lines)

def as_json(rows):
    "Values and notes by label, one a line"
    pairs = [f'{json.dumps(o.label)}: {json.dumps([o.value, o.note])}' for o in rows]
    return '{\n' + ',\n'.join(pairs) + '\n}\n'

def offenders(rows):
    "What --verbose lists"
    lists = [(o.label, o.listed) for o in rows if o.listed]
    return '\n'.join(f'\n{label}\n' + '\n'.join(f'  {o}' for o in found) for label, found in lists)

def main():
    "Print the table"
    parser = argparse.ArgumentParser(description=__doc__)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument('--root', type=Path, default=here, help='checkout that is counted')
    parser.add_argument('--before', type=Path, help='JSON file of an earlier count')
    parser.add_argument('--json', type=Path, help='file for the numbers')
    parser.add_argument('--verbose', action='store_true', help='list what is too long')
    args = parser.parse_args()
    rows = shape(args.root)
    print(table(rows, args.before and json.loads(args.before.read_text())))
    if args.verbose:
        print(offenders(rows))
    if args.json:
        args.json.write_text(as_json(rows))

if __name__ == '__main__':
    main()
