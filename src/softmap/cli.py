"""The command line. Each command is a dataclass: its fields are the flags, ``run`` does the work.

Heavy modules are imported inside ``run``, so that ``--help`` and typing errors answer at once.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from softmap.extras import need

__needs__ = need("the command line", "tyro")

import tyro
from tyro.conf import Positional, arg, subcommand

from softmap.argv import prepared
from softmap.bench.commands import KINDS, Bench, Doctor
from softmap.errors import SoftmapError, shown
from softmap.fields import Range, check_flags
from softmap.lab.asking.commands import Eval, Learn
from softmap.lab.commands import Train
from softmap.lab.grafting.commands import Graft
from softmap.lab.interrupts import sigterm_raises
from softmap.lab.names import (
    check_path,
    is_run,
    no_run,
    runs_folder,
    split_values,
    split_variants,
)
from softmap.lab.own import Check, New
from softmap.lab.planning import PlanCommand
from softmap.lab.scale import Scale
from softmap.lab.top import Top
from softmap.ledger.commands import KINDS as CLAIMS
from softmap.ledger.commands import Claims

Size = Annotated[int, Range(1, 2**31 - 1)]
Port = Annotated[int, Range(0, 65535)]


@dataclass
class Compare:
    """Train variants side by side and write one page of evidence: runs/NAME/report.html.

    After Ctrl-C the same command continues where it stopped. The folder of a run stands for its
    recipe: softmap compare runs/NAME continues it, and can add variants and seeds.

    For example:
      softmap compare demo
      softmap compare --variants diff "diff+dcmha(rank=4)" --seeds 3 --name pairs
      softmap compare --data my.jsonl --field body --steps 2000 --set model.hidden_size=256
      softmap compare runs/pairs --variants dape --seeds 5
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE|RUN")] = "demo"
    """A recipe file, the name of one that comes with softmap (demo, evening), or a run's folder."""
    variants: tuple[str, ...] = ()
    """Variants, separated by spaces or commas: they replace the recipe's, except its control; to a
    run they are added."""
    seeds: Annotated[tuple[str, ...], arg(metavar="INT")] = ()
    """Number of seeds, which are 0 to N-1."""
    control_seeds: Annotated[tuple[str, ...], arg(metavar="INT")] = ()
    """Number of seeds of the control, which every comparison uses: --seeds 2 --control-seeds 6."""
    seed_list: Annotated[tuple[str, ...], arg(metavar="INT [INT ...]")] = ()
    """These seeds, separated by spaces or commas."""
    data: str | None = None
    """"stdlib", a file or folder (text, JSONL, Parquet), or hf:NAME, with :CONFIG and :SPLIT if it
    has several."""
    field: str | None = None
    """The field that holds the text in JSONL, Parquet and Hub data."""
    tokenizer: str | None = None
    """bpe:SIZE, bytes, or hf:NAME_OR_FOLDER."""
    steps: int | None = None
    """Training steps; budgets and warm-up scale with them."""
    context: int | None = None
    """Tokens per window."""
    name: str | None = None
    """Name of the run."""
    out: Path | None = None
    """Folder of all runs; by default runs, or the folder of the given run."""
    set: tuple[str, ...] = ()
    """Any other value of the recipe, as key.path=value."""
    fresh: bool = False
    """Discard the trials of an earlier run of this name; with --tune, its peaks too."""
    resolve: Annotated[float, Range(above=0)] | None = None
    """Add seeds until the half-width of every interval is at most this, in nats: Stein's two-stage
    procedure, whose first stage is the recipe's seeds."""
    at_most: Size | None = None
    """Largest number of seeds of a variant for --resolve; 50 by default."""
    time: str | None = None
    """Train as many seeds as fit into this time (90s, 30m, 1h30m), most for the control. It covers
    evaluation, the measurement of speed and earlier calls with --time, but not --tune."""
    tune: bool = False
    """First find each variant's peak learning rate, on the recipe's grid: runs/NAME/peaks.json."""
    jobs: Size | None = None
    """Number of trials at once, each in a process of one thread; by default one for each core, GPU
    or worker of the cluster. 1 trains them one after another, with all threads."""
    cluster: str | None = None
    """Train on a Dask cluster: its scheduler's address or file, or local:N; see docs/cluster.md."""
    serve: bool = False
    """Serve the page on this machine, during the run and after it."""
    port: Port = 8000
    """Port of --serve; 0 takes any free one."""
    trust_remote_code: bool = False
    """Run the files of the user's own variants that the given run names."""

    def run(self, argv: Sequence[str]) -> None:
        """Runs the comparison, and serves its page meanwhile where that is asked for."""
        within = self._within()
        recipe, out = self._recipe()
        from softmap.lab.cluster import connected
        from softmap.lab.request import Request
        from softmap.lab.serve import Server

        request = Request(
            out, "softmap " + shlex.join(argv), self.fresh, self.jobs, speed=True, seconds=within,
            resolve=self.resolve, at_most=self.at_most or 50,
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            server = self.serve and stack.enter_context(Server(out / recipe.name, self.port))
            if server:
                print(f"serving {server.url} (Ctrl-C ends it)", file=sys.stderr)
            with connected(self.cluster, self.jobs, out) as cluster:
                print(self._compare(recipe, replace(request, cluster=cluster)))
            if server:
                server.wait()

    def _compare(self, recipe: Any, request: Any) -> Path:
        from softmap.lab.compare import compare
        from softmap.lab.progress import choose
        from softmap.lab.tune import tune

        if self.tune:
            tune(recipe, request, choose())
        return compare(recipe, request, choose())

    def _recipe(self) -> tuple[Any, Path]:
        """The recipe with the flags' values, and the folder of all runs."""
        from softmap.lab import recipe as recipes

        where = Path(self.recipe)
        specs, out = split_variants(self.variants), self.out
        if self.variants and not specs:
            raise SoftmapError(f"--variants: expected names, found {shown(self.variants[0])}")
        if not is_run(where):
            recipe = recipes.load(where, self._overrides())
            if specs:
                recipe = recipes.with_variants(recipe, specs)
            return recipe, out or Path("runs")
        recipe = recipes.of_run(where, self._overrides(), trust=self.trust_remote_code)
        kept = [entry.label or entry.variant for entry in recipe.variants]
        return recipes.with_variants(recipe, [*kept, *specs]), out or runs_folder(where)

    def _within(self) -> float | None:
        """Seconds of ``--time``. Raises ``SoftmapError`` for flags that do not go together."""
        if self.at_most is not None and self.resolve is None:
            raise SoftmapError("--at-most bounds --resolve, expected both, found it alone")
        if self.time is None:
            return None
        for flag in ("seeds", "seed_list", "control_seeds"):
            if getattr(self, flag):
                raise SoftmapError(
                    f"--time and --{flag.replace('_', '-')} are both given, expected one of them: "
                    "the time says how many seeds there are"
                )
        return _duration("--time", self.time)

    def _control_seeds(self) -> int | None:
        """How many the control has, at least those of the others."""
        if not self.control_seeds:
            return None
        number = _how_many("--control-seeds", self.control_seeds)
        if self.seeds and number < (others := _how_many("--seeds", self.seeds)):
            raise SoftmapError(
                f"--control-seeds: expected at least the {others} of --seeds, found {number}"
            )
        return number

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
            "seeds": _seeds(self.seeds, self.seed_list),
            "control_seeds": self._control_seeds(),
        }
        found = {key: json.dumps(value) for key, value in given.items() if value is not None}
        values = split_values(self.set)
        for key in found.keys() & values.keys():
            raise SoftmapError(f"--set {key}: given twice, expected it once")
        return found | values


