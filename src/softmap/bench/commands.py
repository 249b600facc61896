"""The commands of ``softmap bench``: dataclasses whose fields are the flags.

Heavy modules are imported inside ``run``, as in ``softmap.cli``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from softmap.errors import SoftmapError
from softmap.fields import Range, check_flags
from softmap.lab.names import check_path

Count = Annotated[int, Range(1, 2**31 - 1)]
Heads = Annotated[int, Range(1, 2**14)]
Width = Annotated[int, Range(1, 2**20)]
Length = Annotated[int, Range(1, 2**30)]

DECODED = ("diff", "diff2", "dcmha", "dape", "sas", "talking-heads")


@dataclass
class Op:
    """Time one attention call: our backends beside SDPA, FlexAttention, dense forms and peers.

    Every candidate is first compared with the float64 reference, output and gradients; one that
    differs gets no speed, and the exit status is 1. Candidates run in interleaved rounds.

    For example:
      softmap bench op diff dcmha --batch 4 --heads 8 --tokens 512 --head-dim 32
      softmap bench op dape --tokens 1024 2048 4096 --direction forward --impl chunked
    """

    variants: Positional[tuple[str, ...]]
    """Names or compositions, separated by spaces or commas."""
    batch: Count = 1
    heads: Heads = 8
    """Heads of a plain Transformer of that width; the variant's own follow from them."""
    kv_heads: Heads | None = None
    tokens: tuple[Length, ...] = (512,)
    """One or more sequence lengths."""
    head_dim: Width = 64
    dtype: str = "float32"
    """float32, bfloat16 or float16 (or fp32, bf16, fp16)."""
    window: Count | None = None
    """Keys that a row sees, including its own."""
    direction: str = "both"
    """forward, backward, or both."""
    impl: tuple[str, ...] = ()
    """Backends of softmap; by default all that do not refuse."""
    peers: tuple[str, ...] = ()
    """Peers by the beginning of their names, or none; by default all. SDPA always runs."""
    rounds: Count = 20
    seconds: Annotated[float, Range(0)] = 20.0
    """After three rounds a candidate stops once it has taken this long."""
    out: Path | None = None
    """A JSON file, written after each case."""
    device: str = "auto"

    def run(self, argv: Sequence[str]) -> int:
        """Run the benchmark and return the exit status."""
        from softmap.bench.drive import run_op

        return run_op(self, argv)


@dataclass
class Step:
    """Time one training step of whole models, forward, backward and AdamW, beside transformer++.

    The models of a recipe, of equal parameters, built and trained by the code of softmap compare,
    on random tokens. Each model's gradients are first compared with float64.

    For example:
      softmap bench step
      softmap bench step dcmha diff --set model.context=512 --impl chunked
    """

    variants: Positional[tuple[str, ...]] = ()
    """Variants instead of the recipe's; its control stays."""
    recipe: str = "demo"
    """A recipe file, or the name of one that comes with softmap."""
    set: tuple[str, ...] = ()
    """Any other value of the recipe, as key.path=value."""
    impl: str = "auto"
    rounds: Count = 10
    steps: Count = 2
    """Steps of a model in each round."""
    out: Path | None = None
    device: str = "auto"

    def run(self, argv: Sequence[str]) -> int:
        """Run the benchmark and return the exit status."""
        from softmap.bench.drive import run_step

        return run_step(self, argv)


@dataclass
class Decode:
    """Time a prompt and new tokens with the cache, and one token at several cache lengths.

    Decoded logits are first compared with the whole dense map in float64. Default sizes are small
    on a CPU, and 1024 + 128 tokens on a model of width 2048 on a GPU.
    """

    variants: Positional[tuple[str, ...]] = DECODED
    """Variants beside transformer++."""
    hidden_size: Width | None = None
    heads: Heads | None = None
    layers: Annotated[int, Range(1, 4096)] | None = None
    batch: Count = 1
    prompt: Length | None = None
    new: Length | None = None
    lengths: tuple[Length, ...] = ()
    """Cache lengths at which one token is timed."""
    vocab: Count = 4096
    dtype: str | None = None
    impl: str = "auto"
    rounds: Count = 5
    out: Path | None = None
    device: str = "auto"

    def run(self, argv: Sequence[str]) -> int:
        """Run the benchmark and return the exit status."""
        from softmap.bench.drive import run_decode

        return run_decode(self, argv)


@dataclass
class Plot:
    """Draw time and memory against the number of tokens.

    One picture for each variant, light and dark.

    For example:
      softmap bench plot results/op-cpu.json --out docs/images
    """

    files: Positional[tuple[Path, ...]]
    """Results of softmap bench op with several --tokens."""
    out: Path = Path("docs/images")

    def run(self, argv: Sequence[str]) -> int:
        """Write the pictures, print their paths, and return the exit status."""
        from softmap.bench.plot import plot
        from softmap.files import write

        if not self.files:
            raise SoftmapError("bench plot: expected at least one result, found none")
        drawn = [picture for file in self.files for picture in plot(file, self.out)]
        for path, picture in drawn:  # written only after all were drawn
            write(path, picture)
            print(path)
        return 0


@dataclass
class Pages:
    """Rewrite the tables of Markdown pages from the results that their markers name."""

    files: Positional[tuple[Path, ...]] = (Path("docs/performance.md"), Path("README.md"))
    check: bool = False
    """Change nothing; fail where a table is not what its results give."""

    def run(self, argv: Sequence[str]) -> int:
        """Write the pages whose tables have changed, and return the exit status.

        With ``check`` nothing is written, and such a page raises ``SoftmapError``.
        """
        from softmap.bench.pages import filled
        from softmap.files import write

        pages = {path: filled(path) for path in self.files}
        for path, (before, after) in pages.items():
            if self.check and after != before:
                raise SoftmapError(
                    f"{path}: tables differ from the results; softmap bench pages rewrites them"
                )
            if not self.check and after != before:
                write(path, after)
                print(path, file=sys.stderr)
        return 0


@dataclass
class Doctor:
    """Say what this machine has, and try its kernels on small calls against float64.

    These are the native kernels, and on a GPU Triton's, which auto takes once they have qualified.
    The exit status is 1 where a kernel is wrong. What --json writes is what a bug report needs.
    """

    json: Path | None = None
    """A JSON file for all that was found."""
    device: str = "auto"

    def run(self, argv: Sequence[str]) -> int:
        """Print what was found and return the exit status."""
        from softmap.bench.doctor import run_doctor

        if self.json is not None:
            check_path("doctor", self.json)
        return run_doctor(self, argv)


KINDS: dict[str, type] = {
    "op": Op,
    "step": Step,
    "decode": Decode,
    "plot": Plot,
    "pages": Pages,
}
_Kinds: Any = Union[  # noqa: UP007  # made at run time
    tuple(Annotated[kind, subcommand(name)] for name, kind in KINDS.items())
]


@dataclass
class Bench:
    """Measure speed and memory beside peers, after checking that the numbers are right."""

    what: Annotated[OmitArgPrefixes[OmitSubcommandPrefixes[_Kinds]], arg(name="")]

    def run(self, argv: Sequence[str]) -> int:
        """Run the chosen command; returns the exit status."""
        check_flags(self.what)
        for path in _paths(self.what):
            check_path("bench", path)
        return self.what.run(argv)  # type: ignore[no-any-return]


def _paths(command: Any) -> list[Path]:
    """Returns every path that was given."""
    given = [*getattr(command, "files", ()), getattr(command, "out", None)]
    return [path for path in given if path is not None]
