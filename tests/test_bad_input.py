"""Bad input of every kind: the promised error in one line, and not a byte written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from softmap.cli import main
from softmap.errors import SoftmapError
from softmap.lab import recipe as recipes
from softmap.variants import load

TEXT = "alpha beta def x\n" * 200
TINY = """\
name: tiny
data: {data: text.txt, tokenizer: bytes}
model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, context: 32}
training: {steps: 12, batch_size: 2, log_every: 2, precision: fp32, warmup: 0.1}
variants: [transformer++, diff]
evaluation: {windows: 4, passage_tokens: 8}
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI", "1")
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line of a command that must fail with status 2 and leave no new file."""
    before = sorted(Path().rglob("*"))
    assert main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("softmap: error: ") for line in lines) == 1, lines
    assert sorted(Path().rglob("*")) == before
    return lines[-1].removeprefix("softmap: error: ")


FLOATS = ["training.clip", "training.weight_decay", "tuning.share", "data.heldout",
          "model.initializer_range", "peaks.diff", "model.backbone.norm_eps"]  # fmt: skip
INTS = ["training.steps", "training.checkpoint_every", "model.num_hidden_layers", "data.max_bytes",
        "evaluation.windows", "tuning.seed"]  # fmt: skip
NEVER = [".nan", ".inf", "-.inf", "1e400", "0x10", "1:30", "-1", "yes", "2024-01-01", "[]", "{}",
         "'3'", "!!python/name:os.system", "&a [*a]"]  # fmt: skip


@pytest.mark.parametrize("key", FLOATS + INTS)
def test_numbers_are_of_their_type_finite_and_in_range(key: str) -> None:
    for text in NEVER + (["1.5", "010"] if key in INTS else []):
        with pytest.raises(SoftmapError) as error:
            recipe = recipes.load("tiny.yaml", {key: text})
            if key.startswith("model."):
                from softmap.lab.plan import make_plan

                make_plan(recipe, 300)
        assert key.rsplit(".")[-1] in str(error.value) and "\n" not in str(error.value), text


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("training.betas=[0.9, 1]", "betas[1]: expected a number from 0 below 1, found 1"),
        ("training.betas=[0.9]", "betas: expected two numbers"),
        ("seeds=[-1]", "seeds[0]: expected a whole number from 0"),
        ("seeds=[.nan]", "seeds[0]: expected a whole number"),
        ("training.device=nowhere", "training.device: cannot use 'nowhere'"),
        ("training.device=meta", "nothing can be computed there"),
        ("tuning.grid=[1e-3, .inf]", "tuning.grid[1]: expected a number"),
        ("training.schedule=wds", "did you mean 'wsd'"),
        ("training.micro_batch_size=3", "micro_batch_size: expected 1 to 2"),
        ("model.context=16777216", "training needs at least"),
        ("model.hidden_size=1048576", "training needs at least"),
        ("data.tokenizer=bpe:99999999999999999999", "tokenizer: expected 'bpe:SIZE'"),
        ("data.tokenizer=bpe:²³²", "tokenizer: expected 'bpe:SIZE'"),
        ("variants=[{variant: diff, peak_lr: 0}]", "variants[0].peak_lr: expected a number above"),
        ("variants=[{variant: diff, label: ''}]", "variants[0].label: expected 1 to"),
        ("a..b=1", "expected key.path=value"),
        ("name=a/b", "name: expected the name of a folder"),
        ("name=-x", "name: expected the name of a folder"),
        ("name='..'", "name: expected the name of a folder"),
        ("name='a\\0b'", "not valid YAML"),
        ("name=" + "x" * 300, "name: expected at most 100 bytes"),
    ],
)
def test_settings_are_refused_before_a_byte_is_written(
    setting: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(capsys, "compare", "tiny.yaml", "--set", setting.replace("\\0", "\0"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--out", "a\0b"], "out: expected a path"),
        (["--name", ""], "name: expected the name of a folder"),
        (["--name", "\x1b[31m"], "name: expected the name of a folder"),
        (["--seeds", "1000000000"], "--seeds: expected a number from 1 to 1000"),
        (["--seeds", "-1"], "--seeds: expected a number from 1 to 1000"),
        (["--port", "99999"], "--port: expected a whole number from 0"),
        (["--steps", "0"], "training.steps: expected a whole number"),
        (["--context", "-5"], "model.context: expected a whole number"),
        (["--data", "/dev/zero"], "found one that is neither"),
        (["--data", "x" * 5000], "data: expected"),
        (["--data", ""], "data: expected a name"),
        (["--data", "hf:"], "data: expected 'hf:NAME"),
        (["--field", "\0"], "field: expected a name"),
        (["--variants", "a" * 5000], "a variant has at most 1000 characters"),
    ],
)
def test_flags(flags: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(capsys, "compare", "tiny.yaml", *flags)


def test_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert "at least" in refused(capsys, "explain", "diff", "--batch", "2000000000")
    assert "--heads: expected a whole number from 1" in refused(
        capsys, "explain", "diff", "--heads", "0"
    )
    assert "num_hidden_layers" in refused(capsys, "explain", "diff", "--layers", "1000000000")
    assert "expected a path" in refused(capsys, "report", "a\0b")
    assert "expected the folder" in refused(capsys, "generate", "nothing")


def test_generate_checks_what_it_is_given() -> None:
    from softmap.lab.generate import generate

    for given, says in (
        ({"prompt": "caf\udce9"}, "prompt: expected text in UTF-8"),
        ({"prompt": "x" * 2_000_000}, "prompt: expected at most"),
        ({"temperature": float("nan")}, "temperature: expected"),
        ({"temperature": -1.0}, "temperature: expected"),
        ({"top_k": 0}, "top_k: expected"),
        ({"seed": -1}, "seed: expected"),
        ({"max_new_tokens": 10**9}, "max_new_tokens: expected"),
    ):
        arguments: dict[str, Any] = {"prompt": "a", **given}
        with pytest.raises(SoftmapError, match=says):
            generate(Path("nowhere"), **arguments)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "deep, found more"),
        ("a: &a [x, x, x, x, x, x, x, x, x, x]\n" * 1 + "b: " + "[" * 5000 + "]" * 5000, "deep"),
        ("x: " + "{a: " * 3000 + "1" + "}" * 3000, "deep"),
        ("a: &a [*a]", "deep"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("\tname: a", "not valid YAML"),
        ("name: \0", "not valid YAML"),
        ("x: " + "y" * 200_000, "at most 100,000 characters"),
        ("base: &b {steps: 3}\ntraining: {<<: *b}", "unknown key"),
        ("training: !!python/object:os.system {}", "found the tag"),
    ],
)
def test_yaml_that_is_no_recipe(text: str, says: str) -> None:
    Path("bad.yaml").write_text(text)
    with pytest.raises(SoftmapError, match=says) as error:
        recipes.load("bad.yaml")
    assert str(error.value).startswith("bad.yaml") and "\n" not in str(error.value)


def test_wide_aliases_are_bounded() -> None:
    wide = "a: &a [" + "x, " * 200 + "]\n" + "b: &b [" + "*a, " * 200 + "]\n"
    Path("bad.yaml").write_text(wide + "c: [" + "*b, " * 200 + "]\n")
    with pytest.raises(SoftmapError, match="at most 20,000 values"):
        recipes.load("bad.yaml")


SPECS = [
    ":", ":x", "x:", "../../etc/passwd:x", "a b:x", "a..b:x", "..:x", "/etc/passwd.py:x", "\0.py:x",
    "dape(hidden=0)", "dcmha(rank=True)", "dcmha(rank=1e9)", "dape(kernel=99999999)",
    "diff(lambda_init=nan)", "diff(lambda_init=1e999)", "diff(lambda_init=0.1,lambda_init=0.2)",
    "diff(norm_eps=0)", "dape(hidden=1", "dape)hidden=1(", "dape((hidden=1)", "dape(hidden=[1]))",
    "dape(bias=" + "[" * 400 + "]" * 400 + ")", "dape(hidden=" + "-" * 900 + "1)", "(", "+", "++",
    "diff++", "diff+++", "dif\u00e9", "\ud800", "diff(=1)", "diff(norm_eps=)", "dape(bias={})",
    "transformer++(norm_eps=-1)", "transformer++(window=0,pattern=L)", "sas(mlp_gain=1e999)",
    "transformer++(rope_theta=0)", "transformer++(pattern=" + "LG" * 400 + "x)",
    "diff(lambda_init=" + "9" * 900 + ")",
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_names_of_variants(spec: str) -> None:
    with pytest.raises(SoftmapError) as error:
        made = load(spec)
        from softmap.nn import Backbone

        Backbone.of(made.parts.backbone)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 1000


def test_specs_of_odd_types() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for spec in (
        endless,
        [[]] * 3,
        {"dape": {"hidden": [1]}},
        {"dape": {"bias": {1}}},
        None,
        {1: {}},
    ):
        with pytest.raises(SoftmapError):
            load(spec)  # type: ignore[arg-type]


def own(body: str) -> str:
    Path("own.py").write_text(
        "import torch\nfrom softmap import Edit\nfrom softmap.variants import Parts, variant\n"
        f"{body}\n"
    )
    return f"{Path('own.py').resolve()}:mine"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise RuntimeError('boom')", r"own.py \(line 4\): RuntimeError: boom"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
        ("@variant('mine', 'M')\ndef f(): return None", "expected to return Parts, found None"),
        ("@variant('mine', 'M')\ndef f(): return [Edit]", "expected to return Parts"),
        (
            "@variant('mine', 'M')\ndef f(): return Parts(scores=Edit)",
            "Parts.scores: expected a li",
        ),
        ("@variant('mine', 'M')\ndef f(): return Parts(scores=[3])", "Parts.scores: expected a li"),
        ("@variant('mine', 'M')\ndef f(): return Parts(backbone=3)", "Parts.backbone: expected"),
        ("@variant('mine', 'M')\ndef f(): raise KeyError(1)", "KeyError: 1"),
    ],
)
def test_own_files_are_refused_in_one_line(body: str, says: str) -> None:
    with pytest.raises(SoftmapError, match=says) as error:
        load(own(body))
    assert "own.py" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("torch.set_default_dtype(torch.float64)", "changes torch's default dtype"),
        ("torch.set_grad_enabled(False)", "changes torch's gradient mode"),
        ("torch.softmax = torch.exp", "changes torch.softmax"),
        ("torch.Tensor.exp = torch.Tensor.neg", "changes torch.Tensor.exp"),
        ("class Odd(BaseException): pass\nraise Odd('no')", "line 5.*Odd: no"),
        ("@variant('mine', 3)\ndef f(): return Parts()", "variant: title: expected text, found 3"),
    ],
)
def test_own_files_leave_torch_as_it_is(
    body: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name in ((torch, "softmax"), (torch.Tensor, "exp")):
        monkeypatch.setattr(place, name, getattr(place, name))
    try:
        with pytest.raises(SoftmapError, match=says) as error:
            load(own(body))
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
    assert "own.py" in str(error.value)


def test_pipes_are_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe.yaml")
    os.mkfifo("pipe.py")
    assert "pipe.yaml: expected a recipe file" in refused(capsys, "compare", "pipe.yaml")
    line = refused(capsys, "compare", "tiny.yaml", "--variants", "pipe.py:mine")
    assert "pipe.py is not a file" in line


def test_an_interrupt_while_a_file_is_loaded_is_let_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        load(own("raise KeyboardInterrupt"))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def edit(self, m, band, t): return m + torch.roll(m, -1, -1)", "must not read later"),
        ("def edit(self, m, band, t): return m - m.mean(0)", "must not read each other"),
        ("def edit(self, m, band, t): return m.mul_(2)", "changes m in place"),
        ("def edit(self, m, band, t): exit(0)", "raises SystemExit: 0"),
        ("def edit(self, m, band, t): torch.manual_seed(0); return m + 0", "draws random numbers"),
        ("def heads_out(self, heads): return 'x'", "heads_out: expected a whole number"),
        ("def __init__(self, place): place.width", "cannot be built: AttributeError"),
    ],
)
def test_own_variants_are_checked_before_they_are_trained(
    body: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    head = body if "def __init__" in body else "def __init__(self, place): super().__init__()"
    tail = "" if "def __init__" in body else f"    {body}\n"
    stage = "weights" if "heads_out" in body else "scores"
    spec = own(
        f"class Mine(Edit):\n    stage = '{stage}'\n    {head}\n{tail}\n"
        f"@variant('mine', 'M')\ndef f(): return Parts({stage}=[Mine])"
    )
    line = refused(capsys, "compare", "tiny.yaml", "--variants", spec)
    assert says in line and "Mine" in line


def test_data_names_the_file_and_its_line() -> None:
    from softmap.data import DataConfig, prepare

    lines = '{"text": "a"}\n'
    bad: dict[str, tuple[bytes, str]] = {
        "bytes.jsonl": (lines.encode() + b'{"text": "\xff"}\n', "bytes.jsonl:2: expected utf-8"),
        "half.jsonl": (lines.encode() + b'{"text": "\\ud800"}', "half.jsonl:2: field 'text' holds"),
        "cut.jsonl.gz": (b"\x1f\x8b\x08\0\0\0\0\0", "cut.jsonl.gz: cannot be read"),
        "cut.parquet": (b"PAR1xxxxPAR1", "cut.parquet: cannot be read as Parquet"),
        "binary.txt": (b"\0\1\2", "binary.txt: binary"),
        "empty.txt": (b"", "empty.txt: no text in it"),
    }
    for name, (content, says) in bad.items():
        Path(name).write_bytes(content)
        with pytest.raises(SoftmapError, match=says):
            prepare(DataConfig(data=name, tokenizer="bytes"), "cache")
    os.mkfifo("pipe")
    os.symlink("nowhere", "dangling")
    os.symlink("loop", "loop")
    for name in ("pipe", "dangling", "loop", "missing"):
        with pytest.raises(SoftmapError, match="data: expected 'stdlib'"):
            prepare(DataConfig(data=name, tokenizer="bytes"), "cache")
    assert not any(p for p in Path("cache").rglob("*") if p.is_file())


def test_parquet_with_broken_text() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    from softmap.data.records import read_parquet

    raw = pyarrow.array([b"fine", b"\xff\xfe"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": raw}), "broken.parquet")
    with pytest.raises(SoftmapError, match=r"broken.parquet: cannot be read as Parquet"):
        list(read_parquet(Path("broken.parquet"), "broken", "text"))
