"""Without the extras: what works with torch alone works, and the rest says what is missing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest

from softmap.extras import EXTRAS, MissingExtra, need, told

ROOT = Path(__file__).parents[1]
PACKAGES = [name for packages in EXTRAS.values() for name in packages]
# What torch itself brings, and what the extras bring along.
BLOCKED = [n for n in PACKAGES if n != "filelock"] + ["accelerate", "peft", "pandas", "requests"]
BLOCK = f"import sys; sys.modules |= dict.fromkeys({BLOCKED!r})\n"
RUN = "import runpy; sys.argv = ['softmap', *{!r}]; runpy.run_module('softmap', None, '__main__')"
SMOKE = ROOT / "tests" / "torch_alone.py"


def python(*argv: str, at: str = sys.executable) -> subprocess.CompletedProcess[str]:
    # pip would take an .egg-info beside the sources for the installed package.
    pip = argv[:2] == ("-m", "pip")
    own = {"PYTHONPATH": str(ROOT / "src")} if at == sys.executable and not pip else {}
    env = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"} | own
    return subprocess.run([at, *argv], env=env, capture_output=True, text=True, check=False)


def says_what_is_missing(done: subprocess.CompletedProcess[str]) -> None:
    (line,) = done.stderr.splitlines()
    assert line.startswith("softmap: error: ") and "pip install 'softmap[lab]'" in line
    assert (done.returncode, done.stdout) == (2, "")


def test_torch_alone() -> None:
    done = python("-c", BLOCK + SMOKE.read_text())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("argv", [["--help"], [], ["explain", "diff"]])
def test_command_without_its_packages(argv: list[str]) -> None:
    says_what_is_missing(python("-c", BLOCK + RUN.format(argv)))


@pytest.mark.parametrize("package", ["yaml", "rich", "transformers", "safetensors", "altair"])
def test_command_without_one_package(package: str) -> None:
    block = f"import sys; sys.modules[{package!r}] = None\n"
    done = python("-c", block + RUN.format(["explain", "diff"]))
    says_what_is_missing(done)
    assert package in done.stderr


def test_schedules_without_torch() -> None:
    code = "import sys; sys.modules |= dict.fromkeys(['torch', 'numpy', 'safetensors'])\n"
    code += (
        "from softmap.train import TrainingOptions, Terms, plan, schedules; import softmap.errors"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_an_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MissingExtra, match=r"a room needs tokenizers, which is .* 'softmap\[lab\]"):
        need("a room", "tokenizers", "torch")
    with pytest.raises(ImportError, match=r"softmap\[gpu\]") as found:
        need("a kernel", "triton")
    assert isinstance(found.value, ValueError) and told(found.value) == str(found.value)
    assert told(ModuleNotFoundError(name="yaml.nodes")) == (
        "softmap needs yaml, which is not installed: pip install 'softmap[lab]'"
    )
    assert told(ModuleNotFoundError(name="their_own")) is None
    assert need("a room", "torch") == ("torch",)


def test_extras_are_those_of_the_project() -> None:
    """The packages are imported by these names; their distributions are under the same extra."""
    named = {"yaml": "pyyaml", "vl_convert": "vl-convert-python"}
    implied = {"huggingface_hub"}  # transformers brings it
    # Metadata may spell a name with hyphens, whatever the project does.
    declared = [r.replace(" ", "").replace("_", "-") for r in requires("softmap") or ()]
    for extra, packages in EXTRAS.items():
        for package in set(packages) - implied:
            name = named.get(package, package).replace("_", "-")
            ours = [r for r in declared if r.startswith(f"{name}>=")]
            marker = f'extra=="{extra.replace("_", "-")}"'
            assert any(marker in r.replace("'", '"') for r in ours), package


@pytest.mark.parametrize(
    "package", ["softmap", pytest.param("softmap.train", marks=pytest.mark.slow)]
)
def test_lazy_names_are_listed(package: str) -> None:
    """In a fresh process: here they may have been imported, and so be there anyway."""
    code = f"""
import {package} as p
listed = dir(p)
assert set(p.__all__) <= set(listed) and '__name__' in listed and listed == sorted(listed)
assert all(getattr(p, n) is not None for n in p.__all__)
from {package} import *
try:
    p.attentoin
except AttributeError as error:
    assert str(error) == "module {package!r} has no attribute 'attentoin'", error
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_every_lazy_package_lists_its_names() -> None:
    for path in (ROOT / "src" / "softmap").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "__getattr__, " in text or "def __getattr__(name" in text:
            name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
            module = importlib.import_module(name.removesuffix(".__init__"))
            assert set(module.__all__) <= set(dir(module)), name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves folders beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    for path in sources():
        (copy / "src" / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / "src" / path).write_bytes((ROOT / "src" / path).read_bytes())
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = python("-m", "pip", "wheel", *flags, "--wheel-dir", str(folder), str(copy))
    assert done.returncode == 0, done.stderr
    return next(folder.glob("softmap-*.whl"))


def sources() -> set[Path]:
    found = (p for p in (ROOT / "src" / "softmap").rglob("*") if p.is_file())
    return {p.relative_to(ROOT / "src") for p in found if "__pycache__" not in p.parts}


@pytest.mark.slow
def test_wheel_holds_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        inside = set(file.namelist())
        scripts = next(n for n in inside if n.endswith("entry_points.txt"))
        assert "softmap = softmap.__main__:main" in file.read(scripts).decode()
    missing = {str(p) for p in sources()} - inside
    assert not missing, f"not in the wheel: {sorted(missing)}"


@pytest.mark.slow
def test_wheel_with_torch_alone(wheel: Path, tmp_path: Path) -> None:
    """Installed where the only other packages are those that torch and numpy bring."""
    venv.create(tmp_path / "env", symlinks=True)
    own = str(tmp_path / "env/bin/python")
    site = next((tmp_path / "env/lib").glob("python*/site-packages"))
    for top in sorted(tops("torch") | tops("numpy")):
        (site / top.name).symlink_to(top)
    flags = ["--quiet", "--no-deps", "--no-index"]
    done = python("-m", "pip", "--python", own, "install", *flags, str(wheel))
    assert done.returncode == 0, done.stderr
    done = python(str(SMOKE), at=own)
    assert done.returncode == 0, done.stderr
    assert python("-c", "import yaml", at=own).returncode != 0
    says_what_is_missing(python("-m", "softmap", "--help", at=own))
    says_what_is_missing(python(str(tmp_path / "env/bin/softmap"), "variants", at=own))


def tops(name: str, seen: frozenset[str] = frozenset()) -> set[Path]:
    """Files and folders of a distribution, and of all that it requires, in site-packages."""
    from packaging.requirements import Requirement

    own = distribution(name)
    found = {Path(str(own.locate_file(f.parts[0]))) for f in own.files or () if f.parts[0] != ".."}
    for text in own.requires or ():
        need = Requirement(text)
        if need.name not in seen and (need.marker is None or need.marker.evaluate({"extra": ""})):
            found |= tops(need.name, seen | {name, need.name})
    return {path for path in found if path.name != "__pycache__"}
