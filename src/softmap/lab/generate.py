"""Continues a prompt with a model of a run, or of an exported folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from softmap.data import load_tokenizer_dir
from softmap.data.config import is_unicode
from softmap.errors import SoftmapError, nearest, reason, shown
from softmap.fields import Range, check
from softmap.files import sealed
from softmap.hf import SoftmapForCausalLM
from softmap.lab import files
from softmap.lab.plan import slug
from softmap.nn import own
from softmap.report.load import read_result, read_run, result_files

LONGEST_PROMPT = 10**6


def model_folder(where: Path, variant: str | None = None, seed: int | None = None) -> Path:
    """Returns the exported model of a run's variant (by default its control), or ``where`` itself.

    Raises ``SoftmapError`` for a folder that is neither, and for a variant that is not finished.
    """
    if not where.is_dir():
        raise SoftmapError(f"{where}: expected the folder of a run or of a model, found none")
    if os.path.lexists(where / "run.json"):
        return _of_run(where, read_run(where / "run.json"), variant, seed)
    if variant is not None or seed is not None:
        raise SoftmapError(f"{where}: --variant and --seed need a run, found a model's folder")
    if not (where / "config.json").is_file():
        raise SoftmapError(
            f"{where}: expected a run (run.json) or a model (config.json), found neither"
        )
    return where


def load_model(folder: Path, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Returns the model and the tokenizer of an exported folder, after verifying its files.

    Args:
        trust_remote_code: whether a variant's own file in it may run.

    Raises ``SoftmapError`` in one line for code that may not run, for a broken folder, and for a
    model that is not softmap's.
    """
    variant = _check_kind(folder).get("variant")
    try:
        if variant is not None and own.names_code(variant):
            # Report code that would run before files that were altered.
            own.loaded(variant, folder, trust_remote_code).check()
        sealed.verify_folder(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except SoftmapError as error:
        text = str(error)
        raise error if str(folder) in text else SoftmapError(f"{folder}: {text}") from None
    except Exception as error:  # safetensors', JSON's and transformers' own
        raise SoftmapError(f"{folder}: broken model: {reason(error)}") from None
    return model.eval(), load_tokenizer_dir(folder)


def generate(
    folder: Path,
    prompt: str,
    *,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> str:
    """Returns ``prompt`` with its continuation; temperature 0 always takes the likeliest token.

    An empty prompt starts a document. Raises ``SoftmapError`` for a broken folder, a prompt that is
    not valid text, and numbers out of range.
    """
    given = {"temperature": temperature, "top_k": top_k, "seed": seed}
    _check_sampling(prompt, max_new_tokens=max_new_tokens, **given)
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # no warnings of contexts, which rotary positions may exceed
    model, tokenizer = load_model(folder, trust_remote_code)
    ids = tokenizer.encode(prompt) or [tokenizer.eod]
    sampling: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        sampling |= {"temperature": temperature, "top_k": top_k or 0}
    # The folder's settings of beams, penalties and the like do not apply here.
    model.generation_config = GenerationConfig()
    torch.manual_seed(seed)
    with torch.no_grad():
        tokens = model.generate(
            torch.tensor([ids]), max_new_tokens=max_new_tokens, eos_token_id=tokenizer.eod,
            pad_token_id=tokenizer.eod, **sampling,
        )  # fmt: skip
    text: str = tokenizer.decode(tokens[0].tolist())
    return text


def _of_run(where: Path, run: dict[str, Any], variant: str | None, seed: int | None) -> Path:
    label = variant or run["control"]
    results = {path.parent: read_result(path) for path in result_files(where)}
    known = sorted({result["variant"] for result in results.values()})
    finished = [path for path in results if path.parent.name == slug(label)]
    if seed is not None:
        finished = [path for path in finished if path.name == f"seed{seed}"]
    of_label = [path for path in finished if not results[path].get("diverged")]
    if finished and not of_label:
        end = results[finished[0]]["diverged"]
        raise SoftmapError(
            f"{finished[0]}: expected a trained model, found a training that diverged "
            f"({end['reason']} at step {end['step']})"
        )
    if not of_label:
        what = repr(label) + ("" if seed is None else f" with seed {seed}")
        hint = nearest(label, known) if label not in known else ""
        raise SoftmapError(
            f"{where}: no finished {what}{hint}; finished: {', '.join(known) or 'none'}"
        )
    # The model's own checksums cannot distinguish it from the model of another trial.
    chosen = of_label[0]
    sealed.verify(chosen, results[chosen].get("model") or {}, chosen / "result.json")
    return chosen / "model"


def _check_kind(folder: Path) -> dict[str, Any]:
    config = files.read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if str(kind).partition("-")[0] != SoftmapForCausalLM.config_class.model_type:
        raise SoftmapError(
            f"{folder / 'config.json'}: expected a softmap model, found model type {kind!r}; "
            "softmap import converts published ones"
        )
    return dict(config)


_SAMPLING = {
    "max_new_tokens": Annotated[int, Range(1, 10**6)],
    "temperature": Annotated[float, Range(1e-4, 1e4)] | Literal[0],
    "top_k": Annotated[int, Range(1, 2**31)] | None,
    "seed": Annotated[int, Range(0, 2**63 - 1)],
}


def _check_sampling(prompt: str, **given: Any) -> None:
    for name, value in given.items():
        check(name, 0 if value == 0.0 and name == "temperature" else value, _SAMPLING[name])
    if not is_unicode(prompt):
        raise SoftmapError(f"prompt: expected text in UTF-8, found {shown(prompt)}")
    if len(prompt) > LONGEST_PROMPT:
        raise SoftmapError(
            f"prompt: expected at most {LONGEST_PROMPT:,} characters, found {len(prompt):,}"
        )
