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
    """The place in a layer that an edit is built for, by which it sizes its parameters.

    Attributes:
        heads: the number of maps that enter it.
        dim: the model width.
        head_dim: the width of q and k.
        value_dim: the width of an output head, for output edits; for others the width of q and k.
        layer: the layer's index, from 0.
        depth: the number of layers.
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
        normaliser: at most one edit, which replaces the softmax.

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
    """What pages and commands say of a variant, and the options with which it is grafted."""

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
    options of the recipe. It needs no other registration than to be in a file of this folder, or in
    a file that the user names.

    Args:
        graft: options with which its edits can start as the identity, if they cannot without
            (``softmap.hf.graft``).
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
    """Returns the edits of one layer, each sized by the maps that reach it.

    ``heads`` is the number of maps at the softmax, ``width`` the number of channels of all output
    heads together. Raises ``ValueError`` where an edit does not fit them.
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
    """Returns the edit that a builder makes; its errors, and what is no edit, become one line."""
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
