"""All checks by name, and one call that runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from softmap.errors import SoftmapError, nearest, one_line
from softmap.testing import bidirectional, edits, layers, models, parameters, precision
from softmap.testing.subject import CheckSubject
from softmap.variants import load

Check = Callable[[CheckSubject], str | None]

CHECKS: dict[str, Check] = {
    "edits": edits.pure_edits,
    "causality": models.causality,
    "batching": models.batching,
    "map": layers.map_is_what_is_used,
    "gradients": layers.gradients,
    "chunked": layers.chunked_is_reference,
    "folded": layers.folded_is_reference,
    "parameters": parameters.parameters,
    "decoding": models.decoding,
    "rollback": models.rollback,
    "packing": models.packing,
    "saving": models.saving,
    "accounting": models.accounting_is_true,
    "precision": precision.low_precision,
    "bidirectional": bidirectional.bidirectional,
    "cross": bidirectional.cross,
}
# The checks of a user's own variant before it is trained: if one fails, a comparison would measure
# something else. They take some seconds; the first that fails is the easiest to understand.
_NOT_QUICK = ("rollback", "bidirectional", "cross", "accounting", "precision")
QUICK = tuple(name for name in CHECKS if name not in _NOT_QUICK)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check: its name, what was wrong (None: it passed), and what did not
    apply.
    """

    name: str
    error: str | None
    note: str | None = None

    def __str__(self) -> str:
        word = "pass" if self.error is None else "FAIL"
        return f"{word}  {self.name:<14}{self.error or self.note or ''}".rstrip()


@dataclass(frozen=True)
class Report:
    """What [`check`][] found; prints as a table with one line per check."""

    variant: str
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes of the checks that failed."""
        return [o for o in self.outcomes if o.error is not None]

    def __str__(self) -> str:
        return "\n".join([self.variant, *(f"  {o}" for o in self.outcomes)])


def check(variant: Any, **options: Any) -> Report:
    """Run the conformance suite over a variant, about a minute on a CPU; returns a
    [`Report`][].

    Options are those of [`outcomes`][], which yields the outcomes one by one.
    """
    found = tuple(outcomes(variant, **options))
    return Report(load(variant).label, found)


def outcomes(
    variant: Any,
    *,
    heads: int = 4,
    kv_heads: int | None = None,
    head_dim: int = 8,
    seed: int = 0,
    context: int = 40,
    only: Iterable[str] | None = None,
    quick: bool = False,
) -> Iterator[Outcome]:
    """Run the checks, and yield the outcome of each as soon as it is there.

    A check that fails is reported, not raised. Raises ``ValueError`` for a variant that cannot be
    built at these sizes, and for an unknown check.

    Args:
        variant: anything [`softmap.variants.load`][] takes, ``"my_file.py:name"`` included.
        heads, kv_heads, head_dim: sizes, as for [`softmap.nn.Attention`][].
        context: tokens of the longest input, such as those of its training.
        only: names of [`CHECKS`][]; by default all.
        quick: run [`QUICK`][] up to the first that fails, as ``softmap compare`` does before it
            trains a variant of the user's own.
    """
    chosen = list((QUICK if quick else CHECKS) if only is None else only)
    for name in chosen:
        if name not in CHECKS:
            raise SoftmapError(f"no check {name!r}{nearest(name, CHECKS)}; {', '.join(CHECKS)}")
    subject = CheckSubject(variant, heads, kv_heads, head_dim, seed, context)
    subject.layer()
    for name in chosen:
        outcome = _run(name, subject)
        yield outcome
        if quick and outcome.error is not None:
            return


def _run(name: str, subject: CheckSubject) -> Outcome:
    try:
        return Outcome(name, None, CHECKS[name](subject))
    except AssertionError as error:
        return Outcome(name, _one_line(error) + _cause(name, subject))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a variant that crashes, or exits, is a finding like any other
        return Outcome(name, f"{type(error).__name__}: {_one_line(error)}")


# Other checks that fail if a query or key tensor reads several tokens.
_OTHER_TOKENS = ("batching", "decoding", "rollback", "packing")


def _cause(name: str, subject: CheckSubject) -> str:
    if name in _OTHER_TOKENS:
        try:
            edits.of_one_token(subject.layer(), subject.input(2, edits.TOKENS))
        except AssertionError as error:
            return f"; the likely cause: {one_line(str(error).partition(', but ')[0])}"
    return ""


def _one_line(error: BaseException) -> str:
    return one_line(str(error), 400) or type(error).__name__
