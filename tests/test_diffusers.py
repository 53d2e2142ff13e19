"Pipelines of diffusers: sigmas through every scheduler, parity with the pipelines, LoRA files"
import copy, inspect, itertools, json, warnings
from pathlib import Path
import pytest, torch
diffusers = pytest.importorskip('diffusers'); pytest.importorskip('transformers')
from diffusers import FlowMatchEulerDiscreteScheduler as Euler, FlowMatchHeunDiscreteScheduler as Heun, StableDiffusion3Img2ImgPipeline
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
import boss_nb.share.pipelines as bd
from boss_nb.core import CountNFE, noise
from boss_nb.files import load_state, save_state
from boss_nb.flow.nets import share_weights
from boss_nb.sample.schedule import Schedule, uniform
from boss_nb.sample.solvers import sample
from boss_nb.plan.costs import calibrate
from boss_nb.train.lora import add_lora
from boss_nb.train.straighten import straighten
from boss_nb.share.schedulers import heun_scheduler, plain_scheduler, scheduler_sigmas, terminal_schedule
from boss_nb.share.tiny import tiny_embeds, tiny_flux, tiny_sana, tiny_sd3
from boss_nb.share.pipelines import default_schedule, pipeline_mu, pipeline_velocity, set_schedule, velocity_class
from boss_nb.share.lora import attention_layers, lora_schedules, save_pipeline_lora, straighten_lora, use_lora_schedule
from boss_nb.share.comfy import comfy_sigmas, read_sigmas
warnings.filterwarnings('ignore', message='.*scikit|.*torch_dtype')

def random_knots(seed, nfe, start=0., terminal=None):
    "`nfe+1` random knots, at least 1e-4 apart; with `terminal`, the last sigma before 0 is that"
    g = torch.Generator().manual_seed(seed)
    if terminal is not None and nfe==1: return torch.tensor([1-terminal, 1.], dtype=torch.float64)
    end, n = (1., nfe) if terminal is None else (1-terminal, nfe-1)
    d = torch.rand(n, generator=g, dtype=torch.float64)**3 + 2e-3
    k = torch.cat([torch.zeros(1, dtype=torch.float64), d.cumsum(0)/d.sum()])*(end-start)+start
    k[-1] = end
    return k if terminal is None else torch.cat([k, torch.ones(1, dtype=torch.float64)])

variants = st.one_of(st.builds(lambda s: (dict(shift=s), None), st.floats(.2, 12)),
                     st.builds(lambda mu: (dict(use_dynamic_shifting=True), mu), st.floats(-1.5, 2.5)),
                     st.builds(lambda mu: (dict(use_dynamic_shifting=True, time_shift_type='linear'), mu), st.floats(.2, 12)))

@settings(max_examples=200, deadline=None)
@given(variants, st.integers(1, 20), st.integers(0, 10**6), st.sampled_from([0., 0., .3, .8]), st.sampled_from([None, None, .02, .1]))
def test_sigmas_survive(variant, nfe, seed, start, terminal):
    kw, mu = variant
    if terminal is not None and nfe==1: start = 1-terminal
    k = random_knots(seed, nfe, start, terminal)
    s = Euler(**kw, shift_terminal=terminal)
    sig = scheduler_sigmas(s, Schedule(k), mu)
    assert len(sig)==nfe
    s.set_timesteps(sigmas=sig, mu=mu)
    assert s.sigmas.shape==(nfe+1,) and s.sigmas[-1]==0 and (s.sigmas.double()-(1-k)).abs().max() < 1e-6
    assert set_schedule(Euler(**kw, shift_terminal=terminal), k, mu)==sig
    p = plain_scheduler(s); p.set_timesteps(sigmas=scheduler_sigmas(p, k))
    assert (p.sigmas.double()-(1-k)).abs().max() < 1e-7

@settings(max_examples=50, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6), st.floats(.01, .4))
def test_a_terminal_cannot_be_had_otherwise(nfe, seed, terminal):
    "Whatever goes in, the last sigma is the terminal: refusing other plans is all there is"
    k = random_knots(seed, nfe)
    s = Euler(shift_terminal=terminal); s.set_timesteps(sigmas=(1-k)[:-1].tolist())
    assert abs(s.sigmas[-2]-terminal) < 1e-5
    if abs((1-k[-2])-terminal) > 1e-5:
        with pytest.raises(ValueError, match='plain_scheduler'): scheduler_sigmas(s, k)

def test_shift_changed_later_and_unknown_bending():
    s = Euler(shift=3.); s.set_shift(1.7)
    set_schedule(s, uniform(7)); assert (s.sigmas.double()-torch.linspace(1,0,8).double()).abs().max() < 1e-6
    class FlowMatchBent(Euler):
        def set_timesteps(self, *a, sigmas=None, **kw): super().set_timesteps(*a, sigmas=[o**2 for o in sigmas], **kw)
    with pytest.raises(ValueError, match='bends sigmas in a way not known'): set_schedule(FlowMatchBent(), uniform(4))
    with pytest.raises(ValueError, match='heun_scheduler'): set_schedule(Heun(), uniform(4))
    with pytest.raises(ValueError, match='positive'): scheduler_sigmas(Euler(use_dynamic_shifting=True, time_shift_type='linear'), uniform(4), mu=-1.)
    with pytest.warns(UserWarning, match='Heun'): set_schedule(heun_scheduler(Euler()), uniform(4))

