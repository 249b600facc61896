"""Published folders to ours: a tiny DCFormer checkpoint as its authors publish it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from interop_golden import golden
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, DiffLlamaConfig, DiffLlamaForCausalLM

from softmap.cli import main
from softmap.errors import SoftmapError
from softmap.interop import from_diffllama, from_official, import_folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """One safetensors file, a config with the keys of theirs, a tokenizer."""
    folder = tmp_path / "published"
    folder.mkdir()
    _, state, config = golden("dcformer_full")
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text('{"model": {}}')
    (folder / "modeling_dcformer.py").write_text("raise SystemExit('not to be run')")
    return folder


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(golden("dcformer_full")[0]["input_ids"]).logits


def test_single_file(published, tmp_path):
    dest = import_folder(published, tmp_path / "new" / "ours")
    model = AutoModelForCausalLM.from_pretrained(dest)
    _, state, config = golden("dcformer_full")
    assert torch.equal(logits(model), logits(from_official("dcformer", state, config)))
    assert (model.config.bos_token_id, model.config.eos_token_id) == (1, 2)
    assert (dest / "tokenizer.json").read_text() == '{"model": {}}'
    assert not list(dest.glob("*.py"))
    assert [p.name for p in dest.parent.iterdir()] == ["ours"]


def test_shards(published, tmp_path):
    state = golden("dcformer_full")[1]
    (published / "model.safetensors").unlink()
    names = sorted(state)
    halves = {f"model-{n}-of-2.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for file, part in halves.items():
        save_file({k: state[k] for k in part}, published / file)
    index = {"weight_map": {k: file for file, part in halves.items() for k in part}}
    (published / "model.safetensors.index.json").write_text(json.dumps(index))
    empty = tmp_path / "ours"
    empty.mkdir()
    assert main(["import", str(published), str(empty)]) == 0
    model = AutoModelForCausalLM.from_pretrained(empty)
    _, state, config = golden("dcformer_full")
    assert torch.equal(logits(model), logits(from_official("dcformer", state, config)))
    (published / "model-2-of-2.safetensors").unlink()
    with pytest.raises(SoftmapError, match=r"names model-2-of-2.safetensors: found no such file"):
        import_folder(published, tmp_path / "other")


def test_an_index_does_not_lead_out_of_its_folder(published, tmp_path):
    (published / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"weight_map": {"norm.weight": "../outside.safetensors"}}
    (published / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SoftmapError, match=r"names \.\./outside.safetensors: found no such file"):
        import_folder(published, tmp_path / "ours")


@torch.no_grad()
def test_diffllama_by_its_config(tmp_path):
    config = DiffLlamaConfig(
        vocab_size=19, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4,
    )  # fmt: skip
    theirs = DiffLlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    model = AutoModelForCausalLM.from_pretrained(
        import_folder(tmp_path / "theirs", tmp_path / "ours")
    )
    ids = torch.randint(19, (1, 8))
    assert torch.equal(model(ids).logits, from_diffllama(theirs)(ids).logits)


def refused(source: Path | str, dest: Path, message: str, kind: str | None = None) -> None:
    """One line, and nothing written."""
    before = sorted(dest.parent.rglob("*"))
    with pytest.raises(SoftmapError, match=message) as caught:
        import_folder(source, dest, kind=kind)
    assert "\n" not in str(caught.value)
    assert sorted(dest.parent.rglob("*")) == before


def test_kinds(published, tmp_path):
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps({**config, "model_type": "mystery"}))
    refused(published, tmp_path / "ours", r"one of the kinds dcformer, diffllama, found 'mystery'")
    refused(published, tmp_path / "ours", r"found 'dcformr'.*did you mean 'dcformer'", "dcformr")
    assert import_folder(published, tmp_path / "ours", kind="dcformer").is_dir()


def test_pickles_are_refused(published, tmp_path):
    (published / "model.safetensors").rename(published / "pytorch_model.bin")
    refused(published, tmp_path / "ours", r"only pickled weights \(pytorch_model.bin\)")
    (published / "pytorch_model.bin").unlink()
    refused(published, tmp_path / "ours", r"expected model.safetensors or .* found neither")


def test_broken_sources(published, tmp_path):
    (published / "model.safetensors").write_bytes(b"not weights")
    refused(published, tmp_path / "ours", r"model.safetensors: not a readable safetensors file")
    (published / "config.json").write_text("{")
    refused(published, tmp_path / "ours", r"config.json: broken file: expected JSON")
    (published / "config.json").write_text("[1]")
    refused(published, tmp_path / "ours", r"config.json: expected a JSON object, found list")
    (published / "config.json").unlink()
    refused(published, tmp_path / "ours", r"config.json: expected a file, found No such file")


def test_hub_names_without_a_network(tmp_path):
    refused("no-such/model", tmp_path / "ours", r"no-such/model: no such folder, and the Hub")
    refused("/no/such/folder", tmp_path / "ours", r"expected a folder or a Hub name")
    assert main(["import", "no-such/model", str(tmp_path / "ours")]) == 2


def test_hub_names_are_resolved(published, tmp_path, monkeypatch):
    asked = []

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        assert not any(p.endswith((".bin", ".py")) for p in allow_patterns)
        return str(published)

    monkeypatch.setattr("softmap.interop.checkpoint.snapshot_download", snapshot)
    assert import_folder("owner/model", tmp_path / "ours").is_dir()
    assert set(asked) == {"owner/model"}


def test_destinations(published, tmp_path, monkeypatch):
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious").write_text("keep")
    refused(published, full, r"expected a new or empty folder to write to")
    refused(published, full / "precious", r"expected a new or empty folder to write to")

    def no_room(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("softmap.interop.folder.shutil.copyfile", no_room)
    refused(published, tmp_path / "ours", r"ours: could not be written: .*No space left")


def write_index(folder: Path, places: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_truncated_weights(published, tmp_path):
    whole = (published / "model.safetensors").read_bytes()
    for length in (0, 7, 100, len(whole) - 1):
        (published / "model.safetensors").write_bytes(whole[:length])
        refused(published, tmp_path / "ours", r"model.safetensors: not a readable safetensors file")


def test_a_weight_lies_where_the_index_says_and_only_there(published, tmp_path):
    state = golden("dcformer_full")[1]
    name = "norm.weight"
    (published / "model.safetensors").rename(published / "a.safetensors")
    save_file({name: state[name] + 1}, published / "b.safetensors")
    write_index(published, dict.fromkeys(state, "a.safetensors") | {name: "b.safetensors"})
    refused(published, tmp_path / "ours", r"b.safetensors: expected each weight once, found norm.w")
    save_file({"norm": state[name]}, published / "b.safetensors")
    refused(published, tmp_path / "ours", r"index.json: expected the file of each weight, found 'n")
    write_index(published, dict.fromkeys(state, "a.safetensors"))
    refused(published, tmp_path / "ours", r"found b.safetensors beside them")


def test_other_weights_in_the_folder(published, tmp_path):
    (published / "adapter_config.json").write_text("{}")
    refused(published, tmp_path / "ours", r"found adapter_config.json beside them; remove it, or")
    save_file(golden("dcformer_full")[1], published / "consolidated.safetensors")
    refused(published, tmp_path / "ours", r"found consolidated.safetensors beside them")


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (self.path.touch, ())


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "model.safetensors"])
def test_pickled_code_is_not_run(name, published, tmp_path):
    (published / "model.safetensors").unlink()
    torch.save({"norm.weight": Bomb(tmp_path / "ran")}, published / name)
    refused(published, tmp_path / "ours", r"only pickled weights|not a readable safetensors file")
    assert not (tmp_path / "ran").exists()


def test_ambiguous_and_deep_json(published, tmp_path):
    config = published / "config.json"
    config.write_text('{"dim": 32, "dim": 64}')
    refused(published, tmp_path / "ours", r"config.json: .*the key 'dim' twice")
    config.write_text("[" * 100_000)
    refused(published, tmp_path / "ours", r"config.json: broken file: expected JSON")


def test_unknown_fields(published, tmp_path):
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps({**config, "rotary_pct": 0.25}))
    refused(published, tmp_path / "ours", r"unknown option rotary_pct=0.25")


def test_generation_config_goes_along(published, tmp_path):
    theirs = published / "generation_config.json"
    theirs.write_text('{"do_sample": true, "top_p": 0.9, "eos_token_id": [2, 5]}')
    dest = import_folder(published, tmp_path / "ours")
    model = AutoModelForCausalLM.from_pretrained(dest)
    assert (model.generation_config.top_p, model.generation_config.eos_token_id) == (0.9, [2, 5])
    theirs.write_text('{"top_pp": 0.9}')
    refused(published, tmp_path / "new", r"generation_config.json: unknown option top_pp=0.9")
    theirs.write_text('{"max_new_tokens": -1}')
    refused(published, tmp_path / "new", r"generation_config.json: transformers refuses it")