@dataclass
class Explain:
    """Print a variant's maths, its costs, and the backend that would run it.

    For example:
      softmap explain diff
      softmap explain "diff+dcmha(rank=4)" --hidden-size 1024 --heads 16 --context 4096
    """

    variant: Positional[str]
    """A name or a composition; softmap variants lists the names."""
    hidden_size: Size | None = None
    """Model width; heads * head-dim by default."""
    heads: Size = 8
    """Heads of a plain Transformer of this width; the variant derives its own."""
    head_dim: Size = 64
    """Width of a head, if --hidden-size is not given."""
    layers: Size = 12
    context: Size = 1024
    batch: Size = 1
    vocab: Size = 50304
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """In which attention is computed."""

    def run(self, argv: Sequence[str]) -> None:
        """Prints the explanation, line by line."""
        from softmap.lab.explain import explain

        lines = explain(
            self.variant, hidden_size=self.hidden_size or self.heads * self.head_dim,
            heads=self.heads, layers=self.layers, context=self.context, batch=self.batch,
            vocab=self.vocab, device=self.device, dtype=self.dtype,
        )  # fmt: skip
        for line in lines:
            print(line)


@dataclass
class Variants:
    """List all variants with their papers."""

    def run(self, argv: Sequence[str]) -> None:
        """Prints a line for each variant."""
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
    """0 always takes the likeliest token."""
    top_k: int | None = 50
    """Sample from the K likeliest tokens; None for all."""
    seed: int = 0
    """Seed of the sampling."""
    trust_remote_code: bool = False
    """Run the code of the variant that the folder contains."""

    def run(self, argv: Sequence[str]) -> None:
        """Prints the prompt with its continuation."""
        from softmap.lab.generate import generate, model_folder

        check_path("the model's folder", self.where)
        folder = model_folder(self.where, self.variant, self.of_seed)
        if folder != self.where:
            print(f"model: {folder}", file=sys.stderr)
        sampling = {"temperature": self.temperature, "top_k": self.top_k, "seed": self.seed}
        sampling |= {"trust_remote_code": self.trust_remote_code}
        print(generate(folder, self.prompt, max_new_tokens=self.max_new_tokens, **sampling))  # type: ignore[arg-type]