def quiet(pipe): pipe.set_progress_bar_config(disable=True); return pipe
def theirs(v, z, schedule, output_type='latent', pipe=None, prompt_index=None, **kw):
    "The pipeline's own result, its own scheduler included"
    pipe = pipe or v.pipe
    sig = set_schedule(pipe, schedule, height=v.height, width=v.width)
    out = pipe(**v.call_kwargs(len(z), prompt_index), latents=v.pack(z), sigmas=sig, num_inference_steps=len(sig), output_type=output_type, **kw).images
    return v.unpack(out) if output_type=='latent' else out

cases = {'sd3':(tiny_sd3, {}, dict(guidance_scale=1.)), 'sd3 guided':(tiny_sd3, {}, dict(guidance_scale=5.)), 'sd3 dynamic':(tiny_sd3, dict(use_dynamic_shifting=True, base_shift=.2), dict(height=48, width=80)),
         'sd3 linear':(tiny_sd3, dict(use_dynamic_shifting=True, time_shift_type='linear'), {}), 'sd3 plain':(tiny_sd3, dict(shift=1.), {}),
         'flux dev':(tiny_flux, {}, dict(guidance_scale=2.)), 'flux dev wide':(tiny_flux, {}, dict(height=32, width=96)), 'flux schnell':(lambda **k: tiny_flux(False, **k), dict(shift=1.), {}),
         'flux true cfg':(tiny_flux, {}, dict(true_cfg_scale=3.)), 'sana':(tiny_sana, {}, dict(guidance_scale=1.)), 'sana guided':(tiny_sana, {}, dict(height=32, width=64))}
@pytest.mark.parametrize('name', cases)
def test_the_pipeline_itself(name):
    make, sched, kw = cases[name]
    pipe = quiet(make(**sched)); guided = kw.get('guidance_scale', 7.)>1
    for prompts in (1,3):
        v = pipeline_velocity(pipe, **kw, **tiny_embeds(pipe, prompts, negative=guided)); z = v.noise(3, seed=5); c = CountNFE(v)
        for k in (random_knots(1, 5), random_knots(2, 3, .35)):
            x = sample(c, z, k); scale = x.abs().max().item()
            assert (x-theirs(v, z, k)).abs().max() < 1e-4*scale                     # sigmas come out of the shift with an error of 1e-7, and the network sees them times 1000
            assert ((v.decode(x, 2)/2+.5).clamp(0,1)-theirs(v, z, k, 'pt')).abs().max() < 1e-4
        assert c.nfe==8*v.nfe_per_call==8*(2 if v.guided else 1) and v.guided==(guided if 'flux' not in name else 'true' in name)
    assert (sample(v, z, default_schedule(pipe, 4, v.height, v.width)) - v.unpack(pipe(**v.call_kwargs(3), latents=v.pack(z), num_inference_steps=4, output_type='latent').images)).abs().max() < 1e-4*scale
    pipe.scheduler = plain_scheduler(pipe.scheduler)
    assert (x-theirs(v, z, k)).abs().max() < 1e-5*scale

def test_guidance_changes_something_and_is_the_formula():
    pipe = tiny_sd3(); e = tiny_embeds(pipe); pos = {k:o for k,o in e.items() if 'neg' not in k}; neg = {k.removeprefix('negative_'):o for k,o in e.items() if 'neg' in k}
    v, c, u = pipeline_velocity(pipe, guidance_scale=3., **e), *(pipeline_velocity(pipe, guidance_scale=1., **o) for o in (pos, neg))
    z, t = v.noise(2), torch.tensor([.1,.8])
    assert (v(z,t)-(u(z,t)+3*(c(z,t)-u(z,t)))).abs().max() < 1e-4 and (v(z,t)-c(z,t)).abs().max() > .1
    d = tiny_flux(); a, b = (pipeline_velocity(d, guidance_scale=g, **tiny_embeds(d)) for g in (1., 6.))
    assert (a(z,t)-b(z,t)).abs().max() > 1e-3 and a.nfe_per_call==b.nfe_per_call==1

@pytest.mark.parametrize('make', [tiny_sd3, tiny_flux])
def test_half_precision_network_keeps_float_states(make):
    k = torch.tensor([0,.21,.47,.73,1.])                                            # FLUX rounds 1000 sigma to bfloat16: no ties, please
    half = quiet(make()).to(torch.bfloat16); v = pipeline_velocity(half, **tiny_embeds(half)); z = v.noise(2)
    x = sample(v, z, k); assert x.dtype==torch.float32 and v(z, torch.zeros(2)).dtype==torch.float32
    rel = lambda a,b: ((a.float()-b.float()).norm()/b.float().norm()).item()
    assert rel(theirs(v, z.bfloat16(), k), x) < .1                                  # the pipeline rounds its states, too
    assert v.decode(x).isfinite().all()

