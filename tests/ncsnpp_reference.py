"""A naive NCSN++ forward pass to check the package against.

Written from facts of the layout alone, without looking at the package: one pass over the
flat list `all_modules` with a counter, plain operations only, everything in the dtype of `x`.
"""
import math
from itertools import count

import torch
import torch.nn.functional as F


def _swish(x): return x * torch.sigmoid(x)


def _fir(x, m, gain, stride):
    k = torch.tensor(m['fir_kernel'], dtype=x.dtype, device=x.device)
    k = gain * k[:, None] * k[None, :] / k.sum() ** 2
    return F.conv2d(x, k.repeat(x.shape[1], 1, 1, 1), stride=stride, groups=x.shape[1])


def _up(x, m):
    if not m['fir']: return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    z = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    z[:, :, ::2, ::2] = x
    return _fir(F.pad(z, (2, 1, 2, 1)), m, 4, 1)


def _down(x, m):
    if m['fir']: return _fir(F.pad(x, (1, 1, 1, 1)), m, 1, 2)
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean((3, 5))


def reference(state, config, x, label):
    "Output of the network with weights `state` (no `module.` prefix) at `x` (b,c,h,w) and time label `label` (b,)"
    m, d, used, index = config['model'], config['data'], set(), count()
    assert (m['resblock_type'], list(m['fir_kernel'])) == ('biggan', [1, 3, 3, 1]) and x.shape[-1] == d['image_size']
    nf, mults, label, root = m['nf'], m['ch_mult'], label.to(x), math.sqrt(2) if m['skip_rescale'] else 1

    def step(): return f'all_modules.{next(index)}'

    def p(name):
        used.add(name)
        return state[name].to(x)

    def linear(n, v): return torch.einsum('bi,oi->bo', v, p(n + '.weight')) + p(n + '.bias')

    def conv(n, v): return F.conv2d(v, p(n + '.weight'), p(n + '.bias'), padding=state[n + '.weight'].shape[-1] // 2)

    def nin(n, v): return torch.einsum('bchw,cd->bdhw', v, p(n + '.W')) + p(n + '.b')[:, None, None]

    def norm(n, v):
        g = v.reshape(len(v), min(v.shape[1] // 4, 32), -1)
        g = g - g.mean(2, keepdim=True)
        g = g / torch.sqrt((g * g).mean(2, keepdim=True) + 1e-6)
        return g.reshape(v.shape) * p(n + '.weight')[:, None, None] + p(n + '.bias')[:, None, None]

    def block(v, channels, resample=None):
        n, shortcut = step(), bool(resample) or v.shape[1] != channels
        h = _swish(norm(n + '.GroupNorm_0', v))
        if resample: h, v = resample(h, m), resample(v, m)
        h = conv(n + '.Conv_0', h) + linear(n + '.Dense_0', _swish(temb))[:, :, None, None]
        h = conv(n + '.Conv_1', _swish(norm(n + '.GroupNorm_1', h)))
        return ((conv(n + '.Conv_2', v) if shortcut else v) + h) / root

    def attention(v):
        n = step()
        g = norm(n + '.GroupNorm_0', v)
        q, k, u = (nin(f'{n}.NIN_{i}', g).flatten(2) for i in range(3))
        a = torch.softmax(torch.einsum('bci,bcj->bij', q, k) / math.sqrt(v.shape[1]), 2)
        return (v + nin(n + '.NIN_3', torch.einsum('bij,bcj->bci', a, u).reshape(v.shape))) / root

    def head(v):
        v = _swish(norm(step(), v))
        return conv(step(), v)

    if m['embedding_type'] == 'fourier': angle = 2 * math.pi * label.log()[:, None] * p(step() + '.W')
    else:
        i = torch.arange(nf // 2, dtype=x.dtype, device=x.device)
        angle = label[:, None] * torch.exp(-math.log(10000) * i / (nf // 2 - 1))
    temb = linear(step(), torch.cat([angle.sin(), angle.cos()], 1))
    temb = linear(step(), _swish(temb))

    pyramid = x if d['centered'] else 2 * x - 1
    kept, out = [conv(step(), pyramid)], None
    listed = [d['image_size'] // 2 ** level in m['attn_resolutions'] for level in range(len(mults))]
    for level, mult in enumerate(mults):
        for _ in range(m['num_res_blocks']):
            h = block(kept[-1], nf * mult)
            kept.append(attention(h) if listed[level] else h)
        if level == len(mults) - 1: break
        h = block(kept[-1], nf * mult, _down)
        if m['progressive_input'] == 'input_skip':
            pyramid = _down(pyramid, m)
            h = h + conv(step() + '.Conv_0', pyramid)
        kept.append(h)
    h = block(kept[-1], nf * mults[-1])
    h = block(attention(h), nf * mults[-1])
    for level, mult in reversed(list(enumerate(mults))):
        for _ in range(m['num_res_blocks'] + 1): h = block(torch.cat([h, kept.pop()], 1), nf * mult)
        if listed[level]: h = attention(h)
        if m['progressive'] == 'output_skip': out = head(h) if out is None else _up(out, m) + head(h)
        if level > 0: h = block(h, nf * mult, _up)
    if m['progressive'] == 'none': out = head(h)

    unused = set(state) - used - {'sigmas'}
    assert not kept and not unused, f'left over: {len(kept)} activations, weights {sorted(unused)}'
    return out / label[:, None, None, None] if m['scale_by_sigma'] else out
