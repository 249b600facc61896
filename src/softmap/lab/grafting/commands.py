"""``softmap graft``: a dataclass whose fields are the flags.

Heavy modules are imported inside ``run``, as in ``softmap.cli``.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from softmap.errors import SoftmapError
from softmap.fields import Range
from softmap.lab.names import check_name, check_path, split_values, split_variants

Count = Annotated[int, Range(1, 1000)]
PEAK = 1e-4


@dataclass
class Graft:
    """Put edits of the map into a trained model and fine-tune it, beside the unchanged model.

    The edits start as the identity, so that the model's function does not change at first; any
    deviation is printed. All arms have the same steps, batches and seeds; "plain" is the control.
    After Ctrl-C the same command continues.

    For example:
      softmap graft runs/demo --to diff2 "dcmha(rank=4)" --data text.txt
      softmap graft models/llama --to "dape(bias=rope)" --layers 0 1 --dry-run
      softmap graft models/qwen --to talking-heads gated --peaks 3e-5 1e-4 3e-4 --seeds 5
    """

    model: Positional[Path]
    """A run, a trial of it, or a model's folder: softmap's own, Llama, Mistral, Qwen, GPT-NeoX."""
    to: tuple[str, ...] = ()
    """The variants, separated by spaces or commas; each is an arm."""
    layers: tuple[int, ...] = ()
    """Only these layers, negative ones from the end; by default all."""
    data: str = "stdlib"
    """"stdlib", a file or folder (text, JSONL, Parquet), or hf:NAME, with :CONFIG and :SPLIT if it
    has several."""
    field: str = "text"
    """The field that holds the text in JSONL, Parquet and Hub data."""
    seeds: Count = 3
    """Trainings of each arm."""
    steps: Annotated[int, Range(1, 10**9)] | None = None
    """Training steps; 300 by default."""
    peak_lr: Annotated[float, Range(above=0)] | None = None
    """Peak learning rate of all arms; 1e-4 by default."""
    peaks: tuple[float, ...] = ()
    """Candidate peaks of each arm, tried with a separate seed on a part of the training text."""
    context: Annotated[int, Range(2, 2**20)] | None = None
    """Tokens per window; by default 256, or the model's context if that is shorter."""
    variant: str | None = None
    """Which of the run's variants; its control by default."""
    of_seed: int | None = None
    """Which of the variant's training seeds; the first finished by default."""
    suite: tuple[str, ...] = ("loss",)
    """Questions of softmap eval for all models after training."""
    name: str | None = None
    """Name of the folder; graft-MODEL by default."""
    out: Path = Path("runs")
    """Folder of all runs."""
    set: tuple[str, ...] = ()
    """Other values of the training, as training.batch_size=4."""
    jobs: Count | None = None
    """Number of trainings at once; by default what cores and memory, or GPUs, allow."""
    quick: bool = False
    """Ask few instances."""
    dry_run: bool = False
    """Only print what each graft adds, and what it changes before the first step."""
    trust_remote_code: bool = False
    """Run the code in a model's folder."""

    def run(self, argv: Sequence[str]) -> None:
        """Fine-tune the arms, print the table, and write the page; or only print what would
        change.
        """
        from softmap.lab.grafting.preparation import prepare_graft
        from softmap.lab.grafting.run import graft

        request = self._request(argv)
        if self.dry_run:
            prepare_graft(request, print)
            return
        from softmap.lab.asking.page import write_page
        from softmap.lab.files import write_json
        from softmap.lab.progress import choose
        from softmap.report.question_table import lines

        folder = self.out / self._name(request)
        found = graft(request, folder, choose())
        for line in lines(found):
            print(line)
        write_json(folder / "eval.json", found, seal=False)
        print(write_page(folder / "eval.html", found))

    def _request(self, argv: Sequence[str]) -> Any:
        check_path("the model's folder", self.model)
        peaks = self._peaks()
        variants, settings = split_variants(self.to), split_values(self.set)
        suites = split_variants(self.suite)
        from softmap.lab.grafting.preparation import GraftRequest
        from softmap.lab.grafting.source import GraftSource
        from softmap.lab.workbench import CACHE

        source = GraftSource.at(self.model, self.variant, self.of_seed, self.trust_remote_code)
        return GraftRequest(
            source, variants, list(self.layers) or None, self.data, self.field, self.seeds,
            self.steps, peaks, self.context, settings, self.jobs, suites, self.quick,
            self.out / CACHE, "softmap " + shlex.join(argv),
        )  # fmt: skip

    def _peaks(self) -> list[float]:
        if self.peaks and self.peak_lr is not None:
            raise SoftmapError("--peak-lr and --peaks are both given, expected one of them")
        if self.peaks and min(self.peaks) <= 0:
            raise SoftmapError("--peaks: expected one or more numbers above 0")
        return list(dict.fromkeys(self.peaks)) or [self.peak_lr or PEAK]

    def _name(self, request: Any) -> str:
        from softmap.lab.names import run_name

        name = self.name or f"graft-{run_name(self.model)}"
        check_name("--name", name)
        return name