@pytest.mark.parametrize('make', [tiny_sd3, tiny_flux, tiny_sana])
def test_a_pipeline_that_changes_its_dtype_afterwards(make):
    pipe = make(); v = pipeline_velocity(pipe, guidance_scale=4., **tiny_embeds(pipe)); z, t = v.noise(2), torch.full((2,), .5)   # FLUX sees both times 1000, and 500 and 4000 are numbers in bfloat16
    before = v(z,t)
    pipe.to(torch.bfloat16); half = v(z,t); a = v.call_kwargs(2)
    assert half.dtype==torch.float32 and (half-before).norm() < .1*before.norm() and not torch.equal(half, before)
    assert a['prompt_embeds'].dtype==torch.bfloat16 and ('prompt_attention_mask' not in a or not a['prompt_attention_mask'].is_floating_point())
    assert torch.equal(half, pipeline_velocity(pipe, guidance_scale=4., **tiny_embeds(pipe))(z,t))
    pipe.to(torch.float32); assert (v(z,t)-before).norm() < .05*before.norm()

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('make', [tiny_sd3, tiny_flux, tiny_sana])
def test_a_pipeline_that_moves_afterwards(make):
    pipe = quiet(make()); v = pipeline_velocity(pipe, **tiny_embeds(pipe, 2)); z, t, i = noise(4, v.shape, device='cpu'), torch.full((4,), .3), torch.tensor([1,0,0,1])
    before = v(z, t, prompt_index=i); pipe.to('cuda'); zc = z.cuda()
    assert v.device.type==v.noise(2).device.type=='cuda'
    for index in (i, i.cuda(), i.tolist()):
        for time in (t, t.cuda()): assert (v(zc, time, prompt_index=index).cpu()-before).norm() < 1e-2*before.norm()
    k = random_knots(1, 4); x = sample(v, zc, k, cond=dict(prompt_index=v.spread(4)))
    assert (x-theirs(v, zc, k)).norm() < 1e-2*x.norm() and v.decode(x).isfinite().all()

@pytest.mark.parametrize('make', [tiny_sd3, tiny_flux])
def test_straightening_leaves_the_network_in_eval_mode(make):
    pipe = make(); v = pipeline_velocity(pipe, **tiny_embeds(pipe)); kw = dict(n_iter=2, bs=4, teacher_steps=4, progress=False)
    assert not v.training
    for go in (lambda: straighten_lora(v, uniform(2), v.noise(8), rank=2, **kw), lambda: straighten(v, uniform(2), v.noise(8), **kw)):
        go(); assert not [n for n,m in pipe.transformer.named_modules() if m.training]
    pipe.transformer.train(); assert pipeline_velocity(pipe, **tiny_embeds(pipe)).training

def test_description_says_pipeline_and_guidance():
    a, b = tiny_sd3(), tiny_flux()
    assert [pipeline_velocity(a, guidance_scale=g, **tiny_embeds(a)).describe() for g in (4, 4.5)]==['StableDiffusion3Pipeline, guidance_scale=4', 'StableDiffusion3Pipeline, guidance_scale=4.5']
    assert pipeline_velocity(b, true_cfg_scale=2., **tiny_embeds(b)).describe()=='FluxPipeline, guidance_scale=3.5, true_cfg_scale=2'

def test_flux_refuses_a_negative_prompt_it_would_drop():
    pipe = tiny_flux(text=True); kw = dict(prompt='a cat', negative_prompt='bad', max_sequence_length=32)
    with pytest.raises(ValueError, match='negative_prompt does nothing with true_cfg_scale=1'): pipeline_velocity(pipe, **kw)
    assert pipeline_velocity(pipe, true_cfg_scale=2., **kw).guided
    bare = tiny_flux(); assert not pipeline_velocity(bare, **tiny_embeds(bare)).guided                   # negative embeddings may lie by

def test_heun_in_flux():
    pipe = quiet(tiny_flux()); pipe.scheduler = heun_scheduler(pipe.scheduler); v = pipeline_velocity(pipe, **tiny_embeds(pipe)); z = v.noise(2)
    for k in (random_knots(0, 5), torch.tensor([0.,1.])):
        with warnings.catch_warnings(): warnings.simplefilter('ignore'); got = theirs(v, z, k)
        x = sample(v, z, k[:-1], 'heun') if len(k)>2 else z
        assert (got-sample(v, x, k[-2:])).abs().max() < 1e-4

