"""The weights that a training starts from: those of another training's exported model.

A phase of longer sequences after a training is an example.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_model

from softmap.data import Corpus, load_tokenizer_dir
from softmap.errors import SoftmapError, shown
from softmap.files import sealed
from softmap.lab.plan import PlannedModel

WEIGHTS = "model.safetensors"
#: Values that must be the same; the context and the base of rotary positions may differ.
SAME = (
    "variant", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "intermediate_size", "tie_word_embeddings", "backbone",
)  # fmt: skip


def check_start(start: str | None, models: Iterable[PlannedModel], corpus: Corpus) -> None:
    """Raise ``SoftmapError`` unless the model in the folder ``start`` fits each planned model.

    Its tokenizer must be that of the text, and its files as they were exported.
    """
    if start is None:
        return
    folder = Path(start)
    found = _config(folder)  # read as data: code that names a variant does not run
    for planned in models:
        _check_same(planned, found, folder)
    sealed.verify_folder(folder)
    if load_tokenizer_dir(folder).digest != corpus.tokenizer.digest:
        raise SoftmapError(
            f"training.start: {folder}: expected the tokenizer of the text, found another: "
            f"data.tokenizer=hf:{folder} uses the model's"
        )


def _check_same(planned: PlannedModel, found: Mapping[str, Any], folder: Path) -> None:
    here = planned.config.to_dict()
    learned = planned.config.model_config().resolved_backbone.position == "learned"
    for name in (*SAME, "max_position_embeddings") if learned else SAME:
        expected, there = _fact(here, name), _fact(found, name)
        if there != expected:
            raise SoftmapError(
                f"training.start: {folder}: expected {name} {shown(expected)}, as "
                f"{planned.label} has it here, found {shown(there)}"
            )


def start_hash(start: str) -> str:
    """Returns the hash of the weights that a training starts from."""
    return sealed.digest(Path(start) / sealed.CHECKSUMS)


def load_start(model: Any, start: str | None) -> None:
    """Load the weights in the folder ``start`` into ``model``, if there is one."""
    if start is not None:
        load_model(model, Path(start) / WEIGHTS)


def _config(folder: Path) -> dict[str, Any]:
    for name in ("config.json", WEIGHTS, sealed.CHECKSUMS):
        if not (folder / name).is_file():
            raise SoftmapError(
                f"training.start: expected the folder of an exported model (model/), found no "
                f"{folder / name}"
            )
    return sealed.read_object(folder / "config.json")


def _fact(config: Mapping[str, Any], name: str) -> Any:
    """Returns a value that must be the same, from a configuration as JSON has it."""
    if name != "backbone":
        return config.get(name)
    return {n: value for n, value in (config.get(name) or {}).items() if n != "rope_theta"}
