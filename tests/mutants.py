"""Faults planted one by one, at least one a room; the tests named beside each have to find it.

    make mutants                      all of them, some minutes
    python tests/mutants.py heads     those whose name contains a word

A fault that no test finds is a survivor: it is listed, and the exit status is 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SECONDS = 600


class Mutant(NamedTuple):
    """In ``file`` of src/softmap the text ``old``, which stands there once, becomes ``new``."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant("maps: rows may look at later tokens", "maps.py",
           "return gap >= 0 if window is None",
           "return gap >= -1 if window is None",
           "tests/test_maps.py tests/ops/test_ops_attention.py"),
    Mutant("heads: maps of a key in blocks, not in turn", "ops/heads.py",
           "* c + (m % r) % c", "* c + (m % r) * c // r", "tests/ops/test_ops_heads.py"),
    Mutant("ops: rows that see nothing keep what stood there", "ops/output.py",
           "sees = (call.count > 0)[:, None]", "sees = (call.count > -1)[:, None]",
           "tests/ops/test_ops_normaliser.py tests/ops/test_ops_attention.py"),
    Mutant("ops: operations of a token are not counted", "ops/count.py",
           "return Counted(_mixed(edited), token)", "return Counted(_mixed(edited), 0.0)",
           "tests/ops/test_ops_count.py"),
    Mutant("qualify: gradients may be ten times as far off", "ops/precision.py",
           "OUTPUT, GRADIENT = 2.0, 3.0", "OUTPUT, GRADIENT = 2.0, 30.0",
           "tests/ops/test_ops_precision.py tests/ops/qualify"),
    Mutant("triton: the second map's gradient has the wrong sign", "ops/triton/outputs.py",
           "write(do, 2 * h + 1, t, c, mask, -read(", "write(do, 2 * h + 1, t, c, mask, read(",
           "tests/ops/triton/test_triton_closed.py"),
    Mutant("triton: tiles at the diagonal are taken for whole", "ops/triton/tiles.py",
           "if (newest > first) |", "if (newest > last + 1) |",
           "tests/ops/triton/test_triton_template.py"),
    Mutant("variants: lambda_init of another layer", "variants/diff.py",
           "return 0.8 - 0.6 * math.exp(-0.3 * layer)",
           "return 0.8 - 0.6 * math.exp(-0.3 * (layer + 1))", "tests/variants"),
    Mutant("variants: a sink that takes no part", "variants/sink.py",
           "torch.sigmoid(rows.lse - t", "torch.sigmoid(rows.lse + t",
           "tests/variants/test_variant_more.py"),
    Mutant("nn: beams keep the halo of another row", "nn/cache.py",
           "self._map(lambda t: t.index_select(0, index.to(t.device)))",
           "tail = self.tail\n        self._map(lambda t: t.index_select(0, index.to(t.device)))\n"
           "        self.tail = tail", "tests/nn tests/hf"),
    Mutant("train: the warm-up begins at nothing", "train/schedules.py",
           "terms.peak * (step + 1) / terms.warmup", "terms.peak * step / terms.warmup",
           "tests/train"),
    Mutant("data: all epochs have one order", "data/order.py",
           "draw = generator(seed, epoch, part)", "draw = generator(seed, 0, part)", "tests/data"),
    Mutant("evals: a narrower interval", "evals/summary.py",
           "stats.t.ppf(0.975, n - 1)", "stats.t.ppf(0.95, n - 1)", "tests/evals"),
    Mutant("report: equal within twice the margin", "report/answers.py",
           "EQUAL if -margin < equal_low", "EQUAL if -2 * margin < equal_low", "tests/report"),
    Mutant("report: power of a two-sided test", "report/planning.py",
           "design.critical(sides=1)", "design.critical(sides=2)", "tests/report"),
    Mutant("ledger: a diverged arm counts on the better side", "ledger/judge.py",
           'return "higher" if measure.better == "lower" else "lower"',
           'return "lower" if measure.better == "lower" else "higher"', "tests/ledger"),
    Mutant("files: any seal is taken", "files/sealed.py",
           "if found is not None and found", "if found is None and found", "tests/files"),
    Mutant("lab: a hyphen less is a name", "lab/own.py",
           "(-[a-z0-9]+)*", "(-*[a-z0-9]+)*", "tests/lab/test_lab_own.py"),
    Mutant("bench: twice as large errors pass", "bench/parity.py",
           "return self.rms <= self.allowed", "return self.rms <= 2 * self.allowed", "tests/bench"),
)  # fmt: skip


def planted(mutant: Mutant, source: Path) -> None:
    """Write the fault into a copy of the sources."""
    path = source / "softmap" / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        found = text.count(mutant.old)
        sys.exit(f"{mutant.name}: expected {mutant.old!r} once in {mutant.file}, found it {found}x")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def survives(mutant: Mutant) -> bool:
    """Whether the tests pass although the fault is there."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source)
        planted(mutant, source)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-m", "not slow",
                   "-p", "no:cacheprovider", *mutant.tests.split()]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(source)}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, timeout=SECONDS, check=False
        )
    if done.returncode not in (0, 1):
        sys.exit(f"{mutant.name}: the tests did not run:\n{done.stdout.decode()[-2000:]}")
    return done.returncode == 0


def survivors(word: str) -> Iterator[str]:
    for mutant in MUTANTS:
        if word in mutant.name:
            lives = survives(mutant)
            print(f"{'SURVIVES' if lives else 'found':<9}{mutant.name}", flush=True)
            if lives:
                yield mutant.name


def main() -> int:
    left = list(survivors(sys.argv[1] if len(sys.argv) > 1 else ""))
    print(f"{len(left)} survivors")
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
