"""One line of a recipe's ``variants``, in any of its forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from softmap.errors import SoftmapError, shown
from softmap.fields import Checked
from softmap.lab import nodes, strict
from softmap.lab.names import LONGEST
from softmap.lab.sections import OwnSchedule, Positive, Seed
from softmap.lab.seeds import check_seeds, listed

_OWN: list[tuple[str, Any]] = [
    ("label", str), ("peak_lr", float), ("seeds", list[int]), ("training", OwnSchedule),
]  # fmt: skip


@dataclass
class Entry(Checked):
    """One line of ``variants``.

    In YAML: a name (``diff``), a composition (``diff+dcmha(rank=4)``), a list of edits, or a
    mapping ``{variant, label?, peak_lr?, seeds?, training?, ...}`` whose further keys are options
    of the edit. Its ``seeds`` are added to those of all variants; its ``training`` is a schedule of
    its own.
    """

    variant: str
    label: str | None = None
    peak_lr: Positive | None = None
    seeds: list[Seed] = field(default_factory=list)
    training: OwnSchedule | None = None
    where: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        label = self.label
        if label is not None and not (label.isprintable() and 0 < len(label.strip()) <= LONGEST):
            raise SoftmapError(
                f"label: expected 1 to {LONGEST} printable characters, found {shown(label)}"
            )
        check_seeds("seeds", self.seeds)

    @classmethod
    def from_node(cls, node: yaml.Node, key: str) -> Entry:
        """Returns the entry from any of the four forms."""
        if not isinstance(node, yaml.MappingNode):
            return cls(_spec(node, key), where=nodes.where(node))
        values = nodes.pairs(node, key)
        if "variant" not in values:
            raise nodes.fail(node, f"missing key '{key}.variant'")
        spec = _spec(values.pop("variant")[1], f"{key}.variant")
        given = [(name, kind) for name, kind in _OWN if name in values]
        if "seeds" in values:
            values["seeds"] = (node, listed(values["seeds"][1], f"{key}.seeds"))
        own = {n: strict.convert(values.pop(n)[1], kind, f"{key}.{n}") for n, kind in given}
        spec = _with_options(node, spec, values)
        try:
            return cls(spec, where=nodes.where(node), **own)
        except SoftmapError as error:
            raise nodes.fail(node, f"{key}.{error}") from None

    @property
    def name(self) -> str:
        """The label, by default the variant's canonical text."""
        from softmap.variants import renamed  # imported late: it loads torch

        return self.label or renamed(self.variant, {})

    def plain(self) -> Any:
        """Returns the shortest YAML form."""
        own = {name: getattr(self, name) for name, _ in _OWN}
        own["training"] = None if self.training is None else self.training.given()
        own = {name: value for name, value in own.items() if value not in (None, [])}
        variant = str(self.variant)  # without the folder of its files
        return {"variant": variant, **own} if own else variant


def _spec(node: yaml.Node, key: str) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "+".join(_edit(item, f"{key}[{i}]") for i, item in enumerate(node.value))
    return _edit(node, key)


def _edit(node: yaml.Node, key: str) -> str:
    """Returns an edit from ``diff``, or from ``dcmha: {rank: 4}`` with options."""
    if not isinstance(node, yaml.MappingNode):
        found: str = strict.convert(node, str, key)
        return found
    named = nodes.pairs(node, key)
    if len(named) != 1:
        raise nodes.fail(node, f"{key}: expected one edit, found {', '.join(named) or 'none'}")
    ((name, (_, value)),) = named.items()
    return _with_options(node, name, nodes.pairs(value, f"{key}.{name}"))


def _with_options(node: yaml.Node, spec: str, options: dict[str, Any]) -> str:
    if not options:
        return spec
    if "+" in spec.removesuffix("++") or "(" in spec:
        names = ", ".join(options)
        raise nodes.fail(node, f"options ({names}) go with a single edit, not with {spec!r}")
    given = ", ".join(f"{name}={_option(value)}" for name, (_, value) in options.items())
    return f"{spec}({given})"


def _option(node: yaml.Node) -> str:
    value = nodes.plain(node)
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
