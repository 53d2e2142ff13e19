"Files: what is written comes back exactly, what was spoilt is refused, and nothing in them is ever run"
import copy, errno, hashlib, importlib, inspect, io, json, math, os, pickle, pkgutil, re, shutil, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
import boss_nb, boss_nb.share.bundle as ck, boss_nb.flow.nets as mo, boss_nb.files as fi
from boss_nb.share import cli, demo, score, script
from boss_nb.sample.schedule import Schedule
from boss_nb.plan.costs import calibrate, Calibration
from boss_nb.files import fingerprint
from boss_nb.share.bundle import Bundle
from boss_nb.share.students import config_digest, file_digest, load_plan, load_student, save_plan, save_student
from boss_nb.core import CountNFE, noise, nfe_per_call
from boss_nb.flow.data import fashion_mnist, image_folder
from boss_nb.judge.evaluate import evaluate, image_batches
from boss_nb.judge.measure import frechet_to, measure, Results, Run
from boss_nb.judge.extractors import read_weights
from boss_nb.train.package import train_fashion
from boss_nb.flow.velocity import adapt, guided
from boss_nb.judge.frechet import digit_stats, FeatureStats, read_stats
from boss_nb.files import load_state, save_state, state_digest
from boss_nb.flow.nets import architectures, build_net, load_net, MLP, save_net, digits_teacher, UNet
from boss_nb.sample.solvers import sample
from boss_nb.sample.schedule import uniform
from boss_nb.train.straighten import straighten, Straightened

def same(a, b): return a.keys()==b.keys() and all(a[k].dtype==b[k].dtype and torch.equal(a[k], b[k]) for k in a)
def listing(d): return {str(f.relative_to(d)): f.read_bytes() for f in sorted(Path(d).rglob('*')) if f.is_file()}

@pytest.fixture(scope='module')
def net(): torch.manual_seed(0); return MLP(2, 16).eval().requires_grad_(False)
@pytest.fixture(scope='module')
def students(net): return {k: straighten(net, [uniform(2), uniform(4)], noise(40,(2,)), lora=r, n_iter=3, teacher_steps=8, progress=False) for k,r in (('lora',2),('full',None))}

# ---- hostile files

class Bomb:
    def __init__(self, canary): self.canary = str(canary)
    def __reduce__(self): return os.system, (f'touch {self.canary}',)

def payloads(canary):
    "The same bomb in every container that some loader unpickles"
    def buf(f): b = io.BytesIO(); f(b); return b.getvalue()
    b = Bomb(canary)
    yield from ((f'pickle {p}', pickle.dumps({'state_dict':b}, p)) for p in (0,2,4))
    yield 'torch zip', buf(lambda o: torch.save({'ema':b}, o))
    yield 'torch legacy', buf(lambda o: torch.save({'ema':b}, o, _use_new_zipfile_serialization=False))
    yield 'npz', buf(lambda o: np.savez(o, mu=np.array([b], dtype=object), sigma=np.eye(1), n=2, meta='{}'))
    yield 'npy', buf(lambda o: np.save(o, np.array([b], dtype=object)))

def bundle_of(path):
    "Folders of which one file is hostile, with checksums to match, as an attacker would make them"
    for name in ('config.json','model.safetensors','plan.json','base.safetensors'):
        d = path.parent/'hostile'; shutil.rmtree(d, ignore_errors=True)
        Bundle(MLP(2, 4), uniform(2)).save_pretrained(d)
        shutil.copy(path, d/name)
        if name!='config.json':
            c = json.loads((d/'config.json').read_text()); c['files'][name] = file_digest(d/name)
            (d/'config.json').write_text(json.dumps(c | dict(digest=config_digest(c))))
        with pytest.raises(ValueError): Bundle.from_pretrained(d)
    Bundle.from_pretrained(path)

def picture(path):
    d = path.parent/'pictures'; d.mkdir(exist_ok=True); shutil.copy(path, d/'x.png')
    image_folder(d, 8)

def clothes(path):
    "A folder of Fashion-MNIST whose files are hostile, packed or not"
    d = path.parent/'clothes'; d.mkdir(exist_ok=True)
    for name in ('t10k-images-idx3-ubyte', 't10k-images-idx3-ubyte.gz'):
        for f in d.iterdir(): f.unlink()
        shutil.copy(path, d/name); fashion_mnist('test', d)

def clothes_run(path):
    "A run of the Fashion-MNIST teacher whose checkpoint is hostile"
    d = path.parent/'clothes-run'; d.mkdir(exist_ok=True); shutil.copy(path, d/'last.safetensors')
    train_fashion('classifier', d, data=(torch.zeros(20,1,28,28), torch.arange(20)%10), device='cpu', progress=False)

def run_of(path):
    "A run whose checkpoint, or whose states, are hostile"
    d, net, z = path.parent/'run', MLP(2, 4, 1), noise(20, (2,))
    go = lambda: straighten(net, uniform(2), z, n_iter=2, teacher_steps=4, bs=4, folder=d, progress=False)
    for name in ('states/manifest.json', 'last.safetensors'):
        shutil.rmtree(d, ignore_errors=True); go(); shutil.copy(path, d/name)
        with pytest.raises(ValueError): go()
    go()

def evaluation_of(path, ask=evaluate, files=('evaluation.json','part-*.npz')):
    "An evaluation, or a table, of which one file is hostile"
    d, net = path.parent/'evaluation', digits_teacher()
    go = lambda: ask(net, 1, digit_stats(), n=4, folder=d, progress=False)
    for name in files:
        shutil.rmtree(d, ignore_errors=True); go(); shutil.copy(path, next(d.glob(name)))
        with pytest.raises(ValueError): go()
    go()
def table_of(path): evaluation_of(path, lambda net, k, ref, n, folder, **kw: measure(Run('a', net, k), frechet_to(ref), (n, (1,8,8)), folder=folder, **kw), ('*.json',))

def pictures_of(path):
    d = path.parent/'pictures'; d.mkdir(exist_ok=True); shutil.copy(path, d/'x.png')
    return [*image_batches(d)]

loaders = {'load_net':load_net, 'fit_method':run_of, 'load_state':load_state, 'load_plan':load_plan, 'load_student':lambda p: load_student(p, MLP(2)),
           'Calibration.load':Calibration.load, 'Schedule.load':Schedule.load, 'FeatureStats.load':FeatureStats.load,
           'read_stats':lambda p: read_stats(p, 'edm'), 'evaluate':evaluation_of, 'read_weights':lambda p: read_weights(p, hashlib.sha256(p.read_bytes()).hexdigest()), 'image_batches':pictures_of, 'Results.load':Results.load, 'measure':table_of,
           'load_model':lambda p: script.load_model(str(p)), 'Bundle.from_pretrained':bundle_of, 'image_folder':picture, 'fashion_mnist':clothes, 'train_fashion':clothes_run}