def test_start_above_zero_is_image_to_image():
    base = tiny_sd3(); pipe = quiet(StableDiffusion3Img2ImgPipeline(**base.components))
    v = pipeline_velocity(pipe, guidance_scale=3., **tiny_embeds(pipe)); image = v.noise(2, seed=50)*.5
    plan = Schedule(random_knots(3, 4, .4)); sig = set_schedule(pipe, plan); a = v.call_kwargs(2)
    if not {'height','width'} <= set(inspect.signature(pipe.__call__).parameters): del a['height'], a['width']
    got = pipe(**a, image=image, strength=1., sigmas=sig, num_inference_steps=4, generator=torch.Generator().manual_seed(3), output_type='latent').images
    eps = torch.randn(image.shape, generator=torch.Generator().manual_seed(3))
    latents = (image-pipe.vae.config.shift_factor)*pipe.vae.config.scaling_factor
    ends = [sample(v, .6*eps+.4*x1, plan) for x1 in (image, latents)]                # latents given as images are taken as they are, or scaled
    assert min((got-x).abs().max() for x in ends) < 1e-4

def test_it_is_a_module_that_leaves_the_rest_of_the_pipeline_alone():
    pipe = tiny_sd3(); v = pipeline_velocity(pipe, **tiny_embeds(pipe)); z, t = v.noise(2), torch.zeros(2)
    assert all(k.startswith('transformer.') for k in v.state_dict()) and {n for n,_ in v.named_children()}=={'transformer'}
    twin = share_weights(v); assert twin.pipe is pipe and twin.transformer is not v.transformer and twin.transformer.pos_embed.proj.weight.data_ptr()==v.transformer.pos_embed.proj.weight.data_ptr()
    full = copy.deepcopy(v); assert full.pipe is pipe and torch.equal(full(z,t), v(z,t))
    assert torch.equal(v.noise(4)[2:], noise(2, v.shape, start=2, device='cpu'))

