from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, ByT5Tokenizer

from softmap.data import Tokenizer, load_tokenizer_dir, synthetic
from softmap.data.builders import END, bytes_tokenizer, load_tokenizer, train_bpe
from softmap.data.config import parse_spec
from softmap.data.tokenizer import PIECE, byte_chars
from softmap.errors import SoftmapError

HARD = f"naïve 日本語 \u200b🙂\r\n\t  x  {END} <pad>\0 " + "\x7f"


def bpe() -> Tokenizer:
    return train_bpe([synthetic.tiny_text()], 300)


MAKERS = pytest.mark.parametrize("make", [bytes_tokenizer, bpe])


@MAKERS
def test_every_text_comes_back(make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    ids = tokenizer.encode(HARD)
    assert tokenizer.decode(ids) == HARD
    assert tokenizer.eod not in ids  # the end token spelled out in a text is only text
    assert max(ids) < tokenizer.vocab_size
    assert tokenizer.encode("") == []


@MAKERS
def test_a_saved_tokenizer_loads_anywhere(make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    tokenizer = make()
    (tmp_path / "config.json").write_text('{"model_type": "not_registered_here"}')
    tokenizer.save(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    auto = AutoTokenizer.from_pretrained(tmp_path)
    text = "def f(x):  # ü"
    assert auto(text)["input_ids"] == tokenizer.encode(text)
    assert auto.decode(auto(text)["input_ids"]) == text
    assert auto.eos_token_id == auto.pad_token_id == tokenizer.eod
    again = load_tokenizer_dir(tmp_path)
    assert again.encode(HARD) == tokenizer.encode(HARD)
    assert again.vocab_size == tokenizer.vocab_size
    assert str(tmp_path) not in (tmp_path / "tokenizer_config.json").read_text()


def test_bytes_are_their_own_ids() -> None:
    tokenizer = bytes_tokenizer()
    assert tokenizer.encode("aü\n") == list("aü\n".encode())
    assert (tokenizer.eod, tokenizer.vocab_size) == (256, 257)
    assert len(set(byte_chars())) == 256


def test_bpe_is_deterministic_and_as_large_as_asked() -> None:
    first, second = bpe(), bpe()
    assert first.vocab_size == 300
    assert first.digest == second.digest
    assert first.digest != bytes_tokenizer().digest
    assert len(first.encode(synthetic.tiny_text())) < len(synthetic.tiny_text()) * 0.8


def test_bpe_learns_the_most_frequent_pair_first() -> None:
    tokenizer = train_bpe(["ab ab ab cd"], 258)  # 256 bytes, the end, one merge
    assert [tokenizer.token_str(i) for i in tokenizer.encode("abcd")] == ["ab", "c", "d"]


def test_little_text_gives_a_smaller_vocabulary() -> None:
    assert train_bpe(["abc"], 5000).vocab_size == 257  # no pair occurs twice


def test_token_strings() -> None:
    tokenizer = bytes_tokenizer()
    assert [tokenizer.token_str(i) for i in (97, 32, 10, 0xC3, 256)] == [
        "a", " ", "\n", "<0xC3>", END,
    ]  # fmt: skip
    for id_ in (-1, 257):
        with pytest.raises(SoftmapError, match=r"0\.\.256"):
            tokenizer.token_str(id_)


def test_the_end_is_shown_only_on_demand() -> None:
    tokenizer = bytes_tokenizer()
    assert tokenizer.decode([97, 256, 98]) == "ab"
    assert tokenizer.decode([97, 256, 98], skip_special_tokens=False) == f"a{END}b"


def test_long_texts_are_cut_at_lines_and_come_back() -> None:
    text = "word\n" * (PIECE // 5) + "x" * (PIECE + 7)
    tokenizer = bytes_tokenizer()
    assert tokenizer.encode_batch([text, "y"]) == [list(text.encode()), [ord("y")]]


def test_any_hf_tokenizer_without_its_truncation(tmp_path: Path) -> None:
    bpe().save(tmp_path)
    path = tmp_path / "tokenizer.json"
    data = json.loads(path.read_text())
    data["truncation"] = {
        "max_length": 3, "stride": 0, "strategy": "LongestFirst", "direction": "Right",
    }  # fmt: skip
    path.write_text(json.dumps(data))
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.decode(loaded.encode(HARD)) == HARD


def test_tokenizers_written_in_python_work_too(tmp_path: Path) -> None:
    ByT5Tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.decode(tokenizer.encode("hé")) == "hé"
    assert tokenizer.eod == tokenizer.hf.eos_token_id
    assert len(tokenizer.digest) == 32


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("bep:1024", ["'bep:1024'", "did you mean 'bpe'"]),
        ("bpe", ["bpe:SIZE"]),
        ("bpe:many", ["bpe:SIZE"]),
        ("bpe:256", ["257 to 1,048,576", "256"]),
        ("byte", ["did you mean 'bytes'"]),
        ("bytes:3", ["bytes"]),
        ("hf:", ["hf:NAME_OR_FOLDER"]),
        ("", ["bpe:SIZE"]),
    ],
)
def test_bad_specs(spec: str, parts: list[str]) -> None:
    with pytest.raises(SoftmapError) as caught:
        parse_spec(spec)
    assert all(part in str(caught.value) for part in parts)


def test_tokenizers_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(SoftmapError, match="'nobody/nothing' cannot be loaded") as caught:
        load_tokenizer("nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(SoftmapError, match="does not exist"):
        load_tokenizer_dir(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(SoftmapError, match="cannot be loaded"):
        load_tokenizer_dir(tmp_path)


def test_a_full_disk_leaves_the_old_files(tmp_path: Path) -> None:
    bytes_tokenizer().save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(SoftmapError, match="cannot write"):
            bpe().save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
