"""The trained model that gets a graft: where it is, what identifies it, how it is loaded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from softmap.data import DataConfig
from softmap.errors import SoftmapError
from softmap.evals.subject import Subject
from softmap.files import sealed
from softmap.hf.graft import GraftReport, grafted
from softmap.interop.folder import TOKENIZER_FILES
from softmap.lab.asking.models import ModelFolder, load
from softmap.lab.generate import model_folder

_WEIGHTS = ("config.json", "*.safetensors", "*.py")


@dataclass(frozen=True)
class GraftSource:
    """The folder of a model with its tokenizer.

    Attributes:
        trusted: whether code in the folder may run.
    """

    folder: Path
    trusted: bool = False

    @classmethod
    def at(
        cls, where: Path, variant: str | None = None, seed: int | None = None, trusted: bool = False
    ) -> GraftSource:
        """Returns the source for a run, a trial or a model's folder.

        Raises ``SoftmapError`` for a folder that is none of them, and for a model without a
        tokenizer.
        """
        trial = where / "model"
        inside = (trial / "config.json").is_file() and not (where / "config.json").is_file()
        folder = model_folder(trial if inside else where, variant, seed)
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise SoftmapError(
                f"{folder}: fine-tuning reads text with the model's own tokenizer: expected its "
                "files (tokenizer.json) in the folder, found none"
            )
        return cls(folder, trusted)

    def subject(self, device: torch.device) -> Subject:
        """Returns the model in float32 with its tokenizer.

        Raises ``SoftmapError`` where they do not load or do not match.
        """
        found = load(ModelFolder("", "", self.folder), trust_remote_code=self.trusted)
        found.model.float().to(device)
        found.device = device
        if found.tokenizer.vocab_size > found.vocabulary:
            raise SoftmapError(
                f"{self.folder}: expected a tokenizer of at most the model's {found.vocabulary} "
                f"tokens, found {found.tokenizer.vocab_size}"
            )
        return found

    def sums(self) -> sealed.Sums:
        """Returns sizes and hashes of the files of the model and its tokenizer."""
        names = (*_WEIGHTS, *TOKENIZER_FILES)
        paths = {path for name in names for path in self.folder.glob(name) if path.is_file()}
        return sealed.checksums(self.folder, paths)

    def data(self, text: str, field: str) -> DataConfig:
        """Returns the configuration of a text, tokenized for this model."""
        return DataConfig(text, field, f"hf:{self.folder.resolve()}")

    def copy_tokenizer(self, folder: Path) -> None:
        """Copy the tokenizer's files unchanged."""
        for name in TOKENIZER_FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)


def put(model: Any, to: str, layers: Any) -> GraftReport:
    """Put the variant into the model as [`softmap.hf.graft.grafted`][] does; errors name the
    variant.
    """
    try:
        return grafted(model, to, layers)
    except SoftmapError as error:
        text = str(error)
        raise error if to in text else SoftmapError(f"--to {to}: {text}") from None