def test_prompts_follow_their_samples():
    pipe = tiny_flux(); v = pipeline_velocity(pipe, **tiny_embeds(pipe, 3)); n = 12; z, w = v.noise(n), dict(prompt_index=v.spread(n))
    cal, whole = (calibrate(v, z, teacher_steps=6, batch_size=b, progress=False, cond=w) for b in (5,None))
    torch.testing.assert_close(cal.cost[0,2:], whole.cost[0,2:], rtol=1e-4, atol=1e-8)
    one = [pipeline_velocity(pipe, **{k:o[i:i+1] for k,o in tiny_embeds(pipe, 3).items()}) for i in range(3)]
    torch.testing.assert_close(sample(v, z, 3, cond=w), torch.cat([sample(one[i%3], z[i:i+1], 3) for i in range(n)]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='prompt_index='): calibrate(v, z, teacher_steps=4, progress=False)
    st_ = straighten_lora(v, cal.schedule(2), z, rank=2, n_iter=3, bs=4, teacher_steps=6, progress=False, cond=w)
    assert st_(z, torch.zeros(n), **w).isfinite().all()

@pytest.mark.parametrize('make', [tiny_sd3, tiny_flux, tiny_sana])
@pytest.mark.parametrize('kind', ['attention', 'every layer', 'alpha'])
def test_lora_round_trip(make, kind, tmp_path):
    pipe = quiet(make()); v = pipeline_velocity(pipe, **tiny_embeds(pipe)); z, t = v.noise(2), torch.full((2,), .3); before = v(z,t)
    plans, kw = [uniform(2), Schedule([0,.2,.5,.75,1.], 'mine', meta=dict(seed=1))], dict(n_iter=12, bs=8, teacher_steps=20, lr=2e-2, decay=.5, progress=False)
    if kind=='every layer': s = straighten(v, plans, v.noise(16), lora=3, **kw) if make is not tiny_sana else straighten_lora(v, plans, v.noise(16), rank=3, targets=None, **kw)   # peft wants no grouped convolutions
    else: s = straighten_lora(v, plans, v.noise(16), rank=3, alpha=7. if kind=='alpha' else None, **kw)
    assert s.meta['rank']==3 and all(('lora_' in n)==p.requires_grad for n,p in s.model.named_parameters())
    assert torch.equal(v(z,t), before) and (s(z,t)-before).abs().max() > 1e-3
    f = save_pipeline_lora(tmp_path/'lora' if kind!='alpha' else tmp_path/'some.safetensors', s)
    assert f.name==('some.safetensors' if kind=='alpha' else 'pytorch_lora_weights.safetensors') and [o.name for o in f.parent.iterdir()]==[f.name]
    with safe_open(f, 'pt') as o: head, keys = o.metadata(), list(o.keys())
    assert {'boss_nb','lora_adapter_metadata','format'} <= set(head) and all(k.startswith('transformer.') for k in keys)
    assert json.loads(head['lora_adapter_metadata'])['transformer.lora_alpha']==3     # the factor alpha/rank is in the matrices
    if kind!='every layer': assert {k.split('.lora_')[0].split('attn')[-1].split('.',1)[1] for k in keys} <= {'to_q','to_k','to_v','to_out.0'}
    fresh = quiet(make()); fresh.load_lora_weights(f.parent if kind!='alpha' else str(f))
    assert lora_schedules(f)==plans
    for plan in plans:
        sig = use_lora_schedule(fresh, f, plan.nfe)
        run = lambda **kw: fresh(**v.call_kwargs(2), latents=v.pack(z), sigmas=sig, num_inference_steps=plan.nfe, **kw).images
        x = sample(s, z, plan)
        assert (v.unpack(run(output_type='latent'))-x).abs().max() < 1e-4*max(1, x.abs().max())
        fresh.scheduler, own = plain_scheduler(fresh.scheduler), fresh.scheduler; sig = use_lora_schedule(fresh, f, plan.nfe)
        assert ((v.decode(x)/2+.5).clamp(0,1)-run(output_type='pt')).abs().max() < 1e-5 and (v.unpack(run(output_type='latent'))-x).abs().max() < 1e-5*max(1, x.abs().max())
        fresh.scheduler = own
    with pytest.raises(ValueError, match='refusing a mismatched NFE'): use_lora_schedule(fresh, f, 3)
    again = save_pipeline_lora(tmp_path/'again', pipeline_velocity(fresh, **tiny_embeds(fresh)), plans)     # from a pipeline that carries the adapter
    third = quiet(make()); third.load_lora_weights(again.parent)
    assert (pipeline_velocity(third, **tiny_embeds(third))(z,t)-s(z,t)).abs().max() < 1e-4

@pytest.mark.parametrize('make', [tiny_flux, lambda: tiny_sd3(use_dynamic_shifting=True)])
def test_a_lora_schedule_at_another_size(make, tmp_path):
    "Dynamic shifting: sigmas are for one size, and whoever might use another is told"
    pipe = quiet(make()); plan = Schedule([0,.5,1.]); used = lambda **kw: (pipe(**{k:o for k,o in tiny_embeds(pipe).items()}, num_inference_steps=2, output_type='latent', **kw), pipe.scheduler.sigmas[1].item())[1]
    for h,w in ((32,96), (64,64)): save_pipeline_lora(tmp_path/f'{h}', add_lora(pipeline_velocity(pipe, height=h, width=w, **tiny_embeds(pipe)), 2, targets=list(attention_layers)), plan)
    pipe.load_lora_weights(tmp_path/'32')                               # the other file has the same matrices
    with pytest.warns(UserWarning, match='height=32, width=96'): sig = use_lora_schedule(pipe, tmp_path/'32')
    assert abs(used(sigmas=sig)-.5) > 1e-4 and abs(used(sigmas=sig, height=32, width=96)-.5) < 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        use_lora_schedule(pipe, tmp_path/'32', height=32, width=96); use_lora_schedule(pipe, tmp_path/'32', mu=.7)
        sig = use_lora_schedule(pipe, tmp_path/'64'); own = pipe.scheduler
        pipe.scheduler = plain_scheduler(own); plain = use_lora_schedule(pipe, tmp_path/'32')
    assert abs(used(sigmas=plain)-.5) < 1e-6
    pipe.scheduler = own; assert abs(used(sigmas=sig)-.5) < 1e-6

def test_broken_lora_files(tmp_path):
    pipe = tiny_sd3(); v = pipeline_velocity(pipe, **tiny_embeds(pipe)); net = add_lora(v, 2)
    f = save_pipeline_lora(tmp_path, net, uniform(4)); whole = f.read_bytes()
    next(p for n,p in net.named_parameters() if 'lora_A' in n).data.fill_(float('nan'))
    with pytest.raises(FloatingPointError, match='not saved'): save_pipeline_lora(tmp_path, net, uniform(2))
    assert f.read_bytes()==whole and [o.name for o in tmp_path.iterdir()]==[f.name]          # what was there is still there
    f.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match='not a readable safetensors'): lora_schedules(tmp_path)
    f.write_bytes(whole.replace(b'knots', b'knotz'))
    with pytest.raises(ValueError, match='was changed after it was written'): lora_schedules(tmp_path)
    f.write_bytes(whole); state, facts = load_state(f)
    for change,why in ((dict(schedules=[dict(name='no knots')]), 'broken schedule'), (dict(kind='other'), 'carries no schedule')):
        save_state(f, state, **(facts | change))
        with pytest.raises(ValueError, match=why): lora_schedules(tmp_path)
    with pytest.raises(ValueError, match='nowhere'): straighten_lora(v, uniform(2), v.noise(8), rank=2, targets=['nowhere'], n_iter=1, teacher_steps=4, progress=False)
    with pytest.raises(ValueError, match='rank'): straighten_lora(v, uniform(2), v.noise(8), rank=0)

@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(0, 10**6))
def test_comfy_text_and_file(nfe, seed):
    s = Schedule(random_knots(seed, nfe), 'mine'); text = comfy_sigmas(s)
    vals = [float(o) for o in text.split(', ')]
    assert len(vals)==nfe+1 and vals[0]==1 and text.endswith(', 0.0') and (torch.tensor(vals, dtype=torch.float64)-(1-s.knots)).abs().max() < 1e-6
    assert (read_sigmas(text).knots-s.knots).abs().max() < 1e-6

def test_comfy_other_solver(tmp_path):
    with pytest.warns(UserWarning, match='ab2'): comfy_sigmas(Schedule([0,.5,1.], solver='ab2'), tmp_path/'s.json')
    assert json.loads((tmp_path/'s.json').read_text())['sigmas']==[1.,.5,0.] and read_sigmas(tmp_path/'s.json').solver=='ab2'

