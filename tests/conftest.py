import os, shutil
os.environ.setdefault('BOSS_DEVICE', 'cpu')
import pytest

chrome = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
flags = '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()

def pytest_configure(config):
    config.addinivalue_line('markers', 'cuda: needs a CUDA device; its twin with device `cpu` runs everywhere')

def pytest_collection_modifyitems(items):
    "Without a CUDA device its tests are skipped"
    marked = [o for o in items if o.get_closest_marker('cuda')]
    if not marked: return
    import torch
    if torch.cuda.is_available(): return
    for o in marked: o.add_marker(pytest.mark.skip(reason='there is no CUDA device here'))

@pytest.fixture(scope='session')
def browser():
    "Headless Chromium: one for all modules, as Playwright's synchronous side can be started only once in a process"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chrome, args=flags)
        yield b
        b.close()
