"The documentation site in headless Chromium, as a reader meets it. BOSS_SITE names a folder that is already built."
import functools, html, http.server, importlib, inspect, json, os, re, struct, subprocess, sys, threading
from pathlib import Path
from urllib.parse import urlsplit
import pytest
from conftest import chrome

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import build_docs

in_browser = pytest.mark.skipif(not chrome, reason='no Chromium on this machine (chromium, chromium-browser, google-chrome or chrome)')

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    if 'BOSS_SITE' in os.environ: return Path(os.environ['BOSS_SITE']).resolve()
    out = tmp_path_factory.mktemp('site')/'site'
    subprocess.run([sys.executable, root/'tools'/'build_docs.py', '--out', out], check=True)
    return out

def settings():
    from nbdev.config import get_config
    return get_config(path=root)

@pytest.fixture(scope='session')
def base(): return f'{settings().doc_host}{settings().doc_baseurl}'

class Host(http.server.SimpleHTTPRequestHandler):
    "The site where it will live, under `up`; as on GitHub Pages, an address that is not there is answered with 404.html"
    up = ''
    def log_message(self, *a): pass
    def send_head(self):
        if not self.path.startswith(self.up+'/'): return self.send_error(404)
        self.path = self.path[len(self.up):]
        return super().send_head()
    def send_error(self, code, *a, **kw):
        page = Path(self.directory)/'404.html'
        if code!=404 or not page.exists(): return super().send_error(code, *a, **kw)
        body = page.read_bytes()
        self.send_response(404); self.send_header('Content-Type', 'text/html'); self.send_header('Content-Length', str(len(body))); self.end_headers()
        self.wfile.write(body)

