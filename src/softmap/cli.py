"""The command line. Each command is a dataclass: its fields are the flags, ``run`` does the work.

Heavy modules are imported inside ``run``, so that ``--help`` and typing errors answer at once.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

from softmap.extras import need

__needs__ = need("the command line", "tyro")

import tyro
from tyro.conf import Positional, arg, subcommand

from softmap.bench.commands import Bench
from softmap.errors import SoftmapError
from softmap.lab.interrupts import sigterm_raises
from softmap.lab.names import check_path, split_variants


@dataclass
class Compare:
    """Train variants side by side and write one page of evidence: runs/NAME/report.html.

    Interrupted with Ctrl-C, the same command goes on where it stopped.

    For example:
      softmap compare recipes/demo.yaml
      softmap compare --variants diff "diff+dcmha(rank=4)" --seeds 3 --name pairs
      softmap compare --data my.jsonl --field body --steps 2000 --set model.hidden_size=256
      softmap compare recipes/demo.yaml --tune
    """

    recipe: Positional[str] = "demo"
    """A recipe file, or the name of one that comes with softmap: demo, evening."""
    variants: tuple[str, ...] = ()
    """Variants instead of the recipe's, by spaces or commas; its control stays."""
    seeds: tuple[int, ...] = ()
    """One number N: the seeds 0 to N-1. Several: these seeds."""
    data: str | None = None
    """"stdlib", a file or folder (text, JSONL, Parquet), or hf:NAME[:CONFIG][:SPLIT]."""
    field: str | None = None
    """The field that holds the text in JSONL, Parquet and Hub data."""
    tokenizer: str | None = None
    """bpe:SIZE, bytes, or hf:NAME_OR_FOLDER."""
    steps: int | None = None
    """Training steps; budgets and warm-up scale along."""
    context: int | None = None
    """Tokens a window."""
    name: str | None = None
    """Name of the run."""
    out: Path = Path("runs")
    """Folder of all runs."""
    set: tuple[str, ...] = ()
    """Any other value of the recipe, as key.path=value."""
    fresh: bool = False
    """Throw away what an earlier run of this name left."""
    tune: bool = False
    """Find each variant's peak learning rate instead, on the recipe's grid."""
    serve: bool = False
    """Serve the page on this machine, during the run and after it."""
    port: int = 8000
    """Port of --serve; 0 takes any free one."""

    def run(self, argv: Sequence[str]) -> None:
        from softmap.lab.progress import choose

        _check_port(self.port)
        recipe = self._recipe()
        from softmap.lab.compare import Request, compare
        from softmap.lab.serve import Server
        from softmap.lab.tune import tune

        command = "softmap " + shlex.join(argv)
        request = Request(self.out, command, self.fresh)
        if self.tune:
            print(tune(recipe, request, choose()))
            return
        if not self.serve:
            print(compare(recipe, request, choose()))
            return
        with Server(self.out / recipe.name, self.port) as server:
            print(f"serving {server.url} (Ctrl-C ends it)", file=sys.stderr)
            print(compare(recipe, request, choose()))
            server.wait()

    def _recipe(self) -> Any:
        from softmap.lab import recipe as recipes

        recipe = recipes.load(self.recipe, self._overrides())
        if self.variants:
            recipe = recipes.with_variants(recipe, split_variants(self.variants))
        return recipe

    def _overrides(self) -> dict[str, str]:
        """The flags as overrides of the recipe; the texts among them quoted for YAML."""
        import json

        given = {
            "name": self.name,
            "data.data": self.data,
            "data.field": self.field,
            "data.tokenizer": self.tokenizer,
            "training.steps": self.steps,
            "model.context": self.context,
            "seeds": _seeds(self.seeds),
        }
        found = {key: json.dumps(value) for key, value in given.items() if value is not None}
        for item in self.set:
            key, equals, value = item.partition("=")
            if not equals or not key:
                raise SoftmapError(f"--set: expected key.path=value, found {item!r}")
            found[key] = value
        return found


