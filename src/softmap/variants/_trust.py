"""Whether a variant was named by a person, whose files may run, or by a file that was loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError


class Loaded(str):
    """The text of a variant as a loaded file (a model's ``config.json``, a recipe) names it.

    Attributes:
        folder: where relative ``.py`` files are looked for first.
        trusted: whether the user has said that its code may run; ``load`` refuses it otherwise.
    """

    folder: Path
    trusted: bool

    def __new__(cls, text: str, folder: Path | str, trusted: bool = False) -> Loaded:
        made = super().__new__(cls, text)
        made.folder, made.trusted = Path(folder), trusted
        return made

    def __getnewargs__(self) -> tuple[str, Path, bool]:  # type: ignore[override]
        return str(self), self.folder, self.trusted

    def check(self) -> None:
        """Raise ``ValueError`` in one line unless it is trusted."""
        if not self.trusted:
            place = "configuration" if self.folder == Path() else self.folder
            raise SoftmapError(
                f"{place}: its variant {str(self)!r} would run code of its own; if you trust it, "
                "pass trust_remote_code=True to from_pretrained (softmap generate: "
                "--trust-remote-code)"
            )


def located(where: str, spec: Any) -> str:
    """Returns the absolute path of a file ``where`` that ``spec`` names, beside the loaded file
    if it is there.
    """
    if not where.endswith(".py"):
        return where
    if isinstance(spec, Loaded) and (spec.folder / where).is_file():
        return str((spec.folder / where).absolute())
    return str(Path(where).absolute())
