"""``softmap eval``: a dataclass whose fields are the flags.

Heavy modules are imported inside ``run``, as in ``softmap.cli``.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from softmap.errors import SoftmapError
from softmap.fields import Range
from softmap.lab.names import check_path, split_variants

Tokens = Annotated[int, Range(2, 2**20)]
Seed = Annotated[int, Range(0, 2**31 - 1)]


@dataclass
class Eval:
    """Put questions to trained models, and compare their answers: a table, and one page.

    A model is a run (all its variants and seeds), a trial's model, or the folder of any causal
    language model of transformers; LABEL=FOLDER names it, and folders of one label are replicates.

    For example:
      softmap eval runs/demo --suite loss length
      softmap eval runs/demo --variants diff --suite needles outliers bits --quick
      softmap eval plain=models/a plain=models/b mine=models/c --suite maps --data text.txt
      softmap eval models/a --suite lm_eval:lambada_openai,piqa --json answers.json
    """

    models: Annotated[Positional[tuple[str, ...]], arg(metavar="[LABEL=]MODEL [...]")]
    """Folders of runs or models; the first label is the control."""
    suite: tuple[str, ...] = ()
    """The questions, separated by spaces or commas; by default their names are listed."""
    variants: tuple[str, ...] = ()
    """Only these variants of the given runs."""
    control: str | None = None
    """The label that the others are compared with."""
    quick: bool = False
    """Few and small instances: seconds rather than minutes."""
    context: Tokens | None = None
    """Context in tokens; by default the shortest that a model was made for, at most 1024."""
    seed: Seed = 0
    """Seed of the instances, which are the same for all models."""
    data: str | None = None
    """Text to ask about; by default the held-out text of the first run, else of stdlib."""
    field: str | None = None
    """The field that holds the text in JSONL, Parquet and Hub data."""
    json: Path | None = None
    """Also write everything, with the answer to every instance, to this file."""
    page: Path | None = None
    """Where the page is written; by default eval.html beside the run, or here."""
    include: Path | None = None
    """A folder with tasks of your own for lm_eval."""
    judge: str | None = None
    """Address of an OpenAI-compatible endpoint that judges answers (halluc:FILE)."""
    judge_model: str = "default"
    """The endpoint's model; the key is read from SOFTMAP_JUDGE_KEY."""
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    trust_remote_code: bool = False
    """Run the code in a model's folder."""

    def run(self, argv: Sequence[str]) -> None:
        """Ask the models, print the table, and write the page."""
        suites = _names(self.suite)
        if not suites:
            print("\n".join(_listed()))
            return
        if not self.models:
            raise SoftmapError("eval: expected one or more models, found none")
        from softmap.lab.asking.page import write_page
        from softmap.lab.asking.run import ask
        from softmap.lab.files import write_json
        from softmap.report.question_table import lines

        for path in (self.json, self.page):
            if path is not None:
                check_path("the file to write", path)
        found = ask(self._asked(suites, argv), lambda text: print(text, file=sys.stderr))
        for line in lines(found):
            print(line)
        if self.json is not None:
            self.json.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.json, found, seal=False)
        print(write_page(self._page(), found))

    def _asked(self, suites: list[str], argv: Sequence[str]) -> Any:
        from softmap.lab.asking.run import EvalRequest

        judge = None
        if self.judge is not None:
            from softmap.evals.judge import Judge

            judge = Judge(self.judge, self.judge_model)
        return EvalRequest(
            self.models, suites, split_variants(self.variants), self.control, self.quick,
            self.context, self.seed, self.data, self.field, self.device, self.precision,
            None if self.include is None else str(self.include), judge, self.trust_remote_code,
            "softmap " + shlex.join(argv),
        )  # fmt: skip

    def _page(self) -> Path:
        if self.page is not None:
            return self.page
        from softmap.lab.asking.models import split
        from softmap.lab.names import is_run

        _, first = split(self.models[0])
        return first / "eval.html" if is_run(first) else Path("eval.html")


@dataclass
class Learn:
    """Train small models on a task of tokens, and ask them for instances that they never saw.

    This takes minutes on two cores. Each variant's peak learning rate is chosen from --peaks with a
    seed of its own; then each seed is trained. After Ctrl-C the same command continues.

    For example:
      softmap learn recall --variants diff dcmha --seeds 3
      softmap learn mad --variants sas --steps 3000 --peaks 1e-3 3e-3
    """

    task: Positional[str]
    """recall, mad, bigram, needles, composition or shots (the last three among tokens)."""
    variants: tuple[str, ...] = ()
    """Variants to compare with transformer++, separated by spaces or commas."""
    seeds: Annotated[int, Range(1, 1000)] = 3
    peaks: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Peak learning rates to choose from; with a single one nothing is tuned."""
    steps: Annotated[int, Range(1, 10**7)] | None = None
    """Training steps; 1500 by default."""
    name: str | None = None
    """Name of the folder; learn-TASK by default."""
    out: Path = Path("runs")
    """Folder of all runs."""
    set: tuple[str, ...] = ()
    """Other values of the model and its training, as model.hidden_size=128."""
    jobs: Annotated[int, Range(1, 1000)] | None = None
    """Number of trainings at once; by default one for each core or worker of the cluster."""
    cluster: str | None = None
    """Train on a Dask cluster: its scheduler's address or file, or local:N; see docs/cluster.md."""
    quick: bool = False
    """Ask few instances."""

    def run(self, argv: Sequence[str]) -> None:
        """Train and ask the models, print the table, and write the page."""
        from softmap.lab.asking.page import write_page
        from softmap.lab.cluster import connected
        from softmap.lab.files import write_json
        from softmap.lab.learn import LearnRequest, learn, task_suite
        from softmap.lab.names import check_name, split_values
        from softmap.lab.progress import choose
        from softmap.report.question_table import lines

        name = self.name or f"learn-{task_suite(self.task).name}"
        check_name("--name", name)
        if not self.peaks or min(self.peaks) <= 0:
            raise SoftmapError("--peaks: expected one or more numbers above 0")
        folder = self.out / name
        with connected(self.cluster, self.jobs, self.out) as cluster:
            request = LearnRequest(
                self.task, split_variants(self.variants), self.seeds,
                list(dict.fromkeys(self.peaks)), self.steps, split_values(self.set), self.jobs,
                self.quick, "softmap " + shlex.join(argv), cluster,
            )  # fmt: skip
            found = learn(request, folder, choose())
        for line in lines(found):
            print(line)
        write_json(folder / "eval.json", found, seal=False)
        print(write_page(folder / "eval.html", found))


def _names(given: Sequence[str]) -> list[str]:
    """Returns the names in words that hold one or, separated by commas, several.

    Commas after a colon belong to that suite's argument.
    """
    found = []
    for word in given:
        found += [word] if ":" in word else [name for name in word.split(",") if name]
    return list(dict.fromkeys(found))


def _listed() -> list[str]:
    from softmap.evals.catalogue import names, suite

    return [f"{name:<12} {suite(name).asks}" for name in names()]
