"The documentation site in headless Chromium, as a reader meets it. BOSS_SITE names a folder that is already built."
import functools, http.server, os, re, shutil, subprocess, sys, threading
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import build_docs

chrome = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
in_browser = pytest.mark.skipif(not chrome, reason='no Chromium on this machine (chromium, chromium-browser, google-chrome or chrome)')
flags = '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    if 'BOSS_SITE' in os.environ: return Path(os.environ['BOSS_SITE']).resolve()
    out = tmp_path_factory.mktemp('site')/'site'
    subprocess.run([sys.executable, root/'tools'/'build_docs.py', '--out', out], check=True)
    return out

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *a): pass

@pytest.fixture(scope='session')
def url(site):
    srv = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=srv.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{srv.server_port}/'
    srv.shutdown()

@pytest.fixture(scope='session')
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chrome, args=flags)
        yield b
        b.close()

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

def test_no_broken_links(site): assert build_docs.broken(site)==[]

def test_broken_links_are_found(tmp_path):
    (tmp_path/'a.html').write_text('<h2 id="x"></h2><a href="b.html"></a><a href="#y"></a><a href="#x"></a><img src="no.png"><script src="https://x.org/k.js"></script>')
    (tmp_path/'s.css').write_text('@import url(//fonts.org/f?a=1;2);')
    assert build_docs.broken(tmp_path)==['a.html loads https://x.org/k.js from outside', 'a.html: #y has no such anchor', 'a.html: b.html does not exist',
        'a.html: no.png does not exist', 's.css loads //fonts.org/f?a=1;2 from outside']

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
    assert {'core.html', 'bellman.html', 'cli.html'} <= {o.removeprefix('./') for o in links if o}

@in_browser
def test_formulas_figures_and_parameters(page, url):
    page.goto(url+'bellman.html')
    assert page.locator('main .katex').count() > 50 and page.locator('main .katex-display').count() > 3
    assert page.evaluate("() => document.fonts.ready.then(() => [...document.fonts].some(f => f.family.startsWith('KaTeX') && f.status=='loaded'))")
    assert page.evaluate("() => [...document.querySelectorAll('main img')].filter(i => i.naturalWidth > 100).length") >= 3
    assert page.locator('#title-block-header .description').first.inner_text().startswith('One calibration pass')
    table = page.locator('.cell:has(#calibrate) table')
    assert table.locator('th').all_inner_texts()[1:]==['Type', 'Default', 'Details']
    rows = [table.locator('tr').nth(i).inner_text() for i in range(table.locator('tr').count())]
    assert any('noise' in r and 'Tensor' in r and 'shape' in r for r in rows), rows

@in_browser
def test_doclinks_resolve(page, url, site):
    link = re.compile(r'<a href="([\w-]+)\.html#([\w.-]+)"[^>]*><code>')
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
    page.locator('input[type=search]').first.press_sequentially('propagation', delay=10)
    hit = page.locator('#quarto-search a.search-result:visible').first
    hit.wait_for()
    assert 'propagation' in page.locator('#quarto-search').inner_text().lower()
    hit.click()
    page.wait_for_url(re.compile(r'/\w+\.html'))
    assert 'propagation' in page.inner_text('main').lower() and not page.trouble

# text whose contrast with what lies behind it is below WCAG's 4.5; opacity counts, gradients and images do not occur
CONTRAST = """() => {
  const rgba = c => { const m = c.match(/[\\d.]+/g).map(Number); if (c.startsWith('color(')) m.splice(0, 3, ...m.slice(0, 3).map(v => v*255)); return [...m.slice(0, 3), m.length > 3 ? m[3] : 1] };
  const over = (a, b) => [0,1,2].map(i => a[i]*a[3] + b[i]*(1-a[3])).concat([1]);
  const lum = c => { const f = v => { v /= 255; return v <= .03928 ? v/12.92 : ((v+.055)/1.055)**2.4 }; return .2126*f(c[0]) + .7152*f(c[1]) + .0722*f(c[2]) };
  const chain = e => { const s = []; for (; e; e = e.parentElement) s.push(e); return s };
  const behind = e => chain(e).reverse().reduce((b, x) => over(rgba(getComputedStyle(x).backgroundColor), b), [255,255,255,1]);
  const bad = [], seen = { p: 0, code: 0, td: 0 };
  for (const e of document.querySelectorAll('main *, nav *, #quarto-search *')) {
    if (![...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()) || !e.getClientRects().length) continue;
    if (e.closest('svg, script, style, .katex-mathml')) continue;
    for (const k in seen) seen[k] += !!e.closest(k);
    const b = behind(e), c = rgba(getComputedStyle(e).color), o = chain(e).reduce((v, x) => v*getComputedStyle(x).opacity, 1);
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
    page.goto(url+'bellman.html')
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
