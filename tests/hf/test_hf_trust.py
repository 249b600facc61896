"""A folder that is loaded runs no code, unless the one who loads it says so."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from softmap.cli import main
from softmap.errors import SoftmapError
from softmap.hf import SoftmapConfig, SoftmapForCausalLM

SIZES = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CODE = """
from pathlib import Path
from softmap.variants import Parts, variant
(Path({marker!r}) / "ran").touch()

@variant("mine", "Mine")
def mine(*, keep: bool = True):
    return Parts(backbone={{"qk_norm": True}})
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A variant's file in the present folder; ``ran`` appears there when it is executed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(CODE.format(marker=str(tmp_path)))
    return tmp_path


@pytest.fixture
def plain(own: Path) -> Path:
    """A saved model; its configuration names no code."""
    SoftmapForCausalLM(SoftmapConfig(**SIZES)).save_pretrained(own / "plain")
    return own / "plain"


def rename(folder: Path, **fields: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | fields))


LOADERS: dict[str, Callable[..., Any]] = {
    "model": SoftmapForCausalLM.from_pretrained,
    "config": SoftmapConfig.from_pretrained,
    "auto model": AutoModelForCausalLM.from_pretrained,
    "auto config": lambda folder, **more: AutoModelForCausalLM.from_pretrained(
        folder, config=AutoConfig.from_pretrained(folder, **more), **more
    ),
    "json": lambda folder, **more: SoftmapConfig.from_json_file(folder / "config.json", **more),
    "dict": lambda folder, **more: SoftmapConfig.from_dict(
        json.loads((folder / "config.json").read_text()), **more
    ),
}
SPECS: dict[str, Any] = {
    "file": "own.py:mine",
    "with options": "diff+own.py:mine(keep=false)",
    "list": ["diff", "own.py:mine"],
    "mapping": {"own.py:mine": {"keep": True}},
    "nested": ["diff", [{"own.py:mine": None}]],
    "upwards": "../own.py:mine",
    "module": "own:mine",
    "unknown": "own.py:nothing",
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("spec", SPECS)
def test_no_code_runs_untrusted(
    own: Path, plain: Path, monkeypatch: pytest.MonkeyPatch, loader: str, spec: str
) -> None:
    monkeypatch.syspath_prepend(own)
    rename(plain, variant=SPECS[spec])
    for more in ({}, {"trust_remote_code": False}):
        with pytest.raises(SoftmapError, match=r"own.*trust_remote_code=True") as error:
            LOADERS[loader](plain, **more)
        assert "\n" not in str(error.value)
    assert not (own / "ran").exists()


def test_reading_a_config_alone_runs_nothing(own: Path, plain: Path) -> None:
    rename(plain, variant="own.py:mine")
    config = AutoConfig.from_pretrained(plain)
    with pytest.raises(SoftmapError, match="trust_remote_code"):
        AutoModelForCausalLM.from_config(config)
    with pytest.raises(SoftmapError, match="trust_remote_code"):
        SoftmapForCausalLM(copy.deepcopy(config))
    with pytest.raises(SoftmapError, match="trust_remote_code"):
        pickle.loads(pickle.dumps(config)).model_config().composition  # noqa: B018
    assert not (own / "ran").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_map": {"AutoConfig": "own.mine", "AutoModelForCausalLM": "own.mine"}},
        {"attn_implementation": "somebody/kernel"},
        {"_attn_implementation": "somebody/kernel"},
    ],
)
def test_other_ways_to_name_code(own: Path, plain: Path, fields: dict[str, Any]) -> None:
    shutil.copy(own / "own.py", plain)
    rename(plain, **fields)
    if "auto_map" in fields:
        model = AutoModelForCausalLM.from_pretrained(plain)
        assert type(model) is SoftmapForCausalLM
    else:
        with pytest.raises(SoftmapError, match="somebody/kernel"):
            AutoModelForCausalLM.from_pretrained(plain)
    assert not (own / "ran").exists()


def test_pickled_weights_are_not_read(plain: Path) -> None:
    (plain / "model.safetensors").unlink()
    torch.save({}, plain / "pytorch_model.bin")
    with pytest.raises(SoftmapError, match="safetensors"):
        SoftmapForCausalLM.from_pretrained(plain)


@pytest.mark.parametrize("loader", ["model", "auto model", "auto config"])
def test_a_saved_model_carries_its_code(
    own: Path, monkeypatch: pytest.MonkeyPatch, loader: str
) -> None:
    """The folder alone is enough, wherever it lies, and saved again it is complete again."""
    model = SoftmapForCausalLM(SoftmapConfig(variant="diff+./own.py:mine", **SIZES)).eval()
    code = (own / "own.py").read_bytes()
    (own / "own.py").unlink()  # what ran is saved, whatever has become of the file
    model.save_pretrained(own / "saved")
    assert (own / "saved" / "own.py").read_bytes() == code
    assert json.loads((own / "saved/config.json").read_text())["variant"] == "diff+own.py:mine"
    (own / "elsewhere").mkdir()
    shutil.move(own / "saved", own / "a (+) b")
    monkeypatch.chdir(own / "elsewhere")
    again = LOADERS[loader](own / "a (+) b", trust_remote_code=True)
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    again.save_pretrained(own / "third")
    assert (own / "third" / "own.py").read_bytes() == code
    with pytest.raises(SoftmapError, match="trust_remote_code"):
        LOADERS[loader](own / "third")


def test_what_was_trusted_once_is_read_again_but_sealed(own: Path) -> None:
    """As PEFT does when it saves an adapter."""
    SoftmapForCausalLM(SoftmapConfig(variant="own.py:mine", **SIZES)).save_pretrained(own / "to")
    model = AutoModelForCausalLM.from_pretrained(own / "to", trust_remote_code=True)
    again = type(model.config).from_pretrained(model.config.name_or_path)
    assert again.vocab_size == 32
    with pytest.raises(SoftmapError, match="trust_remote_code"):
        SoftmapForCausalLM(again)
    with pytest.raises(SoftmapError, match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(own / "to")


def test_other_files_of_that_name_are_left_alone(own: Path) -> None:
    (own / "to").mkdir()
    (own / "to" / "own.py").write_text("# another\n")
    SoftmapConfig(variant="own.py:mine", **SIZES).save_pretrained(own / "to")
    assert (own / "to" / "own.py").read_text() == "# another\n"
    assert json.loads((own / "to/config.json").read_text())["variant"] == "own_2.py:mine"
    assert SoftmapConfig.from_pretrained(own / "to", trust_remote_code=True)


def test_generate_refuses_in_one_line(
    own: Path, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (plain / "evil.py").write_text(f"open({str(own / 'ran')!r}, 'w')")
    rename(plain, variant="plain/evil.py:x")
    assert main(["generate", str(plain)]) == 2
    said = capsys.readouterr().err
    assert "plain/evil.py:x" in said and "--trust-remote-code" in said and said.count("\n") == 1
    assert not (own / "ran").exists()
    assert main(["generate", str(plain), "--trust-remote-code"]) == 2
    assert (own / "ran").exists() and "no variant 'x'" in capsys.readouterr().err
