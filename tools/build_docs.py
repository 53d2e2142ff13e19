"""Build the documentation site into `_docs/` without Quarto: `python tools/build_docs.py [--out DIR]`

nbdev prepares the notebooks, smalldocs renders them from the same `nbs/_quarto.yml` that `nbdev_docs` uses, and KaTeX
comes into the site from npm, so that no page asks anything of another host. What is done to the pages afterwards is for
readers with a keyboard or a screen reader, for machines that read (`llms.txt`), and for the weight of a page."""
import argparse, ast, html, json, os, re, shutil, subprocess, sys, tarfile, tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

root = Path(__file__).resolve().parent.parent
KATEX, CDN = '0.16.22', re.compile(r'https://cdn\.jsdelivr\.net/npm/katex@[\d.]+/dist')
KATEX_PYPI = 'djangocms-katex==1.0.2'        # 1.3 MB, carries KaTeX 0.16.40 with its licence
AXE, AXE_PYPI = '4.12.1', 'axe-playwright-python==0.1.8'        # the accessibility checker of the tests, 0.6 MB; the package carries the same version

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
            if any(r[3] for r in rows): md += '\n\n' + '\n'.join('| '+' | '.join(r)+' |' for r in [('Parameter', 'Type', 'Default', 'Details'), ('---',)*4, *rows])
            return md

        def signature(self, s):
            s = s.strip().removesuffix(':')
            if isinstance(self.sym, type): s = re.sub(r'^def ', 'class ', s).removesuffix('->None')
            line = re.sub(r'\n\s*', ' ', s).replace('( ', '(', 1).replace(' )', ')')
            return line if len(line) <= 72 else s

    nbdev.showdoc.BasicMarkdownRenderer = TableRenderer

def spoken(md):
    "Markdown as one would read it aloud: no formulas on display, no links, no marks"
    md = re.sub(r'\$\$.*?\$\$|```.*?```', ' ', md, flags=re.S)
    md = re.sub(r'^\s*(?:[|#>].*$|[-*] )', ' ', md, flags=re.M)
    md = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', md)
    md = re.sub(r'\$([^$]*)\$', lambda m: re.sub(r'\\(?:mathbb|mathrm|text|bar|hat|tilde)\b|[\\{}]', '', m[1]), md)
    return ' '.join(re.sub(r'(\*{1,3})(\S[^*`]*)\1', r'\2', md).replace('`', '').split())

def labels(source):
    "Titles and axis labels written in a cell that draws, in order"
    out = []
    try: calls = [o for o in ast.walk(ast.parse(source)) if isinstance(o, ast.Call)]
    except SyntaxError: return out                             # a magic
    for c in sorted(calls, key=lambda o: (o.lineno, o.col_offset)):
        said = {k.arg: k.value for k in c.keywords if k.arg in ('title', 'xlabel', 'ylabel')}
        if (kind := getattr(c.func, 'attr', '').removeprefix('set_')) in ('title', 'xlabel', 'ylabel') and c.args: said[kind] = c.args[0]
        out += [(k, v.value.strip()) for k,v in said.items() if isinstance(v, ast.Constant) and isinstance(v.value, str) and v.value.strip()]
    return list(dict.fromkeys(out))

def alt(before, heading, source, most=300):
    "Text for a figure that has none: what the prose before it asks or says, and what is written on it"
    kind = 'Images' if 'show_images' in source or 'imshow' in source else 'Figure'
    said = re.split(r'(?<=[.?!])\s+(?=[A-Z\d"(])', spoken(before) or spoken(heading))
    asks = next((o for o in reversed(said[-4:]) if o.endswith('?')), None)
    text = (asks or ' '.join(said[-2:])).rstrip(':')
    if len(text) > most*.7: text = text[:int(most*.7)].rsplit(' ', 1)[0]+' …'
    drawn = labels(source)
    for what,k in (('Titles', ('title',)), ('Axes', ('xlabel', 'ylabel'))):
        if on := list(dict.fromkeys(v for t,v in drawn if t in k)): text += ('' if text[-1:] in '.?!…' else '.') + f" {what}: {', '.join(on)}."
    return f'{kind}. {text}' if text else f'{kind}.'

