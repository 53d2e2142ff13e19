"Public Rectified Flow checkpoints, against facts of their layout and velocities that the reference computed"
import json, subprocess, sys, textwrap
from pathlib import Path
import numpy as np, pytest, torch
from boss_nb.core import noise
from boss_nb.flow.ncsnpp import load_rectified_flow, NCSNpp, rf_config, rf_configs
from boss_nb.plan.costs import calibrate
from boss_nb.sample.solvers import sample

data = Path(__file__).parent/'data'
facts = json.loads((data/'ncsnpp_configs.json').read_text())
golden = np.load(data/'ncsnpp_golden.npz')
small = sorted(facts['small'])

def checkpoint(name): return torch.load(data/f'ncsnpp_{name}.pth', weights_only=True)
def per_sample(a, b): return ((a-b).flatten(1).norm(dim=1)/b.flatten(1).norm(dim=1)).max().item()
def inputs(name): return (torch.from_numpy(golden[f'{name}__{k}']) for k in 'xt')

@pytest.mark.parametrize('name', small)
@pytest.mark.parametrize('ema,label,key', [(True,'sampler','v_ema_wrap_model'), (True,'training','v_ema_model_fn_t999'), (False,'training','v_raw_weights_model_fn_t999')])
def test_velocities_of_the_reference(name, ema, label, key):
    v = load_rectified_flow(data/f'ncsnpp_{name}.pth', facts['small'][name], ema=ema, label=label)
    assert not v.training and not any(p.requires_grad for p in v.parameters())
    x, t = inputs(name)
    want = torch.from_numpy(golden[f'{name}__{key}'])
    assert per_sample(v(x, t), want) < 1e-5
    each = torch.cat([v(x[i:i+1], t[i:i+1]) for i in range(len(x))])          # times differ within a batch
    assert per_sample(each, want) < 1e-5

@pytest.mark.parametrize('name', sorted(facts['full']))
def test_full_sizes_have_the_public_names_and_order(name):
    layout = facts['full'][name].get('layout') or facts['full']['celeba_hq']['layout']
    with torch.device('meta'): net = NCSNpp(name)
    want = [(k.removeprefix('module.'), tuple(s)) for k,s in layout['state_dict'] if k!='module.sigmas']
    assert [(k, tuple(o.shape)) for k,o in net.state_dict().items()]==want
    assert [k for k,p in net.named_parameters() if p.requires_grad]==[k.removeprefix('module.') for k in layout['ema']]
    assert sum(o.numel() for o in net.state_dict().values())==layout['parameters']

@pytest.mark.parametrize('name', sorted(facts['full']))
def test_named_configurations_are_the_public_ones(name):
    for part in ('model','data'):
        mine = {k: list(o) if isinstance(o, tuple) else o for k,o in rf_configs[name][part].items()}
        assert mine==facts['full'][name][part]
    assert rf_config(facts['full'][name]).keys()==rf_config(name).keys()
    rf_config(name)['model']['nf'] = 1
    assert rf_configs[name]['model']['nf']==128                               # a copy was handed out

def test_every_parameter_is_accounted_for(tmp_path):
    "Take any name away, or add one: an error that lists it"
    cfg = facts['small']['256_like']
    names = list(checkpoint('256_like')['model'])
    for k in [*names[:3], *names[40:400:60], names[-1]]:
        d = checkpoint('256_like'); del d['model'][k]; torch.save(d, tmp_path/'a.pth')
        with pytest.raises(ValueError, match=f"missing keys: {k.removeprefix('module.')}"): load_rectified_flow(tmp_path/'a.pth', cfg)
    d = checkpoint('256_like'); d['model'] |= {'module.extra': torch.ones(1), 'module.more': torch.ones(2)}; torch.save(d, tmp_path/'a.pth')
    with pytest.raises(ValueError, match='unexpected keys: extra, more'): load_rectified_flow(tmp_path/'a.pth', cfg)
    d = checkpoint('256_like'); k = names[5]; d['model'][k] = d['model'][k][:1]; torch.save(d, tmp_path/'a.pth')
    with pytest.raises(ValueError, match='has shape'): load_rectified_flow(tmp_path/'a.pth', cfg)
    with pytest.raises(ValueError, match='keys'): load_rectified_flow(data/'ncsnpp_cifar_like.pth', cfg)   # the other kind