def test_sigmas_as_people_paste_them(tmp_path, monkeypatch):
    want = read_sigmas('1.0, 0.5, 0.0'); monkeypatch.chdir(tmp_path)
    for text in ('[1.0, 0.5, 0.0]', ' [1, 0.5, 0]\n', '1.0 0.5 0.0', '{"sigmas": [1.0, 0.5, 0.0]}'):
        assert read_sigmas(text)==want
        Path('s.txt').write_text(text); assert read_sigmas('s.txt')==read_sigmas(Path('s.txt'))==want
    for text in ('[]', '[1.0, "x"]', '[1, 0.5', '[[1, 0]]', 'nowhere.json', '', '1'+'0'*400, f'[1{"0"*400}, 0]', '1.0 '*5000):
        with pytest.raises(ValueError): read_sigmas(text)
    for k in ([0,1e-9,.5,1], [0,.5,1-1e-9,1]):
        with pytest.raises(ValueError, match='first 7 digits'): comfy_sigmas(k, 'not.json')
    assert not Path('not.json').exists() and comfy_sigmas([0,1e-6,1])=='1.0, 0.999999, 0.0'
    with pytest.warns(UserWarning): comfy_sigmas(Schedule([0,.5,1.], solver='multistep', coefs=[[1.],[1.5,-.5]]), 'm.json')
    with pytest.warns(UserWarning, match='multistep'): s = read_sigmas('m.json')
    assert s.solver=='euler' and s.coefs is None

def test_the_registry_is_open():
    assert set(bd.pipelines) >= {'StableDiffusion3Pipeline','FluxPipeline','SanaPipeline'}
    class Nobody: scheduler = Euler()
    with pytest.raises(ValueError, match='Nobody.*subclass of PipelineVelocity'): pipeline_velocity(Nobody())

def test_the_tutorials_cells_on_tiny_pipelines(monkeypatch, tmp_path):
    "The GPU tutorial, cell by cell, smaller and with random networks"
    import matplotlib; matplotlib.use('Agg'); monkeypatch.chdir(tmp_path); monkeypatch.setenv('IN_TEST', '1')
    monkeypatch.setattr(diffusers.StableDiffusion3Pipeline, 'from_pretrained', lambda *a, **kw: quiet(tiny_sd3(text=True)))
    monkeypatch.setattr(diffusers.FluxPipeline, 'from_pretrained', lambda *a, **kw: quiet(tiny_flux(text=True)))
    cells = [c for c in json.loads((Path(__file__).parent.parent/'nbs/tutorials/gpu/sd3_flux.ipynb').read_text())['cells'] if c['cell_type']=='code']
    assert len(cells)>8 and all(c['source'][0]=='#| cuda\n' and not c['outputs'] for c in cells)
    code, ns = '\n'.join(''.join(c['source']) for c in cells), {}
    small = code.replace('512, 64, 48, 512, 1000, 4', '64, 16, 14, 16, 6, 8'); assert small!=code
    exec(compile(small, 'sd3_flux', 'exec'), ns)
    assert ns['student'].loss_after < ns['student'].loss_before*1.5 and lora_schedules('sd3_four_steps')[0].nfe==4 and (tmp_path/'sd3_plans.json').is_file()

def test_terminal_plans_are_the_cheapest():
    pipe = tiny_flux(); v = pipeline_velocity(pipe, **tiny_embeds(pipe)); cal = calibrate(v, v.noise(3), teacher_steps=10, progress=False)
    for T,j in ((.1,9), (.3,7)):
        for k in range(2, j+2):
            want = min(sum(cal.cost[a,b].item() for a,b in zip(p,p[1:])) for m in itertools.combinations(range(1,j), k-2) for p in [(0,*m,j,10)])
            s = terminal_schedule(cal, k, T)
            assert s.nfe==k and s.cost==pytest.approx(want) and abs(1-s.knots[-2]-T) < 1e-9
            set_schedule(Euler(shift=3., shift_terminal=T), s)

def test_states_of_one_prompt_are_not_taken_for_anothers(tmp_path):
    pipe = quiet(tiny_sd3())
    a, b = (pipeline_velocity(pipe, **{k: o+i if o.is_floating_point() else o for k,o in tiny_embeds(pipe).items()}) for i in (0, 1))
    go = lambda v: straighten_lora(v, uniform(2), v.noise(8), rank=2, n_iter=2, bs=4, teacher_steps=2, valid=1, folder=tmp_path/'run', progress=False)
    go(a)
    with pytest.raises(ValueError, match='buffers'): go(b)

# ---- edges that the notebooks of the room do not show