def name_figures(nb):
    "Give every figure without a `fig-alt` or alt text one of its own"
    before = heading = ''
    for cell in nb['cells']:
        s = cell['source'] = ''.join(cell['source'])
        if cell['cell_type']=='markdown':
            heading = ([heading]+re.findall(r'^#+ +(.*)', s, flags=re.M))[-1]
            before = s if spoken(s) else before or heading
            continue
        if cell['cell_type']!='code': continue
        datas = [o.get('data', {}) for o in cell.get('outputs', [])]
        text = alt(before, heading, s)
        if any(k.startswith('image/') for d in datas for k in d) and not re.search(r'^#\| *fig-alt', s, flags=re.M):
            cell['source'] = f'#| fig-alt: {json.dumps(text, ensure_ascii=False)}\n#| fig-align: left\n{s}'
        for d in datas:
            if 'text/html' in d: d['text/html'] = re.sub(r'<img(?![^>]*\balt=)', lambda m: f'<img alt="{html.escape(text)}"', ''.join(d['text/html']))

def document_internals():
    "The pages also show what is importable and not in `__all__` (`#| exporti`), which nbdev leaves out"
    import nbdev.processors as processors
    want = processors._want_doc
    def want_doc(c): return want(c) or c.cell_type=='code' and c.source and 'exporti' in c.directives_ and 'hide' not in c.directives_
    processors._want_doc = want_doc

def prepare():
    "Let nbdev process the notebooks into `_proc`, then give each its page name: `00_core` is published as `core`"
    from nbdev.config import get_config
    from nbdev.doclinks import _build_modidx
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    table_docs()
    document_internals()
    refresh_quarto_yml()
    _build_modidx()
    c, proc = get_config(), Path(proc_nbs(n_workers=0, force=True))
    pages = [p for p in proc.rglob('*.ipynb') if proc/c.doc_path.name not in p.parents]
    names = {p.stem: re.sub(r'^\d+[a-z]?_', '', p.stem) for p in pages}
    host = re.compile(re.escape(f'{c.doc_host}{c.doc_baseurl}/') + r'(?=[\w./-]+\.html)')   # nbdev's doclinks are absolute
    link = re.compile(r'(\]\(|href=["\'])((?:\.\./|\w+/)*)([\w.]+?)(?=\.(?:ipynb|html)\b)')
    fix = lambda s, up: link.sub(lambda m: m[1]+m[2]+names.get(m[3], m[3]), host.sub(up, ''.join(s)))
    for f in ('_quarto.yml', 'sidebar.yml'):
        s = re.sub(r'[\w.]+?(?=\.ipynb)', lambda m: names.get(m[0], m[0]), (proc/f).read_text())
        if f=='_quarto.yml': s = re.sub(r'^website:', 'website:\n  llms-txt: true', s, flags=re.M)       # smalldocs writes each page as Markdown too
        (proc/f).write_text(s)
    for p in pages:
        nb, up = json.loads(p.read_text()), '../'*(len(p.relative_to(proc).parts)-1)
        for cell in nb['cells']:
            if cell['cell_type']=='raw': cell['source'] = re.sub(r'^output-file:.*\n', '', ''.join(cell['source']), flags=re.M)
            if cell['cell_type']=='markdown': cell['source'] = fix(cell['source'], up)
            for o in cell.get('outputs', []):
                for k in {'text/markdown', 'text/html'} & o.get('data', {}).keys(): o['data'][k] = fix(o['data'][k], up)
        name_figures(nb)
        p.unlink()
        p.with_stem(names[p.stem]).write_text(json.dumps(nb))
    return proc, proc/c.doc_path.name

def render(proc):
    "smalldocs, once to check and once to write"
    for cmd in ('check', 'render'):
        r = subprocess.run([sys.executable, '-m', 'smalldocs.cli', cmd, str(proc)], capture_output=True, text=True)
        if r.returncode: stop(f'smalldocs {cmd}:\n{(r.stdout+r.stderr).strip()}')

