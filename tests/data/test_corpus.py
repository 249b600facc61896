from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import models

from softmap.data import Corpus, DataConfig, Tokenizer, prepare, synthetic, verified
from softmap.data.builders import END, _byte_level, _wrap
from softmap.data.shards import ShardWriter
from softmap.data.tokenizer import byte_chars
from softmap.errors import SoftmapError

Make = Callable[..., Corpus]


def documents(corpus: Corpus, side: str) -> list[str]:
    """The texts of one side, read back from the tokens."""
    ids = getattr(corpus, side)
    assert ids[-1] == corpus.tokenizer.eod
    parts = np.split(ids, np.flatnonzero(ids == corpus.tokenizer.eod) + 1)[:-1]
    return [corpus.tokenizer.decode(part[:-1]) for part in parts]


def only_folder(cache: Path) -> Path:
    """The one folder of the cache; nothing temporary is beside it."""
    (folder,) = (path for path in cache.iterdir() if path.name != ".lock")
    return folder


def test_all_text_is_on_disk_and_none_of_it_twice(folder: Path, make: Make) -> None:
    (folder / "copy.txt").write_text((folder / "a" / "01.txt").read_text())
    corpus = make(folder, heldout=0.2)
    train, heldout = documents(corpus, "train"), documents(corpus, "heldout")
    written = {path.read_text() for path in folder.rglob("*.txt")}
    assert set(train) | set(heldout) == written
    assert not set(train) & set(heldout)
    assert len(train) + len(heldout) == len(written) == 60
    assert corpus.meta["duplicates"] == 1
    assert corpus.meta["split"] == "by document"


def test_meta_counts(folder: Path, make: Make) -> None:
    (folder / "binary").write_bytes(b"\0")
    corpus = make(folder, heldout=0.2)
    meta = corpus.meta
    for side in ("train", "heldout"):
        texts = documents(corpus, side)
        assert meta[f"{side}_documents"] == len(texts)
        assert meta[f"{side}_bytes"] == sum(map(len, texts))
        assert meta[f"{side}_tokens"] == len(getattr(corpus, side))
        assert meta[f"{side}_tokens"] == meta[f"{side}_bytes"] + len(texts)  # bytes and the ends
    assert meta["bytes_per_token"] == meta["heldout_bytes"] / meta["heldout_tokens"]
    assert meta["source"] == str(folder)
    assert (meta["tokenizer"], meta["vocab_size"]) == ("bytes", 257)
    assert meta["skipped_files"] == len(meta["skipped"]) == 1
    assert json.loads(json.dumps(meta)) == meta


def test_bpe_is_trained_on_the_train_side_alone(tmp_path: Path, make: Make) -> None:
    """A word that only one document has becomes one token if and only if that one is in train."""
    for letter in "abcdefghijklmnopqrst":
        (tmp_path / f"{letter}.txt").write_text(f"{letter * 5}\n" * 9)
    corpus = make(tmp_path, heldout=0.4, tokenizer="bpe:1000")
    lengths = {
        side: {len(corpus.tokenizer.encode(text[:5])) for text in documents(corpus, side)}
        for side in ("train", "heldout")
    }
    assert lengths == {"train": {1}, "heldout": {5}}


def wide_tokenizer(vocab_size: int) -> Tokenizer:
    """Bytes, the end, and entries that no text needs."""
    names = [*byte_chars(), END, *(f"<unused {i}>" for i in range(vocab_size - 257))]
    vocab = {name: id_ for id_, name in enumerate(names)}
    return _wrap(_byte_level(models.BPE(vocab=vocab, merges=[])))


def test_dtype_follows_the_vocabulary(folder: Path, make: Make, tmp_path: Path) -> None:
    for size, dtype in ((65536, np.uint16), (65537, np.uint32)):
        wide_tokenizer(size).save(tmp_path / str(size))
        corpus = make(folder, tokenizer=f"hf:{tmp_path}/{size}")
        assert corpus.tokenizer.vocab_size == size
        assert corpus.train.dtype == dtype
        assert documents(corpus, "train") == documents(make(folder), "train")


