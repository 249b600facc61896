"""``softmap import``: a published checkpoint to a folder in softmap's own format."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import SafetensorError
from transformers import GenerationConfig

from softmap.errors import SoftmapError, nearest
from softmap.files import whole_folder
from softmap.files.sealed import read_object
from softmap.hf import SoftmapForCausalLM
from softmap.interop import dcformer, diffllama
from softmap.interop.checkpoint import (
    TOKENIZER_FILES,
    find_folder,
    read_checkpoint,
)
from softmap.interop.options import OptionReader

# By the model_type of their config.json.
KINDS = {"dcformer": dcformer.load, "diffllama": diffllama.load}


def import_folder(src: str | Path, dest: str | Path, kind: str | None = None) -> Path:
    """Convert a published DCFormer or DiffLlama checkpoint; returns the folder that was
    written, ``dest``.

    Args:
        src: a local folder, or a Hub name (owner/repository): config.json and model.safetensors, or
            shards with their index.
        dest: a new or empty folder, which gets what ``save_pretrained`` writes and the tokenizer's
            files, completely or not at all.
        kind: ``dcformer`` or ``diffllama``; by default what config.json says.

    Raises ``ValueError`` in one line for what cannot be read, represented or written; pickled
    weights (.bin) are refused.
    """
    dest = Path(dest)
    _check_vacant(dest)
    folder = find_folder(src)
    config, state = read_checkpoint(folder)
    kind = str(config.get("model_type")) if kind is None else kind
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise SoftmapError(
            f"{src}: expected one of the kinds {known}, found {kind!r}{nearest(kind, KINDS)}"
        )
    model = KINDS[kind](state, config)
    _set_generation(model, folder / "generation_config.json")
    _write(model, folder, dest)
    return dest


def _check_vacant(dest: Path) -> None:
    if dest.is_dir() and not any(dest.iterdir()):
        return
    if dest.exists() or dest.is_symlink():
        raise SoftmapError(f"{dest}: expected a new or empty folder to write to, found other files")


def _set_generation(model: SoftmapForCausalLM, path: Path) -> None:
    """Copy their defaults of ``generate``, which belong to the model."""
    if not path.exists():
        return
    found = read_object(path)
    OptionReader(str(path), found).known((), {*vars(GenerationConfig()), "_commit_hash"})
    try:
        model.generation_config = GenerationConfig.from_dict(found)
        model.generation_config.validate(strict=True)
    except Exception as error:  # transformers' own checks raise many kinds
        raise SoftmapError(f"{path}: transformers refuses it: {error}") from error


def _write(model: SoftmapForCausalLM, source: Path, dest: Path) -> None:
    with whole_folder(dest) as folder:
        try:
            model.save_pretrained(folder)
        except SafetensorError as error:
            raise SoftmapError(f"{dest}: could not be written: {error}") from error
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