@dataclass
class Explain:
    """Print a variant's maths, its costs, and the backend that would run it.

    For example:
      softmap explain diff
      softmap explain "diff+dcmha(rank=4)" --hidden-size 1024 --heads 16 --context 4096
    """

    variant: Positional[str]
    """A name or a composition; softmap variants lists the names."""
    hidden_size: int | None = None
    """Model width; heads * head-dim by default."""
    heads: int = 8
    """Heads of a plain Transformer of that width; the variant derives its own."""
    head_dim: int = 64
    """Width of a head, where --hidden-size is not given."""
    layers: int = 12
    context: int = 1024
    batch: int = 1
    vocab: int = 50304
    device: str = "cpu"

    def run(self, argv: Sequence[str]) -> None:
        from softmap.lab.explain import explain

        for name in ("hidden_size", "heads", "head_dim", "layers", "context", "batch", "vocab"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 2**31:
                raise SoftmapError(
                    f"--{name.replace('_', '-')}: expected 1 to 2147483647, found {value}"
                )
        lines = explain(
            self.variant, hidden_size=self.hidden_size or self.heads * self.head_dim,
            heads=self.heads, layers=self.layers, context=self.context, batch=self.batch,
            vocab=self.vocab, device=self.device,
        )  # fmt: skip
        for line in lines:
            print(line)


@dataclass
class Variants:
    """List all variants with their papers."""

    def run(self, argv: Sequence[str]) -> None:
        from softmap.lab.explain import catalogue

        for line in catalogue():
            print(line)


@dataclass
class Generate:
    """Continue a prompt with a model of a run, or of an exported folder.

    For example:
      softmap generate runs/demo --variant diff --prompt "def main("
      softmap generate runs/demo/variants/diff/seed0/model --prompt "import " --temperature 0
    """

    where: Positional[Path]
    """A run (runs/demo), or a folder with an exported model."""
    prompt: str = ""
    variant: str | None = None
    """Which of the run's variants; its control by default."""
    of_seed: int | None = None
    """Which of the variant's training seeds; the first finished by default."""
    max_new_tokens: int = 100
    temperature: float = 0.8
    """0 takes the likeliest token each time."""
    top_k: int | None = 50
    """Sample among the K likeliest tokens; None among all."""
    seed: int = 0
    """Seed of the sampling."""
    trust_remote_code: bool = False
    """Run the variant's own file that the folder brings."""

    def run(self, argv: Sequence[str]) -> None:
        from softmap.lab.generate import generate, model_folder

        check_path("the model's folder", self.where)
        folder = model_folder(self.where, self.variant, self.of_seed)
        sampling = {"temperature": self.temperature, "top_k": self.top_k, "seed": self.seed}
        sampling |= {"trust_remote_code": self.trust_remote_code}
        print(generate(folder, self.prompt, max_new_tokens=self.max_new_tokens, **sampling))  # type: ignore[arg-type]


@dataclass
class Report:
    """Build a run's page again, from what is finished."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's folder, such as runs/demo."""
    serve: bool = False
    """Serve the page on this machine."""
    port: int = 8000
    """Port of --serve; 0 takes any free one."""

    def run(self, argv: Sequence[str]) -> None:
        from softmap import report
        from softmap.lab.serve import Server

        _check_port(self.port)
        check_path("the run's folder", self.run_folder)
        print(report.build(self.run_folder))
        if self.serve:
            with Server(self.run_folder, self.port) as server:
                print(f"serving {server.url} (Ctrl-C ends it)", file=sys.stderr)
                server.wait()


@dataclass
class Import:
    """Convert a published checkpoint (DCFormer, DiffLlama) to a softmap model folder."""

    source: Positional[str]
    """A local folder, or the name of a Hub repository."""
    destination: Positional[Path]
    """The folder to write."""
    kind: str | None = None
    """What the source is, where its config does not tell."""

    def run(self, argv: Sequence[str]) -> None:
        from softmap.interop import import_folder

        check_path("destination", self.destination)
        import_folder(self.source, self.destination, kind=self.kind)
        print(self.destination)


COMMANDS: dict[str, type] = {
    "compare": Compare,
    "explain": Explain,
    "variants": Variants,
    "generate": Generate,
    "report": Report,
    "import": Import,
    "bench": Bench,
}


def _check_port(port: int) -> None:
    if not 0 <= port <= 65535:
        raise SoftmapError(f"--port: expected 0 to 65535, found {port}")


def _seeds(given: Sequence[int]) -> list[int] | None:
    if len(given) == 1:
        if not 1 <= given[0] <= 1000:
            raise SoftmapError(f"--seeds: expected 1 to 1000 of them, found {given[0]}")
        return list(range(given[0]))
    return list(given) or None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0 done; 1 the bench found wrong results; 2 bad input or a file that cannot be read or written,
    said in one line on stderr; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    SOFTMAP_TRACEBACK=1 shows where an error came from.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        command = _parse(argv)
        with sigterm_raises():
            return command.run(argv) or 0
    except (SoftmapError, OSError, KeyboardInterrupt) as error:
        if os.environ.get("SOFTMAP_TRACEBACK") == "1":
            raise
        return _say(error, argv)


def _parse(argv: Sequence[str]) -> Any:
    kinds: Any = Union[  # noqa: UP007  # made at run time
        tuple(Annotated[kind, subcommand(name)] for name, kind in COMMANDS.items())
    ]
    return tyro.cli(
        kinds,
        prog="softmap",
        description="Transformers that edit the attention map, compared side by side.",
        args=list(argv),
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _say(error: BaseException, argv: Sequence[str]) -> int:
    """One line for people; returns the exit status."""
    if isinstance(error, BrokenPipeError):
        # The reader (head, less) has gone; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    if isinstance(error, KeyboardInterrupt):
        again = shlex.join(word for word in argv if word not in ("--fresh",))
        print(f"softmap: stopped; go on with: softmap {again}", file=sys.stderr)
        return 128 + getattr(error, "signal", signal.SIGINT)
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    print(f"softmap: error: {' '.join(text.split())}", file=sys.stderr)
    return 2
