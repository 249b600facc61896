"""Which extra of ``pip install 'softmap[EXTRA]'`` brings an optional package.

A room of the package that cannot do without some says so in its ``__init__``, before it imports
them: ``__needs__ = need(__name__, "transformers")``.
"""

from __future__ import annotations

from importlib.util import find_spec

from softmap.errors import SoftmapError

EXTRAS: dict[str, tuple[str, ...]] = {
    "gpu": ("triton",),
    "hf": ("transformers", "safetensors", "huggingface_hub"),
    "lab": (
        "tokenizers", "datasets", "pyarrow", "filelock", "tyro", "yaml", "rich", "scipy", "altair",
        "vl_convert", "psutil",
    ),
    "lm_eval": ("lm_eval",),
    "cluster": ("distributed",),
}  # fmt: skip
#: What the laboratory imports from its first line on.
LABORATORY = (
    "yaml", "rich", "psutil", "scipy", "altair", "vl_convert", "transformers", "safetensors",
)  # fmt: skip
_EXTRA_OF = {package: extra for extra, packages in EXTRAS.items() for package in packages}


class MissingExtra(SoftmapError, ModuleNotFoundError):
    """An optional package is not installed; the message names the extra that brings it."""


def need(where: str, *packages: str, extra: str | None = None) -> tuple[str, ...]:
    """Returns the packages if all can be imported; ``where`` names what needs them.

    Args:
        extra: the extra to name, where a user of ``where`` needs more than these packages.

    Raises ``MissingExtra``, an ``ImportError``, in one line with the command that installs them.
    """
    missing = [name for name in packages if not installed(name)]
    if missing:
        raise MissingExtra(_message(where, missing, extra or _EXTRA_OF[missing[0]]))
    return packages


def told(error: ModuleNotFoundError) -> str | None:
    """Returns one line for an ImportError of a package that an extra brings; None for another
    error.
    """
    if isinstance(error, MissingExtra):
        return str(error)
    name = (error.name or "").partition(".")[0]
    return _message("softmap", [name], _EXTRA_OF[name]) if name in _EXTRA_OF else None


def installed(name: str) -> bool:
    """Whether a package can be imported, without importing it."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # a finder that refuses; a module that is half there
        return False


def _message(where: str, missing: list[str], extra: str) -> str:
    be = "is" if len(missing) == 1 else "are"
    return (
        f"{where} needs {', '.join(missing)}, which {be} not installed: "
        f"pip install 'softmap[{extra}]'"
    )