@dataclass
class Report:
    """Write a run's page again from its finished trials, or one page of several runs.

    For example:
      softmap report runs/demo
      softmap report runs/before runs/after
    """

    run_folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]")]
    """Folders of runs, such as runs/demo. Variants of several runs are compared with the control of
    the first, if text, tokenizer, windows and budgets are the same."""
    out: Path | None = None
    """Folder for the page of several runs; by default beside the first, named after all."""
    serve: bool = False
    """Serve the page on this machine."""
    port: Port = 8000
    """Port of --serve; 0 takes any free one."""

    def run(self, argv: Sequence[str]) -> None:
        """Writes the page, prints its path, and serves it where that is asked for."""
        from softmap.lab.serve import Server

        page = self._build()
        print(page)
        if self.serve:
            with Server(page.parent, self.port) as server:
                print(f"serving {server.url} (Ctrl-C ends it)", file=sys.stderr)
                server.wait()

    def _build(self) -> Path:
        from softmap import report

        folders = self.run_folders
        if not folders:
            raise SoftmapError("report: expected the folder of a run, found none")
        for folder in folders:
            check_path("the run's folder", folder)
            if not is_run(folder):
                raise no_run(folder)
        if len(folders) > 1:
            names = "-and-".join(folder.resolve().name for folder in folders)
            return report.build_together(folders, self.out or folders[0].parent / names)
        if self.out is not None:
            raise SoftmapError("--out: the page of one run lies in its folder")
        return report.build(folders[0])


@dataclass
class Import:
    """Convert a published checkpoint (DCFormer, DiffLlama) to a softmap model folder."""

    source: Positional[str]
    """A local folder, or the name of a Hub repository."""
    destination: Positional[Path]
    """The folder to write."""
    kind: str | None = None
    """The kind of the source (dcformer, diffllama), if its config does not tell."""

    def run(self, argv: Sequence[str]) -> None:
        """Writes the folder and prints its path."""
        from softmap.interop import import_folder

        check_path("destination", self.destination)
        import_folder(self.source, self.destination, kind=self.kind)
        print(self.destination)


COMMANDS: dict[str, type] = {
    "compare": Compare,
    "train": Train,
    "plan": PlanCommand,
    "explain": Explain,
    "variants": Variants,
    "new": New,
    "check": Check,
    "generate": Generate,
    "eval": Eval,
    "learn": Learn,
    "scale": Scale,
    "graft": Graft,
    "claims": Claims,
    "top": Top,
    "report": Report,
    "import": Import,
    "bench": Bench,
    "doctor": Doctor,
}