@pytest.mark.parametrize('name', ['sd3', 'flux both', 'flux'])
def test_prompts_as_text(name):
    pipe, kw = {'sd3':(tiny_sd3(text=True), dict(guidance_scale=3.)), 'flux both':(tiny_flux(text=True), dict(guidance_scale=2., true_cfg_scale=2.)), 'flux':(tiny_flux(False, text=True), {})}[name]
    said, knots = ['a red cat','blue'], torch.tensor([0,.1,.35,.6,1.])
    v = pipeline_velocity(quiet(pipe), said, 'bad' if kw else None, height=64, width=64, max_sequence_length=32, **kw)
    pipe.scheduler = plain_scheduler(pipe.scheduler); neg = dict(negative_prompt=['bad','bad']) if v.guided else {}
    out = pipe(prompt=said, **neg, height=64, width=64, max_sequence_length=32, latents=v.pack(v.noise(2)), sigmas=(1-knots)[:-1].tolist(), num_inference_steps=4, output_type='latent', **kw).images
    assert (sample(v, v.noise(2), knots)-v.unpack(out)).abs().max() < 1e-4

def test_what_does_not_fit_a_pipeline():
    sd3, dev = tiny_sd3(), tiny_flux(); e = tiny_embeds(sd3); v = pipeline_velocity(sd3, **e); w3 = pipeline_velocity(sd3, **tiny_embeds(sd3, 3))
    for f,msg in ((lambda: pipeline_velocity(sd3, **tiny_embeds(sd3, negative=False)), 'needs negative embeddings'), (lambda: pipeline_velocity(sd3, height=72, **e), 'multiple of 16'),
                  (lambda: pipeline_velocity(sd3), 'either prompt or prompt_embeds'), (lambda: pipeline_velocity(sd3, 'a cat'), 'no text encoder'), (lambda: pipeline_velocity(sd3, true_cfg_scale=2., **e), 'takes no true_cfg_scale'),
                  (lambda: pipeline_velocity(sd3, prompt_embed=1, **e), 'prompt_embed is not'), (lambda: pipeline_velocity(sd3, prompt_embeds=e['prompt_embeds'], guidance_scale=1), 'must come with pooled_prompt_embeds'),
                  (lambda: pipeline_velocity(dev, true_cfg_scale=2., **tiny_embeds(dev, negative=False)), 'negative embeddings'), (lambda: pipeline_velocity(sd3, **{**e, 'pooled_prompt_embeds':torch.randn(2,64)}), 'must hold 1 prompts'),
                  (lambda: w3(w3.noise(4), torch.zeros(4)), 'must hold 3 samples'), (lambda: w3(w3.noise(2), torch.zeros(2), prompt_index=[0,3]), 'from 0 to 2'), (lambda: v(torch.randn(2,4,8,10), torch.zeros(2)), r'\(b, 4, 8, 8\)')):
        with pytest.raises(ValueError, match=msg): f()
    assert (v.nfe_per_call, v.guided, v.training, v.float32_time, v.shape)==(2, True, False, True, (4,8,8))
    assert 'latents (4, 8, 8), 1 prompts, 2 evaluations per call' in v.extra_repr()

def test_other_schedulers_and_pipelines():
    d, sd3 = diffusers, tiny_sd3(); e, t = tiny_embeds(sd3), torch.zeros(4); z = pipeline_velocity(sd3, **e).noise(4)
    class Other: scheduler = sd3.scheduler
    with pytest.raises(ValueError, match='must be one of StableDiffusion3Pipeline'): pipeline_velocity(Other())
    odd = tiny_sd3(); odd.scheduler = d.DDIMScheduler()
    with pytest.raises(ValueError, match='not known to be a flow'): pipeline_velocity(odd, **e)
    odd.scheduler = d.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type='flow_prediction')
    with pytest.raises(ValueError, match='plain_scheduler'): pipeline_velocity(odd, **e)
    odd.scheduler = plain_scheduler(odd.scheduler); assert torch.allclose(pipeline_velocity(odd, **e)(z, t), pipeline_velocity(sd3, **e)(z, t), atol=1e-4)

def test_schedulers_that_cannot_be_inverted():
    plan, T = Schedule([0,.1,.35,.6,1.]), Euler(shift_terminal=.1)
    for flag in ('use_karras_sigmas','use_exponential_sigmas','use_beta_sigmas','invert_sigmas','stochastic_sampling'):
        with pytest.raises(ValueError, match=flag): scheduler_sigmas(Euler(**{flag:True}), plan)
    for f,msg in ((lambda: scheduler_sigmas(T, plan), r'terminal_schedule\(cal, nfe, 0.1\)'), (lambda: scheduler_sigmas(T, 1), 'shift_terminal=0.1'), (lambda: scheduler_sigmas(Euler(use_dynamic_shifting=True), plan), 'needs mu'),
                  (lambda: scheduler_sigmas(T, [0.,.5]), 'must end at t=1'), (lambda: scheduler_sigmas(Heun(), plan), 'heun_scheduler')):
        with pytest.raises(ValueError, match=msg): f()
    assert plain_scheduler(Euler(stochastic_sampling=True)).config.stochastic_sampling is False
    assert scheduler_sigmas(T, [.9,1.])==[1-.9] and scheduler_sigmas(plain_scheduler(T), plan)==(1-plan.knots)[:-1].tolist()
    with pytest.warns(UserWarning): scheduler_sigmas(Euler(shift=3.), Schedule(plan.knots, solver='ab2'))

