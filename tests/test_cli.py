"""The command line: what it prints, how it exits, and one line for each bad input."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import softmap
from softmap.__main__ import main as program
from softmap.cli import main, split_variants

TINY = """\
name: tiny
data: {data: text.txt, tokenizer: bytes}
model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, context: 32}
training: {steps: 12, batch_size: 2, log_every: 2, precision: fp32, warmup: 0.1}
variants: [transformer++, diff]
evaluation: {windows: 4, passage_tokens: 8}
"""

Failure = Callable[..., str]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text and a recipe, and nothing from the caller's environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOFTMAP_TRACEBACK", raising=False)
    monkeypatch.setenv("CI", "1")
    # Workers take seconds to start, and know nothing of what a test has replaced.
    monkeypatch.setattr("softmap.lab.workers.default_jobs", lambda *_: 1)
    monkeypatch.setattr("softmap.lab.compare.measure_speed", lambda *_: None)
    words = random.Random(0).choices(["alpha", "beta", "def", "x", "\n"], k=3000)
    (tmp_path / "text.txt").write_text(" ".join(words))
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Failure:
    """Runs a command that must fail with status 2 and one line, which it returns."""

    def run(*argv: str) -> str:
        assert main(argv) == 2
        lines = capsys.readouterr().err.splitlines()
        said = [line for line in lines if line.startswith("softmap: error: ")]
        assert len(said) == 1 and lines[-1] == said[0]
        assert not any("Traceback" in line for line in lines)
        return said[0].removeprefix("softmap: error: ")

    return run


def test_compare_report_and_generate(capsys: pytest.CaptureFixture[str], workplace: Path) -> None:
    assert main(["compare", "tiny.yaml"]) == 0
    out = capsys.readouterr()
    assert out.out.strip() == "runs/tiny/report.html" and "MLP width" in out.err
    run = json.loads((workplace / "runs/tiny/run.json").read_text())
    assert run["command"] == "softmap compare tiny.yaml"
    page = workplace / "runs/tiny/report.html"
    page.unlink()
    assert main(["report", "runs/tiny"]) == 0 and page.exists()
    capsys.readouterr()
    flags = ["--prompt", "alpha", "--max-new-tokens", "5"]
    assert main(["generate", "runs/tiny", "--variant", "diff", *flags]) == 0
    assert capsys.readouterr().out.startswith("alpha")


@pytest.mark.slow
def test_flags_change_the_recipe(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmap.report.build", lambda folder: folder / "report.html")
    argv = ["compare", "tiny.yaml", "--variants", "gated,dape(bias=fire,kernel=1)", "--seeds", "2"]
    argv += ["--steps", "16", "--context", "16", "--name", "other", "--out", "elsewhere"]
    argv += ["--set", "training.batch_size=3", "evaluation.windows=2"]
    assert main(argv) == 0
    run = json.loads((workplace / "elsewhere/other/run.json").read_text())
    assert run["variants"] == ["transformer++", "gated", "dape(bias=fire,kernel=1)"]
    assert run["seeds"] == [0, 1]
    assert run["training"]["steps"] == 16 and run["training"]["batch_tokens"] == 48
    assert len(list((workplace / "elsewhere/other/variants").glob("*/seed*/result.json"))) == 6


def test_explain_and_variants(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "dcmha", "--heads", "4", "--head-dim", "8", "--context", "16"]) == 0
    assert "backends" in capsys.readouterr().out
    assert main(["variants"]) == 0
    assert "sas-p" in capsys.readouterr().out


def test_commas_in_brackets_do_not_split() -> None:
    assert split_variants([["a", "b"][0], "b,c(x=1,y=[2,3])", " d "]) == [
        "a", "b", "c(x=1,y=[2,3])", "d",
    ]  # fmt: skip


# Bad input: one line, status 2.


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--variants", "dif"], "unknown variant 'dif' (did you mean 'diff'"),
        (["--variants", "dcmha(rnk=2)"], "did you mean 'rank'"),
        (["--variants", "transformer+kerple"], "cannot be combined"),
        (["--set", "model.num_attention_heads=3"], "multiple of num_attention_heads"),
        (["--set", "model.num_key_value_heads=3"], "found 2 and 3"),
        (["--context", "100000"], "context 100000 is longer than the text"),
        (["--set", "training.batch_size=100000"], "context 32 x batch 100000 needs"),
        (["--data", "nowhere"], "nowhere"),
        (["--tokenizer", "bp:300"], "tokenizer: expected"),
        (["--steps", "2"], "training.steps: 2 are too few for this schedule (budgets: expected"),
        (["--steps", "4"], "training.steps: 4 are too few for this schedule (budget 1: expected"),
        (
            ["--seeds", "0"],
            "--seeds: expected a number from 1 to 1000, found 0; --seed-list 0 takes",
        ),
        (
            ["--seeds", "0", "3"],
            "--seeds: expected one number, how many, found 2",
        ),
        (["--seeds", "two"], "--seeds: expected whole numbers, found 'two'"),
        (["--seed-list", "1,x"], "--seed-list: expected whole numbers, found 'x'"),
        (["--variants", ""], "--variants: expected names, found ''"),
        (["--name", "x", "y"], "expected no further words, found y"),
        (["--seeds", "2", "--seed-list", "3"], "--seeds and --seed-list are both given"),
        (["--steps", "6", "--steps", "7"], "--steps is given twice, expected it once"),
        (["--steps=6", "--steps=7"], "--steps is given twice, expected it once"),
        (["--steps", "16", "--set", "training.steps=20"], "--set training.steps: given twice"),
        (["--fresh=yes"], "--fresh takes no value, found 'yes'"),
        (["--steps", "x"], "Error parsing --steps"),
        (["--stepz", "3"], "softmap compare has no option '--stepz' (did you mean '--steps'"),
        (
            ["--set", "training.schedule=cosine", "training.budgets=[0.5, 1]"],
            "expected [1]",
        ),
        (["--set", "training.stepz=3"], "unknown key 'training.stepz' (did you mean 'steps'"),
        (["--set", "training.steps"], "--set: expected key.path=value, found 'training.steps'"),
        (["--set", "training.schedule=wsds"], "did you mean 'wsd"),
        (["--set", "training.device=cuda:99"], "training.device: cannot use 'cuda:99'"),
        (["--name", "../up"], "expected the name of a folder, found '../up'"),
    ],
)
def test_bad_flags(fails: Failure, workplace: Path, flags: list[str], says: str) -> None:
    assert says in fails("compare", "tiny.yaml", *flags)
    assert not (workplace / "runs" / "tiny").exists()


def test_a_recipes_unknown_key_is_named_with_its_line(fails: Failure, workplace: Path) -> None:
    (workplace / "tiny.yaml").write_text(TINY + "trainig: {}\n")
    said = fails("compare", "tiny.yaml")
    assert said.startswith("tiny.yaml:7: unknown key 'trainig' (did you mean 'training'")


def test_recipes_that_are_not_there(fails: Failure, workplace: Path) -> None:
    said = fails("compare", "tiny.yml")
    brought = "1b, 3b, 7b, demo, evening, schedules, sizes"
    assert said == f"no recipe or run 'tiny.yml' (softmap has {brought})"
    assert "found another folder; text is given with --data ." in fails("compare", ".")
    assert "text is given with --data text.txt" in fails("compare", "text.txt")
    assert "a value is given with --set a.b=3" in fails("compare", "a.b=3")
    (workplace / "runs/t1").mkdir(parents=True)
    (workplace / "runs/t1/run.json").write_text("{}")
    assert fails("compare", "t1") == "no recipe 't1'; there is a run: runs/t1"
    for command in ("compare", "report"):
        said = fails(command, "runs/t2")
        assert said.endswith("(a folder with run.json), found none (did you mean 'runs/t1'?)")
    (workplace / "runs/t1-and-t2").mkdir()
    (workplace / "runs/t1-and-t2/report.json").write_text("{}")
    assert "found a report of several" in fails("report", "runs/t1-and-t2")


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02" * 1000, b"   \n  \n"])
def test_a_corpus_that_is_no_text(fails: Failure, workplace: Path, content: bytes) -> None:
    (workplace / "text.txt").write_bytes(content)
    assert "text.txt" in fails("compare", "tiny.yaml")
    assert not (workplace / "runs" / "tiny").exists()


def test_a_corpus_that_cannot_be_read(fails: Failure, workplace: Path) -> None:
    (workplace / "text.txt").unlink()
    (workplace / "text.txt").symlink_to("text.txt")
    assert "text.txt" in fails("compare", "tiny.yaml")


def test_too_little_text(fails: Failure, workplace: Path) -> None:
    (workplace / "text.txt").write_text("some words\n" * 10)
    said = fails("compare", "tiny.yaml")
    assert "needs" in said and "has" in said


@pytest.mark.parametrize("out", ["text.txt", "/dev/null/runs", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written(fails: Failure, out: str) -> None:
    assert out in fails("compare", "tiny.yaml", "--out", out)


def test_a_full_disk(fails: Failure, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def full(descriptor: int) -> None:
        if (workplace / "runs/tiny/run.json").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in fails("compare", "tiny.yaml")
    strays = [p.name for p in (workplace / "runs/tiny").rglob("*") if "tmp" in p.name]
    assert strays == []


def test_a_port_that_is_taken(fails: Failure, workplace: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        said = fails("compare", "tiny.yaml", "--serve", "--port", port)
    assert said == f"port {port}: cannot be used (Address already in use)"
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("where", "says"),
    [("nowhere", "found none"), (".", "found neither"), ("foreign", "found model type 'llama'")],
)
def test_generate_from_a_wrong_folder(
    fails: Failure, workplace: Path, where: str, says: str
) -> None:
    (workplace / "foreign").mkdir()
    (workplace / "foreign/config.json").write_text('{"model_type": "llama"}')
    assert says in fails("generate", where, "--prompt", "a")


def test_import_of_something_else(fails: Failure, workplace: Path) -> None:
    (workplace / "foreign").mkdir()
    (workplace / "foreign/config.json").write_text('{"model_type": "gpt2"}')
    assert "foreign" in fails("import", "./foreign", "converted")
    assert not (workplace / "converted").exists()


def test_report_of_something_else(fails: Failure) -> None:
    assert "run" in fails("report", "nowhere")


def test_a_command_that_does_not_exist(fails: Failure) -> None:
    assert fails("comprae") == "softmap has no command 'comprae' (did you mean 'compare'?)"
    assert fails("bench", "stp") == "softmap bench has no command 'stp' (did you mean 'step'?)"
    assert "there are: compare, " in fails("xxxxxxxxx")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["--version"]) == 0
    assert capsys.readouterr().out == f"softmap {softmap.__version__}\n"


def test_help_shows_examples_and_does_not_wait_for_torch() -> None:
    code = "import sys; from softmap import cli; cli.main(sys.argv[1:])"
    command = [sys.executable, "-X", "importtime", "-c", code, "compare", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--variants" in done.stdout and "--tune" in done.stdout
    assert "softmap compare demo" in done.stdout
    for heavy in ("transformers", "altair", "tokenizers"):
        assert f"| {heavy}\n" not in done.stderr


# Stopping and going on.


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120  # its workers import what it has imported
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_stopped_run_says_how_to_go_on(
    workplace: Path, number: signal.Signals, status: int
) -> None:
    argv = ["compare", "tiny.yaml", "--steps", "100000", "--set", "training.log_every=1", "--fresh"]
    process = subprocess.Popen(
        [sys.executable, "-m", "softmap", *argv], stderr=subprocess.PIPE, text=True
    )
    trial = workplace / "runs/tiny/variants/transformerpp/seed0"
    wait_for(trial / "train.jsonl", process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    again = "softmap compare tiny.yaml --steps 100000 --set training.log_every=1"
    assert said.splitlines()[-1] == f"softmap: stopped; go on with: {again}"
    assert list((trial / "checkpoints").iterdir()) and "Traceback" not in said