def test_few_documents_are_split_within(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "t.txt"
    path.write_text(synthetic.tiny_text())
    corpus = make(path, heldout=0.2)
    assert corpus.meta["split"] == "within document"
    (train,), (heldout,) = documents(corpus, "train"), documents(corpus, "heldout")
    assert train + heldout == synthetic.tiny_text()
    assert train.endswith("\n")


def test_records(jsonl: Path, make: Make) -> None:
    corpus = make(jsonl, field="body", heldout=0.2)
    assert corpus.meta["train_documents"] + corpus.meta["heldout_documents"] == 60
    streamed = make(f"hf:{jsonl.parent}", field="body", heldout=0.2)
    assert streamed.meta["hash"] == corpus.meta["hash"]  # the same text in the same order


def test_max_bytes(folder: Path, make: Make) -> None:
    corpus = make(folder, max_bytes=500, heldout=0.3)
    assert corpus.meta["train_bytes"] + corpus.meta["heldout_bytes"] == 500


def test_text_streams_past_the_sample(
    folder: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(folder, heldout=0.2)
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr("softmap.data.corpus.SAMPLE_BYTES", 300)
    monkeypatch.setattr("softmap.data.corpus.GROUP_BYTES", 200)
    streamed = make(folder, heldout=0.2)
    assert streamed.meta == whole.meta
    assert (streamed.train == whole.train).all()


def test_the_second_time_nothing_is_read(
    folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(folder, tokenizer="bpe:300")

    def forbidden(*_: object) -> None:
        raise AssertionError("the source was read again")

    monkeypatch.setattr("softmap.data.corpus._build", forbidden)
    second = make(folder, tokenizer="bpe:300")
    assert second.meta == first.meta
    assert (second.train == first.train).all()
    assert second.tokenizer.encode("document 7") == first.tokenizer.encode("document 7")


def test_what_makes_a_new_corpus(folder: Path, make: Make, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = make(folder)

    def folders() -> int:
        return len([path for path in cache.iterdir() if path.name != ".lock"])

    make(folder, heldout=0.3)
    make(folder, max_bytes=2000)
    make(folder, tokenizer="bpe:300")
    assert folders() == 4
    os.utime(folder / "a" / "01.txt", ns=(0, 0))
    touched = make(folder)
    assert folders() == 5
    assert touched.meta["hash"] == first.meta["hash"]
    (folder / "new.txt").write_text("something else")
    assert make(folder).meta["hash"] != first.meta["hash"]
    assert folders() == 6


def test_a_changed_tokenizer_folder_makes_a_new_corpus(
    folder: Path, make: Make, tmp_path: Path
) -> None:
    make(folder, tokenizer="bpe:300").tokenizer.save(tmp_path / "t")
    small = make(folder, tokenizer=f"hf:{tmp_path}/t")
    make(folder, tokenizer="bpe:320").tokenizer.save(tmp_path / "t")
    large = make(folder, tokenizer=f"hf:{tmp_path}/t")
    assert (small.meta["vocab_size"], large.meta["vocab_size"]) == (300, 320)


def test_the_hash_is_of_the_contents(folder: Path, make: Make, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert make(moved).meta["hash"] == make(folder).meta["hash"]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda f: os.truncate(f / "train.bin", 100),
    "longer": lambda f: (f / "heldout.bin").write_bytes(b"x" * 5000),
    "missing": lambda f: (f / "train.bin").unlink(),
    "meta is cut": lambda f: (f / "meta.json").write_text('{"dtype": "<u2", '),
    "meta is no object": lambda f: (f / "meta.json").write_text("[]"),
    "meta is empty": lambda f: (f / "meta.json").write_text("{}"),
    "no tokenizer": lambda f: shutil.rmtree(f / "tokenizer"),
    "broken tokenizer": lambda f: (f / "tokenizer" / "tokenizer.json").write_text("{"),
    "empty": lambda f: [shutil.rmtree(f), f.mkdir()],
    "a file": lambda f: [shutil.rmtree(f), f.write_text("")],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_cache_is_built_anew(
    folder: Path, make: Make, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    before = make(folder)
    train, meta = np.array(before.train), before.meta
    del before
    damage(only_folder(tmp_path / "cache"))
    after = make(folder)
    assert after.meta == meta
    assert (after.train == train).all()
    only_folder(tmp_path / "cache")


def _prepare(config: DataConfig, cache: Path, barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    results.put(prepare(config, cache).meta["hash"])  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_processes_that_prepare_the_same_at_once(
    folder: Path, make: Make, tmp_path: Path, damaged: bool
) -> None:
    cache, config = tmp_path / "cache", DataConfig(str(folder), tokenizer="bytes")
    if damaged:
        make(folder)
        os.truncate(only_folder(cache) / "train.bin", 10)
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(3), spawn.Queue()
    workers = [
        spawn.Process(target=_prepare, args=(config, cache, barrier, results)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    hashes = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert hashes == {make(folder).meta["hash"]}
    only_folder(cache)


def test_the_loser_of_a_race_takes_the_winners_work(
    folder: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder)
    shutil.copytree(tmp_path / "cache", tmp_path / "winner")
    shutil.rmtree(only_folder(tmp_path / "cache"))
    publish = ShardWriter.publish

    def late(self: ShardWriter, *args: object) -> None:
        shutil.copytree(tmp_path / "winner" / self.final.name, self.final)
        (self.final / "winner").touch()
        publish(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ShardWriter, "publish", late)
    make(folder)
    assert (only_folder(tmp_path / "cache") / "winner").exists()


def test_leftovers_of_killed_processes_go_after_a_day(
    folder: Path, make: Make, tmp_path: Path
) -> None:
    make(folder)
    final = only_folder(tmp_path / "cache")
    shutil.rmtree(final)
    old, new = (final.parent / f".{final.name}-{age}" for age in ("old", "new"))
    for leftover in (old, new):
        leftover.mkdir(parents=True)
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    make(folder)
    assert not old.exists()
    assert new.exists()  # may belong to a process that is at work


def test_a_full_disk_leaves_nothing(
    folder: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SoftmapError, match="No space left on device"):
            make(folder)
    assert list((tmp_path / "cache").iterdir()) == []
    assert make(folder).meta["train_documents"] > 0


def test_a_source_that_breaks_half_way_leaves_nothing(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "good"}\n' + "{broken\n")
    with pytest.raises(SoftmapError, match=r"t\.jsonl:2"):
        make(path)
    assert not (tmp_path / "cache").exists()


def test_an_unwritable_cache(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SoftmapError, match="cannot be written") as caught:
        prepare(DataConfig(str(folder), tokenizer="bytes"), tmp_path / "file" / "cache")
    assert str(tmp_path / "file") in str(caught.value)


def test_empty_corpora(tmp_path: Path, make: Make) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(SoftmapError, match=r"no text in it$"):
        make(tmp_path / "data")
    (tmp_path / "data" / "blank.txt").write_text(" \n")
    (tmp_path / "data" / "picture.png").write_bytes(b"\0")
    with pytest.raises(SoftmapError, match=r"skipped 1 file that is not utf-8 text: picture\.png"):
        make(tmp_path / "data")
    (tmp_path / "data" / "blank.txt").write_text("x")
    with pytest.raises(SoftmapError, match="too little text"):
        make(tmp_path / "data")


def test_bad_specs_fail_before_anything_is_read(make: Make) -> None:
    with pytest.raises(SoftmapError, match="did you mean 'bpe'"):
        make("stdlib", tokenizer="pbe:1024")


def test_progress(folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int | None]] = []
    config = DataConfig(str(folder), tokenizer="bpe:300", heldout=0.2)
    prepare(config, tmp_path / "cache", lambda *call: calls.append(call))
    total = sum(path.stat().st_size for path in folder.rglob("*.txt"))
    stages = list(dict.fromkeys(stage for stage, *_ in calls))
    assert stages == ["reading", "training the tokenizer", "tokenizing"]
    for stage in stages:
        done = [call[1] for call in calls if call[0] == stage]
        assert done == sorted(done)
    ends = {stage: (done, whole) for stage, done, whole in calls}
    assert ends["reading"] == ends["tokenizing"] == (total, total)
    done, whole = ends["training the tokenizer"]
    assert done == whole


def test_importing_the_room_is_light() -> None:
    """The heavy libraries load when a corpus is prepared, not before."""
    code = (
        "import sys, softmap.data; "
        "print(*{'transformers', 'tokenizers', 'datasets', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_the_standard_library(tmp_path: Path) -> None:
    corpus = prepare(DataConfig(), tmp_path)
    assert corpus.meta["split"] == "by document"
    assert corpus.tokenizer.vocab_size == 1024
    assert corpus.meta["train_tokens"] > 1_000_000
    assert corpus.meta["heldout_documents"] > 5


FLIPS: dict[str, Callable[[Path], object]] = {
    "a bit of the tokens": lambda f: _flip(f / "train.bin"),
    "zeros": lambda f: (f / "heldout.bin").write_bytes(bytes((f / "heldout.bin").stat().st_size)),
    "a count": lambda f: _replace(f / "meta.json", '"train_documents": ', '"train_documents": 1'),
    "the vocabulary": lambda f: _replace(f / "meta.json", '"vocab_size": 257', '"vocab_size": 256'),
    "the end of a document": lambda f: _replace(
        f / "tokenizer" / "tokenizer_config.json",
        '"eos_token": "<|endoftext|>"',
        '"eos_token": "a"',
    ),
    "the tokenizer": lambda f: _replace(f / "tokenizer" / "tokenizer.json", '"b": 98', '"b": 97'),
    "a link to itself": lambda f: [
        (f / "train.bin").unlink(),
        (f / "train.bin").symlink_to("train.bin"),
    ],
}


def _flip(path: Path) -> None:
    """One bit, the time of change put back."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("damage", FLIPS.values(), ids=FLIPS.keys())
def test_damage_of_the_right_size_is_found_too(
    folder: Path, make: Make, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    before = make(folder)
    train, meta, eod = np.array(before.train), before.meta, before.tokenizer.eod
    del before
    damage(only_folder(tmp_path / "cache"))
    after = make(folder)
    assert (after.train == train).all() and after.meta == meta and after.tokenizer.eod == eod


def test_shards_of_another_text_under_this_ones_name_are_not_used(
    folder: Path, make: Make, tmp_path: Path
) -> None:
    before = make(folder).meta["hash"]
    mine = only_folder(tmp_path / "cache")
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "more.txt").write_text("more " * 999)
    other = prepare(DataConfig(str(tmp_path / "other"), tokenizer="bytes"), tmp_path / "cache2")
    assert other.meta["hash"] != before
    shutil.rmtree(mine)
    shutil.copytree(only_folder(tmp_path / "cache2"), mine)
    assert make(folder).meta["hash"] == before


def test_shards_are_read_whole_once_a_change_and_once_a_day(
    folder: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = verified._hash
    monkeypatch.setattr(verified, "_hash", lambda *a: read.append(1) or real(*a))
    make(folder)
    made = len(read)
    make(folder)
    assert len(read) == made
    cache = only_folder(tmp_path / "cache")
    os.utime(cache / "train.bin")
    make(folder)
    assert len(read) == made + 1
    monkeypatch.setattr(verified, "SECONDS", 0)
    make(folder)
    assert len(read) == made + 2
    monkeypatch.undo()
    (cache / verified.STAMP).write_text("junk")
    assert make(folder).meta["train_tokens"] > 0


def test_an_id_outside_of_the_vocabulary(folder: Path, make: Make, tmp_path: Path) -> None:
    """Even where the hash is right: a cache that somebody else made."""
    ids = np.array([1, 2, 257], "<u2")
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(ids.tobytes())
    side = verified.hasher()
    side.update(ids.tobytes())
    meta = {"hash": verified.joined(ids.dtype, [side, side]), "dtype": "<u2", "vocab_size": 258}
    assert verified.holds(tmp_path, ("a", "b"), meta)
    (tmp_path / verified.STAMP).unlink()
    assert not verified.holds(tmp_path, ("a", "b"), meta | {"vocab_size": 257})