scripts = [lambda p: cli.boss_plan(model=p), lambda p: cli.boss_straighten(plan=p, out=p+'.out'), lambda p: cli.boss_straighten(model=p, out=p+'.out'), lambda p: cli.boss_sample(student=p, out=p+'.png'),
           lambda p: cli.boss_sample(plan=p, nfe=2, out=p+'.png'), lambda p: score.boss_fid(p), lambda p: score.boss_evaluate(reference=p, convention='edm'), lambda p: score.boss_evaluate(plan=p, nfe='2')]

def rectified(): return pytest.importorskip('boss_nb.flow.ncsnpp').load_rectified_flow

def test_the_bombs_are_live(tmp_path):
    "Control: each payload goes off in a loader that allows it"
    go = {'pickle':lambda b: pickle.loads(b), 'torch':lambda b: torch.load(io.BytesIO(b), weights_only=False), 'npz':lambda b: np.load(io.BytesIO(b), allow_pickle=True)['mu'], 'npy':lambda b: np.load(io.BytesIO(b), allow_pickle=True)}
    seen = 0
    for name,raw in payloads(tmp_path/'canary'):
        go[name.split()[0]](raw)
        assert (tmp_path/'canary').exists(), name
        (tmp_path/'canary').unlink(); seen += 1
    assert seen==7

@pytest.mark.parametrize('suffix', ['.pth','.pt','.safetensors','.json','.npz'])
@pytest.mark.parametrize('name', loaders)
def test_no_pickle_is_run(tmp_path, name, suffix):
    for what,raw in payloads(canary := tmp_path/'canary'):
        (p := tmp_path/f'hostile{suffix}').write_bytes(raw)
        with pytest.raises(OSError if name=='image_folder' else ValueError): loaders[name](p)
        assert not canary.exists(), what

@pytest.mark.parametrize('suffix', ['.pth','.pt','.safetensors','.json','.npz'])
def test_no_pickle_is_run_by_scripts(tmp_path, suffix, capsys):
    for what,raw in payloads(canary := tmp_path/'canary'):
        (p := tmp_path/f'hostile{suffix}').write_bytes(raw)
        for f in scripts:
            with pytest.raises(SystemExit) as e: f(str(p))
            assert e.value.code==2 and str(p) in capsys.readouterr().err and not canary.exists(), what

@pytest.mark.parametrize('suffix', ['.pth','.pt','.safetensors'])
def test_no_pickle_is_run_by_rectified_flow(tmp_path, suffix):
    load = rectified()
    for what,raw in payloads(canary := tmp_path/'canary'):
        (p := tmp_path/f'hostile{suffix}').write_bytes(raw)
        for f in (lambda: load(p, 'cifar10'), lambda: load(p, 'cifar10', ema=False), lambda: script.load_model(f'cifar10:{p}')):
            with pytest.raises(ValueError): f()
        assert not canary.exists(), what

def public_readers():
    "Every public function and method that takes a path, but for those that write"
    for m in pkgutil.walk_packages(boss_nb.__path__, 'boss_nb.'):
        try: mod = importlib.import_module(m.name)
        except ImportError: continue          # an optional extra that is not installed
        for k,o in vars(mod).items():
            if k.startswith('_') or getattr(o, '__module__', '')!=mod.__name__: continue
            fs = {}
            if inspect.isfunction(o): fs = {k:o}
            elif inspect.isclass(o) and o.__module__==mod.__name__: fs = {f'{k}.{a}':getattr(o, a) for a in vars(o) if not a.startswith('_') and inspect.isroutine(getattr(o, a))}
            for n,f in fs.items():
                if any(re.search('path|file|folder', a) for a in inspect.signature(f).parameters) and not re.search(r'(^|\.)(save|write)', n): yield n

def test_every_reader_is_among_them():
    harmless = {'atomic_write', 'check_writable', 'tempfile_in', 'demo_picture', 'check_keys', 'fill_net', 'steady', 'comfy_sigmas', 'fetch', 'inception_body', 'image_files', 'file_digest', 'foreign_file'}   # write, list, or take the path for a message
    also = {'load_rectified_flow', 'read_config', 'straighten_lora', 'lora_facts', 'lora_schedules', 'use_lora_schedule'}   # tested below
    also |= {'States.open', 'store_states', 'straighten', 'match_generator', 'boss_straighten', 'boss_evaluate'}   # in test_states.py; what reads for straighten and match_generator is fit_method, for boss_evaluate sweep
    also |= {'train_flow', 'train_digits', 'train_classifier', 'train_autoencoder'}   # read through fit_method
    also |= {'plan_for', 'euler_schedule', 'student_in', 'JudgeOptions.read'}   # parts of the scripts, which get every hostile file below
    harmless |= {'check_outputs'}
    found = set(public_readers())
    assert not (left := found-set(loaders)-also-harmless), f'give these hostile files too: {left}'
    assert set(loaders)-{'load_model'} <= found

@pytest.mark.parametrize('suffix', ['.safetensors','.json','.txt','.pt'])
def test_no_pickle_is_run_by_diffusers_files(tmp_path, suffix):
    lora, comfy = pytest.importorskip('boss_nb.share.lora'), pytest.importorskip('boss_nb.share.comfy')
    pipe = type('Pipe', (), dict(transformer=nn.Linear(1,1)))()
    for what,raw in payloads(canary := tmp_path/'canary'):
        (p := tmp_path/f'hostile{suffix}').write_bytes(raw); (tmp_path/'f').mkdir(exist_ok=True); (tmp_path/'f'/lora.lora_file).write_bytes(raw)
        for f in (lora.lora_facts, lora.lora_schedules, lambda o: lora.use_lora_schedule(pipe, o)):
            with pytest.raises(ValueError if suffix=='.safetensors' else (ValueError, FileNotFoundError)): f(p)
            with pytest.raises(ValueError): f(tmp_path/'f')
        with pytest.raises(ValueError): comfy.read_sigmas(p)
        assert not canary.exists(), what

def test_no_source_unpickles():
    for f in Path(boss_nb.__file__).parent.rglob('*.py'):
        src = f.read_text()
        for call in re.findall(r'torch\.load\((?:[^()]|\([^()]*\))*\)', src): assert re.search(r'weights_only\s*=\s*True', call), f'{f.name}: {call}'
        assert src.count('torch.load(')==len(re.findall(r'torch\.load\((?:[^()]|\([^()]*\))*\)', src)), f.name
        for bad in (r'\bpickle\.(load|Unpickler)', r'from pickle', r'allow_pickle\s*=\s*True', r'weights_only\s*=\s*False', r'\bjoblib', r'\bload_learner', r'\bcloudpickle', r'(?<![\w.])(eval|exec)\('):
            assert not re.search(bad, src), f'{f.name}: {bad}'

# ---- what the header says

