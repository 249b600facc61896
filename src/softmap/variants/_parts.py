"""What a variant file returns: edits to build, and the fields of the backbone that it sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from softmap.errors import SoftmapError, nearest, shown
from softmap.fields import check
from softmap.maps import STAGES, Edit, check_declared, check_one_normaliser


@dataclass(frozen=True)
class Place:
    """Where an edit is built: what it may size its parameters by.

    Attributes:
        heads: maps that enter it.
        dim: model width.
        head_dim: width of q and k.
        value_dim: width of an output head (known to output edits; for others the width of q and k).
        layer: from 0.
    """

    heads: int
    dim: int
    head_dim: int
    value_dim: int
    layer: int
    depth: int


Builder = Callable[[Place], Edit]


@dataclass(frozen=True)
class Parts:
    """Edits by stage, each a function of its [`Place`][], and backbone fields by name.

    Attributes:
        normaliser: at most one, in place of the softmax.

    Raises ``ValueError`` for another field.
    """

    scores: Sequence[Builder] = ()
    normaliser: Sequence[Builder] = ()
    weights: Sequence[Builder] = ()
    output: Sequence[Builder] = ()
    backbone: Mapping[str, Any] = field(default_factory=dict)

    def __new__(cls, *args: Any, **given: Any) -> Parts:
        known = cls.__dataclass_fields__
        for name in given.keys() - known.keys():
            raise SoftmapError(
                f"Parts has no field {name!r}{nearest(name, known)}; fields: {', '.join(known)}"
            )
        return super().__new__(cls)


@dataclass(frozen=True)
class About:
    """What a page or a command says of a variant; the options that a graft of it takes."""

    name: str
    title: str
    paper: str | None
    source: str | None
    peak_lr_hint: float | None
    graft: Mapping[str, Any]


F = TypeVar("F", bound=Callable[..., Parts])


def variant(
    name: str,
    title: str,
    *,
    paper: str | None = None,
    source: str | None = None,
    peak_lr_hint: float | None = None,
    graft: dict[str, Any] | None = None,
) -> Callable[[F], F]:
    """Mark a function ``(*, options...) -> Parts`` as the variant ``name``.

    Its docstring is the maths that ``softmap explain`` prints; its keyword arguments are the
    options of the recipe. Being in a file of this folder, or in a file named by the user, is all
    the registration there is. graft: options with which its edits can start as the identity, where
    those without cannot (``softmap.hf.graft``).
    """

    for what, given, kind in (
        ("name", name, str), ("title", title, str), ("paper", paper, str | None),
        ("source", source, str | None), ("peak_lr_hint", peak_lr_hint, float | None),
        ("graft", graft, dict | None),
    ):  # fmt: skip
        check(f"variant: {what}", given, kind)

    def mark(function: F) -> F:
        function.__softmap__ = About(  # type: ignore[attr-defined]
            name, title, paper, source, peak_lr_hint, graft or {}
        )
        return function

    return mark


def build(
    parts: Parts, heads: int, dim: int, head_dim: int, width: int, layer: int, depth: int
) -> list[Edit]:
    """The edits of one layer, each sized by the maps that reach it.

    ``heads`` counts the maps at the softmax, ``width`` the channels of all output heads together.
    Raises ``ValueError`` where an edit cannot take them.
    """
    edits: list[Edit] = []
    maps = heads
    for stage in STAGES:
        value_dim = width // maps if stage == "output" else head_dim
        for builder in getattr(parts, stage):
            edit = _made(builder, Place(maps, dim, head_dim, value_dim, layer, depth))
            check_declared(edit)
            if edit.stage != stage:
                raise SoftmapError(
                    f"{type(edit).__name__} is listed under {stage!r} but declares stage "
                    f"{edit.stage!r}"
                )
            if stage == "weights":
                maps = _maps_left(edit, maps)
            edits.append(edit)
    check_one_normaliser(edits)
    return edits


def _made(builder: Builder, place: Place) -> Edit:
    """What a builder returns; what it raises, or what is no edit, in one line."""
    try:
        edit: Any = builder(place)
    except SoftmapError:
        raise
    except Exception as error:  # a user's own class
        name = getattr(getattr(builder, "func", builder), "__name__", shown(builder))
        raise SoftmapError(f"{name}: cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(edit, Edit):
        raise SoftmapError(f"a variant's builder: expected to return an Edit, found {shown(edit)}")
    return edit


def _maps_left(edit: Edit, maps: int) -> int:
    left: Any = edit.heads_out(maps)
    if type(left) is not int or not 1 <= left <= maps:
        raise SoftmapError(
            f"{type(edit).__name__}.heads_out: expected a whole number from 1 to {maps}, "
            f"found {shown(left)}"
        )
    return left
