"""The models that a command line names: runs, their variants and seeds, folders with a model.

Each is one *run* of a label: the seeds of a run's variant share its label, and ``LABEL=FOLDER``
gives a folder any. Labels are what is compared; runs of a label are its replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers.utils import logging

from softmap.data import DataConfig, load_tokenizer_dir, prepare
from softmap.errors import SoftmapError, nearest_or_all, reason
from softmap.evals.subject import Subject
from softmap.evals.text import Text
from softmap.files.sealed import read_object
from softmap.interop.folder import TOKENIZER_FILES
from softmap.lab.generate import load_model, model_folder
from softmap.lab.names import check_path, is_run, run_name
from softmap.lab.plan import slug
from softmap.lab.workbench import CACHE
from softmap.report.load import read_result, read_run, result_files


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk with its label, its run's name and its run's folder."""

    label: str
    run: str
    folder: Path
    of: Path | None = None

    @property
    def name(self) -> str:
        """The label and the run's name."""
        return f"{self.label} {self.run}".strip()


def find(words: Sequence[str | ModelFolder], variants: Sequence[str] = ()) -> list[ModelFolder]:
    """Returns all models of ``[LABEL=]FOLDER`` words; for a run, every finished trial of
    ``variants``.

    Raises ``SoftmapError`` for a folder that holds no model, and for one that is named twice.
    """
    named = [word if isinstance(word, ModelFolder) else split(word) for word in words]
    runs = {word[1] for word in named if not isinstance(word, ModelFolder) and is_run(word[1])}
    found: list[ModelFolder] = []
    for word in named:
        if isinstance(word, ModelFolder):
            found.append(word)
            continue
        check_path("a model's folder", word[1])
        found += _of(*word, variants, several=len(runs) > 1)
    _check_once(found)
    return _numbered(found)


def split(word: str) -> tuple[str, Path]:
    """Returns the label and folder of ``LABEL=FOLDER``; a folder that exists is one, whatever
    its name.
    """
    label, _, path = word.rpartition("=")
    return ("", Path(word)) if Path(word).is_dir() else (label, Path(path))


def _of(label: str, where: Path, variants: Sequence[str], *, several: bool) -> list[ModelFolder]:
    if is_run(where):
        return _trials(label, where, variants, several)
    folder = model_folder(where)
    trial = folder.parent
    if not label and folder.name == "model" and (trial / "result.json").is_file():
        label = str(read_result(trial / "result.json")["variant"])
        return [ModelFolder(label, trial.name, folder, _run_of(trial))]
    return [ModelFolder(label or run_name(folder), "", folder, _run_of(trial))]


def _run_of(trial: Path) -> Path | None:
    """Returns the run of a trial's folder (runs/NAME/variants/LABEL/seedN)."""
    parents = trial.resolve().parents
    return parents[2] if len(parents) > 2 and is_run(parents[2]) else None


def _trials(label: str, run: Path, variants: Sequence[str], several: bool) -> list[ModelFolder]:
    info = read_run(run / "run.json")
    results = [(path.parent, read_result(path)) for path in result_files(run)]
    known = list(dict.fromkeys([info["control"], *info["variants"]]))
    for name in variants:
        if name not in known:
            raise SoftmapError(f"{run}: no variant {name!r}{nearest_or_all(name, known)}")
    wanted = [name for name in known if not variants or name in variants]
    order = {slug(name): number for number, name in enumerate(wanted)}
    lived = [
        (folder, result)
        for folder, result in results
        if folder.parent.name in order and not result.get("diverged")
    ]
    if not lived:
        raise SoftmapError(f"{run}: expected finished trials, found none")
    lived.sort(key=lambda trial: (order[trial[0].parent.name], trial[1]["seed"]))
    front = label or (run_name(run) if several else "")
    return [
        ModelFolder(
            _joined(front, str(result["variant"])), f"seed{result['seed']}", trial / "model", run
        )
        for trial, result in lived
    ]


def _joined(front: str, label: str) -> str:
    return f"{front}: {label}" if front else label


def _check_once(models: Sequence[ModelFolder]) -> None:
    seen: set[Path] = set()
    for model in models:
        place = model.folder.resolve()
        if place in seen:
            raise SoftmapError(f"{model.folder}: expected each model once, found it twice")
        seen.add(place)


def _numbered(models: Sequence[ModelFolder]) -> list[ModelFolder]:
    """Returns the models with a name for each run of a label."""
    taken: dict[tuple[str, str], int] = {}
    found = []
    for model in models:
        key = model.label, model.run
        taken[key] = number = taken.get(key, 0) + 1
        run = model.run or "run"
        found.append(model if number == 1 else replace(model, run=f"{run}.{number}"))
    return found


def load(
    model: ModelFolder, *, trust_remote_code: bool = False, precision: str = "fp32"
) -> Subject:
    """Returns the model, ready to be asked; raises ``SoftmapError`` if it does not load."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # no warnings of contexts, which rotary positions may exceed
    kind = read_object(model.folder / "config.json").get("model_type")
    has_tokenizer = any((model.folder / name).is_file() for name in TOKENIZER_FILES)
    if str(kind).partition("-")[0] == "softmap" and has_tokenizer:
        made, tokenizer = load_model(model.folder, trust_remote_code)
    else:
        made = _foreign(model.folder, trust_remote_code)
        tokenizer = load_tokenizer_dir(model.folder) if has_tokenizer else None
    return Subject(
        made, tokenizer, name=model.name, precision=precision, folder=model.folder.resolve()
    )


def _foreign(folder: Path, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        made = AutoModelForCausalLM.from_pretrained(
            folder.resolve(), trust_remote_code=trust_remote_code, local_files_only=True
        )
    except SoftmapError:
        raise
    except Exception as error:  # safetensors', JSON's and transformers' own
        raise SoftmapError(
            f"{folder}: expected a causal language model, found one that does not load: "
            f"{reason(error)}"
        ) from None
    return made.eval()


def text_of(
    models: Sequence[ModelFolder], data: str | None, field: str | None, cache: Path
) -> Text:
    """Returns the held-out text: that of ``data``, or of the first model's run, or the standard
    library.
    """
    run = next((model.of for model in models if model.of is not None), None)
    if data is None and run is not None:
        from softmap.lab import recipe as recipes

        config = recipes.of_run(run, trust=True).data  # for its text; none of its code is run
        return Text.of(prepare(config, run.parent / CACHE))
    config = DataConfig(data or "stdlib", field or "text", "bytes")
    return Text.of(prepare(config, cache))


def label_order(models: Sequence[ModelFolder]) -> list[str]:
    """Returns the labels in the order of the command line."""
    return list(dict.fromkeys(model.label for model in models))