def fetch(npm, pypi, keep):
    "Folder in `.cache` with the files of a pinned npm package, or else of a PyPI package that carries them, fetched once; `keep(unpacked)` names its files"
    dest = root/'.cache'/(npm.replace('@', '-')+'-dist')
    if dest.exists(): return dest
    with tempfile.TemporaryDirectory() as d:
        if shutil.which('npm'): cmd = ['npm', 'pack', '--silent', npm]
        else: cmd = [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', pypi]
        r = subprocess.run(cmd, cwd=d, capture_output=True, text=True)
        if r.returncode: raise OSError(f"`{' '.join(cmd)}` failed: {r.stderr.strip()[-300:]}")
        got = next(Path(d).iterdir())
        if got.suffix=='.whl': shutil.unpack_archive(got, d, 'zip')
        else:
            with tarfile.open(got) as t: t.extractall(d, **({'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}))
        new = Path(d)/'new'
        for to,p in keep(Path(d)).items():
            (new/to).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(p, new/to)
        shutil.copytree(new, dest)
    return dest

def katex():
    "Folder with KaTeX's dist and LICENSE: $BOSS_KATEX_DIR, or fetched"
    if d := os.environ.get('BOSS_KATEX_DIR'):
        if not (Path(d)/'katex.min.js').exists(): stop(f'BOSS_KATEX_DIR: no katex.min.js in {d}')
        return Path(d)
    def keep(d):
        js = next(d.rglob('katex.min.js')).parent
        files = ('katex.min.js', 'katex.min.css', 'contrib/auto-render.min.js', *[f'fonts/{p.name}' for p in (js/'fonts').glob('*.woff2')])
        return {**{f: js/f for f in files}, 'LICENSE': next(p for p in (js/'LICENSE', js.parent/'LICENSE') if p.exists())}
    try: return fetch(f'katex@{KATEX}', KATEX_PYPI, keep)
    except OSError as e: stop(f'formulas need KaTeX: install npm, or set BOSS_KATEX_DIR to a folder with its dist and LICENSE\n{e}')

def axe():
    "axe-core's script, for the tests: $BOSS_AXE_JS, or fetched; `OSError` where there is neither npm nor PyPI"
    if f := os.environ.get('BOSS_AXE_JS'): return Path(f)
    return fetch(f'axe-core@{AXE}', AXE_PYPI, lambda d: {'axe.min.js': next(d.rglob('axe.min.js'))})/'axe.min.js'

def go_offline(site):
    "Copy KaTeX into the site, point pages at it, and drop the web fonts of the themes"
    shutil.copytree(katex(), site/'site_libs'/'katex')
    for p in site.rglob('*.html'): p.write_text(CDN.sub('../'*(len(p.relative_to(site).parts)-1)+'site_libs/katex', p.read_text()))
    for p in (site/'site_libs'/'themes').rglob('*.css'):        # the address itself holds semicolons
        p.write_text(re.sub(r'@import\s*(?:url\([^)]*\)|"[^"]*"|\'[^\']*\')[^;]*;', '', p.read_text()))

def slim_icons(site):
    "Keep those icons of the icon font that a page, style or script of the site names: 3 kB instead of 220"
    import logging
    from fontTools import subset
    logging.getLogger('fontTools').setLevel(logging.ERROR)                              # it remarks on the font as it comes
    lib, used, points = site/'site_libs'/'bootstrap-icons', set(), set()
    for p in [*site.rglob('*.html'), *site.glob('*.css'), *site.glob('site_libs/*.*s')]:
        s = p.read_text()
        used |= set(re.findall(r'\bbi-([a-z0-9-]+)', s))
        points |= {int(o, 16) for o in re.findall(r'content:\s*"\\(f[0-9a-f]{3})"', s)}
    css = (lib/'bootstrap-icons.min.css').read_text()
    rules = {m[1]: m for m in re.finditer(r'\.bi-([a-z0-9-]+)::before\{content:"\\([0-9a-f]+)"\}', css)}
    kept = [rules[o] for o in sorted(used & rules.keys())]
    points |= {int(m[2], 16) for m in kept}
    font = subset.load_font(lib/'fonts'/'bootstrap-icons.woff', subset.Options(flavor='woff'))
    sub = subset.Subsetter(subset.Options(flavor='woff', notdef_outline=True))
    sub.populate(unicodes=points); sub.subset(font)
    if points - set(font.getBestCmap()): stop(f'the icon font lacks {sorted(map(hex, points-set(font.getBestCmap())))}')
    font.flavor = 'woff'
    font.save(lib/'fonts'/'bootstrap-icons.woff')
    (lib/'fonts'/'bootstrap-icons.woff2').unlink()
    head = css[:next(iter(rules.values())).start()]
    head = re.sub(r'src:[^;}]*', 'src:url("fonts/bootstrap-icons.woff") format("woff")', head)
    (lib/'bootstrap-icons.min.css').write_text(head + ''.join(m[0] for m in kept))

CARD_ALT = 'Planned steps of the digits teacher over how much its flow bends, and digits drawn in 100 steps, 4 equal steps, and 4 planned steps after straightening'
def meta_of(s, name):
    "Content of a `<meta>` of a page, or None"
    m = re.search(rf'<meta (?:name|property)="{name}" content="([^"]*)"', s)
    return m and html.unescape(m[1])

def mend(site, base):
    "What the renderer leaves out of its pages: a link past the menus, names of landmarks, header cells that hold nothing, and the rest of the social card"
    shutil.copy(root/'tools'/'site.js', site/'site_libs'/'site.js')
    for p in site.rglob('*.html'):
        s, name = p.read_text(), p.relative_to(site).as_posix()
        at = f'{base}/{"" if name=="index.html" else name}'
        more = {'og:type': 'website' if name=='index.html' else 'article', 'og:url': at}
        if meta_of(s, 'og:image'): more |= {'og:image:width': 1200, 'og:image:height': 630, 'og:image:alt': CARD_ALT, 'twitter:image:alt': CARD_ALT}
        head = ''.join(f'<meta {"name" if k.startswith("twitter") else "property"}="{k}" content="{html.escape(str(v))}">' for k,v in more.items())
        head += f'<link rel="canonical" href="{at}"><script src="{"../"*name.count("/")}site_libs/site.js" defer></script>'
        s = s.replace('</head>', head+'</head>', 1)
        s = re.sub(r'<body[^>]*>', lambda m: m[0]+'<a class="skip-link" href="#quarto-document-content">Skip to the text</a>', s, count=1)
        s = s.replace('<main class="content" ', '<main class="content" tabindex="-1" ', 1)
        s = re.sub(r'<nav class="navbar\b', '<nav aria-label="Site" class="navbar', s)
        s = re.sub(r'<nav class="quarto-secondary-nav"', '<nav aria-label="Where you are" class="quarto-secondary-nav"', s)
        s = re.sub(r'<nav id="quarto-sidebar"(?! aria-label)', '<nav id="quarto-sidebar" aria-label="Pages"', s)
        s = re.sub(r'(<a class="sidebar-item-t[^>]*)role="navigation"', r'\1role="button"', s)
        s = s.replace('<th></th>', '<td></td>')
        if name=='404.html':                            # served at any depth
            up = urlsplit(base).path
            s = re.sub(r'(href|src)="(?!https?:|//|/|#|data:|")(?:\./)?([^"]*)"', rf'\1="{up}/\2"', s)
            s = s.replace('<meta name="smalldocs:offset" content="./">', f'<meta name="smalldocs:offset" content="{up}/">')
            s = re.sub(r'<link rel="canonical"[^>]*>|<meta property="og:url"[^>]*>', '<meta name="robots" content="noindex">', s, count=1)
        p.write_text(s)
    sm = site/'sitemap.xml'
    sm.write_text(re.sub(r'  <url>\s*<loc>[^<]*/404\.html</loc>.*?</url>\n', '', sm.read_text(), flags=re.S))
    (site/'.nojekyll').touch()

def for_machines(site, base, sections):
    "`llms.txt` (llmstxt.org): every page with its one line, in the order of the sidebar, each as Markdown at its own address with `.md` after it; and all of them in `llms-full.txt`"
    for p in site.rglob('*.llms.md'):
        md = re.sub(r'^!\[([^\]]*)\]\([^)]*_files/[^)]*\)', r'*[\1]*', p.read_text(), flags=re.M)     # figures are on the page itself
        md = re.sub(r'(\]\([^)#\s:]*)\.(?:llms\.md|ipynb)\b', r'\1.html.md', md)
        if p.name!='404.llms.md': p.with_name(p.name.replace('.llms.md', '.html.md')).write_text(md)
        shutil.rmtree(p.with_name(p.name.replace('.llms.md', '_files')), ignore_errors=True)
        p.unlink()
    pages = {p.relative_to(site).as_posix(): p.read_text() for p in sorted(site.rglob('*.html')) if p.name!='404.html'}
    rest = [o for o in pages if not any(o in files for _,files in sections)]
    title = lambda s: html.unescape(re.sub(r'<[^>]*>', '', re.search(r'<h1[^>]*>(.*?)</h1>', s, flags=re.S)[1]).strip())
    out = [f"# {title(pages['index.html'])}", f"> {meta_of(pages['index.html'], 'description')}",
           'Notebooks are the source: each page derives, shows and tests what one module of the package exports. Time t=0 is noise and t=1 is data; schedule, solver and velocity are three separate arguments.']
    for name,files in [*sections, ('More', rest)]:
        lines = [f"- [{title(pages[o])}]({base}/{o}.md): {meta_of(pages[o], 'description') or ''}".rstrip(': ') for o in files if o in pages]
        if lines: out.append(f'## {name}\n\n'+'\n'.join(lines))
    out.append(f'## Optional\n\n- [Everything in one file]({base}/llms-full.txt): all pages above, without their pictures')
    (site/'llms.txt').write_text('\n\n'.join(out)+'\n')
    order = [o for _,files in [*sections, ('', rest)] for o in files if o in pages]
    (site/'llms-full.txt').write_text('\n\n'.join((site/f'{o}.md').read_text().strip() for o in order)+'\n')

def sections_of(proc):
    "Sections of the sidebar with their pages, what stands alone first"
    import yaml
    out, top = [], []
    for o in yaml.safe_load((proc/'sidebar.yml').read_text())['website']['sidebar']['contents']:
        if isinstance(o, str): top.append(o)
        elif 'section' in o: out.append((o['section'], [c if isinstance(c, str) else c['href'] for c in o['contents']]))
        else: top.append(o['href'])
    return [(k, [re.sub(r'\.ipynb$', '.html', o) for o in v]) for k,v in [('Start', top), *out] if v]

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

def unlink_private(site):
    "A doclink to a name without an entry, such as a private helper, is no link"
    ids = {p.resolve(): Page(p).ids for p in site.rglob('*.html')}
    def kept(m, page):
        to = (page.parent/m[1]).resolve() if m[1] else page.resolve()
        return m[3] if to in ids and m[2] not in ids[to] else m[0]
    link = re.compile(r'<a href="([\w./-]*\.html)#([\w.-]+)"[^>]*>(<code[^>]*>[^<]*</code>)</a>')
    for p in site.rglob('*.html'): p.write_text(link.sub(lambda m: kept(m, p), p.read_text()))

def broken(site, up=''):
    "Broken links and anchors inside the site, and anything loaded from outside it; `up` is the path that the site is served under"
    pages, bad, outside = {p.resolve(): Page(p) for p in site.rglob('*.html')}, [], lambda o: re.match(r'(https?:)?//', o)
    for p,page in pages.items():
        bad += [f'{p.name} loads {o} from outside' for o in page.loads if outside(o)]
        for o in page.links:
            u = urlsplit(o)
            if u.scheme or u.netloc: continue
            inside = site/u.path[len(up)+1:] if up and u.path.startswith(f'{up}/') else None
            t = (inside or p.parent/unquote(u.path)).resolve() if u.path else p
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
    from nbdev.config import get_config
    base = f'{get_config().doc_host}{get_config().doc_baseurl}'
    proc, site = prepare()
    render(proc)
    go_offline(site)
    link_methods(site)
    unlink_private(site)
    slim_icons(site)
    mend(site, base)
    for_machines(site, base, sections_of(proc))
    if bad := broken(site, urlsplit(base).path): stop('\n'.join(['broken links', *bad]))
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(site, out)
    print(f'{len(list(out.rglob("*.html")))} pages in {out}')

if __name__ == '__main__': main()
