"""A published folder: its config.json and its safetensors, opened without reading them whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.files.sealed import parse_json, read_bytes

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


class LazyState(Mapping[str, Tensor]):
    """Weights by name, each read from its file when it is asked for."""

    def __init__(self, files: list[Path]) -> None:
        self._where: dict[str, Any] = {}
        for file in files:
            try:
                handle: Any = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise SoftmapError(f"{file}: not a readable safetensors file: {error}") from error
            self._where |= dict.fromkeys(handle.keys(), handle)

    def __getitem__(self, name: str) -> Tensor:
        return self._where[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def find_folder(source: str | Path) -> Path:
    """A local folder as it is; else a Hub repository's, downloaded (without pickles) or cached."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    name = str(source)
    if folder.exists() or name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise SoftmapError(f"{source}: expected a folder or a Hub name owner/repository")
    try:
        wanted = ["*.json", "*.safetensors", *TOKENIZER_FILES]
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise SoftmapError(
            f"{source}: no such folder, and the Hub repository could not be fetched: {first}"
        ) from error


def read_checkpoint(source: str | Path) -> tuple[dict[str, Any], LazyState]:
    """The configuration and the weights of a local folder or a Hub repository."""
    folder = find_folder(source)
    return read_json(folder / "config.json"), LazyState(_weight_files(folder))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; absent, unreadable or of another kind is a ``ValueError``."""
    if not os.path.lexists(path):
        raise SoftmapError(f"{path}: expected, found no such file")
    try:
        found = parse_json(read_bytes(path))
    except SoftmapError:
        raise
    except ValueError as error:
        raise SoftmapError(f"{path}: not a readable JSON file: {error}") from error
    if not isinstance(found, dict):
        raise SoftmapError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise SoftmapError(f"{index}: expected a weight_map of names to files, found none")
        names = sorted(set(map(str, shards.values())))
        # A shard is a file of this folder: an index must not lead elsewhere.
        files = [folder / name for name in names if Path(name).name == name]
        missing = [n for n in names if not (folder / n).is_file() or Path(n).name != n]
        if missing:
            raise SoftmapError(f"{index} names {missing[0]}: found no such file in {folder}")
        return files
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    raise SoftmapError(_no_weights(folder))


def _no_weights(folder: Path) -> str:
    pickles = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLES)
    if pickles:
        return (
            f"{folder}: found only pickled weights ({pickles[0]}), which softmap does not load "
            "because unpickling can run code; convert them to model.safetensors first"
        )
    return f"{folder}: expected model.safetensors or model.safetensors.index.json, found neither"
