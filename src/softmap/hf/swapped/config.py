"""The configuration of a model with swapped layers: its family's, and what is swapped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from softmap.errors import SoftmapError, shown
from softmap.hf.swapped.kinds import Family
from softmap.hf.trust import ConfigFiles, is_sealed
from softmap.nn.part import attention_part, check_backend

# A number in every family, which a swapped model does not need (it is 0), and which transformers'
# base class, with which a Trainer reads the file, leaves as it is.
FIELD = "attention_dropout"
MARK = "none: some layers are softmap's; read with an Auto class after `import softmap.hf`"
ENTRY = ("variant", "layers", "impl")


class SwappedConfig(ConfigFiles):
    """A mixin before a family's configuration. ``softmap`` lists what was swapped, one entry per
    call: ``{"variant": "diff2", "layers": [0, 1], "impl": "auto"}``.

    In ``config.json`` the dropout is a text, which no configuration of the family accepts, so that
    a swapped model is never read as a plain one. Raises ``ValueError`` for entries that do not fit
    the model.
    """

    kind: Family
    classes: Mapping[str, Any]  # of models, by the names of the family's own
    model_type: str
    softmap: Any

    def __post_init__(self, **kwargs: Any) -> None:
        self.softmap = [] if self.softmap is None else self.softmap
        super().__post_init__(**kwargs)  # type: ignore[misc]
        _check_entries(self.softmap, self.num_hidden_layers)  # type: ignore[attr-defined]
        if not is_sealed(self):
            self.resolve()

    def resolve(self) -> None:
        """Check the entries, and replace their variants by canonical names."""
        _check_entries(self.softmap, self.num_hidden_layers)  # type: ignore[attr-defined]
        for entry in self.softmap:
            check_backend(entry["impl"])
        self.softmap = [{**e, "variant": attention_part(e["variant"])} for e in self.softmap]
        if self.softmap:
            check_family(self)

    @classmethod
    def with_variants(cls, fields: Mapping[str, Any], new: Callable[[Any], Any]) -> dict[str, Any]:
        """Returns the field ``softmap`` with each variant replaced by ``new(variant)``."""
        entries = fields.get("softmap")
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            return {}  # refused when they are checked
        return {"softmap": [{**e, "variant": new(e.get("variant"))} for e in entries]}

    def swapped(self) -> dict[int, dict[str, Any]]:
        """Returns the entry of each swapped layer by its index."""
        return {n: entry for entry in self.softmap for n in entry["layers"]}

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields as plain data, marked as those of a swapped model."""
        fields = super().to_dict()  # type: ignore[misc]
        if self.softmap:
            fields[FIELD] = MARK
        saved_by = fields.get("architectures") or ()
        fields["architectures"] = [f"Softmap{n}" if n in self.classes else n for n in saved_by]
        return fields

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Returns the configuration of these fields; the mark is left out."""
        fields = {n: v for n, v in config_dict.items() if (n, v) != (FIELD, MARK)}
        return super().from_dict(fields, **kwargs)


def check_family(config: Any) -> None:
    """Raise ``ValueError`` for a field that asks for a feature that softmap attention lacks."""
    dropped = getattr(config, "attention_dropout", 0.0)
    if dropped:
        raise SoftmapError(
            "softmap has no dropout of attention weights: expected attention_dropout=0 in the "
            f"model's configuration, found {dropped}"
        )
    if getattr(config, "is_heterogeneous", False):
        raise SoftmapError(
            "layers with configurations of their own cannot be swapped: expected none, found "
            "per_layer_config"
        )
    if not getattr(config, "is_causal", True):
        raise SoftmapError("softmap attention is causal: expected is_causal=True, found False")


def _check_entries(entries: Any, depth: int) -> None:
    if not isinstance(entries, list):
        raise SoftmapError(f"softmap must list what was swapped, found {shown(entries)}")
    seen: set[int] = set()
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != set(ENTRY):
            raise SoftmapError(
                f"an entry of softmap must have {', '.join(ENTRY)}, found {shown(entry)}"
            )
        layers = entry["layers"]
        fit = isinstance(layers, list) and all(type(n) is int and 0 <= n < depth for n in layers)
        if not fit or not layers or len(set(layers)) < len(layers) or seen & set(layers):
            raise SoftmapError(
                f"layers must be numbers from 0 to {depth - 1}, each at most once in softmap, "
                f"found {shown(layers)}"
            )
        seen |= set(layers)


def configuration(kind: Family, family: type) -> Any:
    """Returns the configuration class of a kind, a subclass of the ``family``'s own."""
    fields = {
        "__module__": __name__, "__annotations__": {"softmap": Any}, "softmap": None, "kind": kind,
        "model_type": f"softmap-{kind.model_type}",
    }  # fmt: skip
    return type(f"Softmap{kind.prefix}Config", (SwappedConfig, family), fields)


def swapped_into(config: Any, made: Any, entry: dict[str, Any]) -> Any:
    """Returns a copy of a configuration, of the class ``made``, with one more entry."""
    new = copy.deepcopy(config)
    new.softmap = [*getattr(config, "softmap", []), entry]
    new.__class__ = made
    new.resolve()
    return new