@pytest.fixture(scope='session')
def url(site, base):
    Host.up = urlsplit(base).path
    srv = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Host, directory=str(site)))
    threading.Thread(target=srv.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{srv.server_port}{Host.up}/'
    srv.shutdown()

@pytest.fixture
def new_page(browser, url):
    "Make pages that remember console errors, failed requests and requests to elsewhere"
    made = []
    def make(**kw):
        p = browser.new_page(**{'viewport': dict(width=1280, height=900), **kw})
        p.set_default_timeout(8000)
        p.trouble = []
        p.on('console', lambda m: m.type=='error' and p.trouble.append(m.text))
        p.on('pageerror', lambda e: p.trouble.append(str(e)))
        p.on('request', lambda r: r.url.startswith((url, 'data:', 'blob:')) or p.trouble.append('request to '+r.url))
        p.on('response', lambda r: r.status >= 400 and p.trouble.append(f'{r.status} {r.url}'))
        made.append(p)
        return p
    yield make
    for p in made: p.close()

@pytest.fixture
def page(new_page): return new_page()

def test_no_broken_links(site, base): assert build_docs.broken(site, urlsplit(base).path)==[]

def test_broken_links_are_found(tmp_path):
    (tmp_path/'a.html').write_text('<h2 id="x"></h2><a href="b.html"></a><a href="#y"></a><a href="#x"></a><img src="no.png"><script src="https://x.org/k.js"></script>')
    (tmp_path/'s.css').write_text('@import url(//fonts.org/f?a=1;2);')
    assert build_docs.broken(tmp_path)==['a.html loads https://x.org/k.js from outside', 'a.html: #y has no such anchor', 'a.html: b.html does not exist',
        'a.html: no.png does not exist', 's.css loads //fonts.org/f?a=1;2 from outside']
    (tmp_path/'404.html').write_text('<a href="/up/a.html#x"></a><a href="/up/c.html"></a><a href="/a.html"></a>')
    assert [o for o in build_docs.broken(tmp_path, '/up') if o.startswith('404')]==['404.html: /a.html does not exist', '404.html: /up/c.html does not exist']

STATE = """() => {
  const main = document.querySelector('main'), t = main.cloneNode(true);
  t.querySelectorAll('pre,code,script,.katex').forEach(e => e.remove());
  return { h1: document.querySelectorAll('h1').length, left: t.textContent, math: main.querySelectorAll('.math').length,
    katex: main.querySelectorAll('.math .katex').length, errors: main.querySelectorAll('.katex-error').length,
    images: [...main.querySelectorAll('img')].map(i => [i.complete, i.naturalWidth, i.naturalHeight]) } }"""

@in_browser
def test_every_page_loads_clean(page, url, site):
    pages = sorted(site.rglob('*.html'))
    assert len(pages) >= 22
    for f in pages:
        page.goto(url+str(f.relative_to(site)), wait_until='load')
        s = page.evaluate(STATE)
        assert not page.trouble, (f.name, page.trouble)
        assert s['h1']==1 and page.locator('nav.navbar').is_visible(), f.name
        assert s['math']==s['katex'] and not s['errors'], (f.name, s['math'], s['katex'], s['errors'])
        assert not re.search(r'\$|\\[a-zA-Z]{2}|\\[()\[\]]|\]\(|\{target', s['left']), f'{f.name}: a formula or a link was left as it was written'
        assert all(done and min(size) > 10 for done,*size in s['images']), (f.name, s['images'])

@in_browser
def test_front_page(page, url):
    page.goto(url)
    assert 'boss_demo' in page.inner_text('main') and page.locator('main table tr').count() > 5
    assert page.evaluate("() => [...document.querySelectorAll('main img')].some(i => i.complete && i.naturalWidth > 300)")
    links = [page.locator('#quarto-sidebar a').nth(i).get_attribute('href') for i in range(page.locator('#quarto-sidebar a').count())]
    assert {'core.html', 'plan.costs.html', 'share.cli.html'} <= {o.removeprefix('./') for o in links if o}

@in_browser
def test_formulas_figures_and_parameters(page, url):
    page.goto(url+'plan.costs.html')
    assert page.locator('main .katex').count() > 50 and page.locator('main .katex-display').count() > 3
    assert page.evaluate("() => document.fonts.ready.then(() => [...document.fonts].some(f => f.family.startsWith('KaTeX') && f.status=='loaded'))")
    assert page.evaluate("() => [...document.querySelectorAll('main img')].filter(i => i.naturalWidth > 100).length") >= 3
    assert page.locator('#title-block-header .description').first.inner_text().startswith('What every jump costs')
    table = page.locator('.cell:has(#calibrate) table')
    assert table.locator('th').all_inner_texts()[1:]==['Type', 'Default', 'Details']
    rows = [table.locator('tr').nth(i).inner_text() for i in range(table.locator('tr').count())]
    assert any('noise' in r and 'Tensor' in r and 'shape' in r for r in rows), rows

@in_browser
def test_doclinks_resolve(page, url, site):
    link = re.compile(r'<a href="([\w.-]+)\.html#([\w.-]+)"[^>]*><code>')
    found = [(f.stem, *m) for f in site.glob('*.html') for m in link.findall(f.read_text())]
    assert len(found) > 10
    here, there, anchor = next(o for o in found if o[0]!=o[1])              # from one page to another
    page.goto(url+here+'.html')
    page.locator(f'main a[href$="{there}.html#{anchor}"]').first.click()
    page.wait_for_url(f'**/{there}.html#{anchor}')
    page.wait_for_function("() => { const y = document.getElementById(decodeURIComponent(location.hash.slice(1)))?.getBoundingClientRect().top; return y >= 0 && y < 300 }")
    assert not page.trouble

@in_browser
def test_search(page, url):
    page.goto(url)
    page.locator('input[type=search]').first.press_sequentially('bootstrap', delay=10)
    hit = page.locator('#quarto-search a.search-result:visible').filter(has_text=re.compile('bootstrap', re.I)).first          # the list follows the typing
    hit.wait_for()
    assert 'bootstrap' in page.locator('#quarto-search').inner_text().lower()
    hit.click()
    page.wait_for_url(re.compile(r'/[\w.]+\.html'))
    assert 'bootstrap' in page.inner_text('main').lower() and not page.trouble

# text whose contrast with what lies behind it is below WCAG's 4.5; opacity counts, gradients and images do not occur
CONTRAST = """() => {
  const rgba = c => { const m = c.match(/[\\d.]+/g).map(Number); if (c.startsWith('color(')) m.splice(0, 3, ...m.slice(0, 3).map(v => v*255)); return [...m.slice(0, 3), m.length > 3 ? m[3] : 1] };
  const over = (a, b) => [0,1,2].map(i => a[i]*a[3] + b[i]*(1-a[3])).concat([1]);
  const lum = c => { const f = v => { v /= 255; return v <= .03928 ? v/12.92 : ((v+.055)/1.055)**2.4 }; return .2126*f(c[0]) + .7152*f(c[1]) + .0722*f(c[2]) };
  const known = new Map([[null, [[255,255,255,1], 1]]]);             // what lies behind the text of an element, and its opacity
  const at = e => {
    if (!known.has(e)) { const [b, o] = at(e.parentElement), s = getComputedStyle(e); known.set(e, [over(rgba(s.backgroundColor), b), o*s.opacity]) }
    return known.get(e) };
  const bad = [], seen = { p: 0, code: 0, td: 0 };
  for (const e of document.querySelectorAll('main *, nav *, #quarto-search *')) {
    if (![...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()) || !e.getClientRects().length) continue;
    if (e.closest('svg, script, style, .katex-mathml')) continue;
    for (const k in seen) seen[k] += !!e.closest(k);
    const [b, o] = at(e), c = rgba(getComputedStyle(e).color);
    if (o == 0) continue;
    const [x, y] = [lum(over([c[0], c[1], c[2], c[3]*o], b)), lum(b)].sort((p, q) => q-p), r = (x+.05)/(y+.05);
    if (r < 4.5) bad.push(`${e.tagName}.${e.className} ${r.toFixed(2)} ${e.textContent.trim().slice(0,30)}`);
  }
  return { bad: [...new Set(bad)].slice(0, 12), seen } }"""

@in_browser
@pytest.mark.parametrize('mode', ['light', 'dark'])
def test_readable(new_page, url, site, mode):
    p, seen = new_page(color_scheme=mode), dict(p=0, code=0, td=0)
    for f in sorted(site.rglob('*.html')):
        p.goto(url+str(f.relative_to(site)), wait_until='load')
        assert (sum(p.evaluate("() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")[:3]) < 384)==(mode=='dark')
        r = p.evaluate(CONTRAST)
        assert not r['bad'], (f.name, r['bad'])
        for k in seen: seen[k] += r['seen'][k]
    assert min(seen.values()) > 100, seen
    p.locator('input[type=search]').first.press_sequentially('schedule')           # and the list of results, which opens over the page
    p.locator('a.search-result:visible').first.wait_for()
    assert not p.evaluate(CONTRAST)['bad']

@in_browser
def test_mode_can_be_switched(page, url):
    dark = lambda: 'quarto-dark' in page.evaluate('() => document.documentElement.className+document.body.className')
    page.goto(url+'plan.costs.html')
    was = dark()
    page.locator('.quarto-color-scheme-toggle:visible').first.click()
    assert dark() is not was
    page.goto(url+'core.html')
    assert dark() is not was                        # and stays so on the next page

@in_browser
def test_narrow(new_page, url, site):
    p = new_page(viewport=dict(width=390, height=800))
    for f in sorted(site.rglob('*.html')):
        p.goto(url+str(f.relative_to(site)), wait_until='load')
        wide = p.evaluate("() => { const m = document.querySelector('main'); return Math.max(document.documentElement.scrollWidth, m.getBoundingClientRect().left+m.scrollWidth) }")
        assert wide <= 391, (f.name, wide)              # tables, code and formulas scroll on their own; nothing else is cut off
    assert not p.locator('input[type=search]').first.is_visible()
    p.locator('.navbar-toggler').click()
    p.locator('input[type=search]').first.wait_for()

@in_browser
def test_contents_are_whole(new_page, url):
    "On a laptop: names of methods are longer than the column, and are not cut where they differ"
    p = new_page(viewport=dict(width=1200, height=800))
    for f in ('train.generator.html', 'plan.costs.html'):
        p.goto(url+f, wait_until='load')
        all_, cut = p.evaluate("() => { const a = [...document.querySelectorAll('#TOC a')]; return [a.length, a.filter(e => e.scrollWidth > e.clientWidth+1).map(e => e.textContent)] }")
        assert all_ > 20 and not cut, (f, cut)

def written(site):
    "Pages of the site by address, without the one that says there is none"
    return {p.relative_to(site).as_posix(): p.read_text() for p in sorted(site.rglob('*.html')) if p.name!='404.html'}

def public():
    "Every public name, as `(module, name, object)`"
    mods = sorted('.'.join(p.relative_to(root/'boss_nb').with_suffix('').parts) for p in (root/'boss_nb').rglob('*.py') if '__all__ = ' in p.read_text())
    assert len(mods) > 20
    return [(m, n, getattr(importlib.import_module(f'boss_nb.{m}'), n)) for m in mods for n in importlib.import_module(f'boss_nb.{m}').__all__]

def listed(page):
    "Names with where they lead and what is said of them, in the tables of the API page"
    return {m[2]: (m[1], html.unescape(re.sub(r'<[^>]*>', '', m[3])).strip())
            for m in re.finditer(r'<tr[^>]*>\s*<td[^>]*><a href="([^"]*)"[^>]*><code>(\w+)</code></a></td>\s*<td[^>]*>.*?</td>\s*<td[^>]*>(.*?)</td>', page, flags=re.S)}

def test_api_page(site):
    rows, names = listed(written(site)['api.html']), public()
    assert len(names) > 150
    missing = [f'{m}.{n}' for m,n,_ in names if n not in rows]
    assert not missing, f'not on the API page, run tools/refresh.py nbs/api.ipynb: {missing}'
    gone = set(rows) - {n for _,n,_ in names}
    assert not gone, f'on the API page and not public: {gone}'
    silent = [f'{m}.{n}' for m,n,o in names if inspect.isroutine(o) and not (o.__doc__ or '').strip() or inspect.isclass(o) and (o.__doc__ or f'{n}(').startswith(f'{n}(')]
    assert not silent, f'no docstring: {silent}'
    assert all(said for _,said in rows.values())
    own = [(m, n) for m,n,o in names if callable(o) and o.__module__==f'boss_nb.{m}']
    assert all(rows[n][0].endswith('#'+n.lower()) for _,n in own), [rows[n] for _,n in own if not rows[n][0].endswith('#'+n.lower())]     # each to its entry; that the anchor is there, test_no_broken_links says

def test_api_page_is_stored(site):
    nb = json.loads((root/'nbs'/'api.ipynb').read_text())
    stored = ''.join(''.join(o['data'].get('text/markdown', '')) for c in nb['cells'] for o in c.get('outputs', []) if 'data' in o)
    assert {n for _,n,_ in public()}==set(re.findall(r'\[<code>(\w+)</code>\]', stored))

def test_social_card(site, base):
    card = (site/'images'/'card.png').read_bytes()
    assert struct.unpack('>II', card[16:24])==(1200, 630) and len(card) < 150_000
    pages, titles = written(site), set()
    for name,s in {**pages, '404.html': (site/'404.html').read_text()}.items():
        og = lambda k: build_docs.meta_of(s, k)
        assert og('og:title') and og('og:description') and og('og:description')==og('description'), name
        assert og('og:image')==og('twitter:image')==f'{base}/images/card.png' and og('twitter:card')=='summary_large_image' and og('og:image:alt'), name
        assert '<html lang="en"' in s and 'rel="icon"' in s, name
        titles.add((og('og:title'), og('og:description')))
    assert len(titles)==len(pages)+1                                  # each its own

def test_for_machines(site, base):
    txt, pages = (site/'llms.txt').read_text(), written(site)
    assert re.match(r'# boss_nb\n\n> \S.+\n\n\S.+\n\n## ', txt)
    lines = re.findall(r'^- \[(.+?)\]\((\S+?)\): (\S.+)$', txt, flags=re.M)
    assert len(lines)==len(re.findall('^- ', txt, flags=re.M))
    linked = {u.removeprefix(base+'/'): said for _,u,said in lines}
    assert set(linked)=={f'{o}.md' for o in pages} | {'llms-full.txt'}
    for o in pages: assert linked[f'{o}.md']==build_docs.meta_of(pages[o], 'description'), o
    full = (site/'llms-full.txt').read_text()
    for o in pages:
        md = (site/f'{o}.md').read_text()
        assert md.startswith('# ') and len(md) > 400 and md.strip() in full, o
        for to in re.findall(r'\]\(([^)#\s:]+\.html\.md)', re.sub(r'```.*?```|`[^`\n]*`', '', md, flags=re.S)): assert (site/o).parent.joinpath(to).exists(), (o, to)
    assert set(re.findall(r'<loc>(\S+)</loc>', (site/'sitemap.xml').read_text()))=={f'{base}/{o}' for o in pages}

@in_browser
def test_front_page_is_light(page, url):
    got = []
    page.on('response', lambda r: got.append(r))
    page.goto(url, wait_until='networkidle')
    page.mouse.wheel(0, 20_000)
    page.wait_for_timeout(500)
    size = {r.url: len(r.body()) for r in got}
    assert any(o.endswith('.css') for o in size) and any(o.endswith('.png') for o in size) and len(size) > 8
    assert sum(size.values()) < 1_000_000, size                       # as served here, without compression
    icon = page.evaluate("() => document.fonts.ready.then(() => [...document.fonts].filter(f => f.family.includes('bootstrap-icons')).map(f => f.status))")
    assert icon==['loaded']

@in_browser
def test_address_that_is_not_there(new_page, url, site):
    assert not re.findall(r'(?:href|src)="(?![/#"]|https?:|data:)[^"]*"', (site/'404.html').read_text())            # it is served at any depth
    for at in ('nothing.html', 'tutorials/gpu/nothing.html'):
        p = new_page()
        p.goto(url+at)
        assert p.inner_text('h1')=='Page not found' and [o for o in p.trouble if at not in o and '404 (' not in o]==[]
        p.locator('main a').first.click()
        p.wait_for_url(url+'index.html')
        assert p.locator('main table').count()

@in_browser
def test_keyboard(new_page, url):
    p = new_page(viewport=dict(width=390, height=800))
    p.goto(url+'plan.costs.html')
    p.keyboard.press('Tab')
    assert p.evaluate("() => document.activeElement.className")=='skip-link'
    p.keyboard.press('Enter')
    assert p.evaluate("() => document.activeElement.tagName")=='MAIN'
    p.wait_for_function("() => document.querySelectorAll('main pre[tabindex=\"0\"]').length > 3")
    narrow = p.locator('main pre[tabindex="0"]').count()
    p.set_viewport_size(dict(width=2400, height=900))
    p.wait_for_function(f"() => document.querySelectorAll('main pre[tabindex=\"0\"]').length < {narrow}")             # what fits is no stop on the way

@pytest.fixture(scope='session')
def axe():
    try: return build_docs.axe().read_text()
    except OSError as e: pytest.skip(f'no axe-core: {e}')

AXE = """([rules, off]) => axe.run(document,
  { resultTypes: ['violations'], selectors: false, rules: Object.fromEntries(off.map(o => [o, { enabled: false }])), ...(rules.length ? { runOnly: rules } : {}) }).then(r => r.violations
  .map(v => ({ id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)) })))"""

def faults(p, axe, rules=(), off=()):
    "Serious and critical ones, of these rules or of all but `off`"
    if not p.evaluate('() => !!window.axe'): p.evaluate(axe)
    return [v for v in p.evaluate(AXE, [list(rules), list(off)]) if v['impact'] in ('serious', 'critical')]

@in_browser
def test_axe_finds_planted_faults(page, url, axe):
    page.goto(url+'404.html')
    assert not faults(page, axe)
    plant = lambda tag: page.evaluate("h => document.querySelector('main').insertAdjacentHTML('beforeend', h)", tag)
    plant('<img src="images/digits.png"><p style="color:#ccc;background:#fff">pale</p><button></button><a href="index.html"></a>')
    plant('<pre style="width:100px;overflow-x:auto">'+'x'*400+'</pre><input type="text"><div role="nonsense">a</div>')
    page.evaluate("() => document.documentElement.removeAttribute('lang')")
    assert {'image-alt', 'color-contrast', 'button-name', 'link-name', 'scrollable-region-focusable', 'label', 'aria-roles', 'html-has-lang'} <= {v['id'] for v in faults(page, axe)}

@in_browser
@pytest.mark.parametrize('part', range(4))
@pytest.mark.parametrize('mode', ['light', 'dark'])
def test_accessible(new_page, url, site, axe, mode, part):
    """axe-core on every page: nothing serious or critical. What does not depend on colours is looked at once, in the light; the many
    colours of code and the many boxes of formulas are left to `test_readable`, which is faster, and are taken out of the page before."""
    p, bad, colours = new_page(color_scheme=mode), {}, ['color-contrast', 'link-in-text-block']
    for f in sorted(site.rglob('*.html'))[part::4]:
        p.goto(url+f.relative_to(site).as_posix(), wait_until='load')
        v = faults(p, axe, off=colours) if mode=='light' else []
        p.evaluate("() => document.querySelectorAll('main pre, .katex').forEach(e => e.remove())")
        v += faults(p, axe, colours)
        if v: bad[f.name] = v
    assert not bad, json.dumps(bad, indent=1)

@in_browser
@pytest.mark.parametrize('mode', ['light', 'dark'])
def test_accessible_when_open(new_page, url, axe, mode):
    "The list of search results, and the menus of a narrow screen"
    p = new_page(color_scheme=mode)
    p.goto(url+'404.html')
    p.locator('input[type=search]').first.press_sequentially('schedule')
    p.locator('a.search-result:visible').first.wait_for()
    assert not (v := faults(p, axe)), v
    p = new_page(color_scheme=mode, viewport=dict(width=390, height=800))
    p.goto(url)
    p.locator('.navbar-toggler').click()
    p.locator('input[type=search]').first.wait_for()
    assert not (v := faults(p, axe)), v

def test_figures_are_told(site):
    told = [(o, html.unescape(m)) for o,s in written(site).items() for m in re.findall(r'<img alt="([^"]*)"', s)]
    assert len(told) > 40 and all(len(a) > 25 for _,a in told), [o for o in told if len(o[1]) <= 25]
    assert not [o for o in told if re.search(r'\\|\]\(|`|\$', o[1])]
    source = "ax.set_title('both'); ax.set(xlabel='t', ylabel='size of `a`'); plt.xlabel('t')"
    assert build_docs.alt('# One\nThe net bends. *Where* does $x_t$ go, says [bellman](b.ipynb)? At t = 0.5:', 'One', source)== \
        'Figure. Where does x_t go, says bellman? Titles: both. Axes: t, size of `a`.'
    assert build_docs.alt('', 'What a jump costs', 'show_images(x)')=='Images. What a jump costs'
    nb = dict(cells=[dict(cell_type='markdown', source='What is it?'), dict(cell_type='code', source=['#| fig-alt: mine\n', 'plot()'], outputs=[dict(data={'image/png': ''})]),
        dict(cell_type='code', source='plot()', outputs=[dict(data={'image/png': ''}), dict(data={'text/html': '<img src="a"><img alt="b">'})]), dict(cell_type='code', source='1', outputs=[])])
    build_docs.name_figures(nb)
    assert [c['source'] for c in nb['cells']][1:]==['#| fig-alt: mine\nplot()', '#| fig-alt: "Figure. What is it?"\n#| fig-align: left\nplot()', '1']
    assert nb['cells'][2]['outputs'][1]['data']['text/html']=='<img alt="Figure. What is it?" src="a"><img alt="b">'
