"""The check of each edit by itself: a pure function of its arguments."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import torch
from torch import Tensor

from softmap.maps import Band, Edit, Rows, Tensors
from softmap.nn import Attention
from softmap.nn.positions import Positions
from softmap.ops.call import Call, bag, band_of, pad_keys
from softmap.ops.heads import combine, scores
from softmap.testing.compare import HEADS, MAP, assert_same, difference
from softmap.testing.subject import CheckSubject, call_of
from softmap.variants import by_token

TOKENS, LATER = 7, 4  # the tokens of the map, and the first of those that are changed


def pure_edits(subject: CheckSubject) -> None:
    """Each edit gives a map of the promised shape, dtype and device; twice the same; with a
    gradient for all that it was handed; without changing it, drawing random numbers, printing, or
    reading a parameter of its own; and no row from later tokens or another sequence. Its query and
    key tensors are functions of one token each."""
    layer, x = subject.layer(), subject.input(2, TOKENS)
    with torch.no_grad():
        of_one_token(layer, x)
        call = call_of(layer, x)
        for probe in _probes(call):
            probe.out = probe.checked()


def of_one_token(layer: Attention, x: Tensor) -> None:
    """Assert that query and key tensors of a token among others, x (B, T, D), are those of the
    token alone.
    """
    sides = ("among others it is", "alone")
    q, k, _ = layer.project(x, Positions.of(x.shape[1], None, x.device))
    for edit in layer.edits:
        for what, among, alone in by_token(edit, x, q, k):  # type: ignore[arg-type]
            axes = ("sequence", "token", *["index"] * (among.ndim - 2))
            assert_same(among, alone, what, sides=sides, axes=axes)


class _Probe:
    """An edit with the map, band and tensors that it gets in a call."""

    def __init__(self, edit: Edit, m: Tensor, band: Band | Rows, given: Tensors) -> None:
        self.edit, self.m, self.band = edit, m, band
        # Copies: a layer's tensor may be the parameter itself.
        self.given = Tensors(*({n: x.detach().clone() for n, x in g.items()} for g in given))
        self.name = f"{type(edit).__name__}.edit"
        self.out = m

    def __call__(self, m: Tensor, given: Tensors) -> Tensor:
        """Returns the edit of copies, which it must leave unchanged."""
        t = bag(given)
        before = {"m": m.clone(), **{f"t[{n!r}]": x.clone() for n, x in t.items()}}
        try:
            with _quiet(self.name):
                out = self.edit.edit(m, self.band, dict(t))  # type: ignore[arg-type]
        except (AssertionError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise AssertionError(f"{self.name} raises {type(error).__name__}: {error}") from error
        after = {"m": m, **{f"t[{n!r}]": x for n, x in t.items()}}
        for name, value in before.items():
            same = torch.equal(after[name].detach(), value.detach())
            assert same, f"{self.name} changes {name} in place: it must return a new tensor"
        return out

    def checked(self) -> Tensor:
        """Returns the edited map after all checks."""
        out = self(self.m.clone(), self.given)
        self._is_a_map(out)
        self._is_a_function(out)
        self._owns_nothing(out)
        self._has_gradients(out)
        if self.edit.stage != "output":
            self._reads_no_later_token(out)
        self._reads_no_other_sequence(out)
        return out

    def _is_a_map(self, out: Tensor) -> None:
        assert isinstance(out, Tensor), f"{self.name} returns {type(out).__name__}, not a tensor"
        maps = self.m.shape[1]
        maps = self.edit.heads_out(maps) if self.edit.stage == "weights" else maps
        shape = (self.m.shape[0], maps, *self.m.shape[2:])
        assert tuple(out.shape) == shape, (
            f"{self.name} returns a map of shape {tuple(out.shape)}, not {shape}"
        )
        for what in ("dtype", "device"):
            got, want = getattr(out, what), getattr(self.m, what)
            assert got == want, f"{self.name} is given {want} and returns {got}"
        bad = ~self._seen(out).isfinite()
        assert not bad.any(), (
            f"{self.name} returns NaN or infinity: in {int(bad.sum())} of the {bad.numel()} cells "
            "where a row may look, given finite numbers"
        )

    def _is_a_function(self, out: Tensor) -> None:
        torch.rand(1)  # leaves a state that no seed gives
        state = torch.get_rng_state()
        self((self.m * 0.5).clone(), self.given)  # another map between must leave no trace
        again = self(self.m.clone(), self.given)
        assert torch.equal(state, torch.get_rng_state()), f"{self.name} draws random numbers"
        assert torch.equal(self._seen(again), self._seen(out)), (
            f"{self.name} gives another result when called again with the same map: "
            f"it must keep no state and draw nothing at random; {self._told(again, out)}"
        )

    def _owns_nothing(self, out: Tensor) -> None:
        for name, parameter in self.edit.named_parameters():
            value = parameter.detach().clone()
            parameter.add_(1.0)
            other = self(self.m.clone(), self.given)
            parameter.copy_(value)
            assert torch.equal(self._seen(other), self._seen(out)), (
                f"{self.name} reads its parameter {name!r} from self: hand it out "
                "(layer_tensors, query_tensors or key_tensors) and read it in t; with 1 added to "
                f"the parameter, {self._told(other, out)}"
            )

    @torch.enable_grad()
    def _has_gradients(self, out: Tensor) -> None:
        m = self.m.clone().requires_grad_()
        given = Tensors(*({n: x.clone().requires_grad_(x.is_floating_point())
                           for n, x in group.items()} for group in self.given))  # fmt: skip
        result = self(m * 1, given)
        leaves = {"m": m} | {f"t[{n!r}]": x for group in given for n, x in group.items()}
        for name, leaf in leaves.items():
            if leaf.is_floating_point() and self._depends(name, out):
                cut = not result.requires_grad or _gradient(result, leaf) is None
                assert not cut, (
                    f"{self.name}: its result depends on {name} but has no gradient: adding 0.25 "
                    f"to {name} changes it, and autograd finds no way back (detach, no_grad, data?)"
                )

    def _depends(self, name: str, out: Tensor) -> bool:
        """Whether the result changes with what is passed as ``name``."""
        m = _moved(self.m) if name == "m" else self.m.clone()
        given = Tensors(*({n: _moved(x) if name == f"t[{n!r}]" else x for n, x in group.items()}
                          for group in self.given))  # fmt: skip
        return not torch.equal(self._seen(self(m, given)), self._seen(out))

    def _reads_no_later_token(self, out: Tensor) -> None:
        """Change tokens from LATER on: earlier rows must not change."""
        m = self.m.clone()
        m[:, :, LATER:] = _moved(m[:, :, LATER:])
        if self.edit.stage == "scores":
            m[..., LATER:] = _moved(m[..., LATER:])  # what hides them is added after the edit
        query, key = ({n: _later(x) for n, x in group.items()} for group in self.given[1:])
        after = self(m, Tensors(self.given.layer, query, key))
        for row in range(LATER):
            used = torch.zeros(TOKENS, after.shape[-1], dtype=torch.bool)
            used[row, : row + 1] = True
            now, before = after.where(used, 0.0), out.where(used, 0.0)
            assert torch.equal(now, before), (
                f"{self.name}: row {row} changed when tokens {LATER} to {TOKENS - 1} were changed; "
                f"a row must not read later tokens; {_told(now, before)}"
            )

    def _reads_no_other_sequence(self, out: Tensor) -> None:
        m = self.m.clone()
        m[1] = _moved(m[1])
        query, key = ({n: torch.cat([x[:1], _moved(x[1:])]) for n, x in group.items()}
                      for group in self.given[1:])  # fmt: skip
        after = self(m, Tensors(self.given.layer, query, key))
        assert torch.equal(self._seen(after)[0], self._seen(out)[0]), (
            f"{self.name}: sequence 0 of the batch changed when sequence 1 was changed; "
            f"sequences must not read each other; {self._told(after[:1], out[:1])}"
        )

    def _told(self, now: Tensor, before: Tensor) -> str:
        """Returns both numbers and where they differ, among the cells that are used."""
        if isinstance(self.band, Rows):
            return _told(now, before, HEADS)
        used = torch.ones(now.shape[-2:], dtype=torch.bool).tril()
        return _told(now.where(used, 0.0), before.where(used, 0.0))

    def _seen(self, out: Tensor) -> Tensor:
        """Returns the cells of an edited map that are used: those that a row sees."""
        rows, columns = out.shape[-2:]
        whole = isinstance(self.band, Rows)
        return out if whole else out[..., torch.ones(rows, columns).tril().bool()]


def _probes(call: Call) -> Iterator[_Probe]:
    """Yields each edit with its arguments, stage by stage; the results go on to the next."""
    span = call.span(0, call.queries)._replace(first=0)
    band, wide = band_of(call, span), band_of(call, span, call.pad)
    m = torch.nn.functional.pad(scores(call.q, call.k, call.heads, call.scale), (0, call.pad))
    for n, edit in call.chain("scores"):
        yield (probe := _Probe(edit, m, wide, pad_keys(call.tensors[n], call.pad)))
        m = probe.out
    m = m[..., : call.keys].masked_fill(~band.visible, -torch.inf)
    lse = m.logsumexp(-1)
    normaliser = call.chain("normaliser")
    for n, edit in normaliser:
        yield (probe := _Probe(edit, m, band, call.tensors[n]))
        m = band.zero(probe.out)
    m = m if normaliser else m.softmax(-1)
    for n, edit in call.chain("weights"):
        yield (probe := _Probe(edit, m, band, call.tensors[n]))
        m = band.zero(probe.out)
    o = combine(m, call.v, call.heads)
    for n, edit in call.chain("output"):
        rows = call.rows_for(o.shape[1], lse)
        yield (probe := _Probe(edit, o, rows, call.tensors[n]._replace(key={})))
        o = probe.out


def _told(now: Tensor, before: Tensor, axes: tuple[str, ...] = MAP) -> str:
    return difference(now, before, ("now", "before"), axes)


def _moved(x: Tensor) -> Tensor:
    return x + 0.25 if x.is_floating_point() else x


def _later(x: Tensor) -> Tensor:
    """Returns a tensor of tokens (B, T, ...) with those from LATER on changed."""
    return torch.cat([x[:, :LATER], _moved(x[:, LATER:])], 1)


def _gradient(result: Tensor, leaf: Tensor) -> Tensor | None:
    weights = torch.linspace(0.5, 1.5, result.numel(), dtype=result.dtype).view_as(result)
    (grad,) = torch.autograd.grad(
        (result * weights).sum(), leaf, allow_unused=True, retain_graph=True
    )
    return grad


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Fail if anything is printed: a run's output is for other programs to read."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        yield
    text = printed.getvalue()
    assert not text, f"{name} prints to standard output: {text[:60]!r}"