def test_averaged_weights_are_checked(tmp_path):
    cfg = facts['small']['256_like']
    def load(change, ema=True):
        d = checkpoint('256_like'); change(d); torch.save(d, tmp_path/'a.pth')
        return load_rectified_flow(tmp_path/'a.pth', cfg, ema=ema)
    with pytest.raises(ValueError, match='387 tensors, expected 386'): load(lambda d: d['ema']['shadow_params'].insert(0, torch.randn(8)))   # zipped with the frequencies
    with pytest.raises(ValueError, match='has shape'): load(lambda d: d['ema'].update(shadow_params=d['ema']['shadow_params'][::-1]))
    with pytest.raises(ValueError, match='ema=False'): load(lambda d: d.pop('ema'))
    with pytest.raises(FloatingPointError, match='NaN'): load(lambda d: d['ema']['shadow_params'][7].fill_(float('inf')))
    load(lambda d: d.pop('ema'), ema=False); load(lambda d: d.pop('optimizer')); load(lambda d: d.update(step=torch.tensor(7)))

def test_other_ways_the_same_file_is_written(tmp_path):
    "Without the prefix, in the old format, in half precision; the same velocity"
    cfg = facts['small']['cifar_like']; x, t = inputs('cifar_like')
    want = load_rectified_flow(data/'ncsnpp_cifar_like.pth', cfg)(x, t)
    d = checkpoint('cifar_like'); d['model'] = {k.removeprefix('module.'): o for k,o in d['model'].items()}
    torch.save(d, tmp_path/'a.pth'); assert torch.equal(load_rectified_flow(tmp_path/'a.pth', cfg)(x, t), want)
    torch.save(d, tmp_path/'b.pth', _use_new_zipfile_serialization=False); assert torch.equal(load_rectified_flow(tmp_path/'b.pth', cfg)(x, t), want)
    d['ema']['shadow_params'] = [o.half() for o in d['ema']['shadow_params']]
    torch.save(d, tmp_path/'c.pth'); v = load_rectified_flow(tmp_path/'c.pth', cfg)
    assert v(x, t).dtype==torch.float32 and per_sample(v(x, t), want) < .02

def test_loading_leaves_random_numbers_alone():
    torch.manual_seed(3); a = torch.rand(1)
    torch.manual_seed(3); load_rectified_flow(data/'ncsnpp_256_like.pth', facts['small']['256_like'])
    assert torch.equal(torch.rand(1), a)

def test_half_precision_keeps_its_time():
    "Weights and states in bfloat16, the label and the Fourier frequencies in float32: as good as autocast, through the solvers too"
    v = load_rectified_flow(data/'ncsnpp_256_like.pth', facts['small']['256_like']); x, t = inputs('256_like')
    want, b = v(x, t), load_rectified_flow(data/'ncsnpp_256_like.pth', facts['small']['256_like']).bfloat16()
    assert b.all_modules[0].W.dtype==torch.float32 and per_sample(b(x.bfloat16(), t).float(), want) < .03
    seen = []
    class Watch(torch.nn.Module):
        float32_time = True
        def forward(self, x, t): seen.append((x.dtype, t.dtype, t[0].item())); return b(x, t)
    from boss_nb.sample.solvers import sample
    sample(Watch(), x[:1].bfloat16(), 100)
    assert {o[:2] for o in seen}=={(torch.bfloat16, torch.float32)} and all(abs(o[2]-k/100) < 1e-6 for k,o in enumerate(seen))

