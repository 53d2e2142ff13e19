"""Build the documentation site into `_docs/` without Quarto: `python tools/build_docs.py [--out DIR]`

nbdev prepares the notebooks, smalldocs renders them from the same `nbs/_quarto.yml` that `nbdev_docs` uses, and KaTeX
comes into the site from npm, so that no page asks anything of another host."""
import argparse, json, os, re, shutil, subprocess, sys, tarfile, tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

root = Path(__file__).resolve().parent.parent
KATEX, CDN = '0.16.22', re.compile(r'https://cdn\.jsdelivr\.net/npm/katex@[\d.]+/dist')
KATEX_PYPI = 'djangocms-katex==1.0.2'        # 1.3 MB, carries KaTeX 0.16.40 with its licence

def stop(msg): sys.exit(f'build_docs: error: {msg}')

def table_docs():
    "Let `show_doc` write a plain signature and a table of parameters, where nbdev writes comments into the signature"
    import nbdev.showdoc
    from inspect import Parameter
    from fastcore.docments import DocmentText, empty
    given = lambda o: o is not empty and o is not type(None) and o is not None
    name = lambda o: getattr(o, '__name__', None) or str(o)
    code = lambda s: f'`{s}`'.replace('|', r'\|')

    def text(s):
        "Prose with its code spans left alone, and nothing else in it read as Markdown"
        parts = re.split(r'(`[^`]*`)', ' '.join(s.split()))
        parts[::2] = [re.sub(r'([*_\[\]$~^])', r'\\\1', o).replace('<', '&lt;') for o in parts[::2]]
        return ''.join(parts).replace('|', r'\|')

    class TableRenderer(nbdev.showdoc.BasicMarkdownRenderer):
        def _repr_markdown_(self):
            dm, rows = DocmentText(self.sym, maxline=66, docstring=False), []
            for nm,p in dm.dm.items():
                doc, p['docment'] = p.get('docment'), ''
                if p.get('anno') is type(None) and nm!='return': p['anno'] = empty       # nbdev's guess from a default of None
                doc = text(doc) if given(doc) else ''
                anno = code(name(p['anno'])) if given(p.get('anno', empty)) else ''
                default = code(getattr(p['default'], '__name__', None) or repr(p['default'])) if p.get('default', empty) is not empty else ''
                stars = {Parameter.VAR_POSITIONAL: '*', Parameter.VAR_KEYWORD: '**'}.get(p.get('kind'), '')
                if doc or nm!='return': rows.append(('**Returns**' if nm=='return' else code(stars+nm), anno, default, doc))
            md = re.sub(r'(?<=```python\n).*?(?=\n```)', lambda m: self.signature(str(dm)), super()._repr_markdown_(), count=1, flags=re.S)
            if any(r[3] for r in rows): md += '\n\n' + '\n'.join('| '+' | '.join(r)+' |' for r in [('', 'Type', 'Default', 'Details'), ('---',)*4, *rows])
            return md

        def signature(self, s):
            s = s.strip().removesuffix(':')
            if isinstance(self.sym, type): s = re.sub(r'^def ', 'class ', s).removesuffix('->None')
            line = re.sub(r'\n\s*', ' ', s).replace('( ', '(', 1).replace(' )', ')')
            return line if len(line) <= 72 else s

    nbdev.showdoc.BasicMarkdownRenderer = TableRenderer

def prepare():
    "Let nbdev process the notebooks into `_proc`, then give each its page name: `00_core` is published as `core`"
    from nbdev.config import get_config
    from nbdev.doclinks import _build_modidx
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    table_docs()
    refresh_quarto_yml()
    _build_modidx()
    c, proc = get_config(), Path(proc_nbs(n_workers=0, force=True))
    pages = [p for p in proc.rglob('*.ipynb') if proc/c.doc_path.name not in p.parents]
    names = {p.stem: re.sub(r'^\d+[a-z]?_', '', p.stem) for p in pages}
    host = re.compile(re.escape(f'{c.doc_host}{c.doc_baseurl}/') + r'(?=[\w/-]+\.html)')   # nbdev's doclinks are absolute
    link = re.compile(r'(\]\(|href=["\'])((?:\.\./|\w+/)*)(\w+)(?=\.(?:ipynb|html)\b)')
    fix = lambda s, up: link.sub(lambda m: m[1]+m[2]+names.get(m[3], m[3]), host.sub(up, ''.join(s)))
    for f in ('_quarto.yml', 'sidebar.yml'):
        s = re.sub(r'\w+(?=\.ipynb)', lambda m: names.get(m[0], m[0]), (proc/f).read_text())
        (proc/f).write_text(s)
    for p in pages:
        nb, up = json.loads(p.read_text()), '../'*(len(p.relative_to(proc).parts)-1)
        for cell in nb['cells']:
            if cell['cell_type']=='raw': cell['source'] = re.sub(r'^output-file:.*\n', '', ''.join(cell['source']), flags=re.M)
            if cell['cell_type']=='markdown': cell['source'] = fix(cell['source'], up)
            for o in cell.get('outputs', []):
                for k in {'text/markdown', 'text/html'} & o.get('data', {}).keys(): o['data'][k] = fix(o['data'][k], up)
        p.unlink()
        p.with_stem(names[p.stem]).write_text(json.dumps(nb))
    return proc, proc/c.doc_path.name

