from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from train_stub import Stub, batches, same, weights

from softmap.errors import SoftmapError
from softmap.files import write
from softmap.train import BrokenCheckpoint, Checkpoints, checkpoint
from softmap.train.optim import adamw
from softmap.train.tensors import load_weights, save_weights


def make(seed: int = 0):
    """A model and an optimiser with a state."""
    model = Stub(seed)
    optimizer = adamw(model, lr=0.1, weight_decay=0.1, betas=(0.9, 0.95))
    model(batches(seed), batches(seed)).loss.backward()
    optimizer.step()
    return model, optimizer


def latest_step(store: Checkpoints) -> int:
    found = store.latest()
    assert found is not None
    return found[1]["step"]


def save_steps(store: Checkpoints, *steps: int) -> None:
    model, optimizer = make()
    for step in steps:
        store.save((0, step), model, optimizer, {"step": step})


def test_everything_comes_back(tmp_path):
    store = Checkpoints(tmp_path)
    model, optimizer = make()
    path = store.save((0, 1), model, optimizer, {"step": 1})
    drawn = torch.rand(3)
    other, other_optimizer = make(seed=5)
    assert store.load(path, other, other_optimizer) == {"step": 1}
    assert torch.equal(torch.rand(3), drawn)
    assert same(weights(model), weights(other))
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    for a, b in pairs:
        if a in optimizer.state or b in other_optimizer.state:
            assert same(optimizer.state[a], other_optimizer.state[b])
    assert other.head.weight is other.embed.weight


def test_nothing_in_it_is_a_pickle(tmp_path):
    save_steps(Checkpoints(tmp_path), 1)
    names = {path.name for path in (tmp_path / "000-000000001").iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "state.json"}


def test_tied_tensors_are_stored_once_and_load_into_an_untied_model(tmp_path):
    model = Stub()
    save_weights(model, tmp_path / "m.safetensors")
    untied = Stub(seed=5)
    untied.head.weight = torch.nn.Parameter(torch.zeros_like(untied.embed.weight))
    load_weights(untied, tmp_path / "m.safetensors")
    assert torch.equal(untied.head.weight, model.embed.weight)


def test_the_last_ones_and_the_pinned_are_kept(tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    model, optimizer = make()
    for step in range(1, 6):
        store.save((0, step), model, optimizer, {"step": step}, pinned=[(0, 1)])
    assert [path.name[-1] for path in store.newest_first()] == ["5", "4", "1"]


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpoints(tmp_path / "missing").latest() is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def alter(path: Path) -> None:
    path.write_text(path.read_text().replace('"step": 2', '"step": 3'))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", truncate, r"model.safetensors: expected \d+ bytes, found \d+"),
        ("model.safetensors", flip, r"model.safetensors: expected SHA-256 .*, found"),
        ("optimizer.safetensors", Path.unlink, "optimizer.safetensors: expected .*, found no file"),
        ("state.json", truncate, "state.json: broken file: expected JSON"),
        ("state.json", alter, "state.json: expected the contents as saved"),
        ("state.json", Path.unlink, "state.json: expected a file, found No such file"),
        ("state.json", lambda path: path.write_text("{}"), "state.json: expected format"),
    ],
)
def test_damage_is_named_and_the_one_before_is_used(tmp_path, name, damage, message):
    store = Checkpoints(tmp_path)
    save_steps(store, 1, 2)
    damage(tmp_path / "000-000000002" / name)
    with pytest.warns(RuntimeWarning, match=message):
        assert latest_step(store) == 1
    model, optimizer = make(seed=5)
    before = weights(model)
    with pytest.raises(BrokenCheckpoint, match=message):
        store.load(tmp_path / "000-000000002", model, optimizer)
    assert same(before, weights(model))
    truncate(tmp_path / "000-000000001" / "state.json")
    with pytest.raises(BrokenCheckpoint, match=message):
        store.latest()


def test_one_under_the_name_of_another_is_passed_over(tmp_path):
    store = Checkpoints(tmp_path)
    save_steps(store, 1, 2)
    (tmp_path / "000-000000001").rename(tmp_path / "000-000000003")
    with pytest.warns(RuntimeWarning, match="expected that checkpoint, found 000-000000001"):
        assert latest_step(store) == 2


def test_a_broken_one_is_replaced_when_its_step_comes_again(tmp_path):
    store = Checkpoints(tmp_path)
    save_steps(store, 1, 2, 3)
    truncate(tmp_path / "000-000000003" / "model.safetensors")
    save_steps(store, 2)
    assert [path.name[-1] for path in store.newest_first()] == ["2"]
    save_steps(store, 3)
    assert latest_step(store) == 3


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_in_safetensors(*_args, **_kwargs):
    raise SafetensorError("Error while serializing: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        ("save_weights", full_disk_in_safetensors),
        ("save_optimizer", full_disk),
        ("fsync", full_disk),
        ("os.rename", full_disk),
    ],
)
def test_a_full_disk_leaves_the_old_one_and_no_temporary(tmp_path, monkeypatch, function, fault):
    store = Checkpoints(tmp_path)
    save_steps(store, 1)
    monkeypatch.setattr(f"{checkpoint.__name__}.{function}", fault)
    with pytest.raises(SoftmapError, match=r"000000002: .*No space left.*last good: .*000000001"):
        save_steps(store, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["000-000000001"]
    assert latest_step(store) == 1


def test_a_text_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    write(tmp_path / "a.json", "old")
    monkeypatch.setattr("softmap.files.os.replace", full_disk)
    with pytest.raises(SoftmapError, match=r"a\.json: could not be written: No space left"):
        write(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


CHILD = """
import os, resource, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from softmap.train import Checkpoints, checkpoint
from test_train_checkpoint import make, save_steps
store = Checkpoints(Path(sys.argv[1]))
save_steps(store, 1, 2)
{fault}
save_steps(store, 3)
"""

KILLED_AFTER_THE_WEIGHTS = """
checkpoint.save_optimizer = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_BEFORE_THE_RENAME = """
checkpoint.os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
# A real failure of the system's write(), inside of safetensors' own code.
FILES_LIMITED_TO_256_BYTES = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (256, 256))
"""


def run_child(folder: Path, fault: str) -> subprocess.CompletedProcess[str]:
    code = CHILD.format(tests=str(Path(__file__).parent), fault=fault)
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("fault", [KILLED_AFTER_THE_WEIGHTS, KILLED_BEFORE_THE_RENAME])
@pytest.mark.slow
def test_killed_in_the_middle_of_a_save_the_last_good_one_loads(tmp_path, fault):
    child = run_child(tmp_path, fault)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert any(path.name.startswith(".tmp-") for path in tmp_path.iterdir())
    store = Checkpoints(tmp_path)
    assert latest_step(store) == 2
    save_steps(store, 3)
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["2", "3"]


@pytest.mark.slow
def test_a_failing_write_of_the_system_leaves_the_old_ones(tmp_path):
    child = run_child(tmp_path, FILES_LIMITED_TO_256_BYTES)
    assert "SoftmapError: checkpoint" in child.stderr and "could not be written" in child.stderr
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["1", "2"]
    assert json.loads((tmp_path / "000-000000002" / "state.json").read_text())
    assert latest_step(Checkpoints(tmp_path)) == 2