def test_uncentred_data_is_centred_inside():
    c = facts['small']['256_like']; x, t = inputs('256_like')
    church = dict(model=c['model'], data=c['data'] | dict(centered=False))
    v, w = (load_rectified_flow(data/'ncsnpp_256_like.pth', o) for o in (c, church))
    assert per_sample(w((x+1)/2, t), v(x, t)) < 1e-5

@pytest.mark.parametrize('name,shape', [('cifar10', (3,32,32)), ('church', (3,256,256))])
def test_full_size_runs_and_calibrates_within_2_GB(name, shape):
    "In a process of its own, so that its peak memory is known"
    code = f'''
    import torch
    from boss_nb.flow.ncsnpp import NCSNpp
    from boss_nb.core import noise
    from boss_nb.plan.costs import calibrate
    v = NCSNpp({name!r}).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    assert v.shape=={shape}
    cal = calibrate(v, noise(1, v.shape, device='cpu'), teacher_steps=2, progress=False)
    assert cal.cost[0,2] > 0 and cal.schedule(1).nfe==1
    print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])/1e6)   # ru_maxrss would count the parent's memory too
    '''
    r = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True)
    assert r.returncode==0, r.stderr[-2000:]
    assert float(r.stdout) < 2, r.stdout

def test_straightened_and_kept(tmp_path):
    "A checkpoint's LoRA and full students survive their files"
    from boss_nb.plan.costs import calibrate
    from boss_nb.share.students import load_student, save_student
    from boss_nb.core import noise
    from boss_nb.sample.solvers import sample
    from boss_nb.train.straighten import straighten
    v = load_rectified_flow(data/'ncsnpp_256_like.pth', facts['small']['256_like'])
    plan, z = calibrate(v, noise(4, v.shape, 'calibrate'), 10, progress=False).schedule(2), noise(2, v.shape, 'test')
    for rank in (2, None):
        s = straighten(v, plan, noise(8, v.shape), lora=rank, n_iter=2, bs=4, teacher_steps=10, progress=False)
        save_student(tmp_path/'s.safetensors', s, base=v)
        assert torch.equal(sample(load_student(tmp_path/'s.safetensors', v if rank else None), z, plan), sample(s, z, plan))

def test_the_gpu_tutorial_runs_on_a_small_file(tmp_path, monkeypatch):
    "The cells nobody has run on a GPU, word for word but for the file and the numbers"
    cells = [''.join(c['source']) for c in json.loads((data.parent.parent/'nbs/tutorials/gpu/cifar10.ipynb').read_text())['cells'] if c['cell_type']=='code']
    assert len(cells)==5 and all(c.startswith('#| cuda') for c in cells)
    code, small_one = '\n'.join(cells), facts['small']['cifar_like']
    for a,b in {"'checkpoint_8.pth', 'cifar10'": f"{str(data/'ncsnpp_cifar_like.pth')!r}, CONFIG", "noise(100, net.shape, 'calibrate'))": "noise(4, net.shape, 'calibrate'), 10)",
                "noise(256, net.shape, 'calibrate'), list(ks), cal=cal)": "noise(16, net.shape, 'calibrate'), list(ks), cal=cal, teacher_steps=10, refine=False)", "noise(64, net.shape, 'test'))": "noise(16, net.shape, 'test'), teacher_steps=10)",
                'noise(5000,': 'noise(12,', 'n_iter=6000, bs=128': 'n_iter=2, bs=4, teacher_steps=8', '(4,6,8,10)': '(2,)', 'planned[8]': 'planned[2]'}.items():
        assert code.count(a)==1, a
        code = code.replace(a, b)
    monkeypatch.chdir(tmp_path); monkeypatch.setenv('MPLBACKEND', 'agg')
    exec(compile(code, 'cifar10', 'exec'), dict(CONFIG=small_one))
    assert (tmp_path/'cifar10_4.safetensors').stat().st_size > 0

