"""The commands of the pages about many machines parse, each by its own program's parser."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from softmap import extras
from softmap.cli import _parse
from softmap.fields import check_flags

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINES = [
    line
    for page in ("cluster.md", "distributed.md", "scale.md")
    for language, block in BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    if language in ("", "bash")
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]


def words(line: str) -> list[str]:
    """Those of the command itself, without what a shell and SLURM put around it."""
    found = shlex.split(line.replace("$SLURM_JOB_ID", "1"), comments=True)
    found = [word for word in found if word != "&"]
    return found[1:] if found[0] in ("exec", "srun") else found


def commands(program: str) -> list[list[str]]:
    return [found[1:] for line in LINES if (found := words(line))[0] == program]


def parse(argv: list[str]) -> None:
    command = _parse(argv)
    check_flags(command)
    assert type(command).__name__.removesuffix("Command").lower() == argv[0]


def test_commands_of_softmap() -> None:
    found = commands("softmap")
    assert len(found) >= 9
    for argv in found:
        parse(argv)
    with pytest.raises(Exception, match="clusters"):
        parse(["compare", "--clusters", "local:2"])


def test_commands_of_torchrun() -> None:
    from torch.distributed.run import get_args_parser

    found = commands("torchrun")
    assert len(found) >= 2
    for argv in found:
        given = get_args_parser().parse_args(argv)
        assert given.module and given.training_script == "softmap"
        parse(given.training_script_args)


@pytest.mark.skipif(not extras.installed("distributed"), reason="distributed is not there")
def test_commands_of_dask() -> None:
    from distributed.cli import dask_scheduler, dask_worker

    programs = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
    found = commands("dask")
    assert len(found) >= 5
    for argv in found:
        with programs[argv[0]].make_context(argv[0], argv[1:]):
            pass


def test_nothing_else_is_in_the_blocks() -> None:
    """A line that none of the tests above has parsed is one that nobody has checked."""
    shell = {"cd", "while", "head=$(scontrol"}
    assert {words(line)[0] for line in LINES} <= {"softmap", "torchrun", "dask", *shell}
