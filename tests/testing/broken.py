"""Variants with one fault each; the suite has to find every one of them."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from softmap import Edit
from softmap.variants import Parts, variant


class Scores(Edit):
    def __init__(self, place):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(place.heads))

    def layer_tensors(self):
        return {"w": self.weight}


class Leak(Scores):
    """Reads the score of the next key, which is not masked."""

    def edit(self, m, band, t):
        return m + torch.roll(m, -1, -1)


class Length(Scores):
    """Depends on how many keys the array holds."""

    def edit(self, m, band, t):
        return m * (1 + 0.1 * m.shape[-1])


class Hidden(Scores):
    """Reads a parameter instead of being given it: bands lose its gradient."""

    def layer_tensors(self):
        return {}

    def edit(self, m, band, t):
        return m * self.weight[:, None, None]


class Detached(Scores):
    """Cuts the gradient of its parameter."""

    def edit(self, m, band, t):
        return m * t["w"].detach()[:, None, None]


class Behind(Scores):
    """Reads a submodule's weight from outside: hooks that load it never see a call."""

    def __init__(self, place):
        super().__init__(place)
        self.mix = nn.Linear(place.heads, 1)

    def layer_tensors(self):
        return {"w": self.weight * self.mix.weight[0]}

    def edit(self, m, band, t):
        return m * t["w"][:, None, None]


class Stuck(Scores):
    """A clamp that a parameter never comes back from."""

    def layer_tensors(self):
        return {"w": self.weight.clamp(min=0.5)}

    def edit(self, m, band, t):
        return m * t["w"][:, None, None]


class Scalar(Scores):
    """A parameter without an axis."""

    def __init__(self, place):
        super().__init__(place)
        self.weight = nn.Parameter(torch.tensor(1.0))

    def edit(self, m, band, t):
        return m * t["w"]


class NoHalo(Scores):
    """Reads the row above and does not say so."""

    def edit(self, m, band, t):
        return m + F.pad(band.zero(m), (0, 0, 1, 0))[:, :, :-1]


class NoPad(Scores):
    """Reads a hidden map beyond the diagonal and does not say so."""

    def edit(self, m, band, t):
        hidden = F.pad((band.zero(m) + 1).exp(), (0, 1))
        return m + hidden[..., 1:]


class Places(Scores):
    """Takes places in the array for positions of tokens."""

    def edit(self, m, band, t):
        return m + torch.arange(m.shape[-1]).sin()


class Distant(Scores):
    """Reads distances, which the keys of another sequence do not have, and does not say so."""

    def edit(self, m, band, t):
        return m - 0.1 * t["w"][:, None, None] * band.distance.abs()


class Across(Scores):
    """Reads the score of the key before, which may be another document's."""

    def edit(self, m, band, t):
        return m + F.pad(m, (1, 0))[..., :-1]


class Unmasked(Scores):
    """Says that it keeps zeros and does not."""

    stage, keeps_zeros = "weights", True

    def edit(self, m, band, t):
        return m + 0.1


class WrongFold(Scores):
    """Its closed form is of another edit."""

    stage, folds_output = "weights", True

    def edit(self, m, band, t):
        return m * t["w"][:, None, None]

    def fold_output(self, o, rows, t):
        return o * t["w"][:, None, None] * 1.01


class Unsaved(Scores):
    """Starts from random numbers that are not saved."""

    def __init__(self, place):
        super().__init__(place)
        self.register_buffer("start", torch.rand(place.heads), persistent=False)

    def layer_tensors(self):
        return {"w": self.weight * self.start}

    def edit(self, m, band, t):
        return m * t["w"][:, None, None]


class LongLeak(Scores):
    """Reads later keys where there are many."""

    def edit(self, m, band, t):
        return m + 0.1 * m.flip(-1) if m.shape[-1] > 24 else m + 0


class TrainingLeak(Scores):
    """Reads later keys while it is trained."""

    def edit(self, m, band, t):
        return m + 0.1 * m.roll(-1, -1) if self.training else m + 0


