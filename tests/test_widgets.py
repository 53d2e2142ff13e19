"The widgets where they live: a real JupyterLab in headless Chromium, with a hand on the sliders"
import base64, importlib.util, json, os, re, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest
from conftest import chrome

root = Path(__file__).resolve().parent.parent
missing = [o for o in ('jupyterlab', 'ipykernel', 'playwright') if not importlib.util.find_spec(o)]
pytestmark = [pytest.mark.skipif(bool(missing), reason=f'not installed: {", ".join(missing)}'),
              pytest.mark.skipif(not chrome, reason='no Chromium on this machine (chromium, chromium-browser, google-chrome or chrome)')]
patience = 120                                 # seconds for anything on a slow machine: a kernel that imports torch, a picture

imports = '''import torch, warnings; warnings.simplefilter('ignore', FutureWarning); torch.set_num_threads(1)
from boss_nb.core import *
from boss_nb.flow.data import moons
from boss_nb.plan.costs import calibrate
from boss_nb.flow.nets import MLP
from boss_nb.sample.schedule import uniform
from boss_nb.train.straighten import straighten
from boss_nb.plan.refine import Trial
from boss_nb.share.explorer import *
from boss_nb.share.trajectories import *
from boss_nb.share.monitor import *'''
explorer = "PlanExplorer(calibrate(moons(), noise(32, (2,)), 20, progress=False), Trial(moons(), noise(50, (2,), 'test'), teacher_steps=20), nfes=range(1,7))"
viewer   = "TrajectoryViewer(moons(), noise(6, (2,)), schedules=[2, 3], teacher_steps=12)"
monitor  = "s = straighten(MLP(2, 16), uniform(3), noise(100, (2,)), n_iter=600, bs=32, teacher_steps=9, progress=False, cbs=TrainingMonitor(.1))"

def notebook(*cells):
    return dict(nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'), language_info=dict(name='python')),
                cells=[dict(cell_type='code', id=f'cell{i}', metadata={}, source=o, outputs=[], execution_count=None) for i,o in enumerate(cells)])

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A server of its own, with its own settings; its address, token and folder"
    home = tmp_path_factory.mktemp('lab'); work = home/'work'; work.mkdir()
    quiet = home/'config'/'lab'/'user-settings'/'@jupyterlab'/'apputils-extension'/'notification.jupyterlab-settings'
    quiet.parent.mkdir(parents=True); quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')          # it would ask the network
    env = {k:o for k,o in os.environ.items() if k not in ('IN_TEST', 'JUPYTER_PATH')} | dict(JUPYTER_CONFIG_DIR=home/'config', JUPYTER_DATA_DIR=home/'data', JUPYTER_RUNTIME_DIR=home/'run', IPYTHONDIR=home/'ipython',
        JUPYTER_PREFER_ENV_PATH='1', PYTHONPATH=os.pathsep.join(filter(None, [str(root), os.environ.get('PYTHONPATH')])), BOSS_DEVICE='cpu', OMP_NUM_THREADS='1')
    port, token = free_port(), 'token-of-the-test'
    with open(home/'log', 'w') as log:
        p = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}', '--ServerApp.port_retries=0', f'--IdentityProvider.token={token}',
                              f'--ServerApp.root_dir={work}', '--LabApp.extension_manager=readonly', '--ServerApp.terminals_enabled=False'], stdout=log, stderr=subprocess.STDOUT, env={k:str(o) for k,o in env.items()}, start_new_session=True)
    url = f'http://127.0.0.1:{port}/'
    try:
        end = time.time()+patience
        while True:
            assert p.poll() is None and time.time() < end, 'JupyterLab did not start:\n'+(home/'log').read_text()[-3000:]
            try: urllib.request.urlopen(f'{url}api?token={token}', timeout=5); break
            except OSError: time.sleep(.2)
        yield url, token, work
    finally:
        try: urllib.request.urlopen(urllib.request.Request(f'{url}api/shutdown?token={token}', method='POST', headers={'Authorization': f'token {token}'}), timeout=10)     # it ends its kernels first
        except OSError: pass
        try: p.wait(20)
        except subprocess.TimeoutExpired: p.kill(); p.wait()

@pytest.fixture(scope='module')
def page(lab, browser):
    "A page that remembers errors and asks nothing of the network"
    p = browser.new_page(viewport=dict(width=1280, height=1000)); p.set_default_timeout(patience*1000)
    p.trouble = []
    p.on('console', lambda m: m.type=='error' and p.trouble.append(m.text))
    p.on('pageerror', lambda e: p.trouble.append(str(e)))
    p.route(re.compile(r'^https?://(?!127\.0\.0\.1)'), lambda r: (p.trouble.append('request to '+r.request.url), r.abort()))
    yield p
    p.close()

