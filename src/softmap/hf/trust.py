"""What a model's folder may do: its ``config.json`` is data, and its code runs only if trusted.

A configuration that names a variant of somebody's own (``file.py:name``, ``package.module:name``)
is refused when it is loaded, in one line, unless ``trust_remote_code=True`` is passed.
``AutoConfig`` keeps that switch to itself: what it reads stays *sealed*, so no code runs, and the
model's ``from_pretrained``, which is given the switch, opens or refuses it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from softmap.errors import SoftmapError, shown
from softmap.files import sealed
from softmap.nn import own
from softmap.nn.own import Loaded

_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
# transformers fetches a kernel, which is code, for a value with a slash.
_KERNELS = ("attn_implementation", "experts_implementation")


@dataclass(frozen=True)
class _Reading:
    """What is being loaded, and whether its code may run."""

    name: Any = None
    trusted: bool = False
    hub: Mapping[str, Any] | None = None

    def variant(self, spec: Any) -> Loaded:
        """Returns the variant ``spec`` as the file being read names it."""
        wanted = own.files(spec) if self.trusted else []
        return own.loaded(spec, _folder(self.name, wanted, self.hub or {}), self.trusted)


_READING: ContextVar[_Reading | None] = ContextVar("softmap_reading", default=None)

# Folders and their variants that were trusted before. PEFT reads such a configuration again,
# without the switch, when it saves an adapter: it gets a sealed one.
_TRUSTED: set[tuple[Path, str]] = set()


class ConfigFiles:
    """The part of a configuration class that reads and writes ``config.json``."""

    @classmethod
    def with_variants(cls, fields: Mapping[str, Any], new: Callable[[Any], Any]) -> dict[str, Any]:
        """Returns those of a configuration's ``fields`` that name variants, each replaced by
        ``new``.
        """
        return {"variant": new(fields["variant"])} if "variant" in fields else {}

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does; ``trust_remote_code=True`` lets a variant's own file run."""
        with _reading(name, kwargs.pop("trust_remote_code", None), kwargs):
            return super().from_pretrained(name, *args, **kwargs)  # type: ignore[misc]

    @classmethod
    def from_json_file(cls, name: Any, trust_remote_code: bool = False) -> Any:
        """Load a file as [`from_pretrained`][] does."""
        with _reading(name, trust_remote_code, {}):
            return cls.from_dict(cls._dict_from_json_file(name))  # type: ignore[attr-defined]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Returns the configuration; raises ``ValueError`` for a variant of its own that is not
        trusted.
        """
        reading = _READING.get()
        by_auto = reading is None and "name_or_path" in kwargs
        trust = kwargs.pop("trust_remote_code", False)
        reading = reading or _Reading(kwargs.get("name_or_path"), bool(trust))
        _check_kernels(reading, config_dict)

        def read(spec: Any) -> Any:
            if isinstance(spec, Loaded) or spec is None or not own.names_code(spec):
                return spec
            spec = reading.variant(spec)
            if not by_auto and (spec.folder, spec) not in _TRUSTED:
                spec.check()
                _TRUSTED.add((spec.folder, spec))
            return spec

        config_dict = {**config_dict, **cls.with_variants(config_dict, read)}
        made = super().from_dict(config_dict, **kwargs)  # type: ignore[misc]
        config = made[0] if isinstance(made, tuple) else made
        if not is_sealed(config):  # fields among kwargs were set without a check
            config.resolve()
        return made

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as transformers does, together with the file of a variant of the user's own."""
        folder = Path(save_directory)
        (folder / sealed.CHECKSUMS).unlink(missing_ok=True)  # of the files that are replaced now
        saved = self
        if any(own.names_code(spec) for spec in variants(self)):
            saved = copy.deepcopy(self)
            vars(saved).update(self.with_variants(vars(self), lambda spec: own.carry(spec, folder)))
        super(ConfigFiles, saved).save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]


class ModelFiles:
    """The part of a model class that reads folders."""

    @classmethod
    def from_pretrained(cls, name: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does, from safetensors alone.

        Args:
            trust_remote_code: whether code that the folder names may run.

        Raises ``ValueError`` where untrusted code would have to run, and for weights that do not
        match their checksums.
        """
        trust = kwargs.get("trust_remote_code")
        kwargs |= {"trust_remote_code": bool(trust)}
        kwargs.setdefault("use_safetensors", True)
        with _reading(name, trust, kwargs) as reading:
            if is_sealed(kwargs.get("config")):
                kwargs["config"] = _opened(kwargs["config"], reading)
            if name is not None and Path(name).is_dir():
                sealed.verify_folder(Path(name), "*.safetensors")
                _check_index(Path(name) / "model.safetensors.index.json")
            return super().from_pretrained(name, *args, **kwargs)  # type: ignore[misc]


def _check_index(path: Path) -> None:
    """Raise ``SoftmapError`` for an index of weights that names files outside of its folder."""
    weights = sealed.read_object(path).get("weight_map", {}) if path.exists() else {}
    if not isinstance(weights, dict):
        raise SoftmapError(f"{path}: expected files by weight, found {shown(weights)}")
    for name in weights.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise SoftmapError(f"{path}: expected names of files beside it, found {name!r}")


def variants(config: Any) -> list[Any]:
    """Returns the variants that a configuration names."""
    found: list[Any] = []
    if isinstance(config, ConfigFiles):
        config.with_variants(vars(config), found.append)
    return found


def is_sealed(config: Any) -> bool:
    """Whether a configuration names code that nobody has trusted yet."""
    return any(isinstance(spec, Loaded) and not spec.trusted for spec in variants(config))


def _opened(config: Any, reading: _Reading) -> Any:
    def trusted(spec: Any) -> Any:
        if not own.names_code(spec):
            return spec
        spec = reading.variant(spec)
        spec.check()
        _TRUSTED.add((spec.folder, spec))
        return spec

    config = copy.deepcopy(config)
    vars(config).update(config.with_variants(vars(config), trusted))
    config.resolve()
    return config


@contextmanager
def _reading(name: Any, trust: Any, options: Mapping[str, Any]) -> Iterator[_Reading]:
    """Set whether code is trusted for all that is read inside; nested calls inherit it."""
    outer = _READING.get() or _Reading()
    trusted = outer.trusted if trust is None else bool(trust)
    hub = {key: options[key] for key in _HUB if options.get(key) is not None}
    token = _READING.set(_Reading(name, trusted, hub))
    try:
        yield _READING.get()  # type: ignore[misc]
    finally:
        _READING.reset(token)


def _check_kernels(reading: _Reading, config: Mapping[str, Any]) -> None:
    for key in _KERNELS:
        value = config.get(key) or config.get(f"_{key}")
        if "/" in str(value) and not reading.trusted:
            raise SoftmapError(
                f"{reading.name or 'configuration'}: its {key} {value!r} would run code of the Hub"
            )


def _folder(name: Any, wanted: list[str], hub: Mapping[str, Any]) -> Path:
    """Returns the folder of a model's files, fetching those ``wanted`` from the Hub."""
    if name is None:
        return Path()
    path = Path(str(name))
    if path.is_file():
        return path.absolute().parent
    if path.is_dir():
        return path.absolute() / hub.get("subfolder", "")
    for file in wanted:
        if not Path(file).is_absolute():
            found = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub)
            path = path if found is None else Path(str(found).removesuffix(file))
    return path