def _config(**kw):
    m = dict(nf=8, ch_mult=[1,2], num_res_blocks=1, attn_resolutions=[8], embedding_type='fourier', fir=True, fir_kernel=[1,3,3,1], progressive='output_skip',
             progressive_input='input_skip', scale_by_sigma=True, skip_rescale=True, num_scales=20, dropout=.1, resblock_type='biggan')
    d = dict(image_size=16, num_channels=3, centered=True)
    return dict(model=m | {k:o for k,o in kw.items() if k not in d}, data=d | {k:o for k,o in kw.items() if k in d})

variants = dict(plain={}, three_levels=dict(ch_mult=[1,1,2], attn_resolutions=[4,16]), no_attention=dict(attn_resolutions=[]), attention_everywhere=dict(attn_resolutions=[16,8]), wide=dict(nf=32, ch_mult=[1,6]),
                blocks=dict(num_res_blocks=3), box=dict(fir=False), positional=dict(embedding_type='positional', scale_by_sigma=False), positional_box=dict(embedding_type='positional', scale_by_sigma=False, fir=False, progressive='none', progressive_input='none'),
                no_pyramid_out=dict(progressive='none'), no_pyramid_in=dict(progressive_input='none'), unscaled=dict(scale_by_sigma=False), no_rescale=dict(skip_rescale=False), uncentred=dict(centered=False),
                grey=dict(num_channels=1), one_level=dict(ch_mult=[2]), narrower=dict(ch_mult=[2,1]), size_24=dict(image_size=24, attn_resolutions=[12]))

@pytest.mark.parametrize('name', variants)
@pytest.mark.parametrize('label', ['sampler','training'])
def test_any_configuration_equals_the_naive_network(name, label, tmp_path):
    "Through a file in the public layout with random weights, against `ncsnpp_reference.py`, which was written from the layout facts alone"
    from ncsnpp_reference import reference
    c, g = _config(**variants[name]), torch.Generator().manual_seed(len(name))
    net = NCSNpp(**c)
    draw = lambda o: torch.randn(o.shape, generator=g)/(o[0].numel()**.5 if o.ndim > 1 else 3.)
    state = {k: o if k.endswith('all_modules.0.W') and o.ndim==1 else 1+draw(o) if 'GroupNorm' in k and k.endswith('weight') else draw(o) for k,o in net.state_dict().items()}
    ema = [draw(o) for o in net.parameters() if o.requires_grad]
    torch.save(dict(model={f'module.{k}': o for k,o in state.items()} | {'module.sigmas': torch.ones(20, dtype=torch.float64)}, ema=dict(decay=.9, num_updates=1, shadow_params=ema), step=3), tmp_path/'a.pth')
    x, t = torch.randn(3, *net.shape, generator=g), torch.tensor([.013, .4, 1.])
    lab = 999*(.999*t.double()+.001) if label=='sampler' else 999*t.double()
    averaged = state | dict(zip([k for k,p in net.named_parameters() if p.requires_grad], ema))
    for use,weights in ((True, averaged), (False, state)):
        v = load_rectified_flow(tmp_path/'a.pth', c, ema=use, label=label)
        want = reference({k: o.double() for k,o in weights.items()}, c, x.double(), lab)
        assert per_sample(v(x, t).double(), want) < 1e-4                     # float32 sines of large phases
        d = v.double()
        assert per_sample(d(x.double(), t.double()), want) < 1e-9

def test_plans_and_samples():
    "A velocity like any other: calibrate, plan, sample"
    v = load_rectified_flow(data/'ncsnpp_256_like.pth', facts['small']['256_like'])
    cal = calibrate(v, noise(8, v.shape, 'calibrate'), 20, progress=False)
    s = cal.schedule(3)
    assert s.nfe==3 and sample(v, noise(2, v.shape, 'test'), s).shape==(2, *v.shape)
