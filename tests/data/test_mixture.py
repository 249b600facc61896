"""Several sources in one training: whole, in the proportions of their weights, resumable."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from softmap.data import Corpus, DataConfig, Mixture, Part, order, prepare
from softmap.data.split import HELDOUT, TRAIN, SplitDocument, interleaved
from softmap.errors import SoftmapError

A, B = np.arange(100, dtype=np.uint16), np.arange(1000, 1030, dtype=np.uint16)
MIXED = Mixture((A, B), (3, 2))


def rows(steps: range, seed: int = 0, size: int = 3) -> np.ndarray:
    found = [
        order.batch(MIXED, seed=seed, step=step, batch_size=size, context=10) for step in steps
    ]
    return np.concatenate(found)


def test_each_cycle_has_exactly_the_weights_of_each_text() -> None:
    of_b = (rows(range(50))[:, 1] >= 1000).reshape(-1, 5)  # 3 + 2 windows a cycle
    assert (of_b.sum(1) == 2).all()
    assert len({tuple(cycle) for cycle in of_b.tolist()}) > 3  # not always in the same order


def test_each_text_goes_through_epochs_of_its_own() -> None:
    targets = rows(range(50))[:, 1:]  # 150 windows: 90 of A with 10 an epoch, 60 of B with 3
    a, b = targets[targets[:, 0] < 1000], targets[targets[:, 0] >= 1000]
    for text, mine, windows in ((A, a, 10), (B, b, 3)):
        for epoch in range(len(mine) // windows):
            seen = mine[epoch * windows : (epoch + 1) * windows]
            assert sorted(seen.reshape(-1)) == text.tolist()


def test_a_mixture_is_a_function_of_seed_and_step_alone() -> None:
    whole, by_five = rows(range(20)), rows(range(12), size=5)
    assert (whole == by_five).all() and (whole != rows(range(20), seed=1)).any()
    order._turns.cache_clear()
    assert (rows(range(13, 14)) == whole[39:42]).all()
    part = order.batch(MIXED, seed=0, step=4, batch_size=3, context=10, rows=slice(1, 3))
    assert (part == whole[13:15]).all()


def documents(side: int, *sizes: int) -> Iterator[SplitDocument]:
    return iter([SplitDocument(side, "x" * size, size) for size in sizes])


def test_what_is_held_out_keeps_the_proportions() -> None:
    parts = [documents(HELDOUT, 10, 10), documents(HELDOUT, *[5] * 9)]
    found = list(interleaved(parts, [2, 1]))
    kept = Counter((one.part, one.spare) for one in found)
    assert kept == {(0, False): 2, (1, False): 2, (1, True): 7}
    trained = list(interleaved([documents(TRAIN, 10), documents(TRAIN, 5, 5, 5)], [1, 1]))
    assert len(trained) == 4 and not any(one.spare for one in trained)


def write(folder: Path) -> list[Part]:
    """100 records of the letter a as Parquet, 100 of b as JSONL, in shards; some are in both."""
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    for shard in range(2):
        a = [f"a{shard * 50 + i:03} " * 20 for i in range(50)]
        b = [f"b{shard * 50 + i:03} " * 20 for i in range(50)] + a[:10]
        pyarrow.parquet.write_table(
            pyarrow.table({"body": a}), folder / "a" / f"train-{shard}.parquet"
        )
        lines = "".join(json.dumps({"text": text}) + "\n" for text in b)
        (folder / "b" / f"train-{shard}.jsonl").write_text(lines)
    return [Part(f"hf:{folder / 'a'}", "body", 3), Part(f"hf:{folder / 'b'}", weight=1)]


def made(folder: Path, parts: list[Part], **given: object) -> Corpus:
    config = DataConfig(parts, tokenizer="bytes", heldout=0.2, **given)  # type: ignore[arg-type]
    return prepare(config, folder / "cache")


def texts(corpus: Corpus, tokens: np.ndarray) -> set[str]:
    return set(corpus.tokenizer.decode(tokens).replace("<|endoftext|>", " ").split())


def test_streamed_shards_become_a_corpus_of_several_texts(tmp_path: Path) -> None:
    parts = write(tmp_path)
    corpus = made(tmp_path, parts)
    assert isinstance(corpus.train, Mixture) and corpus.train.weights == (3, 1)
    a, b = (texts(corpus, part) for part in corpus.train.parts)
    held = texts(corpus, corpus.heldout)
    assert all(name.startswith("a") for name in a) and all(name.startswith("b") for name in b)
    assert not held & (a | b) and {name[0] for name in held} == {"a", "b"}
    assert corpus.meta["duplicates"] == 20
    assert len(a | {name for name in held if name[0] == "a"}) == 100  # a ends first: all is used
    # Of b so much is held out as three times less than a has allows.
    sizes = Counter(name[0] for name in held)
    assert sizes["b"] < sizes["a"] and len(b) > 70
    again = made(tmp_path, parts)
    assert again.meta == corpus.meta and len(list((tmp_path / "cache").iterdir())) == 2
    other = made(tmp_path, [parts[0], Part(parts[1].data, weight=2)])
    assert other.meta["hash"] != corpus.meta["hash"]


def test_damage_of_one_text_is_mended(tmp_path: Path) -> None:
    parts = write(tmp_path)
    before = made(tmp_path, parts).meta["hash"]
    (file,) = (tmp_path / "cache").glob("*/train-1.bin")
    file.write_bytes(b"\0" * file.stat().st_size)
    after = made(tmp_path, parts)
    assert after.meta["hash"] == before and order.parts_of(after.train)[1].any()


def test_a_limit_is_shared_by_weight(tmp_path: Path) -> None:
    corpus = made(tmp_path, write(tmp_path), max_bytes=4000)
    sizes = [len(part) for part in order.parts_of(corpus.train)]
    held = np.asarray(corpus.heldout)
    assert 3000 <= sizes[0] + (held == ord("a")).sum() * 5 <= 3200 and sizes[1] <= 1100


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _: Part("x", weight=0), "weight: expected a whole number from 1 to 1,000, found 0"),
        (lambda _: DataConfig([]), "data: expected a name, found []"),
        (lambda a: prepare(DataConfig([a, a], tokenizer="bytes"), "c"), "no text in it"),
    ],
)
def test_bad_mixtures(tmp_path: Path, make: Callable[[Part], object], said: str) -> None:
    (tmp_path / "t.txt").write_text("some text\n" * 9)
    with pytest.raises(SoftmapError) as caught:
        make(Part(str(tmp_path / "t.txt")))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_broken_shard_of_a_stream_is_named(tmp_path: Path, kind: str) -> None:
    write(tmp_path)
    folder = tmp_path / ("a" if kind == "parquet" else "b")
    path = folder / f"train-1.{kind}"
    if kind == "jsonl":
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:30], '{"text": "torn', *lines[30:]]))
        said = f"{path}:31: not JSON"
    else:
        table = pyarrow.parquet.read_table(path)
        plain = {"use_dictionary": False, "compression": "none", "write_page_checksum": True}
        pyarrow.parquet.write_table(table, path, row_group_size=10, **plain)
        group = pyarrow.parquet.ParquetFile(path).metadata.row_group(2).column(0)
        data = bytearray(path.read_bytes())  # another letter: the checksum alone tells
        data[group.data_page_offset + group.total_compressed_size // 2] ^= 1
        path.write_bytes(data)
        said = f"{path} after row 20: cannot be read as Parquet"
    field = "body" if kind == "parquet" else "text"
    with pytest.raises(SoftmapError) as caught:
        prepare(DataConfig(f"hf:{folder}", field, "bytes"), tmp_path / "cache")
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("cache/*"))
