"""Draw the picture that a link to the site shows, `nbs/images/card.png`, 1200 by 630: `python tools/social_card.py [FILE]`

Where the digits teacher of the package bends, where the planned knots of each budget go, and digits of the demo
(`nbs/images/digits.png`): the teacher's hundred steps above four steps of the network straightened to them."""
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
from boss_nb.plan.costs import calibrate
from boss_nb.core import noise
from boss_nb.flow.nets import digits_teacher

BLUE, PALE, WHITE = '#163f70', '#9cc4f0', '#ffffff'

def bands(a):
    "First and one past the last index of each run of true values"
    edge = np.flatnonzero(np.diff(np.r_[0, a.astype(int), 0]))
    return list(zip(edge[::2], edge[1::2]))

def digit_rows(path):
    "The rows of pictures in the demo's figure, without its labels: one array of grey tiles `(columns, h, w)` for each row"
    im = plt.imread(path)[...,:3].mean(-1)
    rows = bands((im < .05).sum(1) > im.shape[1]/12)                      # tiles are mostly black, labels are not
    cols = bands((im[slice(*rows[0])] < .9).any(0))[-14:]
    if len(rows)!=5 or len(cols)!=14: sys.exit(f'social_card: error: {path} has {len(rows)} rows and {len(cols)} columns of digits, not 5 and 14')
    return [[im[a:b,c:d] for c,d in cols] for a,b in rows]

def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else root/'nbs'/'images'/'card.png'
    rows = digit_rows(root/'nbs'/'images'/'digits.png')
    cal, budgets = calibrate(digits_teacher(), noise(100, (1,8,8)), progress=False), (2, 3, 4, 6, 8, 10)
    fig = plt.figure(figsize=(12, 6.3), dpi=100, facecolor=BLUE)
    fig.text(.055, .845, 'boss_nb', fontsize=52, weight='bold', color=WHITE, va='center')
    fig.text(.057, .725, 'Few-step sampling for flow-matching models:\nplan the steps, straighten the network, measure the result', fontsize=20, color=PALE, va='center', linespacing=1.4)

    ax = fig.add_axes([.105, .175, .4, .43], facecolor=BLUE)
    ax.fill_between(cal.t[1:-1], cal.rate/cal.rate.max()*(len(budgets)-.3)-.55, -.55, color=PALE, alpha=.28, lw=0)
    for y,k in enumerate(budgets): ax.plot(cal.schedule(k).knots, [y]*(k+1), '|-', ms=20, mew=2.6, lw=1.2, color=WHITE)
    ax.set_yticks(range(len(budgets)), budgets); ax.set_ylim(-.55, len(budgets)-.45); ax.set_xlim(-.02, 1.02)
    ax.set_xticks([0, 1], ['noise', 'data']); ax.tick_params(colors=PALE, labelsize=16, length=0, pad=6)
    ax.set_ylabel('steps', fontsize=16, color=PALE)
    ax.set_xlabel('planned steps, over how much the flow bends', fontsize=15, color=PALE, labelpad=8)
    ax.spines[:].set_visible(False)

    n, w = 7, .052
    for r,(i,label) in enumerate(((0, 'teacher, 100 steps'), (1, 'teacher, 4 equal steps'), (4, 'straightened, 4 planned steps'))):
        top = .605-r*.19
        fig.text(.565, top-.025, label, fontsize=16, color=WHITE if i==4 else PALE, weight='bold' if i==4 else None)
        for c in range(n):
            t = fig.add_axes([.565+c*(w+.003), top-.04-w*12/6.3, w, w*12/6.3]); t.imshow(rows[i][c], cmap='gray', vmin=0, vmax=1, interpolation='nearest'); t.axis('off')
    fig.savefig(out, facecolor=BLUE, pil_kwargs=dict(optimize=True))
    print(f'{out}: {out.stat().st_size/1000:.0f} kB')

if __name__ == '__main__': main()