def test_version_is_written_and_any_is_read(tmp_path, net, monkeypatch):
    monkeypatch.setattr(fi, '__version__', '99.1'); monkeypatch.setattr(ck, '__version__', '99.1')
    save_net(tmp_path/'n.safetensors', net, seed=1); Bundle(net, uniform(2)).save_pretrained(tmp_path/'b')
    monkeypatch.undo()
    assert load_state(tmp_path/'n.safetensors')[1]['version']=='99.1' and json.loads((tmp_path/'b'/'config.json').read_text())['version']=='99.1'
    assert same(load_net(tmp_path/'n.safetensors').state_dict(), net.state_dict()) and same(Bundle.from_pretrained(tmp_path/'b').net.state_dict(), net.state_dict())
    state, m = load_state(tmp_path/'n.safetensors'); save_state(tmp_path/'n.safetensors', state, **m)
    assert load_state(tmp_path/'n.safetensors')[1]==dict(arch='MLP', config=net.config, seed=1, version=boss_nb.__version__)

def test_files_without_version_and_checksum(tmp_path, net):
    from safetensors.torch import save_file
    from boss_nb.flow.nets import weights_path
    save_file(net.state_dict(), tmp_path/'old.safetensors', {'boss_nb':json.dumps(dict(arch='MLP', config=net.config))})
    assert same(load_net(tmp_path/'old.safetensors').state_dict(), net.state_dict())
    assert 'version' not in load_state(weights_path('digits_unet'))[1] and load_net(weights_path('digits_unet')).config['width']==32

@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_come_back_to_the_bit(tmp_path, dtype):
    torch.manual_seed(0)
    state = {f's{i}': (torch.randn(s)*3).to(dtype) for i,s in enumerate([(), (0,), (5,), (2,3,4)])} | {'view': torch.randn(4,6).to(dtype).T[1:], 'zero': torch.tensor([0.,-0.]).to(dtype)}
    back, m = load_state(save_state(tmp_path/'s.safetensors', state, note='ü', deep={'a':[1,2.5,None]}))
    assert same(back, {k:o.contiguous() for k,o in state.items()}) and m['note']=='ü' and m['deep']=={'a':[1,2.5,None]}
    if dtype.is_floating_point: assert torch.equal(torch.signbit(back['zero']), torch.signbit(state['zero']))

# ---- spoilt files

def test_any_flipped_bit_is_noticed_or_harmless(tmp_path):
    "Every byte of a network file in turn; what loads is what was written"
    p = save_net(tmp_path/'n.safetensors', MLP(2, 4, 1), seed=3)
    net, raw, q, refused = load_net(p), p.read_bytes(), tmp_path/'q.safetensors', 0
    for i in range(len(raw)):
        b = bytearray(raw); b[i] ^= 1<<(i%8); q.write_bytes(b)
        try: got = load_net(q)
        except ValueError as e: refused += 1; assert str(q) in str(e); continue
        assert same(got.state_dict(), net.state_dict()) and got.meta==net.meta, f'byte {i}'
    assert refused > .95*len(raw)

def test_a_flipped_bit_in_every_kind_of_file(tmp_path, net, students):
    cal = calibrate(net, noise(4,(2,)), 10, progress=False)
    for p,load in ((save_net(tmp_path/'n.safetensors', net), load_net), (cal.save(tmp_path/'c.safetensors'), Calibration.load),
                   (save_student(tmp_path/'l.safetensors', students['lora']), lambda p: load_student(p, net)), (save_student(tmp_path/'f.safetensors', students['full']), load_student)):
        load(p); b = bytearray(p.read_bytes()); b[-5] ^= 16; p.write_bytes(b)
        with pytest.raises(ValueError, match=re.escape(str(p))+' was changed after it was written'): load(p)

def test_foreign_metadata(tmp_path, net):
    from safetensors.torch import save_file
    p, st = tmp_path/'x.safetensors', net.state_dict()
    for text,msg in (('{', 'is not JSON'), ('[1]', 'not a JSON object'), ('['*50_000, 'is not JSON'), ('{"arch":["MLP"]}', 'was not made by save_net'), ('{"arch":"os"}', 'was not made by save_net'),
                     ('{"arch":"MLP"}', 'does not build'), ('{"arch":"MLP","config":{"dim":"x"}}', 'does not build'), ('{"arch":"MLP","config":{"dim":3,"hidden":16}}', 'has shape')):
        save_file(st, p, {'boss_nb':text})
        with pytest.raises(ValueError, match=msg) as e: load_net(p)
        assert str(p) in str(e.value)
    good = dict(kind='boss_nb.full', arch='MLP', config=net.config, schedules=[uniform(2).to_dict()])
    for change,msg in (({'schedules':[]}, 'broken schedule'), ({'schedules':[3]}, 'broken schedule'), ({'schedules':None}, 'broken schedule'), ({'config':{}}, 'does not build'), ({'config':dict(net.config, depth=2)}, 'unexpected keys'),
                       ({'kind':'boss_nb.lora', 'base':fingerprint(net)}, 'do not build a LoRA'), ({'kind':'boss_nb.lora'}, 'another base'), ({'kind':'other'}, 'is not a boss_nb student')):
        save_state(p, st, **{**good, **change})
        with pytest.raises(ValueError, match=msg) as e: load_student(p, net if change.get('kind') else None)
        assert str(p) in str(e.value)
    save_state(p, st, **good); assert same(load_student(p).model.state_dict(), st)

def test_wrong_shapes_in_a_lora(tmp_path, net, students):
    p = save_student(tmp_path/'l.safetensors', students['lora'])
    st, m = load_state(p); k = next(iter(st)); st[k] = st[k][:1]; save_state(p, st, **m)
    with pytest.raises(ValueError, match='has shape'): load_student(p, net)

@pytest.mark.parametrize('raw', [b'', b'{', b'null', b'3', b'[]', b'"x"', b'\xff\xfe\x00', b'{"kind":["a"]}', b'{"kind":"boss_nb.plan"}', b'{"kind":"boss_nb.plan","schedules":[]}', b'{"kind":"boss_nb.plan","schedules":[1]}',
                                 b'{"kind":"boss_nb.plan","schedules":{"a":1}}', b'{"kind":"boss_nb.plan","schedules":[{"knots":[0,1]}],"meta":3}', b'{"kind":"boss_nb.plan","schedules":[{"knots":[1,0]}]}', b'['*100_000])
def test_spoilt_json(tmp_path, raw):
    (p := tmp_path/'p.json').write_bytes(raw)
    with pytest.raises(ValueError, match=re.escape(str(p))): load_plan(p, MLP(2))
    (tmp_path/'b').mkdir(); (c := tmp_path/'b'/'config.json').write_bytes(raw)
    with pytest.raises(ValueError, match=re.escape(str(c))): Bundle.from_pretrained(tmp_path/'b')

