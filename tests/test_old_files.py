"Files that 0.1 wrote: they load, and give the samples and costs that 0.1 computed"
import json
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from boss_nb.files import fingerprint
from boss_nb.flow.nets import load_net, MLP
from boss_nb.plan.costs import Calibration
from boss_nb.sample.schedule import Schedule
from boss_nb.sample.solvers import sample
from boss_nb.share.bundle import Bundle
from boss_nb.share.students import load_plan, load_student
from boss_nb.train.states import States, store_states, teacher_states

old = Path(__file__).parent/'data'/'v0.1'
want = load_file(old/'expected.safetensors')
z = want['noise']

def near(a, b): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

@pytest.fixture
def net(): return load_net(old/'net.safetensors', 'cpu')

@pytest.fixture
def plans(): return load_plan(old/'plan.json')

def test_network(net):
    assert net.meta['note']=='0.1' and net.meta['version']=='0.1.0'
    near(sample(net, z, 3), want['net'])

def test_fingerprint_is_the_recorded_one(net):
    assert fingerprint(net)==(old/'fingerprint.txt').read_text().strip()

def test_plans(net, plans, recwarn):
    again = load_plan(old/'plan.json', net)                       # the network it was made for
    assert [s.knots.tolist() for s in again]==[s.knots.tolist() for s in plans] and not recwarn.list
    assert [(s.steps, s.solver) for s in plans[:2]]==[(2,'euler'), (3,'multistep')] and len(plans)==3
    near(sample(net, z, plans[1]), want['multistep'])
    one = Schedule.load(old/'schedule.json')
    assert torch.equal(one.knots, plans[1].knots) and one.coefs==plans[1].coefs

@pytest.mark.filterwarnings('ignore')
def test_a_plan_of_another_network_is_noticed(net):
    other = MLP(2, 8).eval().requires_grad_(False)
    with pytest.warns(UserWarning, match='another network'): load_plan(old/'plan.json', other)

@pytest.mark.parametrize('file', ['calibration', 'calibration_mean'])
def test_calibrations(net, file):
    cal = Calibration.load(old/f'{file}.safetensors')
    torch.testing.assert_close(cal.cost.clamp_max(1e9), want['cost'], rtol=1e-12, atol=0)
    assert cal.n==6 and cal.teacher_steps==8 and cal.solver=='euler' and cal.meta['seed']==0
    assert cal.growth is not None                                 # 0.1 called it gain
    known = json.loads((old/'plan.json').read_text())['schedules'][0]
    assert cal.schedule(2).knots.tolist()==known['knots'] and cal.schedule(2).cost==pytest.approx(known['cost'])
    assert cal.schedule(2, power=1.).steps==2

@pytest.mark.parametrize('kind', ['full', 'lora'])
def test_students(net, plans, kind):
    s = load_student(old/f'{kind}.safetensors', net if kind=='lora' else None)
    assert s.schedule.knots.tolist()==plans[0].knots.tolist()
    near(sample(s, z, plans[0]), want[kind])
    assert fingerprint(s)!=fingerprint(net)

def test_a_lora_is_refused_by_another_base():
    with pytest.raises(ValueError, match='another base'):
        load_student(old/'lora.safetensors', MLP(2, 8).eval().requires_grad_(False))

def test_bundle(plans):
    b = Bundle.from_pretrained(old/'bundle')
    assert b.meta['note']=='0.1' and b.shape==(2,)
    near(sample(b, z, b.pick(2)), want['lora'])

def test_states(net):
    s = States.open(old/'states')
    assert len(s)==5 and s.shape==(2,) and s.times.tolist()==[0, .5, 1]
    x0 = torch.as_tensor(s.data[:, 0])
    near(torch.as_tensor(s.data[:]), teacher_states(net, x0, [0, 4, 8], 8, progress=False))