def _seeds(count: Sequence[str], listed: Sequence[str]) -> int | list[int] | None:
    """The seeds that ``--seeds`` counts or ``--seed-list`` lists."""
    if count and listed:
        raise SoftmapError("--seeds and --seed-list are both given, expected one of them")
    if count:
        return _how_many("--seeds", count)
    return _numbers("--seed-list", listed) or None


def _how_many(option: str, words: Sequence[str]) -> int:
    """The number of seeds; those from 0 on are meant."""
    numbers = _numbers(option, words)
    instead = option == "--seeds"
    if len(numbers) != 1:
        these = f"; --seed-list {' '.join(map(str, numbers))} takes these seeds" if instead else ""
        raise SoftmapError(
            f"{option}: expected one number, how many, found {len(numbers)} numbers{these}"
        )
    if not 1 <= numbers[0] <= 1000:
        instead = instead and numbers[0] >= 0
        alone = f"; --seed-list {numbers[0]} takes this seed alone" if instead else ""
        raise SoftmapError(f"{option}: expected a number from 1 to 1000, found {numbers[0]}{alone}")
    return numbers[0]


def _duration(option: str, text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``1h30m``."""
    number = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
    found = re.fullmatch(f"(?:{number}h)?(?:{number}m)?(?:{number}s)?", text.strip())
    parts = found.groups() if found else ()
    seconds = sum(float(part or 0) * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not seconds > 0:
        raise SoftmapError(
            f"{option}: expected a time such as 90s, 30m or 1h30m, found {shown(text)}"
        )
    return seconds


def _numbers(option: str, words: Sequence[str]) -> list[int]:
    """Whole numbers, by spaces or commas."""
    found = [part for word in words for part in word.split(",")]
    for part in found:
        if not re.fullmatch("[+-]?[0-9]{1,18}", part.strip()):
            raise SoftmapError(f"{option}: expected whole numbers, found {shown(part)}")
    return [int(part) for part in found]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0 done; 1 the bench or the doctor found wrong results; 2 bad input or a file that cannot be read
    or written, said in one line on stderr; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    SOFTMAP_TRACEBACK=1 shows where an error came from.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        command = _parse(argv)
        check_flags(command)
        with sigterm_raises():
            return command.run(argv) or 0
    except (SoftmapError, OSError, KeyboardInterrupt) as error:
        if os.environ.get("SOFTMAP_TRACEBACK") == "1":
            raise
        return _say(error, argv)


def _parse(argv: Sequence[str]) -> Any:
    """The command's dataclass, filled in. Raises ``SoftmapError`` for words that do not fit."""
    kinds: Any = Union[  # noqa: UP007  # made at run time
        tuple(Annotated[kind, subcommand(name)] for name, kind in COMMANDS.items())
    ]
    argv = ["claims", "list"] if list(argv) == ["claims"] else argv
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                kinds,
                prog="softmap",
                description="Transformers that edit the attention map, compared side by side.",
                args=prepared(argv, {**COMMANDS, "bench": KINDS, "claims": CLAIMS}),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code:
            raise SoftmapError(_complaint(said.getvalue())) from None
        raise


def _complaint(box: str) -> str:
    """What the parser complains of, out of its box, as one line.

    A box has its title in its frame, or, where the terminal takes ASCII alone, above a rule.
    """
    parts: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip("│ ")
        if line.startswith(("╭", "╰")) or (text and not text.strip("─-")):
            parts.append([])
        elif text:
            parts[-1].append(text)
    said = [part for part in parts if part][0 if box.startswith("╭") else 1 :]
    lines = itertools.takewhile(
        lambda line: not line.startswith("Got errors"), itertools.chain(*said[:1])
    )
    said_so = " ".join(lines)
    extra = re.fullmatch("Unrecognized options: ([^-].*)", said_so)
    return f"expected no further words, found {extra[1]}" if extra else said_so


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
