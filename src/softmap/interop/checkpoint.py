"""A published folder: its config.json and its safetensors, opened without reading them whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from softmap.errors import SoftmapError, reason
from softmap.files.sealed import read_object

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
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, RuntimeError) as error:
        raise SoftmapError(f"{file}: not a readable safetensors file: {error}") from error


class LazyState(Mapping[str, Tensor]):
    """Weights by name, each read from its file when it is used."""

    def __init__(self, files: list[Path]) -> None:
        self._where: dict[str, tuple[Path, Any]] = {}
        for file in files:
            with _reading(file):
                handle: Any = safe_open(file, framework="pt")
            for name in handle.keys():  # noqa: SIM118  (no mapping)
                if name in self._where:
                    other = self._where[name][0].name
                    raise SoftmapError(
                        f"{file}: expected each weight once, found {name} in {other}"
                    )
                self._where[name] = file, handle

    def __getitem__(self, name: str) -> Tensor:
        file, handle = self._where[name]
        with _reading(file):
            return handle.get_tensor(name)  # type: ignore[no-any-return]

    def places(self) -> dict[str, str]:
        """Returns the name of each weight's file."""
        return {name: file.name for name, (file, _) in self._where.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def find_folder(source: str | Path) -> Path:
    """Returns a local folder as it is, or that of a Hub repository, downloaded (without
    pickles) or cached.
    """
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
        raise SoftmapError(
            f"{source}: no such folder, and the Hub repository could not be fetched: "
            f"{reason(error)}"
        ) from error


def read_checkpoint(source: str | Path) -> tuple[dict[str, Any], LazyState]:
    """Returns the configuration and the weights of a local folder or a Hub repository."""
    folder = find_folder(source)
    config = read_object(folder / "config.json")
    files, index = _weight_files(folder)
    _refuse_others(folder, files)
    state = LazyState(files)
    if index is not None:
        _check_index(index, state.places(), folder / INDEX)
    return config, state


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, Any] | None]:
    """Returns the files, and the index of weights if there is one."""
    index = folder / INDEX
    if index.exists():
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise SoftmapError(f"{index}: expected a weight_map of names to files, found none")
        names = sorted(set(map(str, shards.values())))
        # A shard is a file of this folder: an index must not lead elsewhere.
        missing = [n for n in names if Path(n).name != n or not (folder / n).is_file()]
        if missing:
            raise SoftmapError(f"{index} names {missing[0]}: found no such file in {folder}")
        return [folder / name for name in names], shards
    single = folder / "model.safetensors"
    if single.is_file():
        return [single], None
    raise SoftmapError(_no_weights(folder))


def _refuse_others(folder: Path, files: list[Path]) -> None:
    """Raise ``ValueError`` for other weights or an adapter in the folder: they may be part of
    the model.
    """
    others = [f for f in sorted(folder.glob("*.safetensors")) if f not in files]
    others += [f for f in [folder / "adapter_config.json"] if f.exists()]
    if others:
        raise SoftmapError(
            f"{folder}: expected the weights of one model ({files[0].name}), found "
            f"{others[0].name} beside them; remove it, or merge it into them"
        )


def _check_index(index: dict[str, Any], places: dict[str, str], path: Path) -> None:
    for name in sorted({*index, *places}):
        if index.get(name) != places.get(name):
            raise SoftmapError(
                f"{path}: expected the file of each weight, found {name!r} in "
                f"{index.get(name, 'none')}, where it is in {places.get(name, 'none')}"
            )


def _no_weights(folder: Path) -> str:
    pickles = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLES)
    if pickles:
        return (
            f"{folder}: found only pickled weights ({pickles[0]}), which softmap does not load "
            "because unpickling can run code; convert them to model.safetensors first"
        )
    return f"{folder}: expected model.safetensors or {INDEX}, found neither"
