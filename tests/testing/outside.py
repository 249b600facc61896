"""Multi-token attention (Golovneva et al. 2025, arXiv 2504.00927) in a user's own file."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from softmap import Edit
from softmap.variants import Parts, variant


class QueryKeyConv(Edit):
    """S'[h,i,j] = sum_{a<c, |b|<=k//2} w[h,a,b] S[h,i-a,j+b], on causally zeroed scores."""

    def __init__(self, place, rows, keys, stage):
        super().__init__()
        self.stage, self.halo, self.pad = stage, rows - 1, keys // 2
        start = torch.zeros(place.heads, 1, rows, keys)
        start[:, :, -1, keys // 2] = 1.0
        self.weight = nn.Parameter(start)

    def layer_tensors(self):
        return {"w": self.weight}

    def edit(self, m, band, t):
        m = F.pad(band.zero(m), (self.pad, self.pad, self.halo, 0))
        return F.conv2d(m, t["w"].to(m.dtype), groups=m.shape[1])


@variant("multi-token", "Multi-token attention", paper="arXiv 2504.00927")
def multi_token(*, rows: int = 3, keys: int = 3, post: bool = False):
    """Scores (post: weights too) convolved over the last rows and the neighbouring keys."""
    conv = partial(QueryKeyConv, rows=rows, keys=keys)
    stages = {"scores": [partial(conv, stage="scores")]}
    return Parts(**stages, weights=[partial(conv, stage="weights")] if post else [])