class RunningKey(Scores):
    """Its key tensor reads every token before."""

    stage = "weights"

    def __init__(self, place):
        super().__init__(place)
        self.mlp = nn.Linear(place.dim, place.heads)

    def key_tensors(self, x):
        return {"c": self.mlp(x).cumsum(1)}

    def edit(self, m, band, t):
        return m * t["c"].transpose(1, 2)[:, :, None].to(m.dtype)


class RunningQuery(RunningKey):
    """Its query tensor reads every token of its sequence."""

    def key_tensors(self, x):
        return {}

    def query_tensors(self, x):
        return {"c": self.mlp(x - x.mean(1, keepdim=True))}

    def edit(self, m, band, t):
        return m * t["c"].transpose(1, 2)[..., None].to(m.dtype)


class BatchKey(RunningKey):
    """Its key tensor reads every token of the batch."""

    def key_tensors(self, x):
        return {"c": self.mlp(x / x.std((0, 1)))}


class PlaceKey(RunningKey):
    """Its key tensor reads where its token stands among those that it is given."""

    def key_tensors(self, x):
        return {"c": self.mlp(x) + torch.arange(x.shape[1])[:, None]}


def _make(cls):
    @variant(cls.__name__.lower(), cls.__name__)
    def make():
        return Parts(**{cls.stage: [partial(cls)]})

    return make


leak, length, hidden, detached, nohalo, nopad, places, across, unmasked, wrongfold, unsaved = map(
    _make,
    (Leak, Length, Hidden, Detached, NoHalo, NoPad, Places, Across, Unmasked, WrongFold, Unsaved),
)
behind, stuck, scalar, longleak, trainingleak = map(
    _make, (Behind, Stuck, Scalar, LongLeak, TrainingLeak)
)
runningkey, runningquery, batchkey, placekey, distant = map(
    _make, (RunningKey, RunningQuery, BatchKey, PlaceKey, Distant)
)


class Raises(Scores):
    """Fails when it is used."""

    def edit(self, m, band, t):
        raise KeyError("no such tensor")


class Nothing(Scores):
    """Forgets to return the map."""

    def edit(self, m, band, t):
        m * t["w"][:, None, None]


class Narrow(Scores):
    """Returns one row too few."""

    def edit(self, m, band, t):
        return m[:, :, 1:]


class Coarse(Scores):
    """Returns another dtype."""

    def edit(self, m, band, t):
        return m.to(torch.bfloat16)


class InPlace(Scores):
    """Works on the map that it is given."""

    def edit(self, m, band, t):
        return m.mul_(t["w"][:, None, None])


class InPlaceTensor(Scores):
    """Works on a tensor that it is given."""

    def edit(self, m, band, t):
        return m * t["w"].add_(1.0)[:, None, None]


class CutMap(Scores):
    """Cuts the gradient of the map."""

    def edit(self, m, band, t):
        return m.detach() * t["w"][:, None, None]


class Random(Scores):
    """Draws at random inside."""

    def edit(self, m, band, t):
        return m + torch.rand(())


class Counts(Scores):
    """Keeps a state between calls."""

    calls = 0

    def edit(self, m, band, t):
        self.calls += 1
        return m * self.calls


class Prints(Scores):
    """Leaves a debugging line on standard output."""

    def edit(self, m, band, t):
        print("shape", m.shape)
        return m * t["w"][:, None, None]


class Rows(Scores):
    """Mixes the sequences of the batch."""

    def edit(self, m, band, t):
        return m - m.mean(0, keepdim=True)


class Infinite(Scores):
    """Makes numbers that are none."""

    def edit(self, m, band, t):
        return m / torch.zeros_like(m)


OF_ONE_EDIT = (
    Raises, Nothing, Narrow, Coarse, InPlace, InPlaceTensor,
    CutMap, Random, Counts, Prints, Rows, Infinite,
)  # fmt: skip
(
    raises, nothing, narrow, coarse, inplace, inplacetensor,
    cutmap, random, counts, prints, rows, infinite,
) = map(_make, OF_ONE_EDIT)  # fmt: skip
