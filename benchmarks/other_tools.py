"Other tools' way from images to statistics, with the same network and the same random weights as ours"
import functools, io
import torch
from torch import nn
from boss_nb.judge.extractors import random_inception

@functools.cache
def fidelity_net(device):
    "torch-fidelity's Inception with our random weights, uint8 images → features `(b, 2048)`"
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    f = io.BytesIO()
    torch.save(random_inception(), f)
    f.seek(0)
    return FeatureExtractorInceptionV3('inception', ['2048'], feature_extractor_weights_path=f).to(device)

def fidelity(x, bs, device=None):
    "A function of no arguments: torch-fidelity from images `x`, uint8, to mean and covariance"
    from torch_fidelity.metric_fid import fid_features_to_statistics
    device = device or x.device
    net = fidelity_net(device)
    @torch.no_grad()
    def f(): return fid_features_to_statistics(torch.cat([net(b.to(device))[0] for b in x.split(bs)]).cpu())
    return f

class First(nn.Module):
    "The first output of a network, for torchmetrics"
    def __init__(self, net, num_features):
        super().__init__()
        self.net, self.num_features = net, num_features
    def forward(self, x):
        y = self.net(x)
        return y[0] if isinstance(y, tuple) else y

def metrics(x, bs, device=None, net=None, dim=2048):
    "A function of no arguments: torchmetrics from uint8 images to its sums; `net` makes `dim` features"
    from torchmetrics.image.fid import FrechetInceptionDistance
    device = device or x.device
    fid = FrechetInceptionDistance(First(fidelity_net(device) if net is None else net, dim)).to(device)
    @torch.no_grad()
    def f():
        fid.reset()
        for b in x.split(bs): fid.update(b.to(device), real=True)
        return fid.real_features_cov_sum
    return f