PICTURE = "async n => { const i = document.querySelectorAll('.jp-OutputArea img.widget-image')[n]; return Array.from(new Uint8Array(await (await fetch(i.src)).arrayBuffer())) }"

@pytest.fixture(scope='module')
def running(page, lab):
    "The notebook, opened, with Run All Cells clicked; `seen` collects the pictures the monitor shows from then on"
    url, token, work = lab
    cells = imports, explorer, viewer, monitor
    (work/'widgets.ipynb').write_text(json.dumps(notebook(*cells)))
    page.goto(f'{url}lab/tree/widgets.ipynb?token={token}')
    page.locator('.jp-Notebook .jp-CodeCell').nth(len(cells)-1).wait_for()
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first.wait_for()                   # the kernel is there
    page.evaluate("() => { window.seen = []; setInterval(() => { const s = document.querySelectorAll('.jp-OutputArea img.widget-image')[2]?.src; if (s && window.seen.at(-1) != s) window.seen.push(s) }, 20) }")
    begun = lambda: '[ ]' not in page.locator('.jp-Notebook .jp-InputPrompt').first.inner_text()
    for _ in range(int(patience/5)):                                                                       # an idle kernel is not always one that listens already
        for o in ('Run', 'Run All Cells'): page.get_by_role('menuitem', name=o, exact=True).click()
        end = time.time()+5
        while time.time() < end and not begun(): time.sleep(.1)
        if begun(): return page
    raise AssertionError('no cell was run')

def picture(page, n=0):
    "The bytes of the n-th widget's picture"
    page.wait_for_function("n => document.querySelectorAll('.jp-OutputArea img.widget-image')[n]?.naturalWidth > 100", arg=n)
    return bytes(page.evaluate(PICTURE, n))

def press(page, slider, key, n=0):
    "One key on a slider's handle; the picture that follows"
    before = picture(page, n)
    page.locator('.widget-slider .noUi-handle').nth(slider).press(key)
    end = time.time()+patience
    while (now := picture(page, n))==before: assert time.time() < end, f'{key} on slider {slider} did not change the picture'; time.sleep(.1)
    assert now[:8]==b'\x89PNG\r\n\x1a\n'
    return now

def outputs(lab): return [c['outputs'] for c in json.loads((lab[2]/'widgets.ipynb').read_text())['cells']]

def until(p, ok, what):
    end = time.time()+patience
    while not ok(): assert time.time() < end, what; p.wait_for_timeout(200)        # and not sleep, in which playwright answers nobody

def pictures_follow_the_sliders(p):
    plans, paths = picture(p, 0), picture(p, 1)
    assert p.locator('.widget-slider:visible').count()==5                          # evaluations and start; evaluations, time and sample
    assert press(p, 0, 'ArrowRight', 0)!=plans and picture(p, 1)==paths
    assert press(p, 0, 'ArrowLeft', 0)==plans                                      # and back
    for slider in (2, 3, 4): assert press(p, slider, 'ArrowRight', 1)!=paths
    p.locator('.widget-dropdown select').select_option('ab2')
    p.wait_for_function("() => document.querySelector('.widget-html code').innerText.startsWith('ab2')")

def monitor_draws_while_the_kernel_is_busy(p, lab):
    "The picture changes during the run, and the notebook that is saved keeps the last one, for where there are no widgets"
    p.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first.wait_for()
    final = picture(p, 2)
    assert p.evaluate('() => window.seen.length') >= 3                             # waiting, at work, done
    p.get_by_role('menuitem', name='File', exact=True).click(); p.get_by_role('menuitem', name=re.compile('^Save Notebook(?! As)')).click()
    until(p, lambda: (o := outputs(lab)[3]) and 'done' in ''.join(o[0]['data']['text/plain']), 'the notebook was not saved')
    for o,words in zip(outputs(lab)[1:], ('PlanExplorer', 'TrajectoryViewer', 'TrainingMonitor')):
        d = o[0]['data']
        assert {'application/vnd.jupyter.widget-view+json', 'image/png', 'text/plain'} <= d.keys() and ''.join(d['text/plain']).startswith(words)
        assert base64.b64decode(d['image/png'])[:8]==b'\x89PNG\r\n\x1a\n'
    assert base64.b64decode(d['image/png'])==final and 'step 600 of 600' in ''.join(d['text/plain'])

def test_widgets_in_jupyterlab(running, lab):
    "One server, one kernel, one test: it takes a while to get there"
    pictures_follow_the_sliders(running)
    monitor_draws_while_the_kernel_is_busy(running, lab)
    assert not [o for c in outputs(lab) for o in c if o['output_type'] in ('error', 'stream')]
    assert not running.trouble, running.trouble