def render(proc):
    "smalldocs, once to check and once to write"
    for cmd in ('check', 'render'):
        r = subprocess.run([sys.executable, '-m', 'smalldocs.cli', cmd, str(proc)], capture_output=True, text=True)
        if r.returncode: stop(f'smalldocs {cmd}:\n{(r.stdout+r.stderr).strip()}')

def katex():
    "Folder with KaTeX's dist and LICENSE: $BOSS_KATEX_DIR, or fetched once, from npm or else from a PyPI package that carries it, into `.cache`"
    if d := os.environ.get('BOSS_KATEX_DIR'):
        if not (Path(d)/'katex.min.js').exists(): stop(f'BOSS_KATEX_DIR: no katex.min.js in {d}')
        return Path(d)
    dest = root/'.cache'/f'katex-{KATEX}-dist'
    if dest.exists(): return dest
    with tempfile.TemporaryDirectory() as d:
        if shutil.which('npm'): cmd = ['npm', 'pack', '--silent', f'katex@{KATEX}']
        else: cmd = [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', KATEX_PYPI]
        r = subprocess.run(cmd, cwd=d, capture_output=True, text=True)
        if r.returncode: stop(f"formulas need KaTeX, and `{' '.join(cmd)}` failed: install npm, or set BOSS_KATEX_DIR to a folder with its dist and LICENSE\n{r.stderr.strip()[-300:]}")
        got = next(Path(d).iterdir())
        if got.suffix=='.whl': shutil.unpack_archive(got, d, 'zip')
        else:
            with tarfile.open(got) as t: t.extractall(d, **({'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}))
        js = next(p for p in Path(d).rglob('katex.min.js'))
        lic = next(p for p in (js.parent/'LICENSE', js.parent.parent/'LICENSE') if p.exists())
        new = Path(d)/'new'
        for f in ('katex.min.js', 'katex.min.css', 'contrib/auto-render.min.js', *[f'fonts/{p.name}' for p in (js.parent/'fonts').glob('*.woff2')]):
            (new/f).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(js.parent/f, new/f)
        shutil.copy(lic, new/'LICENSE')
        shutil.copytree(new, dest)
    return dest

def go_offline(site):
    "Copy KaTeX into the site, point pages at it, and drop the web fonts of the themes"
    shutil.copytree(katex(), site/'site_libs'/'katex')
    for p in site.rglob('*.html'): p.write_text(CDN.sub('../'*(len(p.relative_to(site).parts)-1)+'site_libs/katex', p.read_text()))
    for p in (site/'site_libs'/'themes').rglob('*.css'):        # the address itself holds semicolons
        p.write_text(re.sub(r'@import\s*(?:url\([^)]*\)|"[^"]*"|\'[^\']*\')[^;]*;', '', p.read_text()))

class Page(HTMLParser):
    "What a page points at, what it loads, and its anchors"
    def __init__(self, path): super().__init__(); self.links, self.loads, self.ids = [], [], {'', 'top'}; self.feed(path.read_text())
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k)}
        to = a.get('src') or a.get('href')
        if to is None: return
        self.links.append(to)
        if 'src' in a or tag=='link' and a.get('rel') not in ('canonical', 'alternate'): self.loads.append(to)

def link_methods(site):
    "A doclink to a method that has no entry of its own leads to its class"
    ids = {p.resolve(): Page(p).ids for p in site.rglob('*.html')}
    def class_of(m, folder):
        to = (folder/m[1]).resolve()
        return m[0] if to not in ids or m[2] in ids[to] else f'href="{m[1]}#{m[2].rsplit(".", 1)[0]}"'
    for p in site.rglob('*.html'): p.write_text(re.sub(r'href="([\w./-]+\.html)#([\w.-]+\.\w+)"', lambda m: class_of(m, p.parent), p.read_text()))

def broken(site):
    "Broken links and anchors inside the site, and anything loaded from outside it"
    pages, bad, outside = {p.resolve(): Page(p) for p in site.rglob('*.html')}, [], lambda o: re.match(r'(https?:)?//', o)
    for p,page in pages.items():
        bad += [f'{p.name} loads {o} from outside' for o in page.loads if outside(o)]
        for o in page.links:
            u = urlsplit(o)
            if u.scheme or u.netloc: continue
            t = (p.parent/unquote(u.path)).resolve() if u.path else p
            if t.is_dir(): t = t/'index.html'
            if not t.is_file(): bad.append(f'{p.name}: {o} does not exist')
            elif t in pages and unquote(u.fragment) not in pages[t].ids: bad.append(f'{p.name}: {o} has no such anchor')
    for p in site.rglob('*.css'):
        bad += [f'{p.name} loads {o} from outside' for o in re.findall(r'(?:url\(\s*["\']?|@import\s*["\'])([^"\')\s]+)', p.read_text()) if outside(o)]
    return sorted(set(bad))

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--out', type=Path, default=root/'_docs', help='folder for the site; what is in it is replaced')
    out = a.parse_args().out.resolve()
    if out in (root, *root.parents): stop(f'--out {out} would replace the project')
    if out.exists() and any(out.iterdir()) and not (out/'site_libs').exists(): stop(f'--out {out} is not empty and not a site')
    os.chdir(root)
    os.environ['IN_TEST'] = '1'
    sys.path.insert(0, str(root))
    proc, site = prepare()
    render(proc)
    go_offline(site)
    link_methods(site)
    if bad := broken(site): stop('\n'.join(['broken links', *bad]))
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(site, out)
    print(f'{len(list(out.rglob("*.html")))} pages in {out}')

if __name__ == '__main__': main()