def test_mu_is_that_of_diffusers():
    import sys
    dev, plan = tiny_flux(), Schedule([0,.1,.35,.6,1.]); shift_of = sys.modules[diffusers.FluxPipeline.__module__].calculate_shift
    assert pipeline_mu(dev, 1024, 768)==pytest.approx(shift_of(64*48)) and pipeline_mu(tiny_sd3(), 64, 64) is None
    assert pipeline_mu(tiny_sd3(use_dynamic_shifting=True), 1024, 1024)==pytest.approx(shift_of(64*64))
    set_schedule(dev, plan); assert (dev.scheduler.sigmas-(1-plan.knots)).abs().max() < 1e-6 and len(set_schedule(Euler(shift=3.), uniform(20)))==20
    small = set_schedule(dev, plan, height=64, width=64); dev.scheduler.set_timesteps(sigmas=small, mu=pipeline_mu(dev, 1024, 1024))
    assert (dev.scheduler.sigmas-(1-plan.knots)).abs().max() > .05                                     # at another size these are other sigmas

def test_terminal_schedules_refuse():
    pipe = tiny_sd3(); v = pipeline_velocity(pipe, **tiny_embeds(pipe)); cal = calibrate(v, v.noise(3), 40, progress=False)
    for args,msg in (((6, .013), 'calibrate with a grid'), ((1, .1), 'least 2 and at most 37')):
        with pytest.raises(ValueError, match=msg): terminal_schedule(cal, *args)
    s = terminal_schedule(cal, 6, .1); assert s.cost==pytest.approx(cal.cost_of(s)) and s.cost >= cal.schedule(6).cost

def test_what_a_lora_file_refuses(tmp_path):
    from safetensors.torch import save_file
    pipe = tiny_sd3(); v = pipeline_velocity(pipe, **tiny_embeds(pipe)); net, plans = add_lora(v, 2, targets=list(attention_layers)), [uniform(2), uniform(4)]
    p = save_pipeline_lora(tmp_path, net, plans); deeper = quiet(tiny_sd3()); deeper.transformer.transformer_blocks.append(copy.deepcopy(deeper.transformer.transformer_blocks[0]))
    for f,msg in ((lambda: use_lora_schedule(pipe, p, 8), 'refusing a mismatched NFE'), (lambda: use_lora_schedule(pipe, p), r'one of \[2, 4\]'), (lambda: use_lora_schedule(tiny_flux(), p, 4), 'made for a SD3Transformer2DModel'),
                  (lambda: use_lora_schedule(deeper, p, 4), 'another SD3Transformer2DModel'), (lambda: save_pipeline_lora(tmp_path/'n', v, plans), 'has no LoRA'), (lambda: save_pipeline_lora(tmp_path/'n', net), 'at least one Schedule')):
        with pytest.raises(ValueError, match=msg): f()
    with pytest.raises(FileNotFoundError, match='no such file'): lora_schedules('nowhere')
    foreign = tmp_path/'x.safetensors'; save_file({'a':torch.zeros(1)}, foreign)
    with pytest.raises(ValueError, match='carries no schedule'): lora_schedules(foreign)
    foreign.write_bytes(p.read_bytes()[:1000])
    with pytest.raises(ValueError, match='not a readable safetensors file'): lora_schedules(foreign)

def test_an_unfinished_subclass():
    pipe = tiny_sd3(); e = tiny_embeds(pipe)
    class Half(bd.PipelineVelocity):
        def encode(self, pipe, prompt, negative_prompt, kw): return kw
    with pytest.raises(NotImplementedError, match='must define encode'): bd.PipelineVelocity(pipe, **e)
    with pytest.raises(NotImplementedError, match='Half must define predict'): Half(pipe, **e)(torch.zeros(2,4,8,8), torch.zeros(2))

def test_importing_stays_light():
    import subprocess, sys
    code = ("import boss_nb.share.tiny as m, boss_nb.share.pipelines, boss_nb.share.lora, sys; "
            "assert not {'diffusers','transformers'} & set(sys.modules); sys.modules['diffusers'] = None; m.tiny_sd3()")
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert r.stderr.strip().endswith('(import of diffusers halted; None in sys.modules)') and 'pip install boss_nb[diffusers]' in r.stderr, r.stderr

def test_sigmas_there_and_back(tmp_path):
    s = uniform(7)
    for name in ('s.json','s.txt'):
        comfy_sigmas(s, tmp_path/name); assert (read_sigmas(tmp_path/name).knots-s.knots).abs().max() < 1e-6 and read_sigmas(str(tmp_path/name))==read_sigmas(tmp_path/name)
    assert comfy_sigmas([0,.5,1])=='1.0, 0.5, 0.0' and read_sigmas('1.0, 0.5, 0.0').nfe==2
    with pytest.raises(ValueError, match='does not hold sigmas'): read_sigmas('[[1.0], 0.0]')
