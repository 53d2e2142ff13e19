"Stored states: killed, full, spoilt and contested folders"
import errno, io, json, math, multiprocessing, os, pickle, signal, time
from pathlib import Path
import pytest, torch
from torch import nn
from boss_nb.sample.schedule import Schedule
from boss_nb.core import CountNFE, noise, seeded
from boss_nb.files import fingerprint, save_state
from boss_nb.flow.velocity import adapt
from boss_nb.flow.nets import MLP
from boss_nb.sample.schedule import uniform
from boss_nb.train.states import States, store_states, teacher_states
from boss_nb.train.lora import add_lora
from boss_nb.train.straighten import Straightened
resource = pytest.importorskip('resource')   # not on Windows

# the processes below are forked from one that has imported all this: a teacher of three coordinates that takes its time, 40 trajectories in batches of 4
mp = multiprocessing.get_context('forkserver'); mp.set_forkserver_preload(['pytest','boss_nb.train.states','boss_nb.train.straighten','boss_nb.share.bundle','boss_nb.plan.choose'])
ROW = 7*3*4
class Slow(nn.Module):
    def __init__(self, f, pause): super().__init__(); self.f, self.pause = f, pause
    def forward(self, x, t): time.sleep(self.pause); return self.f(x, t)
def teach(pause=0.):
    with seeded(0): return Slow(MLP(3, 16).eval().requires_grad_(False), pause)
def go(path, v=None): return store_states(path, v or teach(), noise(40,(3,)), [uniform(2), uniform(5)], 10, batch_size=4)

def work(path, pause, env, limit, out):
    "In a process of its own: store, and report in a file"
    torch.set_num_threads(1); os.environ.update(env)
    if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try: r = repr(go(path, teach(pause))[:].double().sum().item())
    except OSError as e: r = f'{type(e).__name__} {e.errno}: {e}'
    out.write_text(r)
def start(path, pause=0., env={}, limit=0, out='out'):
    p = mp.Process(target=work, args=(path, pause, env, limit, path.parent/out)); p.start(); return p
def done(p, path, out='out'): p.join(60); assert p.exitcode==0; return (path.parent/out).read_text()
def kill(p): os.kill(p.pid, signal.SIGKILL); p.join()

def listing(d): return {f.name: f.read_bytes() for f in sorted(Path(d).iterdir())}
def rows(d):
    try: return json.loads((d/'manifest.json').read_text())['rows']
    except FileNotFoundError: return 0
def until(d, least, p):
    end = time.time()+60
    while rows(d) < least and time.time() < end and p.is_alive(): time.sleep(.003)
    assert p.is_alive() and rows(d) >= least

@pytest.fixture(scope='module')
def whole(tmp_path_factory): d = tmp_path_factory.mktemp('whole')/'s'; go(d); return d

def test_kill(tmp_path, whole):
    "Killed twice in the middle, then left as if after half a row; in the end the same bytes, and nothing else in the folder"
    d = tmp_path/'s'
    for least in (4, 16):
        p = start(d, .01)
        try: until(d, least, p)
        finally: kill(p)
        assert least <= rows(d) < 40
        with pytest.raises(ValueError, match=f'{rows(d)} of 40 trajectories; call store_states again'): States.open(d)
    with open(d/'states.bin', 'ab') as f: f.write(b'half a row')
    (d/'.manifest.json.abc.tmp').write_text('killed while writing it')
    c, had = CountNFE(teach()), rows(d); s = go(d, c)
    assert c.samples==(40-had)*10 and listing(d)==listing(whole) and torch.equal(s[:], States.open(whole)[:])

@pytest.mark.parametrize('limit', [1500, 2000, 3000])
def test_full_disk(tmp_path, whole, limit):
    "A limit on the size of files, which no look at the free space foresees: whole batches are safe, as many as fit, and the call goes on later"
    d = tmp_path/'s'; said = done(start(d, limit=limit), d); n = rows(d)
    assert said.startswith(f'OSError {errno.EFBIG}:') and f'{n} of 40 trajectories are safe: make room' in said
    assert n==limit//(4*ROW)*4 and (d/'states.bin').stat().st_size==n*ROW
    with pytest.raises(ValueError, match=f'{n} of 40 trajectories; call store_states again'): States.open(d)
    go(d); assert listing(d)==listing(whole)

def test_two_processes(tmp_path, whole):
    "As torchrun would start them: one writes, both read the same"
    d = tmp_path/'s'; ps = [start(d, .003, dict(RANK=str(i), WORLD_SIZE='2'), out=f'out{i}') for i in (1,0)]
    said = [done(p, d, f'out{i}') for p,i in zip(ps, (1,0))]
    assert said[0]==said[1]==repr(States.open(whole)[:].double().sum().item()) and listing(d)==listing(whole)

