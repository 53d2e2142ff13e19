"A run for `test_loop.py` to kill, interrupt and spread over processes: loop_script.py FOLDER KEY=VALUE..."
import copy, json, os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from boss_nb.core import noise, set_seed
from boss_nb.train.generator import GeneratorMatchingCallback, OnlineSettings
from boss_nb.train.loop import fit_method
from boss_nb.train.processes import join_processes, world
from boss_nb.flow.nets import MLP
from boss_nb.sample.schedule import uniform
from boss_nb.train.states import States, teacher_states
from boss_nb.train.lora import add_lora
from boss_nb.train.intervals import StraightenCallback

folder, kw = Path(sys.argv[1]), dict(o.split('=') for o in sys.argv[2:])
join_processes()
set_seed(0); net = MLP(2, 16, 2)
t = torch.linspace(0, 1, 11, dtype=torch.float64)
states = States.of(teacher_states(net, noise(200, (2,)), [0,5,10], t, progress=False), t[[0,5,10]])
teacher = net
if kw.get('rank'): net = add_lora(net, int(kw['rank']))
generate = kw.get('method')=='generator'
class Slow(GeneratorMatchingCallback if generate else StraightenCallback):
    def before_batch(self):
        super().before_batch()
        if world()[0]==1 and str(self.train_state.step)==kw.get('interrupt'): os.kill(os.getpid(), signal.SIGINT)
        print('step', self.train_state.step, flush=True); time.sleep(float(kw.get('sleep', 0)))
if generate:
    net = copy.deepcopy(teacher)
    for p in net.parameters(): p.data.mul_(1.1)
online = OnlineSettings(ratio=2, online_warmup=4)
limit = float(kw['limit']) if 'limit' in kw else None
method = Slow(teacher, copy.deepcopy(teacher), (2,), limit=limit, settings=online) if generate else Slow(uniform(2), states)
learn = fit_method(net, method, int(kw.get('n_iter', 40)), int(kw.get('bs', 32)), float(kw.get('lr', 1e-2)), accumulate=int(kw.get('accumulate', 1)), valid=64, folder=None if kw.get('plain') else folder/'run', save_every=5, progress=False)
if world()[0]==0:
    (folder/'result.json').write_text(json.dumps(dict(losses=torch.stack(learn.loss_recorder.losses).tolist(), weights=[p.flatten().tolist() for m in (learn.model.net, *([method.online] if generate else [])) for p in m.parameters()], world=world()[1], before=learn.before, after=learn.after)))
