"""Loads a name, a composed string or a recipe's list as one [`Composition`][]."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from softmap.backbone import Backbone
from softmap.errors import SoftmapError, nearest, shown
from softmap.fields import check, hints
from softmap.maps import STAGES
from softmap.variants._find import find
from softmap.variants._parts import About, Parts
from softmap.variants._text import Spec, label_of, members_of, spelled
from softmap.variants._trust import Loaded


@dataclass(frozen=True)
class Composition:
    """One or more variants in order, combined into one.

    Attributes:
        label: its canonical name, which [`load`][] accepts.
        parts: all edits, and all backbone fields.
        members: what it was made of, as (name, options).
    """

    label: str
    title: str
    paper: str | None
    source: str | None
    peak_lr_hint: float | None
    doc: str
    parts: Parts
    members: tuple[tuple[str, dict[str, Any]], ...]


def load(spec: Spec) -> Composition:
    """Returns the variant, or the composition of several, that ``spec`` names.

    Its edits are still to be built for the sizes of a layer ([`softmap.variants.build`][]).

    Args:
        spec: a text of members joined by ``+``, each a name with options in brackets
            (``"diff+dcmha(rank=4)"``); a list of such texts; or, as recipes write it, mappings from
            names to options (``["diff", {"dcmha": {"rank": 4}}]``). A member ``file.py:name`` or
            ``package.module:name`` is one of the user's own; [`names`][] lists the others. Order
            matters: edits of a stage are applied in the order of the members.

    Raises ``ValueError`` for an unknown name or option (the nearest are suggested), for members
    that cannot be combined, and for a text from a file ([`Loaded`][]) that nobody trusted.
    """
    if isinstance(spec, Loaded):
        spec.check()
    members = members_of(spec)
    if not members:
        raise SoftmapError("a variant needs at least one name, found an empty list")
    made = [(find(name, spec), name, options) for name, options in members]
    parts = [_call(f, name, options) for f, name, options in made]
    abouts: list[About] = [f.__softmap__ for f, _, _ in made]  # type: ignore[attr-defined]
    own = [a for a in abouts if a.paper] or abouts
    hints = [a.peak_lr_hint for a in abouts if a.peak_lr_hint]
    return Composition(
        label=spelled(members, spec),
        title=" + ".join(a.title for a in abouts),
        paper=", ".join(dict.fromkeys(a.paper for a in own if a.paper)) or None,
        source=own[0].source,
        peak_lr_hint=min(hints, default=None),
        doc="\n\n".join(inspect.getdoc(f) or "" for f, _, _ in made),
        parts=_merge(parts, [n for n, _ in members]),
        members=tuple(members),
    )


def graft_form(spec: Spec) -> str:
    """Returns the canonical text of ``spec`` with the options with which its members can start
    as the identity.

    Options that are given stay. Raises ``ValueError`` as [`load`][] does.
    """
    load(spec)
    members = members_of(spec)
    forms = [find(name, spec).__softmap__.graft for name, _ in members]  # type: ignore[attr-defined]
    own = [(n, {**form, **o}) for (n, o), form in zip(members, forms, strict=True)]
    return spelled(own, spec)


def outside(spec: Spec) -> list[tuple[str, str]]:
    """Returns the (where, name) of the members that run code of the user's own; nothing is run
    here.
    """
    names = [name for name, _ in members_of(spec)]
    return [(where, own) for where, mark, own in (n.rpartition(":") for n in names) if mark]


def renamed(spec: Spec, names: Mapping[str, str]) -> str:
    """Returns the canonical text of ``spec`` with other names for its files; nothing is run."""
    members = [(n.rpartition(":"), o) for n, o in members_of(spec)]
    made = [(names.get(where, where) + mark + own, o) for (where, mark, own), o in members]
    return "+".join(label_of(n, o) for n, o in made)


def _call(function: Callable[..., Parts], name: str, options: dict[str, Any]) -> Parts:
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in options:
            if key not in parameters:
                known = ", ".join(parameters) or "none"
                raise SoftmapError(
                    f"variant {name!r} has no option {shown(key)}{nearest(key, parameters)}; "
                    f"options: {known}"
                )
    declared = _declared(function)
    for key, value in options.items():
        check(f"variant {name!r}: {key}", value, declared.get(key, Any))
    try:
        parts = function(**options)
    except SoftmapError:
        raise
    except Exception as error:  # a user's own function
        raise SoftmapError(f"variant {name!r}: {type(error).__name__}: {error}") from error
    _check_parts(name, parts)
    return parts


def _declared(function: Callable[..., Parts]) -> dict[str, Any]:
    try:
        return hints(function)
    except Exception:  # a user's file may import types for its checker alone
        return {}


def _check_parts(name: str, parts: Any) -> None:
    """Raise ``SoftmapError`` unless a variant's function returned what it should."""
    if not isinstance(parts, Parts):
        raise SoftmapError(f"variant {name!r}: expected to return Parts, found {shown(parts)}")
    if not isinstance(parts.backbone, Mapping):
        found = shown(parts.backbone)
        raise SoftmapError(f"variant {name!r}: Parts.backbone: expected a mapping, found {found}")
    try:
        Backbone.check_names(parts.backbone)
    except SoftmapError as error:
        raise SoftmapError(f"variant {name!r}: Parts.backbone: {error}") from None
    for stage in STAGES:
        builders = getattr(parts, stage)
        if not isinstance(builders, Sequence) or not all(map(callable, builders)):
            raise SoftmapError(
                f"variant {name!r}: Parts.{stage}: expected a list of functions of a Place that "
                f"return an Edit, found {shown(builders)}"
            )


def _merge(parts: list[Parts], names: list[str]) -> Parts:
    backbone: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for part, name in zip(parts, names, strict=True):
        for key, value in part.backbone.items():
            if key in backbone and backbone[key] != value:
                raise SoftmapError(
                    f"{owner[key]!r} and {name!r} cannot be combined: they set {key} to "
                    f"{backbone[key]!r} and {value!r}"
                )
            backbone[key], owner[key] = value, name
    normal = [name for part, name in zip(parts, names, strict=True) for _ in part.normaliser]
    if len(normal) > 1:
        raise SoftmapError(
            f"{normal[0]!r} and {normal[1]!r} cannot be combined: each puts a normaliser in place "
            "of the softmax"
        )
    edits = {s: [e for p in parts for e in getattr(p, s)] for s in STAGES}
    return Parts(**edits, backbone=backbone)