@pytest.mark.parametrize('change', [dict(holds='other'), dict(holds=['flow']), dict(holds='plan'), dict(holds='full'), dict(files=None), dict(files={'../x.safetensors':'0'}), dict(files={'model.bin':'0'}), dict(files={}), dict(meta=[1]), dict(meta={'net':1})])
def test_configs_that_lie(tmp_path, net, change):
    Bundle(net, uniform(2)).save_pretrained(tmp_path/'b'); p = tmp_path/'b'/'config.json'
    c = json.loads(p.read_text()) | change; p.write_text(json.dumps(c | dict(digest=config_digest(c))))
    with pytest.raises(ValueError, match=re.escape(str(tmp_path/'b'))): Bundle.from_pretrained(tmp_path/'b')

def test_any_byte_of_a_folder(tmp_path, net):
    "One flipped bit in any file, at many places"
    Bundle(net, [uniform(2), uniform(3)], seed=1).save_pretrained(tmp_path/'b')
    for name in ('config.json','plan.json','model.safetensors'):
        p = tmp_path/'b'/name; raw = p.read_bytes()
        for i in range(0, len(raw)-1, max(1, len(raw)//150)):
            b = bytearray(raw); b[i] ^= 1; p.write_bytes(b)
            try: r = Bundle.from_pretrained(tmp_path/'b')
            except (ValueError, FileNotFoundError) as e: assert str(tmp_path/'b') in str(e)
            else: assert name=='config.json' and r.meta=={'seed':1} and same(r.net.state_dict(), net.state_dict()), f'{name} byte {i}'   # white space
        for n in (0, 1, len(raw)//2, len(raw)-2):
            p.write_bytes(raw[:n])
            with pytest.raises(ValueError, match=re.escape(name)): Bundle.from_pretrained(tmp_path/'b')
        p.write_bytes(raw)
    Bundle.from_pretrained(tmp_path/'b')

def test_students_and_plans_know_their_adapter(tmp_path, net):
    "The same weights read with another clock are another velocity"
    mine, other = adapt(net, time=(1,0)), adapt(net, time=(0,1000))
    for rank in (2, None):
        s = straighten(mine, uniform(2), noise(40,(2,)), lora=rank, n_iter=3, teacher_steps=8, progress=False)
        p = save_student(tmp_path/'s.safetensors', s, base=mine)
        assert torch.equal(sample(load_student(p, mine), noise(5,(2,)), 2), sample(s, noise(5,(2,)), 2))
        for wrong in (other, net):
            with pytest.raises(ValueError, match='another'): load_student(p, wrong)
    q = save_plan(tmp_path/'p.json', [uniform(2)], fingerprint=fingerprint(mine))
    load_plan(q, mine)
    with pytest.warns(UserWarning, match='planned for another network'): load_plan(q, other)

# ---- round trips of folders, and the Hub without a network

def bundles(net, students):
    return {'flow':Bundle(net, [uniform(2), uniform(3)], shape=(2,), date='2026'), 'bare':Bundle(net), 'plan':Bundle(None, [uniform(4)]), 'full':Bundle(students['full'], base=net), 'both':Bundle(students['lora'], base=net, shape=[2]), 'lora':Bundle(students['lora'])}

def check(r, b):
    assert r.holds==b.holds and r.schedules==b.schedules and r.meta==json.loads(json.dumps(b.meta)) and [s.knots.tolist() for s in r.schedules]==[s.knots.tolist() for s in b.schedules]
    if b.net is None: return
    m, n = ((o.net.model if isinstance(o.net, Straightened) else o.net).state_dict() for o in (r,b))
    assert same(m, n)
    if isinstance(b.net, Straightened): assert r.net.meta==b.net.meta and (r.net.loss_before, r.net.loss_after)==(b.net.loss_before, b.net.loss_after)
    if b.schedules: assert torch.allclose(r.sample(noise(5,(2,)), k := b.schedules[0].nfe), b.sample(noise(5,(2,)), k), atol=1e-6)

@pytest.mark.parametrize('name', ['flow','bare','plan','full','both','lora'])
def test_folder_round_trip(tmp_path, net, students, name):
    b, kw = bundles(net, students)[name], dict(base=net) if name in ('lora','full') else {}
    b.save_pretrained(tmp_path/'a'); r = Bundle.from_pretrained(tmp_path/'a', **kw); check(r, b)
    if name=='full': check(Bundle.from_pretrained(tmp_path/'a'), b)   # needs no base
    if name!='lora': r.save_pretrained(tmp_path/'b'); assert listing(tmp_path/'a')==listing(tmp_path/'b')   # again, to the byte
    readme = (tmp_path/'a'/'README.md').read_text()
    assert readme.startswith('---\nlibrary_name: boss_nb\n') and boss_nb.__version__ in readme and 'Bundle.from_pretrained' in readme
    for s in b.schedules: assert f'| {s.nfe} | euler | uniform |' in readme
    code = re.search(r'```python\n(.*?)```', readme, re.S)[1].replace("'FOLDER_OR_REPO'", repr(str(tmp_path/'a')))
    exec(code, dict(net=net, noise=noise(4,(2,))))   # what the card says works

def test_folder_loses_what_the_bundle_lost(tmp_path, net, students):
    all_ = bundles(net, students); d = tmp_path/'b'
    all_['both'].save_pretrained(d); (d/'README.md').write_text('mine'); (d/'notes.txt').write_text('mine')
    all_['bare'].save_pretrained(d)
    assert sorted(listing(d))==['README.md','config.json','model.safetensors','notes.txt'] and (d/'README.md').read_text()=='mine'
    check(Bundle.from_pretrained(d), all_['bare'])

class Hub:
    "Stands in for the Hub: keeps what is pushed, hands out what is asked for"
    def __init__(self, root): self.root, self.calls = root, []
    def api(self, token=None): self.calls.append(('login', token)); return self
    def create_repo(self, repo_id, **kw): self.repo_id = repo_id; self.calls.append(('create', repo_id, kw)); return self
    def upload_folder(self, repo_id, folder_path, repo_type, revision, ignore_patterns, **kw):
        self.calls.append(('upload', repo_id, repo_type, revision, ignore_patterns, sorted(listing(folder_path))))
        shutil.copytree(folder_path, self.root/repo_id, dirs_exist_ok=True); return f'https://hub/{repo_id}/commit/1'
    def snapshot_download(self, repo_id, allow_patterns, revision=None, **kw):
        import huggingface_hub.utils as u
        u.validate_repo_id(repo_id); self.calls.append(('download', repo_id, revision))
        out = self.root/'cache'/repo_id; shutil.rmtree(out, ignore_errors=True); out.mkdir(parents=True)
        for f in u.filter_repo_objects(sorted(listing(self.root/repo_id)), allow_patterns=allow_patterns): shutil.copy(self.root/repo_id/f, out/f)
        return str(out)

@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub, huggingface_hub.hub_mixin
    h = Hub(tmp_path/'hub')
    monkeypatch.setattr(huggingface_hub.hub_mixin, 'HfApi', h.api); monkeypatch.setattr(huggingface_hub, 'snapshot_download', h.snapshot_download)
    return h

@pytest.mark.parametrize('name', ['flow','plan','full','both','lora'])
def test_push_and_pull(hub, net, students, name):
    b, kw = bundles(net, students)[name], dict(base=net) if name=='lora' else {}
    assert b.push_to_hub('me/thing', token='T', branch='dev', ignore_patterns='*.x')=='https://hub/me/thing/commit/1'
    files = {'flow':['model.safetensors','plan.json'], 'plan':['plan.json'], 'full':['model.safetensors','plan.json'], 'both':['base.safetensors','model.safetensors','plan.json'], 'lora':['model.safetensors','plan.json']}[name]
    assert hub.calls==[('login','T'), ('create','me/thing',dict(private=None, exist_ok=True)), ('upload','me/thing','model','dev','*.x',sorted(['README.md','config.json',*files]))]
    pickle.dump(Bomb(canary := hub.root/'canary'), open(hub.root/'me/thing/pytorch_model.bin','wb'))
    r = Bundle.from_pretrained('me/thing', revision='dev', **kw); check(r, b)
    assert hub.calls[-1]==('download','me/thing','dev') and not (hub.root/'cache/me/thing/pytorch_model.bin').exists() and not canary.exists()

def test_saving_and_pushing_at_once(hub, tmp_path, net):
    assert Bundle(net, uniform(2)).save_pretrained(tmp_path/'here', push_to_hub=True, repo_id='me/x')=='https://hub/me/x/commit/1'
    assert listing(tmp_path/'here')==listing(hub.root/'me/x')
    with pytest.raises(ValueError, match='derived from the bundle'): Bundle(net).save_pretrained(tmp_path/'no', config={'a':1})

def test_names_that_are_nothing(hub, tmp_path):
    for name in (tmp_path/'none', '/nowhere/at/all', 'a/b/c', ''):
        if name!='':
            with pytest.raises(FileNotFoundError, match='no such folder'): Bundle.from_pretrained(name)
    assert not any(c[0]=='download' for c in hub.calls)

def test_card_is_a_hub_card(net):
    card = Bundle(net, uniform(2), license='apache-2.0', note='a|b\nc').generate_model_card()
    assert card.data.library_name=='boss_nb' and card.data.license=='apache-2.0' and 'flow-matching' in card.data.tags and r'a\|b c' in card.content

def test_without_huggingface_hub(tmp_path):
    code = f'''if 1:
        import sys; sys.modules['huggingface_hub'] = None
        from boss_nb.share.bundle import *; from boss_nb.files import *; from boss_nb.flow.nets import *; from boss_nb.sample.schedule import uniform
        b = Bundle(MLP(2), uniform(2)); b.save_pretrained({str(tmp_path/"b")!r}); print(Bundle.from_pretrained({str(tmp_path/"b")!r}))
        for f in (lambda: b.push_to_hub('a/b'), lambda: Bundle.from_pretrained('a/b')):
            try: f()
            except ImportError as e: print(e)'''
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode==0, r.stderr
    assert r.stdout.startswith('Bundle(flow, MLP, NFE [2])') and r.stdout.count('pip install huggingface_hub')==2

# ---- interrupted writes, and readers that come in between

def test_full_disk(tmp_path, net, students, monkeypatch):
    "The disk fills up at each file in turn; the old folder stays as it was, to the byte"
    Bundle(students['lora'], base=net).save_pretrained(tmp_path/'b'); old = listing(tmp_path/'b')
    new = Bundle(straighten(net, uniform(2), noise(40,(2,)), lora=3, n_iter=2, teacher_steps=8, progress=False), base=net)
    for at in range(4):
        left = [at]
        def full(write):
            def f(*a, **kw):
                left[0] -= 1
                if left[0] >= 0: return write(*a, **kw)
                Path(a[1] if write is save else a[0]).write_bytes(b'half'); raise OSError(errno.ENOSPC, 'No space left on device')
            return f
        save, text = fi.save_file, Path.write_text
        with monkeypatch.context() as m:
            m.setattr(fi, 'save_file', full(save)); m.setattr(Path, 'write_text', full(text))
            with pytest.raises(OSError, match='No space'): new.save_pretrained(tmp_path/'b')
        assert left[0]==-1 and listing(tmp_path/'b')==old, at
    new.save_pretrained(tmp_path/'b'); check(Bundle.from_pretrained(tmp_path/'b'), new)

def test_crash_between_the_renames(tmp_path, net, monkeypatch):
    "The only gap there is: it is noticed, and writing again mends it"
    Bundle(net, uniform(2)).save_pretrained(tmp_path/'b')
    torch.manual_seed(5); new = Bundle(MLP(2, 16), uniform(3)); move, n = os.replace, [0]
    def once(a, b):
        if Path(b).name in ('model.safetensors','plan.json','config.json'):
            n[0] += 1
            if n[0]==2: raise OSError(errno.EIO, 'Input/output error')
        move(a, b)
    with monkeypatch.context() as m:
        m.setattr(os, 'replace', once)
        with pytest.raises(OSError): new.save_pretrained(tmp_path/'b')
    assert sorted(listing(tmp_path/'b'))==['README.md','config.json','model.safetensors','plan.json']
    with pytest.raises(ValueError, match='from an interrupted write'): Bundle.from_pretrained(tmp_path/'b')
    new.save_pretrained(tmp_path/'b'); check(Bundle.from_pretrained(tmp_path/'b'), new)

def test_a_real_write_error(tmp_path, net):
    "Not simulated: the system refuses files above 4 kB"
    p = save_net(tmp_path/'n.safetensors', net); Bundle(net, uniform(2)).save_pretrained(tmp_path/'b'); old = listing(tmp_path)
    code = f'''if 1:
        import resource; from boss_nb.share.bundle import *; from boss_nb.files import *; from boss_nb.flow.nets import *
        net = MLP(2, 64); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        for f in (lambda: save_net({str(p)!r}, net), lambda: Bundle(net).save_pretrained({str(tmp_path/"b")!r})):
            try: f()
            except OSError as e: print(e)'''
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode==0, r.stderr
    assert r.stdout.count('cannot write')==2 and listing(tmp_path)==old

def test_readers_and_a_writer_that_is_killed(tmp_path):
    "Another process rewrites a file and a folder all the time; what is read is always one of the two versions, whole"
    code = f'''if 1:
        import torch; from boss_nb.share.bundle import *; from boss_nb.files import *; from boss_nb.flow.nets import *; from boss_nb.sample.schedule import uniform
        nets = []
        for i in (0,1): torch.manual_seed(i); nets.append(MLP(2, 256))
        k = 0
        while True:
            save_net({str(tmp_path/"n.safetensors")!r}, nets[k%2], which=k%2); Bundle(nets[k%2], uniform(2+k%2)).save_pretrained({str(tmp_path/"b")!r}); k += 1
            if k==2: print('go', flush=True)'''
    w = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert w.stdout.readline()=='go\n'
        prints = []
        for i in (0,1): torch.manual_seed(i); prints.append(fingerprint(MLP(2, 256)))
        seen, whole, mixed, end = set(), 0, 0, time.time()+4
        while time.time() < end:
            n = load_net(tmp_path/'n.safetensors'); assert fingerprint(n)==prints[n.meta['which']]; seen.add(n.meta['which'])
            try: b = Bundle.from_pretrained(tmp_path/'b')
            except (ValueError, OSError) as e: mixed += 1; assert re.search('from an interrupted write|being rewritten', str(e)), e; continue   # paused between two renames for as long as a read takes
            whole += 1; assert fingerprint(b.net)==prints[b.schedules[0].nfe-2]
    finally: w.send_signal(signal.SIGKILL); w.wait(); w.stdout.close()
    assert seen=={0,1} and whole > mixed
    n = load_net(tmp_path/'n.safetensors'); assert fingerprint(n)==prints[n.meta['which']]

# ---- architectures that live elsewhere

def test_architecture_from_a_module_nobody_imported(tmp_path, monkeypatch):
    (tmp_path/'late_net.py').write_text('import torch\nclass LateNet(torch.nn.Module):\n    def __init__(self, n): super().__init__(); self.config = dict(n=n); self.lin = torch.nn.Linear(n, n)\n    def forward(self, x, t): return self.lin(x)\n')
    monkeypatch.syspath_prepend(str(tmp_path)); monkeypatch.setitem(architectures, 'LateNet', 'late_net')
    assert 'late_net' not in sys.modules
    net = build_net('LateNet', dict(n=2)).requires_grad_(False)
    p, q = save_net(tmp_path/'n.safetensors', net), save_student(tmp_path/'s.safetensors', straighten(net, uniform(2), noise(20,(2,)), n_iter=2, teacher_steps=4, progress=False))
    Bundle(net, uniform(2)).save_pretrained(tmp_path/'b')
    for load in (lambda: load_net(p), lambda: load_student(q).model, lambda: Bundle.from_pretrained(tmp_path/'b').net):
        del sys.modules['late_net']
        assert type(load()).__name__=='LateNet' and 'late_net' in sys.modules
    assert same(load_net(p).state_dict(), net.state_dict())
    del sys.modules['late_net']; (tmp_path/'late_net.py').unlink(); importlib.invalidate_caches()
    for load in (load_net, load_student):
        with pytest.raises(ValueError, match="does not build a LateNet: No module named 'late_net'"): load(p if load is load_net else q)
    monkeypatch.delitem(architectures, 'LateNet')
    with pytest.raises(ValueError, match="was not made by save_net: architecture 'LateNet'"): load_net(p)

def test_ncsnpp_through_the_lazy_table(tmp_path):
    "Saved here, loaded by a process that never imported its module"
    rf = pytest.importorskip('boss_nb.flow.ncsnpp')
    data = Path(__file__).parent/'data'; name = 'cifar_like'
    net = rf.load_rectified_flow(data/f'ncsnpp_{name}.pth', json.loads((data/'ncsnpp_configs.json').read_text())['small'][name], label='training')
    p = save_net(tmp_path/'n.safetensors', net); Bundle(net, uniform(2), shape=list(net.shape)).save_pretrained(tmp_path/'b')
    code = f"from boss_nb.files import state_digest; from boss_nb.flow.nets import *; import sys; assert 'boss_nb.flow.ncsnpp' not in sys.modules; n = load_net({str(p)!r}); print(type(n).__name__, state_digest(n.state_dict())); from boss_nb.share.bundle import Bundle; print(tuple(Bundle.from_pretrained({str(tmp_path/'b')!r}).sample(2).shape))"
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert r.stdout.splitlines()==[f'NCSNpp {state_digest(net.state_dict())}', str((2, *net.shape))], r.stderr

def test_models_import_is_light():
    code = "import sys, boss_nb.flow.nets; print([m for m in ('huggingface_hub','peft','transformers','diffusers','fastai','boss_nb.flow.ncsnpp','boss_nb.share.bundle') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True).stdout.strip()=='[]'

# ---- edges

def test_tied_weights(tmp_path):
    class Tied(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b = nn.Linear(2,2), nn.Linear(2,2); self.b.weight = self.a.weight; self.register_buffer('mask', torch.tensor([0.,-math.inf]))
        def forward(self, x, t): return self.b(torch.tanh(self.a(x)))+(x[:,None]+self.mask[:,None]).softmax(1).sum(1)-1
    net = Tied().requires_grad_(False); st = straighten(net, uniform(2), noise(40,(2,)), n_iter=3, teacher_steps=8, progress=False)
    r = load_student(save_student(tmp_path/'s.safetensors', st, net), net)
    assert same(r.model.state_dict(), st.model.state_dict()) and r.model.a.weight is r.model.b.weight and r.model.mask[1]==-math.inf
    assert torch.equal(r.model.a.weight, st.model.a.weight) and not torch.equal(r.model.a.weight, net.a.weight)

def test_infinity_in_buffers_only(tmp_path, monkeypatch):
    class Masked(MLP):
        def __init__(self, dim, **kw): super().__init__(dim, **kw); self.register_buffer('mask', torch.tensor([0.,-math.inf]))
    monkeypatch.setitem(architectures, 'Masked', Masked); net = Masked(2, hidden=4).requires_grad_(False)
    assert load_net(save_net(tmp_path/'n.safetensors', net)).mask.tolist()==[0,-math.inf]
    net.mask[0] = math.nan
    with pytest.raises(FloatingPointError, match='mask holds NaN'): save_net(tmp_path/'x', net)
    net.mask[0] = 0; net.body[0].bias[0] = math.inf
    with pytest.raises(FloatingPointError, match='body.0.bias holds infinity'): save_net(tmp_path/'x', net)
    with pytest.raises(FloatingPointError): Bundle(net).save_pretrained(tmp_path/'none')
    assert not (tmp_path/'x').exists() and not (tmp_path/'none').exists()

def test_bundle_counts_like_its_student():
    torch.manual_seed(0)
    v = guided(UNet(width=8, mults=(1,), blocks=1, classes=3).eval().requires_grad_(False), 2., 3); y = torch.tensor([0,1])
    st = straighten(v, uniform(2), noise(2,(1,4,4)), n_iter=1, teacher_steps=4, valid=1, progress=False, cond=dict(y=y))
    for o in (st, Bundle(st)): c = CountNFE(o); sample(c, noise(2,(1,4,4)), 2, cond=dict(y=y)); assert c.nfe==4 and nfe_per_call(o)==2

def test_shape_from_the_network(tmp_path):
    rf = pytest.importorskip('boss_nb.flow.ncsnpp'); data = Path(__file__).parent/'data'
    net = rf.load_rectified_flow(data/'ncsnpp_256_like.pth', json.loads((data/'ncsnpp_configs.json').read_text())['small']['256_like'])
    b = Bundle(net); x = b.sample(2, nfe=2); assert tuple(x.shape)==(2,3,32,32) and 'bundle.sample(16, nfe=10)' in b.card()
    b.save_pretrained(tmp_path/'b'); r = Bundle.from_pretrained(tmp_path/'b')
    assert r.meta['shape']==[3,32,32] and torch.allclose(r.sample(2, nfe=2), x, atol=1e-4) and script.load_model(str(tmp_path/'b'))[1]==(3,32,32)
    st = straighten(net, uniform(2), noise(2,net.shape), lora=1, n_iter=1, teacher_steps=2, valid=1, progress=False)
    assert Bundle(st).sample(1).shape==(1,3,32,32)

def test_card_of_a_foreign_student(tmp_path):
    class Mine(nn.Module):
        def __init__(self): super().__init__(); self.lin = nn.Linear(2,2)
        def forward(self, x, t): return self.lin(x)
    net = Mine().requires_grad_(False); st = straighten(net, uniform(2), noise(40,(2,)), n_iter=2, teacher_steps=4, progress=False)
    Bundle(st).save_pretrained(tmp_path/'b')
    code = re.search(r'```python\n(.*?)```', (tmp_path/'b'/'README.md').read_text(), re.S)[1]
    assert ", base=net)" in code
    exec(code.replace("'FOLDER_OR_REPO'", repr(str(tmp_path/'b'))), dict(net=net, noise=noise(4,(2,))))

def test_what_a_bundle_refuses(tmp_path, net, students):
    v = adapt(net); lora = straighten(v, uniform(2), noise(40,(2,)), lora=2, n_iter=2, teacher_steps=4, progress=False); d = tmp_path/'b'
    for f,msg in ((lambda: Bundle(v), r'the network inside does, v\.f(\.f)* \(MLP\); bundle that, or a student of it'), (lambda: Bundle(nn.Linear(2,2)), 'Linear is not one of MLP'), (lambda: Bundle(lora, base=v), 'leave base out and give it to from_pretrained'),
                  (lambda: Bundle(net, [1,2]), 'schedules must be'), (lambda: Bundle(net, 'plan.json'), 'schedules must be'), (lambda: Bundle(net, 3), 'schedules must be'),
                  (lambda: Bundle(net, when=object()).save_pretrained(d), 'facts must be JSON-able')):
        with pytest.raises(ValueError, match=msg): f()
    b = Bundle(net); b.meta['x'] = {1,2}
    with pytest.raises(ValueError, match='JSON-able'): b.save_pretrained(d)
    assert not d.exists()
    Bundle(lora).save_pretrained(d); r = Bundle.from_pretrained(d, base=v)
    assert r.base is None and torch.allclose(r.sample(noise(4,(2,))), sample(lora, noise(4,(2,)), 2), atol=1e-6)
    with pytest.raises(ValueError, match='or the same in another dtype'): Bundle.from_pretrained(d, base=adapt(MLP(2,16).double().eval()))
    with pytest.raises(TypeError, match="'devise'"): Bundle.from_pretrained(d, base=v, devise='cpu')
    assert Bundle.from_pretrained(d, base=v, revision='main').schedules==r.schedules

def test_plans_in_and_for_folders(tmp_path, net, students, recwarn):
    b = Bundle(net, uniform(2)); b.save_pretrained(d := tmp_path/'b'); Bundle(net).save_pretrained(tmp_path/'bare')
    for o in (net, b, students['lora'], Bundle(students['lora']), Bundle(None, uniform(3)), None): assert load_plan(d, o)==load_plan(d/'plan.json', o)==[uniform(2)]
    assert not recwarn.list
    with pytest.warns(UserWarning, match='planned for another network'): load_plan(d, Bundle(students['full']))
    with pytest.raises(ValueError, match='net must be'): load_plan(d, 'digits')
    with pytest.raises(ValueError, match='holds a flow and no schedules'): load_plan(tmp_path/'bare')
    save_plan(d/'plan.json', [uniform(3)])
    with pytest.raises(ValueError, match='plan.json is not the file'): load_plan(d)
    with pytest.raises(ValueError, match='holds no config.json'): load_plan(tmp_path)

# ---- files of 0.1, and the edges that the notebooks of the room do not show

def test_files_of_0_1(recwarn):
    "Written by 0.1.0, read with the results it had"
    from safetensors.torch import load_file
    d = Path(__file__).parent/'data'/'v0.1'
    want, net = load_file(d/'expected.safetensors'), load_net(d/'net.safetensors')
    assert fingerprint(net)==(d/'fingerprint.txt').read_text().strip()
    plans, one = load_plan(d/'plan.json', net), load_plan(d/'schedule.json', net)
    assert [s.nfe for s in plans]==[2,3,3] and one==[plans[1]] and one[0].solver=='multistep'
    assert not [w for w in recwarn.list if 'another network' in str(w.message)]
    full, lora, bundle = load_student(d/'full.safetensors'), load_student(d/'lora.safetensors', net), Bundle.from_pretrained(d/'bundle')
    for got,key in ((sample(full, want['noise'], full.schedule), 'full'), (sample(lora, want['noise'], lora.schedule), 'lora'), (bundle.sample(want['noise']), 'lora'),
                    (sample(net, want['noise'], one[0]), 'multistep')): torch.testing.assert_close(got, want[key], rtol=0, atol=1e-7)
    assert bundle.meta['note']=='0.1' and bundle.shape==(2,) and load_plan(d/'bundle')==bundle.schedules==lora.schedules

@pytest.mark.parametrize('text,msg', [('{', 'is not JSON'), ('[1]', 'is not a boss_nb plan'), ('{"kind":"boss_nb.plan"}', 'broken schedule'), ('{"kind":"boss_nb.plan", "schedules":[]}', 'broken schedule'), ('['*100_000, 'is not JSON')])
def test_what_is_wrong_with_a_plan(tmp_path, text, msg):
    (p := tmp_path/'x.json').write_text(text)
    with pytest.raises(ValueError, match=msg): load_plan(p)

def test_weights_of_a_schedule_travel(tmp_path, net):
    from boss_nb.sample.solvers import ab2_coefs
    s, z = Schedule(uniform(5).knots, solver='multistep', coefs=ab2_coefs(5)), noise(2, (2,))
    p = save_plan(tmp_path/'p.json', [s], fingerprint=fingerprint(net))
    assert torch.equal(sample(net, z, load_plan(p, net)[0]), sample(net, z, s)) and not torch.equal(sample(net, z, s), sample(net, z, 5))
    with pytest.raises(ValueError, match='at least one Schedule'): save_plan(p, [])

def test_what_a_student_refuses(tmp_path, net, students):
    p = save_student(tmp_path/'l.safetensors', students['lora'])
    with pytest.raises(ValueError, match='or the same in another dtype'): load_student(p, copy.deepcopy(net).double())
    with pytest.raises(ValueError, match='is not a boss_nb student'): load_student(mo.weights_path('digits_unet'))
    (q := tmp_path/'q.safetensors').write_bytes(p.read_bytes()[:-100])
    with pytest.raises(ValueError, match='not a readable safetensors file'): load_student(q, net)
    state, m = load_state(p); state.pop(next(iter(state))); save_state(q, state, **m)
    with pytest.raises(ValueError, match='missing keys'): load_student(q, net)

def test_a_foreign_module_has_weights_of_its_own(tmp_path):
    class Mine(nn.Module):
        def __init__(self): super().__init__(); self.lin = nn.Linear(2,2)
        def forward(self, x, t): return self.lin(x)
    mine, z = Mine(), noise(64, (2,)); st = straighten(mine, uniform(2), z, n_iter=3, teacher_steps=8, progress=False)
    p = save_student(tmp_path/'m.safetensors', st, mine); back = load_student(p, mine)
    assert torch.allclose(sample(back, z, back.schedule), sample(st, z, 2), atol=1e-6) and back.model.lin.weight.data_ptr()!=mine.lin.weight.data_ptr()
    with pytest.raises(ValueError, match='give base'): load_student(p)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_a_base_in_another_precision_stays_in_it(tmp_path, net, dtype):
    low, z = copy.deepcopy(net).to(dtype), noise(8, (2,), 'test').to(dtype)
    tuned = straighten(low, uniform(2), noise(10, (2,)).to(dtype), teacher_steps=8, lora=2, n_iter=2, bs=16, progress=False)
    Bundle(tuned, base=low, shape=(2,)).save_pretrained(tmp_path/'b'); r = Bundle.from_pretrained(tmp_path/'b')
    assert {p.dtype for k,p in r.net.model.named_parameters() if 'lora_' not in k}=={dtype}
    assert torch.allclose(r.sample(8).float(), sample(tuned, z, 2).float(), atol=1e-4) or dtype==torch.float64
    assert torch.allclose(r.sample(z).float(), sample(tuned, z, 2).float(), atol=1e-4)
    if dtype!=torch.float64: return
    full = straighten(low, uniform(2), noise(10, (2,)).double(), teacher_steps=8, n_iter=2, bs=16, progress=False)
    back = load_student(save_student(tmp_path/'f.safetensors', full))
    assert torch.allclose(sample(back, z, 2), sample(full, z, 2), atol=1e-12, rtol=0)

def test_a_bundle_is_a_velocity_with_facts(tmp_path):
    v = digits_teacher(); plans = [uniform(k) for k in (2,4,8)]
    Bundle(v, plans, dataset='digits').save_pretrained(tmp_path/'b'); r = Bundle.from_pretrained(tmp_path/'b')
    assert r.meta=={**{k:o for k,o in v.meta.items() if k not in ('arch','config','version')}, 'dataset':'digits'}
    z = noise(5, (1,8,8), 'calibrate')
    assert calibrate(r, z, 10, progress=False).schedule(3).indices==calibrate(v, z, 10, progress=False).schedule(3).indices
    with pytest.raises(ValueError, match=r'budgets \[2, 4, 8\]'): r.sample(8, nfe=3)
    assert torch.allclose(r.sample(noise(8, (1,8,8), 'test'), 2), sample(v, noise(8, (1,8,8), 'test'), 2), atol=1e-4)

def test_our_card_follows_its_folder(tmp_path, net, students):
    d = tmp_path/'c'; Bundle(net, uniform(2), license='mit').save_pretrained(d); Bundle(students['full'], license='cc-by-4.0').save_pretrained(d)
    assert 'cc-by-4.0' in (d/'README.md').read_text() and 'Straightened' in (d/'README.md').read_text()
    (d/'README.md').write_text('mine'); Bundle(net).save_pretrained(d); assert (d/'README.md').read_text()=='mine'

def test_what_is_no_bundle(tmp_path, net, students):
    torch.manual_seed(1); other, d = MLP(2, 16).eval().requires_grad_(False), tmp_path/'flow'; lora = students['lora']
    Bundle(lora).save_pretrained(tmp_path/'lora'); Bundle(net, [uniform(2)], data='toy').save_pretrained(d)
    for f,msg in ((lambda: Bundle.from_pretrained(tmp_path/'lora'), 'give the base'), (lambda: Bundle.from_pretrained(tmp_path/'lora', base=other), 'another base network'),
                  (lambda: Bundle(lora, base=other).save_pretrained(tmp_path/'no'), 'base is not the network'), (lambda: Bundle(), 'give net, schedules or both'),
                  (lambda: Bundle(net, base=net), 'base belongs to a student'), (lambda: Bundle(uniform(2)), 'net must be'), (lambda: Bundle.from_pretrained(tmp_path), 'holds no config.json'),
                  (lambda: Bundle.from_pretrained(d/'plan.json'), 'is a file'), (lambda: Bundle(None, uniform(2)).sample(3), 'holds plans and no network'), (lambda: Bundle(net, net=1), 'multiple values')):
        with pytest.raises((ValueError, TypeError), match=msg): f()
    with pytest.raises(FileNotFoundError, match='no such folder'): Bundle.from_pretrained(tmp_path/'nowhere')
    assert not (tmp_path/'no').exists()

@pytest.mark.parametrize('change,msg', [
    (lambda q: save_plan(q/'plan.json', [uniform(3)]), 'plan.json is not the file'), (lambda q: save_net(q/'model.safetensors', MLP(2, 16)), 'model.safetensors is not the file'),
    (lambda q: (q/'model.safetensors').unlink(), 'no such file'), (lambda q: (q/'config.json').write_text((q/'config.json').read_text().replace('"toy"', '"faces"')), 'config.json was changed'),
    (lambda q: (q/'config.json').write_text('{"model_type": "bert"}'), 'is not a boss_nb bundle'), (lambda q: (q/'config.json').write_text('{'), 'is not JSON')])
def test_a_spoilt_folder(tmp_path, net, change, msg):
    Bundle(net, [uniform(2)], data='toy').save_pretrained(tmp_path/'q'); change(tmp_path/'q')
    with pytest.raises((ValueError, FileNotFoundError), match=msg): Bundle.from_pretrained(tmp_path/'q')
