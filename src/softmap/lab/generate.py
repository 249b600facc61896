"""Continue a prompt with a model of a run, or of an exported folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from softmap.data import load_tokenizer_dir
from softmap.data.config import is_unicode
from softmap.errors import SoftmapError, nearest, shown
from softmap.fields import Range, check
from softmap.hf import SoftmapForCausalLM
from softmap.lab import files
from softmap.lab.plan import slug

LONGEST_PROMPT = 10**6


def model_folder(where: Path, variant: str | None = None, seed: int | None = None) -> Path:
    """The exported model of a run's variant (its control by default), or ``where`` itself.

    Raises ``SoftmapError`` for a folder that is neither, and a variant that is not finished.
    """
    if not where.is_dir():
        raise SoftmapError(f"{where}: expected the folder of a run or of a model, found none")
    run = files.read_json(where / "run.json")
    if run is not None:
        return _of_run(where, run, variant, seed)
    if variant is not None or seed is not None:
        raise SoftmapError(f"{where}: --variant and --seed choose from a run, this is none")
    if not (where / "config.json").is_file():
        raise SoftmapError(
            f"{where}: expected a run (run.json) or a model (config.json), found neither"
        )
    return where


def load_model(folder: Path) -> tuple[Any, Any]:
    """The model and tokenizer of an exported folder.

    Raises ``SoftmapError`` in one line for a broken folder, or a model that is not softmap's.
    """
    _check_kind(folder)
    try:
        model = SoftmapForCausalLM.from_pretrained(folder)
    except SoftmapError:
        raise
    except Exception as error:  # safetensors', JSON's and transformers' own
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise SoftmapError(f"{folder}: broken model: {text}") from None
    return model.eval(), load_tokenizer_dir(folder)


def generate(
    folder: Path,
    prompt: str,
    *,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
) -> str:
    """``prompt`` and its continuation. temperature 0 takes the likeliest token each time.

    Raises ``SoftmapError`` for a broken folder, a prompt that is no valid text, numbers out of
    range. An empty prompt begins a document.
    """
    given = {"temperature": temperature, "top_k": top_k, "seed": seed}
    _check_sampling(prompt, max_new_tokens=max_new_tokens, **given)
    model, tokenizer = load_model(folder)
    ids = tokenizer.encode(prompt) or [tokenizer.eod]
    sampling: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        sampling |= {"temperature": temperature, "top_k": top_k or 0}
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
    finished = sorted(path.parent for path in where.glob("variants/*/seed*/result.json"))
    known = sorted({files.read_json(path / "result.json")["variant"] for path in finished})
    of_label = [path for path in finished if path.parent.name == slug(label)]
    if seed is not None:
        of_label = [path for path in of_label if path.name == f"seed{seed}"]
    if not of_label:
        what = repr(label) + ("" if seed is None else f" with seed {seed}")
        hint = nearest(label, known) if label not in known else ""
        raise SoftmapError(
            f"{where}: no finished {what}{hint}; finished: {', '.join(known) or 'none'}"
        )
    return of_label[0] / "model"


def _check_kind(folder: Path) -> None:
    config = files.read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != SoftmapForCausalLM.config_class.model_type:
        raise SoftmapError(
            f"{folder}: expected a softmap model, found model type {kind!r}; "
            "softmap import converts published ones"
        )


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