def test_a_second_writer(tmp_path, whole):
    "Two processes that do not know of each other: the second is told, and the lock of one that is killed is gone"
    d = tmp_path/'s'; p = start(d, .05)
    try:
        until(d, 4, p)
        with pytest.raises(BlockingIOError, match='is being written by another process'): go(d)
        assert p.is_alive()
    finally: kill(p)
    go(d); assert listing(d)==listing(whole)

class Bomb:
    def __init__(self, canary): self.canary = str(canary)
    def __reduce__(self): return os.system, (f'touch {self.canary}',)

def test_spoilt(tmp_path, whole):
    "Refused with the name of the file, by readers and by writers that would go on; nothing runs"
    m, b, c = json.loads((whole/'manifest.json').read_text()), (whole/'states.bin').read_bytes(), tmp_path/'canary'
    d = tmp_path/'s'; d.mkdir()
    def check(name, match):
        with pytest.raises(ValueError, match=match) as e: States.open(d)
        assert str(d/name) in str(e.value) and ('delete' in str(e.value) or 'not the manifest' in str(e.value)), e.value
    def put(o, data=b): (d/'manifest.json').write_bytes(o if isinstance(o, bytes) else json.dumps(o).encode()); (d/'states.bin').write_bytes(data)
    for o,match in (({**m,'n':0}, 'n must be'), ({**m,'times':3}, 'list of numbers'), ({**m,'shape':[4]}, 'holds 3360 bytes, but manifest.json says 4480'),
                    ({**m,'dtype':['O']}, 'dtype must be'), ({**m,'dtype':'bfloat16'}, 'holds 3360 bytes, but manifest.json says 1680'), ({**m,'kind':'x'}, 'is not the manifest of'), ({**m,'cond':0}, 'cond must be'),
                    ({**m,'n':39}, 'rows must be'), ({**m,'n':39,'rows':39}, 'holds 3360 bytes'), ({**m,'n':2**70,'rows':2**70}, 'holds 3360 bytes'), ({**m,'n':True}, 'n must be'), ({**m,'n':40.}, 'n must be'), ({**m,'rows':-1}, 'rows must be'), ({**m,'rows':None}, 'rows must be'),
                    ({**m,'times':m['times'][::-1]}, 'must increase'), ({**m,'times':[0]*7}, 'must increase'), ({**m,'times':[math.nan]*7}, 'must increase'), ({**m,'times':[]}, 'must increase'), ({**m,'times':['0']}, 'list of numbers'), ({**m,'times':[-1,*m['times'][1:]]}, 'must increase'),
                    ({**m,'shape':'3'}, 'shape must be'), ({**m,'shape':[-3]}, 'shape must be'), ({**m,'dtype':'O'}, 'dtype must be'), ({**m,'dtype':{}}, 'dtype must be'), ({**m,'cond':[]}, 'cond must be'), ({**m,'kind':None}, 'not the manifest'), ([], 'not the manifest'), (b'NaN', 'not the manifest'),
                    (b'', 'is not JSON'), (json.dumps(m).encode()[:99], 'is not JSON'), (b'[' *10**5, 'is not JSON'), (pickle.dumps(Bomb(c)), 'is not JSON'), (b'\xff\xfe', 'is not JSON')):
        put(o); check('manifest.json' if 'holds' not in match else 'states.bin', match)
    for data in (b'', b[:-1], b+b'0', b[:len(b)//2]): put(m, data); check('states.bin', 'holds')
    put({**m,'rows':36}, b[:100])
    with pytest.raises(ValueError, match='truncated'): go(d)
    (d/'states.bin').unlink(); (d/'manifest.json').write_text(json.dumps(m)); check('states.bin', 'is missing')
    assert not c.exists()

@pytest.mark.parametrize('name', ['manifest.json','cond.safetensors'])
def test_nothing_is_unpickled(tmp_path, name):
    "The same bomb in every container that some loader unpickles, met by a reader and by a writer that would go on"
    v, z, y, canary = (lambda x,t,y: -x), noise(4,(2,)), torch.arange(4), tmp_path/'canary'
    def buf(f): b = io.BytesIO(); f(b); return b.getvalue()
    store_states(tmp_path/'s', v, z, [0,2], 2, cond=dict(y=y))
    for raw in (pickle.dumps(Bomb(canary)), pickle.dumps(Bomb(canary), 0), buf(lambda o: torch.save(Bomb(canary), o)), buf(lambda o: torch.save(Bomb(canary), o, _use_new_zipfile_serialization=False))):
        (tmp_path/'s'/name).write_bytes(raw)
        for f in (lambda: States.open(tmp_path/'s'), lambda: store_states(tmp_path/'s', v, z, [0,2], 2, cond=dict(y=y))):
            with pytest.raises(ValueError, match=name): f()
        assert not canary.exists()
    torch.load(io.BytesIO(raw), weights_only=False); assert canary.exists()   # the bomb was live

def test_reading_does_not_load(tmp_path, whole):
    "A folder larger than memory: what is picked is read, the rest is not"
    status = Path('/proc/self/status')
    if not status.exists(): pytest.skip('needs /proc')
    rss = lambda: int(next(l for l in status.read_text().splitlines() if l.startswith('VmRSS')).split()[1])*1024
    d = tmp_path/'s'; d.mkdir(); m = json.loads((whole/'manifest.json').read_text()) | dict(n=500_000, rows=500_000, shape=[3,64,64])
    (d/'manifest.json').write_text(json.dumps(m)); open(d/'states.bin', 'wb').close(); os.truncate(d/'states.bin', 500_000*7*3*64*64*4)
    before = rss(); s = States.open(d); x = s.pick(torch.arange(0, 500_000, 5000), 3)
    assert s.nbytes > 1e11 and x.shape==(100,3,64,64) and rss()-before < 60e6

def test_bfloat16(tmp_path):
    "What comes back is the nearest bfloat16, also when it was negative, tiny or huge; conditions keep their dtype"
    z = torch.tensor([1.,-1.,1e-39,3e38,-0.,.1])[:,None]*torch.ones(6,2); y = torch.arange(6, dtype=torch.int16)
    s = store_states(tmp_path/'s', lambda x,t,y: 0*x, z, [0,2], 2, dtype='bfloat16', batch_size=4, cond=dict(y=y))
    assert torch.equal(s[:,], z.bfloat16().float()[:,None].expand(6,2,2)) and s.dtype==torch.bfloat16 and s.cond['y'].dtype==torch.int16 and torch.equal(s.cond['y'], y)
    assert (tmp_path/'s'/'states.bin').stat().st_size==6*2*2*2 and s.pick(0, 1).shape==(2,)

def test_half_precision_teacher(tmp_path):
    "A network in half precision walks in float32, and is stored as it walked"
    with seeded(0): net = MLP(2, 16).requires_grad_(False)
    half, z = MLP(2, 16).requires_grad_(False), noise(6, (2,))
    half.load_state_dict(net.state_dict()); half.bfloat16()
    s = store_states(tmp_path/'s', half, z.bfloat16(), [0,50,100], 100)
    want = teacher_states(net, z.bfloat16().float(), [0,50,100], 100)
    assert (s[:]-want).abs().max() < .02 and not torch.equal(s[:], s[:].bfloat16().float())

def test_who_is_the_teacher(tmp_path):
    "A base and the same with an adapter are two teachers, counted or not, and in whatever they come"
    with seeded(0): net = MLP(2, 16).eval().requires_grad_(False)
    lora, z = add_lora(net, 2), noise(6, (2,))
    store_states(tmp_path/'s', CountNFE(net), z, [0,4], 4)
    assert len(store_states(tmp_path/'s', net, z, [0,4], 4))==6
    for v in (lora, CountNFE(lora), Straightened(lora, uniform(1), [], 0., 0.)):
        with pytest.raises(ValueError, match='fingerprint is'): store_states(tmp_path/'s', v, z, [0,4], 4)
    s = store_states(tmp_path/'l', lora, z, [0,4], 4)
    for n,p in lora.named_parameters():
        if 'lora_B' in n: p.data.fill_(.1)
    with pytest.raises(ValueError, match='fingerprint is'): store_states(tmp_path/'l', lora, z, [0,4], 4)
    assert s.manifest['fingerprint'] != fingerprint(net)

def test_multistep_teacher(tmp_path):
    "A schedule that brings its own rule: the weights are among the facts"
    t = [Schedule([0,.5,1.], solver='multistep', coefs=[[1.],[1+c,-c]]) for c in (.5,.2)]; z = noise(4,(2,)); f = lambda x,t: -x*t[:,None]
    s = store_states(tmp_path/'s', f, z, [0,1,2], t[0], 'multistep')
    assert torch.equal(s[:], teacher_states(f, z, [0,1,2], t[0], 'multistep'))
    with pytest.raises(ValueError, match='coefs is'): store_states(tmp_path/'s', f, z, [0,1,2], t[1], 'multistep')

@pytest.mark.parametrize('shape', [(), (2,), (1,2,3)])
def test_shapes(tmp_path, shape):
    z = noise(5, shape); s = store_states(tmp_path/'s', lambda x,t: -x, z, [0,1,3], 3, batch_size=2)
    want = teacher_states(lambda x,t: -x, z, [0,1,3], 3)
    assert torch.equal(s[:], want) and torch.equal(States.of(want, s.times).pick([4,0], 1), s.pick([4,0], 1)) and torch.equal(s[[True,False,True,False,False]], want[[0,2]])

def test_spoilt_conditions_and_places(tmp_path):
    "Conditions that were changed, cut or swapped; folders that are none"
    z, y, f = noise(8, (3,)), torch.arange(8)%7, lambda x,t,y: y[:,None]-x
    d, cond = tmp_path/'y', dict(y=y)
    store_states(d, f, z, [0,4], 4, cond=cond)
    c = d/'cond.safetensors'
    whole = c.read_bytes()
    for change,match in ((whole[:-1]+b'9', 'cond.safetensors was changed after it was written'), (b'0', 'cond.safetensors is not a readable safetensors file')):
        c.write_bytes(change)
        with pytest.raises(ValueError, match=match): States.open(d)
    save_state(c, {'y':y+1})
    with pytest.raises(ValueError, match='does not hold the conditions'): States.open(d)
    (d/'manifest.json').unlink()
    with pytest.raises(ValueError, match='holds no manifest.json'): States.open(d)
    with pytest.raises(ValueError, match='nobody knows what it holds'): store_states(d, f, z, [0,4], 4, cond=cond)
    with pytest.raises(FileNotFoundError, match='no such folder'): States.open(tmp_path/'none')
    with pytest.raises(NotADirectoryError, match='a file in its way'): store_states(d/'states.bin', f, z, [0,4], 4, cond=cond)

@pytest.mark.parametrize('change,match', [(dict(v='other'), 'fingerprint is'), (dict(v='noise'), 'fingerprint is'), (dict(solver='heun'), 'solver is "euler" there, "heun" asked for'),
    (dict(dtype='bfloat16'), 'dtype is "float32" there, "bfloat16" asked for'), (dict(keep=uniform(2)), r'times is \[0.0, 0.2, 0.4'), (dict(noise='fewer'), 'n is 50 there, 40 asked for'),
    (dict(noise='other'), 'noise is'), (dict(t=40), 'grid is'), (dict(cond=dict(y=torch.arange(50))), 'cond is {} there')])
def test_other_arguments_are_refused(tmp_path, change, match):
    with seeded(0): net, other = MLP(3, 16).eval(), MLP(3, 16).eval()
    z = noise(50, (3,))
    kw = dict(v=net, noise=z, keep=[uniform(2), uniform(5)], t=20)
    store_states(tmp_path/'s', **kw)
    named = dict(other=other, noise=adapt(net, 'noise')), dict(fewer=z[:40], other=-z)
    change = {k: dict(v=named[0], noise=named[1])[k][o] if isinstance(o, str) and k in ('v','noise') else o for k,o in change.items()}
    with pytest.raises(ValueError, match=match) as e: store_states(tmp_path/'s', **kw | change)
    if change.get('v') is other: assert f'{fingerprint(net)[:12]} there, {fingerprint(other)[:12]} asked for' in str(e.value)

@pytest.mark.parametrize('keep', [[], [3,2], [0,101], [-1,5], [.5]])
def test_kept_indices_increase_on_the_grid(keep):
    with pytest.raises(ValueError, match='keep must hold'): teacher_states(lambda x,t: -x, noise(2,(2,)), keep, 100)

def test_states_in_memory_are_checked():
    x, t = torch.randn(12, 6, 1, 8, 8), [0,.2,.4,.6,.8,1]
    for f,match in ((lambda: States.of(x[:,:2], [1,0]), 'must increase'), (lambda: States.of(x[:,:2], [0,2]), r'within \[0,1\]'),
                    (lambda: States.of(x, t, dict(y=torch.arange(3))), 'y must be a tensor of length 12'), (lambda: States.of([1], [0.]), 'floating-point tensor')):
        with pytest.raises(ValueError, match=match): f()
    s = States.of(x, t)
    with pytest.raises(ValueError, match='one of the 6 kept times'): s.index(.01234)
    with pytest.raises(IndexError): s.pick([0], 6)

def test_a_folder_of_0_1_is_complete(tmp_path):
    "Its manifest holds the facts that this version computes, so that nothing is evaluated again"
    import shutil
    from boss_nb.flow.nets import load_net
    old = Path(__file__).with_name('data')/'v0.1'
    shutil.copytree(old/'states', tmp_path/'s')
    s, c = States.open(tmp_path/'s'), CountNFE(load_net(old/'net.safetensors', 'cpu'))
    again = store_states(tmp_path/'s', c, s[:][:,0], [0,4,8], 8)
    assert s.manifest['version']=='0.1.0' and c.nfe==0 and torch.equal(again[:], s[:])
