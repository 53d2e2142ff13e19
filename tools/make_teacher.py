"Make the Fashion-MNIST networks of the package: `python tools/make_teacher.py [classifier autoencoder latents | pixels]`"
import argparse, datetime, sys, time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))

def make(what, a):
    "Train one network, or go on with it, and write it as float16"
    import torch
    from boss_nb.train.package import train_fashion
    from boss_nb.flow.nets import load_net, n_params, save_net
    ae = a.out/'fashion_autoencoder.safetensors'
    changes = dict(n_iter=12, bs=16) if a.quick else {}
    began, small = time.time(), None
    if a.quick:
        from boss_nb.flow.data import fashion_mnist
        small = tuple(o[:400] for o in fashion_mnist('train'))
    net = train_fashion(what, a.runs/what, a.minutes, load_net(a.start) if a.start else None,
        load_net(ae, a.device) if what=='latents' and ae.is_file() else None, small, a.device, a.seed, save_every=a.save_every, **changes)
    shape = {'classifier': (1,28,28), 'autoencoder': (1,28,28), 'latents': (4,7,7), 'pixels': (1,28,28)}[what]
    f = save_net(a.out/f'fashion_{what}.safetensors', net, torch.float16, shape=shape, **net.facts, date=str(datetime.date.today()))
    print(f'{f}: {n_params(net)/1e6:.2f}M parameters, {f.stat().st_size/1e6:.2f} MB, {net.facts}, {time.time()-began:.0f} s now', flush=True)

def main():
    kinds = ['classifier', 'autoencoder', 'latents', 'pixels']
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('what', nargs='*', help=f'some of {", ".join(kinds)}; default the first three')
    p.add_argument('--runs', type=Path, help='folder of the runs: interrupted ones go on from there; default .cache/fashion, with --quick runs in --out')
    p.add_argument('--out', type=Path, default=root/'boss_nb'/'weights', help='folder of the results')
    p.add_argument('--start', type=Path, help='network to go on from, a file of --out')
    p.add_argument('--minutes', type=float, help="how long to train, default the recipe's steps")
    p.add_argument('--device', help='cpu, cuda, mps; default the best there is')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--save-every', type=int, default=200, help='steps between checkpoints')
    p.add_argument('--quick', action='store_true', help='does it run? twelve steps on 400 images')
    a = p.parse_args()
    if odd := [o for o in a.what if o not in kinds]: p.error(f"what must be some of {', '.join(kinds)}, got {', '.join(odd)}")
    if a.quick and a.out==root/'boss_nb'/'weights': p.error('--quick needs --out: it would replace the networks of the package')
    if a.start and len(a.what)!=1: p.error(f'--start is a file of one network: name which, got {a.what or kinds[:3]}')
    a.runs = a.runs or (a.out/'runs' if a.quick else root/'.cache'/'fashion')
    for what in a.what or kinds[:3]: make(what, a)

if __name__ == '__main__': main()
